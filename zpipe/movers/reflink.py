"""Share the blocks of a file instead of copying them: FICLONE, FICLONERANGE."""

from __future__ import annotations

import errno
import os

from zpipe.facts import NEVER_CLONES
from zpipe.kernel.clone import clone, clone_range
from zpipe.kernel.errnos import CLONE_REFUSED
from zpipe.movers.contract import ENDED, Cost, FallBack, Fit, Moved, Mover, Transfer, Tuning, refuse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.facts import FdFacts, OpenFd
    from zpipe.movers.contract import Step

# FICLONERANGE wants multiples of the filesystem's block, 4 KiB everywhere that clones by default
BLOCK = 4096


class ReflinkTransfer(Transfer):
    """One FICLONE for a whole file into an empty one, else FICLONERANGE by ranges."""

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        super().__init__(source, sink, limit)
        facts = source.facts
        self._begin = facts.position or 0
        self._target = os.lseek(sink.fd, 0, os.SEEK_CUR)
        self._count = facts.size or 0
        if limit is not None:
            self._count = min(self._count, limit)
        self._to_end = self._count == facts.size
        self._whole = self._to_end and self._begin == 0 and sink.facts.fresh
        # only the end of the file need not be aligned; nothing is cloned if a rest would be left
        self._aligned = self._to_end or self._count % BLOCK == 0

    def step(self, allowance: int) -> Step:
        left = self._count - self.delivered
        if left == 0:
            return ENDED
        if self._whole and self.delivered == 0 and allowance >= left:
            try:
                self.calls["ioctl(FICLONE)"] += 1
                clone(self.source.fd, self.sink.fd)
            except OSError as error:
                return self.refused("ioctl(FICLONE)", error, CLONE_REFUSED, None)
            return self._advance(left)
        if not self._aligned:
            return FallBack("ioctl(FICLONERANGE)", errno.EINVAL)
        count = min(left, max(BLOCK, allowance - allowance % BLOCK))
        begin, target = self._begin + self.delivered, self._target + self.delivered
        try:
            self.calls["ioctl(FICLONERANGE)"] += 1
            clone_range(self.source.fd, self.sink.fd, begin, count, target)
        except OSError as error:
            return self.refused("ioctl(FICLONERANGE)", error, CLONE_REFUSED, None)
        return self._advance(count)

    def _advance(self, count: int) -> Moved:
        """Clones do not move file positions; those who come after expect them moved."""
        self.delivered += count
        os.lseek(self.source.fd, self._begin + self.delivered, os.SEEK_SET)
        os.lseek(self.sink.fd, self._target + self.delivered, os.SEEK_SET)
        return Moved(count)


class Reflink(Mover):
    """Both files share the same blocks until one of them is written to."""

    name = "reflink"
    summary = "FICLONE: the target shares the source's blocks, copy on write"
    syscalls = frozenset({"ioctl"})

    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        if source.type != "regular" or sink.type != "regular":
            return refuse("only between regular files")
        if not source.size:
            return refuse("the size is 0: empty or virtual")
        if sink.append:
            return refuse("the sink appends (O_APPEND)")
        if not sink.fresh:
            return refuse("the sink holds data already")
        for facts in (source, sink):
            if facts.filesystem in NEVER_CLONES:
                return refuse(f"{facts.filesystem} shares no blocks")
        if source.filesystem != sink.filesystem:
            return refuse("source and sink are on different filesystems")
        if source.position is not None and source.position % BLOCK:
            return refuse(f"the offset is not a multiple of {BLOCK}")
        return Fit(True)

    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        size = max(source.size or 0, 1)
        return Cost(0, 0, min(1.0, (1 << 20) / size))

    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        return ReflinkTransfer(source, sink, limit)


MOVER: Mover = Reflink()
