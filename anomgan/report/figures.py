"""The pictures of `anomgan.report.plots`, drawn with matplotlib.

Blue is real and vermilion is generated throughout: both of the palette of Okabe and Ito (2008),
which colour-blind people tell apart; one is filled and one a line, so that grey prints do as well.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.report.plots import Interpolation, Marginal, PlotSample, feature_names, marginal
from anomgan.tables.columns import ColumnKind
from anomgan.tables.decoding import Cell, ColumnDecoder
from anomgan.training.health import MIN_COVERAGE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["render"]

Float64 = NDArray[np.float64]

_REAL: Final = "#0072B2"
_GENERATED: Final = "#D55E00"
_LINES: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS: Final = "os^Dv*"
_GREY: Final = "#B8BEC4"
_INK: Final = "#333333"
_DIVERGING: Final = "RdBu_r"  # told apart by colour-blind people, and pale in the middle
_DPI = 120
_MOST_COLUMNS = 12
_MOST_FEATURES = 24
_ANNOTATED = 12
"""Features up to which correlations are written into their cells."""
_LONGEST = 22
_HEAD = 4
"""Letters kept of what names share where the rest of it is left out."""
_STRONG = 2.5
"""Standard deviations at which colours are deepest."""
_STYLE: Final[Any] = {
    # A dollar in a column's name is no formula.
    "text.parse_math": False,
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": "#8A9199",
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11.0,
    "figure.titlesize": 13.0,
    "legend.frameon": False,
}


def render(sample: PlotSample) -> dict[str, bytes]:
    """Draw all pictures: PNG by file name."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        # Names in scripts that the font lacks are drawn as boxes; nobody needs a warning for each.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        pictures = {
            "training.png": _png(_training(sample)),
            "marginals.png": _png(_marginals(sample)),
            "correlations.png": _png(_correlations(sample)),
            "components.png": _png(_components(sample)),
        }
        if sample.paths:
            pictures["interpolation.png"] = _png(_interpolations(sample))
        return pictures


def _figure(width: float, height: float, title: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def _png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _short(text: str, longest: int = _LONGEST) -> str:
    """One line, cut in the middle: what tells names apart is often at their end."""
    text = " ".join(text.split())
    if len(text) <= longest:
        return text
    head = (longest - 1) // 2
    return f"{text[:head]}…{text[head + 1 - longest :]}"


def _labels(texts: Sequence[str], longest: int = _LONGEST) -> list[str]:
    """Cut texts short; where that makes them alike, leave out what they share."""
    cut = [_short(text, longest) for text in texts]
    if len(set(cut)) == len(set(texts)):
        return cut
    long = [text for text, short in zip(texts, cut, strict=True) if text != short]
    first, last = min(long), max(long)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    shared = len(list(alike))
    head = min(shared, _HEAD)
    return [
        f"{text[:head]}…{text[shared:]}"[:longest] if text != short else text
        for text, short in zip(texts, cut, strict=True)
    ]


# --- Training -------------------------------------------------------------------------------


def _training(sample: PlotSample) -> Figure:
    """Losses by phase, then what was measured on held-out rows."""
    history = sample.history
    groups: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for entry in history for key in entry):
        if key != "step":
            groups.setdefault(key.rpartition(".")[0], []).append(key)
    # Without a phase in front: no loss, but measured on held-out rows; last.
    names = [name for name in groups if name] + [""] * ("" in groups)
    rows = max(1, math.ceil(len(names) / 2))
    figure = _figure(11.0, 0.6 + 3.2 * rows, "Training")
    if not names:
        figure.text(0.5, 0.5, "The model keeps no history of its training.", ha="center")
    for place, name in enumerate(names):
        axes = figure.add_subplot(rows, 2, place + 1)
        for i, key in enumerate(groups[name]):
            points = [(entry["step"], entry[key]) for entry in history if key in entry]
            label = key.rpartition(".")[2].replace("_", " ")
            style: dict[str, Any] = {"color": _LINES[i % 6], "marker": _MARKERS[i % 6]}
            axes.plot(*zip(*points, strict=True), label=label, markersize=3.5, **style)
        values = [entry[key] for key in groups[name] for entry in history if key in entry]
        axes.grid(color="#E4E7EA", linewidth=0.8)
        axes.set_xlabel("step")
        if name:
            axes.set_title(f"Losses: {name}")
            if min(values) > 0.0 and max(values) > 20.0 * min(values):
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")  # powers would be formulas
        else:
            axes.set_title("Measured on held-out rows")
            if min(values) >= 0.0 and max(values) <= 1.0:
                axes.set_ylim(0.0, 1.05)
            if "coverage" in groups[name]:
                _mark_least_coverage(axes)
        axes.legend()
    return figure


def _mark_least_coverage(axes: Axes) -> None:
    axes.axhline(MIN_COVERAGE, color=_INK, linestyle="--", linewidth=1.0)
    style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "ha": "right"}
    axes.text(1.0, MIN_COVERAGE + 0.02, "coverage: degraded below", fontsize=9, **style)


# --- Columns, one by one --------------------------------------------------------------------


def _marginals(sample: PlotSample) -> Figure:
    """Histograms and bars of up to twelve columns, of more those that differ most."""
    every = [marginal(column, sample.real, sample.generated) for column in sample.columns]
    known = [m for m in every if m is not None]
    chosen = set(sorted(range(len(known)), key=lambda i: -known[i].difference)[:_MOST_COLUMNS])
    shown = [m for i, m in enumerate(known) if i in chosen]
    across = min(4, len(shown))
    down = max(1, math.ceil(len(shown) / max(1, across)))
    title = "Columns of real and generated rows"
    if len(shown) < len(known):
        title += f" ({len(shown)} of {len(known)}: those that differ most)"
    title += "\ndiffers by: rows that would have to move to another bin; end bins hold all beyond"
    figure = _figure(max(9.0, 3.6 * across), 1.4 + 2.9 * down, title)
    for place, one in enumerate(shown):
        axes = figure.add_subplot(down, across, place + 1)
        (_bars if one.edges is None else _histogram)(axes, one)
        heading = f"{_short(one.name)}\ndiffers by {100 * one.difference:.0f} %"
        if max(one.missing) > 0.0:
            heading += f", missing {100 * one.missing[0]:.0f} / {100 * one.missing[1]:.0f} %"
        axes.set_title(heading, fontsize=10)
        axes.tick_params(labelsize=8.5)
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=_REAL, alpha=0.45, label="real rows that the model keeps"),
        Line2D([], [], color=_GENERATED, linewidth=2.0, label="generated rows"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)


def _histogram(axes: Axes, one: Marginal) -> None:
    edges = np.asarray(one.edges)
    axes.stairs(100.0 * one.real, edges, fill=True, color=_REAL, alpha=0.45)
    axes.stairs(100.0 * one.generated, edges, color=_GENERATED, linewidth=1.8)
    axes.set_ylabel("% of rows", fontsize=8.5)
    axes.locator_params(axis="x", nbins=5)
    axes.ticklabel_format(axis="x", style="plain" if np.abs(edges).max() < 1e6 else "sci")


def _bars(axes: Axes, one: Marginal) -> None:
    place = np.arange(len(one.states))
    if len(one.states) > 10:  # hours and months: upright, in their order
        axes.bar(place, 100.0 * one.real, width=0.9, color=_REAL, alpha=0.45)
        edges = np.arange(len(place) + 1) - 0.5
        axes.stairs(100.0 * one.generated, edges, color=_GENERATED, linewidth=1.8)
        every = max(1, len(place) // 8)
        axes.set_xticks(place[::every], one.states[::every])
        axes.set_ylabel("% of rows", fontsize=8.5)
        return
    axes.barh(place - 0.2, 100.0 * one.real, height=0.4, color=_REAL, alpha=0.45)
    style: dict[str, Any] = {"facecolor": "none", "edgecolor": _GENERATED, "linewidth": 1.8}
    axes.barh(place + 0.2, 100.0 * one.generated, height=0.36, **style)
    axes.set_yticks(place, _labels(one.states, 16))
    axes.invert_yaxis()
    axes.set_xlabel("% of rows", fontsize=8.5)


# --- Columns together -----------------------------------------------------------------------


def _correlations(sample: PlotSample) -> Figure:
    """Real, generated, and their difference on the same scale."""
    names = feature_names(sample.columns)
    index = _chosen_features(sample.columns, len(names))
    both = [_correlation(rows[:, index]) for rows in (sample.real, sample.generated)]
    gap = both[1] - both[0]
    off = ~np.eye(len(index), dtype=bool)
    known = np.abs(gap[off & np.isfinite(gap)])
    title = "Correlations of encoded columns"
    if len(index) < len(names):
        title += f" ({len(index)} of {len(names)})"
    side = max(3.6, 0.9 + 0.26 * len(index))
    labels = _labels([names[i] for i in index])
    below = 0.65 + 0.07 * max(map(len, labels))  # names stand upright below the panels
    figure = _figure(3.0 * side + 3.0, side + below, title)
    worst = (
        f"mean {known.mean():.2f}, largest {known.max():.2f}" if len(known) else "none to compare"
    )
    headings = ("real rows that the model keeps", "generated rows", f"generated − real: {worst}")
    panels: list[Axes] = []
    for place, (matrix, heading) in enumerate(zip((*both, gap), headings, strict=True)):
        axes = figure.add_subplot(1, 3, place + 1)
        axes.set_facecolor(_GREY)  # behind features that never change
        shown = axes.imshow(np.ma.masked_invalid(matrix), cmap=_DIVERGING, vmin=-1.0, vmax=1.0)
        axes.set_title(heading)
        axes.set_xticks(range(len(index)), labels, rotation=90, fontsize=8)
        axes.set_yticks(range(len(index)), labels if place == 0 else [""] * len(index), fontsize=8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if len(index) <= _ANNOTATED:
            _write_cells(axes, matrix)
        panels.append(axes)
    figure.colorbar(shown, ax=panels, shrink=0.8, label="correlation")
    return figure


def _chosen_features(columns: Sequence[ColumnDecoder], d: int) -> NDArray[np.intp]:
    """All features, or so many that names can be read: the first one of each column first."""
    ranks = np.empty(d)
    for column in columns:
        ranks[column.features] = np.arange(len(column.features))
    return np.sort(np.argsort(ranks, kind="stable")[:_MOST_FEATURES])


def _correlation(rows: Float64) -> Float64:
    """Pearson correlations [d, d]; NaN for columns that never change."""
    centred = rows - rows.mean(axis=0)
    lengths = np.sqrt((centred**2).sum(axis=0))
    lengths[lengths < 1e-9] = np.nan
    scaled = centred / lengths
    return np.asarray(scaled.T @ scaled)


def _write_cells(axes: Axes, matrix: Float64) -> None:
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.65 else _INK
            text = f"{round(value, 2) + 0.0:.2f}"  # never -0.00
            axes.text(j, i, text, ha="center", va="center", fontsize=7.5, color=colour)


def _components(sample: PlotSample) -> Figure:
    """Both kinds of rows on the first two principal components of the real ones."""
    mean = sample.real.mean(axis=0)
    _, widths, axes_ = np.linalg.svd(sample.real - mean, full_matrices=False)
    shares = widths**2 / max(float((widths**2).sum()), 1e-300)
    planes = [
        np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
        for points in ((rows - mean) @ axes_[:2].T for rows in (sample.real, sample.generated))
    ]
    figure = _figure(11.5, 5.6, "First two principal components of the real rows")
    lows, highs = np.quantile(np.concatenate(planes), [0.002, 0.998], axis=0)
    room = np.maximum(0.08 * (highs - lows), 0.1)
    headings = ("real rows that the model keeps", "generated rows (real ones in grey)")
    for place, heading in enumerate(headings):
        axes = figure.add_subplot(1, 2, place + 1)
        if place:
            axes.scatter(planes[0][:, 0], planes[0][:, 1], s=7, color=_GREY, linewidths=0)
        points, colour = planes[place], (_REAL, _GENERATED)[place]
        axes.scatter(points[:, 0], points[:, 1], s=9, color=colour, alpha=0.45, linewidths=0)
        axes.set_xlim(lows[0] - room[0], highs[0] + room[0])
        axes.set_ylim(lows[1] - room[1], highs[1] + room[1])
        axes.set_title(heading)
        axes.set_xlabel(f"component 1 ({100 * shares[0]:.0f} % of the real variance)")
        second = 100 * shares[1] if len(shares) > 1 else 0.0
        axes.set_ylabel(f"component 2 ({second:.0f} % of the real variance)")
        axes.grid(color="#E4E7EA", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure


# --- Latent space ---------------------------------------------------------------------------


def _interpolations(sample: PlotSample) -> Figure:
    """Tables of cells in the user's units, from one real row to another."""
    shown = [_differing(sample.columns, path) for path in sample.paths]
    across = max((len(columns) for columns in shown), default=1)
    title = "From one real row to another through the latent space (first member)"
    lines = 2 + (len(sample.paths[0].steps) if sample.paths else 0)
    height = 1.0 + len(sample.paths) * (1.6 + 0.34 * lines)
    figure = _figure(max(8.0, 2.4 + 1.25 * across), height, title)
    panels: list[Axes] = []
    painted = None
    for place, (path, columns) in enumerate(zip(sample.paths, shown, strict=True)):
        axes = figure.add_subplot(len(sample.paths), 1, place + 1)
        painted = _walk(axes, path, columns) or painted
        panels.append(axes)
    if painted is not None:
        label = "standard deviations from the mean"
        figure.colorbar(painted, ax=panels, shrink=0.6, label=label, extend="both")
    return figure


def _differing(columns: Sequence[ColumnDecoder], path: Interpolation) -> list[ColumnDecoder]:
    """Return the columns in which the two ends differ most, in schema order."""
    gap = (path.ends[0] - path.ends[1]) ** 2
    told = [column for column in columns if len(column.features)]
    ranked = sorted(told, key=lambda column: -float(gap[column.features].sum()))
    chosen = {id(column) for column in ranked[:_MOST_COLUMNS]}
    return [column for column in told if id(column) in chosen]


def _walk(axes: Axes, path: Interpolation, columns: Sequence[ColumnDecoder]) -> Any:
    """Draw one path; return what the colour bar needs, None where nothing has a colour."""
    rows = np.concatenate([path.ends[:1], path.steps, path.ends[1:]])
    colours = np.full((len(rows), len(columns)), np.nan)
    for j, column in enumerate(columns):
        if column.column.kind is ColumnKind.NUMERIC:
            colours[:, j] = rows[:, column.features[0]]
    axes.set_facecolor("#EEF0F2")  # behind what is no number
    painted = axes.imshow(
        np.ma.masked_invalid(colours),
        cmap=_DIVERGING,
        vmin=-_STRONG,
        vmax=_STRONG,
        aspect="auto",
    )
    for j, column in enumerate(columns):
        texts = [_cell_text(cell) for cell in column.cells(rows)]
        for i, text in enumerate(_labels(texts, 18)):
            strong = abs(colours[i, j]) > 0.56 * _STRONG
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8.5}
            axes.text(j, i, text, color="white" if strong else _INK, **style)
    last = len(path.steps) - 1
    steps = [f"generated, {i / max(1, last):.2f}" for i in range(last + 1)]
    axes.set_yticks(range(len(rows)), ["real row A", *steps, "real row B"], fontsize=9)
    names = _labels([column.column.name for column in columns], 20)
    axes.set_xticks(range(len(columns)), names, rotation=25, ha="left", fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for line in (0.5, len(rows) - 1.5):  # real rows stand apart from generated ones
        axes.axhline(line, color="white", linewidth=4.0)
    return painted if np.isfinite(colours).any() else None


def _cell_text(cell: Cell) -> str:
    if cell is None:
        return "missing"
    if isinstance(cell, bool):
        return str(cell).lower()
    return f"{cell:.4g}" if isinstance(cell, float) else cell
