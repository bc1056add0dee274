"""Keys that a shift leaves alone: the metric, its two forms, and what rounding it allows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patches.editors.protection import Keys, protecting
from patches.editors.ultraedit import solve


def drawn(n: int, d: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).to(dtype)


def metric(parts: list[tuple[float, Tensor]], d: int) -> Tensor:
    """C by its definition."""
    total = torch.eye(d, dtype=torch.float64)
    for weight, rows in parts:
        exact = rows.to(torch.float64)
        total += weight * exact.T @ exact
    return total


@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 6),
    d=st.integers(2, 12),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    weight=st.floats(0.01, 100),
)
@settings(deadline=None, max_examples=60)
def test_the_rows_are_k_times_the_inverse_metric_in_either_form(
    seed: int, n: int, d: int, sizes: list[int], weight: float
) -> None:
    keys = drawn(n, d, seed)
    parts = [(weight * (i + 1), drawn(size, d, seed + i + 1)) for i, size in enumerate(sizes)]
    found = protecting(keys, [(w, Keys.of(rows)) for w, rows in parts])
    assert found is not None
    expected = keys.to(torch.float64) @ torch.linalg.inv(metric(parts, d))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_without_anything_to_protect_the_rows_are_the_keys() -> None:
    keys = drawn(3, 5, 0)
    for protected in ([], [(0.0, Keys.of(drawn(2, 5, 1)))]):
        found = protecting(keys, protected)
        assert found is not None
        assert torch.equal(found, keys.to(torch.float64))


@given(seed=st.integers(0, 99), sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6))
@settings(deadline=None, max_examples=40)
def test_keys_of_many_turns_add_up_and_stay_within_d_in_squared(
    seed: int, sizes: list[int]
) -> None:
    d = 6
    turns = [drawn(size, d, seed + i, torch.bfloat16) for i, size in enumerate(sizes)]
    total = Keys.of(turns[0])
    for rows in turns[1:]:
        total = total.followed_by(Keys.of(rows))
    assert (total.rows is not None) == (sum(sizes) <= d)
    assert all(len(part) <= d for part in total.to_tensors("m").values())
    expected = metric([(2.0, torch.cat(turns))], d)
    found = protecting(torch.eye(d), [(2.0, total)])
    assert found is not None
    torch.testing.assert_close(found, torch.linalg.inv(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("split", [1, 3, 7])
def test_keys_that_were_stored_go_on_to_the_same_bits(split: int) -> None:
    turns = [Keys.of(drawn(3, 8, seed, torch.bfloat16)) for seed in range(9)]

    def after(start: Keys, rest: list[Keys]) -> Keys:
        for some in rest:
            start = start.followed_by(some)
        return start

    whole = after(turns[0], turns[1:])
    stored = after(turns[0], turns[1:split]).to_tensors("a.b")
    assert list(Keys.from_tensors(stored)) == ["a.b"]
    again = after(Keys.from_tensors(stored)["a.b"], turns[split:])
    for one, other in zip(
        whole.to_tensors("m").values(), again.to_tensors("m").values(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_protected_key_gives_what_it_gave_and_an_edited_one_what_is_wanted() -> None:
    edited, kept = drawn(4, 40, 0), drawn(10, 40, 1)
    wanted = drawn(4, 7, 2).to(torch.float64)
    for weight, moved in ((0.0, 0.1), (1e4, 1e-3)):
        delta = solve(edited, wanted, 1e-3, [(weight, Keys.of(kept))])
        assert delta is not None
        total = torch.zeros(delta.shape, dtype=torch.float64)
        delta.add_to(total)
        given_ = kept.to(torch.float64) @ total.T
        assert (given_.norm() / wanted.norm() < moved) == bool(weight)
        torch.testing.assert_close(edited.to(torch.float64) @ total.T, wanted, rtol=0.02, atol=0.02)


def test_float32_sums_of_keys_change_a_shift_by_less_than_its_rounding_to_16_bits() -> None:
    """20,000 keys of very different size: C from float32 sums against C from float64 ones."""
    d, scales = 96, torch.logspace(-2, 1.5, 96)
    past = [drawn(1000, d, seed, torch.bfloat16) * scales for seed in range(20)]
    past = [rows.to(torch.bfloat16) for rows in past]
    keys = (drawn(30, d, 99) * scales).to(torch.bfloat16)
    total = Keys.of(past[0])
    for rows in past[1:]:
        total = total.followed_by(Keys.of(rows))
    found = protecting(keys, [(0.1, total)])
    assert found is not None
    exact = keys.to(torch.float64) @ torch.linalg.inv(metric([(0.1, torch.cat(past))], d))
    assert (found - exact).norm() / exact.norm() < 2**-9


def test_a_metric_that_is_not_positive_definite_has_no_solution() -> None:
    broken = Keys(gram=-torch.eye(4))
    assert protecting(drawn(2, 4, 0), [(2.0, broken)]) is None
