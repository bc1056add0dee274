"""Gates: what they ask, and that a rejected turn is recorded but leaves nothing behind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.adding import Added, AddEdits
from ledger.applying import apply_to_folder
from ledger.chain import turn_content
from ledger.editing import add_edits
from ledger.gates import RETENTION, Condition, Gate
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.replaying import Replay, replay
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.sharing.published_content import check_content
from ledger.sharing.publishing import push
from ledger.sharing.pulling import pull
from ledger.sharing.staging import Push
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.errors import ManifestError, SettingError
from patches.evaluation import METRICS
from patches.patch import PatchFile
from tests.command_line import call, done
from tests.ledgers import contents, fact, facts, new_ledger, write_facts

HOPELESS, EASY = "edit_success>1", "edit_success>=0"


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


def not_called(phase: str, done: int, total: int) -> None:  # noqa: ARG001 (Progress')
    raise AssertionError(phase)


def patch_tensors(ledger: Ledger, turn: int) -> dict[str, bytes]:
    """What the turn's patch holds, but for its header, which tells its number."""
    digest = show(ledger, turn).to_json()["patch"]["digest"]
    with safe_open(ledger.store.path(digest), framework="pt") as file:
        names = file.keys()
        return {name: tensor_bytes(file.get_tensor(name)) for name in names}


def gated(
    ledger: Ledger,
    source: str,
    gate: str | None,
    *,
    progress: Progress = silent,
    **options: object,
) -> list[Added]:
    chosen = AddEdits(
        source=source,
        turn_size=3,
        gate=None if gate is None else Gate.parse(gate),
        **options,  # type: ignore[arg-type]
    )
    return list(add_edits(ledger, chosen, progress=progress).turns)


@given(
    conditions=st.lists(
        st.builds(
            Condition,
            metric=st.sampled_from([*METRICS, RETENTION]),
            operator=st.sampled_from([">=", "<=", ">", "<"]),
            limit=st.floats(allow_nan=False, allow_infinity=False),
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
        ("edit_success>=1e999", "is not a number"),
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


def test_a_score_just_below_does_not_look_as_if_it_had_passed() -> None:
    verdict = Gate.parse("edit_success>=.6").judge({"edit_success": 0.59999}, None)
    assert verdict.failed == ("edit_success 0.59999 < 0.6",)


def test_a_score_that_cannot_come_out_is_refused_before_anything_is_edited(
    ledger: Ledger, tmp_path: Path
) -> None:
    bare = [fact(number, rephrasings=[], locality=[], old_target=None) for number in range(3)]
    source = write_facts(tmp_path / "facts.json", bare)
    reasons = {
        "stability": "no edit has locality prompts",
        "generalization": "no edit has rephrasings",
        "preference": "no edit has an old answer",
        "out_of_distribution": "no edit has probes out of distribution",
        "routed_edits": "only states with side memories have",
    }
    for metric, reason in reasons.items():
        with pytest.raises(SettingError, match=reason):
            gated(ledger, source, f"{metric}>=0", progress=not_called)
    assert log(ledger) == []
    gated(ledger, source, None, evaluate=False)
    for metric, reason in reasons.items():
        options = Replay(first=1, last=1, onto=0, gate=Gate.parse(f"{metric}>=0"))
        with pytest.raises(SettingError, match=reason):
            replay(ledger, options, progress=not_called)
    assert [turn.number for turn in log(ledger)] == [1]


def test_a_later_turn_without_a_score_that_is_asked_for_is_rejected(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [*facts(3), *(fact(number, rephrasings=[]) for number in range(3, 6))]
    source = write_facts(tmp_path / "facts.json", rows)
    first, second = gated(ledger, source, "generalization>=0")
    assert not first.rejected
    assert second.gate is not None
    assert "generalization could not be scored" in second.gate.failed[0]


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


@pytest.mark.parametrize(
    "options",
    [
        {"settings": {"step": "published", "learning_rate": "0.5"}},
        {"settings": {"retention": "1"}},
        {"method": "wise", "settings": {"iterations": "2", "learning_rate": "0.05"}},
    ],
    ids=["published", "first-order", "wise"],
)
def test_what_follows_a_rejected_turn_is_as_if_that_had_never_been(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path, options: dict[str, Any]
) -> None:
    """The middle one of three batches of one run is rejected; then a run of its own goes on."""
    rows = [*facts(3), *(fact(number, old_target=None) for number in range(3, 6)), *facts(3, 6)]
    whole = write_facts(tmp_path / "whole.json", rows)
    last = write_facts(tmp_path / "last.json", facts(3, 9))
    gate = "preference>=0"
    with new_ledger(tmp_path / "plain", tiny_llama) as plain:
        done = gated(ledger, whole, gate, retention=10, **options)
        assert [(one.turn, one.rejected) for one in done] == [(1, False), (2, True), (4, False)]
        gated(ledger, last, gate, retention=10, **options)
        without = write_facts(tmp_path / "without.json", [*rows[:3], *rows[6:]])
        gated(plain, without, gate, retention=10, **options)
        gated(plain, last, gate, retention=10, **options)
        for mine, other in ((4, 2), (5, 3)):
            ours, theirs = show(ledger, mine).to_json(), show(plain, other).to_json()
            assert patch_tensors(ledger, mine) == patch_tensors(plain, other)
            for what in ("tensors", "editor_state", "scores"):
                assert ours[what] == theirs[what], what
            # So large a sample is all edits that hold, whatever the turn's number.
            assert ours["retention"]["n"] == theirs["retention"]["n"] == 3 * (other - 1)
            assert ours["retention"]["now"] == pytest.approx(theirs["retention"]["now"])
            for one, at in ((ledger, mine), (plain, other)):
                apply_to_folder(one, tmp_path / one.folder.name / "out", at=at)
            outs = [open_checkpoint(one.folder / "out") for one in (ledger, plain)]
            assert tensor_digests(outs[0]) == tensor_digests(outs[1])
        parents = [
            PatchFile(one.store.path(show(one, at).to_json()["patch"]["digest"])).header.parent
            for one, at in ((ledger, 4), (plain, 2))
        ]
        assert parents[0] == parents[1]
    assert show(ledger, 3).to_json()["tensors"] == show(ledger, 1).to_json()["tensors"]
    assert verify(ledger).ok
    with database.reading(ledger.engine) as session:
        assert [t.number for t in history.edits_in_force(history.line(session, "main"))] == [
            *(1, 4, 5),
        ]


def test_a_rejected_turn_and_its_rollback_are_recorded_together_or_not_at_all(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(3))
    before = contents(ledger)
    flush = Session.flush

    def failing(session: Session, objects: object = None) -> None:
        if any(isinstance(row, TurnRow) and row.kind == "rollback" for row in session.new):
            raise KeyboardInterrupt
        flush(session, objects)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Session, "flush", failing)
    with pytest.raises(KeyboardInterrupt):
        gated(ledger, source, HOPELESS)
    monkeypatch.undo()
    assert contents(ledger) == before
    assert [added.turn for added in gated(ledger, source, HOPELESS)] == [1]


@pytest.mark.usefixtures("hub")
def test_a_history_with_a_rejected_turn_is_published_and_pulled(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    rows = [*facts(3), *(fact(number, old_target=None) for number in range(3, 6))]
    gated(ledger, write_facts(tmp_path / "facts.json", rows), "preference>=0")
    push(ledger, Push(repo="me/edits", form="patch"))
    with new_ledger(tmp_path / "other", tiny_llama) as other:
        assert pull(other, "me/edits").turns == [1, 2, 3]
        other.branch = "me/edits"
        for turn in (1, 2, 3):
            mine, theirs = show(other, turn).to_json(), show(ledger, turn).to_json()
            for what in ("hash", "figures", "rejected", "state", "undone_by"):
                assert mine[what] == theirs[what]
        assert [turn.is_rejected for turn in log(other)] == [False, True, False]
        assert verify(other).ok


def test_what_a_published_turn_says_of_its_gate_is_checked(ledger: Ledger, tmp_path: Path) -> None:
    gated(ledger, write_facts(tmp_path / "facts.json", facts(3)), EASY)
    with database.reading(ledger.engine) as session:
        turn = session.scalars(select(TurnRow)).one()
        content = turn_content(
            turn, base="", dataset=None, skipped=[], undoes=[], replaces=[], parent=""
        )
    check_content(content, "turn 1")
    wrong: list[object] = [1.0, {"text": "x", "passed": 1, "failed": []}, {"text": "x"}, {}, ["x"]]
    for verdict in wrong:
        with pytest.raises(ManifestError, match="gate"):
            check_content({**content, "figures": {"gate": verdict}}, "turn 1")


def test_a_rejected_turn_is_not_edited_again_by_replay(ledger: Ledger, tmp_path: Path) -> None:
    rows = [*facts(3), *(fact(number, old_target=None) for number in range(3, 6))]
    gated(ledger, write_facts(tmp_path / "facts.json", rows), "preference>=0")
    run = replay(ledger, Replay(first=1, last=3, onto=0))
    assert [added.copied_from for added in run.turns] == [log(ledger)[0].hash]
    assert run.left_out == [(2, "is rolled back"), (3, "is a rollback")]


def test_a_replay_has_a_gate_of_its_own_and_goes_on_after_a_rejected_turn(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [fact(0), fact(1, old_target=None), fact(2)]
    for number, row in enumerate(rows):
        gated(ledger, write_facts(tmp_path / f"{number}.json", [row]), None)
    gate = Gate.parse("preference>=0")
    options = Replay(first=1, last=3, onto=0, gate=gate)
    done = list(replay(ledger, options).turns)
    assert [(one.turn, one.rejected) for one in done] == [(1, False), (2, True), (4, False)]
    # The same call tries what was rejected, and nothing else.
    again = list(replay(ledger, options).turns)
    assert [(one.turn, one.rejected) for one in again] == [(5, True)]
    assert verify(ledger).ok


def test_only_turns_without_their_gate_s_scores_are_refused_for_a_replay() -> None:
    with pytest.raises(SettingError, match="leave out --no-evaluate"):
        Replay(first=1, last=1, gate=Gate.parse(EASY), evaluate=False)


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
    assert passed.json()["rejected"] == []


def test_commands_that_read_say_that_a_turn_was_rejected(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [*facts(3), *(fact(number, old_target=None) for number in range(3, 6))]
    source = write_facts(tmp_path / "facts.json", rows)
    gated(ledger, source, "preference>=0")
    where = ("--ledger", str(ledger.folder))
    shown = done(capsys, "show", "2", *where).out
    assert "2 (edit, rejected by turn 3)" in shown
    assert "preference>=0: failed, preference could not be scored" in shown
    assert "preference>=0: passed" in done(capsys, "show", "1", *where).out
    assert "(1 rejected)" in done(capsys, "status", *where).out
    assert done(capsys, "status", "--json", *where).json()["turns"]["rejected"] == 1
    told = done(capsys, "log", *where).out.splitlines()
    assert [("rejected" in line.split("ultraedit")[0]) for line in told[1:3]] == [False, True]
    assert "2 ultraedit, 3 edits, rejected" in done(capsys, "log", "--graph", *where).out
    nodes = done(capsys, "log", "--graph", "--json", *where).json()
    assert [node["rejected"] for node in nodes] == [False, True, False]


def test_a_replay_on_the_command_line_ends_with_status_3(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gated(ledger, write_facts(tmp_path / "facts.json", facts(3)), None)
    words = ("replay", "1", "--onto", "0", "--ledger", str(ledger.folder), "--gate", HOPELESS)
    told = call(capsys, *words)
    assert told.status == 3
    assert "(undone by turn 2)" in told.out
    assert "3 edits in turn 1 failed the gate: not in force" in told.out
    assert call(capsys, *words, "--json").json()["rejected"] == [3]
