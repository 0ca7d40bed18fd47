"""What a scoring graph does to rows: its operations and bytes, counted from a run of it.

onnxruntime's profiler names every node that ran with the types and shapes of what went in and out,
also inside the bodies of `Scan`, `Loop` and `If`. So operations are counted as they were run, those
that depend on the rows among them, and not estimated from a description of the graph.
"""

from __future__ import annotations

import bisect
import json
import math
import os
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from anomgan.errors import ModelError

__all__ = ["CONTROL", "PRODUCTS", "GraphCost", "Product", "count_graph", "node_times"]

PRODUCTS: Final = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})
"""Nodes whose operations are those of matrix products."""
CONTROL: Final = frozenset({"Scan", "Loop", "If"})
"""Nodes that run others, which are counted themselves."""

_UNCOUNTED = frozenset(
    {"Attention", "Conv", "ConvTranspose", "DynamicQuantizeMatMul", "Einsum", "FusedConv", "GRU"}
    | {"LSTM", "MatMulInteger", "MultiHeadAttention", "QLinearMatMul", "RNN"}
)
"""Nodes that multiply matrices in ways that are not counted here: refused, never left out."""
_EXPENSIVE = frozenset(
    {"Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp"}
    | {"Gelu", "Log", "LogSoftmax", "Mish", "Pow", "QuickGelu", "ReduceLogSum", "ReduceLogSumExp"}
    | {"Selu", "Sigmoid", "Sin", "Sinh", "Softmax", "Softplus", "Tan", "Tanh"}
)
"""Nodes with a transcendental function of every element."""
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Shape", "Size", "Squeeze", "Unsqueeze"})
"""Nodes that need move nothing."""
_PICKS = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Nodes that read as much of their first input as they give out."""
_BYTES = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("float16", "bfloat16", "int16", "uint16"), 2),
    **dict.fromkeys(("float", "int32", "uint32"), 4),
    **dict.fromkeys(("double", "int64", "uint64"), 8),
    "string": 0,  # of any length: not counted
}

Tensor = tuple[str, tuple[int, ...]]  # type and shape
Feed = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Product:
    """The shape of a matrix product: `batch` times [m, k] x [k, n].

    Attributes
    ----------
    dtype : str
        onnxruntime's name of the type, such as ``float`` or ``double``.
    batch, m, k, n : int
    """

    dtype: str
    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n


@dataclass(frozen=True)
class GraphCost:
    """What one call of a graph does.

    Attributes
    ----------
    rows : int
        Rows of the call.
    products : dict of Product to int
        How often each shape was multiplied; empty products are left out.
    passes : dict of str to int
        By type, bytes read and written by nodes that are no products and no views, and have no
        transcendental function.
    expensive : dict of str to int
        By type, elements that went through a transcendental function.
    constants, moved : int
        Bytes of the model, and of the rows and the outputs of the call.
    nodes : dict of str to int
        How often each kind of node ran.
    """

    rows: int
    products: dict[Product, int]
    passes: dict[str, int]
    expensive: dict[str, int]
    constants: int
    moved: int
    nodes: dict[str, int]

    def flops(self, dtype: str | None = None) -> int:
        """Operations of matrix products, of one type or of all."""
        return sum(p.flops * n for p, n in self.products.items() if dtype in (None, p.dtype))


def count_graph(model: bytes, feed: Feed, *, rows: int) -> GraphCost:
    """Run a graph once on the CPU and count what it does.

    Parameters
    ----------
    model : bytes
        A serialised ONNX model.
    feed : mapping
        Its inputs; arrays.
    rows : int
        Rows in `feed`, for costs by row.

    Raises
    ------
    ModelError
        A node multiplies matrices in a way that cannot be counted.
    """
    # Packed ahead, constant matrices are gone from the profile's lists of inputs.
    profile = _profiled(model, feed, calls=1, prepack=False)
    products: Counter[Product] = Counter()
    passes: Counter[str] = Counter()
    expensive: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for event in profile.nodes:
        op = event["args"]["op_name"]
        inputs, outputs = (_tensors(event, way) for way in ("input", "output"))
        nodes[op] += 1
        if op in _UNCOUNTED:
            raise ModelError(f"the operations of a node {op} cannot be counted")
        if op in PRODUCTS:
            product = _product(op, inputs, outputs[0])
            products[product] += 1 if product.flops else 0
        elif op not in CONTROL | _VIEWS:
            kind = outputs[0][0] if outputs else "float"
            if op in _EXPENSIVE:  # at a rate that has its reading and writing in it
                expensive[kind] += _elements(outputs[:1])
            else:
                passes[kind] += _moved(op, inputs, outputs)
    return GraphCost(
        rows,
        {p: n for p, n in products.items() if n},
        _positive(passes),
        _positive(expensive),
        len(model),  # nearly all of it is constants
        profile.moved,
        dict(sorted(nodes.items())),
    )


def node_times(model: bytes, feed: Feed, *, calls: int = 5) -> dict[str, float]:
    """Measure how long the nodes of a graph take, by kind, in a call on one thread.

    Parameters
    ----------
    model, feed
        See `count_graph`.
    calls : int
        Measured calls; a first one is left out.

    Returns
    -------
    dict of str to float
        Microseconds a call, median over the calls, the most first. Nodes that run others are left
        out: beside those their time holds little but what the profiler writes.
    """
    profile = _profiled(model, feed, calls=calls + 1, prepack=True)
    times: defaultdict[str, list[int]] = defaultdict(lambda: [0] * calls)
    for event in profile.nodes:
        call = bisect.bisect_right(profile.call_starts, event["ts"]) - 2
        if call >= 0 and event["args"]["op_name"] not in CONTROL:
            times[event["args"]["op_name"]][call] += event["dur"]
    # The median: a call that another process interrupted has one kind of node far too long.
    found = {op: float(statistics.median(series)) for op, series in times.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class _Profile:
    """What onnxruntime wrote of some calls: nodes as they began, and when the calls did."""

    nodes: list[dict[str, Any]]
    call_starts: list[int]
    moved: int  # bytes in and out of a call


def _profiled(model: bytes, feed: Feed, *, calls: int, prepack: bool) -> _Profile:
    with tempfile.TemporaryDirectory(prefix="anomgan-profile-") as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = os.path.join(folder, "calls")
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(calls):
            outputs = session.run(None, dict(feed))
        path = Path(session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        del session  # Windows removes no file that is open
    nodes = [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time")]
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")
    if len(starts) != calls or not nodes:
        raise ModelError("onnxruntime wrote no profile of the calls that can be read")
    return _Profile(
        sorted(nodes, key=lambda e: (e["ts"], -e["dur"])),
        starts,
        sum(int(array.nbytes) for array in (*feed.values(), *outputs)),
    )


def _tensors(event: Mapping[str, Any], way: str) -> list[Tensor]:
    listed: Iterable[Mapping[str, Sequence[int]]] = event["args"].get(f"{way}_type_shape", ())
    return [(kind, tuple(shape)) for entry in listed for kind, shape in entry.items()]


def _product(op: str, inputs: Sequence[Tensor], output: Tensor) -> Product:
    """Read a product off what went in and out; a transposed first matrix has as many cells."""
    kind, first = inputs[0]
    out = output[1]
    if op in ("Gemm", "FusedGemm"):
        m, n = out
        own = first[0] * first[1]
        return Product(kind, 1, m, own // m if m else 0, n)
    second = inputs[1][1]
    if len(first) < 2 or len(second) < 2:  # vectors: the product sums over all of them
        vector = first if len(first) < 2 else second
        m = math.prod(out) if len(first) >= 2 else 1
        n = 1 if len(first) >= 2 else math.prod(out)
        return Product(kind, 1, m, vector[0], n)
    m, n = out[-2:]
    k = first[-1] * first[-2] // m if m else 0
    batch = math.prod(out[:-2])
    if math.prod(second[:-2]) == 1:  # one matrix for all: its rows may as well be one batch
        return Product(kind, 1, batch * m, k, n)
    return Product(kind, batch, m, k, n)


def _moved(op: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    written = sum(_size(tensor) for tensor in outputs)
    if op in _PICKS:
        return 2 * written + sum(_size(tensor) for tensor in inputs[1:])
    return written + sum(_size(tensor) for tensor in inputs)


def _size(tensor: Tensor) -> int:
    kind, shape = tensor
    if kind not in _BYTES:
        raise ModelError(f"the bytes of a tensor of type {kind} cannot be counted")
    return _BYTES[kind] * math.prod(shape)


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(math.prod(shape) for _, shape in tensors)


def _positive(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: n for name, n in sorted(counts.items()) if n}
