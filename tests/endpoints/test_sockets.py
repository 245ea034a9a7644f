"""Delivery over sockets: what was sent arrives, or it is told that it may not have."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import (
    LONG,
    Interrupting,
    Meeting,
    Peer,
    accept,
    listening,
    read_all,
    write_all,
)
from tests.machine import content
from zpipe.endpoints import kind_of, parse
from zpipe.endpoints.contract import Opening
from zpipe.endpoints.sockets import SocketEnd, deliver, listens
from zpipe.errors import Interrupted, StalledError, TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zpipe.endpoints.contract import End

DATA = content(50_000)
FAMILIES = ["tcp", "unix"]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected stream sockets: the near one sends, the far one is the peer."""
    with ExitStack() as stack:
        near, far = connect(request.param)
        yield stack.enter_context(near), stack.enter_context(far)


@pytest.fixture
def tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = connect("tcp")
    with near, far:
        yield near, far


def connect(family: str) -> tuple[socket.socket, socket.socket]:
    if family == "unix":
        near, far = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
    near.setblocking(False)
    far.settimeout(20)
    return near, far


def receive(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 16), b""))


def fill(end: socket.socket) -> int:
    """Send until nothing more is taken; return the bytes."""
    sent = 0
    try:
        while True:
            sent += end.send(bytes(1 << 16))
    except BlockingIOError:
        return sent


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def test_the_peer_sees_the_end_and_every_byte(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    near.send(DATA)
    got: list[bytes] = []

    def read_and_close() -> None:
        got.append(receive(far))
        far.close()

    waiter = Meeting(read_and_close)
    deliver(near.fileno(), "near", waiter)
    assert got == [DATA]
    assert not waiter.steps


def test_a_peer_that_never_closes_is_not_waited_for_beyond_the_linger(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    near.send(DATA)
    deliver(near.fileno(), "near", Meeting(), linger=0.01)
    assert receive(far) == DATA


def test_a_peer_that_keeps_talking_does_not_prolong_the_linger(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    waiter = Meeting(*[lambda: far.send(b"x")] * 100_000)
    deliver(near.fileno(), "near", waiter, linger=0.05)
    assert waiter.steps


def test_what_the_peer_sent_and_nobody_read_does_not_destroy_what_was_sent(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """A close over unread bytes would send a reset, and the peer lose what it has not read."""
    near, far = pair
    far.send(DATA)
    near.send(DATA)
    waiter = Meeting(lambda: far.send(DATA))
    deliver(near.fileno(), "near", waiter, linger=0.05)
    near.close()
    assert receive(far) == DATA


def test_a_peer_that_has_half_closed_is_sent_to_until_it_has_read_all(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = tcp
    far.shutdown(socket.SHUT_WR)
    sent = fill(near)
    got: list[bytes] = []
    waiter = Meeting(lambda: got.append(receive(far)))
    deliver(near.fileno(), "near", waiter)
    assert len(got[0]) == sent
    assert waiter.acts[0] == "wait for the peer to read"


def test_a_peer_that_resets_before_it_has_read_is_an_error(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = tcp
    near.send(DATA)
    with pytest.raises(
        TransferError, match=r"near: shut down: .*: the peer may not have read everything"
    ) as caught:
        deliver(near.fileno(), "near", Meeting(lambda: reset(far)))
    assert caught.value.errno in (errno.ECONNRESET, errno.EPIPE)


def test_a_peer_that_closes_over_unread_bytes_is_an_error(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = tcp
    near.send(DATA)
    with pytest.raises(TransferError, match="the peer may not have read everything"):
        deliver(near.fileno(), "near", Meeting(far.close))


def test_bytes_that_never_reached_the_peer_are_counted(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, far = tcp
    sent = fill(near)
    with pytest.raises(TransferError, match=r"up to \d+ bytes did not reach it") as caught:
        deliver(near.fileno(), "near", Meeting(lambda: reset(far)))
    lost = re.search(r"up to (\d+) bytes", str(caught.value))
    assert lost is not None
    assert 0 < int(lost[1]) <= sent + 1  # the end itself counts as one


def test_a_peer_that_has_gone_already_is_an_error(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    near.send(DATA)
    far.close()
    with pytest.raises(TransferError, match="near: shut down"):
        deliver(near.fileno(), "near", Meeting())


def test_a_peer_that_has_read_all_and_gone_is_none(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    near.send(DATA)
    got = far.recv(len(DATA), socket.MSG_WAITALL)
    far.close()
    deliver(near.fileno(), "near", Meeting())
    assert got == DATA


def test_a_peer_that_does_not_read_is_given_up_after_the_stall_timeout(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = tcp
    fill(near)
    with pytest.raises(StalledError, match=r"near: shut down: stalled for 0.1 s: \d+ bytes are"):
        deliver(near.fileno(), "near", Meeting(patience=0.1))


@pytest.mark.parametrize("clogged", [False, True])
def test_whoever_waits_for_a_peer_can_be_interrupted(
    clogged: bool, tcp: tuple[socket.socket, socket.socket]
) -> None:
    near, _ = tcp
    if clogged:
        fill(near)
    with pytest.raises(Interrupted):
        deliver(near.fileno(), "near", Interrupting())


def test_a_datagram_socket_has_nothing_to_wait_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        waiter = Meeting()
        deliver(end.fileno(), "end", waiter)
        assert not waiter.acts


def test_a_source_is_not_shut_down(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    waiter = Meeting()
    end = SocketEnd(near.dup(), "near", sink=False)
    end.finish(waiter)
    assert end.fd == -1
    assert not waiter.acts
    near.setblocking(True)
    near.sendall(b"still open")
    assert far.recv(99) == b"still open"


def test_an_end_takes_the_socket_with_all_that_it_needs(
    tcp: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = tcp
    near.setblocking(True)
    with SocketEnd(near.dup(), "near", sink=True) as end:
        assert end.facts.nonblocking
        assert (end.facts.type, end.facts.route) == ("tcp", "lo")
        with socket.socket(fileno=os.dup(end.fd)) as twin:
            assert twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert twin.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE)
            control = twin.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        # on loopback nothing is paced, and what was done for that is told
        assert not control.startswith(b"bbr")
        assert all("loopback needs no pacing" in note for note in end.notes)


def test_a_listener_is_told_from_a_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    near, _ = pair
    assert not listens(near.fileno())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert listens(listener.fileno())


# Both ways


@contextmanager
def halves(
    family: str, folder: Path, linger: str = "100ms"
) -> Iterator[tuple[End, End, socket.socket]]:
    """Connect; give the reading half, the writing half, and the peer."""
    with ExitStack() as stack:
        where = (
            listening() if family == "tcp" else listening(socket.AF_UNIX, str(folder / "listener"))
        )
        listener, address = stack.enter_context(where)
        endpoint = parse(f"{address}?linger={linger}", sink=True)
        source, sink = kind_of(endpoint.kind).open_both(endpoint, Opening(Meeting()))
        stack.enter_context(source)
        stack.enter_context(sink)
        far = stack.enter_context(accept(listener))
        far.settimeout(LONG)
        yield source, sink, far


@pytest.fixture(params=FAMILIES)
def three(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[End, End, socket.socket]]:
    with halves(request.param, tmp_path) as ends:
        yield ends


@pytest.fixture
def three_tcp(tmp_path: Path) -> Iterator[tuple[End, End, socket.socket]]:
    with halves("tcp", tmp_path) as ends:
        yield ends


def test_the_halves_are_one_connection_and_two_fds(three: tuple[End, End, socket.socket]) -> None:
    source, sink, far = three
    assert source.fd != sink.fd
    assert source.facts.nonblocking and sink.facts.nonblocking
    write_all(sink, b"there")
    assert far.recv(99) == b"there"
    far.sendall(b"back")
    far.shutdown(socket.SHUT_WR)
    assert read_all(source) == b"back"


def test_the_end_of_what_is_sent_leaves_what_comes_to_the_other_half(
    three: tuple[End, End, socket.socket],
) -> None:
    """It does not even wait for the peer, who may answer as late as he likes."""
    source, sink, far = three
    write_all(sink, b"there")
    sink.finish(Meeting())
    assert sink.fd == -1
    assert receive(far) == b"there"
    far.sendall(DATA)
    far.close()
    assert read_all(source) == DATA
    source.finish(Meeting())


def test_what_was_sent_is_seen_acknowledged(three_tcp: tuple[End, End, socket.socket]) -> None:
    _, sink, far = three_tcp
    os.set_blocking(sink.fd, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(sink.fd, bytes(1 << 16))
    peer: list[bytes] = []
    waiter = Meeting(lambda: peer.append(receive(far)))
    sink.finish(waiter)
    assert peer
    assert set(waiter.acts) == {"wait for the peer to read"}


def test_the_end_of_what_comes_leaves_what_is_sent(three: tuple[End, End, socket.socket]) -> None:
    source, sink, far = three
    far.sendall(b"back")
    far.shutdown(socket.SHUT_WR)
    assert read_all(source) == b"back"
    source.finish(Meeting())
    write_all(sink, DATA)
    reader = Peer(far.dup)
    sink.finish(Meeting())
    assert reader.read() == DATA


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_wanted_is_read_until_all_is_sent(family: str, tmp_path: Path) -> None:
    """Else a peer that sends back what it gets would stop to read."""
    data = content(8 << 20)
    sent: list[int] = []
    # the peer has much in its buffers when all is sent: it may take its time
    with halves(family, tmp_path, f"{LONG}s") as (source, sink, far):

        def echo() -> None:
            total = 0
            while data := far.recv(1 << 16):
                far.sendall(data)
                total += len(data)
            far.close()
            sent.append(total)

        def give_up() -> None:
            source.finish(Meeting(), complete=False)

        threads = [threading.Thread(target=work) for work in (echo, give_up)]
        for thread in threads:
            thread.start()
        write_all(sink, data)
        sink.finish(Meeting())
        for thread in threads:
            thread.join(LONG)
        assert sent == [len(data)]
        assert source.fd == -1


def test_once_all_is_sent_the_reading_half_sees_it_delivered(
    three: tuple[End, End, socket.socket],
) -> None:
    """Closing over unread bytes would send a reset, and destroy what the peer has not read."""
    source, sink, far = three
    far.sendall(DATA)
    write_all(sink, DATA)
    sink.finish(Meeting())
    source.finish(Meeting(lambda: far.sendall(DATA)), complete=False)
    assert receive(far) == DATA


def test_a_reset_while_what_is_not_wanted_is_read_is_told(
    three_tcp: tuple[End, End, socket.socket],
) -> None:
    source, sink, far = three_tcp
    with pytest.raises(TransferError, match="Connection reset by peer"):
        source.finish(Meeting(lambda: reset(far)), complete=False)
    sink.close()


def test_a_peer_that_closes_ends_the_wait_of_one_who_wants_no_more(
    three: tuple[End, End, socket.socket],
) -> None:
    """Though the other half still has something to send, and will hear of it."""
    source, _, far = three
    source.finish(Meeting(far.close), complete=False)
    assert source.fd == -1


def test_when_the_sender_gives_up_nobody_waits_for_him(
    three: tuple[End, End, socket.socket],
) -> None:
    source, sink, far = three

    def leave() -> None:
        sink.close()
        far.close()

    source.finish(Meeting(lambda: None, leave), complete=False)
    assert source.fd == -1


@pytest.mark.parametrize("half", [0, 1], ids=["reading", "writing"])
def test_each_half_can_be_interrupted(three: tuple[End, End, socket.socket], half: int) -> None:
    source, sink, _ = three
    if half == 0:
        with pytest.raises(Interrupted):
            source.finish(Interrupting(), complete=False)
        return
    source.close()
    with pytest.raises(Interrupted):
        sink.finish(Interrupting())
