"""Initial weights of batched layers, by name, from a given generator."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from anomgan.errors import UsageError

__all__ = ["INITIALISERS", "initialise"]

_DCGAN_DEVIATION = 0.02
"""Radford et al., 2016, section 4."""


def initialise(weight: Tensor, scheme: str, *, gain: float, generator: torch.Generator) -> None:
    """Fill weights in place.

    Parameters
    ----------
    weight : Tensor [m, in, out]
        One matrix a member, each drawn anew.
    scheme : str
        Key of `INITIALISERS`.
    gain : float
        Factor for the activation that feeds on the layer.
    generator : torch.Generator
        On the weight's device; the global generator is never used.

    Raises
    ------
    UsageError
        The scheme is not known.
    """
    if scheme not in INITIALISERS:
        raise UsageError(
            f"initial weights {scheme!r} are not known: choose one of {sorted(INITIALISERS)}"
        )
    with torch.no_grad():
        INITIALISERS[scheme](weight, gain, generator)


def _he(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Draw normal, variance gain^2 / in: the forward pass keeps its scale (He et al., 2015)."""
    weight.normal_(0.0, gain / math.sqrt(weight.shape[1]), generator=generator)


def _xavier(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Draw uniform, variance 2 gain^2 / (in + out) (Glorot & Bengio, 2010, eq. 16)."""
    bound = gain * math.sqrt(6.0 / (weight.shape[1] + weight.shape[2]))
    weight.uniform_(-bound, bound, generator=generator)


def _orthogonal(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Draw gain times orthonormal rows or columns, the fewer of both (Saxe et al., 2014)."""
    m, n_in, n_out = weight.shape
    tall = torch.empty(m, max(n_in, n_out), min(n_in, n_out), device=weight.device)
    tall.normal_(generator=generator)
    q, r = torch.linalg.qr(tall)
    # QR's signs are a convention; with these every orthogonal matrix is equally likely.
    q = q * torch.diagonal(r, dim1=1, dim2=2).sign().unsqueeze(1)
    weight.copy_(gain * (q if n_in >= n_out else q.transpose(1, 2)))


def _normal(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Draw normal, standard deviation 0.02 whatever the sizes and the gain (DCGAN)."""
    weight.normal_(0.0, _DCGAN_DEVIATION, generator=generator)


INITIALISERS: dict[str, Callable[[Tensor, float, torch.Generator], None]] = {
    "he": _he,
    "xavier": _xavier,
    "orthogonal": _orthogonal,
    "normal": _normal,
}
"""Schemes by name; each fills weights [m, in, out] in place, given gain and generator."""
