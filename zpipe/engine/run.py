"""Carry out a graph: check it, wire it, and carry its streams."""

from __future__ import annotations

from contextlib import ExitStack

from zpipe.endpoints import ways
from zpipe.engine.feedback import Feedback
from zpipe.engine.report import Meter, Report
from zpipe.engine.stop import Stop
from zpipe.engine.stream import UnderWay
from zpipe.errors import UsageError
from zpipe.graph.check import check
from zpipe.graph.wiring import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Graph
    from zpipe.graph.wiring import Stream, Wiring


def run(graph: Graph, *, feedback: Feedback | None = None, stop: Stop | None = None) -> Report:
    """Move the bytes of every edge; streams that do not wait for each other at the same time.

    Returns: the report, when all of it went well.
    Raises: UsageError      the graph is not sound, or a mover that was asked for cannot serve.
            TransferError   an end failed; what was not complete is under no final name.
            OutputsDropped  some of several sinks failed, the others are complete.
            VerifyError, StalledError, Interrupted.
    """
    wiring = wired(graph)
    feedback = feedback or Feedback()
    stop = stop or Stop()
    meter = Meter()
    report = Report()
    try:
        if wiring.alone:
            with ExitStack() as stack:
                UnderWay(wiring.streams[0], feedback, stop, report, stack, {}).carry()
        else:
            from zpipe.engine.together import carry_together

            carry_together(wiring, feedback, stop, report)
    finally:
        report.resources = meter.read()
        feedback.stopped(report)
    feedback.closed(report)
    return report


def wired(graph: Graph) -> Wiring:
    """Return the streams of a graph, judged without opening anything.

    Raises: UsageError  with everything that is wrong.
    """
    kinds = ways({node.endpoint.kind for node in graph.nodes})
    flaws = check(graph, kinds)
    if flaws:
        raise UsageError(*map(str, flaws))
    wiring = wire(graph, [kind for kind, way in kinds.items() if way == "through"])
    for stream in wiring.streams:
        _judge_wishes(stream)
    return wiring


def _judge_wishes(stream: Stream) -> None:
    """Raise: UsageError  what is asked of the movers can never be."""
    wishes = stream.wishes[0]
    if wishes.via is not None or wishes.without:
        from zpipe.plan.fan import judge

        parts = any("split_size" in node.endpoint.options for node in stream.sinks)
        judge(wishes, stream.policies, parts=parts)
