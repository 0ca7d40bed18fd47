"""In-memory tables to Polars frames, without importing pandas or pyarrow."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import polars as pl

from anomgan.errors import TableError
from anomgan.tables.cells import text_cells
from anomgan.tables.dialect import check_names

__all__ = ["frame_from", "is_in_memory", "source_name"]


def is_in_memory(source: object) -> bool:
    """Say whether `frame_from` takes the object."""
    return (
        isinstance(source, pl.DataFrame | pl.LazyFrame | Mapping)
        or _is_pandas(source)
        or hasattr(source, "__arrow_c_stream__")
        or _is_records(source)
    )


def source_name(source: object) -> str:
    """Return the name that messages give to an in-memory table."""
    return f"<{type(source).__name__}>"


def frame_from(source: Any) -> pl.DataFrame:
    """Turn an in-memory table into a Polars frame with text column names.

    Parameters
    ----------
    source : polars.DataFrame, pandas.DataFrame, mapping, list of mappings, or Arrow
        Arrow: anything with ``__arrow_c_stream__``. A pandas index is ignored.

    Returns
    -------
    polars.DataFrame
        Objects of mixed types have become text; None, NaN, NaT and NA have become null
        (NaN stays NaN in floating columns).

    Raises
    ------
    TableError
        Nameless or repeated column names; columns of unequal length.
    """
    name = source_name(source)
    if isinstance(source, pl.LazyFrame):
        source = source.collect()
    if isinstance(source, pl.DataFrame):
        series = source.get_columns()
    elif _is_pandas(source):
        series = [_pandas_series(_text(label), column) for label, column in source.items()]
    elif isinstance(source, Mapping):
        series = [_values_series(_text(key), _listed(cells)) for key, cells in source.items()]
    elif _is_records(source):
        keys = list(dict.fromkeys(key for record in source for key in record))
        series = [_values_series(_text(k), [record.get(k) for record in source]) for k in keys]
    else:
        series = pl.DataFrame(source).get_columns()
    names = [str(column.name).strip() for column in series]
    check_names(names, name)
    lengths = {len(column) for column in series}
    if len(lengths) > 1:
        raise TableError(f"{name}: columns of unequal length: {sorted(lengths)}")
    return pl.DataFrame([c.rename(n) for c, n in zip(series, names, strict=True)])


def _is_pandas(source: object) -> bool:
    return hasattr(source, "iloc") and hasattr(source, "columns") and hasattr(source, "dtypes")


def _is_records(source: object) -> bool:
    return isinstance(source, list | tuple) and all(isinstance(r, Mapping) for r in source)


def _listed(cells: Any) -> list[Any]:
    if isinstance(cells, pl.Series):
        return cells.to_list()
    if isinstance(cells, str | bytes) or not hasattr(cells, "__iter__"):
        return [cells]  # a single row written as {"column": value}
    return list(cells)


def _pandas_series(name: str, column: Any) -> pl.Series:
    """Convert one pandas column by its dtype alone, whatever pandas stores it in."""
    dtype = column.dtype
    kind = getattr(dtype, "kind", "O")
    if isinstance(dtype, np.dtype) and kind in "iufb":
        return pl.Series(name, column.to_numpy())
    if kind == "M":
        if getattr(dtype, "tz", None) is not None:
            naive = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy("datetime64[ns]")
            return pl.Series(name, naive).dt.replace_time_zone("UTC")
        return pl.Series(name, column.to_numpy("datetime64[ns]"))
    if kind == "m":
        return pl.Series(name, column.to_numpy("timedelta64[ns]"))
    if type(dtype).__name__ == "CategoricalDtype":
        labels = text_cells(_values_series(name, dtype.categories.tolist())).to_list()
        codes = column.cat.codes.tolist()
        return pl.Series(name, [None if code < 0 else labels[code] for code in codes]).cast(
            pl.Categorical
        )
    cells = column.to_numpy(dtype=object)
    missing = column.isna().to_numpy(dtype=bool)
    values = [None if gone else value for value, gone in zip(cells, missing, strict=True)]
    typed = {"i": pl.Int64, "u": pl.UInt64, "f": pl.Float64, "b": pl.Boolean}.get(kind)
    return _values_series(name, values) if typed is None else pl.Series(name, values, dtype=typed)


def _values_series(name: str, values: Sequence[Any]) -> pl.Series:
    """Give a list of Python values the narrowest type that holds them all, else text."""
    cells = [None if _is_na(value) else value for value in values]
    present = [value for value in cells if value is not None]
    if not present:
        return pl.Series(name, cells, dtype=pl.Null)
    if all(isinstance(v, str) for v in present):
        return _text_series(name, cells)
    if all(isinstance(v, bool | np.bool_) for v in present):
        return pl.Series(name, [None if v is None else bool(v) for v in cells], dtype=pl.Boolean)
    if all(_is_whole(v) for v in present):
        whole = [None if v is None else int(v) for v in cells]
        fits = all(v is None or -(2**63) <= v < 2**63 for v in whole)
        return pl.Series(name, whole, dtype=pl.Int64 if fits else pl.Float64, strict=fits)
    if all(isinstance(v, Real | Decimal | np.bool_) for v in present):
        return pl.Series(name, [None if v is None else float(v) for v in cells], dtype=pl.Float64)
    if all(isinstance(v, dt.timedelta) for v in present) or all(
        isinstance(v, dt.date) for v in present
    ):
        return _temporal_series(name, cells)
    return _text_series(name, cells)


def _text_series(name: str, cells: Sequence[Any]) -> pl.Series:
    texts = [None if v is None else str(v) for v in cells]
    try:
        return pl.Series(name, texts, dtype=pl.String)
    except UnicodeEncodeError:
        return pl.Series(name, [None if t is None else _text(t) for t in texts], dtype=pl.String)


def _text(value: object) -> str:
    """Write a value as text in UTF-8; half a surrogate pair, which has none, becomes U+FFFD."""
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def _temporal_series(name: str, cells: list[Any]) -> pl.Series:
    try:
        return pl.Series(name, cells)
    except (TypeError, pl.exceptions.PolarsError):  # dates beside datetimes, two time zones
        return _text_series(name, cells)


def _is_whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _is_na(value: object) -> bool:
    """Recognise None, NaN, NaT and pandas.NA: all that is not equal to itself, or says NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | Decimal) and value != value
