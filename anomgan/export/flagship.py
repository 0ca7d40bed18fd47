"""The flagship's score in the graph: `anomgan.scoring.frozen.FrozenScore`, node by node.

On a processor, what costs is as much to walk over memory as to multiply. So the kernels over the
known rows come out of one product, already in the unit that an exponential takes, the networks'
activations give their own slopes, and the views that explain a row are left out where no row of a
tile is to be explained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anomgan.export.attribution import ROUNDING, add_views
from anomgan.export.graph import GraphBuilder, Value, hidden_layers, member, row_sum
from anomgan.export.half import farthest_corner, scaled_down
from anomgan.export.inversion import add_inversion
from anomgan.export.precision import FP32, Precision
from anomgan.scoring.attribution import VIEWS
from anomgan.scoring.frozen import FLOOR, FrozenScore
from anomgan.scoring.memory import spread

__all__ = ["add_flagship", "references_tell"]

_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE

_LOST_MOSTLY, _LOST_AT_MOST = 2e-6, 1e-4
"""Shares of a score that rounding may take in 99 of 100 rows, and in any: well below what
`anomgan.export.parity` lets pass."""
_JUDGES = 512
"""Most known rows that this is found at."""


def add_flagship(
    g: GraphBuilder,
    score: FrozenScore,
    strips: Value,
    x: Value,
    surprise: Value,
    precision: Precision = FP32,
) -> tuple[Value, Value]:
    """Score [c, 1], contributions [c, n_columns + 1].

    Parameters
    ----------
    g : GraphBuilder
    score : FrozenScore
    strips : Value
        Encoded rows, float32 [S, r, d].
    x : Value
        The same, [c, d].
    surprise : Value
        Of each column of the table, float32 [c, n_columns].
    precision : Precision
        Of the networks.
    """
    states = row_sum(g, surprise, score.n_columns)
    near = _near(g, score, x)
    seen = g.op("Cast", near, to=precision.networks) if precision.is_half else near
    by_memory, log_kernel = _soft_distance(g, score, strips, _memory_unit(score))
    inverted = [add_inversion(g, score, m, seen, precision) for m in range(score.n_members)]
    left, residual = _left(g, score, inverted, x, near)
    energy = g.op("Add", by_memory, left)
    odds = _discriminator(g, score, seen, precision)
    # Not the sum of the contributions: how a score is shared must not move it by a rounding.
    total = g.op("Add", g.op("Add", energy, odds), states)
    shares = _shares(g, score, x, total, energy, log_kernel, residual)
    return total, g.op("Concat", g.op("Add", shares, surprise), odds, axis=1)


def _near(g: GraphBuilder, score: FrozenScore, x: Value) -> Value:
    """Nearest points of the box that the networks see rows through, [c, d]."""
    if score.box is None:
        return x
    low, high = (g.constant(corner.numpy().reshape(1, -1)) for corner in score.box)
    return g.op("Min", g.op("Max", x, low), high)


def _mean(g: GraphBuilder, values: list[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    return g.op("Mul", g.op("Sum", *values), g.constant(1.0 / len(values), np.float32))


def _discriminator(g: GraphBuilder, score: FrozenScore, x: Value, precision: Precision) -> Value:
    """Discriminator term v (clip(L - median, -c, c) + c) + 1, [c, 1].

    L is the members' mean. That, v and all that is added are folded into the members' last layers,
    each of which adds to the one before: to bound the term is all that is left to do.
    """
    settings = score.settings
    trust, bound = settings.discriminator_trust, settings.discriminator_bound
    networks = [member(score.discriminator, m) for m in range(score.n_members)]
    bias = sum(float(net.biases[-1].item()) for net in networks) / len(networks)
    start = FLOOR + trust * (bias + bound - settings.discriminator_median)
    term = g.constant(np.array([start]), np.float32)
    for net in networks:
        last = net.matrices[-1] * np.float32(trust / len(networks))
        if precision.is_half:
            net, scales = scaled_down(net, farthest_corner(score))
            hidden = hidden_layers(g, x, net.rounded(precision))[-1]
            hidden, last = g.op("Cast", hidden, to=_FLOAT), last / np.float32(scales[-2])
        else:
            hidden = hidden_layers(g, x, net)[-1]
        term = g.op("Gemm", hidden, g.constant(last, stem="w"), term)
    most = FLOOR + 2.0 * bound * trust
    return g.op("Clip", term, g.constant(FLOOR, np.float32), g.constant(most, np.float32))


def _memory_unit(score: FrozenScore) -> float:
    """Score of a squared standardised unit of the soft distance to the known rows."""
    settings = score.settings
    return (1.0 - settings.inversion_share) / (2.0 * settings.bandwidth**2)


def _left(
    g: GraphBuilder, score: FrozenScore, inverted: list[tuple[Value, Value]], x: Value, near: Value
) -> tuple[Value, Value]:
    """Score of what the inversion of all members leaves [c, 1], and its squared residual [c, d]."""
    settings = score.settings
    energy = _mean(g, [energy for energy, _ in inverted])
    residual = _mean(g, [square for _, square in inverted])
    if near != x:
        gap = g.op("Sub", x, near)
        beyond = g.op("Mul", gap, gap)
        energy = g.op("Add", energy, row_sum(g, beyond, len(score.feature_column)))
        residual = g.op("Add", residual, beyond)
    unit = settings.inversion_share / (2.0 * settings.bandwidth**2)
    return g.op("Mul", energy, g.constant(unit, np.float32)), residual


def _shares(
    g: GraphBuilder,
    score: FrozenScore,
    x: Value,
    total: Value,
    energy: Value,
    log_kernel: Value,
    residual: Value,
) -> Value:
    """Share the reconstruction term among columns, [c, n_columns]; see `Attribution.share`.

    Only rows from `explained_from` on go through the costly views.
    """
    floors = g.constant(score.attribution.floors.numpy().reshape(1, -1))
    left = g.op(
        "Add", _to_columns(g, score.feature_column.numpy(), score.n_columns, residual), floors
    )
    left = g.op("Div", left, row_sum(g, left, score.n_columns))
    by_generator = g.op("Mul", left, energy)
    least = g.constant(score.settings.explained_from, np.float32)
    some = g.op("GreaterOrEqual", g.op("ReduceMax", total, keepdims=1), least)  # [1, 1]
    explaining, otherwise = GraphBuilder(g), GraphBuilder(g)
    chosen = explaining.op("GreaterOrEqual", total, least)
    rows = explaining.op("NonZero", explaining.op("Squeeze", chosen, explaining.ints(1)))
    rows = explaining.op("Reshape", rows, explaining.ints(-1))  # [k]
    explained = _explained(explaining, score, rows, x, energy, log_kernel, left, by_generator)
    plain = otherwise.op("Identity", by_generator)
    outputs = [
        [helper.make_tensor_value_info(name, _FLOAT, ["c", score.n_columns])]
        for name in (explained, plain)
    ]
    return g.op(
        "If",
        some,
        then_branch=explaining.graph("explained", [], outputs[0]),
        else_branch=otherwise.graph("unexplained", [], outputs[1]),
    )


def _to_columns(
    g: GraphBuilder, feature_column: NDArray[Any], n_columns: int, by_feature: Value
) -> Value:
    """Add up features of one column: [c, d] -> [c, n_columns]."""
    if np.array_equal(feature_column, np.arange(n_columns)):
        return by_feature
    matrix = np.zeros((len(feature_column), n_columns), dtype=np.float32)
    matrix[np.arange(len(feature_column)), feature_column] = 1.0
    return g.op("MatMul", by_feature, g.constant(matrix))


def _explained(
    g: GraphBuilder,
    score: FrozenScore,
    rows: Value,
    x: Value,
    energy: Value,
    log_kernel: Value,
    left: Value,
    by_generator: Value,
) -> Value:
    """Put the shares by all views in place of those by the generator, in some rows."""

    def of(value: Value) -> Value:
        return g.op("Gather", value, rows, axis=0)

    floors = g.constant(score.attribution.floors.numpy().reshape(1, -1))
    # Log kernels are squared distances in another unit.
    gaps = g.op("Mul", of(log_kernel), g.constant(-2.0 * score.memory.width**2, np.float32))
    blame, posterior = add_views(g, score.attribution, of(x), gaps)
    blame = g.op("Add", blame, floors)
    blame = g.op("Div", blame, row_sum(g, blame, score.n_columns))
    posterior = g.op("Div", posterior, row_sum(g, posterior, score.n_columns))
    together = g.op("Add", g.op("Add", blame, posterior), of(left))
    part = g.op("Div", of(energy), g.constant(float(VIEWS), np.float32))
    explained = g.op("Mul", together, part)
    places = g.op("Reshape", rows, g.ints(-1, 1))
    return g.op("ScatterND", by_generator, places, explained)


def _soft_distance(
    g: GraphBuilder, score: FrozenScore, strips: Value, unit: float
) -> tuple[Value, Value]:
    """Soft squared distance times `unit` [c, 1] and log kernels of references [c, b].

    See `Memory.soft_distance`. `strips` is [S, r, d]: strip by strip, the log kernels of all known
    rows stay in the cache. What costs the same for a whole tile as for a strip is done for a tile.
    """
    memory, width = score.memory, len(score.feature_column)
    n_references, variance = len(memory.references), memory.width**2
    x64 = g.op("Cast", strips, to=_DOUBLE)
    summing = np.repeat([[1.0, 0.0]], width, axis=0)  # [d, 2]
    norm = g.op("MatMul", g.op("Mul", x64, x64), g.constant(summing))
    norm_and_one = g.op("Add", norm, g.constant(np.array([0.0, 1.0])))
    completed = g.op("Concat", x64, norm_and_one, axis=2)  # [S, r, d + 2]
    body = GraphBuilder(g)
    log_sum, some = _strip(body, score, "strip", unit)
    inner = body.graph(
        "strips",
        [helper.make_tensor_value_info("strip", _DOUBLE, ["r", width + 2])],
        [
            helper.make_tensor_value_info(log_sum, _FLOAT, ["r", 1]),
            helper.make_tensor_value_info(some, _FLOAT, ["r", n_references]),
        ],
    )
    log_sums, log_kernels = g.multi("Scan", completed, outputs=2, body=inner, num_scan_inputs=1)
    energy = g.op(
        "Sub", g.constant(memory.peak, np.float32), g.op("Reshape", log_sums, g.ints(-1, 1))
    )
    energy = g.op("Mul", energy, g.constant(2.0 * variance * unit, np.float32))
    energy = g.op("Max", energy, g.constant(0.0, np.float32))
    return energy, g.op("Reshape", log_kernels, g.ints(-1, n_references))


def _strip(g: GraphBuilder, score: FrozenScore, x: Value, unit: float) -> tuple[Value, Value]:
    """Log sum of the kernels [r, 1] and log kernels of references [r, b] of [x, |x|^2, 1].

    One product in float64 with what completes each known row gives the log kernels without a pass
    of their own: only they, and no longer large numbers whose difference they are, go on in
    float32. Reference rows stand first, as a slice costs less than a gather.
    """
    memory, axis = score.memory, g.ints(1)
    variance = memory.width**2
    order = _references_first(memory.references.numpy(), len(memory.rows))
    known = memory.rows.numpy().astype(np.float64)[order]  # [a, d]
    bias = memory.bias.numpy()[order] / variance  # [a]
    ones = np.ones_like(bias)
    table = np.vstack([known.T / variance, -0.5 / variance * ones, bias])  # [d + 2, a]
    log_kernel = g.op("MatMul", x, g.constant(table, stem="memory"))
    log_kernel = g.op("Cast", log_kernel, to=_FLOAT)  # [r, a]
    log_share = g.op("LogSoftmax", log_kernel, axis=1)  # less the log sum of all kernels
    some = _references_of(g, score, log_kernel)
    # The log sum is what any one kernel lost. A maximum over all known rows takes as long as all
    # their exponentials, so it is looked for at the references where these are near enough.
    seen = log_kernel, log_share
    if references_tell(score, unit):
        seen = some, _references_of(g, score, log_share)
    largest, log_share = (g.op("ReduceMax", values, axis, keepdims=1) for values in seen)
    return g.op("Sub", largest, log_share), some


def references_tell(score: FrozenScore, unit: float) -> bool:
    """Whether float32 keeps a score's digits where the log sum is read at the nearest reference.

    A difference of two log kernels has lost as many as that reference is far. What that is in
    scores is found at known rows that are no references, each left out as a new row would be.

    Parameters
    ----------
    score : FrozenScore
    unit : float
        Score a squared standardised unit.
    """
    memory, b = score.memory, len(score.memory.references)
    others = _references_first(memory.references.numpy(), len(memory.rows))[b:]
    if not len(others):
        return True
    own = torch.from_numpy(others)[spread(len(others), _JUDGES)]
    rows, references = memory.rows[own], memory.rows64[memory.references]
    nearest = torch.cdist(rows.double(), references).min(dim=1).values
    scores = score.scores(rows, torch.zeros(len(rows), score.n_columns), own).double()
    lost = nearest.square() * unit * ROUNDING / scores
    return bool(lost.quantile(0.99) <= _LOST_MOSTLY and lost.max() <= _LOST_AT_MOST)


def _references_of(g: GraphBuilder, score: FrozenScore, values: Value) -> Value:
    """Keep the columns [r, b] of the references, which stand first, of [r, a]."""
    memory, b = score.memory, len(score.memory.references)
    if b == len(memory.rows):
        return values
    return g.op("Slice", values, g.ints(0), g.ints(b), g.ints(1))


def _references_first(references: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    rest = np.ones(n, dtype=bool)
    rest[references] = False
    return np.concatenate([references, np.flatnonzero(rest)])
