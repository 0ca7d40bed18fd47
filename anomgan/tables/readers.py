"""Tables of any origin as batches of raw rows, in constant memory.

`open_table` gives a `TableReader`, which can be iterated over any number of times (standard
input: once); `read_table` gives everything at once.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.errors import TableError, UsageError
from anomgan.tables.csv_blocks import Block, check_text, read_blocks
from anomgan.tables.dialect import check_delimiter, check_names, find_dialect
from anomgan.tables.faults import plural
from anomgan.tables.forks import require_threads
from anomgan.tables.frames import frame_from, is_in_memory, source_name
from anomgan.tables.sources import STANDARD_INPUT, ByteSource, check_file, magic_of

__all__ = ["Batch", "TableReader", "open_table", "read_table"]

OnBadRow = Literal["error", "skip"]

# Polars panics at some damage, with a class that is no Exception.
_DAMAGE = (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException)

_HEAD_BYTES = 1 << 18
_MAX_HEADER_BYTES = 16 << 20
_PARQUET_SUFFIXES = (".parquet", ".pq")
_IPC_SUFFIXES = (".arrow", ".feather", ".ipc")


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows in a row, as found.

    Parameters
    ----------
    frame : polars.DataFrame
        Columns of a CSV file are all `pl.String`, unparsed; others keep their types.
    first_row : int
        1-based number of the frame's first row among the data rows (the header and blank
        lines are not counted).
    source : str
        File name for messages, or ``<DataFrame>``.
    line_numbers : ndarray of int64 [n], optional
        For CSV: the 1-based physical line on which each row starts.
    faults : dict of int to str
        With ``on_bad_row="skip"``: row in this batch (0-based) -> why it could not be
        read; such a row is all null.
    """

    frame: pl.DataFrame
    first_row: int
    source: str
    line_numbers: NDArray[np.int64] | None = None
    faults: dict[int, str] = field(default_factory=dict)

    def place(self, i: int) -> str:
        """Return ``row 17``, or ``row 17 (line 19)``, for the row `i` (0-based) of this batch."""
        row = f"row {self.first_row + i}"
        return row if self.line_numbers is None else f"{row} (line {self.line_numbers[i]})"


class TableReader(ABC):
    """An iterable of `Batch`; every iteration starts anew from the first row.

    Attributes
    ----------
    columns : tuple of str
        Names in file order, stripped, unique.
    source : str
        Name for messages.
    bytes_total : int or None
        Size of the file; None where it is unknown.
    bytes_read : int
        How far the running iteration has come, in the units of `bytes_total`.
    path : Path or None
        The file, where it is one.
    read_as : dict of str to str
        How its bytes are understood, as far as options or guesses say so.
    """

    columns: tuple[str, ...]
    source: str
    bytes_total: int | None = None
    bytes_read: int = 0
    path: Path | None = None

    def __init__(self, source: str, batch_rows: int) -> None:
        if batch_rows < 1:
            raise UsageError(f"batch_rows is {batch_rows}: it must be at least 1")
        self.source = source
        self.batch_rows = batch_rows
        self.read_as: dict[str, str] = {}

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches of at most `batch_rows` rows, in order."""
        self.bytes_read = 0
        first_row = 1
        for block in self._blocks():
            for start in range(0, max(block.frame.height, 1), self.batch_rows):
                batch = _slice(block, start, self.batch_rows, first_row, self.source)
                yield batch
                first_row += batch.frame.height

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027 (most tables hold nothing open)
        """Close what is open; a later iteration opens it again."""

    @abstractmethod
    def _blocks(self) -> Iterator[Block]:
        """Yield the rows in blocks of any size."""


def _slice(block: Block, start: int, n: int, first_row: int, source: str) -> Batch:
    lines = block.line_numbers[start : start + n] if block.line_numbers.size else None
    faults = {i - start: text for i, text in block.faults.items() if start <= i < start + n}
    return Batch(block.frame.slice(start, n), first_row, source, lines, faults)


def open_table(
    source: str | os.PathLike[str] | Any,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    batch_rows: int = 8192,
    on_bad_row: OnBadRow = "error",
) -> TableReader:
    """Open a table of any origin for reading in batches.

    Parameters
    ----------
    source : path, "-", or in-memory table
        ``.csv``, ``.tsv``, ``.txt`` and their ``.gz``; ``.parquet``; ``.arrow``,
        ``.feather``, ``.ipc``; what the file is, is decided by its first bytes. ``"-"`` is
        CSV from standard input. In memory: pandas or Polars DataFrame, anything with
        ``__arrow_c_stream__``, a mapping of columns, a list of row mappings.
    delimiter : str, optional
        CSV only. Default: detected among ``,`` ``;`` tab and ``|``.
    encoding : str, optional
        CSV only. Default: the byte order mark's, else UTF-8.
    batch_rows : int
        Rows a batch at most.
    on_bad_row : {"error", "skip"}
        "skip" keeps a row with a wrong number of fields as a row of nulls, and tells why
        in `Batch.faults`.

    Returns
    -------
    TableReader
        Already holds the column names; rows are read on iteration, which raises
        `TableError` for rows that cannot be read and for files without any row.

    Raises
    ------
    TableError
        The file is missing, empty, a directory, or no table; the header is unusable.
    UsageError
        An option is no delimiter, encoding or batch size; or this process was forked from one that
        had read tables (`anomgan.tables.forks`).
    """
    require_threads()
    if on_bad_row not in ("error", "skip"):
        raise UsageError(f"on_bad_row is {on_bad_row!r}: use 'error' or 'skip'")
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        resolved = None if delimiter is None else check_delimiter(delimiter)
        if name == STANDARD_INPUT:
            return _CsvReader(None, "<stdin>", batch_rows, resolved, encoding, on_bad_row)
        path = Path(name)
        check_file(path)
        kind = _kind_of(path)
        if kind != "csv":
            return _ColumnarReader(path, kind, batch_rows)
        return _CsvReader(path, str(path), batch_rows, resolved, encoding, on_bad_row)
    if is_in_memory(source):
        return _FrameReader(frame_from(source), source_name(source), batch_rows)
    raise UsageError(
        f"cannot read a table from {type(source).__name__}: hand in a path, a DataFrame, "
        "an Arrow table, a mapping of columns or a list of row mappings"
    )


def read_table(
    source: str | os.PathLike[str] | Any,
    *,
    delimiter: str | None = None,
    encoding: str | None = None,
    batch_rows: int = 8192,
    on_bad_row: OnBadRow = "error",
) -> pl.DataFrame:
    """Read a whole table; parameters and errors as in `open_table`.

    Returns
    -------
    polars.DataFrame
        Raw rows; those that ``on_bad_row="skip"`` sets aside are left out.
    """
    frames: list[pl.DataFrame] = []
    with open_table(
        source,
        delimiter=delimiter,
        encoding=encoding,
        batch_rows=batch_rows,
        on_bad_row=on_bad_row,
    ) as reader:
        for batch in reader:
            kept = np.ones(batch.frame.height, dtype=bool)
            kept[list(batch.faults)] = False
            frames.append(batch.frame.filter(pl.Series(kept)) if batch.faults else batch.frame)
    return pl.concat(frames)


def _kind_of(path: Path) -> Literal["csv", "parquet", "ipc"]:
    with path.open("rb") as file:
        found = magic_of(file.read(16))
    if found == "parquet":
        return "parquet"
    if found == "ipc":
        return "ipc"
    if found is not None:
        raise TableError(f"{path} is {found}, not a table: export it as CSV or Parquet")
    for suffixes, kind in ((_PARQUET_SUFFIXES, "Parquet"), (_IPC_SUFFIXES, "Arrow IPC")):
        if path.suffix.lower() in suffixes:
            raise TableError(f"{path} is not a {kind} file, whatever its name says: write it again")
    return "csv"


class _CsvReader(TableReader):
    """CSV text from a file or standard input."""

    def __init__(
        self,
        path: Path | None,
        source: str,
        batch_rows: int,
        delimiter: str | None,
        encoding: str | None,
        on_bad_row: OnBadRow,
    ) -> None:
        super().__init__(source, batch_rows)
        self.path = path
        self._encoding = encoding
        self._on_bad_row = on_bad_row
        self._bare_cr: bool | None = None
        self._bytes = ByteSource(path, source, encoding)
        try:
            head = self._read_head()
            self.bytes_total = self._bytes.bytes_total
            sample = head[: head.rfind(b"\n") + 1] or head
            check_text(sample, source, first_line=1)
            self._dialect = find_dialect(sample.decode("utf-8"), source, delimiter)
        finally:
            self.close()
        self.columns = self._dialect.columns
        self.read_as = {"delimiter": self._dialect.delimiter, "encoding": encoding or ""}
        self._after_header = head[self._dialect.header_bytes :]
        self._started = False

    def close(self) -> None:
        """Close the file; standard input stays open."""
        self._bytes.close()

    def _read_head(self) -> bytes:
        head = self._read(_HEAD_BYTES)
        # A header may be longer than one read; without any line end it is no table.
        while b"\n" not in head and len(head) < _MAX_HEADER_BYTES:
            more = self._read(_HEAD_BYTES)
            if not more:
                break
            head += more
        return head

    def _read(self, n: int) -> bytes:
        data = self._bytes.read(n)
        if self._bare_cr is None:  # lines that end in CR alone: old Macintosh files
            self._bare_cr = b"\r" in data and b"\n" not in data
        return data.replace(b"\r", b"\n") if self._bare_cr else data

    def _blocks(self) -> Iterator[Block]:
        if self.path is None:
            if self._started:
                raise TableError(f"{self.source} can be read only once: save it to a file first")
            self._started = True
        else:
            self._bytes.close()
            self._bytes = ByteSource(self.path, self.source, self._encoding)
        n_rows = 0
        try:
            read = _Prefixed(self._start(), self._read)
            for block in read_blocks(read, self._dialect, self.source, self._on_bad_row):
                self.bytes_read = self._bytes.bytes_read
                n_rows += block.frame.height
                if block.frame.height:
                    yield block
            if not n_rows:
                n_columns = plural(len(self.columns), "column")
                raise TableError(
                    f"{self.source} has a header ({n_columns}) but no rows: nothing to read"
                )
        finally:
            self.close()

    def _start(self) -> bytes:
        """Return the bytes after the header that opening has already taken."""
        if self.path is None:
            head, self._after_header = self._after_header, b""
            return head
        return self._read_head()[self._dialect.header_bytes :]


class _Prefixed:
    """A `read` that first hands out bytes already taken."""

    def __init__(self, head: bytes, read: Any) -> None:
        self._head = head
        self._read = read

    def __call__(self, n: int) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        return bytes(self._read(n))


class _ColumnarReader(TableReader):
    """Parquet and Arrow IPC files, streamed by Polars."""

    def __init__(self, path: Path, kind: Literal["parquet", "ipc"], batch_rows: int) -> None:
        super().__init__(str(path), batch_rows)
        self._scan = pl.scan_parquet if kind == "parquet" else pl.scan_ipc
        self.path = self._path = path
        self.bytes_total = path.stat().st_size
        try:
            lazy = self._scan(path, glob=False)
            names = lazy.collect_schema().names()
            self._n_rows = int(lazy.select(pl.len()).collect().item())
        except _DAMAGE as error:
            raise self._damaged(error) from None
        self.columns = tuple(name.strip() for name in names)
        check_names(self.columns, self.source)
        self._names = dict(zip(names, self.columns, strict=True))

    def _damaged(self, error: BaseException) -> TableError:
        reason = str(error).strip().splitlines()[0]
        return TableError(f"{self.source} cannot be read ({reason}): write the file again")

    def _blocks(self) -> Iterator[Block]:
        if not self._n_rows:
            n_columns = plural(len(self.columns), "column")
            raise TableError(f"{self.source} has {n_columns} but no rows: nothing to read")
        total = self.bytes_total or 0
        n_rows = 0
        try:
            batches = self._scan(self._path, glob=False).collect_batches(
                chunk_size=self.batch_rows, maintain_order=True, lazy=True
            )
            for frame in batches:
                n_rows += frame.height
                self.bytes_read = total * n_rows // self._n_rows
                if frame.height:
                    yield Block(frame.rename(self._names), np.empty(0, dtype=np.int64))
        except _DAMAGE as error:
            raise self._damaged(error) from None


class _FrameReader(TableReader):
    """A table that is in memory already; without rows it gives one empty batch."""

    def __init__(self, frame: pl.DataFrame, source: str, batch_rows: int) -> None:
        super().__init__(source, batch_rows)
        self._frame = frame
        self.columns = tuple(frame.columns)

    def _blocks(self) -> Iterator[Block]:
        yield Block(self._frame, np.empty(0, dtype=np.int64))
