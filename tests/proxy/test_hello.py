"""The name in a ClientHello: of real clients, cut anywhere, and of what only looks like one."""

from __future__ import annotations

import gc
import os
import socket
import ssl
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, environment, need
from zpipe.proxy import header
from zpipe.proxy.hello import MOST, Incomplete, NotTls, matches, server_name

if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = "www.example.org"
PROTOCOLS = tuple(f"protocol-{number:04}" for number in range(3000))  # 14 bytes each in a hello
SAFE = set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
OLD = ssl.TLSVersion.TLSv1_2
NEW = ssl.TLSVersion.TLSv1_3


@cache
def hello(
    name: str | None = NAME, version: ssl.TLSVersion = NEW, protocols: tuple[str, ...] = ()
) -> bytes:
    """Return the first flight of a client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    if protocols:
        context.set_alpn_protocols(list(protocols))
    written = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), written, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return written.read()


def in_records(data: bytes, sizes: Iterable[int]) -> bytes:
    """Return a ClientHello of one record as several ones."""
    kind, content, records = data[:3], data[5:], b""
    for size in sizes:
        part, content = content[:size], content[size:]
        records += kind + len(part).to_bytes(2, "big") + part
    return records + kind + len(content).to_bytes(2, "big") + content


HELLOS = {
    "tls 1.3": hello(),
    "tls 1.2": hello(version=OLD),
    "alpn": hello(protocols=("h2", "http/1.1")),
    "no name": hello(None),
    "as long as with post-quantum keys": hello(protocols=PROTOCOLS[:100]),
    "several records": in_records(hello(), [1, 3, 100, 1]),
}


@pytest.mark.parametrize("version", [OLD, NEW])
@pytest.mark.parametrize("protocols", [(), ("h2",), PROTOCOLS[:100], PROTOCOLS[:1150]])
@pytest.mark.parametrize(
    "name", [NAME, "a", "xn--mller-kva.example", "_srv.a-b.example", "a" * 63 + ".b" * 95, None]
)
def test_the_name_is_read(
    name: str | None, protocols: tuple[str, ...], version: ssl.TLSVersion
) -> None:
    data = hello(name, version, protocols)
    assert len(data) <= MOST
    assert server_name(data) == name
    assert server_name(data + b"and what the client says early") == name


def test_a_name_of_another_alphabet_arrives_as_a_labels() -> None:
    assert server_name(hello("Müller.example")) == "xn--mller-kva.example"


def test_a_name_is_told_in_lower_case_and_without_a_dot_at_its_end() -> None:
    assert server_name(hello("WWW.Example.ORG")) == NAME
    assert server_name(hello(NAME + "x").replace(b"org" + b"x", b"org.")) == NAME


@pytest.mark.parametrize("name", HELLOS)
def test_the_beginning_of_a_hello_wants_more(name: str) -> None:
    data = HELLOS[name]
    server_name(data)
    for length in range(len(data)):
        with pytest.raises(Incomplete) as incomplete:
            server_name(data[:length])
        assert length < incomplete.value.wanted <= len(data)


def test_only_one_kind_of_incomplete_has_to_be_caught() -> None:
    assert Incomplete is header.Incomplete


@given(sizes=st.lists(st.integers(1, 300), max_size=20))
def test_a_hello_may_come_in_any_records(sizes: list[int]) -> None:
    data = hello(protocols=PROTOCOLS[:300])
    assert server_name(in_records(data, sizes)) == NAME


def test_a_hello_longer_than_a_record_is_read() -> None:
    data = hello(protocols=PROTOCOLS[:1180])
    assert 16384 + 5 + 5 < len(data) <= MOST
    assert server_name(data) == NAME


def test_a_hello_that_is_too_long_is_refused() -> None:
    data = hello(protocols=PROTOCOLS)
    assert len(data) > MOST
    with pytest.raises(Incomplete) as incomplete:
        server_name(data[: MOST - 1])
    assert incomplete.value.wanted == MOST
    with pytest.raises(NotTls):
        server_name(data[:MOST])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0",
        b"SSH-2.0-OpenSSH\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\x80\x2e\x01\x03\x01",  # the ClientHello of SSL 2
        b"\x16\x02",
        b"\x16\x03\x01\x40\x01",  # one byte more than a record may carry
        b"\x17\x03\x03\x00\x01a",  # data of an application
        b"\x16\x03\x01\x00\x04\x02\0\0\0",  # a ServerHello
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",  # a hello of 16 MiB
        b"\x16\x03\x01\x00\x06\x01\0\0\x02\x03\x03",
    ],
)
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    with pytest.raises(NotTls):
        server_name(data)


@pytest.mark.parametrize(
    "name",
    [
        b"www.exam\nle.org",
        b"www.exam\x1b[m.org",
        b"www.exam le.org",
        b"www.exam/le.org",
        b"www..xample.org",
        b".ww.example.org",
        b"-ww.example.org",
        b"www.exampl-.org",
        b"www.exam*le.org",
        b"www.exam:le.org",
        b"w\xc3\xbcw.example.or",
        b"www.exam\xffle.org",
        b"\xff" * len(NAME),
        b"." * len(NAME),
    ],
)
def test_a_name_that_no_host_can_have_is_none(name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    before = sys.unraisablehook
    data = hello().replace(NAME.encode(), name)
    assert len(data) == len(hello())
    assert server_name(data) is None
    assert not told, "Python complains of what a client has sent"
    assert sys.unraisablehook is before


def test_a_label_of_more_than_63_letters_is_none() -> None:
    longest = "a" * 63 + "." + "b" * 63
    assert server_name(hello(longest)) == longest
    assert server_name(hello(longest).replace(b"." + b"b" * 63, b"b" * 64)) is None


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a ClientHello with a few bytes changed, put in or taken out."""
    data = bytearray(draw(st.sampled_from(list(HELLOS.values()))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@st.composite
def changed(draw: st.DrawFn) -> bytes:
    """Draw a ClientHello with bytes changed inside its record: the lengths may still be right."""
    data = bytearray(draw(st.sampled_from(list(HELLOS.values()))))
    for _ in range(draw(st.integers(1, 8))):
        data[draw(st.integers(5, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


framed = st.binary(max_size=200).map(
    lambda data: b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data
)
random = st.one_of(st.binary(), st.binary().map(b"\x16\x03".__add__), framed)


@given(data=st.one_of(mutated(), changed(), random))
def test_whatever_comes_is_judged_or_wants_more(data: bytes) -> None:
    try:
        name = server_name(data)
    except NotTls as error:
        assert str(error)
    except Incomplete as incomplete:
        assert len(data) < incomplete.wanted <= MOST
    else:
        assert name is None or (name and set(name) <= SAFE)


def resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_memory_is_kept_whatever_comes() -> None:
    kinds = [
        hello(),
        in_records(hello(), [100])[:-1],
        hello().replace(NAME.encode(), b"\xff" * len(NAME)),
        b"\x16\x03\x01\x00\x04\x02\0\0\0",
    ]

    def ask(times: int) -> None:
        for _ in range(times):
            for data in kinds:
                try:
                    server_name(data)
                except (NotTls, Incomplete):
                    pass

    gc.disable()  # what is only freed by the collector is kept for too long
    try:
        ask(100)
        before = resident()
        ask(1500)
        kept = resident() - before
    finally:
        gc.enable()
    assert kept < 6000 * 500, "an SSL object is some 10 KiB"


def test_ssl_is_loaded_with_the_first_hello_only() -> None:
    program = (
        "import sys, zpipe.proxy.hello as hello\n"
        "assert 'ssl' not in sys.modules\n"
        "try: hello.server_name(b'GET /')\n"
        "except hello.NotTls: pass\n"
        "assert 'ssl' not in sys.modules\n"
        f"assert hello.server_name({hello()!r}) == {NAME!r}\n"
        "assert 'ssl' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "options",
    [
        ["-servername", NAME],
        ["-servername", NAME, "-tls1_2"],
        ["-servername", NAME, "-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        ["-servername", NAME, "-alpn", "h2,http/1.1", "-status"],
        ["-servername", NAME, "-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"],
        ["-noservername"],
    ],
    ids=" ".join,
)
def test_the_hello_of_openssl_is_peeked(options: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONGEST)
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [need("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            client, _ = listener.accept()
            with client:
                name = peeked(client)
        finally:
            process.kill()
            process.communicate()
    assert name == (NAME if NAME in options else None)


def peeked(client: socket.socket) -> str | None:
    """Return the name without taking a byte off the stream."""
    wanted = 1
    while True:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wanted)
        data = client.recv(MOST, socket.MSG_PEEK)
        assert len(data) >= wanted, "the client has left"
        try:
            return server_name(data)
        except Incomplete as incomplete:
            wanted = incomplete.wanted


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("example.org", "example.org", True),
        ("Example.ORG", "example.org", True),
        ("example.org.", "example.org", True),
        ("example.org", "EXAMPLE.org.", True),
        ("example.org", "www.example.org", False),
        ("example.org", "example.org.evil", False),
        ("*.example.org", "www.example.org", True),
        ("*.Example.org", "WWW.example.org.", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", "a.b.example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "www.example.com", False),
        ("*.example.org", "wwwexample.org", False),
        ("*.example.org", "*.example.org", True),
        ("*.org", "example.org", True),
        ("*", "example", False),
        ("w*.example.org", "www.example.org", False),
        ("xn--mller-kva.example", "xn--mller-kva.example", True),
        ("", "", False),
        ("*.", "a.", False),
    ],
)
def test_a_star_stands_for_one_label(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected
