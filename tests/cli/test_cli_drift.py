"""``anomgan score`` on rows like those of training, and on rows that are not."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan_cli.app import app
from anomgan_datasets import machine_log

ROWS = 1500


@pytest.fixture(scope="module")
def log():
    """Normal rows of the simulated machine that no model has seen."""
    drawn = machine_log(n_normal=ROWS, n_anomalies=0, seed=77)
    return drawn.X[drawn.y == 0]


@pytest.fixture
def here(machine_model, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(machine_model, "anomgan-model")
    log.to_csv("same.csv", index=False)
    moved = log.copy()
    moved["temperature_c"] += 3
    moved.loc[moved.index[::8], "mode"] = "turbo"
    moved.loc[moved.index[::5], "load_pct"] = None
    moved.to_csv("moved.csv", index=False)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["score", *arguments])


def test_rows_like_those_of_training_are_not_warned_of(here):
    result = run("same.csv")
    assert result.exit_code == 0, result.output
    assert "Drift" not in result.stderr


def test_changed_columns_are_named_with_what_changed(here):
    result = run("moved.csv")
    assert result.exit_code == 0, result.output
    assert (
        "Drift: 1 500 rows taken together differ from the training rows (by chance in at most one "
        "of 1 000 tables):\n"
    ) in result.stderr
    assert "\n  mode: 13 % 'turbo', never seen in training\n" in result.stderr
    assert "\n  temperature_c: " in result.stderr
    assert "of the rows lie above" in result.stderr
    assert "\n  load_pct: 21 % missing, 0.8 % in training\n" in result.stderr
    for column in ("machine", "door_open", "speed_rpm", "power_kw", "vibration_mm_s", "time"):
        assert f"\n  {column}: " not in result.stderr
    again = run("moved.csv")
    drift = [line for line in result.stderr.splitlines() if "Scores:" not in line]
    assert drift == [line for line in again.stderr.splitlines() if "Scores:" not in line]


def test_the_check_changes_neither_scores_nor_exit_codes(here):
    with_check = run("moved.csv", "-o", "-")
    without = run("moved.csv", "-o", "-", "--no-drift")
    assert with_check.stdout == without.stdout
    assert "Drift" not in without.stderr
    assert run("moved.csv", "--quiet").stderr == ""
    assert run("moved.csv", "--fail-on-anomaly").exit_code == 3
    assert run("moved.csv", "--fdr", "0.1").stderr.count("Drift: ") == 1


def test_many_anomalies_are_told_as_high_scores(here, machine_files):
    rows = pd.read_csv(machine_files[1])
    pd.concat([rows.iloc[100:]] * 3).to_csv("faulty.csv", index=False)
    result = run("faulty.csv")
    assert "\n  score: " in result.stderr
    assert "more high scores than training leads to expect (many anomalies, or drift)" in (
        result.stderr
    )


def test_five_columns_are_shown_and_the_others_counted(here, log):
    moved = log.copy()
    names = ["speed_rpm", "load_pct", "power_kw", "temperature_c", "vibration_mm_s"]
    moved[names] = moved[names] * 3 + 50
    moved["mode"] = "turbo"
    moved["door_open"] = True
    moved.to_csv("all.csv", index=False)
    lines = run("all.csv").stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("Drift: "))
    assert lines[start + 1].startswith("  score: ")
    assert len([line for line in lines[start + 2 : start + 7] if ": " in line]) == 5
    assert lines[start + 7] == "  and 2 more columns"


def test_models_without_a_profile_are_not_checked(here):
    bundle = Bundle.open("anomgan-model")
    assert "profile.json" in bundle.names
    files = {name: bundle.read(name) for name in bundle.names if name != "profile.json"}
    Bundle.save("old-model", files=files, manifest=bundle.manifest)
    for model in ("old-model", "anomgan-model/scorer.onnx"):
        result = run("moved.csv", "-m", model)
        assert result.exit_code == 0, result.output
        assert "Drift" not in result.stderr


def test_an_altered_profile_is_refused(here):
    profile = json.loads(Path("anomgan-model/profile.json").read_text())
    profile["score"]["n"] += 1
    Path("anomgan-model/profile.json").write_text(json.dumps(profile))
    result = run("same.csv")
    assert result.exit_code == 2
    assert "profile.json" in result.stderr
