"""What holds for the encoding of any table."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import oracle_encoding
import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan.tables.encoding import CATEGORY_DISTANCE, FAR, MIN_DEVIATION, FeatureEncoder

NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=64)
CELLS = st.none() | st.integers(-(10**6), 10**6).map(float) | NUMBERS
TEXTS = st.none() | st.sampled_from(["a", "b", "c"]) | st.text(max_size=5)


@st.composite
def tables(draw: Any) -> pl.DataFrame:
    n = draw(st.integers(2, 12))

    def column(cells: Any) -> Any:
        return draw(st.lists(cells, min_size=n, max_size=n))

    return pl.DataFrame(
        {"x": column(CELLS), "c": column(TEXTS), "y": column(CELLS)},
        schema={"x": pl.Float64, "c": pl.String, "y": pl.Float64},
    )


def read(frame: pl.DataFrame) -> tuple[Schema, Rows]:
    options = SchemaOptions(numeric=("x", "y"), categorical=("c",), detect_set_aside=False)
    schema = Schema.infer(frame, options)
    return schema, schema.rows(Batch(frame, 1, "table"))


def take(rows: Rows, index: list[int]) -> Rows:
    return Rows(rows.numeric[index], rows.categorical[index], None, 1)


@given(tables(), tables())
@settings(max_examples=60, deadline=None)
def test_features_are_finite_and_bounded_for_any_rows(train: pl.DataFrame, new: pl.DataFrame):
    schema, rows = read(train)
    encoder = FeatureEncoder.fit(schema, rows)
    encoded = encoder.transform(schema.rows(Batch(new, 1, "new")))
    assert encoded.features.shape == (new.height, encoder.n_features)
    assert np.isfinite(encoded.features).all()
    assert np.abs(encoded.features).max(initial=0.0) <= FAR
    unseen = np.float32(math.log(train.height + 1.0))
    assert set(np.unique(encoded.surprise)) <= {np.float32(0.0), unseen}


@given(tables(), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_are_encoded_alone_in_any_order(train: pl.DataFrame, data: Any):
    schema, rows = read(train)
    encoder = FeatureEncoder.fit(schema, rows)
    whole = encoder.transform(rows)
    index = data.draw(st.lists(st.integers(0, train.height - 1), max_size=20))
    some = encoder.transform(take(rows, index))
    np.testing.assert_array_equal(some.features, whole.features[index])
    np.testing.assert_array_equal(some.surprise, whole.surprise[index])


@given(tables())
@settings(max_examples=60, deadline=None)
def test_training_rows_never_surprise(train: pl.DataFrame):
    schema, rows = read(train)
    assert not FeatureEncoder.fit(schema, rows).transform(rows).surprise.any()


@given(tables(), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_training_rows_does_not_matter(train: pl.DataFrame, random: Any):
    schema, rows = read(train)
    order = list(range(train.height))
    random.shuffle(order)
    one = FeatureEncoder.fit(schema, rows)
    other = FeatureEncoder.fit(schema, take(rows, order))
    np.testing.assert_array_equal(one.fill, other.fill)
    np.testing.assert_allclose(one.scale, other.scale, rtol=1e-9)
    assert one.tables[0].codes == other.tables[0].codes
    np.testing.assert_array_equal(one.tables[0].features, other.tables[0].features)


@given(tables())
@settings(max_examples=60, deadline=None)
def test_round_trip_gives_the_same_bits(train: pl.DataFrame):
    schema, rows = read(train)
    encoder = FeatureEncoder.fit(schema, rows)
    stored = json.loads(json.dumps(encoder.to_dict(), allow_nan=False))
    rebuilt = FeatureEncoder.from_dict(stored).transform(rows)
    whole = encoder.transform(rows)
    np.testing.assert_array_equal(rebuilt.features, whole.features)
    np.testing.assert_array_equal(rebuilt.surprise, whole.surprise)


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=30))
@settings(max_examples=100, deadline=None)
def test_values_equal_exact_fractions(column: list[float]):
    mean = math.fsum(column) / len(column)
    # Columns that vary by less than rounding have no scale to speak of.
    assume(max(column) == min(column) or np.std(column) > 1e-6 * max(1e-9, abs(mean)))
    schema = Schema.infer(pl.DataFrame({"x": column}), SchemaOptions(detect_set_aside=False))
    rows = Rows(np.array(column).reshape(-1, 1), np.empty((len(column), 0), dtype=object), None, 1)
    encoded = FeatureEncoder.fit(schema, rows).transform(rows)
    expected = oracle_encoding.standardise(column, column)
    np.testing.assert_allclose(encoded.features[:, 0], expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_a_category_weighs_as_its_frequency_says(column: list[str]):
    options = SchemaOptions(categorical=("c",), detect_set_aside=False)
    schema = Schema.infer(pl.DataFrame({"c": column}), options)
    cells = np.array(column, dtype=object).reshape(-1, 1)
    rows = Rows(np.empty((len(column), 0)), cells, None, 1)
    encoded = FeatureEncoder.fit(schema, rows).transform(rows)
    weights = encoded.features.sum(axis=1)
    for text, weight in zip(column, weights, strict=True):
        assert math.isclose(weight, oracle_encoding.category_weight(column, [text]), rel_tol=1e-5)
    assert weights.max() <= CATEGORY_DISTANCE / MIN_DEVIATION * (1.0 + 1e-6)
