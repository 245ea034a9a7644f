"""From a sound graph to the streams that carry it out, all at the same time.

A stream is what one loop carries: sources that are read one after the other, each by all of the
sinks. Where a sink takes from sources that do not share all of their sinks, or merges them, a joint
is put in between: each source goes into the joint, and the joint goes to the sink.
"""

from __future__ import annotations

from zpipe.graph.model import Endpoint, Node, Wishes
from zpipe.graph.policy import Policy
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

    from zpipe.graph.model import Edge, Graph, Merge

JOINT = "joint"  # the kind of an end that no address names


class Stream(Value):
    """What belongs together: sources that are read one after the other, each by all of the sinks.

    `wishes` are those of each source, `policies` those of each sink.
    """

    sources: tuple[Node, ...]
    wishes: tuple[Wishes, ...]
    sinks: tuple[Node, ...]
    policies: tuple[Policy, ...]


class Joint(Value):
    """Where several come together: `ways` are the nodes that are written, `out` is the one that is
    read. In-order there is a pair for each source, and `out` is that of this way.
    """

    ways: tuple[Node, ...]
    out: Node
    merge: Merge


class Wiring(Value):
    """`passing` are the nodes that are both written and read."""

    streams: tuple[Stream, ...]
    joints: tuple[Joint, ...]
    passing: tuple[Node, ...]

    @property
    def alone(self) -> bool:
        """Nothing has to be carried at the same time."""
        return len(self.streams) == 1 and not self.passing


def wire(graph: Graph, through: Collection[str] = ()) -> Wiring:
    """Return the streams of a sound graph, in the order of their first edges; joints come last.

    A node whose kind is among `through` may stop reading when it has enough: its exit status tells
    whether that is a failure.
    """
    nodes = {node.id: node for node in graph.nodes}
    edges_of: dict[str, list[Edge]] = {}
    into: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        edges_of.setdefault(edge.source, []).append(edge)
        into.setdefault(edge.sink, []).append(edge)
    passing = [node for name, node in nodes.items() if name in edges_of and name in into]
    lax = {node.id for node in passing if node.endpoint.kind in through}

    def policy(edge: Edge) -> Policy:
        lets_go = edge.sink in lax or (edge.source, edge.sink) in ways
        return replace(edge.policy, may_leave=True) if lets_go else edge.policy

    groups = _groups(edges_of)
    apart = _apart(groups, into)
    joints: list[Joint] = []
    streams: list[Stream] = []
    late: list[Stream] = []
    ways: dict[tuple[str, str], Node] = {}  # source, sink -> the way into the joint before it

    def join(sources: list[str], sinks: list[str]) -> None:
        """Put a joint between these, and a stream behind it."""
        merge = into[sinks[0]][0].merge
        made = _joint([nodes[name] for name in sources], sinks, merge)
        joints.extend(made)
        for source, way in zip(sources, (way for joint in made for way in joint.ways), strict=True):
            ways.update({(source, sink): way for sink in sinks})
        outs = tuple({joint.out.id: joint.out for joint in made}.values())
        late.append(
            Stream(
                outs,
                tuple(_behind(edges_of[sources[0]][0].wishes, merge) for _ in outs),
                tuple(nodes[sink] for sink in sinks),
                tuple(_after(into[sink][0].policy, lax=sink in lax) for sink in sinks),
            )
        )

    for sources in groups:
        sinks = [edge.sink for edge in edges_of[sources[0]]]
        if _is_merged(sources, sinks, into):
            join(sources, sinks)
    for sink, edges in into.items():
        if sink in apart and (edges[0].source, sink) not in ways:
            join([edge.source for edge in edges], [sink])
    for sources in groups:
        joined = any((sources[0], edge.sink) in ways for edge in edges_of[sources[0]])
        for some in [[source] for source in sources] if joined else [sources]:
            to: dict[str, tuple[Node, Policy]] = {}
            for edge in edges_of[some[0]]:
                node = ways.get((some[0], edge.sink), nodes[edge.sink])
                to[node.id] = (node, policy(edge))
            wishes = [edges_of[source][0].wishes for source in some]
            if joined and all(node.endpoint.kind == JOINT for node, _ in to.values()):
                wishes = [
                    _before(wish, into[edges_of[some[0]][0].sink][0].merge) for wish in wishes
                ]
            streams.append(
                Stream(
                    tuple(nodes[source] for source in some),
                    tuple(wishes),
                    tuple(node for node, _ in to.values()),
                    tuple(policy for _, policy in to.values()),
                )
            )
    return Wiring((*streams, *late), tuple(joints), tuple(passing))


def _groups(edges_of: dict[str, list[Edge]]) -> list[list[str]]:
    """Return sources that may be read one after the other: they have all of their sinks in common,
    and want the same, but for the part of them that is read.
    """
    groups: dict[tuple[tuple[str, ...], Wishes], list[str]] = {}
    for source, edges in edges_of.items():
        wishes = replace(edges[0].wishes, offset=0, length=None)
        groups.setdefault((tuple(edge.sink for edge in edges), wishes), []).append(source)
    return list(groups.values())


def _is_merged(sources: list[str], sinks: list[str], into: dict[str, list[Edge]]) -> bool:
    """Tell whether all sinks of a group want its sources, no others, merged in the same way."""
    merges = {into[sink][0].merge for sink in sinks}
    only = all(len(into[sink]) == len(sources) for sink in sinks)
    return only and len(sources) > 1 and len(merges) == 1 and merges != {"in-order"}


def _apart(groups: list[list[str]], into: dict[str, list[Edge]]) -> set[str]:
    """Return the sinks that need a joint of their own, since their sources are not one group that
    is read in order; what is read apart for the sake of one sink is so for the others.
    """
    group_of = {source: place for place, sources in enumerate(groups) for source in sources}
    sinks_of: dict[int, set[str]] = {}
    for sink, edges in into.items():
        for edge in edges:
            sinks_of.setdefault(group_of[edge.source], set()).add(sink)
    merged = {
        place
        for place, sources in enumerate(groups)
        if _is_merged(sources, list(sinks_of[place]), into)
    }
    several = {sink for sink, edges in into.items() if len(edges) > 1}
    pending = [
        sink
        for sink in several
        if (len({group_of[edge.source] for edge in into[sink]}) > 1)
        or (into[sink][0].merge != "in-order" and group_of[into[sink][0].source] not in merged)
    ]
    apart = set(pending)
    while pending:
        for place in {group_of[edge.source] for edge in into[pending.pop()]}:
            found = (sinks_of[place] & several) - apart
            apart |= found
            pending += found
    return apart


def _joint(sources: list[Node], sinks: list[str], merge: Merge) -> list[Joint]:
    name = ", ".join(sinks)
    ways = [
        Node(f"{source.id} -> {name}", Endpoint(f"joint before {name}", JOINT, ""), source.on_error)
        for source in sources
    ]
    if merge == "in-order":
        outs = [Endpoint(f"{source.endpoint.text} (joint)", JOINT, "") for source in sources]
        return [
            Joint((way,), Node(f"{way.id} (joint)", out, way.on_error), merge)
            for way, out in zip(ways, outs, strict=True)
        ]
    return [
        Joint(tuple(ways), Node(f"-> {name}", Endpoint(f"joint before {name}", JOINT, "")), merge)
    ]


def _after(policy: Policy, *, lax: bool) -> Policy:
    """Return how a sink is treated behind a joint; what it does not take is spilled before it."""
    return replace(policy, when_full="block", may_leave=policy.may_leave or lax)


def _before(wishes: Wishes, merge: Merge) -> Wishes:
    """Return what is to be wished for before a joint: a joint is no file, and waiting for one's
    turn is no stall.
    """
    stall_timeout = None if merge == "in-order" else wishes.stall_timeout
    return replace(wishes, append=False, inplace=False, sync=False, stall_timeout=stall_timeout)


def _behind(wishes: Wishes, merge: Merge) -> Wishes:
    """Return what is left to wish for behind a joint: the rest is done before it."""
    return Wishes(
        append=wishes.append,
        inplace=wishes.inplace,
        sync=wishes.sync,
        lenient=wishes.lenient,
        stall_timeout=wishes.stall_timeout if merge == "in-order" else None,
        pipe_size=wishes.pipe_size,
    )
