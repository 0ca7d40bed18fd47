"""CSV bytes to blocks of text columns, fast where the file is regular, right where it is not.

Whole blocks of records are cut, counted and checked with NumPy and parsed by Polars. What
Polars would have to guess at goes through the standard library's `csv` module: a block with
line feeds inside quotes, and everything after a quote that stands where RFC 4180 has none.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.errors import TableError
from anomgan.tables.dialect import Dialect
from anomgan.tables.faults import listing, plural

__all__ = ["BLOCK_BYTES", "Block", "check_text", "read_blocks"]

BLOCK_BYTES = 4 << 20
"""Bytes asked for at a time: large enough for Polars, small enough for constant memory."""

_MAX_RECORD_BYTES = 16 << 20
_SLOW_RECORDS = 16_384
_LF, _CR, _QUOTE = 10, 13, 34
_SENTINEL = "\x1eend of file\x1e"

OnBadRow = Literal["error", "skip"]


@dataclass(frozen=True, eq=False)
class Block:
    """Some rows in a row: text columns, the line of each row, and rows that were ragged."""

    frame: pl.DataFrame
    line_numbers: NDArray[np.int64]
    faults: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the complete records of a buffer lie, in byte positions, [n] each."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    n_fields: NDArray[np.int64]
    lines: NDArray[np.int64]
    quoted_newlines: bool
    end: int
    n_lines: int


def read_blocks(
    read: Callable[[int], bytes], dialect: Dialect, source: str, on_bad_row: OnBadRow
) -> Iterator[Block]:
    """Read all records after the header.

    Parameters
    ----------
    read : callable
        Returns about as many UTF-8 bytes as asked for; nothing at the end. The header is
        behind it.
    dialect : Dialect
    source : str
        For messages.
    on_bad_row : {"error", "skip"}
        "skip" keeps a ragged row as a row of nulls, with its fault beside it.

    Yields
    ------
    Block
        Blank lines are no rows.

    Raises
    ------
    TableError
        Ragged rows, bytes that are not UTF-8, an unclosed quote, binary data.
    """
    state = _Position(source, on_bad_row, next_line=dialect.header_lines + 1)
    pending = b""
    while data := read(BLOCK_BYTES):
        buffer = pending + data
        layout = _scan(buffer, dialect.delimiter, state.next_line)
        too_long = layout is not None and len(buffer) - layout.end > _MAX_RECORD_BYTES
        if layout is None or too_long:
            yield from _slowly(_lines(buffer, read, state), dialect, state)
            return
        if layout.end:
            yield _block(buffer[: layout.end], layout, dialect, state)
        pending = buffer[layout.end :]
    if not pending:
        return
    # The last record may lack its line feed.
    buffer = pending if pending.endswith(b"\n") else pending + b"\n"
    layout = _scan(buffer, dialect.delimiter, state.next_line)
    if layout is None or layout.end < len(buffer):
        yield from _slowly(_lines(buffer, read, state), dialect, state)
    else:
        yield _block(buffer, layout, dialect, state)


def check_text(buffer: bytes, source: str, first_line: int) -> None:
    """Raise a TableError with the line number unless the bytes are UTF-8 text."""
    if (nul := buffer.find(0)) >= 0:
        line = first_line + buffer.count(b"\n", 0, nul)
        raise TableError(
            f"{source}, line {line}: holds a NUL byte, so this is no UTF-8 text: "
            "pass --encoding utf-16 if it is text in UTF-16, or export the table as CSV"
        )
    if buffer.isascii():
        return
    try:
        buffer.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + buffer.count(b"\n", 0, error.start)
        raise TableError(
            f"{source}, line {line}: byte 0x{buffer[error.start]:02X} is not UTF-8 text: "
            "pass the file's true encoding, for example --encoding latin-1"
        ) from None


@dataclass
class _Position:
    """How far reading has come: the only state kept between blocks."""

    source: str
    on_bad_row: OnBadRow
    next_line: int
    next_row: int = 1
    record_bytes: int = 0  # of the record that is being read slowly


def _scan(buffer: bytes, delimiter: str, first_line: int) -> _Layout | None:
    """Find the complete records; None where a quote or a CR stands where RFC 4180 has none."""
    text = np.frombuffer(buffer, dtype=np.uint8)
    newline = text == _LF
    separator = (text == ord(delimiter)) | newline
    carriage_return = np.flatnonzero(text == _CR) if _CR in buffer else None
    quoted_newlines, all_newlines = False, None
    if _QUOTE in buffer:
        quote = text == _QUOTE
        if not _well_quoted(text, np.flatnonzero(quote), ord(delimiter)):
            return None
        outside = np.bitwise_xor.accumulate(quote.view(np.uint8)) == 0
        separator &= outside
        if carriage_return is not None:
            carriage_return = carriage_return[outside[carriage_return]]
        all_newlines = np.flatnonzero(newline)
    if carriage_return is not None:
        after = text[np.minimum(carriage_return + 1, text.size - 1)]
        if bool(((after != _LF) & (carriage_return < text.size - 1)).any()):
            return None
    places = np.flatnonzero(separator)
    last = np.flatnonzero(newline[places])  # the separators that end a record
    ends = places[last]
    end = int(ends[-1]) + 1 if ends.size else 0
    starts = np.concatenate(([0], ends[:-1] + 1))[: ends.size]
    n_lines = int(ends.size)
    lines = first_line + np.arange(ends.size)
    if all_newlines is not None:
        n_lines = int(np.searchsorted(all_newlines, end))
        quoted_newlines = n_lines > ends.size
        lines = first_line + np.searchsorted(all_newlines, starts)
    n_fields = np.diff(last, prepend=-1)
    return _Layout(starts, ends, n_fields, lines, quoted_newlines, end, n_lines)


def _well_quoted(text: NDArray[np.uint8], quotes: NDArray[np.int64], delimiter: int) -> bool:
    """Check that quotes open after a separator and close before one (doubled ones aside)."""
    opening, closing = quotes[0::2], quotes[1::2]
    before = text[opening[opening > 0] - 1]
    after = text[closing[closing < text.size - 1] + 1]
    opens = (before == delimiter) | (before == _LF) | (before == _QUOTE)
    closes = (after == delimiter) | (after == _LF) | (after == _CR) | (after == _QUOTE)
    return bool(opens.all() and closes.all())


def _block(buffer: bytes, layout: _Layout, dialect: Dialect, state: _Position) -> Block:
    check_text(buffer, state.source, state.next_line)
    n_columns = len(dialect.columns)
    blank, ragged = _odd_records(buffer, layout, n_columns)
    keep = np.ones(layout.starts.size, dtype=bool)
    keep[blank] = False
    row_of = np.cumsum(keep) - 1
    counts = {int(row_of[i]): int(layout.n_fields[i]) for i in ragged}
    line_numbers = layout.lines[keep]
    faults = _ragged(counts, line_numbers, n_columns, state)
    if blank or ragged:
        filler = b'""' + dialect.delimiter.encode() * (n_columns - 1) + b"\n"
        replaced = dict.fromkeys(blank, b"") | dict.fromkeys(ragged, filler)
        buffer = _without(buffer, layout, replaced)
    frame = _parse(buffer, line_numbers.size, layout.quoted_newlines, dialect, state)
    state.next_line += layout.n_lines
    state.next_row += frame.height
    return Block(_nulls(frame, faults), line_numbers, faults)


def _odd_records(buffer: bytes, layout: _Layout, n_columns: int) -> tuple[list[int], list[int]]:
    """Return the records that are blank lines, and those with a wrong number of fields."""
    odd = layout.n_fields != n_columns
    if n_columns == 1:
        odd |= layout.ends - layout.starts <= 1
    blank: list[int] = []
    ragged: list[int] = []
    for i in np.flatnonzero(odd).tolist():
        record = buffer[layout.starts[i] : layout.ends[i]]
        if layout.n_fields[i] == 1 and _is_blank(record, n_columns):
            blank.append(i)
        elif layout.n_fields[i] != n_columns:
            ragged.append(i)
    return blank, ragged


def _is_blank(line: bytes, n_columns: int) -> bool:
    """Say whether a line is no row; in a table of one column, white space is a cell."""
    return not line.strip(b"\r" if n_columns == 1 else None)


def _ragged(
    counts: dict[int, int], line_numbers: NDArray[np.int64], n_columns: int, state: _Position
) -> dict[int, str]:
    """Word the faults of ragged rows (row in block -> fields found); raise them on "error"."""
    faults = {
        i: f"{plural(n, 'field')} where the header has {n_columns}" for i, n in counts.items()
    }
    if faults and state.on_bad_row == "error":
        told = [
            f"row {state.next_row + i} (line {line_numbers[i]}): {text}"
            for i, text in faults.items()
        ]
        raise TableError(
            listing(
                f"{state.source}: rows with a wrong number of fields",
                told,
                "fix these lines (put quotes around fields that hold the delimiter), "
                "name another --delimiter, or keep going with --on-bad-row skip",
            ),
            told,
        )
    return faults


def _without(buffer: bytes, layout: _Layout, replaced: dict[int, bytes]) -> bytes:
    pieces: list[bytes] = []
    position = 0
    for i in sorted(replaced):
        pieces += [buffer[position : layout.starts[i]], replaced[i]]
        position = int(layout.ends[i]) + 1
    return b"".join([*pieces, buffer[position:]])


def _parse(
    buffer: bytes, n_rows: int, quoted_newlines: bool, dialect: Dialect, state: _Position
) -> pl.DataFrame:
    schema = dict.fromkeys(dialect.columns, pl.String())
    if not n_rows:
        return pl.DataFrame(schema=schema)
    if not quoted_newlines:
        frame = pl.read_csv(
            buffer, has_header=False, schema=schema, separator=dialect.delimiter, glob=False
        )
        if frame.height == n_rows:
            return frame
    try:
        lines = io.StringIO(buffer.decode("utf-8"), newline="\n")
        records = list(csv.reader(lines, delimiter=dialect.delimiter))
    except csv.Error as error:
        raise TableError(
            f"{state.source}, from line {state.next_line} on: {error}: is a quote never closed?"
        ) from None
    return pl.DataFrame(records, schema=schema, orient="row")


def _nulls(frame: pl.DataFrame, faults: dict[int, str]) -> pl.DataFrame:
    if not faults:
        return frame
    faulty = pl.Series(np.isin(np.arange(frame.height), list(faults)))
    return frame.with_columns(pl.when(~faulty).then(pl.all()))


def _lines(buffer: bytes, read: Callable[[int], bytes], state: _Position) -> Iterator[str]:
    """Cut the rest of the file into lines, checked as text, with a sentinel after the last."""
    line = state.next_line
    while buffer:
        data = read(BLOCK_BYTES)
        cut = buffer.rfind(b"\n") + 1 if data else len(buffer)
        whole, rest = buffer[:cut], buffer[cut:]
        check_text(whole, state.source, line)
        for text in io.StringIO(whole.decode("utf-8"), newline="\n"):
            state.record_bytes += len(text)
            _require_short(state.record_bytes, line, state)
            line += 1
            yield text
        _require_short(len(rest), line, state)
        buffer = rest + data
    yield _SENTINEL


def _require_short(n_bytes: int, line: int, state: _Position) -> None:
    """Refuse a record that never seems to end, before it fills the memory."""
    if n_bytes > _MAX_RECORD_BYTES:
        raise TableError(
            f"{state.source}, line {line}: a record with more than {_MAX_RECORD_BYTES >> 20} MiB "
            "ends nowhere: is this a table, and is a quote never closed?"
        )


def _slowly(lines: Iterator[str], dialect: Dialect, state: _Position) -> Iterator[Block]:
    """Read with the csv module, which takes quotes inside of fields as they come."""
    reader = csv.reader(lines, delimiter=dialect.delimiter, skipinitialspace=True)
    first_line, n_columns = state.next_line, len(dialect.columns)
    records: list[list[str]] = []
    starts: list[int] = []
    while True:
        start = first_line + reader.line_num
        try:
            record = next(reader)
        except csv.Error as error:
            if "new-line" in str(error):
                line = first_line + reader.line_num - 1
                raise TableError(
                    f"{state.source}, line {line}: a carriage return stands inside of the line: "
                    "end every line in the same way, or put quotes around the field"
                ) from None
            raise _unclosed(start, state, str(error)) from None
        state.record_bytes = 0
        ended = record == [_SENTINEL]
        if not ended and record and record[-1].endswith(_SENTINEL):
            raise _unclosed(start, state, "it never ends")
        # Here a line of one quoted, empty field is [""] and a blank line is [].
        blank = not record or (len(record) == 1 < n_columns and not record[0].encode().strip())
        if not ended and not blank:
            records.append(record)
            starts.append(start)
        if records and (ended or len(records) == _SLOW_RECORDS):
            yield _slow_block(records, starts, dialect, state)
            records, starts = [], []
        if ended:
            return


def _slow_block(
    records: list[list[str]], starts: list[int], dialect: Dialect, state: _Position
) -> Block:
    n_columns = len(dialect.columns)
    line_numbers = np.asarray(starts, dtype=np.int64)
    counts = {i: len(r) for i, r in enumerate(records) if len(r) != n_columns}
    faults = _ragged(counts, line_numbers, n_columns, state)
    rows = [[None] * n_columns if i in faults else r for i, r in enumerate(records)]
    schema = dict.fromkeys(dialect.columns, pl.String())
    state.next_row += len(rows)
    return Block(pl.DataFrame(rows, schema=schema, orient="row"), line_numbers, faults)


def _unclosed(line: int, state: _Position, why: str) -> TableError:
    return TableError(
        f"{state.source}, line {line}: the record that starts here cannot be read ({why}): "
        "is a quote never closed?"
    )
