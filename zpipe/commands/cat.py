"""`zpipe cat [SRC...]`."""

from __future__ import annotations

from typing import Any

import click

from zpipe.commands.carrying import carry
from zpipe.commands.option_types import DURATION, SIZE
from zpipe.commands.options import moving, no_contradiction, not_here, showing, shown_of
from zpipe.commands.pipelines import cat_graph
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.movers import MOVERS
from zpipe.values import replace

EXAMPLES = """\b
Examples:
  zpipe cat part-* > whole
  pg_dump db | zpipe cat --stats --rate-limit 20M | ssh backup 'cat > db.sql'
  zpipe cat --progress always --size 4G /dev/sda1 | zstd > sda1.zst
  zpipe cat --hash sha256 --hash-file image.sum image | gzip > image.gz
"""

_CHANGES = {
    "-A": "--show-all",
    "-b": "--number-nonblank",
    "-e": "",
    "-E": "--show-ends",
    "-n": "--number",
    "-s": "--squeeze-blank",
    "-t": "",
    "-T": "--show-tabs",
    "-v": "--show-nonprinting",
}


@click.command(
    "cat",
    epilog=EXAMPLES,
    help="""Write every SRC, one after the other, to standard output; and measure it on the way.

    SRC is a path, - for standard input (also when there is no SRC), or an address like
    tcp://HOST:PORT or exec:COMMAND; see zpipe-endpoints(7). One that cannot be read is told of,
    the others follow, and the exit status is 1.

    SIZE is like 64K, 1.5M or 1G, RATE a SIZE per second, TIME like 250ms, 10s or 1h30m.
    """,
)
@click.argument("sources", nargs=-1, metavar="[SRC]...")
@click.option("--bytes", "--count", "count", type=SIZE, help="Stop after this many bytes.")
@click.option(
    "--buffer",
    type=SIZE,
    help="Read ahead of the output by so much: in pipes, beyond 3M in an unnamed file in TMPDIR"
    " or /var/tmp.",
)
@click.option(
    "--hash",
    "hashes",
    multiple=True,
    metavar="ALG",
    help="Print on standard error the digest of what passes: sha256, md5, blake2b, ...;"
    " repeatable.",
)
@click.option("--hash-file", metavar="FILE", help="Write the digest there instead.")
@moving((*MOVERS, "tee"))
@click.option("--stats", is_flag=True, help="At the end: bytes, rates, and the slow side.")
@click.option("--size", type=SIZE, help="How many bytes to expect, for the display.")
@click.option("--name", metavar="TEXT", help="What the display calls it (SRC -> output).")
@click.option(
    "--interval",
    type=DURATION,
    help="Time between two looks of display and stats (1s, on a terminal 0.2s).",
)
@click.option("-u", "ignored", is_flag=True, help="Ignored: nothing is ever held back.")
@not_here(_CHANGES, "zpipe moves bytes and does not change them; cat does")
@showing()
def cat_command(sources: tuple[str, ...], **options: Any) -> None:
    """Collect the wishes and carry them out."""
    no_contradiction(options)
    if options["hash_file"] is not None and len(options["hashes"]) != 1:
        raise UsageError("--hash-file: give one --hash for it")
    if options["hash_file"] == "-":
        raise UsageError("--hash-file -: standard output carries the bytes: give a file")
    wishes = Wishes(
        total=options["count"],
        stable=options["stable"],
        via=options["via"],
        without=frozenset(options["no_via"]),
        rate_limit=options["rate_limit"],
        stall_timeout=options["stall_timeout"],
        pipe_size=options["pipe_size"],
        skip=True,
    )
    shown = replace(
        shown_of(options),
        stats=options["stats"],
        size=options["size"],
        name=options["name"],
        interval=options["interval"],
    )
    carry(
        lambda: cat_graph(
            sources,
            wishes,
            buffer=options["buffer"],
            hashes=options["hashes"],
            hash_file=options["hash_file"],
        ),
        shown,
    )


COMMAND: click.Command = cat_command
