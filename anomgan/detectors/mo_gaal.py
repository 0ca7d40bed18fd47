"""MO-GAAL (Liu et al., 2019): several generators that surround the data, one target each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.detectors.base import Detector, Game, Sizes
from anomgan.detectors.boxed import BoxedDiscriminator, verdict
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler

__all__ = ["MOGAAL"]


@dataclass(frozen=True)
class MOGAAL(Detector):
    """Multiple-objective generative adversarial active learning.

    As `SOGAAL`, with k sub-generators (section 3.3): real rows are divided by what the
    discriminator D makes of them into k subsets of similar output, and sub-generator i learns to
    have its rows given the least output T_i of the i-th subset (eq. 8), so that all of them
    together surround the data where one would end in its middle. The first ones, whose subsets are
    thin, make more of the potential outliers. A row's score is 1 - D(x), written as -log D(x).

    Parameters
    ----------
    n_steps, batch_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
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

    n_steps: int = 1000
    n_generators: int = 10
    stop_share: float = 1.0 / 3.0
    reference_share: float = 0.5
    gradient_penalty: float = 1.0

    name: ClassVar[str] = "mo-gaal"
    summary: ClassVar[str] = "discriminator against many generators around the data"
    paper: ClassVar[str] = (
        "Liu, Li, Zhou, Jiang, Sun, Wang & He (2019), Generative adversarial active learning for "
        "unsupervised outlier detection, TKDE"
    )
    judged: ClassVar[bool] = False
    bottleneck: ClassVar[bool] = False

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        own = {"n_generators": 1, "reference_share": 0.0, "gradient_penalty": 0.0}
        return super().at_least() | own

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return (*super().above_zero(), "stop_share")

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        return [
            f"{name} is {getattr(self, name)}, it must be at most 1"
            for name in ("stop_share", "reference_share")
            if getattr(self, name) > 1.0
        ]

    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make k sub-generators and D; the sub-generators' phase ends early."""
        networks = _Networks(sampler.data, self, draws).to(sampler.data.device)
        losses = _Losses(self, networks, sampler)
        return Game(
            networks,
            players={
                "discriminator": list(networks.discriminator.parameters()),
                "generators": list(networks.generators.parameters()),
            },
            phases=(
                Phase("discriminator", "discriminator", losses.discriminator),
                Phase("generators", "generators", losses.generators, stop=self.stop_share),
            ),
            rates={"generators": 0.1},
        )

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Ask D."""
        return Parts(None, verdict(a, networks, x))

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out D."""
        return BoxedDiscriminator.frozen_of(networks)


class _Networks(nn.Module):
    def __init__(self, rows: Tensor, detector: MOGAAL, draws: torch.Generator) -> None:
        super().__init__()
        sizes = (detector.latent_dim, 64, 64, rows.shape[1])
        self.generators = BatchedMLP(
            detector.n_generators, sizes, generator=draws, activation="relu"
        )
        self.discriminator = BoxedDiscriminator(rows, (128, 64), draws)


class _Losses:
    def __init__(self, detector: MOGAAL, networks: _Networks, sampler: Sampler) -> None:
        self.detector, self.networks, self.sampler = detector, networks, sampler
        k = detector.n_generators
        self.n_made = max(2, detector.batch_rows // k)
        """Rows a sub-generator makes a step."""
        shares = torch.arange(k, 0, -1, device=sampler.data.device)  # k, ..., 2, 1
        self.shares = (shares / shares.sum()).unsqueeze(1)  # [k, 1], sum to 1

    def discriminator(self) -> dict[str, Tensor]:
        """Tell real rows from potential outliers."""
        d, detector = self.networks.discriminator, self.detector
        x = self.sampler.rows(detector.batch_rows)  # [1, n, d]
        losses = {"real": softplus(-d(x)).mean()}
        losses |= d.regularised(
            x,
            self.sampler,
            penalty=detector.gradient_penalty,
            references=detector.reference_share,
        )
        share = 1.0 - detector.reference_share
        if share:
            with torch.no_grad():
                made = self._made()
            losses["made"] = (
                share * (self.shares * softplus(self._logits(made))).sum() / self.n_made
            )
        return losses

    def generators(self) -> dict[str, Tensor]:
        """Have the rows of each sub-generator given its own target (eq. 8)."""
        d = self.networks.discriminator
        with torch.no_grad():
            beliefs = d(self.sampler.rows(self.detector.batch_rows))[0].sigmoid()  # [n]
            targets = least_of_subsets(beliefs, self.detector.n_generators).unsqueeze(1)  # [k, 1]
        logits = self._logits(self._made())
        loss = targets * softplus(-logits) + (1.0 - targets) * softplus(logits)
        return {"target": loss.mean(dim=1).sum()}

    def _made(self) -> Tensor:
        k = self.detector.n_generators
        z = self.sampler.normal(k, self.n_made, self.detector.latent_dim)[0]
        rows: Tensor = self.networks.generators(z)  # [k, n_made, d]
        return rows

    def _logits(self, made: Tensor) -> Tensor:
        logits: Tensor = self.networks.discriminator(made.flatten(0, 1).unsqueeze(0))
        return logits.view(made.shape[:2])  # [k, n_made]


def least_of_subsets(beliefs: Tensor, k: int) -> Tensor:
    """Divide [n] outputs into k subsets of similar ones; return the least of each, [k], rising."""
    starts = torch.arange(k, device=beliefs.device) * len(beliefs) // k
    return beliefs.sort().values[starts]
