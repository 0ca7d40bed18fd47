"""Soft distance to the known normal rows, the same in torch and in the exported graph.

The distances between a row and thousands of known ones come from one matrix product. They are
small differences of large numbers, so the product is done in float64; what follows is well
conditioned and goes on in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from anomgan.scoring.exponential import exp_
from anomgan.scoring.products import product

__all__ = ["REFERENCES", "Memory", "leave_one_out_nearest", "spread"]

REFERENCES = 512
"""Most known rows that columns are compared with one by one (`anomgan.scoring.attribution`)."""

_SAMPLE_CHUNK = 256
_FARTHEST = 1e30


@dataclass(frozen=True)
class Memory:
    """Known rows, and a Gaussian kernel around each of them.

    With D_j the distance to row j, c_j how often the row was seen and h the width, the soft
    squared distance is

        T(x) = max(0, 2 h^2 (peak - log sum_j c_j exp(-D_j^2 / (2 h^2))))

    that is, up to the constant `peak`, -2 h^2 times the log of a kernel density (Parzen, 1962).
    For h below the spacing of the rows it is the squared distance to the nearest one.

    Attributes
    ----------
    rows : Tensor float32 [a, d]
        Distinct rows.
    counts : Tensor float32 [a]
        How many known rows each stands for.
    width : float
        h, standardised units.
    peak : float
        Log of the largest kernel sum found at a known row, so that T is 0 where rows are densest.
    """

    rows: Tensor
    counts: Tensor
    width: float
    peak: float = 0.0

    @cached_property
    def rows64(self) -> Tensor:
        """The rows in float64, [a, d]."""
        return self.rows.double()

    @cached_property
    def bias(self) -> Tensor:
        """Complete a product with the rows to a log kernel: float64 [a], in units of h^2."""
        half = 0.5 * self.rows64.square().sum(dim=1)
        return self.width**2 * self.counts.double().log() - half

    @cached_property
    def references(self) -> Tensor:
        """Positions of the reference rows, int64 [b]: evenly spread."""
        return spread(len(self.rows), REFERENCES).to(self.rows.device)

    def soft_distance(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Soft squared distance T, float32 [n], and gaps to the references, float32 [n, b].

        Parameters
        ----------
        x : Tensor float32 [n, d]
        own : Tensor int64 [n], optional
            Position in memory of each row itself, which is then counted once less; -1 where the
            row is not in memory.

        Returns
        -------
        tuple of Tensor
            T; and D_j^2 - 2 h^2 log c_j for every reference j.
        """
        log_kernel = self._log_kernel(x, own)
        norm = x.double().square().sum(dim=1)
        gaps = norm.unsqueeze(1) - 2.0 * log_kernel[:, self.references]
        largest, total = self._sum(log_kernel)
        log_sum = largest + self.width**2 * total.double().log()
        energy = (norm - 2.0 * log_sum + 2.0 * self.width**2 * self.peak).clamp(min=0.0).float()
        # Infinite for a row that is left out: large enough, and two of them differ by nothing.
        return energy, gaps.float().clamp(max=_FARTHEST)

    def _log_kernel(self, x: Tensor, own: Tensor | None) -> Tensor:
        """Log kernels less that of x with itself, in units of h^2: float64 [n, a]."""
        log_kernel = product(x.double(), self.rows64.T).add_(self.bias)  # [n, a]
        if own is not None:
            index = (own >= 0).nonzero().squeeze(1)
            rest = self.counts[own[index]].double() - 1.0
            fewer = self.width**2 * (rest.log() - self.counts[own[index]].double().log())
            log_kernel[index, own[index]] += fewer  # minus infinity where nothing is left
        return log_kernel

    def _sum(self, log_kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Largest log kernel, float64 [n], and the sum of kernels relative to it, float32 [n].

        Works in place: memory for thousands of numbers a row takes longer to get than to fill.
        """
        largest = log_kernel.amax(dim=1)
        relative = log_kernel.sub_(largest.unsqueeze(1)).div_(self.width**2)
        return largest, exp_(relative.float()).sum(dim=1)

    def with_peak(self, sample: int = 2048) -> Memory:
        """Set `peak` from (evenly spread) known rows."""
        index = spread(len(self.rows), sample).to(self.rows.device)
        peak = -math.inf
        for start in range(0, len(index), _SAMPLE_CHUNK):
            x = self.rows[index[start : start + _SAMPLE_CHUNK]]
            largest, total = self._sum(self._log_kernel(x, None))
            log_sum = (largest - 0.5 * x.double().square().sum(dim=1)) / self.width**2
            peak = max(peak, float((log_sum + total.double().log()).max()))
        return replace(self, peak=peak)


def spread(n: int, most: int) -> Tensor:
    """At most `most` positions, evenly spread over n: known rows stand in sorted order."""
    return torch.linspace(0, n - 1, min(n, most), dtype=torch.float64).long()


def leave_one_out_nearest(rows: Tensor, index: Tensor) -> Tensor:
    """Index of the nearest *other* row, for the rows at `index`: int64 [len(index)].

    The nearest row maximises ``x . row - |row|^2 / 2``, which needs no norm of x.
    """
    similarity = rows[index].double() @ rows.double().T - 0.5 * rows.double().square().sum(dim=1)
    similarity[torch.arange(len(index), device=rows.device), index] = -torch.inf
    return similarity.argmax(dim=1)
