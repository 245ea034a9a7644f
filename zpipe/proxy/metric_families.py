"""The snapshot of a proxy as families of Prometheus metrics.

Nothing is counted here. The sets of labels are bounded by the tables of reasons and by the
settings. Knows nothing of who asks, and how: prometheus_client makes text of families.
"""

from __future__ import annotations

from zpipe import __version__
from zpipe.proxy.counters import REASONS, REFUSALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

    from zpipe.proxy.counters import Snapshot

    _Value = tuple[tuple[str, ...], float]  # of the labels
    _Group = tuple[str, list[dict[str, Any]]]  # a name, and what is called so
    _Family = CounterMetricFamily | GaugeMetricFamily


class SnapshotCollector:
    """Makes the families of one snapshot."""

    def __init__(self, snapshot: Callable[[], Snapshot]):
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return families(self._snapshot())


def families(snapshot: Snapshot) -> list[Metric]:
    """Return a snapshot as families of metrics."""
    connections, moved = snapshot["connections"], snapshot["bytes"]
    upstreams, mirrors = _by_name(snapshot["upstreams"]), _by_name(snapshot["mirrors"])
    version = ((__version__, snapshot["name"]), 1)
    return [
        _gauge("info", "Always 1; version and name of the proxy.", [version], "version", "name"),
        _gauge("start_time_seconds", "Start, since the epoch.", _plain(snapshot["started"])),
        _gauge("draining", "1 while the proxy ends.", _plain(snapshot["state"] != "running")),
        _gauge("workers", "Processes that serve.", _plain(snapshot["workers"])),
        _gauge("connections_active", "Open connections.", _plain(connections["active"])),
        _gauge("connections_max", "Connections at most.", _plain(connections.get("max"))),
        _counter("connections_accepted", "Clients that came.", _plain(connections["accepted"])),
        _counter(
            "connections_closed",
            "Connections that have ended, by reason.",
            _by_reason(connections["closed"], REASONS),
            "reason",
        ),
        _counter(
            "connections_refused",
            "Clients that were not served, by reason.",
            _by_reason(connections["refused"], REFUSALS),
            "reason",
        ),
        _counter(
            "connect_retries",
            "Connects that failed and were tried elsewhere.",
            _plain(snapshot["retried"]),
        ),
        _counter(
            "bytes",
            "Delivered bytes, up to upstreams and down to clients.",
            [((way,), moved[way]) for way in ("up", "down")],
            "direction",
        ),
        _counter("spliced_bytes", "Delivered bytes that splice moved.", _plain(moved["spliced"])),
        _counter("lost_bytes", "Bytes read and not delivered.", _plain(moved["lost"])),
        _gauge(
            "upstream_up",
            "1 while connections go to it.",
            [((name,), any(each["state"] == "up" for each in same)) for name, same in upstreams],
            "upstream",
        ),
        _gauge("upstream_weight", "Its share.", _sums(upstreams, "weight"), "upstream"),
        _gauge(
            "upstream_connections_active",
            "Open connections to it.",
            _sums(upstreams, "active"),
            "upstream",
        ),
        _counter(
            "upstream_connections",
            "Connections that it got.",
            _sums(upstreams, "connections"),
            "upstream",
        ),
        _counter(
            "upstream_failures",
            "Connects and checks that failed.",
            _sums(upstreams, "failures"),
            "upstream",
        ),
        _counter(
            "upstream_bytes",
            "Delivered bytes, up to it and down from it.",
            [
                ((*name, way), count)
                for way in ("up", "down")
                for name, count in _sums(upstreams, way)
            ],
            "upstream",
            "direction",
        ),
        _gauge(
            "mirror_connections_active",
            "Connections that are mirrored to it.",
            _sums(mirrors, "active"),
            "mirror",
        ),
        _counter(
            "mirror_connections",
            "Connections that were mirrored to it.",
            _sums(mirrors, "connections"),
            "mirror",
        ),
        _counter("mirror_bytes", "Bytes that it took.", _sums(mirrors, "bytes"), "mirror"),
        _counter(
            "mirror_missed_bytes", "Bytes that it did not get.", _sums(mirrors, "missed"), "mirror"
        ),
        _counter(
            "mirror_given_up",
            "Connections that it was dropped from, by reason.",
            _given_up(mirrors),
            "mirror",
            "reason",
        ),
        *_of_capture(snapshot.get("capture")),
        _gauge(
            "pipes",
            "Pipes, lent to connections or kept for them.",
            [((state,), count) for state, count in snapshot["pipes"].items()],
            "state",
        ),
    ]


def _of_capture(capture: dict[str, int] | None) -> list[Metric]:
    if capture is None:
        return []
    return [
        _counter("capture_connections", "Connections recorded.", _plain(capture["connections"])),
        _counter("capture_bytes", "Bytes recorded.", _plain(capture["bytes"])),
        _counter("capture_missed_bytes", "Bytes not recorded.", _plain(capture["missed"])),
    ]


def _gauge(name: str, text: str, values: list[_Value], *labels: str) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return _filled(GaugeMetricFamily(f"zpipe_proxy_{name}", text, labels=labels), values)


def _counter(name: str, text: str, values: list[_Value], *labels: str) -> Metric:
    from prometheus_client.core import CounterMetricFamily  # which adds `_total`

    return _filled(CounterMetricFamily(f"zpipe_proxy_{name}", text, labels=labels), values)


def _filled(family: _Family, values: list[_Value]) -> Metric:
    for words, value in values:
        family.add_metric(words, value)
    return family


def _by_reason(counts: dict[str, int], known: Iterable[str]) -> list[_Value]:
    """Return every reason there is, also where it never happened: a rate needs the zero."""
    return [((why,), counts.get(why, 0)) for why in known]


def _plain(value: float | None) -> list[_Value]:
    """Return the one value of a family without labels; none where it is not known."""
    return [] if value is None else [((), value)]


def _sums(groups: list[_Group], key: str) -> list[_Value]:
    return [((name,), sum(each[key] for each in same)) for name, same in groups]


def _given_up(mirrors: list[_Group]) -> list[_Value]:
    counts: dict[tuple[str, ...], float] = {}
    for name, same in mirrors:
        for each in same:
            for why, count in each["given_up"].items():
                counts[name, why] = counts.get((name, why), 0) + count
    return list(counts.items())


def _by_name(entries: list[dict[str, Any]]) -> list[_Group]:
    """Group what has the same name, as two routes to one upstream: no label may come twice."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in entries:
        groups.setdefault(each["name"], []).append(each)
    return list(groups.items())
