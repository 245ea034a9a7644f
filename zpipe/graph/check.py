"""Find everything that is wrong with a graph before anything is opened for it.

Refuses to know what an address means: whether two names are one file is asked when they are open.
Of a kind of end it knows one thing only, which it is told: its way (see `Way`).
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from types import MappingProxyType

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Literal, TypeAlias

    from zpipe.graph.model import Edge, Graph

    # once: one end, read or written; both: two streams that have nothing to do with each other, as
    # of a socket; through: what is written comes out again, as of a process
    Way: TypeAlias = Literal["once", "both", "through"]

# One that has all of a source before it has anything of the next needs the first to complete (C);
# whoever is blocked by it needs it to go on (P).
_GO_ON, _COMPLETE = "go on", "complete"


class Flaw(Value):
    """What is wrong, in one line; with the node or the edge that it is about."""

    text: str
    node: str | None = None
    edge: tuple[str, str] | None = None

    def __str__(self) -> str:
        return self.text


def check(graph: Graph, ways: Mapping[str, Way] = MappingProxyType({})) -> list[Flaw]:
    """Return every flaw, in the order of the graph; empty when it is sound.

    `ways` tells of kinds of ends that can be read and written at once; all others are `once`.
    """
    way = {node.id: ways.get(node.endpoint.kind, "once") for node in graph.nodes}
    problems = []
    known = Counter(node.id for node in graph.nodes)
    problems += [
        Flaw(f"{name}: two nodes have this name", name) for name, n in known.items() if n > 1
    ]
    read = Counter(edge.source for edge in graph.edges)
    written = Counter(edge.sink for edge in graph.edges)
    for edge in graph.edges:
        joined = (edge.source, edge.sink)
        for name in joined:
            if name not in known:
                problems.append(
                    Flaw(f"{edge.source} -> {edge.sink}: no node is named {name}", edge=joined)
                )
        if edge.source == edge.sink and way.get(edge.source) != "both":
            problems.append(Flaw(f"{edge.source}: is source and sink of one edge", edge=joined))
        wishes = edge.wishes
        if wishes.via is not None and wishes.via in wishes.without:
            text = f"{edge.source} -> {edge.sink}: {wishes.via} is both asked for and forbidden"
            problems.append(Flaw(text, edge=joined))
        if wishes.append and wishes.inplace:
            text = f"{edge.sink}: to append and to overwrite in place exclude each other"
            problems.append(Flaw(text, edge=joined))
    problems += _sources(graph)
    problems += _sinks(graph)
    for name in known:
        if not read[name] and not written[name]:
            problems.append(Flaw(f"{name}: no edge reads or writes it", name))
        elif read[name] and written[name] and way[name] == "once" and not _is_self(graph, name):
            text = f"{name}: is written and read: only processes and sockets can be both"
            problems.append(Flaw(text, name))
    if not graph.edges:
        problems.append(Flaw("nothing is joined: there are no edges"))
    circles = _circles(graph, {name for name, of in way.items() if of == "both"})
    return problems + (
        circles or _deadlocks(graph, {n for n, of in way.items() if of == "through"})
    )


def _is_self(graph: Graph, name: str) -> bool:
    return any(edge.source == edge.sink == name for edge in graph.edges)


def _sources(graph: Graph) -> Iterable[Flaw]:
    """Yield a flaw for each source whose edges do not agree on what is read of it."""
    edges_of: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        edges_of.setdefault(edge.source, []).append(edge)
    for name, edges in edges_of.items():
        for edge in edges:
            if edge.wishes != edges[0].wishes:
                text = f"{name}: its edges want different things of one reading"
                yield Flaw(text, edge=(name, edge.sink))
                break
        for sink, n in Counter(edge.sink for edge in edges).items():
            if n > 1:
                yield Flaw(f"{name} -> {sink}: joined {n} times", edge=(name, sink))


def _sinks(graph: Graph) -> Iterable[Flaw]:
    """Yield a flaw for each sink whose edges do not agree on how it is treated."""
    edges_of: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        edges_of.setdefault(edge.sink, []).append(edge)
    for name, edges in edges_of.items():
        first = edges[0]
        for edge in edges:
            if edge.policy != first.policy:
                text = f"{name}: its edges want it to be treated in different ways"
                yield Flaw(text, edge=(edge.source, name))
                break
        for edge in edges:
            if edge.merge != first.merge:
                text = f"{name}: its edges want it to merge in different ways"
                yield Flaw(text, edge=(edge.source, name))
                break
        if len(edges) == 1 and first.merge != "in-order":
            text = f"{name}: merge {first.merge}: there is only one source, {first.source}"
            yield Flaw(text, edge=(first.source, name))


def _circles(graph: Graph, ends: set[str]) -> list[Flaw]:
    """Return a flaw for each circle; at `ends` what comes out is not what went in."""
    following: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.source != edge.sink and edge.source not in ends:
            following.setdefault(edge.source, []).append(edge.sink)
    return [
        Flaw(
            f"{' -> '.join(circle)}: bytes would go round in a circle", edge=(circle[0], circle[1])
        )
        for circle in _walk(following)
    ]


def _walk(following: Mapping[str, Iterable[str]]) -> Iterable[list[str]]:
    """Yield circles, at least one if there is any, walking depth first without recursion."""
    done: set[str] = set()
    for start in following:
        if start in done:
            continue
        path = {start: None}  # ordered, and quick to ask
        pending = [(start, iter(following[start]))]
        while pending:
            name, rest = pending[-1]
            step = next(rest, None)
            if step is None:
                pending.pop()
                del path[name]
                done.add(name)
            elif step in path:
                names = list(path)
                yield [*names[names.index(step) :], step]
            elif step not in done:
                path[step] = None
                pending.append((step, iter(following.get(step, ()))))


def _deadlocks(graph: Graph, through: set[str]) -> list[Flaw]:
    """Return a flaw for each sink that would wait for one source while the next one holds up all.

    Whether each may go on and complete hangs on others: a circle there is a deadlock, as soon as
    there is more than pipes hold.
    """
    needs: dict[str, list[str]] = {}
    sinks_of: dict[str, list[str]] = {}
    into: dict[str, list[Edge]] = {}
    waits: dict[tuple[str, str], str] = {}  # what comes from an order -> the sink that keeps it
    for edge in graph.edges:
        sinks_of.setdefault(edge.source, []).append(edge.sink)
        into.setdefault(edge.sink, []).append(edge)
    for source in sinks_of:
        needs[_c(source)] = [_p(source)]
    for edge in graph.edges:
        if edge.sink in through:
            if edge.policy.when_full == "block":
                needs.setdefault(_p(edge.source), []).append(_p(edge.sink))
            needs.setdefault(_c(edge.sink), []).append(_c(edge.source))
    for sink, edges in into.items():
        if edges[0].merge != "in-order":
            continue
        for earlier, later in pairwise(edges):
            # of the same sinks: the next one is not read at all before
            if earlier.source == later.source:
                continue  # joined twice, which is told
            same = sinks_of[earlier.source] == sinks_of[later.source]
            if later.policy.when_full == "block" or same:
                step = (_p(later.source), _c(earlier.source))
                needs.setdefault(step[0], []).append(step[1])
                waits[step] = sink
    found = {}
    for circle in _walk(needs):
        for step in pairwise(circle):
            if step in waits:
                then, first = (name.removesuffix(_GO_ON).removesuffix(_COMPLETE) for name in step)
                found[waits[step]] = (first, then)
                break
    return [
        Flaw(
            f"{sink}: takes all of {first} before anything of {then}, and {first} cannot end while"
            f" {then} is held up: a deadlock; merge as-ready",
            edge=(then, sink),
        )
        for sink, (first, then) in found.items()
    ]


def _p(name: str) -> str:
    return name + _GO_ON


def _c(name: str) -> str:
    return name + _COMPLETE
