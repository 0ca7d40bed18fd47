"""Where the graph reads the log sum of the kernels, and that it keeps a score's digits."""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import pytest

from anomgan import GANDetector
from anomgan.export.flagship import references_tell
from anomgan.export.parity import P99_RELATIVE
from anomgan.fitting import FittedModel
from anomgan.persistence import export_scorer


def _fitted(rows: np.ndarray, inversion_share: float) -> FittedModel:
    detector = GANDetector(n_steps=20, inversion_share=inversion_share, random_state=0)
    return detector.fit(pd.DataFrame(rows)).model_


def _in_clusters() -> np.ndarray:
    """Three rows each around 1 000 centres: most rows have no reference near them."""
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(1000, 20)), 3, axis=0)
    return rng.permutation(rows + 1e-3 * rng.normal(size=rows.shape))


def _slices_of_known_rows(model: bytes) -> list[int]:
    """How many `Slice` nodes stand in the pass over all known rows."""
    graph = onnx.load_from_string(model).graph
    (tile,) = (n.attribute[0].g for n in graph.node if n.op_type == "Scan")
    bodies = [a.g for n in tile.node if n.op_type == "Scan" for a in n.attribute if a.g.node]
    return [sum(n.op_type == "Slice" for n in body.node) for body in bodies]


@pytest.mark.parametrize("inversion_share", [0.0, 0.001])
def test_rows_far_from_every_reference_keep_their_digits(inversion_share: float) -> None:
    fitted = _fitted(_in_clusters(), inversion_share)
    model, parity, _ = export_scorer(fitted, created_at="")  # refuses what is not alike
    assert parity.p99_relative < P99_RELATIVE / 5
    assert not references_tell(fitted.score, _unit(fitted))
    assert _slices_of_known_rows(model) == [1]


def test_rows_near_references_are_read_at_them() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 4)) @ rng.normal(size=(4, 20))
    fitted = _fitted(rows + 0.3 * rng.normal(size=rows.shape), 0.1)
    model, parity, _ = export_scorer(fitted, created_at="")
    assert parity.p99_relative < P99_RELATIVE / 5
    assert references_tell(fitted.score, _unit(fitted))
    assert _slices_of_known_rows(model) == [2]


def test_where_all_rows_are_references_nothing_is_looked_up() -> None:
    fitted = _fitted(np.random.default_rng(0).normal(size=(300, 3)), 0.1)
    model, parity, _ = export_scorer(fitted, created_at="")
    assert parity.p99_relative < P99_RELATIVE / 5
    assert references_tell(fitted.score, _unit(fitted))
    assert _slices_of_known_rows(model) == [0]


def _unit(fitted: FittedModel) -> float:
    settings = fitted.score.settings
    return float((1.0 - settings.inversion_share) / (2.0 * settings.bandwidth**2))
