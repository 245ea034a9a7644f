"""What a copy of trees would make, shown: in lines for people, or as one JSON document.

Knows nothing of how that is found.
"""

from __future__ import annotations

from zpipe.commands.speaking import tell, write_out
from zpipe.errors import ZpipeError
from zpipe.tree.tasks import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Foreseen = Iterable[tuple[str, str] | Problem]

VERSION = 1


def show_foreseen(found: Foreseen, *, json: bool) -> None:
    """Show what is found, as it is found.

    Raises: ZpipeError  something would fail for certain.
            ConsumerGone, TransferError  standard output took nothing.
    """
    made, problems = (_document if json else _lines)(found)
    if problems:
        noun = "file" if problems == 1 else "files"
        error = ZpipeError(f"{problems} {noun} would not be copied")
        error.told = json or (problems == 1 and not made)
        raise error


def _lines(found: Foreseen) -> tuple[int, int]:
    """Return how many would be made, and how many fail."""
    from zpipe.commands.tree_words import arrow

    made = problems = 0
    for each in found:
        if isinstance(each, Problem):
            tell(each.text)
            problems += 1
        else:
            made += 1
            write_out(arrow(*each))
    return made, problems


def _document(found: Foreseen) -> tuple[int, int]:
    """A line for each file, so that a big tree need not be held in memory."""
    from json import dumps

    problems = []
    made = 0
    write_out(f'{{"v": {VERSION}, "files": [')
    for each in found:
        if isinstance(each, Problem):
            problems.append({"path": each.path, "text": each.text, "kind": each.kind})
        else:
            source, path = each
            write_out(("," if made else "") + dumps({"source": source, "path": path}))
            made += 1
    write_out(f'], "failed": {dumps(problems)}}}')
    return made, len(problems)
