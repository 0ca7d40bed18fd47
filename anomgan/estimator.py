"""The flagship as a scikit-learn estimator, and `fit_table`, what the command line calls."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from anomgan.bundle import Bundle, checkpoint_path, require_free
from anomgan.errors import TrainingInterrupted, UsageError
from anomgan.face import BaseDetector, table_rows
from anomgan.fitting import FitControl, FittedModel
from anomgan.groups import group_options
from anomgan.literature import FACES
from anomgan.locks import sole_writer
from anomgan.persistence import save_fitted
from anomgan.presets import DEFAULT, FlagshipParameters
from anomgan.replacement import clear_leftovers
from anomgan.stopping import how_to_go_on, stop_on_signal
from anomgan.tables import Schema, SchemaOptions
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.loop import Progress

__all__ = ["GANDetector", "detector_class", "fit_table"]


class GANDetector(BaseDetector):
    """Find rows that do not belong, with an ensemble of GANs trained on normal rows only.

    Parameters
    ----------
    n_members, n_steps, batch_rows, learning_rate, latent_dim, generator_width, \
discriminator_width, objective, adversarial_weight, gradient_penalty, reconstruction_weight, \
cycle_weight, ema_share, inversion_steps, memory_size, discriminator_bound, inversion_share, \
max_calibration_rows
        See `anomgan.presets.FlagshipParameters`.
    discriminator_steps : int
        k, updates of the discriminator at each step, beside one of the generator (Goodfellow et
        al., 2014, algorithm 1). Its penalties are updated as often.
    discriminator_rate : float
        The discriminator's learning rate over the generator's: two time scales (Heusel et al.,
        2017, section 2).
    unrolled_steps : int
        Steps of the critic, 0 to 10, that the generator looks ahead: it learns from what the
        critic would answer (Metz et al., 2017, section 2.2). Each costs about a forward and a
        backward pass.
    instance_noise : float
        Deviation, in standardised units, of Gaussian noise on the critic's rows, real and
        generated; it falls linearly to 0 at the end of the training (Sonderby et al., 2017;
        Arjovsky & Bottou, 2017). Rows that are graded keep the noise that they are graded by.
    label_smoothing : float
        The critic's target for real rows is 1 less this, in [0, 1); that for generated rows stays
        0 (Salimans et al., 2016, section 3.4). For `objective` "minimax", "non-saturating" and
        "least-squares", which have targets; an error with any other.
    feature_matching : float
        Weight of the squared distance between the mean activations of the discriminator's last
        hidden layer on real and on generated rows, in the generator's loss (Salimans et al., 2016,
        section 3.1). The activations are today's, also with `unrolled_steps`.
    initialisation : str
        Initial weights of all networks: "he" (He et al., 2015), "xavier" (Glorot & Bengio, 2010),
        "orthogonal" (Saxe et al., 2014) or "normal" (Radford et al., 2016).
    spectral_norm : bool
        Divides the discriminator's matrices by their largest singular values (Miyato et al., 2018):
        the critic's slope is then 1 at most. The last layer's outputs that grade noise are left
        free. The score is given the divided matrices: it and its graph know nothing of this.
    bfloat16 : bool
        Whether all layers of the discriminator but the first multiply in bfloat16 while it is
        trained, on a processor that has units for such products (AMX, or AVX-512 with BF16), which
        is faster. On others, and in scores, nothing is rounded.
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

    From `discriminator_steps` to `spectral_norm` the parameters steady the adversarial game in ways
    of the literature. By default all are off: the default objective with its penalties needs none.
    Minibatch discrimination (`anomgan.nets.minibatch`) and attention over columns
    (`anomgan.nets.attention`) are pieces for detectors of one's own and no parameters here: what
    the score reads is a plain perceptron of one row.

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
        discriminator_steps: int = DEFAULT.discriminator_steps,
        discriminator_rate: float = DEFAULT.discriminator_rate,
        unrolled_steps: int = DEFAULT.unrolled_steps,
        instance_noise: float = DEFAULT.instance_noise,
        label_smoothing: float = DEFAULT.label_smoothing,
        feature_matching: float = DEFAULT.feature_matching,
        initialisation: str = DEFAULT.initialisation,
        spectral_norm: bool = DEFAULT.spectral_norm,
        bfloat16: bool = DEFAULT.bfloat16,
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
        self.n_members, self.n_steps = n_members, n_steps
        self.batch_rows, self.learning_rate = batch_rows, learning_rate
        self.latent_dim = latent_dim
        self.generator_width, self.discriminator_width = generator_width, discriminator_width
        self.objective = objective
        self.adversarial_weight, self.gradient_penalty = adversarial_weight, gradient_penalty
        self.reconstruction_weight, self.cycle_weight = reconstruction_weight, cycle_weight
        self.discriminator_steps, self.discriminator_rate = discriminator_steps, discriminator_rate
        self.unrolled_steps = unrolled_steps
        self.instance_noise, self.label_smoothing = instance_noise, label_smoothing
        self.feature_matching, self.bfloat16 = feature_matching, bfloat16
        self.initialisation, self.spectral_norm = initialisation, spectral_norm
        self.ema_share = ema_share
        self.inversion_steps, self.inversion_share = inversion_steps, inversion_share
        self.memory_size, self.discriminator_bound = memory_size, discriminator_bound
        self.max_calibration_rows, self.calibration = max_calibration_rows, calibration
        self.false_alarm_rate, self.calibrate_by = false_alarm_rate, calibrate_by
        self.max_time, self.device, self.random_state = max_time, device, random_state

    def _parameters(self) -> FlagshipParameters:
        return FlagshipParameters(**{k: getattr(self, k) for k in FlagshipParameters.names()})

    @classmethod
    def _made(cls, fitted: FittedModel) -> bool:
        return isinstance(fitted.parameters, FlagshipParameters)


def detector_class(name: str) -> type[BaseDetector]:
    """Return the estimator class of a detector, by the name that `fit --detector` takes.

    Raises
    ------
    UsageError
        There is no such detector.
    """
    known: dict[str, type[BaseDetector]] = {FlagshipParameters.name: GANDetector, **FACES}
    if name not in known:
        raise UsageError(f"there is no detector {name!r}: choose one of {', '.join(known)}")
    return known[name]


def fit_table(
    frame: pl.DataFrame,
    *,
    detector: str = FlagshipParameters.name,
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

    SIGINT and SIGTERM stop the training after its step, and whatever else runs within a second; a
    checkpoint beside `output` lets `resume` go on, to the same model as an uninterrupted fit. One
    process at a time fits to a place.

    Parameters
    ----------
    frame : polars.DataFrame
        Raw rows of normal operation, as `anomgan.tables.read_table` gives them.
    detector : str
        See `detector_class`.
    options : SchemaOptions
    parameters : mapping
        Arguments of the detector's class.
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
        Before anything is trained, where possible; also where another process is fitting there.
    TrainingInterrupted
        Stopped by a signal.
    """
    started = time.monotonic()
    estimator = _made(detector, parameters)
    target = Path(os.path.realpath(output))
    keeper = _Keeper(output, resume=resume)
    with sole_writer(target, shown=os.fspath(output)):
        clear_leftovers(target)
        require_free(output, overwrite=overwrite)
        before = _identity(target)
        try:
            with stop_on_signal(keeper.how_to_go_on) as stop:
                control = FitControl(
                    device=estimator.device,
                    max_time_s=max_time,
                    started=started,
                    progress=progress,
                    stop_requested=stop,
                    checkpoint=keeper.checkpointer,
                )
                fitted = _fitted(estimator, frame, options, source, control)
                bundle = save_fitted(fitted, output, overwrite=overwrite, source=source)
        except TrainingInterrupted:
            if _identity(target) == before:
                raise
            bundle = Bundle.open(output)  # it was whole and in its place by then
        keeper.discard()
    return bundle


def _fitted(
    estimator: BaseDetector,
    frame: pl.DataFrame,
    options: SchemaOptions,
    source: str,
    control: FitControl,
) -> FittedModel:
    if estimator.calibrate_by is not None:
        options = group_options(frame, options, estimator.calibrate_by, source=source)
    schema = Schema.infer(frame, options, source=source)
    estimator.fit_checked(schema, table_rows(schema, frame, source), control)
    fitted: FittedModel = estimator.model_
    return fitted


def _identity(model: Path) -> tuple[int, int] | None:
    """Tell one model directory from another that took its place."""
    try:
        status = model.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Keeper:
    """The checkpoint beside a model that is being fitted."""

    def __init__(self, output: str | os.PathLike[str], *, resume: bool) -> None:
        self._path = checkpoint_path(output)
        self._resume = resume
        self._made: Checkpointer | None = None

    def checkpointer(self, fingerprint: str) -> Checkpointer:
        self._made = Checkpointer(self._path, fingerprint=fingerprint, resume=self._resume)
        return self._made

    def how_to_go_on(self) -> str:
        return how_to_go_on(self._path, own=self._resume or self._made is not None)

    def discard(self) -> None:
        if self._made is not None:
            self._made.discard()


def _made(name: str, parameters: Mapping[str, Any]) -> BaseDetector:
    """Make an estimator; unknown parameters are told with those that there are."""
    kind = detector_class(name)
    known = sorted(kind._get_param_names())
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise UsageError(
            f"unknown parameter {', '.join(map(repr, unknown))}; the parameters are "
            f"{', '.join(known)}"
        )
    return kind(**parameters)
