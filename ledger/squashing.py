"""Squash: one patch in place of those of many turns, recorded as a turn that can be taken back."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ledger import database, environment, history
from ledger.history import Step
from ledger.progress import Progress, silent
from ledger.rebuilding import digests_after
from ledger.recording import Blob, NewTurn, record_turn
from ledger.refs import Rev
from ledger.states import open_patch, open_state
from ledger.workspace import Ledger
from patches.errors import HistoryError
from patches.patch import Change, PatchFile, PatchHeader, tensors_changed
from patches.patch_writer import write_patch
from patches.squashing import squashed

METHOD = "squash"


@dataclass(frozen=True, kw_only=True)
class Squashed:
    """A squash that was recorded as `turn`. replaces: the turns whose patches it stands for.

    ranks, errors: per tensor; rank None: not low-rank. Errors are relative to the norm of the exact
    sum, `error` over all tensors together; 0: exact. other_bytes: tensors that come out with other
    bytes than before.
    """

    turn: int
    replaces: list[int]
    edits: int
    ranks: dict[str, int | None]
    errors: dict[str, float]
    error: float
    other_bytes: list[str]
    bytes_before: int
    bytes_after: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger squash --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "replaces": self.replaces,
            "edits": self.edits,
            "ranks": self.ranks,
            "errors": self.errors,
            "error": self.error,
            "other_bytes": self.other_bytes,
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "seconds": self.seconds,
        }


def squash(
    ledger: Ledger,
    first: Rev,
    last: Rev,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    message: str = "",
    progress: Progress = silent,
) -> Squashed:
    """Make one patch of those of the turns `first` to `last` that the branch's state is made from.

    Their edits stay in force; rolling the squash back separates them again. rank, max_error: see
    `patches.squashing.squashed`; without them it is exact where that is small, else at float32.
    One tensor at a time is in memory. HistoryError if there are fewer than two patches, or one has
    a side memory.
    """
    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        span = [history.number_on(session, ledger.branch, turns, rev) for rev in (first, last)]
        before = history.tensors_at(session, turns)
    used = history.patches_in_force(turns)
    chosen = _chosen(turns, used, *span)
    ids = [step.id for step in chosen]
    settings = {"first": span[0], "last": span[1], "rank": rank, "max_error": max_error}
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=METHOD,
        hyperparameters=settings,
        turn=len(turns) + 1,
        parent=used[-1].patch_digest,
    )
    patches = [open_patch(ledger, one) for one in chosen]
    rest = open_state(ledger, turns, [step for step in used if step.id not in {*ids}]).patches
    errors: dict[str, float] = {}
    norms: list[float] = []

    def changes() -> Iterator[tuple[str, Change]]:
        names = sorted(tensors_changed(patches))
        for done, name in enumerate(names, start=1):
            change, errors[name] = squashed(patches, name, rank=rank, max_error=max_error)
            norms.append(_norm(change, errors[name]))
            yield name, change
            progress("squash", done, len(names))

    with ledger.store.arriving() as path:
        infos = write_patch(path, header, changes())
        [tensors] = digests_after(ledger, rest, [PatchFile(path)], progress)
        blob = Blob.keep(ledger.store, path, infos)
    error = _overall(list(errors.values()), norms)
    seconds = time.perf_counter() - started
    other = [name for name in sorted(tensors) if tensors[name] != before.get(name)]
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].id,
            kind="merge",
            method=METHOD,
            hyperparameters=settings,
            seed=0,
            message=message or f"squash turns {span[0]} to {span[1]}",
            replaces=ids,
            patch=blob,
            tensors={**before, **tensors},
            environment={"versions": environment.versions(), "device": "cpu"},
            seconds={"total": seconds},
            peak_memory=environment.peak_memory(torch.device("cpu")),
            # In the order of the tensors' names.
            figures={"error": error, "errors": list(errors.values())},
        ),
    )
    return Squashed(
        turn=len(turns) + 1,
        replaces=[step.number for step in chosen],
        edits=sum(step.edits for step in chosen),
        ranks={name: info.rank for name, info in sorted(infos.items())},
        errors=errors,
        error=error,
        other_bytes=other,
        bytes_before=sum(step.patch_bytes for step in chosen),
        bytes_after=blob.bytes,
        seconds=seconds,
    )


def _chosen(turns: Sequence[Step], used: Sequence[Step], first: int, last: int) -> list[Step]:
    """The turns from `first` to `last` whose patches are part of the state."""
    for number in (first, last):
        history.find_turn(turns, number)
    if first > last:
        raise HistoryError(f"turn {first} comes after turn {last}: write the earlier one first")
    chosen = [step for step in used if first <= step.number <= last]
    with_memory = [step.number for step in chosen if step.has_memory]
    if with_memory:
        raise HistoryError(
            f"turn {with_memory[0]} has a side memory, which is put beside a weight and not added "
            "to it: merge side memories with ledger merge-shards, and squash turns before or after "
            "them"
        )
    if len(chosen) < 2:
        raise HistoryError(
            f"of turns {first} to {last}, the state is made from "
            f"{f'turn {chosen[0].number} only' if chosen else 'none'}; a squash needs two patches "
            f"in force{_elsewhere(turns, first, last)} (see: ledger log)"
        )
    return chosen


def _elsewhere(turns: Sequence[Step], first: int, last: int) -> str:
    """Where the patches of turns have gone that are part of a merge already."""
    for step in turns:
        if step.in_force and any(first <= number <= last for number in step.replaces):
            return f": turn {step.number} has taken the place of some, squash that one too"
    return ""


def _norm(change: Change, error: float) -> float:
    """‖Σ Δ‖ of what `change` stands for with a relative error, which is orthogonal to it."""
    total = torch.zeros(change.delta.shape, dtype=torch.float64)
    change.delta.add_to(total)
    return float(torch.linalg.matrix_norm(total)) / math.sqrt(1 - min(error, 0.999999) ** 2)


def _overall(errors: Sequence[float], norms: Sequence[float]) -> float:
    """The relative error of all tensors together, given those of each, and their norms."""
    missed = math.hypot(*(error * norm for error, norm in zip(errors, norms, strict=True)))
    return missed / math.hypot(*norms) if missed else 0.0
