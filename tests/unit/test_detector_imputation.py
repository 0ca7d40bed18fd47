"""Imputation: masks by column, GAIN's game, and the score of what is imputed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle_imputation
import pandas as pd
import pytest
import torch
from detector_checks import (
    correlated,
    far_above_all,
    idle_parameters,
    lists,
    moved_by,
    parts,
    tiny_game,
    tiny_network,
)

from anomgan.detectors.base import Sizes
from anomgan.detectors.imputation import Imputation, observed_rows
from anomgan.errors import UsageError
from anomgan.estimator import detector_class
from anomgan.nets.arithmetic import FrozenNetwork


@pytest.mark.parametrize("seed", range(5))
def test_rows_thrown_far_away_score_above_every_training_row(seed: int) -> None:
    assert far_above_all("imputation", seed)


@pytest.mark.parametrize("phase", ["discriminator", "generator"])
def test_each_phase_changes_its_own_network_and_no_other(phase: str) -> None:
    assert moved_by(Imputation(latent_dim=4), phase) == {phase}


def test_the_score_is_the_squared_error_of_each_masked_group() -> None:
    groups, d = ((0, 3), (1,), (2,)), 4
    generator = tiny_network((2 * d, 5, d), seed=0)
    low, high = np.array([-1.0, -0.5, -2.0, -1.5]), np.array([1.0, 0.5, 2.0, 1.5])
    spread = np.array([0.5, 1.0, 2.0, 0.25])
    networks = {
        "generator": generator,
        "box": FrozenNetwork.numbers(np.stack([low, high])),
        "spread": FrozenNetwork.numbers(spread.reshape(1, -1)),
    }
    rows = (1.5 * np.random.default_rng(1).normal(size=(12, d))).astype(np.float32)
    by_feature, whole = parts(replace(Imputation(), groups=groups), networks, rows)
    assert whole is None
    expected = [
        oracle_imputation.contributions(lists(generator), groups, low, high, spread, row.tolist())
        for row in rows
    ]
    np.testing.assert_allclose(by_feature, expected, rtol=1e-3, atol=1e-5)


def test_features_of_a_column_are_masked_together_and_many_columns_in_groups() -> None:
    columns = {"a": (0,), "none": (), "b": (1, 4), "c": (2,), "d": (3,)}
    assert Imputation().bound(Sizes(5, columns)).groups == ((0,), (1, 4), (2,), (3,))
    assert Imputation(max_groups=3).bound(Sizes(5, columns)).groups == ((0, 3), (1, 4), (2,))
    assert Imputation().bound(Sizes(2)).groups == ((0,), (1,))
    assert observed_rows(((0, 2), (1,)), 3).tolist() == [[0, 1, 0], [1, 0, 1]]


def test_what_is_imputed_for_a_column_does_not_depend_on_the_column() -> None:
    detector, game, _ = tiny_game(Imputation(latent_dim=4))
    networks = detector.freeze(game.networks)
    rows = np.zeros((2, 5), dtype=np.float32)
    rows[1, 2] = 50.0
    by_feature, _ = parts(detector, networks, rows)
    spread = networks["spread"].matrices[0][0]
    imputed = rows[:, 2] - np.sqrt(by_feature[:, 2]) * spread[2]
    other = rows[:, 2] + np.sqrt(by_feature[:, 2]) * spread[2]
    assert min(abs(imputed[1] - imputed[0]), abs(imputed[1] - other[0])) < 1e-4


def test_the_spread_is_the_upper_decile_of_the_training_errors() -> None:
    detector, game, sampler = tiny_game(Imputation(latent_dim=4))
    networks = detector.freeze(game.networks)
    by_feature, _ = parts(detector, networks, sampler.data.numpy())
    within = np.quantile(np.sqrt(by_feature), 0.9, axis=0)
    np.testing.assert_allclose(within, 1.6449, rtol=1e-3)


def test_a_broken_relation_is_found_though_each_column_is_normal_by_itself() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=600)
    rows = np.stack([a, -a + 0.1 * rng.normal(size=600), rng.normal(size=600)], axis=1)
    detector = detector_class("imputation")(n_steps=300, random_state=0).fit(rows[:500])
    wrong = rows[500:].copy()
    wrong[:, 1] = rng.permutation(wrong[:, 1])
    torn = np.abs(wrong[:, 0] + wrong[:, 1]) > 1.0
    found = detector.anomaly_score(wrong[torn])
    assert np.mean(found[:, None] > detector.anomaly_score(rows[500:])[None]) > 0.95
    shares = detector.contributions(wrong[torn])
    assert np.mean(shares[:, :2].sum(axis=1) > shares[:, 2]) > 0.95


def test_categories_and_missing_cells_are_scored() -> None:
    rng = np.random.default_rng(0)
    side = rng.choice(["left", "right"], size=200)
    table = pd.DataFrame({"side": side, "x": np.where(side == "left", -2.0, 2.0)})
    table["x"] += 0.2 * rng.normal(size=200)
    table.loc[::10, "x"] = np.nan
    detector = detector_class("imputation")(n_steps=200, random_state=0).fit(table)
    new = pd.DataFrame({"side": ["left", "right", "left", "left"], "x": [-2.0, 2.0, 2.0, np.nan]})
    left, right, swapped, missing = detector.anomaly_score(new)
    assert swapped > 3.0 * max(left, right)
    assert np.isfinite(missing)


CHANGES = [
    {"mask_share": 0.5},
    {"hint_share": 0.1},
    {"adversarial_weight": 0.0},
    {"max_groups": 2},
]


def test_every_parameter_has_an_effect() -> None:
    assert idle_parameters("imputation", CHANGES) == []


def test_faults_are_raised_together() -> None:
    with pytest.raises(UsageError, match=r"max_groups is 0.*mask_share is 1.*hint_share is 1"):
        Imputation(max_groups=0, mask_share=1.0, hint_share=1.0)


def test_scores_hang_on_the_noise_of_no_draw() -> None:
    detector = detector_class("imputation")(n_steps=20, random_state=0).fit(correlated())
    before = torch.random.get_rng_state()
    rows = correlated()[:10]
    assert np.array_equal(detector.anomaly_score(rows), detector.anomaly_score(rows))
    assert torch.equal(before, torch.random.get_rng_state())
