"""Move through a private pipe: splice in, splice out.

Invariants: the private pipe is refilled only when it is empty, so that EAGAIN from the drain means
"source empty" and nothing else; bytes that cannot be spliced out are read out of the pipe and
written; the pipe never holds more than one drain's bytes, and is closed, never reused.
"""

from __future__ import annotations

import os

from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.pipes import CAPACITY, Pipe
from zpipe.kernel.transfer import SMALL, splice
from zpipe.movers.contract import (
    ENDED,
    WAIT_SINK,
    WAIT_SOURCE,
    Cost,
    FallBack,
    Fit,
    Moved,
    MoveFault,
    Mover,
    Transfer,
    Tuning,
    refuse,
)
from zpipe.movers.cost import MIB, dma, into_pipe, out_of_pipe
from zpipe.movers.sendfile import by_reference, refused_by_splice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

_COPY = 64 * 1024


class SpliceTransfer(Transfer):
    """Drain the source into the pipe, pump the pipe into the sink, in turns."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None, capacity: int):
        super().__init__(source, sink, limit)
        self._pipe = Pipe(capacity)
        if self._pipe.capacity < capacity:
            self.notes.append(f"the private pipe has {self._pipe.capacity} bytes, not {capacity}")
        self._in_pipe = 0
        self._rest = memoryview(b"")  # bytes on their way by read and write
        self._pumped = False  # the sink has accepted a splice
        self._falling: FallBack | None = None
        self._ended = False
        self._told_ready = False  # the engine was asked to wait for the source, and has

    @property
    def held(self) -> int:
        return self._in_pipe + len(self._rest)

    def close(self) -> None:
        self._pipe.close()

    def step(self, allowance: int) -> Step:
        if self._rest:
            return self._write_rest()
        if self._falling is not None:
            return self._empty_by_copy() if self._in_pipe else self._falling
        if not self._in_pipe:
            if self._ended:
                return ENDED
            step = self._drain(allowance)
            if step is not None:
                return step
        return self._pump()

    def _drain(self, allowance: int) -> Step | None:
        """Fill the empty pipe; None when there is something to pump."""
        count = self.left(min(allowance, self._pipe.capacity))
        if count <= 0:
            return ENDED
        facts = self.source.facts
        if facts.may_block and facts.type != "pipe" and not self._told_ready:
            # a blocking fd that is not ours: only after a poll is it safe to ask
            self._told_ready = True
            return WAIT_SOURCE
        try:
            self.calls["splice"] += 1
            moved = splice(self.source.fd, self._pipe.writer, count)
        except BlockingIOError:
            if self._told_ready and facts.is_socket:
                # readable, the pipe empty, and still nothing: an urgent mark or a record that
                # splice does not pass; one copied step does
                return self._copy_past(count)
            self._told_ready = True
            return WAIT_SOURCE
        except OSError as error:
            return self.refused("splice", error, SPLICE_REFUSED, "source")
        self._told_ready = False
        if moved == 0:
            return self._confirm_end(count)
        self._in_pipe = moved
        return None

    def _pump(self) -> Step:
        if self.sink.facts.may_block and self.sink.facts.type != "pipe" and self._in_pipe:
            # a terminal that could not be opened again: it is written to as it polls ready
            return self._empty_by_copy()
        try:
            self.calls["splice"] += 1
            moved = splice(self._pipe.reader, self.sink.fd, self._in_pipe)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            if not self._pumped and error.errno in SPLICE_REFUSED:
                self._falling = FallBack("splice", error.errno or 0)
                return self._empty_by_copy()
            raise MoveFault("splice", "sink", error) from error
        self._pumped = True
        self._in_pipe -= moved
        self.delivered += moved
        return Moved(moved)

    def _empty_by_copy(self) -> Step:
        """Take what is in the pipe out by read, to be written: the sink refuses splice."""
        self.calls["read"] += 1
        data = os.read(self._pipe.reader, min(self._in_pipe, _COPY))
        self._in_pipe -= len(data)
        self._rest = memoryview(data)
        return self._write_rest() if not self.sink.facts.may_block else WAIT_SINK

    def _copy_past(self, count: int) -> Step:
        """Receive past an urgent mark."""
        from zpipe.kernel.network import receive_without_waiting

        self._told_ready = False
        try:
            self.calls["recvfrom"] += 1
            data = memoryview(bytearray(min(count, _COPY)))
            got = receive_without_waiting(self.source.fd, data)
        except BlockingIOError:
            self._told_ready = True
            return WAIT_SOURCE
        except OSError as error:
            raise MoveFault("recv", "source", error) from error
        if not got:
            self._ended = True
            return ENDED
        self._rest = data[:got]
        return self._write_rest()

    def _write_rest(self) -> Step:
        try:
            self.calls["write"] += 1
            # to a sink that may block: no more than a pipe or terminal that polls ready takes
            data = self._rest[:4096] if self.sink.facts.may_block else self._rest
            moved = os.write(self.sink.fd, data)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            raise MoveFault("write", "sink", error) from error
        self._rest = self._rest[moved:]
        self.delivered += moved
        return Moved(moved)

    def _confirm_end(self, count: int) -> Step:
        """Believe a 0 from splice only when the source has really ended."""
        facts = self.source.facts
        if facts.type in ("tcp", "unix"):
            from zpipe.kernel.network import peek

            try:
                self.calls["recvfrom"] += 1
                ended = not peek(self.source.fd)
            except BlockingIOError:
                ended = False  # a blocking socket at an urgent mark
            except OSError as error:
                raise MoveFault("recv", "source", error) from error
            if not ended:
                return self._copy_past(count)
        elif self.delivered == 0 and not facts.on_disk and facts.type != "pipe":
            # a device may have no more to say about splice than 0
            return FallBack("splice", 0)
        self._ended = True
        return ENDED


class Splice(Mover):
    """Any two ends that the kernel can splice, through a pipe of our own."""

    name = "splice"
    summary = "splice through a private pipe: references move from source to pipe to sink"
    syscalls = frozenset({"splice"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if source.type == "regular" and source.size is not None and source.size <= SMALL:
            if source.size == 0:
                return refuse("the size is 0: empty or virtual")
            return refuse(f"{source.size} bytes are few: read and write are quicker")
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
        return Cost(copies, dma(source, sink), 2 * MIB / _per_drain(source, sink))

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return SpliceTransfer(source, sink, limit, tuning.pipe_size or CAPACITY)


def _per_drain(source: FdFacts, sink: FdFacts) -> int:
    """Return the bytes that one turn moves as a rule: the smallest pipe on the way is the bound."""
    bounds = [facts.capacity for facts in (source, sink) if facts.capacity]
    return min([CAPACITY, *bounds])


MOVER: Mover = Splice()
