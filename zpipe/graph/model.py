"""Nodes, edges and graphs, as values.

An endpoint is an address, unopened. A node is an endpoint in its place in a graph, and an edge
joins a source to a sink. Edges from one source carry the same bytes; a source and all of its sinks,
once they are open, are a hop. Sources with the same sinks are read one after the other.
"""

from __future__ import annotations

from types import MappingProxyType

from zpipe.graph.policy import Policy
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Endpoint(Value):
    """An address: `text` as the user wrote it, `kind` from the table of kinds, and its parts."""

    text: str
    kind: str
    address: str
    options: Mapping[str, str] = MappingProxyType({})


class Node(Value):
    """A place in the graph where bytes begin or end."""

    id: str
    endpoint: Endpoint


class Wishes(Value):
    """What the user asks of one hop.

    `offset`, `length`, `pipe_size` in bytes, `rate_limit` in bytes per second, `stall_timeout` in
    seconds; None is "no limit" or "as the kernel gives it". `skip`: a source that fails is told
    of, and the next one of a sequence goes on. `lenient`: `append` and `inplace` are for those of
    the sinks that are files.
    """

    offset: int = 0
    length: int | None = None
    append: bool = False
    inplace: bool = False
    sync: bool = False
    stable: bool = False
    lease: bool = False
    via: str | None = None
    without: frozenset[str] = frozenset()
    rate_limit: int | None = None
    stall_timeout: float | None = None
    pipe_size: int | None = None
    skip: bool = False
    lenient: bool = False


class Edge(Value):
    """Bytes go from the node `source` to the node `sink`, which is treated by `policy`."""

    source: str
    sink: str
    wishes: Wishes = Wishes()
    policy: Policy = Policy()


class Stream(Value):
    """What belongs together: sources that are read one after the other, each by all of the sinks.

    `wishes` are those of each source, `policies` those of each sink.
    """

    sources: tuple[Node, ...]
    wishes: tuple[Wishes, ...]
    sinks: tuple[Node, ...]
    policies: tuple[Policy, ...]


class Graph(Value):
    """Nodes by their ids, and the edges between them."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def node(self, name: str) -> Node:
        """Return the node of that id. Raises: KeyError  there is none."""
        for node in self.nodes:
            if node.id == name:
                return node
        raise KeyError(name)

    def streams(self) -> list[Stream]:
        """Return the streams of a sound graph, in the order of their first edges."""
        sinks: dict[str, list[Edge]] = {}
        for edge in self.edges:
            sinks.setdefault(edge.source, []).append(edge)
        found: dict[tuple[str, ...], list[str]] = {}
        for source, edges in sinks.items():
            found.setdefault(tuple(edge.sink for edge in edges), []).append(source)
        return [
            Stream(
                tuple(map(self.node, sources)),
                tuple(sinks[source][0].wishes for source in sources),
                tuple(map(self.node, names)),
                tuple(edge.policy for edge in sinks[sources[0]]),
            )
            for names, sources in found.items()
        ]
