"""What a proxy is made of before anything listens or is connected to: settings and upstreams.

All processes that serve a proxy begin with its plan, and a reload prepares one. Opens nothing, and
asks no resolver: the addresses of targets are found by others (see `resolver`).
"""

from __future__ import annotations

from zpipe.proxy.settings import Upstream
from zpipe.proxy.upstreams import Balancer, Target

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.settings import Settings


class Plan:
    """What all processes of a proxy have from the start: its upstreams, found and counted."""

    def __init__(self, settings: Settings):
        self.settings = settings
        check = settings.check
        self.balancer = Balancer(
            settings.route_default or settings.upstreams, settings.balance, check
        )
        self.routes = [
            (route.pattern, Balancer(route.upstreams, settings.balance, check))
            for route in settings.routes
        ]
        self.mirrors = [Target(Upstream(mirror.address)) for mirror in settings.mirrors]

    @property
    def balancers(self) -> list[Balancer]:
        """Return those of the routes, and the default one if there is one."""
        return [self.balancer, *(balancer for _, balancer in self.routes)]

    @property
    def groups(self) -> dict[str, Balancer]:
        """Return the balancers by the name of their route; that of the default one is empty."""
        return {"": self.balancer, **dict(self.routes)}

    def fall(self, name: str, now: float) -> None:
        """Begin with an upstream as one that is down."""
        for balancer in self.balancers:
            for target in balancer.targets:
                if target.name == name:
                    target.fall(now)

    @property
    def targets(self) -> list[Target]:
        """Return every server that is connected to."""
        return [t for balancer in self.balancers for t in balancer.targets] + self.mirrors
