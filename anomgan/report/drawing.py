"""Drawing in SVG: elements that escape what they hold, and plots with axes.

Colours are none of its business: shapes carry classes, and the style sheet of the page gives them
colours that follow light and dark. A plotting library would write fixed colours, fonts as outlines
and a hundred kilobytes a chart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import ArrayLike, NDArray

from anomgan.report.axes import Axis

__all__ = ["Plot", "drawing", "element"]

Numbers = NDArray[np.float64]


def element(name: str, *children: str, **attributes: str | float) -> Markup:
    """Return an element; texts and attributes are escaped, `Markup` children are not.

    Names of attributes are written with ``_`` for ``-``, and with one at the end where Python
    keeps the word (``class_``).
    """
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _text(value))
        for key, value in attributes.items()
    )
    inside = Markup("").join(escape(child) for child in children)
    if not children:
        return Markup("<{}{}/>").format(name, written)
    return Markup("<{}{}>{}</{}>").format(name, written, inside, name)


def drawing(
    width: int, height: int, parts: Iterable[Markup], *, key: str, title: str, description: str
) -> Markup:
    """Return an image of its own, named and described to those who do not see it.

    Parameters
    ----------
    width, height : int
        In units of which a letter is about twelve high; the page scales them.
    parts : iterable of Markup
    key : str
        Unique in the page: the prefix of its ids.
    title, description : str
    """
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *parts,
        class_="chart",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )


@dataclass(frozen=True)
class Plot:
    """A field with two axes.

    Parameters
    ----------
    x, y : Axis
    left, top, right, bottom : float
        The field in the drawing, without ticks and labels.
    """

    x: Axis
    y: Axis
    left: float
    top: float
    right: float
    bottom: float

    def across(self, values: ArrayLike) -> Numbers:
        """Return horizontal positions."""
        return self.left + self.x.place(values) * (self.right - self.left)

    def down(self, values: ArrayLike) -> Numbers:
        """Return vertical positions."""
        return self.bottom - self.y.place(values) * (self.bottom - self.top)

    def frame(self, *, x_labels: bool = True) -> list[Markup]:
        """Return grid lines, tick labels and the names of the axes."""
        parts = []
        for value, text in self.y.ticks:
            level = float(self.down(value))
            parts.append(_line(self.left, level, self.right, level, "grid"))
            parts.append(_label(self.left - 7, level, text, "end", "tick middle"))
        for value, text in self.x.ticks:
            at = float(self.across(value))
            parts.append(_line(at, self.top, at, self.bottom, "grid"))
            if x_labels:
                parts.append(_label(at, self.bottom + 20, text, "middle", "tick"))
        parts.append(_line(self.left, self.bottom, self.right, self.bottom, "axis"))
        parts.append(_label(self.left, self.top - 9, self.y.label, "start", "label"))
        if x_labels:
            parts.append(_label(self.right, self.bottom + 40, self.x.label, "end", "label"))
        return parts

    def line(self, x: ArrayLike, y: ArrayLike, class_: str, *, steps: bool = False) -> Markup:
        """Return a line through points; with `steps`, each level reaches back to the last x."""
        across, down = self.across(x), self.down(y)
        if steps:
            across, down = np.repeat(across, 2)[:-1], np.repeat(down, 2)[1:]
        return element("polyline", points=_points(across, down), class_=f"line {class_}")

    def area(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, class_: str) -> Markup:
        """Return the area between two lines."""
        across = self.across(x)
        there, back = _points(across, self.down(high)), _points(across[::-1], self.down(low)[::-1])
        return element("polygon", points=f"{there} {back}", class_=class_)

    def bars(
        self, edges: Numbers, counts: Sequence[int], class_: str, texts: Sequence[str]
    ) -> list[Markup]:
        """Return bars from the bottom; `texts` show where a mouse rests."""
        ends, tops = self.across(edges), self.down(np.asarray(counts, dtype=np.float64))
        return [
            element(
                "rect",
                element("title", text),
                x=left + 0.5,
                # A bar of one row among thousands must still be seen.
                y=min(top, self.bottom - 1.5),
                width=max(right - left - 1.0, 0.5),
                height=max(self.bottom - top, 1.5),
                class_=class_,
            )
            for left, right, top, n, text in zip(
                ends[:-1].tolist(), ends[1:].tolist(), tops.tolist(), counts, texts, strict=True
            )
            if n
        ]

    def whisker(self, x: float, low: float, high: float, class_: str) -> Markup:
        """Return a vertical interval."""
        at = float(self.across(x))
        return _line(at, float(self.down(low)), at, float(self.down(high)), class_)

    def marker(self, x: float, y: float, class_: str, text: str) -> Markup:
        """Return a point; `text` shows where a mouse rests."""
        at, level = float(self.across(x)), float(self.down(y))
        return element("circle", element("title", text), cx=at, cy=level, r=4.5, class_=class_)

    def rule(self, x: float, class_: str) -> Markup:
        """Return a vertical line over the whole field."""
        at = float(self.across(x))
        return _line(at, self.top, at, self.bottom, class_)

    def note(self, x: float, text: str, *, at_foot: bool = False) -> Markup:
        """Return a text at the top, or foot, of a vertical line, on the side that has room."""
        at = float(self.across(x))
        leftwards = at > self.left + 0.65 * (self.right - self.left)
        shift, anchor = (-6, "end") if leftwards else (6, "start")
        level = self.bottom - 8 if at_foot else self.top + 12
        return _label(at + shift, level, text, anchor, "note")


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _label(x: float, y: float, text: str, anchor: str, class_: str) -> Markup:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _points(across: Numbers, down: Numbers) -> str:
    return " ".join(f"{_text(x)},{_text(y)}" for x, y in zip(across, down, strict=True))


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return "0"
    return f"{value:.2f}".rstrip("0").rstrip(".")
