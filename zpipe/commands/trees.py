"""`zpipe cp` with the options of GNU cp, for files by path and trees: carried out, or foreseen.

What letters mean is in tree_letters.py, what is said in tree_console.py and tree_records.py.
"""

from __future__ import annotations

from zpipe.commands.tree_letters import LETTERS, demanded_of, wishes_of_letters
from zpipe.endpoints import parse
from zpipe.engine.stop import Signals
from zpipe.errors import UsageError, ZpipeError
from zpipe.tree.wishes import TreeWishes
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zpipe.commands.tree_console import TreeConsole
    from zpipe.commands.tree_records import TreeRecords
    from zpipe.tree.report import TreeFeedback


class Request(Value):
    """What a command line asks of a copy of files and trees, apart from the wishes."""

    sources: tuple[str, ...]
    target: str
    into: bool | None = None
    parents: bool = False
    executor: str | None = None
    workers: int | None = None
    checksum_file: str | None = None
    ask: bool = False
    verbose: bool = False
    explain: bool = False
    json: bool = False
    json_fd: int | None = None
    json_files: bool = False
    progress: str = "auto"
    quiet: bool = False
    dry_run: bool = False


def in_short(words: Sequence[str]) -> bool:
    """Carry out `cp -LETTERS SRC... DST` without the command line library; False: it takes that."""
    letters: list[str] = []
    operands: list[str] = []
    for word in words:
        if len(word) > 1 and word.startswith("-"):
            if word.startswith("--") or set(word[1:]) - LETTERS:
                return False
            letters += word[1:]
        else:
            operands.append(word)
    if len(operands) < 2 or not letters:
        return False
    asked = wishes_of_letters(letters)
    request = Request(
        sources=tuple(map(path_of, operands[:-1])),
        target=path_of(operands[-1]),
        into=asked.pop("into", None),
        ask=asked.pop("ask", False),
        verbose=asked.pop("verbose", False),
    )
    carry(request, TreeWishes(**asked, demanded=demanded_of(asked["preserve"])))
    return True


def path_of(text: str) -> str:
    """Return the path that an operand is. Raises: UsageError  it is another kind of end."""
    endpoint = parse(text, sink=False)
    if endpoint.kind != "file" or endpoint.options:
        raise UsageError(f"{text}: is no path: options for trees are for files and directories")
    return endpoint.address


def carry(request: Request, wishes: TreeWishes) -> None:
    """Carry out a copy of files and trees, and show what was asked for.

    Raises: ZpipeError  whatever went wrong; the JSON stream has told it already.
    """
    if request.dry_run:
        _foresee(request, wishes)
        return
    from zpipe.tree.run import carry_out
    from zpipe.values import replace

    console, records, feedback = _listeners(request)
    asking: Callable[[str], bool] | None = None
    if request.ask:
        from zpipe.commands.tree_console import ask

        asking = ask
    try:
        with Signals() as stop:
            carry_out(
                request.sources,
                request.target,
                replace(wishes, names=feedback.names),
                into=request.into,
                parents=request.parents,
                executor=request.executor,
                workers=request.workers,
                checksum_file=request.checksum_file,
                ask=asking,
                feedback=feedback,
                stop=stop,
            )
    except ZpipeError as error:
        if records is not None:
            records.ended_by(error)
            error.told = error.told or console is None
        raise
    finally:
        if console is not None:
            console.clear()


def _listeners(request: Request) -> tuple[TreeConsole | None, TreeRecords | None, TreeFeedback]:
    """Return who speaks to people, who to programs, and who tells them."""
    records = None
    if request.json:
        from zpipe.commands.tree_records import Both, TreeRecords

        records = TreeRecords(2 if request.json_fd is None else request.json_fd, request.json_files)
        if request.json_fd is None:
            return None, records, records
    from zpipe.commands.tree_console import TreeConsole

    console = TreeConsole(request)
    return console, records, console if records is None else Both(console, records)


def _foresee(request: Request, wishes: TreeWishes) -> None:
    from zpipe.commands.tree_foresight import show_foreseen
    from zpipe.tree.foresee import foresee
    from zpipe.tree.naming import pairs

    found = pairs(request.sources, request.target, into=request.into, parents=request.parents)
    show_foreseen(foresee(found, wishes), json=request.json and request.json_fd is None)
