"""sendfile: exact at a sink that fills up, and refused where it would sleep or lie."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.machine import content
from tests.movers.driver import Driver
from tests.movers.ends import FileSink, FileSource, StreamSink
from zpipe.movers import mover_of
from zpipe.movers.contract import Ended, FallBack, Wait

if TYPE_CHECKING:
    from tests.movers.conftest import Bench

SENDFILE = mover_of("sendfile")
DATA = content(4 << 20)


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_the_position_is_exact_when_the_sink_is_full(kind: str, bench: Bench) -> None:
    source, sink = bench.source("file", DATA), bench.sink(kind)
    assert isinstance(sink, StreamSink)
    with Driver(SENDFILE, source, sink) as driver:
        assert driver.until_wait() == Wait("sink")
        taken = driver.transfer.delivered
        assert 0 < taken == source.position() < len(DATA)
        assert sink.content(taken) == DATA[:taken]
        assert isinstance(driver.go(), Ended)
    assert sink.content(len(DATA)) == DATA


def test_a_pipe_that_blocks_is_refused(bench: Bench) -> None:
    """One call would sleep until all was taken: neither a signal nor a timeout ends that."""
    source, sink = bench.source("file", DATA), bench.sink("pipe", blocking=True)
    fit = SENDFILE.fits(source.port().facts, sink.port().facts)
    assert (fit.ok, "blocks" in fit.why) == (False, True)


@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_references_come_with_a_caveat(kind: str, bench: Bench) -> None:
    fit = SENDFILE.fits(bench.source("file", DATA).port().facts, bench.sink(kind).port().facts)
    assert fit.ok and fit.by_reference and "shows through" in fit.caveat


def test_a_file_gets_a_copy(bench: Bench) -> None:
    fit = SENDFILE.fits(bench.source("file", DATA).port().facts, bench.sink("file").port().facts)
    assert fit.ok and not fit.by_reference and not fit.caveat


def test_an_appending_sink_is_refused_by_the_kernel_too(bench: Bench) -> None:
    source, sink = bench.source("file", DATA), bench.sink("append")
    assert not SENDFILE.fits(source.port().facts, sink.port().facts).ok
    with Driver(SENDFILE, source, sink) as driver:
        assert driver.go() == FallBack("sendfile", errno.EINVAL)
    assert source.position() == 0


def test_dev_full_is_refused(bench: Bench) -> None:
    """It answers EINVAL instead of the ENOSPC that it is there for."""
    with closing(FileSink("/dev/full")) as sink:
        assert (
            "ENOSPC"
            in SENDFILE.fits(bench.source("file", DATA).port().facts, sink.port().facts).why
        )


def test_a_file_of_proc_that_cannot_be_spliced(bench: Bench) -> None:
    source, sink = FileSource("/proc/self/maps"), bench.sink("file")
    with closing(source):
        assert not SENDFILE.fits(source.port().facts, sink.port().facts).ok
        with Driver(SENDFILE, source, sink) as driver:
            assert driver.go() == FallBack("sendfile", errno.EINVAL)


def test_a_later_refusal_is_an_error(bench: Bench) -> None:
    """Bytes are on their way by then: nobody else may begin."""
    source, sink = bench.source("file", DATA), bench.sink("file")
    appending = bench.sink("append")
    with Driver(SENDFILE, source, sink, allowance=4096) as driver:
        driver.step()
        os.dup2(appending.fd, sink.fd)
        with pytest.raises(Exception, match="sendfile") as caught:
            driver.step()
    assert caught.typename == "MoveFault"
