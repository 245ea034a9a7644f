"""The library's main call, and the graphs of everyday: one source to one sink or to several."""

from __future__ import annotations

import os

from zpipe.endpoints import parse
from zpipe.engine.run import run
from zpipe.errors import UsageError
from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes
from zpipe.graph.policy import Policy, adapted, split_policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from zpipe.engine.feedback import Feedback
    from zpipe.engine.report import Report
    from zpipe.engine.stop import Stop


def copy(
    src: str,
    dst: str,
    *more: str,
    policy: Policy = Policy(),  # noqa: B008 - immutable
    feedback: Feedback | None = None,
    stop: Stop | None = None,
    **wishes: Any,
) -> Report:
    """Move everything from one address to another, or to several by one reading; `wishes` are the
    fields of `Wishes`. `policy` is for sinks that cannot keep up, where there are several.

    Raises: UsageError, TransferError, VerifyError, StalledError, OutputsDropped; see `run`.
    """
    graph = fan_out(src, (dst, *more), Wishes(**wishes), policy)
    return run(graph, feedback=feedback, stop=stop)


def pair(src: str, dst: str, wishes: Wishes) -> Graph:
    """Return the graph of one source and one sink; a directory takes a file of the same name.

    Raises: UsageError  an address is none.
    """
    source = parse(src, sink=False)
    sink = into_directory(parse(dst, sink=True), source)
    return joined([source], [(sink, Policy())], wishes)


def fan_out(src: str, dsts: Sequence[str], wishes: Wishes, policy: Policy) -> Graph:
    """Return the graph of one source and its sinks; each may have options of a policy of its own.

    Raises: UsageError  an address is none, or an option has no such value.
    """
    source = parse(src, sink=False)
    sinks = []
    for dst in dsts:
        text, options = split_policy(dst)
        sink = into_directory(parse(text, sink=True), source)
        sinks.append((sink, adapted(policy, options, text)))
    return joined([source], sinks, wishes)


def joined(
    sources: Sequence[Endpoint], sinks: Sequence[tuple[Endpoint, Policy]], wishes: Wishes
) -> Graph:
    """Return the graph of sources that are read one after the other by all of the sinks."""
    from_nodes = [Node(_id("source", n, sources), end) for n, end in enumerate(sources)]
    to_nodes = [Node(_id("sink", n, sinks), end) for n, (end, _) in enumerate(sinks)]
    edges = tuple(
        Edge(source.id, sink.id, wishes, policy)
        for source in from_nodes
        for sink, (_, policy) in zip(to_nodes, sinks, strict=True)
    )
    return Graph((*from_nodes, *to_nodes), edges)


def into_directory(sink: Endpoint, source: Endpoint) -> Endpoint:
    """Return the file of the source's name in a sink that is a directory; others as they are.

    Raises: UsageError  the source has no name.
    """
    if sink.kind != "file" or not os.path.isdir(sink.address):
        return sink
    if source.kind != "file":
        raise UsageError(
            f"{sink.text}: is a directory: {source.text} has no name to give to a file in it"
        )
    name = os.path.basename(source.address.rstrip("/"))
    path = os.path.join(sink.address, name)
    return Endpoint(path, "file", path, sink.options)


def _id(word: str, number: int, among: Sequence[object]) -> str:
    return word if len(among) == 1 else f"{word} {number + 1}"
