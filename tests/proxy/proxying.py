"""A real `zpipe proxy` between the sockets of a test and servers that run in its threads."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import LONGEST, started, until
from zpipe.errors import ZpipeError
from zpipe.proxy.status import ask

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from zpipe.proxy.loop import Loop

_SERVES = re.compile(rb"zpipe: proxy: (.+) -> ")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


class Proxy:
    """A process that serves; `listeners` are its addresses as it tells them."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self.errors: list[bytes] = []  # its lines on stderr
        self._served = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        if not self._served.wait(LONGEST / 2) or not self.listeners:
            pytest.fail(f"it does not serve: {b''.join(self.errors).decode()}")
        self.pid = self._serving()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors.append(line)
            if _SERVES.search(line):
                self._served.set()
        self._served.set()

    def _serving(self) -> int:
        """Find the process itself, below strace or another that runs it and waits."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        with open(f"/proc/{pid}/comm") as file:
            wrapped = file.read().strip() in ("strace", "ip", "unshare", "sh")
        return int(children[0]) if wrapped and children else pid

    @property
    def listeners(self) -> list[str]:
        """Return where it listens: `127.0.0.1:4711`, `[::1]:4711`, `unix:PATH`."""
        for line in self.errors:
            if (found := _SERVES.search(line)) is not None:
                return found[1].decode().split(", ")
        return []

    def connect(self, number: int = 0, *, timeout: float = LONGEST / 2) -> socket.socket:
        """Connect to one of its listeners; the socket's calls end after the timeout."""
        return connected(self.listeners[number], timeout=timeout)

    def snapshot(self) -> dict[str, Any]:
        """Ask it how it is, as `zpipe status` does."""
        return ask(f"@zpipe-proxy-{self.pid}")

    def until(self, condition: Callable[[dict[str, Any]], object], what: str) -> dict[str, Any]:
        """Wait until its snapshot fulfills a condition, and return that one."""
        found: dict[str, Any] = {}

        def holds() -> bool:
            assert self.process.poll() is None, f"it has ended: {b''.join(self.errors).decode()}"
            with suppress(ZpipeError):  # as it is out of fds
                found.update(self.snapshot())
                return bool(condition(found))
            return False

        until(holds, what)
        return found

    def until_idle(self) -> dict[str, Any]:
        """Wait until no connection is left."""
        return self.until(lambda one: not one["connections"]["active"], "no connection is left")

    def until_closed(self, reason: str, count: int = 1) -> dict[str, Any]:
        """Wait until so many connections have ended for a reason."""
        return self.until(
            lambda one: one["connections"]["closed"].get(reason, 0) >= count,
            f"{count} connections have ended: {reason}",
        )

    def fds(self) -> list[str]:
        """Return what its fds are: `socket:[1]`, `pipe:[2]`, paths."""
        folder = f"/proc/{self.pid}/fd"
        found = []
        for fd in os.listdir(folder):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{fd}"))
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU time that it has used, of user and system together."""
        with open(f"/proc/{self.pid}/schedstat") as file:
            return int(file.read().split()[0]) / 1e9

    def waits(self) -> int:
        """Return how often its main thread has gone to sleep."""
        with open(f"/proc/{self.pid}/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("voluntary"))

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        if self.pid != self.process.pid:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
        self.process.wait()
        self._reader.join()


@contextmanager
def proxying(
    *words: str | Path,
    listen: Sequence[str | Path] = ("127.0.0.1:0",),
    before: Sequence[str] = (),
    cwd: Path | None = None,
) -> Iterator[Proxy]:
    """Run `zpipe proxy` with options and upstreams until the end of the block; it is killed then.

    `before` are the words that run it: strace, setpriv, limited().
    """
    addresses = [word for each in listen for word in ("--listen", each)]
    with started("proxy", "--progress=never", *addresses, *words, before=before, cwd=cwd) as run:
        proxy = None
        try:
            proxy = Proxy(run)
            yield proxy
        finally:
            if proxy is not None:
                proxy.close()


def limited(limits: str) -> list[str]:
    """Return the words that run a command with limits, as `ulimit` of the shell has them."""
    return ["sh", "-c", f'ulimit {limits} && exec "$@"', "sh"]


def address(text: str) -> tuple[socket.AddressFamily, Any]:
    """Return family and address of one that a proxy tells of."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        return socket.AF_UNIX, f"\0{path[1:]}" if path.startswith("@") else path
    host, _, port = text.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port))
    return socket.AF_INET, (host, int(port))


def connected(text: str, *, timeout: float = LONGEST / 2) -> socket.socket:
    """Connect to `127.0.0.1:4711`, `[::1]:4711` or `unix:PATH`."""
    family, where = address(text)
    end = socket.socket(family)
    try:
        end.settimeout(timeout)
        end.connect(where)
    except BaseException:
        end.close()
        raise
    return end


class Server:
    """Serves each connection in a thread of its own; `text` is where, as an upstream."""

    def __init__(self, serve: Callable[[socket.socket], object], where: str, backlog: int):
        family, place = address(where)
        self._serve = serve
        self._listener = socket.socket(family)
        if family != socket.AF_UNIX:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(place)
        self._listener.listen(backlog)
        self.text = where
        if family != socket.AF_UNIX:
            host = where.rpartition(":")[0]
            self.text = f"{host}:{self._listener.getsockname()[1]}"
        self.failures: list[BaseException] = []
        self.count = 0  # connections that it has accepted
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False
        self._left: socket.socket | None = None
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                end, _ = self._listener.accept()
            except OSError:
                return
            if self._ended:
                end.close()
                return
            self.count += 1
            end.settimeout(LONGEST / 2)
            self._open.add(end)
            thread = threading.Thread(target=self._run, args=(end,))
            self._threads.append(thread)
            thread.start()

    def _run(self, end: socket.socket) -> None:
        try:
            self._serve(end)
        except BaseException as error:
            if not self._ended:
                self.failures.append(error)
        finally:
            self._open.discard(end)
            end.close()

    @contextmanager
    def answering(self, serve: Callable[[socket.socket], object]) -> Iterator[Server]:
        """Serve otherwise for a while: a server that tests share; what fails there fails here."""
        before, self._serve = self._serve, serve
        self.failures.clear()
        try:
            yield self
        finally:
            self._serve = before
            self._end()
        if self.failures:
            raise self.failures[0]

    def until_quiet(self) -> None:
        """Wait until nobody is served any more, with an echo for whoever still waits to be."""
        with connected(self.text) as last:  # those before it have been accepted when it ends
            last.shutdown(socket.SHUT_WR)
            received(last)
        until(lambda: not any(thread.is_alive() for thread in self._threads), "nobody is served")
        self._threads.clear()

    def _end(self) -> None:
        """End what still runs, and no longer judge it."""
        judged = len(self.failures)
        for end in list(self._open):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LONGEST)
        self._threads.clear()
        del self.failures[judged:]

    def stop(self) -> None:
        """Accept no more: whoever connects from now on is refused, and nobody is given the port."""
        self._ended = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept
        self._accepting.join()
        self._listener.close()
        family, place = address(self.text)
        if family != socket.AF_UNIX and self._left is None:
            self._left = bound(family, place)

    def close(self) -> None:
        """Stop, and end what still runs."""
        self.stop()
        self._end()
        if self._left is not None:
            self._left.close()


def bound(family: socket.AddressFamily, place: Any) -> socket.socket:
    """Keep a port for who listens there later, while whoever connects is refused."""
    end = socket.socket(family)
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        end.bind(place)
    except BaseException:
        end.close()
        raise
    return end


@contextmanager
def refusing() -> Iterator[str]:
    """Give an address that refuses, and that nobody else is given."""
    with bound(socket.AF_INET, ("127.0.0.1", 0)) as end:
        yield f"127.0.0.1:{end.getsockname()[1]}"


@contextmanager
def serving(
    serve: Callable[[socket.socket], object], where: str = "127.0.0.1:0", *, backlog: int = 1024
) -> Iterator[Server]:
    """Call `serve` with each connection, in threads; what it raises fails the test at the end.

    What is still open at the end of the block is shut down, and no longer judged.
    """
    server = Server(serve, where, backlog)
    try:
        yield server
    finally:
        server.close()
    if server.failures:
        raise server.failures[0]


def echo(end: socket.socket) -> None:
    """Send everything back, and end when the client has ended."""
    with suppress(ConnectionError):
        while data := end.recv(1 << 16):
            end.sendall(data)
        with suppress(OSError):  # reset since
            end.shutdown(socket.SHUT_WR)


def received(end: socket.socket) -> bytes:
    """Receive everything until the end of input."""
    whole = bytearray()
    while data := end.recv(1 << 18):
        whole += data
    return bytes(whole)


def exactly(end: socket.socket, count: int) -> bytes:
    """Receive so many bytes; fewer only at the end of input."""
    whole = bytearray()
    while len(whole) < count and (data := end.recv(count - len(whole))):
        whole += data
    return bytes(whole)


@contextmanager
def sending(end: socket.socket, data: bytes, *, at_once: int = 1 << 20) -> Iterator[None]:
    """Send in a thread while the block runs, then end the output; the thread is joined."""
    failures: list[BaseException] = []

    def send() -> None:
        try:
            for start in range(0, len(data), at_once):
                end.sendall(data[start : start + at_once])
            end.shutdown(socket.SHUT_WR)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join(LONGEST)
    if failures:
        raise failures[0]


def reset(end: socket.socket) -> None:
    """Close with RST."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    end.close()


def asked(end: socket.socket, question: bytes) -> bytes:
    """Send something to echo, and return what comes back."""
    end.sendall(question)
    return exactly(end, len(question))


def run_until(loop: Loop, condition: Callable[[], object], what: str) -> None:
    """Run the loop until something holds; fail when it does not come true."""
    end = time.monotonic() + LONGEST / 2

    def look() -> None:
        if condition() or time.monotonic() > end:
            loop.stop()
        else:
            loop.later(0.002, look)

    loop.later(0, look)
    loop.run()
    assert condition(), f"in vain waited until {what}"
