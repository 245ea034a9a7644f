"""Hold back whoever wants to cut a file, while its mapping is touched or written from.

Knows when that can be trusted; what to do where it cannot is the caller's to decide.
"""

from __future__ import annotations

import os
import stat

from zpipe.kernel.lease import Lease
from zpipe.kernel.memory import F_SEAL_SHRINK, get_seals


class Guard:
    """What keeps a file as long as it is: a seal for ever, or a read lease for a while.

    `held` is to be asked again and again: those that a lease holds back wait for
    /proc/sys/fs/lease-break-time (45 s) at most.
    """

    def __init__(self, fd: int = -1, lease: Lease | None = None):
        self._fd = fd
        self._lease = lease

    def held(self) -> bool:
        """Tell whether nobody has asked to write to the file yet."""
        return self._lease is None or self._lease.held()

    def release(self) -> None:
        """Let others go on; may be called twice."""
        fd, self._fd = self._fd, -1
        if self._lease is not None and fd >= 0:
            self._lease.release()
            os.close(fd)


def guard(fd: int) -> Guard | None:
    """Return a guard of the file behind an fd; None where none can be had.

    That is where somebody has it open for writing, be it this process; where it belongs to another
    user; on most network filesystems; and for a file without a name, such as a memfd that is not
    sealed: the kernel does not count who may write to that.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return None
    try:
        if get_seals(fd) & F_SEAL_SHRINK:
            return Guard()
    except OSError:
        pass  # EINVAL: not in memory
    if not info.st_nlink:
        return None
    try:
        # a description of its own: the lease depends on no fd of the user, nor on another guard
        own = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None  # no /proc, or no right to open it again
    try:
        return Guard(own, Lease(own))
    except OSError:
        os.close(own)
        return None  # whatever the reason: there are other ways to read
