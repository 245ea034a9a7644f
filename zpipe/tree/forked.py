"""Workers that are processes of our own: forked, fed, replaced when they die, and ended.

A forked worker costs a millisecond and starts with everything that is loaded; tasks and outcomes go
through pipes. A worker that is killed is replaced, and what it had is done again: tasks may be.
Knows nothing of what is in a task or an outcome.
"""

from __future__ import annotations

import os
import select
import signal
import time

from zpipe.engine.report import Resources
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.tree.crew import Crew, given_up
from zpipe.tree.parcels import (
    parcel_of_outcome,
    parcel_of_task,
    receive_task,
    take_outcomes,
    write_all,
)
from zpipe.tree.report import sum_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from zpipe.tree.tasks import Outcome, Task
    from zpipe.tree.worker import Worker

_TRIES = 3  # times that a task is begun before its files are given up
_DEPTH = 2  # tasks that a worker has at once: the next one is there when one has ended
_PATIENCE = 10.0  # seconds that workers have to tidy up


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
        member.out += parcel_of_task(task)
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
            self._wait_for(member)
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
        while (task := receive_task(tasks)) is not None:
            try:
                outcome = worker.carry(task)
            except Interrupted:
                write_all(outcomes, parcel_of_outcome(worker.partial))
                return
            places[place] = 0
            write_all(outcomes, parcel_of_outcome(outcome))

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
            for outcome in take_outcomes(member.got):
                if outcome.partial and not self._halting:
                    # ended by somebody else: all of the task is done again, unless we are next
                    self._partial[outcome.number] = outcome
                    continue
                self._partial.pop(outcome.number, None)
                member.waiting.pop(outcome.number, None)
                outcomes.append(outcome)

    def _wait_for(self, member: _Member) -> int:
        """Return the status of a worker that ends, and note what it has used."""
        _, status, usage = os.wait4(member.pid, 0)
        own = Resources(0, usage.ru_utime, usage.ru_stime, usage.ru_nvcsw, usage.ru_nivcsw)
        self.used = sum_of(self.used, own)
        return status

    def _bury(self, place: int, member: _Member) -> None:
        """A worker has died: its tasks go to others."""
        os.close(member.tasks)
        os.close(member.outcomes)
        status = self._wait_for(member)
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


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
