"""From graphs to streams: every edge is carried once, and what is called sound comes to its end.

The end is that of a simulation with pipes of a few tokens, which knows nothing of how the check
decides; what arrives is compared with what the graph says.
"""

from __future__ import annotations

from collections import Counter, deque

import pytest
from hypothesis import given

from tests.graph.letters import WAYS, drawn, edge, graph
from zpipe.graph.check import check
from zpipe.graph.model import Edge, Graph, Wishes
from zpipe.graph.policy import Policy
from zpipe.graph.wiring import JOINT, Stream, Wiring, wire
from zpipe.values import replace

THROUGH = ["exec"]


def told(stream: Stream) -> str:
    """Return a stream as the names of its nodes: `a,b>c`; a joint's are in brackets."""

    def names(nodes: tuple[object, ...]) -> str:
        return ",".join(
            f"[{node.id.removesuffix(' (joint)').replace(' ', '')}]"  # type: ignore[attr-defined]
            if node.endpoint.kind == JOINT  # type: ignore[attr-defined]
            else node.id  # type: ignore[attr-defined]
            for node in nodes
        )

    return f"{names(stream.sources)}>{names(stream.sinks)}"


@pytest.mark.parametrize(
    ("edges", "streams"),
    [
        ("", ""),
        ("ab", "a>b"),
        ("ab ac ad", "a>b,c,d"),
        ("ad bd cd", "a,b,c>d"),
        ("ac ad bc bd", "a,b>c,d"),
        ("ac bc ad bd", "a,b>c,d"),
        # those that have nothing to do with each other, in the order of their first edges
        ("cd ab", "c>d a>b"),
        ("ax by az", "a>x,z b>y"),
        ("bx ax", "b,a>x"),
        # what one stream writes, another one reads
        ("ap px", "a>p p>x"),
        ("px ap", "p>x a>p"),
        ("st ts", "s>t t>s"),
        ("ap bp px", "a,b>p p>x"),
        # sinks that are shared in part: a way for each source, read in order
        ("ax ay bx", "a>[a->x],y b>[b->x] [a->x],[b->x]>x"),
        ("bx ax ay", "b>[b->x] a>[a->x],y [b->x],[a->x]>x"),
        ("ax ay by bx", "a>[a->x],[a->y] b>[b->y],[b->x] [a->x],[b->x]>x [a->y],[b->y]>y"),
        # ways that come together
        ("ax~ bx~", "a>[a->x] b>[b->x] [->x]>x"),
        ("ax= bx= cx=", "a>[a->x] b>[b->x] c>[c->x] [->x]>x"),
        ("ax~ ay~ bx~ by~", "a>[a->x,y] b>[b->x,y] [->x,y]>x,y"),
        ("ax~ ay= bx~ by=", "a>[a->x],[a->y] b>[b->x],[b->y] [->x]>x [->y]>y"),
        ("ax~ ay bx~", "a>[a->x],y b>[b->x] [->x]>x"),
    ],
    ids=lambda words: words or "none",
)
def test_what_is_carried_at_the_same_time(edges: str, streams: str) -> None:
    wiring = wire(graph(*edges.split()), THROUGH)
    assert " ".join(told(stream) for stream in wiring.streams) == streams


@pytest.mark.parametrize("edges", ["ax ay bx by cx", "ax ay~ bx by~", "ax~ ay~ bx~ by~ cx~"])
def test_where_one_of_shared_sinks_has_another_source_none_is_opened_twice(edges: str) -> None:
    wiring = wire(graph(*edges.split()), THROUGH)
    sinks = [node.id for stream in wiring.streams for node in stream.sinks]
    assert sorted(name for name in sinks if len(name) == 1) == ["x", "y"]


@pytest.mark.parametrize(
    ("edges", "passing", "alone"),
    [
        ("ab", "", True),
        ("ac ad bc bd", "", True),
        ("ab cd", "", False),
        ("ap px", "p", False),
        ("ap pq qx", "pq", False),
        ("st ts", "st", False),
        ("ss", "s", False),
        ("pa", "", True),
        ("ax~ bx~", "", False),
    ],
)
def test_what_passes_and_what_is_alone(edges: str, passing: str, alone: bool) -> None:
    wiring = wire(graph(*edges.split()), THROUGH)
    assert "".join(sorted(node.id for node in wiring.passing)) == passing
    assert wiring.alone is alone


def test_a_stream_has_the_wishes_of_each_source_and_the_policy_of_each_sink() -> None:
    first, second = Wishes(offset=1), Wishes(offset=2)
    calm, hasty = Policy(), Policy(when_full="detach")
    (stream,) = wire(
        graph(
            Edge("a", "x", first, calm),
            Edge("a", "y", first, hasty),
            Edge("b", "x", second, calm),
            Edge("b", "y", second, hasty),
        )
    ).streams
    assert told(stream) == "a,b>x,y"
    assert stream.wishes == (first, second)
    assert stream.policies == (calm, hasty)


@pytest.mark.parametrize(
    ("edges", "leaving"),
    [
        # a process that is read may have enough; one that is only written may not
        ("ap px", ["p"]),
        ("ap aq px", ["p"]),
        ("as sx", []),
        # and so may what is behind a joint, which tells why
        ("ax~ bx~", ["a -> x", "b -> x"]),
        ("ap~ bp~ px", ["a -> p", "b -> p", "p"]),
        ("ax ay bx", ["a -> x", "b -> x"]),
    ],
)
def test_who_may_leave(edges: str, leaving: list[str]) -> None:
    wiring = wire(graph(*edges.split()), THROUGH)
    lax = [
        node.id
        for stream in wiring.streams
        for node, policy in zip(stream.sinks, stream.policies, strict=True)
        if policy.may_leave
    ]
    assert lax == leaving


def test_what_is_wished_for_is_done_before_a_joint_or_behind_it_and_once() -> None:
    wishes = Wishes(
        length=10,
        append=True,
        sync=True,
        stable=True,
        rate_limit=5,
        stall_timeout=1.0,
        pipe_size=4096,
        via="splice",
    )
    edges = [edge(f"{name}x~", wishes) for name in "ab"]
    *before, behind = wire(graph(*edges)).streams
    for stream in before:
        assert stream.wishes == (replace(wishes, append=False, sync=False),)
    assert behind.wishes == (Wishes(append=True, sync=True, pipe_size=4096),)


def test_waiting_for_its_turn_is_no_stall() -> None:
    wishes = Wishes(stall_timeout=1.0)
    edges = [edge("ax", wishes), edge("bx", wishes), edge("by", wishes)]
    first, second, behind = wire(graph(*edges)).streams
    assert (told(first), told(second)) == ("a>[a->x]", "b>[b->x],y")
    assert first.wishes[0].stall_timeout is None
    assert behind.wishes[0].stall_timeout == 1.0


def test_what_a_sink_does_not_take_is_spilled_before_its_joint() -> None:
    first, _, behind = wire(graph("ax+~", "bx+~")).streams
    assert first.policies[0].when_full == "spill"
    assert behind.policies[0].when_full == "block"


def test_a_way_into_a_joint_is_treated_as_its_source_is() -> None:
    lax = graph("ax~", "bx~")
    nodes = tuple(
        replace(node, on_error="drop" if node.id == "a" else "stop") for node in lax.nodes
    )
    (joint,) = wire(Graph(nodes, lax.edges)).joints
    assert [way.on_error for way in joint.ways] == ["drop", "stop"]


# Random graphs


@given(drawn())
def test_every_edge_is_carried_once_and_every_joint_used_once(drawn: Graph) -> None:
    wiring = wire(drawn, THROUGH)
    read = Counter(node.id for stream in wiring.streams for node in stream.sources)
    written = Counter(node.id for stream in wiring.streams for node in stream.sinks)
    assert set(read.values()) <= {1}
    assert set(written.values()) <= {1}
    real = {node.id for node in drawn.nodes}
    ways = {way.id for joint in wiring.joints for way in joint.ways}
    outs = {joint.out.id for joint in wiring.joints}
    assert read.keys() == {each.source for each in drawn.edges} | outs
    assert written.keys() == {each.sink for each in drawn.edges} | ways
    assert not (ways | outs) & real
    assert sorted(carried(wiring)) == sorted((each.source, each.sink) for each in drawn.edges)
    for stream in wiring.streams:
        assert len(stream.sources) == len(stream.wishes)
        assert len(stream.sinks) == len(stream.policies)


def carried(wiring: Wiring) -> list[tuple[str, str]]:
    """Return the edges that streams and joints amount to."""
    beyond: dict[str, list[str]] = {}  # what comes out of a joint -> where it goes
    for stream in wiring.streams:
        for source in stream.sources:
            if source.endpoint.kind == JOINT:
                beyond[source.id] = [sink.id for sink in stream.sinks]
    out_of = {way.id: joint.out.id for joint in wiring.joints for way in joint.ways}
    edges = []
    for stream in wiring.streams:
        for source in stream.sources:
            if source.endpoint.kind != JOINT:
                for sink in stream.sinks:
                    behind = beyond[out_of[sink.id]] if sink.id in out_of else [sink.id]
                    edges += [(source.id, name) for name in behind]
    return edges


TOKENS, ROOM = 30, 2


class Queue:
    """A pipe of a few tokens; `writers` must all have closed it before it ends."""

    def __init__(self, writers: int, room: int = ROOM):
        self.held: deque[str] = deque()
        self.writers = writers
        self.room = room

    @property
    def full(self) -> bool:
        return len(self.held) >= self.room

    @property
    def ended(self) -> bool:
        return not self.held and not self.writers


def carried_out(drawn: Graph) -> dict[str, list[str]] | None:
    """Carry a graph out with processes that pass on what they get; None where it hangs."""
    wiring = wire(drawn, THROUGH)
    inputs: dict[str, Queue] = {}
    outputs: dict[str, Queue] = {}
    for node in drawn.nodes:
        outputs[node.id] = Queue(1)
        if node in wiring.passing:
            inputs[node.id] = Queue(1)
        elif any(each.source == node.id for each in drawn.edges):
            outputs[node.id].held.extend(f"{node.id}{number}" for number in range(TOKENS))
            outputs[node.id].writers = 0
        else:
            inputs[node.id] = Queue(1, room=1 << 30)
    for joint in wiring.joints:
        queue = outputs[joint.out.id] = Queue(len(joint.ways))
        inputs.update({way.id: queue for way in joint.ways})
    at = dict.fromkeys(range(len(wiring.streams)), 0)
    moved = True
    while moved:
        moved = False
        for node in wiring.passing:
            source, sink = inputs[node.id], outputs[node.id]
            if source.held and not sink.full:
                sink.held.append(source.held.popleft())
                moved = True
            elif source.ended and sink.writers:
                sink.writers = 0
                moved = True
        for number, stream in enumerate(wiring.streams):
            moved |= step(stream, at, number, inputs, outputs)
    if any(at[number] <= len(stream.sources) for number, stream in enumerate(wiring.streams)):
        return None
    return {
        name: list(inputs[name].held)
        for name in inputs
        if name in {node.id for node in drawn.nodes} - {node.id for node in wiring.passing}
    }


def step(
    stream: Stream,
    at: dict[int, int],
    number: int,
    inputs: dict[str, Queue],
    outputs: dict[str, Queue],
) -> bool:
    """Move one token of a stream, or go on to its next source; False where it must wait."""
    sinks = [inputs[node.id] for node in stream.sinks]
    if at[number] > len(stream.sources):
        return False
    if at[number] == len(stream.sources):
        for sink in sinks:
            sink.writers -= 1
        at[number] += 1
        return True
    source = outputs[stream.sources[at[number]].id]
    if source.ended:
        at[number] += 1
        return True
    spills = [policy.when_full == "spill" for policy in stream.policies]
    if not source.held or any(
        sink.full and not spill for sink, spill in zip(sinks, spills, strict=True)
    ):
        return False
    token = source.held.popleft()
    for sink in sinks:
        sink.held.append(token)
    return True


def expected(drawn: Graph, name: str) -> list[str]:
    """Return what a node hands on, where all merge in order."""
    edges = [each for each in drawn.edges if each.sink == name]
    if not edges:
        return [f"{name}{number}" for number in range(TOKENS)]
    return [token for each in edges for token in expected(drawn, each.source)]


@given(drawn())
def test_what_is_called_sound_comes_to_its_end(drawn: Graph) -> None:
    if not check(drawn, WAYS):
        assert carried_out(drawn) is not None


@given(drawn(spills=False))
def test_what_is_refused_would_hang(drawn: Graph) -> None:
    if check(drawn, WAYS):
        assert is_crossed(drawn) or carried_out(drawn) is None


def is_crossed(drawn: Graph) -> bool:
    """Tell whether two sinks want the same two sources in opposite orders: read as one stream, one
    of them would have the wrong one.
    """
    orders = {
        (first.source, second.source)
        for place, first in enumerate(drawn.edges)
        for second in drawn.edges[place + 1 :]
        if first.sink == second.sink
    }
    return any((second, first) in orders for first, second in orders)


@given(drawn(merges=" "))
def test_in_order_each_sink_has_one_source_behind_the_other(drawn: Graph) -> None:
    if not check(drawn, WAYS):
        got = carried_out(drawn)
        assert got is not None
        assert got == {name: expected(drawn, name) for name in got}


@given(drawn(merges="~="))
def test_merged_each_sink_has_everything(drawn: Graph) -> None:
    got = carried_out(drawn)
    assert got is not None, "nobody waits for a turn"
    for name, tokens in got.items():
        assert Counter(tokens) == Counter(expected(drawn, name))
