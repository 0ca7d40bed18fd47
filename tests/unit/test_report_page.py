"""The page: everything in it is true, escaped, well-formed, and asks for nothing."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest
from report_page import Page, made_scores
from toy_model import toy_bundle, toy_table

from anomgan.evaluation.labelled import OURS, evaluate_scores, score_labelled
from anomgan.report.drift import DriftSection
from anomgan.report.evaluated import Report, render
from anomgan.report.facts import ModelFacts, Provenance, schema_grid
from anomgan.report.rows import NotableRows
from anomgan.report.wording import measure_name
from anomgan.serving import Scorer
from anomgan.tables import LabelReader
from anomgan.tables.readers import open_table

MADE_AT = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
EVIL = "<script>alert('x')</script>"


def table(n=60, n_anomalies=15, *, seed=1):
    frame = toy_table(n, seed=seed)
    pressure = frame["pressure"].to_numpy().copy()
    pressure[n - n_anomalies :] += 40.0
    return frame.with_columns(
        pressure=pl.Series(pressure), y=pl.Series([0] * (n - n_anomalies) + [1] * n_anomalies)
    )


def report_of(frame, model, *, label="y", rate=None, batch_rows=None):
    """A report as `anomgan evaluate` makes it, without baselines."""
    scorer = Scorer.open(model, providers="cpu")
    rows = NotableRows(scorer, label=label)
    parts = [frame] if batch_rows is None else list(frame.iter_slices(batch_rows))
    seen = []
    for i, part in enumerate(parts):
        with open_table(part) as reader:
            batches = [replace(b, first_row=1 + i * (batch_rows or 0)) for b in reader]
            seen += list(scorer.stream_batches(batches, false_alarm_rate=rate))
    with open_table(frame) as reader:
        scored = score_labelled(
            *(scorer, reader, LabelReader(label, (), "labelled.csv")),
            label=label,
            known=None,
            false_alarm_rate=rate,
            observe=rows.add if batch_rows is None else None,
        )
    if batch_rows is not None:
        for item in seen:
            marks = item.batch.frame[label].to_numpy() == 1
            rows.add(item, marks)
    model_facts = ModelFacts.of(model, scorer)
    drift = DriftSection.of(None, scorer.schema)
    return Report(model_facts, provenance(scorer), rows, scored, evaluate_scores(scored), drift)


def provenance(scorer):
    return Provenance.of("labelled.csv", scorer, made_at=MADE_AT, seed=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "anomgan-model"
    toy_bundle(path)
    return path


@pytest.fixture(scope="module")
def report(model):
    return report_of(table(), model)


def with_scores(report, scored):
    return replace(report, scored=scored, evaluation=evaluate_scores(scored))


def sound(report):
    content = render(report)
    page = Page(content)
    assert page.faults == []
    assert page.external == []
    return page


# What is in it


def _printed(values, digits=4):
    return (
        "-"
        if values["value"] is None
        else "{value:.{d}f} [{low:.{d}f}, {high:.{d}f}]".format(d=digits, **values)
    )


def test_every_figure_is_that_of_the_evaluation(report):
    scored = made_scores()
    full = with_scores(report, scored)
    expected, page = full.evaluation.to_dict(), sound(full)
    ranking = page.tables["Ranking measures"]
    assert ranking[0] == ["ranking", "anomgan", "IsolationForest", "1-NN distance"]
    for row in ranking[1:]:
        measure = next(m for m in expected["detectors"][OURS] if measure_name(m) == row[0])
        for cell, detector in zip(row[1:], expected["detectors"], strict=True):
            assert cell == _printed(expected["detectors"][detector][measure])
    assert len(ranking) - 1 == len(expected["detectors"][OURS])
    leads = page.tables["Leads"][1:]
    assert [row[1] for row in leads] == [_printed(v) for v in expected["auroc_leads"].values()]
    decision = expected["decision"]
    found = dict(page.tables["The decision in figures"][1:])
    assert found["precision"] == _printed(decision["precision"])
    assert found["recall"] == _printed(decision["recall"])
    assert found["realised false-alarm rate"] == _printed(decision["realised_false_alarm_rate"])
    assert found["F1"] == f"{decision['f1']:.4f}"
    assert found["flagged from a score of"] == f"{decision['threshold']:.6g}"
    counts = page.tables["Confusion counts"]
    assert counts[1][1:3] == [str(decision[k]) for k in ("true_positives", "false_negatives")]
    assert counts[2][1:3] == [str(decision[k]) for k in ("false_positives", "true_negatives")]
    shown = page.tables["False alarms, asked for and realised in numbers"][1:]
    for row, point in zip(shown, expected["calibration"], strict=True):
        assert row[:2] == [f"{point['false_alarm_rate']:g}", _printed(point["realised"])]
        band = point["expected_band"]
        assert row[2] == ("-" if band is None else f"{band[0]:.4f} to {band[1]:.4f}")
    for key, value in expected["best_f1"].items():
        assert (f"{value:.6g}" if key == "threshold" else f"{value:.4f}") in page.text
    assert expected["verdict"] in page.text
    for note in expected["notes"]:
        assert note[1:] in page.text


def test_the_first_sentence_says_what_the_decision_does(report):
    page = sound(report)
    decision = report.evaluation.decision
    assert decision.recall.value == 1.0
    expected = (
        f"At its stored false-alarm rate of 1 %, the model finds 15 of 15 anomalies (100 %) and "
        f"flags {decision.false_positives} of 45 normal rows by mistake"
    )
    assert expected in page.text.replace("\u202f", " ")


def test_another_rate_is_not_called_the_stored_one(model):
    page = sound(report_of(table(), model, rate=0.2))
    assert "At a false-alarm rate of 20 %" in page.text.replace("\u202f", " ")


def test_the_time_is_that_of_the_caller_in_utc(report):
    elsewhere = MADE_AT.astimezone(timezone(timedelta(hours=5)))
    moved = replace(report, provenance=replace(report.provenance, made_at=elsewhere))
    assert render(moved) == render(report)
    assert "2026-03-01 12:30 UTC" in sound(report).text


def test_the_highest_rows_are_those_of_the_table(report):
    scored = report.scored
    page = sound(report)
    shown = page.tables["The highest scores"]
    assert shown[0] == ["row", "part_id", "score", "p-value", "flagged", "label", "reason"]
    best = np.argsort(-scored.scores[OURS], kind="stable")[:20]
    assert [int(row[0]) for row in shown[1:]] == scored.rows[best].tolist()
    assert [row[2] for row in shown[1:]] == [f"{s:.4g}" for s in scored.scores[OURS][best]]
    assert [row[1] for row in shown[1:]] == [f"P1-{i:05d}" for i in best]
    assert all("pressure = " in row[6] for row in shown[1:10])
    normal = np.flatnonzero(~scored.labels)
    alarms = normal[np.argsort(-scored.scores[OURS][normal], kind="stable")[:5]]
    found = page.tables["Normal rows with the highest scores"][1:]
    assert [int(row[0]) for row in found] == (alarms + 1).tolist()
    anomalies = np.flatnonzero(scored.labels)
    misses = anomalies[np.argsort(scored.scores[OURS][anomalies], kind="stable")[:5]]
    found = page.tables["Anomalies with the lowest scores"][1:]
    assert [int(row[0]) for row in found] == (misses + 1).tolist()


def test_rows_are_the_same_in_any_batches(model):
    whole, parts = (report_of(table(), model, batch_rows=b).rows for b in (None, 7))
    assert whole.highest == parts.highest
    assert whole.alarms == parts.alarms
    assert whole.misses == parts.misses
    assert whole.n_flagged == parts.n_flagged
    for a, b in zip(whole.shares, parts.shares, strict=True):
        assert (a.name, a.n_leading) == (b.name, b.n_leading)
        assert a.share == pytest.approx(b.share)


def test_shares_are_those_of_the_flagged_rows(report):
    shares = {c.name: c for c in report.rows.shares}
    assert sum(c.share for c in shares.values()) == pytest.approx(1.0)
    assert sum(c.n_leading for c in shares.values()) == report.rows.n_flagged
    assert shares["pressure"].share == max(c.share for c in shares.values())
    shown = sound(report).tables["Columns behind the flagged rows"]
    assert shown[1][0] == "pressure"


def test_the_model_is_told_with_its_checksum(report, model):
    page = sound(report)
    import hashlib

    assert hashlib.sha256((model / "scorer.onnx").read_bytes()).hexdigest() in page.text
    columns = [row[0] for row in page.tables["Columns that the model reads"][1:]]
    assert columns == ["pressure", "mode", "speed"]
    aside = {row[0]: row[1] for row in page.tables["Columns set aside"][1:]}
    assert aside["part_id"] == "identifier"
    assert "Training healthy" in page.text
    assert len(page.tables["Files of the model"]) == 5


# What may go wrong


def test_what_tables_hold_is_shown_and_never_run(tmp_path):
    columns = {"pressure": EVIL, "mode": 'a"onmouseover="x', "part_id": "</title><b>"}
    frame = table().rename(columns)
    evil_mode = [EVIL if i >= 50 else v for i, v in enumerate(frame[columns["mode"]])]
    ids = [f"{EVIL}{i}" for i in range(60)]
    labels = [{0: "0", 1: "1"}[v] for v in frame["y"]]
    train = toy_table().rename(columns)
    toy_bundle(tmp_path / "m", train)
    frame = frame.with_columns(
        pl.Series(columns["mode"], evil_mode),
        pl.Series(columns["part_id"], ids),
        y=pl.Series(labels),
    )
    report = report_of(frame, tmp_path / "m")
    named = replace(report.provenance, table=f"{EVIL}.csv")
    content = render(replace(report, provenance=named))
    page = Page(content)
    assert page.faults == []
    assert page.external == []
    assert "<script" not in content
    assert EVIL in page.text
    reasons = [row[-1] for row in page.tables["The highest scores"][1:]]
    assert any(EVIL in reason for reason in reasons)
    assert page.tables["The highest scores"][1][1].startswith(EVIL)


def test_characters_that_no_page_may_hold_are_replaced(report):
    named = replace(report.provenance, table="a\x00b\u202ec\x1b[31m\ud7ff.csv")
    content = render(replace(report, provenance=named))
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", content.replace("\n", ""))
    assert "a\ufffdb\ufffdc\ufffd[31m" in content
    content.encode()


def test_the_page_forbids_itself_scripts_and_requests(report):
    content = render(report)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in content
    assert not re.search(r"https?://|//cdn|@import|url\(", content)
    assert len(content) < 300_000


def test_without_baselines_there_is_no_verdict_and_no_lead(report):
    page = sound(report)
    assert report.evaluation.leads == {}
    assert "Leads" not in page.tables
    assert page.tables["Ranking measures"][0] == ["ranking", "anomgan"]


def test_nothing_is_flagged(report, model):
    frame = table().with_columns(pressure=pl.lit(100.0), mode=pl.lit("run"), speed=pl.lit(6.0))
    page = sound(report_of(frame, model))
    assert "No row is flagged." in page.text
    assert "nothing is flagged" in page.text
    assert "finds 0 of 15 anomalies (0 %)" in page.text.replace("\u202f", " ")
    assert dict(page.tables["The decision in figures"][1:])["precision"] == "-"


def test_one_anomaly_and_few_rows(model):
    page = sound(report_of(table(5, 1), model))
    assert "of 1 anomaly (" in page.text
    assert "Only 1 anomaly:" in page.text
    assert len(page.tables["The highest scores"]) == 6
    assert len(page.tables["Anomalies with the lowest scores"]) == 2


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-30])
def test_constant_scores(report, value):
    scored = made_scores(scores=np.full(300, value), threshold=float("nan"))
    page = sound(with_scores(report, scored))
    assert page.tables["Scores in numbers"][1][1:] == [f"{value:.4g}"] * 2


def test_a_bare_scorer_says_what_it_does_not_know(model):
    scorer = model / "scorer.onnx"
    page = sound(report_of(table(), scorer))
    assert "does not say how it was trained" in page.text
    assert "Training healthy" not in page.text
    assert page.tables["Files of the model"][1][0] == "scorer.onnx"


@pytest.mark.parametrize(
    ("rate", "n", "words"),
    [
        (0.01, 500, "False alarms as asked for"),
        (0.2, 500, "Fewer false alarms than asked for"),
        (0.001, 50_000, "More false alarms than asked for"),
        (0.001, 500, "False alarms extrapolated"),
        (0.01, None, "False alarms not judged"),
    ],
)
def test_false_alarms_are_judged_by_what_chance_allows(report, rate, n, words):
    scored = made_scores(n_calibration=n)
    p_values = scored.p_values.copy()
    if rate == 0.2:
        p_values[:240] = 0.5
    if n == 50_000:
        p_values[:20] = 1e-5
    page = sound(with_scores(report, replace(scored, rate=rate, p_values=p_values)))
    assert words in page.text


def test_a_failed_training_is_said_at_the_top(report):
    failed = replace(report.model, health="failed", reasons=("the loss is NaN",))
    assert "Training failed The loss is NaN." in sound(replace(report, model=failed)).text


def test_a_schema_of_very_many_columns_is_cut(report):
    schema = report.model.schema
    column = schema.columns[0]
    wide = replace(schema, columns=tuple(replace(column, name=f"c{i}") for i in range(500)))
    assert len(schema_grid(wide).rows) == 200
    page = sound(replace(report, model=replace(report.model, schema=wide)))
    assert "The first 200 of 500 columns" in page.text
