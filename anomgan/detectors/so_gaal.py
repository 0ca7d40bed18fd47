"""SO-GAAL (Liu et al., 2019): a generator of potential outliers, scored by its opponent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomgan.detectors.base import Game, Sizes
from anomgan.detectors.opponents import ActiveLearning, OneGenerator, game_of_two
from anomgan.training.loop import Sampler

__all__ = ["SOGAAL"]


@dataclass(frozen=True)
class SOGAAL(ActiveLearning):
    """Single-objective generative adversarial active learning.

    A generator G makes potential outliers and learns to have them taken for rows (section 3.2,
    eq. 4 and 5); a discriminator D tells both apart. Early on G's rows lie around the data, and D
    has to draw the data's boundary; were G to go on, its rows would end among the data and D could
    tell nothing. So G is stopped, and D alone is trained to the end (algorithm 1). A row's score
    is 1 - D(x), written as -log D(x).

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    stop_share : float
        Share of the training after which G is stopped, in (0, 1]. The authors' code trains D twice
        as long again.
    reference_share : float
        Weight, in [0, 1], of potential outliers drawn uniformly from the box of the data in D's
        loss, and what is left of 1 that of G's rows. 0: G's alone, as in the paper.
    gradient_penalty : float
        Weight of the squared norm of the logit's gradient at real rows (R1), 0 for none.

    Notes
    -----
    Not as in the paper:

    - The score is -log D(x) = softplus(-logit): the same order, but it does not saturate in
      float32.
    - D is a `BoxedDiscriminator`: outside the box between the first and last percentiles of the
      features it loses a nat a standard deviation. A plain perceptron may call a row normal that
      lies far from all data.
    - Uniform potential outliers beside G's: they are the paper's AGPO (section 3.1), and keep D
      informed where a single generator, which tends to a single mode, has no rows.
    - R1 on D, without which few rows are learnt by heart.
    - Normal noise; hidden layers of fixed widths, 64 and 64 in G and 128 and 64 in D, not of the
      rows' width and the root of their number; Adam, G a tenth as fast as D (there SGD, and a
      hundredth).

    References
    ----------
    Liu, Li, Zhou, Jiang, Sun, Wang & He (2019). Generative adversarial active learning for
    unsupervised outlier detection. TKDE.
    """

    name: ClassVar[str] = "so-gaal"
    summary: ClassVar[str] = "discriminator against one generator of potential outliers"

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make G and D; G's phase ends early."""
        networks = OneGenerator(sampler.data, self.latent_dim, draws).to(sampler.data.device)
        d, n = networks.discriminator, self.batch_rows

        def told_apart() -> dict[str, Tensor]:
            return self.told_apart(d, sampler, made)

        def made() -> Tensor:
            with torch.no_grad():
                rows = networks.made(sampler, n)
            return softplus(d(rows)).mean()

        def taken() -> dict[str, Tensor]:
            """Have generated rows taken for real ones (eq. 5)."""
            return {"taken": softplus(-d(networks.made(sampler, n))).mean()}

        return game_of_two(networks, told_apart, taken, stop=self.stop_share, rate=0.1)
