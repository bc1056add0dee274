"""The suite `retention`: each earlier turn's edits at each later state, a triangle.

Every cell is recorded, at the turn after which its state is, as soon as it is done: a run that was
cut off goes on where it stopped, and a longer history only costs its new cells. Scores are
teacher-forced; nothing is generated, also where there are side memories.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database
from ledger.history import chunks
from ledger.jobs import Crew
from ledger.new_turn import NewEvaluation
from ledger.orm import EvaluationRow, OutcomeRow, TurnRow
from ledger.progress import Progress, silent
from ledger.recording import record_evaluation
from ledger.refs import Rev
from ledger.suites.asking import Done, Outcome, done, parts
from ledger.suites.retention_plan import Asked, Followed, Plan, Sampled, plan
from ledger.suites.teacher_forced import AskBase, AskState, Pairs
from ledger.suites.triangle import Triangle, triangle
from ledger.turn import RETENTION
from ledger.workspace import Ledger
from patches import evaluation
from patches.edit import Edit
from patches.evaluation import Answered

SAMPLE, STATES = 20, 20
"""Edits per turn, and states, unless the user says otherwise."""
SUITE, PER_TURN, DTYPE, OF = "suite", "per_turn", "dtype", "of"
"""In the protocol of a cell: the suite's name, the size of a turn's sample, the dtype that the crew
was asked for, and the hash of the turn whose edits these are."""


def retention(
    ledger: Ledger,
    crew: Crew,
    *,
    at: Rev | None = None,
    sample: int = SAMPLE,
    states: int = STATES,
    seed: int = 0,
    dtype: str | None = None,
    progress: Progress = silent,
) -> Triangle:
    """Score a sample of the edits of each turn in force after `at` (default: the head of the
    branch) at the state after each turn since, and record the scores.

    sample: edits per turn at most, drawn by the seed. states: how many at most. dtype: what the
    crew runs the model in; cells that were recorded in another are scored again. Raises
    HistoryError if there is nothing to score, SettingError if a size makes no sense.
    """
    started = time.perf_counter()
    made = plan(ledger, at=at, sample=sample, states=states, seed=seed)
    protocol = {**evaluation.PROTOCOL, SUITE: RETENTION, PER_TURN: sample, DTYPE: dtype}
    with database.reading(ledger.engine) as session:
        found = _recorded(session, made, protocol, seed)
    made = made.possible(found)
    missing = [asked for asked in made.cells if asked.key not in found]
    base = _ask_base(crew, _followed(made, missing), progress)
    for asked, new in _score(crew, missing, base, protocol, seed, progress):
        _record(ledger, asked, new)
        found[asked.key] = new.outcomes
    return triangle(
        made,
        found,
        protocol=protocol,
        seed=seed,
        sample=sample,
        scored=len(missing),
        seconds=time.perf_counter() - started,
    )


def _followed(made: Plan, missing: Sequence[Asked]) -> list[Followed]:
    """The turns of the missing cells."""
    wanted = {asked.of.id for asked in missing}
    return [one for one in made.followed if one.step.id in wanted]


def _parts(edits: Sequence[Sampled]) -> Iterator[tuple[Edit, ...]]:
    return parts([sampled.edit for sampled in edits])


def _ask_base(crew: Crew, followed: Sequence[Followed], progress: Progress) -> dict[int, Pairs]:
    """Row id of a turn → what the base says to the questions of its sample: asked once, whatever
    the number of states."""
    turns, jobs = [], []
    for one in followed:
        for edits in _parts(one.edits):
            turns.append(one.step.id)
            jobs.append(AskBase(edits=edits, freely=False))
    found: dict[int, dict[tuple[str, str], Answered]] = {turn: {} for turn in turns}
    results = done(crew, jobs, phase="evaluate base", progress=progress)
    # In the order of the jobs: a question of two of them is answered in the same batch every time.
    for turn, result in zip(turns, results, strict=True):
        found[turn].update(result.value)
    return dict(found)


def _score(
    crew: Crew,
    missing: Sequence[Asked],
    base: Mapping[int, Pairs],
    protocol: Mapping[str, Any],
    seed: int,
    progress: Progress,
) -> Iterator[tuple[Asked, NewEvaluation]]:
    """The cells as they get done, in any order."""
    cells, jobs = [], []
    for number, asked in enumerate(missing):
        for edits in _parts(asked.edits):
            cells.append(number)
            pairs = base[asked.of.id]
            jobs.append(AskState(at=asked.at.id, edits=edits, freely=False, base=pairs))
    left = Counter(cells)
    arrived: dict[int, dict[int, Done[list[Outcome]]]] = {}
    for place, result in crew.run(jobs, phase="evaluate", progress=progress):
        number = cells[place]
        arrived.setdefault(number, {})[place] = result
        left[number] -= 1
        if not left[number]:
            whole = [part for _, part in sorted(arrived.pop(number).items())]
            asked = missing[number]
            yield asked, _evaluation(whole, {**protocol, OF: asked.of.hash}, seed)


def _evaluation(
    whole: Sequence[Done[list[Outcome]]], protocol: dict[str, Any], seed: int
) -> NewEvaluation:
    outcomes = [outcome for part in whole for outcome in part.value]
    return NewEvaluation(
        protocol=protocol,
        seed=seed,
        base=evaluation.summary(base for base, _ in outcomes),
        state=evaluation.summary(state for _, state in outcomes),
        outcomes=outcomes,
        environment=whole[0].environment,
        seconds=sum(part.seconds for part in whole),
    )


def _record(ledger: Ledger, asked: Asked, new: NewEvaluation) -> None:
    with database.writing(ledger.engine) as session:
        record_evaluation(
            session,
            session.get_one(TurnRow, asked.at.id),
            new,
            scope_turn=None,
            edits=[(sampled.id, sampled.digest) for sampled in asked.edits],
            now=datetime.now(UTC),
            sample=True,
        )


def _recorded(
    session: Session, made: Plan, protocol: Mapping[str, Any], seed: int
) -> dict[tuple[int, int], Sequence[Outcome]]:
    """The cells that are recorded with this protocol and seed, and these very edits."""
    evaluations = _evaluations(session, [step.id for step in made.states], protocol, seed)
    asked = {evaluations.get((cell.of.hash, cell.at.id)): cell for cell in made.cells}
    outcomes: dict[int, dict[int, Outcome]] = {}
    for some in chunks([known for known in asked if known is not None]):
        query = select(
            OutcomeRow.evaluation_id, OutcomeRow.edit_id, OutcomeRow.base, OutcomeRow.state
        ).where(OutcomeRow.evaluation_id.in_(some))
        for evaluation_id, edit_id, base, state in session.execute(query):
            outcomes.setdefault(evaluation_id, {})[edit_id] = (base, state)
    found: dict[tuple[int, int], Sequence[Outcome]] = {}
    for evaluation_id, scored in outcomes.items():
        cell = asked[evaluation_id]
        ids = [sampled.id for sampled in cell.edits]
        if set(ids) == set(scored):
            found[cell.key] = [scored[edit_id] for edit_id in ids]
    return found


def _evaluations(
    session: Session, states: Sequence[int], protocol: Mapping[str, Any], seed: int
) -> dict[tuple[str, int], int]:
    """Hash of the turn whose edits are asked, and row id of the state's → row id of the newest
    such evaluation."""
    found: dict[tuple[str, int], int] = {}
    for some in chunks(states):
        query = select(EvaluationRow.id, EvaluationRow.turn_id, EvaluationRow.protocol).where(
            EvaluationRow.turn_id.in_(some),
            EvaluationRow.scope == "sample",
            EvaluationRow.seed == seed,
        )
        for evaluation_id, turn_id, recorded in session.execute(query.order_by(EvaluationRow.id)):
            of = recorded.get(OF)
            if of is not None and recorded == {**protocol, OF: of}:
                found[of, turn_id] = evaluation_id
    return found
