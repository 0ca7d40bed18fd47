"""GANomaly: its score, its phases, its parameters."""

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

from anomgan.detectors.ganomaly import GANomaly
from anomgan.errors import UsageError


def test_the_score_is_that_of_the_oracle() -> None:
    detector = GANomaly(latent_dim=3)
    networks, rows = frozen(detector), correlated(4)
    by_feature, whole = parts(detector, networks, rows)
    assert by_feature is None
    plain = {name: lists(network) for name, network in networks.items()}
    expected = [oracle.ganomaly(plain, row) for row in rows]
    np.testing.assert_allclose(whole, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("phase", "moved"),
    [("discriminator", {"discriminator"}), ("generator", {"encoder", "decoder", "recoder"})],
)
def test_each_phase_changes_its_own_networks_and_no_others(phase: str, moved: set[str]) -> None:
    assert moved_by(GANomaly(batch_rows=16, latent_dim=3), phase) == moved


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_score_above_all_training_rows(seed: int) -> None:
    # The gap of two codes can miss a row that is far in one column only.
    assert far_above_all("ganomaly", seed, single=False, n_steps=300, batch_rows=32)


def test_every_parameter_has_an_effect() -> None:
    changes = [{"w_adv": 5.0}, {"w_con": 5.0}, {"w_enc": 5.0}]
    assert idle_parameters("ganomaly", changes, n_steps=8, batch_rows=16) == []


@pytest.mark.parametrize("wrong", [{"w_adv": -1.0}, {"w_con": -1.0}, {"w_enc": 0.0}])
def test_a_wrong_parameter_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        GANomaly(**wrong)
