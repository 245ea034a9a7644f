"""Who is welcome, and how many: what one address or one process may have."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import pytest

from tests.proxy.proxying import asked, limited, proxying
from zpipe.proxy.limits import within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proxy.proxying import Server


@pytest.mark.parametrize(
    ("address", "network", "inside"),
    [
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("::ffff:10.1.2.3", "10.0.0.0/8", True),
        ("0:0:0:0:0:ffff:a01:203", "10.0.0.0/8", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("::1", "10.0.0.0/8", False),
        ("", "0.0.0.0/0", False),
        ("nobody", "::/0", False),
    ],
)
def test_networks(address: str, network: str, inside: bool) -> None:
    """However an IPv4 address is written in IPv6, it is the same client."""
    assert within(address, [ipaddress.ip_network(network)]) == inside


@pytest.mark.parametrize(
    ("words", "served"),
    [(("--allow=127.0.0.0/8",), False), (("--deny=127.0.0.0/8",), True), ((), True)],
    ids=str,
)
def test_a_client_at_a_unix_socket_has_no_address(
    words: tuple[str, ...], served: bool, upstream: Server, tmp_path: Path
) -> None:
    listen = f"unix:{tmp_path}/front"
    with proxying(*words, upstream.text, listen=[listen]) as proxy, proxy.connect() as client:
        if served:
            assert asked(client, b"hello") == b"hello"
        else:
            with pytest.raises(ConnectionError):
                asked(client, b"hello")
            proxy.until(lambda one: one["connections"]["refused"].get("denied"), "it is counted")


def test_it_takes_all_fds_that_it_may_have(upstream: Server) -> None:
    with proxying(upstream.text, before=limited("-S -n 64")) as proxy:
        proxy.snapshot()
        with open(f"/proc/{proxy.pid}/limits") as limits:
            soft, hard = next(line.split()[3:5] for line in limits if "open files" in line)
    assert soft == hard != "64"
