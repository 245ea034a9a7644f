"""What every kind of end offers, and what an opened end is.

Opening may have to wait (a connection, a FIFO's other side). Ends do not sleep by themselves:
they ask the waiter they are given, which knows of signals and timeouts.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from zpipe.errors import TransferError, UsageError
from zpipe.facts import FdFacts, OpenFd
from zpipe.units import parse_duration, parse_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from zpipe.graph.check import Way
    from zpipe.graph.model import Endpoint

    T = TypeVar("T")


class Waiter(ABC):
    """The engine's way to sleep, lent to ends while they open and finish.

    `patience` is the stall timeout in seconds, None: for ever.
    """

    patience: float | None = None

    @abstractmethod
    def wait(
        self, fd: int, name: str, act: str, *, write: bool = False, timeout: float | None = None
    ) -> bool:
        """Sleep until `fd` is ready or failed; False when `timeout` seconds passed first.

        Raises: Interrupted   a signal asked for the end.
                StalledError  the stall timeout passed; names `name` and `act`.
        """

    @abstractmethod
    def pause(self, seconds: float, name: str, act: str) -> None:
        """Sleep for a while, where no fd tells when to go on; whoever does so heeds `patience`.

        Raises: Interrupted  a signal asked for the end.
        """

    def say(self, text: str) -> None:
        """Tell the user what cannot wait until the report, such as the port that was chosen."""

    def answer(self, text: str) -> None:
        """Give the user what was asked for, as it is: a digest."""


class Opening(Value):
    """What is asked of an end when it is opened.

    `mode` holds the permission bits for a file that is new; `refuse` is the source's device and
    inode, so that a sink that is the same file is refused before it is truncated.
    """

    waiter: Waiter
    offset: int = 0
    append: bool = False
    inplace: bool = False
    sync: bool = False
    mode: int = 0o666
    refuse: tuple[int, int] | None = None


class Process(ABC):
    """A child of ours. Of one whose input comes from here: `fed`: that has ended; `cut_short`: by
    this signal it ends too early.
    """

    name: str
    pid: int
    fed = False
    cut_short: int | None = None

    @property
    @abstractmethod
    def status(self) -> int | None:
        """How it ended: its exit status, negative for a signal; None: not known yet."""


class End:
    """An opened endpoint. Whoever opens it closes it; `finish` comes first when all went well."""

    def __init__(self, fd: int, name: str, facts: FdFacts, *, limit: int | None = None):
        self.fd = fd
        self.name = name
        self.facts = facts
        self.limit = limit
        self.notes: list[str] = []
        self.quiet_pipe = False  # EPIPE ends the process as it ends cat: standard output
        self.keeps_open = False  # a socket that others may go on with: it is not shut down
        self.provisional = False  # what it took is thrown away unless it is finished
        self.finishes_at_once = False  # `finish` waits for nobody, and cannot fail
        self.waits_for_child = False  # `finish` has something to say also of an end that was cut
        self.process: Process | None = None
        self.room: int | None = None  # bytes until `turn` must be called; None: it never is
        self.parts = 0  # files that are complete and in their place, before this one

    def port(self) -> OpenFd:
        """Return what a mover may see of this end."""
        return OpenFd(self.fd, self.facts, self.name)

    def prepare(self) -> None:
        """Make room for the first byte: what is to be truncated is, now that the plan stands.

        Raises: TransferError  with the kernel's reason.
        """

    def turn(self, waiter: Waiter) -> None:
        """Go on in the next file, now that `room` is used up: `fd`, `facts` and `room` are new.

        Raises: TransferError  the one could not be finished, or the other not be opened.
        """

    def hang_up(self) -> None:
        """Send no more, without waiting for anybody. `finish` may still have something to say."""
        self.close()

    def cut(self) -> None:
        """Give up at once, without waiting for anybody; `close` tidies up later."""
        self.hang_up()

    def abandon(self) -> None:
        """Give up an end that a thread may still be using: its fd number stays taken for good."""
        self.fd = -1

    def last_words(self, waiter: Waiter) -> str:
        """Return what is known of why nobody takes bytes any more, in brackets, or ''."""
        return ""

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        """Make it final: shut down, sync, rename into place, reap the child.

        `complete` is False for a source that was not read to its end.

        Raises: TransferError, VerifyError  the bytes may not have arrived.
        """

    def close(self) -> None:
        """Release everything; what was not finished is discarded. May be called twice."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> End:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EndpointKind(ABC):
    """A kind of end. `form` and `summary` and `options` (name -> meaning) feed the manual; `way`
    tells whether one of it can be read and written at once.
    """

    name: str
    form: str
    summary: str
    options: Mapping[str, str] = {}
    source = True
    sink = True
    way: Way = "once"

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        """Judge the address and the options without touching anything.

        Raises: UsageError  they cannot be meant.
        """

    @abstractmethod
    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        """Open for reading. Raises: TransferError  with the kernel's reason."""

    @abstractmethod
    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        """Open for writing. Raises: TransferError  with the kernel's reason."""

    def open_both(self, endpoint: Endpoint, opening: Opening) -> tuple[End, End]:
        """Open for reading and writing at once, where `way` says so; return source and sink, which
        two threads may use, each its own.

        Raises: TransferError  with the kernel's reason.
        """
        raise NotImplementedError(f"{self.name} is read or written")

    @abstractmethod
    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        """Return the facts that are likely, without connecting, creating or starting anything.

        Raises: TransferError  the end is certain to be refused.
        """


def option(endpoint: Endpoint, name: str, read: Callable[[str], T], default: T) -> T:
    """Return an option's value read by `read`. Raises: UsageError  naming the endpoint."""
    if name not in endpoint.options:
        return default
    try:
        return read(endpoint.options[name])
    except UsageError as error:
        raise UsageError(f"{endpoint.text}: option {name}: {error}") from None


def size_option(endpoint: Endpoint, name: str) -> int | None:
    """Return a size, or None where it is not given."""
    return option(endpoint, name, parse_size, None)


def duration_option(endpoint: Endpoint, name: str, default: float) -> float:
    """Return seconds."""
    return option(endpoint, name, parse_duration, default)


def refuse_offset(endpoint: Endpoint, opening: Opening) -> None:
    """Refuse an offset into a stream. Raises: TransferError."""
    if opening.offset:
        raise TransferError(f"{endpoint.text}: seek to {opening.offset}: a stream has no offsets")


def flag(text: str) -> bool:
    """Read an option that is on or off. Raises: UsageError  neither 1 nor 0."""
    if text not in ("0", "1"):
        raise UsageError(f"{text}: give 1 or 0")
    return text == "1"


def mode(text: str) -> int:
    """Read permission bits in octal. Raises: UsageError  not octal, or more than 7777."""
    if not text or set(text) - set("01234567") or int(text, 8) > 0o7777:
        raise UsageError(f"{text}: not a mode: give octal permission bits like 0640")
    return int(text, 8)
