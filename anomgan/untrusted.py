"""Bytes that others wrote, read within limits: plain files, JSON, archives of arrays.

A model directory may come from anywhere, and whoever made it chose its checksums too. So what is
read here is bounded before it is unpacked, and whatever is wrong with it is a `ModelCorruptError`.
"""

from __future__ import annotations

import io
import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import ModelCorruptError

__all__ = ["JSON_BYTES", "parse_arrays", "parse_json", "read_plain"]

JSON_BYTES: Final = 64 * 2**20
"""Most that is parsed as JSON, bytes; a schema of a million category names is about 16 MiB."""

_ARRAY_BYTES = 2**28
_HEADER_BYTES = 10_000


def read_plain(path: Path, limit: int) -> bytes:
    """Content of a plain file of at most `limit` bytes; links and devices are refused.

    Raises
    ------
    ModelCorruptError
        The file is absent, larger, or nothing plain.
    """
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= getattr(os, "O_NONBLOCK", 0)  # or opening a named pipe would wait for ever
    try:
        if path.is_symlink():
            raise ModelCorruptError(f"{path} is a symbolic link; a model holds plain files only")
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelCorruptError(f"{path} is not a plain file")
            if status.st_size > limit:
                raise ModelCorruptError(
                    f"{path} has {status.st_size} bytes where at most {limit} were expected: the "
                    "file was replaced; restore it or fit again"
                )
            return file.read(limit)
    except OSError as error:
        raise ModelCorruptError(f"{path} cannot be read: {error.strerror or error}") from error


def parse_json(raw: bytes | str, where: str) -> Any:
    """Parse JSON of at most `JSON_BYTES`, in which nothing can be read in two ways.

    Raises
    ------
    ModelCorruptError
        It is no JSON; or a field occurs twice, or a number is none or beyond a double, or it is
        nested too deeply.
    """

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(text: str) -> float:
        value = float(text)
        if math.isinf(value):
            raise ValueError(f"{text} is beyond a double")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise ValueError("a field occurs twice")
        return content

    if len(raw) > JSON_BYTES:
        raise ModelCorruptError(f"{where} has more than the {JSON_BYTES} bytes allowed for JSON")
    try:
        return json.loads(
            raw, parse_constant=refuse_constant, parse_float=finite, object_pairs_hook=unique
        )
    except RecursionError:
        raise ModelCorruptError(f"{where} is not usable JSON: it is nested too deeply") from None
    except ValueError as error:
        raise ModelCorruptError(f"{where} is not valid JSON: {error}") from error


def parse_arrays(content: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz`` file, without pickle.

    Raises
    ------
    ModelCorruptError
        It is no such archive, or would unpack to more than 256 MiB; or an array declares more
        elements than the archive holds bytes for it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _require_small(archive, where)
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    _require_held(file, entry.file_size, f"{where}, {entry.filename!r}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except ModelCorruptError:
        raise
    except Exception as error:  # zipfile, its decompressors and numpy raise a dozen classes
        raise ModelCorruptError(f"{where} is not a readable array file: {error}") from error


def _require_small(archive: zipfile.ZipFile, where: str) -> None:
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > _ARRAY_BYTES:
        raise ModelCorruptError(
            f"{where} would unpack to {unpacked} bytes, more than the {_ARRAY_BYTES} allowed"
        )


def _require_held(file: IO[bytes], n_bytes: int, where: str) -> None:
    """Refuse an array whose header declares more elements than its entry has bytes.

    numpy makes room for what is declared before it reads; texts of no width take no bytes, however
    many there are.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"arrays of version {version} are not known")
    shape, _, dtype = readers[version](file, max_header_size=_HEADER_BYTES)
    declared = math.prod(shape) * max(dtype.itemsize, 1)
    if declared > n_bytes:
        raise ModelCorruptError(
            f"{where} is not a readable array file: it declares {declared} bytes and holds "
            f"{n_bytes}"
        )
