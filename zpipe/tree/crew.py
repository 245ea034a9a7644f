"""Who carries tasks: this process alone, or processes that it forks.

A forked worker costs a millisecond and starts with everything that is loaded; tasks and outcomes go
through pipes. A worker that is killed is replaced, and what it had is done again: tasks may be.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import time
from abc import ABC, abstractmethod

from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.tree.tasks import Batch, Big, Chunk, Done, Outcome, Problem
from zpipe.tree.worker import Worker, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from zpipe.tree.tasks import Task

_TRIES = 3  # times that a task is begun before its files are given up
_DEPTH = 2  # tasks that a worker has at once: the next one is there when one has ended
_PATIENCE = 10.0  # seconds that workers have to tidy up
_HEAD = 4


class Crew(ABC):
    """Takes tasks while there is `room`, and gives their outcomes back in any order."""

    name = "none"
    workers = 1

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


class Told(Stop):
    """Stops when SIGTERM comes: the signal by which the coordinator ends its workers."""

    def __init__(self) -> None:
        self._asked = False
        signal.signal(signal.SIGTERM, self._end)

    def check(self) -> None:
        if self._asked:
            raise Interrupted(signal.SIGTERM)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


class _Member:
    """A forked worker, seen from the coordinator."""

    def __init__(self, pid: int, tasks: int, outcomes: int):
        self.pid = pid
        self.tasks = tasks
        self.outcomes = outcomes
        self.waiting: dict[int, Task] = {}
        self.out = bytearray()  # of tasks, not yet written
        self.got = bytearray()  # of outcomes, not yet complete


class Forked(Crew):
    """`workers` processes. No thread may be running when they are made."""

    name = "processes"

    def __init__(
        self,
        workers: int,
        make: Callable[[Stop, Callable[[int], None]], Worker],
        say: Callable[[str], None],
    ):
        """Raises: OSError  no process can be had."""
        import mmap

        self.workers = workers
        self._make = make
        self._say = say
        self._places = mmap.mmap(-1, 8 * workers)  # bytes within the task at hand, of each
        self._members: list[_Member | None] = [None] * workers
        self._again: list[Task] = []
        self._tried: dict[int, int] = {}
        self._lost: list[Outcome] = []
        self._halting = False
        self._partial: dict[int, Outcome] = {}
        try:
            for place in range(workers):
                self._members[place] = self._hire(place)
        except OSError:
            if not any(self._members):
                raise

    @property
    def _living(self) -> list[_Member]:
        return [member for member in self._members if member is not None]

    @property
    def room(self) -> int:
        living = self._living
        if not living:
            return 1  # what is sent now is given up at once
        return sum(_DEPTH - len(member.waiting) for member in living) - len(self._again)

    @property
    def busy(self) -> int:
        waiting = sum(len(member.waiting) for member in self._living)
        return waiting + len(self._again) + len(self._lost)

    def send(self, task: Task) -> None:
        if not self._living:
            self._lost.append(given_up(task, "no worker is left"))
            return
        member = min(self._living, key=lambda each: len(each.waiting))
        member.waiting[task.number] = task
        data = packed(task)
        member.out += len(data).to_bytes(_HEAD, "little") + data
        self._write(member)

    def moving(self) -> int:
        return sum(memoryview(self._places).cast("q"))

    def collect(self, timeout: float | None, wakeup: int) -> list[Outcome]:
        outcomes, self._lost = self._lost, []
        if outcomes:
            return outcomes
        poller = select.poll()
        by_fd = {}
        for place, member in enumerate(self._members):
            if member is None:
                continue
            by_fd[member.outcomes] = (place, member)
            poller.register(member.outcomes, select.POLLIN)
            if member.out:
                by_fd[member.tasks] = (place, member)
                poller.register(member.tasks, select.POLLOUT)
        if wakeup >= 0:
            poller.register(wakeup, select.POLLIN)
        for fd, _ in poller.poll(None if timeout is None else int(timeout * 1000) + 1):
            if fd not in by_fd:
                continue
            place, member = by_fd[fd]
            if self._members[place] is not member:
                continue  # buried a moment ago: its fds may be another's by now
            if fd == member.tasks:
                self._write(member)
            elif not self._read(member, outcomes):
                self._bury(place, member)
        while self._again and any(len(each.waiting) < _DEPTH for each in self._living):
            self.send(self._again.pop())
        outcomes += self._lost
        self._lost = []
        return outcomes

    def halt(self) -> list[Outcome]:
        outcomes: list[Outcome] = []
        self._halting = True
        for member in self._living:
            _kill(member.pid, signal.SIGTERM)
        end = time.monotonic() + _PATIENCE
        for member in self._living:
            os.close(member.tasks)
            while (left := end - time.monotonic()) > 0:
                ready, _, _ = select.select([member.outcomes], [], [], left)
                if ready and not self._read(member, outcomes):
                    break
            else:
                _kill(member.pid, signal.SIGKILL)
            os.close(member.outcomes)
            os.waitpid(member.pid, 0)
        self._members = [None] * self.workers
        outcomes += self._partial.values()
        self._partial.clear()
        return outcomes

    def close(self) -> None:
        self.halt()
        self._places.close()

    def _hire(self, place: int) -> _Member:
        """Fork a worker. Raises: OSError."""
        fds: list[int] = []
        try:
            fds += os.pipe2(os.O_CLOEXEC)
            fds += os.pipe2(os.O_CLOEXEC)
            pid = os.fork()
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        task_reader, task_writer, outcome_reader, outcome_writer = fds
        if pid == 0:
            status = 1
            try:
                os.close(task_writer)
                os.close(outcome_reader)
                for member in self._living:
                    os.close(member.tasks)
                    os.close(member.outcomes)
                self._serve(place, task_reader, outcome_writer)
                status = 0
            finally:
                os._exit(status)
        os.close(task_reader)
        os.close(outcome_writer)
        os.set_blocking(task_writer, False)
        os.set_blocking(outcome_reader, False)
        return _Member(pid, task_writer, outcome_reader)

    def _serve(self, place: int, tasks: int, outcomes: int) -> None:
        """Be a worker, until there are no more tasks."""
        # Ctrl-C goes to all processes of a group: it is the coordinator who decides
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        places = memoryview(self._places).cast("q")

        def moving(count: int) -> None:
            places[place] = count

        stop = Told()
        worker = self._make(stop, moving)
        while (task := _receive(tasks)) is not None:
            try:
                outcome = worker.carry(task)
            except Interrupted:
                _write_all(outcomes, _framed(worker.partial))
                return
            places[place] = 0
            _write_all(outcomes, _framed(outcome))

    def _write(self, member: _Member) -> None:
        try:
            while member.out:
                count = os.write(member.tasks, member.out)
                del member.out[:count]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            member.out.clear()  # its end is seen where its outcomes end

    def _read(self, member: _Member, outcomes: list[Outcome]) -> bool:
        """Take what a worker says; False when it has gone."""
        while True:
            try:
                data = os.read(member.outcomes, 1 << 20)
            except BlockingIOError:
                return True
            if not data:
                return False
            member.got += data
            while len(member.got) >= _HEAD:
                size = int.from_bytes(member.got[:_HEAD], "little")
                if len(member.got) < _HEAD + size:
                    break
                outcome = unpacked_outcome(bytes(member.got[_HEAD : _HEAD + size]))
                del member.got[: _HEAD + size]
                if outcome.partial and not self._halting:
                    # ended by somebody else: all of the task is done again, unless we are next
                    self._partial[outcome.number] = outcome
                    continue
                self._partial.pop(outcome.number, None)
                member.waiting.pop(outcome.number, None)
                outcomes.append(outcome)

    def _bury(self, place: int, member: _Member) -> None:
        """A worker has died: its tasks go to others."""
        os.close(member.tasks)
        os.close(member.outcomes)
        _, status = os.waitpid(member.pid, 0)
        self._members[place] = None
        memoryview(self._places).cast("q")[place] = 0
        number = os.waitstatus_to_exitcode(status)
        how = f"by signal {-number}" if number < 0 else f"with status {number}"
        for task in member.waiting.values():
            tried = self._tried[task.number] = self._tried.get(task.number, 1) + 1
            if tried > _TRIES:
                self._lost.append(
                    given_up(task, f"a worker was ended {how} at this, {_TRIES} times")
                )
            else:
                self._again.append(task)
        try:
            self._members[place] = self._hire(place)
            self._say(f"a worker (pid {member.pid}) was ended {how}: another one does its work")
        except OSError as error:
            self._say(f"a worker (pid {member.pid}) was ended {how}: fork: {error.strerror}")
            if not self._living:
                self._lost += [given_up(task, "no worker is left") for task in self._again]
                self._again.clear()


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


# marshal is there already, and a tenth of the time of pickle; both sides are this interpreter


def packed(task: Task) -> bytes:
    """Return a task as bytes."""
    kind = isinstance(task, Chunk)
    return marshal.dumps((kind, tuple(getattr(task, name) for name in task._fields)))


def _receive(fd: int) -> Task | None:
    head = _read_all(fd, _HEAD)
    if head is None:
        return None
    data = _read_all(fd, int.from_bytes(head, "little"))
    if data is None:
        return None
    is_chunk, fields = marshal.loads(data)
    return Chunk(*fields) if is_chunk else Batch(*fields)


def _read_all(fd: int, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            return None
        data += more
    return data


def _framed(outcome: Outcome) -> bytes:
    data = marshal.dumps(
        (
            outcome.number,
            outcome.files,
            outcome.skipped,
            outcome.moved,
            outcome.by_mover,
            outcome.fallbacks,
            [_values(each) for each in outcome.problems],
            [_values(each) for each in outcome.big],
            [_values(each) for each in outcome.done],
            outcome.failed,
            outcome.partial,
        )
    )
    return len(data).to_bytes(_HEAD, "little") + data


def unpacked_outcome(data: bytes) -> Outcome:
    """Return the outcome that `_framed` has packed."""
    number, *counts, by_mover, fallbacks, problems, big, done, failed, partial = marshal.loads(data)
    outcome = Outcome(number)
    outcome.files, outcome.skipped, outcome.moved = counts
    outcome.by_mover, outcome.fallbacks = by_mover, fallbacks
    outcome.problems = [Problem(*each) for each in problems]
    outcome.big = [Big(*each) for each in big]
    outcome.done = [Done(*each) for each in done]
    outcome.failed, outcome.partial = failed, partial
    return outcome


def _values(value: Problem | Big | Done) -> tuple[object, ...]:
    return tuple(getattr(value, name) for name in value._fields)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
