"""What a ``scorer.onnx`` must state and offer before rows are given to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from anomgan.bundle import FORMAT_VERSION, Bundle
from anomgan.calibration import require_rate
from anomgan.errors import InputError, ModelCorruptError, ModelError
from anomgan.serving.verdicts import DISCRIMINATOR
from anomgan.statements import calibration_faults
from anomgan.tables.profile import Profile
from anomgan.tables.schema import Schema
from anomgan.untrusted import parse_json

__all__ = [
    "OUTPUTS",
    "read_calibration",
    "read_metadata",
    "read_model",
    "read_profile",
    "require_interface",
    "stated_metadata",
]

_PROFILE_FILE: Final = "profile.json"
_MODEL_BYTES: Final = 2**31  # the limit of one protobuf message
_VERSION: Final = re.compile(r"[0-9]{1,9}")

OUTPUTS: Final = ("score", "p_value", "is_anomaly", "contributions")
"""Outputs of the graph, in the order of the fields of Verdicts."""

_OUTPUT_TYPES: Final = ("tensor(float)", "tensor(float)", "tensor(bool)", "tensor(float)")


def read_model(path: Path) -> bytes:
    """Content of a bare scorer.

    Raises
    ------
    ModelError
        The file cannot be read.
    ModelCorruptError
        It has more bytes than an ONNX model can have.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MODEL_BYTES + 1)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > _MODEL_BYTES:
        raise ModelCorruptError(f"{path} has more than {_MODEL_BYTES} bytes: no ONNX model has")
    return content


def read_profile(bundle: Bundle) -> Profile | None:
    """Read the profile of the training rows; models of an earlier anomgan have none.

    Raises
    ------
    ModelCorruptError
        It is damaged, or not of this model.
    """
    if _PROFILE_FILE not in bundle.names:
        return None
    content = bundle.read(_PROFILE_FILE)
    try:
        profile = Profile.from_dict(parse_json(content, _PROFILE_FILE))
        profile.require_schema(Schema.from_dict(bundle.manifest.schema))
    except (InputError, ModelCorruptError) as error:
        raise ModelCorruptError(
            f"{bundle.file(_PROFILE_FILE)} is damaged: {error}; fit the model again"
        ) from error
    return profile


def stated_metadata(session: ort.InferenceSession, source: str) -> dict[str, str]:
    """Return the metadata of a graph.

    Raises
    ------
    ModelCorruptError
        They are no texts.
    """
    try:
        return dict(session.get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise ModelCorruptError(f"the metadata of {source} is damaged: {error}") from error


def read_metadata(
    metadata: Mapping[str, str], source: str
) -> tuple[Schema, tuple[str, ...], float]:
    """Read the schema, the contributions' names and the default rate that a graph carries.

    Raises
    ------
    ModelCorruptError
        Not made by anomgan, by a newer one, or damaged.
    """
    if "anomgan.schema" not in metadata:
        raise ModelCorruptError(
            f"{source} is an ONNX model, but no scorer made by anomgan (it carries no "
            "anomgan.schema)"
        )
    version = metadata.get("anomgan.format_version", "")
    if not _VERSION.fullmatch(version) or int(version) > FORMAT_VERSION:
        raise ModelCorruptError(
            f"{source} has format {version or 'unknown'} and this anomgan reads up to "
            f"{FORMAT_VERSION}; upgrade anomgan to use this model"
        )
    try:
        schema = Schema.from_dict(parse_json(metadata["anomgan.schema"], "anomgan.schema"))
        listed = parse_json(metadata["anomgan.feature_names"], "anomgan.feature_names")
        names = tuple(map(str, listed))
        rate = float(metadata["anomgan.false_alarm_rate"])
        require_rate(rate, n=0, has_tail=True)
    except (ModelCorruptError, KeyError, TypeError, ValueError) as error:
        raise ModelCorruptError(f"the metadata of {source} is damaged: {error}") from error
    expected = (*schema.feature_names, DISCRIMINATOR)
    if names not in (expected, schema.feature_names):
        raise ModelCorruptError(
            f"the metadata of {source} is damaged: its feature names are not those of its schema"
        )
    return schema, expected, rate


def read_calibration(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Read the calibration that a graph states; the first ones stated none, which gives {}.

    Raises
    ------
    ModelCorruptError
        It is damaged.
    """
    text = metadata.get("anomgan.calibration", "{}")
    stated = parse_json(text, f"{source}, anomgan.calibration")
    faults = list(calibration_faults(stated)) if isinstance(stated, dict) else ["it is no object"]
    if faults:
        raise ModelCorruptError(f"the metadata of {source} is damaged: {'; '.join(faults)}")
    return dict(stated)


def require_interface(session: ort.InferenceSession, schema: Schema, source: str) -> None:
    """Check inputs and outputs by name, type and width.

    Raises
    ------
    ModelCorruptError
        All that does not fit, together.
    """
    wanted = {
        "numeric": ("tensor(double)", len(schema.numeric_names)),
        "categorical": ("tensor(string)", len(schema.categorical_names)),
    }
    needed = {name: expected for name, expected in wanted.items() if expected[1]}
    inputs = {value.name: value for value in session.get_inputs()}
    optional = {value.name for value in session.get_overridable_initializers()}
    outputs = {value.name: value for value in session.get_outputs()}
    faults = [
        f"an input {name!r} that no column feeds" for name in sorted(set(inputs) - set(needed))
    ]
    if "false_alarm_rate" not in optional:
        faults.append("no optional input 'false_alarm_rate'")
    for name, (kind, width) in needed.items():
        if name not in inputs:
            faults.append(f"no input {name!r}")
        elif inputs[name].type != kind or inputs[name].shape[1:] != [width]:
            faults.append(f"an input {name!r} that is not {kind} [N, {width}]")
    for name, kind in zip(OUTPUTS, _OUTPUT_TYPES, strict=True):
        if name not in outputs or outputs[name].type != kind:
            faults.append(f"no output {name!r} of {kind}")
    if faults:
        raise ModelCorruptError(f"{source} is no scorer that fits its schema: " + "; ".join(faults))
