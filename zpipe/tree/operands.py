"""What operands become: refused, walked as a directory, or a task of their own.

Knows nothing of what is below a directory (walk.py), and of what a task does.
"""

from __future__ import annotations

import os
import stat

from zpipe.errors import reason
from zpipe.tree.naming import is_inside
from zpipe.tree.tasks import Problem
from zpipe.tree.walk import excluded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zpipe.tree.accounts import Accounts
    from zpipe.tree.admission import Admission
    from zpipe.tree.naming import Pair
    from zpipe.tree.tasks import Task
    from zpipe.tree.walk import Folder, Walk
    from zpipe.tree.wishes import TreeWishes


def look_at(pair: Pair, wishes: TreeWishes) -> os.stat_result | Problem | None:
    """Return what stat says of an operand, or why it says nothing; None: it is left out."""
    source = pair.source
    name = os.path.basename(source.rstrip("/"))
    if wishes.exclude and excluded(name, name, wishes.exclude):
        return None
    follow = wishes.follow != "never" or source.endswith("/")
    try:
        return os.stat(source, follow_symlinks=follow)
    except OSError as error:
        return Problem(source, f"{source}: stat: {reason(error)}")


def refusal(pair: Pair, info: os.stat_result, wishes: TreeWishes) -> Problem | None:
    """Return why an operand that is there cannot be copied to that target."""
    source, target = pair.source, pair.target
    text = None
    if stat.S_ISDIR(info.st_mode):
        if not wishes.recursive:
            text = f"{source}: is a directory: -r copies it with all that is in it"
        elif is_inside(target, info):
            text = f"{source}: a directory cannot be copied into itself, {target}"
    elif target.endswith("/"):
        text = f"{target}: open: Not a directory"
    elif _is_special(info) and not wishes.recursive and wishes.make == "copy":
        text = (
            f"{source}: is no regular file: -r makes one of its kind; zpipe cp SRC DST"
            " without other options reads from it"
        )
    return None if text is None else Problem(source, text)


def _is_special(info: os.stat_result) -> bool:
    return not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode))


class Operands:
    """Yields their tasks, one after the other."""

    def __init__(
        self,
        pairs: Sequence[Pair],
        wishes: TreeWishes,
        walk: Walk,
        accounts: Accounts,
        admission: Admission | None,
    ):
        self._pairs = pairs
        self._wishes = wishes
        self._walk = walk
        self._accounts = accounts
        self._admission = admission
        # targets: what they are made from; a name is not given twice in one run
        self._claimed: dict[str, tuple[str, tuple[int, int]]] = {}

    def tasks(self) -> Iterator[Task]:
        """Yield tasks; what is wrong with an operand is accounted for, and the next one follows."""
        for pair in self._pairs:
            info = look_at(pair, self._wishes)
            if isinstance(info, Problem):
                self._accounts.lose(info)
            elif info is not None:
                yield from self._tasks_of(pair, info)

    def _tasks_of(self, pair: Pair, info: os.stat_result) -> Iterator[Task]:
        parent: Folder | None = None
        for like, made in pair.parents:
            parent = self._walk.enter_like(like, made, parent)
            if parent is None:
                return
        problem = refusal(pair, info, self._wishes)
        if problem is not None:
            self._accounts.lose(problem)
        elif stat.S_ISDIR(info.st_mode):
            source, target = pair.source, pair.target
            yield from self._walk.tree(source, target, info, parent, through=pair.through)
        elif self._is_admitted(pair, info, parent):
            follow = self._wishes.follow != "never"
            yield self._walk.one(pair.source, pair.target, info, parent, follow=follow)
        self._walk.leave(parent)

    def _is_admitted(self, pair: Pair, info: os.stat_result, parent: Folder | None) -> bool:
        self._accounts.report.found += 1
        if not self._claims(pair, info):
            return False
        admission = self._admission
        return admission is None or admission.takes(pair.source, pair.target, info, parent)

    def _claims(self, pair: Pair, info: os.stat_result) -> bool:
        """Whether no other operand has that target; says so where one has."""
        source, target = pair.source, pair.target
        own = (info.st_dev, info.st_ino)
        if target not in self._claimed:
            self._claimed[target] = (source, own)
            return True
        first, other = self._claimed[target]
        if own == other:
            self._accounts.feedback.said(f"{source}: is given more than once")
        else:
            text = f"{target}: was just made from {first}: is not replaced by {source}"
            self._accounts.lose(Problem(source, text))
        return False
