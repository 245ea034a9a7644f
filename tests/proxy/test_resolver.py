"""Names of upstreams that move, with the system's own resolver and a hosts file of the test.

What needs a hosts file runs in a child process with a mount namespace of its own.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, environment, missing, need, need_root, until
from tests.proxy.proxying import run_until
from zpipe.errors import UsageError
from zpipe.proxy.loop import Loop
from zpipe.proxy.resolver import Resolver, has_name, resolve_first
from zpipe.proxy.settings import Address, Upstream
from zpipe.proxy.upstreams import Target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NO_NAME = "x" * 64 + ".invalid"  # a part of a name has 63 letters at most: no server is asked
HOSTS = Path("/etc/hosts")


def tcp(host: str, port: int = 80) -> Target:
    return Target(Upstream(Address("tcp", f"{host}:{port}", host=host, port=port)))


def unix(path: str) -> Target:
    return Target(Upstream(Address("unix", f"unix:{path}", path=path)))


def hosts_of(target: Target) -> list[str]:
    return [place[0] for _, place in target.addresses]


@contextmanager
def resolving(*targets: Target, every: float = 0) -> Iterator[tuple[Loop, Resolver, list[str]]]:
    loop, told = Loop(), list[str]()
    resolver = Resolver(loop, targets, every, told.append)
    try:
        resolver.start()
        yield loop, resolver, told
    finally:
        resolver.close()
        loop.close()


def moved(target: Target, was: object) -> bool:
    return target.addresses != was


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "resolver"]


# without a hosts file


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "::1", "fe80::1%lo", "2001:db8::1"])
def test_a_number_is_no_name(host: str) -> None:
    assert not has_name(Address("tcp", host, host=host, port=80))


@pytest.mark.parametrize("host", ["localhost", "db.example", "1.2.3.4.5", "bücher.example", "::g"])
def test_what_is_no_number_is_a_name(host: str) -> None:
    assert has_name(Address("tcp", host, host=host, port=80))


def test_paths_have_no_names() -> None:
    assert not has_name(Address("unix", "unix:db", path="db"))


def test_numbers_and_paths_start_no_thread() -> None:
    until(lambda: not threads(), "those of other tests have ended")
    targets = [tcp("127.0.0.1"), tcp("::1"), unix("/run/db"), unix("@db")]
    resolve_first(targets)
    with resolving(*targets, every=0.001) as (_, resolver, _):
        resolver.now()
        assert not threads()


def test_the_first_resolution_gives_every_target_its_addresses() -> None:
    targets = [tcp("127.0.0.1", 5433), tcp("::1", 5434), unix("/run/db"), unix("@db")]
    resolve_first(targets)
    assert [target.addresses for target in targets] == [
        [(socket.AF_INET, ("127.0.0.1", 5433))],
        [(socket.AF_INET6, ("::1", 5434, 0, 0))],
        [(socket.AF_UNIX, "/run/db")],
        [(socket.AF_UNIX, b"\0db")],
    ]


def test_the_first_resolution_tells_of_all_names_that_do_not_resolve_at_once() -> None:
    good = tcp("127.0.0.1")
    with pytest.raises(UsageError) as raised:
        resolve_first([tcp(NO_NAME), good, tcp(f"other.{NO_NAME}"), tcp(NO_NAME)])
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [NO_NAME, f"other.{NO_NAME}"]
    assert good.addresses


def test_close_ends_the_thread() -> None:
    with resolving(tcp("localhost"), every=1000):
        assert threads()
    until(lambda: not threads(), "the thread has ended")


def test_an_error_is_told_once_and_changes_nothing() -> None:
    bad, good = tcp(NO_NAME), tcp("localhost")
    bad.addresses = known = [(int(socket.AF_INET), ("10.0.0.1", 80))]
    with resolving(bad, good) as (loop, resolver, told):
        for _ in range(3):
            good.addresses = []
            resolver.now()
            run_until(loop, lambda: good.addresses, "names were resolved")
        assert len(told) == 1
        assert told[0].startswith(f"{NO_NAME}:80: resolve: ")
        assert bad.addresses is known


# in a child process: what is in /etc/hosts counts, and nothing else


def name_moves() -> None:
    HOSTS.write_text("10.0.0.1 db.example\n")
    target = tcp("db.example", 5432)
    resolve_first([target])
    first = target.addresses
    assert first == [(socket.AF_INET, ("10.0.0.1", 5432))]
    with resolving(target) as (loop, resolver, told):
        HOSTS.write_text("10.0.0.2 db.example\n10.0.0.3 db.example\n")
        resolver.now()
        run_until(loop, lambda: target.addresses != first, "the name has moved")
        assert sorted(hosts_of(target)) == ["10.0.0.2", "10.0.0.3"]
        assert hosts_of(target)[0] == target.address()[1][0]
        assert not told
    assert first == [(socket.AF_INET, ("10.0.0.1", 5432))]


def name_is_asked_for_at_intervals() -> None:
    HOSTS.write_text("10.0.0.1 db.example\n")
    target = tcp("db.example")
    resolve_first([target])
    with resolving(target, every=0.005) as (loop, _, _):
        for host in ("10.0.0.2", "10.0.0.3"):
            HOSTS.write_text(f"{host} db.example\n")
            was = target.addresses
            run_until(loop, partial(moved, target, was), "the name has moved")
            assert hosts_of(target) == [host]


def name_goes_and_comes_back() -> None:
    both = "10.0.0.1 db.example\n10.0.0.9 other.example\n"
    HOSTS.write_text(both)
    target, other = tcp("db.example"), tcp("other.example")
    resolve_first([target, other])
    known = target.addresses

    def ask() -> None:
        other.addresses = []
        resolver.now()
        run_until(loop, lambda: other.addresses, "names were resolved")

    with resolving(target, other) as (loop, resolver, told):
        for round_ in (1, 2):
            HOSTS.write_text("10.0.0.9 other.example\n")
            ask()
            ask()
            assert len(told) == round_, told
            assert told[-1].startswith("db.example:80: resolve: ")
            assert target.addresses is known
            HOSTS.write_text(both)
            ask()
            assert target.addresses is known


def slow_resolver_holds_nothing_up_and_wakes_nobody_after_close() -> None:
    target = tcp("db.example")
    target.addresses = known = [(int(socket.AF_INET), ("10.0.0.1", 80))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        server.setblocking(False)
        questions: list[tuple[bytes, tuple[str, int]]] = []

        def asked() -> bool:
            try:
                questions.append(server.recvfrom(512))
            except BlockingIOError:
                pass
            return bool(questions)

        loop = Loop()
        resolver = Resolver(loop, [target], 0, lambda text: None)
        resolver.start()
        resolver.now()
        run_until(loop, asked, "the resolver waits for an answer, while timers of the loop run")
        resolver.close()
        loop.close()
        # the numbers of the loop's fds go to others, to whom nobody may write
        strangers = [end for _ in range(4) for end in socket.socketpair()]

        def ended() -> bool:
            asked()
            while questions:
                question, client = questions.pop()
                server.sendto(dns_answer(question), client)
            return not threads()

        until(ended, "the thread has ended")
    assert target.addresses is known
    for stranger in strangers:
        with pytest.raises(BlockingIOError):
            stranger.recv(1, socket.MSG_DONTWAIT)


def name_server_is_asked() -> None:
    """Show that the answers are good ones, for the sake of the case above."""
    target = tcp("db.example", 5432)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        with resolving(target) as (loop, resolver, _):

            def serve(event: int) -> None:
                question, client = server.recvfrom(512)
                server.sendto(dns_answer(question), client)

            loop.watch(server.fileno(), select.EPOLLIN, serve)
            resolver.now()
            run_until(loop, lambda: target.addresses, "the name was resolved")
    assert target.addresses == [(socket.AF_INET, ("10.0.0.2", 5432))]


def dns_answer(question: bytes) -> bytes:
    """Answer A with 10.0.0.2, and all else with nothing (RFC 1035)."""
    end = question.index(b"\0", 12) + 5
    number, asked = question[:2], question[12:end]
    is_a = asked[-4:-2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x0a\0\0\2"
    flags, counts = b"\x81\x80", b"\0\1\0%c\0\0\0\0" % is_a
    return number + flags + counts + asked + (record if is_a else b"")


def run_child(case: Callable[[], None], folder: Path, files: dict[str, str], *unshare: str) -> None:
    """Run a case in a process of its own, with other files in /etc."""
    need_root()
    prepare = []
    for name, text in files.items():
        (folder / name).write_text(text)
        prepare.append(f'mount --bind "{folder}/{name}" /etc/{name}')
    if "--net" in unshare:
        prepare.append(f"{need('ip')} link set lo up")
    script = " && ".join([*prepare, 'exec "$@"'])
    words = [need("unshare"), "--mount", *unshare, "sh", "-c", script, "-"]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    if tried.returncode:
        missing(f"no resolver files of our own: {tried.stderr.decode().strip()}")
    code = f"from tests.proxy import test_resolver as t; t.{case.__name__}()"
    done = subprocess.run(
        [*words, sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr, done.stderr.decode()  # of the thread


def name_of(case: Callable[[], None]) -> str:
    return case.__name__


@pytest.mark.parametrize(
    "case", [name_moves, name_is_asked_for_at_intervals, name_goes_and_comes_back], ids=name_of
)
def test_with_a_hosts_file(case: Callable[[], None], tmp_path: Path) -> None:
    run_child(case, tmp_path, {"hosts": "", "nsswitch.conf": "hosts: files\n"})


@pytest.mark.parametrize(
    "case",
    [name_server_is_asked, slow_resolver_holds_nothing_up_and_wakes_nobody_after_close],
    ids=name_of,
)
def test_with_a_name_server(case: Callable[[], None], tmp_path: Path) -> None:
    resolv = "nameserver 127.0.0.1\n"
    files = {"resolv.conf": resolv, "nsswitch.conf": "hosts: dns\n"}
    run_child(case, tmp_path, files, "--net")
