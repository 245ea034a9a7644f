"""Locks of open file descriptions."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from zpipe.kernel.locks import lock, unlock

if TYPE_CHECKING:
    from pathlib import Path


def test_they_belong_to_the_description_and_not_to_the_process(tmp_path: Path) -> None:
    with ExitStack() as stack:
        fds = []
        for _ in range(3):
            fds.append(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
            stack.callback(os.close, fds[-1])
        one, other, third = fds
        lock(one, 1 << 40, 5, shared=False, wait=False)
        with pytest.raises(BlockingIOError):
            lock(other, (1 << 40) + 4, 0, shared=True, wait=False)
        # closing another fd of the file drops nothing
        os.close(os.open(tmp_path / "file", os.O_RDONLY))
        with pytest.raises(BlockingIOError):
            lock(other, 1 << 40, 1, shared=True, wait=False)
        lock(other, 0, 1 << 40, shared=True, wait=True)
        lock(third, 0, 1 << 40, shared=True, wait=True)
        unlock(one, 1 << 40, 5)
        lock(other, (1 << 40), 0, shared=False, wait=True)


def test_an_exclusive_lock_needs_a_file_open_for_writing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fd = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
            lock(fd, 0, 0, shared=False, wait=False)
    finally:
        os.close(fd)
