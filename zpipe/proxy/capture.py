"""Connections as files: what went up, what went down, and a line of an index for each.

The relay's thread hands over bytes and pipes and never waits: it appends to a list, and a thread
of its own writes. What waits is bounded; where the disk cannot follow, or fails, or has no room,
the recording of a connection is given up, never the connection: both files then hold a beginning
of what went through, and the line says how much is missing.

The writer runs in short bursts, with pauses in between: Python runs one thread at a time, and the
relay would wait for it. What it writes is for `capture_files` to know; who else records in the same
folder, and how much room there is, for `capture_folder`.
"""

from __future__ import annotations

import itertools
import os
import threading
from array import array
from collections import deque
from time import gmtime, monotonic, sleep, strftime, time

from zpipe.proxy.capture_files import BURST, Files
from zpipe.proxy.capture_folder import PAUSE, Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.capture_files import Track
    from zpipe.proxy.settings import Capture

    Message = bytes
    Piece = Message | tuple[Pipe, int]  # or a pipe with so many bytes in it

CHUNKS = 100_000  # in a line, at the most
BACKLOG = 8 << 20  # bytes that wait for the disk, at the most
PIPES = 32  # that wait for the disk, at the most: half of what an unprivileged user may have

_ITEM = 64  # bytes that a message takes besides its data
_MUCH = 1 << 20  # of backlog: do not gather any longer
_GATHER = 0.1  # seconds until small messages are written, those of a connection in one call
_SPARE = 8  # chunks that are kept for what cannot be merged: ends, and what comes after them
_ROUND = 128  # connections that are written together

_numbers = itertools.count(1)  # of connections


class Tape:
    """The recording of one connection. What is public is called by the relay's thread.

    `given_up` says why nothing is recorded any more: then `miss` is cheaper than the others.
    """

    __slots__ = (
        "_number",
        "_recorder",
        "_seen",
        "began",
        "codes",
        "ended",
        "given_up",
        "listener",
        "lost",
        "peer",
        "pending",
        "queued",
        "times",
        "tracks",
        "zero",
    )

    def __init__(self, recorder: Recorder, number: int, began: float, peer: str, listener: str):
        self._recorder = recorder
        self._number = number
        self._seen = [0, 0]  # bytes down and up
        self.began = began
        self.zero = monotonic() - max(0.0, time() - began)
        self.peer = peer
        self.listener = listener
        self.given_up: str | None = None
        # both threads: what is to be written, down and up; whether the writer knows of it
        self.pending: tuple[list[Piece], list[Piece]] = ([], [])
        self.queued = False
        self.ended: _End | None = None
        # the chunks: milliseconds, and bytes * 2 + direction; the writer has them after the end
        self.times: array[int] | None = None
        self.codes: array[int] | None = None
        # the writer's own: whether it records nothing any more; files
        self.lost = False
        self.tracks: tuple[Track, Track] | None = None

    def data(self, up: bool, data: bytes) -> None:
        """Record a small message; nobody may change it later."""
        count = len(data)
        if not count:
            return
        if self.given_up is None:
            if self._recorder.admits(count):
                self._seen[up] += count
                self.note(monotonic(), up, count)
                self.pending[up].append(data)
                if not self.queued:
                    self._recorder.queue(self)
                return
            self.give_up("slow")
        self.miss(up, count)

    def pipe(self, up: bool, pipe: Pipe, count: int) -> None:
        """Record the `count` bytes that are in a pipe, which is the recorder's from now on."""
        if self.given_up is None:
            if self._recorder.admits_pipe():
                self._seen[up] += count
                if count:
                    self.note(monotonic(), up, count)
                self.pending[up].append((pipe, count))
                if not self.queued:
                    self._recorder.queue(self)
                return
            self.give_up("slow")
        self._recorder.give_back(pipe)
        self.miss(up, count)

    def eof(self, up: bool) -> None:
        """Record that one side has ended what it sends: a chunk of no bytes, which a replay needs
        to half-close when the client did.
        """
        if self.given_up is None:
            self.note(monotonic(), up, 0)

    def miss(self, up: bool, count: int) -> None:
        """Count bytes that were not given to the tape; so it is given up, if it was not before."""
        if count:
            self.give_up("skipped")
            self._seen[up] += count
            self._recorder.refused += count

    def give_up(self, why: str) -> None:
        """Record no more."""
        if self.given_up is None:
            self.given_up = why

    def end(self, upstream: str | None, reason: str) -> None:
        """Write the line, when all before it is on the disk. Called once, and nothing after it."""
        self.ended = _End(monotonic(), upstream, reason, *self._seen)
        if not self.queued:
            self._recorder.queue(self)

    @property
    def id(self) -> str:
        """The name of its files, different from all others; names sort by time."""
        seconds, micros = divmod(int(self.began * 1e6), 1_000_000)
        when = strftime("%Y%m%dT%H%M%S", gmtime(seconds))
        return f"{when}.{micros:06}-{self._recorder.pid}-{self._number}"

    def note(self, when: float, up: bool, count: int) -> None:
        """Add a chunk, or to the one before it."""
        if self.times is None or self.codes is None:
            self.times, self.codes = array("Q"), array("Q")
        codes = self.codes
        moment = int((when - self.zero) * 1000)
        if codes and count:
            last = codes[-1]
            if last & 1 == up and last > 1 and self.times[-1] == moment:
                codes[-1] = last + (count << 1)
                return
            if len(codes) >= CHUNKS - _SPARE and self._add_coarsely(up, count):
                return
        self.times.append(moment)
        codes.append(count << 1 | up)

    def _add_coarsely(self, up: bool, count: int) -> bool:
        """Add to the last chunk of its direction, so that no answer comes before what it answers:
        an up may move to before a down, a down not to before an up.
        """
        assert self.codes is not None
        codes = self.codes
        for place in range(len(codes) - 1, len(codes) - 3, -1):
            if codes[place] & 1 == up and codes[place] > 1:
                codes[place] += count << 1
                return True
            if not up or codes[place] <= 1:
                return False
        return False

    @property
    def coarse(self) -> bool:
        """Whether there were more chunks than a line may have."""
        return self.codes is not None and len(self.codes) >= CHUNKS - _SPARE

    def chunks(self) -> Iterator[tuple[int, bool, int]]:
        """Yield the chunks as far as they are on the disk: milliseconds, up or down, bytes."""
        left = [track.size for track in reversed(self.tracks)] if self.tracks else [0, 0]
        whole = [True, True]
        for moment, code in zip(self.times or (), self.codes or (), strict=True):
            up, count = code & 1, code >> 1
            recorded = min(count, left[up])
            left[up] -= recorded
            whole[up] = whole[up] and recorded == count
            if recorded or (not count and whole[up]):
                yield moment, bool(up), recorded


class _End:
    """What there is to say of a connection, and the bytes that went through."""

    __slots__ = ("down", "reason", "up", "upstream", "when")

    def __init__(self, when: float, upstream: str | None, reason: str, down: int, up: int):
        self.when, self.upstream, self.reason = when, upstream, reason
        self.down, self.up = down, up


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
