"""The short way for a small regular file: one read, one write, and nothing else is loaded.

The same promises as the long way (complete or not there, a source that changed is refused), for
files where planning would cost more than copying. Whatever is not plainly a small file to a
regular file goes the long way.
"""

from __future__ import annotations

import os
import signal
import stat

from zpipe.endpoints.replace import Replacement
from zpipe.errors import SourceChanged, TransferError, open_failed
from zpipe.kernel.changes import changes
from zpipe.kernel.clone import clone
from zpipe.kernel.transfer import SMALL

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def copy_small(src: str, dst: str) -> int | None:
    """Copy one small file between two paths; return its bytes, or None: take the long way.

    Raises: TransferError, SourceChanged, UsageError  as the long way would.
    """
    if ":" in src or ":" in dst or "?" in dst or src == "-" or dst == "-" or not dst:
        return None  # may be an address, or have options
    try:
        before = os.stat(src)
        if not stat.S_ISREG(before.st_mode) or not 0 < before.st_size <= SMALL:
            return None
        target = os.stat(dst)
        if stat.S_ISDIR(target.st_mode):
            dst = os.path.join(dst, os.path.basename(src))
            target = os.stat(dst)
        if not stat.S_ISREG(target.st_mode):
            return None
    except FileNotFoundError:
        if not os.path.exists(src):
            return None
    except OSError:
        return None  # the long way finds the words
    try:
        fd = os.open(src, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise open_failed(src, "open", error) from error
    try:
        return _copy(fd, src, dst)
    finally:
        os.close(fd)


def _copy(fd: int, src: str, dst: str) -> int:
    before = os.fstat(fd)
    # a signal waits for the moment that this takes
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        return _replace(fd, before, src, dst)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _replace(fd: int, before: os.stat_result, src: str, dst: str) -> int:
    target = Replacement(dst, mode=before.st_mode & 0o777, refuse=(before.st_dev, before.st_ino))
    try:
        target.prepare()
        moved = _clone(fd, target.fd, before) or _read_and_write(fd, src, target, dst)
        found = changes(before, os.fstat(fd))
        if found:
            raise SourceChanged(
                f"{src}: read: the source changed while it was read ({', '.join(found)});"
                f" {_delivered(target, moved)}"
            )
        target.commit()
    finally:
        target.discard()
    return moved


def _clone(fd: int, target: int, before: os.stat_result) -> int:
    """Share the blocks where the filesystem does; return 0 where it does not."""
    try:
        clone(fd, target)
    except OSError:
        return 0  # most do not; reading tells what is really wrong
    return before.st_size


def _read_and_write(fd: int, src: str, target: Replacement, dst: str) -> int:
    moved = 0
    act = f"{src}: read"
    try:
        while data := os.read(fd, SMALL + 1):
            act = f"{dst}: write"
            rest = memoryview(data)
            while rest:
                count = os.write(target.fd, rest)
                rest = rest[count:]
                moved += count
            act = f"{src}: read"
            if moved > SMALL:
                break  # it grows: the comparison afterwards says so
    except OSError as error:
        raise TransferError(
            f"{act}: {os.strerror(error.errno or 0)}; {_delivered(target, moved)}",
            delivered=moved,
            errno=error.errno,
        ) from error
    return moved


def _delivered(target: Replacement, moved: int) -> str:
    return "nothing was put in place" if target.reason is None else f"{moved} bytes were delivered"
