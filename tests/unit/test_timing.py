"""Turns, medians and time boxes on clocks that the tests move; processes that are measured."""

from __future__ import annotations

import math
import sys
from functools import partial

import numpy as np
import pytest

from anomgan.errors import TrainingError
from anomgan.evaluation.timing import (
    Timing,
    boxed,
    in_turn,
    interleave,
    latencies,
    quantiles_by_part,
    run_child,
    summarise_times,
)


class Clock:
    """A clock that calls move forward."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def takes(self, name: str, *seconds: float):
        """A call that takes these seconds, the last of them from then on."""
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_contenders_take_turns_and_warm_up_first() -> None:
    clock = Clock()
    found = interleave(
        {"a": clock.takes("a", 0.9, 0.1), "b": clock.takes("b", 0.5, 0.25)},
        budget_s=1.0,
        clock=clock,
    )
    assert clock.calls == ["a", "b"] * 5
    assert found["a"] == Timing(*[pytest.approx(0.1)] * 3, 4)
    assert found["b"] == Timing(*[pytest.approx(0.25)] * 3, 4)  # it had its second


def test_a_call_that_outlasts_its_budget_is_no_warm_up() -> None:
    clock = Clock()
    slow = {"a": clock.takes("a", 0.1), "b": clock.takes("b", 5.0, 7.0, 6.0)}
    found = interleave(slow, budget_s=1.0, repeats=2, clock=clock)
    assert clock.calls == ["a", "b", "a", "b", "a", "b"]
    assert found["b"] == Timing(*map(pytest.approx, (6.0, 5.5, 6.5)), 3)
    assert found["a"].repeats == 2


def test_a_contender_that_takes_far_too_long_is_left_alone() -> None:
    clock = Clock()
    found = interleave(
        {"a": clock.takes("a", 0.1), "b": clock.takes("b", 25.0)}, budget_s=1.0, clock=clock
    )
    assert clock.calls == ["a", "b", "a", "a", "a"]
    assert (found["a"].repeats, found["b"].repeats) == (3, 1)


def test_medians_with_quartiles() -> None:
    found = summarise_times([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found == Timing(3.0, 2.0, 4.0, 5)


def test_single_calls_are_timed_in_blocks() -> None:
    clock = Clock()
    found = latencies(
        {"a": clock.takes("a", 1e-3), "b": clock.takes("b", 2e-3)}, budget_s=0.05, clock=clock
    )
    assert clock.calls == (["a"] * 20 + ["b"] * 20) * 4  # a warm-up and three blocks
    assert len(found["a"]) == len(found["b"]) == 60
    assert quantiles_by_part(found["b"], 0.99) == Timing(*[pytest.approx(2e-3)] * 3, 60)


def test_a_quantile_and_its_spread_over_fifths() -> None:
    series = np.repeat([1.0, 2.0, 3.0, 4.0, 50.0], 20)
    assert quantiles_by_part(list(series), 0.5) == Timing(3.0, 2.0, 4.0, 100)


def test_a_time_box_takes_what_fits_and_extrapolates() -> None:
    clock = Clock()

    def work(n: int) -> None:
        clock.calls.append(str(n))
        clock.now += n / 64

    done = boxed(work, 1000, box_s=10.0, clock=clock)
    assert clock.calls == ["64", "128", "256"]  # 7 s; 512 rows would take 8 more
    assert (done.rows, done.seconds, done.extrapolated) == (256, 4.0, True)
    assert done.estimate == pytest.approx(4.0 * 1000 / 256)


def test_a_time_box_that_is_large_enough_holds_everything() -> None:
    clock = Clock()
    done = boxed(lambda n: clock.takes("w", n / 1e3)(), 100, box_s=10.0, clock=clock)
    assert (done.rows, done.extrapolated) == (100, False)
    assert done.estimate == pytest.approx(0.1)


def test_a_process_is_timed_and_weighed_by_itself() -> None:
    ballast = np.ones(40_000_000)  # 320 MB here are none of the child's
    child = run_child([sys.executable, "-S", "-c", "x = bytearray(30_000_000)"], threads=1)
    assert ballast.nbytes > 3e8
    assert 0.0 < child.seconds < 60.0
    assert math.isnan(child.peak_mb) or 30.0 < child.peak_mb < 200.0


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(TrainingError, match="ended with 3: no such luck"):
        run_child(
            [sys.executable, "-c", "import sys; sys.stderr.write('no such luck'); sys.exit(3)"],
            threads=1,
        )


def test_calls_take_turns() -> None:
    made: list[int] = []
    call = in_turn([partial(made.append, i) for i in range(3)])
    for _ in range(7):
        call()
    assert made == [0, 1, 2, 0, 1, 2, 0]
