"""Serve proxies for the command line: find upstreams, open listeners, tell what is served, serve.

The same for `zpipe proxy` and for the proxies of a recipe. Knows no options and no recipes.
"""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.proxy.activation import passed
from zpipe.proxy.listening import close_all, no_loop, open_listeners
from zpipe.proxy.plan import Plan
from zpipe.proxy.resolver import resolve_first
from zpipe.proxy.settings import Address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.proxy.listening import Listener
    from zpipe.proxy.settings import Settings


class Opened:
    """Proxies that listen, and whose upstreams are found; nothing is accepted yet.

    `listeners` are per proxy and per worker. Where a proxy says nothing of where to listen, it is
    at the sockets that were passed in, or at 127.0.0.1 with the port of its first upstream.

    Raises: UsageError  names that do not resolve, an address that cannot be listened at, an
                        upstream that is the proxy itself; nothing stays open.
    """

    def __init__(self, settings: Sequence[Settings], workers: int):
        self.plans = [Plan(each) for each in settings]
        self.listeners: list[list[list[Listener]]] = []
        resolve_first(target for plan in self.plans for target in plan.targets)
        try:
            for plan in self.plans:
                places = plan.settings.listen
                if not places and not passed():
                    places = (_default(plan),)
                self.listeners.append(open_listeners(places, workers=workers))
            for plan, listeners in zip(self.plans, self.listeners, strict=True):
                no_loop(plan.targets, listeners[0])
        except BaseException:
            self.close()
            raise

    def summaries(self) -> list[str]:
        """Return a line for each: where it listens, and what it serves."""
        lines = []
        for plan, listeners in zip(self.plans, self.listeners, strict=True):
            name = f" {plan.settings.name}" if plan.settings.name else ""
            lines.append(f"proxy{name}: {_summary(plan.settings, listeners[0])}")
        return lines

    def close(self) -> None:
        """Listen no more; in a forked process, what others listen at stays as it is."""
        for listeners in self.listeners:
            close_all(listeners)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _default(plan: Plan) -> Address:
    """Return 127.0.0.1 with the port of the first upstream. Raises: UsageError."""
    if not plan.settings.upstreams:
        raise UsageError("proxy: no address to listen at: give --listen")
    first = plan.targets[0]
    address = first.upstream.address
    if address.kind != "tcp":
        raise UsageError(f"{address.text}: has no port to listen at: give --listen")
    host = "127.0.0.1"
    if any(place[0] in (host, "0.0.0.0") for _, place in first.addresses):
        raise UsageError(f"{address.text}: is on this machine, at the same port: give --listen")
    return Address("tcp", f"{host}:{address.port}", host=host, port=address.port)


def _summary(settings: Settings, listeners: list[Listener]) -> str:
    """Return `127.0.0.1:5432 -> 10.0.0.1:5432`."""
    sources = ", ".join(listener.address for listener in listeners)
    targets = [
        f"{upstream.address.text} ({route.pattern})"
        for route in settings.routes
        for upstream in route.upstreams
    ]
    targets += [upstream.address.text for upstream in settings.route_default or settings.upstreams]
    mirrors = ", ".join(mirror.address.text for mirror in settings.mirrors)
    return f"{sources} -> {', '.join(targets)}{'; mirror ' + mirrors if mirrors else ''}"
