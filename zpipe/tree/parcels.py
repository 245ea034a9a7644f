"""Tasks and outcomes as bytes, for pipes between processes of one interpreter.

Knows nothing of who sends them. By marshal, which is there already, and takes a tenth of the time
of pickle; executors, whose workers may be another interpreter, have pickle.
"""

from __future__ import annotations

import marshal
import os

from zpipe.tree.tasks import Batch, Big, Chunk, Done, Outcome, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from zpipe.tree.tasks import Task

HEAD = 4  # bytes that tell the length of what follows


def parcel_of_task(task: Task) -> bytes:
    """Return a task as bytes."""
    return _parcel((isinstance(task, Chunk), _values(task)))


def receive_task(fd: int) -> Task | None:
    """Read a task from a pipe; None at its end. Raises: OSError."""
    head = _read_all(fd, HEAD)
    if head is None:
        return None
    data = _read_all(fd, int.from_bytes(head, "little"))
    if data is None:
        return None
    is_chunk, fields = marshal.loads(data)
    return Chunk(*fields) if is_chunk else Batch(*fields)


def parcel_of_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as bytes."""
    return _parcel(
        (
            outcome.number,
            outcome.files,
            outcome.skipped,
            outcome.moved,
            outcome.by_mover,
            outcome.fallbacks,
            [_values(each) for each in outcome.problems],
            [_values(each) for each in outcome.big],
            [_values(each) for each in outcome.done],
            outcome.failed,
            outcome.partial,
        )
    )


def take_outcomes(got: bytearray) -> Iterator[Outcome]:
    """Yield the outcomes that are complete in what was read of a pipe, and take them out of it."""
    while len(got) >= HEAD:
        end = HEAD + int.from_bytes(got[:HEAD], "little")
        if len(got) < end:
            return
        data = bytes(got[HEAD:end])
        del got[:end]
        yield _outcome(data)


def write_all(fd: int, data: bytes) -> None:
    """Write to a pipe, all of it. Raises: OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _outcome(data: bytes) -> Outcome:
    number, *counts, by_mover, fallbacks, problems, big, done, failed, partial = marshal.loads(data)
    outcome = Outcome(number)
    outcome.files, outcome.skipped, outcome.moved = counts
    outcome.by_mover, outcome.fallbacks = by_mover, fallbacks
    outcome.problems = [Problem(*each) for each in problems]
    outcome.big = [Big(*each) for each in big]
    outcome.done = [Done(*each) for each in done]
    outcome.failed, outcome.partial = failed, partial
    return outcome


def _parcel(fields: tuple[Any, ...]) -> bytes:
    data = marshal.dumps(fields)
    return len(data).to_bytes(HEAD, "little") + data


def _values(value: Task | Problem | Big | Done) -> tuple[object, ...]:
    return tuple(getattr(value, name) for name in value._fields)


def _read_all(fd: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            return None
        data += more
    return data
