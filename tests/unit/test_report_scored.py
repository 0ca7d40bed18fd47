"""Parts of the report of scored rows: counts, what chance gives, charts, and drift in words."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from toy_model import toy_table

from anomgan.evaluation.metrics import conformal_band
from anomgan.report.chance import chance_band
from anomgan.report.counts import FloatCounts, snapped
from anomgan.report.drift import DriftSection
from anomgan.report.score_charts import RATES, p_value_plot, scored_histogram
from anomgan.report.scored import Tally
from anomgan.serving.drift import Departure, DriftReport
from anomgan.tables.schema import Schema, SchemaOptions

FLOATS = st.floats(width=32, allow_nan=False)


def counted(values):
    counts = FloatCounts()
    counts.add(np.asarray(values, dtype=np.float32))
    return counts


# Counts


@given(arrays(np.float32, st.integers(0, 40), elements=FLOATS), st.lists(FLOATS, max_size=8))
def test_values_below_a_snapped_edge_are_counted_exactly(values, edges):
    counts = counted(values)
    finite = np.clip(values, *np.finfo(np.float32).max * np.array([-1, 1], dtype=np.float32))
    ends = snapped(edges)
    assert counts.below(edges).tolist() == [int((finite < end).sum()) for end in ends]
    assert counts.n == len(values)


@given(FLOATS.filter(np.isfinite))
def test_an_edge_is_snapped_downwards_by_little(edge):
    end = float(snapped([edge])[0])
    assert end <= np.float32(edge)
    assert edge - end <= 2.0**-11 * abs(edge) * (1 + 1e-6) + 1e-40


def test_batches_add_up_and_quantiles_are_near():
    values = np.exp(np.random.default_rng(0).normal(size=3000)).astype(np.float32)
    whole, parts = counted(values), FloatCounts()
    for part in np.array_split(values, 7):
        parts.add(part)
    edges = np.linspace(0, 10, 50)
    assert whole.below(edges).tolist() == parts.below(edges).tolist()
    shares = [0.0, 0.05, 0.5, 0.95, 1.0]
    expected = np.quantile(values, shares, method="inverted_cdf")
    np.testing.assert_allclose(parts.quantile(shares), expected, rtol=1e-3)
    assert parts.quantile([0.0, 1.0]).tolist() == [float(values.min()), float(values.max())]


def test_minus_zero_and_infinite_values_have_their_places():
    counts = counted([-0.0, 0.0, np.inf, -np.inf])
    assert counts.below([0.0]).tolist() == [1]
    assert (counts.n, counts.highest) == (4, float(np.finfo(np.float32).max))


@given(arrays(np.float32, st.integers(0, 30), elements=st.floats(0, 50, width=32)))
def test_a_tally_counts_every_row_with_a_score_once(scores):
    tally = Tally()
    p_values = (1.0 / (1.0 + scores)).astype(np.float32)
    scores[::5] = np.nan
    p_values[::5] = np.nan
    for part in (slice(0, 11), slice(11, None)):
        tally.add(scores[part], p_values[part])
    n = int((~np.isnan(scores)).sum())
    assert tally.scores.n == tally.p_values.n == tally.up_to[-1] == n
    assert tally.up_to.tolist() == [int((p_values <= np.float32(r)).sum()) for r in RATES]


# Chance


@pytest.mark.parametrize("n_calibration", [50, 399, 2000])
@pytest.mark.parametrize("n_rows", [1, 30, 2100, 40_000])
@pytest.mark.parametrize("rate", [0.001, 0.01, 0.03, 0.2, 0.5])
def test_the_band_is_that_of_scipy(n_calibration, n_rows, rate):
    found = chance_band(n_calibration, n_rows, rate)
    np.testing.assert_allclose(found, conformal_band(n_calibration, n_rows, rate), atol=1e-12)


def test_of_very_many_rows_the_band_is_that_of_the_calibration_rows():
    found = chance_band(500, 10_000_000, 0.1)
    np.testing.assert_allclose(found, conformal_band(500, 10_000_000, 0.1), rtol=2e-3)


# Charts


def bars(chart, kind):
    return [r for r in ET.fromstring(chart.image).iter("rect") if r.get("class") == f"bar {kind}"]


def total(chart, kind):
    titles = [r.find("title").text for r in bars(chart, kind)]
    return sum(int(t.split(": ")[1].split()[0].replace("\u202f", "")) for t in titles)


@pytest.mark.parametrize("scale", [1.0, 1e30])
@pytest.mark.parametrize("threshold", [2.5, float("nan")])
def test_the_histogram_counts_every_row_on_its_side_of_the_threshold(threshold, scale):
    rng = np.random.default_rng(1)
    scores = (np.exp(rng.normal(size=500)) * scale).astype(np.float32)
    held_out = (np.exp(rng.normal(size=200)) * scale).astype(np.float32)
    threshold *= scale
    n_flagged = int((scores >= threshold).sum())
    chart = scored_histogram(
        counted(scores), np.sort(held_out), threshold=threshold, n_flagged=n_flagged, rule="at x"
    )
    assert total(chart, "ours") == 500
    assert total(chart, "normal") == 200
    assert ("threshold" in dict(chart.legend)) == np.isfinite(threshold)
    if np.isfinite(threshold):
        lines = ET.fromstring(chart.image).iter("line")
        at = next(float(line.get("x1")) for line in lines if line.get("class") == "threshold")
        right = [r for r in bars(chart, "ours") if float(r.get("x")) > at - 0.1]
        found = [int(r.find("title").text.split(": ")[1].split()[0]) for r in right]
        assert sum(found) == n_flagged


@pytest.mark.parametrize("values", [[0.0], [7.0, 7.0], [-1.0, 0.0, 1e4], [1.0, np.inf]])
def test_few_and_strange_scores_can_be_drawn(values):
    chart = scored_histogram(
        counted(values), None, threshold=float("nan"), n_flagged=0, rule="at x"
    )
    assert total(chart, "ours") == len(values)
    assert chart.numbers.headers == ("scores", "rows of the table")
    assert "held-out" not in chart.text


@pytest.mark.parametrize("n_calibration", [400, None])
@pytest.mark.parametrize("p", [[1.0], [1e-30, 0.5], [0.5] * 20_000, np.linspace(1e-3, 1, 5000)])
def test_the_plot_of_p_values_draws_rows_chance_and_band(p, n_calibration):
    p_values = np.asarray(p, dtype=np.float32)
    tally = Tally()
    tally.add(np.ones(len(p_values), np.float32), p_values)
    chart = p_value_plot(
        *(tally.p_values, tally.up_to),
        n_calibration=n_calibration,
        decision=0.01,
        rule="at x",
    )
    lines = [line.get("class") for line in ET.fromstring(chart.image).iter("polyline")]
    assert lines == ["line chance", "line anomgan"]
    assert ("band expected" in dict(chart.legend)) == (n_calibration is not None)
    assert [row[0] for row in chart.numbers.rows] == [f"{rate:g}" for rate in RATES]
    assert chart.numbers.rows[-1][1:] == (
        f"{len(p_values):,}".replace(",", "\u202f"),
        *["100\u202f%"] * 2,
    )


# Drift in words


SCHEMA = Schema.infer(toy_table(), SchemaOptions(), source="<toy>")


def found(*departures, n_rows=1500):
    return DriftReport(n_rows, 0.001, departures, (0.0, 12.34, -1.0, 3.7))


def plain(text):
    return text.replace("\u202f", " ")


def test_no_drift_is_said_plainly():
    section = DriftSection.of(found(), SCHEMA)
    assert plain(section.sentence) == (
        "None. Taken together, the 1 500 scored rows differ from the training rows in none of 3 "
        "columns, nor in the scores, beyond what chance explains."
    )
    assert (section.status.kind, section.status.text) == ("good", "No drift")
    assert section.departures is None
    assert plain(section.hint) == (
        "The test is corrected for the number of columns: it weighs 3 columns and the scores at "
        "once, and of 1 000 tables of rows like those of training it gives a warning of any kind "
        "in at most one. A departure is told if it moved at least 2 % of all rows, or doubled a "
        "share."
    )


def test_departures_are_told_column_by_column():
    score = Departure(None, 9.0, 0.3, 0.02, "30 % of the rows score above 95")
    mode = Departure("mode", 12.34, 0.13, 0.0, "13 % 'turbo', never seen in training")
    section = DriftSection.of(found(score, mode), SCHEMA)
    assert plain(section.sentence) == (
        "Taken together, the 1 500 scored rows differ from the training rows in 1 of 3 columns "
        "and in the scores."
    )
    assert section.departures.rows == (("the scores", score.text), ("mode", mode.text))
    assert section.evidence.rows[1] == ("mode", "12.3", "3.6", "yes")
    assert section.evidence.rows[-1] == ("the scores", "3.7", "3.6", "yes")
    names = [column.name for column in SCHEMA.columns]
    assert [row[0] for row in section.evidence.rows] == [*names, "the scores"]
    alone = DriftSection.of(found(score), SCHEMA)
    assert alone.sentence.endswith("differ from the training rows in the scores.")


@pytest.mark.parametrize(
    ("report", "switched_off", "why"),
    [
        (None, True, "it was switched off (--no-drift)."),
        (None, False, "the model keeps no profile of its training rows"),
        (found(n_rows=0), False, "no row was scored."),
    ],
)
def test_why_drift_was_not_judged(report, switched_off, why):
    section = DriftSection.of(report, SCHEMA, switched_off=switched_off)
    assert section.sentence.startswith(f"Drift was not judged: {why}")
    assert section.status.text == "Drift not judged"
    assert section.evidence is None
