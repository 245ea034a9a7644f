"""Foresee how a graph would be carried out: the plan of every hop, while nothing is open.

Nothing is connected, created or started; what is only looked at may be another thing by the time it
is opened. Refuses to know how plans are shown.
"""

from __future__ import annotations

from zpipe.endpoints import kind_of, ways
from zpipe.engine.opening import refuse_wishes
from zpipe.errors import TransferError, UsageError, onto_itself
from zpipe.facts import FdFacts
from zpipe.graph.check import check
from zpipe.graph.wiring import JOINT, wire
from zpipe.movers.contract import Cost
from zpipe.plan.choice import choose
from zpipe.plan.fan import choose_fan, judge, needs_fan
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import TypeVar

    from zpipe.graph.model import Graph, Node, Wishes
    from zpipe.graph.wiring import Stream, Wiring
    from zpipe.plan.choice import HopPlan

    T = TypeVar("T")

_STREAMS = frozenset({"pipe", "tcp", "unix", "datagram", "seqpacket"})
# A joint that merges lines is not passed by reference: a poll, a read and a write for each 64 KiB.
_LINES = Cost(2, 0, 3 * 16.0)


class Foreseen(Value):
    """A hop that nobody has begun: one source, all of its sinks, and how it would be carried.

    `onward` tells for each sink which node the bytes come out of again (a process: itself; a joint:
    its other side), None: there they end. `via_joint`: one of the ends is a joint.
    """

    source: Node
    sinks: tuple[Node, ...]
    plan: HopPlan
    wishes: Wishes
    onward: tuple[str | None, ...] = ()
    via_joint: bool = False


class Total(Value):
    """What a byte of `source` costs on all of its ways together, over so many hops.

    `through`: processes on the way; each is counted as if it kept the number of bytes.
    """

    source: Node
    cost: Cost
    hops: int
    through: tuple[Node, ...] = ()


def forecast(graph: Graph) -> list[Foreseen]:
    """Return the hops of a graph in the order in which they are told of; joints come last.

    Raises: UsageError     the graph is not sound, or a mover that is asked for cannot serve; with
                           everything else that is certain to be refused.
            TransferError  ends are certain to be refused: a line for each of them.
    """
    kinds = ways({node.endpoint.kind for node in graph.nodes})
    flaws = check(graph, kinds)
    if flaws:
        raise UsageError(*map(str, flaws))
    wiring = wire(graph, {kind for kind, way in kinds.items() if way == "through"})
    onward = _onward(wiring, kinds)
    by_lines = {joint.out.id for joint in wiring.joints if joint.merge == "lines"}
    refusals = _Refusals()
    alone = len(wiring.streams) == 1 and len(wiring.streams[0].sources) == 1
    for stream in wiring.streams:
        refusals.of(_judge, stream, alone)
    refusals.raise_usage()
    previews = _Previews(refusals)
    found = []
    for stream in wiring.streams:
        for node, wishes in zip(stream.sources, stream.wishes, strict=True):
            source = previews.source(node, wishes)
            sinks = [previews.sink(to, wishes) for to in stream.sinks]
            known = [facts for facts in sinks if facts is not None]
            if source is None or len(known) < len(sinks):
                continue
            plan = refusals.of(_plan, stream, node, source, known, wishes, alone)
            if plan is not None:
                plan = _behind_lines(plan) if node.id in by_lines else plan
                found.append(
                    Foreseen(
                        node,
                        stream.sinks,
                        plan,
                        wishes,
                        tuple(onward.get(to.id) for to in stream.sinks),
                        any(end.endpoint.kind == JOINT for end in (node, *stream.sinks)),
                    )
                )
    refusals.raise_all()
    return found


def totals(foreseen: Sequence[Foreseen]) -> list[Total]:
    """Return what a byte of each source costs on all of its ways; what comes out of a process or a
    joint is no source of its own.
    """
    hops = {hop.source.id: hop for hop in foreseen}
    reached = {name for hop in foreseen for name in hop.onward if name is not None}
    costs: dict[str, Cost] = {}
    found = []
    for hop in foreseen:
        if hop.source.id in reached:
            continue
        behind = _behind(hop, hops)
        for each in reversed(behind):
            if each.source.id not in costs:
                after = [costs[name] for name in each.onward if name is not None and name in hops]
                costs[each.source.id] = _sum([each.plan.first.cost, *after])
        through = {
            to.id: to
            for each in behind
            for to, name in zip(each.sinks, each.onward, strict=True)
            if to.id == name
        }
        found.append(Total(hop.source, costs[hop.source.id], len(behind), tuple(through.values())))
    return found


class _Refusals:
    """Everything that is certain to be refused, so that it is told at once."""

    def __init__(self) -> None:
        self._usage: dict[str, None] = {}  # ordered, and each only once
        self._transfer: dict[str, TransferError] = {}

    def of(self, act: Callable[..., T], *arguments: object) -> T | None:
        """Return what `act` returns, or None where it refuses."""
        try:
            return act(*arguments)
        except UsageError as error:
            self._usage.update(dict.fromkeys(map(str, error.args)))
        except TransferError as error:
            self._transfer.setdefault(str(error), error)
        return None

    def raise_usage(self) -> None:
        """Raise: UsageError  something was asked for that cannot be."""
        if self._usage:
            raise UsageError(*self._usage)

    def raise_all(self) -> None:
        """Raise: UsageError, TransferError  anything was refused."""
        if self._usage:
            raise UsageError(*self._usage, *self._transfer)
        if len(self._transfer) == 1:
            raise next(iter(self._transfer.values()))
        if self._transfer:
            failure = TransferError("")
            failure.args = tuple(self._transfer)
            raise failure


class _Previews:
    """The likely facts of ends; each end is looked at once."""

    def __init__(self, refusals: _Refusals):
        self._refusals = refusals
        self._seen: dict[tuple[str, bool], FdFacts | None] = {}

    def source(self, node: Node, wishes: Wishes) -> FdFacts | None:
        """Return what is likely once it is opened at the offset; None: it is refused."""
        facts = self._of(node, sink=False)
        if facts is None or not wishes.offset:
            return facts
        if facts.type in _STREAMS:
            self._refusals.of(_refuse_offset, node, wishes.offset)
        if facts.position is None or facts.size is None:
            return facts
        rest = max(0, facts.position + facts.size - wishes.offset)
        return replace(facts, position=wishes.offset, size=rest)

    def sink(self, node: Node, wishes: Wishes) -> FdFacts | None:
        """Return what is likely once it is opened to add to it, or not; None: it is refused."""
        facts = self._of(node, sink=True)
        if facts is None or not (wishes.append and node.endpoint.kind == "file"):
            return facts
        return replace(facts, append=True, fresh=False)

    def _of(self, node: Node, *, sink: bool) -> FdFacts | None:
        key = node.id, sink
        if key not in self._seen:
            self._seen[key] = self._refusals.of(_preview, node, sink)
        return self._seen[key]


def _preview(node: Node, sink: bool) -> FdFacts:
    end = node.endpoint
    if end.kind == JOINT:
        return FdFacts("pipe", nonblocking=True)
    return kind_of(end.kind).preview(end, sink=sink)


def _refuse_offset(node: Node, offset: int) -> None:
    raise TransferError(f"{node.endpoint.text}: seek to {offset}: a stream has no offsets")


def _judge(stream: Stream, alone: bool) -> None:
    """Raise: UsageError  what is asked for can never be, whatever the ends turn out to be."""
    try:
        judge(stream.wishes[0], stream.policies, parts=_in_parts(stream))
    except UsageError as error:
        raise _of_hop(stream, stream.sources[0], error, alone) from None
    refuse_wishes(stream.sinks, stream.wishes[0])


def _plan(
    stream: Stream,
    node: Node,
    source: FdFacts,
    sinks: Sequence[FdFacts],
    wishes: Wishes,
    alone: bool,
) -> HopPlan:
    """Return the plan of one source. Raises: UsageError  it is its own sink, or none can serve."""
    for to, facts in zip(stream.sinks, sinks, strict=True):
        if source.on_disk and source.identity == facts.identity:
            raise onto_itself(to.endpoint.text)
    try:
        if needs_fan(stream.policies, parts=_in_parts(stream)):
            return choose_fan(source, sinks, wishes)
        return choose(source, sinks[0], wishes)
    except UsageError as error:
        raise _of_hop(stream, node, error, alone) from None


def _of_hop(stream: Stream, node: Node, error: UsageError, alone: bool) -> UsageError:
    """Return an error that tells which hop it is about, where there are others."""
    if alone:
        return error
    sinks = ", ".join(to.endpoint.text for to in stream.sinks)
    return UsageError(f"{node.endpoint.text} -> {sinks}: {error}")


def _behind_lines(plan: HopPlan) -> HopPlan:
    """Return a plan that counts what it takes to put lines together before the hop."""
    candidates = [replace(one, cost=_sum([one.cost, _LINES])) for one in plan.candidates]
    note = "whole lines are put together in memory first: two CPU copies of each byte"
    return replace(plan, candidates=tuple(candidates), notes=(note, *plan.notes))


def _in_parts(stream: Stream) -> bool:
    return any("split_size" in node.endpoint.options for node in stream.sinks)


def _onward(wiring: Wiring, kinds: Mapping[str, str]) -> dict[str, str]:
    """Return the node that is read for each node that is written, where it is the same bytes."""
    found = {way.id: joint.out.id for joint in wiring.joints for way in joint.ways}
    for node in wiring.passing:
        if kinds.get(node.endpoint.kind) == "through":
            found[node.id] = node.id
    return found


def _behind(hop: Foreseen, hops: Mapping[str, Foreseen]) -> list[Foreseen]:
    """Return the hops that a byte walks through, each before all of those that follow it."""
    done: set[str] = set()
    found = []
    pending: list[tuple[Foreseen, bool]] = [(hop, False)]
    while pending:
        each, left = pending.pop()
        if left:
            found.append(each)
        elif each.source.id not in done:
            done.add(each.source.id)
            pending.append((each, True))
            pending += [
                (hops[name], False) for name in each.onward if name is not None and name in hops
            ]
    return found[::-1]


def _sum(costs: Iterable[Cost]) -> Cost:
    costs = list(costs)
    return Cost(
        sum(cost.cpu_copies for cost in costs),
        sum(cost.dma_copies for cost in costs),
        sum(cost.syscalls_per_mib for cost in costs),
    )
