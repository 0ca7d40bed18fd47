"""Scores of the literature as nodes of the scoring graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.export.arithmetic import GraphArithmetic
from anomgan.export.graph import GraphBuilder, Value
from anomgan.scoring.frozen import FLOOR
from anomgan.scoring.program import ProgramScore

__all__ = ["add_program"]


def add_program(
    g: GraphBuilder, score: ProgramScore, x: Value, surprise: Value
) -> tuple[Value, Value]:
    """Add the score of rows x [c, d]; the counterpart of `ProgramScore`.

    Contributions and their sum come out of one product for each part of the score: the last
    column is the score, the one before it what is held against the row as a whole.

    Parameters
    ----------
    g : GraphBuilder
    score : ProgramScore
    x : Value
        Encoded rows, float32 [c, d].
    surprise : Value
        Of each column of the table, float32 [c, n_columns].

    Returns
    -------
    tuple of Value
        Score [c, 1], contributions [c, n_columns + 1].
    """
    parts = score.formula.score(GraphArithmetic(g), score.networks, x)
    n, unit = score.n_columns, np.float32(1.0 / score.settings.unit)

    def shared(columns: NDArray[Any], weight: np.float32) -> NDArray[np.float32]:
        matrix = np.zeros((len(columns), n + 2), dtype=np.float32)
        matrix[np.arange(len(columns)), columns] = weight
        matrix[:, n + 1] = weight
        return matrix

    floor = np.zeros(n + 2, dtype=np.float32)
    floor[n:] = FLOOR
    one = np.float32(1.0)
    out = g.op("Gemm", surprise, g.constant(shared(np.arange(n), one)), g.constant(floor))
    if parts.whole is not None:
        out = g.op("Gemm", parts.whole, g.constant(shared(np.array([n]), unit)), out)
    if parts.by_feature is not None:
        by_column = shared(score.feature_column.numpy(), unit)
        out = g.op("Gemm", parts.by_feature, g.constant(by_column), out)
    contributions, total = g.multi("Split", out, g.ints(n + 1, 1), outputs=2, axis=1)
    return total, contributions
