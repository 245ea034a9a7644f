"""What really happened, as values."""

from __future__ import annotations

import errno
import os
from collections import Counter

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Process
    from zpipe.plan.choice import HopPlan


class Fallback(Value):
    """`mover` gave up because `call` answered `errno`; 0: the call moved nothing.

    `delivered` is how far the hop had come by then.
    """

    mover: str
    call: str
    errno: int
    delivered: int

    @property
    def reason(self) -> str:
        """The answer in words and as a symbol: `Invalid argument (EINVAL)`."""
        if not self.errno:
            return "moved nothing"
        symbol = errno.errorcode.get(self.errno, str(self.errno))
        if symbol == "ENOTSUP":
            symbol = "EOPNOTSUPP"  # the same number; this is the name that manual pages use
        return f"{os.strerror(self.errno)} ({symbol})"


class Resources(Value):
    """What this process used, all threads together (getrusage(2)); seconds and counts."""

    seconds: float
    user: float
    system: float
    voluntary_switches: int
    involuntary_switches: int


class OutletReport:
    """One sink of several. `state`: flowing, blocked, spilling, detached, left (its reader has
    gone, which is no failure), failed, stopped (by a signal), done.

    `moved` counts the bytes that it took, `blocked` the seconds in which it did not take what
    there was, `spilled` the bytes that wait in its file now, `deepest` the most there ever were.
    """

    def __init__(self, sink: str, policy: str):
        self.sink = sink
        self.node = ""
        self.policy = policy
        self.mover = ""
        self.moved = 0
        self.lag = 0  # bytes that were read from the source, and that this sink has not taken
        self.blocked = 0.0
        self.spilled = 0
        self.deepest = 0
        self.state = "flowing"
        self.error: str | None = None

    @property
    def given_up(self) -> bool:
        return self.state in ("detached", "failed")


class HopReport:
    """One hop: filled in while it runs, complete when it has ended. A hop to several sinks has an
    outlet for each; those of a sequence share them.

    `moved` counts bytes that the sink took, `lost` those read from a stream and not delivered.
    `waited` holds seconds by what was waited for: source, sink, rate limit.
    """

    def __init__(self, source: str, sink: str, plan: HopPlan, expected: int | None = None):
        self.source = source
        self.sink = sink
        self.plan = plan
        self.expected = expected
        self.moved = 0
        self.lost = 0
        self.mover = ""
        self.bytes_by_mover: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.fallbacks: list[Fallback] = []
        self.notes: list[str] = []
        self.waited: dict[str, float] = {}
        self.waits: tuple[str, float] | None = None  # for what, and since when (time.monotonic)
        self.seconds = 0.0
        self.complete = False
        self.outlets: list[OutletReport] = []
        self.ends: tuple[str, tuple[str, ...]] = ("", ())  # source and sinks, by their nodes

    def waited_until(self, now: float) -> dict[str, float]:
        """Return `waited` with the time that it has been waiting for by now."""
        waits = self.waits
        if waits is None:
            return dict(self.waited)
        cause, since = waits
        return self.waited | {cause: self.waited.get(cause, 0.0) + max(0.0, now - since)}

    def end_wait(self, now: float) -> None:
        """Add the time that it has waited."""
        self.waited, self.waits = self.waited_until(now), None


class ProcessReport:
    """A child: the node that it is, and how it ended."""

    def __init__(self, node: str, process: Process):
        self.node = node
        self.name = process.name
        self.pid = process.pid
        self._process = process

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.status


class Report:
    """A whole run."""

    def __init__(self) -> None:
        self.hops: list[HopReport] = []
        self.processes: list[ProcessReport] = []
        self.resources = Resources(0, 0, 0, 0, 0)

    @property
    def moved(self) -> int:
        """Bytes that the sinks took, over all hops."""
        return sum(hop.moved for hop in self.hops)


class Meter:
    """Measures the resources between its making and `read`."""

    def __init__(self) -> None:
        self._before = self._now()

    def read(self) -> Resources:
        """Return what was used since."""
        before, now = self._before, self._now()
        seconds, user, system, voluntary, involuntary = (
            after - earlier for after, earlier in zip(now, before, strict=True)
        )
        return Resources(seconds, user, system, int(voluntary), int(involuntary))

    @staticmethod
    def _now() -> tuple[float, float, float, int, int]:
        import resource
        import time

        used = resource.getrusage(resource.RUSAGE_SELF)
        now = time.monotonic()
        return now, used.ru_utime, used.ru_stime, used.ru_nvcsw, used.ru_nivcsw
