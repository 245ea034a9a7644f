"""FileChannel against a model in plain bytes, and against the kernel's own answers."""

from __future__ import annotations

import errno
import mmap
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, content, environment, loop_device, strace, until
from zpipe.channel.file import MODES, FileChannel
from zpipe.channel.mapped import MapMode
from zpipe.channel.parts import FileRegion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

GIB = 1 << 30
ACTS = ("read", "into", "write", "readv", "writev", "truncate", "seek")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(content(10_000))
    return tmp_path / "file"


@pytest.fixture
def channel(path: Path) -> Iterator[FileChannel]:
    with FileChannel.open(path, "r+") as opened:
        yield opened


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("before", [b"before", None], ids=["there", "not there"])
def test_a_mode_does_what_it_does_for_python(
    mode: str, before: bytes | None, tmp_path: Path
) -> None:
    def outcome(opening: Callable[[Path], FileChannel | FileIO]) -> list[object]:
        place = tmp_path / "file"
        place.unlink(missing_ok=True)
        if before is not None:
            place.write_bytes(before)
        found: list[object] = []
        try:
            with opening(place) as opened:
                acts: list[Callable[[], object]] = [
                    lambda: opened.write(b"new"),
                    lambda: opened.read(9),
                ]
                for act in acts:
                    try:
                        found.append(act())
                    except OSError:
                        found.append("refused")
        except OSError as error:
            found.append(error.errno)
        return [*found, place.read_bytes() if place.exists() else None]

    assert outcome(lambda place: FileChannel.open(place, mode)) == outcome(
        lambda place: FileIO(place, mode)
    )


@pytest.mark.parametrize("mode", ["", "rw", "rt", "b+r", "+", "bb"])
def test_other_modes_are_refused(mode: str, path: Path) -> None:
    with pytest.raises(ValueError, match="one of r, r\\+"):
        FileChannel.open(path, mode)


def test_b_for_binary_may_stand_in_a_mode(path: Path) -> None:
    with FileChannel.open(path, "rb+") as channel:
        assert channel.write(b"x") == 1


def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    with FileChannel.open(tmp_path / "new", "x", permissions=0o600):
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        FileChannel.open(tmp_path)


@given(data=st.data())
def test_any_sequence_of_calls_does_what_it_does_to_bytes(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.getbasetemp() / "model"
    model, here = bytearray(), 0
    offsets = st.integers(0, 20_000)
    pieces = st.lists(st.binary(max_size=300), max_size=5)
    with FileChannel.open(place, "w+") as channel:
        for _ in range(data.draw(st.integers(1, 15))):
            act = data.draw(st.sampled_from(ACTS))
            position = data.draw(st.none() | offsets)
            start = here if position is None else position
            moved = 0
            if act == "read":
                count = data.draw(st.integers(0, 9000))
                found = channel.read(count, position)
                assert found == model[start : start + count]
                moved = len(found)
            elif act in ("into", "readv"):
                sizes = [len(each) for each in data.draw(pieces)]
                sizes = sizes[:1] or [1] if act == "into" else sizes
                buffers = [bytearray(size) for size in sizes]
                given_one = act == "into"
                moved = (
                    channel.read(buffers[0], position)
                    if given_one
                    else channel.readv(buffers, position)
                )
                wanted = model[start : start + sum(sizes)]
                assert moved == len(wanted)
                assert b"".join(buffers)[:moved] == wanted
            elif act in ("write", "writev"):
                parts = data.draw(pieces) or [b"x"]
                parts = parts[:1] if act == "write" else parts
                whole = b"".join(parts)
                moved = (
                    channel.write(whole, position)
                    if act == "write"
                    else channel.writev(parts, position)
                )
                assert moved == len(whole)
                if whole:
                    model.extend(bytes(max(0, start - len(model))))
                    model[start : start + len(whole)] = whole
            elif act == "truncate":
                size = data.draw(offsets)
                channel.truncate(size)
                model = model[:size] + bytes(size - len(model[:size]))
            else:
                here = channel.seek(data.draw(offsets))
            here += moved if position is None else 0
            assert channel.tell() == here
            assert channel.size() == len(model)
        assert channel.read(99_999, 0) == model


def test_more_buffers_than_one_call_takes(channel: FileChannel) -> None:
    parts = [bytes([n % 251]) * (n % 7) for n in range(5000)]
    whole = b"".join(parts)
    assert channel.writev(parts, 3) == len(whole)
    assert channel.read(len(whole), 3) == whole
    buffers = [bytearray(n % 5) for n in range(4000)]
    assert channel.readv(buffers, 3) == sum(map(len, buffers))
    assert b"".join(buffers) == whole[: sum(map(len, buffers))]
    assert channel.readv(buffers, 10**6) == 0
    assert channel.writev([], 3) == channel.readv([]) == 0


def test_buffers_of_any_sort(channel: FileChannel) -> None:
    from array import array

    numbers = array("I", range(100))
    assert channel.write(numbers, 0) == 400
    found = array("I", bytes(400))
    assert channel.read(found, 0) == 400
    assert found == numbers
    with mmap.mmap(-1, 100) as memory:
        assert channel.read(memory, 4) == 100
        assert memory[:4] == numbers.tobytes()[4:8]
    with pytest.raises((TypeError, BufferError)):
        channel.read(b"read-only", 0)


def test_positions_beyond_4_gib(tmp_path: Path) -> None:
    with FileChannel.open(tmp_path / "huge", "w+") as channel:
        for position in (2 * GIB - 3, 4 * GIB - 3, 1 << 40):
            assert channel.write(b"marker", position) == 6
            assert channel.read(20, position - 2) == b"\0\0marker"
        assert channel.size() == (1 << 40) + 6
        channel.truncate(3 * GIB)
        assert channel.size() == 3 * GIB
        assert channel.read(6, 2 * GIB - 3) == b"marker"


@pytest.mark.parametrize("call", ["read", "write", "truncate", "transfer"])
def test_negative_numbers_are_refused(call: str, channel: FileChannel) -> None:
    calls: dict[str, Callable[[], object]] = {
        "read": lambda: channel.read(1, -1),
        "write": lambda: channel.write(b"x", -1),
        "truncate": lambda: channel.truncate(-1),
        "transfer": lambda: channel.transfer_to(0, -1, 1),
    }
    with pytest.raises((ValueError, OSError)):
        calls[call]()
    with pytest.raises(ValueError):
        channel.read(-1)


def test_an_appending_channel_takes_no_position(path: Path) -> None:
    with FileChannel.open(path, "a") as channel:
        assert channel.write(b"end") == 3
        with pytest.raises(ValueError, match="it appends"):
            channel.write(b"x", 0)
        with pytest.raises(ValueError, match="it appends"):
            channel.writev([b"x"], 0)
    assert path.read_bytes() == content(10_000) + b"end"


def test_an_error_after_a_part_is_said_by_the_next_call(tiny: Path) -> None:
    with FileChannel.open(tiny / "file", "w+") as channel:
        written = channel.write(bytes(2 << 20))
        assert 0 < written < 2 << 20
        assert channel.size() == written
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            channel.write(bytes(1 << 20))


def test_what_is_not_open_for_it_is_the_kernels_to_say(path: Path) -> None:
    with FileChannel.open(path) as channel, pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
        channel.write(b"x", 0)
    with (
        FileChannel.open(path, "a") as channel,
        pytest.raises(OSError, match=f"Errno {errno.EBADF}]"),
    ):
        channel.read(1, 0)


def test_everything_is_refused_once_it_is_closed(path: Path) -> None:
    channel = FileChannel.open(path, "r+")
    channel.close()
    channel.close()
    assert channel.closed
    calls: list[Callable[[], object]] = [
        lambda: channel.read(1),
        lambda: channel.write(b"x"),
        channel.size,
        channel.tell,
        channel.fileno,
        channel.force,
        channel.lock,
        channel.map,
        lambda: channel.truncate(0),
        lambda: channel.transfer_to(0, 1, 1),
        lambda: channel.transfer_from(0, 0, 1),
        channel.__enter__,
    ]
    for call in calls:
        with pytest.raises(ValueError, match="the channel is closed"):
            call()


def test_an_fd_that_one_has(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    with FileChannel(fd, closefd=False) as channel:
        assert channel.name == f"fd {fd}"
        assert channel.read(5) == content(10_000)[:5]
    with FileChannel(fd) as channel:
        assert channel.tell() == 5
    with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
        os.fstat(fd)


def test_a_channel_that_nobody_closed_says_so_and_leaves_no_fd(path: Path) -> None:
    channel = FileChannel.open(path)
    with pytest.warns(ResourceWarning, match="unclosed <FileChannel"):
        del channel


def test_streams_give_what_is_there() -> None:
    """A pipe has no end to be read up to: one call is what there is."""
    reader, writer = os.pipe()
    with FileChannel(reader) as source, FileChannel(writer) as sink:
        assert sink.writev([b"one", b"two"]) == 6
        assert source.read(100) == b"onetwo"
        sink.write(b"more")
        into = bytearray(100)
        assert source.read(into) == 4
        os.set_blocking(reader, False)
        with pytest.raises(BlockingIOError):
            source.read(1)
        with pytest.raises(OSError, match=f"Errno {errno.ESPIPE}]"):
            source.read(1, 0)


def test_o_direct_reads_into_aligned_memory_by_itself(tmp_path: Path) -> None:
    data = content(10_000)
    (tmp_path / "file").write_bytes(data)
    try:
        channel = FileChannel.open(tmp_path / "file", "r", direct=True)
    except OSError:
        pytest.skip("no O_DIRECT on this filesystem")
    with channel:
        assert channel.read(8192, 0) == data[:8192]
        assert channel.read(8192, 8192) == data[8192:]
        with FileChannel.open(tmp_path / "copy", "w+") as copy:
            assert channel.transfer_to(0, 10_000, copy) == 10_000
            assert copy.read(10_000, 0) == data


def test_threads_read_and_write_at_positions_on_one_channel(tmp_path: Path) -> None:
    data = content(1 << 20)
    with (
        FileChannel.open(tmp_path / "file", "w+") as channel,
        FileChannel.open(tmp_path / "copy", "w+") as copy,
        ThreadPoolExecutor(4) as pool,
    ):
        part = 4096

        def work(position: int) -> None:
            channel.write(data[position : position + part], position)
            copy.write(channel.read(part, position), position)

        list(pool.map(work, range(0, len(data), part)))
        assert channel.tell() == copy.tell() == 0
        assert copy.read(len(data) + 1, 0) == data


def test_locks_hold_others_back_by_range_and_kind(path: Path) -> None:
    with FileChannel.open(path, "r+") as one, FileChannel.open(path, "r+") as other:
        with one.lock(0, 10) as lock:
            assert lock.held
            with pytest.raises(BlockingIOError):
                other.lock(9, 1, blocking=False)
            with pytest.raises(BlockingIOError):
                other.lock(blocking=False)
            other.lock(10, 1, blocking=False).release()
            with (
                one.lock(20, 10, shared=True),
                other.lock(25, None, shared=True, blocking=False),
                pytest.raises(BlockingIOError),
            ):
                other.lock(20, 2, blocking=False)
        assert not lock.held
        lock.release()
        with other.lock(blocking=False):
            pass


def test_a_lock_waits_for_another_one(path: Path) -> None:
    with FileChannel.open(path, "r+") as one, FileChannel.open(path, "r+") as other:
        order = []
        held = one.lock()

        def wait() -> None:
            with other.lock():
                order.append("second")

        thread = threading.Thread(target=wait)
        thread.start()
        # the kernel lists who waits, with an arrow
        number = f":{os.fstat(one.fileno()).st_ino} "

        def waits() -> bool:
            with open("/proc/locks") as table:
                return any("->" in line and number in line for line in table)

        until(waits, "the other one waits")
        order.append("first")
        held.release()
        thread.join(LONGEST)
        assert order == ["first", "second"]


def test_overlapping_locks_of_one_channel_are_refused(channel: FileChannel) -> None:
    with channel.lock(5, 5):
        for position, count in ((0, 6), (9, None), (0, None), (6, 1)):
            with pytest.raises(ValueError, match="has a part of it already"):
                channel.lock(position, count, shared=True)
        channel.lock(0, 5).release()
        channel.lock(10).release()
    with pytest.raises(ValueError, match="a count of 0"):
        channel.lock(0, 0)


def test_closing_gives_up_locks_though_a_mapping_keeps_the_file_open(path: Path) -> None:
    one = FileChannel.open(path, "r+")
    lock = one.lock()
    with FileChannel.open(path, "r+") as other, one.map():
        one.close()
        assert not lock.held
        other.lock(blocking=False).release()


def test_a_lock_needs_the_right_mode(path: Path) -> None:
    with FileChannel.open(path) as channel:
        channel.lock(shared=True).release()
        with pytest.raises(OSError, match=f"Errno {errno.EBADF}]"):
            channel.lock()
        # what could not be had does not stand in the way
        channel.lock(shared=True).release()


FORCE = """
from zpipe.channel.file import FileChannel
from zpipe.channel.mapped import MapMode
with FileChannel.open("file", "r+") as channel:
    channel.force()
    channel.force(metadata=False)
    with channel.map(MapMode.READ_WRITE, 5000, 100) as buffer:
        buffer.force(50, 10)
    with channel.map(MapMode.READ_ONLY, 0, 100) as buffer:
        buffer.force()
"""


def test_force_is_the_call_that_it_says(path: Path) -> None:
    done = subprocess.run(
        [*strace("-etrace=fsync,fdatasync,msync", "-o/dev/stdout"), sys.executable, "-c", FORCE],
        cwd=path.parent,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=True,
    )
    calls = [line.split("(")[0].split()[-1] for line in done.stdout.decode().splitlines()]
    assert calls == ["fsync", "fdatasync", "msync"]
    assert b"MS_SYNC" in done.stdout


def test_a_socket_is_no_place_for_a_mapping() -> None:
    near, far = socket.socketpair()
    with (
        far,
        FileChannel(near.detach()) as channel,
        pytest.raises(OSError, match=f"Errno {errno.ENODEV}]"),
    ):
        channel.map(size=10)


def test_a_block_device_is_as_large_as_it_is(tmp_path: Path) -> None:
    """fstat says 0 of it; what asks for its end puts the position back."""
    data = content(1 << 20)
    (tmp_path / "image").write_bytes(data)
    with loop_device(tmp_path / "image") as device, FileChannel.open(device, "r+") as channel:
        channel.seek(1000)
        assert channel.size() == len(data)
        assert FileRegion(channel, 4096).count == len(data) - 4096
        assert channel.tell() == 1000
        with FileChannel.open(tmp_path / "copy", "w") as target:
            assert channel.transfer_to(500_000, 200_000, target) == 200_000
        assert (tmp_path / "copy").read_bytes() == data[500_000:700_000]
        with channel.map(MapMode.READ_ONLY, 4096, 8192) as mapped:
            assert mapped.read_at(0, 8192) == data[4096 : 4096 + 8192]
        assert channel.write(b"there", len(data) - 5) == 5
        with pytest.raises(OSError, match="No space left"):
            channel.write(b"beyond", len(data))
        assert channel.read(10, len(data) - 5) == b"there"
