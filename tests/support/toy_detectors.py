"""Small correlated rows, and what every detector of the literature is asked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomgan.detectors.base import Detector, Sizes
from anomgan.literature import FACES
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.scoring.program import TorchArithmetic
from anomgan.training.loop import Sampler, Trainer, TrainingPlan

Rows = NDArray[np.float64]


def correlated(n: int = 240, d: int = 5, seed: int = 0) -> Rows:
    """Rows [n, d] around a curved sheet: two factors, one of them squared, and noise."""
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(n, 2))
    mixed = np.hstack([factors, factors[:, :1] ** 2]) @ np.random.default_rng(7).normal(size=(3, d))
    return np.asarray(mixed + 0.2 * rng.normal(size=(n, d)))


def far_out(rows: Rows, seed: int = 0) -> Rows:
    """Rows [20, d], each of them 30 deviations away from another row in a random direction."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(20, rows.shape[1]))
    direction /= np.abs(direction).max(axis=1, keepdims=True)
    return rows[:20] + 30.0 * rows.std(axis=0) * direction


def tiny_game(detector: Detector, d: int = 5) -> tuple[Any, Sampler]:
    """Make a detector's untrained game on toy rows, and its sampler."""
    rows = torch.from_numpy(correlated(64, d).astype(np.float32))
    sampler = Sampler(rows, 1, torch.Generator().manual_seed(1))
    return detector.game(Sizes(d), sampler, torch.Generator().manual_seed(0)), sampler


def moved_by(detector: Detector, phase: str) -> set[str]:
    """Return the networks that some steps of one phase change."""
    game, sampler = tiny_game(detector)
    before = {k: v.clone() for k, v in game.networks.state_dict().items()}
    Trainer(
        game.networks,
        players=game.players,
        phases=[p for p in game.phases if p.name == phase],
        sampler=sampler,
        plan=TrainingPlan(8, 16, 1e-3, (0.5, 0.99), 0.0, 300.0),
    ).run()
    after = game.networks.state_dict()
    return {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])}


def frozen(detector: Detector, d: int = 5, seed: int = 3) -> dict[str, FrozenNetwork]:
    """Freeze untrained networks, with biases that are not 0."""
    game, _ = tiny_game(detector, d)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in game.networks.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return detector.freeze(game.networks)


def scored(
    detector: Detector, networks: dict[str, FrozenNetwork], rows: Rows
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Run a detector's formula in torch: parts by feature [n, d] and whole [n]."""
    x = torch.from_numpy(rows.astype(np.float32))
    parts = detector.score(TorchArithmetic(), networks, x)
    by_feature = None if parts.by_feature is None else parts.by_feature.numpy()
    return by_feature, None if parts.whole is None else parts.whole.numpy()[:, 0]


def loops(network: FrozenNetwork) -> tuple[Any, ...]:
    """Give a network as the oracles take it."""
    return network.matrices, network.biases, network.activation


def far_rows_lead(name: str, seed: int, **parameters: Any) -> bool:
    """Whether planted far rows score above every row of the training."""
    rows = correlated(seed=seed)
    face = FACES[name](random_state=seed, **parameters).fit(rows)
    far, known = face.anomaly_score(far_out(rows, seed)), face.anomaly_score(rows)
    return bool(far.min() > known.max())


def idle_parameters(detector: Detector, changes: dict[str, Any]) -> list[str]:
    """Return the parameters without a change, or whose change leaves all scores as they are."""
    rows = correlated(120)

    def scores(parameters: Detector) -> NDArray[np.float64]:
        known = {name: getattr(parameters, name) for name in parameters.names()}
        fitted = FACES[detector.name](random_state=0, **known).fit(rows)
        return fitted.anomaly_score(rows)

    plain = scores(detector)
    changes = SHARED_CHANGES | changes
    idle = [
        k for k, v in changes.items() if np.array_equal(plain, scores(replace(detector, **{k: v})))
    ]
    return idle + sorted(set(detector.names()) - set(changes))


SHARED_CHANGES: dict[str, Any] = {
    "n_steps": 9,
    "batch_rows": 24,
    "plan_rows": 60,
    "learning_rate": 3e-3,
    "latent_dim": 2,
    "ema_share": 0.5,
    "max_calibration_rows": 11,
}
