"""Whatever a mirror does, the clients of a real `zpipe proxy` and their server do not notice."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.failures.denied import allowed, denying
from tests.machine import LONGEST, content, need, nobody, only_port, strace, until, zpipe
from tests.proxy.proxying import (
    asked,
    connected,
    echo,
    exactly,
    limited,
    proxying,
    received,
    reset,
    sending,
    serving,
)
from zpipe.proxy.mirror import REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

MIB = 1 << 20


def digest(data: bytes | bytearray) -> str:
    return sha256(data).hexdigest()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path that everybody may enter: that of a UNIX socket has 107 bytes at the most."""
    with tempfile.TemporaryDirectory(prefix="zp-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


class Copies:
    """A mirror that reads everything; `taken` are the connections that have ended."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def __call__(self, end: socket.socket) -> None:
        data = bytearray()
        with suppress(ConnectionError):
            while more := end.recv(MIB):
                data += more
        self.taken.append(bytes(data))


def stuck(end: socket.socket) -> None:
    """Read nothing, and do not let go, until the test does."""
    poller = select.poll()
    poller.register(end, 0)  # which leaves errors, and that both sides have ended
    poller.poll(LONGEST * 1000)


def resets_at_once(end: socket.socket) -> None:
    reset(end)


def resets_in_the_middle(end: socket.socket) -> None:
    exactly(end, 100_000)
    reset(end)


def closes_early(end: socket.socket) -> None:
    exactly(end, 1000)


def reads_in_sips(end: socket.socket) -> None:
    with suppress(ConnectionError):
        while end.recv(1000):
            pass


def ends_its_output(end: socket.socket) -> None:
    end.shutdown(socket.SHUT_WR)
    with suppress(ConnectionError):
        received(end)


def talks_without_end(end: socket.socket) -> None:
    noise = content(MIB)
    with suppress(OSError):
        while True:
            end.sendall(noise)


@contextmanager
def black_hole() -> Iterator[str]:
    """Listen with a full backlog: whoever connects hears nothing."""
    with ExitStack() as held:
        listener = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        held.enter_context(socket.create_connection(listener.getsockname(), LONGEST))
        filler = held.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody_there() -> Iterator[str]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@contextmanager
def serves(serve: Callable[[socket.socket], object]) -> Iterator[str]:
    with serving(serve) as server:
        yield server.text


# how a mirror is started, and what may be said of it where 16 MiB pass at once
BAD: dict[str, tuple[Callable[[], AbstractContextManager[str]], set[str]]] = {
    "stuck": (lambda: serves(stuck), {"full"}),
    "resets at once": (lambda: serves(resets_at_once), {"reset", "full"}),
    "resets in the middle": (lambda: serves(resets_in_the_middle), {"reset", "full"}),
    "closes early": (lambda: serves(closes_early), {"reset", "full"}),
    "reads in sips": (lambda: serves(reads_in_sips), {"ok", "full"}),
    "ends its output": (lambda: serves(ends_its_output), {"ok", "full"}),
    "talks without end": (lambda: serves(talks_without_end), {"full", "reset", "ok"}),
    "nobody there": (nobody_there, {"refused"}),
    "black hole": (black_hole, {"full", "timeout"}),
}


def converse(end: socket.socket, *, rounds: int, bulk: int) -> bytes:
    """Talk with an echo in turns, then all at once; return what was said."""
    said = bytearray()
    for number in range(rounds):
        word = b"%d!" % number
        end.sendall(word)
        assert exactly(end, len(word)) == word
        said += word
    data = content(bulk)
    with sending(end, data):
        assert digest(received(end)) == digest(data)
    return bytes(said) + data


# The primary


def test_no_mirror_however_bad_changes_a_byte_or_the_others(folder: Path) -> None:
    good = Copies()
    log = folder / "log"
    with ExitStack() as held:
        upstream = held.enter_context(serving(echo))
        mirrors = [held.enter_context(start()) for start, _ in BAD.values()]
        best = held.enter_context(serving(good))
        mirrors += [f"unix:{folder}/nobody", f"{best.text}?queue=64M"]
        proxy = held.enter_context(
            proxying(
                *(f"--mirror={text}" for text in mirrors),
                f"--access-log={log}",
                "--access-format=json",
                upstream.text,
            )
        )
        with proxy.connect() as client:
            said = converse(client, rounds=100, bulk=16 * MIB)
        until(lambda: good.taken, "the good mirror has everything")
        assert [digest(data) for data in good.taken] == [digest(said)]
        seen = proxy.until_closed("closed")
        assert seen["bytes"]["up"] == seen["bytes"]["down"] == len(said)
        assert seen["bytes"]["lost"] == 0
        expected = [allowed for _, allowed in BAD.values()] + [{"refused"}, {"ok"}]
        until(log.read_bytes, "the log is written")
        outcomes = json.loads(log.read_bytes())["mirror"].split(",")
        assert len(outcomes) == len(expected)
        assert all(
            outcome in allowed for outcome, allowed in zip(outcomes, expected, strict=True)
        ), outcomes
        # and the status tells the same
        done = zpipe("status", "--json")
        every = [json.loads(line) for line in done.stdout.splitlines()]
        (mine,) = [one for one in every if one["pid"] == proxy.pid]
        for one, outcome in zip(mine["mirrors"], outcomes, strict=True):
            assert one["connections"] == 1
            assert one["given_up"] == {outcome: 1} or outcome == "ok", one
        best_one = mine["mirrors"][-1]
        assert (best_one["bytes"], best_one["missed"]) == (len(said), 0)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_mirrors_of_both_directions_get_both_streams_whole(folder: Path, kind: str) -> None:
    """Over TCP or UNIX sockets on all sides; upper case comes back."""

    def shout(end: socket.socket) -> None:
        while data := end.recv(1 << 16):
            end.sendall(data.upper())
        end.shutdown(socket.SHUT_WR)

    def place(name: str) -> str:
        return f"unix:{folder}/{name}" if kind == "unix" else "127.0.0.1:0"

    copies, others = Copies(), Copies()
    data = content(4 * MIB).lower()
    assert data != data.upper()
    with (
        serving(shout, place("up")) as upstream,
        serving(copies, place("both")) as both,
        serving(others, place("down")) as down,
        proxying(
            f"--mirror={both.text}?direction=both&queue=64M",
            f"--mirror={down.text}?direction=down&queue=64M",
            upstream.text,
            listen=[place("listen")],
        ) as proxy,
        proxy.connect() as client,
    ):
        with sending(client, data):
            assert digest(received(client)) == digest(data.upper())
        until(lambda: len(copies.taken) == 2 and others.taken, "the mirrors have everything")
        assert sorted(map(digest, copies.taken)) == sorted(map(digest, [data, data.upper()]))
        assert list(map(digest, others.taken)) == [digest(data.upper())]
        seen = proxy.until_idle()
        assert [one["given_up"] for one in seen["mirrors"]] == [{}, {}]
        assert [one["bytes"] for one in seen["mirrors"]] == [2 * len(data), len(data)]


def test_bulk_is_spliced_without_a_tap_once_the_mirror_was_given_up(folder: Path) -> None:
    trace = folder / "trace"
    data = content(64 * MIB)
    with (
        serving(echo) as upstream,
        serving(stuck) as mirror,
        proxying(
            f"--mirror={mirror.text}?queue=100K&direction=both",
            upstream.text,
            before=strace("-e", "trace=tee,splice", "-o", str(trace)),
        ) as proxy,
        proxy.connect() as client,
    ):
        with sending(client, data):
            assert digest(received(client)) == digest(data)
        seen = proxy.until_closed("closed")
        assert seen["mirrors"][0]["given_up"] == {"full": 2}
        assert seen["bytes"]["spliced"] > 64 * MIB
    calls = trace.read_text().splitlines()
    last = max(number for number, call in enumerate(calls) if " tee(" in call)
    after = [call for call in calls[last + 1 :] if " splice(" in call]
    moved = [int(call.rpartition("= ")[2]) for call in after if "= -1" not in call]
    assert sum(moved) > 128 * MIB  # in and out, of 64 MiB in each direction


def test_a_stuck_mirror_holds_no_more_than_its_queue(folder: Path) -> None:
    """Eight connections that wait for it: pipes, and memory besides."""
    data = content(4 * MIB)
    with (
        serving(lambda end: len(received(end))) as upstream,
        serving(stuck, f"unix:{folder}/stuck") as mirror,
        proxying(f"--mirror={mirror.text}?queue=256K&when_full=block", upstream.text) as proxy,
        ExitStack() as held,
    ):
        before = _resident(proxy.pid)
        clients = [held.enter_context(proxy.connect()) for _ in range(8)]
        for client in clients:
            client.setblocking(False)

        def pushed() -> bool:
            """Send all that goes; tell whether no connection takes any more."""
            moved = 0
            for client in clients:
                with suppress(BlockingIOError):
                    moved += client.send(data)
            return not moved

        up = -1

        def waits(seen: dict[str, dict[str, int]]) -> bool:
            nonlocal up
            full, last, up = pushed(), up, seen["bytes"]["up"]
            return full and last == up

        proxy.until(waits, "every connection waits")
        assert up < 8 * 2 * MIB
        assert sum(name.startswith("pipe:") for name in proxy.fds()) <= 2 * (8 * 9 + 32 + 1)
        assert _resident(proxy.pid) - before < 8 * MIB


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# fds and pipes


def test_connections_with_bad_mirrors_leave_nothing_behind() -> None:
    kinds = ("resets at once", "resets in the middle", "closes early", "nobody there")
    with ExitStack() as held:
        upstream = held.enter_context(serving(echo))
        mirrors = [held.enter_context(BAD[kind][0]()) for kind in kinds]
        proxy = held.enter_context(
            proxying(*(f"--mirror={text}?direction=both" for text in mirrors), upstream.text)
        )

        def talk(times: int) -> dict[str, int]:
            for number in range(times):
                with proxy.connect() as client:
                    if number % 4:
                        converse(client, rounds=1, bulk=10)
                    elif number % 8:
                        converse(client, rounds=0, bulk=200_000)
                    else:
                        client.sendall(b"gone")
                        assert exactly(client, 4) == b"gone"
                        reset(client)
            seen = proxy.until(
                lambda one: (
                    not one["connections"]["active"]
                    and not any(mirror["active"] for mirror in one["mirrors"])
                ),
                "connections and mirrors have ended",
            )
            assert seen["pipes"]["borrowed"] == 0
            kinds = [name.partition(":")[0] for name in proxy.fds()]
            # pipes are kept; the question itself has a socket, for a moment
            return {kind: kinds.count(kind) for kind in kinds if kind != "pipe"}

        before = talk(8)
        until(lambda: talk(1) == before, "the fds are those from the beginning")
        talk(200)
        until(lambda: talk(1) == before, "the fds are those from before 200 connections")


def test_mirrors_that_never_let_go_do_not_use_up_the_fds_of_the_clients() -> None:
    with (
        serving(echo) as upstream,
        serving(stuck) as mirror,
        proxying(f"--mirror={mirror.text}", upstream.text, before=limited("-n 64")) as proxy,
    ):
        for number in range(100):
            with proxy.connect() as client:
                word = b"%d" % number
                client.sendall(word)
                assert exactly(client, len(word)) == word
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        seen = proxy.until_idle()
        assert seen["connections"]["closed"] == {"closed": 100}
        assert seen["connections"]["refused"] == {}


@pytest.mark.parametrize("wish", ["detach", "block", "spill"])
def test_with_64_fds_the_mirror_gets_everything_or_is_given_up_with_a_reason(wish: str) -> None:
    copies = Copies()
    data = content(4 * MIB)
    with (
        serving(echo) as upstream,
        serving(copies) as mirror,
        proxying(
            f"--mirror={mirror.text}?when_full={wish}&direction=both",
            upstream.text,
            before=limited("-n 64"),
        ) as proxy,
    ):

        def talk() -> None:
            with proxy.connect() as client, sending(client, data):
                assert digest(received(client)) == digest(data)

        clients = [threading.Thread(target=talk) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(LONGEST)
        proxy.until_closed("closed", 4)
        seen = proxy.until(lambda one: not one["mirrors"][0]["active"], "the mirror was let go")
        (told,) = seen["mirrors"]
        given_up = sum(told["given_up"].values())
        # too late: few may go on sending once their connection has ended, when fds are few
        assert set(told["given_up"]) <= {"full", "no-pipes", "no-fds", "timeout"}
        # a tap that had no socket was never there
        until(
            lambda: len(copies.taken) >= 8 - told["given_up"].get("no-fds", 0),
            "the mirror has seen the end of all",
        )
        assert all(data.startswith(copy) for copy in copies.taken)
        assert [len(copy) for copy in copies.taken].count(len(data)) >= 8 - given_up


@pytest.mark.parametrize("wish", ["detach", "block"])
def test_an_unprivileged_user_out_of_pipes_still_mirrors(wish: str) -> None:
    nobody()  # or skip
    # a user of its own: others may need the pipes of nobody
    number = 2_000_000 + os.getpid()
    become = [need("setpriv"), f"--reuid={number}", f"--regid={number}", "--clear-groups"]
    hog = (
        "import fcntl, os, sys\n"
        "held = [os.pipe() for _ in range(400)]\n"
        "for _, writer in held:\n"
        "    try: fcntl.fcntl(writer, 1031, 1 << 20)\n"
        "    except OSError: pass\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    data = content(8 * MIB)
    copies = Copies()
    with (
        subprocess.Popen(
            [*become, sys.executable, "-c", hog], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as hogging,
        serving(echo) as upstream,
        serving(copies) as mirror,
    ):
        assert hogging.stdout is not None
        hogging.stdout.readline()
        with proxying(
            f"--mirror={mirror.text}?queue=64M&direction=both&when_full={wish}",
            upstream.text,
            before=become,
            cwd=Path("/"),
        ) as proxy:
            with proxy.connect() as client, sending(client, data):
                assert digest(received(client)) == digest(data)
            seen = proxy.until_closed("closed")
            until(lambda: len(copies.taken) == 2, "the mirror has everything")
            given_up = seen["mirrors"][0]["given_up"]
            if wish == "detach" and given_up:
                assert set(given_up) <= set(REASONS)
                assert all(data.startswith(copy) for copy in copies.taken)
            else:
                assert given_up == {}
                assert [digest(copy) for copy in copies.taken] == [digest(data)] * 2


# Which connections, and until when


def test_a_connection_to_oneself_is_no_mirror(folder: Path) -> None:
    with (
        serving(echo, f"unix:{folder}/up") as server,
        proxying(
            server.text,
            *("--mirror=127.0.0.1:40000", f"--metrics=unix:{folder}/metrics"),
            listen=(f"unix:{folder}/door",),
            before=only_port(40000),
        ) as proxy,
    ):
        with proxy.connect() as client:
            assert asked(client, b"x") == b"x"

        def refused() -> bool:
            with connected(f"unix:{folder}/metrics") as end:
                end.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                told = received(end)
            return re.search(rb'given_up_total\{.*reason="refused"\} 1', told) is not None

        until(refused, "the mirror was given up")


def test_a_sample_is_about_so_many_connections_and_all_are_all() -> None:
    with (
        serving(echo) as upstream,
        serving(Copies()) as half,
        serving(Copies()) as whole,
        proxying(
            f"--mirror={half.text}?sample=50%&direction=both",
            f"--mirror={whole.text}?sample=100%",
            upstream.text,
        ) as proxy,
    ):
        for _ in range(200):
            with proxy.connect() as client:
                client.sendall(b".")
                assert exactly(client, 1) == b"."
        seen = proxy.until_idle()
        taps = seen["mirrors"][0]["connections"]
        # both directions of a connection or none; eight standard deviations
        assert taps % 2 == 0
        assert 43 <= taps // 2 <= 157
        assert seen["mirrors"][1]["connections"] == 200


def test_a_sample_of_nothing_is_refused() -> None:
    done = zpipe("proxy", "--mirror=127.0.0.1:9?sample=0%", "127.0.0.1:9")
    assert done.returncode == 2
    assert b"more than 0%" in done.stderr


def test_a_proxy_that_ends_gives_its_mirror_what_it_still_has(folder: Path) -> None:
    data = content(6 * MIB)
    go = threading.Event()
    copies = Copies()

    def late(end: socket.socket) -> None:
        assert go.wait(LONGEST)
        copies(end)

    with (
        serving(echo) as upstream,
        serving(late, f"unix:{folder}/late") as mirror,
        proxying(
            f"--mirror={mirror.text}?queue=100K&when_full=spill",
            upstream.text,
            before=["env", f"TMPDIR={folder}"],
        ) as proxy,
    ):
        with proxy.connect() as client, sending(client, data):
            assert digest(received(client)) == digest(data)
        proxy.until_idle()
        os.kill(proxy.pid, signal.SIGTERM)
        proxy.until(lambda one: one["state"] == "draining", "it waits for the mirror alone")
        go.set()
        assert proxy.process.wait(LONGEST) == 0
        until(lambda: copies.taken, "the mirror has everything")
        assert list(map(digest, copies.taken)) == [digest(data)]


@pytest.mark.parametrize("name", ["ENOSYS", "EPERM"])
def test_a_sandbox_without_tee_costs_one_connection_its_mirror(name: str) -> None:
    """From then on all is copied: to the mirrors, too."""
    allowed()
    data = content(4 * MIB)
    copies = Copies()
    with (
        serving(echo) as upstream,
        serving(copies) as mirror,
        proxying(
            f"--mirror={mirror.text}?queue=64M", upstream.text, before=denying(name, "tee")
        ) as proxy,
    ):
        for _ in range(3):
            with proxy.connect() as client, sending(client, data):
                assert digest(received(client)) == digest(data)
        proxy.until_closed("closed", 3)
        seen = proxy.until(lambda one: not one["mirrors"][0]["active"], "the mirror was let go")
        until(lambda: len(copies.taken) == 3, "the mirror has seen the end of all")
        assert seen["mirrors"][0]["given_up"] == {"no-pipes": 1}
        assert [len(copy) == len(data) for copy in copies.taken].count(True) == 2
        assert all(data.startswith(copy) for copy in copies.taken)
