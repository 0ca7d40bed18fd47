"""The formula of a student (`anomgan.distillation`): a network, and distances to a few centres."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch import nn

from anomgan.nets.arithmetic import Arithmetic, FrozenNetwork, Parts
from anomgan.nets.batched import BatchedMLP

__all__ = ["NEAREST", "Student", "log_distance", "read_outs", "unscaled"]

_MOST = 60.0
"""Logarithm of the largest score that a student's network gives: float32 ends at 88."""
NEAREST = 1e-2
"""Added to the squared distance to the nearest centre, before its logarithm."""


@dataclass(frozen=True)
class Student:
    """The formula: exp(net(b, log D^2)) + growth |x - b|^2.

    b is the point of a box next to the row x, and D its distance to the nearest centre. The first
    term is shared among the features by a softmax of a second read-out of the network.

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
        box, net, shares = (networks[name] for name in ("box", "student", "shares"))
        near = a.minimum(a.maximum(x, a.constant(box.row(0))), a.constant(box.row(1)))
        told_of = a.concatenate(near, log_distance(a, networks["centres"], near))  # [n, d + 1]
        *_, hidden, told = a.network(told_of, net)
        known = a.exp(a.minimum(told, a.constant(_MOST)))  # [n, 1]
        shared = a.softmax(a.affine(hidden, shares.matrices[0], shares.biases[0]))  # [n, d]
        beyond = a.scale(a.square(a.subtract(x, near)), self.growth)
        return Parts(a.add(a.multiply(shared, known), beyond), None)


def log_distance(a: Arithmetic[Any], centres: FrozenNetwork, x: Any) -> Any:
    """Log of the squared distance to the nearest centre, [n, 1].

    The layer `centres` maps x to 2 x c - |c|^2 for each centre c.
    """
    ones = np.ones((centres.widths[0], 1), dtype=np.float32)
    norm = a.affine(a.square(x), ones, np.array([NEAREST], dtype=np.float32))
    nearest = a.row_max(a.affine(x, centres.matrices[0], centres.biases[0]))
    return a.log(a.maximum(a.subtract(norm, nearest), a.constant(NEAREST)))


def read_outs(
    network: nn.Module, mean: float, spread: float
) -> tuple[FrozenNetwork, FrozenNetwork]:
    """Freeze a network of the score, its output times `spread` plus `mean`, and its other heads."""
    if not isinstance(network, BatchedMLP):
        raise TypeError(f"the student is a {type(network).__name__}")
    frozen = FrozenNetwork.of(network)
    *matrices, last = frozen.matrices
    *biases, bias = frozen.biases
    told = np.float32(spread) * last[:, :1]
    told_bias = np.float32(spread) * bias[:1] + np.float32(mean)
    score = replace(frozen, matrices=(*matrices, told), biases=(*biases, told_bias))
    heads = FrozenNetwork((np.ascontiguousarray(last[:, 1:]),), (bias[1:].copy(),))
    return score, heads


def unscaled(network: FrozenNetwork, centre: float, scale: float) -> FrozenNetwork:
    """Fold the scaling of its last input into a network's first layer."""
    first, bias = network.matrices[0].copy(), network.biases[0]
    first[-1] /= np.float32(scale)
    bias = bias - np.float32(centre) * first[-1]
    return replace(
        network, matrices=(first, *network.matrices[1:]), biases=(bias, *network.biases[1:])
    )
