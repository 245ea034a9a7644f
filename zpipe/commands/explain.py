"""The plan and the outcome for people: which way the bytes went, at what cost, and why."""

from __future__ import annotations

from zpipe.graph.draw import draw
from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from zpipe.engine.report import HopReport, OutletReport, Report
    from zpipe.facts import FdFacts
    from zpipe.graph.model import Graph, Wishes
    from zpipe.movers.contract import Cost
    from zpipe.plan.choice import HopPlan

_WIDE = 10


def planned(source: str, sink: str, plan: HopPlan) -> str:
    """Return what is going to be done and why."""
    first = plan.first
    lines = [f"{source} ── {first.name} ──▶ {sink}"]
    lines += rows("plan", [first.summary])
    lines += rows("refused", _refused(plan))
    others = [candidate.name for candidate in plan.candidates[1:]]
    lines += rows("else", [", ".join(others)] if others else [])
    lines += rows("cost", _cost(first.cost))
    lines += rows("route", plan.notes)
    lines += rows("caveat", [first.caveat] if first.caveat else [])
    return "\n".join(lines)


def happened(report: Report) -> str:
    """Return what was really done."""
    lines: list[str] = []
    for hop in report.hops:
        lines += _hop(hop, several=len(report.hops) > 1)
    used = report.resources
    lines += rows(
        "cpu",
        [
            f"{used.user:.3f} s user, {used.system:.3f} s system;"
            f" {used.voluntary_switches} voluntary and"
            f" {used.involuntary_switches} involuntary context switches"
        ],
    )
    return "\n".join(lines)


def foreseen(graph: Graph) -> str:
    """Return the plan of a graph of which nothing is opened, connected or created.

    Raises: TransferError, UsageError  an end is certain to be refused.
    """
    from zpipe.endpoints import kind_of
    from zpipe.errors import UsageError
    from zpipe.graph.check import check
    from zpipe.plan.choice import choose
    from zpipe.plan.fan import choose_fan, judge, needs_fan

    problems = check(graph)
    if problems:
        raise UsageError(*problems)
    lines = []
    labels = {}
    for stream in graph.streams():
        parts = any("split_size" in to.endpoint.options for to in stream.sinks)
        judge(stream.wishes[0], stream.policies, parts=parts)
        for node, wishes in zip(stream.sources, stream.wishes, strict=True):
            source = _as_wished(
                kind_of(node.endpoint.kind).preview(node.endpoint, sink=False), wishes, sink=False
            )
            sinks = []
            for to in stream.sinks:
                facts = kind_of(to.endpoint.kind).preview(to.endpoint, sink=True)
                sinks.append(_as_wished(facts, wishes, sink=True))
                if source.on_disk and source.identity == facts.identity:
                    raise UsageError(
                        f"{to.endpoint.text}: is the source itself:"
                        " a file cannot be copied onto itself"
                    )
            if needs_fan(stream.policies, parts=parts):
                plan = choose_fan(source, sinks, wishes)
            else:
                plan = choose(source, sinks[0], wishes)
            for to in stream.sinks:
                labels[node.id, to.id] = plan.first.name
            more = planned(node.endpoint.text, "", plan).splitlines()[1:]
            if len(stream.sources) > 1:
                lines.append(f"  {node.endpoint.text}:")
            lines += more
    return "\n".join([draw(graph, labels), *lines])


def _as_wished(facts: FdFacts, wishes: Wishes, *, sink: bool) -> FdFacts:
    """Return the likely facts of an end once it is opened as the user wishes."""
    from zpipe.values import replace

    if sink and wishes.append:
        return replace(facts, append=True, fresh=False)
    if not sink and wishes.offset and facts.position is not None and facts.size is not None:
        rest = max(0, facts.position + facts.size - wishes.offset)
        return replace(facts, position=wishes.offset, size=rest)
    return facts


def _hop(hop: HopReport, *, several: bool) -> list[str]:
    lines = rows("fallback", [f"{f.mover}: {f.call}: {f.reason}" for f in hop.fallbacks])
    rate = f", {format_size(hop.moved / hop.seconds)}/s" if hop.moved and hop.seconds else ""
    size = f"{hop.moved} bytes" + (f" ({format_size(hop.moved)})" if hop.moved >= 1024 else "")
    lines += rows(
        "outcome",
        [
            f"{f'{hop.source}: ' if several else ''}{hop.mover}"
            f" {'reached the end:' if hop.complete else 'did not reach the end: moved'}"
            f" {size} in {format_duration(hop.seconds)}{rate}"
        ],
    )
    if len(hop.bytes_by_mover) > 1:
        shares = ", ".join(f"{name} {count}" for name, count in hop.bytes_by_mover.items())
        lines += rows("bytes", [shares])
    total = sum(hop.calls.values())
    per_mib = f" ({total / (hop.moved / 2**20):.1f} a MiB)" if hop.moved >= 1 << 20 else ""
    calls = ", ".join(f"{name} {count}" for name, count in hop.calls.most_common())
    noun = "system call" if total == 1 else "system calls"
    lines += rows("calls", [f"{total} {noun}{per_mib}: {calls}"] if total else [])
    if len(hop.outlets) > 1 or any(outlet.policy != "block" for outlet in hop.outlets):
        lines += rows("outputs", [_output(outlet) for outlet in hop.outlets])
    waits = [f"{format_duration(span)} for the {name}" for name, span in hop.waited.items()]
    lines += rows("waited", [", ".join(waits)] if waits else [])
    lines += rows("note", hop.notes)
    return lines


def _output(outlet: OutletReport) -> str:
    text = f"{outlet.sink}: {outlet.moved} bytes, {outlet.state}"
    if outlet.blocked >= 0.0005:
        text += f", blocked for {format_duration(outlet.blocked)}"
    if outlet.deepest:
        text += f", spilled {format_size(outlet.deepest)} at the most"
    return text


def _refused(plan: HopPlan) -> list[str]:
    """Return a text for each reason, with all the movers that have it."""
    by_reason: dict[str, list[str]] = {}
    for refusal in plan.refusals:
        by_reason.setdefault(refusal.why, []).append(refusal.name)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def _cost(cost: Cost) -> list[str]:
    return [
        f"{_times(cost.cpu_copies, 'CPU copy', 'CPU copies')} and"
        f" {_times(cost.dma_copies, 'DMA copy', 'DMA copies')} of each byte, by the model",
        f"about {_number(cost.syscalls_per_mib)} system calls and"
        f" {_number(cost.switches_per_mib)} switches between user and kernel mode per MiB",
    ]


def _times(count: float, one: str, many: str) -> str:
    return f"{_number(count) if count else 'no'} {one if count == 1 else many}"


def _number(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def rows(label: str, texts: Iterable[str]) -> list[str]:
    """Return lines with the label before the first one only."""
    return [f"  {label if place == 0 else '':<{_WIDE}}{text}" for place, text in enumerate(texts)]
