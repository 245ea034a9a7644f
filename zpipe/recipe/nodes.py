"""Nodes: an address as on the command line, or a mapping of a kind, its address and its options.

Every kind of the table has such a form, made from its name and its options: a kind whose form ends
in its colon has no address, and an option whose meaning begins with `1:` is true or false. Where a
node stands, and so whether it may, is known from the edges: `judged` is told.
"""

from __future__ import annotations

import re
import shlex

from zpipe.endpoints import KINDS, kind_of, parse
from zpipe.errors import UsageError
from zpipe.graph.model import Endpoint
from zpipe.graph.policy import OPTIONS as POLICIES
from zpipe.graph.policy import split_policy
from zpipe.recipe.decode import boolean, decode
from zpipe.recipe.document import MOST_FINDINGS
from zpipe.recipe.form import OnError
from zpipe.recipe.problems import Problem
from zpipe.recipe.wording import one_line
from zpipe.spelling import nearest, suggestion
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import EndpointKind
    from zpipe.recipe.params import Tree
    from zpipe.recipe.problems import Path

_ADDRESS = "address"
_ON_ERROR = "on_error"
_STANDARD = "-"  # not a key: as text it is short enough
_KEYS = (*(kind for kind in KINDS if kind != _STANDARD), _ADDRESS)
_ALLOWED = f"there are {', '.join(_KEYS[:-1])} and {_ADDRESS}"
_LONGEST = 8192  # characters of what is no command: more than any path or address has
_LONGEST_TEXT = 80  # characters of a command in messages


class Draft(Value):
    """A node whose place in the graph is not known yet.

    Its end is the `endpoint`, or what `text` names on the side where it turns out to stand.
    `place` is where the address is written.
    """

    id: str
    path: Path
    place: Path
    on_error: OnError | None = None
    text: str = ""
    endpoint: Endpoint | None = None


def draft(name: str, tree: Tree) -> tuple[Draft | None, list[Problem]]:
    """Return a node as far as it can be read; None where a problem is in the way."""
    path: Path = ("nodes", name)
    if isinstance(tree, str):
        found = _judged_text(tree, path)
        return (None, found) if found else (Draft(name, path, path, text=tree), [])
    if not isinstance(tree, dict):
        what = "has no value" if tree is None else "is a list"
        return None, [
            Problem(f"{name}: {what}: give an address, or a mapping like {{file: PATH}}", path)
        ]
    problems: list[Problem] = []
    on_error = None
    if _ON_ERROR in tree:
        on_error, wrong = decode(tree[_ON_ERROR], OnError, (*path, _ON_ERROR))
        problems += wrong
    keys = [key for key in tree if key in KINDS and key != _STANDARD]
    if _ADDRESS in tree:
        made = _of_address(name, tree, path, problems)
    elif not keys:
        problems += _no_kind(name, tree, path)
        made = None
    else:
        made = _of_kind(name, tree, path, keys, problems)
    if made is None or problems:
        return None, problems
    text, endpoint = made
    place = (*path, _ADDRESS if endpoint is None else endpoint.kind)
    return Draft(name, path, place, on_error, text, endpoint), []


def judged(node: Draft, *, sink: bool) -> tuple[Endpoint | None, list[Problem]]:
    """Return the end of a node that is written (`sink`) or read, judged for that side."""
    endpoint = node.endpoint
    try:
        if endpoint is None:
            endpoint = parse(node.text, sink=sink)
            return replace(endpoint, text=_in_one_line(endpoint.text)), []
        kind = kind_of(endpoint.kind)
        if not (kind.sink if sink else kind.source):
            raise UsageError(f"{endpoint.text}: cannot be a {'sink' if sink else 'source'}")
        kind.check(endpoint, sink=sink)
    except UsageError as error:
        return None, [Problem(str(error), _place(node, str(error)))]
    return endpoint, []


def _place(node: Draft, text: str) -> Path:
    """Return where what a kind complains of is written: at the option that it names, if any."""
    endpoint = node.endpoint
    if endpoint is None:
        return node.place
    found = re.match(r": option (\w+):", text.removeprefix(endpoint.text))
    if found and found[1] in endpoint.options:
        return (*node.path, found[1])
    return node.place


def _judged_text(text: str, path: Path) -> list[Problem]:
    """Return a problem for an address that is too long, or has options that edges have here."""
    if len(text) > _LONGEST and not text.startswith("exec:"):
        return [Problem(_too_long(text), path)]
    try:
        _, options = split_policy(text)
    except UsageError as error:
        return [Problem(str(error), path)]
    if not options:
        return []
    return [
        Problem(
            f"{text}: {next(iter(options))} is an option of edges: write it there;"
            " if it belongs to the name of a file, write {file: PATH}",
            path,
        )
    ]


def _of_address(
    name: str, tree: dict[str, Tree], path: Path, problems: list[Problem]
) -> tuple[str, Endpoint | None] | None:
    """Read `{address: TEXT, on_error: ...}`."""
    text = tree[_ADDRESS]
    for key in list(tree)[:MOST_FINDINGS]:
        if key in KINDS:
            both = f"{name}: has an address and {key}: give one of them"
            problems.append(Problem(both, (*path, key), of_key=True))
        elif key not in (_ADDRESS, _ON_ERROR):
            problems.append(
                _unknown(key, path, (_ADDRESS, _ON_ERROR), "options stand in the address")
            )
    if not isinstance(text, str):
        problems.append(Problem(f"address: {_not_text(text)}", (*path, _ADDRESS)))
        return None
    problems += _judged_text(text, (*path, _ADDRESS))
    return text, None


def _of_kind(
    name: str, tree: dict[str, Tree], path: Path, keys: list[str], problems: list[Problem]
) -> tuple[str, Endpoint | None] | None:
    """Read `{KIND: ADDRESS, OPTION: VALUE, on_error: ...}`."""
    kinds = [kind_of(key) for key in keys]
    leading = [kind for kind in kinds if all(o in kind.options for o in keys if o != kind.name)]
    if len(leading) != 1:
        text = f"{name}: is {' and '.join(keys)} at once: give one of them"
        problems.append(Problem(text, (*path, keys[1]), of_key=True))
        return None
    kind = leading[0]
    options: dict[str, str] = {}
    for key, value in list(tree.items())[:MOST_FINDINGS]:
        if key in (kind.name, _ON_ERROR):
            continue
        if key in POLICIES:
            text = f"{key}: is an option of edges: write it there"
            problems.append(Problem(text, (*path, key), of_key=True))
        elif key not in kind.options:
            known = (*kind.options, _ON_ERROR)
            problems.append(_unknown(key, path, known, f"{kind.name} has {', '.join(known)}"))
        else:
            options[key] = _option(kind, key, value, (*path, key), problems)
    address, text = _address(kind, tree[kind.name], (*path, kind.name), problems)
    return text, Endpoint(text, kind.name, address, options)


def _address(
    kind: EndpointKind, value: Tree, path: Path, problems: list[Problem]
) -> tuple[str, str]:
    """Return the address of a node, and what messages call it."""
    name = kind.name
    if without_address(kind):
        if value != "true":
            problems.append(Problem(f"{name}: has no address: write {name}: true", path))
        return "", kind.form
    if name == "exec" and isinstance(value, list):
        return _command(value, path, problems)
    if not isinstance(value, str):
        problems.append(Problem(f"{name}: {_not_text(value)}", path))
        return "", name
    if value.startswith(f"{name}:") and name not in ("exec", "pattern"):
        bare = value.removeprefix(f"{name}:").removeprefix("//")
        text = f"{name}: {value}: the key says already what it is: write {name}: {bare}"
        problems.append(Problem(text, path))
    elif len(value) > _LONGEST and name != "exec":
        problems.append(Problem(f"{name}: {_too_long(value)}", path))
    return value, shown(kind, value)


def _command(words: list[Tree], path: Path, problems: list[Problem]) -> tuple[str, str]:
    """Return a command that the kind splits into these very words again."""
    for n, word in enumerate(words):
        if not isinstance(word, str):
            problems.append(Problem(f"exec: {_not_text(word)}", (*path, n)))
    if not words or words[0] == "":
        problems.append(Problem("exec: give a command, and its arguments", path))
    address = shlex.join(map(str, words))
    return address, shown(kind_of("exec"), address)


def shown(kind: EndpointKind, address: str) -> str:
    """Return an address as the command line has it; a command in one line, and not all of it."""
    if kind.name == "file":
        return _in_one_line(address)
    slashes = "//" if "://" in kind.form else ""
    return _in_one_line(f"{kind.name}:{slashes}{address}")


def _in_one_line(text: str) -> str:
    if text.startswith("exec:"):
        text = " ".join(text.split())
        if len(text) > _LONGEST_TEXT:
            text = f"{text[: _LONGEST_TEXT - 3]}..."
    return one_line(text)


def without_address(kind: EndpointKind) -> bool:
    """Tell whether a kind is all there is to say."""
    return kind.form.endswith(":")


def is_flag(kind: EndpointKind, option: str) -> bool:
    """Tell whether an option is on or off."""
    return kind.options[option].startswith("1:")


def _option(kind: EndpointKind, name: str, value: Tree, path: Path, problems: list[Problem]) -> str:
    if not isinstance(value, str):
        problems.append(Problem(f"{name}: {_not_text(value)}", path))
        return ""
    if is_flag(kind, name):
        try:
            return value if value in ("0", "1") else str(int(boolean(value)))
        except UsageError as error:
            problems.append(Problem(f"{name}: {error}", path))
    if not value:
        problems.append(Problem(f"{name}: is empty: give a value", path))
    if len(value) > _LONGEST:
        problems.append(Problem(f"{name}: {_too_long(value)}", path))
    return value


def _too_long(text: str) -> str:
    return f"{text[:40]}...: is longer than {_LONGEST} characters"


def _not_text(value: Tree) -> str:
    if value is None:
        return "has no value"
    return f"is a {'list' if isinstance(value, list) else 'mapping'}, and must be text"


def _unknown(key: str, path: Path, known: tuple[str, ...], allowed: str) -> Problem:
    text = f"{key}: unknown key: {allowed}{suggestion(key, known)}"
    return Problem(text, (*path, key), of_key=True)


def _no_kind(name: str, tree: dict[str, Tree], path: Path) -> list[Problem]:
    for key in list(tree)[:MOST_FINDINGS]:
        near = nearest(key, _KEYS)
        if near:
            text = f"{key}: unknown key: did you mean {near}? {_ALLOWED}"
            return [Problem(text, (*path, key), of_key=True)]
    return [Problem(f"{name}: names no kind: {_ALLOWED}", path)]
