"""`zpipe bench`."""

from __future__ import annotations

import os
from typing import Any

import click

from zpipe.bench.cells import OUTPUTS, ROUTES, TECHNIQUES
from zpipe.bench.suites import LOG_SIZE, SECONDS, SUITES
from zpipe.commands.option_types import DURATION, OneOf, number
from zpipe.commands.speaking import write_out
from zpipe.errors import TransferError, UsageError
from zpipe.spelling import one_of
from zpipe.units import format_size, parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.bench.suites import Bench, Request

EXAMPLES = """\b
Examples:
  zpipe bench
  zpipe bench --routes file-tcp --sizes 4K,64K,1M --seconds 10
  zpipe bench --suite broker --plot broker.svg
  zpipe bench --suite peers --sizes 256M --json | jq '.cells[].ratio.median'
"""

_CLEAR = b"\r\x1b[K"
_LARGEST = 1 << 40


class Names(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Some of a table's names, with commas between them."""

    name = "names"

    def __init__(self, known: Sequence[str]):
        self._known = tuple(known)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the names, each of which is in the table."""
        if not isinstance(value, str):
            return value
        names = value.split(",")
        for name in names:
            if name not in self._known:
                self.fail(f"{name or '(empty)'}: give {one_of(name, self._known)}", param, ctx)
        return tuple(dict.fromkeys(names))


class Sizes(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Sizes, with commas between them."""

    name = "sizes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the sizes in bytes, each of them once."""
        if not isinstance(value, str):
            return value
        try:
            sizes = {parse_size(word) for word in value.split(",")}
        except UsageError as error:
            self.fail(str(error), param, ctx)
        if not 0 < min(sizes) <= max(sizes) <= _LARGEST:
            self.fail(f"{value}: sizes are from 1 byte to {format_size(_LARGEST)}", param, ctx)
        return tuple(sorted(sizes))


@click.command(
    "bench",
    epilog=EXAMPLES,
    help="""Measure ways of carrying bytes side by side, on this machine.

    Beside throughput and processor time stand system calls, context switches and, by the model,
    the copies of each byte; and what textbooks say of them. It takes a bounded time, writes to
    nothing but a folder of its own, and says how noisy the machine was. SIZES, NAMES: several have
    commas between them. TIME is like 10s or 1m.
    """,
)
@click.option(
    "--suite",
    type=OneOf(SUITES),
    default=SUITES[0],
    show_default=True,
    help="The ways of zpipe itself; records of a message broker by mmap+write against sendfile;"
    " or whole programs that are installed, beside zpipe.",
)
@click.option(
    "--sizes",
    type=Sizes(),
    help="How many bytes at a time, 1 to 1T, such as 512,64K,1G.",
)
@click.option(
    "--routes",
    type=Names(tuple(ROUTES)),
    help=f"From where to where: {', '.join(ROUTES)}.",
)
@click.option(
    "--techniques",
    type=Names(tuple(TECHNIQUES)),
    help=f"Only these: {', '.join(TECHNIQUES)}.",
)
@click.option(
    "--outputs", type=number(2, 64), metavar="N", help=f"Pipes of pipe-pipes, 2 to 64 ({OUTPUTS})."
)
@click.option(
    "--seconds",
    type=DURATION,
    help=f"Take no longer than this ({SECONDS:g}s); what does not fit is left out, and told.",
)
@click.option(
    "--dir",
    "folder",
    metavar="DIR",
    help="Where files are written and read (TMPDIR, or /var/tmp).",
)
@click.option("--json", is_flag=True, help="Print a JSON document, with every round.")
@click.option("--csv", is_flag=True, help="Print a row of comma-separated values for each cell.")
@click.option(
    "--plot",
    metavar="FILE",
    help="Draw rate and processor time by size, as .svg or .png; needs zpipe[plot].",
)
def bench_command(**options: Any) -> None:
    """Measure, and show what was found."""
    request = _request(options)
    if options["json"] and options["csv"]:
        raise UsageError("--json and --csv exclude each other")
    if options["plot"] is not None:
        if request.suite == "peers":
            raise UsageError("--plot: has no effect with --suite peers")
        from zpipe.commands.bench_plot import judge_plot

        judge_plot(options["plot"])
    bench = _measured(request)
    _show(bench, json=options["json"], csv=options["csv"])
    if options["plot"] is not None and bench.results:
        from zpipe.commands.bench_plot import draw

        draw(bench, options["plot"])
    _complain(bench)


def _request(options: dict[str, Any]) -> Request:
    """Return what is asked for. Raises: UsageError  something of it has no effect."""
    from zpipe.bench.scratch import default_folder
    from zpipe.bench.suites import Request

    suite = options["suite"]
    if suite == "broker" and options["routes"] is not None:
        raise UsageError("--routes: has no effect with --suite broker")
    if suite != "techniques" and options["techniques"] is not None:
        raise UsageError(f"--techniques: has no effect with --suite {suite}")
    routes = options["routes"] or tuple(ROUTES)
    several = suite != "broker" and any(ROUTES[name].several for name in routes)
    if options["outputs"] is not None and not several:
        raise UsageError("--outputs: has no effect without the route pipe-pipes")
    sizes = options["sizes"] or ()
    if suite == "broker" and sizes and max(sizes) > LOG_SIZE:
        raise UsageError(
            f"--sizes: {format_size(max(sizes))}: the log of --suite broker has"
            f" {format_size(LOG_SIZE)}"
        )
    return Request(
        suite=suite,
        sizes=sizes,
        routes=routes,
        techniques=options["techniques"] or (),
        seconds=options["seconds"] or SECONDS,
        folder=options["folder"] or default_folder(),
        outputs=options["outputs"] or OUTPUTS,
    )


def _measured(request: Request) -> Bench:
    """Measure; on a terminal, tell how far it is.

    Raises: Interrupted, TransferError
    """
    from zpipe.bench.suites import run_suite
    from zpipe.commands.proxy_progress import draws, in_foreground
    from zpipe.engine.stop import Signals

    shown = draws(2) and in_foreground(2)

    def tell(text: str) -> None:
        if shown:
            os.write(2, _CLEAR + f"bench: {text}".encode())

    with Signals() as stop:
        try:
            return run_suite(request, stop, tell)
        finally:
            if shown:
                os.write(2, _CLEAR)


def _show(bench: Bench, *, json: bool, csv: bool) -> None:
    """Print what was found. Raises: TransferError, ConsumerGone  standard output took nothing."""
    if json or csv:
        from zpipe.commands import bench_document

        if json:
            from json import dumps

            text = dumps(bench_document.document(bench))
        else:
            text = bench_document.csv(bench)
    else:
        from zpipe.commands.bench_table import as_text, print_rich, table
        from zpipe.commands.proxy_progress import draws

        if draws(1):
            print_rich(bench)
            return
        text = as_text(table(bench))
    write_out(text)


def _complain(bench: Bench) -> None:
    """Raise: TransferError  something has failed, or the time was too short for anything."""
    problems = [
        f"{cell.route.name}: {cell.technique} of {format_size(cell.size)}: {why}"
        for cell, why in bench.outcome.failed.items()
    ]
    if problems:
        error = TransferError(problems[0])
        error.args = tuple(problems)
        raise error
    if not bench.results and bench.outcome.left_out:
        raise TransferError(
            f"bench: measure: {bench.request.seconds:g} s are too short for any of it:"
            " give more --seconds, or smaller --sizes"
        )


COMMAND: click.Command = bench_command
