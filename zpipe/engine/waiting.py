"""The engine's sleep: until an fd is ready, a signal comes, or the time is up."""

from __future__ import annotations

import os
import select
import time

from zpipe.endpoints.contract import Waiter
from zpipe.errors import StalledError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.feedback import Feedback
    from zpipe.engine.stop import Stop


class EngineWaiter(Waiter):
    """Sleeps in poll(2), woken by signals, `tick`ing at the feedback's interval."""

    def __init__(self, stop: Stop, feedback: Feedback, stall_timeout: float | None):
        self._stop = stop
        self._feedback = feedback
        self._stall = self.patience = stall_timeout
        self.polls = 0
        self.ticked = 0.0  # when progress was last told of, over all hops; 0: none has begun
        self.tick: Callable[[], None] | None = None

    def say(self, text: str) -> None:
        self._feedback.said(text)

    def answer(self, text: str) -> None:
        self._feedback.answered(text)

    def pause(self, seconds: float, name: str, act: str) -> None:
        self.sleep({}, seconds, f"{name}: {act}")

    def wait(
        self, fd: int, name: str, act: str, *, write: bool = False, timeout: float | None = None
    ) -> bool:
        events = select.POLLOUT if write else select.POLLIN
        fired = self.sleep({fd: events}, timeout, f"{name}: {act}")
        if fired is None:
            if timeout is not None and (self._stall is None or timeout < self._stall):
                return False
            raise StalledError(f"{name}: {act}: stalled for {self._stall:g} s")
        return True

    def sleep(
        self, interests: dict[int, int], timeout: float | None = None, doing: str = ""
    ) -> dict[int, int] | None:
        """Sleep until one of the fds has an event; return them, or None when the time is up.

        The time is `timeout` or the stall timeout, whichever is shorter. `doing` is what the user
        is told who asks while there is no hop to speak of.

        Raises: Interrupted  a signal asked for the end.
        """
        poller = select.poll()
        for fd, events in interests.items():
            poller.register(fd, events)
        wakeup = self._stop.wakeup
        if wakeup >= 0:
            poller.register(wakeup, select.POLLIN)
        times = [span for span in (timeout, self._stall) if span is not None]
        end = time.monotonic() + min(times) if times else None
        while True:
            self._stop.check()
            if self.tick is not None:
                self.tick()
            elif doing and self._stop.status_wanted:
                self._stop.status_wanted = False
                self._feedback.said(doing)
            span = self._span(end)
            self.polls += 1
            # rounded up: waking before the time would only mean to sleep again
            fired = dict(poller.poll(None if span is None else int(span * 1000) + 1))
            if wakeup >= 0 and fired.pop(wakeup, 0):
                empty(wakeup)
                self._stop.check()
            if fired:
                return fired
            if end is not None and time.monotonic() >= end:
                return None

    def _span(self, end: float | None) -> float | None:
        """Return how long to sleep at the most, in seconds."""
        spans = []
        if end is not None:
            spans.append(max(0.0, end - time.monotonic()))
        if self.tick is not None and self._feedback.interval is not None:
            spans.append(self._feedback.interval)
        return min(spans) if spans else None


def empty(wakeup: int) -> None:
    """Read all that has woken somebody, out of a pipe or an eventfd."""
    try:
        while os.read(wakeup, 512):
            pass
    except BlockingIOError:
        pass
