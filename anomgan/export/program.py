"""Scores of the literature as nodes of the scoring graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.export.arithmetic import GraphArithmetic
from anomgan.export.graph import GraphBuilder, Value
from anomgan.scoring.frozen import FLOOR
from anomgan.scoring.program import ProgramScore

__all__ = ["add_program", "to_columns"]


def add_program(
    g: GraphBuilder, score: ProgramScore, x: Value, states: Value
) -> tuple[Value, Value, Value]:
    """Add the score of rows x [c, d]; the counterpart of `ProgramScore`.

    Returns
    -------
    tuple of Value
        Score [c, 1], shares by column [c, n_columns] without surprise, and what is held against
        the row as a whole [c, 1].
    """
    parts = score.formula.score(GraphArithmetic(g), score.networks, x)
    unit = g.constant(score.settings.unit, np.float32)
    whole = _filled(g, x, FLOOR, 1)
    if parts.whole is not None:
        floor = g.constant(FLOOR, np.float32)
        whole = g.op("Add", g.op("Div", parts.whole, unit), floor)
    total, columns = whole, None
    if parts.by_feature is not None:
        width = len(score.feature_column)
        ones = g.constant(np.ones((width, 1), dtype=np.float32))
        total = g.op("Add", g.op("Div", g.op("MatMul", parts.by_feature, ones), unit), whole)
        by_column = to_columns(g, score.feature_column.numpy(), score.n_columns, parts.by_feature)
        columns = g.op("Div", by_column, unit)
    else:
        columns = _filled(g, x, 0.0, score.n_columns)
    return g.op("Add", total, states), columns, whole


def to_columns(
    g: GraphBuilder, feature_column: NDArray[Any], n_columns: int, by_feature: Value
) -> Value:
    """Add up features of one column: [c, d] -> [c, n_columns]."""
    if np.array_equal(feature_column, np.arange(n_columns)):
        return by_feature
    matrix = np.zeros((len(feature_column), n_columns), dtype=np.float32)
    matrix[np.arange(len(feature_column)), feature_column] = 1.0
    return g.op("MatMul", by_feature, g.constant(matrix))


def _filled(g: GraphBuilder, x: Value, value: float, width: int) -> Value:
    """Put a value in every row, [c, width]."""
    rows = g.op("Shape", x, start=0, end=1)
    shape = g.op("Concat", rows, g.ints(width), axis=0)
    return g.op("Expand", g.constant(value, np.float32), shape)
