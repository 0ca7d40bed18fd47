"""From checked rows to features: every block against plain Python, and the odd columns."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import oracle_encoding
import polars as pl
import pytest

from anomgan.errors import SchemaError
from anomgan.tables import Batch, Schema, SchemaOptions
from anomgan.tables.encoding import (
    FAR,
    MAX_CATEGORIES,
    PERIODS_S,
    Encoded,
    FeatureEncoder,
)

DAY = PERIODS_S["day"]


def fitted(
    columns: dict[str, Any], new: dict[str, Any] | None = None, **options: Any
) -> tuple[FeatureEncoder, Encoded]:
    """Fit on columns, and encode `new` (or the same) rows."""
    options.setdefault("detect_set_aside", False)
    frame = pl.DataFrame(columns, strict=False)
    schema = Schema.infer(frame, SchemaOptions(**options))
    encoder = FeatureEncoder.fit(schema, schema.rows(Batch(frame, 1, "train")))
    if new is not None:
        frame = pl.DataFrame(new, schema=frame.schema, strict=False)
    return encoder, encoder.transform(schema.rows(Batch(frame, 1, "new")))


def same(a: Encoded, b: Encoded) -> bool:
    return np.array_equal(a.features, b.features) and np.array_equal(a.surprise, b.surprise)


# --- Values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        [1.0, 2.0, 4.0, 8.0],
        [3, 7, 9, -2, 0],
        [1.7e9 + 50 * math.sin(i) for i in range(40)],
        [1e-7 * i for i in range(9)],
        [1e300, -1e300, 5e299, 0.0],
        [1.7e308, 1.6e308, 1.5e308],
        [2.5, None, -1.0, None, 4.0, 4.0],
        [0.0, 0.0, 0.0, 1e-3],
    ],
)
def test_values_are_standardised_as_exact_fractions_say(column: list[float | None]) -> None:
    encoder, encoded = fitted({"x": column})
    expected = oracle_encoding.standardise(column, column)
    np.testing.assert_allclose(encoded.features[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert encoded.features.dtype == np.float32
    # Missing cells were filled with the median, and have an indicator of their own.
    assert encoder.n_features == (2 if None in column else 1)


def test_a_counter_of_large_values_keeps_its_precision() -> None:
    rng = np.random.default_rng(0)
    counter = np.round(1.7e9 + rng.uniform(-50, 50, 500), 3)
    _, encoded = fitted({"t": counter})
    steps = (counter - counter.mean()) / counter.std()
    # float32 alone would know these values to 128 only, more than their whole spread.
    np.testing.assert_allclose(encoded.features[:, 0], steps, rtol=0, atol=3e-7)


def test_fill_is_exactly_the_median() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        column = rng.normal(size=7) * 10.0 ** rng.integers(-8, 9)
        encoder, _ = fitted({"x": column})
        assert encoder.fill[0] == np.median(column)


def test_values_beyond_any_table_are_clipped_without_a_warning() -> None:
    _, encoded = fitted(
        {"x": [0.0, 1e-10, 2e-10], "y": [-1.7e308, -1.6e308, -1.7e308]},
        {"x": [1e300, -1e300, 1e-10], "y": [1.7e308, -1.7e308, 0.0]},
    )
    assert encoded.features[:, 0].tolist() == pytest.approx([FAR, -FAR, 0.0])
    assert np.isfinite(encoded.features).all()
    assert encoded.features[0, 1] > 1.0


@pytest.mark.parametrize("constant", [0.0, 5.0, -3e12, 1e-9, 1.1])
def test_constant_column_forced_numeric_is_zero_and_sees_change(constant: float) -> None:
    scale = max(abs(constant), 1.0)
    _, encoded = fitted(
        {"x": [constant] * 30, "y": list(range(30))},
        {"x": [constant, constant + 2.0 * scale], "y": [0, 0]},
        numeric=("x",),
    )
    assert encoded.features[:, 0].tolist() == pytest.approx([0.0, 2.0], abs=1e-6)


def test_column_with_nothing_but_missing_cells_gives_zeros_and_no_surprise() -> None:
    encoder, encoded = fitted({"x": [None] * 6, "y": list(range(6))}, numeric=("x",))
    assert encoder.n_features == 2
    assert not encoded.features[:, 0].any()
    assert not encoded.surprise.any()


def test_boolean_column_is_standardised_like_numbers() -> None:
    column = [True, False, False, False, True]
    _, encoded = fitted({"b": column})
    expected = oracle_encoding.standardise([float(b) for b in column], [float(b) for b in column])
    np.testing.assert_allclose(encoded.features[:, 0], expected, rtol=1e-6)


# --- Missing cells --------------------------------------------------------------------------


def test_missing_cells_of_training_become_an_indicator() -> None:
    column = [1.0, None, 3.0, 5.0, None, 6.0, 7.0, 8.0]
    encoder, encoded = fitted({"x": column, "y": list(range(8))})
    assert encoder.indicator_columns.tolist() == [0]
    assert encoder.feature_column.tolist() == [0, 1, 0]
    absent = np.array([c is None for c in column], dtype=float)
    np.testing.assert_allclose(
        encoded.features[:, 2], (absent - absent.mean()) / absent.std(), rtol=1e-6
    )
    assert not encoded.surprise.any()


def test_rare_missing_cells_are_not_blown_up() -> None:
    column = [None, *range(999)]
    _, encoded = fitted({"x": column})
    # 1 in 1000: its own deviation is 0.032, the least that anything is divided by is 0.1.
    assert encoded.features[0, 1] == pytest.approx(0.999 / 0.1, rel=1e-5)


def test_unexpected_missing_cell_surprises_its_own_column_only() -> None:
    columns = {"c": ["a", "b"] * 5, "x": list(range(10)), "y": [None, *range(9)]}
    new = {"c": ["a", "a", None], "x": [None, 3, 3], "y": [None, None, 1]}
    encoder, encoded = fitted(columns, new)
    surprise = oracle_encoding.surprise(10)
    expected = [[0.0, surprise, 0.0], [0.0, 0.0, 0.0], [surprise, 0.0, 0.0]]
    np.testing.assert_allclose(encoded.surprise, expected, rtol=1e-6)
    # The unexpected missing value itself stands at the median.
    assert encoded.features[0, 0] == pytest.approx((encoder.fill[0] - 4.5) / encoder.scale[0])


# --- Categories -----------------------------------------------------------------------------


def test_categories_are_one_hot_and_weighted_by_frequency() -> None:
    column = ["run"] * 6 + ["idle"] * 3 + ["clean"]
    encoder, encoded = fitted({"c": column})
    codes = encoder.tables[0].codes
    for text, row in zip(column, encoded.features, strict=True):
        weight = oracle_encoding.category_weight(column, [text])
        assert sorted(row)[-1] == pytest.approx(weight, rel=1e-6)
        assert np.count_nonzero(row) == 1
        np.testing.assert_array_equal(row, encoder.tables[0].features[codes[text]])
    assert not encoded.surprise.any()


def test_unseen_category_is_no_feature_but_a_surprise() -> None:
    _, encoded = fitted(
        {"x": list(range(10)), "c": ["a", "b"] * 5}, {"x": [1, 1], "c": ["never", "a"]}
    )
    assert not encoded.features[0, 1:].any()
    np.testing.assert_allclose(
        encoded.surprise, [[0.0, oracle_encoding.surprise(10)], [0.0, 0.0]], rtol=1e-6
    )


def test_missing_category_is_a_state_where_training_had_it_and_a_surprise_elsewhere() -> None:
    new = {"c": [None, "a"]}
    _, known = fitted({"c": ["a", "b", None, "a"]}, new)
    assert known.features.shape == (2, 3)
    assert np.count_nonzero(known.features[0]) == 1
    assert not known.surprise.any()
    _, unknown = fitted({"c": ["a", "b", "b", "a"]}, new)
    assert not unknown.features[0].any()
    assert unknown.surprise[0, 0] == pytest.approx(oracle_encoding.surprise(4))


def test_category_seen_in_the_file_but_not_in_training_is_unseen() -> None:
    frame = pl.DataFrame({"c": ["a", "b", "a", "rare"]})
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    rows = schema.rows(Batch(frame, 1, "all"))
    known = schema.rows(Batch(frame[:3], 1, "known"))
    encoded = FeatureEncoder.fit(schema, known).transform(rows)
    np.testing.assert_allclose(
        encoded.surprise[:, 0], [0, 0, 0, oracle_encoding.surprise(3)], rtol=1e-6
    )


def test_rare_categories_of_a_wide_column_share_one_feature() -> None:
    frequent = [f"f{i:02d}" for i in range(MAX_CATEGORIES)]
    rare = [f"r{i:02d}" for i in range(10)]
    column = frequent * 2 + rare
    encoder, encoded = fitted({"c": column})
    assert encoder.n_features == MAX_CATEGORIES + 1
    shared = encoded.features[-len(rare) :]
    assert (shared == shared[0]).all()
    assert shared[0, -1] == pytest.approx(oracle_encoding.category_weight(column, rare))
    assert not encoded.surprise.any()


def test_categories_that_numpy_would_shorten_are_told_apart() -> None:
    column = ["a", "a\x00", "a\x00\x00", "b"] * 3  # numpy's text type drops trailing zeros
    encoder, encoded = fitted({"c": column}, categorical=("c",))
    assert encoder.n_features == 4
    assert len(np.unique(encoded.features, axis=0)) == 4
    assert not encoded.surprise.any()


# --- Dates ----------------------------------------------------------------------------------


def hours(n: int, step: float = 1.0, start: float = 1.6e9) -> pl.Series:
    seconds = np.round(start + step * 3600.0 * np.arange(n))
    return pl.Series("t", (seconds * 1e6).astype(np.int64)).cast(pl.Datetime("us"))


@pytest.mark.parametrize(
    ("n", "step", "periods"),
    [
        (40, 1.0, []),  # less than two days
        (60, 1.0, ["day"]),  # two days, no two weeks
        (24 * 15, 1.0, ["day", "week"]),
        (15, 24.0, ["week"]),  # always the same time of day
        (800, 24.0, ["week", "year"]),
        (800, 25.0, ["day", "week", "year"]),
        (110, 7 * 24.0, ["year"]),  # always the same weekday
        (5, 0.0, []),
    ],
)
def test_periods_are_kept_where_training_covers_them_twice_and_varies(
    n: int, step: float, periods: list[str]
) -> None:
    encoder, _ = fitted({"t": hours(n, step), "x": np.arange(n)})
    assert [p.period for p in encoder.phases] == periods
    assert encoder.unused == (() if periods else ("t",))
    assert encoder.feature_column.tolist() == [1] + [0] * (2 * len(periods))


def test_phases_equal_the_oracle_and_leave_absolute_time_out() -> None:
    train, later = hours(24 * 16), hours(30, 1.0, start=1.6e9 + 10_000 * DAY + 7 * 3600)
    encoder, encoded = fitted({"t": train}, {"t": later})
    known, new = (s.dt.epoch("s").to_numpy().astype(float) for s in (train, later))
    assert encoder.n_features == 4
    for j, period in enumerate(["day", "week"]):
        expected = oracle_encoding.phase(known, new, period)
        np.testing.assert_allclose(encoded.features[:, 2 * j : 2 * j + 2], expected, atol=1e-5)
    # Rows of the distant future look like training rows at the same hour.
    assert np.abs(encoded.features).max() < 2.0


def test_missing_date_stands_amid_its_circle() -> None:
    train = pl.Series("t", [None, *hours(24 * 3)[1:]], dtype=pl.Datetime("us"))
    encoder, encoded = fitted({"t": train})
    known = [math.nan, *train[1:].dt.epoch("s").to_list()]
    expected = oracle_encoding.phase(known, known, "day")
    np.testing.assert_allclose(encoded.features[:, 1:], expected, atol=1e-5)
    assert encoder.indicator_columns.tolist() == [0]
    assert not encoded.surprise.any()


def test_dates_before_1970_turn_forward_too() -> None:
    train = hours(24 * 3, start=-1e9)
    _, encoded = fitted({"t": train})
    known = train.dt.epoch("s").to_numpy().astype(float)
    np.testing.assert_allclose(
        encoded.features, oracle_encoding.phase(known, known, "day"), atol=1e-5
    )


# --- The whole ------------------------------------------------------------------------------


def mixed() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    n = 60
    return {
        "c": rng.choice(["a", "b", 'ü, "q"', None], n).tolist(),
        "x": [None if i % 9 == 0 else float(v) for i, v in enumerate(rng.normal(size=n))],
        "t": hours(n),
        "y": 1e9 + rng.normal(size=n),
        "d": rng.choice(["u", "v"], n).tolist(),
    }


def test_blocks_stand_in_the_documented_order() -> None:
    encoder, encoded = fitted(mixed())
    # Values x, y; indicator x; day phases of t; categories c (three and missing), d.
    assert encoder.feature_column.tolist() == [1, 3, 1, 2, 2, 0, 0, 0, 0, 4, 4]
    assert encoded.features.shape == (60, encoder.n_features)
    assert encoded.surprise.shape == (60, encoder.n_columns)
    assert encoder.describe() == {
        "n_features": 11,
        "values": 2,
        "indicators": 1,
        "phases": [[1, "day"]],
        "categories": [4, 2],
    }


def test_round_trip_through_json_encodes_to_the_same_bits() -> None:
    columns = mixed()
    encoder, encoded = fitted(columns)
    stored = json.loads(json.dumps(encoder.to_dict(), allow_nan=False))
    rebuilt = FeatureEncoder.from_dict(stored)
    frame = pl.DataFrame(columns, strict=False)
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    assert same(rebuilt.transform(schema.rows(Batch(frame, 1, "t"))), encoded)
    assert rebuilt.to_dict() == encoder.to_dict()


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("fill"),
        lambda d: d.update(scale=["wide"]),
        lambda d: d.update(tables=[{"codes": {}}]),
        lambda d: d.update(tables="none"),
        lambda d: d.update(phases=[[1, "fortnight"]]),
        lambda d: d.update(n_columns=None),
        lambda d: d["tables"][0]["codes"].update(a=99),
        lambda d: d["mean"].append(0.0),
        lambda d: d["value_columns"].__setitem__(0, 77),
    ],
)
def test_damaged_data_is_refused(damage: Any) -> None:
    data = fitted(mixed())[0].to_dict()
    damage(data)
    with pytest.raises(SchemaError, match=r"the stored encoder is damaged.*fit again"):
        FeatureEncoder.from_dict(data)


def test_a_row_s_features_depend_on_that_row_alone() -> None:
    columns = mixed()
    frame = pl.DataFrame(columns, strict=False)
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    encoder, whole = fitted(columns)
    for i in (0, 9, 31):
        alone = encoder.transform(schema.rows(Batch(frame[i : i + 1], 1, "t")))
        assert np.array_equal(alone.features[0], whole.features[i])
        assert np.array_equal(alone.surprise[0], whole.surprise[i])
    none = encoder.transform(schema.rows(Batch(frame[:0], 1, "t")))
    assert none.features.shape == (0, encoder.n_features)
