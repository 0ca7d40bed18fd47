"""Scoring with onnxruntime: a model directory or a bare ``scorer.onnx`` in, verdicts out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnxruntime as ort
import polars as pl
from numpy.typing import NDArray

from anomgan.bundle import DEFAULT_MODEL, Bundle
from anomgan.errors import ModelCorruptError, ModelError, UsageError
from anomgan.groups import calibration_of, group_of, require_stated_rate, stated_groups
from anomgan.serving.interface import (
    OUTPUTS,
    read_calibration,
    read_metadata,
    read_model,
    read_profile,
    require_interface,
    stated_metadata,
)
from anomgan.serving.plain import plain_array, plain_row
from anomgan.serving.plain_graph import require_plain_graph
from anomgan.serving.providers import CPU, Providers, make_session, usable_threads
from anomgan.serving.sessions import ForkedSession
from anomgan.serving.single_row import SMALL_GRAPH, SingleRows
from anomgan.serving.streaming import ordered_map
from anomgan.serving.verdicts import Verdicts
from anomgan.tables.columns import ColumnKind
from anomgan.tables.profile import Profile
from anomgan.tables.readers import Batch, open_table
from anomgan.tables.schema import Rows

__all__ = ["ScoredBatch", "Scorer"]

SCORER_FILE: Final = "scorer.onnx"
PROBE_FILE: Final = "probe.npz"

_CHUNK: Final = 1024  # rows a call: the graph tiles inside, this only spreads them over threads
_SCORE_RTOL: Final = 1e-3  # another processor rounds differently, through K inversion steps
_P_VALUE_ATOL: Final = 0.02  # a score that moves past calibration scores moves in steps
_PROBE_ROWS_SHOWN: Final = 3

OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True)
class ScoredBatch:
    """One batch as read, as understood, and as judged."""

    batch: Batch
    rows: Rows
    verdicts: Verdicts


class Scorer:
    """A trained model, ready to score rows; it needs neither torch nor scikit-learn.

    Open one with `Scorer.open`. A row's score depends on that row and the model alone. An
    instance may be used from several threads.

    Attributes
    ----------
    schema : Schema
        The columns that rows must have.
    feature_names : tuple of str
        Names of the contributions, the last being the discriminator's.
    false_alarm_rate : float
        Default rate of decisions.
    provider : str
        onnxruntime provider in use, as read from the session, such as CPUExecutionProvider.
    provider_note : str
        Why the CPU is in use although "auto" was asked for; may be empty.
    metadata : dict of str to str
        The metadata of the graph.
    calibration : dict
        ``Calibrator.summary()`` where the model carries it, else empty; with groups where the
        model is calibrated by group.
    profile : Profile or None
        What the training rows look like, for `DriftMonitor`; None without a model directory, and
        for models of an earlier anomgan.
    threads : int
        Calls that `score` and `stream` make at once.
    checksum : str
        SHA-256 of the graph; empty where it was not read by `open`.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        *,
        source: str = SCORER_FILE,
        calibration: Mapping[str, Any] | None = None,
        profile: Profile | None = None,
        provider_note: str = "",
        threads: int = 1,
        checksum: str = "",
        reopen: Callable[[], ort.InferenceSession] | None = None,
        open_for_one: Callable[[], ort.InferenceSession] | None = None,
    ) -> None:
        self.checksum = checksum
        self._session = ForkedSession(session, reopen)
        self._source = source
        self.provider: str = session.get_providers()[0]
        self.provider_note = provider_note
        self.threads = threads
        self.metadata = stated_metadata(session, source)
        self.schema, self.feature_names, self.false_alarm_rate = read_metadata(
            self.metadata, source
        )
        # The first exporters knew one detector and did not name it.
        self.detector: str = self.metadata.get("anomgan.detector", "anomgan")
        summary = read_calibration(self.metadata, source)
        self.calibration: dict[str, Any] = dict(calibration or summary)
        self.profile = profile
        require_interface(session, self.schema, source)
        # Only where columns are numbers as they stand: no dates, no truth values.
        self._plain = all(column.kind is ColumnKind.NUMERIC for column in self.schema.columns)
        # For a single row, what is looked up again and again takes as long as the graph does.
        self._numeric_names = self.schema.numeric_names
        self._categorical_names = self.schema.categorical_names
        self._sound_rate: float | None = None
        self._fed_rate = (self.false_alarm_rate, _cell(self.false_alarm_rate))
        self._single = SingleRows.where_possible(
            self._session, self.schema, len(self.feature_names), open_for_one
        )

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        providers: Providers = "auto",
        threads: int | None = None,
        verify_probe: bool = True,
    ) -> Scorer:
        """Open a model directory, or a ``scorer.onnx`` on its own.

        Of a file on its own nothing tells whether it is whole and unaltered: there are no
        checksums and no probe rows. It is what it says, if it opens: standard operators and its
        own weights, inputs and outputs that fit its schema.

        Parameters
        ----------
        path : path-like
            Model directory (checksums are verified) or ONNX file.
        providers : "auto", "cpu", "cuda" or a sequence of onnxruntime provider names
            See `anomgan.serving.providers.make_session`.
        threads : int, optional
            Calls made at once; by default one for each processor that this process may use.
        verify_probe : bool, default=True
            Score the stored probe rows and compare, where `path` is a directory.

        Raises
        ------
        ModelNotFoundError, ModelCorruptError
            Nothing there; damaged; or scores on this machine differ from the stored ones.
        UsageError
            The provider cannot be used, or `threads` is below 1.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be at least 1, got {threads}")
        place = Path(path)
        bundle = None if os.path.isfile(place) else Bundle.open(place, verify=False)
        source = str(place if bundle is None else bundle.file(SCORER_FILE))
        model = read_model(place) if bundle is None else bundle.read(SCORER_FILE)
        require_plain_graph(model, source)
        session, note = make_session(model, providers=providers)

        def opened(rows: int | None = None) -> ort.InferenceSession:
            return make_session(model, providers="cpu", rows=rows)[0]

        scorer = cls(
            session,
            source=source,
            calibration=None if bundle is None else bundle.manifest.calibration,
            profile=None if bundle is None else read_profile(bundle),
            provider_note=note,
            threads=threads or usable_threads(),
            checksum=hashlib.sha256(model).hexdigest(),
            reopen=opened,
            open_for_one=partial(opened, 1) if len(model) <= SMALL_GRAPH else None,
        )
        if bundle is not None and verify_probe:
            scorer.verify_probe(bundle.arrays(PROBE_FILE))
        return scorer

    def score(
        self,
        rows: Any,
        *,
        false_alarm_rate: float | None = None,
        on_bad_row: OnBadRow = "error",
    ) -> Verdicts:
        """Score rows that are in memory.

        Parameters
        ----------
        rows : table, mapping, sequence of mappings, 2-D array, Batch or Rows
            A pandas, polars or Arrow table; one row as ``{column: value}``; several as a list
            of those or as ``{column: values}``; or an array [n, n_features] in the order of
            the schema, where all columns are numeric. Columns may come in any order, extra
            ones are ignored.
        false_alarm_rate : float, optional
            Rate to decide at, in place of the model's own.
        on_bad_row : "error" or "skip"
            What a cell that cannot be read does: raise, or leave its row without a score.

        Returns
        -------
        Verdicts
            One entry a row, in order.

        Raises
        ------
        SchemaError
            Columns are missing or cells cannot be read; all are named together.
        UsageError
            The rate cannot be kept, or `rows` is nothing that holds rows.
        """
        rate = self._rate(false_alarm_rate)
        if on_bad_row in ("error", "skip"):
            found = self._score_plain(rows, rate)
            if found is not None:
                return found
        parts = [self._judge(part, rate) for part in self._understand(rows, on_bad_row)]
        return Verdicts.joined(parts) if parts else self._nothing(rate)

    def stream(
        self,
        reader: Iterable[Batch],
        *,
        false_alarm_rate: float | None = None,
        on_bad_row: OnBadRow = "error",
    ) -> Iterator[tuple[Rows, Verdicts]]:
        """Score batch by batch, in order and in constant memory.

        Parameters
        ----------
        reader : TableReader or iterable of Batch
            From `anomgan.tables.readers.open_table`.
        false_alarm_rate, on_bad_row
            As in `score`.

        Yields
        ------
        (Rows, Verdicts)
        """
        scored = self.stream_batches(
            reader, false_alarm_rate=false_alarm_rate, on_bad_row=on_bad_row
        )
        for item in scored:
            yield item.rows, item.verdicts

    def stream_batches(
        self,
        reader: Iterable[Batch],
        *,
        false_alarm_rate: float | None = None,
        on_bad_row: OnBadRow = "error",
    ) -> Iterator[ScoredBatch]:
        """Score as `stream`, and keep each batch as it was read beside its verdicts."""
        rate = self._rate(false_alarm_rate)

        def work(batch: Batch) -> ScoredBatch:
            rows = self.schema.rows(batch, on_bad_row=on_bad_row)
            return ScoredBatch(batch, rows, self._run(rows, rate))

        yield from ordered_map(work, reader, threads=self.threads)

    def calibration_of(self, rows: Rows, i: int) -> Mapping[str, Any]:
        """Return `calibration` as it holds for the row at position i: that of its group, if any."""
        return calibration_of(self.calibration, self.schema, rows, i)

    def group_of(self, rows: Rows, i: int) -> str | None:
        """Return the group that the row at position i is judged in; None: by all rows."""
        return group_of(self.calibration, self.schema, rows, i)

    def resolutions(self, rows: Rows) -> NDArray[np.float64]:
        """Smallest p-values that the rows' own calibrations count, [n]; 0 where not known."""
        pooled, n = float(self.calibration.get("resolution", 0.0)), len(rows.numeric)
        by, names = self.calibration.get("by"), self.schema.categorical_names
        groups = stated_groups(self.calibration)
        if not groups or by not in names:
            return np.full(n, pooled)
        own = {name: float(group["resolution"]) for name, group in groups.items()}
        cells = rows.categorical[:, names.index(by)]
        return np.fromiter((own.get(cell, pooled) for cell in cells), np.float64, n)

    def verify_probe(self, probe: Mapping[str, NDArray[Any]]) -> None:
        """Score the stored probe rows and compare with the stored outputs.

        Parameters
        ----------
        probe : mapping
            Arrays `score` and `p_value` [n], and `numeric` and `categorical` where the schema
            has such columns.

        Raises
        ------
        ModelCorruptError
            The arrays are not of this model, or the scores differ by more than rounding.
        """
        try:
            score = np.asarray(probe["score"], dtype=np.float64)
            p_value = np.asarray(probe["p_value"], dtype=np.float64)
            rows = self._rows_of_probe(probe, len(score))
            found = self._run(rows, self.false_alarm_rate)
        except (KeyError, ValueError, TypeError, ModelError) as error:
            raise ModelCorruptError(
                f"the probe rows beside {self._source} are not of this model: {error}"
            ) from error
        if not score.size or not score.shape == p_value.shape == found.score.shape:
            raise ModelCorruptError(
                f"the probe rows beside {self._source} are not of this model: {len(found)} rows "
                f"with {score.size} scores and {p_value.size} p-values"
            )
        slack = _SCORE_RTOL * (np.abs(score) + np.median(np.abs(score)))
        wrong = ~(np.abs(found.score - score) <= slack)
        wrong |= ~(np.abs(found.p_value - p_value) <= _P_VALUE_ATOL)
        if wrong.any():
            where = np.flatnonzero(wrong)
            shown = "; ".join(
                f"row {i + 1}: {found.score[i]:.6g} instead of {score[i]:.6g}"
                for i in where[:_PROBE_ROWS_SHOWN]
            )
            raise ModelCorruptError(
                f"{len(where)} of {len(score)} probe rows do not score here (onnxruntime "
                f"{ort.__version__}, {self.provider}) as when {self._source} was exported "
                f"({shown}); export the model again, or use the provider cpu"
            )

    def _rows_of_probe(self, probe: Mapping[str, NDArray[Any]], n: int) -> Rows:
        numeric = probe.get("numeric", np.empty((n, 0)))
        categorical = probe.get("categorical", np.empty((n, 0), dtype=np.str_))
        return self._checked(
            Rows(
                numeric=np.asarray(numeric, dtype=np.float64),
                categorical=np.asarray(categorical).astype(object),
                ids=None,
                first_row=1,
                faults={},
                extra_columns=(),
            )
        )

    def _rate(self, asked: float | None) -> float:
        rate = self.false_alarm_rate if asked is None else float(asked)
        if rate != self._sound_rate:
            require_stated_rate(self.calibration, rate)
            self._sound_rate = rate
        return rate

    def _understand(self, rows: Any, on_bad_row: OnBadRow) -> Iterator[Rows]:
        """Turn whatever holds rows into checked Rows."""
        if isinstance(rows, Rows):
            yield self._checked(rows)
            return
        if isinstance(rows, Batch):
            yield self.schema.rows(rows, on_bad_row=on_bad_row)
            return
        for batch in open_table(self._as_table(rows), on_bad_row=on_bad_row):
            yield self.schema.rows(batch, on_bad_row=on_bad_row)

    def _score_plain(self, rows: Any, rate: float) -> Verdicts | None:
        """Score few rows of plain numbers; None: anything else."""
        if isinstance(rows, Rows):
            if self._single is None or len(rows.numeric) != 1 or rows.faults:
                return None
            return self._score_row(self._checked(rows).numeric[0], rate, rows.first_row)
        if not self._plain:
            return None
        # Not of a class derived from it: masked cells are missing, not plain numbers.
        if type(rows) is np.ndarray:
            numeric = plain_array(rows, len(self._numeric_names), _CHUNK)
            if numeric is not None and len(numeric) > 1:
                return self._feed({"numeric": numeric}, rate, 1)
            return None if numeric is None else self._score_row(numeric[0], rate, 1)
        row = plain_row(rows, self._numeric_names) if isinstance(rows, Mapping) else None
        return None if row is None else self._score_row(row, rate, 1)

    def _score_row(
        self, row: Sequence[float] | NDArray[np.float64], rate: float, first_row: int
    ) -> Verdicts:
        single = self._single
        if single is None:
            return self._feed({"numeric": np.array([row], dtype=np.float64)}, rate, first_row)
        return self._judged(lambda: single.run(row, rate), rate, first_row)

    def _as_table(self, rows: Any) -> Any:
        if isinstance(rows, str | os.PathLike):
            raise UsageError(
                f"score() takes rows in memory; for the file {os.fspath(rows)} use "
                "stream(open_table(path)), or `anomgan score` on the command line"
            )
        if isinstance(rows, np.ndarray):
            return self._array_table(rows)
        if isinstance(rows, Mapping):
            columns = any(isinstance(v, Sized) and not isinstance(v, str) for v in rows.values())
            return rows if columns else [rows]
        if isinstance(rows, Sequence) and len(rows) == 0:
            return pl.DataFrame({name: [] for name in self.schema.feature_names})
        return rows

    def _array_table(self, rows: NDArray[Any]) -> pl.DataFrame:
        names = self.schema.feature_names
        if self.schema.categorical_names or rows.ndim != 2 or rows.shape[1] != len(names):
            raise UsageError(
                f"an array of shape {list(rows.shape)} does not say which column is which; this "
                f"model needs {len(names)} columns ({', '.join(names[:5])}"
                f"{', ...' if len(names) > 5 else ''}): hand in a DataFrame"
            )
        if isinstance(rows, np.matrix):  # two dimensions however it is cut: Polars cuts for ever
            rows = rows.A
        return pl.DataFrame(rows, schema=list(names))

    def _checked(self, rows: Rows) -> Rows:
        n = len(rows.numeric)
        expected = ((n, len(self._numeric_names)), (n, len(self._categorical_names)))
        found = (rows.numeric.shape, rows.categorical.shape)
        if found != expected:
            raise UsageError(
                f"rows of shapes {list(found[0])} numeric and {list(found[1])} categorical do not "
                f"fit this model, which needs {list(expected[0])} and {list(expected[1])}; make "
                "them with its schema"
            )
        return rows

    def _judge(self, rows: Rows, rate: float) -> Verdicts:
        """Score one block of rows, spread over the threads where it is worth it."""
        n = len(rows.numeric)
        if self.threads <= 1 or n <= _CHUNK or self.provider != CPU:
            return self._run(rows, rate)
        starts = range(0, n, _CHUNK)
        parts = ordered_map(
            lambda start: self._call(rows, rate, slice(start, start + _CHUNK)),
            starts,
            threads=min(self.threads, len(starts)),
        )
        return Verdicts.joined(list(parts)).without(sorted(rows.faults))

    def _run(self, rows: Rows, rate: float) -> Verdicts:
        return self._call(rows, rate, slice(None)).without(sorted(rows.faults))

    def _call(self, rows: Rows, rate: float, part: slice) -> Verdicts:
        """Call the graph on some of the rows."""
        numeric, categorical = rows.numeric[part], rows.categorical[part]
        first_row = rows.first_row + (part.start or 0)
        if len(numeric) == 0:
            return self._nothing(rate, first_row)
        feed: dict[str, Any] = {}
        if self._numeric_names:
            feed["numeric"] = np.ascontiguousarray(numeric, dtype=np.float64)
        if self._categorical_names:
            feed["categorical"] = np.ascontiguousarray(categorical)
        return self._feed(feed, rate, first_row)

    def _feed(self, feed: dict[str, Any], rate: float, first_row: int) -> Verdicts:
        """Run the graph on rows that it takes as they are."""
        known, cell = self._fed_rate
        feed["false_alarm_rate"] = cell if rate == known else _cell(rate)
        return self._judged(lambda: self._session.run(OUTPUTS, feed), rate, first_row)

    def _judged(
        self, call: Callable[[], list[NDArray[Any]]], rate: float, first_row: int
    ) -> Verdicts:
        """Make verdicts of what a call of the graph gives."""
        try:
            score, p_value, flags, contributions = call()
        except ModelError:
            raise
        except Exception as error:  # onnxruntime raises classes of its own that share no base
            reason = (str(error).splitlines() or [""])[0]
            raise ModelError(f"{self._source} failed on {self.provider}: {reason}") from error
        return Verdicts(score, p_value, flags, contributions, self.feature_names, rate, first_row)

    def _nothing(self, rate: float, first_row: int = 1) -> Verdicts:
        return Verdicts(
            score=np.empty(0, np.float32),
            p_value=np.empty(0, np.float32),
            is_anomaly=np.empty(0, np.bool_),
            contributions=np.empty((0, len(self.feature_names)), np.float32),
            feature_names=self.feature_names,
            false_alarm_rate=rate,
            first_row=first_row,
        )


def _cell(number: float) -> NDArray[np.float32]:
    return np.array(number, dtype=np.float32)
