"""The page on speed: tables and plots of what `anomgan benchmark speed` measured.

The same sections are printed by the command. Every number comes from the figures handed in.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anomgan.errors import OutputError, UsageError
from anomgan.evaluation.speed import (
    FAILED,
    HALF_ON_CUDA,
    MACHINE,
    ON_CUDA,
    OURS,
    RATE,
    WHAT,
    Figure,
)
from anomgan.serving.outputs import AtomicFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

__all__ = [
    "Section",
    "markdown_section",
    "number",
    "page",
    "plots",
    "require_matplotlib",
    "sections",
    "write_page",
]

_OPTION: Final = "--report"
_GRAPH: Final = "graph"
_NODE_SHARE: Final = "share of node time"
_LEAST_SHARE: Final = 1.0
"""Kinds of nodes with less of the time, in percent, are summed up."""
_DPI: Final = 120
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS: Final = "os^Dv*"

_TITLES: Final = {
    MACHINE: "Rates of the machine",
    "training": "Training",
    "throughput": "Scoring throughput by rows a call",
    "latency": "One row at a time",
    "start": "Cold start: one row from the command line",
    "csv": "CSV to CSV",
}
_NOTES: Final = {
    MACHINE: "One thread. Limits use rates measured again beside each figure.",
    "training": "`training` is rows that the optimiser draws a second; its limit is the products "
    "of a step, counted in torch, over the rate of torch's widest product. The default budget is "
    "the preset's number of steps. `step outside matrix products` is the share of a step's time "
    "that is not in these, but in activations, conversions, the optimiser, torch's own walk over "
    "the operations and Python: products were timed one by one in another training, beside "
    "the median of a step.",
    "latency": "Every call has the next of 50 rows: rows from 0.9 of the calibration rows on take "
    "longer, as they are explained. Limits are those of the row with the median score. Quartiles "
    "are those of the quantile over fifths of the calls.",
    "start": "`imports alone` is a process that imports numpy, onnxruntime and the table reader "
    "and does nothing.",
    "csv": "`reading and writing alone` reads the file with anomgan's own reader and writes as "
    "many columns as scores have, in the same way.",
}
_GROWTH: Final = (
    ("rows", "rows in one call"),
    ("columns", "columns"),
    ("training_rows", "training rows"),
)

HEAD: Final = """# Performance

How fast training and scoring are, beside what a user would pick instead and beside what the machine
allows. This page is written by `python tests/acceptance/performance.py` from the results of

    {command}

All figures are medians with quartiles, measured in one run on one machine; contenders took turns,
and the first call of each was left out. Read ratios rather than seconds. Rows: {data}.
scikit-learn's detectors learn from the same rows and score rows that are scaled already; anomgan
scales raw rows itself. `anomgan over it` is how many times as fast anomgan is: below 1, the other
one is faster.

**Limits.** The operations of a scoring call are counted from onnxruntime's own record of a run, so
that what depends on the rows is in it. The *arithmetic floor* is its matrix products alone, each at
the rate that onnxruntime reaches for its shape and type in a graph of nothing else. The *fuller
limit* adds every other pass over numbers, by the bytes that it reads and writes at the rate of an
addition in the cache, and every transcendental function at the rate of the exponential: an estimate
of what the same nodes cost at best, more than a bound; a score near it is made faster by other
nodes, not by faster ones. The *memory limit* is the model, the rows and the outputs once through
memory: a model that stays in the cache can be faster. `% of` says how close a figure comes, 100
being the limit. For several threads a limit is that of one, divided.

Where there is a GPU, training in torch and scoring in onnxruntime, by the default export and by
that of `--precision fp16`, have lines for CUDA, without limits, and the page says from which size
of call the GPU is faster; a trained model scores in torch on the CPU alone.
"""


@dataclass(frozen=True)
class Section:
    """A table with a title, words below it, and the name of its plot."""

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    plot: str = ""


def sections(figures: Sequence[Figure]) -> list[Section]:
    """Return the tables of the parts that were measured."""
    good = [f for f in figures if f.quantity != FAILED]
    found = []
    for what in (MACHINE, *WHAT):
        own = [f for f in good if f.what == what]
        if not own:
            continue
        if what == "growth":
            found += _growth(own)
            continue
        plain = [f for f in own if f.contender != _GRAPH and f.quantity != _NODE_SHARE]
        plot = "throughput.png" if what == "throughput" else ""
        note = _where_cuda_wins(plain) if what == "throughput" else _NOTES.get(what, "")
        found.append(_table(_TITLES[what], plain, note, plot))
        if what == "throughput":
            found += _graph_sections(own)
    return found


def _where_cuda_wins(figures: Sequence[Figure]) -> str:
    """Say from which size of call a GPU scores more rows a second than the CPU does."""
    rates = {(f.contender, f.rows): f.value for f in figures if f.quantity == "scoring"}
    words = []
    for name in (ON_CUDA, HALF_ON_CUDA):
        sizes = sorted(n for who, n in rates if who == name and (OURS, n) in rates)
        if not sizes:
            continue
        slower = [n for n in sizes if rates[name, n] <= rates[OURS, n]]
        faster = [n for n in sizes if n > max(slower, default=0)]
        where = "in no size of call"
        if faster:
            where = f"from {_size(faster[0])} row{'s' if faster[0] > 1 else ''} a call on"
        words.append(f"{name} scores more rows a second than {OURS} {where}.")
    if words:
        words.append("The processor has the threads of this run, and `Scorer` takes all there are.")
    return " ".join(words)


def _table(title: str, figures: Sequence[Figure], note: str, plot: str) -> Section:
    """One line a figure; columns that say nothing are left out."""
    headers = (
        *("contender", "rows", "quantity", "median", "unit", "quartiles", "repeats"),
        *("% of arithmetic floor", "% of fuller limit", "% of memory limit"),
        *("anomgan over it", "note"),
    )
    rows = [
        (
            *(f.contender, _size(f.rows) if f.rows else "", f.quantity, number(f.value), f.unit),
            "" if math.isnan(f.low) else f"{number(f.low)} to {number(f.high)}",
            str(f.repeats or ""),
            *(_percent(f.share(limit)) for limit in ("products", "passes", "memory")),
            *(_over(f, figures), f.note),
        )
        for f in figures
    ]
    kept = [j for j in range(len(headers)) if any(row[j] for row in rows)]
    return Section(
        title,
        tuple(headers[j] for j in kept),
        tuple(tuple(row[j] for j in kept) for row in rows),
        note,
        plot,
    )


def _over(figure: Figure, figures: Sequence[Figure]) -> str:
    """How many times as fast ours is: the first of ours with the same case and quantity."""
    alike = [
        f
        for f in figures
        if (f.case, f.quantity, f.unit) == (figure.case, figure.quantity, figure.unit)
    ]
    ours = next((f for f in alike if f.contender.startswith("anomgan")), None)
    if ours is None or ours is figure or figure.unit == "MB":
        return ""
    faster = figure.unit in (RATE, "MB/s")
    return number(ours.value / figure.value if faster else figure.value / ours.value)


def _graph_sections(figures: Sequence[Figure]) -> list[Section]:
    """Tell what the graph does to a row and where its time goes; a column a size of call."""
    sizes = list(dict.fromkeys(f.rows for f in figures))
    headers = tuple(f"{_size(n)} row{'s' if n > 1 else ''} a call" for n in sizes)
    counted = _pivot([f for f in figures if f.contender == _GRAPH], "quantity", sizes)
    units = {f.quantity: f.unit for f in figures if f.contender == _GRAPH}
    shares = _pivot(_larger([f for f in figures if f.quantity == _NODE_SHARE]), "contender", sizes)
    return [
        Section(
            "What the graph does to a row",
            ("counted", "unit", *headers),
            tuple((name, units[name], *cells) for name, cells in counted.items()),
            "Products by type of number; `passes` are bytes that nodes read and write which have "
            "neither products nor transcendental functions.",
        ),
        Section(
            "Where a call's time goes, % of the nodes' own time",
            ("nodes", *headers),
            tuple((name, *cells) for name, cells in shares.items()),
            "From onnxruntime's profiler, whose own writing makes small nodes look larger. Time "
            "between nodes is not in it.",
        ),
    ]


def _larger(figures: Sequence[Figure]) -> list[Figure]:
    """Keep the kinds of nodes that matter in some size of call, and sum up the others."""
    most: dict[str, float] = {}
    for f in figures:
        most[f.contender] = max(f.value, most.get(f.contender, 0.0))
    kept = sorted((f for f in figures if most[f.contender] >= _LEAST_SHARE),
                  key=lambda f: -most[f.contender])  # fmt: skip
    rest: dict[int, Figure] = {}
    for f in figures:
        if most[f.contender] < _LEAST_SHARE:
            former = rest[f.rows].value if f.rows in rest else 0.0
            rest[f.rows] = replace(f, contender="all other nodes", value=f.value + former)
    return [*kept, *rest.values()]


def _pivot(figures: Sequence[Figure], by: str, sizes: Sequence[int]) -> dict[str, list[str]]:
    cells = {(getattr(f, by), f.rows): number(f.value) for f in figures}
    names = list(dict.fromkeys(name for name, _ in cells))
    return {name: [cells.get((name, n), "") for n in sizes] for name in names}


def _growth(figures: Sequence[Figure]) -> list[Section]:
    """How cost grows: a table for each size that was varied."""
    found = []
    for axis, words in _GROWTH:
        own = _along(figures, axis)
        sizes = sorted({getattr(f, axis) for f in own})
        if len(sizes) < 2:
            continue
        for quantity, unit in (("scoring", RATE), ("fit", "s")):
            shown = [f for f in own if f.quantity == quantity]
            if axis == "rows" and quantity == "fit":
                continue  # the same model throughout
            names = list(dict.fromkeys(f.contender for f in shown))
            rows = [
                (
                    _size(n),
                    *(_cell(shown, axis, n, name) for name in names),
                    *_shares(shown, axis, n),
                )
                for n in sizes
            ]
            extra = ("% of arithmetic floor", "% of fuller limit") if quantity == "scoring" else ()
            plot = f"growth-{axis}.png" if quantity == "scoring" else ""
            title = f"How {quantity} grows with {words}, {unit}"
            headers = (words, *names, *extra)
            found.append(Section(title, headers, tuple(r[: len(headers)] for r in rows), "", plot))
    return found


def _along(figures: Sequence[Figure], axis: str) -> list[Figure]:
    """Figures that differ from the first point of the benchmark in one size at most."""
    others = [name for name, _ in _GROWTH if name != axis]
    counts: dict[tuple[int, ...], set[int]] = {}
    for f in figures:
        counts.setdefault(tuple(getattr(f, o) for o in others), set()).add(getattr(f, axis))
    place = max(counts, key=lambda key: len(counts[key]))
    return [f for f in figures if tuple(getattr(f, o) for o in others) == place]


def _cell(figures: Sequence[Figure], axis: str, size: int, name: str) -> str:
    own = [f for f in figures if getattr(f, axis) == size and f.contender == name]
    return number(own[0].value) if own else ""


def _shares(figures: Sequence[Figure], axis: str, size: int) -> tuple[str, str]:
    own = [f for f in figures if getattr(f, axis) == size and not math.isnan(f.limit_products)]
    return (_percent(own[0].share()), _percent(own[0].share("passes"))) if own else ("", "")


def number(value: float) -> str:
    """Write a number with three digits that count, thousands apart."""
    if math.isnan(value):
        return ""
    if abs(value) < 1000:
        return f"{value:.3g}"
    digits = 3 - len(str(int(abs(value))))
    return f"{round(value, digits):,.0f}".replace(",", " ")


def _size(n: int) -> str:
    """Write a whole number in full, thousands apart."""
    return f"{n:,}".replace(",", " ")


def _percent(share: float) -> str:
    return "" if math.isnan(share) else f"{100 * share:.3g}"


def markdown_section(section: Section, *, folder: str = "", level: int = 2) -> str:
    """Write a section in markdown; `folder` is where its plot lies, empty for none."""
    parts = [f"{'#' * level} {section.title}"]
    lines = [section.headers, tuple("---" for _ in section.headers), *section.rows]
    parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if section.note:
        parts.append(section.note)
    if folder and section.plot:
        parts.append(f"![{section.title}]({folder}/{section.plot})")
    return "\n\n".join(parts) + "\n"


def page(figures: Sequence[Figure], facts: Mapping[str, Any], *, command: str, folder: str) -> str:
    """Write the whole page.

    Parameters
    ----------
    figures : sequence of Figure
    facts : mapping
        Of the machine and the run, as the JSON file beside the CSV has them.
    command : str
        What made the results.
    folder : str
        Where the plots lie, seen from the page.
    """
    data = sorted({f.data for f in figures if f.data})
    lines = ["| fact | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts.items())]
    parts = [HEAD.format(command=command, data=", ".join(data)), "## Machine and run\n"]
    parts.append("\n".join(lines) + "\n")
    parts += [markdown_section(section, folder=folder) for section in sections(figures)]
    failed = [f for f in figures if f.quantity == FAILED]
    if failed:
        parts.append("## Not measured\n")
        parts.append("\n".join(f"- {f.what}, {f.rows} rows: {f.note}" for f in failed) + "\n")
    return "\n".join(parts)


def require_matplotlib() -> None:
    """Say what to install where matplotlib is not there.

    Raises
    ------
    UsageError
        It is not.
    """
    if find_spec("matplotlib") is None:
        raise UsageError(
            f"{_OPTION} needs matplotlib, which is not installed: pip install 'anomgan[plots]'"
        )


def write_page(
    path: str, figures: Sequence[Figure], facts: Mapping[str, Any], *, command: str
) -> list[str]:
    """Write the page, and its plots into a folder of its name beside it; return all paths.

    Raises
    ------
    UsageError
        matplotlib is not installed, or the page would be where the folder is to be.
    OutputError
        A file cannot be written.
    """
    require_matplotlib()
    target = Path(path)
    folder = target.with_suffix("")
    if folder == target:
        raise UsageError(f"{path}: name a page that ends in .md with {_OPTION}")
    text = page(figures, facts, command=command, folder=folder.name)
    files = {str(target): text.encode()}
    files |= {str(folder / name): content for name, content in plots(figures).items()}
    for name, content in files.items():
        try:
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot make the folder of {name}: {error}") from error
        with AtomicFile(name, option=_OPTION) as file:
            file.write(content)
    return list(files)


def plots(figures: Sequence[Figure]) -> dict[str, bytes]:
    """Draw the plots that `sections` names, PNG by file name."""
    rates = [f for f in figures if f.quantity == "scoring" and f.unit == RATE]
    found = {}
    wanted = {section.plot for section in sections(figures)} - {""}
    if "throughput.png" in wanted:
        own = [f for f in rates if f.what == "throughput"]
        found["throughput.png"] = _lines(own, "rows", "rows a call")
    for axis, words in _GROWTH:
        name = f"growth-{axis}.png"
        if name in wanted:
            own = _along([f for f in rates if f.what == "growth"], axis)
            found[name] = _lines(own, axis, words)
    return found


def _lines(figures: Sequence[Figure], axis: str, words: str) -> bytes:
    """Draw rows a second over a size, a line a contender, and the limits of ours broken."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        from matplotlib.figure import Figure as NewPicture

        picture = NewPicture(figsize=(7.0, 4.2), layout="constrained")
        axes = picture.add_subplot()
        names = list(dict.fromkeys(f.contender for f in figures))
        for i, name in enumerate(names):
            own = sorted((f for f in figures if f.contender == name), key=lambda f: _at(f, axis))
            axes.plot(
                [_at(f, axis) for f in own],
                [f.value for f in own],
                color=_COLOURS[i % len(_COLOURS)],
                marker=_MARKERS[i % len(_MARKERS)],
                label=name,
            )
        ours = [f for f in figures if not math.isnan(f.limit_products)]
        _draw_limits(axes, sorted(ours, key=lambda f: _at(f, axis)), axis)
        axes.set(xscale="log", yscale="log", xlabel=words, ylabel=RATE)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, frameon=False)
        return _png(picture)


def _draw_limits(axes: Axes, figures: Iterable[Figure], axis: str) -> None:
    own = list(figures)
    x = [_at(f, axis) for f in own]
    axes.plot(x, [f.limit_products for f in own], "k--", label="arithmetic floor of anomgan")
    axes.plot(x, [f.limit_passes for f in own], "k:", label="fuller limit of anomgan")


def _at(figure: Figure, axis: str) -> int:
    found: int = getattr(figure, axis)
    return found


def _png(picture: Picture) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(picture)
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()
