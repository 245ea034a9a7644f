"""All of it together: what each suite measures, on what files, for how long."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import partial

from zpipe.bench import noise
from zpipe.bench.cells import (
    FEW_SIZES,
    LOG,
    MIB,
    OUTPUTS,
    RECORDS,
    ROUTES,
    SIZES,
    TECHNIQUES,
    Cell,
)
from zpipe.bench.ends import batch
from zpipe.bench.figures import Crossing, Figure, Result, Sample, crossing, ratio
from zpipe.bench.forked import in_child
from zpipe.bench.peers import OWN, measure_peer, programs_of
from zpipe.bench.schedule import Budget, Outcome, TooLong, run_rounds
from zpipe.bench.scratch import Scratch
from zpipe.bench.textbook import TEXTBOOK, Entry, Measured
from zpipe.bench.worker import measure, measure_log
from zpipe.engine.stop import Stop
from zpipe.movers.contract import Cost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUITES = ("techniques", "broker", "peers")
SECONDS = 20.0
ENOUGH = 12.0  # seconds, below which a small and a large size are all that is measured in earnest

LOG_SIZE = 64 * MIB  # of the broker's log, which holds the largest record
_BROKER = ("mmap+write", "sendfile")
# where a technique is compared with its textbook: on the first route that it serves, of these
_BY_THE_BOOK = ("file-tcp", "file-file", "pipe-pipes")
_BOOK_SIZE = MIB


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for; empty: what the suite has by itself."""

    suite: str = "techniques"
    sizes: Sequence[int] = ()
    routes: Sequence[str] = ()
    techniques: Sequence[str] = ()
    seconds: float = SECONDS
    folder: str = "."
    outputs: int = OUTPUTS


@dataclass(frozen=True, slots=True)
class Bench:
    """What was found. `seconds`: how long all of it took."""

    request: Request
    machine: dict[str, object]
    noise: noise.Noise
    results: tuple[Result, ...]
    outcome: Outcome
    seconds: float

    def of(self, technique: str, route: str, size: int) -> Result | None:
        """Return the result of a cell, if it has one."""
        for result in self.results:
            cell = result.cell
            if (cell.technique, cell.route.name, cell.size) == (technique, route, size):
                return result
        return None

    def ratio(self, result: Result, *, cpu: bool = False) -> Figure | None:
        """Return a program's time, or processor time, by that of zpipe; None: it was not measured.

        Above 1, the other one is slower.
        """
        own = self.of(OWN, result.cell.route.name, result.cell.size)
        return None if own is None else ratio(own, result, cpu=cpu)

    def by_the_book(self) -> list[tuple[Entry, Measured | None]]:
        """Return each entry of the textbook with what was found of it; None: nothing was."""
        return [(entry, self._found(entry)) for entry in TEXTBOOK]

    def _found(self, entry: Entry) -> Measured | None:
        for route in _BY_THE_BOOK:
            found = [
                result
                for result in self.results
                if result.cell.family == (entry.technique, route) and result.cost is not None
            ]
            if found:
                break
        else:
            return None
        nearest = min(found, key=lambda result: abs(result.cell.size - _BOOK_SIZE))
        mibs = nearest.cell.size / MIB
        assert nearest.cost is not None
        calls = nearest.calls
        return Measured(
            nearest.cost,
            nearest.cell.size,
            calls.median * mibs if calls is not None else 0.0,
            nearest.faults.median * mibs,
            nearest.from_disk if nearest.cell.route.source == "file" else None,
            nearest.cell.route.name,
        )

    def crossings(self) -> dict[str, Crossing]:
        """Return where sendfile becomes better than mmap+write, by processor time and by rate."""
        lines: dict[str, list[list[tuple[int, float]]]] = {"cpu": [], "rate": []}
        for technique in _BROKER:
            mine = [result for result in self.results if result.cell.technique == technique]
            lines["cpu"].append([(result.cell.size, result.cpu.median) for result in mine])
            lines["rate"].append([(result.cell.size, 1 / result.rate.median) for result in mine])
        return {name: crossing(*pair) for name, pair in lines.items()}


def cells_of(request: Request) -> list[Cell]:
    """Return what a request asks for, in the order in which it is shown."""
    if request.suite == "broker":
        sizes = request.sizes or RECORDS
        return [Cell(technique, LOG, size) for size in sizes for technique in _BROKER]
    routes = [route for name, route in ROUTES.items() if name in (request.routes or ROUTES)]
    if request.suite == "peers":
        sizes = request.sizes or FEW_SIZES
        return [
            Cell(program, route, size)
            for route in routes
            for size in sizes
            for program in programs_of(route.name)
        ]
    sizes = request.sizes or (SIZES if request.seconds >= ENOUGH else FEW_SIZES)
    names = [name for name in TECHNIQUES if name in (request.techniques or TECHNIQUES)]
    return [Cell(name, route, size) for route in routes for size in sizes for name in names]


def needed(request: Request, cells: Sequence[Cell]) -> int:
    """Return the bytes of the files that a request needs."""
    if request.suite == "broker":
        return LOG_SIZE
    sources = sum({cell.size for cell in cells if cell.route.source == "file"})
    each = 1 if request.suite == "peers" else 0
    sinks = [cell.size * (each or batch(cell.size)) for cell in cells if cell.route.sink == "file"]
    return sources + max(sinks, default=0)


def run_suite(
    request: Request,
    stop: Stop | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure what is asked for, in about the time that is asked for.

    `tell` is given a line before each round.

    Raises: TransferError  the folder cannot be used, or is too small.
            Interrupted    the user does not want to know any more; nothing is left behind.
    """
    stop = stop or Stop()
    budget = Budget(request.seconds)
    cells = cells_of(request)
    listener = noise.Listener()

    def between(number: int) -> None:
        stop.check()
        tell(f"round {number + 1}, {max(0.0, budget.left()):.0f} s left")
        listener.calibrate()

    with Scratch(request.folder, needed(request, cells)) as scratch:
        what = noise.machine(scratch.folder)
        suite = _Suite(request, scratch, budget, stop)
        outcome = run_rounds(cells, suite.measure, budget, between)
    results = tuple(
        Result(cell, tuple(outcome.samples[cell]), suite.costs.get(cell))
        for cell in cells
        if cell in outcome.samples
    )
    return Bench(request, what, listener.heard(), results, outcome, budget.spent())


class _Suite:
    """Measures one cell as its suite does. `costs`: what the model says of each."""

    def __init__(self, request: Request, scratch: Scratch, budget: Budget, stop: Stop):
        self._request = request
        self._scratch = scratch
        self._budget = budget
        self._stop = stop
        self.costs: dict[Cell, Cost] = {}

    def measure(self, cell: Cell, span: float, end: float) -> Sample:
        """See run_rounds."""
        self._stop.check()
        source = self._source(cell)
        outputs = self._request.outputs
        patience = max(0.0, end - time.monotonic())
        if self._request.suite == "peers":
            try:
                target = self._scratch.sink()
                return measure_peer(cell, source, target, outputs, end, self._stop)
            finally:
                self._scratch.clear()
        if self._request.suite == "broker":
            work = partial(measure_log, cell, source, span, end)
        else:
            work = partial(measure, cell, source, self._scratch, outputs, span, end)
        found = in_child(partial(_answer, work), patience, self._stop)
        self.costs[cell] = Cost(*found["cost"])
        return Sample(**found["sample"])

    def _source(self, cell: Cell) -> str:
        def check() -> None:
            self._stop.check()
            if self._budget.left() <= 0:
                raise TooLong

        if self._request.suite == "broker":
            return self._scratch.source(LOG_SIZE, check)
        if cell.route.source != "file":
            return ""
        return self._scratch.source(cell.size, check)


def _answer(work: Callable[[], tuple[Sample, Cost]]) -> dict[str, object]:
    """Return a measurement in words that JSON has."""
    sample, cost = work()
    return {
        "sample": asdict(sample),
        "cost": (cost.cpu_copies, cost.dma_copies, cost.syscalls_per_mib),
    }
