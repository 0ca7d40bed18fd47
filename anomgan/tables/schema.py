"""What a row is: the columns that a model learnt from, and how rows are read against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import polars as pl

from anomgan.errors import SchemaError, UsageError
from anomgan.tables.columns import Column, ColumnKind, SchemaOptions, SetAside, SetAsideReason
from anomgan.tables.faults import did_you_mean, flag, listing, quoted_names
from anomgan.tables.forks import require_threads
from anomgan.tables.kinds import Study, study_column
from anomgan.tables.readers import Batch
from anomgan.tables.rows import Rows, read_numbers, read_texts
from anomgan.tables.schema_json import columns_from, schema_to_dict, set_aside_from, validated

__all__ = [
    "Column",
    "ColumnKind",
    "Rows",
    "Schema",
    "SchemaOptions",
    "SetAside",
    "SetAsideReason",
]

MAX_COLUMNS = 10_000
"""Most columns of a training table."""


@dataclass(frozen=True)
class Schema:
    """The columns of a training table: features, and those set aside.

    Parameters
    ----------
    columns : tuple of Column
        The features, in table order.
    set_aside : tuple of SetAside
        The other columns, in table order.
    id_column : str or None
        The one that names the rows in the score output.
    n_rows : int
        Training rows.
    notes : tuple of str
        Warnings about guesses made (set-aside columns have theirs in `SetAside.detail`).
    """

    columns: tuple[Column, ...]
    set_aside: tuple[SetAside, ...] = ()
    id_column: str | None = None
    n_rows: int = 0
    notes: tuple[str, ...] = ()

    @property
    def numeric_names(self) -> tuple[str, ...]:
        """Features that become one number each: the columns of the ONNX input `numeric`."""
        return tuple(c.name for c in self.columns if c.kind is not ColumnKind.CATEGORICAL)

    @property
    def categorical_names(self) -> tuple[str, ...]:
        """Features that are text: the columns of the ONNX input `categorical`."""
        return tuple(c.name for c in self.columns if c.kind is ColumnKind.CATEGORICAL)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """All features in schema order: the order of the contributions."""
        return tuple(c.name for c in self.columns)

    @classmethod
    def infer(
        cls,
        frame: pl.DataFrame,
        options: SchemaOptions = SchemaOptions(),  # noqa: B008 (frozen, empty)
        *,
        source: str = "<table>",
    ) -> Self:
        """Find out what each column of a training table is.

        Parameters
        ----------
        frame : polars.DataFrame, [n_rows, n_columns]
            Raw rows, as `read_table` gives them.
        options : SchemaOptions
        source : str
            For messages.

        Raises
        ------
        SchemaError
            No row; more than `MAX_COLUMNS` columns; cells that cannot be read in columns of
            numbers or dates, told together; no column left to learn from.
        UsageError
            Options that name no column, or contradict each other.
        """
        _check_options(options, frame.columns, source)
        if not frame.height:
            raise SchemaError(f"{source} has no rows: a schema needs at least one")
        if frame.width > MAX_COLUMNS:
            raise SchemaError(
                f"{source} has {frame.width:,} columns, and a model reads at most "
                f"{MAX_COLUMNS:,}: hand in the columns that matter, or a projection of all"
            )
        studies = [
            _study(frame[name], options) for name in frame.columns if name != options.id_column
        ]
        _raise_faults(studies, source)
        columns = tuple(s.column for s in studies if s.column is not None)
        set_aside = [s.set_aside for s in studies if s.set_aside is not None]
        if not columns:
            raise _nothing_left(set_aside, source)
        id_column = options.id_column
        if id_column is None:
            found = (s.name for s in set_aside if s.reason is SetAsideReason.IDENTIFIER)
            id_column = next(found, None)
        else:
            detail = f"column {id_column!r} names the rows (--id-column)"
            set_aside.append(SetAside(id_column, SetAsideReason.IDENTIFIER, detail))
            set_aside.sort(key=lambda aside: frame.columns.index(aside.name))
        notes = tuple(note for s in studies for note in s.notes)
        return cls(columns, tuple(set_aside), id_column, frame.height, notes)

    def rows(self, batch: Batch, *, on_bad_row: Literal["error", "skip"] = "error") -> Rows:
        """Read raw rows against this schema; column order does not matter.

        Parameters
        ----------
        batch : Batch
        on_bad_row : {"error", "skip"}
            "skip" keeps rows that cannot be read, empty, with the reason in `Rows.faults`.

        Raises
        ------
        SchemaError
            Missing columns (always), and unreadable cells (on "error"), told together.
        UsageError
            This process was forked from one that had read tables.
        """
        require_threads()
        frame = batch.frame
        present = set(frame.columns)
        missing = [name for name in self.feature_names if name not in present]
        by_kind = [c for c in self.columns if c.kind is not ColumnKind.CATEGORICAL]
        numeric, bad = read_numbers(frame, by_kind)
        categorical = read_texts(frame, self.categorical_names, batch.source)
        if missing or (bad and on_bad_row == "error"):
            raise self._unfit(missing, bad, batch)
        faults = dict(batch.faults) | {i: "; ".join(texts) for i, texts in bad.items()}
        if faults:
            numeric[list(faults)] = float("nan")
            categorical[list(faults)] = ""
        ids = frame[self.id_column].to_list() if self.id_column in frame.columns else None
        known = {*self.feature_names, *(s.name for s in self.set_aside)}
        extra = tuple(name for name in frame.columns if name not in known)
        return Rows(numeric, categorical, ids, batch.first_row, faults, extra)

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as JSON-safe data, the inverse of `from_dict`."""
        return schema_to_dict(self.columns, self.set_aside, self.id_column, self.n_rows, self.notes)

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Make a schema from the data of `to_dict`.

        Raises
        ------
        SchemaError
            Anything missing, unknown, of a wrong type or contradictory.
        """
        fields = validated(data)
        return cls(
            columns_from(fields["columns"]),
            set_aside_from(fields["set_aside"]),
            fields["id_column"],
            fields["n_rows"],
            tuple(fields["notes"]),
        )

    def _unfit(self, missing: list[str], bad: dict[int, list[str]], batch: Batch) -> SchemaError:
        names = batch.frame.columns
        faults = [f"column {name!r} is missing{did_you_mean(name, names)}" for name in missing]
        cells = [f"{batch.place(i)}, {text}" for i in sorted(bad) for text in bad[i]]
        remedies = []
        if missing:
            known = quoted_names(names)
            remedies.append(
                f"the table needs every column the model was trained on; it has {known}"
            )
        if bad:
            remedies.append(
                "fix the cells (a decimal point, no thousands separators), leave them empty "
                "if the value is unknown, or keep going with --on-bad-row skip"
            )
        what = " and ".join(
            text
            for text, found in (("missing columns", missing), ("unreadable cells", bad))
            if found
        )
        faults = [*faults, *cells]
        message = listing(f"{batch.source}: {what}", faults, "; ".join(remedies))
        return SchemaError(message, faults)


def _study(series: pl.Series, options: SchemaOptions) -> Study:
    name = series.name
    if name == options.label:
        detail = f"column {name!r} is the label (--label)"
        return Study(set_aside=SetAside(name, SetAsideReason.LABEL, detail))
    if name in options.drop:
        detail = f"column {name!r} is left out on request (--drop)"
        return Study(set_aside=SetAside(name, SetAsideReason.DROPPED, detail))
    forced = None
    if name in options.numeric:
        forced = ColumnKind.NUMERIC
    elif name in options.categorical:
        forced = ColumnKind.CATEGORICAL
    return study_column(series, forced, detect=options.detect_set_aside)


def _raise_faults(studies: Sequence[Study], source: str) -> None:
    faults = [fault for s in studies for fault in s.faults]
    if not faults:
        return
    options = " ".join(dict.fromkeys(option for s in studies for option in s.remedies))
    remedy = (
        "fix the cells (a decimal point, no thousands separators), leave them empty if the "
        f"value is unknown, or choose among {options}"
    )
    # One cell of each column first: the reader learns of every bad column at once.
    first = [s.faults[0] for s in studies if s.faults]
    others = [fault for s in studies for fault in s.faults[1:]]
    raise SchemaError(listing(f"{source}: unreadable cells", [*first, *others], remedy), faults)


def _nothing_left(set_aside: Sequence[SetAside], source: str) -> SchemaError:
    faults = [aside.detail for aside in set_aside]
    remedy = "keep at least one column that varies from row to row"
    return SchemaError(
        listing(f"{source}: no column is left to learn from", faults, remedy), faults
    )


def _check_options(options: SchemaOptions, columns: Sequence[str], source: str) -> None:
    given: list[tuple[str, str]] = [("--drop", name) for name in options.drop]
    given += [("--categorical", name) for name in options.categorical]
    given += [("--numeric", name) for name in options.numeric]
    given += [
        (option, name)
        for option, name in (("--id-column", options.id_column), ("--label", options.label))
        if name is not None
    ]
    faults = [
        f"{flag(option, name)}: no such column{did_you_mean(name, columns)}"
        for option, name in given
        if name not in columns
    ]
    wanted: dict[str, list[str]] = {}
    for option, name in dict.fromkeys(given):
        wanted.setdefault(name, []).append(option)
    faults += [
        f"{' and '.join(flag(option, name) for option in asked)} contradict each other"
        for name, asked in wanted.items()
        if len(asked) > 1
    ]
    if faults:
        remedy = f"the columns are {quoted_names(columns)}"
        raise UsageError(listing(f"{source}: options that do not fit", faults, remedy), faults)
