"""From encoded features back to cells in the user's units: the inverse of `FeatureEncoder`.

Numbers come back up to the rounding of float32, truth values and categories with a feature of
their own exactly. What the features do not hold cannot come back: of a date only its phases (time
of day, day of the week, season), of rare categories only that they are none of the frequent ones,
and a cell missing where training had none stands at the median.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.encoding import PERIODS_S, FeatureEncoder
from anomgan.tables.schema import Schema

__all__ = ["OTHER_CATEGORY", "Cell", "ColumnDecoder", "decoders"]

Cell = float | bool | str | None
"""A decoded cell; None = missing."""

OTHER_CATEGORY: Final = "another category"
"""Stands for the categories without a feature of their own, and for those never trained on."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE_S = 60.0
_LEAST_RADIUS = 0.5  # of the circle that a phase lies on; a missing date lies at its centre
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class ColumnDecoder:
    """The features of one column, read backwards.

    Parameters
    ----------
    column : Column
    encoder : FeatureEncoder
    features : int64 [w]
        Positions of its features; none for a date column without a complete period.
    input_index : int
        Its position among the numeric, or among the categorical inputs.
    """

    column: Column
    encoder: FeatureEncoder
    features: NDArray[np.int64]
    input_index: int

    @property
    def scale(self) -> float:
        """The user's units a standard deviation of a numeric column."""
        return float(self.encoder.scale[self._value_index()])

    @property
    def periods(self) -> tuple[str, ...]:
        """Calendar periods of a date column that the features tell."""
        if self.column.kind is not ColumnKind.DATETIME:
            return ()
        return tuple(p.period for p in self.encoder.phases if p.column == self.input_index)

    def surprises(self, cell: Cell) -> bool:
        """Say whether training never saw a category, or a missing cell, in this column."""
        if self.column.kind is not ColumnKind.CATEGORICAL:
            return cell is None and bool(self.encoder.missing_surprise[self.input_index] > 0.0)
        table = self.encoder.tables[self.input_index]
        return bool(table.surprise[table.codes.get(str(cell or ""), 0)] > 0.0)

    def cells(self, features: NDArray[np.floating[Any]]) -> list[Cell]:
        """Decode the cells of this column.

        Parameters
        ----------
        features : float array [n, d]
            All features of the rows.

        Returns
        -------
        list of float, bool, str or None
            Numbers, truth values, categories; of dates what is known, such as ``Tue 13:42``.
        """
        kind = self.column.kind
        if kind is ColumnKind.CATEGORICAL:
            return list(self._texts(features))
        if kind is ColumnKind.DATETIME:
            return list(self._times(features))
        numbers = self.numbers(features).tolist()
        known = [None if math.isnan(number) else number for number in numbers]
        if kind is ColumnKind.BOOLEAN:
            return [None if number is None else bool(number) for number in known]
        return list(known)

    def numbers(self, features: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Decode a numeric or boolean column: float64 [n], NaN where the cell was missing."""
        block = features[:, self.features].astype(np.float64)  # [n, w]
        value = self._value_index()
        with np.errstate(over="ignore"):  # a value at the float64 limit may round beyond it
            cells = self.encoder.mean[value] + block[:, 0] * self.encoder.scale[value]
        largest = np.finfo(np.float64).max
        cells = np.clip(cells, -largest, largest)
        if self.column.kind is ColumnKind.BOOLEAN:
            cells = np.where(cells > 0.5, 1.0, 0.0)
        missing = self._missing(block[:, 1:])
        # Missing cells that surprise nobody and have no indicator: training had no other cells.
        if missing is None and self.encoder.missing_surprise[self.input_index] == 0.0:
            missing = block[:, 0] == 0.0
        return cells if missing is None else np.where(missing, np.nan, cells)

    def _value_index(self) -> int:
        return int(np.flatnonzero(self.encoder.value_columns == self.input_index)[0])

    def _missing(self, block: NDArray[np.float64]) -> NDArray[np.bool_] | None:
        """Read the indicator, the first of `block`; None where the column has none."""
        at = np.flatnonzero(self.encoder.indicator_columns == self.input_index)
        if not len(at):
            return None
        raw = block[:, 0] * self.encoder.extra_scale[at[0]] + self.encoder.extra_mean[at[0]]
        return np.asarray(raw > 0.5)

    def _texts(self, features: NDArray[np.floating[Any]]) -> list[str | None]:
        table, width = self.encoder.tables[self.input_index], len(self.features)
        members: list[list[str]] = [[] for _ in range(width)]
        for text, code in table.codes.items():
            if table.features[code].any():
                members[int(table.features[code].argmax())].append(text)
        states = [(m[0] or None) if len(m) == 1 else OTHER_CATEGORY for m in members]
        states.append(OTHER_CATEGORY)  # no feature: a state that training never saw
        block = features[:, self.features]
        filled = np.concatenate([block, np.full((len(block), 1), 1e-9)], axis=1)
        return [states[i] for i in filled.argmax(axis=1).tolist()]

    def _times(self, features: NDArray[np.floating[Any]]) -> list[str | None]:
        block = features[:, self.features].astype(np.float64)
        missing = self._missing(block)
        if missing is None:
            missing = np.zeros(len(block), dtype=bool)
        moments: dict[str, NDArray[np.float64]] = {}
        first_phase = len(self.encoder.indicator_columns)
        for i, phase in enumerate(self.encoder.phases):
            if phase.column != self.input_index:
                continue
            place = first_phase + 2 * i  # among the extra features
            pair = slice(place, place + 2)
            start = len(self.encoder.value_columns) + place
            wave = features[:, start : start + 2] * self.encoder.extra_scale[pair]
            wave = wave + self.encoder.extra_mean[pair]
            missing = missing | (np.hypot(wave[:, 0], wave[:, 1]) < _LEAST_RADIUS)
            turn = np.arctan2(wave[:, 0], wave[:, 1]) / (2.0 * math.pi) % 1.0
            length = PERIODS_S[phase.period]
            moments[phase.period] = np.round(turn * length / _MINUTE_S) * _MINUTE_S % length
        return [
            None if missing[i] else _moment({name: float(s[i]) for name, s in moments.items()})
            for i in range(len(block))
        ]


def decoders(schema: Schema, encoder: FeatureEncoder) -> tuple[ColumnDecoder, ...]:
    """Return one decoder a column, in schema order."""
    numeric, categorical = schema.numeric_names, schema.categorical_names
    return tuple(
        ColumnDecoder(
            column=column,
            encoder=encoder,
            features=np.flatnonzero(encoder.feature_column == position),
            input_index=(categorical if column.kind is ColumnKind.CATEGORICAL else numeric).index(
                column.name
            ),
        )
        for position, column in enumerate(schema.columns)
    )


def _moment(seconds: dict[str, float]) -> str:
    """Write what is known of a date, such as ``Tue 13:42, about 12 Mar``."""
    parts = {name: _EPOCH + timedelta(seconds=s) for name, s in seconds.items()}
    words = []
    if "week" in parts:
        words.append(_DAYS[parts["week"].weekday()])
    if "day" in parts:
        words.append(f"{parts['day']:%H:%M}")
    text = " ".join(words)
    if "year" in parts:  # the features know a mean year, which is off by up to a day
        season = f"about {parts['year'].day} {_MONTHS[parts['year'].month - 1]}"
        text = f"{text}, {season}" if text else season
    return text or "not kept"
