"""A child process: its standard output as a source, its standard input as a sink.

The command is split as a shell splits words, and run without a shell; its exit status counts.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess

from zpipe.endpoints.contract import End, EndpointKind, Opening, refuse_offset
from zpipe.endpoints.gather import gather
from zpipe.errors import TransferError, UsageError, open_failed, signal_name
from zpipe.facts import FdFacts
from zpipe.kernel import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.endpoints.contract import Waiter
    from zpipe.graph.model import Endpoint

_LAST_WORDS = 0.2  # seconds for a child that has closed its input to end, and say how
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL for a child whose transfer failed


class ExecEnd(End):
    """One pipe to or from a child."""

    def __init__(self, child: subprocess.Popen[bytes], fd: int, name: str, *, sink: bool):
        self._child: subprocess.Popen[bytes] | None = child
        self._sink = sink
        pipes.grow(fd, pipes.CAPACITY)
        os.set_blocking(fd, False)
        super().__init__(fd, name, gather(fd))
        self.waits_for_child = True

    def last_words(self, waiter: Waiter) -> str:
        child = self._child
        if child is None:
            return ""
        handle = os.pidfd_open(child.pid)
        try:
            ended = waiter.wait(handle, self.name, "wait for its end", timeout=_LAST_WORDS)
        finally:
            os.close(handle)
        return f" ({_how(child.wait())})" if ended else ""

    def finish(self, waiter: Waiter, *, complete: bool = True) -> None:
        super().close()
        child = self._child
        assert child is not None
        if child.poll() is None:
            handle = os.pidfd_open(child.pid)
            try:
                waiter.wait(handle, self.name, "wait for its end")
            finally:
                os.close(handle)
        status = child.wait()
        self._child = None
        # a source that was not read to its end is told so by SIGPIPE: that is no failure
        if status == 0 or (status == -signal.SIGPIPE and not self._sink and not complete):
            return
        raise TransferError(f"{self.name}: {_how(status)}")

    def hang_up(self) -> None:
        super().close()

    def cut(self) -> None:
        self.hang_up()
        if self._child is not None:
            self._child.terminate()

    def close(self) -> None:
        super().close()
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


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

    def check(self, endpoint: Endpoint, *, sink: bool) -> None:
        _words(endpoint)

    def open_source(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._start(endpoint, opening, sink=False)

    def open_sink(self, endpoint: Endpoint, opening: Opening) -> End:
        return self._start(endpoint, opening, sink=True)

    def preview(self, endpoint: Endpoint, *, sink: bool) -> FdFacts:
        command = _words(endpoint)[0]
        if shutil.which(command) is None:
            raise TransferError(f"{endpoint.text}: start: {command}: No such file or directory")
        return FdFacts("pipe", nonblocking=True)

    def _start(self, endpoint: Endpoint, opening: Opening, *, sink: bool) -> End:
        refuse_offset(endpoint, opening)
        try:
            if sink:
                child = subprocess.Popen(_words(endpoint), stdin=subprocess.PIPE, bufsize=0)
                stream = child.stdin
            else:
                child = subprocess.Popen(_words(endpoint), stdout=subprocess.PIPE, bufsize=0)
                stream = child.stdout
        except OSError as error:
            raise open_failed(endpoint.text, "start", error) from error
        assert stream is not None
        fd = os.dup(stream.fileno())
        stream.close()
        return ExecEnd(child, fd, endpoint.text, sink=sink)


KIND: EndpointKind = Exec()
