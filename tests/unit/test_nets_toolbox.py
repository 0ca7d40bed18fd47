"""Spectral layers, initial weights, minibatch discrimination, attention over columns."""

from __future__ import annotations

import math

import numpy as np
import oracle_networks
import pytest
import torch
from tiny_flagship import tiny_game, tiny_plan
from torch import Tensor, nn

from anomgan.errors import UsageError
from anomgan.nets.attention import ColumnAttention
from anomgan.nets.batched import BatchedLinear, BatchedMLP
from anomgan.nets.initialisation import INITIALISERS
from anomgan.nets.minibatch import MinibatchDiscrimination
from anomgan.nets.spectral import SpectralLinear
from anomgan.training.loop import Trainer

M = 2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def spectral(n_in: int = 4, n_out: int = 6, seed: int = 0, gain: float = 3.0) -> SpectralLinear:
    return SpectralLinear(M, n_in, n_out, generator=seeded(seed), gain=gain)


def slope(layer: SpectralLinear) -> Tensor:
    """The matrix that a forward multiplies with, [m, in, out]."""
    n_in = layer.weight.shape[1]
    return layer(torch.eye(n_in).expand(M, -1, -1)) - layer.bias


def numpy(parameter: Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


# --- Spectral normalisation -----------------------------------------------------------------


def test_a_diagonal_matrix_is_divided_by_its_largest_value() -> None:
    layer = spectral(3, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 4.0, 2.0])))
    for _ in range(30):
        layer(randn(M, 5, 3))
    expected = torch.diag(torch.tensor([0.25, 1.0, 0.5])).expand(M, -1, -1)
    torch.testing.assert_close(slope(layer).detach(), expected)


@pytest.mark.parametrize(("n_in", "n_out"), [(4, 6), (6, 4), (1, 5), (5, 1)])
def test_largest_singular_value_becomes_one(n_in: int, n_out: int) -> None:
    layer = spectral(n_in, n_out)
    for _ in range(100):
        layer(randn(M, 3, n_in))
    exact = torch.linalg.matrix_norm(slope(layer).detach(), ord=2)
    torch.testing.assert_close(exact, torch.ones(M), rtol=1e-4, atol=0.0)
    frozen = layer.frozen_weight()
    assert frozen.dtype == torch.float32
    torch.testing.assert_close(frozen, slope(layer).detach(), rtol=1e-4, atol=1e-6)


def test_frozen_weight_is_exact_whatever_the_kept_vector() -> None:
    layer = spectral(8, 8)
    with torch.no_grad():
        layer.left.copy_(randn(M, 1, 8, seed=9))  # far from a singular vector
    norms = torch.linalg.matrix_norm(layer.frozen_weight(), ord=2)
    torch.testing.assert_close(norms, torch.ones(M))
    plain = BatchedLinear(M, 3, 4, generator=seeded(), gain=1.0)
    assert torch.equal(plain.frozen_weight(), plain.weight)


def test_a_matrix_of_zeros_stays_one() -> None:
    layer = spectral()
    nn.init.zeros_(layer.weight)
    assert not slope(layer).any()
    assert not layer.frozen_weight().any()


def test_the_vector_moves_in_training_forwards_only() -> None:
    layer, x = spectral(8, 8), randn(M, 5, 8)
    nn.init.normal_(layer.left, generator=seeded(4))
    kept = layer.left.detach().clone()
    with torch.no_grad():
        layer(x)
    layer.eval()(x)
    layer.train().weight.requires_grad_(False)  # as in the opponent's phase
    layer(x)
    assert torch.equal(layer.left, kept)
    layer.weight.requires_grad_(True)
    layer(x)
    assert not torch.equal(layer.left, kept)
    assert layer.left.grad is None


def test_gradient_is_that_of_the_weight_over_its_norm() -> None:
    layer, x = spectral(4, 4), randn(M, 5, 4)
    for _ in range(200):
        layer(x)
    layer(x).square().sum().backward()
    weight = layer.weight.detach().clone().requires_grad_(True)
    normal = weight / torch.linalg.matrix_norm(weight, ord=2, keepdim=True)
    (expected,) = torch.autograd.grad((x @ normal).square().sum(), weight)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-3, atol=1e-4)


def test_two_forwards_may_share_a_backward() -> None:
    network = BatchedMLP(M, (3, 6, 1), generator=seeded(), linear=SpectralLinear)
    real, fake = network(randn(M, 5, 3)), network(randn(M, 5, 3, seed=2))
    (fake.mean() - real.mean()).backward()
    assert all(layer.weight.grad is not None for layer in network.layers)


def test_a_spectral_network_is_one_lipschitz() -> None:
    network = BatchedMLP(M, (3, 16, 16, 1), generator=seeded(), linear=SpectralLinear)
    for _ in range(100):
        network(randn(M, 2, 3))
    x = 5.0 * randn(M, 200, 3).requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(x).sum(), x)
    steepest = float(gradient.norm(dim=2).max())
    assert 0.05 < steepest <= 1.0 + 1e-4


def test_a_trained_spectral_discriminator_keeps_its_slope_and_no_optimiser_moves_the_vector() -> (
    None
):
    game = tiny_game()
    game.networks.discriminator = BatchedMLP(
        2, (2, 8, 8, 9), generator=seeded(5), linear=SpectralLinear
    )
    trainer = Trainer(
        game.networks,
        players=game.players(),
        phases=game.phases(),
        sampler=game.sampler,
        plan=tiny_plan(100, ema_half_life_samples=1.0),
    )
    assert trainer.run().n_rollbacks == 0
    state = trainer.optimizers["discriminator"].state
    for layer in game.networks.discriminator.layers:
        assert layer.weight in state
        assert layer.left not in state
        norms = torch.linalg.matrix_norm(slope(layer).detach(), ord=2)
        torch.testing.assert_close(norms, torch.ones(2), rtol=0.02, atol=0.0)


def test_gain_and_scheme_reach_the_spectral_layer_s_weights() -> None:
    assert not torch.equal(spectral(gain=1.0).weight, spectral(gain=2.0).weight)
    torch.testing.assert_close(slope(spectral(gain=1.0)), slope(spectral(gain=2.0)))
    kind = SpectralLinear(M, 4, 6, generator=seeded(), gain=1.0, scheme="orthogonal")
    values = torch.linalg.svdvals(kind.weight.detach())
    torch.testing.assert_close(values, torch.ones(M, 4))


# --- Initial weights ------------------------------------------------------------------------


def layer(scheme: str, n_in: int = 200, n_out: int = 300, gain: float = 1.5) -> Tensor:
    made = BatchedLinear(M, n_in, n_out, generator=seeded(), gain=gain, scheme=scheme)
    assert not made.bias.any()
    return made.weight.detach()


@pytest.mark.parametrize(
    ("scheme", "deviation"),
    [
        ("he", 1.5 / math.sqrt(200)),
        ("xavier", 1.5 * math.sqrt(2.0 / 500)),
        ("orthogonal", 1.5 / math.sqrt(300)),
        ("normal", 0.02),
    ],
)
def test_initial_weights_have_the_scale_of_their_scheme(scheme: str, deviation: float) -> None:
    weight = layer(scheme)
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)
    assert float(weight.mean()) == pytest.approx(0.0, abs=0.02 * deviation)
    assert not torch.equal(weight[0], weight[1])


def test_xavier_is_uniform_within_its_bound() -> None:
    bound = 1.5 * math.sqrt(6.0 / 500)
    assert float(layer("xavier").abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(layer("xavier").abs().max()) <= bound


@pytest.mark.parametrize(("n_in", "n_out"), [(6, 4), (4, 6), (5, 5), (1, 3)])
def test_orthogonal_weights_are_gain_times_orthonormal(n_in: int, n_out: int) -> None:
    values = torch.linalg.svdvals(layer("orthogonal", n_in, n_out))
    torch.testing.assert_close(values, torch.full((M, min(n_in, n_out)), 1.5))


def test_the_default_scheme_is_he_bit_for_bit() -> None:
    expected = torch.empty(M, 5, 7).normal_(0.0, 1.5 / math.sqrt(5), generator=seeded())
    default = BatchedLinear(M, 5, 7, generator=seeded(), gain=1.5)
    assert torch.equal(default.weight, expected)
    assert torch.equal(layer("he", 5, 7), expected)


def test_every_scheme_is_reached_from_the_network_and_an_unknown_one_is_refused() -> None:
    before = torch.get_rng_state()
    made = [BatchedMLP(M, (4, 5, 2), generator=seeded(), scheme=s) for s in INITIALISERS]
    first = [network.layers[0].weight[0, 0, 0].item() for network in made]
    assert len(set(first)) == 4
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UsageError, match=r"'zeros' are not known: choose one of \['he', 'normal'"):
        layer("zeros")


# --- Minibatch discrimination ---------------------------------------------------------------


def minibatch(n_kernels: int = 3, kernel_dim: int = 2, seed: int = 0) -> MinibatchDiscrimination:
    return MinibatchDiscrimination(M, 4, n_kernels, kernel_dim, generator=seeded(seed))


def test_similarities_equal_the_loop_over_rows() -> None:
    head, x = minibatch(), randn(M, 5, 4)
    out = head(x)
    assert out.shape == (M, 5, 7)
    assert torch.equal(out[..., :4], x)
    for m in range(M):
        expected = oracle_networks.minibatch_similarities(
            numpy(x[m]).tolist(), numpy(head.weight[m]), 3, 2
        )
        np.testing.assert_allclose(numpy(out[m, :, 4:]), expected, rtol=1e-5)


def test_identical_rows_are_as_similar_as_can_be() -> None:
    head = minibatch()
    same = randn(M, 1, 4).expand(-1, 6, -1)
    torch.testing.assert_close(head.similarities(same), torch.full((M, 6, 3), 6.0))
    spread = head.similarities(randn(M, 6, 4))
    assert bool((spread < 6.0).all())
    far = head.similarities(1e3 * randn(M, 6, 4))
    torch.testing.assert_close(far, torch.ones(M, 6, 3))  # each row is like itself


def test_sizes_and_seed_of_minibatch_discrimination_have_their_effect() -> None:
    x = randn(M, 5, 4)
    plain = minibatch().similarities(x)
    assert minibatch(n_kernels=5).similarities(x).shape == (M, 5, 5)
    # In a wider space rows are further apart.
    assert float((minibatch(kernel_dim=8).similarities(x) - plain).sum().detach()) < 0.0
    assert not torch.equal(minibatch(seed=1).similarities(x), plain)


# --- Attention over columns -----------------------------------------------------------------


def attention(width: int = 5, seed: int = 0, *, gamma: float = 0.7) -> ColumnAttention:
    made = ColumnAttention(M, 3, width, generator=seeded(seed))
    nn.init.constant_(made.gamma, gamma)
    return made


def test_attention_starts_as_the_identity_and_learns_gamma_first() -> None:
    made, x = ColumnAttention(M, 3, 5, generator=seeded()), randn(M, 6, 3)
    assert torch.equal(made(x), x)
    made(x).square().sum().backward()
    assert made.gamma.grad is not None
    assert made.gamma.grad.all()
    assert made.query.grad is not None
    assert not made.query.grad.any()


def test_attention_equals_the_loop_over_columns() -> None:
    made, x = attention(), randn(M, 6, 3)
    weights, out = made.attention(x), made(x)
    assert weights.shape == (M, 6, 3, 3)
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(M, 6, 3))
    for m in range(M):
        parameters = [
            numpy(p[m])
            for p in (made.scale, made.shift, made.query, made.key, made.value, made.back)
        ]
        for i in range(6):
            expected, row = oracle_networks.column_attention(
                x[m, i].tolist(), *parameters, made.gamma[m].item()
            )
            np.testing.assert_allclose(numpy(weights[m, i]), expected, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(numpy(out[m, i]), row, rtol=1e-4, atol=1e-5)


def test_every_column_hears_of_every_other_and_rows_and_members_stay_apart() -> None:
    made, x = attention(), randn(M, 6, 3).requires_grad_(True)
    for column in range(3):
        (gradient,) = torch.autograd.grad(made(x)[0, 2, column], x)
        assert gradient[0, 2].all()
        gradient[0, 2] = 0.0
        assert not gradient.any()


def test_width_and_seed_of_attention_have_their_effect() -> None:
    x = randn(M, 6, 3)
    assert attention(width=9).query.shape == (M, 9, 9)
    assert not torch.equal(attention(width=9)(x), attention()(x))
    assert not torch.equal(attention(seed=1)(x), attention()(x))
