"""Digests beside the copying, and of what a disk holds afterwards."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import content, missing, mounted
from tests.movers.extents import extents
from zpipe.errors import TransferError
from zpipe.kernel.sync import syncfs
from zpipe.tree.digest import Digest, on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

FROM = 4 << 20  # bytes that are hashed by a thread
SIZES = [0, 1, 4095, 4096, 4097, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, FROM + 4097]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """One filesystem with O_DIRECT, if the tests run on one, and one that only has page cache."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.path.ismount("/dev/shm"):
        missing("/dev/shm is not a tmpfs")
    with TemporaryDirectory(dir="/dev/shm") as place:
        yield Path(place)


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "blake2b"])
@pytest.mark.parametrize("expected", [0, FROM], ids=["here", "by a thread"])
@pytest.mark.parametrize("size", SIZES)
def test_a_digest_is_that_of_hashlib(size: int, expected: int, algorithm: str) -> None:
    data = content(size)
    before = set(threading.enumerate())
    digest = Digest(algorithm, expected, wants_holes=False)
    assert len(set(threading.enumerate()) - before) == bool(expected)
    for place in range(0, size, 65_537):
        digest.update(data[place : place + 65_537])
    assert digest.hex() == hashlib.new(algorithm, data).hexdigest()
    assert set(threading.enumerate()) <= before
    digest.close()


@given(
    pieces=st.lists(st.binary(max_size=100) | st.integers(0, 200_000), max_size=12),
    expected=st.sampled_from([0, FROM]),
)
def test_bytes_and_zeros_count_in_their_order(pieces: list[bytes | int], expected: int) -> None:
    """Two buffers in turns are enough: that is what update promises."""
    digest = Digest("sha256", expected, wants_holes=True)
    buffers = [bytearray(100), bytearray(100)]
    for piece in pieces:
        if isinstance(piece, int):
            digest.zeros(piece)
        else:
            buffers.reverse()
            buffer = buffers[0]
            buffer[: len(piece)] = piece
            digest.update(memoryview(buffer)[: len(piece)])
    whole = b"".join(bytes(piece) for piece in pieces)
    assert digest.hex() == sha256(whole)


def test_a_buffer_is_free_once_all_is_settled() -> None:
    digest = Digest("sha256", FROM, wants_holes=False)
    buffer = bytearray(content(1 << 20))
    digest.update(memoryview(buffer))
    digest.settle()
    buffer[:] = bytes(len(buffer))
    assert digest.hex() == sha256(content(1 << 20))


@pytest.mark.parametrize("expected", [0, FROM], ids=["here", "by a thread"])
def test_ranges_of_a_file_are_read_without_moving_its_position(
    expected: int, tmp_path: Path
) -> None:
    data = content((3 << 20) + 5)
    (tmp_path / "file").write_bytes(data)
    digest = Digest("sha256", expected, wants_holes=False)
    with open(tmp_path / "file", "rb") as file:
        digest.read(file.fileno(), 1, 4096)
        digest.read(file.fileno(), 7, 7)
        digest.read(file.fileno(), 1 << 20, len(data) + 99)
        assert file.tell() == 0
    assert digest.hex() == sha256(data[1:4096] + data[1 << 20 :])


def sync(folder: Path) -> None:
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        syncfs(at)
    finally:
        os.close(at)


def read_back(path: Path, ranges: list[tuple[int, int]]) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        return on_disk(fd, ranges, name="name")
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_on_the_disk_is_what_was_written(size: int, folder: Path) -> None:
    data = content(size)
    (folder / "file").write_bytes(data)
    path = folder / "file"
    sync(folder)
    assert read_back(path, [(0, size)]) == sha256(data)
    assert read_back(path, []) == sha256(b"")
    low, high = size // 3, size - size // 3
    cut = [(0, low), (high, size)]
    assert read_back(path, cut) == sha256(data[:low] + data[high:])
    before, after = set(threading.enumerate()), read_back(path, [(0, size)])
    assert after == sha256(data)
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("size", [1, 4097, (1 << 20) + 1, FROM + 1])
def test_a_byte_that_has_changed_is_seen(size: int, where: str, folder: Path) -> None:
    """Whether it is written back already or not."""
    data = content(size)
    path = folder / "file"
    path.write_bytes(data)
    place = {"first": 0, "middle": size // 2, "last": size - 1}[where]
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(bytes([data[place] ^ 1]))
    assert read_back(path, [(0, size)]) != sha256(data)


@pytest.mark.parametrize("size", [0, 4096, 1 << 20])
def test_bytes_that_are_missing_at_the_end_are_seen(size: int, folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(content(size))
    assert read_back(path, [(0, size + 4097)]) != sha256(content(size + 4097))


@pytest.mark.parametrize("size", [8192, 3 << 20], ids=["by the page cache", "past it"])
def test_what_the_disk_has_made_of_it_is_seen_behind_the_page_cache(
    size: int, tmp_path: Path
) -> None:
    """The page cache still has what was written: who reads that has verified nothing."""
    data = content(size)
    with mounted("ext4", tmp_path / "disk", 32 << 20) as place:
        path = place / "file"
        path.write_bytes(data)
        sync(place)
        assert read_back(path, [(0, size)]) == sha256(data)
        assert path.read_bytes() == data  # and into the page cache again
        first = extents(path)[0]
        with open(tmp_path / "disk.img", "r+b", buffering=0) as image:
            image.seek(first.physical)
            assert image.read(4096) == data[:4096]
            image.seek(first.physical + 1000)
            image.write(bytes([data[1000] ^ 1]))
        assert path.read_bytes() == data
        assert read_back(path, [(0, size)]) != sha256(data)


def test_a_file_that_cannot_be_read_back_is_no_digest(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match=r"^name: verify: read: Is a directory; ") as caught:
        read_back(tmp_path, [(0, 1)])
    assert caught.value.errno == errno.EISDIR
