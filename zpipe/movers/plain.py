"""Read into a buffer, write from it: works for every pair, and is the last resort."""

from __future__ import annotations

from zpipe.movers.contract import ENDED, Cost, Fit, Moved, Mover, Transfer, Tuning
from zpipe.movers.cost import MIB, by_user, dma
from zpipe.movers.drain import BUFFER, BufferDrain
from zpipe.movers.pump import INTO_DATAGRAM, Pump, piece_into

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step


class PlainTransfer(Transfer):
    """Read into the buffer, write all of it, in turns."""

    flushes = True

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        self._drain = BufferDrain(source, self.calls, min(BUFFER, piece_into(sink.facts)))
        cuts = sink.facts.keeps_boundaries and not source.facts.keeps_boundaries
        self._pump = Pump(sink, -1, self.calls, cuts=cuts)

    @property
    def held(self) -> int:
        return self._pump.held

    def step(self, allowance: int) -> Step:
        pump = self._pump
        if not pump.rest:
            count = self.left(allowance)
            if count <= 0:
                return ENDED
            taken = self._drain.take(count)
            if not isinstance(taken, int):
                return taken
            # a datagram may be longer than what is left of the limit
            pump.rest = self._drain.data[: self.left(taken)]
        moved = pump.push()
        if not isinstance(moved, int):
            return moved
        self.delivered += moved
        return Moved(moved)


class Plain(Mover):
    """Two copies by the CPU and two system calls for each buffer."""

    name = "plain"
    summary = "read and write through a reused buffer; serves every pair"
    syscalls = frozenset({"readv", "recvfrom", "write", "sendto"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if sink.keeps_boundaries and not source.keeps_boundaries:
            return Fit(True, caveat=f"the stream is cut into messages of {INTO_DATAGRAM} bytes")
        if source.keeps_boundaries and not sink.keeps_boundaries:
            return Fit(True, caveat="the boundaries between messages are lost in a stream")
        return Fit(True)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        return Cost(
            by_user(source) + by_user(sink),
            dma(source, sink),
            2 * MIB / min(BUFFER, piece_into(sink)),
        )

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return PlainTransfer(source, sink, limit)


MOVER: Mover = Plain()
