"""What a connection is bound by besides its two sockets: who gets a copy of it, and its rates.

Asked once for each connection, when it has its upstream; where there is nothing to be bound by,
not even that. Knows neither how copies are sent or written, nor how a side is held up.
"""

from __future__ import annotations

import random

from zpipe.engine.limiter import Limiter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.capture import Recorder
    from zpipe.proxy.connection import Connection
    from zpipe.proxy.mirror import MirrorService
    from zpipe.proxy.mirror_tap import MirrorTap
    from zpipe.proxy.settings import Limits
    from zpipe.proxy.tap import Tap


class Burdens:
    """What the connections of one proxy are bound by, each alone and all of them together."""

    def __init__(
        self,
        limits: Limits,
        mirrors: list[MirrorService],
        recorder: Recorder | None,
        workers: int,
    ):
        self._mirrors = mirrors
        self._recorder = recorder
        self._rate = limits.rate
        self._total = (
            (Limiter(max(1, limits.total_rate // workers)),)
            if limits.total_rate is not None
            else ()
        )

    def lay_on(self, connection: Connection) -> None:
        """Give a connection that has its upstream its taps and limits."""
        client, server = connection.client, connection.server
        assert server is not None
        up: list[Tap] = []
        down: list[Tap] = []
        mirrors: list[MirrorTap] = []
        for mirror in self._mirrors:
            if mirror.mirror.sample < 1 and random.random() >= mirror.mirror.sample:
                continue
            direction = mirror.mirror.direction
            for wanted, side, taps in (("up", client, up), ("down", server, down)):
                if direction in (wanted, "both"):
                    tap = mirror.tap(side)
                    mirrors.append(tap)
                    if not tap.given_up:
                        taps.append(tap)
        if self._recorder is not None:
            # only those who record pay for it
            from zpipe.proxy.capture_tape import Recording

            tape = connection.record(self._recorder)
            up.append(Recording(tape, up=True))
            down.append(Recording(tape, up=False))
        connection.mirrors = tuple(mirrors)
        client.taps, server.taps = tuple(up), tuple(down)
        rate = self._rate
        limiters = self._total + ((Limiter(rate),) if rate is not None else ())
        client.limiters = server.limiters = limiters


def burdens_of(
    limits: Limits, mirrors: list[MirrorService], recorder: Recorder | None, workers: int
) -> Burdens | None:
    """Return what one of so many workers lays on connections; None: nothing."""
    bound = limits.rate is not None or limits.total_rate is not None
    if not (bound or mirrors or recorder is not None):
        return None
    return Burdens(limits, mirrors, recorder, workers)
