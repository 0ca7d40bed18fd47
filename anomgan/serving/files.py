"""From a table to a file of scores, in constant memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
import polars as pl
from numpy.typing import NDArray

from anomgan import __version__
from anomgan.bundle import Bundle
from anomgan.errors import TableError, UsageError
from anomgan.false_discovery import FdrMethod, require_discovery_rate
from anomgan.serving.drift import DriftMonitor
from anomgan.serving.outputs import STANDARD_OUTPUT, AtomicFile
from anomgan.serving.partial import PartialFile, can_be_continued, discard_partial
from anomgan.serving.providers import make_session
from anomgan.serving.reasons import describe_rows
from anomgan.serving.scorer import SCORER_FILE, OnBadRow, ScoredBatch, Scorer
from anomgan.serving.spool import write_discoveries
from anomgan.serving.tally import ScoreSummary, Tally, TopRow
from anomgan.serving.writers import Format, open_writer, text_writer
from anomgan.tables.readers import Batch, TableReader

__all__ = ["ScoreSummary", "TopRow", "copy_scorer", "score_table", "write_scorer"]

_Frames = Callable[[int], Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]]
_OPTIONS: Final = (
    *("--format", "--false-alarm-rate", "--on-bad-row", "--keep-columns", "--top-features"),
    "drift",
)
_END_BYTES: Final = 1 << 16
_OWN = ("row", "score", "p_value", "is_anomaly", "reason")


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
    resume: bool = False,
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
    resume : bool
        Go on after the last rows that a killed process, or one stopped with `resume`, left of the
        same table, model and options: the output is the same, byte for byte. CSV and JSON lines in
        a file, of a table in a file; not with `false_discovery_rate` or `observe`.
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
        The output is the table itself; both rates are given; `resume` is not possible, or what is
        there is of something else; or as `Scorer.score`.
    KeyboardInterrupt
        With words on what was kept.
    """
    _require_other_file(reader.source, output)
    if top_features < 0:
        raise UsageError(f"--top-features must be 0 or more, got {top_features}")
    _require_one_rate(false_alarm_rate, false_discovery_rate, fdr_method, fdr_extrapolate)
    if false_discovery_rate is not None and not fdr_extrapolate:
        _require_resolution(scorer)
    monitor = DriftMonitor(scorer) if drift and scorer.profile is not None else None
    tally = Tally(scorer, monitor, fdr_extrapolate)
    wanted, fdr = top_features > 0 or on_bad_row == "skip", false_discovery_rate is not None
    reason = _why_not_continued(reader, output, fmt, scorer, fdr=fdr, watched=bool(observe))
    if resume and reason is not None:
        raise UsageError(f"--resume cannot continue this: {reason}; or leave --resume out")

    def frames(n_done: int = 0) -> Iterator[tuple[pl.DataFrame, NDArray[np.float32]]]:
        scored = scorer.stream_batches(
            _after(reader, n_done), false_alarm_rate=false_alarm_rate, on_bad_row=on_bad_row
        )
        for item in scored:
            texts = _reasons(scorer, item, top_features) if wanted else None
            ruling = tally.add(item)
            yield _table(scorer, item, texts, keep_columns=keep_columns), ruling
            if observe is not None:
                observe(item, ruling)
            if progress is not None:
                progress(tally.n_rows)

    if reason is None:
        options = (fmt, false_alarm_rate, on_bad_row, keep_columns, top_features, drift)
        identity = _identity(scorer, reader, dict(zip(_OPTIONS, options, strict=True)))
        with PartialFile(output, identity, resume=resume) as file:
            _continue(frames, file, fmt, tally)
        return tally.summary(output)
    discard_partial(output)
    with open_writer(output, fmt) as writer:
        if false_discovery_rate is None:
            for frame, _ in frames():
                writer.write(frame)
            return tally.summary(output)
        rate, method = false_discovery_rate, fdr_method or "bh"
        discoveries = write_discoveries(frames(), writer, fmt, rate, method=method)
    return tally.summary(output, discoveries)


def _continue(frames: _Frames, file: PartialFile, fmt: Format, tally: Tally) -> None:
    """Write the rows that are not in the file yet."""
    if file.state is not None:
        try:
            tally.restore(file.state)
        except (LookupError, TypeError, ValueError) as error:
            raise file.damaged(f"its journal cannot be used ({error})") from error
    writer = text_writer(file, fmt, begun=file.n_rows > 0)
    try:
        for frame, _ in frames(file.n_rows):
            writer.write(frame)
            file.commit_if_due(tally.n_rows, tally.state)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(file.kept()) from None


def _after(reader: TableReader, n_rows: int) -> Iterator[Batch]:
    """Read again and leave out the first rows: reading is many times faster than scoring."""
    for batch in reader:
        if batch.first_row > n_rows:
            yield batch


def _why_not_continued(
    reader: TableReader, output: str, fmt: Format, scorer: Scorer, *, fdr: bool, watched: bool
) -> str | None:
    """Say why an output cannot be continued after a kill; None where it can."""
    if not can_be_continued(output):
        return "the output is no file: name one with -o"
    if reader.path is None:
        return "the table is read again from its start, and this one is no file: save it to one"
    if fmt == "parquet":
        return "a Parquet file has its index at its end: use --format csv or jsonl"
    if fdr:
        return "--fdr decides on all rows together, when the last one has been scored"
    if watched:
        return "--report shows all rows, and those scored before are not kept for it"
    if not scorer.checksum:
        return "it is not known which file the scorer was read from: use Scorer.open"
    return None


def _identity(scorer: Scorer, reader: TableReader, options: dict[str, Any]) -> dict[str, Any]:
    """Return all that scores and their file follow from."""
    return {
        "table": {**_stamp(reader.path), "read_as": reader.read_as},
        "model": [scorer.checksum, scorer.calibration, scorer.profile is not None],
        "options": options | {"provider": scorer.provider},
        "made_by": [__version__, pl.__version__, ort.__version__],
    }


def _stamp(path: Path | None) -> dict[str, Any]:
    """Tell a file from another, and from itself after a change, without reading all of it."""
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256(file.read(_END_BYTES))
            file.seek(max(0, status.st_size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise TableError(f"{path} cannot be read: {error.strerror or error}") from error
    return {
        "bytes": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "ends": digest.hexdigest(),
    }


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
