"""syncfs: what was written is on the device."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from zpipe.kernel.sync import syncfs

if TYPE_CHECKING:
    from pathlib import Path


def test_what_was_written_is_on_the_device_afterwards(tmp_path: Path) -> None:
    """All files, whichever fd of the filesystem is given: here one that is only read."""
    marks = [content(8192, 3), content(8192, 4)]
    with mounted("ext4", tmp_path / "disk", 8 << 20) as place:
        for number, mark in enumerate(marks):
            (place / f"{number}").write_bytes(mark)
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)
        device = (tmp_path / "disk.img").read_bytes()
    assert all(mark in device for mark in marks)


def test_a_filesystem_without_a_device_has_nothing_to_do(tiny: Path) -> None:
    fd = os.open(tiny, os.O_RDONLY)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("kind", ["closed", "path only"])
def test_what_is_no_open_file_is_refused(kind: str, tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_PATH)
    if kind == "closed":
        os.close(fd)
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
            syncfs(fd)
    finally:
        if kind == "path only":
            os.close(fd)
