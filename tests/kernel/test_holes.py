"""Data and holes, as filesystems tell of them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from zpipe.kernel.holes import next_data, next_hole, punch_hole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 64 * 1024  # no filesystem has larger ones by default
DATA = content(BLOCK)


@pytest.fixture(scope="module", params=["tmpfs", "ext4"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    with mounted(request.param, tmp_path_factory.mktemp("holes") / "mount", 16 << 20) as mount:
        yield mount


@pytest.fixture
def sparse(place: Path) -> Iterator[int]:
    """Hole, data, hole, data, hole: a block each."""
    fd = os.open(place / "sparse", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.pwrite(fd, DATA, BLOCK)
    os.pwrite(fd, DATA, 3 * BLOCK)
    os.ftruncate(fd, 5 * BLOCK)
    yield fd
    os.close(fd)


def test_data_and_holes_are_found_in_turn(sparse: int) -> None:
    assert next_data(sparse, 0) == BLOCK
    assert os.lseek(sparse, 0, os.SEEK_CUR) == BLOCK
    assert next_hole(sparse, BLOCK) == 2 * BLOCK
    assert next_data(sparse, 2 * BLOCK) == 3 * BLOCK
    assert next_data(sparse, 3 * BLOCK + 5) == 3 * BLOCK + 5
    assert next_hole(sparse, 3 * BLOCK) == 4 * BLOCK


def test_after_the_last_data_there_is_none(sparse: int) -> None:
    assert next_data(sparse, 4 * BLOCK) is None
    assert next_data(sparse, 5 * BLOCK) is None
    assert next_data(sparse, 99 * BLOCK) is None


def test_the_end_of_the_file_counts_as_a_hole(place: Path) -> None:
    (place / "dense").write_bytes(DATA)
    fd = os.open(place / "dense", os.O_RDONLY)
    try:
        assert next_data(fd, 0) == 0
        assert next_hole(fd, 0) == BLOCK
    finally:
        os.close(fd)


def test_a_stream_has_no_holes() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match=f"Errno {errno.ESPIPE}]"):
            next_data(reader, 0)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_punched_hole_reads_as_zeros_frees_blocks_and_keeps_the_size(place: Path) -> None:
    path = place / "punched"
    path.write_bytes(content(8 * BLOCK))
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        before = os.fstat(fd)
        punch_hole(fd, 2 * BLOCK, 4 * BLOCK)
        after = os.fstat(fd)
    finally:
        os.close(fd)
    whole = content(8 * BLOCK)
    assert path.read_bytes() == whole[: 2 * BLOCK] + bytes(4 * BLOCK) + whole[6 * BLOCK :]
    assert after.st_size == before.st_size
    assert (before.st_blocks - after.st_blocks) * 512 == 4 * BLOCK


def test_punching_needs_a_file_that_is_open_for_writing(place: Path) -> None:
    (place / "closed").write_bytes(DATA)
    fd = os.open(place / "closed", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
            punch_hole(fd, 0, BLOCK)
    finally:
        os.close(fd)
    assert (place / "closed").read_bytes() == DATA


def test_offsets_beyond_32_bits_arrive_whole(place: Path) -> None:
    """ctypes passes an int as 32 bits unless it is told otherwise."""
    far = 5 << 32
    fd = os.open(place / "far", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.pwrite(fd, DATA, 0)
        os.pwrite(fd, DATA, far)
        punch_hole(fd, far, BLOCK)
        assert os.pread(fd, BLOCK, far) == bytes(BLOCK)
        assert os.pread(fd, BLOCK, 0) == DATA
    finally:
        os.close(fd)
        os.unlink(place / "far")
