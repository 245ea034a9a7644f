"""The ways of moving bytes from one place to another, each as a generator of counts.

Whoever runs one advances both places by each count before it asks for the next. A way that
returns has come to the end of its source, or believes so; it raises what the kernel answers, and
`Unavailable` where it cannot serve just now, for reasons that say nothing of the kinds involved.
"""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import NamedTuple

from zpipe.channel.guard import guard
from zpipe.errors import SourceTruncated, TransferError, reason
from zpipe.kernel import transfer
from zpipe.kernel.direct import ASSUMED_ALIGNMENT, aligned_buffer
from zpipe.kernel.errnos import COPY_RANGE_REFUSED, MAP_REFUSED, SPLICE_REFUSED
from zpipe.kernel.mapping import Window
from zpipe.kernel.pipes import Pipe
from zpipe.kernel.transfer import CHUNK, SMALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from typing import Literal

    from zpipe.channel.place import Place

    Path = Literal["copy_file_range", "splice", "sendfile", "mapped", "buffer"]
    Tier = Literal["kernel", "mapped", "buffer"]
    Counts = Generator[int, None, None]

WINDOW = 8 << 20
BUFFER = 256 << 10


class Unavailable(Exception):
    """Not now: a lease or a pipe was not to be had, or was taken back."""


class Way(NamedTuple):
    """`fits` tells beforehand where it need not be tried; `refusals` are errnos that mean "not
    here", as opposed to failures.
    """

    path: Path
    tier: Tier
    refusals: frozenset[int]
    fits: Callable[[Place, Place, int], bool]
    run: Callable[[Place, Place, int], Counts]


def copy_range(src: Place, dst: Place, count: int) -> Counts:
    """The filesystem shares blocks or copies itself, or the kernel does it from page to page."""
    while count:
        n = transfer.copy_file_range_at(src.fd, src.offset, dst.fd, dst.offset, min(count, CHUNK))
        if not n:
            return
        count -= n
        yield n


def _fits_copy_range(src: Place, dst: Place, count: int) -> bool:
    # where the size is said to be 0, the call says so, too, whatever there is to read
    return src.regular and dst.regular and not dst.append and src.info.st_size > 0


def send(src: Place, dst: Place, count: int) -> Counts:
    """Pages of the file are put into the socket by reference, or copied into another file."""
    assert src.offset is not None
    while count:
        n = transfer.sendfile_at(src.fd, src.offset, dst.fd, min(count, CHUNK))
        if not n:
            return
        count -= n
        yield n


def _fits_send(src: Place, dst: Place, count: int) -> bool:
    return src.offset is not None and dst.offset is None and not dst.append


def splice(src: Place, dst: Place, count: int) -> Counts:
    """Pages are put into the pipe that is the target, or go through a private one to a file."""
    if not dst.pipe:
        yield from _through_pipe(src, dst, count)
        return
    while count:
        n = transfer.splice_between(src.fd, src.offset, dst.fd, None, min(count, CHUNK))
        if not n:
            return
        count -= n
        yield n


def _fits_splice(src: Place, dst: Place, count: int) -> bool:
    if dst.pipe:
        return src.offset is not None and dst.offset is None
    return dst.offset is not None and not dst.append and count > SMALL


def _through_pipe(src: Place, dst: Place, count: int) -> Counts:
    try:
        pipe = Pipe()
    except OSError:
        raise Unavailable from None  # no fds left, or no pages for pipes
    with closing(pipe):
        # else the pipe's O_NONBLOCK would make a source that blocks say EAGAIN; there is always
        # room: it is filled only when it is empty
        os.set_blocking(pipe.writer, True)
        while count:
            want = min(count, pipe.capacity)
            held = transfer.splice_between(src.fd, src.offset, pipe.writer, None, want)
            if not held:
                _confirm_end(src)
                return
            count -= held
            while held:
                try:
                    n = transfer.splice_between(pipe.reader, None, dst.fd, dst.offset, held)
                except OSError:
                    if src.offset is None:
                        # taken from a stream: by hand, then, or never
                        yield from _write_all(memoryview(pipe.take_out(held)), src, dst)
                    raise
                held -= n
                yield n


def _confirm_end(src: Place) -> None:
    """Believe a 0 of a socket only if a receive says the same: an urgent mark gives 0, too."""
    if not src.socket:
        return
    from zpipe.kernel.network import peek

    try:
        more = peek(src.fd)
    except BlockingIOError:
        more = True
    if more:
        raise Unavailable


def mapped(src: Place, dst: Place, count: int) -> Counts:
    """The target copies straight from the page cache, through a mapping that only write(2) reads.

    Only under a guard: of a file that is cut meanwhile, the target would be given NUL bytes up to
    the end of the last page. A block device cannot be cut.
    """
    guarded = guard(src.fd) if src.regular else None
    if guarded is None and src.regular:
        raise Unavailable
    try:
        while count:
            if guarded is not None and not guarded.held():
                raise Unavailable  # somebody waits for the file: the rest goes another way
            want = min(count, WINDOW)
            assert src.offset is not None
            if src.regular:
                want = min(want, os.fstat(src.fd).st_size - src.offset)
                if want <= 0:
                    return
            with closing(Window(src.fd, src.offset, want)) as window:
                used = 0
                while used < want:
                    with window.view[used:] as piece:
                        try:
                            n = dst.write(piece)
                        except OSError as error:
                            if error.errno == errno.EFAULT:
                                raise Unavailable from None
                            raise
                    used += n
                    yield n
                    if guarded is not None and not guarded.held():
                        _refuse_invented(src)
                        if used < want:
                            raise Unavailable
            count -= want
    finally:
        if guarded is not None:
            guarded.release()


def _refuse_invented(src: Place) -> None:
    """Ask, where a lease was lost while the target was slow, whether all that went was real."""
    size = os.fstat(src.fd).st_size
    if size < (src.offset or 0):
        raise SourceTruncated(
            f"{src.name}: read: the file was cut to {size} bytes while it was sent; the target has "
            f"{(src.offset or 0) - size} bytes that it does not hold",
            errno=errno.EFAULT,
        )


def _fits_mapped(src: Place, dst: Place, count: int) -> bool:
    return (
        src.on_disk
        and src.offset is not None
        and (not src.regular or src.info.st_size > 0)
        and not dst.direct
        and count > SMALL
    )


def through_buffer(src: Place, dst: Place, count: int) -> Counts:
    """Read and write: it serves everywhere."""
    # O_DIRECT wants whole blocks, also where the file ends within one
    block = ASSUMED_ALIGNMENT if src.direct else 1
    size = min(-(-count // block) * block, BUFFER)
    aligned = src.direct or dst.direct
    buffer = memoryview(aligned_buffer(size) if aligned else bytearray(size))
    while count:
        got = min(count, src.read(buffer[: min(-(-count // block) * block, size)]))
        if not got:
            return
        count -= got
        yield from _write_all(buffer[:got], src, dst)


def _write_all(data: memoryview, src: Place, dst: Place) -> Counts:
    """Write what was read. Raises: TransferError  it cannot be, and came from a stream."""
    while data:
        try:
            n = dst.write(data)
        except OSError as error:
            if src.offset is not None:
                raise  # it can be read again
            raise TransferError(
                f"{dst.name}: write: {reason(error)}; {len(data)} bytes were taken from "
                f"{src.name} and are lost",
                errno=error.errno,
            ) from error
        data = data[n:]
        yield n


def _fits_always(src: Place, dst: Place, count: int) -> bool:
    return True


WAYS = (
    Way("copy_file_range", "kernel", COPY_RANGE_REFUSED, _fits_copy_range, copy_range),
    Way("splice", "kernel", SPLICE_REFUSED, _fits_splice, splice),
    Way("sendfile", "kernel", SPLICE_REFUSED, _fits_send, send),
    Way("mapped", "mapped", MAP_REFUSED, _fits_mapped, mapped),
    Way("buffer", "buffer", frozenset(), _fits_always, through_buffer),
)
TIERS: dict[Path, Tier] = {way.path: way.tier for way in WAYS}
