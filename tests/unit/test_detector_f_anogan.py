"""f-AnoGAN: its score, its stages, its parameters."""

from __future__ import annotations

import numpy as np
import oracle_gan_scores as oracle
import pytest
from detector_checks import (
    correlated,
    far_above_all,
    frozen,
    idle_parameters,
    lists,
    moved_by,
    parts,
    tiny_game,
)

from anomgan.detectors.f_anogan import FAnoGAN
from anomgan.errors import UsageError


def test_the_score_is_that_of_the_oracle() -> None:
    detector = FAnoGAN(latent_dim=3, kappa=2.0)
    networks, rows = frozen(detector), correlated(4)
    by_feature, whole = parts(detector, networks, rows)
    plain = {name: lists(network) for name, network in networks.items()}
    for i, row in enumerate(rows):
        lost, gap = oracle.f_anogan(plain, row, 2.0)
        np.testing.assert_allclose(by_feature[i], lost, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(whole[i], gap, rtol=1e-4)


@pytest.mark.parametrize("phase", ["critic", "generator", "encoder"])
def test_each_phase_changes_its_own_network_and_no_others(phase: str) -> None:
    assert moved_by(FAnoGAN(batch_rows=16, latent_dim=3), phase) == {phase}


def test_the_encoder_learns_when_the_game_is_over() -> None:
    _, game, _ = tiny_game(FAnoGAN(gan_share=0.25, critic_steps=3))
    windows = {p.name: (p.start, p.stop, p.repeats) for p in game.phases}
    assert windows == {
        "critic": (0.0, 0.25, 3),
        "generator": (0.0, 0.25, 1),
        "encoder": (0.25, 1.0, 1),
    }


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_score_above_all_training_rows(seed: int) -> None:
    assert far_above_all("f-anogan", seed, n_steps=120, batch_rows=32)


def test_every_parameter_has_an_effect() -> None:
    changes = [{"kappa": 2.0}, {"critic_steps": 2}, {"penalty": 1.0}, {"gan_share": 0.3}]
    assert idle_parameters("f-anogan", changes, n_steps=8, batch_rows=16) == []


@pytest.mark.parametrize(
    "wrong",
    [{"kappa": -1.0}, {"critic_steps": 0}, {"penalty": -1.0}, {"gan_share": 1.0}, {"n_steps": 1}],
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        FAnoGAN(**wrong)
