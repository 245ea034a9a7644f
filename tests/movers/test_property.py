"""For any way of cutting the stream, any pipe, limit and allowance: out == in[:limit]."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import content
from tests.movers import ends
from tests.movers.driver import UNBOUNDED, Driver
from zpipe.movers import MOVERS, mover_of, parallel
from zpipe.movers.contract import Ended, FallBack, Wait

if TYPE_CHECKING:
    from pathlib import Path

    from tests.movers.conftest import Bench

BULK = content(1 << 20, 11)
QUICK = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

chunks = st.lists(
    st.one_of(st.integers(1, 9), st.integers(1, 5000), st.integers(1, 200_000)), max_size=8
)
limits = st.none() | st.integers(0, 9) | st.integers(0, 500_000)
allowances = st.sampled_from([UNBOUNDED, 1 << 20, 65536, 4097, 4096, 1000])
pipe_sizes = st.sampled_from([None, 4096, 8192, 1 << 16, 1 << 20])
# data and holes in turns, in blocks of 4 KiB, and a tail that fills none
segments = st.lists(st.integers(1, 40), max_size=6)
tails = st.integers(0, 4095)

STREAM_MOVERS = ("splice", "direct", "plain")


@pytest.fixture(autouse=True)
def small_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "WORTH", 0)


@pytest.mark.parametrize("sink_kind", ["file", "pipe", "tcp", "unix"])
@pytest.mark.parametrize("source_kind", ["pipe", "tcp", "unix"])
@pytest.mark.parametrize("name", STREAM_MOVERS)
@QUICK
@given(sizes=chunks, limit=limits, allowance=allowances, pipe_size=pipe_sizes)
def test_streams(
    name: str,
    source_kind: str,
    sink_kind: str,
    sizes: list[int],
    limit: int | None,
    allowance: int,
    pipe_size: int | None,
    tmp_path: Path,
) -> None:
    """The stream comes in just these pieces: the next one only once the last one was taken."""
    data = BULK[: sum(sizes)]
    mover = mover_of(name)
    source = ends.StreamSource(ends.STREAMS[source_kind](), data)
    path = tmp_path / "sink"
    path.unlink(missing_ok=True)
    sink: ends.Sink
    if sink_kind == "file":
        sink = ends.FileSink(path)
    else:
        sink = ends.StreamSink(ends.STREAMS[sink_kind]())
    with closing(source), closing(sink):
        if not mover.fits(source.port().facts, sink.port().facts).ok:
            return
        pieces = list(sizes)
        with Driver(mover, source, sink, limit, allowance=allowance, pipe_size=pipe_size) as driver:
            step = driver.step()
            while not isinstance(step, Ended):
                assert not isinstance(step, FallBack)
                if isinstance(step, Wait):
                    driver.serve(step, portion=pieces.pop(0) if pieces else 1 << 16)
                step = driver.step()
            expected = data if limit is None else data[:limit]
            assert driver.transfer.delivered == len(expected)
        assert sink.content(len(expected)) == expected


def write_sparse(path: Path, counts: list[int], tail: int, hole_first: bool) -> bytes:
    """Write a file of data and holes in turns; return what reading it must give."""
    expected = bytearray()
    with open(path, "wb") as file:
        for place, count in enumerate(counts):
            size = count * 4096
            piece = BULK[:size] if (place % 2 == 0) != hole_first else bytes(size)
            if any(piece[:1]):
                file.seek(len(expected))
                file.write(piece)
            expected += piece
        if tail:
            file.seek(len(expected))
            file.write(BULK[:tail])
            expected += BULK[:tail]
        file.truncate(len(expected))
    return bytes(expected)


@pytest.mark.parametrize("sink_kind", ["same", "pipe", "unix"])
@pytest.mark.parametrize("name", MOVERS)
@QUICK
@given(
    counts=segments,
    tail=tails,
    hole_first=st.booleans(),
    limit=limits,
    allowance=allowances,
    skip=st.sampled_from([0, 4096, 20480, 5000]),
    pipe_size=pipe_sizes,
)
def test_files(
    name: str,
    sink_kind: str,
    counts: list[int],
    tail: int,
    hole_first: bool,
    limit: int | None,
    allowance: int,
    skip: int,
    pipe_size: int | None,
    bench: Bench,
) -> None:
    """A file with holes anywhere, begun anywhere: holes are zeros, and the size is kept."""
    mover = mover_of(name)
    path = bench.place("cloning" if name == "reflink" else "file")
    target = path.with_name(f"{path.name}-sink")
    whole = write_sparse(path, counts, tail, hole_first)
    source = ends.FileSource(path, skip=skip)
    sink: ends.Sink
    if sink_kind == "same":
        sink = ends.FileSink(target)
    else:
        sink = ends.StreamSink(ends.STREAMS[sink_kind]())
    with closing(source), closing(sink):
        if mover.fits(source.port().facts, sink.port().facts).ok:
            expected = whole[skip:] if limit is None else whole[skip:][:limit]
            with Driver(
                mover, source, sink, limit, allowance=allowance, pipe_size=pipe_size
            ) as driver:
                last = driver.go()
                if isinstance(last, FallBack):
                    assert name == "reflink"
                    expected = b""
                assert driver.transfer.delivered == len(expected)
            assert source.position() == skip + len(expected)
            assert sink.content(len(expected)) == expected
            if isinstance(sink, ends.FileSink):
                assert sink.position() == len(expected)
    for name_left in (path, target):
        if name_left.exists():
            os.unlink(name_left)
