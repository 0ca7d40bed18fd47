"""What is counted while a table is scored, and the summary of it."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.false_discovery import Discoveries, counted_part
from anomgan.serving.cautions import PValueEnds
from anomgan.serving.drift import DriftMonitor, DriftReport
from anomgan.serving.reasons import describe_rows
from anomgan.serving.scorer import ScoredBatch, Scorer

__all__ = ["ScoreSummary", "Tally", "TopRow"]

_TOP_ROWS = 5
_TOP_FEATURES = 3


@dataclass(frozen=True, order=True)
class TopRow:
    """One of the most abnormal rows."""

    score: float
    row: int
    identifier: str | None
    p_value: float
    reason: str
    resolution: float = 0.0  # smallest p-value that its calibration rows count; 0 if not known


@dataclass(frozen=True)
class ScoreSummary:
    """What `score_table` did.

    Parameters
    ----------
    n_rows, n_anomalies, n_unreadable : int
        Rows in all; flagged; left without a score.
    false_alarm_rate : float
        The rate that rows were flagged at, unless `discoveries` says otherwise.
    seconds : float
        Wall time of reading, scoring and writing.
    provider : str
        onnxruntime provider that was in use.
    output : str
        Where the scores are.
    extra_columns : tuple of str
        Columns of the table that the model does not know.
    top : tuple of TopRow
        The most abnormal rows, flagged or not, the highest score first.
    faults : tuple of str
        Which the first rows without a score are, and why they have none.
    discoveries : Discoveries or None
        How rows were flagged, where a false-discovery rate was asked for.
    calibration_rows_needed : int or None
        Calibration rows, at least, with which the rows at the smallest p-value could have been
        flagged; only where none was because those of the model cannot give a smaller one.
    cautions : tuple of str
        Sentences on where `discoveries` rest on too few calibration rows.
    drift : DriftReport or None
        How the rows as a whole differ from those of training; None where that was not asked for,
        or the model holds no profile.
    continued_after : int
        Rows that an earlier process had scored, of an output that was continued.
    """

    n_rows: int
    n_anomalies: int
    n_unreadable: int
    false_alarm_rate: float
    seconds: float
    provider: str
    output: str
    extra_columns: tuple[str, ...]
    top: tuple[TopRow, ...]
    faults: tuple[str, ...]
    discoveries: Discoveries | None = None
    calibration_rows_needed: int | None = None
    cautions: tuple[str, ...] = ()
    drift: DriftReport | None = None
    continued_after: int = 0


class Tally:
    """Counts over the batches, and the most abnormal rows so far.

    Parameters
    ----------
    scorer : Scorer
    monitor : DriftMonitor or None
    extrapolate : bool
        Whether a decision over all rows may rest on extrapolated p-values.
    """

    def __init__(self, scorer: Scorer, monitor: DriftMonitor | None, extrapolate: bool) -> None:
        self._scorer = scorer
        self._extrapolate = extrapolate
        self._monitor = monitor
        self._ends = PValueEnds(scorer)
        self._began = time.perf_counter()
        self._rate = scorer.false_alarm_rate
        self._extra: tuple[str, ...] = ()
        self._top: list[TopRow] = []
        self._faults: list[str] = []
        self.n_rows = self._n_before = 0
        self._n_anomalies = 0
        self._n_unreadable = 0

    def add(self, item: ScoredBatch) -> NDArray[np.float32]:
        """Count a batch; return the p-values [n] that a decision over all rows may rest on."""
        verdicts = item.verdicts
        self._rate = verdicts.false_alarm_rate
        self._extra = self._extra or item.rows.extra_columns
        self.n_rows += len(verdicts)
        self._n_anomalies += int(verdicts.is_anomaly.sum())
        self._n_unreadable += len(item.rows.faults)
        room = _TOP_ROWS - len(self._faults)
        faults = item.rows.faults
        self._faults += [f"{item.batch.place(i)}, {faults[i]}" for i in sorted(faults)[:room]]
        self._keep_top(item)
        if self._monitor is not None:
            self._monitor.update(item.rows, verdicts)
        ruling = verdicts.p_value
        if not self._extrapolate:
            ruling = counted_part(ruling, self._scorer.resolutions(item.rows))
        self._ends.add(item.rows, ruling)
        return ruling

    def _keep_top(self, item: ScoredBatch) -> None:
        scores = np.nan_to_num(item.verdicts.score, nan=-np.inf)
        floor = self._top[0].score if len(self._top) == _TOP_ROWS else -np.inf
        candidates = np.argsort(-scores, kind="stable")[:_TOP_ROWS]
        positions = [int(i) for i in candidates if scores[i] > floor]
        texts = describe_rows(
            *(self._scorer.schema, item.rows, item.verdicts),
            top=_TOP_FEATURES,
            positions=positions,
        )
        identifiers = self._identifiers(item)
        for i, text in zip(positions, texts, strict=True):
            name = None if identifiers is None else str(identifiers[i])
            p_value = float(item.verdicts.p_value[i])
            counted = float(self._scorer.calibration_of(item.rows, i).get("resolution", 0.0))
            place = item.verdicts.first_row + i
            row = TopRow(float(scores[i]), place, name, p_value, text, counted)
            if len(self._top) < _TOP_ROWS:
                heapq.heappush(self._top, row)
            else:
                heapq.heappushpop(self._top, row)

    def _identifiers(self, item: ScoredBatch) -> Any:
        name = self._scorer.schema.id_column
        return item.batch.frame[name] if name in item.batch.frame.columns else None

    def state(self) -> dict[str, Any]:
        """Return all counts, JSON-ready; those of a decision over all rows are not among them."""
        return {
            "rate": self._rate,
            "extra": list(self._extra),
            "top": [astuple(row) for row in self._top],
            "faults": self._faults,
            "n_rows": self.n_rows,
            "n_anomalies": self._n_anomalies,
            "n_unreadable": self._n_unreadable,
            "drift": None if self._monitor is None else self._monitor.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on counting from what `state` gave.

        Raises
        ------
        LookupError, TypeError, ValueError
            It is no such state.
        """
        self._rate = float(state["rate"])
        self._extra = tuple(map(str, state["extra"]))
        self._top = [TopRow(*entry) for entry in state["top"]]
        self._faults = [str(text) for text in state["faults"]]
        self.n_rows = self._n_before = int(state["n_rows"])
        self._n_anomalies = int(state["n_anomalies"])
        self._n_unreadable = int(state["n_unreadable"])
        if self._monitor is not None:
            self._monitor.restore(state["drift"])

    def summary(self, output: str, discoveries: Discoveries | None = None) -> ScoreSummary:
        """Return what was counted."""
        n_anomalies, needed, cautions = self._n_anomalies, None, tuple[str, ...]()
        if discoveries is not None:
            n_anomalies = discoveries.n_flagged
            needed = self._ends.rows_needed(discoveries)
            cautions = self._ends.cautions(discoveries)
        return ScoreSummary(
            n_rows=self.n_rows,
            n_anomalies=n_anomalies,
            n_unreadable=self._n_unreadable,
            false_alarm_rate=self._rate,
            seconds=time.perf_counter() - self._began,
            provider=self._scorer.provider,
            output=output,
            extra_columns=self._extra,
            top=tuple(sorted(self._top, key=lambda r: (-r.score, r.row))),
            faults=tuple(self._faults),
            discoveries=discoveries,
            calibration_rows_needed=needed,
            cautions=cautions,
            drift=None if self._monitor is None else self._monitor.report(),
            continued_after=self._n_before,
        )
