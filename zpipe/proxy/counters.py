"""What a worker counts, and the one form in which it is told.

The snapshot of a worker (see `account`) is a mapping that JSON can carry; `merged` adds up those of
several. Metrics, status and progress are made of snapshots, and of nothing else.

Under `former`, by name, is what a reload has taken out of use: it may still have connections, and
what it has counted stays counted. `shown` makes of that what people and scrapers see.
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
    """Add up snapshots: numbers are added, lists go pairwise where all of them have entries."""
    first, *others = snapshots
    total: Snapshot = dict(first)
    for other in others:
        total |= {key: _added(key, total.get(key), value) for key, value in other.items()}
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
        if not mine or not other:
            return mine or other
        return [_added("", a, b) for a, b in zip(mine, other, strict=True)]
    if isinstance(mine, (int, float)) and not isinstance(mine, bool):
        return mine + other
    return mine


LISTS = ("upstreams", "mirrors")


def former(entries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return entries by their names; those of the same name are added up."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        found[entry["name"]] = merged(
            [found[entry["name"]], entry] if entry["name"] in found else [entry]
        )
    return found


def replaced(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot of a worker that takes no new clients, since others have its place."""
    past = snapshot["former"]
    return {
        **snapshot,
        "listeners": [],
        "connections": {**snapshot["connections"], "max": 0},
        "proxies": {
            name: {**proxy, "listeners": []} for name, proxy in snapshot["proxies"].items()
        },
        **{key: [] for key in LISTS},
        "former": merged([past, {key: former(snapshot[key]) for key in LISTS}]),
    }


def ended(snapshot: Snapshot) -> Snapshot:
    """Return what stays of a worker that is gone: all that is counted, nothing that is open."""
    found = replaced(snapshot)
    return {
        **found,
        "connections": {**found["connections"], "active": 0},
        "pipes": dict.fromkeys(found["pipes"], 0),
        "proxies": {
            name: {**proxy, "connections": {**proxy["connections"], "active": 0}}
            for name, proxy in found["proxies"].items()
        },
        "former": {
            key: {name: {**entry, "active": 0} for name, entry in entries.items()}
            for key, entries in found["former"].items()
        },
    }


def shown(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot in which what is no longer used is there as long as it has connections.

    What it has counted is that of an entry with the same name, if there is one: so the sum for a
    name never goes back while it is shown, and goes on where it was when the name comes again.
    """
    found = {key: value for key, value in snapshot.items() if key != "former"}
    for key in LISTS:
        past = dict(snapshot["former"][key])
        entries = [
            merged([entry, past.pop(entry["name"])]) if entry["name"] in past else entry
            for entry in snapshot[key]
        ]
        for entry in past.values():
            if entry["active"]:
                gone = {name: value for name, value in _GONE.items() if name in entry}
                entries.append({**entry, **gone})
        found[key] = entries
    found["proxies"] = {
        name: proxy
        for name, proxy in snapshot["proxies"].items()
        if proxy["listeners"] or proxy["connections"]["active"]
    }
    return found


_GONE = {"state": "draining", "weight": 0}
