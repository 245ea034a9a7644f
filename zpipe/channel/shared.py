"""A stream of bytes from one process to another through memory that both have mapped.

How the sides tell each other where they are is in `side`, and what the memory looks like in `ring`.

A hostile peer can stop, lie, or change bytes while they are looked at. It cannot make this process
touch what is not the ring, nor end it by SIGBUS.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from contextlib import ExitStack, contextmanager

from zpipe.channel.bound import Bound
from zpipe.channel.direct import PoolStatistics
from zpipe.channel.ring import MAGIC, VERSION, examine, make, refused
from zpipe.channel.side import OTHER, Role, Side, end_of
from zpipe.kernel.memory import PAGE, is_eventfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer, Self

LARGEST = 1 << 30  # bytes of a ring

_ROLES: tuple[Role, Role] = ("producer", "consumer")
_MESSAGE = struct.Struct("=8sII")  # magic, version, the receiver's role
_FDS = 4  # of a message: the memory, data, room, and an end of the pair of sockets


class SharedBuffer(Side):
    """One side of a bounded stream of bytes between two processes: a producer or a consumer.

    One process makes it (`create`) and sends the other side over a UNIX socket (`send`), another
    one takes it from there (`receive`). `pair` makes both in one process, for threads.

    >>> here, there = socket.socketpair()
    >>> with SharedBuffer.create(65536) as producer:
    ...     producer.send(here)
    ...     consumer = SharedBuffer.receive(there)  # as a rule in another process
    ...     producer.write(b"hello ")
    ...     with producer.reserve(5) as view:
    ...         view[:] = b"world"
    ...     producer.commit(5)
    ...     bytes(consumer.peek(3)), consumer.read(100)
    6
    (b'hel', b'hello world')
    >>> consumer.read(100), consumer.finished  # the producer has come to its end
    (b'', True)
    >>> consumer.close(); here.close(); there.close()

    When the other side is closed or its process ends, however that happens, the consumer gets what
    was written before and then the end (`b""`; `finished` says whether it was on purpose), and the
    producer BrokenPipeError. A producer's `with` block that an exception leaves is no end on
    purpose. After a fork, close in each process the side that the other one uses: as with a pipe,
    the end comes when the last copy is closed.

    `fileno()` is for poll and the like, and readable when there is news: look at `available`
    first, which takes the news in. That the peer is gone makes `peer_fileno()` hang up (POLLHUP).

    One thread at a time may use a side. `capacity` is rounded up to whole pages.

    Raises: ValueError              a capacity that is not 1 byte to 1 GiB; any use after close().
            io.UnsupportedOperation the other role's method.
            TransferError           the peer, or what it sent, is not to be trusted.
            TimeoutError            the time (`timeout` in seconds; None: for ever) was over.
            OSError                 ENOMEM, EMFILE, ENFILE.
    Source: memfd_create(2), eventfd(2), unix(7).
    """

    # how one comes to be

    @classmethod
    def create(cls, capacity: int, role: Role = "producer") -> Self:
        """Make a ring and return this process's side of it; the other one is for `send`."""
        if role not in _ROLES:
            raise ValueError(f"shared buffer: role {role!r}: it is producer or consumer")
        if not 1 <= capacity <= LARGEST:
            # all of it is allocated now: the kernel would fill the machine's memory before it fails
            raise ValueError(f"shared buffer: a capacity of {capacity}: it is 1 to {LARGEST}")
        capacity = -(-capacity // PAGE) * PAGE
        with ExitStack() as stack:
            fds: list[int] = []

            def keep(fd: int) -> None:
                stack.callback(os.close, fd)
                fds.append(fd)

            keep(make(capacity))
            for _ in range(2):
                keep(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
            for end in socket.socketpair():
                keep(end.detach())
            made = cls(role, (fds[0], fds[1], fds[2], fds[3]), capacity)
            made._memory, made._untold = fds[0], fds[4]
            stack.pop_all()
        return made

    @classmethod
    def pair(cls, capacity: int) -> tuple[Self, Self]:
        """Return a producer and its consumer, both in this process."""
        here, there = socket.socketpair()
        with here, there, ExitStack() as stack:
            producer = cls.create(capacity)
            stack.callback(producer.close)
            producer.send(here)
            consumer = cls.receive(there, largest=producer.capacity)
            stack.pop_all()
        return producer, consumer

    def send(self, sock: socket.socket) -> None:
        """Send the other side over a UNIX socket, once; a byte stream may go on after it.

        What was written before is there for the consumer that gets it.

        Raises: ValueError  it has been sent.
                OSError     as sendmsg(2); it can be tried again.
        """
        self._open()
        if self._untold < 0:
            raise ValueError("shared buffer: send: it has been sent")
        data, room = self._fds_by_use()
        message = _MESSAGE.pack(MAGIC, VERSION, _ROLES.index(OTHER[self.role]))
        sent = socket.send_fds(sock, [message], [self._memory, data, room, self._untold])
        if sent < len(message):
            sock.sendall(message[sent:])
        self._forget_other_side()

    @classmethod
    def receive(cls, sock: socket.socket, *, largest: int = LARGEST) -> Self:
        """Take the other side from a UNIX socket, waiting as the socket does.

        No byte that follows is taken. `largest` bounds the capacity, and so the memory mapped.

        Raises: TransferError  the peer closed, or sent something else or something unsafe.
                OSError        as recvmsg(2).
        """
        # the control buffer has room for exactly so many fds: the kernel closes what is more
        message, fds, flags, _ = socket.recv_fds(sock, _MESSAGE.size, _FDS, socket.MSG_CMSG_CLOEXEC)
        with ExitStack() as stack:
            for fd in fds:
                stack.callback(os.close, fd)
            while 0 < len(message) < _MESSAGE.size and (more := sock.recv(1)):
                message += more
            if not message:
                raise refused("the peer closed the socket")
            if len(message) < _MESSAGE.size or len(fds) != _FDS or flags & socket.MSG_CTRUNC:
                raise refused("what the peer sent is no shared buffer")
            magic, version, role = _MESSAGE.unpack(message)
            if magic != MAGIC:
                raise refused("what the peer sent is no shared buffer")
            if version != VERSION:
                raise refused(f"it is of version {version}, and this is version {VERSION}")
            if role >= len(_ROLES):
                raise refused("this version knows no such role")
            memory, data, room, life = fds
            if not (is_eventfd(data) and is_eventfd(room)):
                raise refused("what should be an eventfd is none")
            if not stat.S_ISSOCK(os.fstat(life).st_mode):
                raise refused("what should be a socket is none")
            os.set_blocking(data, False)
            os.set_blocking(room, False)
            capacity = examine(memory, largest)
            try:
                made = cls(_ROLES[role], (memory, data, room, life), capacity)
            except PermissionError:
                raise refused("it cannot be mapped for writing") from None
            stack.pop_all()
        os.close(memory)
        return made

    def _fds_by_use(self) -> tuple[int, int]:
        """Return the eventfds for data and for room."""
        both = (self._tell, self._news)
        return both if self.role == "producer" else (both[1], both[0])

    # the producer

    def write(self, data: Buffer, timeout: float | None = None) -> int:
        """Copy all of `data` into the ring, waiting for room.

        Returns: bytes written: all, or fewer when the time was over.
        Raises: TimeoutError     the time was over and there was no room at all.
                BrokenPipeError  the consumer is gone; what it has not read is lost.
        """
        self._must_be("producer")
        self._end_loan()
        end = end_of(timeout)
        written = 0
        if self._peer_gone():
            raise _no_consumer()
        with memoryview(data) as given, given.cast("B") as view:
            while written < len(view):
                try:
                    if not self._wait(end):
                        raise _no_consumer()
                except TimeoutError:
                    if written:
                        break
                    raise
                count = min(self._allowed - self._done, len(view) - written, self._piece)
                self._ring.put(self._done, view[written : written + count])
                self._advance(count)
                written += count
        return written

    def reserve(self, count: int, timeout: float | None = None) -> memoryview:
        """Return a view of room for 1 to `count` bytes, to be filled and then committed.

        It is shorter than asked for where there is less room, or where the ring's memory ends. It
        ends with the next call that moves or lends anything; slices of it have to be released by
        then, for what is written to them later lands in bytes that the consumer reads.

        Raises: TimeoutError     the time was over and there was no room at all.
                BrokenPipeError  the consumer is gone.
        """
        self._must_be("producer")
        _positive("reserve", count)
        self._end_loan()
        if self._peer_gone() or not self._wait(end_of(timeout)):
            raise _no_consumer()
        return self._lend(count)

    def commit(self, count: int) -> None:
        """Let the consumer have the first `count` bytes of what was reserved; the rest is given up.

        Raises: ValueError  more than was reserved.
        """
        self._must_be("producer")
        if not 0 <= count <= self._lent_count:
            raise ValueError(
                f"shared buffer: commit: {count} bytes, of {self._lent_count} reserved"
            )
        self._end_loan()
        if count:
            self._advance(count)

    # the consumer

    def read(self, count: int, timeout: float | None = None) -> bytes:
        """Copy 1 to `count` bytes out of the ring, waiting for the first; `b""` at the end.

        Raises: TimeoutError  the time was over and nothing had come.
        """
        self._must_be("consumer")
        _positive("read", count)
        self._end_loan()
        if not self._wait(end_of(timeout)):
            return b""
        count = min(count, self._allowed - self._done)
        data = self._ring.get(self._done, count)
        self._advance(count)
        return data

    def read_into(self, target: Buffer, timeout: float | None = None) -> int:
        """Copy up to as many bytes as a writable buffer takes; return how many, 0 at the end.

        Raises: TimeoutError  the time was over and nothing had come.
        """
        self._must_be("consumer")
        self._end_loan()
        with memoryview(target) as given, given.cast("B") as view:
            _positive("read", len(view))
            if not self._wait(end_of(timeout)):
                return 0
            count = min(len(view), self._allowed - self._done)
            self._ring.get_into(self._done, view[:count])
        self._advance(count)
        return count

    def peek(self, count: int | None = None, timeout: float | None = None) -> memoryview:
        """Return a view of the next 1 to `count` bytes, to be consumed later; empty at the end.

        Without a `count`, of all that there is, up to where the ring's memory ends. It ends with
        the next call that moves or lends anything. The peer can change what it shows until it is
        consumed: what must not change between a check and its use is to be copied first (`read`).

        Raises: TimeoutError  the time was over and nothing had come.
        """
        self._must_be("consumer")
        _positive("peek", 1 if count is None else count)
        self._end_loan()
        self._wait(end_of(timeout))
        with self._lend(self.capacity if count is None else count) as view:
            self._lent = view.toreadonly()
        return self._lent

    def consume(self, count: int) -> None:
        """Give the room of the next `count` bytes back to the producer, looked at or not.

        Raises: ValueError  more than have come.
        """
        self._must_be("consumer")
        if not 0 <= count <= self._allowed - self._done:
            raise ValueError(
                f"shared buffer: consume: {count} bytes, of {self._allowed - self._done}"
            )
        self._end_loan()
        if count:
            self._advance(count)

    @property
    def finished(self) -> bool:
        """Whether the end that was read is one on purpose: the producer was closed, not killed."""
        return self._finished


def _no_consumer() -> BrokenPipeError:
    return BrokenPipeError(errno.EPIPE, "shared buffer: write: the consumer is gone")


def _positive(act: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"shared buffer: {act}: {count} bytes: at least 1")


class SharedBufferPool:
    """At most `count` SharedBuffers of one capacity at a time. Thread-safe.

    >>> with SharedBufferPool(65536, count=4) as pool, pool.borrow() as producer:
    ...     producer.capacity, pool.statistics.borrowed
    (65536, 1)

    Only their number is bounded: each is new, since the memory of one that has been sent may still
    be mapped by whoever got it.
    """

    def __init__(self, capacity: int, count: int):
        self._bound = Bound("shared buffer pool", count)
        self._capacity = capacity
        self._lock = threading.Lock()
        self._made = 0

    @contextmanager
    def borrow(
        self, timeout: float | None = None, *, role: Role = "producer"
    ) -> Iterator[SharedBuffer]:
        """Make one for a `with` block, waiting up to `timeout` seconds until it may be made.

        Raises: TimeoutError  all were in use, all the time.
                ValueError    the pool is closed.
        """
        self._bound.take(timeout)
        try:
            with SharedBuffer.create(self._capacity, role) as buffer:
                with self._lock:
                    self._made += 1
                yield buffer
        finally:
            self._bound.give()

    @property
    def statistics(self) -> PoolStatistics:
        """Return what the pool did and has, now."""
        return PoolStatistics(self._bound.taken, 0, self._made, self._bound.waits)

    def close(self) -> None:
        """Lend no more; those that are in use end with their blocks."""
        self._bound.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
