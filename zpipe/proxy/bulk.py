"""Bulk of one side of a connection: spliced into a borrowed pipe, and out of it to the peer.

- The pipe is refilled only when it is empty, so that EAGAIN means the source; what the peer does
  not take stays in it.
- Every tap gets the same pages, by tee into a pipe of the same capacity, before the peer does.
- What splice does not pass (an urgent mark, control records of kTLS, a socket that refuses it) is
  left to the small way of `relay`, which reads and writes.

Refuses to know what wakes a side that was held up, and what bulk is bound by but the taps and the
limits that a side has.
"""

from __future__ import annotations

import errno
from socket import MSG_PEEK

from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.network import do_not_pace
from zpipe.kernel.transfer import splice, tee

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.relay import Side

# Below this a burst is no bulk: splice costs more than it saves (break-even at 4 to 8 KiB).
_SMALL = 64 << 10
_AT_ONCE = 1 << 30


def carry_bulk(side: Side, room: int) -> None:
    """Splice through a borrowed pipe until the source is empty, or the peer full."""
    pool = side.shared.pool
    pipe = pool.take()
    if pipe is None:
        side.bulk = False
        return
    side.pipe = pipe
    if side.peer.paced:  # only now: most connections never have bulk to send
        side.peer.paced = False
        do_not_pace(side.peer.fd)
    start = side.count
    others: list[Pipe] = []  # of the same capacity, for the taps
    try:
        while (moved := side.count - start) < room and not side.paused:
            if side.taps and not others:
                # before the splice: what cannot be teed is read and written instead
                found = pool.take_like(pipe, len(side.taps))
                if found is None:
                    side.bulk = False
                    break
                others = found
            limit = _AT_ONCE if not side.limiters else room - moved
            try:
                count = splice(side.fd, pipe.writer, limit)
            except BlockingIOError:
                if moved:
                    side.readable = False
                else:
                    # nothing by splice though epoll called it readable: an urgent mark, or a
                    # socket whose queue only recv sees (kTLS, sockmap)
                    side.bulk = False
                break
            except OSError as error:
                if error.errno not in SPLICE_REFUSED:
                    side.owner.broken(side, error)
                    return
                if error.errno in (errno.ENOSYS, errno.EPERM):
                    side.shared.splice = False
                side.bulk = False
                break
            if not count:
                if not _is_end(side):
                    side.bulk = False
                    break
                side.end()
                return
            side.in_pipe = count
            for limiter in side.limiters:
                limiter.spend(count)
            if side.taps:
                _tee(side, pipe, count, others)
                others = []
            if not push(side) or side.pipe is not pipe:
                return
        if side.count - start < min(_SMALL, room):
            side.bulk = False
    finally:
        for other in others:
            pool.give_back(other)
        # the connection may have been closed meanwhile, and the pipe with it
        if side.pipe is not None and not side.in_pipe:
            side.pipe = None
            pool.give_back(pipe)


def push(side: Side) -> bool:
    """Splice from the pipe to the peer. Returns: whether it is empty; or the side is stuck."""
    assert side.pipe is not None
    while side.in_pipe:
        try:
            count = splice(side.pipe.reader, side.peer.fd, side.in_pipe)
        except BlockingIOError:
            if not side.stuck:
                side.stick()
            return False
        except OSError as error:
            if error.errno in SPLICE_REFUSED:
                return _empty_by_hand(side)
            side.owner.broken(side.peer, error)
            return False
        side.in_pipe -= count
        side.count += count
        side.spliced += count
    if side.stuck:
        side.shared.pool.give_back(side.pipe)
        side.pipe = None
    return True


def _empty_by_hand(side: Side) -> bool:
    """Read the pipe and write to a peer that cannot be spliced to."""
    assert side.pipe is not None
    side.bulk = False
    data = side.pipe.take_out(side.in_pipe)
    side.in_pipe = 0
    side.shared.pool.give_back(side.pipe)
    side.pipe = None
    side.rest = memoryview(data)
    return side.write_rest()


def _tee(side: Side, pipe: Pipe, count: int, others: list[Pipe]) -> None:
    """Give every tap the same pages, before the pipe is emptied into the peer."""
    pool = side.shared.pool
    for tap in side.taps:
        other = others.pop()
        try:
            copied = tee(pipe.reader, other.writer, count)
        except OSError as error:
            copied = 0
            if error.errno in (errno.ENOSYS, errno.EPERM):
                side.shared.splice = False  # what is copied can be given to taps, too
        if copied == count:
            tap.pipe(other, count)
        else:
            (pool.discard if copied else pool.give_back)(other)
            tap.no_pipe(count)
    side.wait_for_taps()


def _is_end(side: Side) -> bool:
    """Tell a true end from an urgent mark, at which splice returns 0 as well."""
    try:
        return not side.sock.recv(1, MSG_PEEK)
    except OSError:
        return False  # reading tells
