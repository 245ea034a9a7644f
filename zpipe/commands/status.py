"""`zpipe status [ADDR]`."""

from __future__ import annotations

import errno
import time
from typing import Any

import click

from zpipe.commands.option_types import DURATION
from zpipe.commands.proxy_progress import as_rich, as_text, draws, live, view
from zpipe.commands.speaking import write_out
from zpipe.errors import TransferError, UsageError, ZpipeError
from zpipe.proxy.status import Foreign, ask, ask_all, find

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.live import Live

    from zpipe.proxy.counters import Snapshot

    Seen = dict[tuple[int, float], tuple[Snapshot, float]]  # by process, and when

EXAMPLES = """\b
Examples:
  zpipe status
  zpipe status --watch
  zpipe status 127.0.0.1:9100 --json | jq .connections.active
"""

_NONE = "status: no proxy of this user is running here"


@click.command(
    "status",
    epilog=EXAMPLES,
    help="""Show how the proxies of this user do, or the one whose --metrics are at ADDR.

    ADDR is HOST:PORT or unix:PATH. Without it, those are shown that run in this network namespace;
    root sees those of all users. TIME is like 250ms, 10s or 1h30m.
    """,
)
@click.argument("addr", required=False, metavar="[ADDR]")
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, with rates.")
@click.option(
    "--interval",
    type=DURATION,
    help="With --watch: the time between two looks (1s).",
)
@click.option("--json", is_flag=True, help="Print a JSON object in a line for each proxy.")
def status_command(addr: str | None, **options: Any) -> None:
    """Look once, or until interrupted."""
    if options["interval"] is not None and not options["watch"]:
        raise UsageError("--interval: has no effect without --watch")
    if not options["watch"]:
        snapshots, problems = _asked(addr)
        _print(snapshots, {}, json=options["json"])
        if problems:
            raise ZpipeError(*problems)
        return
    interval = options["interval"] or 1.0
    if options["json"] or not draws(1):
        _repeat(addr, interval, None, json=options["json"])
        return
    display = live(1)
    try:
        _repeat(addr, interval, display, json=False)
    finally:
        display.stop()


def _repeat(addr: str | None, interval: float, display: Live | None, *, json: bool) -> None:
    """Show what is there at each interval. Raises: ZpipeError  there is nothing any more."""
    seen: Seen = {}
    due = time.monotonic()
    while True:
        snapshots, _ = _asked(addr)
        now = time.monotonic()
        if display is None:
            _print(snapshots, seen, json=json)
        else:
            from rich.console import Group

            width = display.console.width
            views = [as_rich(view(each, _past(each, seen)), width) for each in snapshots]
            display.update(Group(*views), refresh=True)
        seen = {_key(each): (each, now) for each in snapshots}
        # at even times, without catching up on those that were missed
        due = max(due + interval, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def _asked(addr: str | None) -> tuple[list[Snapshot], list[str]]:
    """Ask one proxy, or all of this user that run here; return also what went wrong.

    Raises: ZpipeError  it does not answer, or there is none.
    """
    if addr is not None:
        return [ask(addr)], []
    snapshots: list[Snapshot] = []
    problems: list[str] = []
    for _, answer in ask_all(find()):
        if not isinstance(answer, TransferError):
            snapshots.append(answer)
        # one that refuses has ended meanwhile
        elif not isinstance(answer, Foreign) and answer.errno != errno.ECONNREFUSED:
            problems.append(str(answer))
    if not snapshots:
        raise ZpipeError(*(problems or [_NONE]))
    return snapshots, problems


def _print(snapshots: list[Snapshot], seen: Seen, *, json: bool) -> None:
    if json:
        from json import dumps

        text = "\n".join(dumps(each, separators=(",", ":")) for each in snapshots)
    elif not draws(1):
        texts = [as_text(view(each, _past(each, seen))) for each in snapshots]
        text = "\n\n".join(["", *texts] if seen else texts).removeprefix("\n")
    else:
        from rich.console import Console

        console = Console()
        for each in snapshots:
            console.print(as_rich(view(each), console.width))
        return
    write_out(text)


def _past(snapshot: Snapshot, seen: Seen) -> tuple[Snapshot, float] | None:
    """Return what was seen of the same proxy before, and the seconds since."""
    before = seen.get(_key(snapshot))
    return None if before is None else (before[0], time.monotonic() - before[1])


def _key(snapshot: Snapshot) -> tuple[int, float]:
    return snapshot["pid"], snapshot["started"]


COMMAND: click.Command = status_command
