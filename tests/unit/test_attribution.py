"""Which column is to blame: by hand, against loops, and on planted faults."""

from __future__ import annotations

import numpy as np
import oracle_score
import pytest
import torch
from torch import Tensor

from anomgan.scoring.attribution import Attribution


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaps_of(x: Tensor, rows: Tensor) -> Tensor:
    return (x.double().unsqueeze(1) - rows.double()).square().sum(dim=2).float()


def shares(attribution: Attribution, x: Tensor, residual: Tensor | None = None) -> Tensor:
    gaps = gaps_of(x, attribution.references)
    left = torch.zeros_like(x) if residual is None else residual
    return attribution.share(x, gaps, left, torch.ones(len(x)))


def each_its_own(rows: Tensor, floor: float = 0.0) -> Attribution:
    d = rows.shape[1]
    return Attribution(rows, torch.arange(d), d, floor)


def test_the_column_without_which_a_row_is_known_takes_the_blame() -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0], [5.0, 5.0, 5.0]])
    x = torch.tensor([[5.0, 5.0, 0.0]])  # the second row, but for its last value
    attribution = each_its_own(rows)
    blame = attribution._blame(x, gaps_of(x, rows))
    # Nearest: 25 away. Without a column: 25, 25, and 0.
    assert blame.tolist() == [[0.0, 0.0, 25.0]]


def test_another_row_may_be_the_nearest_without_a_column() -> None:
    """What differences to one nearest row cannot see."""
    rows = torch.tensor([[0.0, 0.0, 0.0], [10.0, 4.0, 4.0]])
    x = torch.tensor([[3.0, 4.0, 4.0]])  # nearest is the first: 41 against 49
    blame = each_its_own(rows)._blame(x, gaps_of(x, rows))
    # Without the first column the second row fits exactly; without another one 25 are left.
    assert blame.tolist() == [[41.0, 16.0, 16.0]]


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 1, 1, 3]])
def test_blame_equals_loops(columns: list[int]) -> None:
    rows, x = draw(40, 7), torch.cat([2.0 * draw(20, 7, seed=1), 1e3 * draw(4, 7, seed=2)])
    n_columns = max(columns) + 1
    attribution = Attribution(rows, torch.tensor(columns), n_columns, 0.0)
    gaps = gaps_of(x, rows)
    found = attribution._blame(x, gaps)
    for i in range(len(x)):
        expected = oracle_score.blame(
            rows.tolist(), gaps[i].double().tolist(), x[i].tolist(), columns, n_columns
        )
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5 * float(gaps[i].max()))


def test_far_out_the_blame_stays_exact() -> None:
    rows = draw(40, 5)
    x = rows[:5] + 1e6 * torch.eye(5)
    found = shares(each_its_own(rows, floor=1e-4), x, residual=x.square())
    assert bool((found.diagonal() > 0.9999).all())


def test_blame_and_residual_count_half_each() -> None:
    rows = torch.zeros(1, 2)
    x, residual = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 7.0]])
    found = shares(each_its_own(rows), x, residual)
    torch.testing.assert_close(found, torch.tensor([[0.5 * 0.9, 0.5 * 0.1 + 0.5]]))


def test_a_known_row_given_back_exactly_shares_evenly() -> None:
    rows = draw(10, 3)
    attribution = Attribution(rows, torch.tensor([0, 2, 2]), 3, 0.01)
    found = shares(attribution, rows[:4])
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0, 0.5]]).expand(4, 3))


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
