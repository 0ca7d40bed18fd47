"""Which false-alarm rate to decide at, by rows whose labels are known.

A rate flags the rows whose p-value is at most as large, so only the p-values of the labelled rows
themselves are candidates. The rate is chosen and judged on the same rows: what is reported of it
is therefore better than what new rows will give (Hastie, Tibshirani & Friedman 2009, section 7.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.errors import UsageError
from anomgan.evaluation.bootstrap import LEVEL, Estimate
from anomgan.evaluation.metrics import share_interval

__all__ = ["OperatingPoint", "Target", "choose_rate"]

_MOST_DRAWS, _FEWEST_DRAWS = 1000, 100
_WORK = 4e7  # candidates looked at in all; a second or two
_DIGITS: Final = 4  # of a rate, where as few tell the candidates apart

Counts = NDArray[np.int64]
Kind = Literal["precision", "recall", "f1"]


@dataclass(frozen=True)
class Target:
    """What the rate is to reach.

    Parameters
    ----------
    kind : "precision", "recall" or "f1"
    least : float
        In (0, 1]; what precision or recall must reach. Without meaning for "f1", which is made
        as large as it gets.
    """

    kind: Kind
    least: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.least <= 1.0:
            raise UsageError(
                f"a {self.kind} of {self.least:g} cannot be aimed at: it lies above 0 and is at "
                "most 1"
            )

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read ``precision=0.9``, ``recall=0.9`` or ``f1``.

        Raises
        ------
        UsageError
            It is none of these.
        """
        name, equals, number = (part.strip() for part in text.partition("="))
        if name == "f1" and not equals:
            return cls("f1")
        try:
            least = float(number)
        except ValueError:
            least = 0.0
        if name == "precision" and 0.0 < least <= 1.0:
            return cls("precision", least)
        if name == "recall" and 0.0 < least <= 1.0:
            return cls("recall", least)
        raise UsageError(
            f"--target {text}: precision=0.9, recall=0.9 (any number above 0 and up to 1) or f1 "
            "is expected"
        )

    def __str__(self) -> str:
        return self.kind if self.kind == "f1" else f"{self.kind}={self.least:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """The rate that reaches a target on labelled rows, and what it does to them.

    Parameters
    ----------
    target : Target
    rate : float
        Rows with a p-value of at most this are flagged. It is rounded up to as few digits as leave
        every labelled row flagged or not as before.
    rate_interval : (float, float)
        Percentile bootstrap of the choice. NaN where no draw reached the target.
    true_positives, false_positives, false_negatives, true_negatives : int
        Rows, at `rate`.
    precision, recall, false_alarms : Estimate
        Of flagged rows that are anomalies, of anomalies that are flagged, of normal rows that are
        flagged. Intervals by Clopper & Pearson (1934), as if the rate had been known beforehand.
    f1 : Estimate
        Percentile bootstrap at `rate`.
    n_draws, n_reached : int
        Bootstrap draws; those of them in which the target could be reached.
    """

    target: Target
    rate: float
    rate_interval: tuple[float, float]
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision: Estimate
    recall: Estimate
    false_alarms: Estimate
    f1: Estimate
    n_draws: int
    n_reached: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; an interval that no draw gave is None."""
        known = self.n_reached > 0
        return {
            "target": str(self.target),
            "false_alarm_rate": self.rate,
            "false_alarm_rate_interval": list(self.rate_interval) if known else None,
            "true_positives": self.true_positives,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
            "true_negatives": self.true_negatives,
            "precision": self.precision.to_dict(),
            "recall": self.recall.to_dict(),
            "f1": self.f1.to_dict(),
            "realised_false_alarm_rate": self.false_alarms.to_dict(),
            "confidence": LEVEL,
            "n_bootstrap_draws": self.n_draws,
            "n_draws_that_reach_the_target": self.n_reached,
            "chosen_and_judged_on_the_same_rows": True,
        }


@dataclass(frozen=True)
class _Curve:
    """Labelled rows flagged at each candidate rate.

    Parameters
    ----------
    rates : float32 array [k]
        Distinct p-values below 1, rising.
    anomalous, normal : int64 array [k + 1]
        Rows with just that p-value; the last entry has those whose p-value is 1, which no rate
        flags.
    """

    rates: NDArray[np.float32]
    anomalous: Counts
    normal: Counts

    @classmethod
    def of(cls, labels: NDArray[np.bool_], p_values: NDArray[np.float32]) -> _Curve:
        distinct, position = np.unique(p_values, return_inverse=True)
        rates = distinct[distinct < 1.0]
        position = np.minimum(position, len(rates))
        width = len(rates) + 1
        return cls(
            rates,
            np.bincount(position[labels], minlength=width),
            np.bincount(position[~labels], minlength=width),
        )

    def pick(self, target: Target, anomalous: Counts, normal: Counts) -> int | None:
        """Return the position of the candidate that the target asks for; None: none reaches it.

        Parameters
        ----------
        target : Target
        anomalous, normal : int64 array [k + 1]
            Rows by p-value: the curve's own, or a draw of them.
        """
        true, false = np.cumsum(anomalous)[:-1], np.cumsum(normal)[:-1]
        present = (anomalous + normal)[:-1] > 0  # a draw may lack some p-values
        value = _measure(target.kind, true, false, int(anomalous.sum()))
        if target.kind == "f1":
            best = int(np.argmax(value)) if len(value) else 0
            return best if len(value) and value[best] > 0.0 else None
        reached = np.flatnonzero((value >= target.least) & present)
        if not len(reached):
            return None
        # More rows are found at a larger rate; fewer are flagged in vain at a smaller one.
        return int(reached[-1] if target.kind == "precision" else reached[0])

    def stored_rate(self, j: int) -> float:
        """Candidate `j`, rounded up to as few digits as stay below the next candidate."""
        p = self.rates[j]
        following = self.rates[j + 1] if j + 1 < len(self.rates) else np.float32(1.0)
        rounded = float(_rounded(float(p), _DIGITS, ROUND_HALF_EVEN))
        if np.float32(rounded) == p:
            return rounded
        # Above every float64 that the graph rounds to p: calibrator and graph must agree on p.
        beyond = float(np.nextafter(p, np.float32(1.0)))
        for digits in range(_DIGITS, 10):
            rounded = float(_rounded(beyond, digits, ROUND_CEILING))
            if np.float32(rounded) < following:
                return rounded
        return float(p)


def choose_rate(
    y: ArrayLike, p_values: ArrayLike, target: Target, *, seed: int = 0
) -> OperatingPoint:
    """Choose the false-alarm rate that reaches a target on labelled rows.

    Parameters
    ----------
    y : array_like [n]
        1 (or True) = anomaly, 0 = normal; both kinds occur.
    p_values : array_like [n]
        In (0, 1], compared as float32, the precision of the ONNX graph.
    target : Target
        A precision is reached with the largest rate that has it, a recall with the smallest; the
        smallest rate is taken among those with the largest F1.
    seed : int
        Of the bootstrap, which draws anomalies and normal rows apart, so that their shares stay.

    Returns
    -------
    OperatingPoint

    Raises
    ------
    UsageError
        No rate below 1 reaches the target (the best that can be had is named), lengths differ, a
        p-value is out of range, or one kind of rows is absent.
    """
    labels, values = _checked(y, p_values)
    curve = _Curve.of(labels, values)
    chosen = curve.pick(target, curve.anomalous, curve.normal)
    if chosen is None:
        raise _unreachable(curve, target)
    true, false = (int(c[: chosen + 1].sum()) for c in (curve.anomalous, curve.normal))
    n_anomalous, n_normal = int(labels.sum()), int((~labels).sum())
    picks, f1 = _draws(curve, target, chosen, seed)
    reached = picks[picks >= 0]
    return OperatingPoint(
        target=target,
        rate=curve.stored_rate(chosen),
        rate_interval=_rate_interval(curve, reached),
        true_positives=true,
        false_positives=false,
        false_negatives=n_anomalous - true,
        true_negatives=n_normal - false,
        precision=_share(true, true + false),
        recall=_share(true, n_anomalous),
        false_alarms=_share(false, n_normal),
        f1=Estimate(2.0 * true / (true + false + n_anomalous), *_percentiles(f1)),
        n_draws=len(picks),
        n_reached=len(reached),
    )


def _checked(y: ArrayLike, p_values: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    labels = np.asarray(y).astype(bool).ravel()
    values = np.asarray(p_values, dtype=np.float32).ravel()
    if len(labels) != len(values):
        raise UsageError(f"{len(labels)} labels but {len(values)} p-values: one a row is expected")
    bad = np.flatnonzero(~((values > 0.0) & (values <= 1.0)))  # NaN as well
    if len(bad):
        raise UsageError(
            f"the p-value of labelled row {bad[0]} is {values[bad[0]]}: a number above 0 and up to "
            "1 is expected"
        )
    n_anomalous = int(labels.sum())
    if n_anomalous in (0, len(labels)):
        raise UsageError(
            f"{n_anomalous} of {len(labels)} labelled rows are anomalies: both kinds are needed"
        )
    return labels, values


def _measure(kind: Kind, true: Counts, false: Counts, n_anomalous: int) -> NDArray[np.float64]:
    """Precision, recall or F1 at each candidate; one division, so equal shares compare equal."""
    share, of = true, np.full_like(true, n_anomalous)
    if kind == "f1":
        share, of = 2 * true, true + false + n_anomalous
    elif kind == "precision":
        of = true + false
    value: NDArray[np.float64] = share / np.maximum(of, 1)
    return value


def _draws(
    curve: _Curve, target: Target, chosen: int, seed: int
) -> tuple[Counts, NDArray[np.float64]]:
    """Position of the choice in each draw (-1: unreachable), and F1 at the chosen rate in it."""
    rng = np.random.default_rng(seed)
    n_draws = int(min(_MOST_DRAWS, max(_FEWEST_DRAWS, _WORK / len(curve.anomalous))))
    picks = np.empty(n_draws, dtype=np.int64)
    f1 = np.empty(n_draws)
    n_anomalous = int(curve.anomalous.sum())
    for i in range(n_draws):
        anomalous, normal = (_redrawn(counts, rng) for counts in (curve.anomalous, curve.normal))
        position = curve.pick(target, anomalous, normal)
        picks[i] = -1 if position is None else position
        true, false = (int(c[: chosen + 1].sum()) for c in (anomalous, normal))
        f1[i] = 2.0 * true / (true + false + n_anomalous)
    return picks, f1


def _redrawn(counts: Counts, rng: np.random.Generator) -> Counts:
    """Draw as many rows with replacement."""
    drawn = np.zeros_like(counts)
    there = np.flatnonzero(counts)
    n = int(counts.sum())
    drawn[there] = rng.multinomial(n, counts[there] / n)
    return drawn


def _percentiles(values: NDArray[Any]) -> tuple[float, float]:
    """Percentiles that are among the values: between two candidates there is no other."""
    outside = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(values, [outside, 1.0 - outside], method="inverted_cdf")
    return float(low), float(high)


def _rate_interval(curve: _Curve, picks: Counts) -> tuple[float, float]:
    if not len(picks):
        return float("nan"), float("nan")
    low, high = _percentiles(picks)
    return curve.stored_rate(int(low)), curve.stored_rate(int(high))


def _share(hits: int, n: int) -> Estimate:
    return Estimate(hits / n, *share_interval(hits, n))


def _rounded(value: float, digits: int, how: str) -> Decimal:
    exact = Decimal(value)
    return exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=how)


def _unreachable(curve: _Curve, target: Target) -> UsageError:
    """Say what can be had instead."""
    if not len(curve.rates):
        return UsageError(
            f"no rate reaches {target}: every labelled row has a p-value of 1, so the model finds "
            "none of them unusual; are the labels those of its own rows?"
        )
    true, false = np.cumsum(curve.anomalous)[:-1], np.cumsum(curve.normal)[:-1]
    value = _measure(target.kind, true, false, int(curve.anomalous.sum()))
    best = np.flatnonzero(value == value.max())
    j = int(best[-1] if target.kind == "precision" else best[0])
    recall = true[j] / curve.anomalous.sum()
    also = f", with a recall of {recall:.3g}" if target.kind == "precision" else ""
    return UsageError(
        f"no rate reaches {target} on these rows: the best {target.kind} is {value[j]:.3g}, at a "
        f"rate of {curve.stored_rate(j):g}{also}; aim at that, or lower"
    )
