"""Data and holes of a sparse file."""

from __future__ import annotations

import errno
import os


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
