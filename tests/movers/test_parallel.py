"""parallel: two threads write at two places, and what remains is a prefix in any case."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from tests.movers.driver import Driver
from tests.movers.ends import FileSink, FileSource
from tests.movers.test_direct import largest_file
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, Moved, MoveFault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.movers.conftest import Bench

PARALLEL = mover_of("parallel")
ROUND = 32 << 20
DATA = content(ROUND + (6 << 20) + 321)


@pytest.mark.parametrize("kind", ["memory", "extended", "cloning"])
def test_rounds_of_two_ranges(kind: str, bench: Bench) -> None:
    source, sink = bench.source(kind, DATA), bench.sink(kind)
    with Driver(PARALLEL, source, sink) as driver:
        first = driver.step()
        assert isinstance(first, Moved) and first.count == ROUND
        assert os.fstat(sink.fd).st_size == ROUND, "a step ends with a prefix"
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == DATA


@pytest.mark.parametrize(
    "most",
    [1 << 20, 16 << 20, 20 << 20, ROUND, ROUND + (4 << 20), ROUND + 100],
    ids=["first", "edge", "second", "round", "next second", "next first"],
)
def test_a_write_that_fails_leaves_exactly_a_prefix(most: int, bench: Bench) -> None:
    source, sink = bench.source("memory", DATA), bench.sink("memory")
    with largest_file(most), Driver(PARALLEL, source, sink) as driver:
        with pytest.raises(MoveFault) as caught:
            driver.go()
        delivered = driver.transfer.delivered
    assert (caught.value.error.errno, caught.value.side) == (errno.EFBIG, "sink")
    assert delivered == most
    assert sink.content(0) == DATA[:most]
    assert source.position() == sink.position() == most


def test_a_full_disk_leaves_no_gap(tmp_path: Path, bench: Bench) -> None:
    """Both threads are cut short; what the second one wrote beyond the gap is cut off."""
    source = bench.source("memory", DATA)
    with (
        mounted("tmpfs", tmp_path / "small", 10 << 20) as place,
        closing(FileSink(place / "sink")) as sink,
    ):
        with Driver(PARALLEL, source, sink) as driver:
            with pytest.raises(MoveFault) as caught:
                driver.go()
            delivered = driver.transfer.delivered
        assert caught.value.error.errno == errno.ENOSPC
        assert delivered <= 10 << 20
        assert sink.content(0) == DATA[:delivered]
        assert sink.position() == delivered


@pytest.mark.parametrize("size", [0, 1000, 5 << 20, 18 << 20, ROUND + 1])
def test_a_source_that_ends_early(size: int, bench: Bench) -> None:
    """It was cut since it was looked at: the end is where it is now."""
    path = bench.place("memory")
    path.write_bytes(DATA)
    sink = bench.sink("memory")
    with closing(FileSource(path)) as source, Driver(PARALLEL, source, sink) as driver:
        os.truncate(path, size)
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.delivered == size
        assert sink.content(0) == DATA[:size]


def test_a_small_round_is_for_one_thread(bench: Bench) -> None:
    source, sink = bench.source("memory", DATA[:100_000]), bench.sink("memory")
    with Driver(PARALLEL, source, sink, allowance=10_000) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == DATA[:100_000]


def test_small_files_and_odd_pairs_are_refused(bench: Bench) -> None:
    small = bench.source("memory", DATA[:100_000]).port().facts
    assert "64 MiB" in PARALLEL.fits(small, bench.sink("memory").port().facts).why
    for kind in ("append", "pipe", "tcp", "block", "null"):
        assert not PARALLEL.fits(small, bench.sink(kind).port().facts).ok


def test_the_worker_is_gone_after_an_error(bench: Bench) -> None:
    source, sink = bench.source("memory", DATA), bench.sink("memory")
    before = set(threading.enumerate())
    with largest_file(20 << 20), Driver(PARALLEL, source, sink) as driver:
        assert len(set(threading.enumerate()) - before) == 1
        with pytest.raises(MoveFault):
            driver.go()
    assert set(threading.enumerate()) <= before
