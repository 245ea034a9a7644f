"""`zpipe cp SRC DST`."""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.copying import Shown, carry
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.movers import MOVERS
from zpipe.units import parse_duration, parse_rate, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Quantity(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An option's value read by one of the parsers of units."""

    def __init__(self, name: str, parse: Callable[[str], float]):
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number that a text names."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


SIZE = Quantity("size", parse_size)
RATE = Quantity("rate", parse_rate)
DURATION = Quantity("time", parse_duration)

EXAMPLES = """\b
Examples:
  zpipe cp --explain disk.img /mnt/backup/
  zpipe cp disk.img tcp://backup:9000
  zpipe cp --rate-limit 50M tcp-listen://:9000 disk.img
  zpipe cp --sync - /dev/sdb < disk.img
"""


@click.command(
    "cp",
    epilog=EXAMPLES,
    help="""Move one source to one sink, by the quickest way that the kernel grants for the pair.

    SRC and DST are paths, - for standard input or output, or addresses: tcp://HOST:PORT,
    tcp-listen://HOST:PORT, unix:PATH, unix-listen:PATH, exec:COMMAND, pipe:PATH, fd:N, null:,
    zero:, pattern:SEED; see zpipe-endpoints(7). A DST that is a directory gets a file of the
    same name. A regular DST is complete or is not there: it is written under a temporary name
    and renamed.
    """,
)
@click.argument("src")
@click.argument("dst")
@click.option("--offset", type=SIZE, default=0, help="Begin at this byte of the source.")
@click.option("--length", type=SIZE, help="Stop after this many bytes.")
@click.option("--append", is_flag=True, help="Add to the end of DST (O_APPEND), in place.")
@click.option("--inplace", is_flag=True, help="Truncate DST and write to it, as cp does.")
@click.option(
    "--sync", is_flag=True, help="Make DST durable (fsync) before saying that it is done."
)
@click.option("--via", type=click.Choice(MOVERS), help="Move by this mover, or fail.")
@click.option(
    "--no-via", type=click.Choice(MOVERS), multiple=True, help="Never by this one; repeatable."
)
@click.option("--stable", is_flag=True, help="Clone or copy what would go by reference.")
@click.option("--lease", is_flag=True, help="Hold writers off the source while it is read.")
@click.option("--rate-limit", type=RATE, help="Bytes per second, at the most.")
@click.option("--stall-timeout", type=DURATION, help="Give up when nothing moves for so long.")
@click.option("--pipe-size", type=SIZE, help="Capacity of the private pipe (1M).")
@click.option("--explain", is_flag=True, help="Show plan and outcome on standard error.")
@click.option("--dry-run", is_flag=True, help="Show the plan; open, connect and create nothing.")
@click.option("--json", is_flag=True, help="Report in JSON Lines on standard error.")
@click.option("--json-fd", type=click.IntRange(0), metavar="N", help="JSON Lines on this fd.")
@click.option(
    "--progress",
    type=click.Choice(("auto", "always", "never")),
    default="auto",
    show_default=True,
    help="On a terminal after a second, always, or never.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress; errors only.")
def copy_command(src: str, dst: str, **options: Any) -> None:
    """Collect the wishes and carry them out."""
    if options["append"] and options["inplace"]:
        raise UsageError("--append and --inplace exclude each other")
    if options["via"] in options["no_via"]:
        raise UsageError(f"{options['via']} is both asked for (--via) and forbidden (--no-via)")
    shown = Shown(
        explain=options["explain"],
        json=options["json"] or options["json_fd"] is not None,
        json_fd=options["json_fd"],
        progress=options["progress"],
        quiet=options["quiet"],
        dry_run=options["dry_run"],
    )
    wishes = Wishes(
        offset=options["offset"],
        length=options["length"],
        append=options["append"],
        inplace=options["inplace"],
        sync=options["sync"],
        stable=options["stable"],
        lease=options["lease"],
        via=options["via"],
        without=frozenset(options["no_via"]),
        rate_limit=options["rate_limit"],
        stall_timeout=options["stall_timeout"],
        pipe_size=options["pipe_size"],
    )
    carry(src, dst, wishes, shown)


COMMAND: click.Command = copy_command
