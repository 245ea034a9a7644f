"""Connections as files: what went up, what went down, and a line of an index for each.

The relay's thread hands over bytes and pipes and never waits: it appends to a list, and a thread
of its own writes. What waits is bounded; where the disk cannot follow, or fails, or has no room,
the recording of a connection is given up, never the connection: both files then hold a beginning
of what went through, and the line says how much is missing.

The writer runs in short bursts, with pauses in between: Python runs one thread at a time, and the
relay would wait for it. What there is to write of a connection is for `capture_tape` to know, and
how it is written for `capture_files`; who else records in the same folder, and how much room there
is, for `capture_folder`.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from time import sleep

from zpipe.proxy.capture_files import BURST, Files
from zpipe.proxy.capture_folder import PAUSE, Folder
from zpipe.proxy.capture_tape import Tape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.capture_tape import Message
    from zpipe.proxy.settings import Capture

BACKLOG = 8 << 20  # bytes that wait for the disk, at the most
PIPES = 32  # that wait for the disk, at the most: half of what an unprivileged user may have

_ITEM = 64  # bytes that a message takes besides its data
_MUCH = 1 << 20  # of backlog: do not gather any longer
_GATHER = 0.1  # seconds until small messages are written, those of a connection in one call
_ROUND = 128  # connections that are written together

_numbers = itertools.count(1)  # of connections


class Recorder:
    """Records the connections of a process; used by one thread, and by the writer that it starts.

    It may be made before a fork: the writer is started by the first connection. Whoever gives up
    privileges does so before: the folder belongs to the user who makes it.
    """

    def __init__(
        self,
        capture: Capture,
        give_back: Callable[[Pipe], None],
        said: Callable[[str], None] | None = None,
    ):
        """Make the folder, unless it is there.

        `give_back` gets every pipe again, with or without bytes in it, `said` the first problem;
        the writer's thread calls them.

        Raises: UsageError  it cannot be had, or written to.
        """
        self._files = Files(Folder(capture), said)
        self.give_back = give_back
        self.pid = 0
        self.connections = 0
        self.refused = 0  # bytes that were not let wait for the disk
        self._queue: deque[Tape] = deque()
        self._put_bytes = self._put_pipes = 0  # by the relay's thread
        self._got_bytes = self._got_pipes = 0  # by the writer
        self._idle = True
        self._closing = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def bytes(self) -> int:
        """Return the bytes that are recorded."""
        return self._files.bytes

    @property
    def missed(self) -> int:
        """Return the bytes that went through and are not recorded."""
        return self.refused + self._files.dropped

    @property
    def problem(self) -> str | None:
        """Return the first problem."""
        return self._files.problem

    def connection(self, began: float, peer: str, listener: str) -> Tape:
        """Begin to record a connection; `began` in seconds since the epoch."""
        if self._thread is None:
            self.pid = os.getpid()
            self._thread = threading.Thread(target=self._write, name="capture", daemon=True)
            self._thread.start()
        self.connections += 1
        return Tape(self, next(_numbers), began, peer, listener)

    def close(self, wait: float) -> None:
        """Write what is queued, for so many seconds at the most; all tapes have ended before."""
        self._closing = True
        if self._thread is None:
            self._files.close()
            return
        self._hurry.set()
        self._wake.set()
        self._thread.join(wait)

    def admits(self, count: int) -> bool:
        """Tell whether so many bytes may wait for the disk, and count them."""
        waiting = self._put_bytes - self._got_bytes + count
        if waiting > BACKLOG or self._closing:
            return False
        self._put_bytes += count + _ITEM
        if waiting > _MUCH and not self._hurry.is_set():
            self._hurry.set()
        return True

    def admits_pipe(self) -> bool:
        """Tell whether one more pipe may wait for the disk, and count it."""
        if self._put_pipes - self._got_pipes >= PIPES or self._closing:
            return False
        self._put_pipes += 1
        if not self._hurry.is_set():
            self._hurry.set()
        return True

    def queue(self, tape: Tape) -> None:
        """Tell the writer that a tape has something for it."""
        if self._closing:
            return
        tape.queued = True
        self._queue.append(tape)
        if self._idle:
            self._idle = False
            self._wake.set()

    # what follows is done by the writer

    def _write(self) -> None:
        try:
            while not (self._closing and not self._queue):
                self._wake.wait()
                self._wake.clear()
                self._hurry.wait(_GATHER)
                self._hurry.clear()
                while self._queue:
                    self._round(min(len(self._queue), _ROUND))
                self._idle = True
                if self._queue:  # by whom it did not look idle yet
                    self._idle = False
                    self._wake.set()
        finally:
            self._files.close()

    def _round(self, count: int) -> None:
        """Write what so many tapes have."""
        ended: list[tuple[float, int, Tape]] = []
        for number in range(1, count + 1):
            tape = self._queue.popleft()
            # in this order: what comes from now on queues it again, and before its end is all
            tape.queued = False
            end = tape.ended
            for up in (False, True):
                if tape.pending[up]:
                    self._write_pending(tape, up)
            if end is not None:
                ended.append((end.when, number, tape))
            if number % BURST == 0:
                sleep(PAUSE)
        if ended:
            self._files.finish([tape for _, _, tape in sorted(ended)])

    def _write_pending(self, tape: Tape, up: bool) -> None:
        """Write the messages and pipes of one direction that wait at the moment."""
        pending = tape.pending[up]
        pieces = pending[: len(pending)]
        del pending[: len(pieces)]
        messages: list[Message] = []
        for piece in pieces:
            if isinstance(piece, bytes):
                messages.append(piece)
                continue
            self._write_messages(tape, up, messages)
            messages = []
            self._files.take(tape, up, *piece)
            self._got_pipes += 1
            self.give_back(piece[0])
        self._write_messages(tape, up, messages)

    def _write_messages(self, tape: Tape, up: bool, messages: list[Message]) -> None:
        if messages:
            self._got_bytes += self._files.write(tape, up, messages) + _ITEM * len(messages)
