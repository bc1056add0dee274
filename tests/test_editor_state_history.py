"""The editor state follows the history: after going back, as if the later turns had never been."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from torch import Tensor

from ledger import database, history, keyframes
from ledger.branching import switch
from ledger.editing import AddEdits, add_edits
from ledger.history import Step
from ledger.orm import KeyframeRow
from ledger.reporting import log, show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.dtypes import tensor_bytes
from patches.editors import EDITORS, Facts
from patches.live import LiveModel
from patches.patch import PatchFile, read_state
from patches.tokens import encode
from tests.ledgers import Fact, copied, facts, new_ledger, write_facts
from tests.side_memories import DOWN, QUICK
from tests.tiny_models import load, tokenizer

METHODS = ("ultraedit", "wise")
SETTINGS = {"ultraedit": {}, "wise": {name: str(value) for name, value in QUICK.items()}}


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, method: str) -> Path:
    """Folder of a ledger with turns 1 to 4. Read only."""
    folder = tmp_path_factory.mktemp("recorded")
    with new_ledger(folder / "ledger", tiny_llama) as made:
        edit(made, folder, method, 0, turns=4)
    return folder / "ledger"


@pytest.fixture
def four(tmp_path: Path, recorded: Path) -> Iterator[Ledger]:
    """A copy of it."""
    with copied(recorded, tmp_path / "ledger") as opened:
        yield opened


@pytest.fixture(scope="module")
def straight(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, method: str
) -> Iterator[Ledger]:
    """Turns 1 and 2, and then 3 of the facts from number 20 on, without a way round. Read only."""
    folder = tmp_path_factory.mktemp("straight")
    with new_ledger(folder / "ledger", tiny_llama) as made:
        edit(made, folder, method, 0, turns=2)
        edit(made, folder, method, 20)
        yield made


def probed(count: int, start: int) -> list[Fact]:
    """Facts whose locality prompts differ: what WISE keeps from turn to turn."""
    return [
        {**row, "locality": [[f"Toyota {start + place} is produced by", "Toyota"]]}
        for place, row in enumerate(facts(count, start))
    ]


def edit(ledger: Ledger, folder: Path, method: str, start: int, turns: int = 1) -> None:
    """Turns of two facts each, from number `start` on."""
    source = write_facts(folder / f"facts-{start}.json", probed(2 * turns, start))
    options = AddEdits(
        source=source,
        method=method,
        turn_size=2,
        evaluate=False,
        modules=(DOWN.format(2),),
        settings=SETTINGS[method],
    )
    assert len(list(add_edits(ledger, options).turns)) == turns


def line(ledger: Ledger) -> list[Step]:
    with database.reading(ledger.engine) as session:
        return history.line(session, ledger.branch)


def bits(ledger: Ledger, step: Step) -> dict[str, list[bytes]]:
    """What a patch does to each tensor, whatever its turn's number."""
    patch = PatchFile(ledger.store.path(step.patch_digest or ""))
    found = {}
    for name in {*patch.changes, *patch.memories}:
        parts = vars(patch.delta(name)).values()
        found[name] = [tensor_bytes(part) for part in parts if isinstance(part, Tensor)]
        if name in patch.memories:
            found[name].append(repr(patch.memories[name].routing).encode())
    assert all(found.values())
    return found


def states_used(ledger: Ledger, steps: Sequence[Step]) -> list[dict[str, Tensor]]:
    return [dict(read_state(ledger.store.path(step.editor_state_digest or ""))) for step in steps]


def test_after_going_back_the_next_turn_is_the_one_that_it_would_have_been(
    four: Ledger, straight: Ledger, tmp_path: Path, method: str
) -> None:
    rollback_to(four, 2)
    edit(four, tmp_path, method, 20)
    went_back, never_went = line(four)[-1], line(straight)[-1]
    assert went_back.number == 6
    assert bits(four, went_back) == bits(straight, never_went)
    assert went_back.editor_state_digest == never_went.editor_state_digest
    assert show(four, 6).turn.row.tensors == show(straight, 3).turn.row.tensors
    assert verify(four).problems == []


def test_on_a_branch_from_there_it_is_the_same_patch_file(
    four: Ledger, straight: Ledger, tmp_path: Path, method: str
) -> None:
    switch(four, "earlier", create=True, at=2)
    edit(four, tmp_path, method, 20)
    branched, never_went = line(four), line(straight)
    assert [s.patch_digest for s in branched] == [s.patch_digest for s in never_went]
    states = [step.editor_state_digest for step in never_went]
    assert [step.editor_state_digest for step in branched] == states
    # It does matter where one begins.
    switch(four, "main")
    edit(four, tmp_path, method, 20)
    assert bits(four, line(four)[-1]) != bits(straight, never_went[-1])
    assert verify(four).problems == []


def test_after_undoing_one_turn_the_state_is_that_of_the_others_and_the_turn_says_so(
    ledger: Ledger, tmp_path: Path, method: str
) -> None:
    edit(ledger, tmp_path, method, 0, turns=3)
    rollback_turn(ledger, 2)
    [note] = log(ledger)[-1].row.notes
    assert note == "editor state: the next edits go on from that of turns 1, 3"
    edit(ledger, tmp_path, method, 20)
    turns = line(ledger)
    kept = [turns[0], turns[2]]
    # An editor of our own, on these two turns only, as if the second had never been.
    live = LiveModel(load(ledger.checkpoint.folder), ledger.checkpoint)
    for step in kept:
        live.advance(PatchFile(ledger.store.path(step.patch_digest or "")))
    settings = show(ledger, 1).to_json()["hyperparameters"]
    editor = EDITORS[method].start(live, tokenizer(), settings, states_used(ledger, kept))
    with database.reading(ledger.engine) as session:
        edits = [history.edit_of(row) for row in history.edit_rows(session, [turns[-1].id])]
    encoded = encode(tokenizer(), [one.prompt for one in edits], [one.target for one in edits])
    expected = editor.edit(Facts(edits=edits, encoded=encoded))
    found = bits(ledger, turns[-1])
    assert set(found) == set(expected.changes)
    for name, change in expected.changes.items():
        parts = [part for part in vars(change.delta).values() if isinstance(part, Tensor)]
        assert found[name][: len(parts)] == [tensor_bytes(part) for part in parts]
    assert verify(ledger).problems == []


def test_statistics_that_were_folded_go_on_to_the_same_bits(
    ledger: Ledger,
    tmp_path: Path,
    tiny_llama: Path,
    method: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "unfolded-facts").mkdir()
    with new_ledger(tmp_path / "unfolded", tiny_llama) as unfolded:
        for start in (0, 6):
            edit(unfolded, tmp_path / "unfolded-facts", method, start, turns=3)
        expected = [step.patch_digest for step in line(unfolded)]
    monkeypatch.setattr(keyframes, "_EVERY", 2)
    for start in (0, 6):
        edit(ledger, tmp_path, method, start, turns=3)
    assert [step.patch_digest for step in line(ledger)] == expected
    with database.reading(ledger.engine) as session:
        kinds = {row.kind for row in session.query(KeyframeRow)}
    assert "statistics" in kinds
    # Another way back, to turns in the middle of what was folded.
    rollback_to(ledger, 4)
    edit(ledger, tmp_path, method, 20)
    switch(ledger, "unfolded", create=True, at=4)
    monkeypatch.undo()
    edit(ledger, tmp_path, method, 20)
    with database.reading(ledger.engine) as session:
        back = history.line(session, "main")[-1]
    assert bits(ledger, back) == bits(ledger, line(ledger)[-1])
    assert verify(ledger).problems == []
