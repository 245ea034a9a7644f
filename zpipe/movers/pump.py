"""The second half of a hop: what lies in a private pipe, or in a buffer, into one sink.

Never waits for the sink. Nothing here knows where the bytes came from, or of other sinks.
"""

from __future__ import annotations

import os

from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import splice
from zpipe.movers.contract import WAIT_SINK, FallBack, MoveFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import Counter

    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Wait

_COPY = 64 * 1024
INTO_DATAGRAM = 1400  # of a stream: fits an Ethernet frame, whatever the network protocol
_WHILE_READY = 4096  # what a pipe or terminal that polls writable takes without sleeping
_INTO_EXT = 128 * 1024
_WHOLE = 1 << 30


def piece_into(sink: FdFacts) -> int:
    """Return how many bytes one call should put into a sink at the most.

    ext4 caches large writes in folios of their size (Linux 6.16 and later), for which a virtual
    machine whose host takes free memory back has no warm pages: 512 MiB took 0.9 s of the
    processor by 1 MiB at once, and 0.3 s by 128 KiB (6.18).
    """
    return _INTO_EXT if sink.filesystem == "ext4" and sink.type == "regular" else _WHOLE


class Pump:
    """`in_pipe` bytes wait behind `reader`, and `rest` on their way by write.

    `moved` counts what the sink took. `refusal` says that the sink refuses splice; bytes are read
    out of the pipe and written then. `cuts`: the sink keeps boundaries where the source had none.
    """

    def __init__(self, sink: OpenFd, reader: int, calls: Counter[str], *, cuts: bool = False):
        self.sink = sink
        self.reader = reader
        self.in_pipe = 0
        self.rest = memoryview(b"")
        self.moved = 0
        self.refusal: FallBack | None = None
        facts = sink.facts
        self._waits_first = facts.may_block
        # a terminal that could not be opened again is written to as it polls ready; so is a
        # blocking socket that is not ours, by a call that does not wait
        self._by_write = facts.may_block and facts.type != "pipe"
        self._by_send = facts.may_block and facts.is_socket
        self._calls = calls
        self.cuts = cuts
        self._piece = piece_into(facts)
        self._spliced = False  # the sink has accepted a splice
        self._told_ready = False  # the engine was asked to wait for the sink, and has

    @property
    def held(self) -> int:
        return self.in_pipe + len(self.rest)

    def push(self, room: int | None = None) -> int | Wait:
        """Move once, up to `room` bytes; there must be something to move.

        Returns: bytes that the sink took.
        Raises: MoveFault  the sink failed.
        """
        if not self.rest:
            if self.refusal is None and not self._by_write and not self.cuts:
                moved = self._splice(room)
                if moved is not None:
                    return moved
            self._read()
        return self._write(room)

    def _splice(self, room: int | None) -> int | Wait | None:
        """Return None where the sink refuses splice."""
        try:
            self._calls["splice"] += 1
            count = min(self.in_pipe, room or self.in_pipe, self._piece)
            moved = splice(self.reader, self.sink.fd, count)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            if not self._spliced and error.errno in SPLICE_REFUSED:
                self.refusal = FallBack("splice", error.errno or 0)
                return None
            raise MoveFault("splice", "sink", error) from error
        self._spliced = True
        self.in_pipe -= moved
        self.moved += moved
        return moved

    def _read(self) -> None:
        self._calls["read"] += 1
        data = os.read(self.reader, min(self.in_pipe, _COPY))
        self.in_pipe -= len(data)
        self.rest = memoryview(data)

    def _write(self, room: int | None) -> int | Wait:
        if self._waits_first and not self._told_ready:
            self._told_ready = True
            return WAIT_SINK
        data = self.rest if room is None else self.rest[:room]
        if self.cuts:
            data = data[:INTO_DATAGRAM]
        elif self._waits_first and not self._by_send:
            data = data[:_WHILE_READY]
        try:
            if self._by_send:
                from zpipe.kernel.network import send_without_waiting

                self._calls["sendto"] += 1
                moved = send_without_waiting(self.sink.fd, data)
            else:
                self._calls["write"] += 1
                moved = os.write(self.sink.fd, data)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            raise MoveFault("write", "sink", error) from error
        self._told_ready = False
        self.rest = self.rest[moved:]
        self.moved += moved
        return moved
