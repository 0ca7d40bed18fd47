"""The flagship's own part of a fit: train its networks, freeze its score, judge both."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anomgan.detectors.anomgan import (
    FlagshipGame,
    GameWeights,
    NoiseScale,
    Stabilisers,
    latent_dimension,
    noise_scale,
)
from anomgan.errors import UsageError
from anomgan.learning import (
    FEWEST_JUDGED,
    HEALTH_ROWS,
    MONITOR_ROWS,
    Apart,
    FitControl,
    Learnt,
    distinct_rows,
    evenly,
    far_auroc,
    gaussian_distance,
    generator_facts,
    generator_judge,
    nearest_distances,
    torch_seed,
)
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.presets import FlagshipParameters
from anomgan.scoring.frozen import MARGIN, FrozenScore, ScoreSettings
from anomgan.scoring.inversion import InversionSettings, MLPWeights, preconditioner
from anomgan.scoring.memory import Memory, leave_one_out_nearest, spread
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.folds import Division
from anomgan.training.health import Health, coverage, judge
from anomgan.training.loop import Sampler, Trainer, TrainingPlan, TrainingRecord
from anomgan.training.noise import InstanceNoise
from anomgan.training.objectives import OBJECTIVES, SMOOTHED
from anomgan.training.selection import Selection

__all__ = ["Trained", "calibration_scores", "freeze", "judge_training", "learn", "train"]

logger = logging.getLogger(__name__)

_CODE_VARIANCE = 0.1
"""Variance of a code around the encoder's, in squared latent distances of neighbouring rows."""
_PULL_SAMPLE = 1024
_UNROLLED_PACE = 100.0
"""Rate of the unrolled steps over that of training. They are plain gradient steps; with this they
are about as long as the discriminator's by Adam, which over two trainings (4 and 30 columns, the
default rate) were 50 to 260 rates times its gradient, and less as the rate fell to its end."""


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


def learn(
    features: Tensor,
    encoder: FeatureEncoder,
    division: Division,
    apart: Apart,
    parameters: FlagshipParameters,
    *,
    seed: int,
    device: torch.device,
    control: FitControl,
    started: float,
    rng: np.random.Generator,
) -> Learnt:
    """Train on encoded rows [n, d], freeze the score, score the rows that calibrate, judge all.

    Parameters
    ----------
    features : Tensor float32 [n, d]
    encoder : FeatureEncoder
    division : Division
        Who may see which rows.
    apart : Apart
        The rows that calibrate, as new ones.
    parameters : FlagshipParameters
    seed : int
    device : torch.device
    control : FitControl
    started : float
        `time.monotonic()` at the start of the fit.
    rng : numpy.random.Generator
    """
    trained = train(features, division, apart, parameters, seed, device, control, started, rng)
    score = freeze(trained, encoder, parameters)
    scores = calibration_scores(trained, score)
    sizes = trained.networks.sizes
    return Learnt(
        score=score,
        scores=scores,
        health=judge_training(trained, score, scores),
        record=trained.record,
        networks={k: v.cpu() for k, v in trained.networks.state_dict().items()},
        parameters=replace(parameters, n_members=sizes.n_members, latent_dim=sizes.latent_dim),
        facts=_facts(trained),
        position=trained.position.cpu(),
    )


def _facts(trained: Trained) -> dict[str, Any]:
    scale = trained.scale
    return {
        "n_memory": len(trained.memory.rows),
        "noise": {
            "spacing": scale.spacing,
            "looseness": scale.looseness,
            "bandwidth": scale.bandwidth,
            "kernel_width": scale.kernel_width,
            "read_level": scale.read_level,
            "range": [scale.smallest, scale.largest],
        },
    }


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
    rows, counts, position = distinct_rows(features, parameters.memory_size, rng)
    scale = noise_scale(
        nearest_distances(rows, rng),
        gaussian_distance(rows, rng),
        features.shape[1],
        repeated_share=float(counts[counts > 1].sum() / counts.sum()),
    )
    generator = torch.Generator(device="cpu").manual_seed(torch_seed(seed))
    sizes = TabularSizes(
        n_members=parameters.members,
        n_features=features.shape[1],
        latent_dim=parameters.latent_dim or latent_dimension(features[division.trained]),
        generator_width=parameters.generator_width,
        discriminator_width=parameters.discriminator_width,
        n_noise_levels=scale.n_levels,
    )
    networks = _networks(sizes, parameters, generator).to(device)
    draws = torch.Generator(device=device).manual_seed(torch_seed(seed) + 1)
    game = _game(networks, division.sampler(features, draws), scale, parameters)
    checkpointer = None
    if control.checkpoint is not None:
        checkpointer = control.checkpoint(_fingerprint(features, division, parameters, seed))
    unseen = _unseen(division, apart.features.to(device))
    made = _made(networks, unseen)
    trainer = Trainer(
        networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=_plan(parameters, control, started),
        checkpointer=checkpointer,
        monitor=_coverage_monitor(unseen, made),
        selection=_selection(unseen, made, sizes, parameters, seed, device),
    )
    record = trainer.run(progress=control.progress, stop_requested=control.stop_requested)
    if record.stopped_by_deadline:
        logger.info("training ended at step %d for --max-time", record.steps_run)
    memory = Memory(rows, counts, scale.kernel_width).with_peak()
    position = position[division.calibrating]
    return Trained(networks, game, scale, division, apart, memory, position, record)


def _networks(
    sizes: TabularSizes, parameters: FlagshipParameters, draws: torch.Generator
) -> TabularNetworks:
    """Make the networks of all members, initialised from `draws`, on the CPU."""
    return TabularNetworks(
        sizes,
        generator=draws,
        scheme=parameters.initialisation,
        spectral_norm=parameters.spectral_norm,
        rounded=parameters.bfloat16,
    )


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
    smoothing = parameters.label_smoothing
    name = parameters.objective
    return FlagshipGame(
        networks,
        sampler=sampler,
        scale=scale,
        objective=SMOOTHED[name](smoothing) if smoothing else OBJECTIVES[name](),
        weights=GameWeights(
            adversarial=parameters.adversarial_weight,
            penalty=parameters.gradient_penalty,
            reconstruction=parameters.reconstruction_weight,
            cycle=parameters.cycle_weight,
            features=parameters.feature_matching,
        ),
        batch_rows=parameters.batch_rows,
        stabilisers=Stabilisers(
            discriminator_steps=parameters.discriminator_steps,
            unrolled_steps=parameters.unrolled_steps,
            unrolled_rate=(
                _UNROLLED_PACE * parameters.learning_rate * parameters.discriminator_rate
            ),
            noise=InstanceNoise(parameters.instance_noise),
        ),
    )


def _made(networks: TabularNetworks, unseen: Sequence[Tensor]) -> Callable[[], Tensor]:
    """Make rows to judge the generators by on the way, [m, n, d], always from the same codes."""
    n = min(MONITOR_ROWS, max(map(len, unseen)))
    shape = (len(unseen), n, networks.sizes.latent_dim)
    codes = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(unseen[0].device)

    @torch.no_grad()
    def made() -> Tensor:
        rows: Tensor = networks.generator(codes)
        return rows

    return made


def _coverage_monitor(
    unseen: Sequence[Tensor], made: Callable[[], Tensor]
) -> Callable[[], dict[str, float]]:
    """Measure how much of the rows that it never saw each generator reaches."""
    real = [evenly(rows, MONITOR_ROWS) for rows in unseen]

    def measure() -> dict[str, float]:
        reached = [
            coverage(rows, own[: len(rows)])
            for rows, own in zip(real, made(), strict=True)
            if len(rows) >= FEWEST_JUDGED
        ]
        return {"coverage": min(reached)} if reached else {}

    return measure


def _selection(
    unseen: Sequence[Tensor],
    made: Callable[[], Tensor],
    sizes: TabularSizes,
    parameters: FlagshipParameters,
    seed: int,
    device: torch.device,
) -> Selection | None:
    """Judge members by the rows that they never saw; None where these are too few for all."""
    judge = generator_judge(unseen, made)
    if judge is None:
        return None

    def fresh(member: int, restart: int) -> list[Tensor]:
        draws = torch.Generator().manual_seed(torch_seed(seed, restart, member))
        return list(_networks(sizes, parameters, draws).to(device).parameters())

    return Selection(judge, fresh=fresh)


def _plan(parameters: FlagshipParameters, control: FitControl, started: float) -> TrainingPlan:
    return TrainingPlan(
        n_steps=parameters.n_steps,
        batch_rows=parameters.batch_rows,
        learning_rate=parameters.learning_rate,
        betas=(0.5, 0.99),
        weight_decay=1e-4,
        ema_half_life_samples=parameters.ema_share * parameters.n_steps * parameters.batch_rows,
        deadline=control.deadline(started),
        rates={"discriminator": parameters.discriminator_rate},
    )


def _fingerprint(
    features: Tensor, division: Division, parameters: FlagshipParameters, seed: int
) -> str:
    digest = hashlib.sha256(features.cpu().numpy().tobytes())
    for rows in (division.calibrating, division.fold):
        digest.update(b"" if rows is None else rows.tobytes())
    digest.update(json.dumps([parameters.to_dict(), seed], sort_keys=True).encode())
    return digest.hexdigest()


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
            margin=MARGIN,
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
def judge_training(trained: Trained, score: FrozenScore, scores: Tensor) -> Health:
    """Judge each generator on rows that it never saw, and the score on all of these."""
    unseen = [
        evenly(rows, HEALTH_ROWS) for rows in _unseen(trained.division, trained.apart.features)
    ]
    n = max(map(len, unseen))
    facts = {
        "finite_scores": float(bool(torch.isfinite(scores).all())),
        **trained.record.health_facts(),
        "calibration_rows": float(len(scores)),
    }
    if n >= FEWEST_JUDGED:
        codes = torch.randn(
            (score.n_members, n, trained.networks.sizes.latent_dim),
            generator=torch.Generator().manual_seed(0),
        )
        facts |= generator_facts(unseen, score.generator(codes))
    facts["far_auroc"] = far_auroc(score, trained.apart.features, scores)
    return judge(facts)
