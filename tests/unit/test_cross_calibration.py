"""Cross-conformal calibration: who sees which rows, and by whom each calibrating row is scored."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from tiny_flagship import fitted as tiny
from torch import Tensor

from anomgan import GANDetector
from anomgan.errors import TrainingInterrupted, UsageError
from anomgan.estimator import fit_table
from anomgan.fitting import FitControl, FittedModel, _divide, _folds, fit_rows, take
from anomgan.flagship import _fingerprint, _unseen
from anomgan.persistence import load_fitted
from anomgan.presets import FlagshipParameters
from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan.tables.encoding import FeatureEncoder
from anomgan.training.folds import Division, FoldSampler

N, SEED = 83, 4
SMALL: dict[str, Any] = {
    "n_steps": 20,
    "batch_rows": 16,
    "generator_width": 12,
    "discriminator_width": 12,
}
CROSS = FlagshipParameters(**SMALL, calibration="cross")
CONTROL = FitControl(device="cpu")


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def mixed_table(n: int = N) -> pl.DataFrame:
    """Numbers, a clustered pair of them, and categories; one category and one gap stand alone."""
    rng = seeded(7)
    centre = rng.integers(3, size=n)
    modes = np.array(["a", "b", "c"], dtype=object)[centre]
    modes[5] = "alone"
    load = np.round(rng.normal(size=n), 3).tolist()
    load[9] = None
    return pl.DataFrame(
        {
            "x": 4.0 * centre + 0.1 * rng.normal(size=n),
            "y": -3.0 * centre + 0.1 * rng.normal(size=n),
            "load": load,
            "mode": modes.tolist(),
        }
    )


def read(frame: pl.DataFrame, **options: Any) -> tuple[Schema, Rows]:
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False, **options))
    return schema, schema.rows(Batch(frame, 1, "normal"))


@pytest.fixture(scope="module")
def table() -> tuple[Schema, Rows]:
    return read(mixed_table())


@pytest.fixture(scope="module")
def model(table: tuple[Schema, Rows]) -> FittedModel:
    return fit_rows(*table, CROSS, seed=SEED, false_alarm_rate=None, control=CONTROL)


def division(n: int = N, parameters: FlagshipParameters = CROSS) -> Division:
    """What a fit of these rows makes of them."""
    return _divide(n, parameters, seeded(SEED), None)


# --- Folds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "n_folds"), [(4, 5), (5, 5), (10, 2), (83, 5), (100, 7)])
def test_every_row_calibrates_once_and_is_left_out_by_one_member(n: int, n_folds: int) -> None:
    calibrating, fold = _folds(n, n_folds, 2000, seeded())
    assert calibrating.tolist() == list(range(n))
    sizes = np.bincount(fold, minlength=n_folds)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1
    parts = Division(n, n_folds, calibrating, fold)
    apart = [parts.left_out(k).tolist() for k in range(n_folds)]
    assert sorted(row for rows in apart for row in rows) == list(range(n))
    assert parts.trained.tolist() == list(range(n))


def test_folds_are_random_and_repeatable() -> None:
    first, again, other = (_folds(60, 5, 2000, seeded(s))[1] for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    # A row is as likely in one fold as in another: 1 000 draws, 5.5 standard deviations.
    places = [_folds(12, 4, 2000, seeded(s))[1][3] for s in range(1000)]
    counts = np.bincount(places, minlength=4)
    assert np.abs(counts - 250).max() < 5.5 * math.sqrt(1000 * 0.25 * 0.75)


def test_beyond_the_most_a_random_subset_calibrates_and_the_rest_is_seen_by_all() -> None:
    calibrating, fold = _folds(100, 5, 20, seeded())
    assert len(calibrating) == len(set(calibrating.tolist())) == 20
    assert (np.diff(calibrating) > 0).all()
    assert np.bincount(fold).tolist() == [4] * 5
    assert calibrating.tolist() != _folds(100, 5, 20, seeded(1))[0].tolist()
    parts = Division(100, 5, calibrating, fold)
    seen = [set(range(100)) - set(parts.left_out(k).tolist()) for k in range(5)]
    assert set(range(100)) - set(calibrating.tolist()) <= set.intersection(*seen)


@pytest.mark.parametrize("most", [50, 2000])
def test_each_group_gives_its_share_to_the_calibrating_rows_and_to_each_fold(most: int) -> None:
    groups = np.array(["a"] * 40 + ["b"] * 9 + ["c"] * 51, dtype=object)
    groups = groups[seeded(3).permutation(100)]
    calibrating, fold = _folds(100, 5, most, seeded(), groups)
    share = len(calibrating) / 100
    for name, n in Counter(groups.tolist()).items():
        own = fold[groups[calibrating] == name]
        assert abs(len(own) - share * n) < 1
        sizes = np.bincount(own, minlength=5)
        assert sizes.max() - sizes.min() <= 1


def test_a_member_never_draws_a_row_of_its_fold() -> None:
    parts = division()
    rows = torch.arange(float(N)).unsqueeze(1)
    sampler = parts.sampler(rows, torch.Generator().manual_seed(0))
    assert isinstance(sampler, FoldSampler)
    drawn = torch.cat([sampler.rows(40) for _ in range(200)], dim=1)  # [m, 8000, 1]
    assert drawn.shape == (5, 8000, 1)
    for k, own in enumerate(drawn[..., 0].long()):
        # All others are drawn: 8 000 draws miss one of 67 rows with probability 1e-50.
        assert set(own.tolist()) == set(range(N)) - set(parts.left_out(k).tolist())
    assert sampler.normal(3, 2).shape == (5, 3, 2)
    counts = torch.bincount(drawn[0, :, 0].long(), minlength=N).double()
    n_own = N - len(parts.left_out(0))
    deviation = math.sqrt(8000 / n_own)
    assert float((counts[counts > 0] - 8000 / n_own).abs().max()) < 6.0 * deviation


def test_networks_are_trained_by_that_sampler(
    table: tuple[Schema, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Tensor, Sequence[NDArray[np.int64]]]] = []

    class Watched(FoldSampler):
        def __init__(
            self, rows: Tensor, left_out: Sequence[NDArray[np.int64]], rng: torch.Generator
        ) -> None:
            made.append((rows.clone(), left_out))
            super().__init__(rows, left_out, rng)

    monkeypatch.setattr("anomgan.training.folds.FoldSampler", Watched)
    parameters = FlagshipParameters(**SMALL | {"n_steps": 1}, calibration="cross")
    fit = fit_rows(*table, parameters, seed=SEED, false_alarm_rate=None, control=CONTROL)
    ((rows, left_out),) = made
    assert torch.equal(rows, torch.from_numpy(fit.encoder.transform(table[1]).features))
    for k, own in enumerate(left_out):
        np.testing.assert_array_equal(own, division().left_out(k))


def test_what_a_member_never_saw_judges_it() -> None:
    parts = division()
    rows = torch.arange(float(N)).unsqueeze(1)
    unseen = _unseen(parts, rows[parts.calibrating])
    assert [own[:, 0].long().tolist() for own in unseen] == [
        parts.left_out(k).tolist() for k in range(5)
    ]
    held_out = np.array([1, 4, 7])
    both = _unseen(Division(9, 2, held_out), rows[held_out])
    assert [own[:, 0].tolist() for own in both] == [[1.0, 4.0, 7.0]] * 2


# --- Encoding a fold like new rows ----------------------------------------------------------


def test_a_state_that_others_lack_is_encoded_as_in_a_new_row() -> None:
    columns = {
        "x": [1.0, 2.0, None, 4.0, 5.0, 7.0],
        "y": [None, 2.0, 3.0, 4.0, None, 6.0],
        "m": ["a", "b", "a", "z", "", "b"],
    }
    schema, rows = read(pl.DataFrame(columns))
    encoder = FeatureEncoder.fit(schema, rows)
    own, others = take(rows, np.array([2, 3, 4])), take(rows, np.array([0, 1, 5]))
    plain, apart = encoder.transform(own), encoder.transform_apart(own, others)
    price = np.float32(math.log(7.0))
    # Row 2: x is missing here alone. Row 3: z. Row 4: an empty text; y is missing elsewhere too.
    expected = np.zeros((3, 3), dtype=np.float32)
    expected[0, 0] = expected[1, 2] = expected[2, 2] = price
    np.testing.assert_array_equal(apart.surprise, expected)
    assert not plain.surprise.any()
    # A new row of the same kind pays the same price.
    stranger = Rows(own.numeric[1:2], np.array([["new"]], dtype=object), None, 1)
    new = encoder.transform(stranger)
    np.testing.assert_array_equal(new.surprise[0], apart.surprise[1])
    np.testing.assert_array_equal(new.features[0], apart.features[1])
    # The missing cell is filled, and the indicator says nothing of it.
    full = Rows(own.numeric.copy(), own.categorical, None, 1)
    full.numeric[0, 0] = encoder.fill[0]
    np.testing.assert_allclose(apart.features[0], encoder.transform(full).features[0], rtol=1e-6)
    assert (apart.features[0] != plain.features[0]).any()


def test_states_that_others_have_too_are_encoded_as_ever(table: tuple[Schema, Rows]) -> None:
    schema, rows = table
    encoder = FeatureEncoder.fit(schema, rows)
    index = np.array([0, 1, 2, 3])
    others = take(rows, np.arange(4, N))
    plain = encoder.transform(take(rows, index))
    apart = encoder.transform_apart(take(rows, index), others)
    np.testing.assert_array_equal(apart.features, plain.features)
    np.testing.assert_array_equal(apart.surprise, plain.surprise)


# --- Calibration scores ---------------------------------------------------------------------


def out_of_bag(model: FittedModel, rows: Rows) -> tuple[NDArray[Any], NDArray[Any]]:
    """Score and L of every row by the member that never saw it, one row at a time.

    From the parts of the score, without its `member` and without the fitting code.
    """
    parts, score, settings = division(), model.score, model.score.settings
    memory = [tuple(row) for row in score.memory_rows.tolist()]
    everything = model.encoder.transform(rows).features
    scores, odds = np.empty(N), np.empty(N)
    for k in range(5):
        left_out = parts.left_out(k)
        others = take(rows, np.setdiff1d(np.arange(N), left_out))
        encoded = model.encoder.transform_apart(take(rows, left_out), others)
        for place, i in enumerate(left_out):
            x = torch.from_numpy(encoded.features[place : place + 1])
            own = torch.tensor([memory.index(tuple(everything[i].tolist()))])
            distance = float(score.memory.soft_distance(x, own)[0])
            every = x.unsqueeze(0).expand(5, -1, -1)
            energy = float(score.inversion()(every, score.encoder(every))[0][k])
            odds[i] = float(score.discriminator(every)[k, 0, 0])
            share, bound = settings.inversion_share, settings.discriminator_bound
            total = ((1 - share) * distance + share * energy) / (2 * settings.bandwidth**2)
            centred = min(max(odds[i] - settings.discriminator_median, -bound), bound)
            scores[i] = total + settings.discriminator_trust * (centred + bound) + 1.0
            scores[i] += encoded.surprise[place].sum()
    return scores, odds


def test_calibration_scores_are_those_of_the_member_that_never_saw_the_row(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    assert model.score.settings.discriminator_trust > 0.3  # else L would not count
    scores, odds = out_of_bag(model, table[1])
    np.testing.assert_allclose(model.calibrator.scores, np.sort(scores), rtol=1e-4)
    median = np.sort(odds)[(N - 1) // 2]
    assert model.score.settings.discriminator_median == pytest.approx(median, rel=1e-4, abs=1e-5)
    # By all members, most of which saw the row, scores are others.
    encoded = model.encoder.transform(table[1])
    by_all = model.score(torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise))
    assert not np.allclose(np.sort(by_all.score.numpy()), model.calibrator.scores, rtol=1e-2)


def test_a_category_and_a_gap_of_one_fold_alone_calibrate_as_surprises(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    """Rows 5 and 9: encoded as the full encoder does, the rare state would cost far more."""
    rows = table[1]
    scores, _ = out_of_bag(model, rows)
    price = math.log(N + 1.0)
    own, others = take(rows, np.array([5, 9])), np.setdiff1d(np.arange(N), [5, 9])
    encoded = model.encoder.transform_apart(own, take(rows, others))
    columns = [model.schema.feature_names.index(name) for name in ("mode", "load")]
    assert encoded.surprise[[0, 1], columns].tolist() == pytest.approx([price, price])
    # As training rows they would be 50 squared deviations from all others, by the rare feature.
    seen = model.encoder.transform(own).features
    assert ((seen - encoded.features) ** 2).sum(axis=1).min() > 40.0
    for i in (5, 9):
        assert scores[i] > price
        assert np.abs(model.calibrator.scores - scores[i]).min() < 1e-3 * scores[i]


def test_one_member_of_a_score_is_an_ensemble_of_one() -> None:
    score = tiny(4).score
    x = score.memory_rows[:20] + 0.3
    single = [score.member(k) for k in range(score.n_members)]
    assert [s.n_members for s in single] == [1, 1]
    mean = torch.stack([s.log_odds(x) for s in single]).mean(dim=0)
    torch.testing.assert_close(mean, score.log_odds(x))
    # The score is the mean of theirs where no bound cuts the log-odds off.
    wide = [
        replace(s, settings=replace(s.settings, discriminator_bound=1e3)) for s in [*single, score]
    ]
    *alone, together = (s.scores(x, torch.zeros(len(x), s.n_columns)) for s in wide)
    torch.testing.assert_close(torch.stack(alone).mean(dim=0), together)
    assert not torch.equal(single[0].log_odds(x), single[1].log_odds(x))
    assert single[0].settings == score.settings


# --- The whole model ------------------------------------------------------------------------


def test_the_model_says_how_it_is_calibrated(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    assert model.calibrator.n == model.facts["n_calibration"] == N
    assert model.facts["n_trained"] == model.facts["n_rows"] == N
    assert model.facts["calibration"] == model.parameters.calibration == "cross"
    assert model.parameters.n_members == model.score.n_members == 5
    assert model.health.facts["calibration_rows"] == N
    assert 0.0 < model.health.facts["coverage"] <= 1.0
    assert float(model.score.memory_counts.sum()) == N
    # 24 calibrating rows, 16 others and 8 broken ones; real rows and mixed ones.
    assert len(model.probe.numeric) == 48
    assert len(np.unique(model.probe.numeric[:40, 0])) == 40
    assert len(model.check.numeric) == 2 * N
    plain = FlagshipParameters(**SMALL)
    split = fit_rows(*table, plain, seed=SEED, false_alarm_rate=None, control=CONTROL)
    assert split.facts["calibration"] == split.parameters.calibration == "split"
    assert split.parameters.n_members == split.score.n_members == 2
    assert split.calibrator.n == 20


def test_most_calibration_rows_are_a_random_subset(table: tuple[Schema, Rows]) -> None:
    few = FlagshipParameters(**SMALL, calibration="cross", max_calibration_rows=30, n_members=3)
    model = fit_rows(*table, few, seed=SEED, false_alarm_rate=None, control=CONTROL)
    assert model.calibrator.n == model.facts["n_calibration"] == 30
    assert model.facts["n_trained"] == N
    assert model.score.n_members == 3


@pytest.mark.parametrize("n", [4, 5, 11])
def test_few_rows_are_enough(n: int) -> None:
    X = seeded().normal(size=(n, 3))
    detector = GANDetector(**SMALL, calibration="cross", random_state=0, device="cpu").fit(X)
    assert detector.model_.calibrator.n == n
    assert np.isfinite(detector.anomaly_score(X)).all()


def test_the_same_seed_gives_the_same_model_and_another_seed_another(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    again, other = (
        fit_rows(*table, CROSS, seed=s, false_alarm_rate=None, control=CONTROL)
        for s in (SEED, SEED + 1)
    )
    for name, tensor in model.score.tensors().items():
        assert torch.equal(tensor, again.score.tensors()[name]), name
    np.testing.assert_array_equal(model.calibrator.scores, again.calibrator.scores)
    assert not np.array_equal(model.calibrator.scores, other.calibrator.scores)


def test_groups_have_all_of_their_rows_to_calibrate_with() -> None:
    frame = mixed_table(300).with_columns(mode=pl.Series(["a", "b", "c"] * 100))
    detector = GANDetector(
        **SMALL,
        calibration="cross",
        calibrate_by="mode",
        false_alarm_rate=0.05,
        random_state=0,
        device="cpu",
    ).fit(frame)
    calibrator = detector.model_.calibrator
    assert {name: own.n for name, own in calibrator.groups.items()} == dict.fromkeys("abc", 100)
    assert calibrator.n == 300
    whole = np.sort(np.concatenate([own.scores for own in calibrator.groups.values()]))
    np.testing.assert_array_equal(whole, calibrator.scores)
    assert set(detector.group_thresholds_) == set("abc")


def test_a_rate_is_refused_by_the_rows_that_calibrate() -> None:
    X = seeded().normal(size=(30, 2))
    endless = SMALL | {"n_steps": 10**9, "random_state": 0}
    with pytest.raises(UsageError, match="calibration rows"):
        GANDetector(**endless, false_alarm_rate=0.1).fit(X)  # 7 are held out
    common = SMALL | {"false_alarm_rate": 0.1, "random_state": 0, "device": "cpu"}
    detector = GANDetector(**common, calibration="cross").fit(X)
    assert detector.model_.calibrator.n == 30
    assert detector.model_.calibrator.false_alarm_rate == 0.1


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"calibration": "none"}, "calibration is 'none', it must be one of 'split', 'cross'"),
        (
            {"calibration": "cross", "n_members": 1},
            'n_members is 1, with calibration "cross" it must be at least 2',
        ),
    ],
)
def test_bad_parameters_are_told(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FlagshipParameters(**parameters)
    with pytest.raises(UsageError, match=message):
        GANDetector(**parameters).fit(seeded().normal(size=(50, 2)))


def test_members_left_open_follow_the_calibration() -> None:
    assert FlagshipParameters().members == 2
    assert FlagshipParameters(calibration="cross").members == 5
    assert FlagshipParameters(calibration="cross", n_members=3).members == 3
    assert FlagshipParameters(n_members=7).members == 7


# --- Keeping and going on -------------------------------------------------------------------


def test_a_checkpoint_is_of_its_calibration_and_its_folds() -> None:
    features = torch.zeros(20, 2)
    prints = set()
    for parameters in (FlagshipParameters(n_members=5), CROSS):
        for seed in (0, 1):
            parts = _divide(20, parameters, seeded(seed), None)
            prints.add(_fingerprint(features, parts, parameters, 0))
    assert len(prints) == 4


def test_interrupted_and_resumed_gives_the_same_model(tmp_path: Path) -> None:
    frame = mixed_table()
    arguments: dict[str, Any] = {"options": SchemaOptions(), "source": "normal.csv"}
    parameters = SMALL | {
        "n_steps": 120,
        "random_state": 3,
        "device": "cpu",
        "calibration": "cross",
    }
    whole = tmp_path / "whole"
    fit_table(frame, parameters=parameters, output=whole, **arguments)

    def stop(step: int, total: int, facts: object) -> None:
        import os
        import signal

        if step >= 1:
            os.kill(os.getpid(), signal.SIGINT)

    resumed = tmp_path / "resumed"
    with pytest.raises(TrainingInterrupted):
        fit_table(frame, parameters=parameters, output=resumed, progress=stop, **arguments)
    other = parameters | {"calibration": "split", "n_members": 5}
    with pytest.raises(UsageError, match="made with other rows or parameters"):
        fit_table(frame, parameters=other, output=resumed, resume=True, **arguments)
    fit_table(frame, parameters=parameters, output=resumed, resume=True, **arguments)
    first, second = load_fitted(whole), load_fitted(resumed)
    for name, tensor in first.score.tensors().items():
        assert torch.equal(tensor, second.score.tensors()[name]), name
    np.testing.assert_array_equal(first.calibrator.scores, second.calibrator.scores)


def test_a_saved_model_says_and_restores_its_calibration(tmp_path: Path) -> None:
    frame = mixed_table()
    detector = GANDetector(**SMALL, calibration="cross", random_state=0, device="cpu").fit(frame)
    detector.save(tmp_path / "model")
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["parameters"]["calibration"] == "cross"
    assert manifest["parameters"]["n_members"] == 5
    assert manifest["training"]["calibration"] == "cross"
    assert manifest["training"]["n_calibration"] == manifest["calibration"]["n"] == N
    loaded = GANDetector.load(tmp_path / "model")
    assert loaded.calibration == "cross"
    assert loaded.n_members == 5
    np.testing.assert_array_equal(loaded.anomaly_score(frame), detector.anomaly_score(frame))
    np.testing.assert_array_equal(loaded.p_values(frame), detector.p_values(frame))


def test_a_model_of_before_is_one_of_split(tmp_path: Path) -> None:
    detector = GANDetector(**SMALL, random_state=0, device="cpu").fit(seeded().normal(size=(60, 2)))
    detector.save(tmp_path / "model")
    path = tmp_path / "model" / "manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["parameters"].pop("calibration") == "split"
    del manifest["training"]["calibration"]
    path.write_text(json.dumps(manifest))
    loaded = GANDetector.load(tmp_path / "model")
    assert loaded.calibration == "split"
    assert loaded.n_members == 2


def test_folds_too_small_to_judge_a_generator_are_named(table: tuple[Schema, Rows]) -> None:
    schema, rows = table
    few = take(rows, np.arange(24))  # five folds of four or five rows
    model = fit_rows(schema, few, CROSS, seed=SEED, false_alarm_rate=None, control=CONTROL)
    assert "coverage" not in model.health.facts
    assert "too few held-out rows to judge the generators" in str(model.health)
