"""Nodes, edges and graphs, as values.

An endpoint is an address, unopened. A node is an endpoint in its place in a graph, and an edge
joins a source to a sink; what an edge becomes when both are open is a hop.
"""

from __future__ import annotations

from types import MappingProxyType

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
    seconds; None is "no limit" or "as the kernel gives it".
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


class Edge(Value):
    """Bytes go from the node `source` to the node `sink`."""

    source: str
    sink: str
    wishes: Wishes = Wishes()


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
