"""Parameters: what -p gives, and what ${NAME} and ${env:NAME} stand for in the scalars of a recipe.

What is put in is text: it is never read as YAML, nor as another reference. Knows of the section
`params` alone what it means; all else is a tree of texts.
"""

from __future__ import annotations

import os
import re

from zpipe.errors import UsageError
from zpipe.recipe.decode import boolean, decode, integer
from zpipe.recipe.document import MOST_FINDINGS
from zpipe.recipe.form import Param, parameter
from zpipe.recipe.problems import Problem
from zpipe.spelling import suggestion
from zpipe.units import parse_duration, parse_rate, parse_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, TypeAlias

    from zpipe.recipe.document import Document
    from zpipe.recipe.problems import Path

    Tree: TypeAlias = Any  # dict, list, str or None, all the way down

MOST_TEXT = 4 << 20  # characters that all references of a recipe may become
_SECTION = "params"
_FEW = 8
_LONGEST = 400  # characters of a quantity
_ENVIRONMENT = "env:"
# an escaped reference, a reference, or the beginning of one
_REFERENCE = re.compile(r"\$(\$\{)|\$\{([^{}\n]*)\}|\$\{")


class Substituted(Value):
    """A tree without references. `unknown` are the paths of scalars that hold one that stands for
    nothing known: whatever else is wrong there follows from that.
    """

    tree: Tree
    problems: list[Problem]
    unknown: frozenset[Path]


class _Unknown(Exception):
    """A reference stands for nothing; the text is empty where that was told before."""


def given(texts: Sequence[str]) -> dict[str, str]:
    """Return names and values of `NAME=VALUE`. Raises: UsageError  one is none, or given twice."""
    values: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"-p {text}: not a parameter: write it as NAME=VALUE")
        try:
            parameter(name)
        except UsageError as error:
            raise UsageError(f"-p {error}") from None
        if name in values:
            raise UsageError(f"-p {name}: given twice")
        values[name] = value
    return values


def substitute(
    document: Document, given: Mapping[str, str], environ: Mapping[str, str]
) -> Substituted:
    """Return the tree of a document with every reference replaced; `given` are those of -p."""
    tree = document.tree
    if not isinstance(tree, dict):
        return Substituted(tree, [], frozenset())
    declared = tree.get(_SECTION)
    declared = declared if isinstance(declared, dict) else {}
    values, problems = _values(declared, given, environ)
    for name in given:
        if name not in declared:
            problems.append(_undeclared(name, declared, _SECTION in tree))
    walk = _Walk(values, set(declared), environ)
    new = {
        key: value if key == _SECTION else walk.replaced(value, (key,))
        for key, value in tree.items()
    }
    return Substituted(new, problems + walk.problems, frozenset(walk.unknown))


class _Walk:
    """Goes through a tree and replaces references; collects what is wrong on the way."""

    def __init__(self, values: Mapping[str, str], declared: set[str], environ: Mapping[str, str]):
        self._values = values
        self._declared = declared
        self._environ = environ
        self._room = MOST_TEXT
        self.problems: list[Problem] = []
        self.unknown: set[Path] = set()

    def replaced(self, tree: Tree, path: Path) -> Tree:
        """Return a tree without references."""
        if isinstance(tree, str):
            return self._text(tree, path)
        if isinstance(tree, dict):
            return {key: self.replaced(value, (*path, key)) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.replaced(value, (*path, n)) for n, value in enumerate(tree)]
        return tree

    def _text(self, text: str, path: Path) -> str:
        try:
            if "${" in text:
                if self._room < 0:
                    raise _Unknown  # that it is too much was told once
                text = expanded(text, self._look_up)
                self._room -= len(text)
                if self._room < 0:
                    raise _Unknown(_too_much())
            _judge_characters(text)
        except _Unknown as error:
            self.unknown.add(path)
            if str(error) and len(self.problems) < MOST_FINDINGS:
                self.problems.append(Problem(str(error), path))
        return text

    def _look_up(self, name: str) -> str:
        if name.startswith(_ENVIRONMENT):
            return _variable(name, self._environ)
        if name in self._values:
            return self._values[name]
        if name in self._declared:
            raise _Unknown  # what is wrong with it is told where it is declared
        if not self._declared:
            raise _Unknown(f"${{{name}}}: no parameter is declared: give a section params")
        raise _Unknown(
            f"${{{name}}}: no parameter has this name: there are {few(self._declared)}"
            f"{_hint(name, self._declared, self._environ)}"
        )


def expanded(text: str, look_up: Callable[[str], str]) -> str:
    """Return a text in which `look_up` has replaced each reference, and `${` stands for `$${`.

    Raises: what `look_up` raises, and _Unknown  a reference that is none, or has no end.
    """
    pieces = []
    place = length = 0
    for found in _REFERENCE.finditer(text):
        escaped, name = found.groups()
        if escaped:
            piece = escaped
        elif name is None:
            raise _Unknown("${: has no }: write ${NAME}, or $${ for the characters ${")
        else:
            _judge_reference(name)
            piece = look_up(name)
        pieces += [text[place : found.start()], piece]
        place = found.end()
        length += len(piece)
        if length > MOST_TEXT:
            raise _Unknown(_too_much())
    return "".join((*pieces, text[place:]))


def _judge_reference(name: str) -> None:
    try:
        parameter(name.removeprefix(_ENVIRONMENT))
    except UsageError:
        raise _Unknown(
            f"${{{name}}}: not a reference: write ${{NAME}} or ${{env:NAME}},"
            " or $${ for the characters ${"
        ) from None


def _judge_characters(text: str) -> None:
    if text.isascii() and "\0" not in text:
        return
    try:
        if b"\0" not in os.fsencode(text):
            return
        what = "a NUL"
    except UnicodeEncodeError as error:
        what = ascii(error.object[error.start])[1:-1]
    raise _Unknown(f"{what} stands in it, which no path, name or argument can hold")


def _too_much() -> str:
    return f"references become more than {MOST_TEXT >> 20} MiB of text"


def _variable(name: str, environ: Mapping[str, str]) -> str:
    value = environ.get(name.removeprefix(_ENVIRONMENT))
    if value is None:
        near = suggestion(name.removeprefix(_ENVIRONMENT), environ)
        raise _Unknown(f"${{{name}}}: no such variable is in the environment{near}")
    return value


def _hint(name: str, declared: Iterable[str], environ: Mapping[str, str]) -> str:
    if name in environ:
        return f"; the variable of the environment is ${{env:{name}}}"
    return suggestion(name, declared)


def few(names: Iterable[str]) -> str:
    """Return some names for a message."""
    shown = sorted(map(str, names))
    return ", ".join(shown[:_FEW]) + (", ..." if len(shown) > _FEW else "")


def _undeclared(name: str, declared: Mapping[str, Tree], section: bool) -> Problem:
    known = f"there are {few(declared)}" if declared else "it declares none"
    return Problem(
        f"-p {name}: the recipe has no such parameter: {known}{suggestion(name, declared)}",
        (_SECTION,) if section else (),
        of_key=section,
    )


def _values(
    declared: Mapping[str, Tree], given: Mapping[str, str], environ: Mapping[str, str]
) -> tuple[dict[str, str], list[Problem]]:
    """Return the value of each parameter that has a sound one; what is missing is a problem."""
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for name, tree in declared.items():
        if len(problems) >= MOST_FINDINGS:
            break
        path: Path = (_SECTION, name)
        if isinstance(tree, str):
            param: Param | None = Param(default=tree)
            place = path
        else:
            param, _ = decode(tree, Param, path)  # its problems are found with all others
            place = (*path, "default")
        if param is None:
            continue
        default = None
        if param.default is not None:
            try:
                default = _default(param.default, {} if name in given else environ, name in given)
            except _Unknown as error:
                problems.append(Problem(str(error), place))
                continue
        if name not in given and default is None:
            text = f"{name}: has no default, and is not given: -p {name}=VALUE"
            problems.append(Problem(f"{text}{_of(param)}", path, of_key=True))
            continue
        try:
            if name in given:
                values[name] = _judged(param.type, given[name])
            elif default is not None:
                values[name] = _judged(param.type, default)
        except UsageError as error:
            if name in given:
                problems.append(Problem(f"-p {name}={given[name]}: {error}", path, of_key=True))
            else:
                problems.append(Problem(str(error), place))
    return values, problems


def _of(param: Param) -> str:
    return f" ({param.description})" if param.description else ""


def _default(text: str, environ: Mapping[str, str], unused: bool) -> str:
    """Return a default; one that is not used may name variables that are not there.

    Raises: _Unknown  a reference that is none, or to a parameter.
    """

    def look_up(name: str) -> str:
        if not name.startswith(_ENVIRONMENT):
            raise _Unknown(
                f"${{{name}}}: a default cannot hold a parameter,"
                " only variables of the environment, as ${env:NAME}"
            )
        return "" if unused else _variable(name, environ)

    text = expanded(text, look_up)
    _judge_characters(text)
    return text


def _judged(type_: str, text: str) -> str:
    """Return a value that is one of its type. Raises: UsageError."""
    if len(text) > _LONGEST and _TYPES[type_] is not _some:
        raise UsageError(f"{text[:40]}...: is no {type_}")
    _TYPES[type_](text)
    return text


def _some(text: str) -> None:
    if not text:
        raise UsageError("is empty: give a value")


# type of a parameter -> what raises UsageError for a text that is none
_TYPES: dict[str, Callable[[str], object]] = {
    "string": _some,
    "path": _some,
    "address": _some,
    "integer": integer,
    "size": parse_size,
    "rate": parse_rate,
    "duration": parse_duration,
    "boolean": boolean,
}
