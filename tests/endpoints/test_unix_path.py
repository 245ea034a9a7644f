"""Paths of UNIX sockets: of a mode and owner before anybody can connect, whatever others do."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import Meeting, source
from tests.machine import as_stranger, need, need_root, zpipe
from zpipe.endpoints import unix_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def end() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        yield made


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    path.chmod(0o600)
    return path


def mode_of(path: str | Path) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.mark.parametrize("mask", [0, 0o022, 0o077, 0o777])
def test_a_path_lets_nobody_in_until_it_is_given_a_mode(
    mask: int, tmp_path: Path, end: socket.socket
) -> None:
    path = f"{tmp_path}/socket"
    before = os.umask(mask)
    try:
        known_by = unix_path.bind(end, path)
        assert mode_of(path) & ~0o200 == 0
        unix_path.give(path, known_by, 0o666)
    finally:
        os.umask(before)
    assert mode_of(path) == 0o666


def a_link(path: str, victim: Path) -> None:
    os.symlink(victim, path)


def another_name(path: str, victim: Path) -> None:
    os.link(victim, path)


def another_socket(path: str, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        os.chmod(path, 0o700)


@pytest.mark.parametrize("plant", [a_link, another_name, another_socket])
def test_what_has_taken_the_place_of_a_path_is_left_alone(
    plant: Callable[[str, Path], None], tmp_path: Path, victim: Path, end: socket.socket
) -> None:
    path = f"{tmp_path}/socket"
    known_by = unix_path.bind(end, path)
    os.unlink(path)
    plant(path, victim)
    mode = mode_of(path)
    with pytest.raises(OSError, match="socket is another file by now"):
        unix_path.give(path, known_by, 0o666, (12345, 12345))
    unix_path.remove(path, known_by)
    assert mode_of(path) == mode
    assert mode_of(victim) == 0o600
    assert victim.stat().st_uid == os.geteuid()


@pytest.mark.parametrize("plant", [a_link, another_name, another_socket])
def test_what_stands_there_when_bind_returns_is_looked_at(
    plant: Callable[[str, Path], None], tmp_path: Path, victim: Path
) -> None:
    path = f"{tmp_path}/socket"

    class Overtaken(socket.socket):
        def bind(self, address: object) -> None:
            super().bind(address)  # type: ignore[arg-type]
            os.unlink(path)
            plant(path, victim)

    with Overtaken(socket.AF_UNIX) as end, pytest.raises(OSError, match="another file by now"):
        unix_path.bind(end, path)


def test_an_owner_gives_a_mode_without_being_root(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs").chmod(0o777)

    def work() -> None:
        with socket.socket(socket.AF_UNIX) as end:
            known_by = unix_path.bind(end, "socket")
            unix_path.give("socket", known_by, 0o660)
            assert mode_of("socket") == 0o660
            unix_path.remove("socket", known_by)
            assert not os.path.lexists("socket")

    as_stranger(tmp_path / "theirs", work)


def test_without_proc_a_path_is_refused_and_goes(tmp_path: Path) -> None:
    need_root()
    hidden = [need("unshare"), "-m", "sh", "-c", 'mount -t tmpfs none /proc && exec "$@"', "sh"]
    done = zpipe("cat", f"unix-listen:{tmp_path}/socket", before=hidden)
    assert done.returncode == 1
    assert done.stderr.endswith(b"socket: listen: its mode takes /proc, which is not there\n")
    assert os.listdir(tmp_path) == []


def test_a_listener_that_was_replaced_removes_nothing(tmp_path: Path, victim: Path) -> None:
    path = f"{tmp_path}/socket"

    def connect_and_replace() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
        os.unlink(path)
        os.symlink(victim, path)

    source(f"unix-listen:{path}", Meeting(connect_and_replace)).close()
    assert os.path.islink(path)
