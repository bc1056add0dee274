"""Trials as they are recorded, so that a study that was cut off goes on where it stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from ledger import chain, database, journal
from ledger.orm import TrialRow
from ledger.workspace import Ledger
from patches.canonical import canonical_json, sha256


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """A trial. result: scores, hyperparameters and more; failure: why there are no scores."""

    result: dict[str, Any]
    failure: str | None
    seconds: float


class Study:
    """The trials that have data, model, method and program in common. elapsed: seconds of work
    that had been done when the last of them was recorded."""

    def __init__(self, ledger: Ledger, content: Mapping[str, Any]) -> None:
        """content: what the trials have in common, as JSON values."""
        self.digest = sha256(canonical_json(content))
        self._ledger = ledger
        query = select(TrialRow).where(TrialRow.study == self.digest)
        with database.reading(ledger.engine) as session:
            self._known = {row.key: _recorded(row) for row in session.scalars(query)}

    @property
    def elapsed(self) -> float:
        return max((float(one.result["elapsed"]) for one in self._known.values()), default=0.0)

    def __len__(self) -> int:
        return len(self._known)

    def find(self, key: str) -> Recorded | None:
        return self._known.get(key)

    def record(
        self,
        key: str,
        values: Mapping[str, Any],
        result: Mapping[str, Any],
        *,
        failure: str | None,
        seconds: float,
    ) -> Recorded:
        """Keep a trial, unless somebody else has meanwhile: then theirs counts."""
        row = TrialRow(
            study=self.digest,
            key=key,
            values=dict(values),
            result=dict(result),
            failure=failure,
            seconds=seconds,
            created_at=datetime.now(UTC),
        )
        row.hash = chain.content_hash(chain.trial_content(row))
        same = select(TrialRow).where(TrialRow.study == self.digest, TrialRow.key == key)
        with database.writing(self._ledger.engine) as session:
            earlier = session.scalars(same).one_or_none()
            if earlier is None:
                session.add(row)
                journal.record(session, journal.TRIAL, [row], at=row.created_at)
            self._known[key] = _recorded(earlier or row)
        return self._known[key]


def _recorded(row: TrialRow) -> Recorded:
    return Recorded(result=row.result, failure=row.failure, seconds=row.seconds)
