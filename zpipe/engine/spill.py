"""A buffer between a hop and a slow sink: two pipes, and between them files without names.

Bytes go from the inlet straight to the outlet while the sink keeps up, and through files while it
does not. A file is written once from begin to end, never again, and dropped when it has been read:
what is spliced out of it are references to its pages, and they must not change. Its pages outlive
it in the pipes.

A thread of its own does all this, so that a slow disk holds nobody up but this sink. It never
touches the sink.
"""

from __future__ import annotations

import os
import select
import threading
from collections import Counter, deque
from errno import EDQUOT, EFBIG, EISDIR, ENOSPC, EOPNOTSUPP

from zpipe.kernel import pipes
from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import splice, splice_at
from zpipe.movers.contract import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SEGMENT = 16 << 20  # a file is dropped once it is read: the space of so much may lie idle
_COPY = 64 * 1024
_NO_SPACE = frozenset({ENOSPC, EDQUOT, EFBIG})


def default_folder() -> str:
    """Return where spilled bytes lie unless the user says so: on a disk, not in memory."""
    return os.environ.get("TMPDIR") or "/var/tmp"


class _Segment:
    __slots__ = ("fd", "read", "written")

    def __init__(self, folder: str):
        self.fd = _nameless(folder)
        self.read = self.written = 0


class Spill:
    """A queue of at most `most` bytes in files without names in `folder`.

    Raises: OSError  no file can be made there.
    """

    def __init__(self, folder: str, most: int, calls: Counter[str]):
        self.size = 0
        self.deepest = 0
        self._folder = folder
        self._most = most
        self._calls = calls
        self._by_copy = False
        self._segments = deque([_Segment(folder)])  # at once: a folder that takes none is told now

    @property
    def room(self) -> int:
        return self._most - self.size

    def store(self, reader: int, count: int) -> int:
        """Take up to `count` bytes that wait in a pipe; return how many, 0: there is no room.

        Raises: OSError  the file cannot be written, or the next one not be made.
        """
        if min(count, self.room) <= 0:
            return 0
        try:
            if not self._segments or self._segments[-1].written >= SEGMENT:
                self._segments.append(_Segment(self._folder))
            last = self._segments[-1]
            moved = self._write(reader, last, min(count, self.room, SEGMENT - last.written))
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            self._most = self.size  # what the disk takes is the bound, whatever was asked for
            return 0
        last.written += moved
        self.size += moved
        self.deepest = max(self.deepest, self.size)
        return moved

    def fetch(self, writer: int) -> int:
        """Give what was stored first to a pipe, as much as it takes.

        Raises: BlockingIOError  the pipe is full.
                OSError          the file cannot be read.
        """
        first = self._segments[0]
        count = first.written - first.read
        moved = self._read(first, writer, count)
        first.read += moved
        self.size -= moved
        if first.read == first.written and (first.written >= SEGMENT or not self.size):
            os.close(first.fd)
            self._segments.popleft()
        return moved

    def close(self) -> None:
        """Drop everything."""
        while self._segments:
            os.close(self._segments.popleft().fd)

    def _write(self, reader: int, last: _Segment, count: int) -> int:
        if not self._by_copy:
            try:
                self._calls["splice"] += 1
                return splice(reader, last.fd, count)
            except OSError as error:
                if error.errno not in SPLICE_REFUSED:
                    raise
                self._by_copy = True
        # room first: what was read out of the pipe could not be put back
        os.posix_fallocate(last.fd, last.written, min(count, _COPY))
        self._calls["read"] += 1
        data = os.read(reader, min(count, _COPY))
        self._calls["write"] += 1
        return os.pwrite(last.fd, data, last.written)

    def _read(self, first: _Segment, writer: int, count: int) -> int:
        if not self._by_copy:
            try:
                self._calls["splice"] += 1
                return splice_at(first.fd, first.read, writer, count)
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno not in SPLICE_REFUSED:
                    raise
                self._by_copy = True
        self._calls["write"] += 1
        return os.write(writer, os.pread(first.fd, min(count, _COPY), first.read))


class Stage:
    """The thread between `inlet` and `outlet`; `passed` counts bytes that have left the inlet.

    The outlet is refilled when its reader has said by `hungry` that it is empty: to ask the pipe
    itself could wait for a write to a slow disk, under which the kernel holds the pipe. For the
    same reason the inlet is left alone by others until all that it was given has passed.

    When the inlet's writer is closed, everything is passed on, and then the outlet's is closed.
    """

    def __init__(
        self,
        folder: str,
        most: int,
        capacity: int,
        wake: Callable[[], None],
    ):
        """Raises: OSError  no pipes, no thread, or no file in that folder."""
        self.passed = 0
        self.done = False
        self.fault: OSError | None = None
        self.filled: Callable[[int], None] | None = None  # told what the outlet got; 0: the end
        self.calls: Counter[str] = Counter()  # of the thread
        self.spill = Spill(folder, most, self.calls)
        self._wake = wake
        self._given_up = False
        self._ended = False
        self._hungry = True
        self._lock = threading.Lock()
        self._hunger = -1
        made: list[pipes.Pipe] = []
        try:
            made.append(pipes.Pipe(capacity))
            made.append(pipes.Pipe(capacity))
            self._hunger = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.inlet, self.outlet = made
            self._thread = threading.Thread(target=self._run, daemon=True)
            start(self._thread)
        except OSError:
            for pipe in made:
                pipe.close()
            if self._hunger >= 0:
                os.close(self._hunger)
            self.spill.close()
            raise

    def hungry(self) -> None:
        """Say that the outlet is empty."""
        with self._lock:
            if self._hunger >= 0:
                os.eventfd_write(self._hunger, 1)

    def close(self, seconds: float) -> None:
        """Pass nothing on any more, and release the pipes.

        A thread that does not end in so many seconds, since its disk does not, keeps them.
        """
        self._given_up = True
        self.hungry()
        self._thread.join(seconds)
        if not self._thread.is_alive():
            self.inlet.close()
            self.outlet.close()

    def _run(self) -> None:
        try:
            while not self._given_up and self._turn():
                self._wait()
        except OSError as error:
            self.fault = error
        finally:
            self.spill.close()
            with self._lock:
                os.close(self._hunger)
                self._hunger = -1
            self.outlet.close_writer()
            self.done = True
            if self.filled is not None:
                self.filled(0)
            self._wake()

    def _turn(self) -> bool:
        """Move what can be moved; False when there is nothing left and nothing to come."""
        while not self._given_up:
            self._heed()
            waiting = pipes.buffered(self.inlet.reader)
            moved = 0
            try:
                if not self._hungry:
                    moved = self.spill.store(self.inlet.reader, waiting) if waiting else 0
                elif self.spill.size:
                    self._tell(self.spill.fetch(self.outlet.writer))
                    continue
                elif waiting:
                    moved = self._straight(waiting)
                    self._tell(moved)
            except BlockingIOError:
                # it was emptied while it was filled, and said so too early; it will say so again
                self._hungry = False
                continue
            if moved:
                self.passed += moved
                self._wake()
                continue
            # asked for last: who gives up says so first, and then wakes
            return not self._given_up and (waiting > 0 or self.spill.size > 0 or not self._ended)
        return False

    def _straight(self, count: int) -> int:
        """Move from inlet to outlet, past the files."""
        try:
            self.calls["splice"] += 1
            return splice(self.inlet.reader, self.outlet.writer, count)
        except OSError as error:
            if error.errno not in SPLICE_REFUSED:
                raise
        # the outlet is empty: it takes all of this
        room = min(count, _COPY, self.outlet.capacity)
        return os.write(self.outlet.writer, os.read(self.inlet.reader, room))

    def _tell(self, count: int) -> None:
        """Tell who reads the outlet that it has bytes."""
        self._hungry = False
        if self.filled is not None:
            self.filled(count)

    def _heed(self) -> None:
        try:
            os.eventfd_read(self._hunger)
            self._hungry = True
        except BlockingIOError:
            pass

    def _wait(self) -> None:
        """Sleep until there is something for an empty outlet or for the files."""
        poller = select.poll()
        poller.register(self._hunger, select.POLLIN)
        if not self._ended and (self._hungry or self.spill.room > 0):
            poller.register(self.inlet.reader, select.POLLIN)
        for fd, event in poller.poll():
            if fd == self.inlet.reader and event == select.POLLHUP:
                self._ended = True  # and empty


def _nameless(folder: str) -> int:
    """Return a new file that has no name and goes with its last fd; only its owner may open it."""
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # a filesystem without O_TMPFILE, and a kernel without it (open(2))
        if error.errno not in (EOPNOTSUPP, EISDIR):
            raise
    import tempfile

    fd, name = tempfile.mkstemp(dir=folder)
    os.unlink(name)
    return fd
