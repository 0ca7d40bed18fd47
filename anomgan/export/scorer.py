"""One ONNX file that scores raw columns: encode, invert, judge.

The graph repeats `anomgan.scoring.frozen.FrozenScore` node by node; `anomgan.export.parity`
checks that both say the same. Rows pass in tiles of at most `TILE` rows inside a `Scan`, so
that memory does not grow with the batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from anomgan.export.encode import add_encoder
from anomgan.export.flagship import add_flagship
from anomgan.export.graph import IR_VERSION, ML_OPSET, OPSET, GraphBuilder, Value, row_sum
from anomgan.export.p_value import add_group_code, add_grouped_p_value, add_p_value
from anomgan.export.program import add_program
from anomgan.groups import AnyCalibrator, GroupedCalibrator
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.program import ProgramScore, RowScore
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Schema

__all__ = ["STRIP", "TILE", "build_scorer"]

TILE = 256
"""Most rows of a pass: so many that a node costs more than its call."""
STRIP = 32
"""Most rows of a pass over all known rows, whose results have to fit into the processor's cache."""

_SMALL = 1 << 20
"""Bytes of weights up to which a score is small."""
_UNUSED = ("memory_rows", "memory_counts", "feature_column")
"""Tensors that a score of the literature keeps for explanations; its graph has none of them."""

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
    scores, p_values, contributions = _scored(g, score, calibrator, features, surprise, group)
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


def _scored(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    features: Value,
    surprise: Value,
    group: Value | None,
) -> tuple[Value, Value, Value]:
    """Score in tiles; where the score is small, rows of one tile are scored without a scan.

    Cutting tiles and scanning them takes about as long as a small network does for a single row.
    The weights then stand in the graph twice.
    """
    small = sum(t.nbytes for name, t in score.tensors().items() if name not in _UNUSED)
    if isinstance(score, FrozenScore) or small > _SMALL:
        return _tiled(g, score, calibrator, features, surprise, group)
    direct, tiled = GraphBuilder(g), GraphBuilder(g)
    groups = () if group is None else (group,)
    branches = [
        (direct, _rows(direct, score, calibrator, features, surprise, *groups)),
        (tiled, _tiled(tiled, score, calibrator, features, surprise, group)),
    ]
    shapes: tuple[list[str | int], ...] = (["N"], ["N"], ["N", score.n_columns + 1])
    then, otherwise = (
        branch.graph(
            name,
            [],
            [
                # A branch's output cannot be one of its inputs: a name of its own.
                helper.make_tensor_value_info(branch.op("Identity", value), _FLOAT, shape)
                for value, shape in zip(values, shapes, strict=True)
            ],
        )
        for name, (branch, values) in zip(("direct", "tiled"), branches, strict=True)
    )
    n = g.op("Squeeze", g.op("Shape", features, start=0, end=1))
    few = g.op("LessOrEqual", n, g.constant(TILE, np.int64))
    scores, p_values, contributions = g.multi(
        "If", few, outputs=3, then_branch=then, else_branch=otherwise
    )
    return scores, p_values, contributions


def _tiled(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    features: Value,
    surprise: Value,
    group: Value | None,
) -> tuple[Value, Value, Value]:
    """Score in tiles: pad to M tiles of S strips of r rows, scan, cut the padding off."""
    n = g.op("Shape", features, start=0, end=1)  # [1]
    cut = _cutter(g, n)
    n_columns = score.n_columns
    scanned = [cut(features, len(score.feature_column)), cut(surprise, n_columns)]
    tile = [
        helper.make_tensor_value_info("tile_x", _FLOAT, ["s", "r", len(score.feature_column)]),
        helper.make_tensor_value_info("tile_s", _FLOAT, ["s", "r", n_columns]),
    ]
    if group is not None:
        scanned.append(cut(group, 1))
        tile.append(helper.make_tensor_value_info("tile_g", TensorProto.INT64, ["s", "r", 1]))
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


def _cutter(g: GraphBuilder, n: Value) -> Callable[[Value, int], Value]:
    """Return what cuts a value [N, width] into tiles, [M, S, r, width]; their sizes are even."""
    one = g.ints(1)

    def parts(whole: Value, most: int) -> Value:
        last = g.op("Add", whole, g.ints(most - 1))
        return g.op("Max", g.op("Div", last, g.ints(most)), one)

    def share(whole: Value, count: Value) -> Value:
        up = g.op("Sub", g.op("Add", whole, count), one)
        return g.op("Max", g.op("Div", up, count), one)

    tiles = parts(n, TILE)
    rows = share(n, tiles)
    strips = parts(rows, STRIP)
    rows = share(rows, strips)
    whole = g.op("Mul", g.op("Mul", tiles, strips), rows)
    padding = g.op("Concat", g.ints(0, 0), g.op("Sub", whole, n), g.ints(0), axis=0)

    def cut(value: Value, width: int) -> Value:
        shape = g.op("Concat", tiles, strips, rows, g.ints(width), axis=0)
        return g.op("Reshape", g.op("Pad", value, padding), shape)

    return cut


def _tile(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    x: Value,
    surprise: Value,
    *group: Value,
) -> tuple[Value, Value, Value]:
    """Score one tile: score [c], p-value [c], contributions [c, n_columns + 1], c = S r."""
    flat = _flat(g, x, len(score.feature_column))
    surprise = _flat(g, surprise, score.n_columns)
    group = tuple(_flat(g, code, 1) for code in group)
    return _rows(g, score, calibrator, flat, surprise, *group, strips=x)


def _rows(
    g: GraphBuilder,
    score: RowScore,
    calibrator: AnyCalibrator,
    x: Value,
    surprise: Value,
    *group: Value,
    strips: Value | None = None,
) -> tuple[Value, Value, Value]:
    """Score rows [c, d], see `_tile`; the flagship wants them in strips, too."""
    states = row_sum(g, surprise, score.n_columns)
    if isinstance(score, FrozenScore) and strips is not None:
        total, columns, whole = add_flagship(g, score, strips, x, states)
    elif isinstance(score, ProgramScore):
        total, columns, whole = add_program(g, score, x, states)
    else:
        raise TypeError(f"a {type(score).__name__} cannot be exported")
    contributions = g.op("Concat", g.op("Add", columns, surprise), whole, axis=1)
    total = g.op("Squeeze", total, g.ints(1))
    if isinstance(calibrator, GroupedCalibrator):
        return total, add_grouped_p_value(g, calibrator, total, *group), contributions
    return total, add_p_value(g, calibrator, total), contributions


def _flat(g: GraphBuilder, strips: Value, width: int) -> Value:
    return g.op("Reshape", strips, g.ints(-1, width))
