"""Graphs as values."""

from __future__ import annotations

import pytest

from zpipe.graph.model import Edge, Endpoint, Graph, Node, Stream, Wishes
from zpipe.graph.policy import Policy

A = Node("a", Endpoint("x", "file", "x"))


def graph(*edges: str | Edge) -> Graph:
    """Return a graph of edges written `ab`."""
    made = [edge if isinstance(edge, Edge) else Edge(*edge) for edge in edges]
    names = sorted({name for edge in made for name in (edge.source, edge.sink)})
    return Graph(tuple(Node(name, Endpoint(name, "file", name)) for name in names), tuple(made))


def told(stream: Stream) -> str:
    """Return a stream as the names of its nodes: `ab>cd`."""
    sources, sinks = ("".join(node.id for node in side) for side in (stream.sources, stream.sinks))
    return f"{sources}>{sinks}"


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


@pytest.mark.parametrize(
    ("edges", "streams"),
    [
        ([], []),
        (["ab"], ["a>b"]),
        (["ab", "ac", "ad"], ["a>bcd"]),
        (["ad", "bd", "cd"], ["abc>d"]),
        (["ac", "ad", "bc", "bd"], ["ab>cd"]),
        (["ac", "bc", "ad", "bd"], ["ab>cd"]),
        # those that have nothing to do with each other, in the order of their first edges
        (["cd", "ab"], ["c>d", "a>b"]),
        (["ax", "by", "az"], ["a>xz", "b>y"]),
        (["bx", "ax"], ["ba>x"]),
        # what one stream writes, another one reads
        (["ab", "bc"], ["a>b", "b>c"]),
    ],
    ids=lambda words: " ".join(words) or "none",
)
def test_sources_that_have_their_sinks_in_common_are_a_stream(
    edges: list[str], streams: list[str]
) -> None:
    assert [told(stream) for stream in graph(*edges).streams()] == streams


def test_a_stream_has_the_wishes_of_each_source_and_the_policy_of_each_sink() -> None:
    first, second = Wishes(offset=1), Wishes(offset=2)
    calm, hasty = Policy(), Policy(when_full="detach")
    (stream,) = graph(
        Edge("a", "x", first, calm),
        Edge("a", "y", first, hasty),
        Edge("b", "x", second, calm),
        Edge("b", "y", second, hasty),
    ).streams()
    assert told(stream) == "ab>xy"
    assert stream.wishes == (first, second)
    assert stream.policies == (calm, hasty)
