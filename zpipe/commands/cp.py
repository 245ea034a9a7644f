"""`zpipe cp SRC DST`, `zpipe cp SRC --to DST --to DST`, and `zpipe cp -r SRC... DIRECTORY`."""

from __future__ import annotations

import os
from typing import Any, TypeVar

import click

from zpipe.commands.carrying import carry
from zpipe.commands.option_types import SIZE, OneOf, number
from zpipe.commands.options import (
    heeded,
    moving,
    no_contradiction,
    not_here,
    policies,
    policy_of,
    showing,
    shown_of,
)
from zpipe.commands.tree_letters import LETTERS, demanded_of, wishes_of_letters
from zpipe.commands.trees import Request, path_of
from zpipe.commands.trees import carry as carry_trees
from zpipe.engine.copy import fan_out
from zpipe.errors import UsageError
from zpipe.graph.model import Wishes
from zpipe.movers import MOVERS
from zpipe.tree.wishes import ATTRIBUTES, TreeWishes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

F = TypeVar("F", bound="Callable[..., Any]")

EXAMPLES = """\b
Examples:
  zpipe cp --explain disk.img /mnt/backup/
  zpipe cp -a --verify photos /mnt/backup/
  zpipe cp -r --resume --exclude '*.tmp' data /mnt/backup/
  zpipe cp disk.img tcp://backup:9000
  zpipe cp --rate-limit 50M tcp-listen://:9000 disk.img
  zpipe cp --sync - /dev/sdb < disk.img
  zpipe cp disk.img --to /mnt/a/ --to /mnt/b/ --to tcp://backup:9000
"""

# options of cp whose value may be left out, and what it is then
_VALUES = {
    "--preserve": "mode,ownership,timestamps",
    "--reflink": "always",
    "--update": "older",
}
# long names of letters
_LONG = {
    "--recursive": "r",
    "--archive": "a",
    "--dereference": "L",
    "--no-dereference": "P",
    "--no-clobber": "n",
    "--force": "f",
    "--interactive": "i",
    "--no-target-directory": "T",
    "--verbose": "v",
    "--one-file-system": "x",
    "--link": "l",
    "--symbolic-link": "s",
}
_WHEN = OneOf(("auto", "always", "never"))
# what only the copying of paths knows; any of them asks for that
_OF_TREES = (
    "update",
    "remove_destination",
    "parents",
    "sparse",
    "reflink",
    "resume",
    "verify",
    "checksum_file",
    "jobs",
    "executor",
    "exclude",
    "json_files",
)
# what only streams of bytes know
_OF_STREAMS = {
    "offset": "--offset",
    "length": "--length",
    "append": "--append",
    "stable": "--stable",
    "lease": "--lease",
    "stall_timeout": "--stall-timeout",
    "detach_after": "--detach-after",
    "spill_max": "--spill-max",
    "spill_dir": "--spill-dir",
    "spill_then": "--spill-then",
}


class Copying(click.Command):
    """Knows that options of cp may lack their value, and that the last of rivals wins."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Complete options without their value, and note the letters in their order."""
        words = list(args)
        end = words.index("--") if "--" in words else len(words)
        letters: list[str] = []
        for place, word in enumerate(words[:end]):
            if word in _VALUES:
                words[place] = f"{word}={_VALUES[word]}"
            if word in _LONG:
                letters.append(_LONG[word])
            elif words[place].startswith(("--preserve=", "--no-preserve=")):
                letters.append(words[place])
            elif word == "--no-preserve" and place + 1 < end:
                letters.append(f"{word}={words[place + 1]}")
            elif len(word) > 1 and word[0] == "-" and word[1] != "-":
                letters += _cluster(word)
        ctx.obj = letters
        return super().parse_args(ctx, words)


def _cluster(word: str) -> list[str]:
    """Return the letters of `-abc`, as far as the first that takes a value."""
    found = []
    for letter in word[1:]:
        if letter not in LETTERS and letter != "q":
            break
        if letter != "q":
            found.append(letter)
    return found


def _letter(*names: str, text: str) -> Callable[[F], F]:
    """Return an option that is one of the letters: its order among them is what counts."""
    return click.option(*names, f"_{names[0][1:]}", is_flag=True, expose_value=False, help=text)


@click.command(
    "cp",
    cls=Copying,
    epilog=EXAMPLES,
    help="""Move one source to one sink, or to several by one reading, by the quickest way that the
    kernel grants; or copy files and trees as cp does, with its options.

    SRC and DST are paths, - for standard input or output, or addresses: tcp://HOST:PORT,
    tcp-listen://HOST:PORT, unix:PATH, unix-listen:PATH, exec:COMMAND, pipe:PATH, fd:N, null:,
    zero:, pattern:SEED; see zpipe-endpoints(7). A DST that is a directory gets a file of the
    same name. A regular DST is complete or is not there: it is written under a temporary name
    and renamed.

    With one of the options of cp, or more than one SRC, all of them are paths.

    SIZE is like 64K, 1.5M or 1G, RATE a SIZE per second, TIME like 250ms, 10s or 1h30m.
    """,
)
@click.argument("operands", nargs=-1, metavar="SRC... [DST]")
@click.option(
    "-t",
    "--to",
    "--target-directory",
    multiple=True,
    metavar="DST",
    help="Copy to DST; repeatable: one SRC by one reading.",
)
@_letter("-r", "-R", "--recursive", text="Copy directories, with all that is in them.")
@_letter("-a", "--archive", text="As -dR --preserve=all.")
@_letter("-p", text="As --preserve=mode,ownership,timestamps.")
@click.option(
    "--preserve",
    multiple=True,
    metavar="[=ATTRS]",
    expose_value=False,
    help=f"Keep attributes; =ATTRS: {', '.join(ATTRIBUTES)}, or all; alone: as -p.",
)
@click.option(
    "--no-preserve",
    multiple=True,
    metavar="ATTRS",
    expose_value=False,
    help="Do not keep these.",
)
@_letter("-d", text="As -P --preserve=links.")
@_letter("-L", "--dereference", text="Follow symbolic links.")
@_letter("-P", "--no-dereference", text="Copy symbolic links as links.")
@_letter("-H", text="Follow those that are operands.")
@_letter("-n", "--no-clobber", text="Leave files that exist.")
@_letter("-u", text="Leave files that are not older than SRC.")
@click.option(
    "--update",
    type=OneOf(("all", "older", "none")),
    metavar="[=WHICH]",
    help="Replace all files, older ones, or none; alone: as -u.",
)
@_letter("-i", "--interactive", text="Ask before a file is replaced.")
@_letter("-f", "--force", text="Replace files that cannot be opened for writing.")
@click.option("--remove-destination", is_flag=True, help="Remove a target before, links too.")
@_letter("-T", "--no-target-directory", text="DST is never a directory to copy into.")
@_letter("-l", "--link", text="Make hard links instead of copies.")
@_letter("-s", "--symbolic-link", text="Make symbolic links instead of copies.")
@click.option("--parents", is_flag=True, help="Give SRC its whole path below DST.")
@_letter("-x", "--one-file-system", text="Stay on the filesystem of SRC.")
@_letter("-v", "--verbose", text="Name each file on standard output.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Leave out names, or with a slash paths below SRC, that match; repeatable.",
)
@click.option("--sparse", type=_WHEN, help="Keep holes (auto), make them of zeros, or fill them.")
@click.option(
    "--reflink",
    type=_WHEN,
    metavar="[=WHEN]",
    help="Share blocks where that goes (auto), always, or never; alone: always.",
)
@click.option("--verify", is_flag=True, help="Read DST back from the disk, and compare.")
@click.option("--checksum-file", metavar="FILE", help="Write a line for sha256sum -c per file.")
@click.option("--resume", is_flag=True, help="Keep a journal, and go on where one ends.")
@click.option(
    "-j",
    "--jobs",
    type=number(1, 256),
    metavar="N",
    help="Copy by N workers at once, 1 to 256 (as many as processors, 8 at the most).",
)
@click.option(
    "--executor",
    metavar="NAME",
    help="Copy by processes, threads, MODULE:FACTORY, dask:ADDRESS or mpi (processes).",
)
@click.option("--offset", type=SIZE, default=0, help="Begin at this byte of the source.")
@click.option("--length", type=SIZE, help="Stop after this many bytes.")
@click.option("--append", is_flag=True, help="Add to the end of DST (O_APPEND), in place.")
@click.option("--inplace", is_flag=True, help="Truncate DST and write to it, as cp does.")
@click.option(
    "--sync", is_flag=True, help="Make DST durable (fsync) before saying that it is done."
)
@moving((*MOVERS, "tee"))
@click.option("--lease", is_flag=True, help="Hold writers off the source while it is read.")
@policies()
@showing()
@click.option("--json-files", is_flag=True, help="With --json: a record for each file, too.")
@not_here(
    {"-b": "--backup", "-S": "--suffix"},
    "keeps no backups; files are replaced when the new ones are complete",
)
@not_here({"-Z": "--context"}, "sets no security contexts; --preserve=context keeps them")
@not_here(
    {"--attributes-only": "", "--copy-contents": "", "--strip-trailing-slashes": ""},
    "is not here",
)
@click.pass_obj
def copy_command(
    letters: list[str], /, operands: tuple[str, ...], to: tuple[str, ...], **options: Any
) -> None:
    """Collect the wishes and carry them out."""
    if options["append"] and options["inplace"]:
        raise UsageError("--append and --inplace exclude each other")
    no_contradiction(options)
    several = len(operands) > (1 if to else 2)
    of_trees = any(options[name] not in (None, False, ()) for name in _OF_TREES)
    if letters or several or of_trees or _names_directory(operands):
        request, tree_wishes = _of_trees(letters, operands, to, options)
        carry_trees(request, tree_wishes)
        return
    src, sinks = _sides(operands, to)
    policy = policy_of(options)
    wishes = Wishes(
        offset=options["offset"],
        length=options["length"],
        append=options["append"],
        inplace=options["inplace"],
        sync=options["sync"],
        stable=options["stable"],
        lease=options["lease"],
        via=options["via"],
        without=frozenset(options["no_via"]),
        rate_limit=options["rate_limit"],
        stall_timeout=options["stall_timeout"],
        pipe_size=options["pipe_size"],
    )
    carry(
        lambda: heeded(fan_out(src, sinks, wishes, policy), options),
        shown_of(options),
    )


def _names_directory(operands: tuple[str, ...]) -> bool:
    """Whether the source is a directory: the copying of trees tells what is wrong then."""
    return bool(operands) and os.path.isdir(operands[0])


def _sides(operands: tuple[str, ...], to: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return source and sinks. With --to every operand is a source, as with -t of cp.

    Raises: UsageError  too few.
    """
    if not operands:
        raise UsageError("cp: give a source")
    if to:
        return operands[0], to
    if len(operands) == 1:
        raise UsageError(f"cp: {operands[0]}: give a DST after it")
    return operands[0], operands[1:]


def _of_trees(
    letters: Sequence[str],
    operands: tuple[str, ...],
    to: tuple[str, ...],
    options: dict[str, Any],
) -> tuple[Request, TreeWishes]:
    """Return what is asked of a copy of files and trees. Raises: UsageError."""
    for name, option in _OF_STREAMS.items():
        if options[name]:
            raise UsageError(f"{option}: is for one source, without options for trees")
    if options["when_full"] != "block" or "tee" in (options["via"], *options["no_via"]):
        raise UsageError("--when-full, --via tee: are for one source and several sinks")
    if not operands:
        raise UsageError("cp: give a source")
    if len(to) > 1:
        raise UsageError(
            f"--to {to[1]}: several sinks are for one SRC that is no directory, without the options"
            " of cp"
        )
    if not to and len(operands) == 1:
        raise UsageError(f"cp: {operands[0]}: give a DST after it")
    asked = wishes_of_letters(letters)
    into = asked.pop("into", None)
    if to and into is False:
        raise UsageError("-t and -T exclude each other")
    sources = operands if to else operands[:-1]
    named = asked.pop("named", frozenset())
    if options["update"] is not None:
        asked["update"] = options["update"] == "older"
        if options["update"] == "none":
            asked["existing"] = "skip"
    request = Request(
        sources=tuple(map(path_of, sources)),
        target=path_of(to[0] if to else operands[-1]),
        into=True if to else into,
        parents=options["parents"],
        executor=options["executor"],
        workers=options["jobs"],
        checksum_file=options["checksum_file"],
        ask=asked.pop("ask", False) and asked["existing"] == "ask",
        verbose=asked.pop("verbose", False),
        explain=options["explain"],
        json=options["json"] or options["json_fd"] is not None,
        json_fd=options["json_fd"],
        json_files=options["json_files"],
        progress=options["progress"],
        quiet=options["quiet"],
        dry_run=options["dry_run"],
    )
    wishes = TreeWishes(
        **asked,
        demanded=demanded_of(asked["preserve"], named),
        remove=options["remove_destination"],
        inplace=options["inplace"],
        sync=options["sync"],
        sparse=options["sparse"] or "auto",
        reflink=options["reflink"] or "auto",
        verify=options["verify"],
        resume=options["resume"],
        exclude=options["exclude"],
        via=options["via"],
        without=frozenset(options["no_via"]),
        rate_limit=options["rate_limit"],
        pipe_size=options["pipe_size"],
    )
    _no_clash(request, wishes)
    return request, wishes


def _no_clash(request: Request, wishes: TreeWishes) -> None:
    """Raise: UsageError  two wishes exclude each other."""
    if wishes.reflink == "always" and wishes.sparse != "auto":
        raise UsageError(
            "--reflink=always and --sparse exclude each other: shared blocks are as is"
        )
    if wishes.reflink == "always" and wishes.via not in (None, "reflink"):
        raise UsageError(f"--reflink=always and --via {wishes.via} exclude each other")
    if wishes.make != "copy" and (wishes.verify or wishes.resume or request.checksum_file):
        raise UsageError("-l and -s copy nothing that could be verified or resumed")
    if wishes.via == "parallel":
        raise UsageError("--via parallel: is for one file; -j divides the big files of a tree")
    if wishes.remove and wishes.inplace:
        raise UsageError("--remove-destination and --inplace exclude each other")
    if wishes.resume and wishes.inplace:
        raise UsageError("--resume and --inplace exclude each other")
    if wishes.via is not None and (wishes.verify or request.checksum_file is not None):
        raise UsageError("--via: what is verified or summed up is read and written")
    if request.executor is not None and (wishes.rate_limit is not None or request.ask):
        raise UsageError("--executor: a rate limit and questions are for one worker, this process")
    if wishes.rate_limit is not None and (request.workers or 1) > 1:
        raise UsageError("--rate-limit: is kept by one worker: without --jobs")
    if request.json_files and not request.json:
        raise UsageError("--json-files: has no effect: it is for --json or --json-fd")


COMMAND: click.Command = copy_command
