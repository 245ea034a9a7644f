"""Find everything that is wrong with a graph before anything is opened for it.

Refuses to know what an address means: whether two names are one file is asked when they are open.
"""

from __future__ import annotations

from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Edge, Graph


def check(graph: Graph) -> list[str]:
    """Return one line for each problem, in the order of the graph; empty when it is sound."""
    problems = []
    known = Counter(node.id for node in graph.nodes)
    problems += [f"{name}: two nodes have this name" for name, n in known.items() if n > 1]
    read = Counter(edge.source for edge in graph.edges)
    written = Counter(edge.sink for edge in graph.edges)
    for edge in graph.edges:
        for name in (edge.source, edge.sink):
            if name not in known:
                problems.append(f"{edge.source} -> {edge.sink}: no node is named {name}")
        if edge.source == edge.sink:
            problems.append(f"{edge.source}: is source and sink of one edge")
        wishes = edge.wishes
        if wishes.via is not None and wishes.via in wishes.without:
            problems.append(
                f"{edge.source} -> {edge.sink}: {wishes.via} is both asked for and forbidden"
            )
        if wishes.append and wishes.inplace:
            problems.append(f"{edge.sink}: to append and to overwrite in place exclude each other")
    problems += _sequences(graph)
    for name in known:
        if not read[name] and not written[name]:
            problems.append(f"{name}: no edge reads or writes it")
    if not graph.edges:
        problems.append("nothing is joined: there are no edges")
    return problems + _cycles(graph)


def _sequences(graph: Graph) -> list[str]:
    """Return a line for each node whose edges do not agree on what is carried where."""
    problems = []
    sinks: dict[str, list[Edge]] = {}
    sources: dict[str, list[str]] = {}
    for edge in graph.edges:
        sinks.setdefault(edge.source, []).append(edge)
        sources.setdefault(edge.sink, []).append(edge.source)
    for name, edges in sinks.items():
        if any(edge.wishes != edges[0].wishes for edge in edges):
            problems.append(f"{name}: its edges want different things of one reading")
        for sink, n in Counter(edge.sink for edge in edges).items():
            if n > 1:
                problems.append(f"{name} -> {sink}: joined {n} times")
    for name, writers in sources.items():
        first = [edge.sink for edge in sinks[writers[0]]]
        for other in writers[1:]:
            if [edge.sink for edge in sinks[other]] != first:
                problems.append(
                    f"{name}: is written by {writers[0]} and {other}, which do not have all of"
                    " their sinks in common"
                )
        if len({edge.policy for edge in graph.edges if edge.sink == name}) > 1:
            problems.append(f"{name}: its edges want it to be treated in different ways")
    return problems


def _cycles(graph: Graph) -> list[str]:
    """Return a line for each cycle, walking depth first without recursion."""
    following: dict[str, list[str]] = {}
    for edge in graph.edges:
        if edge.source != edge.sink:
            following.setdefault(edge.source, []).append(edge.sink)
    problems: list[str] = []
    done: set[str] = set()
    for start in following:
        path: list[str] = []
        pending = [(start, iter(following.get(start, ())))] if start not in done else []
        if pending:
            path.append(start)
        while pending:
            name, rest = pending[-1]
            step = next(rest, None)
            if step is None:
                pending.pop()
                path.pop()
                done.add(name)
            elif step in path:
                circle = [*path[path.index(step) :], step]
                problems.append(f"{' -> '.join(circle)}: bytes would go round in a circle")
            elif step not in done:
                path.append(step)
                pending.append((step, iter(following.get(step, ()))))
    return problems
