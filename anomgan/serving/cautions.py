"""Where flags of false-discovery control rest on too few calibration rows.

A row is judged by the calibration rows of its own group, where the model is calibrated by group:
what they count, and what has to be extrapolated beyond them, differs from group to group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from anomgan.calibration import is_extrapolated
from anomgan.false_discovery import Discoveries
from anomgan.groups import stated_groups
from anomgan.tables.schema import Rows

if TYPE_CHECKING:
    from anomgan.serving.scorer import Scorer

__all__ = ["PValueEnds"]


class PValueEnds:
    """The smallest p-value of a table, by whose calibration, and the smallest one counted.

    Parameters
    ----------
    scorer : Scorer
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._lowest = math.inf
        self._own: Mapping[str, Any] = {}
        self._group: str | None = None
        self._lowest_counted = math.inf

    def add(self, rows: Rows, p_values: NDArray[np.float32]) -> None:
        """See the p-values that decide on the next rows, [n]; NaN for a row without one."""
        known = np.where(np.isnan(p_values), np.inf, p_values.astype(np.float64))
        if not len(known):
            return
        counted = known[~is_extrapolated(known, self._scorer.resolutions(rows))]
        self._lowest_counted = min(self._lowest_counted, float(counted.min(initial=math.inf)))
        i = int(known.argmin())
        if known[i] < self._lowest:
            self._lowest = float(known[i])
            self._own = self._scorer.calibration_of(rows, i)
            self._group = self._scorer.group_of(rows, i)

    def rows_needed(self, found: Discoveries) -> int | None:
        """Calibration rows needed, where too few of them are why nothing is flagged."""
        n = self._own.get("n")
        if found.n_flagged or not found.n_lowest or n is None:
            return None
        # As float32 rounds it; below it the tail decided, and more rows are not what lacks.
        at_the_end = abs(found.lowest * (n + 1) - 1.0) <= 1e-6
        return found.rows_needed() if at_the_end else None

    def cautions(self, found: Discoveries) -> tuple[str, ...]:
        """Return what to say of flags, or of there being none; mostly nothing."""
        needed, n = self.rows_needed(found), self._own.get("n")
        if n is None:
            return ()
        if needed is not None:
            group = self._scorer.calibration.get("by")
            tail = self._own.get("tail") is not None
            whose = "" if self._group is None else f" of the group {self._group!r} of {group!r}"
            return (
                f"{_count(found.n_lowest, 'row')} reached {found.lowest:.2g}, the smallest "
                f"p-value that {_count(n, 'calibration row')}{whose} can give: to be flagged at "
                f"this rate among {_count(found.n, 'row')} it would take at least "
                f"{_count(needed, 'calibration row')}; fit on more normal rows, or use "
                f"{'--fdr-extrapolate or ' if tail else ''}--false-alarm-rate.",
            )
        if found.n_flagged and found.cutoff < self._lowest_counted:
            grouped = bool(stated_groups(self._scorer.calibration))
            beyond = "calibration rows of its own group" if grouped else _count(n, _ROW)
            return (
                f"Every flagged row lies beyond all {beyond}: the p-values are extrapolated, and "
                "with them the false-discovery rate.",
            )
        return ()


_ROW = "calibration row"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}".replace(",", " ")
