"""Features back to cells: what comes back exactly, up to rounding, or not at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomgan.tables import Batch, Schema, SchemaOptions
from anomgan.tables.decoding import OTHER_CATEGORY, decoders
from anomgan.tables.encoding import MAX_CATEGORIES, FeatureEncoder

ROUNDING = 2.0**-23  # of float32, relative, with room for one more operation

NUMBERS = st.none() | st.integers(-(10**6), 10**6).map(float) | st.floats(-1e300, 1e300)
TEXTS = st.none() | st.sampled_from(["a", "b", "c"]) | st.text(max_size=5)


def fitted(
    columns: dict[str, Any] | pl.DataFrame, **options: Any
) -> tuple[Schema, FeatureEncoder, Any]:
    options.setdefault("detect_set_aside", False)
    frame = columns if isinstance(columns, pl.DataFrame) else pl.DataFrame(columns, strict=False)
    schema = Schema.infer(frame, SchemaOptions(**options))
    rows = schema.rows(Batch(frame, 1, "train"))
    return schema, FeatureEncoder.fit(schema, rows), rows


def decoded(schema: Schema, encoder: FeatureEncoder, rows: Any) -> dict[str, list[Any]]:
    features = encoder.transform(rows).features
    return {d.column.name: d.cells(features) for d in decoders(schema, encoder)}


@st.composite
def tables(draw: Any) -> pl.DataFrame:
    n = draw(st.integers(2, 14))

    def column(cells: Any) -> Any:
        return draw(st.lists(cells, min_size=n, max_size=n))

    flags = column(st.sampled_from([True, False, None]))
    flags[:2] = [True, False]
    return pl.DataFrame(
        {"x": column(NUMBERS), "c": column(TEXTS), "b": flags, "y": column(NUMBERS)},
        schema={"x": pl.Float64, "c": pl.String, "b": pl.Boolean, "y": pl.Float64},
    )


@given(tables())
@settings(max_examples=150, deadline=None)
def test_training_rows_come_back(train: pl.DataFrame) -> None:
    schema, encoder, rows = fitted(train, numeric=("x", "y"), categorical=("c",))
    cells = decoded(schema, encoder, rows)
    by_name = {d.column.name: d for d in decoders(schema, encoder)}
    for name in ("x", "y"):
        given_, scale = rows.numeric[:, schema.numeric_names.index(name)], by_name[name].scale
        place = encoder.value_columns.tolist().index(by_name[name].input_index)
        mean = encoder.mean[place]
        for value, cell in zip(given_.tolist(), cells[name], strict=True):
            if math.isnan(value):
                assert cell is None
                continue
            slack = ROUNDING * abs(value - mean) + 1e-40 * scale + 1e-15 * (abs(value) + abs(mean))
            assert abs(cell - value) <= slack
    assert cells["b"] == train["b"].to_list()
    texts = rows.categorical[:, 0].tolist()
    assert cells["c"] == [text or None for text in texts]


def test_rare_categories_come_back_as_another_one() -> None:
    frequent = [f"f{i:02d}" for i in range(MAX_CATEGORIES)]
    rare = [f"r{i:02d}" for i in range(10)]
    column = [*frequent * 2, *rare, None]
    schema, encoder, rows = fitted({"c": column}, categorical=("c",))
    assert decoded(schema, encoder, rows)["c"] == [*frequent * 2, *[OTHER_CATEGORY] * 10, None]
    (decoder,) = decoders(schema, encoder)
    assert not decoder.surprises("r03")
    assert not decoder.surprises(None)
    assert decoder.surprises("never")


def test_what_training_never_saw_comes_back_as_another_category_and_the_median() -> None:
    schema, encoder, _ = fitted({"c": ["a", "b", "a", "b"], "x": [1.0, 2.0, 3.0, 5.0]})
    frame = pl.DataFrame({"c": ["zz", None], "x": [None, 3.0]})
    cells = decoded(schema, encoder, schema.rows(Batch(frame, 1, "new")))
    assert cells["c"] == [OTHER_CATEGORY, OTHER_CATEGORY]
    assert cells["x"] == pytest.approx([2.5, 3.0])
    category, number = decoders(schema, encoder)
    assert category.surprises(None)
    assert number.surprises(None)
    assert not number.surprises(1e9)


def test_a_column_that_was_always_missing_comes_back_missing() -> None:
    schema, encoder, rows = fitted({"x": [None] * 4, "y": [1, 2, 3, 4]}, numeric=("x",))
    assert decoded(schema, encoder, rows)["x"] == [None] * 4


def test_large_counters_keep_what_their_spread_needs() -> None:
    counter = 1.7e9 + np.round(np.random.default_rng(0).uniform(-50, 50, 200), 3)
    schema, encoder, rows = fitted({"t": counter})
    np.testing.assert_allclose(decoded(schema, encoder, rows)["t"], counter, rtol=0, atol=1e-5)


def times(start: str, step: str, n: int) -> pl.Series:
    first = pl.Series([start]).str.to_datetime()[0]
    last = first + pl.select(pl.duration(hours=int(step))).item() * (n - 1)
    return pl.datetime_range(first, last, f"{step}h", eager=True).alias("t")


@pytest.mark.parametrize(
    ("step", "n", "written"),
    [
        ("1", 60, "%H:%M"),
        ("1", 24 * 15, "%a %H:%M"),
        ("24", 15, "%a"),
        ("25", 800, "%a %H:%M"),
    ],
)
def test_of_a_date_its_phases_come_back(step: str, n: int, written: str) -> None:
    moments = times("2024-02-26 00:00:00", step, n)
    schema, encoder, rows = fitted({"t": moments})
    cells = decoded(schema, encoder, rows)["t"]
    expected = moments.dt.strftime(written).to_list()
    assert [cell.partition(", about")[0] for cell in cells] == expected
    (decoder,) = decoders(schema, encoder)
    if "year" in decoder.periods:
        days = [int(cell.rpartition(", about ")[2].split()[0]) for cell in cells]
        off = [abs(day - moment.day) for day, moment in zip(days, moments, strict=True)]
        assert all(gap <= 2 or gap >= 26 for gap in off)


def test_missing_dates_and_dates_without_a_period() -> None:
    moments = times("2024-02-26 00:00:00", "1", 72).to_list()
    schema, encoder, rows = fitted({"t": [None, *moments[1:]]})
    cells = decoded(schema, encoder, rows)["t"]
    assert cells[:3] == [None, "01:00", "02:00"]
    schema, encoder, rows = fitted({"t": moments[:20], "x": list(range(20))})
    assert decoders(schema, encoder)[0].periods == ()
    assert set(decoded(schema, encoder, rows)["t"]) == {"not kept"}
