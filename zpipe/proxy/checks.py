"""Ask every target now and then whether it serves: connect, send something, expect something.

Runs on the loop, one connection for each target at most, and none between two checks. What an
outcome means is the target's affair (`Target.checked`); what could not be asked, for want of fds
or memory here, has no outcome.
"""

from __future__ import annotations

import errno
import os
import socket
from select import EPOLLIN, EPOLLOUT

from zpipe.kernel.network import is_connected_to_itself

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.loop import Loop, Timer
    from zpipe.proxy.settings import Check
    from zpipe.proxy.upstreams import Balancer, Target

_ANSWER = 4096  # bytes of an answer that are looked at
_FAREWELL = 65536  # bytes that are read for the sake of a clean end
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}  # says nothing of the target


class Checker:
    """Check the targets of a balancer; `changed` is told of those that go up or down by it."""

    def __init__(
        self, loop: Loop, balancer: Balancer, check: Check, changed: Callable[[Target], None]
    ):
        self._interval = check.interval
        self._probes = [_Probe(loop, target, check, changed) for target in balancer.targets]

    def start(self) -> None:
        """Check the first target at once, and the others spread over the interval."""
        for number, probe in enumerate(self._probes):
            probe.schedule(self._interval * number / len(self._probes))

    def close(self) -> None:
        """Check no more, and close what is open."""
        for probe in self._probes:
            probe.close()


class _Probe:
    """The checks of one target, one after the other.

    There is one timer: it begins the next check, ends the current one in vain, or ends a farewell.
    """

    __slots__ = (
        "_answer",
        "_began",
        "_changed",
        "_check",
        "_closed",
        "_left",
        "_loop",
        "_socket",
        "_target",
        "_timer",
        "_unsent",
    )

    def __init__(self, loop: Loop, target: Target, check: Check, changed: Callable[[Target], None]):
        self._loop = loop
        self._target = target
        self._check = check
        self._changed = changed
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._closed = False
        self._began = 0.0
        self._unsent = b""
        self._answer = b""
        self._left = 0  # bytes that may yet be read

    def schedule(self, seconds: float) -> None:
        self._alarm(seconds, self._begin)

    def close(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._loop.closed(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _alarm(self, seconds: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.later(max(0.0, seconds), call)

    def _begin(self) -> None:
        self._began = self._loop.now
        self._unsent = self._check.send
        self._answer = b""
        try:
            family, place = self._target.address()
            self._socket = end = socket.socket(family, socket.SOCK_STREAM)
            end.setblocking(False)
            number = end.connect_ex(place)
            if number not in {0, errno.EINPROGRESS}:
                raise OSError(number, os.strerror(number))
            # also where it has connected at once, as UNIX sockets do: then it is ready for output
            self._loop.watch(end.fileno(), EPOLLOUT, self._connected)
        except OSError as error:
            if self._socket is not None:  # the loop has never heard of it
                self._socket.close()
                self._socket = None
            self._failed(error)
            return
        self._alarm(self._check.timeout, self._too_late)

    def _connected(self, event: int) -> None:
        end = self._end()
        try:
            number = end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not number and is_connected_to_itself(end):
                number = errno.ECONNREFUSED
            if number:
                raise OSError(number, os.strerror(number))
            self._loop.handle(end.fileno(), self._send)
        except OSError as error:
            self._failed(error)
            return
        self._send(event)

    def _send(self, event: int) -> None:
        end = self._end()
        try:
            if self._unsent:
                self._unsent = self._unsent[end.send(self._unsent, socket.MSG_NOSIGNAL) :]
            if self._unsent:
                return
            if self._check.expect:
                self._loop.handle(end.fileno(), self._receive)
                self._loop.change(end.fileno(), EPOLLIN)
                return
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        self._worked()

    def _receive(self, event: int) -> None:
        try:
            data = self._end().recv(_ANSWER - len(self._answer))
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(error)
            return
        self._answer += data
        if self._check.expect in self._answer:
            self._worked()
        elif not data or len(self._answer) >= _ANSWER:
            self._drop()
            self._wait()
            self._tell(False)

    def _worked(self) -> None:
        """Say goodbye: to close with unread bytes, or before they come, would send a reset."""
        end = self._end()
        self._left = _FAREWELL
        try:
            end.shutdown(socket.SHUT_WR)
            self._loop.handle(end.fileno(), self._farewell)
            self._loop.change(end.fileno(), EPOLLIN)
        except OSError:
            self._drop()
            self._wait()
        else:
            # the next check is not put off by a server that does not close
            longest = min(self._check.timeout, self._check.interval)
            self._alarm(self._began + longest - self._loop.now, self._waited_enough)
        self._tell(True)

    def _farewell(self, event: int) -> None:
        try:
            data = self._end().recv(self._left)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._left -= len(data)
        if not data or not self._left:
            self._drop()
            self._wait()

    def _waited_enough(self) -> None:
        self._drop(at_once=True)
        self._wait()

    def _too_late(self) -> None:
        self._drop(at_once=True)
        self._wait()
        self._tell(False)

    def _failed(self, error: OSError) -> None:
        self._drop()
        self._wait()
        if error.errno not in _OURS:
            self._tell(False)

    def _drop(self, at_once: bool = False) -> None:
        """Close the socket; within a batch of events at its end, as the loop asks for."""
        end, self._socket = self._socket, None
        if end is None:
            return
        self._loop.closed(end.fileno())
        if at_once:
            end.close()
        else:
            self._loop.after(end.close)

    def _wait(self) -> None:
        self.schedule(self._began + self._check.interval - self._loop.now)

    def _tell(self, ok: bool) -> None:
        if self._target.checked(ok, self._loop.now) and not self._closed:
            self._changed(self._target)

    def _end(self) -> socket.socket:
        assert self._socket is not None
        return self._socket
