"""How far a copy has come: on a real terminal, where it can be seen and only there."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest

from tests.commands import reports
from tests.commands.shell import BIG
from tests.machine import (
    ZPIPE,
    content,
    environment,
    started,
    until,
    until_listening_to_signals,
    zpipe,
)
from zpipe.commands.progress import Lines, status_line
from zpipe.engine.report import HopReport
from zpipe.movers.contract import Cost
from zpipe.plan.choice import Candidate, HopPlan

if TYPE_CHECKING:
    from pathlib import Path

# a rate at which the display is due: what exceeds the first burst takes 1.2 s at least
SLOWLY = ["--rate-limit", "80000"]
PLAN = HopPlan((Candidate("plain", "", Cost(2, 0, 8)),), ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "b").write_bytes(content(BIG))
    return tmp_path


def on_terminal(folder: Path, *command: str, width: int = 80, **variables: str) -> tuple[int, str]:
    """Run a command in a session of its own with a terminal; return its status and the screen."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, width, 0, 0))

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=folder,
        env={
            name: value
            for name, value in environment(**{"TERM": "xterm", **variables}).items()
            if name not in ("COLUMNS", "LINES")
        },
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509
    )
    os.close(theirs)
    screen = b""
    try:
        while got := os.read(ours, 65536):
            screen += got
    except OSError:
        pass  # EIO: the last one who had the terminal has gone
    os.close(ours)
    return process.wait(30), screen.decode()


def cp(*words: str) -> list[str]:
    return [*ZPIPE, "cp", *words]


def test_after_a_second_a_bar_is_drawn_and_taken_away(folder: Path) -> None:
    status, screen = on_terminal(folder, *cp(*SLOWLY, "b", "x"))
    assert status == 0
    assert (folder / "x").read_bytes() == content(BIG)
    assert "b -> x" in screen
    assert re.search(r"\d\d\.\d/97\.7 KiB", screen)
    assert re.search(r"\d+(\.\d+)? KiB/s", screen)
    assert "copy_range" in screen
    drawn, _, rest = screen.rpartition("copy_range")
    assert "\x1b[2K" in rest  # the line is erased
    assert rest.count("\x1b[?25h") == screen.count("\x1b[?25l") == 1  # the cursor is back
    assert "zpipe" not in drawn


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("sinks", [1, 2])
def test_a_line_of_the_display_is_one_line_and_its_figures_are_whole(
    width: int, sinks: int, folder: Path
) -> None:
    name = "a-name-of-which-there-is-more-than-a-narrow-terminal-has-room-for.img"
    outputs = [f"{number}-{name}" for number in range(sinks)]
    words = [*SLOWLY, "b", *(f"--to={output}" for output in outputs)]
    status, screen = on_terminal(folder, *cp(*words), width=width)
    assert status == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    lines = [line.strip("\r") for frame in text.split("\r\n") for line in frame.split("\r")]
    drawn = [line for line in lines if line.strip()]
    assert drawn
    for line in drawn:
        assert len(line) <= width
        assert re.search(r" \d+\.\d/(97\.7|\?) KiB", line), line
        assert "…" in line
        assert re.search(r" \d+(\.\d+)? KiB/s", line) or (width < 70 and sinks > 1), line


def test_a_quick_copy_shows_nothing(folder: Path) -> None:
    assert on_terminal(folder, *cp("b", "x")) == (0, "")


@pytest.mark.parametrize("options", [["-q"], ["--progress", "never"]])
def test_not_where_it_is_not_wanted(folder: Path, options: list[str]) -> None:
    assert on_terminal(folder, *cp(*SLOWLY, *options, "b", "x")) == (0, "")


def test_not_from_the_background(folder: Path) -> None:
    """Another job has the terminal; a display would be drawn into its screen."""
    script = 'set -m; "$@" & wait $!'
    status, screen = on_terminal(folder, "sh", "-c", script, "sh", *cp(*SLOWLY, "b", "x"))
    assert (folder / "x").read_bytes() == content(BIG)
    assert (status, "b -> x" in screen) == (0, False)


def test_not_where_stderr_is_no_terminal(folder: Path) -> None:
    status, screen = on_terminal(
        folder, "sh", "-c", 'exec "$@" 2>said', "sh", *cp(*SLOWLY, "b", "x")
    )
    assert (status, screen, (folder / "said").read_bytes()) == (0, "", b"")


def test_not_where_the_cursor_cannot_be_moved(folder: Path) -> None:
    assert on_terminal(folder, *cp(*SLOWLY, "b", "x"), TERM="dumb") == (0, "")


def test_always_is_at_once(folder: Path) -> None:
    words = ["--progress", "always", "--rate-limit", "200000", "b", "x"]
    status, screen = on_terminal(folder, *cp(*words))
    assert (status, "b -> x" in screen) == (0, True)


def test_always_without_a_terminal_is_a_line_each_second(folder: Path) -> None:
    done = zpipe("cp", "--progress", "always", *SLOWLY, "b", "x", cwd=folder)
    assert (done.returncode, done.stdout) == (0, b"")
    line = r"zpipe: b -> x: \S+ KiB of 97\.7 KiB \(\d+ %\), \S+ KiB/s, \d+\.\d+ s, copy_range\n"
    assert re.fullmatch(f"({line})+", done.stderr.decode())


def test_an_error_stands_on_a_line_of_its_own(folder: Path) -> None:
    words = ["--progress", "always", "--rate-limit", "200000", "exec:sh -c 'cat b; exit 3'", "x"]
    status, screen = on_terminal(folder, *cp(*words))
    assert status == 1
    assert screen.endswith("\x1b[2Kzpipe: exec:sh -c 'cat b; exit 3': exit status 3\r\n")


def test_a_source_of_unknown_size_is_shown_too(folder: Path) -> None:
    words = ["--progress", "always", "--rate-limit", "200000", "exec:cat b", "x"]
    status, screen = on_terminal(folder, *cp(*words))
    assert status == 0
    assert "exec:cat b -> x" in screen
    assert "/? " in screen


def test_sigusr1_prints_one_line_and_the_copy_goes_on(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "fifo", "x", cwd=folder) as process:
        assert process.stderr is not None
        until_listening_to_signals(process)
        with open(folder / "fifo", "wb", buffering=0) as fifo:
            for size in (1000, 3000):
                fifo.write(content(BIG)[size - (1000 if size == 1000 else 2000) : size])
                until(lambda: bytes_in_temporary(folder) == size, f"{size} bytes are there")  # noqa: B023
                process.send_signal(signal.SIGUSR1)
                line = process.stderr.readline().decode()
                shown = {1000: "1000 B", 3000: "2.93 KiB"}[size]
                assert re.fullmatch(
                    rf"zpipe: fifo -> x: {re.escape(shown)}, \S+ \S+/s, \S+ m?s, splice\n", line
                )
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")
    assert (folder / "x").read_bytes() == content(BIG)[:3000]


def bytes_in_temporary(folder: Path) -> int:
    sizes = [path.stat().st_size for path in folder.glob(".x.zpipe-*")]
    return sum(sizes)


def test_sigusr1_also_tells_what_is_waited_for_before_anything_moves(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "fifo", "x", cwd=folder) as process:
        assert process.stderr is not None
        until_listening_to_signals(process)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr.readline() == b"zpipe: fifo: wait for a writer\n"
        (folder / "fifo").write_bytes(content(10))
        _, said = process.communicate(timeout=30)
        assert (process.returncode, said) == (0, b"")


def hop(moved: int, expected: int | None, seconds: float, mover: str = "plain") -> HopReport:
    report = HopReport("from", "to", PLAN, expected)
    report.moved, report.seconds, report.mover = moved, seconds, mover
    return report


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (hop(0, None, 0.0, ""), "from -> to: 0 B, 0.00 ms"),
        (hop(512, 1024, 0.5), "from -> to: 512 B of 1.00 KiB (50 %), 1.00 KiB/s, 0.50 s, plain"),
        (hop(3 << 20, None, 60.0), "from -> to: 3.00 MiB, 51.2 KiB/s, 1:00, plain"),
        (hop(0, 0, 1.0), "from -> to: 0 B, 0 B/s, 1.00 s, plain"),
    ],
)
def test_the_status_line(report: HopReport, line: str) -> None:
    assert status_line(report) == line


def test_lines_stay_when_the_display_is_closed() -> None:
    shown: list[str] = []
    lines = Lines(shown.append)
    lines.show(hop(1, 2, 1.0))
    lines.close()
    assert shown == ["from -> to: 1 B of 2 B (50 %), 1 B/s, 1.00 s, plain"]


# Several outputs


SEVERAL = (
    reports.outlet("x", moved=1000, lag=0),
    reports.outlet("y", moved=500, lag=500, state="blocked"),
    reports.outlet("z", moved=10, lag=990, state="spilling", policy="spill"),
    reports.outlet("q", moved=3, lag=997, state="detached", policy="detach"),
)


def test_the_status_line_of_several_outputs_tells_of_each() -> None:
    line = status_line(reports.hop(*SEVERAL, moved=1000, seconds=2.0))
    assert line == (
        "a -> x, y, z, q: 1000 B, 500 B/s, 2.00 s, tee; x: 1000 B, flowing;"
        " y: 500 B, blocked, 500 B behind; z: 10 B, spilling, 990 B behind; q: 3 B, detached"
    )


def test_an_output_alone_is_the_line_itself() -> None:
    line = status_line(
        reports.hop(reports.outlet("x", moved=1000, lag=5, state="blocked"), moved=1000)
    )
    assert line.count(";") == 0
    assert line.startswith("a -> x: 1000 B")


def test_a_line_has_the_name_and_the_size_that_the_user_gave() -> None:
    said: list[str] = []
    lines = Lines(said.append, name="backup", size=4000)
    lines.show(reports.hop(moved=500, seconds=1.0, expected=1000), 500)
    lines.close()
    assert said == ["backup: 1000 B of 3.91 KiB (25 %), 500 B/s, 1.00 s, tee"]


def test_the_size_of_one_source_is_not_that_of_all() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    lines.show(reports.hop(moved=500, seconds=1.0, expected=1000))
    lines.show(reports.hop(moved=500, seconds=1.0, expected=1000), 1000)
    assert said == [
        "a -> x: 500 B of 1000 B (50 %), 500 B/s, 1.00 s, tee",
        "a -> x: 1.46 KiB, 500 B/s, 1.00 s, tee",
    ]


def test_on_a_terminal_every_output_has_a_line(folder: Path) -> None:
    command = [
        *ZPIPE,
        "cp",
        "--progress",
        "always",
        "--rate-limit",
        "200K",
        "b",
        "--to",
        "x",
        "--to",
        "y",
    ]
    status, screen = on_terminal(folder, *command)
    assert status == 0
    assert re.search(r"x .*flowing", screen)
    assert re.search(r"y .*flowing", screen)
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == content(BIG)
