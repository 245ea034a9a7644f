"""The other sides of every kind of end: somebody who sends, and somebody who receives."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import threading
import time
import tty
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING

from tests.machine import LONGEST, loop_device
from zpipe.endpoints.pattern import BLOCK, blocks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEED = "paths"


def pattern(size: int) -> bytes:
    """Return what `pattern:SEED` begins with: any source may send it, and any sink check it."""
    return b"".join(islice(blocks(SEED), -(-size // BLOCK)))[:size]


class Peer:
    """One side of a run: its operand, what zpipe inherits, and what has arrived."""

    def __init__(self, folder: Path, data: bytes):
        self.folder = folder
        self.data = data
        self.operand = ""
        self.options: list[str] = []
        self.inherited: list[int] = []
        self.standard = subprocess.DEVNULL
        self.stack = ExitStack()
        self.received = bytearray()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self.later: Callable[[], None] | None = None  # how to look, once zpipe has ended
        self.give_away: list[int] = []  # fds that zpipe alone must hold while it runs
        self.heard: Callable[[int], None] | None = None

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(LONGEST)
        self.stack.close()

    def content(self) -> bytes:
        """Return what has arrived, once all of it has."""
        for thread in self._threads:
            thread.join(LONGEST)
            assert not thread.is_alive(), "the peer still waits"
        assert not self._failures, self._failures
        if self.later is not None:
            self.later()
        return bytes(self.received)

    def said(self, line: str) -> None:
        """Hear what zpipe says: the port on which it listens."""
        if self.heard is not None and line.startswith(f"zpipe: {self.operand}: listening on"):
            self.heard(int(line.rpartition(":")[2]))

    def beside(self, act: Callable[[], None]) -> None:
        """Do something in a thread while zpipe runs."""

        def guarded() -> None:
            try:
                act()
            except BaseException as failure:
                self._failures.append(failure)

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()

    def hold(self, fd: int) -> int:
        """Close an fd at the end."""
        self.stack.callback(os.close, fd)
        return fd


def send(fd: int, data: bytes) -> None:
    """Write everything and close."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def serve(connection: socket.socket, data: bytes) -> None:
    """Send everything over a connection, and wait until the other one is done too."""
    with connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def receive(fd: int, into: bytearray) -> None:
    """Read to the end, and close."""
    try:
        while got := os.read(fd, 1 << 16):
            into += got
    finally:
        os.close(fd)


def connect(path: Path) -> socket.socket:
    """Connect to a UNIX socket as soon as somebody listens there."""
    end = socket.socket(socket.AF_UNIX)
    deadline = time.monotonic() + LONGEST
    while True:
        try:
            end.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > deadline:
                end.close()
                raise
            time.sleep(0.002)
        else:
            return end


def _tcp_listener(peer: Peer) -> socket.socket:
    listener = peer.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    peer.operand = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    return listener


def _unix_listener(peer: Peer, name: str) -> socket.socket:
    listener = peer.stack.enter_context(socket.socket(socket.AF_UNIX))
    path = peer.folder / name
    listener.bind(str(path))
    listener.listen(1)
    peer.operand = f"unix:{path}"
    return listener


def _terminal(peer: Peer) -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    peer.standard = peer.hold(slave)
    peer.operand = "-"
    return master, slave


def _block(peer: Peer, name: str, data: bytes) -> Path:
    image = peer.folder / name
    image.write_bytes(data)
    return peer.stack.enter_context(loop_device(image))


# --- sources: each makes `peer.data` come out of the operand


def file_source(peer: Peer) -> None:
    path = peer.folder / "source"
    path.write_bytes(peer.data)
    peer.operand = str(path)


def stdin_file(peer: Peer) -> None:
    file_source(peer)
    peer.standard = peer.hold(os.open(peer.operand, os.O_RDONLY))
    peer.operand = "-"


def stdin_pipe(peer: Peer) -> None:
    reader, writer = os.pipe()
    peer.operand, peer.standard = "-", peer.hold(reader)
    peer.beside(lambda: send(writer, peer.data))


def stdin_terminal(peer: Peer) -> None:
    master, _ = _terminal(peer)
    # a terminal ends when it is hung up, which drops what was not read yet
    peer.options = ["--length", str(len(peer.data))]
    duplicate = peer.hold(os.dup(master))
    assert duplicate >= 0
    peer.beside(lambda: send(master, peer.data))


def stdin_socket(peer: Peer) -> None:
    left, right = socket.socketpair()
    peer.operand, peer.standard = "-", right.detach()
    peer.give_away = [peer.standard]
    peer.beside(lambda: serve(left, peer.data))


def fifo_source(peer: Peer) -> None:
    path = peer.folder / "fifo-in"
    os.mkfifo(path)
    peer.operand = f"pipe:{path}"
    peer.beside(lambda: send(os.open(path, os.O_WRONLY), peer.data))


def tcp_source(peer: Peer) -> None:
    listener = _tcp_listener(peer)
    peer.beside(lambda: serve(listener.accept()[0], peer.data))


def tcp_listen_source(peer: Peer) -> None:
    peer.operand = "tcp-listen://127.0.0.1:0"

    def come(port: int) -> None:
        peer.beside(lambda: serve(socket.create_connection(("127.0.0.1", port)), peer.data))

    peer.heard = come


def unix_source(peer: Peer) -> None:
    listener = _unix_listener(peer, "unix-in")
    peer.beside(lambda: serve(listener.accept()[0], peer.data))


def unix_listen_source(peer: Peer) -> None:
    path = peer.folder / "listen-in"
    peer.operand = f"unix-listen:{path}"
    peer.beside(lambda: serve(connect(path), peer.data))


def exec_source(peer: Peer) -> None:
    file_source(peer)
    peer.operand = f"exec:cat {peer.operand}"


def zero_source(peer: Peer) -> None:
    peer.operand = f"zero:?size={len(peer.data)}"
    peer.data = bytes(len(peer.data))


def pattern_source(peer: Peer) -> None:
    peer.operand = f"pattern:{SEED}?size={len(peer.data)}"


def memfd_source(peer: Peer) -> None:
    fd = peer.hold(os.memfd_create("source"))
    os.write(fd, peer.data)
    os.lseek(fd, 0, os.SEEK_SET)
    peer.operand, peer.inherited = f"fd:{fd}", [fd]


def block_source(peer: Peer) -> None:
    # a device is a multiple of its sectors
    peer.data = peer.data[: len(peer.data) // 4096 * 4096]
    peer.operand = str(_block(peer, "device-in", peer.data))


SOURCES: dict[str, Callable[[Peer], None]] = {
    "file": file_source,
    "stdin-file": stdin_file,
    "stdin-pipe": stdin_pipe,
    "stdin-terminal": stdin_terminal,
    "stdin-socket": stdin_socket,
    "fifo": fifo_source,
    "tcp": tcp_source,
    "tcp-listen": tcp_listen_source,
    "unix": unix_source,
    "unix-listen": unix_listen_source,
    "exec": exec_source,
    "zero": zero_source,
    "pattern": pattern_source,
    "memfd": memfd_source,
    "block": block_source,
}


# --- sinks: each collects what arrives in `peer.received`


class FileEnd:
    """Reads what arrived from a file, once zpipe has ended."""

    def __init__(self, peer: Peer, path: Path | str):
        self.peer = peer
        self.path = path

    def __call__(self) -> None:
        with open(self.path, "rb") as file:
            self.peer.received += file.read(len(self.peer.data))
            if os.path.isfile(self.path):
                self.peer.received += file.read()


def file_sink(peer: Peer) -> None:
    path = peer.folder / "sink"
    peer.operand = str(path)
    peer.later = FileEnd(peer, path)


def stdout_file(peer: Peer) -> None:
    path = peer.folder / "sink"
    peer.operand, peer.standard = "-", peer.hold(os.open(path, os.O_WRONLY | os.O_CREAT))
    peer.later = FileEnd(peer, path)


def stdout_pipe(peer: Peer) -> None:
    reader, writer = os.pipe()
    peer.operand, peer.standard, peer.give_away = "-", writer, [writer]
    peer.beside(lambda: receive(reader, peer.received))


def stdout_terminal(peer: Peer) -> None:
    master, _ = _terminal(peer)

    def read_all() -> None:
        try:
            while len(peer.received) < len(peer.data):
                peer.received += os.read(master, 1 << 16)
        finally:
            os.close(master)

    peer.beside(read_all)


def stdout_socket(peer: Peer) -> None:
    left, right = socket.socketpair()
    peer.operand, peer.standard = "-", right.detach()
    peer.give_away = [peer.standard]
    peer.beside(lambda: receive(left.detach(), peer.received))


def fifo_sink(peer: Peer) -> None:
    path = peer.folder / "fifo-out"
    os.mkfifo(path)
    peer.operand = f"pipe:{path}"
    peer.beside(lambda: receive(os.open(path, os.O_RDONLY), peer.received))


def tcp_sink(peer: Peer) -> None:
    listener = _tcp_listener(peer)
    peer.beside(lambda: receive(listener.accept()[0].detach(), peer.received))


def tcp_listen_sink(peer: Peer) -> None:
    peer.operand = "tcp-listen://127.0.0.1:0?linger=2s"

    def come(port: int) -> None:
        end = socket.create_connection(("127.0.0.1", port))
        peer.beside(lambda: receive(end.detach(), peer.received))

    peer.heard = come


def unix_sink(peer: Peer) -> None:
    listener = _unix_listener(peer, "unix-out")
    peer.beside(lambda: receive(listener.accept()[0].detach(), peer.received))


def unix_listen_sink(peer: Peer) -> None:
    path = peer.folder / "listen-out"
    peer.operand = f"unix-listen:{path}"
    peer.beside(lambda: receive(connect(path).detach(), peer.received))


def exec_sink(peer: Peer) -> None:
    path = peer.folder / "sink"
    peer.operand = f"exec:dd of={path} bs=64k status=none"
    peer.later = FileEnd(peer, path)


def null_sink(peer: Peer) -> None:
    peer.operand = "null:"
    peer.later = lambda: peer.received.extend(peer.data)


def pattern_sink(peer: Peer) -> None:
    """It compares by itself; whoever gets other bytes sees the status of a mismatch."""
    peer.operand = f"pattern:{SEED}?size={len(peer.data)}"
    peer.later = lambda: peer.received.extend(peer.data)


def memfd_sink(peer: Peer) -> None:
    fd = peer.hold(os.memfd_create("sink"))
    peer.operand, peer.inherited = f"fd:{fd}", [fd]
    peer.later = FileEnd(peer, f"/proc/self/fd/{fd}")


def block_sink(peer: Peer) -> None:
    device = _block(peer, "device-out", bytes(-(-len(peer.data) // 4096) * 4096))
    peer.operand = str(device)
    peer.later = FileEnd(peer, device)


SINKS: dict[str, Callable[[Peer], None]] = {
    "file": file_sink,
    "stdout-file": stdout_file,
    "stdout-pipe": stdout_pipe,
    "stdout-terminal": stdout_terminal,
    "stdout-socket": stdout_socket,
    "fifo": fifo_sink,
    "tcp": tcp_sink,
    "tcp-listen": tcp_listen_sink,
    "unix": unix_sink,
    "unix-listen": unix_listen_sink,
    "exec": exec_sink,
    "null": null_sink,
    "pattern": pattern_sink,
    "memfd": memfd_sink,
    "block": block_sink,
}
