"""Questions that fstat does not answer."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.machine import mounted
from zpipe.kernel import inspect

if TYPE_CHECKING:
    from pathlib import Path


def filesystem_of(path: Path | str) -> str | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return inspect.filesystem(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("kind", "name"), [("tmpfs", "tmpfs"), ("ext4", "ext4")])
def test_a_mounted_filesystem_has_its_name(kind: str, name: str, tmp_path: Path) -> None:
    with mounted(kind, tmp_path / kind, 16 << 20) as place:
        assert filesystem_of(place) == name


def test_filesystems_that_share_blocks_have_their_names(
    sharing: Path, request: pytest.FixtureRequest
) -> None:
    assert filesystem_of(sharing) == request.node.callspec.params["sharing"]


def test_virtual_filesystems_have_their_names() -> None:
    assert filesystem_of("/proc/self/status") == "proc"
    assert filesystem_of("/sys/kernel") == "sysfs"


def test_what_is_not_in_the_table_has_no_name() -> None:
    reader, writer = os.pipe()
    try:
        assert inspect.filesystem(reader) is None
    finally:
        os.close(reader)
        os.close(writer)


def test_an_fd_that_is_not_open_is_an_error() -> None:
    with pytest.raises(OSError, match="Errno 9]"):
        inspect.filesystem(-1)


def test_flags_are_those_of_the_description(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    twin = os.dup(fd)
    try:
        assert inspect.status_flags(fd) & os.O_ACCMODE == os.O_WRONLY
        assert inspect.status_flags(fd) & os.O_APPEND
        os.set_blocking(fd, False)
        assert inspect.status_flags(twin) & os.O_NONBLOCK
        os.set_blocking(twin, True)
        assert not inspect.status_flags(fd) & os.O_NONBLOCK
    finally:
        os.close(fd)
        os.close(twin)


def test_unsent_counts_what_the_peer_did_not_take() -> None:
    """On a UNIX socket that is everything unread; on loopback only what has no room there."""
    near, far = socket.socketpair()
    with near, far:
        assert inspect.unsent(near.fileno()) == 0
        near.send(b"x" * 1000)
        assert inspect.unsent(near.fileno()) >= 1000
        assert len(far.recv(1000)) == 1000
        assert inspect.unsent(near.fileno()) == 0


def test_unsent_on_loopback_is_what_has_no_room_at_the_peer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        sent = 0
        try:
            while True:
                sent += near.send(bytes(1 << 16))
        except BlockingIOError:
            pass
        assert 0 < inspect.unsent(near.fileno()) <= sent
        near.shutdown(socket.SHUT_WR)
        assert len(b"".join(iter(lambda: far.recv(1 << 16), b""))) == sent
        near.setblocking(True)
        far.send(b"x")  # the acknowledgement, which may be delayed, goes with it
        assert near.recv(1) == b"x"
        assert inspect.unsent(near.fileno()) == 0


def test_two_files_of_one_inode_number_have_generations_of_their_own(tmp_path: Path) -> None:
    """On ext4 the number of a file that is removed is given to the next one."""
    seen = set()
    with mounted("ext4", tmp_path / "mount", 16 << 20) as place:
        for _ in range(4):
            with open(place / "file", "wb") as file:
                seen.add((os.fstat(file.fileno()).st_ino, inspect.generation(file.fileno())))
            (place / "file").unlink()
    assert len(seen) == 4
    assert len({number for number, _ in seen}) == 1


def test_what_has_no_generation_says_so() -> None:
    reader, writer = os.pipe()
    try:
        assert inspect.generation(reader) is None
    finally:
        os.close(reader)
        os.close(writer)
