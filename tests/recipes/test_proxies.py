"""The recipes that serve until they are stopped, each between real clients and real servers."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, until, zpipe
from tests.proxy.proxying import echo, exactly, received, sending, serving
from tests.recipes.running import receiving, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.recipes.running import Running

ANYWHERE = "127.0.0.1:0"
SIZE = 1 << 20


def answers(recipe: Running, data: bytes = content(SIZE)) -> None:
    """Check that a client of an echo gets back what it sends."""
    with recipe.connect() as end, sending(end, data):
        assert received(end) == data


def test_proxy_tcp_to_unix(tmp_path: Path) -> None:
    app = tmp_path / "app"
    with (
        serving(echo, f"unix:{app}"),
        running("proxy-tcp-to-unix", tmp_path, LISTEN=ANYWHERE, SOCKET=app) as recipe,
    ):
        answers(recipe)
        recipe.stop()


def test_proxy_tcp_to_unix_serves_nobody_else(tmp_path: Path) -> None:
    app = tmp_path / "app"
    given = {"LISTEN": ANYWHERE, "SOCKET": app, "ALLOW": "192.0.2.0/24"}
    with (
        serving(echo, f"unix:{app}") as server,
        running("proxy-tcp-to-unix", tmp_path, **given) as recipe,
    ):
        with recipe.connect() as end, suppress(ConnectionResetError):
            assert received(end) == b""
        recipe.stop()
        assert server.count == 0


def test_proxy_mirror(tmp_path: Path) -> None:
    with serving(echo) as server, receiving() as (shadow, had):
        given = {"LISTEN": ANYWHERE, "SERVER": server.text, "SHADOW": shadow.text}
        with running("proxy-mirror", tmp_path, **given) as recipe:
            for _ in range(3):
                answers(recipe)
            until(lambda: len(had) == 3, "the shadow has all")
            recipe.stop()
    assert had == [content(SIZE)] * 3


def test_proxy_mirror_answers_without_the_shadow(tmp_path: Path) -> None:
    with serving(echo) as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        given = {"LISTEN": ANYWHERE, "SERVER": server.text, "SHADOW": nobody}
        with running("proxy-mirror", tmp_path, **given) as recipe:
            answers(recipe)
            recipe.stop()


def test_proxy_failover(tmp_path: Path) -> None:
    clients = []

    def serve(end: socket.socket) -> None:
        head = exactly(end, 16)
        if not head:
            return  # a check
        assert head[:13] == b"\r\n\r\n\0\r\nQUIT\n!"
        addresses = exactly(end, int.from_bytes(head[14:], "big"))
        clients.append((socket.inet_ntoa(addresses[:4]), int.from_bytes(addresses[8:10], "big")))
        echo(end)

    with serving(serve) as second, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        first = f"127.0.0.1:{taken.getsockname()[1]}"
        given = {"LISTEN": ANYWHERE, "METRICS": ANYWHERE, "FIRST": first, "SECOND": second.text}
        mine = []
        with running("proxy-failover", tmp_path, **given) as recipe:
            for _ in range(4):
                with recipe.connect() as end, sending(end, b"hello"):
                    mine.append(end.getsockname())
                    assert received(end) == b"hello"
            recipe.stop()
    assert clients == mine


def hello(name: str) -> bytes:
    """Return how a TLS client begins that asks for a name."""
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    client = context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


@pytest.mark.parametrize(
    ("name", "of_app"),
    [("example.org", True), ("a.example.org", True), ("a.b.example.org", False), ("a.org", False)],
)
def test_proxy_sni(tmp_path: Path, name: str, of_app: bool) -> None:
    with receiving() as (app, to_app), receiving() as (others, to_others):
        given = {"LISTEN": ANYWHERE, "APP": app.text, "OTHERS": others.text}
        with running("proxy-sni", tmp_path, **given) as recipe:
            with recipe.connect() as end, sending(end, hello(name)):
                received(end)
            recipe.stop()
    had, nothing = (to_app, to_others) if of_app else (to_others, to_app)
    assert [name.encode() in each for each in had] == [True]
    assert nothing == []


def test_record_and_replay(tmp_path: Path) -> None:
    with serving(echo) as server:
        given = {"LISTEN": ANYWHERE, "SERVER": server.text, "CAPTURE": tmp_path / "capture"}
        with running("record-and-replay", tmp_path, **given) as recipe:
            for data in (b"hello", content(SIZE)):
                answers(recipe, data)
            recipe.stop()
    replay = ("replay", "--compare", "--pace", "fast", tmp_path / "capture")
    with serving(echo) as same:
        assert zpipe(*replay, same.text).returncode == 0
        assert same.count == 2

    def louder(end: socket.socket) -> None:
        while data := end.recv(1 << 16):
            end.sendall(data.upper())

    with serving(louder) as other:
        assert zpipe(*replay, other.text).returncode == 3
