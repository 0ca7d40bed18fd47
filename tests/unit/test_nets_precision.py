"""Products of updates in bfloat16: where, and what they round."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from anomgan.nets import precision
from anomgan.nets.batched import LEAK, Activation, BatchedMLP
from anomgan.nets.tabular import TabularNetworks, TabularSizes

CPU, META = torch.device("cpu"), torch.device("meta")
SIZES = (64, 256, 256, 8)
ACTIVATIONS: tuple[Activation, ...] = ("leaky_relu", "elu", "relu", "tanh")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has them: torch multiplies in bfloat16 on any, only slower."""
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: True)


@pytest.fixture
def asked_again() -> Iterator[None]:
    precision.bfloat16_is_fast.cache_clear()
    yield
    precision.bfloat16_is_fast.cache_clear()


def pair(activation: Activation = "leaky_relu") -> tuple[BatchedMLP, BatchedMLP]:
    """The same network, one in float32 and one that rounds."""
    plain, rounding = (
        BatchedMLP(2, SIZES, generator=seeded(), activation=activation, rounded=rounded)
        for rounded in (False, True)
    )
    return plain, rounding


@pytest.mark.parametrize(
    ("told", "fast"),
    [
        ({"amx_bf16": True}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": False}, False),
        ({}, False),
        (None, False),
    ],
)
@pytest.mark.usefixtures("asked_again")
def test_units_are_what_the_processor_tells(
    told: dict[str, bool] | None, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told is None:  # an older torch
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert precision.bfloat16_is_fast() is fast


@pytest.mark.parametrize(
    ("rounded", "device", "fast", "later"),
    [
        (True, CPU, True, torch.bfloat16),
        (False, CPU, True, torch.float32),
        (True, META, True, torch.float32),
        (True, CPU, False, torch.float32),
    ],
)
def test_all_layers_but_the_first_are_rounded_where_it_is_asked_for_and_faster(
    rounded: bool,
    device: torch.device,
    fast: bool,
    later: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "bfloat16_is_fast", lambda: fast)
    rows = torch.empty(1, device=device)
    expected = (torch.float32, later, later, later)
    assert precision.layer_types(rows, 4, rounded=rounded) == expected
    assert precision.layer_types(rows, 1, rounded=rounded) == (torch.float32,)


@pytest.mark.usefixtures("units")
def test_factors_and_results_are_rounded_and_sums_are_not() -> None:
    net = pair()[1]
    x = torch.randn(2, 128, SIZES[0], generator=seeded(1))
    weights, biases = net.frozen()

    def half(values: Tensor) -> Tensor:
        return values.bfloat16().double()

    hidden = torch.nn.functional.leaky_relu(torch.baddbmm(biases[0], x, weights[0]), LEAK)
    hidden = half(biases[1]) + half(hidden) @ half(weights[1])
    hidden = half(torch.nn.functional.leaky_relu(half(hidden), LEAK))
    expected = half(half(biases[2]) + hidden @ half(weights[2]))
    found = net.fused(x).detach()
    assert torch.equal(found, found.bfloat16().float())
    # What is near the middle of two numbers may fall either way, and moves a few of those after it.
    away = (found.double() - expected).abs()
    assert float(away.max()) < 0.05
    assert float((away > 0.0).double().mean()) < 0.05


@pytest.mark.usefixtures("units")
def test_rows_keep_their_digits() -> None:
    net = BatchedMLP(1, (1, 1, 1), generator=seeded(), activation="relu", rounded=True)
    with torch.no_grad():
        for layer in net.layers:
            layer.weight.fill_(1.0)
        net.layers[0].bias.fill_(-1000.0)
    x = torch.tensor([[[1000.25], [1000.5]]])
    assert torch.equal(net.fused(x), x - 1000.0)
    assert torch.equal(x.bfloat16().float(), torch.full_like(x, 1000.0))


@pytest.mark.parametrize("of_row", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.usefixtures("units")
def test_a_rounded_network_is_rounded_forth_and_back_and_nowhere_else(
    activation: Activation, of_row: bool
) -> None:
    plain, rounding = pair(activation)
    x = torch.randn(2, 128, SIZES[0], generator=seeded(1)).requires_grad_(of_row)
    rows = [x] if of_row else []
    above = torch.randn(2, 128, SIZES[-1], generator=seeded(2))
    assert torch.equal(plain(x), rounding(x))  # what is frozen, watched and differentiated twice
    expected, found = plain.fused(x), rounding.fused(x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    ones = torch.autograd.grad((expected * above).sum(), [*rows, *plain.parameters()])
    others = torch.autograd.grad((found * above).sum(), [*rows, *rounding.parameters()])
    for one, other in zip(ones, others, strict=True):
        assert other.dtype == torch.float32
        # Mostly by units that stand near their kink, and now on its other side.
        assert float((one - other).norm() / one.norm()) < 0.1


@pytest.mark.usefixtures("units")
def test_slopes_are_rounded_and_have_a_gradient() -> None:
    plain, rounding = pair()
    x = torch.randn(2, 128, SIZES[0], generator=seeded(1))
    steep, rounded_steep = plain.input_gradient(x, 0), rounding.input_gradient(x, 0)
    assert rounded_steep.dtype == torch.float32
    assert not torch.equal(steep, rounded_steep)
    assert float((steep - rounded_steep).detach().norm() / steep.detach().norm()) < 0.1
    ones = torch.autograd.grad(steep.square().sum(), list(plain.parameters()), allow_unused=True)
    others = torch.autograd.grad(
        rounded_steep.square().sum(), list(rounding.parameters()), allow_unused=True
    )
    for one, other in zip(ones, others, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert float((one - other).norm()) <= 0.1 * float(one.norm())


def test_the_flagship_rounds_its_discriminator_alone() -> None:
    sizes = TabularSizes(2, 5, 3, 8, 8, 4)
    networks = TabularNetworks(sizes, generator=torch.Generator(), rounded=True)
    assert networks.discriminator.rounded
    assert not networks.generator.rounded
    assert not networks.encoder.rounded
