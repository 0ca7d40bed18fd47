"""Which rows calibrate, and which of them each member of the ensemble never sees.

*Split*: one part of the rows is held out of every member. *Cross*: the calibrating rows are dealt
into as many folds as there are members, and member k sees all rows but fold k, so that every row
both trains and calibrates. Its calibration score is that of the one member that never saw it: an
out-of-bag calibration (Johansson, Boström, Löfström & Linusson, 2014), with the folds of
cross-conformal predictors (Vovk, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomgan.training.loop import Sampler

__all__ = ["Division", "FoldSampler"]


@dataclass(frozen=True)
class Division:
    """What becomes of n rows.

    Attributes
    ----------
    n_rows : int
    n_members : int
    calibrating : int64 [v]
        Rows that calibrate, upwards.
    fold : int64 [v] or None
        The member that never sees each of them; None: no member sees any.
    """

    n_rows: int
    n_members: int
    calibrating: NDArray[np.int64]
    fold: NDArray[np.int64] | None = None

    @property
    def trained(self) -> NDArray[np.int64]:
        """Rows that some member learns from."""
        rows = np.arange(self.n_rows)
        # Every fold is seen by the members of the others, of which there is one at least.
        return np.setdiff1d(rows, self.calibrating) if self.fold is None else rows

    def unseen_by(self, member: int) -> NDArray[np.int64]:
        """Places in `calibrating` of the rows that a member never sees."""
        if self.fold is None:
            return np.arange(len(self.calibrating))
        return np.flatnonzero(self.fold == member)

    def left_out(self, member: int) -> NDArray[np.int64]:
        """Rows that a member never sees."""
        return self.calibrating[self.unseen_by(member)]

    def sampler(self, features: Tensor, draws: torch.Generator) -> Sampler:
        """Return what draws training rows of encoded rows [n, d], on their device."""
        if self.fold is None:
            return Sampler(features[self.trained], self.n_members, draws)
        return FoldSampler(features, [self.left_out(k) for k in range(self.n_members)], draws)


class FoldSampler(Sampler):
    """Draws for each member from all rows but those that it may not see.

    Parameters
    ----------
    rows : Tensor [n, d]
        All rows, resident on the device.
    left_out : sequence of int64 [v_k]
        Positions in `rows` that member k never gets, member by member; not all of them.
    rng : torch.Generator
        On the same device.
    """

    def __init__(
        self, rows: Tensor, left_out: Sequence[NDArray[np.int64]], rng: torch.Generator
    ) -> None:
        super().__init__(rows, len(left_out), rng)
        everything = np.arange(len(rows))
        self.own = [
            torch.from_numpy(np.setdiff1d(everything, apart)).to(rows.device) for apart in left_out
        ]

    def rows(self, n: int) -> Tensor:
        """Draw [m, n, d] real rows, independently for each member, with replacement."""
        device = self.data.device
        index = [
            own[torch.randint(len(own), (n,), generator=self.rng, device=device)]
            for own in self.own
        ]
        return self.data[torch.stack(index)]
