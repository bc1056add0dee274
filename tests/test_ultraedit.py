"""UltraEdit: its equations, its refusals, and its work on every architecture."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patches.checkpoint import open_checkpoint
from patches.deltas import Delta, Dense, LowRank
from patches.edit import Edit
from patches.editors import EDITORS, Facts, Prepared, Request, Result
from patches.editors.capturing import Captured
from patches.editors.statistics import Moments
from patches.editors.ultraedit import (
    UltraEditSettings,
    shift,
    solve,
    values,
)
from patches.editors.ultraedit_editor import UltraEditEditor
from patches.editors.wise_editor import WiseEditor
from patches.errors import EditingError, ModelError, SettingError
from patches.live import LiveModel
from patches.modules import editable_modules, targets_for
from patches.patch import PatchFile, PatchHeader, encode_patch, encode_state, read_state
from patches.tokens import encode
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer

SETTINGS = UltraEditSettings(modules=("m",), learning_rate=0.01)


def normal(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def solved(keys: Tensor, wanted: Tensor, ridge: float = 1.0) -> Delta:
    delta = solve(keys, wanted, ridge)
    assert delta is not None
    return delta


def whole(delta: Delta) -> Tensor:
    total = torch.zeros(delta.shape, dtype=torch.float64)
    delta.add_to(total)
    return total


def encoded(facts: Sequence[tuple[str, str]] = FACTS) -> Facts:
    prompts, answers = zip(*facts, strict=True)
    return Facts(
        edits=[Edit(prompt=prompt, target=answer) for prompt, answer in facts],
        encoded=encode(tokenizer(), prompts, answers),
    )


def feed_forward(model: nn.Module, layer: int = 1) -> list[str]:
    """The linear modules of one layer's MLP: both shapes, and GPT-2's transposed ones."""
    return [name for name in editable_modules(model) if f".{layer}.mlp." in name]


def opened(folder: Path, family: str = "llama", **config: bool) -> LiveModel:
    build(folder, family, dtype=torch.float32, **config)
    return LiveModel(load(folder), open_checkpoint(folder))


def prepared(
    live: LiveModel, modules: Sequence[str] = (), assignments: Mapping[str, str] | None = None
) -> Prepared:
    chosen = modules or feed_forward(live.model)
    given_ = {"learning_rate": "0.02", "batch_size": "3", **(assignments or {})}
    return UltraEditEditor.prepare(live, None, Request(modules=chosen, assignments=given_))


def patch_bytes(result: Result) -> bytes:
    header = PatchHeader(base="b", method="ultraedit", hyperparameters={}, turn=1, parent=None)
    return encode_patch(header, result.changes)


def advance(live: LiveModel, result: Result, path: Path) -> None:
    path.write_bytes(patch_bytes(result))
    live.advance(PatchFile(path))


@given(
    seed=st.integers(0, 99), n=st.integers(1, 30), d_in=st.integers(2, 9), d_out=st.integers(2, 9)
)
@settings(deadline=None)
def test_a_solution_satisfies_the_ridge_normal_equations(
    seed: int, n: int, d_in: int, d_out: int
) -> None:
    keys, wanted = normal(n, d_in, seed=seed).float(), normal(n, d_out, seed=seed + 1)
    delta = whole(solved(keys, wanted, 0.5)).T
    exact = keys.double()
    left = (exact.T @ exact + 0.5 * torch.eye(d_in)) @ delta
    torch.testing.assert_close(left, exact.T @ wanted, rtol=1e-4, atol=1e-4)


def test_few_tokens_give_factors_and_many_a_dense_delta_and_both_forms_agree() -> None:
    keys, wanted = normal(3, 20).float(), normal(3, 10, seed=1)
    dual = solved(keys, wanted)
    assert isinstance(dual, LowRank)
    # Rows of zeros ask for nothing, but there are now too many for factors to be small.
    blank = torch.zeros(40, 20)
    primal = solved(torch.cat((keys, blank)), torch.cat((wanted, normal(40, 10, seed=2))))
    assert isinstance(primal, Dense)
    torch.testing.assert_close(whole(dual), whole(primal), rtol=1e-5, atol=1e-6)


def test_the_smaller_of_the_two_forms_is_stored() -> None:
    for n in range(1, 40):
        delta = solved(normal(n, 16, seed=n).bfloat16(), normal(n, 12, seed=n))
        stored: int = sum(part.numel() * part.element_size() for part in delta.tensors().values())
        assert stored <= min(n * (16 * 2 + 12 * 4), 16 * 12 * 4)


def test_the_keys_are_stored_without_loss_in_the_model_s_dtype() -> None:
    keys = normal(3, 20).bfloat16()
    delta = solved(keys, normal(3, 10))
    assert isinstance(delta, LowRank)
    assert delta.A.dtype == torch.bfloat16
    assert torch.equal(delta.A, keys)
    assert delta.B.dtype == torch.float32


def test_a_system_that_float64_cannot_solve_has_no_solution(tmp_path: Path) -> None:
    # Two equal keys so large that the ridge disappears beside them; their norm is exact.
    keys = torch.zeros(2, 32)
    keys[:, :16] = 2.0**60
    assert solve(keys, normal(2, 48), 1.0) is None
    live = opened(tmp_path)
    name = "model.layers.1.mlp.up_proj"
    targets = targets_for(live.model, live.checkpoint, [name])
    seen = Captured(keys=keys, gradients=normal(2, 48).float())
    rows = torch.cat((normal(5, 32), normal(5, 48, seed=1)), -1)
    with pytest.raises(EditingError, match=rf"module {name}: the system has no stable solution"):
        shift({name: seen}, targets, {seen.group: Moments.of(rows)}, SETTINGS)


def test_values_follow_the_paper_s_formula() -> None:
    seen = Captured(keys=normal(6, 4).float(), gradients=normal(6, 3, seed=1).float())
    moments = Moments.of(torch.cat((normal(9, 4, seed=2), normal(9, 3, seed=3)), -1))
    h = (seen.keys.double() - moments.mean[:4]) / moments.deviation("published")[:4]
    v = (seen.gradients.double() - moments.mean[4:]) / moments.deviation("published")[4:]
    expected = torch.stack([-0.01 * (row @ row) * v[at] for at, row in enumerate(h)])
    torch.testing.assert_close(values(seen, moments, SETTINGS), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"modules": ()}, "no module to edit"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive number"),
        ({"ridge": 0.0}, "ridge must be a positive number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"tokens": "some"}, "tokens must be 'target' or 'all'"),
        ({"variance": "mine"}, "variance must be 'welford' or 'published'"),
        ({"rate": 1.0}, "UltraEdit has no hyperparameter 'rate'; it has batch_size"),
    ],
)
def test_settings_without_sense_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        UltraEditSettings.from_json({**SETTINGS.to_json(), **wrong})


def test_settings_survive_json_and_the_defaults_are_the_published_ones() -> None:
    assert UltraEditSettings.from_json(SETTINGS.to_json()) == SETTINGS
    assert (SETTINGS.ridge, SETTINGS.tokens, SETTINGS.variance) == (1.0, "target", "published")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variance", ["published", "welford"])
def test_edits_make_the_targets_more_probable(family: str, variance: str, tmp_path: Path) -> None:
    live = opened(tmp_path / "model", family)
    setting = prepared(live, assignments={"variance": variance}).hyperparameters
    editor = UltraEditEditor.start(live, None, setting, [])
    result = editor.edit(encoded())
    assert set(result.changes) <= set(live.checkpoint.tensors)
    assert all(change.transposed == (family == "gpt2") for change in result.changes.values())
    advance(live, result, tmp_path / "patch")
    editor.accept(result)
    again = editor.edit(encoded())
    assert again.figures["loss_before"] < 0.9 * result.figures["loss_before"]
    assert result.figures["tokens"] == sum(len(item.answer) for item in encoded().encoded)


def test_a_turn_changes_neither_model_nor_editor_until_it_is_accepted(tmp_path: Path) -> None:
    live = opened(tmp_path)
    before = {name: weight.clone() for name, weight in live.model.named_parameters()}
    editor = UltraEditEditor.start(live, None, prepared(live).hyperparameters, [])
    first, second = editor.edit(encoded()), editor.edit(encoded())
    assert patch_bytes(first) == patch_bytes(second)
    for name, weight in live.model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.grad is None
    editor.accept(first)
    assert patch_bytes(editor.edit(encoded())) != patch_bytes(first)


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of torch's threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_a_turn_has_the_same_bytes_each_time_and_the_same_values_for_any_threads(
    tmp_path: Path,
) -> None:
    """The model's own float32 sums depend on the threads; so does the last bit of a shift."""
    live = opened(tmp_path)
    setting = prepared(live).hyperparameters
    totals: list[dict[str, Tensor]] = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results = [UltraEditEditor.start(live, None, setting, []).edit(encoded()) for _ in range(2)]
        assert patch_bytes(results[0]) == patch_bytes(results[1])
        totals.append({name: whole(made.delta) for name, made in results[0].changes.items()})
    for name, total in totals[0].items():
        torch.testing.assert_close(totals[1][name], total, rtol=1e-3, atol=1e-6)


def test_a_restarted_editor_goes_on_bit_by_bit(tmp_path: Path) -> None:
    live = opened(tmp_path / "model")
    setting = prepared(live).hyperparameters
    editor = UltraEditEditor.start(live, None, setting, [])
    states = []
    for turn, facts in enumerate((FACTS[:3], FACTS[3:6])):
        result = editor.edit(encoded(facts))
        advance(live, result, tmp_path / f"patch-{turn}")
        editor.accept(result)
        path = tmp_path / f"state-{turn}"
        path.write_bytes(encode_state("ultraedit", result.state))
        states.append(read_state(path))
    on, restarted = (
        editor.edit(encoded()),
        UltraEditEditor.start(live, None, setting, states).edit(encoded()),
    )
    assert patch_bytes(on) == patch_bytes(restarted)
    fresh = UltraEditEditor.start(live, None, setting, states[:1]).edit(encoded())
    assert patch_bytes(on) != patch_bytes(fresh)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_tied_head_is_edited_through_the_tensor_that_stores_it(
    family: str, tmp_path: Path
) -> None:
    live = opened(tmp_path / "model", family, tie_word_embeddings=True)
    stored = "transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight"
    setting = prepared(live, ["lm_head"]).hyperparameters
    result = UltraEditEditor.start(live, None, setting, []).edit(encoded())
    assert list(result.changes) == [stored]
    advance(live, result, tmp_path / "patch")
    after = UltraEditEditor.start(live, None, setting, []).edit(encoded()).figures["loss_before"]
    assert after < result.figures["loss_before"]


def test_one_row_batches_and_a_ragged_last_one_are_edited_like_any_other(tmp_path: Path) -> None:
    live = opened(tmp_path)
    tokens = float(sum(len(item.answer) for item in encoded().encoded))
    for size in ("1", "2", "4", "100"):
        done: list[int] = []
        setting = prepared(live, assignments={"batch_size": size}).hyperparameters
        editor = UltraEditEditor.start(live, None, setting, [])
        result = editor.edit(encoded(), progress=done.append)
        assert result.figures["tokens"] == tokens
        assert done[-1] == len(FACTS)


def test_all_tokens_may_give_keys(tmp_path: Path) -> None:
    live = opened(tmp_path)
    setting = prepared(live, assignments={"tokens": "all"}).hyperparameters
    result = UltraEditEditor.start(live, None, setting, []).edit(encoded())
    assert result.figures["tokens"] == sum(len(item.ids) for item in encoded().encoded)


def test_a_first_turn_of_a_single_token_cannot_be_normalised_and_says_so(tmp_path: Path) -> None:
    live = opened(tmp_path)
    modules = feed_forward(live.model)[-1:]
    editor = UltraEditEditor.start(live, None, prepared(live, modules).hyperparameters, [])
    with pytest.raises(EditingError, match=r"the shift is zero\. A first turn needs at least two"):
        editor.edit(encoded(FACTS[3:4]))


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_a_broken_weight_is_reported_with_the_module(tmp_path: Path, damage: float) -> None:
    live = opened(tmp_path)
    with torch.no_grad():
        live.model.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] = damage
    editor = UltraEditEditor.start(live, None, prepared(live).hyperparameters, [])
    with pytest.raises(EditingError, match=r"module model\.layers\.1\.mlp.*not finite"):
        editor.edit(encoded())


def test_a_shift_beyond_float32_is_refused(tmp_path: Path) -> None:
    live = opened(tmp_path)
    setting = prepared(live, assignments={"learning_rate": "1e300"}).hyperparameters
    with pytest.raises(EditingError, match="the shift is not finite; lower the rate"):
        UltraEditEditor.start(live, None, setting, []).edit(encoded())


def test_prepare_completes_what_the_user_set(tmp_path: Path) -> None:
    live = opened(tmp_path)
    default = UltraEditEditor.prepare(live, None, Request())
    assert default.hyperparameters["modules"] == ["model.layers.2.mlp.down_proj"]
    assert "nobody has tuned llama of width 32" in default.notes[0]
    own = UltraEditEditor.prepare(
        live,
        None,
        Request(
            modules=["layers.{0,1}.mlp.up_proj"],
            assignments={"learning_rate": "1e-3", "batch_size": "4"},
        ),
    )
    assert own.hyperparameters == {
        "modules": ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"],
        "step": "published",
        "learning_rate": 1e-3,
        "ridge": 1.0,
        "batch_size": 4,
        "tokens": "target",
        "variance": "published",
        "retention": 0.0,
        "locality": 0.0,
        "contrast": 0.0,
    }
    assert own.notes == ()


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ({"rate": "1"}, "no hyperparameter 'rate'; there are batch_size"),
        ({"batch_size": "many"}, "--set batch_size=many: not a usable value"),
        ({"learning_rate": "-1"}, "learning_rate must be a positive number, not -1"),
    ],
)
def test_prepare_refuses_what_makes_no_sense(
    tmp_path: Path, assignments: dict[str, str], message: str
) -> None:
    live = opened(tmp_path)
    with pytest.raises(SettingError, match=message):
        UltraEditEditor.prepare(live, None, Request(assignments=assignments))


def test_modules_that_cannot_be_edited_are_refused_by_name(tmp_path: Path) -> None:
    live = opened(tmp_path)
    for name in ("model.layers.9.mlp.up_proj", "model.norm", "model.embed_tokens"):
        with pytest.raises(ModelError, match=f"has no linear module {name}"):
            targets_for(live.model, live.checkpoint, [name])


def test_the_table_of_editors_names_each_by_its_method() -> None:
    assert {"ultraedit": UltraEditEditor, "wise": WiseEditor} == EDITORS
