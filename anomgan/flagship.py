"""The flagship's own part of a fit: train its networks, freeze its score, judge both."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
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
from anomgan.scoring.memory import leave_one_out_nearest
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.checkpoints import Checkpointer
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

__all__ = ["FitControl", "Trained", "choose_device", "freeze", "judge_training", "train"]

logger = logging.getLogger(__name__)

_VALIDATION_SHARE = 0.1
_MAX_VALIDATION = 512
_SPACING_SAMPLE = 2048
_PRECONDITIONER_SAMPLE = 256
_MONITOR_ROWS = 128


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
class Trained:
    """Networks after training, with the rows they learnt from."""

    networks: TabularNetworks
    game: FlagshipGame
    scale: NoiseScale
    known: Tensor
    validation: Tensor
    memory: Tensor
    record: TrainingRecord
    rng: torch.Generator


def train(
    features: Tensor,
    parameters: FlagshipParameters,
    seed: int,
    device: torch.device,
    control: FitControl,
    started: float,
    rng: np.random.Generator,
) -> Trained:
    """Train all members on encoded rows [n, d]."""
    features = features.to(device)
    validation, fitted = _validation_split(len(features), rng)
    memory = _memory(features, parameters.memory_size, rng)
    scale = noise_scale(_nearest_distances(memory, rng), features.shape[1])
    generator = torch.Generator(device="cpu").manual_seed(_torch_seed(seed))
    sizes = TabularSizes(
        n_members=parameters.n_members,
        n_features=features.shape[1],
        latent_dim=parameters.latent_dim or latent_dimension(features),
        generator_width=parameters.generator_width,
        discriminator_width=parameters.discriminator_width,
        n_noise_levels=scale.n_levels,
    )
    networks = TabularNetworks(sizes, generator=generator).to(device)
    draws = torch.Generator(device=device).manual_seed(_torch_seed(seed) + 1)
    sampler = Sampler(features[fitted], parameters.n_members, draws)
    if parameters.objective not in OBJECTIVES:
        raise UsageError(
            f"objective {parameters.objective!r} is not known: choose one of {sorted(OBJECTIVES)}"
        )
    game = FlagshipGame(
        networks,
        sampler=sampler,
        scale=scale,
        objective=OBJECTIVES[parameters.objective](),
        weights=GameWeights(
            penalty=parameters.gradient_penalty,
            reconstruction=parameters.reconstruction_weight,
            cycle=parameters.cycle_weight,
        ),
        batch_rows=parameters.batch_rows,
    )
    checkpointer = None
    if control.checkpoint is not None:
        checkpointer = control.checkpoint(_fingerprint(features, parameters, seed))
    trainer = Trainer(
        networks,
        players=game.players(),
        phases=game.phases(),
        sampler=sampler,
        plan=_plan(parameters, control, started),
        checkpointer=checkpointer,
        monitor=_coverage_monitor(networks, features[validation]),
    )
    record = trainer.run(progress=control.progress, stop_requested=control.stop_requested)
    if record.stopped_by_deadline:
        logger.info("training ended at step %d for --max-time", record.steps_run)
    return Trained(networks, game, scale, features, features[validation], memory, record, draws)


def _coverage_monitor(
    networks: TabularNetworks, validation: Tensor
) -> Callable[[], dict[str, float]]:
    """Measure how much of the validation rows the generators reach, with fixed codes."""
    real = validation[:_MONITOR_ROWS]
    shape = (networks.sizes.n_members, len(real), networks.sizes.latent_dim)
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(real.device)

    @torch.no_grad()
    def measure() -> dict[str, float]:
        if len(real) < 10:
            return {}
        return {"coverage": min(coverage(real, g) for g in networks.generator(codes))}

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


def _fingerprint(features: Tensor, parameters: FlagshipParameters, seed: int) -> str:
    digest = hashlib.sha256(features.cpu().numpy().tobytes())
    digest.update(json.dumps([parameters.to_dict(), seed], sort_keys=True).encode())
    return digest.hexdigest()


def _validation_split(
    n: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that judge the networks, and rows that train them; tiny tables use all for both."""
    order = rng.permutation(n)
    n_validation = min(_MAX_VALIDATION, int(_VALIDATION_SHARE * n))
    if n_validation < 10:
        return np.sort(order), np.sort(order)
    return np.sort(order[:n_validation]), np.sort(order[n_validation:])


def _memory(features: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Distinct rows, at most `size`: [a, d]."""
    distinct = np.unique(features.cpu().numpy(), axis=0)
    if len(distinct) > size:
        distinct = distinct[np.sort(rng.choice(len(distinct), size, replace=False))]
    return torch.from_numpy(distinct).to(features.device)


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
    """Fold the trained networks, the memory and the codebook into the score, on the CPU."""
    nets, scale = trained.networks, trained.scale
    m = nets.sizes.n_members
    generator = MLPWeights.freeze(nets.generator)
    memory = trained.memory
    codes = nets.encoder(memory.unsqueeze(0).expand(m, -1, -1))  # [m, a, k]
    drawn = torch.randn(
        (m, parameters.codebook_size, nets.sizes.latent_dim),
        generator=trained.rng,
        device=memory.device,
    )
    pull = _pull(memory, codes, scale.bandwidth, parameters.slide)
    score = FrozenScore(
        generator=generator,
        encoder=MLPWeights.freeze(nets.encoder),
        discriminator=_read_out(trained),
        memory=memory,
        memory_codes=codes,
        codebook_rows=generator(drawn),
        codebook_codes=drawn,
        preconditioner=preconditioner(generator, codes[:, :_PRECONDITIONER_SAMPLE], pull),
        pull=pull,
        feature_column=torch.from_numpy(encoder.feature_column),
        n_columns=encoder.n_columns,
        settings=ScoreSettings(
            bandwidth=scale.bandwidth,
            discriminator_median=0.0,
            discriminator_bound=parameters.discriminator_bound,
            free_share=parameters.free_share,
            inversion=InversionSettings(n_steps=parameters.inversion_steps),
        ),
    )
    score = FrozenScore.from_tensors(
        {name: t.cpu() for name, t in score.tensors().items()},
        n_columns=score.n_columns,
        settings=score.settings,
    )
    median = float(score.log_odds(trained.validation.cpu()).median())
    return replace(score, settings=replace(score.settings, discriminator_median=median))


def _pull(memory: Tensor, codes: Tensor, bandwidth: float, slide: float) -> Tensor:
    """Weight of the pull to the start, [m]: s^2 over the variance of the slide."""
    sample = torch.arange(min(len(memory), 1024), device=memory.device)
    if len(sample) < 2:
        return torch.full((len(codes),), bandwidth**2, device=memory.device)
    other = leave_one_out_nearest(memory, sample)
    spacing = (codes[:, sample] - codes[:, other]).square().mean(dim=2).median(dim=1).values
    return bandwidth**2 / (slide * spacing + 1e-6)


def _read_out(trained: Trained) -> MLPWeights:
    """Fold noise grades, class shares and the bandwidth into one output, L."""
    weights = MLPWeights.freeze(trained.networks.discriminator)
    read = torch.tensor([-1.0, *trained.scale.read_weights()], device=trained.known.device)
    last, bias = weights.matrices[-1], weights.biases[-1]
    corrected = bias[..., 1:] - trained.game.log_priors().to(bias.device)
    return MLPWeights(
        (*weights.matrices[:-1], (last[..., 1:] @ read).unsqueeze(2)),
        (*weights.biases[:-1], (corrected @ read).unsqueeze(2)),
    )


@torch.no_grad()
def judge_training(
    trained: Trained, score: FrozenScore, encoder: FeatureEncoder, calibration_scores: Tensor
) -> Health:
    """Judge generator and score on validation rows."""
    real = trained.validation.cpu()
    n = len(real)
    facts = {
        "finite_scores": float(bool(torch.isfinite(calibration_scores).all())),
        "rollbacks": float(trained.record.n_rollbacks),
        "calibration_rows": float(len(calibration_scores)),
        "coverage": 1.0,
        "precision": 1.0,
        "two_sample_accuracy": 0.5,
    }
    if n > 10:
        generated = score.codebook_rows[:, :n]
        each = [
            (coverage(real, g), precision(real, g), two_sample_accuracy(real, g)) for g in generated
        ]
        # The weakest member decides: one collapsed generator is worth knowing.
        facts["coverage"] = min(e[0] for e in each)
        facts["precision"] = min(e[1] for e in each)
        facts["two_sample_accuracy"] = max(e[2] for e in each)
    coins = torch.randint(2, real.shape, generator=torch.Generator().manual_seed(0))
    no_surprise = torch.zeros(n, encoder.n_columns)
    clean = score(real, no_surprise).score
    thrown = score(real + FAR_AWAY * (2.0 * coins - 1.0), no_surprise).score
    facts["far_auroc"] = float((thrown.unsqueeze(1) > clean.unsqueeze(0)).float().mean())
    return judge(facts)
