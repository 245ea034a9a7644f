"""Many buffers and regions of files as one, without copying them together.

What is read walks over the parts; what is written goes out by writev, and regions of files by
sendfile. It never waits: an fd that would block says so, and the position says how far it came.

Bytes are referred to, not copied: where somebody changes a part, all that was made of it changes.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from errno import EFAULT
from typing import NamedTuple, overload

from zpipe.channel.parts import FileRegion, Mapped, Memory, counted, debug_leaks, memory_of
from zpipe.channel.place import fd_of
from zpipe.errors import SourceTruncated
from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import CHUNK

TYPE_CHECKING = False
if TYPE_CHECKING:
    import builtins
    from collections.abc import Callable, Iterable, Iterator

    from typing_extensions import Buffer, Self

    from zpipe.channel.parts import Count
    from zpipe.channel.place import HasFileno

__all__ = ["CompositeBuffer", "FileRegion", "debug_leaks", "wrap"]

IOV_MAX = os.sysconf("SC_IOV_MAX")  # parts that one writev takes: 1024
STRIDE = 256 << 10  # of a file region that sendfile refuses


class Part(NamedTuple):
    """Bytes `start` to `stop` of something."""

    of: Memory | FileRegion
    start: int
    stop: int


class CompositeBuffer:
    """Buffers and regions of files as one buffer.

    `parts` are bytes, bytearray, memoryview, mmap or array; DirectBuffer and MappedBuffer;
    FileRegion; and other CompositeBuffers, of which it takes what is left to read.

    >>> whole = CompositeBuffer([b"one ", bytearray(b"two "), memoryview(b"three")])
    >>> len(whole), bytes(whole[2:9]), whole[0]
    (13, b'e two t', 111)
    >>> whole.read(4), whole.position, whole.readable
    (b'one ', 4, 9)
    >>> import os
    >>> reader, writer = os.pipe()
    >>> whole.writev(writer), os.read(reader, 100)
    (9, b'two three')
    >>> os.close(reader); os.close(writer)
    >>> whole.release()
    True
    >>> whole.read(1)
    Traceback (most recent call last):
    ValueError: composite buffer: released

    Indexes and slices count from the start, whatever the position; slices and duplicates have a
    position of their own and share the parts.

    References are counted as Netty does: a new one has 1, shared by all slices and duplicates that
    come of it; `retain()` adds, `release()` takes away, and the last one lets go of the parts (a
    bytearray can grow again, a DirectBuffer be closed) and calls `on_release`. Who never calls
    them leaves that to the garbage collector; `debug_leaks(True)` makes it tell.

    One thread at a time may read or append; any may retain and release.

    Raises: TypeError        a part that has no bytes.
            ValueError       any use after the last release.
            SourceTruncated  a file is shorter now than its region.
    Source: writev(2), sendfile(2).
    """

    __slots__ = ("__weakref__", "_count", "_ends", "_parts", "_position")

    def __init__(
        self,
        parts: Iterable[object] = (),
        *,
        on_release: Callable[[], object] | None = None,
    ):
        self._count: Count = counted(on_release)
        self._parts: list[Part] = []
        self._ends: list[int] = []  # where each part ends, counted from the start of all
        self._position = 0
        try:
            for part in parts:
                self.append(part)
        except BaseException:
            self._count.release(1)
            raise

    # what there is

    def _live(self) -> None:
        if not self._count.count:
            raise ValueError("composite buffer: released")

    def __len__(self) -> int:
        self._live()
        return self._size()

    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def position(self) -> int:
        """Where read() and the writes go on, 0 to the length; may be set."""
        return self._position

    @position.setter
    def position(self, to: int) -> None:
        self._live()
        if not 0 <= to <= self._size():
            raise ValueError(f"composite buffer: position {to} of {self._size()} bytes")
        self._position = to

    @property
    def readable(self) -> int:
        """How many bytes there are from the position on."""
        return len(self) - self._position

    @property
    def references(self) -> int:
        """How many there are; 0: released."""
        return self._count.count

    def __repr__(self) -> str:
        if not self._count.count:
            return "<CompositeBuffer released>"
        return (
            f"<CompositeBuffer of {self._size()} bytes in {len(self._parts)} parts, "
            f"position {self._position}, references {self._count.count}>"
        )

    # how it is made

    def append(self, part: object) -> None:
        """Add a part at the end; duplicates and slices that exist do not get it.

        Raises: TypeError  it has no bytes.
        """
        self._live()
        if isinstance(part, CompositeBuffer):
            part._live()
            if part._count is not self._count:
                part.retain()
                self._count.held.append(part._count_down)
            for each in list(part._between(part._position, part._size())):
                self._add(each)
        elif isinstance(part, FileRegion):
            self._add(Part(part, 0, part.count))
        else:
            memory = memory_of(part)
            self._count.held.append(memory.release)
            self._add(Part(memory, 0, memory.count))

    def _add(self, part: Part) -> None:
        if part.stop > part.start:
            self._ends.append(self._size() + part.stop - part.start)
            self._parts.append(part)

    def _count_down(self) -> None:
        self._count.release(1)

    def slice(self, start: int, count: int) -> CompositeBuffer:
        """Return `count` bytes from `start` on as a buffer of its own, nothing being copied.

        It shares the count of references, and does not add to it.

        Raises: ValueError  not all of them are in here.
        """
        self._live()
        if start < 0 or count < 0 or start + count > self._size():
            raise ValueError(
                f"composite buffer: slice: {count} bytes from {start}, of {self._size()}"
            )
        made = CompositeBuffer.__new__(CompositeBuffer)
        made._count, made._parts, made._ends, made._position = self._count, [], [], 0
        for part in self._between(start, start + count):
            made._add(part)
        return made

    def duplicate(self) -> CompositeBuffer:
        """Return the same bytes as a buffer of its own, its position beginning where this one is.

        It shares the count of references, and does not add to it.
        """
        made = self.slice(0, len(self))
        made._position = self._position
        return made

    def _between(self, start: int, stop: int) -> Iterator[Part]:
        """Walk over the parts of the bytes from `start` to `stop`."""
        at = bisect_right(self._ends, start)
        while start < stop:
            part, end = self._parts[at], self._ends[at]
            first = part.stop - (end - start)
            last = part.stop - max(end - stop, 0)
            yield part if last - first == part.stop - part.start else Part(part.of, first, last)
            start = end
            at += 1

    # references

    def retain(self, more: int = 1) -> Self:
        """Count `more` references to the parts, and return the buffer itself."""
        self._count.retain(more)
        return self

    def release(self, fewer: int = 1) -> bool:
        """Give up references; return whether that was the last one, and the parts are let go.

        Raises: ValueError   more than there are.
                BufferError  a part is in use by a call in another thread.
        """
        return self._count.release(fewer)

    def __enter__(self) -> Self:
        self._live()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # reading

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: builtins.slice) -> CompositeBuffer: ...
    def __getitem__(self, at: int | builtins.slice) -> int | CompositeBuffer:
        size = len(self)
        if isinstance(at, slice):
            start, stop, step = at.indices(size)
            if step != 1:
                raise ValueError(f"composite buffer: a slice with a step of {step}")
            return self.slice(start, max(stop - start, 0))
        if not -size <= at < size:
            raise IndexError(f"composite buffer: index {at} of {size} bytes")
        return self._copy(at % size, at % size + 1)[0]

    def _copy(self, start: int, stop: int) -> bytearray:
        data = bytearray(stop - start)
        with memoryview(data) as target:
            self._copy_into(start, target)
        return data

    def _copy_into(self, start: int, target: memoryview) -> None:
        done = 0
        for part in self._between(start, start + len(target)):
            count = part.stop - part.start
            part.of.read_into(part.start, target[done : done + count])
            done += count

    def to_bytes(self) -> bytes:
        """Return a copy of all of it; the position stays."""
        return bytes(self)

    def __bytes__(self) -> bytes:
        size = len(self)
        views = [
            part.of.outgoing(part.start, part.stop)
            for part in self._parts
            if type(part.of) is Memory
        ]
        if len(views) == len(self._parts):
            return b"".join(views)  # one copy less
        return bytes(self._copy(0, size))

    def read(self, count: int | None = None) -> bytes:
        """Return a copy of the next `count` bytes, or of what there is; None: of all the rest."""
        left = self.readable
        count = left if count is None else min(count, left)
        if count < 0:
            raise ValueError(f"composite buffer: read: {count} bytes")
        data = bytes(self._copy(self._position, self._position + count))
        self._position += count
        return data

    def read_into(self, target: Buffer) -> int:
        """Fill a writable buffer with the next bytes; return how many, 0 at the end."""
        with memoryview(target) as given, given.cast("B") as view:
            count = min(len(view), self.readable)
            self._copy_into(self._position, view[:count])
        self._position += count
        return count

    def parts(self) -> tuple[memoryview | FileRegion, ...]:
        """Return what it is made of, from the position on, without copying.

        Release the views before the last `release()`: parts that must not be in use then, such as
        a DirectBuffer that is closed, are so while a view is there.
        """
        self._live()
        return tuple(
            FileRegion(part.of.source, part.of.position + part.start, part.stop - part.start)
            if isinstance(part.of, FileRegion)
            else part.of.view[part.start : part.stop]
            for part in self._between(self._position, self._size())
        )

    # writing it out

    def writev(self, target: int | HasFileno) -> int:
        """Write to an fd from the position on by one system call, and move the position on.

        It takes all that is in memory up to the next file region (as many parts as a call can,
        1024), or of a file region up to 64 MiB by sendfile; where that is refused, by a read and a
        write of 256 KiB.

        Returns: bytes written, which may be fewer: call again while `readable`; 0: nothing left.
        Raises: BlockingIOError  the fd is full.
                OSError          EPIPE, ENOSPC and all that writev(2) can say.
        """
        self._live()
        return self._write_some(fd_of(target), set())

    def write_to(self, target: int | HasFileno) -> int:
        """Write all from the position on to an fd; return the bytes written.

        Raises: BlockingIOError  the fd is full; the position says how far it came.
                OSError          as writev(); the same holds.
        """
        self._live()
        fd = fd_of(target)
        begin = self._position
        refused: set[int] = set()
        try:
            while self._write_some(fd, refused):
                pass
        except SourceTruncated as error:
            error.delivered = self._position - begin
            raise
        return self._position - begin

    def _write_some(self, fd: int, refused: set[int]) -> int:
        """Write by one call, and move on; `refused` are the sources that sendfile has not taken."""
        at = bisect_right(self._ends, self._position)
        skip = self._position - self._ends[at - 1] if at else self._position
        views: list[memoryview] = []
        mapped: list[tuple[Mapped, int]] = []
        # only the first part can be one of which some has gone already
        for of, start, stop in self._parts[at : at + IOV_MAX]:
            if isinstance(of, FileRegion):
                if not views:
                    count = _send(of, start + skip, stop, fd, refused)
                    self._position += count
                    return count
                break
            if isinstance(of, Mapped):
                mapped.append((of, stop))
            views.append(of.outgoing(start + skip, stop))
            skip = 0
        if not views:
            return 0
        try:
            count = os.writev(fd, views)
        except OSError as error:
            for memory, stop in mapped if error.errno == EFAULT else ():
                memory.confirm(stop)
            raise
        self._position += count
        for memory, stop in mapped:
            memory.confirm(stop)
        return count


def _send(region: FileRegion, start: int, stop: int, fd: int, refused: set[int]) -> int:
    """Write some of a file region, and raise SourceTruncated rather than return 0."""
    src = region.fileno()
    count = min(stop - start, CHUNK)
    if src not in refused:
        try:
            sent = os.sendfile(fd, src, region.position + start, count)
        except OSError as error:
            if error.errno not in SPLICE_REFUSED:
                raise
            refused.add(src)
        else:
            if sent == 0:
                raise region.truncated(start)
            return sent
    data = os.pread(src, min(count, STRIDE), region.position + start)
    if not data:
        raise region.truncated(start)
    return os.write(fd, data)


def wrap(*parts: object, on_release: Callable[[], object] | None = None) -> CompositeBuffer:
    """Return a buffer over one or more others, nothing being copied: see CompositeBuffer.

    >>> data = bytearray(b"hello world")
    >>> view = wrap(data).slice(6, 5)
    >>> data[6:] = b"there"
    >>> bytes(view)
    b'there'
    """
    return CompositeBuffer(parts, on_release=on_release)
