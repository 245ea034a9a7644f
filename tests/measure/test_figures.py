"""What is made of samples: medians, spreads, ratios, and where two lines cross."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zpipe.bench.cells import GIB, KIB, MIB, ROUTES, Cell
from zpipe.bench.figures import Crossing, Result, Sample, crossing, figure, ratio

CELL = Cell("splice", ROUTES["file-tcp"], MIB)
SAMPLE = Sample(4, 4 * MIB, 0.5, 0.1, 0.3, 8, 2, 40, 4096, {"splice": 8, "poll": 4})


def result(*seconds: float) -> Result:
    return Result(CELL, tuple(replace(SAMPLE, seconds=each) for each in seconds))


def test_a_figure_has_median_and_extremes() -> None:
    found = figure([5, 1, 3, 2, 4])
    assert (found.median, found.low, found.high) == (3, 1, 5)
    assert found.spread == pytest.approx(2 / 3)  # 2 to 4 are the quartiles
    assert figure([7]).spread == 0


def test_units() -> None:
    found = result(0.5)
    per_gib = GIB / (4 * MIB)
    assert found.rate.median == 8 * MIB
    assert found.cpu.median == pytest.approx(0.4 * per_gib)
    assert (found.user, found.system) == pytest.approx((0.1 * per_gib, 0.3 * per_gib))
    assert found.voluntary.median == 8 * per_gib
    assert found.involuntary.median == 2 * per_gib
    assert found.calls is not None and found.calls.median == 3
    assert found.calls_by_name == {"poll": 1, "splice": 2}
    assert found.faults.median == 10
    assert found.from_disk == 0.5  # 4096 blocks of 512 bytes are 2 MiB


def test_calls_that_nobody_counted_are_not_none_at_all() -> None:
    assert Result(CELL, (replace(SAMPLE, calls=None),)).calls is None


@pytest.mark.parametrize(
    ("seconds", "doubt"),
    [
        ((1.0, 1.0), "few rounds"),
        ((1.0, 1.05, 0.95), ""),
        ((1.0, 2.0, 0.5), "wide spread"),
        ((1.0, 1.0, 1.0, 1.0, 9.0), ""),  # one that was disturbed
    ],
)
def test_doubt(seconds: tuple[float, ...], doubt: str) -> None:
    assert result(*seconds).doubt == doubt


def test_a_ratio_is_taken_round_by_round() -> None:
    found = ratio(result(1, 2, 4), result(2, 6, 4))
    assert found is not None
    assert (found.low, found.median, found.high) == (1, 2, 3)
    assert ratio(result(1), Result(CELL, ())) is None


def line(*heights: float) -> list[tuple[int, float]]:
    return [(KIB << place, height) for place, height in enumerate(heights)]


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [
        ((1, 1, 1), (2, 0.5, 0.4), Crossing(round(KIB * 2**0.5), (KIB, 2 * KIB))),
        ((1, 1, 1), (4, 2, 1 / 2), Crossing(round(2 * KIB * 2**0.5), (2 * KIB, 4 * KIB))),
        ((1, 1, 1), (2, 2, 2), Crossing(None, first=True)),
        ((1, 1, 1), (0.5, 0.5, 0.5), Crossing(None, first=False)),
        # a little noise at one end does not decide
        ((1, 1, 1, 1), (4, 0.25, 0.25, 1.1), Crossing(round(KIB * 2**0.5), (KIB, 2 * KIB))),
        ((), (), Crossing(None)),
    ],
)
def test_where_lines_cross(
    first: tuple[float, ...], second: tuple[float, ...], found: Crossing
) -> None:
    assert crossing(line(*first), line(*second)) == found
