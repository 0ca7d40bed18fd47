"""A small builder over onnx.helper: values are names, constants are named once.

The graph is built by hand rather than traced: the exporter's optimiser was seen to drop small
constants (FINDINGS 3.1), and a hand-built graph states its opset, its names and its shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

from anomgan.export.precision import Precision
from anomgan.nets.batched import LEAK, Activation
from anomgan.scoring.inversion import MLPWeights

__all__ = [
    "IR_VERSION",
    "ML_OPSET",
    "OPSET",
    "GraphBuilder",
    "Network",
    "Value",
    "affine",
    "as_array",
    "hidden_layers",
    "less_one",
    "member",
    "mlp",
    "row_sum",
]

OPSET = 20
ML_OPSET = 3
IR_VERSION = 10

Value = str
"""Name of a value in the graph."""


class GraphBuilder:
    """Collects nodes and constants.

    A loop's body is a child with constants of its own: onnxruntime packs a body's own weights
    ahead of time, and only packed products give a row the same bits in a batch of any size.

    Parameters
    ----------
    parent : GraphBuilder, optional
        Builder of the enclosing graph, with which names are not to clash.
    """

    def __init__(self, parent: GraphBuilder | None = None) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._counter: list[int] = [0] if parent is None else parent._counter

    def op(self, kind: str, *inputs: Value, domain: str = "", **attributes: Any) -> Value:
        """Add a node with one output; return its name."""
        return self.multi(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def multi(
        self, kind: str, *inputs: Value, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[Value, ...]:
        """Add a node with several outputs; return their names."""
        names = tuple(self.fresh(kind.lower()) for _ in range(outputs))
        self.nodes.append(
            helper.make_node(kind, list(inputs), names, name=names[0], domain=domain, **attributes)
        )
        return names

    def fresh(self, stem: str) -> str:
        """Return a name not used yet."""
        self._counter[0] += 1
        return f"{stem}_{self._counter[0]}"

    def constant(
        self, array: NDArray[Any] | float | int, dtype: Any = None, stem: str = "c"
    ) -> Value:
        """Add a constant tensor; equal bytes are stored once."""
        value = np.asarray(array, dtype=dtype, order="C")
        tensor = numpy_helper.from_array(value)
        for name, known in self.initializers.items():
            same_kind = known.data_type == tensor.data_type and known.dims == tensor.dims
            if same_kind and known.raw_data == tensor.raw_data:
                return name
        tensor.name = self.fresh(stem)
        self.initializers[tensor.name] = tensor
        return tensor.name

    def named_constant(self, name: str, array: Any) -> Value:
        """Add a constant under a public name: an optional input's default."""
        self.initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def ints(self, *values: int) -> Value:
        """Add a 1-D int64 constant."""
        return self.constant(np.array(values, dtype=np.int64), stem="ints")

    def rename(self, value: Value, name: str) -> Value:
        """Give what a node of this graph made a public name.

        No node within another's body may use it: bodies are not looked at.

        Raises
        ------
        ValueError
            No node of this graph makes it.
        """
        if not any(value in node.output for node in self.nodes):
            raise ValueError(f"no node makes {value}: it cannot be called {name}")
        for node in self.nodes:
            if value in node.output:
                node.output[list(node.output).index(value)] = name
            for i, used in enumerate(node.input):
                if used == value:
                    node.input[i] = name
        return name

    def graph(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
    ) -> Any:
        """Return the GraphProto."""
        constants = list(self.initializers.values())
        return helper.make_graph(self.nodes, name, list(inputs), list(outputs), constants)


@dataclass(frozen=True)
class Network:
    """One member's weights as arrays: matrices [in, out], biases [1, out]."""

    matrices: tuple[NDArray[Any], ...]
    biases: tuple[NDArray[Any], ...]
    activation: Activation

    def rounded(self, precision: Precision) -> Network:
        """Return the weights in the type that a graph computes networks in."""
        matrices, biases = (tuple(map(precision.array, v)) for v in (self.matrices, self.biases))
        return Network(matrices, biases, self.activation)


def member(weights: MLPWeights, m: int) -> Network:
    """Return the weights of one member."""
    return Network(
        tuple(as_array(w[m]) for w in weights.matrices),
        tuple(as_array(b[m]) for b in weights.biases),
        weights.activation,
    )


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array in one piece."""
    return np.ascontiguousarray(tensor.detach().cpu().numpy())


def less_one(matrix: NDArray[Any], bias: NDArray[Any]) -> NDArray[np.float32]:
    """Bias that makes a product with 1 + x that with x."""
    less: NDArray[np.float64] = matrix.astype(np.float64).sum(axis=0)
    return (bias.ravel() - less).astype(np.float32)


def mlp(g: GraphBuilder, x: Value, network: Network) -> tuple[Value, ...]:
    """Add a network of leaky rectifiers; return hidden activations and the output, [n, width]."""
    hidden = hidden_layers(g, x, network)
    last = hidden[-1] if hidden else x
    return (*hidden, affine(g, last, network.matrices[-1], network.biases[-1]))


def hidden_layers(g: GraphBuilder, x: Value, network: Network) -> tuple[Value, ...]:
    """Add all layers but the last of a network of leaky rectifiers; return them, [n, width]."""
    out = []
    for weight, bias in zip(network.matrices[:-1], network.biases[:-1], strict=True):
        x = g.op("LeakyRelu", affine(g, x, weight, bias), alpha=LEAK)
        out.append(x)
    return tuple(out)


def row_sum(g: GraphBuilder, x: Value, width: int) -> Value:
    """Add up each row: [n, width] -> [n, 1].

    A product with ones, because onnxruntime's ReduceSum adds in an order that depends on where
    in the batch the row stands.
    """
    return g.op("MatMul", x, g.constant(np.ones((width, 1), dtype=np.float32)))


def affine(g: GraphBuilder, x: Value, weight: NDArray[Any], bias: NDArray[Any]) -> Value:
    """Add a product and a bias: [n, in] -> [n, out]."""
    return g.op("Gemm", x, g.constant(weight, stem="w"), g.constant(bias.ravel(), stem="b"))
