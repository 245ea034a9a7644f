"""Connections as files: what went up, what went down, and a line of an index for each.

The relay's thread hands over bytes and pipes and never waits: it appends to a list, and a thread
of its own writes. What waits is bounded; where the disk cannot follow, or fails, or has no room,
the recording of a connection is given up, never the connection: both files then hold a beginning
of what went through, and the line says how much is missing.

The writer runs in short bursts, with pauses in between: Python runs one thread at a time, and the
relay would wait for it.

Several processes may share a folder. What changes the index, and what says how much room there is,
is done under the lock of `.state`. Room is counted in blocks of 4 KiB, as disks do: many small
connections fill one as surely as a big one. Connections that have ended go first when there is no
more, the oldest before the others.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import threading
from array import array
from collections import OrderedDict, deque
from contextlib import contextmanager
from time import gmtime, monotonic, sleep, strftime, time

from zpipe.errors import UsageError, reason
from zpipe.kernel.transfer import splice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.settings import Capture

    Piece = bytes | tuple[Pipe, int]  # a message, or a pipe with so many bytes in it

VERSION = 1
INDEX = "index.jsonl"
ID = re.compile(
    r"\d{8}T\d{6}\.\d{6}-(\d+)-\d+"
)  # when it began, in UTC, by which process, a number
CHUNKS = 100_000  # in a line, at the most
BACKLOG = 8 << 20  # bytes that wait for the disk, at the most
PIPES = 32  # that wait for the disk, at the most: half of what an unprivileged user may have

# why recordings are given up; or the kernel's answer
GIVEN_UP = {
    "slow": "the disk cannot follow",
    "bound": "there is no room below the bound of the folder",
    "skipped": "not all of its bytes were to be had",
}

_STATE = ".state"
_BLOCK = 4096
_ITEM = 64  # bytes that a message takes besides its data
_MUCH = 1 << 20  # of backlog: do not gather any longer
_GATHER = 0.1  # seconds until small messages are written, those of a connection in one call
_ROOM = 64 << 10
_SPARE = 8  # chunks that are kept for what cannot be merged: ends, and what comes after them
_ROUND = 128  # connections that are written together
_BURST = 16  # connections between two pauses
_LINES = 256  # of the index, or chunks in one of them, between two pauses
_PAUSE = 0.00005
_FILES = 64  # that are open at a time, whatever the number of connections
_BUFFERS = 256  # of one write; IOV_MAX is 1024
_INDEX_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
_INDEXED = re.compile(rb'\{"v":1,"id":"(' + ID.pattern.encode() + rb')"')

# locks of fcntl(2) exclude processes, not threads, and are gone with any close of the file
_in_process = threading.Lock()
_numbers = itertools.count(1)  # of connections and of grants


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
        "sides",
        "times",
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
        self.sides: tuple[_Side, _Side] | None = None

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
        left = [side.size for side in reversed(self.sides)] if self.sides else [0, 0]
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


class _Side:
    """The file of one direction."""

    __slots__ = ("fd", "made", "name", "size")

    def __init__(self, name: str):
        self.name = name
        self.fd = -1
        self.made = False
        self.size = 0


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
        self._folder = _Folder(capture)
        self.give_back = give_back
        self._said = said
        self.pid = 0
        self.problem: str | None = None  # the first one
        self.connections = 0
        self.bytes = 0  # recorded; the writer counts
        self.refused = 0  # the relay's thread counts
        self._dropped = 0  # the writer counts
        self._queue: deque[Tape] = deque()
        self._put_bytes = self._put_pipes = 0  # by the relay's thread
        self._got_bytes = self._got_pipes = 0  # by the writer
        self._idle = True
        self._closing = False
        self._wake, self._hurry = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._open: OrderedDict[_Side, None] = OrderedDict()

    @property
    def missed(self) -> int:
        """Bytes that went through and are not recorded."""
        return self.refused + self._dropped

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
            self._folder.close()
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
            for side in self._open:
                os.close(side.fd)
            self._folder.close()

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
            if number % _BURST == 0:
                sleep(_PAUSE)
        if ended:
            self._finish([tape for _, _, tape in sorted(ended)])

    def _write_pending(self, tape: Tape, up: bool) -> None:
        """Write the messages and pipes of one direction that wait at the moment."""
        pending = tape.pending[up]
        pieces = pending[: len(pending)]
        del pending[: len(pieces)]
        side = self._side(tape, up)
        messages: list[bytes] = []
        for piece in pieces:
            if isinstance(piece, bytes):
                messages.append(piece)
                continue
            if messages:
                self._write_messages(tape, side, messages)
                messages = []
            self._take_pipe(tape, side, *piece)
        if messages:
            self._write_messages(tape, side, messages)

    @staticmethod
    def _side(tape: Tape, up: bool) -> _Side:
        if tape.sides is None:
            name = tape.id
            tape.sides = _Side(f"{name}.up"), _Side(f"{name}.down")
        return tape.sides[0 if up else 1]

    def _take_pipe(self, tape: Tape, side: _Side, pipe: Pipe, count: int) -> None:
        """Empty a pipe into the file, and give it back."""

        def write(allowed: int) -> None:
            while allowed:
                moved = _carry(pipe, side.fd, allowed)
                side.size += moved
                allowed -= moved

        self._record(tape, side, count, write)
        self._got_pipes += 1
        self.give_back(pipe)

    def _write_messages(self, tape: Tape, side: _Side, pending: list[bytes]) -> None:
        """Write messages, many of them by one call."""
        count = sum(map(len, pending))

        def write(allowed: int) -> None:
            parts = pending if allowed == count else [b"".join(pending)[:allowed]]
            for first in range(0, len(parts), _BUFFERS):
                buffers = parts[first : first + _BUFFERS]
                written = os.writev(side.fd, buffers)
                side.size += written
                if written < sum(map(len, buffers)):
                    rest = memoryview(b"".join(buffers))[written:]
                    while rest:  # the next one tells why
                        written = os.write(side.fd, rest)
                        side.size += written
                        rest = rest[written:]

        self._record(tape, side, count, write)
        self._got_bytes += count + _ITEM * len(pending)

    def _record(self, tape: Tape, side: _Side, count: int, write: Callable[[int], None]) -> None:
        """Let `count` bytes be written, or what there is room for; `write` counts them in the size.
        A failure is that of the tape alone.
        """
        before = side.size
        if not tape.lost:
            granted = 0
            try:
                granted = self._folder.take(_blocks(before + count) - _blocks(before))
                room = _blocks(before) + granted // _BLOCK * _BLOCK - before
                if room:
                    self._make_open(side)
                    write(min(count, room))
                if room < count:
                    tape.lost, tape.given_up = True, "bound"
            except OSError as error:
                tape.lost, tape.given_up = True, reason(error)
                self._tell(f"{side.name}: {reason(error)}")
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._make_room(side)
                self._close(side)
            self._folder.give(granted - (_blocks(side.size) - _blocks(before)))
        self._count(side.size - before, count)

    @staticmethod
    def _make_room(side: _Side) -> None:
        """Leave some of a full disk to the index: files of which no line tells are worth less."""
        size = max(0, side.size - _ROOM)
        try:
            os.truncate(side.fd, size)
        except OSError:
            return
        side.size = size

    def _count(self, written: int, count: int) -> None:
        self.bytes += written
        self._dropped += count - written

    def _make_open(self, side: _Side) -> None:
        """Raises: OSError."""
        if side.fd >= 0:
            self._open.move_to_end(side)
            return
        while len(self._open) >= _FILES:
            self._close(next(iter(self._open)))
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= 0 if side.made else os.O_CREAT | os.O_EXCL
        try:
            side.fd = self._folder.open(side.name, flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
            for other in list(self._open):
                self._close(other)
            side.fd = self._folder.open(side.name, flags)
        self._open[side] = None
        side.made = True
        # it is none of ours that has another size
        if os.lseek(side.fd, 0, os.SEEK_END) != side.size:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _close(self, side: _Side) -> None:
        if side.fd >= 0:
            fd, side.fd = side.fd, -1
            del self._open[side]
            os.close(fd)

    def _finish(self, ended: list[Tape]) -> None:
        """Write the lines of connections that have ended."""
        lines = []
        for tape in ended:
            for side in tape.sides or ():
                self._close(side)
                if side.made and not side.size:
                    self._folder.remove(side.name)
            lines.append(_line(tape))
            if tape.given_up is not None:
                self._tell(f"{tape.id}: {GIVEN_UP.get(tape.given_up, tape.given_up)}")
            if len(lines) % _BURST == 0:
                sleep(_PAUSE)
        try:
            self._folder.append(b"".join(lines))
            return
        except OSError as error:
            self._tell(f"{INDEX}: {reason(error)}")
        # files without a line tell nobody anything, and without them there may be room for it
        for tape in ended:
            tape.given_up = "no room for the index"
            for side in tape.sides or ():
                self._folder.remove(side.name)
                self._folder.give(_blocks(side.size))
                self._count(-side.size, 0)
                side.size = 0
        try:
            self._folder.append(b"".join(map(_line, ended)))
        except OSError:
            pass  # it is told already

    def _tell(self, what: str) -> None:
        if self.problem is None:
            self.problem = f"{self._folder.name}: capture: {what}"
            if self._said is not None:
                self._said(self.problem)


def _carry(pipe: Pipe, fd: int, count: int) -> int:
    """Move bytes from a pipe to a file. Raises: OSError."""
    try:
        moved = splice(pipe.reader, fd, count)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP):
            raise
        # a filesystem, or a filter of system calls, that does not let splice through
        data = memoryview(os.read(pipe.reader, min(count, 64 << 10)))
        moved = len(data)
        while data:
            data = data[os.write(fd, data) :]
    if not moved:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return moved


def _blocks(size: int) -> int:
    """Return what a file takes of a disk."""
    return (size + _BLOCK - 1) // _BLOCK * _BLOCK


def _line(tape: Tape) -> bytes:
    """Return the line of the index, made in bursts: it may have a megabyte."""
    end = tape.ended
    assert end is not None
    up, down = (side.size for side in tape.sides) if tape.sides else (0, 0)
    record: dict[str, object] = {
        "v": VERSION,
        "id": tape.id,
        "began": round(tape.began, 6),
        "ended": round(tape.began + max(0.0, end.when - tape.zero), 6),
        "peer": tape.peer,
        "listener": tape.listener,
        "upstream": end.upstream,
        "up": up,
        "down": down,
        "missed": {"up": end.up - up, "down": end.down - down},
        "reason": end.reason,
    }
    if tape.given_up is not None:
        record["given_up"] = tape.given_up
    if tape.coarse:
        record["coarse"] = True
    parts = [json.dumps(record, separators=(",", ":"))[:-1], ',"chunks":[']
    for number, (moment, upwards, count) in enumerate(tape.chunks()):
        comma = "," if number else ""
        parts.append(f'{comma}[{moment},"{"u" if upwards else "d"}",{count}]')
        if number % _LINES == _LINES - 1:
            sleep(_PAUSE)
    parts.append("]}\n")
    return "".join(parts).encode()


class _Folder:
    """The folder: its index, and the room in it. Used by the writer only, once it is made.

    `.state` says how many bytes are used, and how many of these each process has been granted and
    has not written yet. Where it is not to be trusted (it is not there, or a process has died with
    a grant), the files are measured.
    """

    def __init__(self, capture: Capture):
        """Raises: UsageError  it cannot be made, is none, or cannot be written to."""
        self.name = capture.directory
        self._total = capture.total
        self._left = 0  # granted and not written; less than 0 after long lines of the index
        self._key = ""
        self._fd = self._state = self._index = -1
        self._again = 0.0  # when to look for room again
        try:
            try:
                os.mkdir(self.name, 0o700)
            except FileExistsError:
                pass
            self._fd = os.open(self.name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            # both stay open: lines can be written when no fd is left
            self._state = self.open(_STATE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
            self._index = self.open(INDEX, _INDEX_FLAGS)
        except OSError as error:
            self._close()
            raise UsageError(f"{self.name}: capture: {reason(error)}") from error

    def open(self, name: str, flags: int) -> int:
        """Open a file in it, for us alone if it is new. Raises: OSError."""
        return os.open(name, flags | os.O_CLOEXEC, 0o600, dir_fd=self._fd)

    def remove(self, name: str) -> None:
        """Remove a file from it, if it is there."""
        try:
            os.unlink(name, dir_fd=self._fd)
        except OSError:
            pass

    def close(self) -> None:
        """Give back what was granted and is not needed. May be called twice."""
        if self._fd < 0:
            return
        try:
            if self._key:
                with self._locked():
                    used, grants = self._standing()
                    if used is not None and grants.pop(self._key, None) is not None:
                        self._note(used - self._left, grants)
        except OSError:
            pass  # then it is measured by the next one
        self._close()

    def _close(self) -> None:
        with _in_process:  # to close a file drops its locks, those of other recorders, too
            for fd in (self._fd, self._state, self._index):
                if fd >= 0:
                    os.close(fd)
        self._fd = self._state = self._index = -1

    def take(self, count: int) -> int:
        """Return how many of so many bytes there is room for. Raises: OSError."""
        if count > self._left and monotonic() >= self._again:
            self._claim(count - self._left)
        taken = max(0, min(count, self._left))
        self._left -= taken
        return taken

    def give(self, count: int) -> None:
        """Take back room that was not needed after all, or is free again."""
        self._left += count

    def append(self, lines: bytes) -> None:
        """Add lines to the index, all of them or none.

        They are written even if the bound is exceeded by them, and room is made after that: files
        of which no line tells could never be removed.

        Raises: OSError.
        """
        with self._locked():
            fd = self._present_index()
            size = os.fstat(fd).st_size
            if size and os.pread(fd, 1, size - 1) != b"\n":
                size = _whole(fd, size)  # the machine went down when the last one was written
                os.ftruncate(fd, size)
            if os.write(fd, lines) < len(lines):
                os.ftruncate(fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._left -= len(lines)
        self._again = 0.0  # what has ended may go
        if self._left < 0:
            try:
                self._claim(-self._left)
            except OSError:
                pass  # whoever needs it will try again, and tell

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Within: nobody else is at the index or at the state."""
        with _in_process:
            os.lockf(self._state, os.F_LOCK, 0)
            try:
                yield
            finally:
                os.lockf(self._state, os.F_ULOCK, 0)

    def _present_index(self) -> int:
        """Return an fd of the index that is in place now: others may have put in a shorter one.

        Raises: OSError.
        """
        try:
            there = os.stat(INDEX, dir_fd=self._fd, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._index)):
                return self._index
        except FileNotFoundError:
            pass
        fd = self.open(INDEX, _INDEX_FLAGS)
        os.close(self._index)
        self._index = fd
        return fd

    def _standing(self) -> tuple[int | None, dict[str, int]]:
        """Return what the state says; None: it cannot be trusted."""
        try:
            state = json.loads(os.pread(self._state, 1 << 20, 0))
            used, grants = state["used"], state["grants"]
            if type(used) is not int or not all(type(each) is int for each in grants.values()):
                return None, {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None, {}
        living = {key: grant for key, grant in grants.items() if _lives(key)}
        return (used if len(living) == len(grants) else None), living

    def _note(self, used: int, grants: dict[str, int]) -> None:
        text = json.dumps({"v": VERSION, "used": used, "grants": grants}).encode()
        os.pwrite(self._state, text, 0)
        os.ftruncate(self._state, len(text))

    def _claim(self, more: int) -> None:
        """Be granted `more` bytes, or what there is when old connections have gone.

        Raises: OSError.
        """
        self._key = self._key or f"{_process(os.getpid())}:{next(_numbers)}"
        with self._locked():
            used, grants = self._standing()
            wanted = max(more, self._total // 64)  # so that this is not done for every write
            grants[self._key] = self._left
            if used is None or used + wanted > self._total:
                sizes, used = self._measured()
                used += sum(grants.values())
                if used + wanted > self._total:
                    need = used + wanted - self._total
                    used -= self._evict(need, self._total // 8, sizes, grants)
            granted = max(0, min(wanted, self._total - used))
            self._left += granted
            grants[self._key] = self._left
            self._note(used + granted, grants)
        if granted < more:
            # what is open has filled it; to measure it again for every message would be no help
            self._again = monotonic() + 1

    def _measured(self) -> tuple[dict[str, int], int]:
        """Return what the files of each connection take, and what there is altogether."""
        sizes: dict[str, int] = {}
        used = 0
        with os.scandir(self._fd) as entries:
            for entry in entries:
                name, _, kind = entry.name.rpartition(".")
                ours = kind in ("up", "down") and ID.fullmatch(name)
                if not ours and entry.name != INDEX:
                    continue
                try:
                    size = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue
                if ours:
                    size = _blocks(size)
                    sizes[name] = sizes.get(name, 0) + size
                used += size
        return sizes, used

    def _evict(self, need: int, more: int, sizes: dict[str, int], grants: dict[str, int]) -> int:
        """Remove connections that have ended until there are `need` bytes, and `more`, so that it
        need not be done again soon. Return how many there are.

        Raises: OSError.
        """
        lines = self._lines()
        indexed = {name for name, _ in lines}
        pids = {key.partition(":")[0] for key in grants}
        freed = 0
        for name in sorted(sizes.keys() - indexed):
            # the files of a process that died; those of the living are still being written
            if freed < need + more and name.split("-")[1] not in pids:
                self._remove(name)
                freed += sizes[name]
        gone, offset = [], 0
        for name, length in lines:
            if freed >= need + more:
                break
            gone.append(name)
            offset += length
            freed += sizes.get(name, 0) + length
        if not offset:
            return freed
        try:
            self._cut(offset)
        except OSError:
            # a full disk: there is room for the new index when the files have gone
            for name in gone:
                self._remove(name)
            self._cut(offset)
        for name in gone:
            self._remove(name)
        return freed

    def _remove(self, name: str) -> None:
        if name:
            self.remove(f"{name}.up")
            self.remove(f"{name}.down")

    def _lines(self) -> list[tuple[str, int]]:
        """Return the names in the index, the oldest first, and the lengths of their lines."""
        found = []
        with open(self._present_index(), "rb", closefd=False) as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                ours = _INDEXED.match(line)
                found.append((ours[1].decode() if ours else "", len(line)))
                if number % _LINES == 0:
                    sleep(_PAUSE)
        return found

    def _cut(self, offset: int) -> None:
        """Put an index in place that begins at an offset of the present one. Raises: OSError."""
        new = f"{INDEX}.new"
        self.remove(new)
        try:
            fd = self.open(new, _INDEX_FLAGS & ~os.O_APPEND | os.O_EXCL)
            try:
                while sent := os.sendfile(fd, self._present_index(), offset, 64 << 20):
                    offset += sent
            finally:
                os.close(fd)
            os.rename(new, INDEX, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except BaseException:
            self.remove(new)
            raise


def _whole(fd: int, size: int) -> int:
    """Return where the last line that has an end ends."""
    while size:
        first = max(0, size - (64 << 10))
        found = os.pread(fd, size - first, first).rfind(b"\n")
        if found >= 0:
            return first + found + 1
        size = first
    return 0


def _process(pid: int) -> str:
    """Return what tells a process from all others, on this machine, until it is restarted."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            born = file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        born = ""
    return f"{pid}:{born}"


def _lives(key: str) -> bool:
    process = key.rpartition(":")[0]
    pid = process.partition(":")[0]
    return pid.isdecimal() and _process(int(pid)) == process
