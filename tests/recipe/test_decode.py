"""Trees to the form of a recipe: every mistake is told, at once, where it is."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta, Struct

from zpipe.errors import UsageError
from zpipe.recipe.decode import boolean, decode, integer
from zpipe.recipe.document import parse
from zpipe.recipe.form import (
    Defaults,
    Edge,
    Mirror,
    Name,
    Names,
    Proxy,
    Recipe,
    Service,
    Texts,
    Upstream,
    Upstreams,
)
from zpipe.recipe.problems import Problem, RecipeError


def told(text: str) -> list[str]:
    """Return all that is wrong with a recipe, in its places."""
    document = parse(text.encode(), "f")
    value, problems = decode(document.tree, Recipe)
    assert value is None
    error = RecipeError([document.finding(problem) for problem in problems])
    return str(error).split("\n")


def wrong(tree: object, type_: Any) -> list[str]:
    value, problems = decode(tree, type_, ("here",))
    assert value is None
    assert all(problem.path[0] == "here" for problem in problems)
    return [problem.text for problem in problems]


VALID: dict[str, Any] = {
    "zpipe": "1",
    "name": "nightly",
    "params": {"SOURCE": {"type": "path", "default": "/x"}, "HOST": "h", "PORT": {}},
    "nodes": {"disk": "${SOURCE}", "copy": {"file": "/y", "anything": ["a", None]}, "last": "-"},
    "edges": [
        "disk -> copy",
        {"from": "disk", "to": ["copy", "last"], "when_full": "spill", "spill_max": "1G"},
        {"from": ["disk"], "to": "last", "stable": "true", "sync": "false", "merge": "as-ready"},
    ],
    "defaults": {"when_full": "block", "on_error": "detach"},
    "proxies": {
        "db": {
            "listen": "127.0.0.1:5432",
            "upstreams": ["10.0.0.1:5432", {"address": "10.0.0.2:5432", "weight": "2"}],
            "route_sni": {"a.example": "h:1", "b.example": {"address": "h:2"}, "c": ["h:3"]},
            "mirrors": {"address": "h:4", "queue": "1M"},
            "accept_proxy": "no",
            "capture": "/captures",
            "limits": {"connections": "100", "allow": ["10.0.0.0/8"]},
            "timeouts": {"idle": "5m", "half_closed": "never"},
            "splice": "false",
        },
        "web": {"listen": [":80", "unix:/x"], "upstreams": "h:5", "capture": {"directory": "/c"}},
    },
    "service": {"workers": "2"},
    "metrics": "127.0.0.1:9100",
}


def test_a_whole_recipe() -> None:
    before = copy.deepcopy(VALID)
    recipe, problems = decode(VALID, Recipe)
    assert problems == []
    assert recipe is not None
    assert before == VALID
    assert recipe.zpipe == 1
    assert recipe.params["HOST"] == "h"
    assert recipe.params["PORT"].default is None  # type: ignore[union-attr]
    assert recipe.nodes == VALID["nodes"]
    assert recipe.edges == (
        "disk -> copy",
        Edge(from_="disk", to=("copy", "last"), when_full="spill", spill_max="1G"),
        Edge(from_=("disk",), to="last", stable=True, sync=False, merge="as-ready"),
    )
    assert recipe.defaults == Defaults(when_full="block", on_error="detach")
    db, web = recipe.proxies["db"], recipe.proxies["web"]
    assert db.upstreams == ("10.0.0.1:5432", Upstream(address="10.0.0.2:5432", weight=2))
    assert db.route_sni == {
        "a.example": "h:1",
        "b.example": Upstream(address="h:2"),
        "c": ("h:3",),
    }
    assert db.mirrors == Mirror(address="h:4", queue="1M")
    assert db.accept_proxy == "no"
    assert db.splice is False
    assert db.limits is not None
    assert db.limits.connections == 100
    assert web.listen == (":80", "unix:/x")
    assert web.splice is True
    assert recipe.service == Service(workers=2)


def test_what_is_left_out_has_its_default() -> None:
    assert decode({"zpipe": "1"}, Recipe) == (Recipe(zpipe=1), [])


@pytest.mark.parametrize(
    ("tree", "type_", "value"),
    [
        ("h:1", Upstreams, "h:1"),
        (["h:1", {"address": "h:2"}], Upstreams, ("h:1", Upstream(address="h:2"))),
        ({"address": "h:2"}, Upstreams, Upstream(address="h:2")),
        ([], Texts, ()),
        ("a", Names, "a"),
        ({"a": None, "b": [{}]}, dict[Name, Any], {"a": None, "b": [{}]}),
        (None, Any, None),
        ("null", str, "null"),
        ("", str, ""),
        ("17", int, 17),
        (["1", "2"], tuple[int, ...], (1, 2)),
        ("b", Literal["a", "b"], "b"),
    ],
)
def test_other_types_than_recipes(tree: object, type_: Any, value: object) -> None:
    assert decode(tree, type_) == (value, [])


@pytest.mark.parametrize("text", ["null", "true", "1", "~", "0640", "1e3"])
def test_texts_stay_as_they_are(text: str) -> None:
    recipe, _ = decode({"zpipe": "1", "metrics": text, "name": text}, Recipe)
    assert recipe is not None
    assert (recipe.metrics, recipe.name) == (text, text)


# one mistake each

ONE_MISTAKE = [
    # the version
    ("name: x", "f:1:1: zpipe is missing: begin the recipe with zpipe: 1"),
    ("zpipe: 2", "f:1:8: zpipe: 2: this zpipe knows version 1"),
    ("zpipe: 0", "f:1:8: zpipe: 0: this zpipe knows version 1"),
    ("zpipe: 1.0", "f:1:8: zpipe: 1.0: not a version: write zpipe: 1"),
    ("zpipe: one", "f:1:8: zpipe: one: not a version: write zpipe: 1"),
    ("zpipe: [1]", "f:1:8: zpipe: found a list: give a text"),
    ("zipe: 1", "f:1:1: zipe: unknown key: did you mean zpipe?"),
    # keys
    (
        "zpipe: 1\nedges:\n- {from: a, to: b, whenfull: spill}",
        "f:3:20: whenfull: unknown key: did you mean when_full?",
    ),
    (
        "zpipe: 1\nedges:\n- {from: a, to: b, When-Full: spill}",
        "f:3:20: When-Full: unknown key: did you mean when_full?",
    ),
    (
        "zpipe: 1\nedges:\n- {form: a, to: b}",
        "f:3:4: form: unknown key: did you mean from?",
    ),
    (
        "zpipe: 1\nproxies: {p: {listen: ':1', upstreams: {adress: 'h:1'}}}",
        "f:2:41: adress: unknown key: did you mean address? known are address, weight",
    ),
    (
        "zpipe: 1\nparams: {A: {colour: x}}",
        "f:2:14: colour: unknown key: known are type, default, description",
    ),
    (
        "zpipe: 1\nservice: {workers:2}",
        "f:2:11: workers:2: unknown key: put a space behind the colon: workers: 2",
    ),
    (
        'zpipe: 1\n"a\\nb": c',
        "f:2:1: a\\nb: unknown key: known are zpipe, name, description, params,"
        " nodes, edges, proxies, defaults, service, metrics",
    ),
    ("zpipe: 1\nedges:\n- from: a", "f:3:3: entry 1 of edges: to is missing"),
    ("zpipe: 1\nproxies: {p: {}}", "f:2:14: p: listen is missing"),
    (
        "zpipe: 1\nnodes: {a b: x}",
        "f:2:9: a b: not a name: give letters, digits, _ . and -, a letter first",
    ),
    (
        "zpipe: 1\nparams: {A-B: x}",
        "f:2:10: A-B: not a name: give letters, digits and _, a letter first",
    ),
    # nothing
    ("zpipe:", "f:1:7: zpipe has no value: give a text"),
    ("zpipe: 1\nnodes:\n", "f:2:7: nodes has no value: give a mapping"),
    (
        "zpipe: 1\nedges:\n  - a -> b\n  -\n",
        "f:4:4: entry 2 of edges has no value: give a text or a mapping",
    ),
    ("zpipe: 1\nmetrics: ~", "f:2:10: metrics has no value: give a text"),
    (
        "zpipe: 1\ndefaults: {limit: null}",
        "f:2:19: limit has no value: give a text",
    ),
    # shapes
    ("zpipe: 1\nedges: a -> b", "f:2:8: edges: found the text a -> b: give a list"),
    ("zpipe: 1\nedges: {a: b}", "f:2:8: edges: found a mapping: give a list"),
    ("zpipe: 1\nedges: [[a]]", "f:2:9: entry 1 of edges: found a list: give a text or a mapping"),
    ("zpipe: 1\nname: [a]", "f:2:7: name: found a list: give a text"),
    ("zpipe: 1\nservice: 2", "f:2:10: service: found the text 2: give a mapping"),
    (
        "zpipe: 1\nproxies: {p: {listen: {a: b}}}",
        "f:2:23: listen: found a mapping: give a text or a list",
    ),
    (
        "zpipe: 1\nproxies: {p: {listen: ':1', upstreams: ['h:1', ['h:2']]}}",
        "f:2:48: entry 2 of upstreams: found a list: give a text or a mapping",
    ),
    # values
    (
        "zpipe: 1\ndefaults: {when_full: fast}",
        "f:2:23: fast: give one of block, detach, spill",
    ),
    (
        "zpipe: 1\ndefaults: {when_full: Spil}",
        "f:2:23: Spil: give one of block, detach, spill; did you mean spill?",
    ),
    ("zpipe: 1\ndefaults: {sync: yes}", "f:2:18: yes: YAML 1.1 would read true here: write true"),
    (
        "zpipe: 1\nservice: {workers: 0x2}",
        "f:2:20: 0x2: YAML 1.1 would read 2 here (hexadecimal): write 2",
    ),
    ("zpipe: 1\nservice: {workers: 257}", "f:2:20: 257: give 1 to 256"),
    ("zpipe: 1\nservice: {workers: '0'}", "f:2:20: 0: give 1 to 256"),
    ("zpipe: 1\ndefaults: {rate_limit: 0}", "f:2:24: 0: not a rate: nothing would ever move"),
    (
        "zpipe: 1\nedges: [{from: a, to: [b, 9]}]",
        "f:2:27: 9: not a name: give letters, digits, _ . and -, a letter first",
    ),
    (
        'zpipe: 1\ndefaults: {detach_after: "5\\ns\\ex"}',
        "f:2:26: 5\\ns\\x1bx: not a duration: write it like 250ms, 10s or 1h30m",
    ),
]


@pytest.mark.parametrize(("text", "expected"), ONE_MISTAKE, ids=[one[0] for one in ONE_MISTAKE])
def test_one_mistake_is_one_finding(text: str, expected: str) -> None:
    assert told(text) == [expected]


def test_all_mistakes_at_once() -> None:
    assert told(
        """\
zpipe: 1
nam: x
nodes: {9x: a, ok: b}
edges:
  - {from: a, to: b, limit: 5x, sync: on, merge: lanes, retries: 3}
  - {to: [b, "c d", [e]]}
  - []
proxies:
  p:
    {listen: , check: {rise: 010, interval: soon}, mirrors: [{queue: 1M}, {address: a, sampel: b}]}
"""
    ) == [
        "f:2:1: nam: unknown key: did you mean name?",
        "f:3:9: 9x: not a name: give letters, digits, _ . and -, a letter first",
        "f:5:29: 5x: not a size: give a number with K, M, G, T, P or E (1024) or KB, MB (1000)",
        "f:5:39: on: YAML 1.1 would read true here: write true",
        "f:5:50: lanes: give one of as-ready, in-order, lines; did you mean lines?",
        "f:5:57: retries: unknown key: known are limit, offset, rate_limit, stall_timeout,"
        " pipe_size, via, no_via, stable, lease, inplace, sync, merge, when_full,"
        " detach_after, spill_max, spill_dir, spill_then, from, to",
        "f:6:5: entry 2 of edges: from is missing",
        "f:6:14: c d: not a name: give letters, digits, _ . and -, a letter first",
        "f:6:21: entry 3 of to: found a list: give a text",
        "f:7:5: entry 3 of edges: found a list: give a text or a mapping",
        "f:10:14: listen has no value: give a text or a list",
        "f:10:30: 010: YAML 1.1 would read 8 here (octal): write 8 or 10",
        "f:10:45: soon: not a duration: write it like 250ms, 10s or 1h30m",
        "f:10:62: entry 1 of mirrors: address is missing",
        "f:10:88: sampel: unknown key: did you mean sample?"
        " known are address, direction, queue, when_full, spill_max, sample",
    ]  # fmt: skip


def test_what_is_aliased_is_told_once_where_it_is_written() -> None:
    text = "zpipe: 1\nedges:\n- &e {from: a, to: b, limit: x}\n- *e\n- *e\n"
    (only,) = told(text)
    assert only.startswith("f:3:30: x: not a size")


def test_a_key_that_is_given_is_not_suggested() -> None:
    assert told("zpipe: 1\nparams: {A: {type: size, typ: rate}}") == [
        "f:2:26: typ: unknown key: known are type, default, description"
    ]


def test_a_mapping_of_mistakes_ends_soon() -> None:
    tree = {"zpipe": "1", **{f"nmae{number}": "x" for number in range(30_000)}}
    value, problems = decode(tree, Recipe)
    assert value is None
    assert len(problems) == 30_000
    assert problems[0].text == "nmae0: unknown key: did you mean name?"


# numbers and truths: one spelling


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("7", 7), ("1000", 1000), ("-3", -3)])
def test_plain_numbers(text: str, value: int) -> None:
    assert integer(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("010", "YAML 1.1 would read 8 here (octal): write 8 or 10"),
        ("-017", "YAML 1.1 would read -15 here (octal): write -15 or -17"),
        ("00", "YAML 1.1 would read 0 here (octal): write 0"),
        ("08", "YAML 1.1 would read a text here: write 8"),
        ("0x1F", "YAML 1.1 would read 31 here (hexadecimal): write 31"),
        ("0b101", "YAML 1.1 would read 5 here (binary): write 5"),
        ("1_000", "YAML 1.1 would read 1000 here: write 1000"),
        ("+5", "YAML 1.1 would read 5 here: write 5"),
        ("1:30", "YAML 1.1 would read 90 here (base 60): write 90"),
        ("1:00:00", "YAML 1.1 would read 3600 here (base 60): write 3600"),
        ("5.0", "YAML 1.1 would read a fraction here: write 5"),
        ("5.", "YAML 1.1 would read a fraction here: write 5"),
        ("5.5", "not a whole number: give a whole number"),
        ("1e3", "not a whole number: give a whole number"),
        ("0x", "not a whole number: give a whole number"),
        ("0o17", "not a whole number: give a whole number"),
        ("\u0661", "not a whole number: give a whole number"),
        ("many", "not a whole number: give a whole number"),
        ("-", "not a whole number: give a whole number"),
        ("1" * 19, "too large: give a whole number"),
    ],
)
def test_other_numbers(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        integer(text)
    assert str(caught.value) == f"{text}: {said}"


@pytest.mark.parametrize(
    ("text", "least", "most", "said"),
    [
        ("0", 1, None, "give 1 or more"),
        ("-1", 0, 9, "give 0 to 9"),
        ("10", 0, 9, "give 0 to 9"),
        ("10", None, 9, "give at most 9"),
        ("x", 1, None, "not a whole number: give 1 or more"),
        ("9" * 5000, 0, 9, "too large: give 0 to 9"),
    ],
)
def test_bounds(text: str, least: int | None, most: int | None, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        integer(text, least, most)
    assert str(caught.value).endswith(f": {said}")
    assert len(str(caught.value)) < 200


def test_a_quantity_without_end_is_not_read() -> None:
    tree = {"zpipe": "1", "defaults": {"stall_timeout": "1m" * 400_000, "limit": "5" * 401}}
    _, problems = decode(tree, Recipe)
    assert [problem.text.partition("...")[2] for problem in problems] == [
        ": too long: give 400 characters at most"
    ] * 2


def test_truths() -> None:
    assert boolean("true") is True
    assert boolean("false") is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((word, "YAML 1.1 would read true here: write true") for word in ("yes", "On", "Y")),
        *((word, "YAML 1.1 would read false here: write false") for word in ("no", "OFF", "n")),
        ("True", "write true, in small letters"),
        ("FALSE", "write false, in small letters"),
        ("ture", "give true or false; did you mean true?"),
        ("1", "give true or false"),
    ],
)
def test_other_truths(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        boolean(text)
    assert str(caught.value) == f"{text}: {said}"


# what the types of a recipe do not use, but may


class Tree(Struct, forbid_unknown_fields=True):
    """One that holds its like."""

    below: tuple[str | Tree, ...] = ()
    code: Annotated[str, Meta(pattern="^[a-z]+$")] = "x"


def test_types_that_hold_themselves() -> None:
    assert decode({"below": ["a", {"below": ["b"]}]}, Tree) == (
        Tree(below=("a", Tree(below=("b",)))),
        [],
    )
    assert wrong({"below": ["a", {"below": [[]]}]}, Tree) == [
        "entry 1 of below: found a list: give a text or a mapping"
    ]


def test_bounds_that_only_the_type_knows_are_told() -> None:
    (said,) = wrong({"code": "A"}, Tree)
    assert "code" in said


def test_types_that_no_text_can_tell_apart() -> None:
    with pytest.raises(TypeError):
        decode("1", int | str)


# any tree: a value or problems, and a misspelt key is that problem alone

ODD = st.recursive(
    st.one_of(
        st.none(), st.text(), st.sampled_from(["1", "true", "a", "a -> b", "1G", "5s", "block"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(
                st.text(),
                st.sampled_from([*Recipe.__struct_fields__, *Proxy.__struct_fields__, "from", "a"]),
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=150)
@given(tree=ODD, type_=st.sampled_from([Recipe, Proxy, Edge, Upstreams, Names, Mirror | str]))
def test_any_tree(tree: object, type_: Any) -> None:
    value, problems = decode(tree, type_)
    assert (value is None) == bool(problems)
    for problem in problems:
        assert problem.text.isprintable()
        assert follows(tree, problem)


@settings(max_examples=150)
@given(data=st.data())
def test_any_change_of_a_valid_recipe(data: st.DataObject) -> None:
    tree = copy.deepcopy(VALID)
    holder, key = data.draw(st.sampled_from(places(tree)))
    holder[key] = data.draw(ODD)
    value, problems = decode(tree, Recipe)
    assert (value is None) == bool(problems)
    assert all(follows(tree, problem) for problem in problems)


def follows(tree: Any, problem: Problem) -> bool:
    """Return whether the path of a problem leads somewhere."""
    for step in problem.path:
        tree = tree[step]
    return not problem.of_key or isinstance(problem.path[-1], str)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return each value of a tree, as what holds it and its key or index."""
    steps = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found: list[tuple[Any, Any]] = []
    for step, value in list(steps):
        found.append((tree, step))
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


def known_keys(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths of all keys that the form knows, and no user chose."""
    chosen = path in {("params",), ("nodes",), ("proxies",)} or "route_sni" in path[-1:]
    found: list[tuple[Any, ...]] = []
    if path[:1] == ("nodes",):  # of what is below, the form knows nothing
        return found
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(tree, dict) and not chosen:
            found.append((*path, key))
        if isinstance(value, (dict, list)):
            found += known_keys(value, (*path, key))
    return found


KEYS = known_keys(VALID)


def test_the_keys_to_misspell_are_many() -> None:
    assert len(KEYS) > 40
    assert ("proxies", "db", "limits", "connections") in KEYS


@settings(max_examples=150)
@given(path=st.sampled_from(KEYS), at=st.integers(0, 20), how=st.sampled_from(["drop", "double"]))
def test_a_misspelt_key_is_the_only_problem(path: tuple[Any, ...], at: int, how: str) -> None:
    key: str = path[-1]
    at = at % len(key)
    misspelt = key[:at] + (key[at + 1 :] if how == "drop" else key[at] + key[at:])
    tree = copy.deepcopy(VALID)
    holder: Any = tree
    for step in path[:-1]:
        holder = holder[step]
    holder[misspelt] = holder.pop(key)
    value, problems = decode(tree, Recipe)
    assert value is None
    (problem,) = problems
    assert problem.path == (*path[:-1], misspelt)
    assert problem.of_key
    assert problem.text.startswith(f"{misspelt}: unknown key")
    if len(key) > 3:  # a letter of two or three is half of the word
        assert f"did you mean {key}?" in problem.text
