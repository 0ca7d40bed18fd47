"""``anomgan fit --calibrate-by`` and every command on such a model."""

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.false_discovery import benjamini_hochberg
from anomgan.serving import Scorer
from anomgan_cli.main import app
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
    assert run("score", "new.csv", "--fdr", "0.1", "-o", "fdr.csv").exit_code == 0
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
    assert "the smallest p-value that the calibration rows of its group can give" in result.stderr
    assert (
        "calibration rows in the group; fit on more normal rows, or use --fdr-ex" in result.stderr
    )
    assert run("score", "new.csv", "--fdr", "0.1", "--fdr-extrapolate").exit_code == 0
