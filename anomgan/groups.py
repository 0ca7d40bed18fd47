"""Calibration by group: the false-alarm rate holds within each group of rows.

Rows of one group, such as those of one machine, are compared with held-out normal rows of that
group alone (Mondrian conformal prediction: Vovk, Gammerman & Shafer 2005, section 4.5). Calibrated
over all rows together, the rate holds on average only: a group whose normal scores spread widely
gives most of the false alarms, and a quiet one hides its anomalies.

A group needs held-out rows enough to keep the rate; all other groups, rows without a value and
values never seen share the calibration of all held-out rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from anomgan.calibration import LEAST_FOR_TAIL, Calibrator, Tail, require_rate
from anomgan.errors import InputError, UsageError
from anomgan.tables import Rows, Schema, SchemaOptions
from anomgan.tables.faults import did_you_mean, flag, plural, quoted_names
from anomgan.tables.kinds import study_column

__all__ = [
    "AnyCalibrator",
    "GroupedCalibrator",
    "calibrate_groups",
    "calibration_of",
    "calibrator_from_arrays",
    "group_of",
    "group_options",
    "require_stated_rate",
    "row_groups",
    "row_p_values",
    "stated_groups",
]

_OPTION = "--calibrate-by"
_SHOWN_GROUPS = 10


@dataclass(frozen=True, slots=True)
class GroupedCalibrator:
    """Held-out normal scores by group, and those of all rows for whatever has no group.

    What it shares with `Calibrator` (`n`, `scores`, `tail`, `resolution`, and `threshold` without a
    group) is that of all calibration rows.

    Parameters
    ----------
    by : str
        Categorical column that tells the groups.
    pooled : Calibrator
        Of all calibration rows.
    groups : mapping of str to Calibrator
        By the text of the group, sorted; at least one, all of one false-alarm rate.
    """

    by: str
    pooled: Calibrator
    groups: Mapping[str, Calibrator]

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", dict(sorted(self.groups.items())))
        rates = {calibrator.false_alarm_rate for calibrator in (self.pooled, *self.groups.values())}
        if not self.groups or "" in self.groups or len(rates) != 1:
            raise InputError(
                "a calibration by group needs at least one group with a name, all of one rate, got "
                f"{len(self.groups)} groups and rates {sorted(rates)}"
            )

    @classmethod
    def fit(
        cls, by: str, scores: ArrayLike, groups: Sequence[str] | NDArray[Any], pooled: Calibrator
    ) -> GroupedCalibrator | None:
        """Calibrate every group that has rows enough for the rate of `pooled`.

        Enough are n rows with ``n + 1 >= 1 / rate``, or `LEAST_FOR_TAIL` to which a tail fits.

        Parameters
        ----------
        by : str
        scores : array_like [n]
            Scores of held-out normal rows, in any order.
        groups : sequence of str [n]
            Their groups; "" is a missing value.
        pooled : Calibrator
            Of all of `scores`.

        Returns
        -------
        GroupedCalibrator or None
            None where no group has enough rows.
        """
        values = np.asarray(scores, dtype=np.float32).ravel()
        names = _names(groups, len(values))
        rate = pooled.false_alarm_rate
        places: dict[str, list[int]] = {}
        for i, name in enumerate(names.tolist()):
            places.setdefault(name, []).append(i)
        places.pop("", None)
        own: dict[str, Calibrator] = {}
        for name, place in places.items():
            ordered = np.sort(values[place])
            tail = Tail.fit(ordered)
            if tail is not None or len(ordered) >= _needed(rate):
                own[name] = Calibrator(ordered, tail, rate)
        return cls(by, pooled, own) if own else None

    @property
    def n(self) -> int:
        """Number of calibration scores in all."""
        return self.pooled.n

    @property
    def scores(self) -> NDArray[np.float32]:
        """All calibration scores, sorted upwards."""
        return self.pooled.scores

    @property
    def tail(self) -> Tail | None:
        """Extrapolation above all calibration scores."""
        return self.pooled.tail

    @property
    def false_alarm_rate(self) -> float:
        """Default rate, the same in every group."""
        return self.pooled.false_alarm_rate

    @property
    def resolution(self) -> float:
        """Smallest p-value that all calibration rows together give without extrapolation."""
        return self.pooled.resolution

    def of(self, group: str | None) -> Calibrator:
        """Return the calibrator that rows of `group` are judged by."""
        return self.pooled if group is None else self.groups.get(group, self.pooled)

    def codes(self, groups: Sequence[str] | NDArray[Any]) -> NDArray[np.int64]:
        """Return the place of each row's calibrator, int64 [n]: 0 = pooled, then `groups`."""
        place = {name: code for code, name in enumerate(self.groups, 1)}
        return np.fromiter((place.get(name, 0) for name in groups), np.int64, len(groups))

    def require_rate(self, rate: float) -> None:
        """Refuse a false-alarm rate that some group cannot keep.

        Raises
        ------
        UsageError
            As `Calibrator.require_rate`; names the group.
        """
        self.pooled.require_rate(rate)
        for name, calibrator in self.groups.items():
            with _in_group(self.by, name):
                calibrator.require_rate(rate)

    def with_rate(self, rate: float) -> Self:
        """Return the same with another default rate.

        Raises
        ------
        UsageError
            As `require_rate`.
        """
        self.require_rate(rate)
        groups = {name: c.with_rate(rate) for name, c in self.groups.items()}
        return replace(self, pooled=self.pooled.with_rate(rate), groups=groups)

    def p_values(
        self, scores: ArrayLike, groups: Sequence[str] | NDArray[Any]
    ) -> NDArray[np.float64]:
        """P-values of `scores` within their groups.

        Parameters
        ----------
        scores : array_like [n_rows]
        groups : sequence of str [n_rows]
            Texts of the column `by`; a missing one or one never seen is judged by all rows.

        Returns
        -------
        float64 array [n_rows]
            In (0, 1].

        Raises
        ------
        InputError
            A score is NaN, or there are not as many groups as scores.
        """
        values = np.asarray(scores, dtype=np.float32).ravel()
        codes = self.codes(_names(groups, len(values)))
        calibrators = [self.pooled, *self.groups.values()]
        p = np.empty(len(values))
        for code in np.unique(codes):
            here = codes == code
            p[here] = calibrators[code].p_values(values[here])
        return p

    def threshold(self, rate: float | None = None, group: str | None = None) -> float:
        """Smallest float32 score that is flagged at `rate` in `group` (None: in no group).

        Raises
        ------
        UsageError
            As `Calibrator.require_rate`.
        """
        return self.of(group).threshold(rate)

    def summary(self) -> dict[str, Any]:
        """Return `Calibrator.summary` of all rows, with `by` and what each group has of its own."""
        groups = {
            name: {
                "n": calibrator.n,
                "resolution": calibrator.resolution,
                "threshold": calibrator.threshold(),
                "tail": None if calibrator.tail is None else calibrator.tail.to_dict(),
            }
            for name, calibrator in self.groups.items()
        }
        return {**self.pooled.summary(), "by": self.by, "groups": groups}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays for ``calibration.npz``: those of `pooled`, and the groups'.

        `groups` is a JSON text, ``{"by": column, "names": [...]}``, as arrays of texts would lose
        trailing zero characters; `group_sizes` int64 [g]; `group_scores` float32, those of the
        groups one after the other; `group_tails` float64 [g, 5], NaN for a group without a tail.
        """
        calibrators = list(self.groups.values())
        tails = np.full((len(calibrators), 5), np.nan)
        for row, calibrator in zip(tails, calibrators, strict=True):
            if calibrator.tail is not None:
                row[:] = list(calibrator.tail.to_dict().values())
        names = json.dumps({"by": self.by, "names": list(self.groups)})
        return {
            **self.pooled.arrays(),
            "groups": np.asarray(names),
            "group_sizes": np.asarray([c.n for c in calibrators], dtype=np.int64),
            "group_scores": np.concatenate([c.scores for c in calibrators]),
            "group_tails": tails,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild from `arrays`.

        Raises
        ------
        InputError
            An array is absent, or is not what `arrays` gives.
        """
        pooled = Calibrator.from_arrays(arrays)
        try:
            stated = json.loads(str(arrays["groups"]))
            by, names = str(stated["by"]), [str(name) for name in stated["names"]]
            ends, scores = np.cumsum(arrays["group_sizes"]), arrays["group_scores"]
            parts = np.split(scores, ends[:-1])
            fit = len(set(names)) == len(names) and ends[-1] == len(scores)
            groups = {}
            for name, part, tail in zip(names, parts, arrays["group_tails"], strict=True):
                fields = {"scores": part, "tail": tail[~np.isnan(tail)]}
                groups[name] = Calibrator.from_arrays({**arrays, **fields})
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise InputError(f"not the arrays of a calibration by group: {error}") from error
        if not fit:
            raise InputError(
                f"not the arrays of a calibration by group: {len(names)} names and {int(ends[-1])} "
                f"rows do not fit {len(scores)} scores"
            )
        return cls(by, pooled, groups)


AnyCalibrator: TypeAlias = Calibrator | GroupedCalibrator
"""What a model may be calibrated by."""


def calibrator_from_arrays(arrays: Mapping[str, NDArray[Any]]) -> AnyCalibrator:
    """Rebuild whichever calibrator the arrays of a ``calibration.npz`` are of.

    Raises
    ------
    InputError
        They are of none.
    """
    kind = GroupedCalibrator if "groups" in arrays else Calibrator
    return kind.from_arrays(arrays)


def row_groups(calibrator: AnyCalibrator, schema: Schema, rows: Rows) -> NDArray[Any] | None:
    """Return the group of each row, object [n] of str; None where there are no groups."""
    if not isinstance(calibrator, GroupedCalibrator):
        return None
    groups: NDArray[Any] = rows.categorical[:, schema.categorical_names.index(calibrator.by)]
    return groups


def row_p_values(
    calibrator: AnyCalibrator, scores: ArrayLike, groups: NDArray[Any] | None
) -> NDArray[np.float64]:
    """P-values of scores, with what `row_groups` gives for their rows."""
    if not isinstance(calibrator, GroupedCalibrator):
        return calibrator.p_values(scores)
    if groups is None:
        raise InputError(
            f"the model is calibrated by {calibrator.by!r}: p-values need the group of each row"
        )
    return calibrator.p_values(scores, groups)


# --- Fitting --------------------------------------------------------------------------------


def group_options(
    frame: pl.DataFrame, options: SchemaOptions, by: str, *, source: str = "<table>"
) -> SchemaOptions:
    """Return options that also read the column `by` as categories.

    Raises
    ------
    UsageError
        There is no such column; another option makes it no feature, or numbers; or it tells no
        groups, since its values are all different, or all the same.
    """
    asked = flag(_OPTION, str(by))
    if not isinstance(by, str) or by not in frame.columns:
        guess = did_you_mean(by, frame.columns) if isinstance(by, str) else ""
        raise UsageError(
            f"{source}: {asked}: no such column{guess}; the columns are "
            f"{quoted_names(frame.columns)}"
        )
    others = [("--drop", options.drop), ("--numeric", options.numeric)]
    others += [("--id-column", (options.id_column,)), ("--label", (options.label,))]  # type: ignore[list-item]
    clashes = [flag(option, by) for option, names in others if by in names]
    if clashes:
        raise UsageError(
            f"{source}: {asked} and {' and '.join(clashes)} contradict each other: the groups are "
            "those of a column that the model reads as categories; leave one of them out"
        )
    if by in options.categorical:
        return options
    aside = study_column(frame[by], None, detect=options.detect_set_aside).set_aside
    if aside is not None:
        raise UsageError(
            f"{source}: {asked} tells no groups of rows ({aside.reason.value}): name a column "
            "whose values repeat and differ, such as a machine or a site; if this is one, "
            f"force the column to be categories ({flag('--categorical', by)})"
        )
    return replace(options, categorical=(*options.categorical, by))


def calibrate_groups(
    by: str,
    scores: NDArray[np.float32],
    held_out: NDArray[Any],
    everyone: NDArray[Any],
    pooled: Calibrator,
) -> tuple[AnyCalibrator, tuple[str, ...]]:
    """Calibrate by group, and say which groups have no calibration of their own.

    Parameters
    ----------
    by : str
    scores : float32 [n]
        Of the held-out rows.
    held_out, everyone : object [n] and [n_rows] of str
        Groups of the held-out rows, and of all rows of training.
    pooled : Calibrator
        Of all held-out rows.

    Returns
    -------
    tuple of AnyCalibrator and tuple of str
        `pooled` itself where no group has rows enough; and notes for people.
    """
    found = GroupedCalibrator.fit(by, scores, held_out, pooled)
    own = {} if found is None else found.groups
    counts = dict.fromkeys(sorted(set(everyone.tolist()) - {""}), 0)
    for name in held_out.tolist():
        if name in counts:
            counts[name] += 1
    rate, ratio = pooled.false_alarm_rate, len(everyone) / len(scores)
    least, enough = min(LEAST_FOR_TAIL, _needed(rate)), _needed(rate)
    takes = f"it takes {enough} of them (about {_about(enough * ratio)} normal rows)"
    if least < enough:
        takes += (
            f", or {least} (about {_about(least * ratio)}) to whose scores a tail can be fitted"
        )
    notes = []
    left = {name: n for name, n in counts.items() if name not in own}
    if found is None:
        notes.append(
            f"no group of {by!r} has held-out rows enough for a calibration of its own, so the "
            f"model has one for all rows: {_listed(left)}; {takes}"
        )
    elif left:
        notes.append(
            f"too few held-out rows for a calibration of its own in {plural(len(left), 'group')} "
            f"of {by!r}, judged by that of all rows: {_listed(left)}; {takes}"
        )
    beyond = {name: c.n for name, c in own.items() if rate < c.resolution}
    if beyond:
        notes.append(
            f"in {plural(len(beyond), 'group')} of {by!r} the threshold is extrapolated by a tail, "
            f"since fewer than {enough} rows are held out: {_listed(beyond)}"
        )
    return pooled if found is None else found, tuple(notes)


def _needed(rate: float) -> int:
    """Calibration rows that count a rate: the least n with ``n + 1 >= 1 / rate``."""
    return math.ceil(round(1.0 / rate, 9)) - 1


def _about(rows: float) -> str:
    return f"{math.ceil(rows):,}".replace(",", " ")


def _listed(counts: Mapping[str, int]) -> str:
    shown = [f"{name!r} ({n})" for name, n in list(counts.items())[:_SHOWN_GROUPS]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown) or "none has a name"


def _names(groups: Sequence[str] | NDArray[Any], n: int) -> NDArray[Any]:
    names = np.asarray(groups, dtype=object).ravel()
    if len(names) != n:
        raise InputError(f"{n} scores need as many groups, got {len(names)}")
    return names


# --- What a model states of its groups ------------------------------------------------------


def stated_groups(calibration: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Return the groups in a `summary`; empty where the calibration is one for all rows."""
    groups: Mapping[str, Mapping[str, Any]] = calibration.get("groups") or {}
    return groups


def calibration_of(
    calibration: Mapping[str, Any], schema: Schema, rows: Rows, i: int
) -> Mapping[str, Any]:
    """Return the part of a `summary` that the row at position i is judged by."""
    group = group_of(calibration, schema, rows, i)
    return calibration if group is None else {**calibration, **stated_groups(calibration)[group]}


def group_of(calibration: Mapping[str, Any], schema: Schema, rows: Rows, i: int) -> str | None:
    """Return the group that the row at position i is judged in; None: by all rows."""
    groups = stated_groups(calibration)
    if not groups or calibration.get("by") not in schema.categorical_names:
        return None
    group = str(rows.categorical[i, schema.categorical_names.index(calibration["by"])])
    return group if group in groups else None


def require_stated_rate(calibration: Mapping[str, Any], rate: float) -> None:
    """Refuse a rate that a model with this `summary` cannot keep; an empty one refuses nothing.

    Raises
    ------
    UsageError
        As `Calibrator.require_rate`.
    """
    known = calibration.get("n")
    has_tail = known is None or calibration.get("tail") is not None
    require_rate(rate, n=int(known or 0), has_tail=has_tail)
    for name, group in stated_groups(calibration).items():
        with _in_group(str(calibration.get("by")), name):
            require_rate(rate, n=int(group["n"]), has_tail=group.get("tail") is not None)


@contextmanager
def _in_group(by: str, name: str) -> Iterator[None]:
    """Name the group in which a rate cannot be kept."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"in the group {name!r} of {by!r}, {error}") from error
