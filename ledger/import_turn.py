"""An import becomes a turn: its patch is streamed to the store, applied on top, and recorded."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ledger import database, environment, history
from ledger.progress import Progress
from ledger.rebuilding import digests_after
from ledger.recording import Blob, NewTurn, record_turn
from ledger.states import State, open_state
from ledger.wording import public_name
from ledger.workspace import Ledger
from patches.errors import EditingError
from patches.patch import Change, ChangeInfo, PatchFile, PatchHeader
from patches.patch_writer import write_patch


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A turn that was recorded. ranks, errors: per tensor; rank None: not low-rank.

    errors: ‖Δ − Δ′‖ / ‖Δ‖ of what was recorded instead of Δ; 0: Δ itself.
    """

    turn: int
    method: str
    source: str
    ranks: dict[str, int | None]
    errors: dict[str, float]
    patch_bytes: int
    notes: list[str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger import --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "method": self.method,
            "source": self.source,
            "ranks": self.ranks,
            "errors": self.errors,
            "patch_bytes": self.patch_bytes,
            "notes": self.notes,
            "seconds": self.seconds,
        }


class Found(NamedTuple):
    """A tensor's change, and its error."""

    tensor: str
    change: Change
    error: float


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is to be recorded, beside the changes.

    expected: SHA-256 that tensors have in the edited model, where it is known. notes may grow while
    the changes are taken.
    """

    method: str
    source: str
    hyperparameters: dict[str, Any]
    message: str
    notes: list[str]
    expected: Mapping[str, str] = field(default_factory=dict)


def record_import(
    ledger: Ledger,
    what: Import,
    changes: Iterable[Found],
    *,
    count: int,
    started: float,
    progress: Progress,
) -> Imported:
    """Record `changes`, of which there are about `count`, as a turn on top of the branch.

    One tensor at a time is in memory. EditingError if nothing changes, or a number would not be
    finite; whatever goes wrong, nothing is recorded and the store is as it was.
    """
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        before = history.tensors_at(session, turns)
    used = history.patches_in_force(turns)
    state = open_state(ledger, turns, used)
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=what.method,
        hyperparameters=what.hyperparameters,
        turn=len(turns) + 1,
        parent=used[-1].patch_digest if used else None,
    )
    with ledger.store.arriving() as path:
        errors: dict[str, float] = {}
        infos = write_patch(path, header, _taken(changes, errors, count, progress))
        if not infos:
            raise EditingError(
                f"{what.source} differs from its base in the signs of zeros only, which no sum "
                "gives: nothing was recorded"
            )
        seconds = {"write": time.perf_counter() - started}
        tensors = _applied(ledger, before, state, PatchFile(path), what, progress)
        blob = Blob.keep(ledger.store, path, infos)
    errors = dict(sorted(errors.items()))
    notes = [*what.notes, *_other_bits(what, infos, tensors)]
    seconds["total"] = time.perf_counter() - started
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].id if turns else None,
            kind="import",
            method=what.method,
            hyperparameters=what.hyperparameters,
            seed=0,
            message=what.message,
            patch=blob,
            tensors={**before, **tensors},
            environment={"versions": environment.versions(), "device": "cpu"},
            seconds=seconds,
            peak_memory=environment.peak_memory(torch.device("cpu")),
            notes=notes,
            # In the order of the tensors' names.
            figures={"errors": list(errors.values())} if any(errors.values()) else {},
        ),
    )
    return Imported(
        turn=len(turns) + 1,
        method=what.method,
        source=what.source,
        ranks={name: info.rank for name, info in sorted(infos.items())},
        errors=errors,
        patch_bytes=blob.bytes,
        notes=notes,
        seconds=seconds["total"],
    )


def _taken(
    changes: Iterable[Found], errors: dict[str, float], count: int, progress: Progress
) -> Iterator[tuple[str, Change]]:
    """The changes by tensor; their errors are put into `errors`."""
    for done, found in enumerate(changes, start=1):
        errors[found.tensor] = found.error
        yield found.tensor, found.change
        progress("difference", done, count)


def _applied(
    ledger: Ledger,
    before: Mapping[str, str],
    state: State,
    patch: PatchFile,
    what: Import,
    progress: Progress,
) -> dict[str, str]:
    """SHA-256 of the tensors that the patch changes, as they are with it on top of the state."""
    try:
        [digests] = digests_after(ledger, state.patches, [patch], progress)
    except EditingError as error:
        raise EditingError(f"{what.source}: {error}") from error
    if all(digests[n] == before.get(n, ledger.base.tensors[n][2]) for n in digests):
        raise EditingError(
            f"{what.source}: the change is lost in the rounding of every weight: it changes "
            "nothing, and nothing was recorded"
        )
    return digests


def _other_bits(
    what: Import, infos: Mapping[str, ChangeInfo], tensors: Mapping[str, str]
) -> list[str]:
    """A note if tensors that were taken over exactly do not come out as in the edited model."""
    exact = [n for n in what.expected if n in infos and infos[n].rank is None]
    other = [name for name in exact if tensors[name] != what.expected[name]]
    if not other:
        return []
    return [
        f"{len(other)} of {len(exact)} tensors ({other[0]} …) do not come out with the bytes they "
        f"have in {public_name(what.source)}: the difference is added to this branch's state, "
        "whose sums are rounded only at the end"
    ]
