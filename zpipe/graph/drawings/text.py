"""A picture as text for a terminal: boxes are words, arrows are lines between them.

    disk ──┬─ splice ──────▶ gzip ── splice ──▶ host
           └─ copy_range ──▶ copy

A box that its own bytes come back to is written once more, where they come back. What hangs
together and cannot be read as a drawing, for too many crossings or too little room, has one line
for each arrow instead. What a label says in full stands below.
"""

from __future__ import annotations

from zpipe.graph.drawings import PAGE
from zpipe.graph.drawings.grid import DASHES, Strand, Unreadable, woven
from zpipe.graph.drawings.letters import ELLIPSIS, cells, cut, visible
from zpipe.graph.layers import closing, components
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from zpipe.graph.drawings import Page
    from zpipe.graph.picture import Picture

_CAPS = (1 << 20, 48, 36, 28, 22, 16)  # columns for a label: as many as there is room for
_PAD = 40  # names of one list are not padded to more
_DRAWN = "─╌┈┌┐└┘├┤┬┴┼│▶◀→≤" + ELLIPSIS
_ASCII = str.maketrans(
    {
        **dict.fromkeys("─╌┈", "-"),
        **dict.fromkeys("┌┐└┘├┤┬┴┼", "+"),
        "│": "|",
        "▶": ">",
        "◀": "<",
        "→": "->",
        "≤": "<=",
        ELLIPSIS: "...",
    }
)


def draw(picture: Picture, page: Page = PAGE) -> str:
    """Return the picture as lines of text."""
    show = _shower(page.encoding)
    labels = [show(box.label) for box in picture.boxes]
    strands = _strands(picture, show)
    blocks: list[list[str]] = []
    if picture.title:
        blocks.append([show(picture.title)])
    cut_off: dict[str, str] = {}
    plain: list[Strand] = []  # arrows that stand alone share one list

    def end_list() -> None:
        if plain:
            blocks.append(_listed(plain, labels))
            plain.clear()

    groups = components(len(labels), [(strand.source, strand.target) for strand in strands])
    part_of = {box: part for part, group in enumerate(groups) for box in group}
    inside: list[list[Strand]] = [[] for _ in groups]
    for strand in strands:
        inside[part_of[strand.source]].append(strand)
    for group, mine in zip(groups, inside, strict=True):
        if not mine:
            end_list()
            blocks.append([labels[group[0]]])
        elif len(mine) == 1:
            plain += mine
        else:
            end_list()
            drawn = _fitted(mine, labels, page, cut_off)
            blocks.append(_listed(mine, labels) if drawn is None else drawn)
    end_list()
    notes = _notes(picture, cut_off, show)
    if notes:
        blocks.append(notes)
    text = "\n\n".join("\n".join(lines) for lines in blocks)
    if not _shows_lines(page.encoding):
        text = text.translate(_ASCII)
    return text + "\n" if text else ""


def _strands(picture: Picture, show: Callable[[str], str]) -> list[Strand]:
    """Return the arrows; two that go there and back between sockets or files are one."""
    rank = {box.id: place for place, box in enumerate(picture.boxes)}
    found: dict[tuple[int, int], Strand] = {}
    strands: list[Strand] = []
    for arrow in picture.arrows:
        source, target = rank[arrow.source], rank[arrow.target]
        words = show(arrow.words)
        back = found.get((target, source))
        ends = (picture.boxes[source].kind, picture.boxes[target].kind)
        # bytes that a process gives back are others than it was given: that is a chain
        if back is not None and source != target and not back.both and "process" not in ends:
            if words != back.words:
                words = show(f"{back.words} ▶ ◀ {words}".strip())
            merged = replace(back, words=words, both=True)
            strands[strands.index(back)] = merged
            found[target, source] = merged
            continue
        strand = Strand(source, target, words, arrow.style, arrow.both)
        strands.append(strand)
        found[source, target] = strand
    return strands


def _fitted(
    strands: Sequence[Strand], labels: Sequence[str], page: Page, cut_off: dict[str, str]
) -> list[str] | None:
    """Return a drawing that is not too wide, with labels cut if they must be; or None."""
    numbers: dict[int, int] = {}
    for strand in strands:
        for box in (strand.source, strand.target):
            numbers.setdefault(box, len(numbers))
    names = [labels[box] for box in numbers]
    pairs = [(numbers[strand.source], numbers[strand.target]) for strand in strands]
    # where it would lead back, the box is written once more
    for place in sorted(closing(len(names), pairs)):
        source, target = pairs[place]
        pairs[place] = (source, len(names))
        names.append(names[target])
    for place, (source, target) in enumerate(pairs):
        if source == target:
            pairs[place] = (source, len(names))
            names.append(names[target])
    mine = [
        replace(strand, source=source, target=target)
        for strand, (source, target) in zip(strands, pairs, strict=True)
    ]
    longest = max(cells(name) for name in names)
    mark = ELLIPSIS if _shows_lines(page.encoding) else ELLIPSIS.translate(_ASCII)
    for cap in _CAPS:
        if cap is not _CAPS[0] and cap >= longest:
            continue
        shown = [cut(name, cap, cells, mark) for name in names]
        try:
            lines = woven(mine, shown)
        except Unreadable:
            return None
        if max(map(cells, lines)) <= page.width:
            cut_off.update(
                (short, full) for short, full in zip(shown, names, strict=True) if short != full
            )
            return lines
    return None


def _listed(strands: Sequence[Strand], labels: Sequence[str]) -> list[str]:
    """Return one line for each arrow, aligned."""
    words = [f" {strand.words} " if strand.words else "" for strand in strands]
    wide = max(min(_PAD, cells(labels[strand.source])) for strand in strands)
    middle = max(min(_PAD, cells(text)) for text in words)
    lines = []
    for strand, text in zip(strands, words, strict=True):
        source = labels[strand.source]
        dash = DASHES[strand.style]
        lines.append(
            f"{source}{' ' * (wide - cells(source))} {'◀' if strand.both else dash}{dash}"
            f"{text}{dash * (middle - cells(text))}{dash * 2}▶ {labels[strand.target]}"
        )
    return lines


def _notes(picture: Picture, cut_off: dict[str, str], show: Callable[[str], str]) -> list[str]:
    """Return what is to be known besides, below the drawing."""
    rows = list(cut_off.items())
    for box in picture.boxes:
        # what stands around a proxy is told by the arrows
        if box.note and (not box.group or box.kind == "proxy"):
            rows.append((show(box.label), show(box.note)))
    label = {box.id: box.label for box in picture.boxes}
    for arrow in picture.arrows:
        if arrow.note:
            ends = f"{label[arrow.source]} → {label[arrow.target]}"
            rows.append((show(ends), show(arrow.note)))
    return list(_aligned(dict.fromkeys(rows)))


def _aligned(rows: Iterable[tuple[str, str]]) -> Iterable[str]:
    rows = list(rows)
    wide = max((min(_PAD, cells(name)) for name, _ in rows), default=0)
    for name, text in rows:
        yield f"{name}{' ' * (wide - cells(name))}  {text}"


def _shower(encoding: str) -> Callable[[str], str]:
    """Return what makes a text one that can be shown: on one line, in this encoding."""
    lines = _shows_lines(encoding)

    def show(text: str) -> str:
        # before anything is measured: what stands for a character may be longer
        seen = visible(text) if lines else visible(text).translate(_ASCII)
        return seen.encode(encoding, "backslashreplace").decode(encoding)

    return show


def _shows_lines(encoding: str) -> bool:
    try:
        _DRAWN.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
