"""What `zpipe cat` asks of the kernel, seen by strace: who carries the bytes, and what is let be."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.machine import LONGEST, ZPIPE, content, environment
from tests.paths.tracing import MOVING, Call, parse, strace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BIG, SMALL = content(300_001), content(100, 2)


class Traced(NamedTuple):
    """A run that has ended."""

    status: int
    output: bytes
    errors: str
    records: list[dict[str, Any]]
    calls: list[Call]
    log: str

    def moved(self, *names: str, least: int = 9) -> int:
        """Return the sum of what calls of these names returned; 8 bytes only wake a thread."""
        return sum(
            call.result for call in self.calls if call.name in names and call.result >= least
        )

    @property
    def movers(self) -> list[str]:
        return [record["mover"] for record in self.records if record["type"] == "hop"]


def trace(
    *words: str,
    folder: Path,
    data: bytes | None = None,
    stdin: int | None = None,
    stdout: int | None = None,
    calls: Sequence[str] = MOVING,
) -> Traced:
    """Run `zpipe cat` under strace with its records on an fd of their own."""
    log, told = folder / "log", folder / "told"
    prefix = [strace(), "-f", "--seccomp-bpf", "-qq", "-s", "0", "-e", "signal=none"]
    prefix += ["-e", f"trace=execve,{','.join(calls)}", "-o", str(log)]
    with open(told, "wb") as file:
        command = [*prefix, *ZPIPE, "cat", "--json-fd", str(file.fileno()), *words]
        source: dict[str, Any] = {"input": data} if stdin is None else {"stdin": stdin}
        done = subprocess.run(
            command,
            **source,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=environment(),
            pass_fds=[file.fileno()],
            timeout=LONGEST,
            check=False,
        )
    text = log.read_text()
    records = [json.loads(line) for line in told.read_text().splitlines()]
    sum_of = sum(len(line) + 1 for line in told.read_text().splitlines())
    assert sum_of == told.stat().st_size
    seen = [call for call in parse(text) if call.fd != -1 or call.name not in MOVING]
    # what is said to people and programs is no payload
    payload = [call for call in seen if not (call.name == "write" and call.fd in _tellers(words))]
    payload = [call for call in payload if call.name != "write" or call.fd != file_number(command)]
    return Traced(done.returncode, done.stdout or b"", done.stderr.decode(), records, payload, text)


def _tellers(words: Sequence[str]) -> set[int]:
    return {2}


def file_number(command: Sequence[str]) -> int:
    """Return the fd of the records."""
    return int(command[list(command).index("--json-fd") + 1])
