"""Between table and score: known rows, their scale, calibration, and the rows of the check."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from tiny_flagship import fitted, ring
from torch import Tensor

from anomgan.detectors.anomgan import NoiseScale, noise_scale
from anomgan.fitting import (
    FitControl,
    FittedModel,
    _check_rows,
    _probe_rows,
    _split,
    fit_rows,
    take,
)
from anomgan.learning import (
    _covariance_root,
    distinct_rows,
    gaussian_distance,
    generator_facts,
    nearest_distances,
)
from anomgan.presets import FlagshipParameters
from anomgan.scoring.memory import Memory
from anomgan.tables import Batch, Rows, Schema, SchemaOptions
from anomgan.training.folds import Division
from anomgan.training.loop import Sampler


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))


# --- Distinct rows --------------------------------------------------------------------------


def test_distinct_rows_are_counted_and_found() -> None:
    features = tensor(seeded().integers(0, 3, size=(60, 3)))
    rows, counts, place = distinct_rows(features, 100, seeded())
    listed = [tuple(row) for row in features.tolist()]
    assert [tuple(row) for row in rows.tolist()] == sorted(set(listed))
    assert counts.tolist() == [float(listed.count(tuple(row))) for row in rows.tolist()]
    assert rows.dtype == counts.dtype == torch.float32
    assert place.dtype == torch.int64
    assert torch.equal(rows[place], features)


@pytest.mark.parametrize("size", [2, 7, 19])
def test_rows_beyond_the_size_are_not_kept(size: int) -> None:
    features = tensor(seeded().normal(size=(20, 2))).repeat_interleave(2, dim=0)[:-1]
    rows, counts, place = distinct_rows(features, size, seeded(1))
    assert len(rows) == len(counts) == size
    kept = place >= 0
    assert set(place[~kept].tolist()) == {-1}
    assert torch.equal(rows[place[kept]], features[kept])
    # All copies of a kept row are found, and counted.
    assert torch.bincount(place[kept], minlength=size).tolist() == counts.tolist()
    other = distinct_rows(features, size, seeded(2))[0]
    assert not torch.equal(other, rows)
    assert torch.equal(distinct_rows(features, size, seeded(1))[0], rows)


def test_as_many_distinct_rows_as_the_size_are_all_kept() -> None:
    features = tensor(seeded().normal(size=(20, 2)))
    assert bool((distinct_rows(features, 20, seeded())[2] >= 0).all())


# --- Looseness ------------------------------------------------------------------------------


def test_root_gives_back_the_covariance() -> None:
    mixing = seeded(1).normal(size=(3, 3))
    rows = tensor(seeded().exponential(size=(2000, 3)) @ mixing + 50.0)
    root = _covariance_root(rows)
    np.testing.assert_allclose(root, root.T, atol=1e-12)
    np.testing.assert_allclose(root @ root, np.cov(rows.double().numpy().T), rtol=1e-6, atol=1e-9)


def test_root_of_a_plane_stays_in_the_plane() -> None:
    rows = tensor(seeded().normal(size=(200, 2)) @ np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]))
    normal = torch.tensor([2.0, -1.0, 1.0], dtype=torch.float64)
    assert float((_covariance_root(rows) @ normal).norm()) < 1e-3
    assert not _covariance_root(torch.full((4, 3), 7.0)).any()


def testgaussian_distance_is_that_of_a_gaussian() -> None:
    rows = tensor(seeded().normal(size=(500, 3)) @ seeded(1).normal(size=(3, 3)))
    expected = float(nearest_distances(rows, seeded()).median())
    assert gaussian_distance(rows, seeded(2)) == pytest.approx(expected, rel=0.1)
    draws = [gaussian_distance(rows[:40], seeded(i)) for i in range(8)]
    assert np.std(draws) / np.mean(draws) < 0.03  # one draw of 40 rows: about 0.1


@pytest.mark.parametrize("broken", [50.0, 1e6])
def test_one_broken_cell_does_not_change_the_regime(broken: float) -> None:
    rows = tensor(seeded().normal(size=(400, 5)))
    whole = scale_of(rows).smoothness
    rows[7, 2] = broken
    assert scale_of(rows).smoothness == pytest.approx(whole, abs=0.2)
    assert whole > 0.8


@pytest.mark.parametrize("stray", [1e2, 1e6])
def test_a_stray_row_among_equal_ones_stretches_no_kernel_without_end(stray: float) -> None:
    rows = torch.zeros(2, 2)
    rows[1, 0] = stray
    scale = noise_scale(nearest_distances(rows, seeded()), 1.0, 2, repeated_share=0.99)
    assert scale.kernel_width <= 3.0
    memory = Memory(rows, torch.tensor([99.0, 1.0]), scale.kernel_width).with_peak()
    near, far = memory.soft_distance(torch.tensor([[1.0, 0.0], [9.0, 0.0]]))[0].tolist()
    assert 0.0 < near < far


def testnearest_distances_are_those_to_the_nearest_other_row() -> None:
    rows = tensor(seeded().normal(size=(300, 4)))
    gaps = (rows.double().unsqueeze(1) - rows.double()).norm(dim=2)
    gaps.fill_diagonal_(torch.inf)
    found = nearest_distances(rows, seeded(1))
    torch.testing.assert_close(found, gaps.min(dim=1).values)
    assert nearest_distances(rows[:1], seeded()).tolist() == [1.0]
    assert len(nearest_distances(tensor(seeded().normal(size=(3000, 2))), seeded())) == 2048


def scale_of(rows: Tensor) -> NoiseScale:
    distances, reference = nearest_distances(rows, seeded(1)), gaussian_distance(rows, seeded(2))
    return noise_scale(distances, reference, rows.shape[1])


@pytest.mark.parametrize("d", [1, 3, 10])
def test_gaussian_rows_are_loose(d: int) -> None:
    mixing = seeded(d).normal(size=(d, d))
    scale = scale_of(tensor(seeded().normal(size=(2000, d)) @ mixing))
    # A median of 2 000 nearest distances varies by 2 % and, on a line, by 4 %.
    assert scale.looseness == pytest.approx(1.0, abs=0.15)
    assert scale.smoothness > 0.6


def test_clusters_and_curves_are_not_loose() -> None:
    clusters = ring(1000, spread=0.02)
    curve = ring(1000, modes=10**6, spread=0.0)
    for rows in (clusters, curve):
        scale = scale_of(rows)
        assert scale.looseness < 0.35
        assert scale.smoothness == 0.0
        assert scale.kernel_width == max(0.01, scale.spacing)


def test_looseness_knows_no_unit() -> None:
    rows = ring(400, spread=0.3)
    one, other = scale_of(rows), scale_of(1000.0 * rows)
    assert other.looseness == pytest.approx(one.looseness, rel=1e-4)
    assert other.spacing == pytest.approx(1000.0 * one.spacing, rel=1e-4)


# --- Calibration ----------------------------------------------------------------------------

N, D, SEED = 400, 3, 5


def normal_rows(n: int, seed: int) -> np.ndarray:
    rng = seeded(seed)
    centres = 3.0 * seeded(99).normal(size=(4, D))
    return centres[rng.integers(4, size=n)] + 0.3 * rng.normal(size=(n, D))


@pytest.fixture(scope="module")
def table() -> tuple[Schema, Rows]:
    """Clustered rows, a tenth of them twice."""
    values = normal_rows(N, 0)
    values[: N // 10] = values[-N // 10 :]
    frame = pl.DataFrame(values, schema=[f"x{i}" for i in range(D)])
    schema = Schema.infer(frame, SchemaOptions(detect_set_aside=False))
    return schema, schema.rows(Batch(frame, 1, "normal"))


@pytest.fixture(scope="module", params=[100, 8192])
def model(request: pytest.FixtureRequest, table: tuple[Schema, Rows]) -> FittedModel:
    """Fitted with a part of the rows in memory, or with all of them."""
    parameters = FlagshipParameters(
        n_steps=60,
        batch_rows=32,
        generator_width=16,
        discriminator_width=16,
        memory_size=request.param,
    )
    control = FitControl(device="cpu")
    return fit_rows(*table, parameters, seed=SEED, false_alarm_rate=None, control=control)


def scores(model: FittedModel, rows: Rows, *, left_out: bool) -> np.ndarray:
    """Scores of rows; those that stand in memory left out of it, or not."""
    encoded = model.encoder.transform(rows)
    features, surprise = torch.from_numpy(encoded.features), torch.from_numpy(encoded.surprise)
    known = [tuple(row) for row in model.score.memory_rows.tolist()]
    own = None
    if left_out:
        places = {row: i for i, row in enumerate(known)}
        own = torch.tensor([places.get(tuple(row), -1) for row in features.tolist()])
    return model.score(features, surprise, own).score.numpy()


def split(model: FittedModel) -> tuple[np.ndarray, np.ndarray]:
    """The rows that the networks saw, and those held out."""
    return _split(N, model.parameters.max_calibration_rows, seeded(SEED))


def test_all_rows_are_in_memory_the_held_out_ones_too(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    features = torch.from_numpy(model.encoder.transform(table[1]).features)
    n_distinct = len(torch.unique(features, dim=0))
    size = model.parameters.memory_size
    assert n_distinct == N - N // 10
    assert len(model.score.memory_rows) == min(size, n_distinct) == model.facts["n_memory"]
    if size >= n_distinct:
        assert float(model.score.memory_counts.sum()) == N
    known = {tuple(row) for row in model.score.memory_rows.tolist()}
    assert known <= {tuple(row) for row in features.tolist()}
    held_out = split(model)[1]
    assert known & {tuple(row) for row in features[held_out].tolist()}
    assert model.facts["n_trained"] == N - len(held_out)
    assert model.facts["n_calibration"] == len(held_out) == model.calibrator.n


def test_networks_are_trained_on_the_other_rows_only(
    table: tuple[Schema, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    class Watched(Sampler):
        def __init__(self, rows: Tensor, n_members: int, rng: torch.Generator) -> None:
            seen.append(rows.clone())
            super().__init__(rows, n_members, rng)

    monkeypatch.setattr("anomgan.training.folds.Sampler", Watched)
    parameters = FlagshipParameters(
        n_steps=1, batch_rows=8, generator_width=4, discriminator_width=4
    )
    control = FitControl(device="cpu")
    model = fit_rows(*table, parameters, seed=SEED, false_alarm_rate=None, control=control)
    known, _ = split(model)
    (rows,) = seen
    assert torch.equal(rows, torch.from_numpy(model.encoder.transform(table[1]).features[known]))


def test_calibration_rows_are_scored_leaving_themselves_out(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    held_out = take(table[1], split(model)[1])
    left_out = scores(model, held_out, left_out=True)
    np.testing.assert_array_equal(np.sort(left_out), model.calibrator.scores)
    inside = scores(model, held_out, left_out=False)
    assert (inside <= left_out).all()
    assert (inside < left_out).mean() > (0.9 if model.parameters.memory_size > N else 0.1)


def test_new_rows_and_left_out_known_rows_look_like_calibration_rows(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    """Neither all small (memory would know the calibration rows) nor all large."""
    schema, rows = table
    frame = pl.DataFrame(normal_rows(2000, 1), schema=[c.name for c in schema.columns])
    new = scores(model, schema.rows(Batch(frame, 1, "new")), left_out=False)
    known = scores(model, take(rows, split(model)[0]), left_out=True)
    # 100 calibration rows put the median of the others within 0.5 +- 0.2 (four deviations).
    assert np.median(model.calibrator.p_values(new)) == pytest.approx(0.5, abs=0.2)
    assert np.median(model.calibrator.p_values(known)) == pytest.approx(0.5, abs=0.2)


def test_median_of_the_discriminator_is_that_of_the_held_out_rows(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    held_out = model.encoder.transform(take(table[1], split(model)[1])).features
    odds = model.score.log_odds(torch.from_numpy(held_out))
    expected = float(odds.sort().values[(len(odds) - 1) // 2])
    assert model.score.settings.discriminator_median == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert float(odds.std()) > 1e-3


def test_scale_and_peak_reach_the_score(model: FittedModel) -> None:
    noise, settings, score = model.facts["noise"], model.score.settings, model.score
    scale = NoiseScale(noise["spacing"], noise["looseness"])
    assert noise["looseness"] < 0.95
    assert settings.kernel_width == noise["kernel_width"] == scale.kernel_width
    assert settings.bandwidth == noise["bandwidth"] == scale.bandwidth
    assert noise["read_level"] == scale.read_level
    assert settings.discriminator_trust == 1.0 - scale.smoothness
    assert settings.inversion_share == model.parameters.inversion_share
    peak = Memory(score.memory_rows, score.memory_counts, scale.kernel_width).with_peak().peak
    assert settings.kernel_peak == pytest.approx(peak, abs=1e-6)


def test_gaussian_rows_leave_no_trust_in_the_discriminator() -> None:
    """Where rows have no fine structure, the network would only follow the sample."""
    model = fitted(4)
    assert model.facts["noise"]["looseness"] > 0.9
    assert model.score.settings.discriminator_trust < 0.3


# --- Rows on which an export is checked -----------------------------------------------------


def numbered(n: int, n_numeric: int = 3, n_categorical: int = 2) -> Rows:
    """Rows whose cells tell row and column."""
    numeric = np.array([[i + j / 10 for j in range(n_numeric)] for i in range(n)])
    cells = [[f"{i}/{j}" for j in range(n_categorical)] for i in range(n)]
    categorical = np.array(cells, dtype=object).reshape(n, n_categorical)
    return Rows(numeric.reshape(n, n_numeric), categorical, None, 1)


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (40, 40), (1000, 1000), (2500, 1000)])
def test_check_rows_are_half_real_and_half_mixed(n: int, expected: int) -> None:
    rows = numbered(n)
    check = _check_rows(rows, seeded())
    assert len(check.numeric) == len(check.categorical) == 2 * expected
    assert check.numeric.dtype == rows.numeric.dtype
    assert check.categorical.dtype == rows.categorical.dtype
    assert check.ids is None
    columns = np.arange(3) / 10
    origin = np.concatenate(
        [
            np.rint(check.numeric - columns).astype(int),
            np.array([[int(cell.split("/")[0]) for cell in row] for row in check.categorical]),
        ],
        axis=1,
    )
    np.testing.assert_allclose(check.numeric - columns, origin[:, :3], atol=1e-9)
    assert [[cell.split("/")[1] for cell in row] for row in check.categorical[:5]] == [
        ["0", "1"]
    ] * min(5, 2 * expected)
    real, mixed = origin[:expected], origin[expected:]
    assert (real == real[:, :1]).all()
    sources = [set(row) for row in mixed]
    assert max(len(s) for s in sources) <= 2
    if n >= 40:
        # A row is whole if all five coins fall alike (1 in 16) or both draws are one row.
        assert 0.8 < np.mean([len(s) == 2 for s in sources]) < 1.0
        from_first = mixed == real[:, :1]
        assert 0.35 < from_first.mean() < 0.65
        assert len(set(real[:, 0])) > 0.5 * expected


@pytest.mark.parametrize(("n_numeric", "n_categorical"), [(3, 0), (0, 2)])
def test_check_rows_of_one_kind(n_numeric: int, n_categorical: int) -> None:
    check = _check_rows(numbered(10, n_numeric, n_categorical), seeded())
    assert check.numeric.shape == (20, n_numeric)
    assert check.categorical.shape == (20, n_categorical)


def test_check_rows_of_a_model_are_mixed_from_its_rows(
    model: FittedModel, table: tuple[Schema, Rows]
) -> None:
    known = {tuple(row) for row in table[1].numeric.tolist()}
    stands = [tuple(row) in known for row in model.check.numeric.tolist()]
    assert len(stands) == 2 * N
    assert all(stands[:N])
    assert np.mean(stands[N:]) < 0.5


# --- Rows stored with a model ---------------------------------------------------------------


@pytest.mark.parametrize(("n_columns", "cut"), [(3, False), (1_500, True)])
def test_probe_rows_of_many_long_texts_are_cut_to_what_is_read_again(
    n_columns: int, cut: bool
) -> None:
    n, longest = 60, 1_000  # the longest text that is a category
    categorical = np.full((n, n_columns), "t" * longest, dtype=object)
    categorical[:, 0] = [f"short {i}" for i in range(n)]
    rows = Rows(np.arange(float(n)).reshape(n, 1), categorical, None, 1)
    probe = _probe_rows(rows, Division(n, 1, np.arange(0, n, 2)))
    assert len(probe.numeric) == 48
    assert probe.categorical.astype(np.str_).nbytes <= 2**26
    origin = probe.numeric[:40, 0].astype(int)
    assert probe.categorical[:40, 0].tolist() == [f"short {i}" for i in origin]
    lengths = {len(cell) for cell in probe.categorical[:40, 1:].flat}
    assert lengths == {2**26 // (48 * n_columns * 4) if cut else longest}
    assert "\u2205 never seen" in probe.categorical
    assert set(rows.categorical[:, 1]) == {"t" * longest}  # the table is not changed


# --- How good the generators are ---------------------------------------------------------------


def test_the_weakest_generator_decides_and_few_rows_judge_none() -> None:
    real, good, poor = ring(200), ring(200, seed=1), ring(200, seed=2, modes=1)
    facts = generator_facts([real, real], torch.stack([good, poor]))
    alone = generator_facts([real], poor.unsqueeze(0))
    better = generator_facts([real], good.unsqueeze(0))
    # A generator of one mode makes no row that looks wrong: in precision it is not the weakest.
    assert facts | {"precision": 0.0} == alone | {"precision": 0.0}
    assert facts["precision"] == min(alone["precision"], better["precision"])
    assert better["coverage"] > 0.9 > 0.3 > facts["coverage"]
    assert better["recall"] > facts["recall"]
    assert better["frechet_distance"] < 0.1 < facts["frechet_distance"]
    assert better["sliced_wasserstein"] < 0.2 < facts["sliced_wasserstein"]
    assert generator_facts([real[:9]], good.unsqueeze(0)) == {}
    broken = generator_facts([real], torch.full((1, 200, 2), torch.nan))
    assert broken["coverage"] == 0.0
    assert "frechet_distance" not in broken


def test_a_model_keeps_how_good_its_generators_are() -> None:
    facts = fitted().health.facts
    assert {"coverage", "recall", "frechet_distance", "sliced_wasserstein"} <= set(facts)
