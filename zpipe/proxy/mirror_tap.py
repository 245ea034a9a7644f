"""One direction of one connection, copied to a mirror.

A tap takes what one side of a connection has read, lets it wait in a `Backlog`, and sends it on as
its own socket has room. The primary has its bytes first; a mirror that is not there, slow or stuck
is given up once its queue is full, unless it may spill to a file, or is allowed to hold the primary
up (`block`). What the mirror answers is read and dropped.

Events are taken as hints only: a socket that is made within a batch may get one that was meant for
another of the same number.
"""

from __future__ import annotations

import errno
import os
import socket

from zpipe.kernel import inspect
from zpipe.kernel.network import STREAM, do_not_pace, is_connected_to_itself, reset_at_close
from zpipe.proxy.backlog import CHUNK, Backlog, Lost, word
from zpipe.proxy.relay import OUT, WATCHED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.mirror import MirrorService
    from zpipe.proxy.relay import Side

_IN_KERNEL = 512 << 10  # bytes that a mirror's socket may hold; Linux doubles it
_DELAY = 0.001  # seconds that small messages wait for others
_LINGER = 5.0  # seconds without progress, once the primary has ended
_DROP = 64 << 10
_ENDED = "ok"
_NOT_THERE = ("refused", "timeout", "unreachable")


class MirrorTap:
    """The copy of one direction of one connection."""

    __slots__ = (
        "_backlog",
        "_blocked",
        "_closed",
        "_ending",
        "_fd",
        "_left",
        "_service",
        "_side",
        "_sock",
        "_soon",
        "_timer",
        "outcome",
        "waits",
    )

    def __init__(self, service: MirrorService, side: Side):
        self._service = service
        self._side: Side | None = side
        self._backlog = Backlog(service.pool)
        self._left = 0
        self._ending = self._closed = self._blocked = self._soon = False
        self._sock: socket.SocketType | None = None
        self._fd = -1
        self.waits = False
        self.outcome = _ENDED
        service.connections += 1
        service.active += 1
        try:
            family, address = service.target.address()
            self._sock = sock = socket.SocketType(family, STREAM)
            self._fd = sock.fileno()
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # What a stuck mirror leaves in the kernel counts against all of this machine's
                # TCP memory (tcp_mem), and under its pressure the primary's sockets suffer, too.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _IN_KERNEL)
                if service.target.no_pacing:
                    do_not_pace(self._fd)
            code = sock.connect_ex(address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            service.loop.watch(self._fd, WATCHED | OUT, self._ready)
        except OSError as error:
            self._timer = None
            why = word(error)
            if why in _NOT_THERE:
                service.target.failed(service.loop.now)
            self._give_up(why)
            return
        self._timer = service.loop.later(service.connect_timeout, self._not_connected)

    @property
    def given_up(self) -> bool:
        """Tell whether it gets nothing any more."""
        return self._closed

    @property
    def has_more(self) -> bool:
        """Tell whether there is something that was not sent."""
        return self._backlog.size > 0

    # From the side

    def data(self, data: bytes) -> None:
        """Take a small message."""
        if self._fd < 0:
            return
        backlog = self._backlog
        if backlog.spills:
            self._spill(data)
            return
        backlog.add(data)
        if backlog.size < min(CHUNK, self._service.mirror.queue):
            # the primary's answer goes first, and several messages go at once
            if not self._blocked and not self._soon:
                self._soon = True
                self._service.loop.later(_DELAY, self._flush_at_last)
        else:
            self._bound()

    def pipe(self, pipe: Pipe, count: int) -> None:
        """Take a pipe with so many bytes."""
        if self._fd < 0:
            self._service.pool.discard(pipe)
        elif self._backlog.spills:
            self._spill((pipe, count))
        else:
            self._backlog.add_pipe(pipe, count)
            self._bound()

    def _flush_at_last(self) -> None:
        self._soon = False
        if self._fd >= 0 and not self._blocked:
            self._flush()

    def no_pipe(self, count: int) -> None:
        """Know that so many bytes have passed, and could not be duplicated."""
        self._service.missed += count
        self._give_up("no-pipes")

    def end(self) -> None:
        """Send what is queued, then the end; the primary waits for neither."""
        self._side = None
        if self._fd < 0 or self._ending:
            return
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        self._left = self._unsent()
        self._timer = self._service.loop.later(_LINGER, self.too_late)
        self._service.linger(self)
        self._flush()

    # To the mirror

    def _ready(self, event: int) -> None:
        if self._fd < 0:
            return
        if not self._drop_answers():
            return
        if event & OUT:
            self._blocked = False
            self._flush()

    def _drop_answers(self) -> bool:
        """Read and drop. Returns: whether the mirror is still there."""
        sock, buffer = self._sock, bytearray(_DROP)
        assert sock is not None
        for _ in range(64):
            try:
                if not sock.recv_into(buffer):
                    if self._ending and not self._backlog.size:
                        self._close()
                        return False
                    return True  # it has no more to say, and may listen all the same
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno != errno.ENOTCONN:
                    self._give_up(word(error))
                    return False
                return True
        self._service.loop.again(lambda: self._ready(0))
        return True

    def _flush(self) -> None:
        """Send what the mirror takes now."""
        backlog, sock = self._backlog, self._sock
        assert sock is not None
        try:
            if self._timer is not None and is_connected_to_itself(sock):
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            while sent := backlog.send(sock):
                self._sent(sent)
        except BlockingIOError:
            self._blocked = True  # until epoll tells of room
            return
        except OSError as error:
            if error.errno == errno.ENOTCONN:  # it is being connected
                self._blocked = True
            else:
                self._give_up(word(error))
            return
        if self._ending:
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._close()

    def _sent(self, count: int) -> None:
        """Count what has gone; whoever was held up by a full queue goes on."""
        self._service.bytes += count
        if self._timer is not None and not self._ending:
            self._service.target.succeeded()
            self._timer.cancel()
            self._timer = None
        if self.waits and self._backlog.size <= self._service.mirror.queue // 2:
            self.waits = False
            if self._side is not None:
                self._service.loop.again(self._side.resume)

    # Bounds

    def _bound(self) -> None:
        """Send, and see that no more waits than may."""
        if not self._blocked:
            self._flush()
        mirror = self._service.mirror
        if self._fd < 0 or self._backlog.size <= mirror.queue:
            return
        if mirror.when_full == "block":
            self.waits = True
        elif mirror.when_full == "spill":
            self._spill(None)
        else:
            self._give_up("full")

    def _spill(self, more: bytes | tuple[Pipe, int] | None) -> None:
        """Let more wait in the file; None: begin one, no more than the queue stays in memory."""
        backlog, service = self._backlog, self._service
        try:
            if more is None:
                backlog.spill(service.mirror.spill_max)
            elif isinstance(more, tuple):
                backlog.store_pipe(*more)
            else:
                backlog.store(more)
        except Lost as lost:
            service.missed += lost.count
            self._give_up(lost.why)
            return
        if backlog.all_spilled:
            self._flush()

    # The end

    def _not_connected(self) -> None:
        self._timer = None
        sock = self._sock
        if sock is None or self._ending:
            return
        try:
            sock.getpeername()
        except OSError:
            self._give_up("timeout")

    def too_late(self, *, at_once: bool = False) -> None:
        """Give up what is queued, unless some of it has gone since this was asked the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        unsent = self._unsent()
        if unsent:
            if unsent < self._left and not at_once:
                self._left = unsent
                self._timer = self._service.loop.later(_LINGER, self.too_late)
                return
            self._give_up("no-fds" if at_once else "timeout")
        else:
            self._close()

    def _unsent(self) -> int:
        """Return the bytes that the mirror's kernel has not acknowledged, or never got."""
        try:
            return self._backlog.size + (inspect.unsent(self._fd) if self._fd >= 0 else 0)
        except OSError:
            return self._backlog.size

    def _give_up(self, why: str) -> None:
        """Let the mirror go; the connection goes on as if there had never been one."""
        if self.outcome == _ENDED:
            self.outcome = why
            self._service.given_up[why] += 1
            if self._timer is not None and not self._ending and why in _NOT_THERE:
                self._service.target.failed(self._service.loop.now)  # another address next time
        self._service.missed += self._backlog.size
        if self._sock is not None:
            try:
                # the mirror must not take what was cut off for a whole
                reset_at_close(self._sock)
            except OSError:
                pass
        self._close()

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        service, side = self._service, self._side
        self._side = None
        if self._sock is not None:
            if self._fd >= 0:
                service.loop.closed(self._fd)
            self._sock.close()
            self._sock = None
        self._fd = -1
        if not self._closed:
            self._closed = True
            service.gone(self)
        self._backlog.drop()
        self.waits = False
        if side is not None and side.fd >= 0:
            side.taps = tuple(tap for tap in side.taps if tap is not self)
            side.requicken()
            if side.paused and not any(tap.waits for tap in side.taps):
                service.loop.again(side.resume)
