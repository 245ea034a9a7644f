"""Fds of somebody else: used as they are, and left as they were."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import LONG, Interrupting, Meeting, Peer, read_all, sink, source
from tests.endpoints.meeting import write_all as write
from tests.machine import content, environment, zpipe
from zpipe.endpoints import kind_of, parse
from zpipe.endpoints.gather import identity
from zpipe.errors import Interrupted, TransferError, UsageError
from zpipe.kernel.inspect import status_flags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(5000)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture
def pipe(stack: ExitStack) -> tuple[int, int]:
    fds = os.pipe()
    for fd in fds:
        stack.callback(os.close, fd)
    return fds


def opened(stack: ExitStack, path: Path | str, flags: int = os.O_RDONLY) -> int:
    fd = os.open(path, flags, 0o600)
    stack.callback(os.close, fd)
    return fd


def test_a_pipe_is_opened_again_so_that_its_own_flags_stay(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = [status_flags(fd) for fd in pipe]
    with source(f"fd:{reader}") as src, sink(f"fd:{writer}") as dst:
        assert src.fd != reader
        assert src.facts.nonblocking
        assert dst.facts.nonblocking
        with pytest.raises(BlockingIOError):
            os.read(src.fd, 1)
        write(dst, b"data")
        assert os.read(src.fd, 9) == b"data"
        dst.finish(Meeting())
        src.finish(Meeting())
    assert [status_flags(fd) for fd in pipe] == before
    os.write(writer, b"still open")
    assert os.read(reader, 99) == b"still open"


def test_a_pipe_that_does_not_block_is_taken_as_it_is(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[0], False)
    with source(f"fd:{pipe[0]}") as end:
        assert end.fd == pipe[0]
    assert end.fd == -1
    os.fstat(pipe[0])


def test_a_terminal_is_opened_again(stack: ExitStack) -> None:
    for fd in os.openpty():
        stack.callback(os.close, fd)
    with source(f"fd:{fd}") as end:
        assert (end.fd != fd, end.facts.type, end.facts.nonblocking) == (True, "tty", True)
    assert os.get_blocking(fd)


def test_a_socket_cannot_be_opened_again_and_keeps_its_flags(stack: ExitStack) -> None:
    near, far = socket.socketpair()
    stack.enter_context(near)
    stack.enter_context(far)
    with source(f"fd:{near.fileno()}") as end:
        assert end.fd == near.fileno()
        assert end.facts.may_block
    assert os.get_blocking(near.fileno())


def test_a_file_goes_on_where_its_position_is(tmp_path: Path, stack: ExitStack) -> None:
    """As a shell's: what reads it next begins where this ended."""
    (tmp_path / "file").write_bytes(DATA)
    fd = opened(stack, tmp_path / "file")
    os.lseek(fd, 100, os.SEEK_SET)
    with source(f"fd:{fd}") as end:
        assert (end.facts.position, end.facts.owned) == (100, False)
        assert os.read(end.fd, 10) == DATA[100:110]
    assert os.lseek(fd, 0, os.SEEK_CUR) == 110


def test_an_offset_is_that_of_the_file(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "file").write_bytes(DATA)
    fd = opened(stack, tmp_path / "file")
    os.lseek(fd, 100, os.SEEK_SET)
    with source(f"fd:{fd}", offset=7) as end:
        assert (end.facts.position, end.facts.size) == (7, len(DATA) - 7)
        assert read_all(end) == DATA[7:]


def test_a_sink_on_a_file_is_neither_cut_nor_replaced(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "file").write_bytes(DATA)
    fd = opened(stack, tmp_path / "file", os.O_WRONLY)
    with sink(f"fd:{fd}", sync=True) as end:
        assert not end.facts.fresh
        write(end, b"here")
        end.finish(Meeting())
    assert (tmp_path / "file").read_bytes() == b"here" + DATA[4:]


def test_a_sink_that_is_the_source_is_refused(tmp_path: Path, stack: ExitStack) -> None:
    (tmp_path / "file").write_bytes(DATA)
    fd = opened(stack, tmp_path / "file", os.O_RDWR)
    with pytest.raises(UsageError, match="is the source itself"):
        sink(f"fd:{fd}", refuse=identity(os.fstat(fd)))


@pytest.mark.parametrize(
    ("flags", "is_sink", "why"),
    [
        (os.O_WRONLY, False, "read: is not open for reading"),
        (os.O_RDONLY, True, "write: is not open for writing"),
        (os.O_RDONLY | os.O_DIRECTORY, False, "read: Is a directory"),
    ],
)
def test_an_fd_for_the_other_direction_is_refused(
    flags: int, is_sink: bool, why: str, tmp_path: Path, stack: ExitStack
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    fd = opened(stack, tmp_path if flags & os.O_DIRECTORY else tmp_path / "file", flags)
    with pytest.raises(TransferError, match=f"fd:{fd}: {why}"):
        (sink if is_sink else source)(f"fd:{fd}")


def test_an_fd_that_is_not_open_is_refused() -> None:
    with pytest.raises(TransferError, match="fd:999999: read: Bad file descriptor"):
        source("fd:999999")
    with pytest.raises(TransferError, match="fd:999999: write: Bad file descriptor"):
        sink("fd:999999")
    with pytest.raises(TransferError, match="fd:999999: open: Bad file descriptor"):
        kind_of("fd").preview(parse("fd:999999", sink=False), sink=False)


def test_a_socket_as_a_sink_is_shut_down_and_left_open(stack: ExitStack) -> None:
    near, far = socket.socketpair()
    stack.enter_context(near)
    far.settimeout(LONG)
    peer = Peer(lambda: far)
    with sink(f"fd:{near.fileno()}") as end:
        near.sendall(DATA)
        end.finish(Meeting())
    assert peer.read() == DATA
    assert near.fileno() >= 0
    with pytest.raises(BrokenPipeError):
        near.sendall(b"x")


def test_a_socket_as_a_source_is_not_shut_down(stack: ExitStack) -> None:
    near, far = socket.socketpair()
    stack.enter_context(near)
    stack.enter_context(far)
    with source(f"fd:{near.fileno()}") as end:
        end.finish(Meeting())
    near.sendall(b"data")
    assert far.recv(9) == b"data"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_listener_is_accepted_from_and_goes_on_listening(
    family: socket.AddressFamily, tmp_path: Path, stack: ExitStack
) -> None:
    listener = stack.enter_context(socket.socket(family))
    listener.bind(("127.0.0.1", 0) if family == socket.AF_INET else f"{tmp_path}/socket")
    listener.listen()
    flags = status_flags(listener.fileno())

    def connect() -> None:
        with socket.socket(family) as end:
            end.connect(listener.getsockname())
            end.sendall(DATA)

    for _ in range(2):
        waiter = Meeting(connect)
        with source(f"fd:{listener.fileno()}", waiter) as end:
            assert waiter.acts == ["wait for a connection"]
            assert end.facts.owned
            assert end.facts.nonblocking
            assert read_all(end) == DATA
            end.finish(waiter)
    assert status_flags(listener.fileno()) == flags
    with pytest.raises(Interrupted):
        source(f"fd:{listener.fileno()}", Interrupting())


def activate(monkeypatch: pytest.MonkeyPatch, fd: int, name: str) -> None:
    """Pass an fd by name as systemd does: names stand for 3, 4, 5, ... in order."""
    names = [f"other{number}" for number in range(3, fd)] + [name]
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", str(len(names)))
    monkeypatch.setenv("LISTEN_FDNAMES", ":".join(names))


def test_an_fd_has_the_name_that_socket_activation_gave_it(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    os.write(pipe[1], b"data")
    activate(monkeypatch, pipe[0], "web")
    with source("fd:web") as end:
        assert os.read(end.fd, 9) == b"data"
    endpoint = parse("fd:web", sink=False)
    assert kind_of("fd").preview(endpoint, sink=False).type == "pipe"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("LISTEN_PID", "1", "no fds were passed to this process by name"),
        ("LISTEN_PID", None, "no fds were passed to this process by name"),
        ("LISTEN_FDS", None, "no passed fd has this name"),
        ("LISTEN_FDS", "many", "no fds were passed to this process by name"),
        ("LISTEN_FDS", "0", "no passed fd has this name"),
        ("LISTEN_FDNAMES", None, "no passed fd has this name"),
        ("LISTEN_FDNAMES", "a:b", "no passed fd has this name; passed are a, b"),
    ],
)
def test_a_name_that_nobody_gave_is_refused(
    name: str,
    value: str | None,
    why: str,
    pipe: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    activate(monkeypatch, pipe[0], "web")
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(TransferError, match=f"fd:web: {why}"):
        source("fd:web")


def test_a_program_started_by_socket_activation_finds_its_fd(tmp_path: Path) -> None:
    script = 'LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=web exec "$@" 3<&0 < /dev/null'
    done = zpipe("cp", "fd:web", tmp_path / "dst", data=DATA, before=["sh", "-c", script, "sh"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "dst").read_bytes() == DATA


def test_a_program_that_was_handed_a_listener_serves_it(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "src").write_bytes(DATA)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(lambda: socket.create_connection(listener.getsockname()))
        fd = listener.fileno()
        done = subprocess.run(
            [sys.executable, "-m", "zpipe", "cp", f"{tmp_path}/src", f"fd:{fd}"],
            pass_fds=[fd],
            env=environment(),
            capture_output=True,
            timeout=LONG,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert peer.read() == DATA
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
