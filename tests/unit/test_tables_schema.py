"""What columns are taken for, and how rows are read against that."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from anomgan.errors import SchemaError
from anomgan.tables import (
    MISSING_TOKENS,
    Batch,
    Column,
    ColumnKind,
    Schema,
    SchemaOptions,
    SetAsideReason,
    keep_normal,
    open_table,
    read_table,
)

N = 60


def kind_of(values: Any, name: str = "c", **options: Any) -> str:
    """Kind or set-aside reason of one column, beside a column that is always kept."""
    series = values if isinstance(values, pl.Series) else pl.Series(values, strict=False)
    keep = pl.Series("keep", np.linspace(0.0, 1.0, len(series)))
    frame = pl.DataFrame([series.rename(name), keep])
    schema = Schema.infer(frame, SchemaOptions(**options))
    for column in schema.columns:
        if column.name == name:
            return str(column.kind)
    (aside,) = schema.set_aside
    return str(aside.reason)


def text(values: Any) -> list[str]:
    return [str(value) for value in values]


# --- Kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.5 * (i % 9) for i in range(N)], "numeric"),
        ([i % 9 for i in range(N)], "numeric"),
        ([i % 2 for i in range(N)], "numeric"),
        (text(i % 2 for i in range(N)), "numeric"),
        ([f" {i % 9}e-3 " for i in range(N)], "numeric"),
        (["NA", "", "?", *text(0.1 * (i % 7) for i in range(N))], "numeric"),
        ([Decimal(i % 9) / 4 for i in range(N)], "numeric"),
        ([dt.timedelta(seconds=i % 9) for i in range(N)], "numeric"),
        ([dt.time(i % 9) for i in range(N)], "numeric"),
        ([i % 2 == 0 for i in range(N)], "boolean"),
        (["True", "False", None] * 20, "boolean"),
        (["t", "F", "TRUE"] * 20, "boolean"),
        (["yes", "no"] * 30, "categorical"),
        (["none", "unknown", "-"] * 20, "categorical"),
        (["1", "2", "x"] * 20, "categorical"),
        ([f"2024-02-{1 + i % 28}" for i in range(N)], "datetime"),
        ([dt.date(2024, 2, 1 + i % 28) for i in range(N)], "datetime"),
        ([dt.datetime(2024, 2, 1, i % 24) for i in range(N)], "datetime"),
        (pl.Series(text(i % 5 for i in range(N))).cast(pl.Categorical), "categorical"),
        ([f"id-{i}" for i in range(N)], "identifier"),
        ([f"word{i % 40}" for i in range(N)], "free text"),
        ([f"some words that make sentence {i % 51}" for i in range(600)], "free text"),
        ([None] * N, "all missing"),
        (["?", " NA", ""] * 20, "all missing"),
        ([float("nan")] * N, "all missing"),
        ([7] * N, "constant"),
        (["x"] * N, "constant"),
        ([True] * N, "constant"),
        (["2024-01-01"] * N, "constant"),
        (pl.Series(["x"] * N).cast(pl.Categorical), "constant"),
        (["x", None] * 30, "categorical"),
        ([7, None] * 30, "numeric"),
    ],
)
def test_kinds(values: Any, kind: str) -> None:
    assert kind_of(values) == kind


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("UDI", [i for i in range(1, 200) if i % 3], "identifier"),  # gaps where rows were removed
        ("c", range(100, 100 + N), "identifier"),
        ("c", text(range(N, 0, -1)), "identifier"),
        ("c", np.random.default_rng(0).permutation(300)[:180], "identifier"),
        ("c", [i * i for i in range(N)], "numeric"),
        ("PolicyNumber", [i * i for i in range(N)], "identifier"),
        ("customer_id", [10**17 + 10 * i * i for i in range(N)], "identifier"),
        ("Unnamed: 0", [3, 1, 9], "identifier"),
        ("id", text([7, 5, 99]), "identifier"),
        ("paid", [7, 5, 99], "numeric"),
        ("number of doors", [i * i for i in range(N)], "numeric"),
        ("id", [0.5, 1.5, 7.5], "numeric"),
        ("id", [7, 5, 7], "numeric"),
        ("id", [7, 5, None], "numeric"),
        ("c", range(19), "numeric"),  # too few rows to tell a run from chance
    ],
)
def test_row_identifiers(name: str, values: Any, kind: str) -> None:
    assert kind_of(list(values), name) == kind


def test_first_identifier_names_the_rows() -> None:
    frame = pl.DataFrame(
        {"x": [i % 7 for i in range(N)], "b": [f"b{i}" for i in range(N)], "a": list(range(N))}
    )
    schema = Schema.infer(frame)
    assert schema.id_column == "b"
    assert [s.reason for s in schema.set_aside] == [SetAsideReason.IDENTIFIER] * 2


def test_every_option() -> None:
    n = range(N)
    frame = pl.DataFrame(
        {
            "n": list(n),
            "key": [i % 4 for i in n],
            "code": [i % 5 for i in n],
            "gone": [i % 3 for i in n],
            "y": ["ok"] * N,
            "same": [1.0] * N,
        }
    )
    options = SchemaOptions(
        drop=("gone",), categorical=("code",), numeric=("n", "same"), id_column="key", label="y"
    )
    schema = Schema.infer(frame, options)
    assert schema.numeric_names == ("n", "same")
    assert schema.categorical_names == ("code",)
    assert schema.feature_names == ("n", "code", "same")
    assert schema.columns[1].categories == ("0", "1", "2", "3", "4")
    assert schema.id_column == "key"
    assert [(s.name, str(s.reason)) for s in schema.set_aside] == [
        ("key", "identifier"),
        ("gone", "dropped"),
        ("y", "label"),
    ]


def test_nothing_is_set_aside_when_not_asked_for() -> None:
    frame = pl.DataFrame({"x0": [1.0, 1.0], "x1": [None, None], "x2": [1, 2], "x3": ["a", "b"]})
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    assert schema.feature_names == ("x0", "x1", "x2", "x3")
    assert schema.columns[1] == Column("x1", ColumnKind.NUMERIC, n_missing=2)
    assert (schema.set_aside, schema.id_column) == ((), None)


def test_what_a_column_remembers() -> None:
    frame = pl.DataFrame(
        {
            "x": ["3", "-1.5", "?", "2"],
            "c": [" b", "a", "b ", "NA"],
            "d": ["1/2/1970", "1/1/1970", "1/31/1970", ""],
            "e": ["a", "b", "b", "a"],
        }
    )
    x, c, d, e = Schema.infer(frame).columns
    assert x == Column("x", ColumnKind.NUMERIC, minimum=-1.5, maximum=3.0, n_missing=1)
    assert c == Column("c", ColumnKind.CATEGORICAL, ("b", "a"), n_missing=1)
    assert d == Column("d", ColumnKind.DATETIME, (), "M/D/Y", 0.0, 30 * 86_400.0, 1)
    assert e.categories == ("a", "b")  # equally frequent: by value


def test_notes_on_guesses() -> None:
    frame = pl.DataFrame({"d": ["1/2/2020", "3/4/2020"] * 10, "m": ["1", "2", "3", "low"] * 5})
    assert Schema.infer(frame).notes == (
        "column 'd': dates such as '1/2/2020' are read as month/day/year, since nothing tells "
        "whether the day comes first: write them as YYYY-MM-DD to be sure",
        "column 'm' is read as categories, though 15 of its 20 values are numbers, others text "
        "such as 'low': to read it as numbers, empty the cells with text and pass --numeric m",
    )


def test_set_aside_columns_say_how_to_keep_them() -> None:
    frame = pl.DataFrame(
        {
            "Product ID": [f"p{i}" for i in range(N)],
            "remark": [f"r{i % 40}" for i in range(N)],
            "UDI": list(range(N)),
            "same": ["0"] * N,
            "flag": [True] * N,
            "x": [0.5 * (i % 3) for i in range(N)],
            "mixed": [f"{i}.5" if i % 10 else "-" for i in range(N)],
        }
    )
    assert [aside.detail for aside in Schema.infer(frame).set_aside] == [
        "column 'Product ID' looks like a row identifier (60 different texts in 60 rows); use it "
        "as a feature with --categorical 'Product ID'",
        "column 'remark' looks like free text (40 different texts in 60 rows); use it as a "
        "feature with --categorical remark",
        "column 'UDI' looks like a row identifier (whole numbers that run on without a gap); use "
        "it as a feature with --numeric UDI",
        "column 'same' has one value, '0', in every row; use it as a feature with --numeric same",
        "column 'flag' has one value, 'True', in every row; use it as a feature with "
        "--categorical flag",
        "column 'mixed' is neither numbers nor categories: 54 of its 60 values are numbers, others "
        "text such as '-': to read it as numbers, empty the cells with text and pass --numeric "
        "mixed; or use it as a feature with --categorical mixed",
    ]


# --- Real tables ----------------------------------------------------------------------------


def labelled(data_dir: Path, name: str, part: str) -> tuple[Schema, Path, dict[str, Any]]:
    folder = data_dir / "tabular" / name
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    path = folder / meta["read"][part]
    label, normal = meta["label"]["column"], text(meta["label"]["normal"])
    kept = keep_normal(read_table(path), label, normal, source=str(path))
    n, n_anomalous = next((n, a) for p, n, a in meta["expect"] if p == part)
    assert kept.height == n - n_anomalous
    return Schema.infer(kept, SchemaOptions(label=label), source=str(path)), path, meta


@pytest.mark.parametrize(
    ("name", "part", "n_numeric", "n_categorical", "id_column"),
    [
        ("adult_census", "train", 6, 8, None),
        ("ai4i2020", "all", 6, 1, "UDI"),
        ("arrhythmia_raw", "all", 226, 0, None),
        ("bank_additional", "all", 10, 10, None),
        ("cicids2017_sample", "all", 52, 0, None),
        ("creditcard_sample", "all", 30, 0, None),
        ("nsl_kdd", "train", 35, 3, None),
        ("ozone_eighthr", "all", 73, 0, None),
        ("vehicle_claims_fraud", "all", 7, 24, "PolicyNumber"),
    ],
)
def test_real_normal_rows(
    data_dir: Path, name: str, part: str, n_numeric: int, n_categorical: int, id_column: str | None
) -> None:
    schema, path, _ = labelled(data_dir, name, part)
    assert schema.id_column == id_column
    assert len(schema.numeric_names) == n_numeric
    assert len(schema.categorical_names) == n_categorical
    with open_table(path) as reader:
        parts = [schema.rows(batch) for batch in reader]
    numeric = np.concatenate([rows.numeric for rows in parts])
    assert not np.isinf(numeric).any()
    n_features = len(schema.feature_names)
    assert numeric.shape[1] + parts[0].categorical.shape[1] == n_features
    assert all(rows.extra_columns == () for rows in parts)
    assert (parts[0].ids is None) == (id_column is None)
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_ozone_dates_and_question_marks(data_dir: Path) -> None:
    schema, path, _ = labelled(data_dir, "ozone_eighthr", "all")
    date = schema.columns[0]
    assert (date.name, date.kind, date.datetime_format) == ("Date", ColumnKind.DATETIME, "M/D/Y")
    frame = read_table(path)
    rows = schema.rows(Batch(frame, 1, "ozone"))
    days = frame["Date"].str.to_date("%m/%d/%Y").to_physical().to_numpy()
    assert np.array_equal(rows.numeric[:, 0], days * 86_400.0)
    features = frame.select(schema.numeric_names)
    question_marks = (features == "?").to_numpy()
    assert np.array_equal(np.isnan(rows.numeric), question_marks)
    assert question_marks.sum() > 10_000


def test_adult_values_with_leading_spaces(data_dir: Path) -> None:
    schema, path, _ = labelled(data_dir, "adult_census", "train")
    workclass = schema.columns[1]
    assert workclass.categories[0] == "Private"
    assert workclass.n_missing > 1000
    batch = next(iter(open_table(path)))
    rows = schema.rows(batch)
    assert rows.numeric[0].tolist() == [39, 77516, 13, 2174, 0, 40]
    assert rows.categorical[0, :2].tolist() == ["State-gov", "Bachelors"]


# --- Rows -----------------------------------------------------------------------------------


@pytest.fixture
def schema() -> Schema:
    frame = pl.DataFrame(
        {
            "id": text(range(N)),
            "age": text(20 + i % 7 for i in range(N)),
            "job": ["ab"[i % 2] for i in range(N)],
            "ok": text(i % 3 == 0 for i in range(N)),
            "day": [f"{1 + i % 12}/{1 + i % 28}/2024" for i in range(N)],
        }
    )
    return Schema.infer(frame)


def test_rows_of_any_order_with_extra_columns(schema: Schema) -> None:
    frame = pl.DataFrame(
        {
            "new": ["?"],
            "day": ["1/2/1970"],
            "ok": [" T"],
            "id": [" 7"],
            "job": [" zz "],
            "age": [" 1e1 "],
        }
    )
    rows = schema.rows(Batch(frame, 5, "new.csv"))
    assert schema.numeric_names == ("age", "ok", "day")
    assert rows.numeric.tolist() == [[10.0, 1.0, 86_400.0]]
    assert rows.numeric.dtype == np.float64
    assert rows.categorical.tolist() == [["zz"]]
    assert rows.categorical.dtype == object
    assert (rows.ids, rows.first_row, rows.extra_columns) == ([" 7"], 5, ("new",))


@pytest.mark.parametrize("token", [*MISSING_TOKENS, " ? ", "\tNA\u00a0", None])
def test_missing_tokens_in_every_kind(schema: Schema, token: str | None) -> None:
    frame = pl.DataFrame(
        {name: [token] for name in schema.feature_names}, schema_overrides={"job": pl.String}
    )
    rows = schema.rows(Batch(frame, 1, "new.csv"))
    assert np.isnan(rows.numeric).all()
    assert rows.categorical.tolist() == [[""]]
    assert rows.ids is None


def test_typed_rows_mean_the_same_as_text(schema: Schema) -> None:
    typed = pl.DataFrame(
        {
            "age": [21, None],
            "job": pl.Series(["a", None]).cast(pl.Categorical),
            "ok": [True, None],
            "day": [dt.date(2024, 3, 4), None],
            "id": [1, 2],
        }
    )
    as_text = pl.DataFrame(
        {"age": ["21", ""], "job": ["a", ""], "ok": ["1.0", "NA"], "day": ["2024-03-04", ""]}
    )
    a, b = (schema.rows(Batch(frame, 1, "x")) for frame in (typed, as_text))
    assert np.array_equal(a.numeric, b.numeric, equal_nan=True)
    assert a.categorical.tolist() == b.categorical.tolist() == [["a"], [""]]
    assert (a.ids, b.ids) == ([1, 2], None)


def test_skipped_rows_are_empty_and_say_why(schema: Schema) -> None:
    frame = pl.DataFrame(
        {
            "age": ["21", "old", None],
            "job": ["a", "b", None],
            "ok": ["T", "x", None],
            "day": ["1/1/2024"] * 2 + [None],
        }
    )
    batch = Batch(frame, 1, "x", faults={2: "1 field where the header has 4"})
    rows = schema.rows(batch, on_bad_row="skip")
    assert rows.faults == {
        1: "column 'age': 'old' is not a number; column 'ok': 'x' is not true or false",
        2: "1 field where the header has 4",
    }
    assert np.isnan(rows.numeric[1:]).all()
    assert rows.numeric[0, 0] == 21
    assert rows.categorical.tolist() == [["a"], [""], [""]]


def test_no_rows(schema: Schema) -> None:
    frame = pl.DataFrame(schema=dict.fromkeys(schema.feature_names, pl.String))
    rows = schema.rows(Batch(frame, 1, "x"))
    assert rows.numeric.shape == (0, 3)
    assert rows.categorical.shape == (0, 1)


@pytest.mark.parametrize(
    "values", [[3, 4], [3.0, 4.0], [Decimal(3), Decimal(4)], ["3", " 4"], [3.0, 4.0, None]]
)
def test_forced_categories_are_the_same_text_from_any_type(values: list[Any]) -> None:
    frame = pl.DataFrame({"c": values, "x": [0.5] + [1.5] * (len(values) - 1)})
    schema = Schema.infer(frame, SchemaOptions(categorical=("c",)))
    assert schema.columns[0].categories == ("3", "4")
    assert schema.rows(Batch(frame, 1, "x")).categorical[:2, 0].tolist() == ["3", "4"]


# --- JSON -----------------------------------------------------------------------------------


def test_dict_is_json_and_comes_back(schema: Schema) -> None:
    data = json.loads(json.dumps(schema.to_dict(), allow_nan=False))
    assert Schema.from_dict(data) == schema


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    keys: list[Any] = [int(key) if key.isdigit() else key for key in path.split(".")]
    *parents, last = keys
    place: Any = data
    for key in parents:
        place = place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("n_rows", -1, "schema has unusable values in n_rows"),
        ("n_rows", True, "schema has unusable values in n_rows"),
        ("notes", "text", "schema has unusable values in notes"),
        ("columns", [], "there is no column"),
        ("columns", None, "schema has unusable values in columns"),
        ("extra", 1, "schema has unknown fields ['extra'] and lacks the fields []"),
        ("n_rows", KeyError, "schema has unknown fields [] and lacks the fields ['n_rows']"),
        ("id_column", "job", "id_column 'job' is no set-aside column"),
        ("columns.0", "age", "column 1 is str, expected an object"),
        ("columns.0.kind", "number", "column 1 has unusable values in kind"),
        ("columns.0.name", "job", "a column name appears twice"),
        ("columns.0.minimum", float("inf"), "column 1 has unusable values in minimum"),
        ("columns.0.minimum", None, "column 1 has half a range"),
        ("columns.0.minimum", 1e9, "column 1 has a range that ends before it starts"),
        (
            "columns.0.categories",
            ["a"],
            "column 1 has categories of a column that is not categorical",
        ),
        ("columns.1.categories", ["a", "a"], "column 2 has a category twice"),
        ("columns.1.categories", ["a", 1], "column 2 has unusable values in categories"),
        (
            "columns.1.datetime_format",
            "M/D/Y",
            "column 2 has a date format of a column that is no date",
        ),
        ("columns.3.datetime_format", "%Y", "column 4 has unusable values in datetime_format"),
        ("columns.0.n_missing", 0.5, "column 1 has unusable values in n_missing"),
        ("set_aside.0.reason", "boring", "set-aside column 1 has unusable values in reason"),
    ],
)
def test_damaged_dict_is_refused(schema: Schema, path: str, value: Any, message: str) -> None:
    data = json.loads(json.dumps(schema.to_dict()))
    with pytest.raises(SchemaError) as caught:
        Schema.from_dict(changed(data, path, value))
    assert str(caught.value) == f"schema: {message}"


@pytest.mark.parametrize("data", [None, [], "x", 3])
def test_what_is_no_dict_is_refused(data: object) -> None:
    with pytest.raises(SchemaError, match=r"^schema: schema is .*, expected an object$"):
        Schema.from_dict(data)


@pytest.mark.parametrize("option", ["categorical", "constant"])
def test_durations_can_be_written_out(option: str) -> None:
    spans = [dt.timedelta(seconds=1 if option == "constant" else i % 3) for i in range(N)]
    if option == "constant":
        assert kind_of(pl.Series(spans)) == "constant"
    else:
        assert kind_of(pl.Series(spans), categorical=("c",)) == "categorical"
