"""EGBAD: its score, its phases, its parameters."""

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
)

from anomgan.detectors.egbad import EGBAD
from anomgan.errors import UsageError


@pytest.mark.parametrize("score_by", ["fm", "cross-e"])
def test_the_score_is_that_of_the_oracle(score_by: str) -> None:
    detector = EGBAD(latent_dim=3, score_by=score_by, alpha=0.7)
    networks, rows = frozen(detector), correlated(4)
    by_feature, whole = parts(detector, networks, rows)
    plain = {name: lists(network) for name, network in networks.items()}
    for i, row in enumerate(rows):
        lost, doubt = oracle.egbad(plain, row, 0.7, score_by)
        np.testing.assert_allclose(by_feature[i], lost, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole[i], doubt, rtol=1e-4)


@pytest.mark.parametrize(
    ("phase", "moved"),
    [
        ("discriminator", {"d_x", "d_z", "d_joint"}),
        ("penalty", {"d_x", "d_z", "d_joint"}),
        ("generator", {"generator", "encoder"}),
    ],
)
def test_each_phase_changes_its_own_networks_and_no_others(phase: str, moved: set[str]) -> None:
    assert moved_by(EGBAD(batch_rows=16, latent_dim=3), phase) == moved


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_score_above_all_training_rows(seed: int) -> None:
    assert far_above_all("egbad", seed, n_steps=120, batch_rows=32)


def test_every_parameter_has_an_effect() -> None:
    changes = [{"score_by": "cross-e"}, {"alpha": 0.5}, {"penalty": 3.0}]
    assert idle_parameters("egbad", changes, n_steps=8, batch_rows=16) == []


@pytest.mark.parametrize("wrong", [{"score_by": "l1"}, {"alpha": 1.1}, {"penalty": -1.0}])
def test_a_wrong_parameter_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        EGBAD(**wrong)
