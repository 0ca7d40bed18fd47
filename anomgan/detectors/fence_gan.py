"""Fence-GAN (Ngo et al., 2019): a generator on the data's boundary, scored by its opponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomgan.detectors.base import Game, Sizes
from anomgan.detectors.opponents import ByDiscriminator, OneGenerator, game_of_two
from anomgan.training.loop import Sampler

__all__ = ["FenceGAN"]

_SMALLEST_SPREAD = 1e-3
"""Least mean distance, so that a collapsed generator has a finite loss."""


@dataclass(frozen=True)
class FenceGAN(ByDiscriminator):
    """Fence-GAN.

    The generator G is to put its rows on the boundary of the data and all around it: it minimises
    the encirclement loss, the mean of |alpha - D(G(z))| (section 3.2), plus beta times the
    dispersion loss, 1 over the mean distance of its rows to their centre. The discriminator D
    minimises -log D(x) - gamma log(1 - D(G(z))): with a small gamma the generated rows push it
    less than the real ones, and it stays high inside of the fence (section 3.3). A row's score is
    -log D(x).

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    alpha : float
        Output of D at the fence, in (0, 1).
    beta : float
        Weight of dispersion; smaller than the paper's, whose rows are images in [-1, 1].
    gamma : float
        Weight of generated rows in D's loss.
    reference_weight : float
        Weight of rows drawn uniformly from the box of the data, times gamma, beside the generated
        ones in D's loss. 0: none, as in the paper.
    gradient_penalty : float
        Weight of the squared norm of the logit's gradient at real rows (R1), 0 for none.

    Notes
    -----
    Not as in the paper:

    - The score is -log D(x) = softplus(-logit), the paper's D(x) the right way up and without
      saturation in float32.
    - Encirclement is the mean of |alpha - D|, without the paper's logarithm, which has no lower
      bound (the authors' code has a cross-entropy with the target alpha instead).
    - D is a `BoxedDiscriminator`: outside the box between the first and last percentiles of the
      features it loses a nat a standard deviation. A plain perceptron may call a row normal that
      lies far from all data.
    - Uniform rows beside the generated ones, for the places of the box that the fence leaves out.
    - R1 on D; Adam with G as fast as D, and hidden layers of 64 and 64 units in G and 128 and 64
      in D; no pretraining of D, no dropout (a row's score would depend on chance).

    References
    ----------
    Ngo, Winarto, Kou, Park, Akram & Lee (2019). Fence GAN: towards better anomaly detection.
    ICTAI.
    """

    n_steps: int = 1000
    alpha: float = 0.5
    beta: float = 2.0
    gamma: float = 0.1
    reference_weight: float = 1.0
    gradient_penalty: float = 1.0

    name: ClassVar[str] = "fence-gan"
    summary: ClassVar[str] = "discriminator against a generator on the data's boundary"
    paper: ClassVar[str] = (
        "Ngo, Winarto, Kou, Park, Akram & Lee (2019), Fence GAN: towards better anomaly "
        "detection, ICTAI"
    )

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        own = {"beta": 0.0, "reference_weight": 0.0, "gradient_penalty": 0.0}
        return super().at_least() | own

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return (*super().above_zero(), "alpha", "gamma")

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        return [] if self.alpha < 1.0 else [f"alpha is {self.alpha}, it must be below 1"]

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make G and D."""
        networks = OneGenerator(sampler.data, self.latent_dim, draws).to(sampler.data.device)
        d, n = networks.discriminator, self.batch_rows

        def believed() -> dict[str, Tensor]:
            """Believe real rows, and generated ones less; they weigh gamma."""
            x = sampler.rows(n)  # [1, n, d]
            with torch.no_grad():
                made = networks.made(sampler, n)
            references = self.gamma * self.reference_weight
            return {
                "real": softplus(-d(x)).mean(),
                "made": self.gamma * softplus(d(made)).mean(),
                **d.regularised(x, sampler, penalty=self.gradient_penalty, references=references),
            }

        def fenced() -> dict[str, Tensor]:
            """Lie on the fence, all around."""
            made = networks.made(sampler, n)
            distance = (made - made.mean(dim=1, keepdim=True)).norm(dim=2).mean()
            return {
                "encirclement": (self.alpha - d(made).sigmoid()).abs().mean(),
                "dispersion": self.beta / distance.clamp(min=_SMALLEST_SPREAD),
            }

        return game_of_two(networks, believed, fenced, stop=1.0, rate=1.0)
