"""Everything that is wrong with a graph is found at once, before anything is opened."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.letters import WAYS, edge, graph
from zpipe.graph.check import Flaw, check
from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.graph.policy import Policy

BETWEEN = "is written and read: only processes and sockets can be both"


def texts(wrong: Graph) -> list[str]:
    return [str(flaw) for flaw in check(wrong, WAYS)]


@pytest.mark.parametrize(
    "sound",
    [
        graph("ab"),
        graph("ab", "cd"),
        graph("ab", "ac"),
        graph("ac", "bc"),
        graph("ac", "ad", "bc", "bd"),
        graph(Edge("a", "c", policy=Policy(when_full="detach")), "ad"),
        graph(Edge("a", "c", Wishes(offset=1)), "bc"),
        graph(Edge("a", "b", Wishes(via="splice", without=frozenset({"sendfile"})))),
        graph(Edge("a", "b", Wishes(append=True))),
        graph(Edge("a", "b", Wishes(inplace=True))),
        # sinks that are shared in part
        graph("ac", "ad", "bc"),
        graph("ac", "ad", "bd", "bc"),
        graph("ac~", "ad", "bc~"),
        # what goes through
        graph("ap", "px"),
        graph("ap", "pq", "qr", "rx"),
        graph("ap", "px", "bx"),
        graph("ap=", "bp=", "px"),
        # both ways of a socket
        graph("as", "sx"),
        graph("st", "ts"),
        graph("ss"),
        graph("as~", "ss~"),
        graph("as", "sp", "pt", "tx"),
    ],
    ids=lambda sound: " ".join(each.source + each.sink for each in sound.edges),
)
def test_a_sound_graph_has_no_problems(sound: Graph) -> None:
    assert check(sound, WAYS) == []


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
            graph(Edge("a", "b", Wishes(length=1)), Edge("a", "c", Wishes(length=2))),
            ["a: its edges want different things of one reading"],
        ),
        (
            graph(Edge("a", "c", policy=Policy(when_full="detach")), "bc"),
            ["c: its edges want it to be treated in different ways"],
        ),
        (graph("ac~", "bc="), ["c: its edges want it to merge in different ways"]),
        (graph("ac~", "bc"), ["c: its edges want it to merge in different ways"]),
        (graph("ac~"), ["c: merge as-ready: there is only one source, a"]),
        (graph("ac=", "bd"), ["c: merge lines: there is only one source, a"]),
        (graph("aa"), ["a: is source and sink of one edge"]),
        (graph("pp"), ["p: is source and sink of one edge"]),
        (graph("ab", "bc"), [f"b: {BETWEEN}"]),
        (graph("pb", "bq"), [f"b: {BETWEEN}"]),
        (graph("pq", "qp"), ["p -> q -> p: bytes would go round in a circle"]),
        (graph("pq", "qr", "rp"), ["p -> q -> r -> p: bytes would go round in a circle"]),
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
    assert texts(wrong) == problems


@pytest.mark.parametrize(
    ("wrong", "flaw"),
    [
        (graph("ab", nodes="abc"), Flaw("c: no edge reads or writes it", "c")),
        (graph("ab", nodes="a"), Flaw("a -> b: no node is named b", edge=("a", "b"))),
        (graph("ab", "ab"), Flaw("a -> b: joined 2 times", edge=("a", "b"))),
        (graph("ab", "bc"), Flaw(f"b: {BETWEEN}", "b")),
        (
            graph("pq", "qp"),
            Flaw("p -> q -> p: bytes would go round in a circle", edge=("p", "q")),
        ),
        (graph("ac~"), Flaw("c: merge as-ready: there is only one source, a", edge=("a", "c"))),
        (graph(nodes=""), Flaw("nothing is joined: there are no edges")),
    ],
)
def test_a_flaw_says_where_it_is(wrong: Graph, flaw: Flaw) -> None:
    assert check(wrong, WAYS) == [flaw]


def test_without_ways_nothing_can_be_both() -> None:
    flaws = check(graph("ap", "px", "st", "ts"))
    assert [flaw.text for flaw in flaws if flaw.node] == [f"{name}: {BETWEEN}" for name in "pst"]


def test_all_problems_are_found_at_once() -> None:
    wishes = Wishes(append=True, inplace=True, via="plain", without=frozenset({"plain"}))
    edges = ("ab", "bc", "ca", "ad~", "id", "xy", Edge("e", "e"), Edge("f", "g", wishes))
    assert texts(graph(*edges, nodes="abcdefghhi")) == [
        "h: two nodes have this name",
        "x -> y: no node is named x",
        "x -> y: no node is named y",
        "e: is source and sink of one edge",
        "f -> g: plain is both asked for and forbidden",
        "g: to append and to overwrite in place exclude each other",
        "d: its edges want it to merge in different ways",
        f"a: {BETWEEN}",
        f"b: {BETWEEN}",
        f"c: {BETWEEN}",
        "h: no edge reads or writes it",
        "a -> b -> c -> a: bytes would go round in a circle",
    ]


def test_a_circle_is_found_behind_the_ways_into_it_and_only_once() -> None:
    problems = texts(graph("xy", "xz", "ya", "za", "ab", "bc", "ca", "cd"))
    assert [line for line in problems if "circle" in line] == [
        "a -> b -> c -> a: bytes would go round in a circle"
    ]


def test_two_ways_to_one_place_are_no_circle() -> None:
    problems = texts(graph("ap", "aq", "px~", "qx~"))
    assert problems == []


def test_a_circle_ends_at_a_socket() -> None:
    assert texts(graph("ps", "sp")) == []
    assert texts(graph("pq", "qs", "sp")) == []


def test_a_long_chain_does_not_exhaust_the_stack() -> None:
    names = [f"n{number}" for number in range(5000)]
    chain = Graph(
        tuple(Node(name, Endpoint(name, "exec", name)) for name in names),
        tuple(Edge(*pair) for pair in pairwise(names)),
    )
    assert check(chain, WAYS) == []


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
    problems = texts(graph(*(Edge(str(a), str(b)) for a, b in edges)))
    told = [line for line in problems if line.endswith("bytes would go round in a circle")]
    assert bool(told) == reaches_itself(edges)
    for line in told:
        names = line.partition(":")[0].split(" -> ")
        assert names[0] == names[-1]
        for here, there in pairwise(names):
            assert (int(here), int(there)) in edges


# Deadlocks


@pytest.mark.parametrize(
    "edges",
    [
        # two processes that read the same come together again
        "ap aq px qx",
        "ap aq qx px",
        "ap aq pr qr rx",
        "ap bp px bq cq qx",
        # those that share all of their sinks are read one after the other, spilled or not
        "ap aq px+ qx+",
        # the source itself, and what a process makes of it
        "ap ax px",
        "ap px ax",
        "ap pq qx ax",
        # a process and what comes out of it
        "ap pq px qx",
        # two sinks that want two sources in opposite orders
        "ax bx by ay",
        "ap bq px qx qy py",
        # a circle over two sinks, of which each alone has a way out
        "ax ap bp bx px",
    ],
)
def test_what_would_wait_for_itself_is_refused(edges: str) -> None:
    flaws = check(graph(*edges.split()), WAYS)
    assert flaws
    assert all("a deadlock" in flaw.text for flaw in flaws)
    for flaw in flaws:
        assert flaw.edge is not None
        assert "".join(flaw.edge) in [words.rstrip("+") for words in edges.split()]
        assert flaw.text.startswith(f"{flaw.edge[1]}: takes all of ")


@pytest.mark.parametrize(
    "edges",
    [
        # where the one that comes later is not waited for
        "ap aq px~ qx~",
        "ap aq px= qx=",
        "ap aq+ px qx",
        "ap aq px+ qx+ qy",
        "ap ax~ px~",
        "ax+ ap px+",
        "ap pq px~ qx~",
        "ax~ bx~ by~ ay~",
        # where they have nothing in common
        "ap bq px qx",
        # the same order everywhere
        "ax ay bx by",
        "ax bx ay by",
        "ax ay by bx",
        "ax bx cx by cy",
        # at a socket what comes out does not hang on what goes in
        "as at sx tx",
        "as ax sx",
    ],
)
def test_what_comes_to_its_end_is_not_refused(edges: str) -> None:
    assert check(graph(*edges.split()), WAYS) == []


def test_a_deadlock_is_told_with_both_that_are_in_it() -> None:
    (flaw,) = check(graph("ap", "aq", "px", "qx"), WAYS)
    assert flaw.text.startswith(
        "x: takes all of p before anything of q, and p cannot end while q is held up: a deadlock"
    )
    assert flaw.edge == ("q", "x")


def test_the_last_of_an_order_may_hang_on_a_spilled_one() -> None:
    """Only the way that must be waited for has to spill."""
    late = [edge("px"), edge("qx")]
    assert check(graph("ap", "aq+", *late), WAYS) == []
    assert check(graph("ap+", "aq", *late), WAYS) != []
