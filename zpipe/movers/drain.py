"""The first half of a hop: what a source gives, into a private pipe or into a buffer.

Both are filled only when they are empty, so that EAGAIN means "the source is empty" and nothing
else. Nothing here knows how many sinks there are, or waits for any.
"""

from __future__ import annotations

import os

from zpipe.kernel.direct import aligned_buffer
from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import splice
from zpipe.movers.contract import ENDED, WAIT_SOURCE, FallBack, MoveFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import Counter
    from typing import TypeAlias

    from zpipe.facts import OpenFd
    from zpipe.kernel.pipes import Pipe
    from zpipe.movers.contract import Ended, Wait

    # bytes that were taken, 1 or more; or why there are none
    Taken: TypeAlias = int | Wait | Ended | FallBack

# fits the second-level cache: the copy out finds the bytes where the copy in left them
BUFFER = 256 * 1024
_COPY = 64 * 1024


class PipeDrain:
    """Splices a source into a private pipe. `calls` counts system calls by name."""

    def __init__(self, source: OpenFd, pipe: Pipe, calls: Counter[str]):
        self._source = source
        self._pipe = pipe
        self._calls = calls
        # a blocking fd that is not ours: only after a poll is it safe to ask
        self._polls_first = source.facts.may_block and source.facts.type != "pipe"
        self._taken = 0
        self._ended = False
        self._told_ready = False  # the engine was asked to wait for the source, and has

    def take(self, count: int) -> Taken:
        """Fill the empty pipe with up to `count` bytes.

        Raises: MoveFault  the source failed for good.
        """
        if self._ended:
            return ENDED
        count = min(count, self._pipe.capacity)
        if self._polls_first and not self._told_ready:
            self._told_ready = True
            return WAIT_SOURCE
        try:
            self._calls["splice"] += 1
            moved = splice(self._source.fd, self._pipe.writer, count)
        except BlockingIOError:
            if self._told_ready and self._source.facts.is_socket:
                # readable, the pipe empty, and still nothing: an urgent mark or a record that
                # splice does not pass; one copied step does
                return self._copy_past(count)
            self._told_ready = True
            return WAIT_SOURCE
        except OSError as error:
            if self._taken == 0 and error.errno in SPLICE_REFUSED:
                return FallBack("splice", error.errno or 0)
            raise MoveFault("splice", "source", error) from error
        self._told_ready = False
        if moved == 0:
            return self._confirm_end(count)
        self._taken += moved
        return moved

    def _copy_past(self, count: int) -> Taken:
        """Receive past an urgent mark, and put into the pipe what came."""
        from zpipe.kernel.network import receive_without_waiting

        self._told_ready = False
        try:
            self._calls["recvfrom"] += 1
            data = memoryview(bytearray(min(count, _COPY)))
            got = receive_without_waiting(self._source.fd, data)
        except BlockingIOError:
            self._told_ready = True
            return WAIT_SOURCE
        except OSError as error:
            raise MoveFault("recv", "source", error) from error
        if not got:
            self._ended = True
            return ENDED
        self._calls["write"] += 1
        self._taken += got
        # the pipe is empty, and has room for `count`: it takes all of it
        return os.write(self._pipe.writer, data[:got])

    def _confirm_end(self, count: int) -> Taken:
        """Believe a 0 from splice only when the source has really ended."""
        facts = self._source.facts
        if facts.type in ("tcp", "unix"):
            from zpipe.kernel.network import peek

            try:
                self._calls["recvfrom"] += 1
                ended = not peek(self._source.fd)
            except BlockingIOError:
                ended = False  # a blocking socket at an urgent mark
            except OSError as error:
                raise MoveFault("recv", "source", error) from error
            if not ended:
                return self._copy_past(count)
        elif self._taken == 0 and not facts.on_disk and facts.type != "pipe":
            # a device may have no more to say about splice than 0
            return FallBack("splice", 0)
        self._ended = True
        return ENDED


class BufferDrain:
    """Reads a source into one reused buffer, page-aligned so that O_DIRECT fds take it too."""

    def __init__(self, source: OpenFd, calls: Counter[str], size: int = BUFFER):
        self._source = source
        self._calls = calls
        self._buffer = memoryview(aligned_buffer(size))
        facts = source.facts
        self._polls_first = facts.may_block
        self._whole = facts.keeps_boundaries
        self._by_recv = facts.may_block and facts.is_socket
        self._ready = not self._polls_first
        self.data = self._buffer[:0]

    def take(self, count: int) -> Taken:
        """Read up to `count` bytes, or one whole datagram, into `data`.

        Raises: MoveFault  the source failed.
        """
        if not self._ready:
            self._ready = True
            return WAIT_SOURCE
        # a datagram is taken whole: what does not fit a read is lost
        room = self._buffer if self._whole else self._buffer[:count]
        try:
            if self._by_recv:
                from zpipe.kernel.network import receive_without_waiting

                self._calls["recvfrom"] += 1
                got = receive_without_waiting(self._source.fd, room)
            else:
                self._calls["readv"] += 1
                got = os.readv(self._source.fd, [room])
        except BlockingIOError:
            return WAIT_SOURCE
        except OSError as error:
            raise MoveFault("read", "source", error) from error
        self._ready = not self._polls_first
        if got == 0:
            # an empty datagram is no end; a datagram socket has none
            return WAIT_SOURCE if self._source.facts.type == "datagram" else ENDED
        self.data = self._buffer[:got]
        return got
