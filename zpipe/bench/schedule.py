"""Rounds within a bound of time: every cell once before any of them twice.

What is measured in a round is measured in turn (A B C, B C A, ...), so that a drift of the machine
hits all alike. The first round learns what each cell costs; the time that is left then decides how
many rounds there are, and how long each measurement may be. What does not fit is left out, and
told. Knows no clock but the one that it is given, and nothing of how a cell is measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median

from zpipe.bench.cells import Cell
from zpipe.bench.figures import Sample

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROUNDS = (9, 7, 5, 4, 3, 2, 1)
SHORTEST = 0.004  # seconds of a measurement: some clock ticks, and hundreds of small transfers
WORTH = 0.025  # seconds of a measurement: rather these than more than three rounds
LONGEST = 0.25
_OVERHEAD = 0.012  # seconds to set up a measurement, until the first ones have told
_RATE = 1 << 30  # bytes per second that are expected where little is known
_RESERVE = 0.95  # of the time that is left is given away
_AT_ONCE = 0.5  # of it, to one cell in the first round
_ROUND_TOO_FEW = 3

NO_TIME = "no time was left for it"
TOO_LONG = "one transfer takes longer than there was time for"


class TooLong(Exception):
    """A measurement did not come to its end in the time that it was given."""


class Refused(Exception):
    """A technique cannot serve a route, or the kernel refuses it; the text tells why."""


class Failed(Exception):
    """A measurement went wrong; the text tells where, and the reason."""


class Budget:
    """So many seconds from now on."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.began = clock()
        self.end = self.began + seconds

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - self.clock()

    def spent(self) -> float:
        """Return the seconds that have passed."""
        return self.clock() - self.began


@dataclass(slots=True)
class Outcome:
    """What became of each cell."""

    samples: dict[Cell, list[Sample]] = field(default_factory=dict)
    refused: dict[Cell, str] = field(default_factory=dict)
    left_out: dict[Cell, str] = field(default_factory=dict)
    failed: dict[Cell, str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """The most rounds that any cell has."""
        return max(map(len, self.samples.values()), default=0)


def run_rounds(
    cells: Sequence[Cell],
    measure: Callable[[Cell, float, float], Sample],
    budget: Budget,
    between: Callable[[int], None] = lambda number: None,
) -> Outcome:
    """Measure all cells, again and again while there is time.

    `measure(cell, span, end)` is to take about `span` seconds, at least one transfer, and to give
    up when the clock says `end`. `between` is called before each round, with its number from 0.
    """
    rounds = _Rounds(cells, measure, budget)
    between(0)
    rounds.first()
    number = 0
    while (wanted := rounds.more()) is not None:
        number += 1
        between(number)
        rounds.again(number, wanted)
    return rounds.outcome


class _Rounds:
    def __init__(
        self,
        cells: Sequence[Cell],
        measure: Callable[[Cell, float, float], Sample],
        budget: Budget,
    ):
        self._cells = list(cells)
        self._measure = measure
        self._budget = budget
        self._done = 0  # rounds
        self._planned: int | None = None
        self._beside: list[float] = []  # seconds of each measurement that were not measured
        self.outcome = Outcome()

    def first(self) -> None:
        """Measure every cell once, small sizes first: they tell how long the large ones take."""
        count = max(1, len(self._cells))
        span = self._budget.left() / (max(ROUNDS[2], 1) * count) - _OVERHEAD
        span = min(LONGEST, max(SHORTEST, span))
        for cell in sorted(self._cells, key=lambda each: each.size):
            left = self._budget.left()
            if left <= 0:
                self.outcome.left_out[cell] = NO_TIME
            elif self._expected(cell) > left:
                self.outcome.left_out[cell] = TOO_LONG
            else:
                self._take(cell, span)
        self._done = 1

    def more(self) -> float | None:
        """Return the span of the next round's measurements; None: there is no further round."""
        left = self._budget.left() * _RESERVE
        cells = list(self.outcome.samples)
        if not cells or left <= 0:
            return None
        if self._planned is None:
            self._planned = self._choose(cells, left)
        rest = self._planned - self._done
        if rest <= 0:
            return None
        return max(SHORTEST, self._span(cells, left / rest))

    def again(self, number: int, span: float) -> None:
        """Measure once more what fits into the time that is left.

        First come those that have been measured least: the last round may have been cut short.
        """
        samples = self.outcome.samples
        cells = sorted(samples, key=lambda each: each.size)
        turn = number % len(cells)
        in_turn = [*cells[turn:], *cells[:turn]]
        for cell in sorted(in_turn, key=lambda each: len(samples[each])):
            if self._expected(cell, span) <= self._budget.left():
                self._take(cell, span)
        self._done += 1

    def _choose(self, cells: list[Cell], left: float) -> int:
        """Return how many rounds there are to be, the first included."""
        for rounds in ROUNDS:
            if rounds <= 1:
                break
            each = left / (rounds - 1)
            shortest = WORTH if rounds > _ROUND_TOO_FEW else SHORTEST
            if self._needs(cells, shortest) <= each:
                return rounds
        # a part of a round is better than none
        return 2

    def _span(self, cells: list[Cell], each: float) -> float:
        """Return the longest span with which a round keeps to `each` seconds."""
        low, high = 0.0, LONGEST
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self._needs(cells, middle) <= each else (low, middle)
        return low

    def _needs(self, cells: list[Cell], span: float) -> float:
        beside = self._overhead()
        return sum(max(span, self._single(cell)) + beside for cell in cells)

    def _single(self, cell: Cell) -> float:
        """Return the seconds of one transfer."""
        return min(sample.seconds / sample.transfers for sample in self.outcome.samples[cell])

    def _overhead(self) -> float:
        return median(self._beside) if self._beside else _OVERHEAD

    def _expected(self, cell: Cell, span: float = 0.0) -> float:
        """Return the seconds that a measurement will take, as far as anybody knows."""
        if cell in self.outcome.samples:
            return max(self._single(cell), span) + self._overhead()
        smaller = [
            other
            for other in self.outcome.samples
            if other.family == cell.family and other.size < cell.size
        ]
        if not smaller:
            return 0.0
        nearest = max(smaller, key=lambda each: each.size)
        # what is larger goes at a higher rate, as a rule; whoever is wrong here ends in time
        single = self._single(nearest)
        return min(single * cell.size / nearest.size / 2, single + cell.size / _RATE)

    def _patience(self, now: float) -> float:
        """Return when to give up: the first time, there are others that want to be measured."""
        end = self._budget.end
        return end if self._done else now + max(SHORTEST, (end - now) * _AT_ONCE)

    def _take(self, cell: Cell, span: float) -> None:
        outcome = self.outcome
        began = self._budget.clock()
        try:
            sample = self._measure(cell, span, self._patience(began))
        except TooLong:
            if cell not in outcome.samples:
                outcome.left_out[cell] = TOO_LONG
        except Refused as refused:
            outcome.samples.pop(cell, None)
            outcome.refused[cell] = str(refused)
        except Failed as failed:
            # what has failed once is not to be trusted
            outcome.samples.pop(cell, None)
            outcome.failed[cell] = str(failed)
        else:
            outcome.samples.setdefault(cell, []).append(sample)
            self._beside.append(max(0.0, self._budget.clock() - began - sample.seconds))
