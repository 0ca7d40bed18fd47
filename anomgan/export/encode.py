"""The encoder in the graph: raw numbers and texts to features and surprise.

Same arithmetic as `anomgan.tables.encoding.FeatureEncoder.transform`, node by node.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto

from anomgan.export.graph import GraphBuilder, Value
from anomgan.tables import MISSING_TOKENS
from anomgan.tables.encoding import (
    COSINE,
    FAR,
    PERIODS_S,
    SINE,
    CategoryTable,
    FeatureEncoder,
)

__all__ = ["add_encoder"]


def add_encoder(
    g: GraphBuilder, encoder: FeatureEncoder, numeric: Value | None, categorical: Value | None
) -> tuple[Value, Value]:
    """Add the encoder; return features float32 [N, d] and surprise float32 [N, n_columns].

    Parameters
    ----------
    g : GraphBuilder
    encoder : FeatureEncoder
    numeric : Value or None
        float64 [N, n_numeric]; None where there is no such column.
    categorical : Value or None
        string [N, n_categorical].
    """
    blocks: list[Value] = []
    surprises: list[Value] = []
    if numeric is not None:
        if encoder.phases:
            numeric = _without_endless_dates(g, encoder, numeric)
        missing = g.op("IsNaN", numeric)
        if len(encoder.value_columns):
            blocks.append(_values(g, encoder, numeric, missing))
        if len(encoder.extra_mean):
            blocks.append(_extras(g, encoder, numeric, missing))
        rate = g.constant(encoder.missing_surprise, np.float32)
        surprises.append(g.op("Mul", g.op("Cast", missing, to=TensorProto.FLOAT), rate))
    if categorical is not None:
        for j, table in enumerate(encoder.tables):
            features, surprise = _category(g, table, categorical, j)
            blocks.append(features)
            surprises.append(surprise)
    features = blocks[0] if len(blocks) == 1 else g.op("Concat", *blocks, axis=1)
    surprise = surprises[0] if len(surprises) == 1 else g.op("Concat", *surprises, axis=1)
    # Columns stand by input here (numbers, then texts); contributions stand in schema order.
    order = np.argsort(np.concatenate([encoder.numeric_position, encoder.categorical_position]))
    if not np.array_equal(order, np.arange(len(order))):
        surprise = g.op("Gather", surprise, g.constant(order, np.int64), axis=1)
    return features, surprise


def _without_endless_dates(g: GraphBuilder, encoder: FeatureEncoder, numeric: Value) -> Value:
    """Take infinite dates, which have no time of day, for missing ones."""
    dates = np.ones((1, len(encoder.numeric_position)), dtype=bool)
    dates[0, encoder.value_columns] = False
    endless = g.op("And", g.op("IsInf", numeric), g.constant(dates))
    return g.op("Where", endless, g.constant(np.nan, np.float64), numeric)


def _values(g: GraphBuilder, encoder: FeatureEncoder, numeric: Value, missing: Value) -> Value:
    values, absent = numeric, missing
    if not np.array_equal(encoder.value_columns, np.arange(len(encoder.numeric_position))):
        columns = g.constant(encoder.value_columns, np.int64)
        values = g.op("Gather", numeric, columns, axis=1)
        absent = g.op("Gather", missing, columns, axis=1)
    values = g.op("Where", absent, g.constant(encoder.fill, np.float64), values)
    values = g.op("Sub", values, g.constant(encoder.mean, np.float64))
    # A true division: multiplying by the reciprocal rounds differently.
    values = g.op("Div", values, g.constant(encoder.scale, np.float64))
    low, high = g.constant(-FAR, np.float64), g.constant(FAR, np.float64)
    return g.op("Cast", g.op("Clip", values, low, high), to=TensorProto.FLOAT)


def _extras(g: GraphBuilder, encoder: FeatureEncoder, numeric: Value, missing: Value) -> Value:
    blocks = []
    if len(encoder.indicator_columns):
        columns = g.constant(encoder.indicator_columns, np.int64)
        absent = g.op("Gather", missing, columns, axis=1)
        blocks.append(g.op("Cast", absent, to=TensorProto.DOUBLE))
    for phase in encoder.phases:
        column = g.ints(phase.column)
        seconds = g.op("Gather", numeric, column, axis=1)
        cycles = g.op("Div", seconds, g.constant(PERIODS_S[phase.period], np.float64))
        turns = g.op("Sub", cycles, g.op("Floor", cycles))
        wave = g.op("Concat", *_sine_and_cosine(g, turns), axis=1)
        absent = g.op("Gather", missing, column, axis=1)
        blocks.append(g.op("Where", absent, g.constant(0.0, np.float64), wave))
    extra = blocks[0] if len(blocks) == 1 else g.op("Concat", *blocks, axis=1)
    extra = g.op("Sub", extra, g.constant(encoder.extra_mean, np.float64))
    extra = g.op("Div", extra, g.constant(encoder.extra_scale, np.float64))
    return g.op("Cast", extra, to=TensorProto.FLOAT)


def _sine_and_cosine(g: GraphBuilder, turns: Value) -> tuple[Value, Value]:
    """Add what `anomgan.tables.encoding.sine_and_cosine` computes, operation by operation."""
    half = g.constant(0.5, np.float64)
    centred = g.op("Sub", turns, g.op("Floor", g.op("Add", turns, half)))
    angle = g.op("Mul", centred, g.constant(2.0 * math.pi, np.float64))
    square = g.op("Mul", angle, angle)

    def polynomial(coefficients: tuple[float, ...]) -> Value:
        value = g.constant(coefficients[0], np.float64)
        for coefficient in coefficients[1:]:
            value = g.op("Mul", value, square)
            value = g.op("Add", value, g.constant(coefficient, np.float64))
        return value

    return g.op("Mul", polynomial(SINE), angle), polynomial(COSINE)


def _category(
    g: GraphBuilder, table: CategoryTable, categorical: Value, j: int
) -> tuple[Value, Value]:
    text = g.op("Gather", categorical, g.constant(j, np.int64), axis=1)  # [N]
    keys = dict.fromkeys((*MISSING_TOKENS, ""), 1)
    for category, code in table.codes.items():
        # anomgan strips texts; a client that feeds raw cells may leave a blank around them.
        for spelling in (category, f" {category}", f"{category} "):
            keys.setdefault(spelling, code)
        keys[category] = code
    index = g.op(
        "LabelEncoder",
        text,
        domain="ai.onnx.ml",
        keys_strings=list(keys),
        values_int64s=list(keys.values()),
        default_int64=0,
    )
    features = g.op("Gather", g.constant(table.features, np.float32), index, axis=0)
    surprise = g.op("Gather", g.constant(table.surprise.reshape(-1, 1), np.float32), index, axis=0)
    return features, surprise
