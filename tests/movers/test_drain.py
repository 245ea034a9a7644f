"""What a source gives, into an empty pipe or a buffer: never a false end, never a sleep."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import struct
from collections import Counter
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from tests.movers import ends
from tests.movers.driver import ready, watchdog
from tests.movers.ends import DeviceSource, FileSource, Source, StreamSource
from zpipe.kernel.pipes import Pipe, buffered
from zpipe.movers.contract import ENDED, WAIT_SOURCE, FallBack, MoveFault
from zpipe.movers.drain import BUFFER, BufferDrain, PipeDrain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.movers.conftest import Bench
    from zpipe.movers.drain import Taken

DATA = content(300_001)
MUCH = 1 << 62


class Draining:
    """A source that is drained; what was taken is taken away between two takes."""

    def __init__(self, source: Source, *, capacity: int = 1 << 16, buffer: int | None = None):
        self.source = source
        self.calls: Counter[str] = Counter()
        self.got = bytearray()
        self._pipe = Pipe(capacity)
        self._drain: PipeDrain | BufferDrain
        if buffer is None:
            self._drain = PipeDrain(source.port(), self._pipe, self.calls)
        else:
            self._drain = BufferDrain(source.port(), self.calls, buffer)

    def take(self, count: int = MUCH) -> Taken:
        """Take once, and empty what was filled."""
        with watchdog():
            taken = self._drain.take(count)
        if isinstance(self._drain, BufferDrain):
            if isinstance(taken, int):
                assert len(self._drain.data) == taken
                self.got += self._drain.data
        elif isinstance(taken, int):
            assert buffered(self._pipe.reader) == taken, "more or less than it said"
            self.got += os.read(self._pipe.reader, taken)
        else:
            assert buffered(self._pipe.reader) == 0
        return taken

    def all(self, portion: int = 1 << 16, count: int = MUCH) -> Taken:
        """Feed the source and take until something else than bytes or a wait comes."""
        for _ in range(100_000):
            taken = self.take(count)
            if taken == WAIT_SOURCE:
                if not ready(self.source.fd, write=False):
                    self.source.feed(portion)
                assert ready(self.source.fd, write=False, milliseconds=10_000)
            elif not isinstance(taken, int):
                return taken
        raise AssertionError("it never ends")

    def close(self) -> None:
        self._pipe.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def draining(source: Source, stack: ExitStack, buffer: int | None = None) -> Draining:
    made = Draining(source, buffer=buffer)
    stack.callback(made.close)
    return made


def peer_of(source: Source) -> socket.socket:
    """Return the test's side of a connection as a socket."""
    assert isinstance(source, StreamSource)
    return socket.socket(fileno=os.dup(source.peer))


@pytest.fixture(params=[None, 65536], ids=["pipe", "buffer"])
def buffer(request: pytest.FixtureRequest) -> int | None:
    """Into a pipe, or into a buffer of that size."""
    return None if request.param is None else int(request.param)


@pytest.fixture(params=[False, True], ids=["own", "inherited"])
def blocking(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("kind", ["file", "memory", "pipe", "tcp", "unix"])
def test_everything_comes_and_then_the_end(
    kind: str, buffer: int | None, bench: Bench, stack: ExitStack
) -> None:
    drain = draining(bench.source(kind, DATA), stack, buffer)
    assert drain.all() == ENDED
    assert drain.got == DATA
    if buffer is None:
        assert drain.take() == ENDED, "an end is the end"


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_stream_whose_flags_are_not_ours_is_never_waited_for(
    kind: str, buffer: int | None, bench: Bench, stack: ExitStack
) -> None:
    drain = draining(bench.source(kind, DATA, blocking=True), stack, buffer)
    assert drain.all(portion=5000) == ENDED
    assert drain.got == DATA


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_blocking_socket_is_asked_only_after_a_poll(
    kind: str, buffer: int | None, bench: Bench, stack: ExitStack
) -> None:
    source = bench.source(kind, DATA, blocking=True)
    drain = draining(source, stack, buffer)
    assert drain.take() == WAIT_SOURCE
    assert not drain.calls
    source.feed(100)
    assert ready(source.fd, write=False, milliseconds=10_000)
    assert drain.take() == 100
    assert drain.take() == WAIT_SOURCE, "what a poll has said holds for one call"
    assert sum(drain.calls.values()) == 1


def test_an_empty_source_is_no_end(
    buffer: int | None, blocking: bool, bench: Bench, stack: ExitStack
) -> None:
    for kind in ("pipe", "tcp", "unix"):
        if blocking and buffer is not None:
            continue  # a read of it would sleep: it is asked after a poll only
        source = bench.source(kind, b"", blocking=blocking and kind == "pipe")
        drain = draining(source, stack, buffer)
        assert [drain.take(), drain.take()] == [WAIT_SOURCE, WAIT_SOURCE], kind
        assert drain.got == b""


@pytest.mark.parametrize("count", [1, 4096, 5000])
@pytest.mark.parametrize("kind", ["file", "pipe", "tcp", "unix"])
def test_no_more_is_taken_than_was_asked_for(
    kind: str, count: int, buffer: int | None, bench: Bench, stack: ExitStack
) -> None:
    source = bench.source(kind, DATA)
    source.feed(20_000)
    drain = draining(source, stack, buffer)
    if kind == "tcp":
        assert ready(source.fd, write=False, milliseconds=10_000)
    taken = drain.take(count)
    assert isinstance(taken, int)
    assert 1 <= taken <= count
    assert drain.got == DATA[:taken]
    if kind != "file":
        assert os.read(source.fd, 10) == DATA[taken : taken + 10]


def test_a_pipe_is_filled_up_to_its_capacity(bench: Bench) -> None:
    with closing(Draining(bench.source("file", DATA), capacity=8192)) as drain:
        assert drain.take() == 8192
        assert drain.take(100) == 100
        assert drain.got == DATA[:8292]


def test_a_trickle_of_single_bytes(buffer: int | None, bench: Bench, stack: ExitStack) -> None:
    for kind in ("pipe", "tcp", "unix"):
        drain = draining(bench.source(kind, DATA[:200]), stack, buffer)
        assert drain.all(portion=1) == ENDED
        assert drain.got == DATA[:200]


# Urgent data


@pytest.mark.parametrize("inline", [False, True], ids=["beside", "inline"])
def test_urgent_data_is_passed(
    inline: bool, buffer: int | None, blocking: bool, bench: Bench, stack: ExitStack
) -> None:
    source = bench.source("tcp", b"", blocking=blocking)
    with socket.socket(fileno=os.dup(source.fd)) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, int(inline))
    with peer_of(source) as peer:
        peer.sendall(b"before")
        peer.send(b"!", socket.MSG_OOB)
        peer.sendall(b"after" * 1000)
    drain = draining(source, stack, buffer)
    assert drain.all() == ENDED
    assert drain.got == b"before" + (b"!" if inline else b"") + b"after" * 1000


def test_urgent_data_alone_is_neither_an_end_nor_ready_for_ever(
    blocking: bool, bench: Bench, stack: ExitStack
) -> None:
    source = bench.source("tcp", b"", blocking=blocking)
    with peer_of(source) as peer:
        drain = draining(source, stack)
        peer.send(b"!", socket.MSG_OOB)
        assert ready(source.fd, write=False, milliseconds=10_000)
        rounds = 0
        while drain.take() == WAIT_SOURCE and ready(source.fd, write=False):
            rounds += 1
            assert rounds < 10
        peer.sendall(b"after")
    assert drain.all() == ENDED
    assert drain.got == b"after"
    if not blocking:
        assert drain.calls["recvfrom"] >= 1, "splice does not pass the mark"


# What is refused, and what fails


def test_what_has_no_splice_is_refused_before_anything_is_taken(stack: ExitStack) -> None:
    counter = Source(os.eventfd(3, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    stack.callback(counter.close)
    drain = draining(counter, stack)
    assert drain.take() == FallBack("splice", errno.EINVAL)
    assert os.eventfd_read(counter.fd) == 3


def test_dev_null_is_refused_by_a_pipe_and_empty_to_a_buffer(stack: ExitStack) -> None:
    source = FileSource("/dev/null")
    stack.callback(source.close)
    assert draining(source, stack).take() == FallBack("splice", errno.EINVAL)
    assert draining(source, stack, 4096).take() == ENDED


def test_a_refusal_behind_the_first_bytes_is_a_fault(stack: ExitStack) -> None:
    """The fd has become something else: no other way may go on as if nothing had happened."""
    source = DeviceSource()
    stack.callback(source.close)
    drain = draining(source, stack)
    assert drain.take(100) == 100
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, source.fd, inheritable=False)
    os.close(null)
    with pytest.raises(MoveFault) as caught:
        drain.take(100)
    assert (caught.value.call, caught.value.side) == ("splice", "source")
    assert caught.value.error.errno == errno.EINVAL


def test_a_reset_is_a_fault_and_no_end(buffer: int | None, bench: Bench, stack: ExitStack) -> None:
    source = bench.source("tcp", b"")
    drain = draining(source, stack, buffer)
    with peer_of(source) as peer:
        peer.sendall(DATA[:3000])
        assert ready(source.fd, write=False, milliseconds=10_000)
        while drain.take() != WAIT_SOURCE:
            pass
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        source.feed()
    assert ready(source.fd, write=False, milliseconds=10_000)
    with pytest.raises(MoveFault) as caught:
        drain.take()
    assert caught.value.side == "source"
    assert caught.value.error.errno == errno.ECONNRESET
    assert drain.got == DATA[:3000]


def test_a_directory_is_a_fault(stack: ExitStack) -> None:
    source = Source(os.open("/", os.O_RDONLY | os.O_CLOEXEC))
    stack.callback(source.close)
    drain = draining(source, stack, 4096)
    with pytest.raises(MoveFault) as caught:
        while drain.take() == WAIT_SOURCE:
            pass
    assert (caught.value.call, caught.value.side) == ("read", "source")
    assert caught.value.error.errno == errno.EISDIR


# Into a buffer


def test_the_buffer_serves_o_direct(bench: Bench, stack: ExitStack) -> None:
    drain = BufferDrain(bench.source("file", DATA).port(), Counter())
    taken = drain.take(MUCH)
    assert taken == len(drain.data) == BUFFER
    address = ctypes.addressof(ctypes.c_char.from_buffer(drain.data))
    assert address % mmap.PAGESIZE == 0


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_message_is_taken_whole_whatever_was_asked_for(
    kind: socket.SocketKind, blocking: bool, stack: ExitStack
) -> None:
    """The rest of it would be lost."""
    source = StreamSource(ends.unix(kind), b"", blocking=blocking)
    stack.callback(source.close)
    messages = [b"one", b"two" * 1000, b"three"]
    for message in messages:
        os.write(source.peer, message)
    drain = draining(source, stack, 4096)
    for message in messages:
        if blocking:
            assert drain.take(1) == WAIT_SOURCE
        assert drain.take(1) == len(message)
    assert drain.got == b"".join(messages)
    assert drain.take(1) == WAIT_SOURCE


def test_an_empty_datagram_is_no_end_and_a_closed_seqpacket_is(stack: ExitStack) -> None:
    source = StreamSource(ends.unix(socket.SOCK_DGRAM), b"")
    stack.callback(source.close)
    with peer_of(source) as peer:
        peer.send(b"")
        peer.send(b"after")
        drain = draining(source, stack, 4096)
        assert drain.take() == WAIT_SOURCE
        assert drain.take() == 5
    packets = StreamSource(ends.unix(socket.SOCK_SEQPACKET), b"")
    stack.callback(packets.close)
    packets.end()
    assert draining(packets, stack, 4096).take() == ENDED
