"""From scores to decisions: conformal p-values, an extreme-value tail, thresholds.

The p-value of a score ``s`` is split-conformal on the scores of held-out normal rows::

    p(s) = (1 + #{calibration scores >= s}) / (n + 1)

which is valid for any score and any distribution (Vovk, Gammerman & Shafer 2005, section
2.2). Scores that differ by a rounding count as equal (`SLACK`). It cannot go below ``1 / (n + 1)``.
Above the largest calibration score a generalised Pareto tail, fitted to the largest calibration
scores, says how far beyond: that part is an extrapolation, and is called so wherever it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.errors import InputError, UsageError
from anomgan.false_discovery import benjamini_hochberg

__all__ = [
    "LEAST_FOR_TAIL",
    "MAXIMUM_SHAPE",
    "MINIMUM_EXCEEDANCES",
    "MINIMUM_P_VALUE",
    "SLACK",
    "Calibrator",
    "Tail",
    "benjamini_hochberg",
    "is_extrapolated",
    "require_rate",
]

MAXIMUM_SHAPE: Final = 0.5
"""Largest tail shape: beyond it the tail has no variance, and no fit to go by."""

MINIMUM_EXCEEDANCES: Final = 10
"""Fewest calibration scores above the tail's threshold that a tail is fitted to."""

MINIMUM_P_VALUE: Final = float(np.finfo(np.float32).tiny)
"""Floor of every p-value: the smallest normal float32, so that no runtime rounds it to 0."""

SLACK: Final = 2.0**-18
"""Share of itself by which a calibration score is raised before scores are compared with it.

A runtime or a processor rounds the last digits of a score otherwise. Where held-out rows repeat, a
new row that equals them must not count as above them all for that. Detectors of anomgan have scores
of 1 and more, of which this is a small part.
"""

LEAST_FOR_TAIL: Final = 2 * MINIMUM_EXCEEDANCES
"""Fewest calibration scores that a tail can be fitted to."""

_TAIL_SHARE = 0.1  # the upper tenth of the calibration scores, as usual in peaks over threshold
_TAIL_LEAST = 20  # but no fewer than these where there are twice as many


@dataclass(frozen=True, slots=True)
class Tail:
    """A generalised Pareto tail over a threshold.

    Parameters
    ----------
    threshold : float
        Score above which the tail holds.
    shape : float
        In [0, MAXIMUM_SHAPE]; 0 is the exponential tail. Never negative: a tail with an end
        point would call every score beyond it impossible.
    scale : float
        Scale of the exceedances, > 0, in units of the score.
    n_exceedances : int
        Calibration scores above the threshold.
    n : int
        Calibration scores in all.
    """

    threshold: float
    shape: float
    scale: float
    n_exceedances: int
    n: int

    def __post_init__(self) -> None:
        numbers = (self.threshold, self.shape, self.scale)
        if not all(math.isfinite(value) for value in numbers):
            raise InputError(f"a tail needs finite parameters, got {numbers}")
        if not 0.0 <= self.shape <= MAXIMUM_SHAPE or self.scale <= 0.0:
            raise InputError(
                f"a tail needs a shape in [0, {MAXIMUM_SHAPE}] and a scale above 0, "
                f"got shape {self.shape} and scale {self.scale}"
            )
        if not 0 < self.n_exceedances <= self.n:
            raise InputError(
                f"a tail needs 0 < n_exceedances <= n, got {self.n_exceedances} of {self.n}"
            )

    @classmethod
    def fit(cls, scores: NDArray[np.floating[Any]]) -> Tail | None:
        """Fit to the largest of `scores`.

        Parameters
        ----------
        scores : float array [n]
            Calibration scores, sorted upwards.

        Returns
        -------
        Tail or None
            None where there are too few scores, or too many of them are equal.
        """
        ordered = scores.astype(np.float64)
        n = len(ordered)
        wanted = max(math.ceil(_TAIL_SHARE * n), min(_TAIL_LEAST, n // 2))
        if wanted < MINIMUM_EXCEEDANCES:
            return None
        threshold = float(ordered[n - wanted - 1])
        above = ordered[ordered > threshold]
        if len(above) < MINIMUM_EXCEEDANCES:  # ties at the threshold: step below them
            lower = ordered[ordered < threshold]
            if len(lower) == 0:
                return None
            threshold = float(lower[-1])
            above = ordered[ordered > threshold]
        exceedances = above - threshold
        if len(np.unique(exceedances)) < MINIMUM_EXCEEDANCES // 2:
            return None  # a handful of distinct values has no tail to fit
        shape, scale = _fit_generalised_pareto(exceedances)
        return cls(threshold, shape, scale, len(exceedances), n)

    def survival(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Extrapolated probability that a normal row scores at least `scores`.

        Parameters
        ----------
        scores : array_like
            Scores at or above the threshold (below it, the value at the threshold).

        Returns
        -------
        float64 array
            In (0, n_exceedances / n], falling in `scores`.
        """
        excess = np.maximum(np.asarray(scores, dtype=np.float64) - self.threshold, 0.0)
        ratio = excess / self.scale
        shape = self.shape
        log_survival = -np.log1p(shape * ratio) / shape if shape > 0.0 else -ratio
        return np.maximum(np.exp(log_survival) * (self.n_exceedances / self.n), MINIMUM_P_VALUE)

    def quantile(self, probability: float) -> float:
        """Score whose extrapolated survival is `probability` (inverse of `survival`)."""
        log_ratio = math.log(probability * self.n / self.n_exceedances)
        if self.shape > 0.0:
            return self.threshold + self.scale * math.expm1(-self.shape * log_ratio) / self.shape
        return self.threshold - self.scale * log_ratio

    def to_dict(self) -> dict[str, float | int]:
        """Return JSON-safe parameters."""
        return {
            "threshold": self.threshold,
            "shape": self.shape,
            "scale": self.scale,
            "n_exceedances": self.n_exceedances,
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, parameters: Mapping[str, Any]) -> Tail:
        """Rebuild from `to_dict`.

        Raises
        ------
        InputError
            A parameter is absent, no number, or out of its range.
        """
        try:
            return cls(
                threshold=float(parameters["threshold"]),
                shape=float(parameters["shape"]),
                scale=float(parameters["scale"]),
                n_exceedances=int(parameters["n_exceedances"]),
                n=int(parameters["n"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"not the parameters of a tail: {error}") from error


def _fit_generalised_pareto(exceedances: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale by Zhang & Stephens (2009), Technometrics 51(3), section 3.

    Their k is minus our shape. The estimate is the posterior mean of ``b = shape / scale``
    over a grid under a data-driven prior: no iteration, and no failure to converge.
    """
    x = np.sort(exceedances)
    n = len(x)
    n_grid = 20 + int(math.sqrt(n))
    first_quartile = x[max(int(n / 4 + 0.5) - 1, 0)]
    steps = np.arange(1, n_grid + 1, dtype=np.float64)
    # theta_j = 1 / x_(n) + (1 - sqrt(m / (j - 1/2))) / (3 x_(n/4))
    theta = 1.0 / x[-1] + (1.0 - np.sqrt(n_grid / (steps - 0.5))) / (3.0 * first_quartile)
    theta = theta[np.abs(theta) > 1e-12 / x[-1]]  # at 0 the profile is a 0 / 0
    k = -np.log1p(-theta[:, None] * x[None, :]).mean(axis=1)  # [n_grid]
    log_likelihood = n * (np.log(theta / k) + k - 1.0)
    weights = np.exp(log_likelihood - log_likelihood.max())
    theta_hat = float(np.sum(theta * weights) / np.sum(weights))
    k_hat = -float(np.log1p(-theta_hat * x).mean())
    shape = -k_hat
    if abs(theta_hat) * x[-1] > 1e-12 and 0.0 <= shape <= MAXIMUM_SHAPE:
        return shape, k_hat / theta_hat
    shape = min(max(shape, 0.0), MAXIMUM_SHAPE)
    return shape, float(x.mean()) * (1.0 - shape)  # the mean of the law is scale / (1 - shape)


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Held-out normal scores, and the decisions that follow from them.

    Parameters
    ----------
    scores : float32 array [n]
        Scores of held-out normal rows, sorted upwards, finite.
    tail : Tail or None
        Extrapolation above the largest of them.
    false_alarm_rate : float
        Default share of normal rows that may be flagged, in (0, 1).
    slack : float, default=SLACK
        Share of itself by which a score is raised before others are compared with it; not stored.
    """

    scores: NDArray[np.float32]
    tail: Tail | None
    false_alarm_rate: float
    slack: float = SLACK

    def __post_init__(self) -> None:
        if self.scores.dtype != np.float32 or self.scores.ndim != 1 or len(self.scores) == 0:
            raise InputError(
                "calibration scores must be a float32 array [n] with n >= 1, "
                f"got {self.scores.dtype} {list(self.scores.shape)}"
            )
        if not np.isfinite(self.scores).all() or (np.diff(self.scores) < 0).any():
            raise InputError("calibration scores must be finite and sorted upwards")
        self.require_rate(self.false_alarm_rate)

    @classmethod
    def fit(
        cls,
        scores: ArrayLike,
        *,
        false_alarm_rate: float = 0.01,
        tail: bool = True,
        slack: float = SLACK,
    ) -> Calibrator:
        """Calibrate on the scores of held-out normal rows.

        Parameters
        ----------
        scores : array_like [n]
            Scores of normal rows that training never saw, in any order; cast to float32.
        false_alarm_rate : float, default=0.01
            Share of normal rows that may be flagged.
        tail : bool, default=True
            Fit a tail, so that rates below ``1 / (n + 1)`` can be asked for.
        slack : float, default=SLACK
            See `SLACK`; 0 for scores that may lie close together far from 0.

        Raises
        ------
        InputError
            No scores, or some are NaN or infinite.
        UsageError
            The rate is out of (0, 1), or below what `n` rows can resolve without a tail.
        """
        values = np.asarray(scores, dtype=np.float32).ravel()
        if len(values) == 0:
            raise InputError("no calibration scores: some normal rows must be held out")
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise InputError(
                f"{len(bad)} of {len(values)} calibration scores are NaN or infinite "
                f"(the first at position {bad[0]}: {values[bad[0]]})"
            )
        ordered = np.sort(values)
        fitted = Tail.fit(ordered) if tail else None
        return cls(ordered, fitted, float(false_alarm_rate), slack)

    @property
    def n(self) -> int:
        """Number of calibration scores."""
        return len(self.scores)

    @property
    def raised(self) -> NDArray[np.float32]:
        """The scores as others are compared with them, float32 [n]: see `SLACK`."""
        wide = self.scores.astype(np.float64)
        wide += self.slack * np.abs(wide)
        return np.minimum(wide, np.finfo(np.float32).max).astype(np.float32)

    @property
    def resolution(self) -> float:
        """Smallest p-value that the calibration rows give without extrapolation."""
        return 1.0 / (self.n + 1)

    def require_rate(self, rate: float) -> None:
        """Refuse a false-alarm rate that cannot be kept.

        Raises
        ------
        UsageError
            `rate` is out of (0, 1), or below ``1 / (n + 1)`` where there is no tail.
        """
        require_rate(rate, n=self.n, has_tail=self.tail is not None)

    def with_rate(self, rate: float) -> Self:
        """Return the same with another default rate.

        Raises
        ------
        UsageError
            As `require_rate`.
        """
        return replace(self, false_alarm_rate=float(rate))

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """P-values of `scores` under the hypothesis that the rows are normal.

        Parameters
        ----------
        scores : array_like [n_rows]
            Compared as float32, the precision of the calibration scores and of the ONNX graph.

        Returns
        -------
        float64 array [n_rows]
            In (0, 1]; an extrapolation by the tail where below `resolution`.

        Raises
        ------
        InputError
            A score is NaN.
        """
        values = np.asarray(scores, dtype=np.float32).ravel()
        if np.isnan(values).any():
            raise InputError(f"{int(np.isnan(values).sum())} scores are NaN: no p-value for them")
        raised = self.raised
        at_least = self.n - np.searchsorted(raised, values, side="left")
        p = np.asarray((1.0 + at_least) / (self.n + 1.0), dtype=np.float64)
        if self.tail is not None:
            beyond = values > raised[-1]
            p[beyond] = np.minimum(self.resolution, self.tail.survival(values[beyond]))
        return p

    def threshold(self, rate: float | None = None) -> float:
        """Smallest float32 score that is flagged at `rate` (default: the calibrator's own).

        Returns
        -------
        float
            ``p_values(s) <= rate`` exactly for ``s >= threshold(rate)``; -inf if all are.

        Raises
        ------
        UsageError
            As `require_rate`.
        """
        rate = self.false_alarm_rate if rate is None else rate
        self.require_rate(rate)
        attainable = (1.0 + np.arange(self.n + 1)) / (self.n + 1.0)
        allowed = int(np.searchsorted(attainable, rate, side="right")) - 1  # scores at or above
        if allowed >= self.n:
            return -math.inf
        above = self.raised[self.n - 1 - max(allowed, 0)]
        smallest = np.nextafter(above, np.float32(np.inf))
        if allowed < 0 and self.tail is not None:
            smallest = max(smallest, np.float32(self.tail.quantile(rate)))
            smallest = self._settle(smallest, rate)
        return float(smallest)

    def _settle(self, start: np.float32, rate: float) -> np.float32:
        """Move `start` to the very float32 at which the p-value reaches `rate`."""
        infinity = np.float32(np.inf)
        while np.isfinite(start) and self.p_values([start])[0] > rate:
            start = np.nextafter(start, infinity)
        below = np.nextafter(start, -infinity)
        while self.p_values([below])[0] <= rate:
            start, below = below, np.nextafter(below, -infinity)
        return start

    def summary(self) -> dict[str, Any]:
        """Return what people and the Scorer need to know of it, JSON-safe, without the scores."""
        levels = (0.5, 0.9, 0.99, 1.0)
        quantiles = np.quantile(self.scores.astype(np.float64), levels)
        return {
            "n": self.n,
            "resolution": self.resolution,
            "false_alarm_rate": self.false_alarm_rate,
            "threshold": self.threshold(),
            "quantiles": {str(q): float(v) for q, v in zip(levels, quantiles, strict=True)},
            "tail": None if self.tail is None else self.tail.to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-safe and lossless."""
        return {
            "scores": [float(score) for score in self.scores],
            "tail": None if self.tail is None else self.tail.to_dict(),
            "false_alarm_rate": self.false_alarm_rate,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Calibrator:
        """Rebuild from `to_dict`.

        Raises
        ------
        InputError
            `state` is not what `to_dict` gives.
        """
        try:
            tail = state["tail"]
            return cls(
                scores=np.asarray(state["scores"], dtype=np.float32),
                tail=None if tail is None else Tail.from_dict(tail),
                false_alarm_rate=float(state["false_alarm_rate"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"not the state of a calibrator: {error}") from error

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays for ``calibration.npz``: scores, tail, false_alarm_rate.

        `tail` is float64 [5] (threshold, shape, scale, n_exceedances, n), or [0] without one.
        """
        tail = [] if self.tail is None else list(self.tail.to_dict().values())
        return {
            "scores": self.scores,
            "tail": np.asarray(tail, dtype=np.float64),
            "false_alarm_rate": np.asarray(self.false_alarm_rate, dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Calibrator:
        """Rebuild from `arrays`.

        Raises
        ------
        InputError
            An array is absent, or is not what `arrays` gives.
        """
        names = ("threshold", "shape", "scale", "n_exceedances", "n")
        try:
            numbers = arrays["tail"].tolist()
            tail = Tail.from_dict(dict(zip(names, numbers, strict=True))) if numbers else None
            return cls(arrays["scores"], tail, float(arrays["false_alarm_rate"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"not the arrays of a calibrator: {error}") from error


def is_extrapolated(p_value: ArrayLike, resolution: ArrayLike) -> NDArray[np.bool_]:
    """Tell which p-values lie beyond what their calibration rows resolve.

    Parameters
    ----------
    p_value : array_like
        As a scorer gives them, hence rounded to float32.
    resolution : array_like
        Smallest p-value that the calibration rows count; 0 where it is not known.
    """
    floor = np.asarray(resolution, dtype=np.float64) * (1.0 - 1e-6)
    return np.asarray(np.asarray(p_value, dtype=np.float64) < floor)


def require_rate(rate: float, *, n: int, has_tail: bool) -> None:
    """Refuse a false-alarm rate that `n` calibration rows cannot keep.

    Raises
    ------
    UsageError
        `rate` is out of (0, 1), or below ``1 / (n + 1)`` and there is no tail.
    """
    if not 0.0 < rate < 1.0:
        raise UsageError(
            f"the false-alarm rate must lie between 0 and 1, got {rate:g}; "
            "0.01 flags about one normal row in a hundred"
        )
    if not has_tail and rate < 1.0 / (n + 1):
        needed = math.ceil(round(1.0 / rate, 9)) - 1
        raise UsageError(
            f"a false-alarm rate of {rate:g} needs {needed} calibration rows and the model has "
            f"{n}, with no tail to extrapolate from; ask for at least {1.0 / (n + 1):.3g}, or fit "
            "on more normal rows"
        )
