"""How a recipe does, for people: a screen that shows its edges and its proxies, and what tells it.

Made of the records of a run and of snapshots of the proxies, wherever they come from.
"""

from __future__ import annotations

import time

from zpipe.commands.board import UNDER_WAY
from zpipe.commands.carrying import Speaker
from zpipe.commands.proxy_progress import (
    as_rich,
    draws,
    in_foreground,
    live,
    takes,
    view,
)
from zpipe.commands.proxy_progress import line as proxy_line
from zpipe.commands.records import Records
from zpipe.commands.run_table import drawn, head, line, table
from zpipe.commands.speaking import show, tell
from zpipe.errors import ConsumerGone, Interrupted, signal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import RenderableType
    from rich.live import Live

    from zpipe.commands.board import Board
    from zpipe.commands.records import Record
    from zpipe.engine.report import HopReport, ProcessReport, Report
    from zpipe.errors import ZpipeError
    from zpipe.proxy.counters import Snapshot

# records that are for people: a line of zpipe's own, and a text as it is
LINE, TEXT = "line", "text"
FOR_PEOPLE = (LINE, TEXT)

_FIRST = 1.0  # seconds before anything is shown: most runs are over by then
_DRAWN, _TOLD = 0.2, 1.0  # seconds between two tables, and between two lines
_VERY_MANY = 100  # edges of which each look costs something
_MANY = 4  # edges that have a line each, where lines are told


class Screen:
    """Speaks on stderr and draws there, where that is wanted and can be seen.

    It is told of records by `take`, and now and then to `look`. What a stopped terminal or a full
    pipe does not take is left out of the display: nobody waits for it.
    """

    def __init__(self, board: Board, name: str, *, when: str, quiet: bool):
        self._board = board
        self._name = name
        self._began = time.monotonic()
        self._live: Live | None = None
        self._draws = draws(2)
        wanted = when == "always" or (when == "auto" and self._draws and in_foreground(2))
        self.interval: float | None = None
        if wanted and not quiet:
            self.interval = _TOLD if len(board.rows) > _VERY_MANY else _DRAWN
        self._ended: set[str] = set()  # edges of which a line has told so
        self._due = self._began + (0.0 if when == "always" and self._draws else _FIRST)
        self._proxies: Callable[[], Snapshot] | None = None
        self._past: tuple[Snapshot, float] | None = None

    def watch(self, snapshot: Callable[[], Snapshot]) -> None:
        """Show how proxies do, too, from now on; to ask them may take a moment."""
        self._proxies = snapshot
        self.interval = None if self.interval is None else _TOLD
        self._past = (snapshot(), time.monotonic())

    def take(self, record: Record) -> None:
        """Say what is to be said, and take note of the rest."""
        text = str(record.get("text"))
        kind = record["type"]
        if kind in ("said", LINE, "failed"):
            for each in text.splitlines():
                self.say(each)
        elif kind == "dropped" and record.get("error"):
            self.say(str(record["error"]))
        elif kind in ("answer", TEXT):
            self.close()
            show(text)
        self._board.take(record)
        if self._proxies is None:  # else whoever tells of them does
            self.look()

    def say(self, text: str) -> None:
        """Tell a line; the display comes back below it."""
        self.close()
        tell(text)

    def look(self) -> None:
        """Draw or tell how it goes, if it is time for that."""
        now = time.monotonic()
        if self.interval is None or now < self._due:
            return
        self._due = now + (self.interval if self._draws else _TOLD)
        if not takes(2):
            return
        if self._draws:
            self._draw()
            return
        if len(self._board.edges) > _MANY:
            tell(head(self._board, self._name, now - self._began))
        else:
            self._tell_rows()
        if self._proxies is not None:
            tell(proxy_line(*self._look_at_proxies()))

    def _tell_rows(self) -> None:
        """Tell a line of each edge that is under way, and once of each that has ended."""
        for row in self._board.rows:
            if row.state in UNDER_WAY or (row.ended and row.name not in self._ended):
                tell(line(row))
            if row.ended:
                self._ended.add(row.name)

    def line(self) -> str:
        """Return all of it in one line."""
        parts = []
        if self._proxies is not None:
            parts.append(proxy_line(*self._look_at_proxies()))
        if self._board.edges:
            parts.append(head(self._board, "", time.monotonic() - self._began))
        return "; ".join(parts)

    def proxy_lines(self) -> list[str]:
        """Return a line of the proxies."""
        return [] if self._proxies is None else [proxy_line(*self._look_at_proxies())]

    def close(self) -> None:
        """Take away what would be in the way of the next line."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        from rich.console import Group

        if self._live is None:
            self._live = live(2)
        size = self._live.console.size
        parts: list[RenderableType] = []
        room = size.height - 4
        if self._proxies is not None:
            snapshot, past = self._look_at_proxies()
            shown = view(snapshot, past)
            parts.append(as_rich(shown, size.width))
            room -= len(shown.rows) + len(shown.notes) + 2
        if self._board.rows:
            seconds = time.monotonic() - self._began
            parts.append(drawn(table(self._board, self._name, seconds, size.width, max(3, room))))
        self._live.update(Group(*parts), refresh=True)

    def _look_at_proxies(self) -> tuple[Snapshot, tuple[Snapshot, float]]:
        assert self._proxies is not None
        assert self._past is not None
        snapshot, now = self._proxies(), time.monotonic()
        before, then = self._past
        if now - then >= _TOLD:
            self._past = (snapshot, now)
        return snapshot, (before, now - then)


class Told(Records, Speaker):
    """Makes the records that a screen is told of: those of programs, and some for people."""

    def __init__(
        self, take: Callable[[Record], object], *, interval: float | None, explain: bool = False
    ):
        super().__init__(take, interval=interval)
        self._explain = explain
        self._begun: list[HopReport] = []

    def began(self, hop: HopReport) -> None:
        for earlier in self._begun:
            if earlier.outlets is hop.outlets:
                # it has been read, and is not told of again before the last of them has
                self._write("progress", **self._place(earlier))
        self._begun = [each for each in self._begun if each.outlets is not hop.outlets]
        self._begun.append(hop)
        super().began(hop)
        if self._explain:
            from zpipe.commands.explain import planned

            self._write(TEXT, text=planned(*_names(hop), hop.plan))

    def status(self, hop: HopReport) -> None:
        from zpipe.commands.progress import status_line

        super().status(hop)
        self._write(LINE, text=status_line(hop, name=" -> ".join(_names(hop))))

    def stopped(self, report: Report) -> None:
        super().stopped(report)
        if self._explain:
            from zpipe.commands.explain import happened, rows

            processes = rows("process", [_ended(process) for process in report.processes])
            self._write(TEXT, text="\n".join([happened(report), *processes]))

    def ended_by(self, error: ZpipeError) -> None:
        super().ended_by(error)
        # what has ended it by a signal is told by whoever dies of it
        if not error.told and not isinstance(error, (Interrupted, ConsumerGone)):
            self._write(LINE, text=str(error))


class Watched(Told):
    """Shows a run of this process on a screen."""

    def __init__(self, screen: Screen, *, explain: bool):
        super().__init__(screen.take, interval=screen.interval, explain=explain)
        self._screen = screen

    def close(self) -> None:
        self._screen.close()


def _ended(process: ProcessReport) -> str:
    """Return how a process ended."""
    status = process.status
    if status is None:
        how = "has not ended"
    else:
        how = f"exit status {status}" if status >= 0 else f"ended by {signal_name(-status)}"
    return f"{process.node}: {process.name} ({process.pid}): {how}"


def _names(hop: HopReport) -> tuple[str, str]:
    """Return the nodes at both sides of a hop."""
    return hop.ends[0], ", ".join(hop.ends[1])
