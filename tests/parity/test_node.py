"""The scorer in a client that is not Python: onnxruntime-web (WebAssembly) under Node.js."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from anomgan.tables import Rows, Schema, open_table

CLIENT = Path(__file__).parent / "node"
RTOL = 1e-4
"""Relative to the score; contributions are compared relative to the score of their row."""

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None,
    reason="node or npm is not installed",
)


@pytest.fixture(scope="module")
def client() -> Path:
    """The script beside its installed packages; installed once for each lock file."""
    lock = hashlib.sha256((CLIENT / "package-lock.json").read_bytes()).hexdigest()
    stamp = CLIENT / "node_modules" / ".installed"
    if not (stamp.is_file() and stamp.read_text() == lock):
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(npm, cwd=CLIENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"npm ci failed:\n{done.stdout}\n{done.stderr}"
        stamp.write_text(lock)
    return CLIENT / "score.mjs"


@pytest.fixture(scope="module")
def scorer(machine_model: Path) -> bytes:
    return (machine_model / "scorer.onnx").read_bytes()


@pytest.fixture(scope="module")
def rows(machine_files: tuple[Path, Path], machine_model: Path) -> Rows:
    """Normal and faulty rows, among them missing cells and a category never seen."""
    manifest = json.loads((machine_model / "manifest.json").read_text())
    schema = Schema.from_dict(manifest["schema"])
    with open_table(machine_files[1]) as reader:
        (batch,) = reader
    rows = schema.rows(batch)
    assert np.isnan(rows.numeric).any()
    assert (rows.categorical == "").any()
    known = {c for column in schema.columns for c in column.categories}
    assert not set(rows.categorical.ravel()) <= {"", *known}
    return rows


def _in_python(model: bytes, rows: Rows, rate: float | None = None) -> dict[str, Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {"numeric": rows.numeric, "categorical": rows.categorical}
    if rate is not None:
        feed["false_alarm_rate"] = np.array(rate, np.float32)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _in_node(
    client: Path, model: bytes, rows: Rows, folder: Path, rate: float | None = None
) -> dict[str, Any]:
    (folder / "scorer.onnx").write_bytes(model)
    numbers = [[None if np.isnan(v) else v for v in row] for row in rows.numeric.tolist()]
    content: dict[str, Any] = {"numeric": numbers, "categorical": rows.categorical.tolist()}
    if rate is not None:
        content["false_alarm_rate"] = rate
    (folder / "rows.json").write_text(json.dumps(content))
    done = subprocess.run(
        ["node", str(client), str(folder / "scorer.onnx"), str(folder / "rows.json")],
        capture_output=True,
        text=True,
        timeout=120,
        env={k: v for k, v in os.environ.items() if k != "NODE_OPTIONS"},
    )
    assert (done.returncode, done.stderr[-2000:]) == (0, "")
    return dict(json.loads(done.stdout))


def test_node_gives_the_same_verdicts(
    client: Path, scorer: bytes, rows: Rows, tmp_path: Path
) -> None:
    ours, theirs = _in_python(scorer, rows), _in_node(client, scorer, rows, tmp_path)
    assert theirs["inputs"] == ["numeric", "categorical"]
    assert len(theirs["score"]) == len(rows.numeric) == 200
    np.testing.assert_allclose(theirs["score"], ours["score"], rtol=RTOL)
    np.testing.assert_allclose(theirs["p_value"], ours["p_value"], rtol=RTOL)
    np.testing.assert_array_equal(theirs["is_anomaly"], ours["is_anomaly"])
    assert 0 < sum(theirs["is_anomaly"]) < 200
    slack = RTOL * ours["score"][:, None]
    gap = np.abs(np.array(theirs["contributions"]) - ours["contributions"])
    assert (gap <= slack).all()


def test_node_decides_at_another_false_alarm_rate(
    client: Path, scorer: bytes, rows: Rows, tmp_path: Path
) -> None:
    ours = _in_python(scorer, rows, rate=0.3)
    theirs = _in_node(client, scorer, rows, tmp_path, rate=0.3)
    np.testing.assert_array_equal(theirs["is_anomaly"], ours["is_anomaly"])
    assert sum(theirs["is_anomaly"]) > _in_python(scorer, rows)["is_anomaly"].sum()
