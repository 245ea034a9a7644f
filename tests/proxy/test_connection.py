"""Connections through a real `zpipe proxy`: bytes, ends, times and limits."""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, content, environment, until
from tests.proxy.proxying import (
    Proxy,
    Server,
    connected,
    echo,
    exactly,
    proxying,
    received,
    reset,
    sending,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY = 3 << 20
SIZES = [0, 1, 2, 4095, 4096, 4097, 65535, 65536, 65537, 131071, (1 << 20) + 1, MANY]


def digest(end: socket.socket) -> None:
    """Take everything, and answer with how much it was and its SHA-256."""
    whole = received(end)
    end.sendall(len(whole).to_bytes(8, "big") + hashlib.sha256(whole).digest())


def judged(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + hashlib.sha256(data).digest()


class Plain:
    """A proxy without options that tests share, and the server behind it."""

    def __init__(self, server: Server, proxy: Proxy):
        self.server = server
        self.proxy = proxy


@pytest.fixture(scope="module")
def plain_one() -> Iterator[Plain]:
    with serving(echo) as server, proxying(server.text) as proxy:
        yield Plain(server, proxy)


@pytest.fixture
def plain(plain_one: Plain) -> Iterator[Plain]:
    yield plain_one
    plain_one.server.until_quiet()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sockets")


@pytest.fixture
def everywhere(everywhere_one: Plain) -> Iterator[Plain]:
    yield everywhere_one
    everywhere_one.server.until_quiet()


@pytest.fixture(scope="module", params=["tcp", "unix", "no-splice"])
def everywhere_one(request: pytest.FixtureRequest, folder: Path) -> Iterator[Plain]:
    """A proxy that listens at addresses of every kind."""
    way = request.param
    listen = (
        "127.0.0.1:0",
        "[::1]:0",
        f"unix:{folder}/proxy-{way}",
        f"unix:@zpipe-test-{os.getpid()}-{way}",
    )
    where = f"unix:{folder}/server" if way == "unix" else "127.0.0.1:0"
    options = ["--no-splice"] if way == "no-splice" else []
    with serving(echo, where) as server, proxying(server.text, *options, listen=listen) as proxy:
        yield Plain(server, proxy)


# Bytes


@pytest.mark.parametrize("listener", [0, 1, 2, 3], ids=["v4", "v6", "unix", "abstract"])
def test_all_that_is_sent_arrives_and_comes_back(everywhere: Plain, listener: int) -> None:
    proxy = everywhere.proxy
    before = proxy.until_idle()["bytes"]
    for size in SIZES:
        data = content(MANY)[:size]
        with proxy.connect(listener) as client, sending(client, data):
            assert received(client) == data
    after = proxy.until_idle()["bytes"]
    assert after["up"] - before["up"] == after["down"] - before["down"] == sum(SIZES)
    assert after["lost"] == before["lost"]
    spliced = after["spliced"] - before["spliced"]
    assert (spliced > 0) == ("--no-splice" not in str(proxy.process.args))


@pytest.mark.parametrize("listener", [0, 2], ids=["v4", "unix"])
def test_messages_of_all_kinds_in_turn(everywhere: Plain, listener: int) -> None:
    with everywhere.proxy.connect(listener) as client:
        for size in [1] * 100 + [4096] * 50 + [1 << 20, 1, 300_000, 1, 4096, 65536] * 2:
            data = content(MANY)[:size]
            sender = threading.Thread(target=client.sendall, args=(data,))
            sender.start()
            assert exactly(client, size) == data
            sender.join()


def test_what_the_server_sees_is_what_was_sent(plain: Plain) -> None:
    with plain.server.answering(digest):
        for size in SIZES:
            with plain.proxy.connect() as client, sending(client, content(MANY)[:size]):
                assert received(client) == judged(content(MANY)[:size])


def test_reads_through_a_narrow_window_lose_nothing(plain: Plain) -> None:
    data = content(MANY)
    with plain.server.answering(lambda end: end.sendall(data)), socket.socket() as client:
        client.settimeout(LONGEST / 2)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        client.connect(("127.0.0.1", int(plain.proxy.listeners[0].rpartition(":")[2])))
        assert received(client) == data


# Ends


def test_a_client_that_has_said_all_gets_a_late_answer(plain: Plain) -> None:
    asked, go = threading.Event(), threading.Event()

    def late(end: socket.socket) -> None:
        assert received(end) == b"question"
        asked.set()
        assert go.wait(LONGEST / 2)
        end.sendall(content(MANY))

    with plain.server.answering(late), plain.proxy.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert asked.wait(LONGEST / 2)
        assert plain.proxy.snapshot()["connections"]["active"] == 1
        go.set()
        assert received(client) == content(MANY)


def test_a_server_that_ends_first_still_gets_all_the_client_says(plain: Plain) -> None:
    heard: list[bytes] = []

    def short(end: socket.socket) -> None:
        end.sendall(b"enough")
        end.shutdown(socket.SHUT_WR)
        heard.append(received(end))

    with plain.server.answering(short):
        with plain.proxy.connect() as client:
            assert received(client) == b"enough"
            client.sendall(content(MANY))
        until(lambda: heard, "the server has heard all")
    assert heard == [content(MANY)]


def test_an_answer_arrives_whole_though_the_server_has_closed_long_ago(plain: Plain) -> None:
    """Something sent to a closed server comes back as a reset, which must not cut the answer."""
    data = content(1 << 20)
    answered = threading.Event()

    def answer(end: socket.socket) -> None:
        exactly(end, 1)
        end.sendall(data)
        end.close()
        answered.set()

    with plain.server.answering(answer), plain.proxy.connect() as client:
        client.sendall(b"?")
        assert answered.wait(LONGEST / 2)
        until(lambda: not still_sends(plain.server.text), "the proxy's kernel has all of it")
        client.sendall(b"too late")
        assert received(client) == data


def still_sends(place: str) -> bool:
    """Tell whether a socket at a port of 127.0.0.1 was closed with bytes that are not acknowledged
    yet: a reset would destroy them.
    """
    port = f":{int(place.rpartition(':')[2]):04X}"
    with open("/proc/net/tcp") as table:
        ends = [line.split() for line in table]
    return any(end[1].endswith(port) and end[3] == "04" for end in ends)  # TCP_FIN_WAIT1


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_a_reset_arrives_as_a_reset_after_all_that_was_sent(plain: Plain, who: str) -> None:
    outcome: list[object] = []
    told = threading.Event()

    def take(end: socket.socket) -> None:
        outcome.append(exactly(end, 100_000))
        told.set()
        try:
            outcome.append(end.recv(1))
        except ConnectionResetError as error:
            outcome.append(type(error))

    def give(end: socket.socket) -> None:
        end.sendall(content(100_000))
        assert told.wait(LONGEST / 2)
        reset(end)

    before = plain.proxy.snapshot()["connections"]["closed"].get(f"{who}-reset", 0)
    serve, act = (take, give) if who == "client" else (give, take)
    with plain.server.answering(serve), plain.proxy.connect() as client:
        act(client)
        found = plain.proxy.until_closed(f"{who}-reset", before + 1)
        until(lambda: len(outcome) == 2, "the other side has seen it")
    assert outcome == [content(100_000), ConnectionResetError]
    assert found["connections"]["active"] == 0


@pytest.mark.parametrize("who", ["client", "upstream"])
def test_what_came_with_a_reset_is_delivered_before_it(plain: Plain, who: str) -> None:
    """The reset follows the data at once; both are there when the proxy looks."""
    outcome: list[object] = []

    def take(end: socket.socket) -> None:
        outcome.append(exactly(end, 5))
        with suppress(ConnectionResetError):
            outcome.append(end.recv(1))

    def give(end: socket.socket) -> None:
        end.sendall(b"words")
        reset(end)

    def give_when_asked(end: socket.socket) -> None:
        exactly(end, 1)  # a reset within connect() would be its error
        give(end)

    for _ in range(20):
        outcome.clear()
        serve = take if who == "client" else give_when_asked
        with plain.server.answering(serve), plain.proxy.connect() as client:
            if who == "client":
                give(client)
            else:
                client.sendall(b"?")
                take(client)
            until(lambda: outcome, "it has arrived")
        assert outcome[0] == b"words"


def test_bytes_that_a_reset_destroys_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    go = threading.Event()

    def never_reads(end: socket.socket) -> None:
        assert go.wait(LONGEST / 2)
        reset(end)

    options = ("--access-log", log, "--access-format", "json")
    with serving(never_reads) as server, proxying(server.text, *options) as proxy:
        with proxy.connect() as client:
            client.settimeout(0.2)
            sent = 0
            with suppress(TimeoutError):
                while True:
                    sent += client.send(content(1 << 20))
            proxy.until(lambda one: one["pipes"]["borrowed"], "it holds some of that")
            go.set()
            found = proxy.until_closed("upstream-reset")
        assert found["bytes"]["lost"] > 0
        assert found["bytes"]["up"] + found["bytes"]["lost"] <= sent
        assert found["pipes"]["borrowed"] == 0
        until(lambda: log.exists() and log.read_text().endswith("\n"), "it is logged")
        [line] = map(json.loads, log.read_text().splitlines())
        assert line["reason"] == "upstream-reset"
        assert line["up"] == found["bytes"]["up"]


@pytest.mark.parametrize("listener", [0, 2], ids=["tcp", "unix"])
def test_urgent_data_is_data(everywhere: Plain, listener: int) -> None:
    bulk = content(400_000)
    for before, after in ((b"", b""), (b"a", b""), (b"", b"b"), (bulk, bulk), (bulk, b"")):

        def send(end: socket.socket, before: bytes = before, after: bytes = after) -> None:
            end.sendall(before)
            end.send(b"!", socket.MSG_OOB)
            end.sendall(after)
            end.shutdown(socket.SHUT_WR)

        with everywhere.proxy.connect(listener) as client:
            sender = threading.Thread(target=send, args=(client,))
            sender.start()
            assert received(client) == before + b"!" + after
            sender.join()
        with everywhere.server.answering(send), everywhere.proxy.connect(listener) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            assert received(client) == before + b"!" + after


# Times


def test_what_is_half_closed_for_too_long_is_ended() -> None:
    silent = threading.Event()
    with (
        serving(lambda end: silent.wait(LONGEST / 2)) as server,
        proxying(server.text, "--half-closed-timeout", "100ms") as proxy,
        proxy.connect() as open_,
        proxy.connect() as client,
    ):
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        found = proxy.until_closed("half-closed")
        assert found["connections"]["active"] == 1
        assert open_.fileno() >= 0
        silent.set()


def test_a_half_closed_connection_in_which_bytes_move_goes_on() -> None:
    """It is the silent one that is ended: a long answer may take its time."""
    go, over = threading.Semaphore(0), threading.Event()

    def serve(end: socket.socket) -> None:
        if received(end) == b"talk":
            while go.acquire(timeout=LONGEST / 2) and not over.is_set():
                end.sendall(b"still here")
        else:
            end.recv(1)

    with (
        serving(serve) as server,
        proxying(server.text, "--half-closed-timeout", "2s") as proxy,
        proxy.connect() as active,
    ):
        active.sendall(b"talk")
        active.shutdown(socket.SHUT_WR)
        with proxy.connect() as silent:
            silent.shutdown(socket.SHUT_WR)
            while not proxy.snapshot()["connections"]["closed"]:
                go.release()
                assert exactly(active, 10) == b"still here"
        go.release()
        assert exactly(active, 10) == b"still here"
        assert proxy.snapshot()["connections"]["active"] == 1
        over.set()
        go.release()


@pytest.mark.parametrize("which", ["nothing moves", "the reader has stopped"])
def test_an_idle_connection_is_ended_but_not_an_active_one(which: str) -> None:
    done = threading.Event()

    def serve(end: socket.socket) -> None:
        if exactly(end, 1) == b"e":
            echo(end)
        else:
            done.wait(LONGEST / 2)

    with (
        serving(serve) as server,
        proxying(server.text, "--idle-timeout", "2s") as proxy,
        proxy.connect() as active,
        proxy.connect() as idle,
    ):
        active.sendall(b"e")
        idle.sendall(b"i")
        if which != "nothing moves":
            idle.settimeout(0.1)
            with suppress(OSError):
                while idle.send(content(1 << 20)):
                    pass
        while not proxy.snapshot()["connections"]["closed"].get("idle"):
            for _ in range(20):
                active.sendall(b"still here")
                assert exactly(active, 10) == b"still here"
        found = proxy.snapshot()["connections"]
        assert (found["closed"], found["active"]) == ({"idle": 1}, 1)
        done.set()


def test_an_old_connection_is_ended_though_it_is_active() -> None:
    with (
        serving(echo) as server,
        proxying(server.text, "--max-lifetime", "200ms") as proxy,
        proxy.connect() as client,
    ):
        with suppress(ConnectionError):
            while True:
                client.sendall(b"still here")
                if not exactly(client, 10):
                    break
        assert proxy.until_closed("lifetime")["connections"]["active"] == 0


def test_what_is_cut_off_by_its_age_does_not_look_complete() -> None:
    """Half an answer that ends as a whole one does would be taken for it."""

    def endless(end: socket.socket) -> None:
        with suppress(OSError):
            while True:
                end.sendall(content(1 << 20))

    with (
        serving(endless) as server,
        proxying(server.text, "--max-lifetime", "200ms") as proxy,
        proxy.connect() as client,
        pytest.raises(ConnectionResetError),
    ):
        while client.recv(1 << 20):
            pass


# Limits


def turned_away(proxy: Proxy, host: str = "127.0.0.1") -> bool:
    """Tell whether a client from an address of this machine is not served by an echo."""
    port = int(proxy.listeners[0].rpartition(":")[2])
    try:
        # the reset may come before connect() has returned
        with socket.create_connection(("127.0.0.1", port), LONGEST / 2, (host, 0)) as client:
            client.sendall(b"in")
            return exactly(client, 2) != b"in"
    except ConnectionError:
        return True


def test_clients_beyond_the_limit_are_refused() -> None:
    with (
        serving(echo) as server,
        proxying(server.text, "--max-connections", "2", "--when-full", "refuse") as proxy,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(proxy.connect()) for _ in range(2)]
        for client in clients:
            client.sendall(b"in")
            assert exactly(client, 2) == b"in"
        for _ in range(3):
            assert turned_away(proxy)
        assert proxy.snapshot()["connections"]["refused"] == {"full": 3}
        clients[0].close()
        proxy.until(lambda one: one["connections"]["active"] == 1, "one has gone")
        with proxy.connect() as client:
            client.sendall(b"in")
            assert exactly(client, 2) == b"in"


def test_clients_beyond_the_limit_wait_their_turn() -> None:
    with (
        serving(echo) as server,
        proxying(server.text, "--max-connections", "2") as proxy,
        ExitStack() as stack,
    ):
        clients = [stack.enter_context(proxy.connect()) for _ in range(10)]
        for client in clients:
            client.sendall(b"question")
        for number, client in enumerate(clients):
            assert exactly(client, 8) == b"question"
            assert server.count <= number + 2
            client.close()
        found = proxy.until_idle()["connections"]
        assert (found["accepted"], found["refused"], found["max"]) == (10, {}, 2)


def test_those_who_wait_get_in_when_a_timeout_makes_room() -> None:
    with (
        serving(echo) as server,
        proxying(server.text, "--max-connections", "1", "--idle-timeout", "1s") as proxy,
        proxy.connect() as first,
    ):
        first.sendall(b"in")
        assert exactly(first, 2) == b"in"
        with proxy.connect() as second:
            second.sendall(b"in")
            assert exactly(second, 2) == b"in"


def test_one_address_has_no_more_than_its_share() -> None:
    def at(proxy: Proxy, host: str) -> socket.socket:
        port = int(proxy.listeners[0].rpartition(":")[2])
        end = socket.create_connection(("127.0.0.1", port), LONGEST / 2, (host, 0))
        end.sendall(b"in")
        return end

    with serving(echo) as server, proxying(server.text, "--per-source", "2") as proxy:
        with at(proxy, "127.0.0.1") as one, at(proxy, "127.0.0.1") as two:
            assert exactly(one, 2) == exactly(two, 2) == b"in"
            assert turned_away(proxy)
            assert not turned_away(proxy, "127.0.0.2")
        found = proxy.until_idle()["connections"]
        assert found["refused"] == {"per-source": 1}
        assert not turned_away(proxy)


@pytest.mark.parametrize(
    ("options", "welcome"),
    [
        (["--allow", "127.0.0.0/30"], {"127.0.0.1", "127.0.0.2"}),
        (["--deny", "127.0.0.2"], {"127.0.0.1", "127.0.0.9"}),
        (["--allow", "127.0.0.0/8", "--deny", "127.0.0.1", "--deny", "127.0.0.9"], {"127.0.0.2"}),
    ],
)
def test_only_addresses_that_are_allowed_come_in(options: list[str], welcome: set[str]) -> None:
    with serving(echo) as server, proxying(server.text, *options) as proxy:
        hosts = ("127.0.0.1", "127.0.0.2", "127.0.0.9")
        assert {host for host in hosts if not turned_away(proxy, host)} == welcome
        assert server.count == len(welcome)
        found = proxy.until_idle()["connections"]
        assert found["refused"] == {"denied": 3 - len(welcome)}


@pytest.mark.parametrize("splice", [[], ["--no-splice"]], ids=["splice", "copy"])
def test_a_rate_limits_what_passes_and_changes_nothing(splice: list[str]) -> None:
    data = content(2 << 20)
    with (
        serving(digest) as server,
        proxying(server.text, "--rate-limit", "4M/s", *splice) as proxy,
    ):
        start = time.monotonic()
        with proxy.connect() as client, sending(client, data):
            assert received(client) == judged(data)
        # a twentieth of a second's worth goes at once, and a call may overdraw by as much
        assert time.monotonic() - start > 0.3


def test_a_total_rate_is_shared() -> None:
    data = content(1 << 20)
    with (
        serving(digest) as server,
        proxying(server.text, "--total-rate-limit", "5M/s") as proxy,
        ExitStack() as stack,
    ):
        start = time.monotonic()
        clients = [stack.enter_context(proxy.connect()) for _ in range(3)]
        with sending(clients[0], data), sending(clients[1], data), sending(clients[2], data):
            for client in clients:
                assert received(client) == judged(data)
        assert time.monotonic() - start > 0.4


# Many


def test_churn_mixes_nothing_up(plain: Plain) -> None:
    """Fds are closed and made again in every batch, and each answer must be one's own."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for turn in range(60):
                message = b"%d %d " % (number, turn) * (1 + turn * 37 % 2000)
                with plain.proxy.connect() as client:
                    if turn % 7 == 3:
                        reset(client)
                        continue
                    client.sendall(message)
                    if turn % 7 == 5:
                        continue  # closed over the answer: a reset by the kernel
                    client.shutdown(socket.SHUT_WR)
                    assert received(client) == message
        except BaseException as error:
            failures.append(error)

    before = plain.proxy.until_idle()
    fds = len(plain.proxy.fds())
    threads = [threading.Thread(target=run, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
    if failures:
        raise failures[0]
    all_ = before["connections"]["accepted"] + 16 * 60
    plain.proxy.until(lambda one: one["connections"]["accepted"] == all_, "all were accepted")
    found = plain.proxy.until_idle()
    assert found["pipes"]["borrowed"] == 0
    kept = 2 * (found["pipes"]["kept"] - before["pipes"]["kept"])
    assert len(plain.proxy.fds()) == fds + kept


def test_bulk_does_not_starve_a_small_conversation(plain: Plain) -> None:
    stop = threading.Event()

    def endless(end: socket.socket) -> None:
        if exactly(end, 1) == b"s":
            echo(end)
            return
        part = content(1 << 20)
        with suppress(OSError):
            while not stop.is_set():
                end.sendall(part)

    def take(end: socket.socket) -> None:
        with suppress(OSError):
            while end.recv(1 << 20):
                pass

    with ExitStack() as stack:
        stack.enter_context(plain.server.answering(endless))
        sinks = []
        for _ in range(2):
            bulk = stack.enter_context(plain.proxy.connect())
            bulk.sendall(b"b")
            sinks.append(threading.Thread(target=take, args=(bulk,)))
            sinks[-1].start()
        try:
            with plain.proxy.connect() as client:
                client.sendall(b"s")
                before = plain.proxy.snapshot()["bytes"]["spliced"]
                for number in range(300):
                    client.sendall(b"%9d" % number)
                    assert exactly(client, 9) == b"%9d" % number
                assert plain.proxy.snapshot()["bytes"]["spliced"] > before
        finally:
            stop.set()
            for sink in sinks:
                sink.join(LONGEST)


def test_an_idle_connection_costs_two_fds_and_no_wakeup() -> None:
    """While one proxy rests, another one carries thousands of messages."""
    with (
        serving(echo) as server,
        proxying(server.text, "--connect-timeout", "50ms") as proxy,
        ExitStack() as stack,
    ):
        fds = proxy.fds()
        clients = [stack.enter_context(proxy.connect()) for _ in range(100)]
        for client in clients:
            client.sendall(b"hello")
            assert exactly(client, 5) == b"hello"
        now = proxy.fds()
        assert len(now) == len(fds) + 200
        assert sum(one.startswith("pipe:") for one in now) == sum(
            one.startswith("pipe:") for one in fds
        )
        with proxying(server.text) as other, other.connect() as busy:

            def rested() -> bool:
                waits, used = proxy.waits(), proxy.cpu()
                for _ in range(2000):
                    busy.sendall(b"x")
                    assert exactly(busy, 1) == b"x"
                return (proxy.waits(), proxy.cpu()) == (waits, used)

            # at first the timer of the connects has still to go off
            until(rested, "it rests")


# Who is not there


def test_the_next_upstream_serves_when_one_refuses() -> None:
    with serving(echo) as dead, serving(echo) as server:
        dead.stop()
        with proxying("--balance", "first", dead.text, server.text) as proxy:
            for _ in range(5):
                with proxy.connect() as client:
                    client.sendall(b"x")
                    assert exactly(client, 1) == b"x"
            found = proxy.until_idle()
    assert found["retried"] >= 1
    assert found["connections"]["closed"] == {"closed": 5}
    assert [one["failures"] > 0 for one in found["upstreams"]] == [True, False]


def test_a_client_is_reset_when_nobody_serves_and_served_later() -> None:
    with serving(echo) as server:
        server.stop()
        with proxying(server.text) as proxy:
            with pytest.raises(ConnectionResetError), proxy.connect() as client:
                client.recv(1)
            proxy.until_closed("no-upstream")
            with serving(echo, server.text) as back:
                until(lambda: not turned_away(proxy), "it goes to the upstream that is back")
                assert back.count >= 1


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A listener whose backlog is full: what it is sent is dropped, and nothing is refused."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        while True:
            end = stack.enter_context(socket.socket())
            end.setblocking(False)
            end.connect_ex(listener.getsockname())
            if not select.select([], [end], [], 0.2)[1]:
                break
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_next_upstream_serves_when_one_does_not_answer(black_hole: str) -> None:
    with serving(echo) as server:
        options = ("--connect-timeout", "300ms", "--balance", "first")
        with proxying(*options, black_hole, server.text) as proxy, proxy.connect() as client:
            # all of it, and the end, are there long before somebody takes them
            with sending(client, content(100_000)):
                assert received(client) == content(100_000)
            assert proxy.snapshot()["retried"] == 1


def test_a_client_is_let_go_when_nobody_answers_in_time(black_hole: str) -> None:
    start = time.monotonic()
    with proxying("--connect-timeout", "300ms", black_hole) as proxy, proxy.connect() as client:
        client.sendall(b"hello")
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert time.monotonic() - start >= 0.3
        found = proxy.until_closed("no-upstream")
        assert found["connections"]["active"] == 0


def test_a_client_may_leave_before_anybody_answers(black_hole: str) -> None:
    with proxying("--connect-timeout", "300ms", black_hole) as proxy:
        fds = len(proxy.fds())
        for leave in (socket.socket.close, reset):
            client = proxy.connect()
            client.sendall(b"hello")
            leave(client)
        proxy.until(lambda one: one["connections"]["accepted"] == 2, "both were accepted")
        proxy.until_idle()
        assert len(proxy.fds()) == fds


# Who dies


def test_a_server_that_is_killed_ends_its_connections() -> None:
    code = (
        "import socket\n"
        "end = socket.create_server(('127.0.0.1', 0))\n"
        "print(end.getsockname()[1], flush=True)\n"
        "one, _ = end.accept()\n"
        "one.sendall(b'x' * 300_000)\n"
        "while one.recv(10): pass\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        try:
            port = int(run.stdout.readline())
            with proxying(f"127.0.0.1:{port}") as proxy, proxy.connect() as client:
                client.sendall(b"question")
                assert exactly(client, 300_000) == b"x" * 300_000
                run.kill()
                with suppress(ConnectionResetError):
                    assert client.recv(1) == b""
                client.close()
                assert proxy.until_idle()["connections"]["accepted"] == 1
        finally:
            run.kill()


def test_a_thousand_clients_killed_at_once_are_all_gone(plain: Plain) -> None:
    code = (
        "import socket, sys, time\n"
        "ends = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(1000)]\n"
        "for end in ends: end.sendall(b'hello')\n"
        "for end in ends: end.recv(5, socket.MSG_WAITALL)\n"
        "for end in ends[::3]: end.sendall(b'unread')\n"  # these ones are reset
        "print('there', flush=True)\n"
        "time.sleep(60)\n"
    )
    before = plain.proxy.until_idle()
    fds = len(plain.proxy.fds())
    port = plain.proxy.listeners[0].rpartition(":")[2]
    with subprocess.Popen(
        [sys.executable, "-c", code, port], stdout=subprocess.PIPE, env=environment()
    ) as run:
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == b"there\n"
            found = plain.proxy.snapshot()
            assert found["connections"]["active"] == 1000
            assert len(plain.proxy.fds()) == fds + 2000
        finally:
            run.kill()
    after = plain.proxy.until_idle()
    kept = 2 * (after["pipes"]["kept"] - before["pipes"]["kept"])
    assert len(plain.proxy.fds()) == fds + kept
    assert after["upstreams"][0]["active"] == 0
    closed, earlier = after["connections"]["closed"], before["connections"]["closed"]
    assert sum(closed.values()) - sum(earlier.values()) == 1000


def test_the_proxy_that_is_killed_takes_its_connections_with_it() -> None:
    seen: list[bytes] = []

    def serve(end: socket.socket) -> None:
        with suppress(ConnectionResetError):
            seen.append(received(end))

    with serving(serve) as server, proxying(server.text) as proxy:
        with connected(proxy.listeners[0]) as client:
            client.sendall(b"so far")
            proxy.until(lambda one: one["bytes"]["up"] == 6, "it has passed")
            proxy.process.kill()
            with suppress(ConnectionResetError):
                assert client.recv(1) == b""
        until(lambda: seen, "the server has noticed")
    assert seen == [b"so far"]
