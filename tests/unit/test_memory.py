"""Nearest rows: against brute force, with ties, and far out."""

from __future__ import annotations

import numpy as np
import oracle_score
import pytest
import torch

from anomgan.scoring.memory import leave_one_out_nearest, nearest, similarity_bias


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [1, 2, 7, 30])
def test_nearest_equals_brute_force(d: int) -> None:
    rows, x = draw(50, d), 2.0 * draw(40, d, seed=1)
    expected = [oracle_score.nearest(rows.tolist(), row) for row in x.tolist()]
    assert nearest(rows, x).tolist() == expected


@pytest.mark.parametrize("d", [1, 3, 12])
def test_exact_ties_take_the_first(d: int) -> None:
    rng = np.random.default_rng(0)
    grid = np.unique(rng.integers(-2, 3, size=(60, d)), axis=0).astype(np.float32)
    x = (rng.integers(-6, 7, size=(200, d)) / 2).astype(np.float32)  # half-way points tie
    gaps = np.square(x[:, None, :] - grid).sum(axis=2)  # exact: small multiples of 1/4
    assert (np.sort(gaps, axis=1)[:, 0] == np.sort(gaps, axis=1)[:, 1]).mean() > 0.05
    found = nearest(torch.from_numpy(grid), torch.from_numpy(x))
    assert found.tolist() == gaps.argmin(axis=1).tolist()


def test_ties_that_rounding_would_break_still_take_the_first() -> None:
    # Standardised integers are no round numbers: the same gap comes out a few bits apart.
    rng = np.random.default_rng(1)
    whole = rng.integers(0, 4, size=(80, 6))
    scale, shift = rng.uniform(0.3, 3.0, 6), rng.normal(size=6)
    rows = torch.from_numpy(np.unique(whole, axis=0) * scale + shift)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(rng.integers(0, 4, size=(300, 6)) * scale + shift)
    # The order in which a product adds up its terms is not ours to choose: any must do.
    assert torch.equal(nearest(rows, x), nearest(rows[:, order], x[:, order]))


@pytest.mark.parametrize("far", [1e3, 1e6])
def test_far_rows_find_their_nearest(far: float) -> None:
    rows, x = draw(50, 4), far * draw(40, 4, seed=1)
    expected = [oracle_score.nearest(rows.tolist(), row) for row in x.tolist()]
    assert nearest(rows, x).tolist() == expected


def test_bias_completes_the_similarity() -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    bias = similarity_bias(rows)
    assert bias.dtype == torch.float64
    assert bias.tolist() == [-12.5, 0.0]


def test_leave_one_out_finds_the_nearest_other_row() -> None:
    rows = draw(30, 3)
    index = torch.tensor([0, 29, 7, 7, 12])
    listed = rows.tolist()
    expected = []
    for i in index.tolist():
        others = [row if j != i else [1e9] * 3 for j, row in enumerate(listed)]
        expected.append(oracle_score.nearest(others, listed[i]))
    assert leave_one_out_nearest(rows, index).tolist() == expected


def test_leave_one_out_of_twins_finds_the_twin() -> None:
    rows = torch.tensor([[1.0, 1.0], [5.0, 5.0], [1.0, 1.0]])
    assert leave_one_out_nearest(rows, torch.tensor([0, 2])).tolist() == [2, 0]
