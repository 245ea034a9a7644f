"""copy_range: holes stay holes, wherever they lie, and a size is never lost with them."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, zpipe
from tests.movers.driver import Driver
from tests.movers.ends import FileSink, FileSource
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, Moved, MoveFault

if TYPE_CHECKING:
    from pathlib import Path

    from tests.movers.conftest import Bench

COPY_RANGE = mover_of("copy_range")
PIECE = content(64 << 10)
BIG = 32 << 20


def sparse(path: Path, size: int, *places: int) -> None:
    """Write a file of holes with a piece of data at each of the places."""
    with open(path, "wb") as file:
        for place in places:
            file.seek(place)
            file.write(PIECE)
        file.truncate(size)


def allocated(path: Path) -> int:
    """Return the bytes on disk, once the disk has them."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        return os.fstat(fd).st_blocks * 512
    finally:
        os.close(fd)


def copied(source: Path, sink: Path, limit: int | None = None) -> int:
    """Copy by this mover alone; return the calls of copy_file_range."""
    with closing(FileSource(source)) as src, closing(FileSink(sink)) as dst:
        with Driver(COPY_RANGE, src, dst, limit) as driver:
            assert isinstance(driver.go(), Ended)
            calls = driver.transfer.calls["copy_file_range"]
        assert src.position() == dst.position() == driver.transfer.delivered
    return calls


@pytest.mark.parametrize("kind", ["extended", "memory"])
def test_holes_are_kept(kind: str, bench: Bench) -> None:
    source, sink = bench.place(kind), bench.place(kind)
    holes_are_kept(source, sink)


def test_holes_are_kept_where_blocks_are_shared(sharing: Path, tmp_path: Path) -> None:
    holes_are_kept(sharing / f"{tmp_path.name}-source", sharing / f"{tmp_path.name}-sink")


def holes_are_kept(source: Path, sink: Path) -> None:
    sparse(source, BIG, 1 << 20, 20 << 20)
    assert copied(source, sink, BIG) == 2, "one for each piece of data"
    assert sink.read_bytes() == source.read_bytes()
    assert allocated(sink) == allocated(source) == 2 * len(PIECE)


@pytest.mark.parametrize(
    "places",
    [(), (0,), (4 << 20,), (8 << 20,), (0, 8 << 20), (BIG - len(PIECE),)],
    ids=["no data", "first", "middle", "early", "first and early", "last"],
)
def test_a_hole_at_any_end(places: tuple[int, ...], bench: Bench) -> None:
    source, sink = bench.place("memory"), bench.place("memory")
    sparse(source, BIG, *places)
    assert copied(source, sink, BIG) == len(places)
    assert sink.stat().st_size == BIG
    assert sink.read_bytes() == source.read_bytes()
    assert allocated(sink) == len(places) * len(PIECE)


@pytest.mark.parametrize(
    "limit",
    [1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (1 << 20) + len(PIECE), (2 << 20) + 5],
)
def test_a_limit_in_a_hole_or_at_its_edge(limit: int, bench: Bench) -> None:
    """The sink has exactly that size, though nobody has written its last byte."""
    source, sink = bench.place("memory"), bench.place("memory")
    sparse(source, 4 << 20, 1 << 20, 3 << 20)
    copied(source, sink, limit)
    assert sink.read_bytes() == source.read_bytes()[:limit]


def test_what_is_behind_a_hole_counts_from_the_first_call(bench: Bench) -> None:
    """A hole is not delivered by the call: its first refusal is a fallback still."""
    source, sink = bench.place("memory"), bench.place("extended")
    sparse(source, 4 << 20, 1 << 20)
    with closing(FileSource(source)) as src, closing(FileSink(sink)) as dst:
        with Driver(COPY_RANGE, src, dst) as driver:
            assert driver.go() == FallBack("copy_file_range", errno.EXDEV)
            assert driver.transfer.delivered == 1 << 20
        assert src.position() == dst.position() == 1 << 20
        assert sink.stat().st_size == 1 << 20, "what was delivered is there"


def test_an_error_after_the_first_call_is_final(bench: Bench) -> None:
    """The sink is exchanged for one of another filesystem between two calls."""
    source, sink = bench.place("memory"), bench.place("memory")
    source.write_bytes(PIECE)
    with closing(FileSource(source)) as src, closing(FileSink(sink)) as dst:
        with Driver(COPY_RANGE, src, dst, allowance=4096) as driver:
            assert isinstance(driver.step(), Moved)
            with closing(FileSink(bench.place("extended"))) as other:
                os.dup2(other.fd, dst.fd)
            with pytest.raises(MoveFault) as caught:
                driver.step()
        assert caught.value.error.errno == errno.EXDEV


def test_zero_where_there_are_bytes_is_no_end() -> None:
    """Between files of /proc the kernel answers 0, whatever they hold."""
    source, sink = FileSource("/proc/version"), FileSink("/proc/self/comm")
    with closing(source), closing(sink):
        assert not COPY_RANGE.fits(source.port().facts, sink.port().facts).ok
        with Driver(COPY_RANGE, source, sink) as driver:
            assert driver.go() == FallBack("copy_file_range", 0)


def test_a_sink_with_data_is_not_left_with_holes(bench: Bench) -> None:
    """Old bytes would show through where a hole is only sought over."""
    source, sink = bench.place("memory"), bench.place("memory")
    sparse(source, 1 << 20, 512 << 10)
    sink.write_bytes(b"\xff" * (1 << 20))
    copied(source, sink)
    assert sink.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("arguments", [(), ("--length", "3M"), ("--offset", "1M")], ids=str)
def test_the_command_keeps_holes(arguments: tuple[str, ...], bench: Bench) -> None:
    source, sink = bench.place("memory"), bench.place("memory")
    sparse(source, 8 << 20, 2 << 20, 6 << 20)
    done = zpipe("cp", "--explain", *arguments, source, sink)
    assert done.returncode == 0, done.stderr
    assert b"copy_range reached the end" in done.stderr
    begin = 1 << 20 if "--offset" in arguments else 0
    end = 3 << 20 if "--length" in arguments else 8 << 20
    assert sink.read_bytes() == source.read_bytes()[begin:end]
    assert allocated(sink) <= 2 * len(PIECE)
