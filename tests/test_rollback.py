"""Rolling back: which turns are in force afterwards, and that the bytes are exactly those."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledger.applying import apply_to_folder
from ledger.history import active_turns, edits_in_force
from ledger.reporting import log, show
from ledger.rolling_back import RolledBack, rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.errors import HistoryError
from patches.patch import PatchFile
from patches.rounding import round_to
from tests.ledgers import add, contents, copied, facts, files, new_ledger, write_facts
from tests.tiny_models import build, load

NAME = "model.layers.2.mlp.down_proj.weight"
EDITS = 4


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The folder of a ledger with four edit turns. Copy it before using it."""
    folder = tmp_path_factory.mktemp("recorded")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        source = write_facts(folder / "facts.json", facts(2 * EDITS))
        add(ledger, source, turn_size=2, evaluate=False)
    return folder / "ledger"


@pytest.fixture
def ledger(tmp_path: Path, recorded: Path) -> Iterator[Ledger]:
    with copied(recorded, tmp_path / "ledger") as ledger:
        yield ledger


def in_force(ledger: Ledger) -> list[int]:
    return [turn.number for turn in edits_in_force(log(ledger))]


def is_active(number: int, undoes: dict[int, list[int]]) -> bool:
    """The rule in its plainest form: no later turn that is itself in force undoes it."""
    later = [turn for turn in undoes if turn > number and number in undoes[turn]]
    return not any(is_active(turn, undoes) for turn in later)


@st.composite
def histories(draw: st.DrawFn) -> dict[int, list[int]]:
    """What each turn undoes: for some nothing, for others some of the turns before them."""
    undoes: dict[int, list[int]] = {}
    for number in range(1, draw(st.integers(1, 9)) + 1):
        undoes[number] = [earlier for earlier in undoes if draw(st.booleans())]
    return undoes


@given(histories())
def test_the_turns_in_force_are_those_that_no_turn_in_force_undoes(
    undoes: dict[int, list[int]],
) -> None:
    assert active_turns(undoes) == {number for number in undoes if is_active(number, undoes)}


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, EDITS + 6)), max_size=7))
def test_any_sequence_of_rollbacks_leads_to_the_turns_that_a_naive_ledger_has_in_force(
    recorded: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
) -> None:
    folder = tmp_path_factory.mktemp("rollbacks")
    shutil.copytree(recorded, folder, dirs_exist_ok=True)
    undoes: dict[int, list[int]] = {number: [] for number in range(1, EDITS + 1)}

    def edits(history: dict[int, list[int]]) -> list[int]:
        return [number for number in range(1, EDITS + 1) if is_active(number, history)]

    # What a person writes down who notes the edits in force after every turn.
    noted = {last: list(range(1, last + 1)) for last in range(EDITS + 1)}
    with open_ledger(folder) as ledger:
        for to, number in steps:
            last = len(undoes)
            if to and number <= last and noted[number] != noted[last]:
                rollback_to(ledger, number)
                noted[last + 1] = noted[number]
                undoes[last + 1] = list(range(number + 1, last + 1))
            elif not to and 1 <= number <= last and is_active(number, undoes):
                rollback_turn(ledger, number)
                undoes[last + 1] = [number]
                noted[last + 1] = edits(undoes)
            else:
                with pytest.raises(HistoryError):
                    (rollback_to if to else rollback_turn)(ledger, number)
            assert in_force(ledger) == noted[len(undoes)] == edits(undoes)
        assert verify(ledger).problems == []
        assert len(log(ledger)) == len(undoes)


@pytest.mark.parametrize("undone", range(1, EDITS + 1))
def test_undoing_a_turn_gives_the_bytes_of_base_plus_all_others(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, undone: int
) -> None:
    turns = log(ledger)
    rolled_back = rollback_turn(ledger, undone)
    others = [number for number in range(1, EDITS + 1) if number != undone]
    assert rolled_back == RolledBack(
        turn=EDITS + 1, undoes=[undone], in_force=others, brought_back=[], separated=[]
    )
    total = torch.zeros(32, 48, dtype=torch.float64)
    for number in others:
        patch = PatchFile(ledger.store.path(turns[number - 1].row.patch_digest or ""))
        parts = patch.delta(NAME).tensors()
        total += parts["B"].double().T @ parts["A"].double()
    base = load(tiny_llama).get_parameter(NAME).detach()
    expected = sha256(tensor_bytes(round_to(base.double() + total, torch.bfloat16)))
    assert log(ledger)[-1].row.tensors == {NAME: expected}
    apply_to_folder(ledger, tmp_path / "out")
    assert tensor_digests(open_checkpoint(tmp_path / "out"), names=[NAME]) == {NAME: expected}


def test_going_back_to_a_turn_gives_its_digests_and_to_zero_the_base_s_files(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    turns = log(ledger)
    for number in (3, 1, 2, 0):
        rolled_back = rollback_to(ledger, number)
        assert rolled_back.in_force == list(range(1, number + 1))
        now = log(ledger)[-1].row
        assert now.tensors == (turns[number - 1].row.tensors if number else {})
        apply_to_folder(ledger, tmp_path / "out")
    written = files(tmp_path / "out")
    del written["ledger.json"]
    assert written == files(tiny_llama)


def test_a_rollback_is_a_turn_that_says_what_it_undoes_and_keeps_what_was(ledger: Ledger) -> None:
    before = contents(ledger)
    rollback_to(ledger, 2, message="they were wrong")
    turn = show(ledger, 5).to_json()
    assert (turn["kind"], turn["undoes"]) == ("rollback", [3, 4])
    assert (turn["method"], turn["patch"], turn["edits"]) == (None, None, 0)
    assert turn["message"] == "they were wrong"
    assert turn["parent"] == log(ledger)[3].row.hash
    assert set(turn["seconds"]) == {"rebuild", "total"}
    assert [turn.state for turn in log(ledger)] == [
        *("in_force", "in_force", "rolled_back", "rolled_back", "in_force"),
    ]
    assert [show(ledger, number).undone_by for number in (2, 3, 4)] == [None, 5, 5]
    after = contents(ledger)
    assert after["edits"] == before["edits"]
    assert after["blobs"] == before["blobs"]
    assert [row for row in after["turns"] if row in before["turns"]] == before["turns"]


def test_a_rolled_back_turn_is_brought_back_by_rolling_back_the_rollback(ledger: Ledger) -> None:
    state = log(ledger)[-1].row.tensors
    rollback_turn(ledger, 2)
    brought = rollback_turn(ledger, 5)
    assert (brought.in_force, brought.brought_back) == ([1, 2, 3, 4], [2])
    assert log(ledger)[-1].row.tensors == state
    assert rollback_turn(ledger, 6).in_force == [1, 3, 4]
    rollback_to(ledger, 0)
    assert rollback_turn(ledger, 8).brought_back == [1, 3, 4]


def test_going_back_to_before_a_rollback_brings_back_what_it_had_undone(ledger: Ledger) -> None:
    rollback_to(ledger, 1)
    add_back = rollback_to(ledger, 4)
    assert add_back.brought_back == [2, 3, 4]
    assert log(ledger)[-1].row.tensors == log(ledger)[3].row.tensors


def test_undoing_what_is_undone_is_an_error_that_tells_how_to_bring_it_back(
    ledger: Ledger,
) -> None:
    rollback_turn(ledger, 3)
    before = contents(ledger)
    with pytest.raises(
        HistoryError, match=r"turn 3 is rolled back already, by turn 5;.*ledger rollback turn 5"
    ):
        rollback_turn(ledger, 3)
    assert contents(ledger) == before


@pytest.mark.parametrize("number", [-1, 0, 5, 99])
def test_undoing_a_turn_that_does_not_exist_is_an_error(ledger: Ledger, number: int) -> None:
    before = contents(ledger)
    with pytest.raises(HistoryError, match=f"no turn {number}: the turns are 1 to 4"):
        rollback_turn(ledger, number)
    if number:
        with pytest.raises(HistoryError, match=f"no turn {number}: the turns are 1 to 4"):
            rollback_to(ledger, number)
    assert contents(ledger) == before


def test_going_back_to_the_state_that_is_is_an_error(ledger: Ledger) -> None:
    with pytest.raises(HistoryError, match="the state is that of turn 4 already"):
        rollback_to(ledger, 4)
    rollback_turn(ledger, 4)
    with pytest.raises(HistoryError, match="the state is that of turn 3 already"):
        rollback_to(ledger, 3)
    assert len(log(ledger)) == 5


def test_there_is_nothing_to_roll_back_in_an_empty_ledger(tmp_path: Path, tiny_llama: Path) -> None:
    with new_ledger(tmp_path / "empty", tiny_llama) as empty:
        for number in (0, 1):
            with pytest.raises(HistoryError, match="the ledger has no turns yet"):
                rollback_to(empty, number)
            with pytest.raises(HistoryError, match="the ledger has no turns yet"):
                rollback_turn(empty, number)
        assert log(empty) == []


def test_a_turn_recorded_while_a_rollback_was_computed_stops_the_rollback(ledger: Ledger) -> None:
    other = open_ledger(ledger.folder)

    def meanwhile(phase: str, done: int, total: int) -> None:
        assert (phase, done, total) == ("rebuild", 1, 1)
        rollback_turn(other, 4)

    with pytest.raises(HistoryError, match="a new turn from someone else"):
        rollback_turn(ledger, 2, progress=meanwhile)
    other.close()
    assert [turn.undoes for turn in log(ledger)] == [(), (), (), (), (4,)]
    assert verify(ledger).problems == []


def test_an_undone_turn_is_undone_exactly_where_adding_and_subtracting_would_not_be(
    tmp_path: Path,
) -> None:
    model = build(tmp_path / "model")
    base = load(model).get_parameter(NAME).detach()
    with new_ledger(tmp_path / "ledger", model) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(3))
        add(ledger, source, learning_rate=50.0, evaluate=False)
        [turn] = log(ledger)
        parts = PatchFile(ledger.store.path(turn.row.patch_digest or "")).delta(NAME).tensors()
        delta = parts["B"].T @ parts["A"].float()
        naive = (base + delta.bfloat16()) - delta.bfloat16()
        assert not torch.equal(naive, base)
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, tmp_path / "out")
    assert torch.equal(load(tmp_path / "out").get_parameter(NAME), base)
