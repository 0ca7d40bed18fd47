"""``anomgan inspect`` and ``anomgan export``."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
from toy_model import toy_bundle
from typer.testing import CliRunner

from anomgan import distillation, persistence
from anomgan.bundle import Bundle
from anomgan.distillation import distil
from anomgan_cli.app import app


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy_bundle("anomgan-model")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def test_inspect_shows_all_that_a_model_says(here):
    result = run("inspect")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("anomgan-model: healthy, made 20")
    assert "Columns (3, from 400 training rows)" in lines
    words = [line.split() for line in lines]
    assert ["mode", "categorical", "run,", "idle,", "clean", "0"] in words
    assert any(w[:2] == ["plant", "constant:"] for w in words)
    assert "Rows are named by part_id." in lines
    assert ["n_members", "1"] in words
    assert any(w[:1] == ["threshold"] for w in words)
    sums = Bundle.open("anomgan-model").manifest.files
    assert [
        "scorer.onnx",
        str(sums["scorer.onnx"]["bytes"]),
        sums["scorer.onnx"]["sha256"],
    ] in words


def test_inspect_as_json_is_the_manifest(here):
    result = run("inspect", "--json")
    assert json.loads(result.stdout) == json.loads(Path("anomgan-model/manifest.json").read_text())


def test_inspect_verifies_the_files(here):
    Path("anomgan-model/weights.safetensors").write_bytes(b"x")
    result = run("inspect")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: anomgan-model/weights.safetensors has 1 bytes")
    assert run("inspect", "-m", "absent").exit_code == 2


def test_export_gives_a_file_that_needs_no_anomgan(here):
    result = run("export")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    session = ort.InferenceSession("scorer.onnx", providers=["CPUExecutionProvider"])
    feed = {
        "numeric": np.array([[500.0, 5.0]]),
        "categorical": np.array([["run"]], dtype=object),
    }
    score, p_value, is_anomaly, contributions = session.run(None, feed)
    assert score.shape == p_value.shape == (1,)
    assert is_anomaly.tolist() == [True]
    assert contributions.shape == (1, 4)
    words = [line.split() for line in result.stderr.splitlines()]
    assert ["input", "numeric", "double", "[N,", "2]", "pressure,", "speed"] in words
    assert sorted(os.listdir()) == ["anomgan-model", "scorer.onnx"]


def test_export_goes_where_asked_or_says_why_not(here):
    assert run("export", "-o", "deployed.onnx", "-q").exit_code == 0
    assert Path("deployed.onnx").read_bytes() == Path("anomgan-model/scorer.onnx").read_bytes()
    refused = run("export", "-o", "anomgan-model")
    assert refused.exit_code == 2
    assert refused.stderr == "Error: anomgan-model is a directory; name a file with -o\n"
    assert run("export", "-m", "absent").exit_code == 2


def test_export_refuses_a_model_that_scores_otherwise(here):
    probe = Path("anomgan-model/probe.npz")
    probe.write_bytes(probe.read_bytes()[:-1])
    assert run("export").exit_code == 2
    assert sorted(os.listdir()) == ["anomgan-model"]


def test_the_version_and_help_are_there():
    from anomgan import __version__

    assert run("--version").stdout == f"anomgan {__version__}\n"
    overview = run("--help").stdout
    for command in ("fit", "score", "inspect", "export", "demo"):
        assert f" {command} " in overview
        assert run(command, "--help").exit_code == 0
    assert "Exit codes: 0 done, 1 failure, 2 bad usage or bad input, 3 anomalies found" in overview


def _quick(*arguments, **named):
    return distil(*arguments, **(named | {"n_steps": 300}))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A real model of few steps, and its table; students learn little too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(persistence, "distil", _quick)
    monkeypatch.setattr(distillation, "_LESSONS", 8_000)
    monkeypatch.setattr(distillation, "_SHARED", 2_000)
    rng = np.random.default_rng(0)
    load = rng.normal(size=300)
    rows = pl.DataFrame({"load": load, "heat": 2.0 * load + 0.1 * rng.normal(size=300)})
    rows.write_csv("normal.csv")
    return tmp_path


def test_export_fast_writes_a_scorer_and_says_what_it_loses(trained):
    assert run("fit", "normal.csv", "--set", "n_steps=30", "-q").exit_code == 0
    result = run("export", "--fast", "-o", "fast.onnx")
    assert result.exit_code == 0, result.output
    assert "Fast scorer: ranks held-out rows like the full score to 0." in result.stderr
    assert "AUROC of" in result.stderr
    Path("new.csv").write_text("load,heat\n0.1,0.2\n0.1,9.0\n")
    assert run("score", "new.csv", "-m", "fast.onnx", "-q").exit_code == 0
    scores = pl.read_csv("new.scores.csv")
    assert scores["score"][1] > scores["score"][0]
    assert scores["p_value"][1] < 0.1
    assert run("export", "--fast", "-o", "again.onnx", "-q").stderr == ""
    assert Path("again.onnx").read_bytes() == Path("fast.onnx").read_bytes()


def test_export_fast_of_a_crossed_model_says_what_to_do(trained):
    arguments = ["--calibration", "cross", "--set", "n_steps=10", "-q"]
    assert run("fit", "normal.csv", *arguments).exit_code == 0
    refused = run("export", "--fast", "-o", "fast.onnx")
    assert refused.exit_code == 2
    assert "fit it again, with calibration 'split'" in " ".join(refused.stderr.split())
    assert not Path("fast.onnx").exists()


def test_export_fp16_writes_a_scorer_and_says_what_it_changes(trained):
    assert run("fit", "normal.csv", "--set", "n_steps=30", "-q").exit_code == 0
    assert run("export", "-o", "full.onnx", "-q").exit_code == 0
    result = run("export", "--precision", "fp16", "-o", "half.onnx")
    assert result.exit_code == 0, result.output
    said = " ".join(result.stderr.split())
    assert "Networks in float16, rounded as on a GPU: scores of known rows that are left" in said
    assert "those of rows far out by up to" in said
    assert "The AUROC with which they tell mixtures from rows changes by" in said
    assert Path("half.onnx").stat().st_size < Path("full.onnx").stat().st_size
    Path("new.csv").write_text("load,heat\n0.1,0.2\n0.1,9.0\n")
    scores = {}
    for name in ("full", "half"):
        arguments = ["-m", f"{name}.onnx", "-o", f"{name}.csv", "-q"]
        assert run("score", "new.csv", *arguments).exit_code == 0
        scores[name] = pl.read_csv(f"{name}.csv")["score"]
    assert scores["half"].to_list() == pytest.approx(scores["full"].to_list(), rel=1e-2)
    assert scores["half"].to_list() != scores["full"].to_list()
    assert run("export", "--precision", "fp16", "-o", "again.onnx", "-q").stderr == ""
    assert Path("again.onnx").read_bytes() == Path("half.onnx").read_bytes()


def test_export_fp16_of_a_crossed_model_works_too(trained):
    arguments = ["--calibration", "cross", "--set", "n_steps=10", "-q"]
    assert run("fit", "normal.csv", *arguments).exit_code == 0
    assert run("export", "--precision", "fp16", "-o", "half.onnx").exit_code == 0
    assert Path("half.onnx").exists()


@pytest.mark.parametrize(
    ("fit", "export", "told"),
    [
        ([], ["--fast"], "--fast and --precision fp16 are two scorers"),
        (["--detector", "alad"], [], "only the default detector is exported in fp16"),
    ],
)
def test_export_fp16_says_where_it_does_not_work(trained, fit, export, told):
    assert run("fit", "normal.csv", "--set", "n_steps=10", "-q", *fit).exit_code == 0
    refused = run("export", "--precision", "fp16", "-o", "half.onnx", *export)
    assert refused.exit_code == 2
    assert told in " ".join(refused.stderr.split())
    assert not Path("half.onnx").exists()
