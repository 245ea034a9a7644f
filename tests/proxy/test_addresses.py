"""Addresses of a proxy: what may be written, what it means, and where it leads."""

from __future__ import annotations

import socket

import pytest

from zpipe.errors import UsageError
from zpipe.proxy.addresses import parse_address, resolve, shown, split_options
from zpipe.proxy.settings import Address

UPSTREAMS = [
    ("db:5432", Address("tcp", "db:5432", host="db", port=5432)),
    ("[::1]:80", Address("tcp", "[::1]:80", host="::1", port=80)),
    ("[fe80::1%lo]:80", Address("tcp", "[fe80::1%lo]:80", host="fe80::1%lo", port=80)),
    ("tcp://db:5432", Address("tcp", "tcp://db:5432", host="db", port=5432)),
    ("tcp:5432", Address("tcp", "tcp:5432", host="tcp", port=5432)),
    ("unix:/run/x", Address("unix", "unix:/run/x", path="/run/x")),
    ("unix:/a?b=c", Address("unix", "unix:/a?b=c", path="/a?b=c")),
    ("unix:@name", Address("unix", "unix:@name", path="@name")),
]
LISTENERS = [
    (":80", Address("tcp", ":80", port=80)),
    ("*:80", Address("tcp", "*:80", port=80)),
    ("tcp-listen://:80", Address("tcp", "tcp-listen://:80", port=80)),
    ("localhost:0", Address("tcp", "localhost:0", host="localhost")),
    ("[::]:80?v6only=1", Address("tcp", "[::]:80?v6only=1", host="::", port=80, v6only=True)),
    ("unix:/x", Address("unix", "unix:/x", path="/x", mode=0o600)),
    ("unix-listen:@x", Address("unix", "unix-listen:@x", path="@x")),
    (
        "unix:/a?b?mode=0660&user=root&group=0",
        Address(
            "unix",
            "unix:/a?b?mode=0660&user=root&group=0",
            path="/a?b",
            mode=0o660,
            user="root",
            group="0",
        ),
    ),
    ("fd:3", Address("fd", "fd:3", path="3")),
    ("fd:web", Address("fd", "fd:web", path="web")),
]


@pytest.mark.parametrize(("text", "address"), UPSTREAMS)
def test_an_address_to_connect_to(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(("text", "address"), LISTENERS)
def test_an_address_to_listen_at(text: str, address: Address) -> None:
    assert parse_address(text, listen=True) == address


@pytest.mark.parametrize(
    ("text", "listen", "why"),
    [
        ("", False, "not an address: write HOST:PORT"),
        ("db", False, "not an address: write HOST:PORT"),
        ("80", True, "not an address: write HOST:PORT"),
        ("/run/x", True, "not an address: write unix:/run/x, if it is a path"),
        ("./x:1", False, "not an address: write unix:./x:1, if it is a path"),
        ("http://db:80", False, "not an address: write HOST:PORT"),
        ("a/b:80", False, "not an address"),
        ("a b:80", False, "not an address"),
        ("a\0b:80", True, "not an address"),
        (":80", False, "give a host before the port"),
        ("::1:80", False, "put an IPv6 address in brackets"),
        ("db:0", False, "nobody listens on port 0"),
        ("db:65536", True, "give a port from 0 to 65535"),
        ("db:http", True, "give a port from 0 to 65535"),
        ("db:", True, "give a port from 0 to 65535"),
        ("db:٣", True, "give a port from 0 to 65535"),
        ("tcp-listen://:80", False, "is to listen at"),
        ("unix-listen:/x", False, "is to listen at"),
        ("fd:3", False, "is to listen at"),
        ("unix:", False, "give a path, or @NAME"),
        ("unix:@", True, "give a path, or @NAME"),
        ("unix:a\0b", True, "a NUL cannot be"),
        ("unix:" + "x" * 108, True, "longer than 107 bytes"),
        ("fd:", True, "give the number or the name"),
        ("fd:99999999999", True, "give the number or the name"),
        ("db:80?v6only=1", False, "option v6only: this address has none"),
        (":80?v6only=yes", True, "option v6only: yes: give 1 or 0"),
        (":80?v6olny=1", True, "unknown option v6olny: did you mean v6only? known are v6only"),
        (":80?", True, "unknown option (empty)"),
        ("unix:/x?mode=9", True, "option mode: 9: not a mode"),
        ("unix:/x?mode", True, "option mode: give a value"),
        ("unix:/x?user=", True, "option user: give a value"),
        ("unix:/x?mode=600&mode=600", True, "option mode: given twice"),
        ("unix:@x?mode=600", True, "option mode: only a path has it"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_name(text: str, listen: bool, why: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text, listen=listen)
    assert str(caught.value).startswith(f"{text}: ")
    assert why in str(caught.value)


def test_only_what_stands_behind_the_last_question_mark_is_an_option() -> None:
    assert split_options("t", "a?b?c=1&d=x=y", ("c", "d")) == ("a?b", {"c": "1", "d": "x=y"})
    assert split_options("t", "plain", ("c",)) == ("plain", {})


def test_names_and_numbers_resolve_to_what_a_socket_takes() -> None:
    assert resolve(parse_address("127.0.0.1:80")) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert resolve(parse_address("[::1]:80")) == [(socket.AF_INET6, ("::1", 80, 0, 0))]
    assert (socket.AF_INET, ("127.0.0.1", 80)) in resolve(parse_address("localhost:80"))
    found = resolve(parse_address("localhost:80"))
    assert len(set(found)) == len(found)
    assert resolve(parse_address("unix:/x")) == [(socket.AF_UNIX, "/x")]
    assert resolve(parse_address("unix:@x")) == [(socket.AF_UNIX, b"\0x")]


@pytest.mark.parametrize("text", ["a..b:80", "ä..b:80", "x" * 64 + ".invalid:80"])
def test_a_name_that_is_none_is_told_without_asking_the_network(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(parse_address(text))
    assert str(caught.value).startswith(f"{text}: resolve: ")


def test_a_passed_socket_is_no_place() -> None:
    with pytest.raises(UsageError, match="fd:3: resolve: "):
        resolve(parse_address("fd:3", listen=True))


@pytest.mark.parametrize(
    ("family", "place", "text"),
    [
        (socket.AF_INET, ("127.0.0.1", 80), "127.0.0.1:80"),
        (socket.AF_INET6, ("::1", 80, 0, 0), "[::1]:80"),
        (socket.AF_UNIX, "/run/x", "unix:/run/x"),
        (socket.AF_UNIX, b"\0name", "unix:@name"),
        (socket.AF_UNIX, b"/run/\xff", "unix:/run/\udcff"),
    ],
)
def test_a_socket_address_is_shown_as_it_is_written(family: int, place: object, text: str) -> None:
    assert shown(family, place) == text
