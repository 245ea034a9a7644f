"""Several sinks where something fails: the others go on, and what is said is true."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from tests.commands.shell import refused, shell, went_well
from tests.failures.denied import allowed, denying
from tests.failures.test_limits import no_pages_left
from tests.machine import (
    LONGEST,
    content,
    mounted,
    need,
    need_root,
    nobody,
    started,
    strace,
    until,
    until_listening_to_signals,
    zpipe,
)
from tests.paths.peers import receive

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = content(1_300_001)
THREADS = ("clone:0&0x10000", "clone3")
NAMES = ["a", "b", "c"]


def tee(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `zpipe tee` to its end."""
    return zpipe("tee", *words, **options)


def records(said: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines()]


def outputs(said: bytes) -> dict[str, dict[str, Any]]:
    """Return what the last record tells of each output, by name."""
    return {output["sink"]: output for output in records(said)[-1]["outputs"]}


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


def rest(fd: int) -> bytes:
    """Read to the end; the fd stays open."""
    data = bytearray()
    receive(os.dup(fd), data)
    return bytes(data)


def asked(process: subprocess.Popen[bytes]) -> str:
    """Ask for a status line and return it."""
    assert process.stderr is not None
    process.send_signal(signal.SIGUSR1)
    return process.stderr.readline().decode()


def judge(done: subprocess.CompletedProcess[bytes], data: bytes, folder: Path) -> dict[str, str]:
    """Hold a run with --json to its word: each output has what is stated, a prefix at least.

    Return the state of each.
    """
    assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr, done.stderr
    found = outputs(done.stderr)
    for name, output in found.items():
        if name == "standard output":
            got = done.stdout
        elif (folder / name).is_file():
            got = (folder / name).read_bytes()
        else:
            continue
        if output["state"] == "done":
            assert got == data, f"{name}: done, and {len(got)} bytes are there"
        assert output["bytes"] == len(got), f"{name}: {output}: {len(got)} bytes are there"
        assert data.startswith(got), f"{name} differs"
        if output["state"] == "failed":
            assert f"dropped at byte {len(got)}" in output["error"] or done.returncode == 1
    states = {name: output["state"] for name, output in found.items()}
    last = records(done.stderr)[-1]
    if set(states.values()) <= {"done"} and last["type"] == "end":
        assert done.returncode == 0
    else:
        assert done.returncode == (5 if last.get("exit") == 5 else 1), (done.returncode, last)
    return states


# A disk


@pytest.mark.parametrize("words", [(), ("-a",), ("--via", "plain"), ("--when-full", "spill")])
def test_a_full_disk_under_one_of_four(words: tuple[str, ...], tmp_path: Path, tiny: Path) -> None:
    if "spill" in words:
        words = (*words, "--spill-dir", str(tmp_path))
    done = tee(*words, "a", tiny / "x", "b", data=DATA, cwd=tmp_path)
    got = (tiny / "x").read_bytes()
    refused(
        done,
        5,
        f"{tiny / 'x'}: write: No space left on device; dropped at byte {len(got)}, ",
        "the others go on",
    )
    assert 500_000 < len(got) < len(DATA)
    assert DATA.startswith(got)
    assert done.stdout == (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == DATA


def test_a_full_disk_under_all_of_them(tiny: Path) -> None:
    """Nobody is left: it ends at once, before the input does."""
    with started("tee", "--no-stdout", "a", "b", stdin=subprocess.PIPE, cwd=tiny) as process:
        assert process.stdin is not None and process.stderr is not None
        try:
            process.stdin.write(DATA)
            process.stdin.flush()
        except BrokenPipeError:
            pass
        assert process.wait(LONGEST) == 1  # standard input is open still
        lines = process.stderr.read().decode().splitlines()
        try:
            process.stdin.close()
        except BrokenPipeError:
            pass
    taken = {}
    for line in lines:
        found = re.fullmatch(
            r"zpipe: ([ab]): write: No space left on device;"
            r" (?:dropped at byte |)(\d+)(?: bytes were delivered|)(?:, the others go on)?",
            line,
        )
        assert found, line
        taken[found[1]] = int(found[2])
    assert taken == {name: (tiny / name).stat().st_size for name in ("a", "b")}
    assert sum(taken.values()) > 800_000


@contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Let whoever writes to a filesystem sleep in the kernel, where no signal wakes him."""
    subprocess.run([need("fsfreeze"), "--freeze", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=True)


def sleeps_in_the_kernel(process: subprocess.Popen[bytes]) -> bool:
    for task in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{task}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "D":
                return True
    return False


def send_all(stream: IO[bytes], data: bytes) -> None:
    """Write as much as is wanted."""
    try:
        os.write(stream.fileno(), data)
    except BrokenPipeError:
        pass


def taken(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


@pytest.mark.parametrize("spills", [False, True], ids=["written to", "spilled to"])
def test_a_disk_that_stands_still_holds_nobody_up(spills: bool, tmp_path: Path) -> None:
    """Neither the others, nor who wants it to end: only the process itself cannot go away."""
    with (
        mounted("ext4", tmp_path / "disk", 32 << 20) as disk,
        fifo(tmp_path / "slow"),
    ):
        sink = f"slow?when_full=spill&spill_dir={disk}" if spills else f"{disk}/x"
        with started(
            "tee", "--no-stdout", sink, "b", stdin=subprocess.PIPE, cwd=tmp_path
        ) as process:
            assert process.stdin is not None and process.stderr is not None
            process.stdin.write(DATA[:1000])
            process.stdin.flush()
            until(lambda: taken(tmp_path / "b") == 1000, "it is under way")
            with frozen(disk):
                feeder = threading.Thread(target=send_all, args=(process.stdin, DATA[1000:]))
                feeder.start()
                until(lambda: sleeps_in_the_kernel(process), "the disk holds a thread")
                process.send_signal(signal.SIGINT)
                asked(process)
                asked(process)  # by now it has heard of the first one
                process.send_signal(signal.SIGINT)
                said = process.stderr.readline().decode()
            assert process.wait(LONGEST) == -signal.SIGINT
            feeder.join()
    assert said.startswith("zpipe: standard input: ended by SIGINT; ")
    assert f"b took {taken(tmp_path / 'b')} bytes" in said


def test_the_largest_file_that_is_allowed(tmp_path: Path) -> None:
    """EFBIG, and no death by SIGXFSZ."""
    limit = shell('ulimit -f 1000; exec "$@"')
    blocks = subprocess.run(
        [*shell("ulimit -f 1000; head -c 2000000 /dev/zero"), "sh"],
        stdout=open(tmp_path / "probe", "wb"),
        check=False,
    )
    assert blocks.returncode != 0
    largest = (tmp_path / "probe").stat().st_size
    done = tee("a", data=DATA, cwd=tmp_path, before=limit)
    refused(done, 5, f"a: write: File too large; dropped at byte {largest}, the others go on")
    assert done.stdout == DATA
    assert (tmp_path / "a").read_bytes() == DATA[:largest]


@pytest.mark.parametrize(
    ("call", "path", "words", "name"),
    [
        (*case, name)
        for case in (
            ("tee", "", ()),
            ("splice", "in", ()),
            ("splice", "b", ()),
            ("readv", "in", ("--via", "plain")),
            ("write", "b", ("--via", "plain")),
            ("write", "b", ("-a",)),
        )
        for name in ("EIO", "EINVAL", "EINTR")
        # to read and to write is never refused
        if name != "EINVAL" or case[0] in ("tee", "splice")
    ],
    ids=str,
)
def test_a_call_that_fails(
    call: str, path: str, words: tuple[str, ...], name: str, tmp_path: Path
) -> None:
    """The first or the fourth, of a file if one is named: all arrives, or what did is told."""
    (tmp_path / "in").write_bytes(DATA)

    def attempt(when: int) -> int:
        folder = tmp_path / str(when)
        folder.mkdir()
        (folder / "b").write_bytes(b"")  # strace knows a file by what it is when it begins
        prefix = ["-o", str(folder / "log"), "-s", "0", "-e", f"trace={call}"]
        prefix += ["-e", f"inject={call}:error={name}:when={when}"]
        prefix += ["-P", str(folder / path if path == "b" else tmp_path / path)] if path else []
        with open(tmp_path / "in", "rb") as file:
            done = tee(
                *("--json", "--no-stdout", "--pipe-size", "64K", *words, *NAMES),
                stdin=file,
                cwd=folder,
                before=strace(*prefix),
            )
        assert "(INJECTED)" in (folder / "log").read_text(), "it is called as often as that"
        states = judge(done, DATA, folder)
        if path == "b":
            assert states["a"] == states["c"] == "done"
        return done.returncode

    with ThreadPoolExecutor(2) as pool:
        statuses = list(pool.map(attempt, (1, 4)))
    failed = 5 if path == "b" else 1
    if name == "EINTR":
        assert statuses == [0, 0]
    elif name == "EINVAL" and call in ("tee", "splice"):
        assert statuses == [0, failed], "only the first refusal is no failure"
    else:
        assert statuses == [failed, failed]


# A reader


@pytest.mark.parametrize("mode", ["warn-nopipe", "warn", "exit", "exit-nopipe"])
def test_a_reader_that_is_killed_half_way(mode: str, tmp_path: Path) -> None:
    """By a signal, while it holds up all of us."""
    words = ["tee", "--json", f"--output-error={mode}", "--no-stdout", "a", "exec:dd of=b bs=64K"]
    data = DATA * 3
    os.mkfifo(tmp_path / "a")
    reader = subprocess.Popen(
        ["sh", "-c", "exec 3<a; head -c 100000 <&3 >part; echo; exec sleep 60"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    with reader, started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stderr is not None
        assert reader.stdout is not None
        stdin = process.stdin

        def write() -> None:
            try:
                stdin.write(data)
                stdin.close()
            except BrokenPipeError:
                pass

        writer = threading.Thread(target=write)
        writer.start()
        assert reader.stdout.readline() == b"\n"
        reader.kill()
        status = process.wait(LONGEST)
        writer.join()
        try:
            stdin.close()
        except BrokenPipeError:
            pass
        said = b"".join(line for line in process.stderr if line.startswith(b"{"))
    assert status == {"warn-nopipe": 0, "warn": 5, "exit": 1, "exit-nopipe": 0}[mode]
    found = outputs(said)
    assert found["a"]["state"] == ("left" if "nopipe" in mode else "failed")
    assert 100_000 <= found["a"]["bytes"] < len(data)
    assert (tmp_path / "part").read_bytes() == data[:100_000]
    if mode == "exit":
        assert data.startswith((tmp_path / "b").read_bytes())
    else:
        assert (tmp_path / "b").read_bytes() == data


@pytest.mark.parametrize("idle", [True, False], ids=["idle", "busy"])
def test_a_connection_that_is_reset(idle: bool, tmp_path: Path) -> None:
    """A socket is no pipe: that its reader has gone is a failure, and told with the reason."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        operand = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        words = ["tee", "--json", "--no-stdout", operand, "x"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None and process.stderr is not None
            assert json.loads(process.stderr.readline())["type"] == "start"
            connection, _ = listener.accept()
            process.stdin.write(b"abc")
            process.stdin.flush()
            assert connection.recv(3) == b"abc"
            if not idle:
                process.stdin.write(DATA)
                process.stdin.flush()
                connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            dropped = json.loads(process.stderr.readline())
            assert (dropped["type"], dropped["sink"], dropped["state"]) == (
                "dropped",
                operand,
                "failed",
            )
            assert re.fullmatch(
                rf"{re.escape(operand)}: write: (Connection reset by peer|Broken pipe);"
                rf" dropped at byte {dropped['bytes']}, the others go on",
                dropped["error"],
            )
            assert dropped["bytes"] >= 3
            process.stdin.write(b"more")
            process.stdin.close()
            assert process.wait(LONGEST) == 5
    assert (tmp_path / "x").read_bytes() == b"abc" + (b"" if idle else DATA) + b"more"


def test_where_all_stop_what_is_stated_is_there(tmp_path: Path) -> None:
    """Threads that were writing when one failed have ended when it is told how far they came."""
    (tmp_path / "in").write_bytes(DATA)
    for _ in range(5):
        with open(tmp_path / "in", "rb") as file:
            words = ["--json", "--no-stdout", "--output-error=exit", "--pipe-size", "64K"]
            done = tee(*words, "a", "/dev/full", "b", stdin=file, cwd=tmp_path)
        assert done.returncode == 1
        assert judge(done, DATA, tmp_path)["/dev/full"] == "failed"


def test_children_that_fail_and_children_that_leave(tmp_path: Path) -> None:
    """A status that is not 0 counts, whenever it comes; an early end with 0 is like `>(head)`."""
    data = DATA * 2
    cases = {
        "exec:true": (0, "left"),
        "exec:head -c 10": (0, "left"),
        "exec:false": (5, "failed"),
        "exec:sh -c 'head -c 10 >/dev/null; exit 3'": (5, "failed"),
        "exec:sh -c 'cat >/dev/null; exit 3'": (5, "failed"),
        "exec:sh -c 'kill -9 $$'": (5, "failed"),
    }
    for command, (status, state) in cases.items():
        done = tee("--json-fd", "2", command, "x", "--no-stdout", data=data, cwd=tmp_path)
        assert done.returncode == status, (command, done.stderr)
        found = outputs(b"".join(re.findall(rb"(?m)^\{.*\n", done.stderr)))
        assert found[command]["state"] == state, found[command]
        if state == "failed":
            why = {"false": "exit status 1", "-9 $$'": "died of SIGKILL"}
            reason = next((why[end] for end in why if command.endswith(end)), "exit status 3")
            assert found[command]["error"].startswith(f"{command}: {reason}"), found[command]
        assert (tmp_path / "x").read_bytes() == data


def test_a_child_that_fails_where_all_are_to_stop(tmp_path: Path) -> None:
    done = tee("--output-error=exit", "exec:sh -c 'cat >y; exit 3'", "x", data=DATA, cwd=tmp_path)
    refused(done, 1, "exec:sh -c 'cat >y; exit 3': exit status 3")


# Rights


def test_a_file_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "locked").write_bytes(b"precious")
    (tmp_path / "locked").chmod(0o444)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    tmp_path.chmod(0o755)
    done = tee("locked", "new", "open/x", data=DATA, cwd=tmp_path, before=nobody())
    assert done.returncode == 5
    assert done.stderr.decode().splitlines() == [
        "zpipe: locked: open: Permission denied",
        "zpipe: new: open: Permission denied",
    ]
    assert done.stdout == (tmp_path / "open" / "x").read_bytes() == DATA
    assert (tmp_path / "locked").read_bytes() == b"precious"
    done = tee("--output-error=exit", "open/y", "locked", data=DATA, cwd=tmp_path, before=nobody())
    refused(done, 1, "locked: open: Permission denied")
    assert not (tmp_path / "open" / "y").exists() or not (tmp_path / "open" / "y").stat().st_size


# Too few of everything


def test_few_fds(tmp_path: Path) -> None:
    """At every limit it is right, or says in one line what is missing; somewhere only the pipes
    are: then it is read once and written to each, and the report says so.
    """
    (tmp_path / "in").write_bytes(DATA)
    without_pipes = 0
    for limit in range(5, 60):
        with open(tmp_path / "in", "rb") as file:
            done = tee(
                *("--json-fd", "1", "--no-stdout", *NAMES),
                stdin=file,
                cwd=tmp_path,
                before=shell(f'ulimit -n {limit}; exec "$@"'),
            )
        if not done.stdout:
            continue  # Python itself could not begin
        found = records(done.stdout)
        if done.returncode == 0:
            for name in NAMES:
                assert (tmp_path / name).read_bytes() == DATA
            hop = next(record for record in found if record["type"] == "hop")
            if hop["mover"].startswith("tee"):
                break
            fallback = next(record for record in found if record["type"] == "fallback")
            assert (fallback["mover"], fallback["call"], fallback["errno"]) == (
                "tee",
                "pipe",
                errno.EMFILE,
            )
            without_pipes += 1
        else:
            assert b"Too many open files" in done.stderr, done.stderr
            assert b"Traceback" not in done.stderr and b"internal error" not in done.stderr
            assert done.returncode in (1, 5), done.stderr
    else:
        pytest.fail("it never had enough")
    assert without_pipes, "the pipes alone were never too many"


def test_no_threads_are_granted(tmp_path: Path) -> None:
    """Files are written by the one that there is, between the others."""
    done = tee(*NAMES, "exec:dd of=d status=none bs=64K", data=DATA, cwd=tmp_path)
    went_well(done)
    allowed()
    with open(tmp_path / "d", "wb") as kept:
        # a child would be refused like a thread: standard output takes its place
        done = tee("--json", *NAMES, data=DATA, cwd=tmp_path, before=denying("EAGAIN", *THREADS))
        kept.write(done.stdout)
    states = judge(done, DATA, tmp_path)
    assert set(states.values()) == {"done"}
    assert (tmp_path / "d").read_bytes() == DATA


def test_no_threads_are_granted_to_those_that_need_one(tmp_path: Path) -> None:
    """A digest and what spills cannot do without: one line, no traceback."""
    allowed()
    for words in (("hash:md5",), ("x?when_full=spill&spill_dir=.",)):
        done = tee(*words, "y", data=DATA, cwd=tmp_path, before=denying("EAGAIN", *THREADS))
        assert done.returncode in (1, 5), done.stderr
        assert b"internal error" not in done.stderr and b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") == 1, done.stderr
        assert b"thread" in done.stderr, done.stderr


def test_a_user_who_may_have_no_more_threads(tmp_path: Path) -> None:
    """RLIMIT_NPROC, which root does not heed: files do without, a digest cannot."""
    need_root()
    nobody()  # can another user run it at all?
    number = 1_000_000 + os.getpid()  # of whom there is no other process
    tmp_path.chmod(0o777)
    his = ["bash", "-c", 'ulimit -u 1; exec "$@"', "bash"]
    his += [need("setpriv"), f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    done = tee("--json", *NAMES, "hash:md5", data=DATA, cwd=tmp_path, before=his)
    states = judge(done, DATA, tmp_path)
    assert states.pop("hash:md5") == "failed"
    assert "start a thread" in outputs(done.stderr)["hash:md5"]["error"]
    assert list(states.values()) == ["done"] * 4


@pytest.mark.parametrize("words", [(), ("--when-full", "spill", "--spill-dir", ".")])
def test_no_pages_for_pipes_are_left(words: tuple[str, ...], tmp_path: Path) -> None:
    """8 KiB for a pipe: slower, and still right."""
    tmp_path.chmod(0o777)
    with no_pages_left() as his, open(tmp_path / "log", "wb") as log:
        log.write(b"")
        (tmp_path / "in").write_bytes(DATA)
        with open(tmp_path / "in", "rb") as file:
            done = tee(
                *("--json", *words, *NAMES, "exec:dd of=d status=none bs=64K"),
                stdin=file,
                cwd=tmp_path,
                before=his,
            )
    states = judge(done, DATA, tmp_path)
    assert set(states.values()) == {"done"}
    assert (tmp_path / "d").read_bytes() == DATA


@pytest.mark.parametrize(
    ("name", "calls"),
    [("ENOSYS", ("tee",)), ("EPERM", ("splice",)), ("ENOSYS", ("splice", "tee"))],
    ids=str,
)
@pytest.mark.parametrize("stdin", ["pipe", "file"])
@pytest.mark.parametrize("spill", [False, True], ids=["block", "spill"])
def test_calls_that_are_denied(
    calls: tuple[str, ...], name: str, stdin: str, spill: bool, tmp_path: Path
) -> None:
    allowed()
    (tmp_path / "in").write_bytes(DATA)
    words = ["--when-full", "spill", "--spill-dir", "."] if spill else []
    words = ["--json", *words, "a", "b", "exec:dd of=d status=none bs=64K", "p%d", "--split-size"]
    with open(tmp_path / "in", "rb") as file:
        given: dict[str, Any] = {"stdin": file} if stdin == "file" else {"data": DATA}
        done = tee(*words, "500000", cwd=tmp_path, before=denying(name, *calls), **given)
    states = judge(done, DATA, tmp_path)
    assert set(states.values()) == {"done"}
    assert (tmp_path / "d").read_bytes() == DATA
    parts = [(tmp_path / f"p{number}").read_bytes() for number in range(3)]
    assert parts == [DATA[:500_000], DATA[500_000:1_000_000], DATA[1_000_000:]]
    movers = {output["mover"] for output in outputs(done.stderr).values()}
    assert movers <= {"plain", "tee, written", "splice, written"}, movers


def test_what_was_spilled_is_read_where_splice_is_denied_for_that(tmp_path: Path) -> None:
    """As by a filesystem that splices one way only: the file is the end with an offset."""
    allowed()
    (tmp_path / "place").mkdir()
    data = DATA * 3
    (tmp_path / "in").write_bytes(data)
    with fifo(tmp_path / "slow") as reader, open(tmp_path / "in", "rb") as file:
        words = ["--no-stdout", "--when-full", "spill", "--spill-dir", "place", "slow", "x"]
        denied = denying("EINVAL", "splice:1&0xfffffff0")
        with started("tee", *words, stdin=file, cwd=tmp_path, before=denied) as process:
            until_listening_to_signals(process)
            until(lambda: "spilling" in asked(process), "it spills")
            assert rest(reader) == data
            assert process.wait(LONGEST) == 0


def test_spill_to_a_filesystem_where_all_files_have_names(tmp_path: Path) -> None:
    """Without O_TMPFILE: a name that is gone at once."""
    place = tmp_path / "place"
    place.mkdir()
    fault = strace(
        *("-o", "/dev/null", "-P", str(place)),
        *("-e", "trace=openat", "-e", "inject=openat:error=EOPNOTSUPP"),
    )
    words = ("--when-full", "spill", "--spill-dir", str(place))
    done = tee("--json", *words, *NAMES, data=DATA, cwd=tmp_path, before=fault)
    assert set(judge(done, DATA, tmp_path).values()) == {"done"}
    assert os.listdir(place) == []


def test_a_way_that_was_asked_for_and_is_denied(tmp_path: Path) -> None:
    allowed()
    done = tee("--via", "tee", "a", data=DATA, cwd=tmp_path, before=denying("ENOSYS", "tee"))
    refused(done, 1, "--via tee: tee: Function not implemented (ENOSYS)")


# Standard fds


def test_standard_input_is_closed(tmp_path: Path) -> None:
    done = tee("x", cwd=tmp_path, before=shell('exec "$@" <&-'))
    refused(done, 1, "standard input: read: ")
    assert os.listdir(tmp_path) == [], "nothing is created or truncated"


def test_standard_output_is_closed(tmp_path: Path) -> None:
    """GNU tee says so too, and does the rest."""
    done = tee("x", data=DATA, cwd=tmp_path, before=shell('exec "$@" >&-'))
    refused(done, 5, "standard output: write: ")
    assert (tmp_path / "x").read_bytes() == DATA
    done = tee(data=DATA, before=shell('exec "$@" >&-'))
    refused(done, 1, "standard output: write: ")


def test_standard_error_is_closed(tmp_path: Path) -> None:
    done = tee("x", "nosuch/y", data=DATA, cwd=tmp_path, before=shell('exec "$@" 2>&-'))
    assert (done.returncode, done.stdout) == (5, DATA)
    assert (tmp_path / "x").read_bytes() == DATA


def test_streams_that_do_not_block_already(tmp_path: Path) -> None:
    """Whoever gave them finds them as they were."""
    ours, stdin = socket.socketpair()
    reader, stdout = os.pipe()
    pipe_reader, pipe_writer = os.pipe()
    fds = (stdin.fileno(), stdout, pipe_reader)
    for fd in fds:
        os.set_blocking(fd, False)
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds]
    for source, writer in ((stdin.fileno(), ours.detach()), (pipe_reader, pipe_writer)):
        with started("tee", "x", stdin=source, stdout=stdout, cwd=tmp_path) as process:
            sender = threading.Thread(target=send, args=(writer, DATA))
            sender.start()
            got = b""
            while len(got) < len(DATA):
                got += os.read(reader, 4096)
            sender.join()
            assert process.wait(LONGEST) == 0
        assert got == (tmp_path / "x").read_bytes() == DATA
    assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in fds] == before
    stdin.close()
    for fd in (reader, stdout, pipe_reader):
        os.close(fd)


def send(fd: int, data: bytes) -> None:
    """Write everything and close."""
    with open(fd, "wb") as file:
        file.write(data)


def test_streams_that_block_stay_so(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    out, stdout = os.pipe()
    before = [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (reader, stdout)]
    with started("tee", "x", stdin=reader, stdout=stdout, cwd=tmp_path) as process:
        os.write(writer, b"abc")
        assert os.read(out, 3) == b"abc"
        assert [fcntl.fcntl(fd, fcntl.F_GETFL) for fd in (reader, stdout)] == before
        os.close(writer)
        assert process.wait(LONGEST) == 0
    for fd in (reader, out, stdout):
        os.close(fd)


def test_standard_output_that_appends(tmp_path: Path) -> None:
    """`>>log`: what others add meanwhile is not overwritten."""
    (tmp_path / "log").write_bytes(b"before\n")
    done = tee("x", data=DATA, cwd=tmp_path, before=shell('exec "$@" >>log'))
    went_well(done)
    assert (tmp_path / "log").read_bytes() == b"before\n" + DATA
    assert (tmp_path / "x").read_bytes() == DATA


def test_standard_output_in_the_middle_of_a_file(tmp_path: Path) -> None:
    script = '{ echo header; "$@"; echo footer; } >log'
    went_well(tee("x", data=DATA, cwd=tmp_path, before=shell(script)))
    assert (tmp_path / "log").read_bytes() == b"header\n" + DATA + b"footer\n"


# Input that trickles


def has_size(path: Path, count: int) -> bool:
    """Tell whether a file is there by now, and so long."""
    return path.exists() and path.stat().st_size == count


@pytest.mark.parametrize("words", [(), ("--via", "plain"), ("--via", "tee"), ("-a",)], ids=" ".join)
@pytest.mark.parametrize("policy", ["block", "spill&spill_dir=.", "detach"])
def test_each_byte_has_reached_everybody_before_the_next_is_sent(
    policy: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    with (
        fifo(tmp_path / "fifo") as reader,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        operands = ["fifo", "x", f"tcp://127.0.0.1:{listener.getsockname()[1]}"]
        operands += ["exec:sh -c 'exec cat >y'"]
        command = ["tee", *words, *(f"{operand}?when_full={policy}" for operand in operands)]
        with started(*command, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            connection, _ = listener.accept()
            with connection:
                assert process.stdin is not None and process.stdout is not None
                for count, byte in enumerate(b"trickle\0\n\xff", 1):
                    one = bytes([byte])
                    process.stdin.write(one)
                    process.stdin.flush()
                    assert process.stdout.read(1) == one
                    assert connection.recv(1) == one
                    for name in ("x", "y"):
                        path = tmp_path / name
                        until(partial(has_size, path, count), "the file has it")
                    assert os.read(reader, 1) == one
                process.stdin.close()
                assert connection.recv(1) == b""
            assert process.wait(LONGEST) == 0
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == b"trickle\0\n\xff"


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_when_what_was_read_is_delivered(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Files keep it; readers get it, however late; then it dies by the signal."""
    with fifo(tmp_path / "slow") as slow:
        words = ["tee", "--pipe-size", "64K", "slow", "x", "exec:dd of=y status=none bs=4K"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None and process.stdout is not None
            writer = threading.Thread(target=send_until_refused, args=(process.stdin, DATA * 4))
            writer.start()
            taken = bytearray()
            taker = threading.Thread(target=receive, args=(os.dup(process.stdout.fileno()), taken))
            taker.start()
            until_listening_to_signals(process)
            until(lambda: "slow: 512 KiB, blocked" in asked(process), "one holds it up")
            process.send_signal(number)
            # answered after the signal was heard: it waits for the slow one
            assert "slow: 512 KiB, blocked" in asked(process)
            got = rest(slow)
            assert process.wait(LONGEST) == -number
            writer.join()
            taker.join()
            assert process.stderr is not None
            text = process.stderr.read().decode()
    assert got == bytes(taken) == (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert 512 << 10 < len(got) < len(DATA) * 4
    assert (DATA * 4).startswith(got)
    assert text.startswith(f"zpipe: standard input: ended by {number.name}; ")
    assert text.count(f" took {len(got)} bytes") == 4
    assert text.count("\n") == 1


def send_until_refused(stream: Any, data: bytes) -> None:
    try:
        stream.write(data)
        stream.close()
    except BrokenPipeError:
        pass


def test_a_second_signal_does_not_wait_for_a_stuck_reader(tmp_path: Path) -> None:
    with fifo(tmp_path / "slow") as slow:
        words = ["tee", "--no-stdout", "--json", "--pipe-size", "64K", "slow", "x"]
        with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
            assert process.stdin is not None and process.stderr is not None
            stderr = process.stderr
            writer = threading.Thread(target=send_until_refused, args=(process.stdin, DATA * 4))
            writer.start()
            stderr.readline()
            until_listening_to_signals(process)

            def stuck() -> bool:
                process.send_signal(signal.SIGUSR1)
                slow_one = json.loads(stderr.readline())["outputs"][0]
                return bool(slow_one["bytes"] == 512 << 10)

            until(stuck, "one holds it up")
            process.send_signal(signal.SIGINT)
            assert stuck(), "one signal alone waits"
            process.send_signal(signal.SIGINT)
            assert process.wait(LONGEST) == -signal.SIGINT
            writer.join()
            said = stderr.read()
        got = rest(slow)
    found = outputs(said)
    assert records(said)[-1]["signal"] == signal.SIGINT
    assert found["slow"]["bytes"] == len(got) == 512 << 10
    assert found["x"]["bytes"] == (tmp_path / "x").stat().st_size
    assert (DATA * 4).startswith((tmp_path / "x").read_bytes())


def test_sigint_is_ignored_where_that_is_asked_for(tmp_path: Path) -> None:
    """So that the last words of an interrupted producer are recorded."""
    words = ["tee", "-i", "--pipe-size", "64K", "x"]
    with started(*words, stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdin is not None and process.stdout is not None
        until_listening_to_signals(process)
        for line in (b"first\n", b"second\n", b"third\n"):
            process.send_signal(signal.SIGINT)
            assert "standard input -> standard output, x" in asked(process)
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line
        process.send_signal(signal.SIGTERM)  # only the other one is ignored
        assert process.wait(LONGEST) == -signal.SIGTERM
    assert (tmp_path / "x").read_bytes() == b"first\nsecond\nthird\n"


def test_a_producer_and_a_consumer_of_one_job(tmp_path: Path) -> None:
    """^C reaches all of a pipeline: with -i what the producer says at its end is kept."""
    script = "trap 'echo last; exit' INT; echo first; while :; do read x <wait; done"
    os.mkfifo(tmp_path / "wait")
    producer = subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, cwd=tmp_path, start_new_session=True
    )
    with producer:
        assert producer.stdout is not None
        with started("tee", "-i", "x", stdin=producer.stdout, cwd=tmp_path) as process:
            producer.stdout.close()
            assert process.stdout is not None
            assert process.stdout.readline() == b"first\n"
            until_listening_to_signals(process)
            process.send_signal(signal.SIGINT)
            os.killpg(producer.pid, signal.SIGINT)
            assert process.stdout.readline() == b"last\n"
            assert process.wait(LONGEST) == 0
    assert (tmp_path / "x").read_bytes() == b"first\nlast\n"


# Nothing moves


def test_a_stalled_side_has_a_name(tmp_path: Path) -> None:
    words = ["tee", "--no-stdout", "--stall-timeout", "200ms"]
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    with started(*words, "x", "null:", stdin=reader, cwd=tmp_path) as process:
        assert process.stderr is not None
        assert process.wait(LONGEST) == 4
        text = process.stderr.read().decode()
    os.close(reader)
    os.close(writer)
    assert text.startswith("zpipe: standard input: no data came for 0.2 s; ")
    assert "x took 3 bytes" in text and "null: took 3 bytes" in text
    assert (tmp_path / "x").read_bytes() == b"abc"
    with fifo(tmp_path / "slow") as slow, open("/dev/zero", "rb") as zeros:
        words = ["--no-stdout", "--stall-timeout", "200ms", "slow", "null:", "x"]
        done = tee(*words, stdin=zeros, cwd=tmp_path)
        took = len(rest(slow))
    text = refused(done, 4, "slow: took no data for 0.2 s; ", f"slow took {took} bytes")
    assert f"x took {(tmp_path / 'x').stat().st_size} bytes" in text


def test_a_fifo_that_nobody_reads(tmp_path: Path) -> None:
    """It is waited for, as tee waits; with a timeout the others go on without it."""
    os.mkfifo(tmp_path / "fifo")
    done = tee("--stall-timeout", "2s", "fifo", "x", data=DATA, cwd=tmp_path)
    refused(done, 5, "fifo: wait for a reader: stalled for 2 s")
    assert done.stdout == (tmp_path / "x").read_bytes() == DATA
    with started("tee", "fifo", stdin=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stderr is not None
        until_listening_to_signals(process)
        assert asked(process) == "zpipe: fifo: wait for a reader\n"
        with open(tmp_path / "fifo", "rb") as reader:
            assert process.communicate(DATA[:1000], timeout=LONGEST) == (DATA[:1000], b"")
            assert reader.read() == DATA[:1000]


def test_a_part_after_a_device_cannot_be_opened(tmp_path: Path) -> None:
    """What is no file needs no thread: it is the fan itself that opens the next one."""
    (tmp_path / "p0").symlink_to("/dev/null")
    (tmp_path / "p1").mkdir()
    done = tee("--split-size", "1000", "p%d", "x", data=DATA, cwd=tmp_path)
    refused(done, 5, "p1: open: Is a directory", "; dropped at byte 1000, the others go on")
    assert done.stdout == (tmp_path / "x").read_bytes() == DATA
