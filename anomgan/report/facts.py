"""What a report says of the model and of its own making."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from anomgan import __version__
from anomgan.bundle import Bundle
from anomgan.report.chart import Grid
from anomgan.report.wording import grouped
from anomgan.serving.scorer import SCORER_FILE, Scorer
from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.schema import Schema

__all__ = ["ModelFacts", "Provenance", "schema_grid"]

_MOST_COLUMNS: Final = 200  # of a schema in the page; `anomgan inspect` has all
_MOST_CATEGORIES: Final = 6
_MAX_CHARS: Final = 40
_LIBRARIES: Final = ("onnxruntime-gpu", "onnxruntime", "numpy", "polars", "scikit-learn", "scipy")
_TRAINING_NAMES: Final[Mapping[str, str]] = {
    "source": "training table",
    "n_rows": "normal rows",
    "n_trained": "of which trained on",
    "n_calibration": "of which calibrate",
    "steps": "training steps",
    "training_seconds": "seconds of training",
    "fit_seconds": "seconds in all",
    "device": "device",
    "seed": "seed",
    "stopped_by_deadline": "stopped by --max-time",
}


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model.

    Parameters
    ----------
    name : str
        As it was named.
    schema : Schema
    rate : float
        The false-alarm rate that it decides at by itself.
    calibration : dict
        ``Calibrator.summary()``, or empty.
    created_at : str
        ISO 8601, or empty where only the scorer is known.
    health : str
        The verdict of training; empty where only the scorer is known.
    reasons : tuple of str
        Of the verdict.
    notes : tuple of str
        Of the training.
    training : tuple of (str, str)
        The facts that most readers want, by name; empty where only the scorer is known.
    details : Grid or None
        Parameters, training and calibration in full.
    versions : tuple of (str, str)
        That made it.
    checksums : Grid
        Files, bytes, sha256.
    """

    name: str
    schema: Schema
    rate: float
    calibration: Mapping[str, Any]
    created_at: str
    health: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    training: tuple[tuple[str, str], ...]
    details: Grid | None
    versions: tuple[tuple[str, str], ...]
    checksums: Grid

    @classmethod
    def of(cls, path: str | os.PathLike[str], scorer: Scorer) -> ModelFacts:
        """Read them from a model directory; a bare scorer knows less.

        Parameters
        ----------
        path : path-like
            What `scorer` was opened from, hence verified.
        scorer : Scorer
        """
        place, headers = Path(path), ("file", "bytes", "sha256")
        name, schema, rate = str(path), scorer.schema, scorer.false_alarm_rate
        if os.path.isfile(place):
            record = (place.name, grouped(place.stat().st_size), _sha256(place))
            files = Grid(headers, (record,))
            bare = (name, schema, rate, scorer.calibration, "", "", (), (), (), None, ())
            return cls(*bare, checksums=files)
        manifest = Bundle.open(place, verify=False).manifest
        training = manifest.training
        known = [(text, training[key]) for key, text in _TRAINING_NAMES.items() if key in training]
        everything = [
            *_flat(manifest.parameters, "parameters."),
            *_flat(training, "training."),
            *_flat(manifest.calibration, "calibration."),
        ]
        versions = {"anomgan": manifest.anomgan_version, **manifest.library_versions}
        records = sorted(manifest.files.items(), key=lambda entry: entry[0] != SCORER_FILE)
        return cls(
            *(name, schema, rate, scorer.calibration),
            created_at=manifest.created_at,
            health=manifest.health["verdict"],
            reasons=tuple(manifest.health.get("reasons", ())),
            notes=tuple(training.get("notes", ())),
            training=tuple((text, _fact(value)) for text, value in known),
            details=Grid(("name", "value"), tuple(everything)),
            versions=tuple(versions.items()),
            checksums=Grid(
                headers, tuple((n, grouped(r["bytes"]), r["sha256"]) for n, r in records)
            ),
        )


@dataclass(frozen=True)
class Provenance:
    """When a report was made, of what, and by what.

    Parameters
    ----------
    made_at : datetime
        With a time zone.
    table : str
        As it was named.
    table_sha256 : str
        Empty where the table is no file.
    provider : str
        onnxruntime provider that scored.
    seed : int or None
        Of intervals and baselines.
    versions : tuple of (str, str)
        That are installed.
    """

    made_at: datetime
    table: str
    table_sha256: str
    provider: str
    seed: int | None
    versions: tuple[tuple[str, str], ...]

    @classmethod
    def of(
        cls, table: str, scorer: Scorer, *, made_at: datetime, seed: int | None = None
    ) -> Provenance:
        """Look at the table and at what is installed."""
        sha256 = _sha256(Path(table)) if os.path.isfile(table) else ""
        provider = scorer.provider.removesuffix("ExecutionProvider")
        return cls(made_at, table, sha256, provider, seed, tuple(_installed()))


def _installed() -> Iterator[tuple[str, str]]:
    yield "anomgan", __version__
    for name in _LIBRARIES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    yield "Python", platform.python_version()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def schema_grid(schema: Schema) -> Grid:
    """Return the columns that the model reads, up to 200 of them."""
    rows = [
        (c.name, c.kind.value, _values(c), grouped(c.n_missing))
        for c in schema.columns[:_MOST_COLUMNS]
    ]
    return Grid(("column", "kind", "seen in training", "missing"), tuple(rows))


def _values(column: Column) -> str:
    if column.minimum is not None and column.maximum is not None:
        ends = (column.minimum, column.maximum)
        written = map(_moment if column.kind is ColumnKind.DATETIME else _number, ends)
        return " to ".join(written)
    shown = [v if len(v) <= _MAX_CHARS else v[:_MAX_CHARS] + "…" for v in column.categories]
    more = len(shown) - _MOST_CATEGORIES
    text = ", ".join(shown[:_MOST_CATEGORIES])
    return f"{text}, and {grouped(more)} more" if more > 0 else text


def _number(value: float) -> str:
    return f"{value:.6g}"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return f"{seconds:.6g} s since 1970"


def _flat(facts: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Name nested facts in full; records of many steps are left out."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif not (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
            yield f"{prefix}{name}", _fact(value)


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return grouped(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_fact(entry) for entry in value) or "none"
    return "none" if value is None else str(value)
