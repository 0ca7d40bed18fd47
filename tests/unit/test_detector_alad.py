"""ALAD: its four scores, its phases, its parameters."""

from __future__ import annotations

from typing import Any

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

from anomgan.detectors.alad import ALAD, SCORES
from anomgan.errors import UsageError


@pytest.mark.parametrize("score_by", SCORES)
def test_the_score_is_that_of_the_oracle(score_by: str) -> None:
    detector = ALAD(latent_dim=3, score_by=score_by)
    networks, rows = frozen(detector), correlated(4)
    by_feature, whole = parts(detector, networks, rows)
    plain = {name: lists(network) for name, network in networks.items()}
    for i, row in enumerate(rows):
        expected = oracle.alad(plain, row, score_by)
        for found, value in zip((by_feature, whole), expected, strict=True):
            if value is None:
                assert found is None
            else:
                assert found is not None
                np.testing.assert_allclose(found[i], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize(
    ("phase", "moved"),
    [
        ("discriminators", {"d_x", "d_z", "d_joint", "d_xx", "d_zz"}),
        ("generator", {"generator", "encoder"}),
    ],
)
def test_each_phase_changes_its_own_networks_and_no_others(
    phase: str, moved: set[str], spectral_norm: bool
) -> None:
    detector = ALAD(batch_rows=16, latent_dim=3, spectral_norm=spectral_norm)
    assert moved_by(detector, phase) == moved


def test_a_normalised_discriminator_has_slope_one_at_most() -> None:
    for name, network in frozen(ALAD(latent_dim=3)).items():
        norms = [np.linalg.norm(np.asarray(m, dtype=float), 2) for m in network.matrices]
        if name == "d_xx":
            np.testing.assert_allclose(norms, 1.0, rtol=1e-5)
        else:
            assert max(norms) > 1.2, name


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_score_above_all_training_rows(seed: int) -> None:
    assert far_above_all("alad", seed, n_steps=120, batch_rows=32)


def test_every_parameter_has_an_effect() -> None:
    changes = [{"score_by": "l1"}, {"spectral_norm": False}]
    assert idle_parameters("alad", changes, n_steps=8, batch_rows=16) == []


@pytest.mark.parametrize(
    "wrong", [{"score_by": "fm"}, {"spectral_norm": 1}, {"spectral_norm": "no"}, {"n_steps": True}]
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        ALAD(**wrong)
