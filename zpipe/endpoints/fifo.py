"""FIFOs: named pipes, whose two sides wait for each other.

A source is opened at once and waited for until the first writer has come: reading earlier would
give a false end of file. A sink's open sleeps in the kernel until a reader comes; it does so in a
thread, which is woken by opening the other side where the wait has to end.
"""

from __future__ import annotations

import os
import stat

from zpipe.endpoints.contract import End, EndpointKind, Opening
from zpipe.endpoints.gather import gather
from zpipe.errors import TransferError, UsageError, open_failed
from zpipe.facts import FdFacts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.graph.model import Endpoint


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
    end = End(fd, name, gather(fd))
    try:
        opening.waiter.wait(fd, name, "wait for a writer")
    except BaseException:
        end.close()
        raise
    return end


def open_sink(path: str, name: str, opening: Opening) -> End:
    """Open a FIFO for writing once it has a reader. Raises: TransferError."""
    try:
        # succeeds where a reader is there already: no thread needed
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if not isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            fd = _open_when_read(path, name, opening)
        else:
            raise open_failed(name, "open", error) from error
    os.set_blocking(fd, False)
    return End(fd, name, gather(fd))


def _open_when_read(path: str, name: str, opening: Opening) -> int:
    import threading

    reader, writer = os.pipe2(os.O_CLOEXEC)
    outcome: list[int | OSError] = []

    def open_blocking() -> None:
        try:
            outcome.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            outcome.append(error)
        os.write(writer, b"x")

    thread = threading.Thread(target=open_blocking, daemon=True)
    thread.start()
    try:
        opening.waiter.wait(reader, name, "wait for a reader")
    except BaseException:
        # a reader of our own lets the sleeping open return
        own = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        thread.join()
        os.close(own)
        if outcome and isinstance(outcome[0], int):
            os.close(outcome[0])
        raise
    finally:
        thread.join()
        os.close(reader)
        os.close(writer)
    result = outcome[0]
    if isinstance(result, OSError):
        raise open_failed(name, "open", result) from result
    return result


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
