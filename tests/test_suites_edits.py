"""Suites on edits: free answers and further probes, where base and state must differ and do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select
from torch import nn

from ledger import database, suites
from ledger.applying import apply_to_folder
from ledger.evaluating import evaluate
from ledger.orm import EditRow, EvaluationRow, OutcomeRow, TurnRow
from ledger.reporting import log
from ledger.suites import asking
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches import free_answers
from patches.edit import Edit
from patches.errors import HistoryError, SettingError
from tests.ledgers import add, contents, new_ledger, write_facts
from tests.ledgers import facts as plain_facts
from tests.taught_ledgers import REPHRASED, facts, taught_ledger
from tests.tiny_models import CONTEXT, EOS, build, load, tokenizer

WORDS = tokenizer()


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with taught_ledger(tmp_path_factory.mktemp("taught")) as ledger:
        yield ledger


@torch.inference_mode()
def says(model: nn.Module, prompt: str, tokens: int) -> str:
    """What the model goes on with, one whole pass per token."""
    ids = WORDS(prompt)["input_ids"]
    start = len(ids)
    while len(ids) < start + tokens:
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == WORDS.convert_tokens_to_ids(EOS):
            break
        ids.append(token)
    return str(WORDS.decode(ids[start:], skip_special_tokens=True)).strip()


def length(answer: str) -> int:
    return len(WORDS(f" {answer}", add_special_tokens=False)["input_ids"])


def test_what_the_state_was_taught_it_gives_by_itself_and_the_base_does_not(taught: Ledger) -> None:
    found = evaluate(taught, suite="generation")
    assert found.base == {"answer_match": 0, "rephrasing_match": 0}
    assert found.state == {"answer_match": 1, "rephrasing_match": REPHRASED / 6}
    assert (found.suite, found.n, found.scope) == ("generation", 6, None)
    each = [edit["state"] for edit in found.edits]
    assert [one["rephrasing_match"] for one in each] == [1] * REPHRASED + [0] * (6 - REPHRASED)
    assert [one["answer"] for one in each] == [f"{fact['target']}." for fact in facts()]


def test_answers_are_those_of_greedy_generation_one_token_after_the_other(
    taught: Ledger, tmp_path: Path
) -> None:
    apply_to_folder(taught, tmp_path / "state")
    models = {"base": load(taught.checkpoint.folder), "state": load(tmp_path / "state")}
    for edit in evaluate(taught, suite="generation").edits:
        for side, model in models.items():
            expected = says(model, edit["prompt"], length(edit["target"]) + 4)
            assert edit[side]["answer"] == expected


def test_the_models_own_settings_for_generating_do_not_count(tmp_path: Path) -> None:
    model: Any = load(build(tmp_path / "model", dtype=torch.float32))
    edits = [Edit(prompt="The capital of France is", target="Rome and so on and so forth")]
    [plain] = free_answers.score(model, WORDS, edits, device="cpu")
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.no_repeat_ngram_size = 1
    model.generation_config.num_beams = 3
    model.generation_config.min_new_tokens = 3
    assert free_answers.score(model, WORDS, edits, device="cpu") == [plain]


def test_an_edit_too_long_for_the_model_is_not_scored_and_one_at_its_end_is(tmp_path: Path) -> None:
    model = load(build(tmp_path / "model", dtype=torch.float32))
    room = CONTEXT - 2
    prompt = " ".join(["a"] * room)
    while len(WORDS(prompt)["input_ids"]) + length("Paris") - 1 > CONTEXT:
        prompt = prompt[2:]
    edits = [
        Edit(prompt=prompt, target="Paris"),
        Edit(prompt=f"{prompt} a a", target="Paris", rephrasings=("It is",)),
    ]
    fits, beyond = free_answers.score(model, WORDS, edits, device="cpu")
    assert fits["answer_match"] is not None
    assert (beyond["answer_match"], beyond["answer"]) == (None, None)
    assert beyond["rephrasing_match"] is not None


def test_each_kind_of_probe_has_its_accuracy_over_the_edits_that_have_it(taught: Ledger) -> None:
    found = evaluate(taught, suite="portability")
    assert found.n == len(found.edits) == 5
    assert found.base == {"multi_hop": 0, "personas": 0}
    assert found.state["personas"] == 1
    assert found.state["multi_hop"] < 1
    assert [edit["row"] for edit in found.edits] == [0, 1, 2, 3, 4]
    assert set(found.edits[0]["state"]) == {"multi_hop", "personas"}


def test_edits_without_further_probes_say_which_kinds_there_are(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", plain_facts(3)), evaluate=False)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"personas and multi_hop.*further"):
            evaluate(ledger, suite="portability")
        assert contents(ledger) == before


def rows(ledger: Ledger, name: str) -> list[tuple[EvaluationRow, list[int]]]:
    """The recorded evaluations of a suite, with the edits that have outcomes."""
    with database.reading(ledger.engine) as session:
        found = []
        for row in session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)):
            if row.protocol["name"] == name:
                query = select(EditRow.row).join(OutcomeRow, OutcomeRow.edit_id == EditRow.id)
                query = query.where(OutcomeRow.evaluation_id == row.id).order_by(EditRow.id)
                found.append((row, [number or 0 for number in session.scalars(query)]))
        session.expunge_all()
    return found


@pytest.mark.parametrize("suite", ["generation", "portability"])
def test_scores_are_recorded_with_protocol_outcomes_and_hash(taught: Ledger, suite: str) -> None:
    whole = evaluate(taught, suite=suite, seed=4)
    single = evaluate(taught, suite=suite, turn=2)
    with database.reading(taught.engine) as session:
        made = session.scalars(select(TurnRow.hash).where(TurnRow.number == 2)).one()
    recorded = rows(taught, suite)[-2:]
    for found, (row, edits), of in zip((whole, single), recorded, ("in_force", made), strict=True):
        assert row.scope == "sample"
        assert row.protocol == found.protocol
        assert (row.protocol["suite"], row.protocol["of"]) == (suite, of)
        assert (row.base, row.state, row.n) == (found.base, found.state, found.n)
        assert edits == [edit["row"] for edit in found.edits]
        assert row.environment["device"] == "cpu"
    assert recorded[0][0].seed == 4
    assert verify(taught).problems == []


@pytest.mark.parametrize("suite", ["teacher-forced", "generation"])
def test_a_sample_is_so_many_of_the_edits_and_the_same_for_the_same_seed(
    taught: Ledger, suite: str
) -> None:
    def drawn(seed: int, sample: int = 3) -> list[int]:
        found = evaluate(taught, suite=suite, sample=sample, seed=seed)
        assert (found.n, found.sample) == (len(found.edits), sample)
        assert found.protocol["sample"] == "random"
        return [edit["row"] for edit in found.edits]

    draws = [drawn(seed) for seed in range(4)]
    assert drawn(1) == draws[1]
    assert len(set(map(tuple, draws))) > 1
    assert set(map(len, draws)) == {3}
    assert drawn(0, 100) == [0, 1, 2, 3, 4, 5]
    row, edits = rows(taught, suite)[-1]
    assert (row.scope, row.protocol["suite"], len(edits)) == ("sample", suite, 6)
    assert verify(taught).problems == []


def test_a_sample_reaches_over_turns_and_leaves_out_what_is_undone(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        source = write_facts(tmp_path / "facts.json", plain_facts(9))
        add(ledger, source, evaluate=False, turn_size=3)
        seen = {
            edit["row"]
            for seed in (0, 1, 4)
            for edit in evaluate(ledger, at=2, sample=3, seed=seed).edits
        }
        assert seen == {0, 1, 2, 3, 4, 5}
        assert [e["row"] for e in evaluate(ledger, turn=3, sample=5).edits] == [6, 7, 8]
        # What was sampled is told neither as the turn's scores, nor as those of all edits.
        assert log(ledger)[2].scores is None
        assert verify(ledger).problems == []


@pytest.mark.parametrize("suite", ["teacher-forced", "generation", "portability"])
def test_how_edits_are_cut_into_jobs_does_not_show_in_their_scores(
    taught: Ledger, suite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scores() -> list[dict[tuple[str, str], Any]]:
        return [
            {
                (side, name): value
                for side in ("base", "state")
                for name, value in edit[side].items()
                if "perplexity" not in name
            }
            for edit in evaluate(taught, suite=suite).edits
        ]

    whole = scores()
    for together in (1, 4):
        monkeypatch.setattr(asking, "TOGETHER", together)
        assert scores() == whole, together


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"suite": "telepathy"}, "no suite 'telepathy', only teacher-forced, generation"),
        ({"suite": "retention"}, "a function of its own"),
        ({"suite": "generation", "sample": 0}, "at least 1, not 0"),
        ({"suite": "generation", "text": Path("x")}, "asks about edits"),
        ({"suite": "perplexity", "turn": 2}, "reads text"),
        ({"suite": "general", "sample": 2}, "reads text"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(
    taught: Ledger, options: dict[str, Any], reason: str
) -> None:
    before = contents(taught)
    with pytest.raises(SettingError, match=reason):
        evaluate(taught, device="no such device", **options)
    assert contents(taught) == before


@pytest.mark.parametrize("suite", [s.name for s in suites.SUITES.values() if s.on != "turns"])
def test_there_is_nothing_to_score_before_the_first_turn(
    tmp_path: Path, tiny_llama: Path, suite: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        with pytest.raises(HistoryError, match="no turns yet; add some with: ledger add-edits"):
            evaluate(ledger, suite=suite)
        with pytest.raises(HistoryError, match="turn 0"):
            evaluate(ledger, suite=suite, at=0)
