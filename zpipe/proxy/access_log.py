"""A line for each connection that has ended, in a file or on standard output.

A line costs the relay an append; lines are made and written in batches, half a second after the
first at the latest, or 500 at once. The loop never waits for a reader: what is no regular file is
written without waiting, in pieces of whole lines and at most PIPE_BUF, which the kernel does not
mix with those of other writers. Lines for which there is no room are dropped and counted.

Text, for people and grep; what does not apply is `-`, mirror and name are left out where there
are none:

    TIME PEER -> UPSTREAM up=BYTES down=BYTES connect=MILLISECONDSms lasted=SECONDSs mover=MOVER
    end=REASON mirror=STATE name=NAME

in one line. TIME is that of the beginning (RFC 3339, UTC). Names have no blanks: these, backslashes
and what does not print are escaped as in Python.

JSON: an object in each line with the fields of `Access`, but `time` (as above), `connect_ms` and
`duration_ms`; null is what does not apply.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import time
from collections import deque

from zpipe.errors import TransferError, open_failed, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from zpipe.proxy.counters import Access
    from zpipe.proxy.loop import Loop, Timer

_DELAY = 0.5  # seconds that a line waits for others
_BATCH = 500  # lines that do not wait any longer
_ROOM = 1 << 20  # bytes of text that wait for a slow reader
_PARTING = 1.0  # seconds that a slow reader gets at the end


class AccessLog:
    """Writes lines to `path`, or to standard output if it is `-` or None.

    `dropped` counts lines that could not be written; `problem` is the first reason for that since
    the file was opened. Call everything from the loop's thread.

    Raises: TransferError  the file cannot be opened, or a FIFO has no reader.
    """

    def __init__(
        self,
        path: str | None,
        form: Literal["text", "json"],
        loop: Loop,
        told: Callable[[str], None] | None = None,
    ):
        self.dropped = 0
        self._told = told
        self.problem: str | None = None
        self._path = None if path in (None, "-") else path
        self._name = self._path or "standard output"
        self._loop = loop
        self._form: Callable[[list[Access]], list[bytes]] = _forms()[form]
        self._waiting: list[Access] = []
        self._timer: Timer | None = None
        self._queue: deque[bytes] = deque()  # pieces of whole lines, for a slow reader
        self._queued = 0
        self._watched = False
        self._cut = False  # the file ends within a line, since there was no space for the rest
        self._sink = self._open()

    def write(self, access: Access) -> None:
        """Take a connection that has ended."""
        waiting = self._waiting
        waiting.append(access)
        if self._timer is None:
            self._timer = self._loop.later(_DELAY, self.flush)
        elif len(waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as that is possible without waiting."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        lines = self._form(self._waiting)
        self._waiting.clear()
        if self._sink.direct:
            self._store(b"".join(lines), len(lines))
        else:
            self._enqueue(lines)
            if not self._watched:
                self._drain()

    def reopen(self) -> None:
        """Open the file of that name anew, for it has been rotated; keep the old one in need."""
        if self._path is None:
            return
        self.flush()
        old = self._sink
        try:
            self._sink = self._open()
        except TransferError as error:
            self._note(str(error))
            return
        self.problem = None
        self._cut = False
        self._unwatch(old)
        old.close()
        if self._queue:
            self._drain()

    def close(self) -> None:
        """Write what is left; a reader that is slow is waited for a little."""
        self.flush()
        end = time.monotonic() + _PARTING
        while self._queue and (rest := end - time.monotonic()) > 0:
            self._sink.wait(rest)
            self._drain()
        self._lose()
        self._unwatch(self._sink)
        self._sink.close()

    def _open(self) -> _Sink:
        try:
            return _standard_output() if self._path is None else _file(self._path)
        except OSError as error:
            raise open_failed(self._name, "open", error) from error

    def _store(self, text: bytes, lines: int) -> None:
        """Write to a regular file: all of it, or as much as there is space for."""
        if self._cut:
            text = b"\n" + text
        done = 0
        try:
            while done < len(text):
                done += self._sink.write(text[done:] if done else text)
        except OSError as error:
            self.dropped += min(lines, text.count(b"\n", done))
            self._failed(error)
        if done:
            self._cut = not text.endswith(b"\n", 0, done)

    def _enqueue(self, lines: list[bytes]) -> None:
        """Let lines wait in pieces that the kernel takes as a whole."""
        piece: list[bytes] = []
        size = 0
        for place, line in enumerate(lines):
            if self._queued + len(line) > _ROOM:
                self.dropped += len(lines) - place
                self._note(f"{self._name}: write: its reader is too slow")
                break
            if size + len(line) > select.PIPE_BUF and piece:
                self._queue.append(b"".join(piece))
                piece, size = [], 0
            piece.append(line)
            size += len(line)
            self._queued += len(line)
        if piece:
            self._queue.append(b"".join(piece))

    def _drain(self, event: int = 0) -> None:
        """Write pieces until the reader takes no more; the loop calls again when it does."""
        queue = self._queue
        try:
            while queue:
                done = self._sink.write(queue[0])
                self._queued -= done
                if done == len(queue[0]):
                    queue.popleft()
                else:
                    queue[0] = queue[0][done:]
        except BlockingIOError:
            self._watch()
            return
        except OSError as error:
            self._lose()
            self._failed(error)
        self._unwatch(self._sink)

    def _lose(self) -> None:
        """Drop what waits."""
        self.dropped += sum(piece.count(b"\n") for piece in self._queue)
        self._queue.clear()
        self._queued = 0

    def _failed(self, error: OSError) -> None:
        self._note(f"{self._name}: write: {reason(error)}")

    def _note(self, problem: str) -> None:
        if self.problem is None:
            self.problem = problem
            if self._told is not None:
                self._told(f"{problem}: lines of the access log are lost")

    def _watch(self) -> None:
        if not self._watched:
            self._loop.watch(self._sink.fd, select.EPOLLOUT, self._drain)
            self._watched = True

    def _unwatch(self, sink: _Sink) -> None:
        if self._watched:
            # before it is closed: standard output is the same open file, and stays in the epoll
            self._loop.forget(sink.fd)
            self._watched = False


class _Sink:
    """Where the text goes; the fd is ours. `direct`: a regular file, which never has one wait.

    Else `write` raises BlockingIOError rather than to wait.
    """

    direct = False

    def __init__(self, fd: int):
        self.fd = fd

    def write(self, text: bytes) -> int:
        """Write some of a text. Raises: OSError."""
        return os.write(self.fd, text)

    def wait(self, seconds: float) -> None:
        """Wait until it may take more."""
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        poll.poll(seconds * 1000)

    def close(self) -> None:
        os.close(self.fd)


class _File(_Sink):
    direct = True


class _Shared(_Sink):
    """A pipe or terminal of others, which may be blocking: it is asked before it is written to."""

    def write(self, text: bytes) -> int:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(self.fd, text)


class _Socket(_Sink):
    """A socket of others, such as the journal's."""

    def __init__(self, fd: int):
        super().__init__(fd)
        self._socket = socket.socket(fileno=fd)

    def write(self, text: bytes) -> int:
        return self._socket.send(text, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()


def _file(path: str) -> _Sink:
    """Open a file, or what else has a path. Raises: OSError  ENXIO: a FIFO without a reader."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    fd = os.open(path, flags, 0o640)
    return _File(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else _Sink(fd)


def _standard_output() -> _Sink:
    """Return a sink for standard output, whose flags are not ours to change."""
    kind = os.fstat(1).st_mode
    if stat.S_ISREG(kind):
        return _File(os.dup(1))
    if stat.S_ISSOCK(kind):
        return _Socket(os.dup(1))
    try:
        # a description of our own, which may be non-blocking
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return _Sink(os.open("/proc/self/fd/1", flags))
    except OSError:
        return _Shared(os.dup(1))  # of another user, or no /proc


def _forms() -> dict[str, Callable[[list[Access]], list[bytes]]]:
    return {"text": _as_text, "json": _as_json}


def _as_text(waiting: list[Access]) -> list[bytes]:
    moment = _Moment()
    lines = []
    for a in waiting:
        more = f" mirror={_word(a.mirror)}" if a.mirror else ""
        if a.name:
            more += f" name={_word(a.name)}"
        connect = "-" if a.connect is None else f"{a.connect * 1000:.3f}ms"
        lines.append(
            f"{moment.of(a.began)} {_word(a.peer)} -> {_word(a.upstream or '-')}"
            f" up={a.up} down={a.down} connect={connect} lasted={a.lasted:.3f}s"
            f" mover={a.mover or '-'} end={a.reason}{more}\n".encode(errors="backslashreplace")
        )
    return lines


def _as_json(waiting: list[Access]) -> list[bytes]:
    from json.encoder import encode_basestring_ascii as quoted

    moment = _Moment()
    lines = []
    for a in waiting:
        connect = "null" if a.connect is None else f"{a.connect * 1000:.3f}"
        upstream = "null" if a.upstream is None else quoted(a.upstream)
        lines.append(
            f'{{"time":"{moment.of(a.began)}","peer":{quoted(a.peer)},'
            f'"listener":{quoted(a.listener)},"upstream":{upstream},"up":{a.up},"down":{a.down},'
            f'"connect_ms":{connect},"duration_ms":{a.lasted * 1000:.3f},'
            f'"mover":{quoted(a.mover)},"reason":{quoted(a.reason)},'
            f'"mirror":{quoted(a.mirror)},"name":{quoted(a.name)}}}\n'.encode()
        )
    return lines


def _word(text: str) -> str:
    """Return a name as one word without anything that steers a terminal."""
    if text.isprintable() and " " not in text and "\\" not in text:
        return text
    return "".join(
        each
        if each.isprintable() and each not in " \\"
        else each.encode("unicode_escape").decode()
        if each != " "
        else "\\x20"
        for each in text
    )


class _Moment:
    """Writes times; the second is worked out once for all the lines that share it."""

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def of(self, seconds: float) -> str:
        """Return seconds since the epoch as 2026-11-21T17:34:51.123Z."""
        milliseconds = int(seconds * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._text}.{milliseconds % 1000:03}Z"
