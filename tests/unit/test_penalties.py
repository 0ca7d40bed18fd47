"""Gradient penalties on discriminators whose gradients are known."""

from __future__ import annotations

import pytest
import torch

from anomgan.errors import UsageError
from anomgan.training.penalties import (
    clip_weights,
    interpolates,
    one_centred_penalty,
    zero_centred_penalty,
)


def test_linear_discriminator_costs_its_squared_weights() -> None:
    w = torch.tensor([[3.0, 4.0], [1.0, -2.0]])  # [m, d]
    x = torch.randn(2, 9, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    logits = (x * w.unsqueeze(1)).sum(dim=2) + 7.0  # [m, n]
    assert zero_centred_penalty(logits, x).item() == pytest.approx(25.0 + 5.0)


def test_quadratic_discriminator_costs_the_mean_square_distance() -> None:
    x = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]], requires_grad=True)
    logits = 0.5 * x.square().sum(dim=2)  # the gradient is x itself
    assert zero_centred_penalty(logits, x).item() == pytest.approx((5.0 + 9.0) / 2)


def test_penalty_can_be_minimised() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    x = torch.randn(1, 5, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    zero_centred_penalty(x @ w, x).backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([6.0, 8.0])


def test_constant_discriminator_costs_nothing() -> None:
    x = torch.ones(2, 3, 4, requires_grad=True)
    assert zero_centred_penalty(0.0 * x.sum(dim=2), x).item() == 0.0


def test_linear_discriminator_costs_the_square_of_its_slope_less_one() -> None:
    w = torch.tensor([[3.0, 4.0], [0.0, 0.5]])  # [m, d], norms 5 and 1/2
    rng = torch.Generator().manual_seed(0)
    real, fake = torch.randn(2, 9, 2, generator=rng), torch.randn(2, 9, 2, generator=rng)
    x = interpolates(real, fake, torch.rand(2, 9, generator=rng))
    logits = (x * w.unsqueeze(1)).sum(dim=2) + 7.0
    assert one_centred_penalty(logits, x).item() == pytest.approx(16.0 + 0.25)


def test_one_centred_penalty_draws_the_slope_to_one() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    x = torch.zeros(1, 5, 2, requires_grad=True)
    one_centred_penalty(x @ w, x).backward()  # type: ignore[no-untyped-call]
    # d (|w| - 1)^2 / dw = 2 (|w| - 1) w / |w|
    assert w.grad is not None
    assert w.grad.tolist() == pytest.approx([8.0 * 0.6, 8.0 * 0.8])


def test_flat_discriminator_costs_one_and_its_gradient_is_finite() -> None:
    w = torch.zeros(2, requires_grad=True)
    x = torch.ones(3, 4, 2, requires_grad=True)
    penalty = one_centred_penalty(x @ w, x)
    assert penalty.item() == 3.0
    penalty.backward()  # type: ignore[no-untyped-call]
    assert w.grad is not None
    assert bool(torch.isfinite(w.grad).all())


def test_interpolates_lie_between_their_pair_at_the_given_share() -> None:
    real = torch.tensor([[[4.0, 0.0], [4.0, 0.0], [4.0, 0.0]]])
    fake = torch.tensor([[[0.0, 8.0], [0.0, 8.0], [0.0, 8.0]]], requires_grad=True)
    x = interpolates(real, fake, torch.tensor([[0.0, 0.25, 1.0]]))
    assert x.tolist() == [[[0.0, 8.0], [1.0, 6.0], [4.0, 0.0]]]
    assert x.is_leaf
    assert x.requires_grad


def test_clipping_bounds_every_value_and_leaves_those_inside() -> None:
    parameters = [
        torch.nn.Parameter(torch.tensor([-3.0, -0.01, 0.005])),
        torch.nn.Parameter(torch.tensor([[0.2]])),
    ]
    clip_weights(parameters, 0.01)
    assert parameters[0].tolist() == pytest.approx([-0.01, -0.01, 0.005])
    assert parameters[1].tolist() == [[pytest.approx(0.01)]]
    clip_weights(parameters, 0.002)
    assert float(torch.cat([p.detach().flatten() for p in parameters]).abs().max()) == (
        pytest.approx(0.002)
    )
    with pytest.raises(UsageError, match=r"bound of the weights is 0.0"):
        clip_weights(parameters, 0.0)
