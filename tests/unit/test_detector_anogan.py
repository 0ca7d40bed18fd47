"""AnoGAN: its search, its phases, its parameters."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle_gan_scores as oracle
import pytest
import torch
from detector_checks import (
    correlated,
    far_above_all,
    frozen,
    idle_parameters,
    lists,
    moved_by,
    parts,
)

from anomgan.detectors.anogan import RESOLUTION, AnoGAN, _Search
from anomgan.errors import UsageError
from anomgan.literature import FACES
from anomgan.scoring.program import TorchArithmetic

TINY = AnoGAN(latent_dim=2, feature_weight=0.3, inversion_steps=15, inversion_rate=0.1)


def test_the_score_is_that_of_the_oracle() -> None:
    networks, rows = frozen(TINY), correlated(2)
    by_feature, whole = parts(TINY, networks, rows)
    plain = {name: lists(network) for name, network in networks.items()}
    for i, row in enumerate(rows):
        lost, doubt = oracle.anogan(plain, row, 0.3, 15, 0.1)
        np.testing.assert_allclose(by_feature[i], lost, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(whole[i], doubt, rtol=1e-3)


def test_the_gradient_is_that_of_the_loss() -> None:
    a, networks = TorchArithmetic(), frozen(TINY)
    x = torch.from_numpy(correlated(6).astype(np.float32))
    codes = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    features = a.network(x, networks["discriminator"])[-2]
    search = _Search(a, networks, 0.3, x, features, codes)
    (expected,) = torch.autograd.grad(search.loss.sum(), codes)
    torch.testing.assert_close(search.gradient(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.1, 1e4])
def test_a_walk_never_ends_worse_than_it_began(rate: float) -> None:
    networks, rows = frozen(TINY), correlated(40)
    totals = []
    for steps in (1, 40):
        detector = replace(TINY, inversion_steps=steps, inversion_rate=rate)
        by_feature, whole = parts(detector, networks, rows)
        totals.append(by_feature.sum(axis=1) + whole)
    plain = {name: lists(network) for name, network in networks.items()}
    begun = [oracle.anogan_parts(plain, row, 0.3, np.zeros(2)) for row in rows]
    start = np.array([sum(lost) + doubt + RESOLUTION for lost, doubt in begun])
    assert (totals[0] <= start * (1.0 + 1e-5)).all()
    assert (totals[1] <= start * (1.0 + 1e-5)).all()
    if rate < 1.0:
        assert (totals[1] < 0.9 * start).any()


def test_the_graph_agrees_where_the_generator_gives_every_row_back(tmp_path: Path) -> None:
    rows = correlated(100, 2)[:, :1]  # one column, one code: nothing is held back
    face = FACES["anogan"](
        n_steps=10,
        batch_rows=16,
        latent_dim=8,
        inversion_steps=150,
        inversion_rate=0.2,
        random_state=0,
    ).fit(rows)
    assert face.model_.facts["unit"] < 2.0 * RESOLUTION
    parity = face.save(tmp_path / "model").manifest.training["parity"]
    assert parity["max_relative"] < 1e-5


def test_scoring_changes_no_network() -> None:
    networks = frozen(TINY)
    before = [m.copy() for n in networks.values() for m in (*n.matrices, *n.biases)]
    parts(TINY, networks, correlated(5))
    after = [m for n in networks.values() for m in (*n.matrices, *n.biases)]
    assert all(np.array_equal(p, q) for p, q in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("phase", "moved"),
    [
        ("discriminator", "discriminator"),
        ("penalty", "discriminator"),
        ("generator", "generator"),
    ],
)
def test_each_phase_changes_its_own_network_and_no_other(phase: str, moved: str) -> None:
    assert moved_by(AnoGAN(batch_rows=16, latent_dim=3), phase) == {moved}


@pytest.mark.parametrize("seed", range(5))
def test_far_rows_score_above_all_training_rows(seed: int) -> None:
    assert far_above_all(
        "anogan", seed, n_steps=120, batch_rows=32, inversion_steps=40, latent_dim=2
    )


def test_every_parameter_has_an_effect() -> None:
    changes = [
        {"feature_weight": 0.5},
        {"inversion_steps": 6},
        {"inversion_rate": 0.2},
        {"penalty": 3.0},
    ]
    assert idle_parameters("anogan", changes, n_steps=8, batch_rows=16, inversion_steps=5) == []


@pytest.mark.parametrize(
    "wrong",
    [{"feature_weight": 1.5}, {"inversion_steps": 0}, {"inversion_rate": 0.0}, {"penalty": -1.0}],
)
def test_a_wrong_parameter_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AnoGAN(**wrong)
