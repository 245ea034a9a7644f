"""TCP: connections made and accepted, refused and timed out."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.endpoints.meeting import (
    Interrupting,
    Meeting,
    listening,
    need_family,
    read_all,
    sink,
    source,
)
from zpipe.errors import Interrupted, StalledError, TransferError

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTS = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.mark.parametrize(("family", "host"), HOSTS)
def test_a_connection_is_made_to_an_address_of_either_family(
    family: socket.AddressFamily, host: str
) -> None:
    need_family(family)
    with listening(family, (host.strip("[]"), 0)) as (listener, text), source(text) as end:
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"data")
        assert read_all(end) == b"data"


def test_every_address_of_a_name_is_tried() -> None:
    """localhost is ::1 first, as a rule, where nobody listens."""
    with listening() as (listener, text), source(text.replace("127.0.0.1", "localhost")) as end:
        peer, _ = listener.accept()
        peer.close()
        assert read_all(end) == b""


def test_a_refused_connection_is_told(stack: ExitStack) -> None:
    bound = stack.enter_context(socket.socket())
    bound.bind(("127.0.0.1", 0))
    port = bound.getsockname()[1]
    for act in (source, sink):
        with pytest.raises(TransferError, match=f":{port}: connect: Connection refused"):
            act(f"tcp://127.0.0.1:{port}")


def test_a_host_that_is_none_is_told_without_asking_the_network() -> None:
    with pytest.raises(TransferError, match=r"tcp://a\.\.b:80: resolve a\.\.b: ."):
        source("tcp://a..b:80")


def clog(listener: socket.socket, stack: ExitStack) -> None:
    """Connect until the listener's queue is full and the next connection gets no answer."""
    address = listener.getsockname()
    for _ in range(64):
        end = stack.enter_context(socket.socket())
        end.settimeout(0.05)
        try:
            end.connect(address)
        except TimeoutError:
            return
    pytest.fail("the queue has no end")


def test_a_host_that_does_not_answer_is_given_up_after_the_timeout(stack: ExitStack) -> None:
    listener, text = stack.enter_context(listening())
    clog(listener, stack)
    waiter = Meeting()
    with pytest.raises(StalledError, match=r"connect: no answer within 0.05 s") as caught:
        source(f"{text}?timeout=50ms", waiter)
    assert caught.value.exit_code == 4
    assert waiter.acts == ["connect"]
    with pytest.raises(StalledError, match=r"connect: stalled for 0.05 s"):
        source(text, Meeting(patience=0.05))
    with pytest.raises(Interrupted):
        source(text, Interrupting())


@pytest.mark.parametrize(("family", "host"), HOSTS)
def test_a_listener_on_port_0_tells_where_it_listens(
    family: socket.AddressFamily, host: str
) -> None:
    need_family(family)
    text = f"tcp-listen://{host}:0"
    waiter = Meeting()

    def connect() -> None:
        with socket.create_connection((host.strip("[]"), waiter.port())) as end:
            end.sendall(b"data")

    waiter.steps.append(connect)
    with source(text, waiter) as end:
        assert read_all(end) == b"data"
    assert waiter.told == [f"{text}: listening on {host}:{waiter.port()}"]


def test_a_listener_takes_one_connection_and_stops_listening() -> None:
    waiter = Meeting()
    peers: list[socket.socket] = []
    waiter.steps.append(
        lambda: peers.append(socket.create_connection(("127.0.0.1", waiter.port())))
    )
    end = source("tcp-listen://127.0.0.1:0", waiter)
    with end, peers[0], pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", waiter.port()))


def test_a_port_that_was_given_is_taken_and_not_told(stack: ExitStack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    peers: list[socket.socket] = []
    waiter = Meeting(lambda: peers.append(socket.create_connection(("127.0.0.1", port))))
    with source(f"tcp-listen://127.0.0.1:{port}", waiter), peers[0]:
        assert waiter.told == []


def test_a_port_in_use_is_told(stack: ExitStack) -> None:
    listener, _ = stack.enter_context(listening())
    port = listener.getsockname()[1]
    with pytest.raises(TransferError, match=f":{port}: listen: Address already in use"):
        source(f"tcp-listen://127.0.0.1:{port}")


def test_an_interrupted_listener_gives_its_port_back() -> None:
    waiter = Interrupting()
    with pytest.raises(Interrupted):
        source("tcp-listen://127.0.0.1:0", waiter)
    with socket.create_server(("127.0.0.1", waiter.port()), reuse_port=False):
        pass


def test_a_client_that_has_left_again_is_accepted_and_at_its_end() -> None:
    waiter = Meeting()
    waiter.steps.append(lambda: socket.create_connection(("127.0.0.1", waiter.port())).close())
    with source("tcp-listen://127.0.0.1:0", waiter) as end:
        assert read_all(end) == b""


def test_a_connection_is_never_inherited_by_children() -> None:
    with listening() as (_, text), source(text) as end:
        assert not os.get_inheritable(end.fd)
