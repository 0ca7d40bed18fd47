"""Instance noise: both players' rows blurred alike, less and less over training."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from anomgan.errors import UsageError
from anomgan.training.loop import Sampler

__all__ = ["InstanceNoise"]


@dataclass(frozen=True)
class InstanceNoise:
    """Gaussian noise on real and generated rows, that decays linearly (Sønderby et al., 2017).

    Real and generated rows that both lie on thin manifolds can be told apart for sure, and a
    sure discriminator teaches nothing; blurred, the two overlap (Arjovsky & Bottou, 2017).
    Every row that the discriminator is shown in training needs the noise, real or generated,
    in both players' phases. It is for training only: no scoring path draws anything.

    Attributes
    ----------
    width : float
        Standard deviation at the first step, in the units of the rows; 0 is no noise.
    until : float
        Share of the planned steps, in (0, 1], after which there is none.

    Raises
    ------
    UsageError
        An attribute is out of its range.
    """

    width: float
    until: float = 1.0

    def __post_init__(self) -> None:
        faults = []
        if not self.width >= 0.0:
            faults.append(f"the noise's width is {self.width}, it must not be negative")
        if not 0.0 < self.until <= 1.0:
            faults.append(f"the noise's end is {self.until}, it must lie in (0, 1]")
        if faults:
            raise UsageError("; ".join(faults), faults)

    def width_at(self, done: float) -> float:
        """Return the standard deviation when a share `done` of the steps is done."""
        return self.width * max(0.0, 1.0 - done / self.until)

    def __call__(self, rows: Tensor, sampler: Sampler) -> Tensor:
        """Blur rows [m, n, d] for the step that the sampler is at; gradients pass through.

        Without noise left the rows are returned as they are and nothing is drawn.
        """
        width = self.width_at(sampler.done)
        return rows + width * sampler.normal(*rows.shape[1:]) if width > 0.0 else rows
