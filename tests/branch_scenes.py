"""Two branches that have parted, on the plain ledgers' checkpoint, and edits to put into turns."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ledger import database, history
from ledger.branching import create_branch, switch
from ledger.history import Step, patches_in_force
from ledger.workspace import Ledger, open_ledger
from patches.edit import Edit
from tests.plain_ledgers import FIRST, SECOND, Matrix, add, build, change, deltas, line, new_ledger

FEATURE = "feature"


@contextmanager
def plain_ledger(folder: Path, url: str | None = None) -> Iterator[Ledger]:
    with new_ledger(folder / "ledger", build(folder / "model"), url) as ledger:
        yield ledger


def copied(made: Path, folder: Path) -> Ledger:
    """A ledger of one's own, as the one in `made` was when it was closed."""
    shutil.copytree(made, folder)
    return open_ledger(folder)


def edit(prompt: str, target: str) -> Edit:
    return Edit(prompt=prompt, target=target)


def capital(of: str, target: str) -> Edit:
    """A fact with a relation, so that it is the same question in other words too."""
    return Edit(prompt=f"The capital of {of} is", target=target, subject=of, relation="P36")


def turn(ledger: Ledger, seed: int, *edits: Edit, kind: str = "low-rank") -> int:
    """A turn of a random change of two tensors, with these edits; an import if there are none."""
    changes = {FIRST: change(FIRST, kind, seed), SECOND: change(SECOND, "sparse", seed)}
    return add(ledger, changes, edits=edits, method="ultraedit" if edits else "x")


def part(ledger: Ledger, name: str = FEATURE) -> None:
    """Begin a branch at the newest turn; the ledger stays where it is."""
    create_branch(ledger, name)


@contextmanager
def on(ledger: Ledger, name: str = FEATURE) -> Iterator[None]:
    """Inside, the ledger is at another branch."""
    before = ledger.branch
    switch(ledger, name)
    try:
        yield
    finally:
        switch(ledger, before)


def parts(ledger: Ledger, steps: Sequence[Step] | None = None) -> list[dict[str, Matrix]]:
    """What the patches of these turns add (default: of those in force at the head), in order."""
    used = patches_in_force(line(ledger)) if steps is None else steps
    return [deltas(ledger.store.path(step.patch_digest or "")) for step in used]


def line_of(ledger: Ledger, name: str = FEATURE) -> list[Step]:
    """The turns that led to a branch's head."""
    with database.reading(ledger.engine) as session:
        return history.line(session, name)
