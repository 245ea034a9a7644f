"""What there is to see of a graph or of a proxy: boxes and arrows, in words for people.

Knows nothing of columns, colours or formats, and makes up no facts: which mover, which rate and
which caveat stand on an arrow is what it is told.
"""

from __future__ import annotations

from types import MappingProxyType

from zpipe.units import format_size
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal, TypeAlias

    from zpipe.graph.model import Edge, Graph, Node

    BoxKind: TypeAlias = Literal[
        "file",
        "device",
        "socket",
        "listener",
        "pipe",
        "process",
        "null",
        "pattern",
        "digest",
        "standard",
        "proxy",
        "joint",
    ]
    Style: TypeAlias = Literal["solid", "dashed", "dotted"]
    Join: TypeAlias = tuple[str, str]

# kind of an endpoint -> kind of the box; all others are files
_KINDS: dict[str, BoxKind] = {
    "-": "standard",
    "fd": "standard",
    "pipe": "pipe",
    "tcp": "socket",
    "unix": "socket",
    "tcp-listen": "listener",
    "unix-listen": "listener",
    "exec": "process",
    "null": "null",
    "zero": "null",
    "pattern": "pattern",
    "hash": "digest",
    "joint": "joint",
}


class Box(Value):
    """What bytes come from, go to or go through.

    `note` says more about it, below its label or when it is pointed at. Boxes of one `group` may
    be framed together, under this name.
    """

    id: str
    label: str
    kind: BoxKind
    note: str = ""
    group: str = ""


class Arrow(Value):
    """Bytes go from the box `source` to the box `target`.

    `mover` carries them ("": not known); `label` is what else is written along the arrow; `note`
    is shown when it is pointed at. `width`: 0 (as any other) to 1 (as much as the busiest).
    `both`: they also come back this way.
    """

    source: str
    target: str
    label: str = ""
    mover: str = ""
    note: str = ""
    style: Style = "solid"
    width: float = 0.0
    both: bool = False

    @property
    def words(self) -> str:
        """Everything that is to be written along it."""
        return ", ".join(part for part in (self.mover, self.label) if part)


class Flow(Value):
    """What went along an edge: bytes per second, and bytes; None is not known."""

    rate: float | None = None
    moved: int | None = None

    def __str__(self) -> str:
        words = [] if self.rate is None else [f"{format_size(self.rate)}/s"]
        words += [] if self.moved is None else [format_size(self.moved)]
        return ", ".join(words)


class Picture(Value):
    """Boxes and the arrows between them; every end of an arrow is the id of a box."""

    title: str
    boxes: tuple[Box, ...] = ()
    arrows: tuple[Arrow, ...] = ()


_NOTHING: Mapping[Join, str] = MappingProxyType({})


def picture_of(
    graph: Graph,
    movers: Mapping[Join, str] = _NOTHING,
    *,
    title: str = "",
    flows: Mapping[Join, Flow] = MappingProxyType({}),
    notes: Mapping[Join, str] = _NOTHING,
    addresses: bool = False,
) -> Picture:
    """Return the picture of a graph whose edges all join nodes of it.

    Of each edge, by (source, sink): the mover, the flow that was seen (else the limit that is
    planned is shown), and a note. `addresses`: boxes are called by their addresses, as on a command
    line, and not by their ids.
    """
    read = {edge.source for edge in graph.edges}
    written = {edge.sink for edge in graph.edges}
    boxes = tuple(
        _box(node, addresses=addresses, source=node.id in read, sink=node.id in written)
        for node in graph.nodes
    )
    busiest = max((flow.rate or 0.0 for flow in flows.values()), default=0.0)
    arrows = []
    for edge in graph.edges:
        join = (edge.source, edge.sink)
        flow = flows.get(join)
        arrows.append(
            Arrow(
                *join,
                label=_planned(edge) if flow is None else str(flow),
                mover=movers.get(join, ""),
                note=notes.get(join, ""),
                width=(flow.rate or 0.0) / busiest if flow is not None and busiest else 0.0,
            )
        )
    return Picture(title, boxes, tuple(arrows))


def _box(node: Node, *, addresses: bool, source: bool, sink: bool) -> Box:
    end = node.endpoint
    kind = _KINDS.get(end.kind, "file")
    if kind == "file" and end.address.startswith("/dev/"):
        kind = "device"
    if end.kind == "-":
        text = " and ".join(["standard input"] * source + ["standard output"] * sink)
    else:
        text = end.text
    if addresses:
        return Box(node.id, end.text, kind, text if text != end.text else "")
    return Box(node.id, node.id, kind, text if text != node.id else "")


def _planned(edge: Edge) -> str:
    limit = edge.wishes.rate_limit
    if limit is None:
        return ""
    number, unit = format_size(limit).split()
    return f"≤ {number.rstrip('0').rstrip('.') if '.' in number else number} {unit}/s"


def add_proxy(
    picture: Picture,
    name: str,
    listen: Sequence[str],
    upstreams: Sequence[str],
    mirrors: Sequence[str] = (),
    capture: str = "",
    *,
    mover: str = "",
    mirror_mover: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
    note: str = "",
) -> Picture:
    """Return the picture with a proxy in it: listeners -> proxy -> upstreams.

    Copies go along dashed arrows: to mirrors, and to the directory of the `capture`. `labels`: what
    is written along the arrow to an upstream or a mirror, by its text.
    """
    middle = f"proxy {name}"

    def far(role: str, text: str, kind: BoxKind, what: str) -> Box:
        return Box(f"{middle}: {role} {text}", text, kind, what, name)

    listeners = [far("listens at", text, "listener", "listens") for text in dict.fromkeys(listen)]
    servers = [far("upstream", text, "socket", "upstream") for text in dict.fromkeys(upstreams)]
    copies = [far("mirror", text, "socket", "mirror") for text in dict.fromkeys(mirrors)]
    arrows = [Arrow(box.id, middle, mover=mover, both=True) for box in listeners]
    arrows += [
        Arrow(middle, box.id, labels.get(box.label, ""), mover, both=True) for box in servers
    ]
    arrows += [
        Arrow(middle, box.id, labels.get(box.label, "mirror"), mirror_mover, style="dashed")
        for box in copies
    ]
    if capture:
        copies.append(far("capture", capture, "file", "capture"))
        arrows.append(Arrow(middle, copies[-1].id, "capture", style="dashed"))
    proxy = Box(middle, name, "proxy", note or "proxy", name)
    return replace(
        picture,
        boxes=(*picture.boxes, *listeners, proxy, *servers, *copies),
        arrows=(*picture.arrows, *arrows),
    )
