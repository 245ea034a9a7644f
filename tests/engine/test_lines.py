"""Lines of several are merged whole, each source's in its order, whatever the chunks."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.endpoints.meeting import LONG
from tests.machine import content
from zpipe.engine import lines
from zpipe.engine.lines import merge_lines
from zpipe.kernel.pipes import Pipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1 << 20


class Merging:
    """A merge under way in a thread, its sources and its output; what it said of failing."""

    def __init__(self, sources: int, room: int = 1 << 16):
        self.problems: list[str] = []
        pipes = [Pipe(room) for _ in range(sources)]
        out = Pipe(room)
        self.writers = [pipe.writer for pipe in pipes]
        self.reader = out.reader
        for fd in (*self.writers, self.reader):
            os.set_blocking(fd, True)
        self.thread = threading.Thread(
            target=merge_lines,
            args=([pipe.reader for pipe in pipes], out.writer, self.problems.append),
            daemon=True,
        )
        self.thread.start()

    def close(self, source: int) -> None:
        fd, self.writers[source] = self.writers[source], -1
        os.close(fd)

    def read(self) -> bytes:
        """Read what comes, at least a byte, or the end."""
        return os.read(self.reader, MIB)

    def read_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\n"):
            more = os.read(self.reader, 1)
            assert more, "it ended"
            line += more
        return line

    def rest(self) -> bytes:
        return b"".join(iter(self.read, b""))

    def stop_reading(self) -> None:
        fd, self.reader = self.reader, -1
        os.close(fd)

    def ended(self) -> None:
        self.thread.join(LONG)
        assert not self.thread.is_alive(), "it still merges"


@contextmanager
def merging(sources: int) -> Iterator[Merging]:
    under_way = Merging(sources)
    try:
        yield under_way
    finally:
        for fd in (*under_way.writers, under_way.reader):
            if fd >= 0:
                os.close(fd)
        under_way.ended()


def merged(sources: Sequence[Sequence[bytes]]) -> bytes:
    """Return what becomes of sources that are written in these chunks."""
    with merging(len(sources)) as under_way:

        def feed(place: int) -> None:
            for chunk in sources[place]:
                os.write(under_way.writers[place], chunk)
            under_way.close(place)

        feeders = [threading.Thread(target=feed, args=(n,)) for n in range(len(sources))]
        for feeder in feeders:
            feeder.start()
        output = under_way.rest()
        for feeder in feeders:
            feeder.join(LONG)
        under_way.ended()
        assert under_way.problems == []
    return output


def lines_of(data: bytes) -> list[bytes]:
    """Return the lines of a source as they must come out: each with its newline."""
    found = data.split(b"\n")
    last = found.pop()
    return [line + b"\n" for line in found] + ([last + b"\n"] if last else [])


LINE = st.one_of(
    st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"\0")),
    st.sampled_from([b"", b"\r", b"x" * 4095, b"y" * 4096, b"z" * 65536]),
)


@st.composite
def sources(draw: st.DrawFn) -> list[list[bytes]]:
    """Draw two to four sources as the chunks that are written; the lines of each tell whose they
    are.
    """
    found = []
    for place in range(draw(st.integers(2, 4))):
        count = draw(st.integers(0, 6))
        data = b"".join(b"%d:%d:%b\n" % (place, n, draw(LINE)) for n in range(count))
        if data and draw(st.booleans()):
            data = data[:-1]
        cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
        chunks = [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]
        found.append([chunk for chunk in chunks if chunk])
    return found


@given(sources())
def test_every_line_comes_out_whole_and_in_the_order_of_its_source(
    sources: list[list[bytes]],
) -> None:
    got = lines_of(merged(sources))
    wanted = [lines_of(b"".join(chunks)) for chunks in sources]
    assert Counter(got) == Counter(line for lines in wanted for line in lines)
    for place, lines_ in enumerate(wanted):
        assert [line for line in got if line.startswith(b"%d:" % place)] == lines_


def test_what_is_no_text_is_merged_too() -> None:
    first, second = content(300_000, 1), content(300_000, 2)
    got = lines_of(merged([[first], [second]]))
    assert Counter(got) == Counter(lines_of(first) + lines_of(second))


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 5 * MIB])
def test_long_lines_are_whole_too(size: int) -> None:
    """Nothing of another comes in between, however long it takes until the end has come."""
    first = [b"a" * 65536] * (size // 65536) + [b"a" * (size % 65536), b"\n", b"end\n"]
    second = [b"b" * 1000 + b"\n"] * 500
    got = lines_of(merged([first, second]))
    assert Counter(got) == Counter(lines_of(b"".join(first)) + lines_of(b"".join(second)))


def test_others_do_not_wait_for_the_end_of_a_long_line() -> None:
    """The source of that line may be waiting for them."""
    with merging(2) as under_way:
        feeder = threading.Thread(target=write, args=(under_way.writers[0], b"a" * (3 * MIB)))
        feeder.start()
        feeder.join(LONG)
        assert not feeder.is_alive()
        for number in range(100):
            os.write(under_way.writers[1], b"%d\n" % number)
            assert under_way.read_line() == b"%d\n" % number


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def test_a_line_without_any_end_is_told_and_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST", 2 * MIB)
    with merging(2) as under_way:
        os.write(under_way.writers[1], b"whole\n")
        assert under_way.read_line() == b"whole\n"
        with pytest.raises(BrokenPipeError):
            while True:
                write(under_way.writers[0], b"a" * 65536)
        assert under_way.rest() == b""
        under_way.ended()
        assert under_way.problems == ["merge: a line has more than 2 MiB"]
        with pytest.raises(BrokenPipeError):
            os.write(under_way.writers[1], b"more\n")


def test_lines_come_as_soon_as_they_are_there() -> None:
    """One that says nothing holds up nobody, nor one in the middle of a line."""
    with merging(3) as under_way:
        os.write(under_way.writers[2], b"half a ")
        os.write(under_way.writers[0], b"first\n")
        assert under_way.read_line() == b"first\n"
        os.write(under_way.writers[2], b"line\n")
        assert under_way.read_line() == b"half a line\n"


def test_a_last_line_without_its_end_is_given_one_at_the_end() -> None:
    with merging(2) as under_way:
        os.write(under_way.writers[0], b"last")
        os.write(under_way.writers[1], b"a\nlast too")
        assert under_way.read_line() == b"a\n"
        under_way.close(0)
        assert under_way.read_line() == b"last\n"
        under_way.close(1)
        assert under_way.rest() == b"last too\n"


@pytest.mark.parametrize("count", [1, 2, 4])
def test_sources_without_a_byte_are_nothing(count: int) -> None:
    assert merged([[]] * count) == b""
    assert merged([[b"\n"]] + [[]] * count) == b"\n"


@pytest.mark.parametrize("before", [b"", b"part of a line"], ids=["nothing", "a part"])
def test_when_nobody_reads_any_more_it_ends_without_another_line(before: bytes) -> None:
    with merging(2) as under_way:
        os.write(under_way.writers[0], b"one\n" + before)
        assert under_way.read_line() == b"one\n"
        under_way.stop_reading()
        under_way.ended()
        for fd in under_way.writers:
            with pytest.raises(BrokenPipeError):
                os.write(fd, b"x")


def test_a_reader_that_goes_while_it_is_written_to_is_the_end() -> None:
    with merging(2) as under_way:
        feeder = threading.Thread(target=fed_up, args=(under_way.writers[0],))
        feeder.start()
        assert under_way.read()
        under_way.stop_reading()
        feeder.join(LONG)
        assert not feeder.is_alive()
        under_way.ended()
        assert under_way.problems == []


def fed_up(fd: int) -> None:
    try:
        while True:
            os.write(fd, b"line\n" * 1000)
    except BrokenPipeError:
        return
