"""The examples of the manual, as they stand, in a place that has what they name.

There the hosts of the examples are known, some addresses in 10.0.0.0/8 are of this machine, and
/run, /srv, /var/log and /var/tmp are empty. The examples of cp, cat and tee are run by test_manual.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, ROOT, environment, missing, need, need_root
from tests.test_manual import examples, prepare

if TYPE_CHECKING:
    from pathlib import Path

ENTER = """\
set -e
ip link set lo up
for number in $LOCAL; do ip address add 10.0.0.$number/32 dev lo; done
for folder in /run /srv /var/log /var/tmp; do mount -t tmpfs tmpfs $folder; done
mkdir /run/db /srv/backup /srv/data
mount --bind hosts /etc/hosts
exec "$@"
"""
HOSTS = """\
127.0.0.1 localhost
10.0.0.20 db.example.org
10.0.0.21 host
10.0.0.22 staging
"""
# keeps what it gets, and echoes it, but to ssh; closes its standard output once it listens
SERVER = """\
import os, socket, sys, threading

def answer(end):
    with end, open("heard", "ab", buffering=0) as heard:
        while data := end.recv(1 << 16):
            heard.write(data)
            if data.startswith(b"SSH-"):
                break
            end.sendall(data)

def serve(listener):
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

serving = []
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    listener = socket.create_server((host, int(port)))
    serving.append(threading.Thread(target=serve, args=(listener,)))
    serving[-1].start()
os.close(1)
for thread in serving:
    thread.join()  # Python 3.12 starts no further ones once the main thread has ended
"""
BEGIN = """\
set -eo pipefail
serve() { cat < <(python3 server.py "$@" & ); }  # ends when they listen
serves() { until zpipe status > status 2>&1; do kill -0 "$1"; done; }
ends() { kill "$1"; wait "$1"; }
"""
RECIPE = """\
zpipe: 1
params: {SOURCE: disk.img, HOST: 10.0.0.7}
nodes: {disk: "${SOURCE}", copy: copy.img, host: {tcp: "${HOST}:9000"}}
edges: ["disk -> copy, host"]
"""
PROXIES = """\
zpipe: 1
proxies: {web: {listen: 127.0.0.1:8080, upstreams: 10.0.0.5:80}}
"""


class Place:
    """Where the examples are run: a folder, in a network and with folders of its own."""

    def __init__(self, folder: Path):
        self.folder = folder / "folder"
        self._programs = folder / "programs"
        self.folder.mkdir()
        self._programs.mkdir()
        prepare(self.folder)
        for name, text in {
            "hosts": HOSTS,
            "server.py": SERVER,
            "backup.yaml": RECIPE,
            "nightly.yaml": RECIPE,
            "strange.yaml": RECIPE,
            "proxies.yaml": PROXIES,
        }.items():
            (self.folder / name).write_text(text)
        (self._programs / "zpipe").write_text(f'#!/bin/sh\nexec {sys.executable} -m zpipe "$@"\n')
        (self._programs / "zpipe").chmod(0o755)

    def run(self, script: str, *, local: str = "", status: int = 0) -> str:
        """Run commands in bash; return what they have told. Whatever is left of them is killed.

        `local`: the last numbers of the addresses in 10.0.0.0/8 that are of this machine.
        """
        for program in ("jq", "ssh", "gzip"):
            if re.search(rf"\b{program} ", script) and shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")
        around = environment(
            PATH=f"{self._programs}:{os.environ['PATH']}",
            HOME=str(self.folder),
            TMPDIR=str(self.folder),
            LOCAL=local,
        )
        words = [*_own(), "sh", "-c", ENTER, "-", "bash", "-c", BEGIN + script]
        with (self.folder.parent / "told").open("w+") as told:
            process = subprocess.Popen(
                words,
                cwd=self.folder,
                env=around,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
            try:
                ended = process.wait(LONGEST)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            told.seek(0)
            text = told.read()
        assert ended == status, text
        return text


def _own() -> list[str]:
    need_root()
    need("ip")
    words = [need("unshare"), "--net", "--mount"]
    tried = subprocess.run([*words, "true"], capture_output=True, check=False)
    if tried.returncode:
        missing(f"no network and mounts of our own: {tried.stderr.decode().strip()}")
    return words


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A place with the files of the examples."""
    return Place(tmp_path)


def blocks(name: str, section: int = 1) -> list[str]:
    """Return the examples of a page."""
    found = examples(ROOT / f"man/man{section}/{name}.{section}")
    assert found, f"{name}({section}) has no examples"
    return found


def lines_that_serve() -> list[str]:
    """Return the command lines of proxies, each of which serves until it is ended."""
    pages = [("zpipe-proxy", 1), ("zpipe-security", 7)]
    lines = [line for page in pages for block in blocks(*page) for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith("zpipe proxy")})


@pytest.mark.parametrize("line", lines_that_serve())
def test_proxies_serve_and_end(place: Place, line: str) -> None:
    told = place.run(f"{line} 2> told &\nuntil grep -e ' -> ' told; do kill -0 $!; done\nends $!\n")
    upstream = line.rsplit(maxsplit=1)[1].strip("'").partition("?")[0]
    assert upstream in told
    for listener in re.findall(r"--listen '?([^ ?']+)", line):
        assert listener in told


def test_the_way_of_ssh_to_a_host(place: Place) -> None:
    (line,) = [block for block in blocks("zpipe-proxy") if "--stdio" in block]
    told = place.run(f"serve 10.0.0.21:22\n{line}", local="21", status=255)  # no server of ssh
    assert "zpipe" not in told
    assert (place.folder / "heard").read_bytes().startswith(b"SSH-2.0-")


def test_replay(place: Place) -> None:
    record, *plays, one = blocks("zpipe-replay")
    one, count = re.subn(r"--id \S+", '--id "$id"', one)
    assert count == 1
    place.run(
        f"serve 10.0.0.5:80 10.0.0.6:80\n{record.strip()} &\nserves $!\n"
        "echo hello | zpipe proxy --stdio 127.0.0.1:8080 | grep hello\n"
        f"ends $!\n{''.join(plays)}"
        "id=$(basename /var/tmp/capture/*.up .up)\nserve 127.0.0.1:8080\n" + one,
        local="5 6",
    )
    # the client, through the proxy; three replays
    assert (place.folder / "heard").read_bytes() == b"hello\n" * 4


def test_status(place: Place) -> None:
    once, watch, number = blocks("zpipe-status")
    told = place.run(
        "zpipe proxy --listen 127.0.0.1:0 --metrics 127.0.0.1:9100 10.0.0.5:80 &\nproxy=$!\n"
        f"serves $proxy\n{once}{number}"
        f"set -m\n{watch.strip()} > looks &\n"
        "until grep -q running looks; do kill -0 $!; done\n"
        "kill -INT $!; wait $! || test $? = 130\nends $proxy\n"
    )
    assert "\n0\n" in told
    assert told.count(" running ") == 1


def test_run(place: Place) -> None:
    try_it, apart, serving = blocks("zpipe-run")
    start, reload = serving.splitlines()
    told = place.run(
        f"serve 10.0.0.7:9000\n{try_it}{apart}{start}\nserves $!\n{reload}\nends $!\n",
        local="7",
    )
    assert "HOP " in told
    assert (place.folder / "copy.img").read_bytes() == (place.folder / "disk.img").read_bytes()
    assert (place.folder / "run.svg").read_text().startswith("<svg")
    assert '"end"' in (place.folder / "nightly.json").read_text()


def test_graph(place: Place) -> None:
    look, draw, report = blocks("zpipe-graph")
    report = report.replace("sleep 10\n", "wait $!\n")
    told = place.run(f"serve 10.0.0.7:9000\n{look}{draw}{report}", local="7")
    assert (place.folder / "backup.svg").read_text().startswith("<svg")
    assert "5.00 MiB" in told


@pytest.mark.parametrize("block", [*blocks("zpipe-check"), *blocks("zpipe-plan")])
def test_check_and_plan(place: Place, block: str) -> None:
    told = place.run(block)
    if "--schema" in block:
        assert (place.folder / "zpipe.schema.json").read_text().startswith("{")
    elif ".problems" in block:
        assert told == ""
    else:
        assert told


def test_looking_at_a_strange_recipe(place: Place) -> None:
    (line,) = [block for block in blocks("zpipe-security", 7) if "strange.yaml" in block]
    assert "strange.yaml: ok" in place.run(line)


@pytest.mark.parametrize("block", blocks("zpipe-doctor"))
def test_doctor(place: Place, block: str) -> None:
    place.run(block)


@pytest.mark.parametrize("block", blocks("zpipe-bench"))
def test_bench(place: Place, block: str) -> None:
    """In three seconds, and with sizes for which they are enough."""
    line = re.sub(r" --seconds \S+", "", block).replace("zpipe bench", "zpipe bench --seconds 3")
    line = line.replace("256M", "4M")
    if "--plot" in block and find_spec("matplotlib") is None:
        assert "zpipe[plot]" in place.run(line, status=2)
        return
    assert place.run(line)


@pytest.mark.parametrize("block", blocks("zpipe-completion"))
def test_completion(place: Place, block: str) -> None:
    target = block.rpartition("> ~/")[2].strip()
    place.run(block)
    (shell,) = re.findall(r"zpipe completion (\w+)", block)
    there = ROOT / f"zpipe/completion/zpipe.{shell}"
    assert (place.folder / target).read_text() == there.read_text()


@pytest.mark.parametrize("block", [*blocks("zpipe"), *blocks("zpipe-endpoints", 7)])
def test_overview_and_endpoints(place: Place, block: str) -> None:
    told = place.run(block + "wait\n")
    for name in re.findall(r"\b(copy\.img|disk\.gz|photos\.tar\.gz|piece|zeros)\b", block):
        assert (place.folder / name).stat().st_size
    if "plan " in block or "doctor" in block:
        assert told
