"""The big files of a run that go in ranges: each is divided, watched, and put in place at its end.

Knows nothing of who carries a range, nor what a file needs to be begun and ended: division.py does.
"""

from __future__ import annotations

from zpipe.errors import ZpipeError
from zpipe.tree.division import Division
from zpipe.tree.tasks import Problem, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque

    from zpipe.tree.accounts import Accounts
    from zpipe.tree.tasks import Batch, Big, Outcome, Task
    from zpipe.tree.walk import Folder, Walk
    from zpipe.tree.wishes import TreeWishes


class Divisions:
    """Puts ranges into `ready`, and takes what becomes of them."""

    def __init__(self, wishes: TreeWishes, walk: Walk, accounts: Accounts, ready: deque[Task]):
        self._wishes = wishes
        self._walk = walk
        self._accounts = accounts
        self._ready = ready
        self._count = 0
        self._by_chunk: dict[int, Division] = {}

    @property
    def under_way(self) -> bool:
        """Whether ranges are still to come back."""
        return bool(self._by_chunk)

    def divide(self, batch: Batch, big: Big, folder: Folder | None) -> None:
        """Begin with a file of a batch, which is in a directory that is walked."""
        accounts = self._accounts
        source = join(batch.source, big.name)
        target = join(batch.target, batch.as_name or big.name)
        self._count += 1
        try:
            division = Division(
                source,
                target,
                self._wishes,
                folder,
                accounts.journal,
                batch.token,
                self._count,
                big.identity,
                self._walk.umask,
            )
        except ZpipeError as error:
            accounts.lose(Problem(source, str(error)))
            return
        if division.note:
            accounts.feedback.said(division.note)
        accounts.report.moved += division.had
        chunks = division.chunks(lambda: self._walk.number(folder))
        if not chunks:
            self._finish(division)
            return
        if folder is not None:
            folder.open += 1  # until the file is in its place
        for chunk in chunks:
            self._by_chunk[chunk.number] = division
            self._ready.append(chunk)

    def take(self, outcome: Outcome) -> bool:
        """Take what became of a range; False where it is no range."""
        division = self._by_chunk.pop(outcome.number, None)
        if division is None:
            return False
        accounts, walk = self._accounts, self._walk
        for problem in outcome.problems:
            if not division.failed:
                accounts.lose(problem)  # one of them tells of the file
            division.failed = True
        if outcome.partial:
            outcome.failed = division.failed = True  # nothing to tell: a signal has ended it
        division.left -= 1
        offset = division.by_number.pop(outcome.number)
        if accounts.journal is not None and not outcome.failed:
            accounts.journal.range(division.target, offset)
        if division.failed and not division.given_up:
            self._give_up(division)
        if not division.left:
            self._finish(division)
            walk.leave(division.folder)
        walk.leave(walk.folders.pop(outcome.number, None))
        return True

    def _give_up(self, division: Division) -> None:
        """The rest of its ranges would be for nothing."""
        division.given_up = True
        mine = [task for task in self._ready if self._by_chunk.get(task.number) is division]
        for task in mine:
            self._ready.remove(task)
            del self._by_chunk[task.number]
            division.left -= 1
            self._walk.leave(self._walk.folders.pop(task.number, None))

    def _finish(self, division: Division) -> None:
        """All ranges are there, or will never be."""
        accounts = self._accounts
        if division.failed:
            division.discard(keep=self._wishes.resume)
            return
        try:
            done = division.commit()
        except ZpipeError as error:
            accounts.lose(Problem(division.source, str(error)))
            division.discard(keep=False)
            return
        if division.problem is not None:
            accounts.lose(division.problem)
        accounts.report.files += 1
        accounts.note(done)

    def discard(self) -> None:
        """Leave nothing of the files that are not complete, unless it is to be gone on with."""
        for division in set(self._by_chunk.values()):
            if not division.ended:
                division.discard(keep=self._wishes.resume)
