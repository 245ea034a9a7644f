"""FIFOs: named pipes, whose two sides wait for each other.

A source is opened at once and waited for until the first writer has come: reading earlier would
give a false end of file. A sink is tried again and again until a reader has come: an open that
sleeps in the kernel could not be called back where the FIFO is unlinked, or not ours to read.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.gather import gather
from zpipe.errors import StalledError, TransferError, UsageError, open_failed
from zpipe.facts import FdFacts
from zpipe.kernel import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint

_GLANCE = 0.02


def open_source(path: str, name: str, opening: Opening, offset: int = 0) -> End:
    """Open a FIFO for reading and wait for its first writer.

    Raises: TransferError  it cannot be opened, or an offset is asked of a stream.
    """
    if offset:
        raise TransferError(f"{name}: seek to {offset}: a FIFO has no offsets")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise open_failed(name, "open", error) from error
    pipes.grow(fd)
    end = End(fd, name, gather(fd))
    try:
        opening.waiter.wait(fd, name, "wait for a writer")
    except BaseException:
        end.close()
        raise
    return end


def open_sink(path: str, name: str, opening: Opening, offset: int = 0) -> End:
    """Open a FIFO for writing once it has a reader.

    Raises: TransferError  it cannot be opened, or an offset is asked of a stream.
            StalledError   no reader came within the stall timeout.
    """
    if offset:
        raise TransferError(f"{name}: seek to {offset}: a FIFO has no offsets")
    waiter = opening.waiter
    until = None if waiter.patience is None else time.monotonic() + waiter.patience
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise open_failed(name, "open", error) from error
        if until is not None and time.monotonic() >= until:
            raise StalledError(f"{name}: wait for a reader: stalled for {waiter.patience:g} s")
        waiter.pause(_GLANCE, name, "wait for a reader")
    pipes.grow(fd)
    return End(fd, name, gather(fd))


class Fifo(EndpointKind):
    """`pipe:PATH`."""

    name = "pipe"
    form = "pipe:PATH"
    summary = "A FIFO (named pipe); waits until its other side is opened."

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        if not endpoint.address:
            raise UsageError(f"{endpoint.text}: the path is empty")

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        _must_be_fifo(endpoint)
        return open_source(endpoint.address, endpoint.text, opening, opening.offset)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        _must_be_fifo(endpoint)
        return open_sink(endpoint.address, endpoint.text, opening)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        _must_be_fifo(endpoint)
        return FdFacts("pipe", nonblocking=True)


def _must_be_fifo(endpoint: Endpoint) -> None:
    try:
        kind = os.stat(endpoint.address).st_mode
    except OSError as error:
        raise open_failed(endpoint.text, "open", error) from error
    if not stat.S_ISFIFO(kind):
        raise TransferError(f"{endpoint.text}: open: is not a FIFO")


KIND: EndpointKind = Fifo()
