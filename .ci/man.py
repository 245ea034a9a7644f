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

from zpipe.commands import COMMANDS  # noqa: E402
from zpipe.endpoints import KINDS, kind_of  # noqa: E402
from zpipe.graph.policy import OPTIONS  # noqa: E402
from zpipe.movers import MOVERS, ON_REQUEST, mover_of  # noqa: E402
from zpipe.plan.fan import WAYS  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

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


TABLES: dict[str, Callable[[], list[str]]] = {
    "commands": commands,
    "endpoints": endpoints,
    "movers": movers,
    "policies": policies,
    "ways": ways,
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
