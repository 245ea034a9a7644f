"""The commands in the header of each recipe do what they are there for, typed into a shell.

Each recipe is tried in a folder and a network of its own: there the ports are free. A line is typed
when what was started before it listens, as somebody would who reads what is told.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, environment, leftovers, missing, need, until
from tests.recipes.header import RECIPES, header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STARTS = re.compile(r"[^&>]&(?: \w+=\$!)?$")
_SERVES = re.compile(r"zpipe|http\.server|s_server")
_GOOD_NEWS = re.compile(r": proxy \w+: .* -> | none differ$")
_PLACE = re.compile(r"(?<=127\.0\.0\.1[: ])[0-9]+|(?<=unix-listen:)\S+")
_RECIPE = re.compile(r"zpipe run (\S+)")
_LISTENS_TCP, _LISTENS_UNIX = "0A", "00010000"  # of /proc/net/tcp, /proc/net/unix


@cache
def own_network() -> list[str]:
    """Return the words that run a command in a network of its own, or skip."""
    become = [] if os.geteuid() == 0 else ["--map-root-user"]
    prepare = f'{need("ip")} link set lo up && exec "$@"'
    words = [need("unshare"), *become, "--net", "sh", "-c", prepare, "-"]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    if tried.returncode:
        missing(f"no network of our own: {tried.stderr.decode().strip()}")
    return words


class Shell:
    """A shell to which lines are typed."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process = process

    def type(self, line: str) -> int:
        """Run a line, and return its status; wait until what it starts beside listens."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f'{line}\necho "$?" >&3\n'.encode())
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST)
        assert ready, f"it does not end: {line}"
        status = self._process.stdout.readline()
        assert status, f"the shell has ended at: {line}"
        if _STARTS.search(line) and _SERVES.search(line):
            place = _place(line)
            until(lambda: self._listens(place), f"somebody listens at {place}: {line}")
        return int(status)

    def _listens(self, place: str) -> bool:
        """Tell whether somebody listens at a port or a path, in the network of the shell."""
        folder = f"/proc/{self._process.pid}/net"
        if not place.isdigit():
            with open(f"{folder}/unix") as file:
                sockets = [line.split() for line in file]
            return any(each[3] == _LISTENS_UNIX and each[-1] == place for each in sockets)
        with open(f"{folder}/tcp") as file:
            sockets = [line.split() for line in file]
        end = f":{int(place):04X}"
        return any(each[3] == _LISTENS_TCP and each[1].endswith(end) for each in sockets)


def _place(line: str) -> str:
    """Return the port or the path at which a command listens: it names that first, if at all."""
    found = _PLACE.search(line)
    if found is None:
        recipe = _RECIPE.search(line)
        assert recipe, f"where does it listen: {line}"
        text = (ROOT / "recipes" / recipe[1]).read_text().partition("\nparams:")[2]
        found = _PLACE.search(text)
        assert found, f"{recipe[1]}: where does it listen?"
    return found[0]


@contextmanager
def shell(folder: Path, programs: Path, output: Path) -> Iterator[Shell]:
    """Start a shell in a folder; whatever is still there at the end is killed."""
    around = environment(
        HOME=str(folder), TMPDIR=str(folder), PATH=f"{programs}:{os.environ['PATH']}"
    )
    process = subprocess.Popen(
        [*own_network(), "sh", "-c", 'exec 3>&1 >"$0" 2>&1 && exec sh', str(output)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=folder,
        env=around,
        start_new_session=True,
    )
    with process:
        try:
            yield Shell(process)
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_its_commands_do_what_they_are_there_for(recipe: Path, tmp_path: Path) -> None:
    commands = header(recipe).commands
    for program in ("gzip", "openssl", "python3"):
        if any(program in line for line in commands):
            need(program)
    folder, programs = tmp_path / "folder", tmp_path / "programs"
    folder.mkdir()
    programs.mkdir()
    for each in RECIPES:
        shutil.copy(each, folder)
    (programs / "zpipe").write_text(f'#!/bin/sh\nexec {sys.executable} -m zpipe "$@"\n')
    (programs / "zpipe").chmod(0o755)
    output = tmp_path / "output"
    with shell(folder, programs, output) as typed:
        for line in commands:
            status = typed.type(line)
            assert status == 0, f"{line}: {output.read_text()}"
    told = output.read_text()
    complaints = [line for line in told.splitlines() if line.startswith("zpipe: ")]
    assert not [line for line in complaints if not _GOOD_NEWS.search(line)], told
    if "echo hello" in " ".join(commands):
        assert "hello" in told
    assert not leftovers(folder)
