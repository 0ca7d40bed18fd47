"""The charts of scored rows: they need no labels, and no row to be kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.report import wording
from anomgan.report.axes import Axis, log_axis, score_axis
from anomgan.report.chance import chance_band
from anomgan.report.chart import (
    FOOT,
    HEIGHT,
    LEFT,
    QUANTILES,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    Field,
    Grid,
    histogram,
    quantile_name,
    score_edges,
)
from anomgan.report.counts import FloatCounts, snapped
from anomgan.report.drawing import Plot, drawing

__all__ = ["RATES", "p_value_plot", "scored_histogram"]

RATES: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""P-values up to which rows are counted."""

_POINTS: Final = 240  # of the curve
_BEYOND: Final = 0.01  # of what the calibration rows count: the plot ends there
_LEAST_SHARE: Final = 1e-4  # end of the axis of shares
_MOST_TICKS: Final = 5

Numbers = NDArray[np.float64]


def scored_histogram(
    counts: FloatCounts,
    held_out: NDArray[np.float32] | None,
    *,
    threshold: float,
    n_flagged: int,
    rule: str,
) -> Chart:
    """Draw the scores of a table below those of the held-out normal rows, on one axis.

    Parameters
    ----------
    counts : FloatCounts
        Of the scores; at least one.
    held_out : float32 [n] or None
        Scores of the normal rows that calibrate; None where they are not known.
    threshold : float
        Score from which rows are flagged; NaN where there is no single one.
    n_flagged : int
        Rows at or above `threshold`, where there is one.
    rule : str
        What the threshold keeps to, such as ``at a rate of 1 %``.
    """
    known = np.empty(0) if held_out is None else held_out.astype(np.float64)
    spread = counts.quantile(np.linspace(0.0, 1.0, 257))
    x = score_axis("score", np.concatenate([spread, known]), [threshold])
    edges = score_edges(x, threshold)
    below = counts.below(edges)
    below[0], below[-1] = 0, counts.n  # the outermost edges hold all rows
    if math.isfinite(threshold):
        # Cells are narrow, but a flagged row must not lie left of the line, nor another right.
        below = np.where(edges < threshold, np.minimum(below, counts.n - n_flagged), below)
        below = np.where(edges > threshold, np.maximum(below, counts.n - n_flagged), below)
        below[np.argmin(np.abs(edges - threshold))] = counts.n - n_flagged
    text = "Rows by score."
    fields = [Field("ours", "rows of the table", np.diff(below).tolist())]
    if held_out is not None:
        text = (
            "Rows by score: above, the held-out normal rows of training; below, the rows of the "
            "table, each on a scale of its own."
        )
        old = np.histogram(known, bins=edges)[0].tolist()
        fields.insert(0, Field("normal", "held-out normal rows", old))
    if x.scale != "linear":
        text += " The score axis is logarithmic."
    legend = tuple((field.kind, field.name) for field in fields)
    if math.isfinite(threshold):
        legend = (*legend, ("threshold", f"threshold {rule}"))
    image = histogram(fields, x, edges, threshold, text)
    return Chart("scores", "Scores", text, image, legend, _score_numbers(counts, held_out))


def _score_numbers(counts: FloatCounts, held_out: NDArray[np.float32] | None) -> Grid:
    headers, columns = ["scores"], [[quantile_name(q) for q in QUANTILES]]
    if held_out is not None:
        headers.append("held-out normal rows")
        columns.append([f"{v:.3g}" for v in np.quantile(held_out.astype(np.float64), QUANTILES)])
    headers.append("rows of the table")
    columns.append([f"{v:.3g}" for v in counts.quantile(QUANTILES)])
    return Grid(tuple(headers), tuple(zip(*columns, strict=True)))


def p_value_plot(
    counts: FloatCounts,
    up_to: NDArray[np.int64],
    *,
    n_calibration: int | None,
    decision: float,
    rule: str,
) -> Chart:
    """Draw the share of rows up to every p-value, beside what normal rows alone would give.

    Parameters
    ----------
    counts : FloatCounts
        Of the p-values; at least one.
    up_to : int64 [n_rates]
        Rows with a p-value up to each of `RATES`.
    n_calibration : int or None
        Calibration rows behind all of them; None where they are not known, or grouped.
    decision : float
        P-value up to which rows are flagged; not in (0, 1) where there is no such one.
    rule : str
        As in `scored_histogram`.
    """
    n = counts.n
    at = _grid(counts, n_calibration)
    shares = counts.below(at) / n
    seen = shares > 0.0
    x = _thinned(log_axis("p-value", float(at[0]), 1.0, percent=True))
    y = _share_axis(float(shares[seen].min()) if seen.any() else 1.0)
    seen &= shares >= y.low
    plot = Plot(x, y, LEFT, TOP, RIGHT, HEIGHT - FOOT)
    parts, legend = plot.frame(), [("line anomgan", "rows of the table")]
    legend.append(("line chance", "normal rows alone"))
    banded = _bands(at, n_calibration, n)
    if len(banded) > 1:
        rates, low, high = np.array(banded).T
        parts.append(plot.area(rates, low, high, "band expected"))
        legend.append(("band expected", "where those lie in 95 of 100 cases"))
    corner = max(x.low, y.low)
    parts.append(plot.line([corner, 1.0], [corner, 1.0], "chance"))
    parts.append(plot.line(at[seen], shares[seen], "anomgan"))
    if x.low < decision < 1.0:
        parts.append(plot.rule(decision, "threshold"))
        parts.append(plot.note(decision, "flagged to its left", at_foot=True))
        legend.append(("threshold", f"flagged up to it {rule}"))
    text = (
        "The share of rows with a p-value up to each value. Normal rows alone follow the diagonal. "
        "A line above it near 0, at the left, is an excess of unusual rows: anomalies, or a drift "
        "of the table as a whole."
    )
    title = "P-values, against those of normal rows"
    image = drawing(WIDTH, HEIGHT, parts, key="p-values", title=title, description=text)
    grid = _p_value_numbers(up_to, n, n_calibration)
    return Chart("p-values", title, text, image, tuple(legend), grid)


def _grid(counts: FloatCounts, n_calibration: int | None) -> Numbers:
    """P-values at which the curve is drawn, rising; each just above the end of a cell."""
    resolved = 1e-3 if n_calibration is None else 1.0 / (n_calibration + 1)
    least = max(min(counts.lowest, resolved, 1e-2), _BEYOND * resolved)
    first = 10.0 ** math.floor(math.log10(least) + 1e-9)
    return snapped(np.geomspace(first, 1.0, _POINTS) * (1.0 + 2.0**-10))


def _thinned(axis: Axis) -> Axis:
    """Name every second power of ten where a phone has no room for all of them."""
    if len(axis.ticks) <= _MOST_TICKS:
        return axis
    return replace(axis, ticks=axis.ticks[::-1][::2][::-1])


def _share_axis(least: float) -> Axis:
    low = 10.0 ** math.floor(math.log10(least) + 1e-9)
    return log_axis("share of the rows", min(max(low, _LEAST_SHARE), 1e-2), 1.0, percent=True)


def _bands(at: ArrayLike, n_calibration: int | None, n: int) -> list[tuple[float, float, float]]:
    """Rates with the ends of the band, where the calibration rows count them."""
    if n_calibration is None:
        return []
    rates = np.asarray(at, dtype=np.float64)[::4]
    counted = rates[(rates * (n_calibration + 1) >= 1.0) & (rates < 1.0)]
    return [(float(r), *chance_band(n_calibration, n, float(r))) for r in counted]


def _p_value_numbers(up_to: NDArray[np.int64], n: int, n_calibration: int | None) -> Grid:
    def line(rate: float, hits: int) -> Iterator[str]:
        yield f"{rate:g}"
        yield wording.grouped(hits)
        yield wording.percent(hits / n)
        if rate == 1.0 or n_calibration is None or rate * (n_calibration + 1) < 1.0:
            yield wording.percent(rate)
        else:
            low, high = chance_band(n_calibration, n, rate)
            yield f"{wording.percent(low)} to {wording.percent(high)}"

    headers = ("p-value up to", "rows", "share", "normal rows alone")
    rows = (tuple(line(r, hits)) for r, hits in zip(RATES, up_to.tolist(), strict=True))
    return Grid(headers, tuple(rows))
