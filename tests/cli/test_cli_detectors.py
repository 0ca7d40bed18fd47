"""Detectors of the literature from the command line: listed, fitted, and used like the flagship."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from report_page import Page
from typer.testing import CliRunner

from anomgan.bundle import Bundle
from anomgan.presets import DETECTOR_NAMES
from anomgan_cli.app import app

SHORT = ("--set", "n_steps=40", "--set", "batch_rows=32", "--quiet")


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def model(machine_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ALAD on the machine log: all kinds of columns."""
    folder = tmp_path_factory.mktemp("alad") / "model"
    result = run("fit", str(machine_files[0]), "-m", str(folder), "--detector", "alad", *SHORT)
    assert result.exit_code == 0, result.output
    return folder


def test_every_detector_is_listed_in_a_line() -> None:
    lines = run("detectors").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(DETECTOR_NAMES)
    assert all(len(line) <= 110 for line in lines)


@pytest.mark.parametrize("name", ["anomgan", "alad"])
def test_one_is_shown_in_full(name: str) -> None:
    shown = run("detectors", name).stdout
    assert "Parameters" in shown
    assert "n_steps=" in shown


def test_the_model_says_what_it_is(model: Path) -> None:
    manifest = Bundle.open(model).manifest
    assert manifest.parameters["detector"] == "alad"
    assert manifest.parameters["n_steps"] == 40
    shown = run("inspect", "-m", str(model))
    assert shown.exit_code == 0, shown.output
    assert "alad" in shown.output


def test_it_scores_evaluates_explains_and_exports(
    model: Path, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(machine_files[1])
    table["fault"] = [0] * 100 + [1] * 100
    table.to_csv(tmp_path / "labelled.csv", index=False)
    output, page = tmp_path / "scores.csv", tmp_path / "scores.html"
    result = run(
        *("score", str(machine_files[1]), "-m", str(model)),
        *("-o", str(output), "--report", str(page), "--quiet"),
    )
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(output)) == 200
    assert page.stat().st_size > 10_000
    page = tmp_path / "labelled.html"
    result = run(
        *("evaluate", str(tmp_path / "labelled.csv"), "--label", "fault", "-m", str(model)),
        *("--report", str(page), "--json"),
    )
    assert result.exit_code == 0, result.output
    assert "verdict" in json.loads(result.stdout)
    result = run("explain", str(machine_files[1]), "--row", "150", "-m", str(model))
    assert result.exit_code == 0, result.output
    assert "expected" in result.output.lower()
    result = run("inspect", "-m", str(model), "--plots", str(tmp_path / "plots"))
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "plots").glob("*.png"))) == 5
    result = run("threshold", "-m", str(model))
    assert result.exit_code == 0, result.output
    result = run("export", "-m", str(model), "-o", str(tmp_path / "scorer.onnx"))
    assert result.exit_code == 0, result.output


def test_evaluate_calls_a_model_by_its_detector(
    model: Path, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    table = pd.read_csv(machine_files[1])
    table["fault"] = [0] * 100 + [1] * 100
    table.to_csv(tmp_path / "labelled.csv", index=False)
    asked = ("evaluate", str(tmp_path / "labelled.csv"), "--label", "fault", "-m", str(model))
    found = json.loads(run(*asked, "--json").stdout)
    assert found["detector"] == "alad"
    assert list(found["detectors"]) == ["alad", "iforest", "knn1"]
    assert "alad" in found["verdict"]
    page = tmp_path / "labelled.html"
    result = run(*asked, "--report", str(page))
    assert result.exit_code == 0, result.output
    (header,) = [x for x in result.stdout.splitlines() if x.startswith("ranking")]
    assert header.split()[:3] == ["ranking", "alad", "IsolationForest"]
    assert "anomgan ranks" not in result.stdout
    assert "than anomgan" not in result.stdout
    shown = Page(page.read_text("utf-8"))
    tables = [table[0] for table in shown.tables.values() if table]
    assert ["ranking", "alad", "IsolationForest", "1-NN distance"] in tables
    words = {cell for header in tables for cell in header}
    assert {"found by alad", "precision of alad", "AUROC of alad less that of"} <= words
    assert not any("anomgan" in cell for cell in words)
    texts = [text.strip() for text in shown.texts]
    assert "alad" in texts  # in the legends
    assert "anomgan" not in texts
    alone = tmp_path / "scorer.onnx"
    assert run("export", "-m", str(model), "-o", str(alone)).exit_code == 0
    found = json.loads(run(*asked[:-1], str(alone), "--json", "--no-baselines").stdout)
    assert list(found["detectors"]) == ["alad"]


def test_stabilisers_of_the_flagship_are_set_and_stored(
    machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    given = {"spectral_norm": True, "discriminator_steps": 2, "initialisation": "orthogonal"}
    options = [part for k, v in given.items() for part in ("--set", f"{k}={v}")]
    fit = ("fit", str(machine_files[0]), "-m", str(tmp_path / "model"), *SHORT)
    result = run(*fit, *options)
    assert result.exit_code == 0, result.output
    stored = Bundle.open(tmp_path / "model").manifest.parameters
    assert {name: stored[name] for name in given} == given
    shown = run("inspect", "-m", str(tmp_path / "model")).stdout
    assert ["spectral_norm", "True"] in [line.split() for line in shown.splitlines()]
    refused = run(*fit[:2], "-m", str(tmp_path / "other"), "--set", "label_smoothing=0.1")
    assert refused.exit_code == 2
    assert "objective 'relativistic' has no labels to smooth" in refused.stderr
    assert not (tmp_path / "other").exists()


def test_a_context_is_named_by_its_columns(
    machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    result = run(
        *("fit", str(machine_files[0]), "-m", str(tmp_path / "model"), "--detector", "conditional"),
        *("--context", "mode,machine", *SHORT),
    )
    assert result.exit_code == 0, result.output
    assert Bundle.open(tmp_path / "model").manifest.parameters["context"] == [
        "mode",
        "machine",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--context", "mode"), "add --detector conditional"),
        (("--detector", "conditional", "--context", "weather"), "the context names 'weather'"),
        (("--detector", "gan"), "there is no detector 'gan'"),
        (("--detector", "alad", "--calibration", "cross"), "takes an ensemble"),
        (("--set", "n_steps"), "KEY=VALUE is expected"),
        (("--set", "random_state=3"), "there are options for these"),
        (("--detector", "alad", "--set", "n_members=3"), "unknown parameter 'n_members'"),
        (("--set", "n_steps=0"), "n_steps is 0"),
        (("--detector", "alad", "--set", "score_by=l3"), "score_by is 'l3'"),
        (("--set", "n_steps=many"), "n_steps is 'many'"),
    ],
)
def test_wrong_words_are_told_and_leave_nothing(
    arguments: tuple[str, ...], words: str, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    result = run("fit", str(machine_files[0]), "-m", str(model), *arguments)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
