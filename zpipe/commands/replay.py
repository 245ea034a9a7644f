"""`zpipe replay CAPTURE UPSTREAM`."""

from __future__ import annotations

import json
from typing import Any

import click

from zpipe.commands.option_types import DURATION, OneOf, Quantity, number
from zpipe.commands.speaking import show, tell
from zpipe.errors import StalledError, TransferError, UsageError, VerifyError, ZpipeError
from zpipe.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.proxy.replay import Outcome, Summary

EXAMPLES = """\b
Examples:
  zpipe replay /var/tmp/capture localhost:5433
  zpipe replay --pace fast --compare /var/tmp/capture unix:/run/new.sock
  zpipe replay --id 20260401T101500.250000-4711-1 capture localhost:8080
"""
VERSION = 1


def parse_factor(text: str) -> float:
    """Return a factor, more than 0. Raises: UsageError  it is none."""
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1e-6 <= factor <= 1e6:
        raise UsageError(f"{text}: not a factor: give a number like 2 or 0.5")
    return factor


FACTOR = Quantity("factor", parse_factor)


@click.command(
    "replay",
    epilog=EXAMPLES,
    help="""Play connections that zpipe proxy --capture has recorded back to UPSTREAM.

    CAPTURE is the folder, UPSTREAM is HOST:PORT or unix:PATH. What the client sent is sent again,
    at the times of the capture or as fast as the answers come; answers are read and thrown away,
    or compared with those of the capture. TIME is like 250ms, 10s or 1h30m.
    """,
)
@click.argument("capture")
@click.argument("upstream")
@click.option(
    "--id", "ids", metavar="ID", multiple=True, help="Only this connection; repeatable (all)."
)
@click.option(
    "--pace",
    type=OneOf(("original", "fast")),
    default="original",
    show_default=True,
    help="At the times of the capture; or one connection after the other, and each chunk as soon"
    " as there is as much of the answer as the client had seen when it sent it.",
)
@click.option(
    "--speed", type=FACTOR, help="Divide the times of the original pace by this, as 2 or 0.5 (1)."
)
@click.option(
    "-j",
    "--jobs",
    type=number(1, 99_999),
    help="Connections at a time at the fast pace, 1 to 99999 (1).",
)
@click.option("--compare", is_flag=True, help="Compare the answers; a difference is exit 3.")
@click.option(
    "--timeout", type=DURATION, help="Give up a connection on which nothing moves for so long (5s)."
)
@click.option("--json", is_flag=True, help="Report in JSON Lines on standard error.")
@click.option("-q", "--quiet", is_flag=True, help="No summary; differences and errors only.")
def replay_command(capture: str, upstream: str, **options: Any) -> None:
    """Play, and tell what is not as it was."""
    as_json = options["json"]
    try:
        summary = _play(capture, upstream, options)
    except ZpipeError as error:
        if as_json:
            _write("error", exit=error.exit_code, text=str(error))
            error.told = True
        raise
    failure = _failure(capture, summary)
    if as_json:
        _write(
            "end",
            exit=failure.exit_code if failure is not None else 0,
            connections=summary.connections,
            sent=summary.sent,
            received=summary.received,
            differs=summary.differs,
            failed=summary.failed,
            stalled=summary.stalled,
            seconds=round(summary.seconds, 6),
        )
    elif not options["quiet"]:
        tell(_summed_up(summary, compared=options["compare"]))
    if failure is not None:
        failure.told = True  # for each connection
        raise failure


def _play(capture: str, upstream: str, options: dict[str, Any]) -> Summary:
    """Raises: ZpipeError  nothing could be played."""
    from zpipe.proxy.addresses import parse_address, resolve
    from zpipe.proxy.replay import Recordings, Wishes, replay

    pace = options["pace"]
    if options["speed"] is not None and pace != "original":
        raise UsageError("--speed: has no effect: the pace is fast, not that of the capture")
    if options["jobs"] is not None and pace != "fast":
        raise UsageError("--jobs: has no effect: connections begin when they did in the capture")
    wishes = Wishes(
        pace=pace,
        speed=options["speed"] or 1.0,
        compare=options["compare"],
        timeout=options["timeout"] or Wishes().timeout,
        jobs=options["jobs"] or 1,
    )
    address = parse_address(upstream)
    recordings = Recordings(capture)
    try:
        chosen = recordings.chosen(options["ids"])
        told = _record if options["json"] else _tell
        return replay(recordings, chosen, address, resolve(address), wishes, told)
    finally:
        recordings.close()


def _tell(outcome: Outcome) -> None:
    if outcome.text is not None:
        tell(outcome.text)


def _record(outcome: Outcome) -> None:
    _write(
        "connection",
        id=outcome.id,
        state=outcome.state,
        sent=outcome.sent,
        received=outcome.received,
        recorded=outcome.recorded,
        differs=outcome.differs,
        text=outcome.text,
    )


def _write(kind: str, **fields: object) -> None:
    show(json.dumps({"v": VERSION, "type": kind, **fields}))


def _failure(capture: str, summary: Summary) -> ZpipeError | None:
    """Return the error that ends the command: the worst that became of a connection."""
    if summary.failed:
        return TransferError(f"{capture}: replay: {summary.failed} failed")
    if summary.stalled:
        return StalledError(f"{capture}: replay: {summary.stalled} stalled")
    if summary.differs:
        return VerifyError(f"{capture}: compare: {summary.differs} differ")
    return None


def _summed_up(summary: Summary, *, compared: bool) -> str:
    count = summary.connections
    parts = [
        f"{count} connection{'' if count == 1 else 's'} replayed in"
        f" {format_duration(summary.seconds)}",
        f"{format_size(summary.sent)} sent",
        f"{format_size(summary.received)} received",
    ]
    if compared:
        parts.append(f"{summary.differs or 'none'} differ{'s' if summary.differs == 1 else ''}")
    parts += [
        f"{number} {what}"
        for number, what in ((summary.failed, "failed"), (summary.stalled, "stalled"))
        if number
    ]
    return ", ".join(parts)


COMMAND: click.Command = replay_command
