"""Read and write a big file by two threads side by side.

Copying a cached file is bound by one processor's memory copies; two processors with a buffer each
measured 1.2 to 1.5 times the throughput of copy_file_range on two cores, though each byte is
copied twice. Each step is a round of two neighbouring ranges that ends when both are written, so
that what the sink holds between steps is always a prefix. Where the second processor turns out to
be busy with something else, one thread goes on alone for a while, by copy_file_range if the pair
takes it: with no processor to spare, one copy is better than two.
"""

from __future__ import annotations

import os
import time

from zpipe.facts import COPIES_LOCALLY
from zpipe.kernel.direct import aligned_buffer
from zpipe.kernel.transfer import copy_file_range
from zpipe.movers.contract import (
    ENDED,
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

WORTH = 64 << 20  # below this the second thread does not pay for its start and the rounds
RANGE = 16 << 20  # of each thread in a round
BUFFER = 128 * 1024  # of each thread: well within a second-level cache of its own
_BOTH_BUSY = 1.6  # processor seconds per second of a round that two processors have carried
_ALONE = 8  # rounds by one thread before the second one is tried again
_SHARED = 2 << 20  # the smallest round that is worth two threads


class Lane:
    """A buffer and a count of calls for one thread."""

    def __init__(self) -> None:
        self._buffer = memoryview(aligned_buffer(BUFFER))
        self.reads = 0
        self.writes = 0

    def copy(self, src: int, dst: int, begin: int, target: int, count: int) -> tuple[int, object]:
        """Copy a range; return the bytes written and the MoveFault that ended it early, or None."""
        done = 0
        while done < count:
            piece = self._buffer[: min(BUFFER, count - done)]
            try:
                self.reads += 1
                got = os.preadv(src, [piece], begin + done)
            except OSError as error:
                return done, MoveFault("preadv", "source", error)
            if got == 0:
                break
            written = 0
            while written < got:
                try:
                    self.writes += 1
                    written += os.pwrite(dst, piece[written:got], target + done + written)
                except OSError as error:
                    return done + written, MoveFault("pwrite", "sink", error)
            done += got
        return done, None


class ParallelTransfer(Transfer):
    """Rounds of two ranges: the first by the caller's thread, the second by a worker."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        # here: a plan that only considers this mover does not load them
        import threading
        from queue import SimpleQueue

        super().__init__(source, sink, limit)
        self._begin = source.facts.position or 0
        self._target = os.lseek(sink.fd, 0, os.SEEK_CUR)
        self._lanes = (Lane(), Lane())
        self._alone = 0  # rounds that one thread still does without the other
        self._rounds_alone = 0
        self._one_copy = True  # copy_file_range has not refused yet
        self._work: SimpleQueue[tuple[int, int, int] | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[int, object]] = SimpleQueue()
        self._worker = threading.Thread(target=self._serve, daemon=True)
        start(self._worker)

    def step(self, allowance: int) -> Step:
        count = self.left(min(allowance, 2 * RANGE))
        if count <= 0:
            return ENDED
        begin, target = self._begin + self.delivered, self._target + self.delivered
        first = count // 2 if count >= _SHARED and not self._alone else count
        second = count - first
        wall, cpu = time.monotonic(), time.process_time()
        if second:
            self._work.put((begin + first, target + first, second))
        done, fault = self._ranged(first) if self._alone else 0, None
        if not done:
            done, fault = self._lanes[0].copy(self.source.fd, self.sink.fd, begin, target, first)
        if second:
            more, late = self._results.get()
            if done == first:
                done, fault = done + more, late
            both = (time.process_time() - cpu) / (time.monotonic() - wall + 1e-9) > _BOTH_BUSY
            self._alone = 0 if both else _ALONE
        elif self._alone:
            self._alone -= 1
            self._rounds_alone += 1
        self.calls["preadv"] = sum(lane.reads for lane in self._lanes)
        self.calls["pwrite"] = sum(lane.writes for lane in self._lanes)
        self.delivered += done
        os.lseek(self.source.fd, self._begin + self.delivered, os.SEEK_SET)
        end = os.lseek(self.sink.fd, self._target + self.delivered, os.SEEK_SET)
        if done < count and second:
            # the second range may lie beyond a gap: what is left must be a prefix
            os.ftruncate(self.sink.fd, end)
        if isinstance(fault, MoveFault):
            raise fault
        return Moved(done) if done else ENDED

    def _ranged(self, count: int) -> int:
        """Copy inside the kernel at the fds' own positions; 0: a lane has to, or tells why not."""
        if not self._one_copy:
            return 0
        try:
            self.calls["copy_file_range"] += 1
            moved = copy_file_range(self.source.fd, self.sink.fd, count)
        except OSError:
            moved = 0
        self._one_copy = moved > 0
        return moved

    def close(self) -> None:
        if self._worker.is_alive():
            self._work.put(None)
            self._worker.join()
            if self._rounds_alone:
                self.notes.append(
                    f"{self._rounds_alone} rounds by one thread: the other processor was busy"
                )

    def _serve(self) -> None:
        while (task := self._work.get()) is not None:
            begin, target, count = task
            self._results.put(
                self._lanes[1].copy(self.source.fd, self.sink.fd, begin, target, count)
            )


class Parallel(Mover):
    """More CPU than one thread, less time."""

    name = "parallel"
    summary = "two threads read and write neighbouring ranges of a big file"
    # os.preadv is either of the first two; the last is for rounds by one thread
    syscalls = frozenset({"preadv", "preadv2", "pwrite64", "copy_file_range"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if source.type != "regular" or sink.type != "regular":
            return refuse("only between regular files")
        if sink.append:
            return refuse("the sink appends (O_APPEND)")
        if not sink.fresh:
            return refuse("the sink holds data already, which a failure must not reorder")
        if source.direct or sink.direct:
            return refuse("O_DIRECT is set")
        if (source.size or 0) < WORTH:
            return refuse(f"below {WORTH >> 20} MiB one thread is enough")
        if source.has_holes:
            return refuse("the source has holes, which would be filled")
        for facts in (source, sink):
            if facts.filesystem not in COPIES_LOCALLY:
                return refuse(f"{facts.filesystem or 'this filesystem'} may copy better by itself")
        if len(os.sched_getaffinity(0)) < 2:
            return refuse("only one processor may be used")
        return Fit(True)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        return Cost(2, dma(source, sink), 2 * MIB / BUFFER)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return ParallelTransfer(source, sink, limit)


MOVER: Mover = Parallel()
