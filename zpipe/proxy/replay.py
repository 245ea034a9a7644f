"""Captured connections, played back to an upstream: when they began, or one after the other.

All connections live in one loop, each in a `Player`. Prints nothing; what became of a connection is
a value, given to whoever asked as soon as it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic

from zpipe.errors import TransferError
from zpipe.proxy.loop import Loop
from zpipe.proxy.player import Outcome, Player, Wishes
from zpipe.proxy.recordings import Recordings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.proxy.player import Place
    from zpipe.proxy.recordings import Recorded
    from zpipe.proxy.settings import Address

# what a caller needs, in one place
__all__ = ["Outcome", "Recordings", "Summary", "Wishes", "replay"]

_READ = 256 << 10


@dataclass(slots=True)
class Summary:
    """What became of all of them."""

    connections: int = 0
    sent: int = 0
    received: int = 0
    differs: int = 0
    failed: int = 0
    stalled: int = 0
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one."""
        self.connections += 1
        self.sent += outcome.sent
        self.received += outcome.received
        if outcome.state != "done":
            setattr(self, outcome.state, getattr(self, outcome.state) + 1)


def replay(
    recordings: Recordings,
    connections: Sequence[Recorded],
    upstream: Address,
    places: Sequence[Place],
    wishes: Wishes,
    ended: Callable[[Outcome], None],
) -> Summary:
    """Play connections back to an upstream, which is at one of these places.

    `ended` is called for each connection that has ended.

    Raises: TransferError  nothing could be played: the upstream does not answer.
    """
    stage = _Stage(recordings, upstream, places, wishes, ended)
    try:
        return stage.play(connections)
    finally:
        stage.close()


class _Stage:
    """All connections that are being played, and when the next ones begin."""

    def __init__(
        self,
        recordings: Recordings,
        upstream: Address,
        places: Sequence[Place],
        wishes: Wishes,
        ended: Callable[[Outcome], None],
    ):
        self.recordings = recordings
        self.places = places
        self.wishes = wishes
        self.loop = Loop()
        self.buffer = memoryview(bytearray(_READ))
        self.reached = False  # the upstream has answered
        self._upstream = upstream
        self._ended = ended
        self._summary = Summary()
        self._waiting: list[Recorded] = []  # the next one last
        self._players: set[Player] = set()
        self._timed = False  # it is known when the next one begins
        self._began = 0.0
        self._first = 0.0
        self._failure: TransferError | None = None

    def play(self, connections: Sequence[Recorded]) -> Summary:
        """Raises: TransferError."""
        self._waiting = list(reversed(connections))
        self._began = monotonic()
        if self._waiting:
            self._first = self._waiting[-1].began
            self.loop.again(self._start_next)
            self.loop.run()
        if self._failure is not None:
            raise self._failure
        self._summary.seconds = monotonic() - self._began
        return self._summary

    def close(self) -> None:
        """Drop what is still being played."""
        for player in self._players:
            player.close()
        self.loop.close()

    def gone(self, player: Player, outcome: Outcome) -> None:
        """A connection has ended."""
        self._players.discard(player)
        self._summary.add(outcome)
        self._ended(outcome)
        # not at once: the number of its fd may still have an event in this batch
        self.loop.again(self._start_next)

    def unreachable(self, why: str) -> bool:
        """Tell whether nothing can be played at all: nobody has answered yet."""
        if self.reached:
            return False
        self._failure = TransferError(f"{self._upstream.text}: connect: {why}")
        self.loop.stop()
        return True

    def _time_has_come(self) -> None:
        self._timed = False
        self._start_next()

    def _start_next(self) -> None:
        wishes = self.wishes
        while self._waiting and self._failure is None:
            if wishes.pace == "fast":
                if len(self._players) >= wishes.jobs:
                    return
                due = monotonic()
            else:
                due = self._began + (self._waiting[-1].began - self._first) / wishes.speed
                delay = due - monotonic()
                if delay > 0:
                    if not self._timed:
                        self._timed = True
                        self.loop.later(delay, self._time_has_come)
                    return
            recorded = self._waiting.pop()
            try:
                player = Player(self, recorded, due)
            except TransferError as error:
                outcome = Outcome(recorded.id, "failed", 0, 0, recorded.down, None, str(error))
                self._summary.add(outcome)
                self._ended(outcome)
                continue
            self._players.add(player)
            player.connect()
        if not self._waiting and not self._players:
            self.loop.stop()
