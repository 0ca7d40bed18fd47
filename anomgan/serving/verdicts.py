"""What scoring says of every row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["DISCRIMINATOR", "Verdicts"]

DISCRIMINATOR = "discriminator"
"""Name of the last contribution: what no single column accounts for."""


_SCHEMA: Final = {
    "row": pl.Int64,
    "score": pl.Float32,
    "p_value": pl.Float32,
    "is_anomaly": pl.Boolean,
}
_FEW: Final = 64
"""Rows that are handed over as Python's numbers: for an array Polars loads `numpy.ma`, which takes
longer than all else that is done with a few rows."""


@dataclass(frozen=True)
class Verdicts:
    """Scores and decisions, one a row, in the order of the rows.

    Parameters
    ----------
    score : float32 array [n]
        Anomaly score, rising with abnormality; NaN for a row that could not be read.
    p_value : float32 array [n]
        Probability that a normal row scores at least this high; NaN as `score`.
    is_anomaly : bool array [n]
        ``p_value <= false_alarm_rate``; False for a row that could not be read.
    contributions : float32 array [n, n_features + 1]
        Share of each column in `score`, in its units; the last one is the discriminator's.
        They sum to `score`.
    feature_names : tuple of str
        Names of the contributions.
    false_alarm_rate : float
        The rate that `is_anomaly` was decided at.
    first_row : int
        1-based number of the first row.
    """

    score: NDArray[np.float32]
    p_value: NDArray[np.float32]
    is_anomaly: NDArray[np.bool_]
    contributions: NDArray[np.float32]
    feature_names: tuple[str, ...]
    false_alarm_rate: float
    first_row: int = 1

    def __len__(self) -> int:
        return len(self.score)

    def to_frame(self) -> pl.DataFrame:
        """Return columns row, score, p_value, is_anomaly; null where a row could not be read."""
        readable = ~np.isnan(self.score)
        rows = np.arange(self.first_row, self.first_row + len(self), dtype=np.int64)
        columns: tuple[Any, ...] = (rows, self.score, self.p_value, self.is_anomaly)
        if len(self) <= _FEW:
            columns = tuple(column.tolist() for column in columns)
        frame = pl.DataFrame(dict(zip(_SCHEMA, columns, strict=True)), schema=_SCHEMA)
        if readable.all():
            return frame
        known = pl.Series(readable)
        masked = [pl.when(known).then(pl.col(name)) for name in frame.columns[1:]]
        return frame.with_columns(masked)

    def without(self, positions: Sequence[int]) -> Verdicts:
        """Return the same with the rows at `positions` marked as unreadable."""
        if not positions:
            return self
        index = np.asarray(positions, dtype=np.intp)
        score, p_value = self.score.copy(), self.p_value.copy()
        flags, contributions = self.is_anomaly.copy(), self.contributions.copy()
        score[index] = np.nan
        p_value[index] = np.nan
        flags[index] = False
        contributions[index] = np.nan
        return Verdicts(
            *(score, p_value, flags, contributions),
            feature_names=self.feature_names,
            false_alarm_rate=self.false_alarm_rate,
            first_row=self.first_row,
        )

    @staticmethod
    def joined(parts: Sequence[Verdicts]) -> Verdicts:
        """Put consecutive verdicts of one scorer together."""
        first = parts[0]
        if len(parts) == 1:
            return first

        def column(name: str) -> Any:
            return np.concatenate([getattr(part, name) for part in parts])

        return Verdicts(
            score=column("score"),
            p_value=column("p_value"),
            is_anomaly=column("is_anomaly"),
            contributions=column("contributions"),
            feature_names=first.feature_names,
            false_alarm_rate=first.false_alarm_rate,
            first_row=first.first_row,
        )
