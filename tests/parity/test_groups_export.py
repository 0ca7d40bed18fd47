"""P-values by group in the graph: the numpy twin says the same of every group, in any batch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
from onnx.reference import ReferenceEvaluator

from anomgan.calibration import Calibrator, Tail
from anomgan.errors import ExportError
from anomgan.export import build_scorer, run_scorer
from anomgan.export.parity import check_p_values
from anomgan.fitting import FitControl, FittedModel, fit_rows
from anomgan.groups import GroupedCalibrator, row_p_values
from anomgan.persistence import save_fitted
from anomgan.presets import FlagshipParameters
from anomgan.serving import Scorer
from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan_datasets import machine_log

SMALL = FlagshipParameters(
    n_steps=10, batch_rows=32, generator_width=12, discriminator_width=12, memory_size=200
)


@pytest.fixture(scope="module")
def fitted() -> FittedModel:
    frame = pl.from_pandas(machine_log(n_normal=500, n_anomalies=0, seed=0).X)
    schema = Schema.infer(frame, SchemaOptions())
    rows = schema.rows(Batch(frame, 1, "normal"))
    model = fit_rows(
        *(schema, rows, SMALL),
        seed=0,
        false_alarm_rate=0.05,
        control=FitControl(device="cpu"),
        calibrate_by="machine",
    )
    known = model.calibrator
    assert isinstance(known, GroupedCalibrator)
    # Every branch: a curved tail, a straight one, none; groups of different sizes.
    first, second, third = known.groups.values()
    straight = Tail(float(second.scores[10]), 0.0, 0.7, 12, second.n)
    curved = Tail(float(third.scores[12]), 0.3, 0.4, 11, third.n)
    groups = {
        "M-01": Calibrator(first.scores, None, 0.05),
        "M-02": replace(second, tail=straight),
        "M-07": replace(third, tail=curved),
    }
    return replace(model, calibrator=replace(known, groups=groups))


@pytest.fixture(scope="module")
def rows(fitted: FittedModel) -> Rows:
    """Rows of every group, normal and faulty; groups that are missing, and never seen."""
    frame = pl.from_pandas(machine_log(n_normal=300, n_anomalies=100, seed=3).X)
    rows = fitted.schema.rows(Batch(frame, 1, "new"))
    column = fitted.schema.categorical_names.index("machine")
    rows.categorical[:20, column] = "M-99 \u2202"
    assert set(rows.categorical[:, column]) == {"", "M-01", "M-02", "M-07", "M-99 \u2202"}
    return rows


def _build(fitted: FittedModel) -> bytes:
    return build_scorer(fitted.schema, fitted.encoder, fitted.score, fitted.calibrator, metadata={})


@pytest.fixture(scope="module")
def model(fitted: FittedModel) -> bytes:
    return _build(fitted)


def _part(rows: Rows, index: slice | np.ndarray) -> Rows:
    return Rows(rows.numeric[index], rows.categorical[index], None, 1)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 400])
def test_p_values_are_the_calibrators_in_any_batch(
    fitted: FittedModel, model: bytes, rows: Rows, size: int
) -> None:
    stop = min(len(rows.numeric), 3 * size) if size > 1 else 40
    parts = [run_scorer(model, _part(rows, slice(i, i + size))) for i in range(0, stop, size)]
    outputs = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    whole = _part(rows, slice(0, len(outputs["score"])))
    expected = row_p_values(fitted.calibrator, outputs["score"], fitted.groups(whole))
    np.testing.assert_allclose(outputs["p_value"], expected, rtol=1e-6)
    flagged = expected.astype(np.float32) <= np.float32(0.05)
    np.testing.assert_array_equal(outputs["is_anomaly"], flagged)


def test_every_branch_is_taken(fitted: FittedModel, model: bytes, rows: Rows) -> None:
    outputs, calibrator = run_scorer(model, rows), fitted.calibrator
    assert isinstance(calibrator, GroupedCalibrator)
    groups = fitted.groups(rows)
    assert groups is not None
    for name in ("M-01", "M-02", "M-07", "", "M-99 \u2202"):
        own = calibrator.of(name)
        beyond = outputs["score"][groups == name] > own.scores[-1]
        assert beyond.any(), name
        assert not beyond.all(), name
        below = (outputs["p_value"][groups == name] < own.resolution * (1 - 1e-6)).any()
        assert below == (own.tail is not None), name
    pooled = calibrator.pooled.p_values(outputs["score"])
    assert (np.abs(outputs["p_value"] - pooled) > 0.01).mean() > 0.2


def test_a_group_changes_the_p_value_and_nothing_else_of_the_decision(
    fitted: FittedModel, model: bytes, rows: Rows
) -> None:
    plain = replace(fitted, calibrator=fitted.calibrator.pooled)  # type: ignore[union-attr]
    one, other = run_scorer(_build(plain), rows), run_scorer(model, rows)
    np.testing.assert_array_equal(one["score"], other["score"])
    np.testing.assert_array_equal(one["contributions"], other["contributions"])


def test_without_groups_the_graph_knows_nothing_of_them(fitted: FittedModel, model: bytes) -> None:
    calibrator = fitted.calibrator
    assert isinstance(calibrator, GroupedCalibrator)
    tail = Tail(1.0, 0.2, 1.0, 10, calibrator.pooled.n)  # a curved one, whatever was fitted
    plain = replace(fitted, calibrator=replace(calibrator.pooled, tail=tail))
    graph, grouped = onnx.load_from_string(_build(plain)).graph, onnx.load_from_string(model).graph
    kinds = [node.op_type for node in graph.node]
    more = [node.op_type for node in grouped.node]
    (scan,) = (node for node in graph.node if node.op_type == "Scan")
    (other,) = (node for node in grouped.node if node.op_type == "Scan")
    assert len(scan.input) == 2
    assert len(other.input) == 3
    # What is added outside the tiles: the column of the group, its code, its cut into tiles, and
    # p-values put together from tiles. Without groups these are counted outside.
    added = ["Concat", "Gather", "LabelEncoder", "Pad", "Reshape", "Reshape", "Slice"]
    assert sorted((Counter(more) - Counter(kinds)).elements()) == added
    counted = {"TreeEnsembleRegressor", "Cast", "Gemm", "Clip", "Pow", "Max"}
    assert set(Counter(kinds) - Counter(more)) == counted
    (inside,) = (a.g for a in scan.attribute if a.name == "body")
    assert [value.name for value in inside.input] == ["tile_x", "tile_s"]
    assert {node.domain for node in grouped.node} == {"", "ai.onnx.ml"}


def test_raw_texts_of_other_clients_find_their_group(model: bytes, rows: Rows) -> None:
    few = _part(rows, np.arange(20, 60))
    raw = Rows(few.numeric, few.categorical.copy(), None, 1)
    raw.categorical[::2] = [[f" {cell}" for cell in row] for row in raw.categorical[::2]]
    raw.categorical[1::2] = [[f"{cell} " for cell in row] for row in raw.categorical[1::2]]
    known = np.array(["" not in row for row in few.categorical.tolist()])
    found, expected = run_scorer(model, raw)["p_value"], run_scorer(model, few)["p_value"]
    np.testing.assert_array_equal(found[known], expected[known])


def test_the_reference_evaluator_agrees(model: bytes, rows: Rows) -> None:
    few = _part(rows, slice(0, 50))
    fast = run_scorer(model, few)
    reference = ReferenceEvaluator(onnx.load_from_string(model))
    feeds = {
        "numeric": few.numeric,
        "categorical": few.categorical.astype(np.str_),
        "false_alarm_rate": np.float32(0.05),
    }
    with np.errstate(divide="ignore"):  # its LogSoftmax is the logarithm of a softmax
        found = dict(zip(reference.output_names, reference.run(None, feeds), strict=True))
    np.testing.assert_allclose(found["p_value"], fast["p_value"], rtol=1e-4)


def test_an_empty_batch_is_allowed(model: bytes, rows: Rows) -> None:
    assert run_scorer(model, _part(rows, slice(0, 0)))["p_value"].shape == (0,)


def test_groups_without_any_tail(fitted: FittedModel, rows: Rows) -> None:
    known = fitted.calibrator
    assert isinstance(known, GroupedCalibrator)
    groups = {name: replace(c, tail=None) for name, c in known.groups.items()}
    counted = replace(known, pooled=replace(known.pooled, tail=None), groups=groups)
    outputs = run_scorer(_build(replace(fitted, calibrator=counted)), rows)
    expected = row_p_values(counted, outputs["score"], fitted.groups(rows))
    np.testing.assert_array_equal(outputs["p_value"], expected.astype(np.float32))


def test_an_export_with_other_p_values_is_refused(
    fitted: FittedModel, model: bytes, rows: Rows
) -> None:
    outputs = run_scorer(model, rows)
    pooled = fitted.calibrator.pooled.p_values(outputs["score"])  # type: ignore[union-attr]
    with pytest.raises(ExportError, match="p-values differ from the calibrator on"):
        check_p_values(outputs, pooled)


def test_a_saved_model_states_its_groups(fitted: FittedModel, rows: Rows, tmp_path: Path) -> None:
    save_fitted(fitted, tmp_path / "m", overwrite=False, source="normal.csv")
    session = ort.InferenceSession(tmp_path / "m" / "scorer.onnx")
    stated = json.loads(session.get_modelmeta().custom_metadata_map["anomgan.calibration"])
    assert stated == fitted.calibrator.summary()
    scorer = Scorer.open(tmp_path / "m", providers="cpu")
    assert list(scorer.calibration["groups"]) == ["M-01", "M-02", "M-07"]
    verdicts = scorer.score(rows)
    groups = fitted.groups(rows)
    expected = row_p_values(fitted.calibrator, verdicts.score, groups)
    np.testing.assert_allclose(verdicts.p_value, expected, rtol=1e-6)
    bare = Scorer.open(tmp_path / "m" / "scorer.onnx", providers="cpu")
    assert bare.calibration == scorer.calibration
