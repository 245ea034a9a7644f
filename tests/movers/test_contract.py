"""What every mover promises, held against each of them over real fds, one step at a time."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, need_root
from tests.movers.driver import Driver, ready
from tests.movers.ends import DeviceSink, FileSink, StreamSink, StreamSource
from zpipe.movers import MOVERS, mover_of, parallel
from zpipe.movers.contract import Ended, FallBack, MoveFault, Wait

if TYPE_CHECKING:
    from tests.movers.conftest import Bench
    from tests.movers.ends import Sink, Source
    from zpipe.movers.contract import Mover

SOURCES = ("file", "memory", "cloning", "block", "pipe", "tcp", "unix", "zero")
SINKS = ("file", "memory", "cloning", "append", "block", "pipe", "tcp", "unix", "null")
# every kind on each side, and every kind of stream with every other
PAIRS = sorted(
    {(source, sink) for source in SOURCES for sink in ("file", "pipe")}
    | {(source, sink) for source in ("file", "tcp") for sink in SINKS}
    | {("memory", "memory"), ("cloning", "cloning"), ("block", "block")}
    | {(source, sink) for source in ("pipe", "unix") for sink in ("tcp", "unix")}
)
# one pair for each mover at least, for the tests of a single trait
FEW = (
    ("cloning", "cloning"),
    ("file", "file"),
    ("file", "pipe"),
    ("file", "tcp"),
    ("file", "unix"),
    ("pipe", "file"),
    ("pipe", "pipe"),
    ("tcp", "unix"),
    ("unix", "tcp"),
)
DATA = content(300_001)
UNALIGNED = 123_457


@pytest.fixture(autouse=True)
def small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two threads pay is a matter of speed, not of what is right."""
    monkeypatch.setattr(parallel, "WORTH", 0)


def fits(mover: Mover, source: Source, sink: Sink) -> bool:
    """Ask the mover; an answer of no must come with a reason, in half a line."""
    fit = mover.fits(source.port().facts, sink.port().facts)
    if not fit.ok:
        assert fit.why and "\n" not in fit.why and not fit.why.endswith(".")
    return fit.ok


def serving(name: str, bench: Bench) -> list[tuple[str, str]]:
    """Return those of the few pairs that a mover fits."""
    mover = mover_of(name)
    found = [
        (source, sink)
        for source, sink in FEW
        if "cloning" not in (source, sink) or os.geteuid() == 0
        if fits(mover, bench.source(source, DATA), bench.sink(sink))
    ]
    if not found:
        need_root()  # its filesystem must be mounted first
    return found


def check_positions(source: Source, sink: Sink, moved: int, begin: int = 0) -> None:
    """Files on both sides stand behind the last byte that has moved."""
    if source.port().facts.on_disk:
        assert source.position() == begin + moved
    if isinstance(sink, FileSink):
        assert sink.position() == sink.skip + moved


@pytest.mark.parametrize(("source_kind", "sink_kind"), PAIRS, ids=[f"{a}-{b}" for a, b in PAIRS])
@pytest.mark.parametrize("name", MOVERS)
def test_moves_exactly_the_bytes(name: str, source_kind: str, sink_kind: str, bench: Bench) -> None:
    mover = mover_of(name)
    source, sink = bench.source(source_kind, DATA), bench.sink(sink_kind)
    if not fits(mover, source, sink):
        return
    expected = bytes(len(DATA)) if source.data is None else source.data
    limit = len(expected) if source.data is None or source_kind == "block" else None
    with Driver(mover, source, sink, limit) as driver:
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.delivered == len(expected)
        assert isinstance(driver.step(), Ended), "an end is the end, however often it is asked"
        claimed = sum(
            count
            for call, count in driver.transfer.calls.items()
            if call.partition("(")[0] in {claim.removesuffix("64") for claim in mover.syscalls}
        )
        assert claimed, f"none of {set(mover.syscalls)} in {dict(driver.transfer.calls)}"
    if not isinstance(sink, DeviceSink):
        assert sink.content(len(expected)) == expected
    check_positions(source, sink, len(expected))


@pytest.mark.parametrize("name", MOVERS)
def test_serves_some_pair(name: str, bench: Bench) -> None:
    """The tests below ask nothing of a mover that fits nowhere: none may be such a one."""
    assert serving(name, bench)


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("limit", [0, 1, 4096, 25 * 4096, UNALIGNED])
def test_limit_is_kept(name: str, limit: int, bench: Bench) -> None:
    mover = mover_of(name)
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        with Driver(mover, source, sink, limit) as driver:
            last = driver.go()
            moved = driver.transfer.delivered
        if isinstance(last, FallBack):
            # blocks are shared whole: a limit inside of one is for another mover, from the start
            assert (name, moved, limit % 4096 != 0) == ("reflink", 0, True), (kinds, last)
        else:
            assert moved == limit, kinds
        assert sink.content(moved) == DATA[:moved], kinds
        check_positions(source, sink, moved)
        if isinstance(source, StreamSource):
            while source.feed():
                pass
            assert os.read(source.fd, 100) == DATA[limit : limit + 100], f"{kinds}: took too much"


@pytest.mark.parametrize("name", MOVERS)
def test_a_limit_beyond_the_end_changes_nothing(name: str, bench: Bench) -> None:
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        with Driver(mover_of(name), source, sink, len(DATA) + 5000) as driver:
            last = driver.go()
            moved = driver.transfer.delivered
        assert isinstance(last, Ended), kinds
        assert sink.content(moved) == DATA, kinds


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("allowance", [1000, 4096, 70_000])
def test_allowance_is_kept(name: str, allowance: int, bench: Bench) -> None:
    """The driver holds each step to it; what arrives does not depend on it."""
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        with Driver(mover_of(name), source, sink, allowance=allowance) as driver:
            assert isinstance(driver.go(), Ended), kinds
            assert driver.steps["Moved"] > 1 or name == "direct", kinds
        assert sink.content(len(DATA)) == DATA, kinds
        check_positions(source, sink, len(DATA))


@pytest.mark.parametrize("name", MOVERS)
def test_limit_and_allowance_together(name: str, bench: Bench) -> None:
    """A tail that no granule fits is found out before anything has moved, or it is moved."""
    mover = mover_of(name)
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        with Driver(mover, source, sink, UNALIGNED, allowance=8192) as driver:
            last = driver.go()
            moved = driver.transfer.delivered
        if isinstance(last, FallBack):
            assert moved == 0, kinds
        else:
            assert moved == UNALIGNED, kinds
        assert sink.content(moved) == DATA[:moved], kinds


@pytest.mark.parametrize("name", MOVERS)
def test_goes_on_from_where_the_fds_stand(name: str, bench: Bench) -> None:
    """An inherited fd, and the mover after a fallback, do not begin at 0."""
    mover = mover_of(name)
    begin = 8192
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        if isinstance(source, StreamSource) or not isinstance(sink, FileSink):
            continue
        os.lseek(source.fd, begin, os.SEEK_SET)
        with Driver(mover, source, sink) as driver:
            assert isinstance(driver.go(), Ended), kinds
        assert sink.content(0) == DATA[begin:], kinds
        check_positions(source, sink, len(DATA) - begin, begin)


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("sink_kind", ["pipe", "tcp", "unix"])
@pytest.mark.parametrize("source_kind", ["file", "pipe", "tcp", "unix"])
@pytest.mark.parametrize("name", MOVERS)
def test_a_clogged_sink_is_waited_for_outside(
    name: str, source_kind: str, sink_kind: str, blocking: bool, bench: Bench
) -> None:
    """Nobody takes anything until the transfer asks to wait; then every byte arrives.

    Inherited fds block, and their flags are not changed: a step may only do what poll(2) has said
    to be safe.
    """
    mover = mover_of(name)
    data = content(4 << 20, 3)
    source = bench.source(source_kind, data)
    sink = bench.sink(sink_kind, blocking=blocking)
    assert isinstance(sink, StreamSink)
    if not fits(mover, source, sink):
        return
    with Driver(mover, source, sink) as driver:
        while (wait := driver.until_wait()).side == "source" or ready(sink.fd, write=True):
            driver.serve(wait)
        assert driver.transfer.delivered < len(data)
        assert isinstance(driver.go(), Ended)
        assert sink.content(0) == data


@pytest.mark.parametrize("blocking", [False, True], ids=["own", "inherited"])
@pytest.mark.parametrize("source_kind", ["pipe", "tcp", "unix"])
@pytest.mark.parametrize("name", MOVERS)
def test_an_empty_source_is_waited_for_outside(
    name: str, source_kind: str, blocking: bool, bench: Bench
) -> None:
    """Silence is not the end: only the end is."""
    mover = mover_of(name)
    for sink_kind in ("file", "pipe", "unix"):
        source = bench.source(source_kind, DATA, blocking=blocking)
        sink = bench.sink(sink_kind)
        assert isinstance(source, StreamSource)
        if not fits(mover, source, sink):
            continue
        with Driver(mover, source, sink) as driver:
            for given in (1, 5000):
                assert driver.until_wait() == Wait("source"), "nothing is there yet"
                assert not ready(source.fd, write=False)
                source.feed(given)
                driver.serve(Wait("source"))
            assert driver.until_wait() == Wait("source")
            assert driver.transfer.delivered + driver.transfer.held == 5001
            assert isinstance(driver.go(), Ended)
        assert sink.content(len(DATA)) == DATA


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", MOVERS)
def test_close_at_any_moment_leaves_nothing_behind(name: str, steps: int, bench: Bench) -> None:
    """No fd, no thread; the count of what was delivered is true then."""
    mover = mover_of(name)
    for kinds in serving(name, bench):
        source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
        fds, before = set(os.listdir("/proc/self/fd")), set(threading.enumerate())
        driver = Driver(mover, source, sink, allowance=8192)
        for _ in range(steps):
            step = driver.step()
            if isinstance(step, Wait):
                driver.serve(step)
        held = driver.transfer.held
        driver.transfer.close()
        driver.transfer.close()
        delivered = driver.transfer.delivered
        assert set(os.listdir("/proc/self/fd")) == fds, kinds
        assert set(threading.enumerate()) <= before, kinds
        assert sink.content(delivered) == DATA[:delivered], f"{kinds}: {delivered} is not true"
        if isinstance(sink, FileSink):
            assert sink.position() == delivered, kinds
        if source.port().facts.on_disk:
            # what was held by then is lost, or was given back
            assert source.position() in (delivered, delivered + held), kinds


@pytest.mark.parametrize("source_kind", ["file", "pipe", "unix"])
@pytest.mark.parametrize("sink_kind", ["pipe", "tcp", "unix"])
@pytest.mark.parametrize("name", MOVERS)
def test_a_sink_that_dies_is_an_error_of_the_sink(
    name: str, source_kind: str, sink_kind: str, bench: Bench
) -> None:
    mover = mover_of(name)
    source, sink = bench.source(source_kind, content(4 << 20)), bench.sink(sink_kind)
    assert isinstance(sink, StreamSink)
    if not fits(mover, source, sink):
        return
    with Driver(mover, source, sink) as driver:
        while not driver.transfer.delivered:
            step = driver.step()
            if isinstance(step, Wait):
                driver.serve(step)
        sink.leave()
        with pytest.raises(MoveFault) as caught:
            driver.go()
        assert caught.value.error.errno in (errno.EPIPE, errno.ECONNRESET)
        assert caught.value.side in ("sink", None)


@pytest.mark.parametrize("name", MOVERS)
def test_cost_is_a_number_for_what_fits(name: str, bench: Bench) -> None:
    mover = mover_of(name)
    for source_kind, sink_kind in serving(name, bench):
        source, sink = bench.source(source_kind, DATA).port(), bench.sink(sink_kind).port()
        cost = mover.cost(source.facts, sink.facts)
        assert 0 <= cost.cpu_copies <= 2
        assert 0 <= cost.dma_copies <= 2
        assert cost.syscalls_per_mib > 0
        assert cost.switches_per_mib == 2 * cost.syscalls_per_mib


@pytest.mark.parametrize("name", MOVERS)
def test_a_mover_says_who_it_is(name: str) -> None:
    mover = mover_of(name)
    assert mover.name == name
    assert mover.syscalls and mover.summary
    assert "\n" not in mover.summary
