"""Pipes that are borrowed while bytes are in them: an idle connection holds none.

A pipe comes back empty, or it is closed. There is a bound on those that are out, from the
process's fds and the user's pipe pages; past it nobody waits: the relay reads and writes instead.
"""

from __future__ import annotations

import os
import resource

from zpipe.kernel.pipes import Pipe, buffered

_KEPT = 32  # free ones that stay open
_ENOUGH = 32 << 10  # a pipe of two pages is what the kernel gives past the user's quota
_SOFT_PAGES = "/proc/sys/fs/pipe-user-pages-soft"
_PAGE = 4096


class Pool:
    """Pipes of one capacity; `borrowed` are out, `kept` wait. `most` bounds those that are out."""

    def __init__(self, capacity: int, most: int | None = None):
        self._capacity = capacity
        self._enough = min(_ENOUGH, capacity)
        self._free: list[Pipe] = []
        self._most = _bound(capacity) if most is None else most
        self.borrowed = 0

    @property
    def kept(self) -> int:
        """Return how many empty pipes wait to be borrowed."""
        return len(self._free)

    def take_like(self, pipe: Pipe, count: int) -> list[Pipe] | None:
        """Return so many empty pipes that hold whatever this one does; None: there are none."""
        taken: list[Pipe] = []
        for _ in range(count):
            other = self.take()
            if other is not None:
                taken.append(other)
            if other is None or other.capacity < pipe.capacity:
                for one in taken:
                    self.give_back(one)
                return None
        return taken

    def take(self, *, beyond: bool = False) -> Pipe | None:
        """Return an empty pipe, `beyond` the bound if need be; None: there is none to be had."""
        if self._free:
            self.borrowed += 1
            return self._free.pop()
        if self.borrowed >= self._most and not beyond:
            return None
        try:
            pipe = Pipe(self._capacity)
        except OSError:
            return None
        if pipe.capacity < self._enough and not beyond:
            pipe.close()
            return None
        self.borrowed += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back an empty pipe."""
        self.borrowed -= 1
        # two that are to be filled from one another must have the same capacity
        if len(self._free) < _KEPT and (not self._free or self._free[-1].capacity == pipe.capacity):
            self._free.append(pipe)
        else:
            pipe.close()

    def take_back(self, pipe: Pipe) -> None:
        """Take back a pipe that somebody else has had, who may have left bytes in it."""
        if buffered(pipe.reader):
            self.discard(pipe)
        else:
            self.give_back(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Take back a pipe in which bytes are left."""
        self.borrowed -= 1
        pipe.close()

    def close(self) -> None:
        """Close the free ones."""
        while self._free:
            self._free.pop().close()


def _bound(capacity: int) -> int:
    """Return how many pipes may be out: a quarter of the fds, and half of the user's pages."""
    fds, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if fds == resource.RLIM_INFINITY else fds // 8
    if os.geteuid() != 0:
        try:
            with open(_SOFT_PAGES) as file:
                pages = int(file.read())
        except (OSError, ValueError):
            pages = 16384
        if pages:
            most = min(most, max(4, pages // 2 // (capacity // _PAGE or 1)))
    return max(2, most)
