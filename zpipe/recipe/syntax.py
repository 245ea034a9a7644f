"""What the parser of YAML does not understand, in one line, where it should be mended.

Two parsers are spoken of, libyaml and the one in Python: they differ in words, and in little else.
Their marks count from 0, and lines end as both of them and editors agree: LF, CR LF or CR.
"""

from __future__ import annotations

import re

from zpipe.recipe.wording import one_line, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

BREAK = re.compile(r"\r\n|[\r\n]")
NO_KEY = "no key before the colon"
TAGS = "tags are not allowed: each value is read as the text that it is"

_UNQUOTED = "a text cannot start with {}: quote it"


def place_behind(text: str) -> tuple[int, int]:
    """Return line and column of what follows `text`."""
    breaks = list(BREAK.finditer(text))
    return len(breaks) + 1, len(text) - (breaks[-1].end() if breaks else 0) + 1


def explained(error: Any, text: str, unclosed: tuple[Any, str] | None) -> tuple[int, int, str]:
    """Return line and column from 1, and what is wrong there, for an error of the parser.

    unclosed: where the [] or {} begins that is open, if any, and with which of them.
    """
    context, begun = getattr(error, "context", None), getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    where = getattr(error, "problem_mark", None) or begun
    if where is None:
        return 1, 1, one_line(f"not YAML: {problem}")
    said = f"{context or ''}: {problem}"
    if unclosed and not text[where.index :].strip() and "quote" not in said:
        where, bracket = unclosed
        return where.line + 1, where.column + 1, f"{bracket} is not closed"
    for pattern, at_begin, explain in _PROBLEMS:
        if re.search(pattern, said):
            where = begun if at_begin and begun else where
            said = explain(text, where.index)
            break
    else:
        said = one_line(f"not YAML: {problem}")
    # libyaml puts the end of a text without a last line break on a line that there is not
    place = place_behind(text) if where.index >= len(text) else (where.line + 1, where.column + 1)
    return *place, said


def _start(text: str, at: int) -> str:
    if text[at : at + 1] == "\t":
        return _tab()
    return _UNQUOTED.format(shown(text[at : at + 1]))


def _tab(*_: object) -> str:
    return "a tab: indent with spaces"


def _key_not_here(text: str, at: int) -> str:
    begin = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    if ": " in text[begin:at]:
        return "a second colon: quote a text that holds a colon and a space"
    return "no key can stand here: indent it as those beside it, and end the line before"


def _between(text: str, at: int) -> str:
    if text[at - 1 : at + 1] == "${":
        return "${ within [] or {}: quote the text"
    return f"{shown(text[at : at + 1])}: expected a comma, or the end of the [] or {{}}"


def _after_key(text: str, at: int) -> str:
    here, before = text[at : at + 1], text[:at].rstrip(" ")[-1:]
    if here in ("]", "}"):
        return f"{here}: closes nothing: quote a text that holds it"
    if here == ":":
        return NO_KEY
    if here == "-":
        return "- among keys: indent the list under the key that it belongs to"
    if before in ('"', "'", "]", "}", "`"):
        return f"text behind {before}: quote it as a whole"
    return "neither a key nor the end of the mapping: indent it as the keys beside it"


def _no_value(text: str, at: int) -> str:
    if text[at : at + 1] == ":":
        return 'a value that starts with a colon: quote addresses like "[::1]:80"'
    return _UNQUOTED.format(shown(text[at : at + 1]))


def _escape(*_: object) -> str:
    return 'not an escape: within "" write \\\\ for a backslash'


def _always(said: str) -> Callable[[str, int], str]:
    return lambda *_: said


# what libyaml and the parser in Python say of context and problem; whether the place is where
# the context begins; what we say of it, by the text and that place in it
_PROBLEMS: tuple[tuple[str, bool, Callable[[str, int], str]], ...] = (
    (r"tab character", False, _tab),
    (r"cannot start any token", False, _start),
    (r"scanning an (alias|anchor)", True, _start),
    (r"mapping values are not allowed", False, _key_not_here),
    (
        r"sequence entries are not allowed",
        False,
        _always("no list can start here: put it on the next line, or quote the text"),
    ),
    (
        r"scanning a simple key",
        True,
        _always("neither a key with its colon nor an entry of a list"),
    ),
    (r"escape|hexdecimal", False, _escape),
    (r"quoted scalar: found unexpected", True, _always("this quote is not closed")),
    (r"(scanning|parsing) a tag|undefined tag handle", True, _always(TAGS)),
    (
        r"scanning a block scalar",
        True,
        _always("| and > stand alone at the end of a line: quote the text"),
    ),
    (r"expected ',' or", False, _between),
    (r"block mapping: ", False, _after_key),
    (
        r"(block collection|block sequence|indentless sequence): ",
        False,
        _always("not an entry of the list: indent it as those beside it, with -"),
    ),
    (r"node content", False, _no_value),
    (r"document start", False, _always("text behind the end of the document")),
)
