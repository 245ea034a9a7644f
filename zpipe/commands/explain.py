"""The plan and the outcome for people: which way the bytes went, at what cost, and why."""

from __future__ import annotations

from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from zpipe.engine.report import HopReport, OutletReport, Report
    from zpipe.movers.contract import Cost
    from zpipe.plan.choice import HopPlan

_WIDE = 10


def planned(source: str, sink: str, plan: HopPlan) -> str:
    """Return what is going to be done and why."""
    first = plan.first
    lines = [f"{source} ── {first.name} ──▶ {sink}"]
    lines += rows("plan", [first.summary])
    lines += rows("refused", reasons(plan))
    lines += rows("else", others(plan))
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


def others(plan: HopPlan) -> list[str]:
    """Return the movers that are tried when the first one does not serve, in a text; or nothing."""
    names = [candidate.name for candidate in plan.candidates[1:]]
    return [", ".join(names)] if names else []


def reasons(plan: HopPlan) -> list[str]:
    """Return a text for each reason, with all the movers that have it."""
    by_reason: dict[str, list[str]] = {}
    for refusal in plan.refusals:
        by_reason.setdefault(refusal.why, []).append(refusal.name)
    return [f"{', '.join(names)}: {why}" for why, names in by_reason.items()]


def _cost(cost: Cost) -> list[str]:
    return [
        f"{_times(cost.cpu_copies, 'CPU copy', 'CPU copies')} and"
        f" {_times(cost.dma_copies, 'DMA copy', 'DMA copies')} of each byte, by the model",
        f"about {_times(cost.syscalls_per_mib, 'system call', 'system calls')} and"
        f" {number(cost.switches_per_mib)} switches between user and kernel mode per MiB",
    ]


def _times(count: float, one: str, many: str) -> str:
    return f"{number(count) if count else 'no'} {one if count == 1 else many}"


def number(value: float) -> str:
    """Return a number of copies or calls for people: two digits at the most below 10."""
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def rows(label: str, texts: Iterable[str]) -> list[str]:
    """Return lines with the label before the first one only."""
    return [f"  {label if place == 0 else '':<{_WIDE}}{text}" for place, text in enumerate(texts)]
