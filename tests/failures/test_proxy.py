"""A proxy to which the kernel says no: the bytes are the same, and it is there for the next one."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.failures.denied import allowed, denying
from tests.machine import LONGEST, content, environment, need, need_root, nobody, strace
from tests.proxy.proxying import (
    Proxy,
    connected,
    echo,
    exactly,
    limited,
    proxying,
    received,
    sending,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 3 << 20


def carries(proxy: Proxy, size: int = MANY) -> None:
    """Send much to an echo behind the proxy, and get all of it."""
    with proxy.connect() as client, sending(client, content(size)):
        assert received(client) == content(size)


def injecting(what: str) -> list[str]:
    """Return the words that run a command in which calls fail: `splice:error=EPERM:when=1+`."""
    call = what.partition(":")[0]
    return strace("-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={what}")


# splice


@pytest.mark.parametrize("name", ["EINVAL", "ENOSYS", "EPERM"])
@pytest.mark.parametrize("when", ["1+", "2+", "4", "5"])
def test_a_splice_that_is_refused_is_a_copy(name: str, when: str) -> None:
    """The odd ones are the first of a pair: from a socket; then those into one."""
    inject = injecting(f"splice:error={name}:when={when}")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        carries(proxy)
        carries(proxy)
        found = proxy.until_idle()
    assert found["bytes"]["up"] == found["bytes"]["down"] == 2 * MANY
    assert found["connections"]["closed"] == {"closed": 2}
    assert found["pipes"]["borrowed"] == 0
    if when == "1+":
        assert found["bytes"]["spliced"] == 0


@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
def test_a_sandbox_without_splice_and_tee_carries_all(name: str) -> None:
    allowed()
    before = denying(name, "splice", "tee")
    with serving(echo) as server, proxying(server.text, before=before) as proxy:
        carries(proxy)
        found = proxy.until_idle()["bytes"]
    assert (found["up"], found["down"], found["spliced"], found["lost"]) == (MANY, MANY, 0, 0)


# fds and pipes


def test_without_pipes_it_copies() -> None:
    """The first pipe is its own, and is there before any other one."""
    inject = injecting("pipe2:error=EMFILE:when=2+")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        carries(proxy)
        found = proxy.until_idle()["bytes"]
    assert (found["up"], found["down"], found["spliced"]) == (MANY, MANY, 0)


@contextmanager
def quota_used_up() -> Iterator[list[str]]:
    """Have a process of another user hold all pipes that it may; yield the words that run a command
    as that user, of whom there is no other process.
    """
    nobody()  # can another user run it at all?
    number = 2_000_000 + os.getpid()
    his = [need("setpriv"), f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    code = (
        "import os, resource, sys\n"
        "pipes = []\n"
        "while True:\n"
        "    pipes.append(os.pipe())\n"
        "    if fcntl.fcntl(pipes[-1][1], 1032) < 65536: break\n"
        "print('there', flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [*his, sys.executable, "-c", "import fcntl\n" + code]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd="/"
        ) as run:
            try:
                assert run.stdout is not None
                assert run.stdout.readline() == b"there\n"
                yield his
            finally:
                run.kill()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_user_whose_pipes_are_used_up_is_served_by_copies() -> None:
    with open("/proc/sys/fs/pipe-user-pages-soft") as file:
        if file.read() == "0\n":
            pytest.skip("pipes have no quota here")
    with (
        quota_used_up() as his,
        serving(echo) as server,
        proxying(server.text, before=his, cwd=Path("/")) as proxy,
    ):
        carries(proxy)
        # root asks another user's proxy
        found = proxy.until_idle()["bytes"]
    assert (found["up"], found["down"], found["spliced"]) == (MANY, MANY, 0)


def test_clients_beyond_its_fds_wait_without_costing_anything() -> None:
    with (
        serving(echo) as server,
        proxying(server.text, before=limited("-n 64")) as proxy,
        ExitStack() as stack,
    ):
        most = proxy.snapshot()["connections"]["max"]
        assert 4 < most < 32
        clients = [stack.enter_context(proxy.connect()) for _ in range(most + 20)]
        for client in clients:
            client.sendall(b"question")
        for client in clients[:most]:
            assert exactly(client, 8) == b"question"
        with proxying(server.text) as other, other.connect() as busy:
            used = proxy.cpu()
            for _ in range(2000):  # meanwhile
                busy.sendall(b"x")
                assert exactly(busy, 1) == b"x"
            assert proxy.cpu() - used < other.cpu() / 2
        assert proxy.snapshot()["connections"]["active"] == most
        for client in clients[:most]:
            client.sendall(b"more")
            assert exactly(client, 4) == b"more"
            client.close()
        for client in clients[most:]:
            assert exactly(client, 8) == b"question"
            client.close()
        found = proxy.until_idle()["connections"]
        assert (found["accepted"], found["refused"]) == (most + 20, {})


def test_many_bulk_connections_share_few_fds() -> None:
    with serving(echo) as server, proxying(server.text, before=limited("-n 64")) as proxy:
        most = proxy.snapshot()["connections"]["max"]
        failures: list[BaseException] = []

        def run() -> None:
            try:
                carries(proxy, 1 << 20)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=run) for _ in range(2 * most)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONGEST)
        if failures:
            raise failures[0]
        found = proxy.until_idle()
        assert found["connections"]["closed"] == {"closed": 2 * most}
        assert found["pipes"]["borrowed"] == 0


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
def test_an_accept_that_fails_for_want_of_something_is_made_good(name: str) -> None:
    inject = injecting(f"accept4:error={name}:when=1..3")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        with connected(proxy.listeners[0]) as client:
            client.sendall(b"question")
            assert exactly(client, 8) == b"question"
        found = proxy.until_idle()["connections"]
    assert found["accepted"] == 1
    # a question for its state may have met with one of them
    assert 1 <= found["refused"]["no-fds"] <= 3


@pytest.mark.parametrize("name", ["ECONNABORTED", "EPROTO", "EINTR"])
def test_an_accept_of_somebody_who_has_left_is_passed_over(name: str) -> None:
    inject = injecting(f"accept4:error={name}:when=1..2")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        carries(proxy, 1000)


@pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS"])
def test_a_client_without_a_socket_for_its_upstream_is_let_go(name: str) -> None:
    """Its own sockets, that for its state among them, are made before."""
    inject = injecting(f"socket:error={name}:when=4..6")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        served = 0
        for _ in range(8):
            with suppress(ConnectionError), connected(proxy.listeners[0]) as client:
                client.sendall(b"question")
                served += exactly(client, 8) == b"question"
        found = proxy.until_idle()["connections"]
    assert 0 < served < 8
    assert found["closed"] == {"closed": served, "no-upstream": 8 - served}


def test_a_failed_watch_ends_that_connection_alone() -> None:
    """ENOSPC: more fds are watched than fs.epoll.max_user_watches allows."""
    inject = injecting("epoll_ctl:error=ENOSPC:when=4..5")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        for _ in range(4):
            with suppress(ConnectionError), connected(proxy.listeners[0]) as client:
                client.sendall(b"question")
                exactly(client, 8)
        proxy.until_idle()
        carries(proxy, 1000)


@pytest.mark.parametrize("name", ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENOMEM"])
@pytest.mark.parametrize("call", ["readv", "write", "splice", "shutdown"])
def test_an_error_in_the_middle_ends_that_connection_alone(call: str, name: str) -> None:
    """By then the proxy itself has no need of the call."""
    first = {"readv": 1, "write": 30, "splice": 3, "shutdown": 1}[call]
    inject = injecting(f"{call}:error={name}:when={first}")
    with serving(echo) as server, proxying(server.text, before=inject) as proxy:
        with suppress(ConnectionError), connected(proxy.listeners[0]) as client:
            if call == "write":
                while True:
                    client.sendall(b"question")
                    if exactly(client, 8) != b"question":
                        break
            else:
                # it ends in a reset, or with less than was sent
                with suppress(ConnectionError), sending(client, content(MANY)):
                    received(client)
        found = proxy.until_idle()
        assert sum(found["connections"]["closed"].values()) == 1
        assert found["connections"]["closed"].get("closed", 0) == 0
        assert found["pipes"]["borrowed"] == 0
        carries(proxy, 100_000)


# Networks


def test_an_upstream_behind_a_network_that_drops_all_is_given_up() -> None:
    """What is sent to it is lost on the way: neither refused nor answered."""
    need_root()
    ip = need("ip")
    name = f"zpipe-{os.getpid()}"
    far = "198.51.100.7"  # for documentation (RFC 5737)
    made = subprocess.run([ip, "netns", "add", name], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"ip netns: {made.stderr.decode().strip()}")
    try:
        inside = [ip, "netns", "exec", name]
        # what comes back from loopback for another machine is not forwarded
        for line in ("link set lo up", f"route add {far} dev lo"):
            subprocess.run([*inside, ip, *line.split()], check=True, capture_output=True)
        place = f"/tmp/zpipe-{os.getpid()}.sock"
        code = (
            "import socket, sys\n"
            "with socket.create_server(('127.0.0.1', 9)) as listener:\n"
            "    print('there', flush=True)\n"
            "    end, _ = listener.accept()\n"
            "    end.sendall(end.recv(8))\n"
        )
        with subprocess.Popen(
            [*inside, sys.executable, "-c", code], stdout=subprocess.PIPE
        ) as behind:
            try:
                assert behind.stdout is not None
                assert behind.stdout.readline() == b"there\n"
                options = ("--balance", "first", "--connect-timeout", "300ms")
                upstreams = (f"{far}:80", "127.0.0.1:9")
                listen = (f"unix:{place}",)  # a path is the same in every network
                with (
                    proxying(*options, *upstreams, listen=listen, before=inside),
                    connected(f"unix:{place}") as client,
                ):
                    client.sendall(b"question")
                    assert exactly(client, 8) == b"question"
            finally:
                behind.kill()
    finally:
        subprocess.run([ip, "netns", "del", name], check=True, capture_output=True)
        with suppress(FileNotFoundError):
            os.unlink(f"/tmp/zpipe-{os.getpid()}.sock")


def test_a_unix_upstream_whose_backlog_is_full_is_waited_for() -> None:
    """It says EAGAIN at once, and does not tell when there is room."""
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(f"\0zpipe-full-{os.getpid()}")
        listener.listen(0)
        waiting = 0
        with suppress(BlockingIOError):
            while True:
                end = stack.enter_context(socket.socket(socket.AF_UNIX))
                end.setblocking(False)
                end.connect(f"\0zpipe-full-{os.getpid()}")
                waiting += 1
        text = f"unix:@zpipe-full-{os.getpid()}"
        with proxying(text) as proxy, proxy.connect() as client:
            client.sendall(b"question")
            proxy.until(lambda one: one["connections"]["active"] == 1, "it has come in")
            for _ in range(waiting):
                listener.accept()[0].close()
            served, _ = listener.accept()
            with served:
                assert exactly(served, 8) == b"question"
                served.sendall(b"answer")
            assert exactly(client, 6) == b"answer"
