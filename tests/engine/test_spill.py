"""The buffer before a slow sink: every byte once, in order, within its bound, and then gone."""

from __future__ import annotations

import errno
import os
import select
import subprocess
import threading
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.endpoints.meeting import LONG, ready
from tests.machine import content, until
from zpipe.engine import spill
from zpipe.engine.spill import Spill, Stage, default_folder
from zpipe.kernel.pipes import Pipe, buffered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = 4096
PART = 1 << 16
BULK = content(4 << 20)
QUICK = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture(params=[False, True], ids=["spliced", "copied"])
def by_copy(request: pytest.FixtureRequest) -> bool:
    """Whether the files of the folder refuse splice."""
    return bool(request.param)


class Queue:
    """A spill between two pipes of the test."""

    def __init__(self, folder: Path, most: int, *, by_copy: bool = False):
        self.calls: Counter[str] = Counter()
        self.spill = Spill(str(folder), most, self.calls)
        self.spill._by_copy = by_copy
        self._in, self._out = Pipe(), Pipe(PART)

    def put(self, data: bytes) -> int:
        """Offer bytes; return how many were taken, and take the others away again."""
        assert os.write(self._in.writer, data) == len(data)
        taken = 0
        while (left := len(data) - taken) and (moved := self.spill.store(self._in.reader, left)):
            assert 0 < moved <= left
            taken += moved
        assert buffered(self._in.reader) == left, "bytes went where nobody finds them"
        if left:
            assert os.read(self._in.reader, left) == data[taken:]
        return taken

    def get(self, count: int | None = None) -> bytes:
        """Fetch everything, or until there are `count` bytes at least."""
        got = b""
        while self.spill.size and (count is None or len(got) < count):
            before = self.spill.size
            moved = self.spill.fetch(self._out.writer)
            assert before - self.spill.size == moved
            got += os.read(self._out.reader, moved)
        return got

    def close(self) -> None:
        self.spill.close()
        self._in.close()
        self._out.close()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a thousand times as many bytes."""
    monkeypatch.setattr(spill, "SEGMENT", 3 * PAGE)


def free(place: Path) -> int:
    info = os.statvfs(place)
    return info.f_bavail * info.f_bsize


def open_files() -> list[str]:
    """Return the files without names that this process has open."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            pass  # that of the listing itself
    return [name for name in found if name.endswith(" (deleted)")]


# The queue of files


def test_what_goes_in_first_comes_out_first(tmp_path: Path, by_copy: bool) -> None:
    with closing(Queue(tmp_path, 1 << 20, by_copy=by_copy)) as queue:
        assert queue.put(BULK[:100_000]) == 100_000
        assert queue.get(1) == BULK[:PART]
        assert queue.put(BULK[100_000:150_000]) == 50_000
        assert queue.get() == BULK[PART:150_000]
        assert (queue.spill.size, queue.spill.deepest) == (0, 100_000)
        assert os.listdir(tmp_path) == []
        assert ("splice" in queue.calls) is not by_copy


@pytest.mark.usefixtures("small_segments")
@QUICK
@given(
    steps=st.lists(st.integers(-60_000, 60_000).filter(bool), max_size=20),
    most=st.sampled_from([0, 1, PAGE, 50_000, 1 << 30]),
    copied=st.booleans(),
)
def test_any_order_of_puts_and_gets(
    steps: list[int], most: int, copied: bool, tmp_path: Path
) -> None:
    """What is taken comes out in order; it is refused only beyond the bound."""
    expected, got, deepest = b"", b"", 0
    with closing(Queue(tmp_path, most, by_copy=copied)) as queue:
        for step in [*steps, -1 << 30]:
            if step < 0:
                got += queue.get(-step)
                continue
            data = BULK[len(expected) : len(expected) + step]
            room = queue.spill.room
            taken = queue.put(data)
            assert taken == min(step, room)
            expected += data[:taken]
            assert queue.spill.size == len(expected) - len(got) <= most
            deepest = max(deepest, queue.spill.size)
        assert got == expected
        assert queue.spill.deepest == deepest


@pytest.mark.usefixtures("small_segments")
def test_a_file_that_was_read_is_dropped(tmp_path: Path, by_copy: bool) -> None:
    others = open_files()
    with closing(Queue(tmp_path, 1 << 20, by_copy=by_copy)) as queue:
        queue.put(BULK[: 8 * PAGE])
        assert len(open_files()) == len(others) + 3
        queue.get(6 * PAGE)
        assert len(open_files()) == len(others) + 1
        queue.put(BULK[: 2 * PAGE])
        assert len(open_files()) == len(others) + 2
        queue.get()
        assert open_files() == others
        queue.put(BULK[:PAGE])
        assert len(open_files()) == len(others) + 1
    assert open_files() == others


def test_space_is_given_back(tiny: Path) -> None:
    before = free(tiny)
    with closing(Queue(tiny, 1 << 30)) as queue:
        queue.put(BULK[: 512 << 10])
        assert free(tiny) <= before - (512 << 10)
        queue.get()
        assert free(tiny) == before
        queue.put(BULK[: 512 << 10])
        assert free(tiny) <= before - (512 << 10)
    assert free(tiny) == before


def test_what_the_disk_takes_is_the_bound(tiny: Path, by_copy: bool) -> None:
    """ENOSPC is no failure: nothing is lost, the rest stays in the pipe until there is room."""
    with closing(Queue(tiny, 1 << 30, by_copy=by_copy)) as queue:
        given = taken = 0
        while taken == given:
            taken += queue.put(BULK[given : given + 200_000])
            given += 200_000
        assert 0 < taken <= 1 << 20
        assert queue.spill.room == 0
        assert queue.put(b"more") == 0
        assert queue.get() == BULK[:taken]
        assert free(tiny) >= taken
        # the place is there again, up to that bound
        assert queue.put(BULK[:200_000]) == 200_000
        assert queue.get() == BULK[:200_000]


@pytest.mark.usefixtures("small_segments")
def test_a_disk_that_takes_no_more_files_is_a_full_one(tiny: Path) -> None:
    """A tmpfs with two inodes: its root, and one file."""
    subprocess.run(["mount", "-o", "remount,nr_inodes=2", str(tiny)], check=True)
    with closing(Queue(tiny, 1 << 20)) as queue:
        assert queue.put(BULK[:PART]) == 3 * PAGE
        assert queue.spill.room == 0
        assert queue.get() == BULK[: 3 * PAGE]
        assert queue.put(BULK[:PAGE]) == PAGE


def test_a_folder_that_takes_no_files_is_told_at_once(tmp_path: Path) -> None:
    for folder, error in (
        (tmp_path / "none", FileNotFoundError),
        (tmp_path / "file", NotADirectoryError),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(error):
            Spill(str(folder), 100, Counter())


def test_only_its_owner_may_open_it(tmp_path: Path) -> None:
    queue = Spill(str(tmp_path), 100, Counter())
    with closing(queue):
        (segment,) = queue._segments
        info = os.fstat(segment.fd)
        assert (info.st_mode & 0o777, info.st_nlink) == (0o600, 0)
        assert not os.get_inheritable(segment.fd)


def test_the_folder_is_on_a_disk_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    assert default_folder() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", "")
    assert default_folder() == "/var/tmp"
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    assert default_folder() == "/elsewhere"


# The thread


class Staged:
    """A stage whose both sides are the test's."""

    def __init__(self, folder: Path, most: int = 1 << 30, capacity: int = PART):
        self.woken = threading.Semaphore(0)
        self.stage = Stage(str(folder), most, capacity, self.woken.release)

        self.given = 0

    def wait(self, passed: int) -> None:
        """Wait, woken by the stage, until so many bytes have left the inlet."""
        while self.stage.passed < passed:
            assert self.woken.acquire(timeout=LONG)

    def put(self, data: bytes) -> None:
        """Give bytes as a fan does: a round at a time, into an empty inlet."""
        for at in range(0, len(data), PART):
            self.wait(self.given)
            piece = data[at : at + PART]
            assert os.write(self.stage.inlet.writer, piece) == len(piece)
            self.given += len(piece)
        self.wait(self.given)

    def end(self) -> None:
        self.stage.inlet.close_writer()

    def get(self) -> bytes:
        """Take what is in the outlet, waiting for the first byte; b"" at the end."""
        ready(self.stage.outlet.reader, select.POLLIN)
        got = os.read(self.stage.outlet.reader, 1 << 20)
        self.stage.hungry()
        return got

    def rest(self) -> bytes:
        """Take everything until the end."""
        got = b""
        while data := self.get():
            got += data
        return got

    def close(self) -> None:
        self.stage.close(LONG)


@pytest.fixture
def staged(tmp_path: Path) -> Iterator[Staged]:
    before = threading.active_count()
    with closing(Staged(tmp_path)) as made:
        yield made
    assert threading.active_count() == before


def test_while_the_sink_keeps_up_bytes_go_past_the_files(staged: Staged) -> None:
    for at in range(0, 300_000, 30_000):
        staged.put(BULK[at : at + 30_000])
        assert staged.get() == BULK[at : at + 30_000]
        until(lambda: staged.stage._hungry, "the stage has heard that it is empty")
    assert staged.stage.spill.deepest == 0
    assert staged.stage.passed == 300_000
    assert not staged.stage.done


def test_while_it_does_not_they_go_through_them(staged: Staged) -> None:
    """Nobody reads: a round lies in the outlet, all others in files."""
    size = 10 * PART
    staged.put(BULK[:size])
    assert staged.stage.spill.size == staged.stage.spill.deepest == size - PART
    assert staged.get() == BULK[:PART]
    staged.end()
    assert BULK[:PART] + staged.rest() == BULK[:size]
    assert staged.stage.spill.size == 0
    until(lambda: staged.stage.done, "the stage has ended")
    assert staged.stage.fault is None


def test_at_the_end_the_outlet_is_closed_behind_the_last_byte(staged: Staged) -> None:
    staged.put(b"last")
    staged.end()
    assert staged.get() == b"last"
    assert staged.get() == b""
    until(lambda: staged.stage.done, "the stage has ended")


def test_of_nothing_there_is_an_end_too(staged: Staged) -> None:
    staged.end()
    assert staged.get() == b""
    until(lambda: staged.stage.done, "the stage has ended")
    assert staged.woken.acquire(timeout=LONG), "it has woken nobody"


def test_the_bound_is_kept_and_the_rest_waits_in_the_inlet(tmp_path: Path) -> None:
    most = 100_000
    with closing(Staged(tmp_path, most)) as staged:
        staged.put(BULK[: 2 * PART])
        assert os.write(staged.stage.inlet.writer, BULK[2 * PART : 3 * PART]) == PART
        staged.wait(PART + most)
        assert staged.stage.spill.size == most
        assert buffered(staged.stage.inlet.reader) == 2 * PART - most
        staged.end()
        assert staged.rest() == BULK[: 3 * PART]
        assert staged.stage.passed == 3 * PART
        assert staged.stage.spill.deepest == most


def test_without_a_file_there_are_still_two_pipes(tmp_path: Path) -> None:
    with closing(Staged(tmp_path, most=0)) as staged:
        staged.put(BULK[:PART])
        assert os.write(staged.stage.inlet.writer, BULK[PART : 2 * PART]) == PART
        staged.end()
        assert staged.rest() == BULK[: 2 * PART]
        assert staged.stage.spill.deepest == 0


def test_a_full_disk_slows_down_and_loses_nothing(tiny: Path) -> None:
    (tiny / "others").write_bytes(bytes((1 << 20) - 100_000))
    with closing(Staged(tiny)) as staged:
        staged.put(BULK[: 2 * PART])
        assert os.write(staged.stage.inlet.writer, BULK[2 * PART : 3 * PART]) == PART
        staged.given += PART
        until(lambda: staged.stage.spill.room == 0, "the disk is full")
        assert PART <= staged.stage.spill.size <= 100_000
        got = bytearray()
        reader = threading.Thread(target=lambda: got.extend(staged.rest()))
        reader.start()
        staged.put(BULK[3 * PART :])
        staged.end()
        reader.join(LONG)
        assert not reader.is_alive()
        assert staged.stage.fault is None
    assert got == BULK


def test_who_reads_the_outlet_is_told_what_it_got(staged: Staged) -> None:
    told: list[int] = []
    staged.stage.filled = told.append
    staged.put(BULK[: 3 * PART])
    assert told == [PART]
    staged.end()
    assert staged.rest() == BULK[: 3 * PART]
    until(lambda: staged.stage.done, "the stage has ended")
    assert sum(told) == 3 * PART
    assert (told[-1], told.count(0)) == (0, 1)


@pytest.mark.parametrize("most", [1 << 30, 100_000], ids=["with room", "full"])
def test_it_is_given_up_while_its_reader_is_stuck(most: int, tmp_path: Path) -> None:
    others = open_files()
    staged = Staged(tmp_path, most)
    staged.put(BULK[: 2 * PART])
    os.write(staged.stage.inlet.writer, BULK[:PART])
    staged.close()
    assert staged.stage.done
    assert open_files() == others
    assert (staged.stage.inlet.writer, staged.stage.outlet.reader) == (-1, -1)
    staged.close()
    staged.stage.hungry()  # whoever reads may not have heard yet


def test_one_that_is_given_up_at_any_moment_ends(tmp_path: Path) -> None:
    """A thread that is about to sleep is told all the same."""
    for number in range(300):
        stage = Stage(str(tmp_path), 1 << 20, PART, lambda: None)
        if number % 3 == 0:
            os.write(stage.inlet.writer, b"data")
        if number % 3 == 1:
            stage.hungry()
        stage.close(2.0)
        assert stage.done


@pytest.mark.usefixtures("small_segments")
def test_a_file_that_cannot_be_made_is_a_fault_and_an_end(tmp_path: Path) -> None:
    """The folder is gone when the next file is due."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with closing(Staged(folder)) as staged:
        staged.put(BULK[: PART + 3 * PAGE])
        folder.rmdir()
        os.write(staged.stage.inlet.writer, BULK[:PART])
        until(lambda: staged.stage.done, "the stage has ended")
        assert staged.stage.fault is not None
        assert staged.stage.fault.errno == errno.ENOENT
        assert staged.stage.passed == PART + 3 * PAGE


def test_a_stage_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Stage(str(tmp_path / "none"), 100, PART, lambda: None)


@pytest.mark.usefixtures("small_segments")
@QUICK
@given(
    rounds=st.lists(st.integers(1, PART), max_size=12),
    reads=st.lists(st.booleans(), min_size=12, max_size=12),
    most=st.sampled_from([0, 1, 50_000, 1 << 30]),
    capacity=st.sampled_from([PART, 1 << 17]),
)
def test_any_reader_gets_everything_in_order(
    rounds: list[int], reads: list[bool], most: int, capacity: int, tmp_path: Path
) -> None:
    data, got = BULK[: sum(rounds)], b""
    with closing(Staged(tmp_path, most, capacity)) as staged:
        at = 0
        for size, read in zip(rounds, reads, strict=False):
            while staged.stage.passed < staged.given:
                # what was passed on can be read before it is counted
                if select.select([staged.stage.outlet.reader], [], [], 0.002)[0]:
                    got += staged.get()
            assert os.write(staged.stage.inlet.writer, data[at : at + size]) == size
            at += size
            staged.given = at
            if read:
                got += staged.get()
        staged.end()
        got += staged.rest()
        assert staged.stage.spill.deepest <= most
        assert staged.stage.passed == len(data)
    assert got == data
