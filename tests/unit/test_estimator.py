"""GANDetector as scikit-learn sees it, and what it promises beyond."""

from __future__ import annotations

import hashlib
import inspect
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_outliers_fit_predict,
    check_outliers_train,
    parametrize_with_checks,
)

from anomgan import GANDetector
from anomgan.errors import AnomganError, InputError, UsageError
from anomgan.nets.precision import bfloat16_is_fast

SHORT: dict[str, Any] = {
    "n_steps": 30,
    "batch_rows": 32,
    "generator_width": 16,
    "discriminator_width": 32,
    "random_state": 0,
    "device": "cpu",
}

EXPECTED_FAILURES = {
    "check_dataframe_column_names_consistency": (
        "columns are found by name: order does not matter and extra columns are ignored, where "
        "scikit-learn wants an error for either"
    ),
    "check_outliers_train": (
        "wants some of 300 normal rows flagged, where a false-alarm rate of 1 % may flag none; "
        "it is run with a rate of 10 % below"
    ),
    "check_outliers_fit_predict": "as check_outliers_train",
}


@parametrize_with_checks(
    [GANDetector(**SHORT), GANDetector(**SHORT, calibration="cross", n_members=2)],
    expected_failed_checks=lambda estimator: EXPECTED_FAILURES,
)
def test_scikit_learn_checks(estimator: GANDetector, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("check", [check_outliers_train, check_outliers_fit_predict])
def test_scikit_learn_checks_that_want_flagged_training_rows(check: Any) -> None:
    check("GANDetector", GANDetector(**SHORT, false_alarm_rate=0.1))


@pytest.fixture(scope="module")
def tumours() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Benign rows to learn from; other rows with 1 = malignant."""
    data = load_breast_cancer()
    benign = data.data[data.target == 1]
    test = np.concatenate([benign[214:], data.data[data.target == 0]])
    y = np.r_[np.zeros(len(benign) - 214, int), np.ones((data.target == 0).sum(), int)]
    return benign[:214], test, y


@pytest.fixture(scope="module")
def detector(tumours: tuple[np.ndarray, np.ndarray, np.ndarray]) -> GANDetector:
    return GANDetector(**SHORT).fit(tumours[0])


def test_fit_returns_self_and_changes_no_parameter(
    tumours: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    estimator = GANDetector(**SHORT)
    before = estimator.get_params()
    assert estimator.fit(tumours[0]) is estimator
    assert estimator.get_params() == before


def test_clone_and_set_params(detector: GANDetector) -> None:
    copy = clone(detector)
    assert copy.get_params() == detector.get_params()
    assert not hasattr(copy, "model_")
    assert copy.set_params(n_members=3).n_members == 3


def test_polarity_names_agree(
    detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    test = tumours[1]
    score = detector.anomaly_score(test)
    assert (detector.score_samples(test) == -score).all()
    assert (detector.decision_function(test) == -score - detector.offset_).all()
    flagged = detector.predict(test) == -1
    assert (flagged == (score >= detector.threshold_)).all()
    assert (
        flagged == (detector.p_values(test) <= detector.model_.calibrator.false_alarm_rate)
    ).all()
    assert flagged.any()
    assert not flagged.all()


@pytest.mark.parametrize("seed", range(5))
def test_planted_far_outliers_score_above_every_training_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 4)) @ rng.normal(size=(4, 4))
    far = 12.0 * X.std(axis=0) * rng.choice([-1.0, 1.0], size=(40, 4))
    estimator = GANDetector(**SHORT | {"random_state": seed}).fit(X)
    assert estimator.anomaly_score(far).min() > estimator.anomaly_score(X).max()
    assert (estimator.predict(far) == -1).all()


def test_works_in_a_pipeline(tumours: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    train, test, y = tumours
    pipeline = make_pipeline(StandardScaler(), GANDetector(**SHORT)).fit(train)
    assert roc_auc_score(y, -pipeline.score_samples(test)) > 0.9


def test_grid_search_without_labels(tumours: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """A criterion that needs no label: held-out rows against rows with shuffled columns."""

    def separation(estimator: GANDetector, X: np.ndarray, y: Any = None) -> float:
        rng = np.random.default_rng(0)
        shuffled = np.stack([rng.permutation(column) for column in X.T], axis=1)
        truth = np.r_[np.zeros(len(X)), np.ones(len(X))]
        return float(roc_auc_score(truth, estimator.anomaly_score(np.concatenate([X, shuffled]))))

    search = GridSearchCV(
        GANDetector(**SHORT), {"inversion_share": [0.0, 0.3]}, scoring=separation, cv=2
    ).fit(tumours[0])
    assert 0.6 < search.best_score_ <= 1.0
    assert search.best_estimator_.predict(tumours[1]).shape == (len(tumours[1]),)


CHANGED: dict[str, Any] = {
    "n_members": 3,
    "n_steps": 31,
    "batch_rows": 40,
    "learning_rate": 2e-3,
    "latent_dim": 3,
    "generator_width": 24,
    "discriminator_width": 24,
    "adversarial_weight": 0.5,
    "gradient_penalty": 5.0,
    "reconstruction_weight": 1.0,
    "cycle_weight": 5.0,
    "discriminator_steps": 2,
    "discriminator_rate": 2.0,
    "unrolled_steps": 1,
    "instance_noise": 0.3,
    "label_smoothing": 0.1,
    "feature_matching": 1.0,
    "initialisation": "orthogonal",
    "spectral_norm": True,
    "bfloat16": False,
    "ema_share": 0.01,
    "inversion_steps": 0,
    "memory_size": 40,
    "discriminator_bound": 1.0,
    "inversion_share": 0.7,
    "max_calibration_rows": 20,
    "calibration": "cross",
    "false_alarm_rate": 0.2,
    "random_state": 1,
}


@pytest.mark.parametrize("name", sorted(inspect.signature(GANDetector).parameters))
def test_every_parameter_has_an_effect(
    name: str, detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    train, test, _ = tumours
    if name in ("objective", "device"):
        with pytest.raises(UsageError, match=r"choose one of|use 'auto' or 'cpu'"):
            GANDetector(**SHORT | {name: "nonsense"}).fit(train)
        return
    if name == "calibrate_by":  # what it does to a table is told in test_groups.py
        with pytest.raises(UsageError, match="names a column, and the columns of an array"):
            GANDetector(**SHORT | {name: "x0"}).fit(train)
        return
    if name == "max_time":
        slow = GANDetector(**SHORT | {"n_steps": 10**7, "max_time": 3.0}).fit(train)
        assert slow.model_.record.stopped_by_deadline
        assert slow.model_.record.steps_run < 10**6
        return
    if name == "bfloat16" and not bfloat16_is_fast():
        pytest.skip("this processor has no units for bfloat16")
    if name == "label_smoothing":  # the default objective has no labels
        detector = GANDetector(**SHORT, objective="minimax").fit(train)
    changed = {"objective": detector.objective, name: CHANGED[name]}
    other = GANDetector(**SHORT | changed).fit(train)
    assert (
        not np.array_equal(other.anomaly_score(test), detector.anomaly_score(test))
        or other.threshold_ != detector.threshold_
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_members": 0}, "n_members is 0, it must be at least 1"),
        ({"inversion_steps": 10_001}, "inversion_steps is 10,001, it must be at most 10,000"),
        (
            {"n_members": 4, "discriminator_width": 600_000},
            "discriminator_width is 600,000, it must be at most 524,288 with 4 members",
        ),
        ({"inversion_share": 1.5}, r"inversion_share is 1.5, it must lie in \[0, 1\]"),
        ({"inversion_share": -0.1}, r"inversion_share is -0.1, it must lie in \[0, 1\]"),
        ({"memory_size": 1}, "memory_size is 1, it must be at least 2"),
        ({"discriminator_bound": -0.5}, "discriminator_bound is -0.5, it must not be negative"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, it must be above 0"),
        ({"random_state": -1}, "random_state is -1, it must not be negative"),
        ({"max_time": -1.0}, "max_time is -1.0: give seconds above 0, or None"),
        ({"n_steps": 0, "cycle_weight": -1.0}, "n_steps is 0.*cycle_weight is -1.0"),
        ({"discriminator_steps": 0}, "discriminator_steps is 0, it must be at least 1"),
        ({"discriminator_steps": 1.5}, "discriminator_steps is 1.5, it must be a whole number"),
        ({"discriminator_rate": 0.0}, "discriminator_rate is 0.0, it must be above 0"),
        ({"unrolled_steps": -1}, "unrolled_steps is -1, it must lie in 0 to 10"),
        ({"unrolled_steps": 11}, "unrolled_steps is 11, it must lie in 0 to 10"),
        ({"instance_noise": -0.1}, "instance_noise is -0.1, it must not be negative"),
        ({"instance_noise": np.nan}, "instance_noise is nan, it must be finite"),
        ({"feature_matching": -1.0}, "feature_matching is -1.0, it must not be negative"),
        (
            {"label_smoothing": 1.0, "objective": "minimax"},
            r"label_smoothing is 1.0, it must lie in \[0, 1\)",
        ),
        (
            {"label_smoothing": 0.1},
            "label_smoothing is 0.1, and objective 'relativistic' has no labels to smooth: leave "
            "it at 0, or choose an objective of 'minimax', 'non-saturating', 'least-squares'",
        ),
        (
            {"initialisation": "small"},
            "initialisation is 'small', it must be one of 'he', 'xavier', 'orthogonal', 'normal'",
        ),
        ({"spectral_norm": 1}, "spectral_norm is 1, it must be True or False"),
        ({"spectral_norm": "yes"}, "spectral_norm is 'yes', it must be True or False"),
    ],
)
def test_bad_parameters_are_told_together(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GANDetector(**SHORT | parameters).fit(np.random.default_rng(0).normal(size=(50, 2)))


def test_bound_zero_leaves_the_discriminator_out(
    detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    train, test, _ = tumours
    without = GANDetector(**SHORT | {"discriminator_bound": 0.0}).fit(train)
    assert (without.contributions(test)[:, -1] == 1.0).all()
    assert (detector.contributions(test)[:, -1] > 1.5).any()
    # All else is the same: neither training nor memory knows the bound. Rows that one model shares
    # out by all views, their score being high, and the other does not, are shared out differently.
    high, other_high = (
        m.anomaly_score(test) >= m.model_.score.settings.explained_from for m in (without, detector)
    )
    alike = high == other_high
    assert alike.mean() > 0.9
    assert (alike & high).any()
    np.testing.assert_array_equal(
        without.contributions(test)[alike, :-1], detector.contributions(test)[alike, :-1]
    )


def test_smallest_memory_works(tumours: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    estimator = GANDetector(**SHORT | {"memory_size": 2}).fit(tumours[0])
    assert estimator.model_.score.memory_rows.shape[0] == 2
    assert np.isfinite(estimator.anomaly_score(tumours[1])).all()


def test_a_rate_that_the_rows_cannot_keep_is_refused_and_the_default_adapts() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(UsageError, match="calibration rows"):
        GANDetector(**SHORT, false_alarm_rate=0.001).fit(X)
    adapted = GANDetector(**SHORT).fit(X)
    assert adapted.model_.calibrator.false_alarm_rate == pytest.approx(1 / 8)
    assert "cannot resolve a false-alarm rate of 0.01" in adapted.model_.notes[0]


def test_scoring_is_pure(
    detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    def digest() -> str:
        sums = hashlib.sha256()
        for tensor in detector.model_.score.tensors().values():
            sums.update(tensor.numpy().tobytes())
        return sums.hexdigest()

    before = digest(), torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first, second = detector.anomaly_score(tumours[1]), detector.anomaly_score(tumours[1])
    assert (first == second).all()
    assert digest() == before[0]
    assert (torch.get_rng_state() == before[1]).all()
    assert (np.random.get_state()[1] == before[2]).all()
    assert random.getstate() == before[3]


def test_fitting_leaves_global_generators_alone(
    tumours: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    GANDetector(**SHORT).fit(tumours[0])
    assert (torch.get_rng_state() == before[0]).all()
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_the_same_seed_gives_the_same_model(
    detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    again = GANDetector(**SHORT).fit(tumours[0])
    assert (again.anomaly_score(tumours[1]) == detector.anomaly_score(tumours[1])).all()


def test_tables_with_names_and_kinds() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "speed": rng.normal(100, 5, 200),
            "mode": rng.choice(["a", "b"], 200),
            "on": rng.choice([True, False], 200),
            "load": pd.array(rng.integers(0, 9, 200), dtype="Int64"),
        }
    )
    table.loc[3, "load"] = pd.NA
    estimator = GANDetector(**SHORT).fit(table)
    assert list(estimator.feature_names_in_) == ["speed", "mode", "on", "load"]
    scores = estimator.anomaly_score(table)
    reordered = table[["load", "on", "mode", "speed"]].assign(extra=1)
    assert (estimator.anomaly_score(reordered) == scores).all()
    with pytest.raises(InputError, match="column 'mode' is missing"):
        estimator.anomaly_score(table.drop(columns="mode"))
    odd = table.head(2).assign(mode=["a", "c"])
    names = [*estimator.schema_.feature_names, "discriminator"]
    shares = pd.DataFrame(estimator.contributions(odd), columns=names)
    assert shares["mode"][1] > shares["mode"][0] + 4.0


@pytest.mark.parametrize("n", [2, 3])
def test_too_few_rows_are_refused(n: int) -> None:
    with pytest.raises(InputError, match="at least 4 normal rows are needed"):
        GANDetector(**SHORT).fit(np.random.default_rng(0).normal(size=(n, 2)))


@pytest.mark.parametrize("n", [4, 31, 32, 33, 64])
def test_row_counts_around_the_batch(n: int) -> None:
    X = np.random.default_rng(0).normal(size=(n, 3))
    assert np.isfinite(GANDetector(**SHORT).fit(X).anomaly_score(X)).all()


def test_one_column_and_more_columns_than_rows() -> None:
    rng = np.random.default_rng(0)
    for shape in ((60, 1), (20, 90)):
        X = rng.normal(size=shape)
        assert np.isfinite(GANDetector(**SHORT).fit(X).anomaly_score(X)).all()


def test_all_equal_rows_give_a_working_model() -> None:
    X = np.ones((60, 3))
    estimator = GANDetector(**SHORT).fit(X)
    assert estimator.anomaly_score([[9.0, 1.0, 1.0]])[0] > estimator.anomaly_score(X).max()


def test_contributions_sum_to_the_score(
    detector: GANDetector, tumours: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    shares = detector.contributions(tumours[1])
    np.testing.assert_allclose(shares.sum(axis=1), detector.anomaly_score(tumours[1]), rtol=1e-5)
    assert shares.shape[1] == tumours[1].shape[1] + 1


def test_a_lazy_frame_is_a_table_without_a_warning() -> None:
    X = pl.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), schema=["a", "b"])
    detector = GANDetector(**SHORT).fit(X.lazy())
    np.testing.assert_array_equal(detector.anomaly_score(X.lazy()), detector.anomaly_score(X))


def test_a_model_of_numpy_s_numbers_can_be_saved(tmp_path: Path) -> None:
    parameters = {"n_steps": np.int64(3), "learning_rate": np.float32(2**-9), "latent_dim": None}
    rows = np.random.default_rng(0).normal(size=(60, 2))
    saved = GANDetector(**SHORT | parameters).fit(rows).save(tmp_path / "model")
    stored = saved.manifest.parameters
    assert (stored["n_steps"], stored["learning_rate"]) == (3, 2**-9)
    assert type(GANDetector.load(tmp_path / "model").n_steps) is int


def test_errors_are_value_errors_too() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(InputError, AnomganError)


def test_a_rate_beyond_reach_is_refused_before_training() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    endless = SHORT | {"n_steps": 10**9}
    with pytest.raises(UsageError, match="calibration rows"):
        GANDetector(**endless, false_alarm_rate=0.001).fit(X)


def test_few_rows_are_called_degraded() -> None:
    X = np.random.default_rng(0).normal(size=(30, 2))
    assert "only 7 rows to calibrate the threshold with" in str(GANDetector(**SHORT).fit(X).health_)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_an_array_for_a_model_of_categories_is_refused():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=120), "m": rng.choice(["a", "b"], 120)})
    detector = GANDetector(n_steps=5, n_members=1, random_state=0).fit(frame)
    with pytest.raises(
        UsageError, match=r"does not say which column is which.*hand in a DataFrame"
    ):
        detector.predict(np.zeros((3, 2)))
