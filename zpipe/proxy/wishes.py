"""What users write for the wishes of a proxy, as the values of `settings`. Pure.

Each text is judged alone; one error names the text, what is wrong, and what is allowed.
"""

from __future__ import annotations

import os
import re

from zpipe.errors import UsageError
from zpipe.proxy.addresses import parse_address, read_options, split_options
from zpipe.proxy.settings import Check, Mirror, Route, Upstream
from zpipe.spelling import choice
from zpipe.units import parse_duration, parse_size, whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeVar

    from zpipe.proxy.settings import Network

    T = TypeVar("T")

# what may be written, with its meaning: the manual and messages show these
UPSTREAM_OPTIONS = {"weight": "share of the connections, beside the weights of others (1)"}
CHECK_OPTIONS = {
    "interval": "time between two checks (2s)",
    "timeout": "longest wait for the connection and the answer (2s)",
    "rise": "checks in a row that bring an upstream back (2)",
    "fall": "checks in a row that fail and take it out (3)",
    "send": "bytes to send, with the escapes of C",
    "expect": "bytes that the answer must hold, with the escapes of C",
}
MIRROR_OPTIONS = {
    "direction": "up: what the client sends; down: what the upstream answers; both (up)",
    "queue": "bytes that a connection holds for the mirror, at the most (4M)",
    "when_full": "detach: the mirror is given up for that connection; spill: to a file;"
    " block: the connection waits (detach)",
    "spill_max": "bytes of that file, at the most (1G)",
    "sample": "share of the connections that are mirrored (100%)",
}
_LARGEST_WEIGHT = 1000
_LARGEST_STREAK = 1000
_DIRECTIONS = ("up", "down", "both")
_WHEN_FULL = ("detach", "spill", "block")


def parse_upstream(text: str) -> Upstream:
    """Return the upstream of `ADDRESS?weight=3`. Raises: UsageError."""
    place, options = split_options(text, text, UPSTREAM_OPTIONS)
    weight = _read(text, options, "weight", whole(1, _LARGEST_WEIGHT), 1)
    return Upstream(parse_address(place), weight)


def parse_check(text: str) -> Check:
    """Return the check of `interval=2s,rise=2,fall=3,send=PING\\r\\n,expect=PONG`.

    A comma within send or expect is written as `\\x2c`. Raises: UsageError.
    """
    default = Check()
    options = read_options(text or "check", text.split(","), CHECK_OPTIONS)
    streak = whole(1, _LARGEST_STREAK)
    return Check(
        interval=_read(text, options, "interval", parse_duration, default.interval),
        timeout=_read(text, options, "timeout", parse_duration, default.timeout),
        rise=_read(text, options, "rise", streak, default.rise),
        fall=_read(text, options, "fall", streak, default.fall),
        send=_read(text, options, "send", unescaped, default.send),
        expect=_read(text, options, "expect", unescaped, default.expect),
    )


def parse_mirror(text: str) -> Mirror:
    """Return the mirror of `ADDRESS?direction=both&queue=4M&when_full=spill&sample=10%`.

    Raises: UsageError.
    """
    place, options = split_options(text, text, MIRROR_OPTIONS)
    default = Mirror(parse_address(place))
    mirror = Mirror(
        default.address,
        direction=_read(text, options, "direction", choice(_DIRECTIONS), default.direction),  # type: ignore[arg-type]
        queue=_read(text, options, "queue", some_bytes, default.queue),
        when_full=_read(text, options, "when_full", choice(_WHEN_FULL), default.when_full),  # type: ignore[arg-type]
        spill_max=_read(text, options, "spill_max", some_bytes, default.spill_max),
        sample=_read(text, options, "sample", share, default.sample),
    )
    if "spill_max" in options and mirror.when_full != "spill":
        raise UsageError(f"{text}: option spill_max: has no effect without when_full=spill")
    return mirror


def parse_route(text: str) -> tuple[str, Upstream]:
    """Return pattern and upstream of `PATTERN=UPSTREAM`; the pattern in the form of TLS.

    Raises: UsageError.
    """
    pattern, equals, upstream = text.partition("=")
    if not equals or not pattern or not upstream:
        raise UsageError(f"{text}: not a route: write it as NAME=UPSTREAM or *.NAME=UPSTREAM")
    return server_name(text, pattern), parse_upstream(upstream)


def routes_of(pairs: Iterable[tuple[str, Upstream]]) -> tuple[Route, ...]:
    """Return one route for each pattern, in the order of their first upstreams."""
    found: dict[str, list[Upstream]] = {}
    for pattern, upstream in pairs:
        found.setdefault(pattern, []).append(upstream)
    return tuple(Route(pattern, tuple(upstreams)) for pattern, upstreams in found.items())


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return the networks of `10.0.0.0/8` and `::1`. Raises: UsageError."""
    # only those who limit addresses pay for it
    import ipaddress

    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text))
            continue
        except ValueError:
            pass
        hint = "write an address, or a network like 10.0.0.0/8 or fd00::/8"
        try:
            hint = f"bits are set behind the prefix: write {ipaddress.ip_network(text, False)}"
        except ValueError:
            pass
        raise UsageError(f"{text}: not a network: {hint}")
    return tuple(networks)


_SIMPLE = {
    "a": 7,
    "b": 8,
    "t": 9,
    "n": 10,
    "v": 11,
    "f": 12,
    "r": 13,
    "e": 27,
    "\\": 92,
    '"': 34,
    "'": 39,
}


def unescaped(text: str) -> bytes:
    """Return the bytes that a text with the escapes of C stands for; other text is as it is.

    Raises: UsageError  an escape that C does not have, or a number above 255.
    """
    result = bytearray()
    place = 0
    for found in re.finditer(r"\\(?:x([0-9A-Fa-f]{1,2})|([0-7]{1,3})|(.?))", text, re.DOTALL):
        result += os.fsencode(text[place : found.start()])
        place = found.end()
        hexadecimal, octal, letter = found.groups()
        if hexadecimal:
            code: int | None = int(hexadecimal, 16)
        elif octal:
            code = int(octal, 8)
        else:
            code = _SIMPLE.get(letter)
        if code is None or code > 255:
            raise UsageError(
                f"{found[0]}: not an escape: there are \\r, \\n, \\t, \\0, \\\\ and \\x2c"
            )
        result.append(code)
    result += os.fsencode(text[place:])
    return bytes(result)


def server_name(text: str, pattern: str) -> str:
    """Return a host name or `*.` and one, in lower case and in the ASCII form. Raises: UsageError.

    A client sends the name so (RFC 6066): without a dot at the end, IDNs as xn--.
    """
    if pattern == "*":
        raise UsageError(f"{text}: for all other names there is --route-default")
    star = pattern.startswith("*.")
    name = pattern.removeprefix("*.").removesuffix(".").lower()
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            name = ""
    if len(name) > 253 or not all(
        re.fullmatch(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", label) for label in name.split(".")
    ):
        raise UsageError(
            f"{text}: {pattern}: not a pattern: give a host name, or *. and a host name"
        )
    return f"*.{name}" if star else name


def _read(text: str, options: dict[str, str], name: str, read: Callable[[str], T], default: T) -> T:
    """Return the value of an option. Raises: UsageError  naming text and option."""
    if name not in options:
        return default
    try:
        return read(options[name])
    except UsageError as error:
        raise UsageError(f"{text}: option {name}: {error}") from None


def some_bytes(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise UsageError(f"{text}: must be more than zero")
    return size


def share(text: str) -> float:
    """Read `10%` or `0.5%`. Raises: UsageError."""
    found = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?)%", text, re.ASCII)
    share = float(found[1]) / 100 if found else 0.0
    if not 0 < share <= 1:
        raise UsageError(f"{text}: give a share like 10% or 0.5%, more than 0% and up to 100%")
    return share
