"""What waits for a mirror: in memory, in pipes, and behind them in a file.

Bytes leave in the order in which they came. As soon as something was spilled, all that comes later
goes to the file, too, until it is empty again. Knows nothing of the mirror but the socket that it
is handed, and not how much may wait.
"""

from __future__ import annotations

import errno
import os
from collections import Counter, deque

from zpipe.engine.spill import Spill, default_folder
from zpipe.kernel.transfer import splice

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.pool import Pool

    Piped = tuple[Pipe, int]  # a pipe, and the bytes in it

CHUNK = 64 << 10  # small messages that wait are put together
_PIPES = 8  # that may wait at a time; a pipe may be full with little in it


class Lost(Exception):
    """`count` bytes could not be kept; `why` is a word of a bounded set."""

    def __init__(self, why: str, count: int):
        super().__init__(why, count)
        self.why = why
        self.count = count


class Backlog:
    """The bytes that one mirror has not taken yet, `size` of them."""

    __slots__ = ("_items", "_most", "_pipes", "_pool", "_spill", "size")

    def __init__(self, pool: Pool):
        self._pool = pool
        self._items: deque[bytearray | Piped] = deque()
        self._pipes = 0
        self._spill: Spill | None = None
        self._most = 0  # that may be spilled
        self.size = 0

    @property
    def spills(self) -> bool:
        """Tell whether there is a file, for which is what comes now."""
        return self._spill is not None

    @property
    def all_spilled(self) -> bool:
        """Tell whether nothing waits before the file."""
        return not self._items

    def add(self, data: bytes | bytearray) -> None:
        """Let a message wait in memory."""
        items = self._items
        last = items[-1] if items else None
        if isinstance(last, bytearray) and len(last) < CHUNK:
            last += data
        else:
            items.append(bytearray(data))
        self.size += len(data)

    def add_pipe(self, pipe: Pipe, count: int) -> None:
        """Let a pipe wait, with so many bytes in it."""
        if self._pipes < _PIPES:
            self._items.append((pipe, count))
            self._pipes += 1
            self.size += count
        else:
            self.add(pipe.take_out(count))
            self._pool.give_back(pipe)

    def send(self, sock: socket.SocketType) -> int:
        """Send what waits first, as far as it is taken. Returns: bytes; 0: nothing waits.

        Raises: BlockingIOError  the socket has no room.
                OSError          it is broken, or the file cannot be read.
        """
        items = self._items
        if not items and not self._fetch():
            return 0
        first = items[0]
        if isinstance(first, tuple):
            pipe, count = first
            sent = splice(pipe.reader, sock.fileno(), count)
            if sent == count:
                items.popleft()
                self._pipes -= 1
                self._pool.give_back(pipe)
            else:
                items[0] = (pipe, count - sent)
        else:
            sent = sock.send(first)
            if sent == len(first):
                items.popleft()
            else:
                del first[:sent]
        self.size -= sent
        return sent

    def spill(self, most: int) -> None:
        """Begin a file of at most so many bytes, for what came last and all that comes.

        Raises: Lost  no file can be had, or it does not take what came last.
        """
        try:
            self._spill = Spill(default_folder(), most, Counter())
        except OSError as error:
            raise Lost(_of_file(error), 0) from error
        self._most = most
        last = self._items.pop()
        if isinstance(last, tuple):
            self._pipes -= 1
            self.size -= last[1]
            self.store_pipe(*last)
        else:
            self.size -= len(last)
            self.store(last)

    def store(self, data: bytes | bytearray) -> None:
        """Add a message to the file. Raises: Lost."""
        rest = memoryview(data)
        while rest:
            pipe = self._pool.take(beyond=True)
            if pipe is None:
                raise Lost("no-pipes", len(rest))
            count = os.write(pipe.writer, rest[: pipe.capacity])
            rest = rest[count:]
            try:
                self.store_pipe(pipe, count)
            except Lost as lost:
                lost.count += len(rest)
                raise

    def store_pipe(self, pipe: Pipe, count: int) -> None:
        """Add what is in a pipe to the file: to the page cache of it, as a rule. Raises: Lost."""
        spill, pool = self._spill, self._pool
        assert spill is not None
        left = count
        try:
            while left and (moved := spill.store(pipe.reader, left)):
                left -= moved
        except OSError as error:
            why = _of_file(error)
        else:
            why = "spill-full" if spill.size + left > self._most else "no-space"
        self.size += count - left
        if left:
            pool.discard(pipe)
            raise Lost(why, left)
        pool.give_back(pipe)

    def _fetch(self) -> bool:
        """Let what was spilled first wait in a pipe. Returns: whether there was something."""
        spill = self._spill
        if spill is None:
            return False
        pool = self._pool
        pipe = pool.take(beyond=True)
        if pipe is None:
            raise OSError(errno.EMFILE, "")
        try:
            count = spill.fetch(pipe.writer)
        except BaseException:
            pool.discard(pipe)
            raise
        self._items.append((pipe, count))
        self._pipes += 1
        if not spill.size:
            spill.close()
            self._spill = None
        return True

    def drop(self) -> None:
        """Forget everything. May be called twice."""
        for item in self._items:
            if isinstance(item, tuple):
                self._pool.discard(item[0])
        self._items.clear()
        self.size = self._pipes = 0
        if self._spill is not None:
            self._spill.close()
            self._spill = None


def word(error: OSError) -> str:
    """Return a word of a bounded set for an error."""
    return _WORDS.get(error.errno or 0, "error")


def _of_file(error: OSError) -> str:
    """Return the word for what a file says: where there is no folder, a mirror may be there."""
    why = word(error)
    return why if why in ("no-fds", "no-space") else "error"


_WORDS = {
    errno.ECONNREFUSED: "refused",
    errno.ENOENT: "refused",
    errno.EAGAIN: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EMFILE: "no-fds",
    errno.ENFILE: "no-fds",
    errno.ENOSPC: "no-space",
    errno.EDQUOT: "no-space",
}
