"""Choose the movers of one hop, in the order in which they are to be tried."""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.movers import MOVERS, ON_REQUEST, mover_of
from zpipe.movers.contract import refuse
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from zpipe.facts import FdFacts
    from zpipe.graph.model import Wishes
    from zpipe.movers.contract import Cost, Fit


class Candidate(Value):
    """A mover that may serve, with its cost by the model and what the user should know of it."""

    name: str
    summary: str
    cost: Cost
    caveat: str = ""


class Refusal(Value):
    """A mover that would be preferred, and why it is not even tried."""

    name: str
    why: str


class HopPlan(Value):
    """`candidates` in order, at least one; `refusals` are those preferred to the first of them.

    `notes` tell what the network on the way does to the copies.
    """

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> Candidate:
        return self.candidates[0]


def choose(source: FdFacts, sink: FdFacts, wishes: Wishes) -> HopPlan:
    """Return the plan for a pair.

    A mover that was asked for by name stands alone: where it refuses, the hop fails.

    Raises: UsageError  the mover asked for cannot serve the pair, or none is left.
    """
    if wishes.via is not None:
        fit = _fit(wishes.via, source, sink, wishes)
        if not fit.ok:
            raise UsageError(f"--via {wishes.via}: {fit.why}")
        return HopPlan((_candidate(wishes.via, source, sink, fit),), (), _network(wishes.via, sink))
    fits = {}
    for name in _order(source, sink):
        if name in ON_REQUEST and not _asked(name, source, sink):
            fits[name] = refuse(f"only on request (--via {name})")
        else:
            fits[name] = _fit(name, source, sink, wishes)
    names, refusals = preferred(fits, "no mover is left")
    candidates = tuple(_candidate(name, source, sink, fits[name]) for name in names)
    return HopPlan(candidates, refusals, _network(names[0], sink))


def preferred(fits: Mapping[str, Fit], none: str) -> tuple[list[str], tuple[Refusal, ...]]:
    """Return who may serve, the best first, and why those before the first one do not.

    Those that others are quicker than are left out, unless there are no others.

    Raises: UsageError  there is nobody: `none`, and the reasons.
    """
    able = [name for name, fit in fits.items() if fit.ok]
    names = [name for name in able if not fits[name].slower] or able
    refusals = []
    for name, fit in fits.items():
        if names and name == names[0]:
            break
        refusals.append(Refusal(name, fit.why or fit.slower))
    if not names:
        reasons = "; ".join(f"{refusal.name}: {refusal.why}" for refusal in refusals)
        raise UsageError(f"{none}: {reasons}")
    return names, tuple(refusals)


def _network(mover: str, sink: FdFacts) -> tuple[str, ...]:
    """Say whether the last copy into a TCP socket is avoided, and what loopback still costs."""
    if sink.type != "tcp" or mover not in ("sendfile", "splice"):
        return ()
    device = sink.route or "the device"
    if sink.scatter_gather is None:
        lines = [f"{device} does not say whether it gathers from scattered pages"]
    elif sink.scatter_gather:
        lines = [f"{device} gathers from scattered pages: the last CPU copy is avoided"]
    else:
        lines = [f"{device} does not gather from scattered pages: one CPU copy more"]
    if device == "lo":
        lines.append("loopback: the reader's copy out of the socket is paid on this machine")
    return tuple(lines)


def _order(source: FdFacts, sink: FdFacts) -> tuple[str, ...]:
    if _asked("direct", source, sink):
        return ("direct", *(name for name in MOVERS if name != "direct"))
    return MOVERS


def _asked(name: str, source: FdFacts, sink: FdFacts) -> bool:
    """An end with O_DIRECT, asked for or found, asks for the mover that keeps to its rules."""
    return name == "direct" and (source.direct or sink.direct)


def _fit(name: str, source: FdFacts, sink: FdFacts, wishes: Wishes) -> Fit:
    if name in wishes.without:
        return refuse(f"forbidden by --no-via {name}")
    fit = mover_of(name).fits(source, sink)
    if fit.ok and fit.by_reference and wishes.stable:
        return refuse("its pages would go by reference, and --stable asks for copies")
    return fit


def _candidate(name: str, source: FdFacts, sink: FdFacts, fit: Fit) -> Candidate:
    mover = mover_of(name)
    return Candidate(name, mover.summary, mover.cost(source, sink), fit.caveat)
