"""What detectors share whose score is the verdict of the generator's opponent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.detectors.base import Detector, Game
from anomgan.detectors.boxed import BoxedDiscriminator, verdict
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Phase, Sampler

__all__ = ["ActiveLearning", "ByDiscriminator", "OneGenerator", "game_of_two"]

Loss = Callable[[], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ByDiscriminator(Detector):
    """A detector whose score is -log D(x) of a `BoxedDiscriminator`."""

    judged: ClassVar[bool] = False
    bottleneck: ClassVar[bool] = False

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Ask D."""
        return Parts(None, verdict(a, networks, x))

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out D."""
        return BoxedDiscriminator.frozen_of(networks)


@dataclass(frozen=True)
class ActiveLearning(ByDiscriminator):
    """Generative adversarial active learning: what SO-GAAL and MO-GAAL share."""

    n_steps: int = 1000
    stop_share: float = 1.0 / 3.0
    reference_share: float = 0.5
    gradient_penalty: float = 1.0

    paper: ClassVar[str] = (
        "Liu, Li, Zhou, Jiang, Sun, Wang & He (2019), Generative adversarial active learning for "
        "unsupervised outlier detection, TKDE"
    )

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

    def told_apart(
        self, d: BoxedDiscriminator, sampler: Sampler, made: Callable[[], Tensor]
    ) -> dict[str, Tensor]:
        """Losses of D: real rows from potential outliers (eq. 4).

        `made` gives the mean loss on generated rows, which are made without a gradient.
        """
        x = sampler.rows(self.batch_rows)  # [1, n, d]
        losses = {"real": softplus(-d(x)).mean()}
        losses |= d.regularised(
            x, sampler, penalty=self.gradient_penalty, references=self.reference_share
        )
        share = 1.0 - self.reference_share
        return losses | {"made": share * made()} if share else losses


class OneGenerator(nn.Module):
    """A generator and its boxed opponent.

    Parameters
    ----------
    rows : Tensor [n, d]
        Training rows, for the box.
    latent_dim : int
        k.
    draws : torch.Generator
        On the CPU.
    n_generators : int
        Members of `generator`.
    """

    def __init__(
        self, rows: Tensor, latent_dim: int, draws: torch.Generator, *, n_generators: int = 1
    ) -> None:
        super().__init__()
        self.latent_dim, self.n_generators = latent_dim, n_generators
        sizes = (latent_dim, 64, 64, rows.shape[1])
        self.generator = BatchedMLP(n_generators, sizes, generator=draws, activation="relu")
        self.discriminator = BoxedDiscriminator(rows, (128, 64), draws)

    def made(self, sampler: Sampler, n: int) -> Tensor:
        """Return [m, n, d] rows of m generators."""
        rows: Tensor = self.generator(sampler.normal(self.n_generators, n, self.latent_dim)[0])
        return rows


def game_of_two(
    networks: OneGenerator, discriminator: Loss, generator: Loss, *, stop: float, rate: float
) -> Game:
    """Alternate both players; the generator until a share of the steps, at its own rate."""
    return Game(
        networks,
        players={
            "discriminator": list(networks.discriminator.parameters()),
            "generator": list(networks.generator.parameters()),
        },
        phases=(
            Phase("discriminator", "discriminator", discriminator),
            Phase("generator", "generator", generator, stop=stop),
        ),
        rates={"generator": rate},
    )
