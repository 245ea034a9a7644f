"""splice, tee, sendfile and copy_file_range as the kernel answers them."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, content, environment, mounted, strace
from zpipe.kernel.pipes import Pipe, buffered, get_capacity
from zpipe.kernel.transfer import copy_file_range, sendfile, splice, tee

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLENTY = 1 << 30


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe(1 << 16)) as made:
        yield made


@pytest.fixture
def other() -> Iterator[Pipe]:
    with closing(Pipe(1 << 16)) as made:
        yield made


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def source_of(path: Path, data: bytes) -> Iterator[int]:
    path.write_bytes(data)
    with opened(path, os.O_RDONLY) as fd:
        yield fd


@contextmanager
def new(path: Path, flags: int = 0) -> Iterator[int]:
    with opened(path, os.O_RDWR | os.O_CREAT | flags) as fd:
        yield fd


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=f"Errno {number}]")


def fill(pipe: Pipe) -> int:
    """Write until the pipe takes no more; return the bytes."""
    total = 0
    try:
        while True:
            total += os.write(pipe.writer, bytes(4096))
    except BlockingIOError:
        return total


def test_splice_moves_a_file_through_a_pipe_at_the_fds_own_positions(
    tmp_path: Path, pipe: Pipe
) -> None:
    data = content(300_001)
    with source_of(tmp_path / "src", data) as src, new(tmp_path / "dst") as dst:
        os.lseek(src, 1, os.SEEK_SET)
        while moved := splice(src, pipe.writer, PLENTY):
            # a pipe counts pages: a move of part of a page still takes one
            assert moved <= pipe.capacity
            while moved:
                moved -= splice(pipe.reader, dst, moved)
        assert os.lseek(src, 0, os.SEEK_CUR) == len(data)
        assert os.lseek(dst, 0, os.SEEK_CUR) == len(data) - 1
    assert (tmp_path / "dst").read_bytes() == data[1:]


def test_splice_does_not_wait_for_a_pipe_even_where_the_fd_would(other: Pipe) -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(BlockingIOError):
            splice(reader, other.writer, 1)
        os.write(writer, b"x")
        fill(other)
        with pytest.raises(BlockingIOError):
            splice(reader, other.writer, 1)
        assert buffered(reader) == 1
    finally:
        os.close(reader)
        os.close(writer)


def test_splice_waits_for_no_socket_that_is_nonblocking(pipe: Pipe) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        with pytest.raises(BlockingIOError):
            splice(near.fileno(), pipe.writer, 1)
        far.sendall(b"abc")
        assert splice(near.fileno(), pipe.writer, PLENTY) == 3
        assert os.read(pipe.reader, 9) == b"abc"


def test_splice_returns_0_at_the_end_and_only_there(pipe: Pipe, other: Pipe) -> None:
    os.write(pipe.writer, b"last")
    os.close(pipe.writer)
    pipe.writer = -1
    assert splice(pipe.reader, other.writer, PLENTY) == 4
    assert splice(pipe.reader, other.writer, PLENTY) == 0


def test_splice_needs_a_pipe_on_one_side(tmp_path: Path) -> None:
    with (
        source_of(tmp_path / "src", b"data") as src,
        new(tmp_path / "dst") as dst,
        refused(errno.EINVAL),
    ):
        splice(src, dst, 4)


def test_splice_refuses_an_appending_sink_and_leaves_the_bytes_in_the_pipe(
    tmp_path: Path, pipe: Pipe
) -> None:
    os.write(pipe.writer, b"kept")
    with new(tmp_path / "dst", os.O_APPEND) as dst, refused(errno.EINVAL):
        splice(pipe.reader, dst, 4)
    assert os.read(pipe.reader, 9) == b"kept"


def test_splice_answers_for_devices_what_the_movers_count_on(pipe: Pipe) -> None:
    null, full = os.open("/dev/null", os.O_RDWR), os.open("/dev/full", os.O_RDWR)
    try:
        with refused(errno.EINVAL):
            splice(null, pipe.writer, 1)
        os.write(pipe.writer, b"ab")
        with refused(errno.EINVAL):
            splice(pipe.reader, full, 2)
        assert splice(pipe.reader, null, 2) == 2
    finally:
        os.close(null)
        os.close(full)


def test_splice_to_a_pipe_that_nobody_reads_is_epipe(pipe: Pipe, other: Pipe) -> None:
    os.write(pipe.writer, b"x")
    os.close(other.reader)
    other.reader = -1
    with pytest.raises(BrokenPipeError):
        splice(pipe.reader, other.writer, 1)


def test_splice_of_an_fd_for_the_other_direction_is_ebadf(tmp_path: Path, pipe: Pipe) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with opened(tmp_path / "file", os.O_WRONLY) as src, refused(errno.EBADF):
        splice(src, pipe.writer, 1)


def test_tee_duplicates_and_consumes_nothing(pipe: Pipe, other: Pipe) -> None:
    data = content(10_000)
    os.write(pipe.writer, data)
    assert tee(pipe.reader, other.writer, PLENTY) == len(data)
    assert os.read(other.reader, PLENTY >> 10) == data
    assert os.read(pipe.reader, PLENTY >> 10) == data


def test_tee_begins_at_the_head_each_time(pipe: Pipe, other: Pipe) -> None:
    """Why a fan-out may tee into empty pipes only: a second call repeats the first bytes."""
    os.write(pipe.writer, b"abcdefgh")
    assert tee(pipe.reader, other.writer, 5) == 5
    assert tee(pipe.reader, other.writer, 8) == 8
    assert os.read(other.reader, 99) == b"abcdeabcdefgh"


@given(sizes=st.lists(st.integers(1, 9000), min_size=1, max_size=40))
def test_tee_into_an_empty_pipe_of_the_same_capacity_takes_all(sizes: list[int]) -> None:
    """The invariant of a fan-out: whatever the slots hold, every tee returns the same count."""
    with closing(Pipe(1 << 16)) as pipe, closing(Pipe(1 << 16)) as other:
        try:
            for size in sizes:
                os.write(pipe.writer, content(size))
        except BlockingIOError:
            pass
        held = buffered(pipe.reader)
        assert tee(pipe.reader, other.writer, PLENTY) == held
        assert os.read(other.reader, held + 1) == os.read(pipe.reader, held + 1)


def test_tee_says_eagain_when_there_is_nothing_to_read_or_no_room(pipe: Pipe, other: Pipe) -> None:
    with pytest.raises(BlockingIOError):
        tee(pipe.reader, other.writer, 1)
    os.write(pipe.writer, b"x")
    fill(other)
    with pytest.raises(BlockingIOError):
        tee(pipe.reader, other.writer, 1)


def test_tee_does_not_wait_even_for_pipes_that_block() -> None:
    reader, writer = os.pipe()
    try:
        with closing(Pipe()) as other:
            os.set_blocking(other.writer, True)
            with pytest.raises(BlockingIOError):
                tee(reader, other.writer, 1)
    finally:
        os.close(reader)
        os.close(writer)


def test_tee_returns_0_at_the_end(pipe: Pipe, other: Pipe) -> None:
    os.close(pipe.writer)
    pipe.writer = -1
    assert tee(pipe.reader, other.writer, 1) == 0


def test_tee_refuses_what_is_no_pipe_and_a_pipe_with_itself(tmp_path: Path, pipe: Pipe) -> None:
    with source_of(tmp_path / "src", b"data") as src, refused(errno.EINVAL):
        tee(src, pipe.writer, 4)
    os.write(pipe.writer, b"x")
    with refused(errno.EINVAL):
        tee(pipe.reader, pipe.writer, 1)


def test_sendfile_leaves_the_source_where_the_sink_stopped(tmp_path: Path) -> None:
    data = content(8 << 20)
    near, far = socket.socketpair()
    with near, far, source_of(tmp_path / "src", data) as src:
        near.setblocking(False)
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += sendfile(src, near.fileno(), PLENTY)
        assert 0 < sent < len(data)
        assert os.lseek(src, 0, os.SEEK_CUR) == sent
        near.close()
        assert b"".join(iter(lambda: far.recv(1 << 16), b"")) == data[:sent]


def test_sendfile_from_file_to_file_ends_with_0(tmp_path: Path) -> None:
    data = content(200_000)
    with source_of(tmp_path / "src", data) as src, new(tmp_path / "dst") as dst:
        while sendfile(src, dst, 65_536):
            pass
        assert sendfile(src, dst, 1) == 0
    assert (tmp_path / "dst").read_bytes() == data


def test_sendfile_refuses_a_stream_as_source_and_a_sink_that_appends(
    tmp_path: Path, pipe: Pipe
) -> None:
    os.write(pipe.writer, b"x")
    with new(tmp_path / "dst") as dst, refused(errno.EINVAL):
        sendfile(pipe.reader, dst, 1)
    assert buffered(pipe.reader) == 1
    with (
        source_of(tmp_path / "src", b"data") as src,
        new(tmp_path / "log", os.O_APPEND) as log,
        refused(errno.EINVAL),
    ):
        sendfile(src, log, 4)


def test_copy_file_range_moves_both_positions_and_stops_at_the_end(tmp_path: Path) -> None:
    data = content(100_000)
    with source_of(tmp_path / "src", data) as src, new(tmp_path / "dst") as dst:
        os.lseek(src, 7, os.SEEK_SET)
        assert copy_file_range(src, dst, 10) == 10
        copied = 10
        while moved := copy_file_range(src, dst, PLENTY):
            copied += moved
        assert copied == len(data) - 7 == os.lseek(dst, 0, os.SEEK_CUR)
        assert os.lseek(src, 0, os.SEEK_CUR) == len(data)
    assert (tmp_path / "dst").read_bytes() == data[7:]


def test_copy_file_range_refuses_another_filesystem(tmp_path: Path, tiny: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "second", 1 << 20) as second,
        source_of(tiny / "src", b"data") as src,
        new(second / "dst") as dst,
        refused(errno.EXDEV),
    ):
        copy_file_range(src, dst, 4)


def test_copy_file_range_refuses_streams_and_appending_sinks(tmp_path: Path, pipe: Pipe) -> None:
    with source_of(tmp_path / "src", b"data") as src:
        with refused(errno.EINVAL):
            copy_file_range(src, pipe.writer, 4)
        with new(tmp_path / "log", os.O_APPEND) as log, refused(errno.EBADF):
            copy_file_range(src, log, 4)


SNIPPETS = {
    "splice": "os.write(q, b'data'); assert splice(p, s, 9) == 4",
    "tee": "os.write(q, b'data'); assert tee(p, s, 9) == 4",
    "sendfile": "assert sendfile(f, s, 9) == 9",
    "copy_file_range": "assert copy_file_range(f, g, 9) == 9",
}


@pytest.mark.parametrize("call", SNIPPETS)
def test_a_call_that_a_signal_interrupted_is_made_again(call: str, tmp_path: Path) -> None:
    """strace answers EINTR for the first two calls: the third one must be made, and count."""
    words = strace(f"-etrace={call}", f"-einject={call}:error=EINTR:when=1..2", "-o/dev/stdout")
    program = f"""
import os
from zpipe.kernel.transfer import {call}
p, q = os.pipe()
r, s = os.pipe()
f, g = (os.open(name, os.O_RDWR | os.O_CREAT) for name in ("f", "g"))
os.pwrite(f, b"123456789", 0)
{SNIPPETS[call]}
"""
    done = subprocess.run(
        [*words, sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = [line for line in done.stdout.decode().splitlines() if f"{call}(" in line]
    assert [("EINTR" in line) for line in lines] == [True, True, False]


def test_tee_is_right_while_signals_rain(pipe: Pipe, other: Pipe) -> None:
    """Handlers run between calls, and none of them makes tee fail or return too little."""
    data = content(4000)
    came = 0

    def count(*_: object) -> None:
        nonlocal came
        came += 1

    before = signal.signal(signal.SIGALRM, count)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        os.write(pipe.writer, data)
        while came < 20:
            assert tee(pipe.reader, other.writer, PLENTY) == len(data)
            assert os.read(other.reader, PLENTY >> 10) == data
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_private_pipe_has_the_capacity_that_it_reports(pipe: Pipe) -> None:
    assert fill(pipe) == pipe.capacity == get_capacity(pipe.reader)
