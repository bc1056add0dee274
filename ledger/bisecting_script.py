"""The turn at which a script's verdict changes, as `git bisect run` finds a commit."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ledger import database
from ledger.applying import apply_to_folder
from ledger.bisecting import Change, Culprit, Span, culprit, narrow, open_span
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.workspace import Ledger
from patches.errors import HistoryError

Script = Callable[[Path, int], int]
"""Judges a state: called with the folder of its checkpoint and its turn, it gives an exit status as
`git bisect run` takes it: 0 good, 125 cannot be told, 1 to 127 bad, others stop the search."""
Verdict = Literal["good", "bad", "skip"]
_CANNOT_TELL, _WORST = 125, 127


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What the script said of the state after a turn. exit: its exit status."""

    turn: int
    verdict: Verdict
    exit: int


@dataclass(frozen=True, kw_only=True)
class BisectedByScript:
    """Where the verdict changed. turns: how many the range had. steps: in the order of trying.

    culprits: the turn; several if those between them were all skipped. change: ``lost`` if states
    were good before, ``gained`` if they are good since.
    """

    turns: int
    change: Change
    steps: list[Judged]
    culprits: list[Culprit]

    @property
    def turn(self) -> int | None:
        """The culprit, if there is only one."""
        return self.culprits[0].turn if len(self.culprits) == 1 else None

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger bisect --script … --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "change": self.change,
            "turns": self.turns,
            "steps": [asdict(step) for step in self.steps],
            "culprit": None if self.turn is None else self.culprits[0].to_json(),
            "candidates": [one.to_json() for one in self.culprits],
        }


def bisect_script(
    ledger: Ledger,
    script: Script,
    *,
    first: Rev = 0,
    last: Rev | None = None,
    progress: Progress = silent,
) -> BisectedByScript:
    """Find the turn after `first`, up to `last` (default: the head), at which the verdict of
    `script` changes.

    Each state is written into one and the same folder, its unchanged files as hard links to the
    base's: the script must not write into files that it finds there. HistoryError if both ends get
    the same verdict, one cannot be judged, or the script asks to stop.
    """
    span = open_span(ledger, first, last)
    with tempfile.TemporaryDirectory(prefix=".bisect-", dir=ledger.folder) as scratch:
        trying = _Trying(ledger, span, script, Path(scratch) / "model", progress)
        change = _check_ends(trying.at(span.first), trying.at(span.last))
        end = trying.at(span.last)

        def like_last(turn: int) -> bool | None:
            verdict = trying.at(turn).verdict
            return None if verdict == "skip" else verdict == end.verdict

        before, after = narrow(span.first, span.last, like_last)
    with database.reading(ledger.engine) as session:
        culprits = [culprit(session, span.steps, turn) for turn in range(before + 1, after + 1)]
    return BisectedByScript(
        turns=span.last - span.first,
        change=change,
        steps=list(trying.tried.values()),
        culprits=culprits,
    )


def _check_ends(first: Judged, last: Judged) -> Change:
    for end in (first, last):
        if end.verdict == "skip":
            raise HistoryError(
                f"the script skips turn {end.turn} (exit status {end.exit}), an end of the range; "
                "give --from and --to that it can judge"
            )
    if first.verdict == last.verdict:
        raise HistoryError(
            f"the script says {last.verdict} at both ends: exit status {first.exit} at turn "
            f"{first.turn}, {last.exit} at turn {last.turn}. Give --from and --to between which it "
            "changes, and check that it runs on a folder that ledger apply wrote"
        )
    return "gained" if last.verdict == "good" else "lost"


class _Trying:
    """The script, run on the states of a line; each one once. tried: by turn, in order."""

    def __init__(
        self, ledger: Ledger, span: Span, script: Script, folder: Path, progress: Progress
    ) -> None:
        self.tried: dict[int, Judged] = {}
        self._ledger = ledger
        self._span = span
        self._script = script
        self._folder = folder
        self._progress = progress

    def at(self, turn: int) -> Judged:
        if turn not in self.tried:
            self.tried[turn] = self._judge(turn)
        return self.tried[turn]

    def _judge(self, turn: int) -> Judged:
        # What a script has left in the folder must not reach the next state.
        shutil.rmtree(self._folder, ignore_errors=True)
        # By its hash: the line may be another than that of the branch at hand.
        at = self._span.steps[turn - 1].hash if turn else 0
        apply_to_folder(self._ledger, self._folder, at=at, link=True, progress=self._progress)
        status = self._script(self._folder, turn)
        if not 0 <= status <= _WORST:
            raise HistoryError(
                f"the script ended with status {status} at turn {turn}, which stops the search: "
                f"0 is good, {_CANNOT_TELL} skips, others up to {_WORST} are bad"
            )
        verdict: Verdict = "skip" if status == _CANNOT_TELL else "bad" if status else "good"
        return Judged(turn=turn, verdict=verdict, exit=status)
