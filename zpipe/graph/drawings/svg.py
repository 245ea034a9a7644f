"""A picture as SVG: one file that needs nothing else, for light and for dark viewers.

No scripts, fonts or styles from outside. Whatever comes from a user is escaped, and cut where it is
too long; the whole text is told when it is pointed at.
"""

from __future__ import annotations

from html import escape

from zpipe.graph.drawings import PAGE, palette
from zpipe.graph.drawings.icons import ICONS
from zpipe.graph.drawings.letters import breadth, cut, visible
from zpipe.graph.layout import Rect, Spacing, arrange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.drawings import Page
    from zpipe.graph.layout import Layout, Route
    from zpipe.graph.picture import Arrow, Box, Picture

    Lines = list[str]

_FONT = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', Arial, sans-serif"
)
_LABEL, _NOTE, _WORDS, _TITLE = 13.0, 10.5, 11.0, 15.0  # sizes of letters
_MOST = 250.0  # of the width of what is written in a box
_MOST_WORDS = 220.0
_ICON = 30.0
_PAD = 9.0
_BOX = 48.0  # the least height
_PORT = 7.0  # of height for each arrow at one side
_MARGIN = 24.0
_HEAD = 8.0  # length of an arrowhead
_FRAME_PAD = 16.0

_PAPER, _EDGE, _INK, _FAINT = "#f8fafc", "#d8dfe8", "#0f172a", "#5b6779"
_DASHES = {"solid": "", "dashed": "6 5", "dotted": "1.5 4.5"}

# kind of a box -> its tint, and the colour of its icon
_TINTS = {
    "file": ("#e8eef8", "#3b5b8c"),
    "device": ("#e8eef8", "#3b5b8c"),
    "digest": ("#e8eef8", "#3b5b8c"),
    "socket": ("#e3f3f1", "#1f6f68"),
    "listener": ("#e3f3f1", "#1f6f68"),
    "pipe": ("#efeaf8", "#5d4691"),
    "standard": ("#efeaf8", "#5d4691"),
    "process": ("#fbeee0", "#94560f"),
    "proxy": ("#fbeee0", "#94560f"),
    "joint": ("#fbeee0", "#94560f"),
    "null": ("#edf0f3", "#566273"),
    "pattern": ("#edf0f3", "#566273"),
}


def draw(picture: Picture, page: Page = PAGE) -> str:
    """Return the picture as an SVG document."""
    rank = {box.id: place for place, box in enumerate(picture.boxes)}
    joins = [(rank[arrow.source], rank[arrow.target]) for arrow in picture.arrows]
    thickest = max((arrow.width for arrow in picture.arrows), default=0.0)
    laid = arrange(
        _box_sizes(picture, joins),
        joins,
        [_label_size(arrow) for arrow in picture.arrows],
        Spacing(
            columns=26 + 10 * min(1.0, thickest),
            parts=54 if any(box.group for box in picture.boxes) else 34,
        ),
    )
    groups = _groups(picture, laid)
    title = visible(picture.title)
    left, top = _MARGIN, _MARGIN
    if title:
        top += _TITLE + 18
    if groups:
        left, top = left + _FRAME_PAD, top + _FRAME_PAD
    width = max(laid.width + 2 * left, 240.0)
    shown_title = cut(title, width - 2 * _MARGIN, lambda text: breadth(text, _TITLE, bold=True))
    bottom = top + laid.height + (_FRAME_PAD if groups else 0)
    rows = _legend_rows(picture, width - 2 * _MARGIN)
    height = bottom + _MARGIN + (len(rows) * 20 + 14 if rows else 0)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(width)} {_n(height)}"'
        f' width="{_n(width)}" height="{_n(height)}" role="img"'
        f' aria-labelledby="title desc" font-family="{_FONT}">',
        f'<title id="title">{escape(title or "Data flow")}</title>',
        f'<desc id="desc">{escape(_description(picture))}</desc>',
        f'<rect x="0.5" y="0.5" width="{_n(width - 1)}" height="{_n(height - 1)}" rx="14"'
        f' fill="{_PAPER}" stroke="{_EDGE}"/>',
    ]
    if title:
        lines.append(
            _text(_MARGIN, _MARGIN + _TITLE - 3, shown_title, _TITLE, _INK, 'font-weight="600"')
        )
    lines.append(f'<g transform="translate({_n(left)} {_n(top)})">')
    lines += groups
    by_width = sorted(zip(picture.arrows, laid.routes, strict=True), key=lambda each: each[0].width)
    for arrow, route in by_width:
        lines += _arrow(
            arrow,
            route,
            picture.boxes[rank[arrow.source]].label,
            picture.boxes[rank[arrow.target]].label,
        )
    for box, rect in zip(picture.boxes, laid.boxes, strict=True):
        lines += _box(box, rect)
    for arrow, route in by_width:
        lines += _words(arrow, route)
    lines.append("</g>")
    lines += _legend(rows, bottom + 14, width)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _description(picture: Picture) -> str:
    label = {box.id: box.label for box in picture.boxes}
    return "; ".join(
        visible(
            f"{label[arrow.source]} to {label[arrow.target]}"
            + (f" ({arrow.words})" if arrow.words else "")
        )
        for arrow in picture.arrows
    )


def _box_sizes(picture: Picture, joins: list[tuple[int, int]]) -> list[tuple[float, float]]:
    leaving = [0] * len(picture.boxes)
    entering = [0] * len(picture.boxes)
    for source, target in joins:
        leaving[source] += 1
        entering[target] += 1
    sizes = []
    for place, box in enumerate(picture.boxes):
        label, note = _shown(box)
        wide = max(breadth(label, _LABEL, bold=True), breadth(note, _NOTE))
        ports = max(leaving[place], entering[place])
        sizes.append((wide + _ICON + 3 * _PAD, max(_BOX, 20 + _PORT * ports)))
    return sizes


def _shown(box: Box) -> tuple[str, str]:
    label = cut(visible(box.label), _MOST, lambda text: breadth(text, _LABEL, bold=True))
    return label, cut(visible(box.note), _MOST, lambda text: breadth(text, _NOTE))


def _shown_words(arrow: Arrow) -> tuple[str, str]:
    """Return the mover and the rest, as they are written on an arrow."""
    mover = cut(visible(arrow.mover), _MOST_WORDS, lambda text: breadth(text, _WORDS, bold=True))
    return mover, cut(visible(arrow.label), _MOST_WORDS, lambda text: breadth(text, _WORDS))


def _label_size(arrow: Arrow) -> tuple[float, float]:
    mover, rest = _shown_words(arrow)
    if not mover and not rest:
        return 0.0, 6.0
    return _words_breadth(mover, rest) + 16, 20.0


def _words_breadth(mover: str, rest: str) -> float:
    gap = 6.0 if mover and rest else 0.0
    return breadth(mover, _WORDS, bold=True) + gap + breadth(rest, _WORDS)


def _groups(picture: Picture, laid: Layout) -> Lines:
    """Frame what hangs together and is of one group; not if it is the whole picture."""
    lines = []
    for rect, members in laid.parts if len(laid.parts) > 1 else ():
        names = {picture.boxes[member].group for member in members}
        if len(names) == 1 and "" not in names:
            pad = _FRAME_PAD - 2
            lines.append(
                f'<rect x="{_n(rect.x - pad)}" y="{_n(rect.y - pad)}" rx="14"'
                f' width="{_n(rect.width + 2 * pad)}" height="{_n(rect.height + 2 * pad)}"'
                f' fill="#eef2f7" stroke="{_EDGE}" stroke-dasharray="2 3"/>'
            )
    return lines


def _box(box: Box, rect: Rect) -> Lines:
    label, note = _shown(box)
    tint, colour = _TINTS[box.kind]
    told = visible(box.label) + (f"\n{visible(box.note)}" if box.note else "")
    x, y, middle = rect.x, rect.y, rect.middle[1]
    icon_x = x + _PAD
    text_x = icon_x + _ICON + _PAD
    # shapes tell what colours may not: what makes or swallows bytes is round, a proxy has a frame
    round_ = {"process": 16, "null": 16, "pattern": 16}.get(box.kind, 9)
    size = f'width="{_n(rect.width)}" height="{_n(rect.height)}" rx="{round_}"'
    lines = [
        f'<g class="box {box.kind}" data-id="{escape(visible(box.id))}">',
        f"<title>{escape(told)}</title>",
        f'<rect x="{_n(x)}" y="{_n(y + 1.5)}" {size} fill="#0f172a" opacity="0.07"/>',
        f'<rect x="{_n(x)}" y="{_n(y)}" {size} fill="#ffffff" stroke="{colour}"'
        f' stroke-opacity="0.55" stroke-width="{2 if box.kind == "proxy" else 1.2}"/>',
        f'<rect x="{_n(icon_x)}" y="{_n(middle - _ICON / 2)}" width="{_n(_ICON)}"'
        f' height="{_n(_ICON)}" rx="{8 if round_ < 16 else 15}" fill="{tint}"/>',
        f'<g transform="translate({_n(icon_x + _ICON / 2)} {_n(middle)})" fill="none"'
        f' stroke="{colour}" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round">'
        f"{ICONS[box.kind]}</g>",
    ]
    up = 2.5 if note else -_LABEL * 0.36
    lines.append(_text(text_x, middle - up, label, _LABEL, _INK, 'font-weight="600"'))
    if note:
        lines.append(_text(text_x, middle + _NOTE + 2.5, note, _NOTE, _FAINT))
    lines.append("</g>")
    return lines


def _arrow(arrow: Arrow, route: Route, source: str, target: str) -> Lines:
    colour = palette.line(arrow.mover)
    thick = 1.8 + 3.4 * min(1.0, max(0.0, arrow.width))
    head = _HEAD + 1.6 * (thick - 1.8)
    points = list(route.points)
    told = visible(f"{source} → {target}") + "".join(
        f"\n{visible(text)}" for text in (arrow.words, arrow.note) if text
    )
    if route.loop:
        path, heads = _loop(route, head, arrow)
    else:
        forward = -1.0 if route.turned else 1.0
        heads = [_head(points[-1], (forward, 0.0), head)]
        points[-1] = (points[-1][0] - forward * head * 0.8, points[-1][1])
        if arrow.both:
            heads.append(_head(points[0], (-forward, 0.0), head))
            points[0] = (points[0][0] + forward * head * 0.8, points[0][1])
        path = _path(points)
    dashes = _DASHES[arrow.style]
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return [
        f'<g class="arrow" data-source="{escape(visible(arrow.source))}"'
        f' data-target="{escape(visible(arrow.target))}">',
        f"<title>{escape(told)}</title>",
        # under it, a band of the paper: where two arrows cross, one is seen to be on top
        f'<path d="{path}" fill="none" stroke="{_PAPER}" stroke-width="{_n(thick + 4)}"/>',
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{_n(thick)}"'
        f' stroke-linecap="round"{dash}/>',
        *(f'<path d="{each}" fill="{colour}"/>' for each in heads),
        "</g>",
    ]


def _path(points: list[tuple[float, float]]) -> str:
    """Return curves that leave and arrive level between columns, and lines through these."""
    parts = [f"M{_n(points[0][0])} {_n(points[0][1])}"]
    for place in range(1, len(points)):
        (x, y), (to_x, to_y) = points[place - 1 : place + 1]
        if abs(y - to_y) < 0.05:
            if parts[-1].startswith("H"):
                parts.pop()
            parts.append(f"H{_n(to_x)}")
        else:
            half = _n((x + to_x) / 2)
            parts.append(f"C{half} {_n(y)} {half} {_n(to_y)} {_n(to_x)} {_n(to_y)}")
    return "".join(parts)


def _loop(route: Route, head: float, arrow: Arrow) -> tuple[str, Lines]:
    (x, y), (_, low), (to_x, to_y) = route.points
    bend = y + (low - y) * 4 / 3  # so that the curve touches `low`
    path = (
        f"M{_n(x)} {_n(y + (head * 0.8 if arrow.both else 0))}"
        f"C{_n(x)} {_n(bend)} {_n(to_x)} {_n(bend)} {_n(to_x)} {_n(to_y + head * 0.8)}"
    )
    heads = [_head((to_x, to_y), (0.0, -1.0), head)]
    if arrow.both:
        heads.append(_head((x, y), (0.0, -1.0), head))
    return path, heads


def _head(tip: tuple[float, float], towards: tuple[float, float], length: float) -> str:
    """Return a triangle whose tip is there."""
    (x, y), (dx, dy) = tip, towards
    back_x, back_y = x - dx * length, y - dy * length
    side = length * 0.48
    return (
        f"M{_n(x)} {_n(y)}L{_n(back_x - dy * side)} {_n(back_y + dx * side)}"
        f"L{_n(back_x + dy * side)} {_n(back_y - dx * side)}Z"
    )


def _words(arrow: Arrow, route: Route) -> Lines:
    mover, rest = _shown_words(arrow)
    if not mover and not rest:
        return []
    room = route.label
    x, y = room.middle[0], room.middle[1] + _WORDS * 0.36
    lines = [
        f'<rect x="{_n(room.x)}" y="{_n(room.y)}" width="{_n(room.width)}"'
        f' height="{_n(room.height)}" rx="{_n(room.height / 2)}" fill="#ffffff"'
        f' stroke="{palette.line(arrow.mover)}" stroke-opacity="0.7"/>'
    ]
    spans = []
    if mover:
        spans.append(
            f'<tspan font-weight="600" fill="{palette.ink(arrow.mover)}">{escape(mover)}</tspan>'
        )
    if rest:
        gap = ' dx="6"' if mover else ""
        spans.append(f'<tspan fill="{_FAINT}"{gap}>{escape(rest)}</tspan>')
    lines.append(
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(_WORDS)}" text-anchor="middle"'
        f' pointer-events="none">{"".join(spans)}</text>'
    )
    return lines


def _legend_rows(picture: Picture, width: float) -> list[list[tuple[str, float]]]:
    """Return the movers that are used, in the order of the palette, with where each begins."""
    used = {arrow.mover for arrow in picture.arrows}
    rows: list[list[tuple[str, float]]] = []
    x = width
    for name in palette.MOVERS:
        if name not in used:
            continue
        wide = 34 + breadth(name, _WORDS) + 20
        if x + wide > width:
            rows.append([])
            x = 0.0
        rows[-1].append((name, x))
        x += wide
    return rows


def _legend(rows: list[list[tuple[str, float]]], top: float, width: float) -> Lines:
    if not rows:
        return []
    lines = [
        '<g class="legend">',
        f'<path d="M{_n(_MARGIN)} {_n(top)}H{_n(width - _MARGIN)}" stroke="{_EDGE}"/>',
    ]
    for place, row in enumerate(rows):
        y = top + 20 + 20 * place
        for name, at in row:
            x = _MARGIN + at
            lines.append(
                f'<path d="M{_n(x)} {_n(y)}H{_n(x + 24)}" stroke="{palette.line(name)}"'
                f' stroke-width="3" stroke-linecap="round"/>'
            )
            lines.append(_text(x + 32, y + _WORDS * 0.36, name, _WORDS, palette.ink(name)))
    lines.append("</g>")
    return lines


def _text(x: float, y: float, text: str, size: float, colour: str, more: str = "") -> str:
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" font-size="{_n(size)}" fill="{colour}"'
        f"{' ' if more else ''}{more}>{escape(text)}</text>"
    )


def _n(value: float) -> str:
    """Write a number with what can be seen of it."""
    return f"{value:.1f}".removesuffix(".0")
