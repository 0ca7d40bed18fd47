"""SO-GAAL: potential outliers, a generator that stops, and the discriminator's score."""

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

from anomgan.detectors.so_gaal import SOGAAL
from anomgan.errors import UsageError
from anomgan.nets.arithmetic import FrozenNetwork
from anomgan.scoring.program import TorchArithmetic


@pytest.mark.parametrize("seed", range(5))
def test_rows_thrown_far_away_score_above_every_training_row(seed: int) -> None:
    assert far_above_all("so-gaal", seed)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_each_phase_changes_its_own_network_and_no_other(phase: str) -> None:
    assert moved_by(SOGAAL(latent_dim=4), phase) == {phase}


def test_the_score_is_minus_the_log_of_what_the_discriminator_believes() -> None:
    judge = tiny_network((3, 5, 1), seed=0)
    low, high = np.array([-1.0, -0.5, -2.0]), np.array([1.0, 0.5, 2.0])
    networks = {"judge": judge, "box": FrozenNetwork.numbers(np.stack([low, high]))}
    rows = (2.0 * np.random.default_rng(1).normal(size=(12, 3))).astype(np.float32)
    by_feature, whole = parts(SOGAAL(), networks, rows)
    assert by_feature is None
    expected = [oracle_boxed.verdict(lists(judge), low, high, row.tolist()) for row in rows]
    np.testing.assert_allclose(whole, expected, rtol=2e-5)


def test_the_frozen_score_is_that_of_the_trained_discriminator() -> None:
    detector, game, sampler = tiny_game(SOGAAL(latent_dim=4))
    rows = 3.0 * sampler.data[:20]
    logits = game.networks.discriminator(rows.unsqueeze(0))[0]
    _, whole = parts(detector, detector.freeze(game.networks), rows.numpy())
    expected = torch.nn.functional.softplus(-logits).detach().numpy()
    np.testing.assert_allclose(whole, expected, rtol=1e-5)


def test_a_sure_discriminator_still_ranks_its_rows() -> None:
    logits = torch.linspace(5.0, 40.0, 200).unsqueeze(1)
    values = TorchArithmetic().softplus(-logits).double()
    expected = torch.log1p(torch.exp(-logits.double()))
    assert bool((values.diff(dim=0) < 0.0).all())
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0.0)


def test_the_box_leaves_out_a_percentile_on_each_side() -> None:
    rows = np.random.default_rng(0).normal(size=(500, 3))
    _, game, sampler = tiny_game(SOGAAL(), rows)
    box = game.networks.discriminator.box
    outside = box(sampler.data) != sampler.data
    assert outside.sum(dim=0).tolist() == [10, 10, 10]
    drawn = box.uniform(torch.rand(1000, 3))
    assert bool(((drawn >= box.low) & (drawn <= box.high)).all())


def test_the_generator_stops_early() -> None:
    _, game, _ = tiny_game(SOGAAL(stop_share=0.25))
    assert {p.name: p.stop for p in game.phases} == {"discriminator": 1.0, "generator": 0.25}


CHANGES = [
    {"stop_share": 0.9},
    {"reference_share": 0.1},
    {"reference_share": 0.0},
    {"reference_share": 1.0},
    {"gradient_penalty": 0.0},
    {"gradient_penalty": 4.0},
]


def test_every_parameter_has_an_effect() -> None:
    assert idle_parameters("so-gaal", CHANGES) == []


def test_faults_are_raised_together() -> None:
    with pytest.raises(UsageError, match=r"stop_share is 1.5.*reference_share is 2"):
        SOGAAL(stop_share=1.5, reference_share=2)
    with pytest.raises(UsageError, match="stop_share is 0, it must be above 0"):
        SOGAAL(stop_share=0)
