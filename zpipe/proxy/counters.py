"""What a worker counts, and the one form in which it is told.

`snapshot` of a server (see `server`) is a mapping that JSON can carry; `merged` adds up those of
several workers. Metrics, status and progress are made of snapshots, and of nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Snapshot = dict[str, Any]


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # by reason, before any upstream
    closed: Counter[str] = field(default_factory=Counter)  # by reason
    up: int = 0  # bytes that upstreams took, of connections that have ended
    down: int = 0  # and that clients took
    spliced: int = 0  # of both, what went by splice
    lost: int = 0  # read from one side and not taken by the other
    retried: int = 0  # connects that another upstream got


@dataclass(frozen=True, slots=True)
class Access:
    """One connection that has ended, for the access log."""

    began: float  # seconds since the epoch
    peer: str  # `127.0.0.1:4711`, `unix` for a UNIX client
    listener: str
    upstream: str | None  # None: it never came so far
    up: int  # bytes that the upstream took
    down: int  # bytes that the client took
    connect: float | None  # seconds until the upstream answered
    lasted: float  # seconds
    mover: str  # copy, splice, or both: `copy+splice`
    reason: str  # why it ended: see REASONS
    mirror: str = ""  # of each mirror in turn: ok, or why it was given up; empty: not mirrored
    name: str = ""  # of the TLS server that was asked for


# why connections end; the label sets of the metrics are bounded by this
REASONS = {
    "closed": "both sides have ended",
    "client-reset": "the client has broken it off",
    "upstream-reset": "the upstream has broken it off",
    "client-error": "reading from or writing to the client failed",
    "upstream-error": "reading from or writing to the upstream failed",
    "no-upstream": "no upstream took it",
    "client-left": "the client was gone before an upstream answered",
    "idle": "nothing has moved for --idle-timeout",
    "half-closed": "one side had ended, and the other did not follow in --half-closed-timeout",
    "lifetime": "it was as old as --max-lifetime allows",
    "bad-header": "the PROXY header was missing, malformed or from an untrusted source",
    "opening-timeout": "the PROXY header or the ClientHello did not come in time",
    "no-route": "no upstream for the name, and no default",
    "drained": "the proxy was ending, and --drain-timeout was over",
}

# why a client was not served at all
REFUSALS = {
    "full": "--max-connections were open",
    "per-source": "its address had --per-source connections open",
    "denied": "its address is denied, or not allowed",
    "no-fds": "the process had no fds left",
}


def merged(snapshots: list[Snapshot]) -> Snapshot:
    """Add up the snapshots of workers that serve the same: numbers are added, lists go pairwise."""
    first, *others = snapshots
    total: Snapshot = dict(first)
    for other in others:
        total = {key: _added(key, total.get(key), value) for key, value in other.items()}
    return total


_NOT_ADDED = ("v", "weight", "started")


def _added(key: str, mine: Any, other: Any) -> Any:
    if mine is None or other is None:
        return other if mine is None else mine
    if key in _NOT_ADDED:
        return mine
    if isinstance(mine, dict):
        return {key: _added(key, mine.get(key), other.get(key)) for key in {**mine, **other}}
    if isinstance(mine, list):
        return [_added("", a, b) for a, b in zip(mine, other, strict=True)]
    if isinstance(mine, (int, float)) and not isinstance(mine, bool):
        return mine + other
    return mine
