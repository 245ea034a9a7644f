"""FICLONE and FICLONERANGE on filesystems that share blocks, and on those that do not."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from zpipe.kernel.clone import clone, clone_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOCK = 4096
DATA = content(5 * BLOCK + 100)


@pytest.fixture
def opening() -> Iterator[Callable[[Path, int], int]]:
    """Open files that are closed at the end."""
    with ExitStack() as stack:

        def open_one(path: Path, flags: int) -> int:
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, fd)
            return fd

        yield open_one


@pytest.fixture
def pair(sharing: Path, opening: Callable[[Path, int], int]) -> Iterator[tuple[int, int, Path]]:
    """A source with DATA, an empty target, and the target's path."""
    src, dst = sharing / "clone-src", sharing / "clone-dst"
    src.write_bytes(DATA)
    yield opening(src, os.O_RDONLY), opening(dst, os.O_RDWR | os.O_CREAT | os.O_TRUNC), dst
    src.unlink()
    dst.unlink()


def test_a_clone_has_the_bytes_and_the_size_and_moves_no_position(
    pair: tuple[int, int, Path],
) -> None:
    src, dst, path = pair
    clone(src, dst)
    assert path.read_bytes() == DATA
    assert (os.lseek(src, 0, os.SEEK_CUR), os.lseek(dst, 0, os.SEEK_CUR)) == (0, 0)


def test_a_clone_is_a_copy_of_its_own_once_one_of_them_is_written(
    pair: tuple[int, int, Path], sharing: Path
) -> None:
    src, dst, path = pair
    clone(src, dst)
    os.pwrite(dst, b"changed", BLOCK)
    assert (sharing / "clone-src").read_bytes() == DATA
    assert path.read_bytes() == DATA[:BLOCK] + b"changed" + DATA[BLOCK + 7 :]


def test_a_target_larger_than_an_unaligned_source_is_refused(
    pair: tuple[int, int, Path],
) -> None:
    src, dst, path = pair
    os.pwrite(dst, bytes(9 * BLOCK), 0)
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
        clone(src, dst)
    assert path.read_bytes() == bytes(9 * BLOCK)


def test_an_appending_target_is_refused(
    pair: tuple[int, int, Path], opening: Callable[[Path, int], int]
) -> None:
    src, _, path = pair
    with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
        clone(src, opening(path, os.O_WRONLY | os.O_APPEND))


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, 2 * BLOCK, DATA[: 2 * BLOCK]),
        (BLOCK, BLOCK, DATA[BLOCK : 2 * BLOCK]),
        (4 * BLOCK, BLOCK + 100, DATA[4 * BLOCK :]),
        (3 * BLOCK, 0, DATA[3 * BLOCK :]),
    ],
    ids=["beginning", "middle", "to an unaligned end", "0 is to the end"],
)
def test_a_range_is_shared(
    pair: tuple[int, int, Path], offset: int, count: int, expected: bytes
) -> None:
    src, dst, path = pair
    clone_range(src, dst, offset, count, 2 * BLOCK)
    assert path.read_bytes() == bytes(2 * BLOCK) + expected


@pytest.mark.parametrize(
    ("offset", "count", "target"),
    [(1, BLOCK, 0), (0, 100, 0), (0, BLOCK, 100), (0, 9 * BLOCK, 0)],
    ids=["offset", "count", "target", "past the end"],
)
def test_a_range_that_is_not_aligned_or_too_long_is_refused(
    pair: tuple[int, int, Path], offset: int, count: int, target: int
) -> None:
    src, dst, path = pair
    with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
        clone_range(src, dst, offset, count, target)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_a_filesystem_without_shared_blocks_says_eopnotsupp(kind: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path / kind, 16 << 20) as place, ExitStack() as stack:
        (place / "src").write_bytes(DATA)
        src = os.open(place / "src", os.O_RDONLY)
        stack.callback(os.close, src)
        dst = os.open(place / "dst", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, dst)
        with pytest.raises(OSError, match=f"Errno {errno.EOPNOTSUPP}]"):
            clone(src, dst)
        with pytest.raises(OSError, match=f"Errno {errno.EOPNOTSUPP}]"):
            clone_range(src, dst, 0, BLOCK, 0)
        assert os.fstat(dst).st_size == 0


def test_two_filesystems_share_nothing(pair: tuple[int, int, Path], tiny: Path) -> None:
    with ExitStack() as stack:
        dst = os.open(tiny / "dst", os.O_RDWR | os.O_CREAT)
        stack.callback(os.close, dst)
        with pytest.raises(OSError, match=f"Errno {errno.EXDEV}]"):
            clone(pair[0], dst)
