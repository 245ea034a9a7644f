"""The system calls that move bytes between two fds inside the kernel."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SPLICE_F_MOVE = 1  # a no-op since 2.6.21 (splice(2))
SPLICE_F_NONBLOCK = 2  # covers the pipe ends only, not a socket or tty

# One call cannot be interrupted for progress, signals or a stall check: this bounds it.
CHUNK = 64 << 20

# Up to this a read and a write are cheaper than setting anything up (GNU cat 9.11 uses the same
# bound); it also covers the files of /proc and /sys whose size is 0 or a fiction.
SMALL = 32 * 1024

_tee: Callable[[int, int, int], int] | None = None


def splice(src: int, dst: int, count: int) -> int:
    """Move up to `count` bytes between two fds, one of them a pipe, without waiting for the pipe.

    Both fds move at their own file position. Retries EINTR.

    Returns: bytes moved, 1..count; 0 only at end of input.
    Raises: BlockingIOError  the source is empty or the sink full (EAGAIN does not say which).
            OSError          EINVAL: fd type or O_APPEND sink refused, nothing moved.
    Source: splice(2).
    """
    return os.splice(src, dst, count, None, None, SPLICE_F_NONBLOCK)


def splice_at(src: int, offset: int, dst: int, count: int) -> int:
    """Move up to `count` bytes of a file, from `offset` on, into a pipe; its position stays.

    Returns: bytes moved; 0 at end of file.
    Raises: BlockingIOError  the pipe is full.
            OSError          EINVAL: the file cannot be spliced from.
    Source: splice(2).
    """
    return os.splice(src, dst, count, offset_src=offset, flags=SPLICE_F_NONBLOCK)


def splice_between(
    src: int, src_offset: int | None, dst: int, dst_offset: int | None, count: int
) -> int:
    """Move up to `count` bytes between two fds, one of them a pipe, waiting where they block.

    An offset of None is the fd's own position, which moves; a pipe has none. Retries EINTR.

    Returns: bytes moved, 1..count; 0 only at end of input.
    Raises: BlockingIOError  one of them is empty or full, and one of them does not block.
            OSError          EINVAL: fd type or O_APPEND sink refused; ESPIPE: no offsets there.
    Source: splice(2).
    """
    return os.splice(src, dst, count, offset_src=src_offset, offset_dst=dst_offset)


def tee(src: int, dst: int, count: int) -> int:
    """Duplicate up to `count` bytes from the head of one pipe into another; nothing is consumed.

    Returns: bytes duplicated, 1..count; 0 only when the source has no writer and is empty.
    Raises: BlockingIOError  nothing to read, or no free slot in `dst`.
            OSError          EINVAL: one of them is no pipe, or both are the same.
    Source: tee(2).
    """
    global _tee
    if _tee is None:
        _tee = _load_tee()
    while True:
        try:
            return _tee(src, dst, count)
        except InterruptedError:
            continue


def _load_tee() -> Callable[[int, int, int], int]:
    """Return the call with all that it needs at hand: it is made for every line of a pipeline."""
    from ctypes import c_size_t

    from zpipe.kernel.libc import checked, signed

    call = signed("tee")

    def tee_once(src: int, dst: int, count: int) -> int:
        result: int = call(src, dst, c_size_t(count), SPLICE_F_NONBLOCK)
        return result if result >= 0 else checked(result)

    return tee_once


def sendfile(src: int, dst: int, count: int) -> int:
    """Send up to `count` bytes of a seekable fd to any fd that can be spliced to.

    Both move at their own position; one call moves at most 2 GiB - 4 KiB. Retries EINTR.

    Returns: bytes sent; 0 at end of file, and on some virtual files.
    Raises: BlockingIOError  the sink is full.
            OSError          EINVAL: the pair is not supported (source not seekable, O_APPEND).
    Source: sendfile(2).
    """
    return os.sendfile(dst, src, None, count)


def sendfile_at(src: int, offset: int, dst: int, count: int) -> int:
    """Send up to `count` bytes of a file, from `offset` on, to any fd that can be spliced to.

    The source's position stays. Answers and errors are those of `sendfile`.
    """
    return os.sendfile(dst, src, offset, count)


def copy_file_range_at(
    src: int, src_offset: int | None, dst: int, dst_offset: int | None, count: int
) -> int:
    """Copy up to `count` bytes between two regular files; None: at the file's own position.

    Answers and errors are those of `copy_file_range`.
    """
    while True:
        try:
            return os.copy_file_range(src, dst, count, src_offset, dst_offset)
        except InterruptedError:
            continue


def copy_file_range(src: int, dst: int, count: int) -> int:
    """Copy up to `count` bytes between two regular files at their own positions.

    The filesystem shares extents or copies on its own where it can; else the kernel splices.

    Returns: bytes copied; 0 at end of file, and on virtual files, whatever they hold.
    Raises: OSError  EXDEV: two filesystems; EINVAL: not regular; EBADF: O_APPEND sink.
    Source: copy_file_range(2).
    """
    while True:
        try:
            return os.copy_file_range(src, dst, count)
        except InterruptedError:
            continue
