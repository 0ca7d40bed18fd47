"""Spectral normalisation: linear layers, and heads, whose slope is at most 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from anomgan.nets.batched import BatchedLinear

__all__ = ["SpectralHead", "SpectralLinear"]

_WARM_UP = 15
"""Power iterations at construction, as in `torch.nn.utils.parametrizations.spectral_norm`."""
_LEAST_NORM = 1e-12
"""A matrix of zeros stays one."""


class SpectralLinear(BatchedLinear):
    """One affine map a member, its matrix divided by its largest singular value.

    Miyato et al., 2018, "Spectral normalization for generative adversarial networks", eq. 8
    and algorithm 1. With leaky rectifiers between such layers a network is 1-Lipschitz.

    The singular value is estimated by power iteration, one a training forward, from a vector
    that is kept between forwards. A training forward is one in which the layer's own weight
    learns: in the opponent's phase, and without gradients, the estimate stands still. The
    vector is a parameter that no optimiser moves, so that checkpoints hold it and a resumed
    run goes on with it. (Its average over training, which ends up in the networks, is a start
    like any other; what is exported is `frozen_weight`, which does not need it.)

    Parameters
    ----------
    n_members, in_features, out_features : int
        Sizes; `weight` is [m, in, out], `bias` [m, 1, out], `left` [m, 1, in].
    generator : torch.Generator
        Source of the initial weights and vectors; the global generator is never used.
    gain : float
        Of the initial weights. Only a scale, which the division takes out again; it still
        decides how far a step of the optimiser turns them.
    scheme : str
        Of the initial weights, a key of `initialisation.INITIALISERS`.
    """

    def __init__(
        self,
        n_members: int,
        in_features: int,
        out_features: int,
        *,
        generator: torch.Generator,
        gain: float,
        scheme: str = "he",
    ) -> None:
        super().__init__(
            n_members, in_features, out_features, generator=generator, gain=gain, scheme=scheme
        )
        left = torch.empty(n_members, 1, in_features).normal_(generator=generator)
        self.left = nn.Parameter(normalize(left, dim=2), requires_grad=False)
        with torch.no_grad():
            for _ in range(_WARM_UP):
                self.left.copy_(self._iterated()[0])

    def acting_weight(self) -> Tensor:
        """Return the matrices [m, in, out] over the estimate of their largest singular values."""
        return self.weight / self._norm()

    def frozen_weight(self) -> Tensor:
        """Return the matrices [m, in, out] over their exact largest singular values.

        Computed in float64 and no longer an estimate: what a frozen score may be built on.
        """
        weight = self.weight.detach().double()
        norm: Tensor = torch.linalg.matrix_norm(weight, ord=2, keepdim=True)  # [m, 1, 1]
        return (weight / norm.clamp(min=_LEAST_NORM)).to(self.weight.dtype)

    def _norm(self) -> Tensor:
        """Estimate the largest singular values, [m, 1, 1], with the weight's gradient."""
        if self.training and torch.is_grad_enabled() and self.weight.requires_grad:
            left, right = self._iterated()
            with torch.no_grad():
                self.left.copy_(left)
        else:
            # A copy: the graph must not see the vector change in a later forward.
            left = normalize(self.left.detach().clone(), dim=2)
            right = normalize(left @ self.weight.detach(), dim=2)
        # The vectors count as constants: at convergence that is the singular value's gradient.
        norm: Tensor = left @ self.weight @ right.transpose(1, 2)
        return norm.clamp(min=_LEAST_NORM)

    def _iterated(self) -> tuple[Tensor, Tensor]:
        """One power iteration: left [m, 1, in] and right [m, 1, out] singular vectors."""
        weight = self.weight.detach()
        right = normalize(self.left.detach() @ weight, dim=2)
        left = normalize(right @ weight.transpose(1, 2), dim=2)
        return left, right


class SpectralHead(BatchedLinear):
    """One affine map a member, of which the first output has a slope of at most 1.

    The last layer of a network with several heads on one trunk: the first is the critic, which
    together with a trunk of `SpectralLinear` is 1-Lipschitz; the others are as steep as they
    need to be. The largest singular value of a matrix of one column is its norm, which takes no
    iteration and no vector that is kept.
    """

    def acting_weight(self) -> Tensor:
        """Return the matrices [m, in, out] with the first column over its norm."""
        return _first_normalised(self.weight)

    def frozen_weight(self) -> Tensor:
        """Return the matrices [m, in, out] as they act."""
        return _first_normalised(self.weight.detach())


def _first_normalised(weight: Tensor) -> Tensor:
    """Divide the first column of matrices [m, in, out] by its norm."""
    first = weight[..., :1]
    norm = torch.linalg.vector_norm(first, dim=1, keepdim=True).clamp(min=_LEAST_NORM)
    return torch.cat([first / norm, weight[..., 1:]], dim=2)
