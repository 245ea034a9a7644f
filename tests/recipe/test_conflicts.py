"""What two parts of a recipe cannot both have, and what they can."""

from __future__ import annotations

import os

import pytest

from tests.recipe.writing import findings

HERE = os.path.abspath("x")  # where a relative path leads to


def told(nodes: str, edges: str, more: str = "", *, name: str = "r.yaml") -> list[str]:
    """Return the findings of a recipe whose nodes begin in line 3, one in each line."""
    lines = "".join(f"  {line.strip()}\n" for line in nodes.split(";"))
    return findings(f"nodes:\n{lines}edges: [{edges}]\n{more}", name=name)


# each of these is of the nodes a and b, which the edges s -> a and s -> b write
@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("x", "x", f"b: writes {HERE}, and a (line 4) does, too"),
        ("/y/x", "{file: /y/./z/../x, mode: 0640}", "b: writes /y/x, and a (line 4) does, too"),
        ("//y/x", "file:/y/x", "b: writes /y/x"),
        ("{file: x, append: true}", "{file: x, append: true}", "writes"),
        ("{file: x, offset: 1K}", "{file: x, offset: 1024}", "writes"),
        ("{file: x, offset: 1K}", "x", "writes"),
        ("x", "{file: x, offset: 1K}", "writes"),
        ("x", "{hash: sha256, file: x}", f"b: writes {HERE}"),
        ("pipe:/f", "pipe:/f", "b: writes /f, and a (line 4) does, too"),
        ("/f", "pipe:/f", "b: writes /f"),
        ("'-'", "'-'", "b: writes standard output, and a (line 4) does, too"),
        ("'-'", "fd:1", "b: writes standard output"),
        ("'-'", "/dev/stdout", "b: writes standard output"),
        ("fd:3", "{fd: 003}", "b: writes fd:3, and a (line 4) does, too"),
        ("fd:web", "fd:web", "b: writes fd:web"),
        ("/dev/fd/7", "/proc/self/fd/7", "b: writes fd:7"),
        ("/dev/sdb", "/dev/sdb", "b: writes /dev/sdb"),
        (
            "{file: p-%04d, split_size: 1M}",
            "p-0012",
            "p-0012, which is a part of what a (line 4) writes",
        ),
        ("p-0012", "{file: p-%d, split_size: 1M}", "which is a part of what b (line 5) writes"),
        ("{file: p-%04d, split_size: 1M}", "{file: p-%04d, split_size: 2M}", "writes"),
        ("{file: p-%04d, split_size: 1M}", "{file: p-0%d, split_size: 2M}", "is a part of what"),
        ("{file: p%%-%d, split_size: 1M}", "p%-3", "is a part of what"),
        ("tcp-listen://:80", "tcp-listen://:80", "b: listens at tcp-listen://:80, and a (line 4)"),
        ("tcp-listen://:80", "tcp-listen://10.0.0.1:80", "does, at tcp-listen://:80"),
        ("tcp-listen://10.0.0.1:80", "tcp-listen://0.0.0.0:80", "listens at"),
        ("'tcp-listen://[::1]:80'", "'tcp-listen://[::]:80'", "listens at"),
        ("'tcp-listen://[::1]:80'", "'tcp-listen://[0:0::1]:80'", "listens at"),
        ("tcp-listen://localhost:80", "tcp-listen://127.0.0.1:80", "listens at"),
        ("tcp-listen://host:80", "tcp-listen://HOST:80", "listens at"),
        ("tcp-listen://host:80", "tcp-listen://:80", "listens at"),
        ("unix-listen:/s", "{unix-listen: /t/../s}", "listens at"),
        ("unix-listen:@s", "unix-listen:@s", "listens at"),
    ],
)
def test_two_that_are_written(first: str, second: str, text: str) -> None:
    found = told(f"s: in; a: {first}; b: {second}", "s -> a, s -> b")
    assert len(found) == 1, found
    assert text in found[0]
    # the place is that of the one that the message begins with
    line = "4" if "a: " in found[0] else "5"
    assert found[0].startswith(f"{line}:")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x", "y"),
        ("{file: x, offset: 0}", "{file: x, offset: 1K}"),
        ("/dev/null", "/dev/null"),
        ("null:".join("''"), "{'null': true}"),
        ("'tcp://h:1'", "'tcp://h:1'"),
        ("unix:/s", "unix:/s"),
        ("hash:sha256", "hash:sha1"),
        ("{exec: cat}", "{exec: cat}"),
        ("fd:3", "fd:4"),
        ("'-'", "/dev/stderr"),
        ("'-'", "{file: '-'}"),
        ("tcp-listen://:80", "tcp-listen://:81"),
        ("tcp-listen://:0", "tcp-listen://:0"),
        ("tcp-listen://10.0.0.1:80", "tcp-listen://10.0.0.2:80"),
        ("'tcp-listen://[::1]:80'", "tcp-listen://0.0.0.0:80"),
        ("tcp-listen://host:80", "tcp-listen://0.0.0.0:80"),
        ("unix-listen:@s", "unix-listen:s"),
        ("{file: p-%04d, split_size: 1M}", "q-0001"),
        ("{file: p-%04d, split_size: 1M}", "p-x"),
        ("{file: p-%04d}", "p-0001"),
        ("{file: p-%04d, split_size: 1M}", "{file: p-%04d.x, split_size: 1M}"),
    ],
)
def test_two_that_may_be_written(first: str, second: str) -> None:
    assert told(f"s: in; a: {first}; b: {second}", "s -> a, s -> b") == []


# a is read, and b is written
@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ("x", "x", f"writes {HERE}, which a (line 3) reads: if it is a FIFO, write pipe:{HERE}"),
        ("/y/x", "{hash: sha256, file: /y/x}", "writes /y/x, which a (line 3) reads"),
        ("p-0003", "{file: p-%04d, split_size: 1M}", "a: reads"),
        ("fd:3", "fd:3", "b: writes fd:3, and a (line 3) reads it"),
        ("/dev/stdin", "fd:0", "b: writes standard input, and a (line 3) reads it"),
    ],
)
def test_one_that_is_written_and_read(first: str, second: str, text: str) -> None:
    (found,) = told(f"a: {first}; y: {{exec: cat}}; b: {second}", "a -> y, y -> b")
    assert text in found
    # and in the other order
    assert len(told(f"b: {second}; y: {{exec: cat}}; a: {first}", "a -> y, y -> b")) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("pipe:/f", "pipe:/f"),
        ("/f", "pipe:/f"),
        ("'-'", "'-'"),
        ("/dev/ttyS0", "/dev/ttyS0"),
        ("/dev/zero", "/dev/null"),
    ],
)
def test_one_that_may_be_written_and_read(first: str, second: str) -> None:
    assert told(f"a: {first}; b: {second}", "a -> b") == []


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [
        ("x", "x", 0),
        ("'-'", "'-'", 1),
        ("'-'", "/dev/fd/0", 1),
        ("fd:3", "fd:3", 1),
        ("pipe:/f", "pipe:/f", 1),
        ("/f", "pipe:/f", 1),
        ("pattern:x", "pattern:x", 0),
    ],
)
def test_two_that_are_read(first: str, second: str, count: int) -> None:
    found = told(f"a: {first}; b: {second}; y: out", "a -> y, b -> y")
    assert len(found) == count
    assert all(each.startswith("4:") and "b: reads" in each for each in found)


def test_a_socket_that_one_node_has_is_no_conflict() -> None:
    assert told("a: 'tcp-listen://:80'; b: unix:/s", "a -> b -> a") == []


def test_the_recipe_itself_may_come_from_standard_input() -> None:
    assert told("a: '-'; b: x", "a -> b") == []
    found = told("a: '-'; b: x", "a -> b", name="-")
    assert found == ["3:6: a: reads standard input, and the recipe itself does, too"]
    assert told("a: y; b: '-'", "a -> b", name="-") == []


P, Q = "p: {{upstreams: 'h:1', listen: {}}}", "q: {{upstreams: 'h:1', listen: {}}}"


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ("':80'", "'127.0.0.1:80'", 1),
        ("':80'", "'*:80'", 1),
        ("':80'", "':81'", 0),
        ("':0'", "':0'", 0),
        ("'[::]:80'", "0.0.0.0:80", 1),
        ("'[::]:80?v6only=1'", "0.0.0.0:80", 0),
        ("'[::]:80?v6only=1'", "'[::1]:80'", 1),
        ("[127.0.0.1:80, 127.0.0.1:81]", "[127.0.0.1:82, 127.0.0.1:81]", 1),
        ("unix:/s", "unix:/s?mode=0660", 1),
        ("unix:@s", "unix:@s", 1),
        ("fd:3", "fd:3", 1),
        ("fd:web", "fd:3", 0),
    ],
)
def test_two_proxies(one: str, other: str, count: int) -> None:
    found = findings(f"proxies:\n  {P.format(one)}\n  {Q.format(other)}\n")
    assert len(found) == count
    assert all(each.startswith("4:") and "proxy q: listens at" in each for each in found)


def test_a_proxy_beside_itself() -> None:
    (found,) = findings("proxies:\n  " + P.format("[127.0.0.1:80, ':80']") + "\n")
    assert "proxy p: listens at :80, and proxy p (line 3) does, at 127.0.0.1:80" in found


def test_metrics_and_nodes_listen_too() -> None:
    proxies = "proxies:\n  " + P.format("':9100'") + "\n"
    (found,) = findings(proxies + "metrics: 127.0.0.1:9100\n")
    assert found.startswith("4:10: metrics: listens at 127.0.0.1:9100, and proxy p (line 3) does")
    (found,) = told("a: 'tcp-listen://:9100'; b: x", "a -> b", proxies)
    assert "proxy p: listens at :9100, and a (line 3) does" in found


def test_captures_are_of_one_proxy() -> None:
    recipe = "proxies:\n"
    for name, port, capture in (("p", 1, "/c"), ("q", 2, "{directory: /c/}"), ("r", 3, "/d")):
        recipe += f"  {name}: {{listen: ':{port}', upstreams: 'h:1', capture: {capture}}}\n"
    (found,) = findings(recipe)
    assert "proxy q: captures in /c, and proxy p (line 3) does, too" in found


def test_the_access_log_is_a_file_too() -> None:
    proxies = "proxies:\n  " + P.format("':9100'") + "\n"
    (found,) = told("a: y; b: /l", "a -> b", proxies + "service: {access_log: /l}\n")
    assert "access_log: writes /l, and b (line 4) does, too" in found
    (found,) = told("a: y; b: '-'", "a -> b", proxies + "service: {access_log: '-'}\n")
    assert "access_log: writes standard output, and b (line 4) does, too" in found
