"""What charts are made of: the drawing, its legend, and the numbers behind it as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from anomgan.report import wording
from anomgan.report.axes import Axis, count_axis
from anomgan.report.drawing import Plot, drawing

__all__ = [
    "FOOT",
    "HEIGHT",
    "LEFT",
    "QUANTILES",
    "RIGHT",
    "TOP",
    "WIDTH",
    "Chart",
    "Field",
    "Grid",
    "histogram",
    "quantile_name",
    "score_edges",
]

WIDTH: Final = 480
HEIGHT: Final = 360
LEFT, RIGHT, TOP, FOOT = 66, 450, 28, 46
QUANTILES: Final = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_BINS: Final = 36
_GAP: Final = 40

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """A table of texts; the first column heads the rows.

    Parameters
    ----------
    headers : tuple of str
    rows : tuple of tuple of str
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Chart:
    """A drawing and what stands around it.

    Parameters
    ----------
    key : str
        Unique in the page; the prefix of its ids.
    title : str
    text : str
        How to read it.
    image : Markup
    legend : tuple of (str, str)
        Class of the shape, and its name.
    numbers : Grid
        What the drawing shows, for those who cannot see it.
    """

    key: str
    title: str
    text: str
    image: Markup
    legend: tuple[tuple[str, str], ...]
    numbers: Grid


@dataclass(frozen=True)
class Field:
    """The bars of one kind of rows.

    Parameters
    ----------
    kind : str
        Class of the bars.
    name : str
        Of the rows.
    counts : list of int
        Rows in each bin.
    """

    kind: str
    name: str
    counts: list[int]


def histogram(
    fields: Sequence[Field], x: Axis, edges: Numbers, threshold: float, text: str
) -> Markup:
    """Draw one or two kinds of rows, the one above the other, on one axis of scores.

    Parameters
    ----------
    fields : sequence of Field
        From the top; one or two.
    x : Axis
        Of the scores.
    edges : float64 [n_bins + 1]
    threshold : float
        Drawn where it is finite.
    text : str
        Description of the drawing.
    """
    middle = (TOP + HEIGHT - FOOT) / 2.0
    places = [(TOP, middle - _GAP / 2.0), (middle + _GAP / 2.0, HEIGHT - FOOT)]
    if len(fields) == 1:
        places = [(TOP, HEIGHT - FOOT)]
    parts: list[Markup] = []
    for field, (top, bottom) in zip(fields, places, strict=True):
        y = count_axis(field.name, max(field.counts))
        plot = Plot(x, y, LEFT, top, RIGHT, bottom)
        parts += plot.frame(x_labels=field is fields[-1])
        texts = [
            f"{low:.4g} to {high:.4g}: {wording.grouped(n)} {field.name}"
            for low, high, n in zip(edges[:-1], edges[1:], field.counts, strict=True)
        ]
        parts += plot.bars(edges, field.counts, f"bar {field.kind}", texts)
        if math.isfinite(threshold):
            parts.append(plot.rule(threshold, "threshold"))
            if field is fields[0]:
                parts.append(plot.note(threshold, f"flagged from {threshold:.4g}"))
    title = "Histogram of scores"
    return drawing(WIDTH, HEIGHT, parts, key="scores", title=title, description=text)


def score_edges(x: Axis, threshold: float) -> Numbers:
    """Return bins of one width on the axis; the threshold, where there is one, parts two bins."""
    low, high = x.stretched([x.low, x.high]).tolist()
    if not math.isfinite(threshold):
        return _sorted_edges(x, np.linspace(low, high, _BINS + 1))
    at, width = float(x.stretched(threshold)), (high - low) / _BINS
    below, above = math.ceil((at - low) / width), math.ceil((high - at) / width)
    return _sorted_edges(x, at + width * np.arange(-below, above + 1))


def _sorted_edges(x: Axis, stretched: Numbers) -> Numbers:
    edges = x.unstretched(stretched)
    # Rounding must not leave the outermost rows out.
    edges[0], edges[-1] = min(edges[0], x.low), max(edges[-1], x.high)
    return edges


def quantile_name(q: float) -> str:
    """Return what a row of `QUANTILES` is called."""
    return {0.0: "lowest", 0.5: "median", 1.0: "highest"}.get(q, f"{q:.0%} lie below")
