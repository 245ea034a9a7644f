"""A token bucket that caps the length of calls, so that it works with every mover."""

from __future__ import annotations

import time

_BURST = 0.05  # seconds of the rate: the most credit there ever is, so none piles up while idle


class Limiter:
    """`rate` in bytes per second. A call may overdraw by its granule; the next one waits longer."""

    def __init__(self, rate: int):
        self._rate = rate
        self._burst = max(1.0, rate * _BURST)
        self._tokens = self._burst
        self._then = time.monotonic()

    def allowance(self) -> int:
        """Return how many bytes may move now; 0: `delay` tells when to ask again."""
        self._fill()
        return int(self._tokens) if self._tokens >= self._enough() else 0

    def delay(self) -> float:
        """Return the seconds until a call is worth while."""
        self._fill()
        return max(0.0, (self._enough() - self._tokens) / self._rate)

    def spend(self, count: int) -> None:
        """Account for bytes that have moved."""
        self._tokens -= count

    def _enough(self) -> float:
        """Half a burst: smaller calls would cost more than they move."""
        return max(1.0, self._burst / 2)

    def _fill(self) -> None:
        now = time.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
