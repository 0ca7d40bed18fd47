"""Normal rows and others, by a label column."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.tables.cells import is_readable, is_text, text_cells
from anomgan.tables.faults import cell, did_you_mean, quoted_names
from anomgan.tables.missing import MISSING_TOKENS, WHITE_SPACE

__all__ = ["ANOMALOUS_BY_DEFAULT", "NORMAL_BY_DEFAULT", "LabelReader", "anomalous", "keep_normal"]

NORMAL_BY_DEFAULT: Final = ("0", "0.0", "false", "normal")
"""Labels of normal rows where none is named, in any case."""

ANOMALOUS_BY_DEFAULT: Final = ("1", "1.0", "true", "anomaly")
"""Labels of other rows where no normal value is named, in any case."""

_MAX_VALUES = 10
_MAX_COUNTED = 10_000  # distinct labels kept for messages: a column of names must not fill memory


class LabelReader:
    """Tells anomalous rows from normal ones, batch by batch.

    Parameters
    ----------
    label : str
        Name of the label column.
    normal : sequence of str
        Its values in normal rows, compared as stripped text; where both are numbers, as numbers
        (``0`` is ``0.0``). Any other value is an anomaly. ``""`` stands for a missing label.
        Empty: `NORMAL_BY_DEFAULT` and `ANOMALOUS_BY_DEFAULT` are told apart, and anything else is
        refused.
    source : str
        For messages.

    Attributes
    ----------
    n_normal, n_anomalous : int
        Rows read so far.
    """

    def __init__(self, label: str, normal: Sequence[str], source: str) -> None:
        self._label = label
        self._normal = tuple(normal)
        self._source = source
        self._counts: Counter[str] = Counter()
        self.n_normal = 0
        self.n_anomalous = 0

    def read(
        self,
        frame: pl.DataFrame,
        first_row: int = 1,
        line_numbers: NDArray[np.int64] | None = None,
        *,
        unreadable: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.bool_]:
        """Return which rows of one batch are anomalous.

        Parameters
        ----------
        frame : polars.DataFrame, [n]
        first_row : int
            Number of the batch's first row, for messages.
        line_numbers : ndarray of int64 [n], optional
            Lines on which the rows start, for messages (`Batch.line_numbers`).
        unreadable : ndarray of bool [n], optional
            Rows that need no label, and do not count.

        Returns
        -------
        bool array [n]
            False where unreadable.

        Raises
        ------
        UsageError
            No such column, a label is missing (the first such row is named), or no normal value
            is named and the labels do not speak for themselves.
        """
        text = _label_text(frame, self._label, self._normal, self._source)
        needed = np.ones(len(text), dtype=np.bool_) if unreadable is None else ~unreadable
        missing = np.flatnonzero(text.is_null().to_numpy() & needed)
        if len(missing):
            row = f"row {first_row + int(missing[0])}"
            line = "" if line_numbers is None else f" (line {line_numbers[missing[0]]})"
            raise UsageError(
                f"{self._source}: {row}{line} has no label in column {self._label!r}: label every "
                "row or leave such rows out; where no label means normal, give --normal ''"
            )
        text = text.filter(pl.Series(needed))
        self._count(text)
        flagged = ~(_is_one_of(text, self._normal) if self._normal else self._by_default(text))
        answer = np.zeros(len(needed), dtype=np.bool_)
        answer[needed] = flagged.to_numpy()
        self.n_anomalous += int(answer.sum())
        self.n_normal += int(needed.sum()) - int(answer.sum())
        return answer

    def finish(self) -> None:
        """Complain where all that was read is of one kind; to be called after the last batch.

        Raises
        ------
        UsageError
            No normal row was read (the values found are listed), or no anomalous one.
        """
        if not self.n_normal:
            raise _no_normal_row(self._source, self._label, self._normal, self._counts)
        if not self.n_anomalous:
            raise UsageError(
                f"{self._source}: every row is normal by {self._label!r}; labelled anomalies are "
                "needed as well"
            )

    def _by_default(self, text: pl.Series) -> pl.Series:
        folded = text.str.to_lowercase()
        normal = folded.is_in(list(NORMAL_BY_DEFAULT))
        if not (normal | folded.is_in(list(ANOMALOUS_BY_DEFAULT))).all():
            # The values that do not speak for themselves first: others may fill the list.
            known = (*NORMAL_BY_DEFAULT, *ANOMALOUS_BY_DEFAULT)
            found = sorted(self._counts, key=lambda value: (value.lower() in known, value))
            raise UsageError(
                f"{self._source}: which values of {self._label!r} are normal? Name them with "
                f"--normal VALUE; there are {', '.join(found[:_MAX_VALUES])}"
            )
        return normal

    def _count(self, text: pl.Series) -> None:
        values = text.alias("value").value_counts(name="count")
        for value, n in values.iter_rows():
            if value in self._counts or len(self._counts) < _MAX_COUNTED:
                self._counts[value] += n


def anomalous(
    frame: pl.DataFrame, label: str, normal: Sequence[str], source: str
) -> NDArray[np.bool_]:
    """Return which rows of a whole table are anomalous: `LabelReader` on a single batch.

    Raises
    ------
    UsageError
        As `LabelReader.read` and `LabelReader.finish`.
    """
    reader = LabelReader(label, normal, source)
    answer = reader.read(frame)
    reader.finish()
    return answer


def keep_normal(
    frame: pl.DataFrame, label: str, normal: Sequence[str], *, source: str
) -> pl.DataFrame:
    """Return the rows whose label is one of the normal values.

    Parameters
    ----------
    frame : polars.DataFrame
    label : str
        Name of the label column.
    normal : sequence of str
        As for `LabelReader`; rows without a label are left out.
    source : str
        For messages.

    Raises
    ------
    UsageError
        No such column (the columns are listed), or no such row (the values are listed).
    """
    text = _label_text(frame, label, normal, source)
    kept = frame.filter(_is_one_of(text, normal).fill_null(value=False))
    if kept.is_empty():
        values = text.drop_nulls().alias("value").value_counts(sort=True, name="count")
        raise _no_normal_row(source, label, normal, Counter(dict(values.iter_rows())))
    return kept


def _label_text(frame: pl.DataFrame, label: str, normal: Sequence[str], source: str) -> pl.Series:
    """Return stripped labels, missing = null, but for missing ones that `normal` names."""
    if label not in frame.columns:
        raise UsageError(
            f"{source}: no label column {label!r}{did_you_mean(label, frame.columns)}: "
            f"the columns are {quoted_names(frame.columns)}"
        )
    series = frame[label]
    if not is_readable(series.dtype):
        raise UsageError(f"{source}: label column {label!r} holds no single values")
    text = text_cells(series).cast(pl.String)
    wanted = {value.strip() for value in normal}
    named = sorted(wanted & set(MISSING_TOKENS))
    if named and is_text(series.dtype):
        stripped = series.cast(pl.String).str.strip_chars(WHITE_SPACE)
        asked = pl.when(stripped.is_in(named)).then(stripped).otherwise(text)
        text = pl.select(asked.alias("label")).to_series()
    return text.fill_null("") if "" in wanted else text


def _is_one_of(text: pl.Series, normal: Sequence[str]) -> pl.Series:
    wanted = [value.strip() for value in normal]
    numbers = pl.Series(wanted, dtype=pl.String).cast(pl.Float64, strict=False).drop_nulls()
    return text.is_in(wanted) | text.cast(pl.Float64, strict=False).is_in(
        numbers.to_list()
    ).fill_null(value=False)


def _no_normal_row(
    source: str, label: str, normal: Sequence[str], counts: Counter[str]
) -> UsageError:
    found = [f"{cell(v)} ({n:,})" for v, n in counts.most_common(_MAX_VALUES)]
    more = f", and {len(counts) - _MAX_VALUES:,} more" if len(counts) > _MAX_VALUES else ""
    asked = " or ".join(repr(value) for value in normal or NORMAL_BY_DEFAULT)
    return UsageError(
        f"{source}: no row has {asked} in label column {label!r}: name the normal value "
        f"among those found (with their rows): {', '.join(found)}{more}"
    )
