"""The scikit-learn face of the flagship, and `fit_table`, what the command line calls."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomgan.bundle import Bundle, checkpoint_path, require_free
from anomgan.errors import UsageError
from anomgan.fitting import FitControl, FittedModel, fit_rows
from anomgan.groups import GroupedCalibrator, group_options, row_p_values
from anomgan.persistence import load_fitted, save_fitted
from anomgan.presets import DEFAULT, FlagshipParameters
from anomgan.tables import Rows, Schema, SchemaOptions, open_table
from anomgan.tables.readers import Batch
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Progress

__all__ = ["GANDetector", "fit_table"]

logger = logging.getLogger(__name__)


class GANDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Find rows that do not belong, with an ensemble of GANs trained on normal rows only.

    Parameters
    ----------
    n_members, n_steps, batch_rows, learning_rate, latent_dim, generator_width, \
discriminator_width, objective, adversarial_weight, gradient_penalty, reconstruction_weight, \
cycle_weight, ema_share, inversion_steps, memory_size, discriminator_bound, inversion_share, \
max_calibration_rows
        See `anomgan.presets.FlagshipParameters`.
    calibration : str
        "split": a fifth of the rows (up to a quarter of few) is held out of the training and
        calibrates. "cross": all rows train and calibrate, each by the one of `n_members` networks
        (5, where left open) that never saw it. This is for a few hundred rows or fewer: the rate
        then varies less from sample to sample and smaller rates can be counted, but it holds
        approximately, and training takes n_members / 2 times as long.
    false_alarm_rate : float or None
        Share of normal rows that `predict` may flag, in (0, 1). None: 0.01, or the smallest
        rate that the calibration rows can resolve where they are few.
    calibrate_by : str or None
        Column of a table, read as categories: the rate then holds within each of its groups that
        has held-out rows enough. All other rows are judged by the scores of all held-out rows,
        and keep the rate as far as they score like these.
    max_time : float or None
        Seconds within which `fit` should end; training is cut short if need be.
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda" or a torch device.
    random_state : int, RandomState or None
        Source of everything random. The same int gives the same model, bit for bit on CPU.

    Attributes
    ----------
    model_ : FittedModel
        Everything learnt.
    schema_ : Schema
        The columns as read.
    health_ : Health
        Verdict on the training, made without labels.
    threshold_ : float
        Smallest anomaly score that is flagged. With `calibrate_by`: in rows of no group of
        `group_thresholds_`.
    group_thresholds_ : dict of str to float
        The same by group; empty without `calibrate_by`.
    offset_ : float
        ``decision_function = score_samples - offset_``, in rows that `threshold_` is for; in a row
        of a group, that of the group's threshold takes its place.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where `fit` was given a table with names.

    Notes
    -----
    Our own names rise with abnormality (`anomaly_score`); scikit-learn's keep its meaning
    (`score_samples` falls). The score is defined in `anomgan.scoring.frozen`.

    Examples
    --------
    >>> import numpy as np
    >>> from anomgan import GANDetector
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> detector = GANDetector(n_steps=50, random_state=0).fit(X)
    >>> detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]).tolist()
    [1, -1]
    """

    def __init__(
        self,
        *,
        n_members: int | None = DEFAULT.n_members,
        n_steps: int = DEFAULT.n_steps,
        batch_rows: int = DEFAULT.batch_rows,
        learning_rate: float = DEFAULT.learning_rate,
        latent_dim: int | None = DEFAULT.latent_dim,
        generator_width: int = DEFAULT.generator_width,
        discriminator_width: int = DEFAULT.discriminator_width,
        objective: str = DEFAULT.objective,
        adversarial_weight: float = DEFAULT.adversarial_weight,
        gradient_penalty: float = DEFAULT.gradient_penalty,
        reconstruction_weight: float = DEFAULT.reconstruction_weight,
        cycle_weight: float = DEFAULT.cycle_weight,
        ema_share: float = DEFAULT.ema_share,
        inversion_steps: int = DEFAULT.inversion_steps,
        memory_size: int = DEFAULT.memory_size,
        discriminator_bound: float = DEFAULT.discriminator_bound,
        inversion_share: float = DEFAULT.inversion_share,
        max_calibration_rows: int = DEFAULT.max_calibration_rows,
        calibration: str = DEFAULT.calibration,
        false_alarm_rate: float | None = None,
        calibrate_by: str | None = None,
        max_time: float | None = None,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.n_members = n_members
        self.n_steps = n_steps
        self.batch_rows = batch_rows
        self.learning_rate = learning_rate
        self.latent_dim = latent_dim
        self.generator_width = generator_width
        self.discriminator_width = discriminator_width
        self.objective = objective
        self.adversarial_weight = adversarial_weight
        self.gradient_penalty = gradient_penalty
        self.reconstruction_weight = reconstruction_weight
        self.cycle_weight = cycle_weight
        self.ema_share = ema_share
        self.inversion_steps = inversion_steps
        self.memory_size = memory_size
        self.discriminator_bound = discriminator_bound
        self.inversion_share = inversion_share
        self.max_calibration_rows = max_calibration_rows
        self.calibration = calibration
        self.false_alarm_rate = false_alarm_rate
        self.calibrate_by = calibrate_by
        self.max_time = max_time
        self.device = device
        self.random_state = random_state

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
        self._fit_rows(schema, rows, FitControl(self.device, self.max_time, started))
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
        """
        fitted = load_fitted(path)
        detector = cls(
            **fitted.parameters.to_dict(),
            false_alarm_rate=fitted.calibrator.false_alarm_rate,
            calibrate_by=getattr(fitted.calibrator, "by", None),
            random_state=int(fitted.facts["seed"]),
        )
        detector._accept(fitted)
        detector.feature_names_in_ = np.asarray(fitted.schema.feature_names, dtype=object)
        detector.n_features_in_ = len(fitted.schema.feature_names)
        return detector

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
            return schema, _rows(schema, frame, "<DataFrame>")
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

    def _fit_rows(self, schema: Schema, rows: Rows, control: FitControl) -> None:
        parameters = FlagshipParameters(**{k: getattr(self, k) for k in FlagshipParameters.names()})
        fitted = fit_rows(
            schema,
            rows,
            parameters,
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


def fit_table(
    frame: pl.DataFrame,
    *,
    options: SchemaOptions,
    parameters: Mapping[str, Any],
    source: str,
    output: str | os.PathLike[str],
    overwrite: bool = False,
    progress: Progress | None = None,
    resume: bool = False,
    max_time: float | None = None,
) -> Bundle:
    """Fit on a table, export, check and save: what ``anomgan fit`` does.

    SIGINT and SIGTERM stop the training within a step; a checkpoint beside `output` lets
    `resume` go on, to the same model as an uninterrupted fit.

    Parameters
    ----------
    frame : polars.DataFrame
        Raw rows of normal operation, as `anomgan.tables.read_table` gives them.
    options : SchemaOptions
    parameters : mapping
        Arguments of `GANDetector`.
    source : str
        Name of the table, for messages and the manifest.
    output : path-like
        The model directory to write.
    overwrite : bool
        Replace a model that is there.
    progress : callable, optional
        See `anomgan.training.loop.Progress`.
    resume : bool
        Go on from the checkpoint, where there is one for the same rows and parameters.
    max_time : float, optional
        Seconds for everything.

    Raises
    ------
    InputError, ModelError, OutputError
        Before anything is trained, where possible.
    TrainingInterrupted
        Stopped by a signal.
    """
    started = time.monotonic()
    unknown = sorted(set(parameters) - set(GANDetector().get_params()))
    if unknown:
        raise UsageError(
            f"unknown parameter {', '.join(map(repr, unknown))}; the parameters are "
            f"{', '.join(sorted(GANDetector().get_params()))}"
        )
    require_free(output, overwrite=overwrite)
    detector = GANDetector(**parameters)
    if detector.calibrate_by is not None:
        options = group_options(frame, options, detector.calibrate_by, source=source)
    schema = Schema.infer(frame, options, source=source)
    checkpoint_file = checkpoint_path(output)
    made: list[Checkpointer] = []

    def checkpoint(fingerprint: str) -> Checkpointer:
        made.append(Checkpointer(checkpoint_file, fingerprint=fingerprint, resume=resume))
        return made[0]

    with _stop_on_signal() as stop:
        control = FitControl(
            device=detector.device,
            max_time_s=max_time,
            started=started,
            progress=progress,
            stop_requested=stop.is_set,
            checkpoint=checkpoint,
        )
        detector._fit_rows(schema, _rows(schema, frame, source), control)
    bundle = save_fitted(detector.model_, output, overwrite=overwrite, source=source)
    for checkpointer in made:
        checkpointer.discard()
    return bundle


@contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """Turn SIGINT and SIGTERM into an event; a second one is taken as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    former = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


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


def _rows(schema: Schema, frame: pl.DataFrame, source: str) -> Rows:
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
