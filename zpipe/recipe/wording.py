"""How messages call what stands in a recipe: in one line, briefly, with what may be meant."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_SHOWN = 60
_LONGEST_LINE = 600
_LONGEST_WORD = 64  # a longer one is not misspelt; and comparing takes the square of its length


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


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for a misspelt word, else an empty text."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return which of the `known` a word may be meant to be."""
    if len(word) > _LONGEST_WORD:
        return None
    from difflib import get_close_matches  # only a mistake pays for it

    folded = {_folded(name): name for name in known}
    found = get_close_matches(_folded(word), folded, n=1)
    return folded[found[0]] if found else None


def _folded(word: str) -> str:
    return re.sub(r"[-_ ]", "", word.lower())
