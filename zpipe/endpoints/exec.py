"""A child process: its standard output as a source, its standard input as a sink.

The command is split as a shell splits words, and run without a shell; its exit status counts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from contextlib import ExitStack

from zpipe.endpoints.contract import End, EndpointKind, Opening, Process, refuse_offset
from zpipe.endpoints.gather import gather
from zpipe.errors import Interrupted, TransferError, UsageError, open_failed, signal_name
from zpipe.facts import FdFacts
from zpipe.kernel import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.endpoints.contract import Waiter
    from zpipe.graph.model import Endpoint

_LAST_WORDS = 0.2  # seconds for a child that has closed its input to end, and say how
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for a child whose transfer failed


class Child(Process):
    """A process of ours, which one end or two have a pipe to; two threads may ask for its end."""

    def __init__(self, popen: subprocess.Popen[bytes], name: str):
        self._popen = popen
        self.name = name
        self.pid = popen.pid
        self.broken = False  # its input, which comes from here, too, has broken off

    @property
    def status(self) -> int | None:
        return self._popen.returncode

    def has_ended(self, waiter: Waiter, timeout: float | None = None) -> bool:
        """Wait for its end; False when `timeout` seconds passed first."""
        if self._popen.poll() is not None:
            return True
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            self._popen.wait()  # the other thread is about to take note of its end
            return True
        try:
            ended = waiter.wait(handle, self.name, "wait for its end", timeout=timeout)
        finally:
            os.close(handle)
        if ended:
            self._popen.wait()
        return ended

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    def end(self) -> None:
        """See it ended, whatever it does."""
        if self._popen.poll() is not None:
            return
        self._popen.terminate()
        try:
            self._popen.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


class ExecEnd(End):
    """One pipe to or from a child."""

    def __init__(self, child: Child, fd: int, *, sink: bool):
        self._child = child
        self._sink = sink
        pipes.grow(fd, pipes.CAPACITY)
        os.set_blocking(fd, False)
        super().__init__(fd, child.name, gather(fd))
        self.process = child
        self.waits_for_child = True

    def last_words(self, waiter: Waiter) -> str:
        child = self._child
        ended = child.has_ended(waiter, _LAST_WORDS)
        return f" ({_how(child.status)})" if ended and child.status is not None else ""

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        super().close()
        child = self._child
        child.has_ended(waiter)
        status = child.status
        if child.broken:
            broken = TransferError(f"{self.name}: its input broke off")
            broken.consequence = True
            raise broken
        if child.cut_short is not None:
            raise Interrupted(child.cut_short)
        # a source that was not read to its end is told so by SIGPIPE: that is no failure
        if status == 0 or (status == -signal.SIGPIPE and not self._sink and not complete):
            return
        assert status is not None
        error = TransferError(f"{self.name}: {_how(status)}")
        error.died_of = -status if status < 0 else None
        raise error

    def hang_up(self) -> None:
        super().close()

    def cut(self) -> None:
        self.hang_up()
        self._child.terminate()

    def close(self) -> None:
        super().close()
        self._child.end()


class InputEnd(ExecEnd):
    """The input of a child whose output is read, too: that end waits for the child and judges it.

    A child that has enough may close its input: its exit status tells. One whose input breaks off
    must not come to a good end.
    """

    def __init__(self, child: Child, fd: int):
        super().__init__(child, fd, sink=True)
        self.waits_for_child = False
        self.finishes_at_once = True

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        self._child.fed = True  # before it can see the end
        super().hang_up()

    def cut(self) -> None:
        self.close()

    def close(self) -> None:
        child = self._child
        if self.fd >= 0 and child.cut_short is None:
            child.broken = True
            child.terminate()
        End.close(self)


def _how(status: int) -> str:
    """Tell how a child ended."""
    return f"died of {signal_name(-status)}" if status < 0 else f"exit status {status}"


def _words(endpoint: Endpoint) -> list[str]:
    try:
        words = shlex.split(endpoint.address)
    except ValueError as error:
        raise UsageError(f"{endpoint.text}: split into words: {error}") from None
    if not words:
        raise UsageError(f"{endpoint.text}: give a command")
    return words


class Exec(EndpointKind):
    """`exec:COMMAND ARGUMENT...`."""

    name = "exec"
    form = "exec:COMMAND"
    summary = "A child's standard output or input; run without a shell, and its exit status counts."
    way = "through"

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        _words(endpoint)

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._open(endpoint, opening, sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._open(endpoint, opening, sink=True)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        command = _words(endpoint)[0]
        if shutil.which(command) is None:
            raise TransferError(f"{endpoint.text}: start: {command}: No such file or directory")
        return FdFacts("pipe", nonblocking=True)

    def open_both(self, endpoint: Endpoint, opening: Opening) -> tuple[End, End]:
        with ExitStack() as stack:
            popen, fds = _start(endpoint, ("stdin", "stdout"), stack)
            child = Child(popen, endpoint.text)
            stack.callback(child.end)
            source = ExecEnd(child, fds["stdout"], sink=False)
            sink = InputEnd(child, fds["stdin"])
            stack.pop_all()
        return source, sink

    def _open(self, endpoint: Endpoint, opening: Opening, *, sink: bool) -> End:
        refuse_offset(endpoint, opening)
        stream = "stdin" if sink else "stdout"
        with ExitStack() as stack:
            popen, fds = _start(endpoint, (stream,), stack)
            child = Child(popen, endpoint.text)
            stack.callback(child.end)
            end = ExecEnd(child, fds[stream], sink=sink)
            stack.pop_all()
        return end


def _start(
    endpoint: Endpoint, streams: Sequence[str], stack: ExitStack
) -> tuple[subprocess.Popen[bytes], dict[str, int]]:
    """Start a child with a pipe to its stdin or from its stdout, or both; return our fds, which
    `stack` closes.

    By pipes of our own: until Python 3.12 those of Popen were left open where fds ran out.
    """
    words = _words(endpoint)
    ours: dict[str, int] = {}
    try:
        with ExitStack() as theirs:
            ends = {}
            for stream in streams:
                reader, writer = os.pipe2(os.O_CLOEXEC)
                here, there = (writer, reader) if stream == "stdin" else (reader, writer)
                stack.callback(os.close, here)
                theirs.callback(os.close, there)
                ours[stream], ends[stream] = here, there
            popen = subprocess.Popen(words, stdin=ends.get("stdin"), stdout=ends.get("stdout"))
    except OSError as error:
        raise open_failed(endpoint.text, "start", error) from error
    return popen, ours


KIND: EndpointKind = Exec()
