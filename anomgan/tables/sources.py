"""Bytes of a CSV file or of standard input: decompressed, decoded to UTF-8, in order."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import sys
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO, cast

from anomgan.errors import TableError, UsageError

__all__ = ["ByteSource", "check_file", "magic_of"]

STANDARD_INPUT = "-"

_GZIP_MAGIC = b"\x1f\x8b"
_MAGICS = {
    b"PAR1": "parquet",
    b"ARROW1": "ipc",
    b"PK\x03\x04": "a zip archive or a spreadsheet (.xlsx, .ods)",
    b"\xd0\xcf\x11\xe0": "an old Excel file (.xls)",
    b"SQLite f": "an SQLite database",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array file",
    b"%PDF": "a PDF file",
}
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16 LE, whose mark it starts with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def check_file(path: Path) -> None:
    """Raise a TableError unless `path` is a file that can be opened for reading."""
    if path.is_dir():
        raise TableError(f"{path} is a directory, not a table: name one file in it")
    if not path.exists():
        folder = path.parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        close = get_close_matches(path.name, names, n=1, cutoff=0.7)
        hint = f": did you mean {str(path.with_name(close[0]))!r}?" if close else ""
        raise TableError(f"{path} does not exist{hint or ': check the name and the folder'}")
    if not path.is_file():
        raise TableError(
            f"{path} is a pipe or a device, which cannot be read twice: "
            f"name '-' instead and send it to standard input, as in '- < {path}'"
        )
    if not os.access(path, os.R_OK):
        raise TableError(f"{path} cannot be read: permission denied")


def magic_of(head: bytes) -> str | None:
    """Name the format that a file's first bytes announce; None for text."""
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None)


def _incremental_decoder(encoding: str) -> codecs.IncrementalDecoder:
    try:
        b"text".decode(encoding)
    except UnicodeError:
        pass  # an encoding, though not that of these bytes
    except (LookupError, ValueError):  # no such codec, or none for text, such as rot13
        raise UsageError(
            f"unknown encoding {encoding!r}: use a name such as utf-8, latin-1, cp1252 or utf-16"
        ) from None
    return codecs.getincrementaldecoder(encoding)(errors="strict")


class ByteSource:
    """One pass over a file (``.gz`` too) or standard input as UTF-8 bytes without a BOM.

    Parameters
    ----------
    path : pathlib.Path or None
        None reads standard input.
    name : str
        For messages.
    encoding : str, optional
        Default: what the byte order mark says, else UTF-8 (not checked here).

    Raises
    ------
    TableError
        On read: damaged gzip data, bytes that `encoding` does not have.
    UsageError
        If `encoding` is unknown.
    """

    def __init__(self, path: Path | None, name: str, encoding: str | None = None) -> None:
        self.name = name
        self.encoding = encoding
        decoder = None if encoding is None else _incremental_decoder(encoding)
        if encoding is not None and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
            decoder = None
        self._raw = _standard_input() if path is None else path.open("rb")
        self._owned = path is not None
        self._n_read = 0
        self.bytes_total = None if path is None else path.stat().st_size
        self._stream: BinaryIO = self._raw
        if self._raw.peek(2)[:2] == _GZIP_MAGIC:
            self._stream = cast(BinaryIO, gzip.GzipFile(fileobj=self._raw))
        try:
            self._pending = self._read(4)
        except TableError:
            self.close()
            raise
        bom = next((mark for mark in _BOMS if self._pending.startswith(mark[0])), None)
        if bom is not None and bom[1] == "utf-8":
            self._pending = self._pending[len(bom[0]) :]
        elif bom is not None and decoder is None:
            self.encoding, decoder = bom[1], _incremental_decoder(bom[1])
        self._decoder = decoder
        self._at_start = True

    @property
    def bytes_read(self) -> int:
        """Bytes taken from the file so far (compressed ones for ``.gz``)."""
        return self._raw.tell() if self._owned and not self._raw.closed else self._n_read

    def read(self, n: int) -> bytes:
        """Return about `n` bytes of UTF-8; empty only at the end."""
        while True:
            data = self._pending + self._read(n - len(self._pending))
            self._pending = b""
            self._n_read += len(data)
            if self._decoder is None:
                return data
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeError as error:
                raise TableError(
                    f"{self.name}: not {self.encoding} text ({_reason(error)}): "
                    "pass the file's true encoding with --encoding"
                ) from None
            if self._at_start and text:
                text, self._at_start = text.removeprefix("\ufeff"), False
            if text or not data:
                return text.encode("utf-8")

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._owned:
            self._n_read = self.bytes_read
            self._raw.close()

    def _read(self, n: int) -> bytes:
        try:
            return self._stream.read(n)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise TableError(
                f"{self.name}: damaged gzip data ({error}): copy or download the file again"
            ) from None
        except OSError as error:
            raise TableError(f"{self.name} cannot be read: {error.strerror or error}") from None


def _standard_input() -> io.BufferedReader:
    stream = sys.stdin.buffer
    if isinstance(stream, io.BufferedReader):
        return stream
    return io.BufferedReader(cast(io.RawIOBase, stream))


def _reason(error: UnicodeError) -> str:
    # UTF-16 and UTF-32 without a byte order mark are told by the base class, which has no reason.
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)
