"""The token bucket, on a clock of the test's own; then with every mover, on the real one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zpipe
from tests.machine import content, missing
from zpipe.engine import limiter
from zpipe.engine.limiter import Limiter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

RATES = st.integers(1, 10**12)
SPANS = st.floats(0, 1e5, allow_nan=False)


class Clock:
    """Stands in for the module `time` within the limiter."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def clock() -> AbstractContextManager[Clock]:
    from contextlib import contextmanager

    @contextmanager
    def given_time() -> Iterator[Clock]:
        with pytest.MonkeyPatch.context() as patch:
            own = Clock()
            patch.setattr(limiter, "time", own)
            yield own

    return given_time()


def burst(rate: int) -> float:
    """A twentieth of a second's bytes, and one byte at the least."""
    return max(1.0, rate / 20)


@given(RATES, st.lists(st.tuples(SPANS, st.floats(0, 1)), max_size=30))
def test_in_no_span_of_time_more_passes_than_the_rate_and_one_burst(
    rate: int, turns: list[tuple[float, float]]
) -> None:
    """Whoever keeps to the allowance: over any window, also one after idling."""
    with clock() as own:
        limit = Limiter(rate)
        moved = [(own.now, 0)]
        for idle, share in turns:
            own.now += idle
            allowed = limit.allowance()
            assert 0 <= allowed <= burst(rate)
            count = int(allowed * share)
            limit.spend(count)
            moved.append((own.now, count))
        for begin in range(len(moved)):
            total = 0
            for now, count in moved[begin:]:
                total += count
                span = now - moved[begin][0]
                assert total <= burst(rate) + span * rate + 1e-3 * max(1.0, total)


@given(RATES, st.lists(st.tuples(SPANS, st.floats(0, 10)), max_size=30))
def test_after_the_delay_something_may_move(rate: int, turns: list[tuple[float, float]]) -> None:
    """Also after a call that took more than it was allowed, which a granule of blocks may do."""
    with clock() as own:
        limit = Limiter(rate)
        for idle, share in turns:
            own.now += idle
            limit.spend(int(burst(rate) * share))
            delay = limit.delay()
            assert delay >= 0
            if limit.allowance():
                assert delay == 0
            own.now += delay + 1e-6 * max(1.0, delay) + 2 / rate
            assert limit.allowance() > 0
            assert limit.delay() == 0


@given(RATES, SPANS)
def test_idling_earns_no_credit(rate: int, idle: float) -> None:
    with clock() as own:
        limit = Limiter(rate)
        limit.spend(limit.allowance())
        own.now += idle
        assert limit.allowance() <= burst(rate)


@given(RATES, st.integers(1, 1000))
def test_what_was_overdrawn_is_waited_for(rate: int, bursts: int) -> None:
    with clock() as own:
        limit = Limiter(rate)
        limit.spend(int(burst(rate)) * bursts)
        owed = int(burst(rate)) * bursts - burst(rate)
        assert limit.delay() >= owed / rate * 0.999
        own.now += max(0.0, owed) / rate
        assert limit.allowance() <= 1


@given(st.integers(1, 100), st.integers(1, 500))
def test_in_the_long_run_the_rate_is_reached(rate: int, seconds: int) -> None:
    """Rates as small as one byte a second are kept, not rounded to nothing."""
    with clock() as own:
        limit = Limiter(rate)
        total, end = 0, own.now + seconds
        while own.now < end:
            allowed = limit.allowance()
            limit.spend(allowed)
            total += allowed
            own.now += limit.delay() + 1e-9
        assert rate * seconds * 0.9 - 2 <= total <= rate * seconds + burst(rate) + 1


SIZE = 300_000
RATE = 2_000_000


@pytest.mark.parametrize("via", ["copy_range", "sendfile", "splice", "mapped", "direct", "plain"])
def test_every_mover_keeps_to_the_rate_between_files(tmp_path: Path, via: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content(SIZE))
    began = time.monotonic()
    try:
        report = zpipe.copy(str(source), str(target), via=via, rate_limit=RATE)
    except zpipe.UsageError as error:
        assert "neither side is on a disk" in str(error)
        missing("temporary files are not on a disk")
    assert time.monotonic() - began >= (SIZE - burst(RATE)) / RATE
    assert target.read_bytes() == content(SIZE)
    assert report.hops[0].waited["rate limit"] > 0
    assert sum(report.hops[0].calls.values()) >= SIZE / burst(RATE)


def test_the_parallel_mover_keeps_to_it_too(tmp_path: Path) -> None:
    source, rate = tmp_path / "source", 200_000_000
    with open(source, "wb") as file:
        file.write(bytes(64 << 20))
    began = time.monotonic()
    report = zpipe.copy(str(source), str(tmp_path / "target"), via="parallel", rate_limit=rate)
    assert time.monotonic() - began >= ((64 << 20) - burst(rate)) / rate
    assert report.moved == 64 << 20
    source.unlink()
    (tmp_path / "target").unlink()


def test_sharing_blocks_keeps_to_it_by_ranges(sharing: Path) -> None:
    source, target = sharing / "source", sharing / "target"
    source.write_bytes(content(SIZE))
    began = time.monotonic()
    report = zpipe.copy(str(source), str(target), via="reflink", rate_limit=RATE)
    assert time.monotonic() - began >= (SIZE - burst(RATE)) / RATE
    assert target.read_bytes() == content(SIZE)
    assert report.hops[0].calls["ioctl(FICLONERANGE)"] > 1
    source.unlink()
    target.unlink()


@pytest.mark.parametrize("via", ["splice", "plain"])
def test_streams_keep_to_the_rate(via: str) -> None:
    began = time.monotonic()
    pattern = f"pattern:x?size={SIZE}"
    report = zpipe.copy(pattern, pattern, via=via, rate_limit=RATE)
    assert time.monotonic() - began >= (SIZE - burst(RATE)) / RATE
    assert report.moved == SIZE


def test_a_rate_that_is_never_reached_costs_no_time(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(content(SIZE))
    report = zpipe.copy(str(tmp_path / "source"), str(tmp_path / "x"), rate_limit=10**15)
    assert "rate limit" not in report.hops[0].waited
