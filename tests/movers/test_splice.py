"""splice: no false end, no false emptiness, and nothing is lost between pipe and sink."""

from __future__ import annotations

import errno
import os
import pty
import socket
import struct
import tty
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from tests.movers import ends
from tests.movers.driver import Driver, ready
from tests.movers.ends import DeviceSource, End, FileSink, Source, StreamSink, StreamSource
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, MoveFault, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.movers.conftest import Bench

SPLICE = mover_of("splice")
STREAM_MOVERS = ("splice", "direct", "plain")
DATA = content(300_001)


def peer_of(source: StreamSource) -> socket.socket:
    """Return the test's side of a connection as a socket."""
    return socket.socket(fileno=os.dup(source.peer))


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("inline", [False, True], ids=["beside", "inline"])
@pytest.mark.parametrize("name", STREAM_MOVERS)
def test_urgent_data_is_passed(name: str, inline: bool, blocking: bool, bench: Bench) -> None:
    """splice stops at the mark for good: own sockets get EAGAIN, blocking ones a false end."""
    source, sink = bench.source("tcp", b"", blocking=blocking), bench.sink("file")
    assert isinstance(source, StreamSource)
    with socket.socket(fileno=os.dup(source.fd)) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, int(inline))
    with peer_of(source) as peer, Driver(mover_of(name), source, sink) as driver:
        for urgent in (b"!", b"?"):
            # one at a time: a second mark would make the first byte an ordinary one
            peer.send(b"before")
            peer.send(urgent, socket.MSG_OOB)
            peer.send(b"after" * 1000)
            driver.serve(Wait("source"))
            while driver.until_wait() and ready(source.fd, write=False):
                pass
        source.end()
        peer.close()
        assert isinstance(driver.go(), Ended)
    # an urgent byte is not a part of the stream, unless the receiver has asked for it inline
    first, second = (b"!", b"?") if inline else (b"", b"")
    after = b"after" * 1000
    assert sink.content(0) == b"before" + first + after + b"before" + second + after


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("name", STREAM_MOVERS)
def test_urgent_data_alone_does_not_keep_the_engine_awake(
    name: str, blocking: bool, bench: Bench
) -> None:
    """With nothing behind the mark, the socket must not poll ready for ever, nor a step sleep."""
    source, sink = bench.source("tcp", b"", blocking=blocking), bench.sink("file")
    assert isinstance(source, StreamSource)
    with peer_of(source) as peer, Driver(mover_of(name), source, sink) as driver:
        peer.send(b"before")
        peer.send(b"!", socket.MSG_OOB)
        driver.serve(Wait("source"))
        rounds = 0
        while (wait := driver.until_wait()) and ready(source.fd, write=False):
            rounds += 1
            assert rounds < 10, f"{wait}, and it is ready at once, again and again"
        assert driver.transfer.delivered + driver.transfer.held == len(b"before")
        peer.send(b"after")
        source.end()
        peer.close()
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == b"beforeafter"


def test_the_end_behind_an_urgent_mark_is_one(bench: Bench) -> None:
    source, sink = bench.source("tcp", b""), bench.sink("file")
    assert isinstance(source, StreamSource)
    with peer_of(source) as peer:
        peer.send(b"before")
        peer.send(b"!", socket.MSG_OOB)
    source.end()
    with Driver(SPLICE, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == b"before"


def test_silence_after_data_is_not_the_end(bench: Bench) -> None:
    source, sink = bench.source("tcp", b""), bench.sink("pipe")
    assert isinstance(source, StreamSource)
    with peer_of(source) as peer, Driver(SPLICE, source, sink) as driver:
        for word in (b"one", b"two"):
            peer.send(word)
            driver.serve(Wait("source"))
            assert driver.until_wait() == Wait("source")
        assert sink.content(6) == b"onetwo"


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_trickle_of_single_bytes(kind: str, bench: Bench) -> None:
    data = DATA[:500]
    source, sink = bench.source(kind, data), bench.sink("file")
    with Driver(SPLICE, source, sink) as driver:
        assert isinstance(driver.go(portion=1), Ended)
        assert driver.steps["Moved"] == len(data)
    assert sink.content(0) == data


@pytest.mark.parametrize("sink_kind", ["file", "pipe", "tcp", "unix"])
@pytest.mark.parametrize("source_kind", ["tcp", "unix"])
def test_slots_are_used_up_before_bytes(source_kind: str, sink_kind: str, bench: Bench) -> None:
    """A pipe of 2 slots takes 2 packets of 100 bytes: EAGAIN would then not mean an empty source.

    The pipe is refilled only when it is empty, so that it always does.
    """
    data = content(100 * 100)
    source, sink = bench.source(source_kind, data), bench.sink(sink_kind)
    while source.feed(100):
        pass
    with Driver(SPLICE, source, sink, len(data), pipe_size=8192) as driver:
        asked = []
        while isinstance(step := driver.step(), Wait) or not isinstance(step, Ended):
            if isinstance(step, Wait):
                asked.append(step.side)
                driver.serve(step)
    assert sink.content(len(data)) == data
    assert "source" not in asked, "it was never empty"


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_reset_is_an_error_and_no_end(kind: str, bench: Bench) -> None:
    """After the reset was told once, splice and read answer 0, as at an end."""
    source, sink = bench.source(kind, b""), bench.sink("file")
    assert isinstance(source, StreamSource)
    with peer_of(source) as peer:
        peer.send(DATA[:3000])
        with Driver(SPLICE, source, sink) as driver:
            driver.until_wait()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            source.end()
            peer.close()
            with pytest.raises(MoveFault) as caught:
                driver.go()
    assert caught.value.error.errno == errno.ECONNRESET
    assert caught.value.side == "source"
    assert sink.content(0) == DATA[:3000]


def test_a_reset_at_the_sink_says_what_was_held(bench: Bench) -> None:
    """What is in the pipe by then was taken from the source and has not arrived."""
    source, sink = bench.source("pipe", DATA), bench.sink("tcp")
    assert isinstance(sink, StreamSink) and isinstance(source, StreamSource)
    source.feed()
    with socket.socket(fileno=os.dup(sink.peer)) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sink.leave()
    with Driver(SPLICE, source, sink) as driver:
        with pytest.raises(MoveFault) as caught:
            driver.go()
        assert caught.value.side == "sink"
        assert (driver.transfer.delivered, driver.transfer.held) == (0, 1 << 16)


def test_a_sink_that_refuses_gets_what_the_pipe_holds(bench: Bench) -> None:
    """Facts may be wrong: bytes on their way are written before the next mover begins."""
    source, sink = bench.source("pipe", DATA), bench.sink("append")
    assert isinstance(source, StreamSource)
    with Driver(SPLICE, source, sink) as driver:
        assert driver.go() == FallBack("splice", errno.EINVAL)
        moved = driver.transfer.delivered
        assert moved == len(DATA) - len(source.rest) > 0
        assert driver.transfer.held == 0
        assert driver.transfer.calls["write"] >= 1
    assert sink.content(0) == DATA[:moved]


def test_dev_null_as_a_source_falls_back(bench: Bench) -> None:
    class Nothing(Source):
        def __init__(self) -> None:
            super().__init__(os.open("/dev/null", os.O_RDONLY))

    with closing(Nothing()) as source:
        assert not SPLICE.fits(source.port().facts, bench.sink("file").port().facts).ok
        with Driver(SPLICE, source, bench.sink("file")) as driver:
            assert driver.go() == FallBack("splice", errno.EINVAL)


def test_dev_full_gives_its_true_error(bench: Bench) -> None:
    """splice says EINVAL; the bytes that are held are then written, which says ENOSPC."""
    with closing(FileSink("/dev/full")) as sink:
        source = bench.source("file", DATA)
        assert not SPLICE.fits(source.port().facts, sink.port().facts).ok
        with Driver(SPLICE, source, sink) as driver, pytest.raises(MoveFault) as caught:
            driver.go()
    assert (caught.value.error.errno, caught.value.side) == (errno.ENOSPC, "sink")


def test_an_eventfd_falls_back(bench: Bench) -> None:
    if not hasattr(os, "eventfd"):
        pytest.skip("this Python has no eventfd")

    class Counter(Source):
        def __init__(self) -> None:
            super().__init__(os.eventfd(3, os.EFD_NONBLOCK | os.EFD_CLOEXEC))

    with closing(Counter()) as source, Driver(SPLICE, source, bench.sink("file")) as driver:
        assert driver.go() == FallBack("splice", errno.EINVAL)


@pytest.mark.parametrize("limit", [1, 4096, 1_000_001])
def test_a_device_without_end_stops_at_the_limit(limit: int, bench: Bench) -> None:
    sink = bench.sink("file")
    with closing(DeviceSource()) as source, Driver(SPLICE, source, sink, limit) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == bytes(limit)


@pytest.mark.parametrize("capacity", [4096, 8192, 1 << 16])
def test_the_private_pipe_has_the_size_that_was_asked_for(capacity: int, bench: Bench) -> None:
    source, sink = bench.source("file", DATA), bench.sink("file")
    with Driver(SPLICE, source, sink, pipe_size=capacity) as driver:
        assert isinstance(driver.go(), Ended)
        # in and out for each filling, and the answer of 0 at the end
        assert driver.transfer.calls["splice"] == 2 * -(-len(DATA) // capacity) + 1
        assert driver.transfer.notes == []


def test_a_pipe_larger_than_the_kernel_gives_is_noted(bench: Bench) -> None:
    with open("/proc/sys/fs/pipe-max-size") as file:
        most = int(file.read())
    source, sink = bench.source("file", DATA), bench.sink("file")
    with Driver(SPLICE, source, sink, pipe_size=1 << 62) as driver:
        assert isinstance(driver.go(), Ended)
        (note,) = driver.transfer.notes
    assert note.startswith("the private pipe has")
    assert int(note.split()[4]) <= most
    assert sink.content(0) == DATA


class Terminal(StreamSink):
    """The slave side of a pseudo terminal in raw mode as a sink; the test is the terminal."""

    def __init__(self, *, blocking: bool):
        master, slave = pty.openpty()
        tty.setraw(slave)
        super().__init__((master, slave), blocking=blocking)


class Keyboard(StreamSource):
    """A pseudo terminal as a source."""

    def __init__(self, data: bytes, *, blocking: bool):
        master, slave = pty.openpty()
        tty.setraw(slave)
        super().__init__((slave, master), data, blocking=blocking)


@pytest.fixture(params=[False, True], ids=["own", "inherited"])
def blocking(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield bool(request.param)


@pytest.mark.parametrize("name", ["splice", "plain"])
def test_a_terminal_as_a_sink(name: str, blocking: bool, bench: Bench) -> None:
    """One that could not be opened again blocks, and is written to only as it polls ready."""
    data = DATA[:20_000]
    with closing(Terminal(blocking=blocking)) as sink:
        source = bench.source("pipe", data)
        assert sink.port().facts.type == "tty"
        assert mover_of(name).fits(source.port().facts, sink.port().facts).ok
        with Driver(mover_of(name), source, sink, allowance=1000) as driver:
            while not isinstance(step := driver.step(), Ended):
                if isinstance(step, Wait):
                    driver.serve(step)
                sink.take()
        assert sink.content(len(data)) == data


@pytest.mark.parametrize("name", ["splice", "plain"])
def test_a_terminal_as_a_source(name: str, blocking: bool, bench: Bench) -> None:
    data = DATA[:20_000]
    sink = bench.sink("file")
    with closing(Keyboard(data, blocking=blocking)) as source:
        with Driver(mover_of(name), source, sink, len(data)) as driver:
            assert isinstance(driver.go(portion=1000), Ended)
        assert sink.content(0) == data


def test_message_boundaries_are_left_alone(bench: Bench) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        left, right = ends.unix(kind)
        with closing(End(left)) as source, closing(End(right)) as sink:
            facts = bench.source("file", DATA).port().facts
            assert not SPLICE.fits(source.port().facts, facts).ok
            assert not SPLICE.fits(facts, sink.port().facts).ok


def test_what_is_spliced_to_a_stream_is_told_to_be_a_reference(bench: Bench) -> None:
    source = bench.source("file", DATA).port().facts
    assert SPLICE.fits(source, bench.sink("tcp").port().facts).by_reference
    assert not SPLICE.fits(source, bench.sink("file").port().facts).by_reference
    stream = bench.source("tcp", DATA).port().facts
    assert not SPLICE.fits(stream, bench.sink("tcp").port().facts).by_reference
