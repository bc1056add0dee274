"""Verify: chosen settings, and the trials behind them, are as they were recorded."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.orm import SettingsRow, TrialRow
from ledger.workspace import Ledger

_TOGETHER = 500


def wrong_settings(session: Session, ledger: Ledger) -> Iterator[tuple[str, str | None]]:
    """Of every row its subject, and what is wrong, if anything is."""
    for row in session.scalars(select(SettingsRow).order_by(SettingsRow.id)):
        content = chain.settings_content(row, base=ledger.base.fingerprint)
        wrong = chain.content_hash(content) != row.hash
        yield f"settings {row.id} of {row.method}", "have been altered" if wrong else None


def wrong_trials(session: Session) -> Iterator[tuple[str, str | None]]:
    """The same of trials."""
    query = select(TrialRow).order_by(TrialRow.id).execution_options(yield_per=_TOGETHER)
    for row in session.scalars(query):
        wrong = chain.content_hash(chain.trial_content(row)) != row.hash
        yield f"trial {row.id}", "its result has been altered" if wrong else None
