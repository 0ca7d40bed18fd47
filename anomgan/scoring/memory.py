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

from anomgan.scoring.products import product

__all__ = ["SHARE_FLOOR", "Memory", "leave_one_out_nearest", "spread"]

SHARE_FLOOR = 0.01
"""Least share of a feature in a soft distance, in squared widths: it keeps the shares defined
where a row coincides with the local mean."""

_SAMPLE_CHUNK = 256


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

    def soft_distance(self, x: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Soft squared distance T, float32 [n], and its shares by feature, [n, d].

        Parameters
        ----------
        x : Tensor float32 [n, d]
        own : Tensor int64 [n], optional
            Position in memory of each row itself, which is then counted once less; -1 where the
            row is not in memory.
        """
        largest, kernel = self._kernel(x, own)
        total = kernel.sum(dim=1)  # [n]
        log_sum = largest + self.width**2 * total.double().log()
        norm = x.double().square().sum(dim=1)
        energy = (norm - 2.0 * log_sum + 2.0 * self.width**2 * self.peak).clamp(min=0.0).float()
        # The gradient of T points away from the local mean of the known rows.
        offset = x - product(kernel, self.rows) / total.unsqueeze(1)
        share = offset.square() + SHARE_FLOOR * self.width**2
        return energy, share * (energy / share.sum(dim=1)).unsqueeze(1)

    def _kernel(self, x: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
        """Largest log kernel in h^2 units, float64 [n]; kernels relative to it, float32 [n, a]."""
        log_kernel = product(x.double(), self.rows64.T) + self.bias  # [n, a]
        if own is not None:
            index = (own >= 0).nonzero().squeeze(1)
            rest = self.counts[own[index]].double() - 1.0
            fewer = self.width**2 * (rest.log() - self.counts[own[index]].double().log())
            log_kernel[index, own[index]] += fewer  # minus infinity where nothing is left
        largest = log_kernel.max(dim=1).values
        relative = (log_kernel - largest.unsqueeze(1)) / self.width**2
        return largest, relative.float().exp()

    def with_peak(self, sample: int = 2048) -> Memory:
        """Set `peak` from (evenly spread) known rows."""
        index = spread(len(self.rows), sample).to(self.rows.device)
        peak = -math.inf
        for start in range(0, len(index), _SAMPLE_CHUNK):
            x = self.rows[index[start : start + _SAMPLE_CHUNK]]
            largest, kernel = self._kernel(x, None)
            log_sum = (largest - 0.5 * x.double().square().sum(dim=1)) / self.width**2
            peak = max(peak, float((log_sum + kernel.sum(dim=1).double().log()).max()))
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
