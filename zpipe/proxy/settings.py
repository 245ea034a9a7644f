"""What a proxy is asked to do, as values: the same from a command line and from a recipe.

Knows nothing of options, YAML or sockets. Sizes are bytes, durations seconds, rates bytes a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

Balance = Literal["round-robin", "least-conn", "first", "source"]
Direction = Literal["up", "down", "both"]
WhenFull = Literal["detach", "spill", "block"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or to connect to.

    `tcp` has host and port (an empty host of a listener: every address, v4 and v6), `unix` a path
    (one that begins with @ is abstract), `fd` the number or name of a socket that was passed in
    (listeners only). mode, user and group are those of the path of a UNIX listener.
    """

    kind: Literal["tcp", "unix", "fd"]
    text: str  # as the user wrote it: every message calls it so
    host: str = ""
    port: int = 0
    path: str = ""
    mode: int | None = None
    user: str | None = None
    group: str | None = None
    v6only: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """One server behind the proxy; of two, the one with weight 2 gets twice as much as 1."""

    address: Address
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Check:
    """An active check: connect, send something, expect something, every so often."""

    interval: float = 2.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    send: bytes = b""
    expect: bytes = b""


@dataclass(frozen=True, slots=True)
class Route:
    """TLS connections for a name: `pattern` is a host name, or `*.` before one, lower case."""

    pattern: str
    upstreams: tuple[Upstream, ...]


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where copies of the bytes go; `queue` bounds what a connection holds for it."""

    address: Address
    direction: Direction = "up"
    queue: int = 4 << 20
    when_full: WhenFull = "detach"
    spill_max: int = 1 << 30
    sample: float = 1.0


@dataclass(frozen=True, slots=True)
class Capture:
    """Where connections are recorded; `total` bounds the whole folder, the oldest go first."""

    directory: str
    total: int = 1 << 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What the proxy refuses. None: no bound but that of the process's fds."""

    connections: int | None = None
    when_full: Literal["refuse", "queue"] = "queue"
    per_source: int | None = None
    rate: int | None = None  # of each connection, both directions together
    total_rate: int | None = None
    allow: tuple[Network, ...] = ()
    deny: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long is waited. None: for ever."""

    connect: float = 5.0
    half_closed: float | None = 60.0
    idle: float | None = None
    lifetime: float | None = None
    opening: float = 5.0  # for a PROXY header, and for a ClientHello
    drain: float = 30.0
    exit_idle: float | None = None


@dataclass(frozen=True, slots=True)
class Header:
    """The PROXY protocol: whether a header is taken from clients, and one sent to upstreams."""

    accept: Literal["no", "optional", "required"] = "no"
    trust: tuple[Network, ...] = ()  # empty: from everybody
    send: Literal["no", "v1", "v2"] = "no"


@dataclass(frozen=True, slots=True)
class Settings:
    """One proxy."""

    listen: tuple[Address, ...]
    upstreams: tuple[Upstream, ...]
    balance: Balance = "round-robin"
    check: Check | None = None
    retries: int = 2  # further upstreams that are tried when one does not answer
    resolve_every: float = 30.0
    routes: tuple[Route, ...] = ()
    route_default: tuple[Upstream, ...] = ()
    header: Header = field(default_factory=Header)
    mirrors: tuple[Mirror, ...] = ()
    capture: Capture | None = None
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    splice: bool = True
    pipe_size: int = 1 << 20
    name: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """How the process that serves proxies behaves: one for all of them."""

    workers: int = 1
    user: str | None = None
    group: str | None = None
    access_log: str | None = None  # a path; `-` is standard output
    access_format: Literal["text", "json"] = "text"
    metrics: Address | None = None
    progress: Literal["auto", "always", "never"] = "auto"
    quiet: bool = False
