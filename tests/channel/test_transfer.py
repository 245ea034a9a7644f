"""transfer_to and transfer_from over real fds: what arrives, which way, and what is remembered."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, content, environment, mounted, strace
from tests.movers.ends import STREAMS, StreamSink, StreamSource, pipe, tcp, unix
from zpipe.channel.file import FileChannel
from zpipe.channel.transfer import Transferred, forget, refusals
from zpipe.errors import TransferError
from zpipe.kernel.pipes import buffered

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB = 1 << 30
DATA = content(1_000_003)


@pytest.fixture(autouse=True)
def nothing_is_known() -> Iterator[None]:
    forget()
    yield
    forget()


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileChannel]:
    (tmp_path / "source").write_bytes(DATA)
    with FileChannel.open(tmp_path / "source") as channel:
        yield channel


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileChannel]:
    with FileChannel.open(tmp_path / "target", "w+") as channel:
        yield channel


@contextmanager
def receiving(fds: tuple[int, int]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield an fd to send to, which blocks; what arrived is complete behind the block."""
    reader, writer = fds
    got: list[bytes] = []

    def take() -> None:
        with open(reader, "rb", buffering=0) as stream:
            got.append(stream.readall() or b"")

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield writer, got
    finally:
        os.close(writer)
        thread.join(LONGEST)


@pytest.mark.parametrize(
    ("kind", "path"), [("pipe", "splice"), ("tcp", "sendfile"), ("unix", "sendfile")]
)
def test_to_a_stream_that_blocks_all_of_it_goes_in_the_kernel(
    kind: str, path: str, source: FileChannel
) -> None:
    with receiving(STREAMS[kind]()) as (fd, got):
        sent = source.transfer_to(1, 2 * GIB, fd)
        assert (sent, sent.path, sent.tier, sent.refused) == (len(DATA) - 1, path, "kernel", ())
        assert source.transfer_to(0, 1, fd) == 1
    assert got == [DATA[1:] + DATA[:1]]
    assert source.tell() == 0


def test_to_a_file_of_the_same_filesystem(source: FileChannel, target: FileChannel) -> None:
    target.seek(5)
    sent = source.transfer_to(10, 500_000, target)
    assert (sent, sent.path) == (500_000, "copy_file_range")
    assert target.tell() == 500_005
    assert target.read(10**7, 0) == bytes(5) + DATA[10:500_010]


@pytest.mark.parametrize("kind", ["ext4", "tmpfs"])
def test_within_each_filesystem_and_to_another(
    kind: str, source: FileChannel, tmp_path: Path
) -> None:
    """Between two filesystems copy_file_range is refused once, and then known to be."""
    with (
        mounted(kind, tmp_path / "mount", 32 << 20) as place,
        FileChannel.open(place / "one", "w+") as one,
        FileChannel.open(place / "two", "w+") as two,
    ):
        first = source.transfer_to(0, len(DATA), one)
        assert (first, first.path) == (len(DATA), "sendfile")
        assert first.refused == (("copy_file_range", errno.EXDEV),)
        again = source.transfer_to(0, 7, one)
        assert (again, again.path, again.refused) == (7, "sendfile", ())
        inside = one.transfer_to(0, len(DATA), two)
        assert (inside, inside.path, inside.refused) == (len(DATA), "copy_file_range", ())
        assert two.read(10**7, 0) == DATA
        assert one.read(10**7, 0) == DATA + DATA[:7]
        assert list(refusals().values()) == [{"copy_file_range"}]
        # the other direction, by offsets: that sendfile cannot
        source.seek(3)
        back = two.transfer_from(source, 1, len(DATA))
        assert (back, back.path) == (len(DATA) - 3, "splice")
        assert two.read(10**7, 0) == DATA[:1] + DATA[3:] + DATA[-2:]
        assert source.tell() == len(DATA)


def test_to_a_file_that_appends_a_mapping_serves(source: FileChannel, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"log:")
    with FileChannel.open(tmp_path / "log", "a") as log:
        sent = source.transfer_to(3, len(DATA), log)
        assert (sent, sent.path, sent.tier) == (len(DATA) - 3, "mapped", "mapped")
        few = source.transfer_to(0, 100, log)
        assert (few, few.path, few.tier) == (100, "buffer", "buffer")
    assert (tmp_path / "log").read_bytes() == b"log:" + DATA[3:] + DATA[:100]


def test_without_a_lease_nothing_is_mapped_and_that_is_not_remembered(
    source: FileChannel, tmp_path: Path
) -> None:
    """Somebody who may write to the source could cut it while the mapping is read."""
    with FileChannel.open(tmp_path / "log", "a") as log:
        with FileChannel.open(tmp_path / "source", "r+"):
            assert source.transfer_to(0, len(DATA), log).path == "buffer"
        assert source.transfer_to(0, len(DATA), log).path == "mapped"
    assert (tmp_path / "log").read_bytes() == DATA * 2
    assert refusals() == {}


def test_a_file_whose_size_is_said_to_be_0_is_read(target: FileChannel) -> None:
    with FileChannel.open("/proc/self/limits") as source:
        assert source.size() == 0
        sent = source.transfer_to(0, GIB, target)
        assert (sent.path, sent.tier) == ("buffer", "buffer")
        assert sent.refused == (("sendfile", errno.EINVAL),)
        assert target.read(GIB, 0) == source.read(1 << 20, 0)
        assert source.transfer_to(0, GIB, target).refused == ()


def test_devices(target: FileChannel) -> None:
    with FileChannel.open("/dev/zero") as zero, FileChannel.open("/dev/null", "r+") as null:
        assert zero.transfer_to(0, 100_000, target) == 100_000
        assert target.read(10**6, 0) == bytes(100_000)
        assert target.transfer_to(0, GIB, null) == 100_000
        assert target.transfer_from(null, 0, 10**6) == 0
        assert target.transfer_from(zero, 5, 10**6) == 10**6


def test_what_only_the_target_refuses_is_said_and_not_remembered(
    source: FileChannel, tmp_path: Path
) -> None:
    with (
        FileChannel.open("/dev/full", "w") as full,
        pytest.raises(OSError, match=f"Errno {errno.ENOSPC}]"),
    ):
        source.transfer_to(0, len(DATA), full)
    with (
        FileChannel.open(tmp_path / "source") as reading,
        pytest.raises(OSError, match=f"Errno {errno.EBADF}]"),
    ):
        reading.seek(0, os.SEEK_END)
        source.transfer_to(0, 10, reading)
    assert refusals() == {}


@pytest.mark.parametrize("position", [len(DATA), len(DATA) + 1, 5 * GIB])
def test_past_the_end_there_is_nothing(
    position: int, source: FileChannel, target: FileChannel
) -> None:
    sent = source.transfer_to(position, 10, target)
    assert (sent, sent.path, sent.tier) == (0, None, None)
    assert target.size() == 0
    assert source.transfer_to(0, 0, target) == 0


@given(
    position=st.integers(0, 140_000),
    count=st.integers(0, 140_000),
    at=st.integers(0, 5000),
    kind=st.sampled_from(["file", "append", "pipe", "tcp", "unix"]),
)
def test_whatever_is_sent_is_what_was_asked_for(
    position: int, count: int, at: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = content(130_000)
    (folder / "from").write_bytes(data)
    wanted = data[position : position + count]
    with FileChannel.open(folder / "from") as source:
        if kind in STREAMS:
            with receiving(STREAMS[kind]()) as (fd, got):
                assert source.transfer_to(position, count, fd) == len(wanted)
            assert got == [wanted]
            return
        (folder / "to").write_bytes(b"before")
        with FileChannel.open(folder / "to", "a" if kind == "append" else "r+") as target:
            if kind == "file":
                target.seek(at)
            assert source.transfer_to(position, count, target) == len(wanted)
        found = (folder / "to").read_bytes()
        assert found[6 if kind == "append" else at :][: len(wanted)] == wanted


@given(
    size=st.integers(0, 140_000),
    count=st.integers(0, 140_000),
    at=st.integers(0, 5000),
    kind=st.sampled_from(["file", "pipe", "tcp", "unix"]),
)
def test_whatever_is_fetched_is_what_was_there(
    size: int, count: int, at: int, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = content(140_000)[:size]
    with FileChannel.open(folder / "fetched", "w+") as target:
        if kind == "file":
            (folder / "from").write_bytes(b"skipped" + data)
            with FileChannel.open(folder / "from") as source:
                source.seek(7)
                assert target.transfer_from(source, at, count) == len(data[:count])
                assert source.tell() == 7 + len(data[:count])
        else:
            reader, writer = STREAMS[kind]()

            def feed() -> None:
                with open(writer, "wb", buffering=0) as stream:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[stream.write(rest) :]

            thread = threading.Thread(target=feed)
            thread.start()
            with open(reader, "rb", buffering=0) as source_stream:
                assert target.transfer_from(source_stream, at, count) == len(data[:count])
                # the rest is still there, every byte of it
                assert (source_stream.readall() or b"") == data[count:]
            thread.join(LONGEST)
        assert target.read(10**6, at) == data[:count]


def test_from_a_stream_the_kernel_moves_what_is_much(target: FileChannel) -> None:
    for make in (pipe, tcp, unix):
        with closing(StreamSource(make(), DATA[:60_000], blocking=True)) as source:
            while source.feed():
                pass
            moved = target.transfer_from(source.fd, 0, 50_000)
            assert (moved, moved.path, moved.refused) == (50_000, "splice", ())
            few = target.transfer_from(source.fd, 50_000, 10_000)
            assert (few, few.path) == (10_000, "buffer")
        assert target.read(10**6, 0) == DATA[:60_000]


def test_a_source_that_does_not_block_gives_what_it_has(target: FileChannel) -> None:
    for make in (pipe, tcp, unix):
        with closing(StreamSource(make(), b"abc")) as source:
            with pytest.raises(BlockingIOError):
                target.transfer_from(source.fd, 0, 10**6)
            with pytest.raises(BlockingIOError):
                target.transfer_from(source.fd, 0, 10)
            source.feed()
            assert select.select([source.fd], [], [], 10)[0]
            assert target.transfer_from(source.fd, 2, 10**6) == 3
            source.end()
            assert select.select([source.fd], [], [], 10)[0]
            assert target.transfer_from(source.fd, 5, 10**6) == 0
        assert target.read(9, 0) == b"\0\0abc"


def test_an_urgent_mark_is_not_the_end(target: FileChannel) -> None:
    """A blocking splice returns 0 there."""
    with closing(StreamSource(tcp(), b"", blocking=True)) as source:
        with socket.socket(fileno=os.dup(source.peer)) as near:
            near.setblocking(True)
            near.sendall(b"before" * 10_000)
            near.send(b"!", socket.MSG_OOB)
            near.sendall(b"after")
        source.end()
        moved = target.transfer_from(source.fd, 0, 10**6)
    assert target.read(10**6, 0) == b"before" * 10_000 + b"after"
    assert moved == 60_005


@pytest.mark.parametrize("kind", STREAMS)
def test_a_target_that_does_not_block_takes_parts(kind: str, source: FileChannel) -> None:
    with closing(StreamSink(STREAMS[kind]())) as sink:
        sent, waited = 0, 0
        while sent < len(DATA):
            try:
                moved = source.transfer_to(sent, len(DATA) - sent, sink.fd)
                assert moved > 0
                sent += moved
            except BlockingIOError:
                waited += 1
                sink.take()
                select.select([], [sink.fd], [], 10)
        assert waited
        assert sink.content(len(DATA)) == DATA


def test_a_socket_of_python_with_a_timeout_does_not_block(source: FileChannel) -> None:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(10)
        assert 0 < source.transfer_to(0, len(DATA), near) < len(DATA)
        with pytest.raises(BlockingIOError):
            source.transfer_to(0, len(DATA), near)


@pytest.mark.parametrize("kind", STREAMS)
def test_nobody_reads_any_more(kind: str, source: FileChannel) -> None:
    with closing(StreamSink(STREAMS[kind](), blocking=True)) as sink:
        sink.leave()
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                source.transfer_to(0, len(DATA), sink.fd)


def test_an_error_after_a_part_is_said_by_the_next_call(source: FileChannel, tiny: Path) -> None:
    with FileChannel.open(tiny / "fill", "w") as fill, FileChannel.open(tiny / "t", "w") as target:
        fill.write(bytes(500_000))
        sent = source.transfer_to(0, len(DATA), target)
        assert 0 < sent < len(DATA)
        assert target.size() == sent
        with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}]"):
            source.transfer_to(sent, len(DATA) - sent, target)
        target.truncate(0)
        target.seek(0)
        again = target.transfer_from(source, 0, len(DATA))
        assert 0 < again < len(DATA)
        assert source.tell() == again, "what is not written is not read"


def test_what_is_lost_of_a_stream_is_told(tiny: Path) -> None:
    with (
        FileChannel.open(tiny / "target", "w+") as target,
        closing(StreamSource(pipe(1 << 20), DATA)) as source,
    ):
        source.feed(1 << 20)
        before = buffered(source.fd)
        with FileChannel.open(tiny / "fill", "w") as fill:
            fill.write(bytes(500_000))
        with pytest.raises(TransferError, match=r"(\d+) bytes were taken from .* lost") as told:
            target.transfer_from(source.fd, 0, len(DATA))
        assert told.value.errno == errno.ENOSPC
        lost = int(str(told.value).split("; ")[1].split()[0])
        assert told.value.delivered is not None
        assert told.value.delivered + lost + buffered(source.fd) == before
        assert target.read(10**7, 0) == DATA[: told.value.delivered]


def test_a_file_that_is_cut_meanwhile_ends_there(source: FileChannel, tmp_path: Path) -> None:
    """The pipe is full, and what was not sent yet is cut off."""
    with closing(StreamSink(pipe())) as sink:
        sent = int(source.transfer_to(0, len(DATA), sink.fd))
        os.truncate(tmp_path / "source", sent + 10)
        sink.take()
        assert source.transfer_to(sent, len(DATA), sink.fd) == 10
        assert source.transfer_to(sent + 10, len(DATA), sink.fd) == 0
        assert sink.content(sent + 10) == DATA[: sent + 10]


def test_a_process_sends_in_a_loop_while_another_one_cuts_the_file(tmp_path: Path) -> None:
    """Each count is true, and nothing is made up where it is written from a mapping.

    A read has no such promise: where it races with a cut, the kernel itself gives it NUL bytes.
    """
    program = """
import os
from zpipe.channel.file import FileChannel
with FileChannel.open("source") as source, FileChannel.open("log", "a+") as log:
    print("ready", flush=True)
    short = whole = mapped = 0
    while short < 200 or whole < 200 or mapped < 20:
        sent = source.transfer_to(0, 100_000, log)
        part = log.read(100_001, 0)
        assert len(part) == sent, (len(part), sent)
        assert sent.path == "buffer" or not part.strip(b"x"), "made up"
        mapped += sent.path == "mapped"
        short, whole = short + (sent < 100_000), whole + (sent == 100_000)
        log.truncate(0)
print("done")
"""
    place = tmp_path / "source"
    place.write_bytes(b"x" * 100_000)
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == "ready\n"
            while child.poll() is None:
                os.truncate(place, 50_001)
                with open(place, "ab") as file:
                    file.write(b"x" * 49_999)
            assert child.returncode == 0
            assert child.stdout.read() == "done\n"
        finally:
            child.kill()


def test_offsets_and_counts_beyond_4_gib(tmp_path: Path) -> None:
    with (
        mounted("tmpfs", tmp_path / "mount", 16 << 20) as place,
        FileChannel.open(place / "huge", "w+") as huge,
        FileChannel.open(place / "other", "w+") as other,
        FileChannel.open("/dev/null", "w") as null,
    ):
        huge.truncate(6 * GIB)
        huge.write(b"marker", 5 * GIB - 3)
        with closing(StreamSink(pipe())) as sink:
            assert huge.transfer_to(5 * GIB - 4, 8, sink.fd) == 8
            assert sink.content(8) == b"\0marker\0"
        assert other.transfer_from(huge, 5 * GIB, 0) == 0
        huge.seek(5 * GIB - 4)
        assert other.transfer_from(huge, 4 * GIB + 1, 8) == 8
        assert other.read(99, 4 * GIB + 1) == b"\0marker\0"
        # holes of a tmpfs are one page of zeros: nothing is copied to /dev/null
        assert huge.transfer_to(0, 3 * GIB + 7, null) == 3 * GIB + 7
        assert huge.transfer_to(5 * GIB, 1 << 60, null) == GIB


def test_ranges_of_one_file(target: FileChannel) -> None:
    target.write(DATA, 0)
    target.seek(500_000)
    with pytest.raises(ValueError, match="overlap"):
        target.transfer_to(499_991, 10, target)
    with pytest.raises(ValueError, match="overlap"):
        target.transfer_to(0, 10**9, target)
    assert target.transfer_to(499_990, 10, target) == 10
    with pytest.raises(ValueError, match="overlap"):
        target.seek(0)
        target.transfer_from(target, 9, 10)
    assert target.read(20, 499_990) == DATA[499_990:500_000] * 2


def test_a_file_is_appended_to_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with FileChannel.open(tmp_path / "file", "a+") as channel:
        assert channel.transfer_to(5, 2 * GIB, channel) == len(DATA) - 5
    assert (tmp_path / "file").read_bytes() == DATA + DATA[5:]


def test_an_appending_channel_fetches_to_its_end(source: FileChannel, tmp_path: Path) -> None:
    with FileChannel.open(tmp_path / "log", "a") as log:
        with pytest.raises(ValueError, match="must be None"):
            log.transfer_from(source, 0, 10)
        for _ in range(2):
            source.seek(0)
            assert log.transfer_from(source, None, 40_000) == 40_000
        with closing(StreamSource(unix(), b"stream", blocking=True)) as stream:
            stream.feed()
            stream.end()
            assert log.transfer_from(stream.fd, None, GIB) == 6
    with pytest.raises(ValueError, match="a position is needed"):
        source.transfer_from(0, None, 10)
    assert (tmp_path / "log").read_bytes() == DATA[:40_000] * 2 + b"stream"


def test_what_keeps_message_boundaries_is_refused(target: FileChannel) -> None:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        with near, far:
            near.send(b"message")
            for end in (far, far.fileno()):
                with pytest.raises(ValueError, match="message boundaries"):
                    target.transfer_from(end, 0, 10)
                with pytest.raises(ValueError, match="message boundaries"):
                    target.transfer_to(0, 10, end)
            assert far.recv(99) == b"message"


def test_a_tls_socket_is_refused(source: FileChannel) -> None:
    near, far = socket.socketpair()
    context = ssl.create_default_context()
    with far, context.wrap_socket(near, do_handshake_on_connect=False, server_hostname="x") as tls:
        with pytest.raises(TypeError, match="encrypted"):
            source.transfer_to(0, 10, tls)
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)


def test_what_python_has_buffered_for_the_target_comes_first(
    source: FileChannel, tmp_path: Path
) -> None:
    with open(tmp_path / "target", "wb") as file:
        file.write(b"head")
        assert source.transfer_to(0, 100, file) == 100
        file.write(b"tail")
    assert (tmp_path / "target").read_bytes() == b"head" + DATA[:100] + b"tail"


def test_threads_send_different_parts_of_one_channel(source: FileChannel, tmp_path: Path) -> None:
    part = 50_000

    def work(position: int) -> bool:
        name = tmp_path / f"part {position}"
        with FileChannel.open(name, "w") as target, closing(StreamSink(pipe())) as sink:
            assert source.transfer_to(position, part, target) == len(DATA[position:][:part])
            assert source.transfer_to(position, 1000, sink.fd) == len(DATA[position:][:1000])
            assert sink.content(1) == DATA[position:][:1000]
        return name.read_bytes() == DATA[position:][:part]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(0, len(DATA), part)))


def test_a_count_knows_its_way_and_is_an_int() -> None:
    count = Transferred(5, "mapped", (("sendfile", errno.EINVAL),))
    assert count + 1 == 6
    assert f"{count}" == "5"
    assert (count.tier, Transferred(0).tier) == ("mapped", None)
    assert repr(count) == "Transferred(5, path='mapped')"


TRACED = """
import errno, os, socket, sys, threading
from zpipe.channel.file import FileChannel
ends = {}
ends["file"] = FileChannel.open("target", "w+")
reader, ends["pipe"] = os.pipe()
near, far = socket.socketpair()
ends["socket"] = near
def take(fd):
    while os.read(fd, 1 << 20):
        pass
threads = [threading.Thread(target=take, args=(fd,)) for fd in (reader, far.fileno())]
for thread in threads:
    thread.start()
with FileChannel.open("source") as source, ends["file"]:
    for _ in range(2):
        try:
            sent = source.transfer_to(0, 1 << 40, ends[sys.argv[1]])
        except OSError as error:
            print(errno.errorcode[error.errno])
            continue
        refused = (f"{call}:{errno.errorcode.get(n, n)}" for call, n in sent.refused)
        print(sent, sent.path, *refused)
    ends["file"].truncate(0)
near.close()
os.close(ends["pipe"])
for thread in threads:
    thread.join()
"""

CALLS = "copy_file_range,splice,sendfile,mmap,pread64,preadv,write,pwrite64"


def traced(folder: Path, end: str, *inject: str) -> tuple[list[str], list[str]]:
    """Send the source twice; return what was said, and the moving calls that were made on it."""
    (folder / "source").write_bytes(DATA)
    words = strace(f"-etrace={CALLS}", "-y", "-s0", f"-o{folder / 'log'}")
    words += [f"-einject={fault}" for fault in inject]
    done = subprocess.run(
        [*words, sys.executable, "-c", TRACED, end],
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    lines = (folder / "log").read_text().splitlines()
    made = [line.split(None, 1)[1] for line in lines if "/source>" in line]
    return done.stdout.decode().splitlines(), [line.split("(")[0] for line in made]


@pytest.mark.parametrize(
    ("end", "call"), [("file", "copy_file_range"), ("pipe", "splice"), ("socket", "sendfile")]
)
def test_the_call_that_is_claimed_is_the_one_that_is_made(
    end: str, call: str, tmp_path: Path
) -> None:
    said, made = traced(tmp_path, end)
    assert said == [f"{len(DATA)} {call}"] * 2
    assert set(made) == {call}


@pytest.mark.parametrize(
    ("end", "fault", "first", "calls"),
    [
        # refused: another one carries it, and the refused one is not tried a second time
        ("socket", "sendfile:error=ENOSYS", "mapped sendfile:ENOSYS", {"sendfile": 1, "mmap": 2}),
        ("file", "copy_file_range:error=EPERM", "sendfile copy_file_range:EPERM", {}),
        ("file", "copy_file_range:retval=0", "sendfile copy_file_range:0", {"pread64": 1}),
        ("pipe", "splice:error=EINVAL", "sendfile splice:EINVAL", {"splice": 1}),
    ],
)
def test_an_injected_refusal_is_got_over_and_remembered(
    end: str, fault: str, first: str, calls: dict[str, int], tmp_path: Path
) -> None:
    said, made = traced(tmp_path, end, fault)
    path, refused = first.split()
    assert said == [f"{len(DATA)} {first}", f"{len(DATA)} {path}"]
    assert made.count(refused.split(":", maxsplit=1)[0]) == 1
    for name, count in calls.items():
        assert made.count(name) == count


def test_an_injected_failure_is_no_refusal(tmp_path: Path) -> None:
    """It is raised, and nothing is tried instead; after a part, the part is what is returned."""
    said, made = traced(tmp_path, "socket", "sendfile:error=EIO:when=1")
    assert said == ["EIO", f"{len(DATA)} sendfile"]
    assert set(made) == {"sendfile"}


def test_an_interrupted_call_is_made_again(tmp_path: Path) -> None:
    for end, call in (("file", "copy_file_range"), ("pipe", "splice"), ("socket", "sendfile")):
        said, made = traced(tmp_path, end, f"{call}:error=EINTR:when=1..2")
        assert said == [f"{len(DATA)} {call}"] * 2
        assert set(made) == {call}
