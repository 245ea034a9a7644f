"""Who may come in: from which addresses, how many from one, and how many the fds are enough for.

Counts who was let in, and nothing else; whoever is refused is turned away by others.
"""

from __future__ import annotations

import resource
from collections import Counter
from ipaddress import IPv6Address, ip_address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from zpipe.proxy.settings import Limits, Network, Settings

# fds that are not of connections: standard ones, epoll, listeners, logs, status, resolver, checks
_OWN = 48


class Admission:
    """Judges addresses without a port. An empty one (a UNIX client) is in no network."""

    def __init__(self, limits: Limits):
        self._allow = limits.allow
        self._deny = limits.deny
        self._most = limits.per_source
        self._open: Counter[str] = Counter()
        self.asks = bool(limits.allow or limits.deny or limits.per_source is not None)

    def refusal(self, address: str) -> str | None:
        """Return why nobody from here may come in; None: he may, and is counted until `left`."""
        if self._deny and within(address, self._deny):
            return "denied"
        if self._allow and not within(address, self._allow):
            return "denied"
        if self._most is not None:
            if self._open[address] >= self._most:
                return "per-source"
            self._open[address] += 1
        return None

    def left(self, address: str) -> None:
        """Count one from this address no longer."""
        if self._most is None:
            return
        if self._open[address] > 1:
            self._open[address] -= 1
        else:
            del self._open[address]


def within(address: str, networks: Iterable[Network]) -> bool:
    """Tell whether an address is in one of the networks; v4 mapped into v6 counts as v4."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return any(found in network for network in networks)


def fds_of_connection(settings: Settings) -> int:
    """Return the fds that one connection may hold, without pipes."""
    mirrors = sum(2 if mirror.direction == "both" else 1 for mirror in settings.mirrors)
    spills = sum(1 for mirror in settings.mirrors if mirror.when_full == "spill")
    return 2 + mirrors + spills


def raise_fd_limit() -> None:
    """Take as many fds as the system gives this process without asking for more rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass


def most_connections(settings: Settings, workers: int = 1) -> int:
    """Return how many connections one worker may have.

    That is what its fds are enough for, or its share of what was asked for if that is less.
    """
    fds, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if fds == resource.RLIM_INFINITY:
        fds = 1 << 30
    own = min(_OWN, fds // 2) + min(fds // 8, 128)  # and pipes, two each
    bound = max(1, (fds - own) // fds_of_connection(settings))
    wanted = settings.limits.connections
    return bound if wanted is None else min(bound, max(1, -(-wanted // workers)))
