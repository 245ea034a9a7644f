"""What one stream writes and another reads: a process, a socket, or a joint of our own.

A passage hands out its two sides, each once, to the threads of two streams. Whoever does not come
for a side forgoes it, so that the other one is not left waiting for what will never be.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from contextlib import ExitStack

from zpipe.endpoints import kind_of
from zpipe.endpoints.contract import End, refuse_offset
from zpipe.endpoints.gather import gather
from zpipe.errors import Interrupted, TransferError
from zpipe.kernel.pipes import Pipe
from zpipe.movers.contract import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Opening, Process, Waiter
    from zpipe.graph.model import Endpoint, Node
    from zpipe.graph.wiring import Joint, Wiring

_SOURCE, _SINK = 0, 1


class Passage(ABC):
    """One that is both written and read. `sink` and `source` take its sides, like opening it.

    `passes_on`: what is read is what was written, or made of it.
    """

    passes_on = True

    @abstractmethod
    def source(self, endpoint: Endpoint, opening: Opening) -> End:
        """Take what is read. Raises: TransferError, and whatever opening it raises."""

    @abstractmethod
    def sink(self, endpoint: Endpoint, opening: Opening) -> End:
        """Take what is written to. Raises: as `source`."""

    @abstractmethod
    def forgo(self, *, sink: bool) -> None:
        """Say that nobody will come for a side; nothing, where it was taken."""

    def interrupt(self, signum: int) -> None:
        """Let what is on its way go on to the end, which then is no good one."""

    @abstractmethod
    def close(self) -> None:
        """Release what nobody has taken."""


class Opened(Passage):
    """A process or a socket: opened by the first who comes, while the other one waits."""

    def __init__(self, node: Node):
        self._node = node
        self.passes_on = kind_of(node.endpoint.kind).way == "through"
        self._lock = threading.Lock()
        self._begun = False
        self._ends: list[End | None] | None = None
        self._forgone: set[int] = set()
        self._process: Process | None = None
        self._signum: int | None = None
        self._ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def source(self, endpoint: Endpoint, opening: Opening) -> End:
        refuse_offset(endpoint, opening)
        return self._take(_SOURCE, opening)

    def sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._take(_SINK, opening)

    def _take(self, side: int, opening: Opening) -> End:
        endpoint = self._node.endpoint
        with self._lock:
            first, self._begun = not self._begun, True
        if first:
            try:
                ends = kind_of(endpoint.kind).open_both(endpoint, opening)
                with self._lock:
                    self._ends = list(ends)
                    self._process = ends[_SOURCE].process
                    self._cut_short()
            finally:
                os.eventfd_write(self._ready, 1)  # and nobody ever reads it
        else:
            opening.waiter.wait(self._ready, endpoint.text, "wait until it is open")
        with self._lock:
            if self._ends is None:
                error = TransferError(f"{endpoint.text}: could not be opened")
                error.consequence = True
                raise error
            end, self._ends[side] = self._ends[side], None
            self._drop_forgone()
        assert end is not None, f"{endpoint.text} is read and written once"
        return end

    def interrupt(self, signum: int) -> None:
        with self._lock:
            self._signum = signum
            self._cut_short()

    def _cut_short(self) -> None:
        if self._process is not None and not self._process.fed:
            self._process.cut_short = self._signum

    def forgo(self, *, sink: bool) -> None:
        with self._lock:
            self._forgone.add(_SINK if sink else _SOURCE)
            self._drop_forgone()

    def _drop_forgone(self) -> None:
        for side in self._forgone if self._ends is not None else ():
            assert self._ends is not None
            end, self._ends[side] = self._ends[side], None
            if end is not None:
                end.close()

    def close(self) -> None:
        self.forgo(sink=True)
        self.forgo(sink=False)
        os.close(self._ready)


class _JointSink(End):
    """The way of one source into a joint. One that broke off spoils what comes out, unless it may
    be missing.
    """

    def __init__(self, fd: int, name: str, junction: _Junction, *, lenient: bool):
        super().__init__(fd, name, gather(fd))
        self.finishes_at_once = True
        self._junction = junction
        self._lenient = lenient

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        # before its end can be seen. Where nobody reads the joint any more, whoever did says why
        self._junction.ended.append(self.name)
        super().close()

    def cut(self) -> None:
        self.close()

    def close(self) -> None:
        junction = self._junction
        if self.fd >= 0 and not self._lenient and junction.cut_short is None:
            junction.broken = True
        super().close()


class _JointSource(End):
    """What comes out of a joint."""

    def __init__(self, fd: int, name: str, junction: _Junction):
        super().__init__(fd, name, gather(fd))
        self._junction = junction

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.close()
        junction = self._junction
        if not complete:
            return
        if junction.problem is not None or junction.broken:
            error = TransferError(f"{self.name}: {junction.problem or 'read: its input broke off'}")
            error.of_source = True
            error.consequence = junction.problem is None
            raise error
        if junction.cut_short is not None:
            raise Interrupted(junction.cut_short)


class _Junction:
    """The pipe of a joint: all write to it as they can, or a thread merges their lines."""

    def __init__(self, joint: Joint):
        """Raises: OSError  EMFILE, ENFILE; EAGAIN: no thread can be had."""
        self.broken = False
        self.ended: list[str] = []  # ways that have come to a good end
        self.problem: str | None = None
        self.cut_short: int | None = None
        self._thread: threading.Thread | None = None
        self._writers: dict[str, int] = {}
        with ExitStack() as stack:
            out = Pipe()
            stack.callback(out.close)
            if joint.merge == "lines":
                # here: the thread may not have the fds to load it
                from zpipe.engine.lines import merge_lines

                self._merge_lines = merge_lines
                pipes = []
                for way in joint.ways:
                    pipes.append(pipe := Pipe())
                    stack.callback(pipe.close)
                    self._writers[way.id] = pipe.writer
                readers = [pipe.reader for pipe in pipes]
                thread = threading.Thread(
                    target=self._merge, args=(readers, out.writer), daemon=True
                )
                start(thread)
                self._thread = thread
                stack.pop_all()
            else:
                for way in joint.ways:
                    self._writers[way.id] = fd = os.dup(out.writer)
                    stack.callback(os.close, fd)
                stack.pop_all()
                out.close_writer()
            self._reader = out.reader

    def _merge(self, readers: list[int], writer: int) -> None:
        self._merge_lines(readers, writer, self._fail)

    def _fail(self, problem: str) -> None:
        self.problem = problem

    def take_writer(self, way: str) -> int:
        """Return the fd that a way writes to, or -1 where it was taken."""
        fd, self._writers[way] = self._writers[way], -1
        return fd

    def take_reader(self) -> int:
        """Return the fd that is read, or -1 where it was taken."""
        fd, self._reader = self._reader, -1
        return fd

    def interrupt(self, signum: int) -> None:
        """Take note of a signal, unless all that comes in has come."""
        if len(self.ended) < len(self._writers):
            self.cut_short = signum

    def close(self) -> None:
        """Close what nobody has taken, and see the thread ended."""
        for fd in (self.take_reader(), *map(self.take_writer, self._writers)):
            if fd >= 0:
                os.close(fd)
        if self._thread is not None:
            self._thread.join()


class _Side(Passage):
    """A way into a joint, or the way out."""

    def __init__(self, junction: _Junction, node: Node):
        self._junction = junction
        self._node = node

    def source(self, endpoint: Endpoint, opening: Opening) -> End:
        return _JointSource(self._junction.take_reader(), endpoint.text, self._junction)

    def sink(self, endpoint: Endpoint, opening: Opening) -> End:
        fd = self._junction.take_writer(self._node.id)
        lenient = self._node.on_error == "drop"
        return _JointSink(fd, endpoint.text, self._junction, lenient=lenient)

    def forgo(self, *, sink: bool) -> None:
        fd = self._junction.take_writer(self._node.id) if sink else self._junction.take_reader()
        if fd < 0:
            return
        if sink and self._node.on_error != "drop":
            self._junction.broken = True
        os.close(fd)

    def interrupt(self, signum: int) -> None:
        self._junction.interrupt(signum)

    def close(self) -> None:
        self._junction.close()


def passages_of(wiring: Wiring) -> dict[str, Passage]:
    """Return the passages by the ids of their nodes. Raises: OSError  EMFILE, ENFILE."""
    found: dict[str, Passage] = {}
    try:
        for node in wiring.passing:
            found[node.id] = Opened(node)
        for joint in wiring.joints:
            junction = _Junction(joint)
            for node in (*joint.ways, joint.out):
                found[node.id] = _Side(junction, node)
    except BaseException:
        for passage in found.values():
            passage.close()
        raise
    return found
