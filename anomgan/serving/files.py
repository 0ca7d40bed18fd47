"""From a table to a file of scores, in constant memory."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.bundle import Bundle
from anomgan.errors import UsageError
from anomgan.false_discovery import (
    Discoveries,
    FdrMethod,
    counted_part,
    require_discovery_rate,
)
from anomgan.serving.cautions import PValueEnds
from anomgan.serving.drift import DriftMonitor, DriftReport
from anomgan.serving.outputs import STANDARD_OUTPUT, AtomicFile
from anomgan.serving.providers import make_session
from anomgan.serving.reasons import describe_rows
from anomgan.serving.scorer import SCORER_FILE, OnBadRow, ScoredBatch, Scorer
from anomgan.serving.spool import write_discoveries
from anomgan.serving.writers import Format, open_writer
from anomgan.tables.readers import TableReader

__all__ = ["ScoreSummary", "TopRow", "copy_scorer", "score_table", "write_scorer"]

_TOP_ROWS = 5
_TOP_FEATURES = 3
_OWN = ("row", "score", "p_value", "is_anomaly", "reason")


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


def score_table(
    scorer: Scorer,
    reader: TableReader,
    output: str,
    *,
    fmt: Format = "csv",
    false_alarm_rate: float | None = None,
    false_discovery_rate: float | None = None,
    fdr_method: FdrMethod | None = None,
    fdr_extrapolate: bool = False,
    on_bad_row: OnBadRow = "error",
    keep_columns: bool = False,
    top_features: int = 0,
    drift: bool = True,
    progress: Callable[[int], None] | None = None,
    observe: Callable[[ScoredBatch, NDArray[np.float32]], None] | None = None,
) -> ScoreSummary:
    """Score a table into a file.

    Columns: ``row`` (1-based), the identifier where the table has it, ``score``, ``p_value``,
    ``is_anomaly``; ``reason`` with `top_features` or with ``on_bad_row="skip"``; then the
    table's own with `keep_columns`, named ``input_...`` where they would clash.

    Parameters
    ----------
    scorer : Scorer
    reader : TableReader
    output : str
        A file, which appears whole or not at all, or ``-`` for standard output.
    fmt : "csv", "parquet" or "jsonl"
    false_alarm_rate, on_bad_row
        As in `Scorer.score`.
    false_discovery_rate : float, optional
        Decide over all readable rows of the table so that at most this share of the flagged ones
        is expected to be normal, instead of by a false-alarm rate. The output is then written
        after the last row has been scored; until then rows wait in temporary files.
    fdr_method : "bh" or "storey", optional
        As `method` in `anomgan.calibration.benjamini_hochberg`; "bh" by default.
    fdr_extrapolate : bool
        Decide by the extrapolated p-values too. Otherwise a row that scores above all calibration
        rows has, for this decision, the smallest p-value that these count.
    keep_columns : bool
        Copy the columns of the table.
    top_features : int
        Contributions to name.
    drift : bool
        Compare the rows as a whole with those of training, where the model holds their profile.
    progress : callable, optional
        Called with the rows done after each batch.
    observe : callable, optional
        Called with each batch as scored, in order, and the p-values [n] that its flags rest on:
        for what a report keeps of single rows. With `false_discovery_rate` the flags of the batch
        are not the final ones.

    Raises
    ------
    SchemaError, TableError
        The table does not fit the model, or cannot be read.
    OutputError
        The output cannot be written.
    UsageError
        The output is the table itself; both rates are given; or as `Scorer.score`.
    """
    _require_other_file(reader.source, output)
    if top_features < 0:
        raise UsageError(f"--top-features must be 0 or more, got {top_features}")
    _require_one_rate(false_alarm_rate, false_discovery_rate, fdr_method, fdr_extrapolate)
    if false_discovery_rate is not None and not fdr_extrapolate:
        _require_resolution(scorer)
    monitor = DriftMonitor(scorer) if drift and scorer.profile is not None else None
    tally = _Tally(scorer, monitor, fdr_extrapolate)
    wanted = top_features > 0 or on_bad_row == "skip"

    def frames() -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        scored = scorer.stream_batches(
            reader, false_alarm_rate=false_alarm_rate, on_bad_row=on_bad_row
        )
        for item in scored:
            texts = _reasons(scorer, item, top_features) if wanted else None
            ruling = tally.add(item)
            yield _table(scorer, item, texts, keep_columns=keep_columns), ruling
            if observe is not None:
                observe(item, ruling)
            if progress is not None:
                progress(tally.n_rows)

    with open_writer(output, fmt) as writer:
        if false_discovery_rate is None:
            for frame, _ in frames():
                writer.write(frame)
            return tally.summary(output)
        rate, method = false_discovery_rate, fdr_method or "bh"
        discoveries = write_discoveries(frames(), writer, fmt, rate, method=method)
    return tally.summary(output, discoveries)


def _require_one_rate(
    false_alarm_rate: float | None,
    discovery_rate: float | None,
    method: str | None,
    extrapolate: bool,
) -> None:
    if discovery_rate is None:
        if extrapolate:
            raise UsageError(
                "--fdr-extrapolate says what a false-discovery rate may rest on, and none is "
                "given; add --fdr, such as --fdr 0.1"
            )
        if method is not None:
            raise UsageError(
                f"--fdr-method {method} says how to keep a false-discovery rate, and none is "
                "given; add --fdr, such as --fdr 0.1"
            )
        return
    if false_alarm_rate is not None:
        raise UsageError(
            f"--false-alarm-rate {false_alarm_rate:g} and --fdr {discovery_rate:g} are two rules "
            "for the same flags; choose one: the first bounds the share of normal rows that are "
            "flagged, the second the share of flagged rows that are normal"
        )
    require_discovery_rate(discovery_rate, method or "bh")


def _require_resolution(scorer: Scorer) -> None:
    if "resolution" not in scorer.calibration:
        raise UsageError(
            "the model does not say how many calibration rows it has, so that counted p-values "
            "cannot be told from extrapolated ones; add --fdr-extrapolate to decide by both, or "
            "use --false-alarm-rate"
        )


def _reasons(scorer: Scorer, item: ScoredBatch, top: int) -> list[str | None]:
    texts = describe_rows(scorer.schema, item.rows, item.verdicts, top=top)
    return [text or None for text in texts]


def _table(
    scorer: Scorer, item: ScoredBatch, reasons: list[str | None] | None, *, keep_columns: bool
) -> pl.DataFrame:
    """Columns of the output for one batch."""
    own = item.verdicts.to_frame()
    columns = [own["row"]]
    raw = item.batch.frame
    identifier = scorer.schema.id_column
    if identifier in raw.columns:
        columns.append(_renamed(raw[identifier], raw.columns))
    columns += [own["score"], own["p_value"], own["is_anomaly"]]
    if reasons is not None:
        columns.append(pl.Series("reason", reasons, dtype=pl.String))
    if keep_columns:
        kept = [name for name in raw.columns if name != identifier]
        columns += [_renamed(raw[name], raw.columns) for name in kept]
    return pl.DataFrame(columns)


def _renamed(column: pl.Series, others: Sequence[str]) -> pl.Series:
    """Give a column of the table that has the name of one of ours a name that none has."""
    if column.name not in _OWN:
        return column
    name = f"input_{column.name}"
    while name in others:
        name = f"input_{name}"
    return column.alias(name)


def _require_other_file(source: str, output: str) -> None:
    both = output != STANDARD_OUTPUT and os.path.exists(source) and os.path.exists(output)
    if both and os.path.samefile(source, output):
        raise UsageError(f"{output} is the table itself; name another output with -o")


class _Tally:
    """Counts over the batches, and the most abnormal rows so far."""

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
        self.n_rows = 0
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

    def summary(self, output: str, discoveries: Discoveries | None = None) -> ScoreSummary:
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
        )


def copy_scorer(model: str | os.PathLike[str], output: str) -> Scorer:
    """Copy ``scorer.onnx`` out of a model, after scoring the stored probe rows with it.

    Parameters
    ----------
    model : path-like
        Model directory.
    output : str
        A file, which appears whole or not at all, or ``-`` for standard output.

    Returns
    -------
    Scorer
        The opened scorer, which says what it needs and gives.

    Raises
    ------
    ModelError
        The model cannot be used.
    OutputError
        The file cannot be written.
    """
    bundle = Bundle.open(model)
    scorer = Scorer.open(model, providers="cpu")
    _write(bundle.read(SCORER_FILE), output)
    return scorer


def write_scorer(graph: bytes, output: str) -> Scorer:
    """Write a scoring graph, after opening it; see `copy_scorer`."""
    session, note = make_session(graph, providers="cpu")
    scorer = Scorer(session, source=output, provider_note=note)
    _write(graph, output)
    return scorer


def _write(graph: bytes, output: str) -> None:
    with AtomicFile(output) as file:
        file.write(graph)
