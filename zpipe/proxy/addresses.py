"""Addresses of listeners and upstreams: from text to a value, and on to what the kernel takes.

The forms are those of zpipe-endpoints(7), with HOST:PORT for tcp://HOST:PORT: a proxy knows
sockets only. Opens nothing; `resolve` asks the resolver, and waits for it.
"""

from __future__ import annotations

import socket

from zpipe.endpoints.contract import flag, mode, option
from zpipe.endpoints.tcp import host_and_port
from zpipe.endpoints.unix import socket_address
from zpipe.errors import UsageError
from zpipe.graph.model import Endpoint
from zpipe.proxy.settings import Address
from zpipe.spelling import known_are

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

TCP_OPTIONS = {"v6only": "1: an IPv6 address leaves IPv4 to others (0)"}
UNIX_OPTIONS = {
    "mode": "permission bits of the path, in octal (0600)",
    "user": "owner of the path, by name or number",
    "group": "group of the path, by name or number",
}
_CONNECT_FORMS = "HOST:PORT, [V6]:PORT, unix:PATH or unix:@NAME"
_LISTEN_FORMS = "HOST:PORT, [V6]:PORT, :PORT, unix:PATH, unix:@NAME, fd:N or fd:NAME"
_SCHEMES = {"tcp": "tcp", "tcp-listen": "tcp", "unix": "unix", "unix-listen": "unix", "fd": "fd"}
_LISTENERS = ("tcp-listen", "unix-listen", "fd")
_LARGEST_FD = 2**31 - 1


def parse_address(text: str, *, listen: bool = False) -> Address:
    """Return the address that a text names; one to listen at may end in `?OPTION=VALUE&...`.

    Raises: UsageError  it names none, or not one for this side.
    """
    kind, rest = _scheme(text, listen=listen)
    if kind == "unix":
        return _unix(text, rest, listen=listen)
    if kind == "fd":
        return _fd(text, rest)
    known = TCP_OPTIONS if listen else {}
    place, options = split_options(text, rest, known)
    endpoint = Endpoint(text, "tcp", place, options)
    host, port = host_and_port(endpoint, any_host=listen)
    if "/" in host or any(letter <= " " or letter == "\x7f" for letter in host):
        raise UsageError(f"{text}: not an address: write {_forms(listen)}")
    return Address(
        "tcp",
        text,
        host="" if host == "*" and listen else host,
        port=port,
        v6only=option(endpoint, "v6only", flag, False),
    )


def _scheme(text: str, *, listen: bool) -> tuple[str, str]:
    """Return `tcp`, `unix` or `fd`, and what stands behind the scheme."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _SCHEMES and (rest.startswith("//") or not scheme.startswith("tcp")):
        if scheme in _LISTENERS and not listen:
            raise UsageError(f"{text}: is to listen at; to connect to, write {_forms(listen)}")
        kind = _SCHEMES[scheme]
        return kind, rest[2:] if kind == "tcp" else rest
    if not colon or "://" in text or text.startswith(("/", ".")):
        hint = f"unix:{text}, if it is a path" if "/" in text and "://" not in text else ""
        raise UsageError(f"{text}: not an address: write {hint or _forms(listen)}")
    return "tcp", text


def _forms(listen: bool) -> str:
    return _LISTEN_FORMS if listen else _CONNECT_FORMS


def _unix(text: str, rest: str, *, listen: bool) -> Address:
    # a path to connect to has no options, and keeps its question marks
    path, options = split_options(text, rest, UNIX_OPTIONS) if listen else (rest, {})
    endpoint = Endpoint(text, "unix", path, options)
    if "\0" in path:
        raise UsageError(f"{text}: a NUL cannot be in a path or a name")
    socket_address(endpoint)
    if path.startswith("@") and options:
        raise UsageError(f"{text}: option {next(iter(options))}: only a path has it, not a name")
    return Address(
        "unix",
        text,
        path=path,
        mode=option(endpoint, "mode", mode, 0o600) if listen and path[0] != "@" else None,
        user=options.get("user"),
        group=options.get("group"),
    )


def _fd(text: str, rest: str) -> Address:
    number = rest.isascii() and rest.isdigit()
    if not rest or (number and (len(rest) > 10 or int(rest) > _LARGEST_FD)):
        raise UsageError(f"{text}: give the number or the name of an fd that was passed")
    return Address("fd", text, path=rest)


def split_options(text: str, rest: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Split `ADDRESS?a=1&b=2`.

    Raises: UsageError  an option that is not known, without a value, or given twice.
    """
    place, mark, query = rest.rpartition("?")
    if not mark:
        return rest, {}
    return place, read_options(text, query.split("&"), known)


def read_options(text: str, parts: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the names and values of `NAME=VALUE` parts; `text` is what messages begin with.

    Raises: UsageError  an option that is not known, without a value, or given twice.
    """
    known = tuple(known)
    options: dict[str, str] = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not known:
            raise UsageError(f"{text}: option {name}: this address has none")
        if name not in known:
            raise UsageError(
                f"{text}: unknown option {name or '(empty)'}: {known_are(name, known)}"
            )
        if not equals or not value:
            raise UsageError(f"{text}: option {name}: give a value, {name}=...")
        if name in options:
            raise UsageError(f"{text}: option {name}: given twice")
        options[name] = value
    return options


def resolve(address: Address, *, passive: bool = False) -> list[tuple[int, Any]]:
    """Return the (family, socket address) pairs of an address, without doubles; may take long.

    `passive`: to bind to; an empty host is every address, IPv6 first.

    Raises: UsageError  the name does not resolve.
    """
    if address.kind == "unix":
        return [(socket.AF_UNIX, socket_address(Endpoint(address.text, "unix", address.path)))]
    if address.kind == "fd":
        raise UsageError(f"{address.text}: resolve: is an fd that was passed, not a place")
    host: str | bytes | None = address.host or None
    if address.host and address.host.isascii():
        host = address.host.encode()  # as text it would load the tables of international names
    try:
        found = socket.getaddrinfo(
            host,
            address.port,
            type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP,
            flags=socket.AI_PASSIVE if passive else 0,
        )
    except socket.gaierror as error:
        raise UsageError(f"{address.text}: resolve: {error.strerror}") from error
    except UnicodeError as error:
        raise UsageError(f"{address.text}: resolve: {error}") from error
    return list(dict.fromkeys((int(family), place) for family, _, _, _, place in found))


def shown(family: int, place: Any) -> str:
    """Return a socket address as people write it: `127.0.0.1:80`, `[::1]:80`, `unix:PATH`."""
    if family == socket.AF_UNIX:
        if isinstance(place, bytes):
            name = place.decode("utf-8", "surrogateescape")
            return f"unix:@{name[1:]}" if name.startswith("\0") else f"unix:{name}"
        return f"unix:{place}"
    host, port = place[:2]
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
