"""What every editing method offers to the run that uses it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from patches.edit import Edit
from patches.errors import SettingError
from patches.live import LiveModel
from patches.patch import Change
from patches.tokens import Encoded


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a user asks of a run.

    modules: names or patterns.  assignments: hyperparameter → text.
    outside: sentences about other things, for the methods that keep some prompts apart.
    """

    modules: Sequence[str] = ()
    assignments: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    outside: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The edits of one turn, and each one's prompt and target as tokens."""

    edits: Sequence[Edit]
    encoded: Sequence[Encoded]

    def told(self, index: int) -> str:
        """The edit with this index, as an error names it."""
        return f"edit {index + 1} of the turn, {self.edits[index].prompt!r},"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Complete hyperparameters of a run (JSON values), and what the user should know of them."""

    hyperparameters: dict[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """What one turn came to.

    changes: by checkpoint tensor.  state: what this turn adds to the editor state.
    figures: what the method has to tell of the turn, e.g. the loss before it; JSON values.
    seconds: per phase.  notes: what the user should know of this turn.
    """

    changes: dict[str, Change]
    state: dict[str, Tensor]
    figures: dict[str, Any]
    seconds: dict[str, float]
    notes: tuple[str, ...] = ()


class Editor(Protocol):
    """A method at work on one live model, turn after turn. turn_size: edits per turn by default."""

    method: ClassVar[str]
    turn_size: ClassVar[int]

    @classmethod
    def prepare(cls, live: LiveModel, tokenizer: Any, request: Request) -> Prepared:
        """Defaults for this model, completed by what the user asks for; SettingError if wrong."""
        ...

    @classmethod
    def start(
        cls,
        live: LiveModel,
        tokenizer: Any,
        hyperparameters: Mapping[str, Any],
        states: Iterable[Mapping[str, Tensor]],
        *,
        seed: int = 0,
    ) -> Self:
        """An editor that goes on after the turns in force, whose states are given in order."""
        ...

    @classmethod
    def folded(cls, states: Iterable[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """One state that is worth the row of `states`: `start` goes on from it to the same bits."""
        ...

    def edit(self, facts: Facts, *, progress: Callable[[int], None] = lambda _done: None) -> Result:
        """Solve one turn; neither model nor editor is changed. progress gets the edits done."""
        ...

    def accept(self, result: Result) -> None:
        """The turn was recorded: its state counts from now on."""
        ...


def parse_assignments(
    assignments: Mapping[str, str], kinds: Mapping[str, Callable[[str], Any]]
) -> dict[str, Any]:
    """Texts to values. kinds: hyperparameter → how to read it. SettingError names what is wrong."""
    values: dict[str, Any] = {}
    for name, text in assignments.items():
        if name not in kinds:
            raise SettingError(f"no hyperparameter {name!r}; there are {', '.join(sorted(kinds))}")
        try:
            values[name] = kinds[name](text)
        except ValueError as error:
            raise SettingError(f"--set {name}={text}: not a usable value ({error})") from error
    return values
