"""How far the copying of a tree has come: a display on a terminal, or a line each second."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod

from zpipe.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rich.progress import Progress, Task, TaskID

    from zpipe.tree.report import TreeReport

_FIRST = 1.0  # seconds before anything is shown: most runs are over by then


def display_of(wanted: str) -> Display | None:
    """Return the display for `auto` or `always`, where it can be seen."""
    draws = os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    if wanted == "auto":
        try:
            if not draws or os.tcgetpgrp(2) != os.getpgrp():
                return None
        except OSError:
            return None
    return Bar(at_once=wanted == "always") if draws else Lines()


class Display(ABC):
    """Where a run stands."""

    interval: float

    @abstractmethod
    def show(self, report: TreeReport) -> None:
        """Tell the state."""

    def close(self) -> None:
        """Take away what would be in the way of the next line."""


class Lines(Display):
    """A line each second that stays: for a stderr that is no terminal."""

    interval = 1.0

    def show(self, report: TreeReport) -> None:
        from zpipe.commands.speaking import tell
        from zpipe.commands.tree_words import status_line

        tell(status_line(report))


class Bar(Display):
    """Files and bytes, done and of what the walk has met, the rate of the last seconds, the time
    that is left, and the directory at hand; gone at the end.
    """

    interval = 0.2

    def __init__(self, *, at_once: bool):
        self._from = time.monotonic() + (0.0 if at_once else _FIRST)
        self._display: Progress | None = None
        self._task: TaskID | None = None

    def show(self, report: TreeReport) -> None:
        """Draw; loads the library on first use."""
        if time.monotonic() < self._from:
            return
        state: dict[str, Any] = {
            "files": f"{report.files}/{report.found}" + ("" if report.walked else "+"),
            "what": "on disk" if report.sync else "written",
            "average": report.moved / report.seconds if report.seconds else 0,
        }
        total = report.expected or None  # while the walk goes on: so far
        if self._display is None:
            self._display = self._start()
            self._task = self._display.add_task(report.at_hand, total=total, **state)
        assert self._task is not None
        self._display.update(
            self._task,
            completed=report.moved,
            total=total,
            description=report.at_hand,
            **state,
        )
        self._display.refresh()

    def close(self) -> None:
        if self._display is not None:
            self._display.stop()
        self._display = None

    def _start(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column
        from rich.text import Text

        class Speed(ProgressColumn):
            """In the units of the bytes beside it."""

            def render(self, task: Task) -> Text:
                speed = task.speed or task.fields["average"]
                return Text(f"{format_size(speed)}/s" if speed else "", style="progress.data.speed")

        name = TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(overflow="ellipsis", no_wrap=True, ratio=1),
        )
        whole = Column(no_wrap=True)
        display = Progress(
            name,
            TextColumn("{task.fields[files]} files", markup=False, table_column=whole),
            BarColumn(bar_width=16),
            DownloadColumn(binary_units=True),
            TextColumn("{task.fields[what]}", markup=False, table_column=whole),
            Speed(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            auto_refresh=False,
            transient=True,
            speed_estimate_period=5,
        )
        display.start()
        return display
