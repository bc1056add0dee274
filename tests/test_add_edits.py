"""Adding edits: how a run is cut into turns, what each records, and that a failure leaves none."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import select

from ledger import chain, database, history
from ledger.applying import apply_to_folder
from ledger.editing import Added, AddEdits, add_edits
from ledger.orm import EditRow, EvaluationRow, OutcomeRow
from ledger.reporting import log, show
from ledger.store import Store
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from patches.canonical import canonical_json, sha256
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.errors import EditingError, HistoryError, SettingError
from patches.patch import PatchFile, read_state
from tests.ledgers import add, contents, fact, facts, new_ledger, write_facts
from tests.tiny_models import build

DOWN = "model.layers.2.mlp.down_proj"
PHASES = {"capture", "solve", "store", "apply", "evaluate", "total"}


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(7))


def record(ledger: Ledger, source: str, **options: object) -> list[Added]:
    return list(add_edits(ledger, AddEdits(source=source, **options)).turns)  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("size", "turns"), [(1, [1] * 7), (2, [2, 2, 2, 1]), (3, [3, 3, 1]), (7, [7]), (100, [7])]
)
def test_every_row_is_edited_in_turns_of_the_size_and_a_ragged_last_one(
    ledger: Ledger, source: str, size: int, turns: list[int]
) -> None:
    assert [one.edits for one in add(ledger, source, turn_size=size, evaluate=False)] == turns
    details = [show(ledger, number + 1) for number in range(len(turns))]
    assert [edit["row"] for turn in details for edit in turn.edits] == list(range(7))
    assert [len(turn.edits) for turn in details] == turns
    assert verify(ledger).problems == []


def test_a_turn_records_where_it_came_from_and_how_it_was_made(ledger: Ledger, source: str) -> None:
    record(
        ledger,
        source,
        turn_size=4,
        seed=11,
        message="first facts",
        licence="cc0",
        settings={"learning_rate": "0.5", "batch_size": "2"},
    )
    told = show(ledger, 1).to_json()
    assert told["method"] == "ultraedit"
    assert told["hyperparameters"] == {
        "modules": [DOWN],
        "step": "published",
        "learning_rate": 0.5,
        "ridge": 1.0,
        "batch_size": 2,
        "tokens": "target",
        "variance": "published",
        "retention": 0.0,
        "locality": 0.0,
        "contrast": 0.0,
    }
    assert (told["seed"], told["message"]) == (11, "first facts")
    assert told["author"]
    assert told["dataset"] == {
        "uri": source,
        "revision": None,
        "sha256": sha256(Path(source).read_bytes()),
        "format": "json",
        "layout": "canonical",
        "mapping": {},
        "licence": "cc0",
    }
    assert told["rows"] == [0, 3]
    assert any("nobody has tuned llama" in note for note in told["notes"])


def test_a_turn_records_versions_device_times_and_memory(ledger: Ledger, source: str) -> None:
    [added] = add(ledger, source, turn_size=10)
    told = show(ledger, 1).to_json()
    environment = told["environment"]
    assert environment["versions"]["torch"] == torch.__version__
    assert {"python", "transformers", "safetensors", "tokenizers", "sqlalchemy"} <= set(
        environment["versions"]
    )
    assert (environment["device"], environment["dtype"]) == ("cpu", "bfloat16")
    assert environment["threads"] == 1
    assert set(told["seconds"]) == PHASES
    assert all(seconds > 0 for seconds in told["seconds"].values())
    assert told["seconds"] == added.seconds
    # The process has torch loaded, and is not larger than any machine that runs these tests.
    assert 50e6 < told["peak_memory"] < 1e12


def test_a_turn_records_patch_editor_state_tensors_and_chain(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    first, second = add(ledger, source, turn_size=4, evaluate=False)
    turns = [show(ledger, number).to_json() for number in (1, 2)]
    assert [turn["parent"] for turn in turns] == [None, turns[0]["hash"]]
    for turn, added in zip(turns, (first, second), strict=True):
        patch = PatchFile(ledger.store.open(turn["patch"]["digest"]))
        assert patch.header.base == ledger.base.fingerprint
        assert patch.header.turn == turn["turn"]
        assert turn["patch"]["bytes"] == patch.path.stat().st_size == added.patch_bytes
        assert turn["patch"]["rank"] == {f"{DOWN}.weight": patch.changes[f"{DOWN}.weight"].rank}
        state = read_state(ledger.store.open(turn["editor_state"]))
        assert len(state[f"keys/{DOWN}"]) == int(added.figures["tokens"])
    assert (
        PatchFile(ledger.store.path(turns[1]["patch"]["digest"])).header.parent
        == (turns[0]["patch"]["digest"])
    )
    for turn in turns:
        apply_to_folder(ledger, tmp_path / "out", at=turn["turn"])
        written = tensor_digests(open_checkpoint(tmp_path / "out"), names=turn["tensors"])
        assert turn["tensors"] == written
    assert turns[0]["tensors"] != turns[1]["tensors"]


def test_every_edit_is_recorded_in_full(ledger: Ledger, tmp_path: Path) -> None:
    row = fact(3, further={"personas": [["You are a poet. It is", "a piano"]]})
    add(ledger, write_facts(tmp_path / "facts.json", [fact(0), row]), evaluate=False)
    with database.reading(ledger.engine) as session:
        stored = list(session.scalars(select(EditRow).order_by(EditRow.position)))
        edit = history.edit_of(stored[1])
    assert (edit.prompt, edit.target) == (row["prompt"], row["target"])
    assert (edit.subject, edit.old_target) == (row["subject"], row["old_target"])
    assert list(edit.rephrasings) == row["rephrasings"]
    assert [[probe.prompt, probe.answer] for probe in edit.locality] == row["locality"]
    assert [probe.answer for probe in edit.further["personas"]] == ["a piano"]
    probes = canonical_json(edit.probes()).decode()
    assert stored[1].digest == chain.edit_digest(edit, 1, probes)


def test_scores_of_the_turn_are_recorded_with_the_outcome_of_every_edit(
    ledger: Ledger, source: str
) -> None:
    [added] = add(ledger, source, turn_size=7)
    [turn] = log(ledger)
    assert added.scores is not None
    assert turn.to_json()["scores"] == {"n": 7, **added.scores}
    assert added.scores["state"]["edit_success"] > added.scores["base"]["edit_success"]
    assert added.scores["base"]["stability"] == 1
    for edit in show(ledger, 1).edits:
        assert edit["base"]["edit_success"] is not None
        assert edit["state"]["generalization"] is not None
        assert edit["state"]["preference"] in (0, 1)


def test_without_evaluation_no_scores_are_recorded_and_the_patches_are_the_same(
    ledger: Ledger, source: str, tmp_path: Path, tiny_llama: Path
) -> None:
    added = add(ledger, source, evaluate=False)
    assert [turn.scores for turn in added] == [None, None, None]
    assert log(ledger)[0].to_json()["scores"] is None
    with database.reading(ledger.engine) as session:
        assert not session.scalars(select(EvaluationRow)).all()
        assert not session.scalars(select(OutcomeRow)).all()
    with new_ledger(tmp_path / "scored", tiny_llama) as scored:
        add(scored, source)
        assert [t.row.patch_digest for t in log(scored)] == [
            t.row.patch_digest for t in log(ledger)
        ]


def test_a_shift_that_is_not_finite_fails_with_turn_and_rows_and_records_nothing(
    ledger: Ledger, source: str
) -> None:
    add(ledger, source, limit=3, evaluate=False)
    before = contents(ledger)
    with pytest.raises(EditingError, match=r"turn 2 \(rows 3 to 5 of .*facts.json\).*rate.*record"):
        add(ledger, source, learning_rate=1e38)
    assert contents(ledger) == before
    assert verify(ledger).problems == []
    assert [added.turn for added in add(ledger, source, evaluate=False)] == [2, 3]


def test_a_shift_that_overflows_the_model_s_dtype_fails_and_names_the_tensor(
    source: str, tmp_path: Path
) -> None:
    half = build(tmp_path / "half", dtype=torch.float16)
    with new_ledger(tmp_path / "halved", half) as ledger:
        before = contents(ledger)
        with pytest.raises(EditingError, match=rf"turn 1 \(rows 0 to 2 .*tensor {DOWN}.*rate"):
            add(ledger, source, learning_rate=1e8)
        assert contents(ledger) == before


def test_a_turn_that_cannot_change_anything_fails_and_records_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    before = contents(ledger)
    source = write_facts(tmp_path / "one.json", [fact(0, target="a")])
    with pytest.raises(EditingError, match=r"turn 1 \(rows 0 to 0 .*the shift is zero"):
        record(ledger, source, settings={"step": "published"})
    assert contents(ledger) == before


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"turn_size": 0}, "--turn-size"),
        ({"method": "magic"}, "--method is one of ultraedit"),
        ({"resume": True, "settings": {"ridge": "2"}}, "--resume goes on with the settings"),
        ({"resume": True, "modules": ("x",)}, "--resume goes on with the settings"),
        ({"settings": {"rate": "1"}}, "no hyperparameter 'rate'"),
        ({"settings": {"ridge": "much"}}, "--set ridge=much"),
        ({"modules": ("nothing*here",)}, "matches no linear module"),
        ({"device": "cuda:77"}, "--device cuda:77"),
        ({"dtype": "int8"}, "--dtype"),
        ({"offset": -1}, "offset is -1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_recorded(
    ledger: Ledger, source: str, options: dict[str, object], reason: str
) -> None:
    before = contents(ledger)
    with pytest.raises(SettingError, match=reason):
        record(ledger, source, **options)
    assert contents(ledger) == before


def test_a_turn_that_someone_else_recorded_meanwhile_stops_the_run_with_nothing_recorded(
    ledger: Ledger, source: str
) -> None:
    turns = add_edits(ledger, AddEdits(source=source, turn_size=2, evaluate=False)).turns
    next(turns)
    with open_ledger(ledger.folder) as other:
        add(other, source, offset=6, evaluate=False)
        before = contents(other)
        with pytest.raises(HistoryError, match="a new turn from someone else"):
            next(turns)
        assert contents(other) == before
        assert verify(other).problems == []
    assert [turn.row.edits for turn in log(ledger)] == [2, 1]


def test_a_run_in_float32_records_the_digests_that_the_checkpoint_will_have(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    add(ledger, source, dtype="float32", evaluate=False)
    assert show(ledger, 1).to_json()["environment"]["dtype"] == "float32"
    for turn in log(ledger):
        applied = apply_to_folder(ledger, tmp_path / "out", at=turn.number)
        assert applied.tensors == turn.row.tensors
        written = tensor_digests(open_checkpoint(tmp_path / "out"), names=turn.row.tensors)
        assert written == turn.row.tensors


def test_patches_read_per_turn_stay_the_same_however_many_turns_came_before(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    checked: list[str] = []
    start, check = PatchFile.__init__, Store.open

    def counted_start(patch: PatchFile, path: Path) -> None:
        opened.append(path)
        start(patch, path)

    def counted_check(store: Store, digest: str) -> Path:
        checked.append(digest)
        return check(store, digest)

    monkeypatch.setattr(PatchFile, "__init__", counted_start)
    monkeypatch.setattr(Store, "open", counted_check)
    source = write_facts(tmp_path / "many.json", facts(12))
    run = add_edits(ledger, AddEdits(source=source, turn_size=2))
    reads = []
    for _ in run.turns:
        reads.append((len(opened), len(checked)))
        opened.clear()
        checked.clear()
    assert len(reads) == 6
    assert set(reads) == {(0, 0)}
