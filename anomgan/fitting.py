"""`fit`, a straight walk: rows -> split -> encode -> train -> freeze -> calibrate -> judge.

Training never sees the calibration rows, and the calibrator never sees a network.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.calibration import Calibrator
from anomgan.detectors.anomgan import (
    FlagshipGame,
    GameWeights,
    NoiseScale,
    latent_dimension,
    noise_scale,
)
from anomgan.errors import TableError, UsageError
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.presets import FlagshipParameters
from anomgan.scoring.frozen import FrozenScore, ScoreSettings
from anomgan.scoring.inversion import InversionSettings, MLPWeights, preconditioner
from anomgan.scoring.memory import leave_one_out_nearest
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Rows, Schema
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

__all__ = ["MIN_ROWS", "FitControl", "FittedModel", "fit_rows", "take"]

logger = logging.getLogger(__name__)

MIN_ROWS = 4
"""Fewest normal rows that can be split, trained on and calibrated with."""
DEFAULT_RATE = 0.01
_VALIDATION_SHARE = 0.1
_MAX_VALIDATION = 512
_SPACING_SAMPLE = 2048
_PRECONDITIONER_SAMPLE = 256
_MONITOR_ROWS = 128
_CHECK_ROWS = 1000


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


@dataclass(frozen=True)
class FittedModel:
    """Everything that a fit gives.

    `probe` are the few rows stored with the model, broken ones among them; `check` are real
    rows, held out and learnt from, on which an export is compared with torch.
    """

    schema: Schema
    encoder: FeatureEncoder
    score: FrozenScore
    calibrator: Calibrator
    networks: dict[str, Tensor]
    parameters: FlagshipParameters
    health: Health
    record: TrainingRecord
    facts: dict[str, Any]
    notes: tuple[str, ...]
    probe: Rows
    check: Rows

    def score_rows(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Score [n] and contributions [n, n_columns + 1] of checked rows, by torch."""
        encoded = self.encoder.transform(rows)
        scored = self.score(torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise))
        return scored.score.numpy(), scored.contributions.numpy()


def take(rows: Rows, index: NDArray[np.int64]) -> Rows:
    """Return the rows at `index`, without ids."""
    return Rows(rows.numeric[index], rows.categorical[index], None, rows.first_row)


def fit_rows(
    schema: Schema,
    rows: Rows,
    parameters: FlagshipParameters,
    *,
    seed: int,
    false_alarm_rate: float | None,
    control: FitControl,
) -> FittedModel:
    """Fit the flagship on checked rows of normal operation.

    Parameters
    ----------
    schema : Schema
    rows : Rows
        n normal rows.
    parameters : FlagshipParameters
    seed : int
        Source of every random draw; global generators are never used.
    false_alarm_rate : float or None
        None: 0.01, or the smallest rate that the calibration rows can resolve.
    control : FitControl

    Raises
    ------
    TableError
        Fewer than `MIN_ROWS` rows.
    UsageError
        The rate cannot be kept with so few rows; the device is not there.
    TrainingError
        No usable model came out.
    """
    started = control.started if control.started is not None else time.monotonic()
    n = len(rows.numeric)
    if n < MIN_ROWS:
        raise TableError(
            f"{n} row{'s' * (n != 1)} cannot be learnt from: at least {MIN_ROWS} normal rows are "
            "needed, and a few hundred for a threshold that can be trusted"
        )
    device = choose_device(control.device)
    rng = np.random.default_rng(seed)
    known, held_out = _split(n, parameters.max_calibration_rows, rng)
    encoder = FeatureEncoder.fit(schema, take(rows, known))
    if not encoder.n_features:
        raise TableError(
            "no column gives a feature: date columns are read by time of day, day of week and "
            "season, and need at least two full periods of one; add other columns"
        )
    features = torch.from_numpy(encoder.transform(take(rows, known)).features)
    trained = _train(features, parameters, seed, device, control, started, rng)
    score = _freeze(trained, encoder, parameters)
    calibration = encoder.transform(take(rows, held_out))
    scores = score(
        torch.from_numpy(calibration.features), torch.from_numpy(calibration.surprise)
    ).score
    health = _health(trained, score, encoder, scores)
    calibrator, notes = calibrate(scores.numpy(), false_alarm_rate)
    if encoder.unused:
        notes += tuple(
            f"column {c!r} gives no feature: it holds no two full days, weeks or years"
            for c in encoder.unused
        )
    return FittedModel(
        schema=schema,
        encoder=encoder,
        score=score,
        calibrator=calibrator,
        networks={k: v.cpu() for k, v in trained.networks.state_dict().items()},
        parameters=replace(parameters, latent_dim=trained.networks.sizes.latent_dim),
        health=health,
        record=trained.record,
        facts=_facts(n, trained, encoder, held_out, device, seed, started),
        notes=notes,
        probe=_probe_rows(take(rows, held_out), take(rows, known)),
        check=take(rows, np.concatenate([held_out[:_CHECK_ROWS], known[:_CHECK_ROWS]])),
    )


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


def calibrate(
    scores: NDArray[np.float32], false_alarm_rate: float | None
) -> tuple[Calibrator, tuple[str, ...]]:
    """Calibrate; an open rate becomes the default, or what so few rows can resolve."""
    if false_alarm_rate is not None:
        return Calibrator.fit(scores, false_alarm_rate=false_alarm_rate), ()
    resolution = 1.0 / (len(scores) + 1)
    if resolution <= DEFAULT_RATE:
        return Calibrator.fit(scores, false_alarm_rate=DEFAULT_RATE), ()
    trial = Calibrator.fit(scores, false_alarm_rate=resolution)
    if trial.tail is not None:
        return Calibrator.fit(scores, false_alarm_rate=DEFAULT_RATE), ()
    return trial, (
        f"{len(scores)} calibration rows cannot resolve a false-alarm rate of {DEFAULT_RATE}: "
        f"the model uses {resolution:.3g}; more normal rows give a finer one",
    )


def _split(
    n: int, max_calibration: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from, and rows held out for calibration.

    A fifth is held out; up to a hundred (the least that resolves 1 %) where that is no more
    than a quarter of the rows.
    """
    wanted = max(0.2 * n, min(100.0, 0.25 * n))
    n_held_out = max(1, min(int(wanted), max_calibration))
    order = rng.permutation(n)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


@dataclass(frozen=True)
class _Trained:
    """Networks after training, with the rows they learnt from."""

    networks: TabularNetworks
    game: FlagshipGame
    scale: NoiseScale
    known: Tensor
    validation: Tensor
    memory: Tensor
    record: TrainingRecord
    rng: torch.Generator


def _train(
    features: Tensor,
    parameters: FlagshipParameters,
    seed: int,
    device: torch.device,
    control: FitControl,
    started: float,
    rng: np.random.Generator,
) -> _Trained:
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
    return _Trained(networks, game, scale, features, features[validation], memory, record, draws)


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
def _freeze(
    trained: _Trained, encoder: FeatureEncoder, parameters: FlagshipParameters
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


def _read_out(trained: _Trained) -> MLPWeights:
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
def _health(
    trained: _Trained, score: FrozenScore, encoder: FeatureEncoder, calibration_scores: Tensor
) -> Health:
    """Judge generator and score on validation rows."""
    real = trained.validation.cpu()
    n = len(real)
    facts = {
        "finite_scores": float(bool(torch.isfinite(calibration_scores).all())),
        "rollbacks": float(trained.record.n_rollbacks),
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


def _facts(
    n: int,
    trained: _Trained,
    encoder: FeatureEncoder,
    held_out: NDArray[np.int64],
    device: torch.device,
    seed: int,
    started: float,
) -> dict[str, Any]:
    record = trained.record
    last = record.history[-1] if record.history else {}
    return {
        "n_rows": n,
        "n_trained": len(trained.known),
        "n_calibration": len(held_out),
        "n_memory": len(trained.memory),
        "encoder": encoder.describe(),
        "noise": {
            "spacing": trained.scale.spacing,
            "bandwidth": trained.scale.bandwidth,
            "range": [trained.scale.smallest, trained.scale.largest],
        },
        "device": str(device),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "steps": record.steps_run,
        "stopped_by_deadline": record.stopped_by_deadline,
        "rollbacks": record.n_rollbacks,
        "training_seconds": round(record.seconds, 3),
        "fit_seconds": round(time.monotonic() - started, 3),
        "losses": {k: v for k, v in last.items() if math.isfinite(v)},
    }


def _probe_rows(held_out: Rows, known: Rows) -> Rows:
    """Rows that a Scorer scores when it opens the model: held-out, known, and broken ones."""
    parts = [take(held_out, np.arange(min(24, len(held_out.numeric))))]
    parts.append(take(known, np.arange(min(16, len(known.numeric)))))
    broken = take(held_out, np.arange(min(8, len(held_out.numeric))))
    numeric, categorical = broken.numeric.copy(), broken.categorical.copy()
    for i in range(len(numeric)):
        # Far out, missing and never seen: the branches that ordinary rows do not take.
        if numeric.shape[1]:
            j = i % numeric.shape[1]
            numeric[i, j] = np.nan if i % 2 else 1e3 * (1.0 + abs(numeric[i, j]))
        if categorical.shape[1]:
            categorical[i, i % categorical.shape[1]] = "" if i % 2 else "\u2205 never seen"
    parts.append(Rows(numeric, categorical, None, 1))
    return Rows(
        np.concatenate([p.numeric for p in parts]),
        np.concatenate([p.categorical for p in parts]),
        None,
        1,
    )
