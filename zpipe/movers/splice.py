"""Move through a private pipe: splice in, splice out.

Invariants: the private pipe is refilled only when it is empty, so that EAGAIN from the drain means
"source empty" and nothing else; bytes that cannot be spliced out are read out of the pipe and
written; the pipe never holds more than one drain's bytes, and is closed, never reused.
"""

from __future__ import annotations

from zpipe.kernel.pipes import CAPACITY, Pipe
from zpipe.movers.contract import (
    ENDED,
    Cost,
    Fit,
    Moved,
    Mover,
    Transfer,
    Tuning,
    refuse,
)
from zpipe.movers.cost import MIB, dma, into_pipe, out_of_pipe
from zpipe.movers.drain import PipeDrain
from zpipe.movers.pump import Pump, piece_into
from zpipe.movers.sendfile import by_reference, refused_by_splice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step


class SpliceTransfer(Transfer):
    """Drain the source into the pipe, pump the pipe into the sink, in turns."""

    flushes = True

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None, capacity: int):
        super().__init__(source, sink, limit)
        self._pipe = Pipe(capacity)
        if self._pipe.capacity < capacity:
            self.notes.append(f"the private pipe has {self._pipe.capacity} bytes, not {capacity}")
        self._drain = PipeDrain(source, self._pipe, self.calls)
        self._pump = Pump(sink, self._pipe.reader, self.calls)

    @property
    def held(self) -> int:
        return self._pump.held

    def close(self) -> None:
        self._pipe.close()

    def step(self, allowance: int) -> Step:
        pump = self._pump
        if not pump.in_pipe and not pump.rest:
            if pump.refusal is not None:
                return pump.refusal
            count = self.left(allowance)
            if count <= 0:
                return ENDED
            taken = self._drain.take(count)
            if not isinstance(taken, int):
                return taken
            pump.in_pipe = taken
        moved = pump.push()
        if not isinstance(moved, int):
            return moved
        self.delivered += moved
        return Moved(moved)


class Splice(Mover):
    """Any two ends that the kernel can splice, through a pipe of our own."""

    name = "splice"
    summary = "splice through a private pipe: references move from source to pipe to sink"
    syscalls = frozenset({"splice"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if source.type == "regular" and source.size == 0:
            return refuse("the size is 0: empty or virtual")
        if source.keeps_boundaries:
            return refuse("the source keeps message boundaries, which splice loses")
        if source.type == "other":
            return refuse("the kind of source has no splice")
        if source.device == (1, 3):
            return refuse("/dev/null answers splice with EINVAL; a read of it ends at once")
        if source.on_disk and source.direct:
            return refuse("the source wants aligned reads (O_DIRECT)")
        if why := refused_by_splice(sink):
            return refuse(why)
        return by_reference(source, sink)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        copies = into_pipe(source) + out_of_pipe(sink)
        once = _per_drain(source, sink)
        calls = MIB / once + MIB / min(once, piece_into(sink))
        return Cost(copies, dma(source, sink), calls)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return SpliceTransfer(source, sink, limit, tuning.pipe_size or CAPACITY)


def _per_drain(source: FdFacts, sink: FdFacts) -> int:
    """Return the bytes that one turn moves as a rule: the smallest pipe on the way is the bound."""
    bounds = [facts.capacity for facts in (source, sink) if facts.capacity]
    return min([CAPACITY, *bounds])


MOVER: Mover = Splice()
