"""The unrolled discriminator: the generator looks a few steps of its opponent ahead."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from anomgan.errors import UsageError

__all__ = ["MAX_UNROLLED_STEPS", "FunctionalDiscriminator", "unrolled"]

FunctionalDiscriminator = Callable[[Tensor], Tensor]
"""A discriminator as a function of its input, whatever parameters it computes with."""

MAX_UNROLLED_STEPS = 10
"""The most that Metz et al. (2017) use; memory and time grow with every step."""


def unrolled(
    discriminator: nn.Module,
    loss: Callable[[FunctionalDiscriminator], Tensor],
    k: int,
    rate: float,
) -> FunctionalDiscriminator:
    """Return the discriminator after k differentiable SGD steps on its own loss.

    Metz et al., 2017, "Unrolled generative adversarial networks", section 2.2. The
    generator's loss, computed through the result, has the gradient of the k steps too: how
    the discriminator would answer to the generated rows. The discriminator itself is not
    changed, and with k > 0 no gradient reaches its parameters.

    Parameters
    ----------
    discriminator : nn.Module
        Its parameters are where the steps start; they may be frozen, as in the generator's
        phase.
    loss : callable
        The discriminator's loss, a scalar summed over members, given the discriminator to
        compute it with. Called once a step: for the same batch at every step it must keep
        the batch. Generated rows in it must carry the generator's gradient.
    k : int
        Steps, 0 to 10; 0 gives the discriminator itself.
    rate : float
        Learning rate of the steps.

    Returns
    -------
    callable
        Maps what the discriminator maps.

    Raises
    ------
    UsageError
        k or the rate is out of its range.
    """
    if not 0 <= k <= MAX_UNROLLED_STEPS:
        raise UsageError(f"unrolled steps are {k}, they must lie in 0 to {MAX_UNROLLED_STEPS}")
    if not rate > 0.0:
        raise UsageError(f"the rate of unrolled steps is {rate}, it must be above 0")
    if k == 0:
        return discriminator
    # Leaves of their own: the steps are differentiated, the discriminator's parameters are not.
    values = {
        name: parameter.detach().clone().requires_grad_(True)
        for name, parameter in discriminator.named_parameters()
    }
    for _ in range(k):
        # Without a gradient: what the loss does not touch, such as a spectral layer's vector.
        gradients = torch.autograd.grad(
            loss(_with(discriminator, values)),
            tuple(values.values()),
            create_graph=True,
            allow_unused=True,
        )
        values = {
            name: value if gradient is None else value - rate * gradient
            for (name, value), gradient in zip(values.items(), gradients, strict=True)
        }
    return _with(discriminator, values)


def _with(discriminator: nn.Module, values: dict[str, Tensor]) -> FunctionalDiscriminator:
    def call(x: Tensor) -> Tensor:
        return functional_call(discriminator, values, (x,))  # type: ignore[no-any-return]

    return call
