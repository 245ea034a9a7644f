"""One kind of end per module: parse its address, open it, finish it. [add here]

A kind is a module that ends in `KIND: EndpointKind = ...`, and its name in `KINDS`. Modules load
by name on first use. No kind knows how bytes move, or what stands at the other end.
"""

from __future__ import annotations

from zpipe.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from zpipe.endpoints.contract import EndpointKind
    from zpipe.graph.check import Way
    from zpipe.graph.model import Endpoint

# scheme -> module; the order is that of the manual
KINDS = {
    "file": "file",
    "-": "standard",
    "fd": "fd",
    "pipe": "fifo",
    "tcp": "tcp",
    "tcp-listen": "tcp_listen",
    "unix": "unix",
    "unix-listen": "unix_listen",
    "exec": "exec",
    "null": "null",
    "zero": "zero",
    "pattern": "pattern",
    "hash": "hash",
}
_WITH_SLASHES = frozenset({"tcp", "tcp-listen"})


def kind_of(name: str) -> EndpointKind:
    """Return the kind that a scheme names. Raises: KeyError  there is none."""
    from importlib import import_module

    kind: EndpointKind = import_module(f"zpipe.endpoints.{KINDS[name]}").KIND
    return kind


def ways(kinds: Iterable[str] = tuple(KINDS)) -> dict[str, Way]:
    """Return what each of these kinds says of being read and written at once. Loads them."""
    return {name: kind_of(name).way for name in kinds}


def parse(text: str, *, sink: bool) -> Endpoint:
    """Return the endpoint that an operand names; whatever has no known scheme is a path.

    Raises: UsageError  unknown scheme (with ://), an option that the kind does not have, an
                        address that cannot be, a kind that cannot stand at this side.
    """
    # here, so that the package costs nothing to those who only replace a file
    from zpipe.graph.model import Endpoint

    if text == "-":
        return Endpoint(text, "-", "")
    scheme, colon, rest = text.partition(":")
    if not colon or "/" in scheme:
        scheme = ""
    elif scheme not in KINDS:
        if rest.startswith("//"):
            from zpipe.spelling import known_are

            known = known_are(scheme, [name for name in KINDS if name != "-"])
            raise UsageError(f"{text}: unknown scheme {scheme}: {known}; a path: ./{text}")
        scheme = ""
    if not scheme:
        if not text:
            raise UsageError("an operand is empty: give a path or an address")
        return Endpoint(text, "file", text)
    if scheme in _WITH_SLASHES:
        if not rest.startswith("//"):
            raise UsageError(f"{text}: write it as {scheme}://HOST:PORT; a path: ./{text}")
        rest = rest[2:]
    kind = kind_of(scheme)
    address, options = _split_options(text, rest, kind)
    endpoint = Endpoint(text, scheme, address, options)
    if not (kind.sink if sink else kind.source):
        raise UsageError(f"{text}: cannot be a {'sink' if sink else 'source'}")
    kind.check(endpoint, sink=sink)
    return endpoint


def _split_options(text: str, rest: str, kind: EndpointKind) -> tuple[str, dict[str, str]]:
    """Split `ADDRESS?a=1&b=2`; a kind without options keeps its question marks."""
    if not kind.options or "?" not in rest:
        return rest, {}
    address, _, query = rest.rpartition("?")
    options: dict[str, str] = {}
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if name not in kind.options:
            from zpipe.spelling import known_are

            raise UsageError(
                f"{text}: unknown option {name or '(empty)'}: {known_are(name, kind.options)}"
            )
        if not equals or not value:
            raise UsageError(f"{text}: option {name}: give a value, {name}=...")
        if name in options:
            raise UsageError(f"{text}: option {name}: given twice")
        options[name] = value
    return address, options
