"""Which rate to decide at, by labelled rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.evaluation.operating_point import Target, choose_rate

# Rising p-values with their labels, and what flagging up to each gives (4 anomalies, 6 normal):
#   p       .001  .002  .01   .02   .05   .1    .2   .3   .5   1
#   anomaly  1     1     0     1     0     0     1    0    0    0
#   prec    1/1   2/2   2/3   3/4   3/5   3/6   4/7  4/8  4/9
#   recall  1/4   2/4   2/4   3/4   3/4   3/4   1    1    1
#   F1      2/5   4/6   4/7   6/8   6/9   6/10  8/11 ...
P = np.array([0.001, 0.002, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0])
Y = np.array([1, 1, 0, 1, 0, 0, 1, 0, 0, 0], dtype=bool)


@pytest.mark.parametrize(
    ("target", "rate", "counts"),
    [
        ("precision=1", 0.002, (2, 0, 2, 6)),
        ("precision=0.75", 0.02, (3, 1, 1, 5)),  # exactly reached
        ("precision=0.7", 0.02, (3, 1, 1, 5)),  # not 0.002, although its precision is higher
        ("precision=0.5", 0.3, (4, 4, 0, 2)),
        ("recall=0.25", 0.001, (1, 0, 3, 6)),
        ("recall=0.5", 0.002, (2, 0, 2, 6)),
        ("recall=0.51", 0.02, (3, 1, 1, 5)),
        ("recall=1", 0.2, (4, 3, 0, 3)),
        ("f1", 0.02, (3, 1, 1, 5)),
    ],
)
def test_choices_by_hand(target: str, rate: float, counts: tuple[int, ...]) -> None:
    order = np.random.default_rng(0).permutation(len(P))
    point = choose_rate(Y[order], P[order], Target.parse(target))
    found = (
        *(point.true_positives, point.false_positives),
        *(point.false_negatives, point.true_negatives),
    )
    assert point.rate == rate
    assert found == counts
    true, false, missed, passed = counts
    assert point.precision.value == true / (true + false)
    assert point.recall.value == true / (true + missed)
    assert point.f1.value == pytest.approx(2 * true / (2 * true + false + missed))
    assert point.false_alarms.value == false / (false + passed)


def test_rows_of_equal_p_value_are_flagged_together() -> None:
    y = np.array([1, 0, 1, 0, 0], dtype=bool)
    p = np.array([0.01, 0.01, 0.01, 0.2, 1.0])
    point = choose_rate(y, p, Target.parse("precision=0.6"))
    assert (point.rate, point.true_positives, point.false_positives) == (0.01, 2, 1)
    with pytest.raises(UsageError, match=r"best precision is 0\.667, at a rate of 0.01, with"):
        choose_rate(y, p, Target.parse("precision=0.9"))


def test_the_smallest_of_rates_with_equal_f1() -> None:
    # F1: 2/3 at 0.01 (1 of 1 flagged, 2 anomalies), and 4/6 at 0.2 (2 of 4 flagged).
    y = np.array([1, 0, 0, 1, 0], dtype=bool)
    p = np.array([0.01, 0.05, 0.1, 0.2, 1.0])
    assert choose_rate(y, p, Target.parse("f1")).rate == 0.01


def test_a_row_of_p_value_one_is_out_of_reach() -> None:
    y = np.array([1, 0, 1], dtype=bool)
    p = np.array([0.01, 0.5, 1.0])
    with pytest.raises(UsageError) as caught:
        choose_rate(y, p, Target.parse("recall=0.9"))
    assert str(caught.value) == (
        "no rate reaches recall=0.9 on these rows: the best recall is 0.5, at a rate of 0.01; aim "
        "at that, or lower"
    )
    with pytest.raises(UsageError, match="every labelled row has a p-value of 1"):
        choose_rate(y, np.ones(3), Target.parse("f1"))


def naive_choice(y: NDArray[np.bool_], p: NDArray[np.float64], target: Target) -> float | None:
    """Twin: every candidate in turn, with fractions as plain numbers."""
    found: list[tuple[float, float]] = []
    for rate in sorted({float(np.float32(v)) for v in p if v < 1.0}):
        true = sum(1 for v, a in zip(p, y, strict=True) if np.float32(v) <= rate and a)
        false = sum(1 for v, a in zip(p, y, strict=True) if np.float32(v) <= rate and not a)
        value = {
            "precision": true / (true + false),
            "recall": true / int(y.sum()),
            "f1": 2 * true / (true + false + int(y.sum())),
        }[target.kind]
        found.append((rate, value))
    if target.kind == "f1":
        best = max(value for _, value in found)
        return next(rate for rate, value in found if value == best)
    reached = [rate for rate, value in found if value >= target.least]
    if not reached:
        return None
    return max(reached) if target.kind == "precision" else min(reached)


@pytest.mark.parametrize("text", ["precision=0.5", "precision=0.8", "recall=0.6", "f1"])
@pytest.mark.parametrize("seed", range(8))
def test_choices_are_those_of_the_naive_twin(text: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n_calibration = 200
    y = rng.random(80) < 0.3
    p = (1 + rng.integers(n_calibration + 1, size=80)) / (n_calibration + 1)
    p = np.where(y & (rng.random(80) < 0.7), rng.random(80) * 0.02, p)
    target = Target.parse(text)
    expected = naive_choice(y, p, target)
    if expected is None:
        with pytest.raises(UsageError, match=f"no rate reaches {text}"):
            choose_rate(y, p, target)
        return
    rate = choose_rate(y, p, target).rate
    # The same rows are flagged, in the graph's float32 and in the calibrator's float64.
    flags = p.astype(np.float32) <= np.float32(expected)
    np.testing.assert_array_equal(p.astype(np.float32) <= np.float32(rate), flags)
    np.testing.assert_array_equal(p <= rate, flags)
    assert rate == pytest.approx(expected, rel=1e-2)


def test_a_rate_has_few_digits_where_no_row_is_near() -> None:
    y = np.array([1, 1, 0, 0], dtype=bool)
    near = np.float32(2 / 201)
    point = choose_rate(y, np.array([0.001, 2 / 201, 0.4, 1.0]), Target.parse("recall=1"))
    assert point.rate == 0.009951
    close = np.array([0.001, near, np.nextafter(near, np.float32(1)), 1.0], dtype=np.float32)
    point = choose_rate(y, close, Target.parse("recall=1"))
    assert point.rate == float(near)
    almost_one = np.array([0.001, np.nextafter(np.float32(1), np.float32(0)), 0.4, 1.0])
    assert choose_rate(y, almost_one, Target.parse("recall=1")).rate < 1.0


def test_intervals() -> None:
    point = choose_rate(Y, P, Target.parse("precision=0.75"))
    # Clopper & Pearson: quantiles of beta laws; 3 of 4, and 1 of 6.
    assert (point.precision.low, point.precision.high) == pytest.approx(
        (0.19412, 0.99369), abs=1e-5
    )
    assert (point.false_alarms.low, point.false_alarms.high) == pytest.approx(
        (0.00421, 0.64123), abs=1e-5
    )
    assert 0.0 <= point.f1.low <= point.f1.value <= point.f1.high <= 1.0
    low, high = point.rate_interval
    assert low <= point.rate <= high
    assert {low, high} <= set(P.tolist())
    assert 0 < point.n_reached <= point.n_draws == 1000
    assert choose_rate(Y, P, Target.parse("precision=0.75")) == point
    assert choose_rate(Y, P, Target.parse("precision=0.75"), seed=1).f1 != point.f1


def test_intervals_shrink_with_more_rows() -> None:
    few = choose_rate(np.tile(Y, 3), np.tile(P, 3), Target.parse("f1"))
    many = choose_rate(np.tile(Y, 300), np.tile(P, 300), Target.parse("f1"))
    assert few.rate == many.rate == 0.02
    assert many.f1.high - many.f1.low < 0.2 * (few.f1.high - few.f1.low)
    assert many.rate_interval == (0.02, 0.02)


@pytest.mark.parametrize(
    "text", ["f2", "", "precision", "recall=0", "precision=1.5", "recall=x", "f1=0.5", "recall=nan"]
)
def test_targets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"precision=0.9, recall=0.9 \(any number above 0"):
        Target.parse(text)


def test_a_target_reads_back() -> None:
    assert str(Target.parse(" recall = 0.95 ")) == "recall=0.95"
    assert str(Target.parse("f1")) == "f1"
    with pytest.raises(UsageError, match="a recall of 2 cannot be aimed at"):
        Target("recall", 2.0)


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([1, 0], [0.1], "2 labels but 1 p-values"),
        ([1, 0], [0.1, np.nan], "the p-value of labelled row 1 is nan"),
        ([1, 0], [0.0, 0.5], "the p-value of labelled row 0 is 0.0"),
        ([1, 1], [0.1, 0.5], "2 of 2 labelled rows are anomalies: both kinds are needed"),
        ([0, 0], [0.1, 0.5], "0 of 2 labelled rows are anomalies"),
    ],
)
def test_rows_that_cannot_be_used(y: list[int], p: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_rate(y, p, Target.parse("f1"))
