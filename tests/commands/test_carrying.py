"""What stands between the command line and the engine: who is told what."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.commands.reports import outlet
from tests.machine import content
from zpipe.commands.carrying import Console, Several, Shown, carry
from zpipe.endpoints import parse
from zpipe.engine.copy import copy, joined, pair
from zpipe.engine.feedback import Feedback
from zpipe.engine.run import run
from zpipe.errors import OutputsDropped, TransferError, UsageError
from zpipe.graph.model import Wishes
from zpipe.graph.policy import Policy

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.engine.report import HopReport, OutletReport, Report
    from zpipe.errors import ZpipeError

BIG = 100_000


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Told(Feedback):
    """Writes down what it hears, into a list that may be shared."""

    def __init__(self, name: str, heard: list[str], interval: float | None = None):
        self.interval = interval
        self._name = name
        self._heard = heard

    def _note(self, word: str) -> None:
        self._heard.append(f"{self._name}: {word}")

    def said(self, text: str) -> None:
        self._note(f"said {text}")

    def began(self, hop: HopReport) -> None:
        self._note(f"began {hop.moved}")

    def progress(self, hop: HopReport) -> None:
        self._note("progress")

    def status(self, hop: HopReport) -> None:
        self._note("status")

    def answered(self, text: str) -> None:
        self._note(f"answered {text}")

    def failed(self, error: ZpipeError) -> None:
        self._note(f"failed {error}")

    def dropped(self, outlet: OutletReport) -> None:
        self._note(f"dropped {outlet.sink}")

    def stopped(self, report: Report) -> None:
        self._note(f"stopped {report.moved}")

    def ended(self, hop: HopReport) -> None:
        self._note(f"ended {hop.moved}")

    def closed(self, report: Report) -> None:
        self._note(f"closed {report.moved}")


def test_two_listeners_hear_everything_in_turn(folder: Path) -> None:
    heard: list[str] = []
    copy("b", "x", feedback=Several(Told("1", heard), Told("2", heard)))
    words = ["began 0", f"ended {BIG}", f"stopped {BIG}", f"closed {BIG}"]
    assert heard == [f"{name}: {word}" for word in words for name in "12"]


def test_two_listeners_hear_of_answers_failures_and_drops(folder: Path) -> None:
    heard: list[str] = []
    sources = [parse(name, sink=False) for name in ("none", "b")]
    sinks = [parse(name, sink=True) for name in ("x", "none/y", "hash:md5")]
    graph = joined(sources, [(sink, Policy()) for sink in sinks], Wishes(skip=True))
    with pytest.raises(OutputsDropped):
        run(graph, feedback=Several(Told("1", heard), Told("2", heard)))
    words = [
        "failed none: open: No such file or directory",
        "dropped none/y",
        "began 0",
        f"answered {hashlib.md5(content(BIG)).hexdigest()}  -",
        f"ended {BIG}",
        f"stopped {BIG}",
    ]
    assert heard == [f"{name}: {word}" for word in words for name in "12"]


def test_a_console_says_failures_and_drops_and_answers_as_they_are(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    console = Console(Shown())
    console.failed(TransferError("b: read: no"))
    dropped = outlet("x", state="failed", error="x: write: full")
    console.dropped(dropped)
    console.dropped(outlet("y", state="left"))  # no failure: not a word
    console.answered("abc  -")
    assert capfd.readouterr().err == "zpipe: b: read: no\nzpipe: x: write: full\nabc  -\n"


@pytest.mark.parametrize(
    ("first", "second", "both"), [(None, None, None), (2.0, None, 2.0), (2.0, 0.5, 0.5)]
)
def test_the_shorter_interval_serves_both(
    first: float | None, second: float | None, both: float | None
) -> None:
    assert Several(Told("1", [], first), Told("2", [], second)).interval == both


def test_progress_is_told_at_its_interval(folder: Path) -> None:
    """0.2 s at that rate, an interval of 0.02 s: several times, and never before it began."""
    heard: list[str] = []
    copy("b", "x", feedback=Told("1", heard, 0.02), rate_limit=400_000)
    assert heard[0] == "1: began 0"
    assert heard[-3:] == [f"1: {word} {BIG}" for word in ("ended", "stopped", "closed")]
    assert heard.count("1: progress") >= 2


def test_a_console_that_shows_nothing_has_no_interval() -> None:
    """So that the engine need not wake up for it."""
    assert Console(Shown(progress="never")).interval is None
    assert Console(Shown(progress="always")).interval is not None


def test_a_copy_without_wishes_says_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    carry(lambda: pair("b", "x", Wishes()), Shown())
    assert (folder / "x").read_bytes() == content(BIG)
    assert capfd.readouterr() == ("", "")


def test_the_caller_prints_the_error_unless_it_was_told(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TransferError) as raised:
        carry(lambda: pair("nosuch", "x", Wishes()), Shown())
    assert not raised.value.told
    assert capfd.readouterr() == ("", "")
    with pytest.raises(TransferError) as raised:
        carry(lambda: pair("nosuch", "x", Wishes()), Shown(json=True))
    assert raised.value.told
    assert '"type": "error"' in capfd.readouterr().err


def test_a_dry_run_is_the_plan_and_nothing_else(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    carry(lambda: pair("b", "x", Wishes()), Shown(dry_run=True))
    shown = capfd.readouterr()
    head, row = shown.out.splitlines()[:2]
    assert head.startswith("HOP ")
    assert row.startswith("b -> x ")
    assert shown.err == ""
    assert not (folder / "x").exists()


def test_signals_are_as_they_were_afterwards(folder: Path) -> None:
    import signal

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    carry(lambda: pair("b", "x", Wishes()), Shown())
    with pytest.raises(UsageError):
        carry(lambda: pair("b", "b", Wishes()), Shown())
    assert [signal.getsignal(number) for number in numbers] == before
    wakeup = signal.set_wakeup_fd(-1)
    assert wakeup == -1
    os.stat(folder / "x")
