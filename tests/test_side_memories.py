"""Side memories in a ledger: recorded, in a live model, undone, scored and asked for a route."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ledger import load_patched
from ledger.applying import apply_to_folder, apply_to_model
from ledger.evaluating import evaluate
from ledger.reporting import log, show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.routing import route
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import (
    EditingError,
    EditLedgerError,
    HistoryError,
    SettingError,
)
from patches.patch import PatchFile, read_state
from patches.routing import attach, attached
from tests.ledgers import add, contents, copied, fact, facts, new_ledger, write_facts
from tests.side_memories import DOWN, add_memories, ledger_with_memories, logits, turns_in, weights
from tests.tiny_models import load, tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_facts(tmp_path_factory.mktemp("source") / "facts.json", facts(12))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, source: str) -> Path:
    """Folder of a ledger with three memories. Read only."""
    folder = tmp_path_factory.mktemp("memories") / "ledger"
    with ledger_with_memories(folder, tiny_llama, source):
        return folder


@pytest.fixture
def ledger(tmp_path: Path, recorded: Path) -> Iterator[Ledger]:
    """A copy of it."""
    with copied(recorded, tmp_path / "ledger") as ledger:
        yield ledger


def test_a_turn_records_the_memory_and_how_it_was_trained(ledger: Ledger) -> None:
    told = show(ledger, 2).to_json()
    assert (told["kind"], told["method"], told["edits"]) == ("edit", "wise", 3)
    assert told["hyperparameters"]["modules"] == [DOWN.format(2)]
    assert len(told["figures"]["losses"]) == 3
    assert told["figures"]["iterations"] == 6
    assert told["figures"]["threshold"] > 0
    assert told["tensors"] == {}
    [state] = {turn.row.editor_state_digest for turn in log(ledger)}
    prompts = read_state(ledger.store.path(state or ""))
    [words] = torch.split(prompts["outside/ids"], prompts["outside/lengths"].tolist())
    assert tokenizer().decode(words) == "<s>He plays the guitar, she plays the"
    patch = PatchFile(ledger.store.path(told["patch"]["digest"]))
    assert patch.changes == {}
    made = patch.memory(f"{DOWN.format(2)}.weight")
    assert made.routing.threshold == told["figures"]["threshold"]
    assert made.routing.edits.n == 3
    assert verify(ledger).problems == []


def test_the_same_run_again_gives_the_same_patches(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path, source: str
) -> None:
    with new_ledger(tmp_path / "again", tiny_llama) as again:
        add_memories(again, source, limit=9)
        digests = [turn.row.patch_digest for turn in log(again)]
    assert digests == [turn.row.patch_digest for turn in log(ledger)]


def test_a_run_goes_on_after_an_interruption_bit_by_bit(
    tmp_path: Path, tiny_llama: Path, source: str, ledger: Ledger
) -> None:
    with new_ledger(tmp_path / "stopped", tiny_llama) as stopped:
        calls = 0

        def stop(phase: str, _done: int, _total: int) -> None:
            nonlocal calls
            calls += phase == "edit"
            if calls == 9:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            add_memories(stopped, source, limit=9, progress=stop)
        assert len(log(stopped)) == 1
        assert verify(stopped).problems == []
        add_memories(stopped, source, limit=9)
        found = [turn.row.patch_digest for turn in log(stopped)]
        assert found == [turn.row.patch_digest for turn in log(ledger)]
        add(stopped, source, method="wise", resume=True, evaluate=False)
        assert [turn.row.edits for turn in log(stopped)] == [3, 3, 3, 3]
        assert log(stopped)[3].row.hyperparameters == log(stopped)[0].row.hyperparameters


def test_a_failed_turn_records_nothing(ledger: Ledger, source: str) -> None:
    before = contents(ledger)
    with pytest.raises(EditingError, match=r"turn 4 \(rows 9 to 11 .*Nothing of it was recorded"):
        add_memories(ledger, source, learning_rate=1e30)
    assert contents(ledger) == before
    assert verify(ledger).problems == []


def test_a_live_model_gets_routers_and_loses_them_leaving_the_very_modules(
    ledger: Ledger, tiny_llama: Path
) -> None:
    model = load(tiny_llama)
    modules, before, plain = dict(model.named_modules()), weights(model), logits(model)
    applied = apply_to_model(ledger, model)
    assert applied.memories == [1, 2, 3]
    assert turns_in(model) == [1, 2, 3]
    assert weights(model) == before
    assert not torch.equal(logits(model), plain)
    rollback_to(ledger, 0)
    assert apply_to_model(ledger, model).memories == []
    assert dict(model.named_modules()) == modules
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("undone", [1, 2, 3])
def test_rolling_back_a_turn_removes_exactly_its_memory(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, undone: int
) -> None:
    others = [number for number in (1, 2, 3) if number != undone]
    rolled_back = rollback_turn(ledger, undone)
    assert rolled_back.in_force == others
    model = load(tiny_llama)
    before = weights(model)
    apply_to_model(ledger, model)
    assert turns_in(model) == others
    assert weights(model) == before
    expected = load(tiny_llama)
    patches = [PatchFile(ledger.store.path(t.row.patch_digest or "")) for t in log(ledger)[:3]]
    attach(expected, [patches[n - 1].memory(f"{DOWN.format(2)}.weight") for n in others])
    assert torch.equal(logits(model), logits(expected))
    apply_to_folder(ledger, tmp_path / "out")
    loaded, _ = load_patched(tmp_path / "out", device="cpu")
    assert torch.equal(logits(loaded), logits(model))


def test_memories_beside_two_layers_are_in_force_together(
    ledger: Ledger, source: str, tiny_llama: Path
) -> None:
    add_memories(ledger, source, layer=1, offset=9)
    model = load(tiny_llama)
    apply_to_model(ledger, model)
    assert {t: [m.turn for m in r.memories] for t, r in attached(model).items()} == {
        f"{DOWN.format(1)}.weight": [4],
        f"{DOWN.format(2)}.weight": [1, 2, 3],
    }
    [first] = route(ledger, ["The capital of France is"])
    assert [candidate.turn for candidate in first.memories] == [1, 2, 3, 4]
    rollback_turn(ledger, 4)
    apply_to_model(ledger, model)
    assert turns_in(model) == [1, 2, 3]


def test_scores_tell_what_is_routed_and_generated(ledger: Ledger) -> None:
    found = evaluate(ledger)
    told = found.to_json(per_edit=True)
    assert found.state["routed_edits"] > 0.8
    assert found.base["routed_edits"] == 0
    for name in ("routed_rephrasings", "routed_locality", "generated_match", "perplexity"):
        assert found.state[name] is not None, name
    assert found.state["perplexity"] < found.base["perplexity"]
    assert {edit["state"]["routed_edits"] for edit in told["edits"]} <= {0.0, 1.0}
    assert verify(ledger).problems == []


def test_a_turn_is_scored_when_it_is_made(ledger: Ledger, source: str) -> None:
    add_memories(ledger, source, offset=9, evaluate=True)
    scores = log(ledger)[-1].to_json()["scores"]
    assert scores["n"] == 3
    assert scores["state"]["routed_edits"] is not None
    assert scores["state"]["edit_success"] >= scores["base"]["edit_success"]


def test_out_of_distribution_prompts_are_scored(ledger: Ledger, tmp_path: Path) -> None:
    rows = [
        {"prompt": "The river", "target_new": "is the Danube", "ood_rephrase": "In Vienna, it"},
        {"prompt": "The guitar", "target_new": "is a piano", "ood_rephrase": "He plays, and it"},
    ]
    add_memories(ledger, write_facts(tmp_path / "temporal.json", rows), evaluate=True)
    scores = log(ledger)[-1].to_json()["scores"]
    assert 0 <= scores["state"]["out_of_distribution"] <= 1
    assert show(ledger, 4).to_json()["dataset"]["layout"] == "wise-temporal"


def test_route_tells_every_activation_and_the_choice(ledger: Ledger) -> None:
    edit = str(fact(4)["prompt"])
    [found, other] = route(ledger, [edit, "He plays the guitar, she plays the"])
    assert [candidate.turn for candidate in found.memories] == [1, 2, 3]
    for candidate in (*found.memories, *other.memories):
        assert candidate.strength == pytest.approx(candidate.activation / candidate.threshold)
    strongest = max(found.memories, key=lambda candidate: candidate.strength)
    assert found.turns == [strongest.turn]
    assert [c.turn for c in found.memories if c.chosen] == found.turns
    assert route(ledger, [edit], at=1)[0].memories == found.memories[:1]


def test_route_refuses_what_it_cannot_answer(ledger: Ledger) -> None:
    with pytest.raises(SettingError, match=r"has \d+ tokens, the model takes from 1 to 64"):
        route(ledger, ["a b c d e f g h " * 20])
    rollback_to(ledger, 0)
    with pytest.raises(HistoryError, match="no side memory is in force at turn 4"):
        route(ledger, ["It is"])


def test_a_memory_in_a_model_that_is_compiled_is_refused_and_nothing_applied(
    ledger: Ledger, tiny_llama: Path
) -> None:
    model = load(tiny_llama)
    model.compile(backend="eager")
    with pytest.raises(EditLedgerError, match="compiled"):
        apply_to_model(ledger, model)
    assert attached(model) == {}
    torch.compiler.reset()
