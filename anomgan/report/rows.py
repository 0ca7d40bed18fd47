"""What a report keeps of single rows while a table streams past, in constant memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.serving.reasons import describe_rows
from anomgan.serving.scorer import ScoredBatch
from anomgan.tables.schema import Schema

__all__ = ["ColumnShare", "NotableRow", "NotableRows"]

N_HIGHEST: Final = 20
N_MISTAKES: Final = 5
_NAMED_COLUMNS: Final = 3
_MAX_CHARS: Final = 60  # of an identifier or a label: a cell may hold a novel


@dataclass(frozen=True)
class NotableRow:
    """A row that a report shows.

    Parameters
    ----------
    row : int
        1-based number in the table.
    identifier : str or None
    score, p_value : float
    is_flagged : bool
    is_anomaly : bool or None
        By its label; None without labels.
    label : str
        As found in the table.
    reason : str
    """

    row: int
    identifier: str | None
    score: float
    p_value: float
    is_flagged: bool
    is_anomaly: bool | None
    label: str
    reason: str


@dataclass(frozen=True)
class ColumnShare:
    """What one column has to do with the flagged rows.

    Parameters
    ----------
    name : str
        Of the contribution.
    share : float
        Mean over the flagged rows of its share in the positive contributions of the row, in
        [0, 1]: every row counts alike, however high its score.
    n_leading : int
        Flagged rows in which no other column contributes more.
    """

    name: str
    share: float
    n_leading: int


class NotableRows:
    """Collects the highest scores, the mistakes, and what the flagged rows have in common.

    Parameters
    ----------
    schema : Schema
    label : str, optional
        Label column.
    """

    def __init__(self, schema: Schema, *, label: str | None = None) -> None:
        self._schema = schema
        self._label = label
        self._highest = _Shortlist(N_HIGHEST)
        self._alarms = _Shortlist(N_MISTAKES)
        self._misses = _Shortlist(N_MISTAKES)
        self._names: tuple[str, ...] = ()
        self._sums: NDArray[np.float64] = np.zeros(0)
        self._leading: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.n_flagged = 0

    @property
    def highest(self) -> tuple[NotableRow, ...]:
        """The rows with the highest scores, those first."""
        return self._highest.rows

    @property
    def alarms(self) -> tuple[NotableRow, ...]:
        """The normal rows with the highest scores, those first."""
        return self._alarms.rows

    @property
    def misses(self) -> tuple[NotableRow, ...]:
        """The anomalies with the lowest scores, those first."""
        return self._misses.rows

    @property
    def shares(self) -> tuple[ColumnShare, ...]:
        """Columns by falling share in the flagged rows; empty where no row is flagged."""
        if not self.n_flagged:
            return ()
        found = [
            ColumnShare(name, total / self.n_flagged, n)
            for name, total, n in zip(
                self._names, self._sums.tolist(), self._leading.tolist(), strict=True
            )
        ]
        return tuple(sorted(found, key=lambda c: -c.share))

    def add(self, item: ScoredBatch, anomalies: NDArray[np.bool_] | None = None) -> None:
        """See one batch; `anomalies` [n] by their labels, where there are labels."""
        scores = item.verdicts.score.astype(np.float64)
        readable = ~np.isnan(scores)

        def described(positions: list[int]) -> list[NotableRow]:
            return self._described(item, anomalies, positions)

        self._highest.offer(np.where(readable, scores, -np.inf), described)
        if anomalies is not None:
            self._alarms.offer(np.where(readable & ~anomalies, scores, -np.inf), described)
            self._misses.offer(np.where(readable & anomalies, -scores, -np.inf), described)
        self._count(item)

    def _count(self, item: ScoredBatch) -> None:
        verdicts = item.verdicts
        if not self._names:
            self._names = verdicts.feature_names
            self._sums = np.zeros(len(self._names))
            self._leading = np.zeros(len(self._names), dtype=np.int64)
        parts = np.maximum(verdicts.contributions[verdicts.is_anomaly].astype(np.float64), 0.0)
        self.n_flagged += len(parts)
        if not len(parts):
            return
        totals = parts.sum(axis=1, keepdims=True)
        self._sums += np.divide(parts, totals, out=np.zeros_like(parts), where=totals > 0).sum(0)
        self._leading += np.bincount(parts.argmax(axis=1), minlength=len(self._names))

    def _described(
        self, item: ScoredBatch, anomalies: NDArray[np.bool_] | None, positions: list[int]
    ) -> list[NotableRow]:
        verdicts, frame = item.verdicts, item.batch.frame
        reasons = describe_rows(
            self._schema, item.rows, verdicts, top=_NAMED_COLUMNS, positions=positions
        )
        return [
            NotableRow(
                row=verdicts.first_row + i,
                identifier=_cell(frame, self._schema.id_column, i),
                score=float(verdicts.score[i]),
                p_value=float(verdicts.p_value[i]),
                is_flagged=bool(verdicts.is_anomaly[i]),
                is_anomaly=None if anomalies is None else bool(anomalies[i]),
                label=_cell(frame, self._label, i) or "",
                reason=reason,
            )
            for i, reason in zip(positions, reasons, strict=True)
        ]


class _Shortlist:
    """The rows with the largest keys; of equals, the earlier ones."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._kept: list[tuple[float, NotableRow]] = []

    @property
    def rows(self) -> tuple[NotableRow, ...]:
        return tuple(row for _, row in self._kept)

    def offer(
        self, keys: NDArray[np.float64], described: Callable[[list[int]], list[NotableRow]]
    ) -> None:
        """See the keys of a batch, [n]; -inf is never kept."""
        floor = self._kept[-1][0] if len(self._kept) == self._n else -np.inf
        best = np.argsort(-keys, kind="stable")[: self._n]
        positions = [int(i) for i in best if keys[i] > floor]
        if positions:
            found = zip(keys[positions].tolist(), described(positions), strict=True)
            merged = sorted([*self._kept, *found], key=lambda entry: -entry[0])
            self._kept = merged[: self._n]


def _cell(frame: pl.DataFrame, column: str | None, i: int) -> str | None:
    if column is None or column not in frame.columns:
        return None
    value = frame[column][i]
    text = "" if value is None else str(value).strip()
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS] + "…"
