"""File leases: be asked before somebody else writes to, or cuts, a file that is being read."""

from __future__ import annotations

import fcntl
import os

F_SETSIG = 10
F_SETLEASE = 1024
F_GETLEASE = 1025

# The kernel announces a break by a signal whose default, SIGIO's, is to kill. SIGURG is ignored
# by default, from every thread; the lease is polled instead (F_GETLEASE, about 500 ns).
_SIGURG = 23


class Lease:
    """Hold a read lease: open for writing and truncation by others block while it is held.

    They wait until `release` or for /proc/sys/fs/lease-break-time (45 s). Needs an fd opened
    O_RDONLY, and no writer anywhere. Not broken by rename, unlink or other readers.

    Raises: OSError  EAGAIN: somebody has the file open for writing; EACCES: not the owner;
                     EINVAL: not a regular file.
    Source: fcntl(2), "Leases".
    """

    __slots__ = ("fd",)

    def __init__(self, fd: int):
        # the signal first: a break between the two calls would kill by SIGIO
        fcntl.fcntl(fd, F_SETSIG, _SIGURG)
        fcntl.fcntl(fd, F_SETLEASE, fcntl.F_RDLCK)
        # the lease is the description's: it must outlive whoever closes `fd` first
        self.fd = os.dup(fd)

    def held(self) -> bool:
        """Tell whether nobody has asked for the file; False as soon as a break is pending."""
        return fcntl.fcntl(self.fd, F_GETLEASE) == fcntl.F_RDLCK

    def release(self) -> None:
        """Let the others go on; may be called twice."""
        if self.fd >= 0:
            try:
                fcntl.fcntl(self.fd, F_SETLEASE, fcntl.F_UNLCK)
            except BlockingIOError:
                pass  # lease-break-time has passed: the kernel has taken it back
            os.close(self.fd)
            self.fd = -1
