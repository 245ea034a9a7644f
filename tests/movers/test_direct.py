"""direct: O_DIRECT is really on, whatever the alignment, and flags and counts are put right."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, mounted
from tests.movers import ends
from tests.movers.driver import Driver
from tests.movers.ends import FileSink, FileSource
from zpipe.facts import OpenFd
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, Moved, MoveFault, Tuning
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.movers.conftest import Bench

DIRECT = mover_of("direct")
BUFFER = 2 << 20
DATA = content(3 * BUFFER + 4096 + 77)


def is_direct(end: ends.End) -> bool:
    return bool(fcntl.fcntl(end.fd, fcntl.F_GETFL) & os.O_DIRECT)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond a size (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [1, 511, 512, 4096, 4097, BUFFER, BUFFER + 1, len(DATA)])
def test_any_length_and_both_sides(size: int, bench: Bench) -> None:
    """The tail is written with the flag cleared; neither padding nor cutting is needed."""
    data = DATA[:size]
    source, sink = bench.source("extended", data), bench.sink("extended")
    with Driver(DIRECT, source, sink) as driver:
        assert is_direct(sink)
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.notes == ["O_DIRECT on the source and the sink"]
    assert sink.content(0) == data
    assert (source.position(), sink.position()) == (size, size)
    assert not is_direct(source) and not is_direct(sink)


def test_on_filesystems_that_share_blocks(sharing: Path, tmp_path: Path) -> None:
    names = sharing / f"{tmp_path.name}-source", sharing / f"{tmp_path.name}-sink"
    names[0].write_bytes(DATA)
    with closing(FileSource(names[0])) as source, closing(FileSink(names[1])) as sink:
        with Driver(DIRECT, source, sink) as driver:
            assert is_direct(sink)
            assert isinstance(driver.go(), Ended)
        assert sink.content(0) == DATA


@pytest.mark.parametrize(
    ("kinds", "note"),
    [
        (("extended", "memory"), "O_DIRECT on the source"),
        (("memory", "extended"), "O_DIRECT on the sink"),
        (("extended", "pipe"), "O_DIRECT on the source"),
        (("extended", "tcp"), "O_DIRECT on the source"),
        (("extended", "append"), "O_DIRECT on the source"),
        (("pipe", "extended"), "O_DIRECT on the sink"),
        (("unix", "extended"), "O_DIRECT on the sink"),
        (("block", "extended"), "O_DIRECT on the source and the sink"),
        (("extended", "block"), "O_DIRECT on the source and the sink"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_one_side_is_enough(kinds: tuple[str, str], note: str, bench: Bench) -> None:
    data = DATA[: 1 << 20] if "block" in kinds else DATA
    source, sink = bench.source(kinds[0], data), bench.sink(kinds[1])
    assert source.data is not None
    with Driver(DIRECT, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
        assert driver.transfer.notes == [note]
    assert sink.content(len(source.data)) == source.data


def test_only_the_side_that_was_asked_for(bench: Bench) -> None:
    """`file:PATH?direct=1` at one end leaves the other one to the page cache."""
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    asked = source.port()
    asked = OpenFd(asked.fd, replace(asked.facts, direct=True), asked.name)
    with closing(DIRECT.begin(asked, sink.port(), None, Tuning())) as transfer:
        assert is_direct(source) and not is_direct(sink)
        while isinstance(transfer.step(1 << 62), Moved):
            pass
    assert sink.content(0) == DATA


@pytest.mark.parametrize("kinds", [("memory", "memory"), ("memory", "pipe"), ("pipe", "memory")])
def test_memory_is_no_disk(kinds: tuple[str, str], bench: Bench) -> None:
    source, sink = bench.source(kinds[0], DATA), bench.sink(kinds[1])
    fit = DIRECT.fits(source.port().facts, sink.port().facts)
    assert (fit.ok, fit.why) == (False, "neither side is on a disk")


def test_a_flag_that_was_found_stays(bench: Bench) -> None:
    """An inherited fd with O_DIRECT has it afterwards, though the tail was written without."""
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    fcntl.fcntl(sink.fd, fcntl.F_SETFL, fcntl.fcntl(sink.fd, fcntl.F_GETFL) | os.O_DIRECT)
    sink.owned = False
    with Driver(DIRECT, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
    assert is_direct(sink)
    assert sink.content(0) == DATA


def test_an_offset_that_is_not_aligned_is_refused(bench: Bench) -> None:
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    os.lseek(source.fd, 100, os.SEEK_SET)
    fit = DIRECT.fits(source.port().facts, sink.port().facts)
    assert not fit.ok and "multiple" in fit.why


def test_a_sink_that_does_not_stand_at_a_block(bench: Bench) -> None:
    """Writing goes on through the page cache."""
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    os.write(sink.fd, b"head")
    with Driver(DIRECT, source, sink) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == b"head" + DATA


@pytest.mark.parametrize("portion", [1000, 65536])
def test_a_stream_in_pieces_is_written_in_whole_buffers(portion: int, bench: Bench) -> None:
    source, sink = bench.source("pipe", DATA), bench.sink("extended")
    with Driver(DIRECT, source, sink) as driver:
        assert isinstance(driver.go(portion), Ended)
        # three buffers, and the odd one by its blocks and its tail
        assert driver.transfer.calls["pwrite"] == 5
    assert sink.content(0) == DATA


@pytest.mark.parametrize("kind", ["extended", "memory", "pipe", "unix"])
@pytest.mark.parametrize("most", [BUFFER // 2, BUFFER, BUFFER + 8192, 2 * BUFFER + 100])
def test_a_write_that_fails_leaves_a_prefix_of_known_length(
    kind: str, most: int, bench: Bench
) -> None:
    """Of all buffers that are on their way, only what the disk took counts; the fd is usable."""
    source, sink = bench.source(kind, DATA), bench.sink("extended")
    with largest_file(most), Driver(DIRECT, source, sink) as driver:
        with pytest.raises(MoveFault) as caught:
            driver.go()
        driver.transfer.close()
        delivered = driver.transfer.delivered
    assert (caught.value.error.errno, caught.value.side) == (errno.EFBIG, "sink")
    assert 0 < delivered <= most
    assert sink.content(0) == DATA[:delivered]
    assert sink.position() == delivered
    assert not is_direct(sink)


def test_a_full_disk(tmp_path: Path, bench: Bench) -> None:
    source = bench.source("pipe", DATA)
    with (
        mounted("ext4", tmp_path / "small", 4 << 20) as place,
        closing(FileSink(place / "sink")) as sink,
    ):
        with Driver(DIRECT, source, sink) as driver:
            with pytest.raises(MoveFault) as caught:
                driver.go()
            driver.transfer.close()
            delivered = driver.transfer.delivered
        assert caught.value.error.errno == errno.ENOSPC
        assert sink.content(0) == DATA[:delivered]
        assert sink.position() == delivered


def test_a_limit_inside_of_a_block_reads_no_further(bench: Bench) -> None:
    source, sink = bench.source("extended", DATA), bench.sink("memory")
    with Driver(DIRECT, source, sink, 5000) as driver:
        assert isinstance(driver.go(), Ended)
    assert sink.content(0) == DATA[:5000]
    assert source.position() == 5000


def test_a_refusal_by_the_filesystem_is_a_fallback(bench: Bench) -> None:
    """Where no side takes the flag, beginning fails, and the fds are as they were."""
    path = "/proc/version"
    source, sink = FileSource(path), bench.sink("memory")
    unknown = replace(source.port().facts, filesystem=None, size=100)
    with closing(source), pytest.raises(OSError) as caught:
        DIRECT.begin(OpenFd(source.fd, unknown, path), sink.port(), None, Tuning())
    assert caught.value.errno == errno.EINVAL
