"""Whether scored rows, taken together, still are what the model learnt from.

`Scorer` judges one row at a time; a `DriftMonitor` judges all of them: every column, and the
scores. It compares new rows with the profile that `fit` stored with the model
(`anomgan.tables.profile`) by a test that may be looked at as often as one likes
(`anomgan.serving.urn`).

**Level.** With d columns and the scores, a departure is told where an e-value reaches
``(d + 1) / alpha``: by Ville's inequality for each and Bonferroni's for all, rows that are
exchangeable with those of training ever give a false warning with a probability of at most alpha.
Nothing is assumed about the laws of the columns, nor about how they depend on each other.

**What is told, and what is not.** With very many rows, departures show that nobody cares for. One
is told only if the rows that it moved are at least 2 % of all or twice as many as in training. That
can only make warnings rarer.

**What it means.** Exchangeable is more than "the same law in the long run": the rows of one hour of
a slow process do depart from those of a month. And a warning is no fault of the model: flags and
p-values rest on the new rows being like those of training, and the warning says where they are
not.

Memory is a few hundred counts a column. Keys for ties come from a fixed seed, one for each readable
row in the order of the rows: the same rows give the same report, in whatever batches they come.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.serving.departures import Finding, describe_column, describe_score
from anomgan.serving.urn import log_e_value, trees_of
from anomgan.serving.verdicts import Verdicts
from anomgan.tables.columns import Column, ColumnKind
from anomgan.tables.profile import (
    Coding,
    ColumnProfile,
    cells_of,
    coarse_scores,
    level_of_code,
    levels_of,
)
from anomgan.tables.schema import Rows, Schema

if TYPE_CHECKING:
    from anomgan.serving.scorer import Scorer

__all__ = ["DRIFT_ALPHA", "Departure", "DriftMonitor", "DriftReport"]

DRIFT_ALPHA: Final = 0.001
"""Probability of a false warning, over all columns and rows, where none is given."""

_SEED: Final = (0, 3)
_UNSEEN_KEPT: Final = 8  # examples of categories never seen


@dataclass(frozen=True)
class Departure:
    """One column, or the scores, in which the new rows differ from those of training.

    Parameters
    ----------
    column : str or None
        None for the scores.
    log10_e : float
        Evidence: decimal logarithm of the e-value.
    share, training_share : float
        Of the rows that `text` speaks of, among the new rows and in training.
    text : str
        What is different, such as ``31 % of the rows lie above 640, where 5 % of the training rows
        did``.
    """

    column: str | None
    log10_e: float
    share: float
    training_share: float
    text: str

    def __str__(self) -> str:
        return f"{'score' if self.column is None else self.column}: {self.text}"


@dataclass(frozen=True)
class DriftReport:
    """What a `DriftMonitor` found up to now.

    Parameters
    ----------
    n_rows : int
        Readable rows compared.
    alpha : float
        Bound of the probability of any false departure.
    departures : tuple of Departure
        The strongest evidence first; those of the scores come first of all.
    log10_e : tuple of float
        Evidence for every column in schema order, and last for the scores. It may fall again.
    """

    n_rows: int
    alpha: float
    departures: tuple[Departure, ...]
    log10_e: tuple[float, ...]


class DriftMonitor:
    """Compare rows with those of training, as they come, in constant memory.

    For a stream without end, start a new monitor every so often (a shift, a day): each compares
    all rows that it was given, so what changes late weighs little against a long past.

    Parameters
    ----------
    scorer : Scorer
        Opened from a model directory that holds a profile.
    alpha : float, default=0.001
        Probability of a false warning, however often `report` is asked.

    Raises
    ------
    UsageError
        The model has no profile, or `alpha` is out of (0, 1).

    Examples
    --------
    ::

        monitor = DriftMonitor(scorer)
        for rows, verdicts in scorer.stream(reader):
            monitor.update(rows, verdicts)
            departures = monitor.report().departures
    """

    def __init__(self, scorer: Scorer, *, alpha: float = DRIFT_ALPHA) -> None:
        if scorer.profile is None:
            raise UsageError(
                "this model holds no profile of its training rows (it is a bare scorer.onnx, or of "
                "an earlier anomgan): open a model directory that was fitted by this version"
            )
        if not 0.0 < alpha < 1.0:
            raise UsageError(
                f"alpha must lie between 0 and 1, got {alpha:g}; 0.001 gives a false warning once "
                "in a thousand tables at most"
            )
        self._schema = scorer.schema
        self._alpha = alpha
        self._columns = [
            _ColumnTally(column, profile)
            for column, profile in zip(scorer.schema.columns, scorer.profile.columns, strict=True)
        ]
        self._score = _Counts(scorer.profile.score)
        self._rng = np.random.default_rng(_SEED)
        self._n_rows = 0

    def update(self, rows: Rows, verdicts: Verdicts) -> None:
        """Take in the next rows with their verdicts; unreadable rows are left out.

        Raises
        ------
        UsageError
            Rows and verdicts are not of the same number, or not of this model.
        """
        _require_fit(self._schema, rows, verdicts)
        readable = np.flatnonzero(~np.isnan(verdicts.score))
        keys = self._rng.random(len(readable))
        whole = len(readable) == len(verdicts)
        for tally in self._columns:
            cells = cells_of(self._schema, tally.column, rows)
            tally.add(cells if whole else cells[readable], keys)
        self._score.add(coarse_scores(verdicts.score[readable]), keys)
        self._n_rows += len(readable)

    def state(self) -> dict[str, Any]:
        """Return all counts, JSON-ready, for `restore`."""
        return {
            "n_rows": self._n_rows,
            "rng": self._rng.bit_generator.state,
            "columns": [tally.state() for tally in self._columns],
            "score": self._score.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, of the same model.

        Raises
        ------
        LookupError, TypeError, ValueError
            It is no such state.
        """
        for tally, found in zip(self._columns, state["columns"], strict=True):
            tally.restore(found)
        self._score.restore(state["score"])
        self._rng.bit_generator.state = state["rng"]
        self._n_rows = int(state["n_rows"])

    def report(self) -> DriftReport:
        """Say what is different up to now; the answer may change with more rows."""
        columns = [tally.counts.log_e() for tally in self._columns]
        score = self._score.log_e()
        least = math.log((len(columns) + 1) / self._alpha)
        departures = []
        for tally, evidence in zip(self._columns, columns, strict=True):
            if evidence >= least:
                departures.append(_departure(tally.column.name, evidence, tally.describe()))
        departures.sort(key=lambda d: -d.log10_e)
        if score >= least:
            found = describe_score(self._score.profile, self._score.groups)
            departures.insert(0, _departure(None, score, found))
        return DriftReport(
            n_rows=self._n_rows,
            alpha=self._alpha,
            departures=tuple(d for d in departures if _matters(d.share, d.training_share)),
            log10_e=tuple(value / math.log(10.0) for value in (*columns, score)),
        )


class _Counts:
    """New rows by bin and by group of a profile."""

    def __init__(self, profile: ColumnProfile) -> None:
        self.profile = profile
        self._weights = profile.weights
        self._trees = trees_of(self._weights)
        self.bins = np.zeros(len(self._weights), dtype=np.int64)
        self.groups = np.zeros(len(profile.counts), dtype=np.int64)

    def add(
        self,
        levels: NDArray[np.float64],
        keys: NDArray[np.float64],
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        """Count rows; their groups follow from the levels unless they are categories."""
        bin_of_cell = self.profile.bin_of_cell
        cells = np.bincount(self.profile.cells(levels, keys), minlength=len(bin_of_cell))
        _add_at(self.bins, bin_of_cell, cells)
        if groups is None:
            _add_at(self.groups, self.profile.group_of_cell, cells)
        else:
            self.groups += np.bincount(groups, minlength=len(self.groups))

    def state(self) -> dict[str, Any]:
        return {"bins": self.bins.tolist(), "groups": self.groups.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name, own in (("bins", self.bins), ("groups", self.groups)):
            found = np.array(state[name], dtype=np.int64)
            if found.shape != own.shape:
                raise ValueError("the counts are of another model")
            own[:] = found

    def log_e(self) -> float:
        return log_e_value(self.bins, self._weights, self._trees)


class _ColumnTally:
    """Counts of one column, and how its cells are read."""

    def __init__(self, column: Column, profile: ColumnProfile) -> None:
        self.column = column
        self.counts = _Counts(profile)
        self._unseen: Counter[str] = Counter()
        self._coding: Coding | None = None
        if column.kind is ColumnKind.CATEGORICAL:
            self._coding = Coding(column.categories)
            self._levels = level_of_code(column.categories, profile.order or ())

    def add(self, cells: NDArray[Any], keys: NDArray[np.float64]) -> None:
        if self._coding is None:
            self.counts.add(levels_of(self.column, cells), keys)
            return
        codes = self._coding.codes(cells)
        self.counts.add(self._levels[codes], keys, codes)
        for name in cells[codes == self._coding.unseen].tolist():
            if name in self._unseen or len(self._unseen) < _UNSEEN_KEPT:
                self._unseen[name] += 1

    def state(self) -> dict[str, Any]:
        return {**self.counts.state(), "unseen": dict(self._unseen)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.counts.restore(state)
        self._unseen = Counter({str(name): int(n) for name, n in state["unseen"].items()})

    def describe(self) -> Finding:
        unseen = [name for name, _ in self._unseen.most_common()]
        return describe_column(self.column, self.counts.profile, self.counts.groups, unseen)


def _departure(column: str | None, evidence: float, found: Finding) -> Departure:
    return Departure(
        column, evidence / math.log(10.0), found.share, found.training_share, found.text
    )


def _matters(share: float, training_share: float) -> bool:
    low, high = sorted((share, training_share))
    return high > low and (high - low >= _LEAST_EXCESS or high >= _LEAST_RATIO * low)


_LEAST_EXCESS: Final = 0.02
_LEAST_RATIO: Final = 2.0


def _add_at(
    totals: NDArray[np.int64], index: NDArray[np.int64], amounts: NDArray[np.int64]
) -> None:
    """Add the amounts to ``totals[index]``, in place; an index may occur several times."""
    totals += np.bincount(index, weights=amounts, minlength=len(totals)).astype(np.int64)


def _require_fit(schema: Schema, rows: Rows, verdicts: Verdicts) -> None:
    n = len(verdicts)
    expected = ((n, len(schema.numeric_names)), (n, len(schema.categorical_names)))
    found = (rows.numeric.shape, rows.categorical.shape)
    if found != expected:
        raise UsageError(
            f"rows of shapes {found[0]} numeric and {found[1]} categorical do not go with {n} "
            f"verdicts of this model, which need {expected[0]} and {expected[1]}; hand in what "
            "Scorer.stream yields together"
        )
