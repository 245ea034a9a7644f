"""Nodes: text and mappings for every kind, and where what is wrong with them is told."""

from __future__ import annotations

import shlex
import textwrap

import pytest

from tests.recipe.writing import built, findings
from zpipe.endpoints import KINDS, kind_of, parse
from zpipe.graph.model import Endpoint
from zpipe.recipe.nodes import is_flag, without_address


def endpoint(node: str, *, sink: bool = False) -> Endpoint:
    """Return the end of a node, standing at one side of an edge."""
    # a partner that is of use to every kind
    edge = "b -> a" if sink else "a -> b"
    made = built(f"nodes:\n  a: {node}\n  b: ./other\nedges: [{edge}]\n")
    assert made.graph is not None
    return made.graph.node("a").endpoint


def told(node: str, *, sink: bool = False) -> list[str]:
    """Return the findings of a recipe in which node a begins in column 6 of line 3."""
    edge = "b -> a" if sink else "a -> b"
    return findings(f"nodes:\n  a: {node}\n  b: ./other\nedges: [{edge}]\n")


@pytest.mark.parametrize(
    ("text", "sink"),
    [
        ("/etc/hostname", False),
        ("file:disk.img?offset=1M&length=64K", False),
        ("-", False),
        ("-", True),
        ("tcp://host:1?timeout=5s", True),
        ("tcp-listen://:9000", False),
        ("unix:@name", True),
        ("exec:sh -c 'a | b'", False),
        ("null:", True),
        ("zero:?size=1G", False),
        ("pattern:seed?size=1G", True),
        ("hash:sha256?file=x.sum", True),
        ("what?is=this", False),
    ],
)
def test_text_means_what_it_means_on_the_command_line(text: str, sink: bool) -> None:
    wanted = parse(text, sink=sink)
    assert endpoint(f'"{text}"', sink=sink) == wanted
    assert endpoint(f'{{address: "{text}"}}', sink=sink) == wanted


# kind -> an address, and a value for each option at the side where it stands
SAMPLES: dict[str, tuple[str, bool, dict[str, str]]] = {
    "file": ("a?b&c.img", False, {"offset": "1M", "length": "1K", "direct": "true"}),
    "fd": ("3", False, {}),
    "pipe": ("/run/fifo", False, {}),
    "tcp": ("[::1]:80", True, {"timeout": "5s", "linger": "1s"}),
    "tcp-listen": (":80", False, {"linger": "1s"}),
    "unix": ("/run/s?x", True, {"timeout": "5s", "linger": "1s"}),
    "unix-listen": ("@s", False, {"mode": "0660", "linger": "2"}),
    "exec": ("gzip -c", False, {}),
    "null": ("true", True, {}),
    "zero": ("true", False, {"size": "1G"}),
    "pattern": ("22:22", True, {"size": "1_000".replace("_", "")}),
    "hash": ("sha256", True, {"file": "x.sum", "name": "a b"}),
}


@pytest.mark.parametrize("name", [name for name in KINDS if name != "-"])
def test_every_kind_has_a_mapping(name: str) -> None:
    address, sink, options = SAMPLES[name]
    more = "".join(f", {key}: {value}" for key, value in options.items())
    end = endpoint(f"{{{name}: '{address}'{more}}}", sink=sink)
    kind = kind_of(name)
    assert (end.kind, end.address) == (name, "" if without_address(kind) else address)
    wanted = {key: "1" if is_flag(kind, key) else value for key, value in options.items()}
    assert dict(end.options) == wanted


def test_options_of_a_file_that_is_written() -> None:
    node = "{file: x-%04d, split_size: 1G, append: false, direct: 1, mode: 0640}"
    end = endpoint(node, sink=True)
    wanted = {"split_size": "1G", "append": "0", "direct": "1", "mode": "0640"}
    assert dict(end.options) == wanted


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ("{file: /srv/x, mode: 0640}", "/srv/x"),
        ("{tcp: 'h:1', timeout: 5s}", "tcp://h:1"),
        ("{unix: /run/s}", "unix:/run/s"),
        ("{exec: [gzip, -c]}", "exec:gzip -c"),
        ("{exec: [sh, -c, 'a b']}", "exec:sh -c 'a b'"),
        ("{'null': true}", "null:"),
        ('{exec: [sh, -c, "a\\nb"]}', "exec:sh -c 'a b'"),
        ('"exec:a\\n  b"', "exec:a b"),
        ('{file: "a\\nb"}', "a\\nb"),
    ],
)
def test_messages_call_nodes_as_the_command_line_has_them(node: str, text: str) -> None:
    assert endpoint(node, sink=True).text == text


def test_a_long_command_is_cut_in_messages_only() -> None:
    end = endpoint(f"{{exec: [sh, -c, '{'x' * 500}']}}")
    assert len(end.text) == 80
    assert shlex.split(end.address) == ["sh", "-c", "x" * 500]


@pytest.mark.parametrize(
    "words",
    [
        ["gzip", "-c"],
        ["a b", "'", '"', "\\", "$x", "a\nb", "", "#", "-", "~", "?", "é"],
        ["on", "0640", "null", "22:22", "~"],
    ],
)
def test_each_entry_of_a_command_is_one_word(words: list[str]) -> None:
    def quoted(word: str) -> str:
        return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    end = endpoint(f"{{exec: [{', '.join(map(quoted, words))}]}}")
    assert shlex.split(end.address) == words


def test_a_block_of_text_is_a_command() -> None:
    text = """\
        nodes:
          a:
            exec:
              - sh
              - -c
              - |
                echo a: b # c
                exit $${STATUS:-0}
          b: x
        edges: [a -> b]
    """
    made = built(textwrap.dedent(text))
    assert made.graph is not None
    words = shlex.split(made.graph.node("a").endpoint.address)
    assert words == ["sh", "-c", "echo a: b # c\nexit ${STATUS:-0}\n"]


def test_a_digest_has_a_file() -> None:
    for node in ("{hash: sha256, file: x}", "{file: x, hash: sha256}"):
        assert endpoint(node, sink=True).kind == "hash"


@pytest.mark.parametrize(
    ("node", "place", "text"),
    [
        ("", "3:5", "a: has no value"),
        ("[a]", "3:6", "a: is a list"),
        ("{}", "3:6", "a: names no kind: there are file, fd"),
        ("{on_error: stop}", "3:6", "a: names no kind"),
        ("{fiel: x}", "3:7", "fiel: unknown key: did you mean file?"),
        ("{tcp_listen: ':80'}", "3:7", "tcp_listen: unknown key: did you mean tcp-listen?"),
        ("{unix_listen: /x}", "3:7", "did you mean unix-listen?"),
        ("{file: x, tcp: 'h:1'}", "3:16", "a: is file and tcp at once"),
        ("{file: x, address: y}", "3:7", "a: has an address and file"),
        ("{address: x, mode: 0640}", "3:19", "mode: unknown key: options stand in the address"),
        ("{address: [x]}", "3:16", "address: is a list, and must be text"),
        ("{address: }", "3:16", "address: has no value"),
        ("{file: }", "3:13", "file: has no value"),
        ("{file: ''}", "3:13", "the path is empty"),
        ("{file: {x: y}}", "3:13", "file: is a mapping, and must be text"),
        ("{file: x, offest: 1}", "3:16", "offest: unknown key: file has offset, length"),
        ("{file: x, offest: 1}", "3:16", "did you mean offset?"),
        ("{file: x, offset: 1Q}", "3:24", "x: option offset: 1Q: not a size"),
        ("{file: x, offset: [1]}", "3:24", "offset: is a list, and must be text"),
        ("{file: x, offset: }", "3:24", "offset: has no value"),
        ("{file: x, offset: ''}", "3:24", "offset: is empty: give a value"),
        ("{file: x, mode: 0640}", "3:22", "x: option mode: is for a sink"),
        ("{file: x, direct: yes}", "3:24", "direct: yes: YAML 1.1 would read true here"),
        ("{file: x, direct: 2}", "3:24", "direct: 2: give true or false"),
        ("{file: x, on_error: drop}", "3:26", "drop: give one of"),
        ("{file: x, on_error: }", "3:26", "has no value"),
        ("{file: x, when_full: spill}", "3:16", "when_full: is an option of edges"),
        ("{file: 'file:x'}", "3:13", "the key says already what it is: write file: x"),
        ("{tcp: 'tcp://h:1'}", "3:12", "write tcp: h:1"),
        ("{tcp: h}", "3:12", "tcp://h: give a port from 0 to 65535"),
        ("{fd: x3, mode: 1}", "3:15", "mode: unknown key: fd has on_error"),
        ("{exec: []}", "3:13", "exec: give a command"),
        ("{exec: ['']}", "3:13", "exec: give a command"),
        ("{exec: ''}", "3:13", "exec:: give a command"),
        ('{exec: "a \'b"}', "3:13", "exec:a 'b: split into words: No closing quotation"),
        ("{exec: [a, [b]]}", "3:17", "exec: is a list, and must be text"),
        ("{exec: [a, null]}", "3:17", "exec: has no value"),
        ("{exec: {a: b}}", "3:13", "exec: is a mapping"),
        ("{zero: 1G}", "3:13", "zero: has no address: write zero: true"),
        ("{zero: }", "3:13", "write zero: true"),
        ("{zero: true, size: x}", "3:25", "zero:: option size: x: not a size"),
        ("{hash: sha256}", "3:13", "hash:sha256: cannot be a source"),
        ("hash:sha256", "3:6", "hash:sha256: cannot be a source"),
        ("ftp://x", "3:6", "ftp://x: unknown scheme ftp"),
        ("tcp:h:1", "3:6", "tcp:h:1: write it as tcp://HOST:PORT"),
        ("''", "3:6", "an operand is empty"),
        ("tcp://h:1?when_full=spill", "3:6", "when_full is an option of edges"),
        ("{address: x?spill_max=1}", "3:16", "spill_max is an option of edges"),
        ("x?when_full=", "3:6", "option when_full: give a value"),
        (f"tcp://{'h' * 9000}:1", "3:6", "is longer than 8192 characters"),
        (f"{{file: x, length: {'1m' * 9000}}}", "3:24", "length: 1m1m"),
    ],
)
def test_what_is_wrong_is_told_where_it_is(node: str, place: str, text: str) -> None:
    found = told(node)
    assert len(found) == 1
    assert found[0].startswith(f"{place}: ")
    assert text in found[0]
    assert len(found[0]) < 1000


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ('"zero:"', "zero:: cannot be a sink"),
        ("{file: x, length: 1}", "x: option length: is for a source"),
        ("{hash: sha1024}", "unknown algorithm sha1024"),
        ("{file: x, split_size: 1G}", "the name needs one place for the number"),
    ],
)
def test_what_cannot_be_a_sink(node: str, text: str) -> None:
    (found,) = told(node, sink=True)
    assert text in found


def test_several_mistakes_in_one_node_are_told_at_once() -> None:
    found = told("{file: x, offset: [], direct: maybe, lenght: 1, on_error: no}")
    assert len(found) == 4


def test_a_socket_is_judged_for_both_sides_and_told_once() -> None:
    found = findings("""\
        nodes: {a: "tcp://h", b: x, c: y}
        edges: [b -> a, a -> c]
    """)
    assert found == ["2:12: tcp://h: give a port from 0 to 65535 after the host"]


def test_only_processes_and_sockets_are_written_and_read() -> None:
    recipe = "nodes: {{a: x, b: {node}, c: y}}\nedges: [a -> b -> c]\n"
    assert findings(recipe.format(node="{exec: cat}")) == []
    assert findings(recipe.format(node="{tcp: 'h:1'}")) == []
    (found,) = findings(recipe.format(node="{file: z, mode: 0640}"))
    assert found.startswith("2:18: b: is written and read")
