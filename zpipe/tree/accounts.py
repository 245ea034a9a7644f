"""The accounts of a run: what is counted, lost and done, and who hears of it.

Feeds the report, the journal, the checksum file and whoever listens. Decides nothing, and knows
nothing of who carries what.
"""

from __future__ import annotations

import time

from zpipe.tree.report import TreeReport

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from zpipe.engine.stop import Stop
    from zpipe.tree.journal import Journal
    from zpipe.tree.report import TreeFeedback
    from zpipe.tree.tasks import Done, Outcome, Problem
    from zpipe.tree.wishes import TreeWishes

_FLUSH = 1.0  # seconds between two writes of the journal
NOTHING = (0, 0, 0, 0, 0)  # the identity of what has no bytes of its own


class Accounts:
    """`checksums` takes each file that has a digest."""

    def __init__(
        self,
        wishes: TreeWishes,
        feedback: TreeFeedback,
        journal: Journal | None,
        checksums: Callable[[Done], None] | None,
    ):
        self.report = TreeReport()
        self.report.sync = wishes.sync
        self.feedback = feedback
        self.journal = journal
        self.under_way = 0  # bytes of the file at hand, where this process carries it
        self._checksums = checksums
        # targets of files that have other names, and their digests once they are known
        self._digests: dict[str, str] = {}
        self._ticked = self._flushed = self._began = time.monotonic()

    def take(self, outcome: Outcome) -> None:
        """Count the bytes of a task."""
        self.under_way = 0
        report = self.report
        report.moved += outcome.moved
        report.by_mover.update(outcome.by_mover)
        report.fallbacks.update(outcome.fallbacks)

    def take_files(self, outcome: Outcome) -> None:
        """Note what became of the files of a batch."""
        self.report.files += outcome.files
        self.report.kept += outcome.skipped
        for problem in outcome.problems:
            self.lose(problem)
        for done in outcome.done:
            self.note(done)

    def note(self, done: Done) -> None:
        """Note a file that is in its place."""
        if self.journal is not None and done.act == "copied":
            self.journal.done(done)
            if self.journal.full:
                self.flush()
        if done.digest:
            self.sum_up(done)
        self.feedback.done(done)

    def sum_up(self, done: Done) -> None:
        """Write the digest of a file down, where that is wanted."""
        if self._checksums is None:
            return
        if done.path in self._digests:
            self._digests[done.path] = done.digest
        self._checksums(done)

    def lose(self, problem: Problem) -> None:
        """Note what has gone wrong with one file."""
        self.report.problems.append(problem)
        self.feedback.lost(problem)

    # Files with several names

    def remember(self, target: str, digest: str) -> None:
        """Keep the digest of a file for its other names; '' where it is still to come."""
        if self._checksums is not None:
            self._digests[target] = digest

    def remembered(self, target: str) -> str:
        """Return the digest of a file; '' where it has none."""
        return self._digests.get(target, "")

    # On the way

    @property
    def patience(self) -> float | None:
        """Seconds until something is to be shown or written; None: nothing is."""
        times = []
        if self.feedback.interval is not None:
            times.append(self.feedback.interval)
        if self.journal is not None:
            times.append(_FLUSH)
        return min(times) if times else None

    def tick(self, stop: Stop, moving: Callable[[], int] | None) -> None:
        """Show and write what is due; `moving` tells the bytes of tasks that others are at."""
        now = time.monotonic()
        report, feedback = self.report, self.feedback
        due = feedback.interval is not None and now - self._ticked >= feedback.interval
        if due or stop.status_wanted:
            before = report.moved
            report.seconds = now - self._began
            report.moved += self.under_way + (moving() if moving is not None else 0)
            if stop.status_wanted:
                stop.status_wanted = False
                feedback.status(report)
            if due:
                self._ticked = now
                feedback.progress(report)
            report.moved = before
        if self.journal is not None and now - self._flushed >= _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Write the journal, if there is one. Raises: TransferError."""
        if self.journal is not None:
            self._flushed = time.monotonic()
            self.journal.flush()
