"""Every kind of source and of sink, under strace: the bytes, and who carried them.

How a pair is carried depends on what its two fds are to the kernel. So each kind meets those of
every sort on the other side: a file, a pipe, a socket; and some meet their like.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.paths.peers import SINKS, SOURCES, Peer, pattern
from tests.paths.tracing import KERNEL_ONLY, MOVING, READS, WRITES, Run, run, strace
from zpipe.movers import mover_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SIZE = 300_001
ON_DISK = {"file", "stdin-file", "memfd", "block"}
# one of each sort, of which one is inherited
SORTS_OF_SOURCE = ("file", "stdin-pipe", "tcp")
SORTS_OF_SINK = ("file", "stdout-pipe", "stdout-socket", "tcp")
PAIRS = [
    *((source, sink) for source in SORTS_OF_SOURCE for sink in SINKS),
    *((source, sink) for source in SOURCES for sink in SORTS_OF_SINK),
    ("stdin-file", "stdout-file"),
    ("stdin-terminal", "stdout-terminal"),
    ("stdin-socket", "null"),
    ("fifo", "fifo"),
    ("tcp-listen", "tcp-listen"),
    ("unix", "unix-listen"),
    ("unix-listen", "unix"),
    ("exec", "exec"),
    ("zero", "pattern"),
    ("zero", "null"),
    ("pattern", "pattern"),
    ("memfd", "memfd"),
    ("memfd", "block"),
    ("block", "block"),
    ("block", "null"),
]
SAME_PLACE = {("file", "file"), ("file", "stdout-file"), ("memfd", "memfd")}


def quickest(source_kind: str, sink_kind: str) -> set[str]:
    """Return the movers of which one must have served, or this machine is not used well."""
    if sink_kind == "stdout-socket":
        return {"plain"}  # it blocks, and its flags belong to others too
    if source_kind not in ON_DISK:
        return {"splice"}
    if (source_kind.removeprefix("stdin-"), sink_kind) in SAME_PLACE:
        return {"copy_range", "reflink"}
    return {"sendfile"}


def carried(done: Run, size: int) -> None:
    """Compare the mover that was reported with the calls that strace has seen."""
    mover = mover_of(done.record("hop")["mover"])
    if mover.name == "reflink":
        assert any("FICLONE" in call.arguments and not call.result for call in done.calls)
    else:
        halves = (mover.syscalls & READS, mover.syscalls & WRITES)
        inside = mover.syscalls & set(KERNEL_ONLY)
        for half in halves if all(halves) else (mover.syscalls,):
            claim = half | inside
            assert done.moved(*claim) >= 0.9 * size, f"{mover.name} claims {set(claim)}"
    others = set(KERNEL_ONLY) - mover.syscalls
    assert done.moved(*others) == 0, f"somebody else than {mover.name} has moved bytes"
    assert done.record("hop")["bytes_by_mover"] == ({mover.name: size} if size else {})


def go(
    source: Peer,
    sink: Peer,
    log: Path | None,
    *,
    trace: Sequence[str] = MOVING,
    before: Sequence[str] = (),
) -> Run:
    """Run one copy between two peers; `before` is a command that runs it."""

    def said(line: str) -> None:
        source.said(line)
        sink.said(line)

    stdout = sink.standard if sink.operand == "-" else subprocess.DEVNULL
    return run(
        *source.options,
        source.operand,
        sink.operand,
        log=log,
        stdin=source.standard,
        stdout=stdout,
        pass_fds=[*source.inherited, *sink.inherited],
        said=said,
        trace=trace,
        before=before,
        give_away=[*source.give_away, *sink.give_away],
    )


@pytest.mark.parametrize(("source_kind", "sink_kind"), list(dict.fromkeys(PAIRS)), ids="-".join)
def test_pair(source_kind: str, sink_kind: str, tmp_path: Path) -> None:
    strace()
    with Peer(tmp_path, pattern(SIZE)) as source:
        SOURCES[source_kind](source)
        with Peer(tmp_path, source.data) as sink:
            SINKS[sink_kind](sink)
            # only files are cloned, and Python makes many ioctls of its own
            same = (source_kind.removeprefix("stdin-"), sink_kind) in SAME_PLACE
            trace = MOVING if same else [call for call in MOVING if call != "ioctl"]
            done = go(source, sink, tmp_path / "log", trace=trace)
            if (source_kind, sink_kind) == ("zero", "pattern"):
                assert done.status == 3
                assert "differs from the pattern at byte 8" in done.errors
                return
            assert (done.status, done.record("end")["bytes"]) == (0, len(source.data)), done.errors
            assert sink.content() == source.data
    carried(done, len(source.data))
    assert done.record("hop")["mover"] in quickest(source_kind, sink_kind)
    assert not any(name.startswith(".sink.zpipe") for name in os.listdir(tmp_path))
