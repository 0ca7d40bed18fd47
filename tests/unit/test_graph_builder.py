"""Names in a graph that is built by hand."""

from __future__ import annotations

import pytest

from anomgan.export.graph import GraphBuilder


def test_a_renamed_value_is_followed_to_all_who_use_it() -> None:
    g = GraphBuilder()
    doubled = g.op("Add", "x", "x")
    used = g.op("Mul", doubled, doubled)
    assert g.rename(doubled, "twice") == "twice"
    assert [list(node.input) for node in g.nodes] == [["x", "x"], ["twice", "twice"]]
    assert [list(node.output) for node in g.nodes] == [["twice"], [used]]


@pytest.mark.parametrize("name", ["x", "add_1"])
def test_only_what_a_node_makes_can_be_renamed(name: str) -> None:
    g = GraphBuilder()
    g.rename(g.op("Add", "x", "x"), "twice")
    with pytest.raises(ValueError, match=f"no node makes {name}"):
        g.rename(name, "thrice")
