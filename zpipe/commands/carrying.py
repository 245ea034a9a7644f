"""Carry out a graph for the command line: signals, what is shown on the way, and the report."""

from __future__ import annotations

import os

from zpipe.commands.speaking import show, tell
from zpipe.engine.feedback import Feedback
from zpipe.engine.run import run
from zpipe.engine.stop import Signals
from zpipe.errors import ZpipeError
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.commands.progress import Display
    from zpipe.commands.records import Records
    from zpipe.engine.report import Fallback, HopReport, OutletReport, Report
    from zpipe.graph.model import Graph


class Shown(Value):
    """What the user wants to see. `progress` is auto, always or never; `size` in bytes and `name`
    are what the display says where the bytes' origin does not tell; `interval` in seconds.
    """

    explain: bool = False
    json: bool = False
    json_fd: int | None = None
    progress: str = "auto"
    quiet: bool = False
    dry_run: bool = False
    stats: bool = False
    size: int | None = None
    name: str | None = None
    interval: float | None = None


class Speaker(Feedback):
    """Tells people of a run."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class Console(Speaker):
    """Speaks on stderr: what the engine says, status lines, progress and explanations."""

    def __init__(self, shown: Shown):
        self._shown = shown
        self._display = _display(shown)
        if self._display is not None:
            self.interval = shown.interval or self._display.interval
        self._past = 0  # bytes of the sources that were read before the one at hand
        self._hop: HopReport | None = None

    def said(self, text: str) -> None:
        self._clear()
        tell(text)

    def answered(self, text: str) -> None:
        self._clear()
        show(text)

    def failed(self, error: ZpipeError) -> None:
        for line in error.args:
            self.said(str(line))

    def dropped(self, outlet: OutletReport) -> None:
        if outlet.error is not None:
            self.said(outlet.error)

    def progress(self, hop: HopReport) -> None:
        if self._display is not None:
            self._display.show(hop, self._past)

    def status(self, hop: HopReport) -> None:
        from zpipe.commands.progress import status_line

        expected = self._shown.size if self._shown.size is not None else hop.expected
        self.said(status_line(hop, name=self._shown.name, past=self._past, expected=expected))

    def began(self, hop: HopReport) -> None:
        if self._hop is not None:
            self._past += self._hop.moved
        self._hop = hop
        if self._shown.explain:
            from zpipe.commands.explain import planned

            show(planned(hop.source, hop.sink, hop.plan))

    def stopped(self, report: Report) -> None:
        self._clear()
        if self._shown.explain:
            from zpipe.commands.explain import happened

            show(happened(report))

    def close(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._display is not None:
            self._display.close()


class Several(Feedback):
    """Tells all of its listeners."""

    def __init__(self, *listeners: Feedback):
        self._listeners = listeners
        intervals = [each.interval for each in listeners if each.interval is not None]
        self.interval = min(intervals) if intervals else None

    def said(self, text: str) -> None:
        for each in self._listeners:
            each.said(text)

    def answered(self, text: str) -> None:
        for each in self._listeners:
            each.answered(text)

    def failed(self, error: ZpipeError) -> None:
        for each in self._listeners:
            each.failed(error)

    def dropped(self, outlet: OutletReport) -> None:
        for each in self._listeners:
            each.dropped(outlet)

    def began(self, hop: HopReport) -> None:
        for each in self._listeners:
            each.began(hop)

    def progress(self, hop: HopReport) -> None:
        for each in self._listeners:
            each.progress(hop)

    def status(self, hop: HopReport) -> None:
        for each in self._listeners:
            each.status(hop)

    def fell_back(self, hop: HopReport, fallback: Fallback) -> None:
        for each in self._listeners:
            each.fell_back(hop, fallback)

    def ended(self, hop: HopReport) -> None:
        for each in self._listeners:
            each.ended(hop)

    def stopped(self, report: Report) -> None:
        for each in self._listeners:
            each.stopped(report)

    def closed(self, report: Report) -> None:
        for each in self._listeners:
            each.closed(report)


def carry(
    make: Callable[[], Graph],
    shown: Shown,
    *,
    speaker: Callable[[Shown], Speaker] = Console,
    records: Sequence[Records] = (),
) -> None:
    """Make a graph and carry it out, and show what was asked for; `records` are told, too.

    Raises: ZpipeError  whatever went wrong; the JSON stream has told it already.
    """
    console: Speaker | None = None
    on_stderr = False
    if shown.json:
        from zpipe.commands.records import Lines, Records

        on_stderr = shown.json_fd is None
        records = [*records, Records(Lines(2 if shown.json_fd is None else shown.json_fd))]
    feedback: list[Feedback] = [*records]
    try:
        graph = make()
        if shown.dry_run:
            from zpipe.commands.plan_table import show_plan
            from zpipe.engine.forecast import forecast

            show_plan(forecast(graph), json=shown.json and shown.json_fd is None)
            return
        if not on_stderr:
            console = speaker(shown)
            feedback.insert(0, console)
            if shown.stats:
                from zpipe.commands.stats import Stats

                feedback.append(Stats(shown.interval, console.said))
        with Signals() as stop:
            run(
                graph, feedback=feedback[0] if len(feedback) == 1 else Several(*feedback), stop=stop
            )
    except ZpipeError as error:
        for each in records:
            each.ended_by(error)
        error.told = error.told or on_stderr
        raise
    finally:
        if console is not None:
            console.close()


def _display(shown: Shown) -> Display | None:
    """Return the progress display where one is wanted and can be seen."""
    if shown.quiet or shown.progress == "never":
        return None
    draws = os.isatty(2) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    if shown.progress == "auto":
        try:
            if not draws or os.tcgetpgrp(2) != os.getpgrp():
                return None
        except OSError:
            return None
    from zpipe.commands.progress import Lines, Progress

    if not draws:
        return Lines(tell, name=shown.name, size=shown.size)
    return Progress(at_once=shown.progress == "always", name=shown.name, size=shown.size)
