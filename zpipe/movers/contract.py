"""What every mover offers, and the steps in which a transfer moves.

`step` never waits for another process: it says what it needs, and the engine sleeps. A regular
file or block device counts as never "not ready". A fallback is offered only while the mover's own
call has delivered nothing; bytes that it holds by then are pushed on first, so that the next mover
begins at the fds' own positions with nothing in between.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from errno import EAGAIN

from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread
    from typing import Literal, TypeAlias

    from zpipe.facts import FdFacts, OpenFd

    Side: TypeAlias = Literal["source", "sink"]


class Moved:
    """`count` bytes were taken by the sink."""

    __slots__ = ("count",)

    def __init__(self, count: int):
        self.count = count


class Wait(Value):
    """Nothing can be done until that end is ready."""

    side: Side


class Ended(Value):
    """The source has ended, or the limit is reached, and the sink has taken everything."""


class FallBack(Value):
    """`call` refused this pair with `errno`; 0: it moved nothing where there was something."""

    call: str
    errno: int


if TYPE_CHECKING:
    Step: TypeAlias = Moved | Wait | Ended | FallBack

ENDED = Ended()
WAIT_SOURCE = Wait("source")
WAIT_SINK = Wait("sink")


class MoveFault(Exception):
    """A call failed where another mover would fail too. `side` is None where it cannot be told."""

    def __init__(self, call: str, side: Side | None, error: OSError):
        super().__init__(call, side, error)
        self.call = call
        self.side = side
        self.error = error


class Fit(Value):
    """Whether a mover can serve a pair as far as facts tell; `why` not; a `caveat` if it does.

    `slower`: it can, and another one is quicker for a reason that can be told: it is chosen only
    where it is asked for by name, or where nothing else is left.
    """

    ok: bool
    why: str = ""
    caveat: str = ""
    by_reference: bool = False  # the sink may see what is written to the source later
    slower: str = ""


def refuse(why: str) -> Fit:
    """Return the answer of a mover that does not fit."""
    return Fit(False, why)


class Cost(Value):
    """What one byte costs, by the model of cost.py; not a measurement.

    CPU copies are memory copies by a processor, DMA copies are transfers by a device. Switches are
    changes between user and kernel mode, two for each system call: what textbooks call context
    switches.
    """

    cpu_copies: float
    dma_copies: float
    syscalls_per_mib: float

    @property
    def switches_per_mib(self) -> float:
        return 2 * self.syscalls_per_mib


class Tuning(Value):
    """What a hop asks of its mover. `pipe_size` in bytes, None: as large as is useful."""

    pipe_size: int | None = None
    stable: bool = False


class Transfer(ABC):
    """One hop under way by one mover.

    `limit` is the most that may still be moved, None: until the source ends. `calls` counts
    system calls by name, `delivered` the bytes that the sink took through this transfer.
    `flushes`: with an allowance of 0, `step` delivers what is held and takes nothing more.
    """

    flushes = False

    def __init__(self, source: OpenFd, sink: OpenFd, limit: int | None):
        self.source = source
        self.sink = sink
        self.limit = limit
        self.delivered = 0
        self.calls: Counter[str] = Counter()
        self.notes: list[str] = []

    @abstractmethod
    def step(self, allowance: int) -> Step:
        """Move once, about `allowance` bytes at the most; granules of blocks may exceed it.

        Raises: MoveFault  a call failed for good.
        """

    @property
    def held(self) -> int:
        """Bytes that were taken from the source and that the sink has not taken yet."""
        return 0

    def close(self) -> None:
        """Release what the transfer holds, except the two fds. May be called twice."""

    def left(self, allowance: int) -> int:
        """Return how many bytes may still be delivered, bounded by `allowance`."""
        return allowance if self.limit is None else min(allowance, self.limit - self.delivered)

    def refused(
        self, call: str, error: OSError, refusals: frozenset[int], side: Side | None
    ) -> FallBack:
        """Return the fallback where nothing was delivered yet and the errno allows it; else raise.

        Raises: MoveFault  the error is final.
        """
        number = error.errno or 0
        if self.delivered == 0 and number in refusals:
            return FallBack(call, number)
        raise MoveFault(call, side, error)


def start(thread: Thread) -> None:
    """Start a transfer's thread. Raises: OSError  EAGAIN: no more threads can be had."""
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(EAGAIN, str(error)) from error


class Mover(ABC):
    """A way of carrying bytes. `syscalls` is its claim of what carries the bulk."""

    name: str
    summary: str
    syscalls: frozenset[str]

    @abstractmethod
    def fits(self, source: FdFacts, sink: FdFacts) -> Fit:
        """Judge a pair by its facts alone; the system call has the last word."""

    @abstractmethod
    def cost(self, source: FdFacts, sink: FdFacts) -> Cost:
        """Return the model's cost for this pair."""

    @abstractmethod
    def begin(self, source: OpenFd, sink: OpenFd, limit: int | None, tuning: Tuning) -> Transfer:
        """Begin a transfer at the fds' own positions.

        Raises: OSError  what it needs cannot be had (EMFILE for a pipe); the next mover may do.
        """
