"""False-discovery control: exact cut-offs in constant memory, and the rate that is realised."""

import math
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_model import toy_bundle, toy_table

from anomgan import calibration
from anomgan.errors import InputError, OutputError, UsageError
from anomgan.false_discovery import (
    _BINS_A_PASS,
    LAMBDA,
    Discoveries,
    benjamini_hochberg,
    discover,
    step_up_cutoff,
    storey_share,
)
from anomgan.serving import Scorer
from anomgan.serving.files import score_table
from anomgan.serving.spool import Spool, open_spool, write_discoveries
from anomgan.tables.readers import open_table

METHODS = ["bh", "storey"]

conformal = st.integers(1, 60).map(lambda c: c / 60)  # heavily tied, as p-values of 59 rows are
anything = st.floats(float(np.finfo(np.float32).tiny), 1.0, width=32)
batches = st.lists(st.one_of(conformal, anything), max_size=80)
rates = st.one_of(st.sampled_from([0.05, 0.1, 0.2, 0.5]), st.floats(1e-6, 0.999))


def naive_flags(p_values, rate, method):
    """Loop-only twin: the definition, rank by rank."""
    p = sorted(np.float32(value) for value in p_values)
    n = len(p)
    above = sum(value > 0.5 for value in p)
    normal = n * ((1 + above) / (n * 0.5)) if n and method == "storey" else 1.0 * n
    cutoff = None
    for k, value in enumerate(p, start=1):
        if value <= np.float32(rate * k / normal) and (method == "bh" or value <= 0.5):
            cutoff = value
    return [cutoff is not None and np.float32(value) <= cutoff for value in p_values]


def in_chunks(p_values, size=7):
    p = np.asarray(p_values, dtype=np.float32)
    return lambda: (p[i : i + size] for i in range(0, len(p), size))


# The cut-off


@given(batches, rates, st.sampled_from(METHODS))
@example([], 0.1, "storey")
@example([0.01], 0.1, "bh")
@example([0.05], 0.1, "storey")  # one row counts as two: at the bound
@example([0.02] * 40, 0.1, "storey")
@example([1.0] * 40, 0.1, "bh")
@example([0.1] * 10, 0.1, "bh")  # equal to the bound, which float32 rounds up
@example([0.7, 0.5] + [1e-5] * 70, 0.5, "storey")
@settings(deadline=None)
def test_flags_and_the_streamed_cutoff_match_a_loop(p_values, rate, method):
    flags = naive_flags(p_values, rate, method)
    np.testing.assert_array_equal(benjamini_hochberg(p_values, rate, method=method), flags)
    found = discover(in_chunks(p_values), rate, method=method)
    assert found.cutoff == step_up_cutoff(p_values, rate, method=method)
    assert (found.n, found.n_flagged) == (len(p_values), sum(flags))
    p = np.asarray(p_values, dtype=np.float32)
    assert found.lowest == min(p, default=math.inf)
    assert found.n_lowest == int((p == found.lowest).sum())
    assert found.normal_share == (1.0 if method == "bh" else storey_share(p_values))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.98])
def test_the_streamed_cutoff_is_exact_for_many_continuous_p_values(share, method):
    rng = np.random.default_rng(5)
    p = rng.random(200_000)
    p[: int(share * len(p))] **= 4  # abnormal rows of every strength
    for rate in (0.01, 0.3, 0.9):
        found = discover(in_chunks(p, 30_000), rate, method=method)
        assert found.cutoff == step_up_cutoff(p, rate, method=method)
        assert found.n_flagged == benjamini_hochberg(p, rate, method=method).sum()


def test_many_undecided_bins_take_several_passes_and_end_exactly():
    # Each bin of the upper bits holds one p-value at its upper end, so that the lower end is below
    # the bound and the value above it; only the smallest one passes.
    ends = (np.arange(0x3F00, 0x3F70, dtype=np.uint32) << 16) + 0xFFFF
    p = [1e-4, *ends.view(np.float32)]
    # n p-values, the k-th bound at rate r is r k / n: crowd the ranks so that it lies inside bins.
    crowd = []
    for value in p[1:]:
        rank = math.floor(0.9999 * value * 20_000 / 0.99)
        crowd += [value] * max(rank - len(crowd) - 1, 0)
    crowd += [1.0] * (20_000 - len(crowd) - 1)
    p = [1e-6, *crowd]
    passes = []

    def chunks():
        passes.append(1)
        return in_chunks(p, 4_096)()

    found = discover(chunks, 0.99)
    assert found.cutoff == step_up_cutoff(p, 0.99) == np.float32(1e-6)
    assert found.n_flagged == 1
    assert len(passes) > 1 + len(ends) // _BINS_A_PASS


def test_rows_without_a_p_value_do_not_count():
    p = [0.04, np.nan, 0.9, np.nan]
    np.testing.assert_array_equal(benjamini_hochberg(p, 0.1), [True, False, False, False])
    assert storey_share(p) == (1 + 1) / (2 * 0.5)
    with pytest.raises(InputError, match=r"p-values must be float32 numbers in \[0, 1\]"):
        discover(in_chunks(p), 0.1)


def test_storeys_share_is_the_fraction_of_the_definition():
    assert LAMBDA == 0.5
    assert storey_share([]) == 1.0
    assert storey_share([0.001] * 98 + [0.5, 0.51]) == (1 + 1) / (100 * 0.5)
    assert storey_share([0.9, 0.9]) == 3.0  # not capped: see the docstring


def test_storey_flags_more_where_many_rows_are_abnormal_and_never_above_lambda():
    p = np.repeat([0.001, 0.09, 0.9], [40, 40, 20])
    plain, adaptive = (benjamini_hochberg(p, 0.1, method=method) for method in METHODS)
    np.testing.assert_array_equal(plain, p == 0.001)  # 0.1 * 80 / 100 < 0.09
    np.testing.assert_array_equal(adaptive, p < 0.9)  # the same over a share of 0.42
    p = np.repeat([0.001, 0.6], [99, 1])  # 0.1 * 100 / (100 * 0.04) > 0.6
    np.testing.assert_array_equal(benjamini_hochberg(p, 0.1, method="storey"), p < 0.6)


def test_equal_to_the_bound_is_flagged_in_any_precision():
    # 7 / 100 is above 0.07 as float32, and 1 / 100 below 0.01.
    for numerator in range(1, 100):
        p = np.full(1, numerator / 100)
        assert benjamini_hochberg(p, numerator / 100).all()
        assert benjamini_hochberg(p.astype(np.float32), numerator / 100).all()


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_rate_outside_the_unit_interval_is_refused(rate):
    for decide in (benjamini_hochberg, step_up_cutoff):
        with pytest.raises(UsageError, match="false-discovery rate must lie between 0 and 1, got"):
            decide([0.5], rate)
    with pytest.raises(UsageError, match="--fdr-method must be one of bh, storey, got 'by'"):
        discover(in_chunks([0.5]), 0.1, method="by")


def test_calibration_still_offers_it():
    assert calibration.benjamini_hochberg is benjamini_hochberg


def test_rows_needed_are_enough_and_one_less_is_not():
    for n, n_lowest, rate in [(300, 1, 0.1), (5_000, 3, 0.05), (7, 2, 0.2)]:
        found = Discoveries(rate, "bh", n, 1.0, -math.inf, 0, 0.5, n_lowest)
        needed = found.rows_needed()
        for rows, flagged in ((needed, True), (needed - 1, False)):
            p = np.concatenate([np.full(n_lowest, 1 / (rows + 1)), np.ones(n - n_lowest)])
            assert benjamini_hochberg(p, rate).any() == flagged


# The rate


def _false_share(p_values, n_normal, rate, method):
    flags = benjamini_hochberg(p_values, rate, method=method)
    return flags[:n_normal].sum() / max(flags.sum(), 1)


def _batches(n_batches, *, n_calibration, n_normal, n_abnormal):
    """Conformal p-values of batches, each with a calibration set of its own; normal rows first."""
    rng = np.random.default_rng(20)
    for _ in range(n_batches):
        held_out = np.sort(rng.random(n_calibration))
        scores = np.concatenate([rng.random(n_normal), 0.9 + rng.random(n_abnormal)])
        at_least = n_calibration - np.searchsorted(held_out, scores)
        yield (1 + at_least) / (n_calibration + 1)


def _slack(rate, n_batches):
    """Bernstein: a mean of values in [0, 1] and of variance <= rate strays further once in 1e7."""
    log = math.log(1e7)
    return log / (3 * n_batches) + math.sqrt(
        (log / (3 * n_batches)) ** 2 + 2 * rate * log / n_batches
    )


@pytest.mark.parametrize(
    ("n_calibration", "n_normal", "n_abnormal"), [(499, 10, 0), (100, 20, 0), (199, 60, 40)]
)
@pytest.mark.parametrize("method", METHODS)
def test_the_realised_false_discovery_rate_is_at_most_the_one_asked_for(
    n_calibration, n_normal, n_abnormal, method
):
    rate, n_batches = 0.2, 20_000
    shares = [
        _false_share(p, n_normal, rate, method)
        for p in _batches(
            n_batches, n_calibration=n_calibration, n_normal=n_normal, n_abnormal=n_abnormal
        )
    ]
    assert np.mean(shares) <= rate + _slack(rate, n_batches)


def test_the_realised_rate_is_the_share_of_normal_rows_times_the_rate():
    # With rate * (n + 1) / N a whole number the bound of Benjamini-Hochberg is attained.
    rate, n_batches = 0.2, 20_000
    for n_normal, n_abnormal in [(20, 0), (12, 8)]:
        shares = [
            _false_share(p, n_normal, rate, "bh")
            for p in _batches(n_batches, n_calibration=99, n_normal=n_normal, n_abnormal=n_abnormal)
        ]
        assert abs(np.mean(shares) - rate * n_normal / 20) <= _slack(rate, n_batches)


# The spool


def _frame(p_values, **columns):
    flags = [None if p is None else False for p in p_values]
    return pl.DataFrame(
        {"p_value": pl.Series(p_values, dtype=pl.Float32), "is_anomaly": flags, **columns}
    )


class _Frames:
    def __init__(self):
        self.written = []

    def write(self, frame):
        self.written.append(frame)


def test_frames_come_back_as_they_were_with_the_flags_decided():
    frames = [
        # A p-value of 0.001 that was extrapolated: the decision rests on 0.04.
        _frame([0.001, None], when=[datetime(2024, 1, 1), None], tags=[["a"], []]),
        _frame([], when=pl.Series([], dtype=pl.Datetime), tags=pl.Series([], dtype=pl.List(str))),
        _frame([0.9], when=[None], tags=[None]).cast({"when": pl.Datetime, "tags": pl.List(str)}),
    ]
    writer = _Frames()
    ruling = [np.float32([0.04, np.nan]), np.float32([]), np.float32([0.9])]
    pairs = zip(frames, ruling, strict=True)
    found = write_discoveries(pairs, writer, "parquet", 0.1, method="bh")
    assert [
        frame.drop("is_anomaly").equals(f.drop("is_anomaly"))
        for frame, f in zip(frames, writer.written, strict=True)
    ] == [True] * 3
    assert [f["is_anomaly"].to_list() for f in writer.written] == [[True, None], [], [False]]
    assert (found.n, found.n_flagged, found.cutoff) == (2, 1, np.float32(0.04))


def test_a_format_that_cannot_hold_a_column_is_told_after_the_first_frame():
    def frames():
        yield _frame([0.5], tags=[["a"]]), np.float32([0.5])
        raise AssertionError("scored on")

    with pytest.raises(UsageError, match=r"column 'tags' .* does not fit into CSV"):
        write_discoveries(frames(), _Frames(), "csv", 0.1, method="bh")


def test_no_table_at_all_is_written_as_such():
    writer = _Frames()
    found = write_discoveries(iter([]), writer, "csv", 0.1, method="storey")
    assert (writer.written, found.n, found.n_flagged) == ([], 0, 0)


def test_a_full_disk_is_said_with_the_way_out():
    p_values = np.random.default_rng(0).random(100_000).astype(np.float32)
    frame = _frame(p_values)
    message = r"cannot keep scored rows in .*No space left.*set TMPDIR to a directory that has it"
    with open("/dev/full", "r+b", buffering=0) as full, open_spool() as room:
        with pytest.raises(OutputError, match=message):
            Spool(full, room._p_values).write(frame, p_values)
        with pytest.raises(OutputError, match=message):
            Spool(room._frames, full).write(frame, p_values)


# What was counted and what was extrapolated


def test_extrapolated_p_values_count_as_the_smallest_counted_one():
    p = [1e-9, 1e-9, 0.02, 0.5]
    np.testing.assert_array_equal(benjamini_hochberg(p, 0.1), [True, True, True, False])
    flags = benjamini_hochberg(p, 0.1, resolution=0.04)
    np.testing.assert_array_equal(flags, [True, True, True, False])  # 3 at 0.04 <= 0.1 * 3 / 4
    assert not benjamini_hochberg(p, 0.1, resolution=0.08).any()
    own = [0.04, 0.3, 0.04, 0.04]  # the second row's group has few calibration rows
    np.testing.assert_array_equal(
        benjamini_hochberg(p, 0.1, resolution=own), [True, False, True, False]
    )


def test_a_hopeful_tail_breaks_the_rate_and_counting_keeps_it():
    """Scores whose tail is heavier than any that is fitted: what some real tables have.

    All rows are normal, so every flag is false. With counted p-values a batch gets one with a
    chance of at most 0.1: more than 70 of 400 batches happen with a chance below 1e-6.
    """
    rng = np.random.default_rng(0)
    wrong = {"counted": 0, "extrapolated": 0}
    for _ in range(400):
        fitted = calibration.Calibrator.fit(np.exp(2.0 * rng.exponential(size=500)))
        p = fitted.p_values(np.exp(2.0 * rng.exponential(size=200)))
        counted = benjamini_hochberg(p, 0.1, resolution=fitted.resolution)
        wrong["counted"] += counted.any()
        wrong["extrapolated"] += benjamini_hochberg(p, 0.1).any()
    assert wrong["counted"] <= 70 < wrong["extrapolated"]


# Whole tables


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _scorer(path, **options):
    toy_bundle(path, **options)
    return Scorer.open(path)


def test_the_summary_says_what_was_controlled(here):
    scorer = _scorer(here / "model")
    new = toy_table(300, seed=1).with_columns(
        pressure=pl.when(pl.int_range(300) < 12).then(500.0).otherwise("pressure")
    )
    options = {"false_discovery_rate": 0.1, "fdr_method": "storey"}
    summary = score_table(scorer, open_table(new, batch_rows=64), "out.csv", **options)
    p = scorer.score(new).p_value
    found = summary.discoveries
    flags = benjamini_hochberg(p, 0.1, method="storey")
    assert (found.rate, found.method, found.n) == (0.1, "storey", 300)
    assert found.normal_share == storey_share(p)
    assert summary.n_anomalies == found.n_flagged == flags.sum() >= 12
    assert summary.calibration_rows_needed is None
    assert pl.read_csv("out.csv")["is_anomaly"].to_list() == flags.tolist()


@pytest.mark.parametrize(("n_far", "expected"), [(1, 1200 / 0.1 - 1), (2, 600 / 0.1 - 1)])
def test_calibration_rows_needed_are_told_where_they_are_why_nothing_is_flagged(
    here, n_far, expected
):
    scorer = _scorer(here / "model")
    calm = toy_table(1200).filter(pl.col("pressure").is_between(95, 105)).head(300)
    new = pl.concat([calm] * 4).with_columns(
        pressure=pl.when(pl.int_range(1200) < n_far).then(500.0).otherwise("pressure")
    )
    summary = score_table(scorer, open_table(new), "out.csv", false_discovery_rate=0.1)
    p = scorer.score(new).p_value
    at_the_end = int((p == p.min()).sum())
    assert summary.n_anomalies == 0
    assert at_the_end == n_far
    assert summary.calibration_rows_needed == expected


def test_calibration_rows_needed_are_not_told_where_they_are_not_why(here):
    calm = toy_table(40).filter(pl.col("pressure").is_between(97, 103))
    summary = score_table(
        _scorer(here / "model"), open_table(calm), "out.csv", false_discovery_rate=0.1
    )
    assert (summary.n_anomalies, summary.calibration_rows_needed) == (0, None)
