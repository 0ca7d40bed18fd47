"""A raw column to numbers or to text, with the cells that cannot be read marked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.tables.columns import ColumnKind
from anomgan.tables.datetimes import ISO, parse_datetimes, temporal_seconds
from anomgan.tables.faults import cell
from anomgan.tables.missing import WHITE_SPACE, text_or_null

__all__ = [
    "GROUPED_NUMBER",
    "Parsed",
    "describe_bad_cell",
    "is_readable",
    "is_text",
    "parse_cells",
    "text_cells",
]

_THOUSANDS = r"[0-9]{1,3}(?:[,' ][0-9]{3})+(?:\.[0-9]+)?"
_DECIMAL_COMMA = r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]*),[0-9]+"
GROUPED_NUMBER = rf"^[+-]?(?:{_THOUSANDS}|{_DECIMAL_COMMA})(?:[eE][+-]?[0-9]+)?$"
"""Numbers with thousands separators or a decimal comma, which are refused, never guessed."""

_PLAIN_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")

_BOOLEANS = {"true": 1.0, "t": 1.0, "1": 1.0, "1.0": 1.0, "false": 0.0, "f": 0.0}
_BOOLEANS |= {"0": 0.0, "0.0": 0.0}
_SECONDS = (pl.Duration, pl.Time)
_DATES = (pl.Date, pl.Datetime)


@dataclass(frozen=True)
class Parsed:
    """One column as float64 [n] (missing = NaN) and the cells that could not be read [n]."""

    values: NDArray[np.float64]
    bad: NDArray[np.bool_]


def is_text(dtype: pl.DataType) -> bool:
    """Say whether cells of this type are text."""
    return dtype == pl.String or isinstance(dtype, pl.Categorical | pl.Enum)


def is_readable(dtype: pl.DataType) -> bool:
    """Say whether cells of this type can be read at all (no lists, structs or bytes)."""
    scalar = dtype in (pl.Boolean, pl.Null) or dtype.is_numeric() or dtype.is_temporal()
    return scalar or is_text(dtype)


def text_cells(series: pl.Series) -> pl.Series:
    """Return a column as stripped text, missing = null.

    Whole numbers are written without a decimal point (also where missing cells made the
    column floating), truth values as ``True`` and ``False``: as CSV files hold them.
    """
    dtype = series.dtype
    if is_text(dtype):
        return text_or_null(series.cast(pl.String))
    if dtype == pl.Duration:
        return series.dt.to_string("iso")
    if dtype == pl.Boolean:
        return series.replace_strict({True: "True", False: "False"}, return_dtype=pl.String)
    if dtype.is_float() or dtype.is_decimal():
        values = series.cast(pl.Float64).fill_nan(None)
        whole = (values == values.floor()) & (values.abs() < 2.0**53)
        short = values.set(~whole.fill_null(value=False), None).cast(pl.Int64).cast(pl.String)
        return pl.select(pl.coalesce(short, values.cast(pl.String)).alias(series.name)).to_series()
    return series.cast(pl.String)


def parse_cells(series: pl.Series, kind: ColumnKind, datetime_format: str | None = None) -> Parsed:
    """Read a column of any readable type as numbers.

    Parameters
    ----------
    series : polars.Series, [n]
        Text or typed.
    kind : ColumnKind
        NUMERIC, BOOLEAN or DATETIME.
    datetime_format : str, optional
        For DATETIME, a key of `anomgan.tables.datetimes.FORMATS`.

    Returns
    -------
    Parsed
        Infinite values are marked as bad: no model can be asked about them.
    """
    values = _VALUES[kind](series, datetime_format)
    suspect = ~np.isfinite(values)
    if not suspect.any():
        return Parsed(values, suspect)
    bad = suspect.copy()
    bad[suspect] = ~_missing(series.filter(pl.Series(suspect)))
    # Unread cells must not leak a number: inf becomes NaN like any other bad cell.
    return Parsed(np.where(suspect, np.nan, values), bad)


def describe_bad_cell(value: object, kind: ColumnKind, datetime_format: str | None = None) -> str:
    """Say in a few words what is wrong with a cell that `parse_cells` marked as bad."""
    shown = cell(value)
    if kind is ColumnKind.BOOLEAN:
        return f"{shown} is not true or false"
    if kind is ColumnKind.DATETIME:
        return f"{shown} is not a date written as {datetime_format or ISO}"
    text = str(value).strip(WHITE_SPACE)
    if text.lower().lstrip("+-") in ("inf", "infinity") or _overflows(text):
        return f"{shown} is infinite"
    if re.search(GROUPED_NUMBER, text):
        return f"{shown} is not a number (thousands separator or decimal comma)"
    return f"{shown} is not a number"


def _overflows(text: str) -> bool:
    return _PLAIN_NUMBER.fullmatch(text) is not None and math.isinf(float(text))


def _missing(series: pl.Series) -> NDArray[np.bool_]:
    missing = series.is_null()
    if is_text(series.dtype):
        missing = text_or_null(series.cast(pl.String)).is_null()
    elif series.dtype.is_float():
        missing = missing | series.is_nan().fill_null(value=True)
    return missing.to_numpy()


def _numbers(series: pl.Series, _: str | None) -> NDArray[np.float64]:
    dtype = series.dtype
    if dtype in _DATES:
        return np.full(len(series), np.nan)
    if dtype in _SECONDS:
        return temporal_seconds(series)
    if not is_text(dtype):
        return series.cast(pl.Float64).to_numpy()
    text = series.cast(pl.String)
    values = text.cast(pl.Float64, strict=False)
    if values.null_count():
        # Padded numbers are rare: strip only the columns that need it.
        values = values.fill_null(text.str.strip_chars(WHITE_SPACE).cast(pl.Float64, strict=False))
    return values.to_numpy()


def _booleans(series: pl.Series, _: str | None) -> NDArray[np.float64]:
    dtype = series.dtype
    if is_text(dtype):
        text = series.cast(pl.String).str.strip_chars(WHITE_SPACE).str.to_lowercase()
        return text.replace_strict(_BOOLEANS, default=None, return_dtype=pl.Float64).to_numpy()
    if dtype == pl.Boolean or dtype.is_numeric():
        values = series.cast(pl.Float64).to_numpy()
        return np.where((values == 0.0) | (values == 1.0), values, np.nan)
    return np.full(len(series), np.nan)


def _datetimes(series: pl.Series, datetime_format: str | None) -> NDArray[np.float64]:
    if series.dtype in _DATES:
        return temporal_seconds(series)
    if is_text(series.dtype):
        return parse_datetimes(text_or_null(series.cast(pl.String)), datetime_format)
    return np.full(len(series), np.nan)


_VALUES = {
    ColumnKind.NUMERIC: _numbers,
    ColumnKind.BOOLEAN: _booleans,
    ColumnKind.DATETIME: _datetimes,
}
