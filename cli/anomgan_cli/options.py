"""Options that several commands share, each defined once."""

from __future__ import annotations

import ast
import re
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

__all__ = [
    "Debug",
    "Delimiter",
    "Encoding",
    "FalseAlarmRate",
    "Model",
    "NormalLabels",
    "OnBadRow",
    "OutputFormat",
    "Precision",
    "Provider",
    "ProviderOption",
    "Quiet",
    "parse_duration",
    "parse_parameter",
    "time_left",
]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(s|m|min|h|)")


class OutputFormat(StrEnum):
    """What `score` writes."""

    CSV = "csv"
    PARQUET = "parquet"
    JSONL = "jsonl"


class OnBadRow(StrEnum):
    """What a row that cannot be read does."""

    ERROR = "error"
    SKIP = "skip"


class Precision(StrEnum):
    """What the networks of an exported scorer compute in."""

    FP32 = "fp32"
    FP16 = "fp16"


class Provider(StrEnum):
    """Where scores are computed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def time_left(max_time: float | None, started: float) -> float | None:
    """Return what reading and loading have left of `max_time` since `started`, in seconds."""
    if max_time is None:
        return None
    return max(1.0, max_time - (time.monotonic() - started))


def parse_duration(text: str) -> float:
    """Return seconds from ``90``, ``30s``, ``5m`` or ``1h``."""
    match = _DURATION.fullmatch(str(text).strip().lower())
    seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if seconds <= 0.0:
        raise typer.BadParameter(f"{text!r} is no time: give seconds (90), or 30s, 5m, 1h")
    return seconds


def parse_parameter(text: str) -> tuple[str, Any]:
    """Return name and value of ``n_steps=500`` or ``objective=hinge``."""
    from anomgan.errors import UsageError

    name, equals, value = text.partition("=")
    if not equals or not name.strip() or not value.strip():
        raise UsageError(f"--set {text}: KEY=VALUE is expected, as n_steps=500")
    try:
        return name.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return name.strip(), value.strip()  # a word, as objective=hinge


Model = Annotated[
    str,
    typer.Option("-m", "--model", metavar="DIR", help="Model directory."),
]
Delimiter = Annotated[
    str | None,
    typer.Option(metavar="CHAR", help="Delimiter of the CSV file; detected by default."),
]
Encoding = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Encoding of the CSV file, such as latin-1; else UTF-8."),
]
FalseAlarmRate = Annotated[
    float | None,
    typer.Option(
        metavar="RATE",
        help="Share of normal rows that may be flagged; 0.01 flags about one in a hundred.",
    ),
]
NormalLabels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="VALUE",
        help="Its value in normal rows; may be repeated. Not needed where labels are 0 and 1.",
    ),
]
ProviderOption = Annotated[
    Provider, typer.Option("--provider", help="Processor; auto takes CUDA where it works.")
]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
