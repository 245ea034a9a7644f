"""The folder of a run: its space, its files, and that it goes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from zpipe.bench.scratch import Scratch
from zpipe.errors import TransferError

if TYPE_CHECKING:
    from pathlib import Path


def nothing() -> None:
    pass


def test_a_source_is_as_long_as_asked_and_made_once(tmp_path: Path) -> None:
    with Scratch(str(tmp_path), 0) as scratch:
        path = scratch.source(3_000_001, nothing)
        assert os.stat(path).st_size == 3_000_001
        assert scratch.source(3_000_001, nothing) == path
        assert scratch.source(1, nothing) != path


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), ValueError()])
def test_it_goes_however_that_comes(tmp_path: Path, error: BaseException | None) -> None:
    def work() -> None:
        with Scratch(str(tmp_path), 0) as scratch:
            scratch.source(1000, nothing)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_finished_is_no_source(tmp_path: Path) -> None:
    def stop() -> None:
        raise ValueError

    with Scratch(str(tmp_path), 0) as scratch:
        with pytest.raises(ValueError):
            scratch.source(1000, stop)
        assert not os.listdir(scratch.folder)
        assert os.stat(scratch.source(1000, nothing)).st_size == 1000


def test_what_was_written_can_be_cleared(tmp_path: Path) -> None:
    with Scratch(str(tmp_path), 0) as scratch:
        source = scratch.source(10, nothing)
        with open(scratch.sink(1), "w") as file:
            file.write("x")
        scratch.clear()
        assert os.listdir(scratch.folder) == [os.path.basename(source)]


def test_space_is_looked_at_before(tiny: Path) -> None:
    with pytest.raises(TransferError, match=r"are needed there, and .* are free"):
        Scratch(str(tiny), 0)
    assert not list(tiny.iterdir())


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TransferError, match="create a folder: No such file or directory"):
        Scratch(str(tmp_path / "none"), 0)


def test_a_disk_that_is_full_is_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zpipe.bench.scratch._SPARE", 0)
    with (
        Scratch(str(tiny), 0) as scratch,
        pytest.raises(TransferError, match="write: No space left on device"),
    ):
        scratch.source(2 << 20, nothing)
    assert not list(tiny.iterdir())
