"""Verify: nothing that the state of a branch or tag is made from has been given up."""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from ledger.history import Lines
from ledger.needed import heads, needs
from ledger.pruned import all_given_up
from ledger.workspace import Ledger
from patches.errors import HistoryError


def needed_but_pruned(session: Session, ledger: Ledger) -> Iterator[tuple[str, str, bool]]:
    """(subject, what, whether it is wrong) for branches and tags that need a pruned patch.

    It is not wrong where the file is back.
    """
    given_up = all_given_up(session)
    if not given_up:
        return
    lines = Lines(session)
    for name, line in heads(session, lines).items():
        try:
            needed = needs(lines, line)
        except HistoryError as error:
            yield name, str(error), True
            continue
        for digest, number in needed.items():
            if digest in given_up and ledger.store.stored(digest) is not None:
                what = f"needs a patch of turn {number} that was pruned and is back; run: ledger gc"
                yield name, what, False
            elif digest in given_up:
                what = (
                    f"needs a patch of turn {number}, which was pruned: restore "
                    f"{ledger.store.where(digest)} from a backup or from where it was pushed"
                )
                yield name, what, True
