"""reflink: the blocks are really shared, by ranges too, and what cannot be shared is refused."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, zpipe
from tests.movers.driver import UNBOUNDED, Driver
from tests.movers.ends import FileSink, FileSource
from tests.movers.extents import blocks
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack
from zpipe.values import replace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.movers.conftest import Bench

REFLINK = mover_of("reflink")
DATA = content(10 * 4096 + 77)


@pytest.fixture
def pair(sharing: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A source with data, and a name for its copy, on a filesystem that shares blocks."""
    source, sink = sharing / f"{tmp_path.name}-source", sharing / f"{tmp_path.name}-sink"
    source.write_bytes(DATA)
    sink.unlink(missing_ok=True)
    return source, sink


@pytest.mark.parametrize("allowance", [UNBOUNDED, 5000, 100])
def test_every_block_is_shared(pair: tuple[Path, Path], allowance: int) -> None:
    with closing(FileSource(pair[0])) as source, closing(FileSink(pair[1])) as sink:
        with Driver(REFLINK, source, sink, allowance=allowance) as driver:
            assert isinstance(driver.go(), Ended)
            calls = driver.transfer.calls
        assert sink.content(0) == DATA
    assert blocks(pair[1]) == blocks(pair[0]) != set()
    if allowance == UNBOUNDED:
        assert calls == {"ioctl(FICLONE)": 1}
    else:
        assert calls == {"ioctl(FICLONERANGE)": 11}, "one for each block"


def test_a_limit_of_whole_blocks_shares_those(pair: tuple[Path, Path]) -> None:
    with closing(FileSource(pair[0])) as source, closing(FileSink(pair[1])) as sink:
        with Driver(REFLINK, source, sink, 3 * 4096) as driver:
            assert isinstance(driver.go(), Ended)
        assert sink.content(0) == DATA[: 3 * 4096]
    assert blocks(pair[1]) < blocks(pair[0])
    assert len(blocks(pair[1])) == 3


def test_the_copy_has_a_life_of_its_own(pair: tuple[Path, Path]) -> None:
    assert zpipe("cp", "--via", "reflink", *pair).returncode == 0
    assert blocks(pair[1]) == blocks(pair[0])
    with open(pair[1], "r+b") as file:
        file.write(b"changed")
    assert pair[0].read_bytes() == DATA


def test_a_copy_without_wishes_shares(pair: tuple[Path, Path]) -> None:
    done = zpipe("cp", "--explain", *pair)
    assert b"reflink reached the end" in done.stderr
    assert blocks(pair[1]) == blocks(pair[0])


def test_an_unaligned_length_at_a_slow_rate(pair: tuple[Path, Path]) -> None:
    """Once a part was shared no other mover may go on: the odd rest is found out before."""
    length = 5 * 4096 + 100
    done = zpipe("cp", "--explain", "--rate-limit", "200K", "--length", str(length), *pair)
    assert done.returncode == 0, done.stderr
    assert pair[1].read_bytes() == DATA[:length]
    assert b"reflink: ioctl(FICLONERANGE): Invalid argument (EINVAL)" in done.stderr


def test_an_unaligned_rate_and_a_whole_file(pair: tuple[Path, Path]) -> None:
    done = zpipe("cp", "--via", "reflink", "--rate-limit", "300K", *pair)
    assert done.returncode == 0, done.stderr
    assert pair[1].read_bytes() == DATA
    assert blocks(pair[1]) == blocks(pair[0])


def test_ext4_is_refused_by_its_name(bench: Bench) -> None:
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    fit = REFLINK.fits(source.port().facts, sink.port().facts)
    assert (fit.ok, fit.why) == (False, "ext4 shares no blocks")


def test_the_kernel_has_the_last_word(bench: Bench) -> None:
    """A filesystem that nobody has heard of is asked, and its answer is a fallback."""
    source, sink = bench.source("extended", DATA), bench.sink("extended")
    unknown = replace(source.port().facts, filesystem=None)
    assert REFLINK.fits(unknown, replace(sink.port().facts, filesystem=None)).ok
    with Driver(REFLINK, source, sink) as driver:
        assert driver.go() == FallBack("ioctl(FICLONE)", errno.EOPNOTSUPP)
    assert (source.position(), sink.position()) == (0, 0)


def test_two_filesystems(bench: Bench) -> None:
    source, sink = bench.source("cloning", DATA), bench.sink("extended")
    assert not REFLINK.fits(source.port().facts, sink.port().facts).ok
    with Driver(REFLINK, source, sink) as driver:
        step = driver.go()
    assert isinstance(step, FallBack)
    assert step.errno in (errno.EXDEV, errno.EOPNOTSUPP)


def test_data_in_the_sink_is_not_replaced(pair: tuple[Path, Path]) -> None:
    pair[1].write_bytes(b"kept")
    with closing(FileSource(pair[0])) as source, closing(FileSink(pair[1])) as sink:
        fit = REFLINK.fits(source.port().facts, sink.port().facts)
        assert (fit.ok, fit.why) == (False, "the sink holds data already")


def test_an_offset_inside_of_a_block(pair: tuple[Path, Path]) -> None:
    with closing(FileSource(pair[0])) as source, closing(FileSink(pair[1])) as sink:
        os.lseek(source.fd, 100, os.SEEK_SET)
        assert not REFLINK.fits(source.port().facts, sink.port().facts).ok
    done = zpipe("cp", "--offset", "100", *pair)
    assert done.returncode == 0, done.stderr
    assert pair[1].read_bytes() == DATA[100:]


def test_an_offset_of_whole_blocks_shares_the_rest(pair: tuple[Path, Path]) -> None:
    done = zpipe("cp", "--via", "reflink", "--offset", "8K", *pair)
    assert done.returncode == 0, done.stderr
    assert pair[1].read_bytes() == DATA[8192:]
    assert blocks(pair[1]) < blocks(pair[0])
