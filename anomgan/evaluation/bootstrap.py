"""Bootstrap intervals of ranking measures, for several detectors on the same rows.

Rows are drawn with replacement within the anomalies and within the normal rows, so that the share
of anomalies stays what it is in the file. All detectors see the same draws: their differences are
paired. Point estimates are scikit-learn's; a draw is a set of row weights, and everything that is
measured on it follows from two cumulative sums.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from anomgan.evaluation.metrics import (
    auroc,
    average_precision,
    best_f1,
    partial_auroc,
    precision_at,
    recall_at_false_alarms,
)

__all__ = [
    "LEVEL",
    "Estimate",
    "Measure",
    "Ranking",
    "compare",
    "draw_weights",
    "number_of_draws",
    "ranking_measures",
]

LEVEL: Final = 0.95
"""Confidence of every interval."""

_MOST_DRAWS, _FEWEST_DRAWS = 1000, 100
_WORK = 4e7  # rows looked at in all; a second or two

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval.

    Parameters
    ----------
    value : float
    low, high : float
        95 % interval; the method is told where the estimate is made.
    """

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """Return a JSON-ready mapping."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Measure:
    """A number that a ranking is judged by.

    Parameters
    ----------
    name : str
    exact : callable
        Labels and scores to the value.
    weighted : callable
        Cumulative weights of anomalies and of normal rows, float64 [n + 1] from 0 on, by falling
        score with tied rows together, to the same value.
    """

    name: str
    exact: Callable[[NDArray[np.bool_], Numbers], float]
    weighted: Callable[[Numbers, Numbers], float]


def ranking_measures(ks: Sequence[int]) -> tuple[Measure, ...]:
    """Return what `anomgan evaluate` measures; `ks` are the numbers of rows someone may look at."""
    return (
        Measure("auroc", auroc, _area),
        Measure("average_precision", average_precision, _average_precision),
        *(
            Measure(
                f"partial_auroc_{bound:g}",
                partial(partial_auroc, max_false_alarm_rate=bound),
                partial(_partial_area, bound=bound),
            )
            for bound in (0.01, 0.1)
        ),
        Measure(
            "recall_at_0.01",
            partial(recall_at_false_alarms, rate=0.01),
            partial(_recall_at_false_alarms, rate=0.01),
        ),
        Measure("best_f1", lambda y, s: best_f1(y, s).f1, _best_f1),
        *(
            Measure(f"precision_at_{k}", partial(precision_at, k=k), partial(_precision_at, k=k))
            for k in ks
        ),
    )


def compare(
    labels: NDArray[np.bool_],
    scores: Mapping[str, Numbers],
    measures: Sequence[Measure],
    *,
    seed: int = 0,
) -> tuple[dict[str, dict[str, Estimate]], dict[str, Estimate], int]:
    """Measure every detector, and the AUROC by which the first one leads each of the others.

    Parameters
    ----------
    labels : bool [n]
        True = anomaly; both kinds occur.
    scores : mapping of str to float64 [n]
    measures : sequence of Measure
        The first is the one that leads are told of.
    seed : int
        Seed of the draws.

    Returns
    -------
    tuple
        Estimates by detector and measure; leads by detector, the first one excepted; and the
        number of draws. Intervals are percentile intervals.
    """
    n_draws = number_of_draws(len(labels) * len(scores))
    rankings = {name: Ranking(values, labels) for name, values in scores.items()}
    drawn = {name: np.empty((n_draws, len(measures))) for name in scores}
    rng = np.random.default_rng(seed)
    for i in range(n_draws):
        weights = draw_weights(labels, rng)
        for name, ranking in rankings.items():
            cumulative = ranking.cumulative(weights)
            drawn[name][i] = [m.weighted(*cumulative) for m in measures]
    found: dict[str, dict[str, Estimate]] = {}
    for name, values in scores.items():
        found[name] = {
            m.name: Estimate(m.exact(labels, values), *_interval(drawn[name][:, j]))
            for j, m in enumerate(measures)
        }
    first, *others = scores
    leading = measures[0].name
    leads = {
        name: Estimate(
            found[first][leading].value - found[name][leading].value,
            *_interval(drawn[first][:, 0] - drawn[name][:, 0]),
        )
        for name in others
    }
    return found, leads, n_draws


def number_of_draws(n_looked_at: int) -> int:
    """Return how many draws are worth their time where one looks at so many rows."""
    return int(min(_MOST_DRAWS, max(_FEWEST_DRAWS, _WORK / n_looked_at)))


class Ranking:
    """Rows in falling order of one detector's scores.

    Parameters
    ----------
    scores : float64 [n]
    labels : bool [n]
        True = anomaly.
    """

    def __init__(self, scores: Numbers, labels: NDArray[np.bool_]) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ordered = scores[self._order]
        self._ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
        self._anomalous = labels[self._order]

    def cumulative(self, weights: Numbers) -> tuple[Numbers, Numbers]:
        """Weights of anomalies and of normal rows down to each distinct score, from 0 on."""
        ordered = weights[self._order]
        true = np.cumsum(np.where(self._anomalous, ordered, 0.0))[self._ends]
        false = np.cumsum(np.where(self._anomalous, 0.0, ordered))[self._ends]
        return np.append(0.0, true), np.append(0.0, false)


def draw_weights(labels: NDArray[np.bool_], rng: np.random.Generator) -> Numbers:
    """Draw once within each kind of rows: how often each row was drawn, float64 [n]."""
    weights = np.empty(len(labels))
    for kind in (True, False):
        n = int((labels == kind).sum())
        weights[labels == kind] = np.bincount(rng.integers(n, size=n), minlength=n)
    return weights


def _interval(values: Numbers) -> tuple[float, float]:
    outside = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(values, [outside, 1.0 - outside])
    return float(low), float(high)


def _area(true: Numbers, false: Numbers) -> float:
    return float(np.trapezoid(true / true[-1], false / false[-1]))


def _partial_area(true: Numbers, false: Numbers, bound: float) -> float:
    t, f = true / true[-1], false / false[-1]
    stop = int(np.searchsorted(f, bound, side="right"))
    if stop < len(f):
        at_bound = float(np.interp(bound, f[stop - 1 : stop + 1], t[stop - 1 : stop + 1]))
        t, f = np.append(t[:stop], at_bound), np.append(f[:stop], bound)
    least, most = 0.5 * bound**2, bound  # of a coin, and of a perfect ranking
    return 0.5 * (1.0 + (float(np.trapezoid(t, f)) - least) / (most - least))


def _average_precision(true: Numbers, false: Numbers) -> float:
    flagged = true[1:] + false[1:]
    precision = np.divide(true[1:], flagged, out=np.zeros_like(flagged), where=flagged > 0.0)
    return float(np.sum(np.diff(true) * precision)) / float(true[-1])


def _recall_at_false_alarms(true: Numbers, false: Numbers, rate: float) -> float:
    return float(true[false / false[-1] <= rate].max() / true[-1])


def _best_f1(true: Numbers, false: Numbers) -> float:
    return float(np.max(2.0 * true / (true + false + true[-1])))


def _precision_at(true: Numbers, false: Numbers, k: int) -> float:
    return float(np.interp(k, true + false, true)) / k
