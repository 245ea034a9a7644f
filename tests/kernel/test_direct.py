"""O_DIRECT: what alignment is wanted, the flag, and memory that it accepts."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from zpipe.kernel import inspect
from zpipe.kernel.direct import ASSUMED_ALIGNMENT, aligned_buffer, alignment, set_direct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(64 * 1024 + 100)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A filesystem on a block device that takes 512 bytes at a time."""
    with mounted("ext4", tmp_path_factory.mktemp("direct") / "mount", 16 << 20) as place:
        (place / "file").write_bytes(DATA)
        yield place


@pytest.fixture
def file(disk: Path) -> Iterator[int]:
    fd = os.open(disk / "file", os.O_RDWR)
    yield fd
    os.close(fd)


def direct(fd: int) -> bool:
    return bool(inspect.status_flags(fd) & os.O_DIRECT)


def test_the_alignment_is_that_of_the_device(file: int) -> None:
    wanted = alignment(file)
    assert wanted == 512
    set_direct(file, True)
    buffer = memoryview(aligned_buffer(8192))
    assert os.preadv(file, [buffer[:wanted]], wanted) == wanted
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
        os.preadv(file, [buffer[:wanted]], wanted // 2)


def test_a_filesystem_that_does_not_say_is_given_4096(tiny: Path) -> None:
    fd = os.open(tiny / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert alignment(fd) == ASSUMED_ALIGNMENT == 4096
    finally:
        os.close(fd)


def test_what_has_no_alignment_is_given_4096() -> None:
    reader, writer = os.pipe()
    try:
        assert alignment(reader) == 4096
    finally:
        os.close(reader)
        os.close(writer)


def test_the_flag_goes_on_and_off_and_leaves_the_others_alone(disk: Path) -> None:
    fd = os.open(disk / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK)
    try:
        before = inspect.status_flags(fd)
        for _ in range(2):
            set_direct(fd, True)
            assert inspect.status_flags(fd) == before | os.O_DIRECT
        for _ in range(2):
            set_direct(fd, False)
            assert inspect.status_flags(fd) == before
    finally:
        os.close(fd)


def test_a_filesystem_without_direct_io_says_einval() -> None:
    fd = os.open("/proc/self/status", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
            set_direct(fd, True)
        assert not direct(fd)
    finally:
        os.close(fd)


def test_aligned_memory_is_accepted_where_bytes_are_refused(file: int) -> None:
    set_direct(file, True)
    buffer = memoryview(aligned_buffer(128 * 1024))
    assert os.preadv(file, [buffer], 0) == len(DATA)
    assert buffer[: len(DATA)] == DATA
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
        os.preadv(file, [buffer[1:4097]], 0)


def test_a_tail_can_be_written_once_the_flag_is_cleared(disk: Path) -> None:
    fd = os.open(disk / "tail", os.O_RDWR | os.O_CREAT)
    try:
        set_direct(fd, True)
        buffer = memoryview(aligned_buffer(8192))
        buffer[:4196] = DATA[:4196]
        assert os.pwrite(fd, buffer[:4096], 0) == 4096
        with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
            os.pwrite(fd, buffer[4096:4196], 4096)
        set_direct(fd, False)
        assert os.pwrite(fd, buffer[4096:4196], 4096) == 100
    finally:
        os.close(fd)
    assert (disk / "tail").read_bytes() == DATA[:4196]
