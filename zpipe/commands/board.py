"""Where each edge of a graph stands, from the records of a run: those of one that goes on in this
process or beside it, or those that were kept in a file.

Knows records (see `records`) and nothing of how they are shown; draws and prints nothing.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

_WINDOW = 5.0  # seconds that the rate is taken over
_IDLE = 1.0  # seconds without a byte: it does not flow
_MOSTLY = 0.5  # of the time
_JOINT = " -> "  # in the name of a joint, and in no other one

WAITING, FLOWING, BLOCKED, IDLE, DONE = "waiting", "flowing", "blocked", "idle", "done"
SPILLING, LEFT, DETACHED = "spilling", "left", "detached"
FAILED, STOPPED = "failed", "stopped"
UNDER_WAY = frozenset({FLOWING, BLOCKED, IDLE, SPILLING})
ENDED = frozenset({DONE, LEFT, DETACHED, FAILED, STOPPED})
STATES = (WAITING, FLOWING, BLOCKED, IDLE, SPILLING, DONE, LEFT, DETACHED, FAILED, STOPPED)


@dataclass(slots=True)
class Row:
    """One edge. `expected` is the size where it is known; `joint`: it is no edge of the user's, but
    goes on from where several come together.
    """

    source: str
    sink: str
    joint: bool = False
    through: bool = False  # to a joint, and not to the sink itself
    state: str = WAITING
    bytes: int = 0
    expected: int | None = None
    mover: str = ""
    movers: dict[str, int] = field(default_factory=dict)  # bytes of each
    seconds: float = 0.0
    waited: dict[str, float] = field(default_factory=dict)  # seconds, by what for
    behind: int = 0
    error: str | None = None
    _marks: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many bytes

    @property
    def name(self) -> str:
        """The nodes at its ends; what comes out of a joint is called after what went in."""
        source = self.source
        if self.joint:
            before = source.partition(_JOINT)[0]
            source = "joint" if before.startswith("->") else f"{before} (joint)"
        return f"{source} -> {self.sink}"

    @property
    def begun(self) -> bool:
        return self.state != WAITING

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def share(self) -> float | None:
        """How much of it is done, from 0 to 1; None: nobody knows."""
        if not self.expected:
            return None
        return min(1.0, self.bytes / self.expected)

    @property
    def average(self) -> float:
        """Bytes per second, over all of the time."""
        return self.bytes / self.seconds if self.seconds > 0 else 0.0

    @property
    def rate(self) -> float | None:
        """Bytes per second of the last seconds while it is under way, and else over all."""
        if not self.begun:
            return None
        if self.ended or len(self._marks) < 2:
            return self.average
        (then, before), (now, count) = self._marks[0], self._marks[-1]
        return (count - before) / (now - then) if now > then else self.average

    def mark(self, moved: int, seconds: float, waited: dict[str, float]) -> None:
        """Take note of where it stands after so many seconds."""
        marks = self._marks
        if self.state == FLOWING and marks:
            then, before = marks[-1]
            span = seconds - then
            for_sink = waited.get("sink", 0.0) - self.waited.get("sink", 0.0)
            if span > 0 and for_sink >= _MOSTLY * span:
                self.state = BLOCKED
            elif moved == before and seconds - _since(marks) >= _IDLE:
                self.state = IDLE
        self.bytes, self.seconds, self.waited = moved, seconds, waited
        marks.append((seconds, moved))
        while len(marks) > 2 and marks[0][0] < seconds - _WINDOW:
            marks.popleft()


def _since(marks: Sequence[tuple[float, int]]) -> float:
    """Return when the last bytes were seen to have moved."""
    last = marks[-1][1]
    return next((when for when, count in marks if count == last), 0.0)


def beyond(sink: str) -> list[str]:
    """Return the nodes of the user's graph that a sink is, or that are behind the joint."""
    return sink.partition(_JOINT)[2].split(", ") if _JOINT in sink else [sink]


class Board:
    """The rows of a run, in the order of its edges; what no edge was told of comes last."""

    def __init__(self, edges: Iterable[tuple[str, str]] = ()):
        self._rows: dict[tuple[str, str], Row] = {}
        self._into: dict[str, list[Row]] = {}
        for source, sink in edges:
            self._row(source, sink)

    @property
    def rows(self) -> list[Row]:
        """Edges first, then what is behind joints."""
        return sorted([*self._rows.values()], key=lambda row: row.joint)

    @property
    def edges(self) -> list[Row]:
        """Return those that the user has drawn."""
        return [row for row in self._rows.values() if not row.joint]

    def take(self, record: Mapping[str, Any]) -> list[Row]:
        """Learn from one record; others than those of hops and of an error change nothing.

        Returns: the rows that it was about.
        """
        kind = record.get("type")
        if kind in ("start", "progress", "hop") and isinstance(record.get("from"), str):
            return self._hop(record, began=kind == "start", ended=kind == "hop")
        if kind == "error":
            for row in self._rows.values():
                if row.state in UNDER_WAY:
                    row.state = STOPPED
        return []

    def _hop(self, record: Mapping[str, Any], *, began: bool, ended: bool) -> list[Row]:
        sinks = list(record.get("to") or ())
        outputs = record.get("outputs") or [None] * len(sinks)
        touched = []
        for name, output in zip(sinks, outputs, strict=False):
            for row in self._of(str(record["from"]), name):
                if began:
                    self._begin(row, record)
                else:
                    self._update(row, record, output, ended=ended)
                touched.append(row)
        return touched

    def _of(self, source: str, sink: str) -> list[Row]:
        """Return the rows of an edge of what was carried; into a joint go edges of the user's."""
        if _JOINT not in sink:
            return [self._row(source, sink, joint=source.startswith("-> ") or _JOINT in source)]
        rows = [self._row(source, end) for end in beyond(sink)]
        for row in rows:
            row.through = True
        return rows

    def _row(self, source: str, sink: str, *, joint: bool = False) -> Row:
        row = self._rows.get((source, sink))
        if row is None:
            row = self._rows[source, sink] = Row(source, sink, joint)
            self._into.setdefault(sink, []).append(row)
        return row

    def _in_turn(self, row: Row) -> list[Row]:
        """Return the other rows of what is read one after the other, with the same outputs."""
        if row.through:
            return []
        return [
            other
            for other in self._into[row.sink]
            if other is not row and other.joint == row.joint and not other.through
        ]

    def _begin(self, row: Row, record: Mapping[str, Any]) -> None:
        row.state = FLOWING
        row.expected = record.get("expected")
        row.mover = row.mover or record.get("mover") or ""
        for other in self._in_turn(row):
            if other.state in UNDER_WAY:
                other.state = DONE  # it has been read

    def _update(
        self,
        row: Row,
        record: Mapping[str, Any],
        output: Mapping[str, Any] | None,
        *,
        ended: bool,
    ) -> None:
        row.expected = record.get("expected", row.expected)
        moved = int(record.get("bytes") or 0)
        state = str(record.get("state") or FLOWING)
        mover = record.get("mover")
        movers = record.get("bytes_by_mover")
        waited = dict(record.get("waited") or {})
        if output is not None:
            # the outputs of what is read one after the other are the same, and so are their counts
            moved = max(0, int(output["bytes"]) - sum(r.bytes for r in self._in_turn(row)))
            if state != FAILED:
                state = output["state"]
            mover = output.get("mover") or mover
            movers = None
            waited["sink"] = float(output.get("seconds_blocked") or 0.0)
            row.behind, row.error = int(output.get("lag") or 0), output.get("error")
        if row.ended and not ended and state in UNDER_WAY:
            return
        if ended and state in UNDER_WAY:
            state = DONE
        row.state = state
        row.mover = mover or row.mover
        row.mark(moved, float(record.get("seconds") or 0.0), waited)
        row.movers = dict(movers) if movers else {row.mover: moved} if row.mover else {}
