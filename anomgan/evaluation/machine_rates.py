"""What the machine can do: rates of matrix products, of passes over numbers, and of memory.

All are measured with onnxruntime itself on one thread, next to what they are a limit of: a limit
from another day or another library says nothing. A graph of one node repeated is timed, so that
the cost of a call is spread over many nodes; no rate counts what a real graph has beside it.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from anomgan import __version__
from anomgan.evaluation.graph_cost import GraphCost, Product
from anomgan.evaluation.timing import interleave
from anomgan.export.graph import IR_VERSION, OPSET
from anomgan.serving.providers import usable_threads

__all__ = ["Limits", "MachineRates", "limits", "machine_facts", "measure_rates", "product_seconds"]

_KINDS: Final[Mapping[str, tuple[int, Any]]] = {
    "float": (TensorProto.FLOAT, np.float32),
    "double": (TensorProto.DOUBLE, np.float64),
}
_MOST_NODES: Final = 64
_CALL_FLOPS: Final = 200_000_000
"""Operations of one timed call: some milliseconds on one core, so that what a call costs, and that
other contenders' calls have emptied the cache before it, is spread over many nodes."""
_COVERED: Final = 0.995
"""Share of a graph's operations whose shapes are timed; the rest gets their mean rate."""
_TILE: Final = (64, 512)
"""Cells of a pass over numbers: small enough for a core's own cache, larger than a call's cost."""
_TILE_NODES: Final = 16
_STREAM_BYTES: Final = 256 * 2**20
"""More than caches hold."""
_PEAK: Final = 256


@dataclass(frozen=True)
class MachineRates:
    """Rates of one thread.

    Attributes
    ----------
    products : dict of str to float
        By type, operations a second of a product [256, 256] x [256, 256].
    passes : dict of str to float
        By type, bytes a second read and written by the addition of two tiles in the cache.
    expensive : dict of str to float
        By type, elements a second of the exponential of a tile in the cache.
    stream : float
        Bytes a second read and written by a copy in memory.
    """

    products: dict[str, float]
    passes: dict[str, float]
    expensive: dict[str, float]
    stream: float


@dataclass(frozen=True)
class Limits:
    """Least seconds of one call of a graph, on one thread.

    Attributes
    ----------
    products : float
        The arithmetic floor: each of its matrix products alone, at the rate of its own shape.
    passes : float
        That, and every other pass over numbers at the rate of the cache, and every transcendental
        function at the rate of the exponential.
    memory : float
        Constants, rows and outputs through memory once.
    """

    products: float
    passes: float
    memory: float


def limits(cost: GraphCost, rates: MachineRates, *, rows: int, budget_s: float) -> Limits:
    """Return the limits of a call of a counted graph.

    Parameters
    ----------
    cost : GraphCost
    rates : MachineRates
        Of the same machine, just measured.
    rows : int
        Rows of the call: operations grow in proportion to those that were counted.
    budget_s : float
        Seconds for the rates of the products' own shapes.
    """
    times = rows / cost.rows
    products = product_seconds(cost.products, budget_s=budget_s)
    passes = sum(n / rates.passes[_kind(kind)] for kind, n in cost.passes.items())
    passes += sum(n / rates.expensive[_kind(kind)] for kind, n in cost.expensive.items())
    memory = (cost.constants + times * cost.moved) / rates.stream
    return Limits(times * products, times * (products + passes), memory)


def _kind(name: str) -> str:
    """Return the type whose rate a pass has: of two, that of the wider numbers is for doubles."""
    return "double" if name == "double" else "float"


def product_seconds(products: Mapping[Product, int], *, budget_s: float) -> float:
    """Return the seconds that matrix products take alone, one after the other.

    Parameters
    ----------
    products : mapping of Product to int
        How often each shape is multiplied.
    budget_s : float
        Seconds for all measurements together.
    """
    if not products:
        return 0.0
    order = sorted(products, key=lambda p: (-p.flops * products[p], p))
    total = sum(p.flops * n for p, n in products.items())
    timed: list[Product] = []
    for product in order:
        if sum(p.flops * products[p] for p in timed) >= _COVERED * total:
            break
        timed.append(product)
    calls = {str(i): _product_call(p) for i, p in enumerate(timed)}
    found = interleave(calls, budget_s=budget_s / len(calls), repeats=5)
    seconds = {p: found[str(i)].median / _n_nodes(p) for i, p in enumerate(timed)}
    known = sum(seconds[p] * products[p] for p in timed)
    covered = sum(p.flops * products[p] for p in timed)
    return known * total / covered


def measure_rates(*, budget_s: float, stream_bytes: int = _STREAM_BYTES) -> MachineRates:
    """Measure the rates that do not depend on a graph.

    Parameters
    ----------
    budget_s : float
        Seconds for all of them together.
    stream_bytes : int
        Size of the copy.
    """
    peak = {kind: Product(kind, 1, _PEAK, _PEAK, _PEAK) for kind in _KINDS}
    source, target = (np.ones(stream_bytes // 8) for _ in range(2))
    calls: dict[str, Callable[[], object]] = {"stream": lambda: np.copyto(target, source)}
    for kind in _KINDS:
        calls[f"product {kind}"] = _product_call(peak[kind])
        calls[f"add {kind}"] = _tile_call(kind, "Add", 2)
        calls[f"exp {kind}"] = _tile_call(kind, "Exp", 1)
    found = interleave(calls, budget_s=budget_s / len(calls), repeats=5)
    cells = _TILE_NODES * _TILE[0] * _TILE[1]
    size = {kind: np.dtype(dtype).itemsize for kind, (_, dtype) in _KINDS.items()}
    return MachineRates(
        {
            kind: _n_nodes(product) * product.flops / found[f"product {kind}"].median
            for kind, product in peak.items()
        },
        {kind: 3 * size[kind] * cells / found[f"add {kind}"].median for kind in _KINDS},
        {kind: cells / found[f"exp {kind}"].median for kind in _KINDS},
        2 * source.nbytes / found["stream"].median,
    )


def _n_nodes(product: Product) -> int:
    """Return how often a product is done in a timed call."""
    return min(_MOST_NODES, max(1, _CALL_FLOPS // product.flops))


def _product_call(product: Product) -> Callable[[], object]:
    """Return a call that multiplies a constant matrix, as a trained network's is, many times."""
    code, dtype = _KINDS[product.dtype]
    lead = [product.batch] if product.batch > 1 else []
    rng = np.random.default_rng(0)
    x = rng.normal(size=(*lead, product.m, product.k)).astype(dtype)
    weights = rng.normal(size=(*lead, product.k, product.n)).astype(dtype)
    return _repeated("MatMul", code, x, _n_nodes(product), {"w": weights})


def _tile_call(kind: str, op: str, n_inputs: int) -> Callable[[], object]:
    code, dtype = _KINDS[kind]
    x = np.random.default_rng(0).normal(size=_TILE).astype(dtype)
    constants = {"w": x[::-1].copy()} if n_inputs == 2 else {}
    return _repeated(op, code, x, _TILE_NODES, constants)


def _repeated(
    op: str,
    code: int,
    x: NDArray[Any],
    n_nodes: int,
    constants: Mapping[str, NDArray[Any]],
) -> Callable[[], object]:
    """Return a call of a graph that has one node n times, each on the same input.

    Without optimisation onnxruntime merges no equal nodes and drops none whose output is not
    asked for, and it still packs constant matrices ahead, as in a real session. Only a shape comes
    out: results stay in memory that is used again, as they do within a graph.
    """
    nodes = [helper.make_node(op, ["x", *constants], [f"y{i}"]) for i in range(n_nodes)]
    nodes.append(helper.make_node("Shape", [f"y{n_nodes - 1}"], ["shape"]))
    graph = helper.make_graph(
        nodes,
        "repeated",
        [helper.make_tensor_value_info("x", code, list(x.shape))],
        [helper.make_tensor_value_info("shape", TensorProto.INT64, [x.ndim])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: session.run(None, {"x": x})


_PACKAGES: Final = ("numpy", "onnxruntime", "polars", "pyod", "scikit-learn", "torch")


def machine_facts() -> dict[str, str | int]:
    """Return what figures depend on beside the code: processor, cores, versions.

    Nothing in them names the machine or a place on it.
    """
    facts: dict[str, str | int] = {
        "processor": _processor(),
        "usable cores": usable_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "anomgan": __version__,
    }
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            if name == "onnxruntime":  # the wheel with CUDA has another name
                facts[name] = ort.__version__
    return facts


def _processor() -> str:
    """Return the processor's model, as the system words it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2] for line in file if line.startswith("model name")]
        if names:
            return " ".join(names[0].split())
    return platform.processor() or "unknown"
