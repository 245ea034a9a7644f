"""Drive a transfer as the engine does, step by step, and hold it to its contract at each step."""

from __future__ import annotations

import select
import signal
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zpipe.movers.contract import Ended, Moved, Tuning, Wait

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from tests.movers.ends import Sink, Source
    from zpipe.movers.contract import Mover, Step

UNBOUNDED = 1 << 62
MANY_STEPS = 1_000_000
READY = 30_000  # milliseconds until an end that was fed or emptied must be ready

# what a step may move beyond its allowance: a block, or the buffers of the two sides of a disk
GRANULES = {"reflink": 4096, "direct": 8 << 20}


@contextmanager
def watchdog(seconds: float = 30) -> Iterator[None]:
    """Turn a step that sleeps in the kernel into a failure instead of a test that never ends."""

    def bark(signum: int, frame: FrameType | None) -> None:
        raise AssertionError("a step has waited in the kernel")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def ready(fd: int, *, write: bool, milliseconds: int = 0) -> bool:
    """Tell whether poll(2) calls an fd ready, as the engine asks it."""
    poller = select.poll()
    poller.register(fd, select.POLLOUT if write else select.POLLIN | select.POLLPRI)
    return bool(poller.poll(milliseconds))


class Driver:
    """One transfer between two ends of a test; closes the transfer, not the ends."""

    def __init__(
        self,
        mover: Mover,
        source: Source,
        sink: Sink,
        limit: int | None = None,
        *,
        allowance: int = UNBOUNDED,
        pipe_size: int | None = None,
    ):
        self.source = source
        self.sink = sink
        self.allowance = allowance
        self.most = allowance + GRANULES.get(mover.name, 0)
        if mover.name == "copy_range" and source.port().facts.has_holes:
            self.most = UNBOUNDED  # a hole is passed over at once
        self.steps: Counter[str] = Counter()
        self._seen = 0
        self._asked: Wait | None = None  # what the last step asked to wait for
        self.transfer = mover.begin(source.port(), sink.port(), limit, Tuning(pipe_size))

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.transfer.close()

    def step(self) -> Step:
        """Take one step; what it says must agree with what it counts."""
        transfer = self.transfer
        with watchdog():
            step = transfer.step(self.allowance)
        self.steps[type(step).__name__] += 1
        self._asked = step if isinstance(step, Wait) else None
        if isinstance(step, Moved):
            assert 0 <= step.count <= self.most, "more than was allowed"
            self._seen += step.count
        assert transfer.delivered == self._seen, "delivered is not the sum of what has moved"
        assert transfer.held >= 0
        if isinstance(step, Ended):
            assert transfer.held == 0, "ended with bytes that the sink has not got"
        return step

    def until_wait(self) -> Wait:
        """Step without feeding or emptying anything, until the transfer asks to wait."""
        for _ in range(MANY_STEPS):
            step = self.step()
            if isinstance(step, Wait):
                return step
            assert isinstance(step, Moved), f"{step} instead of a wait"
        raise AssertionError("it neither moves nor waits")

    def go(self, portion: int = 1 << 16) -> Step:
        """Feed and empty the ends as they are asked for; return what the transfer ends with."""
        for _ in range(MANY_STEPS):
            if self._asked is not None:
                self.serve(self._asked, portion)
            step = self.step()
            if not isinstance(step, Moved | Wait):
                return step
        raise AssertionError("it never ends")

    def serve(self, wait: Wait, portion: int = 1 << 16) -> None:
        """Make the end ready that the transfer waits for."""
        if wait.side == "source":
            if not ready(self.source.fd, write=False):
                self.source.feed(portion)
            assert ready(self.source.fd, write=False, milliseconds=READY), "nothing will come"
        else:
            while not ready(self.sink.fd, write=True):
                assert self.sink.take() or ready(self.sink.fd, write=True, milliseconds=READY)
