"""The access log: what a line says, and that no reader, full disk or rotation holds up the loop."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import socket
import threading
import time
import tty
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, as_stranger, mounted
from zpipe.errors import TransferError
from zpipe.proxy.access_log import AccessLog
from zpipe.proxy.counters import Access
from zpipe.proxy.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ROOM = 1 << 20

WHOLE = Access(
    began=1795282491.5,
    peer="127.0.0.1:4711",
    listener="127.0.0.1:5432",
    upstream="[::1]:5433",
    up=123,
    down=456789,
    connect=0.0004215,
    lasted=12.3456,
    mover="copy+splice",
    reason="closed",
    mirror="ok,full",
    name="db.example.org",
)
REFUSED = Access(
    began=0.0,
    peer="unix",
    listener="unix:/run/x",
    upstream=None,
    up=0,
    down=0,
    connect=None,
    lasted=0.0,
    mover="",
    reason="no-upstream",
)


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def drive(loop: Loop, condition: Callable[[], object]) -> None:
    """Run the loop until something holds."""
    end = time.monotonic() + LONGEST / 2

    def look() -> None:
        if condition() or time.monotonic() > end:
            loop.stop()
        else:
            loop.later(0.002, look)

    look()
    loop.run()
    assert condition()


def access(number: int) -> Access:
    return Access(number, f"peer-{number}", "l", "u", 0, 0, None, 0.0, "copy", "closed")


def numbers(text: bytes | bytearray) -> list[int]:
    """Return the numbers of whole lines; any other line fails."""
    found = []
    for line in text.decode().splitlines():
        match = re.fullmatch(r"\S+Z peer-(\d+) -> u .* end=closed", line)
        assert match is not None, line
        found.append(int(match[1]))
    return found


@contextmanager
def standard_output(fd: int) -> Iterator[None]:
    """Let fd 1 be something else for a while."""
    kept = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def test_text_is_a_line_for_people_and_grep(tmp_path: Path, loop: Loop) -> None:
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    log.write(WHOLE)
    log.write(REFUSED)
    log.close()
    assert (tmp_path / "log").read_text().splitlines() == [
        "2026-11-21T17:34:51.500Z 127.0.0.1:4711 -> [::1]:5433 up=123 down=456789"
        " connect=0.421ms lasted=12.346s mover=copy+splice end=closed mirror=ok,full"
        " name=db.example.org",
        "1970-01-01T00:00:00.000Z unix -> - up=0 down=0 connect=- lasted=0.000s mover=-"
        " end=no-upstream",
    ]
    assert (log.dropped, log.problem) == (0, None)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o640 & ~umask()


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_json_is_an_object_in_each_line(tmp_path: Path, loop: Loop) -> None:
    log = AccessLog(str(tmp_path / "log"), "json", loop)
    log.write(WHOLE)
    log.write(REFUSED)
    log.close()
    first, second = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert first == {
        "time": "2026-11-21T17:34:51.500Z",
        "peer": "127.0.0.1:4711",
        "listener": "127.0.0.1:5432",
        "upstream": "[::1]:5433",
        "up": 123,
        "down": 456789,
        "connect_ms": 0.421,
        "duration_ms": 12345.6,
        "mover": "copy+splice",
        "reason": "closed",
        "mirror": "ok,full",
        "name": "db.example.org",
    }
    assert second.keys() == first.keys()
    assert (second["upstream"], second["connect_ms"], second["name"]) == (None, None, "")


@given(st.text(st.characters(), max_size=40), st.text(st.characters(), min_size=1, max_size=40))
def test_names_steer_nothing(name: str, upstream: str) -> None:
    """Whatever clients and paths are called: one line, of printing words, from which they come
    back.
    """
    loop = Loop()
    reader, writer = os.pipe()
    try:
        with standard_output(writer):
            for form in ("text", "json"):
                log = AccessLog("-", "json" if form == "json" else "text", loop)
                log.write(
                    Access(0.0, "p", "l", upstream, 0, 0, None, 0.0, "copy", "closed", "", name)
                )
                log.close()
        text, record = os.read(reader, 65536).decode().removesuffix("\n").split("\n")
    finally:
        os.close(reader)
        os.close(writer)
        loop.close()
    assert text.isprintable()
    words = text.split(" ")
    assert words[:3] == ["1970-01-01T00:00:00.000Z", "p", "->"]
    assert words[4:9] == ["up=0", "down=0", "connect=-", "lasted=0.000s", "mover=copy"]
    assert len(words) == (11 if name else 10)
    assert unescaped(words[3]) == upstream
    assert unescaped(words[-1].removeprefix("name=")) == name if name else True
    found = json.loads(record)
    assert (found["name"], found["upstream"]) == (name, upstream)


def unescaped(word: str) -> str:
    """Read escapes as Python does; what is not escaped stays."""
    return re.sub(
        r"\\(?:x..|u....|U........|.)",
        lambda found: found[0].encode().decode("unicode_escape"),
        word,
    )


def test_a_line_appears_by_itself(tmp_path: Path, loop: Loop) -> None:
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    log.write(access(1))
    assert (tmp_path / "log").read_bytes() == b""
    drive(loop, (tmp_path / "log").read_bytes)
    log.write(access(2))
    drive(loop, lambda: numbers((tmp_path / "log").read_bytes()) == [1, 2])
    log.close()


def test_many_lines_do_not_wait(tmp_path: Path, loop: Loop) -> None:
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    for number in range(1200):
        log.write(access(number))
    assert numbers((tmp_path / "log").read_bytes()) == list(range(1000))
    log.close()
    assert numbers((tmp_path / "log").read_bytes()) == list(range(1200))


def test_an_existing_log_is_continued(tmp_path: Path, loop: Loop) -> None:
    (tmp_path / "log").write_bytes(b"old\n")
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    log.write(access(1))
    log.close()
    assert (tmp_path / "log").read_bytes().startswith(b"old\n1970-")


def test_two_processes_may_share_a_file(tmp_path: Path, loop: Loop) -> None:
    one, two = (AccessLog(str(tmp_path / "log"), "text", loop) for _ in range(2))
    for number in range(0, 4000, 2):
        one.write(access(number))
        two.write(access(number + 1))
    one.close()
    two.close()
    assert sorted(numbers((tmp_path / "log").read_bytes())) == list(range(4000))


def test_a_rotated_log_is_begun_anew(tmp_path: Path, loop: Loop) -> None:
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    log.write(access(1))
    (tmp_path / "log").rename(tmp_path / "log.1")
    log.write(access(2))
    log.reopen()
    log.write(access(3))
    log.close()
    assert numbers((tmp_path / "log.1").read_bytes()) == [1, 2]
    assert numbers((tmp_path / "log").read_bytes()) == [3]


def test_the_old_file_goes_on_where_no_new_one_can_be_opened(tmp_path: Path, loop: Loop) -> None:
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs/log"
    log = AccessLog(str(path), "text", loop)
    path.rename(tmp_path / "kept")
    path.parent.rmdir()
    log.reopen()
    assert log.problem == f"{path}: open: No such file or directory"
    log.write(access(1))
    log.close()
    assert numbers((tmp_path / "kept").read_bytes()) == [1]
    assert log.dropped == 0


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path, loop: Loop) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, why in (
        ("no/log", "No such file or directory"),
        ("", "Is a directory"),
        ("fifo", "No such device or address"),  # it has no reader
    ):
        path = f"{tmp_path}/{name}"
        with pytest.raises(TransferError) as raised:
            AccessLog(path, "text", loop)
        assert str(raised.value) == f"{path}: open: {why}"


def ends(kind: str, folder: Path) -> tuple[int, int]:
    """Return the fd of a reader, and one that standard output may be."""
    if kind == "socket":
        a, b = socket.socketpair()
        return a.detach(), b.detach()
    if kind == "terminal":
        reader, writer = os.openpty()
        tty.setraw(writer)
        return reader, writer
    return os.pipe()


def exhaust(reader: int, writer: int) -> None:
    """Let more lines wait than there is room for; check which come, and that it goes on after."""
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    loop = Loop()
    got = bytearray()
    ticks = 0

    def take() -> bytes:
        while select.select([reader], [], [], 0)[0]:
            got.extend(os.read(reader, 65536))
        return bytes(got)

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    with standard_output(writer):
        log = AccessLog("-", "text", loop)
        wide = 2 * ROOM // len("1970-01-01T00:00:00.000Z peer-0 -> u")
        for number in range(wide):
            log.write(access(number))
        log.flush()
        assert 0 < log.dropped < wide
        assert log.problem == "standard output: write: its reader is too slow"
        loop.later(0.01, tick)
        drive(loop, lambda: ticks)  # the loop goes round all the same
        dropped = log.dropped
        drive(loop, lambda: take().count(b"\n") == wide - dropped)
        assert log.dropped == dropped
        found = numbers(got)
        assert found == sorted(found)
        assert found[:1000] == list(range(1000))
        got.clear()
        log.write(access(wide))
        drive(loop, lambda: take().endswith(b"\n"))
        assert numbers(got) == [wide]
        log.close()
        assert log.dropped == dropped
    assert fcntl.fcntl(writer, fcntl.F_GETFL) == flags
    os.write(writer, b"still open")
    loop.close()


@pytest.mark.parametrize("kind", ["pipe", "socket", "terminal"])
def test_a_slow_reader_of_standard_output_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    reader, writer = ends(kind, tmp_path)
    exhaust(reader, writer)
    os.close(reader)
    os.close(writer)


def test_nor_is_one_whose_pipe_belongs_to_another_user(tmp_path: Path) -> None:
    """It cannot be opened anew; whether it takes something is asked before each piece."""
    reader, writer = os.pipe()
    tmp_path.chmod(0o755)

    def work() -> None:
        with pytest.raises(PermissionError):
            os.open(f"/proc/self/fd/{writer}", os.O_WRONLY)
        exhaust(reader, writer)

    as_stranger(tmp_path, work)
    os.close(reader)
    os.close(writer)


def test_what_a_slow_reader_has_not_taken_is_given_to_it_at_the_end(
    tmp_path: Path, loop: Loop
) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    log = AccessLog(str(tmp_path / "fifo"), "text", loop)
    for number in range(3000):
        log.write(access(number))
    got = bytearray()

    def read() -> None:
        while part := os.read(reader, 65536):
            got.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    log.close()
    thread.join(LONGEST)
    os.close(reader)
    assert numbers(got) == list(range(3000))
    assert log.dropped == 0


def test_a_reader_that_has_gone_costs_lines_and_nothing_else(tmp_path: Path, loop: Loop) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(str(tmp_path / "fifo"), "text", loop)
    os.close(reader)
    log.write(access(1))
    log.flush()
    assert (log.dropped, log.problem) == (1, f"{tmp_path}/fifo: write: Broken pipe")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    log.write(access(2))
    log.close()
    assert numbers(os.read(reader, 65536)) == [2]
    os.close(reader)
    assert log.dropped == 1


def test_a_full_disk_costs_lines_and_leaves_the_others_whole(tmp_path: Path, loop: Loop) -> None:
    with mounted("tmpfs", tmp_path / "small", 1 << 20) as folder:
        (folder / "ballast").write_bytes(bytes(960 << 10))
        log = AccessLog(str(folder / "log"), "text", loop)
        for number in range(2000):
            log.write(access(number))
        log.flush()
        assert log.problem == f"{folder}/log: write: No space left on device"
        assert 0 < log.dropped < 2000
        (folder / "ballast").unlink()
        log.write(access(2000))
        log.close()
        text = (folder / "log").read_bytes()
    lines = text.splitlines(keepends=True)
    whole = [line for line in lines if b" end=closed\n" in line]
    assert len(lines) - len(whole) <= 1  # the one at which the disk was full
    assert numbers(whole[-1]) == [2000]
    assert len(whole) + log.dropped == 2001


def test_the_loop_is_left_as_it_was(tmp_path: Path) -> None:
    """No fd stays open, and no timer writes to a file that is closed."""
    loop = Loop()
    before = sorted(os.listdir("/proc/self/fd"))
    log = AccessLog(str(tmp_path / "log"), "text", loop)
    log.write(access(1))
    log.close()
    assert sorted(os.listdir("/proc/self/fd")) == before
    ticks: list[int] = []
    loop.later(0.6, lambda: ticks.append(1))  # later than the batch would have been written
    drive(loop, lambda: ticks)
    assert numbers((tmp_path / "log").read_bytes()) == [1]
    loop.close()
