"""The flagship's losses, phases and scales."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import oracle_networks
import pytest
import torch
from tiny_flagship import SCALE, tiny_game, tiny_plan, tiny_trainer
from torch import Tensor

from anomgan.detectors.anomgan import (
    PENALTY_INTERVAL,
    FlagshipGame,
    NoiseScale,
    latent_dimension,
    noise_scale,
)
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Trainer

M = 2


def parts(game: FlagshipGame) -> dict[str, list[Tensor]]:
    nets = game.networks
    return {
        name: [p.detach().clone() for p in getattr(nets, name).parameters()]
        for name in ("generator", "encoder", "discriminator")
    }


def total(losses: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(tuple(losses.values())).sum()


def gradients(game: FlagshipGame, loss: Tensor) -> dict[str, list[Tensor | None]]:
    game.networks.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    return {
        name: [p.grad for p in getattr(game.networks, name).parameters()]
        for name in ("generator", "encoder", "discriminator")
    }


# --- Phases and players ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "moved"),
    [
        ("discriminator", {"discriminator"}),
        ("penalty", {"discriminator"}),
        ("generator", {"generator", "encoder"}),
    ],
)
def test_each_phase_changes_its_own_networks_and_no_others(phase: str, moved: set[str]) -> None:
    game = tiny_game()
    before = parts(game)
    Trainer(
        game.networks,
        players=game.players(),
        phases=[p for p in game.phases() if p.name == phase],
        sampler=game.sampler,
        plan=tiny_plan(5),
    ).run()
    after = parts(game)
    for name, tensors in before.items():
        same = [torch.equal(a, b) for a, b in zip(tensors, after[name], strict=True)]
        if name not in moved:
            assert all(same), name
        elif phase == "penalty":  # gradients of piecewise linear networks know no biases
            assert not any(same[::2])
        else:
            assert not any(same), name


def test_players_share_no_parameter_and_miss_none() -> None:
    game = tiny_game()
    players = game.players()
    ids = [id(p) for parameters in players.values() for p in parameters]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(p) for p in game.networks.parameters()}
    assert {phase.player for phase in game.phases()} == set(players)
    assert [phase.interval for phase in game.phases()] == [1, PENALTY_INTERVAL, 1]


def test_code_search_does_not_move_the_generator() -> None:
    game = tiny_game()
    found = gradients(game, game.generator_losses()["cycle"])
    assert all(g is None for g in found["generator"])
    assert all(g is not None for g in found["encoder"])


def test_discriminator_losses_do_not_reach_the_generator() -> None:
    game = tiny_game()
    for losses in (game.discriminator_losses(), game.penalty_losses()):
        found = gradients(game, total(losses))
        assert all(g is None for g in (*found["generator"], *found["encoder"]))
        assert found["discriminator"][0] is not None


def test_members_do_not_influence_each_other_s_gradients() -> None:
    one, other = tiny_game(), tiny_game()
    with torch.no_grad():
        for parameter in other.networks.parameters():
            parameter[1].mul_(-1.7)
    for name in ("discriminator_losses", "penalty_losses", "generator_losses"):
        found = [gradients(game, total(getattr(game, name)())) for game in (one, other)]
        for net, tensors in found[0].items():
            for a, b in zip(tensors, found[1][net], strict=True):
                assert (a is None) == (b is None)
                if a is not None and b is not None:
                    torch.testing.assert_close(a[0], b[0])
        if name == "generator_losses":
            first, second = (f["generator"][0] for f in found)
            assert first is not None
            assert second is not None
            assert not torch.allclose(first[1], second[1])


# --- Losses ---------------------------------------------------------------------------------


def silence(network: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()


def test_losses_of_an_undecided_discriminator() -> None:
    game = tiny_game()
    silence(game.networks.discriminator)
    losses = game.discriminator_losses()
    assert float(losses["grading"].detach()) == pytest.approx(M * math.log(8))
    assert float(losses["adversarial"].detach()) == pytest.approx(M * math.log(2))
    assert float(game.generator_losses()["adversarial"].detach()) == pytest.approx(M * math.log(2))
    assert float(game.penalty_losses()["r1r2"].detach()) == 0.0


def test_penalty_of_a_linear_critic_is_its_squared_weights() -> None:
    game = tiny_game()
    linear = BatchedMLP(M, (2, 9), generator=torch.Generator().manual_seed(4))
    game.networks.discriminator = linear
    weights = linear.layers[0].weight.detach()[:, :, 0]  # the critic's head
    expected = PENALTY_INTERVAL * float(weights.square().sum())
    assert float(game.penalty_losses()["r1r2"].detach()) == pytest.approx(expected, rel=1e-5)


def test_generator_losses_equal_loops() -> None:
    game = tiny_game()
    state = game.sampler.rng.get_state()
    losses = {k: float(v.detach()) for k, v in game.generator_losses().items()}
    game.sampler.rng.set_state(state)
    real = game.sampler.rows(game.n_pairs)  # [m, p, d]
    latents = game.sampler.normal(game.n_pairs, 2)  # [m, p, k]

    def member(name: str, m: int) -> tuple[list[np.ndarray], list[np.ndarray], str]:
        net = getattr(game.networks, name)
        return (
            [layer.weight[m].detach().numpy() for layer in net.layers],
            [layer.bias[m, 0].detach().numpy() for layer in net.layers],
            net.activation,
        )

    expected = {"reconstruction": 0.0, "cycle": 0.0, "adversarial": 0.0}
    for m in range(M):
        generator, encoder = member("generator", m), member("encoder", m)
        critic = member("discriminator", m)
        for row, latent in zip(real[m].tolist(), latents[m].tolist(), strict=True):
            code = oracle_networks.forward(encoder, row)[-1]
            given = oracle_networks.forward(generator, code)[-1]
            fake = oracle_networks.forward(generator, latent)[-1]
            found = oracle_networks.forward(encoder, fake)[-1]
            gap = [
                oracle_networks.forward(critic, r)[-1][0] * sign
                for r, sign in ((row, 1), (fake, -1))
            ]
            n = game.n_pairs
            expected["reconstruction"] += 10.0 * np.mean(np.subtract(given, row) ** 2) / n
            expected["cycle"] += 0.5 * np.mean(np.subtract(found, latent) ** 2) / n
            expected["adversarial"] += math.log1p(math.exp(sum(gap))) / n
    assert losses == pytest.approx(expected, rel=1e-5)


# --- Diffused rows --------------------------------------------------------------------------


def test_diffused_rows_carry_the_grade_of_their_noise() -> None:
    # Rows of zeros in many columns: the spread of a row tells the width of its noise.
    game = tiny_game(rows=torch.zeros(10, 4000), batch_rows=200)
    rows, grades = game._diffused()
    assert rows.shape == (M, 200, 4000)
    width = rows.std(dim=2)
    clean = grades == 0
    assert clean.sum(dim=1).tolist() == [50, 50]
    torch.testing.assert_close(
        width[clean], torch.full((100,), 0.3 * SCALE.spacing), rtol=0.1, atol=0.0
    )
    low, high = SCALE.log_edges
    place = (width.log() - low) / (high - low) * SCALE.n_levels + 1.0
    assert bool((place[~clean] - 0.3 < (grades + 1)[~clean]).all())
    assert bool((place[~clean] + 0.3 > grades[~clean]).all())
    assert set(grades.unique().tolist()) == set(range(8))


def test_log_priors_are_the_shares_of_the_grades() -> None:
    game = tiny_game(batch_rows=400)
    counts = torch.zeros(8)
    for _ in range(30):
        counts += torch.bincount(game._diffused()[1].flatten(), minlength=8)
    priors = game.log_priors().exp()
    assert float(priors.sum()) == pytest.approx(1.0)
    torch.testing.assert_close(counts / counts.sum(), priors, rtol=0.1, atol=0.0)


def test_smallest_batch_plays() -> None:
    game = tiny_game(batch_rows=4)
    for phase in game.phases():
        assert bool(torch.isfinite(total(phase.loss())))
    assert bool(torch.isfinite(game.log_priors()).all())


# --- Scales ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.01, 0.03, 0.05, 0.2, 0.35, 1.9, 5.0])
def test_read_weights_interpolate_between_the_enclosing_levels(level: float) -> None:
    scale = NoiseScale(spacing=level / 1.5, looseness=0.5)
    weights = scale.read_weights()
    low, high = scale.log_edges
    centres = [low + (i + 0.5) * (high - low) / 7 for i in range(7)]
    assert sum(weights) == pytest.approx(1.0)
    assert min(weights) >= 0.0
    read = sum(w * c for w, c in zip(weights, centres, strict=True))
    wanted = min(max(math.log(level), centres[0]), centres[-1])
    assert read == pytest.approx(wanted)
    assert sum(w > 0 for w in weights) <= 2


@pytest.mark.parametrize(
    ("distance", "bandwidth", "read_level", "kernel_width"),
    [
        (0.2, 0.3, 0.15, 0.1),
        (1e-6, 0.03, 0.03, 0.01),
        (50.0, 0.35, 2.0, 3.0),
        (0.0, 0.03, 0.03, 0.01),
    ],
)
def test_widths_follow_the_spacing_within_bounds(
    distance: float, bandwidth: float, read_level: float, kernel_width: float
) -> None:
    scale = noise_scale(torch.full((9,), distance), 100.0, 4)
    assert scale.spacing == pytest.approx(distance / 2)
    assert scale.looseness == pytest.approx(distance / 100.0)
    assert scale.bandwidth == pytest.approx(bandwidth)
    assert scale.read_level == pytest.approx(read_level)
    assert scale.kernel_width == pytest.approx(kernel_width)
    assert len(scale.read_weights()) == scale.n_levels


def test_scale_takes_medians() -> None:
    distances = torch.tensor([1.0, 1.0, 2.0, 9.0, 1e9])
    scale = noise_scale(distances, 5.0, 16)
    assert scale.spacing == pytest.approx(2.0 / 4.0)
    assert scale.looseness == pytest.approx(2.0 / 5.0)


@pytest.mark.parametrize(
    ("repeated", "level"), [(0.0, 3.0), (0.25, 2.0), (0.4, 1.0), (0.5, 0.0), (1.0, 0.0)]
)
def test_repeated_rows_count_as_at_no_distance(repeated: float, level: float) -> None:
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    scale = noise_scale(distances, 10.0, 1, repeated_share=repeated)
    assert scale.looseness == pytest.approx(level / 10.0)
    assert scale.spacing == 3.0


def test_rows_without_any_spread_count_as_loose() -> None:
    assert noise_scale(torch.zeros(3), 0.0, 2).looseness == 1.0


@pytest.mark.parametrize(
    ("looseness", "smoothness"),
    [(0.0, 0.0), (0.6, 0.0), (0.7, 0.25), (0.8, 0.5), (1.0, 1.0), (1.7, 1.0)],
)
def test_kernels_widen_up_to_three_times_where_rows_are_loose(
    looseness: float, smoothness: float
) -> None:
    scale = NoiseScale(spacing=0.2, looseness=looseness)
    assert scale.smoothness == pytest.approx(smoothness)
    assert scale.kernel_width == pytest.approx(0.2 * (1.0 + 2.0 * smoothness))
    assert scale.bandwidth == 0.35  # the temperature and the level follow the spacing alone
    assert scale.read_level == pytest.approx(0.3)


def test_widths_never_fall_as_spacing_or_looseness_rise() -> None:
    spacings = [0.0, *np.geomspace(1e-6, 1e3, 60).tolist()]
    loosenesses = np.linspace(0.0, 2.0, 21).tolist()
    grid = [[NoiseScale(s, loose) for loose in loosenesses] for s in spacings]

    def table(name: str) -> np.ndarray:
        return np.array([[getattr(scale, name) for scale in row] for row in grid])

    for name, least, most in (
        ("bandwidth", 0.03, 0.35),
        ("read_level", 0.03, 2.0),
        ("kernel_width", 0.01, 3.0),
        ("smoothness", 0.0, 1.0),
    ):
        values = table(name)
        assert values.min() == least
        assert values.max() == most
        assert (np.diff(values, axis=0) >= 0.0).all()
        assert (np.diff(values, axis=1) >= 0.0).all()
    narrowest = np.maximum(0.01, spacings)
    assert (table("kernel_width") >= np.minimum(3.0, narrowest)[:, None]).all()
    assert (table("kernel_width") <= 3.0 * narrowest[:, None] * (1 + 1e-12)).all()


def spread(deviations: list[float]) -> Tensor:
    """Rows whose covariance is diagonal, with exactly these deviations."""
    d = len(deviations)
    return torch.cat([torch.eye(d), -torch.eye(d)]) * torch.tensor(deviations)


@pytest.mark.parametrize(
    ("deviations", "expected"),
    [
        ([3.0, 1.0, 0.1, 0.1], 2),  # 9 of 10.02 is 89.8 %
        ([3.1, 1.0, 0.1, 0.1], 2),  # one would do, two is the least
        ([1.0] * 10, 9),
        ([1.0] * 60, 24),
        ([5.0], 1),
        ([5.0, 5.0], 1),
        ([0.0, 0.0, 0.0], 2),
        ([0.0, 0.0], 1),
        ([0.0], 1),
    ],
)
def test_latent_dimension_holds_nine_tenths_of_the_variance(
    deviations: list[float], expected: int
) -> None:
    assert latent_dimension(spread(deviations)) == expected
    assert latent_dimension(spread(deviations) + 1e4) == expected


# --- Learning -------------------------------------------------------------------------------


def test_training_lowers_the_losses_that_can_be_won() -> None:
    trainer = tiny_trainer(n_steps=300, learning_rate=5e-3)
    first, *_, last = trainer.run().history
    assert last["generator.reconstruction"] < 0.5 * first["generator.reconstruction"]
    assert last["discriminator.grading"] < 0.9 * first["discriminator.grading"]


def test_graded_discriminator_knows_clean_from_diffused_rows() -> None:
    blob = 0.2 * torch.randn(456, 2, generator=torch.Generator().manual_seed(3))
    game = tiny_game(rows=blob[:256])
    Trainer(
        game.networks,
        players=game.players(),
        phases=[p for p in game.phases() if p.name == "discriminator"],
        sampler=game.sampler,
        plan=tiny_plan(400, learning_rate=5e-3),
    ).run()
    rows = blob[256:].expand(M, -1, -1)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = game.networks.noise_logits(rows)
        diffused = game.networks.noise_logits(rows + noise)

    def log_odds(logits: Tensor) -> Tensor:
        return (logits[..., 5] - logits[..., 0]).mean(dim=0)

    higher = log_odds(diffused).unsqueeze(1) > log_odds(clean)
    assert float(higher.float().mean()) > 0.8
