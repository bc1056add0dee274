"""What a run of edits is asked for, what it would record, and what it has recorded."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.conflicts import OVERRIDE, POLICIES, Conflict
from ledger.datasets import Dataset
from ledger.gates import RETENTION, Gate, Verdict
from ledger.retaining import Retained
from ledger.selection import Selection
from ledger.sentences import read_sentences
from patches.editors import EDITORS, Request
from patches.errors import SettingError

# Of a turn's edits, so many earlier ones are scored again.
_RETENTION = 10


def check_conflict_options(on_conflict: str, retention: int | None) -> None:
    """SettingError if they are none."""
    if on_conflict not in POLICIES:
        raise SettingError(f"--on-conflict is one of {', '.join(POLICIES)}, not {on_conflict!r}")
    if retention is not None and retention < 0:
        raise SettingError(f"--retention counts edits, so give 0 or more, not {retention}")


def check_gate(gate: Gate | None, retention: int | None, *, evaluate: bool) -> None:
    """SettingError if a turn would not have the scores that the gate looks at."""
    if gate is not None and not evaluate:
        raise SettingError("--gate looks at the scores of a turn: leave out --no-evaluate")
    if gate is not None and retention == 0 and RETENTION in gate.metrics:
        raise SettingError("--gate asks for retention: leave out --retention 0")


def sample_size(retention: int | None, turn_size: int, *, evaluate: bool) -> int:
    """How many earlier edits are scored after a turn of `turn_size`, by default one in ten."""
    if retention is not None:
        return retention
    return max(turn_size // _RETENTION, 1) if evaluate else 0


@dataclass(frozen=True, kw_only=True)
class AddEdits:
    """What to add, and how.

    source: a file or ``hf://datasets/…`` address. modules: names or patterns; settings:
    hyperparameter → text. turn_size: edits per turn, by default what suits the method. locality: a
    file of sentences about other things, for methods that keep some prompts apart. resume: go on
    as the last turn from this dataset did. on_conflict: what becomes of a row that answers a
    question otherwise than what holds: override, skip, or abort. retention: earlier edits to score
    again after each turn, by default one for ten of the turn, none without `evaluate`. gate: what
    a turn must score to be in force.
    """

    source: str
    turn_size: int | None = None
    method: str = "ultraedit"
    modules: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    mapping: dict[str, str] = field(default_factory=dict)
    locality: Path | None = None
    licence: str | None = None
    offset: int = 0
    limit: int | None = None
    message: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    evaluate: bool = True
    resume: bool = False
    on_conflict: str = OVERRIDE
    retention: int | None = None
    gate: Gate | None = None

    def __post_init__(self) -> None:
        if self.turn_size is not None and self.turn_size < 1:
            raise SettingError(f"--turn-size must be at least 1, not {self.turn_size}")
        if self.method not in EDITORS:
            raise SettingError(f"--method is one of {', '.join(EDITORS)}, not {self.method!r}")
        check_conflict_options(self.on_conflict, self.retention)
        check_gate(self.gate, self.retention, evaluate=self.evaluate)
        if self.resume and (self.modules or self.settings or self.locality):
            raise SettingError(
                "--resume goes on with the settings of the interrupted run: leave out --set, "
                "--modules and --locality, or leave out --resume"
            )

    def request(self) -> Request:
        """What the editor is asked for; DatasetError if the file of sentences is not usable."""
        return Request(
            modules=self.modules,
            assignments=self.settings,
            seed=self.seed,
            outside=None if self.locality is None else read_sentences(self.locality),
        )


@dataclass(frozen=True, kw_only=True)
class Added:
    """One turn that was recorded, with its skipped rows and, unless left out, its scores.

    overrides: its conflicts with facts that held before. retention: how earlier edits are kept, if
    a sample was scored. copied_from: hash of the turn that was edited again. gate: what the gate
    said, if there was one; a turn that failed was undone by the next.
    """

    turn: int
    edits: int
    skipped: list[tuple[int, str]]
    overrides: list[Conflict]
    patch_bytes: int
    seconds: dict[str, float]
    figures: dict[str, Any]
    notes: list[str]
    scores: dict[str, Any] | None
    retention: Retained | None
    copied_from: str | None = None
    gate: Verdict | None = None

    @property
    def rejected(self) -> bool:
        return self.gate is not None and not self.gate.passed

    def to_json(self) -> dict[str, Any]:
        """A turn in ``ledger add-edits --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "edits": self.edits,
            "skipped": [{"row": row, "reason": reason} for row, reason in self.skipped],
            "overrides": [conflict.to_json() for conflict in self.overrides],
            "patch_bytes": self.patch_bytes,
            "seconds": self.seconds,
            "figures": self.figures,
            "notes": self.notes,
            "scores": self.scores,
            "retention": None if self.retention is None else self.retention.to_json(),
            "copied_from": self.copied_from,
            "gate": None if self.gate is None else self.gate.to_json(),
            "rejected": self.rejected,
        }


@dataclass(kw_only=True)
class Run:
    """A run of edits; iterate `turns` to make it happen. counts grow as it goes."""

    dataset: Dataset
    hyperparameters: dict[str, Any]
    notes: tuple[str, ...]
    counts: Selection
    turns: Iterator[Added]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would record. turns: edits per turn; skipped: (row, reason).

    conflicts: rows that would override what holds then, or stop the run.
    """

    dataset: Dataset
    turns: list[int]
    skipped: list[tuple[int, str]]
    conflicts: list[Conflict]
    known: int

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": {
                "uri": self.dataset.uri,
                "sha256": self.dataset.sha256,
                "format": self.dataset.format,
                "layout": self.dataset.layout,
            },
            "turns": self.turns,
            "edits": sum(self.turns),
            "skipped": [{"row": row, "reason": reason} for row, reason in self.skipped],
            "conflicts": [conflict.to_json() for conflict in self.conflicts],
            "known": self.known,
        }
