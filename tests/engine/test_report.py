"""What a report says of a run that really happened."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.machine import content
from zpipe.engine.feedback import Feedback
from zpipe.engine.report import Fallback, Meter, OutletReport, Report

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.engine.report import HopReport

BIG = 100_000


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.EINVAL, "Invalid argument (EINVAL)"),
        (errno.EOPNOTSUPP, "Operation not supported (EOPNOTSUPP)"),
        (0, "moved nothing"),
    ],
)
def test_the_reason_of_a_fallback_in_words_and_as_a_symbol(number: int, text: str) -> None:
    assert Fallback("splice", "splice", number, 0).reason == text


def test_an_errno_without_a_name_is_a_number() -> None:
    assert Fallback("splice", "splice", 4095, 0).reason.endswith("(4095)")


def test_a_report_of_nothing() -> None:
    assert (Report().moved, Report().hops) == (0, [])


@pytest.mark.parametrize(
    ("state", "given_up"),
    [
        ("flowing", False),
        ("blocked", False),
        ("spilling", False),
        ("detached", True),
        ("failed", True),
        ("left", False),
        ("done", False),
    ],
)
def test_an_output_is_given_up_by_failing_or_by_being_too_slow(state: str, given_up: bool) -> None:
    outlet = OutletReport("x", "block")
    assert (outlet.state, outlet.error, outlet.given_up) == ("flowing", None, False)
    outlet.state = state
    assert outlet.given_up is given_up


@pytest.mark.parametrize("sinks", [1, 3])
def test_the_report_has_an_outlet_for_each_sink(sinks: int, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(BIG))
    names = [str(tmp_path / f"x{number}") for number in range(sinks)]
    report = zpipe.copy(str(tmp_path / "b"), *names)
    (hop,) = report.hops
    assert hop.sink == ", ".join(names)
    assert report.moved == BIG, "bytes count once, however many sinks took them"
    for outlet, name in zip(hop.outlets, names, strict=True):
        assert (outlet.sink, outlet.state, outlet.moved) == (name, "done", BIG)
        assert (outlet.lag, outlet.spilled, outlet.deepest) == (0, 0, 0)
        assert outlet.mover == hop.mover


def test_the_report_of_a_copy(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(BIG))
    report = zpipe.copy(str(tmp_path / "b"), str(tmp_path / "x"), without=frozenset({"reflink"}))
    (hop,) = report.hops
    assert isinstance(report, zpipe.Report)
    assert report.moved == hop.moved == hop.expected == BIG
    assert (hop.source, hop.sink) == (str(tmp_path / "b"), str(tmp_path / "x"))
    assert hop.mover == hop.plan.first.name
    assert hop.bytes_by_mover == {hop.mover: BIG}
    assert hop.complete
    assert (hop.lost, hop.fallbacks) == (0, [])
    assert report.resources.seconds >= hop.seconds > 0
    assert report.resources.user >= 0


def test_expected_is_what_the_source_holds_or_what_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(BIG))
    path = str(tmp_path / "b")
    cases: list[tuple[dict[str, Any], int]] = [
        ({}, BIG),
        ({"length": 10}, 10),
        ({"length": 10 * BIG}, BIG),
        ({"offset": 10}, BIG - 10),
        ({"length": 0}, 0),
    ]
    for wishes, expected in cases:
        report = zpipe.copy(path, "null:", **wishes)
        assert report.hops[0].expected == expected
        assert report.moved == expected
    assert zpipe.copy("exec:true", "null:").hops[0].expected is None


def test_waiting_is_measured_by_what_was_waited_for() -> None:
    """The source ends when it has been waited for long enough, and nothing else is slow."""
    reader, writer = os.pipe()
    ticks: list[float] = []

    class Told(Feedback):
        interval = 0.01

        def progress(self, hop: HopReport) -> None:
            ticks.append(time.monotonic())
            if ticks[-1] - ticks[0] >= 0.1:
                os.close(writer)

    report = zpipe.copy(f"fd:{reader}", "null:", feedback=Told())
    os.close(reader)
    (hop,) = report.hops
    assert hop.waited["source"] >= ticks[-1] - ticks[0]
    assert list(hop.waited) == ["source"]
    assert hop.calls["poll"] >= 1


def test_a_meter_measures_what_was_used_between() -> None:
    meter = Meter()
    began = time.monotonic()
    spent = time.process_time()
    while time.process_time() - spent < 0.05:
        os.getppid()
    used = meter.read()
    assert used.user + used.system > 0.02
    assert 0 < used.seconds <= time.monotonic() - began + 0.01
    assert used.voluntary_switches >= 0
    assert used.involuntary_switches >= 0
