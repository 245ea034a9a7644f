"""One colour for each mover, the same in every format.

After Paul Tol's "muted" scheme, which readers with any kind of colour vision can tell apart; names
stand beside the colours all the same. Those that copy least are the cool ones.
"""

from __future__ import annotations

# mover -> colour of the line, and a darker one for letters
_COLOURS = {
    "reflink": ("#117733", "#0d5c27"),
    "copy_range": ("#44aa99", "#226b5f"),
    "sendfile": ("#5fb3dc", "#1f6f97"),
    "splice": ("#4b3fa8", "#332288"),
    "tee": ("#aa4499", "#8a2f7b"),
    "mapped": ("#999933", "#66661a"),
    "direct": ("#d3b84e", "#7d6715"),
    "parallel": ("#882255", "#6e1a44"),
    "plain": ("#cc6677", "#a63a4d"),
}
_UNKNOWN = ("#8390a3", "#525e70")

MOVERS = tuple(_COLOURS)


def line(mover: str) -> str:
    """Return the colour of an arrow; grey for a mover that is not known."""
    return _COLOURS.get(mover, _UNKNOWN)[0]


def ink(mover: str) -> str:
    """Return the colour of what is written in the mover's name."""
    return _COLOURS.get(mover, _UNKNOWN)[1]
