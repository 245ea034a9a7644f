"""Locks on files that others heed: a lock is advice, and binds only those who ask for one."""

from __future__ import annotations

import threading

from zpipe.kernel import locks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self


class FileLock:
    """A range that is locked; made by `FileChannel.lock`. `count` None reaches beyond any end.

    >>> import tempfile
    >>> from zpipe.channel.file import FileChannel
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     with FileChannel.open(file.name, "r+") as one, FileChannel.open(file.name) as other:
    ...         with one.lock(0, 10):
    ...             try:
    ...                 other.lock(5, 1, shared=True, blocking=False)
    ...             except BlockingIOError:
    ...                 print("locked by somebody else")
    ...         other.lock(5, 1, shared=True, blocking=False).held
    locked by somebody else
    True
    """

    def __init__(self, table: Locks, position: int, count: int | None, shared: bool):
        self.position = position
        self.count = count
        self.shared = shared
        self._table = table

    @property
    def held(self) -> bool:
        """Whether it has not been given up yet."""
        return self._table.holds(self)

    def release(self) -> None:
        """Give it up; may be called twice. Closing the channel gives up all of its locks."""
        self._table.drop(self)

    def overlaps(self, other: FileLock) -> bool:
        """Tell whether a byte belongs to both."""
        return (self.count is None or other.position < self.position + self.count) and (
            other.count is None or self.position < other.position + other.count
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        end = "the end" if self.count is None else self.position + self.count
        kind = "shared" if self.shared else "exclusive"
        return f"<FileLock {kind} {self.position}..{end}{'' if self.held else ': released'}>"


class Locks:
    """The locks of one channel, which must not overlap.

    The kernel would merge two of them, and the end of the one would be the end of both.
    """

    def __init__(self, name: str):
        self._name = name
        self._fds: dict[FileLock, int] = {}  # -1: asked for, not yet held
        self._changing = threading.Lock()

    def take(self, fd: int, lock: FileLock, blocking: bool) -> FileLock:
        """Lock a range, and return the lock. Raises: as `FileChannel.lock`."""
        with self._changing:
            if any(lock.overlaps(other) for other in self._fds):
                raise ValueError(f"{self._name}: lock: this channel has a part of it already")
            self._fds[lock] = -1
        try:
            locks.lock(fd, lock.position, lock.count or 0, shared=lock.shared, wait=blocking)
        except BaseException:
            with self._changing:
                self._fds.pop(lock, None)
            raise
        self._fds[lock] = fd
        return lock

    def holds(self, lock: FileLock) -> bool:
        return self._fds.get(lock, -1) >= 0

    def drop(self, lock: FileLock) -> None:
        """Unlock, unless that was done before."""
        with self._changing:
            fd = self._fds.pop(lock, -1)
            if fd >= 0:
                locks.unlock(fd, lock.position, lock.count or 0)

    def drop_all(self) -> None:
        for lock in list(self._fds):
            self.drop(lock)
