"""Captures played back to real servers: what they get, what is compared, and what is told."""

from __future__ import annotations

import hashlib
import json
import select
import socket
import struct
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.machine import LONGEST, content, only_port, started, zpipe
from zpipe.kernel.pipes import Pipe
from zpipe.proxy.addresses import parse_address, resolve
from zpipe.proxy.capture import Recorder
from zpipe.proxy.replay import Outcome, Recordings, Summary, Wishes, replay
from zpipe.proxy.settings import Capture

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Serve = Callable[[socket.socket], None]

END = b""  # of a direction


def name(number: int) -> str:
    return f"20260401T101500.{number:06}-4711-{number}"


def captured(
    folder: Path,
    *dialogs: list[tuple[str, bytes]],
    gap: int = 0,
    starts: float = 0.0,
    **more: Any,
) -> list[str]:
    """Write a capture by hand: chunks are `gap` ms apart, connections `starts` seconds."""
    folder.mkdir(exist_ok=True)
    names = []
    with open(folder / "index.jsonl", "a") as index:
        for number, dialog in enumerate(dialogs):
            files = {
                kind: b"".join(data for side, data in dialog if side == kind) for kind in ("u", "d")
            }
            names.append(name(number))
            for kind, suffix in (("u", "up"), ("d", "down")):
                if files[kind]:
                    (folder / f"{names[-1]}.{suffix}").write_bytes(files[kind])
            line = {
                "v": 1,
                "id": names[-1],
                "began": 1e9 + number * starts,
                "ended": 1e9 + 1000,
                "peer": "127.0.0.1:4711",
                "listener": "127.0.0.1:5432",
                "upstream": "127.0.0.1:5433",
                "up": len(files["u"]),
                "down": len(files["d"]),
                "missed": {"up": 0, "down": 0},
                "reason": "closed",
                "chunks": [[at * gap, kind, len(data)] for at, (kind, data) in enumerate(dialog)],
            }
            index.write(json.dumps({**line, **more}) + "\n")
    return names


@contextmanager
def served(serve: Serve, path: Path | None = None) -> Iterator[str]:
    """Serve every connection in a thread of its own; yields the address."""
    listener = socket.socket(socket.AF_INET if path is None else socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0) if path is None else str(path))
    listener.listen(64)
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []

    def one(client: socket.socket) -> None:
        with client:
            client.settimeout(LONGEST)
            try:
                serve(client)
            except (ConnectionError, TimeoutError):
                pass  # whoever has it so will see it at the other side
            except BaseException as error:
                failures.append(error)

    def accept() -> None:
        while True:
            try:
                client = listener.accept()[0]
            except OSError:
                return
            threads.append(threading.Thread(target=one, args=(client,)))
            threads[-1].start()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}" if path is None else f"unix:{path}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(LONGEST)
        listener.close()
        for thread in threads:
            thread.join(LONGEST)
    assert not failures, failures


def exactly(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = client.recv(count - len(got))
        if not part:
            raise ConnectionError
        got += part
    return got


def echo(client: socket.socket) -> None:
    while data := client.recv(1 << 16):
        client.sendall(data)


def digest(client: socket.socket) -> None:
    """Answers when the client has ended."""
    seen = hashlib.sha256()
    while data := client.recv(1 << 16):
        seen.update(data)
    client.sendall(seen.hexdigest().encode())


def one_by_one(client: socket.socket) -> None:
    """Answers requests of four bytes, each alone: what comes before the answer is an error."""
    while request := client.recv(100):
        early = select.select([client], [], [], 0.05)[0] and client.recv(100, socket.MSG_PEEK)
        client.sendall(b"<" + request + b">" if not early else b"too early")


def silent(client: socket.socket) -> None:
    while client.recv(1 << 16):
        pass


def dialog(*requests: bytes) -> list[tuple[str, bytes]]:
    turns = [turn for each in requests for turn in (("u", each), ("d", b"<" + each + b">"))]
    return [*turns, ("u", END), ("d", END)]


def played(
    folder: Path, upstream: str, wishes: Wishes, ids: list[str] | None = None
) -> tuple[Summary, list[Outcome]]:
    address = parse_address(upstream)
    recordings = Recordings(str(folder))
    outcomes: list[Outcome] = []
    try:
        chosen = recordings.chosen(ids or [])
        summary = replay(recordings, chosen, address, resolve(address), wishes, outcomes.append)
    finally:
        recordings.close()
    return summary, outcomes


def told(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert done.stdout == b""
    return done.stderr.decode().splitlines()


FAST = Wishes(pace="fast", compare=True)


def test_what_a_recorder_has_written_is_played_back(tmp_path: Path) -> None:
    made = Recorder(Capture(str(tmp_path / "capture")), Pipe.close)
    try:
        for number in range(3):
            tape = made.connection(time.time(), "127.0.0.1:4711", "127.0.0.1:5432")
            for request in (b"one ", b"two ", b"%04d" % number):
                tape.data(True, request)
                tape.data(False, b"<" + request + b">")
            tape.eof(True)
            tape.eof(False)
            tape.end("127.0.0.1:5433", "closed")
    finally:
        made.close(LONGEST)
    with served(one_by_one) as upstream:
        for pace in ("original", "fast"):
            # in the capture all of it was in one millisecond or two
            options = ("--compare", "--pace", pace)
            done = zpipe("replay", *options, tmp_path / "capture", upstream)
            assert done.returncode == 0, done.stderr
            (line,) = told(done)
            assert line.startswith("zpipe: 3 connections replayed in ")
            assert line.endswith(", 36 B sent, 54 B received, none differ")


@pytest.mark.parametrize("pace", ["original", "fast"])
def test_the_client_half_closes_where_it_did(tmp_path: Path, pace: Any) -> None:
    data = content(200_000)
    answer = hashlib.sha256(data).hexdigest().encode()
    captured(tmp_path, [("u", data), ("u", END), ("d", answer), ("d", END)])
    with served(digest) as upstream:
        summary, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True))
    assert outcome.state == "done"
    assert (outcome.sent, outcome.received, outcome.differs) == (200_000, 64, None)
    assert (summary.connections, summary.differs) == (1, 0)


@pytest.mark.parametrize("pace", ["original", "fast"])
@pytest.mark.parametrize("marked", [False, True])
def test_a_client_that_closed_when_it_had_its_answer_does_not_close_before(
    tmp_path: Path, pace: Any, marked: bool
) -> None:
    """Without ends among the chunks it is taken for one."""

    def serve(client: socket.socket) -> None:
        exactly(client, 4)
        gone = select.select([client], [], [], 0.05)[0]
        client.sendall(b"gone" if gone else b"here")
        client.recv(1)

    ends = [("u", END), ("d", END)] if marked else []
    captured(tmp_path, [("u", b"ping"), ("d", b"here"), *ends])
    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True))
    assert outcome.state == "done", outcome


@pytest.mark.parametrize("pace", ["original", "fast"])
def test_a_request_waits_for_the_answer_before_it(tmp_path: Path, pace: Any) -> None:
    captured(tmp_path, dialog(b"abcd", b"efgh", b"ijkl"))
    with served(one_by_one) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True))
    assert outcome.state == "done", outcome


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from("ud"), st.binary(min_size=1, max_size=40)), max_size=20),
    st.sampled_from(["original", "fast"]),
)
def test_a_server_that_does_the_same_again_makes_no_difference(
    tmp_path: Path, turns: list[tuple[str, bytes]], pace: Any
) -> None:
    def serve(client: socket.socket) -> None:
        for kind, data in turns:
            if kind == "u":
                assert exactly(client, len(data)) == data
            else:
                client.sendall(data)
        assert client.recv(1) == b""

    (tmp_path / "index.jsonl").unlink(missing_ok=True)
    captured(tmp_path, [*turns, ("u", END), ("d", END)])
    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True))
    assert outcome.state == "done", outcome


@pytest.mark.parametrize("pace", ["original", "fast"])
def test_much_goes_both_ways_at_once(tmp_path: Path, pace: Any) -> None:
    """The server reads nothing until its answer is read, and the other way round."""
    data, answer = content(6 << 20, 1), content(6 << 20, 2)

    def serve(client: socket.socket) -> None:
        client.sendall(answer)
        assert exactly(client, len(data)) == data

    turns = [("u", data), ("d", answer), ("u", END), ("d", END)]
    captured(tmp_path, turns)
    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True))
    assert outcome.state == "done", outcome
    assert (outcome.sent, outcome.received) == (6 << 20, 6 << 20)


def test_an_echo_of_much_is_compared_byte_for_byte(tmp_path: Path) -> None:
    data = content(3 << 20)
    parts = [data[first : first + 100_000] for first in range(0, len(data), 100_000)]
    turns = [turn for part in parts for turn in (("u", part), ("d", part))]
    wrong = bytearray(data)
    wrong[2_345_678] ^= 1
    captured(tmp_path, [*turns, ("u", END), ("d", END)])
    with served(echo) as upstream:
        done = zpipe("replay", "--compare", "--pace", "fast", tmp_path, upstream)
        assert done.returncode == 0, done.stderr
        (tmp_path / f"{name(0)}.down").write_bytes(wrong)
        done = zpipe("replay", "--compare", "--pace", "fast", tmp_path, upstream)
    assert done.returncode == 3
    first, last = told(done)
    assert first == f"zpipe: {name(0)}: compare: differs at byte 2345678"
    assert last.endswith(", 1 differs")


def test_a_unix_upstream_is_one_too(tmp_path: Path) -> None:
    captured(tmp_path / "capture", [("u", b"x" * 500_000), ("u", END), ("d", END)])
    with served(silent, tmp_path / "socket") as upstream:
        done = zpipe("replay", "--compare", tmp_path / "capture", upstream)
    assert done.returncode == 0, done.stderr


def test_a_unix_upstream_with_a_full_queue_is_asked_again(tmp_path: Path) -> None:
    """The kernel does not wait for room there: it refuses. With many other fds open, as always."""
    captured(tmp_path / "capture", *(dialog(b"%04d" % number) for number in range(6)))
    with ExitStack() as stack, socket.socket(socket.AF_UNIX) as listener:
        for _ in range(100):
            stack.enter_context(socket.socket())
        listener.bind(str(tmp_path / "socket"))
        listener.listen(0)

        def serve() -> None:
            for _ in range(6):
                select.select([listener], [], [], LONGEST)
                with listener.accept()[0] as client:
                    client.sendall(b"<" + exactly(client, 4) + b">")
                    client.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        _, outcomes = played(
            tmp_path / "capture", f"unix:{tmp_path}/socket", Wishes("fast", compare=True, jobs=6)
        )
        server.join(LONGEST)
    assert [outcome.state for outcome in outcomes] == ["done"] * 6


# What is not as it was


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (b"the answeR", "compare: differs at byte 9"),
        (b"The answer", "compare: differs at byte 0"),
        (b"the ans", "compare: differs at byte 7: the answer ends there"),
        (b"", "compare: differs at byte 0: the answer ends there"),
        (b"the answer!", "compare: differs at byte 10: the answer goes on"),
    ],
)
def test_the_first_difference_is_told(tmp_path: Path, answer: bytes, what: str) -> None:
    def serve(client: socket.socket) -> None:
        exactly(client, 7)
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)

    captured(
        tmp_path, [("u", b"request"), ("d", b"the answer"), ("d", END), ("u", END)], reason="closed"
    )
    with served(serve) as upstream:
        done = zpipe("replay", "--compare", tmp_path, upstream)
        quiet = zpipe("replay", "--compare", "-q", tmp_path, upstream)
        not_compared = zpipe("replay", "-q", tmp_path, upstream)
    assert done.returncode == quiet.returncode == 3
    assert told(done)[0] == f"zpipe: {name(0)}: {what}"
    assert told(quiet) == told(done)[:1]
    assert (not_compared.returncode, not_compared.stderr) == (0, b"")


def test_an_answer_that_the_capture_has_no_bytes_of_is_a_difference(tmp_path: Path) -> None:
    captured(tmp_path, [("u", b"x"), ("u", END), ("d", END)])
    with served(echo) as upstream:
        _, (outcome,) = played(tmp_path, upstream, FAST)
    assert (outcome.state, outcome.differs) == ("differs", 0)


def test_a_shorter_answer_is_found_when_the_client_half_closes_anyway(tmp_path: Path) -> None:
    """The server would wait for the client to close, and the client for the answer."""

    def serve(client: socket.socket) -> None:
        exactly(client, 4)
        client.sendall(b"abc")
        client.recv(1)

    captured(tmp_path, [("u", b"ping"), ("d", b"abcdef"), ("u", END), ("d", END)])
    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes("fast", compare=True, timeout=2.0))
    assert (outcome.state, outcome.differs) == ("differs", 3)


@pytest.mark.parametrize("pace", ["original", "fast"])
def test_a_dialog_with_shorter_answers_goes_on_at_the_original_pace(
    tmp_path: Path, pace: Any
) -> None:
    def serve(client: socket.socket) -> None:
        while request := client.recv(4):
            client.sendall(request)

    captured(tmp_path, dialog(b"abcd", b"efgh", b"ijkl"))
    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, Wishes(pace, compare=True, timeout=2.0))
    assert outcome.differs == 0
    assert outcome.state == ("differs" if pace == "original" else "stalled")
    assert outcome.sent == (12 if pace == "original" else 4)


# Captures that do not end well


def test_an_incomplete_capture_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    """The server goes on where the capture does not: that is no difference."""
    captured(
        tmp_path,
        [("u", b"request"), ("d", b"begin")],
        missed={"up": 0, "down": 100},
        given_up="bound",
    )

    def serve(client: socket.socket) -> None:
        exactly(client, 7)
        client.sendall(b"begin and so on")
        client.recv(1)

    with served(serve) as upstream:
        _, (outcome,) = played(tmp_path, upstream, FAST)
    assert outcome.state == "done", outcome


@pytest.mark.parametrize("reason", ["client-reset", "idle", "lifetime", "drained"])
def test_a_client_that_went_away_has_its_answer_and_goes_away(tmp_path: Path, reason: str) -> None:
    """The server would never end by itself."""
    captured(tmp_path, [("u", b"ping"), ("d", b"ping")], reason=reason)
    with served(echo) as upstream:
        _, (outcome,) = played(tmp_path, upstream, FAST)
    assert outcome.state == "done", outcome


def reset(client: socket.socket) -> None:
    """Break it off when four bytes have come."""
    exactly(client, 4)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_an_upstream_that_breaks_off_is_a_failure_unless_it_did_so_before(tmp_path: Path) -> None:
    turns = [("u", b"ping"), ("d", b"answer")]
    captured(tmp_path / "whole", turns)
    captured(tmp_path / "broken", turns[:1], reason="upstream-reset")
    with served(reset) as upstream:
        whole = zpipe("replay", tmp_path / "whole", upstream)
        broken = zpipe("replay", tmp_path / "broken", upstream)
    assert whole.returncode == 1
    assert told(whole)[0] == f"zpipe: {name(0)}: read: Connection reset by peer"
    assert told(whole)[1].endswith(", 1 failed")
    assert broken.returncode == 0, broken.stderr


def test_an_upstream_that_takes_less_than_it_did_is_a_failure(tmp_path: Path) -> None:
    captured(tmp_path, [("u", b"ping" + b"x" * (20 << 20)), ("d", b"answer"), ("u", END)])
    with served(reset) as upstream:
        done = zpipe("replay", tmp_path, upstream)
    assert done.returncode == 1
    # whether it is seen by writing or by reading first
    act, _, why = told(done)[0].removeprefix(f"zpipe: {name(0)}: ").partition(": ")
    assert act in ("read", "write")
    assert why in ("Connection reset by peer", "Broken pipe")


# Waiting


def test_an_upstream_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    captured(tmp_path, [("u", b"ping"), ("d", b"pong"), ("u", b"ping")])
    with served(silent) as upstream:
        options = ("--pace", "fast", "--timeout", "200ms")
        done = zpipe("replay", *options, tmp_path, upstream)
    assert done.returncode == 4
    first, last = told(done)
    assert first == f"zpipe: {name(0)}: read: 4 more bytes did not come in 0.20 s"
    assert last.endswith(", 1 stalled")


def test_an_upstream_that_takes_nothing_is_given_up(tmp_path: Path) -> None:
    captured(tmp_path, [("u", b"x" * (32 << 20)), ("u", END)])
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        over.wait(LONGEST)

    with served(serve) as upstream:
        done = zpipe("replay", "--timeout", "300ms", tmp_path, upstream)
        over.set()
    assert done.returncode == 4
    assert told(done)[0] == f"zpipe: {name(0)}: write: nothing was taken in 0.30 s"


def test_an_answer_that_does_not_end_is_given_up(tmp_path: Path) -> None:
    captured(tmp_path, [("u", b"ping"), ("d", b"ping"), ("d", END), ("u", END)])
    over = threading.Event()

    def serve(client: socket.socket) -> None:
        client.sendall(exactly(client, 4))
        over.wait(LONGEST)

    with served(serve) as upstream:
        done = zpipe("replay", "--timeout", "2s", tmp_path, upstream)
        over.set()
    assert done.returncode == 4
    assert told(done)[0] == f"zpipe: {name(0)}: read: the answer did not end in 2.00 s"


def test_at_the_original_pace_the_client_takes_its_time(tmp_path: Path) -> None:
    """Its own waiting is no stall, and nothing is sent before its time."""
    turns = dialog(b"abcd", b"efgh", b"ijkl")
    moments = [0, 0, 2500, 2500, 2500, 2500, 3000, 3000]
    chunks = [[at, kind, len(data)] for at, (kind, data) in zip(moments, turns, strict=True)]
    captured(tmp_path, turns, chunks=chunks)
    with served(one_by_one) as upstream:
        summary, (outcome,) = played(
            tmp_path, upstream, Wishes("original", compare=True, timeout=2.0)
        )
        faster, _ = played(tmp_path, upstream, Wishes("original", speed=4, compare=True))
    assert outcome.state == "done", outcome
    # the last thing that the client did is its half-close
    assert summary.seconds >= 3.0
    assert faster.seconds >= 0.75


def test_connections_that_were_open_together_are_so_again(tmp_path: Path) -> None:
    """Each is answered only when both are there: one after the other they would wait for ever."""
    both = threading.Barrier(2, timeout=LONGEST)

    def serve(client: socket.socket) -> None:
        exactly(client, 4)
        both.wait()
        client.sendall(b"<ping>")
        client.recv(1)

    captured(tmp_path, dialog(b"ping"), dialog(b"ping"), starts=0.05)
    with served(serve) as upstream:
        for wishes in (Wishes(), Wishes("fast", jobs=2)):
            summary, _ = played(tmp_path, upstream, wishes)
            assert (summary.connections, summary.stalled, summary.failed) == (2, 0, 0)


def test_without_jobs_one_connection_follows_the_other(tmp_path: Path) -> None:
    captured(tmp_path, *([dialog(b"%04d" % number)][0] for number in range(10)))
    busy = threading.Semaphore(1)
    seen: list[bytes] = []

    def serve(client: socket.socket) -> None:
        alone = busy.acquire(blocking=False)
        request = exactly(client, 4)
        seen.append(request)
        answer = b"<" + request + b">" if alone else b"not alone"
        if alone:
            busy.release()
        client.sendall(answer)
        client.recv(1)

    with served(serve) as upstream:
        _, outcomes = played(tmp_path, upstream, FAST)
    assert [outcome.state for outcome in outcomes] == ["done"] * 10
    assert seen == [b"%04d" % number for number in range(10)]


def test_many_connections_are_played_side_by_side(tmp_path: Path) -> None:
    data = [content(5_000 * number, number) for number in range(1, 41)]
    captured(tmp_path, *([("u", each), ("d", each), ("u", END), ("d", END)] for each in data))
    with served(echo) as upstream:
        done = zpipe("replay", "--pace", "fast", "-j", "8", "--compare", tmp_path, upstream)
    assert done.returncode == 0, done.stderr
    (line,) = told(done)
    assert line.startswith("zpipe: 40 connections replayed in ")
    assert line.endswith(", 3.91 MiB sent, 3.91 MiB received, none differ")


def test_chosen_connections_are_played_in_the_order_in_which_they_began(tmp_path: Path) -> None:
    captured(tmp_path, *(dialog(b"%04d" % number) for number in range(5)), starts=0.001)
    with served(one_by_one) as upstream:
        _, outcomes = played(tmp_path, upstream, FAST, [name(3), name(1)])
    assert [outcome.id for outcome in outcomes] == [name(1), name(3)]


# What is told


def test_json_tells_each_connection_and_the_end(tmp_path: Path) -> None:
    captured(tmp_path, dialog(b"abcd"), [*dialog(b"efgh")[:1], ("d", b"<ef h>"), ("u", END)])
    with served(one_by_one) as upstream:
        done = zpipe("replay", "--json", "--compare", "--pace", "fast", tmp_path, upstream)
    assert done.returncode == 3
    one, other, end = map(json.loads, told(done))
    assert one == {
        "v": 1,
        "type": "connection",
        "id": name(0),
        "state": "done",
        "sent": 4,
        "received": 6,
        "recorded": 6,
        "differs": None,
        "text": None,
    }
    assert (other["state"], other["differs"]) == ("differs", 3)
    assert other["text"] == f"{name(1)}: compare: differs at byte 3"
    assert end.pop("seconds") > 0
    assert end == {
        "v": 1,
        "type": "end",
        "exit": 3,
        "connections": 2,
        "sent": 8,
        "received": 12,
        "differs": 1,
        "failed": 0,
        "stalled": 0,
    }


def test_json_tells_what_could_not_be_played_at_all(tmp_path: Path) -> None:
    done = zpipe("replay", "--json", tmp_path / "none", "127.0.0.1:9")
    assert done.returncode == 2
    (record,) = map(json.loads, told(done))
    assert (record["type"], record["exit"]) == ("error", 2)
    assert record["text"] == f"{tmp_path}/none: replay: No such file or directory"


def test_an_upstream_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    captured(tmp_path, *(dialog(b"abcd") for _ in range(5)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        upstream = f"127.0.0.1:{free.getsockname()[1]}"
        done = zpipe("replay", tmp_path, upstream)
    assert done.returncode == 1
    assert told(done) == [f"zpipe: {upstream}: connect: Connection refused"]
    done = zpipe("replay", tmp_path, f"unix:{tmp_path}/none")
    assert done.returncode == 1
    assert told(done) == [f"zpipe: unix:{tmp_path}/none: connect: No such file or directory"]


def test_a_connection_to_oneself_is_no_upstream(tmp_path: Path) -> None:
    captured(tmp_path, dialog(b"abcd"))
    done = zpipe("replay", tmp_path, "127.0.0.1:40000", before=only_port(40000))
    assert done.returncode == 1
    assert told(done) == ["zpipe: 127.0.0.1:40000: connect: Connection refused"]


def test_an_upstream_that_goes_away_fails_the_connections_after_it(tmp_path: Path) -> None:
    captured(tmp_path, *(dialog(b"%04d" % number) for number in range(3)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        upstream = f"127.0.0.1:{listener.getsockname()[1]}"
        with started("replay", "--pace", "fast", tmp_path, upstream) as process:
            with listener.accept()[0] as client:
                exactly(client, 4)
                listener.close()
                client.sendall(b"<0000>")
                assert client.recv(1) == b""
            assert process.wait(LONGEST) == 1
            assert process.stderr is not None
            lines = process.stderr.read().decode().splitlines()
    assert lines[:2] == [f"zpipe: {name(number)}: connect: Connection refused" for number in (1, 2)]
    assert lines[2].endswith(", 2 failed")


# What makes no sense


def test_an_unknown_connection_is_named(tmp_path: Path) -> None:
    captured(tmp_path, dialog(b"abcd"))
    done = zpipe("replay", "--id", name(7), tmp_path, "127.0.0.1:9")
    assert done.returncode == 2
    assert told(done) == [f"zpipe: {tmp_path}: replay: has no connection {name(7)}"]


def test_a_folder_that_is_no_capture_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path, why in (
        (tmp_path, "is no capture: index.jsonl is missing"),
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "file", "Not a directory"),
    ):
        done = zpipe("replay", path, "127.0.0.1:9")
        assert done.returncode == 2
        assert told(done) == [f"zpipe: {path}: replay: {why}"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"v": 2}, "is of version 2, not 1"),
        ({"id": "../../../etc/passwd"}, "has no name that a capture gives"),
        ({"up": 5}, "its chunks are not those of its bytes"),
        ({"chunks": [[0, "x", 4]]}, "is none of a capture"),
        ({"chunks": [[0, "u", -4]]}, "is none of a capture"),
        ({"chunks": [[0, "u"]]}, "is none of a capture"),
        ({"chunks": 5}, "is none of a capture"),
        ({"missed": 5}, "is none of a capture"),
        ({"began": "yesterday"}, "is none of a capture"),
        ({"began": None}, "is none of a capture"),
        ({"began": float("nan")}, "is none of a capture"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    captured(tmp_path, dialog(b"abcd"))
    captured(tmp_path, dialog(b"abcd"), **change)
    done = zpipe("replay", tmp_path, "127.0.0.1:9")
    assert done.returncode == 2
    assert told(done) == [f"zpipe: {tmp_path}/index.jsonl: line 2: {why}"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"{}\n", "is none of a capture"),
        (b"[1]\n", "is none of a capture"),
        (b"nonsense\n", "is none of a capture"),
        (b"\xff\xfe\n", "is none of a capture"),
        (b"\n", "is none of a capture"),
        (b"[" * 100_000 + b"\n", "is none of a capture"),
        (b'{"v":1', "has no end: it is being written, or was cut"),
    ],
)
def test_an_index_that_is_none_is_named(tmp_path: Path, text: bytes, why: str) -> None:
    (tmp_path / "index.jsonl").write_bytes(text)
    done = zpipe("replay", tmp_path, "127.0.0.1:9")
    assert done.returncode == 2
    assert told(done) == [f"zpipe: {tmp_path}/index.jsonl: line 1: {why}"]


@pytest.mark.parametrize("kind", ["up", "down"])
@pytest.mark.parametrize("missing", [False, True])
def test_files_that_are_not_those_of_the_index_fail_their_connection(
    tmp_path: Path, kind: str, missing: bool
) -> None:
    captured(tmp_path, dialog(b"abcd"), dialog(b"efgh"))
    path = tmp_path / f"{name(0)}.{kind}"
    path.unlink() if missing else path.write_bytes(b"abc")
    size = 4 if kind == "up" else 6
    why = "No such file or directory" if missing else f"has 3 bytes, in the index it has {size}"
    with served(one_by_one) as upstream:
        done = zpipe("replay", "--compare", "--pace", "fast", tmp_path, upstream)
    assert done.returncode == 1
    first, last = told(done)
    assert first == f"zpipe: {path.name}: open: {why}"
    assert last.startswith("zpipe: 2 connections replayed")
    assert last.endswith(", none differ, 1 failed")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--pace", "fast", "--speed", "2"), "--speed: has no effect"),
        (("-j", "2"), "--jobs: has no effect"),
        (("-j", "0", "--pace", "fast"), "--jobs: 0: give a whole number from 1 to 99999"),
        (("--speed", "0"), "0: not a factor"),
        (("--speed", "nan"), "nan: not a factor"),
        (("--timeout", "0"), "0: not a duration"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    tmp_path: Path, options: tuple[str, ...], why: str
) -> None:
    captured(tmp_path, dialog(b"abcd"))
    done = zpipe("replay", *options, tmp_path, "127.0.0.1:9")
    assert done.returncode == 2
    (line,) = told(done)
    assert why in line


def test_a_bad_upstream_is_refused(tmp_path: Path) -> None:
    captured(tmp_path, dialog(b"abcd"))
    done = zpipe("replay", tmp_path, "nowhere")
    assert done.returncode == 2
    (line,) = told(done)
    assert line.startswith("zpipe: nowhere: not an address")


def test_an_empty_capture_is_played_in_no_time(tmp_path: Path) -> None:
    Recorder(Capture(str(tmp_path / "capture")), Pipe.close).close(LONGEST)
    done = zpipe("replay", tmp_path / "capture", "127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    (line,) = told(done)
    assert line.startswith("zpipe: 0 connections replayed")
