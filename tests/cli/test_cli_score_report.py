"""``anomgan score --report``: a page beside the scores, whole or not at all."""

import os
import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from report_page import Page
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.calibration import Calibrator
from anomgan.false_discovery import discover
from anomgan.report.scored import ScoreReport
from anomgan.serving import Scorer
from anomgan.serving.files import ScoreSummary
from anomgan_cli.app import app


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A toy model, and 300 rows of which 12 are far off."""
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    far = pl.int_range(300) < 12
    frame = toy_table(300, seed=1)
    frame.with_columns(pressure=pl.when(far).then(500.0).otherwise("pressure")).write_csv("new.csv")
    return tmp_path


def run(*arguments, **options):
    return CliRunner().invoke(app, ["score", *map(str, arguments)], **options)


def page_of(name="report.html"):
    content = Path(name).read_text("utf-8")
    page = Page(content)
    assert page.faults == []
    assert page.external == []
    return page


def plain(text):
    return text.replace("\u202f", " ").replace("\u00a0", " ")


def bar_counts(content, kind):
    image = re.search(r'<svg class="chart".*?</svg>', content, re.DOTALL)[0]
    rects = ET.fromstring(image).iter("rect")
    titles = [r.find("title").text for r in rects if r.get("class") == f"bar {kind}"]
    return [
        (float(t.split(" to ")[0]), int(plain(t).split(": ")[1].split(" row")[0].split(" held")[0]))
        for t in titles
    ]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--false-alarm-rate", "0.2"),
        ("--fdr", "0.1"),
        ("--fdr", "0.3", "--fdr-method", "storey"),
        ("--fdr", "0.0001"),
    ],
)
def test_counts_of_the_page_are_those_of_the_scores(here, options):
    result = run("new.csv", "--report", "report.html", *options)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[-1] == "Report: report.html"
    scores = pl.read_csv("new.scores.csv")
    n_flagged = int(scores["is_anomaly"].sum())
    page, content = page_of(), Path("report.html").read_text("utf-8")
    bars = bar_counts(content, "ours")
    assert sum(n for _, n in bars) == 300
    assert sum(n for _, n in bar_counts(content, "normal")) == 400
    found = re.search(r"flagged from ([\d.]+)", page.text)
    if n_flagged:
        edge = float(found[1])
        assert sum(n for low, n in bars if low >= edge * (1 - 1e-3)) == n_flagged
    else:
        assert found is None
    numbers = page.tables["P-values, against those of normal rows in numbers"][1:]
    p_values = scores["p_value"].to_numpy().astype(np.float32)
    for rate, n, *_ in numbers:
        assert int(plain(n)) == (p_values <= np.float32(rate)).sum()
    highest = page.tables["The highest scores"]
    assert highest[0] == ["row", "part_id", "score", "p-value", "flagged", "reason"]
    flags = dict(zip(scores["row"], scores["is_anomaly"], strict=True))
    assert [row[4] == "yes" for row in highest[1:]] == [flags[int(row[0])] for row in highest[1:]]
    if n_flagged:
        leads = [int(row[3]) for row in page.tables["Columns behind the flagged rows"][1:]]
        assert sum(leads) == n_flagged
        assert f"over {n_flagged} flagged" in page.text
    else:
        assert "No row is flagged." in page.text
        assert "flags none of 300 rows." in plain(page.text)


def test_the_page_says_in_words_what_was_found(here):
    assert run("new.csv", "--report", "report.html").exit_code == 0
    n = int(pl.read_csv("new.scores.csv")["is_anomaly"].sum())
    text = plain(page_of().text)
    share = plain(f"{100 * n / 300:.3g} %")
    assert (
        f"At its stored false-alarm rate of 1 %, the model flags {n} of 300 rows ({share}); "
        "normal rows alone would give about 3."
    ) in text
    assert "Model anomgan-model on 300 rows" in text
    calibrator = Calibrator.from_arrays(Bundle.open("anomgan-model").arrays("calibration.npz"))
    assert f"flagged from {calibrator.threshold():.4g}" in text
    assert "Drift was not judged: the model keeps no profile of its training rows" in text
    assert "A line above it near 0, at the left, is an excess of unusual rows" in text
    for absent in ("ROC", "recall", "Confusion", "AUROC"):
        assert absent not in text


def test_a_discovery_rate_is_told(here):
    assert run("new.csv", "--fdr", "0.1", "--report", "report.html").exit_code == 0
    n = int(pl.read_csv("new.scores.csv")["is_anomaly"].sum())
    assert (
        f"At a false-discovery rate of 10 %, the model flags {n} of 300 rows ({100 * n / 300:.3g} "
        "%): on average at most that share of the flagged rows are normal ones."
    ) in plain(page_of().text)


def test_the_page_is_the_same_without_the_time(here):
    for name in ("a.html", "b.html"):
        assert run("new.csv", "--report", name, "-o", "-").exit_code == 0
    pages = [
        re.sub(r"\d{2}:\d{2} UTC|T\d{2}:\d{2}:\d{2}", "", Path(n).read_text("utf-8"))
        for n in ("a.html", "b.html")
    ]
    assert pages[0] == pages[1]


def test_scores_go_to_standard_output_as_without_a_report(here):
    before = run("new.csv", "-o", "-")
    result = run("new.csv", "-o", "-", "--top-features", "0", "--report", "report.html")
    assert result.stdout == before.stdout
    piped = run("-", "--report", "piped.html", "-q", input=Path("new.csv").read_text())
    assert (piped.stdout, piped.stderr) == (before.stdout, "")
    assert "sha256 of the table" not in page_of("piped.html").text


def test_a_table_without_rows_is_refused_as_without_a_report(here):
    pl.read_csv("new.csv").clear().write_parquet("empty.parquet")
    for options in ((), ("--fdr", "0.1")):
        result = run("empty.parquet", "--report", "report.html", *options)
        assert result.exit_code == 2
        assert "no rows: nothing to read" in " ".join(result.stderr.split())
        assert sorted(os.listdir()) == ["anomgan-model", "empty.parquet", "new.csv"]


@pytest.mark.parametrize("rate", [None, 0.1])
def test_no_row_at_all_makes_a_page(here, rate):
    scorer = Scorer.open("anomgan-model", providers="cpu")
    found = None if rate is None else discover(list, rate)
    report = ScoreReport(
        "report.html",
        table="stream",
        scores="-",
        model="anomgan-model",
        scorer=scorer,
        false_discovery_rate=rate,
    )
    with report:
        summary = ScoreSummary(0, 0, 0, 0.01, 0.0, "CPU", "-", (), (), (), discoveries=found)
        report.write(summary, made_at=datetime(2026, 3, 1, tzinfo=UTC))
    page = page_of()
    assert "The table has no rows." in page.text
    assert "No row was scored." in page.text
    assert "No row is flagged." in page.text
    assert "charts" not in page.ids


def test_rows_that_cannot_be_read(here):
    lines = Path("new.csv").read_text().splitlines(keepends=True)
    Path("bad.csv").write_text("".join([*lines[:3], "P,x,run,1,north\n", *lines[3:]]))
    result = run("bad.csv", "--on-bad-row", "skip", "--report", "report.html")
    assert result.exit_code == 0, result.output
    page = page_of()
    assert "1 row without a score" in plain(page.text)
    assert "of 300 rows" in plain(page.text)
    Path("bad.csv").write_text(lines[0] + "P,x,run,1,north\n")
    assert run("bad.csv", "--on-bad-row", "skip", "--report", "report.html").exit_code == 0
    assert "None of 1 row could be read, hence none has a score." in page_of().text


def test_no_flagged_row(here):
    calm = toy_table(300).filter(pl.col("pressure").is_between(98, 102)).head(20)
    calm.with_columns(mode=pl.lit("run"), speed=pl.lit(6.0)).write_csv("calm.csv")
    assert run("calm.csv", "--report", "report.html", "--fail-on-anomaly").exit_code == 0
    page = page_of()
    assert "the model flags none of 20 rows; normal rows alone would give about 0.2." in plain(
        page.text
    )
    assert "No row is flagged." in page.text
    assert run("new.csv", "--report", "report.html", "--fail-on-anomaly").exit_code == 3


def test_a_bare_scorer_may_be_reported_on(here):
    scorer = "anomgan-model/scorer.onnx"
    result = run("new.csv", "-m", scorer, "--report", "report.html")
    assert result.exit_code == 0, result.output
    page = page_of()
    assert "does not say how it was trained" in page.text
    assert page.tables["Scores in numbers"][0] == ["scores", "rows of the table"]
    refused = run("new.csv", "-m", scorer, "--report", scorer)
    assert refused.exit_code == 2
    assert "is the model itself" in refused.stderr


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("-", "--report - is standard output, where figures or scores go; name a file, such as "),
        ("new.csv", "new.csv is the table itself; name another file with --report"),
        ("./out.csv", "./out.csv is the file of scores itself; name another file with --report"),
        ("anomgan-model/report.html", "lies in the model directory, which holds the model's own"),
        ("anomgan-model/manifest.json", "lies in the model directory"),
        ("anomgan-model", "anomgan-model is the model itself"),
        (".", "is a directory; name a file with --report"),
        ("nowhere/report.html", "choose another place with --report"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--fdr", "0.1")])
def test_places_that_cannot_hold_a_report(here, output, message, options):
    before = Path("new.csv").read_bytes()
    result = run("new.csv", "-o", "out.csv", "--report", output, *options)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert Path("new.csv").read_bytes() == before
    assert sorted(os.listdir()) == ["anomgan-model", "new.csv"]


@pytest.mark.parametrize("options", [(), ("--fdr", "0.1")])
def test_a_bad_row_leaves_the_old_page_and_no_other_file(here, options):
    Path("report.html").write_text("old")
    with open("new.csv", "a") as file:
        file.write("P,abc,run,1,north\n")
    result = run("new.csv", "--report", "report.html", *options)
    assert result.exit_code == 2
    assert "'abc'" in result.stderr
    assert Path("report.html").read_text() == "old"
    assert sorted(os.listdir()) == ["anomgan-model", "new.csv", "report.html"]


def test_drift_is_told_as_the_terminal_tells_it(machine_model, machine_files, here):
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    third = pl.int_range(pl.len()) % 3 == 0
    moved = frame.with_columns(load_pct=pl.when(third).then(None).otherwise("load_pct"))
    pl.concat([moved] * 5).write_csv("moved.csv")
    arguments = ("moved.csv", "-m", machine_model, "--report", "report.html")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    page = page_of()
    shown = page.tables["Columns that depart from training"]
    assert shown[0] == ["column", "what differs"]
    assert "load_pct" in [row[0] for row in shown]
    told = result.stderr.split("tables):\n")[1]
    for column, text in shown[1:6]:
        assert f"  {column.removeprefix('the ').replace('scores', 'score')}: {text}" in told
    assert "The test is corrected for the number of columns: it weighs" in page.text
    evidence = page.tables["Evidence of drift, column by column"]
    assert {row[0] for row in evidence if row[3] == "yes"} == {row[0] for row in shown[1:]}
    assert run(*arguments, "--no-drift").exit_code == 0
    text = page_of().text
    assert "Drift was not judged: it was switched off (--no-drift)." in text
    labelled = pl.read_csv("moved.csv", infer_schema=False)
    labelled.with_columns(y=(pl.int_range(pl.len()) % 2).cast(pl.String)).write_csv("labelled.csv")
    done = CliRunner().invoke(
        app,
        [
            *("evaluate", "labelled.csv", "-m", str(machine_model), "--label", "y"),
            *("--no-baselines", "--report", "evaluated.html"),
        ],
    )
    assert done.exit_code == 0, done.output
    evaluated = page_of("evaluated.html")
    assert evaluated.tables["Columns that depart from training"] == shown
    assert "All rows of the table are compared, anomalies too" in evaluated.text
