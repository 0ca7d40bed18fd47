"""What a report keeps of single rows while a table streams past, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.calibration import is_extrapolated
from anomgan.false_discovery import LAMBDA, FdrMethod
from anomgan.serving.reasons import describe_rows
from anomgan.serving.scorer import ScoredBatch, Scorer
from anomgan.serving.spool import Spool
from anomgan.serving.verdicts import Verdicts

__all__ = ["ColumnShare", "NotableRow", "NotableRows", "Undecided"]

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
    ruling : float
        The p-value that its flag rests on.
    resolution : float
        Smallest p-value that the calibration rows count that it is judged by; 0 if not known.
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
    ruling: float
    resolution: float
    is_flagged: bool
    is_anomaly: bool | None
    label: str
    reason: str

    @property
    def is_extrapolated(self) -> bool:
        """Whether the p-value lies beyond what the calibration rows of its group count."""
        return bool(is_extrapolated(self.p_value, self.resolution))


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


class Undecided:
    """Contributions of the rows that false-discovery control may still flag, on disk.

    Parameters
    ----------
    spool : Spool
        Empty.
    rate : float
        False-discovery rate.
    method : "bh" or "storey"
    """

    def __init__(self, spool: Spool, rate: float, method: FdrMethod) -> None:
        self._spool = spool
        # Benjamini and Hochberg's bound is at most the rate, Storey's may be larger.
        highest = rate if method == "bh" else LAMBDA
        self._highest = np.nextafter(np.float32(highest), np.float32(1.0))

    def add(self, verdicts: Verdicts, ruling: NDArray[np.float32]) -> None:
        """Keep what may be needed of one batch, whose flags `ruling` [n] decides."""
        possible = ruling <= self._highest
        parts = verdicts.contributions[possible]
        columns = {str(j): parts[:, j] for j in range(parts.shape[1])}
        self._spool.write(pl.DataFrame(columns), ruling[possible])

    def flagged(self, cutoff: float) -> Iterator[NDArray[np.float32]]:
        """Yield the contributions of the rows that were decided at most `cutoff`, [n, d + 1]."""
        for frame, ruling in self._spool.frames():
            yield frame.filter(ruling <= pl.Series([cutoff], dtype=pl.Float32)).to_numpy()


class NotableRows:
    """Collects the highest scores, the mistakes, and what the flagged rows have in common.

    Parameters
    ----------
    scorer : Scorer
    label : str, optional
        Label column.
    undecided : Undecided, optional
        Where flags depend on all rows: keeps what is needed until `decide`.
    """

    def __init__(
        self, scorer: Scorer, *, label: str | None = None, undecided: Undecided | None = None
    ) -> None:
        self._scorer = scorer
        self._schema = scorer.schema
        self._label = label
        self._undecided = undecided
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

    def add(
        self,
        item: ScoredBatch,
        anomalies: NDArray[np.bool_] | None = None,
        *,
        ruling: NDArray[np.float32] | None = None,
    ) -> None:
        """See one batch.

        Parameters
        ----------
        item : ScoredBatch
        anomalies : bool array [n], optional
            By their labels, where there are labels.
        ruling : float32 array [n], optional
            The p-values that flags rest on where they depend on all rows; by default those of the
            verdicts.
        """
        ruling = item.verdicts.p_value if ruling is None else ruling
        scores = item.verdicts.score.astype(np.float64)
        readable = ~np.isnan(scores)

        def described(positions: list[int]) -> list[NotableRow]:
            return self._described(item, anomalies, ruling, positions)

        self._highest.offer(np.where(readable, scores, -np.inf), described)
        if anomalies is not None:
            self._alarms.offer(np.where(readable & ~anomalies, scores, -np.inf), described)
            self._misses.offer(np.where(readable & anomalies, -scores, -np.inf), described)
        self._count(item.verdicts, ruling)

    def _count(self, verdicts: Verdicts, ruling: NDArray[np.float32]) -> None:
        if not self._names:
            self._names = verdicts.feature_names
            self._sums = np.zeros(len(self._names))
            self._leading = np.zeros(len(self._names), dtype=np.int64)
        if self._undecided is not None:
            self._undecided.add(verdicts, ruling)
        else:
            self._count_flagged(verdicts.contributions[verdicts.is_anomaly])

    def decide(self, cutoff: float) -> None:
        """Take the rows whose deciding p-value is at most `cutoff` for the flagged ones."""
        if self._undecided is None:
            return
        for contributions in self._undecided.flagged(cutoff):
            self._count_flagged(contributions)
        limit = float(np.float32(cutoff))
        self._highest.change(lambda row: replace(row, is_flagged=row.ruling <= limit))

    def _count_flagged(self, contributions: NDArray[np.float32]) -> None:
        parts = np.maximum(contributions.astype(np.float64), 0.0)
        self.n_flagged += len(parts)
        if not len(parts):
            return
        totals = parts.sum(axis=1, keepdims=True)
        self._sums += np.divide(parts, totals, out=np.zeros_like(parts), where=totals > 0).sum(0)
        self._leading += np.bincount(parts.argmax(axis=1), minlength=len(self._names))

    def _described(
        self,
        item: ScoredBatch,
        anomalies: NDArray[np.bool_] | None,
        ruling: NDArray[np.float32],
        positions: list[int],
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
                ruling=float(ruling[i]),
                resolution=float(self._scorer.calibration_of(item.rows, i).get("resolution", 0.0)),
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

    def change(self, how: Callable[[NotableRow], NotableRow]) -> None:
        """Put another row in the place of each."""
        self._kept = [(key, how(row)) for key, row in self._kept]

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
