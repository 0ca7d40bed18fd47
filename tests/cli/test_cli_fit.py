"""``anomgan fit`` and ``anomgan demo`` on real rows, with trainings cut short."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.errors import TrainingInterrupted
from anomgan_cli.app import app
from anomgan_datasets import csv_files

SHORT = ("--max-time", "3s")


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A model of the benign tumours, by the command and its defaults."""
    folder = tmp_path_factory.mktemp("fit")
    train, test, label, normal = csv_files("breast_cancer", folder)
    labelled = pl.concat([pl.read_csv(train), pl.read_csv(test)])
    labelled = labelled.with_columns(patient=pl.int_range(pl.len()) + 1001, empty=pl.lit(None))
    labelled.write_csv(folder / "all.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = run("fit", "all.csv", "--label", label, "--normal", normal, *SHORT)
    return folder, result


@pytest.fixture
def here(fitted, monkeypatch):
    monkeypatch.chdir(fitted[0])
    return fitted[0]


def test_fit_writes_the_default_model_and_says_what_it_is(fitted):
    folder, result = fitted
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "Set aside: " in result.stderr
    assert "'empty'" in result.stderr
    assert "'patient'" in result.stderr
    assert "Training: " in result.stderr
    assert "a false-alarm rate of 0.01" in result.stderr
    assert "Model: anomgan-model. Score new rows with: anomgan score new.csv\n" in result.stderr
    manifest = Bundle.open(folder / "anomgan-model").manifest
    assert manifest.training["n_rows"] == 357  # the benign rows alone
    assert manifest.schema["id_column"] == "patient"
    assert not [p.name for p in folder.iterdir() if ".tmp" in p.name or "checkpoint" in p.name]


def test_the_labelled_table_is_scored_with_no_other_argument(here):
    result = run("score", "all.csv")
    assert result.exit_code == 0, result.output
    assert "Ignored columns" not in result.stderr
    scores = pl.read_csv("all.scores.csv")
    assert scores.columns == ["row", "patient", "score", "p_value", "is_anomaly"]
    malignant = (pl.read_csv("all.csv")["label"] != "normal").to_numpy()
    ranks = scores["score"].rank().to_numpy()
    n = malignant.sum()
    auroc = (ranks[malignant].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n))
    assert auroc > 0.85
    assert scores["is_anomaly"].to_numpy()[~malignant].mean() < 0.05


def test_inspect_shows_the_training(here):
    result = run("inspect")
    assert result.exit_code == 0, result.output
    words = [line.split() for line in result.stdout.splitlines()]
    assert ["n_rows", "357"] in words
    assert ["detector", "anomgan"] in words
    assert any(w[:2] == ["mean", "radius"] for w in words)
    assert json.loads(run("inspect", "--json").stdout)["training"]["n_rows"] == 357


def test_the_exported_scorer_scores_like_the_command(here):
    import onnxruntime as ort

    assert run("export", "-o", "deployed.onnx").exit_code == 0
    session = ort.InferenceSession("deployed.onnx", providers=["CPUExecutionProvider"])
    names = json.loads(session.get_modelmeta().custom_metadata_map["anomgan.feature_names"])[:-1]
    numeric = pl.read_csv("all.csv").select(names).to_numpy().astype(np.float64)[:50]
    run("score", "all.csv", "-o", "again.csv")
    expected = pl.read_csv("again.csv")["score"].to_numpy()[:50]
    np.testing.assert_allclose(session.run(["score"], {"numeric": numeric})[0], expected, rtol=1e-5)


def test_a_model_is_replaced_only_by_force(here):
    before = Path("anomgan-model/manifest.json").read_bytes()
    refused = run("fit", "all.csv", *SHORT)
    assert refused.exit_code == 2
    assert Path("anomgan-model/manifest.json").read_bytes() == before
    pl.read_csv("all.csv").head(60).select("mean radius", "mean area").write_csv("small.csv")
    assert run("fit", "small.csv", "-m", "other", *SHORT, "--quiet").stderr == ""
    first = Path("other/manifest.json").read_bytes()
    forced = run("fit", "small.csv", "-m", "other", "--force", "--seed", "1", *SHORT)
    assert forced.exit_code == 0
    assert "anomgan score new.csv -m other" in forced.stderr
    assert Path("other/manifest.json").read_bytes() != first


def test_lines_that_cannot_be_read_can_be_left_out(here):
    pl.read_csv("all.csv").head(60).select("mean radius", "mean area").write_csv("bad.csv")
    with open("bad.csv", "a") as file:
        file.write("1\n1,2,3\n")
    assert run("fit", "bad.csv", "-m", "bad", *SHORT).exit_code == 2
    result = run("fit", "bad.csv", "-m", "bad", "--on-bad-row", "skip", *SHORT)
    assert result.exit_code == 0, result.output
    assert "Left out: 2 lines of bad.csv that could not be read" in result.stderr


def test_all_rows_calibrate_across_folds(here):
    pl.read_csv("all.csv").head(60).select("mean radius", "mean area").write_csv("small.csv")
    result = run("fit", "small.csv", "-m", "cross", "--calibration", "cross", *SHORT)
    assert result.exit_code == 0, result.output
    assert "from 60 normal rows, each by a network that never saw it" in result.stderr
    shown = [line.split() for line in run("inspect", "-m", "cross").stdout.splitlines()]
    assert ["calibration", "cross"] in shown
    assert ["n_calibration", "60"] in shown
    assert ["n_members", "5"] in shown
    manifest = json.loads(run("inspect", "-m", "cross", "--json").stdout)
    assert manifest["training"]["n_trained"] == manifest["calibration"]["n"] == 60
    refused = run("fit", "small.csv", "-m", "none", "--calibration", "jackknife")
    assert refused.exit_code == 2
    told = " ".join(refused.stderr.replace("│", " ").split())  # whatever the terminal's width
    assert "'jackknife' is not one of 'split', 'cross'" in told


def test_one_row_is_not_enough(here):
    Path("one.csv").write_text("a,b\n1,2\n")
    result = run("fit", "one.csv", "-m", "one")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert "Traceback" not in result.stderr
    assert not Path("one").exists()


def test_demo_ends_with_a_table_of_yardsticks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("demo", "--max-time", "8s")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["method", "AUROC", "average", "precision", "false", "alarms", "found"]
    measured = {" ".join(line[:-4]): [float(v) for v in line[-4:]] for line in lines[1:]}
    assert list(measured) == ["anomgan", "IsolationForest", "1-NN distance"]
    assert all(values[0] > 0.85 for values in measured.values())
    assert sorted(p.name for p in Path("demo-results").iterdir()) == [
        *("anomgan-model", "breast_cancer-test.csv", "breast_cancer-test.scores.csv"),
        "breast_cancer-train.csv",
    ]
    assert "Next: anomgan inspect -m demo-results/anomgan-model" in result.stderr
    assert run("demo", "--max-time", "3s").exit_code == 0  # once more, over its own results


def test_an_interrupted_training_exits_as_documented(here, monkeypatch):
    def stopped(*_, **__):
        raise TrainingInterrupted("training was stopped at step 1 of 2; go on with --resume")

    monkeypatch.setattr("anomgan.estimator.fit_table", stopped)
    result = run("fit", "all.csv", "-m", "stopped", "--quiet")
    assert result.exit_code == 130
    assert result.stderr == "Error: training was stopped at step 1 of 2; go on with --resume\n"


def test_resume_without_a_checkpoint_says_so(tumour_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(
        "fit", str(tumour_files[0]), "--label", "label", "--normal", "normal", "--resume", *SHORT
    )
    assert result.exit_code == 0, result.output
    assert (
        "There is no checkpoint of anomgan-model to go on from: training from the start."
        in result.stderr
    )
