"""Adversarial losses at known logits."""

from __future__ import annotations

import math

import oracle_training
import pytest
import torch

from anomgan.training.objectives import OBJECTIVES, RelativisticPairing

LOGITS = [[0.0, 1.0, -2.0], [3.0, -0.5, 40.0]]
OTHERS = [[0.0, -1.0, 5.0], [2.5, 4.0, -60.0]]


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_undecided_logits_cost_log_two_a_member(name: str) -> None:
    objective = OBJECTIVES[name]()
    logits = torch.full((3, 5), 1.7)
    for loss in (objective.discriminator_loss, objective.generator_loss):
        assert float(loss(logits, logits)) == pytest.approx(3 * math.log(2.0))


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
