"""A picture as a Mermaid flowchart, as Markdown viewers draw it.

Boxes are numbered: no name of a user's can be taken for a keyword. Every character of a label that
could mean something is written as its number.
"""

from __future__ import annotations

import re

from zpipe.graph.drawings import PAGE, palette
from zpipe.graph.drawings.letters import visible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.drawings import Page
    from zpipe.graph.picture import Box, Picture

# kind of a box -> what stands around its label
_SHAPES = {
    "file": ("[", "]"),
    "digest": ("[", "]"),
    "device": ("[(", ")]"),
    "socket": ("([", "])"),
    "listener": ("([", "])"),
    "pipe": ("[/", "/]"),
    "standard": ("[/", "/]"),
    "process": ("[[", "]]"),
    "proxy": ("{{", "}}"),
    "joint": ("((", "))"),
    "null": ("((", "))"),
    "pattern": ("(", ")"),
}
_LINES = {"solid": "-->", "dashed": "-.->", "dotted": "-.->"}
# what means nothing: neither to Mermaid, nor to the Markdown and the HTML that it makes of a label
_PLAIN = re.compile(
    r"""[A-Za-z0-9 /,?=]
      | (?<=[A-Za-z0-9 /])-     # - at the beginning: a list
      | (?<=[A-Za-z/])\.(?=\w)  # 1. is a list
      | :(?!/|fa)               # http:// is a link, fa:fa-car an icon""",
    re.VERBOSE | re.ASCII,
)
# these words, with the characters of an entity behind them, would be taken for a statement; and www
# for the beginning of a link
_WORDS = re.compile(r"(?i)(?<=sty)l(?=e)|(?<=classd)e(?=f)|(?<=w)w(?=w)")


def draw(picture: Picture, page: Page = PAGE) -> str:
    """Return the picture as a flowchart from left to right."""
    number = {box.id: f"n{place}" for place, box in enumerate(picture.boxes)}
    lines = []
    if picture.title:
        lines += ["---", f"title: {_in_yaml(visible(picture.title))}", "---"]
    lines.append("flowchart LR")
    grouped: dict[str, list[Box]] = {}
    for box in picture.boxes:
        grouped.setdefault(box.group, []).append(box)
    for place, (group, boxes) in enumerate(grouped.items()):
        indent = "    "
        if group:
            lines.append(f"    subgraph g{place} [{_quoted(group)}]")
            indent *= 2
        lines += [f"{indent}{number[box.id]}{_shape(box)}" for box in boxes]
        if group:
            lines.append("    end")
    for arrow in picture.arrows:
        line = _LINES[arrow.style]
        if arrow.both:
            line = f"<{line}"
        words = f"|{_quoted(arrow.words)}|" if arrow.words else ""
        lines.append(f"    {number[arrow.source]} {line}{words} {number[arrow.target]}")
    lines += _colours(picture, number)
    return "\n".join(lines) + "\n"


def _shape(box: Box) -> str:
    before, after = _SHAPES[box.kind]
    text = _quoted(box.label)
    if box.note:
        text = f"{text[:-1]}<br/>{_quoted(box.note)[1:]}"
    return f"{before}{text}{after}"


def _colours(picture: Picture, number: dict[str, str]) -> list[str]:
    """Return the colours of boxes, by the mover that fills them, and of arrows."""
    filled: dict[str, dict[str, None]] = {}
    drawn: dict[str, list[int]] = {}
    for place, arrow in enumerate(picture.arrows):
        name = arrow.mover if arrow.mover in palette.MOVERS else ""
        drawn.setdefault(name, []).append(place)
        filled.setdefault(name, {})[number[arrow.target]] = None
    lines = []
    for name in (*palette.MOVERS, ""):
        if name not in drawn:
            continue
        colour = palette.line(name)
        word = name or "unknown"
        members = ",".join(filled[name])
        lines.append(f"    classDef {word} stroke:{colour},stroke-width:2px")
        lines.append(f"    class {members} {word}")
        places = ",".join(map(str, drawn[name]))
        lines.append(f"    linkStyle {places} stroke:{colour},stroke-width:2px")
    return lines


def _quoted(text: str) -> str:
    """Return a text in quotes; what is not plain is written as #NUMBER;."""
    text = visible(text)
    told = {match.start() for match in _WORDS.finditer(text)}
    parts = (
        each if place not in told and _PLAIN.match(text, place) else f"#{ord(each)};"
        for place, each in enumerate(text)
    )
    return f'"{"".join(parts)}"'


def _in_yaml(text: str) -> str:
    """Return a text as a double-quoted scalar of YAML."""
    parts = (
        each if each == " " or (each.isascii() and each.isalnum()) else _yaml_escape(each)
        for each in text
    )
    return f'"{"".join(parts)}"'


def _yaml_escape(each: str) -> str:
    return each if each in ",.:-_/" else f"\\U{ord(each):08x}"
