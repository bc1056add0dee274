"""Ledgers that pages must bear: one of thousands of turns with scores, and one whose every text was
written to do harm."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ledger import chain, database, journal
from ledger.branching import create_branch, create_tag
from ledger.datasets import Dataset
from ledger.new_turn import Blob, NewEvaluation, NewTurn, RecordedEdit
from ledger.orm import PublicationRow, TurnRow
from ledger.recording import record_turns
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from patches.edit import Edit, Probe
from patches.patch import PatchHeader, describe, encode_patch
from tests import plain_ledgers
from tests.plain_ledgers import FIRST
from tests.told_edits import SOURCE, new_ledger

TURNS = 2000
PER_TURN = 2
# One turn of so many has scores.
_SCORED = 4
_UNDONE = (2, TURNS // 2, TURNS - 1)


def many_turns(folder: Path, url: str | None = None) -> Ledger:
    """`TURNS` turns of `PER_TURN` edits, many with scores, and some rollbacks after them."""
    ledger = new_ledger(folder, url)
    patch = _patch(ledger)
    record_turns(ledger, [_turn(number, patch) for number in range(1, TURNS + 1)])
    for number in _UNDONE:
        rollback_turn(ledger, number)
    return ledger


def fact(number: int) -> Edit:
    """Fact `number`, all of them different."""
    town = f"Town {number}"
    return Edit(
        prompt=f"The mayor of {town} is",
        target=f"Person {number % 700}",
        subject=town,
        old_target="Nobody",
        relation="P6",
    )


def _turn(number: int, patch: Blob) -> NewTurn:
    rows = range((number - 1) * PER_TURN, number * PER_TURN)
    return NewTurn(
        parent=None,
        kind="edit",
        method="ultraedit",
        hyperparameters={"learning_rate": 1e-6, "modules": [FIRST.removesuffix(".weight")]},
        seed=0,
        message=f"rows {rows[0]} to {rows[-1]}",
        dataset=SOURCE,
        edits=[RecordedEdit(edit=fact(row), row=row) for row in rows],
        patch=patch,
        seconds={"edit": 1.5, "total": 2.0},
        evaluation=None if number % _SCORED else _scores(PER_TURN, 1.0 - number / (2 * TURNS)),
    )


def _patch(ledger: Ledger) -> Blob:
    """One in the store, which every turn may use."""
    change = {FIRST: plain_ledgers.change(FIRST, "low-rank", 1)}
    header = PatchHeader(
        base=ledger.base.fingerprint, method="x", hyperparameters={}, turn=1, parent=None
    )
    content = encode_patch(header, change)
    described = {name: describe(one).to_json() for name, one in change.items()}
    return Blob(digest=ledger.store.put(content), bytes=len(content), changes=described)


def _scores(count: int, success: float) -> NewEvaluation:
    outcome = ({"edit_success": 0.1}, {"edit_success": success, "locality": 0.9})
    return NewEvaluation(
        protocol={"name": "teacher-forced"},
        seed=0,
        base={"edit_success": 0.1, "locality": 1.0},
        state={"edit_success": success, "locality": 0.9},
        outcomes=[outcome] * count,
        environment={"versions": {"torch": "2"}, "device": "cpu"},
        seconds=0.5,
    )


LONG = "x" * 10_000
HARM = (
    "<script>window.harmed=1;alert(1)</script>",
    '"><img src=x onerror="window.harmed=1">',
    "'><svg/onload=window.harmed=1>",
    "</title></style></textarea><script>window.harmed=1</script>",
    "javascript:window.harmed=1",
    "{{7*7}}{% raw %}${7*7}<%= 7*7 %>",
    "&lt;script&gt;&amp;amp;&#60;b&#62;",
    "<!-- --><![CDATA[ ]]><base href=//evil.example/><meta http-equiv=refresh content=0>",
    "\u202eesrever\u202c\u200b\u200d\ufeff\u2066x\u2069",
    "\x01\x07\x08\x1b[31m\x7f\x85\x9b31m\u2028\u2029\r\n\t",
    LONG,
    r"$\frac{1}{2}$ \undefined{ $x_ ^^ $",
    "🎉👩‍👩‍👧‍👦🏳️‍🌈 e\u0301\u0302\u0303" + "\u0300" * 60,
    "هذا نص عربي 日本語 עברית ไทย",
    "'",
    '"',
    "\\",
    '=HYPERLINK("//evil.example")',
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "%00%0a%s%n{0}",
)
"""Texts that would run, break out, turn around, widen or crash a page that takes them for more."""
_NAMES = ("a.b/c-d_e", "x" * 200, "1e9", "A--B", "null", "true", "constructor")


def hostile(folder: Path, url: str | None = None) -> Ledger:
    """A turn for each of `HARM`, with that text wherever there is one; rollbacks, branches, tags
    and publications, with names as far as they are let in."""
    ledger = new_ledger(folder, url)
    patch = _patch(ledger)
    record_turns(ledger, [_harmful(text, patch) for text in HARM])
    rollback_turn(ledger, 2, message=HARM[0])
    rollback_turn(ledger, len(HARM), message=HARM[10])
    for place, name in enumerate(_NAMES):
        create_branch(ledger, name, place + 1)
        create_tag(ledger, f"v/{name}"[:200], place + 1)
    for text in HARM:
        _publish(ledger, text)
    return ledger


def _harmful(text: str, patch: Blob) -> NewTurn:
    edits = [
        Edit(
            prompt=f"{text} is in",
            target=text,
            subject=text,
            old_target=text,
            relation=text,
            rephrasings=(text,),
            locality=(Probe(prompt=text, answer=text),),
            further={text: (Probe(prompt=text, answer=text),)},
        ),
        # Overrides that of the turn before.
        Edit(prompt="The same everywhere is", target=text),
    ]
    return NewTurn(
        parent=None,
        kind="edit",
        method=text,
        hyperparameters={text: text, "learning_rate": 1e-6},
        seed=0,
        message=text,
        dataset=_dataset(text),
        edits=[RecordedEdit(edit=one, row=row) for row, one in enumerate(edits)],
        skipped=[(7, text)],
        patch=replace(patch, changes={**patch.changes}),
        environment={"versions": {text: text}, "device": text},
        notes=[text],
        figures={text: [0.5, 1.5]},
        evaluation=_scores(len(edits), 0.75),
    )


def _dataset(text: str) -> Dataset:
    return Dataset(
        uri=text, revision=text, sha256="0" * 64, format=text, layout=text,
        mapping={text: text}, licence=text,
    )  # fmt: skip


def _publish(ledger: Ledger, text: str) -> None:
    """As a push records itself, to a Hub that lets in every name."""
    with database.writing(ledger.engine) as session:
        turn = session.get_one(TurnRow, 1)
        row = PublicationRow(
            turn_id=turn.id,
            form="patch",
            repo=f"someone/{text}",
            revision=text,
            commit=text,
            tag=text,
            created_at=datetime.now(UTC),
        )
        row.hash = chain.content_hash(chain.publication_content(row, turn=turn.hash))
        session.add(row)
        journal.record(session, journal.PUBLISH, [row], at=row.created_at)
