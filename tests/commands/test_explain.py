"""Plans and outcomes for people, and plans of which nothing is carried out."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

import zpipe as library
from tests.commands.reports import hop, outlet, report
from tests.commands.shell import BIG, SMALL, names, refused, shell
from tests.machine import ZPIPE, content, environment, missing, strace, zpipe
from zpipe.commands.explain import happened, planned

if TYPE_CHECKING:
    from pathlib import Path

ARROW = "──▶"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(content(SMALL))
    (tmp_path / "b").write_bytes(content(BIG))
    (tmp_path / "d").mkdir()
    return tmp_path


def rows(text: str) -> dict[str, list[str]]:
    """Return the lines of an explanation by their labels; a line that was wrapped is one again."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in text.splitlines():
        if line.startswith(" " * 14):
            found[label][-1] += " " + line.strip()
        elif line.startswith("  "):
            label = line[2:12].strip() or label
            found.setdefault(label, []).append(line[12:])
        else:
            found.setdefault("head", []).append(line)
    return found


def figures(text: str) -> dict[str, list[str]]:
    """Return mover, copies by CPU and by DMA, and calls of each row of a table by its name."""
    lines = text.partition("\n\n")[0].splitlines()
    assert lines[0].split() == ["HOP", "MOVER", "CPU", "DMA", "CALLS/MiB"]
    place = lines[0].index("MOVER")
    return {line[:place].rstrip(): line[place:].split() for line in lines[1:]}


def test_plan_and_outcome_of_a_copy(folder: Path) -> None:
    done = zpipe("cp", "--explain", "--no-via", "copy_range", "b", "x", cwd=folder)
    assert (done.returncode, done.stdout) == (0, b"")
    told = rows(done.stderr.decode())
    assert told["head"] == [f"b ── sendfile {ARROW} x"]
    assert told["plan"][0].startswith("sendfile: ")
    assert "copy_range: forbidden by --no-via copy_range" in told["refused"]
    assert told["else"] == ["splice, plain"]
    assert "CPU cop" in told["cost"][0]
    assert "DMA cop" in told["cost"][0]
    assert re.search(r"system calls and .* switches", told["cost"][1])
    assert told["outcome"][0].startswith(f"sendfile reached the end: {BIG} bytes (97.7 KiB) in ")
    assert re.fullmatch(r"\d+ system calls?: sendfile \d+.*", told["calls"][0])
    assert re.search(r"\d+ voluntary and \d+ involuntary context switches", told["cpu"][0])


def test_one_call_is_singular(folder: Path) -> None:
    done = zpipe("cp", "--explain", "--length", "0", "b", "x", cwd=folder)
    assert b"0 bytes" in done.stderr
    done = zpipe("cp", "--explain", "--via", "copy_range", "b", "x", cwd=folder)
    assert b" 1 system calls" not in done.stderr


def test_the_caveat_of_references_and_how_to_be_rid_of_it(folder: Path) -> None:
    told = rows(zpipe("cp", "--explain", "b", "-", cwd=folder).stderr.decode())
    assert "by reference" in told["caveat"][0]
    assert "--stable" in told["caveat"][0]
    told = rows(zpipe("cp", "--explain", "--stable", "b", "-", cwd=folder).stderr.decode())
    assert "caveat" not in told
    assert (
        "sendfile, splice: its pages would go by reference, and --stable asks for copies"
        in (told["refused"])
    )


def test_a_fallback_and_who_carried_what(folder: Path) -> None:
    inject = ["inject=copy_file_range:error=EXDEV", "inject=sendfile:error=ENOSYS"]
    words = strace(
        "-o", "/dev/null", "-e", "trace=copy_file_range,sendfile", "-e", inject[0], "-e", inject[1]
    )
    done = zpipe("cp", "--explain", "b", "x", cwd=folder, before=words)
    told = rows(done.stderr.decode())
    assert told["fallback"] == [
        "copy_range: copy_file_range: Invalid cross-device link (EXDEV)",
        "sendfile: sendfile: Function not implemented (ENOSYS)",
    ]
    assert told["outcome"][0].startswith("splice reached the end")
    assert (folder / "x").read_bytes() == content(BIG)


def test_why_a_target_was_written_in_place(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    os.link(folder / "x", folder / "y")
    told = rows(zpipe("cp", "--explain", "b", "x", cwd=folder).stderr.decode())
    assert told["note"] == ["written in place: it has 2 links"]


def test_waiting_is_told_by_what_was_waited_for(folder: Path) -> None:
    done = zpipe("cp", "--explain", "--rate-limit", "400K", "b", "x", cwd=folder)
    assert rows(done.stderr.decode())["waited"][0].endswith(" for the rate limit")
    done = zpipe("cp", "--explain", "exec:sh -c 'sleep 0.5; echo'", "x", cwd=folder)
    assert rows(done.stderr.decode())["waited"][0].endswith(" for the source")


def test_what_is_explained_can_be_had_from_the_library(folder: Path) -> None:
    report = library.copy(str(folder / "b"), str(folder / "x"))
    (hop,) = report.hops
    assert planned("one", "two", hop.plan).startswith(f"one ── {hop.plan.first.name} {ARROW} two\n")
    assert f"{BIG} bytes" in happened(report)


@pytest.mark.parametrize("option", ["--explain", "--json"])
def test_a_reader_of_stderr_that_has_gone_does_not_stop_the_copy(folder: Path, option: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*ZPIPE, "cp", option, "b", "x"]
    done = subprocess.run(command, cwd=folder, env=environment(), stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert (folder / "x").read_bytes() == content(BIG)


@pytest.mark.parametrize("source", ["a", "b"])
def test_in_a_locale_without_arrows(folder: Path, source: str) -> None:
    env = environment(LC_ALL="POSIX", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    done = zpipe("cp", "--explain", source, "x", cwd=folder, env=env)
    assert done.returncode == 0
    assert b"reached the end" in done.stderr
    done = zpipe("cp", "--dry-run", source, "x", cwd=folder, env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"plan" in done.stdout


# --dry-run


def test_a_dry_run_plans_what_then_happens(folder: Path) -> None:
    plan = zpipe("cp", "--dry-run", "b", "x", cwd=folder)
    assert (plan.returncode, plan.stderr) == (0, b"")
    assert names(folder) == ["a", "b", "d"]
    done = zpipe("cp", "--explain", "b", "x", cwd=folder)
    seen, real = rows(plan.stdout.decode()), rows(done.stderr.decode())
    (mover,) = figures(plan.stdout.decode())["b -> x"][:1]
    assert real["head"] == [f"b ── {mover} {ARROW} x"]
    for label in ("plan", "refused", "else"):
        assert seen[label] == real[label]


@pytest.mark.parametrize(
    "words",
    [
        ["b", "x"],
        ["b", "d"],
        ["b", "d/x"],
        ["--inplace", "b", "a"],
        ["--append", "b", "a"],
        ["a", "b"],
        ["exec:touch started", "x"],
        ["b", "exec:touch started"],
        ["b", "unix:socket"],
        ["unix-listen:socket", "x"],
        ["tcp-listen://127.0.0.1:0", "x"],
        ["tcp://127.0.0.1:1", "x"],
        ["fifo", "x"],
        ["b", "fifo"],
        ["pipe:fifo", "x"],
        ["pattern:x?size=1G", "x"],
        ["zero:", "null:"],
        ["-", "-"],
    ],
    ids=" ".join,
)
def test_a_dry_run_creates_connects_and_starts_nothing(folder: Path, words: list[str]) -> None:
    os.mkfifo(folder / "fifo")
    before = names(folder)
    done = zpipe("cp", "--dry-run", *words, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    ((_, *costs),) = figures(done.stdout.decode()).values()
    assert len(costs) == 3
    assert rows(done.stdout.decode())["plan"]
    assert names(folder) == before
    assert names(folder / "d") == []
    assert (folder / "a").read_bytes() == content(SMALL)
    assert (folder / "b").read_bytes() == content(BIG)


@pytest.mark.parametrize("side", ["source", "sink"])
def test_a_listener_sees_no_connection_of_a_dry_run(folder: Path, side: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        words = [address, "x"] if side == "source" else ["b", address]
        assert zpipe("cp", "--dry-run", *words, cwd=folder).returncode == 0
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nosuch", "x"], 1, "nosuch: open: No such file or directory"),
        (["d", "x"], 1, "d: is a directory: -r copies it"),
        (["b", "nosuch/x"], 1, "nosuch/x: open: No such file or directory"),
        (["exec:nosuch-program", "x"], 1, "No such file or directory"),
        (["b", "b"], 2, "b: is the source itself"),
        (["b", "pipe:a"], 1, "is not a FIFO"),
        (["fd:77", "x"], 1, "fd:77: open: Bad file descriptor"),
        (["--via", "parallel", "b", "x"], 2, "--via parallel: below 64 MiB"),
        (["tcp://nosuch.invalid:1", "x"], 1, "resolve nosuch.invalid"),
    ],
)
def test_a_dry_run_refuses_what_is_certain_to_fail(
    folder: Path, words: list[str], status: int, message: str
) -> None:
    done = zpipe("cp", "--dry-run", *words, cwd=folder)
    refused(done, status, message)
    assert done.stdout == b""


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--append"],
        ["--inplace"],
        ["--offset", "4096"],
        ["--offset", "99990"],
        ["--stable"],
        ["--via", "splice"],
        ["--no-via", "copy_range"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("words", [["b", "x"], ["b", "old"], ["b", "/dev/null"], ["-", "x"]])
def test_a_dry_run_names_the_mover_that_is_taken(
    folder: Path, options: list[str], words: list[str]
) -> None:
    (folder / "old").write_bytes(bytes(10))
    with open(folder / "b", "rb") as first, open(folder / "b", "rb") as second:
        plan, done = (
            zpipe("cp", option, *options, *words, cwd=folder, stdin=stdin)
            for option, stdin in (("--dry-run", first), ("--explain", second))
        )
    assert plan.returncode == done.returncode == 0, (plan.stderr, done.stderr)
    seen, real = rows(plan.stdout.decode()), rows(done.stderr.decode())
    assert seen["plan"] == real["plan"]
    assert seen.get("refused") == real.get("refused")


def test_a_plan_into_a_pager_that_was_left(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = zpipe("cp", "--dry-run", "b", "x", cwd=folder, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-13, b"")


def test_a_plan_that_cannot_be_shown_is_an_error(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = zpipe("cp", "--dry-run", "b", "x", cwd=folder, stdout=full)
    refused(done, 1, "standard output: write: No space left on device")
    done = zpipe("cp", "--dry-run", "b", "x", cwd=folder, before=shell('exec "$@" >&-'))
    refused(done, 1, "standard output: write: Bad file descriptor")


def test_a_name_that_is_no_utf8_is_shown_as_it_is(folder: Path) -> None:
    name = os.fsdecode(b"no\xffutf8")
    try:
        (folder / name).write_bytes(content(BIG))
    except OSError:
        missing("a filesystem that takes any bytes as a name")
    for option, at in (("--dry-run", "stdout"), ("--explain", "stderr")):
        done = zpipe("cp", option, name, "x", cwd=folder)
        assert done.returncode == 0
        assert b"\nno\xffutf8 " in b"\n" + getattr(done, at)


# Several outputs


def test_plan_and_outcome_of_several_outputs(folder: Path) -> None:
    done = zpipe("cp", "--explain", "b", "--to", "x", "--to", "y", cwd=folder)
    assert done.returncode == 0
    found = rows(done.stderr.decode())
    assert found["head"] == [f"b ── tee {ARROW} x, y"]
    assert found["plan"][0].startswith("tee into a private pipe for each sink")
    assert found["else"] == ["plain"]
    assert found["outcome"][0].startswith(f"tee reached the end: {BIG} bytes (97.7 KiB) in ")
    assert [line.split(", blocked")[0] for line in found["outputs"]] == [
        f"x: {BIG} bytes, done",
        f"y: {BIG} bytes, done",
    ]
    assert re.search(r"tee \d+", found["calls"][0])


def test_an_output_that_was_slow_failed_or_spilled_is_told_so() -> None:
    run = report(
        hop(
            outlet("x", moved=10, state="done"),
            outlet("y", moved=10, state="done", blocked=0.5),
            outlet("z", moved=10, state="done", deepest=2048, policy="spill"),
            outlet("q", moved=3, state="detached"),
            outlet("w", moved=1, state="done", blocked=0.0001),
            moved=10,
            seconds=1.0,
            complete=True,
        )
    )
    assert rows(happened(run))["outputs"] == [
        "x: 10 bytes, done",
        "y: 10 bytes, done, blocked for 0.50 s",
        "z: 10 bytes, done, spilled 2.00 KiB at the most",
        "q: 3 bytes, detached",
        "w: 1 bytes, done",
    ]


def test_an_output_alone_has_no_line_of_its_own() -> None:
    run = report(hop(outlet("x", moved=10, state="done"), moved=10, seconds=1.0))
    assert "outputs" not in rows(happened(run))


def test_each_source_has_its_own_outcome() -> None:
    run = report(hop(moved=1, complete=True), hop(moved=2, complete=True))
    outcomes = [line for line in happened(run).splitlines() if "reached the end" in line]
    assert [line.split(" in ")[0].split(None, 1)[-1] for line in outcomes] == [
        "a: tee reached the end: 1 bytes",
        "a: tee reached the end: 2 bytes",
    ]


def test_a_dry_run_of_several_outputs_plans_what_then_happens(folder: Path) -> None:
    words = ["b", "--to", "x", "--to", "/dev/null"]
    plan = zpipe("cp", "--dry-run", *words, cwd=folder)
    assert (plan.returncode, plan.stderr) == (0, b"")
    assert names(folder) == ["a", "b", "d"]
    done = zpipe("cp", "--explain", *words, cwd=folder)
    seen, real = rows(plan.stdout.decode()), rows(done.stderr.decode())
    for label in ("plan", "else"):
        assert seen[label] == real[label]
    assert figures(plan.stdout.decode())["b -> x, /dev/null"][0] == "tee"


def test_a_dry_run_names_every_source(folder: Path) -> None:
    plan = zpipe("cat", "--dry-run", "a", "b", cwd=folder)
    assert (plan.returncode, plan.stderr) == (0, b"")
    assert list(figures(plan.stdout.decode())) == ["a -> -", "b -> -"]
