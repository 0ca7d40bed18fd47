"""What normal rows have where a row is odd: local expectations and nearest neighbours.

The expected value of a column is a kernel regression over the normal rows that a model keeps
(Nadaraya, 1964; Watson, 1964), with the other columns as predictors: a normal row weighs

    c_r exp(-D_r^2 / (2 h^2)),    D_r^2 = sum over the features of the other columns

with c_r the rows that it stands for and h the width of the model's own kernel. Numbers take the
weighted median in place of the weighted mean, which a few far rows would pull away; categories
the state of the largest weight.

The model's kernel is made for a density in all columns, and is narrow: often one row has nearly all
of the weight. An interval of one row says nothing, so h is widened by half-octaves until the
effective number of normal rows, 1 / sum of squared shares (Kish, 1965, section 11.7), reaches
`LEAST_ROWS`.

References
----------
Kish (1965). Survey sampling. Wiley.
Nadaraya (1964). On estimating regression. Theory of Probability and its Applications 9(1).
Watson (1964). Smooth regression analysis. Sankhya A 26(4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.bundle import Bundle
from anomgan.errors import ModelCorruptError, ModelError
from anomgan.evaluation.known import KnownRows
from anomgan.tables.columns import ColumnKind
from anomgan.tables.decoding import Cell, ColumnDecoder, decoders
from anomgan.tables.schema import Rows, Schema

__all__ = ["LEAST_ROWS", "Expected", "Neighbour", "NormalRows"]

LEAST_ROWS: Final = 10.0
"""Effective normal rows behind an expectation; half of all where a model has fewer than twenty."""

_OLDEST_FORMAT = 2  # of models that keep their normal rows
_WIDER = math.sqrt(2.0)
_RANGE = (0.1, 0.9)
_ESTIMATE_DECIMALS = 3  # of a standard deviation, in an expected value
_FLOAT32_DECIMALS = 5  # of a standard deviation, in a decoded cell

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Expected:
    """What normal rows have in one column that agree with a row in the other columns.

    Parameters
    ----------
    value : float, bool, str or None
        Weighted median of numbers, else the state of the largest weight; None = missing.
    low, high : float or None
        Weighted 10 and 90 % quantiles; numbers only.
    weight : float
        Share of the kernel weight on rows with this state; for numbers, on rows with any number.
    n_rows : float
        Effective number of normal rows.
    """

    value: Cell
    low: float | None
    high: float | None
    weight: float
    n_rows: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "weight": self.weight,
            "effective_rows": self.n_rows,
        }


@dataclass(frozen=True)
class Neighbour:
    """One of the nearest known normal rows.

    Parameters
    ----------
    distance : float
        Euclidean distance of the encoded rows, as in the score; in standard deviations.
    n_rows : int
        Training rows that it stands for.
    cells : dict of str to float, bool, str or None
        Decoded cells by column; None = missing.
    """

    distance: float
    n_rows: int
    cells: dict[str, Cell]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {"distance": self.distance, "rows": self.n_rows, "values": dict(self.cells)}


class NormalRows:
    """The normal rows that a model keeps, asked what is normal around a row.

    Parameters
    ----------
    known : KnownRows
    schema : Schema
        Of the same model.
    width : float
        Kernel width of the score, in standard deviations.

    Raises
    ------
    ModelCorruptError
        The parts do not fit each other.
    """

    def __init__(self, known: KnownRows, schema: Schema, width: float) -> None:
        rows, counts, encoder = known.rows, known.counts, known.encoder
        n_inputs = (len(schema.numeric_names), len(schema.categorical_names))
        fits = (
            rows.ndim == 2
            and 0 < len(rows) == len(counts)
            and rows.shape[1] == encoder.n_features
            and encoder.n_columns == len(schema.columns)
            and n_inputs == (len(encoder.numeric_position), len(encoder.tables))
            and bool(np.isfinite(rows).all())
            and bool((counts >= 1).all())
            and 0.0 < width < math.inf
        )
        if not fits:
            raise ModelCorruptError(
                f"the model keeps normal rows of shape {list(rows.shape)} for "
                f"{encoder.n_features} features of {len(schema.columns)} columns, and a kernel "
                f"width of {width}: these do not belong together; fit the model again"
            )
        self.encoder = encoder
        self.schema = schema
        self._rows: Float64 = rows.astype(np.float64)
        self._counts: Float64 = counts.astype(np.float64)
        self._width = width

    @classmethod
    def of(cls, bundle: Bundle) -> NormalRows | None:
        """Read them from a model directory, checksums verified; None where it keeps none.

        Raises
        ------
        ModelCorruptError
            What should be there is damaged.
        """
        manifest = bundle.manifest
        needed = {"scoring.json", "weights.safetensors"}
        if manifest.format_version < _OLDEST_FORMAT or not needed <= set(bundle.names):
            return None
        try:
            known = KnownRows.of(bundle)
            width = float(bundle.json("scoring.json")["settings"]["kernel_width"])
            return cls(known, Schema.from_dict(manifest.schema), width)
        except (ModelError, KeyError, TypeError, ValueError) as error:
            raise ModelCorruptError(
                f"the normal rows that {bundle.path} keeps cannot be read ({error}); fit the model "
                f"again, or explain with its scorer alone: -m {bundle.path / 'scorer.onnx'}"
            ) from error

    @cached_property
    def decoders(self) -> tuple[ColumnDecoder, ...]:
        """One a column, in schema order."""
        return decoders(self.schema, self.encoder)

    def around(self, rows: Rows, i: int, n: int) -> tuple[list[Expected | None], list[Neighbour]]:
        """Say what is normal around the row `i` of `rows`.

        Returns
        -------
        list of Expected or None, [n_columns]
            None for dates, and for columns that give no feature: they have no single value.
        list of Neighbour
            The `n` nearest normal rows, nearest first.
        """
        one = Rows(rows.numeric[[i]], rows.categorical[[i]], None, 1)
        x = self.encoder.transform(one).features[0].astype(np.float64)
        by_column = self._squared_distances(x)  # [a, n_columns]
        elsewhere = _sum_of_others(by_column)
        expected = [
            self._expected(decoder, elsewhere[:, j]) for j, decoder in enumerate(self.decoders)
        ]
        return expected, self._nearest(by_column.sum(axis=1), n)

    def _squared_distances(self, x: Float64) -> Float64:
        out = np.zeros((len(self._rows), len(self.schema.columns)))
        for j, decoder in enumerate(self.decoders):
            at = decoder.features
            out[:, j] = np.square(self._rows[:, at] - x[at]).sum(axis=1)
        return out

    def _expected(self, decoder: ColumnDecoder, squared: Float64) -> Expected | None:
        if decoder.column.kind is ColumnKind.DATETIME or not len(decoder.features):
            return None
        weights, n_rows = kernel_weights(squared, self._counts, self._width)
        if decoder.column.kind is not ColumnKind.NUMERIC:
            states, index = self._states[decoder.column.name]
            shares = np.bincount(index, weights=weights, minlength=len(states))
            best = int(shares.argmax())
            return Expected(states[best], None, None, float(shares[best]), n_rows)
        numbers = self._numbers[decoder.column.name]
        present = ~np.isnan(numbers)
        share = float(weights[present].sum())
        if share < 0.5:
            return Expected(None, None, None, 1.0 - share, n_rows)
        low, middle, high = (
            _rounded(weighted_quantile(numbers[present], weights[present], q), decoder.scale)
            for q in (_RANGE[0], 0.5, _RANGE[1])
        )
        return Expected(middle, low, high, min(share, 1.0), n_rows)

    def _nearest(self, squared: Float64, n: int) -> list[Neighbour]:
        index = np.argsort(squared, kind="stable")[:n]
        rows = self._rows[index]
        columns = {d.column.name: _tidy(d, d.cells(rows)) for d in self.decoders}
        return [
            Neighbour(
                distance=math.sqrt(squared[place]),
                n_rows=round(float(self._counts[place])),
                cells={name: cells[k] for name, cells in columns.items()},
            )
            for k, place in enumerate(index.tolist())
        ]

    @cached_property
    def _numbers(self) -> dict[str, Float64]:
        """Decoded numeric columns, [a] each."""
        return {
            d.column.name: d.numbers(self._rows)
            for d in self.decoders
            if d.column.kind is ColumnKind.NUMERIC
        }

    @cached_property
    def _states(self) -> dict[str, tuple[list[Cell], NDArray[np.int64]]]:
        """Distinct cells of categorical and boolean columns, and which one each row has, [a]."""
        out = {}
        for decoder in self.decoders:
            if decoder.column.kind in (ColumnKind.CATEGORICAL, ColumnKind.BOOLEAN):
                cells = decoder.cells(self._rows)
                codes = {cell: code for code, cell in enumerate(dict.fromkeys(cells))}
                index = np.array([codes[cell] for cell in cells], dtype=np.int64)
                out[decoder.column.name] = (list(codes), index)
        return out


def kernel_weights(squared: Float64, counts: Float64, width: float) -> tuple[Float64, float]:
    """Shares of the kernel weight, [a], sum 1, and the effective number of rows behind them.

    Parameters
    ----------
    squared : float64 [a]
        Squared distances, of any size.
    counts : float64 [a]
        Rows that each stands for.
    width : float
        Least width; widened until `LEAST_ROWS` rows count.
    """
    # A share of them all would be reached by an infinite width only.
    wanted = min(LEAST_ROWS, 0.5 * float(counts.sum()))
    log_counts, beyond = np.log(counts), squared - squared.min()
    while True:
        log_weights = log_counts - beyond / (2.0 * width**2)
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        n_rows = 1.0 / float(np.sum(np.square(weights) / counts))
        if n_rows >= wanted:
            return weights, n_rows
        width *= _WIDER


def weighted_quantile(values: Float64, weights: Float64, q: float) -> float:
    """Return the least value that, with those below it, has the share `q` of the weight."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, q * reached[-1]))
    return float(values[order][min(place, len(values) - 1)])


def _sum_of_others(by_column: Float64) -> Float64:
    """Sum over all columns but each: by addition alone, so that a far column leaves no rounding."""
    before = np.zeros_like(by_column)
    after = np.zeros_like(by_column)
    before[:, 1:] = np.cumsum(by_column[:, :-1], axis=1)
    after[:, :-1] = np.cumsum(by_column[:, :0:-1], axis=1)[:, ::-1]
    return before + after


def _tidy(decoder: ColumnDecoder, cells: list[Cell]) -> list[Cell]:
    """Round decoded numbers to what float32 keeps of them: 812.0000003 was 812."""
    if decoder.column.kind is not ColumnKind.NUMERIC:
        return cells
    return [
        _rounded(cell, decoder.scale, _FLOAT32_DECIMALS) if isinstance(cell, float) else cell
        for cell in cells
    ]


def _rounded(value: float, scale: float, decimals: int = _ESTIMATE_DECIMALS) -> float:
    return round(value, decimals - math.floor(math.log10(scale)))
