"""What systemd is told of a service: sd_notify(3), by a datagram to the socket that it names.

Nothing here raises or waits for long: a service manager that does not listen must not stop a proxy.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_READY_TIMEOUT = 1.0  # seconds that the one message is worth which a start would fail without


class Notifier:
    """Messages to the service manager; without an address they go nowhere.

    `watchdog_interval` are the seconds between two calls of `watchdog`: half of what the manager
    waits for one. None: it does not wait for any.
    """

    def __init__(self, address: str | None = None, *, watchdog_interval: float | None = None):
        self.watchdog_interval = watchdog_interval
        self._address = _packed(address) if address else None
        # kept open: a message must get through even when there are no fds left
        self._socket = _datagrams() if self._address else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """Return what NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID ask for."""
        return cls(
            environment.get("NOTIFY_SOCKET"), watchdog_interval=_watchdog_interval(environment)
        )

    def ready(self, status: str = "") -> None:
        """Say that clients are served: after the start, and after each reload."""
        self._send(*_status(status), "READY=1", timeout=_READY_TIMEOUT)

    def status(self, text: str) -> None:
        """Give the line that `systemctl status` shows."""
        self._send(*_status(text))

    def reloading(self) -> None:
        """Say that a reload has begun; `ready` ends it."""
        # from the kernel's clock, by which the manager tells this reload from an earlier one
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", timeout=_READY_TIMEOUT)

    def stopping(self) -> None:
        """Say that no more clients are taken, and that the end will come."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that the loop goes round."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Say no more."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._address = None

    def _send(self, *lines: str, timeout: float = 0.0) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.settimeout(timeout)
            self._socket.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except (OSError, ValueError):
            pass  # nobody there, its queue is full, the name is too long: it does without


def _status(text: str) -> tuple[str, ...]:
    """Return the assignment of a status; a line break in it would begin another assignment."""
    return (f"STATUS={' '.join(text.splitlines())}",) if text else ()


def _packed(address: str) -> bytes | None:
    """Return the address of a path or of an abstract socket (`@name`); None for other kinds."""
    raw = os.fsencode(address)
    if raw.startswith(b"@"):
        return b"\0" + raw[1:]
    return raw if raw.startswith(b"/") else None


def _datagrams() -> socket.socket | None:
    import socket

    try:
        return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError:
        return None


def _watchdog_interval(environment: Mapping[str, str]) -> float | None:
    """Return half of the watchdog's time, if it is this process that it looks at."""
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
        meant = int(environment.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return microseconds / 2e6 if microseconds > 0 and meant == os.getpid() else None
