"""Standard input and output joined with an upstream."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ZPIPE, content, environment, started, until, zpipe
from tests.proxy.proxying import echo, exactly, received, reset, sending, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MANY = 3 << 20


def stdio(text: str, data: bytes, *options: str) -> bytes:
    """Send through pipes, and return what came back."""
    done = zpipe("proxy", "--stdio", *options, text, data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


@contextmanager
def joined(text: str, end: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """Run it with one socket as standard input and output."""
    words = [*ZPIPE, "proxy", "--stdio", text]
    with subprocess.Popen(
        words, stdin=end.fileno(), stdout=end.fileno(), stderr=subprocess.PIPE, env=environment()
    ) as run:
        try:
            yield run
        finally:
            if run.poll() is None:
                run.kill()


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0", "unix:{}/server"])
@pytest.mark.parametrize("options", [(), ("--no-splice",)], ids=["splice", "copy"])
def test_pipes_carry_both_ways(where: str, options: tuple[str, ...], tmp_path: Path) -> None:
    with serving(echo, where.format(tmp_path)) as server:
        for size in (0, 1, 65536, MANY):
            assert stdio(server.text, content(MANY)[:size], *options) == content(MANY)[:size]


def test_files_carry_both_ways(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(content(MANY))
    with (
        serving(echo) as server,
        open(tmp_path / "in", "rb") as source,
        open(tmp_path / "out", "wb") as sink,
    ):
        done = zpipe("proxy", "--stdio", server.text, stdin=source, stdout=sink)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes() == content(MANY)


def test_output_is_appended_where_the_shell_says_so(tmp_path: Path) -> None:
    """A file in append mode cannot be spliced to."""
    (tmp_path / "out").write_bytes(b"before ")
    with serving(echo) as server, open(tmp_path / "out", "ab") as sink:
        done = zpipe("proxy", "--stdio", server.text, data=content(MANY), stdout=sink)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "out").read_bytes() == b"before " + content(MANY)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_one_socket_may_be_both(kind: str) -> None:
    if kind == "unix":
        client, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
    client.settimeout(LONGEST / 2)
    with serving(echo) as server, client, joined(server.text, theirs) as run:
        theirs.close()
        with sending(client, content(MANY)):
            assert received(client) == content(MANY)
        assert run.wait(LONGEST) == 0
        assert run.stderr is not None
        assert run.stderr.read() == b""


def test_an_urgent_byte_from_a_socket_stays_in_its_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    client.settimeout(LONGEST / 2)
    with serving(echo) as server, client, joined(server.text, theirs) as run:
        theirs.close()
        client.send(b"a")
        client.send(b"!", socket.MSG_OOB)
        client.send(b"b")
        client.shutdown(socket.SHUT_WR)
        assert received(client) == b"a!b"
        assert run.wait(LONGEST) == 0


@pytest.mark.parametrize("kind", ["same", "two"])
def test_sockets_that_are_inherited_stay_as_they_were(kind: str) -> None:
    """O_NONBLOCK is shared with whoever has the socket as well."""
    client, theirs = socket.socketpair()
    other, theirs_too = socket.socketpair()
    client.settimeout(LONGEST / 2)
    other.settimeout(LONGEST / 2)
    with serving(echo) as server, client, theirs, other, theirs_too:
        out = theirs if kind == "same" else theirs_too
        words = [*ZPIPE, "proxy", "--stdio", server.text]
        with subprocess.Popen(
            words, stdin=theirs.fileno(), stdout=out.fileno(), env=environment()
        ) as run:
            answers = client if kind == "same" else other
            client.sendall(b"question")
            assert exactly(answers, 8) == b"question"
            if kind == "two":
                assert os.get_blocking(theirs.fileno())
                assert os.get_blocking(theirs_too.fileno())
            client.shutdown(socket.SHUT_WR)
            assert run.wait(LONGEST) == 0


def test_a_question_gets_its_late_answer_after_the_end_of_input() -> None:
    def late(end: socket.socket) -> None:
        assert received(end) == b"question"
        end.sendall(content(MANY))

    with serving(late) as server:
        assert stdio(server.text, b"question") == content(MANY)


@pytest.mark.parametrize("way", ["at rest", "busy"])
def test_it_ends_with_the_upstream_though_input_goes_on(way: str) -> None:
    """An upstream that has said all is the end, as it is with ssh."""

    def short(end: socket.socket) -> None:
        exactly(end, 1)
        end.sendall(b"all there is")

    reader, writer = os.pipe()
    with serving(short) as server, started("proxy", "--stdio", server.text, stdin=reader) as run:
        os.close(reader)

        def feed() -> None:
            with suppress(BrokenPipeError):
                os.write(writer, b"?")
                while way == "busy":
                    os.write(writer, b"y\n" * 2048)

        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            assert run.stdout is not None and run.stderr is not None
            output = run.stdout.read()
            status, errors = run.wait(LONGEST), run.stderr.read()
        finally:
            run.kill()
            run.wait()
            feeder.join(LONGEST)
            os.close(writer)
    if way == "at rest":
        assert (status, output, errors) == (0, b"all there is", b"")
    else:  # what it was still sent may have come back as a reset, after the answer
        assert output in (b"all there is", b"")
        assert status in (0, 1)
        assert b"standard input" not in errors


def test_an_upstream_that_refuses_is_told_and_fails() -> None:
    with serving(echo) as server:
        server.stop()
        done = zpipe("proxy", "--stdio", server.text, data=b"question")
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr == f"zpipe: {server.text}: connect: Connection refused\n".encode()


def test_the_next_upstream_serves_when_one_refuses() -> None:
    with serving(echo) as dead, serving(echo) as server:
        dead.stop()
        done = zpipe("proxy", "--stdio", dead.text, server.text, data=b"question")
    assert (done.returncode, done.stdout) == (0, b"question")


def test_a_reset_by_the_upstream_fails_after_all_that_came_before() -> None:
    seen = threading.Event()

    def rude(end: socket.socket) -> None:
        end.sendall(content(100_000))
        assert seen.wait(LONGEST / 2)
        reset(end)

    with (
        serving(rude) as server,
        started("proxy", "--stdio", server.text, stdin=subprocess.PIPE) as run,
    ):
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.read(100_000) == content(100_000)
        seen.set()
        assert run.stdout.read() == b""
        assert run.wait(LONGEST) == 1
        text = f"zpipe: {server.text}: read: Connection reset by peer\n"
        assert run.stderr.read() == text.encode()


def test_nothing_that_moves_for_too_long_ends_it_as_stalled() -> None:
    go = threading.Event()
    with serving(lambda end: go.wait(LONGEST / 2)) as server:
        words = ("proxy", "--stdio", "--idle-timeout", "200ms", server.text)
        with started(*words, stdin=subprocess.PIPE) as run:
            assert run.stderr is not None
            assert run.wait(LONGEST) == 4
            assert run.stderr.read().startswith(f"zpipe: {server.text}: idle".encode())
        go.set()


def test_nobody_who_reads_ends_it_quietly() -> None:
    def endless(end: socket.socket) -> None:
        with suppress(ConnectionError):
            while True:
                end.sendall(content(1 << 16))

    with (
        serving(endless) as server,
        started("proxy", "--stdio", server.text, stdin=subprocess.PIPE) as run,
    ):
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.read(1) == content(1 << 16)[:1]
        run.stdout.close()
        assert run.wait(LONGEST) == -signal.SIGPIPE
        assert run.stderr.read() == b""


def test_a_slow_reader_of_standard_output_gets_all() -> None:
    with (
        serving(lambda end: end.sendall(content(MANY))) as server,
        started("proxy", "--stdio", server.text, stdin=subprocess.PIPE) as run,
    ):
        until(lambda: server.count, "it has connected")
        assert run.stdout is not None
        whole = bytearray()
        while data := run.stdout.read(4097):
            whole += data
        assert bytes(whole) == content(MANY)
        assert run.wait(LONGEST) == 0


def test_a_reader_that_never_reads_does_not_keep_it_from_being_interrupted() -> None:
    def give(end: socket.socket) -> None:
        with suppress(ConnectionError):
            end.sendall(content(MANY))

    with (
        serving(give) as server,
        started("proxy", "--stdio", server.text, stdin=subprocess.PIPE) as run,
    ):
        until(lambda: server.count, "it has connected")
        run.send_signal(signal.SIGTERM)
        assert run.wait(LONGEST) == -signal.SIGTERM


def test_input_that_cannot_be_read_fails() -> None:
    with serving(echo) as server, open(os.devnull, "wb") as sink:
        done = zpipe("proxy", "--stdio", server.text, stdin=sink)
    assert done.returncode == 1
    assert done.stderr == b"zpipe: standard input: read: Bad file descriptor\n"


def test_a_full_device_as_standard_output_fails() -> None:
    with serving(echo) as server, open("/dev/full", "wb") as full:
        done = zpipe("proxy", "--stdio", server.text, data=content(MANY), stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"zpipe: standard output: write: No space left on device\n"
