"""Map the source and write from the mapping: one CPU copy, and page faults instead of reads.

What makes it safe: the mapping is only ever touched by write(2), which answers a cut file with a
short count or EFAULT, never with SIGBUS. Up to the end of the last page it invents NUL bytes,
though: after each window the size is asked again, and what was invented is cut from a file. A pipe
could not give them back: it is served only while a lease keeps others from cutting the file.
"""

from __future__ import annotations

import errno
import os

from zpipe.kernel.errnos import LEASE_REFUSED, MAP_REFUSED
from zpipe.kernel.lease import Lease
from zpipe.kernel.mapping import PAGE, Window
from zpipe.movers.contract import (
    ENDED,
    WAIT_SINK,
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
from zpipe.movers.cost import MIB, dma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

WINDOW = 4 << 20


class Cut(OSError):
    """The source became shorter than what was mapped of it."""

    def __init__(self, size: int):
        super().__init__(errno.EFAULT, f"the source was cut to {size} bytes while it was read")


class MappedTransfer(Transfer):
    """Window after window, each checked against the size once it is written."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        self._position = source.facts.position or 0
        end = self._position + (source.facts.size or 0)
        self._end = end if limit is None else min(end, self._position + limit)
        self._window: Window | None = None
        self._used = 0  # bytes of the window that are written
        self._lease: Lease | None = None
        self._leased = False
        self._refused_lease = 0
        if source.facts.type == "regular" and not source.facts.stable:
            try:
                self._lease = Lease(source.fd)
                self._leased = True
            except OSError as error:
                if error.errno not in LEASE_REFUSED:
                    raise
                self._refused_lease = error.errno or 0
                self.notes.append(f"no lease on the source: {os.strerror(self._refused_lease)}")
        # a block device cannot be cut, a regular sink can give back, and /dev/null takes nothing;
        # sockets answer EFAULT for a page that is gone, but take the NULs of the last page
        cuttable = source.facts.type == "regular" and not source.facts.stable
        self._must_lease = cuttable and not (sink.facts.type == "regular" or sink.facts.generated)

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def step(self, allowance: int) -> Step:
        if self._must_lease and self._lease is None:
            return FallBack("fcntl(F_SETLEASE)", self._refused_lease)
        if self._lease is not None and self._leased and not self._lease.held():
            # the kernel holds the other one back until we are done, or for lease-break-time
            self._leased = False
            self.notes.append(f"another process asked for the source at byte {self._position}")
        if self._window is None:
            step = self._map(allowance)
            if step is not None:
                return step
        return self._write(allowance)

    def _map(self, allowance: int) -> Step | None:
        count = min(WINDOW, self._end - self._position)
        if count <= 0:
            return ENDED
        size = self._size()
        count = min(count, size - self._position)
        if count <= 0:
            raise MoveFault("mmap", "source", Cut(size))
        try:
            self.calls["mmap"] += 1
            self._window = Window(self.source.fd, self._position, count)
        except OSError as error:
            return self.refused("mmap", error, MAP_REFUSED, "source")
        self._used = 0
        return None

    def _write(self, allowance: int) -> Step:
        window = self._window
        assert window is not None
        count = min(len(window.view) - self._used, max(1, allowance))
        piece = window.view[self._used : self._used + count]
        try:
            self.calls["write"] += 1
            moved = os.write(self.sink.fd, piece)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            size = self._size()
            if error.errno == errno.EFAULT and size < self._position + count:
                raise MoveFault("write", "source", Cut(size)) from error
            raise MoveFault("write", "sink", error) from error
        finally:
            piece.release()
        size = self._size()
        valid = min(moved, max(0, size - self._position))
        if valid < moved and self.sink.facts.type == "regular":
            self._take_back(moved - valid)
        self._advance(valid if self.sink.facts.type == "regular" else moved)
        if valid < moved:
            raise MoveFault("write", "source", Cut(size))
        self._used += moved
        if self._used == len(window.view):
            window.close()
            self._window = None
        return Moved(moved)

    def _advance(self, count: int) -> None:
        self._position += count
        self.delivered += count
        if self.source.facts.position is not None:
            os.lseek(self.source.fd, self._position, os.SEEK_SET)

    def _take_back(self, invented: int) -> None:
        """Cut the NUL bytes that no source ever held from the end of the sink."""
        where = os.SEEK_END if self.sink.facts.append else os.SEEK_CUR
        end = os.lseek(self.sink.fd, -invented, where)
        os.ftruncate(self.sink.fd, end)

    def _size(self) -> int:
        if self.source.facts.type == "block":
            return self._end
        self.calls["fstat"] += 1
        return os.fstat(self.source.fd).st_size


class Mapped(Mover):
    """What textbooks call mmap+write."""

    name = "mapped"
    summary = "mmap+write: the sink copies straight from the page cache; guarded against truncation"
    syscalls = frozenset({"write"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if not source.on_disk:
            # a TCP socket can be mapped too, but means something else by it
            return refuse("only files and block devices can be mapped")
        if not source.size:
            return refuse("the size is 0: empty or virtual")
        if sink.keeps_boundaries:
            return refuse("the sink keeps message boundaries")
        if sink.may_block:
            return refuse("the sink blocks, and its flags are not ours to change")
        if sink.direct:
            return refuse("the sink wants aligned writes (O_DIRECT)")
        if sink.type == "regular":
            return Fit(True)
        return Fit(True, caveat="only while a lease can be had: what is sent cannot be taken back")

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        # map, write, fstat, lseek and unmap for each window, and a fault for each run of 16 pages
        return Cost(1, dma(source, sink), 6 * MIB / WINDOW + MIB / PAGE / 16)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return MappedTransfer(source, sink, limit)


MOVER: Mover = Mapped()
