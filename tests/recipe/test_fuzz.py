"""The whole loader on recipes that somebody, or something, has broken.

It builds, or it says what is wrong, each in one line with a place in the file: never anything else.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.machine import ROOT
from tests.recipe.test_manual import EXAMPLES, unescaped
from zpipe.recipe.document import parse
from zpipe.recipe.load import loads
from zpipe.recipe.problems import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXTS = [unescaped(text) for _, text in EXAMPLES] + [
    path.read_text() for path in sorted((ROOT / "recipes").glob("*.yaml"))
]
ENVIRON = {"HOME": "/home/user"}


def with_values(text: str) -> Any:
    """Return the tree of a recipe; a parameter that must be given has a default."""
    tree: Any = parse(text.encode(), "r.yaml").tree
    for param in tree.get("params", {}).values():
        if isinstance(param, dict):
            param.setdefault("default", "9000")
    return tree


TREES = [with_values(text) for text in TEXTS]
HOSTILE = [
    "", " ", "-", "~", "null", "true", "on", "no", "0", "-1", "1", "0640", "0x10", "1e3", "22:22",
    "1_000", "1.0", "9" * 30, "5Q", "1G", "-5s", "never", "detach", "a -> b", "->", "a ->",
    "a, b", "a -> a", "disk -> disk", "${", "${}", "${HOST}", "${env:HOME}", "${env:NOPE}", "$${",
    "${A B}", "tcp://", "tcp://h", "tcp://h:1", "tcp://[::1:1", "tcp-listen://:0", "unix:",
    "unix:@", "fd:", "fd:-1", "fd:3", "exec:", "exec:'", "null:", "null:x", "zero:?size=x",
    "hash:", "hash:md5", "pattern:", "file:", "file:?offset=1", "ftp://x", "x?when_full=spill",
    "x?when_full=", "?", "&", "*", ":", ":80", "*:80", "h:99999", "::1", "[::1]:80",
    "10.0.0.0/33", "10.0.0.1/8", "*.*", "\\q", "\\x2c", "5%", "101%", "p-%04d", "%", "\n", "a\nb",
    "\t", "\x85", "\u2028", "\ufeff", "é", "\x7f", "/dev/null", "/", ".", "..", "x" * 200,
    "/" * 200, "'", "', ", ", ", ", ", ", ", ", ", ", ",
]  # fmt: skip

Tree = Any
Change = tuple[str, int, int, str]


def judge(data: bytes) -> bool:
    """Load a recipe, and tell whether it is sound. Raises: whatever it must not raise."""
    try:
        loads(data, "r.yaml", {}, ENVIRON)
    except RecipeError as error:
        lines = data.decode("utf-8", "replace").count("\n") + data.count(b"\r") + 2
        assert error.findings
        for found in error.findings:
            assert found.file == "r.yaml"
            assert 1 <= found.line <= lines
            assert found.column >= 1
            assert found.text.strip()
            assert str(found).isprintable()
            assert len(found.text) < 1000
        assert len(str(error).splitlines()) == len(error.findings)
        return False
    return True


def places(tree: Tree) -> Iterator[tuple[Tree, Any]]:
    """Yield each mapping and list of a tree with each of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from places(tree[key])


def delete(tree: Tree, key: Any, _: Tree, __: str) -> None:
    del tree[key]


def replace(tree: Tree, key: Any, _: Tree, text: str) -> None:
    tree[key] = text


def empty(tree: Tree, key: Any, _: Tree, __: str) -> None:
    tree[key] = None


def wrap(tree: Tree, key: Any, _: Tree, text: str) -> None:
    tree[key] = [tree[key], text]


def move(tree: Tree, key: Any, other: Tree, text: str) -> None:
    if isinstance(other, dict):
        other[text or "x"] = json.loads(json.dumps(tree[key]))
    else:
        other.append(json.loads(json.dumps(tree[key])))


def rename(tree: Tree, key: Any, _: Tree, text: str) -> None:
    if isinstance(tree, dict):
        tree[text] = tree.pop(key)


CHANGES: dict[str, Callable[[Tree, Any, Tree, str], None]] = {
    each.__name__: each for each in (delete, replace, empty, wrap, move, rename)
}


def changed(tree: Tree, changes: list[Change]) -> Tree:
    """Return a copy of a tree after some changes at places that numbers choose."""
    tree = json.loads(json.dumps(tree))
    for name, first, second, text in changes:
        there = list(places(tree))
        if not there:
            break
        holder, key = there[first % len(there)]
        other, _ = there[second % len(there)]
        CHANGES[name](holder, key, other, text)
    return tree


@pytest.mark.parametrize("tree", TREES, ids=range(len(TREES)))
def test_unbroken_recipes_are_sound(tree: Tree) -> None:
    # JSON is YAML: so trees can be written down without a writer of YAML
    loads(json.dumps(tree).encode(), "r.yaml", {}, ENVIRON)


numbers = st.integers(0, 1000)
words = st.sampled_from(HOSTILE) | st.sampled_from(
    ["a", "disk", "copy", "host", "file", "tcp", "exec", "address", "on_error", "mode", "zpipe"]
)
mutations = st.lists(
    st.tuples(st.sampled_from(sorted(CHANGES)), numbers, numbers, words), min_size=1, max_size=4
)


@settings(max_examples=300)
@given(st.sampled_from(TREES), mutations)
def test_recipes_with_parts_lost_moved_renamed_and_replaced(
    tree: Tree, changes: list[Change]
) -> None:
    judge(json.dumps(changed(tree, changes)).encode())


@settings(max_examples=200)
@given(st.sampled_from(TEXTS), st.lists(st.tuples(numbers, st.integers(0, 3), words), max_size=3))
def test_recipes_with_characters_lost_and_put_in(
    text: str, changes: list[tuple[int, int, str]]
) -> None:
    for place, count, word in changes:
        at = place % (len(text) + 1)
        text = text[:at] + word + text[at + count :]
    judge(text.encode())


@settings(max_examples=100)
@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))
)
def test_whatever_there_is(data: bytes) -> None:
    assert not judge(data)


@settings(max_examples=100)
@given(st.sampled_from(HOSTILE), st.sampled_from(HOSTILE), st.sampled_from(HOSTILE))
def test_hostile_values_everywhere(one: str, two: str, three: str) -> None:
    recipe = {
        "zpipe": "1",
        "params": {"HOST": one},
        "nodes": {"a": two, "b": {"file": three, "offset": one}, "c": {"exec": [one, two]}},
        "edges": ["a -> b", {"from": "a", "to": "c", "limit": two, "via": three}],
        "proxies": {"p": {"listen": one, "upstreams": [two, {"address": three}], "capture": two}},
        "metrics": three,
    }
    judge(json.dumps(recipe).encode())


def test_a_mapping_of_a_billion_laughs_is_refused() -> None:
    lines = ["zpipe: 1", "nodes:", "  a0: &a0 {file: x}"]
    for level in range(1, 12):
        lines.append(f"  a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    with pytest.raises(RecipeError, match="more than 100,000 values"):
        loads("\n".join(lines).encode(), "r.yaml", {}, {})


def test_a_billion_laughs_of_references_is_refused() -> None:
    lines = ["zpipe: 1", f"params: {{A: {'x' * 10_000}}}", f"name: {'${A}' * 10_000}"]
    lines += ["nodes: {a: x, b: y}", "edges: [a -> b]"]
    with pytest.raises(RecipeError, match="references become more than 4 MiB"):
        loads("\n".join(lines).encode(), "r.yaml", {}, {})


def test_edges_that_would_be_millions_are_refused() -> None:
    names = [f"n{number}" for number in range(4000)]
    nodes = "".join(f"  {name}: x\n" for name in names)
    edge = f"{', '.join(names[:2000])} -> {', '.join(names[2000:])}"
    text = f"zpipe: 1\nnodes:\n{nodes}edges:\n  - {edge}\n"
    with pytest.raises(RecipeError, match="these are more than 10,000 edges"):
        loads(text.encode(), "r.yaml", {}, {})


def test_a_thousand_nodes() -> None:
    chain = "".join(f"  n{number}: {{exec: [cat]}}\n" for number in range(998))
    edges = "".join(f"  - n{number} -> n{number + 1}\n" for number in range(997))
    text = f"zpipe: 1\nnodes:\n  a: x\n  z: y\n{chain}edges:\n  - a -> n0\n{edges}  - n997 -> z\n"
    made = loads(text.encode(), "r.yaml", {}, {}).graph
    assert made is not None
    assert (len(made.nodes), len(made.edges)) == (1000, 999)
