"""How far the copying of a tree has come: a display on a terminal, or a line each second."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.commands.bars import Bars
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
        self._display: Bars | None = None

    def show(self, report: TreeReport) -> None:
        """Draw; loads the library on first use."""
        if time.monotonic() < self._from:
            return
        if self._display is None:
            self._display = _bars()
        self._display.show(
            0,
            report.at_hand,
            completed=report.moved,
            total=report.expected or None,  # while the walk goes on: so far
            files=f"{report.files}/{report.found}{'' if report.walked else '+'} files",
            what="on disk" if report.sync else "written",
            average=report.moved / report.seconds if report.seconds else 0,
        )
        self._display.draw()

    def close(self) -> None:
        if self._display is not None:
            self._display.close()
        self._display = None


def _bars() -> Bars:
    from zpipe.commands.bars import Bars, Field

    return Bars(
        before=[Field("files", 18)],
        after=[Field("what", 7, 80)],
        bar_from=100,
        time_from=70,
    )
