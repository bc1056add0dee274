"""What happened to a model, in order: turns of knowledge edits, recorded, applied, rolled back.

    from ledger import AddEdits, add_edits, apply_to_model, init, open_ledger, rollback_turn

    ledger = init("path/to/model").ledger          # or open_ledger()
    for turn in add_edits(ledger, AddEdits(source="facts.json")).turns:
        print(turn.turn, turn.scores)
    apply_to_model(ledger, model)                  # any nn.Module of that base, on any device
    rollback_turn(ledger, 3)

Names are imported when first used, so that reading a history does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ledger.applying import Applied, apply_to_folder, apply_to_model
    from ledger.editing import Added, AddEdits, Plan, Run, add_edits, plan_edits
    from ledger.evaluating import Evaluated, evaluate
    from ledger.exporting import Exported, export
    from ledger.import_turn import Imported
    from ledger.importing import import_adapter, import_difference
    from ledger.initialising import Initialised, init
    from ledger.loading import load_patched
    from ledger.merging import Merged, merge_shards
    from ledger.reporting import Status, TurnDetails, log, show, status
    from ledger.rolling_back import RolledBack, rollback_to, rollback_turn
    from ledger.routing import Routed, route
    from ledger.sharing.publishing import Pushed, push
    from ledger.sharing.pulling import Pulled, clone, pull
    from ledger.sharing.staging import Push
    from ledger.verifying import Problem, Verified, verify
    from ledger.verifying_checkpoint import verify_checkpoint
    from ledger.workspace import Ledger, open_ledger
    from patches.errors import EditLedgerError
    from patches.merging import Merge

_HOMES = {
    "ledger.applying": ("Applied", "apply_to_folder", "apply_to_model"),
    "ledger.editing": ("AddEdits", "Added", "Plan", "Run", "add_edits", "plan_edits"),
    "ledger.evaluating": ("Evaluated", "evaluate"),
    "ledger.exporting": ("Exported", "export"),
    "ledger.import_turn": ("Imported",),
    "ledger.importing": ("import_adapter", "import_difference"),
    "ledger.initialising": ("Initialised", "init"),
    "ledger.loading": ("load_patched",),
    "ledger.merging": ("Merged", "merge_shards"),
    "ledger.sharing.publishing": ("Pushed", "push"),
    "ledger.sharing.pulling": ("Pulled", "clone", "pull"),
    "ledger.reporting": ("Status", "TurnDetails", "log", "show", "status"),
    "ledger.rolling_back": ("RolledBack", "rollback_to", "rollback_turn"),
    "ledger.routing": ("Routed", "route"),
    "ledger.sharing.staging": ("Push",),
    "ledger.verifying": ("Problem", "Verified", "verify"),
    "ledger.verifying_checkpoint": ("verify_checkpoint",),
    "ledger.workspace": ("Ledger", "open_ledger"),
    "patches.errors": ("EditLedgerError",),
    "patches.merging": ("Merge",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AddEdits",
    "Added",
    "Applied",
    "EditLedgerError",
    "Evaluated",
    "Exported",
    "Imported",
    "Initialised",
    "Ledger",
    "Merge",
    "Merged",
    "Plan",
    "Problem",
    "Pulled",
    "Push",
    "Pushed",
    "RolledBack",
    "Routed",
    "Run",
    "Status",
    "TurnDetails",
    "Verified",
    "add_edits",
    "apply_to_folder",
    "apply_to_model",
    "clone",
    "evaluate",
    "export",
    "import_adapter",
    "import_difference",
    "init",
    "load_patched",
    "log",
    "merge_shards",
    "open_ledger",
    "plan_edits",
    "pull",
    "push",
    "rollback_to",
    "rollback_turn",
    "route",
    "show",
    "status",
    "verify",
    "verify_checkpoint",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'ledger' has no attribute {name!r}")
    return getattr(import_module(home), name)
