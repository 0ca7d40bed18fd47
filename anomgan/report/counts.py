"""How often values occurred, in constant memory whatever their range and number."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["FloatCounts", "snapped"]

_SHIFT: Final = 12  # bits of a float32 that are left off: 11 bits of the mantissa stay
_CELLS: Final = 1 << (32 - _SHIFT)
_SIGN: Final = np.uint32(0x8000_0000)
_LARGEST: Final = float(np.finfo(np.float32).max)

Numbers = NDArray[np.float64]


class FloatCounts:
    """Counts of float32 values in cells that are 0.05 % of a value wide; 8 MB.

    float32 numbers, once the bits of negative ones are turned over, sort as their bits do: the
    upper 20 bits are cells of any range, and nothing has to be known of the values beforehand.

    Attributes
    ----------
    n : int
        Values in all.
    lowest, highest : float
        Exact; inf and -inf before the first value.
    """

    def __init__(self) -> None:
        self._cells: NDArray[np.int64] = np.zeros(_CELLS, dtype=np.int64)
        self.n = 0
        self.lowest, self.highest = math.inf, -math.inf

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, [n], none of them NaN; infinite ones count as the largest number."""
        if not len(values):
            return
        # An axis has ends, so infinite scores are drawn at its last one.
        finite = np.clip(values, np.float32(-_LARGEST), np.float32(_LARGEST))
        cells, counts = np.unique(_cells(finite), return_counts=True)
        self._cells[cells] += counts
        self.n += len(values)
        self.lowest = min(self.lowest, float(finite.min()))
        self.highest = max(self.highest, float(finite.max()))

    def below(self, edges: ArrayLike) -> NDArray[np.int64]:
        """Count the values below each of the `snapped` edges, [n_edges]."""
        total = np.concatenate([[0], np.cumsum(self._cells)])
        found: NDArray[np.int64] = total[_cells(_rounded(edges))]
        return found

    def quantile(self, shares: ArrayLike) -> Numbers:
        """Return values below which these shares lie, [n], to 0.05 %; 0 and 1 are exact.

        n >= 1 values must have been counted.
        """
        asked = np.asarray(shares, dtype=np.float64)
        total = np.cumsum(self._cells)
        cells = np.searchsorted(total, np.clip(np.ceil(asked * self.n), 1, self.n))
        found = np.clip(_lower_ends(cells), self.lowest, self.highest)
        return np.where(asked >= 1.0, self.highest, np.where(asked <= 0.0, self.lowest, found))


def snapped(edges: ArrayLike) -> Numbers:
    """Return for each edge the end of a cell at or just below it, float64 [n_edges]."""
    return _lower_ends(_cells(_rounded(edges)))


def _rounded(edges: ArrayLike) -> NDArray[np.float32]:
    wide = np.clip(np.asarray(edges, dtype=np.float64), -_LARGEST, _LARGEST)
    return wide.astype(np.float32)


def _cells(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bits = (values + np.float32(0.0)).view(np.uint32)  # -0.0 is no number of its own
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return (ordered >> np.uint32(_SHIFT)).astype(np.int64)


def _lower_ends(cells: NDArray[np.int64]) -> Numbers:
    ordered = (cells.astype(np.uint64) << np.uint64(_SHIFT)).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered).astype(np.uint32)
    return bits.view(np.float32).astype(np.float64)
