"""Everything that is wrong with a graph is found at once, before anything is opened."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.graph.check import check
from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.graph.policy import Policy


def graph(*edges: str | Edge, nodes: str | None = None) -> Graph:
    """Return a graph of edges written `ab`; its nodes are those that they name, or `nodes`."""
    made = [edge if isinstance(edge, Edge) else Edge(*edge) for edge in edges]
    named = "".join(edge.source + edge.sink for edge in made) if nodes is None else nodes
    names = named if nodes is not None else dict.fromkeys(named)
    return Graph(tuple(Node(name, Endpoint(name, "file", name)) for name in names), tuple(made))


@pytest.mark.parametrize(
    "sound",
    [
        graph("ab"),
        graph("ab", "cd"),
        graph("ab", "bc", "cd"),
        graph("ab", "ac"),
        graph("ac", "bc"),
        graph("ac", "ad", "bc", "bd"),
        graph(Edge("a", "c", policy=Policy(when_full="detach")), "ad"),
        graph(Edge("a", "c", Wishes(offset=1)), "bc"),
        graph(Edge("a", "b", Wishes(via="splice", without=frozenset({"sendfile"})))),
        graph(Edge("a", "b", Wishes(append=True))),
        graph(Edge("a", "b", Wishes(inplace=True))),
    ],
)
def test_a_sound_graph_has_no_problems(sound: Graph) -> None:
    assert check(sound) == []


@pytest.mark.parametrize(
    ("wrong", "problems"),
    [
        (graph(nodes=""), ["nothing is joined: there are no edges"]),
        (
            graph(nodes="a"),
            ["a: no edge reads or writes it", "nothing is joined: there are no edges"],
        ),
        (graph("ab", nodes="abc"), ["c: no edge reads or writes it"]),
        (graph("ab", nodes="aab"), ["a: two nodes have this name"]),
        (graph("ab", nodes="a"), ["a -> b: no node is named b"]),
        (graph("ab", nodes="b"), ["a -> b: no node is named a"]),
        (graph("ab", "ab"), ["a -> b: joined 2 times"]),
        (
            graph("ac", "ad", "bc"),
            ["c: is written by a and b, which do not have all of their sinks in common"],
        ),
        (
            graph("ac", "ad", "bd", "bc"),  # each byte is read once, but in which order?
            [
                f"{name}: is written by a and b, which do not have all of their sinks in common"
                for name in "cd"
            ],
        ),
        (
            graph(Edge("a", "b", Wishes(length=1)), Edge("a", "c", Wishes(length=2))),
            ["a: its edges want different things of one reading"],
        ),
        (
            graph(Edge("a", "c", policy=Policy(when_full="detach")), "bc"),
            ["c: its edges want it to be treated in different ways"],
        ),
        (graph("aa"), ["a: is source and sink of one edge"]),
        (graph("ab", "ba"), ["a -> b -> a: bytes would go round in a circle"]),
        (graph("ab", "bc", "ca"), ["a -> b -> c -> a: bytes would go round in a circle"]),
        (
            graph(Edge("a", "b", Wishes(via="splice", without=frozenset({"splice"})))),
            ["a -> b: splice is both asked for and forbidden"],
        ),
        (
            graph(Edge("a", "b", Wishes(append=True, inplace=True))),
            ["b: to append and to overwrite in place exclude each other"],
        ),
    ],
)
def test_each_problem_is_told_in_one_line(wrong: Graph, problems: list[str]) -> None:
    assert check(wrong) == problems


def test_all_problems_are_found_at_once() -> None:
    wishes = Wishes(append=True, inplace=True, via="plain", without=frozenset({"plain"}))
    edges = ("ab", "bc", "ca", "ad", "id", "xy", Edge("e", "e"), Edge("f", "g", wishes))
    problems = check(graph(*edges, nodes="abcdefghhi"))
    assert problems == [
        "h: two nodes have this name",
        "x -> y: no node is named x",
        "x -> y: no node is named y",
        "e: is source and sink of one edge",
        "f -> g: plain is both asked for and forbidden",
        "g: to append and to overwrite in place exclude each other",
        "d: is written by a and i, which do not have all of their sinks in common",
        "h: no edge reads or writes it",
        "a -> b -> c -> a: bytes would go round in a circle",
    ]


def test_a_circle_is_found_behind_the_ways_into_it_and_only_once() -> None:
    problems = check(graph("xy", "xz", "ya", "za", "ab", "bc", "ca", "cd"))
    assert [line for line in problems if "circle" in line] == [
        "a -> b -> c -> a: bytes would go round in a circle"
    ]


def test_two_ways_to_one_place_are_no_circle() -> None:
    problems = check(graph("ab", "ac", "bd", "cd"))
    assert not [line for line in problems if "circle" in line]


def test_a_long_chain_does_not_exhaust_the_stack() -> None:
    names = [f"n{number}" for number in range(5000)]
    chain = Graph(
        tuple(Node(name, Endpoint(name, "file", name)) for name in names),
        tuple(Edge(names[at], names[at + 1]) for at in range(len(names) - 1)),
    )
    assert check(chain) == []


def reaches_itself(edges: list[tuple[int, int]]) -> bool:
    """Tell whether there is a circle of two or more, by closing the relation."""
    ways = {(a, b) for a, b in edges if a != b}
    while True:
        longer = {(a, d) for a, b in ways for c, d in ways if b == c} | ways
        if longer == ways:
            return any(a == b for a, b in ways)
        ways = longer


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_a_circle_is_told_exactly_where_there_is_one(edges: list[tuple[int, int]]) -> None:
    problems = check(graph(*(Edge(str(a), str(b)) for a, b in edges)))
    told = [line for line in problems if line.endswith("bytes would go round in a circle")]
    assert bool(told) == reaches_itself(edges)
    for line in told:
        names = line.partition(":")[0].split(" -> ")
        assert names[0] == names[-1]
        for here, there in pairwise(names):
            assert (int(here), int(there)) in edges
