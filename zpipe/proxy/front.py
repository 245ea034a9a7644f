"""What a person and an init system see of a process that serves proxies, whoever serves.

Signals, the user that it runs as, metrics, status, display, and what the service manager is told.
Knows nothing of connections; what happens is told by snapshots.
"""

from __future__ import annotations

import signal

from zpipe.proxy.users import drop_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Protocol

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop
    from zpipe.proxy.metrics import Collects, MetricsServer
    from zpipe.proxy.notify import Notifier
    from zpipe.proxy.settings import Operation
    from zpipe.proxy.status import StatusSocket

    class Display(Protocol):
        """What shows a person how it goes."""

        def line(self) -> str:
            """Return one line of status, for the service manager."""

        def lines(self) -> list[str]:
            """Return what is told to whoever asks by SIGUSR1."""

        def close(self) -> None:
            """Take it away."""

    Shows = Callable[[Loop, Callable[[], Snapshot]], Display]
    Told = Callable[[str], None]


class Front:
    """What a person and an init system see of it, whoever serves.

    Made before anything that is to belong to --user and --group; then `begin`, what listens to
    signals, and `ready`, in this order. `stopping` is called with each signal that asks for the
    end, and `collectors` make metrics beside those of the proxies.

    Raises: UsageError  the address of the metrics, the user or the group.
    """

    def __init__(
        self,
        loop: Loop,
        operation: Operation,
        told: Told,
        *,
        stopping: Callable[[int], None] | None = None,
        collectors: Iterable[Collects] = (),
    ):
        self._loop = loop
        self._told = told
        self._stopping = stopping
        self._metrics: MetricsServer | None = None
        self._status: StatusSocket | None = None
        self._notifier: Notifier | None = None
        self._display: Display | None = None
        self._snapshots: Callable[[], Snapshot] | None = None
        self.asked: list[int] = []
        if operation.metrics is not None:
            from zpipe.proxy.metrics import MetricsServer

            self._metrics = MetricsServer(operation.metrics, self._snapshot, collectors)
        try:
            drop_rights(operation)
        except BaseException:
            if self._metrics is not None:
                self._metrics.close()
            raise

    def _snapshot(self) -> Snapshot:
        if self._snapshots is None:
            raise RuntimeError("nothing is served yet")
        return self._snapshots()

    def begin(self, snapshots: Callable[[], Snapshot]) -> None:
        """Begin to answer whoever asks what happens."""
        from zpipe.proxy.notify import Notifier
        from zpipe.proxy.status import StatusSocket

        self._snapshots = snapshots
        self._status = StatusSocket(self._loop, snapshots)
        self._notifier = Notifier.from_environment()

    def ready(self, shows: Shows | None) -> None:
        """Say that it serves: signals are heard by now."""
        if shows is not None and self._snapshots is not None:
            self._display = shows(self._loop, self._snapshots)
        if self._notifier is not None:
            self._notifier.ready(self._line())
        self._guard()

    def _line(self) -> str:
        return self._display.line() if self._display is not None else ""

    def _guard(self) -> None:
        notifier = self._notifier
        if notifier is not None and notifier.watchdog_interval is not None:
            notifier.watchdog()
            notifier.status(self._line())
            self._loop.later(notifier.watchdog_interval, self._guard)

    def listen_to_signals(
        self, terminate: Callable[[], None], reload: Callable[[Callable[[], None]], None]
    ) -> Callable[[], None]:
        """Have signals handled in the loop; returns what restores them.

        `reload` calls what it is given when it is done.
        """
        notifier = self._notifier
        assert notifier is not None

        def on_end(number: int) -> None:
            self.asked.append(number)
            if len(self.asked) == 1:
                notifier.stopping()
            if self._stopping is not None:
                self._stopping(number)
            terminate()

        def on_reload(number: int) -> None:
            if not self.asked:
                notifier.reloading()
            reload(on_reloaded)

        def on_reloaded() -> None:
            if not self.asked:
                notifier.ready(self._line())

        def on_question(number: int) -> None:
            for text in self._display.lines() if self._display is not None else [""]:
                self._told(text)

        handlers = {
            signal.SIGTERM: on_end,
            signal.SIGINT: on_end,
            signal.SIGHUP: on_reload,
            signal.SIGUSR1: on_question,
        }
        before = {}
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(
                    number,
                    lambda number, _, call=handler: self._loop.soon(lambda: call(number)),  # type: ignore[misc]
                )
        woken = signal.set_wakeup_fd(self._loop.wakeup_fd, warn_on_full_buffer=False)

        def restore() -> None:
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore

    def forget(self) -> None:
        """Close what a forked process has of it, so that it ends with the one that serves it."""
        if self._metrics is not None:
            self._metrics.forget()
        if self._status is not None:
            self._status.forget()

    def close(self) -> None:
        """Take everything away."""
        if self._display is not None:
            self._display.close()
        if self._metrics is not None:
            self._metrics.close()
        if self._status is not None:
            self._status.close()
        if self._notifier is not None:
            self._notifier.close()
