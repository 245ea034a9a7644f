"""All of it together: what is asked for is what is measured, and the books beside it."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.machine import LONGEST, missing
from tests.measure.shortly import AMPLE, in_short
from zpipe.bench.cells import KIB, MIB, RECORDS, ROUTES, TECHNIQUES
from zpipe.bench.noise import Busy, Listener, Noise, described, machine
from zpipe.bench.peers import NOT_INSTALLED, OWN, measure_peer, programs_of
from zpipe.bench.schedule import Failed, Refused, TooLong
from zpipe.bench.suites import LOG_SIZE, Request, cells_of, needed, run_suite
from zpipe.bench.textbook import TEXTBOOK, Measured, differences
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.movers.contract import Cost
from zpipe.values import replace

if TYPE_CHECKING:
    from pathlib import Path

QUIET = Noise((0.001, 0.001, 0.001), 0.01, (0.1, 2.0), 2, None, 0.0, ())


def test_cells_are_those_that_are_asked_for() -> None:
    asked = Request(sizes=(4096, 512), routes=("tcp-tcp",), techniques=("splice", "read+write"))
    cells = cells_of(asked)
    assert [(cell.technique, cell.size) for cell in cells] == [
        ("read+write", 4096),
        ("splice", 4096),
        ("read+write", 512),
        ("splice", 512),
    ]
    assert {cell.route.name for cell in cells} == {"tcp-tcp"}
    everything = cells_of(Request())
    assert {cell.family for cell in everything} == {(t, r) for t in TECHNIQUES for r in ROUTES}
    assert len(cells_of(Request(suite="broker"))) == 2 * len(RECORDS)


def test_space_for_sources_and_the_largest_batch_of_sinks() -> None:
    asked = Request(sizes=(MIB, 64 * MIB), routes=("file-file",))
    assert needed(asked, cells_of(asked)) == MIB + 64 * MIB + 64 * MIB
    asked = Request(sizes=(KIB,), routes=("tcp-tcp",))
    assert needed(asked, cells_of(asked)) == 0
    assert needed(Request(suite="broker"), []) == LOG_SIZE


def test_a_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_short(monkeypatch)
    rounds: list[str] = []
    asked = Request(
        sizes=(4096,),
        routes=("file-file", "pipe-pipes"),
        techniques=("read+write", "sendfile", "tee"),
        seconds=AMPLE,
        folder=str(tmp_path),
    )
    bench = run_suite(asked, tell=rounds.append)
    assert not list(tmp_path.iterdir())
    assert {result.cell.family for result in bench.results} == {
        ("read+write", "file-file"),
        ("sendfile", "file-file"),
        ("read+write", "pipe-pipes"),
        ("tee", "pipe-pipes"),
    }
    assert all(result.cost is not None for result in bench.results)
    assert set(bench.outcome.refused.values()) == {
        "serves one sink, not several",
        "duplicates pipes: it serves several sinks, not one",
    }
    assert len(rounds) == bench.outcome.rounds
    found = {entry.technique for entry, measured in bench.by_the_book() if measured is not None}
    assert found == {"read+write", "sendfile", "tee"}


def test_a_run_that_is_stopped_leaves_nothing_behind(tmp_path: Path) -> None:
    class Soon(Stop):
        asked = 0

        def check(self) -> None:
            self.asked += 1
            if os.listdir(tmp_path) and self.asked > 20:
                raise Interrupted(2)

    with pytest.raises(Interrupted):
        run_suite(Request(folder=str(tmp_path), seconds=30), Soon())
    assert not list(tmp_path.iterdir())


def test_brokers_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_short(monkeypatch)
    asked = Request(suite="broker", sizes=(512, 256 * KIB), seconds=AMPLE, folder=str(tmp_path))
    bench = run_suite(asked)
    assert len(bench.results) == 4
    assert set(bench.crossings()) == {"cpu", "rate"}
    assert {result.cost.cpu_copies for result in bench.results if result.cost} == {0, 1}


# Textbooks


def test_every_technique_has_an_entry() -> None:
    assert {entry.technique for entry in TEXTBOOK} == set(TECHNIQUES)


def test_what_is_the_same_needs_no_words() -> None:
    entry = next(entry for entry in TEXTBOOK if entry.technique == "splice")
    found = Measured(Cost(0, 2, 2), MIB, 2, 0, 1.0, "file-tcp")
    assert differences(entry, found) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cost": Cost(1, 2, 2)}, "1 CPU copy and not 0: a file takes no references"),
        ({"cost": Cost(0, 1, 2)}, "1 DMA copy and not 2: loopback"),
        ({"calls": 20.0}, "40 switches and not 4: "),
        ({"faults": 64.0}, "64 page faults"),
        ({"from_disk": 0.0}, "0% of the bytes were read from the disk"),
    ],
)
def test_each_difference_has_its_reason(changes: dict[str, object], words: str) -> None:
    entry = next(entry for entry in TEXTBOOK if entry.technique == "splice")
    found = Measured(Cost(0, 2, 2), MIB, 2, 0, 1.0, "file-tcp")
    (line,) = differences(entry, replace(found, **changes))
    assert line.startswith(words)


# Noise


def test_a_quiet_machine_has_no_reasons() -> None:
    assert QUIET.reasons == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"spread": 0.5}, "50% longer"),
        ({"load": (1.5, 1.5)}, "load was 1.50"),
        ({"stolen": 0.1}, "other virtual machines"),
        ({"governor": "powersave"}, "powersave"),
        ({"busy": (Busy("make", 7, 0.9),)}, "make (90%)"),
    ],
)
def test_noise_has_its_reasons(changes: dict[str, object], word: str) -> None:
    import dataclasses

    (reason,) = dataclasses.replace(QUIET, **changes).reasons  # type: ignore[arg-type]
    assert word in reason


def test_what_is_heard() -> None:
    listener = Listener()
    heard = listener.heard()
    median, low, high = heard.loop
    assert 0 < low <= median <= high
    assert heard.processors >= 1
    assert os.getpid() not in {busy.pid for busy in heard.busy}


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = machine(str(tmp_path))
    assert found["kernel"] == os.uname().release
    assert str(found["python"]) in described(found)


# Peers


@pytest.mark.parametrize("route", list(ROUTES))
def test_programs_do_what_is_measured(route: str, tmp_path: Path) -> None:
    """What arrives is counted by the measurement itself."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    measured = 0
    for name in programs_of(route):
        (cell,) = [
            cell
            for cell in cells_of(Request(suite="peers", sizes=(100_000,), routes=(route,)))
            if cell.technique == name
        ]
        target = tmp_path / f"target-{name}"
        try:
            end = time.monotonic() + LONGEST
            sample = measure_peer(cell, str(source), str(target), 3, end, Stop())
        except Refused as refused:
            assert str(refused) == NOT_INSTALLED and shutil.which(name) is None
            continue
        assert (sample.transfers, sample.bytes, sample.calls) == (1, 100_000, None)
        assert sample.cpu > 0
        measured += 1
    if measured < 2:
        missing(f"no other program for {route} is installed")


def test_zpipe_is_the_first_on_every_route() -> None:
    assert all(programs_of(route)[0] == OWN for route in ROUTES)


def test_a_program_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    (cell, *_) = (
        cell
        for cell in cells_of(Request(suite="peers", routes=("file-file",)))
        if cell.technique == "cp"
    )
    with pytest.raises(Failed, match="No such file"):
        measure_peer(cell, str(tmp_path / "none"), str(tmp_path / "t"), 1, float("inf"), Stop())


def test_a_program_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    (cell, *_) = cells_of(Request(suite="peers", routes=("tcp-tcp",)))
    with pytest.raises(TooLong):
        measure_peer(cell, "", "", 1, 0.0, Stop())
