"""The answer of a replay beside that of the capture: where is the first byte that is another one?

Keeps nothing of either: the capture is read as far as the answer has come. Refuses to know when an
answer is over, and who is to blame.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.recordings import Recorded, Recordings


class Comparison:
    """One answer; `differs` is the first byte that is another one, from 0, or None."""

    def __init__(self, recordings: Recordings, recorded: Recorded):
        """Raises: TransferError  the recorded answer cannot be had."""
        self.differs: int | None = None
        self._how = ""
        self._recorded = recorded
        self._fd = recordings.open(recorded, "down")

    def take(self, first: int, got: memoryview) -> None:
        """Compare some bytes of the answer, of which `first` have come before."""
        if self.differs is not None:
            return
        wanted = os.pread(self._fd, len(got), first) if self._fd >= 0 else b""
        here = bytes(got[: len(wanted)])
        if here != wanted:
            self.differs = first + next(
                place for place, (a, b) in enumerate(zip(here, wanted, strict=True)) if a != b
            )
        elif len(wanted) < len(got) and self._recorded.complete:
            self.differs = self._recorded.down
            self._how = ": the answer goes on"

    def finish(self, received: int) -> None:
        """Know that the answer is over after so many bytes."""
        if self.differs is None and received < self._recorded.down:
            self.differs = received
            self._how = ": the answer ends there"

    @property
    def verdict(self) -> str | None:
        """Return what there is to tell; None: the answers are the same so far."""
        return (
            None if self.differs is None else f"compare: differs at byte {self.differs}{self._how}"
        )

    def close(self) -> None:
        """May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
