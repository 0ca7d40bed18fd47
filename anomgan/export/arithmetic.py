"""The arithmetic of scores as nodes of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from anomgan.export.graph import GraphBuilder, Value
from anomgan.nets.arithmetic import Arithmetic, Matrix
from anomgan.nets.batched import LEAK, Activation

__all__ = ["GraphArithmetic"]


class GraphArithmetic(Arithmetic[Value]):
    """Adds nodes to a graph.

    Parameters
    ----------
    g : GraphBuilder
    """

    def __init__(self, g: GraphBuilder) -> None:
        self.g = g

    def constant(self, value: NDArray[Any] | float) -> Value:
        """Give a number, or a row [1, width]."""
        return self.g.constant(value, np.float32)

    def product(self, x: Value, matrix: Matrix) -> Value:
        """Multiply rows [n, in] by a matrix [in, out]."""
        return self.g.op("MatMul", x, self.g.constant(matrix, np.float32, stem="w"))

    def affine(self, x: Value, matrix: Matrix, bias: Matrix) -> Value:
        """Multiply rows [n, in] by a matrix [in, out] and add a bias [out]."""
        w, b = self.g.constant(matrix, stem="w"), self.g.constant(bias.ravel(), stem="b")
        return self.g.op("Gemm", x, w, b)

    def product_less(self, x: Value, matrix: Matrix, less: Value) -> Value:
        """Multiply rows [n, in] by a matrix [in, out] and subtract [n, out]."""
        return self.g.op("Gemm", x, self.g.constant(matrix, stem="w"), less, beta=-1.0)

    def add(self, a: Value, b: Value) -> Value:
        """Add."""
        return self.g.op("Add", a, b)

    def subtract(self, a: Value, b: Value) -> Value:
        """Subtract."""
        return self.g.op("Sub", a, b)

    def multiply(self, a: Value, b: Value) -> Value:
        """Multiply, element by element."""
        return self.g.op("Mul", a, b)

    def divide(self, a: Value, b: Value) -> Value:
        """Divide, element by element."""
        return self.g.op("Div", a, b)

    def maximum(self, a: Value, b: Value) -> Value:
        """Take the larger, element by element."""
        return self.g.op("Max", a, b)

    def minimum(self, a: Value, b: Value) -> Value:
        """Take the smaller, element by element."""
        return self.g.op("Min", a, b)

    def clip(self, a: Value, low: float, high: float) -> Value:
        """Take the nearest number between two."""
        return self.g.op("Clip", a, self.constant(low), self.constant(high))

    def absolute(self, a: Value) -> Value:
        """Drop the sign."""
        return self.g.op("Abs", a)

    def exp(self, a: Value) -> Value:
        """Exponential."""
        return self.g.op("Exp", a)

    def log(self, a: Value) -> Value:
        """Natural logarithm, computed in float64.

        onnxruntime's float32 logarithm rounds the last elements of a block otherwise.
        """
        wide = self.g.op("Log", self.g.op("Cast", a, to=TensorProto.DOUBLE))
        return self.g.op("Cast", wide, to=TensorProto.FLOAT)

    def sqrt(self, a: Value) -> Value:
        """Square root."""
        return self.g.op("Sqrt", a)

    def choose(self, condition: Value, a: Value, b: Value) -> Value:
        """Take `a` where the condition is above 0, and `b` elsewhere."""
        return self.g.op("Where", self.g.op("Greater", condition, self.constant(0.0)), a, b)

    def activate(self, a: Value, activation: Activation) -> Value:
        """Apply a hidden layer's activation: rectifiers as nodes that join the product before."""
        if activation == "leaky_relu":
            return self.g.op("LeakyRelu", a, alpha=LEAK)
        if activation == "relu":
            return self.g.op("Relu", a)
        return super().activate(a, activation)

    def row_max(self, x: Value) -> Value:
        """Take the largest of each row: [n, width] -> [n, 1]."""
        return self.g.op("ReduceMax", x, self.g.ints(1), keepdims=1)

    def concatenate(self, *values: Value) -> Value:
        """Put values side by side."""
        return self.g.op("Concat", *values, axis=1)

    def columns(self, x: Value, index: NDArray[np.int64]) -> Value:
        """Take the columns at `index`."""
        return self.g.op("Gather", x, self.g.constant(index, np.int64, stem="ints"), axis=1)

    def copies(self, x: Value, row: Matrix) -> Value:
        """Give every row of x the same row: [n, len(row)]."""
        n = self.g.op("Shape", x, start=0, end=1)
        shape = self.g.op("Concat", n, self.g.ints(len(row)), axis=0)
        return self.g.op("Expand", self.constant(row.reshape(1, -1)), shape)

    def repeat(
        self,
        times: int,
        body: Callable[[Arithmetic[Value], tuple[Value, ...]], tuple[Value, ...]],
        state: tuple[Value, ...],
    ) -> tuple[Value, ...]:
        """Apply a body to a state again and again, in a `Loop`."""
        inner = GraphBuilder(self.g)
        names = tuple(self.g.fresh("state") for _ in state)
        step, going = self.g.fresh("step"), self.g.fresh("going")
        after = body(GraphArithmetic(inner), names)
        kept = inner.op("Identity", going)
        outputs = [inner.op("Identity", value) for value in after]
        floats = [helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in names]
        graph = inner.graph(
            "repeat",
            [
                helper.make_tensor_value_info(step, TensorProto.INT64, []),
                helper.make_tensor_value_info(going, TensorProto.BOOL, []),
                *floats,
            ],
            [
                helper.make_tensor_value_info(kept, TensorProto.BOOL, []),
                *(helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in outputs),
            ],
        )
        count = self.g.constant(times, np.int64, stem="times")
        always = self.g.constant(np.array(True), stem="always")
        return self.g.multi("Loop", count, always, *state, outputs=len(state), body=graph)
