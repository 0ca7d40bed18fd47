"""Scores of the literature as nodes of the scoring graph."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.export.arithmetic import GraphArithmetic
from anomgan.export.graph import GraphBuilder, Value
from anomgan.nets.arithmetic import Matrix
from anomgan.scoring.frozen import FLOOR
from anomgan.scoring.program import ProgramScore

__all__ = ["add_program"]


def add_program(
    g: GraphBuilder, score: ProgramScore, x: Value, surprise: Value
) -> tuple[Value, Value]:
    """Add the score of rows x [c, d]; the counterpart of `ProgramScore`.

    Contributions and their sum come out of one product: the last column is the score, the one
    before it what is held against the row as a whole.

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

    def shared(columns: NDArray[Any], weight: NDArray[np.float32] | np.float32) -> Matrix:
        matrix = np.zeros((len(columns), n + 2), dtype=np.float32)
        matrix[np.arange(len(columns)), columns] = weight
        matrix[:, n + 1] = weight
        return matrix

    values, matrices = [surprise], [shared(np.arange(n), np.float32(1.0))]
    if parts.whole is not None:
        values.append(parts.whole)
        matrices.append(shared(np.array([n]), unit))
    columns = score.feature_column.numpy()
    if parts.by_feature is not None:
        values.append(parts.by_feature)
        matrices.append(shared(columns, unit))
    if parts.weighted is not None:
        values.append(parts.weighted[0])
        matrices.append(shared(columns, unit * parts.weighted[1].ravel()))
    floor = np.zeros(n + 2, dtype=np.float32)
    floor[n:] = FLOOR
    side_by_side = values[0] if len(values) == 1 else g.op("Concat", *values, axis=1)
    out = g.op("Gemm", side_by_side, g.constant(np.concatenate(matrices)), g.constant(floor))
    contributions, total = g.multi("Split", out, g.ints(n + 1, 1), outputs=2, axis=1)
    return total, contributions
