"""How messages call what stands in a recipe: in one line, briefly."""

from __future__ import annotations

_LONGEST_SHOWN = 60
_LONGEST_LINE = 600


def shown(text: str) -> str:
    """Return a text of a recipe as messages show it: in one line, and not too long."""
    if len(text) > _LONGEST_SHOWN:
        text = text[: _LONGEST_SHOWN - 3] + "..."
    return one_line(text) or "(empty)"


def one_line(text: str) -> str:
    """Return a message with whatever cannot be printed as an escape, and a huge one cut short."""
    if len(text) > _LONGEST_LINE:
        text = f"{text[: _LONGEST_LINE // 2]} ... {text[-_LONGEST_LINE // 2 :]}"
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
