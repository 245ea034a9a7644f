"""`zpipe graph FILE`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from zpipe.commands.board import DONE, Board, beyond
from zpipe.commands.loading import foreseen_proxies, parameters
from zpipe.commands.option_types import OneOf
from zpipe.commands.speaking import columns, write_out
from zpipe.errors import TransferError, UsageError, ZpipeError, open_failed, reason
from zpipe.graph.drawings import FORMATS, Page, draw
from zpipe.graph.model import Graph
from zpipe.graph.picture import Flow, Picture, add_proxy, picture_of
from zpipe.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zpipe.engine.forecast import Foreseen
    from zpipe.proxy.settings import Settings
    from zpipe.recipe.build import Built

    Join = tuple[str, str]

EXAMPLES = """\b
Examples:
  zpipe graph backup.yaml
  zpipe graph backup.yaml -o backup.svg
  zpipe graph backup.yaml --report run.json
  zpipe graph proxy.yaml --format mermaid >> README.md
"""

_WIDTH = 100  # where there is no terminal
_LARGEST = 1 << 30  # bytes of a report that are read
_BY_NAME = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".mermaid": "mermaid"}


@click.command(
    "graph",
    epilog=EXAMPLES,
    help="""Draw what the recipe in FILE joins, with the movers that would carry each edge.

    Files that exist are looked at; nothing is connected to, created or started. With the report of
    a run, which may still go on, there are the movers that did carry them, and bytes and rates. -
    is standard input.
    """,
)
@click.argument("file", metavar="FILE")
@parameters()
@click.option(
    "--format",
    "form",
    type=OneOf(tuple(FORMATS)),
    help="How to draw it (what the name of the OUTPUT says, or text).",
)
@click.option("-o", "--output", metavar="OUTPUT", help="Write to this file.")
@click.option("--report", metavar="REPORT", help="Draw what happened: the JSON Lines of zpipe run.")
def graph_command(
    file: str, params: tuple[str, ...], form: str | None, output: str | None, report: str | None
) -> None:
    """Load the recipe, find out what is to be told of its edges, and draw."""
    from zpipe.recipe.load import load
    from zpipe.recipe.params import given

    if output is not None and form is None:
        form = _BY_NAME.get(os.path.splitext(output)[1].lower())
    built = load(file, given(params))
    form = form or "text"
    picture = _planned(built, form) if report is None else _reported(built, report)
    text = draw(picture, form, _page(output))
    if output is None:
        write_out(text.removesuffix("\n"))
    else:
        _write(output, text)


def _page(output: str | None) -> Page:
    """Return what text is drawn on."""
    encoding = sys.getfilesystemencoding()
    return Page(_WIDTH if output is not None else columns(_WIDTH), encoding)


def _write(path: str, text: str) -> None:
    """Write a drawing to a file. Raises: TransferError."""
    act = "open"
    try:
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            act = "write"
            file.write(text)
    except OSError as error:
        raise open_failed(path, act, error) from error


# What would happen


def _planned(built: Built, form: str) -> Picture:
    """Return the picture of what can be foreseen; in text there is no place for reasons."""
    graph = built.graph or Graph((), ())
    movers: dict[Join, str] = {}
    notes: dict[Join, str] = {}
    for hop in _foreseen(graph):
        first = hop.plan.first
        for join in _joins(hop):
            movers[join] = first.name
            if form != "text":
                notes[join] = "; ".join(part for part in (first.summary, first.caveat) if part)
    picture = picture_of(graph, movers, title=built.name, notes=notes)
    return _with_proxies(picture, built, {})


def _foreseen(graph: Graph) -> list[Foreseen]:
    """Return the hops of which enough is known; those of an end that is refused are left out."""
    from zpipe.engine.forecast import forecast

    if not graph.edges:
        return []
    try:
        return forecast(graph)
    except ZpipeError:
        pass
    found: list[Foreseen] = []
    into: dict[str, int] = {}
    for edge in graph.edges:
        into[edge.sink] = into.get(edge.sink, 0) + 1
    for source in dict.fromkeys(edge.source for edge in graph.edges):
        edges = tuple(edge for edge in graph.edges if edge.source == source)
        if any(into[edge.sink] > 1 for edge in edges):
            continue  # how it is joined with others hangs on all of them
        names = {source, *(edge.sink for edge in edges)}
        try:
            found += forecast(Graph(tuple(n for n in graph.nodes if n.id in names), edges))
        except ZpipeError:
            continue
    return found


def _joins(hop: Foreseen) -> Iterable[Join]:
    """Return the edges of the user's graph that a hop carries."""
    return [(hop.source.id, name) for sink in hop.sinks for name in beyond(sink.id)]


def _with_proxies(picture: Picture, built: Built, labels: Mapping[str, str]) -> Picture:
    """Return the picture with the proxies in it."""
    movers = {name: hops[0].plan.first.name for name, hops in foreseen_proxies(built) if hops}
    for settings in built.settings:
        mover = movers.get(settings.name, "")
        upstreams = [each.address.text for each in settings.upstreams]
        names = _routes(settings)
        picture = add_proxy(
            picture,
            settings.name,
            [address.text for address in settings.listen],
            [*names, *upstreams],
            [mirror.address.text for mirror in settings.mirrors],
            settings.capture.directory if settings.capture is not None else "",
            mover=mover,
            mirror_mover=mover,
            labels={**names, **labels},
        )
    return picture


def _routes(settings: Settings) -> dict[str, str]:
    """Return the servers of routes, with the names that lead there."""
    found: dict[str, list[str]] = {}
    for route in settings.routes:
        for upstream in route.upstreams:
            found.setdefault(upstream.address.text, []).append(route.pattern)
    return {text: ", ".join(patterns) for text, patterns in found.items()}


# What happened


def _reported(built: Built, path: str) -> Picture:
    """Return the picture of what a report tells. Raises: UsageError  it is none, or of another."""
    graph = built.graph or Graph((), ())
    board = Board((edge.source, edge.sink) for edge in graph.edges)
    known = len(board.rows)
    labels: dict[str, str] = {}
    told = 0
    for record in _records(path):
        try:
            told += len(board.take(record))
            if record["type"] == "proxy":
                labels = _moved_by_proxies(record)
                told += 1
        except (KeyError, TypeError, ValueError, AttributeError):
            raise UsageError(f"{path}: holds records that zpipe run does not write") from None
    if len(board.edges) > known or not told:
        raise UsageError(f"{path}: is no report of {built.document.name}: it tells of other nodes")
    rows = [row for row in board.edges if row.begun]
    picture = picture_of(
        graph,
        {(row.source, row.sink): row.mover for row in rows},
        title=built.name,
        flows={(row.source, row.sink): Flow(row.rate, row.bytes) for row in rows},
        notes={(row.source, row.sink): row.error or row.state for row in rows if row.state != DONE},
    )
    return _with_proxies(picture, built, labels)


def _moved_by_proxies(record: Mapping[str, Any]) -> dict[str, str]:
    """Return what went to and from upstreams, and to mirrors, by their names."""
    labels = {
        each["name"]: f"↑ {format_size(each['up'])} ↓ {format_size(each['down'])}"
        for each in record.get("upstreams", ())
    }
    mirrors = {each["name"]: format_size(each["bytes"]) for each in record.get("mirrors", ())}
    return {**labels, **mirrors}


def _records(path: str) -> Iterable[Mapping[str, Any]]:
    """Yield the records of a report; what is being written at its end is left out.

    Raises: TransferError  it cannot be read.
            UsageError     it is no report.
    """
    import json

    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST)
    except OSError as error:
        raise TransferError(f"{path}: open: {reason(error)}", errno=error.errno) from error
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
            if number == len(lines) and number > 1:
                return  # more of it is to come
        if not isinstance(record, dict) or record.get("v") != 1 or "type" not in record:
            raise UsageError(
                f"{path}:{number}: is no record of zpipe run: give what --report or --json wrote"
            )
        yield record


COMMAND: click.Command = graph_command
