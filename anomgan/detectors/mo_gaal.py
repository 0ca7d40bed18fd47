"""MO-GAAL (Liu et al., 2019): several generators that surround the data, one target each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from anomgan.detectors.base import Game, Sizes
from anomgan.detectors.opponents import ActiveLearning, OneGenerator, game_of_two
from anomgan.training.loop import Sampler

__all__ = ["MOGAAL"]


@dataclass(frozen=True)
class MOGAAL(ActiveLearning):
    """Multiple-objective generative adversarial active learning.

    As `SOGAAL`, with k sub-generators (section 3.3): real rows are divided by what the
    discriminator D makes of them into k subsets of similar output, and sub-generator i learns to
    have its rows given the least output T_i of the i-th subset (eq. 8), so that all of them
    together surround the data where one would end in its middle. The first ones, whose subsets are
    thin, make more of the potential outliers. A row's score is 1 - D(x), written as -log D(x).

    Parameters
    ----------
    n_steps, batch_rows, plan_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
        See `anomgan.detectors.base.Detector`.
    n_generators : int
        k.
    stop_share : float
        Share of the training after which the sub-generators are stopped, in (0, 1].
    reference_share : float
        Weight, in [0, 1], of potential outliers drawn uniformly from the box of the data in D's
        loss, and what is left of 1 that of generated rows. 0: generated rows alone, as in the
        paper.
    gradient_penalty : float
        Weight of the squared norm of the logit's gradient at real rows (R1), 0 for none.

    Notes
    -----
    Not as in the paper, beside what `SOGAAL` lists (the score's form, D's box, uniform potential
    outliers, R1, noise, widths, optimiser):

    - The subsets are those of a batch of real rows, not of the whole table.
    - Each sub-generator makes an equal number of rows; that the first ones have more is a weight,
      k for the first and 1 for the last, as in the authors' code.

    References
    ----------
    Liu, Li, Zhou, Jiang, Sun, Wang & He (2019). Generative adversarial active learning for
    unsupervised outlier detection. TKDE.
    """

    n_generators: int = 10

    name: ClassVar[str] = "mo-gaal"
    summary: ClassVar[str] = "discriminator against many generators around the data"

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"n_generators": 1}

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make k sub-generators and D; the sub-generators' phase ends early."""
        k, n_made = self.n_generators, max(2, self.batch_rows // self.n_generators)
        networks = OneGenerator(sampler.data, self.latent_dim, draws, n_generators=k)
        networks = networks.to(sampler.data.device)
        d = networks.discriminator
        shares = weights(k).unsqueeze(1).to(sampler.data.device)  # [k, 1]

        def told_apart() -> dict[str, Tensor]:
            return self.told_apart(d, sampler, made)

        def made() -> Tensor:
            with torch.no_grad():
                rows = networks.made(sampler, n_made)
            return (shares * softplus(logits(rows))).sum() / n_made

        def targeted() -> dict[str, Tensor]:
            """Have the rows of each sub-generator given its own target (eq. 8)."""
            with torch.no_grad():
                beliefs = d(sampler.rows(self.batch_rows))[0].sigmoid()  # [n]
                targets = least_of_subsets(beliefs, k).unsqueeze(1)  # [k, 1]
            given = logits(networks.made(sampler, n_made))
            loss = targets * softplus(-given) + (1.0 - targets) * softplus(given)
            return {"target": loss.mean(dim=1).sum()}

        def logits(rows: Tensor) -> Tensor:
            flat: Tensor = d(rows.flatten(0, 1).unsqueeze(0))
            return flat.view(rows.shape[:2])  # [k, n_made]

        return game_of_two(networks, told_apart, targeted, stop=self.stop_share, rate=0.1)


def weights(k: int) -> Tensor:
    """Weights of k sub-generators' rows, [k]: as k, ..., 2, 1, and 1 together."""
    shares = torch.arange(k, 0, -1)
    return shares / shares.sum()


def least_of_subsets(beliefs: Tensor, k: int) -> Tensor:
    """Divide [n] outputs into k subsets of similar ones; return the least of each, [k], rising."""
    starts = torch.arange(k, device=beliefs.device) * len(beliefs) // k
    return beliefs.sort().values[starts]
