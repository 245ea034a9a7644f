"""Aligned memory outside Python's heap, and a bounded pool of it.

O_DIRECT wants memory, offset and length aligned, and refuses Python's own buffers (EINVAL). What
alignment a file wants says `zpipe.kernel.direct.alignment`; nothing here knows of files.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import NamedTuple, overload

from zpipe.channel.bound import Bound
from zpipe.kernel.copying import place_of
from zpipe.kernel.memory import PAGE, aligned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from typing_extensions import Buffer, Self

LARGEST_ALIGNMENT = 2 << 20  # a huge page of x86-64


class _Memory:
    """A mapping and the aligned part of it; knows whether views of it are in use."""

    __slots__ = ("_map", "_start", "size")

    def __init__(self, size: int, alignment: int):
        self._map, self._start = aligned(size, alignment)
        self.size = size

    def view(self) -> memoryview:
        return memoryview(self._map)[self._start : self._start + self.size]

    def address(self) -> int:
        return place_of(self._map) + self._start

    def idle(self) -> bool:
        """Tell whether nobody has a view: a mapping with one cannot be resized."""
        try:
            self._map.resize(len(self._map))
        except BufferError:
            return False
        return True

    def free(self) -> None:
        try:
            self._map.close()
        except BufferError:
            raise _in_use("freed") from None


def _in_use(what: str) -> BufferError:
    return BufferError(f"direct buffer: not {what}: a view of it is in use, release it first")


class DirectBuffer:
    """Memory for O_DIRECT: `size` bytes, zeroed, whose address is a multiple of `alignment`.

    `size` is at least 1 and may be anything; O_DIRECT itself wants lengths that are multiples too.
    `alignment` is a power of two, 1 to 2 MiB; less than a page gives a page.

    >>> import os, tempfile
    >>> with tempfile.TemporaryFile() as file, DirectBuffer(8192) as buffer:
    ...     buffer[:5] = b"hello"
    ...     os.pwrite(file.fileno(), buffer.view, 0)
    ...     bytes(buffer[1:4]), buffer.address % 4096
    8192
    (b'ell', 0)
    >>> buffer.view
    Traceback (most recent call last):
    ValueError: direct buffer: closed

    `close()`, or the end of the `with` block, gives the memory back at once; views of it (`view`
    and slices) that are still there keep it, and make that a BufferError. From Python 3.12 on it
    has the buffer protocol itself. Children that are forked share the memory.

    Raises: ValueError   a size or alignment that cannot be; any use after close().
            BufferError  close() while a view is in use.
            OSError      ENOMEM.
    Source: open(2), "O_DIRECT"; mmap(2).
    """

    __slots__ = ("__weakref__", "_memory")

    def __init__(self, size: int, alignment: int = PAGE):
        _check(size, alignment)
        self._memory: _Memory | None = _Memory(size, alignment)

    def _open(self) -> _Memory:
        if self._memory is None:
            raise ValueError("direct buffer: closed")
        return self._memory

    @property
    def view(self) -> memoryview:
        """Return a new writable view of all of it, without copying."""
        return self._open().view()

    @property
    def address(self) -> int:
        """Return where it lies in memory."""
        return self._open().address()

    @property
    def closed(self) -> bool:
        """Tell whether it has been given back."""
        return self._memory is None

    def __len__(self) -> int:
        return self._open().size

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> memoryview: ...
    def __getitem__(self, at: int | slice) -> int | memoryview:
        return self._open().view()[at]

    @overload
    def __setitem__(self, at: int, value: int) -> None: ...
    @overload
    def __setitem__(self, at: slice, value: Buffer) -> None: ...
    def __setitem__(self, at: int | slice, value: int | Buffer) -> None:
        with self._open().view() as view:
            view[at] = value  # type: ignore[index, assignment]

    def __buffer__(self, flags: int) -> memoryview:
        return self._open().view()

    def __repr__(self) -> str:
        if self._memory is None:
            return "<DirectBuffer closed>"
        return f"<DirectBuffer of {self._memory.size} bytes at {self._memory.address():#x}>"

    def close(self) -> None:
        """Give the memory back; may be called twice.

        Raises: BufferError  a view of it is in use; the buffer is as it was.
        """
        if self._memory is not None:
            self._memory.free()
            self._memory = None

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BufferError:
            if kind is None:
                raise
            # the frames of an error hold views: it is the error that has to be seen
            self._memory = None


def _check(size: int, alignment: int) -> None:
    if size < 1:
        raise ValueError(f"direct buffer: a size of {size}: it must be at least 1")
    if not 1 <= alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(
            f"direct buffer: an alignment of {alignment}: it must be a power of two, "
            f"1 to {LARGEST_ALIGNMENT}"
        )


class PoolStatistics(NamedTuple):
    """What a pool did and has."""

    borrowed: int  # in use now
    kept: int  # waiting to be used again
    created: int  # made until now
    waits: int  # how often somebody had to wait, or was refused


class BufferPool:
    """At most `count` DirectBuffers of one size, used again and again. Thread-safe.

    >>> with BufferPool(65536, count=2) as pool:
    ...     with pool.borrow() as buffer:
    ...         buffer[:2] = b"ab"
    ...     with pool.borrow(timeout=1.5) as other:
    ...         pool.statistics
    PoolStatistics(borrowed=1, kept=0, created=1, waits=0)
    >>> buffer.view
    Traceback (most recent call last):
    ValueError: direct buffer: closed

    Memory is made when it is first needed, and is not zeroed between its users. A buffer ends with
    its `with` block: the pool lends the memory on under a new one. Memory of which a view is left
    is not lent on: that is a BufferError at the end of the block, and the place is free again.
    """

    def __init__(self, size: int, count: int, alignment: int = PAGE):
        _check(size, alignment)
        self._bound = Bound("buffer pool", count)
        self._size, self._alignment = size, alignment
        self._lock = threading.Lock()
        self._kept: list[_Memory] = []
        self._created = 0

    @contextmanager
    def borrow(self, timeout: float | None = None) -> Iterator[DirectBuffer]:
        """Lend a buffer for a `with` block, waiting up to `timeout` seconds; None: for ever.

        Raises: TimeoutError  all were in use, all the time.
                ValueError    the pool is closed.
                BufferError   at the end of the block: a view is in use.
        """
        self._bound.take(timeout)
        try:
            buffer = self._lend()
            failed = True
            try:
                yield buffer
                failed = False
            finally:
                self._take_back(buffer, failed)
        finally:
            self._bound.give()

    def _lend(self) -> DirectBuffer:
        buffer = DirectBuffer.__new__(DirectBuffer)
        with self._lock:
            # the one used last is the likeliest to be in the processor's cache
            memory = self._kept.pop() if self._kept else None
            if memory is None:
                memory = _Memory(self._size, self._alignment)
                self._created += 1
        buffer._memory = memory
        return buffer

    def _take_back(self, buffer: DirectBuffer, failed: bool) -> None:
        memory, buffer._memory = buffer._memory, None
        if memory is None:
            return  # its borrower has closed it
        if not memory.idle():
            if failed:
                return  # as in DirectBuffer.__exit__
            raise _in_use("put back")
        with self._lock:
            if not self._bound.closed:
                self._kept.append(memory)
                return
        memory.free()

    @property
    def statistics(self) -> PoolStatistics:
        """Return what the pool did and has, now."""
        with self._lock:
            return PoolStatistics(
                self._bound.taken, len(self._kept), self._created, self._bound.waits
            )

    def close(self) -> None:
        """Lend no more, and free what is not in use; what is follows when it comes back."""
        self._bound.close()
        with self._lock:
            kept, self._kept = self._kept, []
        for memory in kept:
            memory.free()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
