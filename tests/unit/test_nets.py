"""Layers that hold several members at once, against one member and one row at a time."""

from __future__ import annotations

import numpy as np
import oracle_networks
import pytest
import torch

from anomgan.nets.batched import LEAK, Activation, BatchedLinear, BatchedMLP
from anomgan.nets.tabular import TabularNetworks, TabularSizes

SIZES = TabularSizes(
    n_members=3,
    n_features=4,
    latent_dim=2,
    generator_width=6,
    discriminator_width=5,
    n_noise_levels=7,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def member(network: BatchedMLP, m: int) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    matrices = [layer.weight[m].detach().double().numpy() for layer in network.layers]
    biases = [layer.bias[m, 0].detach().double().numpy() for layer in network.layers]
    return matrices, biases, network.activation


def shaken(network: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Give the biases, zero at the start, values that a test can see."""
    rng = seeded(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
    return network


@pytest.mark.parametrize("sizes", [(3, 2), (3, 5, 2), (3, 5, 4, 6, 1)])
@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_batched_network_equals_loops_over_members_and_rows(
    sizes: tuple[int, ...], activation: Activation
) -> None:
    network = shaken(BatchedMLP(2, sizes, generator=seeded(), activation=activation))
    x = torch.randn(2, 7, 3, generator=seeded(2))
    out = network(x)
    assert out.shape == (2, 7, sizes[-1])
    for m in range(2):
        for i in range(7):
            expected = oracle_networks.forward(member(network, m), x[m, i].tolist())
            np.testing.assert_allclose(out[m, i].detach(), expected[-1], rtol=1e-5, atol=1e-6)
            if len(sizes) > 2:
                hidden = network.hidden(x)[m, i].detach()
                np.testing.assert_allclose(hidden, expected[-2], rtol=1e-5, atol=1e-6)


def test_a_member_s_output_depends_on_its_own_weights_and_rows_only() -> None:
    network = shaken(BatchedMLP(3, (4, 5, 2), generator=seeded()))
    x = torch.randn(3, 6, 4, generator=seeded(2), requires_grad=True)
    network(x)[1].square().sum().backward()
    assert x.grad is not None
    assert x.grad[1].abs().min() > 0
    assert not x.grad[[0, 2]].any()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad[1].any()
        assert not parameter.grad[[0, 2]].any()


def test_a_row_s_output_depends_on_that_row_only() -> None:
    network = shaken(BatchedMLP(2, (4, 5, 2), generator=seeded()))
    x = torch.randn(2, 6, 4, generator=seeded(2), requires_grad=True)
    network(x)[:, 3].sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum(dim=(0, 2)) > 0
    assert touched.tolist() == [False, False, False, True, False, False]


def test_initial_scale_keeps_unit_variance_through_the_layers() -> None:
    network = BatchedMLP(4, (200, 400, 400, 300), generator=seeded())
    x = torch.randn(4, 256, 200, generator=seeded(3))
    with torch.no_grad():
        for layer in list(network.layers)[:-1]:
            x = torch.nn.functional.leaky_relu(layer(x), LEAK)
            # He et al. (2015): the second moment stays, so that depth neither fades nor blows up.
            assert float(x.square().mean()) == pytest.approx(1.0, rel=0.1)
        assert float(network.layers[-1](x).std()) == pytest.approx(1.0, rel=0.1)
    assert all(not layer.bias.any() for layer in network.layers)


def test_gain_is_the_standard_deviation_of_the_output() -> None:
    layer = BatchedLinear(2, 500, 300, generator=seeded(), gain=2.5)
    x = torch.randn(2, 200, 500, generator=seeded(1))
    assert float(layer(x).detach().std()) == pytest.approx(2.5, rel=0.02)


def test_members_start_different_and_the_seed_decides() -> None:
    one, same = (BatchedMLP(2, (3, 4, 2), generator=seeded(5)) for _ in range(2))
    other = BatchedMLP(2, (3, 4, 2), generator=seeded(6))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        if a.dim() == 3 and a.any():
            assert not torch.equal(a, c)
            assert not torch.equal(a[0], a[1])


def test_initial_weights_come_from_the_given_generator_alone() -> None:
    before = torch.get_rng_state()
    TabularNetworks(SIZES, generator=seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_heads_of_the_discriminator_split_its_output() -> None:
    networks = shaken(TabularNetworks(SIZES, generator=seeded()))
    x = torch.randn(3, 8, 4, generator=seeded(1))
    whole = networks.discriminator(x)
    assert whole.shape == (3, 8, 9)
    assert torch.equal(networks.critic(x), whole[..., 0])
    assert torch.equal(networks.noise_logits(x), whole[..., 1:])
    assert networks.generator(torch.zeros(3, 8, 2)).shape == (3, 8, 4)
    assert networks.encoder(x).shape == (3, 8, 2)
