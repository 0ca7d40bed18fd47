"""Counts of operations against graphs counted by hand, and limits made of them."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from anomgan.errors import ModelError
from anomgan.evaluation import machine_rates
from anomgan.evaluation.graph_cost import PRODUCTS, Product, count_graph, node_times
from anomgan.evaluation.machine_rates import (
    MachineRates,
    limits,
    machine_facts,
    measure_rates,
    product_seconds,
)

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE


def _model(nodes, inputs, outputs, constants):
    graph = helper.make_graph(
        nodes,
        "by hand",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    return model.SerializeToString()


def _normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def perceptron():
    """10 -> 16 -> 4, its second matrix transposed, and an exponential."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["o"], transB=1),
        helper.make_node("Exp", ["o"], ["y"]),
    ]
    constants = {"w1": _normal(10, 16), "b1": _normal(16), "w2": _normal(4, 16), "b2": _normal(4)}
    return _model(nodes, [("x", FLOAT, ["N", 10])], [("y", FLOAT, ["N", 4])], constants)


def test_a_perceptron() -> None:
    model, x = perceptron(), _normal(7, 10)
    cost = count_graph(model, {"x": x}, rows=7)
    assert cost.products == {Product("float", 1, 7, 10, 16): 1, Product("float", 1, 7, 16, 4): 1}
    assert cost.flops() == 7 * (2 * 10 * 16 + 2 * 16 * 4)
    assert cost.flops("double") == 0
    assert cost.expensive == {"float": 7 * 4}
    assert cost.passes == {}  # the Relu is fused with the product before it
    assert (cost.constants, cost.moved) == (len(model), x.nbytes + 7 * 4 * 4)


def test_twice_the_rows_are_twice_the_operations() -> None:
    one, two = (count_graph(perceptron(), {"x": _normal(n, 10)}, rows=n) for n in (5, 10))
    assert two.flops() == 2 * one.flops()
    assert two.passes == {kind: 2 * n for kind, n in one.passes.items()}
    assert one.nodes == two.nodes


def test_products_of_batches_of_matrices_and_of_one_for_all() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),  # a matrix for each of three
        helper.make_node("MatMul", ["a", "v"], ["y"]),  # one matrix for all
    ]
    model = _model(
        nodes,
        [("x", DOUBLE, [3, "N", 8])],
        [("y", DOUBLE, [3, "N", 2])],
        {"w": _normal(3, 8, 5, dtype=np.float64), "v": _normal(5, 2, dtype=np.float64)},
    )
    cost = count_graph(model, {"x": _normal(3, 6, 8, dtype=np.float64)}, rows=6)
    assert cost.products == {
        Product("double", 3, 6, 8, 5): 1,
        Product("double", 1, 18, 5, 2): 1,
    }
    assert cost.flops() == 3 * 2 * 6 * 8 * 5 + 2 * 18 * 5 * 2
    assert cost.passes == {}


def test_products_with_vectors() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["a"]),
        helper.make_node("MatMul", ["a", "x"], ["y"]),
    ]
    model = _model(nodes, [("x", FLOAT, ["N", 8])], [("y", FLOAT, [8])], {"v": _normal(8)})
    cost = count_graph(model, {"x": _normal(5, 8)}, rows=5)
    assert cost.products == {Product("float", 1, 5, 8, 1): 1, Product("float", 1, 1, 5, 8): 1}


def scan(n_tiles=4):
    """A tile times a matrix, less itself, once a tile; an Add would be fused with the product."""
    body = helper.make_graph(
        [helper.make_node("MatMul", ["t", "w"], ["p"]), helper.make_node("Sub", ["p", "t"], ["o"])],
        "tile",
        [helper.make_tensor_value_info("t", FLOAT, [3, 6])],
        [helper.make_tensor_value_info("o", FLOAT, [3, 6])],
    )
    node = helper.make_node("Scan", ["x"], ["y"], body=body, num_scan_inputs=1)
    shape = [n_tiles, 3, 6]
    return _model([node], [("x", FLOAT, shape)], [("y", FLOAT, shape)], {"w": _normal(6, 6)})


def test_what_runs_inside_a_scan_counts_once_a_tile() -> None:
    cost = count_graph(scan(), {"x": _normal(4, 3, 6)}, rows=12)
    assert cost.products == {Product("float", 1, 3, 6, 6): 4}
    assert cost.flops() == 12 * 2 * 6 * 6
    assert cost.passes == {"float": 4 * 3 * (3 * 6) * 4}  # two read, one written, four bytes each
    assert cost.nodes == {"MatMul": 4, "Scan": 1, "Sub": 4}


def test_a_part_that_is_not_run_does_not_count() -> None:
    def branch(name, k):
        node = helper.make_node("MatMul", ["x", f"w{k}"], [f"{name}_y"])
        value = helper.make_tensor_value_info(f"{name}_y", FLOAT, None)
        return helper.make_graph([node], name, [], [value])

    node = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch("then", 1), else_branch=branch("else", 2)
    )
    model = _model(
        [node],
        [("c", TensorProto.BOOL, []), ("x", FLOAT, ["N", 4])],
        [("y", FLOAT, None)],
        {"w1": _normal(4, 3), "w2": _normal(4, 9)},
    )
    x = _normal(5, 4)
    done = {
        c: count_graph(model, {"c": np.array(c), "x": x}, rows=5).flops() for c in (True, False)
    }
    assert done == {True: 5 * 2 * 4 * 3, False: 5 * 2 * 4 * 9}


def test_a_pick_reads_what_it_gives() -> None:
    node = helper.make_node("Gather", ["table", "i"], ["y"])
    model = _model(
        [node], [("i", TensorProto.INT64, ["N"])], [("y", FLOAT, ["N", 4])],
        {"table": _normal(1000, 4)},
    )  # fmt: skip
    cost = count_graph(model, {"i": np.array([3, 999])}, rows=2)
    assert cost.passes == {"float": 2 * (2 * 4 * 4) + 2 * 8}


def test_products_that_cannot_be_counted_are_refused() -> None:
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")
    model = _model(
        [node], [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 4])], {"w": _normal(3, 4)}
    )  # fmt: skip
    with pytest.raises(ModelError, match="a node Einsum cannot be counted"):
        count_graph(model, {"x": _normal(2, 3)}, rows=2)


def test_times_of_nodes_leave_out_those_that_run_others() -> None:
    times = node_times(scan(200), {"x": _normal(200, 3, 6)}, calls=3)
    assert set(times) == {"MatMul", "Sub"}
    assert set(times) & PRODUCTS == {"MatMul"}
    assert list(times.values()) == sorted(times.values(), reverse=True)


def test_limits_are_counts_over_rates() -> None:
    cost = count_graph(perceptron(), {"x": _normal(7, 10)}, rows=7)
    rates = MachineRates({}, {"float": 1e6}, {"float": 1e3}, 1e9)
    found = limits(cost, rates, rows=14, budget_s=0.02)
    assert found.products > 0.0
    assert found.passes - found.products == pytest.approx(2 * 28 / 1e3)
    assert found.memory == pytest.approx((cost.constants + 2 * cost.moved) / 1e9)
    tiles = count_graph(scan(), {"x": _normal(4, 3, 6)}, rows=12)
    found = limits(tiles, rates, rows=12, budget_s=0.02)
    assert found.passes - found.products == pytest.approx(4 * 3 * (3 * 6) * 4 / 1e6)


def test_more_of_the_same_products_take_as_much_more() -> None:
    product = Product("float", 1, 64, 64, 64)
    assert product_seconds({}, budget_s=0.01) == 0.0
    seconds = product_seconds({product: 1000}, budget_s=0.05)
    # Any processor does between 10^8 and 10^12 operations a second.
    assert 1000 * product.flops / 1e12 < seconds < 1000 * product.flops / 1e8


def test_what_a_timed_product_gives_stays_in_the_graph() -> None:
    (shape,) = machine_rates._product_call(Product("double", 1, 4, 8, 500))()
    assert shape.tolist() == [4, 500]


def test_a_call_is_timed_that_has_many_products_even_of_large_ones() -> None:
    """A single one a call ran in a cold cache, and a third of its time was not the product's."""
    assert machine_rates._n_nodes(Product("double", 1, 32, 32, 5000)) >= 10
    assert machine_rates._n_nodes(Product("float", 1, 1, 8, 8)) == machine_rates._MOST_NODES
    assert machine_rates._n_nodes(Product("float", 1, 4096, 4096, 4096)) == 1


def test_rates_of_this_machine() -> None:
    rates = measure_rates(budget_s=0.1, stream_bytes=2**20)
    for values in (rates.products, rates.passes, rates.expensive):
        assert set(values) == {"float", "double"}
        assert all(1e6 < value < 1e13 for value in values.values())
    assert rates.stream > 1e6


def test_facts_name_neither_the_machine_nor_a_place(tmp_path) -> None:
    import platform

    facts = machine_facts()
    assert {"processor", "usable cores", "numpy", "onnxruntime", "torch"} <= set(facts)
    text = " ".join(map(str, facts.values()))
    assert "/" not in text
    assert not platform.node() or platform.node() not in text.split()
