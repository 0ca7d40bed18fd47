"""Phases of dates in the graph: those of numpy, bit for bit, in a batch of any size."""

import math
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
from onnx import TensorProto, helper

from anomgan.export.encode import add_encoder
from anomgan.export.graph import IR_VERSION, ML_OPSET, OPSET, GraphBuilder
from anomgan.tables import Batch, Schema
from anomgan.tables.encoding import FeatureEncoder, sine_and_cosine


@pytest.fixture(scope="module")
def dates():
    """Rows of two years, some without a date, and their encoder."""
    rng = np.random.default_rng(0)
    start = datetime(2023, 1, 1)
    times = [start + timedelta(seconds=float(s)) for s in rng.uniform(0, 2.2 * 365 * 86400, 501)]
    times[7] = None
    frame = pl.DataFrame({"time": times, "x": rng.normal(size=501)})
    schema = Schema.infer(frame, source="dates")
    rows = schema.rows(Batch(frame, 1, "dates"))
    encoder = FeatureEncoder.fit(schema, rows)
    assert {phase.period for phase in encoder.phases} == {"day", "week", "year"}
    return encoder, rows


@pytest.fixture(scope="module")
def graph(dates):
    encoder, _ = dates
    g = GraphBuilder()
    features, _ = add_encoder(g, encoder, "numeric", None)
    g.rename(features, "features")
    model = helper.make_model(
        g.graph(
            "encoder",
            [helper.make_tensor_value_info("numeric", TensorProto.DOUBLE, ["N", 2])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", None])],
        ),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
    )
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda numeric: session.run(None, {"numeric": numeric})[0]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 15, 16, 33, 500])
def test_a_date_is_encoded_the_same_in_any_batch(dates, graph, size):
    _, rows = dates
    together = graph(rows.numeric)
    for start in range(0, 501, size):
        part = rows.numeric[start : start + size]
        np.testing.assert_array_equal(graph(part), together[start : start + size])


def test_the_graph_encodes_dates_as_numpy_does(dates, graph):
    encoder, rows = dates
    np.testing.assert_array_equal(graph(rows.numeric), encoder.transform(rows).features)


def test_sine_and_cosine_of_turns():
    turns = np.concatenate([np.linspace(0.0, 1.0, 10_001)[:-1], [0.25, 0.5, 0.75]])
    sine, cosine = sine_and_cosine(turns)
    np.testing.assert_allclose(sine, np.sin(2.0 * math.pi * turns), atol=1e-11)
    np.testing.assert_allclose(cosine, np.cos(2.0 * math.pi * turns), atol=1e-11)


def test_an_endless_date_is_missing_and_an_endless_number_far(dates, graph):
    """No table holds them, but whoever runs the graph alone may send any float."""
    encoder, rows = dates
    odd = np.repeat(rows.numeric[:1], 6, axis=0)
    odd[:, 0] = [np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324]
    odd[1:, 1] = [np.inf, -np.inf, 1e308, -1e308, -0.0]
    features = graph(odd)
    assert np.isfinite(features).all()
    np.testing.assert_array_equal(features, encoder.transform(replace(rows, numeric=odd)).features)
    np.testing.assert_array_equal(features[1:3, 1:], features[[0, 0], 1:])  # values come first
    assert features[1:5, 0].tolist() == [1e6, -1e6, 1e6, -1e6]
