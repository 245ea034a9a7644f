"""What `zpipe tee` does, as somebody sees it who knows tee, pee and mbuffer."""

from __future__ import annotations

import hashlib
import json
import os
import re
import select
import shlex
import signal
import socket
import stat
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import BIG, one_line, refused, shell, went_well
from tests.commands.test_progress import on_terminal
from tests.machine import (
    LONGEST,
    ZPIPE,
    content,
    environment,
    missing,
    need,
    started,
    until,
    until_listening_to_signals,
    zpipe,
)
from tests.paths.peers import SINKS, SOURCES, Peer, pattern, receive

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = content(1_300_001)  # more than a round
LONG = content(1 << 20) * 8  # more than all the pipes on the way, and the buffers of a socket pair
# stays in the pipes of whoever does not read
STUCK = 200_000
ANSWER = r"zpipe: standard input -> .*\n"


def tee(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `zpipe tee` to its end."""
    return zpipe("tee", *words, **options)


def bash(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    """Run a script for bash in which `zpipe` is the one of this checkout."""
    return subprocess.run(
        [need("bash"), "-c", f'zpipe() {{ {shlex.join(ZPIPE)} "$@"; }}\n{script}'],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=LONGEST,
        check=False,
    )


def outputs(said: bytes, *, kind: str | None = None) -> dict[str, dict[str, Any]]:
    """Return what the last JSON record, or the last of a type, tells of each output, by name."""
    found = [json.loads(line) for line in said.splitlines()]
    last = [record for record in found if kind in (None, record["type"])][-1]
    return {output["sink"]: output for output in last["outputs"]}


@contextmanager
def fifo(path: Path) -> Iterator[int]:
    """Make a FIFO and hold the reading end: whoever writes to it may begin at once."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    try:
        yield reader
    finally:
        os.close(reader)


@contextmanager
def nobody_reads() -> Iterator[int]:
    """Make a pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)


def rest(fd: int) -> bytes:
    """Read to the end; the fd stays open."""
    data = bytearray()
    receive(os.dup(fd), data)
    return bytes(data)


def exactly(fd: int, count: int) -> bytes:
    """Read so many bytes."""
    data = b""
    while len(data) < count:
        # a FIFO that no writer has opened yet reads as ended, but does not poll so
        select.select([fd], [], [], LONGEST)
        got = os.read(fd, count - len(data))
        assert got, f"it ended after {data!r}"
        data += got
    return data


def listener(path: Path | None = None) -> socket.socket:
    """Listen at a path, or at a port of this machine, with little room for what nobody reads."""
    end = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    if path is None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.bind(("127.0.0.1", 0))
    else:
        end.bind(str(path))
    end.listen()
    return end


def port(end: socket.socket) -> int:
    return int(end.getsockname()[1])


def dropped(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Return the next record, which is of an output that was dropped; progress may come before."""
    assert process.stderr is not None
    while True:
        record: dict[str, Any] = json.loads(process.stderr.readline())
        if record["type"] != "progress":
            assert record["type"] == "dropped"
            return record


def asked(process: subprocess.Popen[bytes]) -> str:
    """Ask for a status line and return it."""
    assert process.stderr is not None
    process.send_signal(signal.SIGUSR1)
    return process.stderr.readline().decode()


# Every kind of output


def test_the_very_first_thing(tmp_path: Path) -> None:
    went_well(done := tee("x", data=b"hello\n", cwd=tmp_path))
    assert done.stdout == (tmp_path / "x").read_bytes() == b"hello\n"


@pytest.mark.parametrize("words", [(), ("-p",), ("-a",), ("--quiet",)], ids=" ".join)
def test_without_an_output_it_is_cat(words: tuple[str, ...]) -> None:
    went_well(done := tee(*words, data=DATA))
    assert done.stdout == DATA


@pytest.mark.parametrize(
    "kind", ["file", "fifo", "tcp", "unix", "unix-listen", "exec", "null", "pattern", "memfd"]
)
def test_one_output_of_any_kind(kind: str, tmp_path: Path) -> None:
    """Alone it goes the way of a single hop."""
    data = pattern(BIG)
    with Peer(tmp_path, data) as sink:
        SINKS[kind](sink)
        done = tee("--no-stdout", sink.operand, data=data, pass_fds=sink.inherited)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        assert sink.content() == data


@pytest.mark.parametrize("source", ["stdin-pipe", "stdin-file", "stdin-socket"])
@pytest.mark.parametrize("stdout", [True, False], ids=["stdout", "no stdout"])
def test_all_kinds_at_once(source: str, stdout: bool, tmp_path: Path) -> None:
    """Whatever standard input is."""
    data = pattern(len(DATA))
    kinds = ["file", "fifo", "tcp", "unix", "unix-listen", "exec", "null", "pattern", "memfd"]
    with ExitStack() as stack:
        giver = stack.enter_context(Peer(tmp_path, data))
        SOURCES[source](giver)
        takers = []
        for kind in kinds:
            (tmp_path / kind).mkdir()
            taker = stack.enter_context(Peer(tmp_path / kind, data))
            SINKS[kind](taker)
            takers.append(taker)
        words = [] if stdout else ["--no-stdout"]
        done = tee(
            *words,
            *(taker.operand for taker in takers),
            "hash:sha256",
            "-",
            cwd=tmp_path,
            stdin=giver.standard,
            pass_fds=[fd for taker in takers for fd in taker.inherited],
        )
        for fd in giver.give_away:
            os.close(fd)
        assert done.returncode == 0, done.stderr
        for taker in takers:
            assert taker.content() == data, taker.operand
    assert done.stdout == (data if stdout else b"")
    assert (tmp_path / "-").read_bytes() == data, "- is a file of that name"
    assert done.stderr.decode() == f"{hashlib.sha256(data).hexdigest()}  -\n"


def test_a_terminal_as_standard_input(tmp_path: Path) -> None:
    """Line by line, until ^D."""
    ours, theirs = os.openpty()
    with started("tee", "x", "exec:dd of=y status=none", stdin=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        assert process.stdout is not None
        text = b""
        for number in range(20):
            line = b"line %d\n" % number
            os.write(ours, line)
            assert process.stdout.readline() == line
            text += line
        os.write(ours, b"\x04")
        assert process.wait(LONGEST) == 0
    os.close(ours)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == text


def test_a_port_that_is_waited_at(tmp_path: Path) -> None:
    """The port is told before anybody has come; the others get everything all the same."""
    words = ["tee", "--no-stdout", "x", "tcp-listen://127.0.0.1:0"]
    with started(*words, cwd=tmp_path, stdin=subprocess.PIPE) as process:
        assert process.stderr is not None
        place = int(process.stderr.readline().decode().rpartition(":")[2])
        end = socket.create_connection(("127.0.0.1", place))
        taker = threading.Thread(target=receive, args=(end.detach(), got := bytearray()))
        taker.start()
        _, said = process.communicate(DATA, timeout=LONGEST)
        taker.join()
        assert (process.returncode, said) == (0, b"")
    assert bytes(got) == (tmp_path / "x").read_bytes() == DATA


def test_commands_of_a_shell(tmp_path: Path) -> None:
    """`>(COMMAND)` of bash: a pipe by the name /dev/fd/N."""
    (tmp_path / "in").write_bytes(DATA)
    done = bash("zpipe tee >(cat >one) >(cat | cat >two) three <in | cat >four", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    # bash does not wait for those commands
    for name in ("one", "two", "three", "four"):
        path = tmp_path / name
        until(lambda path=path: path.exists() and path.stat().st_size == len(DATA), "all is there")  # type: ignore[misc]
        assert path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("command", "times"), [("true", 10), ("head -n 1 >/dev/null", 4), ("exec <&-; cat", 4)]
)
def test_a_reader_that_leaves_truncates_nobody(command: str, times: int, tmp_path: Path) -> None:
    script = f"seq 100000 | zpipe tee >({command}) kept | wc -l; wc -l <kept"
    done = bash(f"for n in {'x ' * times}; do {script}; done", tmp_path)
    assert done.stdout.decode() == "100000\n" * times * 2
    assert b"zpipe" not in done.stderr


def test_forty_outputs(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(40)]
    went_well(done := tee(*names, data=DATA, cwd=tmp_path))
    assert done.stdout == DATA
    for name in names:
        assert (tmp_path / name).read_bytes() == DATA


def test_forty_commands(tmp_path: Path) -> None:
    words = [f"exec:dd of=f{number} status=none bs=64K" for number in range(40)]
    went_well(tee("--no-stdout", *words, data=DATA, cwd=tmp_path))
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {DATA}
    assert len(list(tmp_path.iterdir())) == 40


def test_the_same_file_twice(tmp_path: Path) -> None:
    went_well(tee("x", "x", data=DATA, cwd=tmp_path))
    assert (tmp_path / "x").read_bytes() == DATA


def test_standard_input_is_taken_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as file:
        file.seek(1000)
        went_well(done := tee("x", stdin=file, cwd=tmp_path))
    assert done.stdout == (tmp_path / "x").read_bytes() == DATA[1000:]


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 1 << 20, (1 << 20) + 1])
def test_sizes(size: int, tmp_path: Path) -> None:
    for stdin in ("pipe", "file"):
        (tmp_path / "in").write_bytes(content(size))
        if stdin == "pipe":
            done = tee("x", "exec:dd of=y status=none", data=content(size), cwd=tmp_path)
        else:
            with open(tmp_path / "in", "rb") as file:
                done = tee("x", "exec:dd of=y status=none", stdin=file, cwd=tmp_path)
        went_well(done)
        assert done.stdout == (tmp_path / "x").read_bytes() == content(size)
        assert (tmp_path / "y").read_bytes() == content(size)


def test_nothing_to_write_to() -> None:
    refused(tee("--no-stdout", data=b"x"), 2, "nothing to write to")


def test_the_input_is_an_output(tmp_path: Path) -> None:
    """GNU tee empties it, or with -a never ends."""
    for words in ((), ("-a",), ("y",)):
        (tmp_path / "x").write_bytes(DATA)
        with open(tmp_path / "x", "rb") as file:
            done = tee("--no-stdout", *words, "x", stdin=file, cwd=tmp_path)
        refused(done, 2, "x: is the source itself")
        assert (tmp_path / "x").read_bytes() == DATA


def test_a_plan_without_a_deed(tmp_path: Path) -> None:
    done = tee("--dry-run", "x", "exec:touch y", data=b"x", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "tee" in done.stdout.decode()
    assert list(tmp_path.iterdir()) == []


# Files are written as tee writes them


def test_files_are_truncated_or_added_to(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(2 * len(DATA)))
    inode = (tmp_path / "x").stat().st_ino
    os.link(tmp_path / "x", tmp_path / "link")
    (tmp_path / "symlink").symlink_to("target")
    went_well(tee("--no-stdout", "x", "symlink", data=DATA, cwd=tmp_path))
    assert (tmp_path / "x").read_bytes() == (tmp_path / "target").read_bytes() == DATA
    went_well(tee("-a", "--no-stdout", "x", "symlink", "new", data=DATA, cwd=tmp_path))
    assert (tmp_path / "link").read_bytes() == (tmp_path / "target").read_bytes() == DATA + DATA
    assert (tmp_path / "new").read_bytes() == DATA
    assert (tmp_path / "x").stat().st_ino == inode
    assert (tmp_path / "symlink").is_symlink()


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    done = tee("x", "y", data=b"x", cwd=tmp_path, before=shell('umask 027; exec "$@"'))
    went_well(done)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_two_that_append_to_one_file_lose_nothing(tmp_path: Path) -> None:
    """O_APPEND: whoever comes late does not overwrite."""
    with (
        started("tee", "-a", "--no-stdout", "x", stdin=subprocess.PIPE, cwd=tmp_path) as first,
        started("tee", "-a", "--no-stdout", "x", stdin=subprocess.PIPE, cwd=tmp_path) as second,
    ):
        assert first.stdin is not None and second.stdin is not None
        for _ in range(50):
            for process, byte in ((first, b"1"), (second, b"2")):
                assert process.stdin is not None
                process.stdin.write(byte * 1000)
                process.stdin.flush()
        first.stdin.close()
        second.stdin.close()
        assert (first.wait(LONGEST), second.wait(LONGEST)) == (0, 0)
    assert sorted((tmp_path / "x").read_bytes()) == sorted(b"1" * 50_000 + b"2" * 50_000)


# When an output fails: GNU tee in the same place

MODES = [
    ["-p"],
    ["--output-error=warn"],
    ["--output-error=warn-nopipe"],
    ["--output-error=exit"],
    ["--output-error=exit-nopipe"],
    ["--output-error"],
]
# what fails -> the operand, what standard output is, and the reason in words
SITUATIONS = {
    "a pipe that nobody reads": ("/dev/fd/{dead}", "pipe", "Broken pipe"),
    "a full disk": ("/dev/full", "pipe", "No space left on device"),
    "no such folder": ("nosuch/x", "pipe", "No such file or directory"),
    "a folder": (".", "pipe", "Is a directory"),
    "a standard output that nobody reads": ("other", "dead", "Broken pipe"),
    "a full standard output": ("other", "full", "No space left on device"),
}


@pytest.mark.parametrize("mode", MODES, ids=" ".join)
@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_failure_means_what_it_means_to_gnu_tee(
    situation: str, mode: list[str], tmp_path: Path
) -> None:
    """Status and what arrives are the same; 5 is said where others are complete."""
    program = need("tee")
    version = subprocess.run([program, "--version"], capture_output=True, check=False).stdout
    if b"GNU coreutils" not in version:
        missing("tee is not that of GNU coreutils")
    operand, stdout, reason = SITUATIONS[situation]
    data = LONG[: 3 << 20]  # more than the pipes on the way
    ended = {}
    for name in ("gnu", "zpipe"):
        folder = tmp_path / name
        folder.mkdir()
        with nobody_reads() as dead, open("/dev/full", "wb") as full:
            places = {"pipe": subprocess.PIPE, "dead": dead, "full": full.fileno()}
            words = [*mode, operand.format(dead=dead), "kept"]
            given: dict[str, Any] = {"stdout": places[stdout], "cwd": folder, "pass_fds": [dead]}
            if name == "zpipe":
                ended[name] = tee(*words, data=data, **given)
                continue
            ended[name] = subprocess.run(
                [program, *words],
                input=data,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=LONGEST,
                check=False,
                **given,
            )
    theirs, ours = ended["gnu"], ended["zpipe"]
    exits = mode[0].startswith("--output-error=exit")
    expected = theirs.returncode if exits or not theirs.returncode else 5
    assert ours.returncode == expected, (ours.returncode, ours.stderr, theirs)
    assert bool(theirs.stderr) == bool(ours.stderr), ours.stderr
    if ours.stderr:
        assert reason in one_line(ours)
    arrived = {
        name: [run.stdout or b"", *(path.read_bytes() for path in (tmp_path / name).iterdir())]
        for name, run in ended.items()
    }
    if theirs.returncode == 1 and exits:
        assert all(data.startswith(each) for each in arrived["zpipe"])
        assert data not in arrived["zpipe"], "it went on to the end"
    else:
        assert arrived["zpipe"] == arrived["gnu"]
        assert data in arrived["zpipe"]


def test_the_default_is_warn_nopipe(tmp_path: Path) -> None:
    """GNU tee would be killed by SIGPIPE, and truncate what others get."""
    with nobody_reads() as dead:
        done = tee(f"/dev/fd/{dead}", "x", data=DATA, pass_fds=[dead], cwd=tmp_path)
    went_well(done)
    assert done.stdout == (tmp_path / "x").read_bytes() == DATA


def test_a_mode_without_a_value_leaves_the_operands_alone(tmp_path: Path) -> None:
    went_well(tee("--output-error", "warn", "x", data=b"abc", cwd=tmp_path))
    went_well(tee("--", "--output-error", data=b"abc", cwd=tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["--output-error", "warn", "x"]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"abc"}


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("-p", "--output-error=exit"), ("-p", "--output-error=exit")),
        (("--output-error=loud",), ("loud", "warn-nopipe")),
        (("--when-full", "explode"), ("explode", "detach")),
        (("--spill-then", "spill"), ("spill", "block")),
        (("x?when_full=explode",), ("x", "when_full", "explode", "block, detach, spill")),
        (("x?detach_after=soon",), ("x", "detach_after", "soon")),
        (("x?spill_max=much",), ("x", "spill_max", "much")),
        (("x?spill_then=spill",), ("x", "spill_then", "spill")),
        (("x?when_full=",), ("when_full", "give a value")),
        (("x?when_full=block&when_full=block",), ("when_full", "given twice")),
        (("--spill-max", "1M"), ("--spill-max", "spill")),
        (("--spill-dir", "."), ("--spill-dir", "spill")),
        (("--split-size", "10"), ("--split-size", "%04d")),
        (("--split-size", "0", "p%d"), ("--split-size", "byte")),
        (("--split-size", "10", "p%%d"), ("--split-size", "%04d")),
        (("--split-size", "10", "p%d-%d"), ("--split-size", "%04d")),
        (("--split-size", "10", "p%s"), ("--split-size", "%04d")),
        (("--via", "splice"), ("splice", "tee")),
        (("--via", "tee", "--no-via", "tee"), ("tee", "forbidden")),
        (("--no-via", "tee", "--no-via", "plain"), ("tee", "plain", "--no-via")),
        (("ftp://x",), ("ftp", "unknown scheme")),
        (("zero:",), ("zero:", "sink")),
        (("",), ("empty",)),
        (("hash:crc",), ("hash:crc", "unknown algorithm", "sha256")),
        (("tcp://x:99999",), ("99999",)),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense_is_refused_before_anything_is_opened(
    words: tuple[str, ...], fragments: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "old").write_bytes(b"precious")
    os.mkfifo(tmp_path / "fifo")  # to open it would be to wait
    operands = ["fifo"] if "--via" not in words and "--no-via" not in words else []
    done = tee("new", "old", *operands, *words, data=b"abc", cwd=tmp_path)
    refused(done, 2, *fragments)
    assert done.stdout == b""
    assert sorted(os.listdir(tmp_path)) == ["fifo", "old"]
    assert (tmp_path / "old").read_bytes() == b"precious"


def test_a_question_mark_in_a_name(tmp_path: Path) -> None:
    names = ["what?", "who?.txt", "a?b=c", "x?when=full"]
    went_well(tee(*names, data=b"abc", cwd=tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted(names)


# Outputs that die


def test_an_output_that_dies_is_noticed_while_the_input_is_idle(tmp_path: Path) -> None:
    """One after the other is let go, and when there is nobody left it is over: no byte came."""
    with ExitStack() as stack:
        words = ["tee", "--json"]
        readers = []
        for name in ("a", "b"):
            os.mkfifo(tmp_path / name)
            readers.append(os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK))
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        fd = theirs.detach()
        words += ["a", "b", f"fd:{fd}"]
        process = stack.enter_context(
            started(*words, stdin=subprocess.PIPE, cwd=tmp_path, pass_fds=[fd])
        )
        os.close(fd)
        assert process.stdin is not None
        assert process.stdout is not None and process.stderr is not None
        process.stdin.write(b"abc")
        process.stdin.flush()
        assert process.stdout.read(3) == b"abc"
        assert ours.recv(3, socket.MSG_WAITALL) == b"abc"
        assert json.loads(process.stderr.readline())["type"] == "start"
        for reader, name in zip(readers, ("a", "b"), strict=True):
            os.set_blocking(reader, True)
            assert exactly(reader, 3) == b"abc"
            os.close(reader)
            told = dropped(process)
            assert (told["sink"], told["state"]) == (name, "left")
            assert (told["bytes"], told["error"]) == (3, None)
        process.stdout.close()
        told = dropped(process)
        assert (told["sink"], told["state"]) == ("standard output", "left")
        assert process.poll() is None
        ours.close()
        told = dropped(process)
        # only of pipes is it no failure
        assert (told["sink"], told["state"], told["bytes"]) == (f"fd:{fd}", "failed", 3)
        assert process.wait(LONGEST) == 1


def test_with_no_output_left_it_ends_without_more_input(tmp_path: Path) -> None:
    """So that the one who writes to it learns of it by SIGPIPE, at its next line."""
    with (
        fifo(tmp_path / "a") as reader,
        started("tee", "--no-stdout", "a", stdin=subprocess.PIPE, cwd=tmp_path) as process,
    ):
        assert process.stdin is not None
        process.stdin.write(b"abc")
        process.stdin.flush()
        assert exactly(reader, 3) == b"abc"
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, reader)  # the last reader has gone
        os.close(devnull)
        assert process.wait(LONGEST) == 0


def test_a_reader_that_leaves_half_way(tmp_path: Path) -> None:
    """The others are complete; asked to warn, it says at which byte."""
    for mode, status in (("warn-nopipe", 0), ("warn", 5)):
        os.mkfifo(tmp_path / "a")
        reader = os.open(tmp_path / "a", os.O_RDONLY | os.O_NONBLOCK)
        words = ["tee", "--json", f"--output-error={mode}", "a", "x"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            os.set_blocking(reader, True)
            begin: list[bytes] = []

            def leave(reader: int = reader, begin: list[bytes] = begin) -> None:
                begin.append(exactly(reader, 100_000))
                os.close(reader)

            leaver = threading.Thread(target=leave)
            leaver.start()
            out, said = process.communicate(LONG, timeout=LONGEST)
            leaver.join()
        assert begin == [LONG[:100_000]]
        assert out == (tmp_path / "x").read_bytes() == LONG
        assert process.returncode == status, said
        found = outputs(said)
        assert found["x"]["state"] == found["standard output"]["state"] == "done"
        assert 100_000 <= found["a"]["bytes"] < len(LONG)
        if status:
            assert found["a"]["state"] == "failed"
            assert (
                f"a: write: Broken pipe; dropped at byte {found['a']['bytes']}, "
                in (found["a"]["error"])
            )
        else:
            assert (found["a"]["state"], found["a"]["error"]) == ("left", None)
        (tmp_path / "a").unlink()


# Outputs that are slow


def test_block_the_slowest_sets_the_pace(tmp_path: Path) -> None:
    """A reader that does not read holds the others up: they are two rounds ahead at the most."""
    round_ = 64 << 10
    (tmp_path / "in").write_bytes(LONG)
    words = ["--no-stdout", "--pipe-size", "64K", "--stall-timeout", "1s", "--json"]
    with fifo(tmp_path / "slow") as reader, open(tmp_path / "in", "rb") as file:
        done = tee(*words, "slow", "fast", "exec:cat", stdin=file, cwd=tmp_path)
        arrived = rest(reader)
    assert done.returncode == 4, done.stderr
    found = outputs(done.stderr)
    assert found["slow"]["bytes"] == len(arrived)
    assert found["fast"]["bytes"] == (tmp_path / "fast").stat().st_size
    assert found["exec:cat"]["bytes"] == len(done.stdout)
    for ahead in ((tmp_path / "fast").read_bytes(), done.stdout):
        assert len(arrived) <= len(ahead) <= len(arrived) + 2 * round_
        assert LONG.startswith(ahead)
    assert LONG.startswith(arrived)
    assert found["slow"]["seconds_blocked"] > 0
    text = json.loads(done.stderr.splitlines()[-1])["text"]
    assert text.startswith("slow: took no data for 1 s; ")
    assert f"slow took {len(arrived)} bytes" in text


def test_a_slow_reader_gets_everything(tmp_path: Path) -> None:
    """It waits for nobody: the one that reads nothing at first has held up, and lost nothing."""
    with (
        fifo(tmp_path / "slow") as reader,
        started("tee", "slow", "x", stdin=subprocess.PIPE, cwd=tmp_path) as process,
    ):
        feeder = feed(process, LONG)
        until_listening_to_signals(process)
        until(lambda: "slow: 512 KiB, blocked" in asked(process), "the pipe is full")
        taker = threading.Thread(target=receive, args=(os.dup(reader), got := bytearray()))
        taker.start()
        assert process.stdout is not None
        assert process.stdout.read() == LONG
        assert process.wait(LONGEST) == 0
        taker.join()
        feeder.join()
    assert bytes(got) == (tmp_path / "x").read_bytes() == LONG


@pytest.mark.parametrize("words", [(), ("--via", "plain"), ("--no-via", "tee")], ids=" ".join)
@pytest.mark.parametrize("kind", ["pipe", "tcp", "unix"])
def test_a_slow_reader_gets_the_same_bytes(
    kind: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """What lies ready for one that is full is left alone while more is to be had."""
    (tmp_path / "in").write_bytes(LONG)
    with ExitStack() as stack:
        if kind == "pipe":
            reader, operand = stack.enter_context(fifo(tmp_path / "slow")), "slow"
        else:
            end = stack.enter_context(listener(tmp_path / "l" if kind == "unix" else None))
            operand = "unix:l" if kind == "unix" else f"tcp://127.0.0.1:{port(end)}"
        with open(tmp_path / "in", "rb") as file:
            command = ["tee", "--no-stdout", *words, operand, "x"]
            process = stack.enter_context(started(*command, stdin=file, cwd=tmp_path))
        until_listening_to_signals(process)
        until(lambda: ", blocked, " in asked(process), "it is full")
        if kind != "pipe":
            connection, _ = end.accept()
            receive(connection.detach(), got := bytearray())
        else:
            got = bytearray(rest(reader))
        assert bytes(got) == LONG
        assert process.wait(LONGEST) == 0
    assert (tmp_path / "x").read_bytes() == LONG


@pytest.mark.parametrize("policy", ["block", "spill&spill_dir=."])
def test_lines_for_a_slow_reader(policy: str, tmp_path: Path) -> None:
    """Each comes alone, while those before it have not been taken."""
    lines = [b"%999d\n" % number for number in range(1500)]
    with fifo(tmp_path / "slow") as slow:
        words = ["tee", "--no-stdout", f"slow?when_full={policy}", "x"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None
            stdin = process.stdin

            def write() -> None:
                for line in lines:
                    stdin.write(line)
                    stdin.flush()
                stdin.close()

            writer = threading.Thread(target=write)
            writer.start()
            until_listening_to_signals(process)
            until(lambda: re.search(r"slow: .*, (blocked|spilling), ", asked(process)), "full")
            got = rest(slow)
            assert process.wait(LONGEST) == 0
            writer.join()
    assert got == (tmp_path / "x").read_bytes() == b"".join(lines)


def feed(process: subprocess.Popen[bytes], data: bytes) -> threading.Thread:
    """Write everything to standard input and close it, in a thread."""
    assert process.stdin is not None
    stdin = process.stdin

    def write() -> None:
        try:
            stdin.write(data)
            stdin.close()
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    return thread


def working_in(folder: Path) -> list[str]:
    """Return the processes whose working directory this is; those that have ended have none."""
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and os.readlink(f"/proc/{name}/cwd") == str(folder):
                found.append(name)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


@pytest.mark.parametrize("how", ["for all", "for one"])
@pytest.mark.parametrize("kind", ["fifo", "fd", "stdout", "tcp", "unix", "exec"])
def test_detach_one_that_never_reads(kind: str, how: str, tmp_path: Path) -> None:
    """It is told at which byte; the others are complete; what it took it can still read."""
    data = LONG * 2
    (tmp_path / "in").write_bytes(data)
    with ExitStack() as stack:
        out = None
        inherited = []
        reader = -1
        if kind == "fifo":
            reader, operand = stack.enter_context(fifo(tmp_path / "slow")), "slow"
        elif kind in ("fd", "stdout"):
            reader, out = os.pipe()
            stack.callback(os.close, reader)
            operand = f"/dev/fd/{out}" if kind == "fd" else "standard output"
            inherited = [out]
        elif kind in ("tcp", "unix"):
            end = stack.enter_context(listener(tmp_path / "l" if kind == "unix" else None))
            operand = "unix:l" if kind == "unix" else f"tcp://127.0.0.1:{port(end)}"
        else:
            operand = "exec:sleep 60"
        words = ["--no-stdout"] if kind != "stdout" else []
        if how == "for all" or kind == "stdout":
            words += ["--when-full", "detach", "--detach-after", "600ms"]
            words += [] if kind == "stdout" else [operand]
        else:
            words += [f"{operand}?when_full=detach&detach_after=200ms"]  # the others wait on
        with open(tmp_path / "in", "rb") as file:
            done = tee(
                # a process takes its time, too
                *("--json", *words, "x", "exec:dd of=y status=none bs=64K?when_full=block"),
                stdin=file,
                stdout=out if kind == "stdout" and out is not None else subprocess.PIPE,
                cwd=tmp_path,
                pass_fds=inherited,
            )
        if out is not None:
            os.close(out)
        if kind in ("tcp", "unix"):
            connection, _ = end.accept()
            stack.enter_context(connection)
            reader = connection.fileno()
        assert done.returncode == 5, done.stderr
        found = outputs(done.stderr)
        slow = found[operand]
        assert slow["state"] == "detached"
        assert slow["when_full"] == "detach"
        assert slow["error"] == (
            f"{operand}: write: took no data for {'0.6' if '--detach-after' in words else '0.2'} s;"
            f" dropped at byte {slow['bytes']}, the others go on"
        )
        assert 0 < slow["bytes"] < len(data)
        if reader >= 0:
            got = rest(reader)
            assert len(got) == slow["bytes"]
            assert data.startswith(got)
        else:
            assert not working_in(tmp_path), "it was not ended"
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == data
    assert found["x"]["state"] == "done"


def test_the_line_about_one_that_was_detached(tmp_path: Path) -> None:
    """One line, when it happens, and no second one at the end."""
    with fifo(tmp_path / "slow") as reader:
        done = tee("slow?when_full=detach&detach_after=100ms", "x", data=LONG, cwd=tmp_path)
        took = len(rest(reader))
    text = refused(done, 5, f"dropped at byte {took}, the others go on")
    assert text.startswith("slow: write: took no data for 0.1 s; ")
    assert done.stdout == (tmp_path / "x").read_bytes() == LONG


def test_an_idle_input_detaches_nobody(tmp_path: Path) -> None:
    """Who has taken all that there was is not slow; nor who is a little late, again and again."""
    words = ["tee", "--when-full", "detach", "--detach-after", "50ms", "--no-stdout", "a", "b"]
    with (
        fifo(tmp_path / "a") as first,
        fifo(tmp_path / "b") as second,
        fifo(tmp_path / "clock") as clock,
        started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process,
    ):
        assert process.stdin is not None
        for _ in range(3):
            process.stdin.write(b"abc")
            process.stdin.flush()
            assert exactly(first, 3) == exactly(second, 3) == b"abc"
            # the clock is another zpipe: it ends when its patience does, twice that of ours
            wait = ["cp", "--stall-timeout", "100ms", "exec:sleep 60", "pipe:clock"]
            assert zpipe(*wait, cwd=tmp_path).returncode == 4
        assert rest(clock) == b""
        process.stdin.close()
        assert process.wait(LONGEST) == 0


def spilled_files(process: subprocess.Popen[bytes], folder: Path) -> list[str]:
    """Return what the process has open in a folder, by the names that /proc has for it."""
    links = []
    for name in os.listdir(f"/proc/{process.pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{process.pid}/fd/{name}"))
        except FileNotFoundError:
            continue  # closed since
    return [link for link in links if link.startswith(f"{folder}/")]


@pytest.mark.parametrize("how", ["for all", "for one"])
def test_spill_what_a_reader_does_not_take(how: str, tmp_path: Path) -> None:
    """It reads nothing until the producer is done, and then gets all of it in order."""
    data = LONG * 5  # more than one file
    place = tmp_path / "place"
    place.mkdir()
    if how == "for all":
        words = ["--when-full", "spill", "--spill-dir", "place", "slow", "x"]
    else:
        words = ["slow?when_full=spill&spill_dir=place", "x"]
    with fifo(tmp_path / "slow") as reader:
        words = ["tee", "--no-stdout", "--json", *words]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None
            process.stdin.write(data)
            process.stdin.close()  # the producer is done, and nobody has read a byte
            until(lambda: (tmp_path / "x").stat().st_size == len(data), "x is complete")
            assert os.listdir(place) == [], "a spilled file has a name"
            links = spilled_files(process, place)
            assert links and all(link.endswith(" (deleted)") for link in links), links
            assert process.poll() is None
            assert rest(reader) == data
            assert process.wait(LONGEST) == 0
            assert process.stderr is not None
            said = process.stderr.read()
    found = outputs(said)
    assert found["slow"]["state"] == "done"
    assert found["slow"]["bytes"] == len(data)
    assert found["slow"]["when_full"] == "spill"
    assert (len(LONG) < found["slow"]["most_spilled"] <= len(data)) and not found["slow"]["spilled"]
    assert (tmp_path / "x").read_bytes() == data
    assert found["x"]["when_full"] == ("spill" if how == "for all" else "block")


def test_the_status_of_one_that_spills(tmp_path: Path) -> None:
    with fifo(tmp_path / "slow") as reader:
        words = ["tee", "--no-stdout", "--spill-dir", ".", "--when-full", "spill", "slow", "x"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None
            until_listening_to_signals(process)
            process.stdin.write(LONG)
            process.stdin.close()
            until(lambda: re.search(r"; slow: \S+ KiB, spilling, .* behind", asked(process)), "so")
            got = rest(reader)
            assert process.wait(LONGEST) == 0
    assert got == LONG


@pytest.mark.parametrize("kind", ["stdout", "tcp", "unix", "exec"])
def test_spill_for_every_kind(kind: str, tmp_path: Path) -> None:
    """Each reads nothing before the other output is complete."""
    data = LONG * 2
    gate = tmp_path / "gate"
    with ExitStack() as stack:
        words = ["tee"]
        operand = ""
        if kind == "exec":
            os.mkfifo(gate)
            operand = "exec:sh -c 'cat gate; exec cat >y'"
        elif kind != "stdout":
            end = stack.enter_context(listener(tmp_path / "l" if kind == "unix" else None))
            operand = "unix:l" if kind == "unix" else f"tcp://127.0.0.1:{port(end)}"
        option = "when_full=spill&spill_dir=.&spill_max=1G&spill_then=detach&detach_after=1h"
        if operand:
            words += ["--no-stdout", f"{operand}?{option}", "x"]
        else:
            words += ["--when-full", "spill", "--spill-dir", ".", "x?when_full=block"]
        process = stack.enter_context(started(*words, stdin=subprocess.PIPE, cwd=tmp_path))
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(data)
        process.stdin.close()
        until(lambda: (tmp_path / "x").stat().st_size == len(data), "x is complete")
        assert process.poll() is None
        if kind == "stdout":
            got = process.stdout.read()
        elif kind == "exec":
            gate.write_bytes(b"")
            assert process.wait(LONGEST) == 0
            got = (tmp_path / "y").read_bytes()
        else:
            connection, _ = end.accept()
            with connection:
                got = rest(connection.fileno())
        assert process.wait(LONGEST) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert got == data


@pytest.mark.parametrize("then", ["block", "detach"])
def test_past_the_bound_of_what_is_spilled(then: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(LONG)
    words = ["--no-stdout", "--json", "--pipe-size", "64K"]
    words += ["--stall-timeout" if then == "block" else "--detach-after", "1s"]
    words += ["--when-full", "spill", "--spill-dir", ".", "--spill-max", "300K"]
    with fifo(tmp_path / "slow") as reader, open(tmp_path / "in", "rb") as file:
        words += ["--spill-then", then, "slow", "x?when_full=block"]
        done = tee(*words, stdin=file, cwd=tmp_path)
        got = rest(reader)
    found = outputs(done.stderr)
    assert 200 << 10 < found["slow"]["most_spilled"] <= 300 << 10
    assert found["slow"]["bytes"] == len(got)
    assert LONG.startswith(got)
    if then == "detach":
        assert (done.returncode, found["slow"]["state"]) == (5, "detached")
        assert f"; dropped at byte {len(got)}, the others go on" in found["slow"]["error"]
        assert (tmp_path / "x").read_bytes() == LONG
    else:
        # whoever reads at last, and a pipe and the file are full: then the others wait
        assert done.returncode == 4, done.stderr
        ahead = (tmp_path / "x").stat().st_size - len(got)
        assert 300 << 10 <= ahead <= (300 << 10) + 5 * (64 << 10)


@pytest.mark.parametrize("bound", ["0", "1", "100K"])
def test_block_past_the_bound_loses_nothing(bound: str, tmp_path: Path) -> None:
    words = ["tee", "--no-stdout", "--when-full", "spill", "--spill-dir", "."]
    words += ["--spill-max", bound, "slow", "x"]
    with (
        fifo(tmp_path / "slow") as reader,
        started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process,
    ):
        feeder = feed(process, LONG)
        until_listening_to_signals(process)
        until(lambda: re.search(r"slow: \S+ KiB, .* behind", asked(process)), "it is behind")
        assert rest(reader) == LONG
        assert process.wait(LONGEST) == 0
        feeder.join()
    assert (tmp_path / "x").read_bytes() == LONG


@pytest.mark.parametrize("free", [0, 300 << 10])
def test_a_full_disk_is_the_bound_of_what_is_spilled(free: int, tmp_path: Path, tiny: Path) -> None:
    """Nothing is lost: what fits is spilled, and then the others wait."""
    (tiny / "filler").write_bytes(bytes((1 << 20) - free))
    words = ["tee", "--no-stdout", "--json", "--when-full", "spill", "--spill-dir", str(tiny)]
    with fifo(tmp_path / "slow") as reader:
        words += ["slow", "x?when_full=block"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            feeder = feed(process, LONG)
            assert process.stderr is not None
            process.stderr.readline()  # it has begun
            until_listening_to_signals(process)

            def stuck() -> bool:
                process.send_signal(signal.SIGUSR1)
                told = json.loads(process.stderr.readline())["outputs"][0]  # type: ignore[union-attr]
                return bool(told["bytes"] == 512 << 10 and told["most_spilled"] >= free * 0.8)

            until(stuck, "pipe and disk are full")
            assert rest(reader) == LONG
            assert process.wait(LONGEST) == 0
            feeder.join()
            said = process.stderr.read()
    assert outputs(said)["slow"]["most_spilled"] <= free
    assert (tmp_path / "x").read_bytes() == LONG


@pytest.mark.parametrize("place", ["nosuch", "old"])
def test_no_place_to_spill_to(place: str, tmp_path: Path) -> None:
    """Known before the first byte: nothing is truncated."""
    (tmp_path / "old").write_bytes(b"precious")
    words = ["--when-full", "spill", "--spill-dir", place, "old"]
    done = tee(*words, data=b"abc", cwd=tmp_path)
    refused(done, 1, f"spill to {place}: ")
    assert (tmp_path / "old").read_bytes() == b"precious"


def test_the_folder_to_spill_to_is_that_of_temporary_files(tmp_path: Path) -> None:
    done = tee(
        *("--when-full", "spill", "x"),
        data=b"abc",
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path / "nosuch")),
    )
    refused(done, 1, f"spill to {tmp_path}/nosuch: No such file or directory")


# Parts


@pytest.mark.parametrize(
    ("pattern_", "names"),
    [
        ("part-%d", ["part-0", "part-1", "part-2", "part-3"]),
        ("part-%04d.bin", ["part-0000.bin", "part-0001.bin", "part-0002.bin", "part-0003.bin"]),
        ("100%%-%02d", ["100%-00", "100%-01", "100%-02", "100%-03"]),
        ("%d%%d", ["0%d", "1%d", "2%d", "3%d"]),
    ],
)
def test_parts_have_the_names_of_the_pattern(
    pattern_: str, names: list[str], tmp_path: Path
) -> None:
    data = DATA[:350_001]
    done = tee("--split-size", "100000", "whole", pattern_, data=data, cwd=tmp_path)
    went_well(done)
    assert done.stdout == data
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "whole"])
    assert [(tmp_path / name).stat().st_size for name in names] == [100_000] * 3 + [50_001]
    assert b"".join((tmp_path / name).read_bytes() for name in names) == data
    assert (tmp_path / "whole").read_bytes() == data


@pytest.mark.parametrize("words", [(), ("--via", "plain"), ("--when-full", "spill")], ids=" ".join)
@pytest.mark.parametrize(
    ("total", "size"),
    [
        (0, 10),
        (1, 10),
        (10, 10),
        (30, 10),
        (31, 10),
        (50, 1),
        (1_300_001, 65_537),
        (1_300_001, 1 << 20),
        (1_300_001, 1_300_001),
        (1_300_001, 1 << 30),
    ],
)
def test_parts_are_of_that_size_to_the_byte(
    total: int, size: int, words: tuple[str, ...], tmp_path: Path
) -> None:
    """The last one is what is left, and never empty, save for an empty input."""
    done = tee(
        "--split-size", str(size), "--no-stdout", *words, "p%d", data=DATA[:total], cwd=tmp_path
    )
    went_well(done)
    count = max(1, -(-total // size))
    assert len(os.listdir(tmp_path)) == count
    parts = [(tmp_path / f"p{number}").read_bytes() for number in range(count)]
    assert [len(part) for part in parts[:-1]] == [size] * (count - 1)
    assert b"".join(parts) == DATA[:total]


def test_two_patterns_and_the_option_of_one(tmp_path: Path) -> None:
    words = ["--split-size", "1K", "a%d", "file:b%d?split_size=2K", "c"]
    went_well(tee(*words, data=DATA[:4096], cwd=tmp_path))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    expected = {f"a{number}": 1024 for number in range(4)} | {"b0": 2048, "b1": 2048, "c": 4096}
    assert sizes == expected


def test_parts_of_what_trickles_in(tmp_path: Path) -> None:
    """Each byte is in its part before the next ones are sent, and a part is not begun early."""
    words = ["tee", "--split-size", "10", "p%d"]
    with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        for end in range(7, 50, 7):
            process.stdin.write(DATA[end - 7 : end])
            process.stdin.flush()
            assert process.stdout.read(7) == DATA[end - 7 : end]
            expected = [10] * (end // 10) + [end % 10] * (end % 10 > 0)
            until(lambda expected=expected: sizes_of_parts(tmp_path) == expected, "it is there")  # type: ignore[misc]
        process.stdin.close()
        assert process.wait(LONGEST) == 0
    assert b"".join((tmp_path / f"p{number}").read_bytes() for number in range(5)) == DATA[:49]


def sizes_of_parts(folder: Path) -> list[int]:
    found = sorted(folder.glob("p*"))
    return [path.stat().st_size for path in found]


def test_a_part_that_cannot_be_opened(tmp_path: Path) -> None:
    """Those before it are complete, and the others go on."""
    (tmp_path / "p1").mkdir()
    done = tee("--split-size", "1000", "p%d", "x", data=DATA, cwd=tmp_path)
    refused(done, 5, "p1: open: Is a directory", "; dropped at byte 1000, the others go on")
    assert done.stdout == (tmp_path / "x").read_bytes() == DATA
    assert (tmp_path / "p0").read_bytes() == DATA[:1000]
    assert sorted(os.listdir(tmp_path)) == ["p0", "p1", "x"]


# What is told


def test_the_end_record_tells_of_every_output(tmp_path: Path) -> None:
    done = tee("--json", "x", "null:", "/dev/full", "hash:md5", data=DATA, cwd=tmp_path)
    assert done.returncode == 5
    for kind in ("hop", "error"):
        if kind == "hop" and b'"hop"' not in done.stderr:
            continue
        found = outputs(done.stderr, kind=kind)
        assert list(found) == ["standard output", "x", "null:", "/dev/full", "hash:md5"]
        for output in found.values():
            assert output.keys() >= {"bytes", "seconds_blocked", "mover", "error", "state"}
            assert isinstance(output["bytes"], int)
            assert isinstance(output["seconds_blocked"], float)
            assert str(output["mover"]).startswith("tee")
        full = found.pop("/dev/full")
        assert (full["bytes"], full["state"]) == (0, "failed")
        assert full["error"].startswith("/dev/full: write: No space left on device; ")
        for output in found.values():
            assert (output["bytes"], output["state"], output["error"]) == (len(DATA), "done", None)
    (dropped,) = [
        record
        for record in map(json.loads, done.stderr.splitlines())
        if record["type"] == "dropped"
    ]
    assert dropped["sink"] == "/dev/full"


def test_the_end_record_of_a_good_run(tmp_path: Path) -> None:
    done = tee("--json", "--via", "plain", "x", "y", data=DATA, cwd=tmp_path)
    assert done.returncode == 0
    end = [json.loads(line) for line in done.stderr.splitlines()][-1]
    assert (end["type"], end["bytes"]) == ("end", len(DATA))
    assert [output["sink"] for output in end["outputs"]] == ["standard output", "x", "y"]
    assert {output["mover"] for output in end["outputs"]} == {"plain"}


def test_the_outcome_for_people(tmp_path: Path) -> None:
    done = tee("--explain", "x", "/dev/full", data=DATA, cwd=tmp_path)
    text = done.stderr.decode()
    assert "standard input ── tee ──▶ standard output, x, /dev/full" in text
    assert "tee into a private pipe for each sink" in text
    assert "/dev/full: write: No space left on device" in text
    done = tee("--explain", "x", "null:", data=DATA, cwd=tmp_path)
    for line in ("standard output: 1300001 bytes, done", "x: 1300001 bytes, done"):
        assert line in done.stderr.decode()


def test_sigusr1_tells_of_every_output(tmp_path: Path) -> None:
    words = ["tee", "x", "null:", "exec:dd of=/dev/null"]
    with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"abc")
        process.stdin.flush()
        assert process.stdout.read(3) == b"abc"
        until_listening_to_signals(process)
        names = ["standard output", "x", "null:", "exec:dd of=/dev/null"]
        line = ""

        def all_there() -> bool:
            nonlocal line
            line = asked(process)
            return line.count(": 3 B, flowing") == 4

        until(all_there, "each has its bytes")
        assert re.fullmatch(ANSWER, line)
        parts = line.rstrip("\n").split("; ")
        assert parts[0].startswith("zpipe: standard input -> standard output, x, null:, exec:dd")
        assert parts[1:] == [f"{name}: 3 B, flowing" for name in names]
        process.stdin.close()
        assert process.wait(LONGEST) == 0


def test_a_line_for_each_output_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(BIG))
    script = 'exec "$@" <b >out'
    words = ["--progress", "always", "--rate-limit", "200000", "first", "second"]
    status, screen = on_terminal(tmp_path, *shell(script), *ZPIPE, "tee", *words)
    assert status == 0
    for name in ("standard output", "first", "second"):
        assert re.search(rf"{name} .*\d+(\.\d+)?/\S+ KiB", screen), screen
        assert re.search(rf"{name} .*(flowing|blocked|done)", screen), screen
    assert screen.count("\x1b[?25h") == screen.count("\x1b[?25l") == 1
    for name in ("out", "first", "second"):
        assert (tmp_path / name).read_bytes() == content(BIG)


def test_progress_without_a_terminal_is_a_line_each_second(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(BIG))
    with open(tmp_path / "b", "rb") as file:
        words = ["--progress", "always", "--rate-limit", "80000", "x"]
        done = tee(*words, stdin=file, cwd=tmp_path)
    line = (
        r"zpipe: standard input -> standard output, x: .*, tee;"
        r" standard output: \S+ KiB, [^;]+; x: \S+ KiB, [^;]+\n"
    )
    assert re.fullmatch(f"({line})+", done.stderr.decode()), done.stderr
    assert done.stdout == content(BIG)


def test_a_rate_for_all(tmp_path: Path) -> None:
    """What one gets in the end, all get."""
    done = tee("--json", "--rate-limit", "1M", "x", data=content(BIG), cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "x").read_bytes() == content(BIG)
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert "rate limit" in next(r for r in records if r["type"] == "hop")["waited"]
