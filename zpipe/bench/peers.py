"""One measurement of a whole program: zpipe, or what is installed that does the same.

Each is given the same ends, and is started anew: what the start costs is counted, as whoever types
the command pays it.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

from zpipe.bench.carry import milliseconds
from zpipe.bench.ends import drain, feed
from zpipe.bench.figures import Sample
from zpipe.bench.forked import Child
from zpipe.bench.schedule import Failed, Refused, TooLong
from zpipe.errors import reason, signal_name
from zpipe.kernel import pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.bench.cells import Cell
    from zpipe.engine.stop import Stop

OWN = "zpipe"
NOT_INSTALLED = "is not installed"

_BUFFER = 256 * 1024
_PATIENCE = 20.0  # seconds until a reader must have read all; it is a failure of ours if not

# By route and program: {source} and {target} are files, {a} and {b} the ports of a source and a
# sink. Whoever names no source reads standard input; no target or port: writes standard output.
_COMMANDS: dict[str, dict[str, str]] = {
    "file-file": {
        OWN: "cp {source} {target}",
        "cp": "cp {source} {target}",
        "dd": f"dd if={{source}} of={{target}} bs={_BUFFER} status=none",
        "cat": "cat {source}",
        "pv": "pv -q {source}",
        "socat": f"socat -u -b{_BUFFER} FILE:{{source}} CREATE:{{target}}",
    },
    "file-tcp": {
        OWN: "cp {source} tcp://127.0.0.1:{b}",
        "socat": f"socat -u -b{_BUFFER} FILE:{{source}} TCP:127.0.0.1:{{b}}",
    },
    "file-pipe": {
        OWN: "cat {source}",
        "dd": f"dd if={{source}} bs={_BUFFER} status=none",
        "cat": "cat {source}",
        "pv": "pv -q {source}",
        "socat": f"socat -u -b{_BUFFER} FILE:{{source}} STDOUT",
    },
    "tcp-tcp": {
        OWN: "cp tcp://127.0.0.1:{a} tcp://127.0.0.1:{b}",
        "socat": f"socat -u -b{_BUFFER} TCP:127.0.0.1:{{a}} TCP:127.0.0.1:{{b}}",
    },
    "pipe-pipes": {
        OWN: "tee",
        "tee": "tee",
    },
}


def programs_of(route: str) -> list[str]:
    """Return the programs that serve a route, installed or not; zpipe is the first."""
    return list(_COMMANDS[route])


def measure_peer(
    cell: Cell, source: str, target: str, outputs: int, end: float, stop: Stop
) -> Sample:
    """Run a program once between the ends of a route, until `end` at the most.

    Raises: Refused  it is not installed.
            TooLong, Failed, Interrupted
    """
    if cell.technique != OWN and shutil.which(cell.technique) is None:
        raise Refused(NOT_INSTALLED)
    try:
        with _Run(cell, source, target, outputs) as run:
            return run.measure(end, stop)
    except OSError as error:
        raise Failed(reason(error)) from error


class _Run:
    """One program between two ends, from its start to its end; a context."""

    def __init__(self, cell: Cell, source: str, target: str, outputs: int):
        self._cell = cell
        self._target = target
        self._outputs = outputs if cell.route.several else 1
        self._stack = ExitStack()
        self._lent = self._stack.enter_context(ExitStack())  # what is closed once it has started
        self._readers: list[Child] = []
        self._places = {"source": source, "target": target}
        self._stdin = self._stdout = subprocess.DEVNULL
        self._others: list[int] = []
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def measure(self, end: float, stop: Stop) -> Sample:
        """Start it, wait for its end and for the readers, and return what it used."""
        words = _COMMANDS[self._cell.route.name][self._cell.technique]
        command = [word.format_map(self._places) for word in words.split()]
        command += [f"/dev/fd/{fd}" for fd in self._others]
        if self._cell.technique == OWN:
            command = [sys.executable, "-m", "zpipe", *command]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=self._stdin,
            stdout=self._stdout,
            stderr=subprocess.PIPE,
            pass_fds=self._others,
        )
        # of a pipe that we could write to as well, the end would never come
        self._lent.close()
        with process:
            used = _wait(process, end, stop)
            ended = time.monotonic()
            if process.returncode:
                raise Failed(_last_words(process))
        if self._readers:
            arrived = sum(reader.answer(_PATIENCE, stop) for reader in self._readers)
            ended = time.monotonic()
        else:
            arrived = os.stat(self._target).st_size
        if arrived != self._cell.size * self._outputs:
            raise Failed(f"{arrived} bytes arrived of {self._cell.size * self._outputs}")
        return Sample(
            1,
            self._cell.size,
            ended - began,
            used.ru_utime,
            used.ru_stime,
            used.ru_nvcsw,
            used.ru_nivcsw,
            used.ru_minflt,
            used.ru_inblock,
        )

    def _open(self) -> None:
        route, size = self._cell.route, self._cell.size
        if route.source == "pipe":
            self._stdin, writer = os.pipe2(os.O_CLOEXEC)
            self._lend(self._stdin)
            self._lend(writer)
            pipes.grow(writer)
            self._child(lambda: feed(writer, size), writer)
        elif route.source == "tcp":
            self._serve("a", lambda fd: feed(fd, size))
        if route.sink == "tcp":
            self._readers.append(self._serve("b", lambda fd: drain([fd])))
        elif route.sink == "pipe":
            ends = [os.pipe2(os.O_CLOEXEC) for _ in range(self._outputs)]
            for fd in sum(ends, ()):
                self._lend(fd)
            readers = [reader for reader, _ in ends]
            self._stdout, *self._others = [writer for _, writer in ends]
            self._readers.append(self._child(lambda: drain(readers), *readers))
        elif "{target}" not in _COMMANDS[route.name][self._cell.technique]:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._stdout = os.open(self._target, flags, 0o600)
            self._lend(self._stdout)

    def _lend(self, fd: int) -> None:
        self._lent.callback(os.close, fd)

    def _child(self, work: Callable[[], int], *keep: int) -> Child:
        return self._stack.enter_context(Child(work, keep))

    def _serve(self, name: str, work: Callable[[int], int]) -> Child:
        """Have somebody accept one connection and work on it."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._places[name] = str(listener.getsockname()[1])

            def accept() -> int:
                end, _ = listener.accept()
                with end:
                    done = work(end.fileno())
                    end.shutdown(socket.SHUT_WR)
                    return done

            return self._child(accept, listener.fileno())


def _wait(process: subprocess.Popen[bytes], end: float, stop: Stop) -> resource.struct_rusage:
    """Wait for a program's end, and return what it used.

    Raises: TooLong, Interrupted  it was killed.
    """
    pidfd = os.pidfd_open(process.pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        if stop.wakeup >= 0:
            poller.register(stop.wakeup, select.POLLIN)
        while True:
            stop.check()
            fired = dict(poller.poll(milliseconds(end)))
            if pidfd in fired:
                break
            if not fired:
                raise TooLong
            os.read(stop.wakeup, 512)
    except BaseException:
        process.send_signal(signal.SIGKILL)
        process.wait()
        raise
    finally:
        os.close(pidfd)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used


def _last_words(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace").strip().splitlines()
    if said:
        return said[-1]
    status = process.returncode
    return f"ended by {signal_name(-status)}" if status < 0 else f"ended with status {status}"
