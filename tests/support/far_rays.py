"""Rows on rays that lead away from the known rows, and what their scores have to do."""

import functools

import numpy as np
import onnxruntime as ort

from anomgan.scoring.frozen import FrozenScore
from anomgan.tables import Rows

END = 1e308
"""Of a ray: nearly the largest float64."""
ROUNDING = 1e-6
"""By which float32 may make a score fall that does not, as a share of it."""
HUGE = (1e30, -1e30, 1e39, 1e308, -1.7e308)
"""1e39 is the first power of ten beyond float32."""


def edges(fitted):
    """Corners of the box that a score sees rows through, in units of the table: [v] each."""
    score, encoder = fitted.score, fitted.encoder
    if isinstance(score, FrozenScore):
        corners = [corner.numpy() for corner in score.box]
    else:
        corners = [score.networks["box"].row(i).ravel() for i in (0, 1)]
    v = len(encoder.value_columns)  # values come first among the features
    return [encoder.mean + encoder.scale * corner[:v].astype(np.float64) for corner in corners]


def ray(fitted, row, direction, steps):
    """Rows float64 [len(steps), n_numeric], ever further from `row` [n_numeric].

    Columns with a `direction` other than 0 move, each from its edge of the box on that side, by
    `steps` times it in standard deviations; all others stay.
    """
    columns, (low, high) = fitted.encoder.value_columns, edges(fitted)
    rows = np.tile(row, (len(steps), 1))
    for j, column in enumerate(columns):
        if direction[j]:
            edge = high[j] if direction[j] > 0 else low[j]
            way = np.array(steps) * (direction[j] * fitted.encoder.scale[j])
            rows[:, column] = np.clip(edge + np.clip(way, -END, END), -END, END)
    return rows


@functools.lru_cache(maxsize=2)
def _session(graph):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def run(graph, rows):
    """Outputs of a graph by name."""
    session, feed = _session(graph), {"numeric": rows.numeric, "categorical": rows.categorical}
    wanted = [value.name for value in session.get_inputs()]
    found = session.run(None, {name: feed[name] for name in wanted if name in feed})
    return dict(zip([value.name for value in session.get_outputs()], found, strict=True))


def scores(fitted, graph, numeric, categorical=None):
    """Scores of rows in torch and by the graph, float64 [n] each; all finite."""
    if categorical is None:
        categorical = np.empty((len(numeric), 0), dtype=object)
    rows = Rows(numeric, categorical, None, 1)
    ours, shares = fitted.score_rows(rows)
    theirs = run(graph, rows)
    for values in (ours, shares, *theirs.values()):
        assert np.isfinite(values).all()
    assert ((theirs["p_value"] > 0.0) & (theirs["p_value"] <= 1.0)).all()
    np.testing.assert_allclose(theirs["score"], ours, rtol=1e-3)
    return ours.astype(np.float64), theirs["score"].astype(np.float64)


def assert_never_falls(found):
    """Scores along a ray rise or stay, to rounding."""
    for values in found:
        assert (np.diff(values) >= -ROUNDING * values[:-1]).all(), values


def assert_far_above(fitted, graph, normal, categorical=None):
    """Rows with one huge cell, or nothing but huge ones, score above all `normal` rows."""
    texts = categorical
    most = [values.max() for values in scores(fitted, graph, normal, texts)]
    columns = fitted.encoder.value_columns
    for huge in HUGE:
        for moved in [*columns.reshape(-1, 1), columns]:
            rows = normal[:4].copy()
            rows[:, moved] = huge
            found = scores(fitted, graph, rows, None if texts is None else texts[:4])
            assert all(values.min() > top for values, top in zip(found, most, strict=True))
