"""Splits: protocol `clean` gives the published baselines, and the halves are what they claim."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

import anomgan_datasets
from anomgan.errors import DatasetError
from anomgan_datasets import clean_split, load, published_split, table_split


@pytest.fixture(scope="module")
def data_dir() -> Path:
    root = anomgan_datasets.data_dir()
    if not (root / "README.md").is_file():
        pytest.skip(f"no data at {root}: set ANOMGAN_DATA_DIR")
    return root


# All have an odd number of normal rows, so that the rounding of the half shows in the figures:
# 33.5 and 59.5 are rounded up, 154.5 and 112.5 down.
@pytest.mark.parametrize("name", ["15_Hepatitis", "45_wine", "37_Stamps", "18_Ionosphere"])
def test_protocol_clean_gives_the_known_nearest_neighbour_figures(name, data_dir):
    with (data_dir / "adbench" / "baselines_clean.csv").open(encoding="utf-8") as file:
        known = next(r for r in csv.DictReader(file) if (r["set"], r["method"]) == (name, "knn1"))
    dataset = load(name, data_dir=data_dir)
    aurocs, precisions = [], []
    for seed in range(3):
        split = clean_split(dataset.X, dataset.y, seed).standardised()
        nearest = NearestNeighbors(n_neighbors=1).fit(split.X_train)
        distance = nearest.kneighbors(split.X_test)[0][:, 0]
        aurocs.append(roc_auc_score(split.y_test, distance))
        precisions.append(average_precision_score(split.y_test, distance))
    assert np.mean(aurocs) == pytest.approx(float(known["auroc"]), abs=2e-4)
    assert np.mean(precisions) == pytest.approx(float(known["average_precision"]), abs=2e-4)


@settings(max_examples=50, deadline=None)
@given(
    y=st.lists(st.integers(0, 1), min_size=3, max_size=60).filter(lambda y: y.count(0) >= 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_clean_halves_are_disjoint_and_complete(y, seed):
    labels = np.array(y)
    X = np.arange(len(y), dtype=np.float64)[:, None]
    split = clean_split(X, labels, seed)
    assert sorted([*split.train_rows, *split.test_rows]) == list(range(len(y)))
    assert not labels[split.train_rows].any()
    np.testing.assert_array_equal(labels[split.test_rows], split.y_test)
    assert len(split.train_rows) == round(y.count(0) / 2)
    np.testing.assert_array_equal(split.X_train[:, 0], split.train_rows)
    np.testing.assert_array_equal(split.X_test[:, 0], split.test_rows)


def test_clean_follows_its_recipe_step_by_step():
    y = (np.arange(12_500) % 7 == 0).astype(np.int8)
    shuffled = list(range(12_500))
    np.random.default_rng(3).shuffle(shuffled)  # the same draws as permutation
    kept = shuffled[:10_000]
    normal = [row for row in kept if y[row] == 0]
    half = round(len(normal) / 2)
    split = clean_split(np.zeros((12_500, 1)), y, 3)
    assert list(split.train_rows) == normal[:half]
    assert list(split.test_rows) == normal[half:] + [row for row in kept if y[row] == 1]


def test_clean_takes_frames_and_arrays_alike():
    dataset = load("wine")
    framed = clean_split(dataset.X, dataset.y, 0)
    plain = clean_split(dataset.X.to_numpy(), dataset.y.astype(bool), 0)
    assert isinstance(framed.X_train, pd.DataFrame)
    assert list(framed.X_train.index) == list(range(65))
    np.testing.assert_array_equal(framed.X_train.to_numpy(), plain.X_train)
    np.testing.assert_array_equal(framed.y_test, plain.y_test)
    assert framed.y_test.sum() == dataset.y.sum() == 48


def test_seeds_differ_and_repeat_without_touching_the_global_state():
    dataset = load("wine")
    before = np.random.get_state()[1].copy()
    first, again, other = (clean_split(dataset.X, dataset.y, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.train_rows, again.train_rows)
    assert set(first.train_rows) != set(other.train_rows)
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_standardised_scales_by_the_training_rows():
    X = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0], [7.0, 5.0], [9.0, 6.0]])
    split = clean_split(X, [0, 0, 0, 0, 1], 0)
    scaled = split.standardised()
    np.testing.assert_allclose(scaled.X_train.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.X_train.std(axis=0), [1, 0], atol=1e-12)
    # The anomaly comes last; the constant column is centred only: 6 - 5.
    assert scaled.X_test[-1, 1] == 1.0
    np.testing.assert_array_equal(split.X_test[-1], X[4])  # the split itself is untouched


def test_text_cannot_be_standardised():
    frame = pd.DataFrame({"a": ["x", "y", "z"]})
    with pytest.raises(DatasetError, match="columns that are not numeric"):
        clean_split(frame, [0, 0, 1], 0).standardised()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 0], "3 rows but 2 labels"),
        ([0, 1, 2], "found 2"),
        ([0.0, 1.0, 0.0], r"as integers; found 0\.0, 1\.0"),
        (["0", "1", "0"], "as integers; found <U1"),
        ([[0], [1], [0]], r"found int64 \[3, 1\]"),
        ([0, 1, 1], "1 normal rows: at least 2"),
    ],
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(DatasetError, match=message):
        clean_split(np.zeros((3, 2)), y, 0)


def test_own_files_are_used_where_a_table_has_them(data_dir):
    dataset = load("nsl_kdd", data_dir=data_dir)
    split = table_split(dataset, seed=0)
    assert len(split.X_train) == 25_192 - 11_743
    assert not dataset.train[1][split.train_rows].any()
    assert split.X_test is dataset.X
    assert split.y_test.sum() == 12_833
    np.testing.assert_array_equal(split.train_rows, table_split(dataset, seed=1).train_rows)


def test_other_tables_are_split_60_to_40(data_dir):
    dataset = load("ai4i2020", data_dir=data_dir)
    split, other = table_split(dataset, seed=0), table_split(dataset, seed=1)
    assert len(split.train_rows) == 5796  # 60 % of 9661 normal rows, rounded down
    assert len(split.test_rows) == 10_000 - 5796
    assert not set(split.train_rows) & set(split.test_rows)
    assert not dataset.y[split.train_rows].any()
    assert split.y_test.sum() == 339
    assert (np.diff(split.train_rows) > 0).all()  # in the order of the file
    assert (np.diff(split.test_rows) > 0).all()
    assert set(split.train_rows) != set(other.train_rows)
    pd.testing.assert_frame_equal(
        split.X_test, dataset.X.iloc[split.test_rows].reset_index(drop=True)
    )


def _file_order(n_normal, n_anomalies):
    y = np.zeros(n_normal + n_anomalies, dtype=np.int64)
    y[np.linspace(0, len(y) - 1, n_anomalies).astype(int)] = 1
    return np.arange(len(y))[:, None], y


def test_published_takes_the_first_half_in_file_order_where_nothing_is_drawn():
    X, y = _file_order(1_001, 30)
    split = published_split(X, y, seed=3)
    normal = np.flatnonzero(y == 0)
    np.testing.assert_array_equal(split.train_rows, normal[:500])  # 500.5 goes to the even number
    np.testing.assert_array_equal(split.X_train[:, 0], normal[:500])
    np.testing.assert_array_equal(
        split.test_rows, np.concatenate([normal[500:], np.flatnonzero(y)])
    )
    np.testing.assert_array_equal(split.y_test, y[split.test_rows])
    np.testing.assert_array_equal(published_split(X, y, seed=4).train_rows, split.train_rows)


def test_published_resamples_small_sets_to_a_thousand_rows():
    X, y = _file_order(100, 20)
    state = np.random.get_state()[1].copy()
    split = published_split(X, y, seed=1)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    drawn = np.random.RandomState(1).choice(np.arange(120), 1_000, replace=True)
    normal = drawn[y[drawn] == 0]
    half = round(len(normal) / 2)
    np.testing.assert_array_equal(split.train_rows, normal[:half])
    np.testing.assert_array_equal(
        split.test_rows, np.concatenate([normal[half:], drawn[y[drawn] == 1]])
    )
    assert set(split.train_rows) & set(split.test_rows)  # the leak that the docstring tells of
    assert not np.array_equal(published_split(X, y, seed=2).train_rows, split.train_rows)


def test_published_subsamples_large_sets_without_repeats():
    X, y = _file_order(50_100, 900)
    split = published_split(X, y, seed=0)
    kept = np.concatenate([split.train_rows, split.test_rows])
    assert len(kept) == len(set(kept)) == 50_000
    assert abs(len(split.train_rows) - (50_000 - y[kept].sum()) / 2) <= 0.5
    assert not y[split.train_rows].any()


def test_published_refuses_lengths_that_differ():
    with pytest.raises(DatasetError, match="2 rows but 3 labels"):
        published_split(np.zeros((2, 1)), [0, 0, 1], 0)


@settings(max_examples=50, deadline=None)
@given(
    y=st.lists(st.integers(0, 1), min_size=4, max_size=80).filter(lambda y: y.count(0) >= 2),
    seed=st.integers(0, 2**32 - 1),
    contamination=st.floats(0.0, 0.5),
)
def test_contaminated_training_rows_are_anomalies_that_are_not_tested(y, seed, contamination):
    labels = np.array(y)
    X = np.arange(len(y), dtype=np.float64)[:, None]
    pure = clean_split(X, labels, seed)
    split = clean_split(X, labels, seed, contamination=contamination)
    n_foul = min(round(contamination * len(pure.train_rows)), y.count(1) // 2)
    foul = split.train_rows[labels[split.train_rows] == 1]
    assert len(foul) == n_foul
    assert len(split.train_rows) == len(pure.train_rows)
    assert set(split.train_rows[: len(split.train_rows) - n_foul]) <= set(pure.train_rows)
    assert sorted([*foul, *split.test_rows]) == sorted(pure.test_rows)
    np.testing.assert_array_equal(labels[split.test_rows], split.y_test)


@pytest.mark.parametrize("contamination", [-0.1, 0.6, float("nan")])
def test_contamination_out_of_range_is_refused(contamination):
    with pytest.raises(DatasetError, match=r"contamination is .*, it must lie in \[0, 0.5\]"):
        clean_split(np.zeros((4, 1)), [0, 0, 0, 1], 0, contamination=contamination)
