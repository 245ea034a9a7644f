"""Children: their status counts, and none of them is left behind."""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
import threading
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
from zpipe.endpoints import kind_of, parse
from zpipe.endpoints.contract import Opening
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


# Both ways


def both(text: str, waiter: Meeting | None = None) -> tuple[End, End]:
    """Open a process whose output is read and whose input is written: source and sink."""
    endpoint = parse(text, sink=True)
    return kind_of(endpoint.kind).open_both(endpoint, Opening(waiter or Meeting()))


def test_what_goes_in_comes_out_and_it_is_one_process() -> None:
    data = content(3_000_000)
    source, sink = both("exec:cat")
    with source, sink:
        assert source.process is not None
        assert source.process is sink.process
        assert not os.get_blocking(source.fd) and not os.get_blocking(sink.fd)

        def feed() -> None:
            write_all(sink, data)
            sink.finish(Meeting())

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert read_all(source) == data
        feeder.join()
        process = source.process
        assert process.status is None, "nobody has waited for it"
        source.finish(Meeting())
        assert process.status == 0


def test_the_sink_does_not_wait_for_a_process_that_still_writes() -> None:
    waiter = Meeting()
    source, sink = both(shell("cat >/dev/null; exec yes"))
    with source, sink:
        sink.finish(waiter)
        assert not waiter.acts
        assert first_line(source) == b"y\n"
        source.finish(Meeting(), complete=False)


@pytest.mark.parametrize("how", ["close", "cut"])
@pytest.mark.parametrize(
    "script",
    [
        "exec cat",
        "trap '' TERM; cat",
        # in the background a shell gives /dev/null to whoever is not given another input
        "exec 3<&0; trap 'cat; exit 0' TERM; cat <&3 & wait; exit 0",
        "cat; exit 5",
    ],
)
def test_an_input_that_breaks_off_is_no_good_end_whatever_becomes_of_it(
    script: str, how: str
) -> None:
    source, sink = both(shell(script))
    with source, sink:
        write_all(sink, b"a part")
        getattr(sink, how)()
        with pytest.raises(TransferError) as caught:
            source.finish(Meeting())
    assert str(caught.value) == f"{shell(script)}: its input broke off"
    assert caught.value.consequence, "why is told by whoever cut it"


def test_a_process_that_ended_well_before_its_input_did_had_enough() -> None:
    source, sink = both("exec:head -c 3")
    with source, sink:
        write_all(sink, b"enough")
        assert read_all(source) == b"eno"
        source.finish(Meeting())
        assert source.process is not None
        assert source.process.status == 0


def test_a_process_that_failed_is_told_by_the_source_alone() -> None:
    source, sink = both(shell("cat >/dev/null; exit 3"))
    with source, sink:
        sink.finish(Meeting())
        with pytest.raises(TransferError, match="exit status 3") as caught:
            source.finish(Meeting())
    assert not caught.value.consequence


def test_last_words_and_a_finish_at_the_same_time_agree() -> None:
    """Both ask for the end of one child, from two threads; each gets to know it."""
    for _ in range(100):
        source, sink = both(shell("exit 7"))
        words: list[str] = []

        def ask(end: End = sink, words: list[str] = words) -> None:
            words.append(end.last_words(Meeting()))

        asking = threading.Thread(target=ask)
        asking.start()
        with source, sink:
            with pytest.raises(TransferError, match="exit status 7"):
                source.finish(Meeting())
            asking.join()
        assert words == [" (exit status 7)"]


@pytest.mark.parametrize("first", [0, 1], ids=["source", "sink"])
def test_a_process_of_which_both_ends_are_given_up_is_ended(first: int) -> None:
    ends = both(shell("trap '' TERM; echo; cat"))
    assert first_line(ends[0]) == b"\n"
    ends[first].close()
    ends[1 - first].close()
    assert ends[0].process is not None
    assert ends[0].process.status in (0, -signal.SIGTERM, -signal.SIGKILL, -signal.SIGPIPE)


def test_a_command_that_cannot_be_run_both_ways_is_named() -> None:
    with pytest.raises(TransferError) as caught:
        both("exec:/no/such/command")
    assert str(caught.value) == "exec:/no/such/command: start: No such file or directory"


def test_where_fds_run_out_no_child_is_left() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = max(map(int, os.listdir("/proc/self/fd")))
    held = [os.dup(0)]
    while held[-1] < taken:
        held.append(os.dup(0))
    refused = 0
    try:
        for room in range(1, 40):
            resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1] + room, limits[1]))
            try:
                source, sink = both("exec:cat")
            except (TransferError, OSError) as error:
                assert error.errno == errno.EMFILE
                refused += 1
            else:
                sink.finish(Meeting())
                source.finish(Meeting())
                break
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in held:
            os.close(fd)
    assert refused
