"""Recordings: exact bytes, a line for each connection, and bounds that hold."""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import LONGEST, as_stranger, content, until
from zpipe.errors import UsageError
from zpipe.kernel.pipes import Pipe, buffered
from zpipe.kernel.transfer import splice, tee
from zpipe.proxy import capture as recording
from zpipe.proxy import capture_tape
from zpipe.proxy.capture import BACKLOG, PIPES, Recorder
from zpipe.proxy.capture_tape import CHUNKS, Tape
from zpipe.proxy.settings import Capture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PEER, LISTENER = "127.0.0.1:4711", "127.0.0.1:5432"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small messages are not gathered for long: many tests wait for them to be written."""
    monkeypatch.setattr(recording, "_GATHER", 0.002)


class Kept:
    """What is given back by the writer's thread."""

    def __init__(self) -> None:
        self.pipes: list[Pipe] = []

    def __call__(self, pipe: Pipe) -> None:
        self.pipes.append(pipe)


@contextmanager
def recorder(
    folder: Path, total: int = 1 << 30, give_back: Callable[[Pipe], None] = Pipe.close
) -> Iterator[Recorder]:
    made = Recorder(Capture(str(folder), total), give_back)
    try:
        yield made
    finally:
        made.close(LONGEST)


def begun(made: Recorder, began: float | None = None) -> Tape:
    return made.connection(time.time() if began is None else began, PEER, LISTENER)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def recorded(folder: Path, line: dict[str, Any], kind: str) -> bytes:
    path = folder / f"{line['id']}.{kind}"
    return path.read_bytes() if path.exists() else b""


def filled(data: bytes) -> Pipe:
    pipe = Pipe()
    assert os.write(pipe.writer, data) == len(data)
    return pipe


def taken(folder: Path) -> int:
    """What the files of a folder take of a disk, and its index."""
    sizes = (path.stat().st_size for path in folder.iterdir() if path.suffix in (".up", ".down"))
    return (
        sum((size + 4095) // 4096 * 4096 for size in sizes)
        + (folder / "index.jsonl").stat().st_size
    )


def test_bytes_of_both_directions_are_recorded_exactly(tmp_path: Path) -> None:
    folder = tmp_path / "capture"
    before = time.time()
    with recorder(folder) as made:
        tape = begun(made)
        for part in (b"GET / HTTP/1.1\r\n", b"\r\n"):
            tape.data(True, part)
        tape.data(False, b"HTTP/1.1 204 No Content\r\n\r\n")
        tape.end("127.0.0.1:5433", "closed")
    (line,) = lines(folder)
    assert recorded(folder, line, "up") == b"GET / HTTP/1.1\r\n\r\n"
    assert recorded(folder, line, "down") == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert before <= line["began"] <= line["ended"] <= time.time()
    assert (line["v"], line["peer"], line["listener"]) == (1, PEER, LISTENER)
    assert (line["upstream"], line["reason"]) == ("127.0.0.1:5433", "closed")
    assert (line["up"], line["down"], line["missed"]) == (18, 27, {"up": 0, "down": 0})
    assert "given_up" not in line and "coarse" not in line
    assert (made.connections, made.bytes, made.missed, made.problem) == (1, 45, 0, None)


def test_folder_and_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        with recorder(tmp_path / "capture") as made:
            tape = begun(made)
            tape.data(True, b"secret")
            tape.data(False, b"secret")
            tape.end(None, "closed")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "capture").stat().st_mode) == 0o700
    files = list((tmp_path / "capture").iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_connection_without_bytes_has_a_line_and_no_files(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        begun(made).end(None, "no-upstream")
    (line,) = lines(tmp_path)
    assert (line["upstream"], line["up"], line["down"], line["chunks"]) == (None, 0, 0, [])
    assert {path.name for path in tmp_path.iterdir()} == {"index.jsonl", ".state"}


def test_a_teed_pipe_is_recorded_and_given_back_empty(tmp_path: Path) -> None:
    """As the relay does it: what came from a socket goes on to another one, and is doubled."""
    data = content(300_000)
    kept = Kept()
    source, client = socket.socketpair()
    server, sink = socket.socketpair()
    primary = Pipe()
    got = bytearray()

    def receive() -> None:
        while len(got) < len(data):
            got.extend(server.recv(1 << 16))

    sender = threading.Thread(target=client.sendall, args=(data,))
    receiver = threading.Thread(target=receive)
    try:
        with recorder(tmp_path, give_back=kept) as made:
            tape = begun(made)
            sender.start()
            receiver.start()
            moved = 0
            while moved < len(data):
                select.select([source], [], [], LONGEST)
                count = splice(source.fileno(), primary.writer, 1 << 20)
                double = Pipe(primary.capacity)
                assert tee(primary.reader, double.writer, count) == count
                tape.pipe(True, double, count)
                moved += count
                while count:
                    select.select([], [sink], [], LONGEST)
                    count -= splice(primary.reader, sink.fileno(), count)
            tape.end("there", "closed")
        (line,) = lines(tmp_path)
        assert recorded(tmp_path, line, "up") == data
        receiver.join(LONGEST)
        assert bytes(got) == data
        assert kept.pipes
        assert {buffered(pipe.reader) for pipe in kept.pipes} == {0}
    finally:
        sender.join(LONGEST)
        receiver.join(LONGEST)
        for end in (source, client, server, sink):
            end.close()
        for pipe in (primary, *kept.pipes):
            pipe.close()


def test_small_messages_and_pipes_keep_their_order(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        tape = begun(made)
        expected = b""
        for number in range(20):
            tape.data(False, b"<%d>" % number)
            tape.pipe(False, filled(b"[%d]" % number), len(b"[%d]" % number))
            expected += b"<%d>[%d]" % (number, number)
        tape.end("there", "closed")
    (line,) = lines(tmp_path)
    assert recorded(tmp_path, line, "down") == expected


def test_a_pipe_with_bytes_left_is_given_back_as_it_is(tmp_path: Path) -> None:
    kept = Kept()
    pipe = filled(b"0123456789")
    with recorder(tmp_path, give_back=kept) as made:
        tape = begun(made)
        tape.pipe(True, pipe, 4)
        tape.end("there", "closed")
    (line,) = lines(tmp_path)
    assert recorded(tmp_path, line, "up") == b"0123"
    assert kept.pipes == [pipe]
    assert buffered(pipe.reader) == 6
    pipe.close()


def test_chunks_tell_the_turns_of_a_dialog_and_its_ends(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        tape = begun(made)
        tape.data(True, b"first")
        tape.data(False, b"answer")
        tape.data(True, b"second")
        tape.eof(True)
        tape.data(False, b"last answer")
        tape.eof(False)
        tape.end("there", "closed")
    (line,) = lines(tmp_path)
    assert [chunk[1:] for chunk in line["chunks"]] == [
        ["u", 5],
        ["d", 6],
        ["u", 6],
        ["u", 0],
        ["d", 11],
        ["d", 0],
    ]
    moments = [chunk[0] for chunk in line["chunks"]]
    assert moments == sorted(moments)


def test_neighbours_within_a_millisecond_are_one_chunk(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        tape = begun(made)
        for moment in (0.0101, 0.0102, 0.0109, 0.0121):
            tape.note(tape.zero + moment, True, 100)
        tape.note(tape.zero + 0.0122, False, 50)
        codes: list[int] = list(tape.codes or ())
        tape.end(None, "closed")
    assert list(tape.times or ()) == [10, 12, 12]
    assert codes == [300 << 1 | 1, 100 << 1 | 1, 50 << 1]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 2)), max_size=80))
def test_coarse_chunks_never_put_a_request_behind_its_answer(
    events: list[tuple[bool, int, int]],
) -> None:
    """Whatever an answer needed in the dialog stands before it in the chunks, too: else a replay
    that waits for answers would wait for ever.
    """
    tape = Tape.__new__(Tape)
    tape.times = tape.codes = None
    tape.zero = 0.0
    ended = [False, False]
    seen = [0, 0]
    answers: list[tuple[int, int]] = []  # bytes that had gone up, and down with this one
    bound = 12
    present, capture_tape.CHUNKS = capture_tape.CHUNKS, bound
    try:
        for number, (up, size, pause) in enumerate(events):
            if ended[up]:
                continue
            ended[up] = not size
            seen[up] += size
            tape.note(number * pause * 0.001, up, size)
            if not up:
                answers.append((seen[True], seen[False]))
    finally:
        capture_tape.CHUNKS = present
    codes: list[int] = list(tape.codes or ())
    assert len(codes) <= bound
    up_there = down_there = 0
    for code in codes:
        if code & 1:
            # it waits for so many bytes down, for which this much was enough in the dialog
            enough = next((before for before, down in answers if down >= down_there), 0)
            assert not down_there or enough <= up_there
            up_there += code >> 1
        else:
            down_there += code >> 1
    assert [down_there, up_there] == seen


def test_a_line_has_a_bounded_number_of_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert CHUNKS == 100_000
    monkeypatch.setattr(capture_tape, "CHUNKS", 50)
    with recorder(tmp_path) as made:
        fine, coarse = begun(made), begun(made)
        for number in range(500):
            coarse.data(number % 2 == 0, b"x" * 10)
        fine.data(True, b"y")
        for tape in (fine, coarse):
            tape.end("there", "closed")
    one, other = lines(tmp_path)
    assert "coarse" not in one
    assert other["coarse"] is True
    assert len(other["chunks"]) <= 50
    for kind, key in (("u", "up"), ("d", "down")):
        assert other[key] == 2500
        assert sum(chunk[2] for chunk in other["chunks"] if chunk[1] == kind) == 2500


def test_names_sort_by_time_and_are_never_the_same(tmp_path: Path) -> None:
    with recorder(tmp_path / "a") as made, recorder(tmp_path / "b") as other:
        began = time.time()
        tapes = [begun(made, began + number / 1000) for number in range(3)]
        same = [begun(made, began), begun(other, began)]
        names = [tape.id for tape in tapes]
        assert names == sorted(names)
        assert len({*names, *(tape.id for tape in same)}) == 5
        for tape in (*tapes, *same):
            tape.end(None, "closed")


# A disk that cannot follow


@contextmanager
def stuck(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a folder, as a process does that was stopped: its writers wait. Yields what
    ends that.
    """
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            fd = os.open(folder / ".state", os.O_RDWR)
            os.lockf(fd, os.F_LOCK, 0)
            os.write(ready[1], b"!")
            os.close(done[1])
            os.read(done[0], 1)
        finally:
            os._exit(0)
    assert os.read(ready[0], 1) == b"!"
    ended = False

    def release() -> None:
        nonlocal ended
        if not ended:
            ended = True
            os.write(done[1], b"!")
            os.waitpid(child, 0)

    try:
        yield release
    finally:
        release()
        for fd in (*ready, *done):
            os.close(fd)


def test_a_disk_that_cannot_follow_costs_the_recording_and_not_the_relay(tmp_path: Path) -> None:
    data = content(1 << 20)
    with recorder(tmp_path) as made:
        tape, other = begun(made), begun(made)
        with stuck(tmp_path):
            for _ in range(20):
                tape.data(True, data)  # would never return, if it waited
            assert tape.given_up == "slow"
            assert made._put_bytes <= BACKLOG + (1 << 20)
            tape.data(False, b"too late")
            tape.eof(True)
        until(lambda: made.bytes, "the disk follows again")
        tape.end("there", "closed")
        other.data(True, b"in time")
        other.end("there", "closed")
    first, second = lines(tmp_path)
    assert recorded(tmp_path, first, "up") == data * (first["up"] >> 20)
    assert 0 < first["up"] < 20 << 20
    assert first["missed"] == {"up": (20 << 20) - first["up"], "down": 8}
    assert first["given_up"] == "slow"
    assert sum(chunk[2] for chunk in first["chunks"]) == first["up"]
    assert recorded(tmp_path, second, "up") == b"in time"
    assert "given_up" not in second
    assert made.missed == sum(first["missed"].values())
    assert made.bytes == first["up"] + second["up"]
    assert made.problem == f"{tmp_path}: capture: {first['id']}: the disk cannot follow"


def test_pipes_that_wait_for_the_disk_are_bounded_and_none_is_lost(tmp_path: Path) -> None:
    kept = Kept()
    pipes = [filled(b"%04d" % number) for number in range(PIPES + 5)]
    try:
        with recorder(tmp_path, give_back=kept) as made:
            tape = begun(made)
            with stuck(tmp_path):
                for pipe in pipes:
                    tape.pipe(True, pipe, 4)
                assert kept.pipes == pipes[PIPES:]  # at once: nobody writes them
            tape.end("there", "closed")
        assert kept.pipes == pipes[PIPES:] + pipes[:PIPES]
        (line,) = lines(tmp_path)
        assert line["up"] == 4 * PIPES
        assert line["missed"]["up"] == 20
    finally:
        for pipe in pipes:
            pipe.close()


def test_tiny_messages_are_bounded_too(tmp_path: Path) -> None:
    """An entry of the queue is bigger than its byte."""
    with recorder(tmp_path) as made:
        tape = begun(made)
        with stuck(tmp_path):
            for _ in range(BACKLOG // 64):
                tape.data(True, b"x")
            assert tape.given_up == "slow"
        tape.end("there", "closed")
    (line,) = lines(tmp_path)
    assert line["up"] + line["missed"]["up"] == BACKLOG // 64


def test_bytes_that_were_not_to_be_had_end_the_recording(tmp_path: Path) -> None:
    """A file with a hole that nobody knows of would be worse than a beginning."""
    with recorder(tmp_path) as made:
        tape = begun(made)
        tape.data(True, b"begin")
        tape.miss(True, 1000)
        tape.data(True, b"end")
        tape.end("there", "closed")
    (line,) = lines(tmp_path)
    assert recorded(tmp_path, line, "up") == b"begin"
    assert line["missed"] == {"up": 1003, "down": 0}
    assert line["given_up"] == "skipped"


# A disk without room


def test_a_full_disk_gives_up_the_recording_and_keeps_its_beginning(tiny: Path) -> None:
    told: list[str] = []
    data = content(3 << 20)
    made = Recorder(Capture(str(tiny)), Pipe.close, told.append)
    try:
        tape, other = begun(made), begun(made)
        for first in range(0, len(data), 1 << 16):
            tape.data(True, data[first : first + (1 << 16)])
        other.data(False, b"also")
        tape.end("there", "closed")
        other.end("there", "closed")
    finally:
        made.close(LONGEST)
    found = {line["id"]: line for line in lines(tiny)}
    line = found[tape.id]
    assert 0 < line["up"] < 1 << 20
    assert recorded(tiny, line, "up") == data[: line["up"]]
    assert line["missed"]["up"] == len(data) - line["up"]
    assert line["given_up"] == "No space left on device"
    assert sum(chunk[2] for chunk in line["chunks"]) == line["up"]
    assert len(found) == 2
    assert told == [f"{tiny}: capture: {tape.id}.up: No space left on device"]
    assert made.bytes + made.missed == len(data) + 4


def test_a_full_disk_ends_a_pipe_in_its_middle(tiny: Path) -> None:
    data = content(1 << 20)
    kept = Kept()
    with recorder(tiny, give_back=kept) as made:
        tape = begun(made)
        for _ in range(3):
            pipe = Pipe()
            assert os.write(pipe.writer, data) == pipe.capacity
            tape.pipe(False, pipe, pipe.capacity)
        tape.end("there", "closed")
    (line,) = lines(tiny)
    assert recorded(tiny, line, "down") == data[: line["down"]]
    assert 0 < line["down"] < 1 << 20
    assert line["down"] + line["missed"]["down"] == 3 << 20
    assert len(kept.pipes) == 3
    assert all(buffered(pipe.reader) for pipe in kept.pipes)
    for pipe in kept.pipes:
        pipe.close()


def test_a_disk_that_others_fill_costs_the_bytes_and_not_the_line(tiny: Path) -> None:
    with recorder(tiny) as made:
        tape = begun(made)
        tape.data(True, content(100_000))
        until(lambda: made.bytes, "it is recorded")
        with open(tiny / "other", "wb", buffering=0) as other:
            try:
                while True:
                    other.write(b"x" * 4096)
            except OSError:
                pass
        tape.end("there", "closed")
        until(lambda: made.problem, "it is told")
    (line,) = lines(tiny)
    assert (line["up"], line["missed"]["up"], line["chunks"]) == (0, 100_000, [])
    assert not list(tiny.glob("*.up"))
    assert (made.bytes, made.missed) == (0, 100_000)


# The bound of the folder


def record(made: Recorder, data: bytes, began: float | None = None) -> str:
    """Record a connection to its end."""
    tape = begun(made, began)
    tape.data(True, data)
    tape.end("there", "closed")
    until(lambda: made._idle, "it is recorded, and the writer rests")
    return tape.id


def test_the_oldest_connections_make_room(tmp_path: Path) -> None:
    total = 256 << 10
    with recorder(tmp_path, total) as made:
        names = []
        for number in range(40):
            names.append(record(made, content(20_000, number)))
            assert taken(tmp_path) <= total
    found = lines(tmp_path)
    left = [line["id"] for line in found]
    assert left == names[-len(left) :]
    assert 5 < len(left) < 13
    for number, line in zip(range(40 - len(left), 40), found, strict=True):
        assert recorded(tmp_path, line, "up") == content(20_000, number)
    assert len(list(tmp_path.glob("*.up"))) == len(left)


def test_many_small_connections_are_bounded_by_what_they_take_of_a_disk(tmp_path: Path) -> None:
    total = 128 << 10
    with recorder(tmp_path, total) as made:
        for _ in range(100):
            record(made, b"x")
            assert taken(tmp_path) <= total
    assert 10 < len(lines(tmp_path)) < 32
    assert len(list(tmp_path.glob("*.up"))) == len(lines(tmp_path))


def test_a_burst_beyond_the_bound_is_still_bounded(tmp_path: Path) -> None:
    total = 128 << 10
    with recorder(tmp_path, total) as made:
        for _ in range(1000):
            tape = begun(made)
            tape.data(True, b"x")
            tape.data(False, b"y")
            tape.end(None, "closed")
    assert taken(tmp_path) <= total
    assert lines(tmp_path)
    assert made.bytes + made.missed == 2000


@pytest.mark.parametrize("by_pipe", [False, True])
def test_a_connection_larger_than_the_bound_is_recorded_up_to_it(
    tmp_path: Path, by_pipe: bool
) -> None:
    total = 200_000  # no multiple of a block
    data = content(1 << 20)
    with recorder(tmp_path, total) as made:
        record(made, b"will have to go")
        tape = begun(made)
        for first in range(0, len(data), 1 << 16):
            part = data[first : first + (1 << 16)]
            if by_pipe:
                tape.pipe(False, filled(part), len(part))
            else:
                tape.data(False, part)
        tape.end("there", "closed")
        until(lambda: made.missed, "it is given up")
    (line,) = lines(tmp_path)
    assert line["id"] == tape.id
    assert total // 2 < line["down"] <= total
    assert recorded(tmp_path, line, "down") == data[: line["down"]]
    assert line["given_up"] == "bound"
    assert line["down"] + line["missed"]["down"] == len(data)
    with recorder(tmp_path, total) as made:
        last = record(made, data[:100_000])
    assert [line["id"] for line in lines(tmp_path)] == [last]


def test_what_is_still_open_is_not_removed(tmp_path: Path) -> None:
    total = 256 << 10
    with recorder(tmp_path, total) as made:
        tape = begun(made)
        tape.data(True, b"begin")
        for number in range(30):
            record(made, content(20_000, number))
        tape.data(True, b"end")
        tape.end("there", "closed")
    line = lines(tmp_path)[-1]
    assert line["id"] == tape.id
    assert recorded(tmp_path, line, "up") == b"beginend"


# Several processes, one after the other and at once


def test_a_folder_is_continued(tmp_path: Path) -> None:
    names = []
    for number in range(3):
        with recorder(tmp_path) as made:
            names.append(record(made, b"%d" % number))
    found = lines(tmp_path)
    assert [line["id"] for line in found] == names
    assert [recorded(tmp_path, line, "up") for line in found] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("torn", [b'{"v":1,"id":"2026', b"x" * 200_000])
def test_a_line_that_was_never_written_whole_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    with recorder(tmp_path) as made:
        first = record(made, b"first")
    with open(tmp_path / "index.jsonl", "ab") as index:
        index.write(torn)
    with recorder(tmp_path) as made:
        second = record(made, b"second")
    assert [line["id"] for line in lines(tmp_path)] == [first, second]


def in_child(work: Callable[[], None]) -> int:
    """Fork, do some work there, and return the child."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def test_workers_share_a_folder_and_its_bound(tmp_path: Path) -> None:
    """The recorder is made before they are forked, as by a server."""
    total = 512 << 10
    made = Recorder(Capture(str(tmp_path), total), Pipe.close)

    def work() -> None:
        for number in range(40):
            tape = begun(made)
            name = tape.id.encode()
            tape.data(True, name * 500)
            tape.data(False, b"%d" % number)
            tape.end("there", "closed")
            if number % 10 == 0:
                until(lambda: made._idle, "the writer rests")
        made.close(LONGEST)

    children = [in_child(work) for _ in range(3)]
    statuses = [os.waitpid(child, 0)[1] for child in children]
    made.close(LONGEST)
    assert statuses == [0, 0, 0]
    found = lines(tmp_path)
    longest = max(len(json.dumps(line)) for line in found)
    assert taken(tmp_path) <= total + 3 * 40 * longest
    assert len({line["id"] for line in found}) == len(found) > 5
    whole = [line for line in found if "given_up" not in line]
    assert whole
    for line in whole:
        assert recorded(tmp_path, line, "up") == line["id"].encode() * 500
    files = {path.name.rpartition(".")[0] for path in tmp_path.glob("*.up")}
    assert files == {line["id"] for line in found if line["up"]}


def test_files_of_a_process_that_was_killed_go_first(tmp_path: Path) -> None:
    total = 256 << 10
    with recorder(tmp_path, total) as made:
        first = record(made, content(20_000))
    reader, writer = os.pipe()

    def work() -> None:
        other = Recorder(Capture(str(tmp_path), total), Pipe.close)
        tape = begun(other)
        tape.data(True, content(50_000))
        until(lambda: other.bytes, "it is recorded")
        os.write(writer, tape.id.encode())
        os.kill(os.getpid(), 9)

    child = in_child(work)
    try:
        os.waitpid(child, 0)
        lost = os.read(reader, 100).decode()
    finally:
        os.close(reader)
        os.close(writer)
    assert (tmp_path / f"{lost}.up").stat().st_size == 50_000
    with recorder(tmp_path, total) as made:
        names = [record(made, content(20_000, number)) for number in range(9)]
    assert not (tmp_path / f"{lost}.up").exists()
    assert [line["id"] for line in lines(tmp_path)] == [first, *names]


def test_nothing_else_in_the_folder_is_touched(tmp_path: Path) -> None:
    others = ("notes.up", "20260101T000000.up", "big.down")
    for name in others:
        (tmp_path / name).write_bytes(b"x" * 50_000)
    with recorder(tmp_path, 64 << 10) as made:
        for number in range(10):
            record(made, content(20_000, number))
    assert lines(tmp_path)
    assert all((tmp_path / name).stat().st_size == 50_000 for name in others)


# Few fds


def fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_files_are_bounded_however_many_connections_there_are(tmp_path: Path) -> None:
    before = fds()
    with recorder(tmp_path) as made:
        tapes = [begun(made) for _ in range(200)]
        for turn in range(3):
            for number, tape in enumerate(tapes):
                tape.data(True, b"%d of %d;" % (turn, number))
            expected = sum(len(f"{turn} of {n};") for n in range(200)) * (turn + 1)
            until(lambda wanted=expected: made.bytes == wanted, "all are written")  # type: ignore[misc]
            assert fds() <= before + 70
        for tape in tapes:
            tape.end("there", "closed")
    found = lines(tmp_path)
    assert len(found) == 200
    for number, line in enumerate(found):
        wanted = b"".join(b"%d of %d;" % (turn, number) for turn in range(3))
        assert recorded(tmp_path, line, "up") == wanted


def test_few_fds_do_not_end_a_recording(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with recorder(tmp_path) as made:
        tapes = [begun(made) for _ in range(60)]
        highest = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 8, hard))
        try:
            for tape in tapes:
                tape.data(True, b"here")
                tape.end("there", "closed")
            until(lambda: made.bytes + made.missed == 240, "all are written")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert made.problem is None
    assert [line["up"] for line in lines(tmp_path)] == [4] * 60


def test_a_file_that_somebody_has_changed_is_given_up(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        first = begun(made)
        first.data(True, b"0123456789")
        others = [begun(made) for _ in range(100)]
        for tape in others:
            tape.data(True, b"x")  # so that the file of the first one is closed
        until(lambda: made.bytes == 110, "all are written")
        os.truncate(tmp_path / f"{first.id}.up", 3)
        first.data(True, b"more")
        for tape in (first, *others):
            tape.end("there", "closed")
    line = next(line for line in lines(tmp_path) if line["id"] == first.id)
    assert "given_up" in line
    assert (tmp_path / f"{first.id}.up").read_bytes() == b"012"


# Folders that cannot be had


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/index.jsonl").symlink_to(tmp_path / "file")
    for name, why in (
        ("file", "Not a directory"),
        ("none/there", "No such file or directory"),
        ("linked", "Too many levels of symbolic links"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(UsageError) as caught:
            Recorder(Capture(path), Pipe.close)
        assert str(caught.value) == f"{path}: capture: {why}"


def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "theirs").mkdir(mode=0o700)

    def work() -> None:
        with pytest.raises(UsageError) as caught:
            Recorder(Capture("theirs"), Pipe.close)
        assert str(caught.value) == "theirs: capture: Permission denied"

    as_stranger(tmp_path, work)


def test_after_the_end_nothing_is_taken_and_no_pipe_is_leaked(tmp_path: Path) -> None:
    with recorder(tmp_path) as made:
        tape, late = begun(made), begun(made)
        tape.data(True, b"in time")
        tape.end("there", "closed")
    late.data(True, b"late")
    late.pipe(True, filled(b"late"), 4)
    late.end("there", "closed")
    assert made.missed == 8
    (line,) = lines(tmp_path)
    assert line["up"] == 7


def test_the_oldest_make_room_on_a_full_disk(tiny: Path) -> None:
    """Not even a shorter index has a place before their files have gone."""
    with recorder(tiny, 256 << 10) as made:
        names = [record(made, content(20_000, number)) for number in range(12)]
        with open(tiny / "other", "wb", buffering=0) as other, suppress(OSError):
            while True:
                other.write(b"x" * 4096)
        names += [record(made, content(20_000, number)) for number in range(12, 36)]
        assert made.problem is None
    found = lines(tiny)
    left = [line["id"] for line in found]
    assert 5 < len(left) < 13
    assert left == names[-len(left) :]
    for number, line in zip(range(36 - len(left), 36), found, strict=True):
        assert recorded(tiny, line, "up") == content(20_000, number)
