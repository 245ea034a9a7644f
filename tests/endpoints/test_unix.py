"""UNIX stream sockets: by path and by abstract name."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import Interrupting, Meeting, listening, read_all, sink, source
from zpipe.errors import Interrupted, StalledError, TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def connect(address: str | bytes, stack: ExitStack) -> socket.socket:
    end = stack.enter_context(socket.socket(socket.AF_UNIX))
    end.connect(address)
    return end


def test_an_abstract_name_has_no_file(tmp_path: Path, stack: ExitStack) -> None:
    name = f"zpipe-test-{os.getpid()}"
    waiter = Meeting(lambda: connect(f"\0{name}".encode(), stack).close())
    with source(f"unix-listen:@{name}", waiter) as end:
        assert read_all(end) == b""
    assert os.listdir(tmp_path) == []
    with pytest.raises(TransferError, match="connect: Connection refused"):
        source(f"unix:@{name}")


@pytest.mark.parametrize(("option", "mode"), [("", 0o600), ("?mode=0660", 0o660)])
def test_the_path_of_a_listener_has_its_mode_before_anybody_can_connect(
    option: str, mode: int, tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "socket"
    seen: list[int] = []

    def look_and_connect() -> None:
        seen.append(stat.S_IMODE(path.stat().st_mode))
        connect(str(path), stack)

    before = os.umask(0)
    try:
        with source(f"unix-listen:{path}{option}", Meeting(look_and_connect)):
            assert not path.exists()
    finally:
        os.umask(before)
    assert seen == [mode]


def test_an_interrupted_listener_removes_its_path(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        source(f"unix-listen:{tmp_path}/socket", Interrupting())
    assert os.listdir(tmp_path) == []


def test_what_was_there_before_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "socket").write_bytes(b"precious")
    with pytest.raises(TransferError, match="socket: listen: Address already in use"):
        source(f"unix-listen:{tmp_path}/socket")
    assert (tmp_path / "socket").read_bytes() == b"precious"


def test_a_path_that_was_removed_while_it_listened_is_no_error(
    tmp_path: Path, stack: ExitStack
) -> None:
    path = tmp_path / "socket"

    def connect_and_remove() -> None:
        connect(str(path), stack)
        path.unlink()

    source(f"unix-listen:{path}", Meeting(connect_and_remove)).close()


def test_nobody_listening_is_told(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"{tmp_path}/socket")
    for act in (source, sink):
        with pytest.raises(TransferError, match="socket: connect: Connection refused"):
            act(f"unix:{tmp_path}/socket")


def clog(path: str, stack: ExitStack) -> None:
    """Connect until the listener's backlog is full."""
    for _ in range(64):
        end = stack.enter_context(socket.socket(socket.AF_UNIX))
        end.setblocking(False)
        try:
            end.connect(path)
        except BlockingIOError:
            return
    pytest.fail("the backlog has no end")


def test_a_listener_whose_backlog_is_full_is_waited_for(tmp_path: Path, stack: ExitStack) -> None:
    path = f"{tmp_path}/socket"
    listener, text = stack.enter_context(listening(socket.AF_UNIX, path))
    clog(path, stack)
    waiter = Meeting(lambda: None, lambda: stack.enter_context(listener.accept()[0]))
    with source(text, waiter):
        assert waiter.acts == ["connect", "connect"]


def test_a_listener_whose_backlog_stays_full_is_given_up(tmp_path: Path, stack: ExitStack) -> None:
    path = f"{tmp_path}/socket"
    _, text = stack.enter_context(listening(socket.AF_UNIX, path))
    clog(path, stack)
    with pytest.raises(StalledError, match=r"=50ms: connect: no answer within 0\.05 s"):
        source(f"{text}?timeout=50ms")
    with pytest.raises(StalledError, match=r"socket: connect: no answer within 0\.05 s"):
        source(text, Meeting(patience=0.05))
    with pytest.raises(Interrupted):
        source(text, Interrupting())
