"""What the rows of training look like column by column: what new rows are compared with.

A column of n rows is kept as a few of its order statistics, at fixed ranks. Two points of
construction make the comparison exact (`anomgan.serving.drift` has the argument):

- Ties are broken at random. Every cell is the pair of its level and a key, uniform on [0, 1),
  ordered by level first; the edges are such pairs too. So atoms (whole numbers, categories, missing
  cells) need no treatment of their own, and ranks may be fixed before any value is seen.
- Categories have no order of their own. A drawn quarter of the training rows gives them one, from
  frequent to rare and then all that the quarter does not hold; the order statistics are those of
  the other rows. With the order of all rows, a category "never seen" would stand for a single gap,
  and a column with many rare categories, where new ones are the rule, would seem to depart.

A missing cell comes before all values, so that what training never had, high values and unseen
categories, is at one end, and gaps in a column that had none at the other. Of dates only gaps
matter: time goes on, and no model can take that for a departure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomgan.errors import InputError
from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.schema import Rows, Schema

__all__ = ["QUANTILES", "ColumnProfile", "Profile", "coarse_scores"]

QUANTILES: Final = (
    *(0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    *(0.95, 0.975, 0.99, 0.995),
)
"""Ranks of the edges, as shares of n + 1; the smallest and the largest row are edges as well."""

_BEFORE, _AFTER = -1.0, 2.0  # keys below and above every key of a row
_SCORE_BITS = 10
_MOST_ROWS = 2**53  # counts are compared as doubles
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class ColumnProfile:
    """Order statistics of one column.

    Parameters
    ----------
    n : int
        Rows that they are order statistics of.
    ranks : ndarray of int64 [n_edges]
        Which ones, rising, from 1 to n.
    levels, keys : ndarray of float64 [n_edges]
        The edges, rising; the level of a missing cell is -inf.
    counts : ndarray of int64 [n_groups]
        Training rows by what can be told to people, exact and free of keys. For numbers with the
        distinct finite edges ``v_1 < ... < v_k``: missing, below v_1, equal to it, between v_1 and
        v_2, ..., above v_k. For categories: one group each in the order of the schema, never seen,
        missing.
    order : tuple of str, optional
        Categories by rising level; None for numbers.
    """

    n: int
    ranks: NDArray[np.int64]
    levels: NDArray[np.float64]
    keys: NDArray[np.float64]
    counts: NDArray[np.int64]
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if any(a.ndim != 1 for a in (self.ranks, self.levels, self.keys, self.counts)):
            raise InputError("ranks, levels, keys and counts of a profile are lists of numbers")
        if not len(self.ranks) == len(self.levels) == len(self.keys) >= 1:
            raise InputError("a profile needs a rank, a level and a key for each edge")
        if not 0 < self.n < _MOST_ROWS:
            raise InputError(f"a profile is of 1 to {_MOST_ROWS} rows, got {self.n}")
        bounds = np.concatenate([[0], self.ranks, [self.n + 1]])
        if (np.diff(bounds) < 1).any():
            raise InputError(f"ranks must rise within 1 to {self.n}, got {self.ranks.tolist()}")
        edges = augmented(self.levels, self.keys)
        if np.isnan(self.levels).any() or not (np.sort(edges) == edges).all():
            raise InputError("the edges of a profile must rise")
        if (self.counts < 0).any() or not self.counts.sum():
            raise InputError("the counts of a profile must not be negative, nor all zero")
        if self.order is None and len(self.counts) != 2 * len(self.limits) + 2:
            raise InputError(
                f"{len(self.limits)} limits need {2 * len(self.limits) + 2} counts, "
                f"got {len(self.counts)}"
            )

    @classmethod
    def fit(cls, levels: NDArray[np.float64], keys: NDArray[np.float64]) -> ColumnProfile:
        """Profile a column of numbers [n], n >= 1; -inf = missing."""
        n, ranks, edges = _edges(levels, keys)
        limits = np.unique(edges.real[np.isfinite(edges.real)])
        empty = np.zeros(2 * len(limits) + 2, dtype=np.int64)
        empty[0] = n
        column = cls(n, ranks, edges.real, edges.imag, empty)
        groups = column.group_of_cell[column.cells(levels, keys)]
        counts = np.bincount(groups, minlength=len(empty)).astype(np.int64)
        return cls(n, ranks, edges.real, edges.imag, counts)

    @classmethod
    def fit_codes(
        cls,
        codes: NDArray[np.int64],
        keys: NDArray[np.float64],
        categories: tuple[str, ...],
        first: NDArray[np.int64],
        second: NDArray[np.int64],
    ) -> ColumnProfile:
        """Profile a column of categories.

        Parameters
        ----------
        codes : ndarray of int64 [n]
            As `Coding.codes` gives them.
        keys : ndarray of float64 [n]
        categories : tuple of str
            Of the schema.
        first, second : ndarray of int64
            Rows that order the categories, and rows that are ordered.
        """
        n_categories = len(categories)
        seen = np.bincount(codes[first], minlength=n_categories + 2)[:n_categories]
        by_frequency = np.argsort(-seen, kind="stable")
        order = tuple(categories[i] for i in by_frequency if seen[i])
        levels = level_of_code(categories, order)[codes[second]]
        n, ranks, edges = _edges(levels, keys[second])
        counts = np.bincount(codes, minlength=n_categories + 2).astype(np.int64)
        return cls(n, ranks, edges.real, edges.imag, counts, order)

    @property
    def weights(self) -> NDArray[np.int64]:
        """Gaps between order statistics in each bin [n_edges + 1]; they sum to n + 1."""
        return np.diff(np.concatenate([[0], self.ranks, [self.n + 1]])).astype(np.int64)

    @cached_property
    def limits(self) -> NDArray[np.float64]:
        """Distinct values among the edges of a column of numbers, rising."""
        return np.unique(self.levels[np.isfinite(self.levels)])

    @cached_property
    def _points(self) -> tuple[NDArray[np.complex128], NDArray[np.bool_]]:
        """Edges and, between groups of a column of numbers, marks, rising; which are edges."""
        edges = augmented(self.levels, self.keys)
        marks = np.empty(0, dtype=np.complex128)
        if self.order is None:
            before = augmented(self.limits, np.full(len(self.limits), _BEFORE))
            after = augmented(self.limits, np.full(len(self.limits), _AFTER))
            missing = augmented(np.array([-np.inf]), np.array([_AFTER]))
            marks = np.concatenate([before, after, missing])
        points = np.concatenate([edges, marks])
        order = np.argsort(points, kind="stable")
        return points[order], order < len(edges)

    def cells(self, levels: NDArray[np.float64], keys: NDArray[np.float64]) -> NDArray[np.int64]:
        """Cell of each row: the finest parts that bins and groups consist of."""
        points, _ = self._points
        return np.searchsorted(points, augmented(levels, keys)).astype(np.int64)

    @cached_property
    def bin_of_cell(self) -> NDArray[np.int64]:
        """Bin of each cell [n_cells]."""
        return np.concatenate([[0], np.cumsum(self._points[1])]).astype(np.int64)

    @cached_property
    def group_of_cell(self) -> NDArray[np.int64]:
        """Group of each cell of a column of numbers [n_cells]; see `counts`."""
        return np.concatenate([[0], np.cumsum(~self._points[1])]).astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data, the inverse of `from_dict`."""
        return {
            "n": self.n,
            "ranks": self.ranks.tolist(),
            "levels": [v if math.isfinite(v) else None for v in self.levels.tolist()],
            "keys": self.keys.tolist(),
            "counts": self.counts.tolist(),
            "order": None if self.order is None else list(self.order),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ColumnProfile:
        """Rebuild from `to_dict`.

        Raises
        ------
        InputError
            `data` is not what `to_dict` gives.
        """
        try:
            levels = [-math.inf if v is None else float(v) for v in data["levels"]]
            order = data["order"]
            return cls(
                int(data["n"]),
                np.asarray(data["ranks"], dtype=np.int64),
                np.asarray(levels, dtype=np.float64),
                np.asarray(data["keys"], dtype=np.float64),
                np.asarray(data["counts"], dtype=np.int64),
                None if order is None else tuple(str(name) for name in order),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"not the profile of a column: {error}") from error


@dataclass(frozen=True, eq=False)
class Profile:
    """The training rows as a whole: one profile a feature, in schema order, and the scores'.

    The scores are those of the held-out rows, which new normal rows are exchangeable with.
    """

    columns: tuple[ColumnProfile, ...]
    score: ColumnProfile

    @classmethod
    def fit(
        cls, schema: Schema, rows: Rows, scores: ArrayLike, rng: np.random.Generator
    ) -> Profile:
        """Profile the training rows.

        Parameters
        ----------
        schema : Schema
        rows : Rows
            n >= 2 rows of training, held-out ones included: all are normal rows.
        scores : array_like [n_calibration]
            Scores of the held-out rows, in any order.
        rng : Generator
            Source of the keys, and of the choice of rows that order the categories.
        """
        n = len(rows.numeric)
        keys = rng.random(n)
        shuffled = rng.permutation(n)
        first, second = np.split(shuffled, [n // 4])
        columns = []
        for column in schema.columns:
            cells = cells_of(schema, column, rows)
            if column.kind is ColumnKind.CATEGORICAL:
                codes = Coding(column.categories).codes(cells)
                profile = ColumnProfile.fit_codes(codes, keys, column.categories, first, second)
            else:
                profile = ColumnProfile.fit(levels_of(column, cells), keys)
            columns.append(profile)
        coarse = coarse_scores(scores)
        return cls(tuple(columns), ColumnProfile.fit(coarse, rng.random(len(coarse))))

    def require_schema(self, schema: Schema) -> None:
        """Refuse to be used with another model's schema.

        Raises
        ------
        InputError
            Number or kind of the columns differ.
        """
        widths = [len(c.categories) if _is_text(c) else None for c in schema.columns]
        found = [None if c.order is None else len(c.counts) - 2 for c in self.columns]
        if widths != found or self.score.order is not None:
            raise InputError(
                f"a profile of {len(found)} columns that is not of the model's "
                f"{len(widths)} columns"
            )
        for column, profile in zip(schema.columns, self.columns, strict=True):
            if profile.order is not None and not set(profile.order) <= set(column.categories):
                raise InputError(f"the profile of {column.name!r} has categories of its own")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data, the inverse of `from_dict`."""
        return {
            "format": _FORMAT,
            "columns": [column.to_dict() for column in self.columns],
            "score": self.score.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Profile:
        """Rebuild from `to_dict`.

        Raises
        ------
        InputError
            `data` is not what `to_dict` gives.
        """
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise InputError(f"not a profile of training rows of format {_FORMAT}")
        try:
            columns = tuple(ColumnProfile.from_dict(column) for column in data["columns"])
            return cls(columns, ColumnProfile.from_dict(data["score"]))
        except (KeyError, TypeError) as error:
            raise InputError(f"not a profile of training rows: {error}") from error


class Coding:
    """Cells of a categorical column to numbers: category i, never seen, missing."""

    def __init__(self, categories: tuple[str, ...]) -> None:
        self.unseen = len(categories)
        self._codes = {name: i for i, name in enumerate(categories)} | {"": self.unseen + 1}

    def codes(self, cells: NDArray[np.object_]) -> NDArray[np.int64]:
        """Return int64 [n]."""
        get, unseen = self._codes.get, self.unseen
        return np.array([get(cell, unseen) for cell in cells.tolist()], dtype=np.int64)


def level_of_code(categories: tuple[str, ...], order: tuple[str, ...]) -> NDArray[np.float64]:
    """Level of every code of a `Coding` [n_categories + 2]."""
    place = {name: float(i) for i, name in enumerate(order)}
    beyond = float(len(order))
    return np.array([*(place.get(name, beyond) for name in categories), beyond, -np.inf])


def cells_of(schema: Schema, column: Column, rows: Rows) -> NDArray[Any]:
    """Cells of one column [n], numbers or texts."""
    if _is_text(column):
        texts: NDArray[Any] = rows.categorical[:, schema.categorical_names.index(column.name)]
        return texts
    return rows.numeric[:, schema.numeric_names.index(column.name)]


def levels_of(column: Column, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Levels of a column that is read as numbers [n]; of dates only whether they are there."""
    missing = np.isnan(values)
    known = 0.0 if column.kind is ColumnKind.DATETIME else values
    return np.where(missing, -np.inf, known)


def coarse_scores(scores: ArrayLike) -> NDArray[np.float64]:
    """Round scores to 10 binary digits.

    The exported graph differs from torch, and one processor from another, in the last digits.
    Where many rows share a score, that alone would put all new rows on one side of the old ones.
    """
    mantissa, exponent = np.frexp(np.asarray(scores, dtype=np.float64).ravel())
    scale = float(2**_SCORE_BITS)
    return np.ldexp(np.rint(mantissa * scale) / scale, exponent)


def augmented(levels: NDArray[np.float64], keys: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Pairs of level and key as complex numbers, which numpy orders by the real part first."""
    pairs = np.empty(len(levels), dtype=np.complex128)
    pairs.real, pairs.imag = levels, keys
    return pairs


def _edges(
    levels: NDArray[np.float64], keys: NDArray[np.float64]
) -> tuple[int, NDArray[np.int64], NDArray[np.complex128]]:
    n = len(levels)
    ranks = np.rint(np.array(QUANTILES) * (n + 1)).astype(np.int64)
    ranks = np.unique(np.clip(np.concatenate([[1], ranks, [n]]), 1, n))
    return n, ranks, np.sort(augmented(levels, keys))[ranks - 1]


def _is_text(column: Column) -> bool:
    return column.kind is ColumnKind.CATEGORICAL
