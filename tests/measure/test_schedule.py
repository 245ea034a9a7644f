"""Rounds within a bound of time, by a clock that only measurements move."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zpipe.bench.cells import KIB, MIB, ROUTES, Cell
from zpipe.bench.figures import Sample
from zpipe.bench.schedule import (
    NO_TIME,
    ROUNDS,
    SHORTEST,
    TOO_LONG,
    Budget,
    Failed,
    Outcome,
    Refused,
    TooLong,
    run_rounds,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUTE = ROUTES["file-file"]
OVERHEAD = 0.01


class Machine:
    """Moves a clock at so many bytes per second; each measurement costs some time besides."""

    def __init__(self, rate: float = 1e9):
        self.rate = rate
        self.now = 100.0
        self.taken: list[Cell] = []
        self.spans: list[float] = []
        self.answers: dict[str, Exception] = {}

    def clock(self) -> float:
        return self.now

    def measure(self, cell: Cell, span: float, end: float) -> Sample:
        self.taken.append(cell)
        self.spans.append(span)
        self.now += OVERHEAD
        if cell.technique in self.answers:
            raise self.answers[cell.technique]
        single = cell.size / self.rate
        count = max(1, round(span / single))
        if self.now + single > end:
            self.now = end
            raise TooLong
        self.now += count * single
        return Sample(count, count * cell.size, count * single, 0, 0, 0, 0)

    def run(
        self, seconds: float, cells: Sequence[Cell], between: Callable[[int], None] = lambda _: None
    ) -> Outcome:
        return run_rounds(cells, self.measure, Budget(seconds, self.clock), between)


def cells(*sizes: int, names: str = "ab") -> list[Cell]:
    return [Cell(name, ROUTE, size) for name in names for size in sizes]


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1, 3, 20, 60])
@pytest.mark.parametrize("sizes", [(512,), (512, 64 * KIB, MIB), (64 * MIB, 512 * MIB)])
def test_the_bound_is_kept(seconds: float, sizes: tuple[int, ...]) -> None:
    machine = Machine()
    outcome = machine.run(seconds, cells(*sizes))
    longest = OVERHEAD + max(*machine.spans, max(sizes) / machine.rate)
    assert machine.now - 100.0 <= seconds + longest
    # what became of each is known
    known = {*outcome.samples, *outcome.left_out}
    assert known == set(cells(*sizes))


def test_all_cells_come_once_before_any_comes_twice() -> None:
    machine = Machine()
    wanted = cells(512, MIB, names="abc")
    machine.run(5, wanted)
    first, second = machine.taken[: len(wanted)], machine.taken[len(wanted) : 2 * len(wanted)]
    assert set(first) == set(second) == set(wanted)
    assert first != second, "always in the same order"
    # techniques of one size lie beside each other
    assert [cell.size for cell in first] == [512] * 3 + [MIB] * 3


def test_much_time_makes_more_rounds() -> None:
    counts = [Machine().run(seconds, cells(512, MIB)).rounds for seconds in (0.15, 1, 20)]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == max(ROUNDS)


def test_rounds_are_announced() -> None:
    numbers: list[int] = []
    outcome = Machine().run(20, cells(512), numbers.append)
    assert numbers == list(range(outcome.rounds))


def test_what_is_too_large_is_left_out_and_told() -> None:
    machine = Machine(rate=10e6)
    outcome = machine.run(2, cells(KIB, 64 * MIB))
    assert {cell.size for cell in outcome.samples} == {KIB}
    assert {cell.size for cell in outcome.left_out} == {64 * MIB}
    assert TOO_LONG in outcome.left_out.values()
    assert outcome.rounds >= 3, "the others are measured all the same"


def test_no_time_at_all() -> None:
    machine = Machine()
    outcome = machine.run(OVERHEAD / 2, cells(KIB, MIB))
    assert set(outcome.left_out.values()) <= {NO_TIME, TOO_LONG}
    assert len(outcome.left_out) + len(outcome.samples) == 4
    assert min(machine.spans) >= SHORTEST


def test_a_round_that_is_cut_short_goes_on_with_those_that_have_least() -> None:
    machine = Machine()
    outcome = machine.run(0.35, cells(*(KIB << power for power in range(6))))
    counts = [len(samples) for samples in outcome.samples.values()]
    assert max(counts) - min(counts) <= 1


def test_refused_cells_are_asked_once() -> None:
    machine = Machine()
    machine.answers["b"] = Refused("no such thing")
    outcome = machine.run(5, cells(KIB))
    (cell,) = outcome.refused
    assert outcome.refused[cell] == "no such thing"
    assert machine.taken.count(cell) == 1
    assert list(outcome.samples) == cells(KIB, names="a")


def test_a_cell_that_fails_does_not_end_the_others() -> None:
    machine = Machine()
    machine.answers["a"] = Failed("ENOSPC")
    outcome = machine.run(5, cells(KIB))
    assert list(outcome.failed.values()) == ["ENOSPC"]
    assert list(outcome.samples) == cells(KIB, names="b")
    assert outcome.rounds == max(ROUNDS)
