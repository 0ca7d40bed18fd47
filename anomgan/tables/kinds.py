"""What a training column is: its kind, or the reason to set it aside."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.tables.cells import (
    GROUPED_NUMBER,
    Parsed,
    describe_bad_cell,
    is_readable,
    is_text,
    parse_cells,
    text_cells,
)
from anomgan.tables.columns import Column, ColumnKind, SetAside, SetAsideReason
from anomgan.tables.datetimes import detect_format
from anomgan.tables.faults import cell, flag, plural
from anomgan.tables.missing import WHITE_SPACE

__all__ = ["Study", "study_column"]

_NEARLY_ALL = 0.95
"""Share of readable cells above which the others are mistakes, not categories."""

_MIN_ROWS = 20
"""Rows below which "nearly all different" says nothing."""

_MAX_TEXT = 1_000
"""Characters of a category at most: the model keeps them all."""

_IDENTIFIER_SHARE, _FREE_TEXT_SHARE = 0.9, 0.5
_FREE_TEXT_WORDS, _FREE_TEXT_VALUES = 4.0, 50
_CHANCE_FREE_ROWS = 100
"""Rows from which whole numbers in a narrow range are not all different by chance."""

_ID_WORDS = frozenset(("id", "ids", "uuid", "guid", "key", "pk", "oid", "index", "idx"))
_ID_WORDS |= {"row", "rownum", "number", "no", "nr", "num", "unnamed"}
_BOOLEAN_TEXT = frozenset(("true", "false", "t", "f"))


@dataclass
class Study:
    """What one training column turned out to be; exactly one of the first two is set."""

    column: Column | None = None
    set_aside: SetAside | None = None
    faults: list[str] = field(default_factory=list)
    remedies: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def study_column(series: pl.Series, forced: ColumnKind | None, *, detect: bool) -> Study:
    """Decide what a column is.

    Parameters
    ----------
    series : polars.Series, [n]
        Raw cells, n >= 1.
    forced : ColumnKind or None
        NUMERIC or CATEGORICAL where the user says so.
    detect : bool
        Whether the column may be set aside; a forced column never is.

    Returns
    -------
    Study
        With `faults` where cells cannot be read, and neither column nor set_aside then.
    """
    name, dtype = series.name, series.dtype
    if not is_readable(dtype):
        fault = f"column {name!r}: its cells are {dtype}, not single values"
        return Study(faults=[fault], remedies=[flag("--drop", name)])
    detect = detect and forced is None
    if forced is ColumnKind.CATEGORICAL:
        return _forced_categories(series, text_cells(series))
    if forced is ColumnKind.NUMERIC:
        return _numeric(series, parse_cells(series, ColumnKind.NUMERIC), detect=False)
    if isinstance(dtype, pl.Categorical | pl.Enum) and series.null_count() < len(series):
        return _study_categories(series, text_cells(series), detect=detect)
    if is_text(dtype):
        return _study_text(series, text_cells(series), detect=detect)
    if dtype == pl.Null or series.null_count() == len(series):
        return _all_missing(series, detect=detect)
    if dtype == pl.Boolean:
        return _boolean(series, detect=detect)
    if dtype in (pl.Date, pl.Datetime):
        return _datetime(series, None, detect=detect)
    return _numeric(series, parse_cells(series, ColumnKind.NUMERIC), detect=detect)


def _study_text(series: pl.Series, text: pl.Series, *, detect: bool) -> Study:
    present = text.drop_nulls()
    if present.is_empty():
        return _all_missing(series, detect=detect)
    if set(present.unique().head(9).str.to_lowercase()) <= _BOOLEAN_TEXT:
        return _boolean(series, detect=detect)
    parsed = parse_cells(series, ColumnKind.NUMERIC)
    n_numbers = len(present) - int(parsed.bad.sum())
    grouped = present.str.contains(GROUPED_NUMBER).sum() if n_numbers < len(present) else 0
    if n_numbers + grouped >= _NEARLY_ALL * len(present):
        return _numeric(series, parsed, detect=detect)
    if (found := detect_format(present)) is not None and found.share >= _NEARLY_ALL:
        study = _datetime(series, found.format, detect=detect)
        if found.ambiguous:
            study.notes.append(
                f"column {series.name!r}: dates such as {cell(present[0])} are read as "
                "month/day/year, since nothing tells whether the day comes first: "
                "write them as YYYY-MM-DD to be sure"
            )
        return study
    mixed = ""
    if n_numbers > len(present) / 2:
        mixed = (
            f"{n_numbers:,} of its {len(present):,} values are numbers, others text such as "
            f"{cell(series[int(np.argmax(parsed.bad))])}: to read it as numbers, empty the cells "
            f"with text and pass {flag('--numeric', series.name)}"
        )
    aside = _text_aside(series.name, present, mixed) if detect else None
    if aside is not None:
        return Study(set_aside=aside)
    study = _study_categories(series, text, detect=detect)
    if mixed:
        study.notes.append(f"column {series.name!r} is read as categories, though {mixed}")
    return study


def _study_categories(series: pl.Series, text: pl.Series, *, detect: bool) -> Study:
    if _longest(text) > _MAX_TEXT:
        return _forced_categories(series, text)
    column = _categorical(series.name, text)
    if detect and len(column.categories) == 1 and not column.n_missing and len(text) > 1:
        aside = _constant_aside(series.name, column.categories[0], "--categorical")
        return Study(set_aside=aside)
    return Study(column)


def _forced_categories(series: pl.Series, text: pl.Series) -> Study:
    longest = _longest(text)
    if longest <= _MAX_TEXT:
        return Study(_categorical(series.name, text))
    where = int((text.str.len_chars() == longest).arg_max() or 0)
    fault = (
        f"row {where + 1}, column {series.name!r}: a text of {longest:,} characters is no category "
        f"(at most {_MAX_TEXT:,})"
    )
    return Study(faults=[fault], remedies=[flag("--drop", series.name)])


def _longest(text: pl.Series) -> int:
    """Characters of the longest cell, 0 without any."""
    return int(text.str.len_chars().max() or 0)  # type: ignore[arg-type]


def _categorical(name: str, text: pl.Series) -> Column:
    counts = text.drop_nulls().alias("value").value_counts(name="count")
    ordered = counts.sort(["count", "value"], descending=[True, False])
    categories = tuple(ordered["value"].to_list())
    return Column(name, ColumnKind.CATEGORICAL, categories, n_missing=text.null_count())


def _all_missing(series: pl.Series, *, detect: bool) -> Study:
    name = series.name
    if not detect:
        return Study(Column(name, ColumnKind.NUMERIC, n_missing=len(series)))
    detail = f"column {name!r} has no value in any row"
    return Study(set_aside=SetAside(name, SetAsideReason.ALL_MISSING, detail))


def _boolean(series: pl.Series, *, detect: bool) -> Study:
    values = parse_cells(series, ColumnKind.BOOLEAN).values
    present = values[~np.isnan(values)]
    if detect and values.size > 1 and present.size == values.size and np.ptp(present) == 0:
        shown = text_cells(series)[0]
        return Study(set_aside=_constant_aside(series.name, shown, "--categorical"))
    n_missing = int(values.size - present.size)
    return Study(Column(series.name, ColumnKind.BOOLEAN, n_missing=n_missing))


def _datetime(series: pl.Series, datetime_format: str | None, *, detect: bool) -> Study:
    parsed = parse_cells(series, ColumnKind.DATETIME, datetime_format)
    study = _ranged(series, parsed, ColumnKind.DATETIME, datetime_format)
    if study.column is not None and detect and _same_everywhere(parsed.values):
        shown = text_cells(series)[0]
        return Study(set_aside=_constant_aside(series.name, shown, "--categorical"))
    return study


def _numeric(series: pl.Series, parsed: Parsed, *, detect: bool) -> Study:
    study = _ranged(series, parsed, ColumnKind.NUMERIC, None)
    if study.column is None or not detect:
        return study
    if study.column.n_missing == len(series):  # a floating column of nothing but NaN
        return _all_missing(series, detect=True)
    if _same_everywhere(parsed.values):
        return Study(set_aside=_constant_aside(series.name, text_cells(series)[0], "--numeric"))
    why = _numbers_rows(series, parsed.values)
    if why is not None:
        detail = (
            f"column {series.name!r} looks like a row identifier ({why}); "
            f"use it as a feature with {flag('--numeric', series.name)}"
        )
        return Study(set_aside=SetAside(series.name, SetAsideReason.IDENTIFIER, detail))
    return study


def _ranged(
    series: pl.Series, parsed: Parsed, kind: ColumnKind, datetime_format: str | None
) -> Study:
    """Make a column with a training range, or tell every cell that cannot be read."""
    name = series.name
    if parsed.bad.any():
        where, cells = np.flatnonzero(parsed.bad).tolist(), series.filter(pl.Series(parsed.bad))
        faults = [
            f"row {i + 1}, column {name!r}: {describe_bad_cell(value, kind, datetime_format)}"
            for i, value in zip(where, cells.to_list(), strict=True)
        ]
        return Study(faults=faults, remedies=[flag("--categorical", name), flag("--drop", name)])
    present = parsed.values[~np.isnan(parsed.values)]
    low, high = (float(present.min()), float(present.max())) if present.size else (None, None)
    n_missing = int(parsed.values.size - present.size)
    return Study(Column(name, kind, (), datetime_format, low, high, n_missing))


def _same_everywhere(values: NDArray[np.float64]) -> bool:
    return values.size > 1 and bool(np.all(values == values[0]))


def _constant_aside(name: str, value: object, option: str) -> SetAside:
    detail = (
        f"column {name!r} has one value, {cell(value)}, in every row; "
        f"use it as a feature with {flag(option, name)}"
    )
    return SetAside(name, SetAsideReason.CONSTANT, detail)


def _text_aside(name: str, present: pl.Series, mixed: str) -> SetAside | None:
    """Set aside text that nearly never repeats, or that runs to sentences.

    `mixed` tells of a column that is mostly numbers, which is neither name nor prose.
    """
    n_different = present.n_unique()
    share = n_different / len(present)
    force = f"use it as a feature with {flag('--categorical', name)}"
    words = float(present.str.count_matches(r"\S+").mean() or 0.0)  # type: ignore[arg-type]
    wordy = words > _FREE_TEXT_WORDS
    enough = len(present) >= _MIN_ROWS
    if (longest := _longest(present)) > _MAX_TEXT:
        detail = (
            f"column {name!r} looks like free text (a cell has {longest:,} characters, a category "
            f"at most {_MAX_TEXT:,}); shorten its cells to use it as a feature"
        )
        return SetAside(name, SetAsideReason.FREE_TEXT, detail)
    if mixed and enough and share > _FREE_TEXT_SHARE:
        detail = f"column {name!r} is neither numbers nor categories: {mixed}; or {force}"
        return SetAside(name, SetAsideReason.FREE_TEXT, detail)
    if enough and share > _IDENTIFIER_SHARE and not wordy:
        counted = f"{n_different:,} different texts in {plural(len(present), 'row')}"
        detail = f"column {name!r} looks like a row identifier ({counted}); {force}"
        return SetAside(name, SetAsideReason.IDENTIFIER, detail)
    if (enough and share > _FREE_TEXT_SHARE) or (wordy and n_different > _FREE_TEXT_VALUES):
        counted = f"{n_different:,} different texts in {plural(len(present), 'row')}"
        detail = f"column {name!r} looks like free text ({counted}); {force}"
        return SetAside(name, SetAsideReason.FREE_TEXT, detail)
    return None


def _numbers_rows(series: pl.Series, values: NDArray[np.float64]) -> str | None:
    """Say why a column of numbers names the rows; None where it measures something."""
    n = values.size
    if n < 2 or not _whole_numbers(series) or series.n_unique() < n:
        return None
    if _is_id_name(series.name):
        return "whole numbers, all different, under the name of one"
    span = float(values.max() - values.min())
    if n >= _MIN_ROWS and span == n - 1:
        return "whole numbers that run on without a gap"
    steps = np.diff(values)
    ordered = bool((steps > 0).all() or (steps < 0).all())
    if n >= _MIN_ROWS and span < 3 * n and (ordered or n >= _CHANCE_FREE_ROWS):
        return "whole numbers, all different, that run on with few gaps"
    return None


def _whole_numbers(series: pl.Series) -> bool:
    if is_text(series.dtype):
        text = series.cast(pl.String).str.strip_chars(WHITE_SPACE)
        return bool(text.str.contains(r"^[+-]?[0-9]+$").fill_null(value=False).all())
    return series.dtype.is_integer() and not series.null_count()


def _is_id_name(name: str) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    letters = [word.lower() for word in words if not word.isdigit()]
    return bool(letters) and (letters[-1] in _ID_WORDS or letters[0] in ("id", "unnamed"))
