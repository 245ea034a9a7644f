"""A source that changes while it is read: what arrives is no copy of anything, and is refused."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING

import pytest

import zpipe
from tests.failures.judging import NOTHING
from tests.failures.test_tree import halted
from tests.machine import LONGEST, content, leftovers, started
from zpipe.engine.feedback import Feedback
from zpipe.errors import SourceChanged, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zpipe.engine.report import HopReport

DATA = content(3 << 20)
SLOW = ("--rate-limit", "1M")
MOVERS = ("copy_range", "sendfile", "splice", "plain", "direct")


def overwrite(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(2 << 20)
        file.write(b"changed")


def append(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 2 << 20)


def empty(path: Path) -> None:
    os.truncate(path, 0)


CHANGES = {"overwritten": overwrite, "grown": append, "cut": cut, "emptied": empty}


def made(path: Path) -> Path:
    """Make a source whose time is long past: the clock of a filesystem may stand still between two
    changes.
    """
    path.write_bytes(DATA)
    os.utime(path, (1, 1))
    return path


def wait_for(condition: Callable[[], bool]) -> None:
    """Ask again and again until it holds, for as long as a test may take."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def begun(folder: Path) -> bool:
    """Tell whether bytes have arrived under a temporary name."""
    return any(os.path.getsize(folder / name) > 0 for name in leftovers(folder))


class Meddler(Feedback):
    """Changes the source between two steps of the copy, once the first bytes have moved."""

    interval = 0.0

    def __init__(self, change: Callable[[Path], None], source: Path):
        self._change = change
        self._source = source
        self.moved = 0

    def progress(self, hop: HopReport) -> None:
        if hop.moved and not self.moved:
            self.moved = hop.moved
            self._change(self._source)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mover", MOVERS)
def test_a_file_that_changes_between_two_steps(mover: str, change: str, tmp_path: Path) -> None:
    """Every mover, by the library: the rate is there to make steps of it."""
    source, folder = made(tmp_path / "source"), tmp_path / "target"
    folder.mkdir()
    meddler = Meddler(CHANGES[change], source)
    sink = str(folder / "sink")
    try:
        with pytest.raises(SourceChanged) as caught:
            zpipe.copy(str(source), sink, via=mover, rate_limit=20 << 20, feedback=meddler)
    except UsageError as error:
        pytest.skip(str(error))
    assert 0 < meddler.moved < len(DATA)
    assert str(caught.value).endswith(f"); {NOTHING}")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("change", ["overwritten", "cut"])
def test_a_file_that_changes(change: str, tmp_path: Path) -> None:
    """By the command, which is caught at work."""
    source, folder = made(tmp_path / "source"), tmp_path / "target"
    folder.mkdir()
    with started("cp", *SLOW, source, folder / "sink") as process:
        wait_for(lambda: begun(folder) or process.poll() is not None)
        CHANGES[change](source)
        errors = process.communicate(timeout=LONGEST)[1].decode()
        assert process.returncode == 1
    assert errors.startswith(f"zpipe: {source}: read: the source changed while it was read (")
    assert errors.endswith(f"); {NOTHING}\n")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mover", ["sendfile", "splice", "plain"])
def test_a_reader_is_told_how_much_it_got(mover: str, change: str, tmp_path: Path) -> None:
    """It has read some already: the status is all that can still be given."""
    source = made(tmp_path / "source")
    with started("cp", "--via", mover, source, "-") as process:
        assert process.stdout is not None
        # the pipes on the way are full now: the other half of the source is not read yet
        got = os.read(process.stdout.fileno(), 1)
        CHANGES[change](source)
        output, errors = process.communicate(timeout=LONGEST)
        assert process.returncode == 1
    assert "the source changed while it was read" in errors.decode()
    assert f"; {len(got) + len(output)} bytes were delivered\n" in errors.decode()


def test_a_new_file_under_the_old_name_is_no_change(tmp_path: Path) -> None:
    """Others replace files by renaming, as we do: what is open stays what it was."""
    source, folder = tmp_path / "source", tmp_path / "target"
    folder.mkdir()
    source.write_bytes(DATA)
    (tmp_path / "new").write_bytes(b"new")
    with started("cp", "--via", "plain", *SLOW, source, folder / "sink") as process:
        wait_for(lambda: begun(folder))
        os.rename(tmp_path / "new", source)
        assert process.wait(LONGEST) == 0
    assert (folder / "sink").read_bytes() == DATA


@pytest.mark.parametrize("words", [("--via", "mapped"), ("--lease",)], ids=" ".join)
def test_a_lease_holds_others_off(words: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever wants to write waits until the copy is done, and is not refused."""
    source, folder = tmp_path / "source", tmp_path / "target"
    folder.mkdir()
    source.write_bytes(DATA)
    with started("cp", *words, *SLOW, source, folder / "sink") as process:
        wait_for(lambda: begun(folder))
        writer = threading.Thread(target=overwrite, args=(source,))
        writer.start()
        assert process.wait(LONGEST) == 0
        writer.join()
    assert (folder / "sink").read_bytes() == DATA
    assert source.read_bytes() != DATA


def test_a_stable_copy_does_not_show_what_was_written_later(tmp_path: Path) -> None:
    """The reader has not read yet when the source changes: it gets what was there when we read."""
    source = tmp_path / "source"
    source.write_bytes(DATA[:60_000])
    reader, writer = os.pipe()
    try:
        with started("cp", "--stable", source, "-", stdout=writer) as process:
            assert process.wait(LONGEST) == 0
        with open(source, "r+b") as file:
            file.write(b"changed" * 8000)
        assert select.select([reader], [], [], LONGEST)[0]
        assert os.read(reader, 60_000) == DATA[:60_000]
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("mover", ["tee", "plain"])
def test_a_file_that_changes_while_several_take_it(mover: str, change: str, tmp_path: Path) -> None:
    source, folder = made(tmp_path / "source"), tmp_path / "target"
    folder.mkdir()
    meddler = Meddler(CHANGES[change], source)
    sinks = [str(folder / name) for name in "ab"]
    with pytest.raises(SourceChanged) as caught:
        zpipe.copy(str(source), *sinks, via=mover, rate_limit=20 << 20, feedback=meddler)
    assert 0 < meddler.moved < len(DATA)
    assert str(caught.value).endswith(f"; {NOTHING}")
    assert os.listdir(folder) == []


@pytest.mark.parametrize("sinks", ["a", "ab"])
def test_who_asks_for_a_source_under_a_lease_is_told_of(sinks: str, tmp_path: Path) -> None:
    """Whoever does not want to wait is refused, and the report says that somebody came."""

    def ask(source: Path) -> None:
        with pytest.raises(BlockingIOError):
            os.open(source, os.O_WRONLY | os.O_NONBLOCK)

    source = tmp_path / "source"
    source.write_bytes(DATA)
    meddler = Meddler(ask, source)
    paths = [str(tmp_path / name) for name in sinks]
    report = zpipe.copy(str(source), *paths, lease=True, rate_limit=20 << 20, feedback=meddler)
    assert all((tmp_path / name).read_bytes() == DATA for name in sinks)
    (told,) = [note for note in report.hops[0].notes if "another process asked" in note]
    assert int(told.rpartition(" ")[2]) >= meddler.moved > 0


@pytest.mark.parametrize("change", ["overwritten", "grown"])
def test_a_small_file_that_changes(change: str, tmp_path: Path) -> None:
    """Once it is read, before it is compared."""
    source, folder = tmp_path / "source", tmp_path / "target"
    folder.mkdir()
    source.write_bytes(DATA[:1000])
    with (
        halted("read", source, folder / "sink", log=tmp_path / "log", of=source) as run,
        open(source, "ab" if change == "grown" else "r+b") as file,
    ):
        file.write(DATA[1000:500_000])
    assert run.status == 1
    assert run.errors.startswith(f"zpipe: {source}: read: the source changed while it was read (")
    assert run.errors.endswith(f"; {NOTHING}\n")
    assert os.listdir(folder) == []
