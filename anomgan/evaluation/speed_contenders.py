"""Who is timed: our model in onnxruntime and in torch, and what a user would pick instead.

All learn from the same rows. The baselines get numbers that are scaled already, which is in their
favour: ours scale raw rows themselves.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from onnxruntime import InferenceSession

from anomgan.distillation import N_STEPS
from anomgan.estimator import GANDetector
from anomgan.evaluation.baselines import Preparation, fit_numbers
from anomgan.evaluation.speed import HALF_ON_CUDA, ON_CUDA, OURS
from anomgan.face import table_rows
from anomgan.learning import FitControl
from anomgan.persistence import export_fast, export_half
from anomgan.serving import Scorer
from anomgan.serving.providers import cuda_unusable_reason, make_session
from anomgan.tables import Schema, SchemaOptions
from anomgan.tables.schema import Rows

__all__ = [
    "BASELINES",
    "DATA",
    "FAST",
    "PYOD",
    "TORCH",
    "Model",
    "OwnFit",
    "fit_own",
    "make_model",
    "pyod_is_installed",
    "scoring_calls",
    "synthetic_rows",
]

Numbers = NDArray[np.float64]

FAST: Final = "anomgan --fast onnxruntime CPU"
TORCH: Final = "anomgan torch CPU"
BASELINES: Final = {"IsolationForest(100)": "iforest", "kNN(5)": "knn5mean"}
PYOD: Final = {"PyOD AnoGAN": "pyod-anogan", "PyOD ALAD": "pyod-alad"}
DATA: Final = "synthetic correlated rows"
_FACTORS = 8
_NOISE = 0.3


def synthetic_rows(n: int, columns: int, seed: int) -> Numbers:
    """Draw correlated rows [n, columns] of one fixed distribution: 8 factors and noise."""
    loadings = np.random.default_rng(columns).normal(size=(min(_FACTORS, columns), columns))
    rng = np.random.default_rng([seed, n, columns])
    factors = rng.normal(size=(n, len(loadings)))
    rows: Numbers = factors @ loadings + _NOISE * rng.normal(size=(n, columns))
    return rows


@dataclass(frozen=True)
class OwnFit:
    """A fit of ours.

    Attributes
    ----------
    detector : GANDetector
    seconds : float
        Of the whole fit.
    step_s : float
        Seconds a training step.
    """

    detector: GANDetector
    seconds: float
    step_s: float


def fit_own(rows: Numbers, steps: int | None, *, device: str = "cpu") -> OwnFit:
    """Fit our detector to rows [n, d] with its defaults, but for the number of steps.

    Parameters
    ----------
    rows : float64 [n, d]
    steps : int, optional
        Training steps; by default the preset's.
    device : str
        See `FitControl`.
    """
    named = {} if steps is None else {"n_steps": steps}
    detector = GANDetector(random_state=0, device=device, **named)  # type: ignore[arg-type]
    frame = _frame(rows)
    reports: list[tuple[int, float]] = []

    def progress(step: int, total: int, facts: Any) -> None:
        reports.append((step, time.perf_counter()))

    started = time.perf_counter()
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    control = FitControl(device, progress=progress)
    detector.fit_checked(schema, table_rows(schema, frame, DATA), control)
    seconds = time.perf_counter() - started
    (first, began), (last, ended) = reports[0], reports[-1]
    # A training of a moment reports once: then a step has its share of everything.
    step_s = (ended - began) / (last - first) if last > first else seconds / max(1, last)
    return OwnFit(detector, seconds, step_s)


def _frame(rows: Numbers) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=[f"x{i}" for i in range(rows.shape[1])])


@dataclass(frozen=True)
class Model:
    """Everything that was fitted to the same rows.

    Attributes
    ----------
    training : float64 [n, d]
    own : OwnFit
    folder : Path
        Our model directory.
    scorer : Scorer
    fast : Path
        What `export --fast` makes of our model.
    fast_scorer : Scorer
    preparation : Preparation
        Scales rows for the baselines.
    baselines : dict of str to callable
        Scaled rows to scores.
    baseline_s : dict of str to float
        Seconds of their fits.
    """

    training: Numbers
    own: OwnFit
    folder: Path
    scorer: Scorer
    fast: Path
    fast_scorer: Scorer
    preparation: Preparation
    baselines: dict[str, Callable[[Numbers], Numbers]]
    baseline_s: dict[str, float]

    @property
    def graph(self) -> bytes:
        """The exported scorer."""
        return (self.folder / "scorer.onnx").read_bytes()

    @cached_property
    def cuda_sessions(self) -> dict[str, InferenceSession]:
        """The exported scorers on CUDA, by contender; none where that does not work."""
        if cuda_unusable_reason() is not None:
            return {}
        half = export_half(self.own.detector.model_, created_at="now")[0]
        graphs = {ON_CUDA: self.graph, HALF_ON_CUDA: half}
        return {name: make_session(graph, providers="cuda")[0] for name, graph in graphs.items()}


def make_model(
    training_rows: int, columns: int, steps: int | None, threads: int, folder: Path
) -> Model:
    """Fit everything to synthetic rows, and save our model in a new directory in `folder`."""
    training = synthetic_rows(training_rows, columns, seed=0)
    own = fit_own(training, steps)
    place = folder / f"model-{columns}-{training_rows}"
    own.detector.save(place, overwrite=True)
    preparation = Preparation().fit(training)
    known = preparation.transform(training)
    baselines, seconds = {}, {}
    for label, name in BASELINES.items():
        started = time.perf_counter()
        baselines[label] = fit_numbers(name, known, 0)
        seconds[label] = time.perf_counter() - started
    fast = folder / f"{place.name}.fast.onnx"
    n_steps = N_STEPS if steps is None else min(steps, N_STEPS)
    fast.write_bytes(export_fast(own.detector.model_, created_at="now", n_steps=n_steps)[0])
    scorers = [Scorer.open(path, providers="cpu", threads=threads) for path in (place, fast)]
    return Model(
        training, own, place, scorers[0], fast, scorers[1], preparation, baselines, seconds
    )


def scoring_calls(model: Model, rows: Numbers) -> dict[str, Callable[[], object]]:
    """Return a call of every contender that scores raw rows [n, d]; ours on CUDA where it works.

    The frozen score of torch is computed on the CPU, wherever it was trained.
    """
    checked = Rows(rows, np.empty((len(rows), 0), dtype=object), None, 1)
    scaled = model.preparation.transform(rows)
    fitted = model.own.detector.model_
    calls: dict[str, Callable[[], object]] = {
        OURS: partial(model.scorer.score, checked),
        FAST: partial(model.fast_scorer.score, checked),
        TORCH: partial(fitted.score_rows, checked),
    }
    for name, score in model.baselines.items():
        calls[name] = partial(score, scaled)
    for name, session in model.cuda_sessions.items():
        calls[name] = partial(session.run, None, {"numeric": rows})
    return calls


def pyod_is_installed() -> bool:
    """Whether the extra `pyod` is there."""
    return find_spec("pyod") is not None
