"""Drift on a page: what the scored rows as a whole have that the training rows had not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from anomgan.report import wording
from anomgan.report.chart import Grid
from anomgan.serving.drift import DriftReport
from anomgan.tables.schema import Schema

__all__ = ["SWITCHED_OFF", "DriftSection", "Status"]

SWITCHED_OFF: Final = "it was switched off (--no-drift)"
_NO_PROFILE: Final = (
    "the model keeps no profile of its training rows (it is a scorer on its own, or of an earlier "
    "anomgan)"
)
_NO_ROWS: Final = "no row was scored"
_MOST_ROWS: Final = 200  # of a table in the page
_SCORES: Final = "the scores"


@dataclass(frozen=True)
class Status:
    """A judgement in a word or two.

    Parameters
    ----------
    kind : "good", "warn" or "bad"
    text : str
    detail : str
        The sentence behind it.
    """

    kind: str
    text: str
    detail: str


@dataclass(frozen=True)
class DriftSection:
    """What a page says of drift.

    Parameters
    ----------
    status : Status
        For the summary.
    sentence : str
        The verdict.
    departures : Grid or None
        Each column that departs, and how; None where none does.
    evidence : Grid or None
        Of every column; None where drift was not judged.
    n_more : int
        Columns that the tables leave out.
    hint : str
        How the test is to be read; may be empty.
    """

    status: Status
    sentence: str
    departures: Grid | None = None
    evidence: Grid | None = None
    n_more: int = 0
    hint: str = ""

    @classmethod
    def of(
        cls, found: DriftReport | None, schema: Schema, *, switched_off: bool = False
    ) -> DriftSection:
        """Put a report in words.

        Parameters
        ----------
        found : DriftReport or None
            None where drift was not judged.
        schema : Schema
        switched_off : bool
            Whether that was why.
        """
        if found is None or not found.n_rows:
            why = _NO_ROWS if found is not None else _NO_PROFILE
            why = SWITCHED_OFF if switched_off else why
            sentence = f"Drift was not judged: {why}."
            return cls(Status("warn", "Drift not judged", f"{why[0].upper()}{why[1:]}."), sentence)
        columns = [d for d in found.departures if d.column is not None]
        n_columns = wording.counted(len(schema.columns), "column")
        rows = f"Taken together, the {wording.counted(found.n_rows, 'scored row')}"
        rows += " differs" if found.n_rows == 1 else " differ"
        where = [f"{wording.grouped(len(columns))} of {n_columns}"] if columns else []
        where += [_SCORES] if len(columns) < len(found.departures) else []
        if where:
            named = " and in ".join(where)
            status = Status("warn", "Drift", f"{rows} from the training rows in {named}.")
            sentence = status.detail
        else:
            sentence = f"None. {rows} from the training rows in none of {n_columns}, nor in "
            sentence += f"{_SCORES}, beyond what chance explains."
            detail = "No column departs from the training rows, nor do the scores."
            status = Status("good", "No drift", detail)
        tables = wording.grouped(round(1.0 / found.alpha))
        hint = (
            f"The test is corrected for the number of columns: it weighs {n_columns} and the "
            f"scores at once, and of {tables} tables of rows like those of training it gives a "
            "warning of any kind in at most one. A departure is told if it moved at least "
            "2\u202f% of all rows, or doubled a share."
        )
        return cls(
            *(status, sentence, _departures(found), _evidence(found, schema)),
            n_more=max(len(schema.columns) + 1 - _MOST_ROWS, 0),
            hint=hint,
        )


def _departures(found: DriftReport) -> Grid | None:
    rows = tuple((d.column or _SCORES, d.text) for d in found.departures[:_MOST_ROWS])
    return Grid(("column", "what differs"), rows) if rows else None


def _evidence(found: DriftReport, schema: Schema) -> Grid:
    least = math.log10((len(schema.columns) + 1) / found.alpha)
    names = [*(column.name for column in schema.columns), _SCORES]
    told = {d.column or _SCORES for d in found.departures}
    rows = tuple(
        (name, f"{value:.1f}", f"{least:.1f}", "yes" if name in told else "no")
        for name, value in zip(names, found.log10_e, strict=True)
    )
    headers = ("column", "evidence (decimal logarithm)", "told from", "told")
    return Grid(headers, (*rows[:-1][: _MOST_ROWS - 1], rows[-1]))
