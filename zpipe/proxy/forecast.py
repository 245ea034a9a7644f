"""Foresee what a proxy costs: a hop for each direction, with the copies that are made on the way.

Nothing is resolved, connected to or listened at, so the network on the way is not known. Knows what
`relay`, `mirror` and `capture` do with bulk data; all sockets of one kind are alike.
"""

from __future__ import annotations

from zpipe.engine.forecast import Foreseen
from zpipe.facts import FdFacts
from zpipe.graph.model import Endpoint, Node, Wishes
from zpipe.movers import mover_of
from zpipe.movers.contract import Cost
from zpipe.movers.cost import MIB, by_user, dma, into_pipe, out_of_pipe
from zpipe.plan.choice import Candidate, HopPlan, Refusal
from zpipe.proxy.loop import BUFFER
from zpipe.values import Value, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zpipe.proxy.settings import Address, Direction, Mirror, Settings, Upstream

_SOCKETS = {
    "tcp": FdFacts("tcp", nonblocking=True),
    "unix": FdFacts("unix", nonblocking=True),
}
_RECORD = FdFacts("regular", position=0, size=0, fresh=True)
_TEE = "tee into a pipe for each copy: references are doubled, not bytes; then splice"
_PLAIN = "read into a buffer once, write to each"
_SMALL = f"a read of less than {BUFFER >> 10} KiB is written on: two CPU copies, two system calls"
_NETWORK = "the way is known once somebody connects: each network device on it adds a DMA copy"
_GATHERS = "a device that does not gather from scattered pages adds a CPU copy"
_OFF = "splicing is switched off"


def forecast(settings: Settings) -> list[Foreseen]:
    """Return a hop from clients to upstreams and one back, for each pair of kinds of sockets."""
    found = []
    for client in _clients(settings.listen):
        for upstream in _upstreams(settings):
            found.append(_hop(settings, client, upstream, "up"))
            found.append(_hop(settings, upstream, client, "down"))
    return found


def _clients(places: Iterable[Address]) -> list[Node]:
    """Return a node for each kind of listener; without any, it is a TCP one that is found later."""
    groups = _by_kind(places) or {"tcp": []}
    return [
        Node("client", Endpoint(f"clients of {', '.join(at)}" if at else "clients", kind, ""))
        for kind, at in groups.items()
    ]


def _upstreams(settings: Settings) -> list[Node]:
    """Return a node for each kind of upstream: of those in it, a connection goes to one."""
    every: list[Upstream] = [each for route in settings.routes for each in route.upstreams]
    every += settings.route_default or settings.upstreams
    groups = _by_kind(each.address for each in every)
    return [Node("upstream", Endpoint(" or ".join(to), kind, "")) for kind, to in groups.items()]


def _by_kind(addresses: Iterable[Address]) -> dict[str, list[str]]:
    """Return the texts of addresses by kinds of sockets; a passed fd is taken for a TCP one."""
    groups: dict[str, list[str]] = {}
    for address in addresses:
        names = groups.setdefault("unix" if address.kind == "unix" else "tcp", [])
        if address.text not in names:
            names.append(address.text)
    return groups


class _Copy(Value):
    """Somebody who gets a copy, what its fd is like, and what there is to be told of it."""

    node: Node
    facts: FdFacts
    note: str = ""


def _hop(settings: Settings, source: Node, sink: Node, direction: Direction) -> Foreseen:
    facts = _SOCKETS[source.endpoint.kind]
    copies = _copies(settings, direction)
    sinks = [_SOCKETS[sink.endpoint.kind], *(copy.facts for copy in copies)]
    plan = _plan(settings, facts, sinks)
    spliced = plan.first.name != "plain"
    notes = [_SMALL] if spliced else []
    notes += [copy.note for copy in copies if copy.note]
    notes += [_NETWORK] if "tcp" in (facts.type, *(each.type for each in sinks)) else []
    notes += [_GATHERS] if spliced and "tcp" in (each.type for each in sinks) else []
    return Foreseen(
        source,
        (sink, *(copy.node for copy in copies)),
        replace(plan, notes=tuple(notes)),
        Wishes(pipe_size=settings.pipe_size, rate_limit=settings.limits.rate),
        (None,) * len(sinks),
    )


def _copies(settings: Settings, direction: Direction) -> list[_Copy]:
    """Return those that get a copy of this direction."""
    found = [
        _mirrored(mirror, place)
        for place, mirror in enumerate(settings.mirrors, start=1)
        if mirror.direction in (direction, "both")
    ]
    if settings.capture is not None:
        folder = settings.capture.directory
        found.append(_Copy(Node("capture", Endpoint(f"capture {folder}", "file", folder)), _RECORD))
    return found


def _mirrored(mirror: Mirror, place: int) -> _Copy:
    text, kind = mirror.address.text, mirror.address.kind
    note = ""
    if mirror.sample < 1:
        share = f"{mirror.sample * 100:.3g} %"
        note = f"mirror {text}: gets {share} of the connections, and the others cost less"
    return _Copy(
        Node(f"mirror {place}", Endpoint(f"mirror {text}", kind, "")), _SOCKETS[kind], note
    )


def _plan(settings: Settings, source: FdFacts, sinks: Sequence[FdFacts]) -> HopPlan:
    """Return how bulk data goes: a proxy has these two ways, and none of the other movers."""
    devices = sum(dma(each, each) / 2 for each in (source, *sinks))
    count = len(sinks)
    # in, a tee for each copy, and out to each
    calls = 2 * count * MIB / settings.pipe_size
    cost = Cost(into_pipe(source) + sum(map(out_of_pipe, sinks)), devices, calls)
    name, summary = ("tee", _TEE) if count > 1 else ("splice", mover_of("splice").summary)
    spliced = Candidate(name, summary, cost)
    cost = Cost(by_user(source) + sum(map(by_user, sinks)), devices, (1 + count) * MIB / BUFFER)
    plain = Candidate("plain", _PLAIN if count > 1 else mover_of("plain").summary, cost)
    if settings.splice:
        return HopPlan((spliced, plain), ())
    return HopPlan((plain,), (Refusal(name, _OFF),))
