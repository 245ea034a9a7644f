"""Several processes that serve the same proxies, and the one that watches over them.

The listeners are open before the first one forks and stay open here, so that a worker that dies
loses its own connections only: those that wait are accepted by the one that takes its place. A
worker hears what to do by a socket of its own (see `control`); when that ends, the supervisor is
gone, and the worker ends, too.

New settings begin another generation of workers, at the same listeners as far as these are the
same. The generation before accepts no more, and each of it ends when its last connection has gone.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from time import monotonic

from zpipe.errors import reason
from zpipe.proxy.control import PATIENCE, RELOAD, REPLACE, TERMINATE, Child, Remote
from zpipe.proxy.counters import Snapshot, ended, merged, replaced, shown
from zpipe.proxy.listening import close_all
from zpipe.proxy.loop import Loop
from zpipe.proxy.server import reloads_of
from zpipe.proxy.worker import Worker, exit_idle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.book import Book, Change
    from zpipe.proxy.front import Front, Shows, Told
    from zpipe.proxy.listening import Listener
    from zpipe.proxy.plan import Plan
    from zpipe.proxy.settings import Operation

_PARTING = 1.0  # seconds that workers have to end at once
_HANGING = 10.0  # seconds beyond --drain-timeout
_LOOKS = 4  # at whether something is open, within --exit-idle-time
_BACKOFF = 1.0  # seconds until a worker that died young is replaced
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class _Supervisor:
    def __init__(
        self,
        loop: Loop,
        front: Front,
        plans: list[Plan],
        listeners: list[list[list[Listener]]],
        operation: Operation,
        told: Told,
        book: Book | None,
    ):
        self.loop = loop
        self._front = front
        self._plans = plans
        self._listeners = listeners
        self._operation = operation
        self._told = told
        self._book = book
        self._reloads = reloads_of(loop, book, operation, told, self._change, self._fill)
        self._ending = 0
        trial = self._tried(plans)
        self._last = shown(trial)
        self._started = trial["started"]
        self._exit_idle: float | None = None
        self._looks = False
        self._lock = threading.Lock()  # of these three, which other threads read
        self._past: list[Snapshot] = []  # what those that have died had told last: at most one
        self._children: dict[int, Child] = {}  # by their places
        self._replaced: list[Child] = []  # of earlier generations
        self._idle_for = 0
        self._accepted = -1

    def _tried(self, plans: list[Plan]) -> Snapshot:
        """Begin to serve, and end again: what cannot be opened is told here, and not by each.

        Raises: ZpipeError  a log or a folder.
        """
        loop = Loop()
        try:
            trial = Worker(
                loop,
                plans,
                [[] for _ in plans],
                self._operation,
                self._told,
                workers=self._operation.workers,
            )
            found = trial.snapshot()
            trial.close()
        finally:
            loop.close()
        return found

    def start(self) -> None:
        """Fork the workers."""
        self._look_for_idle()
        self._fill()

    def _look_for_idle(self) -> None:
        self._exit_idle = exit_idle(plan.settings for plan in self._plans)
        if self._exit_idle is not None and not self._looks:
            self._looks = True
            self.loop.later(self._exit_idle / _LOOKS, self._look)

    def _fill(self) -> None:
        """Let there be a worker in each place."""
        for place in range(self._operation.workers):
            self._fork(place)

    @property
    def _all(self) -> list[Child]:
        return [*self._children.values(), *self._replaced]

    def _fork(self, place: int) -> None:
        if self._ending or place in self._children:
            return
        if self._reloads is not None and self._reloads.reads:
            return  # its thread may hold locks, which nobody would release: `_fill` comes after it
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            self._not_now(place, error)
            return
        ours.settimeout(PATIENCE)
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            self._not_now(place, error)
            return
        if pid == 0:
            ours.close()
            for child in self._all:
                child.close()
            self._front.forget()
            own = [proxy[place] for proxy in self._listeners]
            mine = {id(listener) for each in own for listener in each}
            others = [*self._listeners, *(self._book.spare if self._book is not None else ())]
            for proxy in others:
                for each in proxy:
                    for listener in each:
                        if id(listener) not in mine:
                            listener.close()
            self._be_worker(own, theirs)
        theirs.close()
        self._children[place] = child = Child(place, pid, ours, self._drain)
        # readable without a question means that it has gone
        self.loop.watch(child.pidfd, select.EPOLLIN, lambda _: self._died(child))

    def _not_now(self, place: int, error: OSError) -> None:
        self._told(f"worker: start: {reason(error)}")
        self.loop.later(_BACKOFF, lambda: self._fork(place))

    @property
    def _drain(self) -> float:
        return max(plan.settings.timeouts.drain for plan in self._plans)

    def _be_worker(self, own: list[list[Listener]], control: socket.socket) -> None:
        """Serve until told to end; never returns."""
        status = 1
        try:
            for number in _IGNORED:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            worker = Worker(
                Loop(),
                self._plans,
                own,
                self._operation,
                self._told,
                workers=self._operation.workers,
            )
            self.loop.close()
            remote = Remote(worker, control)
            worker.start()
            worker.run()
            remote.part()
            status = 0
        except BaseException as error:  # nothing is above it that could tell
            self._told(f"worker {os.getpid()}: {type(error).__name__}: {error}")
        finally:
            os._exit(status)

    def _died(self, child: Child) -> None:
        self.loop.forget(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        child.part()
        present = self._children.get(child.place) is child
        with self._lock:
            if present:
                del self._children[child.place]
            else:
                self._replaced.remove(child)
            if child.last is not None:
                self._past = [merged([ended(child.last), *self._past])]
        code = os.waitstatus_to_exitcode(status)
        if self._ending:
            if not self._all:
                self.loop.stop()
            return
        if code == 0 and not present:
            return
        how = f"signal {-code}" if code < 0 else f"status {code}"
        after = ": another one takes its place" if present else ""
        self._told(f"worker {child.pid}: ended by {how}{after}")
        if present:
            wait = 0.0 if monotonic() - child.born > _BACKOFF else _BACKOFF
            self.loop.later(wait, lambda: self._fork(child.place))

    def terminate(self) -> None:
        """Let them drain; when asked again, end."""
        self._ending += 1
        if self._reloads is not None:
            self._reloads.close()
        children = self._all
        for child in children:
            child.tell(TERMINATE)
        # one that hangs, or is stopped, is not waited for any longer than this
        drain = max((child.drain for child in children), default=0.0)
        self.loop.later(_PARTING if self._ending > 1 else drain + _HANGING, self.loop.stop)
        for proxy in self._listeners:
            for own in proxy:
                for listener in own:
                    if listener.owned:
                        listener.close()
        if not children:
            self.loop.stop()

    def reload(self, done: Callable[[], None]) -> None:
        """Let them open logs and resolve names; read the settings anew, if that is wanted."""
        for child in self._all:
            child.tell(RELOAD)
        if self._reloads is not None:
            self._reloads.ask(done)
        else:
            done()

    def _change(self, change: Change) -> None:
        """Begin another generation, and let the present one go when it is there.

        Raises: ZpipeError  a log or a folder; nothing has changed.
        """
        assert self._book is not None
        self._tried(change.plans)
        now = self.loop.now
        for upstream in self.snapshot()["upstreams"]:
            if upstream["state"] == "down":
                for plan in change.plans:
                    if plan.settings.name == upstream["proxy"]:
                        plan.fall(upstream["name"], now)
        unused = self._book.turn(change)
        close_all([unused])  # the present workers still have them, and accept who waits there
        self._plans = change.plans
        self._listeners = [change.of(plan.settings.name) for plan in change.plans]
        with self._lock:
            before = list(self._children.values())
            self._replaced += before
            self._children = {}
        self._fill()
        for child in before:
            child.tell(REPLACE)
        for child in before:
            child.ask()  # it has accepted its last client when it answers
        self._look_for_idle()

    def snapshot(self) -> Snapshot:
        """Return what all of them did; may be called by any thread."""
        with self._lock:
            present, before = list(self._children.values()), list(self._replaced)
            past = list(self._past)
        answers: list[Child] = []
        silent: list[Child] = []
        for child in present:
            (answers if child.ask() else silent).append(child)
        others = [child for child in before if child.ask()]
        if answers or (self._ending and others):
            whole = merged(
                [
                    *(child.last for child in (*answers, *silent) if child.last),
                    *(replaced(child.last) for child in before if child.last),
                    *past,
                ]
            )
            own = {"pid": os.getpid(), "workers": len(answers), "started": self._started}
            self._last = shown({**whole, **own})
        return self._last

    def _look(self) -> None:
        """End when nothing has been open for long enough."""
        self._looks = False
        if self._exit_idle is None:
            return
        connections = self.snapshot()["connections"]
        quiet = not connections["active"] and connections["accepted"] == self._accepted
        self._accepted = connections["accepted"]
        self._idle_for = self._idle_for + 1 if quiet else 0
        if self._idle_for >= _LOOKS:
            self.terminate()
        else:
            self._looks = True
            self.loop.later(self._exit_idle / _LOOKS, self._look)

    def run(self) -> bool:
        """Watch over them until all have ended. Returns: whether it was asked twice."""
        self.loop.run()
        return self._ending > 1

    def kill(self) -> None:
        """End those that are left."""
        if self._reloads is not None:
            self._reloads.close()
        for child in self._all:
            child.close()
            try:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def supervise(
    loop: Loop,
    front: Front,
    plans: list[Plan],
    listeners: list[list[list[Listener]]],
    operation: Operation,
    told: Told,
    shows: Shows | None,
    book: Book | None,
) -> bool:
    """Serve by several processes until a signal asks for the end.

    Returns: whether it was asked twice.
    """
    supervisor = _Supervisor(loop, front, plans, listeners, operation, told, book)
    front.begin(supervisor.snapshot)
    restore = front.listen_to_signals(supervisor.terminate, supervisor.reload)
    try:
        supervisor.start()
        front.ready(shows)
        return supervisor.run()
    finally:
        supervisor.kill()
        restore()
