"""The formula of a student (`anomgan.distillation`): a network, and distances to a few centres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP

__all__ = ["NEAREST", "Student", "log_distance", "read_out", "unscaled"]

Numbers = NDArray[np.float64]

_MOST = 60.0
"""Logarithm of the most that a student's network lets a feature add: float32 ends at 88."""
_NARROWEST = 1e-3
"""Half the width that a side of the box has at least, in standardised units."""
_LOST = 6.0 * 2.0**-23
"""What float32 may make of a squared distance of 0, as a share of the squared norm: a few units of
its last place, as the errors of many terms mostly cancel."""
NEAREST = 1e-2
"""Added to the squared distance to the nearest centre, before its logarithm."""


@dataclass(frozen=True)
class Student:
    """The formula: sum_j exp(net_j(b, log D^2)) + growth |x - b|^2.

    b is the point of a box next to the row x, and D its distance to the nearest centre. The network
    gives the logarithm of what each feature adds.

    Attributes
    ----------
    growth : float
        Of the score beyond the box, a squared standard deviation.
    """

    growth: float

    name: ClassVar[str] = "student"

    def score(
        self, a: Arithmetic[Any], networks: Mapping[str, FrozenNetwork], x: Any
    ) -> Parts[Any]:
        """Score rows x [n, d]."""
        box, net = networks["box"], networks["student"]
        # In units of the box all features have the same bounds; products scale them back.
        low, high = (box.row(i).ravel().astype(np.float64) for i in (0, 1))
        middle, half = (low + high) / 2.0, np.maximum((high - low) / 2.0, _NARROWEST)
        into = np.diag(1.0 / half).astype(np.float32)
        unit = a.affine(x, into, (-middle / half).astype(np.float32))
        near = a.clip(unit, -1.0, 1.0)
        weights = np.square(half).astype(np.float32).reshape(-1, 1)
        centres = _centres_from(networks["centres"], middle, half)
        told_of = a.concatenate(near, log_distance(a, centres, near, weights))  # [n, d + 1]
        *_, told = a.network(told_of, _network_from(net, middle, half))  # [n, d]
        shared = a.exp(a.minimum(told, a.constant(_MOST)))
        beyond = a.square(a.subtract(unit, near))
        growth = (self.growth * np.square(half)).astype(np.float32)
        return Parts(shared, None, (beyond, growth.reshape(1, -1)))


def _network_from(net: FrozenNetwork, middle: Numbers, half: Numbers) -> FrozenNetwork:
    """Let a network take (x - middle) / half in place of x, the first of its inputs."""
    first = net.matrices[0].astype(np.float64)
    bias = net.biases[0] + middle @ first[: len(middle)]
    first[: len(middle)] *= half[:, None]
    return replace(
        net,
        matrices=(first.astype(np.float32), *net.matrices[1:]),
        biases=(bias.astype(np.float32), *net.biases[1:]),
    )


def _centres_from(centres: FrozenNetwork, middle: Numbers, half: Numbers) -> FrozenNetwork:
    """Let the layer of centres take (x - middle) / half in place of x.

    Squared distances come out as much smaller as rounding may have made them larger: a row that is
    a centre is then at distance 0, whatever rounding and in whatever order a product adds up.
    """
    moved = centres.matrices[0].astype(np.float64) / 2.0 - middle[:, None]  # [d, centres]
    norms = np.square(moved).sum(axis=0) * (1.0 - _LOST)
    columns = (2.0 * half[:, None] * moved).astype(np.float32)
    return FrozenNetwork((columns,), (-norms.astype(np.float32),))


def log_distance(
    a: Arithmetic[Any], centres: FrozenNetwork, x: Any, weights: NDArray[np.float32]
) -> Any:
    """Log of the squared distance to the nearest centre, [n, 1].

    Parameters
    ----------
    centres : FrozenNetwork
        Maps x to 2 <x, c> - |c|^2 for each centre c.
    x : [n, d]
    weights : float32 [d, 1]
        Of squares in |x|^2; ones where the features are in the units that distances are.
    """
    biases = centres.biases[0] - np.float32(NEAREST)
    nearest = a.row_max(a.affine(x, centres.matrices[0], biases))
    squared = a.product_less(a.square(x), weights, nearest)
    return a.log(a.maximum(squared, a.constant(NEAREST)))


def read_out(network: nn.Module, mean: float, spread: float) -> FrozenNetwork:
    """Freeze a network, its output times `spread` plus `mean`."""
    if not isinstance(network, BatchedMLP):
        raise TypeError(f"the student is a {type(network).__name__}")
    frozen = FrozenNetwork.of(network)
    last, bias = np.float32(spread) * frozen.matrices[-1], np.float32(spread) * frozen.biases[-1]
    return replace(
        frozen,
        matrices=(*frozen.matrices[:-1], last),
        biases=(*frozen.biases[:-1], bias + np.float32(mean)),
    )


def unscaled(network: FrozenNetwork, centre: float, scale: float) -> FrozenNetwork:
    """Fold the scaling of its last input into a network's first layer."""
    first, bias = network.matrices[0].copy(), network.biases[0]
    first[-1] /= np.float32(scale)
    bias = bias - np.float32(centre) * first[-1]
    return replace(
        network, matrices=(first, *network.matrices[1:]), biases=(bias, *network.biases[1:])
    )
