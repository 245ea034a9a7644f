"""CompositeBuffer against plain bytes, over every kind of part, and its count of references."""

from __future__ import annotations

import array
import gc
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.machine import content, environment
from zpipe.channel.composite import CompositeBuffer, FileRegion, debug_leaks, wrap
from zpipe.channel.direct import DirectBuffer
from zpipe.channel.file import FileChannel
from zpipe.channel.mapped import MapMode
from zpipe.errors import SourceTruncated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOME = content(100_000)


@contextmanager
def temporary(data: bytes) -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def everything(fd: int) -> bytes:
    """Return all that an fd gives, to its end."""
    data = b""
    while some := os.read(fd, 1 << 20):
        data += some
    return data


def sent(buffer: CompositeBuffer) -> bytes:
    """Return what write_to() puts into a pipe that somebody empties."""
    reader, writer = os.pipe()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(everything(reader)))
    thread.start()
    try:
        count = buffer.write_to(writer)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    assert count == len(got[0])
    return got[0]


# kinds of parts


@pytest.mark.parametrize(
    "part",
    [
        b"some bytes",
        bytearray(b"some bytes"),
        memoryview(b"xxsome bytesxx")[2:-2],
        array.array("H", b"some bytes"),
        memoryview(array.array("H", b"some bytes")),
    ],
    ids=lambda part: type(part).__name__,
)
def test_any_memory_is_a_part(part: object) -> None:
    buffer = wrap(b"<", part, b"", b">")
    assert len(buffer) == 12
    assert buffer.to_bytes() == bytes(buffer) == sent(buffer) == b"<some bytes>"
    assert buffer.readable == 0


def test_mappings_buffers_and_regions_are_parts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(SOME)
    with (
        mmap.mmap(-1, 5) as plain,
        DirectBuffer(6) as direct,
        FileChannel.open(path, "r") as channel,
        channel.map(MapMode.READ_ONLY, 1000, 5000) as mapped,
    ):
        plain[:] = b"plain"
        direct[:] = b"direct"
        region = FileRegion(channel, 50_000, 40_000)
        with wrap(plain, mapped, direct, region, b"end") as buffer:
            expected = b"plain" + SOME[1000:6000] + b"direct" + SOME[50_000:90_000] + b"end"
            assert bytes(buffer) == expected
            assert buffer[5] == SOME[1000]
            assert bytes(buffer[3:9000]) == expected[3:9000]
            assert sent(buffer) == expected
            with pytest.raises(BufferError):
                direct.close()


@pytest.mark.parametrize("part", [5, "text", None, memoryview(b"abcdef")[::2]])
def test_what_has_no_bytes_in_one_piece_is_refused(part: object) -> None:
    data = bytearray(b"abc")
    with pytest.raises(TypeError, match="composite buffer: cannot be made of"):
        wrap(data, part)
    data.append(1)  # it has been let go


def test_a_part_can_be_a_composite_from_its_position_on() -> None:
    inner = wrap(b"abc", b"def")
    inner.read(2)
    outer = wrap(b"<", inner, b">")
    assert inner.references == 2
    assert inner.read() == b"cdef"
    assert bytes(outer) == b"<cdef>"
    assert not inner.release()
    assert bytes(outer) == b"<cdef>"
    assert outer.release()
    assert inner.references == 0


def test_parts_are_shown_without_copying() -> None:
    data = bytearray(b"abcdef")
    with temporary(b"0123456789") as fd:
        buffer = wrap(data, FileRegion(fd, 1, 8))[2:10]
        memory, region = buffer.parts()
        assert isinstance(memory, memoryview)
        assert isinstance(region, FileRegion)
        memory[0] = ord("X")
        assert data == b"abXdef"
        assert (region.position, region.count) == (1, 4)


def test_views_show_what_changes_below_them() -> None:
    data = bytearray(b"hello")
    buffer = wrap(data)
    part, other = buffer[1:3], buffer.duplicate()
    data[1] = ord("a")
    assert (bytes(part), bytes(other)) == (b"al", b"hallo")


@pytest.mark.parametrize("at", [5, -6, 100])
def test_an_index_outside_is_an_error(at: int) -> None:
    with pytest.raises(IndexError):
        wrap(b"ab", b"cde")[at]


def test_slices_that_cannot_be_are_errors() -> None:
    buffer = wrap(b"ab", b"cde")
    with pytest.raises(ValueError, match="step of 2"):
        buffer[::2]
    for start, count in ((-1, 2), (0, 6), (5, 1), (2, -1)):
        with pytest.raises(ValueError, match="slice"):
            buffer.slice(start, count)
    for position in (-1, 6):
        with pytest.raises(ValueError, match="position"):
            buffer.position = position
    with pytest.raises(ValueError, match="read"):
        buffer.read(-1)


# file regions


def test_a_region_goes_to_the_end_of_the_file_unless_it_is_told() -> None:
    with temporary(b"0123456789") as fd:
        os.lseek(fd, 3, os.SEEK_SET)
        assert FileRegion(fd, 4).count == 6
        assert FileRegion(fd, 11).count == 0
        assert bytes(wrap(FileRegion(fd))) == b"0123456789"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 3
        for position, count in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError, match="below 0"):
                FileRegion(fd, position, count)


def test_what_has_no_positions_is_no_region() -> None:
    here, there = socket.socketpair()
    with here, there, pytest.raises(ValueError, match="neither a file nor a block device"):
        FileRegion(here, 0, 1)


def test_a_file_that_was_cut_is_told_with_what_went_before() -> None:
    with temporary(SOME) as fd:
        buffer = wrap(b"abc", FileRegion(fd), b"def")
        os.ftruncate(fd, 5000)
        with pytest.raises(SourceTruncated, match="the file ends at 5000") as caught:
            sent(buffer)
        assert caught.value.delivered == buffer.position == 5003
        with pytest.raises(SourceTruncated, match="the file ends at 5000"):
            bytes(buffer)
        with pytest.raises(SourceTruncated):
            buffer[90_000]
        assert bytes(buffer[:5003]) == b"abc" + SOME[:5000]


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_mapped_file_that_was_cut_is_told_and_kills_nobody(tmp_path: Path, left: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(SOME)
    with (
        FileChannel.open(path, "r") as channel,
        channel.map(MapMode.READ_ONLY, 0, 20_000) as mapped,
        wrap(mapped, b"end") as buffer,
    ):
        os.truncate(path, left)
        with pytest.raises(SourceTruncated):
            bytes(buffer)
        with pytest.raises(SourceTruncated):
            sent(buffer)


def test_where_sendfile_is_refused_it_is_copied(tmp_path: Path) -> None:
    # the kernel splices nothing to a file that is open for appending
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    try:
        with temporary(SOME * 4) as source:
            buffer = wrap(b"head", FileRegion(source), b"tail", FileRegion(source, 5, 5))
            assert buffer.write_to(fd) == 400_013
        os.lseek(fd, 0, os.SEEK_SET)
        assert everything(fd) == b"head" + SOME * 4 + b"tail" + SOME[5:10]
    finally:
        os.close(fd)


# writing it out


def test_one_call_takes_as_many_parts_as_the_kernel_does() -> None:
    reader, writer = os.pipe()
    try:
        buffer = wrap(*(bytes([number % 256]) for number in range(3000)))
        counts = []
        while count := buffer.writev(writer):
            counts.append(count)
        assert counts == [1024, 1024, 952]
        assert os.read(reader, 4000) == bytes(number % 256 for number in range(3000))
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_pipe_is_told_and_the_position_says_where() -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK)
    try:
        with temporary(SOME) as fd:
            buffer = wrap(SOME[:50_000], FileRegion(fd), SOME)
            expected, got = bytes(buffer), b""
            refusals = 0
            while buffer.readable:
                try:
                    buffer.write_to(writer)
                except BlockingIOError:
                    refusals += 1
                got += os.read(reader, 1 << 20)
                assert len(got) == buffer.position
            assert got == expected
            assert refusals >= 3
            assert buffer.writev(writer) == buffer.write_to(writer) == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_a_reader_that_is_gone_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        buffer = wrap(b"abc")
        with pytest.raises(BrokenPipeError):
            buffer.write_to(writer)
        assert buffer.position == 0
    finally:
        os.close(writer)


pieces = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(st.integers(0, 1000), st.integers(0, 3000)),
    ),
    max_size=8,
)


@given(parts=pieces, start=st.integers(0, 8000), size=st.integers(0, 8000))
def test_any_parts_go_out_as_they_came(
    parts: list[bytes | tuple[int, int]], start: int, size: int
) -> None:
    with temporary(SOME) as fd:
        buffer = CompositeBuffer(
            part if isinstance(part, bytes) else FileRegion(fd, *part) for part in parts
        )
        expected = b"".join(
            part if isinstance(part, bytes) else SOME[part[0] : part[0] + part[1]] for part in parts
        )[start : start + size]
        part = buffer[start : start + size]
        assert bytes(part) == expected
        reader, writer = os.pipe()
        try:
            got = b""
            while part.writev(writer):
                got += os.read(reader, 1 << 16)
            assert got == expected
        finally:
            os.close(reader)
            os.close(writer)


class Model(RuleBasedStateMachine):
    """Buffers and the bytes that they must be equal to, each with a position."""

    @initialize()
    def begin(self) -> None:
        self.root = CompositeBuffer()
        self.buffers = [self.root]
        self.bytes = [b""]
        self.file = tempfile.TemporaryFile()
        self.file.write(SOME)
        self.file.flush()
        self.references = 1

    def teardown(self) -> None:
        if hasattr(self, "file"):
            self.file.close()

    def pick(self, number: int) -> int:
        return number % len(self.buffers)

    alive = precondition(lambda self: self.references > 0)

    @alive
    @rule(number=st.integers(0, 100), data=st.binary(max_size=50), writable=st.booleans())
    def append(self, number: int, data: bytes, writable: bool) -> None:
        at = self.pick(number)
        self.buffers[at].append(bytearray(data) if writable else data)
        self.bytes[at] += data

    @alive
    @rule(number=st.integers(0, 100), start=st.integers(0, 5000), count=st.integers(0, 50))
    def append_region(self, number: int, start: int, count: int) -> None:
        at = self.pick(number)
        self.buffers[at].append(FileRegion(self.file, start, count))
        self.bytes[at] += SOME[start : start + count]

    @alive
    @precondition(lambda self: sum(map(len, self.bytes)) < 10_000)
    @rule(number=st.integers(0, 100), other=st.integers(0, 100))
    def append_another(self, number: int, other: int) -> None:
        at, of = self.pick(number), self.pick(other)
        added = self.bytes[of][self.buffers[of].position :]
        self.buffers[at].append(self.buffers[of])
        self.bytes[at] += added

    @alive
    @precondition(lambda self: len(self.buffers) < 10)
    @rule(
        number=st.integers(0, 100),
        start=st.none() | st.integers(-60, 60),
        stop=st.none() | st.integers(-60, 60),
    )
    def slice(self, number: int, start: int | None, stop: int | None) -> None:
        at = self.pick(number)
        self.buffers.append(self.buffers[at][start:stop])
        self.bytes.append(self.bytes[at][start:stop])

    @alive
    @precondition(lambda self: len(self.buffers) < 10)
    @rule(number=st.integers(0, 100))
    def duplicate(self, number: int) -> None:
        at = self.pick(number)
        made = self.buffers[at].duplicate()
        assert made.position == self.buffers[at].position
        self.buffers.append(made)
        self.bytes.append(self.bytes[at])

    @alive
    @rule(number=st.integers(0, 100), count=st.none() | st.integers(0, 80))
    def read(self, number: int, count: int | None) -> None:
        at = self.pick(number)
        buffer, data = self.buffers[at], self.bytes[at]
        begin = buffer.position
        end = len(data) if count is None else min(begin + count, len(data))
        assert buffer.read(count) == data[begin:end]
        assert (buffer.position, buffer.readable) == (end, len(data) - end)

    @alive
    @rule(number=st.integers(0, 100), count=st.integers(0, 80))
    def read_into(self, number: int, count: int) -> None:
        at = self.pick(number)
        buffer, data = self.buffers[at], self.bytes[at]
        target = bytearray(b"~" * count)
        expected = data[buffer.position : buffer.position + count]
        assert buffer.read_into(target) == len(expected)
        assert target == expected + b"~" * (count - len(expected))

    @alive
    @rule(number=st.integers(0, 100), position=st.integers(0, 100))
    def move(self, number: int, position: int) -> None:
        at = self.pick(number)
        self.buffers[at].position = min(position, len(self.bytes[at]))

    @alive
    @rule(number=st.integers(0, 100), index=st.integers(-60, 60))
    def index(self, number: int, index: int) -> None:
        at = self.pick(number)
        if -len(self.bytes[at]) <= index < len(self.bytes[at]):
            assert self.buffers[at][index] == self.bytes[at][index]
        else:
            with pytest.raises(IndexError):
                self.buffers[at][index]

    @alive
    @rule(number=st.integers(0, 100), more=st.integers(1, 2))
    def retain(self, number: int, more: int) -> None:
        at = self.pick(number)
        assert self.buffers[at].retain(more) is self.buffers[at]
        self.references += more

    @alive
    @rule(number=st.integers(0, 100))
    def release(self, number: int) -> None:
        self.references -= 1
        assert self.buffers[self.pick(number)].release() is (self.references == 0)

    @precondition(lambda self: self.references == 0)
    @rule()
    def begin_again(self) -> None:
        self.file.close()
        self.begin()

    @invariant()
    def the_same(self) -> None:
        if not hasattr(self, "root"):
            return
        assert self.root.references == self.references
        for buffer, data in zip(self.buffers, self.bytes, strict=True):
            if self.references:
                assert (len(buffer), bytes(buffer)) == (len(data), data)
            else:
                with pytest.raises(ValueError, match="composite buffer: released"):
                    bytes(buffer)


TestModel = Model.TestCase


# references


def test_the_last_release_lets_go_of_everything() -> None:
    calls: list[str] = []
    data, direct = bytearray(b"abc"), DirectBuffer(10)
    buffer = wrap(data, direct, on_release=lambda: calls.append("released"))
    part = buffer[1:2]
    part.retain()
    with pytest.raises(BufferError):
        data.append(0)
    assert not buffer.release()
    assert not calls
    assert part.release()
    assert calls == ["released"]
    data.append(0)
    direct.close()
    for use in (
        lambda: bytes(buffer),
        lambda: part[0],
        part.__len__,
        lambda: part.read(1),
        lambda: buffer.read_into(bytearray(1)),
        lambda: buffer.append(b"x"),
        buffer.duplicate,
        lambda: buffer.slice(0, 0),
        lambda: buffer.writev(1),
        lambda: buffer.write_to(1),
        buffer.parts,
        buffer.retain,
        part.release,
        lambda: wrap(part),
    ):
        with pytest.raises(ValueError, match="composite buffer: released"):
            use()
    assert "released" in repr(buffer)


@pytest.mark.parametrize("number", [0, -1])
def test_references_are_counted_in_ones_and_more(number: int) -> None:
    buffer = wrap(b"abc")
    with pytest.raises(ValueError, match="at least 1"):
        buffer.retain(number)
    with pytest.raises(ValueError, match="at least 1"):
        buffer.release(number)
    with pytest.raises(ValueError, match="2 references given up, and there are 1"):
        buffer.release(2)
    assert buffer.references == 1


def test_a_reference_is_not_lost_between_threads() -> None:
    buffer = wrap(b"abc")

    def work() -> None:
        for _ in range(2000):
            buffer.retain()
            buffer.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert buffer.release()


@contextmanager
def watched() -> Iterator[list[warnings.WarningMessage]]:
    debug_leaks(True)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield told
    finally:
        debug_leaks(False)


def test_a_leak_is_told_with_its_place() -> None:
    with watched() as told:
        buffer = wrap(b"abc").retain()
        line = sys._getframe().f_lineno - 1
        part = buffer[:2]
        del buffer
        gc.collect()
        assert not told  # the slice may still release it
        del part
        gc.collect()
    assert [each.category for each in told] == [ResourceWarning]
    text = str(told[0].message)
    assert "never released: 2 references left" in text
    assert f"{__file__}:{line} in test_a_leak_is_told_with_its_place" in text


def test_what_was_released_is_no_leak() -> None:
    with watched() as told:
        with wrap(b"abc") as buffer, wrap(buffer):
            pass
        with pytest.raises(TypeError):
            wrap(5)
        del buffer
        gc.collect()
    assert not told


def test_without_the_switch_nothing_is_told() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        wrap(b"abc")
        gc.collect()
    assert not told


@pytest.mark.parametrize(("value", "leaks"), [("1", 1), ("0", 0), ("", 0)])
def test_the_environment_has_the_switch_too(value: str, leaks: int) -> None:
    program = "from zpipe.channel.composite import wrap\nwrap(b'abc')\n"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        env=environment(ZPIPE_DEBUG_LEAKS=value),
        capture_output=True,
        check=True,
    )
    assert done.stderr.count(b"ResourceWarning: composite buffer: never released") == leaks
    assert done.stderr.count(b"made at <string>:2 in <module>") == leaks
