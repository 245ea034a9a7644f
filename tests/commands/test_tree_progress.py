"""How far the copying of a tree has come: lines, a display on a terminal, a word on SIGUSR1."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.commands.test_progress import cp, on_terminal
from tests.machine import content, started, until, until_listening_to_signals, zpipe

if TYPE_CHECKING:
    from pathlib import Path

# at this rate it takes 1.2 seconds at least, so that a line a second is due
SLOWLY = ["--rate-limit", "80000"]
LINE = (
    r"zpipe: (?P<at>\S+): (?P<files>\d+)(?: of (?P<found>\d+))? files,"
    r" (?P<moved>\S+ K?i?B) of (?P<expected>\S+ KiB)(?P<far> so far)? (?P<what>written|on disk),"
    r" \S+ K?i?B/s, \d+\.\d+ s"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Four files of 25,000 bytes in two directories."""
    for name in ("a", "b"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "s" / name / f"{number}").write_bytes(content(25_000, seed=number))
    return tmp_path


def lines(said: bytes) -> list[re.Match[str]]:
    """Return what each line says; all of them are lines of progress."""
    found = [re.fullmatch(LINE, line) for line in said.decode().splitlines()]
    assert all(found), said
    return [match for match in found if match is not None]


@pytest.mark.parametrize(("option", "what"), [((), "written"), (("--sync",), "on disk")])
def test_a_line_each_second_where_there_is_no_terminal(
    tree: Path, option: tuple[str, ...], what: str
) -> None:
    done = zpipe("cp", "-r", *option, "--progress", "always", *SLOWLY, "s", "d", cwd=tree)
    assert (done.returncode, done.stdout) == (0, b"")
    shown = lines(done.stderr)
    assert shown
    for line in shown:
        assert line["what"] == what
        assert line["at"] in ("s/a", "s/b")
        assert int(line["files"]) <= 4


def test_the_walk_goes_on_while_it_copies(tree: Path) -> None:
    """Each directory is read when its turn has come: until then the sum is one so far."""
    with started("cp", "-r", "--rate-limit", "1000", "s", "d", cwd=tree) as process:
        assert process.stderr is not None
        until_listening_to_signals(process)
        until(lambda: list(tree.glob("d/*/.*.zpipe-*")), "the first file is under way")
        process.send_signal(signal.SIGUSR1)
        first = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert re.fullmatch(r"zpipe: s/[ab]: 0 files, .*, \S+ m?s\n", first), first
    assert " of " not in first or "so far" in first
    assert rest.decode() == "zpipe: ended by SIGINT; 0 files were copied\n"


def test_sigusr1_tells_of_workers_too(tmp_path: Path) -> None:
    """They are many files, and the coordinator sleeps while others work: a signal wakes it."""
    for place in range(20):
        (tmp_path / "s" / f"{place}").mkdir(parents=True)
        for number in range(200):
            (tmp_path / "s" / f"{place}" / f"{number}").write_bytes(b"x")
    with started("cp", "-r", "-j", "2", "--sync", "s", "d", cwd=tmp_path) as process:
        assert process.stderr is not None
        until_listening_to_signals(process)
        until(lambda: list(tmp_path.glob("d/*/*")), "the first files are there")
        process.send_signal(signal.SIGUSR1)
        line = process.stderr.readline().decode()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert re.fullmatch(r"zpipe: s/\d+: \d+( of \d+)? files, \S+ K?i?B, \S+ K?i?B/s, .*s\n", line)
    assert process.returncode == -signal.SIGINT
    assert re.fullmatch(rb"zpipe: ended by SIGINT; \d+ files? w\S+ copied\n", said)


def test_on_a_terminal_a_display_is_drawn_and_taken_away(tree: Path) -> None:
    status, screen = on_terminal(tree, *cp("-r", *SLOWLY, "s", "d"))
    assert status == 0
    assert re.search(r"s/[ab]", screen)
    assert re.search(r"\d/4\+? files", screen)
    assert re.search(r"\d+(\.\d+)? KiB/s", screen)
    assert "written" in screen and "on disk" not in screen
    drawn, _, rest = screen.rpartition("written")
    assert "\x1b[2K" in rest  # the line is erased
    assert rest.count("\x1b[?25h") == screen.count("\x1b[?25l") == 1  # the cursor is back
    assert "zpipe" not in drawn


def test_a_display_with_sync_speaks_of_the_disk(tree: Path) -> None:
    words = ["-r", "--sync", "--progress", "always", "--rate-limit", "200000", "s", "d"]
    status, screen = on_terminal(tree, *cp(*words))
    assert (status, "on disk" in screen, "written" in screen) == (0, True, False)


def test_the_time_that_is_left_is_told_when_all_has_been_seen(tmp_path: Path) -> None:
    """One directory is seen at once; then the bytes that there are have a sum."""
    (tmp_path / "s").mkdir()
    for number in range(4):
        (tmp_path / "s" / f"{number}").write_bytes(content(25_000))
    words = ["-r", "--progress", "always", "--rate-limit", "150000", "s", "d"]
    status, screen = on_terminal(tmp_path, *cp(*words))
    assert status == 0
    assert re.search(r"\d/4 files", screen)
    assert re.search(r"/97\.7 KiB", screen)
    assert re.search(r"0:00:\d\d", screen)


@pytest.mark.parametrize(
    "options",
    [
        ["-q", "--progress", "always", "--rate-limit", "200000"],
        ["--progress", "never", *SLOWLY],
        [],
    ],
    ids=["quiet", "never", "quick"],
)
def test_no_display_where_it_is_not_wanted_or_not_due(tree: Path, options: list[str]) -> None:
    assert on_terminal(tree, *cp("-r", *options, "s", "d")) == (0, "")


def test_a_lost_file_stands_on_a_line_of_its_own(tree: Path) -> None:
    (tree / "s/a/dangling").symlink_to("nowhere")
    words = ["-rL", "--progress", "always", "--rate-limit", "200000", "s", "d"]
    status, screen = on_terminal(tree, *cp(*words))
    assert status == 1
    assert re.search(r"(^|\x1b\[2K|\n|\r)zpipe: s/a/dangling: ", screen)
    assert sorted(os.listdir(tree / "d/a")) == ["0", "1"]
