"""What serves: one loop, a service for each proxy, and what these share.

A reload gives a proxy another service; the one before stays until its last connection has gone.
Knows nothing of signals and of other processes: whoever runs it tells it to drain, to reload, or to
leave the field to a successor.
"""

from __future__ import annotations

import gc
import os
from time import time

from zpipe.proxy.account import Account, together
from zpipe.proxy.pool import Pool
from zpipe.proxy.service import Service

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.access_log import AccessLog
    from zpipe.proxy.book import Change
    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.front import Told
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.loop import Loop
    from zpipe.proxy.plan import Plan
    from zpipe.proxy.settings import Capture, Operation, Settings

_LAST_WRITES = 5.0  # seconds that what is recorded may take to be written at the end


def exit_idle(settings: Iterable[Settings]) -> float | None:
    """Return after how many idle seconds the process ends; None: never."""
    seconds = [one.timeouts.exit_idle for one in settings]
    return max((one for one in seconds if one is not None), default=None)


class Worker:
    """What serves: one loop, and a service for each proxy, and for each that a reload replaced."""

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
        self._told = told
        self._pipe_size = _pipe_size(plan.settings for plan in plans)
        self._pool = Pool(self._pipe_size)
        self._log: AccessLog | None = None
        if operation.access_log is not None:
            from zpipe.proxy.access_log import AccessLog

            self._log = AccessLog(operation.access_log, operation.access_format, self.loop, told)
        self._accounts: dict[str, Account] = {}
        self.services: list[Service] = []
        self._any_retired = False
        self._workers = workers
        try:
            recorders = self._record(plan.settings for plan in plans)
        except BaseException:
            if self._log is not None:
                self._log.close()
            raise
        for plan, own in zip(plans, listeners, strict=True):
            self._take_up(plan, own, recorders.get(plan.settings.name))
        self._asked = 0
        self._replaced = False
        self._drained = False  # nobody waits to be accepted: it may end when all have gone
        self._idle_since = 0.0
        self._idle_timer = False
        self._exit_idle = self._longest_idle(plan.settings for plan in plans)
        self._state = "running"
        self._started = time()

    def _longest_idle(self, settings: Iterable[Settings]) -> float | None:
        # of several workers each knows its own connections only: the supervisor decides
        return exit_idle(settings) if self._workers == 1 else None

    def _record(self, settings: Iterable[Settings]) -> dict[str, Recorder]:
        """Return a recorder for each proxy that is captured: the one that it has, or a new one.

        Raises: UsageError  one cannot be had; nothing stays open.
        """
        found: dict[str, Recorder] = {}
        opened: list[Recorder] = []
        try:
            for one in settings:
                if one.capture is None:
                    continue
                recorder = self._recorder(one.name, one.capture)
                if recorder is None:
                    opened.append(recorder := self._new_recorder(one.capture))
                found[one.name] = recorder
        except BaseException:
            for recorder in opened:
                recorder.close(0.0)
            raise
        return found

    def _recorder(self, name: str, capture: Capture) -> Recorder | None:
        """Return what records a proxy in that way already; its pipes are those of this pool."""
        account = self._accounts.get(name)
        for service in account.services if account is not None else ():
            if service.settings.capture == capture and service.shared.pool is self._pool:
                return service.recorder
        return None

    def _new_recorder(self, capture: Capture) -> Recorder:
        from zpipe.proxy.capture import Recorder

        pool = self._pool

        def give_back(pipe: Pipe) -> None:
            """Take a pipe from the thread that records."""
            self.loop.soon(lambda: self._give_back(pool, pipe))

        return Recorder(capture, give_back, self._told)

    def _give_back(self, pool: Pool, pipe: Pipe) -> None:
        pool.take_back(pipe)
        self._close_unused(pool)

    def _close_unused(self, pool: Pool) -> None:
        """Close the free pipes of a pool that no service takes any from."""
        if pool not in self._pools:
            pool.close()

    def _take_stock(self) -> None:
        """List all services, those first that take new clients; other threads read the list."""
        accounts = list(self._accounts.values())
        present = [one.service for one in accounts if one.service is not None]
        self.services = present + [service for one in accounts for service in one.retired]
        self._any_retired = len(self.services) > len(present)

    @property
    def _pools(self) -> list[Pool]:
        return list(dict.fromkeys((self._pool, *(one.shared.pool for one in self.services))))

    def _take_up(self, plan: Plan, own: list[Listener], recorder: Recorder | None) -> Service:
        """Let a proxy be served by this plan."""
        name = plan.settings.name
        account = self._accounts.get(name) or Account(name)
        account.settle(plan)
        service = Service(
            plan,
            own,
            self.loop,
            self._pool,
            self._told,
            workers=self._workers,
            counters=account.counters,
            recorder=recorder,
        )
        service.log = self._log
        service.empty = self._empty
        for mirror in service.mirrors:
            mirror.empty = self._empty
        account.begin(service)
        self._accounts[name] = account
        self._take_stock()
        return service

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
        services = self.services
        for service in services:
            service.drain()
        self._drained = True
        if not any(service.busy for service in services):
            self.loop.stop()
            return
        longest = max(service.settings.timeouts.drain for service in services)
        self.loop.later(longest, self.loop.stop)

    def be_replaced(self) -> None:
        """Take no new clients, as others do, and end when the last connection has gone."""
        if not self._replaced:
            self._replaced = True
            self._state = "draining"
            self.loop.after(self._retire)

    def _retire(self) -> None:
        for service in self.services:
            service.retire()
        self._drained = True
        self._empty()

    def reload(self) -> None:
        """Open the log anew, and resolve names."""
        if self._log is not None:
            self._log.reopen()
        for service in self.services:
            service.resolve_now()

    def change(self, change: Change) -> None:
        """Let other settings be in force; established connections go on with theirs.

        Not to be called within a batch of events.

        Raises: UsageError  a folder to record in cannot be had; nothing has changed.
        """
        pool, size = self._pool, _pipe_size(change.settings)
        if size != self._pipe_size:
            self._pool = Pool(size)
        try:
            recorders = self._record(plan.settings for plan in change.plans)
        except BaseException:
            self._pool = pool
            raise
        self._pipe_size = size
        kept = change.kept()
        for name in (*change.changed, *change.removed):
            service = self._accounts[name].service
            assert service is not None
            service.retire(kept)
        for name in change.removed:
            self._accounts[name].begin(None)
        self._take_stock()
        for plan in change.plans:
            name = plan.settings.name
            self._take_up(plan, change.of(name)[0], recorders.get(name)).start()
        self._exit_idle = self._longest_idle(change.settings)
        self._empty()
        self._close_unused(pool)

    def _empty(self) -> None:
        """One of the services has no connection any more."""
        if self._any_retired:
            self._end_retired()
        if any(service.busy for service in self.services):
            return
        if self._drained:
            self.loop.stop()
        elif self._exit_idle is not None and not self._asked:
            self._idle_since = self.loop.now
            if not self._idle_timer:
                self._idle_timer = True
                self.loop.later(self._exit_idle, self._still_idle)

    def _end_retired(self) -> None:
        for account in list(self._accounts.values()):
            for service in account.retired:
                if not service.busy and service in account.retired:
                    self._end(account, service)

    def _end(self, account: Account, service: Service) -> None:
        """Take away a service that a reload has replaced, and whose connections have gone."""
        account.end(service)
        self._take_stock()
        service.close()
        recorder, pool = service.recorder, service.shared.pool
        if recorder is not None and all(recorder is not one.recorder for one in self.services):
            recorder.close(0.0)  # its thread writes what is left
        self._close_unused(pool)

    def _still_idle(self) -> None:
        """Stop if nothing has been open for long enough; else look again when it may be."""
        self._idle_timer = False
        if self._exit_idle is None or any(service.busy for service in self.services):
            return
        left = self._exit_idle - (self.loop.now - self._idle_since)
        if left <= 0:
            self._state = "draining"
            self.loop.after(self._drain)  # somebody may just have come
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
        pools = self._pools
        for service in self.services:
            service.close()
        for account in self._accounts.values():
            for recorder in account.recorders:
                recorder.close(_LAST_WRITES)
        if self._log is not None:
            self._log.close()
        for pool in pools:
            pool.close()

    def snapshot(self) -> Snapshot:
        """Return what happened so far; may be called by any thread."""
        pools = self._pools
        return {
            **together(list(self._accounts.values())),
            "pipes": {
                "borrowed": sum(pool.borrowed for pool in pools),
                "kept": sum(pool.kept for pool in pools),
            },
            "pid": os.getpid(),
            "started": self._started,
            "state": self._state,
            "workers": self._workers,
        }


def _pipe_size(settings: Iterable[Settings]) -> int:
    """Return the capacity of the pipes that proxies share."""
    return max(one.pipe_size for one in settings)
