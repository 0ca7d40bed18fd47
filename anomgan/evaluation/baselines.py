"""Detectors by name behind one face: anomgan, scikit-learn's and, where installed, PyOD's.

Every detector is `fit` on normal rows and gives `score`, larger for more abnormal rows, and
`p_values` of scores. The baselines see standardised numbers with gaps filled by the median, and
one-hot texts (`Preparation`); anomgan sees the rows as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import OneClassSVM

from anomgan.calibration import Calibrator
from anomgan.errors import UsageError
from anomgan.groups import row_p_values
from anomgan.presets import DETECTOR_NAMES
from anomgan.tables import Schema, open_table
from anomgan.tables.readers import Batch

if TYPE_CHECKING:
    from anomgan.fitting import FittedModel
    from anomgan.serving.scorer import Scorer

__all__ = [
    "DEFAULT_METHODS",
    "METHODS",
    "Baseline",
    "Detector",
    "OwnDetector",
    "Preparation",
    "detectors",
    "fit_numbers",
]

Numbers = NDArray[np.float64]
Exported = Literal["", "exported", "fast", "fp16"]
Fitted = Callable[[Numbers], Numbers]  # rows [n, d] to scores [n]
Fitter = Callable[[Numbers, int], Fitted]  # training rows and a seed to a fitted scorer

_HELD_OUT_SHARE = 0.25  # of the training rows, for a baseline's p-values; what ours holds out
_PYOD_EXTRA = "pyod"


class Detector(Protocol):
    """What a benchmark runs."""

    def fit(self, X: Any) -> Self:
        """Learn from normal rows."""

    def score(self, X: Any) -> Numbers:
        """Score rows, float64 [n], larger for more abnormal ones."""

    def p_values(self, scores: Numbers) -> Numbers:
        """Return p-values of scores under normal rows, float64 [n]; NaN where there are none."""


class Preparation:
    """Standardised numbers with median-filled gaps, and one-hot texts, learnt from training rows.

    A table is read through its `Schema`, as anomgan reads it: identifiers, constants and free text
    are set aside, dates are numbers, a missing text is a category, an unseen one all zeros.
    An array is numbers. Numbers that are constant in training are only centred.
    """

    def fit(self, X: Any) -> Self:
        """Learn medians, means, spreads and categories of training rows.

        Raises
        ------
        InputError
            The rows cannot be read as a table of numbers, texts and dates.
        """
        frame = _frame(X)
        self._schema = None if frame is None else Schema.infer(frame, source="<training rows>")
        numbers, texts = self._read(X)
        gaps = np.isnan(numbers)
        filled = np.where(gaps.all(axis=0), 0.0, numbers)  # nanmedian warns of empty columns
        self._median = np.nanmedian(filled, axis=0) if numbers.shape[1] else np.zeros(0)
        filled = np.where(gaps, self._median, numbers)
        self._mean, scale = filled.mean(axis=0), filled.std(axis=0)
        self._scale = np.where(scale == 0.0, 1.0, scale)
        self._encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        if texts.shape[1]:
            self._encoder.fit(texts)
        return self

    def transform(self, X: Any) -> Numbers:
        """Return rows as numbers, float64 [n, n_numeric + n_categories]."""
        numbers, texts = self._read(X)
        scaled: Numbers = (
            np.where(np.isnan(numbers), self._median, numbers) - self._mean
        ) / self._scale
        if not texts.shape[1]:
            return scaled
        return np.hstack([scaled, self._encoder.transform(texts)])

    def _read(self, X: Any) -> tuple[Numbers, NDArray[np.object_]]:
        frame = _frame(X)
        if self._schema is None or frame is None:
            numbers = np.asarray(X, dtype=np.float64)
            return numbers, np.empty((len(numbers), 0), dtype=object)
        rows = self._schema.rows(Batch(frame, 1, "<rows>"))
        return rows.numeric, rows.categorical


def _frame(X: Any) -> pl.DataFrame | None:
    """Return a table as a frame; None for an array."""
    if not hasattr(X, "columns"):
        return None
    with open_table(X) as reader:
        return pl.concat([batch.frame for batch in reader])


class Baseline:
    """A method of others on prepared rows.

    Parameters
    ----------
    fitter : callable
        Takes prepared training rows, float64 [n, d], and a seed; gives a function from rows to
        scores.
    seed : int
        Seed of the method, and of the rows held out for p-values.
    calibrated : bool, default=True
        Whether there are p-values, which cost a second fit.
    """

    def __init__(self, fitter: Fitter, seed: int, *, calibrated: bool = True) -> None:
        self._fitter = fitter
        self._seed = seed
        self._calibrated = calibrated

    def fit(self, X: Any) -> Self:
        """Learn from normal rows, all of them."""
        self._preparation = Preparation().fit(X)
        self._known = self._preparation.transform(X)
        self._fitted = self._fitter(self._known, self._seed)
        return self

    def score(self, X: Any) -> Numbers:
        """Score rows, float64 [n], larger for more abnormal ones."""
        return self._fitted(self._preparation.transform(X))

    def p_values(self, scores: Numbers) -> Numbers:
        """Return conformal p-values, float64 [n].

        They are calibrated on a quarter of the training rows that a second fit, on the others,
        has not seen; it is made here, so that `fit` costs what the method costs. All are NaN where
        that second fit is not wanted.
        """
        if not self._calibrated:
            return np.full(len(scores), np.nan)
        order = np.random.default_rng(self._seed).permutation(len(self._known))
        n_held_out = max(1, int(_HELD_OUT_SHARE * len(order)))
        held_out, rest = self._known[order[:n_held_out]], self._known[order[n_held_out:]]
        return _calibrator(self._fitter(rest, self._seed)(held_out)).p_values(scores)


def _calibrator(scores: Numbers) -> Calibrator:
    """Calibrate; the rate of its own decision is not used, and must only be possible.

    Others' scores may lie close together far from 0, and one runtime makes them all: no slack.
    """
    return Calibrator.fit(scores, false_alarm_rate=0.5, slack=0.0)


@dataclass
class OwnDetector:
    """A detector of ours behind the same face.

    Parameters
    ----------
    seed : int
        Its `random_state`.
    name : str
        Of `anomgan.presets.DETECTOR_NAMES`.
    parameters : mapping
        Its other parameters.
    exported : str
        Score by an exported graph in onnxruntime, as users do, instead of by torch: ``"exported"``
        by the full one, ``"fast"`` by the one that `anomgan export --fast` makes, ``"fp16"`` by
        that of `anomgan export --precision fp16`, rounded as a GPU does it; the export is then part
        of the fit.
    """

    seed: int
    name: str = DETECTOR_NAMES[0]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    exported: Exported = ""

    def __post_init__(self) -> None:
        from anomgan.estimator import detector_class  # here: to load torch is no part of a fit

        self._detector = detector_class(self.name)(**self.parameters, random_state=self.seed)

    def fit(self, X: Any) -> Self:
        """Learn from normal rows; calibration rows are held out inside."""
        self._detector.fit(X)
        self._scorer = _exported(self._detector.model_, self.exported) if self.exported else None
        return self

    def score(self, X: Any) -> Numbers:
        """Score rows, float64 [n]."""
        if self._scorer is not None:
            verdicts = self._scorer.score(X)
            found = verdicts.score.astype(np.float64)
            # Equal scores have equal p-values: kept by score, as the caller may repeat rows.
            known, first = np.unique(found, return_index=True)
            self._told = known, verdicts.p_value.astype(np.float64)[first]
            return found
        scores: Numbers = self._detector.anomaly_score(X)
        return scores

    def p_values(self, scores: Numbers) -> Numbers:
        """Return the model's own p-values of its scores, float64 [n]; the fast one has its own."""
        if self.exported == "fast":
            known, p_values = self._told
            return p_values[np.searchsorted(known, scores)]
        calibrator = self._detector.model_.calibrator
        return row_p_values(calibrator, scores.astype(np.float32), None)


def _exported(fitted: FittedModel, kind: Exported) -> Scorer:
    """Open the graph that a model is exported as, one call at a time."""
    from anomgan.export.parity import open_rounded
    from anomgan.persistence import export_fast, export_half, export_scorer
    from anomgan.serving.providers import make_session
    from anomgan.serving.scorer import Scorer

    if kind == "fp16":
        session = open_rounded(export_half(fitted, created_at="now")[0])
    else:
        export = export_fast if kind == "fast" else export_scorer
        session, _ = make_session(export(fitted, created_at="now")[0], providers="cpu")
    return Scorer(session, source="the exported graph", threads=1)


def _neighbours(known: Numbers, seed: int, *, k: int, pick: Callable[[Numbers], Numbers]) -> Fitted:
    index = NearestNeighbors(n_neighbors=min(k, len(known))).fit(known)
    return lambda rows: pick(index.kneighbors(rows)[0])


def _mean(distances: Numbers) -> Numbers:
    mean: Numbers = distances.mean(axis=1)
    return mean


def _largest(distances: Numbers) -> Numbers:
    return distances[:, -1]


def _lof(known: Numbers, seed: int) -> Fitted:
    factor = LocalOutlierFactor(n_neighbors=min(20, len(known) - 1), novelty=True).fit(known)
    return lambda rows: -factor.score_samples(rows)


def _forest(known: Numbers, seed: int) -> Fitted:
    forest = IsolationForest(random_state=seed).fit(known)
    return lambda rows: -forest.score_samples(rows)


def _support_vectors(known: Numbers, seed: int) -> Fitted:
    machine = OneClassSVM().fit(known)
    return lambda rows: -machine.score_samples(rows)


def _pyod(known: Numbers, seed: int, *, module: str, name: str) -> Fitted:
    """Fit a PyOD detector as shipped; those that take a seed or the number of columns get it."""
    import inspect

    with redirect_stdout(StringIO()):  # some print every epoch
        kind = getattr(importlib.import_module(f"pyod.models.{module}"), name)
        offered = {"random_state": seed, "n_features": known.shape[1]}
        taken = inspect.signature(kind).parameters
        detector = kind(**{key: value for key, value in offered.items() if key in taken}).fit(known)
    return lambda rows: np.asarray(detector.decision_function(rows), dtype=np.float64)


_FITTERS: dict[str, Fitter] = {
    "knn1": partial(_neighbours, k=1, pick=_largest),
    "knn5mean": partial(_neighbours, k=5, pick=_mean),
    "knn5max": partial(_neighbours, k=5, pick=_largest),
    "lof": _lof,
    "iforest": _forest,
    "ocsvm": _support_vectors,
    **{
        f"pyod-{module}": partial(_pyod, module=module, name=name)
        for module, name in (
            ("anogan", "AnoGAN"),
            ("alad", "ALAD"),
            ("so_gaal", "SO_GAAL"),
            ("mo_gaal", "MO_GAAL"),
            ("deep_svdd", "DeepSVDD"),
            ("lunar", "LUNAR"),
        )
    },
}

METHODS: tuple[str, ...] = (*DETECTOR_NAMES, *_FITTERS)
"""Every method by name; those that begin with `pyod-` need the extra `pyod`."""

DEFAULT_METHODS: tuple[str, ...] = ("anomgan", "knn1", "knn5mean", "lof", "iforest", "ocsvm")
"""What is compared where no methods are named."""


def fit_numbers(name: str, known: Numbers, seed: int) -> Fitted:
    """Fit a baseline to rows that are numbers already.

    Parameters
    ----------
    name : str
        Of `METHODS`, our own excepted.
    known : float64 [n, d]
        Scaled rows of normal operation, without gaps.
    seed : int

    Returns
    -------
    callable
        Rows, float64 [m, d], to scores, float64 [m], larger for more abnormal rows.
    """
    return _FITTERS[name](known, seed)


def detectors(
    names: Sequence[str],
    parameters: Mapping[str, Any] | None = None,
    *,
    exported: Exported = "",
    calibrated: bool = True,
) -> dict[str, Callable[[int], Detector]]:
    """Return what makes each named detector from a seed, by the label that results carry.

    Parameters
    ----------
    names : sequence of str
        Of `METHODS`.
    parameters : mapping, optional
        Parameters of our detectors among them. They become part of the label, as
        ``anomgan(n_steps=20)``, so that runs with other parameters are other runs.
    exported : str
        Whether ours score by their exported graphs, ``"exported"``, ``"fast"`` or ``"fp16"``. That
        is part of the label too, as ``anomgan(exported)``.
    calibrated : bool
        Whether others' methods, which have no p-values of their own, get some by a second fit.

    Raises
    ------
    UsageError
        A method or a parameter is unknown, PyOD is asked for and not installed, or parameters or
        exported graphs are asked for without a detector of ours.
    """
    faults = [
        f"unknown method {name!r}; the methods are {', '.join(METHODS)}"
        for name in names
        if name not in METHODS
    ]
    missing = [name for name in names if name.startswith("pyod-") and name in METHODS]
    if missing and find_spec("pyod") is None:
        faults.append(
            f"{', '.join(missing)} needs PyOD, which is not installed: "
            f"pip install 'anomgan[{_PYOD_EXTRA}]'"
        )
    faults += _parameter_faults(names, parameters or {})
    if exported and not set(names) & set(DETECTOR_NAMES):
        faults.append("exported graphs are asked for, but no detector of ours is compared")
    if faults:
        raise UsageError("\n".join(faults), faults)
    made: dict[str, Callable[[int], Detector]] = {}
    for name in names:
        if name in DETECTOR_NAMES:
            own = dict(parameters or {})
            made[_label(name, own, exported=exported)] = partial(
                OwnDetector, name=name, parameters=own, exported=exported
            )
        else:
            made[name] = partial(Baseline, _FITTERS[name], calibrated=calibrated)
    return made


def _label(name: str, parameters: Mapping[str, Any], *, exported: Exported) -> str:
    shown = [f"{key}={value}" for key, value in sorted(parameters.items())]
    shown += [exported] if exported else []
    return f"{name}({';'.join(shown)})" if shown else name


def _parameter_faults(names: Sequence[str], parameters: Mapping[str, Any]) -> list[str]:
    own = [name for name in names if name in DETECTOR_NAMES]
    if not parameters:
        return []
    if not own:
        return [
            f"parameters are given ({', '.join(parameters)}), but no detector of ours is compared"
        ]
    from anomgan.estimator import detector_class

    faults = []
    for detector in own:
        # Scores alone do not tell groups, and a benchmark is about the scores.
        known = set(detector_class(detector)().get_params()) - {"random_state", "calibrate_by"}
        faults += [
            f"{detector} has no parameter {name!r} to set; there are {', '.join(sorted(known))}"
            for name in parameters
            if name not in known
        ]
    return faults
