"""Discriminators that extrapolate nothing: beyond the training rows' range, distance decides.

What a perceptron says far from all rows it was trained on is an accident of its last active
units, and where the discriminator is the score, a row thrown far away may then pass as normal. A
boxed discriminator judges the nearest point of the box between the first and the last percentile
of each feature, and takes off a nat for every standard deviation between the two. It is trained
as it is used: rows of the tails, real and generated, are seen through the same box.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork
from anomgan.nets.batched import BatchedMLP
from anomgan.training.loop import Sampler
from anomgan.training.penalties import zero_centred_penalty

__all__ = ["Box", "BoxedDiscriminator", "into_box", "verdict"]

TAIL = 0.01
"""Share of the training rows beyond each side of the box. With their very range, one broken row
would stretch the box over a region that no other row vouches for."""


class Box(nn.Module):
    """Range of the training rows without their tails, feature by feature.

    Parameters
    ----------
    rows : Tensor [n, d]
        Training rows.
    """

    low: Tensor
    high: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        # In numpy, on the CPU: the same corners on every device, and for tables of any length.
        corners = np.quantile(rows.cpu().numpy(), [TAIL, 1.0 - TAIL], axis=0).astype(np.float32)
        self.register_buffer("low", torch.from_numpy(corners[0]))
        self.register_buffer("high", torch.from_numpy(corners[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the nearest points of the box, [..., d]."""
        return torch.minimum(torch.maximum(x, self.low), self.high)

    def uniform(self, shares: Tensor) -> Tensor:
        """Return the points at shares [..., d] of the way from the lower to the upper corner."""
        return self.low + shares * (self.high - self.low)

    def frozen(self) -> FrozenNetwork:
        """Copy out the two corners."""
        return FrozenNetwork.numbers(torch.stack([self.low, self.high]).cpu().numpy())


def into_box(a: Arithmetic[Any], box: FrozenNetwork, x: Any) -> Any:
    """Write down the nearest points of a box; the counterpart of `Box.forward`."""
    low, high = a.constant(box.row(0)), a.constant(box.row(1))
    return a.minimum(a.maximum(x, low), high)


class BoxedDiscriminator(nn.Module):
    """Logit(x) = judge(b) - |x - b|_1, with b the point of the box next to x.

    Parameters
    ----------
    rows : Tensor [n, d]
        Training rows, for the box.
    hidden : sequence of int
        Widths.
    draws : torch.Generator
        On the CPU.
    """

    def __init__(self, rows: Tensor, hidden: Sequence[int], draws: torch.Generator) -> None:
        super().__init__()
        self.judge = BatchedMLP(1, (rows.shape[1], *hidden, 1), generator=draws)
        self.box = Box(rows)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [1, n] of rows [1, n, d], larger for more normal ones."""
        near = self.box(x)
        logits: Tensor = self.judge(near).squeeze(2) - (x - near).abs().sum(dim=2)
        return logits

    def regularised(
        self, x: Tensor, sampler: Sampler, *, penalty: float, references: float
    ) -> dict[str, Tensor]:
        """Return what keeps the logit smooth and informed, for rows x [1, n, d].

        Parameters
        ----------
        x : Tensor
            Real rows.
        sampler : Sampler
        penalty : float
            Weight of R1, the mean squared norm of the logit's gradient at real rows.
        references : float
            Weight of as many rows drawn uniformly from the box, to be told from real ones.
        """
        losses = {}
        if penalty:
            leaf = x.detach().requires_grad_(True)
            losses["smoothness"] = penalty * zero_centred_penalty(self(leaf), leaf)
        if references:
            anywhere = self.box.uniform(sampler.uniform(*x.shape[1:]))
            losses["anywhere"] = references * softplus(self(anywhere)).mean()
        return losses

    @staticmethod
    def frozen_of(networks: nn.Module) -> dict[str, FrozenNetwork]:
        """Copy out what `verdict` takes, from the member `discriminator` of some networks."""
        own = networks.get_submodule("discriminator")
        if not isinstance(own, BoxedDiscriminator):
            raise TypeError(f"the discriminator is a {type(own).__name__}")
        return {"judge": FrozenNetwork.of(own.judge), "box": own.box.frozen()}


def verdict(a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any) -> Any:
    """Write down -log D(x) = softplus(-logit), [n, 1], of a `BoxedDiscriminator`."""
    judge = networks["judge"]
    near = into_box(a, networks["box"], x)
    beyond = a.row_sum(a.absolute(a.subtract(x, near)), judge.widths[0])
    return a.softplus(a.subtract(beyond, a.network(near, judge)[-1]))
