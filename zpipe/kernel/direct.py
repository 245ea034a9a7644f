"""O_DIRECT: aligned memory, what alignment an fd wants, and the flag itself."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

STATX_DIOALIGN = 0x2000
AT_EMPTY_PATH = 0x1000
_STATX_SIZE = 256
_MASK, _DIO_MEM_ALIGN, _DIO_OFFSET_ALIGN = 0x00, 0x98, 0x9C

# what every device of today accepts, for kernels before 6.1 and filesystems that do not say
ASSUMED_ALIGNMENT = 4096


def alignment(fd: int) -> int:
    """Return the alignment in bytes that O_DIRECT wants of offset, length and memory.

    Asks statx(2) (STATX_DIOALIGN, Linux 6.1); 4096 where it gives none.
    """
    return told_alignment(fd) or ASSUMED_ALIGNMENT


def told_alignment(fd: int) -> int | None:
    """Return the alignment that statx(2) tells; None: the kernel or the filesystem tells none."""
    import ctypes

    from zpipe.kernel.libc import libc

    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    if libc().statx(fd, b"", AT_EMPTY_PATH, STATX_DIOALIGN, buffer) != 0:
        return None
    (mask,) = struct.unpack_from("I", buffer, _MASK)
    memory, offset = struct.unpack_from("II", buffer, _DIO_MEM_ALIGN)
    if not mask & STATX_DIOALIGN or not offset:
        return None
    return int(max(memory, offset))


def set_direct(fd: int, on: bool) -> None:
    """Set or clear O_DIRECT on an open file description.

    Raises: OSError  EINVAL: the filesystem has no direct I/O.
    """
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if on else flags & ~os.O_DIRECT
    if wanted != flags:
        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)


def aligned_buffer(size: int) -> mmap.mmap:
    """Return page-aligned anonymous memory: Python's own buffers are refused by O_DIRECT."""
    return mmap.mmap(-1, size)
