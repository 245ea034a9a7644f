"""Work in processes of their own: one measurement, and those who read and write at its far side.

A child takes what it needs from its parent by fork and answers through a pipe. It has no other fds
of its parent's than it asks for, and ends when its work has.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import time

from zpipe.bench.schedule import Failed, Refused, TooLong
from zpipe.errors import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from zpipe.engine.stop import Stop

_GRACE = 1.0  # seconds that a child may take beyond its time, to find out by itself
_SIGNAL_ON_ITS_WAY = 1000  # milliseconds
_ERRORS = {error.__name__: error for error in (Refused, TooLong, Failed)}


class Child:
    """A process that does `work` and answers with a value that JSON has words for.

    `keep` are the fds that it needs.
    """

    def __init__(self, work: Callable[[], Any], keep: Iterable[int] = ()):
        self._answer = bytearray()
        self.fd, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = os.fork()
        except OSError:
            os.close(self.fd)
            os.close(writer)
            raise
        if self.pid == 0:
            _do(work, writer, {*keep, writer})
        os.close(writer)

    def answer(self, patience: float | None = None, stop: Stop | None = None) -> Any:
        """Wait for the answer, for so many seconds at the most, and for the child's end.

        Raises: TooLong              it did not answer in time.
                Refused, Failed      as it raised them, or it has died.
                Interrupted          the user does not want to know any more.
        """
        poller = select.poll()
        poller.register(self.fd, select.POLLIN)
        wakeup = -1 if stop is None else stop.wakeup
        if wakeup >= 0:
            poller.register(wakeup, select.POLLIN)
        end = None if patience is None else time.monotonic() + patience
        while True:
            if stop is not None:
                stop.check()
            span = None if end is None else max(0, int((end - time.monotonic()) * 1000) + 1)
            fired = dict(poller.poll(span))
            if self.fd in fired:
                data = os.read(self.fd, 65536)
                self._answer += data
                if not data:
                    break
            elif not fired:
                raise TooLong
            elif stop is not None and wakeup in fired:
                stop.check()
                os.read(wakeup, 512)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        if not self._answer:
            if wakeup >= 0 and stop is not None:
                # what has killed the child may be meant for us as well, and be on its way
                select.select([wakeup], [], [], _SIGNAL_ON_ITS_WAY / 1000)
                stop.check()
            by = signal_name(-status) if status < 0 else f"status {status}"
            raise Failed(f"the measuring process ended by {by}")
        kind, value = json.loads(self._answer)
        if kind != "answer":
            raise _ERRORS[kind](value)
        return value

    def close(self) -> None:
        """End it if it has not ended; may be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_child(work: Callable[[], Any], patience: float, stop: Stop, keep: Iterable[int] = ()) -> Any:
    """Do work in a process of its own, and return its answer; see Child.answer."""
    with Child(work, keep) as child:
        return child.answer(patience + _GRACE, stop)


def _do(work: Callable[[], Any], writer: int, keep: set[int]) -> NoReturn:
    """Do the work in the child, whatever happens, and leave nothing of the parent's to its end."""
    status = 0
    try:
        signal.set_wakeup_fd(-1)
        # Ctrl-C is for the parent, which ends us
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        close_others({0, 1, 2, *keep})
        gc.disable()
        try:
            answer: tuple[str, Any] = ("answer", work())
        except (Refused, TooLong, Failed) as error:
            answer = (type(error).__name__, str(error))
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writer, data) :]
    except BrokenPipeError:
        status = 1  # nobody wants to know
    except BaseException as error:
        status = 1
        reason = ("Failed", f"{type(error).__name__}: {error}")
        os.write(writer, json.dumps(reason).encode())
    finally:
        os._exit(status)


def close_others(keep: set[int]) -> None:
    """Close all fds but these: of a pipe whose writer a reader has too, the end never comes."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:
                pass  # the one by which they were listed
