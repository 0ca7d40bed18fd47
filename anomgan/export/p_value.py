"""From scores to p-values in the graph, as `anomgan.calibration` and `anomgan.groups` do it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from anomgan.calibration import MINIMUM_P_VALUE, Calibrator, Tail
from anomgan.export.graph import GraphBuilder, Value
from anomgan.groups import GroupedCalibrator
from anomgan.tables.schema import Schema

__all__ = ["add_group_code", "add_grouped_p_value", "add_p_value"]

_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
_BLOCK = 32


def add_p_value(g: GraphBuilder, calibrator: Calibrator, score: Value) -> Value:
    """Conformal p-value and tail, as `anomgan.calibration.Calibrator.p_values`: float32 [c]."""
    n = calibrator.n
    below = g.op("Cast", _count_below(g, calibrator.scores, score), to=_DOUBLE)  # [c]
    p = g.op("Sub", g.constant(n + 1.0, np.float64), below)  # those at or above it, and itself
    p = g.op("Div", p, g.constant(n + 1.0, np.float64))
    tail = calibrator.tail
    if tail is not None:
        excess = g.op("Cast", score, to=_DOUBLE)
        excess = g.op("Sub", excess, g.constant(tail.threshold, np.float64))
        excess = g.op("Max", excess, g.constant(0.0, np.float64))
        ratio = g.op("Div", excess, g.constant(tail.scale, np.float64))
        log_survival = g.op("Neg", ratio)
        if tail.shape > 0.0:
            inner = g.op("Mul", ratio, g.constant(tail.shape, np.float64))
            log = g.op("Log", g.op("Add", inner, g.constant(1.0, np.float64)))
            log_survival = g.op("Neg", g.op("Div", log, g.constant(tail.shape, np.float64)))
        share = g.constant(tail.n_exceedances / tail.n, np.float64)
        beyond = g.op("Mul", g.op("Exp", log_survival), share)
        beyond = g.op("Max", beyond, g.constant(MINIMUM_P_VALUE, np.float64))
        beyond = g.op("Min", beyond, g.constant(calibrator.resolution, np.float64))
        largest = g.constant(calibrator.scores[-1], np.float32)
        p = g.op("Where", g.op("Greater", score, largest), beyond, p)
    return g.op("Cast", p, to=_FLOAT)


def _count_below(g: GraphBuilder, known: NDArray[np.float32], score: Value) -> Value:
    """How many of the sorted known scores lie below each score: float32 [c], whole numbers.

    Known scores are cut into blocks. All blocks before the last one that begins below the score
    lie below it as a whole; that last one is counted one by one.
    """
    n_blocks = -(-len(known) // _BLOCK)
    # First of all a block of which nothing lies below: where no block begins below the score.
    blocks = np.full((1 + n_blocks, _BLOCK), np.inf, dtype=np.float32)
    blocks[1:].flat[: len(known)] = known
    column = g.op("Unsqueeze", score, g.ints(1))  # [c, 1]
    begun = g.op("Less", g.constant(blocks[1:, 0].reshape(1, -1)), column)  # [c, n_blocks]
    begun = g.op("ReduceSum", g.op("Cast", begun, to=_FLOAT), g.ints(1), keepdims=0)  # [c]
    which = g.op("Cast", begun, to=TensorProto.INT64)
    block = g.op("Gather", g.constant(blocks), which, axis=0)
    inside = g.op("Cast", g.op("Less", block, column), to=_FLOAT)  # [c, _BLOCK]
    inside = g.op("ReduceSum", inside, g.ints(1), keepdims=0)
    before = np.maximum(np.arange(1 + n_blocks) - 1, 0) * _BLOCK
    return g.op("Add", inside, g.op("Gather", g.constant(before, np.float32), which, axis=0))


def add_group_code(
    g: GraphBuilder, calibrator: GroupedCalibrator, schema: Schema, categorical: Value
) -> Value:
    """Which calibrator judges each row: int64 [N, 1], 0 = pooled, then the groups in order."""
    column = schema.categorical_names.index(calibrator.by)
    text = g.op("Gather", categorical, g.ints(column), axis=1)  # [N, 1]
    codes: dict[str, int] = {}
    for code, name in enumerate(calibrator.groups, 1):
        # As in the encoder: a client that feeds raw cells may leave a blank around them.
        codes |= {f" {name}": code, f"{name} ": code}
    codes |= {name: code for code, name in enumerate(calibrator.groups, 1)}
    return g.op(
        "LabelEncoder",
        text,
        domain="ai.onnx.ml",
        keys_strings=list(codes),
        values_int64s=list(codes.values()),
        default_int64=0,
    )


def add_grouped_p_value(
    g: GraphBuilder, calibrator: GroupedCalibrator, score: Value, group: Value
) -> Value:
    """P-value of each score within its group, as `GroupedCalibrator.p_values`: float32 [c].

    `group` is int64 [c, 1]. Every row gathers the numbers of its own calibrator; the arithmetic is
    that of `add_p_value`.
    """
    calibrators = [calibrator.pooled, *calibrator.groups.values()]
    index = g.op("Squeeze", group, g.ints(1))  # [c]

    def of(numbers: NDArray[np.float64] | NDArray[np.float32]) -> Value:
        return g.op("Gather", g.constant(numbers), index, axis=0)

    widest = max(c.n for c in calibrators)
    # Padded with what is never at least a score.
    padded = np.full((len(calibrators), widest), -np.inf, dtype=np.float32)
    for row, known in zip(padded, calibrators, strict=True):
        row[: known.n] = known.scores
    at_least = g.op("GreaterOrEqual", of(padded), g.op("Unsqueeze", score, g.ints(1)))
    count = g.op("ReduceSum", g.op("Cast", at_least, to=_DOUBLE), g.ints(1), keepdims=0)
    p = g.op("Add", count, g.constant(1.0, np.float64))
    p = g.op("Div", p, of(np.array([c.n + 1.0 for c in calibrators])))
    if any(c.tail is not None for c in calibrators):
        resolution = of(np.array([c.resolution for c in calibrators]))
        # Without a tail no score is beyond: the p-value stays the counted one.
        largest = [np.inf if c.tail is None else c.scores[-1] for c in calibrators]
        beyond = _beyond(g, [c.tail for c in calibrators], score, of)
        beyond = g.op("Min", beyond, resolution)
        is_beyond = g.op("Greater", score, of(np.array(largest, dtype=np.float32)))
        p = g.op("Where", is_beyond, beyond, p)
    return g.op("Cast", p, to=_FLOAT)


def _beyond(
    g: GraphBuilder,
    tails: list[Tail | None],
    score: Value,
    of: Callable[[NDArray[np.float64]], Value],
) -> Value:
    """Survival of scores [c] by the tails of their groups, float64 [c]; see `Tail.survival`."""
    none = Tail(threshold=0.0, shape=0.0, scale=1.0, n_exceedances=1, n=1)
    known = [tail or none for tail in tails]
    excess = g.op("Cast", score, to=_DOUBLE)
    excess = g.op("Sub", excess, of(np.array([t.threshold for t in known])))
    excess = g.op("Max", excess, g.constant(0.0, np.float64))
    ratio = g.op("Div", excess, of(np.array([t.scale for t in known])))
    shape = of(np.array([t.shape for t in known]))
    one = g.constant(1.0, np.float64)
    curved = g.op("Greater", shape, g.constant(0.0, np.float64))
    log = g.op("Log", g.op("Add", g.op("Mul", ratio, shape), one))
    log = g.op("Div", log, g.op("Where", curved, shape, one))  # no division by a shape of 0
    log_survival = g.op("Neg", g.op("Where", curved, log, ratio))
    share = of(np.array([t.n_exceedances / t.n for t in known]))
    beyond = g.op("Mul", g.op("Exp", log_survival), share)
    return g.op("Max", beyond, g.constant(MINIMUM_P_VALUE, np.float64))
