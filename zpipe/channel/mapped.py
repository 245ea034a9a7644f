"""A part of a file in memory, whose methods cannot die of SIGBUS.

Another process may cut the file at any time, and whoever then touches a page of the mapping that
is no longer part of it is killed. No check beforehand prevents that. So the methods do not touch
it: the kernel copies for them, by pread(2) where mapping and file are the same pages, else by
process_vm_readv(2), and answers with a short count. The size, asked afterwards, tells of the NUL
bytes with which the last page is filled up. What is left is what every read(2) has: bytes that are
cut off and written again while they are read may be seen as NUL bytes; `hold` excludes that, too.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import contextmanager
from enum import Enum
from typing import overload

from zpipe.channel.guard import guard
from zpipe.errors import SourceTruncated
from zpipe.kernel.copying import copy_memory
from zpipe.kernel.inspect import status_flags
from zpipe.kernel.mapping import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

    from typing_extensions import Buffer, Self

    Advice = Literal[
        "normal", "random", "sequential", "willneed", "dontneed", "cold", "pageout", "hugepage"
    ]


class MapMode(Enum):
    """What a mapping may be used for.

    >>> MapMode.PRIVATE.value
    'copy on write: changes are seen here alone, and lost in the end'
    """

    READ_ONLY = "read only"
    READ_WRITE = "read and write: the file is changed"
    PRIVATE = "copy on write: changes are seen here alone, and lost in the end"


# mmap has no name for the last two in Python 3.10: Linux 5.4, asm-generic/mman-common.h
_ADVICE: dict[Advice, int] = {
    "normal": mmap.MADV_NORMAL,
    "random": mmap.MADV_RANDOM,
    "sequential": mmap.MADV_SEQUENTIAL,
    "willneed": mmap.MADV_WILLNEED,
    "dontneed": mmap.MADV_DONTNEED,
    "hugepage": mmap.MADV_HUGEPAGE,
    "cold": 20,
    "pageout": 21,
}


_ONE_READ = 0x7FFFF000  # bytes that one system call moves at most: MAX_RW_COUNT


class MappedBuffer:
    """A part of a file in memory; made by `FileChannel.map`. Offsets and lengths are in bytes.

    >>> import tempfile
    >>> from zpipe.channel.file import FileChannel
    >>> from zpipe.channel.mapped import MapMode
    >>> with tempfile.NamedTemporaryFile() as file, FileChannel.open(file.name, "r+") as channel:
    ...     _ = channel.write(b"some text")
    ...     with channel.map(MapMode.READ_WRITE, 5, 4) as buffer:
    ...         buffer[0:4] = b"more"
    ...         buffer.force()
    ...     channel.read(9, position=0)
    b'some more'

    It outlives the channel. Slices are copies, as of `mmap.mmap`: `buffer[a:b]` is bytes. Methods
    raise ValueError once it is unmapped, and SourceTruncated where the file no longer holds what
    they are asked for; `raw` alone gives no such promise. Threads may use the methods at once;
    that nobody is inside one while it is unmapped is for the caller to see to.

    Source: mmap(2).
    """

    def __init__(self, fd: int, name: str, mode: MapMode, position: int, size: int):
        self.mode = mode
        self.position = position  # in the file, of the first byte
        self.name = name
        self._size = size
        self._lent: memoryview | None = None
        self._fd = os.dup(fd)
        try:
            info = os.fstat(self._fd)
            self._cuttable = stat.S_ISREG(info.st_mode)
            if not self._cuttable and not stat.S_ISBLK(info.st_mode):
                # a TCP socket would take the call, and mean something else
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
            direct = status_flags(self._fd) & os.O_DIRECT
            # the page cache is what is mapped, and what a read shows, unless it is O_DIRECT
            self._same = mode is not MapMode.PRIVATE and not direct
            self._mapping: Mapping | None = None
            if size:
                self._mapping = Mapping(
                    self._fd,
                    position,
                    size,
                    writable=mode is not MapMode.READ_ONLY,
                    private=mode is MapMode.PRIVATE,
                )
        except BaseException:
            fd, self._fd = self._fd, -1
            os.close(fd)
            raise

    def read_at(self, offset: int, count: int) -> bytes:
        """Return a copy of `count` bytes from `offset` on, all of which must lie inside.

        Raises: ValueError       they do not, or it is unmapped.
                SourceTruncated  the file ends before they do.
        """
        self._check(offset, count)
        if self._same and count <= _ONE_READ:
            data = os.pread(self._fd, count, self.position + offset)
            if len(data) == count:
                return data
        taken = bytearray(count)
        self.read_into(taken, offset)
        return bytes(taken)

    def read_into(self, buffer: Buffer, offset: int = 0) -> None:
        """Fill a writable buffer with what begins at `offset`; errors are those of `read_at`."""
        with memoryview(buffer).cast("B") as target:
            if target.readonly:
                raise TypeError(f"{self.name}: read_into: the buffer is read-only")
            self._check(offset, len(target))
            if not len(target):
                return
            if self._same:
                taken = self._read(target, offset)
            else:
                with self._part(offset, len(target)) as part:
                    taken = copy_memory(target, part)
            self._judge("read", offset, len(target), taken)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Store `data`, all of which must fit inside. The file never becomes longer by it.

        Raises: TypeError        the mapping is READ_ONLY.
                ValueError       it does not fit, or it is unmapped.
                SourceTruncated  the file ends before; what came before the end is stored.
        """
        if self.mode is MapMode.READ_ONLY:
            raise TypeError(f"{self.name}: write: the mapping is read-only")
        with memoryview(data).cast("B") as source:
            self._check(offset, len(source))
            if len(source):
                with self._part(offset, len(source)) as part:
                    stored = copy_memory(part, source)
                self._judge("write", offset, len(source), stored)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> bytes: ...
    def __getitem__(self, where: int | slice) -> int | bytes:
        offset, count = self._range(where)
        data = self.read_at(offset, count)
        return data if isinstance(where, slice) else data[0]

    def __setitem__(self, where: int | slice, value: int | Buffer) -> None:
        offset, count = self._range(where)
        if not isinstance(where, slice):
            if not isinstance(value, int):
                raise TypeError(f"{self.name}: write: one byte is an int, 0..255")
            self.write_at(offset, bytes([value]))
            return
        if isinstance(value, int):
            raise TypeError(f"{self.name}: write: a slice takes bytes")
        given = memoryview(value).nbytes
        if given != count:
            raise ValueError(f"{self.name}: write: {given} bytes for a slice of {count}")
        self.write_at(offset, value)

    def force(self, offset: int = 0, length: int | None = None) -> None:
        """Wait until what was stored in a range is on the disk; a length of None: to the end.

        Does nothing unless the mapping is READ_WRITE. Whole pages are written.

        Raises: OSError  EIO, ENOSPC: it could not be written.
        Source: msync(2).
        """
        mapping, count = self._span(offset, length)
        if mapping is not None and self.mode is MapMode.READ_WRITE:
            mapping.synchronize(offset, count)

    def load(self) -> None:
        """Read all of it into memory, and map the pages, so that `raw` does not wait for the disk.

        Raises: SourceTruncated  the file ends before the mapping does.
                OSError          EIO.
        Source: madvise(2), MADV_POPULATE_READ.
        """
        mapping, count = self._span(0, None)
        if mapping is not None:
            try:
                mapping.populate(0, count)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
            self._judge("load", 0, count, count)

    def is_loaded(self) -> bool:
        """Tell whether all of it is in memory now; True also where the kernel does not say.

        It says so of files only that the process owns or may write to (Linux 5.2).

        Source: mincore(2).
        """
        mapping, count = self._span(0, None)
        return mapping is None or mapping.resident(0, count)

    def advise(self, advice: Advice, offset: int = 0, length: int | None = None) -> None:
        """Tell the kernel how a range will be used; a length of None: to the end.

        Raises: ValueError  no such advice, or "dontneed" of a PRIVATE mapping: it would undo all
                            changes.
                OSError     EINVAL: this kernel, or this file, does not know it.
        Source: madvise(2).
        """
        if advice not in _ADVICE:
            raise ValueError(f"{self.name}: advise {advice}: one of {', '.join(_ADVICE)}")
        if advice == "dontneed" and self.mode is MapMode.PRIVATE:
            raise ValueError(f"{self.name}: advise dontneed: it would undo all private changes")
        mapping, count = self._span(offset, length)
        if mapping is not None:
            mapping.advise(_ADVICE[advice], offset, count)

    @contextmanager
    def hold(self, offset: int = 0, length: int | None = None) -> Iterator[memoryview]:
        """Lend a range as a read-only memoryview that is safe to touch; None: to the end.

        Where a read lease is granted, or the file is sealed against cutting, it is the mapping
        itself. Others who open the file for writing, or cut it, then wait for the end of the
        block, 45 s at most (lease-break-time): be quick, and do not open it for writing inside.
        Where none is granted, because somebody has the file open for writing, it is a copy.

        Raises: SourceTruncated  the file ends before the range does.
        Source: fcntl(2), "Leases".
        """
        mapping, count = self._span(offset, length)
        guarded = guard(self._fd) if mapping is not None else None
        if guarded is None:
            with memoryview(self.read_at(offset, count)) as copied:
                yield copied
            return
        try:
            self._judge("hold", offset, count, count)
            with self._part(offset, count) as part, part.toreadonly() as lent:
                yield lent
        finally:
            guarded.release()

    @property
    def raw(self) -> memoryview:
        """The mapping itself, without any guard: the quickest way, and a dangerous one.

        DANGER: when another process cuts the file, touching a page behind its new end kills this
        process by SIGBUS; Python cannot turn that into an exception, and a handler does not help.
        Bytes between the new end and the end of its page read as 0. Use it for files that nobody
        cuts, inside `hold`, or hand it to system calls only (os.write, sock.send), which answer
        EFAULT. It is released by `unmap`; slices of it must be released before.
        """
        self._open()
        if self._lent is None:
            self._lent = self._part(0, self._size)
        return self._lent

    @property
    def mapped(self) -> bool:
        """Whether it can be used still."""
        return self._fd >= 0

    def unmap(self) -> None:
        """Give the memory back now; may be called twice. What was stored reaches the file anyway.

        Raises: BufferError  a slice of `raw` is in use: it stays mapped.
        """
        if self._fd < 0:
            return
        if self._lent is not None:
            self._lent.release()
            self._lent = None
        if self._mapping is not None:
            try:
                self._mapping.close()
            except BufferError:
                raise BufferError(f"{self.name}: unmap: a slice of `raw` is in use") from None
            self._mapping = None
        fd, self._fd = self._fd, -1
        os.close(fd)

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(self, *_: object) -> None:
        self.unmap()

    def __del__(self) -> None:
        # the memory goes with its last view; the fd is nobody else's to close
        if getattr(self, "_fd", -1) >= 0:
            os.close(self._fd)
            self._fd = -1

    def __repr__(self) -> str:
        state = f"{self._size} bytes from {self.position}" if self._fd >= 0 else "unmapped"
        return f"<MappedBuffer {self.mode.name} {self.name}: {state}>"

    def _open(self) -> None:
        if self._fd < 0:
            raise ValueError(f"{self.name}: the buffer is unmapped")

    def _check(self, offset: int, count: int) -> None:
        self._open()
        if offset < 0 or count < 0 or offset + count > self._size:
            raise ValueError(
                f"{self.name}: {count} bytes from {offset}: outside of the {self._size} mapped"
            )

    def _range(self, where: int | slice) -> tuple[int, int]:
        self._open()
        if isinstance(where, slice):
            start, stop, step = where.indices(self._size)
            if step != 1:
                raise ValueError(f"{self.name}: slices have no step here")
            return start, max(0, stop - start)
        offset = where + self._size if where < 0 else where
        if not 0 <= offset < self._size:
            raise IndexError(f"{self.name}: byte {where}: outside of the {self._size} mapped")
        return offset, 1

    def _span(self, offset: int, length: int | None) -> tuple[Mapping | None, int]:
        """Return mapping and length of a range; no mapping where the range is empty."""
        count = self._size - offset if length is None else length
        self._check(offset, count)
        return (self._mapping if count else None), count

    def _part(self, offset: int, count: int) -> memoryview:
        return memoryview(b"") if self._mapping is None else self._mapping.view[offset:][:count]

    def _read(self, target: memoryview, offset: int) -> int:
        """Read from the file until `target` is full or the file ends; return the bytes."""
        taken = 0
        while taken < len(target):
            got = os.preadv(self._fd, [target[taken:]], self.position + offset + taken)
            if not got:
                break
            taken += got
        return taken

    def _judge(self, act: str, offset: int, count: int, done: int) -> None:
        """Raise SourceTruncated unless all was done, and the file still holds that range."""
        size = os.fstat(self._fd).st_size if self._cuttable else -1
        if self._cuttable and size < self.position + offset + count:
            raise SourceTruncated(
                f"{self.name}: {act}: the file was cut to {size} bytes while it was mapped",
                errno=errno.EFAULT,
            )
        if done < count:
            # it has been made longer again since, or a device ends there
            raise SourceTruncated(
                f"{self.name}: {act}: {done} of {count} bytes are there", errno=errno.EFAULT
            )
