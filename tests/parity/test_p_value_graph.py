"""P-values in the graph count the calibration scores exactly, block by block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anomgan.calibration import Calibrator, Tail
from anomgan.export.graph import IR_VERSION, ML_OPSET, OPSET, GraphBuilder
from anomgan.export.p_value import add_p_value


def _graph_p_values(calibrator: Calibrator, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    g = GraphBuilder()
    column = g.op("Unsqueeze", "score", g.ints(1))
    g.rename(g.op("Squeeze", add_p_value(g, calibrator, column), g.ints(1)), "p_value")
    score, p_value = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"])
        for name in ("score", "p_value")
    )
    model = helper.make_model(
        g.graph("p", [score], [p_value]),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"score": scores})[0]
    return found


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 63, 64, 65, 1000, 4096, 4097, 9001])
@pytest.mark.parametrize("ties", [False, True])
def test_at_below_and_between_known_scores(n: int, ties: bool) -> None:
    rng = np.random.default_rng(n)
    known = 1.0 + rng.gamma(2.0, size=n)
    known = (np.round(known, 1) if ties else known).astype(np.float32)
    calibrator = Calibrator.fit(known, false_alarm_rate=0.5)
    points = np.unique(known)
    just_below = np.nextafter(points, np.float32(-np.inf))
    just_above = np.nextafter(points, np.float32(np.inf))
    scores = np.concatenate([points, just_below, just_above, [-5.0, 1e30]]).astype(np.float32)
    expected = calibrator.p_values(scores).astype(np.float32)
    np.testing.assert_allclose(_graph_p_values(calibrator, scores), expected, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=150),
    st.lists(st.integers(-1, 7), min_size=1, max_size=20),
)
def test_counts_are_exact(known: list[int], scores: list[int]) -> None:
    calibrator = Calibrator.fit(np.array(known, dtype=np.float32), false_alarm_rate=0.5)
    if calibrator.tail is not None:
        return
    found = _graph_p_values(calibrator, np.array(scores, dtype=np.float32))
    counted = [(1 + sum(k >= s for k in known)) / (len(known) + 1) for s in scores]
    np.testing.assert_array_equal(found, np.array(counted, dtype=np.float32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [0.0, 1e-12, 1e-7, 0.2, 0.5])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_beyond_the_largest_known_score(shape: float, offset: float) -> None:
    """All along the tail, also one whose line is below 0 where the known scores begin."""
    rng = np.random.default_rng(5)
    known = np.sort(1.0 + offset + rng.exponential(size=300)).astype(np.float32)
    tail = Tail(float(known[-30]), shape, 0.3, 29, 300)
    calibrator = replace(Calibrator.fit(known, false_alarm_rate=0.5), tail=tail)
    beyond = known[-1] + np.geomspace(1e-3, 1e4, 60)
    scores = np.concatenate([beyond, known, [-1e30, 1e30]]).astype(np.float32)
    expected = calibrator.p_values(scores).astype(np.float32)
    found = _graph_p_values(calibrator, scores)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert len(np.unique(found[:60])) > 5
    alone = np.concatenate([_graph_p_values(calibrator, scores[i : i + 1]) for i in (0, 30, 70)])
    np.testing.assert_array_equal(alone, found[[0, 30, 70]])


def test_no_score_has_no_p_value() -> None:
    calibrator = Calibrator.fit(np.arange(40, dtype=np.float32), false_alarm_rate=0.5)
    assert _graph_p_values(calibrator, np.empty(0, dtype=np.float32)).shape == (0,)


@pytest.mark.parametrize("n", [100, 5000])
def test_a_score_that_was_rounded_up_stays_with_its_equals(n: int) -> None:
    known = np.repeat(np.array([1.5, 2.25, 7.1, 33.3], dtype=np.float32), n)
    calibrator = Calibrator.fit(known, false_alarm_rate=0.5)
    up = np.nextafter(known[::n], np.float32(np.inf))
    np.testing.assert_array_equal(
        _graph_p_values(calibrator, up), _graph_p_values(calibrator, known[::n])
    )
