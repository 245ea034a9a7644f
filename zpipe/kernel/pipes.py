"""Kernel pipes: a private pair, and the capacity of any pipe."""

from __future__ import annotations

import fcntl
import os
import sys

F_SETPIPE_SZ = 1031
F_GETPIPE_SZ = 1032
FIONREAD = 0x541B

_LARGEST = 1 << 31  # what the kernel can count (round_pipe_size); more is EINVAL

# Best of 64 KiB .. 1 MiB for bulk on 6.x, and the most that an unprivileged user may ask for.
CAPACITY = 1 << 20
# For a pipe that others made: half of that, since all pipes of a user share one quota.
OTHERS = 512 << 10


def get_capacity(fd: int) -> int:
    """Return a pipe's capacity in bytes, really its slots times 4096 (F_GETPIPE_SZ)."""
    return fcntl.fcntl(fd, F_GETPIPE_SZ)


def set_capacity(fd: int, capacity: int) -> int:
    """Ask for a capacity and return the one granted (rounded up to a power of two pages).

    Raises: OSError  EPERM: above pipe-max-size, or the user's pages are used up; EBUSY: too full.
    Source: pipe(7), fcntl(2).
    """
    # Python passes on the low 32 bits only: 4 GiB would become the smallest pipe there is
    return fcntl.fcntl(fd, F_SETPIPE_SZ, min(capacity, _LARGEST))


def grow(fd: int, capacity: int = OTHERS) -> None:
    """Give a pipe at least so much capacity, if the quota allows; it is never made smaller.

    Whoever is at its other side then sleeps and wakes an eighth as often as with the 64 KiB that
    pipes begin with.
    """
    try:
        if get_capacity(fd) < capacity:
            set_capacity(fd, capacity)
    except OSError:
        pass  # pipe-max-size, pipe-user-pages-soft: it stays as it is


def buffered(fd: int) -> int:
    """Return the bytes that wait in a pipe or socket (FIONREAD)."""
    return int.from_bytes(fcntl.ioctl(fd, FIONREAD, bytes(4)), sys.byteorder)


class Pipe:
    """A private non-blocking pipe. `capacity` is what the kernel granted: 8 KiB is possible.

    Asking for more is best effort: past the user's quota (pipe-user-pages-soft) new pipes have two
    slots and cannot grow. A pipe in which bytes are left is closed, never used again.

    Raises: OSError  EMFILE, ENFILE: no fds, or no pipe pages at all.
    """

    __slots__ = ("capacity", "reader", "writer")

    def __init__(self, capacity: int = CAPACITY):
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # above pipe-max-size all is refused: the usual bound is better than the default
            for wanted in (CAPACITY, capacity) if capacity > CAPACITY else (capacity,):
                try:
                    set_capacity(self.writer, wanted)
                except PermissionError:
                    break
            self.capacity = get_capacity(self.writer)
        except BaseException:
            self.close()
            raise

    def take_out(self, count: int) -> bytearray:
        """Read so many bytes, which must be in it."""
        data = bytearray()
        while len(data) < count:
            data += os.read(self.reader, count - len(data))
        return data

    def shrink(self, capacity: int) -> None:
        """Give back what is more than `capacity`; the pipe is empty.

        Raises: OSError  EBUSY: it is not.
        """
        if self.capacity > capacity:
            self.capacity = set_capacity(self.writer, capacity)

    def close(self) -> None:
        """Close both ends; may be called twice."""
        self.close_reader()
        self.close_writer()

    def close_reader(self) -> None:
        """Close the reading end; whoever writes gets EPIPE."""
        fd, self.reader = self.reader, -1
        if fd >= 0:
            os.close(fd)

    def close_writer(self) -> None:
        """Close the writing end; whoever reads comes to the end."""
        fd, self.writer = self.writer, -1
        if fd >= 0:
            os.close(fd)
