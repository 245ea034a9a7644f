"""Read into a buffer, write from it: works for every pair, and is the last resort."""

from __future__ import annotations

import os

from zpipe.kernel.direct import aligned_buffer
from zpipe.movers.contract import (
    ENDED,
    WAIT_SINK,
    WAIT_SOURCE,
    Cost,
    Fit,
    Moved,
    MoveFault,
    Mover,
    Transfer,
    Tuning,
)
from zpipe.movers.cost import MIB, by_user, dma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

# fits the second-level cache: the copy out finds the bytes where the copy in left them
BUFFER = 256 * 1024
_INTO_DATAGRAM = 1400  # of a stream: fits an Ethernet frame, whatever the network protocol
_WHILE_READY = 4096  # what a pipe or terminal that polls writable takes without sleeping


class PlainTransfer(Transfer):
    """One reused buffer, page-aligned so that O_DIRECT fds take it too."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        self._buffer = memoryview(aligned_buffer(BUFFER))
        self._rest = self._buffer[:0]
        self._ready_source = not source.facts.may_block
        self._ready_sink = not sink.facts.may_block

    @property
    def held(self) -> int:
        return len(self._rest)

    def step(self, allowance: int) -> Step:
        if not self._rest:
            step = self._read(allowance)
            if step is not None:
                return step
        return self._write()

    def _read(self, allowance: int) -> Step | None:
        count = self.left(min(allowance, BUFFER))
        if count <= 0:
            return ENDED
        facts = self.source.facts
        if not self._ready_source:
            self._ready_source = True
            return WAIT_SOURCE
        # a datagram is taken whole: what does not fit a read is lost
        room = BUFFER if facts.keeps_boundaries else count
        try:
            if facts.may_block and facts.is_socket:
                from zpipe.kernel.network import receive_without_waiting

                self.calls["recvfrom"] += 1
                got = receive_without_waiting(self.source.fd, self._buffer[:room])
            else:
                self.calls["readv"] += 1
                got = os.readv(self.source.fd, [self._buffer[:room]])
        except BlockingIOError:
            return WAIT_SOURCE
        except OSError as error:
            raise MoveFault("read", "source", error) from error
        self._ready_source = not facts.may_block
        if got == 0:
            # an empty datagram is no end; a datagram socket has none
            return WAIT_SOURCE if facts.type == "datagram" else ENDED
        if self.limit is not None:
            got = min(got, self.limit - self.delivered)
        self._rest = self._buffer[:got]
        return None

    def _write(self) -> Step:
        facts = self.sink.facts
        data = self._rest
        if not self._ready_sink:
            self._ready_sink = True
            return WAIT_SINK
        if facts.keeps_boundaries and not self.source.facts.keeps_boundaries:
            data = data[:_INTO_DATAGRAM]
        elif facts.may_block and not facts.is_socket:
            data = data[:_WHILE_READY]
        try:
            if facts.may_block and facts.is_socket:
                from zpipe.kernel.network import send_without_waiting

                self.calls["sendto"] += 1
                moved = send_without_waiting(self.sink.fd, data)
            else:
                self.calls["write"] += 1
                moved = os.write(self.sink.fd, data)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            raise MoveFault("write", "sink", error) from error
        self._ready_sink = not facts.may_block
        self._rest = self._rest[moved:]
        self.delivered += moved
        return Moved(moved)


class Plain(Mover):
    """Two copies by the CPU and two system calls for each buffer."""

    name = "plain"
    summary = "read and write through a reused buffer; serves every pair"
    syscalls = frozenset({"readv", "recvfrom", "write", "sendto"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if sink.keeps_boundaries and not source.keeps_boundaries:
            return Fit(True, caveat=f"the stream is cut into messages of {_INTO_DATAGRAM} bytes")
        if source.keeps_boundaries and not sink.keeps_boundaries:
            return Fit(True, caveat="the boundaries between messages are lost in a stream")
        return Fit(True)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        return Cost(by_user(source) + by_user(sink), dma(source, sink), 2 * MIB / BUFFER)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return PlainTransfer(source, sink, limit)


MOVER: Mover = Plain()
