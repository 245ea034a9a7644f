"""Branches of a fan over real ends, worked by hand."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.endpoints.meeting import LONG, Meeting
from tests.endpoints.meeting import sink as open_sink
from tests.machine import until
from tests.movers.driver import ready, watchdog
from zpipe.endpoints.contract import End
from zpipe.endpoints.gather import gather
from zpipe.engine.outlets import inlets_of, make_branch, make_pipes
from zpipe.engine.report import OutletReport
from zpipe.graph.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.movers.ends import Sink
    from zpipe.engine.branch import Branch
    from zpipe.kernel.pipes import Pipe

CAPACITY = 1 << 16
BLOCKS = Policy()


class Wakes:
    """Counts how often a thread has woken the fan."""

    def __init__(self) -> None:
        self._told = threading.Semaphore(0)

    def __call__(self) -> None:
        self._told.release()

    def wait(self) -> None:
        assert self._told.acquire(timeout=LONG), "nobody was woken"


def end_of(sink: Sink) -> End:
    """Return an end with a descriptor of its own for the sink of a test."""
    fd = os.dup(sink.fd)
    return End(fd, "sink", gather(fd, owned=sink.owned))


def file_end(path: Path, options: str = "", *, inplace: bool = False) -> End:
    return open_sink(f"file:{path}{options}", inplace=inplace)


@contextmanager
def branch_of(
    end: End, policy: Policy = BLOCKS, *, pipes: bool = True
) -> Iterator[tuple[Branch, Wakes]]:
    """Make the branch of an end; without `pipes` as where none could be had."""
    wakes = Wakes()
    inlets: Sequence[Pipe] = make_pipes(inlets_of(end, policy), CAPACITY) if pipes else []
    outlet = OutletReport(end.name, policy.when_full)
    branch = make_branch(end, policy, outlet, Meeting(), inlets, capacity=CAPACITY, wake=wakes)
    try:
        yield branch, wakes
    finally:
        branch.close()
        end.close()


def give(branch: Branch, data: bytes, *, tee: bool) -> None:
    """Give a round to a branch that is ready: into its inlet, or lent."""
    assert branch.ready
    if tee:
        assert branch.inlet is not None
        assert os.write(branch.inlet.writer, data) == len(data)
        branch.count(len(data))
    else:
        branch.lend(memoryview(data))
    with watchdog():
        branch.work()


def settle(branch: Branch, sink: Sink | None = None) -> None:
    """Work until the branch has passed on what it was given, emptying the sink when it is full."""

    def caught_up() -> bool:
        serve(branch, sink)
        return branch.caught_up

    until(caught_up, "the branch has caught up")


def serve(branch: Branch, sink: Sink | None) -> None:
    """Do once what a fan does between two rounds."""
    fault = branch.fault()
    assert fault is None, fault
    if sink is not None:
        sink.take()
    if branch.waits and ready(branch.end.fd, write=True):
        branch.resume()
    if not branch.waits:
        with watchdog():
            branch.work()


def finish(branch: Branch, sink: Sink | None = None) -> None:
    """Give no more, and work until the sink has everything."""
    branch.end_input()

    def finished() -> bool:
        serve(branch, sink)
        return branch.finished

    until(finished, "the branch has finished")
    branch.look()
