"""The form of a recipe, as types: what may be written, and what it means when it is left out.

The schema, the messages and the manual are made from these. Every scalar of a recipe is text until
the type of its field reads it: YAML's own guesses (on, 22:22, 0640) change nothing. Quantities stay
text here, judged by the `reader` that their type names; `recipe.build` reads them for good. None:
not given.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from zpipe.endpoints.contract import mode
from zpipe.errors import UsageError
from zpipe.units import parse_duration, parse_rate, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VERSION = 1


def duration_or_never(text: str) -> float | None:
    """Return seconds, or None for `never`. Raises: UsageError."""
    return None if text == "never" else parse_duration(text)


def name(text: str) -> str:
    """Return the name of a node or a proxy. Raises: UsageError  it is none."""
    if not re.fullmatch(r"[A-Za-z_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?", text):
        raise UsageError(f"{text}: not a name: give letters, digits, _ . and -, a letter first")
    return text


def parameter(text: str) -> str:
    """Return the name of a parameter. Raises: UsageError  it is none."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise UsageError(f"{text}: not a name: give letters, digits and _, a letter first")
    return text


def _read(read: Callable[[str], object], description: str, *examples: str) -> Meta:
    """Return what makes a text one that `read` understands; it raises UsageError for others."""
    return Meta(
        extra={"read": read}, description=description, examples=list(examples) if examples else None
    )


Size = Annotated[str, _read(parse_size, "bytes: K = 1024, KB = 1000", "64K", "1G")]
Rate = Annotated[str, _read(parse_rate, "bytes per second", "500K", "20M")]
Duration = Annotated[str, _read(parse_duration, "seconds, or with a unit", "250ms", "10s", "1h30m")]
DurationOrNever = Annotated[str, _read(duration_or_never, "a duration, or never", "60s", "never")]
Mode = Annotated[str, _read(mode, "permission bits, always octal", "0640")]
Name = Annotated[str, _read(name, "letters, digits, _ . and -", "disk")]
ParamName = Annotated[str, _read(parameter, "letters, digits and _", "HOST")]
Names = Name | tuple[Name, ...]
Texts = str | tuple[str, ...]

OnError = Literal["stop", "detach"]
WhenFull = Literal["block", "detach", "spill"]
SpillThen = Literal["block", "detach"]
Merge = Literal["in-order", "as-ready", "lines"]
ParamType = Literal["string", "path", "address", "integer", "size", "rate", "duration", "boolean"]


def _count(least: int, most: int | None = None) -> Any:
    return Annotated[int, Meta(ge=least, le=most)]


class Form(Struct, forbid_unknown_fields=True, kw_only=True):
    """A mapping of a recipe. A field's name is its key, save for a trailing underscore."""


class Param(Form, kw_only=True):
    """A value that is given when the recipe is run: -p NAME=VALUE, and ${NAME} in the recipe.

    Without a default it must be given.
    """

    type: ParamType = "string"
    default: str | None = None
    description: str = ""


class EdgeOptions(Form, kw_only=True):
    """How bytes go along an edge."""

    limit: Size | None = None
    offset: Size | None = None
    rate_limit: Rate | None = None
    stall_timeout: Duration | None = None
    pipe_size: Size | None = None
    via: str | None = None
    no_via: Texts | None = None
    stable: bool | None = None
    lease: bool | None = None
    inplace: bool | None = None
    sync: bool | None = None
    merge: Merge | None = None
    when_full: WhenFull | None = None
    detach_after: Duration | None = None
    spill_max: Size | None = None
    spill_dir: str | None = None
    spill_then: SpillThen | None = None


class Edge(EdgeOptions, kw_only=True, rename={"from_": "from"}):
    """Bytes of one node, or of several, go to one or more others."""

    from_: Names
    to: Names


class Defaults(EdgeOptions, kw_only=True):
    """What edges and nodes have that say nothing else."""

    on_error: OnError | None = None


class Upstream(Form, kw_only=True):
    """A server behind a proxy."""

    address: str
    weight: _count(1, 1000) = 1  # type: ignore[valid-type]


class Check(Form, kw_only=True):
    """Connect to each upstream every so often, and keep to those that answer."""

    interval: Duration | None = None
    timeout: Duration | None = None
    rise: _count(1, 1000) | None = None  # type: ignore[valid-type]
    fall: _count(1, 1000) | None = None  # type: ignore[valid-type]
    send: str | None = None
    expect: str | None = None


class Mirror(Form, kw_only=True):
    """A copy of what passes, for another server."""

    address: str
    direction: Literal["up", "down", "both"] | None = None
    queue: Size | None = None
    when_full: WhenFull | None = None
    spill_max: Size | None = None
    sample: str | None = None


class Capture(Form, kw_only=True):
    """Record each connection in a directory, for zpipe replay."""

    directory: str
    total: Size | None = None


class Limits(Form, kw_only=True):
    """What a proxy refuses or slows down."""

    connections: _count(1, 1 << 30) | None = None  # type: ignore[valid-type]
    when_full: Literal["refuse", "queue"] | None = None
    per_source: _count(1, 1 << 30) | None = None  # type: ignore[valid-type]
    rate: Rate | None = None
    total_rate: Rate | None = None
    allow: Texts | None = None
    deny: Texts | None = None


class Timeouts(Form, kw_only=True):
    """How long a proxy waits."""

    connect: Duration | None = None
    half_closed: DurationOrNever | None = None
    idle: Duration | None = None
    lifetime: Duration | None = None
    opening: Duration | None = None
    drain: Duration | None = None
    exit_idle: Duration | None = None


Upstreams = str | Upstream | tuple[str | Upstream, ...]


class Proxy(Form, kw_only=True):
    """What listens, and relays each connection to an upstream."""

    listen: Texts
    upstreams: Upstreams | None = None
    balance: Literal["round-robin", "least-conn", "first", "source"] | None = None
    retries: _count(0, 100) | None = None  # type: ignore[valid-type]
    check: Check | None = None
    resolve_interval: DurationOrNever | None = None
    route_sni: dict[str, Upstreams] = {}
    accept_proxy: Literal["no", "optional", "required"] | None = None
    trust_proxy: Texts | None = None
    send_proxy: Literal["no", "v1", "v2"] | None = None
    mirrors: str | Mirror | tuple[str | Mirror, ...] | None = None
    capture: str | Capture | None = None
    limits: Limits | None = None
    timeouts: Timeouts | None = None
    splice: bool = True
    pipe_size: Size | None = None


class Service(Form, kw_only=True):
    """How the process that serves the proxies behaves; one for all of them."""

    workers: _count(1, 256) = 1  # type: ignore[valid-type]
    user: str | None = None
    group: str | None = None
    access_log: str | None = None
    access_format: Literal["text", "json"] | None = None


class Recipe(Form, kw_only=True):
    """A whole recipe. A node is an address, or a mapping that `recipe.nodes` knows the form of."""

    zpipe: Literal[1]
    name: str = ""
    description: str = ""
    params: dict[ParamName, str | Param] = {}
    nodes: dict[Name, Any] = {}
    edges: tuple[str | Edge, ...] = ()
    proxies: dict[Name, Proxy] = {}
    defaults: Defaults | None = None
    service: Service | None = None
    metrics: str | None = None
