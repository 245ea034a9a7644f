"""Parameters and references: what is put in, what is refused, and where that is told."""

from __future__ import annotations

import textwrap

import pytest

from tests.recipe.writing import findings
from zpipe.errors import UsageError
from zpipe.recipe.document import parse
from zpipe.recipe.params import MOST_TEXT, given, substitute

ENVIRON = {"HOME": "/home/user", "EMPTY": ""}


def replaced(text: str, values: dict[str, str] | None = None) -> object:
    """Return what the key `x` of a document holds once its references are replaced."""
    document = parse(textwrap.dedent(text).encode(), "r.yaml")
    found = substitute(document, values or {}, ENVIRON)
    assert not found.problems
    return found.tree["x"]


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("<${A}|${B}>", "<one|two>"),
        ("${A}${A}", "oneone"),
        ("${env:HOME}/x", "/home/user/x"),
        ("${env:EMPTY}", ""),
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $(A) $ {A} $", "$A $(A) $ {A} $"),
        ("}{", "}{"),
    ],
)
def test_references(written: str, wanted: str) -> None:
    assert replaced(f"params: {{A: one, B: two}}\nx: '{written}'\n") == wanted


def test_every_value_of_a_tree_is_replaced_and_no_key() -> None:
    text = """
        params: {A: one}
        x:
          ${A}: [a, "${A}", {b: "${A}"}]
          empty:
    """
    assert replaced(text) == {"${A}": ["a", "one", {"b": "one"}], "empty": None}


@pytest.mark.parametrize("value", ["${B}", "${env:HOME}", "$${B}", "{a: b}", "- x", "a\nb: c", "#"])
def test_what_is_put_in_is_text_and_nothing_else(value: str) -> None:
    assert replaced("params: {A: x, B: y}\nx: '<${A}>'\n", {"A": value}) == f"<{value}>"


def test_a_repeated_part_is_replaced_wherever_it_stands() -> None:
    text = "params: {A: one}\nx: [&here {a: '${A}'}, *here]\n"
    assert replaced(text) == [{"a": "one"}, {"a": "one"}]


@pytest.mark.parametrize(
    ("params", "values", "wanted"),
    [
        ("A: {default: one}", {}, "one"),
        ("A: {default: one}", {"A": "two"}, "two"),
        ("A: {type: integer}", {"A": "-7"}, "-7"),
        ("A: '${env:HOME}/x'", {}, "/home/user/x"),
        ("A: {default: '${env:HOME}'}", {}, "/home/user"),
        ("A: '${env:NOT_SET}'", {"A": "given"}, "given"),
        ("A: '$${B}'", {}, "${B}"),
        ("A: {type: boolean, default: true}", {}, "true"),
        ("A: {type: size, default: 1.5G}", {}, "1.5G"),
    ],
)
def test_values(params: str, values: dict[str, str], wanted: str) -> None:
    assert replaced(f"params:\n  {params}\nx: ${{A}}\n", values) == wanted


@pytest.mark.parametrize(
    ("type_", "good", "bad"),
    [
        ("string", "x", ""),
        ("path", "/x", ""),
        ("address", "tcp://h:1", ""),
        ("integer", "0", "0x10"),
        ("integer", "8080", "080"),
        ("integer", "-1", "1.0"),
        ("size", "64K", "64Q"),
        ("rate", "20M/s", "0"),
        ("duration", "1h30m", "1x"),
        ("duration", "5", "1m" * 300_000),
        ("boolean", "false", "off"),
    ],
)
def test_types(type_: str, good: str, bad: str) -> None:
    recipe = f"""\
        params:
          A: {{type: {type_}}}
        nodes: {{a: x, b: y}}
        edges: [a -> b]
    """
    assert findings(recipe, {"A": good}) == []
    (found,) = findings(recipe, {"A": bad})
    assert found.startswith(f"3:3: -p A={bad[:100]}")
    # and so is a default, in its own place
    recipe = recipe.replace("}}", "}").replace(f"type: {type_}", f"type: {type_}, default: '{bad}'")
    (found,) = findings(recipe)
    assert found.startswith("3:")
    assert "-p" not in found


NODES = "nodes: {a: '%s', b: y}\nedges: [a -> b]\n"


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("${Q}", "${Q}: no parameter has this name: there are HOST, PORT"),
        ("${HSOT}", "did you mean HOST?"),
        ("${HOME}", "the variable of the environment is ${env:HOME}"),
        ("${env:NOT_SET}", "${env:NOT_SET}: no such variable is in the environment"),
        ("${env:HOEM}", "did you mean HOME?"),
        ("x${HOST", "${: has no }: write ${NAME}, or $${ for the characters ${"),
        ("${}", "${}: not a reference: write ${NAME} or ${env:NAME}"),
        ("${A B}", "not a reference"),
        ("${env:}", "not a reference"),
        ("${HOST:-x}", "not a reference"),
    ],
)
def test_references_that_stand_for_nothing(written: str, told: str) -> None:
    recipe = "params: {HOST: h, PORT: p}\n" + NODES % written
    (found,) = findings(recipe, environ=ENVIRON)
    assert found.startswith("3:12: ")
    assert told in found


@pytest.mark.parametrize(
    ("default", "told"),
    [
        ("${B}", "a default cannot hold a parameter"),
        ("${env:NOT_SET}", "no such variable is in the environment"),
        ("${", "has no }"),
    ],
)
def test_defaults_that_stand_for_nothing(default: str, told: str) -> None:
    (found,) = findings(f"params: {{B: x, A: '{default}'}}\n" + NODES % "${A}")
    assert found.startswith("2:19: ")
    assert told in found


def test_a_missing_parameter_is_told_once_and_how_to_give_it() -> None:
    recipe = "params: {A: {description: Where to}}\n" + NODES % "${A}/${A}"
    assert findings(recipe) == ["2:10: A: has no default, and is not given: -p A=VALUE (Where to)"]
    assert findings(recipe, {"A": "x"}) == []


def test_what_hangs_on_an_unknown_value_is_not_told() -> None:
    recipe = """\
        params:
          A: {type: size}
        nodes: {a: x, b: y, c: "${A}", d: "${A}", e: z}
        edges:
          - {from: a, to: b, limit: "${A}"}
          - ${A} -> c
          - e -> d
        proxies:
          p: {listen: ":80", upstreams: "${A}", pipe_size: "${A}"}
    """
    assert findings(recipe) == ["3:3: A: has no default, and is not given: -p A=VALUE"]


@pytest.mark.parametrize(
    ("params", "place"), [("", "1:1"), ("params: {HOST: x}\n", "2:1"), ("params: {}\n", "2:1")]
)
def test_a_parameter_that_is_not_declared(params: str, place: str) -> None:
    (found,) = findings(params + NODES % "x", {"HSOT": "y"})
    assert found.startswith(f"{place}: -p HSOT: the recipe has no such parameter: ")
    assert ("did you mean HOST?" in found) == ("HOST" in params)


def test_a_parameter_may_be_of_no_use() -> None:
    assert findings("params: {A: x}\n" + NODES % "x") == []


def test_what_paths_cannot_hold_is_refused() -> None:
    (found,) = findings("params: {A: x}\n" + NODES % "${A}", {"A": "a\0b"})
    assert found.startswith("3:12: a NUL stands in it")
    # bytes of a file name that are no UTF-8
    assert findings("params: {A: x}\n" + NODES % "${A}", {"A": "a\udcffb"}) == []


@pytest.mark.parametrize("texts", [["${A}${A}${A}"], ["${A}", "${A}", "${A}"]])
def test_references_have_bounds(texts: list[str]) -> None:
    head = "".join(
        f"{key}: '{text}'\n" for key, text in zip(("name", "x", "y"), texts, strict=False)
    )
    recipe = head.replace("x:", "description:").replace("y:", "metrics:") + NODES % "x"
    found = findings("params: {A: x}\n" + recipe, {"A": "x" * (MOST_TEXT // 2 - 10)})
    assert [each for each in found if "references become more than 4 MiB of text" in each]
    found = findings("params: {A: x}\n" + recipe.replace("metrics:", "#"), {"A": "x" * 10})
    assert found == []


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        ([], {}),
        (["A=1", "B_2="], {"A": "1", "B_2": ""}),
        (["A=x=y"], {"A": "x=y"}),
    ],
)
def test_given(texts: list[str], wanted: dict[str, str]) -> None:
    assert given(texts) == wanted


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["A"], "-p A: not a parameter: write it as NAME=VALUE"),
        (["=x"], "-p : not a name"),
        (["A-B=x"], "-p A-B: not a name"),
        (["A=1", "A=1"], "-p A: given twice"),
    ],
)
def test_given_wrongly(texts: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        given(texts)
