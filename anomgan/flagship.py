"""The flagship's own part of a fit: train its networks, freeze its score, judge both."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from anomgan.detectors.anomgan import (
    FlagshipGame,
    GameWeights,
    NoiseScale,
    latent_dimension,
    noise_scale,
)
from anomgan.errors import UsageError
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.presets import FlagshipParameters
from anomgan.scoring.frozen import FrozenScore, ScoreSettings
from anomgan.scoring.inversion import InversionSettings, MLPWeights, preconditioner
from anomgan.scoring.memory import Memory, leave_one_out_nearest, spread
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.checkpoints import Checkpointer
from anomgan.training.folds import Division
from anomgan.training.health import (
    FAR_AWAY,
    Health,
    coverage,
    judge,
    precision,
    two_sample_accuracy,
)
from anomgan.training.loop import Progress, Sampler, Trainer, TrainingPlan, TrainingRecord
from anomgan.training.objectives import OBJECTIVES

__all__ = [
    "Apart",
    "FitControl",
    "Trained",
    "calibration_scores",
    "choose_device",
    "freeze",
    "judge_training",
    "train",
]

logger = logging.getLogger(__name__)

_SPACING_SAMPLE = 2048
_MOST_DRAWS = 64
_FAR_OUT = 10.0
"""Interquartile ranges from the median beyond which a value says nothing about covariance."""
_CODE_VARIANCE = 0.1
"""Variance of a code around the encoder's, in squared latent distances of neighbouring rows."""
_HEALTH_ROWS = 1024
_PULL_SAMPLE = 1024
_MONITOR_ROWS = 128
_FEWEST_JUDGED = 10
"""Rows that a generator never saw, fewer of which cannot judge it."""


@dataclass(frozen=True)
class FitControl:
    """How a fit is run, apart from what is learnt.

    Attributes
    ----------
    device : str
        "auto", "cpu", "cuda" or a torch device.
    max_time_s : float or None
        Seconds within which everything, export included, should be done.
    started : float or None
        `time.monotonic()` when the fit began; None: now.
    progress : callable or None
        See `anomgan.training.loop.Progress`.
    stop_requested : callable or None
        Turns true when training should stop and keep a checkpoint.
    checkpoint : callable or None
        Makes the checkpointer from a fingerprint of rows and parameters.
    """

    device: str = "auto"
    max_time_s: float | None = None
    started: float | None = None
    progress: Progress | None = None
    stop_requested: Callable[[], bool] | None = None
    checkpoint: Callable[[str], Checkpointer] | None = None

    def __post_init__(self) -> None:
        if self.max_time_s is not None and not self.max_time_s > 0.0:
            raise UsageError(f"max_time is {self.max_time_s}: give seconds above 0, or None")


def choose_device(name: str) -> torch.device:
    """Resolve "auto" to the GPU where there is one.

    Raises
    ------
    UsageError
        The named device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used ({str(error).splitlines()[0]}); use 'auto' or 'cpu'"
        ) from error
    return device


@dataclass(frozen=True)
class Apart:
    """Rows that calibrate, as those members meet them that never saw them.

    Attributes
    ----------
    features : Tensor [v, d]
    surprise : Tensor [v, n_columns]
    """

    features: Tensor
    surprise: Tensor


@dataclass(frozen=True)
class Trained:
    """Networks after training, with the rows they learnt from.

    Attributes
    ----------
    networks : TabularNetworks
    game : FlagshipGame
    scale : NoiseScale
    division : Division
    apart : Apart
        The v rows that calibrate.
    memory : Memory
        All rows, those that calibrate too: being near one of them is no less normal.
    position : Tensor int64 [v]
        Where each calibrating row stands in memory, -1 where it was not kept.
    record : TrainingRecord
    """

    networks: TabularNetworks
    game: FlagshipGame
    scale: NoiseScale
    division: Division
    apart: Apart
    memory: Memory
    position: Tensor
    record: TrainingRecord

    def judges(self, score: FrozenScore) -> Iterator[tuple[FrozenScore, slice | Tensor]]:
        """Give the score by networks that never saw them for all calibrating rows, in parts."""
        if self.division.fold is None:
            yield score, slice(None)
            return
        for k in range(score.n_members):
            yield score.member(k), torch.from_numpy(self.division.unseen_by(k))


def train(
    features: Tensor,
    division: Division,
    apart: Apart,
    parameters: FlagshipParameters,
    seed: int,
    device: torch.device,
    control: FitControl,
    started: float,
    rng: np.random.Generator,
) -> Trained:
    """Train all members on encoded rows [n, d], each without those that it may not see."""
    features = features.to(device)
    rows, counts, position = _distinct(features, parameters.memory_size, rng)
    scale = noise_scale(
        _nearest_distances(rows, rng),
        _gaussian_distance(rows, rng),
        features.shape[1],
        repeated_share=float(counts[counts > 1].sum() / counts.sum()),
    )
    generator = torch.Generator(device="cpu").manual_seed(_torch_seed(seed))
    sizes = TabularSizes(
        n_members=parameters.members,
        n_features=features.shape[1],
        latent_dim=parameters.latent_dim or latent_dimension(features[division.trained]),
        generator_width=parameters.generator_width,
        discriminator_width=parameters.discriminator_width,
        n_noise_levels=scale.n_levels,
    )
    networks = TabularNetworks(sizes, generator=generator).to(device)
    draws = torch.Generator(device=device).manual_seed(_torch_seed(seed) + 1)
    game = _game(networks, division.sampler(features, draws), scale, parameters)
    checkpointer = None
    if control.checkpoint is not None:
        checkpointer = control.checkpoint(_fingerprint(features, division, parameters, seed))
    trainer = Trainer(
        networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=_plan(parameters, control, started),
        checkpointer=checkpointer,
        monitor=_coverage_monitor(networks, _unseen(division, apart.features.to(device))),
    )
    record = trainer.run(progress=control.progress, stop_requested=control.stop_requested)
    if record.stopped_by_deadline:
        logger.info("training ended at step %d for --max-time", record.steps_run)
    memory = Memory(rows, counts, scale.kernel_width).with_peak()
    position = position[division.calibrating]
    return Trained(networks, game, scale, division, apart, memory, position, record)


def _unseen(division: Division, apart: Tensor) -> list[Tensor]:
    """Of the calibrating rows [v, d] those that each member never saw."""
    return [apart[division.unseen_by(k)] for k in range(division.n_members)]


def _game(
    networks: TabularNetworks, sampler: Sampler, scale: NoiseScale, parameters: FlagshipParameters
) -> FlagshipGame:
    if parameters.objective not in OBJECTIVES:
        raise UsageError(
            f"objective {parameters.objective!r} is not known: choose one of {sorted(OBJECTIVES)}"
        )
    return FlagshipGame(
        networks,
        sampler=sampler,
        scale=scale,
        objective=OBJECTIVES[parameters.objective](),
        weights=GameWeights(
            adversarial=parameters.adversarial_weight,
            penalty=parameters.gradient_penalty,
            reconstruction=parameters.reconstruction_weight,
            cycle=parameters.cycle_weight,
        ),
        batch_rows=parameters.batch_rows,
    )


def _coverage_monitor(
    networks: TabularNetworks, unseen: Sequence[Tensor]
) -> Callable[[], dict[str, float]]:
    """Measure how much of the rows that it never saw each generator reaches, with fixed codes."""
    real = [rows[:_MONITOR_ROWS] for rows in unseen]
    shape = (len(real), max(map(len, real)), networks.sizes.latent_dim)
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(real[0].device)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        generated = networks.generator(codes)
        reached = [
            coverage(rows, own[: len(rows)])
            for rows, own in zip(real, generated, strict=True)
            if len(rows) >= _FEWEST_JUDGED
        ]
        return {"coverage": min(reached)} if reached else {}

    return measure


def _plan(parameters: FlagshipParameters, control: FitControl, started: float) -> TrainingPlan:
    deadline = None
    if control.max_time_s is not None:
        # What follows training (codes, calibration, export, parity) takes a few seconds.
        reserve = min(6.0, 0.4 * control.max_time_s)
        deadline = started + control.max_time_s - reserve
    return TrainingPlan(
        n_steps=parameters.n_steps,
        batch_rows=parameters.batch_rows,
        learning_rate=parameters.learning_rate,
        betas=(0.5, 0.99),
        weight_decay=1e-4,
        ema_half_life_samples=parameters.ema_share * parameters.n_steps * parameters.batch_rows,
        deadline=deadline,
    )


def _torch_seed(seed: int) -> int:
    return int(np.random.default_rng([seed, 1]).integers(2**62))


def _fingerprint(
    features: Tensor, division: Division, parameters: FlagshipParameters, seed: int
) -> str:
    digest = hashlib.sha256(features.cpu().numpy().tobytes())
    for rows in (division.calibrating, division.fold):
        digest.update(b"" if rows is None else rows.tobytes())
    digest.update(json.dumps([parameters.to_dict(), seed], sort_keys=True).encode())
    return digest.hexdigest()


def _distinct(
    features: Tensor, size: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows [a, d], at most `size`, how often each occurs [a], and the place of all rows.

    The place, int64 [n], is -1 for rows that were not kept.
    """
    distinct, inverse, counts = np.unique(
        features.cpu().numpy(), axis=0, return_inverse=True, return_counts=True
    )
    kept = np.arange(len(distinct))
    if len(distinct) > size:
        kept = np.sort(rng.choice(len(distinct), size, replace=False))
    place = np.full(len(distinct), -1)
    place[kept] = np.arange(len(kept))
    return (
        torch.from_numpy(distinct[kept]).to(features.device),
        torch.from_numpy(counts[kept].astype(np.float32)).to(features.device),
        torch.from_numpy(place[inverse.ravel()]),
    )


def _gaussian_distance(rows: Tensor, rng: np.random.Generator) -> float:
    """Median nearest-neighbour distance in Gaussian samples of the rows' size and covariance.

    Small samples are drawn several times, so that the median is no accident of one.
    """
    root = _covariance_root(rows)
    medians = []
    for _ in range(min(_MOST_DRAWS, -(-_SPACING_SAMPLE // len(rows)))):
        normal = torch.from_numpy(rng.standard_normal(tuple(rows.shape))).to(rows.device)
        medians.append(float(_nearest_distances((normal @ root).float(), rng).median()))
    return float(np.mean(medians))


def _covariance_root(rows: Tensor) -> Tensor:
    """Symmetric root of the covariance of rows [a, d], float64 [d, d].

    Values further out than `_FAR_OUT` interquartile ranges are pulled in: one broken row would
    else make all others look clustered. Columns without such a range are left alone.
    """
    values = rows.double()
    low, middle, high = (values.quantile(level, dim=0) for level in (0.25, 0.5, 0.75))
    reach = torch.where(high > low, _FAR_OUT * (high - low), torch.inf)
    values = torch.maximum(torch.minimum(values, middle + reach), middle - reach)
    centred = values - values.mean(dim=0)
    variances, axes = torch.linalg.eigh(centred.T @ centred / max(1, len(values) - 1))
    root: Tensor = (axes * variances.clamp(min=0.0).sqrt()) @ axes.T
    return root


def _nearest_distances(memory: Tensor, rng: np.random.Generator) -> Tensor:
    """Leave-one-out distances of (a sample of) memory rows to the nearest other one."""
    n = len(memory)
    if n < 2:
        return torch.ones(1)
    sample = torch.from_numpy(np.sort(rng.permutation(n)[:_SPACING_SAMPLE])).to(memory.device)
    parts = []
    for start in range(0, len(sample), 256):
        index = sample[start : start + 256]
        other = leave_one_out_nearest(memory, index)
        parts.append((memory[index] - memory[other]).double().norm(dim=1))
    return torch.cat(parts)


@torch.no_grad()
def freeze(
    trained: Trained, encoder: FeatureEncoder, parameters: FlagshipParameters
) -> FrozenScore:
    """Fold the trained networks and the memory into the score, on the CPU."""
    nets, scale, memory = trained.networks, trained.scale, trained.memory
    generator = MLPWeights.freeze(nets.generator)
    sample = spread(len(memory.rows), _PULL_SAMPLE).to(memory.rows.device)
    codes = _codes(nets, memory.rows[sample])  # [m, b, k]
    other = leave_one_out_nearest(memory.rows, sample) if len(memory.rows) > 1 else sample
    gaps = (codes - _codes(nets, memory.rows[other])).square().mean(dim=2).median(dim=1).values
    pull = scale.bandwidth**2 / (_CODE_VARIANCE * gaps + 1e-6)
    score = FrozenScore(
        generator=generator,
        encoder=MLPWeights.freeze(nets.encoder),
        discriminator=_read_out(trained),
        memory_rows=memory.rows,
        memory_counts=memory.counts,
        preconditioner=preconditioner(generator, codes[:, :: _PULL_SAMPLE // 256], pull),
        pull=pull,
        feature_column=torch.from_numpy(encoder.feature_column),
        n_columns=encoder.n_columns,
        settings=ScoreSettings(
            bandwidth=scale.bandwidth,
            discriminator_median=0.0,
            discriminator_bound=parameters.discriminator_bound,
            discriminator_trust=1.0 - scale.smoothness,
            inversion_share=parameters.inversion_share,
            kernel_width=memory.width,
            kernel_peak=memory.peak,
            inversion=InversionSettings(n_steps=parameters.inversion_steps),
        ),
    )
    score = FrozenScore.from_tensors(
        {name: t.cpu() for name, t in score.tensors().items()},
        n_columns=score.n_columns,
        settings=score.settings,
    )
    rows = trained.apart.features
    odds = torch.empty(len(rows))
    for member, part in trained.judges(score):
        odds[part] = member.log_odds(rows[part])
    median = float(odds.median())
    return replace(score, settings=replace(score.settings, discriminator_median=median))


def calibration_scores(trained: Trained, score: FrozenScore) -> Tensor:
    """Score the calibrating rows [v] like new ones: by networks and a memory without them."""
    features, surprise = trained.apart.features, trained.apart.surprise
    scores = torch.empty(len(features))
    for member, part in trained.judges(score):
        scores[part] = member.scores(features[part], surprise[part], trained.position[part])
    return scores


def _codes(networks: TabularNetworks, rows: Tensor) -> Tensor:
    """Latent codes of rows [n, d] by each member's encoder, [m, n, k]."""
    members = rows.unsqueeze(0).expand(networks.sizes.n_members, -1, -1)
    codes: Tensor = networks.encoder(members)
    return codes


def _read_out(trained: Trained) -> MLPWeights:
    """Fold noise grades, class shares and the level that is read into one output, L."""
    weights = MLPWeights.freeze(trained.networks.discriminator)
    read = torch.tensor([-1.0, *trained.scale.read_weights()], device=trained.memory.rows.device)
    last, bias = weights.matrices[-1], weights.biases[-1]
    corrected = bias[..., 1:] - trained.game.log_priors().to(bias.device)
    return MLPWeights(
        (*weights.matrices[:-1], (last[..., 1:] @ read).unsqueeze(2)),
        (*weights.biases[:-1], (corrected @ read).unsqueeze(2)),
    )


@torch.no_grad()
def judge_training(
    trained: Trained, score: FrozenScore, encoder: FeatureEncoder, scores: Tensor
) -> Health:
    """Judge each generator on rows that it never saw, and the score on all of these."""
    unseen = [rows[:_HEALTH_ROWS] for rows in _unseen(trained.division, trained.apart.features)]
    n = max(map(len, unseen))
    facts = {
        "finite_scores": float(bool(torch.isfinite(scores).all())),
        "rollbacks": float(trained.record.n_rollbacks),
        "calibration_rows": float(len(scores)),
    }
    if n >= _FEWEST_JUDGED:
        codes = torch.randn(
            (score.n_members, n, trained.networks.sizes.latent_dim),
            generator=torch.Generator().manual_seed(0),
        )
        generated = score.generator(codes)
        each = [
            (coverage(real, g), precision(real, g), two_sample_accuracy(real, g))
            for real, g in ((r, g[: len(r)]) for r, g in zip(unseen, generated, strict=True))
            if len(real) >= _FEWEST_JUDGED
        ]
        # The weakest member decides: one collapsed generator is worth knowing.
        facts["coverage"] = min(e[0] for e in each)
        facts["precision"] = min(e[1] for e in each)
        facts["two_sample_accuracy"] = max(e[2] for e in each)
    real = trained.apart.features[:_HEALTH_ROWS]
    coins = torch.randint(2, real.shape, generator=torch.Generator().manual_seed(0))
    no_surprise = torch.zeros(len(real), encoder.n_columns)
    thrown = score.scores(real + FAR_AWAY * (2.0 * coins - 1.0), no_surprise)
    above = thrown.unsqueeze(1) > scores[: len(real)].unsqueeze(0)
    facts["far_auroc"] = float(above.float().mean())
    return judge(facts)
