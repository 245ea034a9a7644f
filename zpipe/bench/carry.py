"""One transfer: by one of zpipe's movers to one sink, or to several pipes as its engine does.

This is the engine's loop with nothing around it: no rates, no reports, no signals. It waits by
poll(2), gives up when the time is over, and turns a fallback into a refusal, since what is to be
measured is this technique and no other one.
"""

from __future__ import annotations

import select
import time
from collections import Counter
from contextlib import ExitStack

from zpipe.bench.cells import GIB, TECHNIQUES, Route
from zpipe.bench.schedule import Failed, Refused, TooLong
from zpipe.engine.report import Fallback
from zpipe.errors import UsageError, reason
from zpipe.graph.model import Wishes
from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.pipes import CAPACITY, Pipe
from zpipe.kernel.transfer import splice, tee
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, Moved, MoveFault, Tuning, Wait
from zpipe.movers.drain import BufferDrain, PipeDrain
from zpipe.movers.pump import Pump
from zpipe.plan.choice import choose
from zpipe.plan.fan import choose_fan
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Cost, Mover, Side

_UNBOUNDED = 1 << 62
_TUNING = Tuning()
_HOUR = 3600.0


def cost_of(technique: str, route: Route, source: FdFacts, sinks: Sequence[FdFacts]) -> Cost:
    """Return what the plan's model says of a technique for these ends.

    The plan refuses what is small since read and write are quicker then; whether they are is for
    the measurement to show, so that a file is judged as a large one.

    Raises: Refused  the technique cannot serve them.
    """
    known = TECHNIQUES[technique]
    judged = source
    if source.size:
        judged = replace(source, size=max(source.size, GIB), allocated=None)
    if route.several:
        if not known.way:
            raise Refused("serves one sink, not several")
        return choose_fan(judged, sinks, Wishes(via=known.way)).first.cost
    if not known.mover:
        raise Refused("duplicates pipes: it serves several sinks, not one")
    try:
        choose(judged, sinks[0], Wishes(via=known.mover))
    except UsageError as error:
        raise Refused(str(error).partition(": ")[2]) from None
    return mover_of(known.mover).cost(source, sinks[0])


class Carrier:
    """Carries `size` bytes from one end to another, or to several, each time that it is called.

    Raises: Refused, TooLong, Failed
    """

    def __init__(self, technique: str, source: OpenFd, sinks: Sequence[OpenFd], *, several: bool):
        self._source = source
        self._sinks = sinks
        self._end = float("inf")
        self._pollers: dict[tuple[int, int], select.poll] = {}
        known = TECHNIQUES[technique]
        self._mover: Mover | None = None if several else mover_of(known.mover)
        self._fan = {"tee": self._by_tee, "plain": self._by_writes}.get(known.way)

    def until(self, end: float) -> None:
        """Give up when time.monotonic() says so."""
        self._end = end

    def carry(self, sink: OpenFd, size: int) -> Counter[str]:
        """Carry so many bytes to one of the sinks, or to all; return the system calls by name."""
        try:
            if self._mover is not None:
                return self._hop(self._mover, sink, size)
            assert self._fan is not None
            return self._fan(size)
        except MoveFault as fault:
            raise Failed(f"{fault.call}: {reason(fault.error)}") from fault

    def _hop(self, mover: Mover, sink: OpenFd, size: int) -> Counter[str]:
        transfer = mover.begin(self._source, sink, size, _TUNING)
        calls = transfer.calls
        try:
            while True:
                step = transfer.step(_UNBOUNDED)
                kind = type(step)
                if kind is Moved:
                    if time.monotonic() > self._end:
                        raise TooLong
                elif kind is Ended:
                    break
                elif isinstance(step, Wait):
                    self._wait(step.side, sink.fd, calls)
                elif isinstance(step, FallBack):
                    why = Fallback(mover.name, step.call, step.errno, 0).reason
                    raise Refused(f"{step.call}: {why}")
        finally:
            transfer.close()
        if transfer.delivered != size:
            raise Failed(f"{transfer.delivered} bytes were moved, not {size}")
        return calls

    def _wait(self, side: Side, sink: int, calls: Counter[str]) -> None:
        if side == "source":
            self._poll(self._source.fd, select.POLLIN, calls)
        else:
            self._poll(sink, select.POLLOUT, calls)

    def _poll(self, fd: int, events: int, calls: Counter[str]) -> None:
        poller = self._pollers.get((fd, events))
        if poller is None:
            poller = self._pollers[fd, events] = select.poll()
            poller.register(fd, events)
        calls["poll"] += 1
        if not poller.poll(milliseconds(self._end)):
            raise TooLong

    # To several pipes, in the same calls as the engine's fan

    def _by_tee(self, size: int) -> Counter[str]:
        """Double references into a private pipe for each sink; then splice each into its sink."""
        calls: Counter[str] = Counter()
        with ExitStack() as stack:

            def pipe() -> Pipe:
                made = Pipe(CAPACITY)
                stack.callback(made.close)
                return made

            trunk = pipe()
            private = [pipe() for _ in self._sinks]
            drain = PipeDrain(self._source, trunk, calls)
            pumps = [
                Pump(sink, own.reader, calls)
                for sink, own in zip(self._sinks, private, strict=True)
            ]

            def double(count: int) -> None:
                for own in private[:-1]:
                    calls["tee"] += 1
                    _whole("tee", count, lambda own=own: tee(trunk.reader, own.writer, count))  # type: ignore[misc]
                last = private[-1].writer
                calls["splice"] += 1
                _whole("splice", count, lambda: splice(trunk.reader, last, count))
                for pump in pumps:
                    pump.in_pipe = count

            self._rounds(size, drain, pumps, double, calls)
        return calls

    def _by_writes(self, size: int) -> Counter[str]:
        """Read once into a buffer, and write it to each sink."""
        calls: Counter[str] = Counter()
        drain = BufferDrain(self._source, calls)
        pumps = [Pump(sink, -1, calls) for sink in self._sinks]

        def hand_out(count: int) -> None:
            for pump in pumps:
                pump.rest = drain.data

        self._rounds(size, drain, pumps, hand_out, calls)
        return calls

    def _rounds(
        self,
        size: int,
        drain: PipeDrain | BufferDrain,
        pumps: list[Pump],
        share: Callable[[int], None],
        calls: Counter[str],
    ) -> None:
        """Take, share out, and push until all have all of it; as often as it needs."""
        done = 0
        while done < size:
            taken = drain.take(size - done)
            if isinstance(taken, Wait):
                self._poll(self._source.fd, select.POLLIN, calls)
                continue
            if isinstance(taken, FallBack):
                raise Refused(f"{taken.call}: {Fallback('', taken.call, taken.errno, 0).reason}")
            if not isinstance(taken, int):
                raise Failed(f"the source ended after {done} bytes")
            share(taken)
            for pump in pumps:
                while pump.held:
                    if isinstance(pump.push(), Wait):
                        self._poll(pump.sink.fd, select.POLLOUT, calls)
            done += taken
            if time.monotonic() > self._end:
                raise TooLong


def milliseconds(end: float) -> int:
    """Return how long to poll at the most, until time.monotonic() says `end`."""
    return max(0, int(min(end - time.monotonic(), _HOUR) * 1000) + 1)


def _whole(call: str, count: int, act: Callable[[], int]) -> None:
    """Do what must move so many bytes at once, between empty pipes of the same capacity."""
    try:
        moved = act()
    except OSError as error:
        if error.errno in SPLICE_REFUSED:
            raise Refused(f"{call}: {Fallback('', call, error.errno or 0, 0).reason}") from error
        raise Failed(f"{call}: {reason(error)}") from error
    if moved != count:
        raise Failed(f"{call}: {moved} bytes of {count}: the private pipes are not alike")
