"""How far a copy has come: a display on a terminal, a line for SIGUSR1."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zpipe.commands.bars import Bars
    from zpipe.engine.report import HopReport, OutletReport

_FIRST = 1.0  # seconds before anything is shown: most runs are over by then


class Display(ABC):
    """Where a run stands. `name` and `size` are for what the bytes' origin does not tell.

    Sources that are read one after the other are shown as one run.
    """

    interval: float

    def __init__(self, *, name: str | None = None, size: int | None = None):
        self._name = name
        self._size = size

    @abstractmethod
    def show(self, hop: HopReport, past: int = 0) -> None:
        """Tell the state of a hop, before which `past` bytes of other sources have moved."""

    @abstractmethod
    def close(self) -> None:
        """Take away what would be in the way of the next line."""

    def _expected(self, hop: HopReport, past: int) -> int | None:
        """Return the bytes of the whole run, as far as they are known."""
        if self._size is not None:
            return self._size
        return hop.expected if not past else None


class Progress(Display):
    """A bar, bytes, a windowed rate and the time that is left, and a line for each output of
    several; on stderr, gone at the end.
    """

    interval = 0.2

    def __init__(self, *, at_once: bool, name: str | None = None, size: int | None = None):
        super().__init__(name=name, size=size)
        self._from = time.monotonic() + (0.0 if at_once else _FIRST)
        self._display: Bars | None = None

    def show(self, hop: HopReport, past: int = 0) -> None:
        """Draw the state of a hop; loads the library on first use."""
        if time.monotonic() < self._from:
            return
        if self._display is None:
            self._display = _bars(several=len(hop.outlets) > 1)
        total = self._expected(hop, past)
        for place, (name, state) in enumerate(self._rows(hop, past)):
            self._display.show(place, name, total=total, **state)
        self._display.draw()

    def close(self) -> None:
        """Take the display away. What is shown next begins a new one."""
        if self._display is not None:
            self._display.close()
        self._display = None

    def _rows(self, hop: HopReport, past: int) -> list[tuple[str, dict[str, Any]]]:
        """Return name and state of what has a line of its own: each output, or the hop."""
        if len(hop.outlets) > 1:
            return [
                (
                    outlet.sink,
                    {
                        "completed": outlet.moved,
                        "how": _behind(outlet),
                        "average": outlet.moved / hop.seconds if hop.seconds else 0,
                    },
                )
                for outlet in hop.outlets
            ]
        moved = past + hop.moved
        average = hop.moved / hop.seconds if hop.seconds else 0
        name = self._name or f"{hop.source} -> {hop.sink}"
        how = "spilling" if _spills(hop) else hop.mover
        return [(name, {"completed": moved, "how": how, "average": average})]


def _bars(*, several: bool) -> Bars:
    """Return the display; of an output that is behind the others, its state matters most."""
    from zpipe.commands.bars import Bars, Field

    if several:
        state = Field("how", 25)  # `spilling, 1.50 MiB behind`
        return Bars(after=[state], bar_from=110, speed_from=70, time_from=None)
    return Bars(after=[Field("how", 10, 80)], bar_from=70, time_from=50)


class Lines(Display):
    """A line each second that stays: for a stderr that is no terminal."""

    interval = 1.0

    def __init__(
        self, say: Callable[[str], None], *, name: str | None = None, size: int | None = None
    ):
        super().__init__(name=name, size=size)
        self._say = say

    def show(self, hop: HopReport, past: int = 0) -> None:
        expected = self._expected(hop, past) or 0
        self._say(status_line(hop, name=self._name, past=past, expected=expected))

    def close(self) -> None:
        """Leave the lines where they are."""


def status_line(
    hop: HopReport, *, name: str | None = None, past: int = 0, expected: int | None = None
) -> str:
    """Return where a hop stands, in one line; `past` bytes came before it."""
    moved = past + hop.moved
    total = hop.expected if expected is None else expected
    parts = [format_size(moved)]
    if total:
        parts[0] += f" of {format_size(total)} ({100 * moved / total:.0f} %)"
    if hop.seconds > 0:
        parts.append(f"{format_size(hop.moved / hop.seconds)}/s")
    parts += [format_duration(hop.seconds), hop.mover]
    line = f"{name or f'{hop.source} -> {hop.sink}'}: {', '.join(part for part in parts if part)}"
    if len(hop.outlets) > 1 or _spills(hop):
        line += "".join(
            f"; {outlet.sink}: {format_size(outlet.moved)}, {_behind(outlet)}"
            for outlet in hop.outlets
        )
    return line


def _spills(hop: HopReport) -> bool:
    """Whether what was read waits in a file: it has not moved, whatever the hop says."""
    return any(outlet.spilled for outlet in hop.outlets)


def _behind(outlet: OutletReport) -> str:
    """Return the state of an output, and by how much it is behind the source."""
    if outlet.lag and outlet.state in ("flowing", "blocked", "spilling"):
        return f"{outlet.state}, {format_size(outlet.lag)} behind"
    return outlet.state
