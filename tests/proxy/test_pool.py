"""Pipes that are borrowed while bytes are in them."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from tests.machine import as_stranger
from zpipe.kernel.pipes import Pipe
from zpipe.proxy.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 64 << 10


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(SIZE, 3)
    yield pool
    pool.close()


def taken(pool: Pool) -> Pipe:
    pipe = pool.take()
    assert pipe is not None
    return pipe


def test_a_pipe_that_comes_back_is_borrowed_again(pool: Pool) -> None:
    pipe = taken(pool)
    assert (pool.borrowed, pool.kept) == (1, 0)
    pool.give_back(pipe)
    assert (pool.borrowed, pool.kept) == (0, 1)
    assert taken(pool) is pipe
    pool.give_back(pipe)


def test_no_more_are_out_than_may_be(pool: Pool) -> None:
    pipes = [taken(pool) for _ in range(3)]
    assert pool.take() is None
    assert pool.take_like(pipes[0], 1) is None
    pool.give_back(pipes.pop())
    assert pool.take_like(pipes[0], 2) is None
    assert pool.borrowed == 2
    pipes.append(taken(pool))
    for pipe in pipes:
        pool.give_back(pipe)
    assert pool.borrowed == 0


def test_one_that_holds_less_is_not_like_another(pool: Pool) -> None:
    big = Pipe(SIZE * 4)
    try:
        assert pool.take_like(big, 1) is None
    finally:
        big.close()
    assert pool.borrowed == 0


def test_a_pipe_with_bytes_in_it_is_never_lent_again(pool: Pool) -> None:
    pipe = taken(pool)
    os.write(pipe.writer, b"left")
    pool.discard(pipe)
    assert (pool.borrowed, pool.kept, pipe.reader, pipe.writer) == (0, 0, -1, -1)
    other = taken(pool)
    with pytest.raises(BlockingIOError):
        os.read(other.reader, 1)
    pool.give_back(other)


def test_pipes_have_the_capacity_that_was_asked_for() -> None:
    pool = Pool(256 << 10, 1)
    pipe = taken(pool)
    assert pipe.capacity == 256 << 10
    pool.give_back(pipe)
    pool.close()


def test_only_some_are_kept() -> None:
    pool = Pool(SIZE, 100)
    pipes = [taken(pool) for _ in range(100)]
    for pipe in pipes:
        pool.give_back(pipe)
    assert pool.borrowed == 0
    assert 0 < pool.kept < 100
    pool.close()
    assert pool.kept == 0
    assert all(pipe.reader == -1 for pipe in pipes)


def test_without_fds_there_is_none_and_later_there_is_one_again(pool: Pool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # one, and a pipe needs two
    try:
        assert pool.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pool.borrowed == 0
    pool.give_back(taken(pool))


def test_pipes_of_two_pages_are_not_lent(tmp_path: Path) -> None:
    """Such a pipe is all that the kernel gives to a user whose quota is used up."""
    tmp_path.chmod(0o777)
    with open("/proc/sys/fs/pipe-user-pages-soft") as file:
        quota = int(file.read())
    if not quota:
        pytest.skip("pipes have no quota here")

    def work() -> None:
        pool = Pool(1 << 20)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1:] * 2
        )
        lent = taken(pool)
        others = [os.pipe() for _ in range(quota // 16 - 256 // 16 + 1)]
        assert pool.take() is None
        assert pool.borrowed == 1
        pool.give_back(lent)
        assert pool.take() is lent  # what is there already serves on
        for pair in others:
            os.close(pair[0])
            os.close(pair[1])
        assert pool.take() is not None

    as_stranger(tmp_path, work)


def test_the_bound_leaves_most_fds_to_connections() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        pool = Pool(SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    pipes = []
    while (pipe := pool.take()) is not None:
        pipes.append(pipe)
    assert 4 <= len(pipes) < 32
    for pipe in pipes:
        pool.discard(pipe)


def test_a_pipe_that_somebody_else_had_is_kept_only_if_it_is_empty() -> None:
    pool = Pool(1 << 16)
    empty, full = pool.take(), pool.take()
    assert empty is not None and full is not None
    os.write(full.writer, b"left")
    pool.take_back(empty)
    pool.take_back(full)
    assert (pool.borrowed, pool.kept) == (0, 1)
    assert full.reader == -1
    pool.close()
