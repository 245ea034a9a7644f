"""One contract for every kind of end: what each of them promises, whatever it is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import resource
import shlex
import socket
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import (
    Interrupting,
    Meeting,
    Peer,
    accept,
    listening,
    open_end,
    read_all,
    sink,
    source,
    write_all,
)
from tests.machine import content
from zpipe.endpoints import KINDS, kind_of, parse
from zpipe.endpoints.gather import gather
from zpipe.errors import Interrupted, TransferError, UsageError, ZpipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


COUNT = 10_000
DATA = content(COUNT)
PATTERN = bytes(8) + hashlib.shake_256(b"seed").digest(COUNT)[8:]


class Stage:
    """An operand, and what the world does around it.

    `waiter` does the other side's part while the end opens, `then` once it is open. `data` is what
    a source gives or a sink is given, `got` what has arrived behind a sink; None where nobody sees.
    """

    def __init__(
        self,
        text: str,
        *steps: Callable[[], object],
        data: bytes = DATA,
        then: Callable[[], object] = lambda: None,
        got: Callable[[], bytes] | None = None,
    ):
        self.text = text
        self.waiter = Meeting(*steps)
        self.data = data
        self.then = then
        self.got = got


SOURCES: dict[str, Callable[[Path, ExitStack], Stage]] = {}
SINKS: dict[str, Callable[[Path, ExitStack], Stage]] = {}


def stage(
    table: dict[str, Callable[[Path, ExitStack], Stage]], name: str
) -> Callable[[Callable[[Path, ExitStack], Stage]], None]:
    """Enter a function into a table of stages."""

    def enter(build: Callable[[Path, ExitStack], Stage]) -> None:
        table[name] = build

    return enter


def give(connect: Callable[[], socket.socket]) -> None:
    with connect() as end:
        end.sendall(DATA)


def meet(peers: list[Peer], stack: ExitStack, connect: Callable[[], socket.socket]) -> None:
    peers.append(Peer(connect))
    stack.callback(peers[-1].read)


def received(peers: list[Peer]) -> bytes:
    (peer,) = peers
    return peer.read()


def full_pipe(stack: ExitStack) -> int:
    """Return the reading end of a pipe that holds DATA and has no writer."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    os.write(writer, DATA)
    os.close(writer)
    return reader


def empty_pipe(stack: ExitStack) -> tuple[int, Callable[[], bytes]]:
    """Return the writing end of a pipe, and what reads all that has arrived."""
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return writer, lambda: os.read(reader, 1 << 20)


def stand_in(fd: int, other: int, stack: ExitStack) -> None:
    """Let another fd be a standard one until the stack unwinds."""
    kept = os.dup(fd)
    os.dup2(other, fd)
    stack.callback(os.close, kept)
    stack.callback(os.dup2, kept, fd)


@stage(SOURCES, "file")
def _(folder: Path, stack: ExitStack) -> Stage:
    (folder / "src").write_bytes(DATA)
    return Stage(f"{folder}/src")


@stage(SINKS, "file")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage(f"file:{folder}/dst", got=(folder / "dst").read_bytes)


@stage(SOURCES, "-")
def _(folder: Path, stack: ExitStack) -> Stage:
    stand_in(0, full_pipe(stack), stack)
    return Stage("-")


@stage(SINKS, "-")
def _(folder: Path, stack: ExitStack) -> Stage:
    writer, got = empty_pipe(stack)
    stand_in(1, writer, stack)
    return Stage("-", got=got)


@stage(SOURCES, "fd")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage(f"fd:{full_pipe(stack)}")


@stage(SINKS, "fd")
def _(folder: Path, stack: ExitStack) -> Stage:
    writer, got = empty_pipe(stack)
    return Stage(f"fd:{writer}", got=got)


@stage(SOURCES, "pipe")
def _(folder: Path, stack: ExitStack) -> Stage:
    path = folder / "fifo"
    os.mkfifo(path)

    def write() -> None:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, DATA)
        os.close(fd)

    return Stage(f"pipe:{path}", write)


@stage(SINKS, "pipe")
def _(folder: Path, stack: ExitStack) -> Stage:
    path = folder / "fifo"
    os.mkfifo(path)
    opened: list[int] = []

    def read() -> None:
        opened.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        stack.callback(os.close, opened[0])

    return Stage(f"pipe:{path}", read, got=lambda: os.read(opened[0], 1 << 20))


@stage(SOURCES, "tcp")
def _(folder: Path, stack: ExitStack) -> Stage:
    listener, text = stack.enter_context(listening())
    return Stage(text, then=lambda: give(lambda: accept(listener)))


@stage(SINKS, "tcp")
def _(folder: Path, stack: ExitStack) -> Stage:
    listener, text = stack.enter_context(listening())
    peers: list[Peer] = []
    return Stage(
        text,
        then=lambda: meet(peers, stack, lambda: accept(listener)),
        got=partial(received, peers),
    )


@stage(SOURCES, "tcp-listen")
def _(folder: Path, stack: ExitStack) -> Stage:
    made = Stage("tcp-listen://127.0.0.1:0")
    made.waiter.steps.append(
        lambda: give(lambda: socket.create_connection(("127.0.0.1", made.waiter.port())))
    )
    return made


@stage(SINKS, "tcp-listen")
def _(folder: Path, stack: ExitStack) -> Stage:
    peers: list[Peer] = []
    made = Stage("tcp-listen://127.0.0.1:0", got=partial(received, peers))

    def connect() -> None:
        port = made.waiter.port()
        meet(peers, stack, lambda: socket.create_connection(("127.0.0.1", port)))

    made.waiter.steps.append(connect)
    return made


def connected(path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.connect(str(path))
    return end


@stage(SOURCES, "unix")
def _(folder: Path, stack: ExitStack) -> Stage:
    listener, text = stack.enter_context(listening(socket.AF_UNIX, f"{folder}/socket"))
    return Stage(text, then=lambda: give(lambda: accept(listener)))


@stage(SINKS, "unix")
def _(folder: Path, stack: ExitStack) -> Stage:
    listener, text = stack.enter_context(listening(socket.AF_UNIX, f"{folder}/socket"))
    peers: list[Peer] = []
    return Stage(
        text,
        then=lambda: meet(peers, stack, lambda: accept(listener)),
        got=partial(received, peers),
    )


@stage(SOURCES, "unix-listen")
def _(folder: Path, stack: ExitStack) -> Stage:
    path = folder / "socket"
    return Stage(f"unix-listen:{path}", lambda: give(lambda: connected(path)))


@stage(SINKS, "unix-listen")
def _(folder: Path, stack: ExitStack) -> Stage:
    path = folder / "socket"
    peers: list[Peer] = []
    return Stage(
        f"unix-listen:{path}",
        lambda: meet(peers, stack, partial(connected, path)),
        got=partial(received, peers),
    )


@stage(SOURCES, "exec")
def _(folder: Path, stack: ExitStack) -> Stage:
    (folder / "src").write_bytes(DATA)
    return Stage(f"exec:cat {shlex.quote(str(folder))}/src")


@stage(SINKS, "exec")
def _(folder: Path, stack: ExitStack) -> Stage:
    path = folder / "dst"
    command = f"cat > {shlex.quote(str(path))}"
    return Stage(f"exec:sh -c {shlex.quote(command)}", got=path.read_bytes)


@stage(SOURCES, "null")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage("null:", data=b"")


@stage(SINKS, "null")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage("null:")


@stage(SOURCES, "zero")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage(f"zero:?size={COUNT}", data=bytes(COUNT))


@stage(SOURCES, "pattern")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage(f"pattern:seed?size={COUNT}", data=PATTERN)


@stage(SINKS, "pattern")
def _(folder: Path, stack: ExitStack) -> Stage:
    return Stage(f"pattern:seed?size={COUNT}", data=PATTERN)


@stage(SINKS, "hash")
def _(folder: Path, stack: ExitStack) -> Stage:
    made = Stage("hash:sha256?name=it")
    digest = f"{hashlib.sha256(DATA).hexdigest()}  it"
    # all that can be seen of the bytes is whether these were they
    made.got = lambda: DATA if made.waiter.answers == [digest] else b"others"
    return made


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No thread and no child outlives an end; fds are watched for all tests."""
    threads = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= threads
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def test_every_kind_has_a_stage_for_each_of_its_sides() -> None:
    assert {name for name in KINDS if kind_of(name).source} == set(SOURCES)
    assert {name for name in KINDS if kind_of(name).sink} == set(SINKS)


BOTH = [(name, False) for name in SOURCES] + [(name, True) for name in SINKS]
both_sides = pytest.mark.parametrize(
    ("name", "is_sink"), BOTH, ids=[f"{'to' if sink else 'from'} {name}" for name, sink in BOTH]
)


def build(name: str, is_sink: bool, folder: Path, stack: ExitStack) -> Stage:
    return (SINKS if is_sink else SOURCES)[name](folder, stack)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_describes_itself_for_the_manual(name: str) -> None:
    kind = kind_of(name)
    assert kind.name == name
    for form in kind.form.split(", "):
        assert form.startswith(name) or form == "PATH"
    assert kind.summary.endswith(".")
    assert len(kind.summary) <= 100
    assert all(meaning for meaning in kind.options.values())


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_gives_all_of_its_bytes(name: str, tmp_path: Path, stack: ExitStack) -> None:
    here = build(name, False, tmp_path, stack)
    with source(here.text, here.waiter) as end:
        here.then()
        assert read_all(end) == here.data
        end.finish(here.waiter)


@pytest.mark.parametrize("name", SINKS)
def test_a_sink_takes_all_of_its_bytes(name: str, tmp_path: Path, stack: ExitStack) -> None:
    here = build(name, True, tmp_path, stack)
    with sink(here.text, here.waiter) as end:
        here.then()
        write_all(end, here.data)
        end.finish(here.waiter)
    if here.got is not None:
        assert here.got() == here.data


@both_sides
def test_an_end_that_is_closed_early_leaves_nothing(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    here = build(name, is_sink, tmp_path, stack)
    before = set(os.listdir(tmp_path))
    end = open_end(here.text, here.waiter, sink=is_sink)
    end.close()
    assert end.fd == -1
    end.close()
    if name != "exec":  # a shell may have begun to write already
        assert set(os.listdir(tmp_path)) <= before


@both_sides
def test_the_facts_are_those_of_the_fd(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    here = build(name, is_sink, tmp_path, stack)
    with open_end(here.text, here.waiter, sink=is_sink) as end:
        assert end.facts.writable if is_sink else end.facts.readable
        assert end.facts.type == gather(end.fd).type
        # its owner alone may let it block; all others are waited for by poll
        assert not (end.facts.may_block and end.facts.owned)
        assert end.facts.nonblocking != os.get_blocking(end.fd)
        assert bool(fcntl.fcntl(end.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC) or not end.facts.owned
        assert (end.port().fd, end.port().facts, end.port().name) == (end.fd, end.facts, end.name)
        assert end.name in (here.text, "standard input", "standard output")


def listing(folder: Path) -> dict[str, int]:
    return {name: os.stat(folder / name).st_size for name in os.listdir(folder)}


@both_sides
def test_a_preview_foretells_the_type_and_touches_nothing(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    here = build(name, is_sink, tmp_path, stack)
    before = listing(tmp_path)
    endpoint = parse(here.text, sink=is_sink)
    foretold = kind_of(name).preview(endpoint, sink=is_sink)
    assert listing(tmp_path) == before
    with open_end(here.text, here.waiter, sink=is_sink) as end:
        for fact in ("type", "generated", "fresh", "append", "device"):
            assert getattr(foretold, fact) == getattr(end.facts, fact), fact
        if end.facts.on_disk:
            assert (foretold.position, foretold.size) == (end.facts.position, end.facts.size)
            assert foretold.filesystem == end.facts.filesystem


@pytest.mark.parametrize("name", SOURCES)
def test_an_offset_is_kept_to_or_refused_and_never_overlooked(
    name: str, tmp_path: Path, stack: ExitStack
) -> None:
    here = build(name, False, tmp_path, stack)
    try:
        with source(here.text, here.waiter, offset=7) as end:
            assert read_all(end) == here.data[7:]
    except TransferError as error:
        assert "seek to 7" in str(error)
        assert not here.waiter.acts, "it had begun to wait before it looked at the offset"


@both_sides
def test_whoever_waits_can_be_interrupted_and_leaves_nothing(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    here = build(name, is_sink, tmp_path, stack)
    before = set(os.listdir(tmp_path))
    waiter = Interrupting()
    if name in ("pipe", "tcp-listen", "unix-listen"):
        with pytest.raises(Interrupted):
            open_end(here.text, waiter, sink=is_sink)
        assert waiter.acts
        assert set(os.listdir(tmp_path)) == before
    else:
        try:
            open_end(here.text, waiter, sink=is_sink).close()
        except Interrupted:
            assert name == "tcp"  # a connection to this machine is made at once, as a rule


@both_sides
def test_an_option_that_a_kind_does_not_have_is_refused_or_part_of_the_address(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    kind = kind_of(name)
    text = build(name, is_sink, tmp_path, stack).text.partition("?")[0]
    if name == "-":
        return
    if text.startswith("/"):
        text = f"file:{text}"
    if kind.options:
        with pytest.raises(UsageError, match=r"unknown option colour: known are "):
            parse(f"{text}?colour=red", sink=is_sink)
        some = next(iter(kind.options))
        with pytest.raises(UsageError, match=f"option {some}: give a value"):
            parse(f"{text}?{some}=", sink=is_sink)
        with pytest.raises(UsageError, match=f"option {some}: given twice"):
            parse(f"{text}?{some}=1&{some}=1", sink=is_sink)
    else:
        try:
            assert parse(f"{text}?colour=red", sink=is_sink).address.endswith("?colour=red")
        except UsageError:
            assert name == "null"


@pytest.mark.parametrize("name", KINDS)
def test_a_side_that_a_kind_does_not_have_is_refused(name: str, tmp_path: Path) -> None:
    kind = kind_of(name)
    for is_sink, has, table in ((False, kind.source, SINKS), (True, kind.sink, SOURCES)):
        if not has:
            with ExitStack() as stack:
                text = table[name](tmp_path, stack).text
            with pytest.raises(UsageError, match="cannot be a"):
                parse(text, sink=is_sink)


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("missing", "source"),
        ("file:missing", "source"),
        (".", "both"),
        ("missing/file", "both"),
        ("fd:999999", "both"),
        ("pipe:missing", "both"),
        ("pipe:regular", "both"),
        ("unix:missing", "both"),
        ("unix:regular", "both"),
        ("unix-listen:regular", "both"),
        ("unix-listen:missing/socket", "both"),
        ("exec:./missing", "both"),
        ("exec:./regular", "both"),
        ("socket", "both"),
    ],
)
def test_what_cannot_be_opened_is_named_with_act_and_reason(
    text: str, sides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "regular").write_bytes(b"data")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for is_sink in (False, True) if sides == "both" else (False,):
            with pytest.raises(TransferError, match=r"^[^:]*(:[^:]*)?: \w+( .*)?: \w"):
                open_end(text, Meeting(), sink=is_sink)
    assert sorted(os.listdir(tmp_path)) == ["regular", "socket"]
    assert (tmp_path / "regular").read_bytes() == b"data"


def first_free(stack: ExitStack) -> int:
    """Occupy the numbers that are free between others; return the one above all that are open."""
    highest = max(map(int, os.listdir("/proc/self/fd")))
    while (fd := os.open("/dev/null", os.O_RDONLY)) < highest:
        stack.callback(os.close, fd)
    os.close(fd)
    return fd


@both_sides
def test_an_end_that_gets_no_fd_leaves_nothing(
    name: str, is_sink: bool, tmp_path: Path, stack: ExitStack
) -> None:
    """EMFILE at any point of an opening."""
    here = build(name, is_sink, tmp_path, stack)
    before = set(os.listdir(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = 0
    for room in range(20):
        resource.setrlimit(resource.RLIMIT_NOFILE, (first_free(stack) + room, limits[1]))
        try:
            open_end(here.text, Interrupting(), sink=is_sink).close()
            break
        except Interrupted:
            break
        except (ZpipeError, OSError):
            failures += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert set(os.listdir(tmp_path)) == before
        with pytest.raises(ChildProcessError):
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    else:
        pytest.fail("it never opened")
    assert failures or name in ("fd", "-")
