"""The drift check: the urn is exact, the bet a martingale, the report one of the rows alone."""

import itertools
import json
import math
import tracemalloc
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hostile import signed
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import toy_bundle, toy_table

from anomgan.bundle import Bundle
from anomgan.calibration import Calibrator
from anomgan.errors import InputError, ModelCorruptError, UsageError
from anomgan.serving import Departure, DriftMonitor, Scorer, Verdicts
from anomgan.serving.files import score_table
from anomgan.serving.urn import BALLS, TAIL, log_e_value, trees_of
from anomgan.tables import Batch, Schema, SchemaOptions, open_table
from anomgan.tables.profile import ColumnProfile, Profile, coarse_scores


def log_e(counts, weights):
    weights = np.asarray(weights, dtype=np.int64)
    return log_e_value(np.asarray(counts, dtype=np.int64), weights, trees_of(weights))


def monitor_of(frame, *, scores=None, seed=0, **options):
    """A monitor of a model without a graph, and the schema."""
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    rows = schema.rows(Batch(frame, 1, "train"))
    rng = np.random.default_rng(seed)
    scores = rng.normal(10, 1, frame.height) if scores is None else scores
    profile = Profile.fit(schema, rows, scores, rng)
    return DriftMonitor(SimpleNamespace(schema=schema, profile=profile), **options), schema


def verdicts_of(scores, n_columns):
    n = len(scores)
    return Verdicts(
        *(np.asarray(scores, np.float32), np.full(n, 0.5, np.float32), np.zeros(n, bool)),
        contributions=np.zeros((n, n_columns + 1), np.float32),
        feature_names=(),
        false_alarm_rate=0.01,
    )


def feed(monitor, schema, frame, *, scores=None, batch=None, first=1):
    """Hand `frame` to the monitor in batches."""
    scores = np.random.default_rng(9).normal(10, 1, frame.height) if scores is None else scores
    for start in range(0, frame.height, batch or max(frame.height, 1)):
        part = slice(start, start + (batch or frame.height))
        rows = schema.rows(Batch(frame[part], first + start, "new"), on_bad_row="skip")
        verdicts = verdicts_of(scores[part], len(schema.columns))
        monitor.update(rows, verdicts.without(sorted(rows.faults)))
    return monitor.report()


def told(before, after, column="x"):
    """What is told of one column."""
    monitor, schema = monitor_of(pl.DataFrame({column: before}))
    (departure,) = feed(monitor, schema, pl.DataFrame({column: after})).departures
    assert departure.column == column
    return departure


# --- the null ------------------------------------------------------------------------------------


def test_every_order_of_five_rows_gives_the_urn():
    """n = 3 rows of training, B = 4 bins of one gap each, all sequences of two new rows."""
    found = Counter()
    for order in itertools.permutations(range(5)):
        values = np.array(order, dtype=float)
        column = ColumnProfile.fit(values[:3], np.full(3, 0.5))
        assert column.weights.tolist() == [1, 1, 1, 1]
        bins = column.bin_of_cell[column.cells(values[3:], np.array([0.1, 0.9]))]
        found[tuple(bins.tolist())] += 1
    assert len(found) == 16
    for (first, second), times in found.items():
        by_hand = Fraction(1, 4) * Fraction(2 if first == second else 1, 5)
        assert Fraction(times, 120) == by_hand


def test_rows_that_are_all_equal_give_the_urn_as_well():
    """Six rows of one value: their keys alone, in every order, decide."""
    found = Counter()
    keys = np.linspace(0.05, 0.95, 6)
    for order in itertools.permutations(range(6)):
        drawn = keys[list(order)]
        column = ColumnProfile.fit(np.zeros(4), drawn[:4])
        bins = column.bin_of_cell[column.cells(np.zeros(2), drawn[4:])]
        found[tuple(bins.tolist())] += 1
    weights = column.weights.tolist()
    assert sum(weights) == 5
    for (first, second), times in found.items():
        by_hand = Fraction(weights[first], 5) * Fraction(weights[second] + (first == second), 6)
        assert Fraction(times, 720) == by_hand


def test_ranks_do_not_depend_on_the_values():
    rng = np.random.default_rng(0)
    for n in (2, 3, 10, 77, 1000):
        keys = rng.random(n)
        continuous = ColumnProfile.fit(rng.normal(size=n), keys)
        atoms = ColumnProfile.fit(np.where(rng.random(n) < 0.3, -np.inf, 1.0), keys)
        assert continuous.ranks.tolist() == atoms.ranks.tolist()
        assert continuous.weights.sum() == n + 1
        assert continuous.weights.min() >= 1
    assert len(continuous.weights) == 20


# --- the bet -------------------------------------------------------------------------------------


def slow_log_e(sequence, weights):
    """Loop-only twin: one row after the other down both trees, in plain floats."""
    n = len(weights)

    def nearest(share, first, last):
        """Where the weight to the left, counted from `first`, is nearest to the share."""
        total = sum(weights[first:last])
        off = [abs(sum(weights[first:k]) / total - share) for k in range(first + 1, last)]
        return first + 1 + min(range(len(off)), key=lambda k: round(off[k], 12))

    def tree(first, last, cuts):
        if last - first < 2:
            return []
        inside = [cut for cut in cuts if first < cut < last]
        middle = inside[0] if inside else nearest(0.5, first, last)
        rest = tree(first, middle, cuts) + tree(middle, last, cuts)
        return [(first, middle, last), *rest]

    def ratio(first, middle, last):
        left, right = sum(weights[first:middle]), sum(weights[middle:last])
        products = []
        for balls in (left + right, *BALLS):
            a, b = balls * left / (left + right), balls * right / (left + right)
            product = 1.0
            for row in sequence:
                if first <= row < last:
                    product *= (a if row < middle else b) / (a + b)
                    a, b = (a + 1, b) if row < middle else (a, b + 1)
            products.append(product)
        null, *bets = products
        return 0.75 + 0.25 * sum(bets) / len(bets) / null

    ends = [n - 1, 1]
    tails = [nearest(TAIL, 0, n), nearest(1 - TAIL, 0, n)]
    each = [math.prod(ratio(*node) for node in tree(0, n, cuts)) for cuts in (ends, ends + tails)]
    return math.log(sum(each) / 2)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=9),
    st.lists(st.integers(0, 8), max_size=25),
)
def test_the_e_value_agrees_with_loops_in_any_order(weights, rows):
    sequence = [row % len(weights) for row in rows]
    counts = np.bincount(np.array(sequence, dtype=np.int64), minlength=len(weights))
    assert log_e(counts, weights) == pytest.approx(slow_log_e(sequence, weights), abs=1e-8)
    assert slow_log_e(sequence[::-1], weights) == pytest.approx(slow_log_e(sequence, weights))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 200), min_size=2, max_size=20),
    st.lists(st.integers(0, 50), min_size=20, max_size=20),
)
def test_the_e_value_is_a_martingale_under_the_urn(weights, history):
    counts = np.array(history[: len(weights)])
    total = sum(weights) + counts.sum()
    after = 0.0
    for b, weight in enumerate(weights):
        step = counts.copy()
        step[b] += 1
        after += (
            (weight + counts[b]) / total * math.exp(log_e(step, weights) - log_e(counts, weights))
        )
    assert after == pytest.approx(1.0, abs=1e-7)
    assert log_e(np.zeros_like(counts), weights) == pytest.approx(0.0, abs=1e-12)


def test_all_sequences_of_two_rows_have_probability_and_expectation_one():
    weights = [1, 1, 1, 1]
    probability = expectation = 0.0
    for first, second in itertools.product(range(4), repeat=2):
        p = 0.25 * (2 if first == second else 1) / 5
        probability += p
        counts = np.bincount([first, second], minlength=4)
        expectation += p * math.exp(log_e(counts, weights))
    assert probability == pytest.approx(1.0)
    assert expectation == pytest.approx(1.0)


def test_millions_of_rows_are_no_trouble():
    rng = np.random.default_rng(0)
    weights = ColumnProfile.fit(rng.normal(size=5000), rng.random(5000)).weights
    same = np.rint(weights / weights.sum() * 1e9).astype(np.int64)
    assert -200 < log_e(same, weights) < 0
    other = same.copy()
    other[0] += 10**8
    assert log_e(other, weights) > 100


# --- profiles ------------------------------------------------------------------------------------


def test_groups_count_the_training_rows_whatever_the_keys():
    values = np.array([1.0, 1, 1, 2, 2, 3, -np.inf, -np.inf])
    for seed in range(5):
        column = ColumnProfile.fit(values, np.random.default_rng(seed).random(8))
        assert column.counts.sum() == 8
        assert column.counts[0] == 2
        for i, limit in enumerate(column.limits):
            assert column.counts[2 * i + 2] == (values == limit).sum()


def test_unseen_categories_share_a_place_with_rare_ones():
    """With 200 categories of one row each, new rows are unseen ones: nothing has changed."""
    names = [f"part {i:04d}" for i in range(400)]
    monitor, schema = monitor_of(pl.DataFrame({"part": names[:200]}))
    report = feed(monitor, schema, pl.DataFrame({"part": names[200:]}))
    assert report.departures == ()
    assert report.log10_e[0] < 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.floats(-1e300, 1e300)), min_size=4, max_size=40),
    st.integers(0, 5),
)
def test_a_profile_survives_json(values, seed):
    if not any(v is not None for v in values):
        values[0] = 1.0
    frame = pl.DataFrame(
        {"x": values, "c": [f"{v:.0e}" if v else None for v in values]},
        schema={"x": pl.Float64, "c": pl.String},
    )
    schema = Schema.infer(frame, SchemaOptions(categorical=("c",), numeric=("x",)))
    rng = np.random.default_rng(seed)
    profile = Profile.fit(schema, schema.rows(Batch(frame, 1, "t")), rng.normal(size=5), rng)
    text = json.dumps(profile.to_dict(), allow_nan=False)
    again = Profile.from_dict(json.loads(text))
    again.require_schema(schema)
    assert json.dumps(again.to_dict()) == text


def test_nonsense_is_no_profile():
    frame = toy_table(50)
    schema = Schema.infer(frame)
    rng = np.random.default_rng(0)
    rows = schema.rows(Batch(frame, 1, "t"))
    good = Profile.fit(schema, rows, np.arange(9.0), rng).to_dict()
    first = good["columns"][0]
    for broken in (
        *(None, [], {}, {"format": 2}, {"format": 1}, good | {"columns": 3}),
        *(good | {"columns": [{}]}, good | {"score": None}),
        good | {"columns": [first | {"ranks": first["ranks"][::-1]}]},
        good | {"columns": [first | {"levels": first["levels"][::-1]}]},
        good | {"columns": [first | {"counts": first["counts"][1:]}]},
        good | {"columns": [first | {"counts": [-1] * len(first["counts"])}]},
        good | {"columns": [first | {"keys": first["keys"][1:]}]},
        good | {"columns": [first | {"n": 3}]},
    ):
        with pytest.raises(InputError):
            Profile.from_dict(broken)
    other = Profile.from_dict(good | {"columns": good["columns"][:1]})
    with pytest.raises(InputError, match=r"1 columns that is not of the model's 3 columns"):
        other.require_schema(schema)
    renamed = json.loads(json.dumps(good).replace('"run"', '"walk"'))
    with pytest.raises(InputError, match="categories of its own"):
        Profile.from_dict(renamed).require_schema(schema)


def test_scores_that_differ_by_rounding_are_ties():
    scores = np.array([0.0, 1.5, -3.25, 1e-30, 7e12])
    np.testing.assert_allclose(coarse_scores(scores), scores, rtol=2**-10)
    atoms = np.full(500, 1.2345)
    monitor, schema = monitor_of(pl.DataFrame({"x": range(500)}), scores=atoms)
    new = pl.DataFrame({"x": np.random.default_rng(1).permutation(500)})
    report = feed(monitor, schema, new, scores=atoms * (1 + 3e-6))
    assert report.departures == ()


# --- the report ----------------------------------------------------------------------------------


def mixed(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "pressure": [
                None if gone else float(v)
                for v, gone in zip(rng.normal(shift, 1, n), rng.random(n) < 0.02, strict=True)
            ],
            "mode": rng.choice(["idle", "run", "clean"], n, p=[0.2, 0.7, 0.1]),
            "steps": rng.integers(0, 5, n),
            "open": rng.random(n) < 0.3,
        }
    )


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_report_does_not_depend_on_the_batches(shift):
    reports = []
    for batch in (1, 7, 1000, None):
        monitor, schema = monitor_of(mixed(400, 0))
        reports.append(feed(monitor, schema, mixed(1500, 1, shift), batch=batch))
    assert reports[0] == reports[1] == reports[2] == reports[3]
    assert bool(reports[0].departures) == (shift > 0)
    assert reports[0].n_rows == 1500


def test_looking_changes_nothing():
    one, schema = monitor_of(mixed(400, 0))
    other, _ = monitor_of(mixed(400, 0))
    for seed in range(5):
        feed(one, schema, mixed(200, seed))
        feed(other, schema, mixed(200, seed))
        other.report()
    assert one.report() == other.report()


def test_the_order_of_the_rows_is_no_departure():
    monitor, schema = monitor_of(mixed(400, 0))
    ordered = mixed(1500, 1).sort("pressure", "mode")
    assert feed(monitor, schema, ordered, batch=100).departures == ()


def test_memory_does_not_grow_with_the_rows():
    monitor, schema = monitor_of(mixed(400, 0))
    rng = np.random.default_rng(0)

    def more(times):
        for i in range(times):
            names = [f"never {i} {k}" for k in range(200)]
            frame = mixed(200, int(rng.integers(1 << 30))).with_columns(mode=pl.Series(names))
            feed(monitor, schema, frame)

    more(3)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        more(30)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000
    found = {d.column: d.text for d in monitor.report().departures}
    assert found["mode"].startswith(
        "100 % never seen in training, such as 'never 0 0', 'never 0 1'"
    )


def test_rows_that_cannot_be_read_do_not_count():
    monitor, schema = monitor_of(mixed(400, 0))
    new = mixed(600, 1).with_columns(pl.col("pressure").cast(pl.String))
    spoilt = new.with_columns(
        pressure=pl.when(pl.int_range(600) % 2 == 1).then(pl.lit("much")).otherwise("pressure")
    )
    report = feed(monitor, schema, spoilt, batch=50)
    other, _ = monitor_of(mixed(400, 0))
    scores = np.random.default_rng(9).normal(10, 1, 600)[::2]
    assert report == feed(other, schema, new[::2], scores=scores)
    assert report.n_rows == 300


def test_nothing_is_told_before_there_are_rows():
    monitor, schema = monitor_of(mixed(400, 0))
    report = monitor.report()
    assert (report.n_rows, report.departures) == (0, ())
    np.testing.assert_allclose(report.log10_e, 0.0, atol=1e-12)
    assert feed(monitor, schema, mixed(0, 1)).n_rows == 0
    assert feed(monitor, schema, mixed(1, 1, shift=1e6)).departures == ()


# --- in words ------------------------------------------------------------------------------------


def test_numbers_are_told_by_the_side_on_which_there_are_more():
    rng = np.random.default_rng(0)
    before = rng.normal(600, 20, 1000)
    up = told(before, np.where(rng.random(1000) < 0.3, rng.uniform(640, 655, 1000), before))
    limit = float(up.text.split(" above ")[1].split(",")[0])
    assert 630 < limit < 645
    assert up.training_share == pytest.approx((before > limit).mean(), abs=0.0015)
    assert up.text.endswith("% of the training rows did")
    far = told(before, np.where(rng.random(1000) < 0.12, 900.0, before))
    highest = f"{before.max():.6g}"
    assert (
        far.text == f"{100 * far.share:.2g} % of the rows lie above {highest}, the training maximum"
    )
    down = told(before, np.where(rng.random(1000) < 0.12, -5.0, before))
    assert down.text.endswith(f"lie below {before.min():.6g}, the training minimum")
    narrow = told(before, 600 + (before - 600) / 10)
    assert " of the rows lie between " in narrow.text
    stuck = told([1.0, 2.0, 3.0, 4.0] * 200, [2.0] * 700 + [3.0] * 100)
    assert stuck.text == "88 % of the rows are 2, where 25 % of the training rows were"


def test_shares_are_exact_where_values_repeat():
    rng = np.random.default_rng(0)
    before, after = rng.poisson(3, 2000), rng.poisson(4, 2000)
    found = told(before, after)
    limit = float(found.text.split(" above ")[1].split(",")[0])
    assert found.share == (after > limit).mean()
    assert found.training_share == (before > limit).mean()


def test_missing_cells_are_told_in_both_directions():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000)
    some = np.where(rng.random(1000) < 0.2, None, values)
    assert told(values.tolist(), some.tolist()).text.endswith("% missing, never in training")
    fewer = told(some.tolist(), values.tolist())
    assert fewer.text.startswith("0 % missing, ")
    assert fewer.text.endswith("% in training")


def test_categories_are_told_by_name():
    before = ["idle"] * 200 + ["run"] * 700 + ["clean"] * 100
    one = told(before, before[:880] + ["turbo"] * 120, "mode")
    assert str(one) == "mode: 12 % 'turbo', never seen in training"
    two = told(before, before[:800] + ["turbo"] * 120 + ["eco"] * 80, "mode")
    assert two.text == "20 % never seen in training, such as 'turbo', 'eco'"
    more = told(before, ["idle"] * 500 + before[500:], "mode")
    assert more.text == "50 % 'idle', 20 % in training"
    gone = told(before, before[:900] + [None] * 100, "mode")
    assert gone.text == "10 % missing, never in training"
    long = told(before, before[:800] + ["x" * 90] * 200, "mode")
    assert long.text == f"20 % '{'x' * 40}…', never seen in training"


def test_truth_values_are_told_as_such():
    assert told([True] * 50 + [False] * 950, [True] * 310 + [False] * 690).text == (
        "31 % true, 5 % in training"
    )
    assert told([True] * 900, [True] * 500 + [False] * 400).text == "44 % false, never in training"


def test_later_dates_are_no_departure_and_missing_ones_are():
    dates = pl.datetime_range(
        pl.datetime(2024, 1, 1), pl.datetime(2024, 12, 31), "6h", eager=True, time_zone=None
    )
    train, later = pl.DataFrame({"t": dates}), pl.DataFrame({"t": dates.dt.offset_by("3y")})
    monitor, schema = monitor_of(train)
    assert feed(monitor, schema, later).departures == ()
    holes = later.with_columns(t=pl.when(pl.int_range(pl.len()) % 3 == 0).then(None).otherwise("t"))
    report = feed(monitor_of(train)[0], schema, holes)
    assert [str(d) for d in report.departures] == ["t: 33 % missing, never in training"]


def test_scores_are_told_with_what_they_may_mean():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=1000)})
    scores = rng.normal(10, 1, 1000)
    high = np.where(rng.random(1000) < 0.12, 30.0, scores)
    monitor, schema = monitor_of(frame, scores=scores)
    (found,) = feed(monitor, schema, frame, scores=high).departures
    assert found.column is None
    assert str(found).startswith("score: 1")
    assert "% of the rows score above " in found.text
    assert found.text.endswith(
        "which no held-out training row did: more high scores than training leads to expect "
        "(many anomalies, or drift)"
    )
    monitor, _ = monitor_of(frame, scores=scores)
    (found,) = feed(monitor, schema, frame, scores=scores - 2).departures
    assert "% of the rows score below " in found.text
    assert found.text.endswith("(were they trained on?)")


def test_what_nobody_would_care_for_is_not_told():
    rng = np.random.default_rng(0)
    n = 400_000
    x = rng.normal(size=n)
    monitor, schema = monitor_of(pl.DataFrame({"x": x}))
    report = feed(monitor, schema, pl.DataFrame({"x": rng.normal(0.03, 1, n)}))
    assert report.log10_e[0] > 10
    assert report.departures == ()


def test_departures_come_by_their_evidence_and_scores_first():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({name: rng.normal(size=800) for name in "abc"})
    monitor, schema = monitor_of(frame)
    moved = frame.with_columns(pl.col("b") + 1, pl.col("c") + 2)
    report = feed(monitor, schema, moved, scores=np.full(800, 99.0))
    assert [d.column for d in report.departures] == [None, "c", "b"]
    assert all(isinstance(d, Departure) for d in report.departures)
    assert report.departures[1].log10_e == report.log10_e[2]
    assert report.alpha == 0.001


# --- with a scorer -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy model with a profile, and the same without."""
    folder = tmp_path_factory.mktemp("drift")
    frame = toy_table(400)
    bundle = toy_bundle(folder / "plain", frame)
    schema = Schema.from_dict(bundle.manifest.schema)
    scores = Calibrator.from_arrays(bundle.arrays("calibration.npz")).scores
    rng = np.random.default_rng([0, 2])
    profile = Profile.fit(schema, schema.rows(Batch(frame, 1, "t")), scores, rng)
    return bundle, profile, folder


def with_file(toy, name, content):
    bundle, _, folder = toy
    files = {name: bundle.read(name) for name in bundle.names} | {"profile.json": content}
    Bundle.save(folder / name, files=files, manifest=bundle.manifest, overwrite=True)
    return folder / name


def test_a_table_is_compared_as_it_is_scored(toy, tmp_path):
    path = with_file(toy, "model", json.dumps(toy[1].to_dict()).encode())
    scorer = Scorer.open(path, providers="cpu")
    assert json.dumps(scorer.profile.to_dict()) == json.dumps(toy[1].to_dict())
    output = str(tmp_path / "o.csv")
    for table, expected in (
        (toy_table(1000, seed=1), []),
        (toy_table(1000, seed=1).with_columns(pl.col("pressure") + 8), [None, "pressure"]),
    ):
        for options in ({}, {"false_discovery_rate": 0.1}):
            with open_table(table) as reader:
                summary = score_table(scorer, reader, output, **options)
            assert [d.column for d in summary.drift.departures] == expected
            assert summary.drift.n_rows == 1000
        with open_table(table) as reader:
            assert score_table(scorer, reader, output, drift=False).drift is None
        monitor = DriftMonitor(scorer)
        with open_table(table) as reader:
            for rows, verdicts in scorer.stream(reader):
                monitor.update(rows, verdicts)
        assert monitor.report() == summary.drift


def test_models_without_a_profile_score_and_say_nothing(toy, tmp_path):
    bundle = toy[0]
    for path in (bundle.path, bundle.path / "scorer.onnx"):
        scorer = Scorer.open(path, providers="cpu")
        assert scorer.profile is None
        with open_table(toy_table(50)) as reader:
            assert score_table(scorer, reader, str(tmp_path / "o.csv")).drift is None
        with pytest.raises(UsageError, match=r"holds no profile .* open a model directory"):
            DriftMonitor(scorer)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b"[" * 100_000])
def test_a_damaged_profile_is_refused(toy, content):
    path = signed(with_file(toy, "broken", b"{}"), "profile.json", content)
    with pytest.raises(ModelCorruptError, match=r"profile\.json is damaged: .*; fit the model"):
        Scorer.open(path, providers="cpu")


def test_a_profile_of_another_model_is_refused(toy):
    frame = pl.DataFrame({"x": np.arange(50.0) ** 2})
    schema = Schema.infer(frame)
    rng = np.random.default_rng(0)
    other = Profile.fit(schema, schema.rows(Batch(frame, 1, "t")), np.arange(9.0), rng)
    path = with_file(toy, "other", json.dumps(other.to_dict()).encode())
    with pytest.raises(ModelCorruptError, match="not of the model's 3 columns"):
        Scorer.open(path, providers="cpu")


def test_wrong_use_is_refused():
    frame = mixed(50, 0)
    for alpha in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="alpha must lie between 0 and 1"):
            monitor_of(frame, alpha=alpha)
    monitor, schema = monitor_of(frame)
    rows = schema.rows(Batch(frame, 1, "t"))
    with pytest.raises(UsageError, match=r"\(50, 3\) numeric .* do not go with 49 verdicts"):
        monitor.update(rows, verdicts_of(np.ones(49), 4))
