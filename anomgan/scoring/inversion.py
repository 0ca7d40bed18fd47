"""Latent inversion: the code that makes the generator give back a row.

AnoGAN (Schlegl et al., 2017, section 2.2) answers with hundreds of gradient steps from a
random code. Here the start is already close (the encoder's code), and a constant preconditioner
makes each gradient step nearly a Gauss-Newton step, so a handful suffices. The gradient is
written out by hand: it is the same arithmetic that the exported graph runs, and no gradient tape
is needed to score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anomgan.nets.batched import LEAK, Activation, BatchedMLP
from anomgan.scoring.products import product

__all__ = ["Inversion", "InversionSettings", "MLPWeights", "preconditioner"]

_DAMPING = 0.1
"""Ridge of the preconditioner, in units of its mean diagonal (FINDINGS 3.1: 0.1 is safe)."""


@dataclass(frozen=True)
class InversionSettings:
    """How the inversion walks.

    Attributes
    ----------
    n_steps : int
        Gradient steps, K.
    learning_rate, momentum : float
        Of the preconditioned steps.
    """

    n_steps: int = 2
    learning_rate: float = 0.5
    momentum: float = 0.5


@dataclass(frozen=True)
class MLPWeights:
    """Frozen weights of one `BatchedMLP`: matrices [m, in, out] and biases [m, 1, out]."""

    matrices: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: Activation = "leaky_relu"

    @classmethod
    def freeze(cls, network: BatchedMLP) -> MLPWeights:
        """Copy the weights out of a network, as they act."""
        matrices, biases = network.frozen()
        return cls(tuple(matrices), tuple(biases), network.activation)

    def member(self, k: int) -> MLPWeights:
        """Return the weights of one member, as an ensemble of one."""
        return MLPWeights(
            tuple(matrix[k : k + 1] for matrix in self.matrices),
            tuple(bias[k : k + 1] for bias in self.biases),
            self.activation,
        )

    def activations(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return hidden activations and the output, each [m, n, width]."""
        out: list[Tensor] = []
        last = len(self.matrices) - 1
        for i, (weight, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = product(x, weight).add_(bias)
            if i < last and self.activation == "elu":
                # Not torch's elu: it rounds the last values of a block otherwise than the others.
                below = x.clamp(max=0.0).expm1_()
                x = x.clamp(min=0.0).add_(below)
            elif i < last:
                x = torch.maximum(x, LEAK * x)
            out.append(x)
        return tuple(out)

    def slope(self, hidden: Tensor) -> Tensor:
        """Return the derivative of the activation, from its value, which is at hand."""
        if self.activation == "elu":
            return 1.0 + hidden.clamp(max=0.0)
        return torch.where(hidden > 0, 1.0, LEAK)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [m, n, in] to [m, n, out]."""
        return self.activations(x)[-1]


def _pull_back(weights: MLPWeights, hidden: tuple[Tensor, ...], residual: Tensor) -> Tensor:
    """Gradient of ``|residual|^2 / 2`` with respect to the code: J' residual, [m, n, k]."""
    gradient = residual
    for i in range(len(weights.matrices) - 1, 0, -1):
        gradient = product(gradient, weights.matrices[i].mT)
        gradient = gradient * weights.slope(hidden[i - 1])
    return product(gradient, weights.matrices[0].mT)


def jacobian(weights: MLPWeights, codes: Tensor) -> Tensor:
    """Jacobian of the generator at codes [m, n, k], as [m, n, k, d]."""
    hidden = weights.activations(codes)[:-1]
    matrix = weights.matrices[0].unsqueeze(1)  # [m, 1, k, w]
    for activation, weight in zip(hidden, weights.matrices[1:], strict=True):
        slope = weights.slope(activation).unsqueeze(2)  # [m, n, 1, w]
        matrix = (matrix * slope) @ weight.unsqueeze(1)
    return matrix


def preconditioner(weights: MLPWeights, codes: Tensor, pull: Tensor) -> Tensor:
    """Inverse of the mean Gauss-Newton matrix, [m, k, k].

    Parameters
    ----------
    weights : MLPWeights
        The generator.
    codes : Tensor [m, n, k]
        Codes over which J'J is averaged.
    pull : Tensor [m]
        Weight of the quadratic pull back to the start.
    """
    jac = jacobian(weights, codes).double()  # [m, n, k, d]
    curvature = (jac @ jac.mT).mean(dim=1)  # [m, k, k]
    size = curvature.diagonal(dim1=1, dim2=2).mean(dim=1)  # [m]
    ridge = (pull.double() + _DAMPING * size + 1e-8).view(-1, 1, 1)
    eye = torch.eye(curvature.shape[1], dtype=torch.float64, device=codes.device)
    inverse: Tensor = torch.linalg.inv(curvature + ridge * eye)
    return inverse.float()


@dataclass(frozen=True)
class Inversion:
    """Inverts whole batches; every row has its own state.

    For a row x and a start z0 it minimises over z

        ``|G(z) - x|^2 + pull |z - z0|^2``

    by preconditioned momentum steps, and keeps the start where the steps did not help: the
    result is never worse than the start.

    Attributes
    ----------
    generator : MLPWeights
    preconditioner : Tensor [m, k, k]
    pull : Tensor [m]
    settings : InversionSettings
    """

    generator: MLPWeights
    preconditioner: Tensor
    pull: Tensor
    settings: InversionSettings

    def __call__(self, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy [m, n] and the residual G(z) - x [m, n, d] at the best code.

        Parameters
        ----------
        x : Tensor [m, n, d]
            Rows, the same for every member.
        start : Tensor [m, n, k]
            Codes to start from.
        """
        pull = self.pull.view(-1, 1, 1)
        direction = self.settings.learning_rate * self.preconditioner.mT  # [m, k, k]
        hidden = self.generator.activations(start)
        first = hidden[-1] - x  # [m, n, d]
        code, velocity, residual = start, torch.zeros_like(start), first
        for _ in range(self.settings.n_steps):
            gradient = _pull_back(self.generator, hidden, residual) + pull * (code - start)
            velocity = self.settings.momentum * velocity - product(gradient, direction)
            code = code + velocity
            hidden = self.generator.activations(code)
            residual = hidden[-1] - x
        moved = residual.square().sum(2) + self.pull.view(-1, 1) * (code - start).square().sum(2)
        energy_first = first.square().sum(2)
        better = moved < energy_first  # False for NaN: a diverged walk keeps its start
        energy = torch.where(better, moved, energy_first)
        return energy, torch.where(better.unsqueeze(2), residual, first)
