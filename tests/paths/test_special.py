"""Paths that are special: what appends, what only looks like a file, what takes nothing."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from tests.machine import content, missing, zpipe
from tests.paths.test_pairs import carried
from tests.paths.tracing import run
from zpipe.movers import MOVERS

if TYPE_CHECKING:
    from pathlib import Path

DATA = content(300_001)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(DATA)
    return path


@pytest.mark.parametrize("size", [1, 32 << 10, (32 << 10) + 1, 1 << 20])
def test_small_files_are_read_and_written(size: int, tmp_path: Path) -> None:
    """Up to 32 KiB nothing else pays; above it, the kernel copies."""
    path, sink = tmp_path / "source", tmp_path / "sink"
    path.write_bytes(content(size))
    done = run(path, sink, log=tmp_path / "log")
    assert done.status == 0
    assert sink.read_bytes() == path.read_bytes()
    assert (done.record("hop")["mover"] == "plain") == (size <= 32 << 10)
    carried(done, size)


def test_appending_standard_output(source: Path, tmp_path: Path) -> None:
    """`>>`: neither splice nor sendfile will do, and what is there stays."""
    sink = tmp_path / "sink"
    sink.write_bytes(b"before")
    fd = os.open(sink, os.O_WRONLY | os.O_APPEND)
    try:
        done = run(source, "-", log=tmp_path / "log", stdout=fd)
    finally:
        os.close(fd)
    assert done.status == 0
    assert sink.read_bytes() == b"before" + DATA
    assert done.record("hop")["mover"] == "plain"
    carried(done, len(DATA))


def test_standard_output_in_the_middle_of_a_file(source: Path, tmp_path: Path) -> None:
    """Somebody has written a header; whoever comes next goes on behind our bytes."""
    sink = tmp_path / "sink"
    sink.write_bytes(b"#" * 400_000)
    fd = os.open(sink, os.O_RDWR)
    try:
        os.write(fd, b"header")
        assert run(source, "-", stdout=fd).status == 0
        os.write(fd, b"footer")
    finally:
        os.close(fd)
    whole = b"header" + DATA + b"footer"
    assert sink.read_bytes() == whole + b"#" * (400_000 - len(whole))


def test_standard_input_in_the_middle_of_a_file(source: Path, tmp_path: Path) -> None:
    """Another program has read the first line; the next one finds what we have left."""
    sink = tmp_path / "sink"
    fd = os.open(source, os.O_RDONLY)
    try:
        os.read(fd, 1000)
        assert run("--length", "100000", "-", sink, stdin=fd).status == 0
        assert os.read(fd, 10) == DATA[101_000:101_010]
    finally:
        os.close(fd)
    assert sink.read_bytes() == DATA[1000:101_000]


@pytest.mark.parametrize("path", ["/proc/version", "/proc/self/maps", "/proc/cpuinfo"])
@pytest.mark.parametrize("sink", ["file", "-"])
def test_files_of_proc(path: str, sink: str, tmp_path: Path) -> None:
    """Their size is 0, and only their end tells it."""
    target = tmp_path / "sink"
    done = run(path, target if sink == "file" else "-", log=tmp_path / "log")
    assert done.status == 0, done.errors
    got = target.read_bytes() if sink == "file" else done.output
    assert len(got) == done.record("end")["bytes"] > 0
    if path == "/proc/version":
        with open(path, "rb") as file:
            assert got == file.read()
    assert done.record("hop")["mover"] == "plain"
    carried(done, len(got))


def test_a_file_of_sys(tmp_path: Path) -> None:
    """The size is said to be a page, whatever it holds."""
    path = "/sys/kernel/mm/transparent_hugepage/enabled"
    if not os.path.exists(path):
        missing(f"{path} is not there")
    sink = tmp_path / "sink"
    for words in ((), ("--no-via", "reflink")):
        assert zpipe("cp", *words, path, sink).returncode == 0
        with open(path, "rb") as file:
            assert sink.read_bytes() == file.read() != b""


@pytest.mark.parametrize("mover", sorted(set(MOVERS) - {"plain", "parallel"}))
def test_no_quick_way_through_proc(mover: str, tmp_path: Path) -> None:
    done = zpipe("cp", "--via", mover, "/proc/cpuinfo", tmp_path / "sink")
    assert done.returncode == 2
    assert done.stderr.startswith(f"zpipe: cp: --via {mover}: ".encode())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("words", [("/dev/null",), ("null:",)])
def test_an_empty_source(words: tuple[str], tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    sink.write_bytes(b"old")
    done = run(*words, sink, log=tmp_path / "log")
    assert (done.status, done.record("end")["bytes"]) == (0, 0)
    assert sink.read_bytes() == b""
    carried(done, 0)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "source").touch()
    done = run(tmp_path / "source", "-")
    assert (done.status, done.output) == (0, b"")


def test_a_device_of_zeros_up_to_a_length(tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    done = run("--length", "1M", "/dev/zero", sink, log=tmp_path / "log")
    assert (done.status, done.record("hop")["mover"]) == (0, "splice")
    assert sink.read_bytes() == bytes(1 << 20)
    carried(done, 1 << 20)


def test_a_sink_that_is_always_full(source: Path, tmp_path: Path) -> None:
    """/dev/full answers splice with EINVAL: only a write says what it is there to say."""
    done = run(source, "/dev/full", log=tmp_path / "log")
    assert done.status == 1
    assert done.errors == (
        "zpipe: /dev/full: write: No space left on device; 0 bytes were delivered\n"
    )
    assert done.record("error")["errno"] == 28
    assert done.record("error")["bytes"] == 0
    assert done.moved("splice", "sendfile") == 0


def udp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two UDP sockets over loopback that are connected to each other."""
    left, right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    for end in (left, right):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        end.bind(("127.0.0.1", 0))
    left.connect(right.getsockname())
    right.connect(left.getsockname())
    return left, right


def test_datagrams_keep_their_boundaries(tmp_path: Path) -> None:
    messages = [b"one", b"two" * 100, b"x" * 1400, b"y" * 9000]
    left, right = udp_pair()
    near, far = udp_pair()
    with left, right, near, far:
        for message in messages:
            left.send(message)
        done = run(
            *("--length", str(sum(map(len, messages)))),
            *(f"fd:{right.fileno()}", f"fd:{near.fileno()}"),
            log=tmp_path / "log",
            pass_fds=[right.fileno(), near.fileno()],
        )
        assert done.status == 0, done.errors
        far.settimeout(10)
        assert [far.recv(1 << 16) for _ in messages] == messages
    assert done.record("hop")["mover"] == "plain"
    assert done.record("start")["refused"]["splice"] != ""
    carried(done, sum(map(len, messages)))


def test_a_file_becomes_datagrams_that_fit_a_frame(source: Path, tmp_path: Path) -> None:
    near, far = udp_pair()
    with near, far:
        # few enough for the receiver's buffer: UDP drops what does not fit
        words = ("--length", "20000", source, f"fd:{near.fileno()}")
        done = run(*words, pass_fds=[near.fileno()])
        assert done.status == 0, done.errors
        far.settimeout(10)
        got = [far.recv(1 << 16) for _ in range(-(-20_000 // 1400))]
    assert b"".join(got) == DATA[:20_000]
    assert {len(message) for message in got[:-1]} == {1400}


@pytest.mark.parametrize("mover", sorted(set(MOVERS) - {"reflink", "parallel"}))
def test_a_mover_that_is_asked_for_does_it(mover: str, source: Path, tmp_path: Path) -> None:
    sink = tmp_path / "sink"
    done = run("--via", mover, source, sink, log=tmp_path / "log")
    if done.status and "O_DIRECT" in done.errors:
        missing("the temporary folder takes no O_DIRECT")
    assert done.status == 0, done.errors
    assert sink.read_bytes() == DATA
    assert done.record("hop")["mover"] == mover
    carried(done, len(DATA))


def test_reflink_that_is_asked_for_does_it(sharing: Path, tmp_path: Path) -> None:
    path, sink = sharing / f"{tmp_path.name}-source", sharing / f"{tmp_path.name}-sink"
    path.write_bytes(DATA)
    done = run("--via", "reflink", path, sink, log=tmp_path / "log")
    assert done.status == 0, done.errors
    assert sink.read_bytes() == DATA
    carried(done, len(DATA))


def test_two_threads_carry_a_big_file(tmp_path: Path) -> None:
    """Asked for by its size alone, where two processors may be used."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("only one processor may be used")
    path, sink = tmp_path / "source", tmp_path / "sink"
    with open(path, "wb") as file:
        for seed in range(64):
            file.write(content(1 << 20, seed))
    done = run(path, sink, log=tmp_path / "log")
    assert done.status == 0, done.errors
    if done.record("hop")["mover"] != "parallel":
        assert "parallel" in done.record("start")["refused"], "or blocks are shared here"
    else:
        threads = {call.pid for call in done.calls if call.name == "pwrite64"}
        assert len(threads) == 2
    carried(done, 64 << 20)
    with open(path, "rb") as a, open(sink, "rb") as b:
        assert a.read() == b.read()


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (1, 40_000), (4096, 65_536), (299_999, 9)])
@pytest.mark.parametrize("mover", ["copy_range", "sendfile", "splice", "mapped", "plain"])
def test_a_part_of_a_file(
    mover: str, offset: int, length: int, source: Path, tmp_path: Path
) -> None:
    sink = tmp_path / "sink"
    words = ("--offset", str(offset), "--length", str(length))
    done = zpipe("cp", "--via", mover, *words, source, sink)
    assert done.returncode == 0, done.stderr
    assert sink.read_bytes() == DATA[offset:][:length]


def test_the_flags_of_inherited_fds_are_not_changed(tmp_path: Path) -> None:
    """They are shared with whoever handed them over: a shell, or the program after us."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    reader, writer = os.pipe()
    fd = os.open(source, os.O_RDONLY)
    try:
        before = [os.get_blocking(end) for end in (reader, writer, fd)]
        assert run("--length", "60000", "-", "-", stdin=fd, stdout=writer).status == 0
        assert [os.get_blocking(end) for end in (reader, writer, fd)] == before
        assert os.read(reader, 60_000) == DATA[:60_000]
    finally:
        for end in (reader, writer, fd):
            os.close(end)
