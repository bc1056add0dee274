"""Many processes at work on one ledger at once: adding, rolling back, evaluating, applying, reading
and removing garbage. No turn may be lost, doubled or half there, and all must get through."""

import contextlib
import io
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from ledger import database, history
from ledger.orm import EditRow, EvaluationRow, TurnRow
from ledger.verifying import verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger
from tests.processes import Report, Running

CROWD: Mapping[str, int] = {
    "add-edits": 5,
    "rollback": 3,
    "evaluate": 2,
    "read": 3,
    "apply": 2,
    "gc": 1,
}
"""What sixteen processes do."""

# What may be said to who comes too late: that there is nothing to do, or nothing yet. A small model
# takes no more edits after hundreds.
_REFUSED = re.compile(r"turn (\d+) \(rows (\d+) to .*Nothing of it was recorded")
_TURN_SIZE = 2
_TOO_LATE = {
    "add-edits": ("Nothing of it was recorded",),
    "rollback": ("rolled back already", "no turns yet", "there is no turn"),
    "evaluate": ("no edit is in force", "no turns"),
    "apply": ("no turns",),
}


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a process did: a command, how it ended, and what it printed."""

    role: str
    words: Sequence[str]
    status: int
    out: str
    err: str


def crowd(
    ledger: Ledger,
    folder: Path,
    *,
    seconds: float,
    least: int = 1,
    seed: int = 0,
    roles: Mapping[str, int] = CROWD,
    lock_timeout: float = 300.0,
) -> dict[str, int]:
    """Let the processes work on an empty ledger for so many seconds, each at least `least` times,
    and check; what was done, how often. folder: for their files."""
    ledger.close()
    places = [(role, n) for role, count in roles.items() for n in range(count)]
    environment = {"LEDGER_DIR": str(ledger.folder), "LEDGER_LOCK_TIMEOUT": str(lock_timeout)}
    running = [
        Running(_act, role, n, folder, seconds, least, seed, environment) for role, n in places
    ]
    done: list[Done] = []
    for process in running:
        with contextlib.suppress(EOFError):
            while True:
                message = process.message()
                assert isinstance(message, Done)
                done.append(message)
        assert process.wait() == 0
    check(ledger, done, folder)
    counted = Counter(f"{one.role}{' (too late)' if one.status else ''}" for one in done)
    return dict(sorted(counted.items()))


def check(ledger: Ledger, done: Sequence[Done], folder: Path) -> None:
    """What is recorded is what the processes were told, each thing once."""
    for one in done:
        assert "Traceback" not in one.err, one
        if one.status:
            assert any(reason in one.err for reason in _TOO_LATE.get(one.role, ())), one
    found = verify(ledger)
    if (folder / "out").exists():
        verify_checkpoint(ledger, folder / "out", found)
    assert [problem.to_json() for problem in found.problems] == []
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        prompts = Counter(session.scalars(select(EditRow.prompt)))
        scores = session.scalar(select(func.count()).select_from(EvaluationRow))
        turns = session.scalar(select(func.count()).select_from(TurnRow))
    assert [step.number for step in line] == list(range(1, len(line) + 1)), "the line has a gap"
    assert len(line) == turns, "a turn lies beside the line"
    added = [turn for one in done if one.role == "add-edits" for turn in _turns(one)]
    undone = [_json(one)["turn"] for one in done if one.role == "rollback" and not one.status]
    assert sorted(added) == [step.number for step in line if step.kind == "edit"]
    assert sorted(undone) == [step.number for step in line if step.kind == "rollback"]
    assert prompts == Counter(p for one in done if one.role == "add-edits" for p in _facts(one))
    assert scores == sum(one.role == "evaluate" and not one.status for one in done)


def _turns(one: Done) -> list[int]:
    """The turns that were added, also by a command that could not add all of its facts."""
    if one.status:
        number, row = _refused(one)
        return list(range(number - row // _TURN_SIZE, number))
    return [turn["turn"] for turn in _json(one)["turns"]]


def _facts(one: Done) -> list[str]:
    """The prompts that were added."""
    prompts = [row["prompt"] for row in json.loads(Path(one.words[1]).read_text())]
    return prompts[: _refused(one)[1]] if one.status else prompts


def _refused(one: Done) -> tuple[int, int]:
    """The turn that was refused, and the first of its rows."""
    found = _REFUSED.search(one.err)
    assert found is not None, one
    return int(found[1]), int(found[2])


def _json(one: Done) -> Any:
    return json.loads(one.out)


def _act(
    report: Report,
    role: str,
    number: int,
    folder: Path,
    seconds: float,
    least: int,
    seed: int,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    draw = random.Random(f"{seed} {role} {number}")
    until = time.monotonic() + seconds
    count = 0
    while count < least or time.monotonic() < until:
        words = _words(role, folder / f"{role}-{number}-{count}.json", folder, draw)
        report(_call(role, words))
        count += 1


def _words(role: str, path: Path, folder: Path, draw: random.Random) -> list[str]:
    if role == "add-edits":
        rows = [
            {"prompt": f"The {path.stem} of {n} is", "target": draw.choice(["Rome", "a piano"])}
            for n in range(draw.randint(1, 4))
        ]
        path.write_text(json.dumps(rows), encoding="utf-8")
        return [role, str(path), "--turn-size", str(_TURN_SIZE), "--no-evaluate", "--json"]
    if role == "rollback":
        return [role, "turn", str(_in_force(draw)), "--json"]
    if role == "apply":
        return [role, "--to", str(folder / "out"), "--json"]
    if role == "read":
        return draw.choice([["log", "--json"], ["status", "--json"], ["search", "Rome", "--json"]])
    return [role, "--json", *(["--prune"] if role == "gc" else [])]


def _in_force(draw: random.Random) -> int:
    """A turn that may be undone; 1 if there is none."""
    told = _call("read", ["log", "--json"])
    turns = [t for t in json.loads(told.out) if t["state"] == "in_force"]
    return int(draw.choice(turns)["turn"]) if turns else 1


def _call(role: str, words: Sequence[str]) -> Done:
    from cli.main import main

    out, err = io.StringIO(), io.StringIO()
    status: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as stop:
            status = stop.code
    if role == "read" and words[0] == "log" and not status:
        _check_whole(json.loads(out.getvalue()))
    assert isinstance(status, int)
    return Done(role=role, words=words, status=status, out=out.getvalue(), err=err.getvalue())


def _check_whole(told: Any) -> None:
    """A reader sees a line without gaps, and every turn with all of its edits."""
    turns = told
    assert [turn["turn"] for turn in turns] == list(range(1, len(turns) + 1))
    for turn in turns[-2:]:
        shown = _call("look", ["show", str(turn["turn"]), "--json"])
        assert len(json.loads(shown.out)["edit_list"]) == turn["edits"], turn
