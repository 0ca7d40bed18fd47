"""The stored decision of a model, read and changed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hostile import signed
from toy_model import toy_bundle, toy_fit, toy_table

import anomgan.bundle
from anomgan.bundle import Bundle
from anomgan.calibration import Calibrator
from anomgan.decision import read_decision, store_rate
from anomgan.errors import ModelCorruptError, ModelNotFoundError, OutputError, UsageError
from anomgan.serving import Scorer
from anomgan.tables import read_table


def contents(model: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(model.iterdir())}


def metadata(model: Path) -> dict[str, str]:
    session = ort.InferenceSession(model / "scorer.onnx", providers=["CPUExecutionProvider"])
    return dict(session.get_modelmeta().custom_metadata_map)


@pytest.fixture
def trained(machine_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(machine_model, tmp_path / "anomgan-model"))


def bare(model: Path, table: Path) -> list[Any]:
    """Outputs of the graph alone, its false-alarm rate left to its default."""
    rows = next(Scorer.open(model, providers="cpu").stream_batches([_batch(table)])).rows
    session = ort.InferenceSession(model / "scorer.onnx", providers=["CPUExecutionProvider"])
    feed = {"numeric": rows.numeric, "categorical": rows.categorical}
    named = {value.name for value in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feed.items() if k in named}))


def _batch(table: Path) -> Any:
    from anomgan.tables import Batch

    return Batch(read_table(table), 1, str(table))


def test_a_stored_rate_is_the_default_everywhere(
    trained: Path, machine_files: tuple[Path, Path]
) -> None:
    from anomgan.persistence import load_fitted

    before, old = bare(trained, machine_files[1]), Bundle.open(trained).manifest
    weights = (trained / "weights.safetensors").read_bytes()
    rate = 0.2
    former, renewed = store_rate(trained, rate)

    after, manifest = bare(trained, machine_files[1]), Bundle.open(trained).manifest
    for i in (0, 1, 3):  # score, p_value, contributions
        np.testing.assert_array_equal(after[i], before[i])
    np.testing.assert_array_equal(after[2], before[1] <= np.float32(rate))
    assert after[2].sum() > before[2].sum()
    np.testing.assert_array_equal(after[0] >= np.float32(renewed.threshold), after[2])

    assert former.false_alarm_rate == old.calibration["false_alarm_rate"] == 0.01
    assert renewed.false_alarm_rate == manifest.calibration["false_alarm_rate"] == rate
    assert manifest.calibration["threshold"] == renewed.threshold < former.threshold
    assert read_decision(trained) == renewed
    stated = metadata(trained)
    assert float(stated["anomgan.false_alarm_rate"]) == rate
    assert float(stated["anomgan.threshold"]) == renewed.threshold
    assert json.loads(stated["anomgan.calibration"]) == manifest.calibration
    assert Scorer.open(trained, providers="cpu").false_alarm_rate == rate
    assert Scorer.open(trained / "scorer.onnx", providers="cpu").false_alarm_rate == rate
    assert load_fitted(trained).calibrator.false_alarm_rate == rate

    assert (trained / "weights.safetensors").read_bytes() == weights
    unchanged = ("created_at", "schema", "parameters", "training", "health", "format_version")
    assert all(getattr(manifest, name) == getattr(old, name) for name in unchanged)
    assert set(manifest.files) == set(old.files)


def test_the_estimator_loads_the_new_rate(trained: Path) -> None:
    from anomgan import GANDetector

    _, renewed = store_rate(trained, 0.05)
    detector = GANDetector.load(trained)
    assert detector.false_alarm_rate == 0.05
    assert detector.threshold_ == renewed.threshold


def test_there_and_back_again_gives_the_same_bytes(trained: Path) -> None:
    before = contents(trained)
    store_rate(trained, 0.3)
    assert contents(trained) != before
    store_rate(trained, 0.01)
    assert contents(trained) == before


def test_what_a_decision_says(tmp_path: Path) -> None:
    toy_bundle(tmp_path / "m", tail=True)
    decision = read_decision(tmp_path / "m")
    calibrator = toy_fit(toy_table(), tail=True)[2]
    assert decision.to_dict() == {
        "false_alarm_rate": 0.01,
        "threshold": calibrator.threshold(0.01),
        "n_calibration": 400,
        "resolution": 1 / 401,
        "has_tail": True,
        "extrapolated": False,
    }
    tried = read_decision(tmp_path / "m", 0.001)
    assert tried.extrapolated
    assert tried.threshold == calibrator.threshold(0.001) > decision.threshold
    assert read_decision(tmp_path / "m") == decision


@pytest.mark.parametrize(
    ("rate", "message"), [(0.0, "must lie between 0 and 1"), (1.0, "must lie"), (0.001, "400")]
)
def test_a_rate_that_cannot_be_kept(tmp_path: Path, rate: float, message: str) -> None:
    toy_bundle(tmp_path / "m", tail=False)
    before = contents(tmp_path / "m")
    with pytest.raises(UsageError, match=message):
        store_rate(tmp_path / "m", rate)
    assert contents(tmp_path / "m") == before


@pytest.mark.parametrize("step", ["_write_synced", "put_in_place"])
def test_a_failure_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    toy_bundle(tmp_path / "m")
    before = contents(tmp_path / "m")
    calls = []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anomgan.bundle, step, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        store_rate(tmp_path / "m", 0.05)
    assert calls
    assert os.listdir(tmp_path) == ["m"]
    assert contents(tmp_path / "m") == before
    assert read_decision(tmp_path / "m").false_alarm_rate == 0.01


def resave(model: Path, **changed: bytes) -> None:
    """Save a model again with other files, checksums and all."""
    bundle = Bundle.open(model)
    files: dict[str, Any] = {name: bundle.read(name) for name in bundle.names}
    files |= {name.replace("_", "."): content for name, content in changed.items()}
    Bundle.save(model, files=files, manifest=bundle.manifest, overwrite=True)


def test_models_that_lack_what_is_needed(tmp_path: Path) -> None:
    model = tmp_path / "m"
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        store_rate(model, 0.1)
    toy_bundle(model)
    graph = onnx.load(model / "scorer.onnx")
    (rate,) = [value for value in graph.graph.initializer if value.name == "false_alarm_rate"]
    rate.name = "another"
    resave(model, scorer_onnx=graph.SerializeToString())
    with pytest.raises(ModelCorruptError, match="has no default for its input 'false_alarm_rate'"):
        store_rate(model, 0.1)
    resave(model, scorer_onnx=b"\x99nonsense")
    with pytest.raises(ModelCorruptError, match=r"scorer.onnx is no readable ONNX model"):
        store_rate(model, 0.1)
    signed(model, "calibration.npz", b"nonsense")
    with pytest.raises(ModelCorruptError, match=r"calibration.npz is not a readable array file"):
        read_decision(model)
    bundle = Bundle.open(model)
    files: dict[str, Any] = {"scorer.onnx": bundle.read("scorer.onnx")}
    Bundle.save(model, files=files, manifest=bundle.manifest, overwrite=True)
    with pytest.raises(ModelCorruptError, match=r"holds no calibration.npz \(it has scorer.onnx"):
        store_rate(model, 0.1)


def test_a_model_of_format_1_stays_one(tmp_path: Path) -> None:
    model = tmp_path / "m"
    toy_bundle(model)
    stored = json.loads((model / "manifest.json").read_text())
    (model / "manifest.json").write_text(json.dumps(stored | {"format_version": 1}))
    store_rate(model, 0.1)
    assert Bundle.open(model).manifest.format_version == 1
    scorer = Scorer.open(model, providers="cpu")
    assert scorer.false_alarm_rate == 0.1
    calibrator = Calibrator.from_arrays(Bundle.open(model).arrays("calibration.npz"))
    assert calibrator.false_alarm_rate == 0.1
