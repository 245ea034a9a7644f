"""PROXY headers that a whole `zpipe proxy` takes from clients and sends to servers."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.machine import LONGEST, need, until
from tests.proxy.proxying import (
    Proxy,
    address,
    asked,
    connected,
    echo,
    exactly,
    proxying,
    received,
    sending,
    serving,
)
from zpipe.proxy.header import Incomplete, Malformed, build, parse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.proxy.proxying import Server

CLIENT, FRONT = ("192.0.2.7", 56324), ("203.0.113.1", 443)
CLIENT6, FRONT6 = ("2001:db8::7", 56324), ("2001:db8::1", 443)
TLVS = b"\x01\0\2h2" + b"\x05\0\6unique" + b"\xe0\1\0" + bytes(256)
HEADERS = {
    "v1": build("v1", CLIENT, FRONT),
    "v2": build("v2", CLIENT, FRONT),
    "v1 of IPv6": build("v1", CLIENT6, FRONT6),
    "v2 of IPv6": build("v2", CLIENT6, FRONT6),
    "v2 with TLVs": build("v2", CLIENT, FRONT, TLVS),
}
BAD = {
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "v1 without addresses": b"PROXY TCP4\r\n",
    "v1 with a port too many": b"PROXY TCP4 192.0.2.7 203.0.113.1 1 65536\r\n",
    "v1 with an address of the wrong family": b"PROXY TCP6 192.0.2.7 203.0.113.1 1 2\r\n",
    "v1 without an end": b"PROXY TCP4 " + b"1" * 200,
    "v1 with a lone LF": b"PROXY TCP4 192.0.2.7 203.0.113.1 1 2\n",
    "v2 of version 3": HEADERS["v2"][:12] + b"\x31" + HEADERS["v2"][13:],
    "v2 that is too short for its addresses": HEADERS["v2"][:14] + b"\0\4" + b"abcd",
    "v2 with a broken TLV": build("v2", CLIENT, FRONT)[:14] + b"\0\x0f" + bytes(12) + b"\1\0\7",
}


@pytest.fixture
def teller() -> Iterator[Server]:
    """A server that tells what header it was sent, in a line, and is an echo from then on."""

    def tell(end: socket.socket) -> None:
        data = b""
        while True:
            try:
                found = parse(data)
                break
            except Incomplete as error:
                more = end.recv(error.wanted - len(data))
                if not more:
                    return  # whoever only looks whether somebody listens
                data += more
        told = {
            "version": found.version,
            "local": found.local,
            "family": found.family,
            "source": found.source,
            "destination": found.destination,
            "tlvs": found.tlvs.hex(),
        }
        with suppress(ConnectionError):
            end.sendall(json.dumps(told).encode() + b"\n")
            echo(end)

    with serving(tell) as server:
        yield server


def told(end: socket.socket) -> dict[str, Any]:
    """Return what the teller says."""
    line = b""
    while not line.endswith(b"\n"):
        more = end.recv(1)
        assert more, f"it ends after {line!r}"
        line += more
    found: dict[str, Any] = json.loads(line)
    return found


def is_cut_off(end: socket.socket) -> bool:
    """Wait for the end, and tell whether nothing came before."""
    with suppress(ConnectionResetError):
        return end.recv(1) == b""
    return True


def from_elsewhere(proxy: Proxy) -> socket.socket:
    """Connect from 127.0.0.2."""
    _, place = address(proxy.listeners[0])
    return socket.create_connection(place, LONGEST / 2, ("127.0.0.2", 0))


# Taken from clients


@pytest.mark.parametrize("pieces", ["whole", "with data", "byte by byte", "all byte by byte"])
def test_a_header_is_taken_off_the_stream(teller: Server, pieces: str) -> None:
    with proxying("--accept-proxy", "--send-proxy=v2", teller.text) as proxy:
        for count, (name, header) in enumerate(HEADERS.items(), 1):
            with proxy.connect() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if pieces == "whole":
                    client.sendall(header)
                    seen = told(client)
                    client.sendall(b"data")
                elif pieces == "with data":
                    client.sendall(header + b"data")
                    seen = told(client)
                else:
                    slowly = header + (b"data" if pieces.startswith("all") else b"")
                    for byte in slowly:
                        client.sendall(bytes([byte]))
                    client.sendall(b"" if pieces.startswith("all") else b"data")
                    seen = told(client)
                assert exactly(client, 4) == b"data"
                v6 = "IPv6" in name
                assert seen["source"] == list(CLIENT6 if v6 else CLIENT)
                assert seen["destination"] == list(FRONT6 if v6 else FRONT)
                assert seen["tlvs"] == (TLVS.hex() if "TLVs" in name else "")
            snapshot = proxy.until_idle()
            assert snapshot["bytes"]["up"] >= 4 * count
            assert snapshot["connections"]["closed"] == {"closed": count}


def test_bulk_behind_a_header_arrives_whole(upstream: Server) -> None:
    data = os.urandom(3 << 20)
    with (
        proxying("--accept-proxy", upstream.text) as proxy,
        proxy.connect() as client,
        sending(client, HEADERS["v2 with TLVs"] + data),
    ):
        assert received(client) == data


def test_an_end_of_input_together_with_the_header_reaches_the_server(upstream: Server) -> None:
    with proxying("--accept-proxy", upstream.text) as proxy, proxy.connect() as client:
        client.sendall(HEADERS["v1"] + b"all")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b"all"
        assert proxy.until_idle()["connections"]["closed"] == {"closed": 1}


def test_what_comes_while_the_server_is_connected_to_is_read_later() -> None:
    """The queue of this server is full, so that it does not answer."""
    with socket.socket() as server, ExitStack() as held:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        place = server.getsockname()
        held.enter_context(socket.create_connection(place))
        words = ("--accept-proxy", "--connect-timeout=2s", f"127.0.0.1:{place[1]}")
        with proxying(*words) as proxy, proxy.connect() as client:
            client.sendall(HEADERS["v1"])
            proxy.until(lambda one: one["upstreams"][0]["active"] == 1, "it connects")
            client.sendall(b"more")
            client.shutdown(socket.SHUT_WR)
            for _ in range(2):  # the loop has seen that before the second question
                assert proxy.snapshot()["upstreams"][0]["active"] <= 1
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            snapshot = proxy.until_closed("no-upstream")
            (target,) = snapshot["upstreams"]
            assert (target["active"], target["failures"]) == (0, 1)


def test_a_header_is_taken_from_a_unix_client(teller: Server, tmp_path: Path) -> None:
    listen = (f"unix:{tmp_path}/socket",)
    words = ("--accept-proxy", "--send-proxy=v2", teller.text)
    with proxying(*words, listen=listen) as proxy, proxy.connect() as client:
        client.sendall(HEADERS["v2"] + b"data")
        assert told(client)["source"] == list(CLIENT)
        assert exactly(client, 4) == b"data"


def test_what_is_no_header_ends_the_connection_and_is_counted(upstream: Server) -> None:
    with proxying("--accept-proxy", upstream.text) as proxy:
        proxy.snapshot()
        fds = sorted(proxy.fds())
        for count, (name, bad) in enumerate(BAD.items(), 1):
            with proxy.connect() as client:
                client.sendall(bad)
                assert is_cut_off(client), name
            proxy.until_closed("bad-header", count)
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["closed"] == {"bad-header": len(BAD)}
        assert snapshot["bytes"] == {"up": 0, "down": 0, "spliced": 0, "lost": 0}
        assert upstream.count == 0
        assert sorted(proxy.fds()) == fds
        with proxy.connect() as client:
            client.sendall(HEADERS["v1"])
            assert asked(client, b"x") == b"x"


def test_half_a_header_is_a_bad_one_and_none_is_a_client_that_left(upstream: Server) -> None:
    with proxying("--accept-proxy", upstream.text) as proxy:
        with proxy.connect() as client:
            client.sendall(HEADERS["v2"][:20])
            client.shutdown(socket.SHUT_WR)
            assert is_cut_off(client)
        proxy.until_closed("bad-header")
        with proxy.connect():
            pass
        snapshot = proxy.until_closed("client-left")
        assert snapshot["connections"]["closed"] == {"bad-header": 1, "client-left": 1}
        assert upstream.count == 0


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4 192.0.2.7"])
def test_a_header_that_does_not_come_in_time_is_not_waited_for(
    upstream: Server, begun: bytes
) -> None:
    words = ("--accept-proxy", "--opening-timeout=200ms", upstream.text)
    with proxying(*words) as proxy, proxy.connect() as client:
        client.sendall(begun)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        snapshot = proxy.until_closed("opening-timeout")
        assert snapshot["connections"]["active"] == 0


def test_a_header_is_believed_from_those_that_are_trusted_only(upstream: Server) -> None:
    words = ("--accept-proxy", "--trust-proxy=127.0.0.1", "--trust-proxy=::1", upstream.text)
    with proxying(*words, listen=("127.0.0.1:0", "[::1]:0")) as proxy:
        for number in (0, 1):
            with proxy.connect(number) as client:
                client.sendall(HEADERS["v1"])
                assert asked(client, b"x") == b"x"
        with from_elsewhere(proxy) as client:
            client.sendall(HEADERS["v1"])
            assert is_cut_off(client)
        proxy.until_closed("bad-header")
        assert upstream.count == 2


def test_where_it_is_optional_everybody_is_served(upstream: Server) -> None:
    """Of who is not trusted, a header is data as everything else."""
    words = ("--accept-proxy=optional", "--trust-proxy=127.0.0.1", upstream.text)
    with proxying(*words) as proxy:
        with proxy.connect() as client:
            client.sendall(HEADERS["v2"])
            assert asked(client, b"with") == b"with"
        for plain in (b"without", b"PROXX TCP4 ...", b"\r\n\r\n\0\r\nQUITE", b"Q"):
            with proxy.connect() as client:
                for byte in plain:  # each is a beginning that may become a header, for a while
                    client.sendall(bytes([byte]))
                assert exactly(client, len(plain)) == plain
        with proxy.connect() as client:
            client.sendall(b"PRO")  # that is all: no header, and no reason to wait for more
            client.shutdown(socket.SHUT_WR)
            assert received(client) == b"PRO"
        with from_elsewhere(proxy) as client:
            assert asked(client, HEADERS["v1"]) == HEADERS["v1"]
        with proxy.connect() as client:
            client.sendall(BAD["v1 without addresses"])
            assert is_cut_off(client)
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["closed"] == {"closed": 7, "bad-header": 1}


def test_the_client_of_the_header_is_who_is_judged_counted_and_logged(
    upstream: Server, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    words = ("--access-log", log, "--access-format=json", "--deny=198.51.100.0/24")
    with proxying("--accept-proxy", "--per-source=1", *words, upstream.text) as proxy:
        with proxy.connect() as first, proxy.connect() as second, proxy.connect() as third:
            first.sendall(HEADERS["v2"])
            assert asked(first, b"x") == b"x"
            second.sendall(HEADERS["v1 of IPv6"])  # another client, by the same balancer
            assert asked(second, b"x") == b"x"
            third.sendall(HEADERS["v1"])
            assert is_cut_off(third)
        with proxy.connect() as client:
            client.sendall(build("v1", ("198.51.100.9", 1), FRONT))
            assert is_cut_off(client)
        proxy.until_idle()
        with proxy.connect() as client:  # the first of this source has gone
            client.sendall(HEADERS["v1"])
            assert asked(client, b"x") == b"x"
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["refused"] == {"per-source": 1, "denied": 1}
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    peers = sorted(json.loads(line)["peer"] for line in log.read_text().splitlines())
    assert peers == ["192.0.2.7:56324", "192.0.2.7:56324", "[2001:db8::7]:56324"]


def test_whatever_comes_first_is_taken_or_refused_as_the_parser_judges(upstream: Server) -> None:
    good = st.sampled_from(sorted(HEADERS.values()))
    near = st.builds(
        lambda header, place, byte: header[: place % 60] + byte + header[place % 60 + 1 :],
        *(good, st.integers(0, 60), st.binary(min_size=0, max_size=2)),
    )

    with proxying("--accept-proxy", upstream.text) as proxy:

        @settings(max_examples=60)
        @given(st.one_of(good, near, st.binary(max_size=40)), st.binary(max_size=40))
        @example(b"PROXY UNKNOWN\r\n", b"data")
        @example(b"", b"")
        def judged(begin: bytes, more: bytes) -> None:
            data = begin + more
            try:
                expected = data[parse(data).length :]
            except (Malformed, Incomplete):
                expected = b""
            found = b""
            with proxy.connect(timeout=LONGEST / 6) as client, suppress(ConnectionError):
                client.sendall(data)
                try:
                    client.shutdown(socket.SHUT_WR)
                except OSError as error:
                    assert error.errno == errno.ENOTCONN  # it is refused already
                found = received(client)
            assert found == expected

        judged()
        assert proxy.process.poll() is None
        proxy.until_idle()


# Sent to servers


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_server_is_told_who_the_client_is(teller: Server, tmp_path: Path, version: str) -> None:
    listen = ("127.0.0.1:0", "[::1]:0", ":0", f"unix:{tmp_path}/socket")
    with proxying(f"--send-proxy={version}", teller.text, listen=listen) as proxy:
        for number, family in ((0, "tcp4"), (1, "tcp6")):
            with proxy.connect(number) as client:
                client.sendall(b"data")
                seen = told(client)
                assert seen["version"] == int(version[1])
                assert seen["family"] == family
                assert seen["source"] == list(client.getsockname()[:2])
                assert seen["destination"] == list(client.getpeername()[:2])
                assert exactly(client, 4) == b"data"
        # a client of IPv4 is one, also at a socket for both families
        port = proxy.listeners[2].rpartition(":")[2]
        with connected(f"127.0.0.1:{port}") as client:
            seen = told(client)  # before the client has said anything
            assert (seen["family"], seen["source"]) == ("tcp4", list(client.getsockname()))
        # no address that a server could understand: the connection is the proxy's own
        with proxy.connect(3) as client:
            client.sendall(b"data")
            seen = told(client)
            assert (seen["local"], seen["source"], seen["tlvs"]) == (True, None, "")
            assert exactly(client, 4) == b"data"
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["closed"] == {"closed": 4}
        # headers are not of the client: they are not counted as its bytes
        assert snapshot["bytes"]["up"] == 3 * 4


def test_a_header_goes_first_before_bulk(teller: Server) -> None:
    data = os.urandom(3 << 20)
    with (
        proxying("--send-proxy=v2", teller.text) as proxy,
        proxy.connect() as client,
        sending(client, data),
    ):
        assert told(client)["source"] == list(client.getsockname())
        assert received(client) == data


def test_a_header_goes_to_the_server_that_answers(teller: Server) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        refusing = f"127.0.0.1:{nobody.getsockname()[1]}"
        words = ("--balance=first", "--send-proxy=v1", refusing, teller.text)
        with proxying(*words) as proxy, proxy.connect() as client:
            assert told(client)["source"] == list(client.getsockname())
            assert asked(client, b"x") == b"x"


def test_a_client_that_says_that_it_is_itself_is_passed_on_as_itself(teller: Server) -> None:
    """As balancers do to check whether somebody is there."""
    local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
    with (
        proxying("--accept-proxy", "--send-proxy=v2", teller.text) as proxy,
        proxy.connect() as client,
    ):
        client.sendall(local + b"data")
        assert told(client)["source"] == list(client.getsockname())
        assert exactly(client, 4) == b"data"


def test_addresses_and_tlvs_go_through_a_chain(teller: Server) -> None:
    words = ("--accept-proxy", "--send-proxy=v2")
    with (
        proxying(*words, teller.text) as last,
        proxying(*words, last.listeners[0]) as middle,
        proxying("--send-proxy=v1", middle.listeners[0]) as first,
    ):
        with middle.connect() as client:
            client.sendall(HEADERS["v2 with TLVs"] + b"data")
            seen = told(client)
            assert seen["source"] == list(CLIENT)
            assert seen["destination"] == list(FRONT)
            assert seen["tlvs"] == TLVS.hex()
            assert exactly(client, 4) == b"data"
        with first.connect() as client:
            client.sendall(b"data")
            seen = told(client)
            assert seen["source"] == list(client.getsockname())
            assert seen["destination"] == list(client.getpeername())
            assert exactly(client, 4) == b"data"


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx, which answers with what it takes its client for; gives where it listens."""
    place = f"unix:{folder}/nginx"
    variables = " ".join(
        f"$proxy_protocol_{name}" for name in ("addr", "port", "server_addr", "server_port")
    )
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{
            access_log off; {temporary}
            server {{ listen {place} proxy_protocol; return 200 "{variables}"; }}
        }}
        """
    )
    process = subprocess.Popen(
        [need("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def listens() -> bool:
        assert process.poll() is None, "nginx has ended"
        with suppress(OSError), connected(place):
            return True
        return False

    try:
        until(listens, "nginx listens")
        yield place
    finally:
        process.kill()
        process.wait()


def page(client: socket.socket, before: bytes = b"") -> str:
    """Return what nginx answers."""
    client.sendall(before + b"GET / HTTP/1.0\r\n\r\n")
    head, _, body = received(client).decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 "), head
    return body


def test_nginx_reads_what_is_sent_and_passed_on(tmp_path: Path) -> None:
    with nginx(tmp_path) as place:
        listen = ("127.0.0.1:0", "[::1]:0")
        for version in ("v1", "v2"):
            with proxying(f"--send-proxy={version}", place, listen=listen) as proxy:
                for number in (0, 1):
                    with proxy.connect(number) as client:
                        ends = client.getsockname()[:2] + client.getpeername()[:2]
                        assert page(client) == " ".join(map(str, ends))
            words = ("--accept-proxy", f"--send-proxy={version}", place)
            with proxying(*words) as proxy:
                for name in ("v1", "v2", "v2 with TLVs"):
                    with proxy.connect() as client:
                        expected = "192.0.2.7 56324 203.0.113.1 443"
                        assert page(client, HEADERS[name]) == expected
                with proxy.connect() as client:
                    expected = "2001:db8::7 56324 2001:db8::1 443"
                    assert page(client, HEADERS["v1 of IPv6"]) == expected


def test_nginx_takes_a_unix_client_for_the_proxy_itself(tmp_path: Path) -> None:
    with nginx(tmp_path) as place:
        listen = (f"unix:{tmp_path}/socket",)
        with proxying("--send-proxy=v2", place, listen=listen) as proxy, proxy.connect() as client:
            assert page(client).strip() == ""
