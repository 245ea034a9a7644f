"""Forked workers: what they say comes back, and what kills them stops nobody else."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, as_stranger, content, leftovers, until
from tests.tree import batch, texts
from zpipe.engine.report import Resources
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.tree.crew import Alone
from zpipe.tree.forked import Forked
from zpipe.tree.tasks import Batch, Chunk, Outcome, Problem
from zpipe.tree.wishes import TreeWishes
from zpipe.tree.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from zpipe.tree.crew import Crew
    from zpipe.tree.tasks import Task

SIZE = (1 << 20) + 7
VERIFIED = TreeWishes(verify=True)  # goes through our hands: `moving` is told of each piece


class Echo(Worker):
    """Copies nothing: says who it is, and what it was asked for."""

    def carry(self, task: Task) -> Outcome:
        outcome = Outcome(task.number)
        outcome.moved = os.getpid()
        outcome.problems.append(Problem(task.source, task.target))
        return outcome


class Scripted(Worker):
    """Does what `script` says, a function of the task, before it says who it is."""

    def __init__(self, stop: Stop, script: Callable[[Task], object]):
        super().__init__(TreeWishes(), stop, divides=False)
        self._script = script

    def carry(self, task: Task) -> Outcome:
        self._script(task)
        outcome = Outcome(task.number)
        outcome.moved = os.getpid()
        return outcome


def echo(stop: Stop, moving: Callable[[int], None]) -> Worker:
    return Echo(TreeWishes(), stop, divides=False)


def scripted(script: Callable[[Task], object]) -> Callable[[Stop, object], Worker]:
    return lambda stop, moving: Scripted(stop, script)


def drive(crew: Crew, tasks: Iterable[Task], seconds: float = LONGEST / 2) -> list[Outcome]:
    """Have tasks carried as a copy does; return the outcomes by the tasks' numbers."""
    left = deque(tasks)
    wanted = sorted(task.number for task in left)
    outcomes: list[Outcome] = []
    end = time.monotonic() + seconds
    while left or crew.busy:
        assert time.monotonic() < end, f"{len(left)} not sent, {crew.busy} not answered"
        while left and crew.room > 0:
            crew.send(left.popleft())
        outcomes += crew.collect(0.2, -1)
    outcomes.sort(key=lambda outcome: outcome.number)
    assert [outcome.number for outcome in outcomes] == wanted, "each is answered once"
    return outcomes


def rest(crew: Crew) -> list[Outcome]:
    """Return the outcomes of everything that is under way."""
    outcomes: list[Outcome] = []
    end = time.monotonic() + LONGEST / 2
    while crew.busy:
        assert time.monotonic() < end, f"{crew.busy} not answered"
        outcomes += crew.collect(0.2, -1)
    return outcomes


def task(number: int, *, size: int = 1) -> Batch:
    """Return a task that takes about so many bytes."""
    return Batch(number, f"source {number}", "t" * size, ())


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class Signs:
    """Pipes by which workers tell of themselves, and are held up."""

    def __init__(self) -> None:
        self.heard, self._told = os.pipe()
        self._held, self._gate = os.pipe()

    def tell(self) -> None:
        os.write(self._told, os.getpid().to_bytes(4, "little"))

    def hold(self) -> None:
        os.read(self._held, 1)

    def tell_and_hold(self, task: Task) -> None:
        self.tell()
        self.hold()

    def pid(self) -> int:
        """Return the pid of a worker that tells of itself."""
        ready, _, _ = select.select([self.heard], [], [], LONGEST / 2)
        assert ready, "no worker has told of itself"
        return int.from_bytes(os.read(self.heard, 4), "little")

    def let(self, count: int = 1) -> None:
        os.write(self._gate, b"." * count)

    def close(self) -> None:
        for fd in (self.heard, self._told, self._held, self._gate):
            os.close(fd)


@pytest.fixture
def signs() -> Iterator[Signs]:
    signs = Signs()
    yield signs
    signs.close()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def ends(tmp_path: Path) -> tuple[Path, Path]:
    """A directory with files to copy, and an empty one."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for number in range(4):
        (source / f"{number}").write_bytes(content(SIZE, number))
    return source, target


def test_every_outcome_comes_back_once(said: list[str]) -> None:
    crew = Forked(3, echo, said.append)
    try:
        assert (crew.workers, crew.busy, crew.name) == (3, 0, "processes")
        room = crew.room
        assert room >= 3
        outcomes = drive(crew, [task(number, size=number) for number in range(200)])
        for number, outcome in enumerate(outcomes):
            assert outcome.problems == [Problem(f"source {number}", "t" * number)]
        pids = {outcome.moved for outcome in outcomes}
        assert len(pids) == 3 and os.getpid() not in pids
        assert (crew.room, crew.busy) == (room, 0)
    finally:
        crew.close()
    assert not any(runs(pid) for pid in pids)
    assert said == []


@pytest.mark.parametrize("workers", [1, 2])
def test_large_tasks_and_outcomes_do_not_wait_for_each_other(workers: int, said: list[str]) -> None:
    """Each is several pipes full, in both directions at once."""
    crew = Forked(workers, echo, said.append)
    try:
        outcomes = drive(crew, [task(number, size=300_000 + number) for number in range(12)])
        assert [len(outcome.problems[0].text) for outcome in outcomes] == [
            300_000 + number for number in range(12)
        ]
    finally:
        crew.close()


def test_names_of_all_bytes_pass(said: list[str]) -> None:
    crew = Forked(1, echo, said.append)
    name = os.fsdecode(bytes(range(1, 256)))
    try:
        (outcome,) = drive(crew, [Batch(1, name, name[::-1], ())])
        assert outcome.problems == [Problem(name, name[::-1])]
    finally:
        crew.close()


def test_how_far_workers_are_is_seen(signs: Signs, said: list[str]) -> None:
    def make(stop: Stop, moving: Callable[[int], None]) -> Worker:
        def script(task: Task) -> None:
            moving(task.number * 1000)
            signs.tell()
            signs.hold()

        return Scripted(stop, script)

    crew = Forked(2, make, said.append)
    try:
        for number in (3, 4):
            crew.send(task(number))
        for _ in range(2):
            signs.pid()
        assert (crew.moving(), crew.busy) == (7000, 2)
        signs.let(2)
        assert len(rest(crew)) == 2
        assert crew.moving() == 0
    finally:
        crew.close()


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_what_workers_used_is_known_once_they_have_ended(killed: bool, said: list[str]) -> None:
    """To the last microsecond what the kernel says of the children that were waited for."""

    def spend(task: Task) -> None:
        while resource.getrusage(resource.RUSAGE_SELF).ru_utime < 0.02:
            pass
        if killed and task.number == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    crew = Forked(2, scripted(spend), said.append)
    try:
        drive(crew, [task(number) for number in range(4)])
        assert killed or crew.used == Resources(0, 0, 0, 0, 0)
    finally:
        crew.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = crew.used
    assert used.user == pytest.approx(after.ru_utime - before.ru_utime, abs=1e-5)
    assert used.system == pytest.approx(after.ru_stime - before.ru_stime, abs=1e-5)
    assert used.voluntary_switches == after.ru_nvcsw - before.ru_nvcsw
    assert used.involuntary_switches == after.ru_nivcsw - before.ru_nivcsw
    assert used.user >= 0.02


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_that_are_for_the_coordinator_end_no_worker(
    number: int, signs: Signs, said: list[str]
) -> None:
    crew = Forked(1, scripted(signs.tell_and_hold), said.append)
    try:
        crew.send(task(1))
        pid = signs.pid()
        os.kill(pid, number)
        signs.let()
        (outcome,) = crew.collect(LONGEST, -1)
        assert (outcome.number, outcome.moved) == (1, pid)
    finally:
        crew.close()
    assert said == []


def test_whoever_waits_is_woken(said: list[str]) -> None:
    crew = Forked(1, echo, said.append)
    reader, writer = os.pipe()
    try:
        os.write(writer, b".")
        assert crew.collect(None, reader) == []
    finally:
        crew.close()
        os.close(reader)
        os.close(writer)


# workers that are killed


def test_what_a_killed_worker_had_is_done_by_another(signs: Signs, said: list[str]) -> None:
    crew = Forked(2, scripted(signs.tell_and_hold), said.append)
    try:
        for number in range(4):
            crew.send(task(number))
        pids = {signs.pid(), signs.pid()}
        killed = min(pids)
        os.kill(killed, signal.SIGKILL)
        signs.let(8)
        outcomes = rest(crew)
        assert sorted(outcome.number for outcome in outcomes) == [0, 1, 2, 3]
        assert killed not in {outcome.moved for outcome in outcomes}
        assert not any(outcome.failed for outcome in outcomes)
    finally:
        crew.close()
    assert said == [f"a worker (pid {killed}) was ended by signal 9: another one does its work"]


@pytest.mark.parametrize("existing", [False, True], ids=["fresh", "existing"])
def test_a_killed_worker_is_replaced_and_leaves_nothing(
    existing: bool, ends: tuple[Path, Path], said: list[str]
) -> None:
    """It dies in the middle of a file: the one that does it again cleans up after it."""
    source, target = ends
    names = tuple(sorted(os.listdir(source)))
    if existing:
        for name in names:
            (target / name).write_bytes(b"before")
    died = source.parent / "died"

    def make(stop: Stop, moving: Callable[[int], None]) -> Worker:
        def die(count: int) -> None:
            if not died.exists() and (target / "0").exists() and leftovers(target):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        def tell(count: int) -> None:
            moving(count)
            die(count)

        return Worker(VERIFIED, stop, divides=False, moving=tell)

    crew = Forked(1, make, said.append)
    try:
        (outcome,) = drive(crew, [batch(source, target, *names)])
    finally:
        crew.close()
    assert died.exists()
    assert (texts(outcome), outcome.files) == ("", len(names))
    for name in names:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert sorted(os.listdir(target)) == list(names)


def test_a_task_that_kills_its_worker_three_times_is_given_up(said: list[str]) -> None:
    """The others are not, whatever was waiting behind it."""

    def script(task: Task) -> None:
        if task.number == 5:
            os.kill(os.getpid(), signal.SIGKILL)

    crew = Forked(2, scripted(script), said.append)
    deadly = Batch(5, "folder", "target", ("a", "b"), ("c",))
    try:
        outcomes = drive(crew, [deadly if number == 5 else task(number) for number in range(40)])
    finally:
        crew.close()
    assert [outcome.number for outcome in outcomes if outcome.failed] == [5]
    assert [problem.path for problem in outcomes[5].problems] == [
        "folder/a",
        "folder/b",
        "folder/c",
    ]
    assert "a worker was ended by signal 9 at this, 3 times" in texts(outcomes[5])
    assert len(said) == 3


def test_several_deadly_tasks_cost_no_others(said: list[str]) -> None:
    def script(task: Task) -> None:
        if task.number % 3 == 0:
            os._exit(7)

    crew = Forked(2, scripted(script), said.append)
    try:
        outcomes = drive(crew, [Chunk(n, "s", "", "t", 0, 1, (0,) * 5, 0) for n in range(13)])
    finally:
        crew.close()
    assert [outcome.number for outcome in outcomes if outcome.failed] == [0, 3, 6, 9, 12]
    assert "a worker was ended with status 7 at this, 3 times" in texts(outcomes[3])


def test_a_worker_that_dies_with_half_a_task_written_to_it(signs: Signs, said: list[str]) -> None:
    """The rest of the task must not be the beginning of what the next worker reads."""

    def script(task: Task) -> None:
        if task.number == 1:
            signs.tell()
            signs.hold()

    crew = Forked(1, scripted(script), said.append)
    try:
        crew.send(task(1))
        crew.send(task(2, size=500_000))
        os.kill(signs.pid(), signal.SIGKILL)
        signs.let(2)
        outcomes = rest(crew)
        assert sorted(outcome.number for outcome in outcomes) == [1, 2]
        assert not any(outcome.failed for outcome in outcomes)
    finally:
        crew.close()
    assert len(said) == 1


def test_without_new_processes_everything_is_still_answered(tmp_path: Path) -> None:
    """Where nobody can be put in the place of the dead, the living do it, or it is given up."""
    tmp_path.chmod(0o777)

    def work() -> None:
        for spared in (True, False):
            said: list[str] = []
            signs = Signs()

            def script(task: Task, signs: Signs = signs) -> None:
                if task.number < 6:
                    signs.tell()
                    signs.hold()

            crew = Forked(3, scripted(script), said.append)
            before = resource.getrlimit(resource.RLIMIT_NPROC)
            resource.setrlimit(resource.RLIMIT_NPROC, (1, before[1]))
            for number in range(6):
                crew.send(task(number))
            pids = [signs.pid() for _ in range(3)]
            for pid in pids[spared:]:
                os.kill(pid, signal.SIGKILL)
            signs.let(12)
            outcomes: list[Outcome] = []
            end = time.monotonic() + LONGEST / 4
            later = deque(task(number) for number in range(6, 20))
            while later or crew.busy:
                assert time.monotonic() < end, f"{len(outcomes)} answered, {crew.busy} not"
                outcomes += crew.collect(0.2, -1)
                while later and crew.room > 0:
                    crew.send(later.popleft())
            crew.close()
            signs.close()
            resource.setrlimit(resource.RLIMIT_NPROC, before)
            assert sorted(outcome.number for outcome in outcomes) == list(range(20))
            assert any(outcome.failed for outcome in outcomes) == (not spared)
            assert all("fork: Resource temporarily unavailable" in line for line in said), said

    as_stranger(tmp_path, work)


def test_without_any_process_there_is_no_crew(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(BlockingIOError):
            Forked(2, echo, print)
        assert set(os.listdir("/proc/self/fd")) <= before

    tmp_path.chmod(0o777)
    as_stranger(tmp_path, work)


# the end


@pytest.mark.parametrize("existing", [False, True], ids=["fresh", "existing"])
def test_a_halt_leaves_no_processes_and_no_temporary_files(
    existing: bool, ends: tuple[Path, Path], signs: Signs, said: list[str]
) -> None:
    source, target = ends
    if existing:
        (target / "1").write_bytes(b"before")

    def make(stop: Stop, moving: Callable[[int], None]) -> Worker:
        def tell(count: int) -> None:
            # in the middle of a file: the end is asked for now, and noticed at the next look
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
            signs.tell()
            signal.sigwait([signal.SIGTERM])
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            os.kill(os.getpid(), signal.SIGTERM)

        return Worker(VERIFIED, stop, divides=False, moving=tell)

    (source / "0").write_bytes(b"small: is done before")
    crew = Forked(2, make, said.append)
    try:
        crew.send(batch(source, target, "0", "1", number=1, token="a"))
        crew.send(batch(source, target, "2", number=2, token="b"))
        crew.send(batch(source, target, "3", number=3, token="c"))
        pids = [signs.pid(), signs.pid()]
        assert len(leftovers(target)) >= 2
        crew.halt()
        assert not any(runs(pid) for pid in pids)
        assert leftovers(target) == []
        assert not (target / "2").exists()
        assert not (target / "3").exists()
        assert (target / "1").exists() == existing
    finally:
        crew.close()
    assert said == []


def test_what_was_done_before_a_halt_is_told(
    ends: tuple[Path, Path], signs: Signs, said: list[str]
) -> None:
    source, target = ends
    (source / "0").write_bytes(b"small")

    def make(stop: Stop, moving: Callable[[int], None]) -> Worker:
        class Counting(Worker):
            def _entry(self, name: str, carry: Callable[[str], None]) -> None:
                super()._entry(name, carry)
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                signs.tell()
                signal.sigwait([signal.SIGTERM])
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                os.kill(os.getpid(), signal.SIGTERM)

        return Counting(TreeWishes(), stop, divides=False)

    crew = Forked(1, make, said.append)
    try:
        crew.send(batch(source, target, "0", "1", "2"))
        signs.pid()
        (outcome,) = crew.halt()
        assert (outcome.files, outcome.moved) == (1, 5)
        assert os.listdir(target) == ["0"]
    finally:
        crew.close()


def test_a_crew_that_is_closed_has_no_processes(said: list[str]) -> None:
    before = children()
    crew = Forked(3, echo, said.append)
    assert len(children()) == len(before) + 3
    for number in range(4):
        crew.send(task(number))
    crew.close()
    assert children() == before


def children() -> list[int]:
    """Return the processes that this one has, ended ones too."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                found.append(int(name))
    return found


def test_workers_end_by_themselves_when_the_coordinator_is_killed(
    signs: Signs, said: list[str]
) -> None:
    coordinator = os.fork()
    if coordinator == 0:
        try:
            crew = Forked(2, scripted(signs.tell_and_hold), said.append)
            for number in range(4):
                crew.send(task(number))
            while True:
                crew.collect(None, -1)
        finally:
            os._exit(1)
    pids = [signs.pid(), signs.pid()]
    os.kill(coordinator, signal.SIGKILL)
    os.waitpid(coordinator, 0)
    signs.let(4)
    until(lambda: not any(alive(pid) for pid in pids), "the workers have ended")


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


# nobody else


def test_alone_a_task_is_carried_when_it_is_sent(ends: tuple[Path, Path]) -> None:
    source, target = ends
    crew = Alone(Worker(TreeWishes(), Stop(), divides=False))
    assert (crew.room, crew.busy) == (1, 0)
    crew.send(batch(source, target, "0"))
    assert (target / "0").exists()
    assert (crew.room, crew.busy) == (0, 1)
    (outcome,) = crew.collect(None, -1)
    assert (outcome.files, crew.room, crew.busy) == (1, 1, 0)
    assert crew.halt() == []
    crew.close()


def test_alone_what_was_done_before_the_end_is_told(ends: tuple[Path, Path]) -> None:
    source, target = ends

    class Ending(Stop):
        def check(self) -> None:
            if (target / "0").exists():
                raise Interrupted(15)

    crew = Alone(Worker(TreeWishes(), Ending(), divides=False))
    with pytest.raises(Interrupted):
        crew.send(batch(source, target, "0", "1"))
    (outcome,) = crew.halt()
    assert outcome.files == 1
    assert os.listdir(target) == ["0"]
