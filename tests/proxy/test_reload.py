"""New settings while connections are open: what changes, what lives on, and what cannot be had."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import LONGEST, environment, need_root, until
from tests.proxy.proxying import (
    Proxy,
    asked,
    connected,
    echo,
    exactly,
    received,
    refusing,
    sending,
    serving,
)
from zpipe.errors import UsageError
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.settings import (
    Capture,
    Check,
    Mirror,
    Operation,
    Route,
    Settings,
    Timeouts,
    Upstream,
)

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from tests.proxy.proxying import Server

BOTH = pytest.mark.parametrize("workers", [1, 2])

# What a command does that reads its settings from a file.
SERVES = """
import json, os, pickle, sys
if int(sys.argv[3]) >= 0:
    os.dup2(int(sys.argv[3]), 3)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}
    if sys.argv[3] != "3":
        os.close(int(sys.argv[3]))
from zpipe.commands.proxy_progress import ProxyProgress
from zpipe.commands.speaking import tell
from zpipe.errors import ZpipeError
from zpipe.proxy.listening import close_all, open_listeners
from zpipe.proxy.plan import Plan
from zpipe.proxy.resolver import resolve_first
from zpipe.proxy.server import serve

def load():
    with open(sys.argv[1], "rb") as file:
        found = pickle.load(file)
    if isinstance(found, Exception):
        raise found
    return found

with open(sys.argv[2], "rb") as file:
    operation = pickle.load(file)
plans = [Plan(one) for one in load()]
for plan in plans:
    resolve_first(plan.targets)
listeners = [open_listeners(plan.settings.listen, workers=operation.workers) for plan in plans]

def shows(loop, snapshot):
    places = [listener.address for own in listeners for listener in own[0]]
    tell(f"proxy: {', '.join(places)} -> all")
    return ProxyProgress(loop, snapshot, "never", False)

def stopping(number):
    tell(f"signal {number}")

try:
    serve(plans, listeners, operation, tell, shows, load, stopping)
except ZpipeError as error:
    tell(str(error))
    sys.exit(error.exit_code)
finally:
    for own in listeners:
        close_all(own)
"""


def settings(
    *upstreams: str, name: str = "db", listen: tuple[str, ...] = ("127.0.0.1:0",), **more: Any
) -> Settings:
    return Settings(
        listen=tuple(parse_address(text, listen=True) for text in listen),
        upstreams=tuple(Upstream(parse_address(text)) for text in upstreams),
        name=name,
        **more,
    )


class Reloadable(Proxy):
    """A process that serves, and the file that it reads its settings from."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path):
        self._path = path
        super().__init__(process)
        self.snapshot()  # its loop runs, and signals are heard

    def write(self, *found: Settings | Exception) -> None:
        write(self._path, *found)

    def told(self) -> list[str]:
        """Return what it has said of reloads."""
        lines = [line.decode().removeprefix("zpipe: ").rstrip("\n") for line in list(self.errors)]
        return [line.removeprefix("reload: ") for line in lines if line.startswith("reload: ")]

    def reload(self, *found: Settings | Exception) -> str:
        """Have it read other settings, and return what it says to that."""
        self.write(*found)
        before = len(self.told())
        lines = len(found[0].args) if isinstance(found[0], UsageError) else 1
        os.kill(self.pid, signal.SIGHUP)
        until(lambda: len(self.told()) >= before + lines, "it has tried to reload")
        return "\n".join(self.told()[before:])

    def at(self, name: str, number: int = 0) -> str:
        """Return where a proxy of it listens."""
        return str(self.snapshot()["proxies"][name]["listeners"][number])

    def ends(self) -> None:
        """End it by SIGTERM."""
        os.kill(self.pid, signal.SIGTERM)
        assert self.process.wait(LONGEST) == 0, b"".join(self.errors).decode()

    def workers(self) -> list[int]:
        with open(f"/proc/{self.pid}/task/{self.pid}/children") as file:
            return [int(word) for word in file.read().split()]


def write(path: Path, *found: Settings | Exception) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(pickle.dumps(found[0] if isinstance(found[0], Exception) else list(found)))
    new.replace(path)


@contextmanager
def reloadable(
    folder: Path,
    *found: Settings,
    workers: int = 1,
    passed: socket.socket | None = None,
    **operation: Any,
) -> Iterator[Reloadable]:
    """Serve settings until the end of the block; a socket may be passed in by the name of web."""
    import subprocess

    path, options = folder / "settings", folder / "operation"
    write(path, *found)
    options.write_bytes(pickle.dumps(Operation(workers=workers, **operation)))
    number = passed.fileno() if passed is not None else -1
    process = subprocess.Popen(
        [sys.executable, "-c", SERVES, path, options, str(number)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        pass_fds=[number] if passed is not None else [],
    )
    proxy = None
    try:
        proxy = Reloadable(process, path)
        yield proxy
    finally:
        process.kill()
        if proxy is not None:
            proxy.close()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def named(name: bytes) -> Callable[[socket.socket], None]:
    """Return a server that says who it is, and echoes."""

    def serve(end: socket.socket) -> None:
        end.sendall(name)
        echo(end)

    return serve


@contextmanager
def two() -> Iterator[tuple[Server, Server]]:
    """Two upstreams that tell which of them one has reached."""
    with serving(named(b"old")) as old, serving(named(b"new")) as new:
        yield old, new


def reached(place: str) -> bytes:
    """Return who answers there."""
    with connected(place) as client:
        return exactly(client, 3)


def totals(snapshot: dict[str, Any]) -> dict[str, int]:
    """Return everything in a snapshot that is counted, by its name."""
    found = {
        "accepted": snapshot["connections"]["accepted"],
        "retried": snapshot["retried"],
        **{f"closed {why}": n for why, n in snapshot["connections"]["closed"].items()},
        **{f"bytes {way}": n for way, n in snapshot["bytes"].items()},
    }
    for kind, keys in (
        ("upstreams", ("connections", "failures", "up", "down")),
        ("mirrors", ("connections", "bytes", "missed")),
    ):
        for entry in snapshot[kind]:
            for key in keys:
                name = f"{entry['name']} {key}"
                found[name] = found.get(name, 0) + entry[key]
    return found


class Monotonic:
    """Looks again and again whether something counted goes back."""

    def __init__(self, proxy: Proxy):
        self._proxy = proxy
        self._highest: dict[str, int] = {}

    def look(self) -> dict[str, Any]:
        snapshot = self._proxy.snapshot()
        for name, count in totals(snapshot).items():
            assert count >= self._highest.get(name, 0), f"{name} goes back"
            self._highest[name] = count
        return snapshot


# What lives on


@BOTH
def test_a_connection_goes_on_to_its_upstream_while_new_ones_reach_the_new_one(
    tmp_path: Path, workers: int
) -> None:
    data = os.urandom(3 << 20)
    with (
        two() as (old, new),
        reloadable(tmp_path, settings(old.text), workers=workers) as proxy,
        proxy.connect() as client,
        proxy.connect() as bulk,
    ):
        assert exactly(client, 3) == exactly(bulk, 3) == b"old"
        with sending(bulk, data):
            assert exactly(bulk, 1 << 20) == data[: 1 << 20]
            assert proxy.reload(settings(new.text)) == "changed db"
            assert asked(client, b"still") == b"still"
            assert reached(proxy.listeners[0]) == b"new"
            assert received(bulk) == data[1 << 20 :]
        assert asked(client, b"and still") == b"and still"
        snapshot = proxy.snapshot()
        assert {entry["name"]: entry["state"] for entry in snapshot["upstreams"]} == {
            new.text: "up",
            old.text: "draining",
        }
        client.close()
        snapshot = proxy.until_idle()
        assert [entry["name"] for entry in snapshot["upstreams"]] == [new.text]
        assert snapshot["connections"]["accepted"] == 3
        assert snapshot["connections"]["closed"] == {"closed": 3}
        assert snapshot["bytes"]["up"] == len(data) + len(b"stilland still")
        assert snapshot["listeners"] == proxy.listeners


@BOTH
def test_whoever_connects_is_never_refused_or_reset(tmp_path: Path, workers: int) -> None:
    """Each of them gets an answer, too."""
    with (
        two() as servers,
        reloadable(tmp_path, settings(servers[0].text), workers=workers) as proxy,
    ):
        ending = threading.Event()
        problems: list[BaseException] = []
        counts = [0] * 3

        def connect(place: int) -> None:
            try:
                while not ending.is_set():
                    assert reached(proxy.listeners[0]) in (b"old", b"new")
                    counts[place] += 1
            except BaseException as error:
                problems.append(error)

        def come_again(before: list[int]) -> bool:
            return bool(problems) or all(
                now > then for now, then in zip(counts, before, strict=True)
            )

        threads = [threading.Thread(target=connect, args=(place,)) for place in range(len(counts))]
        for thread in threads:
            thread.start()
        watched = Monotonic(proxy)
        try:
            for number in range(20):
                assert proxy.reload(settings(servers[number % 2 - 1].text)) in (
                    "changed db",
                    "nothing has changed",
                )
                watched.look()
                until(
                    partial(come_again, list(counts)),
                    "each has come again",
                )
        finally:
            ending.set()
            for thread in threads:
                thread.join()
        assert not problems
        snapshot = proxy.until_idle()
        assert snapshot["connections"]["accepted"] == sum(counts)


@BOTH
def test_who_waits_to_be_accepted_is_not_lost(tmp_path: Path, workers: int) -> None:
    """The proxy learns of the client and of the reload together, and of both listeners."""
    listen = ("127.0.0.1:0", "[::1]:0")
    with (
        two() as (old, new),
        reloadable(tmp_path, settings(old.text, listen=listen), workers=workers) as proxy,
    ):
        pids = [proxy.pid, *proxy.workers()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        with proxy.connect() as kept, proxy.connect(1) as gone:
            proxy.write(settings(new.text, listen=listen[:1]))
            os.kill(proxy.pid, signal.SIGHUP)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            assert exactly(kept, 3) in (b"old", b"new")
            assert exactly(gone, 3) == b"old"
            until(proxy.told, "it has reloaded")
            with pytest.raises(ConnectionRefusedError):
                proxy.connect(1)


@BOTH
def test_timeouts_of_before_go_on_to_hold(tmp_path: Path, workers: int) -> None:
    old = Timeouts(lifetime=0.5)
    with (
        serving(echo) as server,
        reloadable(tmp_path, settings(server.text, timeouts=old), workers=workers) as proxy,
        proxy.connect() as client,
    ):
        assert asked(client, b"x") == b"x"
        proxy.reload(settings(server.text))
        with proxy.connect() as later:
            with pytest.raises(ConnectionResetError):
                client.recv(1)
            assert asked(later, b"y") == b"y"
        snapshot = proxy.until_closed("lifetime")
        assert snapshot["connections"]["closed"]["lifetime"] == 1


@BOTH
def test_what_has_not_changed_goes_on_as_it_is(tmp_path: Path, workers: int) -> None:
    """Of one process the other proxy keeps its service; of several, nobody is replaced."""
    with (
        serving(echo) as server,
        reloadable(
            tmp_path, settings(server.text), settings(server.text, name="web"), workers=workers
        ) as proxy,
    ):
        before = proxy.workers()
        fds = sorted(proxy.fds())
        same = settings(server.text), settings(server.text, name="web")
        assert proxy.reload(*same) == "nothing has changed"
        assert proxy.reload(*reversed(same)) == "nothing has changed"
        assert proxy.workers() == before
        assert sorted(proxy.fds()) == fds


def test_another_proxy_keeps_what_it_knows(tmp_path: Path) -> None:
    """One of its two upstreams is held to be down, and its turn comes to the other one."""
    check = Check(interval=600.0, fall=1)
    with serving(named(b"old")) as server, serving(echo) as other, refusing() as place:
        web = settings(place, server.text, name="web", check=check)
        with reloadable(tmp_path, settings(other.text), web) as proxy:

            def states() -> dict[str, str]:
                return {one["name"]: one["state"] for one in proxy.snapshot()["upstreams"]}

            until(lambda: states()[place] == "down", "it is down")
            with connected(proxy.at("web")) as held:
                assert exactly(held, 3) == b"old"
                assert proxy.reload(settings(other.text, retries=0), web) == "changed db"
                assert states() == {other.text: "up", place: "down", server.text: "up"}
                active = {one["name"]: one["active"] for one in proxy.snapshot()["upstreams"]}
                assert active == {other.text: 0, place: 0, server.text: 1}
            assert sum(b"is down" in line for line in proxy.errors) == 1  # it was not asked again


@BOTH
def test_an_upstream_that_is_down_stays_down_in_a_proxy_that_changes(
    tmp_path: Path, workers: int
) -> None:
    check = Check(interval=0.05, timeout=10.0, rise=2, fall=1)
    with serving(named(b"old")) as server, refusing() as place:
        first = settings(place, server.text, balance="first", check=check)
        with reloadable(tmp_path, first, workers=workers) as proxy:
            proxy.until(lambda one: one["upstreams"][0]["state"] == "down", "it is down")
            # nobody will ask for long, and with no retries a mistake is seen
            later = replace(first, check=replace(check, interval=600.0, fall=1000), retries=0)
            proxy.reload(later)
            for _ in range(10):
                assert reached(proxy.listeners[0]) == b"old"
            assert proxy.snapshot()["upstreams"][0]["state"] == "down"
            with serving(named(b"new"), place):
                proxy.reload(first)
                proxy.until(lambda one: one["upstreams"][0]["state"] == "up", "it is up")
                assert reached(proxy.listeners[0]) == b"new"


def test_turns_go_on_where_they_were(tmp_path: Path) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text, new.text)) as proxy:
        assert reached(proxy.listeners[0]) == b"old"
        proxy.reload(settings(old.text, new.text, retries=1))
        assert reached(proxy.listeners[0]) == b"new"
        proxy.reload(settings(old.text, new.text, retries=0))
        assert reached(proxy.listeners[0]) == b"old"


# Listeners


@BOTH
def test_listeners_come_and_go(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "socket"
    with serving(echo) as server:
        first = settings(server.text, listen=("127.0.0.1:0", f"unix:{path}"))
        with reloadable(tmp_path, first, workers=workers) as proxy, proxy.connect(1) as held:
            assert asked(held, b"x") == b"x"
            assert proxy.reload(settings(server.text, listen=("127.0.0.1:0", "[::1]:0"))) == (
                "changed db"
            )
            kept, new = proxy.snapshot()["listeners"]
            assert kept == proxy.listeners[0]
            for place in (kept, new):
                with connected(place) as client:
                    assert asked(client, b"y") == b"y"
            assert not path.exists()
            with pytest.raises(FileNotFoundError):
                proxy.connect(1)
            assert asked(held, b"z") == b"z"
            proxy.reload(settings(server.text, listen=("[::1]:0",)))
            assert proxy.snapshot()["listeners"] == [new]
            with pytest.raises(ConnectionRefusedError):
                connected(kept)


@BOTH
def test_proxies_come_and_go(tmp_path: Path, workers: int) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=workers) as proxy:
        place = proxy.at("db")
        with connected(place) as held:
            assert exactly(held, 3) == b"old"
            web = settings(new.text, name="web")
            assert proxy.reload(settings(old.text), web) == "added web"
            assert reached(proxy.at("web")) == b"new"
            assert proxy.reload(web) == "removed db"
            assert asked(held, b"x") == b"x"
            with pytest.raises(ConnectionRefusedError):
                connected(place)
            snapshot = proxy.snapshot()
            assert snapshot["name"] == "web"
            assert snapshot["connections"]["active"] == 1
            assert snapshot["proxies"]["db"]["connections"]["active"] == 1
            assert snapshot["proxies"]["db"]["listeners"] == []
        assert list(proxy.until_idle()["proxies"]) == ["web"]
        assert proxy.reload(web, settings(old.text)) == "added db"
        assert proxy.snapshot()["proxies"]["db"]["connections"]["accepted"] == 1
        assert reached(proxy.at("db")) == b"old"


@BOTH
def test_two_proxies_may_change_their_places(tmp_path: Path, workers: int) -> None:
    with (
        two() as (old, new),
        reloadable(
            tmp_path, settings(old.text), settings(new.text, name="web"), workers=workers
        ) as proxy,
    ):
        first, second = proxy.listeners
        fixed = (
            settings(old.text, listen=(second,)),
            settings(new.text, name="web", listen=(first,)),
        )
        # the same places by their numbers are not the same addresses
        assert "Address already in use" in proxy.reload(*fixed)
        assert [reached(first), reached(second)] == [b"old", b"new"]
        swapped = settings(new.text, name="web"), settings(old.text, name="more")
        assert proxy.reload(*swapped) == "added more; removed db"
        assert proxy.snapshot()["listeners"] == [second, first]
        assert [reached(first), reached(second)] == [b"old", b"new"]


@BOTH
def test_the_path_of_a_listener_gets_another_mode(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "socket"
    with (
        serving(echo) as server,
        reloadable(
            tmp_path, settings(server.text, listen=(f"unix:{path}",)), workers=workers
        ) as proxy,
    ):
        inode = path.stat().st_ino
        assert path.stat().st_mode & 0o777 == 0o600
        proxy.reload(settings(server.text, listen=(f"unix:{path}?mode=0666",)))
        assert path.stat().st_mode & 0o777 == 0o666
        assert path.stat().st_ino == inode
        with proxy.connect() as client:
            assert asked(client, b"x") == b"x"
        proxy.ends()
    assert not path.exists()


@BOTH
def test_a_listener_that_was_passed_in_waits_until_it_is_wanted_again(
    tmp_path: Path, workers: int
) -> None:
    with two() as (old, new), socket.create_server(("127.0.0.1", 0)) as passed:
        place = "{}:{}".format(*passed.getsockname())
        both = settings(old.text, listen=("127.0.0.1:0", "fd:web"))
        with reloadable(tmp_path, both, workers=workers, passed=passed) as proxy:
            passed.close()
            assert reached(place) == b"old"
            assert proxy.reload(settings(old.text)) == "changed db"
            with connected(place) as waits:
                assert proxy.reload(settings(new.text, listen=("fd:3",))) == "changed db"
                assert exactly(waits, 3) == b"new"
            twice = settings(new.text, listen=("fd:3", "fd:web"))
            assert proxy.reload(twice) == "fd:web: listen: is in use; the old settings stay"
            assert proxy.reload(settings(old.text, listen=("fd:web",))) == "changed db"
            assert reached(place) == b"old"


# What cannot be had


@BOTH
def test_whatever_is_wrong_with_new_settings_changes_nothing(tmp_path: Path, workers: int) -> None:
    with (
        two() as (old, new),
        reloadable(tmp_path, settings(old.text), workers=workers) as proxy,
        serving(echo) as taken,
        proxy.connect() as held,
    ):
        assert exactly(held, 3) == b"old"
        fds, before = sorted(proxy.fds()), proxy.workers()
        file = tmp_path / "file"
        file.touch()
        cases: list[tuple[tuple[Settings | Exception, ...], str]] = [
            (
                (UsageError("a.yaml:1:1: this", "a.yaml:2:1: that"),),
                "a.yaml:1:1: this; the old settings stay\na.yaml:2:1: that; the old settings stay",
            ),
            ((ValueError("odd"),), "ValueError: odd; the old settings stay"),
            (
                (settings("no-such-host.invalid:1"),),
                "no-such-host.invalid:1: resolve: ",
            ),
            (
                (
                    settings(new.text),
                    settings(new.text, name="web", listen=("127.0.0.1:0", taken.text)),
                ),
                f"{taken.text}: listen: Address already in use; the old settings stay",
            ),
            (
                (settings(new.text, listen=("127.0.0.1:0", "fd:web")),),
                "fd:web: listen: no passed socket has this name",
            ),
            (
                (settings(new.text, capture=Capture(str(file / "no"))),),
                f"{file}/no: capture: Not a directory; the old settings stay",
            ),
            (
                (settings(proxy.listeners[0]),),
                f"{proxy.listeners[0]}: is the proxy itself, at {proxy.listeners[0]}",
            ),
        ]
        for found, says in cases:
            told = proxy.reload(*found)
            assert told.startswith(says)
            assert told.endswith("; the old settings stay")
            assert reached(proxy.listeners[0]) == b"old"
        assert proxy.workers() == before
        proxy.until(lambda one: one["connections"]["active"] == 1, "the others have ended")
        until(lambda: len(proxy.fds()) == len(fds), "nothing was left open")
        assert asked(held, b"x") == b"x"
        assert proxy.reload(settings(new.text)) == "changed db"
        assert reached(proxy.listeners[0]) == b"new"


def test_there_must_be_a_proxy(tmp_path: Path) -> None:
    with serving(echo) as server, reloadable(tmp_path, settings(server.text)) as proxy:
        (tmp_path / "settings").write_bytes(pickle.dumps([]))
        os.kill(proxy.pid, signal.SIGHUP)
        until(proxy.told, "it says so")
        assert proxy.told() == ["no proxy is left; the old settings stay"]


@BOTH
def test_a_port_that_rights_are_missing_for_changes_nothing(workers: int) -> None:
    need_root()
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 81:
            pytest.skip("any user may listen at every port")
    with (
        tempfile.TemporaryDirectory() as name,  # nobody must be able to read there
        two() as (old, new),
    ):
        folder = Path(name)
        folder.chmod(0o755)
        with reloadable(folder, settings(old.text), workers=workers, user="nobody") as proxy:
            told = proxy.reload(settings(new.text, listen=("127.0.0.1:0", "127.0.0.1:81")))
            assert told == "127.0.0.1:81: listen: Permission denied; the old settings stay"
            assert reached(proxy.listeners[0]) == b"old"


# What is counted


@BOTH
def test_nothing_that_is_counted_goes_back(tmp_path: Path, workers: int) -> None:
    """An upstream goes, comes back, moves to a route and is mirrored to, all with connections."""
    with two() as (old, new), serving(echo) as tap, ExitStack() as held:
        mirror = (Mirror(parse_address(tap.text)),)
        steps = [
            settings(old.text, new.text, mirrors=mirror),
            settings(new.text, mirrors=mirror),
            settings(old.text, new.text),
            settings(
                new.text,
                routes=(Route("a.example", (Upstream(parse_address(old.text)),)),),
                route_default=(Upstream(parse_address(old.text)),),
            ),
            settings(old.text, mirrors=mirror),
            settings(old.text, new.text, mirrors=mirror),
        ]
        with reloadable(tmp_path, steps[0], workers=workers) as proxy:
            watched = Monotonic(proxy)
            moved = 0
            for step in steps[1:]:
                for number in range(4):
                    client = held.enter_context(proxy.connect())
                    client.sendall(b"12345")
                    assert exactly(client, 8)[3:] == b"12345"
                    moved += 5
                    if number % 2:
                        client.close()
                    watched.look()
                assert proxy.reload(step) == "changed db"
                watched.look()
            held.close()
            proxy.until_idle()
            proxy.until(
                lambda one: len(one["mirrors"]) == 1 and not one["mirrors"][0]["active"],
                "the mirror has all",
            )
            snapshot = watched.look()
            assert snapshot["connections"]["accepted"] == 20
            assert snapshot["bytes"]["up"] == moved
            assert sum(one["up"] for one in snapshot["upstreams"]) == moved
            assert sum(one["connections"] for one in snapshot["upstreams"]) == 20
            # of the five rounds the mirror saw those of three
            assert snapshot["mirrors"][0]["connections"] == 12
            assert snapshot["mirrors"][0]["bytes"] == 12 * 5


# The end


@BOTH
def test_connections_of_before_are_drained(tmp_path: Path, workers: int) -> None:
    with two() as (old, new):
        slow = Timeouts(drain=600.0)
        with (
            reloadable(tmp_path, settings(old.text, timeouts=slow), workers=workers) as proxy,
            proxy.connect() as first,
        ):
            assert exactly(first, 3) == b"old"
            proxy.reload(settings(new.text))
            with proxy.connect() as second:
                assert exactly(second, 3) == b"new"
                os.kill(proxy.pid, signal.SIGTERM)
                proxy.until(lambda one: one["state"] == "draining", "it drains")
                with pytest.raises(ConnectionRefusedError):
                    proxy.connect()
                assert asked(first, b"x") == asked(second, b"x") == b"x"
                first.close()
                assert asked(second, b"y") == b"y"
            assert proxy.process.wait(LONGEST) == 0


@BOTH
def test_a_second_signal_ends_all_generations_at_once(tmp_path: Path, workers: int) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=workers) as proxy:
        with proxy.connect() as first:
            assert exactly(first, 3) == b"old"
            proxy.reload(settings(new.text))
            generations = 0 if workers == 1 else workers + 1
            until(lambda: len(proxy.workers()) == generations, "who has no connection has ended")
            pids = proxy.workers()
            os.kill(proxy.pid, signal.SIGTERM)
            proxy.until(lambda one: one["state"] == "draining", "it drains")
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.process.wait(LONGEST) == 128 + signal.SIGTERM
            with pytest.raises(ConnectionResetError):
                first.recv(1)
        assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
        told = f"zpipe: signal {int(signal.SIGTERM)}\n".encode()
        until(lambda: proxy.errors.count(told) == 2, "whoever wants to know was told of each")


@BOTH
def test_a_signal_in_the_midst_of_a_reload_is_heard(tmp_path: Path, workers: int) -> None:
    """The settings come from a FIFO, and never come."""
    with (
        serving(echo) as server,
        reloadable(tmp_path, settings(server.text), workers=workers) as proxy,
        proxy.connect() as client,
    ):
        assert asked(client, b"x") == b"x"
        (tmp_path / "settings").unlink()
        os.mkfifo(tmp_path / "settings")
        os.kill(proxy.pid, signal.SIGHUP)
        with open(tmp_path / "settings", "wb"):  # until it reads there
            assert asked(client, b"y") == b"y"
            client.close()
            proxy.ends()


@BOTH
def test_a_signal_in_the_midst_of_a_reload_begins_another_one(tmp_path: Path, workers: int) -> None:
    path = tmp_path / "settings"
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=workers) as proxy:
        path.unlink()
        os.mkfifo(path)
        os.kill(proxy.pid, signal.SIGHUP)
        with open(path, "wb") as file:
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.snapshot()
            os.kill(proxy.pid, signal.SIGHUP)
            proxy.snapshot()
            file.write(pickle.dumps([settings(old.text, retries=1)]))
            proxy.write(settings(new.text))
        until(lambda: len(proxy.told()) == 2, "it has reloaded twice")
        assert proxy.told() == 2 * ["changed db"]
        assert reached(proxy.listeners[0]) == b"new"


@BOTH
def test_the_idle_time_is_that_of_the_new_settings(tmp_path: Path, workers: int) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=workers) as proxy:
        with proxy.connect() as client:
            assert exactly(client, 3) == b"old"
            proxy.reload(settings(new.text, timeouts=Timeouts(exit_idle=0.1)))
            assert asked(client, b"x") == b"x"
        assert proxy.process.wait(LONGEST) == 0


# Several workers


def test_a_generation_ends_by_itself_and_is_not_replaced(tmp_path: Path) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=2) as proxy:
        first = proxy.workers()
        with proxy.connect() as client:
            assert exactly(client, 3) == b"old"
            proxy.reload(settings(new.text))
            until(lambda: len(proxy.workers()) == 3, "the one without a connection has ended")
            assert len(set(first) & set(proxy.workers())) == 1
            assert proxy.snapshot()["workers"] == 2
        until(lambda: len(proxy.workers()) == 2, "the other one has ended")
        second = proxy.workers()
        assert not set(first) & set(second)
        assert not any(b"ended by" in line for line in proxy.errors)
        # one that is killed is replaced by one with the new settings
        os.kill(second[0], signal.SIGKILL)
        until(lambda: any(b"another one takes its place" in line for line in proxy.errors), "told")
        proxy.until(lambda one: one["workers"] == 2, "both answer")
        for _ in range(20):
            assert reached(proxy.listeners[0]) == b"new"


def test_one_of_an_old_generation_that_is_killed_is_not_replaced(tmp_path: Path) -> None:
    with two() as (old, new), reloadable(tmp_path, settings(old.text), workers=2) as proxy:
        first = proxy.workers()
        with proxy.connect() as client:
            assert exactly(client, 3) == b"old"
            proxy.reload(settings(new.text))
            until(lambda: len(proxy.workers()) == 3, "the one without a connection has ended")
            (left,) = set(first) & set(proxy.workers())
            before = proxy.snapshot()
            os.kill(left, signal.SIGKILL)
            with pytest.raises(ConnectionResetError):
                client.recv(1)
                raise ConnectionResetError  # the end comes by FIN where nothing was unread
        until(lambda: len(proxy.workers()) == 2, "it has gone")
        until(lambda: any(b"ended by signal 9\n" in line for line in proxy.errors), "it is told")
        after = proxy.snapshot()
        assert after["connections"]["accepted"] == before["connections"]["accepted"] == 1
        assert after["connections"]["active"] == 0


# Copies and logs


@BOTH
def test_a_capture_goes_on_over_a_reload(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "folder"
    capture = Capture(str(folder))
    with two() as (old, new):
        with reloadable(tmp_path, settings(old.text, capture=capture), workers=workers) as proxy:
            with proxy.connect() as first:
                assert exactly(first, 3) == b"old"
                proxy.reload(settings(new.text, capture=capture))
                with proxy.connect() as second:
                    assert exactly(second, 3) == b"new"
                    assert asked(second, b"second") == b"second"
                assert asked(first, b"first") == b"first"
                # without it, what had begun to be recorded still is
                proxy.reload(settings(old.text))
                assert asked(first, b"more") == b"more"
            assert reached(proxy.listeners[0]) == b"old"
            snapshot = proxy.until_idle()
            assert snapshot["capture"]["connections"] == 2
            if workers == 1:
                until(
                    lambda: not any(str(folder) in fd for fd in proxy.fds()), "the folder is closed"
                )
            proxy.ends()
        index = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
        found = {(folder / f"{one['id']}.up").read_bytes() for one in index}
        assert found == {b"firstmore", b"second"}
        assert all(one["missed"] == {"up": 0, "down": 0} for one in index)


def test_a_capture_that_stays_keeps_its_recorder(tmp_path: Path) -> None:
    """There is one thread that writes, and the folder is open once."""
    folder = tmp_path / "folder"
    capture = Capture(str(folder))
    with (
        two() as (old, new),
        reloadable(tmp_path, settings(old.text, capture=capture)) as proxy,
        proxy.connect() as held,
    ):
        assert exactly(held, 3) == b"old"
        tasks = len(os.listdir(f"/proc/{proxy.pid}/task"))

        def opened() -> int:
            return sum(fd == str(folder) for fd in proxy.fds())

        for number in range(4):
            server = (new, old)[number % 2]
            assert proxy.reload(settings(server.text, capture=capture)) == "changed db"
            assert len(reached(proxy.listeners[0])) == 3
            assert opened() == 1
        until(lambda: len(os.listdir(f"/proc/{proxy.pid}/task")) == tasks, "no thread was added")
        assert asked(held, b"x") == b"x"


@BOTH
def test_the_size_of_pipes_may_change(tmp_path: Path, workers: int) -> None:
    """With bulk on its way, whose pipes are those of before."""
    data = os.urandom(5 << 20)
    with serving(echo) as server:
        first = settings(server.text, pipe_size=1 << 16)
        with reloadable(tmp_path, first, workers=workers) as proxy, proxy.connect() as one:
            with sending(one, data):
                assert exactly(one, 1 << 20) == data[: 1 << 20]
                proxy.reload(replace(first, pipe_size=1 << 18))
                with proxy.connect() as other, sending(other, data):
                    assert received(other) == data
                assert received(one) == data[1 << 20 :]
            snapshot = proxy.until_idle()
            assert snapshot["bytes"]["up"] == 2 * len(data)
            proxy.until(lambda one: not one["pipes"]["borrowed"], "all pipes are back")


@BOTH
def test_the_access_log_is_opened_anew_for_all(tmp_path: Path, workers: int) -> None:
    log, rotated = tmp_path / "log", tmp_path / "log.1"
    with (
        two() as (old, new),
        reloadable(
            tmp_path, settings(old.text), workers=workers, access_log=str(log), access_format="json"
        ) as proxy,
    ):
        with proxy.connect() as first:
            assert exactly(first, 3) == b"old"
            log.rename(rotated)
            proxy.reload(settings(new.text))
            assert reached(proxy.listeners[0]) == b"new"
            log.rename(tmp_path / "log.2")
            proxy.reload(UsageError("not now"))  # it is opened all the same
            until(log.exists, "it is opened anew")
        proxy.until_idle()
        proxy.ends()
    lines = [
        json.loads(line)["upstream"]
        for path in (rotated, tmp_path / "log.2", log)
        for line in path.read_text().splitlines()
    ]
    assert sorted(lines) == sorted([old.text, new.text])
    assert old.text in log.read_text()  # by who had opened another file at first


# What is left behind


@BOTH
def test_fifty_reloads_leave_nothing_behind(tmp_path: Path, workers: int) -> None:
    folder = tmp_path / "folder"
    with two() as servers:
        kinds = [
            settings(servers[0].text),
            settings(servers[1].text, capture=Capture(str(folder)), pipe_size=1 << 16),
            settings(servers[0].text, listen=("127.0.0.1:0", "[::1]:0"), check=Check()),
            settings(f"localhost:{servers[1].text.rpartition(':')[2]}"),
        ]
        with reloadable(tmp_path, kinds[0], workers=workers) as proxy:
            proxy.reload(kinds[1])
            assert reached(proxy.listeners[0]) == b"new"
            proxy.reload(kinds[0])
            proxy.until_idle()
            until(lambda: len(proxy.workers()) == (workers if workers > 1 else 0), "they end")

            def sizes() -> tuple[int, ...]:
                tasks = len(os.listdir(f"/proc/{proxy.pid}/task"))
                return len(proxy.fds()), len(proxy.workers()), tasks

            until(lambda: not any(str(folder) in fd for fd in proxy.fds()), "it is closed")
            before = sizes()
            for number in range(50):
                told = proxy.reload(kinds[(number + 1) % len(kinds)])
                assert told in ("changed db", "nothing has changed")
                if number % 5 == 0:
                    assert len(reached(proxy.listeners[0])) == 3
            proxy.reload(kinds[0])
            proxy.until_idle()
            until(lambda: sizes() <= before, f"it is as it was: {before}")
            assert proxy.snapshot()["connections"]["accepted"] == 11


# What the service manager is told


@BOTH
def test_the_service_manager_is_told_of_a_reload_when_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    place = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", place)
    path = tmp_path / "settings"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(place)
        manager.settimeout(LONGEST / 2)
        with (
            two() as (old, new),
            reloadable(tmp_path, settings(old.text), workers=workers) as proxy,
        ):
            assert b"READY=1" in manager.recv(4096)
            path.unlink()
            os.mkfifo(path)
            os.kill(proxy.pid, signal.SIGHUP)
            assert b"RELOADING=1" in manager.recv(4096)
            with open(path, "wb") as file:
                proxy.snapshot()
                assert not select.select([manager], [], [], 0)[0]
                file.write(pickle.dumps([settings(new.text)]))
            assert b"READY=1" in manager.recv(4096)
            assert reached(proxy.listeners[0]) == b"new"
