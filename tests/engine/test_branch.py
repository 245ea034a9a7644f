"""One sink of several: it gets what it was given, says when it is ready, and holds nobody up."""

from __future__ import annotations

import errno
import os
import select
import threading
from typing import TYPE_CHECKING

import pytest

from tests.engine.branching import (
    CAPACITY,
    branch_of,
    end_of,
    file_end,
    finish,
    give,
    serve,
    settle,
)
from tests.machine import content, until
from tests.movers.ends import StreamSink
from zpipe.endpoints.contract import End
from zpipe.endpoints.gather import gather
from zpipe.engine.outlets import inlets_of, make_pipes, rounds_of_copies
from zpipe.engine.threaded import WorkerBranch
from zpipe.errors import TransferError
from zpipe.graph.policy import Policy
from zpipe.movers.contract import MoveFault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.movers.conftest import Bench

DATA = content(20 * CAPACITY)
STREAMS = ("pipe", "tcp", "unix")
tee = pytest.mark.parametrize("tee", [True, False], ids=["tee", "lent"])


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def rounds(data: bytes = DATA, size: int = CAPACITY) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def spills(folder: Path, most: int = 1 << 30) -> Policy:
    return Policy(when_full="spill", spill_dir=str(folder), spill_max=most)


@tee
@pytest.mark.parametrize("spill", [False, True], ids=["block", "spill"])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_stream_gets_every_round(
    kind: str, spill: bool, tee: bool, bench: Bench, tmp_path: Path
) -> None:
    sink = bench.sink(kind)
    with branch_of(end_of(sink), spills(tmp_path) if spill else Policy()) as (branch, _):
        assert not branch.threaded
        for data in rounds():
            settle(branch, sink)
            give(branch, data, tee=tee)
        settle(branch, sink)
        finish(branch, sink)
        assert sink.content(len(DATA)) == DATA
        assert branch.pump.moved == branch.handed == len(DATA)
        assert (branch.underway, branch.outlet.lag, branch.outlet.moved) == (0, 0, len(DATA))


@tee
@pytest.mark.parametrize("spill", [False, True], ids=["block", "spill"])
@pytest.mark.parametrize("append", ["", "?append=1"], ids=["spliced", "written"])
def test_a_file_gets_every_round(append: str, spill: bool, tee: bool, tmp_path: Path) -> None:
    end = file_end(tmp_path / "x", append)
    with branch_of(end, spills(tmp_path) if spill else Policy()) as (branch, _):
        assert branch.threaded
        for data in rounds():
            until(lambda: branch.ready, "the thread has taken a round")
            give(branch, data, tee=tee)
        until(lambda: branch.caught_up, "the thread has taken every round")
        finish(branch)
        assert branch.outlet.moved == len(DATA)
        # only what comes in a pipe can be refused by splice
        refused = bool(append) and (tee or spill)
        assert (branch.pump.refusal is not None) is refused
        assert branch.how("tee") == ("tee, written" if refused else "tee")
        assert branch.how("plain") == "plain"
        branch.close()
        end.finish(branch._waiter)
    assert (tmp_path / "x").read_bytes() == DATA


def test_without_pipes_a_file_gets_every_round_as_well(tmp_path: Path) -> None:
    end = file_end(tmp_path / "x", inplace=True)
    with branch_of(end, pipes=False) as (branch, _):
        assert branch.inlet is None
        for data in rounds():
            until(lambda: branch.ready, "a round was taken")
            give(branch, data, tee=False)
        finish(branch)
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_thread_has_two_inlets_that_are_filled_in_turns(tmp_path: Path) -> None:
    """The next round can be given while one is under way; the one after it cannot.

    The file stands still because the file behind it is a pipe that nobody reads: what a disk does
    when it is slow.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, True)
    stuck = End(writer, "disk", gather(file := os.open(tmp_path / "x", os.O_CREAT | os.O_WRONLY)))
    os.close(file)
    with branch_of(stuck) as (branch, wakes):
        assert isinstance(branch, WorkerBranch)
        first = branch.inlet
        give(branch, DATA[:CAPACITY], tee=True)
        second = branch.inlet
        assert first is not second
        until(lambda: branch.caught_up, "the pipe has taken a round")
        give(branch, DATA[CAPACITY : 2 * CAPACITY], tee=True)
        assert branch.inlet is first
        assert branch.ready
        assert not branch.caught_up
        give(branch, DATA[2 * CAPACITY : 3 * CAPACITY], tee=True)
        assert not branch.ready
        branch.awaited = True
        got = b""
        while len(got) < 3 * CAPACITY:
            got += os.read(reader, CAPACITY)
        wakes.wait()
        until(lambda: branch.caught_up, "the thread has taken every round")
        assert got == DATA[: 3 * CAPACITY]
        finish(branch)
    os.close(reader)


@pytest.mark.parametrize("kind", STREAMS)
def test_a_full_sink_waits_for_a_poll(kind: str, bench: Bench) -> None:
    sink = bench.sink(kind)
    with branch_of(end_of(sink)) as (branch, _):
        given = 0
        while branch.ready:
            give(branch, DATA[:CAPACITY], tee=True)
            given += CAPACITY
        assert branch.waits
        assert not branch.caught_up
        assert branch.interests() == {branch.end.fd: select.POLLOUT}
        branch.look()
        assert (branch.outlet.state, branch.outlet.lag) == ("blocked", branch.pump.held)
        assert 0 < branch.underway == branch.pump.held <= CAPACITY
        settle(branch, sink)
        assert branch.interests() == {branch.end.fd: 0}, "death is to be noticed"
        branch.look()
        assert (branch.outlet.state, branch.outlet.lag) == ("flowing", 0)
        assert branch.outlet.blocked > 0
        assert sink.content(given) == DATA[:CAPACITY] * (given // CAPACITY)


def test_what_spills_is_no_longer_under_way(bench: Bench, tmp_path: Path) -> None:
    sink = bench.sink("pipe")
    with branch_of(end_of(sink), spills(tmp_path)) as (branch, _):
        for data in rounds():
            settle(branch)
            give(branch, data, tee=True)
        settle(branch)
        branch.look()
        outlet = branch.outlet
        assert (outlet.state, branch.underway) == ("spilling", 0)
        # a round in the outlet of the stage, and what the sink has room for, are not in the file
        assert len(DATA) - 4 * CAPACITY <= outlet.spilled <= outlet.deepest < len(DATA)
        assert outlet.lag == len(DATA) - outlet.moved >= outlet.spilled
        finish(branch, sink)
        assert (outlet.spilled, outlet.lag) == (0, 0)
        assert sink.content(len(DATA)) == DATA


# Patience


def test_only_those_that_may_be_dropped_have_a_deadline(bench: Bench, tmp_path: Path) -> None:
    for policy, detachable in (
        (Policy(), False),
        (Policy(when_full="detach"), True),
        (spills(tmp_path), False),
        (Policy(when_full="spill", spill_then="detach", spill_dir=str(tmp_path)), True),
    ):
        with branch_of(end_of(bench.sink("pipe")), policy) as (branch, _):
            assert branch.detachable is detachable


def test_patience_begins_anew_with_every_byte(bench: Bench) -> None:
    sink = bench.sink("pipe")
    with branch_of(end_of(sink), Policy(when_full="detach", detach_after=5)) as (branch, _):
        assert branch.deadline(100.0) is None, "nothing is there to be taken"
        while branch.ready:
            give(branch, DATA[:CAPACITY], tee=True)
        assert branch.deadline(100.0) == 105.0
        assert branch.deadline(103.0) == 105.0
        assert isinstance(sink, StreamSink)
        os.read(sink.peer, 4096)
        before = branch.pump.moved

        def has_moved() -> bool:
            serve(branch, None)
            return branch.pump.moved > before

        until(has_moved, "something has moved")
        assert branch.deadline(104.0) == 109.0
        settle(branch, sink)
        assert branch.deadline(104.5) is None
        while branch.ready:
            give(branch, DATA[:CAPACITY], tee=True)
        assert branch.deadline(200.0) == 205.0


# What fails


@tee
@pytest.mark.parametrize("kind", STREAMS)
def test_a_reader_that_has_gone_is_a_fault(kind: str, tee: bool, bench: Bench) -> None:
    sink = bench.sink(kind)
    assert isinstance(sink, StreamSink)
    with branch_of(end_of(sink)) as (branch, _):
        sink.leave()
        with pytest.raises(MoveFault) as caught:
            for data in rounds():
                settle(branch)  # the kernel may tell of a reset a little later
                give(branch, data, tee=tee)
        assert caught.value.error.errno in (errno.EPIPE, errno.ECONNRESET)


def test_a_full_disk_is_found_by_the_thread(tiny: Path) -> None:
    with branch_of(file_end(tiny / "x", inplace=True)) as (branch, wakes):
        for data in rounds(DATA + DATA):
            until(lambda: branch.ready or branch.fault(), "the thread has taken a round or failed")
            if branch.fault():
                break
            give(branch, data, tee=True)
        wakes.wait()
        fault = branch.fault()
        assert isinstance(fault, MoveFault)
        assert fault.error.errno == errno.ENOSPC
        branch.cut()
        assert branch.outlet.moved == (tiny / "x").stat().st_size
    assert DATA.startswith((tiny / "x").read_bytes())


def test_a_part_that_cannot_be_begun_is_found_by_the_thread(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with branch_of(file_end(tmp_path / "%d", "?split_size=1000")) as (branch, wakes):
        give(branch, DATA[:5000], tee=True)
        wakes.wait()
        fault = branch.fault()
        assert isinstance(fault, TransferError)
        assert str(fault) == f"{tmp_path}/1: open: Is a directory"
    assert (tmp_path / "0").read_bytes() == DATA[:1000]


@tee
def test_parts_are_cut_wherever_the_rounds_end(tee: bool, tmp_path: Path) -> None:
    end = file_end(tmp_path / "%d", "?split_size=70000")
    with branch_of(end) as (branch, _):
        for data in rounds(DATA[:500_000], 30_001):
            until(lambda: branch.ready, "the thread has taken a round")
            give(branch, data, tee=tee)
        finish(branch)
        branch.close()
        end.finish(branch._waiter)
    names = sorted(os.listdir(tmp_path), key=int)
    assert [(tmp_path / name).read_bytes() for name in names] == rounds(DATA[:500_000], 70_000)


@pytest.mark.parametrize("spill", [False, True], ids=["block", "spill"])
@pytest.mark.parametrize("gently", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "unix", "file"])
def test_a_branch_is_cut_whatever_it_holds(
    kind: str, gently: bool, spill: bool, bench: Bench, tmp_path: Path
) -> None:
    end = file_end(tmp_path / "x") if kind == "file" else end_of(bench.sink(kind))
    with branch_of(end, spills(tmp_path) if spill else Policy()) as (branch, _):
        for data in rounds()[:3]:
            if branch.ready:
                give(branch, data, tee=True)
        branch.cut(gently=gently)
        assert end.fd == -1
        assert branch.outlet.moved <= 3 * CAPACITY
        branch.close()
    assert not (tmp_path / "x").exists()


# Pipes


@pytest.mark.parametrize("count", [1, 2, 5, 30])
@pytest.mark.parametrize("wanted", [None, 4096, 1 << 16, 3 * 4096])
def test_pipes_of_a_fan_are_of_one_capacity(count: int, wanted: int | None) -> None:
    pipes = make_pipes(count, wanted)
    try:
        (capacity,) = {pipe.capacity for pipe in pipes}
        if wanted is not None:
            assert wanted <= capacity < 2 * wanted
        else:
            assert 1 << 16 <= capacity <= 1 << 20
            assert capacity * count <= 32 << 20, "one fan takes what others need"
    finally:
        for pipe in pipes:
            pipe.close()


def test_a_buffer_is_no_larger_than_what_must_be_written_at_once(
    bench: Bench, tmp_path: Path
) -> None:
    """Into the inlet of a stage; a sink by itself is lent the bytes for as long as it takes."""
    with (
        branch_of(end_of(bench.sink("pipe")), spills(tmp_path)) as (one, _),
        branch_of(file_end(tmp_path / "x"), spills(tmp_path)) as (two, _),
        branch_of(end_of(bench.sink("unix")), pipes=False) as (three, _),
    ):
        assert rounds_of_copies([one, two, three]) == CAPACITY
        assert rounds_of_copies([three]) > CAPACITY
        assert inlets_of(two.end, Policy()) == 2
        assert inlets_of(two.end, spills(tmp_path)) == 1
        assert inlets_of(one.end, Policy()) == 1
