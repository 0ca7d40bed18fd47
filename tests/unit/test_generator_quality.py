"""Measures of generated rows against loops and known answers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import oracle_generator_quality as oracle
import pytest
import torch
from tiny_flagship import SCALE, ring, tiny_game, tiny_plan
from torch import Tensor

from anomgan.detectors.anomgan import FlagshipGame, GameWeights
from anomgan.errors import UsageError
from anomgan.evaluation.generator_quality import (
    GeneratorQuality,
    coverage,
    frechet_distance,
    inception_score,
    judge_generator,
    lerp,
    mixture_classes,
    path_length,
    precision,
    recall,
    slerp,
    sliced_wasserstein,
    two_sample_accuracy,
)
from anomgan.nets.tabular import TabularNetworks, TabularSizes
from anomgan.training.loop import Sampler, Trainer
from anomgan.training.objectives import RelativisticPairing


def draw(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def exactly(rows: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Rows moved and stretched so that their mean and covariance are exactly these."""
    centred = rows - rows.mean(dim=0)
    found = torch.linalg.cholesky(centred.T @ centred / (len(rows) - 1))
    white = torch.linalg.solve_triangular(found, centred.T, upper=False)
    return (torch.linalg.cholesky(covariance) @ white).T + mean


# --- Frechet distance -----------------------------------------------------------------------


@pytest.mark.parametrize(("n", "g", "d"), [(30, 40, 3), (12, 50, 1), (60, 25, 5)])
def test_frechet_distance_equals_the_formula_in_loops(n: int, g: int, d: int) -> None:
    real, generated = draw(n, d) @ draw(d, d, seed=2), 0.7 * draw(g, d, seed=1) + 0.4
    expected = oracle.frechet_distance(real.tolist(), generated.tolist())
    assert frechet_distance(real, generated) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_gaussians_of_known_moments() -> None:
    """Diagonal covariances: the gap of means and of standard deviations, squared."""
    one = exactly(
        draw(50, 3), torch.tensor([0.0, 1.0, -2.0]), torch.diag(torch.tensor([1, 4, 9.0])).double()
    )
    other = exactly(
        draw(80, 3, seed=1),
        torch.tensor([3.0, 1.0, 0.0]),
        torch.diag(torch.tensor([4, 4, 0.25])).double(),
    )
    expected = (9 + 0 + 4) + (1 + 0 + 2.5**2)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    """In the plane tr(C^(1/2)) is sqrt(tr C + 2 sqrt(det C)), here of C_r C_g."""
    a = torch.tensor([[2.0, 0.6], [0.6, 1.0]]).double()
    b = torch.tensor([[1.0, -0.9], [-0.9, 3.0]]).double()
    root = math.sqrt(float((a @ b).trace()) + 2.0 * math.sqrt(float((a @ b).det())))
    expected = float(a.trace() + b.trace()) - 2.0 * root
    rows = [exactly(draw(40, 2, seed=s), torch.zeros(2), c) for s, c in enumerate((a, b))]
    assert frechet_distance(*rows) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_identical_and_of_degenerate_rows() -> None:
    rows = draw(30, 40)  # more columns than rows: singular covariances
    assert frechet_distance(rows, rows) == pytest.approx(0.0, abs=1e-6)
    assert frechet_distance(rows, rows.flip(0) + 2.0) == pytest.approx(160.0, rel=1e-6)
    point = torch.zeros(5, 40)
    expected = float(rows.mean(dim=0).square().sum() + rows.var(dim=0).sum())
    assert frechet_distance(rows, point) == pytest.approx(expected)


def test_frechet_distance_between_samples_of_one_distribution_is_as_told() -> None:
    d, n, g = 4, 200, 300
    found = [frechet_distance(draw(n, d, seed=s), draw(g, d, seed=s + 900)) for s in range(150)]
    assert np.mean(found) == pytest.approx(d * (d + 5) / 4 * (1 / n + 1 / g), rel=0.1)


# --- Inception score ------------------------------------------------------------------------


def test_inception_score_equals_the_formula_in_loops() -> None:
    p = draw(40, 5).softmax(dim=1)
    assert inception_score(p) == pytest.approx(oracle.inception_score(p.tolist()), rel=1e-12)


def test_inception_score_lies_between_one_and_the_number_of_classes() -> None:
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7.0)
    assert inception_score(torch.eye(7)[:1].repeat(9, 1)) == pytest.approx(1.0)
    assert inception_score(torch.full((9, 7), 1 / 7)) == pytest.approx(1.0, abs=1e-6)
    assert inception_score(torch.eye(7)[[0, 3, 0, 3]]) == pytest.approx(2.0)


def test_mixture_of_the_ring_counts_the_modes_that_are_reached() -> None:
    classify = mixture_classes(ring(800), n_classes=8)
    for modes in (1, 2, 4, 8):
        score = inception_score(classify(ring(400, seed=1, modes=modes)))
        assert score == pytest.approx(modes, rel=0.02)
    few = mixture_classes(torch.tensor([[0.0], [1.0], [1.0]]), n_classes=10)
    assert few(torch.zeros(4, 1)).shape == (4, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        torch.ones(3),
        torch.ones(0, 2),
        torch.ones(3, 2),
        torch.tensor([[1.5, -0.5]]),
        torch.tensor([[torch.nan, 1.0]]),
    ],
)
def test_what_is_no_probability_is_refused(wrong: Tensor) -> None:
    with pytest.raises(UsageError, match="sum to 1 in each row; got shape"):
        inception_score(wrong)


# --- Recall ---------------------------------------------------------------------------------


def test_recall_is_precision_with_the_roles_swapped() -> None:
    real, generated = ring(300), ring(200, seed=1, modes=2)
    assert recall(real, generated) == precision(generated, real)
    assert recall(real, generated) == pytest.approx(1 / 4, abs=0.08)
    assert precision(real, generated) > 0.9
    assert recall(real, torch.zeros(50, 2)) == 0.0


# --- Sliced Wasserstein distance ------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "g", "d", "order"), [(9, 9, 3, 2.0), (10, 4, 2, 1.0), (7, 11, 1, 2.0), (6, 15, 4, 3.0)]
)
def test_sliced_wasserstein_equals_moving_mass_in_loops(
    n: int, g: int, d: int, order: float
) -> None:
    real, generated = draw(n, d), 1.5 * draw(g, d, seed=1) + 0.2
    rng = torch.Generator().manual_seed(5)
    directions = torch.randn(6, d, generator=rng, dtype=torch.float64).tolist()
    expected = oracle.sliced_wasserstein(real.tolist(), generated.tolist(), directions, order)
    found = sliced_wasserstein(real, generated, n_projections=6, order=order, seed=5)
    assert found == pytest.approx(expected, rel=1e-9)


def test_sliced_wasserstein_of_a_shift() -> None:
    rows, shift = draw(50, 6), torch.tensor([1.0, -2.0, 0.0, 0.5, 0.0, 3.0])
    found = sliced_wasserstein(rows, (rows + shift).flip(0), n_projections=20_000)
    assert found == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=0.02)
    line = rows[:, :1]
    for order in (1.0, 2.0, 4.0):
        assert sliced_wasserstein(line, line + 2.5, order=order) == pytest.approx(2.5)


def test_sliced_wasserstein_of_identical_rows_and_by_seed() -> None:
    rows, other = draw(40, 3), draw(40, 3, seed=1)
    assert sliced_wasserstein(rows, rows.flip(0)) == 0.0
    assert sliced_wasserstein(rows, rows.repeat(3, 1)) == pytest.approx(0.0, abs=1e-9)
    assert sliced_wasserstein(rows, other) == sliced_wasserstein(rows, other)
    assert sliced_wasserstein(rows, other) != sliced_wasserstein(rows, other, seed=1)
    assert sliced_wasserstein(rows, other) == pytest.approx(sliced_wasserstein(other, rows))


@pytest.mark.parametrize(
    ("real", "generated"),
    [
        (torch.zeros(3), torch.zeros(3)),
        (torch.zeros(3, 2), torch.zeros(3, 1)),
        (torch.zeros(3, 2), torch.zeros(0, 2)),
        (torch.zeros(3, 2), torch.full((3, 2), torch.inf)),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(real: Tensor, generated: Tensor) -> None:
    for measure in (frechet_distance, sliced_wasserstein):
        with pytest.raises(UsageError):
            measure(real, generated)


def test_wrong_settings_are_refused() -> None:
    rows = draw(5, 2)
    with pytest.raises(UsageError, match=r"order must be 1 or more .* got 0\.5 and 128"):
        sliced_wasserstein(rows, rows, order=0.5)
    with pytest.raises(UsageError, match="epsilon must lie between 0 and 1"):
        path_length(lambda codes: codes, latent_dim=2, epsilon=0.0)
    with pytest.raises(UsageError, match=r"real rows must be \[n, d\] or \[2, n, d\]"):
        judge_generator(rows.expand(3, 5, 2), lambda codes: codes, latent_dim=2, n_members=2)


# --- Interpolation and path length ----------------------------------------------------------


def test_paths_begin_and_end_where_they_should_and_equal_loops() -> None:
    a, b = draw(7, 4), draw(7, 4, seed=1)
    for along, twin in ((lerp, oracle.lerp), (slerp, oracle.slerp)):
        torch.testing.assert_close(along(a, b, torch.zeros(7)), a)
        torch.testing.assert_close(along(a, b, torch.ones(7)), b)
        t = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
        expected = [twin(*pair) for pair in zip(a.tolist(), b.tolist(), t.tolist(), strict=True)]
        np.testing.assert_allclose(along(a, b, t).numpy(), expected, rtol=1e-9)


def test_arc_stays_on_the_sphere_and_the_line_cuts_it() -> None:
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    half = torch.tensor(0.5)
    assert float(slerp(a, b, half).norm()) == pytest.approx(2.0)
    assert float(lerp(a, b, half).norm()) == pytest.approx(math.sqrt(2.0))


@pytest.mark.parametrize("end", [[2.0, 2.0], [-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
def test_arc_between_codes_on_one_line_is_that_line(end: list[float]) -> None:
    a, b, t = torch.ones(2), torch.tensor(end), torch.tensor(0.3)
    torch.testing.assert_close(slerp(a, b, t), lerp(a, b, t))


def test_path_length_of_a_linear_generator_in_closed_form() -> None:
    """On a line rows move by eps A (b - a): twice the squared norm of A on average."""
    matrices = torch.stack([draw(3, 5), 2.0 * draw(3, 5, seed=1)])  # [m, k, d]
    lengths = path_length(
        lambda codes: codes.double() @ matrices + 7.0,
        latent_dim=3,
        n_members=2,
        path="lerp",
        n_paths=40_000,
        epsilon=1e-2,
    )
    expected = (2.0 * matrices.square().sum(dim=(1, 2))).tolist()
    assert lengths == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("path", ["lerp", "slerp"])
def test_path_length_equals_loops(path: str) -> None:
    matrix, n, epsilon = draw(3, 4).float(), 12, 1e-2
    rng = torch.Generator().manual_seed(3)
    ends = torch.randn(2, n, 3, generator=rng).tolist()
    places = ((1.0 - epsilon) * torch.rand(n, generator=rng)).tolist()
    columns = matrix.T.tolist()

    def generate(code: list[float]) -> list[float]:
        return [
            math.tanh(math.fsum(c * w for c, w in zip(code, column, strict=True)))
            for column in columns
        ]

    expected = oracle.path_length(generate, *ends, places, epsilon, getattr(oracle, path))
    settings = {"latent_dim": 3, "path": path, "n_paths": n, "epsilon": epsilon, "seed": 3}
    found = path_length(lambda codes: torch.tanh(codes @ matrix), **settings)  # type: ignore[arg-type]
    assert found == pytest.approx([expected], rel=1e-3)
    in_features = path_length(
        lambda codes: torch.tanh(codes @ matrix),
        features=lambda rows: 3.0 * rows,
        **settings,  # type: ignore[arg-type]
    )
    assert in_features == pytest.approx([9.0 * expected], rel=1e-3)


def test_path_length_of_a_constant_generator_is_nothing() -> None:
    assert path_length(lambda codes: torch.ones(*codes.shape[:2], 3), latent_dim=4) == [0.0]


# --- All together ---------------------------------------------------------------------------


def test_each_member_is_judged_by_its_own_generator() -> None:
    real = ring(120)

    def generate(codes: Tensor) -> Tensor:
        """The first member gives back the rows themselves, the second a single point."""
        n = codes.shape[1]
        return torch.stack([real.repeat(-(-n // 120), 1)[:n], torch.zeros(n, 2)])

    right, point = judge_generator(
        real, generate, latent_dim=2, n_members=2, features=lambda rows: 2.0 * rows
    )
    assert right.frechet_distance == pytest.approx(0.0, abs=1e-9)
    assert right.sliced_wasserstein == 0.0
    assert right.inception_score == right.inception_score_real
    assert (right.precision, right.recall, right.coverage) == (1.0, 1.0, 1.0)
    assert (point.precision, point.recall, point.coverage) == (0.0, 0.0, 0.0)
    assert point.inception_score == pytest.approx(1.0)
    assert (point.path_length, point.path_length_features) == (0.0, 0.0)
    assert point.frechet_distance == pytest.approx(
        float(real.double().square().sum()) / 119, rel=0.02
    )
    assert point.frechet_distance_features == pytest.approx(4.0 * point.frechet_distance)


def test_judgement_is_that_of_the_single_measures_and_draws_from_no_global_generator() -> None:
    networks, real = tiny_game().networks, ring(90, seed=1)
    before = torch.get_rng_state()
    settings = {"latent_dim": 2, "n_members": 2, "features": networks.discriminator.hidden}
    found = judge_generator(real, networks.generator, **settings, seed=4)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert found == judge_generator(real, networks.generator, **settings, seed=4)  # type: ignore[arg-type]
    own = torch.stack([real, real.flip(0)])
    both = judge_generator(own, networks.generator, **settings, seed=4)  # type: ignore[arg-type]
    assert [q.coverage for q in both] == [q.coverage for q in found]
    codes = torch.randn(90, 2, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        generated = networks.generator(codes.expand(2, -1, -1))
        seen = [networks.discriminator.hidden(r) for r in (real.expand(2, -1, -1), generated)]
    for k, quality in enumerate(found):
        assert quality.frechet_distance == frechet_distance(real, generated[k])
        assert quality.frechet_distance_features == frechet_distance(seen[0][k], seen[1][k])
        assert quality.sliced_wasserstein == sliced_wasserstein(real, generated[k], seed=4)
        assert quality.coverage == coverage(real, generated[k])
        assert quality.recall == recall(real, generated[k])
        assert quality.two_sample_accuracy == two_sample_accuracy(real, generated[k])
        lengths = path_length(networks.generator, latent_dim=2, n_members=2, seed=4)
        assert quality.path_length == lengths[k]


def test_classes_may_be_handed_in_and_the_result_is_json() -> None:
    real = ring(60)

    def right_half(rows: Tensor) -> Tensor:
        return torch.stack([rows[:, 0] > 0, rows[:, 0] <= 0], dim=1).float()

    (quality,) = judge_generator(real, lambda codes: codes, latent_dim=2, classify=right_half)
    assert quality.inception_score == pytest.approx(2.0, rel=0.05)
    stored = json.loads(json.dumps(quality.to_dict()))
    assert list(stored) == [field.name for field in fields(GeneratorQuality)]
    assert stored["frechet_distance_features"] is None


def test_a_generator_that_diverged_is_an_error() -> None:
    with pytest.raises(UsageError, match="not finite; a generator may have diverged"):
        judge_generator(ring(30), lambda codes: codes * math.nan, latent_dim=2)


# --- Two trainings, one of which collapses --------------------------------------------------


def grid(n: int, seed: int = 0) -> Tensor:
    """Rows on 25 Gaussians, each column of unit variance, float32 [n, 2]."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(5, size=(n, 2)) - 2) / math.sqrt(2.0) + 0.05 * rng.normal(size=(n, 2))
    return torch.from_numpy(rows.astype(np.float32))


def trained(rows: Tensor, *, collapses: bool) -> TabularNetworks:
    """The adversarial game alone, with the same objective.

    It collapses without gradient penalty and with a generator that moves twenty times as often as
    the discriminator: it then runs to the row that looks most real at the moment (Goodfellow,
    2016, "NIPS tutorial: generative adversarial networks", section 5.1.1).
    """
    width, n_steps, batch_rows = (32, 600, 64) if collapses else (64, 800, 256)
    networks = TabularNetworks(
        TabularSizes(1, 2, 2, width, width, SCALE.n_levels),
        generator=torch.Generator().manual_seed(0),
    )
    game = FlagshipGame(
        networks,
        sampler=Sampler(rows, 1, torch.Generator().manual_seed(1)),
        scale=SCALE,
        objective=RelativisticPairing(),
        weights=GameWeights(penalty=0.0 if collapses else 0.02, reconstruction=0.0, cycle=0.0),
        batch_rows=batch_rows,
    )
    phases = list(game.phases())
    if collapses:
        phases = [
            replace(p, interval=20) if p.player == "discriminator" else p for p in game.phases()
        ]
    half_life = 300.0 if collapses else 10_000.0
    plan = tiny_plan(
        n_steps, learning_rate=3e-3, batch_rows=batch_rows, ema_half_life_samples=half_life
    )
    Trainer(networks, players=game.players(), phases=phases, sampler=game.sampler, plan=plan).run()
    return networks


@pytest.mark.slow
@pytest.mark.parametrize(("draw_rows", "modes"), [(ring, 8), (grid, 25)])
def test_measures_tell_a_generator_that_learnt_from_one_that_collapsed(
    draw_rows: Callable[..., Tensor], modes: int
) -> None:
    real = draw_rows(500, seed=1)
    classify = mixture_classes(draw_rows(2000), n_classes=modes)
    right, collapsed = (
        judge_generator(
            real,
            networks.generator,
            latent_dim=2,
            features=networks.discriminator.hidden,
            classify=classify,
        )[0]
        for networks in (trained(draw_rows(2000), collapses=c) for c in (False, True))
    )
    # Bounds with room: other seeds stay within them too. The path length is no verdict: what has
    # collapsed hardly moves, or jumps.
    assert right.frechet_distance < 0.05 < 0.25 < collapsed.frechet_distance
    assert right.sliced_wasserstein < 0.2 < 0.3 < collapsed.sliced_wasserstein
    assert right.inception_score > 0.8 * modes > 0.65 * modes > collapsed.inception_score
    assert right.recall > 0.9 > 0.6 > collapsed.recall
    assert right.coverage > 0.35 > 0.25 > collapsed.coverage
    assert right.two_sample_accuracy < 0.86 < 0.9 < collapsed.two_sample_accuracy
    assert right.precision > 0.2
