"""Choose how one source reaches several sinks."""

from __future__ import annotations

from zpipe.errors import UsageError
from zpipe.movers import MOVERS
from zpipe.movers.contract import Cost, Fit, refuse
from zpipe.movers.cost import MIB, by_user, dma, few, into_pipe, out_of_pipe
from zpipe.movers.drain import BUFFER
from zpipe.movers.pump import piece_into
from zpipe.movers.sendfile import refused_by_splice
from zpipe.plan.choice import Candidate, HopPlan, preferred

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.facts import FdFacts
    from zpipe.graph.model import Wishes
    from zpipe.graph.policy import Policy

# In the order in which they are preferred: to several sinks, and to one that has a buffer or parts.
WAYS = {
    "tee": "tee into a private pipe for each sink: references are doubled, not bytes; then splice",
    "plain": "read into a buffer once, write it to each sink",
}
WAYS_TO_ONE = {
    "splice": "splice through private pipes, and through a file where the sink is slow",
    "plain": "read into a buffer, write to the sink",
}
_ROUND = MIB


def choose_fan(source: FdFacts, sinks: Sequence[FdFacts], wishes: Wishes) -> HopPlan:
    """Return the plan for a source and its sinks.

    The wishes have passed `judge`.

    Raises: UsageError  the way asked for cannot serve them, or none is left.
    """
    ways = WAYS if len(sinks) > 1 else WAYS_TO_ONE
    if wishes.via is not None:
        fit = _fit(wishes.via, source, sinks, wishes)
        if not fit.ok:
            raise UsageError(f"--via {wishes.via}: {fit.why}")
        return HopPlan((_candidate(wishes.via, source, sinks, fit),), ())
    fits = {name: _fit(name, source, sinks, wishes) for name in ways}
    names, refusals = preferred(fits, "no way to several sinks is left")
    candidates = tuple(_candidate(name, source, sinks, fits[name]) for name in names)
    small = names[0] != "plain" and len(names) > 1 and source.position is None
    notes = ("small pieces of a stream are read and written",) if small else ()
    return HopPlan(candidates, refusals, notes)


def needs_fan(policies: Sequence[Policy], *, parts: bool) -> bool:
    """Tell whether sinks are more than a hop serves: several, one with a policy, one in parts."""
    return len(policies) != 1 or policies[0].when_full != "block" or parts


def judge(wishes: Wishes, policies: Sequence[Policy], *, parts: bool) -> None:
    """Judge what is asked of the movers by the number of sinks alone, before anything is opened.

    Raises: UsageError  the mover asked for can never serve, or all that could are forbidden.
    """
    if not needs_fan(policies, parts=parts):
        if wishes.via is not None and wishes.via not in MOVERS:
            raise UsageError(f"--via {wishes.via}: serves several sinks, and there is one")
        return
    ways = WAYS if len(policies) > 1 else WAYS_TO_ONE
    what = "several sinks go" if len(policies) > 1 else "with a buffer, or in parts, bytes go"
    if wishes.via is not None and wishes.via not in ways:
        raise UsageError(f"--via {wishes.via}: cannot serve: {what} by {' or '.join(ways)}")
    if wishes.via is None and not set(ways) - wishes.without:
        raise UsageError(f"{what} by {' or '.join(ways)}, and --no-via forbids both")


def copies_to(sink: FdFacts, way: str) -> float:
    """Return the CPU copies of a byte on its way from the round to one sink."""
    if way == "plain":
        return by_user(sink)
    # where the kernel does not splice, the pipe is read and the sink written
    return 1 + by_user(sink) if refused_by_splice(sink) else out_of_pipe(sink)


def _fit(name: str, source: FdFacts, sinks: Sequence[FdFacts], wishes: Wishes) -> Fit:
    if name in wishes.without:
        return refuse(f"forbidden by --no-via {name}")
    if name == "plain":
        return Fit(True)
    if source.keeps_boundaries:
        return refuse("the source keeps message boundaries, which splice loses")
    if source.type == "other":
        return refuse("the kind of source has no splice")
    if source.device == (1, 3):
        return refuse("/dev/null answers splice with EINVAL; a read of it ends at once")
    if source.on_disk and source.direct:
        return refuse("the source wants aligned reads (O_DIRECT)")
    if source.type == "regular" and source.size == 0:
        return refuse("the size is 0: empty or virtual")
    references = source.on_disk and not source.stable
    if not (references and any(sink.holds_references for sink in sinks)):
        return Fit(True, slower=few(source))
    if wishes.stable:
        return refuse("its pages would go by reference, and --stable asks for copies")
    return Fit(
        True,
        slower=few(source),
        caveat="pages go by reference: what is written to the source before the readers have"
        " consumed them shows through (--stable copies)",
        by_reference=True,
    )


def _candidate(name: str, source: FdFacts, sinks: Sequence[FdFacts], fit: Fit) -> Candidate:
    count = len(sinks)
    copies = sum(copies_to(sink, name) for sink in sinks)
    # of the source once, and of each sink without the source again
    devices = dma(source, sinks[0]) + sum(dma(sink, sink) / 2 for sink in sinks[1:])
    if name != "plain":
        # a drain, a tee for all but the last, a splice for the last, and a pump for each
        pumps = sum(MIB / min(_ROUND, piece_into(sink)) for sink in sinks)
        cost = Cost(into_pipe(source) + copies, devices, (count + 1) * MIB / _ROUND + pumps)
    else:
        cost = Cost(by_user(source) + copies, devices, (count + 1) * MIB / BUFFER)
    ways = WAYS if count > 1 else WAYS_TO_ONE
    return Candidate(name, ways[name], cost, fit.caveat)
