"""When to stop: signals that ask for the end, and one that asks for a word.

A handler only takes note; whoever sleeps is woken through a pipe, whoever moves bytes looks
between two calls.
"""

from __future__ import annotations

import os
import signal

from zpipe.errors import Interrupted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from zpipe.errors import ZpipeError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """Nobody asks to stop: for use as a library, which leaves signals to its program."""

    wakeup = -1
    status_wanted = False
    keeps = False
    excused = False  # what is read at the moment ends by itself, and not by a first signal

    def check(self) -> None:
        """Raise: Interrupted  somebody asked for the end."""

    def heard(self) -> None:
        """Take the request as known: only another one raises again."""


class Relayed(Stop):
    """Passes on to a thread what another one has heard; `ask` may be called by any."""

    def __init__(self, *, keeps: bool = True) -> None:
        """`keeps`: what is on its way when a first signal comes is of use to somebody."""
        self.keeps = keeps
        self.wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._asked: Callable[[], ZpipeError] | None = None
        self._at_once = False

    def ask(self, error: Callable[[], ZpipeError], *, at_once: bool = False) -> None:
        """Have the next `check` raise an error; unless `at_once`, not while it is excused."""
        self._asked, self._at_once = error, self._at_once or at_once
        os.eventfd_write(self.wakeup, 1)

    def ask_status(self) -> None:
        """Ask for a word about where things stand."""
        self.status_wanted = True
        os.eventfd_write(self.wakeup, 1)

    def check(self) -> None:
        if self._asked is not None and (self._at_once or not self.excused):
            raise self._asked()

    def heard(self) -> None:
        if not self._at_once:
            self._asked = None

    def close(self) -> None:
        """Release what wakes; nobody asks any more."""
        os.close(self.wakeup)


class Signals(Stop):
    """Listens to SIGINT, SIGTERM, SIGHUP and SIGUSR1 while it is entered; main thread only.

    A signal that was ignored when the process began (nohup, a job in the background of a plain
    shell) stays ignored. A second one does not wait for the next `check`; once tidying up has
    begun, which takes a second at most, nothing disturbs it.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._asked: int | None = None
        self._raised = False
        self._before: dict[int, object] = {}
        self._writer = -1
        self._wakeup_before = -1

    def check(self) -> None:
        if self._asked is not None:
            self._raised = True
            raise Interrupted(self._asked)

    def heard(self) -> None:
        self._asked = None
        self._raised = False

    def __enter__(self) -> Signals:
        self.wakeup, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._end)
        self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._tell)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.wakeup)
        os.close(self._writer)
        self.wakeup = self._writer = -1

    def _end(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # forked by somebody else, such as a pool of processes, which has no use for our way
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self._asked is None:
            self._asked = number
        elif not self._raised:
            self._raised = True
            raise Interrupted(number)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self.status_wanted = True
