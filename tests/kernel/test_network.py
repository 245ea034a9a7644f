"""Routes, devices, and what a socket says without being read."""

from __future__ import annotations

import errno
import os
import socket
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from zpipe.kernel import network

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def reset(end: socket.socket) -> None:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, "127.0.0.1"),
        (socket.AF_INET, "127.9.9.9"),
        (socket.AF_INET6, "::1"),
        (socket.AF_INET6, "::1%lo"),
    ],
)
def test_this_machine_is_reached_by_its_loopback_device(family: int, address: str) -> None:
    if family == socket.AF_INET6 and not os.path.exists("/proc/sys/net/ipv6"):
        pytest.skip("no IPv6")
    assert network.route_device(family, address) == "lo"


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "no address"), (socket.AF_INET, "::1"), (socket.AF_UNIX, "127.0.0.1")],
)
def test_what_is_no_address_has_no_device(family: int, address: str) -> None:
    assert network.route_device(family, address) is None


def test_the_device_is_that_of_the_routing_table() -> None:
    """Compare with a connected datagram socket, for which the kernel made the same choice."""
    far = "192.0.2.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))
        except OSError:
            assert network.route_device(socket.AF_INET, far) is None
            return
        own = probe.getsockname()[0]
    device = network.route_device(socket.AF_INET, far)
    assert device is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        probe.connect((far, 9))
        assert probe.getsockname()[0] == own


def test_loopback_gathers_and_a_device_that_is_not_there_does_not_say() -> None:
    assert network.gathers("lo") is True
    assert network.gathers("no-such-device") is None


def test_peek_takes_nothing() -> None:
    with connection() as (near, far):
        with pytest.raises(BlockingIOError):
            network.peek(near.fileno())
        far.sendall(b"ab")
        assert near.recv(1) == b"a"
        assert network.peek(near.fileno())
        assert network.peek(near.fileno())
        assert near.recv(9) == b"b"
        far.close()
        near.recv(1)
        assert not network.peek(near.fileno())


def test_peek_raises_what_broke_the_connection() -> None:
    with connection() as (near, far):
        reset(far)
        with pytest.raises(ConnectionResetError):
            network.peek(near.fileno())


def test_send_without_waiting_leaves_a_blocking_socket_blocking() -> None:
    with connection() as (near, far):
        sent = 0
        with pytest.raises(BlockingIOError):
            while True:
                sent += network.send_without_waiting(near.fileno(), memoryview(bytes(1 << 16)))
        assert near.getblocking()
        assert os.get_blocking(near.fileno())
        near.shutdown(socket.SHUT_WR)
        assert len(b"".join(iter(lambda: far.recv(1 << 16), b""))) == sent


def test_send_to_a_peer_that_has_gone_is_an_error_and_no_signal() -> None:
    near, far = socket.socketpair()
    with near:
        far.close()
        with pytest.raises(BrokenPipeError):
            network.send_without_waiting(near.fileno(), memoryview(b"x"))


def test_the_error_of_a_socket_is_told_once() -> None:
    with connection() as (near, far):
        assert network.error_of(near.fileno()) == 0
        reset(far)
        assert network.error_of(near.fileno()) == errno.ECONNRESET
        assert network.error_of(near.fileno()) == 0


def congestion_of(end: socket.socket) -> str:
    answer = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return answer.partition(b"\0")[0].decode()


def test_a_pacing_congestion_control_is_replaced_and_named() -> None:
    with connection() as (near, _):
        try:
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"bbr")
        except OSError:
            pytest.skip("no bbr in this kernel, or not for this user")
        assert network.do_not_pace(near.fileno()) == "bbr"
        assert congestion_of(near) == "reno"
        assert network.do_not_pace(near.fileno()) is None


def test_any_other_congestion_control_is_left_alone() -> None:
    with connection() as (near, _):
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        assert network.do_not_pace(near.fileno()) is None
        assert congestion_of(near) == "reno"


def test_what_is_no_tcp_socket_is_left_alone() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert network.do_not_pace(near.fileno()) is None
