"""The library's main call: one source to one sink."""

from __future__ import annotations

import os

from zpipe.endpoints import parse
from zpipe.engine.run import run
from zpipe.errors import UsageError
from zpipe.graph.model import Edge, Endpoint, Graph, Node, Wishes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zpipe.engine.feedback import Feedback
    from zpipe.engine.report import Report
    from zpipe.engine.stop import Stop


def copy(
    src: str,
    dst: str,
    *,
    feedback: Feedback | None = None,
    stop: Stop | None = None,
    **wishes: Any,
) -> Report:
    """Move everything from one address to another; `wishes` are the fields of `Wishes`.

    Raises: UsageError, TransferError, VerifyError, StalledError; see `run`.
    """
    return run(pair(src, dst, Wishes(**wishes)), feedback=feedback, stop=stop)


def pair(src: str, dst: str, wishes: Wishes) -> Graph:
    """Return the graph of one source and one sink; a directory takes a file of the same name.

    Raises: UsageError  an address is none.
    """
    source, sink = parse(src, sink=False), parse(dst, sink=True)
    if sink.kind == "file" and os.path.isdir(sink.address):
        if source.kind != "file":
            raise UsageError(f"{dst}: is a directory: {src} has no name to give to a file in it")
        name = os.path.basename(source.address.rstrip("/"))
        path = os.path.join(sink.address, name)
        sink = Endpoint(path, "file", path, sink.options)
    return Graph((Node("source", source), Node("sink", sink)), (Edge("source", "sink", wishes),))
