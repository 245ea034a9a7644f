"""A tree of a document to values of the types of `recipe.form`; all that is wrong, at once.

What may stand at a place is chosen by the shape of what stands there: a text, a mapping or a list.
So a mapping that is no good upstream is judged as an upstream, and not as whatever else is allowed.
A scalar is text until the type of its field reads it: numbers and truth values are taken in one
spelling only, and where YAML 1.1 would have read another the message says what. Knows no places,
only paths; opens nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, overload

import msgspec
from msgspec import inspect

from zpipe.errors import UsageError
from zpipe.recipe.form import VERSION, Recipe
from zpipe.recipe.problems import Problem
from zpipe.recipe.wording import one_line, shown
from zpipe.spelling import nearest, one_of, suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, TypeVar

    from zpipe.recipe.problems import Path

    T = TypeVar("T")

_SHORT = 70  # characters: so many names of keys are told besides a suggestion
_MOST_SUGGESTIONS = 50
_MOST_DIGITS = 18
_LONGEST_READ = 400  # characters of a name or a quantity

_TRUTH = {"true": True, "false": False}
_TRUTH_OF_YAML = dict.fromkeys(("y", "yes", "on", "true"), "true") | dict.fromkeys(
    ("n", "no", "off", "false"), "false"
)
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)")
_BASES = (
    (re.compile(r"0b[01_]+"), 2, "binary"),
    (re.compile(r"0[0-7_]+"), 8, "octal"),
    (re.compile(r"0x[0-9a-fA-F_]+"), 16, "hexadecimal"),
)
_BASE_60 = re.compile(r"[0-9][0-9_]*(?::[0-5]?[0-9])+")
_WHOLE_FRACTION = re.compile(r"([0-9][0-9_]*)\.0*")


@overload
def decode(tree: object, type_: type[T], path: Path = ()) -> tuple[T | None, list[Problem]]: ...
@overload
def decode(tree: object, type_: Any, path: Path = ()) -> tuple[Any, list[Problem]]: ...
def decode(tree: object, type_: Any, path: Path = ()) -> tuple[Any, list[Problem]]:
    """Return what `tree` says as a value of `type_`, and all that is wrong with it, by path.

    type_: a Struct, or a union, dict or tuple of such, of texts, literals, integers and truths;
    Any takes a part of the tree as it is. `path` is where the tree itself stands.
    Returns: the value, None where there is any problem; the problems.
    """
    problems: list[Problem] = []
    value = _form(type_).read(tree, path, problems)
    if problems:
        return None, problems
    try:
        return msgspec.convert(value, type_), []
    except msgspec.ValidationError as error:  # a bound that only the type itself knows
        return None, [Problem(one_line(str(error)), path)]


def boolean(text: str) -> bool:
    """Return what `true` or `false` says. Raises: UsageError  it is neither."""
    if text in _TRUTH:
        return _TRUTH[text]
    meant = _TRUTH_OF_YAML.get(text.lower())
    if meant is None:
        raise UsageError(f"{shown(text)}: give true or false{suggestion(text, _TRUTH)}")
    if text.lower() == meant:
        raise UsageError(f"{text}: write {meant}, in small letters")
    raise UsageError(f"{text}: YAML 1.1 would read {meant} here: write {meant}")


def integer(text: str, least: int | None = None, most: int | None = None) -> int:
    """Return a whole number that is written in plain decimal.

    Raises: UsageError  it is none, or out of bounds.
    """
    allowed = _bounds(least, most)
    if not _DECIMAL.fullmatch(text):
        raise UsageError(f"{shown(text)}: {_of_yaml(text) or f'not a whole number: {allowed}'}")
    if len(text) > _MOST_DIGITS:
        raise UsageError(f"{shown(text)}: too large: {allowed}")
    number = int(text)
    if (least is not None and number < least) or (most is not None and number > most):
        raise UsageError(f"{text}: {allowed}")
    return number


def _bounds(least: int | None, most: int | None) -> str:
    if least is None:
        return "give a whole number" if most is None else f"give at most {most}"
    return f"give {least} or more" if most is None else f"give {least} to {most}"


def _of_yaml(text: str) -> str | None:
    """Return what YAML 1.1 would have made of a text that is no plain number, and what to write."""
    sign, bare = ("-", text[1:]) if text[:1] == "-" else ("", text.removeprefix("+"))
    if len(bare) > _MOST_DIGITS:
        return None
    for pattern, base, word in _BASES:
        digits = bare.replace("_", "")
        if pattern.fullmatch(bare) and digits not in ("0b", "0x"):
            read = f"{sign}{int(digits, base)}" if digits != "0" else "0"
            other = f" or {sign}{digits.lstrip('0')}" if base == 8 and digits.strip("0") else ""
            return f"YAML 1.1 would read {read} here ({word}): write {read}{other}"
    if _BASE_60.fullmatch(bare):
        number = 0
        for part in bare.replace("_", "").split(":"):
            number = number * 60 + int(part)
        return f"YAML 1.1 would read {sign}{number} here (base 60): write {sign}{number}"
    if whole := _WHOLE_FRACTION.fullmatch(bare):
        number = int(whole[1].replace("_", ""))
        return f"YAML 1.1 would read a fraction here: write {sign}{number}"
    if re.fullmatch(r"[0-9][0-9_]*", bare):
        number = int(bare.replace("_", ""))
        if bare.startswith("0"):  # 08: no octal number
            return f"YAML 1.1 would read a text here: write {sign}{number}"
        return f"YAML 1.1 would read {sign}{number} here: write {sign}{number}"
    return None


def _version(text: str) -> int:
    if text == str(VERSION):
        return VERSION
    if _DECIMAL.fullmatch(text):
        raise UsageError(f"zpipe: {shown(text)}: this zpipe knows version {VERSION}")
    raise UsageError(f"zpipe: {shown(text)}: not a version: write zpipe: {VERSION}")


def _label(path: Path) -> str:
    """Return how messages call what stands at a path."""
    if not path:
        return "the recipe"
    last = path[-1]
    if isinstance(last, str):
        return shown(last)
    return f"entry {last + 1} of {_label(path[:-1])}" if len(path) > 1 else f"entry {last + 1}"


class _Form:
    """What may stand at a place, by its shape: compiled from a type, once."""

    __slots__ = ("anything", "entry", "mapping", "text")

    def __init__(self) -> None:
        self.anything = False
        self.text: Callable[[str], object] | None = None
        self.mapping: _Struct | _Table | None = None
        self.entry: _Form | None = None  # of a list

    def read(self, tree: object, path: Path, problems: list[Problem]) -> object:
        """Return the value that `tree` stands for; without meaning where problems were added."""
        if self.anything:
            return tree
        if isinstance(tree, str) and self.text is not None:
            return _judged(self.text, tree, path, False, problems)
        if isinstance(tree, dict) and self.mapping is not None:
            return self.mapping.read(tree, path, problems)
        if isinstance(tree, list) and self.entry is not None:
            read = self.entry.read
            return [read(one, (*path, at), problems) for at, one in enumerate(tree)]
        if tree is None:
            problems.append(Problem(f"{_label(path)} has no value: give {self.allowed()}", path))
        else:
            text = f"{_label(path)}: found {_found(tree)}: give {self.allowed()}"
            problems.append(Problem(text, path))
        return None

    def allowed(self) -> str:
        shapes = (
            "a text" if self.text is not None else "",
            "a mapping" if self.mapping is not None else "",
            "a list" if self.entry is not None else "",
        )
        return " or ".join(filter(None, shapes))


class _Struct:
    """A mapping whose keys are known."""

    def __init__(self) -> None:
        self.fields: dict[str, _Form] = {}
        self.required: list[str] = []

    def read(self, tree: dict[str, Any], path: Path, problems: list[Problem]) -> dict[str, Any]:
        fields, values, meant = self.fields, {}, set()
        for key, value in tree.items():
            form = fields.get(key)
            if form is not None:
                values[key] = form.read(value, (*path, key), problems)
                continue
            near = None
            if len(problems) < _MOST_SUGGESTIONS:
                near = nearest(key, [name for name in fields if name not in tree])
                meant.add(near)
            text = f"{shown(key)}: unknown key{self._known(key, near)}"
            problems.append(Problem(text, (*path, key), of_key=True))
        for key in self.required:
            if key not in tree and key not in meant:
                problems.append(Problem(_missing(key, path), path))
        return values

    def _known(self, key: str, near: str | None) -> str:
        name, colon, value = key.partition(":")
        if colon and name in self.fields:
            return f": put a space behind the colon: {name}: {shown(value)}"
        names = ", ".join(self.fields)
        if near is None:
            return f": known are {names}"
        return f": did you mean {near}?" + (f" known are {names}" if len(names) < _SHORT else "")


class _Table:
    """A mapping whose keys are names that the user chose."""

    def __init__(self, key: Callable[[str], object], value: _Form) -> None:
        self.key, self.value = key, value

    def read(self, tree: dict[str, Any], path: Path, problems: list[Problem]) -> dict[str, Any]:
        values = {}
        for key, value in tree.items():
            below = (*path, key)
            _judged(self.key, key, below, True, problems)
            values[key] = self.value.read(value, below, problems)
        return values


def _judged(
    read: Callable[[str], object], text: str, path: Path, of_key: bool, problems: list[Problem]
) -> object:
    try:
        return read(text)
    except UsageError as error:
        said = str(error)
        if said.startswith(text):  # it may be long, or of several lines
            said = shown(text) + said[len(text) :]
        problems.append(Problem(one_line(said), path, of_key))
        return None


def _missing(key: str, path: Path) -> str:
    if key == "zpipe" and not path:
        return f"zpipe is missing: begin the recipe with zpipe: {VERSION}"
    return f"{_label(path)}: {key} is missing"


def _found(tree: object) -> str:
    if isinstance(tree, str):
        return f"the text {shown(tree)}"
    if isinstance(tree, dict):
        return "a mapping"
    return "a list" if isinstance(tree, list) else "no part of a document"


# types to forms

_forms: dict[Any, _Form] = {}
_structs: dict[type, _Struct] = {}


def _form(type_: Any) -> _Form:
    try:
        return _forms[type_]
    except KeyError:
        form = _forms[type_] = _compiled(inspect.type_info(type_))
        return form


def _compiled(info: inspect.Type) -> _Form:
    form = _Form()
    for kind in info.types if isinstance(info, inspect.UnionType) else (info,):
        if isinstance(kind, inspect.AnyType):
            form.anything = True
        elif isinstance(kind, inspect.StructType):
            form.mapping = _struct(kind)
        elif isinstance(kind, inspect.DictType):
            form.mapping = _Table(_reader(kind.key_type), _compiled(kind.value_type))
        elif isinstance(kind, (inspect.VarTupleType, inspect.ListType)):
            form.entry = _compiled(kind.item_type)
        elif not isinstance(kind, inspect.NoneType):  # that is for what is left out
            if form.text is not None:
                raise TypeError(f"{info}: two kinds of text, and none says which of them it is")
            form.text = _reader(kind)
    return form


def _struct(info: inspect.StructType) -> _Struct:
    if info.cls not in _structs:
        struct = _structs[info.cls] = _Struct()  # known before its fields are: one may hold it
        struct.fields = {field.encode_name: _compiled(field.type) for field in info.fields}
        struct.required = [field.encode_name for field in info.fields if field.required]
        if info.cls is Recipe:
            struct.fields["zpipe"].text = _version
    return _structs[info.cls]


def _reader(info: inspect.Type) -> Callable[[str], object]:
    """Return what reads a text, as the type says; it raises UsageError."""
    if isinstance(info, inspect.Metadata):
        read = (info.extra or {}).get("read")
        return _reader(info.type) if read is None else _checked(read)
    if isinstance(info, inspect.StrType):
        return str
    if isinstance(info, inspect.BoolType):
        return boolean
    if isinstance(info, inspect.IntType):
        least, most = info.ge, info.le
        return lambda text: integer(text, least, most)
    if isinstance(info, inspect.LiteralType):
        return _choice(info.values)
    raise TypeError(f"{info}: no form of a recipe")


def _checked(read: Callable[[str], object]) -> Callable[[str], str]:
    """Return what asks `read` whether it understands a text, and leaves it as it is."""

    def check(text: str) -> str:
        if len(text) > _LONGEST_READ:  # some readers take the square of the length
            raise UsageError(f"{shown(text)}: too long: give {_LONGEST_READ} characters at most")
        read(text)
        return text

    return check


def _choice(values: Iterable[object]) -> Callable[[str], object]:
    known = {str(value): value for value in values}

    def choose(text: str) -> object:
        if text not in known:
            raise UsageError(f"{shown(text)}: give {one_of(text, known)}")
        return known[text]

    return choose
