"""Lines with a bar on a terminal, each of which keeps to the terminal's width; rich draws them.

Where it is narrow, parts are left out as a whole: figures that are cut tell something else. What
is left of the width is the name's.
"""

from __future__ import annotations

from zpipe.units import format_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rich.progress import Progress, Task, TaskID

_BAR, _BYTES, _SPEED, _TIME = 16, 17, 10, 7  # columns that each takes, at the most
_LEAST = 12  # of a name


class Field(Value):
    """A text of a line: the `key` of its state, the columns that it takes at the most, and from
    which width of the terminal on it is shown.
    """

    key: str
    most: int
    shown_from: int = 0


class Bars:
    """Name, fields, bar, bytes, rate, the time that is left, and further fields: on stderr.

    `bar_from`, `speed_from`, `time_from`: the width from which on these are shown; None: never.
    Rates are those of the last seconds, and `average` of the state before there is one.
    """

    def __init__(
        self,
        *,
        before: Sequence[Field] = (),
        after: Sequence[Field] = (),
        bar_from: int,
        speed_from: int = 0,
        time_from: int | None,
    ):
        from rich.console import Console

        self._console = Console(stderr=True)
        width = self._console.width
        self._before = [field for field in before if width >= field.shown_from]
        self._after = [field for field in after if width >= field.shown_from]
        self._bar = width >= bar_from
        self._speed = width >= speed_from
        self._time = time_from is not None and width >= time_from
        self._tasks: list[TaskID] = []
        parts = [field.most for field in (*self._before, *self._after)]
        parts += [_BAR] * self._bar + [_BYTES] + [_SPEED] * self._speed + [_TIME] * self._time
        self._taken = sum(parts) + len(parts)
        self._display = self._start()

    def show(
        self, place: int, name: str, *, completed: int, total: int | None, **state: Any
    ) -> None:
        """Set the line at a place, from 0 on; a further one is added at the end."""
        room = max(_LEAST, self._console.width - self._taken)
        if len(name) > room:
            name = f"{name[: room - 1]}…"
        if place == len(self._tasks):
            self._tasks.append(self._display.add_task(name, total=total, **state))
        self._display.update(
            self._tasks[place], description=name, completed=completed, total=total, **state
        )

    def draw(self) -> None:
        """Bring what was set to the terminal."""
        self._display.refresh()

    def close(self) -> None:
        """Take the lines away."""
        self._display.stop()

    def _start(self) -> Progress:
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
            """In the units of the bytes beside it; rich's own column counts by thousands."""

            def render(self, task: Task) -> Text:
                speed = task.speed or task.fields["average"]  # no window at the first sight
                text = f"{format_size(speed)}/s" if speed else ""
                return Text(text, style="progress.data.speed")

        def text(key: str) -> TextColumn:
            return TextColumn(f"{{task.{key}}}", markup=False, table_column=whole)

        whole = Column(no_wrap=True)
        columns = [text("description")]
        columns += [text(f"fields[{field.key}]") for field in self._before]
        figures: list[ProgressColumn] = []
        if self._bar:
            figures.append(BarColumn(bar_width=_BAR))
        figures.append(DownloadColumn(binary_units=True, table_column=whole))
        if self._speed:
            figures.append(Speed(table_column=whole))
        if self._time:
            figures.append(TimeRemainingColumn(table_column=whole))
        display = Progress(
            *columns,
            *figures,
            *(text(f"fields[{field.key}]") for field in self._after),
            console=self._console,
            auto_refresh=False,
            transient=True,
            speed_estimate_period=5,
        )
        display.start()
        return display
