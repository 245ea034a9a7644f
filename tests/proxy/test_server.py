"""A whole `zpipe proxy` in operation: signals, privileges, fds, and which server a client gets."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import signal
import socket
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, need, need_root, nobody, strace, until, zpipe
from tests.proxy.proxying import (
    Proxy,
    asked,
    connected,
    echo,
    exactly,
    limited,
    proxying,
    received,
    refusing,
    serving,
)
from tests.proxy.test_activation import activated, listening, shown
from zpipe.proxy import ahead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.proxy.proxying import Server

ENDS = [signal.SIGTERM, signal.SIGINT]


def is_broken_off(end: socket.socket) -> bool:
    """Wait for the end of a connection, and tell whether it came by RST."""
    try:
        assert end.recv(1) == b""
    except ConnectionResetError:
        return True
    return False


def signalled(proxy: Proxy, number: int) -> None:
    """Send a signal once the loop runs, and with it the handlers are there."""
    proxy.snapshot()
    os.kill(proxy.pid, number)


def draining(proxy: Proxy) -> None:
    proxy.until(lambda one: one["state"] == "draining", "it drains")


def reasons(log: Path) -> list[str]:
    """Return why connections have ended, of an access log in JSON."""
    return [json.loads(line)["reason"] for line in log.read_text().splitlines()]


# The end


@pytest.mark.parametrize("number", ENDS)
def test_without_connections_a_signal_ends_it_at_once_and_well(
    upstream: Server, number: int
) -> None:
    with proxying(upstream.text, "--drain-timeout", "10m") as proxy:
        signalled(proxy, number)
        assert proxy.process.wait(LONGEST) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_is_told_that_it_serves_can_end_it_well(
    upstream: Server, tmp_path: Path, workers: int
) -> None:
    """The signal comes right after the line."""
    path = tmp_path / "socket"
    with proxying(upstream.text, f"--workers={workers}", listen=(f"unix:{path}",)) as proxy:
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
    assert not path.exists()


def test_open_connections_go_on_after_sigterm_and_new_ones_are_refused(
    upstream: Server, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    places = ("127.0.0.1:0", f"unix:{path}")
    with (
        proxying(upstream.text, "--drain-timeout", "10m", listen=places) as proxy,
        proxy.connect() as first,
        proxy.connect(1) as second,
    ):
        assert asked(first, b"before") == b"before"
        assert asked(second, b"before") == b"before"
        signalled(proxy, signal.SIGTERM)
        draining(proxy)
        with pytest.raises(ConnectionRefusedError):
            proxy.connect()
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            proxy.connect(1)
        assert asked(first, b"while") == b"while"
        first.close()
        proxy.until(lambda one: one["connections"]["active"] == 1, "one has gone")
        assert asked(second, b"still") == b"still"
        second.close()
        assert proxy.process.wait(LONGEST) == 0
    assert not path.exists()


def test_another_one_can_take_the_port_while_it_drains(upstream: Server) -> None:
    with proxying(upstream.text) as old, old.connect() as first:
        assert asked(first, b"to the old one") == b"to the old one"
        signalled(old, signal.SIGTERM)
        draining(old)
        with proxying(upstream.text, listen=old.listeners) as new, new.connect() as second:
            assert asked(second, b"to the new one") == b"to the new one"
            assert asked(first, b"to the old one") == b"to the old one"


def test_who_had_connected_before_sigterm_is_served(upstream: Server) -> None:
    """It waits to be accepted, while the proxy learns of it and of the signal together."""
    with proxying(upstream.text, "--drain-timeout", "10m") as proxy:
        proxy.snapshot()
        os.kill(proxy.pid, signal.SIGSTOP)
        with proxy.connect() as client:
            client.sendall(b"early")
            os.kill(proxy.pid, signal.SIGTERM)
            os.kill(proxy.pid, signal.SIGCONT)
            assert exactly(client, 5) == b"early"
        assert proxy.process.wait(LONGEST) == 0


def test_the_drain_timeout_cuts_what_is_left(upstream: Server, tmp_path: Path) -> None:
    log = tmp_path / "log"
    options = ("--drain-timeout", "100ms", "--access-log", log, "--access-format=json")
    with proxying(upstream.text, *options) as proxy, proxy.connect() as client:
        assert asked(client, b"before") == b"before"
        signalled(proxy, signal.SIGTERM)
        assert is_broken_off(client)
        assert proxy.process.wait(LONGEST) == 0
    assert reasons(log) == ["drained"]


@pytest.mark.parametrize(("first", "second"), [ENDS, ENDS[::-1], [signal.SIGTERM] * 2])
def test_a_second_signal_ends_it_at_once_by_that_signal(
    upstream: Server, tmp_path: Path, first: int, second: int
) -> None:
    log = tmp_path / "log"
    options = ("--drain-timeout", "10m", "--access-log", log, "--access-format=json")
    with proxying(upstream.text, *options) as proxy, proxy.connect() as client:
        assert asked(client, b"before") == b"before"
        signalled(proxy, first)
        draining(proxy)
        os.kill(proxy.pid, second)
        assert is_broken_off(client)
        assert proxy.process.wait(LONGEST) == -second
    assert reasons(log) == ["drained"]


def test_a_signal_that_was_ignored_at_the_start_stays_ignored(upstream: Server) -> None:
    """As `nohup` has it for SIGHUP, and the shell for SIGINT of what runs in the background."""
    ignoring = ["sh", "-c", 'trap "" INT && exec "$@"', "sh"]
    with proxying(upstream.text, before=ignoring) as proxy:
        signalled(proxy, signal.SIGINT)
        assert proxy.snapshot()["state"] == "running"
        signalled(proxy, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0


def test_it_ends_by_itself_after_the_idle_time(upstream: Server) -> None:
    with proxying(upstream.text, "--exit-idle-time", "50ms") as proxy:
        assert proxy.process.wait(LONGEST) == 0


def test_it_is_not_idle_as_long_as_a_connection_is_open(upstream: Server, tmp_path: Path) -> None:
    """The connection ends by its own lifetime, several idle times later, and not by the proxy's.

    It is there before the proxy, which might have ended already when a client comes.
    """
    log = tmp_path / "log"
    options = (f"--access-log={log}", "--access-format=json", "--max-lifetime=600ms")
    with (
        listening() as end,
        connected(shown(end)) as client,
        activated(upstream.text, "--exit-idle-time=150ms", *options, ends=[end]) as proxy,
    ):
        is_broken_off(client)
        assert proxy.process.wait(LONGEST) == 0
    assert reasons(log) == ["lifetime"]


# While it runs


def test_sighup_opens_the_access_log_anew(upstream: Server, tmp_path: Path) -> None:
    log, rotated = tmp_path / "log", tmp_path / "log.1"
    with (
        proxying(upstream.text, "--access-log", log, "--access-format=json") as proxy,
        proxy.connect() as through,
    ):
        assert asked(through, b"first") == b"first"
        with proxy.connect() as client:
            assert asked(client, b"1") == b"1"
        until(lambda: reasons(log) == ["closed"], "the first line is written")
        log.rename(rotated)
        signalled(proxy, signal.SIGHUP)
        until(log.exists, "the log is opened anew")
        with proxy.connect() as client:
            assert asked(client, b"22") == b"22"
        assert asked(through, b"last") == b"last"  # it survives
        through.close()
        until(lambda: len(reasons(log)) == 2, "the other lines are written")
    (before,) = map(json.loads, rotated.read_text().splitlines())
    after = list(map(json.loads, log.read_text().splitlines()))
    assert before["up"] == 1
    assert sorted(line["up"] for line in after) == [2, 9]


def test_sighup_resolves_names_anew(tmp_path: Path) -> None:
    need_root()
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 moving.example\n")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    own_hosts = [need("unshare"), "--mount", "sh", "-c", script, str(hosts)]
    with serving(named(b"old")) as old:
        port = int(old.text.rpartition(":")[2])
        with (
            serving(named(b"new"), f"127.0.0.2:{port}"),
            proxying(
                f"moving.example:{port}", "--resolve-interval=never", before=own_hosts
            ) as proxy,
        ):
            assert given(proxy) == b"old"
            hosts.write_text("127.0.0.2 moving.example\n")
            assert given(proxy) == b"old"
            signalled(proxy, signal.SIGHUP)
            until(lambda: given(proxy) == b"new", "the name is resolved anew")


@pytest.mark.parametrize("workers", [1, 2])
def test_sigusr1_prints_one_line_of_status(upstream: Server, workers: int) -> None:
    with proxying(upstream.text, f"--workers={workers}") as proxy, proxy.connect() as client:
        assert asked(client, b"x") == b"x"
        before = len(proxy.errors)
        signalled(proxy, signal.SIGUSR1)
        until(lambda: len(proxy.errors) > before, "a line has come")
        assert asked(client, b"y") == b"y"
        signalled(proxy, signal.SIGTERM)
        client.close()
        assert proxy.process.wait(LONGEST) == 0
        (line,) = proxy.errors[before:]
        assert line.startswith(b"zpipe: ")
        assert b"1 open" in line


# What the service manager is told


class Manager:
    """Takes what a service tells, as the service manager does."""

    def __init__(self, end: socket.socket):
        self.end = end
        self.told: list[dict[str, str]] = []

    def until(self, name: str) -> dict[str, str]:
        """Return the next message that has this name."""
        while True:
            lines = self.end.recv(4096).decode().split("\n")
            self.told.append(dict(line.split("=", 1) for line in lines))
            if name in self.told[-1]:
                return self.told[-1]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(path)
        end.settimeout(LONGEST / 2)
        yield Manager(end)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_service_manager_is_told_of_each_state(
    upstream: Server, manager: Manager, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "50000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with proxying(upstream.text, f"--workers={workers}") as proxy:
        assert manager.until("READY")["READY"] == "1"
        with proxy.connect() as client:
            assert asked(client, b"served") == b"served"
        assert manager.until("WATCHDOG")["WATCHDOG"] == "1"
        assert manager.until("WATCHDOG")["WATCHDOG"] == "1"  # again and again

        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        signalled(proxy, signal.SIGHUP)
        reloading = manager.until("RELOADING")
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert reloading["RELOADING"] == "1"
        assert before <= int(reloading["MONOTONIC_USEC"]) <= after
        assert manager.until("READY")["READY"] == "1"

        with proxy.connect() as client:
            assert asked(client, b"x") == b"x"
            signalled(proxy, signal.SIGTERM)
            assert manager.until("STOPPING")["STOPPING"] == "1"
            assert manager.until("WATCHDOG")["WATCHDOG"] == "1"  # it lives while it drains
        assert proxy.process.wait(LONGEST) == 0
    assert any("STATUS" in message for message in manager.told)


def test_a_watchdog_for_another_process_is_not_fed(
    upstream: Server, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000")
    monkeypatch.setenv("WATCHDOG_PID", "1")
    with proxying(upstream.text) as proxy:
        manager.until("READY")
        with proxy.connect() as client:
            assert asked(client, b"x") == b"x"
        signalled(proxy, signal.SIGTERM)
        manager.until("STOPPING")
    assert not any("WATCHDOG" in message for message in manager.told)


def test_a_manager_that_has_gone_is_no_problem(
    upstream: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    with proxying(upstream.text) as proxy, proxy.connect() as client:
        assert asked(client, b"x") == b"x"


# Rights


def rights(pid: int) -> set[tuple[str, ...]]:
    """Return users and groups of all threads of a process."""
    found = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/status") as file:
                lines = dict(line.rstrip("\n").split(":\t", 1) for line in file)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        found.add(tuple(lines[name].strip() for name in ("Uid", "Gid", "Groups")))
    return found


def threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


@pytest.mark.parametrize(
    ("words", "uid", "gid", "groups"),
    [
        (("--user=nobody",), 65534, 65534, "65534"),
        (("--user=nobody", "--group=daemon"), 65534, 1, "1"),
        (("--user=12345", "--group=12346"), 12345, 12346, "12346"),
        (("--group=daemon",), 0, 1, "1"),
    ],
)
def test_rights_are_dropped_by_every_thread(
    tmp_path: Path, words: tuple[str, ...], uid: int, gid: int, groups: str
) -> None:
    """The name makes a thread resolve, the metrics and the capture have threads of their own."""
    need_root()
    tmp_path.chmod(0o777)
    with (
        serving(echo) as server,
        proxying(
            f"localhost:{server.text.rpartition(':')[2]}",
            *words,
            *("--metrics=127.0.0.1:0", "--capture=folder"),
            cwd=tmp_path,
        ) as proxy,
        proxy.connect() as client,
    ):
        assert asked(client, b"x") == b"x"
        assert threads(proxy.pid) > 1
        assert rights(proxy.pid) == {("\t".join(4 * [str(uid)]), "\t".join(4 * [str(gid)]), groups)}


def test_nothing_of_python_is_read_once_rights_are_dropped(tmp_path: Path) -> None:
    """The user may not be able to: Python is in the home directory of root now and then."""
    need_root()
    tmp_path.chmod(0o777)
    log = tmp_path / "trace"
    with (
        serving(echo) as server,
        proxying(
            f"localhost:{server.text.rpartition(':')[2]}",
            *("--user=nobody", "--metrics=unix:metrics", "--capture=folder"),
            *("--access-log=log", "--access-format=json"),
            cwd=tmp_path,
            before=strace("-o", str(log), "-e", "trace=open,openat,setresuid"),
        ) as proxy,
    ):
        with proxy.connect() as client:
            assert asked(client, b"x") == b"x"
        until(lambda: reasons(tmp_path / "log") == ["closed"], "the connection is in the log")
        with connected(f"unix:{tmp_path}/metrics") as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            assert b"zpipe_proxy_" in received(client)
        os.kill(proxy.pid, signal.SIGHUP)
        proxy.snapshot()
    _, _, after = log.read_text().rpartition("setresuid(")
    assert not re.findall(r'"[^"]*\.(?:pyc?|so)"', after)


def test_what_functions_load_is_loaded_before_rights_are_dropped() -> None:
    for package in ahead.PACKAGES:
        for path in (ROOT / "zpipe" / package).glob("*.py"):
            functions = [
                node
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.FunctionDef)
            ]
            names = {
                name
                for function in functions
                for node in ast.walk(function)
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for name in (
                    [alias.name for alias in node.names]
                    if isinstance(node, ast.Import)
                    else [str(node.module)]
                )
            }
            loaded = {*ahead.LATER, *ahead.METRICS, *sys.modules}
            assert {name for name in names if not name.startswith("zpipe")} <= loaded, path


def test_rights_are_dropped_by_every_worker(upstream: Server) -> None:
    need_root()
    with proxying(upstream.text, "--user=nobody", "--workers=2") as proxy:
        proxy.until(lambda one: one["workers"] == 2, "both answer")
        for pid in (proxy.pid, *children(proxy.pid)):
            assert rights(pid) == {("\t".join(4 * ["65534"]), "\t".join(4 * ["65534"]), "65534")}


def test_listeners_are_opened_before_rights_are_dropped(tmp_path: Path) -> None:
    """In a network of its own, where nobody else has this port."""
    need_root()
    alone = [need("unshare"), "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    with proxying(
        "127.0.0.1:1",
        "--user=nobody",
        listen=("127.0.0.1:80", f"unix:{tmp_path}/socket?mode=0666"),
        before=alone,
    ) as proxy:
        assert proxy.listeners[0] == "127.0.0.1:80"
        with proxy.connect(1) as client:
            assert client.recv(1) == b""  # nobody serves in that network


@pytest.mark.parametrize("workers", [1, 2])
def test_a_log_that_could_not_be_opened_again_is_refused_at_once(
    tmp_path: Path, workers: int
) -> None:
    """It is opened after rights are dropped: what works now works when it has been rotated."""
    need_root()
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    done = zpipe(
        *("proxy", "--listen=127.0.0.1:0", "--user=nobody", f"--workers={workers}"),
        *("--access-log", folder / "log", "127.0.0.1:1"),
    )
    assert done.returncode in (1, 2)
    assert done.stderr == f"zpipe: {folder}/log: open: Permission denied\n".encode()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--user=no-such-user",), b"--user: no user is named no-such-user"),
        (("--group=no-such-group",), b"--group: no group is named no-such-group"),
        (("--user=4294967295",), b"--user: no user is named 4294967295"),
    ],
)
def test_an_unknown_user_or_group_is_refused_before_anything_is_served(
    words: tuple[str, ...], says: bytes
) -> None:
    done = zpipe("proxy", "--listen=127.0.0.1:0", *words, "127.0.0.1:1")
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_a_user_without_an_entry_does_not_keep_the_group_of_root(upstream: Server) -> None:
    need_root()
    done = zpipe("proxy", "--listen=127.0.0.1:0", "--user=12345", "--exit-idle-time=1ms", "[::1]:1")
    assert done.returncode == 2, done.stderr
    assert b"--group" in done.stderr


def test_only_root_can_become_somebody_else(tmp_path: Path) -> None:
    done = zpipe(
        *("proxy", "--listen=127.0.0.1:0", "--user=root", "127.0.0.1:1"),
        before=nobody(),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert b"only root may become another user" in done.stderr


def test_who_is_that_user_already_may_say_so(upstream: Server, tmp_path: Path) -> None:
    words = ("--user=nobody", "--group=65534")
    with (
        proxying(upstream.text, *words, before=nobody(), cwd=tmp_path) as proxy,
        proxy.connect() as client,
    ):
        assert asked(client, b"x") == b"x"


# Fds


def test_out_of_fds_clients_wait_and_the_proxy_sleeps(upstream: Server) -> None:
    """The limit is lowered while it runs, to what it has open: the next accept is EMFILE."""
    with proxying(upstream.text) as proxy, ExitStack() as clients:
        first = clients.enter_context(proxy.connect())
        assert asked(first, b"x") == b"x"
        # below the highest number in use nothing is free, and no new one may be higher
        numbers = {int(name) for name in os.listdir(f"/proc/{proxy.pid}/fd")}
        lowest = next(number for number in range(len(numbers) + 1) if number not in numbers)
        before = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (lowest, before[1]))
        waits = proxy.waits()
        waiting = [clients.enter_context(proxy.connect()) for _ in range(5)]
        until(lambda: proxy.waits() >= waits + 5, "it has gone to sleep again and again")
        assert asked(first, b"still served") == b"still served"
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, before)
        for client in waiting:
            assert asked(client, b"at last") == b"at last"
        tries = proxy.snapshot()["connections"]["refused"]["no-fds"]
        # who spins does not sleep between two tries
        assert 1 <= tries <= proxy.waits() - waits


def test_out_of_fds_for_the_upstream_the_client_is_told(upstream: Server) -> None:
    """There is one for the client, and none for its upstream."""
    with proxying(upstream.text) as proxy:
        proxy.snapshot()
        numbers = {int(name) for name in os.listdir(f"/proc/{proxy.pid}/fd")}
        free = [number for number in range(len(numbers) + 2) if number not in numbers]
        before = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (free[1], before[1]))
        with pytest.raises(ConnectionResetError), proxy.connect() as client:
            client.recv(1)  # if connect has not told yet
        resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, before)
        snapshot = proxy.until_closed("no-upstream")
        assert snapshot["upstreams"][0]["failures"] == 0  # it is not the server's fault
        with proxy.connect() as client:
            assert asked(client, b"again") == b"again"


def test_with_64_fds_as_many_as_fit_are_served_and_the_others_wait(upstream: Server) -> None:
    with (
        proxying(upstream.text, "--access-log=-", before=limited("-n 64")) as proxy,
        ExitStack() as held,
    ):
        most = proxy.snapshot()["connections"]["max"]
        assert 8 <= most < 32
        clients = [held.enter_context(proxy.connect()) for _ in range(2 * most)]
        for client in clients:
            client.sendall(b"x" * 20_000)  # bulk: pipes are taken out of the same 64
        for client in clients[:most]:
            assert exactly(client, 20_000) == b"x" * 20_000
        assert proxy.snapshot()["connections"]["active"] == most
        assert upstream.count == most
        for client in clients[:most]:
            client.close()
        for client in clients[most:]:
            assert exactly(client, 20_000) == b"x" * 20_000
        assert proxy.snapshot()["connections"]["refused"] == {}


# Which server


def named(name: bytes) -> Callable[[socket.socket], None]:
    """Return what tells each client its name, and holds the connection until the client ends."""

    def serve(end: socket.socket) -> None:
        with suppress(ConnectionError):
            end.sendall(name)
            while end.recv(4096):
                pass

    return serve


def given(proxy: Proxy) -> bytes:
    """Return the name of the server that a client is given, or nothing if there is none."""
    with proxy.connect() as client, suppress(ConnectionResetError):
        return client.recv(16)
    return b""


@contextmanager
def three() -> Iterator[list[Server]]:
    with serving(named(b"a")) as a, serving(named(b"b")) as b, serving(named(b"c")) as c:
        yield [a, b, c]


def test_round_robin_goes_by_turns() -> None:
    with three() as servers, proxying(*(server.text for server in servers)) as proxy:
        names = [given(proxy) for _ in range(9)]
        assert sorted(names[:3]) == [b"a", b"b", b"c"]
        assert names == 3 * names[:3]
        assert [one["connections"] for one in proxy.snapshot()["upstreams"]] == [3, 3, 3]


def test_weights_are_shares() -> None:
    with three() as (a, b, c):
        upstreams = (f"{a.text}?weight=3", b.text, f"{c.text}?weight=2")
        with proxying(*upstreams) as proxy:
            names = [given(proxy) for _ in range(12)]
    assert [names.count(name) for name in (b"a", b"b", b"c")] == [6, 2, 4]


def test_least_conn_takes_the_one_with_the_fewest() -> None:
    with three() as servers, ExitStack() as stack:
        proxy = stack.enter_context(
            proxying("--balance=least-conn", *(server.text for server in servers))
        )
        held = {}
        for _ in range(3):
            client = stack.enter_context(proxy.connect())
            held[client.recv(16)] = client
        assert sorted(held) == [b"a", b"b", b"c"]
        for name in (b"b", b"c", b"b"):
            held[name].close()
            proxy.until(lambda one: one["connections"]["active"] == 2, "it has gone")
            held[name] = stack.enter_context(proxy.connect())
            assert held[name].recv(16) == name


def test_first_is_the_first_that_answers() -> None:
    with three() as (a, b, c), proxying("--balance=first", a.text, b.text, c.text) as proxy:
        assert [given(proxy) for _ in range(3)] == [b"a"] * 3
        a.stop()
        assert [given(proxy) for _ in range(4)] == [b"b"] * 4
        b.stop()
        assert given(proxy) == b"c"


def test_source_gives_a_client_the_same_server_each_time() -> None:
    with (
        three() as servers,
        proxying("--balance=source", *(server.text for server in servers)) as proxy,
    ):
        port = int(proxy.listeners[0].rpartition(":")[2])

        def from_address(last: int) -> bytes:
            source = (f"127.0.1.{last}", 0)
            with socket.create_connection(("127.0.0.1", port), LONGEST, source) as client:
                return client.recv(16)

        names = [from_address(last) for last in range(1, 33)]
        assert set(names) == {b"a", b"b", b"c"}
        assert [from_address(last) for last in range(1, 33)] == names


def test_a_server_that_refuses_is_passed_over() -> None:
    with (
        refusing() as nobody_there,
        three() as (a, _, _),
        proxying("--balance=first", nobody_there, a.text) as proxy,
    ):
        assert given(proxy) == b"a"
        snapshot = proxy.until_idle()
        assert snapshot["retried"] == 1
        down, up = snapshot["upstreams"]
        assert (down["failures"], down["connections"]) == (1, 0)
        assert (up["failures"], up["connections"]) == (0, 1)
        assert snapshot["connections"]["closed"] == {"closed": 1}


def test_where_all_refuse_as_many_are_tried_as_were_asked_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ExitStack() as stack:
        targets = [stack.enter_context(refusing()) for _ in range(4)]
        options = ("--retries=2", "--access-log", log, "--access-format=json")
        proxy = stack.enter_context(proxying(*options, *targets))
        with pytest.raises(ConnectionResetError), proxy.connect() as client:
            client.recv(1)  # if connect has not told yet
        snapshot = proxy.until_closed("no-upstream")
        assert sum(one["failures"] for one in snapshot["upstreams"]) == 3
        assert snapshot["retried"] == 2
        until(log.read_text, "the line is written")
    (line,) = map(json.loads, log.read_text().splitlines())
    assert (line["reason"], line["upstream"]) == ("no-upstream", None)


def test_a_server_that_fails_again_and_again_is_left_out_until_it_is_back() -> None:
    with (
        refusing() as place,
        three() as (a, _, _),
        proxying("--balance=first", place, a.text) as proxy,
    ):
        for _ in range(3):
            assert given(proxy) == b"a"
        snapshot = proxy.snapshot()
        assert [one["state"] for one in snapshot["upstreams"]] == ["down", "up"]
        assert snapshot["upstreams"][0]["failures"] == 3
        with serving(named(b"back"), place):
            until(lambda: given(proxy) == b"back", "it is tried again")
            assert given(proxy) == b"back"
            found = proxy.snapshot()["upstreams"]
        assert [one["state"] for one in found] == ["up", "up"]


def test_checks_take_a_server_out_and_bring_it_back() -> None:
    with refusing() as place, three() as (a, _, _):
        check = "--check=interval=50ms,rise=2,fall=2"
        with serving(named(b"first"), place) as first:
            stack = ExitStack()
            proxy = stack.enter_context(proxying("--balance=first", check, place, a.text))
            with stack:
                assert given(proxy) == b"first"
                first.stop()
                proxy.until(lambda one: one["upstreams"][0]["state"] == "down", "it is down")
                before = proxy.snapshot()
                assert given(proxy) == b"a"
                after = proxy.snapshot()
                assert after["retried"] == before["retried"]  # nobody had to find out
                with serving(named(b"back"), place):
                    proxy.until(lambda one: one["upstreams"][0]["state"] == "up", "it is up")
                    assert given(proxy) == b"back"
                for state in ("down", "up"):
                    line = f"{place}: check: is {state}\n".encode()
                    until(lambda line=line: line in b"".join(proxy.errors), "it was told")  # type: ignore[misc]


def test_checks_ask_and_judge_the_answer() -> None:
    answer = [b"+PONG\r\n"]

    def redis(end: socket.socket) -> None:
        with suppress(ConnectionError):
            while end.recv(4096):
                end.sendall(answer[0])
                if answer[0].startswith(b"-"):
                    return  # else the check would wait for more until its timeout

    check = r"--check=interval=50ms,timeout=10s,rise=1,fall=1,send=PING\r\n,expect=+PONG"
    with serving(redis) as server, proxying(check, server.text) as proxy:
        until(lambda: server.count >= 2, "it is checked")
        assert proxy.snapshot()["upstreams"][0]["state"] == "up"
        answer[0] = b"-LOADING\r\n"
        proxy.until(lambda one: one["upstreams"][0]["state"] == "down", "it is down")
        answer[0] = b"+PONG\r\n"
        proxy.until(lambda one: one["upstreams"][0]["state"] == "up", "it is up")
        assert proxy.snapshot()["connections"]["accepted"] == 0


def test_an_upstream_may_have_a_name(upstream: Server) -> None:
    port = upstream.text.rpartition(":")[2]
    with proxying(f"localhost:{port}") as proxy, proxy.connect() as client:
        assert asked(client, b"by name") == b"by name"


def test_a_name_that_is_not_known_is_refused_before_anything_is_served() -> None:
    done = zpipe("proxy", "--listen=127.0.0.1:0", "no-such-host.invalid:1")
    assert done.returncode == 2
    assert b"no-such-host.invalid:1: resolve: " in done.stderr


def test_it_can_be_reached_by_either_family(upstream: Server) -> None:
    with proxying(upstream.text, listen=(":0",)) as proxy:
        port = proxy.listeners[0].rpartition(":")[2]
        for place in (f"127.0.0.1:{port}", f"[::1]:{port}"):
            with connected(place) as client:
                assert asked(client, b"x") == b"x"
