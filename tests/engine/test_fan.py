"""One source and several sinks, through the library: each of them gets every byte, in order."""

from __future__ import annotations

import os
import select
import socket
import tempfile
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zpipe
from tests.endpoints.meeting import LONG
from tests.engine.test_hop import Background
from tests.machine import content, leftovers, until
from tests.movers import ends
from tests.movers.driver import ready
from zpipe.engine import spill
from zpipe.engine.feedback import Feedback
from zpipe.errors import UsageError
from zpipe.graph.policy import WHEN_FULL, Policy
from zpipe.kernel.pipes import buffered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.engine.report import HopReport, OutletReport

BULK = content(3 << 20, 5)
BIG = 300_001


class Reader(threading.Thread):
    """Takes what arrives behind a sink, `portion` bytes at a time, until its end."""

    def __init__(self, open_it: Callable[[], int], portion: int):
        super().__init__(daemon=True)
        self._open = open_it
        self._portion = portion
        self._got = bytearray()
        self.start()

    def run(self) -> None:
        fd = self._open()
        try:
            while data := os.read(fd, self._portion):
                self._got += data
        finally:
            os.close(fd)

    def read(self) -> bytes:
        self.join(LONG)
        assert not self.is_alive()
        return bytes(self._got)


class Outs:
    """Sinks of every kind, and what has arrived at each. Closes what was handed over by number."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.texts: list[str] = []
        self._got: list[Callable[[], bytes]] = []
        self._passed: list[int] = []

    def add(self, kind: str, options: str = "", portion: int = 1 << 16) -> None:
        """Add a sink: file, append, fifo, pipe, unix, tcp, exec or hash."""
        path = self._folder / f"{kind}{len(self.texts)}"
        text, got = f"file:{path}", path.read_bytes
        if kind == "fifo":
            os.mkfifo(path)
            got = Reader(lambda: os.open(path, os.O_RDONLY), portion).read
        elif kind in ends.STREAMS:
            reader, writer = ends.STREAMS[kind]()
            self._passed.append(writer)
            text, got = f"fd:{writer}", Reader(lambda: reader, portion).read
        elif kind == "exec":
            text = f"exec:dd of={path} bs={portion} status=none"
        elif kind == "append":
            text += "?append=1"
        mark = "&" if "?" in text else "?"
        self.texts.append(f"{text}{mark}{options}" if options else text)
        self._got.append(got)

    def got(self) -> list[bytes]:
        """Return what has arrived everywhere."""
        self.close()
        return [get() for get in self._got]

    def close(self) -> None:
        # the end of a pipe that was handed over is its owner's to give
        while self._passed:
            os.close(self._passed.pop())


class Source:
    """A source that gives its data in just these pieces, each by a call of its own."""

    def __init__(self, folder: Path, kind: str, data: bytes, pieces: list[int]):
        self._feeder: threading.Thread | None = None
        self._reader = -1
        if kind == "file":
            path = folder / "source"
            path.write_bytes(data)
            self.text = str(path)
            return
        self._reader, writer = ends.STREAMS[kind]()
        self.text = f"fd:{self._reader}"
        self._feeder = threading.Thread(target=self._feed, args=(writer, data, pieces), daemon=True)
        self._feeder.start()

    def _feed(self, writer: int, data: bytes, pieces: list[int]) -> None:
        rest = memoryview(data)
        sizes = list(pieces)
        try:
            while rest:
                rest = rest[os.write(writer, rest[: sizes.pop(0) if sizes else 1 << 16]) :]
        except (BrokenPipeError, ConnectionResetError):
            pass  # no more was wanted
        finally:
            os.close(writer)

    def close(self) -> None:
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1
        if self._feeder is not None:
            self._feeder.join(LONG)
            assert not self._feeder.is_alive()


@pytest.fixture
def outs(tmp_path: Path) -> Iterator[Outs]:
    with closing(Outs(tmp_path)) as made:
        yield made


KINDS = ("file", "append", "fifo", "pipe", "unix", "tcp", "exec")
SOURCES = ("file", "pipe", "unix", "tcp")


@pytest.mark.parametrize("when_full", WHEN_FULL)
@pytest.mark.parametrize("via", [None, "tee", "plain"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_sink_gets_everything(
    kind: str, via: str | None, when_full: Any, outs: Outs, tmp_path: Path
) -> None:
    for sink in KINDS:
        outs.add(sink)
    data = BULK[:BIG]
    policy = Policy(when_full=when_full, spill_dir=str(tmp_path), detach_after=LONG)
    with closing(Source(tmp_path, kind, data, [])) as source:
        report = zpipe.copy(source.text, *outs.texts, via=via, policy=policy)
    assert outs.got() == [data] * len(KINDS)
    (hop,) = report.hops
    assert (report.moved, hop.moved, hop.lost, hop.complete) == (BIG, BIG, 0, True)
    assert hop.mover == via or via is None
    assert sum(hop.bytes_by_mover.values()) == BIG
    assert max(hop.bytes_by_mover, key=lambda name: hop.bytes_by_mover[name]) == hop.mover
    for outlet, text in zip(hop.outlets, outs.texts, strict=True):
        assert (outlet.sink, outlet.state, outlet.error) == (text, "done", None)
        assert (outlet.moved, outlet.lag, outlet.spilled) == (BIG, 0, 0)
        assert outlet.policy == when_full
    assert not leftovers(tmp_path)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    kind=st.sampled_from(SOURCES),
    size=st.one_of(st.integers(0, 9), st.integers(0, 70_000), st.integers(300_000, 3_000_000)),
    pieces=st.lists(st.one_of(st.integers(1, 9), st.integers(1, 5000), st.integers(1, 300_000))),
    length=st.none() | st.integers(0, 9) | st.integers(0, 2_000_000),
    pipe_size=st.sampled_from([None, 4096, 8192, 1 << 16, 1 << 20]),
    via=st.sampled_from([None, "tee", "plain"]),
    sinks=st.lists(
        st.tuples(
            st.sampled_from(["file", "append", "fifo", "pipe", "unix", "tcp"]),
            st.sampled_from(["", "when_full=spill", "when_full=spill&spill_max=10000"]),
            st.sampled_from([1 << 16, 3000]),
        ),
        min_size=2,
        max_size=4,
    ),
)
def test_each_sink_gets_exactly_what_was_asked_for(
    kind: str,
    size: int,
    pieces: list[int],
    length: int | None,
    pipe_size: int | None,
    via: str | None,
    sinks: list[tuple[str, str, int]],
) -> None:
    data = BULK[:size]
    expected = data if length is None else data[:length]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        outs = stack.enter_context(closing(Outs(folder)))
        for sink, options, portion in sinks:
            outs.add(sink, options, portion)
        source = stack.enter_context(closing(Source(folder, kind, data, pieces)))
        policy = Policy(spill_dir=name)
        wishes: dict[str, Any] = {"length": length, "pipe_size": pipe_size, "via": via}
        if via == "tee" and kind == "file" and len(data) <= 32 * 1024:
            del wishes["via"]  # so little is not worth it
        report = zpipe.copy(source.text, *outs.texts, policy=policy, **wishes)
        assert outs.got() == [expected] * len(sinks)
        assert report.moved == len(expected)
        assert [outlet.moved for outlet in report.hops[0].outlets] == [len(expected)] * len(sinks)
        if kind != "file" and length is not None:
            # no more was taken than was asked for
            assert rest_of(source, len(data) - len(expected)) == data[len(expected) :]


def rest_of(source: Source, count: int) -> bytes:
    """Return so many bytes that a source has left."""
    got = b""
    fd = int(source.text.removeprefix("fd:"))
    while len(got) < count and (more := os.read(fd, 1 << 16)):
        got += more
    return got


def writable(fd: int) -> bool:
    return ready(fd, write=True)


@pytest.mark.parametrize("kind", ["pipe", "unix"])
def test_a_slow_reader_gets_its_own_bytes(kind: str) -> None:
    """What waits for it is not touched by what comes meanwhile: line by line, one reader stands."""
    line = 1000
    source_reader, source = os.pipe()
    slow_reader, slow = ends.STREAMS[kind]()
    quick_reader, quick = os.pipe()
    copy = Background(f"fd:{source_reader}", f"fd:{slow}", f"fd:{quick}")
    lines = [bytes([number % 251]) * line for number in range(2000)]
    expected, at_quick = b"", b""
    while lines and (not expected or writable(slow)):
        expected += lines[0]
        os.write(source, lines.pop(0))
        while len(at_quick) < len(expected):
            assert select.select([quick_reader], [], [], LONG)[0]
            at_quick += os.read(quick_reader, 1 << 16)
    assert lines, "it is never full"
    # of these some are lent to the slow one, and others follow
    for more in lines[:40]:
        os.write(source, more)
        expected += more
    os.close(source)
    rest = Reader(lambda: quick_reader, 1 << 16)
    late = Reader(lambda: slow_reader, 1 << 16)
    report = copy.result()
    for fd in (slow, quick, source_reader):
        os.close(fd)
    assert at_quick + rest.read() == expected
    assert late.read() == expected
    assert report.moved == len(expected)


@pytest.mark.parametrize(
    "wishes",
    [
        {},
        {"via": "plain"},
        {"pipe_size": 4096},
        {"policy": Policy(when_full="spill")},
        {"length": 20_000},
    ],
    ids=["by default", "plain", "small pipes", "spill", "with a limit"],
)
def test_messages_stay_whole(wishes: dict[str, Any], tmp_path: Path) -> None:
    """Two message sockets and a file: the file gets the bytes, the socket the messages."""
    messages = [BULK[at : at + size] for at, size in enumerate([9000, 500, 500, 9000, 1] * 4)]
    ours, theirs = (ends.unix(socket.SOCK_SEQPACKET) for _ in range(2))
    source_peer, source = ours
    reader, writer = theirs
    with socket.socket(fileno=os.dup(writer)) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)  # so that it is full soon
    feeder = threading.Thread(target=_send, args=(source_peer, messages), daemon=True)
    feeder.start()
    got: list[bytes] = []
    collector = threading.Thread(target=_collect, args=(reader, got), daemon=True)
    refused = False
    copy = Background(f"fd:{source}", f"fd:{writer}", f"{tmp_path}/file", **wishes)
    if "policy" in wishes:
        # all of them lie in the stage before the first one is read
        until(lambda: not buffered(source) or copy.is_over, "the source is empty")
    collector.start()
    try:
        copy.result()
    except UsageError:
        refused = True
    finally:
        for fd in (source, writer):
            os.close(fd)
        feeder.join(LONG)
        collector.join(LONG)
        for fd in (source_peer, reader):
            os.close(fd)
    expected = b"".join(messages)[: wishes.get("length")]
    if not refused:
        assert b"".join(got) == expected
        assert (tmp_path / "file").read_bytes() == expected
        if "length" not in wishes:
            assert [len(message) for message in got] == [len(message) for message in messages]


def _send(fd: int, messages: list[bytes]) -> None:
    try:
        for message in messages:
            os.write(fd, message)
        with socket.socket(fileno=os.dup(fd)) as end:
            end.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # no more was wanted


def _collect(fd: int, got: list[bytes]) -> None:
    while message := os.read(fd, 1 << 17):
        got.append(message)


# What the report says


def test_the_outlets_tell_who_was_slow_and_who_spilled(outs: Outs, tmp_path: Path) -> None:
    """The file waits for nobody; the reader of the pipe has not begun when the source has ended."""
    os.mkfifo(tmp_path / "slow")
    reader = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    outs.add("file")
    seen: list[OutletReport] = []

    class Begun(Feedback):
        def began(self, hop: HopReport) -> None:
            seen.extend(hop.outlets)

    (tmp_path / "source").write_bytes(BULK)
    copy = Background(
        str(tmp_path / "source"),
        *outs.texts,
        f"{tmp_path}/slow?when_full=spill&spill_dir={tmp_path}",
        feedback=Begun(),
    )
    until(lambda: seen and seen[1].deepest >= 1 << 19, "it spills")
    os.set_blocking(reader, True)
    slow = Reader(lambda: reader, 1 << 16)
    report = copy.result()
    assert slow.read() == BULK
    assert outs.got() == [BULK]
    fast, slow_one = report.hops[0].outlets
    assert (fast.deepest, fast.state) == (0, "done")
    assert (slow_one.spilled, slow_one.state, slow_one.moved) == (0, "done", len(BULK))
    assert slow_one.blocked > 0


# What fails


@pytest.mark.parametrize(
    ("blocker", "told"),
    [(1, "1 file was put in place"), (2, "2 files were put in place")],
)
def test_parts_that_are_complete_are_told_of(blocker: int, told: str, tmp_path: Path) -> None:
    (tmp_path / f"p{blocker}").mkdir()
    (tmp_path / "source").write_bytes(BULK)
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.copy(str(tmp_path / "source"), f"file:{tmp_path}/p%d?split_size=1M")
    said = f"{tmp_path}/p{blocker}: open: Is a directory"
    assert str(raised.value) == f"{said}; {told}"
    parts = [f"p{number}" for number in range(blocker + 1)]
    assert sorted(os.listdir(tmp_path)) == [*parts, "source"]
    assert leftovers(tmp_path) == []


def test_parts_that_are_complete_are_told_of_where_all_stop(tmp_path: Path) -> None:
    (tmp_path / "p1").mkdir()
    (tmp_path / "bulk").write_bytes(BULK)
    nodes = f"in: {{file: {tmp_path}/bulk}}, whole: {{file: {tmp_path}/whole}}"
    nodes += f", parts: {{file: '{tmp_path}/p%d', split_size: 1M}}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"zpipe: 1\nnodes: {{{nodes}}}\nedges: ['in -> parts, whole']\n")
    graph = zpipe.load_recipe(str(recipe)).graph
    assert graph is not None
    with pytest.raises(zpipe.TransferError) as raised:
        zpipe.run(graph)
    assert str(raised.value) == f"{tmp_path}/p1: open: Is a directory; 1 file was put in place"
    assert sorted(os.listdir(tmp_path)) == ["bulk", "p0", "p1", "recipe.yaml"]


def test_a_source_that_fails_leaves_the_parts_that_are_complete(tmp_path: Path) -> None:
    feeding = f"exec:sh -c 'head -c 2500000 {tmp_path}/bulk; exit 7'"
    (tmp_path / "bulk").write_bytes(BULK)
    with pytest.raises(zpipe.TransferError, match="status 7"):
        zpipe.copy(feeding, f"file:{tmp_path}/p%d?split_size=1M")
    assert sorted(os.listdir(tmp_path)) == ["bulk", "p0", "p1"]


def test_a_folder_to_spill_to_that_vanishes_drops_that_sink_alone(
    outs: Outs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is spilled has no name: the folder is empty, and may go."""
    monkeypatch.setattr(spill, "SEGMENT", 1 << 16)
    place = tmp_path / "place"
    place.mkdir()
    os.mkfifo(tmp_path / "slow")
    reader = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    outs.add("file")
    seen: list[OutletReport] = []

    class Begun(Feedback):
        interval = 0.0

        def began(self, hop: HopReport) -> None:
            seen.extend(hop.outlets)

    source, feeding = os.pipe()
    try:
        copy = Background(
            f"fd:{source}",
            *outs.texts,
            f"{tmp_path}/slow?when_full=spill&spill_dir={place}",
            feedback=Begun(),
        )
        rest = memoryview(BULK)
        while not (seen and seen[1].deepest):
            rest = rest[os.write(feeding, rest[: 1 << 16]) :]
        place.rmdir()
        while rest:
            rest = rest[os.write(feeding, rest[: 1 << 16]) :]
    finally:
        os.close(feeding)
    with pytest.raises(zpipe.OutputsDropped) as raised:
        copy.result()
    os.close(source)
    os.close(reader)
    told = f"{tmp_path}/slow: spill: No such file or directory; dropped at byte "
    assert str(raised.value).startswith(told)
    assert outs.got() == [BULK]
