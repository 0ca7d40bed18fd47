"""Axes of charts: where a value lies between two ends, and which values are named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Axis", "count_axis", "linear_axis", "log_axis", "score_axis", "share_axis"]

Scale = Literal["linear", "log", "asinh"]
Numbers = NDArray[np.float64]

_HEAVY: Final = 8.0  # largest over median from which a linear axis would hide the bulk
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Axis:
    """A scale with its ends and its named values.

    Parameters
    ----------
    label : str
    low, high : float
        Ends; low < high, and low > 0 on a log scale.
    ticks : tuple of (float, str)
    scale : "linear", "log" or "asinh"
        asinh is linear near 0 and logarithmic far from it, on both sides.
    width : float
        Of the linear part of an asinh scale.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    scale: Scale = "linear"
    width: float = 1.0

    def stretched(self, values: ArrayLike) -> Numbers:
        """Return the values on a scale where equal lengths look equal."""
        numbers = np.asarray(values, dtype=np.float64)
        if self.scale == "log":
            numbers = np.asarray(np.log10(np.maximum(numbers, self.low)))
        elif self.scale == "asinh":
            numbers = np.arcsinh(numbers / self.width, dtype=np.float64)
        return numbers

    def unstretched(self, values: Numbers) -> Numbers:
        """Return the inverse of `stretched`."""
        if self.scale == "log":
            return np.power(10.0, values, dtype=np.float64)
        found: Numbers = np.sinh(values) * self.width if self.scale == "asinh" else values
        return found

    def place(self, values: ArrayLike) -> Numbers:
        """Return positions in [0, 1]; what lies beyond an end is put there."""
        low, high = self.stretched([self.low, self.high])
        shares: Numbers = (self.stretched(values) - low) / (high - low)
        return np.clip(shares, 0.0, 1.0)


def linear_axis(label: str, low: float, high: float, *, n_ticks: int = 5) -> Axis:
    """Return a linear axis that is widened to round values."""
    step = _round_step((high - low) / n_ticks)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [k * step for k in range(first, last + 1)]
    return Axis(label, ticks[0], ticks[-1], tuple((t, tick_text(t)) for t in ticks))


def count_axis(label: str, most: int) -> Axis:
    """Return an axis for counts up to `most`: whole numbers, from 0."""
    step = max(1, round(_round_step(max(most, 1) / 3)))
    last = step * math.ceil(max(most, 1) / step)
    ticks = tuple((float(t), f"{t:,}".replace(",", "\u202f")) for t in range(0, last + 1, step))
    return Axis(label, 0.0, float(last), ticks)


def share_axis(label: str) -> Axis:
    """Return an axis from 0 to 100 %."""
    ticks = tuple((t / 5, f"{20 * t}\u202f%" if t else "0") for t in range(6))
    return Axis(label, 0.0, 1.0, ticks)


def log_axis(label: str, low: float, high: float, *, percent: bool = False) -> Axis:
    """Return a logarithmic axis; ends as given, named at powers of ten, or 1, 2, 5 where few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1.0,) if math.log10(high / low) >= 1.5 else (1.0, 2.0, 5.0)
    every = max(1, math.ceil((last - first) / 6))
    marks = [10.0**k * s for k in range(first, last + 1, every) for s in steps]
    slack = 1e-9
    inside = [m for m in marks if low * (1 - slack) <= m <= high * (1 + slack)]
    texts = [f"{100 * m:.6g}\u202f%" if percent else tick_text(m) for m in inside]
    return Axis(label, low, high, tuple(zip(inside, texts, strict=True)), "log")


def score_axis(label: str, scores: Numbers, also: Sequence[float] = ()) -> Axis:
    """Return the axis on which a histogram of scores can be read.

    Logarithmic where scores are positive and spread wide, asinh where they are spread wide and
    some are not positive, else linear.

    Parameters
    ----------
    label : str
    scores : float64 [n]
        n >= 1, finite.
    also : sequence of float
        Values to be inside as well, such as a threshold; what is not finite is passed over.
    """
    values = np.append(scores, [v for v in also if math.isfinite(v)])
    low, high = float(values.min()), float(values.max())
    if low == high:
        room = abs(low) / 2.0 or 1.0
        return linear_axis(label, low - room, high + room)
    if low > 0.0:
        if high / low < _HEAVY:
            return linear_axis(label, low, high)
        return log_axis(label, low * (high / low) ** -0.02, high * (high / low) ** 0.02)
    sizes = np.abs(values)
    typical = float(np.median(sizes))
    if typical == 0.0 or sizes.max() / typical < _HEAVY:
        return linear_axis(label, low, high)
    return _asinh_axis(label, low, high, typical)


def _asinh_axis(label: str, low: float, high: float, width: float) -> Axis:
    first = math.ceil(math.log10(width))
    last = math.floor(math.log10(max(-low, high)))
    every = max(1, math.ceil((last - first + 1) / 4))
    sizes = [10.0**k for k in range(first, last + 1, every)]
    marks = [-s for s in reversed(sizes) if -s >= low] + [0.0] + [s for s in sizes if s <= high]
    return Axis(label, low, high, tuple((m, tick_text(m)) for m in marks), "asinh", width)


def _round_step(step: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * f for f in (1.0, 2.0, 5.0, 10.0) if power * f >= step * (1.0 - 1e-9))


def tick_text(value: float) -> str:
    """Return a short number: powers of ten beyond 0.001 and 10 000 as 10⁵."""
    size = abs(value)
    if size == 0.0 or 1e-3 <= size < 1e5:
        return f"{value:,.6g}".replace(",", "\u202f").replace("-", "−")
    exponent = math.floor(math.log10(size) + 1e-9)
    factor = f"{value / 10.0**exponent:.3g}"
    head = {"1": "", "-1": "−"}.get(factor, f"{factor.replace('-', '−')}·")
    return f"{head}10{str(exponent).translate(_SUPERSCRIPTS)}"
