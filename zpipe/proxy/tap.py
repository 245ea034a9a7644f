"""What a side of a connection asks of whoever gets a copy of its bytes: mirrors, captures.

A tap is told of all that the side has read, in order, after the peer was given it (small messages)
or just before (pipes). It must not wait: what it cannot send or write at once it keeps, or drops.
"""

from __future__ import annotations

from typing import Protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.kernel.pipes import Pipe


class Tap(Protocol):
    """Somebody who gets a copy of what one side has read."""

    waits: bool  # nothing more may be read before it calls `Side.resume`

    def data(self, data: bytes) -> None:
        """Take a small message."""

    def pipe(self, pipe: Pipe, count: int) -> None:
        """Take a pipe with so many bytes; it is given back, or closed, by the tap."""

    def no_pipe(self, count: int) -> None:
        """Know that so many bytes have passed, and could not be duplicated."""

    def end(self) -> None:
        """Know that nothing more will come."""
