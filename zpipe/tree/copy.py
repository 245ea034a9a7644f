"""Copy files and trees: hand out what the walk finds, to this process or to others, to the end.

The coordinator never touches the bytes of a file. Operands, hard links, big files and accounts have
modules of their own; this one decides whose turn it is, when workers are worth it, and how a run
ends.
"""

from __future__ import annotations

import os
from collections import deque

from zpipe.engine.report import Meter
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted, VerifyError, ZpipeError, reason, signal_name
from zpipe.tree.accounts import NOTHING, Accounts
from zpipe.tree.crew import Alone
from zpipe.tree.operands import Operands
from zpipe.tree.report import TreeFeedback, sum_of
from zpipe.tree.tasks import Batch, Done
from zpipe.tree.walk import Walk
from zpipe.tree.worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zpipe.tree.admission import Admission
    from zpipe.tree.crew import Crew
    from zpipe.tree.divisions import Divisions
    from zpipe.tree.hard_links import HardLinks
    from zpipe.tree.journal import Journal
    from zpipe.tree.naming import Pair
    from zpipe.tree.report import TreeReport
    from zpipe.tree.tasks import Outcome, Problem, Task
    from zpipe.tree.walk import Folder
    from zpipe.tree.wishes import TreeWishes

_FEW = 64  # files: below that a worker costs more than it helps
_LISTED = 20  # lost files that are named again at the end


class TreeFailed(ZpipeError):
    """Some files were not copied; the others are complete."""


class TreeCopy:
    """One run. `crew` makes the workers, None: as many processes as `workers` says. `divides`: big
    files go in ranges.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        wishes: TreeWishes,
        *,
        workers: int = 1,
        divides: bool = False,
        crew: Callable[[], Crew] | None = None,
        journal: Journal | None = None,
        checksums: Callable[[Done], None] | None = None,
        ask: Callable[[str], bool] | None = None,
        feedback: TreeFeedback | None = None,
        stop: Stop | None = None,
    ):
        self._pairs = pairs
        self._wishes = wishes
        self._workers = workers
        self._divides = divides
        self._make_crew = crew
        self._journal = journal
        self._ask = ask
        self._feedback = feedback or TreeFeedback()
        self._stop = stop or Stop()
        self._accounts = Accounts(wishes, self._feedback, journal, checksums)
        self.report = self._accounts.report
        self._links: HardLinks | None = None
        admission = self._admission()
        token = os.urandom(4).hex()
        if journal is not None:
            token = journal.token
            journal.sync_to = pairs[0].target
        self._walk = Walk(
            wishes,
            self.report,
            token=token,
            lost=self._accounts.lose,
            admit=admission.admits if admission is not None else None,
            made=self._made if wishes.names else None,
            found=journal.clean if journal is not None and journal.resumed else None,
        )
        self._operands = Operands(pairs, wishes, self._walk, self._accounts, admission)
        self._divisions: Divisions | None = None
        self._crew: Crew | None = None
        self._ready: deque[Task] = deque()  # what is found on the way
        self._tasks: dict[int, Batch] = {}

    def _admission(self) -> Admission | None:
        """Return who looks at each file before; None: nobody needs to."""
        links = "links" in self._wishes.preserve and self._wishes.make == "copy"
        if not (links or self._feedback.sizes or self._journal is not None):
            return None
        from zpipe.tree.admission import Admission

        if links:
            from zpipe.tree.hard_links import HardLinks

            self._links = HardLinks(self._wishes, self._accounts, self._ask)
            if self._ask is not None:
                self._ask = self._links.ask
        return Admission(self._wishes, self._accounts, self._links)

    def run(self) -> TreeReport:
        """Copy everything.

        Raises: TreeFailed   some files were not copied (exit 1).
                VerifyError  what was read back is not what was written (exit 3).
                Interrupted  a signal asked for the end; what is complete stays.
                TransferError, UsageError  nothing could be begun.
        """
        meter = Meter()
        report, feedback = self.report, self._feedback
        report.sources = [pair.source for pair in self._pairs]
        report.target = self._pairs[0].target if len(self._pairs) == 1 else ""
        feedback.began(report)
        try:
            self._loop()
        except Interrupted as error:
            self._tidy()  # workers tell what they have done
            error.args = (f"ended by {signal_name(error.signum)}; {self._so_far()}",)
            raise
        finally:
            self._tidy()
            report.resources = sum_of(meter.read(), report.resources)
            report.seconds = report.resources.seconds
            feedback.ended(report)
        self._judge()
        return report

    def _judge(self) -> None:
        report = self.report
        if self._journal is not None and not report.problems:
            self._journal.remove()
        if not report.problems:
            return
        mismatch = any(problem.kind == "mismatch" for problem in report.problems)
        lost = [problem for problem in report.problems if problem.kind != "attribute"]
        bare = [problem for problem in report.problems if problem.kind == "attribute"]
        parts = []
        if lost:
            parts.append(_names(lost, "not copied"))
        if bare:
            parts.append(_names(bare, "copied without all attributes"))
        text = "; ".join(parts)
        error = VerifyError(text) if mismatch else TreeFailed(text)
        # where there was nothing else, its own line has said it all
        error.told = len(lost) == 1 and not bare and not report.files and not report.directories
        raise error

    def _so_far(self) -> str:
        report = self.report
        files = "1 file was copied" if report.files == 1 else f"{report.files} files were copied"
        if self._journal is not None:
            return f"{files}; --resume goes on"
        return files

    # The loop

    def _loop(self) -> None:
        tasks = self._operands.tasks()
        self._crew = crew = self._first_crew()
        exhausted = False
        held: deque[Task] = deque()  # until it is known whether workers are worth it
        undecided = isinstance(crew, Alone) and self._workers > 1
        while True:
            self._stop.check()
            while undecided:
                task = next(tasks, None)
                if task is None:
                    undecided, exhausted = False, True
                    self.report.walked = True
                else:
                    held.append(task)
                    if _is_much(held):
                        self._crew = crew = self._hire()
                        undecided = False
            while crew.room > 0:
                self._stop.check()
                task = self._next(held, tasks) if not exhausted else self._pop(held)
                if task is None:
                    if not exhausted:
                        exhausted = self.report.walked = True
                    break
                if isinstance(task, Batch):
                    self._tasks[task.number] = task
                self.report.at_hand = task.source
                if isinstance(crew, Alone) and not (exhausted or held or self._ready):
                    # while it is carried nobody walks: this may be the last one
                    ahead = next(tasks, None)
                    if ahead is None:
                        exhausted = self.report.walked = True
                    else:
                        held.append(ahead)
                crew.send(task)
                if isinstance(crew, Alone):
                    break
            if crew.busy:
                for outcome in crew.collect(self._accounts.patience, self._stop.wakeup):
                    self._take(outcome)
            if self._divides_now and isinstance(crew, Alone) and self._workers > 1:
                # ranges of one big file are work for several, too
                self._crew = crew = self._hire()
                undecided = False
            self._tick()
            if exhausted and not crew.busy and not held and not self._ready:
                if self._links is None or not self._links.waiting:
                    break
                task = self._links.make(self._walk, self._stop)
                if task is not None:
                    self._ready.append(task)

    def _pop(self, held: deque[Task]) -> Task | None:
        if self._ready:
            return self._ready.popleft()
        return held.popleft() if held else None

    def _next(self, held: deque[Task], tasks: Iterator[Task]) -> Task | None:
        task = self._pop(held)
        return task if task is not None else next(tasks, None)

    @property
    def _divides_now(self) -> bool:
        return self._divisions is not None and self._divisions.under_way

    # Who works

    def _first_crew(self) -> Crew:
        if self._make_crew is not None:
            crew = self._make_crew()
            self.report.workers, self.report.executor = crew.workers, crew.name
            return crew
        limiter = None
        if self._wishes.rate_limit is not None:
            from zpipe.engine.limiter import Limiter

            limiter = Limiter(self._wishes.rate_limit)
        worker = Worker(
            self._wishes,
            self._stop,
            divides=self._divides,
            limiter=limiter,
            moving=self._moved_within,
            ask=self._ask,
        )
        return Alone(worker)

    def _hire(self) -> Crew:
        from zpipe.tree.forked import Forked

        def make(stop: Stop, moving: Callable[[int], None]) -> Worker:
            return Worker(self._wishes, stop, divides=self._divides, moving=moving)

        try:
            crew = Forked(self._workers, make, self._feedback.said)
        except OSError as error:
            self._feedback.said(f"fork: {reason(error)}: going on without workers")
            self._workers = 1
            return self._first_crew()
        self.report.workers = crew.workers
        self.report.executor = crew.name
        return crew

    # What comes back

    def _take(self, outcome: Outcome) -> None:
        self._accounts.take(outcome)
        if self._divisions is not None and self._divisions.take(outcome):
            return
        self._accounts.take_files(outcome)
        batch = self._tasks.pop(outcome.number, None)
        folder = self._walk.folders.pop(outcome.number, None)
        if batch is not None and outcome.big:
            self._divide(batch, outcome, folder)
        self._walk.leave(folder)

    def _divide(self, batch: Batch, outcome: Outcome, folder: Folder | None) -> None:
        if self._divisions is None:
            from zpipe.tree.divisions import Divisions

            self._divisions = Divisions(self._wishes, self._walk, self._accounts, self._ready)
        for big in outcome.big:
            self._divisions.divide(batch, big, folder)

    def _made(self, folder: Folder) -> None:
        self._feedback.done(Done(folder.source, folder.target, 0, NOTHING, NOTHING, "", "made"))

    def _moved_within(self, count: int) -> None:
        """Hear how far the file at hand is, where nobody else carries."""
        self._accounts.under_way = count
        self._tick()

    def _tick(self) -> None:
        self._accounts.tick(self._stop, self._crew.moving if self._crew is not None else None)

    def _tidy(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            for outcome in crew.halt():
                self._take(outcome)
            crew.close()
            self.report.resources = sum_of(self.report.resources, crew.used)
        if self._divisions is not None:
            self._divisions.discard()
        self._accounts.flush()


def _is_much(held: deque[Task]) -> bool:
    count = sum(len(task.files) for task in held if isinstance(task, Batch))
    return count >= _FEW or len(held) > 4 * _FEW


def _names(problems: Sequence[Problem], what: str) -> str:
    """Return how many files were so, and their names unless they are many."""
    paths = list(dict.fromkeys(problem.path for problem in problems))
    names = ", ".join(paths[:_LISTED])
    if len(paths) > _LISTED:
        names += f", and {len(paths) - _LISTED} more"
    return f"{len(paths)} {'file was' if len(paths) == 1 else 'files were'} {what}: {names}"
