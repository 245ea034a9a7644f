"""At most so many at a time: what the pools of this package share.

It counts and waits; what is counted it does not know.
"""

from __future__ import annotations

import threading


class Bound:
    """Places, of which `count` may be taken at a time; who comes then waits. Thread-safe."""

    def __init__(self, name: str, count: int):
        if count < 1:
            raise ValueError(f"{name}: a count of {count}: it must be at least 1")
        self._name = name
        self._count = self._free = count
        self._changed = threading.Condition()
        self._closed = False
        self.waits = 0  # how often somebody found no place free

    @property
    def taken(self) -> int:
        """Return how many places are taken now."""
        return self._count - self._free

    @property
    def closed(self) -> bool:
        """Tell whether no place is given any more."""
        return self._closed

    def take(self, timeout: float | None) -> None:
        """Take a place, waiting up to `timeout` seconds for one; None: for ever.

        Raises: TimeoutError  all were taken, all the time.
                ValueError    it is closed, or was closed meanwhile.
        """
        with self._changed:
            if not self._free and not self._closed:
                self.waits += 1
            found = self._changed.wait_for(lambda: self._free or self._closed, timeout)
            if self._closed:
                raise ValueError(f"{self._name}: closed")
            if not found:
                raise TimeoutError(f"{self._name}: all {self._count} are in use")
            self._free -= 1

    def give(self) -> None:
        """Give a place back."""
        with self._changed:
            self._free += 1
            self._changed.notify()

    def close(self) -> None:
        """Give no more places, and tell those who wait."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
