"""Merge streams of text by whole lines: the one thing here that must look at the bytes.

Each byte is copied twice more than by a joint that takes what is there.
"""

from __future__ import annotations

import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK = 64 * 1024
# Bytes of a line that are kept until its end has come. To pass on a part of it would mean to let
# the others wait, for ever if it is they whom its source waits for.
LONGEST = 64 << 20


def merge_lines(readers: Sequence[int], writer: int, failed: Callable[[str], None]) -> None:
    """Write the lines of all, as they come; a last one without its newline is given one.

    Takes over the fds, which do not block, and closes each when it is done with: the end of all is
    told by closing `writer`, and that nobody reads any more by closing the others. `failed` is
    called before that when a line is too long.
    """
    os.set_blocking(writer, True)
    rests = {reader: bytearray() for reader in readers}
    try:
        while rests:
            poller = select.poll()
            poller.register(writer, 0)  # tells only when nobody reads any more
            for reader in rests:
                poller.register(reader, select.POLLIN)
            for fd, _ in poller.poll():
                if fd == writer:
                    return
                if not _take(fd, rests[fd], writer):
                    del rests[fd]
                    os.close(fd)
                elif len(rests[fd]) > LONGEST:
                    failed(f"merge: a line has more than {LONGEST >> 20} MiB")
                    return
    except BrokenPipeError:
        pass  # nobody wants more
    finally:
        for fd in (*rests, writer):
            os.close(fd)


def _take(reader: int, rest: bytearray, writer: int) -> bool:
    """Pass on what lines there are, and keep the rest; False at the end of one."""
    try:
        data = os.read(reader, _CHUNK)
    except BlockingIOError:
        return True
    if not data and rest:
        _write(writer, bytes(rest) + b"\n")
    whole = data.rfind(b"\n") + 1
    if whole:
        _write(writer, bytes(rest) + data[:whole])
        rest.clear()
    rest += data[whole:]
    return bool(data)


def _write(writer: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(writer, view) :]
