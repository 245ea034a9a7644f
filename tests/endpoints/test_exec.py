"""Children: their status counts, and none of them is left behind."""

from __future__ import annotations

import os
import shlex
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import (
    Interrupting,
    Meeting,
    read_all,
    ready,
    sink,
    source,
    write_all,
)
from tests.machine import content, zpipe
from zpipe.errors import Interrupted, StalledError, TransferError
from zpipe.kernel.pipes import get_capacity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zpipe.endpoints.contract import End


@pytest.fixture(autouse=True)
def no_child_is_left() -> Iterator[None]:
    yield
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def shell(script: str) -> str:
    return f"exec:sh -c {shlex.quote(script)}"


def first_line(end: End) -> bytes:
    """Read until the child has written a line."""
    line = b""
    while not line.endswith(b"\n"):
        ready(end.fd, 1)
        line += os.read(end.fd, 1)
    return line


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ("echo one two", b"one two\n"),
        ("echo 'one  two' \"three\"", b"one  two three\n"),
        (r"echo a\ b", b"a b\n"),
        ("echo $HOME; echo * | cat > file", b"$HOME; echo * | cat > file\n"),
        ("true", b""),
    ],
)
def test_a_command_is_split_as_a_shell_splits_and_run_without_one(
    command: str, output: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with source(f"exec:{command}") as end:
        assert read_all(end) == output
        end.finish(Meeting())
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("exit 3", "exit status 3"),
        ("kill -KILL $$", "died of SIGKILL"),
        ("kill -PIPE $$", "died of SIGPIPE"),
        ("kill -40 $$", "died of signal 40"),
    ],
)
@pytest.mark.parametrize("is_sink", [False, True])
def test_a_child_that_fails_is_an_error_that_says_how(script: str, how: str, is_sink: bool) -> None:
    text = shell(script)
    with (sink if is_sink else source)(text) as end:
        with pytest.raises(TransferError) as caught:
            end.finish(Meeting())
        assert str(caught.value) == f"{text}: {how}"


def test_a_source_that_was_not_read_to_its_end_may_die_of_sigpipe() -> None:
    with source("exec:yes") as end:
        assert first_line(end) == b"y\n"
        end.finish(Meeting(), complete=False)


def test_a_source_that_failed_before_it_was_left_is_an_error_still() -> None:
    with source(shell("echo part; exec >&-; exit 4")) as end:
        assert first_line(end) == b"part\n"
        with pytest.raises(TransferError, match="exit status 4"):
            end.finish(Meeting(), complete=False)


def test_a_sink_is_waited_for_until_it_has_written_everything(tmp_path: Path) -> None:
    data = content(3_000_000)
    with sink(shell(f"cat > {tmp_path}/part; mv {tmp_path}/part {tmp_path}/whole")) as end:
        write_all(end, data)
        end.finish(Meeting())
    assert (tmp_path / "whole").read_bytes() == data


def test_a_sink_that_takes_no_more_says_why() -> None:
    with sink(shell("exit 7")) as end:
        with pytest.raises(BrokenPipeError):
            while True:
                write_all(end, bytes(4096))
        assert end.last_words(Meeting()) == " (exit status 7)"


def test_a_sink_that_closed_its_input_and_lives_has_no_last_words() -> None:
    with sink(shell("exec <&-; exec sleep 60")) as end:
        with pytest.raises(BrokenPipeError):
            while True:
                write_all(end, bytes(4096))
        assert end.last_words(Meeting()) == ""


def test_the_pipe_is_large_and_does_not_block_us_while_it_blocks_the_child() -> None:
    with source(shell("head -c 3000000 /dev/zero | cat; echo $?")) as end:
        assert not os.get_blocking(end.fd)
        assert get_capacity(end.fd) == end.facts.capacity == 1 << 20
        assert read_all(end) == bytes(3_000_000) + b"0\n"
        end.finish(Meeting())


def test_a_child_keeps_no_end_of_another_open() -> None:
    """An inherited writing end would keep the first child from ever seeing its end."""
    with ExitStack() as stack:
        first = stack.enter_context(sink("exec:cat"))
        stack.enter_context(sink("exec:cat"))
        first.finish(Meeting())


@pytest.mark.parametrize("script", ["exec sleep 60", 'trap "" TERM; echo; exec sleep 60'])
def test_a_child_that_is_abandoned_is_ended_and_reaped(script: str) -> None:
    """By SIGTERM, and by SIGKILL where that is ignored."""
    with source(shell(f"echo $$; {script}")) as end:
        pid = int(first_line(end))
        if "trap" in script:
            first_line(end)
        assert os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(f"/proc/{pid}")


def test_whoever_waits_for_a_child_can_be_interrupted_and_the_child_goes_too() -> None:
    with source(shell("echo $$; exec sleep 60 >&-")) as end:
        pid = int(first_line(end))
        with pytest.raises(Interrupted):
            end.finish(Interrupting())
        assert os.path.exists(f"/proc/{pid}")
    assert not os.path.exists(f"/proc/{pid}")


def test_a_child_that_never_ends_is_given_up_after_the_stall_timeout() -> None:
    with source(shell("exec sleep 60 >&-")) as end:
        assert read_all(end) == b""
        with pytest.raises(StalledError, match=r"wait for its end: stalled for 0\.05 s"):
            end.finish(Meeting(patience=0.05))


def test_a_command_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"#!/bin/sh\n")
    for command, reason in (
        ("/no/such/command", "No such file or directory"),
        (f"{tmp_path}/file", "Permission denied"),
        (str(tmp_path), "Permission denied"),
    ):
        for act in (source, sink):
            with pytest.raises(TransferError) as caught:
                act(f"exec:{command} argument")
            assert str(caught.value) == f"exec:{command} argument: start: {reason}"


def test_a_failed_source_keeps_the_target_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "dst").write_bytes(b"old content")
    done = zpipe("cp", shell("echo new; exit 5"), tmp_path / "dst")
    assert done.returncode == 1
    assert done.stderr.decode() == f"zpipe: {shell('echo new; exit 5')}: exit status 5\n"
    assert (tmp_path / "dst").read_bytes() == b"old content"
    assert os.listdir(tmp_path) == ["dst"]


def test_signals_that_we_ignore_are_not_ignored_by_children() -> None:
    """Python ignores SIGPIPE; a child that did too would write to nobody for ever."""
    with source("exec:grep SigIgn /proc/self/status") as end:
        ignored = int(read_all(end).split()[1], 16)
        assert not ignored >> (signal.SIGPIPE - 1) & 1
        end.finish(Meeting())
