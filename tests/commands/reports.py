"""Reports of runs that never were, for what is made of them."""

from __future__ import annotations

from typing import Any

from zpipe.engine.report import HopReport, OutletReport, Report, Resources
from zpipe.movers.contract import Cost
from zpipe.plan.choice import Candidate, HopPlan

PLAN = HopPlan((Candidate("tee", "", Cost(2, 0, 8)),), ())


def outlet(sink: str, **facts: Any) -> OutletReport:
    """Return an output in some state."""
    made = OutletReport(sink, facts.pop("policy", "block"))
    for name, value in facts.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def hop(*outlets: OutletReport, **facts: Any) -> HopReport:
    """Return a hop that has come so far."""
    sinks = ", ".join(each.sink for each in outlets) or "x"
    made = HopReport("a", sinks, PLAN, expected=facts.pop("expected", None))
    made.mover = "tee"
    made.outlets = list(outlets)
    for name, value in facts.items():
        assert hasattr(made, name)
        setattr(made, name, value)
    return made


def report(*hops: HopReport, seconds: float = 1.0) -> Report:
    """Return a report of these hops."""
    made = Report()
    made.hops = list(hops)
    made.resources = Resources(seconds, 0.5, 0.25, 3, 4)
    return made
