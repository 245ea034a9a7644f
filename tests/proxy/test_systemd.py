"""The units under recipes/systemd: systemd accepts them, and they say what the proxy does."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

from tests.machine import LONGEST, ROOT, ZPIPE, environment, need
from zpipe.proxy.settings import Timeouts
from zpipe.units import parse_duration

if TYPE_CHECKING:
    from pathlib import Path

UNITS = ROOT / "recipes/systemd"
SERVICE, SOCKET = UNITS / "zpipe-proxy.service", UNITS / "zpipe-proxy.socket"


def setting(unit: Path, name: str) -> str:
    (found,) = re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE)
    return str(found)


def verified(*units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [need("systemd-analyze"), "verify", *map(str, units)],
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )


def test_systemd_accepts_the_units_without_a_word(tmp_path: Path) -> None:
    done = verified(SOCKET, SERVICE)
    said = [line for line in done.stderr.splitlines() if "zpipe-proxy" in line]
    assert (done.returncode, said) == (0, [])

    # and it would tell: an unknown name is a warning, without which nobody would notice a typo
    for unit in (SOCKET, SERVICE):
        (tmp_path / unit.name).write_text(unit.read_text() + "\n[Unit]\nDescripton=x\n")
    wrong = verified(tmp_path / SOCKET.name, tmp_path / SERVICE.name)
    assert "Descripton" in wrong.stderr


def test_units_tell_what_they_are_for_and_how_they_are_installed_and_tested() -> None:
    for unit in (SOCKET, SERVICE):
        header = unit.read_text().partition("\n\n")[0]
        assert all(line.startswith("#") for line in header.splitlines())
        assert "# Install: " in header
        assert "# Test: " in header


def test_stopping_leaves_time_to_drain() -> None:
    assert parse_duration(setting(SERVICE, "TimeoutStopSec")) > Timeouts().drain


class Manager:
    """Takes what a service tells, as the service manager does."""

    def __init__(self, path: Path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(LONGEST)

    def until(self, wanted: str) -> list[str]:
        """Return the lines that were told until one of them was as wanted, that one among them."""
        told: list[str] = []
        while wanted not in told:
            told += self.socket.recv(4096).decode().split("\n")
        return told


def test_the_service_lives_as_the_unit_says(tmp_path: Path) -> None:
    """Begun by its first client, through systemd's own program for trying that; told to reload and
    to stop as the unit has it.
    """
    words = shlex.split(setting(SERVICE, "ExecStart"))
    assert words[:3] == ["/usr/bin/env", "zpipe", "proxy"]
    assert setting(SERVICE, "Type") == "notify"
    assert setting(SERVICE, "ExecReload") == "/bin/kill -HUP $MAINPID"
    manager = Manager(tmp_path / "notify")
    clients = tmp_path / "clients"
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        address = f"127.0.0.1:{upstream.getsockname()[1]}"

        def echo(end: socket.socket) -> None:
            with end:
                while data := end.recv(4096):
                    end.sendall(data.upper())

        def serve() -> None:
            upstream.settimeout(LONGEST)
            for _ in range(2):
                end, _peer = upstream.accept()
                threading.Thread(target=echo, args=(end,), daemon=True).start()

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        process = subprocess.Popen(
            [
                need("systemd-socket-activate"),
                f"--listen={clients}",
                *("--setenv=PYTHONPATH", "--setenv=NOTIFY_SOCKET", "--setenv=WATCHDOG_USEC"),
                *(*ZPIPE, *words[2:-1], address),
            ],
            env=environment(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="100000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None
            assert b"Listening on" in process.stderr.readline()
            with connected(clients) as first:
                assert asked(first, b"first") == b"FIRST"
                manager.until("READY=1")
                manager.until("WATCHDOG=1")
                os.kill(process.pid, signal.SIGHUP)
                told = manager.until("RELOADING=1")
                assert any(line.startswith("MONOTONIC_USEC=") for line in told)
                manager.until("READY=1")
                assert asked(first, b"again") == b"AGAIN"  # connections survive a reload
                with connected(clients) as second:
                    assert asked(second, b"second") == b"SECOND"
                os.kill(process.pid, signal.SIGTERM)
                manager.until("STOPPING=1")
                assert asked(first, b"last") == b"LAST"  # and go on while it drains
            assert process.wait(LONGEST) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()
            manager.socket.close()
        server.join(LONGEST)
    assert clients.exists()  # it is systemd's, and not the proxy's to remove


def connected(path: Path) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    end.settimeout(LONGEST)
    end.connect(str(path))
    return end


def asked(end: socket.socket, question: bytes) -> bytes:
    end.sendall(question)
    return end.recv(4096)
