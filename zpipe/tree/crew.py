"""Who carries tasks: what every crew offers, and the one of this process alone.

Knows nothing of how others are reached: forked.py has processes, executors.py has everybody else.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod

from zpipe.engine.report import Resources
from zpipe.errors import Interrupted
from zpipe.tree.tasks import Batch, Chunk, Outcome, Problem, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from zpipe.tree.tasks import Task
    from zpipe.tree.worker import Worker


class Crew(ABC):
    """Takes tasks while there is `room`, and gives their outcomes back in any order."""

    name = "none"
    workers = 1
    used = Resources(0, 0, 0, 0, 0)  # by workers that are processes of ours, and have ended

    @property
    @abstractmethod
    def room(self) -> int:
        """How many tasks may be sent now."""

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many tasks have no outcome yet."""

    @abstractmethod
    def send(self, task: Task) -> None:
        """Have a task carried. Raises: Interrupted  where that happens at once."""

    @abstractmethod
    def collect(self, timeout: float | None, wakeup: int) -> list[Outcome]:
        """Return outcomes; sleep until there is one, the fd `wakeup` is readable, or the time in
        seconds is up.
        """

    def moving(self) -> int:
        """Return the bytes that are written of tasks under way, as far as that is known."""
        return 0

    def halt(self) -> list[Outcome]:
        """Begin nothing more, have workers tidy up, and return what was still done."""
        return []

    def close(self) -> None:
        """Let everybody go."""


class Alone(Crew):
    """No workers at all: a task is carried when it is sent."""

    def __init__(self, worker: Worker):
        self._worker = worker
        self._outcomes: list[Outcome] = []

    @property
    def room(self) -> int:
        return 0 if self._outcomes else 1

    @property
    def busy(self) -> int:
        return len(self._outcomes)

    def send(self, task: Task) -> None:
        try:
            self._outcomes.append(self._worker.carry(task))
        except Interrupted:
            self._outcomes.append(self._worker.partial)
            raise

    def collect(self, timeout: float | None, wakeup: int) -> list[Outcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def halt(self) -> list[Outcome]:
        return self.collect(None, -1)


def given_up(task: Task, why: str) -> Outcome:
    """Return the outcome of a task that nobody can carry, and tidy up after who tried."""
    outcome = Outcome(task.number)
    if isinstance(task, Batch):
        _tidy(task)
    outcome.failed = True
    if isinstance(task, Chunk):
        outcome.problems.append(Problem(task.source, f"{task.source}: copy: {why}"))
        return outcome
    for name in (*task.files, *task.others):
        path = join(task.source, name)
        outcome.problems.append(Problem(path, f"{path}: copy: {why}"))
    return outcome


def _tidy(batch: Batch) -> None:
    mine = f".zpipe-{batch.token}-"
    try:
        with os.scandir(batch.target or ".") as entries:
            for entry in entries:
                if mine in entry.name:
                    os.unlink(entry.path)
    except OSError:
        pass  # the files are lost, and that is told
