"""A schema as JSON-safe data, checked field by field on the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anomgan.errors import SchemaError
from anomgan.tables.columns import Column, ColumnKind, SetAside, SetAsideReason
from anomgan.tables.datetimes import FORMATS

__all__ = ["columns_from", "schema_to_dict", "set_aside_from", "validated"]

_Check = Callable[[Any], bool]


def schema_to_dict(
    columns: Sequence[Column],
    set_aside: Sequence[SetAside],
    id_column: str | None,
    n_rows: int,
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return the fields of a schema as dicts, lists, text and numbers."""
    return {
        "columns": [
            {
                "name": c.name,
                "kind": str(c.kind),
                "categories": list(c.categories),
                "datetime_format": c.datetime_format,
                "minimum": c.minimum,
                "maximum": c.maximum,
                "n_missing": c.n_missing,
            }
            for c in columns
        ],
        "set_aside": [
            {"name": s.name, "reason": str(s.reason), "detail": s.detail} for s in set_aside
        ],
        "id_column": id_column,
        "n_rows": n_rows,
        "notes": list(notes),
    }


def validated(data: object) -> Mapping[str, Any]:
    """Return `data` if it has the fields of a schema, each of the right type."""
    fields = _fields(data, "schema", _SCHEMA)
    _check_names(fields)
    return fields


def columns_from(data: Sequence[object]) -> tuple[Column, ...]:
    """Make the columns, checking that kind and contents agree."""
    return tuple(_column(item, f"column {place}") for place, item in enumerate(data, start=1))


def set_aside_from(data: Sequence[object]) -> tuple[SetAside, ...]:
    """Make the set-aside columns."""
    made = []
    for place, item in enumerate(data, start=1):
        fields = _fields(item, f"set-aside column {place}", _SET_ASIDE)
        made.append(SetAside(fields["name"], SetAsideReason(fields["reason"]), fields["detail"]))
    return tuple(made)


def _column(item: object, where: str) -> Column:
    fields = _fields(item, where, _COLUMN)
    kind = ColumnKind(fields["kind"])
    low, high = fields["minimum"], fields["maximum"]
    categories = tuple(fields["categories"])
    contradictions = {
        "categories of a column that is not categorical": categories
        and kind is not ColumnKind.CATEGORICAL,
        "a category twice": len(set(categories)) < len(categories),
        "a date format of a column that is no date": fields["datetime_format"] is not None
        and kind is not ColumnKind.DATETIME,
        "half a range": (low is None) != (high is None),
        "a range that ends before it starts": low is not None and high is not None and low > high,
    }
    found = [text for text, wrong in contradictions.items() if wrong]
    if found:
        raise SchemaError(f"schema: {where} has {' and '.join(found)}")
    return Column(
        fields["name"],
        kind,
        categories,
        fields["datetime_format"],
        None if low is None else float(low),
        None if high is None else float(high),
        fields["n_missing"],
    )


def _check_names(fields: Mapping[str, Any]) -> None:
    features = [item.get("name") for item in fields["columns"] if isinstance(item, dict)]
    others = [item.get("name") for item in fields["set_aside"] if isinstance(item, dict)]
    names = [*features, *others]
    if len(set(map(str, names))) < len(names):
        raise SchemaError("schema: a column name appears twice")
    if not features:
        raise SchemaError("schema: there is no column")
    if fields["id_column"] is not None and fields["id_column"] not in others:
        raise SchemaError(f"schema: id_column {fields['id_column']!r} is no set-aside column")


def _fields(data: object, where: str, checks: Mapping[str, _Check]) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise SchemaError(f"schema: {where} is {type(data).__name__}, expected an object")
    unknown, absent = sorted(map(str, data.keys() - checks)), sorted(checks.keys() - data)
    if unknown or absent:
        raise SchemaError(
            f"schema: {where} has unknown fields {unknown} and lacks the fields {absent}"
        )
    wrong = [name for name, check in checks.items() if not check(data[name])]
    if wrong:
        raise SchemaError(f"schema: {where} has unusable values in {', '.join(wrong)}")
    return data


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number_or_none(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_SCHEMA: dict[str, _Check] = {
    "columns": lambda value: isinstance(value, list),
    "set_aside": lambda value: isinstance(value, list),
    "id_column": lambda value: value is None or isinstance(value, str),
    "n_rows": _is_count,
    "notes": _is_texts,
}
_COLUMN: dict[str, _Check] = {
    "name": _is_text,
    "kind": lambda value: _is_text(value) and value in set(ColumnKind),
    "categories": _is_texts,
    "datetime_format": lambda value: value is None or (_is_text(value) and value in FORMATS),
    "minimum": _is_number_or_none,
    "maximum": _is_number_or_none,
    "n_missing": _is_count,
}
_SET_ASIDE: dict[str, _Check] = {
    "name": _is_text,
    "reason": lambda value: _is_text(value) and value in set(SetAsideReason),
    "detail": _is_text,
}
