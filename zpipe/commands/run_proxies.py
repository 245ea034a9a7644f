"""Carry out a recipe that has proxies: they are served here, and streams in a process beside.

When the streams end well, the proxies go on until they are stopped; when they fail, the proxies
drain, and how the streams ended is how all ended. When the proxies are stopped, so are the streams.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from zpipe.commands.board import Board
from zpipe.commands.records import VERSION, Records
from zpipe.commands.run_progress import FOR_PEOPLE, Screen
from zpipe.commands.serving import Opened
from zpipe.errors import UsageError, ZpipeError
from zpipe.proxy.server import serve
from zpipe.proxy.users import drop_rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.commands.records import Record
    from zpipe.commands.stream_process import Streams
    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop, Timer
    from zpipe.proxy.settings import Settings
    from zpipe.recipe.build import Built

    Take = Callable[[Record], None]

_INTERVAL = 1.0
_FIRST = 1.2  # a little later than what the streams tell each second


class Served:
    """A recipe whose proxies are served; `outs` take the records, and `screen` shows them.

    `reload` returns the recipe anew, for SIGHUP. Raises: UsageError  it cannot be read or had.
    """

    def __init__(
        self,
        built: Built,
        outs: Sequence[Take],
        screen: Screen | None,
        board: Board,
        reload: Callable[[], Built],
        *,
        explain: bool = False,
        quiet: bool = False,
    ):
        self._built = built
        self._outs = outs
        self._screen = screen
        self._board = board
        self._reload = reload
        self._explain = explain
        self._quiet = quiet
        self._streams: Streams | None = None
        self._opened: Opened | None = None
        self._loop: Loop | None = None

    def run(self) -> None:
        """Serve and carry until both have ended.

        Raises: ZpipeError  what the streams have ended by, or what the proxies cannot have.
        """
        built = self._built
        records = Records(self._write)
        try:
            with Opened(built.settings, built.operation.workers) as self._opened:
                self._fork()
                try:
                    self._serve()
                finally:
                    self._part()
        except ZpipeError as error:
            if not error.told:
                records.ended_by(error)
            raise
        finally:
            if self._screen is not None:
                self._screen.close()

    def _fork(self) -> None:
        """Have a process for the streams, if there are any; nothing here has a thread yet."""
        graph, opened = self._built.graph, self._opened
        if graph is None or opened is None:
            return
        from zpipe.commands.stream_process import Streams

        def prepare() -> None:
            opened.close()
            drop_rights(self._built.operation)

        self._streams = Streams(graph, prepare, self._take, self._over, explain=self._explain)

    def _serve(self) -> None:
        built, opened = self._built, self._opened
        assert opened is not None
        collectors = []
        if built.operation.metrics is not None and built.graph is not None:
            from zpipe.commands.hop_metrics import HopCollector

            collectors.append(HopCollector(self._board, built.name))
        serve(
            opened.plans,
            opened.listeners,
            replace(built.operation, quiet=self._quiet),
            self._say,
            self._shows,
            reload=self._again,
            stopping=self._stopping,
            collectors=collectors,
        )

    def _shows(self, loop: Loop, snapshot: Callable[[], Snapshot]) -> _Display:
        """Begin: nothing can be refused any more."""
        self._loop = loop
        if not self._quiet:
            assert self._opened is not None
            for text in self._opened.summaries():
                self._say(text)
        if self._streams is not None:
            self._streams.begin(loop)
        return _Display(loop, snapshot, self._screen, self._outs, self._streams)

    # What the streams tell

    def _take(self, record: Record) -> None:
        if record["type"] not in FOR_PEOPLE:
            self._write(record)
        if self._screen is not None:
            self._screen.take(record)
        else:
            self._board.take(record)

    def _over(self) -> None:
        """The streams have ended."""
        assert self._streams is not None
        if self._streams.failed and self._loop is not None:
            os.kill(os.getpid(), signal.SIGTERM)  # as anybody who wants the proxies to drain

    def _stopping(self, number: int) -> None:
        if self._streams is not None:
            self._streams.end(number)

    def _part(self) -> None:
        """Wait for the streams; they go on where the proxies have ended by themselves."""
        streams, self._loop = self._streams, None
        if streams is None:
            return
        try:
            if streams.begun:
                streams.finish()
        finally:
            streams.close()
        streams.judge()

    # What is said

    def _say(self, text: str) -> None:
        if self._screen is not None:
            self._screen.say(text)
        self._write({"v": VERSION, "type": "said", "text": text})

    def _write(self, record: Record) -> None:
        for out in self._outs:
            out(record)

    # Reloading

    def _again(self) -> Sequence[Settings]:
        """Return the settings of the recipe as it is now; called in a thread.

        Raises: UsageError  it is invalid, or has no proxies any more.
        """
        built, first = self._reload(), self._built
        if not built.settings:
            raise UsageError(f"{built.document.name}: has no proxies any more")
        for what, changed in (
            ("service and metrics", built.operation != first.operation),
            ("nodes and edges", built.graph != first.graph),
        ):
            loop = self._loop
            if changed and loop is not None:
                text = f"reload: {what}: changes take a restart: they stay as they were"
                loop.soon(lambda text=text: self._say(text))  # type: ignore[misc]
        return built.settings


class _Display:
    """What the process that serves is asked for, and tells each second."""

    def __init__(
        self,
        loop: Loop,
        snapshot: Callable[[], Snapshot],
        screen: Screen | None,
        outs: Sequence[Take],
        streams: Streams | None,
    ):
        self._loop = loop
        self._snapshot = snapshot
        self._screen = screen
        self._outs = outs
        self._streams = streams
        if screen is not None:
            screen.watch(snapshot)
        self._timer: Timer | None = loop.later(_FIRST, self._tick)

    def line(self) -> str:
        """Return one line, for the service manager."""
        return self._screen.line() if self._screen is not None else ""

    def lines(self) -> list[str]:
        """Return what SIGUSR1 asks for; of the streams there is a line for each hop."""
        if self._streams is not None:
            self._streams.ask()
        return self._screen.proxy_lines() if self._screen is not None else []

    def close(self) -> None:
        """Tell of the proxies for the last time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._tell()
        if self._screen is not None:
            self._screen.close()

    def _tick(self) -> None:
        self._timer = self._loop.later(_INTERVAL, self._tick)
        self._tell()
        if self._screen is not None:
            self._screen.look()

    def _tell(self) -> None:
        if not self._outs:
            return
        record: Record = {"v": VERSION, "type": "proxy", **self._snapshot()}
        record["v"] = VERSION  # of records: that of snapshots is another
        for out in self._outs:
            out(record)
