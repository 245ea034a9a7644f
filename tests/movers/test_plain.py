"""plain: serves what nobody else does, message by message, and tells the errors as they are."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from tests.movers import ends
from tests.movers.driver import Driver, ready
from tests.movers.ends import FileSink, FileSource, Source, StreamSink, StreamSource
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, MoveFault, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.movers.conftest import Bench

PLAIN = mover_of("plain")
DATA = content(300_001)
MESSAGES = [b"one", b"two" * 100, b"", b"x" * 1400, b"y" * 9000, b"end"]


def datagrams() -> tuple[int, int]:
    """Return a pair of UNIX datagram sockets."""
    return ends.unix(socket.SOCK_DGRAM)


def udp() -> tuple[int, int]:
    """Return two UDP sockets over loopback that are connected to each other."""
    left, right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        end.bind(("127.0.0.1", 0))
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    return left.detach(), right.detach()


@pytest.fixture(params=[False, True], ids=["own", "inherited"])
def blocking(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield bool(request.param)


@pytest.mark.parametrize("make", [datagrams, udp])
def test_messages_stay_whole_and_apart(make: Callable[[], tuple[int, int]], blocking: bool) -> None:
    """An empty one cannot be told from nothing, and is no end."""
    source = StreamSource(make(), b"", blocking=blocking)
    sink = StreamSink(make(), blocking=blocking)
    with closing(source), closing(sink), Driver(PLAIN, source, sink) as driver:
        assert driver.until_wait() == Wait("source")
        for message in MESSAGES:
            os.write(source.peer, message) if message else send_nothing(source.peer)
            driver.serve(Wait("source"))
            while (wait := driver.until_wait()).side == "sink" or ready(source.fd, write=False):
                driver.serve(wait)
            sink.take()
        assert sink.messages == [message for message in MESSAGES if message]
        assert driver.transfer.delivered == sum(map(len, MESSAGES))


def send_nothing(fd: int) -> None:
    """Send a datagram of no bytes, which write(2) would not."""
    with socket.socket(fileno=os.dup(fd)) as end:
        end.send(b"")


def test_a_message_longer_than_the_limit_is_taken_whole_and_cut() -> None:
    source, sink = StreamSource(datagrams(), b""), StreamSink(datagrams())
    with closing(source), closing(sink):
        os.write(source.peer, b"0123456789")
        os.write(source.peer, b"next")
        with Driver(PLAIN, source, sink, 4) as driver:
            assert isinstance(driver.go(), Ended)
        sink.take()
        assert sink.messages == [b"0123"]
        assert os.read(source.fd, 100) == b"next", "the rest of a message is not a message"


def test_a_message_is_a_granule_that_an_allowance_does_not_cut() -> None:
    source, sink = StreamSource(datagrams(), b""), StreamSink(datagrams())
    with closing(source), closing(sink):
        os.write(source.peer, b"0123456789")
        with Driver(PLAIN, source, sink, allowance=4) as driver:
            driver.most = 10
            driver.until_wait()
        sink.take()
        assert sink.messages == [b"0123456789"]


def test_a_stream_is_cut_into_messages_that_fit_a_frame(bench: Bench) -> None:
    sink = StreamSink(datagrams())
    source = bench.source("file", DATA)
    assert "messages of 1400 bytes" in PLAIN.fits(source.port().facts, sink.port().facts).caveat
    with closing(sink), Driver(PLAIN, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
        sink.take()
        assert {len(message) for message in sink.messages} <= {1400, *range(1400)}
        assert max(map(len, sink.messages)) == 1400
        assert b"".join(sink.messages) == DATA


def test_messages_become_a_stream(bench: Bench) -> None:
    source, sink = StreamSource(datagrams(), b""), bench.sink("file")
    assert "boundaries" in PLAIN.fits(source.port().facts, sink.port().facts).caveat
    whole = b"".join(MESSAGES)
    with closing(source), Driver(PLAIN, source, sink, len(whole)) as driver:
        for message in MESSAGES:
            if message:
                os.write(source.peer, message)
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == whole


def test_a_sequence_of_packets_has_an_end() -> None:
    source = StreamSource(ends.unix(socket.SOCK_SEQPACKET), b"")
    sink = StreamSink(ends.unix(socket.SOCK_SEQPACKET))
    with closing(source), closing(sink):
        os.write(source.peer, b"first")
        os.write(source.peer, b"second" * 1000)
        source.end()
        with Driver(PLAIN, source, sink) as driver:
            assert isinstance(driver.go(), Ended)
        sink.take()
        assert sink.messages == [b"first", b"second" * 1000]


def test_a_message_too_long_for_the_sink_is_an_error() -> None:
    source, sink = StreamSource(datagrams(), b""), StreamSink(udp())
    with closing(source), closing(sink):
        os.write(source.peer, bytes(70_000))
        with Driver(PLAIN, source, sink) as driver, pytest.raises(MoveFault) as caught:
            driver.go()
        assert (caught.value.error.errno, caught.value.side) == (errno.EMSGSIZE, "sink")


def test_nobody_at_the_other_side_of_a_datagram_socket() -> None:
    source, sink = StreamSource(datagrams(), b""), StreamSink(udp())
    with closing(source), closing(sink):
        sink.leave()
        with Driver(PLAIN, source, sink) as driver, pytest.raises(MoveFault) as caught:
            for _ in range(10):
                os.write(source.peer, b"anybody?")
                driver.serve(Wait("source"))
                driver.until_wait()
        assert (caught.value.error.errno, caught.value.side) == (errno.ECONNREFUSED, "sink")


def test_what_others_append_meanwhile_is_not_overwritten(bench: Bench) -> None:
    source, sink = bench.source("pipe", DATA), bench.sink("append")
    assert isinstance(sink, FileSink) and isinstance(source, StreamSource)
    with Driver(PLAIN, source, sink) as driver:
        source.feed(5)
        driver.until_wait()
        with open(sink.path, "ab") as other:
            other.write(b"[other]")
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == DATA[:5] + b"[other]" + DATA[5:]


def test_dev_full_says_that_it_is(bench: Bench) -> None:
    source = bench.source("file", DATA)
    with closing(FileSink("/dev/full")) as sink, Driver(PLAIN, source, sink) as driver:
        with pytest.raises(MoveFault) as caught:
            driver.go()
        assert (caught.value.call, caught.value.side) == ("write", "sink")
        assert caught.value.error.errno == errno.ENOSPC
        assert driver.transfer.delivered == 0 < driver.transfer.held


def test_dev_null_ends_at_once(bench: Bench) -> None:
    sink = bench.sink("file")
    with closing(FileSource("/dev/null")) as source, Driver(PLAIN, source, sink) as driver:
        assert isinstance(driver.step(), Ended)


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/maps", "/proc/cpuinfo"])
def test_files_whose_size_is_a_fiction(path: str, bench: Bench) -> None:
    sink = bench.sink("file")
    with closing(FileSource(path)) as source, Driver(PLAIN, source, sink) as driver:
        assert source.port().facts.size == 0
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.delivered > 0
    if path == "/proc/version":
        assert sink.content(0) == source.data


def test_a_counter_of_events(blocking: bool, bench: Bench) -> None:
    """An eventfd gives eight bytes a read and has no end: only a limit is one."""
    if not hasattr(os, "eventfd"):
        pytest.skip("this Python has no eventfd")

    class Counter(Source):
        def feed(self, portion: int = 0) -> bool:
            os.eventfd_write(self.fd, 7)
            return True

    flags = os.EFD_CLOEXEC | (0 if blocking else os.EFD_NONBLOCK)
    sink = bench.sink("file")
    with closing(Counter(os.eventfd(3, flags), owned=not blocking)) as source:
        assert source.port().facts.type == "other"
        with Driver(PLAIN, source, sink, 16) as driver:
            assert isinstance(driver.go(), Ended)
    assert sink.content(0) == (3).to_bytes(8, "little") + (7).to_bytes(8, "little")


def test_a_directory_is_an_error_of_the_source(bench: Bench) -> None:
    class Directory(Source):
        pass

    end = Directory(os.open("/", os.O_RDONLY))
    with (
        closing(end),
        Driver(PLAIN, end, bench.sink("file")) as driver,
        pytest.raises(MoveFault) as caught,
    ):
        driver.go()
    assert (caught.value.error.errno, caught.value.side) == (errno.EISDIR, "source")


def test_what_was_read_and_not_taken_is_counted(bench: Bench) -> None:
    """A pipe of 4 KiB takes a part of the buffer: the rest is held."""
    sink = StreamSink(ends.pipe(4096))
    source = bench.source("file", DATA)
    with closing(sink), Driver(PLAIN, source, sink) as driver:
        assert driver.until_wait() == Wait("sink")
        transfer = driver.transfer
        assert (transfer.delivered, transfer.held) == (4096, (256 << 10) - 4096)
        assert source.position() == transfer.delivered + transfer.held
