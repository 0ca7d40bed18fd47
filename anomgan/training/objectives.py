"""Adversarial objectives: what discriminator and generator minimise, given logits.

An objective never sees a network, an optimiser or a batch; it maps logits to a loss. A
logit is larger for rows that look real.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["OBJECTIVES", "Objective", "RelativisticPairing"]


class Objective(Protocol):
    """Losses of the two players, each a scalar averaged over rows, summed over members."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator from its logits [m, n] on real and generated rows."""
        ...

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the generator from the same logits, `fake` carrying its gradient."""
        ...


class RelativisticPairing:
    """Each real row is compared with one generated row (RpGAN).

    With zero-centred gradient penalties on both sides this objective has no bad local
    minima of the mode-dropping kind (Sun et al., 2020) and converges locally (Huang et al.,
    2024, "The GAN is dead; long live the GAN!", eq. 2 and section 2.2).
    """

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean over pairs of softplus(fake - real), summed over members."""
        return softplus(fake - real).mean(dim=1).sum()

    def generator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """Mean over pairs of softplus(real - fake), summed over members."""
        return softplus(real - fake).mean(dim=1).sum()


OBJECTIVES: dict[str, type[Objective]] = {"relativistic": RelativisticPairing}
"""Objectives by the name that `GANDetector(objective=...)` takes."""
