"""The sum of a run: in one line, how much, how fast, and which side was slow."""

from __future__ import annotations

import pytest

from tests.commands.reports import hop, report
from zpipe.commands.stats import Stats, summary

MIB = 1 << 20


def test_bytes_rates_and_waits_are_told_in_one_line() -> None:
    run = report(hop(moved=4 * MIB, waited={"source": 0.5, "sink": 0.25}))
    assert summary(run, [MIB, 3 * MIB, 2 * MIB], 2.0) == (
        "4194304 bytes (4.00 MiB) in 2.00 s;"
        " 2.00 MiB/s mean, 1.00 MiB/s min, 3.00 MiB/s max;"
        " waited 0.50 s for input, 0.25 s for output; the input was the slow side"
    )


def test_few_bytes_are_told_once_and_without_windows_the_mean_is_all_there_is() -> None:
    text = summary(report(hop(moved=10)), [], 0.1)
    assert text.startswith("10 bytes in 0.10 s; 100 B/s mean, 100 B/s min, 100 B/s max; ")


def test_of_nothing_in_no_time() -> None:
    text = summary(report(), [], 0.0)
    assert text.startswith("0 bytes in ")
    assert "0 B/s mean" in text


def test_sources_are_added_up() -> None:
    first = hop(moved=1000, waited={"source": 0.1, "sink": 0.3})
    second = hop(moved=24, waited={"sink": 0.2})
    text = summary(report(first, second), [], 1.0)
    assert text.startswith("1024 bytes (1.00 KiB) in 1.00 s; ")
    assert "waited 0.10 s for input, 0.50 s for output; the output was the slow side" in text


@pytest.mark.parametrize(
    ("waited", "slow"),
    [
        ({}, "neither side held the other up"),
        ({"source": 0.9}, "the input was the slow side"),
        ({"sink": 0.9}, "the output was the slow side"),
        ({"rate limit": 0.9, "source": 0.05}, "the rate limit was the slow side"),
        ({"source": 0.4, "sink": 0.6}, "the output was the slow side"),
        ({"source": 0.5, "sink": 0.5}, "neither side held the other up"),
        ({"source": 0.5, "sink": 0.46}, "neither side held the other up"),
        ({"source": 0.04}, "neither side held the other up"),
    ],
)
def test_the_slow_side_is_the_one_that_was_waited_for(waited: dict[str, float], slow: str) -> None:
    text = summary(report(hop(moved=1, waited=waited)), [], 1.0)
    assert text.endswith(f"; {slow}")
    assert ("for the rate limit" in text) is ("rate limit" in waited)


def test_it_is_said_when_the_run_stops_and_not_before() -> None:
    said: list[str] = []
    stats = Stats(None, said.append)
    assert stats.interval is not None
    assert stats.interval > 0
    run = hop(moved=0)
    stats.began(run)
    run.moved = 5
    stats.progress(run)
    assert said == []
    stats.stopped(report(run))
    (line,) = said
    assert line.startswith("5 bytes in ")


def test_the_window_is_that_of_the_user() -> None:
    assert Stats(0.25, print).interval == 0.25
