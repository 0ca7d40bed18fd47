"""From scores to p-values in the graph, as `anomgan.calibration` and `anomgan.groups` do it."""

from __future__ import annotations

import math
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

_LARGEST_TREE = 4096
"""Most known scores that stand in a tree one by one: each takes 64 bytes of the file."""
_BLOCK = 32
"""Known scores that stand in the tree as one, where there are more."""
_STRAIGHT = 1e-9
"""A tail of a smaller shape is exponential: to work with its inverse would cost digits."""


def add_p_value(g: GraphBuilder, calibrator: Calibrator, score: Value) -> Value:
    """Conformal p-value and tail, as `anomgan.calibration.Calibrator.p_values`.

    Parameters
    ----------
    g : GraphBuilder
    calibrator : Calibrator
    score : Value
        float32 [N, 1].

    Returns
    -------
    Value
        float32 [N, 1].
    """
    if calibrator.tail is None:
        return _counted(g, calibrator, score)
    beyond = _beyond_all(g, calibrator.tail, score, most=calibrator.resolution)
    if calibrator.n <= _LARGEST_TREE:
        # The tail says no more than the resolution, and more is counted for any score that is not
        # above all known ones: where nothing is counted for those, the larger number holds.
        return g.op("Max", _counted(g, calibrator, score, above_all=0.0), beyond)
    is_beyond = g.op("Greater", score, g.constant(calibrator.raised[-1], np.float32))
    return g.op("Where", is_beyond, beyond, _counted(g, calibrator, score))


def _counted(
    g: GraphBuilder, calibrator: Calibrator, score: Value, above_all: float | None = None
) -> Value:
    """Share of the known scores at or above each score, and itself: float32 [N, 1].

    `above_all` stands in place of that share where a score is above all known ones, if these are
    few enough for one tree.

    A search tree is one node whatever it holds, so that a single row is soon done. Many known
    scores are cut into blocks: the tree finds the last block that begins below the score, all
    those before it lie below it as a whole, and that one is counted one by one.
    """
    known, n = calibrator.raised, calibrator.n
    if n <= _LARGEST_TREE:
        points, below = np.unique(known, return_index=True)
        below = np.append(below, n)  # how many lie below a score between two points
        levels = ((n + 1.0 - below) / (n + 1.0)).astype(np.float32)
        if above_all is not None:
            levels[-1] = above_all
        return _stairs(g, score, points, levels)
    n_blocks = -(-n // _BLOCK)
    # First of all a block of which nothing lies below: where no block begins below the score.
    blocks = np.full((1 + n_blocks, _BLOCK), np.inf, dtype=np.float32)
    blocks[1:].flat[:n] = known
    firsts, begun = np.unique(blocks[1:, 0], return_index=True)
    levels = np.append(begun, n_blocks).astype(np.float32)
    which = g.op("Cast", _stairs(g, score, firsts, levels), to=TensorProto.INT64)
    which = g.op("Squeeze", which, g.ints(1))  # [N]
    inside = g.op("Less", g.op("Gather", g.constant(blocks), which, axis=0), score)
    inside = g.op("ReduceSum", g.op("Cast", inside, to=_FLOAT), g.ints(1), keepdims=1)
    earlier = (np.maximum(np.arange(1 + n_blocks) - 1, 0) * _BLOCK).reshape(-1, 1)
    before = g.op("Gather", g.constant(earlier, np.float64), which, axis=0)  # [N, 1]
    lower = g.op("Add", g.op("Cast", inside, to=_DOUBLE), before)
    p = g.op("Sub", g.constant(n + 1.0, np.float64), lower)
    return g.op("Cast", g.op("Div", p, g.constant(n + 1.0, np.float64)), to=_FLOAT)


def _stairs(
    g: GraphBuilder, score: Value, points: NDArray[np.float32], levels: NDArray[np.float32]
) -> Value:
    """Give levels[i] where i of the points, which are distinct and rise, lie below the score.

    Parameters
    ----------
    score : Value
        float32 [N, 1].
    points : float32 array [k]
    levels : float32 array [k + 1]

    Returns
    -------
    Value
        float32 [N, 1].
    """
    thresholds: list[float] = []
    modes: list[str] = []
    yes: list[int] = []
    no: list[int] = []
    leaves: list[int] = []

    def grow(low: int, high: int) -> int:
        """Add what tells the levels from `low` to `high` apart; return its number."""
        node = len(modes)
        for column in (yes, no):
            column.append(0)
        thresholds.append(0.0)
        modes.append("LEAF")
        if low == high:
            leaves.append(node)
            return node
        middle = (low + high) // 2
        thresholds[node], modes[node] = float(points[middle]), "BRANCH_LEQ"
        yes[node], no[node] = grow(low, middle), grow(middle + 1, high)
        return node

    grow(0, len(points))
    n, n_leaves = len(modes), len(leaves)
    return g.op(
        "TreeEnsembleRegressor",
        score,
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[0] * n,
        nodes_nodeids=list(range(n)),
        nodes_featureids=[0] * n,
        nodes_values=thresholds,
        nodes_modes=modes,
        nodes_truenodeids=yes,
        nodes_falsenodeids=no,
        target_treeids=[0] * n_leaves,
        target_nodeids=leaves,
        target_ids=[0] * n_leaves,
        target_weights=[float(level) for level in levels],
    )


def _beyond_all(g: GraphBuilder, tail: Tail, score: Value, *, most: float) -> Value:
    """Survival of scores [N, 1] above the tail's threshold, float32; see `Tail.survival`.

    It is a power, or an exponential, of what rises with the score. That is bounded, so that the
    result lies between the smallest p-value and `most`; nobody looks at scores below the threshold.
    """
    wide = g.op("Cast", score, to=_DOUBLE)
    share, straight = tail.n_exceedances / tail.n, tail.shape <= _STRAIGHT
    bounds = np.log([most, MINIMUM_P_VALUE])
    if straight:
        slope, start = -1.0 / tail.scale, math.log(share) + tail.threshold / tail.scale
        high, low = bounds
    else:
        # The share is a factor of the power's base, too.
        factor = share**-tail.shape
        slope = factor * tail.shape / tail.scale
        start = factor - slope * tail.threshold
        low, high = np.exp(-tail.shape * bounds)  # at most e^44: a shape is 0.5 at most
    line = g.op("Gemm", wide, g.constant(np.array([[slope]])), g.constant(np.array([start])))
    line = g.op("Clip", line, g.constant(low, np.float64), g.constant(high, np.float64))
    if straight:
        return g.op("Cast", g.op("Exp", line), to=_FLOAT)
    power = g.op("Pow", line, g.constant(-1.0 / tail.shape, np.float64))
    return g.op("Cast", power, to=_FLOAT)


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
    """P-value of each score within its group, as `GroupedCalibrator.p_values`: float32 [c, 1].

    `score` is float32 [c, 1] and `group` int64 [c, 1]. Every row gathers the numbers of its own
    calibrator; without a calibrator's numbers in common, scores are counted one by one.
    """
    calibrators = [calibrator.pooled, *calibrator.groups.values()]
    axis = g.ints(1)
    index, column = g.op("Squeeze", group, axis), score  # [c], [c, 1]
    score = g.op("Squeeze", column, axis)

    def of(numbers: NDArray[np.float64] | NDArray[np.float32]) -> Value:
        return g.op("Gather", g.constant(numbers), index, axis=0)

    widest = max(c.n for c in calibrators)
    # Padded with what is never at least a score.
    padded = np.full((len(calibrators), widest), -np.inf, dtype=np.float32)
    for row, known in zip(padded, calibrators, strict=True):
        row[: known.n] = known.raised
    at_least = g.op("GreaterOrEqual", of(padded), column)
    count = g.op("ReduceSum", g.op("Cast", at_least, to=_DOUBLE), axis, keepdims=0)
    p = g.op("Add", count, g.constant(1.0, np.float64))
    p = g.op("Div", p, of(np.array([c.n + 1.0 for c in calibrators])))
    if any(c.tail is not None for c in calibrators):
        resolution = of(np.array([c.resolution for c in calibrators]))
        # Without a tail no score is beyond: the p-value stays the counted one.
        largest = [np.inf if c.tail is None else c.raised[-1] for c in calibrators]
        beyond = _beyond(g, [c.tail for c in calibrators], score, of)
        beyond = g.op("Min", beyond, resolution)
        is_beyond = g.op("Greater", score, of(np.array(largest, dtype=np.float32)))
        p = g.op("Where", is_beyond, beyond, p)
    return g.op("Unsqueeze", g.op("Cast", p, to=_FLOAT), axis)


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
