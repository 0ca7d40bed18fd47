"""All layers as one operation, and slopes without a second derivative, against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from anomgan.errors import UsageError
from anomgan.nets.batched import Activation, BatchedLinear, BatchedMLP
from anomgan.nets.spectral import SpectralHead, SpectralLinear
from anomgan.training.penalties import squared_norm, zero_centred_penalty

SIZES = (5, 16, 12, 7, 3)
ACTIVATIONS: tuple[Activation, ...] = ("leaky_relu", "elu", "relu", "tanh")
RECTIFIERS: tuple[Activation, ...] = ("leaky_relu", "relu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(activation: Activation, *, spectral: bool = False) -> BatchedMLP:
    made = BatchedMLP(
        2,
        SIZES,
        generator=seeded(),
        activation=activation,
        linear=SpectralLinear if spectral else BatchedLinear,
        last=SpectralHead if spectral else None,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3, generator=seeded(1))
    return made


def gradients(net: BatchedMLP, loss: Tensor, *others: Tensor) -> list[Tensor | None]:
    wanted = [*others, *(p for p in net.parameters() if p.requires_grad)]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


def same(ones: list[Tensor | None], others: list[Tensor | None]) -> None:
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert (one is None) == (other is None)
        assert one is None or other is None or torch.equal(one, other)


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_layers_give_the_bits_of_the_layers_one_by_one(
    activation: Activation, spectral: bool
) -> None:
    x = torch.randn(2, 33, SIZES[0], generator=seeded(2)).requires_grad_(True)
    weight = torch.randn(2, 33, SIZES[-1], generator=seeded(3))
    plain, fused = (network(activation, spectral=spectral) for _ in range(2))
    expected, got = plain(x), fused.fused(x)
    assert torch.equal(got, expected)
    same(gradients(fused, (got * weight).sum(), x), gradients(plain, (expected * weight).sum(), x))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fused_layers_leave_their_input_and_the_gradient_above_alone(
    activation: Activation,
) -> None:
    net = network(activation)
    x = torch.randn(2, 9, SIZES[0], generator=seeded(2)).requires_grad_(True)
    before = x.detach().clone()
    out = net.fused(x)
    above = torch.randn(out.shape, generator=seeded(3))
    kept = above.clone()
    out.backward(above)
    assert torch.equal(x.detach(), before)
    assert torch.equal(above, kept)
    kept_out = net(before)
    assert torch.equal(out, kept_out)


def test_only_what_learns_gets_a_gradient() -> None:
    net = network("leaky_relu")
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.layers[1].weight.requires_grad_(True)
    x = torch.randn(2, 9, SIZES[0], generator=seeded(2))
    net.fused(x).square().sum().backward()
    assert net.layers[1].weight.grad.any()
    assert [p.grad is None for p in net.parameters()].count(False) == 1


def test_fused_layers_are_not_differentiated_twice() -> None:
    net = network("leaky_relu")
    x = torch.randn(2, 9, SIZES[0], generator=seeded(2)).requires_grad_(True)
    with pytest.raises(UsageError, match="second derivative"):
        torch.autograd.grad(net.fused(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("output", [0, 2])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("activation", RECTIFIERS)
def test_input_gradient_gives_a_second_derivative(
    activation: Activation, spectral: bool, output: int
) -> None:
    # In double, so that rounding hides nothing: processors add up transposed products in orders of
    # their own, and the bits of the two ways are the same on some machines alone.
    x = torch.randn(2, 33, SIZES[0], generator=seeded(2)).double()
    plain, quick = (network(activation, spectral=spectral).double() for _ in range(2))
    leaf = x.clone().requires_grad_(True)
    expected = zero_centred_penalty(plain(leaf)[..., output], leaf)
    got = squared_norm(quick.input_gradient(x, output))
    assert got > 0
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0.0)
    found, wanted = gradients(quick, got), gradients(plain, expected)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ["elu", "tanh"])
def test_a_slope_that_bends_is_refused(activation: Activation) -> None:
    with pytest.raises(UsageError, match=f"{activation}.*differentiate"):
        network(activation).input_gradient(torch.zeros(2, 1, SIZES[0]), 0)
