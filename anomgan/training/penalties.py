"""Penalties and constraints that keep a discriminator smooth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from anomgan.errors import UsageError

__all__ = [
    "clip_weights",
    "interpolates",
    "one_centred_penalty",
    "squared_norm",
    "zero_centred_penalty",
]


def zero_centred_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """Squared norm of the logit's gradient with respect to its input row.

    On real rows this is R1, on generated rows R2 (Mescheder et al., 2018, eq. 9 and 10).

    Parameters
    ----------
    logits : Tensor [m, n]
        Computed from `inputs`; row i of the logits depends on row i of the inputs only.
    inputs : Tensor [m, n, d]
        Must require a gradient.

    Returns
    -------
    Tensor
        Scalar: mean over rows, summed over members.
    """
    return squared_norm(_gradient(logits, inputs))


def squared_norm(gradient: Tensor) -> Tensor:
    """`zero_centred_penalty` of a gradient [m, n, d] that is known.

    Returns
    -------
    Tensor
        Scalar: mean over rows, summed over members.
    """
    return gradient.square().sum(dim=2).mean(dim=1).sum()


def one_centred_penalty(logits: Tensor, inputs: Tensor) -> Tensor:
    """Squared difference between 1 and the norm of the logit's gradient (WGAN-GP).

    Gulrajani et al., 2017, eq. 3, without its weight (there 10); the inputs are those of
    `interpolates`.

    Parameters
    ----------
    logits : Tensor [m, n]
        Computed from `inputs`; row i of the logits depends on row i of the inputs only.
    inputs : Tensor [m, n, d]
        Must require a gradient.

    Returns
    -------
    Tensor
        Scalar: mean over rows, summed over members.
    """
    # The norm's own subgradient at 0 is 0, so that a flat discriminator is no NaN.
    norm: Tensor = torch.linalg.vector_norm(_gradient(logits, inputs), dim=2)  # [m, n]
    return (norm - 1.0).square().mean(dim=1).sum()


def interpolates(real: Tensor, fake: Tensor, uniform: Tensor) -> Tensor:
    """Points on the lines between pairs of a real and a generated row.

    Gulrajani et al., 2017, algorithm 1, line 6.

    Parameters
    ----------
    real, fake : Tensor [m, n, d]
    uniform : Tensor [m, n]
        Share of the real row, drawn from [0, 1): `Sampler.uniform(n)`.

    Returns
    -------
    Tensor [m, n, d]
        A new leaf that requires a gradient, as the penalties need it.
    """
    share = uniform.unsqueeze(2)  # [m, n, 1]
    return (share * real + (1.0 - share) * fake).detach().requires_grad_(True)


@torch.no_grad()
def clip_weights(parameters: Iterable[Tensor], bound: float) -> None:
    """Clip every value to [-bound, bound], in place (Arjovsky et al., 2017, algorithm 1).

    To be called after each of the critic's steps: `Phase(after=...)`.

    Parameters
    ----------
    parameters : iterable of Tensor
    bound : float
        c of the paper, there 0.01.

    Raises
    ------
    UsageError
        The bound is not above 0.
    """
    if not bound > 0.0:
        raise UsageError(f"the bound of the weights is {bound}, it must be above 0")
    for parameter in parameters:
        parameter.clamp_(-bound, bound)


def _gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """Gradient [m, n, d] of each logit with respect to its row, with a graph of its own."""
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    return gradient
