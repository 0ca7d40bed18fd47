"""MO-GAAL: sub-generators with targets of their own, and the discriminator's score."""

from __future__ import annotations

import numpy as np
import oracle_boxed
import pytest
import torch
from detector_checks import (
    far_above_all,
    idle_parameters,
    lists,
    moved_by,
    parts,
    tiny_game,
    tiny_network,
)
from torch.nn.functional import softplus

from anomgan.detectors.mo_gaal import MOGAAL, least_of_subsets, weights
from anomgan.errors import UsageError
from anomgan.nets.arithmetic import FrozenNetwork


@pytest.mark.parametrize("seed", range(5))
def test_rows_thrown_far_away_score_above_every_training_row(seed: int) -> None:
    assert far_above_all("mo-gaal", seed)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_each_phase_changes_its_own_networks_and_no_others(phase: str) -> None:
    assert moved_by(MOGAAL(latent_dim=4), phase) == {phase}


def test_the_score_is_minus_the_log_of_what_the_discriminator_believes() -> None:
    judge = tiny_network((2, 4, 3, 1), seed=2)
    low, high = np.array([-1.0, -0.5]), np.array([1.0, 0.5])
    networks = {"judge": judge, "box": FrozenNetwork.numbers(np.stack([low, high]))}
    rows = (2.0 * np.random.default_rng(1).normal(size=(12, 2))).astype(np.float32)
    by_feature, whole = parts(MOGAAL(), networks, rows)
    assert by_feature is None
    expected = [oracle_boxed.verdict(lists(judge), low, high, row.tolist()) for row in rows]
    np.testing.assert_allclose(whole, expected, rtol=2e-5)


def test_targets_are_the_least_outputs_of_equal_subsets() -> None:
    beliefs = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.8, 0.2])
    assert least_of_subsets(beliefs, 3).tolist() == pytest.approx([0.1, 0.3, 0.8])
    assert least_of_subsets(beliefs, 1).tolist() == pytest.approx([0.1])
    assert least_of_subsets(beliefs[:2], 4).tolist() == pytest.approx([0.1, 0.1, 0.9, 0.9])


def test_the_generators_losses_are_cross_entropies_with_their_targets() -> None:
    _, game, sampler = tiny_game(MOGAAL(latent_dim=2, n_generators=2, batch_rows=8))
    state = sampler.rng.get_state()
    phase = next(p for p in game.phases if p.name == "generator")
    found = phase.loss()["target"].item()
    sampler.rng.set_state(state)
    d = game.networks.discriminator
    beliefs = sorted(d(sampler.rows(8)).sigmoid()[0].tolist())
    codes = sampler.normal(2, 4, 2)[0]
    made = game.networks.generator(codes)
    expected = 0.0
    for i, target in enumerate((beliefs[0], beliefs[4])):
        for row in made[i]:
            p = d(row.reshape(1, 1, -1)).sigmoid().item()
            expected -= (target * np.log(p) + (1.0 - target) * np.log(1.0 - p)) / 4
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_first_generators_weigh_most() -> None:
    assert weights(3).tolist() == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    _, game, sampler = tiny_game(MOGAAL(latent_dim=2, n_generators=2, batch_rows=8))
    phase, d = game.phases[0], game.networks.discriminator
    state = sampler.rng.get_state()
    found = phase.loss()["made"].item()
    sampler.rng.set_state(state)
    sampler.rows(8)  # the draws before the codes: real rows, then uniform ones
    sampler.uniform(8, sampler.data.shape[1])
    made = game.networks.generator(sampler.normal(2, 4, 2)[0])
    each = [softplus(d(own.unsqueeze(0))).mean().item() for own in made]
    assert found == pytest.approx(0.5 * (each[0] * 2 / 3 + each[1] * 1 / 3), rel=1e-4)


CHANGES = [
    {"n_generators": 1},
    {"stop_share": 0.9},
    {"reference_share": 0.0},
    {"gradient_penalty": 4.0},
]


def test_every_parameter_has_an_effect() -> None:
    assert idle_parameters("mo-gaal", CHANGES) == []


def test_faults_are_raised_together() -> None:
    with pytest.raises(UsageError, match=r"n_generators is 0.*stop_share is 1.5"):
        MOGAAL(n_generators=0, stop_share=1.5)
