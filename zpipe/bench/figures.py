"""Samples, and what is made of several rounds of them. Pure."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from zpipe.bench.cells import GIB, MIB, Cell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from zpipe.movers.contract import Cost

# what lies between the quartiles, by the median: above, a cell is not to be judged
TOO_WIDE = 0.25
FEWEST = 3  # rounds from which a spread means something


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of a cell: `transfers` of its size, `bytes` in all.

    Times in seconds, those of the processor by getrusage(2). `seconds` are those until the reader
    has all of it. `blocks_in` are 512 bytes each, read from a disk. `calls` counts system calls by
    name; None: nobody has counted.
    """

    transfers: int
    bytes: int
    seconds: float
    user: float
    system: float
    voluntary: int
    involuntary: int
    faults: int = 0
    blocks_in: int = 0
    calls: dict[str, int] | None = None

    @property
    def cpu(self) -> float:
        """The processor's time, which is exact, other than its two parts."""
        return self.user + self.system


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity over all rounds. `spread`: between the quartiles, by the median."""

    median: float
    low: float
    high: float
    spread: float


def figure(values: Sequence[float]) -> Figure:
    """Return median, extremes and spread of at least one value."""
    median = statistics.median(values)
    spread = 0.0
    if len(values) > 1:
        first, _, third = statistics.quantiles(values, n=4, method="inclusive")
        spread = (third - first) / median if median else 0.0
    return Figure(median, min(values), max(values), spread)


@dataclass(frozen=True, slots=True)
class Result:
    """A cell that was measured. `cost` is that of the model; None: there is no model of it."""

    cell: Cell
    samples: tuple[Sample, ...]
    cost: Cost | None = None

    @property
    def rate(self) -> Figure:
        """Bytes per second."""
        return figure([sample.bytes / sample.seconds for sample in self.samples])

    @property
    def cpu(self) -> Figure:
        """Processor seconds for each GiB."""
        return figure([sample.cpu * GIB / sample.bytes for sample in self.samples])

    @property
    def user(self) -> float:
        """User seconds for each GiB: of the median, the share over all rounds.

        The kernel divides a process's time by the tick, of which a round sees but a few.
        """
        return self.cpu.median * (1 - self._in_kernel)

    @property
    def system(self) -> float:
        """System seconds for each GiB, in the same way."""
        return self.cpu.median * self._in_kernel

    @property
    def voluntary(self) -> Figure:
        """Context switches for each GiB, because there was nothing to do."""
        return figure([sample.voluntary * GIB / sample.bytes for sample in self.samples])

    @property
    def involuntary(self) -> Figure:
        """Context switches for each GiB, because others wanted the processor."""
        return figure([sample.involuntary * GIB / sample.bytes for sample in self.samples])

    @property
    def calls(self) -> Figure | None:
        """System calls for each MiB."""
        counts = [
            sum(sample.calls.values()) * MIB / sample.bytes
            for sample in self.samples
            if sample.calls is not None
        ]
        return figure(counts) if counts else None

    @property
    def calls_by_name(self) -> dict[str, float]:
        """System calls for each MiB, over all rounds."""
        total = sum(sample.bytes for sample in self.samples)
        names = sorted({name for sample in self.samples for name in sample.calls or ()})
        return {
            name: sum((sample.calls or {}).get(name, 0) for sample in self.samples) * MIB / total
            for name in names
        }

    @property
    def faults(self) -> Figure:
        """Page faults for each MiB that needed no disk."""
        return figure([sample.faults * MIB / sample.bytes for sample in self.samples])

    @property
    def from_disk(self) -> float:
        """Share of the bytes that were read from a disk."""
        return figure([sample.blocks_in * 512 / sample.bytes for sample in self.samples]).median

    @property
    def doubt(self) -> str:
        """Why the cell is not to be judged: `few rounds`, `wide spread`; or nothing."""
        if len(self.samples) < FEWEST:
            return "few rounds"
        if max(self.rate.spread, self.cpu.spread) > TOO_WIDE:
            return "wide spread"
        return ""

    @property
    def _in_kernel(self) -> float:
        total = sum(sample.cpu for sample in self.samples)
        return sum(sample.system for sample in self.samples) / total if total else 0.0


def ratio(own: Result, other: Result, *, cpu: bool = False) -> Figure | None:
    """Return the other's time by ours, round by round; above 1: the other one is slower.

    None: no round has both of them.
    """
    pairs = zip(own.samples, other.samples, strict=False)
    if cpu:
        quotients = [b.cpu / a.cpu for a, b in pairs if a.cpu]
    else:
        quotients = [b.seconds / a.seconds for a, b in pairs if a.seconds]
    return figure(quotients) if quotients else None


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the second of two lines becomes the lower one. `size` in bytes, between two measured.

    `size` is None where they do not cross; `first` then tells whether the first is always lower.
    """

    size: int | None
    between: tuple[int, int] | None = None
    first: bool = False


def crossing(first: Sequence[tuple[int, float]], second: Sequence[tuple[int, float]]) -> Crossing:
    """Find where, by growing size, `second` becomes lower than `first`.

    Both are (size, value), of the same sizes. Where they cross more than once, it is the place
    that is least wrong; between two sizes the lines are straight where sizes and values are drawn
    by their logarithms.
    """
    import math

    others = dict(second)
    heights = [
        (size, math.log(others[size] / value))
        for size, value in sorted(first)
        if size in others and value > 0 and others[size] > 0
    ]
    if not heights:
        return Crossing(None)

    def wrong(place: int) -> float:
        """How far off it is to say that from this place on `second` is lower, and not before."""
        before = sum(max(0.0, -height) for _, height in heights[:place])
        return before + sum(max(0.0, height) for _, height in heights[place:])

    place = min(range(len(heights) + 1), key=wrong)
    if place in (0, len(heights)):
        return Crossing(None, first=place > 0)
    (below, high), (above, low) = heights[place - 1], heights[place]
    share = min(1.0, max(0.0, high / (high - low))) if high != low else 0.5
    size = math.exp(math.log(below) + share * (math.log(above) - math.log(below)))
    return Crossing(round(size), (below, above))
