"""Latent inversion: its gradient, its solution, and what it never does."""

from __future__ import annotations

import numpy as np
import oracle_networks
import oracle_score
import pytest
import torch
from torch import Tensor

from anomgan.nets.batched import Activation, BatchedMLP
from anomgan.nets.spectral import SpectralLinear
from anomgan.scoring.inversion import (
    Inversion,
    InversionSettings,
    MLPWeights,
    _pull_back,
    jacobian,
    preconditioner,
)

M, N, K, D = 2, 6, 3, 5


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(sizes: tuple[int, ...] = (K, 8, 7, D), activation: Activation = "elu") -> MLPWeights:
    network = BatchedMLP(M, sizes, generator=seeded(), activation=activation)
    with torch.no_grad():
        for layer in network.layers:
            layer.bias.normal_(0.0, 0.5, generator=seeded(3))
    return MLPWeights.freeze(network)


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed))


def one_member(net: MLPWeights, m: int) -> tuple[list[np.ndarray], list[np.ndarray], str]:
    matrices = [w[m].double().numpy() for w in net.matrices]
    return matrices, [b[m, 0].double().numpy() for b in net.biases], net.activation


def inversion(net: MLPWeights, *, pull: float = 0.1, **settings: float) -> Inversion:
    pulls = torch.full((net.matrices[0].shape[0],), pull)
    matrix = preconditioner(net, draw(len(pulls), 64, K, seed=9), pulls)
    return Inversion(net, matrix, pulls, InversionSettings(**settings))  # type: ignore[arg-type]


# --- Frozen weights -------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_frozen_weights_repeat_the_network_and_are_copies(activation: Activation) -> None:
    network = BatchedMLP(M, (K, 8, 7, D), generator=seeded(), activation=activation)
    frozen, z = MLPWeights.freeze(network), draw(M, N, K)
    before = frozen(z)
    torch.testing.assert_close(before, network(z).detach())
    torch.testing.assert_close(frozen.activations(z)[-2], network.hidden(z).detach())
    with torch.no_grad():
        network.layers[0].weight.zero_()
    assert torch.equal(frozen(z), before)
    assert not any(t.requires_grad for t in (*frozen.matrices, *frozen.biases))


def test_frozen_weights_are_those_that_a_network_computes_with() -> None:
    network = BatchedMLP(M, (K, 8, D), generator=seeded(), linear=SpectralLinear)
    for _ in range(50):  # until the estimate of the singular values is exact
        network(draw(M, N, K))
    z = draw(M, N, K)
    torch.testing.assert_close(
        MLPWeights.freeze(network)(z), network(z).detach(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sizes", [(K, D), (K, 8, D), (K, 8, 7, D), (2, 20, 1)])
@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_hand_written_gradient_equals_autograd(
    sizes: tuple[int, ...], activation: Activation
) -> None:
    net = weights(sizes, activation)
    code, x = draw(M, N, sizes[0]).requires_grad_(True), draw(M, N, sizes[-1], seed=2)
    (0.5 * (net(code) - x).square().sum()).backward()  # type: ignore[no-untyped-call]
    assert code.grad is not None
    hidden = net.activations(code.detach())
    gradient = _pull_back(net, hidden, hidden[-1] - x)
    torch.testing.assert_close(gradient, code.grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_jacobian_equals_the_chain_rule_in_loops(activation: Activation) -> None:
    net, codes = weights(activation=activation), draw(M, N, K)
    found = jacobian(net, codes)
    assert found.shape == (M, N, K, D)
    for m in range(M):
        for i in range(N):
            expected = oracle_networks.jacobian(one_member(net, m), codes[m, i].tolist())
            np.testing.assert_allclose(found[m, i], expected, rtol=1e-4, atol=1e-5)


def test_preconditioner_is_the_inverse_of_the_mean_curvature() -> None:
    net, codes = weights(), draw(M, N, K)
    pull = torch.tensor([0.25, 2.0])
    found = preconditioner(net, codes, pull)
    for m in range(M):
        curvature = np.zeros((K, K))
        for i in range(N):
            slope = oracle_networks.jacobian(one_member(net, m), codes[m, i].tolist())
            curvature += slope @ slope.T / N
        ridge = float(pull[m]) + 0.1 * np.trace(curvature) / K
        expected = np.linalg.inv(curvature + ridge * np.eye(K))
        np.testing.assert_allclose(found[m], expected, rtol=1e-4)


def test_preconditioner_of_a_dead_generator_is_finite() -> None:
    net = weights()
    dead = MLPWeights(tuple(torch.zeros_like(w) for w in net.matrices), net.biases, "elu")
    assert torch.isfinite(preconditioner(dead, draw(M, N, K), torch.zeros(M))).all()


# --- The walk -------------------------------------------------------------------------------


def test_walk_equals_the_loop_oracle() -> None:
    net = weights()
    invert = inversion(net, n_steps=5, learning_rate=0.5, momentum=0.5)
    x = draw(N, D, seed=4)
    rows, start = x.expand(M, -1, -1), draw(M, N, K, seed=5)
    energy, residual = invert(rows, start)
    for m in range(M):
        generator = one_member(net, m)
        for i in range(N):
            expected_energy, expected_residual = oracle_score.invert(
                generator,
                invert.preconditioner[m].double().numpy(),
                0.1,
                x[i].double().numpy(),
                start[m, i].double().numpy(),
                n_steps=5,
                rate=0.5,
                momentum=0.5,
            )
            assert float(energy[m, i]) == pytest.approx(expected_energy, rel=1e-4)
            np.testing.assert_allclose(residual[m, i], expected_residual, rtol=1e-3, atol=1e-4)


def test_linear_generator_is_solved_to_its_least_squares_solution() -> None:
    net = weights((K, D))
    invert = inversion(net, pull=0.0, n_steps=80)
    x = draw(N, D, seed=4)
    energy, residual = invert(x.expand(M, -1, -1), draw(M, N, K, seed=5))
    for m in range(M):
        matrix, bias = net.matrices[0][m].double().numpy(), net.biases[0][m, 0].double().numpy()
        for i in range(N):
            target = x[i].double().numpy() - bias
            code, *_ = np.linalg.lstsq(matrix.T, target, rcond=None)
            left = code @ matrix - target
            np.testing.assert_allclose(residual[m, i], left, atol=1e-4)
            assert float(energy[m, i]) == pytest.approx(left @ left, rel=1e-4)


def test_linear_generator_with_pull_is_solved_to_the_ridge_solution() -> None:
    net, pull = weights((K, D)), 0.7
    invert = inversion(net, pull=pull, n_steps=80)
    x, start = draw(N, D, seed=4), draw(M, N, K, seed=5)
    energy, _ = invert(x.expand(M, -1, -1), start)
    for m in range(M):
        matrix, bias = net.matrices[0][m].double().numpy(), net.biases[0][m, 0].double().numpy()
        for i in range(N):
            first, target = start[m, i].double().numpy(), x[i].double().numpy() - bias
            # min |z W - t|^2 + pull |z - z0|^2, in closed form.
            gram = matrix @ matrix.T + pull * np.eye(K)
            code = np.linalg.solve(gram, matrix @ target + pull * first)
            left, moved = code @ matrix - target, code - first
            expected = left @ left + pull * moved @ moved
            assert float(energy[m, i]) == pytest.approx(expected, rel=1e-4)


def test_no_step_gives_the_start_and_a_generated_row_costs_nothing() -> None:
    net = weights()
    start, x = draw(M, N, K), draw(N, D, seed=4).expand(M, -1, -1)
    energy, residual = inversion(net, n_steps=0)(x, start)
    torch.testing.assert_close(residual, net(start) - x)
    torch.testing.assert_close(energy, (net(start) - x).square().sum(2))
    # At its own code the gradient is zero: five steps must not leave it.
    energy, residual = inversion(net, n_steps=5)(net(start), start)
    assert not energy.any()
    assert not residual.any()


@pytest.mark.parametrize("learning_rate", [0.5, 10.0, 1e20, float("nan")])
def test_result_is_never_worse_than_the_start(learning_rate: float) -> None:
    net = weights()
    start, x = draw(M, 200, K), (3.0 * draw(200, D, seed=4)).expand(M, -1, -1)
    first = (net(start) - x).square().sum(2)
    energy, residual = inversion(net, n_steps=6, learning_rate=learning_rate)(x, start)
    assert bool((energy <= first).all())
    assert bool(torch.isfinite(residual).all())
    if not learning_rate < 1e19:  # every walk diverged: every start was kept
        torch.testing.assert_close(energy, first)
    elif learning_rate == 0.5:
        assert float((energy < first).float().mean()) > 0.9


def test_energy_counts_the_residual_and_the_distance_walked() -> None:
    invert = inversion(weights(), n_steps=5)
    start, x = draw(M, N, K), draw(N, D, seed=4).expand(M, -1, -1)
    energy, residual = invert(x, start)
    assert bool((energy >= residual.square().sum(2)).all())


def test_rows_and_members_do_not_see_each_other() -> None:
    net = weights()
    invert, start, x = inversion(net), draw(M, N, K), draw(N, D, seed=4).expand(M, -1, -1)
    energy, residual = invert(x, start)
    wild = x.clone()
    wild[:, 1:] = 1e6 * draw(M, N - 1, D, seed=8)
    other_energy, other_residual = invert(wild, start)
    assert torch.equal(other_energy[:, 0], energy[:, 0])
    assert torch.equal(other_residual[:, 0], residual[:, 0])
    bad = x.clone()
    bad[1] = float("nan")
    assert torch.equal(invert(bad, start)[0][0], energy[0])


@pytest.mark.parametrize("activation", ["leaky_relu", "elu"])
def test_a_value_is_bent_the_same_at_the_end_of_a_block(activation: Activation) -> None:
    """torch's own ELU rounds the values that do not fill a vector register otherwise."""
    one, zero = torch.ones(1, 1, 1), torch.zeros(1, 1, 1)
    net = MLPWeights((one, one), (zero, zero), activation)
    x = draw(1, 4096, 1)
    whole = net.activations(x)[0]
    few = [net.activations(x[:, i : i + 7].contiguous())[0] for i in range(0, 4096, 7)]
    assert torch.equal(torch.cat(few, dim=1), whole)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 7, 9, 11, 16, 33])
def test_a_row_has_the_same_bits_wherever_it_stands(width: int) -> None:
    """Matrix products of few columns take other kernels at the end of a batch (MKL)."""
    net = weights((24, 24, width))
    x, order = draw(256, 24).expand(M, -1, -1), torch.randperm(256, generator=seeded(2))
    assert torch.equal(net(x)[:, order], net(x[:, order].contiguous()))
    hidden, back = net.activations(x), draw(256, width, seed=3).expand(M, -1, -1)
    gradient = _pull_back(net, hidden, back)
    moved = tuple(h[:, order].contiguous() for h in hidden)
    assert torch.equal(gradient[:, order], _pull_back(net, moved, back[:, order].contiguous()))
