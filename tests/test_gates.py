"""Gates: what they ask, and that a rejected turn is recorded but leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import database, history
from ledger.adding import Added, AddEdits
from ledger.applying import apply_to_folder
from ledger.editing import add_edits
from ledger.gates import RETENTION, Condition, Gate
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.errors import SettingError
from patches.evaluation import METRICS
from tests.command_line import call
from tests.ledgers import fact, facts, new_ledger, write_facts

HOPELESS, EASY = "edit_success>1", "edit_success>=0"


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


def gated(ledger: Ledger, source: str, gate: str | None, **options: object) -> list[Added]:
    chosen = AddEdits(
        source=source,
        turn_size=3,
        gate=None if gate is None else Gate.parse(gate),
        **options,  # type: ignore[arg-type]
    )
    return list(add_edits(ledger, chosen).turns)


@given(
    conditions=st.lists(
        st.builds(
            Condition,
            metric=st.sampled_from([*METRICS, RETENTION]),
            operator=st.sampled_from([">=", "<=", ">", "<"]),
            limit=st.integers(-200, 200).map(lambda n: n / 100),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_gate_is_read_back_from_its_text(conditions: list[Condition]) -> None:
    gate = Gate(conditions=tuple(conditions))
    assert Gate.parse(str(gate)) == gate
    assert Gate.parse(str(gate).replace(",", " , ")) == gate


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edit_success", "is not METRIC>=NUMBER"),
        ("", "is not METRIC>=NUMBER"),
        ("edit_success>=.6,", "is not METRIC>=NUMBER"),
        ("edit_success=.6", "is not METRIC>=NUMBER"),
        ("success>=.6", "there is no score 'success'; there are edit_success"),
        ("edit_success>=much", "'much' in 'edit_success>=much' is not a number"),
        ("edit_success>=nan", "is not a number"),
    ],
)
def test_what_is_no_gate_is_refused_with_how_to_write_it(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Gate.parse(text)


def test_a_gate_tells_which_conditions_fail_and_by_how_much() -> None:
    gate = Gate.parse("edit_success>=.6,perplexity<20,locality>=.1,retention>.5")
    scores = {"edit_success": 0.523, "perplexity": 8.0, "locality": None}
    assert gate.judge(scores, 0.5).failed == (
        "edit_success 0.523 < 0.6",
        "locality could not be scored: no edit of the turn has what it takes",
        "retention 0.5 <= 0.5",
    )
    assert gate.judge({**scores, "edit_success": 0.6, "locality": 0.2}, None).passed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gate": "edit_success>=0", "evaluate": False}, "leave out --no-evaluate"),
        ({"gate": "retention>=0", "retention": 0}, "leave out --retention 0"),
    ],
)
def test_a_gate_without_scores_is_refused(options: dict[str, object], message: str) -> None:
    text = str(options.pop("gate"))
    with pytest.raises(SettingError, match=message):
        AddEdits(source="x", gate=Gate.parse(text), **options)  # type: ignore[arg-type]


def test_a_turn_that_passes_says_so_for_ever(ledger: Ledger, tmp_path: Path) -> None:
    (added,) = gated(ledger, write_facts(tmp_path / "facts.json", facts(3)), EASY)
    assert added.gate is not None
    assert not added.rejected
    told = show(ledger, 1).to_json()
    assert told["figures"]["gate"] == {"text": "edit_success>=0", "passed": True, "failed": []}
    assert (told["state"], told["rejected"]) == ("in_force", False)


def test_a_rejected_turn_is_recorded_with_its_scores_and_undone_by_the_next(
    ledger: Ledger, tmp_path: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    done = gated(ledger, source, HOPELESS)
    assert [(added.turn, added.rejected) for added in done] == [(1, True), (3, True)]
    turns = log(ledger)
    assert [turn.row.kind for turn in turns] == ["edit", "rollback", "edit", "rollback"]
    assert [turn.undoes for turn in turns] == [(), (1,), (), (3,)]
    assert [turn.is_rejected for turn in turns] == [True, False, True, False]
    assert turns[0].scores is not None
    assert turns[1].row.message.startswith("rejected by the gate: edit_success ")
    assert show(ledger, 1).to_json()["undone_by"] == 2
    assert verify(ledger).ok
    apply_to_folder(ledger, tmp_path / "out")
    assert tensor_digests(open_checkpoint(tmp_path / "out")) == tensor_digests(ledger.checkpoint)


def test_what_follows_a_rejected_turn_is_as_if_that_had_never_been(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    """Turn 2 of 3 is rejected: patch, state, statistics and sample of what comes then."""
    rows = facts(9)
    with new_ledger(tmp_path / "plain", tiny_llama) as plain:
        for one, chosen in ((ledger, (0, 3, 6)), (plain, (0, 6))):
            for start in chosen:
                part = write_facts(tmp_path / f"{start}.json", rows[start : start + 3])
                gated(one, part, HOPELESS if start == 3 else EASY)
        mine, other = show(ledger, 4).to_json(), show(plain, 2).to_json()
    assert mine["tensors"] == other["tensors"]
    assert mine["editor_state"] == other["editor_state"]
    assert mine["scores"]["state"] == other["scores"]["state"]
    assert mine["retention"]["n"] == other["retention"]["n"] == 1
    assert mine["patch"]["bytes"] == other["patch"]["bytes"]
    with database.reading(ledger.engine) as session:
        assert [t.number for t in history.edits_in_force(history.line(session, "main"))] == [1, 4]


def test_rows_of_a_rejected_turn_do_not_count_as_edited(ledger: Ledger, tmp_path: Path) -> None:
    """Not within a run, where a later row would override one of them, and not in the next run."""
    source = write_facts(tmp_path / "facts.json", [*facts(3), fact(0, target="Madrid")])
    done = gated(ledger, source, HOPELESS)
    assert [(added.turn, added.edits, len(added.overrides)) for added in done] == [
        (1, 3, 0),
        (3, 1, 0),
    ]
    done = gated(ledger, source, EASY)
    assert [(added.edits, len(added.overrides)) for added in done] == [(3, 0), (1, 1)]


def test_a_rejected_turn_can_be_brought_into_force(ledger: Ledger, tmp_path: Path) -> None:
    gated(ledger, write_facts(tmp_path / "facts.json", facts(3)), HOPELESS)
    rollback_turn(ledger, 2)
    (first, *_) = log(ledger)
    assert first.in_force
    assert not first.is_rejected
    assert verify(ledger).ok


def test_a_side_memory_is_rejected_like_a_shift(ledger: Ledger, tmp_path: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(3))
    (added,) = gated(ledger, source, "routed_edits>1", method="wise", settings={"iterations": "2"})
    assert added.rejected
    assert verify(ledger).ok
    with database.reading(ledger.engine) as session:
        assert history.patches_in_force(history.line(session, "main")) == []


def test_the_command_goes_on_after_a_rejected_turn_and_ends_with_status_3(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    where = ("--ledger", str(ledger.folder))
    words = ("add-edits", source, *where, "--turn-size", "3")
    rejected = call(capsys, *words, "--gate", HOPELESS)
    assert rejected.status == 3
    assert "turn 3: rejected: edit_success" in rejected.out
    assert "6 edits in turns 1, 3 failed the gate: not in force" in rejected.out
    passed = call(capsys, *words, "--gate", EASY, "--json")
    assert not passed.status
    turns = passed.json()["turns"]
    assert [turn["rejected"] for turn in turns] == [False, False]
    assert turns[0]["gate"]["passed"]
    assert call(capsys, "log", *where).out.count("rejected ") >= 2
