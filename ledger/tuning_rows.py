"""The rows that tuning uses: some for trials, others, which no trial sees, for what is reported.

A digest of a row's prompt and target decides on which side it is, so that it stays there whatever
the order of the rows and however many there are. Rows that the ledger has in force, and those that
repeat or contradict others, are on neither side.
"""

from dataclasses import dataclass

from ledger import database, history
from ledger.chain import edit_digest
from ledger.conflicts import SKIP
from ledger.datasets import Dataset, read_rows
from ledger.selection import Earlier, planning
from ledger.wording import counted
from ledger.workspace import Ledger
from patches.canonical import canonical_json, sha256
from patches.edit import Edit
from patches.errors import DatasetError

_TOGETHER = 100


@dataclass(frozen=True, kw_only=True)
class Split:
    """Edits for trials, and for the report, in the order of their rows. skipped: rows passed over.

    neutral: no row has a locality prompt.
    """

    calibration: tuple[Edit, ...]
    held_out: tuple[Edit, ...]
    skipped: int
    neutral: bool

    @property
    def digest(self) -> str:
        """SHA-256 over all that trials and report are made on."""
        sides = (self.calibration, self.held_out)
        return sha256(
            canonical_json(
                [[edit_digest(e, None, e.probes_json()) for e in side] for side in sides]
            )
        )


def is_calibration(edit: Edit) -> bool:
    """On which side an edit is: half of all are for trials."""
    return int(sha256(canonical_json([edit.prompt, edit.target]))[0], 16) % 2 == 0


def split_rows(
    ledger: Ledger, dataset: Dataset, *, offset: int, limit: int | None, most: int, turns: int
) -> Split:
    """Read as many rows as it takes for `most` edits on each side.

    DatasetError if there are not two for each of `turns` on both.
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        done = Earlier.of(session, history.edits_in_force(line), dataset, trust=True)
    standing, selector = planning(ledger, line, SKIP, done)
    sides: tuple[list[Edit], list[Edit]] = ([], [])
    for batch in selector.batches(read_rows(dataset, offset=offset, limit=limit), _TOGETHER):
        standing.plan(batch.facts)
        for recorded in batch.edits:
            side = sides[0 if is_calibration(recorded.edit) else 1]
            if len(side) < most:
                side.append(recorded.edit)
        if min(map(len, sides)) == most:
            break
    if min(map(len, sides)) < 2 * turns:
        raise DatasetError(
            f"{dataset.uri}: {counted(sum(map(len, sides)), 'rows')} can be used and are not in "
            f"force, {len(sides[0])} for trials and {len(sides[1])} for the report; tuning with "
            f"{counted(turns, 'turns')} takes {2 * turns} of each. Give more rows"
        )
    return Split(
        calibration=tuple(sides[0]),
        held_out=tuple(sides[1]),
        skipped=selector.counts.skipped + selector.counts.known,
        neutral=not any(edit.locality for side in sides for edit in side),
    )
