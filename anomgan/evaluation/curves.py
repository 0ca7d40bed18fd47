"""ROC and precision-recall curves for drawing, with pointwise bootstrap bands.

The draws are those of `anomgan.evaluation.bootstrap`: with replacement within the anomalies and
within the normal rows. A band covers each point of the curve with the stated confidence, not the
curve as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomgan.evaluation.bootstrap import LEVEL, Ranking, draw_weights, number_of_draws

__all__ = ["Band", "Curve", "bands", "curves_of"]

_MOST_POINTS: Final = 400  # of a drawn curve; a chart is about as many pixels wide
_GRID: Final = np.concatenate([np.linspace(0.0, 0.05, 26), np.linspace(0.06, 1.0, 95)])

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of a curve, from left to right.

    Parameters
    ----------
    x, y : float64 [k]
    """

    x: Numbers
    y: Numbers


@dataclass(frozen=True)
class Band:
    """Where a curve lies, point by point.

    Parameters
    ----------
    x, low, high : float64 [k]
    """

    x: Numbers
    low: Numbers
    high: Numbers


def curves_of(labels: NDArray[np.bool_], scores: Numbers) -> tuple[Curve, Curve]:
    """Return the ROC curve and the precision-recall curve of one ranking.

    Parameters
    ----------
    labels : bool [n]
        True = anomaly; both kinds occur.
    scores : float64 [n]

    Returns
    -------
    (Curve, Curve)
        Recall over false-alarm rate, tied rows joined by a straight line as in the AUROC; and
        precision over recall, where a recall takes the precision of the first score that reaches
        it, as in the average precision. At most 400 points each.
    """
    true, false = Ranking(scores, labels).cumulative(np.ones(len(labels)))
    recall, alarms = true / true[-1], false / false[-1]
    kept = _spread(alarms, recall)
    roc = recall[kept]
    all_found = int(np.argmax(recall)) + 1  # what follows flags normal rows alone
    recall, precision = recall[1:all_found], (true / np.maximum(true + false, 1.0))[1:all_found]
    shown = _spread(recall, precision)
    return Curve(alarms[kept], roc), Curve(recall[shown], precision[shown])


def bands(
    labels: NDArray[np.bool_], scores: Numbers, *, seed: int = 0, n_draws: int | None = None
) -> tuple[Band, Band]:
    """Return the bands of both curves of `curves_of`, 95 % point by point.

    Parameters
    ----------
    labels, scores
        As for `curves_of`.
    seed : int
    n_draws : int, optional
        Between 100 and 1000 by default, fewer for more rows.
    """
    ranking, rng = Ranking(scores, labels), np.random.default_rng(seed)
    n_draws = n_draws or number_of_draws(len(labels))
    recalls, precisions = np.empty((2, n_draws, len(_GRID)))
    for i in range(n_draws):
        true, false = ranking.cumulative(draw_weights(labels, rng))
        recall, alarms = true / true[-1], false / false[-1]
        recalls[i] = _upper(alarms, recall)
        reached = np.maximum(np.searchsorted(recall, _GRID - 1e-12), 1)
        flagged = true[reached] + false[reached]
        # A draw may leave out every row of the highest scores: the first that is there counts.
        first = int(np.argmax(true + false > 0.0))
        reached = np.where(flagged > 0.0, reached, first)
        precisions[i] = true[reached] / (true[reached] + false[reached])
    outside = 100.0 * (1.0 - LEVEL) / 2.0
    ends = [outside, 100.0 - outside]
    return (
        Band(_GRID, *np.percentile(recalls, ends, axis=0)),
        Band(_GRID, *np.percentile(precisions, ends, axis=0)),
    )


def _upper(alarms: Numbers, recall: Numbers) -> Numbers:
    """Recall at the grid's false-alarm rates; at a jump, the upper end."""
    right = np.searchsorted(alarms, _GRID, side="right")
    at = np.interp(_GRID, alarms, recall)
    exact = alarms[right - 1] == _GRID
    return np.where(exact, recall[right - 1], at)


def _spread(x: Numbers, y: Numbers) -> NDArray[np.int64]:
    """Positions of at most 400 points, evenly far apart along the curve, both ends included."""
    if len(x) <= _MOST_POINTS:
        return np.arange(len(x))
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    wanted = np.linspace(0.0, length[-1], _MOST_POINTS)
    return np.unique(np.append(np.searchsorted(length, wanted), [0, len(x) - 1])).clip(
        0, len(x) - 1
    )
