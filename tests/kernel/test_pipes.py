"""Private pipes, and what the kernel grants to whom."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.machine import as_stranger
from zpipe.kernel import inspect
from zpipe.kernel.pipes import CAPACITY, Pipe, buffered, get_capacity, set_capacity

LIMIT = Path("/proc/sys/fs/pipe-max-size")
QUOTA = Path("/proc/sys/fs/pipe-user-pages-soft")
PAGE = os.sysconf("SC_PAGE_SIZE")


def test_a_pipe_has_what_was_asked_for_rounded_up_to_a_power_of_two_pages() -> None:
    with closing(Pipe(5 * PAGE)) as pipe:
        assert pipe.capacity == 8 * PAGE
        assert get_capacity(pipe.reader) == get_capacity(pipe.writer) == 8 * PAGE


def test_a_pipe_neither_blocks_nor_is_inherited() -> None:
    with closing(Pipe()) as pipe:
        for fd in (pipe.reader, pipe.writer):
            assert inspect.status_flags(fd) & os.O_NONBLOCK
            assert not os.get_inheritable(fd)
        with pytest.raises(BlockingIOError):
            os.read(pipe.reader, 1)


def test_a_pipe_may_be_closed_twice() -> None:
    pipe = Pipe()
    pipe.close()
    assert (pipe.reader, pipe.writer) == (-1, -1)
    pipe.close()


def test_set_capacity_returns_what_was_granted_and_refuses_to_drop_bytes() -> None:
    with closing(Pipe(16 * PAGE)) as pipe:
        assert set_capacity(pipe.writer, 32 * PAGE + 1) == 64 * PAGE
        for _ in range(3):
            os.write(pipe.writer, bytes(PAGE))
        with pytest.raises(OSError, match=f"Errno {errno.EBUSY}]"):
            set_capacity(pipe.writer, PAGE)
        assert get_capacity(pipe.writer) == 64 * PAGE


def test_buffered_counts_the_bytes_that_wait() -> None:
    with closing(Pipe()) as pipe:
        assert buffered(pipe.reader) == 0
        os.write(pipe.writer, b"abc")
        assert buffered(pipe.reader) == 3
        os.read(pipe.reader, 1)
        assert buffered(pipe.reader) == 2


@pytest.mark.parametrize("wish", [(1 << 31) + 1, 1 << 32, (1 << 32) + PAGE, 1 << 40])
def test_a_wish_beyond_what_the_kernel_counts_is_not_cut_to_its_low_bits(
    wish: int, tmp_path: Path
) -> None:
    """4 GiB have 32 low bits of 0: passed on as they are, they mean the smallest pipe there is."""

    def check() -> None:
        with closing(Pipe(wish)) as pipe:
            assert pipe.capacity == CAPACITY

    as_stranger(tmp_path, check)


def test_above_pipe_max_size_a_user_gets_the_usual_bound(tmp_path: Path) -> None:
    most = int(LIMIT.read_text())

    def check() -> None:
        with closing(Pipe(most)) as pipe:
            assert pipe.capacity == most
            with pytest.raises(PermissionError):
                set_capacity(pipe.writer, 2 * most)
            assert get_capacity(pipe.writer) == most
        with closing(Pipe(2 * most)) as pipe:
            assert pipe.capacity == CAPACITY

    as_stranger(tmp_path, check)


def test_past_the_quota_of_a_user_pipes_have_two_slots_and_still_work(tmp_path: Path) -> None:
    pages = int(QUOTA.read_text())

    def check() -> None:
        with ExitStack() as stack:
            for _ in range(pages * PAGE // CAPACITY + 1):
                stack.callback(Pipe().close)
            small = Pipe()
            stack.callback(small.close)
            assert small.capacity == 2 * PAGE
            with pytest.raises(PermissionError):
                set_capacity(small.writer, 16 * PAGE)
            assert os.write(small.writer, bytes(3 * PAGE)) == 2 * PAGE
            with pytest.raises(BlockingIOError):
                os.write(small.writer, b"x")

    as_stranger(tmp_path, check)
