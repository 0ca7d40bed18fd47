"""What tests of a detector of the literature share: small tables, planted rows, phases."""

import functools
from itertools import pairwise

import numpy as np
import torch

from anomgan.detectors.base import Sizes
from anomgan.estimator import detector_class
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.scoring.program import TorchArithmetic
from anomgan.training.loop import Sampler, Trainer, TrainingPlan

D = 5
QUICK = {"n_steps": 20, "batch_rows": 32, "latent_dim": 4}
"""Enough to look at everything but accuracy."""


def correlated(n=150, d=D, seed=0):
    """Rows of d correlated columns, float64 [n, d]."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3.0


def thrown(rows, seed=0, by=30.0):
    """Rows thrown far away: in all columns with random signs, then in one column each."""
    rng = np.random.default_rng(seed)
    d = rows.shape[1]
    by = by * rows.std(axis=0)
    everywhere = rows[:20] + by * rng.choice([-1.0, 1.0], size=(20, d))
    steps = np.concatenate([np.eye(d), -np.eye(d)])
    single = np.concatenate([rows[i : i + 1] + by * steps for i in range(5)])
    return np.concatenate([everywhere, single])


@functools.cache
def scores(name, seed=0, **parameters):
    """Scores of 60 fresh rows and 10 thrown ones, by a detector fitted to correlated rows."""
    rows = correlated(seed=seed)
    detector = detector_class(name)(random_state=seed, **(QUICK | parameters)).fit(rows)
    return detector.anomaly_score(np.concatenate([rows[:60] + 0.1, thrown(rows)[:10]]))


def far_above_all(name, seed, **parameters):
    """Tell whether each row thrown far away scores above every training row."""
    rows = correlated(seed=seed)
    detector = detector_class(name)(random_state=seed, **(QUICK | parameters)).fit(rows)
    far, near = detector.anomaly_score(thrown(rows, seed)), detector.anomaly_score(rows)
    return bool(far.min() > near.max())


def tiny_game(detector, rows=None, seed=0, columns=None):
    """The game of a detector on correlated rows, and its sampler."""
    rows = correlated() if rows is None else rows
    rows = torch.from_numpy(((rows - rows.mean(0)) / rows.std(0)).astype(np.float32))
    columns = columns or {f"x{i}": (i,) for i in range(rows.shape[1])}
    sizes = Sizes(rows.shape[1], columns)
    sampler = Sampler(rows, 1, torch.Generator().manual_seed(seed + 1))
    bound = detector.bound(sizes)
    return bound, bound.game(sizes, sampler, torch.Generator().manual_seed(seed)), sampler


def moved_by(detector, phase):
    """Names of the networks that a phase changes, when it is the only one of a short training."""
    detector, game, sampler = tiny_game(detector)
    before = {k: v.detach().clone() for k, v in game.networks.named_parameters()}
    plan = TrainingPlan(6, 32, 1e-2, game.betas, game.weight_decay, 100.0, rates=game.rates)
    phases = [p for p in game.phases if p.name == phase]
    assert phases
    Trainer(game.networks, players=game.players, phases=phases, sampler=sampler, plan=plan).run()
    after = dict(game.networks.named_parameters())
    return {k.split(".")[0] for k, v in before.items() if not torch.equal(v, after[k])}


def tiny_network(widths, seed, activation="leaky_relu"):
    """A network with weights made by hand, as the score takes it."""
    rng = np.random.default_rng(seed)
    pairs = list(pairwise(widths))
    return FrozenNetwork(
        tuple(rng.normal(size=p).astype(np.float32) for p in pairs),
        tuple(rng.normal(size=p[1]).astype(np.float32) for p in pairs),
        activation,
    )


def lists(network):
    """A network as `oracle_networks` takes it."""
    return (
        [m.tolist() for m in network.matrices],
        [b.tolist() for b in network.biases],
        network.activation,
    )


def parts(detector, networks, rows):
    """Both parts of a score in torch, as numpy arrays or None."""
    with torch.no_grad():
        found = detector.score(TorchArithmetic(), networks, torch.from_numpy(rows))
    return tuple(None if p is None else p.numpy() for p in (found.by_feature, found.whole))
