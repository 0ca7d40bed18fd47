"""SO-GAAL (Liu et al., 2019): a generator of potential outliers, scored by its opponent."""

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

__all__ = ["SOGAAL"]


@dataclass(frozen=True)
class SOGAAL(Detector):
    """Single-objective generative adversarial active learning.

    A generator G makes potential outliers and learns to have them taken for rows (section 3.2,
    eq. 4 and 5); a discriminator D tells both apart. Early on G's rows lie around the data, and D
    has to draw the data's boundary; were G to go on, its rows would end among the data and D could
    tell nothing. So G is stopped, and D alone is trained to the end (algorithm 1). A row's score
    is 1 - D(x), written as -log D(x).

    Parameters
    ----------
    n_steps, batch_rows, learning_rate, latent_dim, ema_share, max_calibration_rows
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

    n_steps: int = 1000
    stop_share: float = 1.0 / 3.0
    reference_share: float = 0.5
    gradient_penalty: float = 1.0

    name: ClassVar[str] = "so-gaal"
    summary: ClassVar[str] = "discriminator against one generator of potential outliers"
    paper: ClassVar[str] = (
        "Liu, Li, Zhou, Jiang, Sun, Wang & He (2019), Generative adversarial active learning for "
        "unsupervised outlier detection, TKDE"
    )
    judged: ClassVar[bool] = False
    bottleneck: ClassVar[bool] = False

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return super().at_least() | {"reference_share": 0.0, "gradient_penalty": 0.0}

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
        """Make G and D; G's phase ends early."""
        networks = _Networks(sampler.data, self.latent_dim, draws).to(sampler.data.device)
        losses = _Losses(self, networks, sampler)
        return Game(
            networks,
            players={
                "discriminator": list(networks.discriminator.parameters()),
                "generator": list(networks.generator.parameters()),
            },
            phases=(
                Phase("discriminator", "discriminator", losses.discriminator),
                Phase("generator", "generator", losses.generator, stop=self.stop_share),
            ),
            rates={"generator": 0.1},
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
    def __init__(self, rows: Tensor, k: int, draws: torch.Generator) -> None:
        super().__init__()
        sizes = (k, 64, 64, rows.shape[1])
        self.generator = BatchedMLP(1, sizes, generator=draws, activation="relu")
        self.discriminator = BoxedDiscriminator(rows, (128, 64), draws)


class _Losses:
    def __init__(self, detector: SOGAAL, networks: _Networks, sampler: Sampler) -> None:
        self.detector, self.networks, self.sampler = detector, networks, sampler

    def discriminator(self) -> dict[str, Tensor]:
        """Tell real rows from potential outliers (eq. 4)."""
        d, n = self.networks.discriminator, self.detector.batch_rows
        x = self.sampler.rows(n)  # [1, n, d]
        losses = {"real": softplus(-d(x)).mean()}
        losses |= d.regularised(
            x,
            self.sampler,
            penalty=self.detector.gradient_penalty,
            references=self.detector.reference_share,
        )
        share = 1.0 - self.detector.reference_share
        if share:
            with torch.no_grad():
                made = self._made()
            losses["made"] = share * softplus(d(made)).mean()
        return losses

    def generator(self) -> dict[str, Tensor]:
        """Have generated rows taken for real ones (eq. 5)."""
        return {"taken": softplus(-self.networks.discriminator(self._made())).mean()}

    def _made(self) -> Tensor:
        z = self.sampler.normal(self.detector.batch_rows, self.detector.latent_dim)
        rows: Tensor = self.networks.generator(z)  # [1, n, d]
        return rows
