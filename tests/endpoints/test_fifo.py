"""FIFOs: each side waits for the other, and can be called back from waiting."""

from __future__ import annotations

import errno
import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import Interrupting, Meeting, ready, sink, source, write_all
from tests.machine import LONGEST, as_stranger, started
from zpipe.errors import Interrupted, StalledError, TransferError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo", 0o666)
    return tmp_path / "fifo"


def open_other(path: Path, flags: int, opened: list[int]) -> None:
    opened.append(os.open(path, flags | os.O_NONBLOCK))


def test_a_source_waits_for_its_first_writer(fifo: Path) -> None:
    """Without the wait the first read would say that the source has ended."""
    opened: list[int] = []

    def write() -> None:
        open_other(fifo, os.O_WRONLY, opened)
        os.write(opened[0], b"data")

    waiter = Meeting(write)
    with source(f"pipe:{fifo}", waiter) as end:
        assert waiter.acts == ["wait for a writer"]
        assert os.read(end.fd, 9) == b"data"
        with pytest.raises(BlockingIOError):
            os.read(end.fd, 9)
        os.close(opened[0])
        assert os.read(end.fd, 9) == b""


def test_a_writer_that_leaves_without_a_byte_is_an_end(fifo: Path) -> None:
    def come_and_go() -> None:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    with source(f"pipe:{fifo}", Meeting(come_and_go)) as end:
        assert os.read(end.fd, 9) == b""


def test_a_sink_waits_for_its_reader(fifo: Path) -> None:
    opened: list[int] = []
    waiter = Meeting(lambda: None, lambda: open_other(fifo, os.O_RDONLY, opened))
    with sink(f"pipe:{fifo}", waiter) as end:
        assert waiter.acts == ["wait for a reader", "wait for a reader"]
        write_all(end, b"data")
        assert os.read(opened[0], 9) == b"data"
        end.finish(waiter)
    assert os.read(opened[0], 9) == b""
    os.close(opened[0])


def test_a_reader_that_sleeps_in_its_open_is_found(fifo: Path) -> None:
    """As `cat fifo` does: it has no fd yet, and a writer that does not block finds it there."""
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    with sink(f"pipe:{fifo}") as end:
        write_all(end, b"data")
    reader.join()
    assert got == [b"data"]


def test_a_sink_whose_reader_is_there_does_not_wait(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        waiter = Meeting()
        sink(f"pipe:{fifo}", waiter).close()
        assert waiter.acts == []
    finally:
        os.close(reader)


@pytest.mark.parametrize("is_sink", [False, True])
def test_who_waits_can_be_interrupted(is_sink: bool, fifo: Path) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(Interrupted):
        (sink if is_sink else source)(f"pipe:{fifo}", Interrupting())
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("is_sink", [False, True])
def test_who_waits_gives_up_after_the_stall_timeout(is_sink: bool, fifo: Path) -> None:
    who = "reader" if is_sink else "writer"
    with pytest.raises(StalledError, match=f"fifo: wait for a {who}: stalled for 0.05 s"):
        (sink if is_sink else source)(f"pipe:{fifo}", Meeting(patience=0.05))


@pytest.mark.parametrize("is_sink", [False, True])
def test_the_program_that_waits_dies_of_sigint(is_sink: bool, fifo: Path) -> None:
    """SIGUSR1 makes it say that it waits; without a handler yet, it would be killed by it."""
    operands = ("null:", f"pipe:{fifo}") if is_sink else (f"pipe:{fifo}", "null:")
    with started("cp", *operands) as process:
        assert process.stderr is not None
        while not handles(process.pid, signal.SIGUSR1):
            assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        ready(process.stderr.fileno(), 1)
        assert b": wait for a " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST) == -signal.SIGINT


def handles(pid: int, number: int) -> bool:
    """Tell whether a process has a handler for a signal."""
    with open(f"/proc/{pid}/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_fifo_that_vanishes_while_its_reader_is_awaited_is_an_error(fifo: Path) -> None:
    with pytest.raises(TransferError, match="fifo: open: No such file or directory"):
        sink(f"pipe:{fifo}", Meeting(fifo.unlink))


def test_a_fifo_that_only_others_may_read_can_be_waited_for(fifo: Path) -> None:
    fifo.chmod(0o222)
    fifo.parent.chmod(0o755)

    def check() -> None:
        with pytest.raises(Interrupted):
            sink("pipe:fifo", Interrupting())
        with pytest.raises(TransferError, match="pipe:fifo: open: Permission denied"):
            source("pipe:fifo")

    as_stranger(fifo.parent, check)


def test_what_is_no_fifo_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    for act in (source, sink):
        with pytest.raises(TransferError, match="file: open: is not a FIFO"):
            act(f"pipe:{tmp_path}/file")
        with pytest.raises(TransferError, match="none: open: No such file or directory"):
            act(f"pipe:{tmp_path}/none")
    assert (tmp_path / "file").read_bytes() == b"data"


# Pipes by the names that a shell makes of >(COMMAND)


def at(fd: int) -> str:
    """Return the path that leads to an fd of this process."""
    return f"/dev/fd/{fd}"


@pytest.mark.parametrize("form", ["pipe:{}", "{}", "file:{}"])
def test_a_pipe_by_the_number_of_its_fd(form: str) -> None:
    reader, writer = os.pipe()
    try:
        with sink(form.format(at(writer))) as end:
            write_all(end, b"data")
        assert os.read(reader, 9) == b"data"
        os.write(writer, b"more")
        with source(form.format(at(reader))) as end:
            assert os.read(end.fd, 9) == b"more"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("form", ["pipe:{}", "{}", "file:{}"])
def test_a_pipe_without_a_name_whose_reader_has_gone_is_not_waited_for(form: str) -> None:
    """Nobody else could ever open it: that it has no reader is for good.

    The kernel opens it all the same, and tells at the first write (fifo_open, Linux 3.10).
    """
    reader, writer = os.pipe()
    os.close(reader)
    waiter = Meeting()
    text = form.format(at(writer))
    try:
        with (
            pytest.raises((TransferError, BrokenPipeError)) as raised,
            sink(text, waiter) as end,
        ):
            os.write(end.fd, b"data")
    finally:
        os.close(writer)
    assert getattr(raised.value, "errno", None) == errno.EPIPE
    assert waiter.acts == []


def test_a_fifo_with_a_name_is_waited_for_also_by_the_number_of_an_fd(fifo: Path) -> None:
    """Somebody may open it by its name."""
    writer = os.open(fifo, os.O_RDWR)
    os.close(writer)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY)
    os.close(reader)
    opened: list[int] = []
    waiter = Meeting(lambda: open_other(fifo, os.O_RDONLY, opened))
    try:
        with sink(f"pipe:{at(writer)}", waiter) as end:
            write_all(end, b"data")
        assert waiter.acts == ["wait for a reader"]
        assert os.read(opened[0], 9) == b"data"
    finally:
        for fd in (*opened, writer):
            os.close(fd)


def test_a_symbolic_link_to_a_fifo_is_waited_for(fifo: Path) -> None:
    link = fifo.with_name("link")
    link.symlink_to(fifo)
    with pytest.raises(StalledError, match="link: wait for a reader"):
        sink(f"pipe:{link}", Meeting(patience=0.05))
