"""The process that serves proxies: signals, privileges, what it tells, and how it ends.

SIGTERM or SIGINT: no new connections, the open ones go on for the drain timeout; once more: at
once. SIGHUP: logs are opened anew, names are resolved. SIGUSR1: one line of status.
"""

from __future__ import annotations

import gc
import os
import signal
from time import time

from zpipe.errors import Interrupted, UsageError
from zpipe.proxy.counters import Snapshot, merged
from zpipe.proxy.limits import raise_fd_limit
from zpipe.proxy.listening import number_of
from zpipe.proxy.loop import Loop
from zpipe.proxy.pool import Pool
from zpipe.proxy.service import Plan, Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from zpipe.proxy.access_log import AccessLog
    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.metrics import MetricsServer
    from zpipe.proxy.notify import Notifier
    from zpipe.proxy.settings import Operation
    from zpipe.proxy.status import StatusSocket

    class Display(Protocol):
        """What shows a person how it goes."""

        def line(self) -> str:
            """Return one line of status."""

        def close(self) -> None:
            """Take it away."""

    Shows = Callable[[Loop, Callable[[], Snapshot]], Display]
    Told = Callable[[str], None]


_LAST_WRITES = 5.0  # seconds that what is recorded may take to be written at the end


def exit_idle(plans: list[Plan]) -> float | None:
    """Return after how many idle seconds the process ends; None: never."""
    seconds = [plan.settings.timeouts.exit_idle for plan in plans]
    return max((one for one in seconds if one is not None), default=None)


class Worker:
    """What serves: one loop, and a service for each proxy."""

    def __init__(
        self,
        loop: Loop,
        plans: list[Plan],
        listeners: list[list[Listener]],
        operation: Operation,
        told: Told,
        *,
        workers: int = 1,
    ):
        self.loop = loop
        self._plans = plans
        self._told = told
        self._pool = Pool(max(plan.settings.pipe_size for plan in plans))
        self._log: AccessLog | None = None
        if operation.access_log is not None:
            from zpipe.proxy.access_log import AccessLog

            self._log = AccessLog(operation.access_log, operation.access_format, self.loop, told)
        self._recorders: list[Recorder] = []
        self.services = []
        for plan, own in zip(plans, listeners, strict=True):
            service = Service(plan, own, self.loop, self._pool, told, workers=workers)
            service.log = self._log
            if plan.settings.capture is not None:
                from zpipe.proxy.capture import Recorder

                service.recorder = Recorder(plan.settings.capture, self._give_back, told)
                self._recorders.append(service.recorder)
            service.empty = self._empty
            for mirror in service.mirrors:
                mirror.empty = self._empty
            self.services.append(service)
        self._asked = 0
        self._idle_since = 0.0
        self._idle_timer = False
        # of several workers each knows its own connections only: the supervisor decides
        self._exit_idle = exit_idle(plans) if workers == 1 else None
        self._state = "running"
        self._started = time()
        self._workers = workers

    def _give_back(self, pipe: object) -> None:
        """Take a pipe from the thread that records."""
        self.loop.soon(lambda: self._pool.give_back(pipe))  # type: ignore[arg-type]

    def start(self) -> None:
        """Begin to serve as soon as the loop runs."""
        # connections leave no cycles behind: what is to be found is little, and looking is dear
        gc.freeze()
        gc.set_threshold(20_000, 20, 100)
        for service in self.services:
            service.start()
        self._empty()

    def terminate(self) -> None:
        """Drain; when asked again, end at once."""
        self._asked += 1
        if self._asked > 1:
            self.loop.stop()
        else:
            self._state = "draining"
            self.loop.after(self._drain)

    def _drain(self) -> None:
        for service in self.services:
            service.drain()
        if not any(service.busy for service in self.services):
            self.loop.stop()
            return
        longest = max(plan.settings.timeouts.drain for plan in self._plans)
        self.loop.later(longest, self.loop.stop)

    def reload(self) -> None:
        """Open the log anew, and resolve names."""
        if self._log is not None:
            self._log.reopen()
        for service in self.services:
            service.resolve_now()

    def _empty(self) -> None:
        """One of the services has no connection any more."""
        if any(service.busy for service in self.services):
            return
        if self._asked:
            self.loop.stop()
        elif self._exit_idle is not None:
            self._idle_since = self.loop.now
            if not self._idle_timer:
                self._idle_timer = True
                self.loop.later(self._exit_idle, self._still_idle)

    def _still_idle(self) -> None:
        """Stop if nothing has been open for long enough; else look again when it may be."""
        self._idle_timer = False
        assert self._exit_idle is not None
        if any(service.busy for service in self.services):
            return
        left = self._exit_idle - (self.loop.now - self._idle_since)
        if left <= 0:
            self.loop.stop()
        else:
            self._idle_timer = True
            self.loop.later(left, self._still_idle)

    def run(self) -> bool:
        """Serve until asked to end. Returns: whether it was asked twice, or in vain."""
        try:
            self.loop.run()
        finally:
            self.close()
        return self._asked > 1

    def close(self) -> None:
        """End everything but the loop."""
        for service in self.services:
            service.close()
        for recorder in self._recorders:
            recorder.close(_LAST_WRITES)
        if self._log is not None:
            self._log.close()
        self._pool.close()

    def snapshot(self) -> Snapshot:
        """Return what happened so far; may be called by any thread."""
        first, *more = [service.snapshot() for service in self.services]
        for other in more:
            lists = {
                key: first[key] + other.pop(key) for key in ("listeners", "upstreams", "mirrors")
            }
            del other["pipes"]  # the pool is the same, and so is its count
            first = {**first, **merged([{key: first[key] for key in other}, other]), **lists}
        return {
            **first,
            "pid": os.getpid(),
            "started": self._started,
            "state": self._state,
            "workers": self._workers,
        }


class Front:
    """What a person and an init system see of it, whoever serves.

    Made before anything that is to belong to --user and --group; then `begin`, what listens to
    signals, and `ready`, in this order.

    Raises: UsageError  the address of the metrics, the user or the group.
    """

    def __init__(self, loop: Loop, operation: Operation, told: Told):
        self._loop = loop
        self._told = told
        self._metrics: MetricsServer | None = None
        self._status: StatusSocket | None = None
        self._notifier: Notifier | None = None
        self._display: Display | None = None
        self._snapshots: Callable[[], Snapshot] | None = None
        self.asked: list[int] = []
        if operation.metrics is not None:
            from zpipe.proxy.metrics import MetricsServer

            self._metrics = MetricsServer(operation.metrics, self._snapshot)
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
        self, terminate: Callable[[], None], reload: Callable[[], None]
    ) -> Callable[[], None]:
        """Have signals handled in the loop; returns what restores them."""
        notifier = self._notifier
        assert notifier is not None

        def on_end(number: int) -> None:
            self.asked.append(number)
            if len(self.asked) == 1:
                notifier.stopping()
            terminate()

        def on_reload(number: int) -> None:
            notifier.reloading()
            reload()
            notifier.ready(self._line())

        def on_question(number: int) -> None:
            self._told(self._line())

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


def serve(
    plans: list[Plan],
    listeners: list[list[list[Listener]]],
    operation: Operation,
    told: Told,
    shows: Shows | None = None,
) -> None:
    """Serve proxies until a signal asks for the end; `listeners` are per proxy and per worker.

    The addresses of the upstreams have been found (`resolve_first`). Whoever has opened the
    listeners closes them.

    Raises: UsageError   metrics, user or group.
            Interrupted  asked twice.
    """
    raise_fd_limit()
    if operation.workers > 1:
        from zpipe.proxy.workers import supervise

        supervise(plans, listeners, operation, told, shows)
    else:
        _serve_here(plans, [own[0] for own in listeners], operation, told, shows)


def _serve_here(
    plans: list[Plan],
    listeners: list[list[Listener]],
    operation: Operation,
    told: Told,
    shows: Shows | None,
) -> None:
    loop = Loop()
    front = Front(loop, operation, told)
    try:
        # opened with the rights that it is opened with again after it has been rotated
        worker = Worker(loop, plans, listeners, operation, told)
        front.begin(worker.snapshot)
        restore = front.listen_to_signals(worker.terminate, worker.reload)
        try:
            worker.start()
            front.ready(shows)
            at_once = worker.run()
        finally:
            restore()
    finally:
        front.close()
        loop.close()
    if at_once:
        raise Interrupted(front.asked[-1])


def drop_rights(operation: Operation) -> None:
    """Become another user and group, for good.

    Raises: UsageError  there is none of this name, or this process may not.
    """
    if operation.user is None and operation.group is None:
        return
    import pwd

    user = group = None
    if os.geteuid() != 0 and _is_already(operation):
        return
    try:
        if operation.user is not None:
            name = operation.user
            entry = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
            user, group = entry.pw_uid, entry.pw_gid
    except KeyError:
        if not operation.user or not operation.user.isdecimal():
            raise UsageError(f"--user: no user is named {operation.user}") from None
        if operation.group is None:
            raise UsageError(
                f"--user {operation.user}: is no user that has a group: give --group"
            ) from None
        user = int(operation.user)
    if operation.group is not None:
        group = number_of("group", operation.group)
        if group is None:
            raise UsageError(f"--group: no group is named {operation.group}")
    try:
        os.setgroups([group] if group is not None else [])
        if group is not None:
            os.setresgid(group, group, group)
        if user is not None:
            os.setresuid(user, user, user)
    except OSError as error:
        what = f"--user {operation.user}" if operation.user else f"--group {operation.group}"
        raise UsageError(f"{what}: change to it: {os.strerror(error.errno or 0)}") from error


def _is_already(operation: Operation) -> bool:
    """Tell whether a process without rights is what it is asked to become."""
    user, group = operation.user, operation.group
    return (user is None or number_of("user", user) == os.geteuid()) and (
        group is None or number_of("group", group) == os.getegid()
    )
