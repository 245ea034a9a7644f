"""A picture in the language of Graphviz. Every name and every label is quoted."""

from __future__ import annotations

from zpipe.graph.drawings import PAGE, palette
from zpipe.graph.drawings.letters import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.drawings import Page
    from zpipe.graph.picture import Arrow, Box, Picture

_SHAPES = {
    "file": "note",
    "digest": "note",
    "device": "cylinder",
    "socket": "box",
    "listener": "box",
    "pipe": "cds",
    "standard": "cds",
    "process": "component",
    "proxy": "hexagon",
    "joint": "circle",
    "null": "ellipse",
    "pattern": "ellipse",
}


def draw(picture: Picture, page: Page = PAGE) -> str:
    """Return the picture as a directed graph from left to right."""
    lines = [
        "digraph {",
        '    graph [rankdir="LR", fontname="sans-serif", fontsize="16", bgcolor="#f8fafc"];',
        '    node [fontname="sans-serif", fontsize="12", style="filled", fillcolor="#ffffff",'
        ' color="#5b6779"];',
        '    edge [fontname="sans-serif", fontsize="10"];',
    ]
    if picture.title:
        lines.append(f'    label={_quoted(picture.title)}; labelloc="t"; labeljust="l";')
    grouped: dict[str, list[Box]] = {}
    for box in picture.boxes:
        grouped.setdefault(box.group, []).append(box)
    for place, (group, boxes) in enumerate(grouped.items()):
        indent = "    "
        if group:
            lines.append(f'    subgraph "cluster {place}" {{')
            lines.append(f'        label={_quoted(group)}; style="rounded"; color="#d8dfe8";')
            indent *= 2
        lines += [f"{indent}{_node(box)}" for box in boxes]
        if group:
            lines.append("    }")
    lines += [f"    {_edge(arrow)}" for arrow in picture.arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _node(box: Box) -> str:
    label = _quoted(box.label, box.note) if box.note else _quoted(box.label)
    return f'{_quoted(box.id)} [label={label}, shape="{_SHAPES[box.kind]}"];'


def _edge(arrow: Arrow) -> str:
    said = {
        "color": f'"{palette.line(arrow.mover)}"',
        "fontcolor": f'"{palette.ink(arrow.mover)}"',
        "penwidth": f'"{1.2 + 2.8 * min(1.0, max(0.0, arrow.width)):.1f}"',
    }
    if arrow.words:
        said["label"] = _quoted(arrow.words)
    if arrow.note:
        said["tooltip"] = _quoted(arrow.note)
    if arrow.style != "solid":
        said["style"] = f'"{arrow.style}"'
    if arrow.both:
        said["dir"] = '"both"'
    options = ", ".join(f"{name}={value}" for name, value in said.items())
    return f"{_quoted(arrow.source)} -> {_quoted(arrow.target)} [{options}];"


def _quoted(*lines: str) -> str:
    """Return lines of text in quotes.

    A label understands backslashes (\\n, \\G) and, like HTML, entities (&lt;): neither can come
    from a user.
    """
    escaped = (
        visible(line).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
        for line in lines
    )
    return '"' + "\\n".join(escaped) + '"'
