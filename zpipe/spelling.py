"""Words of which only a few are known: how messages list them, and what another may be meant to
be. Knows nothing of what they name.
"""

from __future__ import annotations

from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_LONGEST = 64  # a longer one is not misspelt; and comparing takes the square of its length


def choice(words: Sequence[str]) -> Callable[[str], str]:
    """Return a reader of one of some words. It raises UsageError for others."""

    def read(text: str) -> str:
        if text not in words:
            raise UsageError(f"{text}: give {one_of(text, words)}")
        return text

    return read


def one_of(word: str, known: Iterable[str]) -> str:
    """Return `one of NAME, NAME; did you mean NAME?`, as an error says what to give instead."""
    names = list(known)
    listed = f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)
    return listed + suggestion(word, names)


def known_are(word: str, known: Iterable[str]) -> str:
    """Return `did you mean NAME? known are NAME, NAME`, as stands behind `unknown WORD:`."""
    names = list(known)
    near = nearest(word, names)
    return f"{f'did you mean {near}? ' if near else ''}known are {', '.join(names)}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for a misspelt word, else an empty text."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return which of the `known` a word may be meant to be."""
    if len(word) > _LONGEST:
        return None
    from difflib import get_close_matches  # only a mistake pays for it

    folded = {_folded(name): name for name in known}
    found = get_close_matches(_folded(word), folded, n=1)
    return folded[found[0]] if found else None


def _folded(word: str) -> str:
    return word.lower().translate({ord(char): None for char in "-_ "})
