"""The recording of one connection: what is to be written, and when it passed.

The relay's thread adds to a tape, and the writer takes from it; the attributes say which of the two
they belong to. How much may wait is for the `Recorder` to say, and where it is written for
`capture_files`.
"""

from __future__ import annotations

from array import array
from time import gmtime, monotonic, strftime, time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.capture_files import Track

    Message = bytes
    Piece = Message | tuple[Pipe, int]  # or a pipe with so many bytes in it

CHUNKS = 100_000  # in a line, at the most

_SPARE = 8  # chunks that are kept for what cannot be merged: ends, and what comes after them


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


class Recording:
    """One direction of a tape, as a `Tap`."""

    waits = False  # a tape never holds anybody up
    __slots__ = ("_tape", "_up")

    def __init__(self, tape: Tape, *, up: bool):
        self._tape = tape
        self._up = up

    def data(self, data: bytes) -> None:
        self._tape.data(self._up, data)

    def pipe(self, pipe: Pipe, count: int) -> None:
        self._tape.pipe(self._up, pipe, count)

    def no_pipe(self, count: int) -> None:
        self._tape.miss(self._up, count)

    def end(self) -> None:
        self._tape.eof(self._up)
