"""Too few fds, too few pages for pipes: another way is found, or one line says what is missing."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.machine import ROOT, content, environment, missing, need, need_root
from tests.paths.tracing import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA = content(300_001)
SOMEBODY = 2_000_000 + os.getpid()  # whose pages no test beside this one uses up or gives back


@pytest.mark.parametrize("words", [(), ("--via", "splice")], ids=["chosen", "asked"])
def test_few_fds(words: tuple[str, ...], tmp_path: Path) -> None:
    """At every limit the copy is right or fails in one line; somewhere only the pipe is missing."""
    sink = tmp_path / "sink"
    without_pipe = 0
    for limit in range(5, 40):
        near, far = socket.socketpair()
        sender = threading.Thread(target=send, args=(near,))
        sender.start()
        given = far.detach()
        few = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh"]
        done = run(*words, "-", sink, stdin=given, give_away=[given], before=few)
        sender.join()
        if done.status == 0:
            assert sink.read_bytes() == DATA
            if done.record("hop")["mover"] == "splice":
                break
            sink.unlink()
            fallback = done.record("fallback")
            assert (fallback["call"], fallback["errno"]) == ("begin", errno.EMFILE)
            without_pipe += 1
        elif done.records:
            assert done.status == 1 and done.errors.count("\n") == 1, done.errors
            assert "Too many open files" in done.errors
            assert os.listdir(tmp_path) == []
            without_pipe += "--via splice: begin: " in done.errors
    else:
        pytest.fail("it never had enough")
    assert without_pipe, "the pipe alone was never the one too many"


def send(near: socket.socket) -> None:
    """Send everything to whoever is there, and hear that nobody is."""
    with near:
        try:
            near.sendall(DATA)
        except OSError:
            return


GREEDY = """
import os, fcntl, sys
pipes = []
try:
    while len(pipes) < 500:
        pipes.append(os.pipe())
        fcntl.fcntl(pipes[-1][1], 1031, 1 << 20)
except PermissionError:
    pass
while len(pipes) < 500 and fcntl.fcntl(pipes[-1][1], 1032) > 8192:
    pipes.append(os.pipe())
print(fcntl.fcntl(pipes[-1][1], 1032), flush=True)
sys.stdin.read()
"""


@contextmanager
def no_pages_left() -> Iterator[list[str]]:
    """Use up the pages for pipes of a user; yield the words that make a command his.

    Beyond pipe-user-pages-soft a new pipe has two slots, and none may grow.
    """
    need_root()
    his = [need("setpriv"), f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"]
    his += ["--inh-caps=-all"]
    probe = [*his, sys.executable, "-c", "import zpipe.commands.cp, zpipe.engine.run"]
    tried = subprocess.run(probe, env=environment(), cwd="/", capture_output=True, check=False)
    if tried.returncode:
        # where the checkout lies is nothing that CI could install
        why = tried.stderr.decode()[-200:]
        pytest.skip(f"another user cannot run this Python from {ROOT}: {why}")
    with subprocess.Popen(
        [*his, sys.executable, "-c", GREEDY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as greedy:
        assert greedy.stdout is not None and greedy.stdin is not None
        try:
            granted = int(greedy.stdout.readline())
            if granted > 8192:
                missing("this kernel gives every user all the pages for pipes that he wants")
            yield his
        finally:
            greedy.stdin.close()
            greedy.wait()


def test_no_pages_for_pipes_are_left(tmp_path: Path) -> None:
    """The private pipe has two slots then: slower, and still right."""
    sink = tmp_path / "sink"
    with no_pages_left() as his:
        near, far = socket.socketpair()
        sender = threading.Thread(target=send, args=(near,))
        sender.start()
        given, fd = far.detach(), os.open(sink, os.O_WRONLY | os.O_CREAT)
        # the files are root's: they are inherited, not opened
        done = run("-", "-", stdin=given, stdout=fd, give_away=[given, fd], before=his)
        sender.join()
    assert done.status == 0, done.errors
    assert sink.read_bytes() == DATA
    assert done.record("hop")["mover"] == "splice"
    assert done.record("hop")["notes"] == ["the private pipe has 8192 bytes, not 1048576"]


def test_pipes_of_somebody_else(tmp_path: Path) -> None:
    """Standard input and output are root's pipes: they block, and cannot be opened again."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    with no_pages_left() as his:
        sender = subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE)
        assert sender.stdout is not None
        with sender:
            done = run("-", "-", stdin=sender.stdout.fileno(), before=his)
    assert done.status == 0, done.errors
    assert done.output == DATA


def test_a_file_to_a_pipe_of_somebody_else(tmp_path: Path) -> None:
    """sendfile would sleep in it, deaf to signals: splice asks first."""
    source = tmp_path / "source"
    source.write_bytes(DATA)
    fd = os.open(source, os.O_RDONLY)
    with no_pages_left() as his:
        done = run("-", "-", stdin=fd, give_away=[fd], before=his)
    assert done.status == 0, done.errors
    assert done.output == DATA
    assert done.record("hop")["mover"] == "splice"
    assert "blocks" in done.record("start")["refused"]["sendfile"]
