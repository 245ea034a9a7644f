"""Files with several names: the first that is met is copied, the others become names of the copy.

They do so when all tasks are done. Where the first one is lost, or what stood in its place is to
stay, the next takes its place and is copied. Knows nothing of who copies.
"""

from __future__ import annotations

import os

from zpipe.errors import reason
from zpipe.tree.accounts import NOTHING
from zpipe.tree.place import temporary_name
from zpipe.tree.tasks import Done, Problem, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.stop import Stop
    from zpipe.tree.accounts import Accounts
    from zpipe.tree.tasks import Batch
    from zpipe.tree.walk import Folder, Walk
    from zpipe.tree.wishes import TreeWishes

    # the first name, source and target of this one, and where it counts
    Later = tuple["First", str, str, Folder | None]


class First:
    """The name of a file that is the one to be copied."""

    __slots__ = ("source", "target")

    def __init__(self, source: str, target: str):
        self.source = source
        self.target = target


class HardLinks:
    """`waiting`: names that are to be given to files. `ask` hears of targets that are there."""

    def __init__(
        self, wishes: TreeWishes, accounts: Accounts, ask: Callable[[str], bool] | None = None
    ):
        self._wishes = wishes
        self._accounts = accounts
        self._ask = ask
        self._refused: set[str] = set()
        self._firsts: dict[tuple[int, int], First] = {}  # by device and inode
        self.waiting: list[Later] = []

    def joins(self, source: str, target: str, info: os.stat_result, folder: Folder | None) -> bool:
        """Whether it is another name of a file that is copied already; then it is linked later."""
        first = self._firsts.get((info.st_dev, info.st_ino))
        if first is None or first.target == target:
            return False
        if folder is not None:
            folder.open += 1
        self.waiting.append((first, source, target, folder))
        return True

    def begins(self, source: str, target: str, info: os.stat_result, digest: str | None) -> None:
        """Take a name for the first one. `digest` is of the copy that an earlier run has made;
        None: there is none yet.
        """
        if info.st_nlink < 2 and self._wishes.follow == "never":
            return  # with links that are followed, one file may be met twice all the same
        if digest is None and self._wishes.existing == "skip" and os.path.lexists(target):
            return  # what is there stays, and is no copy of this
        # as problems name it
        first = First(join(*os.path.split(source)), target)
        if self._firsts.setdefault((info.st_dev, info.st_ino), first) is first:
            self._accounts.remember(target, digest or "")

    def ask(self, target: str) -> bool:
        """Ask whether a target is to be replaced."""
        assert self._ask is not None
        if self._ask(target):
            return True
        self._refused.add(target)
        return False

    def make(self, walk: Walk, stop: Stop) -> Batch | None:
        """Give the files their other names, until one is met whose first name was lost: return the
        task of copying that.

        Raises: Interrupted.
        """
        accounts = self._accounts
        problems = accounts.report.problems
        lost = {problem.path for problem in problems if problem.kind != "attribute"}
        later, self.waiting = self.waiting, []
        for place, (first, source, target, folder) in enumerate(later):
            stop.check()
            if first.source in lost or not self._link(first, source, target):
                task = self._copy_instead(first, source, target, folder, walk)
                if task is not None:
                    self.waiting = later[place + 1 :]  # of this file, they wait for it
                    walk.leave(folder)
                    return task
            walk.leave(folder)
        return None

    def _copy_instead(
        self, first: First, source: str, target: str, folder: Folder | None, walk: Walk
    ) -> Batch | None:
        """Return the task for a name that is the first from now on; None: it is lost, too."""
        follow = self._wishes.follow == "always"
        try:
            info = os.stat(source, follow_symlinks=follow)
        except OSError as error:
            self._accounts.lose(Problem(source, f"{source}: stat: {reason(error)}"))
            return None
        first.source, first.target = source, target
        self._accounts.remember(target, "")
        return walk.one(source, target, info, folder, follow=follow)

    def _link(self, first: First, source: str, target: str) -> bool:
        """Make a name for a file that is copied; False when that one is not there."""
        accounts = self._accounts
        if first.target in self._refused:
            return False
        digest = accounts.remembered(first.target)
        folder, name = os.path.split(target)
        temporary = os.path.join(folder, temporary_name(name, os.urandom(4).hex(), 0))
        try:
            there = os.lstat(first.target)
        except OSError:
            return False
        try:
            found = os.lstat(target)
            if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                accounts.report.kept += 1
                if digest:
                    accounts.sum_up(Done(source, target, 0, NOTHING, NOTHING, digest, "kept"))
                return True
            if self._stays(source, target, found):
                accounts.report.kept += 1
                return True
        except OSError:
            pass
        try:
            os.link(first.target, temporary, follow_symlinks=False)
            os.rename(temporary, target)
        except OSError as error:
            accounts.lose(Problem(source, f"{target}: link: {reason(error)}"))
            return True
        accounts.report.files += 1
        accounts.note(Done(source, target, 0, NOTHING, NOTHING, digest, "linked"))
        return True

    def _stays(self, source: str, target: str, found: os.stat_result) -> bool:
        """Whether what stands where a name is to come is left as it is."""
        wishes = self._wishes
        if wishes.existing == "skip":
            return True
        if wishes.update:
            info = os.stat(source, follow_symlinks=wishes.follow == "always")
            if found.st_mtime_ns >= info.st_mtime_ns:
                return True
        return self._ask is not None and not self._ask(target)
