"""Networks in float16: what they can hold.

What a layer adds up is at most the sum of its terms' magnitudes, whatever the row and in whatever
order. Rows are in the box, and codes are cut well beyond the largest ones that are met: that bounds
every layer, and each is multiplied by the power of two that takes its bound to where float16 is
safe. The steps of the inversion need no bound: where they give no number, the start is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from anomgan.errors import UsageError
from anomgan.export.graph import Network, less_one, member
from anomgan.scoring.frozen import FrozenScore
from anomgan.scoring.memory import spread

__all__ = [
    "Forward",
    "box_corners",
    "farthest_corner",
    "forward",
    "forward_in_half",
    "require_half",
    "scaled_down",
    "scaled_forward",
]

_LARGEST: Final = 65504.0 / 2
"""Half of float16's largest number: what is rounded on the way has room."""
_ROOM: Final = 2.0
"""Codes may be so many times as large as any that is met."""
_MET: Final = 2048
"""Most known rows, and corners of the box, whose codes are looked at."""


@dataclass(frozen=True)
class Forward:
    """One member's generator, as rows are generated in the graph.

    Attributes
    ----------
    net : Network
        Its hidden units are kept with 1 added (`anomgan.export.inversion`): the biases of the
        layers behind them take that off.
    scales : tuple of float
        By layer, what its sums are multiplied by; each at most the one before.
    codes : float
        Largest magnitude of codes; larger ones are cut.
    """

    net: Network
    scales: tuple[float, ...]
    codes: float


def forward(net: Network) -> Forward:
    """Return a generator as it is, for float32."""
    (first, *biases), (_, *matrices) = net.biases, net.matrices
    less = (less_one(w, b).reshape(1, -1) for w, b in zip(matrices, biases, strict=True))
    kept = Network(net.matrices, (first, *less), net.activation)
    return Forward(kept, (1.0,) * len(net.matrices), math.inf)


def forward_in_half(score: FrozenScore, m: int) -> Forward:
    """Scale one member's generator so that float16 holds sums of layers and distances of rows."""
    codes = 2.0 ** math.ceil(math.log2(_ROOM * max(1.0, _largest_code(score, m))))
    return scaled_forward(member(score.generator, m), codes, farthest_corner(score))


def scaled_forward(net: Network, codes: float, rows: NDArray[np.float64]) -> Forward:
    """Scale a generator of codes up to a magnitude, and of rows [d] up to some magnitudes."""
    net = forward(net).net
    at_most = np.full(len(net.matrices[0]), codes)
    bounds = []
    for matrix, bias in zip(net.matrices, net.biases, strict=True):
        bounds.append(_bound(matrix, bias, at_most))
        at_most = bounds[-1] + 1.0
    bounds[-1] = bounds[-1] + rows
    return Forward(*_scaled(net, bounds), codes)


def require_half(score: FrozenScore) -> None:
    """See to it that float16 holds every row as the networks see it.

    Raises
    ------
    UsageError
        The model is of before there was a box, or the box reaches too far.
    """
    if score.box is None:
        raise UsageError(
            "float16 cannot hold every row, and this model, of an earlier anomgan, has no box that "
            "rows are seen through: fit it again, or export it with --precision fp32"
        )
    farthest = float(farthest_corner(score).max())
    if not farthest <= _LARGEST:
        raise UsageError(
            f"float16 is safe up to {_LARGEST:.0f}, and known rows lie up to {farthest:.3g} "
            "standard deviations out, with some room: export this model with --precision fp32"
        )


def _largest_code(score: FrozenScore, m: int) -> float:
    """Largest magnitude of codes at known rows and at corners of the box."""
    known = score.memory_rows[spread(len(score.memory_rows), _MET)]
    rows = torch.cat([known, box_corners(score, _MET)])
    return float(score.encoder.member(m).activations(rows.unsqueeze(0))[-1].abs().max())


def box_corners(score: FrozenScore, n: int) -> torch.Tensor:
    """Draw corners of the box, float32 [n, d]: the same ones for the same box.

    Raises
    ------
    ValueError
        There is no box.
    """
    low, high = _edges(score)
    drawn = torch.rand(n, len(low), generator=torch.Generator().manual_seed(0))
    return torch.where(drawn < 0.5, low, high)


def farthest_corner(score: FrozenScore) -> NDArray[np.float64]:
    """Largest magnitudes in the box, float64 [d].

    Raises
    ------
    ValueError
        There is no box.
    """
    low, high = (edge.numpy().astype(np.float64) for edge in _edges(score))
    return np.maximum(np.abs(low), np.abs(high))


def _edges(score: FrozenScore) -> tuple[torch.Tensor, torch.Tensor]:
    if score.box is None:
        raise ValueError("this score has no box")
    return score.box


def scaled_down(net: Network, at_most: NDArray[np.float64]) -> tuple[Network, tuple[float, ...]]:
    """Scale the layers of a network of leaky rectifiers so that float16 holds what they add up.

    A rectifier of a multiple is that multiple of the rectifier, and multiplying by a power of two
    rounds nothing: what a layer gives is its output times the scale returned for it.

    Parameters
    ----------
    net : Network
    at_most : float64 [in]
        Bounds of the inputs' magnitudes.
    """
    bounds = []
    for matrix, bias in zip(net.matrices, net.biases, strict=True):
        at_most = _bound(matrix, bias, at_most)
        bounds.append(at_most)
    return _scaled(net, bounds)


def _scaled(
    net: Network, bounds: Sequence[NDArray[np.float64]]
) -> tuple[Network, tuple[float, ...]]:
    """Scale each layer by its bounds, and take the scale of the layer before off again."""
    matrices, biases, scales = [], [], [1.0]
    for matrix, bias, bound in zip(net.matrices, net.biases, bounds, strict=True):
        most = max(1.0, float(bound.max()))
        scale = min(scales[-1], math.ldexp(1.0, math.floor(math.log2(_LARGEST / most))))
        matrices.append(matrix * (scale / scales[-1]))
        biases.append(bias * scale)
        scales.append(scale)
    return Network(tuple(matrices), tuple(biases), net.activation), tuple(scales[1:])


def _bound(
    matrix: NDArray[Any], bias: NDArray[Any], at_most: NDArray[np.float64]
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = at_most @ np.abs(matrix.astype(np.float64)) + np.abs(bias.ravel())
    return found
