"""DirectBuffer: accepted by O_DIRECT, given back when it says so; and the pool of them."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted, until
from zpipe.channel.direct import BufferPool, DirectBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(128 * 1024)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem that takes O_DIRECT."""
    with mounted("ext4", tmp_path_factory.mktemp("direct") / "mount", 16 << 20) as place:
        yield place


@pytest.mark.parametrize("alignment", [512, 4096, 65536])
def test_direct_io_takes_it_both_ways(disk: Path, alignment: int) -> None:
    fd = os.open(disk / f"file-{alignment}", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    try:
        with DirectBuffer(len(DATA), alignment) as out, DirectBuffer(len(DATA), alignment) as back:
            out[:] = DATA
            assert os.pwrite(fd, out.view, 0) == len(DATA)
            assert os.preadv(fd, [back[:8192], back[8192:]], 0) == len(DATA)
            assert back.view == DATA
            with pytest.raises(OSError, match="Invalid argument"):
                os.pwrite(fd, out[1:4097], 0)
    finally:
        os.close(fd)


@pytest.mark.parametrize("alignment", [1, 2, 512, 4096, 16384, 1 << 20, 2 << 20])
def test_the_address_is_a_multiple(alignment: int) -> None:
    with DirectBuffer(5000, alignment) as buffer:
        assert buffer.address % max(alignment, 4096) == 0
        assert len(buffer) == len(buffer.view) == 5000
        assert bytes(buffer.view) == bytes(5000)


@pytest.mark.parametrize(
    ("size", "alignment"),
    [(0, 4096), (-1, 4096), (1, 0), (1, 3), (1, 4097), (1, 4 << 20), (1, -4096)],
)
def test_what_cannot_be_is_refused(size: int, alignment: int) -> None:
    with pytest.raises(ValueError, match="direct buffer: a"):
        DirectBuffer(size, alignment)
    with pytest.raises(ValueError, match="direct buffer: a"):
        BufferPool(size, 1, alignment)


def test_bytes_are_read_and_set_in_place() -> None:
    with DirectBuffer(10) as buffer:
        buffer[0] = 7
        buffer[1:4] = b"abc"
        assert (buffer[0], bytes(buffer[1:4]), buffer[-1]) == (7, b"abc", 0)
        buffer[2:5][0] = ord("x")
        assert bytes(buffer[:5]) == b"\x07axc\0"
        with pytest.raises(IndexError):
            buffer[10]
        with pytest.raises(ValueError, match="different structures"):
            buffer[0:2] = b"abc"


def test_nothing_works_after_close() -> None:
    buffer = DirectBuffer(10)
    buffer.close()
    buffer.close()
    assert buffer.closed
    for use in (
        lambda: buffer.view,
        lambda: buffer.address,
        lambda: buffer[0],
        lambda: len(buffer),
        lambda: buffer.__setitem__(0, 1),
        buffer.__enter__,
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(buffer)


def test_a_view_keeps_it_and_says_so() -> None:
    buffer = DirectBuffer(4096)
    part = buffer[100:200]
    with pytest.raises(BufferError, match="direct buffer: not freed: a view of it is in use"):
        buffer.close()
    assert not buffer.closed
    buffer[100] = 9
    assert part[0] == 9
    part.release()
    buffer.close()


def mapped_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * os.sysconf("SC_PAGESIZE")


def test_the_memory_is_gone_at_once() -> None:
    size = 256 << 20
    gc.disable()
    try:
        buffer = DirectBuffer(size)
        before = mapped_bytes()
        buffer.close()
        assert before - mapped_bytes() >= size // 2
    finally:
        gc.enable()


def test_the_error_that_leaves_a_block_is_the_one_that_is_seen() -> None:
    with pytest.raises(ZeroDivisionError), DirectBuffer(10) as buffer:
        part = buffer[1:2]
        raise ZeroDivisionError
    assert buffer.closed
    assert bytes(part) == b"\0"


def test_a_block_that_leaves_a_view_is_told() -> None:
    buffer = DirectBuffer(10)
    with pytest.raises(BufferError), buffer:
        part = buffer.view
    part.release()
    buffer.close()


# the pool


def test_memory_is_made_once_and_lent_again() -> None:
    with BufferPool(4096, 2) as pool:
        places = set()
        for _ in range(5):
            with pool.borrow() as buffer:
                places.add(buffer.address)
        assert len(places) == 1
        assert pool.statistics == (0, 1, 1, 0)
        with pool.borrow() as first, pool.borrow() as second:
            assert first.address != second.address
            assert pool.statistics == (2, 0, 2, 0)
        assert pool.statistics == (0, 2, 2, 0)


def test_a_buffer_ends_with_its_block() -> None:
    with BufferPool(4096, 1) as pool:
        with pool.borrow() as old:
            pass
        with pool.borrow() as new:
            new[0] = 1
            with pytest.raises(ValueError, match="closed"):
                old[0] = 2
            old.close()  # no second return
            assert pool.statistics.borrowed == 1
        assert pool.statistics.kept == 1


def test_at_most_so_many_at_a_time() -> None:
    with BufferPool(4096, 1) as pool, pool.borrow():
        with pytest.raises(TimeoutError, match="all 1 are in use"), pool.borrow(timeout=0):
            pass
        assert pool.statistics == (1, 0, 1, 1)


def test_who_waits_gets_the_next_one() -> None:
    got: list[int] = []

    def wait() -> None:
        with pool.borrow() as buffer:
            got.append(buffer.address)

    with BufferPool(4096, 1) as pool:
        waiter = threading.Thread(target=wait)
        with pool.borrow() as buffer:
            place = buffer.address
            waiter.start()
            until(lambda: pool.statistics.waits == 1, "the other one waits")
            assert not got
        waiter.join()
        assert got == [place]


def test_many_threads_never_share_one() -> None:
    failures: list[str] = []

    def work(mine: int) -> None:
        for _ in range(200):
            with pool.borrow() as buffer:
                buffer[0] = mine
                buffer[4095] = mine
                if (buffer[0], buffer[4095]) != (mine, mine):
                    failures.append(f"{mine} saw another one's bytes")

    with BufferPool(4096, 3) as pool:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert pool.statistics.borrowed == 0
        assert pool.statistics.created <= 3


def test_memory_with_a_view_left_is_not_lent_on() -> None:
    with BufferPool(4096, 1) as pool:
        with (
            pytest.raises(BufferError, match="direct buffer: not put back: a view of it is in use"),
            pool.borrow() as buffer,
        ):
            left = buffer.view
        with pool.borrow(timeout=0) as other:
            other[0] = 1
            assert left[0] == 0
        assert pool.statistics == (0, 1, 2, 0)


def test_an_error_in_a_block_gives_the_place_back() -> None:
    with BufferPool(4096, 1) as pool:
        with pytest.raises(ZeroDivisionError), pool.borrow() as buffer:
            left = buffer.view
            raise ZeroDivisionError
        with pool.borrow(timeout=0):
            pass
        assert len(left) == 4096


def test_a_buffer_closed_by_its_borrower_is_replaced() -> None:
    with BufferPool(4096, 1) as pool:
        with pool.borrow() as buffer:
            buffer.close()
        assert pool.statistics.kept == 0
        with pool.borrow(timeout=0) as buffer:
            assert len(buffer) == 4096


def test_a_closed_pool_lends_nothing_and_lets_waiters_go() -> None:
    told: list[BaseException] = []

    def wait() -> None:
        try:
            with pool.borrow():
                pass
        except ValueError as error:
            told.append(error)

    pool = BufferPool(4096, 1)
    waiter = threading.Thread(target=wait)
    with pool.borrow() as buffer:
        waiter.start()
        until(lambda: pool.statistics.waits == 1, "the other one waits")
        pool.close()
        waiter.join()
        buffer[0] = 1
    assert "closed" in str(told[0])
    assert pool.statistics.kept == 0
    with pytest.raises(ValueError, match="closed"), pool.borrow():
        pass


def test_a_pool_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BufferPool(4096, 0)
