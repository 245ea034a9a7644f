"""`zpipe cp SRC DST`, and `zpipe cp SRC --to DST --to DST`."""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.carrying import carry
from zpipe.commands.options import (
    SIZE,
    heeded,
    moving,
    no_contradiction,
    policies,
    policy_of,
    showing,
    shown_of,
)
from zpipe.engine.copy import fan_out
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.movers import MOVERS

EXAMPLES = """\b
Examples:
  zpipe cp --explain disk.img /mnt/backup/
  zpipe cp disk.img tcp://backup:9000
  zpipe cp --rate-limit 50M tcp-listen://:9000 disk.img
  zpipe cp --sync - /dev/sdb < disk.img
  zpipe cp disk.img --to /mnt/a/ --to /mnt/b/ --to tcp://backup:9000
"""


@click.command(
    "cp",
    epilog=EXAMPLES,
    help="""Move one source to one sink, or to several by one reading, by the quickest way that the
    kernel grants.

    SRC and DST are paths, - for standard input or output, or addresses: tcp://HOST:PORT,
    tcp-listen://HOST:PORT, unix:PATH, unix-listen:PATH, exec:COMMAND, pipe:PATH, fd:N, null:,
    zero:, pattern:SEED; see zpipe-endpoints(7). A DST that is a directory gets a file of the
    same name. A regular DST is complete or is not there: it is written under a temporary name
    and renamed.
    """,
)
@click.argument("operands", nargs=-1, metavar="SRC [DST]")
@click.option(
    "-t", "--to", multiple=True, metavar="DST", help="Copy to DST; repeatable: by one reading."
)
@click.option("--offset", type=SIZE, default=0, help="Begin at this byte of the source.")
@click.option("--length", type=SIZE, help="Stop after this many bytes.")
@click.option("--append", is_flag=True, help="Add to the end of DST (O_APPEND), in place.")
@click.option("--inplace", is_flag=True, help="Truncate DST and write to it, as cp does.")
@click.option(
    "--sync", is_flag=True, help="Make DST durable (fsync) before saying that it is done."
)
@moving((*MOVERS, "tee"))
@click.option("--lease", is_flag=True, help="Hold writers off the source while it is read.")
@policies()
@showing()
def copy_command(operands: tuple[str, ...], to: tuple[str, ...], **options: Any) -> None:
    """Collect the wishes and carry them out."""
    if options["append"] and options["inplace"]:
        raise UsageError("--append and --inplace exclude each other")
    no_contradiction(options)
    src, sinks = _sides(operands, to)
    policy = policy_of(options)
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
    carry(
        lambda: heeded(fan_out(src, sinks, wishes, policy), options),
        shown_of(options),
    )


def _sides(operands: tuple[str, ...], to: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return source and sinks. With --to every operand is a source, as with -t of cp.

    Raises: UsageError  too few, or too many.
    """
    if not operands:
        raise UsageError("cp: give a source")
    if to:
        if len(operands) > 1:
            raise UsageError(
                f"cp: {operands[1]}: with --to every operand is a source, and only one can be read"
            )
        return operands[0], to
    if len(operands) == 1:
        raise UsageError(f"cp: {operands[0]}: give a DST after it")
    if len(operands) > 2:
        raise UsageError(f"cp: {operands[2]}: more than SRC and DST; for several sinks: --to DST")
    return operands[0], operands[1:]


COMMAND: click.Command = copy_command
