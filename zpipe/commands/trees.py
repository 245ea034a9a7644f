"""`zpipe cp` with the options of GNU cp, for files by path and trees."""

from __future__ import annotations

import os

from zpipe.commands.speaking import encoded, show, tell
from zpipe.endpoints import parse
from zpipe.engine.stop import Signals
from zpipe.errors import UsageError, ZpipeError
from zpipe.tree.report import TreeFeedback
from zpipe.tree.wishes import ATTRIBUTES, PLAIN, TreeWishes
from zpipe.units import format_duration, format_size
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from zpipe.tree.report import TreeReport
    from zpipe.tree.tasks import Done, Problem

# letters without a value, as GNU cp knows them; what takes a value is for the long way
LETTERS = frozenset("rRapdLPHnufTvxlsi")
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}
_FOLLOW = {"L": "always", "P": "never", "H": "operands", "d": "never", "a": "never"}


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


def wishes_of_letters(letters: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `TreeWishes` that letters stand for, the last of rivals winning; and
    `ask`, `verbose` and `into`, which are of the request. --preserve=LIST and --no-preserve=LIST
    have their places among the letters; `named` are the attributes that were asked for by name.

    Raises: UsageError  there is no such attribute.
    """
    found: dict[str, Any] = {"preserve": frozenset()}
    for letter in letters:
        if letter.startswith("--"):
            _fold(letter, found)
            continue
        if letter in _FOLLOW:
            found["follow"] = _FOLLOW[letter]
        if letter in "rRa":
            found["recursive"] = True
        if letter in "ap":
            found["preserve"] |= PLAIN
            found["default_mode"] = False
        if letter in "da":
            found["preserve"] |= {"links"}
        if letter == "a":
            found["preserve"] = frozenset(ATTRIBUTES)
        if letter in "ni":
            found["existing"] = {"n": "skip", "i": "ask"}[letter]
            found["ask"] = letter == "i"
        if letter == "u":
            found["update"] = True
        if letter == "f":
            found["force"] = True
        if letter == "x":
            found["one_filesystem"] = True
        if letter in "ls":
            found["make"] = {"l": "link", "s": "symlink"}[letter]
        if letter == "T":
            found["into"] = False
        if letter == "v":
            found["verbose"] = True
    if "follow" not in found:
        # as cp: links are copied with what is in a tree, and followed where they are named alone
        linking = found.get("make") == "link"
        found["follow"] = "never" if found.get("recursive") and not linking else "always"
    return found


def _fold(word: str, found: dict[str, Any]) -> None:
    option, _, text = word.partition("=")
    names: set[str] = set()
    for name in text.split(","):
        if name == "all":
            names |= set(ATTRIBUTES)
        elif name in ATTRIBUTES:
            names.add(name)
        else:
            raise UsageError(f"{option}={text}: {name}: known are {', '.join(ATTRIBUTES)}, all")
    if option == "--preserve":
        found["preserve"] |= names
        if text != "all":
            found["named"] = found.get("named", frozenset()) | names
    else:
        found["preserve"] -= names
    if "mode" in names:
        found["default_mode"] = option == "--no-preserve"


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


def demanded_of(preserve: frozenset[str], named: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return the attributes whose loss fails a file: extended ones only where they were named."""
    return (preserve & PLAIN) | (named & preserve)


def path_of(text: str) -> str:
    """Return the path that an operand is. Raises: UsageError  it is another kind of end."""
    endpoint = parse(text, sink=False)
    if endpoint.kind != "file" or endpoint.options:
        raise UsageError(f"{text}: is no path: options for trees are for files and directories")
    return endpoint.address


class TreeConsole(TreeFeedback):
    """Speaks on stderr, and with -v on standard output."""

    def __init__(self, request: Request):
        self._request = request
        self.names = request.verbose
        self._display: Any = None
        if not request.quiet and request.progress != "never":
            from zpipe.commands.tree_progress import display_of

            self._display = display_of(request.progress)
            if self._display is not None:
                self.interval = self._display.interval
                self.sizes = True

    def said(self, text: str) -> None:
        self.clear()
        tell(text)

    def lost(self, problem: Problem) -> None:
        self.said(problem.text)

    def done(self, done: Done) -> None:
        if self._request.verbose and done.act != "kept":
            self.clear()
            print_line(f"{quoted(done.source)} -> {quoted(done.path)}")

    def progress(self, report: TreeReport) -> None:
        if self._display is not None:
            self._display.show(report)

    def status(self, report: TreeReport) -> None:
        self.said(status_line(report))

    def ended(self, report: TreeReport) -> None:
        self.clear()
        if self._request.explain:
            show(explained(report))

    def clear(self) -> None:
        """Take away what would be in the way of the next line."""
        if self._display is not None:
            self._display.close()


class Both(TreeFeedback):
    """Tells two listeners."""

    def __init__(self, first: TreeFeedback, second: TreeFeedback):
        self._all = (first, second)
        intervals = [each.interval for each in self._all if each.interval is not None]
        self.interval = min(intervals) if intervals else None
        self.names = first.names or second.names
        self.sizes = first.sizes or second.sizes

    def said(self, text: str) -> None:
        for each in self._all:
            each.said(text)

    def began(self, report: TreeReport) -> None:
        for each in self._all:
            each.began(report)

    def lost(self, problem: Problem) -> None:
        for each in self._all:
            each.lost(problem)

    def done(self, done: Done) -> None:
        for each in self._all:
            each.done(done)

    def progress(self, report: TreeReport) -> None:
        for each in self._all:
            each.progress(report)

    def status(self, report: TreeReport) -> None:
        for each in self._all:
            each.status(report)

    def ended(self, report: TreeReport) -> None:
        for each in self._all:
            each.ended(report)


def carry(request: Request, wishes: TreeWishes) -> None:
    """Carry out a copy of files and trees, and show what was asked for.

    Raises: ZpipeError  whatever went wrong; the JSON stream has told it already.
    """
    from zpipe.tree.run import carry_out
    from zpipe.values import replace

    if request.dry_run:
        _foresee(request, wishes)
        return
    records = None
    feedback: TreeFeedback
    console = None
    if request.json:
        from zpipe.commands.tree_records import TreeRecords

        records = TreeRecords(2 if request.json_fd is None else request.json_fd, request.json_files)
    if records is not None and request.json_fd is None:
        feedback = records
    else:
        console = TreeConsole(request)
        feedback = console if records is None else Both(console, records)
    wishes = replace(wishes, names=feedback.names)
    try:
        with Signals() as stop:
            carry_out(
                request.sources,
                request.target,
                wishes,
                into=request.into,
                parents=request.parents,
                executor=request.executor,
                workers=request.workers,
                checksum_file=request.checksum_file,
                ask=_ask if request.ask else None,
                feedback=feedback,
                stop=stop,
            )
    except ZpipeError as error:
        if records is not None:
            records.ended_by(error)
            error.told = error.told or request.json_fd is None
        raise
    finally:
        if console is not None:
            console.clear()


def _foresee(request: Request, wishes: TreeWishes) -> None:
    from zpipe.tree.foresee import foresee
    from zpipe.tree.naming import pairs
    from zpipe.tree.tasks import Problem

    problems = made = 0
    found = pairs(request.sources, request.target, into=request.into, parents=request.parents)
    for each in foresee(found, wishes):
        if isinstance(each, Problem):
            tell(each.text)
            problems += 1
        else:
            made += 1
            print_line(f"{quoted(each[0])} -> {quoted(each[1])}")
    if problems:
        noun = "file" if problems == 1 else "files"
        error = ZpipeError(f"{problems} {noun} would not be copied")
        error.told = problems == 1 and not made
        raise error


def _ask(path: str) -> bool:
    """Ask whether a target is to be replaced; the end of standard input is a no."""
    try:
        os.write(2, b"zpipe: overwrite " + os.fsencode(quoted(path)) + b"? ")
    except OSError:
        pass
    answer = b""
    try:
        while not answer.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                break
            answer += byte
    except OSError:
        return False
    return answer[:1] in (b"y", b"Y")


def print_line(text: str) -> None:
    """Write to standard output. Raises: TransferError, ConsumerGone  it took nothing."""
    from zpipe.errors import ConsumerGone, open_failed

    try:
        os.write(1, encoded(text))
    except BrokenPipeError:
        raise ConsumerGone("standard output: write: nobody reads it") from None
    except OSError as error:
        raise open_failed("standard output", "write", error) from error


def quoted(path: str) -> str:
    """Return a path in quotes so that a shell reads it back, as cp prints it."""
    special = set(path) & set('"$`\\!')
    if path.isprintable() and "'" in path and not special:
        return f'"{path}"'
    pieces = ["'"]
    escaping = False
    for char in path:
        if char.isprintable():
            pieces.append("''" if escaping else "")
            pieces.append("'\\''" if char == "'" else char)
            escaping = False
        else:
            pieces.append("" if escaping else "'$'")
            pieces.append(_ESCAPES.get(char) or "".join(f"\\{b:03o}" for b in os.fsencode(char)))
            escaping = True
    return "".join([*pieces, "'"])


def status_line(report: TreeReport) -> str:
    """Return where a copy stands, in one line."""
    files = f"{report.files} of {report.found}" if report.walked else f"{report.files}"
    parts = [f"{files} files", format_size(report.moved)]
    if report.expected:
        of = format_size(report.expected) + ("" if report.walked else " so far")
        parts[1] += f" of {of} {'on disk' if report.sync else 'written'}"
    if report.seconds > 0:
        parts.append(f"{format_size(report.moved / report.seconds)}/s")
    parts.append(format_duration(report.seconds))
    line = f"{', '.join(parts)}"
    if report.lost:
        line += f"; {report.lost} not copied"
    return f"{report.at_hand}: {line}" if report.at_hand else line


def explained(report: TreeReport) -> str:
    """Return what was done: bytes by mover, and each reason of a fallback once."""
    from zpipe.commands.explain import rows
    from zpipe.engine.report import Fallback

    rate = ""
    if report.moved and report.seconds:
        rate = f", {format_size(report.moved / report.seconds)}/s"
    files = "1 file" if report.files == 1 else f"{report.files} files"
    folders = "1 directory" if report.directories == 1 else f"{report.directories} directories"
    lines = rows(
        "outcome",
        [
            f"{files} and {folders}, {report.moved} bytes ({format_size(report.moved)})"
            f" in {format_duration(report.seconds)}{rate}"
        ],
    )
    if report.kept:
        lines += rows("kept", [f"{report.kept} files were left as they are"])
    lines += rows("bytes", [f"{name}: {size}" for name, size in report.by_mover.most_common()])
    reasons = [
        f"{mover}: {call}: {Fallback(mover, call, number, 0).reason}"
        + (f" ({count} times)" if count > 1 else "")
        for (mover, call, number), count in report.fallbacks.most_common()
    ]
    lines += rows("fallback", reasons)
    workers = "by this process"
    if report.executor != "none":
        workers = f"by {report.workers} {report.executor}"
    lines += rows("workers", [workers])
    if report.lost:
        lines += rows("lost", [f"{report.lost}"])
    return "\n".join(lines)
