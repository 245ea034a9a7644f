"""What two answers of fstat tell of a file that was read in between."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import need_root
from zpipe.kernel.changes import changes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file whose times lie so far back that any change of them shows on every kernel."""
    made = tmp_path / "file"
    made.write_bytes(b"0123456789")
    os.utime(made, (1, 1))
    return made


def shrink(path: Path) -> None:
    os.truncate(path, 4)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"X")


def overwrite_and_hide(path: Path) -> None:
    """Put the mtime back: the ctime cannot be."""
    overwrite(path)
    os.utime(path, (1, 1))


def chmod(path: Path) -> None:
    path.chmod(0o600)


def link(path: Path) -> None:
    os.link(path, path.with_name("second"))


def chown(path: Path) -> None:
    need_root()
    os.chown(path, 1234, 1234)


def read(path: Path) -> None:
    path.read_bytes()


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (shrink, ["size 10 -> 4", "mtime"]),
        (grow, ["size 10 -> 14", "mtime"]),
        (overwrite, ["mtime"]),
        (overwrite_and_hide, ["ctime"]),
        (chmod, []),
        (link, []),
        (chown, []),
        (read, []),
    ],
)
def test_what_changes_the_content_is_told(
    act: Callable[[Path], None], told: list[str], path: Path
) -> None:
    before = os.stat(path)
    while act is overwrite_and_hide and os.stat(path).st_ctime_ns == before.st_ctime_ns:
        act(path)  # until the kernel's clock for files has ticked
    act(path)
    assert changes(before, os.stat(path)) == told


def test_a_store_through_a_mapping_leaves_no_trace_until_it_is_written_back(path: Path) -> None:
    """The limit of what can be noticed: documented, and the reason for leases and clones."""
    fd = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(fd, 10) as mapped:
            mapped[0] = 0  # the first store marks the page, and with it the times
            before = os.fstat(fd)
            mapped[1:4] = b"abc"
            assert changes(before, os.fstat(fd)) == []
    finally:
        os.close(fd)
