"""Latent inversion in the graph: `anomgan.scoring.inversion.Inversion`, node by node."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from anomgan.export.graph import (
    GraphBuilder,
    Network,
    Value,
    affine,
    as_array,
    member,
    mlp,
    row_sum,
)
from anomgan.export.half import farthest_corner, forward, forward_in_half, scaled_down
from anomgan.export.precision import Precision
from anomgan.scoring.frozen import FrozenScore

__all__ = ["add_inversion"]


def add_inversion(
    g: GraphBuilder, score: FrozenScore, m: int, x: Value, precision: Precision
) -> tuple[Value, Value]:
    """Energy left after inverting one member from its code, [c, 1]; squared residual, [c, d].

    With y the way from the start, and y' that of one step before, a step with momentum mu is

        y <- (1 + mu) y - mu y' + gradient direction + pull y direction

    so that neither the velocity nor the code itself is needed: the first layer of the generator
    is linear, and takes start and y apart.

    Parameters
    ----------
    g : GraphBuilder
    score : FrozenScore
    m : int
        Which member.
    x : Value
        Encoded rows as the networks see them, [c, d], of the networks' type.
    precision : Precision
        What comes out is float32 in any case.
    """
    settings = score.settings.inversion
    exact = member(score.generator, m)
    onwards = forward_in_half(score, m) if precision.is_half else forward(exact)
    net, back_net = onwards.net.rounded(precision), exact.rounded(precision)
    pull, momentum = float(score.pull[m]), settings.momentum
    direction = settings.learning_rate * as_array(score.preconditioner[m]).T.astype(np.float64)
    # Folded into the last product of the backward pass: gradient, then direction.
    to_way = exact.matrices[0].T.astype(np.float64) @ direction
    to_way = precision.array(-to_way / onwards.scales[-1])
    kept_way = precision.array((1.0 + momentum) * np.eye(len(direction)) - pull * direction)
    negated = g.op("Sub", g.constant(net.biases[-1].ravel()), _times(g, x, onwards.scales[-1]))
    first_layer, _, last_layer = (g.constant(w, stem="w") for w in net.matrices)
    second, third = (g.constant(w, stem="w") for w in back_net.matrices[1:])
    start, scale = _code(g, score, m, x, onwards.codes, precision)
    to_first = precision.array(onwards.net.matrices[0] / scale)
    from_start = affine(g, start, to_first, net.biases[0])  # [c, w]

    def layers(first: Value) -> tuple[Value, tuple[Value, Value]]:
        hidden, slope = _unit(g, first, onwards.scales[0])
        last = affine(g, hidden, net.matrices[1], net.biases[1])
        last, last_slope = _unit(g, last, onwards.scales[1])
        return last, (slope, last_slope)

    hidden, slopes = layers(from_start)
    first = residual = g.op("Gemm", hidden, last_layer, negated)
    way = before = None
    for _ in range(settings.n_steps):
        back = g.op("Mul", g.op("Gemm", residual, third, transB=1), slopes[1])
        back = g.op("Mul", g.op("Gemm", back, second, transB=1), slopes[0])
        step = [back, g.constant(to_way)]
        if way is not None:
            kept = way, g.constant(kept_way)
            if before is None:
                step.append(g.op("Gemm", *kept))
            else:
                step.append(g.op("Gemm", *kept, before, beta=-momentum))
        way, before = g.op("Gemm", *step), way
        hidden, slopes = layers(g.op("Gemm", way, first_layer, from_start))
        residual = g.op("Gemm", hidden, last_layer, negated)
    if precision.is_half:
        first, residual = (_unscaled(g, value, onwards.scales[-1]) for value in (first, residual))
        way = None if way is None else _unscaled(g, way, 1.0)
    return _keep_better(g, first, residual, way, pull, net)


def _times(g: GraphBuilder, value: Value, scale: float) -> Value:
    """Multiply float16 by a power of two, if that is not 1."""
    return value if scale == 1.0 else g.op("Mul", value, g.constant(scale, np.float16))


def _unscaled(g: GraphBuilder, value: Value, scale: float) -> Value:
    """Go on in float32, with what a scale took put back."""
    value = g.op("Cast", value, to=TensorProto.FLOAT)
    return value if scale == 1.0 else g.op("Mul", value, g.constant(1.0 / scale, np.float32))


def _code(
    g: GraphBuilder, score: FrozenScore, m: int, x: Value, codes: float, precision: Precision
) -> tuple[Value, float]:
    """Code of the encoder times a scale, [c, k], and the scale."""
    net, scale = member(score.encoder, m), 1.0
    if not precision.is_half:
        return mlp(g, x, net)[-1], scale
    net, scales = scaled_down(net, farthest_corner(score))
    limit = min(codes * scales[-1], float(np.finfo(np.float16).max))
    low, high = (g.constant(bound, np.float16) for bound in (-limit, limit))
    return g.op("Clip", mlp(g, x, net.rounded(precision))[-1], low, high), scales[-1]


def _unit(g: GraphBuilder, x: Value, scale: float) -> tuple[Value, Value]:
    """Exponential linear units plus 1, times the scale that `x` has, [c, w], and their slopes.

    The slope is exp(min(x, 0)), and the unit itself max(x, 0) + slope - 1: the 1 is taken off where
    the next product adds its bias (`less_one`). It is not onnxruntime's own unit: the last bits of
    that depend on where in the batch, and so on which thread, an element stands; nor its minimum
    and maximum, which take several times as long as what they are written by here.
    """
    positive = g.op("Relu", x)
    slope = g.op("Exp", _times(g, g.op("Sub", x, positive), 1.0 / scale))
    return g.op("Add", positive, _times(g, slope, scale)), slope


def _keep_better(
    g: GraphBuilder, first: Value, last: Value, way: Value | None, pull: float, net: Network
) -> tuple[Value, Value]:
    """Energy and squared residual, of the start where the steps did not help."""
    latent_dim, width = len(net.matrices[0]), net.matrices[-1].shape[1]
    square_first = g.op("Mul", first, first)
    norm_first = row_sum(g, square_first, width)
    if way is None:
        return norm_first, square_first
    square_last = g.op("Mul", last, last)
    cost = g.op("Mul", way, way)
    cost = g.op("MatMul", cost, g.constant(np.full((latent_dim, 1), pull), np.float32))
    ones = g.constant(np.ones((width, 1), dtype=np.float32))
    energy_last = g.op("Gemm", square_last, ones, cost)
    better = g.op("Less", energy_last, norm_first)
    energy = g.op("Where", better, energy_last, norm_first)
    return energy, g.op("Where", better, square_last, square_first)
