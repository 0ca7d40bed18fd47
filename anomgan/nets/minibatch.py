"""Minibatch discrimination: a discriminator that sees how alike the rows of a batch are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anomgan.nets.initialisation import initialise

__all__ = ["MinibatchDiscrimination"]


class MinibatchDiscrimination(nn.Module):
    """Appends to every row's features how close the other rows of its batch are.

    Salimans et al., 2016, "Improved techniques for training GANs", section 3.2. A generator
    that gives the same row again and again is found out, which no discriminator of single rows
    can do.

    For training only. The output for a row depends on the whole batch, so this layer must
    never stand in a scoring path: keep it in the head that plays the game, and score with
    another one. Real and generated rows go through it in batches of their own, as in the
    paper; for the same reason it does not go with a gradient penalty, which needs a logit to
    depend on its own row only.

    Memory grows with the square of the batch: m n^2 B C values.

    Parameters
    ----------
    n_members : int
    in_features : int
        Width A of the features.
    n_kernels : int
        B, similarities that are appended.
    kernel_dim : int
        C, width of the space in which one is measured.
    generator : torch.Generator
        Source of the initial weights; the global generator is never used.
    """

    def __init__(
        self,
        n_members: int,
        in_features: int,
        n_kernels: int,
        kernel_dim: int,
        *,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.n_kernels = n_kernels
        self.kernel_dim = kernel_dim
        weight = torch.empty(n_members, in_features, n_kernels * kernel_dim)
        initialise(weight, "he", gain=1.0, generator=generator)
        self.weight = nn.Parameter(weight)

    def similarities(self, x: Tensor) -> Tensor:
        """Return o(x_i)_b = sum_j exp(-|M_ib - M_jb|_1), [m, n, A] -> [m, n, B].

        The sum holds the row itself; it lies between 1 and n, where n means that all rows of
        the batch are alike.
        """
        m, n, _ = x.shape
        places = (x @ self.weight).view(m, n, self.n_kernels, self.kernel_dim)
        distance = (places.unsqueeze(2) - places.unsqueeze(1)).abs().sum(dim=4)  # [m, n, n, B]
        return torch.exp(-distance).sum(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map [m, n, A] to [m, n, A + B]."""
        return torch.cat([x, self.similarities(x)], dim=2)
