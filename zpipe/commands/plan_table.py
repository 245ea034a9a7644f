"""A plan for people, as a table and the reasons below it; and for programs, as one JSON document.

Refuses to know where the hops come from: they are those of a command line, a recipe or a proxy.
"""

from __future__ import annotations

import textwrap

from zpipe.commands.explain import number, others, reasons, rows
from zpipe.commands.speaking import columns, harmless, write_out
from zpipe.graph.wiring import JOINT
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from zpipe.engine.forecast import Foreseen
    from zpipe.graph.model import Node
    from zpipe.movers.contract import Cost

VERSION = 1
_WIDTH = 100  # where there is no terminal
_LEAST = 16  # characters for the name of a hop
_ARROW = " -> "
_CUT = "..."
_HEAD = ("HOP", "MOVER", "CPU", "DMA", "CALLS/MiB")
_LEGEND = (
    "CPU and DMA: copies of each byte. CALLS/MiB: system calls, each two switches between user and"
    " kernel mode. By the model: nothing was measured."
)
_INDENT = 12  # where the text of a note begins
_NAMED = 3  # hops that share their notes and are named


class Planned(Value):
    """Hops that are shown together, under the name of a proxy, or none.

    `by_id`: nodes are called by their ids, and their addresses are told below; else by addresses.
    """

    hops: Sequence[Foreseen]
    name: str = ""
    by_id: bool = False

    def call(self, node: Node) -> str:
        """Return what a node is called."""
        if node.endpoint.kind == JOINT and node.id.endswith(" (joint)"):
            return f"{node.id.partition(_ARROW)[0]} (joint)"
        text = node.id if self.by_id and node.endpoint.kind != JOINT else node.endpoint.text
        return harmless(text)


def show_plan(
    hops: Sequence[Foreseen],
    proxies: Iterable[tuple[str, Sequence[Foreseen]]] = (),
    *,
    by_id: bool = False,
    json: bool = False,
) -> None:
    """Print the plan of a graph, and those of proxies by their names.

    Raises: TransferError, ConsumerGone  standard output took nothing.
    """
    graph = Planned(hops, by_id=by_id)
    below = [Planned(each, name) for name, each in proxies]
    if json:
        from json import dumps

        text = dumps(document(graph, below))
    else:
        text = table(graph, below, width=columns(_WIDTH))
    write_out(text)


# For people


def table(graph: Planned, proxies: Sequence[Planned] = (), *, width: int = _WIDTH) -> str:
    """Return the table, and below it the reasons, the addresses and what is to be minded."""
    lines: list[tuple[str, str, str, Cost]] = []
    for part in (graph, *proxies):
        for hop in part.hops:
            lines.append((*_ends(part, hop), hop.plan.first.name, hop.plan.first.cost))
    sums, processes = _sums(graph)
    movers = max(len(mover) for mover in (_HEAD[1], *(line[2] for line in lines)))
    fixed = movers + sum(map(len, _HEAD[2:])) + 2 * (len(_HEAD) - 1)
    names = [source + _ARROW + sinks for source, sinks, _, _ in lines] + [name for name, _ in sums]
    room = max(_LEAST, min(max(map(len, names), default=0), width - fixed))

    def line(name: str, mover: str, figures: Iterable[str]) -> str:
        cells = [f"{cell:>{len(head)}}" for cell, head in zip(figures, _HEAD[2:], strict=True)]
        return "  ".join([f"{name:<{room}}", f"{mover:<{movers}}", *cells])

    text = [line(_HEAD[0], _HEAD[1], _HEAD[2:])]
    text += [
        line(_fitted(source, sinks, room), mover, _figures(cost))
        for source, sinks, mover, cost in lines
    ]
    if sums:
        text += ["", *(line(_cut(name, room), "", _figures(cost)) for name, cost in sums)]
    text += ["", *textwrap.wrap(_LEGEND, width)]
    if processes:
        what = (
            f"What {', '.join(processes)} make of their input counts as if it were as many bytes."
        )
        if len(processes) == 1:
            what = f"What {processes[0]} makes of its input counts as if it were as many bytes."
        text += textwrap.wrap(what, width)
    text += _addresses(graph, width)
    for part in (graph, *proxies):
        text += _notes(part, width)
    return "\n".join(text)


def _ends(part: Planned, hop: Foreseen) -> tuple[str, str]:
    """Return the names of source and sinks."""
    before = f"{part.name}: " if part.name else ""
    return before + part.call(hop.source), ", ".join(map(part.call, hop.sinks))


def _sums(graph: Planned) -> tuple[list[tuple[str, Cost]], list[str]]:
    """Return the totals of those sources that have more than one hop, and processes on the way."""
    from zpipe.engine.forecast import totals

    found = [total for total in totals(graph.hops) if total.hops > 1]
    processes = dict.fromkeys(graph.call(node) for total in found for node in total.through)
    return (
        [(f"total per byte of {graph.call(total.source)}", total.cost) for total in found],
        list(processes),
    )


def _figures(cost: Cost) -> tuple[str, ...]:
    return tuple(map(_figure, (cost.cpu_copies, cost.dma_copies, cost.syscalls_per_mib)))


def _figure(value: float) -> str:
    return "<0.1" if 0 < value < 0.1 else number(value)


def _fitted(source: str, sinks: str, room: int) -> str:
    """Return both names in so many characters, each cut in its middle if it must be."""
    room -= len(_ARROW)
    left = min(len(source), max(room // 2, room - len(sinks)))
    return _cut(source, left) + _ARROW + _cut(sinks, room - left)


def _cut(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    rest = max(0, room - len(_CUT))
    return name[: rest - rest // 2] + _CUT + name[len(name) - rest // 2 :]


def _addresses(graph: Planned, width: int) -> list[str]:
    """Return a line for each node that is called by its id."""
    nodes = {
        node.id: harmless(node.endpoint.text)
        for hop in graph.hops
        for node in (hop.source, *hop.sinks)
        if graph.by_id and node.endpoint.kind != JOINT
    }
    if not nodes:
        return []
    wide = min(max(map(len, ("NODE", *nodes))), width // 2)
    return ["", *(f"{name:<{wide}}  {text}" for name, text in {"NODE": "ADDRESS", **nodes}.items())]


def _notes(part: Planned, width: int) -> list[str]:
    """Return what is to be told of each hop, once for those of which it is the same."""
    shared: dict[tuple[str, ...], list[str]] = {}
    for hop in part.hops:
        name = _ARROW.join(_ends(part, hop))
        shared.setdefault(tuple(_told(hop, width)), []).append(name)
    lines: list[str] = []
    for told, names in shared.items():
        named = len(names) if len(names) <= _NAMED + 1 else _NAMED
        lines += ["", *names[:named]]
        if len(names) > named:
            lines.append(f"and {len(names) - named} more")
        lines += told
    return lines


def _told(hop: Foreseen, width: int) -> list[str]:
    plan, first = hop.plan, hop.plan.first
    texts: Mapping[str, Iterable[str]] = {
        "plan": [first.summary],
        "refused": reasons(plan),
        "else": others(plan),
        "note": plan.notes,
        "caveat": [first.caveat] if first.caveat else [],
    }
    room = max(_LEAST, width - _INDENT)
    return [
        line
        for label, each in texts.items()
        for line in rows(label, [part for text in each for part in _wrapped(text, room)])
    ]


def _wrapped(text: str, room: int) -> list[str]:
    return textwrap.wrap(
        text, room, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


# For programs


def document(graph: Planned, proxies: Sequence[Planned] = ()) -> dict[str, Any]:
    """Return the plan as what JSON has words for."""
    from zpipe.engine.forecast import totals

    return {
        "v": VERSION,
        "hops": [_hop(graph, hop) for hop in graph.hops],
        "totals": [
            {
                "of": graph.call(total.source),
                "source": total.source.endpoint.text,
                "hops": total.hops,
                **_cost(total.cost),
                "through": [graph.call(node) for node in total.through],
            }
            for total in totals(graph.hops)
        ],
        "proxies": [
            {"name": part.name, "hops": [_hop(part, hop) for hop in part.hops]} for part in proxies
        ],
    }


def _hop(part: Planned, hop: Foreseen) -> dict[str, Any]:
    plan, first = hop.plan, hop.plan.first
    return {
        "from": part.call(hop.source),
        "to": [part.call(node) for node in hop.sinks],
        "source": hop.source.endpoint.text,
        "sinks": [node.endpoint.text for node in hop.sinks],
        "mover": first.name,
        "candidates": [
            {"mover": one.name, "summary": one.summary, **_cost(one.cost), "caveat": one.caveat}
            for one in plan.candidates
        ],
        "refused": [{"mover": one.name, "why": one.why} for one in plan.refusals],
        **_cost(first.cost),
        "caveats": [first.caveat] if first.caveat else [],
        "notes": list(plan.notes),
        "joint": hop.via_joint,
    }


def _cost(cost: Cost) -> dict[str, float]:
    return {
        "cpu_copies": cost.cpu_copies,
        "dma_copies": cost.dma_copies,
        "syscalls_per_mib": cost.syscalls_per_mib,
        "switches_per_mib": cost.switches_per_mib,
    }
