"""mapped: a source that is cut while it is mapped never ends the process, nor makes up bytes."""

from __future__ import annotations

import errno
import os
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, missing, zpipe
from tests.movers.driver import Driver
from tests.movers.ends import FileSink, FileSource
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, Moved, MoveFault, Tuning
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.movers.conftest import Bench

MAPPED = mover_of("mapped")
WINDOW = 4 << 20
DATA = content(2 * WINDOW + 12_345)


@contextmanager
def written_by_another(path: Path) -> Iterator[int]:
    """Hold the file open for writing, so that there is no lease on it to be had."""
    fd = os.open(path, os.O_WRONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def source(bench: Bench) -> Iterator[tuple[FileSource, int]]:
    """A source, and the fd of somebody else who may write to it."""
    path = bench.place("file")
    path.write_bytes(DATA)
    with written_by_another(path) as writer, closing(FileSource(path)) as end:
        yield end, writer


# where the source ends after it was cut, by what the next write then meets of it
CUTS = {
    "between two windows": (WINDOW, WINDOW - 1000),
    "inside of a page": (WINDOW, 2 * WINDOW + 5000),
    "in the window at hand": (1 << 20, (1 << 20) + 70_000),
    "at a page in the window": (1 << 20, (1 << 20) + 8192),
    "before what was written": (1 << 20, 1000),
    "to nothing": (1 << 20, 0),
}


@pytest.mark.parametrize("append", [False, True], ids=["file", "append"])
@pytest.mark.parametrize(("moved", "size"), CUTS.values(), ids=CUTS)
def test_a_source_that_is_cut_gives_no_invented_bytes(
    moved: int, size: int, append: bool, source: tuple[FileSource, int], bench: Bench
) -> None:
    end, writer = source
    sink = bench.sink("append" if append else "file")
    with Driver(MAPPED, end, sink, allowance=1 << 20) as driver:
        while driver.transfer.delivered < moved:
            driver.step()
        os.truncate(writer, size)
        with pytest.raises(MoveFault) as caught:
            driver.go()
        delivered = driver.transfer.delivered
    assert caught.value.side == "source"
    assert caught.value.error.strerror == f"the source was cut to {size} bytes while it was read"
    assert delivered == max(moved, size), "all that the source held, and nothing else"
    assert sink.content(0) == DATA[:delivered]


def test_the_command_says_that_it_got_no_lease(source: tuple[FileSource, int]) -> None:
    path = os.readlink(f"/proc/self/fd/{source[0].fd}")
    done = zpipe("cp", "--via", "mapped", path, "exec:cat")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.count(b"\n") == 1
    assert b"--via mapped: fcntl(F_SETLEASE): Resource temporarily unavailable" in done.stderr


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_what_cannot_be_taken_back_is_not_sent_without_a_lease(
    kind: str, source: tuple[FileSource, int], bench: Bench
) -> None:
    """A pipe and a socket would take the NULs behind the end in the last page, and keep them."""
    sink = bench.sink(kind)
    with Driver(MAPPED, source[0], sink) as driver:
        assert driver.go() == FallBack("fcntl(F_SETLEASE)", errno.EAGAIN)
        assert driver.transfer.delivered == 0


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix", "null", "file", "block"])
def test_with_a_lease_every_sink_is_served(kind: str, bench: Bench) -> None:
    data = DATA[: 1 << 20]
    source, sink = bench.source("file", data), bench.sink(kind)
    with Driver(MAPPED, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.notes == []
    if kind != "null":
        assert sink.content(len(data)) == data


def test_a_file_without_a_lease_is_served_and_says_so(
    source: tuple[FileSource, int], bench: Bench
) -> None:
    with Driver(MAPPED, source[0], bench.sink("file")) as driver:
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.notes == ["no lease on the source: Resource temporarily unavailable"]


def test_a_stable_source_needs_no_lease(source: tuple[FileSource, int], bench: Bench) -> None:
    """A private clone cannot be cut by anybody."""
    port = source[0].port()
    stable = replace(port, facts=replace(port.facts, stable=True))
    sink = bench.sink("pipe")
    with closing(MAPPED.begin(stable, sink.port(), 4096, Tuning())) as transfer:
        assert isinstance(transfer.step(1 << 20), Moved)
    assert sink.content(4096) == DATA[:4096]


def test_who_asks_for_the_file_is_noticed_and_waits(bench: Bench) -> None:
    path = bench.place("file")
    path.write_bytes(DATA)
    sink = bench.sink("file")
    with closing(FileSource(path)) as source:
        with Driver(MAPPED, source, sink, allowance=1 << 20) as driver:
            driver.step()
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            assert isinstance(driver.go(), Ended)
            assert driver.transfer.notes == ["another process asked for the source at byte 1048576"]
        with written_by_another(path):
            pass  # the lease is gone with the transfer
    assert sink.content(0) == DATA


@pytest.mark.parametrize("skip", [1, 4095, 4097, WINDOW + 3])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_unaligned_start(skip: int, kind: str, bench: Bench) -> None:
    """Mappings begin at pages, bytes anywhere."""
    source, sink = bench.source("file", DATA), bench.sink(kind)
    os.lseek(source.fd, skip, os.SEEK_SET)
    with Driver(MAPPED, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
        windows = driver.transfer.calls["mmap"]
    assert sink.content(len(DATA) - skip) == DATA[skip:]
    assert windows == -(-(len(DATA) - skip) // WINDOW)
    assert source.position() == len(DATA)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_a_device_is_mapped_without_a_lease(kind: str, bench: Bench) -> None:
    """Nobody can cut it; it ends where it ends."""
    source, sink = bench.source("block", b""), bench.sink(kind)
    assert source.data is not None
    with Driver(MAPPED, source, sink, allowance=70_000) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(len(source.data)) == source.data


def test_a_socket_is_not_mapped(bench: Bench) -> None:
    """mmap of a TCP socket succeeds, and means something else."""
    source, sink = bench.source("tcp", DATA), bench.sink("file")
    fit = MAPPED.fits(source.port().facts, sink.port().facts)
    assert (fit.ok, fit.why) == (False, "only files and block devices can be mapped")


def test_a_file_that_cannot_be_mapped_falls_back(bench: Bench) -> None:
    """Files of /sys have a size and no mapping."""
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(path):
        missing(f"{path} is not there")
    with closing(FileSource(path)) as source, Driver(MAPPED, source, bench.sink("file")) as driver:
        assert driver.go() == FallBack("mmap", errno.ENODEV)


def test_dev_full_is_an_error_of_the_sink(bench: Bench) -> None:
    source = bench.source("file", DATA)
    with closing(FileSink("/dev/full")) as sink, Driver(MAPPED, source, sink) as driver:
        with pytest.raises(MoveFault) as caught:
            driver.go()
        assert (caught.value.error.errno, caught.value.side) == (errno.ENOSPC, "sink")
        assert driver.transfer.delivered == 0
