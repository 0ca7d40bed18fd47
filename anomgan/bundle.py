"""The model directory: a manifest, checksummed files, atomic save, safe load.

::

    anomgan-model/
      manifest.json        what is in here, how it was made, sha256 and size of every file
      scorer.onnx          everything needed to score; also readable alone
      weights.safetensors  to go on training or to export again
      calibration.npz      held-out scores and the tail
      probe.npz            rows and expected outputs, checked when a Scorer opens the model
      profile.json         what the training rows look like, for the drift check of new ones

Loading parses data only: JSON, ONNX, safetensors and npz without pickle. Every file is a plain
file named in the manifest, within the directory, of the stated size and checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from anomgan import __version__
from anomgan.errors import (
    ModelCorruptError,
    ModelExistsError,
    ModelNotFoundError,
    OutputError,
)
from anomgan.replacement import clear_leftovers, put_in_place, temporary_directory
from anomgan.statements import MANIFEST, PLAIN_NAME, VERDICTS, kind_of, manifest_faults
from anomgan.untrusted import JSON_BYTES, parse_arrays, parse_json, read_plain

__all__ = [
    "DEFAULT_MODEL",
    "FORMAT_VERSION",
    "VERDICTS",
    "Bundle",
    "Manifest",
    "checkpoint_path",
    "require_free",
]

FORMAT_VERSION: Final = 2
"""Raised when an older reader could misread a directory; older formats stay readable."""

DEFAULT_MODEL: Final = "anomgan-model"
"""Name of the model directory where none is given."""

_LIBRARIES = ("numpy", "polars", "onnx", "onnxruntime", "onnxruntime-gpu", "torch", "scikit-learn")


@dataclass(frozen=True)
class Manifest:
    """What a model directory says of itself.

    Parameters
    ----------
    schema : dict
        ``Schema.to_dict()``.
    parameters : dict
        Hyperparameters as resolved, nothing left to a default.
    training : dict
        Facts: rows, columns, steps, seconds, device, seed, source.
    health : dict
        ``{"verdict": "healthy" | "degraded" | "failed", "reasons": [str, ...]}``.
    calibration : dict
        ``Calibrator.summary()``.
    files : dict
        ``{name: {"sha256": hex, "bytes": int}}``; filled in by `Bundle.save`.
    format_version, anomgan_version, library_versions, created_at
        Filled in by themselves; `created_at` is UTC in ISO 8601.
    """

    schema: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    health: dict[str, Any] = field(default_factory=lambda: {"verdict": "healthy", "reasons": []})
    calibration: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    anomgan_version: str = __version__
    library_versions: dict[str, str] = field(default_factory=lambda: _library_versions())
    created_at: str = field(default_factory=lambda: _now())

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object that is stored."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any, *, where: str = MANIFEST) -> Manifest:
        """Check and rebuild what `to_dict` gave.

        Raises
        ------
        ModelCorruptError
            Written by a newer anomgan, or a field is absent, unknown or of the wrong type; all
            such faults are named together.
        """
        if not isinstance(content, dict):
            raise ModelCorruptError(f"{where}: expected a JSON object, got {kind_of(content)}")
        _require_version(content.get("format_version"), where)
        types: dict[str, type] = {f.name: dict for f in fields(cls)}
        types |= {"format_version": int, "anomgan_version": str, "created_at": str}
        faults = list(manifest_faults(content, types))
        if faults:
            raise ModelCorruptError(f"{where} is damaged: " + "; ".join(faults))
        return cls(**content)


def _require_version(version: Any, where: str) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ModelCorruptError(f"{where} has no usable format_version (found {version!r})")
    if version > FORMAT_VERSION:
        raise ModelCorruptError(
            f"{where} has format {version} and this anomgan ({__version__}) reads up to "
            f"{FORMAT_VERSION}; upgrade anomgan to use this model"
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _library_versions() -> dict[str, str]:
    """Versions of what is installed, read without importing any of it."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


class Bundle:
    """An opened model directory.

    Attributes
    ----------
    path : Path
        The directory, as given.
    manifest : Manifest
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str] = DEFAULT_MODEL, *, verify: bool = True) -> Bundle:
        """Open a model directory.

        Parameters
        ----------
        path : path-like
            The directory (a symbolic link to one is followed; links inside are refused).
        verify : bool, default=True
            Check size and checksum of every file now. Files read through `read` and `arrays`
            are checked in any case.

        Raises
        ------
        ModelNotFoundError
            No directory there, or one that is no model.
        ModelCorruptError
            The manifest or a file is damaged; all faults are named together.
        """
        directory = Path(path)
        if not os.path.isdir(directory):
            exists = os.path.exists(directory)
            found = "is a file, not a model directory" if exists else "does not exist"
            raise ModelNotFoundError(
                f"{directory} {found}; make a model with `anomgan fit normal.csv`, or name one "
                "with -m"
            )
        if not os.path.lexists(directory / MANIFEST):
            raise ModelNotFoundError(
                f"{directory} is not a model: it has no {MANIFEST}; name a directory made by "
                "`anomgan fit` with -m"
            )
        raw = read_plain(directory / MANIFEST, JSON_BYTES)
        where = str(directory / MANIFEST)
        bundle = cls(directory, Manifest.from_dict(parse_json(raw, where), where=where))
        if verify:
            bundle.verify()
        return bundle

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the files, manifest aside."""
        return tuple(self.manifest.files)

    def file(self, name: str) -> Path:
        """Path of a file of the model.

        Raises
        ------
        ModelCorruptError
            The manifest names no such file.
        """
        if name not in self.manifest.files:
            raise ModelCorruptError(
                f"{self.path} holds no {name} (it has {', '.join(self.names) or 'no files'}); fit "
                "the model again"
            )
        return self.path / name

    def read(self, name: str) -> bytes:
        """Content of a file, of the size and checksum that the manifest states.

        Raises
        ------
        ModelCorruptError
            The file is absent, a link, or not what the manifest states.
        """
        path = self.file(name)
        record = self.manifest.files[name]
        content = read_plain(path, record["bytes"])
        if len(content) != record["bytes"]:
            raise ModelCorruptError(
                f"{path} has {len(content)} bytes where the manifest states {record['bytes']}: "
                "the file was cut short or replaced; restore it or fit again"
            )
        if hashlib.sha256(content).hexdigest() != record["sha256"]:
            raise ModelCorruptError(
                f"{path} does not match its checksum: the file was altered since the model was "
                "saved; restore it or fit again"
            )
        return content

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays of an ``.npz`` file, read without pickle.

        Raises
        ------
        ModelCorruptError
            As `read`; or the file is no such archive, or unpacks to more than 256 MiB.
        """
        return parse_arrays(self.read(name), str(self.file(name)))

    def json(self, name: str) -> Any:
        """Content of a ``.json`` file.

        Raises
        ------
        ModelCorruptError
            As `read`; or it is no JSON that can be read in one way only.
        """
        return parse_json(self.read(name), str(self.file(name)))

    def verify(self) -> None:
        """Check every file against the manifest.

        Raises
        ------
        ModelCorruptError
            All faults, together.
        """
        faults = []
        for name in self.names:
            try:
                self.read(name)
            except ModelCorruptError as error:
                faults.append(str(error))
        if faults:
            raise ModelCorruptError("; ".join(faults))

    @staticmethod
    def save(
        path: str | os.PathLike[str],
        *,
        files: Mapping[str, bytes | Path],
        manifest: Manifest,
        overwrite: bool = False,
    ) -> Bundle:
        """Write a model directory; a failure leaves what was there untouched.

        Everything is written to a temporary sibling that is renamed at the end: a process that is
        killed leaves the former model, or the new one, and what else it left goes at the next save.

        Parameters
        ----------
        path : path-like
            The directory to make; its parents are made too.
        files : mapping
            Content, or the path of a file to copy, by plain file name.
        manifest : Manifest
            Its `files` are replaced by the records of `files`.
        overwrite : bool, default=False
            Replace a model (never anything else) that is there.

        Raises
        ------
        ModelExistsError
            Something is there and `overwrite` is not set, or it is no model.
        OutputError
            The directory cannot be written, or what was written could not be read again: arrays and
            JSON are, within the limits that loading sets.
        """
        require_free(path, overwrite=overwrite)
        target = Path(os.path.realpath(path))
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            clear_leftovers(target)
            with temporary_directory(target) as temporary:
                records = {name: _write(temporary, name, files[name]) for name in sorted(files)}
                complete = replace(manifest, files=records)
                text = json.dumps(complete.to_dict(), indent=2, allow_nan=False, ensure_ascii=False)
                _write_synced(temporary / MANIFEST, text.encode() + b"\n")
                _require_readable(temporary, path)
                put_in_place(temporary, target)
        except OutputError:
            raise
        except OSError as error:
            raise OutputError(
                f"cannot write the model to {path}: {error.strerror or error}; choose another "
                "place with -m"
            ) from error
        return Bundle(Path(path), complete)


def _require_readable(temporary: Path, path: str | os.PathLike[str]) -> None:
    """Read what is about to become the model `path` as loading it will, weights and graph aside."""
    try:
        bundle = Bundle.open(temporary)
        for name in bundle.names:
            if name.endswith(".npz"):
                bundle.arrays(name)
            elif name.endswith(".json"):
                bundle.json(name)
    except ModelCorruptError as error:
        fault = str(error).replace(str(temporary), str(path))
        raise OutputError(
            f"no model was written to {path}, because it could not be read again: {fault}; if the "
            "table has very many columns or long texts, leave some out with --drop"
        ) from error


def checkpoint_path(path: str | os.PathLike[str]) -> Path:
    """Return where the training of the model directory `path` keeps its checkpoint: beside it."""
    return Path(os.path.realpath(path) + ".checkpoint")


def require_free(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Refuse a place where a model cannot be saved; to be called before training.

    Raises
    ------
    ModelExistsError
        Something is there and `overwrite` is not set, or it is no model.
    OutputError
        The nearest existing parent cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if os.path.isdir(target) and any(target.iterdir()):
        if not (target / MANIFEST).is_file():
            raise ModelExistsError(
                f"{path} is a directory with other things in it, not a model; choose another "
                "place with -m"
            )
        if not overwrite:
            left = (
                f" (the checkpoint {checkpoint_path(path)} is of a fit that did not end or was "
                "killed at its very end)"
            )
            raise ModelExistsError(
                f"there is already a model at {path}{left * checkpoint_path(path).exists()}; "
                "--force replaces it, -m puts the new one elsewhere"
            )
    elif os.path.exists(target) and not os.path.isdir(target):
        raise ModelExistsError(f"{path} is a file; choose another place with -m")
    parent = target.parent
    while not os.path.exists(parent):
        parent = parent.parent
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"cannot write the model to {path}: {parent} is not a directory that you may write "
            "to; choose another place with -m"
        )


def _write(directory: Path, name: str, content: bytes | Path) -> dict[str, Any]:
    if not PLAIN_NAME.fullmatch(name) or name == MANIFEST:
        raise ModelCorruptError(f"{name!r} is no file name that a model may use")
    data = content.read_bytes() if isinstance(content, Path) else content
    _write_synced(directory / name, data)
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
