"""One readable sentence a row: which columns drive the score, with what values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomgan.serving.verdicts import Verdicts
from anomgan.tables.datetimes import time_text
from anomgan.tables.schema import Column, ColumnKind, Rows, Schema

__all__ = ["describe_rows"]

_PATTERN = "the columns together"
_MAX_CATEGORY_CHARS = 40
_LEAST_SHARE = 0.01


def describe_rows(
    schema: Schema,
    rows: Rows,
    verdicts: Verdicts,
    *,
    top: int,
    positions: Sequence[int] | None = None,
) -> list[str]:
    """Name the largest contributions of every row.

    Parameters
    ----------
    schema : Schema
    rows : Rows
        The rows as scored.
    verdicts : Verdicts
        Their verdicts.
    top : int
        Contributions to name; those under one per cent are left out.
    positions : sequence of int, optional
        Rows to describe, in place of all.

    Returns
    -------
    list of str
        Such as ``pressure = 812 (54 %, training maximum 640); mode = 'turbo' (21 %)``;
        the percentages are shares of the positive contributions. For a row that could not be read,
        why not.
    """
    index = np.arange(len(verdicts)) if positions is None else np.asarray(positions, dtype=np.intp)
    cells = [_Cells(schema, column, rows, index) for column in schema.columns]
    weights = np.maximum(np.nan_to_num(verdicts.contributions[index]), 0.0)  # [n, n_features + 1]
    shares = weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    largest = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    named = np.take_along_axis(shares, largest, axis=1)
    reasons = []
    for i, (row, columns, parts) in enumerate(
        zip(index.tolist(), largest.tolist(), named.tolist(), strict=True)
    ):
        if row in rows.faults:
            reasons.append(rows.faults[row])
            continue
        phrases = [
            _phrase(cells, i, column, share)
            for column, share in zip(columns, parts, strict=True)
            if share >= _LEAST_SHARE
        ]
        reasons.append("; ".join(phrases))
    return reasons


def _phrase(cells: list[_Cells], i: int, column: int, share: float) -> str:
    percent = f"{100 * share:.0f} %"
    if column == len(cells):
        return f"{_PATTERN} ({percent})"
    value, note = cells[column].describe(i)
    return f"{cells[column].name} {value} ({percent}{', ' + note if note else ''})"


class _Cells:
    """The cells of one column, and how they are written out."""

    def __init__(self, schema: Schema, column: Column, rows: Rows, index: NDArray[np.intp]) -> None:
        self.name = column.name
        self._column = column
        self._categorical = column.kind is ColumnKind.CATEGORICAL
        names = schema.categorical_names if self._categorical else schema.numeric_names
        cells = rows.categorical if self._categorical else rows.numeric
        self._values: list[Any] = cells[index, names.index(column.name)].tolist()
        self._known = frozenset(column.categories)

    def describe(self, i: int) -> tuple[str, str]:
        """Return a cell as text, and what is unusual about it as such (or nothing)."""
        value = self._values[i]
        return self._describe_category(value) if self._categorical else self._describe(value)

    def _describe_category(self, value: str) -> tuple[str, str]:
        if value == "":
            return self._missing()
        shown = value if len(value) <= _MAX_CATEGORY_CHARS else value[:_MAX_CATEGORY_CHARS] + "…"
        return f"= {shown!r}", "" if value in self._known else "never seen in training"

    def _describe(self, value: float) -> tuple[str, str]:
        if math.isnan(value):
            return self._missing()
        low, high = self._column.minimum, self._column.maximum
        note = ""
        if low is not None and value < low:
            note = f"training minimum {self._write(low)}"
        elif high is not None and value > high:
            note = f"training maximum {self._write(high)}"
        return f"= {self._write(value)}", note

    def _missing(self) -> tuple[str, str]:
        return "is missing", "" if self._column.n_missing else "never missing in training"

    def _write(self, value: float) -> str:
        if self._column.kind is ColumnKind.BOOLEAN:
            return "true" if value else "false"
        if self._column.kind is ColumnKind.DATETIME:
            return time_text(value)
        return f"{value:.6g}"
