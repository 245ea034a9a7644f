"""The PROXY protocol: what is built is read back, by HAProxy too, and anything else is refused."""

from __future__ import annotations

import socket
import subprocess
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Literal, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST as PATIENCE
from tests.machine import need
from zpipe.proxy.header import (
    LONGEST,
    Incomplete,
    Malformed,
    ProxyHeader,
    build,
    crc32c,
    parse,
    starts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zpipe.proxy.header import Ends

Version = Literal["v1", "v2"]
VERSIONS: tuple[Version, ...] = ("v1", "v2")
MAGIC = b"\r\n\r\n\0\r\nQUIT\n"
V4 = ("192.0.2.1", 56324)
V4_TOO = ("198.51.100.254", 443)
V6 = ("2001:db8::1", 1)
V6_TOO = ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535)
ZEROS = bytes(4)  # for a checksum that is still to be made


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def v2(command: int, kind: int, content: bytes) -> bytes:
    return MAGIC + bytes((command, kind)) + len(content).to_bytes(2, "big") + content


TLVS = tlv(1, b"h2") + tlv(3, ZEROS) + tlv(4, b"") + tlv(5, b"unique") + tlv(0xE0, bytes(300))
ADDRESSES4 = bytes((192, 0, 2, 1, 198, 51, 100, 254)) + b"\xdc\x04\x01\xbb"
BUILT = {
    "v1 tcp4": build("v1", V4, V4_TOO),
    "v1 tcp6": build("v1", V6, V6_TOO),
    "v1 unknown": build("v1", None, None),
    "v1 unknown with more": b"PROXY UNKNOWN ffff::1 what ever it is\r\n",
    "v2 tcp4": build("v2", V4, V4_TOO),
    "v2 tcp6": build("v2", V6, V6_TOO, TLVS),
    "v2 unix": build("v2", "/run/client", "@abstract", TLVS),
    "v2 unspec": build("v2", None, None, TLVS),
    "v2 local": v2(0x20, 0x00, b""),
    "v2 local with more": v2(0x20, 0xFF, b"whatever"),
}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.254 56324 443\r\n",
            ProxyHeader(1, False, "tcp4", V4, V4_TOO, b"", 47),
        ),
        (
            b"PROXY TCP6 2001:DB8:0:0::1 2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 1 65535\r\n",
            ProxyHeader(1, False, "tcp6", V6, V6_TOO, b"", 75),
        ),
        (
            b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n",
            ProxyHeader(1, False, "tcp4", ("0.0.0.0", 0), ("255.255.255.255", 65535), b"", 44),
        ),
        (b"PROXY UNKNOWN\r\n", ProxyHeader(1, True, "unspec", None, None, b"", 15)),
        (b"PROXY UNKNOWN a b\r\n", ProxyHeader(1, True, "unspec", None, None, b"", 19)),
        (
            v2(0x21, 0x11, ADDRESSES4 + tlv(2, b"example.org")),
            ProxyHeader(2, False, "tcp4", V4, V4_TOO, tlv(2, b"example.org"), 42),
        ),
        (
            v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") + b"\0b".ljust(108, b"\0")),
            ProxyHeader(2, False, "unix", "/run/a", "@b", b"", 232),
        ),
        (
            v2(0x21, 0x31, b"/" * 108 + bytes(108)),
            ProxyHeader(2, False, "unix", "/" * 108, "", b"", 232),
        ),
        (v2(0x20, 0x11, b"??"), ProxyHeader(2, True, "unspec", None, None, b"", 18)),
        (
            v2(0x21, 0x00, tlv(5, b"id")),
            ProxyHeader(2, False, "unspec", None, None, tlv(5, b"id"), 21),
        ),
        (v2(0x21, 0x10, b"ignored"), ProxyHeader(2, False, "unspec", None, None, b"", 23)),
    ],
)
def test_a_header_says_what_its_bytes_say(data: bytes, expected: ProxyHeader) -> None:
    assert parse(data) == expected
    assert parse(data + b"GET / HTTP/1.1\r\n\r\n") == expected


# what HAProxy refuses as well, see below
WRONG = {
    "http": b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
    "v1 without addresses": b"PROXY TCP4\r\n",
    "v1 with too few words": b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
    "v1 with two spaces": b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 with a space at the end": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
    "v1 of another family": b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
    "v1 of another family, too": b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 of an unknown protocol": b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v1 in lower case": b"proxy tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
    "v2 of version 1": v2(0x11, 0x11, ADDRESSES4),
    "v2 with an unknown command": v2(0x22, 0x11, ADDRESSES4),
    "v2 with an unknown family": v2(0x21, 0x41, ADDRESSES4),
    "v2 with an unknown protocol": v2(0x21, 0x13, ADDRESSES4),
    "v2 of datagrams": v2(0x21, 0x12, ADDRESSES4),
    "v2 shorter than addresses": v2(0x21, 0x11, ADDRESSES4[:-1]),
    "v2 with half a TLV": v2(0x21, 0x11, ADDRESSES4 + b"\4\0"),
    "v2 with a TLV that is too long": v2(0x21, 0x11, ADDRESSES4 + b"\4\0\2a"),
    "v2 with a wrong checksum": v2(0x21, 0x11, ADDRESSES4 + tlv(3, b"abcd")),
    "v2 with a short checksum": v2(0x21, 0x11, ADDRESSES4 + tlv(3, b"abc")),
}
# what HAProxy takes and the text of the protocol does not, or what it is not asked about
WRONG_BY_THE_LETTER = {
    "v1 with an impossible address": b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
    "v1 with a leading zero": b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
    "v1 with a leading zero in a port": b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
    "v1 with an impossible port": b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n",
    "v1 with a long port": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 100000\r\n",
    "v1 with a sign": b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
    "v1 with a digit of another script": "PROXY TCP4 192.0.2.1 192.0.2.2 ١ 2\r\n".encode(),
    "v1 with NUL": b"PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n",
    "v1 with a scope": b"PROXY TCP6 fe80::1%lo fe80::2 1 2\r\n",
    "v1 with a lone LF": b"PROXY UNKNOWN\n",
    "v1 with a lone CR": b"PROXY UNKNOWN a\rb\r\n",
    "v1 with a longer word": b"PROXY UNKNOWNS\r\n",
    "v1 with a line that is too long": b"PROXY UNKNOWN " + b"a" * 92 + b"\r\n",
    "v1 with a line that will be too long": b"PROXY UNKNOWN " + b"a" * 92,
    "v2 with two checksums": v2(0x21, 0x11, ADDRESSES4 + tlv(3, ZEROS) * 2),
    "v2 with unprintable UNIX paths": v2(0x21, 0x31, b"/a\nb".ljust(216, b"\0")),
    "v2 with UNIX paths of no encoding": v2(0x21, 0x31, b"/\xff".ljust(216, b"\0")),
    "v2 with NUL in an abstract name": v2(0x21, 0x31, b"\0a\0b".ljust(216, b"\0")),
}


@pytest.mark.parametrize("name", WRONG | WRONG_BY_THE_LETTER)
def test_what_is_no_header_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        parse((WRONG | WRONG_BY_THE_LETTER)[name])


@pytest.mark.parametrize(
    "begun",
    [
        b"G",
        b"PROXZ",
        b"PROXY TCP5",
        b"PROXY TCP4 a\n",
        b"PROXY UNKNOWN\rx",
        b"\r\n\r\n\1",
        MAGIC + b"\x31",
        MAGIC + b"\x21\x12",
        MAGIC + b"\x21\x11\0\4",
    ],
)
def test_what_cannot_become_a_header_is_refused_before_it_is_whole(begun: bytes) -> None:
    with pytest.raises(Malformed):
        parse(begun)


@pytest.mark.parametrize("name", BUILT)
def test_the_beginning_of_a_header_wants_more(name: str) -> None:
    header = BUILT[name]
    assert parse(header).length == len(header)
    assert starts(header) is True
    for length in range(len(header)):
        begun = header[:length]
        with pytest.raises(Incomplete) as incomplete:
            parse(begun)
        assert length < incomplete.value.wanted <= len(header)
        assert starts(begun) is (None if length < (6 if header[:1] == b"P" else 12) else True)


@pytest.mark.parametrize(
    "begun", [b"GET /", b"PROXY\t", b"P\r", b"\r\n\r\nx", b"\x16\x03\x01", b"PROXI"]
)
def test_a_stream_that_begins_otherwise_has_no_header(begun: bytes) -> None:
    assert starts(begun) is False


def test_the_longest_line_is_107_bytes() -> None:
    line = b"PROXY UNKNOWN ".ljust(105, b"a")
    assert parse(line + b"\r\n").length == 107
    with pytest.raises(Incomplete) as incomplete:
        parse(line)
    assert incomplete.value.wanted == 107


def test_a_header_of_version_2_is_taken_up_to_16_kib() -> None:
    header = build("v2", V4, V4_TOO, tlv(3, ZEROS) + tlv(4, bytes(LONGEST - 28 - 7 - 3)))
    assert len(header) == LONGEST
    assert parse(header).length == LONGEST
    with pytest.raises(Incomplete) as incomplete:
        parse(header[:16])
    assert incomplete.value.wanted == LONGEST
    longer = build("v2", V4, V4_TOO, tlv(4, bytes(LONGEST - 28 - 3 + 1)))
    with pytest.raises(Malformed):
        parse(longer[:16])


@pytest.mark.parametrize(
    ("source", "destination", "line"),
    [
        (V4, V4_TOO, "TCP4 192.0.2.1 198.51.100.254 56324 443"),
        (V6, V6_TOO, f"TCP6 2001:db8::1 {V6_TOO[0]} 1 65535"),
        (V4, V6, "TCP6 ::ffff:192.0.2.1 2001:db8::1 56324 1"),
        (V6, V4, "TCP6 2001:db8::1 ::ffff:192.0.2.1 1 56324"),
        (("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2), "TCP4 192.0.2.1 192.0.2.2 1 2"),
        (("::ffff:192.0.2.1", 1), V4_TOO, "TCP4 192.0.2.1 198.51.100.254 1 443"),
        (("fe80::1%lo", 1), ("fe80::2", 2), "TCP6 fe80::1 fe80::2 1 2"),
        (None, V4, "UNKNOWN"),
        (V4, None, "UNKNOWN"),
        ("/run/client", "/run/server", "UNKNOWN"),
    ],
)
def test_both_versions_say_the_same(source: Ends, destination: Ends, line: str) -> None:
    built = build("v1", source, destination, TLVS)
    assert built == f"PROXY {line}\r\n".encode()
    header = parse(build("v2", source, destination))
    if line != "UNKNOWN":
        words = line.split()
        assert header.family == words[0].lower()
        assert header.source == (words[1], int(words[3]))
        assert header.destination == (words[2], int(words[4]))
    else:
        assert header.family == ("unspec" if None in (source, destination) else "unix")


def test_an_abstract_name_is_the_same_with_nul_and_with_an_at_sign() -> None:
    assert build("v2", "@a", "\0b") == build("v2", "\0a", "@b")
    assert parse(build("v2", "\0a", "")).source == "@a"


@pytest.mark.parametrize(
    ("source", "destination", "tlvs"),
    [
        (("localhost", 1), V4, b""),
        (("192.0.2.1", 65536), V4, b""),
        (V6, ("::1", -1), b""),
        (("::1\0", 1), V6, b""),
        ("/" * 109, "/", b""),
        (V4, V4, b"\4\0\2a"),
        (V4, V4, tlv(3, b"abc")),
    ],
)
def test_what_no_header_can_say_is_a_value_error(
    source: Ends, destination: Ends, tlvs: bytes
) -> None:
    with pytest.raises(ValueError):
        build("v2", source, destination, tlvs)


def test_tlvs_that_do_not_fit_beside_longer_addresses_are_left_out() -> None:
    tlvs = tlv(4, bytes(0xFFFF - 12 - 3))
    assert build("v2", V4, V4_TOO, tlvs).endswith(tlvs)
    assert build("v2", V6, V6_TOO, tlvs) == build("v2", V6, V6_TOO)


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_the_checksum_is_that_of_the_standards(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_a_checksum_is_made_anew_for_other_addresses() -> None:
    received = parse(build("v2", V4, V4_TOO, TLVS))
    assert received.tlvs != TLVS
    sent = parse(build("v2", V6, V6_TOO, received.tlvs))
    assert sent.tlvs != received.tlvs
    assert len(sent.tlvs) == len(received.tlvs)
    assert build("v2", V4, V4_TOO, sent.tlvs) == build("v2", V4, V4_TOO, TLVS)


def test_a_checksum_tells_any_changed_byte() -> None:
    header = build("v2", V4, V4_TOO, tlv(5, b"unique") + tlv(3, ZEROS))
    assert parse(header).length == len(header)
    for place in set(range(len(header))) - {len(header) - 7}:  # there it says that it is one
        changed = bytearray(header)
        changed[place] ^= 0x04
        with pytest.raises((Malformed, Incomplete)):
            parse(bytes(changed))


addresses = st.tuples(st.ip_addresses().map(str), st.integers(0, 0xFFFF))
paths = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=100).map("/".__add__)
unix = st.one_of(paths, paths.map("@".__add__), st.just(""))
tlvs = st.lists(st.builds(tlv, st.integers(4, 255), st.binary(max_size=20)), max_size=4).map(
    b"".join
)


@given(version=st.sampled_from(VERSIONS), source=addresses, destination=addresses, more=tlvs)
def test_any_addresses_are_read_back(
    version: Version, source: tuple[str, int], destination: tuple[str, int], more: bytes
) -> None:
    header = parse(build(version, source, destination, more) + b"GET /")
    for given_end, end in ((source, header.source), (destination, header.destination)):
        assert isinstance(end, tuple)
        assert meaning(end[0]) == meaning(given_end[0])
        assert end[1] == given_end[1]
    assert header.tlvs == (more if version == "v2" else b"")


def meaning(text: str) -> IPv6Address:
    """Return an address as the IPv6 one that it is or is mapped to."""
    address = ip_address(text)
    return address if isinstance(address, IPv6Address) else IPv6Address(f"::ffff:{address}")


@given(source=unix, destination=unix, more=tlvs)
def test_any_unix_paths_are_read_back(source: str, destination: str, more: bytes) -> None:
    header = parse(build("v2", source, destination, more))
    assert (header.family, header.source, header.destination) == ("unix", source, destination)
    assert header.tlvs == more


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a header with a few bytes changed, put in or taken out."""
    data = bytearray(draw(st.sampled_from(list(BUILT.values()))))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


random = st.one_of(
    st.binary(),
    st.binary().map(MAGIC.__add__),
    st.binary().map((MAGIC + b"\x21\x11\0\x20").__add__),
    st.binary().map(b"PROXY ".__add__),
    st.text("TCP46 0123456789.:\r\nabUNKOW").map(lambda text: b"PROXY TCP" + text.encode()),
)


@given(data=st.one_of(mutated(), random))
def test_whatever_comes_is_judged_or_wants_more(data: bytes) -> None:
    try:
        header = parse(data)
    except Malformed:
        return
    except Incomplete as incomplete:
        assert len(data) < incomplete.wanted <= LONGEST
        assert starts(data) is not False
        return
    assert starts(data) is True
    assert parse(data[: header.length]) == header
    for end in (header.source, header.destination):
        assert end is None or (end if isinstance(end, str) else end[0]).isprintable()
    # and it can be passed on, whatever it was
    for version in VERSIONS:
        passed = parse(build(version, header.source, header.destination, header.tlvs))
        assert version == "v1" or len(passed.tlvs) == len(header.tlvs)


class Haproxy(NamedTuple):
    """HAProxy, with a listener for each thing that it is asked for."""

    reader: socket.socket  # answers what it has read in a header
    senders: dict[str, socket.socket]  # relay to `upstream`, behind a header
    upstream: socket.socket

    def reads(self, header: bytes) -> str:
        """Return source, destination and unique id as HAProxy understands a header; "": refused."""
        with socket.create_connection(self.reader.getsockname(), PATIENCE) as client:
            answer = b""
            try:
                client.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
                while part := client.recv(4096):
                    answer += part
            except ConnectionError:
                assert not answer
        return answer.partition(b"\r\n\r\n")[2].decode()

    def sends(self, name: str, first: bytes = b"") -> tuple[ProxyHeader, Ends, Ends]:
        """Return the header for a client of a listener, and the client's and the listener's end."""
        listener = self.senders[name]
        with socket.socket(listener.family) as client:
            client.settimeout(PATIENCE)
            client.connect(listener.getsockname())
            client.sendall(first + b"x")
            server, _ = self.upstream.accept()
            with server:
                server.settimeout(PATIENCE)
                data = b""
                while True:
                    part = server.recv(4096)
                    assert part
                    data += part
                    try:
                        header = parse(data)
                    except Incomplete:
                        continue
                    return header, client.getsockname()[:2], listener.getsockname()[:2]


CONFIG = """
global
  maxconn 100
defaults
  mode tcp
  timeout connect 30s
  timeout client 30s
  timeout server 30s
frontend reader
  mode http
  bind fd@{reader} accept-proxy
  http-request return status 200 content-type text/plain \
lf-string "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id]"
listen v1
  bind fd@{v1}
  bind fd@{v1_ipv6}
  server upstream {upstream} send-proxy
listen v2
  bind fd@{v2}
  bind fd@{v2_ipv6}
  bind fd@{v2_unix}
  server upstream {upstream} send-proxy-v2
listen v2_tlvs
  bind fd@{v2_tlvs}
  unique-id-format %ci:%cp
  server upstream {upstream} send-proxy-v2 proxy-v2-options unique-id,crc32c
listen passed_on
  bind fd@{passed_on} accept-proxy
  server upstream {upstream} send-proxy-v2 proxy-v2-options crc32c
"""


def listening(family: socket.AddressFamily, address: str | tuple[str, int]) -> socket.socket:
    listener = socket.socket(family)
    listener.bind(address)
    listener.listen()
    listener.settimeout(PATIENCE)
    return listener


@pytest.fixture(scope="module")
def haproxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    program = need("haproxy")
    folder = tmp_path_factory.mktemp("haproxy")
    places: dict[str, tuple[socket.AddressFamily, str | tuple[str, int]]] = {
        **dict.fromkeys(
            ("reader", "v1", "v2", "v2_tlvs", "passed_on", "upstream"),
            (socket.AF_INET, ("127.0.0.1", 0)),
        ),
        **dict.fromkeys(("v1_ipv6", "v2_ipv6"), (socket.AF_INET6, ("::1", 0))),
        "v2_unix": (socket.AF_UNIX, str(folder / "socket")),
    }
    sockets = {name: listening(*place) for name, place in places.items()}
    upstream = sockets.pop("upstream")
    host, port = upstream.getsockname()
    fds = {name: listener.fileno() for name, listener in sockets.items()}
    config = folder / "haproxy.cfg"
    config.write_text(CONFIG.format(**fds, upstream=f"{host}:{port}"))
    # the sockets listen already: who connects is served as soon as it is up
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)],
            pass_fds=list(fds.values()),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield Haproxy(sockets["reader"], sockets, upstream)
        assert process.poll() is None, (folder / "log").read_text()
    finally:
        process.kill()
        process.wait()
        upstream.close()
        for listener in sockets.values():
            listener.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("source", "destination", "seen"),
    [
        (V4, V4_TOO, "192.0.2.1 56324 198.51.100.254 443"),
        (V6, V6_TOO, f"2001:db8::1 1 {V6_TOO[0]} 65535"),
        (V4, V6, "::ffff:192.0.2.1 56324 2001:db8::1 1"),
        (("::ffff:192.0.2.1", 1), ("::ffff:192.0.2.2", 2), "192.0.2.1 1 192.0.2.2 2"),
    ],
)
def test_haproxy_reads_what_is_built(
    haproxy: Haproxy,
    version: Version,
    source: tuple[str, int],
    destination: tuple[str, int],
    seen: str,
) -> None:
    assert haproxy.reads(build(version, source, destination)) == f"{seen} "
    passed = "unique" if version == "v2" else ""
    assert haproxy.reads(build(version, source, destination, TLVS)) == f"{seen} {passed}"


def test_haproxy_takes_an_unknown_end_for_that_of_the_connection(haproxy: Haproxy) -> None:
    for header in (build("v1", None, None), BUILT["v2 local"], BUILT["v2 local with more"]):
        seen = haproxy.reads(header).split()
        assert seen[0] == "127.0.0.1"
        assert seen[2:] == [str(word) for word in haproxy.reader.getsockname()]
        assert parse(header).local


@pytest.mark.parametrize("name", WRONG)
def test_haproxy_refuses_what_is_refused_here(haproxy: Haproxy, name: str) -> None:
    assert haproxy.reads(WRONG[name]) == ""


@pytest.mark.parametrize("name", ["v1", "v1_ipv6", "v2", "v2_ipv6", "v2_tlvs"])
def test_what_haproxy_sends_is_read(haproxy: Haproxy, name: str) -> None:
    header, client, listener = haproxy.sends(name)
    assert header.version == int(name[1])
    assert header.family == ("tcp6" if name.endswith("ipv6") else "tcp4")
    assert (header.source, header.destination) == (client, listener)
    if name == "v2_tlvs":
        assert isinstance(client, tuple)
        assert tlv(5, f"{client[0]}:{client[1]}".encode()) in header.tlvs
        assert header.tlvs.startswith(b"\3\0\4")  # a checksum, which parse has found to be right


def test_what_haproxy_sends_for_a_unix_client_is_read(haproxy: Haproxy) -> None:
    header, _, _ = haproxy.sends("v2_unix")
    assert header.local or header.family == "unix"


@pytest.mark.parametrize(
    ("source", "destination"), [(V4, V4_TOO), (V6, V6_TOO)], ids=["tcp4", "tcp6"]
)
@pytest.mark.parametrize("version", VERSIONS)
def test_what_haproxy_passes_on_is_what_it_was_told(
    haproxy: Haproxy, version: Version, source: Ends, destination: Ends
) -> None:
    header, _, _ = haproxy.sends("passed_on", build(version, source, destination))
    assert (header.source, header.destination) == (source, destination)
    # to the byte what is built here, checksum and all
    assert header.tlvs
    assert parse(build("v2", source, destination, tlv(3, ZEROS))) == header
