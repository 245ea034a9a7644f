"""What a service manager is told: every message is read from a real socket of its kind."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from zpipe.proxy.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """Return what NOTIFY_SOCKET names, and the socket that listens there."""
    abstract = request.param == "abstract"
    name = f"@zpipe-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0{name[1:]}" if abstract else name)
        end.settimeout(30)
        yield name, end


def lines(end: socket.socket) -> list[str]:
    return sorted(end.recv(4096).decode().split("\n"))


def test_each_state_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": name})
    notifier.ready("12 open")
    assert lines(end) == ["READY=1", "STATUS=12 open"]
    notifier.ready()
    assert lines(end) == ["READY=1"]
    notifier.status("13 open")
    assert lines(end) == ["STATUS=13 open"]
    notifier.watchdog()
    assert lines(end) == ["WATCHDOG=1"]
    notifier.stopping()
    assert lines(end) == ["STOPPING=1"]
    notifier.close()


def test_a_reload_has_the_time_of_the_kernels_clock(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier(name)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    moment, reloading = lines(end)
    assert reloading == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= after
    notifier.close()


def test_a_status_cannot_smuggle_in_another_message(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier(name)
    notifier.status("a\nSTOPPING=1\r\nMAINPID=1\udc80")
    assert lines(end) == ["STATUS=a STOPPING=1 MAINPID=1?"]
    notifier.close()


@pytest.mark.parametrize(
    "address", [None, "", "/nowhere/at/all", "@nobody", "vsock:2:1", "x" * 999]
)
def test_without_a_listener_it_is_silent(address: str | None, tmp_path: Path) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address} if address is not None else {})
    for tell in (
        notifier.ready,
        notifier.reloading,
        notifier.stopping,
        notifier.watchdog,
        notifier.close,
        notifier.watchdog,
        notifier.close,
    ):
        tell()
    notifier.status("none")
    assert notifier.watchdog_interval is None


def test_a_manager_that_does_not_read_is_not_waited_for(
    manager: tuple[str, socket.socket],
) -> None:
    """Its queue holds some hundred messages at the most."""
    name, end = manager
    notifier = Notifier(name)
    for _ in range(5000):
        notifier.watchdog()
    end.setblocking(False)
    taken = 0
    try:
        while end.recv(100):
            taken += 1
    except BlockingIOError:
        pass
    assert 0 < taken < 5000
    notifier.status("again")
    assert lines(end) == ["STATUS=again"]
    notifier.close()


def test_a_message_needs_no_new_fd(manager: tuple[str, socket.socket]) -> None:
    name, end = manager
    notifier = Notifier(name)
    fds = sorted(os.listdir("/proc/self/fd"))
    notifier.watchdog()
    assert sorted(os.listdir("/proc/self/fd")) == fds
    assert lines(end) == ["WATCHDOG=1"]
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_in_its_time(
    environment: dict[str, str], interval: float | None
) -> None:
    assert Notifier.from_environment(environment).watchdog_interval == interval
