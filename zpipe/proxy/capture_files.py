"""The files of recorded connections: bytes as they passed, and a line of the index at the end.

Where the disk fails, or the folder has no room left, the recording of one connection ends with the
beginning of what went through, and its line says how much is missing. Used by the writer's thread
alone, which makes pauses within long work: Python runs one thread at a time, and the relay would
wait for it. Knows nothing of queues, and of how much may wait.
"""

from __future__ import annotations

import errno
import json
import os
from collections import OrderedDict
from time import sleep

from zpipe.errors import reason
from zpipe.kernel.errnos import SPLICE_REFUSED
from zpipe.kernel.transfer import splice
from zpipe.proxy.capture_folder import BLOCK, INDEX, LINES, PAUSE, VERSION, blocks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.kernel.pipes import Pipe
    from zpipe.proxy.capture_folder import Folder
    from zpipe.proxy.capture_tape import Tape

# why recordings are given up; or the kernel's answer
GIVEN_UP = {
    "slow": "the disk cannot follow",
    "bound": "there is no room below the bound of the folder",
    "skipped": "not all of its bytes were to be had",
}
BURST = 16  # connections between two pauses

_ROOM = 64 << 10
_FILES = 64  # that are open at a time, whatever the number of connections
_BUFFERS = 256  # of one write; IOV_MAX is 1024


class Track:
    """The file of one direction."""

    __slots__ = ("fd", "made", "name", "size")

    def __init__(self, name: str):
        self.name = name
        self.fd = -1
        self.made = False
        self.size = 0


class Files:
    """What a process writes to a folder. `bytes` were recorded, `dropped` were not."""

    def __init__(self, folder: Folder, said: Callable[[str], None] | None):
        self._folder = folder
        self._said = said
        self._open: OrderedDict[Track, None] = OrderedDict()
        self.bytes = self.dropped = 0
        self.problem: str | None = None  # the first one

    def close(self) -> None:
        """Close the folder, and what is open in it. May be called twice."""
        for track in self._open:
            os.close(track.fd)
        self._open.clear()
        self._folder.close()

    @staticmethod
    def _track(tape: Tape, up: bool) -> Track:
        if tape.tracks is None:
            name = tape.id
            tape.tracks = Track(f"{name}.up"), Track(f"{name}.down")
        return tape.tracks[0 if up else 1]

    def take(self, tape: Tape, up: bool, pipe: Pipe, count: int) -> None:
        """Write the `count` bytes of a pipe; what there is no room for stays in it."""
        track = self._track(tape, up)

        def write(allowed: int) -> None:
            while allowed:
                moved = _carry(pipe, track.fd, allowed)
                track.size += moved
                allowed -= moved

        self._record(tape, track, count, write)

    def write(self, tape: Tape, up: bool, messages: list[bytes]) -> int:
        """Write messages, many of them by one call. Returns: the bytes in them."""
        track = self._track(tape, up)
        count = sum(map(len, messages))

        def write(allowed: int) -> None:
            parts = messages if allowed == count else [b"".join(messages)[:allowed]]
            for first in range(0, len(parts), _BUFFERS):
                buffers = parts[first : first + _BUFFERS]
                written = os.writev(track.fd, buffers)
                track.size += written
                if written < sum(map(len, buffers)):
                    rest = memoryview(b"".join(buffers))[written:]
                    while rest:  # the next one tells why
                        written = os.write(track.fd, rest)
                        track.size += written
                        rest = rest[written:]

        self._record(tape, track, count, write)
        return count

    def _record(self, tape: Tape, track: Track, count: int, write: Callable[[int], None]) -> None:
        """Let `count` bytes be written, or what there is room for; `write` counts them in the size.
        A failure is that of the tape alone.
        """
        before = track.size
        if not tape.lost:
            granted = 0
            try:
                granted = self._folder.take(blocks(before + count) - blocks(before))
                room = blocks(before) + granted // BLOCK * BLOCK - before
                if room:
                    self._make_open(track)
                    write(min(count, room))
                if room < count:
                    tape.lost, tape.given_up = True, "bound"
            except OSError as error:
                tape.lost, tape.given_up = True, reason(error)
                self._tell(f"{track.name}: {reason(error)}")
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._make_room(track)
                self._close(track)
            self._folder.give(granted - (blocks(track.size) - blocks(before)))
        self._count(track.size - before, count)

    @staticmethod
    def _make_room(track: Track) -> None:
        """Leave some of a full disk to the index: files of which no line tells are worth less."""
        size = max(0, track.size - _ROOM)
        try:
            os.truncate(track.fd, size)
        except OSError:
            return
        track.size = size

    def _count(self, written: int, count: int) -> None:
        self.bytes += written
        self.dropped += count - written

    def _make_open(self, track: Track) -> None:
        """Raises: OSError."""
        if track.fd >= 0:
            self._open.move_to_end(track)
            return
        while len(self._open) >= _FILES:
            self._close(next(iter(self._open)))
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        flags |= 0 if track.made else os.O_CREAT | os.O_EXCL
        try:
            track.fd = self._folder.open(track.name, flags)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._open:
                raise
            for other in list(self._open):
                self._close(other)
            track.fd = self._folder.open(track.name, flags)
        self._open[track] = None
        track.made = True
        # it is none of ours that has another size
        if os.lseek(track.fd, 0, os.SEEK_END) != track.size:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _close(self, track: Track) -> None:
        if track.fd >= 0:
            fd, track.fd = track.fd, -1
            del self._open[track]
            os.close(fd)

    def finish(self, ended: list[Tape]) -> None:
        """Write the lines of connections that have ended."""
        lines = []
        for tape in ended:
            for track in tape.tracks or ():
                self._close(track)
                if track.made and not track.size:
                    self._folder.remove(track.name)
            lines.append(_line(tape))
            if tape.given_up is not None:
                self._tell(f"{tape.id}: {GIVEN_UP.get(tape.given_up, tape.given_up)}")
            if len(lines) % BURST == 0:
                sleep(PAUSE)
        try:
            self._folder.append(b"".join(lines))
            return
        except OSError as error:
            self._tell(f"{INDEX}: {reason(error)}")
        # files without a line tell nobody anything, and without them there may be room for it
        for tape in ended:
            tape.given_up = "no room for the index"
            for track in tape.tracks or ():
                self._folder.remove(track.name)
                self._folder.give(blocks(track.size))
                self._count(-track.size, 0)
                track.size = 0
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
        if error.errno not in SPLICE_REFUSED:
            raise
        # a filesystem, or a filter of system calls, that does not let splice through
        data = memoryview(os.read(pipe.reader, min(count, 64 << 10)))
        moved = len(data)
        while data:
            data = data[os.write(fd, data) :]
    if not moved:
        raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
    return moved


def _line(tape: Tape) -> bytes:
    """Return the line of the index, made in bursts: it may have a megabyte."""
    end = tape.ended
    assert end is not None
    up, down = (track.size for track in tape.tracks) if tape.tracks else (0, 0)
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
        if number % LINES == LINES - 1:
            sleep(PAUSE)
    parts.append("]}\n")
    return "".join(parts).encode()
