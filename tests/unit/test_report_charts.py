"""Axes, drawing, curves and charts of a report."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from report_page import made_scores as made
from sklearn.metrics import precision_recall_curve, roc_curve

from anomgan.evaluation.bootstrap import Ranking
from anomgan.evaluation.curves import bands, curves_of
from anomgan.evaluation.labelled import OURS, LabelledScores, evaluate_scores
from anomgan.report.axes import (
    Axis,
    count_axis,
    linear_axis,
    log_axis,
    score_axis,
    share_axis,
    tick_text,
)
from anomgan.report.charts import calibration_plot, ranking_curves, score_histogram
from anomgan.report.drawing import Plot, drawing, element
from anomgan.report.wording import percent

# Axes


def test_a_linear_axis_has_round_ticks_and_holds_its_ends():
    axis = linear_axis("x", 0.13, 9.7)
    assert axis.low <= 0.13
    assert axis.high >= 9.7
    assert [text for _, text in axis.ticks] == ["0", "2", "4", "6", "8", "10"]
    np.testing.assert_allclose(axis.place([axis.low, 5.0, axis.high]), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.5, 2000.0, ["1", "10", "100", "1\u202f000"]),
        (1.0, 9.0, ["1", "2", "5"]),
        (1e-9, 1e9, ["10⁻⁹", "10⁻⁶", "0.001", "1", "1\u202f000", "10⁶", "10⁹"]),
    ],
)
def test_ticks_of_a_log_axis(low, high, expected):
    axis = log_axis("x", low, high)
    assert [text for _, text in axis.ticks] == expected
    np.testing.assert_allclose(axis.place([low, np.sqrt(low * high), high]), [0, 0.5, 1])


def test_what_lies_beyond_an_axis_is_put_at_its_end():
    axis = log_axis("x", 0.01, 1.0, percent=True)
    assert axis.place([0.0, -3.0, 5.0]).tolist() == [0.0, 0.0, 1.0]
    assert [text for _, text in axis.ticks] == ["1\u202f%", "10\u202f%", "100\u202f%"]


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ([1.0, 10.0, 1000.0], "log"),
        ([1.0, 2.0, 3.0], "linear"),
        ([-1.0, 0.5, 1.0, 2.0, 1e4], "asinh"),
        ([-1.0, 0.5, 1.0, 2.0], "linear"),
        ([0.0, 0.0, 0.0, 1.0], "linear"),
        ([7.0, 7.0], "linear"),
        ([0.0], "linear"),
        ([-3.0, -3.0], "linear"),
    ],
)
def test_the_axis_of_scores_follows_them(scores, scale):
    axis = score_axis("score", np.array(scores))
    assert axis.scale == scale
    assert axis.low <= min(scores)
    assert axis.high >= max(scores)
    assert axis.low < axis.high
    assert axis.ticks
    places = axis.place(sorted(scores))
    assert (np.diff(places) >= 0).all()
    np.testing.assert_allclose(axis.unstretched(axis.stretched(scores)), scores, atol=1e-9)


def test_the_axis_of_scores_holds_a_finite_threshold():
    scores = np.array([1.0, 2.0, 3.0])
    assert score_axis("score", scores, [50.0]).high >= 50.0
    assert score_axis("score", scores, [np.inf, np.nan]).high < 10.0


def test_counts_are_whole_and_shares_go_to_all():
    assert [t for t, _ in count_axis("rows", 1).ticks] == [0.0, 1.0]
    assert all(t == int(t) for t, _ in count_axis("rows", 17).ticks)
    assert count_axis("rows", 0).high == 1.0
    assert share_axis("x").ticks[-1] == (1.0, "100\u202f%")


def test_tick_texts():
    assert [tick_text(v) for v in (0.0, 0.002, -5.0, 12345.0, 2e5, 1e-4, -1e7)] == [
        *("0", "0.002", "−5", "12\u202f345", "2·10⁵", "10⁻⁴", "−10⁷")
    ]


def test_shares_are_never_rounded_to_all_or_none():
    shares = [0.0, 1e-9, 0.0004, 0.0133, 0.5, 0.9996, 0.99999, 1.0, float("nan")]
    assert [percent(s).replace("\u202f", " ") for s in shares] == [
        *("0 %", "<0.001 %", "0.04 %", "1.33 %", "50 %", "99.96 %", ">99.99 %", "100 %", "–")
    ]


# Drawing


def test_an_element_escapes_its_texts_and_attributes():
    made_of = element("text", "<b>&", title='"><script>', class_="a", stroke_width=1.5)
    assert made_of == (
        '<text title="&#34;&gt;&lt;script&gt;" class="a" stroke-width="1.5">&lt;b&gt;&amp;</text>'
    )


def test_a_plot_puts_values_where_they_belong():
    axis = Axis("x", 0.0, 10.0, ((0.0, "0"),))
    plot = Plot(axis, axis, left=10, top=0, right=110, bottom=50)
    assert plot.line([0, 10], [0, 5], "a") == ('<polyline points="10,50 110,25" class="line a"/>')
    steps = plot.line([0, 5, 10], [0, 10, 5], "a", steps=True)
    assert 'points="10,50 10,0 60,0 60,25 110,25"' in steps
    bars = plot.bars(np.array([0.0, 5.0, 10.0]), [0, 10], "bar", ["none", "ten"])
    assert len(bars) == 1
    assert 'height="50"' in bars[0]


def test_a_drawing_is_named_and_described():
    image = drawing(10, 10, [], key="k", title="A <b>", description="What it shows")
    root = ET.fromstring(image)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "k-title k-desc"
    assert root.find("title").text == "A <b>"


# Curves


@pytest.mark.parametrize("tied", [False, True])
def test_curves_are_those_of_scikit_learn(tied):
    scored = made()
    scores = np.round(np.log(scored.scores[OURS])) if tied else scored.scores[OURS]
    roc, precision = curves_of(scored.labels, scores)
    alarms, recall, _ = roc_curve(scored.labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc.x, alarms)
    np.testing.assert_allclose(roc.y, recall)
    p, r, _ = precision_recall_curve(scored.labels, scores)
    p, r = p[:-1][::-1], r[:-1][::-1]  # without the point that flags nothing
    until = int(np.argmax(r)) + 1
    np.testing.assert_allclose(precision.x, r[:until])
    np.testing.assert_allclose(precision.y, p[:until])


def test_long_curves_are_thinned_and_keep_their_ends():
    scored = made(20_000, 4_000)
    roc, precision = curves_of(scored.labels, scored.scores["iforest"])
    assert len(roc.x) <= 402
    assert (roc.x[0], roc.y[0], roc.x[-1], roc.y[-1]) == (0, 0, 1, 1)
    assert precision.x[-1] == 1.0
    full, recall, _ = roc_curve(scored.labels, scored.scores["iforest"])
    worst = np.abs(np.interp(full, roc.x, roc.y) - recall).max()
    assert worst < 0.01


def test_bands_hold_the_curve_and_shrink_with_more_rows():
    widths = []
    for n in (200, 2000):
        scored = made(n, n // 4)
        scores = scored.scores["iforest"]
        roc, precision = curves_of(scored.labels, scores)
        first, second = bands(scored.labels, scores, seed=1, n_draws=200)
        at = np.interp(first.x, roc.x, roc.y)
        assert (first.low <= at + 0.02).all()
        assert (first.high >= at - 0.02).all()
        assert (second.low <= second.high).all()
        middle = np.abs(second.x - 0.5).argmin()
        value = precision.y[np.argmax(precision.x >= 0.5)]
        assert second.low[middle] <= value <= second.high[middle]
        widths.append((first.high - first.low).mean())
    assert widths[1] < 0.5 * widths[0]


def test_bands_repeat_by_their_seed():
    scored = made()
    a, b, c = (bands(scored.labels, scored.scores[OURS], seed=s, n_draws=50)[0] for s in (0, 0, 1))
    np.testing.assert_array_equal(a.low, b.low)
    assert (a.low != c.low).any()


def test_bands_of_one_anomaly_and_of_constant_scores():
    labels = np.arange(30) == 29
    for scores in (np.arange(30.0), np.zeros(30)):
        for band in bands(labels, scores, n_draws=50):
            assert np.isfinite(band.low).all()
            assert np.isfinite(band.high).all()


def test_a_draw_weighs_rows_as_the_bootstrap_does():
    labels = np.array([True, False, False, True])
    true, false = Ranking(np.array([4.0, 3.0, 2.0, 1.0]), labels).cumulative(np.array([2, 0, 1, 1]))
    assert true.tolist() == [0, 2, 2, 2, 3]
    assert false.tolist() == [0, 0, 0, 1, 1]


# Charts


def _bar_counts(image, kind):
    root = ET.fromstring(image)
    titles = [r.find("title").text for r in root.iter("rect") if f"bar {kind}" in r.get("class")]
    return [int(t.split(": ")[1].split()[0].replace("\u202f", "")) for t in titles]


@pytest.mark.parametrize("threshold", [20.0, float("nan")])
def test_the_histogram_counts_every_row_once(threshold):
    scored = made(threshold=threshold)
    chart = score_histogram(scored)
    assert sum(_bar_counts(chart.image, "normal")) == 240
    assert sum(_bar_counts(chart.image, "anomalous")) == 60
    assert ('class="threshold"' in chart.image) == np.isfinite(threshold)
    assert ("threshold" in dict(chart.legend)) == np.isfinite(threshold)


def test_no_bar_of_the_histogram_lies_across_the_threshold():
    scored = made()
    image = score_histogram(scored).image
    root = ET.fromstring(image)
    rule = next(line for line in root.iter("line") if line.get("class") == "threshold")
    at = float(rule.get("x1"))
    for bar in root.iter("rect"):
        left = float(bar.get("x"))
        assert not left + 0.1 < at < left + float(bar.get("width")) - 0.1


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_constant_scores_can_be_drawn(value):
    scored = made(scores=np.full(300, value), threshold=value)
    chart = score_histogram(scored)
    assert sum(_bar_counts(chart.image, "normal")) == 240
    assert chart.numbers.rows[3][0] == "median"
    for curve in ranking_curves(scored, evaluate_scores(scored)):
        ET.fromstring(curve.image)


def test_every_detector_has_its_line_and_ours_its_band():
    scored = made()
    roc, precision = ranking_curves(scored, evaluate_scores(scored))
    for chart in (roc, precision):
        lines = [p.get("class") for p in ET.fromstring(chart.image).iter("polyline")]
        assert lines == ["line chance", f"line {OURS}", "line iforest", "line knn1"]
        assert 'class="band"' in chart.image
        assert len(chart.numbers.headers) == 4
    assert dict(roc.legend)["line iforest"] == "IsolationForest"


def test_the_calibration_plot_marks_rates_outside_of_their_band():
    scored = made(2000, 100, n_calibration=2000)
    inside = evaluate_scores(scored)
    chart = calibration_plot(inside.calibration, 0.01)
    assert "dot off" not in chart.image
    shifted = LabelledScores(**{**scored.__dict__, "p_values": scored.p_values**2})
    chart = calibration_plot(evaluate_scores(shifted).calibration, 0.01)
    assert "dot off" in chart.image
    assert "dot off" in dict(chart.legend)
    assert [row[0] for row in chart.numbers.rows][:3] == ["0.001", "0.005", "0.01"]


def test_the_calibration_plot_stands_without_a_band_and_without_alarms():
    scored = made(n_calibration=None)
    quiet = LabelledScores(**{**scored.__dict__, "p_values": np.ones(300)})
    for labelled in (scored, quiet):
        chart = calibration_plot(evaluate_scores(labelled).calibration, 0.01)
        ET.fromstring(chart.image)
        assert "band expected" not in chart.image
    assert ">none<" in chart.image


def test_charts_leave_colours_to_the_page():
    scored = made()
    result = evaluate_scores(scored)
    charts = (
        score_histogram(scored),
        calibration_plot(result.calibration, 0.01),
        *ranking_curves(scored, result),
    )
    for chart in charts:
        assert not re.search(r"fill=|stroke=|style=|#[0-9a-f]{3}", chart.image)
        classes = set(re.findall(r'class="([^"]+)"', chart.image))
        assert {name for name, _ in chart.legend if name not in {"normal", "anomalous"}} <= classes
