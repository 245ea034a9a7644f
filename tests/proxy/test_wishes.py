"""The texts of a proxy's options, and the values that they stand for."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zpipe.errors import UsageError
from zpipe.proxy import wishes
from zpipe.proxy.addresses import parse_address
from zpipe.proxy.settings import Check, Mirror, Route, Upstream
from zpipe.units import whole

if TYPE_CHECKING:
    from collections.abc import Callable

DB = parse_address("db:1")


def test_an_upstream_has_its_share() -> None:
    assert wishes.parse_upstream("db:1") == Upstream(DB)
    assert wishes.parse_upstream("db:1?weight=3") == Upstream(DB, weight=3)
    assert wishes.parse_upstream("unix:/x?weight=1000").weight == 1000


def test_a_check_is_a_list_of_keys() -> None:
    text = r"interval=500ms,timeout=1s,rise=1,fall=9,send=PING\r\n,expect=+PONG\x2c\0"
    assert wishes.parse_check(text) == Check(0.5, 1.0, 1, 9, b"PING\r\n", b"+PONG,\0")
    assert wishes.parse_check("interval=2s") == Check()


def test_a_mirror_has_options_like_an_address() -> None:
    assert wishes.parse_mirror("db:1") == Mirror(DB)
    text = "db:1?direction=both&queue=4M&when_full=spill&spill_max=2G&sample=10%"
    assert wishes.parse_mirror(text) == Mirror(DB, "both", 4 << 20, "spill", 2 << 30, 0.1)
    assert wishes.parse_mirror("db:1?when_full=block&sample=0.5%").sample == 0.005


def test_routes_of_one_pattern_are_one_route() -> None:
    texts = ["a.org=db:1", "*.B.org.=db:1?weight=2", "A.org=db:1?weight=3", "bücher.org=db:1"]
    assert wishes.routes_of(map(wishes.parse_route, texts)) == (
        Route("a.org", (Upstream(DB), Upstream(DB, 3))),
        Route("*.b.org", (Upstream(DB, 2),)),
        Route("xn--bcher-kva.org", (Upstream(DB),)),
    )


def test_networks_are_addresses_or_prefixes() -> None:
    found = wishes.parse_networks(("10.0.0.0/8", "::1", "fd00::/8", "127.0.0.1"))
    texts = ("10.0.0.0/8", "::1/128", "fd00::/8", "127.0.0.1/32")
    assert found == tuple(map(ip_network, texts))


def parse_network(text: str) -> object:
    return wishes.parse_networks((text,))


@pytest.mark.parametrize(
    ("parse", "text", "why"),
    [
        (wishes.parse_upstream, "db", "not an address"),
        (wishes.parse_upstream, "db:1?weight=0", "option weight: 0: give a whole number from 1"),
        (wishes.parse_upstream, "db:1?weight=1.5", "option weight: 1.5: give a whole number"),
        (wishes.parse_upstream, "db:1?weight=1001", "to 1000"),
        (wishes.parse_upstream, "db:1?wieght=1", "unknown option wieght: did you mean weight?"),
        (wishes.parse_upstream, "db:1?mode=600", "unknown option mode: known are weight"),
        (wishes.parse_check, "", "unknown option (empty): known are interval, timeout"),
        (wishes.parse_check, "2s", "unknown option 2s: known are interval"),
        (wishes.parse_check, "intervall=2s", "did you mean interval?"),
        (wishes.parse_check, "interval=0", "option interval: 0: not a duration"),
        (wishes.parse_check, "rise=0", "option rise: 0: give a whole number from 1"),
        (wishes.parse_check, "rise=2,rise=2", "option rise: given twice"),
        (wishes.parse_check, "send=a,b", "unknown option b"),
        (wishes.parse_check, r"send=\q", r"option send: \q: not an escape"),
        (wishes.parse_check, "expect=\\", "option expect: \\: not an escape"),
        (wishes.parse_check, r"expect=\400", r"option expect: \400: not an escape"),
        (wishes.parse_check, r"expect=\x", r"option expect: \x: not an escape"),
        (wishes.parse_mirror, "db:1?when-full=spill", "did you mean when_full?"),
        (wishes.parse_mirror, "db:1?when_full=drop", "give one of detach, spill, block"),
        (wishes.parse_mirror, "db:1?direction=down&direction=up", "given twice"),
        (wishes.parse_mirror, "db:1?direction=sideways", "give one of up, down, both"),
        (wishes.parse_mirror, "db:1?queue=0", "option queue: 0: must be more than zero"),
        (wishes.parse_mirror, "db:1?queue=x", "option queue: x: not a size"),
        (wishes.parse_mirror, "db:1?spill_max=1G", "no effect without when_full=spill"),
        (wishes.parse_mirror, "db:1?sample=0%", "option sample: 0%: give a share"),
        (wishes.parse_mirror, "db:1?sample=101%", "option sample: 101%: give a share"),
        (wishes.parse_mirror, "db:1?sample=0.1", "option sample: 0.1: give a share"),
        (wishes.parse_mirror, "db:1?sample=٣%", "give a share"),
        (wishes.parse_route, "a.org", "not a route: write it as NAME=UPSTREAM"),
        (wishes.parse_route, "=db:1", "not a route"),
        (wishes.parse_route, "a.org=", "not a route"),
        (wishes.parse_route, "*=db:1", "for all other names there is --route-default"),
        (wishes.parse_route, "a.*=db:1", "a.*: not a pattern"),
        (wishes.parse_route, "*.=db:1", "*.: not a pattern"),
        (wishes.parse_route, "a..b=db:1", "a..b: not a pattern"),
        (wishes.parse_route, "ä..b=db:1", "ä..b: not a pattern"),
        (wishes.parse_route, "-a=db:1", "-a: not a pattern"),
        (wishes.parse_route, "a\n=db:1", "not a pattern"),
        (wishes.parse_route, "x" * 64 + "=db:1", "not a pattern"),
        (wishes.parse_route, ".".join(["x"] * 128) + "=db:1", "not a pattern"),
        (parse_network, "db", "not a network: write an address, or a network"),
        (parse_network, "10.0.0.1/8", "bits are set behind the prefix: write 10.0.0.0/8"),
        (parse_network, "10.0.0.0/33", "not a network: write an address"),
        (parse_network, "", "not a network"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(
    parse: Callable[[str], Any], text: str, why: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert why in str(caught.value)
    (line,) = caught.value.args
    assert line.startswith(text or ("check: ", ": "))


@given(st.binary())
def test_escapes_can_say_any_bytes(data: bytes) -> None:
    assert wishes.unescaped("".join(f"\\x{byte:02x}" for byte in data)) == data
    assert wishes.unescaped("".join(f"\\{byte:03o}" for byte in data)) == data


@given(st.text(st.characters(codec="utf-8", exclude_characters="\\")))
def test_text_without_escapes_is_as_it_is(text: str) -> None:
    assert wishes.unescaped(text) == text.encode()


def test_the_escapes_of_c() -> None:
    assert (
        wishes.unescaped(r"\a\b\t\n\v\f\r\e\\\"\'\0\x4\x41B\101B")
        == b"\a\b\t\n\v\f\r\x1b\\\"'\0\x04ABAB"
    )


@pytest.mark.parametrize("text", ["0", "7", "100"])
def test_whole_numbers_have_bounds(text: str) -> None:
    assert whole(0, 100)(text) == int(text)
    for other in ("101", "-1", "1e3", "", "9" * 30, "²"):
        with pytest.raises(UsageError, match="give a whole number from 0 to 100"):
            whole(0, 100)(other)


def test_the_tables_of_keys_are_those_that_are_read() -> None:
    """The manual is written from them."""
    weights = {"weight": "2"}
    checks = dict.fromkeys(("interval", "timeout"), "1s") | dict.fromkeys(("rise", "fall"), "7")
    checks |= dict.fromkeys(("send", "expect"), "x")
    mirrors = {
        "direction": "both",
        "queue": "1",
        "when_full": "spill",
        "spill_max": "1",
        "sample": "1%",
    }
    assert set(wishes.UPSTREAM_OPTIONS) == set(weights)
    assert set(wishes.CHECK_OPTIONS) == set(checks)
    assert set(wishes.MIRROR_OPTIONS) == set(mirrors)
    for name, value in checks.items():
        assert wishes.parse_check(f"{name}={value}") != Check(), name
    for name, value in mirrors.items():
        more = "&when_full=spill" if name == "spill_max" else ""
        assert wishes.parse_mirror(f"db:1?{name}={value}{more}") != Mirror(
            DB, when_full="spill" if more else "detach"
        ), name
