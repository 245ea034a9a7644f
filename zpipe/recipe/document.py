"""YAML text as plain trees in which each value remembers its place. Guesses at no value's type.

A tree is made of dict, list, str and None. Every scalar is its text as written: on, 22:22 and 0640
stay what they are; only a plain scalar that is empty, ~ or null is None. Refused is whatever YAML
has beyond this: tags, merge keys, directives, several documents, duplicate keys, keys that are no
scalars, aliases that hold themselves. Aliases are allowed within bounds, and share what they
repeat: treat a tree as read-only.

The events of the parser are taken one by one, on a stack of our own: the first thing out of bounds
ends the work, before nesting or repetition costs anything. Knows nothing of what a recipe means.
"""

from __future__ import annotations

import re

from zpipe.recipe.problems import Finding, Place, RecipeError
from zpipe.recipe.syntax import BREAK, NO_KEY, TAGS, explained, place_behind
from zpipe.recipe.wording import one_line, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn

    from zpipe.recipe.problems import Path, Problem

    Tree = dict[str, "Tree"] | list["Tree"] | str | None
    Inside = dict[str, "KeyMark"] | list["Mark"] | None
    Mark = tuple[int, int, Inside]  # line and column of a value, and the marks of what it holds
    KeyMark = tuple[int, int, Mark]  # line and column of a key, and the mark of its value

MOST_BYTES = 1 << 20
MOST_DEPTH = 64  # lists and mappings within each other
MOST_VALUES = 100_000  # with each alias counted as what it repeats
MOST_TEXT = 16 << 20  # characters, likewise
MOST_FINDINGS = 100

_NULLS = ("", "~", "null", "Null", "NULL")
_DIRECTIVE = re.compile(r"(?<![^\r\n])%")  # at the start of a line, whatever ends the one before
# what neither a text editor shows nor YAML 1.2 takes for what YAML 1.1 does
_UNSEEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_BREAKS_OF_YAML = "\x85\u2028\u2029"
_UNFIT = re.compile("[\0\ud800-\udfff]")  # from escapes: no path, command or address can hold them


class Document:
    """A tree, and the place of each value and key in it."""

    def __init__(self, name: str, tree: Tree, marks: Mark):
        self.name = name
        self.tree = tree
        self._marks = marks

    def place(self, path: Path, of_key: bool = False) -> Place:
        """Return where the value at `path` stands, or its key; else the nearest that holds it.

        What an alias repeats stands where it is written; the alias itself where it is used.
        """
        line, column, inside = self._marks
        for depth, step in enumerate(path, start=1):
            if isinstance(inside, dict) and step in inside:
                key_line, key_column, mark = inside[step]
                if of_key and depth == len(path):
                    return Place(key_line, key_column)
            elif isinstance(inside, list) and isinstance(step, int) and 0 <= step < len(inside):
                mark = inside[step]
            else:
                break
            line, column, inside = mark
        return Place(line, column)

    def finding(self, problem: Problem) -> Finding:
        """Return a problem in its place, and in one line."""
        place = self.place(problem.path, problem.of_key)
        return Finding(self.name, place.line, place.column, one_line(problem.text))


def parse(data: bytes, name: str) -> Document:
    """Return the document that `data` holds; `name` is what messages call its file.

    Raises: RecipeError  it is no YAML, or more of it than recipes may have; with all that is wrong.
    """
    return _Parser(_text(data, name), name).document()


def _text(data: bytes, name: str) -> str:
    """Return the characters of a file. Raises: RecipeError  some cannot be part of a recipe."""
    if len(data) > MOST_BYTES:
        raise RecipeError([Finding(name, 1, 1, "larger than 1 MiB: a recipe is not data")])
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise RecipeError([Finding(name, 1, 1, "UTF-16: write the recipe in UTF-8")])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = place_behind(data[: error.start].decode("utf-8"))
        wrong = f"byte 0x{data[error.start]:02x}: not UTF-8: write the recipe in UTF-8"
        raise RecipeError([Finding(name, line, column, wrong)]) from None
    text = text.removeprefix("\ufeff")
    findings = []
    for number, line_text in enumerate(BREAK.split(text), start=1):
        if found := _UNSEEN.search(line_text):
            findings.append(Finding(name, number, found.start() + 1, _unseen(found.group())))
            if len(findings) == MOST_FINDINGS:
                break
    # the parser compares each directive with all before it: 1 MiB of them would take a minute
    if found := _DIRECTIVE.search(text):
        wrong = "% at the start of a line: directives are not allowed"
        findings.append(Finding(name, *place_behind(text[: found.start()]), wrong))
    if findings:
        raise RecipeError(findings)
    return text


def _unseen(char: str) -> str:
    code = f"U+{ord(char):04X}"
    if char in _BREAKS_OF_YAML:
        return f"{code}: a line break to YAML 1.1 alone: give an ordinary one, or an escape"
    return f'{code}: not a character of text: within "" it can be written as an escape'


class _Open:
    """A list or a mapping whose end has not come yet."""

    __slots__ = (
        "anchor", "flow", "height", "inside", "key", "key_mark", "keyed", "mark", "text", "tree",
        "values",
    )  # fmt: skip

    def __init__(self, parser: _Parser, event: Any, is_list: bool):
        self.tree: Any = [] if is_list else {}
        self.inside: Any = [] if is_list else {}
        self.keyed = not is_list
        self.key: str | None = None  # awaits its value
        self.key_mark: Any = None  # None: a key is awaited
        self.mark = event.start_mark
        self.anchor = event.anchor
        self.flow = event.flow_style
        self.height = 1
        self.values, self.text = parser.values, parser.text_seen  # before it


class _Anchored:
    """What an alias stands for. `tree` is unset while its end has not come yet."""

    __slots__ = ("ended", "height", "inside", "mark", "text", "tree", "values")

    def __init__(self, mark: Any):
        self.mark = mark
        self.ended = False
        self.tree: Tree = None
        self.inside: Inside = None
        self.height = self.values = self.text = 0


class _Parser:
    def __init__(self, text: str, name: str):
        self.text = text
        self.name = name
        self.findings: list[Finding] = []
        self.open: list[_Open] = []
        self.anchors: dict[str, _Anchored] = {}
        self.root: tuple[Tree, Mark] | None = None
        self.documents = self.values = self.text_seen = 0

    def document(self) -> Document:
        for event in self._events():
            self._ACTS.get(type(event).__name__, _Parser._pass)(self, event)
        if self.root is None or self.root[0] is None:
            self._stop(1, 1, "empty: a recipe begins with zpipe: 1")
        tree, marks = self.root
        if not isinstance(tree, dict):
            what = "a list" if isinstance(tree, list) else "a text"
            self._stop(
                *marks[:2], f"the recipe is {what}: give a mapping that begins with zpipe: 1"
            )
        if self.findings:
            raise RecipeError(self.findings)
        return Document(self.name, tree, marks)

    def _events(self) -> Iterator[Any]:
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the quick one needs libyaml
        try:
            yield from yaml.parse(self.text, loader)
        except yaml.YAMLError as error:
            top = self.open[-1] if self.open else None
            unclosed = (top.mark, "{" if top.keyed else "[") if top and top.flow else None
            self._stop(*explained(error, self.text, unclosed))

    def _find(self, mark: Any, text: str) -> None:
        self.findings.append(Finding(self.name, mark.line + 1, mark.column + 1, text))
        if len(self.findings) >= MOST_FINDINGS:
            raise RecipeError(self.findings)

    def _stop(self, line: int, column: int, text: str) -> NoReturn:
        self.findings.append(Finding(self.name, line, column, text))
        raise RecipeError(self.findings)

    def _stop_at(self, mark: Any, text: str) -> NoReturn:
        self._stop(mark.line + 1, mark.column + 1, text)

    # one for each event

    def _pass(self, event: Any) -> None:
        """Begin and end of the stream, end of the document."""

    def _begin_document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            self._stop_at(event.start_mark, "a second document: give each recipe a file of its own")

    def _begin_list(self, event: Any) -> None:
        self._begin(event, is_list=True)

    def _begin_mapping(self, event: Any) -> None:
        self._begin(event, is_list=False)

    def _begin(self, event: Any, is_list: bool) -> None:
        self._properties(event)
        self._count(event.start_mark, values=1, depth=1)
        if event.anchor:
            self._anchor(event)
        self.open.append(_Open(self, event, is_list))

    def _end(self, event: Any) -> None:
        ended = self.open.pop()
        if ended.anchor:
            anchored = self.anchors[ended.anchor]
            anchored.ended = True
            anchored.tree, anchored.inside = ended.tree, ended.inside
            anchored.height = ended.height
            anchored.values = self.values - ended.values + 1
            anchored.text = self.text_seen - ended.text
        self._take(ended.mark, ended.tree, ended.inside, ended.height)

    def _scalar(self, event: Any) -> None:
        mark, text, plain = event.start_mark, event.value, not event.style
        self._properties(event)
        self._count(mark, values=1, text=len(text))
        if unfit := _UNFIT.search(text):
            self._find(mark, f"U+{ord(unfit.group()):04X}: no path, address or command can hold it")
        is_key = self._awaits_key()
        if is_key and plain and text == "<<":
            self._find(mark, "<<: merge keys are not allowed: give what is common as defaults")
            self.open[-1].key_mark = mark
            return
        tree = None if plain and text in _NULLS else text
        if event.anchor:
            anchored = self._anchor(event)
            anchored.ended, anchored.tree = True, tree
            anchored.values, anchored.text = 1, len(text)
        self._take(mark, text if is_key else tree, None, 0)

    def _alias(self, event: Any) -> None:
        mark, word = event.start_mark, f"*{shown(event.anchor)}"
        anchored = self.anchors.get(event.anchor)
        if anchored is None:
            self._find(mark, f"{word}: no &{word[1:]} before it: quote a text that starts with *")
        elif not anchored.ended:
            self._find(mark, f"{word}: stands within what it repeats, and would have no end")
        if anchored is None or not anchored.ended:  # something else in its stead: read on
            if self._awaits_key():
                self.open[-1].key_mark = mark
            else:
                self._take(mark, {}, {}, 1)
            return
        self._count(mark, anchored.values, anchored.text, anchored.height)
        self._take(mark, anchored.tree, anchored.inside, anchored.height)

    _ACTS: dict[str, Callable[[_Parser, Any], None]] = {
        "DocumentStartEvent": _begin_document,
        "SequenceStartEvent": _begin_list,
        "SequenceEndEvent": _end,
        "MappingStartEvent": _begin_mapping,
        "MappingEndEvent": _end,
        "ScalarEvent": _scalar,
        "AliasEvent": _alias,
    }

    # what they share

    def _properties(self, event: Any) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            tag = tag if tag.startswith("!") else f"!<{tag}>"
            self._find(event.start_mark, f"{shown(tag)}: {TAGS}")

    def _anchor(self, event: Any) -> _Anchored:
        if first := self.anchors.get(event.anchor):
            at = f"line {first.mark.line + 1}, column {first.mark.column + 1}"
            self._find(event.start_mark, f"&{shown(event.anchor)}: given twice: first in {at}")
        anchored = self.anchors[event.anchor] = _Anchored(event.start_mark)
        return anchored

    def _count(self, mark: Any, values: int, text: int = 0, depth: int = 0) -> None:
        self.values += values
        self.text_seen += text
        if len(self.open) + depth > MOST_DEPTH:
            self._stop_at(mark, f"nested deeper than {MOST_DEPTH} lists and mappings")
        if self.values > MOST_VALUES:
            self._stop_at(mark, f"more than {MOST_VALUES:,} values, with all that aliases repeat")
        if self.text_seen > MOST_TEXT:
            self._stop_at(mark, "more than 16 MiB of text, with all that aliases repeat")

    def _awaits_key(self) -> bool:
        return bool(self.open) and self.open[-1].keyed and self.open[-1].key_mark is None

    def _take(self, mark: Any, tree: Tree, inside: Inside, height: int) -> None:
        """Put a value, or a key, where it belongs: into what is open."""
        place = mark.line + 1, mark.column + 1
        if not self.open:
            self.root = tree, (*place, inside)
            return
        top = self.open[-1]
        top.height = max(top.height, height + 1)
        if not top.keyed:
            top.tree.append(tree)
            top.inside.append((*place, inside))
        elif top.key_mark is None:
            top.key, top.key_mark = self._key(top, mark, tree), mark
        else:
            if top.key is not None:
                top.tree[top.key] = tree
                key_place = top.key_mark.line + 1, top.key_mark.column + 1
                top.inside[top.key] = (*key_place, (*place, inside))
            top.key = top.key_mark = None

    def _key(self, top: _Open, mark: Any, tree: Tree) -> str | None:
        """Return a key of the mapping `top`; None: it is none, and its value goes with it."""
        if isinstance(tree, (list, dict)):
            what = "a list" if isinstance(tree, list) else "a mapping"
            self._find(mark, f"{what} as a key: keys are texts")
        elif not tree:
            self._find(mark, NO_KEY)
        elif tree in top.inside:
            line, column, _ = top.inside[tree]
            at = f"line {line}, column {column}"
            self._find(mark, f"{shown(tree)}: given twice: first in {at}")
        else:
            return tree
        return None
