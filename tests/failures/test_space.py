"""No room: one line, nothing half-written under the name, or exactly what is stated."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from tests.failures.judging import NOTHING, judge
from tests.machine import content, leftovers, missing, need, zpipe
from tests.paths.tracing import run
from zpipe.movers import MOVERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.paths.tracing import Run

DATA = content(3 << 20)
# what shares blocks needs no room for them, and two threads want 64 MiB
FILLING = sorted(set(MOVERS) - {"reflink", "parallel", "copy_range"})


def source_of(mover: str, folder: Path, tiny: Path) -> Path:
    """Return a source that does not fit: on the same filesystem where the mover asks for that."""
    source = (tiny if mover == "copy_range" else folder) / "source"
    if mover == "parallel":
        with open(source, "wb") as file:
            for _ in range(22):
                file.write(DATA)
    else:
        source.write_bytes(DATA[: 600 << 10] if mover == "copy_range" else DATA)
    return source


@pytest.mark.parametrize("words", [(), ("--inplace",)], ids=["replaced", "in place"])
@pytest.mark.parametrize("mover", [*FILLING, "copy_range", "parallel"])
def test_a_full_disk(mover: str, words: tuple[str, ...], tmp_path: Path, tiny: Path) -> None:
    source, sink = source_of(mover, tmp_path, tiny), tiny / "sink"
    done = run("--via", mover, *words, source, sink)
    if done.status == 2:
        missing(f"{mover} cannot be had here: {done.errors}")
    assert done.status == 1
    assert done.record("error")["errno"] == errno.ENOSPC
    assert f"zpipe: {sink}: " in done.errors and "No space left on device" in done.errors
    judge(done, source.read_bytes(), file=sink, provisional=not words)
    if words and mover != "parallel":
        # of two threads, the one that is behind may have taken the room
        assert done.record("error")["bytes"] > 100_000, "what there was room for"


@pytest.mark.parametrize("words", [(), ("--inplace",)], ids=["replaced", "in place"])
def test_a_target_that_was_there(words: tuple[str, ...], tmp_path: Path, tiny: Path) -> None:
    """Replaced, it is as it was; written in place, it holds what was delivered and no more."""
    source, sink = tmp_path / "source", tiny / "sink"
    source.write_bytes(DATA)
    sink.write_bytes(b"old" * 1000)
    done = run(*words, source, sink)
    assert done.status == 1
    assert leftovers(tiny) == []
    if words:
        judge(done, DATA, file=sink)
    else:
        assert NOTHING in done.errors
        assert sink.read_bytes() == b"old" * 1000


@pytest.mark.parametrize("append", [False, True], ids=["stdout", "append"])
@pytest.mark.parametrize("kind", ["file", "stream"])
def test_standard_output_on_a_full_disk(
    kind: str, append: bool, tmp_path: Path, tiny: Path
) -> None:
    source, sink = tmp_path / "source", tiny / "sink"
    source.write_bytes(DATA)
    operand = source if kind == "file" else f"exec:cat {source}"
    fd = os.open(sink, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else 0))
    try:
        done = run(operand, "-", stdout=fd)
        if not append:
            assert os.lseek(fd, 0, os.SEEK_CUR) == sink.stat().st_size
    finally:
        os.close(fd)
    assert done.record("error")["errno"] == errno.ENOSPC
    judge(done, DATA, file=sink)
    if kind == "stream":
        assert ", " in done.errors and "more were read and are lost" in done.errors


@pytest.mark.parametrize("mover", ["splice", "plain"])
def test_a_stream_on_a_full_disk(mover: str, tmp_path: Path, tiny: Path) -> None:
    """What came by the stream is gone: how much was read and not delivered is stated too."""
    source, sink = tmp_path / "source", tiny / "sink"
    source.write_bytes(DATA)
    done = run("--via", mover, "--inplace", f"exec:cat {source}", sink)
    assert done.status == 1
    judge(done, DATA, file=sink)
    assert "more were read and are lost" in done.errors


def limited(kilobytes: int, *words: str | Path) -> Run:
    """Run with a largest size of files."""
    limit = ["sh", "-c", f'ulimit -f {2 * kilobytes}; exec "$@"', "sh"]
    return run(*words, before=limit)


@pytest.mark.parametrize("words", [(), ("--inplace",)], ids=["replaced", "in place"])
@pytest.mark.parametrize("mover", [*FILLING, "copy_range", "parallel"])
def test_the_largest_file_that_is_allowed(
    mover: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    """EFBIG, and no death by SIGXFSZ."""
    need("sh")
    source = source_of(mover if mover == "parallel" else "", tmp_path, tmp_path)
    sink = tmp_path / "sink"
    done = limited(1000, "--via", mover, *words, source, sink)
    if done.status == 2:
        missing(f"{mover} cannot be had here: {done.errors}")
    assert (done.status, done.record("error")["errno"]) == (1, errno.EFBIG), done.errors
    judge(done, source.read_bytes(), file=sink, provisional=not words)
    if words:
        assert done.record("error")["bytes"] == 1000 << 10


def test_a_small_file_on_a_full_disk(tmp_path: Path, tiny: Path) -> None:
    """The short way keeps the same promises."""
    source, sink = tmp_path / "source", tiny / "sink"
    source.write_bytes(DATA[:20_000])
    with open(tiny / "filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4096))
        except OSError:
            pass
        filler.truncate(os.path.getsize(tiny / "filler") - 8192)
    done = zpipe("cp", source, sink)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        f"zpipe: {sink}: write: No space left on device; nothing was put in place\n"
    )
    assert os.listdir(tiny) == ["filler"]
