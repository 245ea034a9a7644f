"""Several processes that serve one proxy: they share, are replaced, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, strace, until, zpipe
from tests.proxy.proxying import (
    Proxy,
    asked,
    connected,
    exactly,
    proxying,
    received,
    sending,
)
from zpipe.proxy.status import ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.proxy.proxying import Server


def has_ended(end: socket.socket) -> bool:
    """Wait for the end of a connection, or for an answer to something."""
    try:
        end.sendall(b"?")
        return end.recv(1) == b""
    except (ConnectionResetError, BrokenPipeError):
        return True


def workers(proxy: Proxy) -> list[int]:
    """Return the processes below the supervisor."""
    with open(f"/proc/{proxy.pid}/task/{proxy.pid}/children") as file:
        return [int(word) for word in file.read().split()]


def until_all_serve(proxy: Proxy, count: int) -> list[int]:
    """Wait until so many workers answer, and return them."""
    proxy.until(lambda one: one["workers"] == count, f"{count} workers answer")
    found = workers(proxy)
    assert len(found) == count
    return found


def sockets(pid: int) -> int:
    """Return how many sockets a process has; a connection is two of them."""
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/{pid}/fd/{fd}").startswith("socket:")
    return found


def has_gone(pid: int) -> bool:
    """Tell whether a process has ended; nobody may have waited for it yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def signalled(proxy: Proxy, number: int) -> None:
    """Send a signal once the loop runs, and with it the handlers are there."""
    proxy.snapshot()
    os.kill(proxy.pid, number)


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """Let processes hang; those that still do at the end are killed."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            if not has_gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_connections_are_spread_over_all_workers_and_add_up(
    upstream: Server, tmp_path: Path
) -> None:
    """That one of three gets none of 60 happens once in 10 billion times."""
    metrics = f"unix:{tmp_path}/metrics"
    with (
        proxying(upstream.text, "--workers=3", f"--metrics={metrics}") as proxy,
        ExitStack() as held,
    ):
        found = until_all_serve(proxy, 3)
        before = [sockets(pid) for pid in (proxy.pid, *found)]
        clients = [held.enter_context(proxy.connect()) for _ in range(60)]
        for number, client in enumerate(clients):
            assert asked(client, b"x" * (number + 1)) == b"x" * (number + 1)
        after = [sockets(pid) for pid in (proxy.pid, *found)]
        none, *each = [now - then for now, then in zip(after, before, strict=True)]
        assert none == 0
        assert all(each), f"one of them has nothing to do: {each}"
        assert sum(each) == 2 * len(clients)
        moved = sum(range(1, 61))
        for snapshot in (proxy.snapshot(), ask(metrics)):
            assert snapshot["workers"] == 3
            assert snapshot["pid"] == proxy.pid
            assert snapshot["listeners"] == proxy.listeners
            assert snapshot["connections"]["active"] == 60
            assert snapshot["connections"]["accepted"] == 60
            assert (snapshot["bytes"]["up"], snapshot["bytes"]["down"]) == (moved, moved)
            (server,) = snapshot["upstreams"]
            assert (server["active"], server["connections"]) == (60, 60)
            assert (server["up"], server["down"]) == (moved, moved)
        with connected(metrics) as scraper:
            scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            samples = received(scraper).decode().splitlines()
        active = [line for line in samples if "connections_active" in line and line[0] != "#"]
        assert {float(line.split()[-1]) for line in active} == {60.0}
        held.close()
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["closed"] == {"closed": 60}


def test_bulk_is_carried_by_each_of_them(upstream: Server) -> None:
    data = os.urandom(3 << 20)
    with proxying(upstream.text, "--workers=2") as proxy:
        for _ in range(4):
            with proxy.connect() as client, sending(client, data):
                assert received(client) == data
        snapshot = proxy.until_idle()
        assert snapshot["bytes"]["up"] == snapshot["bytes"]["down"] == 4 * len(data)


def test_clients_of_a_unix_listener_are_shared_too(upstream: Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        proxying(upstream.text, "--workers=3", listen=(f"unix:{path}",)) as proxy,
        ExitStack() as held,
    ):
        before = {pid: sockets(pid) for pid in until_all_serve(proxy, 3)}
        clients = [held.enter_context(proxy.connect()) for _ in range(30)]
        for client in clients:
            assert asked(client, b"x") == b"x"
        assert proxy.snapshot()["connections"]["active"] == 30
        victim = next(pid for pid, count in before.items() if sockets(pid) > count)
        os.kill(victim, signal.SIGKILL)
        until(lambda: victim not in workers(proxy), "it has ended")
        assert path.exists()  # what ends with a worker is its own connections only
        with proxy.connect() as client:
            assert asked(client, b"y") == b"y"
        held.close()
        signalled(proxy, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    assert not path.exists()


def test_a_worker_that_is_killed_is_replaced_and_costs_its_own_connections_only(
    upstream: Server,
) -> None:
    with proxying(upstream.text, "--workers=3") as proxy, ExitStack() as held:
        found = until_all_serve(proxy, 3)
        victim = found[1]
        before = sockets(victim)
        clients = [held.enter_context(proxy.connect()) for _ in range(60)]
        for client in clients:
            assert asked(client, b"x") == b"x"
        lost = (sockets(victim) - before) // 2
        assert proxy.snapshot()["connections"]["accepted"] == 60
        assert 0 < lost < 60
        os.kill(victim, signal.SIGKILL)
        ended = [client for client in clients if has_ended(client)]
        assert len(ended) == lost
        after = until_all_serve(proxy, 3)
        assert victim not in after
        assert set(found) - {victim} < set(after)
        until(
            lambda: any(b"ended by signal 9" in line for line in proxy.errors),
            "it tells of that",
        )
        (new,) = set(after) - set(found)
        before = sockets(new)
        # the new one serves, too: nobody waits at what the old one listened at
        for _ in range(60):
            clients.append(held.enter_context(proxy.connect()))
            assert asked(clients[-1], b"again") == b"again"
        assert sockets(new) > before
        # what the old one has counted is not forgotten: counters do not go backwards
        snapshot = proxy.snapshot()
        assert snapshot["connections"]["accepted"] == 120
        assert snapshot["connections"]["active"] == 120 - lost
        assert snapshot["upstreams"][0]["connections"] == 120
        assert snapshot["upstreams"][0]["active"] == 120 - lost


def test_clients_that_wait_for_a_killed_worker_are_served_by_the_next_one(
    upstream: Server,
) -> None:
    with proxying(upstream.text, "--workers=2") as proxy, ExitStack() as held:
        found = until_all_serve(proxy, 2)
        held.enter_context(stopped(*found))
        clients = [held.enter_context(proxy.connect()) for _ in range(20)]
        for client in clients:
            client.sendall(b"early")
        os.kill(found[0], signal.SIGKILL)
        os.kill(found[1], signal.SIGCONT)
        for client in clients:
            assert exactly(client, 5) == b"early"


def test_workers_end_when_the_supervisor_is_killed(upstream: Server) -> None:
    with proxying(upstream.text, "--workers=3") as proxy, proxy.connect() as client:
        found = until_all_serve(proxy, 3)
        assert asked(client, b"x") == b"x"
        os.kill(proxy.pid, signal.SIGKILL)
        until(lambda: sum(map(has_gone, found)) == 2, "those without connections have ended")
        assert asked(client, b"it is let finish") == b"it is let finish"
        with pytest.raises(ConnectionRefusedError):
            proxy.connect()
        client.close()
        until(lambda: all(map(has_gone, found)), "all have ended")


def test_sigterm_drains_all_of_them(upstream: Server) -> None:
    with (
        proxying(upstream.text, "--workers=3", "--drain-timeout=10m") as proxy,
        ExitStack() as held,
    ):
        found = until_all_serve(proxy, 3)
        clients = [held.enter_context(proxy.connect()) for _ in range(20)]
        for client in clients:
            assert asked(client, b"x") == b"x"
        signalled(proxy, signal.SIGTERM)
        proxy.until(lambda one: one["state"] == "draining", "they drain")
        with pytest.raises(ConnectionRefusedError):
            proxy.connect()
        for client in clients:
            assert asked(client, b"y") == b"y"
            client.close()
        assert proxy.process.wait(LONGEST) == 0
        assert all(map(has_gone, found))


def test_the_drain_timeout_cuts_the_connections_of_all(upstream: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--drain-timeout=100ms", "--access-log", log, "--access-format=json")
    with proxying(upstream.text, "--workers=2", *options) as proxy, ExitStack() as held:
        until_all_serve(proxy, 2)
        clients = [held.enter_context(proxy.connect()) for _ in range(20)]
        for client in clients:
            assert asked(client, b"x") == b"x"
        signalled(proxy, signal.SIGTERM)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        assert proxy.process.wait(LONGEST) == 0
    ends = [json.loads(line)["reason"] for line in log.read_text().splitlines()]
    assert ends == 20 * ["drained"]


def test_a_second_signal_ends_all_at_once(upstream: Server) -> None:
    with (
        proxying(upstream.text, "--workers=2", "--drain-timeout=10m") as proxy,
        proxy.connect() as client,
    ):
        found = until_all_serve(proxy, 2)
        assert asked(client, b"x") == b"x"
        signalled(proxy, signal.SIGTERM)
        proxy.until(lambda one: one["state"] == "draining", "they drain")
        os.kill(proxy.pid, signal.SIGINT)
        assert proxy.process.wait(LONGEST) == -signal.SIGINT
        assert has_ended(client)
        assert all(map(has_gone, found))


def test_a_second_signal_ends_it_even_if_a_worker_hangs(upstream: Server) -> None:
    with (
        proxying(upstream.text, "--workers=2", "--drain-timeout=10m") as proxy,
        proxy.connect() as client,
    ):
        found = until_all_serve(proxy, 2)
        assert asked(client, b"x") == b"x"
        signalled(proxy, signal.SIGTERM)
        proxy.until(lambda one: one["state"] == "draining", "they drain")
        with stopped(*(pid for pid in found if not has_gone(pid))):
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.process.wait(LONGEST / 4) == -signal.SIGTERM
        until(lambda: all(map(has_gone, found)), "all have ended")


def test_the_status_does_not_wait_for_ever_for_a_worker_that_hangs(upstream: Server) -> None:
    with proxying(upstream.text, "--workers=2") as proxy:
        found = until_all_serve(proxy, 2)
        with stopped(found[0]):
            assert proxy.snapshot()["workers"] == 1
            os.kill(found[0], signal.SIGCONT)
            # its late answer is not taken for the next one
            until_all_serve(proxy, 2)
            for number in range(1, 11):
                with proxy.connect() as client:
                    assert asked(client, b"x") == b"x"
                    assert proxy.snapshot()["connections"]["accepted"] == number
            assert workers(proxy) == found


def test_workers_end_together_when_all_are_idle(upstream: Server) -> None:
    """None ends alone, as the others would not accept what the kernel gives to its listener."""
    with (
        proxying(upstream.text, "--workers=2", "--exit-idle-time=2s") as proxy,
        proxy.connect() as held,
    ):
        found = until_all_serve(proxy, 2)
        waits = proxy.waits()
        assert asked(held, b"x") == b"x"
        until(lambda: proxy.waits() > waits + 6, "the idle time has passed")
        for _ in range(20):
            with proxy.connect() as client:
                assert asked(client, b"y") == b"y"
        assert workers(proxy) == found
        held.close()
        assert proxy.process.wait(LONGEST) == 0


def test_the_log_of_several_workers_has_whole_lines(upstream: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with proxying(
        upstream.text, "--workers=3", "--access-log", log, "--access-format=json"
    ) as proxy:
        until_all_serve(proxy, 3)

        def some() -> None:
            for number in range(100):
                with proxy.connect() as client:
                    asked(client, b"x" * (number + 1))

        threads = [threading.Thread(target=some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        proxy.until_idle()
        signalled(proxy, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 400
    assert Counter(line["up"] for line in lines) == dict.fromkeys(range(1, 101), 4)


def test_sighup_opens_the_log_of_each_anew(upstream: Server, tmp_path: Path) -> None:
    log, rotated = tmp_path / "log", tmp_path / "log.1"
    with proxying(upstream.text, "--workers=2", "--access-log", log) as proxy:
        found = until_all_serve(proxy, 2)
        log.rename(rotated)
        signalled(proxy, signal.SIGHUP)

        def all_have_it() -> bool:
            return all(
                any(
                    os.path.realpath(f"/proc/{pid}/fd/{fd}") == str(log)
                    for fd in os.listdir(f"/proc/{pid}/fd")
                )
                for pid in found
            )

        until(all_have_it, "each has opened it")
        for _ in range(20):
            with proxy.connect() as client:
                assert asked(client, b"x") == b"x"
        proxy.until_idle()
        signalled(proxy, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    assert log.read_text().count("\n") == 20
    assert rotated.read_text() == ""


def test_limits_are_those_of_all_together(upstream: Server) -> None:
    with (
        proxying(
            upstream.text, "--workers=2", "--max-connections=8", "--when-full=refuse"
        ) as proxy,
        ExitStack() as held,
    ):
        until_all_serve(proxy, 2)
        assert proxy.snapshot()["connections"]["max"] == 8
        served = 0
        for _ in range(40):
            with suppress(ConnectionResetError):  # it may come before connect has returned
                served += not has_ended(held.enter_context(proxy.connect()))
        assert 1 <= served <= 8
        snapshot = proxy.snapshot()["connections"]
        assert snapshot["active"] == served
        assert snapshot["refused"] == {"full": 40 - served}


def test_a_log_that_cannot_be_opened_ends_it_before_anything_is_served(tmp_path: Path) -> None:
    done = zpipe(
        *("proxy", "--listen=127.0.0.1:0", "--workers=2"),
        *("--access-log", tmp_path / "missing" / "log", "127.0.0.1:1"),
    )
    assert done.returncode in (1, 2)
    assert b"No such file or directory" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_worker_that_cannot_be_started_is_tried_again(upstream: Server) -> None:
    """The third fork is that for the one that was killed."""
    fault = ("-e", "trace=clone", "-e", "inject=clone:error=EAGAIN:when=3")
    before = strace("-o", os.devnull, *fault)
    with proxying(upstream.text, "--workers=2", before=before) as proxy:
        found = until_all_serve(proxy, 2)
        os.kill(found[0], signal.SIGKILL)
        why = b"worker: start: Resource temporarily unavailable"
        until(lambda: any(why in line for line in proxy.errors), "it tells of that")
        assert until_all_serve(proxy, 2)[0] == found[1]
        with proxy.connect() as client:
            assert asked(client, b"hello") == b"hello"
