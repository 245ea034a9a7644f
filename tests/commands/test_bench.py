"""`zpipe bench`: what it prints, draws, refuses, and leaves behind, which is nothing."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import refused
from tests.machine import LONGEST, missing, started, until, zpipe
from tests.measure.shortly import AMPLE, in_short
from zpipe.bench.cells import ROUTES, TECHNIQUES
from zpipe.commands.bench import COMMAND
from zpipe.commands.bench_document import COLUMNS
from zpipe.commands.bench_table import as_text, print_rich, size_text, table
from zpipe.errors import TransferError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = ["SIZE", "TECHNIQUE", "CPU", "DMA", "CALLS", "VOL", "INVOL", "USER", "SYS", "RATE", "SPREAD"]
SMALL = ("--sizes", "512,4K", "--routes", "file-file,pipe-pipes")


@pytest.fixture
def bench(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """Run the command in this process, with an empty folder; return what it printed."""
    in_short(monkeypatch)

    def run(*words: str) -> str:
        folder = tmp_path / "folder"
        folder.mkdir(exist_ok=True)
        command = ["--dir", str(folder), "--seconds", str(AMPLE), *words]
        COMMAND.main(command, prog_name="zpipe bench", standalone_mode=False)
        shown = capfd.readouterr()
        assert shown.err == ""
        assert not list(folder.iterdir())
        return shown.out

    return run


def test_the_table(bench: Callable[..., str]) -> None:
    text = bench(*SMALL)
    lines = text.splitlines()
    assert lines[0].startswith("techniques: ")
    assert max(map(len, lines)) <= 100
    (head, *_) = [line for line in lines if "TECHNIQUE" in line]
    assert head.split() == HEAD
    part = text.partition("file -> file\n")[2].partition("\n\n")[0]
    rows = [line for line in part.splitlines() if re.match(r"  (\d|  )", line)]
    measured = [row[2:].removeprefix(row[2 : head.index("TECHNIQUE")]) for row in rows]
    shown = [row.split()[0] for row in measured]
    assert [name for name in TECHNIQUES if name in shown] == shown[: len(set(shown))]
    assert "  not here: tee: duplicates pipes: it serves several sinks, not one" in lines
    for word in ("Least processor time", "Highest rate", "Textbooks", "Noise", "by the model"):
        assert word in text


def test_json(bench: Callable[..., str]) -> None:
    found = json.loads(bench(*SMALL, "--json"))
    assert (found["v"], found["suite"]) == (1, "techniques")
    routes = {cell["route"] for cell in found["cells"]}
    assert routes == {"file-file", "pipe-pipes"}
    for cell in found["cells"]:
        assert cell["rounds"] == len(cell["samples"]) > 0
        assert cell["size"] in (512, 4096)
        assert cell["model"]["switches_per_mib"] == 2 * cell["model"]["syscalls_per_mib"]
        figure = cell["bytes_per_second"]
        assert 0 < figure["low"] <= figure["median"] <= figure["high"]
        total = cell["user_seconds_per_gib"] + cell["system_seconds_per_gib"]
        assert total == pytest.approx(cell["cpu_seconds_per_gib"]["median"])
    calls = {
        (cell["technique"], cell["size"]): cell["syscalls_per_mib"]["median"]
        for cell in found["cells"]
        if cell["route"] == "file-file"
    }
    assert calls["read+write", 512] == 2 * 2048
    assert calls["sendfile", 4096] == 256
    every = {(name, route, size) for name in TECHNIQUES for route in routes for size in (512, 4096)}
    lists = ("cells", "refused", "left_out", "failed")
    told = [(e["technique"], e["route"], e["size"]) for name in lists for e in found[name]]
    assert sorted(told) == sorted(every)
    assert {row["technique"] for row in found["textbook"]} == set(TECHNIQUES)
    assert isinstance(found["noise"]["reasons"], list)


def test_csv(bench: Callable[..., str]) -> None:
    rows = list(csv.DictReader(io.StringIO(bench(*SMALL, "--csv"))))
    assert tuple(rows[0]) == COLUMNS
    assert {row["route"] for row in rows} == {"file-file", "pipe-pipes"}
    for row in rows:
        assert float(row["rate_low"]) <= float(row["bytes_per_second"]) <= float(row["rate_high"])
        assert int(row["rounds"]) >= 1
        assert row["ratio"] == ""


def test_brokers(bench: Callable[..., str]) -> None:
    words = ("--suite", "broker", "--sizes", "512,128K")
    text = bench(*words)
    assert "log -> TCP" in text
    assert re.search(r"By processor time: (at about|nowhere)", text)
    found = json.loads(bench(*words, "--json"))
    for crossing in found["crossings"].values():
        assert (crossing["size"] is None) == (crossing["winner"] is not None)
        if crossing["size"] is not None:
            assert 512 <= crossing["size"] <= 128 << 10


def test_peers(bench: Callable[..., str]) -> None:
    words = ("--suite", "peers", "--routes", "file-file", "--sizes", "64K")
    found = json.loads(bench(*words, "--json"))
    own, *others = found["cells"]
    assert own["technique"] == "zpipe"
    assert own["ratio"]["median"] == own["cpu_ratio"]["median"] == 1
    assert all(cell["model"] is None for cell in found["cells"])
    if not others:
        missing("no peer is installed")
    assert all(cell["ratio"]["median"] > 0 for cell in others)


def test_no_time_for_anything_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--dir", str(tmp_path), "--sizes", "64M", "--seconds", "1ms", "--routes", "file-file"]
    with pytest.raises(TransferError, match=r"0\.001 s are too short for any of it"):
        COMMAND.main(words, standalone_mode=False)
    assert "left out: " in capfd.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("--sizes", "many"), "many: not a size"),
        (("--sizes", "0"), "sizes are from 1 byte"),
        (("--routes", "file-moon"), "--routes: file-moon: give one of file-file"),
        (("--techniques", "teleport"), "--techniques: teleport: give one of read+write"),
        (("--seconds", "0"), "must be more than zero"),
        (("--outputs", "1"), "--outputs: 1: give a whole number from 2 to 64"),
        (("--outputs", "4", "--routes", "file-file"), "--outputs: has no effect"),
        (("--json", "--csv"), "--json and --csv exclude each other"),
        (("--suite", "broker", "--routes", "tcp-tcp"), "--routes: has no effect"),
        (("--suite", "broker", "--sizes", "1G"), "the log of --suite broker has"),
        (("--suite", "peers", "--techniques", "tee"), "--techniques: has no effect"),
        (("--suite", "peers", "--plot", "x.svg"), "--plot: has no effect"),
        (("--plot", "x.jpeg"), "its name must end in .svg or .png"),
        (("--plot", "/none/x.svg"), "the folder /none does not exist"),
    ],
)
def test_what_makes_no_sense(words: tuple[str, ...], fragment: str) -> None:
    refused(zpipe("bench", *words), 2, fragment)


def test_a_folder_that_cannot_be_used(tmp_path: Path, tiny: Path) -> None:
    text = refused(zpipe("bench", "--dir", tmp_path / "none"), 1, "No such file or directory")
    assert text.startswith(f"{tmp_path}/none: ")
    refused(zpipe("bench", "--dir", tiny), 1, "are needed there, and", "are free")


def test_without_the_library_there_is_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"needs matplotlib.*pip install 'zpipe\[plot\]'"):
        COMMAND.main(["--plot", "x.svg"], standalone_mode=False)


@pytest.mark.parametrize("ending", ["svg", "png"])
@pytest.mark.parametrize("suite", ["techniques", "broker"])
def test_pictures(tmp_path: Path, ending: str, suite: str) -> None:
    pytest.importorskip("matplotlib", reason="zpipe[plot] is not installed")
    path = tmp_path / f"picture.{ending}"
    words = ["--suite", suite, "--dir", str(tmp_path), "--sizes", "512,4K", "--seconds", "0.8"]
    done = zpipe("bench", *words, "--plot", path)
    assert done.returncode == 0, done.stderr
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG" if ending == "png" else b"<?xml")
    assert len(data) > 10_000
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    with started("bench", "--dir", tmp_path, "--seconds", "50") as process:
        until(lambda: any(tmp_path.glob("*/sink-*")), "it measures")
        process.send_signal(number)
        assert process.wait(LONGEST) == -number
        assert process.stderr is not None
        assert process.stderr.read().decode() == f"zpipe: ended by {number.name}\n"
    assert not list(tmp_path.iterdir())
    until(lambda: not _of(tmp_path), "its processes have ended")


def _of(folder: Path) -> list[str]:
    """Return the processes that were started for a folder, or forked from one that was."""
    found = []
    for name in os.listdir("/proc"):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                if os.fsencode(folder) in file.read():
                    found.append(name)
        except (OSError, ValueError):
            continue  # no process, or none any more
    return found


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = ("--dir", tmp_path, "--sizes", "512", "--seconds", "0.3", "--routes", "tcp-tcp")
    done = zpipe("bench", *words, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, b"")


# How it is shown


@pytest.mark.parametrize(
    ("count", "text"), [(512, "512 B"), (4096, "4 KiB"), (1 << 20, "1 MiB"), (1536, "1.5 KiB")]
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from zpipe.bench.suites import Request, run_suite

    folder = str(tmp_path_factory.mktemp("bench"))
    with pytest.MonkeyPatch.context() as patch:
        in_short(patch)
        return run_suite(Request(sizes=(4096, 65536), seconds=AMPLE, folder=folder))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_no_line_is_wider_than_the_terminal(measured: Any, width: int) -> None:
    lines = table(measured, width)
    tables = [line for line in lines if line.kind in ("head", "row", "doubt", "note")]
    assert max(len(line.text) for line in tables) <= max(width, 80)  # the textbook's, at least
    titles = [line.text for line in lines if line.kind == "title"]
    assert [route.title for route in ROUTES.values()] == [
        title.partition(" (")[0] for title in titles if " -> " in title
    ]


def test_a_terminal_gets_colours(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stdout", stream)
    for name, value in {"FORCE_COLOR": "1", "COLUMNS": "90", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    print_rich(measured)
    shown = stream.getvalue()
    assert "\x1b[1m" in shown
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown).removesuffix("\n")
    assert [line.rstrip() for line in plain.split("\n")] == as_text(table(measured, 90)).split("\n")


def test_cells_that_are_not_to_be_judged_are_marked(measured: Any) -> None:
    doubtful = {result.cell: result.doubt for result in measured.results if result.doubt}
    lines = [line for line in table(measured) if line.kind == "doubt" and "SPREAD" not in line.text]
    marked = [line for line in lines if line.text.endswith(("  ?", "  !"))]
    assert len(marked) == len(doubtful)
