"""A mirror: a server that gets copies of what passes, and must not be able to hurt anybody.

What all the copies for it share is here: what is counted, and how many of them may still be sent
when their primary connections have ended. How one of them is sent is for `mirror_tap`.
"""

from __future__ import annotations

import resource
from collections import Counter, OrderedDict
from itertools import islice

from zpipe.proxy.mirror_tap import MirrorTap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.proxy.loop import Loop
    from zpipe.proxy.pool import Pool
    from zpipe.proxy.relay import Side
    from zpipe.proxy.settings import Mirror
    from zpipe.proxy.upstreams import Target

_LINGERING = 256  # taps of a mirror whose primary has ended: they must not use up the fds
_LOOKED_AT = 32  # of those, for one that has nothing to lose


class MirrorService:
    """One mirror of one proxy, and what is counted of it."""

    def __init__(self, mirror: Mirror, target: Target, loop: Loop, pool: Pool, connect: float):
        self.mirror = mirror
        self.target = target
        self.loop = loop
        self.pool = pool
        self.connect_timeout = connect
        self.active = 0
        self.connections = 0
        self.bytes = 0
        self.missed = 0
        self.given_up: Counter[str] = Counter()
        fds, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        unbounded = fds == resource.RLIM_INFINITY
        self._most_lingering = _LINGERING if unbounded else max(4, min(_LINGERING, fds // 16))
        self._lingering: OrderedDict[MirrorTap, None] = OrderedDict()
        self.empty: Callable[[], None] | None = None  # called when the last tap has gone

    def tap(self, side: Side) -> MirrorTap:
        """Begin a copy of what this side reads; the tap may have been given up already."""
        return MirrorTap(self, side)

    def linger(self, tap: MirrorTap) -> None:
        """Let a tap send what it has although its primary has ended, unless there are too many."""
        self._lingering[tap] = None
        if len(self._lingering) > self._most_lingering:
            oldest = list(islice(self._lingering, _LOOKED_AT))
            # one that only waits for the mirror to close has nothing to lose
            victim = next((one for one in oldest if not one.has_more), oldest[0])
            victim.too_late(at_once=True)

    def close(self) -> None:
        """Give up what taps still have to send."""
        while self._lingering:
            next(iter(self._lingering)).too_late(at_once=True)

    def gone(self, tap: MirrorTap) -> None:
        """Forget a tap."""
        self.active -= 1
        self._lingering.pop(tap, None)
        if self.empty is not None and not self.active:
            self.empty()


REASONS = {
    "full": "it did not keep up, and its queue was full",
    "spill-full": "it did not keep up, and as much was spilled as may be",
    "refused": "nobody listens there",
    "reset": "it has broken the connection off",
    "timeout": "it did not answer, or did not read the rest in time",
    "unreachable": "there is no way to it",
    "no-fds": "the process had no fds left",
    "no-pipes": "the process had no pipes left",
    "no-space": "the disk to spill to was full",
    "error": "something else failed",
}
