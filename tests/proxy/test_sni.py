"""TLS clients go where the name that they ask for leads, and nobody on the way touches a byte."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, content, need, zpipe
from tests.proxy.proxying import Proxy, echo, exactly, proxying, received, sending, serving
from zpipe.proxy.header import build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.proxy.proxying import Server

NAMES = ("www", "wild", "rest")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A throw-away certificate with its key, for each server: who trusts one trusts no other."""
    folder = tmp_path_factory.mktemp("certificates")
    found = {}
    for name in NAMES:
        found[name] = folder / f"{name}.pem"
        subprocess.run(
            [
                *(need("openssl"), "req", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
                *("-keyout", str(folder / f"{name}.key"), "-out", str(found[name])),
            ],
            check=True,
            capture_output=True,
            timeout=LONGEST,
        )
    return found


# what one that breaks off looks like; which of them it is depends on the version of Python
BROKEN_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class Tls:
    """Three servers that speak TLS, each with its own certificate."""

    def __init__(self, certificates: dict[str, Path], stack: ExitStack):
        self._certificates = certificates
        self.asked: dict[str, list[str | None]] = {name: [] for name in NAMES}
        self.servers: dict[str, Server] = {
            name: stack.enter_context(serving(self._serve(name))) for name in NAMES
        }

    def __getitem__(self, name: str) -> str:
        """Return the address of a server."""
        return self.servers[name].text

    def _serve(self, name: str) -> Callable[[socket.socket], None]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate = self._certificates[name]
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))

        def note(_: object, asked: str | None, __: object) -> None:
            self.asked[name].append(asked)

        context.sni_callback = note

        def serve(end: socket.socket) -> None:
            with (
                suppress(ConnectionError, *BROKEN_OFF),
                context.wrap_socket(end, server_side=True) as tls,
            ):
                tls.sendall(name.encode().ljust(4))
                while data := tls.recv(1 << 16):
                    tls.sendall(data)

        return serve

    def trusting(self, name: str) -> ssl.SSLContext:
        """Return a client that takes the certificate of this server, and no other."""
        context = ssl.create_default_context(cafile=str(self._certificates[name]))
        context.check_hostname = False
        return context


@pytest.fixture
def tls(certificates: dict[str, Path]) -> Iterator[Tls]:
    with ExitStack() as stack:
        yield Tls(certificates, stack)


def routes(tls: Tls) -> list[str]:
    return [
        f"--route-sni=www.example.org={tls['www']}",
        f"--route-sni=*.example.org={tls['wild']}",
    ]


def arrives(proxy: Proxy, tls: Tls, asked: str | None, name: str, **more: ssl.TLSVersion) -> None:
    """Ask for a name: the handshake is made with this server, and data goes both ways."""
    context = tls.trusting(name)
    for setting, value in more.items():
        setattr(context, setting, value)
    with context.wrap_socket(proxy.connect(), server_hostname=asked) as client:
        assert exactly(client, 4) == name.encode().ljust(4)
        client.sendall(b"through")
        assert exactly(client, 7) == b"through"
    assert tls.asked[name][-1] == asked


def hello(asked: str, *, longer: int = 0) -> tuple[ssl.SSLObject, ssl.MemoryBIO, bytes]:
    """Return a client that has begun, what it reads from, and its ClientHello."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if longer:
        context.set_alpn_protocols([f"{number:0>99}" for number in range(longer // 100)])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=asked)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return client, incoming, outgoing.read()


def is_broken_off(end: socket.socket) -> bool:
    """Wait for the end, and tell whether it came by RST."""
    try:
        assert end.recv(1) == b""
    except ConnectionResetError:
        return True
    return False


def test_each_name_leads_to_its_server(tls: Tls, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = ("--access-log", log, "--access-format=json")
    with proxying(*routes(tls), *words, tls["rest"]) as proxy:
        arrives(proxy, tls, "www.example.org", "www")
        arrives(proxy, tls, "api.example.org", "wild")
        arrives(proxy, tls, "example.org", "rest")  # a star is one label, and not none
        arrives(proxy, tls, "a.b.example.org", "rest")  # nor two
        arrives(proxy, tls, "example.com", "rest")
        arrives(proxy, tls, None, "rest")
        snapshot = proxy.until_idle()
        assert [one["connections"] for one in snapshot["upstreams"]] == [4, 1, 1]
        assert snapshot["connections"]["accepted"] == 6
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    seen = [(line["name"], line["upstream"]) for line in lines]
    assert seen == [
        ("www.example.org", tls["www"]),
        ("api.example.org", tls["wild"]),
        ("example.org", tls["rest"]),
        ("a.b.example.org", tls["rest"]),
        ("example.com", tls["rest"]),
        ("", tls["rest"]),
    ]


def test_case_does_not_matter_and_old_clients_are_routed_too(tls: Tls) -> None:
    with proxying(*routes(tls), "--route-default", tls["rest"]) as proxy:
        arrives(proxy, tls, "WWW.Example.ORG", "www")
        arrives(proxy, tls, "www.example.org", "www", maximum_version=ssl.TLSVersion.TLSv1_2)
        arrives(proxy, tls, "www.example.org", "www", minimum_version=ssl.TLSVersion.TLSv1_3)


def test_without_a_default_others_are_broken_off_and_counted(tls: Tls) -> None:
    with proxying(*routes(tls)[:1]) as proxy:
        arrives(proxy, tls, "www.example.org", "www")
        for asked in ("www.example.com", ""):
            with proxy.connect() as client:
                client.sendall(hello(asked)[2] if asked else b"GET / HTTP/1.0\r\n\r\n")
                assert is_broken_off(client)
        snapshot = proxy.until_closed("no-route", 2)
        assert snapshot["connections"]["closed"]["no-route"] == 2
        assert sum(server.count for server in tls.servers.values()) == 1


def test_what_is_not_tls_goes_to_the_default_as_it_is(tls: Tls) -> None:
    others = {
        "another protocol": b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n",
        "a record that is too long": b"\x16\x03\x01\xff\xff" + b"whatever",
        "another message first": b"\x16\x03\x01\x00\x05" + b"\x02\0\0\1\0",
        "an alert": b"\x15\x03\x01\0\2\1\0",
        "one byte": b"\0",
    }
    with serving(echo) as plain, proxying(*routes(tls), plain.text) as proxy:
        for name, data in others.items():
            with proxy.connect() as client:
                client.sendall(data)
                assert exactly(client, len(data)) == data, name
                client.sendall(b"more")
                assert exactly(client, 4) == b"more"


def test_what_ends_within_a_client_hello_goes_to_the_default_as_it_is(tls: Tls) -> None:
    _, _, data = hello("www.example.org")
    with (
        serving(echo) as plain,
        proxying(*routes(tls), plain.text) as proxy,
        proxy.connect() as client,
        sending(client, data[:-1]),
    ):
        assert received(client) == data[:-1]


@pytest.mark.parametrize("longer", [0, 3_000, 14_000])
def test_a_client_hello_may_come_in_pieces(tls: Tls, longer: int) -> None:
    with proxying(*routes(tls), tls["rest"]) as proxy:
        for size in (1 if not longer else 50, 777, 1 << 20):
            client, incoming, data = hello("api.example.org", longer=longer)
            assert len(data) > longer
            with proxy.connect() as end:
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for start in range(0, len(data), size):
                    end.sendall(data[start : start + size])
                assert handshake(client, incoming, end) == b"wild"


def handshake(client: ssl.SSLObject, incoming: ssl.MemoryBIO, end: socket.socket) -> bytes:
    """Go on after the ClientHello until the server is known, and return its name."""
    while client.version() is None:  # not done yet
        data = end.recv(1 << 16)
        assert data, "the server has ended"
        incoming.write(data)
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
    found = client.getpeercert(True)
    assert found is not None
    text = ssl.DER_cert_to_PEM_cert(found)
    done = subprocess.run(
        [need("openssl"), "x509", "-noout", "-subject", "-nameopt", "multiline"],
        input=text.encode(),
        capture_output=True,
        check=True,
        timeout=LONGEST,
    )
    return done.stdout.split()[-1]


def test_a_client_hello_that_does_not_come_in_time_is_not_waited_for(tls: Tls) -> None:
    _, _, data = hello("www.example.org")
    words = (*routes(tls), "--opening-timeout=200ms", tls["rest"])
    with proxying(*words) as proxy, ExitStack() as held:
        for begun in (0, 1, 100):
            client = held.enter_context(proxy.connect())
            client.sendall(data[:begun])
            assert is_broken_off(client)
        snapshot = proxy.until_closed("opening-timeout", 3)
        assert snapshot["connections"]["active"] == 0
        assert sum(server.count for server in tls.servers.values()) == 0


def test_the_timeout_ends_with_the_opening(tls: Tls) -> None:
    """It is over long before this connection, which ends by its own lifetime."""
    words = (*routes(tls), "--opening-timeout=1s", "--max-lifetime=3s")
    with proxying(*words, tls["rest"]) as proxy:
        context = tls.trusting("www")
        with context.wrap_socket(proxy.connect(), server_hostname="www.example.org") as client:
            assert exactly(client, 4) == b"www "
            with suppress(ConnectionResetError):
                client.recv(1)
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["closed"] == {"lifetime": 1}


def test_bulk_is_untouched(tls: Tls) -> None:
    """Each record is authenticated: a wrong byte would end the connection."""
    data = content(3 << 20)
    context = tls.trusting("www")
    with (
        proxying(*routes(tls), tls["rest"]) as proxy,
        context.wrap_socket(proxy.connect(), server_hostname="www.example.org") as client,
    ):
        assert exactly(client, 4) == b"www "
        for start in range(0, len(data), 1 << 18):
            piece = data[start : start + (1 << 18)]
            client.sendall(piece)
            assert exactly(client, len(piece)) == piece
        assert proxy.snapshot()["bytes"]["up"] > len(data)


def test_a_route_may_have_several_servers(certificates: dict[str, Path]) -> None:
    with ExitStack() as stack:
        first, second = (Tls(certificates, stack) for _ in range(2))
        both = [f"--route-sni=www.example.org={one['www']}" for one in (first, second)]
        with proxying(*both) as proxy:
            for _ in range(4):
                context = first.trusting("www")
                with context.wrap_socket(proxy.connect(), server_hostname="www.example.org") as end:
                    assert exactly(end, 4) == b"www "
            assert (first.servers["www"].count, second.servers["www"].count) == (2, 2)
            first.servers["www"].stop()
            for _ in range(3):
                with context.wrap_socket(proxy.connect(), server_hostname="www.example.org") as end:
                    assert exactly(end, 4) == b"www "
            assert second.servers["www"].count == 5
            assert proxy.snapshot()["retried"] >= 1


def test_a_route_whose_servers_refuse_does_not_fall_back_to_the_default(tls: Tls) -> None:
    tls.servers["www"].stop()
    with proxying(*routes(tls), tls["rest"]) as proxy:
        with proxy.connect() as client:
            client.sendall(hello("www.example.org")[2])
            assert is_broken_off(client)
        proxy.until_closed("no-upstream")
        assert tls.servers["rest"].count == 0
        arrives(proxy, tls, "other.example", "rest")


@pytest.mark.parametrize("tlvs", [0, 15_900])
def test_a_name_is_found_behind_a_proxy_header(tls: Tls, tlvs: int) -> None:
    """Both in one piece; a long header leaves no room for the ClientHello in one look."""
    more = b"\xe0" + tlvs.to_bytes(2, "big") + bytes(tlvs) if tlvs else b""
    header = build("v2", ("192.0.2.7", 1), ("192.0.2.1", 443), more)
    with proxying("--accept-proxy", *routes(tls), tls["rest"]) as proxy:
        client, incoming, data = hello("www.example.org", longer=3_000)
        with proxy.connect() as end:
            end.sendall(header + data)
            assert handshake(client, incoming, end) == b"www"
        client, incoming, data = hello("api.example.org")
        with proxy.connect() as end:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.sendall(header)
            for byte in data:
                end.sendall(bytes([byte]))
            assert handshake(client, incoming, end) == b"wild"
        assert proxy.until_idle()["upstreams"][0]["connections"] == 0


def test_a_unix_listener_routes_too(tls: Tls, tmp_path: Path) -> None:
    with proxying(*routes(tls), tls["rest"], listen=(f"unix:{tmp_path}/socket",)) as proxy:
        arrives(proxy, tls, "www.example.org", "www")
        arrives(proxy, tls, "example.com", "rest")


def told_by_openssl(proxy: Proxy, *words: str) -> bytes:
    """Run OpenSSL's own client to its end; return what it tells of the session."""
    done = subprocess.run(
        [need("openssl"), "s_client", "-connect", proxy.listeners[0], *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    return done.stdout


def test_another_client_is_routed_the_same(tls: Tls) -> None:
    with proxying(*routes(tls), tls["rest"]) as proxy:
        for words, name in (
            (("-servername", "www.example.org"), b"www"),
            (("-servername", "api.example.org", "-tls1_2"), b"wild"),
            (("-noservername",), b"rest"),
        ):
            told = told_by_openssl(proxy, *words).replace(b"CN = ", b"CN=")
            assert b"subject=CN=" + name + b"\n" in told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--route-sni=no name=127.0.0.1:1",), b"no name"),
        (("--route-sni=a.*.org=127.0.0.1:1",), b"a.*.org"),
        (("--route-sni=www.example.org",), b"www.example.org"),
        (("--route-default=127.0.0.1:1", "127.0.0.1:2"), b"--route-default: has no effect"),
    ],
)
def test_a_bad_route_is_refused_before_anything_is_served(
    words: tuple[str, ...], says: bytes
) -> None:
    done = zpipe("proxy", "--listen=127.0.0.1:0", *words)
    assert done.returncode == 2
    assert says in done.stderr
