"""What lies in a pipe or a buffer, into one sink: counted, never waited for."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from tests.movers import ends
from tests.movers.driver import ready, watchdog
from tests.movers.ends import FileSink, Sink, StreamSink
from tests.movers.test_splice import Terminal
from zpipe.kernel.pipes import Pipe, buffered
from zpipe.movers.contract import WAIT_SINK, FallBack, MoveFault
from zpipe.movers.pump import INTO_DATAGRAM, Pump

if TYPE_CHECKING:
    from pathlib import Path

    from tests.movers.conftest import Bench
    from zpipe.movers.contract import Wait

CAPACITY = 1 << 17
DATA = content(100_001)


class Pumping:
    """A pump with `data` in its pipe, or lent."""

    def __init__(
        self, sink: Sink, data: bytes = DATA, *, lent: bool = False, cuts: bool = False
    ) -> None:
        self.sink = sink
        self.calls: Counter[str] = Counter()
        self.pipe = Pipe(CAPACITY)
        self.pump = Pump(sink.port(), self.pipe.reader, self.calls, cuts=cuts)
        self._size = len(data)
        if lent:
            self.pump.rest = memoryview(data)
        else:
            self.refill(data)

    def refill(self, data: bytes) -> None:
        assert os.write(self.pipe.writer, data) == len(data)
        self.pump.in_pipe += len(data)
        self._size = self.pump.moved + self.pump.held

    def push(self, room: int | None = None) -> int | Wait:
        """Push once; what it says must agree with what it counts."""
        before = self.pump.moved
        with watchdog():
            moved = self.pump.push(room)
        taken = self.pump.moved - before
        if isinstance(moved, int):
            assert moved == taken > 0
            assert room is None or moved <= room
        else:
            assert taken == 0
        assert self.pump.moved + self.pump.held == self._size
        assert self.pump.in_pipe == buffered(self.pipe.reader)
        return moved

    def all(self, room: int | None = None) -> None:
        """Push everything, and empty the sink when it is full."""
        while self.pump.held:
            if not isinstance(self.push(room), int):
                while not ready(self.sink.fd, write=True):
                    assert self.sink.take() or ready(self.sink.fd, write=True, milliseconds=10_000)

    def close(self) -> None:
        self.pipe.close()


@pytest.mark.parametrize("lent", [False, True], ids=["from a pipe", "from a buffer"])
@pytest.mark.parametrize(
    "kind", ["file", "memory", "append", "block", "pipe", "tcp", "unix", "null"]
)
def test_everything_arrives(kind: str, lent: bool, bench: Bench) -> None:
    sink = bench.sink(kind)
    with closing(Pumping(sink, lent=lent)) as pumping:
        pumping.all()
        assert pumping.pump.moved == len(DATA)
        if lent:
            assert pumping.calls["splice"] == 0
        elif kind != "append":
            assert set(pumping.calls) == {"splice"}
    if kind != "null":
        assert sink.content(len(DATA)) == DATA


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_stream_whose_flags_are_not_ours_is_never_waited_for(kind: str, bench: Bench) -> None:
    sink = bench.sink(kind, blocking=True)
    with closing(Pumping(sink)) as pumping:
        pumping.all()
        # a pipe is spliced to without waiting, whatever its flags; a socket is sent to
        assert set(pumping.calls) == ({"splice"} if kind == "pipe" else {"read", "sendto"})
    assert sink.content(len(DATA)) == DATA


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_blocking_socket_is_sent_to_only_after_a_poll(kind: str, bench: Bench) -> None:
    with closing(Pumping(bench.sink(kind, blocking=True), DATA[:100])) as pumping:
        assert pumping.push() == WAIT_SINK
        assert pumping.calls["sendto"] == 0
        assert pumping.push() == 100
        pumping.refill(DATA[100:200])
        assert pumping.push() == WAIT_SINK, "what a poll has said holds for one call"


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_full_sink_is_told_and_nothing_is_lost(kind: str, blocking: bool, bench: Bench) -> None:
    sink = bench.sink(kind, blocking=blocking)
    with closing(Pumping(sink, b"")) as pumping:
        given = 0
        # a blocking socket is full when a push after a poll has found it so
        full = 0
        while full < 2:
            if not pumping.pump.held:
                pumping.refill(DATA)
                given += len(DATA)
            full = 0 if isinstance(pumping.push(), int) else full + 1
            assert given < 100 << 20, "it is never full"
        sink.take()
        pumping.all()
        assert sink.content(given) == DATA * (given // len(DATA))


@pytest.mark.parametrize("kind", ["file", "append", "pipe", "tcp"])
@pytest.mark.parametrize("lent", [False, True], ids=["from a pipe", "from a buffer"])
def test_no_more_moves_than_there_is_room_for(kind: str, lent: bool, bench: Bench) -> None:
    sink = bench.sink(kind)
    with closing(Pumping(sink, lent=lent)) as pumping:
        assert pumping.push(1) == 1
        assert pumping.push(4097) == 4097
        if not lent and kind != "append":
            assert not pumping.pump.rest
        pumping.all(room=9999)
    assert sink.content(len(DATA)) == DATA


# What refuses splice


def test_a_sink_that_refuses_splice_is_written_to_from_then_on(bench: Bench) -> None:
    sink = bench.sink("append")
    with closing(Pumping(sink, DATA[:70_000])) as pumping:
        assert pumping.pump.refusal is None
        pumping.push()
        assert pumping.pump.refusal == FallBack("splice", errno.EINVAL)
        pumping.all()
        pumping.refill(DATA[70_000:])
        pumping.all()
        assert pumping.calls["splice"] == 1, "it is not asked again"
        assert pumping.calls["read"] == pumping.calls["write"] == 3
    assert sink.content(0) == DATA


def test_a_refusal_behind_the_first_bytes_is_a_fault(bench: Bench) -> None:
    """Somebody has set O_APPEND meanwhile: where the next byte would go, nobody knows."""
    sink = bench.sink("file")
    with closing(Pumping(sink)) as pumping:
        pumping.push(1000)
        fcntl.fcntl(sink.fd, fcntl.F_SETFL, os.O_APPEND)
        with pytest.raises(MoveFault) as caught:
            pumping.push()
        assert (caught.value.call, caught.value.side) == ("splice", "sink")
        assert caught.value.error.errno == errno.EINVAL
        assert pumping.pump.moved == 1000
        assert pumping.pump.held == len(DATA) - 1000


def test_a_refusal_and_a_full_sink_keep_what_was_read(bench: Bench) -> None:
    """/dev/full refuses splice, and every write: the bytes that were read are counted as held."""
    with closing(FileSink("/dev/full")) as sink, closing(Pumping(sink)) as pumping:
        with pytest.raises(MoveFault) as caught:
            pumping.push()
        assert (caught.value.call, caught.value.error.errno) == ("write", errno.ENOSPC)
        assert (pumping.pump.moved, pumping.pump.held) == (0, len(DATA))
        assert len(pumping.pump.rest) > 0


# What fails


@pytest.mark.parametrize("lent", [False, True], ids=["from a pipe", "from a buffer"])
@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_reader_that_has_gone_is_a_fault_of_the_sink(
    kind: str, blocking: bool, lent: bool, bench: Bench
) -> None:
    sink = bench.sink(kind, blocking=blocking)
    assert isinstance(sink, StreamSink)
    if kind == "tcp":
        with socket.socket(fileno=os.dup(sink.peer)) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sink.leave()
    with closing(Pumping(sink, lent=lent)) as pumping:
        with pytest.raises(MoveFault) as caught:
            while pumping.pump.held:
                pumping.push()
        assert caught.value.side == "sink"
        assert caught.value.error.errno in (errno.EPIPE, errno.ECONNRESET)
        assert caught.value.call == ("write" if lent or (blocking and kind != "pipe") else "splice")
        assert (pumping.pump.moved, pumping.pump.held) == (0, len(DATA))


def test_a_full_disk_is_a_fault_that_tells_what_it_took(tiny: Path, bench: Bench) -> None:
    with closing(FileSink(tiny / "x")) as sink, closing(Pumping(sink, b"")) as pumping:
        with pytest.raises(MoveFault) as caught:
            for _ in range(20):
                pumping.refill(DATA)
                pumping.all()
        assert caught.value.error.errno == errno.ENOSPC
        assert pumping.pump.moved == (tiny / "x").stat().st_size > len(DATA)
        assert sink.content(0) == (DATA * 20)[: pumping.pump.moved]


# Terminals and messages


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
def test_a_terminal_is_written_to_as_it_polls_ready(blocking: bool) -> None:
    """The reader keeps up: a ready terminal promises room for a byte, and a write is of more."""
    data = DATA[:20_000]
    with closing(Terminal(blocking=blocking)) as sink, closing(Pumping(sink, data)) as pumping:
        while pumping.pump.held:
            pumping.push()
            assert sink.content(pumping.pump.moved) == data[: pumping.pump.moved]


@pytest.mark.parametrize("lent", [False, True], ids=["from a pipe", "from a buffer"])
def test_a_stream_is_cut_into_datagrams_that_pass_everywhere(lent: bool) -> None:
    data = DATA[:5000]
    with (
        closing(StreamSink(ends.unix(socket.SOCK_DGRAM))) as sink,
        closing(Pumping(sink, data, lent=lent, cuts=True)) as pumping,
    ):
        while pumping.pump.held:
            assert isinstance(pumping.push(), int)
            sink.take()
        assert [len(message) for message in sink.messages] == [INTO_DATAGRAM] * 3 + [800]
        assert sink.taken == data
        assert "splice" not in pumping.calls


def test_a_message_that_is_not_cut_is_sent_whole() -> None:
    with (
        closing(StreamSink(ends.unix(socket.SOCK_SEQPACKET))) as sink,
        closing(Pumping(sink, DATA[:9000], lent=True)) as pumping,
    ):
        assert pumping.push() == 9000
        sink.take()
        assert sink.messages == [DATA[:9000]]
