"""``anomgan evaluate --report``: a page beside the figures, whole or not at all."""

import json
import os
import re
import subprocess
import sys

import polars as pl
import pytest
from report_page import Page
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan_cli.app import app


@pytest.fixture(scope="module")
def labelled(machine_files, tmp_path_factory):
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    state = ["ok"] * 100 + ["broken"] * 60 + ["worn"] * 40
    path = tmp_path_factory.mktemp("labelled") / "labelled.csv"
    frame.with_columns(state=pl.Series(state)).write_csv(path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def toy(here):
    """A toy model, and 60 labelled rows."""
    toy_bundle("anomgan-model")
    frame = toy_table(60, seed=1).with_columns(y=pl.Series([0] * 40 + [1] * 20))
    frame.write_csv("new.csv")
    return here


def run(*arguments, **options):
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)], **options)


TOY = ("new.csv", "--label", "y", "--no-baselines")


def test_the_page_says_what_the_terminal_and_json_say(labelled, machine_model, here):
    arguments = [labelled, "--label", "state", "--normal", "ok", "-m", machine_model]
    plain = run(*arguments)
    result = run(*arguments, "--report", "report.html")
    assert result.exit_code == 0, result.output
    assert result.stdout == plain.stdout
    assert "Report: report.html" in result.stderr
    page = Page((here / "report.html").read_text("utf-8"))
    assert page.faults == []
    assert page.external == []
    for row in page.tables["Ranking measures"][1:]:
        for cell in row:
            assert cell in result.stdout
    assert len(page.tables["The highest scores"]) == 21
    assert {row[5] for row in page.tables["The highest scores"][1:]} <= {"ok", "broken", "worn"}
    found = json.loads(run(*arguments, "--json", "--report", "again.html").stdout)
    assert found["verdict"] in page.text
    assert f"{found['decision']['f1']:.4f}" in page.text
    rest = [
        re.sub(r"\d{2}:\d{2} UTC|T\d{2}:\d{2}:\d{2}", "", (here / n).read_text("utf-8"))
        for n in ("report.html", "again.html")
    ]
    assert rest[0] == rest[1]


def test_a_page_that_is_there_is_replaced(toy):
    (toy / "report.html").write_text("old")
    assert run(*TOY, "--report", "report.html").exit_code == 0
    assert (toy / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_an_error_leaves_the_old_page_and_no_other_file(toy):
    (toy / "report.html").write_text("old")
    frame = pl.read_csv("new.csv", infer_schema=False)
    frame.with_columns(y=pl.lit("maybe")).write_csv("new.csv")
    assert run(*TOY, "--report", "report.html").exit_code == 2
    assert (toy / "report.html").read_text() == "old"
    assert sorted(os.listdir(toy)) == ["anomgan-model", "new.csv", "report.html"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("-", "--report - is standard output"),
        ("new.csv", "new.csv is the table itself; name another file with --report"),
        ("anomgan-model/report.html", "lies in the model directory"),
        ("anomgan-model/manifest.json", "lies in the model directory"),
        ("anomgan-model", "anomgan-model is the model itself"),
        (".", "is a directory; name a file with --report"),
        ("nowhere/report.html", "choose another place with --report"),
    ],
)
def test_places_that_cannot_hold_a_report(toy, output, message):
    before = (toy / "new.csv").read_bytes()
    result = run(*TOY, "--report", output)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
    assert (toy / "new.csv").read_bytes() == before


def test_a_bare_scorer_may_be_reported_on(toy):
    done = run(*TOY, "-m", "anomgan-model/scorer.onnx", "--report", "report.html")
    assert done.exit_code == 0, done.output
    page = Page((toy / "report.html").read_text("utf-8"))
    assert page.faults == []
    assert "does not say how it was trained" in page.text
    result = run(*TOY, "-m", "anomgan-model/scorer.onnx", "--report", "anomgan-model/scorer.onnx")
    assert result.exit_code == 2
    assert "is the model itself" in result.stderr


def test_rows_from_standard_input_and_rows_that_cannot_be_read(toy):
    text = (toy / "new.csv").read_text().replace("\n", "\nbad,line\n", 1)
    arguments = ("-", *TOY[1:], "--on-bad-row", "skip", "--report", "report.html")
    result = run(*arguments, input=text)
    assert result.exit_code == 0, result.output
    page = Page((toy / "report.html").read_text("utf-8"))
    assert "1 rows could not be read" in page.text
    assert "sha256 of the table" not in page.text
    assert len(page.tables["The highest scores"]) == 21


def test_quiet_says_nothing_on_stderr(toy):
    result = run(*TOY, "--report", "report.html", "-q")
    assert result.exit_code == 0
    assert result.stderr == ""


def _imported(arguments):
    code = (
        "import sys\nfrom anomgan_cli.app import app\ntry:\n app(sys.argv[1:])\n"
        "except SystemExit as end:\n assert not end.code\n"
        "finally:\n print([m for m in ('torch', 'onnx', 'pandas', 'jinja2', 'matplotlib')"
        " if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", *arguments],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr.splitlines()[-1]


def test_a_template_engine_is_loaded_for_a_report_alone(toy):
    assert "jinja2" not in _imported(TOY)
    found = _imported([*TOY, "--report", "report.html"])
    assert "torch" not in found
    assert "'onnx'" not in found
    assert "jinja2" in found
