"""Nodes, edges and graphs, as values.

An endpoint is an address, unopened. A node is an endpoint in its place in a graph, and an edge
joins a source to a sink. Edges from one source carry the same bytes; a source and all of its sinks,
once they are open, are a hop. Sources with the same sinks are read one after the other. What else
may be joined, and what is put in between, is in `wiring`.
"""

from __future__ import annotations

from types import MappingProxyType

from zpipe.graph.policy import Policy
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal, TypeAlias

    from zpipe.graph.policy import OnError

    Merge: TypeAlias = Literal["in-order", "as-ready", "lines"]


class Endpoint(Value):
    """An address: `text` as the user wrote it, `kind` from the table of kinds, and its parts."""

    text: str
    kind: str
    address: str
    options: Mapping[str, str] = MappingProxyType({})


class Node(Value):
    """A place in the graph where bytes begin, end, or go through a process.

    `on_error`: when it fails, all stop, or what does not need it goes on (drop).
    """

    id: str
    endpoint: Endpoint
    on_error: OnError = "stop"


class Wishes(Value):
    """What the user asks of one hop.

    `offset`, `length`, `total`, `pipe_size` in bytes, `rate_limit` in bytes per second,
    `stall_timeout` in seconds; None is "no limit" or "as the kernel gives it". `total` is a length
    of all sources of a sequence together. `skip`: a source that fails is told
    of, and the next one of a sequence goes on. `lenient`: `append` and `inplace` are for those of
    the sinks that are files.
    """

    offset: int = 0
    length: int | None = None
    total: int | None = None
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
    """Bytes go from the node `source` to the node `sink`, which is treated by `policy`.

    `merge` says how a sink takes what several sources have: all of one and then all of the next
    (in-order), whatever is there (as-ready), or whole lines (lines).
    """

    source: str
    sink: str
    wishes: Wishes = Wishes()
    policy: Policy = Policy()
    merge: Merge = "in-order"


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
