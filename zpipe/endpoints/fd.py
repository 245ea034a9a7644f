"""Fds that were handed to this process: by number, or by the name socket activation gave them.

Their flags are shared with whoever handed them over, and are never changed. A pipe or a terminal
is opened once more through /proc/self/fd, which gives a description of our own that need not block;
a socket cannot be. A listening socket is accepted from once, and never shut down.
"""

from __future__ import annotations

import os

from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.file import refuse_same, seek
from zpipe.endpoints.gather import gather
from zpipe.errors import TransferError, UsageError, open_failed
from zpipe.facts import FdFacts
from zpipe.kernel import pipes
from zpipe.values import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Waiter
    from zpipe.graph.model import Endpoint

_FIRST_PASSED = 3  # SD_LISTEN_FDS_START


class InheritedEnd(End):
    """An fd of somebody else: closing it is leaving it alone."""

    sync = False
    sends = False  # a sink: its socket is shut down at the end

    def __init__(self, fd: int, name: str, facts: FdFacts, reopened: int = -1):
        super().__init__(reopened if reopened >= 0 else fd, name, facts)
        self._reopened = reopened

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        if self.sync and self.facts.on_disk:
            try:
                os.fsync(self.fd)
            except OSError as error:
                raise open_failed(self.name, "fsync", error) from error
        if self.facts.is_socket and self.sends and not self.keeps_open:
            from zpipe.endpoints import sockets

            sockets.deliver(self.fd, self.name, waiter)

    def close(self) -> None:
        if self._reopened >= 0:
            os.close(self._reopened)
            self._reopened = -1
        self.fd = -1


def open_inherited(fd: int, name: str, opening: Opening, *, sink: bool) -> End:
    """Take an fd as an end. Raises: TransferError  not open, or not for this direction."""
    try:
        facts = gather(fd, owned=False)
    except OSError as error:
        raise open_failed(name, "write" if sink else "read", error) from error
    _refuse_direction(facts, name, sink=sink)
    if facts.is_socket:
        # here, since pipes and files do without what it loads
        from zpipe.endpoints import sockets

        if sockets.listens(fd):
            return sockets.accept(fd, name, opening.waiter, sink=sink)
    if sink and facts.on_disk and facts.identity is not None:
        refuse_same(facts.identity, opening, name)
    if not sink and opening.offset:
        seek(fd, opening.offset, name)
        facts = gather(fd, owned=False)
    if facts.type == "pipe":
        pipes.grow(fd)
        facts = replace(facts, capacity=pipes.get_capacity(fd))
    reopened = -1
    if facts.type in ("pipe", "tty") and not facts.nonblocking:
        reopened = _reopen(fd, sink=sink)
        if reopened >= 0:
            facts = gather(reopened)
    end = InheritedEnd(fd, name, facts, reopened)
    end.sync = opening.sync and sink
    end.sends = sink
    return end


def _refuse_direction(facts: FdFacts, name: str, *, sink: bool) -> None:
    if not (facts.writable if sink else facts.readable):
        act, way = ("write", "writing") if sink else ("read", "reading")
        raise TransferError(f"{name}: {act}: is not open for {way}")
    if facts.type == "directory":
        raise TransferError(f"{name}: read: Is a directory")


def _reopen(fd: int, *, sink: bool) -> int:
    """Open the same pipe or terminal again, without blocking; -1 where that is not allowed."""
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(f"/proc/self/fd/{fd}", flags | (os.O_WRONLY if sink else os.O_RDONLY))
    except OSError:
        # a pipe of another user, no /proc, a terminal that is gone: it is polled before each call
        return -1


def _is_number(endpoint: Endpoint) -> bool:
    return endpoint.address.isascii() and endpoint.address.isdigit()


def _number(endpoint: Endpoint) -> int:
    """Return the fd that an address names, by number or by its socket-activation name."""
    if _is_number(endpoint):
        return int(endpoint.address)
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdigit():
        raise TransferError(f"{endpoint.text}: no fds were passed to this process by name")
    for place, name in enumerate(names[: int(count)]):
        if name == endpoint.address:
            return _FIRST_PASSED + place
    raise TransferError(
        f"{endpoint.text}: no passed fd has this name; passed are {', '.join(names)}"
    )


class Fd(EndpointKind):
    """`fd:N` or `fd:NAME`."""

    name = "fd"
    form = "fd:N, fd:NAME"
    summary = "An fd that this process inherited, by number or by its socket-activation name."

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        if not endpoint.address:
            raise UsageError(f"{endpoint.text}: give a number or a name")
        text = endpoint.address
        if _is_number(endpoint) and (len(text) > 10 or int(text) > 2**31 - 1):
            raise UsageError(f"{endpoint.text}: no fd has such a number")

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return open_inherited(_number(endpoint), endpoint.text, opening, sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return open_inherited(_number(endpoint), endpoint.text, opening, sink=True)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        return preview_inherited(_number(endpoint), endpoint.text, sink=sink)


def preview_inherited(fd: int, name: str, *, sink: bool) -> FdFacts:
    """Return the facts of an inherited fd.

    Raises: TransferError  it is not open, or open for the other direction.
    """
    try:
        facts = gather(fd, owned=False)
    except OSError as error:
        raise open_failed(name, "open", error) from error
    _refuse_direction(facts, name, sink=sink)
    way = os.W_OK if facts.writable else os.R_OK
    if facts.type in ("pipe", "tty") and os.access(f"/proc/self/fd/{fd}", way):
        return replace(facts, nonblocking=True, owned=True)  # it will be opened once more
    return facts


KIND: EndpointKind = Fd()
