"""What a fit of a detector of the literature gives: trained, frozen, calibrated, judged.

The same for all of them; what differs is in `anomgan.detectors`. The flagship's counterpart is
`anomgan.flagship`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import cast

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
    evenly,
    far_auroc,
    generator_facts,
    generator_judge,
    nearest_distances,
    torch_seed,
)
from anomgan.nets.threads import one_thread
from anomgan.scoring.program import (
    PASS_ROWS,
    ProgramScore,
    ProgramSettings,
    TorchArithmetic,
)
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.folds import Division
from anomgan.training.health import Health, coverage, judge
from anomgan.training.loop import Sampler, Trainer, TrainingPlan, TrainingRecord
from anomgan.training.selection import FIRST_KEPT, Selection

__all__ = ["learn"]

logger = logging.getLogger(__name__)

_MEMORY_ROWS = 8192
_CHECKED_ROWS = 1000
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
    detector = detector.grown(len(division.trained)).bound(sizes)
    draws = torch.Generator(device=device).manual_seed(torch_seed(seed) + 1)
    sampler = division.sampler(features, draws)
    game = detector.game(sizes, sampler, torch.Generator().manual_seed(torch_seed(seed)))
    fingerprint = _fingerprint(features, division, detector, seed)
    trainer = _trainer(game, detector, sampler, apart, control, fingerprint, started)
    record = trainer.run(progress=control.progress, stop_requested=control.stop_requested)
    if record.stopped_by_deadline:
        logger.info("training ended at step %d for --max-time", record.steps_run)
    score, position = _freeze(game.networks, detector, features, encoder, rng)
    values = score.values(apart.features)
    score = score.in_units_of(values)
    scores = score.scores_of(values, apart.surprise)
    facts = _health_facts(game.networks, detector, apart, scores, record)
    facts["far_auroc"] = far_auroc(score, apart.features, scores)
    return Learnt(
        score=score,
        scores=scores,
        health=_verdict(judge(facts), game, record),
        record=record,
        networks={k: v.cpu() for k, v in game.networks.state_dict().items()},
        parameters=detector,
        facts={"n_memory": len(score.memory_rows), "unit": score.settings.unit},
        position=position[division.calibrating],
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
    unseen = evenly(apart.features, MONITOR_ROWS).to(sampler.data.device)
    made = _made(game.networks, detector, unseen)
    judge = None if made is None else generator_judge([unseen], made)

    def monitor() -> dict[str, float]:
        if made is None or len(unseen) < FEWEST_JUDGED:
            return {}
        return {"coverage": coverage(unseen, made()[0])}

    return Trainer(
        game.networks,
        players=game.players,
        phases=game.phases,
        sampler=sampler,
        plan=_plan(game, detector, control, started, _cost_after(game, detector, apart, control)),
        checkpointer=None if control.checkpoint is None else control.checkpoint(fingerprint),
        monitor=monitor,
        selection=None if judge is None else Selection(judge, first=_first_kept(game)),
    )


def _made(networks: nn.Module, detector: Detector, unseen: Tensor) -> Callable[[], Tensor] | None:
    """Make as many rows as the unseen ones [v, d], always from the same codes: [1, v, d].

    None where no generator is meant to give normal rows.
    """
    codes = _codes(len(unseen), detector.latent_dim).to(unseen.device)

    @torch.no_grad()
    def made() -> Tensor | None:
        return detector.generate(networks, codes)

    # A detector has a generator always or never.
    return None if made() is None else cast(Callable[[], Tensor], made)


def _first_kept(game: Game) -> float:
    """Return the share of the steps from which averages are kept.

    In a training in stages that is well within the last one. What learns there would else be
    lost for a generator that has ended before.
    """
    last_stage = max(phase.start for phase in game.phases)
    return last_stage + FIRST_KEPT * (1.0 - last_stage)


def _cost_after(game: Game, detector: Detector, apart: Apart, control: FitControl) -> float:
    """Seconds that scoring takes once training has ended; measured where time is limited."""
    if control.max_time_s is None:
        return 0.0
    networks, arithmetic = detector.freeze(game.networks), TorchArithmetic()
    rows = torch.zeros(PASS_ROWS, apart.features.shape[1])
    began = time.perf_counter()
    with torch.no_grad(), one_thread():
        detector.score(arithmetic, networks, rows)
    a_pass = time.perf_counter() - began
    n_calibrating, n_checked = len(apart.features), 2 * _CHECKED_ROWS
    n_passes = -(-n_calibrating // PASS_ROWS) + -(-HEALTH_ROWS // PASS_ROWS)
    # The check of an export scores in torch and in onnxruntime.
    return a_pass * (n_passes + 2 * -(-n_checked // PASS_ROWS))


def _codes(n: int, latent_dim: int) -> Tensor:
    """Draw the codes that generators are judged by, [1, n, k]: always the same."""
    return torch.randn((1, n, latent_dim), generator=torch.Generator().manual_seed(0))


def _plan(
    game: Game, detector: Detector, control: FitControl, started: float, after_s: float
) -> TrainingPlan:
    return TrainingPlan(
        n_steps=detector.n_steps,
        batch_rows=detector.batch_rows,
        learning_rate=detector.learning_rate,
        betas=game.betas,
        weight_decay=game.weight_decay,
        ema_half_life_samples=detector.ema_share * detector.n_steps * detector.batch_rows,
        deadline=control.deadline(started, after_s=after_s),
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
    rng: np.random.Generator,
) -> tuple[ProgramScore, Tensor]:
    """Copy the networks out, and keep rows for explanations; also where each row stands there."""
    rows, counts, position = distinct_rows(features, _MEMORY_ROWS, rng)
    score = ProgramScore(
        formula=detector,
        networks=detector.freeze(networks),
        memory_rows=rows.cpu(),
        memory_counts=counts.cpu(),
        feature_column=torch.from_numpy(encoder.feature_column),
        n_columns=encoder.n_columns,
        settings=ProgramSettings(unit=1.0, kernel_width=_spacing(rows, rng)),
    )
    return score, position


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
        **record.health_facts(),
        "calibration_rows": float(len(scores)),
        "generator": float(detector.judged),
    }
    real = evenly(apart.features, HEALTH_ROWS)
    codes = _codes(len(real), detector.latent_dim)
    device = next(networks.parameters()).device
    generated = detector.generate(networks, codes.to(device))
    if generated is not None:
        facts |= generator_facts([real], generated.cpu())
    return facts


def _verdict(health: Health, game: Game, record: TrainingRecord) -> Health:
    """Fail a training in which a phase never ran, as with stages and too little time."""
    run = {loss.split(".")[0] for snapshot in record.history for loss in snapshot}
    missing = [phase.name for phase in game.phases if phase.name not in run]
    if not missing:
        return health
    reason = f"training ended before its phase {', '.join(missing)}: give it more steps or time"
    return Health("failed", (reason, *health.reasons), health.facts)


def _spacing(rows: Tensor, rng: np.random.Generator) -> float:
    """Typical distance of a row to its nearest neighbour, a feature."""
    nearest = float(nearest_distances(rows, rng).median())
    return max(_NARROWEST, nearest / math.sqrt(rows.shape[1]))
