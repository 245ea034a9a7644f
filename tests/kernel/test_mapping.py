"""A window of a file for write(2): any offset, and safe against a file that is cut."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, content, environment
from zpipe.kernel.mapping import PAGE, Window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(5 * PAGE + 77)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    path = tmp_path_factory.mktemp("mapping") / "src"
    path.write_bytes(DATA)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@given(range_=st.tuples(st.integers(0, len(DATA) - 1), st.integers(1, len(DATA))))
def test_a_window_is_exactly_the_bytes_asked_for(source: int, range_: tuple[int, int]) -> None:
    offset = range_[0]
    count = min(range_[1], len(DATA) - offset)
    with closing(Window(source, offset, count)) as window:
        assert len(window.view) == count
        assert bytes(window.view) == DATA[offset : offset + count]


def test_a_window_cannot_be_written_to(source: int) -> None:
    with closing(Window(source, 0, 10)) as window:
        assert window.view.readonly


def test_a_window_outlives_the_fd(tmp_path: Path) -> None:
    (tmp_path / "src").write_bytes(DATA)
    fd = os.open(tmp_path / "src", os.O_RDONLY)
    window = Window(fd, PAGE + 1, 9)
    os.close(fd)
    with closing(window):
        assert bytes(window.view) == DATA[PAGE + 1 : PAGE + 10]


def test_a_window_that_begins_past_the_end_is_refused(source: int) -> None:
    with pytest.raises(ValueError, match="mmap"):
        Window(source, 8 * PAGE, 10)


def test_what_cannot_be_mapped_says_enodev() -> None:
    reader, writer = os.pipe()
    try:
        with pytest.raises(OSError, match=f"Errno {errno.ENODEV}]"):
            Window(reader, 0, 10)
    finally:
        os.close(reader)
        os.close(writer)


def test_a_slice_in_use_keeps_the_window_from_closing(source: int) -> None:
    """What the caller must know: release every slice first, else the memory stays mapped."""
    window = Window(source, 0, 100)
    piece = window.view[10:20]
    with pytest.raises(BufferError):
        window.close()
    piece.release()
    window.close()


CUT = """
import os, socket, sys
from zpipe.kernel.mapping import PAGE, Window
src = os.open("src", os.O_RDWR | os.O_CREAT)
os.pwrite(src, b"x" * (8 * PAGE), 0)
window = Window(src, 0, 8 * PAGE)
os.ftruncate(src, {size})
kind = sys.argv[1]
if kind == "file":
    sink = os.open("dst", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
elif kind == "pipe":
    reader, sink = os.pipe2(os.O_NONBLOCK)
else:
    near, far = socket.socketpair()
    near.setblocking(False)
    sink = near.fileno()
try:
    print(os.write(sink, window.view))
except OSError as error:
    print(-error.errno)
"""


@pytest.mark.parametrize("kind", ["file", "pipe", "socket"])
@pytest.mark.parametrize("size", [PAGE + 10, 0])
def test_write_from_a_file_that_was_cut_comes_short_and_the_process_lives(
    kind: str, size: int, tmp_path: Path
) -> None:
    """A file or pipe takes whole pages, filled up with NULs at the end; a socket takes nothing."""
    done = subprocess.run(
        [sys.executable, "-c", CUT.format(size=size), kind],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done
    expected = 2 * PAGE if size and kind != "socket" else -errno.EFAULT
    assert int(done.stdout) == expected
    if kind == "file" and size:
        invented = (tmp_path / "dst").read_bytes()
        assert invented == b"x" * size + bytes(2 * PAGE - size)
