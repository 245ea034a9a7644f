"""How the two sides of a shared buffer tell each other how far they are, and that they are gone.

The kernel copies nothing and carries only counts: an eventfd for each direction takes the number
of bytes that were put in ("data") or taken out ("room"), and the other side adds up what it reads
from there. So a wake-up cannot be missed: a count waits in the eventfd until it is read, and there
is no flag to be looked at in the wrong order. And no barrier is needed that Python does not have:
who has read a count from the eventfd sees all that was stored before it was written there, on
every processor. The counters in the header say the same; they are only checked against it.

That the other side is gone is told by a pair of sockets made for it, of which each side has one
end: the kernel closes it however the process ends, and then the other end hangs up. A pidfd would
need the right pid (that of a socket's peer is the pid of who made the socket, long gone perhaps,
or used again) and would know nothing of close(); the socket over which the buffer is sent belongs
to the user, who may close it or go on using it.

What is done with the bytes, and how the other process comes by its side, it does not know.
"""

from __future__ import annotations

import io
import math
import os
import select
import time
from typing import Literal

from zpipe.channel.ring import FINISHED, HEAD, TAIL, Ring
from zpipe.errors import TransferError
from zpipe.kernel.memory import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

Role = Literal["producer", "consumer"]

OTHER: dict[Role, Role] = {"producer": "consumer", "consumer": "producer"}

_LONGEST = 1 << 30  # milliseconds that poll is given; it takes an int


class Side:
    """One side: where it is, how far it may go, and what keeps it informed.

    Both roles are the same: they have come to `_done`, and may go on to `_allowed`. For a consumer
    that is where the producer is; for a producer, where the consumer is and a capacity ahead.
    """

    _life = -1  # the end of the pair of sockets; -1: closed
    _untold = -1  # the other end, until it is sent
    _memory = -1  # the ring's fd, until it is sent

    def __init__(self, role: Role, fds: tuple[int, int, int, int], capacity: int):
        self._ring = Ring(fds[0], capacity)
        self.role = role
        self.capacity = capacity
        _, data, room, self._life = fds
        self._news, self._tell = (room, data) if role == "producer" else (data, room)
        # `_allowed` is so much more than the peer's counter
        self._done = 0
        self._allowed = self._ahead = capacity if role == "producer" else 0
        self._own, self._peer = (HEAD, TAIL) if role == "producer" else (TAIL, HEAD)
        # a piece at a time, so that the other side works on one while this one makes the next
        self._piece = max(PAGE, capacity // 4)
        self._gone = False
        self._finished = False
        self._broken: str | None = None
        self._lent: memoryview | None = None
        self._lent_count = 0
        self._poll = select.poll()
        self._poll.register(self._news, select.POLLIN)
        self._poll.register(self._life, 0)  # POLLHUP is always told
        self._poll_peer = select.poll()
        self._poll_peer.register(self._life, 0)

    def _open(self) -> None:
        if self._life < 0:
            raise ValueError("shared buffer: closed")
        if self._broken is not None:
            raise TransferError(self._broken)

    def _must_be(self, role: Role) -> None:
        self._open()
        if self.role != role:
            raise io.UnsupportedOperation(f"shared buffer: this is the {self.role}'s side")

    def _learn(self) -> None:
        """Take in what the peer has told, and check it against what it has written."""
        try:
            told = os.eventfd_read(self._news)
        except BlockingIOError:
            return  # nothing
        # an own counter is never read back: the peer could have changed it
        allowed = self._allowed + told
        claimed = self._ring.counters[self._peer] + self._ahead
        if not allowed <= claimed <= self._done + self.capacity:
            raise self._nonsense(f"it is at {claimed - self._ahead}, having told of {told}")
        self._allowed = allowed

    def _nonsense(self, what: str) -> TransferError:
        act = "write" if self.role == "producer" else "read"
        self._broken = f"shared buffer: {act}: the {OTHER[self.role]} wrote nonsense: {what}"
        return TransferError(self._broken)

    def _look(self, milliseconds: int | None = 0) -> None:
        """Take in what is new, waiting for something if asked to."""
        found = dict(self._poll.poll(milliseconds))
        if self._news in found:
            self._learn()
        if self._life in found and not self._gone:
            self._gone = True
            # what the peer told before it went lies in the eventfd, also if that was just now
            self._learn()
            self._finished = self._ring.counters[FINISHED] == self._allowed + 1

    def _peer_gone(self) -> bool:
        """Ask whether the peer is gone, without taking in what is new."""
        return self._gone or bool(self._poll_peer.poll(0))

    def _wait(self, end: float | None) -> bool:
        """Wait until this side may go on; return False when it never will, the peer being gone.

        Raises: TimeoutError  it is `end`.
        """
        looked = False
        while self._allowed == self._done:
            if self._gone:
                return False
            left = None
            if end is not None:
                # rounded up: a wait that ended early would be begun again at once
                left = min(math.ceil((end - time.monotonic()) * 1000), _LONGEST)
                if left <= 0 and looked:
                    raise TimeoutError(f"shared buffer: the {OTHER[self.role]} does nothing")
                left = max(left, 0)
            self._look(left)
            looked = True
        return True

    def _advance(self, count: int) -> None:
        """Go on by `count` bytes, and tell the peer."""
        self._done += count
        self._ring.counters[self._own] = self._done
        try:
            os.eventfd_write(self._tell, count)
        except BlockingIOError:
            raise self._nonsense("its eventfd is full") from None

    def _lend(self, count: int) -> memoryview:
        """Give out a view of what comes next."""
        view = self._ring.view(self._done, min(count, self._allowed - self._done))
        self._lent, self._lent_count = view, len(view)
        return view

    def _end_loan(self) -> int:
        """End the view that was given out; return how many bytes it had."""
        count = self._lent_count
        if self._lent is not None:
            self._lent.release()
            self._lent, self._lent_count = None, 0
        return count

    @property
    def available(self) -> int:
        """How many bytes can be read, or written, without waiting."""
        self._open()
        self._look()
        return self._allowed - self._done

    @property
    def moved(self) -> int:
        """How many bytes this side has written, or read, ever."""
        return self._done

    @property
    def closed(self) -> bool:
        """Tell whether this side is closed."""
        return self._life < 0

    def fileno(self) -> int:
        """Return the eventfd that is readable when the peer has told something new."""
        self._open()
        return self._news

    def peer_fileno(self) -> int:
        """Return the fd that hangs up (POLLHUP) when the peer is gone; never read from it."""
        self._open()
        return self._life

    def close(self) -> None:
        """Unmap the ring and tell the peer; may be called twice.

        Raises: BufferError  a view is in use; the buffer is as it was.
        """
        self._close(on_purpose=True)

    def _close(self, on_purpose: bool) -> None:
        if self._life < 0:
            return
        self._end_loan()
        counters = self._ring.counters
        # a copy that a fork has left behind does not speak for the one that is used
        if self.role == "producer" and on_purpose and counters[HEAD] == self._done:
            counters[FINISHED] = self._done + 1
        self._ring.close()
        self._close_fds()

    def _close_fds(self) -> None:
        self._forget_other_side()
        life, self._life = self._life, -1
        for fd in (self._news, self._tell, life):
            os.close(fd)

    def _forget_other_side(self) -> None:
        for fd in (self._memory, self._untold):
            if fd >= 0:
                os.close(fd)
        self._memory = self._untold = -1

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        try:
            self._close(on_purpose=kind is None)
        except BufferError:
            if kind is None:
                raise
            # the frames of an error hold views: it is the error that has to be seen
            self._close_fds()

    def __del__(self) -> None:
        if self._life >= 0:
            import warnings

            warnings.warn(f"shared buffer: never closed: {self!r}", ResourceWarning, 1, self)
            self._close_fds()

    def __repr__(self) -> str:
        state = "closed" if self._life < 0 else f"{self.capacity} bytes"
        return f"<SharedBuffer {self.role}, {state}, {self._done} moved>"


def end_of(timeout: float | None) -> float | None:
    """Return the time at which so many seconds from now are over; None: never."""
    return None if timeout is None else time.monotonic() + timeout
