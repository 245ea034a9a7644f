"""The streams of a recipe in a process of their own, beside the one that serves its proxies.

It is forked once all listeners are open, before there is any thread, and waits for the word to
begin. What happens is told in records over a socket, which also says when to end: so it does, too,
when the process that serves is gone.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import threading
from time import monotonic

from zpipe.commands.records import as_line
from zpipe.commands.run_progress import Told
from zpipe.engine.run import run
from zpipe.engine.stop import Signals
from zpipe.errors import ConsumerGone, Interrupted, TransferError, ZpipeError, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from zpipe.commands.records import Record
    from zpipe.graph.model import Graph
    from zpipe.proxy.loop import Loop

_BEGIN, _END, _ASK = b"b", b"t", b"?"
_SIGNALS = {_END[0]: signal.SIGTERM, _ASK[0]: signal.SIGUSR1}
_PARTING = 10.0  # seconds to end in, once it has been asked to


class Streams:
    """The process that carries streams, as the one that serves knows it.

    `prepare` is called in it, before anything is opened; `take` is given the records, and `over`
    is called when it has ended.
    """

    def __init__(
        self,
        graph: Graph,
        prepare: Callable[[], None],
        take: Callable[[Record], None],
        over: Callable[[], None],
        *,
        explain: bool,
    ):
        self._take = take
        self._over = over
        self._control, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _be_streams(graph, theirs, prepare, explain=explain)
        theirs.close()
        # a worker that had it would keep the streams from seeing that this process is gone
        os.register_at_fork(after_in_child=self._control.close)
        self._control.setblocking(False)
        self._heard = b""
        self._loop: Loop | None = None
        self._begun = False
        self._asked: int | None = None  # the signal that asks for the end
        self._deadline: float | None = None
        self._error: Record | None = None
        self._status: int | None = None  # what it has exited with

    def begin(self, loop: Loop) -> None:
        """Let it begin; what it tells is heard in the loop."""
        self._loop = loop
        loop.watch(self._control.fileno(), select.EPOLLIN, lambda _: self._hear())
        self._begun = True
        self._tell(_BEGIN)

    @property
    def begun(self) -> bool:
        return self._begun

    @property
    def ended(self) -> bool:
        return self._status is not None

    @property
    def failed(self) -> bool:
        return bool(self._status)

    def ask(self) -> None:
        """Have a line told of each hop."""
        self._tell(_ASK)

    def end(self, number: int) -> None:
        """Ask for the end, by a signal; a second one does not wait."""
        if self._asked is None:
            self._asked = number
            self._deadline = monotonic() + _PARTING
        self._tell(_END)

    def finish(self) -> None:
        """Wait until it has ended; signals are passed on."""
        self._loop = None  # it is closed
        with Signals() as stop:
            while not self.ended:
                poll = select.poll()
                poll.register(self._control, select.POLLIN)
                if stop.wakeup >= 0:
                    poll.register(stop.wakeup, select.POLLIN)
                rest = None if self._deadline is None else self._deadline - monotonic()
                poll.poll(None if rest is None else max(0, int(rest * 1000) + 1))
                try:
                    stop.check()
                except Interrupted as error:
                    stop.heard()
                    self.end(error.signum)
                if stop.status_wanted:
                    stop.status_wanted = False
                    self.ask()
                self._hear()
                if self._deadline is not None and monotonic() >= self._deadline:
                    os.kill(self._pid, signal.SIGKILL)
                    self._deadline = None

    def judge(self) -> None:
        """Raise what it has ended by.

        Raises: ZpipeError  the streams failed; it has been told.
                Interrupted, ConsumerGone  they were cut off.
        """
        if self._error is not None:
            raise _as_raised(self._error, self._asked)

    def close(self) -> None:
        """Let it go: it ends if it has not yet."""
        self._control.close()
        if not self.ended:
            self._reap()

    def _tell(self, word: bytes) -> None:
        try:
            self._control.send(word)
        except OSError:
            pass  # it has ended

    def _hear(self) -> None:
        """Take what has come, without waiting."""
        try:
            data = self._control.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            if self._loop is not None:
                self._loop.forget(self._control.fileno())
            self._reap()
            if self._status and self._error is None:
                self._died(self._status)
            self._over()
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            record: Record = json.loads(line)
            if record["type"] == "error":
                self._error = record
            self._take(record)

    def _died(self, status: int) -> None:
        """Tell of an end that it had no time to tell of."""
        how = f"exit status {status}" if status > 0 else f"ended by {signal_name(-status)}"
        failure: ZpipeError = TransferError(f"streams: process {self._pid}: {how}")
        if status < 0 and self._asked is not None:
            failure = Interrupted(-status)

        def take(record: Record) -> None:
            if record["type"] == "error":
                self._error = record
            self._take(record)

        Told(take, interval=None).ended_by(failure)

    def _reap(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        self._status = os.waitstatus_to_exitcode(status)


def _as_raised(record: Record, asked: int | None) -> ZpipeError:
    """Return the error that a record tells of; a signal is the one that this process got."""
    text, number = str(record["text"]), record.get("signal")
    if isinstance(number, int):
        interrupted = Interrupted(asked or number)
        interrupted.args = (text.replace(signal_name(number), signal_name(interrupted.signum)),)
        return interrupted
    code = record["exit"]
    assert isinstance(code, int)
    if code == ConsumerGone.exit_code:
        return ConsumerGone(text)
    error = ZpipeError(*text.splitlines())
    error.exit_code = code
    error.told = True
    return error


def _be_streams(
    graph: Graph, control: socket.socket, prepare: Callable[[], None], *, explain: bool
) -> NoReturn:
    """Carry the streams when told to, and end the process."""
    status = 1
    told = Told(lambda record: _send(control, record), interval=1.0, explain=explain)
    try:
        # a terminal sends them to both processes: the other one decides
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        if control.recv(1) != _BEGIN:
            os._exit(0)  # the proxies cannot be served
        try:
            prepare()
            with Signals() as stop:
                threading.Thread(target=_obey, args=(control,), daemon=True).start()
                run(graph, feedback=told, stop=stop)
            status = 0
        except ZpipeError as error:
            told.ended_by(error)
            status = error.exit_code
    except BaseException as error:  # nothing is above it that could tell
        failure = ZpipeError(f"internal error: {type(error).__name__}: {error}")
        told.ended_by(failure)
    finally:
        os._exit(status)


def _send(control: socket.socket, record: Record) -> None:
    try:
        control.sendall(as_line(record))
    except OSError:
        pass  # whoever listened is gone, and the end is near


def _obey(control: socket.socket) -> None:
    """Become signals of this process, where they wake who sleeps: words, and the end of them."""
    while True:
        try:
            words = control.recv(64)
        except OSError:
            words = b""
        for word in words or _END:
            os.kill(os.getpid(), _SIGNALS[word])
        if not words:
            return
