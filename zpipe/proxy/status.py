"""How a running proxy is found and asked: by a socket named after its process, or by its metrics.

The socket is abstract: it takes no path, needs no rights, and is gone with the process. Whoever
connects is sent the snapshot as one JSON document; only the proxy's own user and root are.
Anybody may give a socket such a name, and so the asking side looks at its owner as well, reads no
more than there can be, and does not wait for ever.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import socket
import struct
from contextlib import ExitStack
from time import monotonic

from zpipe.errors import TransferError, open_failed, reason
from zpipe.kernel.network import STREAM
from zpipe.proxy.addresses import parse_address, resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop, Timer

PREFIX = "@zpipe-proxy-"

_PATIENCE = 5.0  # seconds for one question, on either side
_BUFFER = 1 << 20  # asked for; most snapshots are a few KiB
_AT_ONCE = 16  # questions that are answered at a time
_PAUSE = 1.0  # seconds without accepting, where there are no fds
_TOGETHER = 256  # sockets that are asked at the same time
_LARGEST = 16 << 20  # bytes of an answer
_LISTENS = 1 << 16  # __SO_ACCEPTCON, in /proc/net/unix


class Foreign(TransferError):
    """The proxy belongs to another user."""


class StatusSocket:
    """Answers questions in the loop, without ever waiting for whoever asks.

    It is bound to `@zpipe-proxy-PID` of the process that makes it; where that is not possible
    `where` is None, and the proxy runs without.
    """

    def __init__(self, loop: Loop, snapshot: Callable[[], Snapshot]):
        self.where: str | None = None
        self._loop = loop
        self._snapshot = snapshot
        self._answers: set[_Answer] = set()
        self._pause: Timer | None = None
        self._listener: socket.socket | None = None
        name = f"{PREFIX}{os.getpid()}"
        try:
            listener = socket.socket(socket.AF_UNIX, STREAM)
        except OSError:
            return  # no fds, or no such family here
        try:
            listener.bind(f"\0{name[1:]}")
            listener.listen(_AT_ONCE)
            loop.watch(listener.fileno(), select.EPOLLIN, self._arrived)
        except OSError:
            listener.close()
            return
        self._listener = listener
        self.where = name

    def close(self) -> None:
        """Be found no longer; answers under way are cut off."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
        self._listener = self.where = self._pause = None
        for answer in list(self._answers):
            answer.close()

    def forget(self) -> None:
        """Close the listener in a process that was forked."""
        if self._listener is not None:
            self._listener.close()

    def _arrived(self, event: int) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # it has left
        except OSError:
            # EMFILE, ENFILE, ENOMEM: it stays ready, and asking again at once would spin
            self._loop.forget(listener.fileno())
            self._pause = self._loop.later(_PAUSE, self._again)
            return
        if len(self._answers) >= _AT_ONCE or _owner(client) not in (os.geteuid(), 0):
            client.close()
            return
        import json

        text = json.dumps(self._snapshot(), separators=(",", ":")).encode()
        answer = _Answer(self._loop, client, text, self._answers)
        self._answers.add(answer)
        answer.go_on()

    def _again(self) -> None:
        self._pause = None
        if self._listener is not None:
            try:
                self._loop.watch(self._listener.fileno(), select.EPOLLIN, self._arrived)
            except OSError:
                self._pause = self._loop.later(_PAUSE, self._again)


class _Answer:
    """A document on its way to somebody, who may be slow to take it."""

    def __init__(self, loop: Loop, client: socket.socket, text: bytes, answers: set[_Answer]):
        self._loop = loop
        self._client = client
        self._rest = memoryview(text)
        self._answers = answers
        self._timer: Timer | None = None
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)

    def go_on(self, event: int = 0) -> None:
        """Send what goes, and close when it is all."""
        try:
            while self._rest:
                self._rest = self._rest[self._client.send(self._rest) :]
        except BlockingIOError:
            if self._timer is None:
                try:
                    self._loop.watch(self._client.fileno(), select.EPOLLOUT, self.go_on)
                except OSError:
                    self.close()
                    return
                self._timer = self._loop.later(_PATIENCE, self.close)
            return
        except OSError:
            pass  # it has left
        self.close()

    def close(self) -> None:
        """Leave it at that."""
        if self._timer is not None:
            self._timer.cancel()
            self._loop.forget(self._client.fileno())
        self._client.close()
        self._answers.discard(self)


def find() -> list[str]:
    """Return the names of the status sockets in this network namespace, of any user, by number."""
    numbers = set()
    try:
        # names are bytes, and may be of any kind
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            for line in table:
                fields = line.split(maxsplit=7)
                if len(fields) < 8 or not fields[7].startswith(PREFIX):
                    continue
                number = fields[7].rstrip("\n")[len(PREFIX) :]
                if int(fields[3], 16) & _LISTENS and number.isascii() and number.isdigit():
                    numbers.add(int(number))
    except FileNotFoundError:
        pass  # no UNIX sockets, or no /proc
    return [f"{PREFIX}{number}" for number in sorted(numbers)]


def ask(where: str) -> Snapshot:
    """Return the snapshot of a proxy: `@zpipe-proxy-PID`, or HOST:PORT or unix:PATH of --metrics.

    Raises: UsageError     that is no address.
            Foreign        it belongs to another user.
            TransferError  it cannot be reached, or what answers is no proxy.
    """
    if where.startswith(PREFIX):
        ((_, answer),) = ask_all([where])
        if isinstance(answer, TransferError):
            raise answer
        return answer
    end = monotonic() + _PATIENCE
    with _connected(where, resolve(parse_address(where)), end) as server:
        request = "GET /status HTTP/1.0\r\nHost: zpipe\r\nAccept: application/json\r\n\r\n"
        try:
            server.sendall(request.encode())
        except OSError as error:
            raise open_failed(where, "ask", error) from error
        text = _received(server, where, end)
    head, separator, body = text.partition(b"\r\n\r\n")
    words = head.split(maxsplit=2)
    if not separator or not words[0].startswith(b"HTTP/1.") or words[1] != b"200":
        raise TransferError(f"{where}: ask: no proxy's metrics are served there")
    return _snapshot_of(body, where)


def ask_all(names: Sequence[str]) -> Iterator[tuple[str, Snapshot | TransferError]]:
    """Ask all status sockets of these names at the same time; give what each answers, or why it
    does not. Those that never answer take no more time together than one.
    """
    together = max(1, min(_TOGETHER, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))
    for first in range(0, len(names), together):
        end = monotonic() + _PATIENCE
        with ExitStack() as stack:
            servers: list[tuple[str, socket.socket | TransferError]] = []
            for where in names[first : first + together]:
                try:
                    servers.append((where, stack.enter_context(_status_of(where))))
                except TransferError as error:
                    servers.append((where, error))
            for where, server in servers:
                if isinstance(server, TransferError):
                    yield where, server
                    continue
                try:
                    text = _received(server, where, end)
                    if not text:
                        raise Foreign(f"{where}: ask: it gives no answer to this user")
                    yield where, _snapshot_of(text, where)
                except TransferError as error:
                    yield where, error


def _status_of(where: str) -> socket.socket:
    """Connect to a status socket, which is a question, without waiting. Raises: TransferError."""
    server = socket.socket(socket.AF_UNIX, STREAM)
    try:
        server.connect(f"\0{where[1:]}")
        if os.geteuid() != 0 and _owner(server) not in (os.geteuid(), 0):
            raise Foreign(f"{where}: ask: it belongs to another user")
    except OSError as error:
        server.close()
        raise open_failed(where, "connect", error) from error
    except TransferError:
        server.close()
        raise
    return server


def _connected(where: str, addresses: list[tuple[int, Any]], end: float) -> socket.socket:
    problem: OSError | None = None
    for family, address in addresses:
        server = None
        try:
            server = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            server.settimeout(max(0.1, end - monotonic()))
            server.connect(address)
            return server
        except OSError as error:
            problem = error
            if server is not None:
                server.close()
    assert problem is not None
    raise open_failed(where, "connect", problem) from problem


def _received(server: socket.socket, where: str, end: float) -> bytes:
    """Return what is sent until the end."""
    parts: list[bytes] = []
    size = 0
    try:
        while size <= _LARGEST:
            # where the time has gone by with others, what is there already is an answer, too
            server.settimeout(max(0.0, end - monotonic()))
            part = server.recv(1 << 16)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
    except (BlockingIOError, TimeoutError) as error:
        raise TransferError(f"{where}: ask: no answer in time", errno=errno.ETIMEDOUT) from error
    except ConnectionResetError:
        return b""  # it was closed with our question unread
    except OSError as error:
        raise TransferError(f"{where}: ask: {reason(error)}", errno=error.errno) from error
    raise TransferError(f"{where}: ask: the answer has no end")


def _owner(peer: socket.socket) -> int:
    """Return the user at the other side of a UNIX connection (SO_PEERCRED)."""
    _, user, _ = struct.unpack("iII", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(user)


def _snapshot_of(text: bytes, where: str) -> Snapshot:
    import json

    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _fits(found, _SHAPE):
        raise TransferError(f"{where}: ask: the answer is no snapshot of a proxy")
    if found["v"] != 1:
        raise TransferError(f"{where}: ask: the proxy is of another version")
    return found


# what is made use of; other keys may stand beside
_COUNTS = {"up": 0, "down": 0, "active": 0, "connections": 0}
_SHAPE: dict[str, object] = {
    "v": 0,
    "name": "",
    "pid": 0,
    "started": 0.0,
    "state": "",
    "workers": 0,
    "listeners": [""],
    "connections": {"active": 0, "accepted": 0, "closed": {"": 0}, "refused": {"": 0}},
    "bytes": {"up": 0, "down": 0, "spliced": 0, "lost": 0},
    "retried": 0,
    "upstreams": [{"name": "", "state": "", "failures": 0, **_COUNTS}],
    "capture": (None, {"connections": 0, "bytes": 0, "missed": 0}),
    "mirrors": [
        {
            "name": "",
            "active": 0,
            "connections": 0,
            "bytes": 0,
            "given_up": {"": 0},
            "missed": 0,
        }
    ],
}


def _fits(value: object, shape: object) -> bool:
    """Tell whether a value has the keys and types of another, in which "" stands for any key, and a
    tuple for any of what is in it.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if set(shape) == {""}:
            return all(_fits(each, shape[""]) for each in value.values())
        return all(key in value and _fits(value[key], shape[key]) for key in shape)
    if isinstance(shape, tuple):
        return any(_fits(value, each) for each in shape)
    if shape is None:
        return value is None
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(each, shape[0]) for each in value)
    if isinstance(shape, str):
        return isinstance(value, str)
    return isinstance(value, (int, float)) and abs(value) < float("inf")  # no NaN either
