"""Verify: today's history extends one that somebody remembers.

What is remembered is the hash of an entry of the journal, or of a turn, or an attestation. The
journal is one chain, so an entry that is in it today had the same entries before it then; and with
it every branch and tag had its place, which the entries after it must lead on from.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.attesting import Attestation, read_attestation, wrong_signature
from ledger.branching import DELETED, FORCED
from ledger.history import chunks
from ledger.orm import EMPTY, RefRow, TurnRow
from ledger.verifying_journal import Entry, Journal, KnownTurn
from ledger.workspace import Ledger
from patches.errors import SettingError

_HASH = re.compile(r"[0-9a-f]{16,64}")
_SHOWN = 16


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """What today's history is held against. hash: or the beginning of it, from 16 digits on.

    name: for messages. attestation: if it is one. problem: what is wrong with its signature.
    """

    name: str
    hash: str
    attestation: Attestation | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Since:
    """What came after what is remembered. entry: the number of its entry in the journal."""

    entry: int
    entries: int
    turns: int
    edits: int
    evaluations: int

    def to_json(self) -> dict[str, int]:
        return {
            "entry": self.entry,
            "entries": self.entries,
            "turns": self.turns,
            "edits": self.edits,
            "evaluations": self.evaluations,
        }


def remembered(text: str, key: Path | None = None) -> Remembered:
    """From a hash, or the name of a file with an attestation.

    key: file with the public key that the attestation must be signed with. SettingError if it is
    neither a hash nor such a file, or the key is none.
    """
    if _HASH.fullmatch(text):
        if key is not None:
            raise SettingError("a hash is not signed; --key goes with a file of attest --out")
        return Remembered(name=f"{text[:_SHOWN]}…", hash=text)
    if not Path(text).is_file():
        raise SettingError(
            f"{text!r} is neither a hash (16 to 64 digits, 0-9 and a-f) nor a file; ledger attest "
            "prints the one and writes the other"
        )
    found = read_attestation(Path(text))
    return Remembered(
        name=text,
        hash=found.hash,
        attestation=found,
        problem=None if key is None else wrong_signature(found, key),
    )


class Comparison:
    """Today's history beside what is remembered of it."""

    def __init__(
        self,
        session: Session,
        ledger: Ledger,
        turns: Mapping[int, KnownTurn],
        journal: Journal,
    ) -> None:
        """turns: by row id. journal: as it is today, checked."""
        self._session = session
        self._ledger = ledger
        self._turns = turns
        self._journal = journal

    def problems(self, past: Remembered) -> Iterator[tuple[str, str]]:
        """(subject, what is wrong) where today's history does not extend the remembered one."""
        if past.problem is not None:
            yield past.name, past.problem
            return
        if past.attestation is not None:
            yield from _another(self._ledger, past.name, past.attestation)
        entry = self._entry(past)
        if entry is None:
            what = "is in neither the journal nor the turns: today's history does not extend it"
            yield past.name, what
            return
        then = self._refs_at(entry)
        if past.attestation is not None:
            yield from self._unlike(past, then)
        yield from self._left_behind(entry, then)
        turn = self._turn(past.hash)
        if entry.hash != past.hash and turn is not None:
            yield from self._unreachable(entry, turn)

    def _entry(self, past: Remembered) -> Entry | None:
        """The entry with that hash, or the one that tells of the turn with that hash first."""
        for entry in self._journal.entries:
            if entry.hash.startswith(past.hash):
                return entry
        turn = None if past.attestation else self._turn(past.hash)
        return next((one for one in self._journal.entries if str(turn) in one.turns), None)

    def since(self, past: Remembered) -> Since | None:
        """How much has been recorded after it; None if it is not in today's history."""
        entry = self._entry(past)
        if entry is None or past.problem is not None:
            return None
        at = entry.number
        before = [one for one in self._journal.entries if one.number <= at]
        after = [one for one in self._journal.entries if one.number > at]
        turns = _keys(after, _turns) - _keys(before, _turns)
        return Since(
            entry=at,
            entries=len(after),
            turns=len(turns),
            edits=sum(
                self._session.scalar(
                    select(func.coalesce(func.sum(TurnRow.edits), 0)).where(TurnRow.id.in_(some))
                )
                or 0
                for some in chunks([int(turn) for turn in turns])
            ),
            evaluations=len(_keys(after, _evaluations) - _keys(before, _evaluations)),
        )

    def _turn(self, digest: str) -> int | None:
        """Row id of the turn whose hash begins so."""
        found = (one for one, turn in self._turns.items() if turn.hash.startswith(digest))
        return next(found, None)

    def _refs_at(self, entry: Entry) -> dict[str, int]:
        """Branch or tag → the turn (row id) that it pointed to then."""
        found: dict[str, int] = {}
        for one in self._journal.entries:
            if one.ref is not None and one.number <= entry.number:
                found.pop(one.ref, None)
                if one.reached is not None:
                    found[one.ref] = one.reached
        return found

    def _unlike(self, past: Remembered, then: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        assert past.attestation is not None
        for ref in past.attestation.refs:
            turn = self._turns.get(then.get(ref.name, 0))
            if (EMPTY if turn is None else turn.hash) != ref.hash:
                yield (
                    f"{ref.kind} {ref.name}",
                    f"was at turn {ref.turn} ({ref.hash[:12]}…) by {past.name}, which the journal "
                    "does not say",
                )

    def _left_behind(self, entry: Entry, then: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Branches and tags that do not lead to where they were, and were not made to."""
        given_up = self._given_up(entry)
        now = dict(self._session.execute(select(RefRow.name, RefRow.turn_id)).all())
        for name, turn in then.items():
            if name not in given_up and not self._leads(now.get(name), turn):
                known = self._turns.get(turn)
                was = "a turn that is gone" if known is None else known.name
                yield f"branch or tag {name}", f"does not lead to where it was ({was}) any more"

    def _unreachable(self, entry: Entry, turn: int) -> Iterator[tuple[str, str]]:
        """The remembered turn, if nothing leads to it and nothing was given up since."""
        heads = self._session.scalars(select(RefRow.turn_id))
        if not self._given_up(entry) and not any(self._leads(head, turn) for head in heads):
            yield self._turns[turn].name, "is remembered, but no branch or tag leads to it any more"

    def _given_up(self, entry: Entry) -> set[str]:
        """Branches and tags that were deleted, or tags that were moved, after the entry."""
        later = [one for one in self._journal.entries if one.number > entry.number]
        return {one.ref for one in later if one.ref and one.action in (DELETED, FORCED)}

    def _leads(self, head: int | None, turn: int) -> bool:
        """Whether the turn `head` is the other one, or comes after it on its line."""
        goal = self._turns.get(turn)
        at = None if head is None else self._turns.get(head)
        # Numbers fall towards the beginning, also where parents lead in a circle.
        while at is not None and goal is not None and at.number > goal.number:
            earlier = None if at.parent is None else self._turns.get(at.parent)
            at = earlier if earlier is not None and earlier.number < at.number else None
        return goal is not None and at is goal


def _another(ledger: Ledger, name: str, past: Attestation) -> Iterator[tuple[str, str]]:
    if past.ledger != ledger.base.ledger_id:
        yield name, f"is of another ledger: {past.ledger}, this one is {ledger.base.ledger_id}"
    if past.base != ledger.base.fingerprint:
        yield name, f"is of another base model ({past.base[:12]}…)"


def _keys(entries: Sequence[Entry], of: Callable[[Entry], tuple[str, ...]]) -> set[str]:
    return {key for entry in entries for key in of(entry)}


_turns: Callable[[Entry], tuple[str, ...]] = attrgetter("turns")
_evaluations: Callable[[Entry], tuple[str, ...]] = attrgetter("evaluations")
