"""Run graphs of several streams in a test: under a deadline, and with nothing left behind."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

import zpipe
from tests.graph.letters import edge as written
from tests.machine import until
from zpipe.endpoints import parse
from zpipe.engine.feedback import Feedback
from zpipe.engine.stop import Relayed
from zpipe.errors import Interrupted, ZpipeError
from zpipe.graph.model import Edge, Graph, Node, Wishes
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from zpipe.engine.report import HopReport, OutletReport, Report

TOO_LONG = 20.0  # seconds after which a run has failed


def built(edges: str, lax: str = "", **ends: str | Path) -> Graph:
    """Return a graph of edges as `letters` writes them, and what stands for each of its letters.

    Those in `lax` may fail without ending everything.
    """
    words = edges.split()
    sources = {word[0] for word in words}
    nodes = {
        name: Node(
            name, parse(str(end), sink=name not in sources), "drop" if name in lax else "stop"
        )
        for name, end in ends.items()
    }
    return Graph(tuple(nodes.values()), tuple(_edge(word, nodes) for word in words))


def wishing(graph: Graph, source: str = "", **wishes: Any) -> Graph:
    """Return a graph whose edges, or those from one source, want something of its reading."""
    edges = [
        replace(edge, wishes=Wishes(**wishes)) if source in ("", edge.source) else edge
        for edge in graph.edges
    ]
    return Graph(graph.nodes, tuple(edges))


def _edge(word: str, nodes: dict[str, Node]) -> Edge:
    made = written(word)
    return replace(made, policy=replace(made.policy, on_error=nodes[made.sink].on_error))


class Told(Feedback):
    """Remembers what was told."""

    def __init__(self, began: Callable[[HopReport], None] = lambda hop: None) -> None:
        self.failures: list[str] = []
        self.answers: list[str] = []
        self.drops: list[tuple[str, str]] = []
        self.said_: list[str] = []
        self.statuses: list[str] = []
        self.reports: list[Report] = []
        self._began = began

    def said(self, text: str) -> None:
        self.said_.append(text)

    def answered(self, text: str) -> None:
        self.answers.append(text)

    def failed(self, error: ZpipeError) -> None:
        self.failures.append(str(error))

    def dropped(self, outlet: OutletReport) -> None:
        self.drops.append((outlet.sink, outlet.state))

    def began(self, hop: HopReport) -> None:
        self._began(hop)

    def status(self, hop: HopReport) -> None:
        self.statuses.append(hop.ends[0])

    def stopped(self, report: Report) -> None:
        self.reports.append(report)

    @property
    def everything(self) -> list[str]:
        """All that a user would have read."""
        return [*self.failures, *self.said_, *(sink for sink, _ in self.drops)]


def carry(graph: Graph, told: Told | None = None, stop: Relayed | None = None) -> Report:
    """Run a graph; one that does not come to its end is ended, and has failed."""
    mine = stop or Relayed()
    over = threading.Event()
    late: list[bool] = []

    def watch() -> None:
        while not over.wait(TOO_LONG):
            late.append(True)
            mine.ask(lambda: Interrupted(signal.SIGALRM))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        return zpipe.run(graph, feedback=told, stop=mine)
    finally:
        over.set()
        thread.join()
        if stop is None:
            mine.close()
        if late:
            pytest.fail(f"it did not come to its end: {graph.edges}")


def failing(graph: Graph, told: Told | None = None, stop: Relayed | None = None) -> ZpipeError:
    """Run a graph that fails; return how."""
    with pytest.raises(ZpipeError) as raised:
        carry(graph, told, stop)
    return raised.value


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """Watch that neither threads nor children nor temporary names are left; fds are watched for
    every test.
    """
    threads = threading.active_count()
    yield
    until(lambda: threading.active_count() <= threads, "no thread is left")
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    left = [name for _, _, names in os.walk(folder) for name in names if ".zpipe-" in name]
    assert not left
