"""The sum of a run for people: bytes, time, rates, and which side was the slow one."""

from __future__ import annotations

import time

from zpipe.engine.feedback import Feedback
from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.report import HopReport, Report

_WINDOW = 1.0  # seconds over which the lowest and the highest rate are taken
_EVEN = 0.05  # of the time: whoever waits less than that for one side more than for the other


class Stats(Feedback):
    """Takes the rate of each window, and speaks when the run stops, whichever way it does."""

    def __init__(self, interval: float | None, say: Callable[[str], None]):
        self._window = interval or _WINDOW
        self.interval = self._window
        self._say = say
        self._past = 0  # moved by the hops before the one at hand
        self._hop: HopReport | None = None
        self._began = self._then = time.monotonic()
        self._mark = 0
        self._rates: list[float] = []

    def began(self, hop: HopReport) -> None:
        if self._hop is not None:
            self._past += self._hop.moved
        else:
            # loading what carries the bytes is not their time
            self._began = self._then = time.monotonic()
        self._hop = hop

    def progress(self, hop: HopReport) -> None:
        now = time.monotonic()
        span = now - self._then
        if span < self._window:
            return  # another listener is told more often
        total = self._past + hop.moved
        self._rates.append((total - self._mark) / span)
        self._then, self._mark = now, total

    def stopped(self, report: Report) -> None:
        self._say(summary(report, self._rates, time.monotonic() - self._began))


def summary(report: Report, rates: list[float], seconds: float) -> str:
    """Return the line; `rates` in bytes per second, of each window."""
    moved = report.moved
    size = f"{moved} bytes" + (f" ({format_size(moved)})" if moved >= 1024 else "")
    mean = moved / seconds if seconds else 0.0
    low, high = min(*rates, mean, mean), max(*rates, mean, mean)  # the last window may be cut
    waited: dict[str, float] = {}
    for hop in report.hops:
        for side, span in hop.waited.items():
            waited[side] = waited.get(side, 0.0) + span
    parts = [
        f"{size} in {format_duration(seconds)}",
        f"{format_size(mean)}/s mean, {format_size(low)}/s min, {format_size(high)}/s max",
        f"waited {format_duration(waited.get('source', 0.0))} for input,"
        f" {format_duration(waited.get('sink', 0.0))} for output"
        + (
            f", {format_duration(waited['rate limit'])} for the rate limit"
            if "rate limit" in waited
            else ""
        ),
        _slow_side(waited, seconds),
    ]
    return "; ".join(parts)


def _slow_side(waited: dict[str, float], seconds: float) -> str:
    """Name what held the others up."""
    slowest = max(waited, key=lambda side: waited[side], default="")
    others = sum(span for side, span in waited.items() if side != slowest)
    if not slowest or waited[slowest] - others < _EVEN * seconds:
        return "neither side held the other up"
    names = {"source": "the input", "sink": "the output", "rate limit": "the rate limit"}
    return f"{names[slowest]} was the slow side"
