"""Prometheus text, `/healthz` and `/status` over HTTP, in threads of their own.

Everything is made of one snapshot for each request (see `metric_families`). A request has one
deadline for all of it, and few are served at a time: whoever sends or reads slowly takes nothing
from the proxy, and is cut off. Knows no metric by name.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from time import monotonic

from zpipe.proxy.listening import open_listeners
from zpipe.proxy.metric_families import SnapshotCollector

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from prometheus_client.core import Metric

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.settings import Address

    class Collects(Protocol):
        """What makes families of metrics, as prometheus_client asks for them."""

        def collect(self) -> Iterable[Metric]:
            """Return the families of this moment."""


_THREADS = 4
_PATIENCE = 5.0  # seconds for a request and its answer
_PAUSE = 0.2  # seconds before the next try, where nothing can be accepted
_PARTING = 0.5  # seconds that the other side has to close, and that a request has at the end
_HEAD = 16 << 10  # bytes of a request
_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"
_PHRASES = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class MetricsServer:
    """Serves what `snapshot` returns, which is called by threads other than the loop's.

    Without a `snapshot` there is no proxy to tell of, only what the `collectors` make, which are
    asked at each request. It serves as soon as it is made, from a thread: fork before, give up
    rights after. `port` is 0 for a UNIX address.

    Raises: UsageError  `ADDRESS: listen: REASON`.
    """

    def __init__(
        self,
        address: Address,
        snapshot: Callable[[], Snapshot] | None,
        collectors: Iterable[Collects] = (),
    ):
        from prometheus_client.exposition import choose_encoder
        from prometheus_client.registry import CollectorRegistry

        self._snapshot = snapshot
        self._choose_encoder = choose_encoder
        self._registry = CollectorRegistry(auto_describe=False)
        if snapshot is not None:
            self._registry.register(SnapshotCollector(snapshot))
        for collector in collectors:
            self._registry.register(collector)
        (self._listeners,) = open_listeners((address,))
        first = self._listeners[0].socket
        self.port: int = 0 if first.family == socket.AF_UNIX else first.getsockname()[1]
        self._ending = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._free = threading.BoundedSemaphore(_THREADS)
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more; requests under way have a moment, and then end with the process."""
        if self._ending < 0:
            return
        os.eventfd_write(self._ending, 1)
        self._thread.join(_PATIENCE)
        end = monotonic() + _PARTING
        for _ in range(_THREADS):
            self._free.acquire(timeout=max(0.0, end - monotonic()))
        for listener in self._listeners:
            listener.close()
        os.close(self._ending)
        self._ending = -1

    def forget(self) -> None:
        """Close the listeners in a process that was forked, and has no thread to serve them."""
        for listener in self._listeners:
            listener.close()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._ending, select.POLLIN)
        by_fd = {listener.socket.fileno(): listener.socket for listener in self._listeners}
        for fd in by_fd:
            poll.register(fd, select.POLLIN)
        while True:
            ready = dict(poll.poll())
            if self._ending in ready:
                return
            for fd in ready:
                self._accept(by_fd[fd])

    def _accept(self, listener: socket.socket) -> None:
        # the backlog holds whoever comes while all are busy: one of them will be free in time
        if not self._free.acquire(timeout=_PAUSE):
            return
        try:
            client, _ = listener.accept()
        except OSError:
            # it has left; or there are no fds (EMFILE), and then the listener stays ready
            self._free.release()
            self._pause()
            return
        try:
            threading.Thread(target=self._one, args=(client,), daemon=True).start()
        except RuntimeError:  # no threads are to be had
            client.close()
            self._free.release()
            self._pause()

    def _pause(self) -> None:
        """Wait a little, or until the end."""
        poll = select.poll()
        poll.register(self._ending, select.POLLIN)
        poll.poll(_PAUSE * 1000)

    def _one(self, client: socket.socket) -> None:
        """Serve one request, and close."""
        end = monotonic() + _PATIENCE
        try:
            with client:
                head = _head(client, end)
                if head is None:
                    return
                _send(client, self._answer(head), end)
                # what is still unread would turn the close into a reset, and lose the answer
                client.shutdown(socket.SHUT_WR)
                _discard(client, min(end, monotonic() + _PARTING))
        except OSError:
            pass  # too slow, or gone
        finally:
            self._free.release()

    def _answer(self, head: bytes) -> bytes:
        """Return the answer to a request."""
        lines = head.decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, _TEXT, b"not a request\n")
        method, target, _ = words
        if method not in ("GET", "HEAD"):
            return _response(405, _TEXT, b"GET or HEAD\n", "Allow: GET, HEAD\r\n")
        try:
            status, kind, body = self._page(target.partition("?")[0], _accepted(lines))
        except Exception as error:  # whatever it is, the proxy goes on
            text = f"{type(error).__name__}: {error}\n"
            status, kind, body = 500, _TEXT, text.encode(errors="replace")
        answer = _response(status, kind, body)
        return answer if method == "GET" else answer[: len(answer) - len(body)]

    def _page(self, path: str, accepted: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            encoder, kind = self._choose_encoder(accepted)
            return 200, kind, encoder(self._registry)
        if path == "/healthz":
            problem = unhealthy(self._snapshot()) if self._snapshot is not None else None
            return 503 if problem else 200, _TEXT, f"{problem or 'ok'}\n".encode()
        if path == "/status" and self._snapshot is not None:
            import json

            return 200, _JSON, json.dumps(self._snapshot()).encode() + b"\n"
        pages = (
            "/metrics and /healthz" if self._snapshot is None else "/metrics, /healthz and /status"
        )
        return 404, _TEXT, f"{pages} are here\n".encode()


def unhealthy(snapshot: Snapshot) -> str | None:
    """Return why new clients should go elsewhere; None: they are served."""
    if snapshot["state"] != "running":
        return str(snapshot["state"])
    upstreams = snapshot["upstreams"]
    if upstreams and not any(each["state"] == "up" for each in upstreams):
        return "no upstream is up"
    return None


def _response(status: int, kind: str, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\n{more}Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _accepted(lines: list[str]) -> str:
    """Return the formats that the other side takes."""
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name.lower() == "accept":
            return value.strip()
    return ""


def _head(client: socket.socket, end: float) -> bytes | None:
    """Return the head of a request; None: it has no end, or not in time."""
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > _HEAD:
            return None
        client.settimeout(_rest(end))
        part = client.recv(_HEAD)
        if not part:
            return None
        head += part
    return head.partition(b"\r\n\r\n")[0]


def _send(client: socket.socket, answer: bytes, end: float) -> None:
    rest = memoryview(answer)
    while rest:
        client.settimeout(_rest(end))
        rest = rest[client.send(rest) :]


def _discard(client: socket.socket, end: float) -> None:
    """Read to the end, within a bound."""
    for _ in range(16):
        client.settimeout(_rest(end))
        if not client.recv(1 << 16):
            return


def _rest(end: float) -> float:
    """Return the seconds that are left. Raises: TimeoutError  none are."""
    rest = end - monotonic()
    if rest <= 0:
        raise TimeoutError
    return rest
