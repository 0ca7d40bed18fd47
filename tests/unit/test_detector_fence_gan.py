"""Fence-GAN: encirclement, dispersion, and the discriminator's score."""

from __future__ import annotations

import numpy as np
import oracle_boxed
import pytest
from detector_checks import (
    far_above_all,
    idle_parameters,
    lists,
    moved_by,
    parts,
    tiny_game,
    tiny_network,
)

from anomgan.detectors.fence_gan import FenceGAN
from anomgan.errors import UsageError
from anomgan.nets.arithmetic import FrozenNetwork


@pytest.mark.parametrize("seed", range(5))
def test_rows_thrown_far_away_score_above_every_training_row(seed: int) -> None:
    assert far_above_all("fence-gan", seed)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_each_phase_changes_its_own_network_and_no_other(phase: str) -> None:
    assert moved_by(FenceGAN(latent_dim=4), phase) == {phase}


def test_the_score_is_minus_the_log_of_what_the_discriminator_believes() -> None:
    judge = tiny_network((2, 4, 1), seed=3)
    low, high = np.array([-1.0, -0.5]), np.array([1.0, 0.5])
    networks = {"judge": judge, "box": FrozenNetwork.numbers(np.stack([low, high]))}
    rows = (2.0 * np.random.default_rng(1).normal(size=(12, 2))).astype(np.float32)
    by_feature, whole = parts(FenceGAN(), networks, rows)
    assert by_feature is None
    expected = [oracle_boxed.verdict(lists(judge), low, high, row.tolist()) for row in rows]
    np.testing.assert_allclose(whole, expected, rtol=2e-5)


def test_the_generators_losses_are_those_of_the_paper() -> None:
    detector = FenceGAN(latent_dim=2, batch_rows=6, alpha=0.4, beta=3.0)
    _, game, sampler = tiny_game(detector)
    state = sampler.rng.get_state()
    found = next(p for p in game.phases if p.name == "generator").loss()
    sampler.rng.set_state(state)
    made = game.networks.generator(sampler.normal(6, 2))
    beliefs = game.networks.discriminator(made).sigmoid()[0].tolist()
    rows = made[0].detach().double().numpy()
    distance = np.mean([np.linalg.norm(row - rows.mean(axis=0)) for row in rows])
    encirclement = np.mean([abs(0.4 - p) for p in beliefs])
    assert found["encirclement"].item() == pytest.approx(encirclement, rel=1e-4)
    assert found["dispersion"].item() == pytest.approx(3.0 / distance, rel=1e-4)


CHANGES = [
    {"alpha": 0.3},
    {"beta": 15.0},
    {"gamma": 0.5},
    {"reference_weight": 0.0},
    {"gradient_penalty": 4.0},
]


def test_every_parameter_has_an_effect() -> None:
    assert idle_parameters("fence-gan", CHANGES) == []


def test_faults_are_raised_together() -> None:
    with pytest.raises(UsageError, match=r"gamma is 0.*alpha is 1.0, it must be below 1"):
        FenceGAN(gamma=0, alpha=1.0)
