"""The arithmetic that scores are written in, so that each is written once.

A score of the literature is a short formula over small networks. It has to run twice: in torch,
where it calibrates and is tested, and as an ONNX graph, where it is used. A formula therefore
takes an `Arithmetic`, which is torch's (`anomgan.scoring.program`) or the graph's
(`anomgan.export.arithmetic`); both have the few operations below, and everything else is derived
from these here, so that both do the same.

Values are matrices [n, width], a row of the table in each row. No operation mixes rows: a score
cannot depend on a row's company.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from anomgan.nets.batched import LEAK, Activation, BatchedMLP

__all__ = ["Arithmetic", "FrozenNetwork", "Parts"]

V = TypeVar("V")
Matrix = NDArray[np.float32]


@dataclass(frozen=True)
class FrozenNetwork:
    """A trained multilayer perceptron as plain arrays.

    Attributes
    ----------
    matrices : tuple of float32 [in, out]
    biases : tuple of float32 [out]
    activation : str
        Of the hidden layers; the last layer is linear.
    """

    matrices: tuple[Matrix, ...]
    biases: tuple[Matrix, ...]
    activation: Activation = "leaky_relu"

    @classmethod
    def of(cls, network: BatchedMLP) -> FrozenNetwork:
        """Copy the weights of the first member."""
        weights, biases = network.frozen()
        return cls(
            tuple(np.ascontiguousarray(w[0].cpu().numpy()) for w in weights),
            tuple(np.ascontiguousarray(b[0].ravel().cpu().numpy()) for b in biases),
            network.activation,
        )

    @classmethod
    def numbers(cls, values: NDArray[Any]) -> FrozenNetwork:
        """Keep numbers [r, c] that a score knows beside its networks: a layer without biases."""
        matrix = np.ascontiguousarray(values, dtype=np.float32)
        return cls((matrix,), (np.zeros(matrix.shape[1], dtype=np.float32),))

    def row(self, i: int) -> Matrix:
        """Return row i of the first matrix, [1, c]: what `numbers` kept."""
        return np.ascontiguousarray(self.matrices[0][i : i + 1])

    @property
    def widths(self) -> tuple[int, ...]:
        """Of the input, the hidden layers and the output."""
        return (*(len(m) for m in self.matrices), self.matrices[-1].shape[1])


@dataclass(frozen=True)
class Parts(Generic[V]):
    """What a score is made of; nothing in it is negative.

    Attributes
    ----------
    by_feature : V or None
        [n, d], what each feature adds.
    whole : V or None
        [n, 1], what is held against the row as a whole.
    weighted : tuple of V and Matrix, optional
        [n, d] and [1, d]: the first times the second is added to what each feature adds. A graph
        multiplies where it adds up, without a pass of its own.
    """

    by_feature: V | None
    whole: V | None
    weighted: tuple[V, Matrix] | None = None


class Arithmetic(ABC, Generic[V]):
    """Operations on matrices [n, width], row by row, in float32."""

    @abstractmethod
    def constant(self, value: NDArray[Any] | float) -> V:
        """Give a number, or a row [1, width]."""

    @abstractmethod
    def product(self, x: V, matrix: Matrix) -> V:
        """Multiply rows [n, in] by a matrix [in, out]."""

    @abstractmethod
    def affine(self, x: V, matrix: Matrix, bias: Matrix) -> V:
        """Multiply rows [n, in] by a matrix [in, out] and add a bias [out]."""

    @abstractmethod
    def product_less(self, x: V, matrix: Matrix, less: V) -> V:
        """Multiply rows [n, in] by a matrix [in, out] and subtract [n, out]."""

    @abstractmethod
    def add(self, a: V, b: V) -> V:
        """Add."""

    @abstractmethod
    def subtract(self, a: V, b: V) -> V:
        """Subtract."""

    @abstractmethod
    def multiply(self, a: V, b: V) -> V:
        """Multiply, element by element."""

    @abstractmethod
    def divide(self, a: V, b: V) -> V:
        """Divide, element by element."""

    @abstractmethod
    def maximum(self, a: V, b: V) -> V:
        """Take the larger, element by element."""

    @abstractmethod
    def minimum(self, a: V, b: V) -> V:
        """Take the smaller, element by element."""

    @abstractmethod
    def clip(self, a: V, low: float, high: float) -> V:
        """Take the nearest number between two."""

    @abstractmethod
    def absolute(self, a: V) -> V:
        """Drop the sign."""

    @abstractmethod
    def exp(self, a: V) -> V:
        """Exponential."""

    @abstractmethod
    def log(self, a: V) -> V:
        """Natural logarithm, computed in float64."""

    @abstractmethod
    def sqrt(self, a: V) -> V:
        """Square root."""

    @abstractmethod
    def choose(self, condition: V, a: V, b: V) -> V:
        """Take `a` where the condition is above 0, and `b` elsewhere (NaN included)."""

    @abstractmethod
    def row_max(self, x: V) -> V:
        """Take the largest of each row: [n, width] -> [n, 1]."""

    @abstractmethod
    def concatenate(self, *values: V) -> V:
        """Put values side by side."""

    @abstractmethod
    def columns(self, x: V, index: NDArray[np.int64]) -> V:
        """Take the columns at `index`."""

    @abstractmethod
    def copies(self, x: V, row: Matrix) -> V:
        """Give every row of x the same row: [n, len(row)]."""

    @abstractmethod
    def repeat(
        self,
        times: int,
        body: Callable[[Arithmetic[V], tuple[V, ...]], tuple[V, ...]],
        state: tuple[V, ...],
    ) -> tuple[V, ...]:
        """Apply a body to a state again and again; shapes do not change."""

    # --- Derived, the same for both ---------------------------------------------------------

    def scale(self, a: V, factor: float) -> V:
        """Multiply by a number."""
        return self.multiply(a, self.constant(factor))

    def square(self, a: V) -> V:
        """Square."""
        return self.multiply(a, a)

    def row_sum(self, x: V, width: int) -> V:
        """Add up each row: [n, width] -> [n, 1].

        A product with ones: a sum's order would depend on where in the batch a row stands.
        """
        return self.product(x, np.ones((width, 1), dtype=np.float32))

    def negate(self, a: V) -> V:
        """Change the sign."""
        return self.scale(a, -1.0)

    def sign(self, a: V) -> V:
        """1, 0 or -1."""
        zero, one = self.constant(0.0), self.constant(1.0)
        positive = self.choose(a, one, zero)
        return self.choose(self.negate(a), self.constant(-1.0), positive)

    def sigmoid(self, a: V) -> V:
        """1 / (1 + exp(-a))."""
        one = self.constant(1.0)
        # Beyond 80 the exponential would overflow, and the result has long been 0.
        return self.divide(
            one, self.add(one, self.exp(self.minimum(self.negate(a), self.constant(80.0))))
        )

    def softplus(self, a: V) -> V:
        """log(1 + exp(a)), without overflow; minus the log of a sigmoid of -a.

        To a few units in the last place also where it is tiny: scores are differences of odds, and
        a sure discriminator's rows would else fall onto a few values. log(1 + t) is u's logarithm
        times t / (u - 1), with u the float next to 1 + t (Goldberg, 1991, theorem 4).
        """
        t = self.exp(self.negate(self.absolute(a)))
        u = self.add(self.constant(1.0), t)
        step = self.subtract(u, self.constant(1.0))
        rest = self.choose(step, self.multiply(self.log(u), self.divide(t, step)), t)
        return self.add(self.maximum(a, self.constant(0.0)), rest)

    def tanh(self, a: V) -> V:
        """2 sigmoid(2 a) - 1."""
        return self.subtract(self.scale(self.sigmoid(self.scale(a, 2.0)), 2.0), self.constant(1.0))

    def activate(self, a: V, activation: Activation) -> V:
        """Apply a hidden layer's activation."""
        zero = self.constant(0.0)
        if activation == "elu":
            below = self.subtract(self.exp(self.minimum(a, zero)), self.constant(1.0))
            return self.add(self.maximum(a, zero), below)
        if activation == "tanh":
            return self.tanh(a)
        if activation == "relu":
            return self.maximum(a, zero)
        return self.choose(a, a, self.scale(a, LEAK))

    def slope(self, hidden: V, activation: Activation) -> V:
        """Give the derivative of the activation, from its value."""
        zero, one = self.constant(0.0), self.constant(1.0)
        if activation == "elu":
            return self.add(one, self.minimum(hidden, zero))
        if activation == "tanh":
            return self.subtract(one, self.square(hidden))
        return self.choose(hidden, one, self.constant(0.0 if activation == "relu" else LEAK))

    def network(self, x: V, network: FrozenNetwork) -> tuple[V, ...]:
        """Run a network; return hidden activations and the output."""
        out: list[V] = []
        last = len(network.matrices) - 1
        for i, (matrix, bias) in enumerate(zip(network.matrices, network.biases, strict=True)):
            x = self.affine(x, matrix, bias)
            if i < last:
                x = self.activate(x, network.activation)
            out.append(x)
        return tuple(out)

    def pull_back(self, network: FrozenNetwork, values: tuple[V, ...], gradient: V) -> V:
        """Carry the gradient of the last of `values` back to the network's input.

        Parameters
        ----------
        network : FrozenNetwork
        values : tuple
            What `network` gave, or the first of it: the gradient enters after the last of these.
        gradient : V
            Of some loss, with respect to the last of `values`.
        """
        depth = len(values)
        if depth < len(network.matrices):  # a hidden layer: through its activation first
            gradient = self.multiply(gradient, self.slope(values[-1], network.activation))
        for i in range(depth - 1, 0, -1):
            back = np.ascontiguousarray(network.matrices[i].T)
            gradient = self.product(gradient, back)
            gradient = self.multiply(gradient, self.slope(values[i - 1], network.activation))
        return self.product(gradient, np.ascontiguousarray(network.matrices[0].T))
