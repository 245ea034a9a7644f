"""Text as it is drawn: how wide it is, cut in its middle, without what a viewer cannot show."""

from __future__ import annotations

from unicodedata import category, east_asian_width

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# of a sans-serif font of size 1; those of a wide one, so that others fit as well
_WIDTHS = {
    **dict.fromkeys("ijlIJ',.", 0.31),
    **dict.fromkeys(" -/:;\\f|", 0.36),
    **dict.fromkeys("!()[]rt", 0.41),
    **dict.fromkeys('"*_`?csz', 0.52),
    **dict.fromkeys("LFTYaekovxy", 0.62),
    **dict.fromkeys("CNRUDGHOQ&", 0.77),
    **dict.fromkeys("#+<=>M^w~≤≥→", 0.85),
    **dict.fromkeys("%Wm@…", 0.98),
}
_OTHER = 0.65
_WIDE = 1.05
_BOLD = 1.12

ELLIPSIS = "…"


def visible(text: str) -> str:
    """Return a text on one line, with every character that has no shape written as Python would."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def cells(text: str) -> int:
    """Return how many columns of a terminal a visible text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if category(each) in ("Mn", "Me", "Cf")
        else 2
        if east_asian_width(each) in ("W", "F")
        else 1
        for each in text
    )


def breadth(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a visible text is in a sans-serif font of a size."""
    return (
        size
        * (_BOLD if bold else 1.0)
        * sum(
            _WIDTHS.get(each, _OTHER)
            if each < "\u1100"
            else _WIDTHS.get(each, _WIDE if east_asian_width(each) in ("W", "F") else 0.9)
            for each in text
        )
    )


def cut(text: str, most: float, width_of: Callable[[str], float], mark: str = ELLIPSIS) -> str:
    """Return a text that is not wider than `most`: both of its ends, and an ellipsis between."""
    if width_of(text) <= most:
        return text
    room = most - width_of(mark)
    head: list[str] = []
    tail: list[str] = []
    # the end of an address tells more than its beginning: it gets the odd character
    start, stop = 0, len(text)
    while start < stop:
        at_end = len(tail) <= len(head)
        each = text[stop - 1] if at_end else text[start]
        room -= width_of(each)
        if room < 0:
            break
        if at_end:
            tail.append(each)
            stop -= 1
        else:
            head.append(each)
            start += 1
    return "".join(head) + mark + "".join(reversed(tail))
