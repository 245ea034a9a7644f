"""The two sockets of a connection, and how bytes pass from each to the other.

A `Side` reads from its own socket and writes to its peer's. Small messages are read into one
buffer that all share, and written; a read that fills it switches to splice (see `bulk`) until a
burst is small again. Both sockets are watched edge-triggered, so the rules are:

- a source is read until it has nothing more: until EAGAIN, or until a read that is shorter than
  what was asked for, which says the same (`readable` is False then);
- a sink that takes no more leaves the side `stuck`: what it holds (`rest`, or `pipe` with `in_pipe`
  bytes) goes out when the peer's socket has room, and nothing is read before that;
- the end of input is passed on when nothing is held any more, as a half-close.

As long as a side is `quick` the loop itself carries small messages (see `loop`, lanes). What a
connection is bound by (rates, taps) takes its sides out of their lanes, and costs only those that
have it. Knows nothing of addresses, upstreams or logs.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import Protocol

from zpipe.proxy.bulk import carry_bulk, push
from zpipe.proxy.loop import BUFFER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.engine.limiter import Limiter
    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.loop import Loop
    from zpipe.proxy.pool import Pool
    from zpipe.proxy.tap import Tap

IN, OUT = select.EPOLLIN, select.EPOLLOUT
ODD = select.EPOLLPRI | select.EPOLLERR | select.EPOLLHUP | select.EPOLLRDHUP
WATCHED = IN | select.EPOLLRDHUP | select.EPOLLPRI | select.EPOLLET
_GONE = select.EPOLLERR | select.EPOLLHUP

# Bytes that one side moves before others have their turn; who has a tap lets it send in between.
_TURN = 4 << 20
_TURN_TAPPED = 256 << 10

_readv, _write = os.readv, os.write


class Owner(Protocol):
    """What a side knows of its connection."""

    def ended(self) -> None:
        """One direction has ended and was passed on, or is about to."""

    def broken(self, side: Side, error: OSError) -> None:
        """Reading from the side's socket, or writing to it, has failed."""


class _Nobody:
    """The owner of a side that is closed."""

    def ended(self) -> None:
        """Nothing is left to be ended."""

    def broken(self, side: Side, error: OSError) -> None:
        """Nothing is left to be broken."""


_NOBODY = _Nobody()


class Shared:
    """What the sides of one worker share."""

    __slots__ = ("buffers", "loop", "pool", "splice", "view")

    def __init__(self, loop: Loop, pool: Pool, *, splice: bool):
        self.loop = loop
        self.pool = pool
        self.splice = splice
        self.buffers = loop.buffers
        self.view = loop.view


class Side:
    """One socket of a connection, and the lane to its peer; `count` bytes were carried there."""

    __slots__ = (
        "bulk",
        "count",
        "deaf",
        "fd",
        "finished",
        "in_pipe",
        "input_ended",
        "limiters",
        "out",
        "owner",
        "paced",
        "paused",
        "peer",
        "pipe",
        "quick",
        "readable",
        "rest",
        "shared",
        "sink",
        "sock",
        "spliced",
        "stuck",
        "taps",
        "urgent",
        "yields",
    )

    peer: Side

    def __init__(self, sock: socket.SocketType, owner: Owner, shared: Shared):
        self.sock = sock
        self.fd = sock.fileno()
        self.owner = owner
        self.shared = shared
        self.count = self.spliced = self.in_pipe = 0
        self.rest: memoryview | None = None
        self.pipe: Pipe | None = None
        self.taps: tuple[Tap, ...] = ()
        self.limiters: tuple[Limiter, ...] = ()
        self.quick = False
        self.sink = -1
        self.paced = self.yields = self.deaf = False
        self.bulk = self.stuck = self.readable = self.urgent = self.out = self.paused = False
        self.input_ended = False  # the socket's end of input was read
        self.finished = False  # and passed on to the peer

    @property
    def held(self) -> int:
        """Return the bytes that were read and that the peer has not taken."""
        return (len(self.rest) if self.rest is not None else 0) + self.in_pipe

    def ready(self, event: int) -> None:
        """Handle what epoll tells of this socket."""
        if self.fd < 0:
            return  # closed within this batch
        if event & OUT and self.peer.stuck:
            self.peer.go_on()
        if event & (IN | ODD) and self.fd >= 0:
            if event & select.EPOLLPRI:
                self._urgent_data()
            self.readable = True
            if event & _GONE and self.input_ended:
                self._failed_at_last()
            elif self.stuck and not event & ODD:
                self._stop_hearing()
            elif not self.stuck and not self.paused and not self.yields:
                self.pull(probe=bool(event & ODD))
            elif event & select.EPOLLERR:
                self.owner.ended()  # what was read goes out first, but not for ever

    # What the loop's lane hands over

    def more(self, count: int) -> None:
        """Go on after the loop has read the end of input, or a whole buffer."""
        self.readable = True
        if self._pass_on(count):
            self.pull()

    def unread(self, error: OSError) -> None:
        """Reading has failed."""
        self.owner.broken(self, error)

    def unwritten(self, count: int, taken: int, error: OSError | None) -> None:
        """The peer did not take all of what was read, or nothing at all."""
        if error is None or isinstance(error, BlockingIOError):
            self._hold(self.shared.view[taken:count])
        else:
            self._refused(count, error)

    def pull(self, *, probe: bool = True) -> None:
        """Read on until there is nothing more, the peer takes no more, or others have a turn.

        Without `probe` a short read is taken as the last one: what comes later is a new event. It
        is not where an event tells of more than data: reads stop at an urgent mark, and before
        the end of input and an error.
        """
        last = self.count + (_TURN_TAPPED if self.taps else _TURN)
        while self.readable and not self.stuck and not self.paused and not self.input_ended:
            room = last - self.count
            if room <= 0:
                self.yields = True
                self.shared.loop.again(self._another_turn)
                return
            if self.limiters:
                room = self._allowance(room)
                if not room:
                    return
            if self.bulk and not self.urgent:
                carry_bulk(self, room)
                if not self.bulk and self.fd >= 0:
                    self.requicken()
            elif not self._copy(room if room < BUFFER else BUFFER, probe=probe):
                return

    def resume(self) -> None:
        """Go on after a tap or a limit has held this side up."""
        self.paused = False
        if self.fd >= 0:
            self.requicken()
            if self.readable and not self.stuck and not self.yields:
                self.pull()

    def go_on(self) -> None:
        """Write what is held, as the peer has room; then read on."""
        if self.rest is not None and not self.write_rest():
            return
        if self.in_pipe and not push(self):
            return
        self.stuck = False
        if self.deaf:
            self.deaf = False
            self.shared.loop.change(self.fd, self._events())
        self.requicken()
        if self.input_ended:
            self._finish()
        elif self.readable and not self.paused and not self.yields:
            self.pull()

    def give(self, data: bytes) -> None:
        """Let the peer have something that did not come from this socket, before all that does."""
        try:
            taken = _write(self.peer.fd, data)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            self.owner.broken(self.peer, error)
            return
        if taken != len(data):
            self.count -= len(data) - taken  # it will be counted when it goes, and is not ours
            self._hold(memoryview(data)[taken:])

    def close(self) -> int:
        """Close the socket; returns the bytes that were held for the peer, and are lost."""
        lost = self.in_pipe
        if self.rest is not None:
            lost += len(self.rest)
            self.rest = None
        if self.pipe is not None:
            pool = self.shared.pool
            (pool.discard if self.in_pipe else pool.give_back)(self.pipe)
            self.pipe, self.in_pipe = None, 0
        self.shared.loop.closed(self.fd)
        self.fd = -1
        self.quick = self.readable = False  # whoever is in the middle of `pull` finds nothing to do
        self.sock.close()
        # no cycle stays that only the garbage collector would find
        self.taps = ()
        self.owner = _NOBODY
        self.peer = _NO_SIDE
        return lost

    def _another_turn(self) -> None:
        self.yields = False
        if self.fd >= 0 and not self.stuck and not self.paused:
            self.pull()

    # One read, one write

    def _copy(self, room: int, *, probe: bool) -> bool:
        """Read once and write once. Returns: whether to go on."""
        view = self.shared.view
        try:
            count = _readv(self.fd, self.shared.buffers if room == BUFFER else [view[:room]])
        except BlockingIOError:
            self.readable = False
            if self.urgent:
                self.urgent = False
                self.requicken()
            return False
        except OSError as error:
            self.owner.broken(self, error)
            return False
        if count < room and not probe and not self.urgent:
            self.readable = False
        return self._pass_on(count)

    def _pass_on(self, count: int) -> bool:
        """Write what one read has put into the buffer. Returns: whether to go on reading."""
        if not count:
            self.end()
            return False
        view = self.shared.view[:count]
        for limiter in self.limiters:
            limiter.spend(count)
        try:
            taken = _write(self.peer.fd, view)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            self._refused(count, error)
            return False
        self.count += taken
        if self.taps:
            self._tapped(bytes(view))
        if count == BUFFER and self.shared.splice:
            self.bulk = True
            self._leave_lane()
        if taken != count:
            self._hold(view[taken:])
            return False
        return True

    def _refused(self, count: int, error: OSError) -> None:
        """The peer takes nothing any more: these bytes are lost with it."""
        self.rest = memoryview(bytes(count))
        self.owner.broken(self.peer, error)

    def _hold(self, rest: memoryview) -> None:
        """Keep what the peer does not take now; its room will be told of."""
        self.rest = memoryview(bytes(rest))
        self.stick()

    def write_rest(self) -> bool:
        """Write what was held. Returns: whether all of it went; or the side is stuck, or broken."""
        assert self.rest is not None
        try:
            taken = _write(self.peer.fd, self.rest)
        except BlockingIOError:
            taken = 0
        except OSError as error:
            self.owner.broken(self.peer, error)
            return False
        self.count += taken
        if taken == len(self.rest):
            self.rest = None
            return True
        self.rest = self.rest[taken:]
        if not self.stuck:
            self.stick()
        return False

    def stick(self) -> None:
        """Go on when the peer has room, and not before."""
        self.stuck = True
        peer = self.peer
        self._leave_lane()
        peer._leave_lane()
        if not peer.out:
            peer.out = True
            # reported anew at once where there is room again
            self.shared.loop.change(peer.fd, peer._events())

    def _events(self) -> int:
        events = WATCHED | OUT if self.out else WATCHED
        return events & ~IN if self.deaf else events

    def _stop_hearing(self) -> None:
        """Have no more events of data that could not be passed on: in bulk there are many."""
        if not self.deaf:
            self.deaf = True
            self.shared.loop.change(self.fd, self._events())

    def requicken(self) -> None:
        """Find out which of the two sides may go the quick way: taps or limits have changed."""
        stuck = self.stuck or self.peer.stuck
        for side in (self, self.peer):
            quick = not (
                stuck or side.bulk or side.taps or side.limiters or side.paused or side.urgent
            )
            if quick != side.quick:
                side.quick = quick
                side.sink = side.peer.fd
                self.shared.loop.lane(side.fd, side if quick else None)

    def _leave_lane(self) -> None:
        if self.quick:
            self.quick = False
            self.shared.loop.lane(self.fd, None)

    # The end

    def end(self) -> None:
        """The source has ended; nothing is held, or it goes first."""
        self.readable = False
        self.input_ended = True
        if not self.stuck:
            self._finish()

    def _finish(self) -> None:
        self.finished = True
        for tap in self.taps:
            tap.end()
        if not self.peer.finished:
            try:
                self.peer.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    self.owner.broken(self.peer, error)
                    return
        self.owner.ended()

    def _failed_at_last(self) -> None:
        """An error after the end of input: only a reset is one."""
        error = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self.owner.broken(self, OSError(error, os.strerror(error)))

    def _urgent_data(self) -> None:
        """Read past the mark, where splice stops; the byte is in its place (SO_OOBINLINE)."""
        self.urgent = True
        self._leave_lane()

    # Taps and limits

    def _tapped(self, data: bytes) -> None:
        for tap in self.taps:
            tap.data(data)
        self.wait_for_taps()

    def wait_for_taps(self) -> None:
        """Pause if one of the taps cannot take more."""
        if any(tap.waits for tap in self.taps):
            self.paused = True

    def _allowance(self, room: int) -> int:
        """Return how many bytes may move now; 0: the side pauses until some may."""
        for limiter in self.limiters:
            room = min(room, limiter.allowance())
        if room > 0:
            return room
        self.paused = True
        delay = max(limiter.delay() for limiter in self.limiters)
        self.shared.loop.later(max(delay, 0.001), self.resume)
        return 0


_NO_SIDE: Side = object.__new__(Side)  # nothing is asked of the peer of one that is closed
