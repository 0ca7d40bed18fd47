"""Model directories: same seed, same bytes; killed and resumed, same model; load is exact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from anomgan import GANDetector, Scorer
from anomgan.errors import ModelCorruptError, TrainingInterrupted, UsageError
from anomgan.estimator import fit_table
from anomgan.tables import SchemaOptions, read_table

FIT = """
import sys
from anomgan.estimator import fit_table
from anomgan.tables import SchemaOptions, read_table
table, output, n_steps, resume = sys.argv[1:]
fit_table(
    read_table(table), options=SchemaOptions(), source="normal.csv", output=output,
    parameters={"n_steps": int(n_steps), "random_state": 3, "device": "cpu"},
    resume=resume == "resume",
    progress=lambda step, total, facts: print("step", step, file=sys.stderr, flush=True),
)
"""


class Fit:
    """A fit in a process of its own; its stderr goes to a file beside the model."""

    def __init__(self, table: Path, model: Path, n_steps: int, *, resume: bool = False) -> None:
        self.log = model.with_name(f"{model.name}.{time.monotonic_ns()}.log")
        words = [str(table), str(model), str(n_steps), "resume" if resume else "anew"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([sys.executable, "-c", FIT, *words], stderr=log)

    def wait(self) -> int:
        """Return the exit status."""
        return self.process.wait(timeout=300)

    def wait_for_step(self, least: int) -> int:
        """Wait until training has come so far; return the step."""
        while self.process.poll() is None:
            steps = [
                int(line.split()[1]) for line in self.log.read_text().splitlines() if "step" in line
            ]
            if steps and steps[-1] >= least:
                return steps[-1]
            time.sleep(0.05)
        raise AssertionError(f"ended before step {least}: {self.log.read_text()}")


def _weights(model: Path) -> dict[str, np.ndarray]:
    with safe_open(model / "weights.safetensors", framework="np") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def _timeless(model: Path) -> bytes:
    graph = onnx.load(model / "scorer.onnx")
    for entry in graph.metadata_props:
        if entry.key == "anomgan.created_at":
            entry.value = ""
    return graph.SerializeToString(deterministic=True)


def _same(a: Path, b: Path) -> bool:
    first, second = _weights(a), _weights(b)
    assert first.keys() == second.keys()
    weights = all((first[k] == second[k]).all() for k in first)
    return weights and _timeless(a) == _timeless(b)


@pytest.fixture(scope="module")
def uninterrupted(
    machine_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model of 300 steps, fitted in a process of its own."""
    model = tmp_path_factory.mktemp("whole") / "model"
    fit = Fit(machine_files[0], model, 300)
    assert fit.wait() == 0, fit.log.read_text()
    return model


def test_two_processes_give_the_same_bytes(
    uninterrupted: Path, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert Fit(machine_files[0], tmp_path / "again", 300).wait() == 0
    assert _same(uninterrupted, tmp_path / "again")
    for name in ("scoring.json", "calibration.npz", "probe.npz", "profile.json"):
        arrays = [
            np.load(m / name) if name.endswith("npz") else json.loads((m / name).read_text())
            for m in (uninterrupted, tmp_path / "again")
        ]
        if name.endswith("npz"):
            for key in arrays[0].files:
                np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
        else:
            assert arrays[0] == arrays[1]


def test_killed_and_resumed_gives_the_same_model(
    uninterrupted: Path, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """SIGTERM keeps a checkpoint; SIGKILL while going on loses nothing that was kept."""
    model, checkpoint = tmp_path / "model", tmp_path / "model.checkpoint"
    fit = Fit(machine_files[0], model, 300)
    assert fit.wait_for_step(60) < 300
    fit.process.send_signal(signal.SIGTERM)
    assert fit.wait() != 0
    assert "go on with the same command and --resume" in fit.log.read_text()
    assert checkpoint.exists()
    assert not model.exists()
    fit = Fit(machine_files[0], model, 300, resume=True)
    assert fit.wait_for_step(120) < 300
    fit.process.kill()
    fit.wait()
    assert checkpoint.exists()
    assert not model.exists()
    fit = Fit(machine_files[0], model, 300, resume=True)
    assert fit.wait() == 0
    first = fit.log.read_text().splitlines()[0]
    assert int(first.split()[1]) > 50, "training began anew instead of going on"
    assert _same(uninterrupted, model)
    assert not checkpoint.exists()


def test_resume_with_other_rows_is_refused(
    machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    frame = read_table(machine_files[0])
    arguments = {
        "options": SchemaOptions(),
        "source": "normal.csv",
        "output": tmp_path / "model",
        "parameters": {"n_steps": 400, "random_state": 0, "device": "cpu"},
    }

    def stop(step: int, total: int, facts: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match=r"go on with the same command and --resume"):
        fit_table(frame, progress=stop, **arguments)
    with pytest.raises(UsageError, match="made with other rows or parameters"):
        fit_table(frame.head(200), resume=True, **arguments)


def test_load_gives_the_same_detector(
    machine_model: Path, machine_files: tuple[Path, Path], tmp_path: Path
) -> None:
    frame = read_table(machine_files[1])
    detector = GANDetector.load(machine_model)
    verdicts = Scorer.open(machine_model, providers="cpu").score(frame)
    np.testing.assert_allclose(detector.anomaly_score(frame), verdicts.score, rtol=1e-3)
    assert list(verdicts.feature_names[:-1]) == list(detector.schema_.feature_names)
    detector.save(tmp_path / "copy")
    assert _timeless(tmp_path / "copy") == _timeless(machine_model)


def test_damaged_weights_are_refused(machine_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in machine_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-5] ^= 1
    (copy / "weights.safetensors").write_bytes(bytes(content))
    with pytest.raises(ModelCorruptError, match=r"weights\.safetensors"):
        GANDetector.load(copy)


def test_a_model_of_an_earlier_format_is_scored_but_not_loaded(
    machine_model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in machine_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format_version": 1}))
    with pytest.raises(ModelCorruptError, match="has format 1, of an earlier anomgan"):
        GANDetector.load(copy)
    assert Scorer.open(copy).schema == Scorer.open(machine_model).schema


def test_manifest_states_what_was_done(machine_model: Path) -> None:
    manifest = json.loads((machine_model / "manifest.json").read_text())
    assert manifest["parameters"]["detector"] == "anomgan"
    assert manifest["parameters"]["latent_dim"] >= 2
    training = manifest["training"]
    assert training["n_rows"] == 500
    assert training["n_calibration"] == 100
    assert training["steps"] == 60
    assert training["parity"]["p99_relative"] <= 1e-5
    assert manifest["health"]["verdict"] in ("healthy", "degraded")
    assert set(manifest["files"]) == {
        "scorer.onnx",
        "weights.safetensors",
        "scoring.json",
        "calibration.npz",
        "probe.npz",
        "held-out.safetensors",
        "profile.json",
    }
