"""Data and holes of a sparse file."""

from __future__ import annotations

import errno
import os

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2


def next_data(fd: int, offset: int) -> int | None:
    """Return where data begins at or after `offset`; None when only a hole is left.

    Moves the file position there.

    Raises: OSError  EINVAL: the filesystem cannot tell.
    Source: lseek(2), SEEK_DATA.
    """
    try:
        return os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def next_hole(fd: int, offset: int) -> int:
    """Return where the next hole begins at or after `offset`; the end of the file counts as one.

    Moves the file position there.
    """
    return os.lseek(fd, offset, os.SEEK_HOLE)


def punch_hole(fd: int, offset: int, count: int) -> None:
    """Free the blocks of a range, which then reads as zeros; the size stays.

    Raises: OSError  EOPNOTSUPP: not on this filesystem.
    Source: fallocate(2).
    """
    from ctypes import c_long

    from zpipe.kernel.libc import checked, libc

    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    checked(libc().fallocate(fd, mode, c_long(offset), c_long(count)))
