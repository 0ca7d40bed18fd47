"""Adversarial losses at known logits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import oracle_training
import pytest
import torch
from tiny_flagship import tiny_game, tiny_plan
from torch import Tensor

from anomgan.detectors.anomgan import FlagshipGame
from anomgan.errors import UsageError
from anomgan.estimator import GANDetector
from anomgan.training.loop import Trainer
from anomgan.training.objectives import (
    OBJECTIVES,
    EnergyBased,
    Hinge,
    LeastSquares,
    Minimax,
    NonSaturating,
    RelativisticPairing,
    feature_matching,
)

LOGITS = [[0.0, 1.0, -2.0], [3.0, -0.5, 40.0]]
OTHERS = [[0.0, -1.0, 5.0], [2.5, 4.0, -60.0]]


NAMES = (
    "relativistic",
    "minimax",
    "non-saturating",
    "wasserstein",
    "hinge",
    "least-squares",
    "energy-based",
)
SMOOTHED = (Minimax, NonSaturating, LeastSquares)


def minimum(loss: Callable[[Tensor, Tensor], Tensor], *, share: float = 0.5) -> float:
    """The logit that costs the discriminator least where a share of the rows is real."""
    grid = torch.linspace(-4.0, 4.0, 8001).unsqueeze(1).requires_grad_(True)  # a member each
    nothing = torch.zeros(len(grid), 1)
    cost = share * loss(grid, nothing) + (1.0 - share) * loss(nothing, grid)
    (slope,) = torch.autograd.grad(cost, grid)
    return float(grid.detach()[int((slope < 0.0).sum())])  # the losses are convex


def test_objectives_are_registered_by_name() -> None:
    assert tuple(OBJECTIVES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_losses_equal_the_formulas_of_the_papers(name: str) -> None:
    objective = OBJECTIVES[name]()
    real, fake = torch.tensor([[0.5, -2.0], [3.0, 1.0]]), torch.tensor([[0.0, 1.5], [-3.0, -0.25]])
    pairs = list(zip(real.flatten().tolist(), fake.flatten().tolist(), strict=True))
    expected = [oracle_training.objective(name, r, f) for r, f in pairs]
    # A mean over two rows, summed over two members.
    assert float(objective.discriminator_loss(real, fake)) == pytest.approx(
        sum(e[0] for e in expected) / 2.0, rel=1e-6
    )
    assert float(objective.generator_loss(real, fake)) == pytest.approx(
        sum(e[1] for e in expected) / 2.0, rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "discriminator", "generator"),
    [
        ("relativistic", math.log(2.0), math.log(2.0)),
        ("minimax", 2.0 * math.log(2.0), -math.log(2.0)),
        ("non-saturating", 2.0 * math.log(2.0), math.log(2.0)),
        ("wasserstein", 0.0, 0.0),
        ("hinge", 2.0, 0.0),
        ("least-squares", 0.5, 0.5),
        ("energy-based", 1.0, 0.0),
    ],
)
def test_undecided_logits_cost_what_they_do_by_hand(
    name: str, discriminator: float, generator: float
) -> None:
    objective, logits = OBJECTIVES[name](), torch.zeros(3, 5)
    assert float(objective.discriminator_loss(logits, logits)) == pytest.approx(3 * discriminator)
    assert float(objective.generator_loss(logits, logits)) == pytest.approx(3 * generator)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_have_their_signs(name: str) -> None:
    objective = OBJECTIVES[name]()
    real = torch.tensor([[0.3, -0.4]], requires_grad=True)
    fake = torch.tensor([[0.1, -0.2]], requires_grad=True)
    on_real, on_fake = torch.autograd.grad(objective.discriminator_loss(real, fake), (real, fake))
    assert (on_real < 0.0).all()
    if name == "least-squares":  # generated rows are drawn to 0, from either side
        assert on_fake.sign().tolist() == [[1.0, -1.0]]
    else:
        assert (on_fake > 0.0).all()
    (on_fake,) = torch.autograd.grad(objective.generator_loss(real.detach(), fake), fake)
    assert (on_fake < 0.0).all()


@pytest.mark.parametrize("name", NAMES)
def test_members_do_not_mix_and_far_logits_do_not_overflow(name: str) -> None:
    objective = OBJECTIVES[name]()
    real, fake = torch.tensor(LOGITS), torch.tensor(OTHERS)
    for loss in (objective.discriminator_loss, objective.generator_loss):
        alone = sum(float(loss(real[i : i + 1], fake[i : i + 1])) for i in range(2))
        assert float(loss(real, fake)) == pytest.approx(alone)
        assert math.isfinite(float(loss(torch.tensor([[-1e4]]), torch.tensor([[1e4]]))))


def test_minimax_saturates_where_non_saturating_does_not() -> None:
    slopes = []
    for objective in (Minimax(), NonSaturating()):
        fake = torch.full((1, 1), -9.0, requires_grad=True)
        objective.generator_loss(fake.detach(), fake).backward()
        assert fake.grad is not None
        slopes.append(float(fake.grad))
    assert slopes[0] == pytest.approx(-1.0 / (1.0 + math.exp(9.0)), rel=1e-4)
    assert slopes[1] == pytest.approx(-1.0 / (1.0 + math.exp(-9.0)), rel=1e-4)


def test_hinge_and_energy_leave_rows_beyond_their_margin_alone() -> None:
    for objective, beyond in ((Hinge(), -1.5), (EnergyBased(2.0), -2.5)):
        fake = torch.full((1, 3), beyond, requires_grad=True)
        objective.discriminator_loss(torch.zeros(1, 3), fake).backward()
        assert fake.grad is not None
        assert not fake.grad.any()
    real = torch.full((1, 3), 1.5, requires_grad=True)
    Hinge().discriminator_loss(real, torch.zeros(1, 3)).backward()
    assert real.grad is not None
    assert not real.grad.any()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_optimal_discriminators_are_those_of_the_papers(share: float) -> None:
    # Goodfellow et al. (2014), proposition 1: D* = p / (p + q). Mao et al. (2017), eq. 5: the
    # same with linear logits. Hinge: the Bayes decision, on its margin.
    odds = math.log(share / (1.0 - share))
    assert minimum(Minimax().discriminator_loss, share=share) == pytest.approx(odds, abs=2e-3)
    assert minimum(LeastSquares().discriminator_loss, share=share) == pytest.approx(share, abs=2e-3)
    if share != 0.5:
        expected = math.copysign(1.0, share - 0.5)
        assert minimum(Hinge().discriminator_loss, share=share) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("share", [0.5, 0.8])
@pytest.mark.parametrize("kind", SMOOTHED)
def test_smoothing_lowers_the_optimum_and_keeps_its_numerator_one_sided(
    kind: type[Minimax | LeastSquares], share: float
) -> None:
    # Salimans et al. (2016), section 3.4, with alpha = 0.9 and beta = 0: 0.9 p / (p + q).
    found = minimum(kind(smoothing=0.1).discriminator_loss, share=share)
    if kind is not LeastSquares:
        found = 1.0 / (1.0 + math.exp(-found))
    assert found == pytest.approx(0.9 * share, abs=2e-3)


@pytest.mark.parametrize("kind", SMOOTHED)
def test_smoothed_losses_equal_the_oracle_and_the_generator_s_stays(
    kind: type[Minimax | LeastSquares],
) -> None:
    name = next(n for n, registered in OBJECTIVES.items() if registered is kind)
    real, fake = torch.tensor([[1.7]]), torch.tensor([[-0.6]])
    smooth, plain = kind(smoothing=0.25), kind()
    expected, generator = oracle_training.objective(name, 1.7, -0.6, smoothing=0.25)
    assert float(smooth.discriminator_loss(real, fake)) == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx(float(plain.discriminator_loss(real, fake)))
    assert float(smooth.generator_loss(real, fake)) == pytest.approx(generator, rel=1e-6)


def test_margin_is_the_energy_that_generated_rows_are_pushed_to() -> None:
    real, fake = torch.tensor([[-0.5]]), torch.tensor([[-1.5]])
    # Energies 0.5 and 1.5: with margin 1 the generated row has enough, with 3 it lacks 1.5.
    assert float(EnergyBased(1.0).discriminator_loss(real, fake)) == pytest.approx(0.5)
    assert float(EnergyBased(3.0).discriminator_loss(real, fake)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Minimax(1.0), r"smoothing is 1.0, it must lie in \[0, 1\)"),
        (lambda: NonSaturating(-0.1), r"smoothing is -0.1, it must lie in \[0, 1\)"),
        (lambda: LeastSquares(math.nan), "smoothing is nan"),
        (lambda: EnergyBased(0.0), "margin is 0.0, it must be above 0"),
    ],
)
def test_impossible_arguments_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


def test_feature_matching_is_the_squared_distance_of_means() -> None:
    real = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 2.0]]])  # means 2 3, 0 1
    fake = torch.tensor([[[0.0, 0.0]], [[0.0, -1.0]]]).requires_grad_(True)
    loss = feature_matching(real, fake)
    assert float(loss.detach()) == pytest.approx((4.0 + 9.0) + (0.0 + 4.0))
    (gradient,) = torch.autograd.grad(loss, fake)
    assert gradient.tolist() == [[[-4.0, -6.0]], [[0.0, -4.0]]]


def parts(game: FlagshipGame) -> dict[str, list[Tensor]]:
    return {
        name: [p.detach().clone() for p in parameters]
        for name, parameters in game.players().items()
    }


@pytest.mark.parametrize("phase", ["discriminator", "penalty", "generator"])
@pytest.mark.parametrize("name", NAMES)
def test_each_phase_changes_its_own_player_and_no_other(name: str, phase: str) -> None:
    game = tiny_game(objective=OBJECTIVES[name]())
    (played,) = (p for p in game.phases() if p.name == phase)
    before = parts(game)
    Trainer(
        game.networks,
        players=game.players(),
        phases=[played],
        sampler=game.sampler,
        plan=tiny_plan(5),
    ).run()
    for player, tensors in parts(game).items():
        same = [torch.equal(a, b) for a, b in zip(tensors, before[player], strict=True)]
        if player != played.player:
            assert all(same)
        elif phase == "penalty":  # gradients of piecewise linear networks know no biases
            assert not any(same[::2])
        else:
            assert not any(same)


@pytest.mark.parametrize("name", NAMES)
def test_the_flagship_trains_with_every_objective(name: str) -> None:
    game = tiny_game(objective=OBJECTIVES[name]())
    record = Trainer(
        game.networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=tiny_plan(150),
    ).run()
    assert record.n_rollbacks == 0
    assert all(math.isfinite(value) for entry in record.history for value in entry.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_estimator_takes_every_objective_by_name(name: str) -> None:
    rows = np.random.default_rng(0).normal(size=(80, 3))
    few = {"n_steps": 10, "batch_rows": 16, "generator_width": 8, "discriminator_width": 8}
    detector = GANDetector(objective=name, random_state=0, device="cpu", **few).fit(rows)
    assert np.isfinite(detector.anomaly_score(rows)).all()


def test_relativistic_losses_equal_the_scalar_oracle() -> None:
    objective, real, fake = RelativisticPairing(), torch.tensor(LOGITS), torch.tensor(OTHERS)
    expected = oracle_training.discriminator_loss(LOGITS, OTHERS)
    assert float(objective.discriminator_loss(real, fake)) == pytest.approx(expected)
    expected = oracle_training.discriminator_loss(OTHERS, LOGITS)
    assert float(objective.generator_loss(real, fake)) == pytest.approx(expected)


def test_far_apart_logits_cost_their_distance_and_nothing_overflows() -> None:
    objective = RelativisticPairing()
    real, fake = torch.tensor([[1e4]]), torch.tensor([[-1e4]])
    assert float(objective.discriminator_loss(real, fake)) == 0.0
    assert float(objective.generator_loss(real, fake)) == pytest.approx(2e4)


def test_gradient_pushes_real_up_and_generated_down_and_back() -> None:
    objective = RelativisticPairing()
    real = torch.zeros(1, 2, requires_grad=True)
    fake = torch.zeros(1, 2, requires_grad=True)
    objective.discriminator_loss(real, fake).backward()
    # softplus'(0) = 1/2, a mean over two pairs: a quarter each.
    assert real.grad is not None
    assert real.grad.tolist() == [[-0.25, -0.25]]
    assert fake.grad is not None
    assert fake.grad.tolist() == [[0.25, 0.25]]
    fake.grad = None
    objective.generator_loss(real.detach(), fake).backward()
    assert fake.grad.tolist() == [[-0.25, -0.25]]


def test_only_the_difference_within_a_pair_counts() -> None:
    objective, real, fake = RelativisticPairing(), torch.tensor(LOGITS), torch.tensor(OTHERS)
    shift = torch.tensor([[1.0, -2.0, 3.0]])
    moved = objective.discriminator_loss(real + shift, fake + shift)
    assert float(moved) == pytest.approx(float(objective.discriminator_loss(real, fake)))
