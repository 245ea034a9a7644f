"""How running proxies are found, asked and shown, by real sockets and by the command."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import (
    LONGEST,
    ZPIPE,
    as_stranger,
    environment,
    need,
    need_root,
    started,
    zpipe,
)
from tests.proxy.test_metrics import serving, snapshot, upstream
from zpipe.commands.proxy_progress import ProxyProgress, as_rich, as_text, line, view
from zpipe.errors import TransferError, UsageError
from zpipe.proxy import status
from zpipe.proxy.loop import Loop
from zpipe.proxy.status import PREFIX, Foreign, StatusSocket, ask, ask_all, find

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zpipe.proxy.counters import Snapshot


@contextmanager
def turning() -> Iterator[Loop]:
    """Return a loop that another thread runs."""
    loop = Loop()
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield loop
    finally:
        loop.soon(loop.stop)
        thread.join(LONGEST)
        loop.close()


def called(loop: Loop, work: Callable[[], Any]) -> Any:
    """Do something in the thread of the loop, and return what it returns."""
    found: list[Any] = []
    done = threading.Event()

    def do() -> None:
        found.append(work())
        done.set()

    loop.soon(do)
    assert done.wait(LONGEST)
    return found[0]


@contextmanager
def proxy(make: Callable[[], Snapshot] = snapshot) -> Iterator[tuple[str, Loop]]:
    """Return the name of the status socket of this process, and the loop that serves it."""
    with turning() as loop:
        server: StatusSocket = called(loop, lambda: StatusSocket(loop, make))
        assert server.where is not None
        try:
            yield server.where, loop
        finally:
            called(loop, server.close)


def test_a_proxy_is_found_by_its_process_and_tells_its_snapshot() -> None:
    with proxy() as (where, _):
        assert where == f"@zpipe-proxy-{os.getpid()}"
        assert where in find()
        assert ask(where) == snapshot()
    assert where not in find()
    with pytest.raises(TransferError) as raised:
        ask(where)
    assert raised.value.errno == errno.ECONNREFUSED
    assert str(raised.value) == f"{where}: connect: Connection refused"


def test_other_sockets_are_not_taken_for_proxies() -> None:
    """Names that are no numbers; one that is bound and does not listen; one of datagrams."""
    with socket.socket(socket.AF_UNIX) as a, socket.socket(socket.AF_UNIX) as b:
        a.bind("\0zpipe-proxy-x\n7")
        a.listen()
        b.bind("\0zpipe-proxy-99999999")
        found = find()
    assert "@zpipe-proxy-99999999" not in found
    assert all(re.fullmatch(r"@zpipe-proxy-[0-9]+", name) for name in found)


def test_a_big_answer_arrives_whole_at_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE", LONGEST)
    big = snapshot(upstreams=[upstream(f"host-{number}") for number in range(50000)])
    with proxy(lambda: big) as (where, loop), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LONGEST)
        client.connect(f"\0{where[1:]}")
        select.select([client], [], [])
        # it has begun, and cannot go on: the loop serves the others meanwhile
        assert ask(where) == big
        assert called(loop, lambda: 7) == 7
        text = bytearray()
        while part := client.recv(10000):
            text += part
    assert json.loads(text) == big


def test_who_never_reads_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE", 0.2)
    big = snapshot(upstreams=[upstream(f"host-{number}") for number in range(50000)])
    with proxy(lambda: big) as (where, _), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LONGEST)
        client.connect(f"\0{where[1:]}")
        poll = select.poll()
        poll.register(client, 0)  # POLLHUP
        assert poll.poll(LONGEST * 1000)
        size = 0
        while part := client.recv(1 << 20):
            size += len(part)
    assert 0 < size < len(json.dumps(big))


def test_too_many_questions_at_once_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait take no more fds than there are answers at once."""
    monkeypatch.setattr(status, "_PATIENCE", LONGEST)
    big = snapshot(upstreams=[upstream(f"host-{number}") for number in range(20000)])
    with proxy(lambda: big) as (where, _):
        clients = [socket.socket(socket.AF_UNIX) for _ in range(status._AT_ONCE + 1)]
        for client in clients:
            client.settimeout(LONGEST)
            client.connect(f"\0{where[1:]}")
            select.select([client], [], [])
        assert clients[-1].recv(1) == b""
        assert clients[0].recv(1) == b"{"
        for client in clients:
            client.close()


def test_without_fds_questions_wait_and_the_loop_sleeps() -> None:
    """In a process of its own, that asks itself when it has one fd too few, and then has it."""
    script = """
import os, resource, socket, sys
from zpipe.proxy import status
from zpipe.proxy.loop import Loop

status._PAUSE = 0.3
loop = Loop()
server = status.StatusSocket(loop, lambda: {"v": 1})
import json
client = socket.socket(socket.AF_UNIX)
client.connect("\\0" + server.where[1:])
ballast = []
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        ballast.append(os.dup(2))
except OSError:
    pass
calls = 0
accept = server._arrived
def counted(event):
    global calls
    calls += 1
    if calls == 1:
        loop.later(0.5, lambda: os.close(ballast.pop()))
    accept(event)
server._arrived = counted
loop.handle(server._listener.fileno(), counted)
def look():
    try:
        got = client.recv(100, socket.MSG_DONTWAIT)
    except BlockingIOError:
        loop.later(0.01, look)
        return
    print(got.decode(), calls)
    loop.stop()
look()
loop.run()
"""
    done = subprocess.run(
        [ZPIPE[0], "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer, calls = done.stdout.split()
    assert answer == '{"v":1}'
    assert 2 <= int(calls) <= 4


def test_another_user_is_told_nothing(tmp_path: Path) -> None:
    need_root()
    tmp_path.chmod(0o755)
    with proxy() as (where, _):

        def work() -> None:
            assert where in find()
            with pytest.raises(Foreign) as raised:
                ask(where)
            assert str(raised.value) == f"{where}: ask: it gives no answer to this user"

        as_stranger(tmp_path, work)


def test_root_is_told_by_all_and_strangers_by_themselves(tmp_path: Path) -> None:
    """A proxy without privileges, asked by itself and by root."""
    need_root()
    tmp_path.chmod(0o755)
    ready, told = os.pipe()
    asked: list[Snapshot] = []

    def beside() -> None:
        asked.append(ask(os.read(ready, 100).decode()))

    thread = threading.Thread(target=beside)
    thread.start()

    def work() -> None:
        loop = Loop()
        mine = threading.Thread(target=loop.run)
        mine.start()
        served = threading.Semaphore(0)

        def make() -> Snapshot:
            served.release()
            return snapshot(name="stranger")

        server: StatusSocket = called(loop, lambda: StatusSocket(loop, make))
        assert server.where is not None
        assert ask(server.where)["name"] == "stranger"
        assert served.acquire(timeout=LONGEST)
        os.write(told, server.where.encode())
        assert served.acquire(timeout=LONGEST)  # root has asked
        called(loop, server.close)
        loop.soon(loop.stop)
        mine.join()

    as_stranger(tmp_path, work)
    thread.join(LONGEST)
    os.close(ready)
    os.close(told)
    assert [each["name"] for each in asked] == ["stranger"]


def test_a_name_that_is_taken_leaves_the_proxy_without_status() -> None:
    with socket.socket(socket.AF_UNIX) as taken, turning() as loop:
        taken.bind(f"\0zpipe-proxy-{os.getpid()}")
        server: StatusSocket = called(loop, lambda: StatusSocket(loop, snapshot))
        assert server.where is None
        called(loop, server.close)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"hello", "the answer is no snapshot of a proxy"),
        (b"{}", "the answer is no snapshot of a proxy"),
        (b"[" * 100000, "the answer is no snapshot of a proxy"),
        (b'{"v":1,"name":NaN}', "the answer is no snapshot of a proxy"),
        (json.dumps(snapshot(listeners=[7])).encode(), "the answer is no snapshot of a proxy"),
        (json.dumps(snapshot(capture={})).encode(), "the answer is no snapshot of a proxy"),
        (json.dumps(snapshot(started=1e999)).encode(), "the answer is no snapshot of a proxy"),
        (json.dumps(snapshot(v=2)).encode(), "the proxy is of another version"),
    ],
)
def test_what_answers_otherwise_is_no_proxy(answer: bytes, why: str) -> None:
    name = f"@zpipe-proxy-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name[1:]}")
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(TransferError) as raised:
            ask(name)
        thread.join(LONGEST)
    assert str(raised.value) == f"{name}: ask: {why}"


def test_who_does_not_answer_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_PATIENCE", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        where = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TransferError, match=r": ask: no answer in time$"):
            ask(where)


def test_those_that_never_answer_are_waited_for_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may take such names, and many of them."""
    monkeypatch.setattr(status, "_PATIENCE", 0.2)
    with ExitStack() as stack, proxy() as (where, _):
        silent = {}
        for number in range(20):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            name = f"{PREFIX}{number}"
            listener.bind(f"\0{name[1:]}")
            listener.listen()
            listener.setblocking(False)
            silent[name] = listener
        answers = ask_all([*silent, where])
        first, problem = next(answers)
        for listener in silent.values():
            client, _ = listener.accept()  # all were asked before one was waited for
            client.close()
        found = {first: problem, **dict(answers)}
    assert found.pop(where) == snapshot()
    assert set(found) == set(silent)
    assert str(problem) == f"{first}: ask: no answer in time"
    assert all(isinstance(each, TransferError) for each in found.values())


def test_a_proxy_is_asked_by_its_metrics_as_well(tmp_path: Path) -> None:
    for address in ("127.0.0.1:0", f"unix:{tmp_path}/m", f"unix:@zpipe-test-{os.getpid()}"):
        with serving(address) as server:
            where = f"127.0.0.1:{server.port}" if server.port else address
            assert ask(where) == snapshot()


def test_addresses_that_are_none_or_lead_nowhere_are_told_of(tmp_path: Path) -> None:
    for word in ("nonsense", "127.0.0.1", "127.0.0.1:x", "/tmp/x"):
        with pytest.raises(UsageError):
            ask(word)
    with pytest.raises(TransferError) as raised:
        ask(f"unix:{tmp_path}/none")
    assert str(raised.value) == f"unix:{tmp_path}/none: connect: No such file or directory"
    with serving() as server, pytest.raises(TransferError) as raised:
        server._snapshot = lambda: 1 / 0  # type: ignore[assignment]
        ask(f"127.0.0.1:{server.port}")
    assert str(raised.value).endswith(": ask: no proxy's metrics are served there")


# what people see

TABLE = """\
  127.0.0.1:5432  running     3      40       5  1.00 EiB      7 B
  -> one:1        up          1      10       2     100 B  1000 B
  -> two:2        down        1      10       2     100 B  1000 B
  ~> tap:9        mirror      1       9       2      90 B       -"""


def test_a_snapshot_is_a_table_for_people() -> None:
    text = as_text(view(snapshot()))
    head, columns, *rows = text.splitlines()
    assert re.fullmatch(rf"proxy db \(pid {os.getpid()}\), for \S+( s)?, 2 workers", head)
    assert columns.split() == ["STATE", "OPEN", "SERVED", "FAILED", "UP", "DOWN"]
    assert [row.split() for row in rows[:4]] == [row.split() for row in TABLE.splitlines()]
    ends = {len(row) for row in (columns, *rows[:4])}
    assert len(ends) == 1  # numbers stand below each other
    assert rows[4:] == [
        "  ended: 30 closed, 7 idle",
        "  refused: 5 full",
        "  at most: 4000 open",
        "  retried: 4",
        "  spliced: 0 % of the bytes",
        "  lost: 1 B",
        "  mirror tap:9: 8 B missed, 2 full",
        "  captured: 6 connections, 66 B",
    ]


def test_of_several_listeners_the_table_has_the_first() -> None:
    told = snapshot(listeners=["127.0.0.1:1", "[::1]:1", "unix:/run/x"], name="")
    text = as_text(view(told)).splitlines()
    assert text[2].startswith("  127.0.0.1:1 +2  running ")
    assert "  listens at: 127.0.0.1:1, [::1]:1, unix:/run/x" in text
    assert line(told).startswith("127.0.0.1:1 +2: 3 open, ")


def test_rates_are_the_differences_of_two_snapshots() -> None:
    before = snapshot(bytes={"up": 0, "down": 0, "spliced": 0, "lost": 0})
    before["connections"] = {**before["connections"], "accepted": 20}
    before["upstreams"] = [upstream("one:1", down=0), upstream("two:2", up=200)]
    now = snapshot(bytes={"up": 4096, "down": 10240, "spliced": 0, "lost": 0})
    shown = view(now, (before, 2.0))
    total, one, two, tap = (dict(zip(shown.columns, row, strict=True)) for row in shown.rows)
    assert (total["NEW/s"], total["UP/s"], total["DOWN/s"]) == ("10", "2.00 KiB/s", "5.00 KiB/s")
    assert (one["NEW/s"], one["UP/s"], one["DOWN/s"]) == ("0.0", "0 B/s", "500 B/s")
    assert two["UP/s"] == "0 B/s"  # a proxy that was begun anew counts from 0
    assert (tap["UP/s"], tap["DOWN/s"]) == ("0 B/s", "-")
    assert line(now, (before, 2.0)) == (
        "db: 3 open, 40 served, 5 refused, up 4.00 KiB (2.00 KiB/s), down 10.0 KiB (5.00 KiB/s),"
        " 1 of 2 upstreams up"
    )


def test_upstreams_that_a_reload_has_changed_have_no_rate_yet() -> None:
    before = snapshot(upstreams=[upstream("one:1")])
    shown = view(snapshot(), (before, 2.0))
    assert [row[shown.columns.index("UP/s")] for row in shown.rows[1:3]] == ["-", "-"]


def test_names_from_elsewhere_steer_no_terminal() -> None:
    evil = "\x1b]0;owned\x07\n\u202e"
    told = snapshot(
        name=evil,
        listeners=[evil],
        state=evil,
        upstreams=[upstream(evil, state=evil), upstream(evil)],
        connections={
            "active": 1,
            "accepted": 1,
            "max": 1,
            "closed": {evil: 1},
            "refused": {evil: 1},
        },
    )
    told["mirrors"][0] = {**told["mirrors"][0], "name": evil, "given_up": {evil: 1}}
    assert all(each.isprintable() for each in as_text(view(told)).split("\n"))
    assert line(told).isprintable()
    assert len(as_text(view(told)).splitlines()) == len(as_text(view(snapshot())).splitlines())


@pytest.mark.parametrize("width", [200, 140, 100, 80, 60, 50])
def test_a_narrow_terminal_loses_columns_and_no_digits(width: int) -> None:
    from io import StringIO

    from rich.console import Console

    busy = upstream("a-long-name.of.an.upstream.example.org:5432", connections=10**9, up=2**60)
    told = snapshot(upstreams=[busy])
    shown = view(told, (snapshot(upstreams=[{**busy, "up": 0}]), 1.0))
    out = StringIO()
    Console(file=out, width=width).print(as_rich(shown, width))
    _, columns, *rows = out.getvalue().splitlines()
    names = columns.split()
    assert {"OPEN", "NEW/s", "UP/s", "DOWN/s"} <= set(names)
    assert ("SERVED" in names) == (width >= 140)
    assert max(map(len, out.getvalue().splitlines())) <= width
    name = rows[1].split()[1]
    assert busy["name"].startswith(name.removesuffix("…"))
    assert "…" not in rows[1].replace(name, "")
    assert "1.00 EiB/s" in rows[1]


def test_a_line_for_a_signal_is_had_without_a_display() -> None:
    loop = Loop()
    counted = snapshot()
    shown = ProxyProgress(loop, lambda: counted, "never", False)
    counted = snapshot(state="draining", name="")
    assert shown.line().startswith("127.0.0.1:5432: draining, 3 open, 40 served, 5 refused, up ")
    shown.close()
    loop.close()


SCRIPT = """
import sys
from tests.proxy.test_metrics import snapshot
from zpipe.commands import proxy_progress
from zpipe.proxy.loop import Loop
proxy_progress._INTERVAL = 0.05
looks = 0
def look():
    global looks
    looks += 1
    if looks == 3:  # the first one is for the rates
        loop.stop()
    return snapshot()
loop = Loop()
shown = proxy_progress.ProxyProgress(loop, look, sys.argv[1], "quiet" in sys.argv)
loop.later(float(sys.argv[2]), loop.stop)
loop.run()
shown.close()
loop.close()
"""


def test_lines_are_told_each_second_where_they_are_asked_for() -> None:
    """And otherwise nothing, on a stderr that is no terminal."""
    cases = (
        (["always", str(LONGEST)], 2),
        (["auto", "0.3"], 0),
        (["always", "0.3", "quiet"], 0),
        (["never", "0.3"], 0),
    )
    for words, count in cases:
        done = subprocess.run(
            [ZPIPE[0], "-c", SCRIPT, *words],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=LONGEST,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "")
        lines = done.stderr.splitlines()
        assert len(lines) == count, done.stderr
        assert all(each.startswith("zpipe: db: 3 open, 40 served, ") for each in lines)


def on_terminal(*words: str, until_seen: bytes) -> tuple[subprocess.Popen[bytes], bytes]:
    """Run a command on a terminal of its own until it has written something; then interrupt it."""
    main, other = os.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [need("setsid"), "--ctty", "--wait", *words],
        env=environment(TERM="xterm-256color"),
        stdin=other,
        stdout=other,
        stderr=other,
    )
    os.close(other)
    seen = bytearray()
    interrupted = False
    try:
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:
                break  # EIO: all have left the terminal
            seen += part
            if until_seen in seen and not interrupted:
                interrupted = True
                os.write(main, b"\x03")
        process.wait(LONGEST)
    finally:
        os.close(main)
        if process.poll() is None:
            process.kill()
            process.wait()
    return process, bytes(seen)


def test_a_terminal_shows_a_table_that_is_gone_at_the_end() -> None:
    _, seen = on_terminal(ZPIPE[0], "-c", SCRIPT, "auto", str(LONGEST), until_seen=b"never written")
    assert b"127.0.0.1:5432" in seen
    assert b"DOWN/s" in seen
    assert seen.endswith(b"\x1b[2K")  # its lines are erased


# the command


def test_the_command_shows_the_one_at_an_address() -> None:
    with serving() as server:
        where = f"127.0.0.1:{server.port}"
        done = zpipe("status", where)
        assert (done.returncode, done.stderr) == (0, b"")
        assert TABLE.splitlines()[1].split() == done.stdout.decode().splitlines()[3].split()
        done = zpipe("status", "--json", where)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == snapshot()


def test_the_command_finds_the_proxies_of_this_user() -> None:
    with proxy():
        done = zpipe("status", "--json")
        found = [json.loads(each) for each in done.stdout.splitlines()]
        assert snapshot() in found
        assert f"proxy db (pid {os.getpid()})" in zpipe("status").stdout.decode()


def test_where_there_is_none_the_command_says_so() -> None:
    """In a network namespace of its own: elsewhere somebody's proxy may run."""
    need_root()
    done = zpipe("status", before=[need("unshare"), "--net"])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"zpipe: status: no proxy of this user is running here\n"


def test_a_proxy_that_answers_nonsense_is_told_of_beside_the_others() -> None:
    """Its number is that of a process that there cannot be."""
    name = "@zpipe-proxy-4194305"
    with socket.socket(socket.AF_UNIX) as listener, proxy():
        listener.bind(f"\0{name[1:]}")
        listener.listen()

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                client.sendall(b"nonsense")

        thread = threading.Thread(target=serve)
        thread.start()
        done = zpipe("status")
        thread.join(LONGEST)
    assert f"proxy db (pid {os.getpid()})" in done.stdout.decode()
    assert done.returncode == 1
    # among others: on this machine there may be more that have something to hide
    said = done.stderr.decode().splitlines()
    assert f"zpipe: {name}: ask: the answer is no snapshot of a proxy" in said


def test_watching_shows_rates_until_interrupted() -> None:
    made: list[int] = []

    def make() -> Snapshot:
        made.append(1)
        moved = {"up": len(made) << 20, "down": 0, "spliced": 0, "lost": 0}
        return snapshot(bytes=moved)

    with proxy(make) as (where, _):
        with started("status", "--watch", "--interval", "50ms", "--json") as process:
            assert process.stdout is not None
            for _ in range(3):
                while json.loads(process.stdout.readline())["pid"] != os.getpid():
                    pass
            process.send_signal(signal.SIGINT)
            assert process.wait(LONGEST) == -signal.SIGINT
        with started("status", "--watch", "--interval", "50ms") as process:
            assert process.stdout is not None
            seen = b""
            while not re.search(rb"running .* MiB +[\d.]+ [KM]iB/s ", seen):
                seen += process.stdout.readline()
        assert where in find()


def test_watching_on_a_terminal_draws_in_place() -> None:
    with serving() as server:
        process, seen = on_terminal(
            *(*ZPIPE, "status", "--watch", f"127.0.0.1:{server.port}"), until_seen=b"DOWN/s"
        )
    assert b"\x1b[1A" in seen  # up again, and over it
    assert process.returncode == 128 + signal.SIGINT or process.returncode == -signal.SIGINT


def test_a_proxy_that_ends_ends_the_watching_of_it() -> None:
    with serving() as server:
        where = f"127.0.0.1:{server.port}"
        with started("status", "--watch", "--interval", "20ms", where) as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            server.close()
            drain = threading.Thread(target=process.stdout.read)
            drain.start()
            assert process.wait(LONGEST) == 1
            drain.join()
            assert process.stderr is not None
            said = process.stderr.read().decode()
    assert re.fullmatch(rf"zpipe: {where}: (connect|ask): .+\n", said)


def test_what_makes_no_sense_is_refused() -> None:
    done = zpipe("status", "--interval", "1s")
    assert done.returncode == 2
    assert b"--interval: has no effect without --watch" in done.stderr
    assert zpipe("status", "nonsense").returncode == 2
    assert zpipe("status", "a:1", "b:2").returncode == 2


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    with serving() as server:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as gone:
            done = zpipe("status", f"127.0.0.1:{server.port}", stdout=gone)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")
