"""Run zpipe under strace, and read what the kernel was really asked for."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple

from tests.machine import LONGEST, ZPIPE, environment, missing, need, zpipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

# Every call that a mover may claim. Not `read`, which none does: Python makes hundreds of them
# while it starts, and each one that is traced costs as much as a small copy.
MOVING = (
    "splice",
    "sendfile",
    "copy_file_range",
    "ioctl",
    "readv",
    "recvfrom",
    "preadv",
    "preadv2",
    "pwrite64",
    "write",
    "sendto",
)
KERNEL_ONLY = ("splice", "sendfile", "copy_file_range")
READS = {"readv", "recvfrom", "preadv", "preadv2"}
WRITES = {"write", "sendto", "pwrite64"}

_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+|\?)(?: (E[A-Z0-9]+))?")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")


class Call(NamedTuple):
    """A system call that has returned."""

    pid: int
    name: str
    arguments: str
    result: int
    error: str

    @property
    def fd(self) -> int:
        """The first argument as a number; -1 if it is none."""
        text = self.arguments.partition(",")[0]
        return int(text) if text.isdigit() else -1


@functools.cache
def strace() -> str:
    """Return the path of a strace that may trace here, or skip."""
    program = need("strace")
    done = subprocess.run(
        [program, "-f", "--seccomp-bpf", "-qq", "-e", "trace=none", "true"],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        missing(f"strace may not trace here: {done.stderr.decode().strip()}")
    return program


def parse(log: str) -> list[Call]:
    """Return the calls of zpipe itself, its threads included, its child processes not."""
    calls: list[Call] = []
    begun: dict[int, str] = {}
    for text in log.splitlines():
        line = text
        if found := _UNFINISHED.match(line):
            begun[int(found[1])] = line.removesuffix(" <unfinished ...>")
            continue
        if found := _RESUMED.match(line):
            line = begun.pop(int(found[1])) + found[3]
        if (found := _LINE.match(line)) and found[4] != "?":
            calls.append(Call(int(found[1]), found[2], found[3], int(found[4]), found[5] or ""))
    others = {call.pid for call in calls if call.name == "execve" and call.pid != calls[0].pid}
    return [call for call in calls if call.pid not in others and call.name != "execve"]


class Run(NamedTuple):
    """A run that has ended."""

    status: int
    output: bytes
    errors: str
    records: list[dict[str, Any]]
    calls: list[Call]

    def record(self, kind: str) -> dict[str, Any]:
        """Return the last JSON record of a type."""
        return [record for record in self.records if record["type"] == kind][-1]

    def moved(self, *names: str) -> int:
        """Return the sum of what calls of these names have returned."""
        return sum(call.result for call in self.calls if call.name in names and call.result > 0)


def run(
    *words: str | Path,
    log: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    pass_fds: Sequence[int] = (),
    said: Callable[[str], None] | None = None,
    inject: Sequence[str] = (),
    trace: Sequence[str] = MOVING,
    before: Sequence[str] = (),
    give_away: Sequence[int] = (),
) -> Run:
    """Run `zpipe cp` with JSON records; under strace if there is a `log` for it to write.

    `said` is called with each line of stderr while it runs. `inject` are faults for strace;
    `give_away` are fds that are closed here once zpipe has them.
    """
    prefix = list(before)
    if log is not None:
        prefix = [strace(), "-f", "--seccomp-bpf", "-qq", "-s", "0", "-e", "signal=none"]
        prefix += ["-e", f"trace=execve,{','.join(trace)}", "-o", str(log)]
        for fault in inject:
            prefix += ["-e", f"inject={fault}"]
        prefix += before
    reader, writer = os.pipe()
    own = ["cp", "--json-fd", str(writer), *map(str, words)]
    if not prefix and said is None and not give_away:
        # nobody looks on while it runs
        with open(reader, "rb") as told:
            try:
                fds = [writer, *pass_fds]
                done = zpipe(*own, stdin=stdin, stdout=stdout, pass_fds=fds)
            finally:
                os.close(writer)
            records = [json.loads(line) for line in told]
        return Run(done.returncode, done.stdout or b"", done.stderr.decode(), records, [])
    command = [*prefix, *ZPIPE, *own]
    lines: list[bytes] = []
    output: list[bytes] = []
    with open(reader, "rb") as told:
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=environment(),
                pass_fds=[writer, *pass_fds],
            )
        finally:
            for fd in (writer, *give_away):
                os.close(fd)
        bomb = threading.Timer(LONGEST, process.kill)
        bomb.start()
        collector = threading.Thread(target=lambda: output.append(_all(process.stdout)))
        collector.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                lines.append(line)
                if said is not None:
                    said(line.decode())
            process.wait()
        finally:
            bomb.cancel()
            bomb.join()
            collector.join()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        records = [json.loads(line) for line in told]
    calls = parse(log.read_text()) if log is not None else []
    errors = b"".join(lines).decode()
    return Run(process.returncode, output[0], errors, records, calls)


def _all(stream: Any) -> bytes:
    return b"" if stream is None else bytes(stream.read())
