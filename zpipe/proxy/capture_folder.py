"""The folder of a capture: its index, how much room there is, and who may change them.

Several processes may share a folder. What changes the index, and what says how much room there is,
is done under the lock of `.state`. Room is counted in blocks of 4 KiB, as disks do: many small
connections fill one as surely as a big one. Connections that have ended go first when there is no
more, the oldest before the others.

Knows the names of files and the lengths of lines, not what is in them.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import stat
import threading
from contextlib import contextmanager
from time import monotonic, sleep

from zpipe.errors import UsageError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from zpipe.proxy.settings import Capture

VERSION = 1
INDEX = "index.jsonl"
# of a connection: when it began, in UTC; by which process it was recorded; a number
ID = re.compile(r"\d{8}T\d{6}\.\d{6}-(\d+)-\d+")
BLOCK = 4096
LINES = 256  # of the index, or chunks in one of them, between two pauses
PAUSE = 0.00005

_STATE = ".state"
_INDEX_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
_INDEXED = re.compile(rb'\{"v":1,"id":"(' + ID.pattern.encode() + rb')"')

# locks of fcntl(2) exclude processes, not threads, and are gone with any close of the file
_in_process = threading.Lock()
_grants = itertools.count(1)


def blocks(size: int) -> int:
    """Return what a file takes of a disk."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


class Folder:
    """The index of one, and the room in it. Used by the writer only, once it is made.

    `.state` says how many bytes are used, and how many of these each process has been granted and
    has not written yet. Where it is not to be trusted (it is not there, or a process has died with
    a grant), the files are measured.
    """

    def __init__(self, capture: Capture):
        """Raises: UsageError  it cannot be made, is none, or cannot be written to."""
        self.name = capture.directory
        self._total = capture.total
        self._left = 0  # granted and not written; less than 0 after long lines of the index
        self._key = ""
        self._fd = self._state = self._index = -1
        self._again = 0.0  # when to look for room again
        try:
            try:
                os.mkdir(self.name, 0o700)
            except FileExistsError:
                pass
            self._fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # both stay open: lines can be written when no fd is left
            self._state = self.open(_STATE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            self._index = self.open(INDEX, _INDEX_FLAGS)
        except OSError as error:
            self._close()
            raise UsageError(f"{self.name}: capture: {reason(error)}") from error

    def open(self, name: str, flags: int) -> int:
        """Open a file in it, for us alone if it is new.

        Raises: OSError  also where somebody else has put a file of his there: he could read what
                         is written to it, or have another file overwritten.
        """
        if not flags & os.O_CREAT:
            flags |= os.O_NONBLOCK  # a FIFO must not be waited for
        fd = os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=self._fd)
        if flags & os.O_EXCL:
            return fd
        found = os.fstat(fd)
        ours = found.st_uid in (os.geteuid(), 0) and found.st_nlink <= 1  # 0: another has come
        if not (ours and stat.S_ISREG(found.st_mode)):
            os.close(fd)
            raise OSError(f"{name} is a file of somebody else, or a link")
        return fd

    def remove(self, name: str) -> None:
        """Remove a file from it, if it is there."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except OSError:
            pass

    def close(self) -> None:
        """Give back what was granted and is not needed. May be called twice."""
        if self._fd < 0:
            return
        try:
            if self._key:
                with self._locked():
                    used, grants = self._standing()
                    if used is not None and grants.pop(self._key, None) is not None:
                        self._note(used - self._left, grants)
        except OSError:
            pass  # then it is measured by the next one
        self._close()

    def _close(self) -> None:
        with _in_process:  # to close a file drops its locks, those of other recorders, too
            for fd in (self._fd, self._state, self._index):
                if fd >= 0:
                    os.close(fd)
        self._fd = self._state = self._index = -1

    def take(self, count: int) -> int:
        """Return how many of so many bytes there is room for. Raises: OSError."""
        if count > self._left and monotonic() >= self._again:
            self._claim(count - self._left)
        taken = max(0, min(count, self._left))
        self._left -= taken
        return taken

    def give(self, count: int) -> None:
        """Take back room that was not needed after all, or is free again."""
        self._left += count

    def append(self, lines: bytes) -> None:
        """Add lines to the index, all of them or none.

        They are written even if the bound is exceeded by them, and room is made after that: files
        of which no line tells could never be removed.

        Raises: OSError.
        """
        with self._locked():
            fd = self._present_index()
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size = _whole(fd, size)  # the machine went down when the last one was written
                os.ftruncate(fd, size)
            if os.write(fd, lines) < len(lines):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._left -= len(lines)
        self._again = 0.0  # what has ended may go
        if self._left < 0:
            try:
                self._claim(-self._left)
            except OSError:
                pass  # whoever needs it will try again, and tell

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Within: nobody else is at the index or at the state."""
        with _in_process:
            os.lockf(self._state, os.F_LOCK, 0)
            try:
                yield
            finally:
                os.lockf(self._state, os.F_ULOCK, 0)

    def _present_index(self) -> int:
        """Return an fd of the index that is in place now: others may have put in a shorter one.

        Raises: OSError.
        """
        try:
            there = os.stat(INDEX, dir_fd=self._fd, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._index)):
                return self._index
        except FileNotFoundError:
            pass
        fd = self.open(INDEX, _INDEX_FLAGS)
        os.close(self._index)
        self._index = fd
        return fd

    def _standing(self) -> tuple[int | None, dict[str, int]]:
        """Return what the state says; None: it cannot be trusted."""
        try:
            state = json.loads(os.pread(self._state, 1 << 20, 0))
            used, grants = state["used"], state["grants"]
            if type(used) is not int or not all(type(each) is int for each in grants.values()):
                return None, {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, {}
        living = {key: grant for key, grant in grants.items() if _lives(key)}
        return (used if len(living) == len(grants) else None), living

    def _note(self, used: int, grants: dict[str, int]) -> None:
        text = json.dumps({"v": VERSION, "used": used, "grants": grants}).encode()
        os.pwrite(self._state, text, 0)
        os.ftruncate(self._state, len(text))

    def _claim(self, more: int) -> None:
        """Be granted `more` bytes, or what there is when old connections have gone.

        Raises: OSError.
        """
        self._key = self._key or f"{_process(os.getpid())}:{next(_grants)}"
        with self._locked():
            used, grants = self._standing()
            wanted = max(more, self._total // 64)  # so that this is not done for every write
            grants[self._key] = self._left
            if used is None or used + wanted > self._total:
                sizes, used = self._measured()
                used += sum(grants.values())
                if used + wanted > self._total:
                    need = used + wanted - self._total
                    used -= self._evict(need, self._total // 8, sizes, grants)
            granted = max(0, min(wanted, self._total - used))
            self._left += granted
            grants[self._key] = self._left
            self._note(used + granted, grants)
        if granted < more:
            # what is open has filled it; to measure it again for every message would be no help
            self._again = monotonic() + 1

    def _measured(self) -> tuple[dict[str, int], int]:
        """Return what the files of each connection take, and what there is altogether."""
        sizes: dict[str, int] = {}
        used = 0
        with os.scandir(self._fd) as entries:
            for entry in entries:
                name, _, kind = entry.name.rpartition(".")
                ours = kind in ("up", "down") and ID.fullmatch(name)
                if not ours and entry.name != INDEX:
                    continue
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
                if ours:
                    size = blocks(size)
                    sizes[name] = sizes.get(name, 0) + size
                used += size
        return sizes, used

    def _evict(self, need: int, more: int, sizes: dict[str, int], grants: dict[str, int]) -> int:
        """Remove connections that have ended until there are `need` bytes, and `more`, so that it
        need not be done again soon. Return how many there are.

        Raises: OSError.
        """
        lines = self._lines()
        indexed = {name for name, _ in lines}
        pids = {key.partition(":")[0] for key in grants}
        freed = 0
        for name in sorted(sizes.keys() - indexed):
            # the files of a process that died; those of the living are still being written
            if freed < need + more and name.split("-")[1] not in pids:
                self._remove(name)
                freed += sizes[name]
        gone, offset = [], 0
        for name, length in lines:
            if freed >= need + more:
                break
            gone.append(name)
            offset += length
            freed += sizes.get(name, 0) + length
        if not offset:
            return freed
        try:
            self._cut(offset)
        except OSError:
            # a full disk: there is room for the new index when the files have gone
            for name in gone:
                self._remove(name)
            self._cut(offset)
        for name in gone:
            self._remove(name)
        return freed

    def _remove(self, name: str) -> None:
        if name:
            self.remove(f"{name}.up")
            self.remove(f"{name}.down")

    def _lines(self) -> list[tuple[str, int]]:
        """Return the names in the index, the oldest first, and the lengths of their lines."""
        found = []
        with open(self._present_index(), "rb", closefd=False) as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                ours = _INDEXED.match(line)
                found.append((ours[1].decode() if ours else "", len(line)))
                if number % LINES == 0:
                    sleep(PAUSE)
        return found

    def _cut(self, offset: int) -> None:
        """Put an index in place that begins at an offset of the present one. Raises: OSError."""
        new = f"{INDEX}.new"
        self.remove(new)
        try:
            fd = self.open(new, _INDEX_FLAGS & ~os.O_APPEND | os.O_EXCL)
            try:
                while sent := os.sendfile(fd, self._present_index(), offset, 64 << 20):
                    offset += sent
            finally:
                os.close(fd)
            os.rename(new, INDEX, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self.remove(new)
            raise


def _whole(fd: int, size: int) -> int:
    """Return where the last line that has an end ends."""
    while size:
        first = max(0, size - (64 << 10))
        found = os.pread(fd, size - first, first).rfind(b"\n")
        if found >= 0:
            return first + found + 1
        size = first
    return 0


def _process(pid: int) -> str:
    """Return what tells a process from all others, on this machine, until it is restarted."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            born = file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        born = ""
    return f"{pid}:{born}"


def _lives(key: str) -> bool:
    process = key.rpartition(":")[0]
    pid = process.partition(":")[0]
    return pid.isdecimal() and _process(int(pid)) == process
