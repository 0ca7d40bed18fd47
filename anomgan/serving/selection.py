"""Rows picked out of a table of any length: by number, by identifier, or by the highest score."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from anomgan.errors import SchemaError, UsageError
from anomgan.serving.scorer import ScoredBatch, Scorer
from anomgan.tables.faults import MAX_LISTED, listing, plural, quoted_names
from anomgan.tables.readers import Batch, TableReader

__all__ = ["MOST_OF_ONE_NAME", "Selection", "select_rows"]

MOST_OF_ONE_NAME: Final = 100
"""Rows that one identifier may name; it is no identifier beyond."""

Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Selection:
    """Selected rows.

    Parameters
    ----------
    rows : tuple of ScoredBatch
        Of one readable row each: in the order asked for, or the highest score first.
    n_read : int
        Rows of the table that were read.
    n_unreadable : int
        Rows among them that have no score; counted only where all rows were scored.
    """

    rows: tuple[ScoredBatch, ...]
    n_read: int
    n_unreadable: int = 0


def select_rows(
    scorer: Scorer,
    reader: TableReader,
    *,
    numbers: Sequence[int] = (),
    identifiers: Sequence[str] = (),
    top: int | None = None,
    progress: Progress = None,
) -> Selection:
    """Pick and score rows of a table, in one pass and in constant memory.

    Parameters
    ----------
    scorer : Scorer
    reader : TableReader
        Opened with ``on_bad_row="skip"``, or rows that nobody asked for may raise.
    numbers : sequence of int
        1-based data rows.
    identifiers : sequence of str
        Values of the identifier column.
    top : int, optional
        Rows with the highest scores, ties by row number; 1 where nothing else is asked for.
    progress : callable, optional
        Called with the rows read after each batch.

    Raises
    ------
    UsageError
        More than one way to pick; a row or an identifier that is not in the table.
    SchemaError
        The table lacks columns; or a row that was asked for cannot be read.
    TableError
        The table cannot be read.
    """
    asked = [
        option
        for option, given in (
            ("--row", bool(numbers)),
            ("--id", bool(identifiers)),
            ("--top", top is not None),
        )
        if given
    ]
    if len(asked) > 1:
        raise UsageError(f"{' and '.join(asked)} are different ways to pick rows; use one of them")
    if numbers:
        return _by_number(scorer, reader, list(dict.fromkeys(numbers)), progress)
    if identifiers:
        return _by_identifier(scorer, reader, list(dict.fromkeys(identifiers)), progress)
    return _by_score(scorer, reader, 1 if top is None else top, progress)


def _by_number(
    scorer: Scorer, reader: TableReader, numbers: list[int], progress: Progress
) -> Selection:
    if min(numbers) < 1:
        raise UsageError(f"--row {min(numbers)}: rows are counted from 1, without the header")
    found: dict[int, Batch] = {}
    n_read = 0
    for batch in _batches(reader, progress):
        n_read = batch.first_row + batch.frame.height - 1
        for number in numbers:
            if batch.first_row <= number <= n_read:
                found[number] = _one(batch, number - batch.first_row)
        if len(found) == len(numbers):
            break
    absent = [number for number in numbers if number not in found]
    if absent:
        faults = [f"--row {number}: no such row" for number in absent]
        remedy = f"give a number from 1 to {n_read}; the header and blank lines do not count"
        headline = f"{reader.source} has {plural(n_read, 'row')}"
        raise UsageError(listing(headline, faults, remedy), faults)
    return Selection(_scored(scorer, [found[number] for number in numbers]), n_read)


def _by_identifier(
    scorer: Scorer, reader: TableReader, names: list[str], progress: Progress
) -> Selection:
    column = _identifier_column(scorer, reader)
    wanted = {name.strip(): name for name in names}
    found: dict[str, list[Batch]] = {name: [] for name in wanted}
    n_read = 0
    for batch in _batches(reader, progress):
        n_read += batch.frame.height
        texts = batch.frame[column].cast(pl.String, strict=False).str.strip_chars()
        for i in texts.is_in(list(wanted)).fill_null(value=False).arg_true().to_list():
            rows = found[texts[i]]
            rows.append(_one(batch, i))
            if len(rows) > MOST_OF_ONE_NAME:
                raise UsageError(
                    f"--id {texts[i]}: more than {MOST_OF_ONE_NAME} rows of {reader.source} have "
                    f"this value in column {column!r}; name rows by number: --row "
                    f"{rows[0].first_row}"
                )
    faults = [f"--id {wanted[name]}: no such row" for name, rows in found.items() if not rows]
    if faults:
        headline = f"{reader.source}, column {column!r}, {plural(n_read, 'row')}"
        remedy = "give the value as it stands in the table, or the number of the row with --row"
        raise UsageError(listing(headline, faults, remedy), faults)
    return Selection(_scored(scorer, [row for rows in found.values() for row in rows]), n_read)


def _identifier_column(scorer: Scorer, reader: TableReader) -> str:
    name = scorer.schema.id_column
    if name is None:
        raise UsageError(
            "--id: the model knows no identifier column; name rows by number (--row), or fit again "
            "with --id-column"
        )
    if name not in reader.columns:
        raise UsageError(
            f"--id: {reader.source} lacks the identifier column {name!r}; it has "
            f"{quoted_names(reader.columns)}; name rows by number (--row)"
        )
    return name


def _by_score(scorer: Scorer, reader: TableReader, top: int, progress: Progress) -> Selection:
    if top < 1:
        raise UsageError(f"--top must be at least 1, got {top}")
    kept: list[tuple[float, int, Batch]] = []  # the lowest score first, later rows before earlier
    n_read = n_unreadable = 0
    faults: list[str] = []
    for item in scorer.stream_batches(reader, on_bad_row="skip"):
        n_read += len(item.verdicts)
        bad = item.rows.faults
        n_unreadable += len(bad)
        faults += [
            f"{item.batch.place(i)}, {bad[i]}" for i in sorted(bad)[: MAX_LISTED - len(faults)]
        ]
        scores = np.nan_to_num(item.verdicts.score.astype(np.float64), nan=-np.inf)
        floor = kept[0][0] if len(kept) == top else -np.inf
        for i in np.argsort(-scores, kind="stable")[:top].tolist():
            if scores[i] > floor:
                entry = (float(scores[i]), -(item.batch.first_row + i), _one(item.batch, i))
                (heapq.heappush if len(kept) < top else heapq.heappushpop)(kept, entry)
        if progress is not None:
            progress(n_read)
    if not kept:
        remedy = "fix the cells, or leave them empty if the value is unknown"
        headline = f"{reader.source}: no row has a score"
        raise SchemaError(listing(headline, faults, remedy, n_unreadable), faults)
    kept.sort(reverse=True)
    return Selection(_scored(scorer, [batch for _, _, batch in kept]), n_read, n_unreadable)


def _batches(reader: TableReader, progress: Progress) -> Iterator[Batch]:
    for batch in reader:
        yield batch
        if progress is not None:
            progress(batch.first_row + batch.frame.height - 1)


def _one(batch: Batch, i: int) -> Batch:
    """One row of a batch as a batch of its own: what is kept must not grow with the table."""
    lines = None if batch.line_numbers is None else batch.line_numbers[i : i + 1].copy()
    faults = {0: batch.faults[i]} if i in batch.faults else {}
    frame = batch.frame[[i]]
    # A text that is taken out of a column shares the memory of the whole column.
    texts = [column for column in frame.get_columns() if column.dtype == pl.String]
    frame = frame.with_columns(pl.Series(t.name, t.to_list(), dtype=pl.String) for t in texts)
    return Batch(frame, batch.first_row + i, batch.source, lines, faults)


def _scored(scorer: Scorer, batches: Sequence[Batch]) -> tuple[ScoredBatch, ...]:
    """Score batches of one row; a row's score does not depend on its company."""
    read = [(batch, scorer.schema.rows(batch, on_bad_row="skip")) for batch in batches]
    faults = [f"{batch.place(0)}, {rows.faults[0]}" for batch, rows in read if rows.faults]
    if faults:
        remedy = "fix the cells, or leave them empty if the value is unknown; then ask again"
        headline = f"{batches[0].source}: a row that cannot be read has no score"
        raise SchemaError(listing(headline, faults, remedy), faults)
    return tuple(ScoredBatch(batch, rows, scorer.score(rows)) for batch, rows in read)
