"""What tests of a detector of the literature share: small tables, far rows, phases, effects."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.detectors.registry import DETECTORS
from anomgan.estimator import detector_class
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.nets.batched import Activation
from anomgan.scoring.program import TorchArithmetic
from anomgan.training.loop import Sampler, Trainer, TrainingPlan

Rows = NDArray[Any]
D = 5
QUICK: dict[str, Any] = {"n_steps": 20, "batch_rows": 32, "latent_dim": 4}
"""Enough to look at everything but accuracy."""
SHARED_CHANGES: tuple[dict[str, Any], ...] = (
    {"n_steps": 21},
    {"batch_rows": 33},
    {"plan_rows": 60},
    {"learning_rate": 2e-3},
    {"latent_dim": 3},
    {"ema_share": 0.3},
    {"max_calibration_rows": 20},
)
"""A change of each parameter that all detectors have."""


def correlated(n: int = 150, d: int = D, seed: int = 0) -> Rows:
    """Rows of d correlated columns, float64 [n, d]."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3.0)


def thrown(rows: Rows, seed: int = 0, by: float = 30.0, *, single: bool = True) -> Rows:
    """Rows thrown far away: in all columns with random signs, then in one column each."""
    rng = np.random.default_rng(seed)
    d = rows.shape[1]
    step = by * rows.std(axis=0)
    everywhere = rows[:20] + step * rng.choice([-1.0, 1.0], size=(20, d))
    if not single:
        return everywhere
    steps = np.concatenate([np.eye(d), -np.eye(d)])
    return np.concatenate([everywhere, *(rows[i : i + 1] + step * steps for i in range(5))])


def far_above_all(name: str, seed: int, *, single: bool = True, **parameters: Any) -> bool:
    """Tell whether each row thrown far away scores above every training row."""
    rows = correlated(seed=seed)
    detector = detector_class(name)(random_state=seed, **(QUICK | parameters)).fit(rows)
    far = detector.anomaly_score(thrown(rows, seed, single=single))
    return bool(far.min() > detector.anomaly_score(rows).max())


@functools.cache
def scores(name: str, seed: int = 0, **parameters: Any) -> Rows:
    """Scores of 60 fresh rows and 10 thrown ones, by a detector fitted to correlated rows."""
    rows = correlated(seed=seed)
    detector = detector_class(name)(random_state=seed, **(QUICK | parameters)).fit(rows)
    return detector.anomaly_score(np.concatenate([rows[:60] + 0.1, thrown(rows)[:10]]))


def idle_parameters(name: str, changes: Sequence[Mapping[str, Any]], **base: Any) -> list[str]:
    """Return changes that give no scores of their own, and parameters that none changes.

    `base` is what all fits have; changes of what all detectors have are added.
    """
    changes = [*SHARED_CHANGES, *changes]
    seen, idle = {scores(name, **base).tobytes()}, []
    for change in changes:
        found = scores(name, **(base | dict(change))).tobytes()
        if found in seen:
            idle.append(str(change))
        seen.add(found)
    return idle + sorted(set(DETECTORS[name].names()) - {key for c in changes for key in c})


def tiny_game(
    detector: Detector,
    rows: Rows | None = None,
    seed: int = 0,
    columns: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Detector, Game, Sampler]:
    """Bind a detector to correlated rows; return it, its untrained game and its sampler."""
    rows = correlated() if rows is None else rows
    data = torch.from_numpy(((rows - rows.mean(0)) / rows.std(0)).astype(np.float32))
    columns = columns or {f"x{i}": (i,) for i in range(data.shape[1])}
    sizes = Sizes(data.shape[1], columns)
    sampler = Sampler(data, 1, torch.Generator().manual_seed(seed + 1))
    bound = detector.bound(sizes)
    return bound, bound.game(sizes, sampler, torch.Generator().manual_seed(seed)), sampler


def moved_by(detector: Detector, phase: str) -> set[str]:
    """Names of the networks that a phase changes, when it is the only one of a short training."""
    _, game, sampler = tiny_game(detector)
    before = {k: v.clone() for k, v in game.networks.state_dict().items()}
    plan = TrainingPlan(8, 16, 1e-2, game.betas, game.weight_decay, 100.0, rates=game.rates)
    phases = [p for p in game.phases if p.name == phase]
    assert phases
    Trainer(game.networks, players=game.players, phases=phases, sampler=sampler, plan=plan).run()
    after = game.networks.state_dict()
    return {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])}


def tiny_network(
    widths: Sequence[int], seed: int, activation: Activation = "leaky_relu"
) -> FrozenNetwork:
    """A network with weights made by hand, as the score takes it."""
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(widths))
    return FrozenNetwork(
        tuple(rng.normal(size=p).astype(np.float32) for p in pairs),
        tuple(rng.normal(size=p[1]).astype(np.float32) for p in pairs),
        activation,
    )


def frozen(detector: Detector, seed: int = 3) -> dict[str, FrozenNetwork]:
    """A detector's untrained networks, with biases that are not 0, as the score takes them."""
    detector, game, _ = tiny_game(detector)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in game.networks.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    return detector.freeze(game.networks)


def lists(network: FrozenNetwork) -> tuple[Any, ...]:
    """A network as the oracles take it."""
    return (
        [m.tolist() for m in network.matrices],
        [b.tolist() for b in network.biases],
        network.activation,
    )


def parts(detector: Detector, networks: Mapping[str, FrozenNetwork], rows: Rows) -> tuple[Any, Any]:
    """Both parts of a score in torch, by feature [n, d] and whole [n], or None for either."""
    with torch.no_grad():
        x = torch.from_numpy(rows.astype(np.float32))
        found = detector.score(TorchArithmetic(), networks, x)
    by_feature = None if found.by_feature is None else found.by_feature.numpy()
    return by_feature, None if found.whole is None else found.whole.numpy()[:, 0]
