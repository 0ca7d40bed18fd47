"""How near one score comes to another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from anomgan.scoring.agreement import agreement


def _correlated(n: int) -> Tensor:
    one = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return one + 0.1 * noise


def _off_the_line(rows: Tensor) -> np.ndarray:
    return 1.0 + (rows - rows.mean(dim=1, keepdim=True)).square().sum(dim=1).numpy()


def test_a_score_agrees_with_itself() -> None:
    found = agreement(_off_the_line, _off_the_line, _correlated(500), np.random.default_rng(0))
    assert found.rank_correlation == pytest.approx(1.0)
    assert (found.p99_relative, found.max_relative) == (0.0, 0.0)
    assert found.auroc == found.other_auroc > 0.7  # mixtures of correlated rows are off the line


def test_what_differs_is_told_of_rows_and_mixtures() -> None:
    rows, seen = _correlated(500), []

    def other(x: Tensor) -> np.ndarray:
        seen.append(x)
        scores = _off_the_line(x)
        # Two of the thousand are worse by much: more than a hundredth of them would be needed.
        return scores * (1.01 + 0.5 * (np.arange(len(x)) == 0))

    found = agreement(_off_the_line, other, rows, np.random.default_rng(0))
    assert found.p99_relative == pytest.approx(0.01, rel=1e-3)
    assert found.max_relative == pytest.approx(0.51, rel=1e-3)
    plain, mixed = seen
    assert (plain == rows).all()
    assert 0.2 < (mixed != rows).double().mean() < 0.4
    for feature in range(4):  # every cell is some row's
        assert np.isin(mixed[:, feature].numpy(), rows[:, feature].numpy()).all()
    scores = np.concatenate([other(plain), other(mixed)])
    assert found.other_auroc == pytest.approx(roc_auc_score(np.repeat([0, 1], 500), scores))


def test_a_score_turned_round_ranks_the_other_way() -> None:
    found = agreement(
        _off_the_line,
        lambda x: 100.0 - _off_the_line(x),
        _correlated(300),
        np.random.default_rng(0),
    )
    assert found.rank_correlation == pytest.approx(-1.0)
    assert found.auroc == pytest.approx(1.0 - found.other_auroc)
