"""Where a proxy stands, for people: a table and a line, and their display while it runs.

The table is the same under `zpipe proxy --progress` and in `zpipe status`.
"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass

from zpipe.commands.speaking import tell
from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Literal

    from rich.console import RenderableType
    from rich.live import Live

    from zpipe.proxy.counters import Snapshot
    from zpipe.proxy.loop import Loop, Timer

    Past = tuple[Snapshot, float]  # an earlier snapshot, and the seconds that lie between

_INTERVAL = 1.0
_GAP = 2  # blanks between columns
_SHORTEST = 8  # of a name, however narrow it is

_COLUMNS = ("", "STATE", "OPEN", "SERVED", "NEW/s", "FAILED", "UP", "UP/s", "DOWN", "DOWN/s")
_LEFT = 2  # columns that are words; the others are numbers
_SPARED = ("FAILED", "SERVED", "UP", "DOWN", "STATE")  # left out in this order, where it is narrow


@dataclass(frozen=True, slots=True)
class View:
    """A snapshot in words: a line above the table, its rows, and lines below."""

    head: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: list[str]


def view(snapshot: Snapshot, past: Past | None = None) -> View:
    """Return what is shown of a snapshot; rates are those since an earlier one, if there is one."""
    connections, moved = snapshot["connections"], snapshot["bytes"]
    before, seconds = past or (None, 0.0)
    rows = [
        _row(
            _place(snapshot),
            {
                "state": snapshot["state"],
                "active": connections["active"],
                "connections": connections["accepted"],
                "failures": sum(connections["refused"].values()),
                "up": moved["up"],
                "down": moved["down"],
            },
            _totals(before),
            seconds,
        )
    ]
    earlier = _same(snapshot, before, "upstreams")
    for place, upstream in enumerate(snapshot["upstreams"]):
        then = earlier[place] if earlier else None
        rows.append(_row(f"-> {_clean(upstream['name'])}", upstream, then, seconds))
    earlier = _same(snapshot, before, "mirrors")
    for place, mirror in enumerate(snapshot["mirrors"]):
        then = earlier[place] if earlier else None
        rows.append(_row(f"~> {_clean(mirror['name'])}", _as_row(mirror), _as_row(then), seconds))
    with_rates = before is not None
    kept = [place for place, name in enumerate(_COLUMNS) if with_rates or not name.endswith("/s")]
    return View(
        _head(snapshot),
        tuple(_COLUMNS[place] for place in kept),
        [tuple(row[place] for place in kept) for row in rows],
        _notes(snapshot),
    )


def as_text(shown: View) -> str:
    """Return a view as plain lines, the columns below each other."""
    widths = _widths(shown)
    lines = [shown.head]
    for row in (shown.columns, *shown.rows):
        cells = [
            cell.ljust(width) if place < _LEFT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + (" " * _GAP).join(cells)).rstrip())
    return "\n".join([*lines, *(f"  {note}" for note in shown.notes)])


def as_rich(shown: View, width: int) -> RenderableType:
    """Return a view for a terminal of so many columns; loads the library."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = _narrowed(shown, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
    for name in shown.columns:
        left = name in _COLUMNS[:_LEFT]
        table.add_column(Text(name), justify="left" if left else "right", no_wrap=True)
    for place, row in enumerate(shown.rows):
        cells = [
            Text(cell, style=_STYLES.get(cell, "") if name == "STATE" else "")
            for name, cell in zip(shown.columns, row, strict=True)
        ]
        table.add_row(*cells, style="bold" if place == 0 else "")
    notes = [Text(note, style="dim", no_wrap=True, overflow="ellipsis") for note in shown.notes]
    return Group(Text(shown.head, no_wrap=True, overflow="ellipsis"), table, *notes)


def _widths(shown: View) -> list[int]:
    return [max(map(len, column)) for column in zip(shown.columns, *shown.rows, strict=True)]


def _narrowed(shown: View, width: int) -> View:
    """Leave out columns until the others fit, and cut names if that is not enough."""
    for name in _SPARED:
        if _width(shown) <= width:
            return shown
        kept = [place for place, each in enumerate(shown.columns) if each != name]
        shown = View(
            shown.head,
            tuple(shown.columns[place] for place in kept),
            [tuple(row[place] for place in kept) for row in shown.rows],
            shown.notes,
        )
    room = max(_SHORTEST, _widths(shown)[0] - max(0, _width(shown) - width))
    rows = [(cut(row[0], room), *row[1:]) for row in shown.rows]
    return View(shown.head, shown.columns, rows, shown.notes)


def _width(shown: View) -> int:
    return sum(_widths(shown)) + _GAP * (len(shown.columns) - 1)


def cut(name: str, room: int) -> str:
    """Return a name that has room."""
    return name if len(name) <= room else f"{name[: room - 1]}\u2026"


_STYLES = {"running": "green", "up": "green", "draining": "yellow", "down": "red"}


def line(snapshot: Snapshot, past: Past | None = None) -> str:
    """Return a snapshot in one line."""
    connections, moved = snapshot["connections"], snapshot["bytes"]
    before, seconds = past or (None, 0.0)
    then = _totals(before)
    upstreams = snapshot["upstreams"]
    alive = sum(each["state"] == "up" for each in upstreams)
    refused = sum(connections["refused"].values())
    up, down = (
        f"{way} {format_size(moved[way])}"
        + (f" ({_rate(moved[way], then[way], seconds)})" if then else "")
        for way in ("up", "down")
    )
    parts = [
        snapshot["state"] if snapshot["state"] != "running" else "",
        f"{connections['active']} open",
        f"{connections['accepted']} served",
        f"{refused} refused" if refused else "",
        up,
        down,
        f"{alive} of {len(upstreams)} upstreams up" if alive < len(upstreams) else "",
    ]
    name = snapshot["name"] or _place(snapshot)
    return _clean(f"{name}: {', '.join(part for part in parts if part)}")


def _place(snapshot: Snapshot) -> str:
    """Return the address where it listens, or the first of them and how many more there are."""
    first, *more = snapshot["listeners"] or [f"pid {snapshot['pid']}"]
    return _clean(f"{first} +{len(more)}" if more else first)


def _head(snapshot: Snapshot) -> str:
    age = format_duration(max(0.0, time.time() - snapshot["started"]))
    name = f" {snapshot['name']}" if snapshot["name"] else ""
    workers = f", {snapshot['workers']} workers" if snapshot["workers"] > 1 else ""
    return _clean(f"proxy{name} (pid {snapshot['pid']}), for {age}{workers}")


def _notes(snapshot: Snapshot) -> list[str]:
    """Return what has no column; nothing of what never happened."""
    connections, moved = snapshot["connections"], snapshot["bytes"]
    both = moved["up"] + moved["down"]
    several = len(snapshot["listeners"]) > 1
    notes = [
        ("listens at", ", ".join(snapshot["listeners"]) if several else ""),
        ("ended", _counts(connections["closed"])),
        ("refused", _counts(connections["refused"])),
        ("at most", f"{connections['max']} open" if connections.get("max") else ""),
        ("retried", str(snapshot["retried"] or "")),
        ("spliced", f"{100 * moved['spliced'] / both:.0f} % of the bytes" if both else ""),
        ("lost", format_size(moved["lost"]) if moved["lost"] else ""),
    ]
    for mirror in snapshot["mirrors"]:
        missed = f"{format_size(mirror['missed'])} missed" if mirror["missed"] else ""
        given_up = ", ".join(part for part in (missed, _counts(mirror["given_up"])) if part)
        notes.append((f"mirror {mirror['name']}", given_up))
    capture = snapshot.get("capture")
    if isinstance(capture, dict):
        missed = capture.get("missed", 0)
        text = (
            f"{capture.get('connections', 0)} connections, {format_size(capture.get('bytes', 0))}"
        )
        notes.append(("captured", text + (f", {format_size(missed)} missed" if missed else "")))
    return [_clean(f"{name}: {text}") for name, text in notes if text]


def _row(
    name: str, now: dict[str, Any], then: dict[str, Any] | None, seconds: float
) -> tuple[str, ...]:
    def size(key: str) -> str:
        return format_size(now[key]) if now[key] is not None else "-"

    def rate(key: str) -> str:
        if then is None or now[key] is None:
            return "-"
        return _rate(now[key], then[key], seconds)

    new = max(0, now["connections"] - then["connections"]) / seconds if then and seconds else None
    return (
        name,
        _clean(now["state"]),
        str(now["active"]),
        str(now["connections"]),
        "-" if new is None else f"{new:.0f}" if new >= 9.95 else f"{new:.1f}",
        str(now["failures"]),
        size("up"),
        rate("up"),
        size("down"),
        rate("down"),
    )


def _rate(now: float, then: float, seconds: float) -> str:
    return f"{format_size(max(0, now - then) / seconds)}/s" if seconds > 0 else "-"


def _totals(snapshot: Snapshot | None) -> dict[str, Any] | None:
    if snapshot is None:
        return None
    return {**snapshot["bytes"], "connections": snapshot["connections"]["accepted"]}


def _as_row(mirror: dict[str, Any] | None) -> Any:
    """Return a mirror with the keys of an upstream; what goes to it is `up`."""
    if mirror is None:
        return None
    return {
        **mirror,
        "state": "mirror",
        "failures": sum(mirror["given_up"].values()),
        "up": mirror["bytes"],
        "down": None,
    }


def _same(now: Snapshot, before: Snapshot | None, key: str) -> list[dict[str, Any]] | None:
    """Return the earlier entries, if they are the same ones: a reload may have changed them."""
    if before is None or [x["name"] for x in now[key]] != [x["name"] for x in before[key]]:
        return None
    earlier: list[dict[str, Any]] = before[key]
    return earlier


def _counts(counts: dict[str, int]) -> str:
    """Return `12 closed, 3 idle`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {why}" for why, count in ordered if count)


def _clean(text: str) -> str:
    """Return a text without anything that steers a terminal: names come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


class ProxyProgress:
    """Shows on stderr how a proxy does, each second, where that is wanted and can be seen.

    On a terminal a table that is gone at the end; else, if `when` is `always`, a line. What a
    stopped terminal or a full pipe does not take is left out: the loop does not wait for it.
    """

    def __init__(
        self,
        loop: Loop,
        snapshot: Callable[[], Snapshot],
        when: Literal["auto", "always", "never"],
        quiet: bool,
    ):
        self._loop = loop
        self._snapshot = snapshot
        self._live: Live | None = None
        self._timer: Timer | None = None
        self._past = (snapshot(), time.monotonic())  # at the last look
        self._draws = draws(2)
        wanted = when == "always" or (when == "auto" and self._draws and in_foreground(2))
        if wanted and not quiet:
            self._timer = loop.later(_INTERVAL, self._tick)

    def line(self) -> str:
        """Return one line, with the rates since the last one or the last display."""
        snapshot, past = self._look()
        return line(snapshot, past)

    def lines(self) -> list[str]:
        """Return what SIGUSR1 asks for."""
        return [self.line()]

    def close(self) -> None:
        """Take away what would be in the way of the next line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _look(self) -> tuple[Snapshot, Past]:
        snapshot, now = self._snapshot(), time.monotonic()
        before, then = self._past
        self._past = (snapshot, now)
        return snapshot, (before, now - then)

    def _tick(self) -> None:
        self._timer = self._loop.later(_INTERVAL, self._tick)
        if not takes(2):
            return
        snapshot, past = self._look()
        if not self._draws:
            tell(line(snapshot, past))
            return
        if self._live is None:
            self._live = live(2)
        width = self._live.console.width
        self._live.update(as_rich(view(snapshot, past), width), refresh=True)


def live(fd: Literal[1, 2]) -> Live:
    """Return a display that is under way, is drawn when it is told to, and is gone at the end."""
    from rich.console import Console
    from rich.live import Live

    display = Live(
        console=Console(stderr=fd == 2),
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    display.start()
    return display


def draws(fd: int) -> bool:
    """Tell whether an fd is a terminal that a table can be drawn on."""
    return os.isatty(fd) and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def in_foreground(fd: int) -> bool:
    """Tell whether the terminal is ours at the moment."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def takes(fd: int) -> bool:
    """Tell whether a little can be written without waiting."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    found = poll.poll(0)
    return bool(found and found[0][1] & select.POLLOUT)
