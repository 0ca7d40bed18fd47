"""The views that explain a row: the graph's nodes against `Attribution.views`."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from anomgan.export.attribution import _is_crossed, add_views
from anomgan.export.graph import IR_VERSION, OPSET, GraphBuilder
from anomgan.scoring.attribution import Attribution

NUMBERS, CATEGORIES = 4, 30


def _attribution(width: float, counts: torch.Tensor) -> tuple[Attribution, torch.Tensor]:
    """Two numbers that go together, a wide pair of features, and a category; rows beside them."""
    rng = np.random.default_rng(0)
    n = len(counts) + 200
    rows = rng.normal(size=(n, NUMBERS))
    rows[:, 1] = rows[:, 0] + 0.3 * width * rng.normal(size=n)
    rows[:, 2:] *= 30.0
    states = 5.0 * np.eye(CATEGORIES)[rng.integers(0, CATEGORIES, n)]
    features = torch.from_numpy(np.hstack([rows, states]).astype(np.float32))
    columns = torch.tensor([0, 1, 2, 2] + [4] * CATEGORIES)  # column 3 gives no feature
    known, new = features[: len(counts)], features[len(counts) :]
    # Half of the rows repeat a known one but for a little, so that most gaps are small.
    new[::2] = known[: len(new[::2])]
    new[::2, :NUMBERS] += width * torch.from_numpy(rng.normal(size=(100, NUMBERS))).float()
    return Attribution(known, counts, width, columns, 5, 1e-4), new


def _views(attribution: Attribution, x: np.ndarray, gaps: np.ndarray) -> list[np.ndarray]:
    g = GraphBuilder()
    outputs = add_views(g, attribution, "x", "gaps")
    kind = TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("x", kind, ["c", x.shape[1]]),
        helper.make_tensor_value_info("gaps", kind, ["c", gaps.shape[1]]),
    ]
    typed = [helper.make_tensor_value_info(o, kind, ["c", attribution.n_columns]) for o in outputs]
    model = helper.make_model(
        g.graph("views", inputs, typed),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "gaps": gaps})


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("width", [10.0, 1.0, 0.3, 0.003])
def test_the_graph_gives_the_views_of_torch(width: float, equal: bool) -> None:
    counts = torch.ones(300) if equal else torch.arange(300) % 3 + 1.0
    attribution, x = _attribution(width, counts)
    squares = torch.cdist(x.double(), attribution.references.double()).square()
    gaps = (squares - 2.0 * width**2 * counts.double().log()).float()
    pair = attribution.references.numpy()[:, [2, 3]]
    assert _is_crossed(pair, width) == (width == 10.0)
    blame, posterior = attribution.views(x, gaps)
    found_blame, found_posterior = _views(attribution, x.numpy(), gaps.numpy())
    np.testing.assert_allclose(found_blame, blame, rtol=1e-3, atol=2e-3)
    shares, found_shares = (
        np.asarray(p) / np.asarray(p).sum(axis=1, keepdims=True)
        for p in (posterior, found_posterior)
    )
    np.testing.assert_allclose(found_shares, shares, atol=2e-2)  # in float32, of values to 100
    assert not found_blame[:, 3].any()
    assert not found_posterior[:, 3].any()


def test_what_comes_out_of_one_product_goes_by_values_and_kernel() -> None:
    known = np.linspace(-3.0, 3.0, 50, dtype=np.float32).reshape(-1, 1)
    assert _is_crossed(known, 1.0)
    assert _is_crossed(np.hstack([known] * 3), 1.0)
    assert not _is_crossed(known, 0.05)  # a narrow kernel
    assert not _is_crossed(100.0 * known, 1.0)  # values far out
    assert not _is_crossed(np.hstack([known] * 4), 1.0)  # categories match exactly
