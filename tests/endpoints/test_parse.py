"""Operands: which of them are addresses, which are paths, and which can be neither."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.endpoints import KINDS, kind_of, parse
from zpipe.endpoints.unix import socket_address
from zpipe.errors import UsageError


@pytest.mark.parametrize(
    ("text", "kind", "address", "options"),
    [
        # paths
        ("file.txt", "file", "file.txt", {}),
        ("/dev/sdb", "file", "/dev/sdb", {}),
        ("a:b", "file", "a:b", {}),
        ("backup:2024-01-01.tar", "file", "backup:2024-01-01.tar", {}),
        ("what?", "file", "what?", {}),
        ("a?offset=1", "file", "a?offset=1", {}),
        ("./tcp://h:1", "file", "./tcp://h:1", {}),
        ("./null:", "file", "./null:", {}),
        ("dir/fd:1", "file", "dir/fd:1", {}),
        (":", "file", ":", {}),
        (":80", "file", ":80", {}),
        ("--", "file", "--", {}),
        # addresses
        ("-", "-", "", {}),
        ("file:a:b", "file", "a:b", {}),
        ("file:-", "file", "-", {}),
        ("file:a?offset=1K&direct=1", "file", "a", {"offset": "1K", "direct": "1"}),
        ("file:what??offset=1", "file", "what?", {"offset": "1"}),
        ("fd:3", "fd", "3", {}),
        ("fd:web", "fd", "web", {}),
        ("pipe:p?q=1", "pipe", "p?q=1", {}),
        ("tcp://h:1", "tcp", "h:1", {}),
        ("tcp://[::1]:80?timeout=5s", "tcp", "[::1]:80", {"timeout": "5s"}),
        ("tcp-listen://:0", "tcp-listen", ":0", {}),
        ("unix:a:b", "unix", "a:b", {}),
        ("unix:@name", "unix", "@name", {}),
        ("unix-listen:p?mode=0666", "unix-listen", "p", {"mode": "0666"}),
        ("exec:sh -c 'a?b=c'", "exec", "sh -c 'a?b=c'", {}),
        ("null:", "null", "", {}),
        ("zero:?size=1G", "zero", "", {"size": "1G"}),
        ("zero:", "zero", "", {}),
        ("pattern:any seed?size=1G", "pattern", "any seed", {"size": "1G"}),
    ],
)
def test_an_operand_as_a_source(
    text: str, kind: str, address: str, options: dict[str, str]
) -> None:
    endpoint = parse(text, sink=False)
    assert (endpoint.text, endpoint.kind, endpoint.address) == (text, kind, address)
    assert dict(endpoint.options) == options


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "an operand is empty"),
        ("file:", "the path is empty"),
        ("http://host/", r"unknown scheme http: known are file, .*; a path: \./http://host/"),
        ("TCP://h:1", "unknown scheme TCP"),
        ("tcp:h:1", r"write it as tcp://HOST:PORT; a path: \./tcp:h:1"),
        ("tcp-listen::80", "write it as tcp-listen://HOST:PORT"),
        ("tcp://", "give a port from 0 to 65535"),
        ("tcp://h", "give a port from 0 to 65535"),
        ("tcp://h:", "give a port from 0 to 65535"),
        ("tcp://h:http", "give a port from 0 to 65535"),
        ("tcp://h:65536", "give a port from 0 to 65535"),
        ("tcp://h:-1", "give a port from 0 to 65535"),
        ("tcp://h:²", "give a port from 0 to 65535"),
        ("tcp://h:" + "9" * 5000, "give a port from 0 to 65535"),
        ("tcp://:80", "give a host before the port"),
        ("tcp://h:0", "nobody listens on port 0"),
        ("tcp://::1:80", r"put an IPv6 address in brackets, like \[::1\]:80"),
        ("tcp://h:80?timeout=0", "option timeout: 0: not a duration"),
        ("tcp://h:80?linger=soon", "option linger: soon: not a duration"),
        ("tcp-listen://:80?linger=x", "option linger: x: not a duration"),
        ("unix:", "give a path, or @NAME"),
        ("unix:@", "give a path, or @NAME"),
        ("unix:" + "x" * 108, "longer than 107 bytes"),
        ("unix-listen:" + "é" * 54, "longer than 107 bytes"),
        ("unix-listen:p?mode=999", "option mode: 999: not a mode"),
        ("unix-listen:p?mode=10000", "option mode: 10000: not a mode"),
        ("pipe:", "the path is empty"),
        ("fd:", "give a number or a name"),
        ("fd:2147483648", "no fd has such a number"),
        ("fd:" + "9" * 5000, "no fd has such a number"),
        ("exec:", "give a command"),
        ("exec:  ", "give a command"),
        ("exec:sh -c 'unclosed", "split into words: No closing quotation"),
        ("null:x", r"takes no address; a path: \./null:x"),
        ("zero:x", "takes no address"),
        ("zero:?size=lots", "option size: lots: not a size"),
        ("pattern:", "give a seed"),
        ("pattern:?size=1", "give a seed"),
        ("file:a?offset=-1", "option offset: -1: not a size"),
        ("file:a?direct=yes", "option direct: yes: give 1 or 0"),
        ("file:a?", "unknown option"),
        ("file:a?offset=1&", "unknown option"),
        ("file:a?offset", "option offset: give a value, offset=..."),
        ("file:a?offset=1&offset=2", "option offset: given twice"),
        ("file:a?Offset=1", "unknown option Offset: did you mean offset. known are offset, length"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error_that_names_it(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why) as caught:
        parse(text, sink=False)
    assert str(caught.value).startswith(text or "an operand")


@pytest.mark.parametrize(
    ("text", "sink", "why"),
    [
        ("zero:", True, "zero:: cannot be a sink"),
        ("zero:?size=1", True, "cannot be a sink"),
        ("file:a?append=1", False, "option append: is for a sink"),
        ("file:a?mode=0600", False, "option mode: is for a sink"),
        ("file:a?length=1", True, "option length: is for a source"),
        ("file:a?append=1&offset=1", True, "append and offset exclude each other"),
        ("file:a?append=2", True, "option append: 2: give 1 or 0"),
        ("file:a?mode=0888", True, "option mode: 0888: not a mode"),
    ],
)
def test_an_option_stands_at_its_own_side_only(text: str, sink: bool, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse(text, sink=sink)


@pytest.mark.parametrize(
    "text", ["file:a?append=1", "file:a?mode=0640", "file:a?append=0&offset=1", "file:a?offset=0"]
)
def test_options_of_a_sink(text: str) -> None:
    parse(text, sink=True)


def test_the_table_gives_each_kind_by_its_scheme_and_no_other() -> None:
    for name in KINDS:
        assert kind_of(name).name == name
    with pytest.raises(KeyError):
        kind_of("http")


def test_an_abstract_name_is_an_address_behind_a_nul() -> None:
    assert socket_address(parse("unix:@name", sink=False)) == b"\0name"
    assert socket_address(parse("unix:./@name", sink=False)) == "./@name"
    assert socket_address(parse("unix:@" + "x" * 106, sink=False)) == b"\0" + b"x" * 106


SCHEMES = st.sampled_from([*(f"{name}:" for name in KINDS), "tcp://", "tcp-listen://", "x://", ""])


@given(
    scheme=SCHEMES,
    rest=st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    sink=st.booleans(),
)
def test_any_text_is_an_address_a_path_or_a_usage_error(scheme: str, rest: str, sink: bool) -> None:
    text = scheme + rest
    try:
        endpoint = parse(text, sink=sink)
    except UsageError as error:
        assert str(error).startswith(text or "an operand is empty")
    else:
        assert endpoint.text == text
        assert endpoint.kind in KINDS
        assert endpoint.kind == "-" or endpoint.address in text


@given(
    address=st.text(st.characters(codec="utf-8", exclude_characters="?\0"), min_size=1),
    size=st.integers(0, 2**40),
)
def test_options_come_off_the_end_and_leave_the_address_whole(address: str, size: int) -> None:
    endpoint = parse(f"pattern:{address}?size={size}", sink=False)
    assert (endpoint.address, dict(endpoint.options)) == (address, {"size": str(size)})
