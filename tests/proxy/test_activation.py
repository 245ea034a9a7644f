"""Sockets that are passed in, as systemd does it: found, served, and left as they were."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ZPIPE, environment, need, started, until
from tests.proxy.proxying import Proxy, asked, connected, exactly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.proxy.proxying import Server

# the process that it becomes must be the one that LISTEN_PID names
PASS = """
import fcntl, os, sys
fds, names, pid, *command = sys.argv[1:]
# out of the way of the places that they go to
found = [fcntl.fcntl(int(fd), fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds.split(",")]
for place, fd in enumerate(found):
    os.dup2(fd, 3 + place, inheritable=True)
os.environ["LISTEN_PID"] = pid or str(os.getpid())
os.environ["LISTEN_FDS"] = str(len(found))
if names:
    os.environ["LISTEN_FDNAMES"] = names
os.execvp(command[0], command)
"""


@contextmanager
def listening(place: str = "127.0.0.1:0") -> Iterator[socket.socket]:
    """Listen as a service manager does."""
    if place.startswith("unix:"):
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(place.removeprefix("unix:"))
            end.listen()
            end.settimeout(LONGEST / 2)
            yield end
        return
    host, _, port = place.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.create_server((host.strip("[]"), int(port)), family=family) as end:
        end.settimeout(LONGEST / 2)
        yield end


def passing(ends: Sequence[socket.socket], names: str = "", pid: str = "") -> list[str]:
    """Return the words that run a command with sockets passed in."""
    fds = ",".join(str(end.fileno()) for end in ends)
    return [sys.executable, "-c", PASS, fds, names, pid]


@contextmanager
def activated(
    *words: str, ends: Sequence[socket.socket], names: str = "", pid: str = ""
) -> Iterator[Proxy]:
    """Run `zpipe proxy` with sockets passed in; it is killed at the end."""
    with started(
        *("proxy", "--progress=never", *words),
        before=passing(ends, names, pid),
        pass_fds=[end.fileno() for end in ends],
    ) as process:
        proxy = None
        try:
            proxy = Proxy(process)
            yield proxy
        finally:
            if proxy is not None:
                proxy.close()


def refused(*words: str, ends: Sequence[socket.socket], names: str = "", pid: str = "") -> bytes:
    """Run it to its end, which is that of bad usage; return what it says."""
    done = subprocess.run(
        [*passing(ends, names, pid), *ZPIPE, "proxy", *words],
        env=environment(),
        pass_fds=[end.fileno() for end in ends],
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count(b"\n") == 1
    return done.stderr


def shown(end: socket.socket) -> str:
    host, port = end.getsockname()[:2]
    return f"{host}:{port}"


@pytest.mark.parametrize("workers", [1, 2])
def test_passed_sockets_are_served_and_listen_still_when_the_proxy_has_ended(
    upstream: Server, workers: int
) -> None:
    with listening() as end:
        for _ in range(2):  # the manager starts it again with the same socket
            with activated(upstream.text, f"--workers={workers}", ends=[end]) as proxy:
                assert proxy.listeners == [shown(end)]
                with connected(shown(end)) as client:
                    assert asked(client, b"x") == b"x"
                proxy.until_idle()
                os.kill(proxy.pid, signal.SIGTERM)
                assert proxy.process.wait(LONGEST) == 0
            # a shutdown of its copy would have ended this one
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        with connected(shown(end)) as client:
            accepted, _ = end.accept()
            with accepted:
                client.sendall(b"still there")
                assert exactly(accepted, 11) == b"still there"


def test_who_comes_while_it_drains_waits_for_the_next_one(upstream: Server) -> None:
    """The manager's socket takes connections all the time: none is refused or lost."""
    with (
        listening() as end,
        activated(upstream.text, ends=[end]) as old,
        connected(shown(end)) as first,
    ):
        assert asked(first, b"x") == b"x"
        os.kill(old.pid, signal.SIGTERM)
        old.until(lambda one: one["state"] == "draining", "it drains")
        with connected(shown(end)) as second:
            second.sendall(b"early")
            assert asked(first, b"y") == b"y"
            first.close()
            assert old.process.wait(LONGEST) == 0
            with activated(upstream.text, ends=[end]):
                assert exactly(second, 5) == b"early"


def test_a_passed_unix_socket_keeps_its_path(upstream: Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listening(f"unix:{path}") as end:
        with activated(upstream.text, ends=[end]) as proxy:
            assert proxy.listeners == [f"unix:{path}"]
            with connected(f"unix:{path}") as client:
                assert asked(client, b"x") == b"x"
            proxy.until_idle()
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.process.wait(LONGEST) == 0
        assert path.is_socket()
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_all_that_are_passed_are_served(upstream: Server, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with (
        listening() as first,
        listening("[::1]:0") as second,
        listening(f"unix:{path}") as third,
        activated(upstream.text, ends=[first, second, third]) as proxy,
    ):
        port = second.getsockname()[1]
        assert proxy.listeners == [shown(first), f"[::1]:{port}", f"unix:{path}"]
        for place in proxy.listeners:
            with connected(place) as client:
                assert asked(client, b"x") == b"x"


def test_one_of_them_is_chosen_by_name_or_number(upstream: Server) -> None:
    with listening() as http, listening() as admin:
        for wish in ("fd:admin", "fd:4"):
            with activated(
                *("--listen", wish, upstream.text), ends=[http, admin], names="http:admin"
            ) as proxy:
                assert proxy.listeners == [shown(admin)]
                with connected(shown(admin)) as client:
                    assert asked(client, b"x") == b"x"


def test_a_name_may_stand_for_several(upstream: Server) -> None:
    with (
        listening() as first,
        listening() as other,
        listening() as second,
        activated(
            *("--listen=fd:web", upstream.text),
            ends=[first, other, second],
            names="web:other:web",
        ) as proxy,
    ):
        assert proxy.listeners == [shown(first), shown(second)]


def test_passed_sockets_and_own_ones_go_together(upstream: Server) -> None:
    with listening() as end:
        words = ("--listen=fd:web", "--listen=127.0.0.1:0", upstream.text)
        with activated(*words, ends=[end], names="web") as proxy:
            assert proxy.listeners[0] == shown(end)
            for place in proxy.listeners:
                with connected(place) as client:
                    assert asked(client, b"x") == b"x"


def test_sockets_that_are_meant_for_another_process_are_left_alone() -> None:
    """Then the default holds, 127.0.0.1 with the upstream's port, which is the upstream itself."""
    with listening() as end:
        said = refused(shown(end), ends=[end], pid="1")
    assert b"is on this machine, at the same port: give --listen" in said


def test_a_name_that_was_not_passed_is_refused_with_those_that_were() -> None:
    with listening() as first, listening() as second:
        said = refused(
            "--listen=fd:metrics", "127.0.0.1:1", ends=[first, second], names="http:admin"
        )
    assert b"fd:metrics: listen: no passed socket has this name" in said
    assert b"http, admin" in said


def test_what_does_not_listen_is_refused() -> None:
    with socket.socket() as idle, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        idle.bind(("127.0.0.1", 0))
        assert b"does not listen" in refused("127.0.0.1:1", ends=[idle])
        assert b"not a stream socket" in refused("127.0.0.1:1", ends=[datagrams])


def test_workers_share_what_is_passed(upstream: Server) -> None:
    with listening() as end, activated(upstream.text, "--workers=2", ends=[end]) as proxy:
        proxy.until(lambda one: one["workers"] == 2, "both answer")
        with open(f"/proc/{proxy.pid}/task/{proxy.pid}/children") as file:
            victim = int(file.read().split()[0])
        os.kill(victim, signal.SIGKILL)
        for _ in range(10):
            with connected(shown(end)) as client:
                assert asked(client, b"x") == b"x"
        until(
            lambda: any(b"another one takes its place" in line for line in proxy.errors),
            "it is replaced",
        )
        os.kill(proxy.pid, signal.SIGTERM)
        assert proxy.process.wait(LONGEST) == 0
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def test_an_idle_proxy_ends_and_is_begun_again_by_the_next_client(
    upstream: Server, tmp_path: Path
) -> None:
    """By systemd's own program for trying that, which waits for a client and then becomes it."""
    path = tmp_path / "socket"
    for _ in range(2):
        path.unlink(missing_ok=True)
        process = subprocess.Popen(
            [
                *(need("systemd-socket-activate"), f"--listen={path}", "--setenv=PYTHONPATH"),
                *(*ZPIPE, "proxy", "--exit-idle-time=100ms", upstream.text),
            ],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            assert b"Listening on" in process.stderr.readline()
            with connected(f"unix:{path}") as client:
                assert asked(client, b"x") == b"x"
            assert process.wait(LONGEST) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
        assert path.is_socket()
