"""``anomgan fit --calibrate-by`` and every command on such a model."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
from report_page import Page
from toy_model import toy_bundle, toy_table
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.evaluation.labelled import evaluate_scores, score_labelled
from anomgan.false_discovery import benjamini_hochberg
from anomgan.report.evaluated import EvaluationReport
from anomgan.serving import Scorer
from anomgan.serving.files import score_table
from anomgan.tables import LabelReader
from anomgan.tables.readers import open_table
from anomgan_cli.app import app
from anomgan_cli.render import say_score
from anomgan_datasets import machine_log

GROUPS = ["M-01", "M-02", "M-07"]


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with normal.csv, new.csv with labels, and a model that `fit` made of them."""
    folder = tmp_path_factory.mktemp("groups")
    log = machine_log(n_normal=1000, n_anomalies=100, seed=0)
    frame = pl.from_pandas(log.X).with_columns(is_fault=pl.Series(log.y))
    normal = frame.filter(pl.col("is_fault") == 0)
    normal.head(600).drop("is_fault").write_csv(folder / "normal.csv")
    new = pl.concat([normal.tail(400), frame.filter(pl.col("is_fault") == 1)])
    machine = pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("M-99")).otherwise("machine")
    new.with_columns(machine=machine).write_csv(folder / "new.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run("fit", "normal.csv", "--calibrate-by", "machine", "--max-time", "3s")
    return folder, result


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder[0])
    return folder[0]


def lines(text):
    return [line.split() for line in text.splitlines()]


def test_fit_says_what_each_group_is_flagged_from(folder):
    result = folder[1]
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "Note: in 3 groups of 'machine' the threshold is extrapolated by a tail" in result.stderr
    assert "at a false-alarm rate of 0.01 within each group, from 120 held-out" in result.stderr
    shown = {words[0]: words[1:] for words in lines(result.stderr) if words}
    stated = Bundle.open(folder[0] / "anomgan-model").manifest.calibration
    assert list(stated["groups"]) == GROUPS
    for name in GROUPS:
        own = stated["groups"][name]
        assert shown[name] == [str(own["n"]), f"{own['threshold']:.6g}", "extrapolated"]
    assert "(all other rows)" in result.stderr


def test_scores_are_judged_within_groups(here):
    result = run("score", "new.csv", "--keep-columns")
    assert result.exit_code == 0, result.output
    scores = pl.read_csv("new.scores.csv")
    calibration = Bundle.open("anomgan-model").manifest.calibration
    groups = calibration["groups"]
    for row in scores.iter_rows(named=True):
        own = groups.get(row["machine"], calibration)
        # Scores are written with as many digits as a float32 needs.
        assert row["is_anomaly"] == (np.float32(row["score"]) >= np.float32(own["threshold"]))
    assert {"M-99", None} < set(scores["machine"])
    flagged = scores.filter("is_anomaly")["machine"].unique()
    assert set(GROUPS) <= set(flagged)


def test_a_p_value_that_its_group_cannot_count_is_marked(here):
    result = run("score", "new.csv", "-o", "again.csv")
    assert "(extrapolated)" in result.stderr
    refused = run("score", "new.csv", "-o", "none.csv", "--false-alarm-rate", "1.5")
    assert refused.exit_code == 2


def test_inspect_shows_a_table_of_groups(here):
    result = run("inspect")
    assert result.exit_code == 0, result.output
    assert "Calibration by machine" in result.stdout
    rows = {words[0]: words for words in lines(result.stdout) if words}
    for name in GROUPS:
        assert len(rows[name]) == 4
    assert "groups.M-01" not in result.stdout
    assert list(json.loads(run("inspect", "--json").stdout)["calibration"]["groups"]) == GROUPS


def test_threshold_changes_the_rate_of_all_groups(here):
    before = Bundle.open("anomgan-model").manifest.calibration
    shown = run("threshold")
    assert shown.exit_code == 0, shown.output
    assert "Within the groups of machine; all other rows as above:" in shown.stdout
    assert set(json.loads(run("threshold", "--json").stdout)["groups"]) == set(GROUPS)
    try:
        changed = run("threshold", "--false-alarm-rate", "0.1")
        assert changed.exit_code == 0, changed.output
        assert "within the groups of machine:" in changed.stderr
        after = Bundle.open("anomgan-model").manifest.calibration
        assert after["false_alarm_rate"] == 0.1
        for name in GROUPS:
            assert after["groups"][name]["threshold"] < before["groups"][name]["threshold"]
        session = ort.InferenceSession("anomgan-model/scorer.onnx")
        stated = session.get_modelmeta().custom_metadata_map["anomgan.calibration"]
        assert json.loads(stated) == after
        verdicts = Scorer.open("anomgan-model", providers="cpu").score(
            pl.read_csv("new.csv").drop("is_fault")
        )
        np.testing.assert_array_equal(verdicts.is_anomaly, verdicts.p_value <= np.float32(0.1))
    finally:
        assert run("threshold", "--false-alarm-rate", "0.01").exit_code == 0
    assert Bundle.open("anomgan-model").manifest.calibration == before


def test_threshold_by_labels_and_evaluate_run(here):
    chosen = run(
        *("threshold", "--from-labels", "new.csv", "--label", "is_fault"),
        *("--target", "recall=0.5", "--dry-run"),
    )
    assert chosen.exit_code == 0, chosen.output
    assert "within the groups of machine:" in chosen.stderr
    result = run("evaluate", "new.csv", "--label", "is_fault", "--no-baselines")
    assert result.exit_code == 0, result.output
    assert "Note: the model is calibrated within each group of 'machine'" in result.stdout
    assert "score from" not in result.stdout  # there is no single threshold
    page = run("evaluate", "new.csv", "--label", "is_fault", "--report", "page.html")
    assert page.exit_code == 0, page.output
    assert "calibrated within each group" in Path("page.html").read_text()


def test_explain_and_false_discoveries_and_export_run(here):
    groups = Bundle.open("anomgan-model").manifest.calibration["groups"]
    explained = json.loads(run("explain", "new.csv", "--top", "20", "--json").stdout)
    explained = explained["rows"] if isinstance(explained, dict) else explained
    machines = pl.read_csv("new.csv")["machine"].to_list()
    known = [why for why in explained if machines[why["row"] - 1] in groups]
    assert known
    for why in known:
        own = groups[machines[why["row"] - 1]]
        assert why["threshold"] == own["threshold"]
        assert why["p_value_is_extrapolated"] == (why["p_value"] < own["resolution"] * (1 - 1e-6))
    scored = ("score", "new.csv", "--fdr", "0.1", "-o", "fdr.csv", "--report", "fdr.html")
    assert run(*scored).exit_code == 0
    page = Page(Path("fdr.html").read_text("utf-8"))
    assert page.faults == []
    assert "flagged from" not in page.text  # there is no single threshold
    resolution = {name: own["resolution"] for name, own in groups.items()}
    pooled = Bundle.open("anomgan-model").manifest.calibration["resolution"]
    p_values = pl.read_csv("fdr.csv")["p_value"].to_list()
    for number, *_, p_value, _, _ in page.tables["The highest scores"][1:]:
        i = int(number) - 1
        beyond = p_values[i] < resolution.get(machines[i], pooled) * (1 - 1e-6)
        assert ("†" in p_value) == beyond
    assert run("export", "-o", "alone.onnx").exit_code == 0
    assert run("score", "new.csv", "-m", "alone.onnx", "-o", "alone.csv").exit_code == 0
    run("score", "new.csv", "-o", "again.csv")
    assert Path("alone.csv").read_bytes() == Path("again.csv").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["machin"], "--calibrate-by machin: no such column (did you mean 'machine'?)"),
        (["machine", "--drop", "machine"], "--drop machine contradict each other"),
        (["record_id"], "--calibrate-by record_id tells no groups of rows (identifier)"),
    ],
)
def test_a_column_that_tells_no_groups_is_a_usage_error(here, options, message):
    result = run("fit", "normal.csv", "-m", "other", "--calibrate-by", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert not Path("other").exists()


def test_too_small_groups_share_one_calibration(here):
    pl.read_csv("normal.csv").head(60).write_csv("few.csv")
    result = run("fit", "few.csv", "-m", "few", "--calibrate-by", "machine", "--max-time", "2s")
    assert result.exit_code == 0, result.output
    assert "Note: no group of 'machine' has held-out rows enough" in result.stderr
    assert "groups" not in Bundle.open("few").manifest.calibration


@pytest.mark.parametrize("extrapolate", [False, True])
def test_false_discoveries_rest_on_what_each_group_counts(here, extrapolate):
    option = ["--fdr-extrapolate"] if extrapolate else []
    assert run("score", "new.csv", "--keep-columns", "--fdr", "0.3", *option).exit_code == 0
    scores = pl.read_csv("new.scores.csv")
    calibration = Bundle.open("anomgan-model").manifest.calibration
    own = [calibration["groups"].get(m, calibration)["resolution"] for m in scores["machine"]]
    resolution = np.zeros(len(own)) if extrapolate else np.array(own)
    flags = benjamini_hochberg(scores["p_value"].to_numpy(), 0.3, resolution=resolution)
    assert scores["is_anomaly"].to_list() == flags.tolist()
    assert flags.any()


def test_too_few_rows_in_a_group_are_said_with_the_way_out(here):
    pl.read_csv("new.csv").sort("is_fault").head(200).write_csv("calm.csv")
    result = run("score", "calm.csv", "--fdr", "0.001")
    assert result.exit_code == 0
    assert "calibration rows of the group 'M-0" in result.stderr
    assert "fit on more normal rows, or use --fdr-extrapolate or --false-alarm" in result.stderr
    assert run("score", "new.csv", "--fdr", "0.1", "--fdr-extrapolate").exit_code == 0


# What rows of a group are told


def grouped_scorer(path):
    """A toy scorer that says that rows of the mode `run` are judged by 100 rows of their own."""
    toy_bundle(path)
    scorer = Scorer.open(path, providers="cpu")
    own = {"n": 100, "resolution": 1 / 101, "threshold": 1.0, "tail": {"shape": 0.1}}
    scorer.calibration |= {"by": "mode", "groups": {"run": own}}
    return scorer


@pytest.mark.parametrize(("mode", "said"), [("run", True), ("idle", False)])
def test_flags_beyond_the_rows_of_their_own_group_are_called_extrapolated(
    tmp_path, capsys, mode, said
):
    scorer = grouped_scorer(tmp_path / "toy")
    far = pl.int_range(300) < 12  # their p-values are 1/401: counted by all rows, not by `run`
    calm = toy_table(1200).filter(pl.col("pressure").is_between(95, 105)).head(300)
    new = calm.with_columns(
        pressure=pl.when(far).then(500.0).otherwise("pressure"),
        mode=pl.when(far).then(pl.lit(mode)).otherwise(pl.lit("idle")),
    )
    summary = score_table(
        *(scorer, open_table(new), str(tmp_path / "out.csv")),
        false_discovery_rate=0.1,
        fdr_extrapolate=True,
    )
    assert summary.n_anomalies == 12
    say_score(summary, scorer)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("(extrapolated)") == (5 if said else 0)
    caution = (
        "Every flagged row lies beyond all calibration rows of its own group: the p-values are "
        "extrapolated, and with them the false-discovery rate."
    )
    assert (caution in told) == said


def test_rows_that_a_group_cannot_count_lower_are_told_by_their_group(tmp_path, capsys):
    scorer = grouped_scorer(tmp_path / "toy")
    scorer.calibration["groups"]["run"] |= {"n": 400, "resolution": 1 / 401, "tail": None}
    scorer.calibration |= {"n": 5000, "resolution": 1 / 5001}
    calm = toy_table(1200).filter(pl.col("pressure").is_between(95, 105)).head(300)
    far = pl.int_range(1200) < 1
    new = pl.concat([calm] * 4).with_columns(
        pressure=pl.when(far).then(500.0).otherwise("pressure"), mode=pl.lit("run")
    )
    summary = score_table(
        scorer, open_table(new), str(tmp_path / "out.csv"), false_discovery_rate=0.1
    )
    assert summary.calibration_rows_needed == 1200 / 0.1 - 1
    say_score(summary, scorer)
    assert (
        "1 row reached 0.0025, the smallest p-value that 400 calibration rows of the group 'run' "
        "of 'mode' can give: to be flagged at this rate among 1 200 rows it would take at least "
        "11 999 calibration rows; fit on more normal rows, or use --false-alarm-rate."
    ) in " ".join(capsys.readouterr().err.split())


def test_a_report_marks_what_the_rows_own_group_cannot_count(tmp_path):
    scorer = grouped_scorer(tmp_path / "toy")
    far = pl.int_range(60) < 12
    new = toy_table(60, seed=1).with_columns(
        pressure=pl.when(far).then(500.0 + pl.int_range(60)).otherwise("pressure"),
        mode=pl.when(far).then(pl.Series(["run", "idle"] * 30)).otherwise(pl.lit("idle")),
        y=far.cast(pl.Int8),
    )
    new.write_csv(tmp_path / "new.csv")
    report = EvaluationReport(
        str(tmp_path / "page.html"),
        table=str(tmp_path / "new.csv"),
        model=tmp_path / "toy",
        scorer=scorer,
        label="y",
    )
    with report, open_table(tmp_path / "new.csv") as reader:
        scored = score_labelled(
            *(scorer, reader, LabelReader("y", (), "new.csv")),
            label="y",
            known=None,
            observe=report.add,
        )
        made_at = datetime(2026, 3, 1, tzinfo=UTC)
        report.write(scored, evaluate_scores(scored), made_at=made_at, seed=0)
    page = Page((tmp_path / "page.html").read_text("utf-8"))
    shown = page.tables["The highest scores"][1:13]
    assert ["†" in row[3] for row in shown] == [int(row[0]) % 2 == 1 for row in shown]
    assert (
        "† Extrapolated: beyond what the calibration rows of the row's own group of 'mode' resolve."
        in page.text
    )
