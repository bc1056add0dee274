"""Keys and gradients: zeros, denormals and huge ones are solved, NaN and infinities are named."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ledger.editing import AddEdits, add_edits
from patches.deltas import Delta
from patches.editors.capturing import Captured
from patches.editors.finite_rows import check_trace, owners
from patches.editors.first_order import Step
from patches.editors.first_order import values as asked_for
from patches.editors.neutral import NEUTRAL
from patches.editors.protection import Keys, protecting
from patches.editors.statistics import Moments
from patches.editors.ultraedit import UltraEditSettings, shift, solve, values
from patches.errors import EditingError
from patches.finite import is_finite, not_finite
from patches.modules import Target
from patches.tokens import Encoded, encode
from patches.tracing import Trace
from tests.ledgers import contents, new_ledger, write_facts
from tests.plain_ledgers import Matrix
from tests.tiny_models import build, tokenizer

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LLAMA_DOWN = "model.layers.1.mlp.down_proj"
SETTINGS = UltraEditSettings(modules=("m",), learning_rate=0.01)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def whole(delta: Delta | None) -> Tensor:
    assert delta is not None
    total = torch.zeros(delta.shape, dtype=torch.float64)
    delta.add_to(total)
    return total


def ridge_solution(keys: Tensor, wanted: Tensor, ridge: float) -> Matrix:
    """Kᵀ (KKᵀ + λI)⁻¹ V, transposed, by numpy."""
    k, v = keys.double().numpy(), wanted.double().numpy()
    found: Matrix = np.linalg.solve(k @ k.T + ridge * np.eye(len(k)), v).T @ k
    return found


@pytest.mark.parametrize("d_in", [4, 64], ids=["dense", "low-rank"])
def test_a_key_of_zeros_adds_nothing(d_in: int) -> None:
    keys, wanted = normal(5, d_in), normal(5, 48, seed=1).double()
    with_zero = torch.cat((keys, torch.zeros(1, d_in)))
    found = solve(with_zero, torch.cat((wanted, torch.full((1, 48), 9.0))), 1.0)
    torch.testing.assert_close(whole(found), whole(solve(keys, wanted, 1.0)), rtol=1e-6, atol=0)


def test_a_token_whose_gradients_or_outputs_are_zero_asks_for_nothing() -> None:
    gradients = normal(3, 6)
    gradients[0] = 0
    seen = Trace(
        keys={"m": normal(3, 4)},
        gradients={"m": gradients},
        sizes={"m": torch.tensor([1.0, 0.0, 1.0])},
        losses=torch.tensor([2.0, 2.0, 2.0]),
    )
    wanted = asked_for(seen, Step(share=1, limit=1, enough=0, passes=1, ridge=1))["m"]
    assert not wanted[:2].any()
    assert wanted[2].any()


@pytest.mark.parametrize("scale", [1e-40, 2.0**-149, 1e-20, 1e18])
def test_keys_of_any_size_are_solved_like_float64(scale: float) -> None:
    """Denormals of float32 too. Stored factors are float32: 1e-6 of the largest element."""
    keys, wanted = (normal(5, 64) * scale), normal(5, 48, seed=1).double()
    found, expected = whole(solve(keys, wanted, 1.0)).numpy(), ridge_solution(keys, wanted, 1.0)
    assert np.isfinite(found).all()
    assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("scale", [1e-40, 1e-20, 1e18])
def test_statistics_of_any_size_are_those_of_float64(scale: float) -> None:
    rows = normal(20, 7) * scale
    exact = rows.double().numpy()
    moments = Moments.of(rows)
    expected = (exact - exact.mean(0)) / (exact.std(0, ddof=1) + torch.finfo(torch.float32).eps)
    found = moments.normalise(rows, "welford").numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


def test_features_and_gradients_of_zeros_stay_finite() -> None:
    captured = Captured(keys=torch.zeros(3, 4), gradients=torch.zeros(3, 5))
    rows = torch.cat((captured.keys, captured.gradients), -1)
    assert not values(captured, Moments.of(rows), SETTINGS).any()


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e18])
def test_keys_to_protect_of_any_size_leave_a_finite_metric(scale: float) -> None:
    keys, protected = normal(3, 8), normal(40, 8, seed=2) * scale
    for some in (Keys.of(protected[:4]), Keys.of(protected)):
        found = protecting(keys, [(1.0, some)])
        assert found is not None
        assert is_finite(found)
    if not scale:
        torch.testing.assert_close(found, keys.double())


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("part", ["keys", "gradients"])
def test_a_row_that_is_not_finite_is_named_with_its_module(part: str, value: float) -> None:
    parts = {"keys": normal(4, 6), "gradients": normal(4, 5)}
    parts[part][2, 1] = value
    target = Target(name="m", module=nn.Linear(6, 5), tensor="m.weight", transposed=False)
    with pytest.raises(EditingError, match=r"module m: target token 3 of 4 gives .* not finite"):
        shift({"m": Captured(**parts)}, [target], {}, SETTINGS)


@pytest.mark.parametrize("part", ["keys", "gradients", "losses", "others"])
def test_what_is_traced_leads_back_to_the_edit(part: str) -> None:
    encoded = [Encoded(ids=(1, 2, 3), answer=(4, 5)), Encoded(ids=(1, 2), answer=(3,))]
    traced: dict[str, Any] = {
        "keys": {"m": normal(3, 6)},
        "gradients": {"m": normal(3, 5)},
        "sizes": {"m": torch.ones(3)},
        "losses": torch.ones(3),
        "others": {"m": normal(2, 6)},
    }
    broken = traced[part] if part == "losses" else traced[part]["m"]
    broken.view(len(broken), -1)[-1, 0] = NAN
    who = "the rest of a prompt" if part == "others" else "edit 8 of the turn"
    with pytest.raises(EditingError, match=f"module m: {who} gives .*not finite"):
        check_trace(Trace(**traced), encoded, [3, 7])


def test_rows_are_counted_by_target_or_by_all_tokens() -> None:
    encoded = [Encoded(ids=(1, 2, 3), answer=(4, 5)), Encoded(ids=(1, 2), answer=(3,))]
    assert owners(encoded, 3) == [0, 0, 1]
    assert owners(encoded, 5) == [0, 0, 0, 1, 1]


POISONED = "He plays the Ж"


@pytest.mark.parametrize(
    ("method", "settings"),
    [("ultraedit", {"learning_rate": "0.01"}), ("ultraedit", {}), ("wise", {})],
    ids=["published", "first-order", "wise"],
)
def test_the_edit_that_breaks_the_model_is_named(
    tmp_path: Path, method: str, settings: dict[str, str]
) -> None:
    """One token's embedding is infinite: of three edits, only the second has it in its prompt."""
    base = build(tmp_path / "base", dtype=torch.float32)
    [prompt, *others] = (
        encode(tokenizer(), [p], ["a"])[0].ids for p in (POISONED, *PROMPTS, *NEUTRAL)
    )
    token = next(one for one in prompt if not any(one in other for other in others))
    tensors = load_file(base / "model.safetensors")
    tensors["model.embed_tokens.weight"][token] = INF
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    rows = [{"prompt": p, "target": "Rome"} for p in (PROMPTS[0], POISONED, PROMPTS[1])]
    source = write_facts(tmp_path / "facts.json", rows)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        before = contents(ledger)
        options = AddEdits(source=source, method=method, modules=(LLAMA_DOWN,), settings=settings)
        reason = rf"turn 1 .*module {LLAMA_DOWN}: edit 2 of the turn, '{POISONED}', gives "
        with pytest.raises(EditingError, match=reason):
            list(add_edits(ledger, options).turns)
        assert contents(ledger) == before


PROMPTS = ("The capital of France is", "The author was born in London")


def test_one_pass_finds_what_is_not_finite() -> None:
    for dtype in (*DTYPES, torch.float64):
        limits = torch.finfo(dtype)
        good = torch.tensor([[-0.0, limits.max], [limits.smallest_normal / 2, -1]], dtype=dtype)
        assert is_finite(good)
        for value in (NAN, INF, -INF):
            bad = good.clone()
            bad[1, 1] = value
            assert not is_finite(bad)
            assert not_finite(bad) == "1 number that is not finite"
    assert is_finite(torch.empty(0, 3))
