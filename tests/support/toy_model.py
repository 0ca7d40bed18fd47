"""A small scorer with the contract's ONNX interface and plain arithmetic, for tests of serving.

Contributions: a numeric column gives its squared standardised value (0 where missing), a
categorical one 0 for a category of training, 0.5 where missing and 3 for an unseen one; the
discriminator's share is 0.25. `toy_contributions` is the same in numpy.
"""

import io
import json

import numpy as np
import onnx
import polars as pl
from onnx import TensorProto, helper, numpy_helper

from anomgan.bundle import Bundle, Manifest
from anomgan.calibration import Calibrator
from anomgan.tables.readers import Batch
from anomgan.tables.schema import Schema, SchemaOptions

DISCRIMINATOR_SHARE = 0.25
UNSEEN = 3.0
MISSING = 0.5


def toy_table(n=400, seed=0):
    """Machine log: an id, two numbers, one category, one constant; some cells missing."""
    rng = np.random.default_rng(seed)
    pressure = rng.normal(100.0, 5.0, n)
    mode = rng.choice(["idle", "run", "clean"], n, p=[0.2, 0.7, 0.1])
    speed = rng.gamma(3, 2, n).round(3)
    return pl.DataFrame(
        {
            "part_id": [f"P{seed}-{i:05d}" for i in range(n)],
            "pressure": pressure.round(3),
            "mode": mode,
            "speed": [None if i % 50 == 7 else float(v) for i, v in enumerate(speed)],
            "plant": ["north"] * n,
        }
    )


def toy_contributions(schema, rows, mean, deviation, *, categories):
    """Twin of the graph: float32 [n, n_features + 1]."""
    z = ((rows.numeric - mean) / deviation).astype(np.float32)
    columns = dict(zip(schema.numeric_names, np.where(np.isnan(z), 0, z * z).T, strict=True))
    for j, name in enumerate(schema.categorical_names):
        known = set(categories[name])
        columns[name] = np.array(
            [
                MISSING if cell == "" else 0.0 if cell in known else UNSEEN
                for cell in rows.categorical[:, j]
            ]
        )
    parts = [columns[name] for name in schema.feature_names]
    parts.append(np.full(len(rows.numeric), DISCRIMINATOR_SHARE))
    return np.stack(parts, axis=1).astype(np.float32)


def toy_fit(frame, *, options=None, false_alarm_rate=0.01, tail=False, source="<toy>"):
    """Return (onnx bytes, schema, calibrator, probe arrays)."""
    schema = Schema.infer(frame, options or SchemaOptions(), source=source)
    rows = schema.rows(Batch(frame, 1, source))
    mean = np.nanmean(rows.numeric, axis=0)
    deviation = np.nanstd(rows.numeric, axis=0)
    categories = {c.name: c.categories for c in schema.columns if c.categories}
    contributions = toy_contributions(schema, rows, mean, deviation, categories=categories)
    scores = contributions.sum(axis=1, dtype=np.float32)
    calibrator = Calibrator.fit(scores, false_alarm_rate=false_alarm_rate, tail=tail)
    model = _graph(schema, mean, deviation, categories, calibrator)
    probe = {
        "numeric": rows.numeric[:16],
        "categorical": rows.categorical[:16].astype(np.str_),
        "score": scores[:16],
        "p_value": calibrator.p_values(scores[:16]),
    }
    return model.SerializeToString(), schema, calibrator, probe


def toy_bundle(path, frame=None, *, overwrite=False, **options):
    """Save a toy model and return its Bundle."""
    frame = toy_table() if frame is None else frame
    model, schema, calibrator, probe = toy_fit(frame, **options)
    manifest = Manifest(
        schema=schema.to_dict(),
        parameters={"n_members": 1},
        training={"rows": frame.height, "seconds": 0.1, "source": "<toy>"},
        calibration=calibrator.summary(),
    )
    files = {
        "scorer.onnx": model,
        "weights.safetensors": b"",
        "calibration.npz": _npz(calibrator.arrays()),
        "probe.npz": _npz(probe),
    }
    return Bundle.save(path, files=files, manifest=manifest, overwrite=overwrite)


def _npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _graph(schema, mean, deviation, categories, calibrator):
    constants = {
        "mean": mean.astype(np.float64),
        "deviation": deviation.astype(np.float64),
        "zero": np.array(0, np.float32),
        "one": np.array(1, np.float32),
        "share": np.array(DISCRIMINATOR_SHARE, np.float32),
        "axis1": np.array([1], np.int64),
        "calibration": calibrator.raised[None, :],
        "n_plus_one": np.array(calibrator.n + 1, np.float32),
        "false_alarm_rate": np.array(calibrator.false_alarm_rate, np.float32),
    }
    nodes, inputs, blocks = [], [], []
    if schema.numeric_names:
        inputs.append(("numeric", TensorProto.DOUBLE, ["N", len(schema.numeric_names)]))
        nodes += [
            helper.make_node("Sub", ["numeric", "mean"], ["centred"]),
            helper.make_node("Div", ["centred", "deviation"], ["scaled"]),
            helper.make_node("Cast", ["scaled"], ["z"], to=TensorProto.FLOAT),
            helper.make_node("IsNaN", ["z"], ["absent"]),
            helper.make_node("Mul", ["z", "z"], ["z2"]),
            helper.make_node("Where", ["absent", "zero", "z2"], ["numeric_part"]),
        ]
        blocks.append("numeric_part")
    if schema.categorical_names:
        inputs.append(("categorical", TensorProto.STRING, ["N", len(schema.categorical_names)]))
    for j, name in enumerate(schema.categorical_names):
        constants[f"column{j}"] = np.array([j], np.int64)
        nodes += [
            helper.make_node("Gather", ["categorical", f"column{j}"], [f"cells{j}"], axis=1),
            helper.make_node(
                "LabelEncoder",
                [f"cells{j}"],
                [f"part{j}"],
                domain="ai.onnx.ml",
                keys_strings=["", *categories[name]],
                values_floats=[MISSING, *[0.0] * len(categories[name])],
                default_float=UNSEEN,
            ),
        ]
        blocks.append(f"part{j}")
    in_blocks = (*schema.numeric_names, *schema.categorical_names)
    order = [in_blocks.index(name) for name in schema.feature_names]
    constants["order"] = np.array(order, np.int64)
    nodes += [
        helper.make_node("Concat", blocks, ["unordered"], axis=1),
        helper.make_node("Gather", ["unordered", "order"], ["columns"], axis=1),
        helper.make_node("ReduceSum", ["columns", "axis1"], ["column_sum"], keepdims=1),
        helper.make_node("Mul", ["column_sum", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "share"], ["last"]),
        helper.make_node("Concat", ["columns", "last"], ["contributions"], axis=1),
        helper.make_node("ReduceSum", ["contributions", "axis1"], ["score"], keepdims=0),
        helper.make_node("Unsqueeze", ["score", "axis1"], ["score_column"]),
        helper.make_node("GreaterOrEqual", ["calibration", "score_column"], ["at_least"]),
        helper.make_node("Cast", ["at_least"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["ones", "axis1"], ["count"], keepdims=0),
        helper.make_node("Add", ["count", "one"], ["count_plus_one"]),
        helper.make_node("Div", ["count_plus_one", "n_plus_one"], ["p_value"]),
        helper.make_node("LessOrEqual", ["p_value", "false_alarm_rate"], ["is_anomaly"]),
    ]
    width = len(schema.feature_names) + 1
    outputs = [
        ("score", TensorProto.FLOAT, ["N"]),
        ("p_value", TensorProto.FLOAT, ["N"]),
        ("is_anomaly", TensorProto.BOOL, ["N"]),
        ("contributions", TensorProto.FLOAT, ["N", width]),
    ]
    inputs.append(("false_alarm_rate", TensorProto.FLOAT, []))
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    helper.set_model_props(
        model,
        {
            "anomgan.format_version": "1",
            "anomgan.schema": json.dumps(schema.to_dict()),
            "anomgan.version": "0.1.0",
            "anomgan.created_at": "2026-01-01T00:00:00+00:00",
            "anomgan.feature_names": json.dumps([*schema.feature_names, "discriminator"]),
            "anomgan.threshold": repr(calibrator.threshold()),
            "anomgan.false_alarm_rate": repr(calibrator.false_alarm_rate),
        },
    )
    onnx.checker.check_model(model, full_check=True)
    return model
