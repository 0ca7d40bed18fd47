"""Synthetic sets: the planted truth is the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from anomgan.errors import DatasetError
from anomgan_datasets import gaussian_blocks, gaussian_grid, gaussian_ring, load, machine_log, names

GENERATORS = [gaussian_blocks, gaussian_grid, gaussian_ring, machine_log]


@pytest.mark.parametrize("generator", GENERATORS)
def test_counts_truth_and_seed(generator):
    made, again, other = (generator(300, 40, seed=seed) for seed in (5, 5, 6))
    assert len(made.X) == 340
    assert made.y.sum() == 40
    assert made.y.dtype == np.int8
    assert made.guilty.shape == made.X.shape
    np.testing.assert_array_equal(made.guilty.any(axis=1), made.y == 1)
    assert not (made.guilty & made.X.isna().to_numpy()).any()
    pd.testing.assert_frame_equal(made.X, again.X)
    np.testing.assert_array_equal(made.guilty, again.guilty)
    assert not made.X.equals(other.X)
    first_half = made.y[:170].sum()  # rows come shuffled: 20 expected, hypergeometric
    assert 4 < first_half < 36


@pytest.mark.parametrize("generator", GENERATORS)
def test_either_kind_of_row_may_be_left_out(generator):
    assert generator(50, 0).y.sum() == 0
    assert generator(0, 50).y.sum() == 50
    with pytest.raises(DatasetError, match="n_normal=0, n_anomalies=0: expected counts from 0"):
        generator(0, 0)
    with pytest.raises(DatasetError, match="n_normal=-1"):
        generator(-1, 5)


@pytest.mark.parametrize("name", names("synthetic"))
def test_registered_sets_carry_their_truth(name):
    dataset = load(name)
    np.testing.assert_array_equal(dataset.guilty.any(axis=1), dataset.y == 1)


@pytest.mark.parametrize(("generator", "n_modes"), [(gaussian_ring, 8), (gaussian_grid, 25)])
def test_normal_rows_cover_all_modes_and_anomalies_none(generator, n_modes):
    made = generator(2500, 500, seed=1)
    distance, mode = NearestNeighbors(n_neighbors=1).fit(made.modes).kneighbors(made.X.to_numpy())
    normal = made.y == 0
    assert set(mode[normal, 0]) == set(range(n_modes))
    # Rayleigh tail: P(beyond 5 spreads) = exp(-12.5), 2500 rows: below 1e-2, and the seed is fixed.
    assert distance[normal, 0].max() < 5 * made.spread
    assert distance[~normal, 0].min() > 5 * made.spread


def test_only_guilty_coordinates_leave_the_grid():
    made = gaussian_grid(500, 500, seed=2)
    off_line = np.abs(made.X - made.X.round()).to_numpy() > 0.4
    np.testing.assert_array_equal(off_line, made.guilty)
    assert {tuple(row) for row in made.guilty[made.y == 1]} == {(1, 0), (0, 1), (1, 1)}
    assert made.X.abs().max().max() < 2.6


def test_without_its_guilty_columns_a_row_of_blocks_is_normal():
    made = gaussian_blocks(4000, 200, seed=3)
    X = made.X.to_numpy()
    normal = X[made.y == 0]
    reference, held_out = normal[:3500], normal[3500:]
    nearest = NearestNeighbors(n_neighbors=1).fit(reference)
    usual = nearest.kneighbors(held_out)[0][:, 0]
    planted = nearest.kneighbors(X[made.y == 1])[0][:, 0]
    truth = np.r_[np.zeros(len(usual)), np.ones(len(planted))]
    assert roc_auc_score(truth, np.r_[usual, planted]) > 0.95
    innocent = []
    for row, guilty in zip(X[made.y == 1], made.guilty[made.y == 1], strict=True):
        assert 1 <= guilty.sum() <= 2
        gap = np.linalg.norm((reference - row)[:, ~guilty], axis=1)
        innocent.append(gap.min())
    assert 0.4 < roc_auc_score(truth, np.r_[usual, innocent]) < 0.6


def test_half_of_the_guilty_cells_of_blocks_are_ordinary_values():
    made = gaussian_blocks(4000, 400, seed=4)
    X, normal = made.X.to_numpy(), made.X.to_numpy()[made.y == 0]
    lowest, highest = normal.min(axis=0), normal.max(axis=0)
    inside = (lowest <= X) & (highest >= X)
    share = inside[made.guilty].mean()
    assert 0.45 < share < 0.9  # all turned cells, and few of those far out of their component


def test_the_machine_log_keeps_its_own_rules():
    made = machine_log(3000, 300, seed=5)
    X, normal = made.X, made.y == 0
    assert X["record_id"].is_unique
    assert X["time"].is_monotonic_increasing
    assert pd.api.types.is_datetime64_any_dtype(X["time"])
    assert pd.api.types.is_bool_dtype(X["door_open"])
    assert set(X.loc[normal, "mode"]) == {"idle", "cutting", "drilling", "polishing"}
    assert set(X.loc[normal & X["door_open"], "mode"]) == {"idle"}
    guilty = pd.DataFrame(made.guilty, columns=X.columns)
    assert set(X.loc[guilty["mode"], "mode"]) == {"welding"}
    busy = X[guilty["door_open"]]
    assert busy["door_open"].all()
    assert "idle" not in set(busy["mode"])
    expected = 0.5 + X["speed_rpm"] * X["load_pct"] / 12_000
    unexplained = (X["power_kw"] - expected).abs() > 1.5
    # A missing speed, load or power leaves nothing to compare.
    seen = expected.notna() & X["power_kw"].notna()
    np.testing.assert_array_equal(unexplained[seen], guilty.loc[seen, "power_kw"])
    assert guilty.sum(axis=1).max() == 1
    assert list(guilty.sum()[guilty.any()]) == [60] * 5


def test_the_missing_rate_is_kept():
    gaps = machine_log(5000, 0, missing_rate=0.1, seed=6).X.isna().mean()
    sensors = ["machine", "speed_rpm", "load_pct", "power_kw", "temperature_c"]
    # 5000 draws at 0.1: standard deviation 0.0042, bound at 6 of them.
    assert ((gaps[sensors] - 0.1).abs() < 0.026).all()
    assert (gaps.drop(sensors) == 0).all()
    assert machine_log(100, 10, missing_rate=0).X.notna().all(axis=None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gaussian_ring(spread=0.1), r"spread=0\.1: expected more than 0 and at most 0\.07"),
        (lambda: gaussian_grid(spread=0), "spread=0: expected more than 0"),
        (lambda: gaussian_blocks(block_width=2), "block_width=2: at least 1, 1 and 3 are needed"),
        (lambda: machine_log(missing_rate=0.7), r"missing_rate=0\.7: expected 0 to 0\.5"),
    ],
)
def test_impossible_arguments_are_refused(call, message):
    with pytest.raises(DatasetError, match=message):
        call()
