"""Metrics, preparation and summaries against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest

from anomgan.errors import UsageError
from anomgan.evaluation.baselines import Baseline, Preparation, detectors
from anomgan.evaluation.benchmark import Run
from anomgan.evaluation.metrics import auroc, average_precision, false_alarm_rate
from anomgan.evaluation.summary import markdown_table, plain_table, summarise


def test_metrics_by_hand() -> None:
    y, scores = [0, 0, 1, 0, 1], [0.1, 0.4, 0.4, 0.2, 0.9]
    assert auroc(y, scores) == pytest.approx((3 + 2.5) / 6)  # one tie of six pairs
    assert average_precision(y, scores) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert false_alarm_rate(y, [True, False, True, False, False]) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([0, 0], [1, 2]), "0 of 2 test rows are anomalies"),
        (lambda: auroc([1, 1], [1, 2]), "2 of 2 test rows are anomalies"),
        (lambda: auroc([0, 1], [1, math.nan]), "the score of test row 1 is nan"),
        (lambda: average_precision([0, 1], [1]), "2 labels but 1 scores"),
        (lambda: false_alarm_rate([1], [True]), "no normal row"),
        (lambda: false_alarm_rate([1, 0], [True]), "2 labels but 1 flags"),
    ],
)
def test_metrics_refuse(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_preparation_of_an_array_with_gaps() -> None:
    X = np.array(
        [[1.0, 5.0, np.nan], [3.0, 5.0, np.nan], [np.nan, 5.0, np.nan], [8.0, 5.0, np.nan]]
    )
    prepared = Preparation().fit(X)
    filled = np.array([1.0, 3.0, 3.0, 8.0])  # the median fills
    expected = (filled - filled.mean()) / filled.std()
    np.testing.assert_allclose(prepared.transform(X)[:, 0], expected)
    np.testing.assert_array_equal(prepared.transform(X)[:, 1:], 0.0)
    assert prepared.transform([[3.75, 7.0, 2.0]]).tolist() == [[0.0, 2.0, 2.0]]


@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_preparation_of_a_table_is_one_hot(kind) -> None:
    table = kind({"n": [1.5, 2.5, 3.5, 4.5] * 5, "c": ["a", "b", "a", None] * 5})
    prepared = Preparation().fit(table)
    numbers = prepared.transform(table)
    assert numbers.shape == (20, 4)  # a number; a, b and missing
    np.testing.assert_array_equal(numbers[:, 1:].sum(axis=1), 1.0)
    unseen = prepared.transform(kind({"n": [3.0], "c": ["z"]}))
    assert unseen.tolist() == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("name", ["knn1", "knn5mean", "knn5max", "lof", "iforest", "ocsvm"])
def test_baselines_rise_with_abnormality_and_hold_their_rate(name: str) -> None:
    rng = np.random.default_rng(0)
    train, normal = rng.normal(size=(800, 4)), rng.normal(size=(800, 4))
    detector = detectors([name])[name](0).fit(train)
    scores = detector.score(np.vstack([normal, rng.normal(size=(100, 4)) + 8.0]))
    assert auroc(np.repeat([0, 1], [800, 100]), scores) > 0.99
    p_values = detector.p_values(scores)
    assert 0.0 <= (p_values[:800] <= 0.05).mean() < 0.12
    assert (p_values[800:] <= 0.05).mean() > 0.9


def test_few_rows_are_enough_for_p_values() -> None:
    detector = Baseline(lambda known, seed: lambda rows: np.abs(rows[:, 0]), 0)
    detector.fit(np.arange(4.0)[:, None])
    assert (detector.p_values(np.array([99.0])) > 0.0).all()


def _run(name: str, seed: int, method: str, value: float, error: str = "") -> Run:
    return Run("s", name, "clean", seed, method, 10, 2, value, value / 2, 0.01, 1.0, 2.0, error)


RUNS = [
    _run("a", 0, "ours", 0.80), _run("a", 1, "ours", 0.90),
    _run("b", 0, "ours", 0.70), _run("b", 1, "ours", 0.70),
    _run("c", 0, "ours", 0.904), _run("c", 1, "ours", 0.904),
    _run("a", 0, "knn", 0.80), _run("a", 1, "knn", 0.80),
    _run("b", 0, "knn", 0.78), _run("b", 1, "knn", 0.78),
    _run("c", 0, "knn", 0.90), _run("c", 1, "knn", 0.90),
]  # fmt: skip


def test_summary_by_hand() -> None:
    (summary,) = summarise(RUNS, against="ours")
    ours, knn = (next(m for m in summary.methods if m.method == name) for name in ("ours", "knn"))
    assert (summary.sets, summary.left_out, summary.n_failed) == (("a", "b", "c"), (), 0)
    assert [m.method for m in summary.methods] == ["knn", "ours"]  # best first
    assert ours.auroc == pytest.approx((0.85 + 0.70 + 0.904) / 3)
    assert knn.auroc == pytest.approx((0.80 + 0.78 + 0.90) / 3)
    assert (ours.rank, knn.rank) == (pytest.approx(4 / 3), pytest.approx(5 / 3))
    assert (knn.wins, knn.ties, knn.losses) == (1, 1, 1)
    assert knn.lead == pytest.approx((0.05 - 0.08 + 0.004) / 3)
    assert (knn.worst_loss, knn.worst_set) == (pytest.approx(0.08), "b")
    assert (ours.wins, ours.ties, ours.losses, ours.worst_set) == (0, 0, 0, "")
    assert (ours.fit_s, ours.score_s, ours.false_alarm_rate) == (1.0, 2.0, pytest.approx(0.01))
    assert ours.average_precision == pytest.approx(ours.auroc / 2)


def test_intervals_are_bootstraps_over_sets() -> None:
    (summary,) = summarise(RUNS, against="ours", n_bootstrap=500, seed=3)
    knn = next(m for m in summary.methods if m.method == "knn")
    draws = np.random.default_rng(3).integers(3, size=(500, 3))
    means = np.array([0.05, -0.08, 0.004])[draws].mean(axis=1)
    assert knn.lead_interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert summarise(RUNS, against="ours", seed=3) == summarise(RUNS, against="ours", seed=3)


def test_equal_methods_share_a_rank() -> None:
    runs = [_run("a", 0, m, v) for m, v in (("x", 0.9), ("y", 0.9), ("z", 0.5))]
    (summary,) = summarise(runs, against="z")
    assert {m.method: m.rank for m in summary.methods} == {"x": 1.5, "y": 1.5, "z": 3.0}


def test_a_set_with_a_failed_or_absent_run_is_left_out() -> None:
    runs = [*RUNS, _run("d", 0, "ours", 0.9), _run("e", 0, "ours", 0.9)]
    runs += [_run("e", 0, "knn", math.nan, error="OSError: gone")]
    (summary,) = summarise(runs, against="ours")
    assert (summary.sets, summary.left_out, summary.n_failed) == (("a", "b", "c"), ("d", "e"), 1)


def test_nothing_but_failures_still_gives_a_table() -> None:
    (summary,) = summarise([_run("a", 0, "x", math.nan, "failed")], against="x")
    assert summary.sets == ()
    assert math.isnan(summary.methods[0].auroc)
    assert "nan" in markdown_table(summary)


def test_tables_of_text() -> None:
    (summary,) = summarise(RUNS, against="ours")
    headers, rows = plain_table(summary)
    assert rows[0][:2] == ("knn", "82.67")
    assert dict(zip(headers, rows[0], strict=True))["wins-ties-losses"] == "1-1-1"
    assert dict(zip(headers, rows[0], strict=True))["worst loss"] == "8.0 b"
    assert rows[1][headers.index("lead")] == "-"
    lines = markdown_table(summary).splitlines()
    assert lines[0].startswith("s, protocol `clean`, 3 sets; lead, wins and losses")
    assert {line.count("|") for line in lines[2:]} == {len(headers) + 1}


def test_suites_and_protocols_are_apart_and_the_compared_method_must_be_there() -> None:
    other = [Run("t", "a", "table", 0, "ours", auroc=0.5)]
    assert [(s.suite, s.protocol) for s in summarise(RUNS + other, against="ours")] == [
        ("s", "clean"),
        ("t", "table"),
    ]
    with pytest.raises(UsageError, match="no run of 'lof' to compare with; there are ours, knn"):
        summarise(RUNS, against="lof")
