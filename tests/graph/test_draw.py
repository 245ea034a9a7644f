"""A graph drawn for a terminal."""

from __future__ import annotations

from zpipe.graph.draw import draw
from zpipe.graph.model import Edge, Endpoint, Graph, Node

GRAPH = Graph(
    (
        Node("in", Endpoint("disk.img", "file", "disk.img")),
        Node("out", Endpoint("tcp://backup:9000", "tcp", "backup:9000")),
        Node("a", Endpoint("-", "-", "")),
        Node("b", Endpoint("null:", "null", "")),
    ),
    (Edge("in", "out"), Edge("a", "b")),
)


def test_each_edge_is_a_line_with_the_addresses_as_they_were_written() -> None:
    assert draw(GRAPH).splitlines() == [
        "disk.img ────▶ tcp://backup:9000",
        "-        ────▶ null:",
    ]


def test_labels_stand_on_the_edges() -> None:
    labels = {("in", "out"): "sendfile", ("a", "b"): "plain"}
    assert draw(GRAPH, labels).splitlines() == [
        "disk.img ── sendfile ──▶ tcp://backup:9000",
        "-        ── plain ─────▶ null:",
    ]


def test_an_edge_without_a_label_is_as_long_as_the_others() -> None:
    lines = draw(GRAPH, {("in", "out"): "sendfile"}).splitlines()
    assert lines[1] == "-        ──────────────▶ null:"
    assert lines[0].index("▶") == lines[1].index("▶")


def test_a_label_for_no_edge_changes_nothing() -> None:
    assert draw(GRAPH, {("out", "in"): "sendfile"}) == draw(GRAPH)


def test_a_graph_without_edges_is_nothing() -> None:
    assert draw(Graph(GRAPH.nodes, ())) == ""
