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
    from ledger.attesting import Attestation, attest, read_attestation, write_attestation
    from ledger.bisecting import Bisected, bisect
    from ledger.bisecting_script import BisectedByScript, bisect_script
    from ledger.blaming import Blame, Blamed, Held, blame, blame_all
    from ledger.blaming_answers import Answered, Answers, ask_around
    from ledger.branch_lock import working_on
    from ledger.branching import (
        Move,
        Ref,
        create_branch,
        create_tag,
        delete_branch,
        delete_tag,
        list_branches,
        list_tags,
        reflog,
        switch,
    )
    from ledger.cleaning import Garbage, collect_garbage
    from ledger.diffing import Diff, diff
    from ledger.editing import Added, AddEdits, Plan, Run, add_edits, plan_edits
    from ledger.evaluating import Evaluated, evaluate
    from ledger.exporting import Exported, export
    from ledger.finding import Wanted
    from ledger.gates import Gate
    from ledger.import_turn import Imported
    from ledger.importing import import_adapter, import_difference
    from ledger.initialising import Initialised, init
    from ledger.joining import Joined, merge_branch
    from ledger.loading import load_patched
    from ledger.merge_plan import MergeBranch, plan_merge
    from ledger.merging import Merged, merge_shards
    from ledger.moving_database import CopiedDatabase, copy_database
    from ledger.page.app import create_app
    from ledger.page.report import Report, report
    from ledger.picking import Picked, cherry_pick
    from ledger.replaying import Replay, Replayed, replay
    from ledger.reporting import Status, TurnDetails, log, show, status
    from ledger.rolling_back import RolledBack, rollback_to, rollback_turn
    from ledger.routing import Routed, route
    from ledger.searching import Found, Hit, search
    from ledger.sharing.publishing import Pushed, push
    from ledger.sharing.pulling import Pulled, clone, pull
    from ledger.sharing.staging import Push
    from ledger.squashing import Squashed, squash
    from ledger.tree import Node, graph
    from ledger.trying import Tried, Trying
    from ledger.verifying import Problem, Verified, verify
    from ledger.verifying_checkpoint import verify_checkpoint
    from ledger.verifying_since import Remembered, Since, remembered
    from ledger.waiting import Waiting
    from ledger.workspace import Ledger, open_ledger
    from patches.errors import EditLedgerError
    from patches.kept_weights import KeptWeights
    from patches.merging import Merge

_HOMES = {
    "ledger.applying": ("Applied", "apply_to_folder", "apply_to_model"),
    "ledger.attesting": ("Attestation", "attest", "read_attestation", "write_attestation"),
    "ledger.bisecting": ("Bisected", "bisect"),
    "ledger.bisecting_script": ("BisectedByScript", "bisect_script"),
    "ledger.blaming": ("Blame", "Blamed", "Held", "blame", "blame_all"),
    "ledger.blaming_answers": ("Answered", "Answers", "ask_around"),
    "ledger.branch_lock": ("working_on",),
    "ledger.cleaning": ("Garbage", "collect_garbage"),
    "ledger.diffing": ("Diff", "diff"),
    "ledger.branching": (
        *("Move", "Ref", "create_branch", "create_tag", "delete_branch", "delete_tag"),
        *("list_branches", "list_tags", "reflog", "switch"),
    ),
    "ledger.editing": ("AddEdits", "Added", "Plan", "Run", "add_edits", "plan_edits"),
    "ledger.evaluating": ("Evaluated", "evaluate"),
    "ledger.exporting": ("Exported", "export"),
    "ledger.finding": ("Wanted",),
    "ledger.gates": ("Gate",),
    "ledger.import_turn": ("Imported",),
    "ledger.importing": ("import_adapter", "import_difference"),
    "ledger.initialising": ("Initialised", "init"),
    "ledger.joining": ("Joined", "merge_branch"),
    "ledger.loading": ("load_patched",),
    "ledger.merge_plan": ("MergeBranch", "plan_merge"),
    "ledger.merging": ("Merged", "merge_shards"),
    "ledger.moving_database": ("CopiedDatabase", "copy_database"),
    "ledger.sharing.publishing": ("Pushed", "push"),
    "ledger.searching": ("Found", "Hit", "search"),
    "ledger.sharing.pulling": ("Pulled", "clone", "pull"),
    "ledger.page.app": ("create_app",),
    "ledger.page.report": ("Report", "report"),
    "ledger.picking": ("Picked", "cherry_pick"),
    "ledger.replaying": ("Replay", "Replayed", "replay"),
    "ledger.reporting": ("Status", "TurnDetails", "log", "show", "status"),
    "ledger.rolling_back": ("RolledBack", "rollback_to", "rollback_turn"),
    "ledger.routing": ("Routed", "route"),
    "ledger.sharing.staging": ("Push",),
    "ledger.squashing": ("Squashed", "squash"),
    "ledger.tree": ("Node", "graph"),
    "ledger.trying": ("Tried", "Trying"),
    "ledger.verifying": ("Problem", "Verified", "verify"),
    "ledger.verifying_checkpoint": ("verify_checkpoint",),
    "ledger.verifying_since": ("Remembered", "Since", "remembered"),
    "ledger.waiting": ("Waiting",),
    "ledger.workspace": ("Ledger", "open_ledger"),
    "patches.errors": ("EditLedgerError",),
    "patches.kept_weights": ("KeptWeights",),
    "patches.merging": ("Merge",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AddEdits",
    "Added",
    "Answered",
    "Answers",
    "Applied",
    "Attestation",
    "Bisected",
    "BisectedByScript",
    "Blame",
    "Blamed",
    "CopiedDatabase",
    "Diff",
    "EditLedgerError",
    "Evaluated",
    "Exported",
    "Found",
    "Garbage",
    "Gate",
    "Held",
    "Hit",
    "Imported",
    "Initialised",
    "Joined",
    "KeptWeights",
    "Ledger",
    "Merge",
    "MergeBranch",
    "Merged",
    "Move",
    "Node",
    "Picked",
    "Plan",
    "Problem",
    "Pulled",
    "Push",
    "Pushed",
    "Ref",
    "Remembered",
    "Replay",
    "Replayed",
    "Report",
    "RolledBack",
    "Routed",
    "Run",
    "Since",
    "Squashed",
    "Status",
    "Tried",
    "Trying",
    "TurnDetails",
    "Verified",
    "Waiting",
    "Wanted",
    "add_edits",
    "apply_to_folder",
    "apply_to_model",
    "ask_around",
    "attest",
    "bisect",
    "bisect_script",
    "blame",
    "blame_all",
    "cherry_pick",
    "clone",
    "collect_garbage",
    "copy_database",
    "create_app",
    "create_branch",
    "create_tag",
    "delete_branch",
    "delete_tag",
    "diff",
    "evaluate",
    "export",
    "graph",
    "import_adapter",
    "import_difference",
    "init",
    "list_branches",
    "list_tags",
    "load_patched",
    "log",
    "merge_branch",
    "merge_shards",
    "open_ledger",
    "plan_edits",
    "plan_merge",
    "pull",
    "push",
    "read_attestation",
    "reflog",
    "remembered",
    "replay",
    "report",
    "rollback_to",
    "rollback_turn",
    "route",
    "search",
    "show",
    "squash",
    "status",
    "switch",
    "verify",
    "verify_checkpoint",
    "working_on",
    "write_attestation",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'ledger' has no attribute {name!r}")
    return getattr(import_module(home), name)
