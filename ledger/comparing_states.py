"""Two states compared on the same edits, edit by edit: is one better, and by more than chance?

Both are scored now, in the same batches, so that nothing but the states differs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ledger import database
from ledger.compared_edits import Compared, choose
from ledger.diffing import side_at
from ledger.diffing_facts import Side
from ledger.intervals import Paired, paired
from ledger.jobs import Crew
from ledger.new_turn import NewEvaluation
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.recording import record_evaluation
from ledger.refs import Rev
from ledger.suites.asking import Done, Outcome, done, parts
from ledger.suites.teacher_forced import AskBase, AskState
from ledger.turn import SAMPLE
from ledger.workspace import Ledger
from patches import evaluation
from patches.edit import Edit
from patches.evaluation import METRICS, TOKENS, Scores

COMPARISON, WITH, DTYPE, OF = "comparison", "with", "dtype", "of"
"""In the protocol of what is recorded: which sample it is, the hash of the other state (None: the
base), the dtype that the crew was asked for, and the hash of the turn whose edits these are (None:
edits that hold in both states)."""
LESS_IS_BETTER = ("perplexity", "routed_locality")


@dataclass(frozen=True, kw_only=True)
class Flip:
    """An edit whose whole answer is right in one of the states only. gained: in B. turn: the number
    of the one that made it. a, b: token accuracy."""

    turn: int
    row: int | None
    prompt: str
    target: str
    gained: bool
    a: float
    b: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How state B fares beside state A on the same n edits.

    scope: the number of the turn whose edits these are; None: those that hold in both states.
    drawn_from: how many there are. not_in_both, without_texts: those that were left out, see
    `ledger.compared_edits.Compared`. metrics: those that some edits have in both states; better and
    worse mean that, also where less is better. flipped: those gained first.
    """

    a: Side
    b: Side
    scope: int | None
    n: int
    drawn_from: int
    not_in_both: int
    without_texts: int
    protocol: dict[str, Any]
    seed: int
    metrics: Mapping[str, Paired]
    flipped: Sequence[Flip]
    seconds: float

    @property
    def gained(self) -> int:
        return sum(one.gained for one in self.flipped)

    @property
    def lost(self) -> int:
        return len(self.flipped) - self.gained

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger evaluate --compare --json``; fields are only ever added."""
        return {
            "a": {"turn": self.a.turn, "hash": self.a.hash},
            "b": {"turn": self.b.turn, "hash": self.b.hash},
            "scope": "in_force" if self.scope is None else self.scope,
            "n": self.n,
            "drawn_from": self.drawn_from,
            "not_in_both": self.not_in_both,
            "without_texts": self.without_texts,
            "protocol": self.protocol,
            "seed": self.seed,
            "metrics": {name: one.to_json() for name, one in self.metrics.items()},
            "gained": self.gained,
            "lost": self.lost,
            "flipped": [one.to_json() for one in self.flipped],
            "seconds": self.seconds,
        }


def compare_states(
    ledger: Ledger,
    crew: Crew,
    a: Rev,
    b: Rev,
    *,
    turn: Rev | None = None,
    sample: int | None = None,
    seed: int = 0,
    dtype: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Score the states after turns `a` and `b`, which may be on any branch (0: the base), on the
    same edits, and record the scores of those that are turns.

    turn: on the edits of this turn; default: on those that hold in both states, or in the other if
    one is the base. sample: on so many of them, drawn by the seed. dtype: what the crew runs the
    model in. Raises HistoryError if there is nothing to score, SettingError if a size makes no
    sense.
    """
    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        sides = side_at(session, ledger, a), side_at(session, ledger, b)
        chosen = choose(session, ledger, *sides, turn=turn, sample=sample, seed=seed)
    protocol = {
        **evaluation.PROTOCOL,
        SAMPLE: COMPARISON,
        DTYPE: dtype,
        OF: chosen.of and chosen.of[1],
    }
    found = _score(crew, chosen, sides, progress)
    _record(ledger, chosen, sides, found, protocol, seed)
    before, after = (_scores(side, found) for side in sides)
    return Comparison(
        a=sides[0],
        b=sides[1],
        scope=chosen.of and chosen.of[0],
        n=len(chosen.edits),
        drawn_from=chosen.drawn_from,
        not_in_both=chosen.not_in_both,
        without_texts=chosen.without_texts,
        protocol=protocol,
        seed=seed,
        metrics=_metrics(before, after, seed),
        flipped=_flipped(chosen, before, after),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """What came of one state."""

    outcomes: Sequence[Outcome]
    environment: dict[str, Any]
    seconds: float


def _score(
    crew: Crew, chosen: Compared, sides: tuple[Side, Side], progress: Progress
) -> dict[int, _Scored]:
    """Row id of each turn after which one of the states is → its outcomes, in the order of the
    edits."""
    # Side memories are asked freely too, as they are by other evaluations.
    freely = any(step.has_memory for side in sides for step in side.used)
    cut: list[tuple[Edit, ...]] = list(parts([one.edit for one in chosen.edits]))
    asked = [AskBase(edits=edits, freely=freely) for edits in cut]
    base = done(crew, asked, phase="evaluate base", progress=progress)
    states = list(dict.fromkeys(side.turn_id for side in sides if side.turn_id is not None))
    jobs = [
        AskState(at=at, edits=edits, freely=freely, base=answers.value)
        for at in states
        for edits, answers in zip(cut, base, strict=True)
    ]
    found = done(crew, jobs, phase="evaluate", progress=progress)
    size = len(cut)
    return {at: _joined(found[i * size : (i + 1) * size]) for i, at in enumerate(states)}


def _joined(some: Sequence[Done[list[Outcome]]]) -> _Scored:
    return _Scored(
        outcomes=[outcome for one in some for outcome in one.value],
        environment=some[0].environment,
        seconds=sum(one.seconds for one in some),
    )


def _scores(side: Side, found: Mapping[int, _Scored]) -> list[Scores]:
    """Of each edit in this state. The base was scored beside every other state."""
    if side.turn_id is not None:
        return [state for _, state in found[side.turn_id].outcomes]
    return [base for base, _ in next(iter(found.values())).outcomes]


def _record(
    ledger: Ledger,
    chosen: Compared,
    sides: tuple[Side, Side],
    found: Mapping[int, _Scored],
    protocol: Mapping[str, Any],
    seed: int,
) -> None:
    edits = [(one.id, one.digest) for one in chosen.edits]
    others = {side.turn_id: other.hash for side, other in zip(sides, sides[::-1], strict=True)}
    with database.writing(ledger.engine) as session:
        for turn_id, scored in found.items():
            new = NewEvaluation(
                protocol={**protocol, WITH: others[turn_id]},
                seed=seed,
                base=evaluation.summary(base for base, _ in scored.outcomes),
                state=evaluation.summary(state for _, state in scored.outcomes),
                outcomes=scored.outcomes,
                environment=scored.environment,
                seconds=scored.seconds,
            )
            record_evaluation(
                session,
                session.get_one(TurnRow, turn_id),
                new,
                scope_turn=None,
                edits=edits,
                now=datetime.now(UTC),
                sample=True,
            )


def _metrics(before: Sequence[Scores], after: Sequence[Scores], seed: int) -> dict[str, Paired]:
    # The same edits have the same locality tokens in both states.
    tokens = [row[TOKENS] or 0.0 for row in before]
    found = {}
    for metric in METRICS:
        compared = paired(
            [row[metric] for row in before],
            [row[metric] for row in after],
            weights=tokens if metric == "stability" else None,
            seed=seed,
        )
        if metric in LESS_IS_BETTER:
            compared = replace(compared, better=compared.worse, worse=compared.better)
        if compared.n:
            found[metric] = compared
    return found


def _flipped(chosen: Compared, before: Sequence[Scores], after: Sequence[Scores]) -> list[Flip]:
    found = []
    for asked, one, other in zip(chosen.edits, before, after, strict=True):
        a, b = one["edit_success"], other["edit_success"]
        # What is too long for the model has no score.
        if a is not None and b is not None and (a == 1) != (b == 1):
            flip = Flip(
                turn=asked.turn,
                row=asked.row,
                prompt=asked.edit.prompt,
                target=asked.edit.target,
                gained=b == 1,
                a=a,
                b=b,
            )
            found.append(flip)
    return sorted(found, key=lambda flip: not flip.gained)
