"""`zpipe cp SRC --to DST --to DST`: one reading, several sinks, each complete or not there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import SMALL, names, refused, shell, went_well
from tests.machine import (
    LONGEST,
    ZPIPE,
    content,
    environment,
    leftovers,
    nobody,
    started,
    strace,
    until,
    until_listening_to_signals,
    zpipe,
)
from tests.paths.peers import SINKS, Peer, pattern, receive
from tests.paths.tracing import parse

if TYPE_CHECKING:
    from pathlib import Path

DATA = content(1_300_001)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(content(SMALL))
    (tmp_path / "b").write_bytes(DATA)
    return tmp_path


def cp(
    folder: Path, *words: str | Path, to: tuple[str, ...], **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Copy to each of `to` in a folder."""
    sinks = [word for sink in to for word in ("--to", sink)]
    return zpipe("cp", *words, *sinks, cwd=folder, **options)


def reads(log: Path) -> int:
    """Return how many bytes a traced run has taken from the source, of whatever names it has."""
    return sum(
        call.result
        for call in parse(log.read_text())
        if "/b>" in call.arguments.partition(",")[0] and call.result > 0
    )


# Sinks of all kinds


@pytest.mark.parametrize("size", [0, 1, 32768, 32769, 1 << 20, 1_300_001])
@pytest.mark.parametrize("old", [None, bytes(2_000_000)], ids=["new", "old"])
def test_two_files_whatever_they_held(size: int, old: bytes | None, tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(content(size))
    if old is not None:
        (tmp_path / "y").write_bytes(old)
    went_well(cp(tmp_path, "b", to=("x", "y")))
    assert names(tmp_path) == ["b", "x", "y"]
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes() == content(size)


def test_every_kind_by_one_reading(tmp_path: Path) -> None:
    data = pattern(len(DATA))
    (tmp_path / "b").write_bytes(data)
    log = tmp_path / "log"
    kinds = ["file", "fifo", "tcp", "unix", "unix-listen", "exec", "null", "pattern", "memfd"]
    with ExitStack() as stack:
        takers = []
        for kind in kinds:
            (tmp_path / kind).mkdir()
            taker = stack.enter_context(Peer(tmp_path / kind, data))
            SINKS[kind](taker)
            takers.append(taker)
        done = cp(
            tmp_path,
            tmp_path / "b",
            to=(*(taker.operand for taker in takers), "hash:sha1", "-"),
            pass_fds=[fd for taker in takers for fd in taker.inherited],
            before=strace(
                "-y", "-o", str(log), "-e", "trace=execve,splice,readv,read,preadv,preadv2"
            ),
        )
        assert done.returncode == 0, done.stderr
        for taker in takers:
            assert taker.content() == data, taker.operand
    assert done.stdout == data
    assert done.stderr.decode() == f"{hashlib.sha1(data).hexdigest()}  -\n"
    assert reads(log) == len(data), "it was read once"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("b", ()),
        ("a", ()),
        ("-", ()),
        ("exec:cat b", ()),
        ("pattern:7?size=1300001", ()),
        ("zero:?size=1300001", ()),
        ("b", ("--via", "tee")),
        ("a", ("--via", "plain")),
        ("b", ("--via", "plain")),
        ("b", ("--no-via", "tee")),
        ("b", ("--stable",)),
        ("b", ("--lease",)),
        ("b", ("--pipe-size", "64K")),
        ("b", ("--pipe-size", "4K")),
        ("b", ("--pipe-size", "1G")),
    ],
    ids=str,
)
def test_sources_and_ways(folder: Path, source: str, words: tuple[str, ...]) -> None:
    with open(folder / "b", "rb") as file:
        to = ("x", "exec:dd of=y status=none bs=64K", "-")
        done = cp(folder, *words, source, to=to, stdin=file)
    went_well(done)
    expected = {"a": content(SMALL), "b": DATA, "-": DATA, "exec:cat b": DATA}.get(source)
    if source.startswith("zero"):
        expected = bytes(1_300_001)
    assert expected in (None, done.stdout)
    assert len(done.stdout) == (SMALL if source == "a" else 1_300_001)
    assert done.stdout == (folder / "x").read_bytes() == (folder / "y").read_bytes()


@pytest.mark.parametrize(
    ("options", "begin", "end"),
    [
        (["--offset", "1000"], 1000, None),
        (["--length", "1000"], 0, 1000),
        (["--offset", "4096", "--length", "1M"], 4096, 4096 + (1 << 20)),
        (["--offset", "1G"], 1_300_001, None),
        (["--length", "0"], 0, 0),
    ],
)
def test_a_part_of_the_source(
    folder: Path, options: list[str], begin: int, end: int | None
) -> None:
    went_well(done := cp(folder, *options, "b", to=("x", "-")))
    assert done.stdout == (folder / "x").read_bytes() == DATA[begin:end]


def test_what_is_not_taken_of_standard_input_is_left_there() -> None:
    words = ("--length", "5", "-", "--to", "-", "--to", "null:")
    done = zpipe("cp", *words, data=DATA, before=shell('"$@"; cat'))
    assert (done.returncode, done.stdout) == (0, DATA)


def test_a_folder_gets_a_file_of_the_same_name(folder: Path) -> None:
    for name in ("d", "e"):
        (folder / name).mkdir()
    (folder / "link").symlink_to("e")
    went_well(cp(folder, folder / "b", to=("d", "link/", "x")))
    assert names(folder / "d") == names(folder / "e") == ["b"]
    for path in ("d/b", "e/b", "x"):
        assert (folder / path).read_bytes() == DATA
    done = cp(folder, "-", to=("d", "x"), data=b"")
    refused(done, 2, "d: is a directory", "no name")


def test_mode_of_the_source_and_owner_of_the_target(folder: Path) -> None:
    (folder / "b").chmod(0o751)
    (folder / "old").write_bytes(b"old")
    (folder / "old").chmod(0o604)
    went_well(cp(folder, "b", to=("x", "old"), before=shell('umask 022; exec "$@"')))
    modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("x", "old")}
    assert modes == {"x": 0o751, "old": 0o604}


def test_one_sink_is_an_ordinary_copy(folder: Path) -> None:
    went_well(cp(folder, "b", to=("x",)))
    assert (folder / "x").read_bytes() == DATA
    done = zpipe("cp", "-t", "y", "b", "--json", cwd=folder)
    assert b'"mover": "tee"' not in done.stderr
    assert (folder / "y").read_bytes() == DATA


# How they are written


def test_append_to_several(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    inode = (folder / "x").stat().st_ino
    for _ in range(2):
        went_well(done := cp(folder, "--append", "b", to=("x", "y", "-")))
        assert done.stdout == DATA
    assert (folder / "x").read_bytes() == b"old" + DATA + DATA
    assert (folder / "y").read_bytes() == DATA + DATA
    assert (folder / "x").stat().st_ino == inode


@pytest.mark.parametrize("words", [(), ("--inplace",)], ids=["replaced", "in place"])
def test_inplace_keeps_the_inodes(folder: Path, words: tuple[str, ...]) -> None:
    before = {}
    for name in ("x", "y"):
        (folder / name).write_bytes(bytes(2_000_000))
        before[name] = (folder / name).stat().st_ino
    went_well(cp(folder, *words, "b", to=("x", "y")))
    for name in ("x", "y"):
        assert (folder / name).read_bytes() == DATA
        assert ((folder / name).stat().st_ino == before[name]) == bool(words)


def test_sync_makes_each_durable(folder: Path) -> None:
    log = folder / "log"
    words = strace("-o", str(log), "-e", "trace=fsync,rename")
    (folder / "d").mkdir()
    went_well(cp(folder, "--sync", "b", to=("d/x", "d/y", "-"), before=words))
    calls = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines()]
    assert [call for call in calls if call in ("fsync", "rename")] == [
        *("fsync", "rename", "fsync"),
        *("fsync", "rename", "fsync"),
    ]
    assert names(folder / "d") == ["x", "y"]


def test_a_hard_link_is_written_in_place(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    os.link(folder / "x", folder / "link")
    done = cp(folder, "--json", "b", to=("x", "y"))
    assert done.returncode == 0
    assert (folder / "link").read_bytes() == DATA
    hop = next(
        record for record in map(json.loads, done.stderr.splitlines()) if record["type"] == "hop"
    )
    assert hop["notes"] == ["x: written in place: it has 2 links"]


# What is refused


@pytest.mark.parametrize(
    ("words", "to", "fragments"),
    [
        (("b", "a"), ("x", "y"), ("--to y", "one SRC")),
        ((), ("x", "y"), ("source",)),
        (("b",), ("x", ""), ("empty",)),
        (("b",), ("x", "zero:"), ("zero:", "cannot be a sink")),
        (("b",), ("x", "ftp://y"), ("ftp", "unknown scheme")),
        (("b",), ("x", "b"), ("b: is the source itself",)),
        (("b",), ("x", "link"), ("link: is the source itself",)),
        (("b",), ("x", "."), ("b: is the source itself",)),
        (("--inplace", "b"), ("x", "hard"), ("hard: is the source itself",)),
        (("--append", "b"), ("x", "b"), ("b: is the source itself",)),
        (("--append", "--inplace", "b"), ("x", "y"), ("--append", "--inplace")),
        (("b",), ("x", "y?when_full=explode"), ("y", "when_full", "explode")),
        (("b",), ("x", "y?spill_dir="), ("spill_dir", "give a value")),
        (("--spill-max", "1M", "b"), ("x", "y"), ("--spill-max", "spill")),
        *(
            (("--via", mover, "b"), ("x", "y"), (f"--via {mover}", "tee or plain"))
            for mover in ("reflink", "copy_range", "sendfile", "splice", "mapped", "direct")
        ),
        (("--via", "tee", "--stable", "b"), ("exec:cat", "x"), ("--via tee", "--stable")),
        (("--no-via", "tee", "--no-via", "plain", "b"), ("x", "y"), ("tee", "plain", "--no-via")),
    ],
    ids=str,
)
def test_nothing_comes_of_what_is_refused(
    folder: Path, words: tuple[str, ...], to: tuple[str, ...], fragments: tuple[str, ...]
) -> None:
    (folder / "link").symlink_to("b")
    os.link(folder / "b", folder / "hard")
    there = names(folder)
    with open(folder / "null", "wb") as out:
        refused(cp(folder, *words, to=to, stdout=out), 2, *fragments)
    assert names(folder) == sorted([*there, "null"])
    assert (folder / "b").read_bytes() == DATA
    assert (folder / "null").read_bytes() == b""


def test_several_wishes_of_one_reading_in_a_plan(folder: Path) -> None:
    done = cp(folder, "--dry-run", "b", to=("x", "exec:touch y", "tcp://127.0.0.1:1"))
    assert (done.returncode, done.stderr) == (0, b"")
    row = done.stdout.decode().splitlines()[1]
    assert row.split("  ")[:2] == ["b -> x, exec:touch y, tcp://127.0.0.1:1", "tee"]
    assert names(folder) == ["a", "b"]


# What fails


@pytest.mark.parametrize("source", ["a", "b"])
def test_one_of_several_fails_and_the_others_are_put_in_place(folder: Path, source: str) -> None:
    data = (folder / source).read_bytes()
    (folder / "old").write_bytes(b"old")
    bad = {
        "nosuch/x": "open: No such file or directory",
        "tcp://127.0.0.1:1": "connect: Connection refused",
        "/dev/full": "write: No space left on device; dropped at byte 0, the others go on",
        "exec:sh -c 'cat >/dev/null; exit 3'": "exit status 3",
        "exec:/nosuch/command": "start: No such file or directory",
        "pipe:old": "open: is not a FIFO",
    }
    for sink, why in bad.items():
        done = cp(folder, "--json", source, to=("x", sink, "y"))
        assert done.returncode == 5, done.stderr
        records = [json.loads(line) for line in done.stderr.splitlines()]
        last = records[-1]
        assert (last["type"], last["exit"], last["text"]) == ("error", 5, f"{sink}: {why}")
        outputs = {output["sink"]: output for output in last["outputs"]}
        assert list(outputs) == ["x", sink, "y"]
        assert (outputs[sink]["state"], outputs[sink]["error"]) == ("failed", last["text"])
        for name in ("x", "y"):
            assert (outputs[name]["state"], outputs[name]["bytes"]) == ("done", len(data))
            assert (folder / name).read_bytes() == data
            (folder / name).unlink()
        done = cp(folder, source, to=("x", sink, "y"))
        refused(done, 5, last["text"])
    assert (folder / "old").read_bytes() == b"old"
    assert names(folder) == ["a", "b", "old", "x", "y"]


def test_all_fail(folder: Path) -> None:
    done = cp(folder, "b", to=("nosuch/x", "tcp://127.0.0.1:1", "/dev/full"))
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert [line.split(": ")[1] for line in lines] == ["nosuch/x", "tcp://127.0.0.1:1", "/dev/full"]
    assert lines[-1] == "zpipe: /dev/full: write: No space left on device; 0 bytes were delivered"
    assert names(folder) == ["a", "b"]
    done = cp(folder, "b", to=("nosuch/x", "nosuch/y"))
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 2


def test_the_source_is_missing(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    refused(cp(folder, "nosuch", to=("x", "y", "exec:touch z")), 1, "nosuch: open: ")
    assert names(folder) == ["a", "b", "x"]
    assert (folder / "x").read_bytes() == b"old"


def test_a_source_that_fails_puts_nothing_in_place(folder: Path) -> None:
    (folder / "x").write_bytes(b"old")
    done = cp(folder, "exec:sh -c 'cat b; exit 3'", to=("x", "y", "null:"))
    refused(done, 1, "exec:sh -c 'cat b; exit 3': exit status 3")
    assert names(folder) == ["a", "b", "x"]
    assert (folder / "x").read_bytes() == b"old"


def test_a_folder_that_takes_no_files(folder: Path) -> None:
    folder.chmod(0o755)
    (folder / "closed").mkdir(mode=0o755)
    (folder / "mine").mkdir()
    (folder / "mine").chmod(0o777)
    (folder / "kept").write_bytes(b"old")
    done = cp(folder, "b", to=("closed/x", "mine/x", "kept"), before=nobody())
    assert done.returncode == 5, done.stderr
    assert done.stderr.decode().splitlines() == [
        "zpipe: closed/x: open: Permission denied",
        "zpipe: kept: open: Permission denied",
    ]
    assert (folder / "mine" / "x").read_bytes() == DATA
    assert (folder / "kept").read_bytes() == b"old"
    assert names(folder / "closed") == []


@pytest.mark.parametrize("words", [(), ("--inplace",)], ids=["replaced", "in place"])
def test_a_full_disk_under_one_of_them(folder: Path, tiny: Path, words: tuple[str, ...]) -> None:
    """What was there is there again; written in place, the line says how much of it is new."""
    (tiny / "x").write_bytes(b"old")
    done = cp(folder, *words, "b", to=("y", str(tiny / "x"), "exec:cat"))
    text = refused(done, 5, f"{tiny / 'x'}: write: No space left on device; ", "the others go on")
    assert done.stdout == (folder / "y").read_bytes() == DATA
    assert leftovers(tiny) == []
    got = (tiny / "x").read_bytes()
    if words:
        assert f"; dropped at byte {len(got)}, " in text
        assert DATA.startswith(got)
        assert len(got) > 500_000
    else:
        assert "; nothing was put in place, " in text
        assert got == b"old"


@pytest.mark.parametrize("words", [(), ("--via", "plain"), ("--when-full", "spill")], ids=str)
def test_a_source_that_changes_meanwhile(folder: Path, words: tuple[str, ...]) -> None:
    """Nothing is put in place anywhere: what was read is of no moment in time."""
    os.mkfifo(folder / "fifo")
    words = (*words, "--spill-dir", ".") if "spill" in words else words
    (folder / "x").write_bytes(b"old")
    # more than the pipe and a round or two beyond it, or all of it is read by then
    (folder / "big").write_bytes(DATA * 8)
    sinks = ["--to", "x", "--to", "y", "--to", "pipe:fifo?when_full=block"]
    with started("cp", *words, "big", *sinks, cwd=folder) as process:
        with open(folder / "fifo", "rb", buffering=0) as reader:
            assert reader.read(1) == DATA[:1]
            with open(folder / "big", "r+b") as file:
                file.write(b"something else")
            receive(os.dup(reader.fileno()), bytearray())
        assert process.wait(LONGEST) == 1
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert said.startswith("zpipe: big: read: the source changed while it was read (mtime); "), said
    assert said.count("\n") == 1
    assert names(folder) == ["a", "b", "big", "fifo", "x"]
    assert (folder / "x").read_bytes() == b"old"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_half_written(folder: Path, number: signal.Signals) -> None:
    (folder / "x").write_bytes(b"old")
    os.mkfifo(folder / "fifo")
    sinks = ["--to", "x", "--to", "y"]
    with started("cp", "pipe:fifo", *sinks, cwd=folder) as process:
        with open(folder / "fifo", "wb", buffering=0) as fifo:
            fifo.write(DATA[:1000])
            until(lambda: in_temporaries(folder) == [1000, 1000], "both have some")
            until_listening_to_signals(process)
            process.send_signal(number)
            assert process.wait(LONGEST) == -number
        assert process.stderr is not None
        assert process.stderr.read().decode() == (
            f"zpipe: pipe:fifo: ended by {number.name}; nothing was put in place\n"
        )
    assert names(folder) == ["a", "b", "fifo", "x"]
    assert (folder / "x").read_bytes() == b"old"


def in_temporaries(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob(".*.zpipe-*")]


def test_nothing_is_under_a_final_name_before_all_of_it_is_there(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    with started("cp", "fifo", "--to", "x", "--to", "y", cwd=folder) as process:
        with open(folder / "fifo", "wb", buffering=0) as fifo:
            fifo.write(DATA[:70_000])
            until(lambda: in_temporaries(folder) == [70_000, 70_000], "both have it")
            assert not (folder / "x").exists() and not (folder / "y").exists()
            fifo.write(DATA[70_000:80_000])
        assert process.wait(LONGEST) == 0
    assert names(folder) == ["a", "b", "fifo", "x", "y"]
    assert (folder / "x").read_bytes() == (folder / "y").read_bytes() == DATA[:80_000]


# Policies, as for tee


def test_one_is_detached_and_the_others_are_put_in_place(folder: Path) -> None:
    (folder / "big").write_bytes(DATA * 4)
    os.mkfifo(folder / "slow")
    reader = os.open(folder / "slow", os.O_RDONLY | os.O_NONBLOCK)
    to = ("x", "pipe:slow?when_full=detach&detach_after=100ms", "y")
    done = cp(folder, "big", to=to)
    os.set_blocking(reader, True)
    receive(reader, got := bytearray())
    refused(done, 5, f"pipe:slow: write: took no data for 0.1 s; dropped at byte {len(got)}, ")
    assert (DATA * 4).startswith(got)
    for name in ("x", "y"):
        assert (folder / name).read_bytes() == DATA * 4


def test_one_spills_and_gets_everything(folder: Path) -> None:
    """The name is given once all have everything."""
    (folder / "big").write_bytes(DATA * 8)
    os.mkfifo(folder / "slow")
    reader = os.open(folder / "slow", os.O_RDONLY | os.O_NONBLOCK)
    sinks = ["--to", "x", "--to", "pipe:slow?when_full=spill&spill_dir=."]
    with started("cp", "big", *sinks, cwd=folder) as process:
        until(lambda: in_temporaries(folder) == [len(DATA) * 8], "one has all of it")
        os.set_blocking(reader, True)
        receive(reader, got := bytearray())
        assert process.wait(LONGEST) == 0
    assert bytes(got) == (folder / "x").read_bytes() == DATA * 8
    assert names(folder) == ["a", "b", "big", "slow", "x"]


def test_a_reader_that_leaves_is_a_failure_of_a_copy(folder: Path) -> None:
    """Unlike for tee: whoever asks for a copy wants all of it to arrive."""
    os.mkfifo(folder / "gone")
    (folder / "big").write_bytes(DATA * 4)

    def leave() -> None:
        with open(folder / "gone", "rb", buffering=0) as reader:
            reader.read(1)

    leaver = threading.Thread(target=leave)
    leaver.start()
    done = cp(folder, "big", to=("x", "gone"))
    leaver.join()
    refused(done, 5, "gone: write: Broken pipe; dropped at byte ", ", the others go on")
    assert (folder / "x").read_bytes() == DATA * 4


def test_standard_output_that_nobody_reads(folder: Path) -> None:
    """The files are complete; the status tells that not all are."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*ZPIPE, "cp", "b", "--to", "-", "--to", "x"],
        stdout=writer,
        stderr=subprocess.PIPE,
        cwd=folder,
        env=environment(),
        timeout=LONGEST,
        check=False,
    )
    os.close(writer)
    refused(done, 5, "standard output: write: Broken pipe; dropped at byte 0, the others go on")
    assert (folder / "x").read_bytes() == DATA


def test_json_of_several(folder: Path) -> None:
    done = cp(folder, "--json", "b", to=("x", "exec:dd of=y status=none"))
    start, *_, hop, end = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0
    assert (start["sink"], start["mover"], start["expected"]) == (
        "x, exec:dd of=y status=none",
        "tee",
        len(DATA),
    )
    assert (hop["type"], hop["bytes"], hop["bytes_by_mover"]) == (
        "hop",
        len(DATA),
        {"tee": len(DATA)},
    )
    assert (end["type"], end["bytes"]) == ("end", len(DATA))
    for record in (hop, end):
        for output in record["outputs"]:
            assert output["state"] == "done"
            assert output["bytes"] == len(DATA)
            assert output["lag"] == output["spilled"] == output["most_spilled"] == 0
            assert output["when_full"] == "block"
            assert output["error"] is None


def test_a_hundred_sinks(folder: Path) -> None:
    """As many sinks as one likes."""
    to = tuple(f"f{number}" for number in range(100))
    went_well(cp(folder, "b", to=to, before=shell('ulimit -n 1024; exec "$@"')))
    for name in to:
        assert (folder / name).read_bytes() == DATA
