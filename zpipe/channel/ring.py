"""A ring of bytes in a sealed memfd: its layout, and what must hold of one that a stranger sends.

Who may go on when, and who tells whom, is the business of `shared`.

Layout (native byte order, version 1): a page of header, then the bytes.

      0  magic, version, size of the header, capacity
    128  head: bytes put in, ever; then that plus 1, once the producer has ended on purpose
    256  tail: bytes taken out, ever

Each side writes its own line only, 128 bytes apart: processors fetch cache lines in pairs. Both
counters only grow; 2^64 bytes take centuries. A position modulo the capacity is a place in the
ring. The header is shared with a process that may write anything into it at any time: what is
fixed is read once and compared with the size of the file, and nothing read from it is ever used to
compute an address.

The seals (no shrinking, no growing, no other seals) make it impossible for a peer to cut the file,
after which the next access would end this process by SIGBUS. All memory is allocated when the ring
is made, for the same reason.
"""

from __future__ import annotations

import mmap
import os
import struct

from zpipe.errors import TransferError
from zpipe.kernel import inspect, memory
from zpipe.kernel.memory import PAGE

MAGIC = b"zpipe:rb"
VERSION = 1
SEALS = memory.F_SEAL_SHRINK | memory.F_SEAL_GROW | memory.F_SEAL_SEAL
HEADER = struct.Struct("=8sIIQ")

# places of the counters, in words of 8 bytes
HEAD, FINISHED, TAIL = 16, 17, 32


def make(capacity: int) -> int:
    """Return the fd of a new ring of `capacity` bytes, a multiple of the page, sealed.

    Raises: OSError  ENOMEM, EMFILE; ENOSYS: no memfd here.
    """
    fd = memory.memfd("zpipe-shared-buffer")
    try:
        os.ftruncate(fd, PAGE + capacity)
        os.posix_fallocate(fd, 0, PAGE + capacity)
        os.pwrite(fd, HEADER.pack(MAGIC, VERSION, PAGE, capacity), 0)
        memory.add_seals(fd, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def examine(fd: int, largest: int) -> int:
    """Return the capacity of a ring that somebody has sent.

    Raises: TransferError  it is none, or not safe to map.
    """
    try:
        seals = memory.get_seals(fd)
    except OSError:
        raise refused("not a file in memory") from None
    if seals & SEALS != SEALS:
        raise refused("not sealed against shrinking and growing")
    # of a file in huge pages, a hole made by the peer is SIGBUS when no huge page is left
    if inspect.filesystem(fd) != "tmpfs":
        raise refused("not in ordinary memory")
    capacity = os.fstat(fd).st_size - PAGE
    if capacity < PAGE or capacity % PAGE:
        raise refused(f"a file of {capacity + PAGE} bytes holds no ring")
    if capacity > largest:
        raise refused(f"its capacity is {capacity}, and at most {largest} is accepted")
    try:
        magic, version, header, claimed = HEADER.unpack(os.pread(fd, HEADER.size, 0))
    except (OSError, struct.error):
        raise refused("its header cannot be read") from None
    if magic != MAGIC:
        raise refused("it has another magic number")
    if version != VERSION:
        raise refused(f"it is of version {version}, and this is version {VERSION}")
    if (header, claimed) != (PAGE, capacity):
        raise refused(f"its header claims {header} + {claimed} bytes, it has {PAGE} + {capacity}")
    return capacity


def refused(why: str) -> TransferError:
    """Return the error for something that is not accepted."""
    return TransferError(f"shared buffer: receive: {why}")


class Ring:
    """A ring, mapped. Positions are those of the stream, not places in memory.

    `counters` are words of 8 bytes. They are aligned, so that each is stored and loaded whole.
    """

    __slots__ = ("_bytes", "_map", "_whole", "capacity", "counters")

    def __init__(self, fd: int, capacity: int):
        self.capacity = capacity
        self._map = mmap.mmap(fd, PAGE + capacity)
        self._attach()

    def _attach(self) -> None:
        self._whole = memoryview(self._map)
        self.counters = self._whole[:PAGE].cast("Q")
        self._bytes = self._whole[PAGE:]

    def view(self, position: int, count: int) -> memoryview:
        """Return up to `count` bytes in one piece: no more than to the end of the memory."""
        place = position % self.capacity
        return self._bytes[place : min(place + count, self.capacity)]

    def put(self, position: int, data: memoryview) -> None:
        """Copy bytes in."""
        place = position % self.capacity
        first = self.capacity - place
        if len(data) <= first:
            self._bytes[place : place + len(data)] = data
        else:
            self._bytes[place:] = data[:first]
            self._bytes[: len(data) - first] = data[first:]

    def get(self, position: int, count: int) -> bytes:
        """Copy bytes out."""
        first = self.view(position, count)
        if len(first) == count:
            return bytes(first)
        return b"".join((first, self._bytes[: count - len(first)]))

    def get_into(self, position: int, target: memoryview) -> None:
        """Copy bytes out to where they are wanted."""
        first = self.view(position, len(target))
        target[: len(first)] = first
        if len(first) < len(target):
            target[len(first) :] = self._bytes[: len(target) - len(first)]

    def close(self) -> None:
        """Unmap.

        Raises: BufferError  somebody has a view; the ring is as it was.
        """
        for view in (self.counters, self._bytes, self._whole):
            view.release()
        try:
            self._map.close()
        except BufferError:
            self._attach()
            raise BufferError(
                "shared buffer: not closed: a view of it is in use, release it first"
            ) from None
