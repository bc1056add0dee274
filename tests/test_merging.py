"""Merges: their formulas, and the numbers of the published code of WISE."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from peft.utils.merge_utils import calculate_majority_sign_mask, prune
from safetensors.torch import load_file
from torch import Tensor

from cli.memories import merge_shards
from patches import merging
from patches.errors import PatchError, SettingError
from patches.merging import METHODS, Merge, merged, merged_totals, slerp

PARITY = Path(os.environ.get("LEDGER_PARITY") or "-") / "wise-merge.safetensors"
parity = pytest.mark.skipif(not PARITY.is_file(), reason="LEDGER_PARITY is not set")
SEED = 77
# The published code keeps the base plus a share of the first delta only, whatever the others are.
FIRST_ONLY = ("linear", "slerp")
# Its linear DARE never makes up for what it drops: `dare_linear` here.
NOT_THERE = ("dare",)


def stack(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)[:, None, :]


@parity
@pytest.mark.parametrize("kind", ["dense", "masked"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("method", sorted(set(METHODS) - {*FIRST_ONLY, *NOT_THERE}))
def test_a_merge_has_the_bits_of_the_published_one(kind: str, k: int, method: str) -> None:
    reference = load_file(PARITY)
    base = reference["base"]
    # As the published code gets them: from weights, with their rounding.
    deltas = torch.stack([(base + reference[f"delta_{kind}_{i}"]) - base for i in range(k)])
    found = base + merged(deltas, Merge(method=method, seed=SEED))
    assert torch.equal(found, reference[f"{kind}.k{k}.{method}"])


@parity
@pytest.mark.parametrize("kind", ["dense", "masked"])
@pytest.mark.parametrize("k", [2, 3])
def test_ties_takes_weights_as_the_published_one_does(kind: str, k: int) -> None:
    reference = load_file(PARITY)
    base = reference["base"]
    deltas = torch.stack([(base + reference[f"delta_{kind}_{i}"]) - base for i in range(k)])
    weights = (*[0.4 / (k - 1)] * (k - 1), 0.6)
    found = base + merged(deltas, Merge(method="ties", weights=weights))
    assert torch.equal(found, reference[f"{kind}.k{k}.ties_w0406"])


@parity
@pytest.mark.parametrize("k", [2, 3])
def test_linear_and_slerp_give_the_published_numbers_for_what_those_look_at(k: int) -> None:
    reference = load_file(PARITY)
    base, first = reference["base"], reference["delta_dense_0"]
    share = base + first / k
    torch.testing.assert_close(share, reference[f"dense.k{k}.linear"], rtol=1e-6, atol=1e-6)
    ways = torch.tensor([1 - 1 / k, 1 / k]).view(2, 1, 1)
    between = slerp(torch.stack([base, base + first]), ways, 1)
    torch.testing.assert_close(between, reference[f"dense.k{k}.slerp"], rtol=1e-6, atol=1e-6)


@given(
    numbers=arrays(
        np.float32,
        (3, 4, 5),
        # Few values, so that many entries are as large as others; zeros of both signs.
        elements=st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 1e-40, 3e38])
        | st.floats(-8, 8, width=32),
    ),
    density=st.sampled_from([0.01, 0.1, 0.5, 0.53, 0.9]),
    seed=st.integers(0, 9),
)
def test_trimming_dropping_and_electing_have_the_bits_of_peft(
    numbers: NDArray[np.float32], density: float, seed: int
) -> None:
    deltas = torch.from_numpy(numbers)
    trimmed = torch.stack([prune(delta, density, method="magnitude") for delta in deltas])
    assert bits(merging._trimmed(deltas, density)) == bits(trimmed)
    assert torch.equal(merging._agreeing(deltas), calculate_majority_sign_mask(deltas))
    for rescale in (True, False):
        torch.manual_seed(seed)
        dropped = [prune(d, density, method="random", rescale=rescale) for d in deltas]
        torch.manual_seed(seed)
        found = merging._thinned(deltas, density, rescale=rescale)
        assert bits(found) == bits(torch.stack(dropped))


def bits(tensor: Tensor) -> bytes:
    return tensor.numpy().tobytes()


def test_ties_trims_elects_and_averages_those_that_agree() -> None:
    deltas = stack([4.0, -1.0, 3.0, 0.1], [2.0, 5.0, -2.0, 0.2])
    # Half of four entries stay: [4, ., 3, .] and [., 5, -2, .]... the largest two of each.
    found = merged(deltas, Merge(method="ties", density=0.5))
    assert found.tolist() == [[4.0, 5.0, 3.0, 0.0]]


def test_linear_weighs_all_deltas() -> None:
    found = merged(stack([4.0, 0.0], [0.0, 8.0]), Merge(method="linear", weights=(0.25, 0.5)))
    assert found.tolist() == [[1.0, 4.0]]


@given(
    density=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 99),
    weights=st.sampled_from([None, (1.0, 1.0), (0.2, 3.0)]),
)
def test_dare_is_the_paper_s_drop_and_rescale_before_a_weighted_sum(
    density: float, seed: int, weights: tuple[float, ...] | None
) -> None:
    """m ~ Bernoulli(p), δ̃ = (1 − m) ⊙ δ, δ̂ = δ̃ / (1 − p), then Σ w δ̂; here 1 − p is drawn."""
    deltas = torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    total = np.zeros((6, 7))
    for delta, weight in zip(deltas, weights or (0.5, 0.5), strict=True):
        left = torch.bernoulli(torch.full((6, 7), density), generator=draw).numpy()
        total += weight * left * delta.double().numpy() / density
    how = Merge(method="dare", density=density, weights=weights, seed=seed)
    np.testing.assert_allclose(merged(deltas, how).numpy(), total, rtol=1e-5, atol=1e-6)


def test_dare_gives_the_sum_on_average_and_the_share_asked_for() -> None:
    deltas = torch.ones(1, 200, 300)
    found = merged(deltas, Merge(method="dare", density=0.25))
    assert set(found.flatten().tolist()) == {0.0, 4.0}
    assert float(found.mean()) == pytest.approx(1, abs=0.03)
    thinned = merged(deltas, Merge(method="dare_linear", density=0.25))
    assert float(thinned.mean()) == pytest.approx(0.25, abs=0.01)


def totals(seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 6, 7, generator=draw, dtype=torch.float64)
    return first, second


@pytest.mark.parametrize("method", sorted(METHODS))
def test_branches_are_merged_as_their_rounded_sums_are(method: str) -> None:
    ours, theirs = totals()
    how = Merge(method=method, weights=(0.3, 0.7), seed=SEED)
    found = merged_totals(ours, theirs, how)
    assert (found.dtype, found.shape) == (torch.float32, (6, 7))
    assert torch.equal(found, merged(torch.stack([ours.float(), theirs.float()]), how))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_branch_without_a_change_counts_as_a_change_of_zero(method: str) -> None:
    ours, _ = totals()
    how = Merge(method=method, weights=(0.5, 0.5), seed=SEED)
    zero = torch.zeros(6, 7, dtype=torch.float64)
    assert torch.equal(merged_totals(ours, None, how), merged_totals(ours, zero, how))
    assert torch.equal(merged_totals(None, ours, how), merged_totals(zero, ours, how))
    assert merged_totals(ours, None, how).any()


def test_a_sum_of_branches_is_linear_with_weights_of_one() -> None:
    ours, theirs = totals()
    how = Merge(method="linear", weights=(1.0, 1.0))
    torch.testing.assert_close(merged_totals(ours, theirs, how), (ours + theirs).float())
    assert torch.equal(merged_totals(None, theirs, how), theirs.float())


def test_ties_and_slerp_beside_no_change() -> None:
    ours, _ = totals()
    whole = merged_totals(ours, None, Merge(method="ties", density=1.0))
    torch.testing.assert_close(whole, ours.float())
    half = merged_totals(ours, None, Merge(method="slerp"))
    torch.testing.assert_close(half, ours.float() / 2)


@pytest.mark.parametrize(
    ("ours", "theirs", "reason"),
    [
        (None, None, "have one shape, not nothing"),
        (torch.ones(2, 3), torch.ones(3, 2), r"have one shape, not \(2, 3\) and \(3, 2\)"),
    ],
)
def test_branches_that_do_not_fit_are_refused(
    ours: Tensor | None, theirs: Tensor | None, reason: str
) -> None:
    with pytest.raises(PatchError, match=reason):
        merged_totals(ours, theirs, Merge(method="ties"))
    with pytest.raises(SettingError, match="3 weights are given for 2 deltas"):
        merged_totals(torch.ones(1, 1), None, Merge(method="ties", weights=(1.0, 1.0, 1.0)))


def test_every_method_is_named_where_people_look_for_it() -> None:
    shown = CliRunner().invoke(merge_shards, ["--help"])
    words = set(re.findall(r"\w+", shown.output))
    assert set(METHODS) <= words
    table = merging.__doc__ or ""
    assert all(f"\n    {method} " in table for method in METHODS)


def test_slerp_goes_along_the_circle_and_straight_where_there_is_none() -> None:
    circle = merged(stack([1.0, 0.0], [0.0, 1.0]), Merge(method="slerp"))
    torch.testing.assert_close(circle, torch.full((1, 2), 0.5**0.5))
    straight = merged(stack([1.0, 0.0], [3.0, 0.0]), Merge(method="slerp"))
    assert straight.tolist() == [[2.0, 0.0]]


@given(method=st.sampled_from(sorted(METHODS)), seed=st.integers(0, 99))
def test_merging_a_delta_with_itself_gives_no_entry_that_it_does_not_have(
    method: str, seed: int
) -> None:
    delta = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))
    delta *= torch.rand(4, 5, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    found = merged(torch.stack([delta, delta]), Merge(method=method, seed=seed))
    assert not found[delta == 0].any()
    assert (found * delta >= 0).all()


@given(method=st.sampled_from(sorted(METHODS)), seed=st.integers(0, 99))
def test_equal_seeds_give_equal_merges_and_leave_the_generator_alone(
    method: str, seed: int
) -> None:
    deltas = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    state = torch.get_rng_state()
    first = merged(deltas, Merge(method=method, seed=seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, merged(deltas, Merge(method=method, seed=seed)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"method": "magic"}, "there is no merge 'magic'; there are ties"),
        ({"method": "ties", "density": 0.0}, "density must be above 0"),
        ({"method": "ties", "density": 1.5}, "density must be above 0"),
        ({"method": "ties", "weights": (1.0, -1.0)}, "weights must be positive"),
    ],
)
def test_a_merge_that_makes_no_sense_is_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        Merge(**settings)  # type: ignore[arg-type]  # wrong on purpose


def test_weights_and_deltas_must_be_as_many() -> None:
    deltas = torch.ones(3, 1, 2)
    with pytest.raises(SettingError, match="2 weights are given for 3 deltas"):
        merged(deltas, Merge(method="ties", weights=(0.5, 0.5)))
    with pytest.raises(SettingError, match="slerp merges two shards, not 3"):
        merged(deltas, Merge(method="slerp"))
