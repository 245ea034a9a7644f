"""One hop under way: what is delivered, what is lost, what has changed, and who is to blame."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.commands.shell import shell
from tests.machine import (
    ZPIPE,
    content,
    environment,
    leftovers,
    missing,
    need_root,
    nobody,
    started,
    until,
)
from tests.machine import zpipe as command
from tests.movers.driver import ready
from zpipe.engine.feedback import Feedback
from zpipe.errors import SourceChanged
from zpipe.kernel.pipes import buffered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zpipe.engine.report import Report

BIG = 4 << 20


class Background:
    """A copy in a thread of its own; `result` waits for it, and raises what it raised."""

    def __init__(self, *operands: str, **wishes: Any):
        self._outcome: list[Report | BaseException] = []
        self._thread = threading.Thread(target=self._work, args=operands, kwargs=wishes)
        self._thread.start()

    def _work(self, *operands: str, **wishes: Any) -> None:
        try:
            self._outcome.append(zpipe.copy(*operands, **wishes))
        except BaseException as error:
            self._outcome.append(error)

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Report:
        self._thread.join(30)
        assert not self._thread.is_alive()
        (outcome,) = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "b").write_bytes(content(BIG))
    os.utime(tmp_path / "b", (0, 0))  # its clock ticks too slowly to tell two writes apart
    return tmp_path


# A source that changes


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 1 << 20)


def rewrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(b"other")


CHANGES: dict[Callable[[Path], None], str] = {
    grow: f"size {BIG} -> {BIG + 4}, mtime",
    cut: f"size {BIG} -> {1 << 20}, mtime",
    rewrite: "mtime",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
@pytest.mark.parametrize("via", ["sendfile", "splice", "plain"])
def test_a_source_that_is_changed_while_it_is_read_is_an_error(
    folder: Path, via: str, change: Callable[[Path], None]
) -> None:
    """The FIFO holds the copy up in the middle: that is when the source changes."""
    copy = Background(str(folder / "b"), str(folder / "fifo"), via=via)
    with open(folder / "fifo", "rb") as fifo:
        got = fifo.read(1)
        change(folder / "b")
        got += fifo.read()
    with pytest.raises(SourceChanged) as raised:
        copy.result()
    assert str(raised.value) == (
        f"{folder}/b: read: the source changed while it was read ({CHANGES[change]});"
        f" {len(got)} bytes were delivered"
    )
    assert raised.value.delivered == len(got) <= BIG


def test_a_source_that_changed_is_not_put_in_place(folder: Path) -> None:
    """The rate holds the copy up; what was there stays."""
    (folder / "x").write_bytes(b"old")
    with started("cp", "--rate-limit", "8M", "b", "x", cwd=folder) as process:
        until(
            lambda: any(path.stat().st_size for path in folder.glob(".x.zpipe-*")),
            "bytes arrive",
        )
        rewrite(folder / "b")
        _, said = process.communicate(timeout=30)
        assert process.returncode == 1
    assert said == (
        b"zpipe: b: read: the source changed while it was read (mtime); nothing was put in place\n"
    )
    assert (folder / "x").read_bytes() == b"old"
    assert not leftovers(folder)


def rename(path: Path) -> None:
    path.rename(path.with_name("b2"))


def link(path: Path) -> None:
    os.link(path, path.with_name("b2"))


def chmod(path: Path) -> None:
    path.chmod(0o600)


@pytest.mark.parametrize("change", [link, chmod, rename])
def test_what_happens_to_the_name_alone_is_no_change(
    folder: Path, change: Callable[[Path], None]
) -> None:
    copy = Background(str(folder / "b"), str(folder / "fifo"))
    with open(folder / "fifo", "rb") as fifo:
        got = fifo.read(1)
        change(folder / "b")
        got += fifo.read()
    assert got == content(BIG)
    assert copy.result().moved == BIG


# Files that are not what their size says


@pytest.mark.parametrize("path", ["/proc/self/maps", "/proc/cpuinfo", "/proc/mounts"])
@pytest.mark.parametrize("sink", ["x", "-"])
def test_a_virtual_file_is_copied_to_its_end(tmp_path: Path, path: str, sink: str) -> None:
    """Its size is 0, and some calls answer 0 to whoever asks."""
    before = lines_of(path)
    done = command("cp", path, sink, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    got = done.stdout if sink == "-" else (tmp_path / "x").read_bytes()
    assert got
    if path == "/proc/mounts":
        # others mount and unmount meanwhile
        assert before & lines_of(path) <= set(got.splitlines())


def lines_of(path: str) -> set[bytes]:
    with open(path, "rb") as file:
        return set(file.read().splitlines())


def test_a_file_of_sysfs_that_claims_a_page(tmp_path: Path) -> None:
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(path):
        missing(f"{path} is not there")
    zpipe.copy(path, str(tmp_path / "x"))
    with open(path, "rb") as file:
        assert (tmp_path / "x").read_bytes() == file.read()


@pytest.mark.parametrize("source", ["null:", "/dev/null", "empty", "zero:?size=0"])
def test_nothing_is_copied_as_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "x").write_bytes(b"old")
    assert command("cp", source, "x", cwd=tmp_path).returncode == 0
    assert (tmp_path / "x").read_bytes() == b""


# Bytes that are lost, and who is to blame


def test_what_was_read_from_a_stream_and_not_delivered_is_counted(folder: Path) -> None:
    """Delivered, lost, and still in the source: together all that was ever there."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fifo = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    beside = os.open(folder / "fifo", os.O_WRONLY | os.O_NONBLOCK)
    copy = Background(f"fd:{reader}", str(folder / "fifo"))
    sent = 0

    def stuck() -> bool:
        """The FIFO has no room, and more was read than it has taken."""
        nonlocal sent
        with suppress(BlockingIOError):
            sent += os.write(writer, bytes(1 << 16))
        full = not ready(beside, write=True)
        return full and sent > buffered(reader) + buffered(fifo)

    until(stuck, "everything on the way is full")
    taken = buffered(fifo)
    for fd in (beside, fifo):
        os.close(fd)
    with pytest.raises(zpipe.TransferError) as raised:
        copy.result()
    os.close(writer)
    with open(reader, "rb") as source:
        lost = sent - taken - len(source.read())
    assert lost > 0
    assert raised.value.delivered == taken
    assert str(raised.value) == (
        f"{folder}/fifo: write: Broken pipe; {taken} bytes were delivered,"
        f" {lost} more were read and are lost"
    )


def test_a_file_loses_nothing(folder: Path) -> None:
    """What was read ahead of a file can be read again: it is not counted as lost."""
    copy = Background(str(folder / "b"), str(folder / "fifo"), via="splice")
    with open(folder / "fifo", "rb", buffering=0) as fifo:
        fifo.read(1000)
    with pytest.raises(zpipe.TransferError, match=r"write: Broken pipe; \d+ bytes were delivered$"):
        copy.result()


@pytest.mark.parametrize("via", ["splice", "plain"])
def test_a_source_that_stalls_is_named(folder: Path, via: str) -> None:
    # it has a writer from the first: that one is late would be another stall
    fifo = os.open(folder / "fifo", os.O_RDWR)
    os.write(fifo, b"something")
    with pytest.raises(zpipe.StalledError) as raised:
        zpipe.copy(str(folder / "fifo"), str(folder / "x"), via=via, stall_timeout=0.05)
    os.close(fifo)
    assert str(raised.value) == (
        f"{folder}/fifo: no data came for 0.05 s; nothing was put in place"
    )
    assert not leftovers(folder)


@pytest.mark.parametrize("via", ["sendfile", "splice", "mapped", "plain"])
def test_a_sink_that_stalls_is_named(folder: Path, via: str) -> None:
    reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(zpipe.StalledError) as raised:
        zpipe.copy(str(folder / "b"), str(folder / "fifo"), via=via, stall_timeout=0.1)
    with open(reader, "rb") as fifo:
        got = len(fifo.read())
    assert str(raised.value) == (
        f"{folder}/fifo: took no data for 0.1 s; {got} bytes were delivered"
    )


def test_a_slow_rate_is_no_stall(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(20_000))
    report = zpipe.copy(
        str(tmp_path / "b"), str(tmp_path / "x"), rate_limit=100_000, stall_timeout=0.01
    )
    assert report.moved == 20_000


def test_bytes_that_trickle_are_no_stall(tmp_path: Path) -> None:
    """Each comes in time, all of them together do not: one at each word about the progress."""
    reader, writer = os.pipe()
    patience = 2.0
    end = time.monotonic() + 1.2 * patience
    sent = 0

    class Dripping(Feedback):
        interval = 0.05

        def progress(self, hop: Any) -> None:
            nonlocal sent
            if time.monotonic() < end:
                sent += os.write(writer, b"x")
            else:
                os.close(writer)

    report = zpipe.copy(
        f"fd:{reader}", str(tmp_path / "x"), feedback=Dripping(), stall_timeout=patience
    )
    os.close(reader)
    assert report.moved == sent > 2


# Movers that cannot begin


def test_when_fds_run_out_the_next_mover_goes_on(tmp_path: Path) -> None:
    """With one fd after the other taken away: the same bytes, or one line that says why not."""
    data = content(100_000)
    fell_back = []
    for limit in range(6, 14):
        done = command(
            *("cp", "--json", "-", "x"),
            data=data,
            cwd=tmp_path,
            before=shell(f'ulimit -n {limit}; exec "$@"'),
        )
        records = [json.loads(line) for line in done.stderr.splitlines()]
        if done.returncode == 0:
            assert (tmp_path / "x").read_bytes() == data
            (tmp_path / "x").unlink()
            fell_back += [each for each in records if each["type"] == "fallback"]
        else:
            assert "Too many open files" in records[-1]["text"]
        assert os.listdir(tmp_path) == []
    assert {(each["mover"], each["call"], each["errno"]) for each in fell_back} == {
        ("splice", "begin", 24)
    }


def test_a_mover_that_was_asked_for_and_cannot_begin_is_the_end(tmp_path: Path) -> None:
    """A user without privileges may not have pipes beyond a quota; this one has no fds left."""
    for limit in range(6, 14):
        done = command(
            *("cp", "--via", "splice", "-", "x"),
            data=content(1000),
            cwd=tmp_path,
            before=shell(f'ulimit -n {limit}; exec "$@"'),
        )
        if b"begin" in done.stderr:
            assert done.returncode == 1
            assert done.stderr == (
                b"zpipe: standard input -> x: --via splice: begin:"
                b" Too many open files (EMFILE); nothing was put in place\n"
            )
            break
    else:
        pytest.fail("no number of fds was just one too few")
    assert os.listdir(tmp_path) == []


def test_a_user_without_privileges_copies_as_root_does(folder: Path) -> None:
    words = nobody()
    folder.chmod(0o777)
    (folder / "b").chmod(0o644)
    for operands in (("b", "x"), ("b", "-"), ("-", "y")):
        with open(folder / "b", "rb") as source:
            done = command("cp", *operands, cwd=folder, before=words, stdin=source)
        assert (done.returncode, done.stderr) == (0, b"")
        assert operands != ("b", "-") or done.stdout == content(BIG)
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == content(BIG)


# What a copy costs in memory

SIZE = 96 << 20
MOST = 40 << 10  # KiB

# A process of its own: ru_maxrss of a child begins with what its parent held before exec
MEASURE = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(child.pid, 0)
print(os.waitstatus_to_exitcode(status), used.ru_maxrss)
"""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A big file whose blocks are all there, so that none of the movers can skip holes."""
    folder = tmp_path_factory.mktemp("heavy")
    with open(folder / "big", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, SIZE)
    yield folder
    (folder / "big").unlink()


@pytest.mark.parametrize(
    "words",
    [
        *(
            [f"--via={name}", "big", "x"]
            for name in ("parallel", "copy_range", "sendfile", "splice", "mapped", "direct")
        ),
        ["--via=plain", "big", "x"],
        ["--via=sendfile", "big", "exec:cat"],
        ["--via=splice", f"zero:?size={SIZE}", "exec:cat"],
        ["--via=direct", f"zero:?size={SIZE}", "x"],
        ["--json", "--stable", "big", "exec:cat"],
    ],
    ids=" ".join,
)
def test_memory_stays_small(heavy: Path, words: list[str]) -> None:
    if words[0] == "--via=parallel" and len(os.sched_getaffinity(0)) < 2:
        missing("a second processor")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, "sh", "-c", '"$@" >/dev/null', "sh", *ZPIPE, "cp", *words],
        cwd=heavy,
        env=environment(),
        capture_output=True,
        check=True,
    )
    if b"neither side is on a disk" in done.stderr:
        missing("temporary files are not on a disk")
    status, resident = map(int, done.stdout.split())
    assert status == 0, done.stderr
    assert 5 << 10 < resident < MOST
    if words[-1] == "x":
        assert (heavy / "x").stat().st_size == SIZE
        (heavy / "x").unlink()


def test_sharing_blocks_takes_no_memory_either(sharing: Path) -> None:
    need_root()
    with open(sharing / "big", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100 << 20)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *ZPIPE, "cp", "--via=reflink", "big", "x"],
        cwd=sharing,
        env=environment(),
        capture_output=True,
        check=True,
    )
    status, resident = map(int, done.stdout.split())
    assert (status, (sharing / "x").stat().st_size) == (0, 100 << 20)
    assert resident < MOST
    for name in ("big", "x"):
        (sharing / name).unlink()


# Telling


def test_progress_and_status_are_told_while_bytes_flow(folder: Path) -> None:
    seen: list[tuple[int, float]] = []

    class Told(Feedback):
        interval = 0.01

        def progress(self, hop: Any) -> None:
            seen.append((hop.moved, hop.seconds))

    zpipe.copy(str(folder / "b"), "null:", feedback=Told(), rate_limit=8 << 20)
    assert len(seen) > 2
    assert seen == sorted(seen)
    assert all(0 <= moved <= BIG for moved, _ in seen)
