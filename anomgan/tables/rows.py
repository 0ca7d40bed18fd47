"""Raw columns to the two arrays that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.errors import SchemaError
from anomgan.tables.cells import (
    Parsed,
    describe_bad_cell,
    is_readable,
    is_text,
    parse_cells,
    text_cells,
)
from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.missing import stripped_or_empty

__all__ = ["Rows", "read_numbers", "read_texts"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows as the encoder and the ONNX scorer take them.

    Parameters
    ----------
    numeric : ndarray of float64 [n, n_numeric]
        Columns of `Schema.numeric_names`; missing = NaN, truth values 0 and 1, dates in
        seconds since 1970-01-01 UTC. Never infinite.
    categorical : ndarray of object (str) [n, n_categorical]
        Columns of `Schema.categorical_names`, stripped; missing = "".
    ids : list or None
        The id column's raw cells; None where the table has no such column.
    first_row : int
        1-based data row number of the first row.
    faults : dict of int to str
        With ``on_bad_row="skip"``: row here (0-based) -> why it cannot be scored. Such a
        row is all NaN and "".
    extra_columns : tuple of str
        Columns of the table that the model does not know; they are ignored.
    """

    numeric: NDArray[np.float64]
    categorical: NDArray[np.object_]
    ids: list[Any] | None
    first_row: int
    faults: dict[int, str] = field(default_factory=dict)
    extra_columns: tuple[str, ...] = ()


def read_numbers(
    frame: pl.DataFrame, columns: Sequence[Column]
) -> tuple[NDArray[np.float64], dict[int, list[str]]]:
    """Read all columns that become numbers; those not in the frame stay NaN.

    Returns
    -------
    numeric : ndarray of float64 [n, n_columns]
    bad : dict of int to list of str
        Row (0-based) -> one sentence for each of its cells that cannot be read.
    """
    numeric = np.full((frame.height, len(columns)), np.nan)
    bad: dict[int, list[str]] = {}
    series_of = {series.name: series for series in frame.get_columns()}
    for i, column in enumerate(columns):
        series = series_of.get(column.name)
        # Most columns are plain numbers: Polars' cast says all there is to say of them.
        if series is not None and column.kind is ColumnKind.NUMERIC and _casts(series.dtype):
            numeric[:, i] = series.cast(pl.Float64, strict=False).to_numpy()
    suspect = ~np.isfinite(numeric).all(axis=0)
    for i in np.flatnonzero(suspect).tolist():
        column = columns[i]
        series = series_of.get(column.name)
        if series is None:
            continue
        parsed = _parsed(series, column)
        numeric[:, i] = parsed.values
        cells = series.filter(pl.Series(parsed.bad)).to_list()
        for row, value in zip(np.flatnonzero(parsed.bad).tolist(), cells, strict=True):
            what = describe_bad_cell(value, column.kind, column.datetime_format)
            bad.setdefault(row, []).append(f"column {column.name!r}: {what}")
    return numeric, bad


def read_texts(frame: pl.DataFrame, names: Sequence[str], source: str) -> NDArray[np.object_]:
    """Read the categorical columns as stripped text, missing = "", object [n, n_names]."""
    texts = np.full((frame.height, len(names)), "", dtype=object)
    present = set(frame.columns)
    for i, name in enumerate(names):
        if name not in present:
            continue
        series = frame[name]
        if not is_readable(series.dtype):
            raise SchemaError(
                f"{source}: column {name!r} holds {series.dtype}, not single values: "
                "turn its cells into text"
            )
        text = series.cast(pl.String) if is_text(series.dtype) else text_cells(series)
        texts[:, i] = stripped_or_empty(text.to_list())
    return texts


def _casts(dtype: pl.DataType) -> bool:
    """Say whether Polars' own cast to float means what `parse_cells` means."""
    return dtype in (pl.String, pl.Boolean) or dtype.is_numeric()


def _parsed(series: pl.Series, column: Column) -> Parsed:
    if not is_readable(series.dtype):
        return Parsed(np.full(len(series), np.nan), series.is_not_null().to_numpy())
    return parse_cells(series, column.kind, column.datetime_format)
