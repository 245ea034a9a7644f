"""`zpipe run FILE`."""

from __future__ import annotations

import os
from typing import Any

import click

from zpipe.commands.loading import parameters, show_plan_of
from zpipe.commands.options import showing, shown_of
from zpipe.commands.records import Lines, Records
from zpipe.errors import TransferError, UsageError, ZpipeError, open_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.commands.carrying import Shown
    from zpipe.commands.records import Record
    from zpipe.graph.model import Graph
    from zpipe.recipe.build import Built

    Take = Callable[[Record], None]

EXAMPLES = """\b
Examples:
  zpipe run nightly.yaml
  zpipe run backup.yaml -p SOURCE=/dev/sdb -p HOST=10.0.0.7
  zpipe run backup.yaml --dry-run
  zpipe run merge.yaml --report run.json
"""


@click.command(
    "run",
    epilog=EXAMPLES,
    help="""Carry out the recipe in FILE: its streams until they are done, its proxies until they
    are stopped.

    FILE is written as zpipe-recipe(5) says; - is standard input. SIGTERM and SIGINT end it, SIGHUP
    reads the proxies of the recipe anew, SIGUSR1 writes a line for each hop.
    """,
)
@click.argument("file", metavar="FILE")
@parameters()
@showing()
@click.option("--report", metavar="FILE", help="Write the JSON Lines to FILE, too.")
def run_command(file: str, **options: Any) -> None:
    """Load the recipe, and carry it out."""
    from zpipe.recipe.load import load
    from zpipe.recipe.params import given

    shown = shown_of(options)
    values = given(options["params"])
    report = None
    try:
        built = load(file, values)
        if shown.dry_run:
            show_plan_of(built, json=_on_stderr(shown))
            return
        if built.graph is not None:
            _foresee(built.graph)
        if options["report"] is not None:
            report = _report(options["report"])
    except ZpipeError as error:
        for out in _outs(shown):
            Records(out).ended_by(error)
        error.told = error.told or _on_stderr(shown)
        raise
    if built.graph is not None and not built.settings:
        _carry(built, built.graph, shown, report)
        return

    def again() -> Built:
        if file == "-":
            raise UsageError("-: standard input cannot be read again")
        return load(file, values)

    _serve(built, shown, report, again)


def _outs(shown: Shown) -> list[Take]:
    """Return where records go. Raises: UsageError  an fd is not open for writing."""
    if not shown.json:
        return []
    return [Lines(2 if shown.json_fd is None else shown.json_fd)]


def _on_stderr(shown: Shown) -> bool:
    """Tell whether standard error belongs to the records."""
    return shown.json and shown.json_fd is None


def _foresee(graph: Graph) -> None:
    """Refuse what is certain to be refused, while nothing is open.

    Raises: ZpipeError  with all of it.
    """
    from zpipe.engine.forecast import forecast

    try:
        forecast(graph)
    except TransferError:
        # those that may fail are told of when they do
        if all(node.on_error == "stop" for node in graph.nodes):
            raise


def _report(path: str) -> Take:
    """Return what writes records to a file that is begun anew. Raises: TransferError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise open_failed(path, "open", error) from error
    return Lines(fd)


def _carry(built: Built, graph: Graph, shown: Shown, report: Take | None) -> None:
    """Carry streams alone, in this process."""
    from zpipe.commands.board import Board
    from zpipe.commands.carrying import carry
    from zpipe.commands.run_progress import Screen, Watched

    def speaker(shown: Shown) -> Watched:
        screen = Screen(Board(_edges(graph)), built.name, when=shown.progress, quiet=shown.quiet)
        return Watched(screen, explain=shown.explain)

    records = [] if report is None else [Records(report)]
    metrics = None
    if built.operation.metrics is not None:
        from zpipe.commands.hop_metrics import HopCollector
        from zpipe.proxy.metrics import MetricsServer

        board = Board(_edges(graph))
        collector = HopCollector(board, built.name)
        metrics = MetricsServer(built.operation.metrics, None, collectors=[collector])
        records.append(Records(board.take))
    try:
        carry(lambda: graph, shown, speaker=speaker, records=records)
    finally:
        if metrics is not None:
            metrics.close()


def _serve(built: Built, shown: Shown, report: Take | None, reload: Callable[[], Built]) -> None:
    """Serve proxies here, and carry streams beside, if there are any."""
    from zpipe.commands.board import Board
    from zpipe.commands.run_progress import Screen
    from zpipe.commands.run_proxies import Served

    outs = [*_outs(shown), *([] if report is None else [report])]
    board = Board(() if built.graph is None else _edges(built.graph))
    screen = None
    if not _on_stderr(shown):
        screen = Screen(board, built.name, when=shown.progress, quiet=shown.quiet)
    try:
        Served(built, outs, screen, board, reload, explain=shown.explain, quiet=shown.quiet).run()
    except ZpipeError as error:
        error.told = error.told or screen is None
        raise


def _edges(graph: Graph) -> list[tuple[str, str]]:
    return [(edge.source, edge.sink) for edge in graph.edges]


COMMAND: click.Command = run_command
