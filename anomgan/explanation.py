"""Why a row has its score: which columns, against what normal rows have there, and its neighbours.

numpy and the production side only: `explain_rows` needs neither torch nor scikit-learn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from anomgan.bundle import Bundle
from anomgan.calibration import is_extrapolated
from anomgan.errors import SchemaError, UsageError
from anomgan.evaluation.expectation import Expected, Neighbour, NormalRows
from anomgan.serving.scorer import Scorer
from anomgan.serving.verdicts import DISCRIMINATOR, Verdicts
from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.datetimes import time_text
from anomgan.tables.decoding import Cell, ColumnDecoder
from anomgan.tables.readers import Batch, read_table
from anomgan.tables.schema import Rows

__all__ = [
    "DISCRIMINATOR_MEANING",
    "ColumnReason",
    "Explanation",
    "cell_text",
    "explain_rows",
    "rarity",
]

DISCRIMINATOR_MEANING: Final = (
    "what the networks hold against the row as a whole, for the combination of its values; no "
    "single column accounts for it, and normal rows have some of it too"
)

_UNUSUAL = 0.01  # least share of the score for which a date is called unusual
_RARE = 1e9


@dataclass(frozen=True)
class ColumnReason:
    """One column's part in a score.

    Parameters
    ----------
    name : str
    kind : ColumnKind
    observed : float, bool, str or None
        The cell: dates as ISO 8601 text, None = missing.
    expected : Expected or None
        What normal rows have here that agree with the row elsewhere; None for dates, for columns
        that are not scored, and without normal rows to ask.
    contribution : float
        Nats of the score.
    share : float
        Of the positive contributions, 0 to 1.
    note : str
        What is odd about the cell by itself; may be empty.
    """

    name: str
    kind: ColumnKind
    observed: Cell
    expected: Expected | None
    contribution: float
    share: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "column": self.name,
            "kind": self.kind.value,
            "observed": self.observed,
            "expected": None if self.expected is None else self.expected.to_dict(),
            "contribution": self.contribution,
            "share": self.share,
            "note": self.note,
        }


@dataclass(frozen=True)
class Explanation:
    """Why one row has its score.

    Parameters
    ----------
    row : int
        1-based number in its table.
    identifier : str or None
    score : float
        Nats: the sum of the contributions of `columns`, and of `discriminator`.
    p_value : float
        Share of normal rows expected to score at least as high.
    extrapolated : bool
        The p-value lies below what the calibration rows can count.
    is_anomaly : bool
        Flagged at `false_alarm_rate`.
    false_alarm_rate : float
    threshold : float or None
        Score from which rows are flagged at the model's own rate, where the model states it.
    columns : tuple of ColumnReason
        Largest contribution first.
    discriminator : float
        Contribution that belongs to no column.
    discriminator_share : float
        As `ColumnReason.share`.
    neighbours : tuple of Neighbour
        The nearest normal rows, nearest first.
    """

    row: int
    identifier: str | None
    score: float
    p_value: float
    extrapolated: bool
    is_anomaly: bool
    false_alarm_rate: float
    threshold: float | None
    columns: tuple[ColumnReason, ...]
    discriminator: float
    discriminator_share: float
    neighbours: tuple[Neighbour, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "row": self.row,
            "id": self.identifier,
            "score": self.score,
            "p_value": self.p_value,
            "p_value_is_extrapolated": self.extrapolated,
            "p_value_in_words": rarity(self.p_value),
            "is_anomaly": self.is_anomaly,
            "false_alarm_rate": self.false_alarm_rate,
            "threshold": self.threshold,
            "columns": [column.to_dict() for column in self.columns],
            DISCRIMINATOR: {
                "contribution": self.discriminator,
                "share": self.discriminator_share,
                "meaning": DISCRIMINATOR_MEANING,
            },
            "neighbours": [neighbour.to_dict() for neighbour in self.neighbours],
        }


def explain_rows(
    scorer: Scorer,
    normal: Bundle | NormalRows | None,
    rows: Any,
    positions: Sequence[int] | None = None,
    *,
    verdicts: Verdicts | None = None,
    neighbours: int = 3,
) -> list[Explanation]:
    """Say why rows have their scores.

    Parameters
    ----------
    scorer : Scorer
    normal : Bundle, NormalRows or None
        The model directory of the scorer, or the normal rows that it keeps: what is expected is
        taken from them. None: contributions only.
    rows : Rows, Batch, or a table in memory
        As `anomgan.tables.read_table` takes it.
    positions : sequence of int, optional
        Rows to explain, from 0; by default all.
    verdicts : Verdicts, optional
        Of `rows`, where they have been scored already.
    neighbours : int
        Nearest normal rows to name.

    Returns
    -------
    list of Explanation
        In the order of `positions`.

    Raises
    ------
    UsageError
        A position outside the rows; a negative number of neighbours.
    SchemaError
        The table does not fit the model; a row to explain cannot be read.
    ModelCorruptError
        The normal rows are damaged, or of another model.

    Examples
    --------
    >>> scorer = Scorer.open("anomgan-model")  # doctest: +SKIP
    >>> normal = Bundle.open("anomgan-model")  # doctest: +SKIP
    >>> (why,) = explain_rows(scorer, normal, table, [16])  # doctest: +SKIP
    >>> why.columns[0].name, why.columns[0].expected.value  # doctest: +SKIP
    ('pressure', 99.8)
    """
    if neighbours < 0:
        raise UsageError(f"the number of neighbours must be 0 or more, got {neighbours}")
    known = NormalRows.of(normal) if isinstance(normal, Bundle) else normal
    if known is not None and known.schema != scorer.schema:
        raise UsageError(
            "the normal rows are those of another model than the scorer: their columns differ; "
            "open both from the same directory"
        )
    if isinstance(rows, Rows):
        read = rows
    else:
        batch = rows if isinstance(rows, Batch) else Batch(read_table(rows), 1, "<table>")
        read = scorer.schema.rows(batch, on_bad_row="skip")
    index = _checked_positions(read, positions)
    explainer = _Explainer(scorer, known, read, neighbours)
    if verdicts is not None:
        return [explainer.explain(i, verdicts, i) for i in index]
    judged = scorer.score(_taken(read, index))
    return [explainer.explain(i, judged, k) for k, i in enumerate(index)]


def _checked_positions(rows: Rows, positions: Sequence[int] | None) -> list[int]:
    n = len(rows.numeric)
    index = list(range(n)) if positions is None else [int(i) for i in positions]
    outside = [i for i in index if not 0 <= i < n]
    if outside:
        raise UsageError(f"positions {outside} lie outside the {n} rows; give 0 to {n - 1}")
    faults = [f"row {rows.first_row + i}: {rows.faults[i]}" for i in index if i in rows.faults]
    if faults:
        raise SchemaError(
            f"rows that cannot be read have no score: {'; '.join(faults)}; fix their cells", faults
        )
    return index


def _taken(rows: Rows, index: Sequence[int]) -> Rows:
    at = np.asarray(index, dtype=np.intp)
    return Rows(rows.numeric[at], rows.categorical[at], None, rows.first_row)


@dataclass(frozen=True)
class _Explainer:
    """Rows of one table, and what it takes to explain them."""

    scorer: Scorer
    known: NormalRows | None
    rows: Rows
    neighbours: int

    def explain(self, i: int, verdicts: Verdicts, k: int) -> Explanation:
        """Explain the row `i`, whose verdict is the `k`-th."""
        columns, contributions = self.scorer.schema.columns, verdicts.contributions[k]
        parts = [float(part) for part in contributions]
        positive = math.fsum(max(part, 0.0) for part in parts)
        shares = [part / positive if positive > 0.0 else 0.0 for part in parts]
        expected: list[Expected | None] = [None] * len(columns)
        near: list[Neighbour] = []
        if self.known is not None:
            expected, near = self.known.around(self.rows, i, self.neighbours)
        reasons = [
            self._reason(i, j, expected[j], parts[j], shares[j]) for j in range(len(columns))
        ]
        ids = self.rows.ids
        p_value, calibration = float(verdicts.p_value[k]), self.scorer.calibration_of(self.rows, i)
        threshold = float(calibration.get("threshold", math.nan))
        return Explanation(
            row=self.rows.first_row + i,
            identifier=None if ids is None or ids[i] is None else str(ids[i]),
            score=float(verdicts.score[k]),
            p_value=p_value,
            extrapolated=bool(is_extrapolated(p_value, calibration.get("resolution", 0.0))),
            is_anomaly=bool(verdicts.is_anomaly[k]),
            false_alarm_rate=verdicts.false_alarm_rate,
            threshold=threshold if math.isfinite(threshold) else None,
            columns=tuple(sorted(reasons, key=lambda reason: -reason.contribution)),
            discriminator=parts[-1],
            discriminator_share=shares[-1],
            neighbours=tuple(near),
        )

    def _reason(
        self, i: int, j: int, expected: Expected | None, contribution: float, share: float
    ) -> ColumnReason:
        column = self.scorer.schema.columns[j]
        decoder = None if self.known is None else self.known.decoders[j]
        cell = self._cell(column, i)
        note = _note(column, cell, share, decoder)
        observed = cell
        if column.kind is ColumnKind.DATETIME and isinstance(cell, float):
            observed = time_text(cell)
        return ColumnReason(column.name, column.kind, observed, expected, contribution, share, note)

    def _cell(self, column: Column, i: int) -> Cell:
        """Return a cell as read: dates as seconds, None = missing."""
        schema = self.scorer.schema
        if column.kind is ColumnKind.CATEGORICAL:
            place = schema.categorical_names.index(column.name)
            return str(self.rows.categorical[i, place]) or None
        number = float(self.rows.numeric[i, schema.numeric_names.index(column.name)])
        if math.isnan(number):
            return None
        return bool(number) if column.kind is ColumnKind.BOOLEAN else number


def _note(column: Column, cell: Cell, share: float, decoder: ColumnDecoder | None) -> str:
    """Say what is odd about a cell by itself."""
    seen = column.n_missing > 0
    if column.kind is ColumnKind.CATEGORICAL and cell is not None:
        seen = cell in column.categories
    if cell is None or column.kind is ColumnKind.CATEGORICAL:
        what = "missing" if cell is None else "seen"
        if not seen:
            return f"never {what} in training"
        surprising = decoder is not None and decoder.surprises(cell)
        return f"{what} only among the rows held out of training" if surprising else ""
    if column.kind is ColumnKind.DATETIME:
        # New rows always lie beyond the dates of training: the range says nothing.
        if decoder is not None and not decoder.periods:
            return "not scored: training covers no period twice"
        return "an unusual time" if share >= _UNUSUAL else ""
    if column.kind is ColumnKind.NUMERIC and isinstance(cell, float):
        if column.minimum is not None and cell < column.minimum:
            return f"below the training minimum {cell_text(column.minimum)}"
        if column.maximum is not None and cell > column.maximum:
            return f"above the training maximum {cell_text(column.maximum)}"
    return ""


def cell_text(cell: Cell) -> str:
    """Write a cell for people: 1.5, true, a text as it stands, missing."""
    if cell is None:
        return "missing"
    if isinstance(cell, bool):
        return "true" if cell else "false"
    # Fifteen digits give back every number that was written with so many.
    return f"{cell:.15g}" if isinstance(cell, float) else cell


def rarity(p_value: float) -> str:
    """Put a p-value in words: ``about 1 normal row in 2 500``."""
    if p_value > 0.1:
        return f"about {100.0 * p_value:.0f} of 100 normal rows"
    if p_value * _RARE < 1.0:
        return "fewer than 1 normal row in 1 000 000 000"
    rows = float(f"{1.0 / p_value:.2g}")
    return f"about 1 normal row in {rows:,.0f}".replace(",", " ")
