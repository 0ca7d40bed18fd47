"""The exported graph says what torch says: onnxruntime, the reference evaluator, raw columns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from anomgan import GANDetector
from anomgan.errors import ExportError
from anomgan.export import build_scorer, check_parity, run_scorer
from anomgan.export.graph import IR_VERSION, ML_OPSET, OPSET
from anomgan.export.parity import MAX_RELATIVE, P99_RELATIVE, compare
from anomgan.persistence import load_fitted
from anomgan.tables import Rows, open_table
from anomgan_datasets import clean_split, load

SHORT = {"n_steps": 60, "random_state": 0, "device": "cpu"}


def _rows(array: np.ndarray) -> Rows:
    return Rows(np.asarray(array, dtype=float), np.empty((len(array), 0), dtype=object), None, 1)


@pytest.fixture(
    scope="module",
    params=["38_thyroid", "20_letter", "16_http", "15_Hepatitis", "15_Hepatitis cross"],
)
def trained(request: pytest.FixtureRequest, data_dir: Path) -> tuple[GANDetector, np.ndarray]:
    """A detector and test rows: continuous, integer with exact ties, duplicates, tiny."""
    name, _, calibration = request.param.partition(" ")
    data = load(name, data_dir=data_dir)
    split = clean_split(data.X.to_numpy(dtype=float), data.y, 0)
    test = np.asarray(split.X_test)[-1500:]
    detector = GANDetector(**SHORT, calibration=calibration or "split")
    return detector.fit(np.asarray(split.X_train)), test


def _model(detector: GANDetector) -> bytes:
    fitted = detector.model_
    return build_scorer(fitted.schema, fitted.encoder, fitted.score, fitted.calibrator, metadata={})


def test_scores_agree_with_torch_on_real_rows(
    trained: tuple[GANDetector, np.ndarray],
) -> None:
    detector, test = trained
    outputs = run_scorer(_model(detector), _rows(test))
    parity = compare(
        detector.anomaly_score(test), outputs["score"].astype(float), outputs["contributions"]
    )
    assert parity.p99_relative <= P99_RELATIVE
    assert parity.max_relative <= MAX_RELATIVE
    assert parity.spearman >= 1 - 1e-6
    assert parity.same_top
    assert parity.contribution_gap <= 1e-4


def test_contributions_agree_with_torch_on_real_rows(
    trained: tuple[GANDetector, np.ndarray],
) -> None:
    """Where kernels are narrow (http), a product of sums would lose a tenth of the largest."""
    detector, test = trained
    fitted = detector.model_
    outputs = run_scorer(_model(detector), _rows(test))
    encoded = fitted.encoder.transform(_rows(test))
    scored = fitted.score(torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise))
    score, shares = scored.score.numpy(), scored.contributions.numpy()
    gap = np.abs(outputs["contributions"] - shares).max(axis=1) / score
    # Rows at the very line are explained by one of the two alone.
    clear = np.abs(score / fitted.score.settings.explained_from - 1.0) > 1e-5
    explained = score >= fitted.score.settings.explained_from
    assert (clear & explained).sum() > 5
    assert gap[clear].max() <= 1e-2


def test_p_values_and_flags_are_the_calibrators(trained: tuple[GANDetector, np.ndarray]) -> None:
    detector, test = trained
    outputs = run_scorer(_model(detector), _rows(test))
    calibrator = detector.model_.calibrator
    expected = calibrator.p_values(outputs["score"])
    np.testing.assert_allclose(outputs["p_value"], expected, rtol=1e-6)
    flagged = expected.astype(np.float32) <= np.float32(calibrator.false_alarm_rate)
    assert (outputs["is_anomaly"] == flagged).all()
    assert (outputs["is_anomaly"] == (outputs["score"] >= np.float32(detector.threshold_))).all()


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 65, 256, 257, 4096])
def test_a_row_scores_the_same_in_any_batch(
    trained: tuple[GANDetector, np.ndarray], size: int
) -> None:
    detector, test = trained
    test = test[:600]
    model = _model(detector)
    options = _quiet()
    options.intra_op_num_threads = 3  # threads part a tile in places that depend on its size
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = ["score", "contributions"]
    score, shares = session.run(names, {"numeric": test})
    explained = score >= detector.model_.score.settings.explained_from
    assert (
        5 < explained.sum() < len(test) - 5
    )  # how many of a tile's rows are explained differs by size
    parts = [session.run(names, {"numeric": test[i : i + size]}) for i in range(0, len(test), size)]
    assert (np.concatenate([part[0] for part in parts]) == score).all()
    assert (np.concatenate([part[1] for part in parts]) == shares).all()
    order = np.random.default_rng(0).permutation(len(test))
    shuffled = session.run(names, {"numeric": test[order]})
    assert (shuffled[0] == score[order]).all()
    assert (shuffled[1] == shares[order]).all()


def _quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return options


def test_the_reference_evaluator_agrees(
    machine_model: Path, machine_files: tuple[Path, Path]
) -> None:
    model = (machine_model / "scorer.onnx").read_bytes()
    rows = _machine_rows(machine_model, machine_files[1])
    few = Rows(rows.numeric[:40], rows.categorical[:40], None, 1)
    fast = run_scorer(model, few)
    reference = ReferenceEvaluator(onnx.load_from_string(model))
    feeds = {
        "numeric": few.numeric,
        "categorical": few.categorical.astype(np.str_),
        "false_alarm_rate": np.float32(0.01),
    }
    with np.errstate(divide="ignore"):  # its LogSoftmax is the logarithm of a softmax
        found = dict(zip(reference.output_names, reference.run(None, feeds), strict=True))
    score, p_value, is_anomaly, contributions = (
        found[name] for name in ("score", "p_value", "is_anomaly", "contributions")
    )
    np.testing.assert_allclose(score, fast["score"], rtol=1e-5)
    np.testing.assert_allclose(contributions, fast["contributions"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(p_value, fast["p_value"], rtol=1e-4)
    assert (is_anomaly == fast["is_anomaly"]).all()


def _machine_rows(model: Path, table: Path) -> Rows:
    fitted = load_fitted(model)
    with open_table(table) as reader:
        (batch,) = reader
    return fitted.schema.rows(batch)


def test_mixed_columns_missing_cells_and_unseen_texts_agree(
    machine_model: Path, machine_files: tuple[Path, Path]
) -> None:
    fitted = load_fitted(machine_model)
    rows = _machine_rows(machine_model, machine_files[1])
    rows.numeric[0] = np.nan
    rows.categorical[0] = ""
    rows.categorical[1] = "never seen \u2202"
    rows.numeric[2] = 1e30
    outputs = run_scorer((machine_model / "scorer.onnx").read_bytes(), rows)
    parity = check_parity(outputs, fitted.score, fitted.encoder, rows)
    assert parity.same_top
    assert np.isfinite(outputs["score"]).all()
    assert outputs["score"].argmax() == 2


def test_raw_texts_of_other_clients_are_understood(
    machine_model: Path, machine_files: tuple[Path, Path]
) -> None:
    """A client that knows no schema feeds blanks around texts and its own missing marks."""
    rows = _machine_rows(machine_model, machine_files[1])
    clean = Rows(rows.numeric[:6], rows.categorical[:6].copy(), None, 1)
    clean.categorical[0, 0] = ""
    raw = Rows(clean.numeric, clean.categorical.copy(), None, 1)
    raw.categorical[0, 0] = "NA"
    raw.categorical[1, 0] = f" {raw.categorical[1, 0]}"
    raw.categorical[2, 0] = f"{raw.categorical[2, 0]} "
    model = (machine_model / "scorer.onnx").read_bytes()
    assert (run_scorer(model, raw)["score"] == run_scorer(model, clean)["score"]).all()


def test_interface_is_what_the_design_says(machine_model: Path) -> None:
    model = onnx.load(machine_model / "scorer.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == IR_VERSION == 10
    assert {o.domain: o.version for o in model.opset_import} == {"": OPSET, "ai.onnx.ml": ML_OPSET}
    assert (OPSET, ML_OPSET) == (20, 3)
    assert not model.functions
    assert [i.name for i in model.graph.input] == ["numeric", "categorical", "false_alarm_rate"]
    outputs = {o.name for o in model.graph.output}
    assert outputs == {"score", "p_value", "is_anomaly", "contributions"}
    metadata = {p.key: p.value for p in model.metadata_props}
    assert {"anomgan.schema", "anomgan.version", "anomgan.threshold", "anomgan.created_at"} <= set(
        metadata
    )
    columns = json.loads(metadata["anomgan.numeric_columns"])
    assert model.graph.input[0].type.tensor_type.shape.dim[1].dim_value == len(columns)


def test_empty_batch_and_rate_input(trained: tuple[GANDetector, np.ndarray]) -> None:
    detector, test = trained
    session = ort.InferenceSession(_model(detector), _quiet(), providers=["CPUExecutionProvider"])
    score, flags, contributions = session.run(
        ["score", "is_anomaly", "contributions"], {"numeric": test[:0]}
    )
    assert score.shape == flags.shape == (0,)
    assert contributions.shape == (0, test.shape[1] + 1)
    everything = session.run(
        ["is_anomaly"], {"numeric": test, "false_alarm_rate": np.array(1.0, np.float32)}
    )[0]
    nothing = session.run(
        ["is_anomaly"], {"numeric": test, "false_alarm_rate": np.array(0.0, np.float32)}
    )[0]
    assert everything.all()
    assert not nothing.any()


def test_disagreement_is_refused(trained: tuple[GANDetector, np.ndarray]) -> None:
    detector, test = trained
    fitted = detector.model_
    outputs = run_scorer(_model(detector), _rows(test))
    outputs["score"] = outputs["score"] * np.float32(1.01)
    with pytest.raises(ExportError, match="differ from torch on"):
        check_parity(outputs, fitted.score, fitted.encoder, _rows(test))


def test_memory_is_flat_in_the_batch(trained: tuple[GANDetector, np.ndarray]) -> None:
    """Tiles inside the graph: no intermediate grows as rows x memory."""
    model = onnx.load_from_string(_model(trained[0]))
    scans = [node for node in model.graph.node if node.op_type == "Scan"]
    assert len(scans) == 1
    shapes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    assert not {node.op_type for node in model.graph.node} & {"MatMul", "ArgMax"}
    # The straight lines of a tail are of one number a row.
    assert {shapes[n.output[0]][-1] for n in model.graph.node if n.op_type == "Gemm"} <= {1}


def test_polars_and_pandas_tables_score_alike(
    machine_model: Path, machine_files: tuple[Path, Path]
) -> None:
    detector = GANDetector.load(machine_model)
    frame = pl.read_csv(machine_files[1], infer_schema=False)
    np.testing.assert_array_equal(
        detector.anomaly_score(frame), detector.anomaly_score(frame.to_pandas())
    )
