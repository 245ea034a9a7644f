"""Workers by any `concurrent.futures.Executor`: threads, a factory of the user's, Dask, MPI.

Workers that may be on other machines prove first that they see both roots: the source by its inode
and mtime, the target by a file with a secret that was put there for this.
"""

from __future__ import annotations

import os
import select
from collections import deque
from importlib import import_module

from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted, TransferError, UsageError, reason
from zpipe.tree.crew import Crew, given_up
from zpipe.tree.worker import Worker
from zpipe.values import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Executor, Future
    from typing import Any

    from zpipe.tree.tasks import Outcome, Task
    from zpipe.tree.wishes import TreeWishes

_DEPTH = 2  # tasks for each worker at once
_PATIENCE = 30.0  # seconds that workers have to end what they are at


class Proof(Value):
    """What a worker must find: `sources` are paths with inode and mtime in nanoseconds, `path` a
    file in the target with `secret` in it.
    """

    sources: tuple[tuple[str, int, int], ...]
    path: str
    secret: str


class Unseen(Exception):
    """A worker does not see what the coordinator sees."""


class Halt(Stop):
    """For workers in this process: the coordinator says when to stop."""

    told = False

    def check(self) -> None:
        if self.told:
            raise Interrupted(15)


_proven: set[str] = set()
_halt = Halt()


def carry(wishes: TreeWishes, task: Task, proof: Proof | None) -> Outcome:
    """Carry one task; this is what an executor runs, maybe in another process or machine.

    Raises: Unseen  this worker does not see both roots.
    """
    if proof is not None and proof.secret not in _proven:
        _see(proof)
        _proven.add(proof.secret)
    worker = Worker(wishes, _halt, divides=True)
    try:
        return worker.carry(task)
    except Interrupted:
        return worker.partial


def _see(proof: Proof) -> None:
    where = f"the worker on {os.uname().nodename} (pid {os.getpid()})"
    for path, inode, mtime in proof.sources:
        try:
            info = os.lstat(path)
        except OSError as error:
            raise Unseen(f"{where}: {path}: {reason(error)}") from None
        if (info.st_ino, info.st_mtime_ns) != (inode, mtime):
            raise Unseen(f"{where}: {path}: is another file or directory there")
    found = ""
    try:
        with open(proof.path, encoding="ascii") as file:
            found = file.read()
    except FileNotFoundError:
        pass  # there may be a directory of that name, but it is not ours
    except OSError as error:
        raise Unseen(f"{where}: {os.path.dirname(proof.path)}: {reason(error)}") from None
    if found != proof.secret:
        raise Unseen(f"{where}: {os.path.dirname(proof.path)}: is another directory there")


class Hired(Crew):
    """Tasks are submitted to an executor. `close` ends what `let_go` ends."""

    def __init__(
        self,
        executor: Executor,
        wishes: TreeWishes,
        *,
        name: str,
        workers: int,
        proof: Proof | None,
        let_go: Callable[[bool], None],
    ):
        self.name = name
        self.workers = workers
        self._executor = executor
        self._wishes = wishes
        self._proof = proof
        self._let_go = let_go
        self._futures: dict[Future[Outcome], Task] = {}
        self._finished: deque[Future[Outcome]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        _halt.told = False

    @property
    def room(self) -> int:
        return self.workers * _DEPTH - len(self._futures)

    @property
    def busy(self) -> int:
        return len(self._futures)

    def send(self, task: Task) -> None:
        try:
            future = self._executor.submit(carry, self._wishes, task, self._proof)
        except Exception as error:
            raise TransferError(f"--executor {self.name}: submit: {error}") from error
        self._futures[future] = task
        future.add_done_callback(self._done)

    def _done(self, future: Future[Outcome]) -> None:
        self._finished.append(future)
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def collect(self, timeout: float | None, wakeup: int) -> list[Outcome]:
        if not self._finished and self._futures:
            poller = select.poll()
            poller.register(self._wake, select.POLLIN)
            if wakeup >= 0:
                poller.register(wakeup, select.POLLIN)
            poller.poll(None if timeout is None else int(timeout * 1000) + 1)
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        outcomes = []
        while self._finished:
            future = self._finished.popleft()
            task = self._futures.pop(future, None)
            if task is None or future.cancelled():
                continue
            error = future.exception()
            if isinstance(error, Unseen):
                raise TransferError(f"--executor {self.name}: {error}")
            if error is not None:
                text = f"--executor {self.name}: {type(error).__name__}: {error}".split("\n")[0]
                outcomes.append(given_up(task, text))
            else:
                outcomes.append(future.result())
        return outcomes

    def halt(self) -> list[Outcome]:
        import time

        _halt.told = True
        for future in list(self._futures):
            if future.cancel():
                self._futures.pop(future, None)
        outcomes: list[Outcome] = []
        end = time.monotonic() + _PATIENCE
        while self._futures and time.monotonic() < end:
            try:
                outcomes += self.collect(0.5, -1)
            except TransferError:
                continue
        return outcomes

    def close(self) -> None:
        self._let_go(not self._futures)  # whoever is stuck is not waited for
        fd, self._wake = self._wake, -1
        if fd >= 0:
            os.close(fd)
        if self._proof is not None:
            try:
                os.unlink(self._proof.path)
            except OSError:
                pass


def hire(name: str, wishes: TreeWishes, workers: int, sources: Sequence[str], target: str) -> Crew:
    """Return the crew that `--executor NAME` asks for; `target` is a directory that exists.

    Raises: UsageError     there is no such executor, or what it needs is not installed.
            TransferError  it cannot be reached.
    """
    kind, _, rest = name.partition(":")
    if name == "threads":
        from concurrent.futures import ThreadPoolExecutor

        executor: Executor = ThreadPoolExecutor(workers)
        return _crew(executor, wishes, name, workers, None, _shutting(executor))
    if kind == "dask":
        return _dask(rest, wishes, sources, target)
    if name == "mpi":
        return _mpi(wishes, sources, target)
    return _own(name, wishes, workers, sources, target)


def hire_own(
    executor: Executor, wishes: TreeWishes, workers: int, sources: Sequence[str], target: str
) -> Crew:
    """Return the crew of an executor that is the caller's, who also ends it."""
    name = type(executor).__name__
    workers = getattr(executor, "_max_workers", None) or workers
    return _crew(executor, wishes, name, workers, _proof(sources, target), lambda wait: None)


def _crew(
    executor: Executor,
    wishes: TreeWishes,
    name: str,
    workers: int,
    proof: Proof | None,
    let_go: Callable[[bool], None],
) -> Crew:
    return Hired(executor, wishes, name=name, workers=workers, proof=proof, let_go=let_go)


def _shutting(executor: Executor) -> Callable[[bool], None]:
    return lambda wait: executor.shutdown(wait=wait, cancel_futures=not wait)


def _own(name: str, wishes: TreeWishes, workers: int, sources: Sequence[str], target: str) -> Crew:
    module, _, factory = name.partition(":")
    if not module or not factory:
        known = "threads, processes, dask:ADDRESS, mpi or MODULE:FACTORY"
        raise UsageError(f"--executor {name}: give {known}")
    try:
        make: Any = import_module(module)
        for part in factory.split("."):
            make = getattr(make, part)
    except Exception as error:  # a module may raise anything while it is imported
        raise UsageError(f"--executor {name}: {type(error).__name__}: {error}") from error
    if not callable(make):
        raise UsageError(f"--executor {name}: {factory} is no function")
    try:
        executor = make()
    except Exception as error:
        text = f"--executor {name}: {type(error).__name__}: {error}"
        raise TransferError(text) from error
    if not callable(getattr(executor, "submit", None)):
        raise UsageError(f"--executor {name}: is no concurrent.futures.Executor: it has no submit")
    count = getattr(executor, "_max_workers", None) or workers
    return _crew(executor, wishes, name, count, _proof(sources, target), _shutting(executor))


def _dask(address: str, wishes: TreeWishes, sources: Sequence[str], target: str) -> Crew:
    name = f"dask:{address}"
    if not address:
        raise UsageError("--executor dask: give the scheduler's address: dask:tcp://HOST:PORT")
    try:
        import distributed
    except ImportError:
        raise UsageError(
            f"--executor {name}: is not installed: pip install 'zpipe[dask]'"
        ) from None
    dask: Any = distributed  # of whose types not all versions know
    try:
        # a client of an address that cannot be tries for half a minute
        dask.comm.get_address_host_port(address)
    except ValueError as error:
        raise UsageError(f"--executor {name}: {error}") from error
    try:
        client = dask.Client(address, timeout="10s", set_as_default=False)
    except Exception as error:
        text = str(error).split("\n", maxsplit=1)[0]
        raise TransferError(f"--executor {name}: connect: {text}") from error
    threads = sum(client.nthreads().values())
    if not threads:
        client.close()
        raise TransferError(f"--executor {name}: the scheduler has no workers")
    executor = client.get_executor(pure=False)
    return _crew(
        executor, wishes, name, threads, _proof(sources, target), lambda wait: client.close()
    )


def _mpi(wishes: TreeWishes, sources: Sequence[str], target: str) -> Crew:
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPIPoolExecutor
    except ImportError:
        raise UsageError("--executor mpi: is not installed: pip install 'zpipe[mpi]'") from None
    if MPI.COMM_WORLD.Get_size() < 2:
        raise UsageError(
            "--executor mpi: there are no workers: run it as mpiexec -n 3 python3 -m mpi4py.futures"
            " -m zpipe cp ..."
        )
    executor = MPIPoolExecutor()
    # under `mpiexec -n N python -m mpi4py.futures` one process coordinates, the others work
    workers = max(1, MPI.COMM_WORLD.Get_size() - 1)
    return _crew(executor, wishes, "mpi", workers, _proof(sources, target), _shutting(executor))


def _proof(sources: Sequence[str], target: str) -> Proof:
    secret = os.urandom(16).hex()
    path = os.path.join(os.path.abspath(target), f".zpipe-proof-{secret[:12]}")
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise TransferError(f"{target}: open: {reason(error)}", errno=error.errno) from error
    try:
        os.write(fd, secret.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    seen = []
    for source in sources:
        try:
            info = os.lstat(source)
        except OSError:
            continue  # the walk finds the words
        seen.append((os.path.abspath(source), info.st_ino, info.st_mtime_ns))
    return Proof(tuple(seen), path, secret)
