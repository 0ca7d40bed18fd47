"""What a detector of the literature is: networks, a game to train them, and a score.

A detector is one dataclass in one short file. Its fields are its hyperparameters, its methods the
three things that its paper defines. Training, calibration, explanation, persistence and export
(`anomgan.published`) are the same for all, and are nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from anomgan.errors import UsageError
from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP
from anomgan.presets import type_faults
from anomgan.training.loop import Phase, Sampler

__all__ = ["Detector", "Game", "Sizes"]

MOST_GROWTH, MOST_WIDER = 12.0, 4.0
"""Bounds of what a large table adds: rows seen in all, and rows a step."""


@dataclass(frozen=True)
class Sizes:
    """What the table decides.

    Attributes
    ----------
    n_features : int
        Encoded columns, d.
    columns : mapping of str to tuple of int
        Positions of each column's features, by name, in schema order; may be empty.
    """

    n_features: int
    columns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Game:
    """Networks, and how they are trained.

    Attributes
    ----------
    networks : nn.Module
        All networks, one member each ([1, n, ...] tensors).
    players : mapping of str to list of Parameter
        Parameters by optimiser.
    phases : tuple of Phase
        Of every step, in order.
    rates : mapping of str to float
        Factors of the learning rate by player; 1 where none is given.
    weight_decay : float
        Decoupled, per step.
    betas : tuple of float
        Adam's.
    """

    networks: nn.Module
    players: Mapping[str, list[nn.Parameter]]
    phases: tuple[Phase, ...]
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.5, 0.999)


@dataclass(frozen=True)
class Detector(ABC):
    """A detector of the literature; subclasses add the paper's own hyperparameters.

    Parameters
    ----------
    n_steps : int
        Training steps, each with every phase that is due.
    batch_rows : int
        Real rows a step.
    plan_rows : int
        Rows up to which `n_steps` and `batch_rows` are meant. Tables with r times as many are
        trained on r times as many rows, 12 times at most, so that every row is seen as often:
        first by batches up to 4 times as large, then by more steps. 0: never.
    learning_rate : float
        Of Adam; it decays along a cosine.
    latent_dim : int
        k; fewer where the table has no more features than that.
    ema_share : float
        Half-life of the averaged weights, as a share of the rows seen.
    max_calibration_rows : int
        Most rows held out to calibrate; below that a fifth are.
    """

    n_steps: int = 2000
    batch_rows: int = 128
    plan_rows: int = 16_000
    learning_rate: float = 1e-3
    latent_dim: int = 32
    ema_share: float = 0.05
    max_calibration_rows: int = 2000

    name: ClassVar[str]
    """What it is called, in lower case: `anomgan fit --detector NAME`."""
    summary: ClassVar[str]
    """A line about it."""
    paper: ClassVar[str]
    """Authors, year, title and where."""
    judged: ClassVar[bool] = True
    """Whether its generator is meant to give normal rows, so that coverage tells its health."""
    bottleneck: ClassVar[bool] = True
    """Whether a row is scored by what its code gives back."""
    members: ClassVar[int] = 1
    calibration: ClassVar[str] = "split"

    def __post_init__(self) -> None:
        faults = type_faults(self)
        if faults:
            raise UsageError("; ".join(faults), faults)
        faults = [
            f"{name} is {getattr(self, name)}, it must be at least {least}"
            for name, least in self.at_least().items()
            if not getattr(self, name) >= least
        ]
        faults += [
            f"{name} is {getattr(self, name)}, it must be above 0"
            for name in self.above_zero()
            if not getattr(self, name) > 0
        ]
        faults += self.faults()
        if faults:
            raise UsageError("; ".join(faults), faults)

    @classmethod
    def at_least(cls) -> dict[str, float]:
        """Return bounds of parameters."""
        return {
            "n_steps": 1,
            "batch_rows": 4,
            "plan_rows": 0,
            "latent_dim": 1,
            "max_calibration_rows": 1,
        }

    @classmethod
    def above_zero(cls) -> tuple[str, ...]:
        """Return the names of parameters that must be positive."""
        return ("learning_rate", "ema_share")

    def faults(self) -> list[str]:
        """Say what else is wrong with the parameters."""
        return []

    def grown(self, n_rows: int) -> Detector:
        """Return the detector with the plan for a table of so many rows, as `plan_rows` says."""
        growth = n_rows / self.plan_rows if self.plan_rows else 1.0
        if growth <= 1.0:
            return self
        wider = min(growth, MOST_WIDER)
        longer = min(growth, MOST_GROWTH) / wider
        return replace(
            self,
            n_steps=round(longer * self.n_steps),
            batch_rows=round(wider * self.batch_rows),
            plan_rows=0,
        )

    def bound(self, sizes: Sizes) -> Detector:
        """Return the detector with what it has to know of the table.

        By default that are fewer latent dimensions than features, where a `bottleneck` is what
        makes it see: through as many codes as a row has values, any row comes back.
        That is kept in fields of metadata ``{"internal": True}``: stored with the model, and no
        parameter of the estimator.

        Raises
        ------
        UsageError
            A parameter does not suit the table.
        """
        if not self.bottleneck:
            return self
        return replace(self, latent_dim=min(self.latent_dim, max(1, sizes.n_features - 1)))

    @abstractmethod
    def game(self, sizes: Sizes, sampler: Sampler, draws: torch.Generator) -> Game:
        """Make the networks, initialised from `draws` (on the CPU), and the phases.

        The networks are moved to the sampler's device here.
        """

    @abstractmethod
    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Write down the score of rows x [n, d]: larger for more abnormal rows, never negative."""

    def generate(self, networks: nn.Module, codes: Tensor) -> Tensor | None:
        """Return rows [1, n, d] generated from codes [1, n, k]; None where there is no such."""
        generator = getattr(networks, "generator", None)
        if not self.judged or not isinstance(generator, BatchedMLP):
            return None
        rows: Tensor = generator(codes)
        return rows

    def freeze(self, networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out the networks that the score uses, by name: all perceptrons by default."""
        return {
            name: FrozenNetwork.of(network)
            for name, network in networks.named_children()
            if isinstance(network, BatchedMLP)
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters by name, numbers as Python's own."""
        plain: dict[str, type] = {"int": int, "float": float, "bool": bool}
        return {
            f.name: plain.get(str(f.type), lambda value: value)(getattr(self, f.name))
            for f in fields(self)
        }

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the parameters' names."""
        return tuple(f.name for f in fields(cls) if not f.metadata.get("internal"))
