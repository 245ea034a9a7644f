"""SharedBuffer: between two processes, until one of them dies, and against a peer that lies."""

from __future__ import annotations

import errno
import gc
import io
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.channel import ring_peer
from tests.machine import LONGEST, content, environment, until
from zpipe.channel.shared import SharedBuffer, SharedBufferPool
from zpipe.errors import TransferError
from zpipe.kernel import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.channel.side import Role

PAGE = mmap.PAGESIZE
HEAD, TAIL = 128, 256  # where the counters are: a part of the layout
PATIENCE = LONGEST / 2


@contextmanager
def peer(act: str, *numbers: int) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """Start the other process, and return it with the socket that leads to it."""
    here, there = socket.socketpair()
    here.settimeout(PATIENCE)
    with here:
        with there:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.channel.ring_peer"),
                    *(act, str(there.fileno()), *map(str, numbers)),
                ],
                pass_fds=[there.fileno()],
                env=environment(),
            )
        try:
            yield process, here
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def both(capacity: int) -> Iterator[tuple[SharedBuffer, SharedBuffer]]:
    """A producer and its consumer, closed at the end."""
    producer, consumer = SharedBuffer.pair(capacity)
    with consumer, producer:
        yield producer, consumer


# between two processes


@pytest.mark.parametrize(
    ("total", "capacity", "largest"),
    [(256 << 20, 1 << 20, 1 << 20), (1 << 20, PAGE, 3000), (1 << 19, PAGE, 100), (0, PAGE, 10)],
)
def test_bytes_arrive_as_they_were_sent(total: int, capacity: int, largest: int) -> None:
    """With the smallest ring, both sides sleep all the time: a missed wake-up would be for ever."""
    with peer("consume", 2, largest) as (_, sock):
        with SharedBuffer.create(capacity) as producer:
            producer.send(sock)
            ring_peer.produce(producer, total, 1, largest)
            assert producer.moved == total
        answer = sock.recv(1000).decode()
    assert answer == f"{total} {ring_peer.checksum(total)} True"


def test_the_maker_can_be_the_consumer() -> None:
    total = 3_000_000
    with (
        peer("produce", total, 5, 70_000) as (process, sock),
        SharedBuffer.create(1 << 16, "consumer") as consumer,
    ):
        consumer.send(sock)
        assert ring_peer.consume(consumer, 6, 50_000) == (total, ring_peer.checksum(total))
        assert consumer.finished
        assert process.wait() == 0


def test_no_wake_up_is_missed() -> None:
    """Question and answer: each side sleeps before each byte, or nearly so."""
    with (
        peer("echo") as (_, sock),
        SharedBuffer.create(PAGE) as questions,
        SharedBuffer.create(PAGE, "consumer") as answers,
    ):
        questions.send(sock)
        answers.send(sock)
        for number in range(10_000):
            question = number.to_bytes(4, "big")
            questions.write(question)
            answer = b""
            while len(answer) < 4:
                answer += answers.read(4)
            assert answer == question


def test_threads_miss_none_either() -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ring_peer.produce(producer, 1 << 20, 3, 2000)
            producer.close()
        except BaseException as error:
            failures.append(error)

    producer, consumer = SharedBuffer.pair(PAGE)
    with consumer:
        thread = threading.Thread(target=work)
        thread.start()
        assert ring_peer.consume(consumer, 4, 2000) == (1 << 20, ring_peer.checksum(1 << 20))
        thread.join()
    assert not failures


# death


@pytest.mark.parametrize("seed", range(6))
def test_a_producer_killed_at_any_point_leaves_a_clean_prefix(seed: int) -> None:
    chance = random.Random(seed)
    capacity = chance.choice([PAGE, 16 * PAGE, 1 << 20])
    total, before = 4 << 20, chance.randint(0, 3 << 20)
    expected = b"".join(ring_peer.blocks(total))
    with (
        peer("produce-for-ever", total, seed, chance.choice([50, 5000, 500_000])) as (
            process,
            sock,
        ),
        SharedBuffer.create(capacity, "consumer") as consumer,
    ):
        consumer.send(sock)
        assert sock.recv(5) == b"ready"
        got = b""
        while len(got) < before:
            got += consumer.read(min(100_000, before - len(got)))
        process.kill()
        while data := consumer.read(100_000):
            got += data
        assert before <= len(got) <= total
        assert got == expected[: len(got)]
        assert not consumer.finished
        assert consumer.read(1) == b""
        assert not consumer.peek()


def test_a_killed_consumer_is_a_broken_pipe_for_who_waits() -> None:
    with (
        peer("consume-some", 100_000) as (process, sock),
        SharedBuffer.create(PAGE) as producer,
    ):
        producer.send(sock)
        producer.write(bytes(100_000))
        assert sock.recv(5) == b"ready"
        producer.write(bytes(PAGE))
        assert producer.available == 0
        killer = threading.Thread(target=process.kill)
        killer.start()
        with pytest.raises(BrokenPipeError) as caught:
            producer.write(b"more")
        killer.join()
        assert caught.value.errno == errno.EPIPE
        assert process.wait() != 0


def test_a_killed_consumer_is_a_broken_pipe_also_where_there_is_room() -> None:
    with (
        peer("consume-some", 10) as (process, sock),
        SharedBuffer.create(1 << 16) as producer,
    ):
        producer.send(sock)
        producer.write(bytes(10))
        assert sock.recv(5) == b"ready"
        process.kill()
        process.wait()
        for act in (lambda: producer.write(b"x"), lambda: producer.reserve(1)):
            with pytest.raises(BrokenPipeError):
                act()


def test_a_peer_that_dies_before_it_takes_its_side_is_noticed() -> None:
    here, there = socket.socketpair()
    with here, SharedBuffer.create(PAGE) as producer:
        with there:
            producer.send(here)
            producer.write(b"nobody yet")
        with pytest.raises(BrokenPipeError):
            producer.write(b"nobody any more")


def test_an_error_in_the_producers_block_is_no_end_on_purpose() -> None:
    producer, consumer = SharedBuffer.pair(PAGE)
    with consumer:
        with pytest.raises(ZeroDivisionError), producer:
            producer.write(b"half of it")
            raise ZeroDivisionError
        assert (consumer.read(100), consumer.read(100)) == (b"half of it", b"")
        assert not consumer.finished


def test_a_copy_left_behind_by_a_fork_does_not_speak_for_the_producer() -> None:
    producer, consumer = SharedBuffer.pair(PAGE)
    child = os.fork()
    if child == 0:
        try:
            consumer.close()
            producer.write(b"some, then killed")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    producer.close()
    with consumer:
        assert (consumer.read(100), consumer.read(100)) == (b"some, then killed", b"")
        assert not consumer.finished
    os.waitpid(child, 0)


# against a model


acts = st.lists(
    st.tuples(
        st.sampled_from(["write", "reserve", "read", "read_into", "peek", "consume"]),
        st.integers(1, 9000),
        st.integers(0, 9000),
    ),
    max_size=60,
)


@given(acts)
def test_it_is_a_bounded_queue_of_bytes(steps: list[tuple[str, int, int]]) -> None:
    source = content(1 << 20)
    written = read = 0
    with both(2 * PAGE) as (producer, consumer):
        for act, size, part in steps:
            room, waiting = 2 * PAGE - (written - read), written - read
            assert (producer.available, consumer.available) == (room, waiting)
            if act in ("write", "reserve") and not room:
                with pytest.raises(TimeoutError):
                    getattr(producer, act)(b"x" if act == "write" else 1, timeout=0)
            elif act == "write":
                count = producer.write(source[written : written + size], timeout=0)
                assert count == min(size, room)
                written += count
            elif act == "reserve":
                with producer.reserve(size, timeout=0) as view:
                    count = min(part, len(view))
                    assert 1 <= len(view) <= min(size, room)
                    view[:count] = source[written : written + count]
                producer.commit(count)
                written += count
            elif act == "consume":
                count = min(part, waiting)
                consumer.consume(count)
                read += count
            elif not waiting:
                with pytest.raises(TimeoutError):
                    getattr(consumer, act)(bytearray(1) if act == "read_into" else 1, timeout=0)
            elif act == "peek":
                with consumer.peek(size) as view:
                    assert 1 <= len(view) <= min(size, waiting)
                    assert view == source[read : read + len(view)]
                    assert view.readonly
            elif act == "read":
                data = consumer.read(size)
                assert data == source[read : read + min(size, waiting)]
                read += len(data)
            else:
                target = bytearray(size)
                count = consumer.read_into(target)
                assert target[:count] == source[read : read + min(size, waiting)]
                read += count
        assert (producer.moved, consumer.moved) == (written, read)
        producer.close()
        rest = b""
        while data := consumer.read(5000):
            rest += data
        assert rest == source[read:written]
        assert consumer.finished


# waiting and views


def test_time_that_is_over_is_told() -> None:
    with both(PAGE) as (producer, consumer):
        for act in (lambda: consumer.read(1, 0.01), lambda: consumer.peek(1, 0.01)):
            with pytest.raises(TimeoutError, match="the producer does nothing"):
                act()
        assert producer.write(bytes(PAGE + 10), timeout=0.01) == PAGE
        for room in (lambda: producer.write(b"x", 0.01), lambda: producer.reserve(1, 0.01)):
            with pytest.raises(TimeoutError, match="the consumer does nothing"):
                room()
        assert producer.write(b"", timeout=0) == 0


def test_news_can_be_polled_for() -> None:
    with both(PAGE) as (producer, consumer):

        def told(fd: int) -> int:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            return dict(poll.poll(0)).get(fd, 0)

        assert not told(consumer.fileno())
        producer.write(b"abc")
        assert told(consumer.fileno()) == select.POLLIN
        assert consumer.available == 3
        assert not told(consumer.fileno())
        assert not told(producer.fileno())
        consumer.consume(3)
        assert told(producer.fileno()) == select.POLLIN
        assert not told(consumer.peer_fileno())
        producer.close()
        assert told(consumer.peer_fileno()) & select.POLLHUP


def test_a_view_ends_with_the_next_call() -> None:
    with both(PAGE) as (producer, consumer):
        room = producer.reserve(10)
        producer.write(b"abc")
        with pytest.raises(ValueError, match="released"):
            room[0] = 1
        with pytest.raises(ValueError, match="commit: 1 bytes, of 0 reserved"):
            producer.commit(1)
        view = consumer.peek()
        assert consumer.read(2) == b"ab"
        with pytest.raises(ValueError, match="released"):
            bytes(view)
        with pytest.raises(TypeError):
            consumer.peek()[0] = 1
        for count in (-1, 2):
            with pytest.raises(ValueError, match="consume"):
                consumer.consume(count)
        with producer.reserve(5), pytest.raises(ValueError, match="6 bytes, of 5 reserved"):
            producer.commit(6)
        producer.commit(0)
        assert producer.moved == 3


def test_a_slice_of_a_view_keeps_it_open() -> None:
    producer, consumer = SharedBuffer.pair(PAGE)
    part = producer.reserve(10)[2:5]
    with pytest.raises(BufferError, match="shared buffer: not closed: a view of it is in use"):
        producer.close()
    assert producer.write(b"it works still") == 14
    part.release()
    producer.close()
    with pytest.raises(ZeroDivisionError), consumer:
        part = consumer.peek()[2:5]
        raise ZeroDivisionError
    assert bytes(part) == b" wo"
    assert consumer.closed


def test_roles_and_the_end_are_kept() -> None:
    producer, consumer = SharedBuffer.pair(PAGE)
    wrong: list[Callable[[], object]] = [
        lambda: producer.read(1),
        lambda: producer.read_into(bytearray(1)),
        producer.peek,
        lambda: producer.consume(0),
        lambda: consumer.write(b""),
        lambda: consumer.reserve(1),
        lambda: consumer.commit(0),
    ]
    for act in wrong:
        with pytest.raises(io.UnsupportedOperation, match="'s side"):
            act()
    for act in (lambda: consumer.read(0), lambda: producer.reserve(0), lambda: consumer.peek(-1)):
        with pytest.raises(ValueError, match="at least 1"):
            act()
    for side in (producer, consumer):
        side.close()
        side.close()
        assert side.closed
        assert "closed" in repr(side)
    more: list[Callable[[], object]] = [
        lambda: producer.available,
        producer.fileno,
        producer.peer_fileno,
        producer.__enter__,
    ]
    for act in (*wrong, *more):
        with pytest.raises(ValueError, match="closed"):
            act()


def test_a_side_that_is_forgotten_is_told_and_closed() -> None:
    producer, consumer = SharedBuffer.pair(PAGE)
    with consumer:
        with pytest.warns(ResourceWarning, match="shared buffer: never closed"):
            del producer
            gc.collect()
        assert consumer.read(1) == b""
        assert not consumer.finished


@pytest.mark.parametrize(("asked", "got"), [(1, PAGE), (PAGE, PAGE), (PAGE + 1, 2 * PAGE)])
def test_the_capacity_is_whole_pages(asked: int, got: int) -> None:
    with SharedBuffer.create(asked) as buffer:
        assert buffer.capacity == got == buffer.available


def test_what_cannot_be_made_is_refused() -> None:
    for capacity in (-1, 0, (1 << 30) + 1, 1 << 62):
        with pytest.raises(ValueError, match=f"capacity of {capacity}: it is 1 to 1073741824"):
            SharedBuffer.create(capacity)
    with pytest.raises(ValueError, match="producer or consumer"):
        SharedBuffer.create(1, "both")  # type: ignore[arg-type]


# from hand to hand


def test_a_stream_goes_on_after_it() -> None:
    here, there = socket.socketpair()
    with here, there, SharedBuffer.create(PAGE) as producer:
        here.sendall(b"before")
        assert there.recv(6) == b"before"
        producer.write(b"in the ring")
        producer.send(here)
        here.sendall(b"after")
        with SharedBuffer.receive(there) as consumer:
            assert there.recv(100) == b"after"
            assert consumer.read(100) == b"in the ring"
        with pytest.raises(ValueError, match="it has been sent"):
            producer.send(here)


def test_a_send_that_failed_can_be_tried_again() -> None:
    here, there = socket.socketpair()
    with SharedBuffer.create(PAGE) as producer:
        with here:
            there.close()
            with pytest.raises(BrokenPipeError):
                producer.send(here)
        here, there = socket.socketpair()
        with here, there:
            producer.send(here)
            SharedBuffer.receive(there).close()


def parcel(role: Role = "producer", capacity: int = PAGE) -> tuple[SharedBuffer, bytes, list[int]]:
    """Return one side, and what it sends for the other one: message and fds."""
    here, there = socket.socketpair()
    with here, there:
        side = SharedBuffer.create(capacity, role)
        side.send(here)
        message, fds, _, _ = socket.recv_fds(there, 1000, 10)
    return side, message, fds


def received(message: bytes, fds: list[int], *, largest: int = 1 << 20) -> SharedBuffer:
    """Take a side from a peer that sends this."""
    here, there = socket.socketpair()
    with here, there:
        if message:
            socket.send_fds(here, [message], fds)
        here.shutdown(socket.SHUT_WR)
        return SharedBuffer.receive(there, largest=largest)


def sealed(size: int, header: bytes, seals: int = 7) -> int:
    fd = memory.memfd("hostile")
    os.ftruncate(fd, size)
    os.pwrite(fd, header, 0)
    memory.add_seals(fd, seals)
    return fd


def header(
    magic: bytes = b"zpipe:rb", version: int = 1, page: int = PAGE, size: int = PAGE
) -> bytes:
    return struct.pack("=8sIIQ", magic, version, page, size)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: os.open("/dev/null", os.O_RDWR), "not a file in memory"),
        (lambda: os.open("/dev/shm", os.O_RDWR | os.O_TMPFILE), "not sealed"),
        (lambda: sealed(2 * PAGE, header(), memory.F_SEAL_GROW), "not sealed"),
        (lambda: sealed(2 * PAGE, header(), memory.F_SEAL_SHRINK), "not sealed"),
        (lambda: sealed(0, b""), "holds no ring"),
        (lambda: sealed(PAGE, header(size=0)), "holds no ring"),
        (lambda: sealed(2 * PAGE + 8, header(size=PAGE + 8)), "holds no ring"),
        (lambda: sealed((2 << 20) + PAGE, header(size=2 << 20)), "at most 1048576 is accepted"),
        (lambda: sealed(2 * PAGE, header(magic=b"zpipe:xx")), "another magic number"),
        (lambda: sealed(2 * PAGE, header(version=2)), "it is of version 2"),
        (lambda: sealed(2 * PAGE, header(size=2 * PAGE)), "its header claims"),
        (lambda: sealed(2 * PAGE, header(size=1 << 63)), "its header claims"),
        (lambda: sealed(2 * PAGE, header(page=64)), "its header claims"),
        (lambda: sealed(2 * PAGE, header(), 15), "cannot be mapped for writing"),
    ],
)
def test_memory_that_is_not_safe_is_not_mapped(make: Callable[[], int], why: str) -> None:
    side, message, fds = parcel()
    os.close(fds[0])
    fds[0] = make()
    try:
        with side, pytest.raises(TransferError, match=f"^shared buffer: receive: .*{why}"):
            received(message, fds)
    finally:
        for fd in fds:
            os.close(fd)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda message, fds: (b"", fds), "the peer closed the socket"),
        (lambda message, fds: (message, fds[:3]), "no shared buffer"),
        (lambda message, fds: (message, []), "no shared buffer"),
        (lambda message, fds: (message, [*fds, fds[0]]), "no shared buffer"),
        (lambda message, fds: (message[:-1], fds), "no shared buffer"),
        (lambda message, fds: (b"GET / HTTP/1.1\r\n\r\n", fds), "no shared buffer"),
        (lambda message, fds: (message[:8] + b"\2" + message[9:], fds), "of version 2"),
        (lambda message, fds: (message[:12] + b"\2" + message[13:], fds), "knows no such role"),
        (lambda message, fds: (message, [fds[0], fds[3], *fds[2:]]), "eventfd is none"),
        (lambda message, fds: (message, [*fds[:3], fds[0]]), "a socket is none"),
    ],
)
def test_a_message_that_is_none_is_refused(
    change: Callable[[bytes, list[int]], tuple[bytes, list[int]]], why: str
) -> None:
    side, message, fds = parcel()
    try:
        with side, pytest.raises(TransferError, match=f"^shared buffer: receive: .*{why}"):
            received(*change(message, fds))
    finally:
        for fd in fds:
            os.close(fd)


def test_the_peer_cannot_cut_the_memory() -> None:
    side, _, fds = parcel()
    try:
        with side:
            for size in (0, PAGE, 100 * PAGE):
                with pytest.raises(PermissionError):
                    os.ftruncate(fds[0], size)
            assert side.write(bytes(PAGE)) == PAGE
    finally:
        for fd in fds:
            os.close(fd)


class Liar:
    """A peer that has the fds and does what it likes."""

    def __init__(self, role: Role):
        self.side, _, self.fds = parcel("consumer" if role == "producer" else "producer")
        memory_fd, data, room, _ = self.fds
        self.header = mmap.mmap(memory_fd, 2 * PAGE)
        self.counter = HEAD if role == "producer" else TAIL
        self.event = data if role == "producer" else room

    def claim(self, counter: int) -> None:
        self.header[self.counter : self.counter + 8] = counter.to_bytes(8, sys.byteorder)

    def tell(self, count: int) -> None:
        os.eventfd_write(self.event, count)

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self.side.close()
        self.header.close()
        for fd in self.fds:
            os.close(fd)


@pytest.mark.parametrize(
    ("claimed", "told"),
    [
        (PAGE + 1, PAGE + 1),  # more than there is room for
        (0, 1),  # told of, and not there
        (9, 10),
        (1 << 63, 1 << 62),
        ((1 << 64) - 1, 1),
        (PAGE + 1, 1),
        (10, (1 << 64) - 2),
    ],
)
def test_a_lying_producer_is_told_of(claimed: int, told: int) -> None:
    with Liar("producer") as liar:
        liar.claim(claimed)
        liar.tell(told)
        for act in (lambda: liar.side.read(10), lambda: liar.side.available):
            with pytest.raises(TransferError, match="read: the producer wrote nonsense"):
                act()


@pytest.mark.parametrize(
    ("written", "claimed", "told"),
    [(0, 1, 1), (100, 101, 101), (100, 0, 1), (100, 1 << 63, 1), (100, 50, (1 << 64) - 2)],
)
def test_a_lying_consumer_is_told_of(written: int, claimed: int, told: int) -> None:
    with Liar("consumer") as liar:
        liar.side.write(bytes(written))
        liar.claim(claimed)
        liar.tell(told)
        with pytest.raises(TransferError, match="write: the consumer wrote nonsense"):
            assert liar.side.available
        for act in (lambda: liar.side.write(b"x"), lambda: liar.side.reserve(1)):
            with pytest.raises(TransferError, match="nonsense"):
                act()


def test_a_full_eventfd_does_not_stop_the_writer() -> None:
    with Liar("consumer") as liar:
        os.eventfd_write(liar.fds[1], (1 << 64) - 2)
        with pytest.raises(TransferError, match="its eventfd is full"):
            liar.side.write(b"x")


words = st.integers(0, (1 << 64) - 1) | st.integers(0, 2 * PAGE)


@settings(max_examples=60)
@given(
    rubbish=st.lists(st.tuples(st.integers(0, PAGE // 8 - 1), words), max_size=5),
    steps=st.lists(st.tuples(words, words.map(lambda word: max(word - 1, 1))), max_size=5),
    role=st.sampled_from(["producer", "consumer"]),
)
def test_whatever_the_header_says_nothing_else_is_read(
    rubbish: list[tuple[int, int]], steps: list[tuple[int, int]], role: Role
) -> None:
    with Liar(role) as liar:
        liar.header[PAGE:] = b"r" * PAGE
        for place, word in rubbish:
            liar.header[8 * place : 8 * place + 8] = word.to_bytes(8, sys.byteorder)
        moved = 0
        try:
            for claimed, told in steps:
                liar.claim(claimed)
                liar.tell(told)
                if role == "producer":
                    data = liar.side.read(1 << 20)
                    assert data == b"r" * len(data)
                    assert len(data) == told <= PAGE
                    moved += len(data)
                else:
                    moved += liar.side.write(bytes(1 << 14), timeout=0)
        except (TransferError, TimeoutError):
            pass
        assert liar.side.moved == moved or role == "consumer"


# the pool


def test_a_pool_bounds_how_many_there_are() -> None:
    with SharedBufferPool(PAGE, 2) as pool:
        with pool.borrow() as first, pool.borrow(role="consumer") as second:
            assert (first.role, second.role) == ("producer", "consumer")
            assert pool.statistics == (2, 0, 2, 0)
            with pytest.raises(TimeoutError, match="all 2 are in use"), pool.borrow(timeout=0):
                pass
        assert first.closed
        assert pool.statistics == (0, 0, 2, 1)
    with pytest.raises(ValueError, match="closed"), pool.borrow():
        pass


def test_who_waits_for_the_pool_is_next() -> None:
    got: list[SharedBuffer] = []

    def wait() -> None:
        with pool.borrow() as buffer:
            got.append(buffer)

    with SharedBufferPool(PAGE, 1) as pool:
        waiter = threading.Thread(target=wait)
        with pool.borrow() as first:
            waiter.start()
            until(lambda: pool.statistics.waits == 1, "the other one waits")
            assert not got
        waiter.join()
        assert got
        assert got[0] is not first
