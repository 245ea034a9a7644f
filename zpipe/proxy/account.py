"""What lasts of a proxy while its settings change: its name, its upstreams, and what is counted.

A reload gives a proxy another service; the one before goes on until its last connection has gone.
Both count into one account, which is kept when the proxy itself is taken away. Knows nothing of
loops and listeners.
"""

from __future__ import annotations

from zpipe.proxy.counters import Counters, Snapshot, former, merged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.mirror import MirrorService
    from zpipe.proxy.plan import Plan
    from zpipe.proxy.service import Service
    from zpipe.proxy.upstreams import Target

    _Key = tuple[str, str, int]  # route, name, and which of those that are named twice
    _Live = dict[int, list[int]]  # of a target: bytes up and down of connections that are open


class Account:
    """One proxy, by its name. Whoever changes it does so in the loop's thread."""

    def __init__(self, name: str):
        self.name = name
        self.counters = Counters()
        self._upstreams: dict[_Key, Target] = {}
        # replaced as a whole: other threads read it. The services, the present one first, if there
        # is one; what the mirrors have counted of those that have ended; all recorders there were
        self._standing: tuple[
            Service | None, tuple[Service, ...], dict[str, dict[str, Any]], tuple[Recorder, ...]
        ] = (None, (), {}, ())

    @property
    def service(self) -> Service | None:
        """Return the service that takes new clients; None: the proxy was taken away."""
        return self._standing[0]

    @property
    def retired(self) -> tuple[Service, ...]:
        """Return the services that only have connections from before."""
        return self._standing[1]

    @property
    def services(self) -> tuple[Service, ...]:
        """Return all services, the present one first."""
        present, retired = self._standing[:2]
        return retired if present is None else (present, *retired)

    @property
    def recorders(self) -> tuple[Recorder, ...]:
        """Return all recorders that there were; those of the services are open."""
        return self._standing[3]

    def settle(self, plan: Plan) -> None:
        """Let the upstreams of a plan go on as what they were before, as far as they were there.

        One that was down stays down until it is found to be up. One that was away for a while is
        as good as a new one, but for what it has counted.
        """
        present = self.service
        groups = present.plan.groups if present is not None else {}
        used = {id(target) for group in groups.values() for target in group.targets}
        for route, group in plan.groups.items():
            targets = []
            for key, fresh in _keyed(route, group.targets):
                known = self._upstreams.setdefault(key, fresh)
                if known is not fresh:
                    known.become(fresh.upstream, plan.settings.check, fresh.addresses)
                    if id(known) not in used:
                        known.forget()
                targets.append(known)
            group.take(targets, groups.get(route))

    def begin(self, service: Service | None) -> None:
        """Let another service take new clients, or none; the one before has retired."""
        before, retired, mirrors, recorders = self._standing
        if before is not None:
            retired = (before, *retired)
        if (
            service is not None
            and service.recorder is not None
            and service.recorder not in recorders
        ):
            recorders = (*recorders, service.recorder)
        self._standing = service, retired, mirrors, recorders

    def end(self, service: Service) -> None:
        """Forget a retired service whose last connection has gone, but not what it has counted."""
        present, retired, mirrors, recorders = self._standing
        retired = tuple(one for one in retired if one is not service)
        mirrors = former([*mirrors.values(), *map(self._of_mirror, service.mirrors)])
        self._standing = present, retired, mirrors, recorders

    def snapshot(self) -> Snapshot:
        """Return what happened so far; may be called by any thread."""
        present, retired, mirrors, recorders = self._standing
        counters = self.counters
        up, down, spliced = counters.up, counters.down, counters.spliced
        active = 0
        live: _Live = {}
        for service in retired if present is None else (present, *retired):
            for one in list(service.connections):
                server = one.server
                back = server.count if server is not None else 0
                active += 1
                up += one.client.count
                down += back
                spliced += one.spliced
                if one.target is not None:
                    sums = live.setdefault(id(one.target), [0, 0])
                    sums[0] += one.client.count
                    sums[1] += back
        targets = (
            [target for group in present.plan.balancers for target in group.targets]
            if present is not None
            else []
        )
        used = set(map(id, targets))
        gone = [target for target in list(self._upstreams.values()) if id(target) not in used]
        listeners = (
            [listener.address for listener in present.listeners] if present is not None else []
        )
        connections = {
            "active": active,
            "accepted": counters.accepted,
            "max": present.most if present is not None else 0,
            "closed": dict(counters.closed),
            "refused": dict(counters.refused),
        }
        moved = {"up": up, "down": down, "spliced": spliced, "lost": counters.lost}
        old_mirrors = [self._of_mirror(mirror) for service in retired for mirror in service.mirrors]
        return {
            "v": 1,
            "name": self.name if present is not None else "",
            "listeners": listeners,
            "connections": connections,
            "bytes": moved,
            "retried": counters.retried,
            "upstreams": [self._of_upstream(target, live) for target in targets],
            "mirrors": [
                self._of_mirror(mirror)
                for mirror in (present.mirrors if present is not None else ())
            ],
            "capture": _of_capture(recorders),
            "proxies": {
                self.name: {
                    "listeners": listeners,
                    "connections": connections,
                    "bytes": moved,
                    "retried": counters.retried,
                }
            },
            "former": {
                "upstreams": former([self._of_upstream(target, live) for target in gone]),
                "mirrors": former([*mirrors.values(), *old_mirrors]),
            },
        }

    def _of_upstream(self, target: Target, live: _Live) -> dict[str, Any]:
        more = live.get(id(target), (0, 0))
        return {
            "name": target.name,
            "proxy": self.name,
            "state": "up" if target.up else "down",
            "weight": target.weight,
            "active": target.active,
            "connections": target.connections,
            "failures": target.failures,
            "up": target.sent + more[0],
            "down": target.received + more[1],
        }

    def _of_mirror(self, mirror: MirrorService) -> dict[str, Any]:
        return {
            "name": mirror.target.name,
            "proxy": self.name,
            "active": mirror.active,
            "connections": mirror.connections,
            "bytes": mirror.bytes,
            "given_up": dict(mirror.given_up),
            "missed": mirror.missed,
        }


def together(accounts: Iterable[Account]) -> Snapshot:
    """Return the snapshot of several proxies as one; `name` is that of all that take clients."""
    each = [account.snapshot() for account in accounts]
    lists = ("listeners", "upstreams", "mirrors")
    total = merged([{key: one[key] for key in one if key not in lists} for one in each])
    names = ", ".join(one["name"] for one in each if one["name"])
    return {**total, "name": names, **{key: [x for one in each for x in one[key]] for key in lists}}


def _keyed(route: str, targets: list[Target]) -> Iterable[tuple[_Key, Target]]:
    """Name each upstream of a route; one may be named twice."""
    seen: dict[str, int] = {}
    for target in targets:
        seen[target.name] = seen.get(target.name, 0) + 1
        yield (route, target.name, seen[target.name]), target


def _of_capture(recorders: tuple[Recorder, ...]) -> dict[str, int] | None:
    if not recorders:
        return None
    return {
        key: sum(getattr(recorder, key) for recorder in recorders)
        for key in ("connections", "bytes", "missed")
    }
