"""One ONNX file that scores raw columns: encode, invert, judge.

The graph repeats `anomgan.scoring.frozen.FrozenScore` node by node; `anomgan.export.parity`
checks that both say the same. Rows pass in tiles of at most `Precision.tile` rows inside a
`Scan`, so that memory does not grow with the batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from anomgan.export.encode import add_encoder
from anomgan.export.flagship import add_flagship
from anomgan.export.graph import IR_VERSION, ML_OPSET, OPSET, GraphBuilder, Value
from anomgan.export.p_value import add_group_code, add_grouped_p_value, add_p_value
from anomgan.export.precision import FP32, Precision
from anomgan.export.program import add_program
from anomgan.groups import AnyCalibrator, GroupedCalibrator
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.program import ProgramScore, RowScore
from anomgan.tables.encoding import FeatureEncoder
from anomgan.tables.schema import Schema

__all__ = ["build_row_scorer", "build_scorer"]

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
    precision: Precision = FP32,
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
    precision : Precision
        Other than `FP32` for a FrozenScore alone.

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
    groups, group = None, None
    if isinstance(calibrator, GroupedCalibrator):
        groups, group = calibrator, add_group_code(g, calibrator, schema, "categorical")
    scores, p_values, contributions = _scored(
        g, _Judged(score, features, surprise, precision, groups, group), calibrator
    )
    for value, name in ((scores, "score"), (p_values, "p_value"), (contributions, "contributions")):
        g.rename(value, name)
    g.rename(g.op("LessOrEqual", "p_value", rate), "is_anomaly")
    outputs = [
        helper.make_tensor_value_info("score", _FLOAT, ["N"]),
        helper.make_tensor_value_info("p_value", _FLOAT, ["N"]),
        helper.make_tensor_value_info("is_anomaly", TensorProto.BOOL, ["N"]),
        helper.make_tensor_value_info("contributions", _FLOAT, ["N", encoder.n_columns + 1]),
    ]
    return _serialised(g, inputs, outputs, _metadata(schema, calibrator, metadata))


def build_row_scorer(score: FrozenScore, precision: Precision) -> bytes:
    """Build a graph of the score alone.

    Inputs are encoded rows, ``features`` float32 [N, d] and ``surprise`` float32 [N, n_columns];
    the output is ``score``, float32 [N, 1].
    """
    g = GraphBuilder()
    widths = {"features": len(score.feature_column), "surprise": score.n_columns}
    inputs = [
        helper.make_tensor_value_info(name, _FLOAT, ["N", width]) for name, width in widths.items()
    ]
    scores, _ = _tiled(g, _Judged(score, "features", "surprise", precision))
    g.rename(scores, "score")
    output = helper.make_tensor_value_info("score", _FLOAT, ["N", 1])
    return _serialised(g, inputs, [output], {})


def _serialised(
    g: GraphBuilder,
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
) -> bytes:
    model = helper.make_model(
        g.graph("anomgan", inputs, outputs),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
        producer_name="anomgan",
    )
    helper.set_model_props(model, dict(metadata))
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
    g: GraphBuilder, judged: _Judged, calibrator: AnyCalibrator
) -> tuple[Value, Value, Value]:
    """Score [N], p-value [N], contributions [N, n_columns + 1] of encoded rows."""
    score = judged.score
    small = sum(t.nbytes for name, t in score.tensors().items() if name not in _UNUSED)
    if isinstance(score, FrozenScore) or small > _SMALL:
        values = _tiled(g, judged)
    else:
        values = _tiled_if_many(g, judged)
    column, contributions, *p_values = values
    if isinstance(calibrator, GroupedCalibrator):
        (p_value,) = p_values
    else:
        p_value = add_p_value(g, calibrator, column)
    axis = g.ints(1)
    return g.op("Squeeze", column, axis), g.op("Squeeze", p_value, axis), contributions


@dataclass(frozen=True)
class _Judged:
    """What scores the rows, and the rows: features [N, d], surprise [N, n_columns], group [N, 1].

    The p-values of groups are counted pass by pass, as each row gathers all scores of its own
    group; without groups they take less memory than the rows, and are counted at the end.
    """

    score: RowScore
    features: Value
    surprise: Value
    precision: Precision
    groups: GroupedCalibrator | None = None
    group: Value | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of the values that come out: score, contributions and, with groups, p-value."""
        own = (1, self.score.n_columns + 1)
        return own if self.group is None else (*own, 1)

    def typed(self, names: Sequence[Value], rows: str) -> list[onnx.ValueInfoProto]:
        """Declare the values that come out."""
        return [
            helper.make_tensor_value_info(name, _FLOAT, [rows, width])
            for name, width in zip(names, self.widths, strict=True)
        ]


def _tiled_if_many(g: GraphBuilder, judged: _Judged) -> tuple[Value, ...]:
    """Score few rows by a small score without a scan, see `_tiled`.

    Cutting tiles and scanning them takes about as long as a small network does for a single row.
    The weights then stand in the graph twice.
    """
    direct, tiled = GraphBuilder(g), GraphBuilder(g)
    groups = () if judged.group is None else (judged.group,)
    branches = {
        "direct": (direct, _rows(direct, judged, judged.features, judged.surprise, *groups)),
        "tiled": (tiled, _tiled(tiled, judged)),
    }
    then, otherwise = (
        branch.graph(name, [], judged.typed(values, "N"))
        for name, (branch, values) in branches.items()
    )
    n = g.op("Shape", judged.features, start=0, end=1)  # [1]
    few = g.op("LessOrEqual", n, g.ints(judged.precision.tile))
    return g.multi("If", few, outputs=len(judged.widths), then_branch=then, else_branch=otherwise)


def _tiled(g: GraphBuilder, judged: _Judged) -> tuple[Value, ...]:
    """Score in tiles: pad to M tiles of S strips of r rows, scan, cut the padding off."""
    n = g.op("Shape", judged.features, start=0, end=1)  # [1]
    cut = _cutter(g, n, judged.precision)
    inputs = [
        ("tile_x", judged.features, _FLOAT, len(judged.score.feature_column)),
        ("tile_s", judged.surprise, _FLOAT, judged.score.n_columns),
    ]
    if judged.group is not None:
        inputs.append(("tile_g", judged.group, TensorProto.INT64, 1))
    body = GraphBuilder(g)
    flat = [body.op("Reshape", name, body.ints(-1, width)) for name, _, _, width in inputs]
    values = _rows(body, judged, *flat, strips="tile_x")
    inner = body.graph(
        "tile",
        [
            helper.make_tensor_value_info(name, kind, ["s", "r", width])
            for name, _, kind, width in inputs
        ],
        judged.typed(values, "c"),
    )
    scanned = [cut(value, width) for _, value, _, width in inputs]
    outputs = g.multi(
        "Scan", *scanned, outputs=len(values), body=inner, num_scan_inputs=len(scanned)
    )

    def joined(value: Value, width: int) -> Value:
        return g.op("Slice", g.op("Reshape", value, g.ints(-1, width)), g.ints(0), n, g.ints(0))

    return tuple(joined(value, width) for value, width in zip(outputs, judged.widths, strict=True))


def _cutter(g: GraphBuilder, n: Value, precision: Precision) -> Callable[[Value, int], Value]:
    """Return what cuts a value [N, width] into tiles, [M, S, r, width]; their sizes are even."""
    one, most = g.ints(1), g.ints(precision.tile // precision.strip)

    def up(whole: Value, size: Value) -> Value:
        """Divide, rounding up; at least 1."""
        return g.op("Max", g.op("Div", g.op("Add", whole, g.op("Sub", size, one)), size), one)

    in_all = up(n, g.ints(precision.strip))
    tiles, strips = up(in_all, most), g.op("Min", in_all, most)
    in_all = g.op("Mul", tiles, strips)
    rows = up(n, in_all)
    whole = g.op("Mul", in_all, rows)
    padding = g.op("Concat", g.ints(0, 0), g.op("Sub", whole, n), g.ints(0), axis=0)

    def cut(value: Value, width: int) -> Value:
        shape = g.op("Concat", tiles, strips, rows, g.ints(width), axis=0)
        return g.op("Reshape", g.op("Pad", value, padding), shape)

    return cut


def _rows(
    g: GraphBuilder,
    judged: _Judged,
    x: Value,
    surprise: Value,
    *group: Value,
    strips: Value | None = None,
) -> tuple[Value, ...]:
    """Score rows [c, d]; see `_Judged.widths`. The flagship wants them in strips [S, r, d], too."""
    score = judged.score
    if isinstance(score, FrozenScore) and strips is not None:
        total, contributions = add_flagship(g, score, strips, x, surprise, judged.precision)
    elif isinstance(score, ProgramScore) and not judged.precision.is_half:
        total, contributions = add_program(g, score, x, surprise)
    else:
        raise TypeError(f"a {type(score).__name__} cannot be exported in {judged.precision.name}")
    if judged.groups is not None:
        return total, contributions, add_grouped_p_value(g, judged.groups, total, *group)
    return total, contributions
