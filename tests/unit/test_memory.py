"""Soft distance to known rows: against loops, at its limits, and far out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import oracle_score
import pytest
import torch
from torch import Tensor

from anomgan.scoring.memory import Memory, leave_one_out_nearest, spread
from anomgan.scoring.products import product


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def counts_of(n: int, most: int = 4) -> Tensor:
    return torch.randint(1, most, (n,), generator=torch.Generator().manual_seed(7)).float()


def memory_of(n: int, d: int, width: float = 0.5, *, most: int = 4) -> Memory:
    return Memory(draw(n, d), counts_of(n, most), width).with_peak()


def by_loops(memory: Memory, x: Tensor, own: Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    places = [-1] * len(x) if own is None else own.tolist()
    known = memory.rows.tolist(), memory.counts.tolist(), memory.width, memory.peak
    found = [
        oracle_score.soft_distance(*known, row, place)
        for row, place in zip(x.tolist(), places, strict=True)
    ]
    return np.array([energy for energy, _ in found]), np.stack([gaps for _, gaps in found])


def squared_gaps(memory: Memory, x: Tensor) -> Tensor:
    """All squared distances, by differences: float64 [n, a]."""
    return (x.double().unsqueeze(1) - memory.rows.double()).square().sum(dim=2)


# --- Against the oracle ---------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 7, 30])
@pytest.mark.parametrize("width", [0.02, 0.5, 3.0])
def test_soft_distance_equals_loops(d: int, width: float) -> None:
    memory = memory_of(40, d, width)
    x = torch.cat([2.0 * draw(20, d, seed=1), memory.rows[:6], memory.rows[6:9] + 1e-3])
    energy, gaps = memory.soft_distance(x)
    assert energy.dtype == gaps.dtype == torch.float32
    expected_energy, expected_gaps = by_loops(memory, x)
    # Kernels are summed in float32: their log is good to 1e-6, and T to that times 2 h^2.
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-6, atol=4e-6 * width**2)
    np.testing.assert_allclose(gaps, expected_gaps, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("sample", [2048, 40, 7])
def test_peak_is_the_largest_kernel_sum_at_known_rows(sample: int) -> None:
    memory = memory_of(40, 3)
    known = memory.rows.tolist(), memory.counts.tolist(), memory.width
    index = [round(i * 39 / 6 - 0.5 + 1e-9) for i in range(7)] if sample == 7 else None
    if index is not None:
        assert index == [0, 6, 13, 19, 26, 32, 39]
    found = memory.with_peak(sample)
    assert found.peak == pytest.approx(oracle_score.peak(*known, index), abs=1e-6)
    assert torch.equal(found.rows, memory.rows)
    assert found.width == memory.width


def test_peak_of_more_rows_than_a_pass_is_found_in_any_of_them() -> None:
    for densest in (3, 300, 599):
        rows, counts = 100.0 * draw(600, 2), torch.ones(600)
        counts[densest] = 5.0
        assert Memory(rows, counts, 1e-3).with_peak().peak == pytest.approx(math.log(5.0))


# --- What the distance means ----------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, 12])
def test_narrow_kernels_give_the_squared_distance_to_the_nearest_row(d: int) -> None:
    x = 2.0 * draw(50, d, seed=1)
    narrow = Memory(draw(60, d), torch.ones(60), 1e-3)
    nearest = squared_gaps(narrow, x).min(dim=1).values.float()
    # Two rows at nearly the same distance still add up: log 2 of a kernel at most.
    most = 2.0 * narrow.width**2 * math.log(2.0)
    torch.testing.assert_close(narrow.soft_distance(x)[0], nearest, rtol=1e-6, atol=most)
    # The peak moves all distances alike.
    energy, _ = replace(narrow, peak=math.log(7.0)).soft_distance(x)
    shifted = nearest + 2.0 * narrow.width**2 * math.log(7.0)
    torch.testing.assert_close(energy, shifted, rtol=1e-6, atol=most)


@pytest.mark.parametrize("d", [1, 3, 12])
def test_wide_kernels_give_the_mean_squared_distance(d: int) -> None:
    """To the first order -2 h^2 log mean exp(-D^2 / 2 h^2) is the mean of D^2."""
    memory, x = Memory(draw(60, d), torch.ones(60), 300.0, math.log(60)), draw(50, d, seed=1)
    mean = squared_gaps(memory, x).mean(dim=1).float()
    # 2 h^2 times the rounding of a sum of 60 kernels in float32 bounds the accuracy.
    torch.testing.assert_close(memory.soft_distance(x)[0], mean, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("width", [0.05, 0.5, 2.0])
def test_distance_is_zero_where_known_rows_are_densest_and_never_negative(width: float) -> None:
    memory = memory_of(80, 2, width)
    known = memory.rows.tolist(), memory.counts.tolist(), width
    sums = [oracle_score.log_sum(oracle_score.log_kernels(*known, row)) for row in known[0]]
    densest = int(np.argmax(sums))
    energy, _ = memory.soft_distance(memory.rows)
    assert float(energy[densest]) == pytest.approx(0.0, abs=4e-6 * width**2)
    rest = torch.arange(80) != densest
    assert float(energy[rest].min()) == pytest.approx(
        2.0 * width**2 * (memory.peak - np.sort(sums)[-2]), abs=4e-6 * width**2
    )
    # Between known rows a density may be higher than at all of them: there T ends at zero.
    anywhere, _ = memory.soft_distance(torch.cat([memory.rows, 0.3 * draw(2000, 2)]))
    assert float(anywhere.min()) >= 0.0
    between = Memory(torch.tensor([[-1.0], [1.0]]), torch.ones(2), 1.5).with_peak()
    assert between.soft_distance(torch.zeros(1, 1))[0].tolist() == [0.0]


def test_counts_stand_for_repeated_rows() -> None:
    rows, counts, x = draw(30, 4), counts_of(30), 2.0 * draw(50, 4, seed=1)
    once = Memory(rows, counts, 0.6).with_peak()
    repeated = rows.repeat_interleave(counts.long(), dim=0)
    each = Memory(repeated, torch.ones(len(repeated)), 0.6).with_peak()
    assert len(each.rows) > 40
    assert once.peak == pytest.approx(each.peak, abs=1e-6)
    torch.testing.assert_close(
        once.soft_distance(x)[0], each.soft_distance(x)[0], rtol=1e-4, atol=1e-5
    )
    lonely = replace(once, counts=torch.ones(30)).soft_distance(x)[0]
    assert not torch.allclose(lonely, once.soft_distance(x)[0], rtol=1e-3)


# --- References ------------------------------------------------------------------------------


def test_gaps_are_squared_distances_to_evenly_spread_rows() -> None:
    memory = Memory(draw(3000, 2), torch.ones(3000), 0.3).with_peak()
    x = draw(30, 2, seed=1)
    assert memory.references.tolist() == oracle_score.references(3000)
    gaps = memory.soft_distance(x)[1]
    expected = squared_gaps(memory, x)[:, memory.references].float()
    torch.testing.assert_close(gaps, expected, rtol=1e-6, atol=1e-12)


# --- Far out --------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_far_rows_keep_their_distance(far: float) -> None:
    memory, x = memory_of(50, 4), far * draw(40, 4, seed=1)
    expected_energy, expected_gaps = by_loops(memory, x)
    energy, gaps = memory.soft_distance(x)
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-6)
    np.testing.assert_allclose(gaps, expected_gaps, rtol=1e-6)


def test_moving_everything_far_away_changes_no_distance() -> None:
    """Squared norms of 1e7 drown distances of 1e-2 in float32, and not in float64."""
    # Multiples of 1/64 stay exact in float32 beside a shift of 2048.
    rows, x = ((64 * draw(60, 3, seed=s)).round() / 64 for s in (0, 1))
    here, there = (Memory(rows + shift, torch.ones(60), 0.05).with_peak() for shift in (0, 2048))
    assert there.peak == pytest.approx(here.peak, abs=1e-5)
    near = torch.cat([x, rows[:20]])
    for moved, still in zip(
        there.soft_distance(near + 2048), here.soft_distance(near), strict=True
    ):
        torch.testing.assert_close(moved, still, rtol=1e-6, atol=1e-6)


# --- Rows that are left out -----------------------------------------------------------------


def test_a_row_left_out_is_not_in_memory() -> None:
    memory = memory_of(40, 3, most=2)  # every row counts once
    own = torch.arange(40)
    energy, gaps = memory.soft_distance(memory.rows, own)
    for i in range(40):
        rest = torch.arange(40) != i
        others = replace(memory, rows=memory.rows[rest], counts=memory.counts[rest])
        expected = others.soft_distance(memory.rows[i : i + 1])
        torch.testing.assert_close(energy[i : i + 1], expected[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(gaps[i : i + 1, rest], expected[1], rtol=1e-6, atol=1e-9)
        assert float(gaps[i, i]) > 1e20  # as good as infinite
    assert bool((energy > memory.soft_distance(memory.rows)[0]).all())


@pytest.mark.parametrize("count", [2.0, 3.0])
def test_a_row_seen_several_times_is_left_out_once(count: float) -> None:
    rows, counts = draw(20, 3), torch.ones(20)
    counts[4] = count
    memory = Memory(rows, counts, 0.3).with_peak()
    found = memory.soft_distance(rows[4:5], torch.tensor([4]))
    counts = counts.clone()
    counts[4] -= 1.0
    expected = replace(memory, counts=counts).soft_distance(rows[4:5])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    assert float(found[0]) > float(memory.soft_distance(rows[4:5])[0])


def test_leaving_rows_out_equals_loops_and_changes_no_memory() -> None:
    memory = memory_of(40, 3)
    before = memory.rows.clone(), memory.counts.clone()
    own = torch.tensor([-1, 0, 39, 5, 5, -1, 17])
    x = memory.rows[own.clamp(min=0)]
    energy, gaps = memory.soft_distance(x, own)
    expected_energy, expected_gaps = by_loops(memory, x, own)
    np.testing.assert_allclose(energy, expected_energy, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gaps, np.minimum(expected_gaps, 1e30), rtol=1e-6, atol=1e-9)
    assert torch.equal(memory.rows, before[0])
    assert torch.equal(memory.counts, before[1])


def test_minus_one_leaves_nothing_out() -> None:
    memory = memory_of(40, 3)
    x = torch.cat([memory.rows, draw(20, 3, seed=5)])
    for a, b in zip(
        memory.soft_distance(x), memory.soft_distance(x, torch.full((60,), -1)), strict=True
    ):
        assert torch.equal(a, b)


# --- Bits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5, 9, 16])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 15, 40])
def test_a_row_has_the_same_bits_wherever_it_stands(d: int, n: int) -> None:
    memory = memory_of(n, d)
    x = torch.cat([draw(248, d, seed=3), memory.rows[:8], memory.rows[:1].expand(8, -1)])[:256]
    order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
    together, shuffled = memory.soft_distance(x), memory.soft_distance(x[order])
    assert torch.equal(shuffled[0], together[0][order])
    assert torch.equal(shuffled[1], together[1][order])
    # Alone among zeros, first and last in the pass.
    for i in (0, 100, 255):
        for place in (0, 255):
            crowd = torch.zeros(256, d)
            crowd[place] = x[i]
            energy, gaps = memory.soft_distance(crowd)
            assert torch.equal(energy[place], together[0][i])
            assert torch.equal(gaps[place], together[1][i])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 3, 11, 16, 40])
def test_products_equal_sums_and_do_not_tell_the_place_of_a_row(
    dtype: torch.dtype, width: int
) -> None:
    x, matrix = draw(2, 256, 24).to(dtype), draw(2, 24, width, seed=1).to(dtype)
    expected = (x.unsqueeze(3) * matrix.unsqueeze(1)).sum(dim=2)
    torch.testing.assert_close(product(x, matrix), expected, rtol=1e-5, atol=1e-5)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(2))
    assert torch.equal(product(x[:, order], matrix), product(x, matrix)[:, order])
    assert torch.equal(product(x[0][order], matrix[0]), product(x[0], matrix[0])[order])


# --- Other known rows -----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(1, 5), (5, 5), (4, 9), (100, 7), (3000, 2048), (7, 1)])
def test_spread_takes_ends_and_even_steps(n: int, most: int) -> None:
    places = spread(n, most).tolist()
    assert len(places) == min(n, most)
    assert places[0] == 0
    if len(places) > 1:
        assert places[-1] == n - 1
        steps = np.diff(places)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize("d", [1, 3, 12])
def test_leave_one_out_finds_the_nearest_other_row(d: int) -> None:
    rows = draw(30, d)
    gaps = squared_gaps(Memory(rows, torch.ones(30), 1.0), rows)
    gaps.fill_diagonal_(math.inf)
    index = torch.tensor([0, 29, 7, 7, 12])
    assert leave_one_out_nearest(rows, index).tolist() == gaps.argmin(dim=1)[index].tolist()


def test_leave_one_out_of_twins_finds_the_twin() -> None:
    rows = torch.tensor([[1.0, 1.0], [5.0, 5.0], [1.0, 1.0]])
    assert leave_one_out_nearest(rows, torch.tensor([0, 2])).tolist() == [2, 0]
