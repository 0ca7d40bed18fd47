"""Which column is to blame: by hand, against loops, and on planted faults."""

from __future__ import annotations

import math

import numpy as np
import oracle_score
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from anomgan.scoring.attribution import Attribution


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaps_of(x: Tensor, rows: Tensor) -> Tensor:
    return (x.double().unsqueeze(1) - rows.double()).square().sum(dim=2).float()


def shares(attribution: Attribution, x: Tensor, residual: Tensor | None = None) -> Tensor:
    gaps = gaps_of(x, attribution.references)
    left = torch.zeros_like(x) if residual is None else residual
    every = torch.ones(len(x), dtype=torch.bool)
    return attribution.share(x, gaps, left, torch.ones(len(x)), every)


def each_its_own(rows: Tensor, floor: float = 0.0) -> Attribution:
    d = rows.shape[1]
    return Attribution(rows, torch.ones(len(rows)), 0.1, torch.arange(d), d, floor)


def test_the_column_without_which_a_row_is_known_takes_the_blame() -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    x = torch.tensor([[5.0, 5.0, 0.0]])  # the second row, but for its last value
    attribution = each_its_own(rows)
    blame, posterior = attribution.views(x, gaps_of(x, rows))
    # Nearest: 25 away. Without a column: 25, 25, and 0.
    assert blame.tolist() == [[0.0, 0.0, 25.0]]
    assert float(posterior[0, 2] / posterior.sum()) > 0.99


def test_another_row_may_be_the_nearest_without_a_column() -> None:
    """What differences to one nearest row cannot see."""
    rows = torch.tensor([[0.0, 0.0, 0.0], [10.0, 4.0, 4.0]])
    x = torch.tensor([[3.0, 4.0, 4.0]])  # nearest is the first: 41 against 49
    blame, _ = each_its_own(rows).views(x, gaps_of(x, rows))
    # Without the first column the second row fits exactly; without another one 25 are left.
    assert blame.tolist() == [[41.0, 16.0, 16.0]]


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 1, 1, 3]])
def test_both_views_of_the_rows_equal_loops(columns: list[int]) -> None:
    rows, x = draw(40, 7), torch.cat([2.0 * draw(20, 7, seed=1), 1e3 * draw(4, 7, seed=2)])
    n_columns, counts = max(columns) + 1, torch.arange(1.0, 41.0)
    attribution = Attribution(rows, counts, 0.2, torch.tensor(columns), n_columns, 0.0)
    gaps = gaps_of(x, rows)
    found, posterior = attribution.views(x, gaps)
    posterior = posterior / posterior.sum(dim=1, keepdim=True)
    for i in range(len(x)):
        row, near = x[i].tolist(), gaps[i].double().tolist()
        expected = oracle_score.blame(rows.tolist(), near, row, columns, n_columns)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5 * float(gaps[i].max()))
        expected = oracle_score.posterior(
            rows.tolist(), near, counts.tolist(), 0.2, row, columns, n_columns
        )
        np.testing.assert_allclose(posterior[i], expected, rtol=2e-3, atol=1e-5)


def test_of_two_that_contradict_the_value_that_is_common_is_the_wrong_one() -> None:
    """Distances cannot tell: without either column the row is as near to a known one."""
    common, rare = torch.tensor([[0.0, 0.0]]), torch.tensor([[5.0, 5.0]])
    rows = torch.cat([common + 0.01 * draw(90, 2), rare + 0.01 * draw(10, 2, seed=1)])
    attribution = each_its_own(rows)
    x = torch.tensor([[0.0, 5.0]])
    blame, posterior = attribution.views(x, gaps_of(x, rows))
    assert float(blame[0, 0]) == pytest.approx(float(blame[0, 1]), rel=0.01)
    # p(5) q(0) against p(0) q(5): a draw, as Bayes' rule says of columns of one scale ...
    assert float(posterior[0, 0] / posterior.sum()) == pytest.approx(0.5, abs=0.01)
    # ... but a value that is like no other is the wrong one, wherever it came from.
    x = torch.tensor([[0.0, 9.0]])
    blame, posterior = attribution.views(x, gaps_of(x, rows))
    assert float(posterior[0, 1] / posterior.sum()) > 0.99


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([1e-3, 0.1, 1.0, 30.0, 1e3, 1e6]),
    columns=st.lists(st.integers(0, 5), min_size=5, max_size=5),
)
def test_shares_are_finite_not_negative_and_sum_to_the_energy(
    seed: int, spread: float, columns: list[int]
) -> None:
    rows, x = draw(30, 5, seed=seed), spread * draw(8, 5, seed=seed // 2)
    attribution = Attribution(rows, torch.ones(30), 0.05, torch.tensor(columns), 6, 1e-4)
    gaps = gaps_of(x, rows)
    gaps[0] = 1e30  # the one row of a memory, left out of it
    energy = torch.arange(8.0)
    found = attribution.share(x, gaps, x.square(), energy, torch.arange(8) % 2 == 0)
    assert bool(torch.isfinite(found).all())
    assert bool((found >= 0.0).all())
    torch.testing.assert_close(found.sum(dim=1), energy, rtol=1e-5, atol=1e-6)
    assert not found[:, sorted(set(range(6)) - set(columns))].any()


def test_far_out_the_blame_stays_exact() -> None:
    rows = draw(40, 5)
    x = rows[:5] + 1e6 * torch.eye(5)
    found = shares(each_its_own(rows, floor=1e-4), x, residual=x.square())
    assert bool((found.diagonal() > 0.9999).all())


def test_the_three_views_count_a_third_each() -> None:
    rows = torch.zeros(1, 2)
    x, residual = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 7.0]])
    found = shares(each_its_own(rows), x, residual)
    # To one row the variance is 0.16 + 0.002 * 10; without a column 1 or 9 are left.
    kernels = [
        math.exp(-left / 0.36) * (math.exp(-own / 0.36) + 1e-4) for left, own in ((1, 9), (9, 1))
    ]
    first = kernels[0] / sum(kernels)
    expected = torch.tensor([[0.9 + first, 0.1 + 1.0 - first + 1.0]]) / 3.0
    torch.testing.assert_close(found, expected)


def test_a_known_row_given_back_exactly_shares_by_likelihood_alone() -> None:
    rows = draw(10, 3)
    attribution = Attribution(rows, torch.ones(10), 0.1, torch.tensor([0, 2, 2]), 3, 0.01)
    found = shares(attribution, rows[:4])
    third = torch.tensor([1.0 / 3.0, 0.0, 1.0 / 3.0])
    posterior = attribution.views(rows[:4], gaps_of(rows[:4], rows))[1]
    posterior = posterior / posterior.sum(dim=1, keepdim=True)
    torch.testing.assert_close(found, third + posterior / 3.0)


def test_one_wrong_value_is_named() -> None:
    """Rows on a plane: any two columns tell the third, so the wrong one is known."""
    generator = torch.Generator().manual_seed(3)
    codes = torch.randn(2000, 2, generator=generator)
    turn = torch.randn(2, 6, generator=generator)
    rows, clean = codes[:500] @ turn, codes[500:] @ turn
    column = torch.arange(len(clean)) % 6
    broken = clean.clone()
    broken[torch.arange(len(clean)), column] += 3.0
    found = shares(each_its_own(rows, 1e-4), broken, residual=torch.ones_like(broken))
    assert float((found.argmax(dim=1) == column).float().mean()) > 0.97


def test_rows_that_are_not_explained_are_shared_by_the_generator_alone() -> None:
    rows, x = draw(30, 4), draw(6, 4, seed=1)
    attribution, residual = each_its_own(rows, floor=1e-3), draw(6, 4, seed=2).square()
    explained = torch.tensor([True, False, False, True, False, True])
    energy, gaps = torch.arange(1.0, 7.0), gaps_of(x, rows)
    found = attribution.share(x, gaps, residual, energy, explained)
    every = attribution.share(x, gaps, residual, energy, torch.ones(6, dtype=torch.bool))
    left = residual + 1e-3
    alone = left / left.sum(dim=1, keepdim=True) * energy.unsqueeze(1)
    torch.testing.assert_close(found[~explained], alone[~explained])
    torch.testing.assert_close(found[explained], every[explained])


def test_only_rows_that_are_explained_go_through_the_views(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In blocks of one size, the last one filled up; in whatever company, with the same bits."""
    rows, x = draw(30, 4), draw(200, 4, seed=1)
    attribution, residual = each_its_own(rows, floor=1e-3), draw(200, 4, seed=2).square()
    energy, gaps = torch.arange(1.0, 201.0), gaps_of(x, rows)
    seen: list[int] = []
    views = Attribution.views

    def spy(self: Attribution, x: torch.Tensor, gaps: torch.Tensor) -> tuple:
        seen.append(len(x))
        return views(self, x, gaps)

    monkeypatch.setattr(Attribution, "views", spy)
    every = torch.ones(200, dtype=torch.bool)
    whole = attribution.share(x, gaps, residual, energy, every)
    assert seen == [64, 64, 64, 64]
    for explained in (torch.arange(200) % 10 == 3, torch.arange(200) >= 135, ~every):
        seen.clear()
        found = attribution.share(x, gaps, residual, energy, explained)
        assert seen == [64] * -(-int(explained.sum()) // 64)
        assert torch.equal(found[explained], whole[explained])
