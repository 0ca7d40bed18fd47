"""Calibration: hand-derived p-values, exact thresholds, tails of known shape, false discoveries."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomgan.calibration import (
    MINIMUM_P_VALUE,
    Calibrator,
    Tail,
    _fit_generalised_pareto,
    benjamini_hochberg,
)
from anomgan.errors import InputError, UsageError

finite = st.floats(-1e6, 1e6, width=32)


def test_p_values_are_the_fractions_of_the_definition():
    calibrator = Calibrator.fit([3.0, 1.0, 2.0, 2.0], false_alarm_rate=0.2, tail=False)
    # (1 + number of calibration scores at or above) / (4 + 1)
    expected = [5 / 5, 5 / 5, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 1 / 5, 1 / 5]
    scores = [-9.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, np.inf]
    np.testing.assert_array_equal(calibrator.p_values(scores), expected)


@given(
    st.lists(finite, min_size=1, max_size=60),
    st.lists(finite, min_size=1, max_size=20),
    st.booleans(),
)
def test_p_values_match_a_loop_and_fall_in_the_score(calibration, scores, tail):
    calibrator = Calibrator.fit(calibration, false_alarm_rate=0.6, tail=tail)
    ordered = np.sort(np.asarray(scores, dtype=np.float32))
    p = calibrator.p_values(ordered)
    assert (np.diff(p) <= 0).all()
    assert ((p > 0) & (p <= 1)).all()
    for score, value in zip(ordered, p, strict=True):
        at_least = sum(1 for c in calibration if np.float32(c + abs(c) * 2.0**-18) >= score)
        conformal = (1 + at_least) / (len(calibration) + 1)
        if at_least or calibrator.tail is None:
            assert value == conformal
        else:
            assert value <= conformal


@pytest.mark.parametrize("tail", [False, True])
def test_a_score_that_was_rounded_up_stays_with_its_equals(tail):
    """Forty held-out rows of four kinds: whose score is an ulp more than theirs is one of them."""
    known = np.repeat(np.array([1.5, 2.25, 7.1, 33.3], dtype=np.float32), 10)
    calibrator = Calibrator.fit(known, false_alarm_rate=0.2, tail=tail)
    exact = calibrator.p_values(known[::10])
    np.testing.assert_allclose(exact, [1.0, 31 / 41, 21 / 41, 11 / 41])
    rounded = known[::10]
    for _ in range(10):
        rounded = np.nextafter(rounded, np.float32(np.inf))
        np.testing.assert_array_equal(calibrator.p_values(rounded), exact)
    assert (calibrator.p_values(known[::10] * np.float32(1.0001)) < exact).all()
    assert calibrator.p_values([calibrator.threshold()])[0] <= 0.2


def test_without_slack_scores_far_from_0_are_told_apart():
    known = (1e4 + np.arange(1, 10) / 512).astype(np.float32)
    calibrator = Calibrator.fit(known, false_alarm_rate=0.5, tail=False, slack=0.0)
    np.testing.assert_allclose(calibrator.p_values(known), np.arange(10, 1, -1) / 10)


def test_the_largest_numbers_are_raised_no_further():
    most = np.finfo(np.float32).max
    calibrator = Calibrator.fit([-most, 0.0, most], false_alarm_rate=0.5, tail=False)
    np.testing.assert_array_equal(calibrator.p_values([most, 0.0, np.inf]), [0.5, 0.75, 0.25])


@given(st.lists(finite, min_size=1, max_size=300), st.floats(1e-7, 0.999), st.booleans())
@settings(deadline=None)
def test_threshold_is_the_smallest_flagged_score(calibration, rate, tail):
    try:
        calibrator = Calibrator.fit(calibration, false_alarm_rate=rate, tail=tail)
    except UsageError:
        assert rate < 1 / (len(calibration) + 1)
        return
    threshold = np.float32(calibrator.threshold())
    if threshold == -np.inf:
        assert calibrator.p_values([-1e30])[0] <= rate
        return
    below = np.nextafter(threshold, np.float32(-np.inf))
    p_at, p_below = calibrator.p_values([threshold, below])
    assert p_at <= rate < p_below


def test_realised_false_alarm_rate_is_the_promised_one():
    # Marginally over calibration sets, P(p <= 0.05) = floor(0.05 * 200) / 200 = 0.05 exactly.
    # 400 sets x 50 rows: the standard error is below 0.0019; 6 of them bound the test's own
    # false alarms below 1e-8.
    rng = np.random.default_rng(7)
    rates = [
        np.mean(Calibrator.fit(rng.normal(size=199)).p_values(rng.normal(size=50)) <= 0.05)
        for _ in range(400)
    ]
    assert abs(np.mean(rates) - 0.05) < 6 * 0.0019


@pytest.mark.parametrize("shape", [0.0, 0.2, 0.4])
def test_tail_finds_a_known_shape_and_scale(shape):
    rng = np.random.default_rng(3)
    uniform = rng.random(20_000)
    draws = 2.0 * (-np.log(uniform) if shape == 0 else (uniform**-shape - 1) / shape)
    found_shape, found_scale = _fit_generalised_pareto(draws)
    assert found_shape == pytest.approx(shape, abs=0.05)
    assert found_scale == pytest.approx(2.0, rel=0.05)


def test_tail_extrapolates_an_exponential_law_well_beyond_the_rows():
    calibrator = Calibrator.fit(np.random.default_rng(11).exponential(size=2_000))
    beyond = 12.0  # exp(-12) = 6e-6, eighty times below the resolution of 2 000 rows
    ratio = calibrator.p_values([beyond])[0] / math.exp(-beyond)
    assert 0.1 < ratio < 10


def test_tail_errs_on_the_cautious_side_for_a_lighter_tail():
    calibrator = Calibrator.fit(np.random.default_rng(11).normal(size=5_000))
    truth = 0.5 * math.erfc(4.5 / math.sqrt(2))
    assert truth < calibrator.p_values([4.5])[0] < calibrator.resolution


def test_tail_never_ends_and_never_reaches_zero():
    calibrator = Calibrator.fit(np.linspace(0, 1, 500))  # a law with an end point
    p = calibrator.p_values([1.1, 2.0, 10.0, 1e30, np.inf])
    assert (np.diff(p[:3]) < 0).all()
    assert p[-1] == MINIMUM_P_VALUE
    assert np.float32(p[-1]) > 0


def test_survival_and_quantile_are_inverse():
    for shape in (0.0, 0.3):
        tail = Tail(threshold=2.0, shape=shape, scale=0.7, n_exceedances=50, n=500)
        for probability in (0.05, 1e-3, 1e-8):
            assert tail.survival(tail.quantile(probability)) == pytest.approx(probability)
        assert tail.survival(2.0) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "scores",
    [np.ones(500), np.repeat([1.0, 2.0], 300), np.arange(15.0), np.repeat([0.0, 5.0], [490, 10])],
    ids=["constant", "two values", "fifteen rows", "tied top"],
)
def test_no_tail_where_there_is_nothing_to_fit(scores):
    assert Calibrator.fit(scores, false_alarm_rate=0.1).tail is None


def test_heavily_tied_scores_still_get_a_tail_from_the_distinct_ones():
    scores = np.concatenate([np.zeros(900), np.random.default_rng(0).exponential(size=100)])
    tail = Calibrator.fit(scores).tail
    assert tail is not None
    assert tail.n_exceedances == 100


def test_a_rate_that_the_rows_cannot_resolve_is_refused_with_the_rows_needed():
    with pytest.raises(UsageError) as caught:
        Calibrator.fit(np.arange(50.0), false_alarm_rate=0.01, tail=False)
    assert str(caught.value) == (
        "a false-alarm rate of 0.01 needs 99 calibration rows and the model has 50, with no tail "
        "to extrapolate from; ask for at least 0.0196, or fit on more normal rows"
    )
    assert Calibrator.fit(np.arange(99.0), false_alarm_rate=0.01, tail=False).threshold() > 98


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    with pytest.raises(UsageError, match="between 0 and 1"):
        Calibrator.fit(np.arange(99.0), false_alarm_rate=rate)


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(InputError, match=r"1 of 3 .* position 1: nan"):
        Calibrator.fit([1.0, np.nan, 2.0])
    with pytest.raises(InputError, match="no calibration scores"):
        Calibrator.fit([])
    with pytest.raises(InputError, match="1 scores are NaN"):
        Calibrator.fit(np.arange(200.0)).p_values([1.0, np.nan])


def test_round_trips_are_lossless():
    calibrator = Calibrator.fit(
        np.random.default_rng(1).gamma(2.0, size=777), false_alarm_rate=0.02
    )
    through_json = Calibrator.from_dict(json.loads(json.dumps(calibrator.to_dict())))
    through_arrays = Calibrator.from_arrays(calibrator.arrays())
    for other in (through_json, through_arrays):
        np.testing.assert_array_equal(other.scores, calibrator.scores)
        assert other.tail == calibrator.tail
        assert other.false_alarm_rate == calibrator.false_alarm_rate
    without = Calibrator.fit(np.arange(200.0), tail=False)
    assert Calibrator.from_arrays(without.arrays()).tail is None
    json.dumps(calibrator.summary(), allow_nan=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"scores": [2.0, 1.0]},
        {"scores": []},
        {"scores": ["a"]},
        {"tail": {"threshold": 1.0}},
        {"tail": {"threshold": 1.0, "shape": 0.7, "scale": 1.0, "n_exceedances": 5, "n": 9}},
        {"tail": {"threshold": 1.0, "shape": 0.1, "scale": 0.0, "n_exceedances": 5, "n": 9}},
        {"tail": {"threshold": 1.0, "shape": 0.1, "scale": 1.0, "n_exceedances": 10, "n": 9}},
        {"false_alarm_rate": 7},
        {"false_alarm_rate": None},
    ],
)
def test_a_damaged_state_is_refused(damage):
    state = Calibrator.fit(np.arange(200.0)).to_dict()
    with pytest.raises(InputError):
        Calibrator.from_dict({**state, **damage})


def test_benjamini_hochberg_on_the_worked_example():
    # The fifteen p-values of Benjamini & Hochberg (1995), section 3.2: four rejections at 0.05.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    order = np.random.default_rng(0).permutation(15)
    flags = benjamini_hochberg(np.asarray(p)[order], 0.05)
    np.testing.assert_array_equal(flags, np.asarray(order) < 4)
    assert not benjamini_hochberg([0.9, 0.8], 0.05).any()
    assert benjamini_hochberg([], 0.05).shape == (0,)
