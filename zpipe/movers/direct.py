"""Past the page cache: O_DIRECT on either side or both, reading and writing overlapped.

A disk side works in a thread of its own, or in the caller's where the other side is a disk too; a
stream side always stays with the caller, who can wait for it. Buffers are page-aligned and go
round between the two. What is not aligned, the tail of a file, is written with O_DIRECT cleared.
"""

from __future__ import annotations

import os
import threading
from queue import Empty, SimpleQueue

from zpipe.kernel.direct import ASSUMED_ALIGNMENT, aligned_buffer, set_direct
from zpipe.kernel.errnos import DIRECT_REFUSED
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
    refuse,
    start,
)
from zpipe.movers.cost import MIB, dma

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

BUFFER = 2 << 20
COUNT = 4
_NO_DEVICE = frozenset({"tmpfs", "ramfs", "proc", "sysfs"})


class DirectFile:
    """One side on disk, with O_DIRECT set while its offsets and lengths are aligned."""

    def __init__(self, port: OpenFd, position: int):
        self.fd = port.fd
        self.align = port.facts.align or ASSUMED_ALIGNMENT
        self.position = position
        self._was = port.facts.direct and not port.facts.owned
        self.on = False

    def begin(self) -> None:
        """Set O_DIRECT. Raises: OSError  EINVAL: the filesystem has none."""
        set_direct(self.fd, True)
        self.on = True

    def read(self, buffer: memoryview, count: int) -> int:
        """Read up to `count` bytes at the position; an unaligned rest is read whole, then cut."""
        room = min(len(buffer), -(-count // self.align) * self.align)
        if self.on and self.position % self.align:
            self.end()  # a read came short in the middle: the rest goes through the cache
        got = os.preadv(self.fd, [buffer[:room]], self.position)
        got = min(got, count)
        self.position += got
        return got

    def write(self, data: memoryview) -> int:
        """Write once at the position; clear O_DIRECT where the data or position is not aligned."""
        if self.on:
            whole = len(data) - len(data) % self.align
            if self.position % self.align or not whole:
                self.end()
            else:
                data = data[:whole]
        done = os.pwrite(self.fd, data, self.position)
        self.position += done
        return done

    def end(self) -> None:
        """Leave the flag as it was found, for an fd that is not ours; else cleared."""
        if self.on:
            set_direct(self.fd, False)
            self.on = False

    def restore(self) -> None:
        """Put an inherited fd's flag back, and the position where the transfer ended."""
        self.end()
        if self._was:
            set_direct(self.fd, True)
        os.lseek(self.fd, self.position, os.SEEK_SET)


class Ring:
    """Aligned buffers that go round: free ones, and filled ones with their byte counts."""

    def __init__(self) -> None:
        self.free: SimpleQueue[memoryview | None] = SimpleQueue()
        self.full: SimpleQueue[tuple[memoryview, int] | MoveFault | None] = SimpleQueue()
        for _ in range(COUNT):
            self.free.put(memoryview(aligned_buffer(BUFFER)))


class FromDisk(Transfer):
    """A thread reads ahead from a file; the caller writes, to a file or a stream."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None, direct: tuple[bool, bool]):
        super().__init__(source, sink, limit)
        self._from = DirectFile(source, source.facts.position or 0)
        self._to: DirectFile | None = None
        if sink.facts.on_disk and not sink.facts.append:
            self._to = DirectFile(sink, os.lseek(sink.fd, 0, os.SEEK_CUR))
        self._first = self._from.position
        self._rest = memoryview(b"")
        self._whole: memoryview | None = None
        self._done = False
        refused = _set_direct(self, (self._from, direct[0]), (self._to, direct[1]))
        if refused is not None:
            raise refused
        self._ring = Ring()
        self._reads = 0
        self._stop = False
        self._reader = threading.Thread(target=self._read_ahead, daemon=True)
        try:
            start(self._reader)
        except OSError:
            self._restore()
            raise

    @property
    def held(self) -> int:
        return max(0, self._from.position - self._first - self.delivered)

    def step(self, allowance: int) -> Step:
        if not self._rest:
            fault = self._next()
            if fault is not None:
                return self.refused(fault.call, fault.error, DIRECT_REFUSED, fault.side)
            if self._done:
                return ENDED
        data = self._rest[: max(allowance, ASSUMED_ALIGNMENT)]
        try:
            if self._to is not None:
                self.calls["pwrite"] += 1
                moved = self._to.write(data)
            else:
                self.calls["write"] += 1
                moved = os.write(self.sink.fd, data)
        except BlockingIOError:
            return WAIT_SINK
        except OSError as error:
            to = self._to
            if self.delivered and to is not None and to.on and error.errno in DIRECT_REFUSED:
                # EINVAL of a length that a limit has cut: the page cache tells the true reason
                to.end()
                return self.step(allowance)
            return self.refused("pwrite(O_DIRECT)", error, DIRECT_REFUSED, "sink")
        self._rest = self._rest[moved:]
        self.delivered += moved
        if not self._rest and self._whole is not None:
            self._ring.free.put(self._whole)
            self._whole = None
        return Moved(moved)

    def close(self) -> None:
        if self._reader.is_alive() or not self._stop:
            self._stop = True
            self._ring.free.put(None)
            self._reader.join()
            self._restore()

    def _restore(self) -> None:
        self._from.position = self._first + self.delivered
        self._from.restore()
        if self._to is not None:
            self._to.restore()

    def _next(self) -> MoveFault | None:
        """Take the next filled buffer, note the end, or return what the reader ran into."""
        if self._done:
            return None
        item = self._ring.full.get()
        self.calls["preadv"] = self._reads
        if isinstance(item, MoveFault):
            self._done = True
            return item
        if item is None:
            self._done = True
            return None
        self._whole, count = item
        self._rest = self._whole[:count]
        return None

    def _read_ahead(self) -> None:
        left = self.limit
        while not self._stop and (left is None or left > 0):
            buffer = self._ring.free.get()
            if buffer is None:
                return
            try:
                self._reads += 1
                got = self._from.read(buffer, BUFFER if left is None else min(left, BUFFER))
            except OSError as error:
                self._ring.full.put(MoveFault("preadv(O_DIRECT)", "source", error))
                return
            if got == 0:
                break
            if left is not None:
                left -= got
            self._ring.full.put((buffer, got))
        self._ring.full.put(None)


class ToDisk(Transfer):
    """The caller reads a stream; a thread writes to a file."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        self._to = DirectFile(sink, os.lseek(sink.fd, 0, os.SEEK_CUR))
        refused = _set_direct(self, (None, False), (self._to, True))
        if refused is not None:
            raise refused
        self._ring = Ring()
        self._buffer: memoryview | None = None
        self._filled = 0
        self._taken = 0
        self._at_work = 0  # buffers that the writer has
        self._ended = False
        self._ready = not source.facts.may_block
        self._written: SimpleQueue[tuple[int, MoveFault | None]] = SimpleQueue()
        self._writes = 0
        self._closed = False
        self._writer = threading.Thread(target=self._write_behind, daemon=True)
        try:
            start(self._writer)
        except OSError:
            self._to.restore()
            raise

    @property
    def held(self) -> int:
        return self._taken - self.delivered

    def step(self, allowance: int) -> Step:
        done = self._collect(wait=self._at_work == COUNT or (self._ended and self._at_work > 0))
        if done:
            return Moved(done)
        if self._ended:
            return ENDED
        if self._buffer is None:
            self._buffer = self._ring.free.get()
            self._filled = 0
        assert self._buffer is not None
        room = min(BUFFER - self._filled, max(1, allowance))
        if self.limit is not None:
            room = min(room, self.limit - self._taken)
        got = 0
        if room > 0:
            if not self._ready:
                self._ready = True
                return WAIT_SOURCE
            free = self._buffer[self._filled : self._filled + room]
            try:
                if self.source.facts.may_block and self.source.facts.is_socket:
                    from zpipe.kernel.network import receive_without_waiting

                    self.calls["recvfrom"] += 1
                    got = receive_without_waiting(self.source.fd, free)
                else:
                    self.calls["readv"] += 1
                    got = os.readv(self.source.fd, [free])
            except BlockingIOError:
                return WAIT_SOURCE
            except OSError as error:
                raise MoveFault("readv", "source", error) from error
            self._ready = not self.source.facts.may_block
        self._filled += got
        self._taken += got
        self._ended = got == 0
        if self._filled == BUFFER or (self._ended and self._filled):
            self._ring.full.put((self._buffer, self._filled))
            self._at_work += 1
            self._buffer = None
        return Moved(0)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._ring.full.put(None)
            self._writer.join()
            self._to.restore()
            while not self._written.empty():
                self.delivered += self._written.get()[0]

    def _collect(self, *, wait: bool) -> int:
        """Return the bytes of buffers that have been written since; sleep for one if asked."""
        total = 0
        while self._at_work:
            try:
                done, fault = self._written.get(block=wait)
            except Empty:
                break
            wait = False
            self._at_work -= 1
            self.calls["pwrite"] = self._writes
            self.delivered += done
            total += done
            if fault is not None:
                raise fault
        return total

    def _write_behind(self) -> None:
        while True:
            item = self._ring.full.get()
            if item is None or isinstance(item, MoveFault) or self._closed:
                return
            buffer, count = item
            rest = buffer[:count]
            while rest:
                try:
                    self._writes += 1
                    rest = rest[self._to.write(rest) :]
                except OSError as error:
                    if self._to.on and error.errno in DIRECT_REFUSED:
                        # what was read from a stream must arrive: through the cache, then
                        self._to.end()
                        self.notes.append(f"O_DIRECT refused: {os.strerror(error.errno or 0)}")
                        continue
                    fault = MoveFault("pwrite(O_DIRECT)", "sink", error)
                    self._written.put((count - len(rest), fault))
                    return
            self._ring.free.put(buffer)
            self._written.put((count, None))


def _set_direct(
    transfer: Transfer, source: tuple[DirectFile | None, bool], sink: tuple[DirectFile | None, bool]
) -> OSError | None:
    """Set O_DIRECT on the sides that want it; the error when none of them took it."""
    failure: OSError | None = None
    on = []
    for (file, wanted), name in ((source, "source"), (sink, "sink")):
        if file is None or not wanted:
            continue
        try:
            file.begin()
            on.append(name)
        except OSError as error:
            failure = error
            transfer.notes.append(f"no O_DIRECT on the {name}: {os.strerror(error.errno or 0)}")
    if on:
        transfer.notes.append(f"O_DIRECT on the {' and the '.join(on)}")
        return None
    return failure


class Direct(Mover):
    """For what is read or written once and should not push other things out of the page cache."""

    name = "direct"
    summary = "O_DIRECT: the disk's own DMA to and from our buffers, past the page cache"
    syscalls = frozenset({"preadv", "preadv2", "readv", "recvfrom", "write", "pwrite64"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        from_disk, to_disk = _sides(source, sink)
        if not from_disk and not to_disk:
            return refuse("neither side is on a disk")
        if source.size == 0 and source.type == "regular":
            return refuse("the size is 0: empty or virtual")
        if sink.keeps_boundaries or source.keeps_boundaries:
            return refuse("the other side keeps message boundaries")
        if sink.may_block:
            return refuse("the sink blocks, and its flags are not ours to change")
        align = source.align or ASSUMED_ALIGNMENT
        if from_disk and source.position is not None and source.position % align:
            return refuse(f"the offset is not a multiple of {align}")
        return Fit(True)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        from_disk, to_disk = _sides(source, sink)
        copies = (not from_disk) + (not to_disk and not sink.generated)
        return Cost(copies, dma(source, sink), 2 * MIB / BUFFER)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        sides = _sides(source.facts, sink.facts)
        if source.facts.on_disk:
            return FromDisk(source, sink, limit, sides)
        return ToDisk(source, sink, limit)


def _sides(source: FdFacts, sink: FdFacts) -> tuple[bool, bool]:
    """Tell which sides go past the page cache: those that were asked to, else all that can."""
    asked = source.direct or sink.direct
    from_disk = source.on_disk and source.filesystem not in _NO_DEVICE
    to_disk = sink.on_disk and sink.filesystem not in _NO_DEVICE and not sink.append
    if asked:
        return from_disk and source.direct, to_disk and sink.direct
    return from_disk, to_disk


MOVER: Mover = Direct()
