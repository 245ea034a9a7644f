"""Sockets that are read and written at once: as nc is used, and as a relay between two."""

from __future__ import annotations

import os
import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import LONG, listening
from tests.engine.carrying import Told, built, carry, failing, nothing_left, wishing
from tests.machine import content, until
from zpipe.engine.stop import Relayed
from zpipe.errors import Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BIG = 8 << 20
THERE, BACK = content(BIG, 1), content(BIG, 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "a").write_bytes(THERE)
    monkeypatch.chdir(tmp_path)
    with nothing_left(tmp_path):
        yield tmp_path


@pytest.fixture(params=["tcp", "unix"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def server(family: str, talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Talk to one client in a thread; yield the address."""
    listener = (
        listening()
        if family == "tcp"
        else listening(socket.AF_UNIX, os.path.abspath("server.sock"))
    )
    with listener as (end, address):
        problems: list[BaseException] = []

        def serve() -> None:
            try:
                client, _ = end.accept()
                with client:
                    client.settimeout(LONG)
                    talk(client)
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield address
        thread.join(LONG)
        assert not thread.is_alive()
        assert not problems, problems


def echo(client: socket.socket) -> None:
    """Send back what comes, and close when that has ended."""
    while data := client.recv(1 << 16):
        client.sendall(data)


def receive(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 16), b""))


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def test_what_an_echo_sends_back(folder: Path, family: str) -> None:
    """More than all buffers hold: neither way waits for the other."""
    with server(family, echo) as address:
        report = carry(built("as sx", a="a", s=address, x="x"))
    assert (folder / "x").read_bytes() == THERE
    assert [hop.ends for hop in report.hops] == [("a", ("s",)), ("s", ("x",))]


def test_both_ways_at_once(folder: Path, family: str) -> None:
    got: list[bytes] = []

    def talk(client: socket.socket) -> None:
        sender = threading.Thread(target=client.sendall, args=(BACK,))
        sender.start()
        got.append(receive(client))
        sender.join(LONG)

    with server(family, talk) as address:
        carry(built("as sx", a="a", s=address, x="x"))
    assert got == [THERE]
    assert (folder / "x").read_bytes() == BACK


def test_the_end_is_forwarded_and_the_answer_comes_after_it(folder: Path, family: str) -> None:
    """As HTTP/1.0 once was: half-close, and then the answer, in its own time."""

    def talk(client: socket.socket) -> None:
        request = receive(client)
        client.sendall(request[-10:])
        client.shutdown(socket.SHUT_WR)

    with server(family, talk) as address:
        carry(built("as sx", a="a", s=address, x="x"))
    assert (folder / "x").read_bytes() == THERE[-10:]


def test_the_answer_has_ended_and_the_question_goes_on(folder: Path, family: str) -> None:
    """It is written once the answer is in place."""
    reader, writer = os.pipe()
    got: list[bytes] = []

    def ask() -> None:
        until((folder / "x").exists, "the answer is in place")
        with open(writer, "wb") as file:
            file.write(THERE)

    def talk(client: socket.socket) -> None:
        client.sendall(b"welcome")
        client.shutdown(socket.SHUT_WR)
        got.append(receive(client))

    asking = threading.Thread(target=ask)
    asking.start()
    with server(family, talk) as address:
        carry(built("as sx", a=f"fd:{reader}", s=address, x="x"))
    asking.join()
    os.close(reader)
    assert got == [THERE]
    assert (folder / "x").read_bytes() == b"welcome"


def test_a_peer_that_closes_before_it_was_sent_all(folder: Path, family: str) -> None:
    def talk(client: socket.socket) -> None:
        client.recv(1000)

    with server(family, talk) as address:
        told = Told()
        error = failing(built("as sx", a="a", s=address, x="x"), told)
    assert error.exit_code == 1
    assert str(error).startswith(f"{address}: ")
    assert told.everything == []


def test_a_peer_that_resets(folder: Path) -> None:
    def talk(client: socket.socket) -> None:
        client.sendall(BACK[:1000])
        client.recv(1000)
        reset(client)

    with server("tcp", talk) as address:
        error = failing(built("as sx", a="a", s=address, x="x"))
    assert error.exit_code == 1
    assert all(line.startswith(f"{address}: ") for line in str(error).splitlines())
    assert not (folder / "x").exists()


def test_a_peer_that_resets_while_nothing_is_sent(folder: Path) -> None:
    reader, writer = os.pipe()
    with server("tcp", reset) as address:
        error = failing(built("as sx", a=f"fd:{reader}", s=address, x="x"))
    os.close(reader)
    os.close(writer)
    assert error.exit_code == 1
    assert "Connection reset by peer" in str(error)
    assert not (folder / "x").exists()


def test_nobody_is_there(folder: Path) -> None:
    with listening() as (_, address):
        pass
    told = Told()
    error = failing(built("as sx", a="a", s=address, x="x"), told)
    assert str(error) == f"{address}: connect: Connection refused"
    assert told.everything == []
    assert not (folder / "x").exists()


# One half ends early


def test_the_answer_is_read_in_part_and_the_question_is_sent_whole(
    folder: Path, family: str
) -> None:
    """What nobody wants is read, too: the peer would wait for ever to send it."""
    got: list[int] = []

    def talk(client: socket.socket) -> None:
        total = 0
        while data := client.recv(1 << 16):
            client.sendall(data)
            total += len(data)
        got.append(total)

    with server(family, talk) as address:
        carry(wishing(built("as sx", a="a", s=address, x="x"), "s", length=10))
    assert got == [BIG]
    assert (folder / "x").read_bytes() == THERE[:10]


def test_the_question_is_sent_in_part_and_the_answer_is_read_whole(
    folder: Path, family: str
) -> None:
    with server(family, echo) as address:
        carry(wishing(built("as sx", a="a", s=address, x="x"), "a", length=1000))
    assert (folder / "x").read_bytes() == THERE[:1000]


def test_a_reset_while_what_nobody_wants_is_read(folder: Path) -> None:
    reader, writer = os.pipe()
    begun = threading.Semaphore(0)

    def talk(client: socket.socket) -> None:
        client.sendall(b"hello")
        for _ in range(2):
            begun.acquire()
        reset(client)

    told = Told(lambda hop: begun.release())
    with server("tcp", talk) as address:
        error = failing(
            wishing(built("as sx", a=f"fd:{reader}", s=address, x="x"), "s", length=3), told
        )
    os.close(reader)
    os.close(writer)
    assert error.exit_code == 1
    assert "Connection reset by peer" in str(error)


def test_whoever_reads_the_answer_has_enough(folder: Path, family: str) -> None:
    with server(family, echo) as address:
        carry(built("as sp px", a="a", s=address, p="exec:head -c 10", x="x"))
    assert (folder / "x").read_bytes() == THERE[:10]


# Two sockets, and one alone


def test_a_relay_between_two_listeners(folder: Path) -> None:
    told = Told()
    anywhere = "tcp-listen://127.0.0.1:0"
    graph = built("st ts", s=anywhere, t=anywhere)
    running = threading.Thread(target=carry, args=(graph, told))
    running.start()
    until(lambda: len(told.said_) == 2, "both listen")
    ports = [int(text.rpartition(":")[2]) for text in told.said_]
    got: dict[int, bytes] = {}

    def talk(number: int, port: int, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", port), LONG) as end:
            sender = threading.Thread(target=send_all, args=(end, data))
            sender.start()
            got[number] = receive(end)
            sender.join(LONG)

    talking = [
        threading.Thread(target=talk, args=(number, port, data))
        for number, (port, data) in enumerate(zip(ports, (THERE, BACK), strict=True))
    ]
    for thread in talking:
        thread.start()
    for thread in (*talking, running):
        thread.join(LONG)
    assert not running.is_alive()
    assert got == {0: BACK, 1: THERE}


def send_all(end: socket.socket, data: bytes) -> None:
    end.sendall(data)
    end.shutdown(socket.SHUT_WR)


def test_a_relay_from_one_family_to_another(folder: Path) -> None:
    with listening() as (listener, address):
        graph = built("st ts", s="unix-listen:in.sock", t=address)
        running = threading.Thread(target=carry, args=(graph,))
        running.start()
        with socket.socket(socket.AF_UNIX) as near:
            near.settimeout(LONG)
            until(lambda: connects(near), "it listens")
            with listener.accept()[0] as far:
                far.settimeout(LONG)
                for one, other, data in ((near, far, THERE), (far, near, BACK)):
                    sender = threading.Thread(target=send_all, args=(one, data))
                    sender.start()
                    assert receive(other) == data
                    sender.join(LONG)
        running.join(LONG)
    assert not running.is_alive()


def connects(end: socket.socket) -> bool:
    try:
        end.connect("in.sock")
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def test_a_node_that_is_its_own_sink_is_an_echo(folder: Path) -> None:
    got: list[bytes] = []

    def talk(client: socket.socket) -> None:
        sender = threading.Thread(target=send_all, args=(client, BACK))
        sender.start()
        got.append(receive(client))
        sender.join(LONG)

    with server("tcp", talk) as address:
        carry(built("ss", s=address))
    assert got == [BACK]


def test_what_a_socket_says_is_kept_while_it_is_answered(folder: Path, family: str) -> None:
    """Fan-out of what comes in, with a filter on the way back."""
    with server(family, echo) as address:
        carry(built("as sx sy", a="a", s=address, x="x", y="y"))
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == THERE


def test_a_signal_ends_both_ways(folder: Path) -> None:
    reader, writer = os.pipe()
    stop = Relayed()
    begun: list[str] = []

    def talk(client: socket.socket) -> None:
        client.sendall(b"hello")
        with suppress(ConnectionResetError):  # what it has said may not have been read
            receive(client)

    told = Told(lambda hop: begun.append(hop.ends[0]))
    errors: list[object] = []
    with server("tcp", talk) as address:
        graph = built("as sx", a=f"fd:{reader}", s=address, x="x")
        running = threading.Thread(target=lambda: errors.append(failing(graph, told, stop)))
        running.start()
        until(lambda: len(begun) == 2, "both ways have begun")
        stop.ask(lambda: Interrupted(2))
        running.join(LONG)
    stop.close()
    os.close(reader)
    os.close(writer)
    assert isinstance(errors[0], Interrupted)
    assert not (folder / "x").exists()
