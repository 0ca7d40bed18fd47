"""Pictures of a model: how it trained, and what its generators make, beside the rows it keeps.

Real rows are those that the model keeps (its memory): nothing but the model directory is needed.
matplotlib is an extra, and is loaded only here; figures are drawn without its global state.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from anomgan.errors import OutputError, UsageError
from anomgan.evaluation.generator_quality import slerp
from anomgan.evaluation.generators import RowGenerators, row_generators
from anomgan.fitting import FittedModel
from anomgan.persistence import load_fitted
from anomgan.serving.outputs import STANDARD_OUTPUT, AtomicFile
from anomgan.tables.columns import ColumnKind
from anomgan.tables.decoding import ColumnDecoder, decoders

__all__ = [
    "Interpolation",
    "Marginal",
    "PlotSample",
    "draw_model",
    "feature_names",
    "marginal",
    "require_matplotlib",
    "sample_model",
]

Float64 = NDArray[np.float64]

_OPTION: Final = "--plots"
_ROWS = 2000
"""Rows of each kind: enough for smooth histograms, few enough to see single points."""
_STEPS = 7
_BINS = 30
_STATES = 8
"""Most categories with a bar of their own."""
_TAIL = 0.005
"""Share of numbers on either side that end bins may take together."""
_BEYOND = 0.5
"""How far a histogram follows generated numbers beyond the real ones, in their range."""
_PARTS = {
    "day": re.compile(r"(\d\d):\d\d"),
    "week": re.compile(r"([A-Z]\w\w)"),
    "year": re.compile(r"about \d+ (\w{3})"),
}
"""How the parts of a decoded date are read, the finest first (`anomgan.tables.decoding`)."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Marginal:
    """One column, real beside generated.

    Attributes
    ----------
    name : str
    edges : float64 [b + 1] or None
        Of the bins of a numeric column; end bins hold what lies beyond them too.
    states : tuple of str
        Of any other column.
    real, generated : float64 [b]
        Shares of all rows, by bin or state.
    missing : tuple of float
        Shares of real and of generated rows without a value.
    """

    name: str
    edges: Float64 | None
    states: tuple[str, ...]
    real: Float64
    generated: Float64
    missing: tuple[float, float]

    @property
    def difference(self) -> float:
        """Total variation distance of the two, 0 to 1."""
        gaps = np.abs(self.real - self.generated).sum() + abs(self.missing[0] - self.missing[1])
        return float(gaps / 2.0)


@dataclass(frozen=True)
class Interpolation:
    """Rows generated on the way from one real row's code to another's.

    Attributes
    ----------
    ends : float64 [2, d]
        The two real rows, encoded.
    steps : float64 [s, d]
        Generated rows; the first and the last are what the generator gives back of the ends.
    """

    ends: Float64
    steps: Float64


@dataclass(frozen=True)
class PlotSample:
    """What the pictures show.

    Attributes
    ----------
    columns : tuple of ColumnDecoder
        In schema order.
    real, generated : float64 [n, d]
        Encoded rows; generated ones of all members, equally many of each.
    paths : tuple of Interpolation
        By the first member; empty where the detector has no encoder.
    history : sequence of mapping
        Losses and coverage by snapshot.
    """

    columns: tuple[ColumnDecoder, ...]
    real: Float64
    generated: Float64
    paths: tuple[Interpolation, ...]
    history: Sequence[Mapping[str, float]]


def draw_model(model: str, folder: str) -> list[str]:
    """Draw PNG files of a model: all of them, or on an error none.

    Parameters
    ----------
    model : str
        Model directory.
    folder : str
        Made where it is not there; pictures of an earlier run are replaced.

    Returns
    -------
    list of str
        The files, ``training.png`` first.

    Raises
    ------
    UsageError
        matplotlib is not installed, or `folder` is no place for pictures.
    ModelError
        The model is absent, damaged or of a format without networks.
    OutputError
        The folder or a file cannot be written.
    """
    require_matplotlib()
    _require_own_place(folder, model)
    from anomgan.report.figures import render

    return _write_all(folder, render(sample_model(load_fitted(model))))


def require_matplotlib() -> None:
    """Say what to install where matplotlib is not there."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            f"{_OPTION} needs matplotlib, which is not installed: pip install 'anomgan[plots]'"
        )


@torch.no_grad()
def sample_model(fitted: FittedModel, *, n_rows: int = _ROWS, seed: int = 0) -> PlotSample:
    """Draw real and generated rows and walk between real rows, with fixed seeds.

    Raises
    ------
    UsageError
        Generated rows are not finite, or no generator makes rows from codes alone.
    """
    source = row_generators(fitted, asked=_OPTION)
    counts = source.counts.double().numpy()
    rng = np.random.default_rng(seed)
    if counts.sum() <= n_rows:
        index = np.repeat(np.arange(len(counts)), counts.astype(np.int64))
    else:
        index = rng.choice(len(counts), n_rows, p=counts / counts.sum())
    real = source.rows.numpy()[index].astype(np.float64)
    each = -(-len(real) // source.n_members)
    draws = torch.Generator().manual_seed(seed)
    codes = torch.randn((source.n_members, each, source.latent_dim), generator=draws)
    generated = source.generate(codes).flatten(0, 1).double().numpy()
    if not np.isfinite(generated).all():
        raise UsageError("generated rows are not finite: there is nothing to draw; fit again")
    return PlotSample(
        columns=decoders(fitted.schema, fitted.encoder),
        real=real,
        generated=generated,
        paths=_paths(source),
        history=fitted.record.history,
    )


def _paths(source: RowGenerators) -> tuple[Interpolation, ...]:
    """Walk from a low to a high row on each of the first two principal components."""
    if source.encode is None:
        return ()
    rows = source.rows
    values = rows.double()
    centred = values - values.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]  # [2 or 1, d]
    t = torch.linspace(0.0, 1.0, _STEPS)
    found = []
    for axis in axes:
        order = (centred @ axis).argsort()
        ends = rows[order[[int(0.05 * len(rows)), int(0.95 * (len(rows) - 1))]]]  # [2, d]
        codes = source.encode(ends)  # [2, k]
        along = slerp(codes[0].expand(_STEPS, -1), codes[1].expand(_STEPS, -1), t)
        steps = source.generate(along.expand(source.n_members, -1, -1))[0]
        found.append(Interpolation(ends.double().numpy(), steps.double().numpy()))
    return tuple(found)


def feature_names(columns: Sequence[ColumnDecoder]) -> tuple[str, ...]:
    """Name all features [d] for people: ``load``, ``load missing``, ``mode = idle``."""
    d = sum(len(column.features) for column in columns)
    names = [""] * d
    for column in columns:
        width, name = len(column.features), column.column.name
        if column.column.kind is ColumnKind.CATEGORICAL:
            single = np.zeros((width, d))
            single[np.arange(width), column.features] = 1.0
            own = [f"{name} = {'missing' if c is None else c}" for c in column.cells(single)]
        elif column.column.kind is ColumnKind.DATETIME:
            own = [f"{name} {wave} {p}" for p in column.periods for wave in ("sin", "cos")]
            own = [f"{name} missing"] * (width - len(own)) + own
        else:
            own = [name, f"{name} missing"][:width]
        for place, text in zip(column.features, own, strict=True):
            names[place] = text
    return tuple(names)


def marginal(column: ColumnDecoder, real: Float64, generated: Float64) -> Marginal | None:
    """Count one column in real and generated rows [n, d]; None where features tell nothing of it.

    Of dates the finest part that the features keep is counted: hours, weekdays or months.
    """
    name = column.column.name
    if not len(column.features):
        return None
    if column.column.kind is ColumnKind.NUMERIC:
        return _numbers(name, column.numbers(real), column.numbers(generated))
    texts = [_texts(column, rows) for rows in (real, generated)]
    tallies = [Counter(t for t in cells if t is not None) for cells in texts]
    ranked = [state for state, _ in (tallies[0] + tallies[1]).most_common()]
    if column.column.kind is ColumnKind.DATETIME:
        shown = sorted(ranked, key=_calendar_place)
    else:
        shown = ranked[:_STATES]
    shares = [
        np.array([tally[state] for state in shown], dtype=np.float64) / max(1, len(cells))
        for tally, cells in zip(tallies, texts, strict=True)
    ]
    missing = [cells.count(None) / max(1, len(cells)) for cells in texts]
    if len(ranked) > len(shown):
        shown = [*shown, f"{len(ranked) - len(shown)} more"]
        shares = [
            np.append(share, max(0.0, 1.0 - share.sum() - absent))
            for share, absent in zip(shares, missing, strict=True)
        ]
    gone = (missing[0], missing[1])
    return Marginal(name, None, tuple(shown), shares[0], shares[1], gone)


def _calendar_place(part: str) -> int:
    """Order hours, weekdays or months."""
    return int(part) if part.isdigit() else (*_DAYS, *_MONTHS).index(part)


def _texts(column: ColumnDecoder, rows: Float64) -> list[str | None]:
    """Cells as states to count."""
    cells = [None if cell is None else str(cell).strip() or " " for cell in column.cells(rows)]
    if column.column.kind is ColumnKind.BOOLEAN:
        return [None if cell is None else cell.lower() for cell in cells]
    if column.column.kind is not ColumnKind.DATETIME:
        return cells
    finest = next(part for part in _PARTS if part in column.periods)
    found = [None if cell is None else _PARTS[finest].search(cell) for cell in cells]
    return [None if match is None else match[1] for match in found]


def _numbers(name: str, real: Float64, generated: Float64) -> Marginal:
    known = [values[~np.isnan(values)] for values in (real, generated)]
    low, high = _range(known[0]) if len(known[0]) else (0.0, 1.0)
    if len(known[1]):  # far generated rows must not squeeze the real ones into one bin
        room, (lowest, highest) = _BEYOND * (high - low), _range(known[1])
        low, high = min(low, max(lowest, low - room)), max(high, min(highest, high + room))
    if not high > low:  # a column of nearly one value
        width = 0.5 * max(1.0, abs(low))
        low, high = low - width, high + width
    edges = np.linspace(low, high, _BINS + 1)
    shares = [
        np.histogram(np.clip(k, low, high), edges)[0] / max(1, len(values))
        for k, values in zip(known, (real, generated), strict=True)
    ]
    gone = [float(np.isnan(values).mean()) for values in (real, generated)]
    return Marginal(name, edges, (), shares[0], shares[1], (gone[0], gone[1]))


def _range(values: Float64) -> tuple[float, float]:
    low, high = np.quantile(values, [_TAIL, 1.0 - _TAIL])
    return float(low), float(high)


def _require_own_place(folder: str, model: str) -> None:
    if folder == STANDARD_OUTPUT:
        raise UsageError(f"{_OPTION} writes several files; name a folder, such as plots")
    place, home = os.path.realpath(folder), os.path.realpath(model)
    if os.path.isdir(home) and os.path.commonpath([place, home]) == home:
        raise UsageError(
            f"{folder} lies in the model directory, which holds the model's own files alone; name "
            f"another folder with {_OPTION}"
        )
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise OutputError(f"{folder} is no folder; name another one with {_OPTION}")


def _write_all(folder: str, images: Mapping[str, bytes]) -> list[str]:
    """Write files that appear together, once all of them are on the disk."""
    made = not os.path.isdir(folder)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"cannot make the folder {folder}: {error.strerror or error}; name another one with "
            f"{_OPTION}"
        ) from error
    paths = [os.path.join(folder, name) for name in images]
    try:
        with ExitStack() as opened:
            for path, content in zip(paths, images.values(), strict=True):
                opened.enter_context(AtomicFile(path, option=_OPTION)).write(content)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise
    return paths
