"""What normal rows alone give: the law of the p-values that a file of them has."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

__all__ = ["LEVEL", "chance_band"]

LEVEL: Final = 0.95
_MOST_ROWS: Final = 100_000


def chance_band(n_calibration: int, n_rows: int, rate: float) -> tuple[float, float]:
    """Return where the share of normal rows with a p-value of at most `rate` lies, 95 of 100 times.

    `anomgan.evaluation.metrics.conformal_band` without scipy, which scoring must not load: the
    beta-binomial law by the ratios of its neighbouring probabilities. Of more than 100 000 rows
    the band is that of 100 000: what limits by then are the calibration rows.

    Parameters
    ----------
    n_calibration, n_rows : int
        Both at least 1.
    rate : float
        In (0, 1).

    Returns
    -------
    (float, float)
        (0, 0) where the rate lies below 1 / (n_calibration + 1).
    """
    k = math.floor(rate * (n_calibration + 1) + 1e-9)
    if k == 0:
        return 0.0, 0.0
    n, other = min(n_rows, _MOST_ROWS), n_calibration + 1 - k
    hits = np.arange(n, dtype=np.float64)
    ratios = np.log((n - hits) * (hits + k)) - np.log((hits + 1.0) * (n - hits - 1.0 + other))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    law = np.cumsum(np.exp(logs - logs.max()))
    outside = (1.0 - LEVEL) / 2.0
    ends = np.searchsorted(law / law[-1], [outside, 1.0 - outside])
    return float(ends[0]) / n, float(ends[1]) / n
