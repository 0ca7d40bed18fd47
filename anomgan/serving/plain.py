"""Rows of plain finite numbers: what needs no table to be understood.

To read one row as a table takes longer than to score it. What is no plain number is left to the
table's reader, which says what is wrong with it, or makes the best of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["plain_array", "plain_row"]

_EXACT: Final = 2**53  # whole numbers below it are floats, too
_NUMBERS: Final = frozenset({float, int})
_FLOAT64: Final = np.dtype(np.float64)
_DTYPES: Final = frozenset(np.dtype(kind) for kind in (np.float64, np.float32, np.int64, np.int32))
_FEW_CELLS: Final = 128  # so few are told from endless ones sooner by Python than by NumPy


def plain_row(row: Mapping[str, Any], names: Iterable[str]) -> list[float] | None:
    """Return the cells of one row in the order of `names`; None unless all are plain numbers."""
    get = row.get
    cells: list[float] = [get(name) for name in names]  # type: ignore[misc]
    kinds = set(map(type, cells))
    if not kinds <= _NUMBERS:
        return None
    if int in kinds and not all(type(v) is float or -_EXACT < v < _EXACT for v in cells):
        return None
    # A cell that is endless or no number makes the sum so; finite ones that are together beyond
    # float64 do, too, and a table takes these just as well.
    return cells if isfinite(sum(cells)) else None


def plain_array(rows: NDArray[Any], width: int, most: int) -> NDArray[np.float64] | None:
    """Return 1 to `most` rows as float64 [n, width]; None unless all cells are finite numbers."""
    shape = rows.shape
    if len(shape) != 2 or shape[1] != width or not 0 < shape[0] <= most:
        return None
    if rows.dtype is not _FLOAT64:
        if rows.dtype not in _DTYPES:
            return None
        rows = rows.astype(np.float64)
    if rows.size <= _FEW_CELLS and shape[0] == 1:
        return rows if isfinite(sum(rows[0].tolist())) else None  # as in `plain_row`
    return np.ascontiguousarray(rows) if np.isfinite(rows).all() else None
