"""What `zpipe cat` does in the place of cat, pv and mbuffer: bytes, order, status, what is said."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import json
import os
import pkgutil
import pty
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import tty
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import pytest

import zpipe as zpipe_package
from tests.commands.shell import BIG, SMALL, one_line, refused, shell, went_well
from tests.failures.denied import allowed, denying
from tests.machine import (
    LONGEST,
    ZPIPE,
    as_stranger,
    content,
    environment,
    need,
    nobody,
    started,
    until,
    until_listening_to_signals,
    zpipe,
)
from zpipe.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

A, B = content(SMALL), content(BIG, 2)
F_SETPIPE_SZ, F_GETPIPE_SZ, FIONREAD = 1031, 1032, 0x541B
GROWN = 512 << 10  # what zpipe makes of a pipe that it finds smaller

# each goes another way: the hop, the fan that doubles, the fan that spills
WAYS = [[], ["--hash", "md5"], ["--buffer", "1M"]]
every_way = pytest.mark.parametrize("options", WAYS, ids=["plainly", "hashing", "buffering"])
every_size = pytest.mark.parametrize("name", ["a", "b"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(A)
    (tmp_path / "b").write_bytes(B)
    return tmp_path


def run(*words: str | Path, **more: Any) -> subprocess.CompletedProcess[bytes]:
    return zpipe("cat", *words, **more)


def gnu(*words: str, cwd: Path, script: str = 'exec "$@"') -> subprocess.CompletedProcess[bytes]:
    """Run the other cat, for comparison."""
    command = [*shell(script), "cat", *words]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, check=False)


class Pipe:
    """A pipe between the test and zpipe; each end may be closed early."""

    def __init__(self, stack: ExitStack):
        reader, writer = os.pipe()
        self.reader = stack.enter_context(open(reader, "rb", buffering=0))
        self.writer = stack.enter_context(open(writer, "wb", buffering=0))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


def waiting_in(fd: int) -> int:
    """Return how many bytes lie in a pipe or socket."""
    return int(struct.unpack("i", fcntl.ioctl(fd, FIONREAD, bytes(4)))[0])


def feed(fd: int, data: bytes) -> None:
    """Write everything; fail rather than wait for a reader that never comes."""
    os.set_blocking(fd, False)
    rest = memoryview(data)
    while rest:
        _, ready, _ = select.select([], [fd], [], LONGEST / 2)
        assert ready, f"nobody takes the last {len(rest)} bytes"
        rest = rest[os.write(fd, rest) :]


def drink(fd: int, count: int | None = None) -> bytes:
    """Read so many bytes, or to the end."""
    got = b""
    while count is None or len(got) < count:
        ready, _, _ = select.select([fd], [], [], LONGEST / 2)
        assert ready, f"nothing comes after {len(got)} bytes"
        some = os.read(fd, 1 << 16 if count is None else count - len(got))
        if not some:
            break
        got += some
    return got


def until_asleep(process: subprocess.Popen[bytes]) -> None:
    """Wait until zpipe has begun, and waits for somebody: all its threads."""
    until_listening_to_signals(process)

    def asleep() -> bool:
        assert process.poll() is None, f"ended already, by {process.returncode}"
        tasks = f"/proc/{process.pid}/task"
        try:
            stats = [Path(tasks, task, "stat").read_text() for task in os.listdir(tasks)]
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has ended just now
        with open(f"/proc/{process.pid}/wchan") as place:
            return all(") S " in stat for stat in stats) and "poll" in place.read()

    until(asleep, "zpipe waits")


def records(text: bytes) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(record["v"] == 1 for record in found)
    return found


def of_type(found: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [record for record in found if record["type"] in kinds]


def digest_of(data: bytes, label: str = "-", algorithm: str = "md5") -> bytes:
    return f"{hashlib.new(algorithm, data).hexdigest()}  {label}\n".encode()


def said_of(options: Sequence[str], data: bytes, label: str = "-") -> bytes:
    """Return what is said of a run that went well."""
    return digest_of(data, label) if "--hash" in options else b""


# Standard input


@pytest.mark.parametrize("size", [0, 1, BIG, 1 << 20])
@pytest.mark.parametrize("operands", [[], ["-"], ["-", "-"]], ids=str)
def test_standard_input(operands: list[str], size: int) -> None:
    """Without an operand as by its name; when it has ended, it is empty the second time."""
    done = run(*operands, data=content(size))
    went_well(done)
    assert done.stdout == content(size)


def test_standard_input_among_files(folder: Path) -> None:
    done = run("a", "-", "b", "-", "a", data=b"in between", cwd=folder)
    assert (done.returncode, done.stdout) == (0, A + b"in between" + B + A)


@every_way
def test_a_file_from_the_place_where_it_is(folder: Path, options: list[str]) -> None:
    """What others have read of it is not read again, and what is not taken is left to them."""
    script = 'dd bs=1 count=3 status=none >/dev/null; "$@"; cat'
    with open(folder / "b", "rb") as file:
        done = run(*options, "--bytes", "50000", stdin=file, before=shell(script))
        assert done.stdout == B[3:]
        assert done.stderr == said_of(options, B[3:50003])
        assert file.tell() == BIG


@pytest.mark.parametrize("source", [A, B], ids=["small", "big"])
@every_way
def test_what_is_not_taken_of_a_pipe_is_left_there(options: list[str], source: bytes) -> None:
    done = run(*options, "--bytes", "4", data=source, before=shell('"$@"; cat'))
    assert done.stdout == source
    assert done.stderr == said_of(options, source[:4])


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
@every_way
def test_a_socket_as_input(family: int, blocking: bool, options: list[str]) -> None:
    near, far = sockets(family)
    with near, far:
        far.setblocking(blocking)
        flags = fcntl.fcntl(far, fcntl.F_GETFL)
        with started("cat", *options, stdin=far.fileno()) as process:
            sender = beside(partial(near.sendall, B), partial(near.shutdown, socket.SHUT_WR))
            out, said = process.communicate(timeout=LONGEST)
            sender.join()
            assert (process.returncode, out, said) == (0, B, said_of(options, B))
        assert fcntl.fcntl(far, fcntl.F_GETFL) == flags


def sockets(family: int) -> tuple[socket.socket, socket.socket]:
    """Return two stream sockets that are connected to each other."""
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def beside(*acts: Callable[[], object]) -> threading.Thread:
    """Do one thing after the other while zpipe runs."""

    def all_of_them() -> None:
        for act in acts:
            act()

    thread = threading.Thread(target=all_of_them, daemon=True)
    thread.start()
    return thread


@every_way
def test_a_pipe_that_does_not_block_and_is_empty_at_first(
    options: list[str], stack: ExitStack
) -> None:
    pipe = Pipe(stack)
    os.set_blocking(pipe.reader.fileno(), False)
    with started("cat", *options, stdin=pipe.reader) as process:
        until_asleep(process)
        feed(pipe.writer.fileno(), A)
        pipe.writer.close()
        out, said = process.communicate(timeout=LONGEST)
        assert (process.returncode, out, said) == (0, A, said_of(options, A))
    assert not os.get_blocking(pipe.reader.fileno())


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """A pseudo terminal: the side of the user, the side of the program."""
    near, far = pty.openpty()
    yield near, far
    os.close(near)
    os.close(far)


@every_way
def test_lines_typed_at_a_terminal(options: list[str], terminal: tuple[int, int]) -> None:
    """Each is passed on when it is entered; Ctrl-D ends."""
    near, far = terminal
    before = termios.tcgetattr(far)
    with started("cat", *options, stdin=far) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in (b"one\n", b"two\n"):
            os.write(near, line)
            assert drink(process.stdout.fileno(), len(line)) == line
        os.write(near, b"\x04")
        assert process.wait(LONGEST) == 0
        assert process.stdout.read() == b""
        assert process.stderr.read() == said_of(options, b"one\ntwo\n")
    assert termios.tcgetattr(far) == before


def test_a_terminal_can_be_read_on_after_its_end(terminal: tuple[int, int]) -> None:
    """As cat has it: `- -` ends with the second Ctrl-D."""
    near, far = terminal
    with started("cat", "-", "-", stdin=far) as process:
        assert process.stdout is not None
        os.write(near, b"one\n\x04")
        assert drink(process.stdout.fileno(), 4) == b"one\n"
        os.write(near, b"two\n")
        assert drink(process.stdout.fileno(), 4) == b"two\n"
        os.write(near, b"\x04")
        assert process.wait(LONGEST) == 0


@every_way
def test_closed_standard_input(folder: Path, options: list[str]) -> None:
    before = shell('exec "$@" <&-')
    refused(run(*options, cwd=folder, before=before), 1, "standard input: read: ")
    done = run(*options, "a", "-", "b", cwd=folder, before=before)
    assert (done.returncode, done.stdout) == (1, A + B)


def test_a_standard_input_that_is_open_for_writing_only(folder: Path) -> None:
    with open(folder / "x", "wb") as file:
        done = run("a", "-", "b", cwd=folder, stdin=file)
    assert (done.returncode, done.stdout) == (1, A + B)
    assert one_line(done) == "standard input: read: is not open for reading"


# Sources


@pytest.mark.parametrize(
    "options", [*WAYS, ["--stats", "-u"], ["--buffer", "1M", "--hash", "md5"]], ids=" ".join
)
def test_sources_of_all_kinds_in_their_order(
    folder: Path, options: list[str], stack: ExitStack
) -> None:
    os.mkfifo(folder / "fifo")
    (folder / "empty").touch()
    path = folder / "socket"
    unix = stack.enter_context(socket.socket(socket.AF_UNIX))
    unix.bind(str(path))
    unix.listen()
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    parts = [content(70_000, seed) for seed in range(3, 7)]

    def serve(listener: socket.socket, data: bytes) -> None:
        with listener.accept()[0] as peer:
            peer.sendall(data)

    threads = [
        beside(lambda: serve(unix, parts[0])),
        beside(lambda: serve(tcp, parts[1])),
        beside(lambda: (folder / "fifo").write_bytes(parts[2])),
    ]
    sources = {
        "b": B,
        f"tcp://127.0.0.1:{tcp.getsockname()[1]}": parts[1],
        "a": A,
        "/dev/null": b"",
        "fifo": parts[2],
        "-": parts[3],
        "empty": b"",
        "/proc/version": Path("/proc/version").read_bytes(),
        "exec:head -c 50000 b": B[:50000],
        f"unix:{path}": parts[0],
        "zero:?size=9": bytes(9),
        "file:b?offset=10&length=20": B[10:30],
    }
    done = run(*options, *sources, data=parts[3], cwd=folder)
    for thread in threads:
        thread.join(LONGEST)
    expected = b"".join(sources.values())
    assert done.stdout == expected
    assert done.returncode == 0, done.stderr
    assert ("--hash" in options) == (digest_of(expected) in done.stderr)


@every_way
def test_a_source_that_comes_twice(folder: Path, options: list[str]) -> None:
    done = run(*options, "b", "a", "b", "b", cwd=folder)
    assert (done.returncode, done.stdout) == (0, B + A + B + B)


def test_a_device_that_never_ends(folder: Path) -> None:
    done = run("--bytes", "1M", "a", "/dev/zero", "b", cwd=folder)
    went_well(done)
    assert done.stdout == A + bytes((1 << 20) - SMALL)


BAD = {
    "nosuch": "No such file or directory",
    "a/x": "Not a directory",
    ".": "Is a directory",
    "x" * 300: "File name too long",
}


@pytest.mark.parametrize(
    ("bad", "options"),
    [*((bad, []) for bad in BAD), *((bad, way) for bad in ("nosuch", ".") for way in WAYS[1:])],
    ids=lambda value: str(value)[:10],
)
def test_a_source_that_cannot_be_read_is_told_of_and_the_others_follow(
    folder: Path, bad: str, options: list[str]
) -> None:
    for words in ([bad, "a", "b"], ["a", bad, "b"], ["a", "b", bad]):
        done = run(*options, *words, cwd=folder)
        theirs = gnu(*words, cwd=folder)
        assert (done.returncode, done.stdout) == (theirs.returncode, theirs.stdout) == (1, A + B)
        line, _, rest = done.stderr.decode().partition("\n")
        assert re.fullmatch(f"zpipe: {re.escape(bad)}: (open|read): {BAD[bad]}", line)
        assert theirs.stderr.decode() == f"cat: {bad}: {BAD[bad]}\n"
        assert rest.encode() == said_of(options, A + B)


def test_a_source_that_may_not_be_read(folder: Path) -> None:
    words = nobody()
    folder.chmod(0o755)
    (folder / "closed").write_bytes(B)
    (folder / "closed").chmod(0)
    done = run("a", "closed", "b", cwd=folder, before=words)
    assert (done.returncode, done.stdout) == (1, A + B)
    assert done.stderr == b"zpipe: closed: open: Permission denied\n"


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ("tcp://127.0.0.1:1", "tcp://127.0.0.1:1: connect: Connection refused"),
        ("unix:nosuch", "unix:nosuch: connect: No such file or directory"),
        ("fd:99", "fd:99: read: Bad file descriptor"),
        ("exec:nosuch", "exec:nosuch: start: No such file or directory"),
        ("exec:false", "exec:false: exit status 1"),
    ],
)
@pytest.mark.parametrize("options", WAYS[:2], ids=["plainly", "hashing"])
def test_so_is_an_address_that_cannot_be_reached(
    folder: Path, bad: str, line: str, options: list[str]
) -> None:
    done = run(*options, "a", bad, "b", cwd=folder)
    assert (done.returncode, done.stdout) == (1, A + B)
    assert done.stderr == f"zpipe: {line}\n".encode() + said_of(options, A + B)


def test_what_a_failed_command_has_said_is_passed_on(folder: Path) -> None:
    (folder / "script").write_text("cat b; exit 3")
    done = run("a", "exec:sh script", "a", cwd=folder)
    assert (done.returncode, done.stdout) == (1, A + B + A)
    assert done.stderr == b"zpipe: exec:sh script: exit status 3\n"


def test_each_bad_source_has_its_line_and_no_more(folder: Path) -> None:
    done = run("x", "y", "z", cwd=folder)
    theirs = gnu("x", "y", "z", cwd=folder)
    assert (done.returncode, done.stdout) == (1, b"")
    ours = done.stderr.decode().replace("zpipe: ", "cat: ").replace(": open", "")
    assert ours.encode() == theirs.stderr


@pytest.mark.parametrize("bad", ["", "ftp://x", "tcp://x", "fd:", "hash:md5"])
def test_an_operand_that_is_no_address_is_refused_before_anything_is_written(
    folder: Path, bad: str
) -> None:
    done = run("a", bad, "b", cwd=folder)
    assert done.stdout == b""
    refused(done, 2)


# The output among the sources


@pytest.mark.parametrize("options", [[], ["--hash", "md5"]], ids=["plainly", "hashing"])
@pytest.mark.parametrize("words", [["x", "b"], ["b", "x"], ["b", "x", "a"], ["x"]], ids=" ".join)
@every_size
def test_a_source_that_is_the_output(
    folder: Path, words: list[str], options: list[str], name: str
) -> None:
    """Appended to, it would never end: it is passed over, as cat does, and the others follow."""
    old = (folder / name).read_bytes()
    script = 'exec "$@" >>x'
    (folder / "x").write_bytes(old)
    theirs = gnu(*words, cwd=folder, script=script)
    expected = (folder / "x").read_bytes()
    assert (theirs.returncode, expected[: len(old)]) == (1, old)
    (folder / "x").write_bytes(old)
    done = run(*options, *words, cwd=folder, before=shell(script))
    assert (folder / "x").read_bytes() == expected
    assert done.returncode == 1, done.stderr
    assert "x: read: " in done.stderr.decode().partition("\n")[0]


@pytest.mark.parametrize("words", [["x", "b"], ["b", "x"], ["b", "x", "a"], ["x"]], ids=" ".join)
def test_a_source_that_the_shell_has_truncated(folder: Path, words: list[str]) -> None:
    """`cat x b > x`: the old bytes are gone before anybody runs; b must not be gone as well."""
    script = 'exec "$@" >x'
    gnu(*words, cwd=folder, script=script)
    expected = (folder / "x").read_bytes()
    done = run(*words, cwd=folder, before=shell(script))
    assert (folder / "x").read_bytes() == expected
    assert done.returncode in (0, 1), done.stderr


# Standard output


@contextmanager
def output(kind: str, folder: Path) -> Iterator[tuple[int, Callable[[int], bytes]]]:
    """Give an fd for standard output, and a function that reads so much of what has arrived."""
    with ExitStack() as held:
        if kind in ("file", "middle", "append", "direct"):
            path = folder / "out"
            path.write_bytes(b"#" * 1000)
            flags = os.O_APPEND if kind == "append" else os.O_TRUNC if kind == "file" else 0
            fd = os.open(path, os.O_RDWR | flags)
            held.callback(os.close, fd)
            if kind == "middle":
                os.lseek(fd, 10, os.SEEK_SET)
            begin = {"file": 0, "middle": 10, "append": 1000}[kind]
            yield fd, lambda count: path.read_bytes()[begin:][:count]
            return
        if kind == "terminal":
            near, fd = pty.openpty()
            tty.setraw(fd)
            held.callback(os.close, near)
            held.callback(os.close, fd)
            yield fd, lambda count: drink(near, count)
            return
        if kind.startswith("pipe"):
            pipe = Pipe(held)
            os.set_blocking(pipe.writer.fileno(), "nonblocking" not in kind)
            yield pipe.writer.fileno(), lambda count: drink(pipe.reader.fileno(), count)
            return
        left, right = sockets(socket.AF_INET if "tcp" in kind else socket.AF_UNIX)
        held.enter_context(left)
        held.enter_context(right)
        right.setblocking("nonblocking" not in kind)
        yield right.fileno(), lambda count: drink(left.fileno(), count)


OUTPUTS = [
    "file",
    "middle",
    "append",
    "terminal",
    "pipe",
    "pipe-nonblocking",
    "unix",
    "unix-nonblocking",
    "tcp",
    "tcp-nonblocking",
]


@pytest.mark.parametrize("kind", OUTPUTS)
@every_way
def test_every_kind_of_output_from_files_and_a_pipe(
    kind: str, folder: Path, options: list[str], stack: ExitStack
) -> None:
    """The bytes are right, and the flags of what was inherited are those that it had."""
    source = Pipe(stack)
    expected = A + B + content(BIG, 3) + A
    with output(kind, folder) as (fd, arrived):
        flags = [fcntl.fcntl(each, fcntl.F_GETFL) for each in (fd, source.reader)]
        words = ["cat", *options, "a", "b", "-", "a"]
        with started(*words, cwd=folder, stdin=source.reader, stdout=fd) as process:
            feeder = beside(partial(source.writer.write, content(BIG, 3)), source.writer.close)
            got = b"" if kind in ("file", "middle", "append") else arrived(len(expected))
            _, said = process.communicate(timeout=LONGEST)
            feeder.join()
            assert (process.returncode, said) == (0, said_of(options, expected))
        assert (got or arrived(1 << 30))[: len(expected)] == expected
        assert [fcntl.fcntl(each, fcntl.F_GETFL) for each in (fd, source.reader)] == flags


@pytest.mark.parametrize("kind", OUTPUTS)
def test_several_that_write_to_one_output(kind: str, folder: Path) -> None:
    """A script's output belongs to the whole script: whoever writes next goes on behind us."""
    script = '"$@" a && "$@" b && "$@" a'
    expected = A + B + A
    with output(kind, folder) as (fd, arrived):
        command = [*shell(script), *ZPIPE, "cat"]
        with subprocess.Popen(
            command, cwd=folder, stdout=fd, stdin=subprocess.DEVNULL, env=environment()
        ) as process:
            got = b"" if kind in ("file", "middle", "append") else arrived(len(expected))
            assert process.wait(LONGEST) == 0
        assert (got or arrived(len(expected))) == expected


@pytest.mark.parametrize("source", ["a", "b", "-"])
@every_way
def test_a_full_disk(folder: Path, source: str, options: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = run(*options, source, "a", data=B, cwd=folder, stdout=full)
    text = refused(done, 1, "standard output: write: No space left on device")
    assert "dropped" not in text


@every_way
def test_a_full_disk_takes_what_fits(folder: Path, tiny: Path, options: list[str]) -> None:
    (folder / "c").write_bytes(content(3 << 20, 4))
    with open(tiny / "out", "wb") as file:
        done = run(*options, "b", "c", cwd=folder, stdout=file)
    refused(done, 1, "standard output: write: No space left on device")
    got = (tiny / "out").read_bytes()
    assert BIG < len(got) <= 1 << 20
    assert got == (B + content(3 << 20, 4))[: len(got)]


@every_way
def test_closed_standard_output(folder: Path, options: list[str]) -> None:
    done = run(*options, "a", "b", cwd=folder, before=shell('exec "$@" >&-'))
    refused(done, 1, "standard output: write: is not open for writing")


def test_nothing_is_written_to_a_file_that_took_the_place_of_standard_output(folder: Path) -> None:
    """The first file that is opened must not become fd 1."""
    run("a", "b", cwd=folder, before=shell('exec "$@" >&- <&-'))
    assert [(folder / name).read_bytes() for name in "ab"] == [A, B]


def test_a_peer_that_resets(folder: Path) -> None:
    near, far = sockets(socket.AF_INET)
    with far:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        near.close()
        done = run("b", cwd=folder, stdout=far.fileno())
    refused(done, 1, "standard output: ", "Connection reset by peer")


# Readers that leave early


@pytest.mark.parametrize(
    "options", [*WAYS, ["--stall-timeout", "10s"], ["--json-fd", "9"]], ids=" ".join
)
@pytest.mark.parametrize("source", ["/dev/zero", "-"])
def test_a_reader_that_has_enough(options: list[str], source: str, stack: ExitStack) -> None:
    """As with cat: death by SIGPIPE, and not a word; least of all a digest."""
    feeding = stack.enter_context(subprocess.Popen(["yes"], stdout=subprocess.PIPE))
    stack.callback(feeding.kill)
    assert feeding.stdout is not None
    words = ["cat", *options, source]
    with open("/dev/null", "wb") as null:
        if options[:1] == ["--json-fd"]:
            words[2] = str(null.fileno())
        with started(*words, stdin=feeding.stdout, pass_fds=[null.fileno()]) as process:
            assert process.stdout is not None and process.stderr is not None
            drink(process.stdout.fileno(), 10)
            process.stdout.close()
            assert process.wait(LONGEST) == -signal.SIGPIPE
            assert process.stderr.read() == b""


@every_way
def test_the_reader_that_leaves_is_noticed_while_nothing_comes(
    options: list[str], stack: ExitStack
) -> None:
    pipe = Pipe(stack)
    with started("cat", *options, stdin=pipe.reader) as process:
        assert process.stdout is not None and process.stderr is not None
        until_asleep(process)
        process.stdout.close()
        assert process.wait(LONGEST) == -signal.SIGPIPE
        assert process.stderr.read() == b""


def test_no_digest_file_of_what_nobody_has_read(folder: Path) -> None:
    (folder / "sum").write_bytes(b"old")
    words = ["cat", "--hash", "md5", "--hash-file", "sum", "/dev/zero"]
    with started(*words, cwd=folder) as process:
        assert process.stdout is not None
        drink(process.stdout.fileno(), 10)
        process.stdout.close()
        assert process.wait(LONGEST) == -signal.SIGPIPE
    assert (folder / "sum").read_bytes() == b"old"
    assert sorted(os.listdir(folder)) == ["a", "b", "sum"]


# Nothing is held back


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(("pipe", way) for way in WAYS),
        *((kind, way) for kind in ("unix", "tcp", "terminal") for way in WAYS[:2]),
        ("pipe", ["--stats"]),
        ("pipe", ["--rate-limit", "1M"]),
        ("pipe", ["--via", "plain"]),
        ("pipe", ["--buffer", "0"]),
    ],
    ids=str,
)
def test_each_byte_is_passed_on_at_once(
    kind: str, options: list[str], folder: Path, stack: ExitStack
) -> None:
    """The next one is not written before the last one has come through."""
    pipe = Pipe(stack)
    sent = bytes(range(1, 100))
    with (
        output(kind, folder) as (fd, arrived),
        started("cat", *options, stdin=pipe.reader, stdout=fd) as process,
    ):
        for byte in sent:
            pipe.writer.write(bytes([byte]))
            assert arrived(1) == bytes([byte])
        pipe.writer.close()
        assert process.wait(LONGEST) == 0
        assert process.stderr is not None
        assert process.stderr.read().startswith(said_of(options, sent))


# Signals


def full(stack: ExitStack, data: bytes) -> Pipe:
    """Return a pipe with all of this in it: in one round zpipe takes what its own pipe holds.

    From a writer beside it zpipe would take what is there, and refill only when that has gone.
    """
    pipe = Pipe(stack)
    fcntl.fcntl(pipe.writer, F_SETPIPE_SZ, 1 << 20)
    feed(pipe.writer.fileno(), data)
    return pipe


def stuck(process: subprocess.Popen[bytes], source: Pipe) -> None:
    """Wait until zpipe has read everything, and its reader's pipe takes no more."""
    until(lambda: waiting_in(source.reader.fileno()) == 0, "zpipe has read everything")
    assert process.stdout is not None
    out = process.stdout.fileno()
    until(lambda: waiting_in(out) >= GROWN, "the reader's pipe is full")
    until_asleep(process)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@every_way
def test_what_was_read_is_delivered_before_a_signal_ends_it(
    options: list[str], signum: signal.Signals, stack: ExitStack
) -> None:
    """And what was not read stays where it is."""
    data = content(GROWN + 200_000)
    pipe = full(stack, data)
    with started("cat", *options, stdin=pipe.reader) as process:
        stuck(process, pipe)
        process.send_signal(signum)
        assert process.stdout is not None and process.stderr is not None
        half = drink(process.stdout.fileno(), 1000)
        assert process.poll() is None
        pipe.writer.write(b"too late")
        assert half + drink(process.stdout.fileno()) == data
        assert process.wait(LONGEST) == -signum
        said = process.stderr.read().decode()
    assert f"ended by {signum.name}" in said.splitlines()[-1]
    assert waiting_in(pipe.reader.fileno()) == len(b"too late")


def test_a_signal_leaves_no_digest_of_a_part(folder: Path, stack: ExitStack) -> None:
    """Under its own name it would look like that of the whole."""
    pipe = Pipe(stack)
    words = ["cat", "--hash", "md5", "--hash-file", "sum"]
    with started(*words, cwd=folder, stdin=pipe.reader) as process:
        assert process.stdout is not None
        pipe.writer.write(A)
        assert drink(process.stdout.fileno(), SMALL) == A
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST) == -signal.SIGINT
    assert sorted(os.listdir(folder)) == ["a", "b"]


def test_nor_is_one_printed(stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", "--hash", "md5", stdin=pipe.reader) as process:
        assert process.stdout is not None and process.stderr is not None
        pipe.writer.write(A)
        assert drink(process.stdout.fileno(), SMALL) == A
        process.send_signal(signal.SIGTERM)
        assert process.wait(LONGEST) == -signal.SIGTERM
        assert hashlib.md5(A).hexdigest() not in process.stderr.read().decode()


@every_way
def test_a_second_signal_ends_it_at_once(options: list[str], stack: ExitStack) -> None:
    """The reader is still stuck, and stays so."""
    pipe = full(stack, content(GROWN + 200_000))
    with started("cat", *options, stdin=pipe.reader) as process:
        stuck(process, pipe)
        process.send_signal(signal.SIGINT)
        until(lambda: not pending(process.pid), "the first one is taken")
        until_asleep(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(LONGEST) == -signal.SIGINT


def pending(pid: int) -> bool:
    """Tell whether a process has signals that it was not told of yet."""
    with open(f"/proc/{pid}/status") as status:
        masks = dict(line.split(":", 1) for line in status)
    return any(int(masks[name], 16) for name in ("SigPnd", "ShdPnd"))


@pytest.mark.parametrize("options", [*WAYS, ["--rate-limit", "1"]], ids=" ".join)
def test_a_signal_while_nothing_happens(options: list[str], stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", *options, stdin=pipe.reader) as process:
        until_asleep(process)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=LONGEST)
        assert (process.returncode, out) == (-signal.SIGINT, b"")
        assert b"ended by SIGINT" in said


def test_a_signal_that_was_ignored_before_stays_so(stack: ExitStack) -> None:
    """As under nohup, and for a job in the background of a script."""
    pipe = Pipe(stack)
    ignoring = shell('trap "" INT; exec "$@"')
    with started("cat", stdin=pipe.reader, before=ignoring) as process:
        until_asleep(process)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        assert b"0 B" in process.stderr.readline()
        pipe.writer.write(A)
        pipe.writer.close()
        out, _ = process.communicate(timeout=LONGEST)
        assert (process.returncode, out) == (0, A)


def test_a_signal_while_it_waits_for_a_fifo(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cat", "a", "fifo", cwd=folder) as process:
        until_asleep(process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=LONGEST)
        assert (process.returncode, out) == (-signal.SIGTERM, A)


@every_way
def test_a_status_line_is_to_be_had_at_any_time(options: list[str], stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", *options, stdin=pipe.reader) as process:
        assert process.stdout is not None and process.stderr is not None
        until_asleep(process)
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline().decode()
        assert re.match(r"zpipe: standard input -> standard output.*: 0 B, ", line)
        pipe.writer.write(A)
        assert drink(process.stdout.fileno(), SMALL) == A
        until_asleep(process)
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline().decode()
        assert re.match(rf"zpipe: standard input -> standard output.*: {SMALL} B, ", line)
        pipe.writer.close()
        assert process.wait(LONGEST) == 0
        assert process.stderr.read() == said_of(options, A)


def test_the_status_counts_what_came_before(folder: Path, stack: ExitStack) -> None:
    """Sources one after the other are one run for whoever looks at it."""
    pipe = Pipe(stack)
    with started("cat", "a", "-", cwd=folder, stdin=pipe.reader) as process:
        assert process.stdout is not None and process.stderr is not None
        pipe.writer.write(A)
        assert drink(process.stdout.fileno(), 2 * SMALL) == A + A
        until_asleep(process)
        process.send_signal(signal.SIGUSR1)
        assert f": {2 * SMALL} B, " in process.stderr.readline().decode()


# How much


@pytest.mark.parametrize(
    "count", [0, 1, SMALL - 1, SMALL, SMALL + 1, SMALL + BIG, 2 * SMALL + BIG, 1 << 30]
)
@pytest.mark.parametrize("way", WAYS[:2], ids=["plainly", "hashing"])
def test_bytes_of_all_sources_together(folder: Path, count: int, way: list[str]) -> None:
    option = "--count" if count == SMALL else "--bytes"  # the same option by another name
    done = run(option, str(count), *way, "a", "b", "a", cwd=folder)
    expected = (A + B + A)[:count]
    assert (done.returncode, done.stdout) == (0, expected)
    assert done.stderr == said_of(way, expected)


def test_sources_beyond_the_count_are_not_asked_for(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    went_well(run("--bytes", str(SMALL), "a", "nosuch", "fifo", cwd=folder))
    done = run("--bytes", str(SMALL + 1), "a", "nosuch", "b", "fifo", cwd=folder)
    assert (done.returncode, done.stdout) == (1, A + B[:1])


@pytest.mark.parametrize("source", ["b", "-"])
@every_way
def test_a_rate_limit_changes_no_byte(folder: Path, source: str, options: list[str]) -> None:
    done = run("--rate-limit", "10M", *options, source, "a", data=B, cwd=folder)
    assert (done.returncode, done.stdout) == (0, B + A)


@pytest.mark.parametrize("options", [[], ["--hash", "md5"]], ids=["plainly", "hashing"])
def test_a_rate_limit_is_that_of_all_sources_together(folder: Path, options: list[str]) -> None:
    """Many that are small are no way around it: somewhere it must have been waited for."""
    names = [f"s{number}" for number in range(20)]
    for name in names:
        (folder / name).write_bytes(bytes(1000))
    done = run("--rate-limit", "40K", "--json", *options, *names, cwd=folder)
    assert done.stdout == bytes(20_000)
    hops = of_type(records(done.stderr), "hop")
    assert any("rate limit" in hop["waited"] for hop in hops)


@every_way
def test_an_input_that_says_nothing_is_a_stall(options: list[str], stack: ExitStack) -> None:
    pipe = Pipe(stack)
    pipe.writer.write(A)
    # long enough for what was read to pass through all threads
    done = run(*options, "--stall-timeout", "500ms", stdin=pipe.reader)
    assert done.stdout == A
    text = refused(done, 4, "standard input: no data came for 0.5 s")
    assert f" {SMALL} bytes" in text


@every_way
def test_a_reader_that_takes_nothing_is_a_stall(options: list[str]) -> None:
    with started("cat", *options, "--stall-timeout", "50ms", "/dev/zero") as process:
        assert process.stderr is not None
        assert process.wait(LONGEST) == 4
        text = process.stderr.read().decode()
    assert text.startswith("zpipe: standard output: took no data for 0.05 s; ")
    assert text.count("\n") == 1


# A buffer


@pytest.mark.parametrize("size", ["0", "1", "4096", "100K", "1M", "3M", "10M", "1G"])
def test_a_buffer_changes_no_byte(folder: Path, size: str) -> None:
    done = run("--buffer", size, "a", "b", "-", "a", data=content(BIG, 3), cwd=folder)
    went_well(done)
    assert done.stdout == A + B + content(BIG, 3) + A


@pytest.mark.parametrize("size", [256 << 10, 1 << 20, 4 << 20, 8 << 20])
def test_the_buffer_takes_in_what_was_asked_for(size: int, stack: ExitStack) -> None:
    """The producer can finish though nobody reads; the bytes wait, and none of them is lost."""
    data = content(1 << 20) * (size >> 20) or content(size)
    pipe = Pipe(stack)
    with started("cat", "--buffer", str(size), stdin=pipe.reader) as process:
        assert process.stdout is not None
        ends = (pipe.reader.fileno(), process.stdout.fileno())
        os.set_blocking(pipe.writer.fileno(), False)
        rest = memoryview(data)
        looks: list[tuple[int, ...]] = []

        def no_more_goes_in() -> bool:
            """Several looks at both pipes are the same, while zpipe sleeps."""
            nonlocal rest
            try:
                while rest:
                    rest = rest[os.write(pipe.writer.fileno(), rest) :]
            except BlockingIOError:
                pass
            until_asleep(process)
            looks.append((len(rest), *map(waiting_in, ends)))
            return not rest or (len(looks) >= 5 and len(set(looks[-5:])) == 1)

        until(no_more_goes_in, "the buffer is full")
        held = len(data) - len(rest) - sum(map(waiting_in, ends))
        assert not rest or held >= size * 0.75, f"{held} of {size} bytes were taken in"
        feeder = beside(partial(feed, pipe.writer.fileno(), bytes(rest)), pipe.writer.close)
        assert drink(process.stdout.fileno()) == data
        feeder.join()
        assert process.wait(LONGEST) == 0


def test_the_file_of_a_buffer_has_no_name_and_is_not_left(folder: Path, stack: ExitStack) -> None:
    place = folder / "place"
    place.mkdir()
    pipe = Pipe(stack)
    data = content(1 << 20) * 6
    words = [*ZPIPE, "cat", "--buffer", "20M"]
    process = stack.enter_context(
        subprocess.Popen(
            words,
            stdin=pipe.reader,
            stdout=subprocess.PIPE,
            env=environment(TMPDIR=str(place)),
        )
    )
    stack.callback(process.kill)
    feed(pipe.writer.fileno(), data)
    until(lambda: spilled(process.pid, place) > 0, "the buffer is in a file")
    assert os.listdir(place) == []
    pipe.writer.close()
    assert process.stdout is not None
    assert drink(process.stdout.fileno()) == data
    assert process.wait(LONGEST) == 0
    assert os.listdir(place) == []


def spilled(pid: int, place: Path) -> int:
    """Return the size of the files without names of a folder that a process holds open."""
    size = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith(str(place)) and link.endswith(" (deleted)"):
                size += os.stat(f"/proc/{pid}/fd/{name}").st_size
        except FileNotFoundError:
            continue
    return size


def test_a_place_that_takes_no_buffer(folder: Path) -> None:
    done = run("--buffer", "9M", "b", cwd=folder, env=environment(TMPDIR="/nosuch"))
    refused(done, 1, "/nosuch: No such file or directory")
    assert done.stdout == b""


def test_a_full_place_makes_the_buffer_smaller_and_loses_nothing(
    tiny: Path, stack: ExitStack
) -> None:
    """What its disk takes is the bound; the producer waits instead."""
    pipe = Pipe(stack)
    data = content(1 << 20) * 8
    process = stack.enter_context(
        subprocess.Popen(
            [*ZPIPE, "cat", "--buffer", "1G"],
            stdin=pipe.reader,
            stdout=subprocess.PIPE,
            env=environment(TMPDIR=str(tiny)),
        )
    )
    stack.callback(process.kill)
    feeder = beside(partial(feed, pipe.writer.fileno(), data), pipe.writer.close)
    assert process.stdout is not None
    until(lambda: waiting_in(process.stdout.fileno()) >= GROWN, "its reader is behind")  # type: ignore[union-attr]
    assert drink(process.stdout.fileno()) == data
    feeder.join()
    assert process.wait(LONGEST) == 0


# A digest


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "blake2b", "sha3_256"])
@every_size
def test_a_digest_is_that_of_hashlib(folder: Path, algorithm: str, name: str) -> None:
    data = (folder / name).read_bytes()
    done = run("--hash", algorithm, name, cwd=folder)
    assert (done.returncode, done.stdout) == (0, data)
    assert done.stderr == digest_of(data, name, algorithm)


@pytest.mark.parametrize(
    ("words", "parts", "label"),
    [
        (["/dev/null"], "", "/dev/null"),
        ([], "b", "-"),
        (["-"], "b", "-"),
        (["a", "b", "a"], "aba", "-"),
        (["exec:cat b"], "b", "-"),
        (["a", "-", "nosuch"], "ab", "-"),
    ],
    ids=str,
)
def test_a_digest_of_what_passed(folder: Path, words: list[str], parts: str, label: str) -> None:
    done = run("--hash", "md5", "--hash", "sha256", *words, data=B, cwd=folder)
    expected = b"".join({"a": A, "b": B}[part] for part in parts)
    assert done.stdout == expected
    digests = digest_of(expected, label), digest_of(expected, label, "sha256")
    assert done.stderr.endswith(b"".join(digests))


def test_the_digest_of_nothing(folder: Path) -> None:
    (folder / "empty").touch()
    done = run("--hash", "sha256", "empty", cwd=folder)
    assert done.stderr == digest_of(b"", "empty", "sha256")
    # where nothing could be read at all, there is none
    refused(run("--hash", "sha256", "nosuch", cwd=folder), 1, "nosuch: open")


NAMES = ["b", "with space", "back\\slash", "new\nline", os.fsdecode(b"no\xffutf8"), "-dash", "ü"]


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_digest_that_sha256sum_checks(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(B)
    done = run("--hash", "sha256", "--hash-file", "sums", "--", name, cwd=tmp_path)
    went_well(done)
    assert done.stdout == B
    check = [need("sha256sum"), "-c", "--strict", "sums"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / name).write_bytes(A)
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("words", [["--bytes", "5", "b"], ["file:b?offset=9"], ["file:b?length=9"]])
def test_a_part_of_a_file_is_not_called_by_its_name(folder: Path, words: list[str]) -> None:
    """A check of the whole file would fail, and nothing is wrong with it."""
    done = run("--hash", "md5", *words, cwd=folder)
    assert done.stderr == digest_of(done.stdout, "-")


def test_a_digest_takes_the_place_of_an_old_one_when_it_is_complete(folder: Path) -> None:
    for name in ("b", "a"):
        went_well(run("--hash", "sha1", "--hash-file", "sum", name, cwd=folder))
    assert (folder / "sum").read_bytes() == digest_of(A, "a", "sha1")
    assert sorted(os.listdir(folder)) == ["a", "b", "sum"]


def test_a_digest_file_that_cannot_be_written(folder: Path) -> None:
    words = ["--hash", "sha256", "--hash-file", "nosuch/sum", "b"]
    done = run(*words, cwd=folder)
    assert done.stdout in (b"", B)
    refused(done, 1, "nosuch/sum: open: No such file or directory")


@pytest.mark.parametrize("algorithm", ["foo", "", "shake_128", "MD5x"])
def test_an_unknown_algorithm(folder: Path, algorithm: str) -> None:
    done = run("--hash", algorithm, "b", cwd=folder)
    assert done.stdout == b""
    refused(done, 2, "unknown algorithm", "sha256")


def test_one_file_cannot_hold_two_digests(folder: Path) -> None:
    for words in (["--hash", "md5", "--hash", "sha1"], []):
        done = run(*words, "--hash-file", "sum", "b", cwd=folder)
        refused(done, 2, "--hash-file")
        assert done.stdout == b""
    assert sorted(os.listdir(folder)) == ["a", "b"]


# Stats

_SIZE = r"\d+(\.\d+)? ([KMGT]i)?B"
_TIME = r"(\d+\.\d\d (ms|s)|\d+:\d\d)"
STATS = re.compile(
    rf"zpipe: (?P<bytes>\d+) bytes( \({_SIZE}\))? in {_TIME};"
    rf" {_SIZE}/s mean, {_SIZE}/s min, {_SIZE}/s max;"
    rf" waited (?P<input>{_TIME}) for input, (?P<output>{_TIME}) for output"
    rf"(, {_TIME} for the rate limit)?; (?P<slow>.*)\n"
)


def stats(line: bytes) -> dict[str, str]:
    found = STATS.fullmatch(line.decode())
    assert found is not None, line
    return found.groupdict()


def run_for_a_while(process: subprocess.Popen[bytes]) -> None:
    """Ask again and again how long it has been running, until it was long enough to be judged."""
    assert process.stderr is not None
    until_asleep(process)
    for _ in range(100_000):
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline().decode()
        found = re.search(r", (\d+\.\d+) s, ", line)
        if found and float(found[1]) >= 0.2:
            return
    pytest.fail(f"it does not come to 0.2 s: {line}")


@every_way
def test_the_slow_side_is_the_input(options: list[str], stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", "--stats", *options, stdin=pipe.reader) as process:
        run_for_a_while(process)
        pipe.writer.write(A)
        pipe.writer.close()
        out, said = process.communicate(timeout=LONGEST)
        assert (process.returncode, out) == (0, A)
    lines = said.splitlines(keepends=True)
    (line,) = [line for line in lines if line.startswith(b"zpipe: ")]
    found = stats(line)
    assert found["bytes"] == str(SMALL)
    assert found["slow"] == "the input was the slow side"


@every_way
def test_the_slow_side_is_the_output(options: list[str]) -> None:
    words = ["--stats", *options, "--bytes", "4M", "/dev/zero"]
    with started("cat", *words) as process:
        run_for_a_while(process)
        out, said = process.communicate(timeout=LONGEST)
        assert (process.returncode, len(out)) == (0, 4 << 20)
    (line,) = [line for line in said.splitlines(keepends=True) if line.startswith(b"zpipe: ")]
    found = stats(line)
    assert found["bytes"] == str(4 << 20)
    assert found["slow"] == "the output was the slow side"


def test_neither_side_is_slow(folder: Path) -> None:
    with open("/dev/null", "wb") as null:
        done = run("--stats", "a", "b", "a", cwd=folder, stdout=null)
    found = stats(done.stderr)
    assert found["bytes"] == str(2 * SMALL + BIG)
    assert found["slow"] == "neither side held the other up"


def test_the_rate_limit_is_what_was_slow(folder: Path) -> None:
    done = run("--stats", "--rate-limit", "400K", "b", cwd=folder)
    found = stats(done.stderr)
    assert found["slow"] == "the rate limit was the slow side"


def test_stats_are_told_also_when_it_fails(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run("--stats", "b", cwd=folder, stdout=full)
    first, second = done.stderr.splitlines(keepends=True)
    assert stats(first)["bytes"] == "0"
    assert b"No space left on device" in second
    done = run("--stats", "a", "nosuch", "b", cwd=folder)
    first, second = done.stderr.splitlines(keepends=True)
    assert b"nosuch: open" in first
    assert stats(second)["bytes"] == str(SMALL + BIG)


# What is shown on the way


def test_progress_where_stderr_is_no_terminal(folder: Path) -> None:
    """Plain lines, with the size and the name that were given."""
    words = ["--progress", "always", "--interval", "10ms", "--name", "job", "--size", "200000"]
    done = run(*words, "--rate-limit", "500K", "-", data=B, cwd=folder)
    assert (done.returncode, done.stdout) == (0, B)
    lines = done.stderr.decode().splitlines()
    assert lines
    for line in lines:
        found = re.match(rf"zpipe: job: {_SIZE} of 195 KiB \((\d+) %\), {_SIZE}/s, {_TIME}", line)
        assert found is not None, line
        assert int(found[3]) <= 50


@pytest.mark.parametrize("options", [[], ["--hash", "md5"]], ids=["plainly", "hashing"])
def test_progress_with_many_short_sources(folder: Path, options: list[str]) -> None:
    """None of them lasts as long as the interval, and all of them together do."""
    names = [f"s{number}" for number in range(40)]
    for name in names:
        (folder / name).write_bytes(content(4000))
    words = ["--progress", "always", "--interval", "100ms", "--rate-limit", "400K"]
    done = run(*words, *options, *names, cwd=folder)
    assert done.stdout == 40 * content(4000)
    lines = [line for line in done.stderr.decode().splitlines() if line.startswith("zpipe: ")]
    assert lines
    assert re.search(r": (\d+\.\d|\d{2,}) KiB", lines[-1])


@pytest.mark.parametrize("options", [["-q"], ["--progress", "never"]], ids=" ".join)
def test_no_progress_where_none_is_wanted(folder: Path, options: list[str]) -> None:
    words = [*options, "--interval", "1ms", "--rate-limit", "1M"]
    went_well(run(*words, "b", cwd=folder))


def test_a_size_that_is_wrong_or_zero(folder: Path) -> None:
    for size in ("0", "10", "1T"):
        words = ["--progress", "always", "--interval", "5ms", "--size", size, "--rate-limit", "2M"]
        done = run(*words, "-", data=B, cwd=folder)
        assert (done.returncode, done.stdout) == (0, B), done.stderr


@pytest.mark.parametrize("options", [[], ["--hash", "md5"]], ids=["plainly", "hashing"])
def test_progress_on_a_terminal(folder: Path, options: list[str]) -> None:
    """It is drawn while it lasts, and nothing of it is left."""
    near, far = pty.openpty()
    tty.setraw(far)
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    words = ["--progress", "always", "--interval", "20ms", "--name", "job", "--rate-limit", "400K"]
    try:
        with subprocess.Popen(
            [*ZPIPE, "cat", *words, *options, "b"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=far,
            env=environment(TERM="xterm", COLUMNS="100"),
        ) as process:
            os.close(far)
            far = -1
            assert process.stdout is not None
            shown = b""
            try:
                while some := os.read(near, 1 << 16):
                    shown += some
            except OSError:
                pass  # EIO: nobody has the other side any more
            assert (process.stdout.read(), process.wait(LONGEST)) == (B, 0)
    finally:
        os.close(near)
        if far >= 0:
            os.close(far)
    text = shown.decode()
    assert "KiB/s" in text
    assert ("standard output" if options else "job") in text
    assert "\x1b[?25h" in text  # the cursor is back
    if options:
        assert text.rstrip("\r\n").endswith(digest_of(B, "b").decode().rstrip())


# For programs


def test_json_tells_of_each_source(folder: Path) -> None:
    done = run("--json", "a", "b", "-", "a", data=B, cwd=folder)
    assert (done.returncode, done.stdout) == (0, A + B + B + A)
    found = records(done.stderr)
    names = ["a", "b", "standard input", "a"]
    assert [record["source"] for record in of_type(found, "start")] == names
    hops = of_type(found, "hop")
    assert [hop["source"] for hop in hops] == names
    assert [hop["bytes"] for hop in hops] == [SMALL, BIG, BIG, SMALL]
    for hop in hops:
        assert hop["bytes_by_mover"] == {hop["mover"]: hop["bytes"]}
    end = found[-1]
    assert (end["type"], end["bytes"]) == ("end", 2 * SMALL + 2 * BIG)
    (only,) = end["outputs"]
    assert (only["sink"], only["state"], only["bytes"]) == ("standard output", "done", end["bytes"])
    assert only["error"] is None


def test_json_tells_of_each_output(folder: Path) -> None:
    done = run("--json", "--hash", "md5", "--hash", "sha1", "a", "b", cwd=folder)
    assert (done.returncode, done.stdout) == (0, A + B)
    found = records(done.stderr)
    end = found[-1]
    assert [each["sink"] for each in end["outputs"]] == [
        "standard output",
        "--hash md5",
        "--hash sha1",
    ]
    assert {each["bytes"] for each in end["outputs"]} == {SMALL + BIG}
    assert {each["state"] for each in end["outputs"]} == {"done"}
    answers = [record["text"] + "\n" for record in of_type(found, "answer")]
    expected = [digest_of(A + B), digest_of(A + B, algorithm="sha1")]
    assert [answer.encode() for answer in answers] == expected


def test_json_tells_what_failed(folder: Path) -> None:
    done = run("--json", "a", "nosuch", "b", cwd=folder)
    assert (done.returncode, done.stdout) == (1, A + B)
    found = records(done.stderr)
    (failed,) = of_type(found, "failed")
    assert failed["text"] == "nosuch: open: No such file or directory"
    last = found[-1]
    assert (last["type"], last["exit"], last["bytes"]) == ("error", 1, SMALL + BIG)
    assert [record["source"] for record in of_type(found, "hop")] == ["a", "b"]


def test_json_of_a_buffer_tells_how_deep_it_was(stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", "--json", "--buffer", "16M", stdin=pipe.reader) as process:
        feed(pipe.writer.fileno(), content(1 << 20) * 6)
        pipe.writer.close()
        out, said = process.communicate(timeout=LONGEST)
        assert (process.returncode, out) == (0, content(1 << 20) * 6)
    (only,) = records(said)[-1]["outputs"]
    assert 0 < only["most_spilled"] <= 16 << 20
    assert (only["when_full"], only["spilled"], only["lag"]) == ("spill", 0, 0)


def test_json_on_an_fd_of_its_own(folder: Path) -> None:
    reader, writer = os.pipe()
    words = ["--json-fd", str(writer), "--hash", "md5", "a", "nosuch", "b"]
    done = run(*words, cwd=folder, pass_fds=[writer])
    os.close(writer)
    with open(reader, "rb") as told:
        found = records(told.read())
    assert [record["type"] for record in found[-1:]] == ["error"]
    assert of_type(found, "answer", "failed")
    expected = b"zpipe: nosuch: open: No such file or directory\n" + digest_of(A + B)
    assert (done.returncode, done.stdout, done.stderr) == (1, A + B, expected)


def test_json_of_a_signal(stack: ExitStack) -> None:
    pipe = Pipe(stack)
    with started("cat", "--json", stdin=pipe.reader) as process:
        assert process.stdout is not None
        pipe.writer.write(A)
        drink(process.stdout.fileno(), SMALL)
        until_asleep(process)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=LONGEST)
        assert process.returncode == -signal.SIGTERM
    last = records(said)[-1]
    assert (last["type"], last["signal"], last["exit"]) == ("error", 15, 143)
    assert last["outputs"][0]["sink"] == "standard output"


# Options


@pytest.mark.parametrize(
    "option",
    [
        *("-A", "-b", "-e", "-E", "-n", "-s", "-t", "-T", "-v", "-vET", "-un"),
        *("--show-all", "--number", "--squeeze-blank"),
    ],
)
def test_options_of_cat_that_change_bytes_are_refused(folder: Path, option: str) -> None:
    done = run(option, "a", cwd=folder)
    assert done.stdout == b""
    text = refused(done, 2, "does not change them")
    assert text.startswith("cat: -")


def test_the_option_of_cat_that_means_nothing_is_taken(folder: Path) -> None:
    done = run("-u", "a", cwd=folder)
    went_well(done)
    assert done.stdout == A


@pytest.mark.parametrize(
    "words",
    [
        ["-x"],
        ["--nosuch"],
        ["--bytes", "-1"],
        ["--bytes", "x"],
        ["--buffer", "x"],
        ["--rate-limit", "0"],
        ["--interval", "0"],
        ["--stall-timeout", "0"],
        ["--hash"],
        ["--json-fd", "99"],
        ["--json-fd", "-1"],
        ["--via", "nosuch"],
        ["--via", "tee", "--no-via", "tee"],
    ],
    ids=" ".join,
)
def test_other_words_are_refused_before_anything_is_written(folder: Path, words: list[str]) -> None:
    done = run("b", *words, cwd=folder)
    assert done.stdout == b""
    refused(done, 2)


STRANGE = ["with space", "new\nline", os.fsdecode(b"no\xffutf8"), "-n", "--bytes", "co:lon"]
STRANGE += ["what?", "a?length=1", "null:x", "%s", "x" * 255]


@pytest.mark.parametrize("name", STRANGE, ids=repr)
def test_a_file_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(B)
    done = run("--", f"./{name}", *([] if ":" in name else [name]), cwd=tmp_path)
    went_well(done)
    assert done.stdout == (B if ":" in name else B + B)


def test_a_dash_after_the_options_is_still_standard_input(folder: Path) -> None:
    (folder / "-").write_bytes(B)
    done = run("--", "-", "./-", data=A, cwd=folder)
    assert (done.returncode, done.stdout) == (0, A + B)


@pytest.mark.parametrize("name", ["no\x1b[31msuch", "new\nline", "bell\x07"], ids=repr)
def test_a_name_does_not_steer_the_terminal(folder: Path, name: str) -> None:
    """The line about a source that is passed over is one line, of what can be shown."""
    done = run("a", name, "b", cwd=folder)
    assert (done.returncode, done.stdout) == (1, A + B)
    assert name not in one_line(done)


def test_options_may_follow_the_operands(folder: Path) -> None:
    assert run("b", "a", "--bytes", "10", cwd=folder).stdout == B[:10]


# Plans


def test_a_dry_run_waits_for_nobody_and_writes_nothing(folder: Path) -> None:
    """Not for a FIFO, not for a peer; no command is started, no digest file is made."""
    os.mkfifo(folder / "fifo")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        peer = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        words = ["--dry-run", "--hash", "md5", "--hash-file", "sum"]
        done = run(*words, "fifo", "exec:touch x", peer, "b", "-", cwd=folder)
        with pytest.raises(BlockingIOError):
            server.accept()
    went_well(done)
    text = done.stdout.decode()
    for name in ("fifo", "exec:touch x", peer, "b"):
        assert f"\n{name} -> -, --hash md5 " in text
    assert "md5" in text
    assert sorted(os.listdir(folder)) == ["a", "b", "fifo"]


@pytest.mark.parametrize("options", [*WAYS, ["--no-via", "sendfile"]], ids=" ".join)
def test_a_dry_run_plans_what_is_done(folder: Path, options: list[str]) -> None:
    plan = run("--dry-run", *options, "b", "-", "a", data=B, cwd=folder)
    went_well(plan)
    found = records(run("--json", *options, "b", "-", "a", data=B, cwd=folder).stderr)
    for start in of_type(found, "start"):
        name = "-" if start["source"] == "standard input" else start["source"]
        lines = [line.split() for line in plan.stdout.decode().splitlines()]
        assert any(line[:2] == [name, "->"] and start["mover"] in line for line in lines), start


def test_the_explanation_names_each_source_and_how_it_went(folder: Path) -> None:
    done = run("--explain", "a", "b", "-", data=B, cwd=folder)
    assert (done.returncode, done.stdout) == (0, A + B + B)
    text = done.stderr.decode()
    assert re.search(r"^a ── plain ──▶ standard output$", text, re.MULTILINE)
    assert re.search(rf"^  outcome +b: \w+ reached the end: {BIG} bytes", text, re.MULTILINE)
    assert re.search(r"standard input: splice reached the end", text)


@pytest.mark.parametrize(
    ("source", "movers"),
    [("b", ["sendfile", "splice", "mapped", "plain"]), ("-", ["splice", "plain"])],
)
def test_via_moves_by_that_mover(folder: Path, source: str, movers: list[str]) -> None:
    for mover in movers:
        done = run("--json", "--via", mover, source, source, data=B, cwd=folder)
        assert (done.returncode, done.stdout) == (0, B if source == "-" else B + B), done.stderr
        assert {hop["mover"] for hop in of_type(records(done.stderr), "hop")} == {mover}


@pytest.mark.parametrize(
    ("options", "mover"),
    [
        (["--no-via", "sendfile"], "splice"),
        (["--no-via", "sendfile", "--no-via", "splice"], "plain"),
        (["--hash", "md5", "--via", "tee"], "tee"),
        (["--hash", "md5", "--no-via", "tee"], "plain"),
        (["--hash", "md5", "--via", "plain"], "plain"),
        (["--buffer", "1M", "--via", "splice"], "splice"),
        (["--buffer", "1M", "--no-via", "splice"], "plain"),
    ],
    ids=str,
)
def test_no_via_takes_another(folder: Path, options: list[str], mover: str) -> None:
    done = run("--json", *options, "b", cwd=folder)
    assert (done.returncode, done.stdout) == (0, B), done.stderr
    (hop,) = of_type(records(done.stderr), "hop")
    assert hop["mover"] == mover


@pytest.mark.parametrize(
    "words",
    [
        ["--via", "copy_range", "-"],
        ["--via", "sendfile", "-"],
        ["--via", "parallel", "b"],
        ["--via", "tee", "b"],
        ["--via", "tee", "--dry-run", "b"],
        ["--via", "tee", "--buffer", "1M", "b"],
        ["--via", "sendfile", "--buffer", "1M", "b"],
        ["--via", "sendfile", "--hash", "md5", "b"],
        ["--no-via", "plain", "--no-via", "tee", "--hash", "md5", "b"],
    ],
    ids=" ".join,
)
def test_a_way_that_cannot_serve_is_refused(folder: Path, words: list[str]) -> None:
    done = run(*words, data=B, cwd=folder)
    assert done.stdout == b""
    refused(done, 2, words[0])


# Sources that change


@pytest.mark.parametrize("change", ["grows", "shrinks", "is rewritten"])
@pytest.mark.parametrize("options", [*WAYS[:2], ["--buffer", "100K"]], ids=str)
def test_a_source_that_changes_while_it_is_read(
    folder: Path, change: str, options: list[str]
) -> None:
    """It is told of, the status is 1, and the others follow."""
    size = 3 << 20
    path = folder / "changing"
    path.write_bytes(content(size, 4))
    with started("cat", *options, "changing", "a", cwd=folder) as process:
        assert process.stdout is not None and process.stderr is not None
        out = process.stdout.fileno()
        until(lambda: waiting_in(out) >= GROWN, "the reader's pipe is full")
        until_asleep(process)
        if change == "grows":
            with open(path, "ab") as file:
                file.write(b"more")
        elif change == "shrinks":
            os.truncate(path, size - 4096)
        else:
            with open(path, "r+b") as file:
                file.seek(size - 10)
                file.write(b"other")
        got = drink(out)
        assert process.wait(LONGEST) == 1
        line = process.stderr.readline().decode()
    assert line.startswith("zpipe: changing: read: the source changed while it was read (")
    assert got.endswith(A)
    kept = size - 4096 if change != "grows" else size
    assert got[:kept] == content(size, 4)[:kept]


# Others who touch the same pipe

TOUCH = """
import fcntl, os
fcntl.ioctl(0, 0x541B, bytes(4))
os.set_blocking(0, False)
try:
    os.read(0, 1)
except BlockingIOError:
    pass
try:
    path = "/proc/self/fd/" + os.environ["WRITER"]
    os.write(os.open(path, os.O_WRONLY | os.O_NONBLOCK), b"y")
except BlockingIOError:
    pass
"""


def touch(process: subprocess.Popen[bytes], reader: IO[bytes], writer: IO[bytes]) -> None:
    """Let another process use a pipe that zpipe waits at; this one would be held up for good."""
    toucher = subprocess.Popen(
        [sys.executable, "-c", TOUCH],
        stdin=reader,
        pass_fds=[writer.fileno()],
        env=environment(WRITER=str(writer.fileno())),
    )
    try:
        assert toucher.wait(LONGEST / 6) == 0
    finally:
        process.kill()  # whoever was held up is free then
        toucher.kill()
        toucher.wait()


def until_nothing_moves(*processes: int) -> None:
    """Wait until all of them sleep, and have not been awake between two looks."""
    looks: list[list[str]] = []

    def still() -> bool:
        look = []
        for pid in processes:
            with open(f"/proc/{pid}/status") as status:
                look += [line for line in status if line.startswith(("State", "voluntary"))]
        looks.append(look)
        asleep = all("sleeping" in line for line in look if line.startswith("State"))
        return asleep and looks[-3:-1] == [look, look]

    until(still, "nothing moves")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, []) for kind in ("unix", "unix-nonblocking", "tcp-nonblocking", "terminal")),
        *(("tcp", way) for way in WAYS),
        *(("pipe", way) for way in [*WAYS, ["--via", "plain"], ["--rate-limit", "1G"]]),
    ],
    ids=str,
)
def test_nobody_else_is_held_up_at_the_pipe_that_is_read(
    kind: str, options: list[str], folder: Path, stack: ExitStack
) -> None:
    """The kernel holds a pipe that is spliced out of, uninterruptibly for all others, for as long
    as the call waits: zpipe must not wait for a slow reader in such a call.
    """
    pipe = Pipe(stack)
    with (
        output(kind, folder) as (fd, _),
        started("cat", *options, stdin=pipe.reader, stdout=fd) as process,
        subprocess.Popen(["cat", "/dev/zero"], stdout=pipe.writer) as feeder,
    ):
        try:
            until_listening_to_signals(process)
            until_nothing_moves(process.pid, feeder.pid)
            touch(process, pipe.reader, pipe.writer)
        finally:
            process.kill()
            feeder.kill()


@pytest.mark.parametrize("kind", ["unix", "unix-nonblocking", "tcp", "tcp-nonblocking", "terminal"])
@pytest.mark.parametrize("options", WAYS[:2], ids=["plainly", "hashing"])
def test_nor_at_the_pipe_that_is_written(
    kind: str, options: list[str], folder: Path, stack: ExitStack
) -> None:
    """So it does with one that is spliced into, while a socket has nothing to give."""
    pipe = Pipe(stack)
    with (
        output(kind, folder) as (fd, _),
        started("cat", *options, stdin=fd, stdout=pipe.writer) as process,
    ):
        until_listening_to_signals(process)
        until_nothing_moves(process.pid)
        touch(process, pipe.reader, pipe.writer)


# Where something is missing


@every_way
def test_too_few_fds(folder: Path, options: list[str]) -> None:
    """At every limit the output is right, or a line says what is missing."""
    right = 0
    for limit in (6, 8, 9, 11, 13, 15, 17, 20):
        few = shell(f'ulimit -n {limit}; exec "$@"')
        done = run(*options, "b", "a", cwd=folder, before=few)
        if done.returncode == 0:
            assert done.stdout == B + A
            right += 1
        else:
            assert done.returncode == 1
            assert b"Too many open files" in done.stderr
            assert done.stdout in (b"", A, B)
            for line in done.stderr.splitlines():
                assert line.startswith(b"zpipe: ") or line + b"\n" == digest_of(done.stdout), line
    assert right >= 1


@pytest.mark.parametrize(
    ("options", "name"),
    [*((way, "ENOSYS") for way in WAYS), ([], "EPERM")],
    ids=["plainly-ENOSYS", "hashing-ENOSYS", "buffering-ENOSYS", "plainly-EPERM"],
)
def test_a_sandbox_that_denies_the_quick_calls(folder: Path, options: list[str], name: str) -> None:
    allowed()
    words = denying(name, "splice", "tee", "sendfile", "copy_file_range")
    for more in ([], ["-", "a"]):
        done = run(*options, "b", "a", *more, data=B, cwd=folder, before=words)
        expected = B + A + (B + A if more else b"")
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
        assert done.stderr == said_of(options, expected)


def test_who_has_used_up_the_pages_for_pipes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes have two slots then, and none can grow: slower, and still right.

    The command runs in a fork, without exec: that user may not be able to read this Python.
    """
    for module in pkgutil.walk_packages(zpipe_package.__path__, "zpipe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    folder.chmod(0o755)
    data = content(300_000, 5)
    (folder / "c").write_bytes(data)
    for name in "ac":
        (folder / name).chmod(0o644)
    monkeypatch.setenv("TMPDIR", "/tmp")  # for the buffer: a folder that takes anybody's files
    expected = data + A + data

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 4096))
        granted = 0
        held: list[int] = []
        while granted != 8192:
            assert len(held) < 900, "this kernel gives every user all the pages that he wants"
            held += os.pipe()
            try:
                fcntl.fcntl(held[-1], F_SETPIPE_SZ, 1 << 20)
            except PermissionError:
                granted = fcntl.fcntl(held[-1], F_GETPIPE_SZ)
        for options in WAYS:
            source, sink, words = os.pipe(), os.pipe(), os.pipe()
            assert fcntl.fcntl(sink[1], F_GETPIPE_SZ) == 8192
            child = os.fork()
            if child == 0:
                become_zpipe(["cat", *options, "c", "a", "-"], source[0], sink[1], words[1])
            for fd in (source[0], sink[1], words[1]):
                os.close(fd)
            feeder = beside(partial(feed, source[1], data), partial(os.close, source[1]))
            got, said = drink(sink[0]), drink(words[0])
            feeder.join()
            _, status = os.waitpid(child, 0)
            for fd in (sink[0], words[0]):
                os.close(fd)
            assert (os.waitstatus_to_exitcode(status), said) == (0, said_of(options, expected))
            assert got == expected, options

    as_stranger(folder, work)


def become_zpipe(words: list[str], stdin: int, stdout: int, stderr: int) -> NoReturn:
    """Run zpipe in this process, which is a child, and end it."""
    status = 1
    try:
        for number, fd in enumerate((stdin, stdout, stderr)):
            os.dup2(fd, number)
        os.closerange(3, 4096)
        main(words)
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        os._exit(status)
