"""What was measured, for people: a table for each route, and what is to be made of it.

Lines of text, each with the kind of line that it is; on a terminal they are coloured by that.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from zpipe.bench.noise import described
from zpipe.bench.suites import Bench
from zpipe.bench.textbook import differences
from zpipe.commands.bench_document import winner
from zpipe.commands.explain import number
from zpipe.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zpipe.bench.cells import Cell, Route
    from zpipe.bench.figures import Crossing, Figure, Result

WIDTH = 100  # where there is no terminal
_CLOSE = 0.05  # nobody is better by less
_MARK = {"wide spread": "?", "few rounds": "!"}

_HEADS = {
    "techniques": "SIZE TECHNIQUE CPU DMA CALLS VOL INVOL USER SYS RATE SPREAD ?",
    "broker": "SIZE TECHNIQUE CPU DMA CALLS VOL INVOL USER SYS RATE SPREAD ?",
    "peers": "SIZE PROGRAM VOL INVOL USER SYS TIME RATE SPREAD RATIO CPU-RATIO ?",
}
_LEFT = ("SIZE", "TECHNIQUE", "PROGRAM", "ROUTE", "?")
# left out in this order where the terminal is narrow
_SPARED = ("DMA", "SPREAD", "INVOL", "VOL", "CPU-RATIO", "TIME", "CALLS")

_LEGEND = {
    "techniques": (
        "A row moves SIZE bytes at a time, each by a transfer of its own: its buffer, pipe or"
        " mapping is made anew, and the files are in the page cache.",
        "CPU, DMA: copies of each byte, by the model of the plan; not measured.",
        "CALLS: system calls for each MiB, as the movers count them, waiting included.",
    ),
    "broker": (
        "A row sends records of SIZE bytes, one after the other, from a log of 64 MiB to a"
        " consumer: each is written from a mapping of the log, or sent by sendfile.",
        "CPU, DMA: copies of each byte, by the model of the plan; not measured.",
        "CALLS: system calls for each MiB, waiting included.",
    ),
    "peers": (
        "Whole programs, their start included; the files are in the page cache.",
        "RATIO: time by that of zpipe in the same round, CPU-RATIO the same of processor time:"
        " above 1, zpipe is better.",
    ),
}
_COMMON = (
    "VOL, INVOL: context switches for each GiB, voluntary and not. USER, SYS: processor seconds for"
    " each GiB; their sum is exact, the kernel parts it by the tick.",
    "All are medians; SPREAD is from the lowest to the highest rate, by the median.",
    "?: rounds differ too much to judge by. !: too few rounds to tell.",
)


@dataclass(frozen=True, slots=True)
class Line:
    """`kind`: title, head, row, doubt, note, or blank."""

    kind: str
    text: str = ""


def table(bench: Bench, width: int = WIDTH) -> list[Line]:
    """Return all that is shown, for a terminal of so many columns."""
    suite = bench.request.suite
    lines = [
        Line(
            "title",
            f"{suite}: {_counted(bench.outcome.rounds, 'round')} in {bench.seconds:.0f} s",
        ),
        *_wrapped(described(bench.machine), width),
    ]
    for route in _routes(bench):
        lines += [Line("blank"), *_route(bench, route, width)]
    lines.append(Line("blank"))
    for text in (*_LEGEND[suite], *_COMMON):
        lines += _wrapped(text, width)
    if suite == "techniques":
        lines += _in_short(bench, width)
        lines += _by_the_book(bench, width)
    if suite == "broker":
        lines += [Line("blank"), *_crossings(bench, width)]
    return [*lines, Line("blank"), *_noise(bench, width)]


def as_text(lines: Iterable[Line]) -> str:
    """Return plain text."""
    return "\n".join(line.text.rstrip() for line in lines)


def print_rich(bench: Bench) -> None:
    """Print on a terminal, as wide as it is; loads the library."""
    from rich.console import Console
    from rich.text import Text

    styles = {"title": "bold", "head": "dim", "doubt": "yellow", "note": "dim"}
    console = Console()
    for line in table(bench, console.width):
        console.print(Text(line.text, style=styles.get(line.kind, "")), soft_wrap=True)


# One route


def _routes(bench: Bench) -> list[Route]:
    outcome = bench.outcome
    cells: list[Cell] = [result.cell for result in bench.results]
    for others in (outcome.refused, outcome.left_out, outcome.failed):
        cells += others
    routes: list[Route] = []
    for cell in cells:
        if cell.route not in routes:
            routes.append(cell.route)
    return routes


def _route(bench: Bench, route: Route, width: int) -> list[Line]:
    results = [result for result in bench.results if result.cell.route == route]
    title = route.title
    if route.several:
        title += f" ({bench.request.outputs} of them)"
    lines = [Line("title", title)]
    if results:
        heads = _HEADS[bench.request.suite].split()
        rows, doubts = [], []
        before = 0
        for result in results:
            cells = _cells(bench, result)
            if result.cell.size == before:
                cells["SIZE"] = ""
            before = result.cell.size
            rows.append(tuple(cells[head] for head in heads))
            doubts.append(bool(result.doubt))
        lines += _grid(heads, rows, doubts, width)
    for word, others in (
        ("not here", bench.outcome.refused),
        ("left out", bench.outcome.left_out),
        ("failed", bench.outcome.failed),
    ):
        for text in _gathered(bench, route, others):
            lines += _wrapped(f"{word}: {text}", width, "  ")
    return lines


def _cells(bench: Bench, result: Result) -> dict[str, str]:
    cost, calls, rate = result.cost, result.calls, result.rate
    seconds = result.cell.size / rate.median
    return {
        "SIZE": size_text(result.cell.size),
        "TECHNIQUE": result.cell.technique,
        "PROGRAM": result.cell.technique,
        "CPU": "" if cost is None else number(cost.cpu_copies),
        "DMA": "" if cost is None else number(cost.dma_copies),
        "CALLS": "" if calls is None else number(calls.median),
        "VOL": _count(result.voluntary.median),
        "INVOL": _count(result.involuntary.median),
        "USER": _seconds(result.user),
        "SYS": _seconds(result.system),
        "TIME": f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s",
        "RATE": f"{format_size(rate.median)}/s",
        "SPREAD": _spread(rate),
        "RATIO": _ratio(bench.ratio(result)),
        "CPU-RATIO": _ratio(bench.ratio(result, cpu=True)),
        "?": _MARK.get(result.doubt, ""),
    }


def _grid(
    heads: Sequence[str], rows: Sequence[tuple[str, ...]], doubts: Sequence[bool], width: int
) -> list[Line]:
    """Return a head and rows with the columns below each other, as many as fit."""
    kept = list(range(len(heads)))
    widths = [
        max(len(head), *(len(row[place]) for row in rows)) for place, head in enumerate(heads)
    ]
    for name in _SPARED:
        if 2 * len(kept) + sum(widths[place] for place in kept) <= width:
            break
        kept = [place for place in kept if heads[place] != name]

    def line(cells: Sequence[str]) -> str:
        parts = [
            cells[place].ljust(widths[place])
            if heads[place] in _LEFT
            else cells[place].rjust(widths[place])
            for place in kept
        ]
        return "  " + "  ".join(parts).rstrip()

    head = ["" if name == "?" else name for name in heads]
    return [
        Line("head", line(head)),
        *(
            Line("doubt" if doubt else "row", line(row))
            for row, doubt in zip(rows, doubts, strict=True)
        ),
    ]


def _gathered(bench: Bench, route: Route, cells: Mapping[Cell, str]) -> list[str]:
    """Return a text for each reason, with all that have it; sizes where not all of them have."""
    asked = sorted({cell.size for cell in cells} | {result.cell.size for result in bench.results})
    by_technique: dict[tuple[str, str], list[int]] = {}
    for cell, why in cells.items():
        if cell.route == route:
            by_technique.setdefault((why, cell.technique), []).append(cell.size)
    by_reason: dict[tuple[str, str], list[str]] = {}
    for (why, technique), sizes in by_technique.items():
        of = "" if sorted(sizes) == asked else f" of {', '.join(map(size_text, sorted(sizes)))}"
        by_reason.setdefault((why, of), []).append(technique)
    return [f"{', '.join(names)}{of}: {why}" for (why, of), names in by_reason.items()]


# What is to be made of it


def _in_short(bench: Bench, width: int) -> list[Line]:
    """Return who is best, by processor time and by rate, where there is more than one to choose."""
    sizes = sorted({result.cell.size for result in bench.results})
    lines: list[Line] = []
    for title, better in (("Least processor time", _cheaper), ("Highest rate", _quicker)):
        rows = []
        for route in _routes(bench):
            cells = []
            for size in sizes:
                mine = [
                    result
                    for result in bench.results
                    if result.cell.route == route and result.cell.size == size
                ]
                cells.append(better(mine))
            if any(cells):
                rows.append((route.title, *cells))
        if not rows:
            continue
        heads = ("ROUTE", *map(size_text, sizes))
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines += [Line("blank"), Line("title", f"{title} (~: others are as good)")]
        if 2 * len(widths) + sum(widths) > width:
            for name, *cells in rows:
                pairs = zip(heads[1:], cells, strict=True)
                each = ", ".join(f"{size} {cell}" for size, cell in pairs if cell)
                lines += _wrapped(f"{name}: {each}", width, "  ", kind="row")
            continue
        for place, row in enumerate((heads, *rows)):
            text = "  ".join(cell.ljust(each) for cell, each in zip(row, widths, strict=True))
            lines.append(Line("head" if place == 0 else "row", f"  {text}".rstrip()))
    return lines


def _cheaper(results: Sequence[Result]) -> str:
    return _best([(result, result.cpu, result.cpu.median) for result in results])


def _quicker(results: Sequence[Result]) -> str:
    return _best([(result, result.rate, 1 / result.rate.median) for result in results])


def _best(found: Sequence[tuple[Result, Figure, float]]) -> str:
    """Return the name with the least value, whether the next one is within what rounds vary, and
    whether either of them is in doubt.
    """
    if len(found) < 2:
        return ""
    first, second, *_ = sorted(found, key=lambda each: each[2])
    close = second[2] <= first[2] * (1 + max(_CLOSE, first[1].spread, second[1].spread))
    doubt = _MARK.get(first[0].doubt or second[0].doubt, "")
    return " ".join(filter(None, (first[0].cell.technique, "~" if close else "", doubt)))


def _by_the_book(bench: Bench, width: int) -> list[Line]:
    rows = []
    notes: list[list[str]] = []
    for entry, found in bench.by_the_book():
        here = ("", "", "", "not measured")
        if found is not None:
            where = f"{found.route}, {size_text(found.size)}"
            cost = found.cost
            here = (
                number(cost.cpu_copies),
                number(cost.dma_copies),
                number(found.switches),
                where,
            )
        rows.append((entry.title, str(entry.cpu), str(entry.dma), str(entry.switches), *here))
        notes.append([] if found is None else differences(entry, found))
    head = ("", "CPU", "DMA", "SWITCH", "CPU", "DMA", "SWITCH", "MEASURED")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(each) if place in (0, 7) else cell.rjust(each)
            for place, (cell, each) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"  {'  '.join(aligned[:4])}  |{'  '.join(['', *aligned[4:]])}".rstrip()

    lines = [
        Line("blank"),
        Line(
            "title",
            "Textbooks, and here for one transfer (copies by the model, mode switches counted)",
        ),
        Line("head", line(head)),
    ]
    shared = {text: names for text, names in _named(rows, notes).items() if len(names) > 1}
    for row, differing in zip(rows, notes, strict=True):
        lines.append(Line("row", line(row)))
        for text in differing:
            if text not in shared:
                lines += _wrapped(text, width, "      ")
    for text, names in shared.items():
        lines += _wrapped(f"{', '.join(names)}: {text}", width, "  ")
    return lines


def _named(rows: Sequence[tuple[str, ...]], notes: Sequence[list[str]]) -> dict[str, list[str]]:
    """Return all notes, each with the rows that it is about."""
    found: dict[str, list[str]] = {}
    for row, texts in zip(rows, notes, strict=True):
        for text in texts:
            found.setdefault(text, []).append(row[0])
    return found


def _crossings(bench: Bench, width: int) -> list[Line]:
    found = bench.crossings()
    texts = [
        _crossing(found["cpu"], "processor time"),
        _crossing(found["rate"], "rate"),
        "The rate is bound by the consumer too, which copies what it reads; the processor time is"
        " the sender's alone.",
    ]
    return [
        Line("title", "Where they cross"),
        *(line for text in texts for line in _wrapped(text, width, "  ", kind="row")),
    ]


def _crossing(found: Crossing, what: str) -> str:
    if found.size is None or found.between is None:
        return f"By {what}: nowhere; {winner(found)} is better at all sizes, or as good."
    low, high = map(size_text, found.between)
    return (
        f"By {what}: at about {format_size(found.size)}, between {low} and {high}:"
        " below, mmap+write is better, above, sendfile."
    )


def _noise(bench: Bench, width: int) -> list[Line]:
    noise = bench.noise
    median, low, high = (seconds * 1000 for seconds in noise.loop)
    parts = [
        f"A loop that should always take the same time took {median:.2f} ms"
        f" ({low:.2f} to {high:.2f})",
        f"load {noise.load[0]:.2f} before, {noise.load[1]:.2f} after",
        f"governor {noise.governor}" if noise.governor else "CPU frequency governor not known",
    ]
    if noise.stolen is not None:
        parts.append(f"{noise.stolen:.1%} stolen by other virtual machines")
    reasons = noise.reasons
    verdict = (
        f"The machine was noisy: {'; '.join(reasons)}." if reasons else "The machine was quiet."
    )
    return [
        Line("title", "Noise"),
        *_wrapped(verdict, width, "  ", kind="doubt" if reasons else "row"),
        *_wrapped(f"{'; '.join(parts)}.", width, "  "),
    ]


# Figures


def size_text(count: float) -> str:
    """Return a size as it is asked for: `4 KiB`."""
    number, _, unit = format_size(count).partition(" ")
    return f"{number.rstrip('0').rstrip('.') if '.' in number else number} {unit}"


def _count(value: float) -> str:
    if value >= 999_500:
        return f"{value / 1e6:.1f}M"
    return f"{value / 1e3:.0f}k" if value >= 9_950 else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 9.995 else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _spread(found: Figure) -> str:
    low, high = (value / found.median - 1 for value in (found.low, found.high))
    return f"{low * 100:+.0f}..{high * 100:+.0f}%"


def _ratio(found: Figure | None) -> str:
    return "" if found is None else f"{found.median:.2f}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _wrapped(text: str, width: int, indent: str = "", *, kind: str = "note") -> list[Line]:
    return [
        Line(kind, line)
        for line in textwrap.wrap(
            text,
            max(40, width),
            initial_indent=indent,
            subsequent_indent=indent + ("  " if indent else ""),
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
