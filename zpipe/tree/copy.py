"""Copy files and trees: walk, hand tasks to workers, put big files together, account.

The coordinator never touches the bytes of a file. It makes directories, remembers hard links, keeps
the journal, and gives directories their attributes when everything in them is done.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque

from zpipe.engine.report import Meter
from zpipe.engine.stop import Stop
from zpipe.errors import (
    Interrupted,
    VerifyError,
    ZpipeError,
    reason,
    signal_name,
)
from zpipe.tree.crew import Alone
from zpipe.tree.naming import is_inside
from zpipe.tree.report import TreeFeedback, TreeReport
from zpipe.tree.tasks import Batch, Big, Done, Problem
from zpipe.tree.walk import Walk, excluded
from zpipe.tree.worker import Worker, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zpipe.tree.crew import Crew
    from zpipe.tree.division import Division
    from zpipe.tree.journal import Journal
    from zpipe.tree.naming import Pair
    from zpipe.tree.tasks import Outcome, Task
    from zpipe.tree.walk import Folder
    from zpipe.tree.wishes import TreeWishes

_FEW = 64  # files: below that a worker costs more than it helps
_FLUSH = 1.0  # seconds between two writes of the journal
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
        self._checksums = checksums
        self._ask = ask
        self._feedback = feedback or TreeFeedback()
        self._stop = stop or Stop()
        self.report = TreeReport()
        self.report.sync = wishes.sync
        self._links: dict[tuple[int, int], str] = {}
        self._later: list[
            tuple[str, str, str, Folder | None]
        ] = []  # hard links: first, source, new
        admit = None
        self._counts = self._feedback.sizes
        if self._counts or "links" in wishes.preserve or journal is not None:
            admit = self._admit
        targets = [pair.target for pair in pairs]
        token = os.urandom(4).hex()
        if journal is not None:
            token = journal.token
            journal.sync_to = targets[0]
        self._walk = Walk(
            wishes,
            self.report,
            token=token,
            lost=self._lose,
            admit=admit,
            made=self._made if wishes.names else None,
            found=journal.clean if journal is not None and journal.resumed else None,
        )
        self._big = 0
        # targets of operands: what they are made from; a name is not given twice in one run
        self._claimed: dict[str, tuple[str, tuple[int, int]]] = {}
        # targets of files with several names, and their digests once they are known
        self._firsts: dict[str, str] = {}
        self._crew: Crew | None = None
        self._ready: deque[Task] = deque()
        self._divisions: dict[int, Division] = {}  # chunk -> its file
        self._tasks: dict[int, Batch] = {}
        self._ticked = self._flushed = self._began = time.monotonic()
        self._bytes_under_way = 0

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
            report.resources = meter.read()
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
        tasks = self._all_tasks()
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
                    if self._is_much(held):
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
                for outcome in crew.collect(self._patience(), self._stop.wakeup):
                    self._take(outcome)
            if self._divisions and isinstance(crew, Alone) and self._workers > 1:
                # ranges of one big file are work for several, too
                self._crew = crew = self._hire()
                undecided = False
            self._tick()
            if exhausted and not crew.busy and not held and not self._ready:
                if not self._later:
                    break
                self._make_links()

    def _pop(self, held: deque[Task]) -> Task | None:
        if self._ready:
            return self._ready.popleft()
        return held.popleft() if held else None

    def _next(self, held: deque[Task], tasks: Iterator[Task]) -> Task | None:
        task = self._pop(held)
        return task if task is not None else next(tasks, None)

    def _is_much(self, held: deque[Task]) -> bool:
        count = 0
        for task in held:
            if isinstance(task, Batch):
                count += len(task.files)
        return count >= _FEW or len(held) > 4 * _FEW

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
        from zpipe.tree.crew import Forked

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

    def _patience(self) -> float | None:
        times = []
        if self._feedback.interval is not None:
            times.append(self._feedback.interval)
        if self._journal is not None:
            times.append(_FLUSH)
        return min(times) if times else None

    # Tasks

    def _all_tasks(self) -> Iterator[Task]:
        for pair in self._pairs:
            yield from self._operand(pair)

    def _operand(self, pair: Pair) -> Iterator[Task]:
        wishes = self._wishes
        follow = wishes.follow != "never"
        source = pair.source
        name = os.path.basename(source.rstrip("/"))
        if wishes.exclude and excluded(name, name, wishes.exclude):
            return
        try:
            info = os.stat(source, follow_symlinks=follow or source.endswith("/"))
        except OSError as error:
            self._lose(Problem(source, f"{source}: stat: {reason(error)}"))
            return
        parent: Folder | None = None
        for like, made in pair.parents:
            parent = self._walk.enter_like(like, made, parent)
            if parent is None:
                return
        yield from self._carried(pair, info, parent, follow=follow)
        self._walk.leave(parent)

    def _carried(
        self, pair: Pair, info: os.stat_result, parent: Folder | None, *, follow: bool
    ) -> Iterator[Task]:
        """Yield the tasks of an operand that is there."""
        wishes = self._wishes
        source, target = pair.source, pair.target
        if stat.S_ISDIR(info.st_mode):
            if not wishes.recursive:
                text = f"{source}: is a directory: -r copies it with all that is in it"
                self._lose(Problem(source, text))
                return
            if is_inside(target, info):
                text = f"{source}: a directory cannot be copied into itself, {target}"
                self._lose(Problem(source, text))
                return
            yield from self._walk.tree(source, target, info, parent, through=pair.through)
        else:
            if target.endswith("/"):
                self._lose(Problem(source, f"{target}: open: Not a directory"))
                return
            if not wishes.recursive and wishes.make == "copy":
                special = not (stat.S_ISREG(info.st_mode) or stat.S_ISLNK(info.st_mode))
                if special:
                    text = (
                        f"{source}: is no regular file: -r makes one of its kind; zpipe cp SRC DST"
                        " without other options reads from it"
                    )
                    self._lose(Problem(source, text))
                    return
            self.report.found += 1
            if not self._claims(source, target, info):
                return
            if self._counts and stat.S_ISREG(info.st_mode):
                self.report.expected += self._size(info)
            if self._is_resumed(source, target, info):
                return
            if self._is_link(source, target, info, parent):
                return
            yield self._walk.one(source, target, info, parent, follow=follow)

    def _claims(self, source: str, target: str, info: os.stat_result) -> bool:
        """Whether no other operand has that target; says so where one has."""
        own = (info.st_dev, info.st_ino)
        if target not in self._claimed:
            self._claimed[target] = (source, own)
            return True
        first, other = self._claimed[target]
        if own == other:
            self._feedback.said(f"{source}: is given more than once")
            return False
        text = f"{target}: was just made from {first}: is not replaced by {source}"
        self._lose(Problem(source, text))
        return False

    def _admit(self, folder: Folder, entry: os.DirEntry[str]) -> bool:
        """Look at an entry more closely; tell whether it is to be copied now."""
        try:
            info = entry.stat(follow_symlinks=self._wishes.follow == "always")
        except OSError:
            return True  # whoever opens it finds the words
        if self._counts and stat.S_ISREG(info.st_mode):
            self.report.expected += self._size(info)
        target = join(folder.target, entry.name)
        if self._is_resumed(entry.path, target, info):
            return False
        return not self._is_link(entry.path, target, info, folder)

    def _size(self, info: os.stat_result) -> int:
        """Return the bytes that a file will probably move: holes move none."""
        if self._wishes.sparse == "never":
            return info.st_size
        return min(info.st_size, info.st_blocks * 512)

    def _is_link(
        self, source: str, target: str, info: os.stat_result, folder: Folder | None
    ) -> bool:
        """Whether it is another name of a file that is copied already; then it is linked later."""
        if "links" not in self._wishes.preserve:
            return False
        if info.st_nlink < 2 and self._wishes.follow == "never":
            return False  # with links that are followed, one file may be met twice all the same
        if self._wishes.make != "copy":
            return False
        key = (info.st_dev, info.st_ino)
        first = self._links.setdefault(key, target)
        if first == target:
            if self._checksums is not None:
                self._firsts[target] = ""
            return False
        if folder is not None:
            folder.open += 1
        self._later.append((first, source, target, folder))
        return True

    def _is_resumed(self, source: str, target: str, info: os.stat_result) -> bool:
        """Whether an earlier run has finished this file, and neither side has changed since."""
        if self._journal is None or not stat.S_ISREG(info.st_mode):
            return False
        record = self._journal.finished_of(target)
        if record is None:
            return False
        from zpipe.tree.tasks import identity_of

        before, put, digest = record
        if before != identity_of(info):
            self._feedback.said(f"{source}: has changed since it was copied: is copied again")
            return False
        try:
            if identity_of(os.lstat(target))[:4] != put[:4]:
                self._feedback.said(f"{target}: has changed since: is copied again")
                return False
        except OSError:
            return False
        self.report.kept += 1
        if self._checksums is not None and digest:
            self._checksums(Done(source, target, info.st_size, before, put, digest, "kept"))
        return True

    def _make_links(self) -> None:
        """Give the files that have several names their other ones."""
        later, self._later = self._later, []
        for place, (first, source, target, folder) in enumerate(later):
            self._stop.check()
            if not self._link(first, source, target):
                # the first name was lost: this one is copied, and is the first from now on
                for key, name in self._links.items():
                    if name == first:
                        self._links[key] = target
                        break
                above, name = os.path.split(source)
                to, as_name = os.path.split(target)
                number = self._walk.number(folder)
                self._ready.append(
                    Batch(
                        number=number,
                        source=above,
                        target=to,
                        files=(name,),
                        as_name=as_name,
                        token=f"{os.urandom(4).hex()}{number:x}",
                    )
                )
                # the others of this file wait for it
                for other, again, name, where in later[place + 1 :]:
                    self._later.append((target if other == first else other, again, name, where))
                self._walk.leave(folder)
                return
            self._walk.leave(folder)

    def _link(self, first: str, source: str, target: str) -> bool:
        """Make a name for a file that is copied; False when that one is not there."""
        from zpipe.tree.place import temporary_name

        folder, name = os.path.split(target)
        temporary = os.path.join(folder, temporary_name(name, os.urandom(4).hex(), 0))
        try:
            there = os.lstat(first)
        except OSError:
            return False
        try:
            found = os.lstat(target)
            if (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino):
                return True
            if self._wishes.existing != "replace" or self._wishes.update:
                self.report.kept += 1
                return True
        except OSError:
            pass
        try:
            os.link(first, temporary, follow_symlinks=False)
            os.rename(temporary, target)
        except OSError as error:
            self._lose(Problem(source, f"{target}: link: {reason(error)}"))
            return True
        self.report.files += 1
        nothing = (0, 0, 0, 0, 0)
        digest = self._firsts.get(first, "")
        self._note(Done(source, target, 0, nothing, nothing, digest, "linked"))
        return True

    def _made(self, folder: Folder) -> None:
        nothing = (0, 0, 0, 0, 0)
        self._feedback.done(Done(folder.source, folder.target, 0, nothing, nothing, "", "made"))

    # Outcomes

    def _take(self, outcome: Outcome) -> None:
        report = self.report
        self._bytes_under_way = 0
        report.moved += outcome.moved
        report.by_mover.update(outcome.by_mover)
        report.fallbacks.update(outcome.fallbacks)
        division = self._divisions.pop(outcome.number, None)
        if division is not None:
            self._take_chunk(division, outcome)
            return
        report.files += outcome.files
        report.kept += outcome.skipped
        for problem in outcome.problems:
            self._lose(problem)
        for done in outcome.done:
            self._note(done)
        batch = self._tasks.pop(outcome.number, None)
        folder = self._walk.folders.pop(outcome.number, None)
        if batch is not None:
            for big in outcome.big:
                self._divide(batch, big, folder)
        self._walk.leave(folder)

    def _divide(self, batch: Batch, big: Big, folder: Folder | None) -> None:
        from zpipe.tree.division import Division

        source = join(batch.source, big.name)
        target = join(batch.target, batch.as_name or big.name)
        try:
            self._big += 1
            division = Division(
                source,
                target,
                self._wishes,
                folder,
                self._journal,
                batch.token,
                self._big,
                big.identity,
                self._walk.umask,
            )
        except ZpipeError as error:
            self._lose(Problem(source, str(error)))
            return
        if division.note:
            self._feedback.said(division.note)
        self.report.moved += division.had
        chunks = division.chunks(lambda: self._walk.number(folder))
        if not chunks:
            self._finish(division)
            return
        if folder is not None:
            folder.open += 1  # until the file is in its place
        for chunk in chunks:
            self._divisions[chunk.number] = division
            self._ready.append(chunk)

    def _take_chunk(self, division: Division, outcome: Outcome) -> None:
        for problem in outcome.problems:
            if not division.failed:
                self._lose(problem)  # one of them tells of the file
            division.failed = True
        if outcome.partial:
            outcome.failed = division.failed = True  # nothing to tell: a signal has ended it
        division.left -= 1
        offset = division.by_number.pop(outcome.number)
        if self._journal is not None and not outcome.failed:
            self._journal.range(division.target, offset)
        if division.failed and not division.given_up:
            # the rest of its ranges would be for nothing
            division.given_up = True
            mine = [task for task in self._ready if self._divisions.get(task.number) is division]
            for task in mine:
                self._ready.remove(task)
                del self._divisions[task.number]
                division.left -= 1
                self._walk.leave(self._walk.folders.pop(task.number, None))
        if not division.left:
            self._finish(division)
            self._walk.leave(division.folder)
        self._walk.leave(self._walk.folders.pop(outcome.number, None))

    def _finish(self, division: Division) -> None:
        """All ranges are there, or will never be."""
        if division.failed:
            division.discard(keep=self._wishes.resume)
            return
        try:
            done = division.commit()
        except ZpipeError as error:
            self._lose(Problem(division.source, str(error)))
            division.discard(keep=False)
            return
        if division.problem is not None:
            self._lose(division.problem)
        self.report.files += 1
        self._note(done)

    def _note(self, done: Done) -> None:
        if self._journal is not None and done.act == "copied":
            self._journal.done(done)
            if self._journal.full:
                self._flush()
        if self._checksums is not None and done.digest:
            if done.path in self._firsts:
                self._firsts[done.path] = done.digest
            self._checksums(done)
        self._feedback.done(done)

    def _lose(self, problem: Problem) -> None:
        self.report.problems.append(problem)
        self._feedback.lost(problem)

    # On the way

    def _moved_within(self, count: int) -> None:
        """Hear how far the file at hand is, where nobody else carries."""
        self._bytes_under_way = count
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        report, feedback = self.report, self._feedback
        due = feedback.interval is not None and now - self._ticked >= feedback.interval
        if due or self._stop.status_wanted:
            before = report.moved
            report.seconds = now - self._began
            if self._crew is not None:
                report.moved += self._bytes_under_way + self._crew.moving()
            if self._stop.status_wanted:
                self._stop.status_wanted = False
                feedback.status(report)
            if due:
                self._ticked = now
                feedback.progress(report)
            report.moved = before
        if self._journal is not None and now - self._flushed >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        assert self._journal is not None
        self._flushed = time.monotonic()
        self._journal.flush()

    def _tidy(self) -> None:
        crew, self._crew = self._crew, None
        if crew is not None:
            for outcome in crew.halt():
                self._take(outcome)
            crew.close()
        for division in set(self._divisions.values()):
            if not division.ended:
                division.discard(keep=self._wishes.resume)
        if self._journal is not None:
            self._flush()


def _names(problems: Sequence[Problem], what: str) -> str:
    """Return how many files were so, and their names unless they are many."""
    paths = list(dict.fromkeys(problem.path for problem in problems))
    names = ", ".join(paths[:_LISTED])
    if len(paths) > _LISTED:
        names += f", and {len(paths) - _LISTED} more"
    return f"{len(paths)} {'file was' if len(paths) == 1 else 'files were'} {what}: {names}"
