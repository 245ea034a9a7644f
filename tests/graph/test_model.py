"""Graphs as values."""

from __future__ import annotations

import pytest

from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes

A = Node("a", Endpoint("x", "file", "x"))


def test_a_node_is_found_by_its_id() -> None:
    assert Graph((A,), ()).node("a") is A
    with pytest.raises(KeyError):
        Graph((A,), ()).node("b")


def test_an_edge_wishes_nothing_unless_it_is_told() -> None:
    assert Edge("a", "b").wishes == Wishes()
    wishes = Wishes()
    assert (wishes.offset, wishes.length, wishes.via, wishes.without) == (
        0,
        None,
        None,
        frozenset(),
    )
    assert not any(
        (wishes.append, wishes.inplace, wishes.sync, wishes.stable, wishes.lease),
    )


def test_the_options_of_an_endpoint_cannot_be_changed_by_accident() -> None:
    with pytest.raises(TypeError):
        A.endpoint.options["size"] = "1"  # type: ignore[index]


def test_an_edge_merges_in_order_unless_it_is_told() -> None:
    assert Edge("a", "b").merge == "in-order"
    assert A.on_error == "stop"
