"""Calibration by group: p-values by hand, who has a calibration of its own, options, storage."""

import io
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomgan import GANDetector
from anomgan.bundle import Bundle
from anomgan.calibration import Calibrator
from anomgan.decision import Decision
from anomgan.errors import InputError, ModelCorruptError, UsageError
from anomgan.fitting import FitControl, _explained_from, _split, calibrate, fit_rows
from anomgan.groups import (
    GroupedCalibrator,
    calibrate_groups,
    calibration_of,
    calibrator_from_arrays,
    group_options,
    require_stated_rate,
    row_p_values,
)
from anomgan.persistence import load_fitted, save_fitted
from anomgan.presets import FlagshipParameters
from anomgan.scoring.attribution import EXPLAINED_QUANTILE
from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan_datasets import machine_log


def plain(scores, rate=0.25):
    return Calibrator.fit(scores, false_alarm_rate=rate, tail=False)


def by_hand(rate=0.25):
    """Group a: 1 2 3; group b: 11 12 13 14; all rows: these and 0."""
    everything = [0.0, 1.0, 2.0, 3.0, 11.0, 12.0, 13.0, 14.0]
    groups = {"b": plain([11.0, 12.0, 13.0, 14.0], rate), "a": plain([1.0, 2.0, 3.0], rate)}
    return GroupedCalibrator("site", plain(everything, rate), groups)


def test_p_values_are_those_of_the_rows_own_group():
    calibrator = by_hand()
    scores = [2.5, 2.5, 2.5, 12.0, 12.0, 99.0, 99.0]
    groups = ["a", "b", "never seen", "a", "b", "a", ""]
    # (1 + held-out scores of the group at or above) / (rows of the group + 1)
    expected = [2 / 4, 5 / 5, 6 / 9, 1 / 4, 4 / 5, 1 / 4, 1 / 9]
    np.testing.assert_array_equal(calibrator.p_values(scores, groups), expected)
    assert calibrator.codes(groups).tolist() == [1, 2, 0, 1, 2, 1, 0]
    assert calibrator.p_values([], []).shape == (0,)


def test_one_rate_gives_each_group_its_threshold():
    calibrator = by_hand()
    assert list(calibrator.groups) == ["a", "b"]
    assert calibrator.n == 8
    assert calibrator.resolution == 1 / 9
    assert calibrator.threshold(group="a") == pytest.approx(3.0, rel=1e-5)
    assert calibrator.threshold(group="b") == pytest.approx(14.0, rel=1e-5)
    assert (
        calibrator.threshold()
        == calibrator.threshold(group="unseen")
        == pytest.approx(13.0, rel=1e-5)
    )
    assert calibrator.threshold(0.5, "a") == pytest.approx(2.0, rel=1e-5)
    for group in ("a", "b", ""):
        value = np.float32(calibrator.threshold(group=group))
        below = np.nextafter(value, np.float32(-np.inf))
        at, under = calibrator.p_values([value, below], [group, group])
        assert at <= calibrator.false_alarm_rate < under


def test_another_rate_is_that_of_all_groups():
    renewed = by_hand().with_rate(0.4)
    rates = {c.false_alarm_rate for c in (renewed.pooled, *renewed.groups.values())}
    assert rates == {0.4}
    message = r"in the group 'a' of 'site', a false-alarm rate of 0.2 needs 4 calibration rows"
    with pytest.raises(UsageError, match=message):
        by_hand().with_rate(0.2)
    with pytest.raises(UsageError, match=message):
        require_stated_rate(by_hand().summary(), 0.2)
    with pytest.raises(UsageError, match=message):
        Decision.of(by_hand(), 0.2)
    require_stated_rate(by_hand().summary(), 0.3)
    require_stated_rate({}, 1e-9)  # a scorer that states nothing


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 100, width=32)), min_size=4),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d", ""]), st.floats(0, 100, width=32))),
)
def test_p_values_match_a_loop(known, new):
    scores = [score for _, score in known]
    pooled = plain(scores, 0.5)
    calibrator = GroupedCalibrator.fit("g", scores, [group for group, _ in known], pooled)
    assert calibrator is not None  # a rate of a half takes a single row
    found = calibrator.p_values([score for _, score in new], [group for group, _ in new])
    for (group, score), p in zip(new, found, strict=True):
        own = [c for g, c in known if g == group]
        peers = own or scores
        at_least = sum(1 for c in peers if np.float32(c) >= np.float32(score))
        if len(peers) < 20:  # no tail
            assert p == (1 + at_least) / (len(peers) + 1)
        assert 0 < p <= (1 + at_least) / (len(peers) + 1)


def rows_of(counts, seed=0):
    names = np.array([name for name, n in counts.items() for _ in range(n)], dtype=object)
    scores = np.random.default_rng(seed).exponential(size=len(names)).astype(np.float32)
    return scores, names


def test_groups_with_too_few_rows_share_the_calibration_of_all():
    scores, names = rows_of({"many": 150, "some": 25, "few": 19, "": 6})
    pooled = calibrate(scores, None)[0]
    found, notes = calibrate_groups("line", scores, names, np.repeat(names, 5), pooled)
    assert isinstance(found, GroupedCalibrator)
    assert {name: c.n for name, c in found.groups.items()} == {"many": 150, "some": 25}
    assert notes == (
        "too few held-out rows for a calibration of its own in 1 group of 'line', judged by that "
        "of all rows: 'few' (19); it takes 99 of them (about 495 normal rows), or 20 (about 100) "
        "to whose scores a tail can be fitted",
        "in 1 group of 'line' the threshold is extrapolated by a tail, since fewer than 99 rows "
        "are held out: 'some' (25)",
    )
    np.testing.assert_array_equal(
        found.p_values(scores[-25:], names[-25:]), pooled.p_values(scores[-25:])
    )


def test_enough_rows_by_counting_need_no_tail():
    scores, names = np.ones(300, np.float32), rows_of({"a": 99, "b": 98, "c": 103})[1]
    pooled = Calibrator.fit(scores)
    assert pooled.tail is None
    found = GroupedCalibrator.fit("g", scores, names, pooled)
    assert found is not None
    assert list(found.groups) == ["a", "c"]


def test_where_no_group_has_rows_enough_the_model_is_calibrated_once():
    scores, names = rows_of({f"m{i:02d}": 5 for i in range(30)})
    pooled = calibrate(scores, None)[0]
    found, (note,) = calibrate_groups("machine", scores, names, names, pooled)
    assert found is pooled
    assert note.startswith("no group of 'machine' has held-out rows enough")
    assert "'m09' (5), and 20 more; it takes 99 of them" in note


def test_a_category_without_held_out_rows_is_named_too():
    scores, names = rows_of({"a": 200})
    pooled = calibrate(scores, None)[0]
    everyone = np.concatenate([np.repeat(names, 5), ["rare"]]).astype(object)
    _, notes = calibrate_groups("g", scores, names, everyone, pooled)
    assert "'rare' (0)" in notes[0]


# --- The split ------------------------------------------------------------------------------


def test_each_group_gives_its_share_to_the_held_out_rows():
    names = rows_of({"a": 700, "b": 200, "c": 90, "": 5, **{f"one{i}": 1 for i in range(5)}})[1]
    known, held_out = _split(1000, 2000, np.random.default_rng(3), names)
    assert len(held_out) == 200
    assert sorted([*known, *held_out]) == list(range(1000))
    got = {name: int((names[held_out] == name).sum()) for name in ("a", "b", "c", "")}
    for name, n in got.items():
        assert abs(n - 0.2 * (names == name).sum()) < 1
    again = _split(1000, 2000, np.random.default_rng(3), names)
    np.testing.assert_array_equal(again[1], held_out)
    other = _split(1000, 2000, np.random.default_rng(4), names)[1]
    assert not np.array_equal(other, held_out)


def test_every_row_of_a_group_is_held_out_as_often():
    names = rows_of({"a": 30, "b": 7, "c": 3})[1]
    counts = np.zeros(40)
    for seed in range(4000):
        counts[_split(40, 2000, np.random.default_rng(seed), names)[1]] += 1
    # A quarter of 4000 each; six standard deviations of a binomial count are 164.
    assert np.abs(counts - 1000).max() < 164


def test_groups_change_no_other_draw():
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    _split(100, 50, one)
    _split(100, 50, other, rows_of({"a": 60, "b": 40})[1])
    assert one.random() == other.random()


# --- Options --------------------------------------------------------------------------------


def table(n=60):
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "machine": np.arange(n) % 3,
            "open": np.arange(n) % 2 == 0,
            "value": rng.normal(size=n),
            "serial": [f"S{i:05d}" for i in range(n)],
            "plant": ["north"] * n,
        }
    )


@pytest.mark.parametrize("by", ["machine", "open"])
def test_numbers_and_truth_values_are_read_as_groups(by):
    schema = Schema.infer(table(), group_options(table(), SchemaOptions(), by))
    assert by in schema.categorical_names
    same = SchemaOptions(categorical=(by,))
    assert group_options(table(), same, by) == same


@pytest.mark.parametrize(
    ("options", "by", "message"),
    [
        (SchemaOptions(), "machin", r"no such column \(did you mean 'machine'\?\); the columns"),
        (SchemaOptions(drop=("machine",)), "machine", r"--drop machine contradict each other"),
        (SchemaOptions(numeric=("machine",)), "machine", r"--numeric machine contradict"),
        (SchemaOptions(label="machine"), "machine", r"--label machine contradict"),
        (SchemaOptions(id_column="serial"), "serial", r"--id-column serial contradict"),
        (
            SchemaOptions(),
            "serial",
            r"tells no groups of rows \(identifier\).*--categorical serial",
        ),
        (SchemaOptions(), "plant", r"tells no groups of rows \(constant\): name a column whose"),
    ],
)
def test_a_column_that_can_be_no_group_is_refused(options, by, message):
    with pytest.raises(UsageError, match=message):
        group_options(table(), options, by)
    if options == SchemaOptions():
        with pytest.raises(UsageError, match=message):
            GANDetector(calibrate_by=by).fit(table())


def test_an_insisted_column_is_taken():
    insisted = SchemaOptions(categorical=("serial",))
    assert group_options(table(), insisted, "serial") == insisted


def test_arrays_have_no_column_to_calibrate_by():
    with pytest.raises(UsageError, match="columns of an array have no names"):
        GANDetector(calibrate_by="x0").fit(np.zeros((50, 2)))


def test_numbers_are_no_groups_of_a_fit():
    schema = Schema.infer(table(), SchemaOptions())
    rows = schema.rows(Batch(table(), 1, "t"))
    with pytest.raises(UsageError, match="must read it as categories"):
        fit_rows(
            *(schema, rows, FlagshipParameters()),
            seed=0,
            false_alarm_rate=None,
            control=FitControl(device="cpu"),
            calibrate_by="value",
        )


# --- Storage --------------------------------------------------------------------------------


def mixed():
    scores, names = rows_of({"a\0": 150, "\u00e9": 120, "c": 40})
    found = GroupedCalibrator.fit("s\u00efte", scores, names, Calibrator.fit(scores))
    assert found is not None
    groups = dict(found.groups)
    groups["a\0"] = Calibrator.fit(groups["a\0"].scores, tail=False)
    return replace(found, groups=groups)


def stored(calibrator):
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **calibrator.arrays())
    buffer.seek(0)
    return dict(np.load(buffer, allow_pickle=False))


def test_arrays_round_trip_without_pickle():
    before = mixed()
    after = calibrator_from_arrays(stored(before))
    assert isinstance(after, GroupedCalibrator)
    assert after.by == before.by
    assert list(after.groups) == list(before.groups)
    pairs = [(before.pooled, after.pooled)]
    pairs += [(before.groups[name], after.groups[name]) for name in before.groups]
    for one, other in pairs:
        np.testing.assert_array_equal(one.scores, other.scores)
        assert one.tail == other.tail
        assert one.false_alarm_rate == other.false_alarm_rate
    assert after.summary() == before.summary()


def test_arrays_of_an_earlier_anomgan_are_one_calibration():
    calibrator = Calibrator.fit(np.arange(200.0))
    assert isinstance(calibrator_from_arrays(stored(calibrator)), Calibrator)
    # And an earlier anomgan reads of the new ones what it knows.
    assert Calibrator.from_arrays(stored(mixed())).n == 310


@pytest.mark.parametrize(
    "damage",
    [
        {"groups": np.asarray("nonsense")},
        {"groups": np.asarray("[1]")},
        {"groups": np.asarray(json.dumps({"by": "s", "names": ["a", "a", "b"]}))},
        {"groups": np.asarray(json.dumps({"by": "s", "names": ["a", "b", ""]}))},
        {"groups": np.asarray(json.dumps({"by": "s", "names": []}))},
        {"group_sizes": np.array([1, 2, 3])},
        {"group_sizes": np.array([150, 120])},
        {"group_sizes": np.array([], dtype=np.int64)},
        {"group_scores": np.ones(310)},
        {"group_tails": np.zeros((3, 5))},
        {"false_alarm_rate": np.asarray(1e-6)},
    ],
)
def test_damaged_arrays_are_refused(damage):
    with pytest.raises(InputError):
        calibrator_from_arrays({**stored(mixed()), **damage})
    lacking = stored(mixed())
    del lacking[next(iter(damage))]
    if "groups" in lacking:
        with pytest.raises(InputError):
            calibrator_from_arrays(lacking)


def test_what_a_model_states_of_its_groups():
    summary = by_hand().summary()
    json.dumps(summary, allow_nan=False)
    assert summary["by"] == "site"
    assert summary["n"] == 8
    assert {name: own["n"] for name, own in summary["groups"].items()} == {"a": 3, "b": 4}
    frame = pl.DataFrame({"x": [1.0, 2.0, 3.0], "site": ["a", "b", "zz"]})
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    rows = schema.rows(Batch(frame, 1, "t"))
    found = [calibration_of(summary, schema, rows, i)["n"] for i in range(3)]
    assert found == [3, 4, 8]
    assert calibration_of(plain([1.0, 2.0, 3.0]).summary(), schema, rows, 0)["n"] == 3


def test_scores_and_groups_must_fit():
    with pytest.raises(InputError, match="2 scores need as many groups, got 1"):
        by_hand().p_values([1.0, 2.0], ["a"])
    with pytest.raises(InputError, match="need the group of each row"):
        row_p_values(by_hand(), [1.0], None)
    with pytest.raises(InputError, match="at least one group"):
        GroupedCalibrator("g", plain([1.0, 2.0, 3.0]), {})
    with pytest.raises(InputError, match="all of one rate"):
        GroupedCalibrator("g", plain([1.0, 2.0, 3.0]), {"a": plain([1.0, 2.0, 3.0], 0.5)})


# --- The estimator --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector():
    frame = machine_log(n_normal=600, n_anomalies=0, seed=1).X
    small = {"generator_width": 16, "discriminator_width": 16, "batch_rows": 32}
    detector = GANDetector(
        n_steps=20, device="cpu", random_state=0, calibrate_by="machine", **small
    )
    return detector.fit(frame)


def test_the_estimator_decides_within_groups(detector, tmp_path):
    log = machine_log(n_normal=200, n_anomalies=60, seed=2).X
    log.loc[log.index[:5], "machine"] = "M-99"
    p, flagged = detector.p_values(log), detector.predict(log) == -1
    np.testing.assert_array_equal(flagged, p <= 0.01)
    np.testing.assert_array_equal(detector.decision_function(log) < 0, flagged)
    calibrator = detector.model_.calibrator
    scores = detector.anomaly_score(log)
    groups = log["machine"].fillna("").to_numpy(dtype=object)
    np.testing.assert_array_equal(p, calibrator.p_values(scores, groups))
    assert not np.array_equal(p, calibrator.pooled.p_values(scores))
    least = {**dict.fromkeys(groups, detector.threshold_), **detector.group_thresholds_}
    np.testing.assert_array_equal(flagged, scores >= [least[name] for name in groups])
    assert sorted(detector.group_thresholds_) == ["M-01", "M-02", "M-07"]
    assert flagged.any()
    assert not flagged.all()

    detector.save(tmp_path / "m")
    same = GANDetector.load(tmp_path / "m")
    assert same.calibrate_by == "machine"
    assert same.group_thresholds_ == detector.group_thresholds_
    np.testing.assert_array_equal(same.p_values(log), p)
    assert Bundle.open(tmp_path / "m").manifest.calibration == calibrator.summary()


def test_the_held_out_rows_of_a_fit_are_shared_out(detector):
    calibrator = detector.model_.calibrator
    assert calibrator.n == 120
    sizes = [c.n for c in calibrator.groups.values()]
    assert all(30 <= n <= 50 for n in sizes)
    assert sum(sizes) < 120  # rows without a machine are in none
    parts = np.sort(np.concatenate([c.scores for c in calibrator.groups.values()]))
    assert np.isin(parts, calibrator.scores).all()
    assert any("extrapolated by a tail" in note for note in detector.model_.notes)


def test_a_saved_model_with_groups_loads(detector, tmp_path):
    save_fitted(detector.model_, tmp_path / "m", overwrite=False, source="t")
    fitted = load_fitted(tmp_path / "m")
    assert isinstance(fitted.calibrator, GroupedCalibrator)
    assert fitted.calibrator.by == "machine"
    empty = Rows(fitted.probe.numeric[:0], fitted.probe.categorical[:0], None, 1)
    assert len(fitted.groups(empty)) == 0

    bundle = Bundle.open(tmp_path / "m")
    files = {name: bundle.read(name) for name in bundle.names}
    buffer = io.BytesIO()
    np.savez(buffer, **replace(fitted.calibrator, by="speed_rpm").arrays())
    files["calibration.npz"] = buffer.getvalue()
    Bundle.save(tmp_path / "m", files=files, manifest=bundle.manifest, overwrite=True)
    with pytest.raises(ModelCorruptError, match="'speed_rpm', which is no column of categories"):
        load_fitted(tmp_path / "m")


def test_rows_of_a_quiet_group_are_explained_from_lower_scores_on():
    found = by_hand()
    assert _explained_from(found.pooled) == 7.0  # twice the rate of 0.25 are explained
    assert _explained_from(found) == 2.0  # group a: 1 2 3
    assert _explained_from(found) < found.groups["a"].threshold()
    rare = Calibrator.fit(np.arange(1000.0, dtype=np.float32), false_alarm_rate=0.01)
    assert _explained_from(rare) == pytest.approx(EXPLAINED_QUANTILE * 999)
