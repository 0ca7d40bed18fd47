"""The unrolled discriminator, on quadratics that can be done by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from anomgan.errors import UsageError
from anomgan.nets.batched import BatchedLinear, BatchedMLP
from anomgan.nets.spectral import SpectralLinear
from anomgan.training.objectives import NonSaturating
from anomgan.training.unrolling import MAX_UNROLLED_STEPS, FunctionalDiscriminator, unrolled

ONE = torch.ones(1)


class Slope(nn.Module):
    """D(x) = w x, with a parameter that no loss touches."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([w]))
        self.idle = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.w * x


def distance_to(g: Tensor) -> Callable[[FunctionalDiscriminator], Tensor]:
    """The discriminator's loss (w - g)^2 / 2: its answer to g is g itself."""
    return lambda d: 0.5 * (d(ONE) - g).square().sum()


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_quadratic_is_unrolled_as_by_hand(k: int) -> None:
    discriminator, g = Slope(2.0), torch.tensor([5.0], requires_grad=True)
    ahead = unrolled(discriminator, distance_to(g), k, 0.1)
    out = ahead(torch.tensor([3.0]))
    # w_k - g = (1 - rate)^k (w_0 - g), so d (3 w_k) / dg = 3 (1 - (1 - rate)^k).
    left = 0.9**k
    assert float(out.detach()) == pytest.approx(3.0 * (5.0 - 3.0 * left), rel=1e-5)
    (gradient,) = torch.autograd.grad(out.sum(), g)
    assert float(gradient) == pytest.approx(3.0 * (1.0 - left), rel=1e-5)


def test_rate_scales_the_step() -> None:
    g = torch.tensor([5.0])
    found = [unrolled(Slope(2.0), distance_to(g), 1, rate)(ONE).item() for rate in (0.1, 0.5, 1.0)]
    assert found == pytest.approx([2.3, 3.5, 5.0])


def test_no_step_is_the_discriminator_itself() -> None:
    discriminator = Slope(2.0)
    assert unrolled(discriminator, distance_to(ONE), 0, 0.1) is discriminator


def test_the_discriminator_is_left_as_it_was_even_when_it_is_frozen() -> None:
    discriminator = Slope(2.0).requires_grad_(False)
    g = torch.tensor([5.0], requires_grad=True)
    out = unrolled(discriminator, distance_to(g), 3, 0.1)(ONE)
    out.sum().backward()
    assert g.grad is not None
    assert float(g.grad) > 0.0
    assert (discriminator.w.item(), discriminator.idle.item()) == (2.0, 3.0)
    assert all(p.grad is None and not p.requires_grad for p in discriminator.parameters())


@pytest.mark.parametrize("linear", [BatchedLinear, SpectralLinear])
def test_members_are_unrolled_apart_and_networks_keep_their_state(
    linear: type[BatchedLinear],
) -> None:
    rng = torch.Generator().manual_seed(0)
    discriminator = BatchedMLP(2, (3, 5, 1), generator=rng, linear=linear).requires_grad_(False)
    before = current(discriminator)
    real = torch.randn(2, 6, 3, generator=rng)
    fake = torch.randn(2, 6, 3, generator=rng).requires_grad_(True)
    objective = NonSaturating()

    def loss(d: FunctionalDiscriminator) -> Tensor:
        return objective.discriminator_loss(d(real)[..., 0], d(fake)[..., 0])

    gradients, losses = [], []
    for k in (0, 3):
        critic = unrolled(discriminator, loss, k, 0.1)
        logits = critic(fake)[:1, :, 0]  # the first member's alone
        (gradient,) = torch.autograd.grad(objective.generator_loss(logits, logits), fake)
        assert gradient[0].any()
        assert not gradient[1].any()
        gradients.append(gradient)
        losses.append(float(loss(critic).detach()))
    assert not torch.allclose(gradients[0], gradients[1])
    assert losses[1] < losses[0]
    assert all(torch.equal(a, b) for a, b in zip(before, current(discriminator), strict=True))


def current(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize(
    ("k", "rate", "message"),
    [
        (-1, 0.1, "unrolled steps are -1"),
        (MAX_UNROLLED_STEPS + 1, 0.1, "steps are 11, they must lie in 0 to 10"),
        (1, 0.0, "rate of unrolled steps is 0.0"),
    ],
)
def test_impossible_arguments_are_refused(k: int, rate: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        unrolled(Slope(1.0), distance_to(ONE), k, rate)
