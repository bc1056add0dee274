"""What a merge of branches notes of itself, with the last of the turns that came of it.

The note is hashed and travels with the turn: from it the next merge of the same branch knows what
has been merged, and an interrupted one what is left to do.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.history import Step, chunks
from ledger.orm import TurnRow
from ledger.wording import counted

_NOTE = re.compile(
    r"merge of (?P<name>\S+) at (?P<head>[0-9a-f]{64}), as turns (?P<first>\d+) to (?P<last>\d+)"
    r"(; (?P<conflicts>[\d,]+) facts? .* (?P<winner>ours|theirs))?"
)


class MergeNote(NamedTuple):
    """What the last turn of a merge notes of it.

    head: hash of the turn that was merged. first, last: the turns that came of it. winner: whose
    facts hold where both had changed some, of which there are `conflicts`.
    """

    name: str
    head: str
    first: int
    last: int
    winner: str | None = None
    conflicts: int = 0

    def __str__(self) -> str:
        told = (
            f"; {counted(self.conflicts, 'facts')} changed on both sides, to hold: {self.winner}"
            if self.winner
            else ""
        )
        return f"merge of {self.name} at {self.head}, as turns {self.first} to {self.last}{told}"


def notes_of_merges(session: Session, turns: Sequence[Step]) -> list[MergeNote]:
    """The merges that ended with one of `turns`, in order."""
    ids = [s.id for s in turns if s.copied_from or s.kind in ("rollback", "merge")]
    columns = select(TurnRow.number, TurnRow.notes)
    found = []
    for some in chunks(ids):
        for number, notes in session.execute(columns.where(TurnRow.id.in_(some))):
            told = [match for note in notes if (match := _NOTE.fullmatch(note))]
            found += [_read(one) for one in told if int(one["last"]) == number]
    return sorted(found, key=lambda note: note.last)


def _read(told: re.Match[str]) -> MergeNote:
    return MergeNote(
        name=told["name"],
        head=told["head"],
        first=int(told["first"]),
        last=int(told["last"]),
        winner=told["winner"],
        conflicts=int((told["conflicts"] or "0").replace(",", "")),
    )
