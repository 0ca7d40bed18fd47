"""The words in which a schema speaks: kinds, reasons, and one record a column."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Column", "ColumnKind", "SchemaOptions", "SetAside", "SetAsideReason"]


class ColumnKind(StrEnum):
    """How a column is read: all but CATEGORICAL become one float64 each."""

    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    CATEGORICAL = "categorical"
    DATETIME = "datetime"


class SetAsideReason(StrEnum):
    """Why a column of the training table is not a feature."""

    IDENTIFIER = "identifier"
    CONSTANT = "constant"
    FREE_TEXT = "free text"
    ALL_MISSING = "all missing"
    DROPPED = "dropped"
    LABEL = "label"


@dataclass(frozen=True)
class Column:
    """One feature of the table, as seen in training.

    Parameters
    ----------
    name : str
    kind : ColumnKind
    categories : tuple of str
        CATEGORICAL only: the values seen (stripped), most frequent first, ties by value.
    datetime_format : str or None
        DATETIME read from text only: a key of `anomgan.tables.datetimes.FORMATS`. None
        for columns that came with a temporal type; their text form is then ISO 8601.
    minimum, maximum : float or None
        NUMERIC and DATETIME (seconds since 1970-01-01 UTC): the range seen in training;
        None where every cell was missing.
    n_missing : int
        Missing cells in training.
    """

    name: str
    kind: ColumnKind
    categories: tuple[str, ...] = ()
    datetime_format: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    n_missing: int = 0


@dataclass(frozen=True)
class SetAside:
    """A column that is not a feature; `detail` says why and how to force it."""

    name: str
    reason: SetAsideReason
    detail: str


@dataclass(frozen=True)
class SchemaOptions:
    """What the user says about the columns; everything else is inferred.

    Parameters
    ----------
    drop : tuple of str
        Columns to leave out.
    categorical, numeric : tuple of str
        Columns whose kind is forced; a forced column is never set aside.
    id_column : str, optional
        The column that names the rows: copied to the scores, never a feature.
    label : str, optional
        The label column: never a feature.
    detect_set_aside : bool
        False keeps identifiers, constants, free text and all-missing columns as features.
    """

    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    id_column: str | None = None
    label: str | None = None
    detect_set_aside: bool = True
