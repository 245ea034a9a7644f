"""Several processes that serve the same proxies, and the one that watches over them.

The listeners are open before the first one forks and stay open here, so that a worker that dies
loses its own connections only: those that wait are accepted by the one that takes its place. A
worker hears what to do by a socket of its own; when that ends, the supervisor is gone, and the
worker ends, too.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import threading
from time import monotonic

from zpipe.errors import Interrupted
from zpipe.proxy.counters import Snapshot, merged
from zpipe.proxy.loop import Loop
from zpipe.proxy.server import Front, Worker, exit_idle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.listening import Listener
    from zpipe.proxy.server import Shows, Told
    from zpipe.proxy.service import Plan
    from zpipe.proxy.settings import Operation

_TERMINATE, _RELOAD, _ASK = b"t", b"r", b"?"
_HEAD = struct.Struct("II")  # of an answer: the number of the question, the length
_PATIENCE = 2.0  # seconds for a worker's answer
_PARTING = 1.0  # seconds that workers have to end at once
_HANGING = 10.0  # seconds beyond --drain-timeout
_LOOKS = 4  # at whether something is open, within --exit-idle-time
_BACKOFF = 1.0  # seconds until a worker that died young is replaced
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class _Child:
    """A worker as the supervisor knows it."""

    def __init__(self, place: int, pid: int, control: socket.socket):
        self.place = place
        self.pid = pid
        self.control = control
        self.born = monotonic()
        self.lock = threading.Lock()
        self._asked = 0
        self._heard = b""
        self.last: Snapshot | None = None

    def tell(self, word: bytes) -> None:
        """Let it do something; one that has died is not told."""
        try:
            self.control.sendall(word)
        except OSError:
            pass

    def ask(self) -> Snapshot | None:
        """Return its snapshot; None: it does not answer."""
        with self.lock:
            self._asked += 1
            try:
                self.control.sendall(_ASK)
                while True:
                    number, text = self._answer()
                    if number == self._asked:  # an earlier one came too late for its question
                        self.last = json.loads(text)
                        return self.last
            except (OSError, ValueError):
                return None

    def _answer(self) -> tuple[int, bytes]:
        """Take one answer; what has come of one that did not come whole is kept."""
        while True:
            if len(self._heard) >= _HEAD.size:
                number, length = _HEAD.unpack_from(self._heard)
                end = _HEAD.size + length
                if len(self._heard) >= end:
                    text, self._heard = self._heard[_HEAD.size : end], self._heard[end:]
                    return number, text
            more = self.control.recv(1 << 16)
            if not more:
                raise ConnectionResetError
            self._heard += more


class _Supervisor:
    def __init__(
        self,
        loop: Loop,
        front: Front,
        plans: list[Plan],
        listeners: list[list[list[Listener]]],
        operation: Operation,
        told: Told,
    ):
        self.loop = loop
        self._front = front
        self._plans = plans
        self._listeners = listeners
        self._operation = operation
        self._told = told
        self._children: dict[int, _Child] = {}
        self._ending = 0
        # what cannot be opened is told here, once, and not by each worker
        trial = Worker(
            Loop(), plans, [[] for _ in plans], operation, told, workers=operation.workers
        )
        self._last: Snapshot = trial.snapshot()
        trial.close()
        trial.loop.close()
        self._exit_idle = exit_idle(plans)
        self._past: list[Snapshot] = []  # what those that have died had told last: at most one
        self._idle_for = 0
        self._accepted = -1

    def start(self) -> None:
        """Fork the workers."""
        if self._exit_idle is not None:
            self.loop.later(self._exit_idle / _LOOKS, self._look)
        for place in range(self._operation.workers):
            self._fork(place)

    def _fork(self, place: int) -> None:
        if self._ending:
            return
        ours, theirs = socket.socketpair()
        ours.settimeout(_PATIENCE)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            ours.close()
            for child in self._children.values():
                child.control.close()
            self._front.forget()
            mine = {id(one) for proxy in self._listeners for one in proxy[place]}
            for proxy in self._listeners:
                for others in proxy:
                    for listener in others:
                        if id(listener) not in mine:
                            listener.close()
            self._be_worker(place, theirs)
        theirs.close()
        self._children[place] = child = _Child(place, pid, ours)
        # readable without a question means that it has gone
        pidfd = os.pidfd_open(pid)
        self.loop.watch(pidfd, select.EPOLLIN, lambda _: self._died(child, pidfd))

    def _be_worker(self, place: int, control: socket.socket) -> None:
        """Serve until told to end; never returns."""
        status = 1
        try:
            for number in _IGNORED:
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            own = [proxy[place] for proxy in self._listeners]
            worker = Worker(
                Loop(),
                self._plans,
                own,
                self._operation,
                self._told,
                workers=self._operation.workers,
            )
            self.loop.close()
            _Remote(worker, control)
            worker.start()
            worker.run()
            status = 0
        except BaseException as error:  # nothing is above it that could tell
            self._told(f"worker {os.getpid()}: {type(error).__name__}: {error}")
        finally:
            os._exit(status)

    def _died(self, child: _Child, pidfd: int) -> None:
        self.loop.forget(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(child.pid, 0)
        with child.lock:
            child.control.close()
        del self._children[child.place]
        if child.last is not None:
            self._past = [merged([_ended(child.last), *self._past])]
        code = os.waitstatus_to_exitcode(status)
        if self._ending:
            if not self._children:
                self.loop.stop()
            return
        how = f"signal {-code}" if code < 0 else f"status {code}"
        self._told(f"worker {child.pid}: ended by {how}: another one takes its place")
        wait = 0.0 if monotonic() - child.born > _BACKOFF else _BACKOFF
        self.loop.later(wait, lambda: self._fork(child.place))

    def terminate(self) -> None:
        """Let them drain; when asked again, end."""
        self._ending += 1
        for child in self._children.values():
            child.tell(_TERMINATE)
        # one that hangs, or is stopped, is not waited for any longer than this
        drain = max(plan.settings.timeouts.drain for plan in self._plans)
        self.loop.later(_PARTING if self._ending > 1 else drain + _HANGING, self.loop.stop)
        for proxy in self._listeners:
            for own in proxy:
                for listener in own:
                    if listener.owned:
                        listener.close()
        if not self._children:
            self.loop.stop()

    def reload(self) -> None:
        """Let them open logs and resolve names."""
        for child in self._children.values():
            child.tell(_RELOAD)

    def snapshot(self) -> Snapshot:
        """Return what all of them did; may be called by any thread."""
        found = [answer for child in list(self._children.values()) if (answer := child.ask())]
        if found:
            whole = merged([*found, *self._past])
            self._last = {**whole, "pid": os.getpid(), "workers": len(found)}
        return self._last

    def _look(self) -> None:
        """End when nothing has been open for long enough."""
        assert self._exit_idle is not None
        connections = self.snapshot()["connections"]
        quiet = not connections["active"] and connections["accepted"] == self._accepted
        self._accepted = connections["accepted"]
        self._idle_for = self._idle_for + 1 if quiet else 0
        if self._idle_for >= _LOOKS:
            self.terminate()
        else:
            self.loop.later(self._exit_idle / _LOOKS, self._look)

    def run(self) -> bool:
        """Watch over them until all have ended. Returns: whether it was asked twice."""
        self.loop.run()
        return self._ending > 1

    def kill(self) -> None:
        """End those that are left."""
        for child in self._children.values():
            child.control.close()
            try:
                os.kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
            except (ProcessLookupError, ChildProcessError):
                pass


def _ended(snapshot: Snapshot) -> Snapshot:
    """Return what stays of a worker that is gone: all that is counted, nothing that is open."""
    ended = json.loads(json.dumps(snapshot))
    ended["connections"].update(active=0, max=0)
    ended["pipes"].update(borrowed=0, kept=0)
    for one in (*ended["upstreams"], *ended["mirrors"]):
        one["active"] = 0
    found: Snapshot = ended
    return found


class _Remote:
    """The worker's end of the socket by which it is told what to do."""

    def __init__(self, worker: Worker, control: socket.socket):
        self._worker = worker
        self._control = control
        self._asked = 0
        control.setblocking(False)
        worker.loop.watch(control.fileno(), select.EPOLLIN, self._heard)

    def _heard(self, event: int) -> None:
        worker = self._worker
        try:
            words = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            words = b""
        if not words:
            worker.loop.forget(self._control.fileno())
            worker.terminate()
            return
        for word in words:
            if word == _TERMINATE[0]:
                worker.terminate()
            elif word == _RELOAD[0]:
                worker.reload()
            else:
                self._answer()

    def _answer(self) -> None:
        self._asked += 1
        text = json.dumps(self._worker.snapshot()).encode()
        # a few KiB, into a socket that holds 200: the supervisor reads it, or has gone
        self._control.setblocking(True)
        self._control.settimeout(_PATIENCE)
        try:
            self._control.sendall(_HEAD.pack(self._asked, len(text)) + text)
        except OSError:
            pass
        finally:
            self._control.setblocking(False)


def supervise(
    plans: list[Plan],
    listeners: list[list[list[Listener]]],
    operation: Operation,
    told: Callable[[str], None],
    shows: Shows | None,
) -> None:
    """Serve by several processes until a signal asks for the end.

    Raises: UsageError   metrics, user or group.
            Interrupted  asked twice.
    """
    loop = Loop()
    front = Front(loop, operation, told)
    try:
        supervisor = _Supervisor(loop, front, plans, listeners, operation, told)
        front.begin(supervisor.snapshot)
        restore = front.listen_to_signals(supervisor.terminate, supervisor.reload)
        try:
            supervisor.start()
            front.ready(shows)
            at_once = supervisor.run()
        finally:
            supervisor.kill()
            restore()
    finally:
        front.close()
        loop.close()
    if at_once:
        raise Interrupted(front.asked[-1])
