"""From checked rows to the features that the networks see.

The encoder is plain numpy on the training side; `anomgan.export` writes the same
arithmetic into the scoring graph. Features come in four blocks, in this order:

1. values of numeric and boolean columns, standardised in float64 (float32 would ruin
   timestamps and large counters), missing cells filled with the median;
2. indicators of missing cells, for columns that had missing cells in training;
3. phases of datetime columns (time of day, day of week, season), as sine and cosine: never
   the absolute time, which new rows always exceed;
4. one-hot categories.

A state never seen in training (an unseen category, a missing cell in a column that was
always filled) is no feature, because training holds no example of it: it adds the
*surprise* log(n + 1) nats to its column, the negative log of the rule-of-succession bound on
the probability of an event unseen in n rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import SchemaError
from anomgan.tables.schema import ColumnKind, Rows, Schema

__all__ = [
    "COSINE",
    "FAR",
    "PERIODS_S",
    "SINE",
    "CategoryTable",
    "Encoded",
    "FeatureEncoder",
    "Phase",
    "sine_and_cosine",
]

FAR = 1e6
"""Standardised values are clipped here: far beyond any table, well inside float32's squares."""
PERIODS_S = {"day": 86_400.0, "week": 604_800.0, "year": 31_556_952.0}
"""Calendar periods in seconds; a year is the mean Gregorian one."""
MAX_CATEGORIES = 64
"""Most frequent categories with a feature of their own; the rest share one."""
MIN_DEVIATION = 0.1
"""Least standard deviation that an indicator or category is divided by (a 1 % category):
rarer states would otherwise outweigh all measured values."""
CATEGORY_DISTANCE = 1.0 / math.sqrt(2.0)
"""A category's two features differ together by the weight of one numeric column."""

Float64 = NDArray[np.float64]
Float32 = NDArray[np.float32]

SINE: Final = tuple((-1.0) ** k / math.factorial(2 * k + 1) for k in range(12, -1, -1))
COSINE: Final = tuple((-1.0) ** k / math.factorial(2 * k) for k in range(12, -1, -1))
"""Taylor coefficients of sin(x) / x and of cos(x) in x^2, the highest power first."""


@dataclass(frozen=True)
class Phase:
    """One calendar phase of one datetime column: features sin and cos.

    Attributes
    ----------
    column : int
        Index into the numeric input.
    period : str
        Key of `PERIODS_S`.
    """

    column: int
    period: str


@dataclass(frozen=True)
class CategoryTable:
    """Feature rows of one categorical column, by code.

    Attributes
    ----------
    codes : dict of str to int
        Known texts. Code 0 is "never seen", code 1 "missing" (the empty text).
    features : float32 [n_codes, width]
    surprise : float32 [n_codes]
        Nats added to the column.
    """

    codes: dict[str, int]
    features: Float32
    surprise: Float32


@dataclass(frozen=True)
class Encoded:
    """Encoded rows.

    Attributes
    ----------
    features : float32 [n, d]
    surprise : float32 [n, n_columns]
        Nats a column adds for a state never seen in training, schema order.
    """

    features: Float32
    surprise: Float32


@dataclass(frozen=True)
class FeatureEncoder:
    """Fitted encoder; all attributes are data that the scoring graph needs.

    Attributes
    ----------
    value_columns : int64 [v]
        Numeric inputs with a value feature.
    fill, mean, scale : float64 [v]
        Median, mean and standard deviation of these columns.
    indicator_columns : int64 [i]
        Numeric inputs with a missing-cell feature.
    phases : tuple of Phase
    extra_mean, extra_scale : float64 [i + 2 p]
        Standardisation of indicators and phases.
    tables : tuple of CategoryTable
        One a categorical input.
    missing_surprise : float32 [n_numeric]
        Nats for a missing cell, 0 where training had missing cells.
    feature_column : int64 [d]
        Schema position of each feature's column.
    numeric_position, categorical_position : int64
        Schema position of each numeric and categorical input.
    n_columns : int
    unused : tuple of str
        Columns that give no feature (datetime columns without a complete period).
    """

    value_columns: NDArray[np.int64]
    fill: Float64
    mean: Float64
    scale: Float64
    indicator_columns: NDArray[np.int64]
    phases: tuple[Phase, ...]
    extra_mean: Float64
    extra_scale: Float64
    tables: tuple[CategoryTable, ...]
    missing_surprise: Float32
    feature_column: NDArray[np.int64]
    numeric_position: NDArray[np.int64]
    categorical_position: NDArray[np.int64]
    n_columns: int
    unused: tuple[str, ...]

    @property
    def n_features(self) -> int:
        """Number of features, d."""
        return len(self.feature_column)

    @classmethod
    def fit(cls, schema: Schema, rows: Rows) -> FeatureEncoder:
        """Learn medians, scales, phases and category tables from training rows.

        Parameters
        ----------
        schema : Schema
        rows : Rows
            Training rows, without those that no network may see.
        """
        numeric, n = rows.numeric, len(rows.numeric)
        kinds = {c.name: c.kind for c in schema.columns}
        position = {name: i for i, name in enumerate(schema.feature_names)}
        is_time = [kinds[name] is ColumnKind.DATETIME for name in schema.numeric_names]
        values = np.array([i for i, t in enumerate(is_time) if not t], dtype=np.int64)
        missing = np.isnan(numeric)  # [n, n_numeric]
        indicators = np.flatnonzero(missing.any(axis=0) & ~missing.all(axis=0))
        phases, unused = _find_phases(schema.numeric_names, is_time, numeric)
        fill, mean, scale = _location_scale(numeric[:, values])
        extra = _extra_features(numeric, indicators, phases)  # [n, i + 2 p]
        tables = tuple(
            _category_table(rows.categorical[:, j], schema, name)
            for j, name in enumerate(schema.categorical_names)
        )
        numeric_position = np.array([position[c] for c in schema.numeric_names], dtype=np.int64)
        categorical_position = np.array(
            [position[c] for c in schema.categorical_names], dtype=np.int64
        )
        feature_column = [numeric_position[values], numeric_position[indicators]]
        feature_column += [np.repeat(numeric_position[[p.column]], 2) for p in phases]
        feature_column += [
            np.repeat(categorical_position[[j]], t.features.shape[1]) for j, t in enumerate(tables)
        ]
        return cls(
            value_columns=values,
            fill=fill,
            mean=mean,
            scale=scale,
            indicator_columns=indicators.astype(np.int64),
            phases=phases,
            extra_mean=extra.mean(axis=0) if n else np.zeros(extra.shape[1]),
            extra_scale=np.maximum(extra.std(axis=0), MIN_DEVIATION),
            tables=tables,
            missing_surprise=np.where(missing.any(axis=0), 0.0, math.log(n + 1.0)).astype(
                np.float32
            ),
            feature_column=np.concatenate(feature_column).astype(np.int64),
            numeric_position=numeric_position,
            categorical_position=categorical_position,
            n_columns=len(position),
            unused=unused,
        )

    def transform(self, rows: Rows) -> Encoded:
        """Encode rows; a row's features depend on that row alone."""
        numeric = rows.numeric
        if self.phases:
            # An infinite date has no time of day: it is missing. (An infinite number is far.)
            endless = np.isinf(numeric) & ~np.isin(np.arange(numeric.shape[1]), self.value_columns)
            numeric = np.where(endless, np.nan, numeric)
        values = numeric[:, self.value_columns]  # [n, v]
        values = np.where(np.isnan(values), self.fill, values)
        with np.errstate(over="ignore"):  # infinite is far, and clipped like everything far
            values = np.clip((values - self.mean) / self.scale, -FAR, FAR)
        extra = _extra_features(numeric, self.indicator_columns, self.phases)
        extra = (extra - self.extra_mean) / self.extra_scale
        blocks = [values.astype(np.float32), extra.astype(np.float32)]
        surprise = np.zeros((len(numeric), self.n_columns), dtype=np.float32)
        surprise[:, self.numeric_position] = np.isnan(numeric) * self.missing_surprise
        for j, table in enumerate(self.tables):
            code = np.array([table.codes.get(t, 0) for t in rows.categorical[:, j]], dtype=np.int64)
            blocks.append(table.features[code])
            surprise[:, self.categorical_position[j]] = table.surprise[code]
        return Encoded(np.concatenate(blocks, axis=1), surprise)

    def transform_apart(self, rows: Rows, others: Rows) -> Encoded:
        """Encode training rows as if the states that only they have had never been seen.

        A category or missing cell that none of the `others` has is then what it is in a new row:
        no feature, but a surprise, at the price that new rows pay.

        Parameters
        ----------
        rows : Rows
        others : Rows
            All other rows that the encoder was fitted to.
        """
        encoded = self.transform(rows)
        features, surprise = encoded.features, encoded.surprise
        price = np.float32(math.log(len(rows.numeric) + len(others.numeric) + 1.0))
        missing = np.isnan(rows.numeric) & ~np.isnan(others.numeric).any(axis=0)
        for j, position in enumerate(self.numeric_position):
            surprise[missing[:, j], position] = price
        start, absent = len(self.value_columns), -self.extra_mean / self.extra_scale
        for i, j in enumerate(self.indicator_columns):
            features[missing[:, j], start + i] = absent[i]
        start += len(self.extra_mean)
        for j, table in enumerate(self.tables):
            known = set(others.categorical[:, j].tolist())
            new = np.array([text not in known for text in rows.categorical[:, j]], dtype=bool)
            end = start + table.features.shape[1]
            features[new, start:end] = 0.0
            surprise[new, self.categorical_position[j]] = price
            start = end
        return Encoded(features, surprise)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data, the inverse of `from_dict`; floats round-trip exactly."""
        out: dict[str, Any] = {
            name: getattr(self, name).tolist() for name in (*_INTEGERS, *_DOUBLES, *_SINGLES)
        }
        out["phases"] = [[p.column, p.period] for p in self.phases]
        out["tables"] = [
            {
                "codes": t.codes,
                "features": t.features.tolist(),
                "surprise": t.surprise.tolist(),
            }
            for t in self.tables
        ]
        return out | {"n_columns": self.n_columns, "unused": list(self.unused)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FeatureEncoder:
        """Rebuild from `to_dict`.

        Raises
        ------
        SchemaError
            A part is absent, of the wrong type, or does not fit the others.
        """
        try:
            tables = tuple(
                CategoryTable(
                    codes={str(k): int(v) for k, v in t["codes"].items()},
                    features=np.asarray(t["features"], dtype=np.float32).reshape(
                        len(t["surprise"]), -1
                    ),
                    surprise=np.asarray(t["surprise"], dtype=np.float32),
                )
                for t in data["tables"]
            )
            arrays: dict[str, Any] = {k: np.asarray(data[k], dtype=np.int64) for k in _INTEGERS}
            arrays |= {k: np.asarray(data[k], dtype=np.float64) for k in _DOUBLES}
            arrays |= {k: np.asarray(data[k], dtype=np.float32) for k in _SINGLES}
            encoder = cls(
                **arrays,
                tables=tables,
                phases=tuple(Phase(int(column), str(period)) for column, period in data["phases"]),
                n_columns=int(data["n_columns"]),
                unused=tuple(data["unused"]),
            )
            _check_parts(encoder)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise SchemaError(f"the stored encoder is damaged ({error}); fit again") from error
        return encoder

    def require_schema(self, schema: Schema) -> None:
        """Refuse to be used with another model's schema.

        Raises
        ------
        SchemaError
            Number or kind of the columns differ.
        """
        found = (len(self.numeric_position), len(self.tables), self.n_columns)
        numeric, categorical = len(schema.numeric_names), len(schema.categorical_names)
        if found != (numeric, categorical, numeric + categorical):
            raise SchemaError(
                f"the stored encoder takes {found[0]} columns of numbers and {found[1]} of texts, "
                f"{found[2]} in all, and the schema has {numeric} and {categorical}; fit again"
            )

    def describe(self) -> dict[str, Any]:
        """Return counts for the manifest: features by block."""
        return {
            "n_features": self.n_features,
            "values": len(self.value_columns),
            "indicators": len(self.indicator_columns),
            "phases": [[p.column, p.period] for p in self.phases],
            "categories": [t.features.shape[1] for t in self.tables],
        }


_INTEGERS = (
    "value_columns",
    "indicator_columns",
    "feature_column",
    "numeric_position",
    "categorical_position",
)
_DOUBLES = ("fill", "mean", "scale", "extra_mean", "extra_scale")
_SINGLES = ("missing_surprise",)


def _check_parts(e: FeatureEncoder) -> None:
    """Raise ValueError where lengths or positions in a stored encoder contradict each other."""
    n_extra = len(e.indicator_columns) + 2 * len(e.phases)
    n_features = len(e.value_columns) + n_extra + sum(t.features.shape[1] for t in e.tables)
    lengths: list[tuple[str, NDArray[Any], int]] = [
        ("fill", e.fill, len(e.value_columns)),
        ("mean", e.mean, len(e.value_columns)),
        ("scale", e.scale, len(e.value_columns)),
        ("extra_mean", e.extra_mean, n_extra),
        ("extra_scale", e.extra_scale, n_extra),
        ("missing_surprise", e.missing_surprise, len(e.numeric_position)),
        ("categorical_position", e.categorical_position, len(e.tables)),
        ("feature_column", e.feature_column, n_features),
        *(("surprise", t.surprise, len(t.features)) for t in e.tables),
    ]
    faults = [
        f"{name} has shape {a.shape}, not {(n,)}" for name, a, n in lengths if a.shape != (n,)
    ]
    positions = [
        ("value_columns", e.value_columns.tolist(), len(e.numeric_position)),
        ("indicator_columns", e.indicator_columns.tolist(), len(e.numeric_position)),
        ("phases", [p.column for p in e.phases], len(e.numeric_position)),
        ("feature_column", e.feature_column.tolist(), e.n_columns),
        ("numeric_position", e.numeric_position.tolist(), e.n_columns),
        ("categorical_position", e.categorical_position.tolist(), e.n_columns),
        *(("codes", list(t.codes.values()), len(t.surprise)) for t in e.tables),
    ]
    faults += [
        f"{name} points outside 0 to {n - 1}"
        for name, found, n in positions
        if any(not 0 <= i < n for i in found)
    ]
    faults += [
        f"{name} is not above 0"
        for name, scale in (("scale", e.scale), ("extra_scale", e.extra_scale))
        if not (scale > 0.0).all()
    ]
    faults += [f"no period is called {p.period!r}" for p in e.phases if p.period not in PERIODS_S]
    if faults:
        raise ValueError("; ".join(faults))


def _location_scale(values: Float64) -> tuple[Float64, Float64, Float64]:
    """Median, mean and standard deviation over the cells that are there."""
    fill = np.zeros(values.shape[1])
    mean, scale = fill.copy(), np.ones(values.shape[1])
    for j in range(values.shape[1]):
        column = values[~np.isnan(values[:, j]), j]
        if column.size:
            # Scaled by a power of two, which is exact: sums and squares stay finite for values
            # near the float64 limit, and integers keep integer medians.
            peak = float(np.abs(column).max())
            size = math.ldexp(1.0, math.frexp(peak)[1] - 1) if peak else 1.0
            scaled = column / size
            fill[j] = float(np.median(scaled)) * size
            mean[j] = float(scaled.mean()) * size
            deviation = float(scaled.std()) * size
            scale[j] = deviation if deviation > 1e-12 * abs(mean[j]) else max(abs(mean[j]), 1.0)
    return fill, mean, scale


def _find_phases(
    names: Sequence[str], is_time: Sequence[bool], numeric: Float64
) -> tuple[tuple[Phase, ...], tuple[str, ...]]:
    """Keep the periods that the training rows cover twice and in which they vary."""
    phases: list[Phase] = []
    unused: list[str] = []
    for j, (name, time) in enumerate(zip(names, is_time, strict=True)):
        if not time:
            continue
        seconds = numeric[~np.isnan(numeric[:, j]), j]
        span = float(np.ptp(seconds)) if seconds.size else 0.0
        found = [
            Phase(j, period)
            for period, length in PERIODS_S.items()
            if span >= 2.0 * length and np.ptp(seconds / length - np.floor(seconds / length)) > 1e-6
        ]
        phases += found
        if not found:
            unused.append(name)
    return tuple(phases), tuple(unused)


def _extra_features(numeric: Float64, indicators: NDArray[Any], phases: Sequence[Phase]) -> Float64:
    """Return indicators and phases before standardisation, float64 [n, i + 2 p]."""
    blocks = [np.isnan(numeric[:, indicators]).astype(np.float64)]
    for phase in phases:
        cycles = numeric[:, phase.column] / PERIODS_S[phase.period]
        wave = np.stack(sine_and_cosine(cycles - np.floor(cycles)), axis=1)
        blocks.append(np.where(np.isnan(numeric[:, [phase.column]]), 0.0, wave))
    return np.concatenate(blocks, axis=1)


def sine_and_cosine(turns: Float64) -> tuple[Float64, Float64]:
    """Sine and cosine of a part of a full turn, in [0, 1), as Taylor polynomials.

    Runtimes compute their own last bits of both, and some of them by where in the batch a value
    stands. Sums and products they compute alike: a row is encoded to the same bits everywhere.
    """
    angle = (2.0 * math.pi) * (turns - np.floor(turns + 0.5))  # [-pi, pi): good to 1e-11
    square = angle * angle
    sine, cosine = np.full_like(square, SINE[0]), np.full_like(square, COSINE[0])
    for a, b in zip(SINE[1:], COSINE[1:], strict=True):
        sine, cosine = sine * square + a, cosine * square + b
    return sine * angle, cosine


def _category_table(texts: NDArray[Any], schema: Schema, name: str) -> CategoryTable:
    """One-hot features, scaled by category frequency, for one column."""
    n = len(texts)
    known = next(c for c in schema.columns if c.name == name).categories
    share = {text: count / n for text, count in Counter(texts.tolist()).items()}
    frequent = sorted((c for c in share if c), key=lambda c: (-share[c], c))
    kept, rest = frequent[:MAX_CATEGORIES], frequent[MAX_CATEGORIES:]
    missing = [""] if "" in share else []
    columns = [[c] for c in kept] + ([rest] if rest else []) + [missing] * bool(missing)
    width = len(columns)
    unseen = math.log(n + 1.0)
    codes: dict[str, int] = {"": 1}
    features = [np.zeros(width), np.zeros(width)]
    surprise = [unseen, 0.0 if missing else unseen]
    for j, members in enumerate(columns):
        p = sum(share[c] for c in members)
        deviation = max(math.sqrt(p * (1.0 - p)), MIN_DEVIATION)
        row = np.zeros(width)
        row[j] = CATEGORY_DISTANCE / deviation
        if members == missing:
            features[1] = row
            continue
        # One code for all that share a feature: a table may have a million rare categories.
        codes |= dict.fromkeys(members, len(features))
        features.append(row)
        surprise.append(0.0)
    for category in known:
        # Seen in the file, but only among the rows kept for calibration: unseen here.
        codes.setdefault(category, 0)
    return CategoryTable(
        codes=codes,
        features=np.asarray(features, dtype=np.float32).reshape(len(features), width),
        surprise=np.asarray(surprise, dtype=np.float32),
    )
