"""Ask a question in a child process, which may hang or be killed, and wait only so long.

A filter of system calls can kill who makes one; a dead server makes a call that cannot even be
interrupted by SIGKILL. Neither reaches the examination: it goes on without that child.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import time

from zpipe.doctor.findings import Answer, answered
from zpipe.errors import signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

LONGEST = 1.0  # seconds for one question
_ALL = 15.0  # seconds for all of them
_TO_END = 50  # milliseconds for a child that has said all it will
_TO_DIE = 2.0  # seconds after SIGKILL: a child that is still there cannot be killed now


class Patience:
    """The time that is left for all questions together."""

    def __init__(self, longest: float = LONGEST, together: float = _ALL):
        self._longest = longest
        self._end = time.monotonic() + together

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Return the answer, or what became of the child that was to give it."""
        left = self._end - time.monotonic()
        if left <= 0:
            return Answer("unknown", "not tried: the others took too long")
        return ask(question, min(self._longest, left))


def ask(question: Callable[[], Answer], seconds: float) -> Answer:
    """Ask in a child process, and wait for its answer for so long."""
    try:
        reader, writer = os.pipe2(os.O_CLOEXEC)
    except OSError as error:
        return Answer("failed", f"pipe: {error.strerror}", errno=error.errno or 0)
    child = 0
    try:
        try:
            child = os.fork()
        except OSError as error:
            return Answer("failed", f"fork: {error.strerror}", errno=error.errno or 0)
        if child == 0:
            _answer(question, writer, seconds)
        os.close(writer)
        writer = -1
        told = _read(reader, seconds)
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
        status = _end(child) if child else None
    if told:
        return Answer(**json.loads(told))
    if told is None:
        return Answer("hung", f"cut off after {seconds:.2g} s without an answer")
    signum = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else 0
    if signum == signal.SIGSYS:
        return Answer("refused", "a filter of system calls killed the process (SIGSYS)")
    if signum:
        return Answer("failed", f"the process died of {signal_name(signum)}")
    return Answer("failed", "the process ended without an answer")


def _answer(question: Callable[[], Answer], writer: int, seconds: float) -> NoReturn:
    """Be the child: nothing of the parent's is run at its end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        # should the parent be gone, and leave nothing of it either
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(seconds) + 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        answer = answered(question)
        data = json.dumps({name: getattr(answer, name) for name in Answer._fields}).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _read(reader: int, seconds: float) -> bytes | None:
    """Return all that the child says; None when the time is over."""
    end = time.monotonic() + seconds
    told = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while True:
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        some = os.read(reader, 1 << 16)
        if not some:
            return told
        told += some


def _end(child: int) -> int | None:
    """See the child out. Returns: its status; None: it cannot be killed now."""
    try:
        pidfd = os.pidfd_open(child)
    except (OSError, AttributeError):
        pidfd = -1
    try:
        if pidfd >= 0:
            # it has closed its pipe: it is about to end by itself
            ending = select.poll()
            ending.register(pidfd, select.POLLIN)
            ending.poll(_TO_END)
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        os.kill(child, signal.SIGKILL)
        end = time.monotonic() + _TO_DIE
        while time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return status
            time.sleep(0.002)
    finally:
        if pidfd >= 0:
            os.close(pidfd)
    return None
