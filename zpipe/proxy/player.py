"""One captured connection, played back: what the client sent, when it sent it or as soon as the
answers allow. The answer is put beside that of the capture by `replay_comparison`.

Sends and receives at the same time: an upstream that takes nothing until its answer is read is
served, too. Knows nothing of the other connections but the `Stage` that all of them share, which
gets what became of each.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

from zpipe.errors import reason
from zpipe.kernel.network import is_connected_to_itself
from zpipe.proxy.replay_comparison import Comparison
from zpipe.proxy.replay_steps import ends_with_upstream, steps_of
from zpipe.units import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Literal

    from zpipe.proxy.loop import Loop, Timer
    from zpipe.proxy.recordings import Recorded, Recordings
    from zpipe.proxy.replay_steps import Step

    Place = tuple[int, Any]  # family, and what connect takes

_SEND = 1 << 20  # of one call
_TURNS = 8  # calls before others have theirs
# at the original pace nobody waits longer than this part of the timeout for more of an answer:
# a new one may be shorter, and the client had its times
_GRACE = 0.2
_FULL = 0.01  # until a UNIX listener is asked again that has no room: it does not tell


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to play. `speed` is that of the original pace; `jobs` are connections of the fast one."""

    pace: Literal["original", "fast"] = "original"
    speed: float = 1.0
    compare: bool = False
    timeout: float = 5.0
    jobs: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one connection."""

    id: str
    state: Literal["done", "differs", "failed", "stalled"]
    sent: int
    received: int
    recorded: int  # bytes of the answer in the capture
    differs: int | None  # the first byte of the answer that is another one, from 0
    text: str | None  # what there is to tell: ID: ACT: REASON


class Stage(Protocol):
    """What all players share: where they play, and how."""

    loop: Loop
    recordings: Recordings
    places: Sequence[Place]
    wishes: Wishes
    buffer: memoryview  # for what is compared at once
    reached: bool  # the upstream has answered

    def unreachable(self, why: str) -> bool:
        """Tell whether nothing can be played at all: nobody has answered yet."""

    def gone(self, player: Player, outcome: Outcome) -> None:
        """Take what became of a connection that has ended."""


class Player:
    """One connection."""

    def __init__(self, stage: Stage, recorded: Recorded, began: float):
        """Raises: TransferError  its files cannot be had."""
        self._stage = stage
        self._loop = stage.loop
        self._recorded = recorded
        self._began = began
        chunks = stage.recordings.chunks(recorded)
        self._steps = steps_of(recorded, chunks, stage.wishes)
        self._step = 0
        self._to_end = ends_with_upstream(recorded, chunks)
        self._socket: socket.socket | None = None
        self._fd = -1
        self._place = 0
        self._events = 0
        self._connected = False
        self._sent = self._received = 0
        self._allowed = 0  # may be sent
        self._half_closed = False
        self._ended = False  # the answer
        self._watched = False
        self._moved = monotonic()
        self._timer: Timer | None = None  # when the client goes on by itself
        self._looks: Timer | None = None  # when it is looked at whether something has moved
        self._short = 0  # bytes by which the answer is shorter, as it seems
        self._over = False
        self._comparison: Comparison | None = None
        self._up = stage.recordings.open(recorded, "up")
        try:
            if stage.wishes.compare:
                self._comparison = Comparison(stage.recordings, recorded)
        except BaseException:
            self.close()
            raise
        self._watch()

    def close(self) -> None:
        """Close all that is open. May be called twice."""
        self._hang_up()
        if self._up >= 0:
            os.close(self._up)
        self._up = -1
        if self._comparison is not None:
            self._comparison.close()
        self._over = True
        for timer in (self._timer, self._looks):
            if timer is not None:
                timer.cancel()

    def _hang_up(self) -> None:
        if self._socket is not None:
            if self._watched:
                self._loop.closed(self._fd)
                self._watched = False
            self._socket.close()
            self._socket = None

    # connecting

    def connect(self) -> None:
        """Connect to the next place."""
        if self._over:
            return
        self._hang_up()
        family, address = self._stage.places[self._place]
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._fd = self._socket.fileno()
            if family != socket.AF_UNIX:
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._events = select.EPOLLOUT
            error = self._socket.connect_ex(address)
            if error == errno.EAGAIN:  # of a UNIX listener whose queue is full
                self._loop.later(_FULL, self.connect)
                return
            if error not in (0, errno.EINPROGRESS):
                raise OSError(error, os.strerror(error))
            self._loop.watch(self._fd, self._events, self._ready)
            self._watched = True
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        self._place += 1
        if self._place < len(self._stage.places):
            self._loop.again(self.connect)
        elif self._stage.unreachable(reason(error)):
            self.close()
        else:
            self._end("failed", f"connect: {reason(error)}")

    def _is_connected(self) -> None:
        assert self._socket is not None
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._refused(OSError(error, os.strerror(error)))
            return
        with suppress(OSError):  # it is told of when it is read or written
            if is_connected_to_itself(self._socket):
                self._refused(OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)))
                return
        self._connected = self._stage.reached = True
        self._moved = monotonic()
        self._go_on()

    # playing

    def _ready(self, event: int) -> None:
        if not self._connected:
            self._is_connected()
            return
        if event & ~select.EPOLLOUT and not self._ended:
            self._receive()
        elif event & (select.EPOLLERR | select.EPOLLHUP):
            # it cannot be masked, and would come again and again until the client goes on
            self._loop.forget(self._fd)
            self._watched = False
        if not self._over:
            self._go_on()

    def _receive(self) -> None:
        """Take what there is of the answer."""
        assert self._socket is not None
        try:
            for _ in range(_TURNS):
                count = self._socket.recv_into(self._stage.buffer)
                self._moved = monotonic()
                if not count:
                    self._ended = True
                    return
                self._take(count)
        except BlockingIOError:
            pass
        except OSError as error:
            self._broken("read", error)

    def _take(self, count: int) -> None:
        """Take so many bytes of the answer, which are in the buffer."""
        if self._comparison is not None:
            self._comparison.take(self._received, self._stage.buffer[:count])
        self._received += count

    def _go_on(self) -> None:
        """Send what may be sent, and see whether that was all."""
        try:
            blocked = self._send()
        except OSError as error:
            self._broken("write", error)
            return
        if self._over:
            return
        if self._step == len(self._steps) and not blocked:
            enough = self._received >= self._recorded.down and not self._to_end
            if self._ended or enough:
                self._end("done")
                return
        events = (0 if self._ended else select.EPOLLIN) | (select.EPOLLOUT if blocked else 0)
        if events != self._events and self._watched:
            self._events = events
            self._loop.change(self._fd, events)

    def _send(self) -> bool:
        """Do the steps whose time has come; True: the upstream takes no more at the moment.

        Raises: OSError.
        """
        turns = _TURNS
        while True:
            while self._sent < self._allowed:
                count = min(self._allowed - self._sent, _SEND)
                try:
                    sent = os.sendfile(self._fd, self._up, self._sent, count)
                except BlockingIOError:
                    return True
                if not sent:
                    self._end("failed", f"{self._recorded.id}.up: read: it was cut")
                    return False
                self._sent += sent
                self._moved = monotonic()
                turns -= 1
                if not turns:
                    return True
            if self._step and self._steps[self._step - 1].end and not self._half_closed:
                assert self._socket is not None
                self._half_closed = True
                self._socket.shutdown(socket.SHUT_WR)
            if self._step == len(self._steps):
                return False
            step = self._steps[self._step]
            if self._timer is not None:
                return False
            delay = self._began + step.after - monotonic()
            if delay > 0:
                self._timer = self._loop.later(delay, self._time_has_come)
                return False
            if self._received < step.answer - self._short and not self._ended:
                return False
            self._step += 1
            self._allowed = step.upto

    def _time_has_come(self) -> None:
        self._timer = None
        self._moved = monotonic()
        if self._connected:
            self._go_on()

    def _broken(self, act: str, error: OSError) -> None:
        """The upstream has broken the connection off: as in the capture, or too soon."""
        recorded = self._recorded
        whole = self._received >= recorded.down
        if act == "write" and not self._ended:
            # the answer may be there all the same, and tell why
            self._receive_rest()
            whole = self._received >= recorded.down
        as_recorded = recorded.reason in ("upstream-reset", "upstream-error")
        if as_recorded or (whole and (self._ended or self._sent == recorded.up)):
            self._end("done")
        else:
            self._end("failed", f"{act}: {reason(error)}")

    def _receive_rest(self) -> None:
        assert self._socket is not None
        try:
            while count := self._socket.recv_into(self._stage.buffer):
                self._take(count)
            self._ended = True
        except OSError:
            pass

    def _end(self, state: Literal["done", "failed", "stalled"], text: str | None = None) -> None:
        """Tell what became of it."""
        if self._over:
            return
        recorded = self._recorded
        comparison = self._comparison
        told: Literal["done", "differs", "failed", "stalled"] = state
        if state == "done" and comparison is not None:
            comparison.finish(self._received)
            text = comparison.verdict
            told = state if text is None else "differs"
        self.close()
        outcome = Outcome(
            recorded.id,
            told,
            self._sent,
            self._received,
            recorded.down,
            comparison.differs if comparison is not None else None,
            None if text is None else f"{recorded.id}: {text}",
        )
        self._stage.gone(self, outcome)

    # waiting

    def _watch(self) -> None:
        """Look whether the upstream has done something for so long."""
        if self._over:
            return
        wishes = self._stage.wishes
        timeout = wishes.timeout
        step = self._awaiting()
        original = wishes.pace == "original"
        limit = timeout * _GRACE if step is not None and not step.end and original else timeout
        left = self._moved + limit - monotonic()
        if self._timer is not None:  # it is for the client to go on
            left = timeout
        if left > 0:
            self._looks = self._loop.later(min(left, timeout * _GRACE), self._watch)
            return
        after = f"in {format_duration(timeout)}"
        if step is not None and (original or step.end):
            # as it seems the answer is a shorter one, and over
            self._short = step.answer - self._received
            self._moved = monotonic()
            self._go_on()
            self._watch()
            return
        if not self._connected:
            if not self._stage.unreachable(f"no answer {after}"):
                self._end("stalled", f"connect: no answer {after}")
            else:
                self.close()
        elif self._sent < self._allowed:
            self._end("stalled", f"write: nothing was taken {after}")
        elif step is not None:
            self._end("stalled", f"read: {self._missing(step.answer)} did not come {after}")
        elif self._received < self._recorded.down:
            self._end("stalled", f"read: {self._missing(self._recorded.down)} did not come {after}")
        else:
            self._end("stalled", f"read: the answer did not end {after}")

    def _awaiting(self) -> Step | None:
        """Return the step that waits for the answer."""
        waits = self._connected and self._sent == self._allowed and self._timer is None
        return self._steps[self._step] if waits and self._step < len(self._steps) else None

    def _missing(self, wanted: int) -> str:
        count = wanted - self._received
        return f"{count} more byte{'' if count == 1 else 's'}"
