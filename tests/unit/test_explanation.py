"""Why a row has its score: expected values, nearest rows, sums; against loops and planted truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import oracle_explanation as oracle
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import toy_bundle, toy_table

from anomgan.bundle import Bundle
from anomgan.errors import ModelCorruptError, SchemaError, UsageError
from anomgan.evaluation.expectation import (
    LEAST_ROWS,
    NormalRows,
    kernel_weights,
    weighted_quantile,
)
from anomgan.evaluation.known import KnownRows
from anomgan.explanation import cell_text, explain_rows, rarity
from anomgan.serving import Scorer
from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan.tables.encoding import FeatureEncoder


def normal_rows(
    frame: pl.DataFrame, *, width: float = 0.2, counts: Any = None, schema: Schema | None = None
) -> NormalRows:
    """The distinct rows of a table as a model would keep them."""
    schema = schema or Schema.infer(frame, SchemaOptions())
    rows = schema.rows(Batch(frame, 1, "normal"))
    encoder = FeatureEncoder.fit(schema, rows)
    features, seen = np.unique(encoder.transform(rows).features, axis=0, return_counts=True)
    counts = seen if counts is None else counts[: len(seen)]
    return NormalRows(KnownRows(encoder, features, counts.astype(np.float32)), schema, width)


def mixed_table(n: int = 80, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    mode = rng.choice(["idle", "run", "clean"], n)
    speed = np.round(np.where(mode == "run", 90.0, 10.0) + rng.normal(size=n), 1)
    gaps = rng.random(n) < 0.1
    return pl.DataFrame(
        {
            "when": pl.datetime_range(
                pl.datetime(2024, 1, 1), pl.datetime(2024, 1, 5), "1h", eager=True
            )[:n],
            "mode": [None if g else m for m, g in zip(mode, rng.random(n) < 0.1, strict=True)],
            "speed": [None if g else float(s) for s, g in zip(speed, gaps, strict=True)],
            "open": (mode == "idle") & (rng.random(n) < 0.8),
            "power": np.round(2.0 * speed + rng.normal(size=n), 2),
            "plant": ["north"] * n,
        }
    )


def rows_of(normal: NormalRows, frame: pl.DataFrame) -> Rows:
    return normal.schema.rows(Batch(frame, 1, "new"))


def encoded(normal: NormalRows, rows: Rows, i: int) -> list[float]:
    features: list[float] = normal.encoder.transform(rows).features[i].tolist()
    return features


# --- Expected values ------------------------------------------------------------------------


@pytest.mark.parametrize("width", [0.01, 0.2, 3.0])
def test_expected_values_are_those_of_the_loops(width: float) -> None:
    counts = np.random.default_rng(1).integers(1, 5, 80)
    normal = normal_rows(mixed_table(), width=width, counts=counts)
    known, weights = normal._rows, normal._counts.tolist()
    rows = rows_of(normal, mixed_table(12, seed=3))
    for i in range(12):
        x = encoded(normal, rows, i)
        found, _ = normal.around(rows, i, 0)
        for expected, decoder in zip(found, normal.decoders, strict=True):
            cells = decoder.cells(known)
            facts = (known, weights, width, x, set(decoder.features.tolist()), cells)
            if decoder.column.name == "when":
                assert expected is None
            elif decoder.column.name in ("mode", "open"):
                shares, n_rows = oracle.expected_state(*facts)
                assert expected.weight == pytest.approx(max(shares.values()), rel=1e-6)
                assert shares[expected.value] == pytest.approx(max(shares.values()), rel=1e-6)
                assert expected.n_rows == pytest.approx(n_rows, rel=1e-6)
            else:
                middle, low, high, weight, n_rows = oracle.expected_number(*facts)
                slack = 1e-3 * decoder.scale
                assert (expected.value is None) == (middle is None)
                if middle is not None:
                    assert expected.value == pytest.approx(middle, abs=slack)
                    assert expected.low == pytest.approx(low, abs=slack)
                    assert expected.high == pytest.approx(high, abs=slack)
                assert expected.weight == pytest.approx(weight, rel=1e-6)
                assert expected.n_rows == pytest.approx(n_rows, rel=1e-6)


@given(st.floats(-1e12, 1e12), st.sampled_from(["speed", "power"]))
@settings(max_examples=40, deadline=None)
def test_an_expected_value_does_not_depend_on_the_cell_itself(value: float, name: str) -> None:
    normal = normal_rows(mixed_table())
    frame = mixed_table(3, seed=5)
    place = normal.schema.feature_names.index(name)
    before, _ = normal.around(rows_of(normal, frame), 0, 0)
    changed = rows_of(normal, frame.with_columns(pl.lit(value).alias(name)))
    after, _ = normal.around(changed, 0, 0)
    assert after[place] == before[place]


def test_a_row_far_from_all_falls_back_to_its_nearest_rows() -> None:
    x = np.arange(100.0)
    normal = normal_rows(pl.DataFrame({"x": x, "y": 3.0 * x}), width=0.05)
    rows = Rows(np.array([[1e9, 0.0], [-1e9, 0.0]]), np.empty((2, 0), dtype=object), None, 1)
    for i, end in ((0, 297.0), (1, 0.0)):
        (_, expected), _ = normal.around(rows, i, 0)
        assert expected.n_rows >= LEAST_ROWS
        assert abs(expected.value - end) <= 3.0 * LEAST_ROWS
        assert expected.low <= expected.value <= expected.high
        assert expected.high - expected.low <= 9.0 * LEAST_ROWS


def test_a_single_known_row_is_what_is_expected_anywhere() -> None:
    frame = pl.DataFrame({"x": [2.5] * 9, "c": ["a"] * 9})
    options = SchemaOptions(detect_set_aside=False)
    normal = normal_rows(frame, schema=Schema.infer(frame, options))
    new = pl.DataFrame({"x": [1e6], "c": ["zz"]})
    expected, near = normal.around(rows_of(normal, new), 0, 5)
    assert [e.value for e in expected] == [2.5, "a"]
    assert (expected[0].low, expected[0].high, expected[1].weight) == (2.5, 2.5, 1.0)
    assert [(n.n_rows, n.cells) for n in near] == [(9, {"x": 2.5, "c": "a"})]


def test_missing_is_expected_where_normal_rows_lack_a_value() -> None:
    frame = pl.DataFrame(
        {"mode": ["on", "off"] * 50, "speed": [None if i % 2 else i / 10 for i in range(100)]}
    )
    normal = normal_rows(frame)
    new = pl.DataFrame({"mode": ["off", "on"], "speed": [3.0, 3.0]})
    for i, missing in ((0, True), (1, False)):
        (mode, speed), _ = normal.around(rows_of(normal, new), i, 0)
        assert (speed.value is None) == missing
        assert speed.weight == pytest.approx(1.0, abs=1e-6)
        assert mode.value == "on"  # a row that has a speed is one that is on


@given(
    st.lists(st.floats(0.0, 1e13), min_size=1, max_size=60),
    st.floats(1e-3, 3.0),
    st.integers(1, 1000),
)
@settings(max_examples=100, deadline=None)
def test_weights_are_shares_of_enough_rows(squared: list[float], width: float, most: int) -> None:
    counts = np.random.default_rng(most).integers(1, most + 1, len(squared)).astype(float)
    weights, n_rows = kernel_weights(np.array(squared), counts, width)
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0.0).all()
    assert min(LEAST_ROWS, counts.sum() / 2) <= n_rows <= counts.sum() * (1 + 1e-9)
    nearer = np.argsort(squared, kind="stable")
    by_row = (weights / counts)[nearer]  # of one row each, nearer rows weigh no less
    assert (np.diff(by_row) <= 1e-12).all()


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 5)), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_a_weighted_quantile_is_that_of_the_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, copies = (np.array(part) for part in zip(*pairs, strict=True))
    repeated = np.sort(np.repeat(values, copies))
    for q in (0.1, 0.5, 0.9):
        found = weighted_quantile(values.astype(float), copies.astype(float), q)
        assert found == repeated[max(math.ceil(q * len(repeated) - 1e-9), 1) - 1]


def test_permuted_cells_lie_further_off_than_what_is_expected() -> None:
    from anomgan_datasets import machine_log

    log = machine_log(n_normal=1000, n_anomalies=0, seed=3).X
    normal = normal_rows(pl.from_pandas(log.iloc[:800]), width=0.03)
    truth = pl.from_pandas(log.iloc[800:860])
    rng = np.random.default_rng(0)
    nearer, covered, total = 0, 0, 0
    for name in ("speed_rpm", "load_pct", "power_kw", "temperature_c", "vibration_mm_s"):
        place = normal.schema.feature_names.index(name)
        shuffled = truth.with_columns(truth[name].gather(rng.permutation(len(truth))))
        rows = rows_of(normal, shuffled)
        for i, (true, observed) in enumerate(zip(truth[name], shuffled[name], strict=True)):
            if true is None or observed is None or true == observed:
                continue
            expected = normal.around(rows, i, 0)[0][place]
            if expected.value is None:
                continue
            total += 1
            nearer += abs(expected.value - true) < abs(observed - true)
            covered += expected.low <= true <= expected.high
    assert total > 200
    assert nearer / total > 0.8
    assert 0.65 < covered / total < 0.95  # asked for: 80 %


# --- Nearest rows ---------------------------------------------------------------------------


def test_nearest_rows_are_those_of_the_loops() -> None:
    normal = normal_rows(mixed_table(), counts=np.arange(1, 81))
    rows = rows_of(normal, mixed_table(6, seed=4))
    for i in range(6):
        _, near = normal.around(rows, i, 4)
        expected = oracle.nearest(normal._rows, encoded(normal, rows, i), 4)
        assert [n.distance for n in near] == pytest.approx([d for _, d in expected], rel=1e-9)
        assert [n.n_rows for n in near] == [place + 1 for place, _ in expected]


def test_a_known_row_is_its_own_neighbour_and_comes_back_as_it_was() -> None:
    frame = mixed_table()
    normal = normal_rows(frame)
    rows = rows_of(normal, frame)
    for i in (0, 7, 33):
        _, (near,) = normal.around(rows, i, 1)
        assert near.distance == 0.0
        cells = dict(near.cells)
        moment = frame["when"][i]
        assert cells.pop("when") == f"{moment:%H:%M}"
        assert cells == {name: frame[name][i] for name in cells}
        assert "plant" not in near.cells


def test_parts_that_do_not_belong_together_are_refused() -> None:
    frame = mixed_table()
    normal = normal_rows(frame)
    known = KnownRows(
        normal.encoder, normal._rows.astype(np.float32), normal._counts.astype(np.float32)
    )
    other = Schema.infer(frame.drop("power"), SchemaOptions())
    for parts in (
        (known, other, 0.2),
        (known, normal.schema, 0.0),
        (known, normal.schema, math.nan),
        (replace(known, counts=known.counts[:-1]), normal.schema, 0.2),
        (replace(known, rows=known.rows[:, :-1]), normal.schema, 0.2),
        (replace(known, rows=known.rows[:0], counts=known.counts[:0]), normal.schema, 0.2),
    ):
        with pytest.raises(ModelCorruptError, match="do not belong together; fit the model again"):
            NormalRows(*parts)


# --- Explanations ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scorer, NormalRows, Bundle]:
    """A toy scorer, and normal rows as its model would keep them."""
    path = tmp_path_factory.mktemp("toy") / "model"
    bundle = toy_bundle(path, tail=True)
    scorer = Scorer.open(path)
    return scorer, normal_rows(toy_table(), schema=scorer.schema), bundle


@pytest.fixture
def odd() -> pl.DataFrame:
    """Ordinary rows, but row 2 (from 0) has a broken cell of every kind."""
    frame = toy_table(6, seed=2)
    changed = {"pressure": 500.0, "mode": "turbo", "speed": None}
    return frame.with_columns(
        pl.when(pl.int_range(6) == 2).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in changed.items()
    )


def test_contributions_sum_to_the_score_and_come_largest_first(toy: Any, odd: Any) -> None:
    scorer, normal, _ = toy
    verdicts = scorer.score(odd)
    explanations = explain_rows(scorer, normal, odd, [2, 0])
    assert [why.row for why in explanations] == [3, 1]
    for why, i in zip(explanations, (2, 0), strict=True):
        assert why.score == verdicts.score[i]
        assert why.p_value == verdicts.p_value[i]
        assert why.is_anomaly == verdicts.is_anomaly[i]
        parts = [column.contribution for column in why.columns]
        assert parts == sorted(parts, reverse=True)
        assert sum(parts) + why.discriminator == pytest.approx(why.score, rel=1e-4)
        shares = [column.share for column in why.columns]
        assert sum(shares) + why.discriminator_share == pytest.approx(1.0)
        stored = json.loads(json.dumps(why.to_dict(), allow_nan=False))
        total = sum(c["contribution"] for c in stored["columns"])
        total += stored["discriminator"]["contribution"]
        assert total == pytest.approx(stored["score"], rel=1e-4)
        by_name = dict(zip(verdicts.feature_names, verdicts.contributions[i], strict=True))
        assert {c.name: c.contribution for c in why.columns} == {
            name: pytest.approx(float(part))
            for name, part in by_name.items()
            if name != "discriminator"
        }


def test_cells_are_shown_with_what_is_odd_about_them(toy: Any, odd: Any) -> None:
    scorer, normal, _ = toy
    (why,) = explain_rows(scorer, normal, odd, [2])
    columns = {column.name: column for column in why.columns}
    # The identifier and the constant are no features: they are not explained.
    assert set(columns) == {"pressure", "mode", "speed"}
    assert columns["pressure"].observed == 500.0
    assert columns["pressure"].note.startswith("above the training maximum 1")
    assert 85.0 < columns["pressure"].expected.value < 115.0
    assert columns["mode"].observed == "turbo"
    assert columns["mode"].note == "never seen in training"
    assert columns["mode"].expected.value == "run"
    assert columns["speed"].observed is None
    assert columns["speed"].note == ""
    assert why.identifier == "P2-00002"
    assert len(why.neighbours) == 3


def test_without_normal_rows_there_are_contributions_alone(toy: Any, odd: Any) -> None:
    scorer, _, bundle = toy
    (why,) = explain_rows(scorer, None, odd, [2])
    assert all(column.expected is None for column in why.columns)
    assert why.neighbours == ()
    assert sum(c.contribution for c in why.columns) + why.discriminator == pytest.approx(
        why.score, rel=1e-4
    )
    assert NormalRows.of(bundle) is None  # it lacks what earlier models lack
    assert explain_rows(scorer, bundle, odd, [2]) == [why]
    old = Bundle(bundle.path, replace(bundle.manifest, format_version=1))
    assert NormalRows.of(old) is None


def test_verdicts_that_are_there_are_not_computed_again(toy: Any, odd: Any) -> None:
    scorer, normal, _ = toy
    rows = scorer.schema.rows(Batch(odd, 41, "odd"))
    verdicts = scorer.score(rows)
    found = explain_rows(scorer, normal, rows, [1, 2], verdicts=verdicts, neighbours=0)
    assert found == explain_rows(scorer, normal, rows, [1, 2], neighbours=0)
    assert [why.row for why in found] == [42, 43]
    assert found[0].neighbours == ()
    assert [why.row for why in explain_rows(scorer, normal, rows)] == list(range(41, 47))


def test_what_cannot_be_explained_is_refused(toy: Any, odd: Any) -> None:
    scorer, normal, _ = toy
    with pytest.raises(UsageError, match=r"positions \[6\] lie outside the 6 rows; give 0 to 5"):
        explain_rows(scorer, normal, odd, [0, 6])
    with pytest.raises(UsageError, match="neighbours must be 0 or more, got -1"):
        explain_rows(scorer, normal, odd, neighbours=-1)
    with pytest.raises(UsageError, match="another model"):
        explain_rows(scorer, normal_rows(mixed_table()), odd)
    broken = odd.with_columns(pressure=pl.Series(["1", "x", "3", "4", "5", "6"]))
    assert len(explain_rows(scorer, normal, broken, [0])) == 1
    with pytest.raises(SchemaError, match=r"row 2: column 'pressure'.*'x'") as caught:
        explain_rows(scorer, normal, broken, [0, 1])
    assert len(caught.value.faults) == 1


def test_dates_have_no_expected_value_but_a_note() -> None:
    from anomgan.explanation import _note

    frame = mixed_table()
    normal = normal_rows(frame)
    decoder = normal.decoders[normal.schema.feature_names.index("when")]
    assert decoder.periods == ("day",)
    later = decoder.column.maximum + 1e8
    assert _note(decoder.column, later, 0.3, decoder) == "an unusual time"
    assert _note(decoder.column, later, 0.0, decoder) == ""
    short = normal_rows(frame.head(30))
    decoder = short.decoders[short.schema.feature_names.index("when")]
    assert "not scored" in _note(decoder.column, later, 0.0, decoder)


def test_states_seen_only_among_held_out_rows_say_so() -> None:
    from anomgan.explanation import _note

    frame = pl.DataFrame({"c": ["a", "b"] * 10 + ["rare"], "x": [*range(20), None]})
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    rows = schema.rows(Batch(frame, 1, "all"))
    kept = Rows(rows.numeric[:20], rows.categorical[:20], None, 1)
    encoder = FeatureEncoder.fit(schema, kept)
    features = encoder.transform(rows).features
    known = KnownRows(encoder, features, np.ones(21, dtype=np.float32))
    text, number = NormalRows(known, schema, 0.2).decoders
    assert _note(text.column, "rare", 0.5, text) == "seen only among the rows held out of training"
    assert _note(text.column, "a", 0.5, text) == ""
    assert _note(text.column, "zz", 0.5, text) == "never seen in training"
    assert _note(number.column, None, 0.5, number).startswith("missing only among the rows held")
    assert _note(number.column, None, 0.5, None) == ""


@pytest.mark.parametrize(
    ("p_value", "words"),
    [
        (0.93, "about 93 of 100 normal rows"),
        (0.1, "about 1 normal row in 10"),
        (0.0004, "about 1 normal row in 2 500"),
        (1e-6, "about 1 normal row in 1 000 000"),
        (1e-38, "fewer than 1 normal row in 1 000 000 000"),
    ],
)
def test_rarity_in_words(p_value: float, words: str) -> None:
    assert rarity(p_value) == words


def test_cells_in_words() -> None:
    cells = [None, True, False, 0.1, 12.0, 1700000012.34, 1e300, "a b"]
    texts = ["missing", "true", "false", "0.1", "12", "1700000012.34", "1e+300", "a b"]
    assert [cell_text(cell) for cell in cells] == texts
