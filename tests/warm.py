"""Runs of zpipe that fork from one process in which it is loaded already.

Nearly all that a small run costs is the start of Python, and the tests make thousands of them. A
run from here is a process of its own all the same: it has the arguments, the directory, the
environment, the umask and the very fds that are asked for, and no other ones. What it does not show
is that zpipe finds its modules when it needs them, and what Python does when it takes everything
apart: for that, all other starts of zpipe in the tests are cold ones (beside a test, under strace,
from a shell), and `ZPIPE_TESTS_COLD=1` makes all of them so.

Two sides: `Warm`, in the process of the tests, and `main()`, in the one that forks. A request is
one message with the fds of the run; the first fd takes the answers: the pid, then the status.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import NoReturn

LIMITS = (
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC,
)
# of the environment, Python reads these when it starts
EARLY = ("PYTHON", "LC_", "LANG", "LD_")
LONGEST_MESSAGE = 30_000  # characters, of which each may become six
_NUMBER = struct.Struct("i")


class Warm:
    """The process that forks, as the tests see it."""

    def __init__(self, environment: dict[str, str]):
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._early = _early(environment)
        self._state = _state()
        with theirs:
            # it is nobody's child: there are tests that wait for any of theirs
            subprocess.run(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
                check=True,
            )

    def close(self) -> None:
        """Let it go: it ends when nobody can ask it any more."""
        self._ours.close()

    def serves(self, words: Sequence[str], environment: dict[str, str]) -> bool:
        """Tell whether a run would be the same as a cold one.

        A process inherits more than is asked for: users, limits, processors. Where a test has
        changed those of its own, or is another process by now, they are not those from here.
        """
        return (
            self._early == _early(environment)
            and self._state == _state()
            # executors start Python again, with what they find of the first one
            and not any(word.startswith("--exec") for word in words)
            and sum(map(len, (*words, *environment.values()))) < LONGEST_MESSAGE
        )

    def run(
        self,
        words: Sequence[str],
        *,
        stdin: int,
        stdout: int | None,
        data: bytes | None,
        cwd: Path | None,
        environment: dict[str, str],
        pass_fds: Sequence[int],
        timeout: float,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run zpipe to its end as subprocess.run() does; a `stdout` of None is to be collected."""
        # each is closed once: the number may be that of another thread's fd at once
        mine: set[int] = set()

        def close(fd: int) -> None:
            if fd in mine:
                mine.remove(fd)
                os.close(fd)

        with ExitStack() as stack:

            def pipe() -> tuple[int, int]:
                ends = os.pipe()
                for end in ends:
                    mine.add(end)
                    stack.callback(close, end)
                return ends

            answers, answer = pipe()
            errors, stderr = pipe()
            reading = {answers: bytearray(), errors: bytearray()}
            given = [answer, stderr]
            collected = -1
            if stdout is None:
                collected, stdout = pipe()
                reading[collected] = bytearray()
                given.append(stdout)
            feeding = -1
            if data is not None:
                stdin, feeding = pipe()
                given.append(stdin)
                os.set_blocking(feeding, False)
            request = {
                "words": list(words),
                "cwd": str(cwd) if cwd is not None else os.getcwd(),
                "environment": environment,
                "umask": _umask(),
                "places": [0, 1, 2, *pass_fds],
            }
            fds = [answer, stdin, stdout, stderr, *pass_fds]
            socket.send_fds(self._ours, [json.dumps(request).encode()], fds)
            for end in given:
                close(end)
            end_time = time.monotonic() + timeout
            done = _exchange(reading, feeding, data or b"", end_time, close)
            told = _NUMBER.iter_unpack(reading[answers])
            pid = next(told, (0,))[0]
            if not done:
                if pid:
                    os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["zpipe", *words], timeout)
            status = os.waitstatus_to_exitcode(next(told)[0])
            output = bytes(reading[collected]) if collected >= 0 else None
            return subprocess.CompletedProcess(
                ["zpipe", *words],
                status,
                output,
                bytes(reading[errors]),
            )


def _exchange(
    reading: dict[int, bytearray],
    feeding: int,
    data: bytes,
    end: float,
    close: Callable[[int], None],
) -> bool:
    """Feed and read everything at once, to all ends; return False when the time is over."""
    rest = memoryview(data)
    poll = select.poll()
    for fd in reading:
        poll.register(fd, select.POLLIN)
    if feeding >= 0:
        poll.register(feeding, select.POLLOUT)
    open_ = {*reading, feeding} - {-1}
    while open_:
        if (left := end - time.monotonic()) <= 0:
            return False
        for fd, _ in poll.poll(left * 1000):
            if fd == feeding:
                try:
                    rest = rest[os.write(fd, rest) :] if rest else rest
                    ended = not rest
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    ended = True
            else:
                some = os.read(fd, 1 << 16)
                reading[fd] += some
                ended = not some
            if ended:
                poll.unregister(fd)
                open_.discard(fd)
                close(fd)
    return True


def _early(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(EARLY)}


def _state() -> tuple[object, ...]:
    return (
        os.getpid(),
        os.getresuid(),
        os.getresgid(),
        os.sched_getaffinity(0),
        [resource.getrlimit(limit) for limit in LIMITS],
    )


def _umask() -> int:
    """Return it without changing it for a moment: other threads may be making files."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))


# The process that forks


def main() -> None:
    """Load zpipe and serve; return in each child, as the program that was asked for."""
    control = socket.socket(fileno=int(sys.argv[1]))
    if os.fork():
        os._exit(0)
    _load()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}  # by pidfd: the pid, and where to tell its status
    while True:
        for fd, _ in poll.poll():
            if fd != control.fileno():
                pid, answer = running.pop(fd)
                _, status = os.waitpid(pid, 0)
                with suppress(BrokenPipeError):  # the test has ended before
                    os.write(answer, _NUMBER.pack(status))
                poll.unregister(fd)
                os.close(fd)
                os.close(answer)
                continue
            message, fds, _, _ = socket.recv_fds(control, 6 * LONGEST_MESSAGE, 250)
            if not message:
                os._exit(0)
            pid = os.fork()
            if pid == 0:
                control.detach()  # its number may be that of another fd soon
                _become(json.loads(message), fds[1:])
                return
            with suppress(BrokenPipeError):
                os.write(fds[0], _NUMBER.pack(pid))
            for each in fds[1:]:
                os.close(each)
            pidfd = os.pidfd_open(pid)
            running[pidfd] = pid, fds[0]
            poll.register(pidfd, select.POLLIN)


def _load() -> None:
    """Import all of zpipe, and what it imports where it needs it."""
    import zpipe

    names = [module.name for module in pkgutil.walk_packages(zpipe.__path__, "zpipe.")]
    for name in (*names, "click", "rich.console", "rich.table", "rich.progress"):
        if name.endswith(".__main__"):
            continue
        # who needs what cannot be imported will say so
        with suppress(Exception):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _become(request: dict[str, object], fds: list[int]) -> None:
    """Put everything in its place."""
    places = request["places"]
    assert isinstance(places, list)
    # out of the way of each other first
    above = max(*fds, *places) + 1
    for number, fd in enumerate(fds):
        os.dup2(fd, above + number)
    for number, place in enumerate(places):
        os.dup2(above + number, place)
    before = 3
    for place in sorted({*places} - {0, 1, 2}):
        os.closerange(before, place)
        before = place + 1
    os.closerange(before, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    environment = request["environment"]
    assert isinstance(environment, dict)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    os.umask(int(str(request["umask"])))
    cwd = str(request["cwd"])
    os.chdir(cwd)
    sys.path[0] = cwd
    words = request["words"]
    assert isinstance(words, list)
    sys.argv[1:] = words
    # as Python makes them when it starts
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stderr = open(
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def run() -> NoReturn:
    """Be `python -m zpipe`, and end as Python does, but for the modules: they are not taken apart,
    which would cost more than most runs do.
    """
    status: object = 0
    try:
        runpy.run_module("zpipe", run_name="__main__", alter_sys=True)
    except SystemExit as error:
        status = error.code
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120
    if status is None or isinstance(status, int):
        os._exit((status or 0) & 0xFF)
    os.write(2, f"{status}\n".encode())
    os._exit(1)


if __name__ == "__main__":
    main()
    run()
