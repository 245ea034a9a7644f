"""What the client of a captured connection did, as steps to be done again. Pure.

Knows nothing of sockets and clocks: when a step is done, and whether what it waits for has come, is
for the `player` to see.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.proxy.player import Wishes
    from zpipe.proxy.recordings import Recorded

    Chunk = tuple[int, bool, int]  # milliseconds, whether it went up, bytes; no bytes: the end


@dataclass(frozen=True, slots=True)
class Step:
    """What may be sent once its time has come, and so much of the answer."""

    after: float  # seconds from the beginning
    answer: int  # bytes
    end: bool  # half-close, when all before it is sent
    upto: int = 0  # offset


def steps_of(recorded: Recorded, chunks: Sequence[Chunk], wishes: Wishes) -> list[Step]:
    """Return what the client did, in turn.

    Whatever it did when it had seen bytes of the answer, it does not do before as many have come:
    a dialog is played as one, and who closed with the answer in hand does not close without it.
    """
    steps: list[Step] = []
    fast = wishes.pace == "fast"
    sent = received = 0
    after = 0.0
    for moment, up, count in chunks:
        after = 0.0 if fast else moment / 1000 / wishes.speed
        if not up:
            received += count
            continue
        sent += count
        step = Step(after, received, not count, sent)
        last = steps[-1] if steps else None
        if last and (last.after, last.answer, last.end) == (step.after, step.answer, step.end):
            steps.pop()
        steps.append(step)
    ended = any(up and not count for _, up, count in chunks)
    if not ended and recorded.complete and recorded.reason == "closed":
        # both sides have ended, it is not known which of them was the first
        steps.append(Step(after, recorded.down, True, sent))
    return steps


def ends_with_upstream(recorded: Recorded, chunks: Sequence[Chunk]) -> bool:
    """Tell whether the answer is over when the upstream says so; else when all bytes are there."""
    ended = any(not up and not count for _, up, count in chunks)
    return recorded.complete and (recorded.reason == "closed" or ended)
