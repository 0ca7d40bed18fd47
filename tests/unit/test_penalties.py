"""Gradient penalties on discriminators whose gradients are known."""

from __future__ import annotations

import pytest
import torch

from anomgan.training.penalties import zero_centred_penalty


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
