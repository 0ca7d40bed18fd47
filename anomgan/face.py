"""The scikit-learn face of every detector."""

from __future__ import annotations

import logging
import os
import time
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomgan.bundle import Bundle
from anomgan.detectors.base import Detector
from anomgan.errors import UsageError
from anomgan.fitting import FitControl, FittedModel, fit_rows
from anomgan.groups import GroupedCalibrator, group_options, row_p_values
from anomgan.persistence import load_fitted, save_fitted
from anomgan.presets import FlagshipParameters
from anomgan.tables import Rows, Schema, SchemaOptions, open_table
from anomgan.tables.readers import Batch

__all__ = ["BaseDetector", "table_rows"]

logger = logging.getLogger(__name__)


class BaseDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """What every detector does, whatever it learns: the scikit-learn face.

    Subclasses have a constructor that stores their parameters, and say what is fitted with them.
    The attributes are described in `anomgan.estimator.GANDetector`.
    """

    false_alarm_rate: float | None
    calibrate_by: str | None
    max_time: float | None
    device: str
    random_state: Any

    @abstractmethod
    def _parameters(self) -> FlagshipParameters | Detector:
        """Return what is fitted, its parameters checked."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what normal rows look like.

        Parameters
        ----------
        X : table or array [n, d]
            Normal rows: a pandas, polars or Arrow table with columns of any kind, or numbers.
            NaN is a missing cell.
        y : ignored

        Returns
        -------
        GANDetector
            The estimator itself.

        Raises
        ------
        InputError (a ValueError)
            The rows or the parameters cannot be used.
        """
        started = time.monotonic()
        schema, rows = self._learn_schema(X)
        self.fit_checked(schema, rows, FitControl(self.device, self.max_time, started))
        return self

    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """Score rows, float64 [n]; larger is more abnormal, never below 1, in nats."""
        return self._score(X).score.astype(np.float64)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return minus the anomaly score, float64 [n]: scikit-learn's polarity."""
        return -self.anomaly_score(X)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return `score_samples` minus the offset, float64 [n]: negative where flagged.

        The offset is `offset_`, or that of the row's group where there are groups: numbers of rows
        of different groups say nothing of each other, their signs and p-values do.
        """
        scored = self._score(X)
        return -scored.score.astype(np.float64) - self._offsets(scored)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for flagged rows and +1 for the others, int64 [n]."""
        return np.where(self.decision_function(X) < 0.0, -1, 1)

    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Return conformal p-values, float64 [n] in (0, 1]: small where rows do not belong."""
        scored = self._score(X)
        return row_p_values(self._fitted().calibrator, scored.score, scored.groups)

    def contributions(self, X: Any) -> NDArray[np.float32]:
        """Return shares of the score, float32 [n, n_columns + 1]; the last is the discriminator's.

        Columns stand in the order of `schema_.feature_names`; rows sum to the score.
        """
        fitted = self._fitted()
        return np.concatenate([fitted.score_rows(rows)[1] for rows in self._rows(X)])

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Bundle:
        """Export to ONNX, check the export, and write the model directory.

        Raises
        ------
        ExportError
            The exported graph disagrees with torch.
        ModelExistsError
            A model is there and `overwrite` is not set.
        """
        fitted = self._fitted()
        return save_fitted(fitted, path, overwrite=overwrite, source=self._source)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Rebuild a detector from a model directory.

        Raises
        ------
        ModelNotFoundError, ModelCorruptError
            Nothing there, or damaged.
        UsageError
            The model is another detector's.
        """
        fitted = load_fitted(path)
        if not cls._made(fitted):
            raise UsageError(
                f"{path} is a model of the detector {fitted.parameters.name!r}: load it with "
                f"anomgan.detector_class({fitted.parameters.name!r}).load"
            )
        stored = fitted.parameters.to_dict()
        if isinstance(fitted.parameters, Detector):  # what it knows of the table is no parameter
            stored = {name: stored[name] for name in fitted.parameters.names()}
        detector = cls(
            **stored,
            false_alarm_rate=fitted.calibrator.false_alarm_rate,
            calibrate_by=getattr(fitted.calibrator, "by", None),
            random_state=int(fitted.facts["seed"]),
        )
        detector._accept(fitted)
        detector.feature_names_in_ = np.asarray(fitted.schema.feature_names, dtype=object)
        detector.n_features_in_ = len(fitted.schema.feature_names)
        return detector

    @classmethod
    @abstractmethod
    def _made(cls, fitted: FittedModel) -> bool:
        """Tell whether a model is of this class."""

    _source = "<table>"

    def _learn_schema(self, X: Any) -> tuple[Schema, Rows]:
        if _is_table(X):
            with open_table(X) as reader:
                frame = pl.concat([batch.frame for batch in reader])
            options = SchemaOptions()
            if self.calibrate_by is not None:
                source = "<DataFrame>"
                options = group_options(frame, options, self.calibrate_by, source=source)
            schema = Schema.infer(frame, options, source="<DataFrame>")
            self.feature_names_in_ = np.asarray(frame.columns, dtype=object)
            self.n_features_in_ = frame.width
            return schema, table_rows(schema, frame, "<DataFrame>")
        if self.calibrate_by is not None:
            raise UsageError(
                f"calibrate_by={self.calibrate_by!r} names a column, and the columns of an array "
                "have no names: hand in a table, such as a DataFrame, or leave calibrate_by out"
            )
        X = self._numbers(X, reset=True)
        frame = _as_frame(X)
        options = SchemaOptions(numeric=tuple(frame.columns), detect_set_aside=False)
        schema = Schema.infer(frame, options, source="<array>")
        return schema, Rows(X, np.empty((len(X), 0), dtype=object), None, 1)

    def _numbers(self, X: Any, *, reset: bool) -> NDArray[np.float64]:
        array: NDArray[np.float64] = validate_data(
            self,
            X,
            reset=reset,
            dtype=np.float64,
            ensure_all_finite="allow-nan",
            ensure_min_samples=2 if reset else 1,
        )
        return array

    def fit_checked(self, schema: Schema, rows: Rows, control: FitControl) -> None:
        """Fit on rows that a schema has checked; what `fit` does after reading them."""
        fitted = fit_rows(
            schema,
            rows,
            self._parameters(),
            seed=_seed(self.random_state),
            false_alarm_rate=self.false_alarm_rate,
            control=control,
            calibrate_by=self.calibrate_by,
        )
        self._accept(fitted)
        for note in fitted.notes:
            logger.info(note)
        if fitted.health.verdict != "healthy":
            logger.warning("training: %s", fitted.health)

    def _accept(self, fitted: FittedModel) -> None:
        self.model_ = fitted
        self.schema_ = fitted.schema
        self.health_ = fitted.health
        calibrator = fitted.calibrator
        self.threshold_ = calibrator.threshold()
        self.offset_ = _offset(self.threshold_)
        groups = calibrator.groups if isinstance(calibrator, GroupedCalibrator) else {}
        self.group_thresholds_ = {name: own.threshold() for name, own in groups.items()}

    def _fitted(self) -> FittedModel:
        check_is_fitted(self, "model_")
        fitted: FittedModel = self.model_
        return fitted

    def _rows(self, X: Any) -> Iterator[Rows]:
        """Check rows against the schema, batch by batch; at least one batch."""
        fitted = self._fitted()
        if not _is_table(X):
            array = self._numbers(X, reset=False)
            _require_numbers(fitted.schema, array)
            yield Rows(array, np.empty((len(array), 0), dtype=object), None, 1)
            return
        with open_table(X) as reader:
            yield from (fitted.schema.rows(batch) for batch in reader)

    def _score(self, X: Any) -> _Scored:
        fitted = self._fitted()
        parts = [(fitted.scores(rows), fitted.groups(rows)) for rows in self._rows(X)]
        groups = [group for _, group in parts if group is not None]
        return _Scored(
            np.concatenate([scores for scores, _ in parts]),
            np.concatenate(groups) if groups else None,
        )

    def _offsets(self, scored: _Scored) -> NDArray[np.float64] | float:
        """Return what `score_samples` is compared with: one number, or one a row."""
        if scored.groups is None:
            return self.offset_
        own = {name: _offset(value) for name, value in self.group_thresholds_.items()}
        return np.array([own.get(name, self.offset_) for name in scored.groups], dtype=np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags


class _Scored(NamedTuple):
    """Score [n], and groups [n] where there are any."""

    score: NDArray[np.float32]
    groups: NDArray[Any] | None


def _offset(threshold: float) -> float:
    # A row at the very threshold is flagged, and scikit-learn flags below zero only.
    return -float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))


def _require_numbers(schema: Schema, array: NDArray[np.float64]) -> None:
    """Refuse an array for a model of a table, where it cannot say which column is which."""
    names = schema.numeric_names
    if schema.categorical_names or array.shape[1] != len(names):
        raise UsageError(
            f"an array of shape {list(array.shape)} does not say which column is which; this model "
            f"was fitted on a table and reads {len(schema.feature_names)} columns "
            f"({', '.join(schema.feature_names[:5])}"
            f"{', ...' if len(schema.feature_names) > 5 else ''}): hand in a DataFrame"
        )


def _is_table(X: Any) -> bool:
    # The columns of a lazy frame would have to be found out, which Polars warns of.
    known = isinstance(X, pl.LazyFrame) or hasattr(X, "__arrow_c_stream__")
    return known or hasattr(X, "columns")


def _as_frame(X: NDArray[np.float64]) -> pl.DataFrame:
    return pl.DataFrame({f"x{j}": X[:, j] for j in range(X.shape[1])})


def table_rows(schema: Schema, frame: pl.DataFrame, source: str) -> Rows:
    """Check a table against a schema."""
    return schema.rows(Batch(frame, 1, source))


def _seed(random_state: Any) -> int:
    """Return the seed behind a random_state; None draws a fresh one from the system."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, (int, np.integer)):
        if random_state < 0:
            raise UsageError(f"random_state is {random_state}, it must not be negative")
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
