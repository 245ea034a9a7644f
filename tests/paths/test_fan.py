"""One source and several sinks under strace: tee and splice carry the bulk, and once for all."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.machine import (
    LONGEST,
    content,
    started,
    strace,
    until,
    until_listening_to_signals,
    zpipe,
)
from tests.paths.peers import SINKS, SOURCES, Peer, pattern, receive
from tests.paths.tracing import parse
from zpipe.kernel.pipes import F_GETPIPE_SZ, F_SETPIPE_SZ

if TYPE_CHECKING:
    from tests.paths.tracing import Call

MOVING = ("tee", "splice", "readv", "recvfrom", "preadv", "write", "sendto", "pwrite64")
SIZE = 2_000_003
DATA = content(SIZE)


class Traced(NamedTuple):
    """A run that went well, and what it has asked the kernel for."""

    calls: list[Call]
    records: list[dict[str, Any]]
    output: bytes

    @property
    def hop(self) -> dict[str, Any]:
        return next(record for record in self.records if record["type"] == "hop")

    def moved(self, *names: str) -> int:
        """Return the sum of what calls of these names have returned."""
        return sum(call.result for call in self.calls if call.name in names and call.result > 0)


def traced(folder: Path, *words: str | Path, more: tuple[str, ...] = (), **options: Any) -> Traced:
    """Run a command under strace, with records on standard error."""
    log = folder / "log"
    wanted = f"trace=execve,{','.join((*MOVING, *more))}"
    prefix = strace("-s", "0", "-e", "signal=none", "-e", wanted, "-o", str(log))
    done = zpipe(words[0], "--json", *words[1:], cwd=folder, before=prefix, **options)
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stderr.splitlines()]
    return Traced(parse(log.read_text()), records, done.stdout)


@pytest.mark.parametrize("source", ["stdin-pipe", "stdin-file", "stdin-socket"])
def test_tee_and_splice_carry_the_bulk(source: str, tmp_path: Path) -> None:
    """A byte is taken once, doubled for all but the last, and spliced to each."""
    data = pattern(SIZE)
    kinds = ["file", "fifo", "tcp", "unix", "exec", "null"]
    with ExitStack() as stack:
        giver = stack.enter_context(Peer(tmp_path, data))
        SOURCES[source](giver)
        takers = []
        for kind in kinds:
            (tmp_path / kind).mkdir()
            taker = stack.enter_context(Peer(tmp_path / kind, data))
            SINKS[kind](taker)
            takers.append(taker)
        words = [taker.operand for taker in takers]
        done = traced(tmp_path, "tee", *words, stdin=giver.standard)
        for fd in giver.give_away:
            os.close(fd)
        for taker in takers:
            assert taker.content() == data, taker.operand
    assert done.output == data
    # what came in small pieces of a stream was read and written
    large = done.hop["bytes_by_mover"]["tee"]
    assert large > SIZE * 0.9, "the bulk"
    outlets = len(kinds) + 1
    assert done.moved("tee") == (outlets - 1) * large
    # from the source, to the last private pipe, and from each pipe to its sink
    assert done.moved("splice") == (1 + 1 + outlets) * large
    assert done.hop["mover"] == "tee"


def test_each_tee_of_a_round_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as file:
        done = traced(tmp_path, "tee", "--pipe-size", "64K", "a", "b", "c", stdin=file)
    results = [call.result for call in done.calls if call.name == "tee"]
    assert all(result > 0 for result in results), "never into a full pipe"
    rounds = [results[place : place + 3] for place in range(0, len(results), 3)]
    assert all(len(set(each)) == 1 and len(each) == 3 for each in rounds), rounds
    assert sum(each[0] for each in rounds) == SIZE
    assert len(rounds) >= SIZE / 65536


@pytest.mark.parametrize(
    ("size", "count"), [("64K", 3), ("4K", 3), (None, 1), (None, 3), (None, 40)]
)
def test_private_pipes_have_one_capacity(size: str | None, count: int, tmp_path: Path) -> None:
    """And there are few pages of them, however many outputs."""
    names = [f"f{number}" for number in range(count)]
    words = ["tee", "--no-stdout", "exec:cat", *names]
    words += ["--pipe-size", size] if size is not None else []
    with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(b"x" * 100_000)
        process.stdin.flush()
        assert process.stdout.read(100_000) == b"x" * 100_000
        capacities = private_pipes(process)
        process.stdin.close()
        assert process.wait(LONGEST) == 0
    assert len(capacities) > count + 1
    assert len(set(capacities)) == 1, capacities
    if size is not None:
        assert capacities[0] == int(size.rstrip("K")) << 10
    else:
        assert sum(capacities) <= 16 << 20
        assert capacities[0] >= 64 << 10


def private_pipes(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the capacities of the pipes of which a process holds both ends, large ones only."""
    ends: dict[str, list[tuple[str, int]]] = {}
    folder = Path(f"/proc/{process.pid}/fd")
    for name in os.listdir(folder):
        link = os.readlink(folder / name)
        if link.startswith("pipe:"):
            flags = int((folder.parent / "fdinfo" / name).read_text().split()[3], 8)
            ends.setdefault(link, []).append((name, flags & os.O_ACCMODE))
    capacities = []
    for ours in ends.values():
        if {way for _, way in ours} == {os.O_RDONLY, os.O_WRONLY}:
            fd = os.open(folder / ours[0][0], os.O_RDONLY | os.O_NONBLOCK)
            capacities.append(fcntl.fcntl(fd, F_GETPIPE_SZ))
            os.close(fd)
    # that which wakes the process by signals is never grown
    wakeup = 65536
    if capacities.count(wakeup) == 1:
        capacities.remove(wakeup)
    return capacities


def test_the_calls_that_are_reported_are_those_that_are_made(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    for words in ((), ("--via", "plain"), ("-a",), ("--when-full", "spill", "--spill-dir", ".")):
        with open(tmp_path / "in", "rb") as file:
            command = ["tee", "--no-stdout", *words, "a", "b", "null:"]
            done = traced(tmp_path, *command, stdin=file)
        seen = Counter(call.name for call in done.calls if call.result >= 4096)
        told = done.hop["calls"]
        for name in ("tee", "splice", "readv"):
            # those that found a pipe empty or full count too
            assert seen[name] <= told.get(name, 0) <= seen[name] + 10, (words, name, seen, told)
        assert seen["write"] <= told.get("write", 0), (words, seen, told)


def test_what_is_spilled_is_spliced_too(tmp_path: Path) -> None:
    data = DATA * 4
    (tmp_path / "in").write_bytes(data)
    os.mkfifo(tmp_path / "slow")
    with ExitStack() as stack:
        got = bytearray()
        reader = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
        os.set_blocking(reader, True)
        stack.callback(os.close, reader)

        def take_late() -> None:
            path = tmp_path / "x"
            until(lambda: path.exists() and path.stat().st_size == len(data), "x is complete")
            receive(os.dup(reader), got)

        taker = threading.Thread(target=take_late)
        taker.start()
        with open(tmp_path / "in", "rb") as file:
            words = ["--no-stdout", "slow?when_full=spill&spill_dir=.", "x"]
            done = traced(tmp_path, "tee", *words, stdin=file)
        taker.join()
    assert bytes(got) == data
    assert done.moved("tee") == len(data)
    # in, to the last pipe, to the file, to the FIFO; and by way of the spilled file once more
    assert done.moved("splice") >= 5 * len(data)
    assert done.moved("readv", "preadv", "write", "pwrite64") < 100_000


def test_a_way_that_was_asked_for_is_taken(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    for way in ("tee", "plain"):
        done = traced(tmp_path, "cp", "--via", way, "in", "--to", "a", "--to", "null:")
        assert (tmp_path / "a").read_bytes() == DATA
        assert done.hop["bytes_by_mover"] == {way: SIZE}
        if way == "tee":
            assert done.moved("tee") == SIZE
            assert done.moved("splice") == 4 * SIZE
            assert done.moved("readv") == 0
        else:
            assert done.moved("tee", "splice") == 0
            assert done.moved("readv") == SIZE
            assert done.moved("write") >= 2 * SIZE


@pytest.mark.parametrize(("size", "way"), [(1000, "plain"), (32 << 10, "plain"), (40_000, "tee")])
def test_a_small_file_is_read_and_written(size: int, way: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA[:size])
    done = traced(tmp_path, "cp", "in", "--to", "a", "--to", "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA[:size]
    assert done.hop["mover"] == way
    assert (done.moved("tee") > 0) == (way == "tee")


def test_a_file_that_appends_is_written_to_and_the_others_are_spliced_to(tmp_path: Path) -> None:
    """The refusal of one holds up nobody."""
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as file:
        done = traced(tmp_path, "tee", "--no-stdout", "file:a?append=1", "b", stdin=file)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA
    assert done.moved("tee") == SIZE
    assert done.moved("write") >= SIZE
    movers = {output["sink"]: output["mover"] for output in done.hop["outputs"]}
    assert movers == {"file:a?append=1": "tee, written", "b": "tee"}


def test_pages_of_the_source_are_not_copied_to_pipes(tmp_path: Path) -> None:
    """What a pipe gets are references, and the plan says what that means."""
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as file:
        done = traced(tmp_path, "tee", "exec:dd of=/dev/null status=none", stdin=file)
    assert done.output == DATA
    assert done.moved("readv", "write") < 100_000
    assert "by reference" in done.records[0]["caveat"]
    with open(tmp_path / "in", "rb") as file:
        stable = traced(tmp_path, "tee", "--stable", "null:", stdin=file)
    assert stable.output == DATA
    assert stable.records[0]["caveat"] is None


def test_a_single_output_needs_no_tee(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(DATA)
    with open(tmp_path / "in", "rb") as file:
        done = traced(tmp_path, "tee", stdin=file)
    assert done.output == DATA
    assert not [call for call in done.calls if call.name == "tee"]


# Pipes that others hold too

TOUCH = """
import fcntl, os, sys, termios
os.set_blocking(0, False)
fcntl.ioctl(0, termios.FIONREAD, bytes(4))
fcntl.fcntl(0, 1032)
try:
    os.write(0, b"x") if sys.argv[1] == "write" else os.read(0, 1)
except OSError:
    pass
"""


@pytest.mark.parametrize("kind", ["tcp", "unix", "fifo"])
@pytest.mark.parametrize("side", ["read", "write"])
def test_nobody_hangs_on_a_pipe_that_is_shared(kind: str, side: str, tmp_path: Path) -> None:
    """While a reader is waited for, whoever else has standard input or an output touches it."""
    with ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(tmp_path / "slow")
            fd = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
            stack.callback(os.close, fd)
            operand = "slow"
        else:
            end = stack.enter_context(
                socket.socket(socket.AF_INET if kind == "tcp" else socket.AF_UNIX)
            )
            end.bind(("127.0.0.1", 0) if kind == "tcp" else str(tmp_path / "l"))
            end.listen()
            place = f"tcp://127.0.0.1:{end.getsockname()[1]}" if kind == "tcp" else "unix:l"
            operand = place
        inner, outer = os.pipe()
        stack.callback(os.close, inner)
        process = stack.enter_context(
            started("tee", "--no-stdout", operand, "x", stdin=inner, cwd=tmp_path)
        )
        writer = threading.Thread(target=flood, args=(outer,))
        writer.start()
        assert process.stderr is not None
        until_listening_to_signals(process)

        def blocked() -> bool:
            process.send_signal(signal.SIGUSR1)
            assert process.stderr is not None
            return ", blocked, " in process.stderr.readline().decode()

        until(blocked, "the reader is waited for")
        way = os.O_WRONLY if side == "write" else os.O_RDONLY
        touched = os.open(f"/proc/self/fd/{inner}", way | os.O_NONBLOCK)
        # fails by its timeout if the kernel holds it
        subprocess.run(
            [sys.executable, "-c", TOUCH, side],
            stdin=touched,
            timeout=LONGEST / 2,
            check=True,
        )
        os.close(touched)
        process.kill()
        process.wait()
        receive(os.dup(inner), bytearray())
        writer.join()


def flood(fd: int) -> None:
    """Write a lot, until nobody reads."""
    try:
        for _ in range(8):
            rest = memoryview(DATA)
            while rest:
                rest = rest[os.write(fd, rest) :]
    except BrokenPipeError:
        pass
    finally:
        os.close(fd)


def test_pipes_of_others_are_grown_and_never_made_smaller(tmp_path: Path) -> None:
    for before in (4096, 65536, 1 << 20):
        reader, writer = os.pipe()
        fcntl.fcntl(writer, F_SETPIPE_SZ, before)
        done = zpipe("tee", "x", data=b"abc", stdout=writer, cwd=tmp_path)
        assert done.returncode == 0
        assert fcntl.fcntl(writer, F_GETPIPE_SZ) == max(before, 512 << 10)
        os.close(writer)
        os.close(reader)


def test_a_terminal_as_an_output(tmp_path: Path) -> None:
    """It cannot be spliced to; the others are."""
    ours, theirs = os.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    data = re.sub(rb"[^\x20-\x7e]", b".", DATA[:200_000])
    (tmp_path / "in").write_bytes(data)
    got = bytearray()

    def take() -> None:
        # both outputs are that terminal: it has everything twice, in some order
        while len(got) < 2 * len(data):
            got.extend(os.read(ours, 65536))

    taker = threading.Thread(target=take)
    taker.start()
    with open(tmp_path / "in", "rb") as file:
        done = zpipe("tee", "x", os.ttyname(theirs), stdin=file, stdout=theirs, cwd=tmp_path)
    taker.join()
    os.close(ours)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(got) == sorted(data + data)
    assert (tmp_path / "x").read_bytes() == data
