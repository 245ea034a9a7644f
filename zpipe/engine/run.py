"""Carry out a graph: check it, then open, plan, carry and finish each of its hops."""

from __future__ import annotations

from contextlib import ExitStack

from zpipe.engine.feedback import Feedback
from zpipe.engine.hop import Hop
from zpipe.engine.opening import open_ends
from zpipe.engine.report import Meter, Report
from zpipe.engine.stop import Stop
from zpipe.engine.waiting import EngineWaiter
from zpipe.errors import TransferError, UsageError
from zpipe.graph.check import check
from zpipe.plan.choice import choose

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Edge, Graph


def run(graph: Graph, *, feedback: Feedback | None = None, stop: Stop | None = None) -> Report:
    """Move the bytes of every edge, one hop after the other.

    Returns: the report, when all of it went well.
    Raises: UsageError     the graph is not sound, or a mover that was asked for cannot serve.
            TransferError  an end failed; what was not complete is under no final name.
            VerifyError, StalledError, Interrupted.
    """
    problems = check(graph)
    if problems:
        raise UsageError(*problems)
    feedback = feedback or Feedback()
    stop = stop or Stop()
    meter = Meter()
    report = Report()
    for edge in graph.edges:
        try:
            _run_edge(graph, edge, feedback, stop, report)
        finally:
            report.resources = meter.read()
    feedback.closed(report)
    return report


def _run_edge(graph: Graph, edge: Edge, feedback: Feedback, stop: Stop, report: Report) -> None:
    with ExitStack() as stack:
        waiter = EngineWaiter(stop, feedback, edge.wishes.stall_timeout)
        source, sink, wishes, lease = open_ends(graph, edge, waiter, stack)
        plan = choose(source.facts, sink.facts, wishes)
        hop = Hop(
            source, sink, wishes, plan, waiter=waiter, feedback=feedback, stop=stop, lease=lease
        )
        waiter.polls = 0
        report.hops.append(hop.report)
        feedback.began(hop.report)
        sink.prepare()
        hop.carry()
        hop.report.notes += [*source.notes, *sink.notes]
        # a source that failed (a child's exit status) must keep the sink from being put in place
        complete = hop.report.moved != hop.report.expected
        source.finish(waiter, complete=complete)
        try:
            sink.finish(waiter)
        except TransferError as error:
            error.delivered = hop.report.moved
            raise
        hop.report.complete = True
        feedback.ended(hop.report)
