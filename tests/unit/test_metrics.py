"""Measures that scikit-learn lacks, by hand and by simulation."""

import numpy as np
import pytest
from scipy.stats import beta, spearmanr

from anomgan.errors import UsageError
from anomgan.evaluation.metrics import (
    best_f1,
    conformal_band,
    precision_at,
    rank_correlation,
    recall_at_false_alarms,
    share_interval,
)

Y = np.array([1, 0, 1, 1, 0, 0, 0, 0])
S = np.array([9.0, 8.0, 7.0, 5.0, 5.0, 5.0, 2.0, 1.0])


def test_precision_at_k_counts_ties_by_their_mean():
    assert precision_at(Y, S, 1) == 1.0
    assert precision_at(Y, S, 2) == 0.5
    assert precision_at(Y, S, 3) == pytest.approx(2 / 3)
    assert precision_at(Y, S, 4) == pytest.approx((2 + 1 / 3) / 4)
    assert precision_at(Y, S, 6) == pytest.approx(3 / 6)
    assert precision_at(Y, S, 8) == pytest.approx(3 / 8)
    for k in (0, 9):
        with pytest.raises(UsageError, match=f"k is {k}: it must lie between 1 and the 8 rows"):
            precision_at(Y, S, k)


def test_recall_within_a_false_alarm_rate():
    assert recall_at_false_alarms(Y, S, 0.0) == pytest.approx(1 / 3)
    assert recall_at_false_alarms(Y, S, 0.19) == pytest.approx(1 / 3)
    assert recall_at_false_alarms(Y, S, 0.2) == pytest.approx(2 / 3)
    assert recall_at_false_alarms(Y, S, 0.6) == 1.0


def test_the_best_f1_and_its_threshold():
    found = best_f1(Y, S)  # 2 of 3 flagged right, and 2 of 3 found
    assert (found.f1, found.threshold) == (pytest.approx(2 / 3), 7.0)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_of_equal_f1_the_highest_threshold_is_taken():
    found = best_f1([1, 0, 0, 1], [4.0, 3.0, 2.0, 1.0])  # 2/3 from 4.0 on, and 2/3 from 1.0 on
    assert (found.f1, found.threshold) == (pytest.approx(2 / 3), 4.0)


def test_an_exact_interval_of_a_share():
    low, high = share_interval(3, 20)
    assert low == pytest.approx(beta.ppf(0.025, 3, 18), abs=1e-9)
    assert high == pytest.approx(beta.ppf(0.975, 4, 17), abs=1e-9)
    assert share_interval(0, 20)[0] == 0.0
    assert share_interval(20, 20)[1] == 1.0
    assert share_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("n_calibration", "rate"), [(99, 0.01), (200, 0.1), (500, 0.013)])
def test_the_conformal_band_holds_as_often_as_it_says(n_calibration, rate):
    rng = np.random.default_rng(0)
    n_normal, n_trials = 300, 4000
    low, high = conformal_band(n_calibration, n_normal, rate)
    inside = 0
    for _ in range(n_trials):
        known = np.sort(rng.random(n_calibration))
        new = rng.random(n_normal)
        p = (1 + n_calibration - np.searchsorted(known, new)) / (n_calibration + 1)
        realised = np.sum(p <= rate) / n_normal
        inside += low <= realised <= high
    # At least 95 % by definition; five standard errors of 4 000 trials below, error below 1e-6.
    assert inside / n_trials >= 0.95 - 5 * np.sqrt(0.05 * 0.95 / n_trials)
    narrower = conformal_band(n_calibration, n_normal, rate, level=0.5)
    assert low <= narrower[0] <= narrower[1] <= high


def test_below_the_resolution_nothing_is_flagged():
    assert conformal_band(99, 1000, 0.0099) == (0.0, 0.0)


def test_rank_correlation_is_spearman_s_and_tells_what_ranks_nothing():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 6, 50)
    b = a + rng.integers(0, 4, 50)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, rel=1e-12)
    assert rank_correlation(a, -(a**3)) == pytest.approx(-1.0)
    assert rank_correlation(np.ones(5), np.zeros(5)) == 1.0
    assert rank_correlation(np.ones(5), np.arange(5)) == 0.0
    assert rank_correlation([3.0], [1.0]) == 1.0
    assert np.isnan(rank_correlation([1.0, np.nan, 3.0], [-1.0, np.nan, -3.0]))
