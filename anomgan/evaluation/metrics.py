"""How well scores rank, and how often normal rows are flagged."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from anomgan.errors import UsageError

__all__ = ["auroc", "average_precision", "false_alarm_rate"]


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
    return float(roc_auc_score(*_checked(y, scores)))


def average_precision(y: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the recalls of the ranking, in (0, 1]; arguments as in `auroc`."""
    return float(average_precision_score(*_checked(y, scores)))


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


def _checked(y: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
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
