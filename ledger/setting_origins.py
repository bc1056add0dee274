"""What counts for a method in a ledger when nothing is said, and where that comes from."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from ledger import settings
from ledger.models import empty_model
from ledger.settings import MODULES, Settings
from ledger.workspace import Ledger
from patches.editors.search_space import SPACES


@dataclass(frozen=True, kw_only=True)
class InForce:
    """modules: of the method by default, or as chosen. source: ``family``, where somebody has tuned
    the modules for this model; ``rule``, where they follow from its depth; or ``chosen``.

    chosen: the newest choice, which may be to have none.
    """

    method: str
    modules: tuple[str, ...]
    source: str
    chosen: Settings | None

    @property
    def values(self) -> dict[str, Any]:
        """What was chosen, but for the modules."""
        known = {} if self.chosen is None else self.chosen.values
        return {name: value for name, value in known.items() if name != MODULES}

    def to_json(self) -> dict[str, Any]:
        """A method in ``ledger settings --json``; fields are only ever added."""
        return {
            "method": self.method,
            "modules": list(self.modules),
            "modules_from": self.source,
            "values": self.values,
            "chosen": None if self.chosen is None else self.chosen.to_json(),
        }


def in_force(ledger: Ledger) -> list[InForce]:
    """For every method, what counts when nothing is said."""
    model = empty_model(ledger.checkpoint.folder)
    return [_in_force(ledger, method, model) for method in SPACES]


def _in_force(ledger: Ledger, method: str, model: nn.Module) -> InForce:
    found = settings.chosen(ledger, method)
    modules = () if found is None else tuple(found.values.get(MODULES, ()))
    source = "chosen"
    if not modules:
        modules, note = SPACES[method].modules(model)
        source = "family" if note is None else "rule"
    return InForce(method=method, modules=modules, source=source, chosen=found)
