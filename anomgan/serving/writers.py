"""Scored rows as CSV, JSON lines or Parquet, batch by batch."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import polars as pl

from anomgan.errors import OutputError, UsageError
from anomgan.serving.outputs import AtomicFile

__all__ = [
    "FORMATS",
    "Format",
    "Sink",
    "Writer",
    "format_of",
    "neutralised",
    "open_writer",
    "restored",
    "text_writer",
]

Format = Literal["csv", "parquet", "jsonl"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)

_SUFFIXES: Final[dict[str, Format]] = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl"}
# What spreadsheets take for the beginning of a formula, full-width signs among it (OWASP, "CSV
# Injection"), after blanks too, which some of them drop.
_FORMULA = r"^'*(?:\s*[=+\-@\uFF1D\uFF0B\uFF0D\uFF20]|[\t\r])"
_NUMBER = (
    r"^ *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *$"
    r"|^ *[+-]?\d[\d.,]* *$"  # with a decimal comma or grouped: digits alone call nothing
    r"|^(?i)[+-]?(?:nan|inf|infinity)$"
)
_MARKED = "^'" + _FORMULA.removeprefix("^").join("()")
_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_PART_ROWS = 131_072  # rows of one temporary Parquet part, hence of one row group


class Sink(Protocol):
    """Takes bytes, in order."""

    def write(self, data: bytes) -> None:
        """Append bytes."""


class Writer(Protocol):
    """Takes frames of the same columns, in order."""

    def write(self, frame: pl.DataFrame) -> None:
        """Append rows."""


def format_of(path: str, asked: str | None = None) -> Format:
    """Return the format asked for, or else the one that the name of the output says (CSV).

    Raises
    ------
    UsageError
        `asked` is no format.
    """
    if asked is None:
        return _SUFFIXES.get(Path(path).suffix.lower(), "csv")
    for known in FORMATS:
        if asked == known:
            return known
    raise UsageError(f"--format must be one of {', '.join(FORMATS)}, got {asked!r}")


@contextmanager
def open_writer(path: str, fmt: Format) -> Iterator[Writer]:
    """Open an output that appears whole or not at all.

    Parameters
    ----------
    path : str
        A file, or ``-`` for standard output.
    fmt : "csv", "parquet" or "jsonl"

    Yields
    ------
    Writer

    Raises
    ------
    OutputError
        The output cannot be written.
    UsageError
        A column cannot be written in this format.
    """
    with AtomicFile(path) as file:
        if fmt != "parquet":
            yield text_writer(file, fmt)
            return
        with _folder_of_parts() as parts:
            writer = _ParquetWriter(file, parts)
            yield writer
            writer.finish()


@contextmanager
def _folder_of_parts() -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(prefix="anomgan-")
    except OSError as error:
        raise _no_room_for_parts(error) from error
    with folder as name:
        yield Path(name)


def text_writer(file: Sink, fmt: Format, *, begun: bool = False) -> Writer:
    """Return a writer of CSV or JSON lines into an open file.

    Parameters
    ----------
    file : Sink
    fmt : "csv" or "jsonl"
    begun : bool
        Rows stand in the file already, and with them the header.
    """
    return _CsvWriter(file, begun) if fmt == "csv" else _JsonLinesWriter(file)


def neutralised(frame: pl.DataFrame) -> pl.DataFrame:
    """Keep spreadsheets from running text as a formula.

    Text cells and column names that begin with ``=``, ``+``, ``-``, ``@`` (full-width ones too,
    blanks in front or not), tab or carriage return get a leading apostrophe; numbers such as
    ``-1.5`` are left alone. So do those that begin so after apostrophes of their own, so that
    `restored` gives back every cell as it was.
    """
    return _changed(frame, _neutral)


def restored(frame: pl.DataFrame) -> pl.DataFrame:
    """Undo `neutralised`: for a scored CSV file that was read back.

    Parameters
    ----------
    frame : polars.DataFrame

    Returns
    -------
    polars.DataFrame
        One apostrophe less where the writer had to add one.
    """
    return _changed(frame, lambda text: text.str.replace(_MARKED, "${1}"))


def _changed(frame: pl.DataFrame, change: Callable[[pl.Series], pl.Series]) -> pl.DataFrame:
    """Change the names and all columns of text."""
    columns = [
        change(column.cast(pl.String)) if column.dtype in _TEXTS else column
        for column in frame.get_columns()
    ]
    # Series throughout: in an expression, a column called "*" or "^a.*$" would be many.
    names = change(pl.Series(frame.columns, dtype=pl.String)).to_list()
    return pl.DataFrame([c.alias(name) for c, name in zip(columns, names, strict=True)])


def _neutral(text: pl.Series) -> pl.Series:
    risky = text.str.contains(_FORMULA) & ~text.str.contains(_NUMBER)
    return text.zip_with(~risky.fill_null(value=False), "'" + text)


class _CsvWriter:
    def __init__(self, file: Sink, begun: bool) -> None:
        self._file = file
        self._begun = begun

    def write(self, frame: pl.DataFrame) -> None:
        for name, kind in frame.schema.items():
            if kind.is_nested() or kind in (pl.Binary, pl.Object, pl.Duration):
                raise _misfit(name, kind, "CSV", "parquet or jsonl")
        text = neutralised(frame).write_csv(None, include_header=not self._begun)
        self._begun = True
        self._file.write(text.encode())


class _JsonLinesWriter:
    def __init__(self, file: Sink) -> None:
        self._file = file

    def write(self, frame: pl.DataFrame) -> None:
        for name, kind in frame.schema.items():
            if _holds_bytes(kind):  # Polars panics
                raise _misfit(name, kind, "JSON lines", "parquet")
        self._file.write(frame.write_ndjson(None).encode())


class _ParquetWriter:
    """Parts on disk, put together at the end: one pass of memory, whatever the length."""

    def __init__(self, file: AtomicFile, parts: Path) -> None:
        self._file = file
        self._parts = parts
        self._held: list[pl.DataFrame] = []
        self._n_parts = 0

    def write(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        if sum(held.height for held in self._held) >= _PART_ROWS:
            self._flush()

    def finish(self) -> None:
        if self._held or not self._n_parts:
            self._flush()
        whole = self._parts / "whole"
        try:
            names = [self._parts / f"{i}.parquet" for i in range(self._n_parts)]
            pl.scan_parquet(names).sink_parquet(whole)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _no_room_for_parts(error) from error
        try:
            with whole.open("rb") as source:
                shutil.copyfileobj(source, self._file, 1 << 20)
        except OSError as error:
            raise _failure(self._file.path, error) from error

    def _flush(self) -> None:
        part = self._parts / f"{self._n_parts}.parquet"
        try:
            pl.concat(self._held).write_parquet(part)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise _no_room_for_parts(error) from error
        self._held = []
        self._n_parts += 1


def _holds_bytes(kind: pl.DataType) -> bool:
    if isinstance(kind, pl.Struct):
        return any(_holds_bytes(entry.dtype) for entry in kind.fields)  # type: ignore[arg-type]
    if isinstance(kind, pl.List | pl.Array):
        return _holds_bytes(kind.inner)  # type: ignore[arg-type]
    return kind in (pl.Binary, pl.Object)


def _misfit(name: str, kind: pl.DataType, what: str, others: str) -> UsageError:
    return UsageError(
        f"column {name!r} ({kind}) does not fit into {what}; use --format {others}, or leave "
        "--keep-columns out"
    )


def _no_room_for_parts(error: Exception) -> OutputError:
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
    return OutputError(
        f"cannot keep parts of a Parquet file in {tempfile.gettempdir()}: {reason}; set TMPDIR to "
        "a directory that has room for all of it, or use --format csv"
    )


def _failure(path: str, error: Exception) -> OutputError:
    if isinstance(error, OutputError):
        return error
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return OutputError(f"cannot write {path}: {reason}; choose another place with -o")
