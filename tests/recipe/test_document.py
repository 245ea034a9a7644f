"""YAML text as trees: nothing is guessed, values have places, and what is refused is located."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zpipe.recipe.document import MOST_BYTES, MOST_DEPTH, MOST_FINDINGS, MOST_VALUES, parse
from zpipe.recipe.problems import Place, Problem, RecipeError

if TYPE_CHECKING:
    from zpipe.recipe.document import Tree


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Read by libyaml, then by the parser in Python that serves where there is no libyaml."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader")
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML has no libyaml here")
    return str(request.param)


def tree_of(text: str) -> Tree:
    return parse(text.encode(), "x.yaml").tree


def findings(data: str | bytes) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        parse(data.encode() if isinstance(data, str) else data, "f")
    assert caught.value.exit_code == 2
    return str(caught.value).split("\n")


# what YAML 1.1, YAML 1.2 or both would take for something else
TRAPS = [
    "on", "off", "yes", "no", "y", "n", "true", "false", "True", "22:22", "1:30:00", "0640", "010",
    "0o17", "0x10", "0b1", "1_000", "1.0", "1e3", ".5", "+1", "-0", ".inf", ".nan", "2001-01-01",
    "2001-01-01T00:00:00Z", "=", "nULL", "none", "None", "127.0.0.1:80", ":80", "a#b", "a -> b, c",
    "${NAME}", "$${x}", "tcp://h:1?timeout=5s", "x*y", "a&b", "C:\\x",
]  # fmt: skip


@pytest.mark.parametrize("text", TRAPS)
def test_a_scalar_is_the_text_that_was_written(parser: str, text: str) -> None:
    for written in (text, f"'{text}'", f'"{text}"' if "\\" not in text else f"'{text}'"):
        assert tree_of(f"a: {written}\nb: [x, {{c: '{text}'}}]") == {
            "a": text,
            "b": ["x", {"c": text}],
        }


@pytest.mark.parametrize("text", ["on", "22:22", "0640", "null", "~", "1_000", "true"])
def test_a_key_is_the_text_that_was_written(parser: str, text: str) -> None:
    assert tree_of(f"{text}: x") == {text: "x"}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("Null", None),
        ("NULL", None),
        ("''", ""),
        ('"~"', "~"),
        ("'null'", "null"),
        ('"NULL"', "NULL"),
        ("# only a comment", None),
        ("[]", []),
        ("{}", {}),
        ("[a, ]", ["a"]),
        ("|\n  null\n", "null\n"),
        (">-\n  two\n  words\n", "two words"),
        ("one\n  - more", "one - more"),
        ('"caf\\u00e9\\r\\n"', "caf\u00e9\r\n"),
        ("caf\u00e9 \U0001f600", "caf\u00e9 \U0001f600"),
    ],
)
def test_what_is_nothing_and_what_is_empty(parser: str, written: str, value: Tree) -> None:
    assert tree_of(f"a: {written}\n") == {"a": value}


@pytest.mark.parametrize(
    "text", ["---\na: b\n", "a: b\n...\n", "\ufeffa: b", "a: b\r\n", "a: b\r", "# x\n\na: b # y"]
)
def test_one_document_in_any_dress(parser: str, text: str) -> None:
    assert tree_of(text) == {"a": "b"}


# file:line:column and text of each, the same from both parsers
REFUSED = [
    ("", ["f:1:1: empty: a recipe begins with zpipe: 1"]),
    ("# nothing\n", ["f:1:1: empty: a recipe begins with zpipe: 1"]),
    ("---\n...\n", ["f:1:1: empty: a recipe begins with zpipe: 1"]),
    ("\n- x", ["f:2:1: the recipe is a list: give a mapping that begins with zpipe: 1"]),
    ("  x y", ["f:1:3: the recipe is a text: give a mapping that begins with zpipe: 1"]),
    (b"a: b\nc: \xc3\xa9 \xff", ["f:2:6: byte 0xff: not UTF-8: write the recipe in UTF-8"]),
    ("a: b".encode("utf-16"), ["f:1:1: UTF-16: write the recipe in UTF-8"]),
    (
        "a: \0\nb: ok\nc: x\x1b[1m",
        [
            'f:1:4: U+0000: not a character of text: within "" it can be written as an escape',
            'f:3:5: U+001B: not a character of text: within "" it can be written as an escape',
        ],
    ),
    (
        "a: b\nc: d\u2028e: f",
        ["f:2:5: U+2028: a line break to YAML 1.1 alone: give an ordinary one, or an escape"],
    ),
    (
        "a: b\n\ufeffc: d",
        ['f:2:1: U+FEFF: not a character of text: within "" it can be written as an escape'],
    ),
    ('a: ["x\\0y"]', ["f:1:5: U+0000: no path, address or command can hold it"]),
    (
        "a: !!int 3",
        ["f:1:4: !!int: tags are not allowed: each value is read as the text that it is"],
    ),
    (
        "a: !x {b: !<tag:y> c, d: ! e}",
        [
            "f:1:4: !x: tags are not allowed: each value is read as the text that it is",
            "f:1:11: !<tag:y>: tags are not allowed: each value is read as the text that it is",
            "f:1:26: !: tags are not allowed: each value is read as the text that it is",
        ],
    ),
    (
        "a: !!python/object/apply:os.system [x]",
        [
            "f:1:4: !!python/object/apply:os.system: tags are not allowed:"
            " each value is read as the text that it is",
        ],
    ),
    ("a: !u!v x", ["f:1:4: tags are not allowed: each value is read as the text that it is"]),
    (
        "b: &b {x: y}\nc:\n  <<: *b\n  z: w",
        ["f:3:3: <<: merge keys are not allowed: give what is common as defaults"],
    ),
    ("%YAML 1.1\n---\na: b", ["f:1:1: % at the start of a line: directives are not allowed"]),
    ("a: b\n--- c", ["f:2:1: a second document: give each recipe a file of its own"]),
    (
        "a: 1\nb:\n  - {c: 1, d: 2, c: 3}\na: 2",
        [
            "f:3:18: c: given twice: first in line 3, column 6",
            "f:4:1: a: given twice: first in line 1, column 1",
        ],
    ),
    ("[a]: b", ["f:1:1: a list as a key: keys are texts"]),
    ("? {a: b}\n: c", ["f:1:3: a mapping as a key: keys are texts"]),
    ("&k {a: b}: c\nd: {*k : e}", ["f:1:1: a mapping as a key: keys are texts",
                                   "f:2:5: a mapping as a key: keys are texts"]),
    (": b", ["f:1:1: no key before the colon"]),
    ('"": b', ["f:1:1: no key before the colon"]),
    ("a: *b", ["f:1:4: *b: no &b before it: quote a text that starts with *"]),
    (
        "*a : 1\n*b : [*c]",
        [
            "f:1:1: *a: no &a before it: quote a text that starts with *",
            "f:2:1: *b: no &b before it: quote a text that starts with *",
            "f:2:7: *c: no &c before it: quote a text that starts with *",
        ],
    ),
    ("a: &x [b, *x]", ["f:1:11: *x: stands within what it repeats, and would have no end"]),
    ("a: &x b\nc: &x d", ["f:2:4: &x: given twice: first in line 1, column 4"]),
    # what no parser of YAML understands
    ("a: b: c", ["f:1:5: a second colon: quote a text that holds a colon and a space"]),
    ("a: b\r\nc: d: e", ["f:2:5: a second colon: quote a text that holds a colon and a space"]),
    (
        "a: b\n c: d",
        ["f:2:3: no key can stand here: indent it as those beside it, and end the line before"],
    ),
    (
        "a:\n  b: c\n d: e",
        ["f:3:2: neither a key nor the end of the mapping: indent it as the keys beside it"],
    ),
    ("a:\n - b\nc", ["f:3:1: neither a key with its colon nor an entry of a list"]),
    (
        "a:\n  - b\n c",
        ["f:3:2: neither a key nor the end of the mapping: indent it as the keys beside it"],
    ),
    ("a: 1\n- b", ["f:2:1: - among keys: indent the list under the key that it belongs to"]),
    ("- a\nb: c", ["f:2:1: not an entry of the list: indent it as those beside it, with -"]),
    ("a: 'b' c", ["f:1:8: text behind ': quote it as a whole"]),
    ("a: [b] c", ["f:1:8: text behind ]: quote it as a whole"]),
    ("a: - b", ["f:1:4: no list can start here: put it on the next line, or quote the text"]),
    ("a:\n\tb: c", ["f:2:1: a tab: indent with spaces"]),
    ("a:\n  b: c\n\td: e", ["f:3:1: a tab: indent with spaces"]),
    ("a: @b", ["f:1:4: a text cannot start with @: quote it"]),
    ("a: `b`", ["f:1:4: a text cannot start with `: quote it"]),
    ("a: %b", ["f:1:4: a text cannot start with %: quote it"]),
    ("a: *:80", ["f:1:4: a text cannot start with *: quote it"]),
    ("a: & b", ["f:1:4: a text cannot start with &: quote it"]),
    ("a: ]", ["f:1:4: a text cannot start with ]: quote it"]),
    ("a: ,b", ["f:1:4: a text cannot start with ,: quote it"]),
    ("a: |b", ["f:1:4: | and > stand alone at the end of a line: quote the text"]),
    ("a: >b\n c", ["f:1:4: | and > stand alone at the end of a line: quote the text"]),
    ("a: [::1]:80", ['f:1:5: a value that starts with a colon: quote addresses like "[::1]:80"']),
    ("a: {b: ${C}}", ["f:1:9: ${ within [] or {}: quote the text"]),
    ("a: [b, ${C}]", ["f:1:9: ${ within [] or {}: quote the text"]),
    ("a: [b, c}", ["f:1:9: }: expected a comma, or the end of the [] or {}"]),
    ("a: [b,, c]", ["f:1:7: a text cannot start with ,: quote it"]),
    ("a: b\n]", ["f:2:1: ]: closes nothing: quote a text that holds it"]),
    ("{a: b} c", ["f:1:8: text behind the end of the document"]),
    ("a:\n  - [b,\n", ["f:2:5: [ is not closed"]),
    ("a: {b: [c]", ["f:1:4: { is not closed"]),
    ("a: {b: [c", ["f:1:8: [ is not closed"]),
    ("a: 'b\nc: d", ["f:1:4: this quote is not closed"]),
    ('a: "b\n\n', ["f:1:4: this quote is not closed"]),
    ('a: "b\n---\n', ["f:1:4: this quote is not closed"]),
    ("a: !<b", ["f:1:4: tags are not allowed: each value is read as the text that it is"]),
    # what was wrong before it is told as well
    (
        "a: 1\na: 2\nb: !c d\ne: [",
        [
            "f:2:1: a: given twice: first in line 1, column 1",
            "f:3:4: !c: tags are not allowed: each value is read as the text that it is",
            "f:4:4: [ is not closed",
        ],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), REFUSED, ids=[repr(one[0])[:40] for one in REFUSED])
def test_refusals_are_located(parser: str, data: str | bytes, expected: list[str]) -> None:
    assert findings(data) == expected


@pytest.mark.parametrize("escape", ["\\q", "\\x0", "\\ud800x"])
def test_escapes_that_are_none(parser: str, escape: str) -> None:
    assert all(line.startswith("f:2:") for line in findings(f'a: b\nc: "{escape}"'))


def test_places_of_values_and_of_keys(parser: str) -> None:
    document = parse(
        b"""\
zpipe: 1
nodes:
  disk: /dev/sda
  'odd':  {tcp: "h:1",   on_error: stop}
edges:
  - a -> b
  - from: a
    to: [b,
         c]
nothing:
""",
        "f",
    )
    assert {
        path: (place.line, place.column, key.line, key.column)
        for path in [
            (), ("zpipe",), ("nodes",), ("nodes", "disk"), ("nodes", "odd", "on_error"),
            ("edges",), ("edges", 0), ("edges", 1), ("edges", 1, "to", 1), ("nothing",),
            ("edges", 1, "limit"), ("edges", 5), ("edges", -1), ("edges", "x"), ("zpipe", "y", 0),
            ("gone",), ("nodes", 0),
        ]
        for place, key in [(document.place(path), document.place(path, of_key=True))]
    } == {
        (): (1, 1, 1, 1),
        ("zpipe",): (1, 8, 1, 1),
        ("nodes",): (3, 3, 2, 1),
        ("nodes", "disk"): (3, 9, 3, 3),
        ("nodes", "odd", "on_error"): (4, 36, 4, 26),
        ("edges",): (6, 3, 5, 1),
        ("edges", 0): (6, 5, 6, 5),
        ("edges", 1): (7, 5, 7, 5),
        ("edges", 1, "to", 1): (9, 10, 9, 10),
        ("nothing",): (10, 9, 10, 1),
        # what is not there: the nearest that would hold it
        ("edges", 1, "limit"): (7, 5, 7, 5),
        ("edges", 5): (6, 3, 6, 3),
        ("edges", -1): (6, 3, 6, 3),
        ("edges", "x"): (6, 3, 6, 3),
        ("zpipe", "y", 0): (1, 8, 1, 8),
        ("gone",): (1, 1, 1, 1),
        ("nodes", 0): (3, 3, 3, 3),
    }  # fmt: skip


def test_a_problem_in_its_place_is_one_line() -> None:
    document = parse(b"zpipe: 1\nedges: [a,\n  b]", "dir/x.yaml")
    assert str(document.finding(Problem("wrong", ("edges", 1)))) == "dir/x.yaml:3:3: wrong"
    assert str(document.finding(Problem("wrong", ("edges",), True))) == "dir/x.yaml:2:1: wrong"
    assert document.finding(Problem("a\nb\x1b", ())).text == "a\\nb\\x1b"
    huge = document.finding(Problem("a" * 10_000 + ": not a name", ())).text
    assert len(huge) < 1000
    assert huge.endswith("a: not a name")


def test_aliases_repeat_values_and_what_they_repeat_stands_where_it_is_written(parser: str) -> None:
    document = parse(
        b"a: &text x\nb: &list [y, {z: &key k}]\nc: [*text, *list]\n*key : *list\n*text : w\n", "f"
    )
    assert document.tree == {
        "a": "x",
        "b": ["y", {"z": "k"}],
        "c": ["x", ["y", {"z": "k"}]],
        "k": ["y", {"z": "k"}],
        "x": "w",
    }
    assert document.place(("c", 0)) == Place(3, 5)
    assert document.place(("c", 1)) == Place(3, 12)
    assert document.place(("c", 1, 1, "z")) == Place(2, 18)
    assert document.place(("k",), of_key=True) == Place(4, 1)
    assert document.place(("k", 0)) == Place(2, 11)


def test_a_null_that_is_repeated_is_null_and_as_a_key_its_text(parser: str) -> None:
    assert tree_of("a: &n null\nb: *n") == {"a": None, "b": None}


# bounds: each is met by what just fits, and refused by the next


def test_bytes() -> None:
    head = b"a: b\n#"
    assert parse(head + b"x" * (MOST_BYTES - len(head)), "f").tree == {"a": "b"}
    assert findings(head + b"x" * (MOST_BYTES - len(head) + 1)) == [
        "f:1:1: larger than 1 MiB: a recipe is not data"
    ]


def test_depth(parser: str) -> None:
    fits = MOST_DEPTH - 1  # the recipe itself is one
    assert tree_of("a: " + "[" * fits + "]" * fits)
    too_deep = f"nested deeper than {MOST_DEPTH} lists and mappings"
    assert findings("a: " + "[" * (fits + 1) + "]" * (fits + 1)) == [f"f:1:{fits + 4}: {too_deep}"]
    # the depth of what an alias repeats counts where it is repeated
    half = "[" * 40 + "]" * 40
    assert findings(f"a: &a {half}\nb: {'[' * 24}*a{']' * 24}") == [f"f:2:28: {too_deep}"]
    assert tree_of(f"a: &a {half}\nb: {'[' * 23}*a{']' * 23}")


@pytest.mark.parametrize("unit", ["[", "{", "- ", "? ", "{a: ", "[\n", "[a: ", "? - "])
def test_depth_without_end(parser: str, unit: str) -> None:
    for text in (unit * (MOST_BYTES // len(unit)), "x: y\nz:\n  " + unit * 100_000):
        (only,) = findings(text)
        assert only.endswith(f"nested deeper than {MOST_DEPTH} lists and mappings")


def test_values() -> None:
    fits = MOST_VALUES - 3  # the recipe, the key, the list
    assert tree_of("a: [" + "x," * fits + "]")
    assert findings("a: [" + "x," * (fits + 1) + "]") == [
        f"f:1:{5 + 2 * fits}: more than 100,000 values, with all that aliases repeat"
    ]
    # 10 values each time: the list that is repeated, and what is in it
    block = "a: &a [x, x, x, x, x, x, x, x, x]\nb: ["
    assert tree_of(block + "*a," * 9_998 + "]")
    assert "more than 100,000 values" in findings(block + "*a," * 10_000 + "]")[0]


def test_billion_laughs_cost_nothing(parser: str) -> None:
    text = "a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
        f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 40)
    )
    tracemalloc.start()
    try:
        assert findings(text) == ["f:6:10: more than 100,000 values, with all that aliases repeat"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_text_that_is_repeated() -> None:
    text = f"a: &a {'x' * 500_000}\nb:\n" + "- *a\n" * 50_000
    assert findings(text) == ["f:35:3: more than 16 MiB of text, with all that aliases repeat"]


@pytest.mark.parametrize("line", ["%TAG !a! b\n", "%TAG !a! b\r", "a: b\n...\n%TAG !a! b\n"])
def test_directives_without_end_are_not_compared_with_each_other(line: str) -> None:
    assert "directives" in findings(line * (MOST_BYTES // len(line)))[0]


def test_findings_without_end_are_cut() -> None:
    assert len(findings("a: !b c\n" + "d: e\n" * 50_000)) == MOST_FINDINGS
    assert len(findings("\x01\n" * 50_000)) == MOST_FINDINGS


# whatever it is: a tree, or findings with places

WHOLE = """\
zpipe: 1
params:
  HOST: {type: string, default: "h", description: 'x: y'}
nodes: {disk: /dev/sda, "copy": {file: /x, mode: 0640}, &a z: *a}
edges:
  - disk -> copy
  - {from: disk, to: [copy, other], when_full: spill}  # comment
text: |
  one
  two
more: >-
  three
"""


def judge(data: bytes) -> None:
    try:
        document = parse(data, "f")
    except RecipeError as error:
        assert error.findings
        for finding in error.findings:
            assert finding.line >= 1
            assert finding.column >= 1
            assert finding.text.isprintable()
            assert str(finding).startswith(f"f:{finding.line}:{finding.column}: ")
    else:
        assert isinstance(document.tree, dict)
        visit(document.tree)


def visit(tree: Tree) -> None:
    if isinstance(tree, dict):
        assert all(isinstance(key, str) and key for key in tree)
        for value in tree.values():
            visit(value)
    elif isinstance(tree, list):
        for value in tree:
            visit(value)
    else:
        assert tree is None or isinstance(tree, str)


fuzz = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(data=st.binary(max_size=80))
@example(data=b"\xef\xbb\xbf")
@example(data=b"\xfe\xff")
def test_any_bytes(parser: str, data: bytes) -> None:
    judge(data)


@fuzz
@given(
    text=st.text(
        st.one_of(st.sampled_from("ab: \n\r\t-[]{},?&*!|>'\"%@`#<=~\\0."), st.characters())
    )
)
@example(text="a: &a\n- *a\n: *a")
@example(text="? ? ? *a")
def test_any_text(parser: str, text: str) -> None:
    judge(text.encode("utf-8", "surrogatepass"))


@fuzz
@given(
    edits=st.lists(
        st.tuples(
            st.integers(0, len(WHOLE)),
            st.integers(0, 6),
            st.text(st.sampled_from("ab: \n\t-[]{},?&*!|>'\"%#<~\\"), max_size=3),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_a_recipe_with_mistakes(parser: str, edits: list[tuple[int, int, str]]) -> None:
    text = WHOLE
    for at, gone, new in edits:
        text = text[:at] + new + text[at + gone :]
    judge(text.encode())


TREES = st.recursive(
    st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
            inner,
            max_size=3,
        ),
    ),
    max_leaves=8,
)


@fuzz
@given(
    tree=st.dictionaries(st.text("abc", min_size=1), TREES, min_size=1, max_size=3),
    flow=st.booleans(),
)
def test_what_was_written_as_text_is_read_as_text(
    parser: str, tree: dict[str, Tree], flow: bool
) -> None:
    text = yaml.safe_dump(tree, default_style='"', default_flow_style=flow)
    text = text.replace('!!null "null"', "null")  # the one thing that it tags
    assert tree_of(text) == tree
