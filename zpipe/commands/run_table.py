"""A board in words: a table for a terminal of some size, a line for an edge or for all of them.

Draws nothing by itself, and knows nothing of where the board's facts come from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from zpipe.commands.board import UNDER_WAY, WAITING
from zpipe.commands.proxy_progress import cut
from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType

    from zpipe.commands.board import Board, Row

_NAMED = 4  # edges that are told by their names, of those that are in trouble
_GAP = 2
_SHORT, _SHORTEST = 24, 12  # of a name: before anything is left out for it, and at all
_BAR = 12
_COLUMNS = ("", "STATE", "BYTES", "DONE", "RATE", "MOVER", "BEHIND")
_RIGHT = ("BYTES", "RATE", "BEHIND")
_SPARED = ("BEHIND", "MOVER", "DONE")  # left out in this order, where it is narrow
_STYLES = {
    "flowing": "green",
    "blocked": "yellow",
    "spilling": "yellow",
    "detached": "red",
    "failed": "red",
    "stopped": "red",
    WAITING: "dim",
    "idle": "dim",
}


@dataclass(frozen=True, slots=True)
class Table:
    """A board in words. `rows` have a cell for each column; `faint` tells which are no edges of the
    user's, `shares` how much of each is done, which `bars` show; `more` is what had no room.
    """

    head: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    faint: list[bool]
    shares: list[float | None]
    bars: bool = True
    more: str = ""


def table(board: Board, name: str, seconds: float, width: int, height: int) -> Table:
    """Return what a terminal of this size shows of a board."""
    rows = board.rows
    shown = _most_telling(rows, max(1, height))
    found = Table(
        head(board, name, seconds),
        _COLUMNS,
        [_cells(row) for row in shown],
        [row.joint for row in shown],
        [row.share for row in shown],
        more=_left_out(rows, shown),
    )
    return _narrowed(found, width)


def head(board: Board, name: str, seconds: float) -> str:
    """Return what is true of all edges together, in one line."""
    edges = board.edges
    ended = sum(row.ended for row in edges)
    moved = sum(row.bytes for row in edges)
    rate = sum(row.rate or 0.0 for row in edges if row.state in UNDER_WAY)
    parts = [
        f"{ended} of {len(edges)} {'edge' if len(edges) == 1 else 'edges'} done",
        format_size(moved),
        f"{format_size(rate)}/s" if rate else "",
        format_duration(seconds),
    ]
    held = [row.name for row in board.rows if row.state == "blocked"]
    failed = [row.name for row in board.rows if row.state in ("failed", "detached")]
    notes = [
        f"blocked: {', '.join(held[:_NAMED])}" if held else "",
        f"failed: {', '.join(failed[:_NAMED])}" if failed else "",
    ]
    text = ", ".join(part for part in parts if part)
    return "; ".join(part for part in (f"{name}: {text}" if name else text, *notes) if part)


def line(row: Row) -> str:
    """Return where one edge stands."""
    size = format_size(row.bytes)
    if row.share is not None and row.expected is not None:
        size += f" of {format_size(row.expected)} ({100 * row.share:.0f} %)"
    parts = [
        size if row.begun else "",
        f"{format_size(row.rate)}/s" if row.rate else "",
        format_duration(row.seconds) if row.begun else "",
        row.mover,
        row.state,
        f"{format_size(row.behind)} behind" if row.behind and row.state in UNDER_WAY else "",
    ]
    return f"{row.name}: {', '.join(part for part in parts if part)}"


def _most_telling(rows: Sequence[Row], room: int) -> list[Row]:
    """Leave out what is done, then what has not begun, and then the last ones."""
    if len(rows) <= room:
        return list(rows)
    ranks = {WAITING: 1, "done": 2}
    by_rank = sorted(range(len(rows)), key=lambda place: ranks.get(rows[place].state, 0))
    return [rows[place] for place in sorted(by_rank[: max(1, room - 1)])]


def _left_out(rows: Sequence[Row], shown: Sequence[Row]) -> str:
    if len(shown) == len(rows):
        return ""
    kept = {id(row) for row in shown}
    states: dict[str, int] = {}
    for row in rows:
        if id(row) not in kept:
            states[row.state] = states.get(row.state, 0) + 1
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    return f"and {len(rows) - len(shown)} more: {counts}"


def _cells(row: Row) -> tuple[str, ...]:
    share = row.share
    return (
        row.name,
        row.state,
        format_size(row.bytes) if row.begun else "",
        "" if share is None else f"{100 * share:.0f} %",
        f"{format_size(row.rate)}/s" if row.rate is not None else "",
        row.mover,
        format_size(row.behind) if row.behind and row.state in UNDER_WAY else "",
    )


def _narrowed(shown: Table, width: int) -> Table:
    """Leave out what is empty, and then one thing after the other until the rest fits."""
    for name in _SPARED:
        place = shown.columns.index(name)
        if not any(row[place] for row in shown.rows):
            shown = _without(shown, name)
    for step in _STEPS:
        if _width(shown) <= width:
            return shown
        shown = step(shown, width)
    return shown


def _with_names(shown: Table, width: int, least: int) -> Table:
    """Cut names as far as they must be."""
    room = max(least, _widths(shown)[0] - max(0, _width(shown) - width))
    return replace(shown, rows=[(cut(row[0], room), *row[1:]) for row in shown.rows])


def _without(shown: Table, name: str) -> Table:
    """Leave out a column, if it is there."""
    if name not in shown.columns:
        return shown
    place = shown.columns.index(name)
    columns = shown.columns[:place] + shown.columns[place + 1 :]
    rows = [row[:place] + row[place + 1 :] for row in shown.rows]
    return replace(shown, columns=columns, rows=rows)


_STEPS: tuple[Callable[[Table, int], Table], ...] = (
    lambda shown, width: _with_names(shown, width, _SHORT),
    lambda shown, width: replace(shown, bars=False),
    *(lambda shown, width, name=name: _without(shown, name) for name in _SPARED),
    lambda shown, width: _with_names(shown, width, _SHORTEST),
)


def _widths(shown: Table) -> list[int]:
    return [max(map(len, column)) for column in zip(shown.columns, *shown.rows, strict=True)]


def _width(shown: Table) -> int:
    bar = _BAR + 1 if shown.bars and "DONE" in shown.columns else 0
    return sum(_widths(shown)) + bar + _GAP * (len(shown.columns) - 1)


def drawn(shown: Table) -> RenderableType:
    """Return a table for a terminal; loads the library."""
    from rich.console import Group
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for name in shown.columns:
        right = name in _RIGHT or (name == "DONE" and not shown.bars)
        side = "right" if right else "left"
        made.add_column(Text(name), justify=side, no_wrap=True)  # type: ignore[arg-type]
    for row, faint, share in zip(shown.rows, shown.faint, shown.shares, strict=True):
        cells: list[RenderableType] = []
        for name, cell in zip(shown.columns, row, strict=True):
            if name == "DONE" and share is not None and shown.bars:
                cells.append(_bar(share, cell))
            else:
                cells.append(Text(cell, style=_STYLES.get(cell, "") if name == "STATE" else ""))
        made.add_row(*cells, style="dim" if faint else "")
    parts: list[RenderableType] = [
        Text(shown.head, style="bold", no_wrap=True, overflow="ellipsis"),
        made,
    ]
    if shown.more:
        parts.append(Text(shown.more, style="dim"))
    return Group(*parts)


def _bar(share: float, text: str) -> RenderableType:
    from rich.text import Text

    full = round(share * _BAR)
    bar = Text("━" * full, style="green" if full == _BAR else "magenta")
    bar.append("━" * (_BAR - full), style="grey30")
    return bar.append(f" {text:>5}", style="none")
