"""Rewrite the tables of the completion scripts from the program's own; what reads them is by hand.

A script holds its tables between the comments `# begin: tables` and `# end: tables`. With --check
nothing is written, and a script whose tables are not those of the program is named and ends it
with 1. A command or a kind of value that nobody has told how to complete ends it, too.
"""

from __future__ import annotations

import hashlib
import sys
import textwrap
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402

from zpipe.bench.cells import ROUTES, TECHNIQUES  # noqa: E402
from zpipe.cli import group  # noqa: E402
from zpipe.commands import COMMANDS  # noqa: E402
from zpipe.commands.completion import SCRIPTS  # noqa: E402
from zpipe.commands.plan import PLANNED  # noqa: E402
from zpipe.endpoints import KINDS, kind_of, parse  # noqa: E402
from zpipe.errors import UsageError  # noqa: E402
from zpipe.tree.wishes import ATTRIBUTES  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Kind = tuple[str, ...]  # and the words that it brings

BEGIN, END = "# begin: tables", "# end: tables"
WIDTH = 98
LONGEST = 72  # letters of a text beside a candidate


def digests() -> tuple[str, ...]:
    """Return the algorithms that an address may name."""
    found = []
    for name in sorted(hashlib.algorithms_guaranteed):
        try:
            parse(f"hash:{name}", sink=True)
        except UsageError:
            continue
        found.append(name)
    return tuple(found)


DIGESTS = digests()

# What completes a value is a kind. `one` of some words, and `some` of them with commas between,
# bring the words with them; what the others are the scripts know; `nothing` nobody can guess.
# This is by what help shows of the value:
VALUES: dict[str, Kind] = {
    "ADDR": ("upstream",),
    "ALG": ("one", *DIGESTS),
    "ATTRS": ("some", *ATTRIBUTES, "all"),
    "DIR": ("folder",),
    "DST": ("sink",),
    "FILE": ("file",),
    "GROUP": ("group",),
    "NAME": ("one", "processes", "threads", "dask:", "mpi"),
    "OUTPUT": ("file",),
    "REPORT": ("file",),
    "USER": ("user",),
    "addr": ("listen",),
    "upstream": ("upstream",),
    **dict.fromkeys(
        ("GLOB", "ID", "KEY=VALUE,...", "N", "NAME=UPSTREAM", "NAME=VALUE", "TEXT"), ("nothing",)
    ),
    **dict.fromkeys(
        ("cidr", "factor", "n", "number", "rate", "size", "sizes", "time"), ("nothing",)
    ),
}
# and this where that does not tell
OPTIONS: dict[str, Kind] = {
    "bench --routes": ("some", *ROUTES),
    "bench --techniques": ("some", *TECHNIQUES),
}
# command -> the kinds of its operands by their place; the one before `...` is that of all others
OPERANDS: dict[str, tuple[str, ...]] = {
    "bench": (),
    "cat": ("source", "..."),
    "check": ("recipe", "..."),
    "completion": ("shell",),
    "cp": ("source", "end", "..."),
    "doctor": ("file", "..."),
    "graph": ("recipe",),
    "plan": ("plan",),
    "proxy": ("upstream", "..."),
    "replay": ("folder", "upstream"),
    "run": ("recipe",),
    "status": ("upstream",),
    "tee": ("sink", "..."),
}
# the addresses of proxies are written otherwise than those of zpipe-endpoints(7)
SOCKETS = {"listen": ("unix:", "fd:"), "upstream": ("unix:",)}


@dataclass(frozen=True)
class Option:
    """An option as completion sees it.

    `value` is the kind of its value, which help shows as `shown`, and None for a flag; `bare`: the
    value may be left out, and stands behind an `=` if it is not.
    """

    names: tuple[str, ...]
    text: str
    value: Kind | None = None
    shown: str = ""
    bare: bool = False
    repeatable: bool = False


def loaded() -> dict[str, list[Option]]:
    """Return the options of all commands, and under "" those that stand before a command."""
    found = {
        "": [Option(("--debug",), "Show where an internal error arose"), *options("", group())]
    }
    for name in COMMANDS:
        if name not in OPERANDS:
            sys.exit(f"{name}: say in OPERANDS what completes its operands")
        found[name] = options(name, import_module(f"zpipe.commands.{name}").COMMAND)
    return found


def options(name: str, command: click.Command) -> list[Option]:
    """Return the options of a command that are not hidden."""
    return [
        Option(tuple(param.opts), short(param.help or ""), repeatable=param.multiple)
        if param.is_flag
        else Option(
            tuple(param.opts),
            short(param.help or ""),
            value_of(name, param),
            shown(param),
            may_be_bare(command, param.opts[0]),
            param.multiple,
        )
        for param in command.get_params(click.Context(command))
        if isinstance(param, click.Option) and not param.hidden
    ]


def shown(param: click.Option) -> str:
    """Return what help shows of the value."""
    return (param.metavar or param.type.name).strip("[=]")


def value_of(command: str, param: click.Option) -> Kind:
    """Return the kind of an option's value. Raises: SystemExit  nobody has told."""
    if isinstance(param.type, click.Choice):
        return ("one", *param.type.choices)
    for name in param.opts:
        if f"{command} {name}" in OPTIONS:
            return OPTIONS[f"{command} {name}"]
    if shown(param) not in VALUES:
        sys.exit(f"{command} {param.opts[0]}: say in VALUES what completes {shown(param)}")
    return VALUES[shown(param)]


def may_be_bare(command: click.Command, name: str) -> bool:
    """Ask a command whether an option of it can do without its value."""
    try:
        command.parse_args(click.Context(command), [name])
    except click.BadOptionUsage:
        return False
    except click.ClickException:
        pass  # it wants operands, too
    return True


def short(text: str) -> str:
    """Return as much of a help text as stands beside a candidate."""
    text = text.partition(". ")[0].partition(";")[0].rstrip(".")
    return text.partition(": ")[0] if len(text) > LONGEST else text


def begins() -> dict[str, tuple[str, ...]]:
    """Return how addresses begin, by their kind."""
    forms = {}
    for name in KINDS:
        scheme, colon, rest = kind_of(name).form.rpartition(", ")[2].partition(":")
        if colon:
            forms[f"{scheme}:{'//' if rest.startswith('//') else ''}"] = kind_of(name)
    return {
        "source": tuple(text for text, kind in forms.items() if kind.source),
        "sink": tuple(text for text, kind in forms.items() if kind.sink),
        "end": tuple(forms),
        **SOCKETS,
    }


# words that stand alone
WORDS = {"commands": COMMANDS, "planned": PLANNED, "digests": DIGESTS, "shells": SCRIPTS}


def quoted(text: str) -> str:
    """Return a text in single quotes, which all shells read alike."""
    if "'" in text or "\\\\" in text or text.endswith("\\"):
        sys.exit(f"{text}: cannot be in single quotes")
    return f"'{text}'"


def folded(text: str, indent: int) -> list[str]:
    """Return words on as many lines as they take."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 2),
        break_long_words=False,
        break_on_hyphens=False,
    )


def assigned(name: str, words: Iterable[str], indent: int) -> list[str]:
    """Return an assignment of words with blanks between them."""
    return folded(f"{name}={quoted(' '.join(words))}", indent)


def bash(found: dict[str, list[Option]]) -> list[str]:
    """Return functions that set a variable of their callers."""
    lines = ["__zpipe_options() {", "  case $1 in"]
    for command, its in found.items():
        names = [name for option in its for name in bash_names(option)]
        lines += [f"    {command or quoted('')})", *assigned("options", names, 6), "      ;;"]
    lines += ["  esac", "}", "", "__zpipe_value() {", "  value=", "  case $1 in"]
    for command, its in found.items():
        if not any(option.value for option in its):
            continue
        lines += [f"    {command})", "      case $2 in"]
        for option in its:
            if option.value:
                kind = ("bare", *option.value) if option.bare else option.value
                lines += [f"        {' | '.join(option.names)})", *assigned("value", kind, 10)]
                lines += ["          ;;"]
        lines += ["      esac", "      ;;"]
    lines += ["  esac", "}", "", "__zpipe_operands() {", "  operands=", "  case $1 in"]
    lines += [
        f"    {command}) operands={quoted(' '.join(kinds))} ;;"
        for command, kinds in OPERANDS.items()
    ]
    lines += ["  esac", "}", "", "__zpipe_words() {", "  words=", "  case $1 in"]
    for name, words in {**begins(), **WORDS}.items():
        lines += [f"    {name})", *assigned("words", words, 6), "      ;;"]
    return [*lines, "  esac", "}"]


def bash_names(option: Option) -> list[str]:
    """Return the names of an option, and again with an `=` where that brings the value."""
    names = list(option.names)
    return names + [f"{name}=" for name in names if option.bare and name.startswith("--")]


# kind of value -> what completes it by _arguments, and by complete
ZSH = {
    "nothing": " ",
    "file": "_files",
    "folder": "_files -/",
    "user": "_users",
    "group": "_groups",
    "recipe": " _zpipe_recipes",
    "plan": " _zpipe_planned",
    "shell": " _zpipe_words shells",
}
FISH = {
    "nothing": "-x",
    "file": "-r -F",
    "folder": "-x -a '(__zpipe_folders)'",
    "user": "-x -a '(__fish_complete_users)'",
    "group": "-x -a '(__fish_complete_groups)'",
}


def zsh(found: dict[str, list[Option]]) -> list[str]:
    """Return functions that set an array of their callers."""
    lines = ["_zpipe_specs_of() {", "  specs=()", "  case $1 in"]
    for command, its in found.items():
        lines += [f"    {command or quoted('')})", "      specs=("]
        lines += [f"        {quoted(spec)}" for option in its for spec in zsh_option(option)]
        lines += [f"        {quoted(spec)}" for spec in zsh_operands(OPERANDS.get(command, ()))]
        lines += ["      )", "      ;;"]
    lines += ["  esac", "}", "", "_zpipe_words_of() {", "  words_of=()", "  case $1 in"]
    for name, words in {**begins(), **WORDS}.items():
        lines += [f"    {name})", *folded(f"words_of=({' '.join(words)})", 6), "      ;;"]
    lines += ["  esac", "}", "", "_zpipe_commands() {", "  local -a commands=("]
    lines += [f"    {quoted(f'{name}:{short(text)}')}" for name, text in COMMANDS.items()]
    return [*lines, "  )", "  _describe -t commands command commands", "}"]


def zsh_option(option: Option) -> list[str]:
    """Return a specification for each name; one of them keeps the others away."""
    others = "*" if option.repeatable else f"({' '.join(option.names)})"
    text = option.text.replace("[", "(").replace("]", ")")
    specs = []
    for name in option.names:
        spec = f"{others}{name}"
        if option.value is None:
            specs.append(f"{spec}[{text}]")
            continue
        if name.startswith("--"):
            spec += "=-" if option.bare else "="
        else:
            spec += "+"
        message = option.shown.replace(":", " ")
        colon = "::" if option.bare else ":"
        specs.append(f"{spec}[{text}]{colon}{message}:{zsh_action(option.value)}")
    return specs


def zsh_action(kind: Kind) -> str:
    """Return what completes a value by _arguments."""
    name, *words = kind
    if name == "one" and not any(word.endswith(":") for word in words):
        return f"({' '.join(words)})"
    if name in ("one", "some"):
        return f" _zpipe_{name} {' '.join(words)}".replace(":", "\\:")
    return ZSH.get(name) or f" _zpipe_end {name}"


def zsh_operands(kinds: tuple[str, ...]) -> list[str]:
    """Return a specification for each place, and one for all that follow."""
    places = [str(place) for place in range(1, len(kinds) + 1)]
    if kinds[-1:] == ("...",):
        places[-2:] = ["*"]
    return [
        f"{place}:{kind}:{zsh_action((kind,))}" for place, kind in zip(places, kinds, strict=False)
    ]


def fish(found: dict[str, list[Option]]) -> list[str]:
    """Return functions that print words, and commands that declare commands and options."""
    lines = ["function __zpipe_valued", "    switch $argv[1]"]
    for command, its in found.items():
        names = [
            name for option in its if option.value and not option.bare for name in option.names
        ]
        if names:
            lines += [f"        case {command}", listed(names)]
    lines += ["    end", "end", "", "function __zpipe_operands", "    switch $argv[1]"]
    for command, kinds in OPERANDS.items():
        if kinds:
            lines += [f"        case {command}", listed(kinds)]
    lines += ["    end", "end", "", "function __zpipe_words", "    switch $argv[1]"]
    for name, words in {**begins(), **WORDS}.items():
        lines += [f"        case {name}", listed(words)]
    lines += ["    end", "end", ""]
    lines += [
        f"complete -c zpipe -n '__zpipe_in -' -a {name} -d {quoted(short(text))}"
        for name, text in COMMANDS.items()
    ]
    for command, its in found.items():
        lines += ["", *(fish_option(command, option) for option in its)]
    return lines


def listed(words: Iterable[str]) -> str:
    """Return a command that prints words, one a line."""
    return f"            string split ' ' -- {quoted(' '.join(words))}"


def fish_option(command: str, option: Option) -> str:
    """Return the command that declares an option."""
    names = [
        f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names
    ]
    words = [f"complete -c zpipe -n '__zpipe_in {command or '-'}'", *names]
    if option.value is not None:
        words.append(fish_action(option.value, bare=option.bare))
    return " ".join([*words, f"-d {quoted(option.text)}"])


def fish_action(kind: Kind, *, bare: bool) -> str:
    """Return what completes a value by complete."""
    name, *words = kind
    required = "-f" if bare else "-x"
    if name == "one":
        return f"{required} -a {quoted(' '.join(words))}"
    if name == "some":
        return f"{required} -a '(__zpipe_some {' '.join(words)})'"
    return FISH.get(name) or f"{required} -a '(__zpipe_ends {name})'"


MAKERS: dict[str, Callable[[dict[str, list[Option]]], list[str]]] = {
    "bash": bash,
    "zsh": zsh,
    "fish": fish,
}


def renewed(script: str, name: str, table: list[str]) -> str:
    """Return the text of a script with its tables made anew. Raises: SystemExit  no place."""
    before, begin, rest = script.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        sys.exit(f"{name}: the tables have no place: {BEGIN} ... {END}")
    return "\n".join([f"{before}{BEGIN}", *table, f"{END}\n{after}"])


def main() -> None:
    """Write or compare all scripts."""
    only_check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not only_check:
        sys.exit("usage: completion.py [--check]")
    found = loaded()
    stale = []
    for shell, file in SCRIPTS.items():
        path = ROOT / "zpipe/completion" / file
        name = str(path.relative_to(ROOT))
        script = path.read_text()
        wanted = renewed(script, name, MAKERS[shell](found))
        if script != wanted:
            stale.append(name)
            if not only_check:
                path.write_text(wanted)
    for name in stale:
        print(f"{name}: {'is stale: run .ci/completion.py' if only_check else 'written'}")
    sys.exit(1 if stale and only_check else 0)


if __name__ == "__main__":
    main()
