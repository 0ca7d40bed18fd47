"""``anomgan inspect --plots``: pictures that are there, whole, and not blank."""

import json
import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from toy_model import toy_bundle
from typer.testing import CliRunner

from anomgan_cli.app import app

NAMES = ["components.png", "correlations.png", "interpolation.png", "marginals.png", "training.png"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def _refused(result, message):
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert message in result.stderr


def test_pictures_are_drawn_beside_what_inspect_says(here, machine_model):
    plain = run("-m", machine_model)
    result = run("-m", machine_model, "--plots", "made/plots")
    assert result.exit_code == 0, result.output
    assert result.stdout == plain.stdout
    assert result.stderr.split()[0] == "Pictures:"
    assert sorted(os.listdir("made/plots")) == NAMES
    for name in NAMES:
        path = Path("made/plots", name)
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert os.path.join("made/plots", name) in result.stderr
        pixels = matplotlib.image.imread(path)  # [height, width, 4] in [0, 1]
        assert 500 <= pixels.shape[0] <= 3000, name
        assert 800 <= pixels.shape[1] <= 3500, name
        assert pixels[..., :3].std() > 0.05, name
        # Blank panels would leave white bands: something is drawn in each half and quarter.
        height, width = np.array(pixels.shape[:2]) // 2
        for quarter in (pixels[:height, :width], pixels[height:, width:]):
            assert quarter[..., :3].std() > 0.02, name


def test_old_pictures_are_replaced_and_json_stays_json(here, machine_model, monkeypatch):
    os.mkdir("plots")
    Path("plots/training.png").write_bytes(b"old")
    Path("plots/mine.txt").write_bytes(b"kept")
    monkeypatch.setattr("anomgan.report.figures.render", lambda sample: {"training.png": b"new"})
    result = run("-m", machine_model, "--plots", "plots", "--json")
    assert json.loads(result.stdout) == json.loads((machine_model / "manifest.json").read_text())
    assert result.stderr == f"Pictures: {os.path.join('plots', 'training.png')}\n"
    assert Path("plots/training.png").read_bytes() == b"new"
    assert sorted(os.listdir("plots")) == ["mine.txt", "training.png"]


def test_places_that_cannot_be_are_said_before_anything_is_drawn(here, machine_model):
    Path("file").write_text("here")
    _refused(run("-m", machine_model, "--plots", "file"), "file is no folder")
    _refused(run("-m", machine_model, "--plots", "-"), "name a folder, such as plots")
    inside = machine_model / "plots"
    _refused(run("-m", machine_model, "--plots", inside), "lies in the model directory")
    _refused(run("-m", machine_model, "--plots", machine_model), "lies in the model directory")
    _refused(run("-m", "absent", "--plots", "plots"), "absent does not exist")
    assert os.listdir() == ["file"]


def test_a_model_without_networks_is_an_error_and_leaves_nothing(here):
    toy_bundle("anomgan-model")
    _refused(run("--plots", "plots"), "Error: ")
    assert os.listdir() == ["anomgan-model"]


def test_without_matplotlib_it_is_said_what_to_install(here, machine_model, monkeypatch):
    monkeypatch.setattr("anomgan.report.plots.find_spec", lambda name: None)
    result = run("-m", machine_model, "--plots", "plots")
    _refused(
        result, "--plots needs matplotlib, which is not installed: pip install 'anomgan[plots]'"
    )
    assert os.listdir() == []


def test_a_write_that_fails_leaves_neither_pictures_nor_folder(here, monkeypatch):
    from anomgan.errors import OutputError
    from anomgan.report import plots

    class Full(plots.AtomicFile):
        def write(self, data):
            if data == b"last":
                raise OutputError("the disk is full")
            super().write(data)

    monkeypatch.setattr(plots, "AtomicFile", Full)
    with pytest.raises(OutputError):
        plots._write_all("plots", {"a.png": b"first", "b.png": b"last"})
    assert os.listdir() == []
    os.mkdir("plots")
    Path("plots/a.png").write_bytes(b"old")
    with pytest.raises(OutputError):
        plots._write_all("plots", {"a.png": b"first", "b.png": b"last"})
    assert os.listdir("plots") == ["a.png"]
    assert Path("plots/a.png").read_bytes() == b"old"
    Path("blocked").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        plots._write_all("blocked/plots", {"a.png": b"first"})
