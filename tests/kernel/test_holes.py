"""Data and holes, as filesystems tell of them."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from zpipe.kernel.holes import next_data, next_hole

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
