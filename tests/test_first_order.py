"""The step without a learning rate: its formula, its passes, and what it leaves as it was."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patches import replay
from patches.checkpoint import open_checkpoint
from patches.edit import Edit
from patches.editors import Facts, Request, Result
from patches.editors.first_order import Solved, Step, solve, values
from patches.editors.protection import Keys
from patches.editors.ultraedit_editor import UltraEditEditor
from patches.errors import EditingError, ModelError, SettingError
from patches.live import LiveModel
from patches.modules import Target, editable_modules, targets_for
from patches.patch import PatchFile, PatchHeader, encode_patch
from patches.tokens import Encoded, encode
from patches.tracing import Trace
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer

STEP = Step(share=1.0, limit=1.0, enough=0.0, passes=3, ridge=1.0)


def opened(folder: Path, family: str = "llama", **config: bool) -> LiveModel:
    build(folder, family, dtype=torch.float32, **config)
    return LiveModel(load(folder), open_checkpoint(folder))


def targets(live: LiveModel) -> tuple[Target, ...]:
    names = [name for name in editable_modules(live.model) if ".1.mlp." in name]
    return targets_for(live.model, live.checkpoint, names)


def encoded(facts: Sequence[tuple[str, str]] = FACTS) -> list[Encoded]:
    prompts, answers = zip(*facts, strict=True)
    return encode(tokenizer(), prompts, answers)


def solved(live: LiveModel, step: Step = STEP, facts: Sequence[tuple[str, str]] = FACTS) -> Solved:
    return solve(live.model, targets(live), encoded(facts), step, {}, device="cpu")


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in model.named_parameters()}


def trace_of(losses: Sequence[float], gradients: dict[str, Tensor], size: float) -> Trace:
    n = len(losses)
    return Trace(
        keys={name: torch.ones(n, 3) for name in gradients},
        gradients=gradients,
        sizes={name: torch.full((n,), size) for name in gradients},
        losses=torch.tensor(losses),
    )


def test_the_loss_falls_by_the_share_to_first_order_and_a_right_token_is_left_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    gradients = {name: torch.randn(3, 4, generator=draw) for name in ("a", "b")}
    seen = trace_of([2.0, 0.25, 5.0], gradients, size=1e6)
    wanted = values(seen, replace(STEP, share=0.5, enough=0.25))
    change = sum((wanted[name] * gradients[name]).sum(-1) for name in gradients)
    expected = torch.tensor([-0.875, 0.0, -2.375], dtype=torch.float64)
    torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-6)
    assert not wanted["a"][1].any()


def test_no_value_is_longer_than_its_share_of_the_module_s_output() -> None:
    seen = trace_of([9.0], {"a": torch.full((1, 4), 1e-4)}, size=2.0)
    wanted = values(seen, replace(STEP, limit=0.25))["a"]
    assert wanted.norm().item() == pytest.approx(0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_pass_makes_the_targets_more_probable_and_the_model_stays_as_it_was(
    family: str, tmp_path: Path
) -> None:
    live = opened(tmp_path, family)
    before = weights(live.model)
    found = solved(live)
    assert found.losses == sorted(found.losses, reverse=True)
    assert 2 <= len(found.losses) <= 1 + STEP.passes
    assert found.losses[-1] < 0.9 * found.losses[0]
    for name, weight in live.model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.grad is None
    tokens = sum(len(item.answer) for item in encoded())
    assert all(len(a) == tokens == len(found.b[name]) for name, a in found.a.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_that_is_told_is_that_of_the_patched_model(family: str, tmp_path: Path) -> None:
    live = opened(tmp_path / "model", family)
    editor, result = edited(live)
    advance(live, result, tmp_path / "patch")
    editor.accept(result)
    again = editor.edit(facts_of(FACTS))
    assert again.figures["loss_before"] == pytest.approx(result.figures["loss_after"], rel=1e-3)


def edited(live: LiveModel, **given: str) -> tuple[UltraEditEditor, Result]:
    names = [target.name for target in targets(live)]
    request = Request(modules=names, assignments={"step": "first-order", **given})
    settings = UltraEditEditor.prepare(live, tokenizer(), request).hyperparameters
    editor = UltraEditEditor.start(live, tokenizer(), settings, [])
    return editor, editor.edit(facts_of(FACTS))


def facts_of(facts: Sequence[tuple[str, str]]) -> Facts:
    edits = [Edit(prompt=prompt, target=answer) for prompt, answer in facts]
    return Facts(edits=edits, encoded=encoded(facts))


def advance(live: LiveModel, result: Result, path: Path) -> None:
    header = PatchHeader(base="b", method="ultraedit", hyperparameters={}, turn=1, parent=None)
    path.write_bytes(encode_patch(header, result.changes))
    live.advance(PatchFile(path))


def test_passes_that_begin_again_at_the_first_module_give_what_whole_runs_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = opened(tmp_path)
    quick = solved(live)

    def refused(*_args: object, **_kwargs: object) -> None:
        raise ModelError("in place")

    monkeypatch.setattr(replay, "beginning_at", refused)
    slow = solved(live)
    assert slow.losses == pytest.approx(quick.losses, rel=1e-4)
    for name, b in quick.b.items():
        torch.testing.assert_close(slow.b[name], b, rtol=1e-2, atol=1e-4)


def test_a_pass_that_makes_it_worse_is_taken_back_and_the_next_asks_for_half(
    tmp_path: Path,
) -> None:
    """A head that is the embedding too: what the shift does to the inputs is not in its slope."""
    live = opened(tmp_path, tie_word_embeddings=True)
    tied = targets_for(live.model, live.checkpoint, ["lm_head"])
    hasty, patient = (
        solve(
            live.model,
            tied,
            encoded(),
            replace(STEP, share=2.0, limit=1e6, passes=n),
            {},
            device="cpu",
        )
        for n in (1, 8)
    )
    assert len(hasty.losses) == 1
    assert not hasty.b["lm_head"].any()
    assert patient.losses[-1] < patient.losses[0]


def test_a_tied_head_beside_other_modules_changes_what_comes_before_them_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = opened(tmp_path, tie_word_embeddings=True)
    names = [*(target.name for target in targets(live)), "lm_head"]
    both = targets_for(live.model, live.checkpoint, names)
    step = replace(STEP, share=0.2)
    found = solve(live.model, both, encoded(), step, {}, device="cpu")

    def refused(*_args: object, **_kwargs: object) -> None:
        raise ModelError("in place")

    monkeypatch.setattr(replay, "beginning_at", refused)
    whole = solve(live.model, both, encoded(), step, {}, device="cpu")
    assert len(found.losses) > 1
    assert found.losses == pytest.approx(whole.losses, rel=1e-5)


def test_targets_that_are_probable_enough_are_refused_with_the_reason(tmp_path: Path) -> None:
    live = opened(tmp_path)
    with pytest.raises(EditingError, match="as probable as asked for already"):
        edited(live, enough="50")


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_broken_weight_is_reported_and_left_as_it_is(damage: float, tmp_path: Path) -> None:
    live = opened(tmp_path)
    with torch.no_grad():
        live.model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = damage
    before = weights(live.model)
    with pytest.raises(EditingError, match=r"module model\.layers\.1\.mlp.*not finite"):
        solved(live)
    for name, weight in live.model.named_parameters():
        assert torch.equal(weight.nan_to_num(), before[name].nan_to_num())


def test_the_batching_does_not_matter(tmp_path: Path) -> None:
    """The gradients are of a sum, so each edit is solved as if it stood alone in its batch."""
    live = opened(tmp_path)
    once, alone = (
        solved(live, replace(STEP, passes=1)),
        solved(live, replace(STEP, passes=1), FACTS[:1]),
    )
    name = next(iter(alone.keys))
    first = alone.keys[name][0]
    place = next(i for i, key in enumerate(once.keys[name]) if torch.allclose(key, first))
    seen = {n: k[place] for n, k in once.keys.items()}
    for module, key in seen.items():
        assert torch.allclose(alone.keys[module][0], key, atol=1e-5)


def test_a_later_turn_disturbs_an_earlier_one_less_with_retention(tmp_path: Path) -> None:
    losses: dict[str, float] = {}
    for weight in ("0", "100"):
        live = opened(tmp_path / f"model-{weight}")
        names = [target.name for target in targets(live)]
        request = Request(modules=names, assignments={"step": "first-order", "retention": weight})
        settings = UltraEditEditor.prepare(live, tokenizer(), request).hyperparameters
        editor = UltraEditEditor.start(live, tokenizer(), settings, [])
        for turn, facts in enumerate((FACTS[:3], FACTS[3:])):
            result = editor.edit(facts_of(facts))
            advance(live, result, tmp_path / f"patch-{weight}-{turn}")
            editor.accept(result)
        losses[weight] = solved(live, replace(STEP, passes=1), FACTS[:3]).losses[0]
    assert losses["100"] < losses["0"]


def test_the_editor_state_holds_the_keys_only_where_retention_asks_for_them(
    tmp_path: Path,
) -> None:
    live = opened(tmp_path)
    _, plain = edited(live, retention="0")
    assert plain.state == {}
    _, kept = edited(live, retention="0.1")
    assert {*Keys.from_tensors(kept.state)} == {target.name for target in targets(live)}


def test_a_compact_turn_takes_fewer_bytes_within_its_error_and_tells_it(tmp_path: Path) -> None:
    folder = build(tmp_path / "model", dtype=torch.bfloat16)
    live = LiveModel(load(folder), open_checkpoint(folder))
    _, whole = edited(live)
    editor, small = edited(live, compact="0.05")
    assert "error" not in whole.figures
    assert 0 < small.figures["error"] <= 0.05
    [size, other] = [
        sum(t.nbytes for change in made.changes.values() for t in change.delta.tensors().values())
        for made in (small, whole)
    ]
    assert size < other
    for name, change in small.changes.items():
        exact, found = (torch.zeros(change.delta.shape, dtype=torch.float64) for _ in range(2))
        whole.changes[name].delta.add_to(exact)
        change.delta.add_to(found)
        assert float((found - exact).norm() / exact.norm()) <= 0.05 + 1e-9
    # What the next turn goes on from is what was solved for.
    assert small.state.keys() == whole.state.keys()
    assert all(torch.equal(small.state[name], whole.state[name]) for name in whole.state)
    editor.accept(small)


@pytest.mark.parametrize("value", ["1", "-0.1", "nan"])
def test_an_error_that_makes_no_sense_is_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="compact is an error from 0 to less than 1"):
        edited(opened(tmp_path), compact=value)


def test_a_lossless_turn_has_the_hyperparameters_that_it_always_had(tmp_path: Path) -> None:
    live = opened(tmp_path)
    request = Request(modules=(), assignments={"compact": "0"}, seed=0, outside=None)
    assert "compact" not in UltraEditEditor.prepare(live, None, request).hyperparameters


def test_a_rate_and_a_first_order_step_together_are_refused(tmp_path: Path) -> None:
    live = opened(tmp_path)
    with pytest.raises(SettingError, match="learning_rate is for the published step"):
        edited(live, learning_rate="0.1")
