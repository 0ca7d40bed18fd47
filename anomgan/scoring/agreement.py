"""How near one score of rows comes to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.evaluation.metrics import auroc, rank_correlation

__all__ = ["Agreement", "RowScores", "agreement"]

RowScores = Callable[[Tensor], NDArray[Any]]
"""Scores [n] of encoded rows, float32 [n, d]."""
_MIXED = 0.3
"""Share of a mixture's cells that are another row's."""


@dataclass(frozen=True)
class Agreement:
    """Two scores on the same rows, and on mixtures whose cells come from two of them each.

    Attributes
    ----------
    rank_correlation : float
        Spearman's, on the rows.
    auroc, other_auroc : float
        With which each of them tells mixtures from the rows.
    p99_relative, max_relative : float
        |other - score| / |score| in 99 % of rows and mixtures, and in all.
    """

    rank_correlation: float
    auroc: float
    other_auroc: float
    p99_relative: float
    max_relative: float


def agreement(
    score: RowScores, other: RowScores, rows: Tensor, rng: np.random.Generator
) -> Agreement:
    """Compare two scores on rows [n, d], which neither should know.

    Labelled anomalies are not needed: mixtures are none of the rows, but have all of their values.
    """
    partners = rows[torch.from_numpy(rng.permutation(len(rows)))]
    mixed = torch.where(torch.from_numpy(rng.random(rows.shape) < _MIXED), partners, rows)
    pairs = [(one(rows), one(mixed)) for one in (score, other)]
    labels = np.repeat([0, 1], len(rows))
    own, others = (np.concatenate(pair).astype(np.float64) for pair in pairs)
    relative = np.abs(others - own) / np.abs(own)
    return Agreement(
        rank_correlation=rank_correlation(*(plain for plain, _ in pairs)),
        auroc=auroc(labels, own),
        other_auroc=auroc(labels, others),
        p99_relative=float(np.quantile(relative, 0.99, method="lower")),
        max_relative=float(relative.max()),
    )
