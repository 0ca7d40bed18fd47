"""How a CSV file is written: its delimiter and its header, found in its first bytes."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anomgan.errors import TableError, UsageError
from anomgan.tables.faults import listing, quoted_names

__all__ = ["DELIMITERS", "Dialect", "check_delimiter", "check_names", "find_dialect"]

DELIMITERS = (",", ";", "\t", "|")
"""Detected by themselves; any other single character can be asked for."""

FIRST_COLUMN_NAME = "Unnamed: 0"
"""Name given to a nameless first column: how pandas writes its row index."""

_SAMPLE_RECORDS = 100
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DELIMITER_NAMES = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


@dataclass(frozen=True)
class Dialect:
    """What is needed to read the rest of the file.

    Parameters
    ----------
    delimiter : str
        One ASCII character.
    columns : tuple of str
        Header names, stripped, unique.
    header_bytes : int
        Where the first data record starts.
    header_lines : int
        Physical lines before it.
    """

    delimiter: str
    columns: tuple[str, ...]
    header_bytes: int
    header_lines: int


def check_delimiter(delimiter: str) -> str:
    """Return the delimiter asked for, as one character; raise UsageError if it is none."""
    resolved = _DELIMITER_NAMES.get(delimiter.lower(), delimiter)
    if len(resolved) != 1 or not resolved.isascii() or resolved in '"\r\n\0':
        raise UsageError(
            f"delimiter {delimiter!r} is not one ASCII character: use ',', ';', '|' or 'tab'"
        )
    return resolved


def find_dialect(sample: str, source: str, delimiter: str | None = None) -> Dialect:
    """Read the header, after finding the delimiter where none is given.

    Parameters
    ----------
    sample : str
        The file's beginning: whole lines, or everything there is.
    source : str
        For messages.
    delimiter : str, optional

    Raises
    ------
    TableError
        Empty file; nameless, repeated or number-like header names.
    """
    skipped = 0
    if directive := re.match(r"sep=(.)\r?\n", sample):  # written by Excel, for Excel
        skipped, delimiter = directive.end(), delimiter or directive[1]
    body = sample[skipped:]
    if delimiter is None:
        delimiter = _detect(body)
    lines = _CountedLines(body)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        header = next((record for record in reader if "".join(record).strip()), None)
    except csv.Error as error:
        raise TableError(f"{source}: the header line cannot be read: {error}") from None
    if header is None:
        raise TableError(f"{source} is empty: expected a header line with column names, then rows")
    names = [name.strip() for name in header]
    if not names[0] and len(names) > 1:
        names[0] = FIRST_COLUMN_NAME
    check_names(names, source, csv_header=True)
    consumed = len(sample[:skipped].encode()) + lines.n_bytes
    return Dialect(delimiter, tuple(names), consumed, lines.n_lines + (skipped > 0))


def check_names(names: Sequence[str], source: str, *, csv_header: bool = False) -> None:
    """Raise a TableError naming every empty or repeated column name."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names, start=1):
        places.setdefault(name, []).append(place)
    faults = [f"column {place} has no name" for place in places.pop("", [])]
    faults += [
        f"{name!r} names {len(at)} columns: {', '.join(map(str, at))}"
        for name, at in places.items()
        if len(at) > 1
    ]
    no_header = csv_header and _looks_like_data(names)
    if no_header and not faults:
        faults = [f"it holds only numbers: {quoted_names(names, 5)}"]
    if faults:
        remedy = "give every column a name of its own"
        if csv_header:
            remedy += "; if the file has no header line, put one in front"
        raise TableError(listing(f"{source}: the header is unusable", faults, remedy), faults)


def _looks_like_data(names: Sequence[str]) -> bool:
    # Whole numbers are common names (0, 1, 2 from a matrix; years): only a sign, a
    # fraction or an exponent gives a first row of data away.
    numbers = all(_NUMBER.fullmatch(name) for name in names if name)
    return numbers and not all(name.isdigit() for name in names if name)


def _detect(sample: str) -> str:
    """Choose the delimiter that splits most records like the header, into most fields."""
    best, best_key = ",", (0.0, 1)
    for delimiter in DELIMITERS:
        counts = _field_counts(sample, delimiter)
        if not counts or counts[0] < 2:
            continue
        agreeing = Counter(counts)[counts[0]] / len(counts)
        key = (round(agreeing, 1), counts[0])
        if key > best_key:
            best, best_key = delimiter, key
    return best


def _field_counts(sample: str, delimiter: str) -> list[int]:
    reader = csv.reader(io.StringIO(sample, newline="\n"), delimiter=delimiter)
    counts: list[int] = []
    try:
        for record in reader:
            if record:
                counts.append(len(record))
            if len(counts) == _SAMPLE_RECORDS:
                break
    except csv.Error:  # a cell beyond csv's size limit: not this delimiter's quoting
        return counts
    return counts


class _CountedLines:
    """Lines of a text, ended by line feeds alone, counting what has been handed out."""

    def __init__(self, text: str) -> None:
        self._lines = io.StringIO(text, newline="\n")
        self.n_bytes = 0
        self.n_lines = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.n_bytes += len(line.encode())
        self.n_lines += 1
        return line
