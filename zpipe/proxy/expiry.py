"""Connections whose time runs out: one queue for each kind of timeout, in order of their deadlines.

All in a queue wait equally long, so the first is the next; joining and leaving cost a dictionary
entry, and the loop has one timer for each queue in which somebody waits.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.loop import Loop

T = TypeVar("T")


class Expiry(Generic[T]):
    """`act` is called for each that has been in for `seconds`; it is out then."""

    def __init__(self, loop: Loop, seconds: float | None, act: Callable[[T], None]):
        self._loop = loop
        self._seconds = seconds
        self._act = act
        self._due: OrderedDict[T, float] = OrderedDict()
        self._armed = False

    def add(self, one: T) -> None:
        """Let the time of one run, unless it does already."""
        if self._seconds is None or one in self._due:
            return
        self._due[one] = self._loop.now + self._seconds
        if not self._armed:
            self._armed = True
            self._loop.later(self._seconds, self._expire)

    def discard(self, one: T) -> None:
        """Stop the time of one; it need not be in."""
        self._due.pop(one, None)

    def _expire(self) -> None:
        now = self._loop.now
        while self._due:
            one, due = next(iter(self._due.items()))
            if due > now:
                self._loop.later(due - now, self._expire)
                return
            del self._due[one]
            self._act(one)
        self._armed = False
