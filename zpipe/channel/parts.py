"""What a CompositeBuffer is made of: memory, regions of files, and the count of who uses them.

It knows how to get at the bytes of one part; in which order parts stand it does not know.
"""

from __future__ import annotations

import os
import stat
import sys
import threading

from zpipe.channel.place import fd_of
from zpipe.errors import SourceTruncated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from typing_extensions import Buffer

    from zpipe.channel.place import HasFileno

    class Guarded(Protocol):
        """A file mapped into memory, read through methods that notice when it is cut."""

        @property
        def raw(self) -> memoryview: ...
        def read_into(self, buffer: Buffer, offset: int = 0) -> None: ...
        def read_at(self, offset: int, count: int) -> bytes: ...


_debug = os.environ.get("ZPIPE_DEBUG_LEAKS", "") not in ("", "0")


def debug_leaks(on: bool) -> None:
    """Warn (ResourceWarning) of buffers that nobody released, naming where they were made.

    It concerns buffers made from now on; ZPIPE_DEBUG_LEAKS=1 in the environment turns it on from
    the start. It costs about a microsecond for each buffer.
    """
    global _debug
    _debug = on


class FileRegion:
    """A part of a file, as a part of a CompositeBuffer: `count` bytes from `position` on.

    `source` is a regular file or a block device, as an fd or as anything with a fileno(); it is
    not closed, and its own position is neither used nor moved. Without a `count`, the region goes
    to where the file ends now.

    >>> import tempfile
    >>> from zpipe.channel.composite import wrap
    >>> with tempfile.TemporaryFile() as file:
    ...     _ = file.write(b"0123456789")
    ...     file.flush()
    ...     wrap(b"digits: ", FileRegion(file, 2, 3)).to_bytes()
    b'digits: 234'

    Raises: ValueError  not a file with positions, or position or count below 0.
            OSError     EBADF: the fd is closed.
    """

    __slots__ = ("count", "position", "source")

    def __init__(self, source: int | HasFileno, position: int = 0, count: int | None = None):
        self.source = source
        found = os.fstat(self.fileno())
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
            raise ValueError(f"{self._name()}: file region: neither a file nor a block device")
        if count is None:
            # a block device's fstat says 0
            size = found.st_size if stat.S_ISREG(found.st_mode) else _end(self.fileno())
            count = max(size - position, 0)
        if position < 0 or count < 0:
            raise ValueError(f"{self._name()}: file region: position or count is below 0")
        self.position, self.count = position, count

    def fileno(self) -> int:
        """Return the file's fd."""
        return fd_of(self.source)

    def _name(self) -> str:
        return f"fd {self.fileno()}"

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from `start` of the region on.

        Raises: SourceTruncated  the file ends before.
        """
        done = 0
        while done < len(target):
            got = os.preadv(self.fileno(), [target[done:]], self.position + start + done)
            if got == 0:
                raise self.truncated(start + done)
            done += got

    def truncated(self, start: int) -> SourceTruncated:
        """Return the error for a file that ends at `start` of the region."""
        return SourceTruncated(
            f"{self._name()}: read: the file ends at {self.position + start}, "
            f"before the region does, at {self.position + self.count}"
        )

    def __repr__(self) -> str:
        return f"FileRegion({self.source!r}, position={self.position}, count={self.count})"


def _end(fd: int) -> int:
    """Return the size of a block device; its position stays."""
    before = os.lseek(fd, 0, os.SEEK_CUR)
    size = os.lseek(fd, 0, os.SEEK_END)
    os.lseek(fd, before, os.SEEK_SET)
    return size


class Memory:
    """Bytes in memory, seen through a view of our own."""

    __slots__ = ("count", "view")

    def __init__(self, view: memoryview):
        self.view = view
        self.count = len(view)

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from `start` on."""
        target[:] = self.view[start : start + len(target)]

    def outgoing(self, start: int, stop: int) -> memoryview:
        """Return what a system call may read."""
        return self.view if stop - start == self.count else self.view[start:stop]

    def release(self) -> None:
        self.view.release()


class Mapped(Memory):
    """A mapped file: only the kernel may touch the view, for a file that is cut means SIGBUS."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: Guarded):
        super().__init__(memoryview(buffer.raw))
        self._buffer = buffer

    def read_into(self, start: int, target: memoryview) -> None:
        """Fill `target` from `start` on.

        Raises: SourceTruncated  the file was cut.
        """
        self._buffer.read_into(target, start)

    def confirm(self, stop: int) -> None:
        """Make sure that what a system call has taken was the file, up to `stop`.

        Up to the end of the last page the kernel finds NUL bytes where a file was cut.

        Raises: SourceTruncated  the file was cut.
        """
        self._buffer.read_at(stop - 1, 1)


def memory_of(data: object) -> Memory:
    """Return the memory of whatever has some.

    Raises: TypeError    it has none, or not in one piece.
            BufferError  it does not give it away.
    """
    if isinstance(data, (bytes, bytearray)):
        return Memory(memoryview(data))
    if hasattr(data, "raw") and hasattr(data, "read_into") and hasattr(data, "read_at"):
        return Mapped(data)
    given: Buffer = getattr(data, "view", data)  # type: ignore[arg-type]
    try:
        return Memory(memoryview(given).cast("B"))
    except TypeError as error:
        raise TypeError(
            f"composite buffer: cannot be made of {type(data).__name__}: {error}"
        ) from None


class Count:
    """How many use what a buffer is made of; with the last one, everything is given up."""

    __slots__ = ("_lock", "_on_release", "count", "held")

    def __init__(self, on_release: Callable[[], object] | None):
        self.count = 1
        self.held: list[Callable[[], object]] = []  # what lets go of each part
        self._on_release = on_release
        self._lock = threading.Lock()

    def retain(self, more: int) -> None:
        with self._lock:
            self._check(more, "retain")
            self.count += more

    def release(self, fewer: int) -> bool:
        with self._lock:
            self._check(fewer, "release")
            if fewer > self.count:
                raise ValueError(
                    f"composite buffer: release: {fewer} references given up, "
                    f"and there are {self.count}"
                )
            self.count -= fewer
            if self.count:
                return False
        let_go, self.held = self.held, []
        try:
            for release in let_go:
                release()
        finally:
            if self._on_release is not None:
                self._on_release()
        return True

    def _check(self, number: int, act: str) -> None:
        if number < 1:
            raise ValueError(f"composite buffer: {act}: {number} references: at least 1")
        if not self.count:
            raise ValueError("composite buffer: released")


class WatchedCount(Count):
    """One that says when it is forgotten before it comes to 0."""

    __slots__ = ("place",)

    def __init__(self, on_release: Callable[[], object] | None, place: str):
        super().__init__(on_release)
        self.place = place

    def __del__(self) -> None:
        if self.count:
            import warnings

            warnings.warn(
                f"composite buffer: never released: {self.count} references left; "
                f"made at {self.place}",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


def counted(on_release: Callable[[], object] | None) -> Count:
    """Return a new count of 1, watched in debug mode."""
    if not _debug:
        return Count(on_release)
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    place = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return WatchedCount(on_release, place)
