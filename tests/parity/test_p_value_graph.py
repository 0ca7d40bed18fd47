"""P-values in the graph count the calibration scores exactly, block by block."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anomgan.calibration import Calibrator
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
