"""The rounding of float16, value by value, on a processor."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

__all__ = ["round_every_value"]


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
            half.add(node.output[0])
            nodes += _rounded(kept, node.output[0])
    del graph.node[:]
    graph.node.extend(nodes)


def _gives_half(node: NodeProto, half: AbstractSet[str]) -> bool:
    """Whether a node gives float16; the networks have no node that takes it and gives another."""
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
    for attribute in node.attribute:  # a slope, a factor: CUDA takes it in the values' own type
        if attribute.type == AttributeProto.FLOAT:
            attribute.f = float(np.float16(attribute.f))
    return [helper.make_node("Cast", [whole], [short], to=TensorProto.FLOAT16), back]
