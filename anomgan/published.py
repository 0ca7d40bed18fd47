"""What a fit of a detector of the literature gives: trained, frozen, calibrated, judged.

The same for all of them; what differs is in `anomgan.detectors`. The flagship's counterpart is
`anomgan.flagship`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.learning import (
    FEWEST_JUDGED,
    HEALTH_ROWS,
    MONITOR_ROWS,
    Apart,
    FitControl,
    Learnt,
    distinct_rows,
    far_auroc,
    nearest_distances,
    torch_seed,
)
from anomgan.scoring.program import ProgramScore, ProgramSettings
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.folds import Division
from anomgan.training.health import coverage, judge, precision, two_sample_accuracy
from anomgan.training.loop import Sampler, Trainer, TrainingPlan, TrainingRecord

__all__ = ["learn"]

logger = logging.getLogger(__name__)

_MEMORY_ROWS = 8192
_SMALLEST_UNIT = 1e-6
_NARROWEST = 0.01


def learn(
    features: Tensor,
    encoder: FeatureEncoder,
    division: Division,
    apart: Apart,
    detector: Detector,
    *,
    names: Sequence[str],
    seed: int,
    device: torch.device,
    control: FitControl,
    started: float,
    rng: np.random.Generator,
) -> Learnt:
    """Train a detector on encoded rows [n, d] and freeze its score.

    As `anomgan.flagship.learn`; `names` are those of the columns, in schema order.
    """
    features = features.to(device)
    places = [tuple(np.flatnonzero(encoder.feature_column == i)) for i in range(len(names))]
    sizes = Sizes(
        features.shape[1], {n: tuple(map(int, p)) for n, p in zip(names, places, strict=True)}
    )
    detector = detector.bound(sizes)
    draws = torch.Generator(device=device).manual_seed(torch_seed(seed) + 1)
    sampler = division.sampler(features, draws)
    game = detector.game(sizes, sampler, torch.Generator().manual_seed(torch_seed(seed)))
    fingerprint = _fingerprint(features, division, detector, seed)
    trainer = _trainer(game, detector, sampler, apart, control, fingerprint, started)
    record = trainer.run(progress=control.progress, stop_requested=control.stop_requested)
    if record.stopped_by_deadline:
        logger.info("training ended at step %d for --max-time", record.steps_run)
    score = _freeze(game.networks, detector, features, encoder, apart, rng)
    scores = score.scores(apart.features, apart.surprise)
    facts = _health_facts(game.networks, detector, apart, scores, record)
    facts["far_auroc"] = far_auroc(score, apart.features, scores)
    return Learnt(
        score=score,
        scores=scores,
        health=judge(facts),
        record=record,
        networks={k: v.cpu() for k, v in game.networks.state_dict().items()},
        parameters=detector,
        facts={"n_memory": len(score.memory_rows), "unit": score.settings.unit},
    )


def _trainer(
    game: Game,
    detector: Detector,
    sampler: Sampler,
    apart: Apart,
    control: FitControl,
    fingerprint: str,
    started: float,
) -> Trainer:
    unseen = apart.features[:MONITOR_ROWS].to(sampler.data.device)
    codes = _codes(len(unseen), detector.latent_dim).to(sampler.data.device)

    @torch.no_grad()
    def monitor() -> dict[str, float]:
        generated = detector.generate(game.networks, codes)
        if generated is None or len(unseen) < FEWEST_JUDGED:
            return {}
        return {"coverage": coverage(unseen, generated[0])}

    return Trainer(
        game.networks,
        players=game.players,
        phases=game.phases,
        sampler=sampler,
        plan=_plan(game, detector, control, started),
        checkpointer=None if control.checkpoint is None else control.checkpoint(fingerprint),
        monitor=monitor,
    )


def _codes(n: int, latent_dim: int) -> Tensor:
    """Draw the codes that generators are judged by, [1, n, k]: always the same."""
    return torch.randn((1, n, latent_dim), generator=torch.Generator().manual_seed(0))


def _plan(game: Game, detector: Detector, control: FitControl, started: float) -> TrainingPlan:
    return TrainingPlan(
        n_steps=detector.n_steps,
        batch_rows=detector.batch_rows,
        learning_rate=detector.learning_rate,
        betas=game.betas,
        weight_decay=game.weight_decay,
        ema_half_life_samples=detector.ema_share * detector.n_steps * detector.batch_rows,
        deadline=control.deadline(started),
        rates=game.rates,
    )


def _fingerprint(features: Tensor, division: Division, detector: Detector, seed: int) -> str:
    digest = hashlib.sha256(features.cpu().numpy().tobytes())
    digest.update(division.calibrating.tobytes())
    parameters = [detector.name, detector.to_dict(), seed]
    digest.update(json.dumps(parameters, sort_keys=True).encode())
    return digest.hexdigest()


@torch.no_grad()
def _freeze(
    networks: nn.Module,
    detector: Detector,
    features: Tensor,
    encoder: FeatureEncoder,
    apart: Apart,
    rng: np.random.Generator,
) -> ProgramScore:
    """Copy the networks out, keep rows for explanations, and measure the unit."""
    rows, counts, _ = distinct_rows(features, _MEMORY_ROWS, rng)
    score = ProgramScore(
        formula=detector,
        networks=detector.freeze(networks),
        memory_rows=rows.cpu(),
        memory_counts=counts.cpu(),
        feature_column=torch.from_numpy(encoder.feature_column),
        n_columns=encoder.n_columns,
        settings=ProgramSettings(unit=1.0, kernel_width=_spacing(rows, rng)),
    )
    values = score.values(apart.features)
    unit = float(values[torch.isfinite(values)].median()) if len(values) else 1.0
    unit = max(_SMALLEST_UNIT, unit) if np.isfinite(unit) else 1.0
    return replace(score, settings=replace(score.settings, unit=unit))


@torch.no_grad()
def _health_facts(
    networks: nn.Module,
    detector: Detector,
    apart: Apart,
    scores: Tensor,
    record: TrainingRecord,
) -> dict[str, float]:
    facts = {
        "finite_scores": float(bool(torch.isfinite(scores).all())),
        "rollbacks": float(record.n_rollbacks),
        "calibration_rows": float(len(scores)),
        "generator": float(detector.judged),
    }
    real = apart.features[:HEALTH_ROWS]
    codes = _codes(len(real), detector.latent_dim)
    device = next(networks.parameters()).device
    generated = detector.generate(networks, codes.to(device))
    if generated is not None and len(real) >= FEWEST_JUDGED:
        rows = generated[0].cpu()
        facts["coverage"] = coverage(real, rows)
        facts["precision"] = precision(real, rows)
        facts["two_sample_accuracy"] = two_sample_accuracy(real, rows)
    return facts


def _spacing(rows: Tensor, rng: np.random.Generator) -> float:
    """Typical distance of a row to its nearest neighbour, a feature."""
    nearest = float(nearest_distances(rows, rng).median())
    return max(_NARROWEST, nearest / math.sqrt(rows.shape[1]))
