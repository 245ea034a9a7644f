"""The single letters of GNU cp, and its --preserve: what they make of the wishes for trees.

Knows nothing of operands, and carries nothing out.
"""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.tree.wishes import ATTRIBUTES, PLAIN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# letters without a value, as GNU cp knows them; what takes a value is for the long way
LETTERS = frozenset("rRapdLPHnufTvxlsi")
_FOLLOW = {"L": "always", "P": "never", "H": "operands", "d": "never", "a": "never"}


def wishes_of_letters(letters: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `TreeWishes` that letters stand for, the last of rivals winning; and
    `ask`, `verbose` and `into`, which are of the request. --preserve=LIST and --no-preserve=LIST
    have their places among the letters; `named` are the attributes that were asked for by name.

    Raises: UsageError  there is no such attribute.
    """
    found: dict[str, Any] = {"preserve": frozenset()}
    for letter in letters:
        if letter.startswith("--"):
            _fold(letter, found)
            continue
        if letter in _FOLLOW:
            found["follow"] = _FOLLOW[letter]
        if letter in "rRa":
            found["recursive"] = True
        if letter in "ap":
            found["preserve"] |= PLAIN
            found["default_mode"] = False
        if letter in "da":
            found["preserve"] |= {"links"}
        if letter == "a":
            found["preserve"] = frozenset(ATTRIBUTES)
        if letter in "ni":
            found["existing"] = {"n": "skip", "i": "ask"}[letter]
            found["ask"] = letter == "i"
        if letter == "u":
            found["update"] = True
        if letter == "f":
            found["force"] = True
        if letter == "x":
            found["one_filesystem"] = True
        if letter in "ls":
            found["make"] = {"l": "link", "s": "symlink"}[letter]
        if letter == "T":
            found["into"] = False
        if letter == "v":
            found["verbose"] = True
    if "follow" not in found:
        # as cp: links are copied with what is in a tree, and followed where they are named alone
        linking = found.get("make") == "link"
        found["follow"] = "never" if found.get("recursive") and not linking else "always"
    return found


def _fold(word: str, found: dict[str, Any]) -> None:
    option, _, text = word.partition("=")
    names: set[str] = set()
    for name in text.split(","):
        if name == "all":
            names |= set(ATTRIBUTES)
        elif name in ATTRIBUTES:
            names.add(name)
        else:
            from zpipe.spelling import known_are

            known = known_are(name, [*ATTRIBUTES, "all"])
            raise UsageError(f"{option}={text}: unknown attribute {name or '(empty)'}: {known}")
    if option == "--preserve":
        found["preserve"] |= names
        if text != "all":
            found["named"] = found.get("named", frozenset()) | names
    else:
        found["preserve"] -= names
    if "mode" in names:
        found["default_mode"] = option == "--no-preserve"


def demanded_of(preserve: frozenset[str], named: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the attributes whose loss fails a file: extended ones only where they were named."""
    return (preserve & PLAIN) | (named & preserve)
