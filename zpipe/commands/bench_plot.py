"""What was measured, as a picture: rate and processor time by size, a line for each technique.

The library is an extra (zpipe[plot]); it is loaded here by name, since nothing else may need it.
"""

from __future__ import annotations

import os
from importlib import import_module

from zpipe.commands.bench_table import size_text
from zpipe.errors import UsageError, open_failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from zpipe.bench.cells import Route
    from zpipe.bench.figures import Figure, Result
    from zpipe.bench.suites import Bench

FORMATS = (".svg", ".png")

# Colour and marker stay with a technique, whichever others are drawn; the colours are told apart
# by those who see few of them, too (Okabe and Ito).
_STYLES = {
    "read+write": ("#000000", "o"),
    "mmap+write": ("#E69F00", "s"),
    "sendfile": ("#0072B2", "^"),
    "splice": ("#D55E00", "v"),
    "copy_file_range": ("#009E73", "D"),
    "reflink": ("#CC79A7", "P"),
    "O_DIRECT": ("#888888", "X"),
    "tee": ("#56B4E9", "*"),
}
_PANEL = (3.7, 3.2)  # inches
_MOST_TICKS = 7


def judge_plot(path: str) -> None:
    """Find out before anything is measured whether the picture can be drawn.

    Raises: UsageError  the format is none of ours, the folder is not there, or the library is not.
    """
    if os.path.splitext(path)[1].lower() not in FORMATS:
        raise UsageError(f"--plot: {path}: not a picture: its name must end in .svg or .png")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise UsageError(f"--plot: {path}: the folder {folder} does not exist")
    try:
        import_module("matplotlib")
    except ImportError:
        raise UsageError(
            "--plot: needs matplotlib, which is not installed: pip install 'zpipe[plot]'"
        ) from None


def draw(bench: Bench, path: str) -> None:
    """Write the picture: a column for each route, rates above, processor time below.

    Raises: TransferError  the file cannot be written.
    """
    # without a display, and without the state that pyplot keeps
    figure_class = import_module("matplotlib.figure").Figure
    routes: list[Route] = []
    for result in bench.results:
        if result.cell.route not in routes:
            routes.append(result.cell.route)
    columns = max(1, len(routes))
    size = (_PANEL[0] * max(columns, 1.6), 2 * _PANEL[1] + 1.1)
    figure = figure_class(figsize=size, layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False, sharex="col", sharey="row")
    handles: dict[str, Any] = {}
    for column, route in enumerate(routes):
        mine = [result for result in bench.results if result.cell.route == route]
        rates, costs = panels[0][column], panels[1][column]
        rates.set_title(route.title)
        handles |= _lines(rates, mine, lambda result: result.rate, 4)
        _lines(costs, mine, lambda result: result.cpu, 10)
        _ticks(costs, sorted({result.cell.size for result in mine}))
        costs.set_xlabel("bytes at a time")
    for row, label in ((0, "throughput, bytes per second"), (1, "processor seconds per GiB")):
        panels[row][0].set_ylabel(label)
    for panel in panels[0]:
        panel.yaxis.set_major_formatter(lambda value, place: size_text(value))
    for panel in panels[1]:
        panel.yaxis.set_major_formatter(lambda value, place: f"{value:g}")
    figure.suptitle(
        f"zpipe bench, {bench.request.suite}: medians of {bench.outcome.rounds} rounds, with lowest"
        " and highest",
        fontsize="medium",
    )
    order = [name for name in _STYLES if name in handles]
    figure.legend(
        [handles[name] for name in order],
        order,
        loc="outside lower center",
        ncols=min(len(order), 8) or 1,
        frameon=False,
    )
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise open_failed(path, "write", error) from error


def _lines(
    panel: Any, results: list[Result], value: Callable[[Result], Figure], base: int
) -> dict[str, Any]:
    """Draw a line for each technique; return them by its name. `base`: that of the values' axis."""
    drawn = {}
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=base)
    panel.minorticks_off()
    panel.grid(True, which="major", alpha=0.3)
    for name, (colour, marker) in _STYLES.items():
        mine = [result for result in results if result.cell.technique == name]
        if not mine:
            continue
        figures = [value(result) for result in mine]
        medians = [each.median for each in figures]
        drawn[name] = panel.errorbar(
            [result.cell.size for result in mine],
            medians,
            yerr=[
                [each.median - each.low for each in figures],
                [each.high - each.median for each in figures],
            ],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.4,
            elinewidth=0.8,
            capsize=2,
        )
    return drawn


def _ticks(panel: Any, sizes: list[int]) -> None:
    every = -(-len(sizes) // _MOST_TICKS)
    shown = sizes[::every]
    panel.set_xticks(shown, [size_text(size) for size in shown], fontsize="small", rotation=30)
    panel.set_xticks([], minor=True)
