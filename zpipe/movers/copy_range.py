"""Copy inside the kernel between regular files: copy_file_range, holes kept."""

from __future__ import annotations

import os

from zpipe.kernel import holes
from zpipe.kernel.errnos import COPY_RANGE_REFUSED
from zpipe.kernel.transfer import CHUNK, copy_file_range
from zpipe.movers.contract import (
    ENDED,
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
from zpipe.movers.cost import MIB, dma, few

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step


class CopyRangeTransfer(Transfer):
    """Segment after segment of data; holes are sought over and stay holes in a new target."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        self._sparse = source.facts.has_holes and sink.facts.fresh
        self._data_left = 0  # of the data segment at hand
        self._copied = False  # the call has served once; holes are sought over without it

    def step(self, allowance: int) -> Step:
        count = self.left(min(allowance, CHUNK))
        if count <= 0:
            return ENDED
        if self._sparse and not self._data_left:
            skipped = self._next_segment()
            if skipped:
                return Moved(skipped)
            count = self.left(count)
        if self._sparse:
            count = min(count, self._data_left)
        try:
            self.calls["copy_file_range"] += 1
            moved = copy_file_range(self.source.fd, self.sink.fd, count)
        except OSError as error:
            if self._copied or error.errno not in COPY_RANGE_REFUSED:
                raise MoveFault("copy_file_range", None, error) from error
            return FallBack("copy_file_range", error.errno or 0)
        if moved == 0:
            return self._stopped()
        self._copied = True
        self.delivered += moved
        self._data_left -= moved if self._sparse else 0
        return Moved(moved)

    def _stopped(self) -> Step:
        """Judge a result of 0: the end of the file, or a filesystem that does not really copy."""
        self.calls["pread"] += 1
        if os.pread(self.source.fd, 1, os.lseek(self.source.fd, 0, os.SEEK_CUR)):
            return FallBack("copy_file_range", 0)
        return ENDED

    def _next_segment(self) -> int:
        """Go to the next data; return the bytes of hole that were passed over on the way."""
        here = os.lseek(self.source.fd, 0, os.SEEK_CUR)
        self.calls["lseek"] += 4
        try:
            data = holes.next_data(self.source.fd, here)
            if data is not None:
                self._data_left = holes.next_hole(self.source.fd, data) - data
        except OSError:
            # the filesystem cannot tell: all of it is data
            self._sparse = False
            os.lseek(self.source.fd, here, os.SEEK_SET)
            return 0
        end = os.lseek(self.source.fd, 0, os.SEEK_END)
        if self.limit is not None:
            end = min(end, here + self.limit - self.delivered)
        if data is None or data >= end:
            data = max(here, end)
            self._data_left = 0
        skipped = data - here
        os.lseek(self.source.fd, data, os.SEEK_SET)
        if skipped:
            target = os.lseek(self.sink.fd, skipped, os.SEEK_CUR)
            # nobody writes a hole: the size must say that it is there, also if nothing follows it
            self.calls["ftruncate"] += 1
            os.ftruncate(self.sink.fd, target)
            self.delivered += skipped
        return skipped


class CopyRange(Mover):
    """The filesystem shares, offloads or copies; on ext4 and tmpfs the kernel splices."""

    name = "copy_range"
    summary = "copy_file_range: the kernel copies, or the filesystem or its server does"
    syscalls = frozenset({"copy_file_range"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if source.type != "regular" or sink.type != "regular":
            return refuse("only between regular files")
        if not source.size:
            return refuse("the size is 0: empty or virtual")
        if sink.append:
            return refuse("the sink appends (O_APPEND)")
        if source.filesystem in ("proc", "sysfs"):
            return refuse(f"{source.filesystem} answers 0 bytes")
        if source.identity and sink.identity and source.identity[0] != sink.identity[0]:
            return refuse("source and sink are on different filesystems")
        return Fit(True, slower="" if source.has_holes else few(source))

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        return Cost(1, dma(source, sink), MIB / CHUNK)

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return CopyRangeTransfer(source, sink, limit)


MOVER: Mover = CopyRange()
