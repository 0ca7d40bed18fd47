"""How well scores rank, and how often normal rows are flagged.

The figures are scikit-learn's wherever it has them; `labels` is 1 (or True) for an anomaly, and
larger scores are more abnormal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import betabinom, rankdata
from scipy.stats import binomtest as _binomial_test
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from anomgan.errors import UsageError

__all__ = [
    "BestF1",
    "auroc",
    "average_precision",
    "best_f1",
    "checked",
    "conformal_band",
    "false_alarm_rate",
    "partial_auroc",
    "precision_at",
    "rank_correlation",
    "recall_at_false_alarms",
    "share_interval",
]


def auroc(y: ArrayLike, scores: ArrayLike) -> float:
    """Chance that an anomaly scores above a normal row, ties counted half; in [0, 1].

    Parameters
    ----------
    y : array_like [n]
        1 = anomaly, 0 = normal.
    scores : array_like [n]
        Larger is more abnormal.

    Raises
    ------
    UsageError
        Lengths differ, a score is not finite, or one of the two kinds of rows is absent.
    """
    return float(roc_auc_score(*checked(y, scores)))


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two rankings of the same rows [n], ties at their mean rank.

    1 where neither ranks anything, and 0 where only one of them does; NaN where there is one.
    """
    ranks = [rankdata(np.asarray(values)) for values in (a, b)]
    if np.isnan(ranks).any():
        return math.nan
    flat = [np.unique(r).size < 2 for r in ranks]
    if any(flat):
        return 1.0 if all(flat) else 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def average_precision(y: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the recalls of the ranking, in (0, 1]; arguments as in `auroc`."""
    return float(average_precision_score(*checked(y, scores)))


def partial_auroc(y: ArrayLike, scores: ArrayLike, max_false_alarm_rate: float) -> float:
    """AUROC over false-alarm rates up to a bound, in [0, 1]; 0.5 is chance.

    Standardised by McClish (1989), Medical Decision Making 9(3), as scikit-learn does; arguments
    as in `auroc`.
    """
    return float(roc_auc_score(*checked(y, scores), max_fpr=max_false_alarm_rate))


def recall_at_false_alarms(y: ArrayLike, scores: ArrayLike, rate: float) -> float:
    """Largest share of the anomalies found while at most `rate` of the normal rows are flagged."""
    false, true, _ = roc_curve(*checked(y, scores), drop_intermediate=False)
    return float(true[false <= rate].max())


@dataclass(frozen=True)
class BestF1:
    """The best that any threshold does on these rows: a bound, not a setting to be expected.

    Parameters
    ----------
    f1, precision, recall : float
    threshold : float
        Rows with scores at or above it are flagged.
    """

    f1: float
    precision: float
    recall: float
    threshold: float


def best_f1(y: ArrayLike, scores: ArrayLike) -> BestF1:
    """Find the threshold with the largest F1, the highest of equals; arguments as in `auroc`."""
    precision, recall, threshold = precision_recall_curve(*checked(y, scores))
    precision, recall = precision[:-1], recall[:-1]  # the last point flags nothing
    both = precision + recall
    f1 = np.divide(2.0 * precision * recall, both, out=np.zeros_like(both), where=both > 0.0)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return BestF1(*(float(a[best]) for a in (f1, precision, recall, threshold)))


def precision_at(y: ArrayLike, scores: ArrayLike, k: int) -> float:
    """Share of anomalies among the k highest scores; ties at the k-th count by their mean.

    Raises
    ------
    UsageError
        `k` is not between 1 and n, or as `auroc`.
    """
    labels, values = checked(y, scores)
    if not 1 <= k <= len(values):
        raise UsageError(f"k is {k}: it must lie between 1 and the {len(values)} rows")
    border = np.partition(values, len(values) - k)[len(values) - k]
    above, tied = values > border, values == border
    found = float(labels[above].sum())
    found += float(labels[tied].mean()) * (k - int(above.sum()))
    return found / k


def false_alarm_rate(y: ArrayLike, flags: ArrayLike) -> float:
    """Share of the normal rows that are flagged, in [0, 1].

    Parameters
    ----------
    y : array_like [n]
        1 = anomaly, 0 = normal.
    flags : array_like [n]
        True where a row is called an anomaly.

    Raises
    ------
    UsageError
        Lengths differ, or no row is normal.
    """
    labels, flagged = np.asarray(y).astype(bool), np.asarray(flags).astype(bool)
    if labels.shape != flagged.shape:
        raise UsageError(f"{labels.size} labels but {flagged.size} flags: one a row is expected")
    if labels.all():
        raise UsageError("no normal row: a false-alarm rate needs some")
    return float(flagged[~labels].mean())


def share_interval(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share by Clopper & Pearson (1934): covers it at least `level` of the time.

    Parameters
    ----------
    hits, n : int
        0 <= hits <= n; with n = 0 nothing is known, and the interval is (0, 1).
    level : float
    """
    if n == 0:
        return 0.0, 1.0
    interval = _binomial_test(hits, n).proportion_ci(confidence_level=level, method="exact")
    return float(interval.low), float(interval.high)


def conformal_band(
    n_calibration: int, n_normal: int, rate: float, *, level: float = 0.95
) -> tuple[float, float]:
    """Range of the realised false-alarm rate that a conformal threshold allows.

    Over calibration rows and new normal rows that are exchangeable and have no ties, the number of
    new rows with a p-value of at most `rate` is beta-binomial with parameters n_normal, k and
    n_calibration + 1 - k, where k = floor(rate (n_calibration + 1)) (Vovk, 2012, Asian Conference
    on Machine Learning, proposition 2; the mixture of a binomial over its beta law).

    Parameters
    ----------
    n_calibration, n_normal : int
        Both at least 1.
    rate : float
        In (0, 1).
    level : float
        Probability of the band, at least; equal tails.

    Returns
    -------
    (float, float)
        Smallest and largest share of the new normal rows. (0, 0) where the rate lies below
        1 / (n_calibration + 1): then only an extrapolated tail can flag anything.
    """
    k = int(np.floor(rate * (n_calibration + 1) + 1e-9))
    if k == 0:
        return 0.0, 0.0
    law = betabinom(n_normal, k, n_calibration + 1 - k)
    outside = (1.0 - level) / 2.0
    return float(law.ppf(outside)) / n_normal, float(law.ppf(1.0 - outside)) / n_normal


def checked(y: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return labels and scores as arrays of one length, finite, with both kinds of rows.

    Raises
    ------
    UsageError
        They are not.
    """
    labels, values = np.asarray(y).astype(bool), np.asarray(scores, dtype=np.float64)
    if labels.shape != values.shape:
        raise UsageError(f"{labels.size} labels but {values.size} scores: one a row is expected")
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UsageError(f"the score of test row {row} is {values[row]}, a number is expected")
    n_anomalies = int(labels.sum())
    if n_anomalies in (0, labels.size):
        raise UsageError(
            f"{n_anomalies} of {labels.size} test rows are anomalies: a ranking needs both kinds"
        )
    return labels, values
