"""Read leases: when they are granted, and how a break is noticed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, as_stranger, environment, strace
from zpipe.kernel.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"data")
    return tmp_path / "file"


@pytest.fixture
def opening(path: Path) -> Iterator[Callable[[int], int]]:
    """Open the file; closed at the end."""
    with ExitStack() as stack:

        def open_one(flags: int) -> int:
            fd = os.open(path, flags)
            stack.callback(os.close, fd)
            return fd

        yield open_one


def test_a_lease_is_held_until_it_is_released(opening: Callable[[int], int]) -> None:
    lease = Lease(opening(os.O_RDONLY))
    assert lease.held()
    lease.release()
    lease.release()
    opening(os.O_WRONLY | os.O_NONBLOCK)


def test_readers_renames_and_chmod_do_not_break_it(
    opening: Callable[[int], int], path: Path
) -> None:
    lease = Lease(opening(os.O_RDONLY))
    opening(os.O_RDONLY)
    path.chmod(0o600)
    path.rename(path.with_name("other")).rename(path)
    assert lease.held()
    lease.release()


def test_a_writer_is_held_back_and_noticed(opening: Callable[[int], int], path: Path) -> None:
    lease = Lease(opening(os.O_RDONLY))
    with pytest.raises(BlockingIOError):
        opening(os.O_WRONLY | os.O_NONBLOCK | os.O_TRUNC)
    assert not lease.held()
    assert path.read_bytes() == b"data"
    lease.release()
    opening(os.O_WRONLY | os.O_NONBLOCK | os.O_TRUNC)
    assert path.read_bytes() == b""


def test_a_file_that_is_open_for_writing_gets_no_lease(opening: Callable[[int], int]) -> None:
    reader = opening(os.O_RDONLY)
    opening(os.O_WRONLY)
    with pytest.raises(BlockingIOError):
        Lease(reader)


def test_only_regular_files_have_leases(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match=f"Errno {errno.EINVAL}]"):
            Lease(fd)
    finally:
        os.close(fd)


def test_a_file_of_somebody_else_gets_no_lease(path: Path) -> None:
    path.chmod(0o644)
    path.parent.chmod(0o755)

    def check() -> None:
        fd = os.open("file", os.O_RDONLY)
        assert os.read(fd, 9) == b"data"
        with pytest.raises(PermissionError):
            Lease(fd)

    as_stranger(path.parent, check)


BROKEN = """
import os, signal
from zpipe.kernel.lease import Lease
lease = Lease(os.open("file", os.O_RDONLY))
print("held", flush=True)
input()
print("held" if lease.held() else "asked for", flush=True)
"""


def test_the_signal_of_a_break_does_not_kill(path: Path) -> None:
    """The kernel's own choice, SIGIO, would: the holder is another process, with no handlers."""
    with subprocess.Popen(
        [sys.executable, "-c", BROKEN],
        cwd=path.parent,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        try:
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            holder.stdin.write("\n")
            holder.stdin.close()
            assert holder.stdout.readline() == "asked for\n"
            assert holder.wait(LONGEST) == 0
        finally:
            holder.kill()


def test_the_signal_is_chosen_before_the_lease_can_be_broken(tmp_path: Path) -> None:
    """Between the two calls a break would come with SIGIO, and kill."""
    (tmp_path / "file").write_bytes(b"data")
    done = subprocess.run(
        [*strace("-etrace=fcntl", "-o/dev/stdout"), sys.executable, "-c", BROKEN],
        cwd=tmp_path,
        env=environment(),
        input=b"\n",
        capture_output=True,
        timeout=LONGEST,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    calls = [line for line in lines if "F_SETSIG" in line or "F_SETLEASE" in line]
    assert ["F_SETSIG" in call for call in calls] == [True, False], calls
