"""Keep the normal rows of a labelled table."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from anomgan.errors import UsageError
from anomgan.tables.cells import is_readable, text_cells
from anomgan.tables.faults import cell, did_you_mean, quoted_names

__all__ = ["keep_normal"]

_MAX_VALUES = 10


def keep_normal(
    frame: pl.DataFrame, label: str, normal: Sequence[str], *, source: str
) -> pl.DataFrame:
    """Return the rows whose label is one of the normal values.

    Parameters
    ----------
    frame : polars.DataFrame
    label : str
        Name of the label column.
    normal : sequence of str
        Compared as stripped text; where both are numbers, as numbers (``0`` is ``0.0``).
    source : str
        For messages.

    Raises
    ------
    UsageError
        No such column (the columns are listed), or no such row (the values are listed).
    """
    if label not in frame.columns:
        raise UsageError(
            f"{source}: no label column {label!r}{did_you_mean(label, frame.columns)}: "
            f"the columns are {quoted_names(frame.columns)}"
        )
    if not is_readable(frame[label].dtype):
        raise UsageError(f"{source}: label column {label!r} holds no single values")
    text = text_cells(frame[label])
    wanted = [value.strip() for value in normal]
    numbers = pl.Series(wanted, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    keep = text.is_in(wanted) | text.cast(pl.Float64, strict=False).is_in(numbers.to_list())
    kept = frame.filter(keep.fill_null(value=False))
    if kept.is_empty():
        counts = text.drop_nulls().alias("value").value_counts(sort=True, name="count")
        found = [f"{cell(v)} ({n:,})" for v, n in counts.head(_MAX_VALUES).iter_rows()]
        more = f", and {len(counts) - _MAX_VALUES:,} more" if len(counts) > _MAX_VALUES else ""
        asked = " or ".join(repr(value) for value in normal)
        raise UsageError(
            f"{source}: no row has {asked} in label column {label!r}: name the normal value "
            f"among those found (with their rows): {', '.join(found)}{more}"
        )
    return kept
