"""MappedBuffer against a model in plain bytes, and against those who cut the file meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, content, environment, mounted, strace
from zpipe.channel.file import FileChannel
from zpipe.channel.mapped import MapMode
from zpipe.errors import SourceTruncated
from zpipe.kernel.mapping import PAGE
from zpipe.kernel.memory import F_SEAL_SHRINK, add_seals, memfd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zpipe.channel.mapped import MappedBuffer

GIB = 1 << 30
SIZE = 10 * PAGE
EVERY = pytest.mark.parametrize("mode", list(MapMode), ids=lambda mode: mode.name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(content(SIZE))
    return tmp_path / "file"


@pytest.fixture
def channel(path: Path) -> Iterator[FileChannel]:
    with FileChannel.open(path, "r+") as opened:
        yield opened


@EVERY
@pytest.mark.parametrize(
    ("position", "size"), [(0, SIZE), (1, 1), (PAGE - 1, 2), (PAGE + 7, 5 * PAGE), (SIZE, 0)]
)
def test_it_holds_exactly_the_part_asked_for(
    channel: FileChannel, mode: MapMode, position: int, size: int
) -> None:
    with channel.map(mode, position, size) as buffer:
        wanted = content(SIZE)[position : position + size]
        assert len(buffer) == size
        assert buffer[:] == bytes(buffer.raw) == wanted
        assert buffer.read_at(0, size) == wanted
        with buffer.hold() as lent:
            assert lent == wanted
        buffer.load()
        buffer.force()
        buffer.advise("sequential")
        assert buffer.is_loaded() in (True, False)


@given(data=st.data(), mode=st.sampled_from([MapMode.READ_WRITE, MapMode.PRIVATE]))
def test_any_sequence_of_calls_does_what_it_does_to_bytes(
    data: st.DataObject, mode: MapMode, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp() / "mapped"
    original = content(3 * PAGE)
    place.write_bytes(original)
    position = data.draw(st.integers(0, 2 * PAGE))
    size = data.draw(st.integers(1, 3 * PAGE - position))
    model = bytearray(original[position : position + size])
    with FileChannel.open(place, "r+") as channel, channel.map(mode, position, size) as buffer:
        for _ in range(data.draw(st.integers(1, 8))):
            start, stop = sorted(data.draw(st.lists(st.integers(0, size), min_size=2, max_size=2)))
            act = data.draw(st.sampled_from(["read", "into", "write", "slice", "raw", "byte"]))
            new = bytes([data.draw(st.integers(1, 255))]) * (stop - start)
            if act == "write":
                buffer.write_at(start, new)
                model[start:stop] = new
            elif act == "slice":
                buffer[start:stop] = new
                model[start:stop] = new
            elif act == "raw":
                buffer.raw[start:stop] = new
                model[start:stop] = new
            elif act == "byte" and start < size:
                buffer[start - size] = 7
                model[start] = 7
                assert buffer[start] == 7
            elif act == "into":
                target = bytearray(stop - start)
                buffer.read_into(target, start)
                assert target == model[start:stop]
            assert buffer[start:stop] == buffer.read_at(start, stop - start) == model[start:stop]
        assert buffer[:] == bytes(buffer.raw) == model
    changed = original[:position] + model + original[position + size :]
    assert place.read_bytes() == (changed if mode is MapMode.READ_WRITE else original)


def test_what_others_write_is_seen_and_the_other_way_round(channel: FileChannel) -> None:
    with channel.map(MapMode.READ_WRITE, 3, 100) as buffer:
        channel.write(b"outside", 3)
        assert buffer[:7] == b"outside"
        buffer[7:13] = b"inside"
        assert channel.read(13, 3) == b"outsideinside"


def test_a_read_only_mapping_takes_nothing(path: Path) -> None:
    with FileChannel.open(path) as channel, channel.map() as buffer:
        with pytest.raises(TypeError, match="read-only"):
            buffer.write_at(0, b"x")
        with pytest.raises(TypeError, match="read-only"):
            buffer[0] = 1
        assert buffer.raw.readonly
        with pytest.raises(OSError, match=f"Errno {errno.EACCES}]"):
            channel.map(MapMode.READ_WRITE)
        with channel.map(MapMode.PRIVATE) as own:
            own[0:3] = b"own"
            assert own[0:3] == b"own" != buffer[0:3]


def test_what_lies_outside_is_refused(channel: FileChannel) -> None:
    with channel.map(MapMode.READ_WRITE, 0, 10) as buffer:
        calls: list[Callable[[], object]] = [
            lambda: buffer.read_at(5, 6),
            lambda: buffer.read_at(-1, 2),
            lambda: buffer.read_at(2, -1),
            lambda: buffer.write_at(10, b"x"),
            lambda: buffer.read_into(bytearray(11)),
            lambda: buffer.force(0, 11),
            lambda: buffer.advise("random", 11),
            lambda: buffer.__setitem__(slice(0, 3), b"four"),
            lambda: buffer[::2],
        ]
        for call in calls:
            with pytest.raises(ValueError):
                call()
        for where in (10, -11):
            with pytest.raises(IndexError):
                _ = buffer[where]
        assert buffer[8:99] == content(SIZE)[8:10]
        assert [buffer[place] for place in range(10)] == list(content(SIZE)[:10])


def test_only_a_mapping_to_write_makes_the_file_longer(path: Path) -> None:
    with FileChannel.open(path, "r+") as channel:
        for mode in (MapMode.READ_ONLY, MapMode.PRIVATE):
            with pytest.raises(ValueError, match="the file has"):
                channel.map(mode, SIZE - 1, 2)
        with channel.map(MapMode.READ_WRITE, SIZE + 5, 3) as buffer:
            assert channel.size() == SIZE + 8
            buffer[:] = b"new"
    assert path.read_bytes() == content(SIZE) + b"\0" * 5 + b"new"


def test_it_outlives_the_channel(path: Path) -> None:
    with FileChannel.open(path) as channel:
        buffer = channel.map(MapMode.READ_ONLY, 7, 7)
    with buffer:
        assert buffer[:] == content(SIZE)[7:14]


def test_use_after_unmap_is_refused(channel: FileChannel) -> None:
    buffer = channel.map(MapMode.READ_WRITE)
    raw = buffer.raw
    buffer.unmap()
    buffer.unmap()
    assert not buffer.mapped
    calls: list[Callable[[], object]] = [
        lambda: buffer[0],
        lambda: buffer[0:1],
        lambda: buffer.__setitem__(0, 1),
        lambda: buffer.read_at(0, 0),
        lambda: buffer.read_into(bytearray(1)),
        lambda: buffer.write_at(0, b""),
        buffer.force,
        buffer.load,
        buffer.is_loaded,
        lambda: buffer.advise("normal"),
        lambda: buffer.raw,
        buffer.hold().__enter__,
        buffer.__enter__,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="unmapped"):
            call()
    with pytest.raises(ValueError, match="released"):
        raw[0]


def test_a_slice_of_raw_in_use_keeps_it_mapped(channel: FileChannel) -> None:
    buffer = channel.map(MapMode.READ_WRITE)
    piece = buffer.raw[5:9]
    with pytest.raises(BufferError, match="in use"):
        buffer.unmap()
    assert buffer.mapped
    assert piece == buffer[5:9] == buffer.raw[5:9] == content(SIZE)[5:9]
    piece.release()
    buffer.unmap()


def test_one_that_nobody_unmapped_leaves_no_fd(channel: FileChannel) -> None:
    before = len(os.listdir("/proc/self/fd"))
    buffer = channel.map()
    assert len(os.listdir("/proc/self/fd")) > before
    del buffer
    assert len(os.listdir("/proc/self/fd")) == before


def test_load_brings_it_into_memory(tmp_path: Path) -> None:
    """Pages that nobody has touched yet are not there."""
    with FileChannel.open(tmp_path / "file", "w+") as channel:
        channel.truncate(1 << 20)
        with channel.map(MapMode.READ_ONLY, 5, (1 << 20) - 5) as buffer:
            assert not buffer.is_loaded()
            buffer.load()
            assert buffer.is_loaded()


def test_advice_that_is_none_is_refused(channel: FileChannel) -> None:
    with channel.map(MapMode.PRIVATE) as buffer:
        with pytest.raises(ValueError, match="one of normal, "):
            buffer.advise("quickly")  # type: ignore[arg-type]
        buffer[0:3] = b"own"
        with pytest.raises(ValueError, match="undo"):
            buffer.advise("dontneed")
        buffer.advise("willneed", 5, 2 * PAGE)
        assert buffer[0:3] == b"own"


def test_sizes_and_positions_above_4_gib(tmp_path: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "mount", 16 << 20) as place,
        FileChannel.open(place / "huge", "w+") as channel,
    ):
        position = 4 * GIB + 12_345
        size = 3 * GIB + 77
        for mode in (MapMode.READ_WRITE, MapMode.PRIVATE, MapMode.READ_ONLY):
            with channel.map(mode, position, size) as buffer:
                assert len(buffer) == size
                if mode is not MapMode.READ_ONLY:
                    buffer.write_at(size - 6, mode.name[:6].encode())
                    buffer[2 * GIB + 1 : 2 * GIB + 3] = b"in"
                    buffer.force(2 * GIB)
                seen = b"PRIVAT" if mode is MapMode.PRIVATE else b"READ_W"
                assert buffer[-6:] == bytes(buffer.raw[-6:]) == seen
                assert buffer.read_at(2 * GIB, 4) == b"\0in\0"
                buffer.advise("random", 3 * GIB)
                assert not buffer.is_loaded()
        assert channel.size() == position + size
        assert channel.read(99, position + size - 6) == b"READ_W"


def methods(buffer: MappedBuffer) -> dict[str, Callable[[], object]]:
    """Return whatever touches the last byte."""
    end = len(buffer)

    def hold() -> bytes:
        with buffer.hold(end - 10) as lent:
            return bytes(lent)

    return {
        "byte": lambda: buffer[-1],
        "slice": lambda: buffer[:],
        "read_at": lambda: buffer.read_at(end - 10, 10),
        "read_into": lambda: buffer.read_into(bytearray(end)),
        "hold": hold,
        "load": buffer.load,
        "write_at": lambda: buffer.write_at(end - 10, bytes(10)),
        "set": lambda: buffer.__setitem__(end - 1, 1),
    }


@EVERY
@pytest.mark.parametrize("size", [0, 1, PAGE, SIZE - PAGE - 1, SIZE - 1])
def test_a_file_that_was_cut_is_an_error_and_not_the_end_of_the_process(
    path: Path, mode: MapMode, size: int
) -> None:
    before = content(SIZE)
    with FileChannel.open(path, "r+") as channel, channel.map(mode, 0, SIZE) as buffer:
        if mode is MapMode.PRIVATE:
            # pages of its own go, too
            buffer[SIZE - 20 : SIZE] = bytes(20)
        channel.truncate(size)
        for name, call in methods(buffer).items():
            if name in ("write_at", "set") and mode is MapMode.READ_ONLY:
                continue
            with pytest.raises(SourceTruncated, match=f"was cut to {size} bytes"):
                call()
        assert channel.size() == size, "nothing makes it longer"
        # what was to be written ends behind that; up to the cut it may be there
        kept = min(size, SIZE - 20)
        assert buffer[:kept] == before[:kept]
        channel.truncate(SIZE)
        assert buffer[:kept] == before[:kept]
        assert buffer[size : SIZE - 20] == bytes(max(0, SIZE - 20 - size))


READING = """
import sys
from zpipe.channel.file import FileChannel
from zpipe.channel.mapped import MapMode
from zpipe.errors import SourceTruncated
mode = MapMode[sys.argv[1]]
size = int(sys.argv[2])
done = cut = 0
with FileChannel.open("file", "r+") as channel, channel.map(mode, 100, size - 100) as buffer:
    print("ready", flush=True)
    while cut < 300 or done < 300:
        try:
            if (done + cut) % 3 == 0:
                with buffer.hold() as lent:
                    found = bytes(lent)
            elif (done + cut) % 3 == 1 and mode is not MapMode.READ_ONLY:
                buffer.write_at(size - 200, b"x" * 100)
                found = b"x" * (size - 100)
            else:
                found = buffer[:]
            assert len(found) == size - 100 and not found.strip(b"x\\0")
            done += 1
        except SourceTruncated:
            cut += 1
print("whole")
"""


@EVERY
def test_a_process_reads_in_a_loop_while_another_one_cuts_the_file(
    path: Path, mode: MapMode
) -> None:
    """It is cut and made whole again without a pause, until both outcomes were seen 300 times."""
    path.write_bytes(b"x" * SIZE)
    with (
        subprocess.Popen(
            [sys.executable, "-c", READING, mode.name, str(SIZE)],
            cwd=path.parent,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as child,
        FileChannel.open(path, "r+") as channel,
    ):
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            turn = 0
            while child.poll() is None:
                turn += 1
                channel.truncate((0, 50, PAGE + 5, SIZE - PAGE, SIZE - 1)[turn % 5])
                channel.write(b"x" * SIZE, 0)
            assert child.returncode == 0, f"died of {-child.returncode}"
            assert child.stdout.read() == "whole\n"
        finally:
            child.kill()


def test_a_range_that_is_held_cannot_be_cut(path: Path) -> None:
    with FileChannel.open(path) as channel, channel.map(MapMode.READ_ONLY, 5, 100) as buffer:
        with buffer.hold(10, 20) as lent:
            assert lent.readonly
            assert lent == content(SIZE)[15:35]
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK)
            assert channel.size() == SIZE
        with pytest.raises(ValueError, match="released"):
            lent[0]
        os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK))
        with pytest.raises(SourceTruncated), buffer.hold(10, 20):
            pass


def test_two_hold_at_once_and_neither_ends_the_other(path: Path) -> None:
    with FileChannel.open(path) as channel, channel.map() as buffer:
        with buffer.hold():
            with buffer.hold(3, 4) as lent:
                assert lent == content(SIZE)[3:7]
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_what_somebody_may_write_to_is_held_as_a_copy(channel: FileChannel) -> None:
    with channel.map() as buffer, buffer.hold(0, 4) as lent:
        channel.write(b"new!", 0)
        assert lent == content(SIZE)[:4]
        channel.truncate(0)
        assert lent == content(SIZE)[:4]


def test_a_memfd_is_trusted_only_when_it_is_sealed() -> None:
    """The kernel grants leases on it though it is open for writing."""
    with FileChannel(memfd("test")) as channel:
        channel.write(b"content")
        again = os.open(f"/proc/self/fd/{channel.fileno()}", os.O_RDONLY)
        with FileChannel(again) as reading, reading.map() as buffer:
            with buffer.hold() as lent:
                channel.truncate(0)
                assert bytes(lent) == b"content"
            channel.write(b"content", 0)
            add_seals(channel.fileno(), F_SEAL_SHRINK)
            with buffer.hold() as lent:
                channel.write(b"C", 0)
                assert bytes(lent) == b"Content"


FORBIDDEN = """
from zpipe.channel.file import FileChannel
from zpipe.channel.mapped import MapMode
from zpipe.errors import SourceTruncated
with FileChannel.open("file", "r+") as channel, channel.map(MapMode.PRIVATE) as buffer:
    whole = channel.read(10**6, 0)
    assert buffer[:] == whole
    buffer[5000:15000] = b"y" * 10000
    assert buffer[:] == whole[:5000] + b"y" * 10000 + whole[15000:]
    channel.truncate(9000)
    try:
        buffer[:]
    except SourceTruncated:
        print("told")
"""


def test_where_copying_between_processes_is_forbidden_a_pipe_serves(path: Path) -> None:
    call = "process_vm_readv"
    done = subprocess.run(
        [
            *strace(f"-etrace={call}", f"-einject={call}:error=EPERM", "-o/dev/stderr"),
            *(sys.executable, "-c", FORBIDDEN),
        ],
        cwd=path.parent,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.stdout == b"told\n", done.stderr
    assert done.stderr.count(call.encode()) == 1, "it is asked once"
