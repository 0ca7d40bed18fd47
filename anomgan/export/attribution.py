"""Which columns a distance comes from, in the graph: `anomgan.scoring.attribution`, node by node.

A row that is explained needs several passes over its gaps to all reference rows for every column of
the table, so there are as few as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from anomgan.export.graph import GraphBuilder, Value, row_sum
from anomgan.scoring.attribution import (
    BY_DIFFERENCES,
    REACH,
    RELATIVE_VARIANCE,
    UNHEARD_OF,
    Attribution,
)

__all__ = ["ROUNDING", "add_views"]

ROUNDING = 2.0**-23
"""Of a difference of two float32 numbers, as a share of them."""
_LOST_OF_A_KERNEL = 1e-5
"""Share of a kernel that may be lost to rounding where squared distances come out of a product."""


def add_views(
    g: GraphBuilder, attribution: Attribution, x: Value, gaps: Value
) -> tuple[Value, Value]:
    """Blame by distance and posterior, [c, n_columns] each; see `Attribution.views`.

    Parameters
    ----------
    g : GraphBuilder
    attribution : Attribution
    x : Value
        Encoded rows, float32 [c, d].
    gaps : Value
        Squared distances to the references, up to a constant for each of them, float32 [c, b].
    """
    # From here on gaps are in units of the kernel's variance, and negative: what Exp takes.
    axis = g.ints(1)
    zero = g.constant(0.0, np.float32)
    nearest = g.op("ReduceMin", gaps, axis, keepdims=1)  # [c, 1]
    grown = g.op("Mul", g.op("Max", nearest, zero), g.constant(RELATIVE_VARIANCE, np.float32))
    variance = g.op("Add", grown, g.constant((REACH * attribution.width) ** 2, np.float32))
    steepness = g.op("Div", g.constant(-0.5, np.float32), variance)  # [c, 1]
    scaled = g.op("Mul", gaps, steepness)
    counts = attribution.counts.numpy().reshape(-1, 1)
    shares = g.constant((counts / counts.sum()).astype(np.float32))
    without, around, marginal = [], [], []
    for gap, rest in _gaps(g, attribution, x, steepness, scaled):  # [c, b] both
        without.append(g.op("ReduceMax", rest, axis, keepdims=1))  # [c, 1]
        around.append(_around(g, counts, rest, without[-1]))
        marginal.append(g.op("MatMul", g.op("Exp", gap), shares))
    rests, sums, heard_of = (g.op("Concat", *v, axis=1) for v in (without, around, marginal))
    if _are_equal(counts):
        sums = g.op("Exp", g.op("Neg", sums))
    most = g.op("ReduceMax", rests, axis, keepdims=1)
    posterior = g.op("Mul", g.op("Exp", g.op("Sub", rests, most)), sums)
    heard_of = g.op("Add", heard_of, g.constant(UNHEARD_OF, np.float32))
    posterior = g.op("Mul", posterior, heard_of)
    nearer = g.op("Sub", rests, g.op("Mul", nearest, steepness))
    blame = g.op("Max", g.op("Div", nearer, g.op("Neg", steepness)), zero)
    return _spread(g, attribution, blame), _spread(g, attribution, posterior)


def _around(g: GraphBuilder, counts: NDArray[np.float32], rest: Value, most: Value) -> Value:
    """Sum of kernels [c, b] relative to the largest, [c, 1]; of equal rows, its negative logarithm.

    The largest kernel loses just that to the sum, and onnxruntime takes the logarithmic softmax of
    a row while it is in the innermost cache. Equal counts change a posterior by a factor.
    """
    if _are_equal(counts):
        return g.op("ReduceMax", g.op("LogSoftmax", rest, axis=1), g.ints(1), keepdims=1)
    return g.op("MatMul", g.op("Exp", g.op("Sub", rest, most)), g.constant(counts))


def _are_equal(counts: NDArray[np.float32]) -> bool:
    return bool((counts == counts[0]).all())


def _spread(g: GraphBuilder, attribution: Attribution, values: Value) -> Value:
    """Give columns without features their 0: [c, columns with features] -> [c, n_columns]."""
    columns = [i for i, f in enumerate(attribution.features) if len(f)]
    if len(columns) == attribution.n_columns:
        return values
    matrix = np.zeros((len(columns), attribution.n_columns), dtype=np.float32)
    matrix[np.arange(len(columns)), columns] = 1.0
    return g.op("MatMul", values, g.constant(matrix))


def _gaps(
    g: GraphBuilder, attribution: Attribution, x: Value, steepness: Value, scaled: Value
) -> Iterator[tuple[Value, Value]]:
    """For each column, gaps to the references in it and what is left without them, [c, b] both."""
    references, width = attribution.references.numpy(), attribution.width
    columns = [features.numpy() for features in attribution.features if len(features)]
    crossed = [_is_crossed(references[:, features], width) for features in columns]
    halves = iter(_halves(g, x, steepness, list(compress(columns, crossed))))
    for features, is_crossed in zip(columns, crossed, strict=True):
        known = references[:, features]  # [b, k]
        if is_crossed:
            squares = np.square(known)
            table = np.vstack([-2.0 * known.T, np.ones_like(known.T), squares.sum(axis=1)])
            both = next(halves), g.constant(table, np.float32)  # [c, 2 k + 1], [2 k + 1, b]
            yield g.op("Gemm", *both), g.op("Gemm", *both, scaled, alpha=-1.0)
            continue
        way = _differences if len(features) <= BY_DIFFERENCES else _expanded
        gap = g.op("Mul", way(g, x, features, known), steepness)
        yield gap, g.op("Sub", scaled, gap)


def _is_crossed(known: NDArray[np.float32], width: float) -> bool:
    """Whether squared distances [c, b] to these [b, k] come out of one product, scaled already.

    It takes one pass instead of three, and loses some last digits of the values' squares: too many
    where these are large and kernels narrow. (Of rows further out than all known ones the kernel
    grows with the distance.) Categories, of many features, are to match exactly.
    """
    lost = float(np.square(known).max()) * ROUNDING / (REACH * width) ** 2
    return known.shape[1] <= BY_DIFFERENCES and lost <= _LOST_OF_A_KERNEL


def _halves(
    g: GraphBuilder, x: Value, steepness: Value, columns: list[NDArray[np.int64]]
) -> tuple[Value, ...]:
    """Return what makes gaps of columns: x, x^2 and 1 times `steepness`, [c, 2 k + 1] each."""
    if not columns:
        return ()
    values = g.op("Gather", x, g.constant(np.concatenate(columns)), axis=1)
    parts = (g.op("Mul", v, steepness) for v in (values, g.op("Mul", values, values)))
    side_by_side = g.op("Concat", *parts, steepness, axis=1)
    sizes = [len(features) for features in columns]
    n, order = sum(sizes), []
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
        own = np.arange(start, start + size)
        order += [*own, *(n + own), 2 * n]
    halves = g.op("Gather", side_by_side, g.constant(np.array(order)), axis=1)
    widths = g.ints(*(2 * size + 1 for size in sizes))
    return g.multi("Split", halves, widths, outputs=len(columns), axis=1)


def _differences(
    g: GraphBuilder, x: Value, features: NDArray[np.int64], known: NDArray[np.float32]
) -> Value:
    """Squared distances to known values [b, k], [c, b]: exact far out."""
    squares = []
    for j, feature in enumerate(features.tolist()):
        value = g.op("Gather", x, g.ints(feature), axis=1)  # [c, 1]
        gap = g.op("Sub", value, g.constant(known[:, j].reshape(1, -1)))
        squares.append(g.op("Mul", gap, gap))
    return squares[0] if len(squares) == 1 else g.op("Sum", *squares)


def _expanded(
    g: GraphBuilder, x: Value, features: NDArray[np.int64], known: NDArray[np.float32]
) -> Value:
    """Squared distances to known values [b, k] of many features, [c, b], by their product."""
    values = g.op("Gather", x, g.constant(features), axis=1)  # [c, k]
    norm = row_sum(g, g.op("Mul", values, values), len(features))
    bias = np.square(known).sum(axis=1).reshape(1, -1)
    crossed = g.op("Gemm", values, g.constant(known.T), g.constant(bias), alpha=-2.0)
    return g.op("Add", crossed, norm)
