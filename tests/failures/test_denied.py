"""Where a sandbox denies the calls that move bytes inside the kernel, every copy is still right."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.failures.denied import allowed, denying
from tests.failures.judging import judge
from tests.machine import content, leftovers
from tests.paths.peers import SINKS, SOURCES, Peer, pattern
from tests.paths.test_pairs import go
from tests.paths.tracing import run

if TYPE_CHECKING:
    from pathlib import Path

CALLS = ("splice", "tee", "sendfile", "copy_file_range", "ioctl:1=0x40049409", "ioctl:1=0x4020940D")
THREADS = ("clone:0&0x10000", "clone3")
SIZE = 300_001
PAIRS = [
    ("file", "file"),
    ("file", "stdout-pipe"),
    ("file", "tcp"),
    ("file", "block"),
    ("stdin-file", "stdout-file"),
    ("stdin-pipe", "file"),
    ("stdin-pipe", "stdout-pipe"),
    ("stdin-terminal", "stdout-terminal"),
    ("stdin-socket", "stdout-socket"),
    ("fifo", "unix"),
    ("tcp", "tcp-listen"),
    ("tcp-listen", "file"),
    ("unix", "fifo"),
    ("exec", "exec"),
    ("zero", "null"),
    ("pattern", "pattern"),
    ("memfd", "memfd"),
    ("block", "file"),
]


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        *((pair, "ENOSYS") for pair in PAIRS),
        # what another sandbox says, to each mover that is denied
        *((pair, "EPERM") for pair in PAIRS[:3] + PAIRS[5:7]),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_every_pair_without_them(kinds: tuple[str, str], name: str, tmp_path: Path) -> None:
    allowed()
    with Peer(tmp_path, pattern(SIZE)) as source:
        SOURCES[kinds[0]](source)
        with Peer(tmp_path, source.data) as sink:
            SINKS[kinds[1]](sink)
            done = go(source, sink, None, before=denying(name, *CALLS))
            assert done.status == 0, done.errors
            assert sink.content() == source.data
    assert done.record("hop")["mover"] == "plain"
    # a stream may come in pieces that one mover has read and the last one writes
    assert sum(done.record("hop")["bytes_by_mover"].values()) == len(source.data)


@pytest.mark.parametrize(
    ("mover", "call", "kinds", "name"),
    [
        ("splice", "splice", ("source", "sink"), "ENOSYS"),
        ("splice", "splice", ("exec:cat source", "-"), "EPERM"),
        ("sendfile", "sendfile", ("source", "-"), "ENOSYS"),
        ("copy_range", "copy_file_range", ("source", "sink"), "EPERM"),
    ],
)
def test_who_asks_for_one_of_them_is_told(
    mover: str, call: str, kinds: tuple[str, str], name: str, tmp_path: Path
) -> None:
    allowed()
    data = content(SIZE)
    (tmp_path / "source").write_bytes(data)
    words = [word.replace("source", str(tmp_path / "source")) for word in kinds]
    sink = tmp_path / "sink" if kinds[1] == "sink" else None
    done = run(*("--via", mover), words[0], sink if sink else "-", before=denying(name, *CALLS))
    assert done.status == 1
    assert f": --via {mover}: {call}: " in done.errors and f"({name}); " in done.errors
    assert done.output == b""
    judge(done, data, file=sink, provisional=sink is not None)


@pytest.mark.parametrize("call", CALLS[2:4])
def test_one_of_them_is_not_missed_where_others_are_left(call: str, tmp_path: Path) -> None:
    allowed()
    source, sink = tmp_path / "source", tmp_path / "sink"
    source.write_bytes(content(SIZE))
    done = run(source, sink, before=denying("EPERM", call))
    assert done.status == 0, done.errors
    assert sink.read_bytes() == source.read_bytes()
    assert done.record("hop")["mover"] != "plain"


def test_without_threads_a_big_file_is_copied_by_one(tmp_path: Path) -> None:
    """The limit of processes is reached: two threads are not worth a failure."""
    allowed()
    source, sink = tmp_path / "source", tmp_path / "sink"
    with open(source, "wb") as file:
        for seed in range(64):
            file.write(content(1 << 20, seed))
    done = run(source, sink, before=denying("EAGAIN", *THREADS))
    assert done.status == 0, done.errors
    with open(source, "rb") as a, open(sink, "rb") as b:
        assert a.read() == b.read()
    assert done.record("hop")["mover"] != "parallel"
    if "parallel" in done.record("start")["candidates"]:
        assert done.record("fallback")["call"] == "begin"


@pytest.mark.parametrize("kinds", [("source", "sink"), ("exec:cat source", "sink")])
def test_without_threads_o_direct_says_so(kinds: tuple[str, str], tmp_path: Path) -> None:
    allowed()
    (tmp_path / "source").write_bytes(content(SIZE))
    word = kinds[0].replace("source", str(tmp_path / "source"))
    words = ("--via", "direct", word, tmp_path / "sink")
    done = run(*words, before=denying("EAGAIN", *THREADS))
    assert done.status == 1
    assert "--via direct: " in done.errors and "internal error" not in done.errors
    assert sorted(os.listdir(tmp_path)) == ["source"]


@pytest.mark.parametrize("name", ["ENODEV", "EACCES", "EPERM", "ENOMEM", "EAGAIN"])
def test_without_a_mapping(name: str, tmp_path: Path) -> None:
    """Of all mappings, that of a file that is shared and read only (flags MAP_SHARED alone)."""
    allowed()
    source, sink = tmp_path / "source", tmp_path / "sink"
    data = content(SIZE)
    source.write_bytes(data)
    done = run("--via", "mapped", source, sink, before=denying(name, "mmap:3=1"))
    assert done.status == 1
    assert f"--via mapped: mmap: {os.strerror(getattr(__import__('errno'), name))}" in done.errors
    judge(done, data, file=sink, provisional=True)


@pytest.mark.parametrize("name", ["EAGAIN", "EACCES", "EINVAL", "ENOLCK", "EPERM", "ENOSYS"])
def test_without_a_lease(name: str, tmp_path: Path) -> None:
    """A file is served all the same and checked; a pipe is not."""
    allowed()
    source, sink = tmp_path / "source", tmp_path / "sink"
    data = content(SIZE)
    source.write_bytes(data)
    denied = denying(name, "fcntl:1=1024")
    done = run("--via", "mapped", source, sink, before=denied)
    judge(done, data, file=sink, provisional=True)
    assert done.status == 0, done.errors
    assert done.record("hop")["notes"][0].startswith("no lease on the source: ")
    done = run("--via", "mapped", source, "-", before=denied)
    judge(done, data)
    assert done.status == 1 and f"({name})" in done.errors
    done = run("--lease", source, "-", before=denied)
    judge(done, data)
    assert done.status == 0, "bytes are copied instead"
    assert done.record("hop")["mover"] == "plain"
    assert leftovers(tmp_path) == []
