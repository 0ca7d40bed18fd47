"""What a model states of itself: field by field, whether it can be what anomgan writes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

from anomgan.untrusted import JSON_BYTES

__all__ = ["MANIFEST", "PLAIN_NAME", "VERDICTS", "calibration_faults", "kind_of", "manifest_faults"]

MANIFEST: Final = "manifest.json"

PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""What a file of a model may be called."""

VERDICTS: Final = ("healthy", "degraded", "failed")
"""What training can be judged to be."""

_FILE_BYTES = 2 * 2**30  # the limit of one protobuf message, hence of scorer.onnx
_SHA256 = re.compile(r"[0-9a-f]{64}")


def kind_of(value: Any) -> str:
    """Say in JSON's words what a value is."""
    return {"dict": "an object", "list": "a list", "NoneType": "null"}.get(
        type(value).__name__, f"a {type(value).__name__}"
    )


def manifest_faults(content: Mapping[str, Any], types: Mapping[str, type]) -> Iterator[str]:
    """Say everything that is wrong with the fields of a manifest, one sentence each."""
    for name in sorted(set(content) - set(types)):
        yield f"unknown field {name!r}"
    for name, expected in types.items():
        if name not in content:
            yield f"field {name!r} is absent"
        elif not isinstance(content[name], expected):
            yield f"field {name!r} is {kind_of(content[name])}"
    health = content.get("health")
    if isinstance(health, dict):
        if health.get("verdict") not in VERDICTS:
            yield f"health verdict {health.get('verdict')!r} is none of {', '.join(VERDICTS)}"
        if not _are_texts(health.get("reasons", [])):
            yield "the reasons of the health verdict are no list of texts"
        if not _are_numbers(health.get("facts", {})):
            yield "the facts of the health verdict are no numbers by name"
    training = content.get("training")
    if isinstance(training, dict):
        if not _are_texts(training.get("notes", [])):
            yield "the notes on training are no list of texts"
        history = training.get("history", [])
        if not isinstance(history, list) or not all(map(_are_numbers, history)):
            yield "the history of training is no list of numbers by name"
    versions = content.get("library_versions")
    if isinstance(versions, dict) and not _are_texts(list(versions.values())):
        yield "the library versions are no texts"
    if isinstance(content.get("calibration"), dict):
        yield from calibration_faults(content["calibration"])
    yield from _file_faults(content.get("files"))


def _file_faults(files: Any) -> Iterator[str]:
    for name, record in files.items() if isinstance(files, dict) else ():
        if not PLAIN_NAME.fullmatch(name) or name == MANIFEST:
            yield f"{name!r} is no file name that a model may use"
        elif not isinstance(record, dict) or set(record) != {"sha256", "bytes"}:
            yield f"the record of {name} needs exactly sha256 and bytes"
        elif not _SHA256.fullmatch(str(record["sha256"])):
            yield f"the sha256 of {name} is not 64 hexadecimal digits"
        elif type(record["bytes"]) is not int or not 0 <= record["bytes"] <= _most_bytes(name):
            yield f"the size of {name} is not between 0 and {_most_bytes(name)} bytes"


def _most_bytes(name: str) -> int:
    return JSON_BYTES if name.endswith(".json") else _FILE_BYTES


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(type(v) in (int, float) for v in value.values())


def calibration_faults(stated: Mapping[str, Any]) -> Iterator[str]:
    """Say what is wrong with a stated ``Calibrator.summary()``; an empty one states nothing."""
    if not stated:
        return
    yield from _summary_faults(stated, "the calibration", also=("false_alarm_rate",))
    groups = stated.get("groups")
    if groups is None:
        return
    if not isinstance(groups, dict) or not isinstance(stated.get("by"), str):
        yield "the calibration by group lacks the column or the groups"
        return
    for name, group in groups.items():
        yield from _summary_faults(group, f"the calibration of the group {name!r}")


def _summary_faults(stated: Any, what: str, also: tuple[str, ...] = ()) -> Iterator[str]:
    if not isinstance(stated, dict):
        yield f"{what} is {kind_of(stated)}"
        return
    numbers: dict[str, Any] = {
        name: stated.get(name) for name in ("n", "resolution", "threshold", *also)
    }
    wrong = [name for name, value in numbers.items() if type(value) not in (int, float)]
    if wrong:
        yield f"{what} has no usable {' and no usable '.join(wrong)}"
    elif not (type(stated["n"]) is int and 0 < stated["n"] < 2**63):
        yield f"{what} has n {stated['n']}, which is no number of rows"
    elif not all(abs(value) <= sys.float_info.max for value in numbers.values()):
        yield f"{what} has numbers beyond a double"
    if not isinstance(stated.get("tail"), dict | None):
        yield f"the tail of {what} is {kind_of(stated['tail'])}"
