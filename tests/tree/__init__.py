"""What the tests of trees have in common: tasks for real directories, carried by this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from zpipe.engine.stop import Stop
from zpipe.errors import ZpipeError
from zpipe.tree.division import Division
from zpipe.tree.tasks import Batch, Outcome, Problem, join
from zpipe.tree.wishes import TreeWishes
from zpipe.tree.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.tree.tasks import Task

PLAIN = TreeWishes()
TOKEN = "c0ffee1"
UMASK = os.umask(0o022)
os.umask(UMASK)


def batch(source: Path, target: Path, *files: str, **more: Any) -> Batch:
    """Return a task for files of a directory; see `Batch` for `more`."""
    more = {"number": 1, "token": TOKEN, **more}
    return Batch(source=str(source), target=str(target), files=files, **more)


def carry(task: Task, wishes: TreeWishes = PLAIN, **more: Any) -> Outcome:
    """Carry a task in this process; see `Worker` for `more`."""
    more = {"stop": Stop(), "divides": False, **more}
    return Worker(wishes, **more).carry(task)


def carry_whole(task: Batch, wishes: TreeWishes = PLAIN) -> Outcome:
    """Carry a batch, and the big files that are found in it in their ranges."""
    outcome = carry(task, wishes, divides=True)
    for number, big in enumerate(outcome.big):
        source, target = (
            join(folder, name)
            for folder, name in ((task.source, big.name), (task.target, task.as_name or big.name))
        )
        try:
            division = Division(
                source, target, wishes, None, None, task.token, number, big.identity, UMASK
            )
            for chunk in division.chunks(iter(range(2, 1 << 20)).__next__):
                part = carry(chunk, wishes)
                outcome.problems += part.problems
                for mover, count in part.by_mover.items():
                    outcome.count(mover, count)
                division.failed |= part.failed
            if division.failed:
                division.discard(keep=False)
            else:
                outcome.done.append(division.commit())
                outcome.files += 1
        except ZpipeError as error:
            outcome.problems.append(Problem(source, str(error)))
    return outcome


def texts(outcome: Outcome) -> str:
    """Return all that went wrong, a line each."""
    return "\n".join(problem.text for problem in outcome.problems)


def data_map(path: Path) -> list[tuple[int, int]]:
    """Return where a file has data, as the filesystem tells once it is written back."""
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        size = os.fstat(fd).st_size
        found = []
        place = 0
        while place < size:
            try:
                data = os.lseek(fd, place, os.SEEK_DATA)
            except OSError:
                break
            place = os.lseek(fd, data, os.SEEK_HOLE)
            found.append((data, place))
        return found
    finally:
        os.close(fd)
