"""One ONNX file that scores raw columns: encode, invert, judge.

The graph repeats `anomgan.scoring.frozen.FrozenScore` node by node; `anomgan.export.parity`
checks that both say the same. Rows pass in tiles of at most `TILE` rows inside a `Scan`, so
that memory does not grow with the batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor

from anomgan.export.encode import add_encoder
from anomgan.export.graph import (
    IR_VERSION,
    ML_OPSET,
    OPSET,
    GraphBuilder,
    Network,
    Value,
    hidden_layers,
    mlp,
    row_sum,
)
from anomgan.export.p_value import add_group_code, add_grouped_p_value, add_p_value
from anomgan.export.program import add_program, to_columns
from anomgan.groups import AnyCalibrator, GroupedCalibrator
from anomgan.scoring.attribution import (
    BY_DIFFERENCES,
    REACH,
    RELATIVE_VARIANCE,
    UNHEARD_OF,
    VIEWS,
)
from anomgan.scoring.frozen import FLOOR, FrozenScore
from anomgan.scoring.inversion import MLPWeights
from anomgan.scoring.program import ProgramScore, RowScore
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Schema

__all__ = ["TILE", "build_scorer"]

TILE = 64
"""Rows a pass: small enough for the processor's cache, large enough for its matrix units."""

_FLOAT, _DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def build_scorer(
    schema: Schema,
    encoder: FeatureEncoder,
    score: RowScore,
    calibrator: AnyCalibrator,
    *,
    metadata: Mapping[str, str],
) -> bytes:
    """Build the scoring graph.

    Parameters
    ----------
    schema : Schema
    encoder : FeatureEncoder
    score : FrozenScore or ProgramScore
        On the CPU.
    calibrator : Calibrator or GroupedCalibrator
    metadata : mapping of str to str
        Beside what this function adds: schema, feature names, threshold and rate.

    Returns
    -------
    bytes
        The serialised model: the same bytes for the same arguments.
    """
    g = GraphBuilder()
    inputs = []
    numeric = categorical = None
    if schema.numeric_names:
        numeric = "numeric"
        width = len(schema.numeric_names)
        inputs.append(helper.make_tensor_value_info(numeric, _DOUBLE, ["N", width]))
    if schema.categorical_names:
        categorical = "categorical"
        width = len(schema.categorical_names)
        inputs.append(helper.make_tensor_value_info(categorical, TensorProto.STRING, ["N", width]))
    rate = g.named_constant("false_alarm_rate", np.float32(calibrator.false_alarm_rate))
    inputs.append(helper.make_tensor_value_info(rate, _FLOAT, []))
    features, surprise = add_encoder(g, encoder, numeric, categorical)
    group = None
    if isinstance(calibrator, GroupedCalibrator):
        group = add_group_code(g, calibrator, schema, "categorical")
    scores, p_values, contributions = _tiled(g, score, calibrator, features, surprise, group)
    g.rename(g.op("LessOrEqual", p_values, rate), "is_anomaly")
    for value, name in ((scores, "score"), (p_values, "p_value"), (contributions, "contributions")):
        g.rename(value, name)
    outputs = [
        helper.make_tensor_value_info("score", _FLOAT, ["N"]),
        helper.make_tensor_value_info("p_value", _FLOAT, ["N"]),
        helper.make_tensor_value_info("is_anomaly", TensorProto.BOOL, ["N"]),
        helper.make_tensor_value_info("contributions", _FLOAT, ["N", encoder.n_columns + 1]),
    ]
    graph = g.graph("anomgan", inputs, outputs)
    model = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        producer_name="anomgan",
    )
    helper.set_model_props(model, _metadata(schema, calibrator, metadata))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def _metadata(
    schema: Schema, calibrator: AnyCalibrator, metadata: Mapping[str, str]
) -> dict[str, str]:
    own = {
        "anomgan.schema": json.dumps(schema.to_dict(), ensure_ascii=False, sort_keys=True),
        "anomgan.feature_names": json.dumps(
            [*schema.feature_names, "discriminator"], ensure_ascii=False
        ),
        "anomgan.numeric_columns": json.dumps(list(schema.numeric_names), ensure_ascii=False),
        "anomgan.categorical_columns": json.dumps(
            list(schema.categorical_names), ensure_ascii=False
        ),
        "anomgan.threshold": repr(float(calibrator.threshold(calibrator.false_alarm_rate))),
        "anomgan.false_alarm_rate": repr(float(calibrator.false_alarm_rate)),
    }
    return dict(sorted((dict(metadata) | own).items()))


def _tiled(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    features: Value,
    surprise: Value,
    group: Value | None,
) -> tuple[Value, Value, Value]:
    """Score in tiles: pad to M tiles of c = ceil(N / M) rows, scan, cut the padding off."""
    n = g.op("Shape", features, start=0, end=1)  # [1]
    one = g.ints(1)

    def ceil_div(a: Value, b: Value) -> Value:
        return g.op("Div", g.op("Sub", g.op("Add", a, b), one), b)

    tiles = g.op("Max", ceil_div(n, g.ints(TILE)), one)
    rows = g.op("Max", ceil_div(n, tiles), one)
    padding = g.op(
        "Concat", g.ints(0, 0), g.op("Sub", g.op("Mul", tiles, rows), n), g.ints(0), axis=0
    )

    def cut(value: Value, width: int) -> Value:
        padded = g.op("Pad", value, padding)
        return g.op("Reshape", padded, g.op("Concat", tiles, rows, g.ints(width), axis=0))

    n_columns = score.n_columns
    x = cut(features, len(score.feature_column))
    s = cut(surprise, n_columns)
    scanned = [x, s]
    tile = [
        helper.make_tensor_value_info("tile_x", _FLOAT, ["c", len(score.feature_column)]),
        helper.make_tensor_value_info("tile_s", _FLOAT, ["c", n_columns]),
    ]
    if group is not None:
        scanned.append(cut(group, 1))
        tile.append(helper.make_tensor_value_info("tile_g", TensorProto.INT64, ["c", 1]))
    body = GraphBuilder(g)
    names = [value.name for value in tile]
    score_tile, p_tile, contribution_tile = _tile(body, score, calibrator, *names)
    inner = body.graph(
        "tile",
        tile,
        [
            helper.make_tensor_value_info(score_tile, _FLOAT, ["c"]),
            helper.make_tensor_value_info(p_tile, _FLOAT, ["c"]),
            helper.make_tensor_value_info(contribution_tile, _FLOAT, ["c", n_columns + 1]),
        ],
    )
    outputs = g.multi("Scan", *scanned, outputs=3, body=inner, num_scan_inputs=len(scanned))

    def join(value: Value, *tail: int) -> Value:
        flat = g.op("Reshape", value, g.ints(-1, *tail))
        return g.op("Slice", flat, g.ints(0), n, g.ints(0))

    return join(outputs[0]), join(outputs[1]), join(outputs[2], n_columns + 1)


def _tile(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    x: Value,
    surprise: Value,
    *group: Value,
) -> tuple[Value, Value, Value]:
    """Score one tile: score [c], p-value [c], contributions [c, n_columns + 1]."""
    states = row_sum(g, surprise, score.n_columns)
    if isinstance(score, FrozenScore):
        total, columns, whole = _flagship(g, score, x, states)
    elif isinstance(score, ProgramScore):
        total, columns, whole = add_program(g, score, x, states)
    else:
        raise TypeError(f"a {type(score).__name__} cannot be exported")
    contributions = g.op("Concat", g.op("Add", columns, surprise), whole, axis=1)
    total = g.op("Squeeze", total, g.ints(1))
    if isinstance(calibrator, GroupedCalibrator):
        return total, add_grouped_p_value(g, calibrator, total, *group), contributions
    return total, add_p_value(g, calibrator, total), contributions


def _flagship(
    g: GraphBuilder, score: FrozenScore, x: Value, states: Value
) -> tuple[Value, Value, Value]:
    """Score [c, 1], shares by column [c, n_columns] without surprise, discriminator [c, 1]."""
    energy, gaps, residual = _reconstruction(g, score, x)
    odds = _discriminator(g, score, x)
    # Not the sum of the contributions: how a score is shared must not move it by a rounding.
    total = g.op("Add", g.op("Add", energy, odds), states)
    return total, _shares(g, score, x, total, energy, gaps, residual), odds


def _log_odds(g: GraphBuilder, network: Network, x: Value) -> Value:
    return mlp(g, x, network)[-1]


def _member(weights: MLPWeights, m: int) -> Network:
    return Network(
        tuple(_array(w[m]) for w in weights.matrices),
        tuple(_array(b[m]) for b in weights.biases),
        weights.activation,
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def _mean(g: GraphBuilder, values: list[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    return g.op("Mul", g.op("Sum", *values), g.constant(1.0 / len(values), np.float32))


def _discriminator(g: GraphBuilder, score: FrozenScore, x: Value) -> Value:
    """Discriminator term, [c, 1]."""
    settings = score.settings
    odds = _mean(
        g, [_log_odds(g, _member(score.discriminator, m), x) for m in range(score.n_members)]
    )
    bound = settings.discriminator_bound
    odds = g.op("Sub", odds, g.constant(settings.discriminator_median, np.float32))
    odds = g.op("Clip", odds, g.constant(-bound, np.float32), g.constant(bound, np.float32))
    odds = g.op("Add", odds, g.constant(bound, np.float32))
    odds = g.op("Mul", odds, g.constant(settings.discriminator_trust, np.float32))
    return g.op("Add", odds, g.constant(FLOOR, np.float32))


def _reconstruction(g: GraphBuilder, score: FrozenScore, x: Value) -> tuple[Value, Value, Value]:
    """Reconstruction term [c, 1], gaps to references [c, b], squared residual [c, d]."""
    settings = score.settings
    distance, gaps = _soft_distance(g, score, x)
    inverted = [_inverted(g, score, m, x) for m in range(score.n_members)]
    energy = _mean(g, [energy for energy, _ in inverted])  # [c, 1]
    residual = _mean(g, [square for _, square in inverted])  # [c, d]
    scale, share = 1.0 / (2.0 * settings.bandwidth**2), settings.inversion_share
    total = g.op(
        "Add",
        g.op("Mul", distance, g.constant((1.0 - share) * scale, np.float32)),
        g.op("Mul", energy, g.constant(share * scale, np.float32)),
    )
    return total, gaps, residual


def _shares(
    g: GraphBuilder,
    score: FrozenScore,
    x: Value,
    total: Value,
    energy: Value,
    gaps: Value,
    residual: Value,
) -> Value:
    """Share the reconstruction term among columns, [c, n_columns]; see `Attribution.share`.

    Only rows from `explained_from` on go through the costly views.
    """
    floors = g.constant(score.attribution.floors.numpy().reshape(1, -1))
    left = g.op(
        "Add", to_columns(g, score.feature_column.numpy(), score.n_columns, residual), floors
    )
    left = g.op("Div", left, row_sum(g, left, score.n_columns))
    least = g.constant(score.settings.explained_from, np.float32)
    rows = g.op("NonZero", g.op("Squeeze", g.op("GreaterOrEqual", total, least), g.ints(1)))
    rows = g.op("Reshape", rows, g.ints(-1))  # [k]

    def of(value: Value) -> Value:
        return g.op("Gather", value, rows, axis=0)

    blame, posterior = _views(g, score, of(x), of(gaps))
    blame = g.op("Add", blame, floors)
    blame = g.op("Div", blame, row_sum(g, blame, score.n_columns))
    posterior = g.op("Div", posterior, row_sum(g, posterior, score.n_columns))
    together = g.op("Add", g.op("Add", blame, posterior), of(left))
    part = g.op("Div", of(energy), g.constant(float(VIEWS), np.float32))
    explained = g.op("Mul", together, part)
    places = g.op("Reshape", rows, g.ints(-1, 1))
    return g.op("ScatterND", g.op("Mul", left, energy), places, explained)


def _soft_distance(g: GraphBuilder, score: FrozenScore, x: Value) -> tuple[Value, Value]:
    """Soft squared distance [c, 1] and gaps to references [c, b]; `Memory.soft_distance`."""
    memory = score.memory
    n_rows, width = memory.rows.shape
    variance, two = g.constant(memory.width**2, np.float64), g.constant(2.0, np.float64)
    x64 = g.op("Cast", x, to=_DOUBLE)
    rows64 = g.op("Cast", g.constant(_array(memory.rows), stem="memory"), to=_DOUBLE)
    log_kernel = g.op("Gemm", x64, rows64, g.constant(memory.bias.numpy()), transB=1)  # [c, a]
    largest = g.op("ReduceMax", log_kernel, g.ints(1), keepdims=1)  # [c, 1]
    relative = g.op("Div", g.op("Sub", log_kernel, largest), variance)
    total = row_sum(g, g.op("Exp", g.op("Cast", relative, to=_FLOAT)), n_rows)  # [c, 1]
    log_total = g.op("Log", g.op("Cast", total, to=_DOUBLE))
    log_sum = g.op("Add", largest, g.op("Mul", log_total, variance))
    norm = g.op("MatMul", g.op("Mul", x64, x64), g.constant(np.ones((width, 1))))
    energy = g.op("Sub", norm, g.op("Mul", log_sum, two))
    energy = g.op("Add", energy, g.constant(2.0 * memory.width**2 * memory.peak, np.float64))
    energy = g.op("Max", energy, g.constant(0.0, np.float64))
    some = g.op("Gather", log_kernel, g.constant(memory.references.numpy()), axis=1)
    gaps = g.op("Sub", norm, g.op("Mul", some, two))
    return g.op("Cast", energy, to=_FLOAT), g.op("Cast", gaps, to=_FLOAT)


def _views(g: GraphBuilder, score: FrozenScore, x: Value, gaps: Value) -> tuple[Value, Value]:
    """Blame by distance and posterior, [c, n_columns] each; see `Attribution.views`.

    All gaps are in units of the kernel's variance, and negative: what an exponential takes. A pass
    over [c, b] costs more than any other part of the graph, so there are as few as can be.
    """
    attribution, axis = score.attribution, g.ints(1)
    zero = g.constant(0.0, np.float32)
    nearest = g.op("ReduceMin", gaps, axis, keepdims=1)  # [c, 1]
    grown = g.op("Mul", g.op("Max", nearest, zero), g.constant(RELATIVE_VARIANCE, np.float32))
    variance = g.op("Add", grown, g.constant((REACH * attribution.width) ** 2, np.float32))
    steepness = g.op("Div", g.constant(-0.5, np.float32), variance)  # [c, 1]
    scaled = g.op("Mul", gaps, steepness)
    counts = attribution.counts.numpy().reshape(-1, 1)
    weights, shares = g.constant(counts), g.constant((counts / counts.sum()).astype(np.float32))
    without, around, marginal = [], [], []
    for features in (f for f in attribution.features if len(f)):
        gap = _gap(g, score, x, features.numpy(), steepness)  # [c, b]
        rest = g.op("Sub", scaled, gap)
        most = g.op("ReduceMax", rest, axis, keepdims=1)  # [c, 1]
        without.append(most)
        around.append(g.op("MatMul", g.op("Exp", g.op("Sub", rest, most)), weights))
        marginal.append(g.op("MatMul", g.op("Exp", gap), shares))
    rests = g.op("Concat", *without, axis=1)
    most = g.op("ReduceMax", rests, axis, keepdims=1)
    posterior = g.op("Mul", g.op("Exp", g.op("Sub", rests, most)), g.op("Concat", *around, axis=1))
    heard_of = g.op("Concat", *marginal, axis=1)
    heard_of = g.op("Add", heard_of, g.constant(UNHEARD_OF, np.float32))
    posterior = g.op("Mul", posterior, heard_of)
    nearer = g.op("Sub", rests, g.op("Mul", nearest, steepness))
    blame = g.op("Max", g.op("Div", nearer, g.op("Neg", steepness)), zero)
    return _spread(g, score, blame), _spread(g, score, posterior)


def _spread(g: GraphBuilder, score: FrozenScore, values: Value) -> Value:
    """Give columns without features their 0: [c, columns with features] -> [c, n_columns]."""
    columns = [i for i, f in enumerate(score.attribution.features) if len(f)]
    if len(columns) == score.n_columns:
        return values
    matrix = np.zeros((len(columns), score.n_columns), dtype=np.float32)
    matrix[np.arange(len(columns)), columns] = 1.0
    return g.op("MatMul", values, g.constant(matrix))


def _gap(
    g: GraphBuilder, score: FrozenScore, x: Value, features: NDArray[np.int64], steepness: Value
) -> Value:
    """Squared distances to the references in some features times `steepness`, [c, b]."""
    known = _array(score.attribution.references)[:, features]  # [b, k]
    if len(features) <= BY_DIFFERENCES:
        squares = []
        for j, feature in enumerate(features.tolist()):
            value = g.op("Gather", x, g.ints(feature), axis=1)  # [c, 1]
            gap = g.op("Sub", value, g.constant(known[:, j].reshape(1, -1)))
            squares.append(g.op("Mul", gap, gap))
        gap = squares[0] if len(squares) == 1 else g.op("Sum", *squares)
        return g.op("Mul", gap, steepness)
    values = g.op("Gather", x, g.constant(features), axis=1)  # [c, k]
    norm = row_sum(g, g.op("Mul", values, values), len(features))
    bias = np.square(known).sum(axis=1).reshape(1, -1)
    crossed = g.op("Gemm", values, g.constant(known.T), g.constant(bias), alpha=-2.0)
    return g.op("Mul", g.op("Add", crossed, norm), steepness)


def _inverted(g: GraphBuilder, score: FrozenScore, m: int, x: Value) -> tuple[Value, Value]:
    """Energy left after inverting one member from its code, [c, 1]; squared residual, [c, d]."""
    settings = score.settings.inversion
    net = _member(score.generator, m)
    pull = float(score.pull[m])
    direction = settings.learning_rate * _array(score.preconditioner[m]).T.astype(np.float64)
    # Folded into the last product of the backward pass: gradient, then direction.
    to_code = -(net.matrices[0].T.astype(np.float64) @ direction).astype(np.float32)
    to_start = -(pull * direction).astype(np.float32)
    start = mlp(g, x, _member(score.encoder, m))[-1]  # [c, k]
    h1, h2, out = mlp(g, start, net)
    first = residual = g.op("Sub", out, x)
    negated = g.op("Sub", g.constant(net.biases[2].ravel()), x)
    code, velocity = start, None
    momentum = g.constant(settings.momentum, np.float32)
    weight = [g.constant(w, stem="w") for w in net.matrices]
    for _ in range(settings.n_steps):
        back = g.op("Mul", g.op("Gemm", residual, weight[2], transB=1), _slope(g, h2))
        back = g.op("Mul", g.op("Gemm", back, weight[1], transB=1), _slope(g, h1))
        step = [back, g.constant(to_code)]
        if velocity is not None:
            moved = g.op("Sub", code, start)
            carried = g.op("Mul", velocity, momentum)
            step.append(g.op("Gemm", moved, g.constant(to_start), carried))
        velocity = g.op("Gemm", *step)
        code = g.op("Add", code, velocity)
        h1, h2 = hidden_layers(g, code, net)
        residual = g.op("Gemm", h2, weight[2], negated)
    return _keep_better(g, first, residual, g.op("Sub", code, start), pull, net)


def _slope(g: GraphBuilder, hidden: Value) -> Value:
    """Add the derivative of ELU, from its value."""
    return g.op(
        "Add", g.op("Min", hidden, g.constant(0.0, np.float32)), g.constant(1.0, np.float32)
    )


def _keep_better(
    g: GraphBuilder, first: Value, last: Value, moved: Value, pull: float, net: Network
) -> tuple[Value, Value]:
    """Energy and squared residual, of the start where the steps did not help."""
    latent_dim, width = len(net.matrices[0]), net.matrices[-1].shape[1]
    square_first, square_last = g.op("Mul", first, first), g.op("Mul", last, last)
    norm_first, norm_last = row_sum(g, square_first, width), row_sum(g, square_last, width)
    cost = row_sum(g, g.op("Mul", moved, moved), latent_dim)
    cost = g.op("Mul", cost, g.constant(pull, np.float32))
    energy_last = g.op("Add", norm_last, cost)
    better = g.op("Less", energy_last, norm_first)
    energy = g.op("Where", better, energy_last, norm_first)
    return energy, g.op("Where", better, square_last, square_first)
