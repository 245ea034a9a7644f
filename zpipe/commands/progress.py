"""How far a copy has come: a display on a terminal, a line for SIGUSR1."""

from __future__ import annotations

import time

from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID

    from zpipe.engine.report import HopReport

_FIRST = 1.0  # seconds before anything is shown: most copies are over by then


class Progress:
    """A bar, bytes, a windowed rate and the time that is left; on stderr, gone at the end."""

    interval = 0.2

    def __init__(self, *, at_once: bool):
        self._from = time.monotonic() + (0.0 if at_once else _FIRST)
        self._display: RichProgress | None = None
        self._task: TaskID | None = None

    def show(self, hop: HopReport) -> None:
        """Draw the state of a hop; loads the library on first use."""
        if time.monotonic() < self._from:
            return
        if self._display is None:
            self._display = self._start()
        state: dict[str, Any] = {
            "completed": hop.moved,
            "mover": hop.mover,
            "average": hop.moved / hop.seconds if hop.seconds else 0,
        }
        if self._task is None:
            name = f"{hop.source} -> {hop.sink}"
            self._task = self._display.add_task(name, total=hop.expected, **state)
        self._display.update(self._task, refresh=True, **state)

    def close(self) -> None:
        """Take the display away. What is shown next begins a new one."""
        if self._display is not None:
            self._display.stop()
        self._display = self._task = None

    def _start(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress
        from rich.table import Column
        from rich.text import Text

        class Speed(ProgressColumn):
            """In the units of the bytes beside it; rich's own column counts by thousands."""

            def render(self, task: Task) -> Text:
                speed = task.speed or task.fields["average"]  # no window at the first sight
                text = f"{format_size(speed)}/s" if speed else ""
                return Text(text, style="progress.data.speed")

        display = RichProgress(
            TextColumn(
                "{task.description}",
                markup=False,
                table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1),
            ),
            BarColumn(bar_width=20),
            DownloadColumn(binary_units=True),
            Speed(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[mover]}", markup=False),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            speed_estimate_period=5,
        )
        display.start()
        return display


class Lines:
    """A line each second that stays: for a stderr that is no terminal."""

    interval = 1.0

    def __init__(self, show: Callable[[str], None]):
        self._show = show

    def show(self, hop: HopReport) -> None:
        """Tell the state of a hop."""
        self._show(f"zpipe: {status_line(hop)}")

    def close(self) -> None:
        """Leave the lines where they are."""


def status_line(hop: HopReport) -> str:
    """Return where a hop stands, in one line."""
    parts = [format_size(hop.moved)]
    if hop.expected:
        parts[0] += f" of {format_size(hop.expected)} ({100 * hop.moved / hop.expected:.0f} %)"
    if hop.seconds > 0:
        parts.append(f"{format_size(hop.moved / hop.seconds)}/s")
    parts += [format_duration(hop.seconds), hop.mover]
    return f"{hop.source} -> {hop.sink}: {', '.join(part for part in parts if part)}"
