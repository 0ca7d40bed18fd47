"""Networks in float16: what they can hold, and what their rounding does to scores."""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from anomgan.errors import UsageError
from anomgan.export.graph import Network, less_one, member
from anomgan.scoring.frozen import FrozenScore

__all__ = ["code_limit", "corner", "require_half", "round_every_value", "scaled_down"]

_LARGEST: Final = 65504.0 / 2
"""Half of float16's largest number: what is rounded on the way has room."""
_CODES: Final = (32.0, 4096.0)
"""Least and largest limit of codes. The largest ones met at the corners of the boxes of 23 models
are 130; where codes are to be cut below the least, float16 is refused."""


def require_half(score: FrozenScore) -> None:
    """See to it that no network's number is beyond float16, whatever the row.

    What a layer adds up is at most the sum of its terms' magnitudes. With rows in the box, and
    codes cut to `code_limit`, that bounds the generator; encoder and discriminator are scaled to
    fit (`scaled_down`). The steps of the inversion need no bound: where they give no number, the
    start is kept.

    Raises
    ------
    UsageError
        The model is of before there was a box, known rows lie too far out, or codes would have to
        be cut too short.
    """
    if score.box is None:
        raise UsageError(
            "float16 cannot hold every row, and this model, of an earlier anomgan, has no box that "
            "rows are seen through: fit it again, or export it with --precision fp32"
        )
    limits = [code_limit(score, m) for m in range(score.n_members)]
    if not min(limits) >= _CODES[0]:
        raise UsageError(
            "the networks of this model reach numbers that float16 cannot hold, as known rows lie "
            f"up to {corner(score).max():.3g} standard deviations out or weights are large: export "
            "it with --precision fp32"
        )


def code_limit(score: FrozenScore, m: int) -> float:
    """Largest magnitude of codes whose generated rows float16 holds; 0 where there is none."""
    net, limit = member(score.generator, m), _CODES[1]
    while limit >= 1.0:
        if _generated(net, limit, corner(score)) <= _LARGEST:
            return limit
        limit /= 2.0
    return 0.0


def corner(score: FrozenScore) -> NDArray[np.float64]:
    """Largest magnitudes in the box, [d]."""
    if score.box is None:
        raise ValueError("this score has no box")
    low, high = (edge.numpy().astype(np.float64) for edge in score.box)
    return np.maximum(np.abs(low), np.abs(high))


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
    matrices, biases, scales, before = [], [], [], 1.0
    for matrix, bias in zip(net.matrices, net.biases, strict=True):
        at_most = _bound(matrix, bias, at_most)
        scale = 2.0 ** min(0.0, math.floor(math.log2(_LARGEST / max(1.0, float(at_most.max())))))
        matrices.append(matrix * (scale / before))
        biases.append(bias * scale)
        scales.append(scale)
        before = scale
    return Network(tuple(matrices), tuple(biases), net.activation), tuple(scales)


def _generated(net: Network, limit: float, rows: NDArray[np.float64]) -> float:
    """Bound of what the generator's layers add up, as `anomgan.export.inversion` does it."""
    at_most = np.full(len(net.matrices[0]), limit)
    found = 0.0
    for i, (matrix, bias) in enumerate(zip(net.matrices, net.biases, strict=True)):
        if i:  # hidden activations are kept with 1 added
            at_most, bias = at_most + 1.0, less_one(matrix, bias)
        at_most = _bound(matrix, bias, at_most)
        found = max(found, float(at_most.max()))
    return found + float(rows.max())


def _bound(
    matrix: NDArray[Any], bias: NDArray[Any], at_most: NDArray[np.float64]
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = at_most @ np.abs(matrix.astype(np.float64)) + np.abs(bias.ravel())
    return found


def round_every_value(model: bytes) -> bytes:
    """Return the graph in float32, with what was float16 rounded to it value by value, as GPUs do.

    Processors have no float16 nodes: onnxruntime computes them in float32, and leaves out the
    rounding between one and the next. Products add up in float32 on both.
    """
    proto = onnx.load_from_string(model)
    _round(proto.graph, frozenset())
    return bytes(proto.SerializeToString(deterministic=True))


def _round(graph: GraphProto, outer: AbstractSet[str]) -> None:
    half = {t.name for t in graph.initializer if t.data_type == TensorProto.FLOAT16} | outer
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = []
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _round(attribute.g, frozenset(half))
        kept = NodeProto()
        kept.CopyFrom(node)
        nodes.append(kept)
        if _gives_half(node, half):
            name = node.output[0]
            half.add(name)
            nodes += _rounded(kept, name)
    del graph.node[:]
    graph.node.extend(nodes)


def _gives_half(node: NodeProto, half: AbstractSet[str]) -> bool:
    if node.op_type == "Cast":
        return any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in node.attribute)
    return any(name in half for name in node.input)


def _rounded(node: NodeProto, name: str) -> list[NodeProto]:
    """Have a node give float32, and round that to `name`."""
    whole, short = f"{name}_unrounded", f"{name}_rounded"
    back = helper.make_node("Cast", [short], [name], to=TensorProto.FLOAT)
    if node.op_type == "Cast":  # the rounding itself
        node.output[0] = short
        return [back]
    node.output[0] = whole
    return [helper.make_node("Cast", [whole], [short], to=TensorProto.FLOAT16), back]
