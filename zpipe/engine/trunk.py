"""Where a round of bytes lies between a source and several sinks: in a pipe, or in a buffer.

A round is taken only when the last one was given away, and given only to branches that are ready.
Into a buffer it is taken only when nobody writes from that buffer any more.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import splice, tee
from zpipe.movers.contract import FallBack
from zpipe.movers.drain import BUFFER, BufferDrain, PipeDrain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from zpipe.engine.branch import Branch
    from zpipe.facts import OpenFd
    from zpipe.kernel.pipes import Pipe
    from zpipe.movers.drain import Taken


class Trunk(ABC):
    """`loaded` bytes of a round are here."""

    name: str
    loaded = 0
    lends = False  # what was given stays here until each branch has written it

    @abstractmethod
    def take(self, count: int) -> Taken:
        """Take up to `count` bytes from the source. Raises: MoveFault."""

    @abstractmethod
    def give(self, branches: Sequence[Branch]) -> FallBack | None:
        """Give the round to each branch; a fallback where the kernel refuses, and nobody has any.

        Raises: OSError  a call failed half-way.
        """


class PipeTrunk(Trunk):
    """In a private pipe, given by tee(2): references, not bytes."""

    def __init__(self, source: OpenFd, pipe: Pipe, calls: Counter[str], name: str):
        self.name = name
        self._pipe = pipe
        self._calls = calls
        self._drain = PipeDrain(source, pipe, calls)

    def take(self, count: int) -> Taken:
        taken = self._drain.take(count)
        if isinstance(taken, int):
            self.loaded = taken
        return taken

    def give(self, branches: Sequence[Branch]) -> FallBack | None:
        *others, last = branches
        count = self.loaded
        for place, branch in enumerate(others):
            assert branch.inlet is not None
            try:
                self._calls["tee"] += 1
                got = tee(self._pipe.reader, branch.inlet.writer, count)
            except OSError as error:
                if place == 0 and error.errno in SPLICE_REFUSED:
                    return FallBack("tee", error.errno or 0)
                raise
            # both are ours, of one capacity, and the other one is empty: it has a slot for each
            assert got == count, f"tee gave {got} of {count} bytes"
            branch.count(got)
        assert last.inlet is not None
        while self.loaded:
            self._calls["splice"] += 1
            moved = splice(self._pipe.reader, last.inlet.writer, self.loaded)
            self.loaded -= moved
        last.count(count)
        return None

    def empty(self) -> bytes:
        """Return what is here, read out."""
        data = b""
        while self.loaded > len(data):
            self._calls["read"] += 1
            data += os.read(self._pipe.reader, self.loaded - len(data))
        self.loaded = 0
        return data


class BufferTrunk(Trunk):
    """In a buffer, written to each: for what splice or tee refuse."""

    name = "plain"
    lends = True

    def __init__(self, source: OpenFd, calls: Counter[str], room: int, rescued: bytes = b""):
        # a message is read whole, and goes on whole where there is no stage to pass
        whole = source.facts.keeps_boundaries
        self._drain = BufferDrain(source, calls, BUFFER if whole else min(BUFFER, room))
        self._room = room
        self._rescued = memoryview(rescued)
        self.loaded = len(rescued)

    def take(self, count: int) -> Taken:
        taken = self._drain.take(count)
        if isinstance(taken, int):
            self.loaded = taken
        return taken

    def give(self, branches: Sequence[Branch]) -> None:
        if self._rescued:
            data, self._rescued = self._rescued[: self._room], self._rescued[self._room :]
        else:
            data = self._drain.data[: self.loaded]
            if any(branch.stage is not None for branch in branches) and len(data) > self._room:
                self._rescued = data[self._room :]
                data = data[: self._room]
        for branch in branches:
            branch.lend(data)
        self.loaded -= len(data)
