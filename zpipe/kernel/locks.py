"""Locks on ranges of a file that belong to the open file description (OFD locks).

Unlike those of lockf(3), closing another fd of the same file does not drop them, and threads that
have opened the file on their own hold each other back.
"""

from __future__ import annotations

import fcntl
import os
import struct

_SET, _SET_AND_WAIT = 37, 38  # F_OFD_SETLK, F_OFD_SETLKW
_FLOCK = struct.Struct("@hhqqi0q")  # type, whence, start, length, pid


def lock(fd: int, start: int, length: int, *, shared: bool, wait: bool) -> None:
    """Lock a range; a length of 0 reaches beyond any end. What the description holds is replaced.

    Raises: BlockingIOError  another description holds a part of it, and `wait` is False.
            OSError          EBADF: not open for reading (shared) or writing; ENOLCK.
    Source: fcntl(2), "Open file description locks".
    """
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(fd, _SET_AND_WAIT if wait else _SET, request)


def unlock(fd: int, start: int, length: int) -> None:
    """Give up whatever the description holds of a range."""
    fcntl.fcntl(fd, _SET, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0))
