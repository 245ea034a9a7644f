"""`zpipe tee [OUT...]`."""

from __future__ import annotations

import signal
from typing import Any

import click

from zpipe.commands.carrying import carry
from zpipe.commands.option_types import SIZE, OneOf
from zpipe.commands.options import (
    heeded,
    moving,
    no_contradiction,
    policies,
    policy_of,
    showing,
    shown_of,
)
from zpipe.commands.pipelines import OUTPUT_ERRORS, TEE_DEFAULT, tee_graph, tee_policy
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.movers import MOVERS

EXAMPLES = """\b
Examples:
  make 2>&1 | zpipe tee build.log
  producer | zpipe tee copy.bin >(sha256sum >sum) tcp://mirror:9000 | consumer
  producer | zpipe tee '/run/tap?when_full=detach&detach_after=500ms' | consumer
  producer | zpipe tee --no-stdout --split-size 1G 'part-%04d.bin'
"""


class Tee(click.Command):
    """Reads `--output-error` without a value as GNU tee does: what follows is an operand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give the bare option the mode that it stands for."""
        end = args.index("--") if "--" in args else len(args)
        bare = f"--output-error={TEE_DEFAULT}"
        words = [bare if word == "--output-error" else word for word in args[:end]]
        return super().parse_args(ctx, words + args[end:])


@click.command(
    "tee",
    cls=Tee,
    epilog=EXAMPLES,
    help="""Copy standard input to standard output and to every OUT.

    OUT is a path (a file, a FIFO, what >(COMMAND) makes) or an address: tcp://HOST:PORT,
    unix:PATH, exec:COMMAND, hash:ALGORITHM; see zpipe-endpoints(7). Files are written in place,
    as they come. An OUT may end in ?when_full=POLICY, and in detach_after, spill_max, spill_dir
    and spill_then, for itself alone. Unlike GNU tee, one whose reader has gone ends nobody else:
    --output-error is warn-nopipe unless given.

    SIZE is like 64K, 1.5M or 1G, RATE a SIZE per second, TIME like 250ms, 10s or 1h30m.
    """,
)
@click.argument("outs", nargs=-1, metavar="[OUT]...")
@click.option("-a", "--append", is_flag=True, help="Add to the end of files (O_APPEND).")
@click.option("-i", "--ignore-interrupts", is_flag=True, help="Ignore SIGINT.")
@click.option("-p", "pipes", is_flag=True, help="The same as --output-error=warn-nopipe.")
@click.option(
    "--output-error",
    type=OneOf(tuple(OUTPUT_ERRORS)),
    metavar="[=MODE]",
    help="When an output fails: tell of it and go on (warn), or end (exit); warn-nopipe and"
    " exit-nopipe: a pipe whose reader has gone is no failure. Without MODE: warn-nopipe.",
)
@click.option("--no-stdout", is_flag=True, help="Leave standard output alone.")
@click.option(
    "--split-size", type=SIZE, help="Begin a new file after so many bytes: part-%04d.bin."
)
@policies()
@moving((*MOVERS, "tee"))
@showing()
def tee_command(outs: tuple[str, ...], **options: Any) -> None:
    """Collect the wishes and carry them out."""
    no_contradiction(options)
    mode = options["output_error"]
    if options["pipes"] and mode not in (None, TEE_DEFAULT):
        raise UsageError(f"-p and --output-error={mode} exclude each other")
    basis = tee_policy(mode or TEE_DEFAULT)
    policy = policy_of(options, on_error=basis.on_error, may_leave=basis.may_leave, sigpipe=False)
    if options["ignore_interrupts"]:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    wishes = Wishes(
        append=options["append"],
        inplace=not options["append"],
        lenient=True,
        stable=options["stable"],
        via=options["via"],
        without=frozenset(options["no_via"]),
        rate_limit=options["rate_limit"],
        stall_timeout=options["stall_timeout"],
        pipe_size=options["pipe_size"],
    )
    carry(
        lambda: heeded(
            tee_graph(
                outs,
                wishes,
                policy,
                standard_output=not options["no_stdout"],
                split_size=options["split_size"],
            ),
            options,
        ),
        shown_of(options),
    )


COMMAND: click.Command = tee_command
