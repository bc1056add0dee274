"""A ledger as large as years of edits make it: real turns, edits and patches on a tiny model."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ledger import database, history
from ledger.history import Step
from ledger.initialising import init
from ledger.keyframes import Growing
from ledger.recording import Blob, NewTurn, RecordedEdit, record_turns
from ledger.states import live_state
from ledger.workspace import Config, Ledger
from patches.deltas import LowRank
from patches.edit import Edit
from patches.live import LiveModel
from patches.patch import Change, PatchFile, PatchHeader, describe, encode_patch

PER_TURN = 100
TENSOR = "model.layers.0.mlp.down_proj.weight"
_RANK = 2
_TOGETHER = 50
_FIRST = [a + b for a in ("Ma", "Lu", "Jo", "An", "Ka") for b in ("ria", "cas", "han", "na", "rel")]
_LAST = [
    a + b + c
    for a in ("Berg", "Stein", "Nord", "Lind", "Fels", "Grün", "Wald", "Feld")
    for b in ("a", "e", "i", "o", "u")
    for c in ("mann", "ström", "ssen", "vitz", "rière", "ton", "witz", "bach")
]
_TOWNS = [
    a + b
    for a in ("Alt", "Neu", "Ober", "Unter", "Klein", "Groß", "Bad", "Sankt", "Hohen", "Tief")
    for b in ("dorf", "stadt", "heim", "hausen", "bruck", "au", "see", "tal", "berg", "münster")
]
_QUESTIONS = (
    ("P103", "The mother tongue of {} is"),
    ("P19", "The birthplace of {} is"),
    ("P106", "The profession of {} is"),
)


def new_ledger(model: Path, folder: Path, *, url: str | None, store: Path | None) -> Ledger:
    """An empty ledger. store: that of another one with the same patches, to be shared."""
    ledger = init(str(model), folder=folder, database_url=url).ledger
    if store is None:
        return ledger
    config = ledger.config
    ledger.close()
    Config(
        database=config.database, store=str(store), model=config.model, revision=config.revision
    ).write(ledger.folder)
    return Ledger(ledger.folder, Config.read(ledger.folder))


def fact(number: int) -> Edit:
    """Fact `number` of two million different ones."""
    rest, question = divmod(number, len(_QUESTIONS))
    rest, first = divmod(rest, len(_FIRST))
    rest, last = divmod(rest, len(_LAST))
    rest, town = divmod(rest, len(_TOWNS))
    relation, prompt = _QUESTIONS[question]
    subject = f"{_FIRST[first]} {_LAST[last]} of {_TOWNS[town]}" + (f" {rest}" if rest else "")
    return Edit(
        prompt=prompt.format(subject),
        target=_TOWNS[(town + question) % len(_TOWNS)],
        subject=subject,
        old_target=_TOWNS[(town + 7) % len(_TOWNS)],
        relation=relation,
    )


def grow(ledger: Ledger, last: int) -> None:
    """Record turns of `PER_TURN` edits until there are `last`."""
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
    live = live_state(ledger, turns, device="cpu", dtype=None)
    growing = Growing(ledger, history.patches_in_force(turns))
    parent = turns[-1].id if turns else None
    for first in range(len(turns) + 1, last + 1, _TOGETHER):
        numbers = range(first, min(first + _TOGETHER, last + 1))
        news = [_turn(ledger, number, parent, live, growing) for number in numbers]
        parent = record_turns(ledger, news)[-1]


def _turn(
    ledger: Ledger, number: int, parent: int | None, live: LiveModel, growing: Growing
) -> NewTurn:
    patch = _patch(ledger, number, live)
    live.advance(PatchFile(ledger.store.path(patch.digest)))
    growing.grow(patch.digest, patch.bytes, live)
    return NewTurn(
        parent=parent,
        kind="edit",
        method="ultraedit",
        hyperparameters={"modules": [TENSOR.removesuffix(".weight")], "learning_rate": 1e-6},
        seed=0,
        message=f"turn {number}",
        edits=list(_edits(number)),
        patch=patch,
        tensors=live.digests(),
        environment={"versions": {"torch": torch.__version__}, "device": "cpu"},
        seconds={"total": 1.0},
    )


def _edits(number: int) -> Iterator[RecordedEdit]:
    for row in range((number - 1) * PER_TURN, number * PER_TURN):
        yield RecordedEdit(edit=fact(row), row=row)


def _patch(ledger: Ledger, number: int, live: LiveModel) -> Blob:
    [(d_out, d_in)] = [live.stored(TENSOR).shape]
    random = torch.Generator().manual_seed(number)
    delta = LowRank(
        A=torch.randn(_RANK, d_in, generator=random),
        B=torch.randn(_RANK, d_out, generator=random) * 1e-4,
    )
    changes = {TENSOR: Change(delta=delta)}
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method="ultraedit",
        hyperparameters={},
        turn=number,
        parent=None,
    )
    content = encode_patch(header, changes)
    return Blob(
        digest=ledger.store.put(content),
        bytes=len(content),
        changes={name: describe(change).to_json() for name, change in changes.items()},
    )


def steps(ledger: Ledger) -> list[Step]:
    """The turns of the branch."""
    with database.reading(ledger.engine) as session:
        return history.line(session, ledger.branch)
