"""Signals: whatever zpipe is doing, it tidies up and dies by the signal that it was sent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

import zpipe as library
from tests.commands.shell import BIG, SMALL, names, shell
from tests.machine import (
    content,
    missing,
    started,
    strace,
    until,
    until_listening_to_signals,
    zpipe,
)
from zpipe.engine.stop import Signals, Stop
from zpipe.errors import Interrupted

if TYPE_CHECKING:
    from pathlib import Path

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    (tmp_path / "x").write_bytes(b"old")
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def ended_by(process: subprocess.Popen[bytes], number: signal.Signals) -> str:
    """Send a signal; return the line with which the process takes its leave.

    Before it there may be the port that was chosen.
    """
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == -number, said
    chosen = rb"(zpipe: tcp-listen.*: listening on .*\n)?"
    last = rb"zpipe: .*ended by %s.*\n" % number.name.encode()
    assert re.fullmatch(chosen + last, said), said
    return said.decode()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


WAITING = {
    "a FIFO that nobody writes": ["fifo", "x"],
    "a FIFO that nobody reads": ["b", "fifo"],
    "a FIFO that nobody reads, by pipe:": ["b", "pipe:fifo"],
    "a connection by TCP": ["tcp-listen://127.0.0.1:0", "x"],
    "a connection by a UNIX socket": ["unix-listen:socket", "x"],
    "a rate of a byte a second": ["--rate-limit", "1", "b", "x"],
    "a child that says nothing": ["exec:sleep 60", "x"],
    "a child that never ends": ["b", "exec:sh -c 'cat >/dev/null; exec sleep 60'"],
    "a child that takes nothing": ["zero:", "exec:sleep 60"],
    "standard input": ["-", "x"],
}


@pytest.mark.parametrize("number", ENDING, ids=lambda number: str(number.name))
@pytest.mark.parametrize("words", WAITING.values(), ids=WAITING.keys())
def test_while_it_waits(folder: Path, words: list[str], number: signal.Signals) -> None:
    before = names(folder)
    reader, writer = os.pipe()
    with started("cp", *words, cwd=folder, stdin=reader) as process:
        until_listening_to_signals(process)
        ended_by(process, number)
    os.close(reader)
    os.close(writer)
    assert names(folder) == before
    assert (folder / "x").read_bytes() == b"old"


def test_while_a_reader_takes_nothing(folder: Path) -> None:
    """What was delivered is told, since it cannot be taken back."""
    (folder / "b").write_bytes(bytes(4 << 20))
    with started("cp", "b", "fifo", cwd=folder) as process, open(folder / "fifo", "rb") as fifo:
        got = len(fifo.read(1))
        text = ended_by(process, signal.SIGTERM)
        got += len(fifo.read())
    assert text == f"zpipe: b -> fifo: ended by SIGTERM; {got} bytes were delivered\n"


@pytest.mark.parametrize(
    "mover", ["parallel", "copy_range", "sendfile", "splice", "mapped", "plain"]
)
def test_while_it_copies_a_big_file(folder: Path, mover: str) -> None:
    if mover == "parallel" and len(os.sched_getaffinity(0)) < 2:
        missing("a second processor")
    with open(folder / "big", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 30)
    before = names(folder)
    with started("cp", "--via", mover, "big", "x", cwd=folder) as process:
        until(
            lambda: any(path.stat().st_size for path in folder.glob(".x.zpipe-*")),
            "bytes arrive",
        )
        text = ended_by(process, signal.SIGINT)
    assert text == "zpipe: big -> x: ended by SIGINT; nothing was put in place\n"
    assert names(folder) == before
    (folder / "big").unlink()
    assert (folder / "x").read_bytes() == b"old"


def test_while_it_copies_without_end_to_a_file(folder: Path) -> None:
    with started("cp", "zero:", "x", cwd=folder) as process:
        until(lambda: list(folder.glob(".x.zpipe-*")), "the temporary file is there")
        until_listening_to_signals(process)
        ended_by(process, signal.SIGTERM)
    assert names(folder) == ["b", "fifo", "x"]


def test_children_are_told_to_end_and_reaped(folder: Path) -> None:
    command = "exec:sh -c 'echo $$ >pid; exec sleep 60'"
    with started("cp", command, "x", cwd=folder) as process:
        until(lambda: (folder / "pid").exists() and (folder / "pid").read_text(), "the child runs")
        until_listening_to_signals(process)
        child = int((folder / "pid").read_text())
        ended_by(process, signal.SIGINT)
        assert gone(child)


def test_a_second_signal_does_not_disturb_the_tidying_up(folder: Path) -> None:
    """Users are impatient. The child that will not go is killed all the same."""
    stubborn = "trap 'echo asked >told' TERM; echo $$ >pid; while :; do sleep 0.05; done"
    with started("cp", f'exec:sh -c "{stubborn}"', "x", cwd=folder) as process:
        pid = folder / "pid"
        until(lambda: pid.exists() and pid.read_text(), "the child runs")
        until_listening_to_signals(process)
        child = int(pid.read_text())
        process.send_signal(signal.SIGINT)
        until((folder / "told").exists, "the child is asked to end")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGINT
        assert gone(child)
    assert names(folder) == ["b", "fifo", "pid", "told", "x"]


@pytest.mark.parametrize("name", ["HUP", "INT", "TERM"])
def test_a_signal_that_is_ignored_stays_ignored(folder: Path, name: str) -> None:
    """As under nohup, and in the background of a plain shell."""
    script = shell(f"trap '' {name}; exec \"$@\"")
    with started("cp", "fifo", "x", cwd=folder, before=script) as process:
        until_listening_to_signals(process)
        process.send_signal(signal.Signals[f"SIG{name}"])
        (folder / "fifo").write_bytes(content(BIG))
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
    assert (folder / "x").read_bytes() == content(BIG)


def test_a_terminal_that_hangs_up_ends_the_copy(folder: Path) -> None:
    """The kernel sends SIGHUP to the session whose terminal is closed."""
    import fcntl
    import termios

    ours, theirs = os.openpty()

    def own_terminal() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    from tests.machine import ZPIPE, environment

    process = subprocess.Popen(
        [*ZPIPE, "cp", "fifo", "x"],
        stdin=theirs,
        stderr=theirs,
        cwd=folder,
        env=environment(),
        preexec_fn=own_terminal,  # noqa: PLW1509
    )
    os.close(theirs)
    until_listening_to_signals(process)
    os.close(ours)
    assert process.wait(30) == -signal.SIGHUP
    assert names(folder) == ["b", "fifo", "x"]


@pytest.mark.parametrize("number", ENDING, ids=lambda number: str(number.name))
@pytest.mark.parametrize(("size", "call"), [(SMALL, "write"), (BIG, "copy_file_range")])
def test_a_signal_in_the_middle_leaves_all_or_nothing(
    folder: Path, size: int, call: str, number: signal.Signals
) -> None:
    """At the very call that fills the temporary file; the short way has no handlers, but a mask."""
    (folder / "source").write_bytes(content(size))
    inject = f"inject={call}:signal={number.name}:when=1"
    words = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
    done = zpipe("cp", "source", "x", cwd=folder, before=words)
    assert done.returncode == -number
    assert names(folder) == ["b", "fifo", "source", "x"]
    assert (folder / "x").read_bytes() in (b"old", content(size))


# In this process


def test_handlers_and_wakeup_are_as_they_were_afterwards() -> None:
    numbers = [*ENDING, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    with Signals() as stop:
        assert stop.wakeup >= 0
        assert signal.getsignal(signal.SIGTERM) not in before
    assert stop.wakeup == -1
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(wakeup) == wakeup


@pytest.mark.parametrize("number", ENDING, ids=lambda number: str(number.name))
def test_a_signal_is_noted_and_raised_at_the_next_look(number: signal.Signals) -> None:
    with Signals() as stop:
        stop.check()
        signal.raise_signal(number)
        assert os.read(stop.wakeup, 10) == bytes([number])
        with pytest.raises(Interrupted) as raised:
            stop.check()
    assert (raised.value.signum, raised.value.exit_code) == (number, 128 + number)


def test_a_second_one_does_not_wait_for_a_look_and_a_third_is_too_late() -> None:
    with Signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted) as raised:
            stop.check()
    assert raised.value.signum == signal.SIGTERM


def test_a_request_that_was_heard_is_not_raised_again_but_the_next_one_is() -> None:
    """So that what was read can be delivered, unless the user is impatient."""
    with Signals() as stop:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            stop.check()
        stop.heard()
        stop.check()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted) as raised:
            stop.check()
        assert raised.value.signum == signal.SIGTERM
        with pytest.raises(Interrupted):
            stop.check()
        # a third one does not disturb the tidying up
        signal.raise_signal(signal.SIGINT)
    assert stop.wakeup == -1


def test_a_library_has_nothing_to_hear() -> None:
    stop = Stop()
    stop.heard()
    stop.check()
    assert not stop.status_wanted


def test_a_word_is_asked_for_by_sigusr1() -> None:
    with Signals() as stop:
        signal.raise_signal(signal.SIGUSR1)
        assert stop.status_wanted
        stop.check()


def test_a_library_leaves_signals_alone() -> None:
    """By default nobody is listened to, so a copy can run in any thread."""
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        seen.append(library.copy("zero:?size=100000", "null:").moved)
        seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [100_000, before]
    assert Stop().wakeup == -1
