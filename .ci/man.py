"""Rewrite the tables of the manual from the program's own tables; the prose is by hand.

A table stands in its page between two comments, `.\\" begin: NAME` and `.\\" end: NAME`, and NAME
says where it comes from: see `TABLES`. With --check nothing is written, and a page whose tables
are not those of the program is named and ends it with 1.
"""

from __future__ import annotations

import re
import sys
import textwrap
from functools import partial
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

from zpipe.bench.textbook import TEXTBOOK  # noqa: E402
from zpipe.commands import COMMANDS  # noqa: E402
from zpipe.endpoints import KINDS, kind_of  # noqa: E402
from zpipe.facts import FdFacts  # noqa: E402
from zpipe.graph.model import Wishes  # noqa: E402
from zpipe.graph.policy import OPTIONS  # noqa: E402
from zpipe.movers import MOVERS, ON_REQUEST, mover_of  # noqa: E402
from zpipe.plan.fan import WAYS, choose_fan  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zpipe.movers.contract import Cost

BEGIN, END = '.\\" begin: ', '.\\" end: '
WIDTH = 79


def commands() -> list[str]:
    """Return the list of commands, each with a reference to its page."""
    lines = [".Bl -tag -width Ds"]
    for name, summary in COMMANDS.items():
        lines += [f".It Xr zpipe-{name} 1", *prose(summary)]
    return [*lines, ".El"]


def options(command: str) -> list[str]:
    """Return the list of a command's options, as help shows them."""
    lines = [".Bl -tag -width Ds"]
    for param in shown_options(command):
        lines += [option_tag(param), *prose(option_text(param))]
    return [*lines, ".El"]


def shown_options(command: str) -> list[click.Option]:
    """Return the options of a command that are not hidden."""
    found: click.Command = import_module(f"zpipe.commands.{command}").COMMAND
    return [
        param
        for param in found.get_params(click.Context(found))
        if isinstance(param, click.Option) and not param.hidden
    ]


def policies() -> list[str]:
    """Return the list of what may be written behind an output, with the texts of the options."""
    texts = {param.name: param for param in shown_options("tee")}
    lines = [".Bl -tag -width Ds"]
    for name in OPTIONS:
        param = texts[name]
        lines += [f".It Cm {name} Ns = Ns {value_of(param)}", *prose(param.help or "")]
    return [*lines, ".El"]


def option_tag(param: click.Option) -> str:
    """Return `.It Fl q , Fl -quiet` or `.It Fl -offset Ar SIZE`."""
    names = " , ".join(f"Fl {name.removeprefix('-')}" for name in param.opts)
    if param.is_flag:
        return f".It {names}"
    return f".It {names} {value_of(param)}"


def value_of(param: click.Option) -> str:
    """Return `Ar SIZE` or `Cm auto | Cm always`."""
    if isinstance(param.type, click.Choice):
        choices = tuple(param.type.choices)
        if set(choices) >= set(MOVERS):
            return "Ar MOVER"
        return " | ".join(f"Cm {choice}" for choice in choices)
    return f"Ar {(param.metavar or param.type.name).upper()}"


def option_text(param: click.Option) -> str:
    """Return the help of an option, with its default where help shows it."""
    text = (param.help or "").strip()
    return f"{text} The default is {param.default}." if param.show_default else text


def movers() -> list[str]:
    """Return the list of movers in the order in which they are preferred."""
    lines = [".Bl -tag -width copy_range"]
    for name in MOVERS:
        lines += [f".It Cm {name}", *prose(sentence(mover_of(name).summary))]
        if name in ON_REQUEST:
            lines += prose("Only on request.")
    return [*lines, ".El"]


def ways() -> list[str]:
    """Return the list of ways to several sinks, in the order in which they are preferred."""
    lines = [".Bl -tag -width plain"]
    for name, summary in WAYS.items():
        lines += [f".It Cm {name}", *prose(sentence(summary))]
    return [*lines, ".El"]


def endpoints() -> list[str]:
    """Return the list of the kinds of ends, with their options."""
    lines = [".Bl -tag -width Ds"]
    for scheme in KINDS:
        kind = kind_of(scheme)
        # a colon at the end would be taken for punctuation
        forms = [re.sub(":$", ":\\&", form) for form in map(escaped, kind.form.split(", "))]
        lines.append(f".It {' , '.join(f'Cm {form}' for form in forms)}")
        lines += prose(sentence(kind.summary))
        if not kind.sink:
            lines += prose("Only as a source.")
        if not kind.source:
            lines += prose("Only as a sink.")
        if kind.options:
            lines.append(".Bl -tag -width timeout -compact")
            for name, meaning in kind.options.items():
                lines += [f".It Cm {name}", *prose(sentence(meaning))]
            lines.append(".El")
    return [*lines, ".El"]


def _file(filesystem: str, *, sink: bool = False) -> FdFacts:
    """Return the facts of 1 GiB on a disk, or of a new file."""
    size = 0 if sink else 1 << 30
    return FdFacts(
        "regular",
        position=0,
        size=size,
        identity=(1, int(sink)),
        allocated=size,
        filesystem=filesystem,
        fresh=sink,
    )


# what costs are told of: files on ext4 and btrfs, and a network device
_FILE, _NEW = _file("ext4"), _file("ext4", sink=True)
_PIPE = FdFacts("pipe", capacity=1 << 20, nonblocking=True)
_TCP = FdFacts("tcp", nonblocking=True, scatter_gather=True, route="eth0")
_OLD_TCP = FdFacts("tcp", nonblocking=True, scatter_gather=False, route="eth0")

# a row of costs: its name, the source, the sinks
ROUTES: dict[str, tuple[FdFacts, tuple[FdFacts, ...]]] = {
    "file -> file": (_FILE, (_NEW,)),
    "file -> file, btrfs": (_file("btrfs"), (_file("btrfs", sink=True),)),
    "file -> pipe": (_FILE, (_PIPE,)),
    "file -> TCP": (_FILE, (_TCP,)),
    "file -> TCP, no gathering": (_FILE, (_OLD_TCP,)),
    "pipe -> file": (_PIPE, (_NEW,)),
    "pipe -> pipe": (_PIPE, (_PIPE,)),
    "TCP -> file": (_TCP, (_NEW,)),
    "TCP -> TCP": (_TCP, (_TCP,)),
    "pipe -> 3 pipes": (_PIPE, (_PIPE,) * 3),
    "file -> 3 TCP": (_FILE, (_TCP,) * 3),
    "file -> 3 files": (_FILE, (_NEW,) * 3),
}
_WIDEST = max(ROUTES, key=len)

# the routes that the costs of a mover, or of a way to several sinks, are told of
COSTS = {
    "plain": ("file -> file", "file -> TCP", "TCP -> TCP", "pipe -> pipe", "pipe -> 3 pipes"),
    "mapped": ("file -> file", "file -> pipe", "file -> TCP"),
    "sendfile": ("file -> file", "file -> pipe", "file -> TCP", "file -> TCP, no gathering"),
    "splice": (
        *("file -> file", "file -> pipe", "file -> TCP", "pipe -> file", "pipe -> pipe"),
        *("TCP -> file", "TCP -> TCP"),
    ),
    "tee": ("pipe -> 3 pipes", "file -> 3 TCP", "file -> 3 files"),
    "copy_range": ("file -> file",),
    "reflink": ("file -> file, btrfs",),
    "direct": ("file -> file", "file -> TCP", "TCP -> file"),
    "parallel": ("file -> file",),
}


def costs(name: str) -> list[str]:
    """Return the table of what a mover, or a way to several sinks, costs on some routes."""
    rows = [
        (route, cost.cpu_copies, cost.dma_copies, cost.syscalls_per_mib, cost.switches_per_mib)
        for route in COSTS[name]
        for cost in [_cost(name, *ROUTES[route])]
    ]
    return _columns((_WIDEST, "CPU", "DMA", "CALLS/MiB", "SWITCHES/MiB"), "ROUTE", rows)


def _cost(name: str, source: FdFacts, sinks: tuple[FdFacts, ...]) -> Cost:
    if len(sinks) > 1:
        return choose_fan(source, sinks, Wishes(via=name)).first.cost
    return mover_of(name).cost(source, sinks[0])


def textbook() -> list[str]:
    """Return the table of what textbooks say of each technique."""
    rows = [(entry.title, entry.cpu, entry.dma, entry.switches) for entry in TEXTBOOK]
    longest = max((entry.title for entry in TEXTBOOK), key=len)
    return _columns((longest, "CPU", "DMA", "SWITCHES"), "TECHNIQUE", rows)


def _columns(
    widths: tuple[str, ...], first: str, rows: Iterable[tuple[str | float, ...]]
) -> list[str]:
    """Return a list in columns, each as wide as a text; all but the first begin with their name."""
    lines = [f".Bl -column {' '.join(quoted(width) for width in widths)}"]
    for row in ((first, *widths[1:]), *rows):
        lines.append(f".It {' Ta '.join(cell(each) for each in row)}")
    return [*lines, ".El"]


def cell(value: str | float) -> str:
    """Return what stands in a column."""
    return value.replace("->", "\\(->") if isinstance(value, str) else f"{value:.3g}"


def quoted(text: str) -> str:
    """Return a text as one word of a macro."""
    return f'"{cell(text)}"' if " " in text else text


TABLES: dict[str, Callable[[], list[str]]] = {
    "commands": commands,
    "endpoints": endpoints,
    "movers": movers,
    "policies": policies,
    "textbook": textbook,
    "ways": ways,
    **{f"costs of {name}": partial(costs, name) for name in COSTS},
    **{f"options of {name}": partial(options, name) for name in COMMANDS},
}


def sentence(text: str) -> str:
    """Return a text of the tables as a sentence: a capital letter and a full stop."""
    first = text.partition(" ")[0]
    # a word like copy_file_range or mmap+write: is a name and keeps its letters
    begin = text[0].upper() if first.isalpha() else text[0]
    return f"{begin}{text[1:]}{'' if text.endswith('.') else '.'}"


def prose(text: str) -> list[str]:
    """Return a text as lines of mdoc, each sentence on a line of its own."""
    lines: list[str] = []
    for part in re.split(r"(?<=\.) (?=[A-Z])", text):
        lines += textwrap.wrap(part, WIDTH, break_long_words=False, break_on_hyphens=False)
    return [escaped(line) for line in lines]


def escaped(text: str) -> str:
    """Return a text in which nothing is a request, and options keep their hyphens."""
    text = text.replace("\\", "\\e")
    text = re.sub(r"(?<![\w-])--?(?=\w|$)", lambda found: "\\-" * len(found[0]), text)
    return f"\\&{text}" if text[:1] in (".", "'") else text


def renewed(page: str, name: str) -> str:
    """Return the text of a page with all of its tables made anew.

    Raises: SystemExit  a table is not known, or is not ended.
    """
    lines: list[str] = []
    open_table = None
    for line in page.splitlines():
        if open_table is None:
            lines.append(line)
            if line.startswith(BEGIN):
                open_table = line.removeprefix(BEGIN)
                if open_table not in TABLES:
                    sys.exit(f"{name}: no table is named {open_table}: {', '.join(TABLES)}")
                lines += TABLES[open_table]()
        elif line == END + open_table:
            lines.append(line)
            open_table = None
    if open_table is not None:
        sys.exit(f"{name}: the table {open_table} has no end")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write or compare all pages."""
    only_check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not only_check:
        sys.exit("usage: man.py [--check]")
    stale = []
    for path in sorted((ROOT / "man").glob("man*/*")):
        name = str(path.relative_to(ROOT))
        page = path.read_text()
        wanted = renewed(page, name)
        if page != wanted:
            stale.append(name)
            if not only_check:
                path.write_text(wanted)
    for name in stale:
        print(f"{name}: {'is stale: run .ci/man.py' if only_check else 'written'}")
    sys.exit(1 if stale and only_check else 0)


if __name__ == "__main__":
    main()
