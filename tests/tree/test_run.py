"""The library's call: what it returns and raises, whose executor does the work, what it costs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import zpipe
from tests.machine import ZPIPE, content, environment, need
from tests.tree.factories import Misled
from zpipe.errors import TransferError, UsageError
from zpipe.tree.copy import TreeFailed
from zpipe.tree.report import TreeFeedback, TreeReport
from zpipe.tree.run import carry_out, copy_tree
from zpipe.tree.tasks import Batch, Done, Problem
from zpipe.tree.wishes import TreeWishes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MANY = 30_000  # entries, in directories of FEW
FEW = 300


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "s" / "below").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "s" / "below" / f"{number}").write_bytes(content(1000 * number))
    (tmp_path / "s" / "x").write_bytes(b"x")
    (tmp_path / "s" / "x").chmod(0o750)
    return tmp_path


def test_it_is_part_of_the_library_on_one_screen() -> None:
    assert zpipe.copy_tree is copy_tree
    assert zpipe.TreeReport is TreeReport
    assert zpipe.TreeFailed is TreeFailed


def test_a_tree_with_the_attributes_of_p(tree: Path) -> None:
    os.utime(tree / "s" / "below", ns=(1, 1_234_567_890_123_456_789))
    report = copy_tree(str(tree / "s"), str(tree / "d"))
    assert (report.files, report.directories, report.moved) == (4, 2, 3001)
    assert sum(report.by_mover.values()) == 3001
    assert report.walked and not report.problems
    info = (tree / "d" / "x").stat()
    assert (info.st_mode & 0o777, info.st_size) == (0o750, 1)
    assert (tree / "d" / "below").stat().st_mtime_ns == 1_234_567_890_123_456_789


def test_the_last_of_several_names_takes_the_others(tree: Path) -> None:
    (tree / "d").mkdir()
    copy_tree(str(tree / "s/x"), str(tree / "s/below"), str(tree / "d"))
    assert sorted(os.listdir(tree / "d")) == ["below", "x"]


@pytest.mark.parametrize(
    ("into", "wanted"), [(None, ["s"]), (True, ["s"]), (False, ["below", "x"])]
)
def test_into_a_directory_or_as_it(tree: Path, into: bool | None, wanted: list[str]) -> None:
    (tree / "d").mkdir()
    copy_tree(str(tree / "s"), str(tree / "d"), into=into)
    assert sorted(os.listdir(tree / "d")) == wanted


def test_relative_names_are_those_of_the_working_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)
    copy_tree("s", "d")
    with ThreadPoolExecutor(1) as executor:
        copy_tree("s", "e", executor=executor)
    assert sorted(os.listdir()) == ["d", "e", "s"]
    assert sorted(os.listdir("e")) == ["below", "x"]


def test_a_wish_that_nobody_knows(tree: Path) -> None:
    with pytest.raises(TypeError, match="its fields are"):
        copy_tree(str(tree / "s"), str(tree / "d"), nosuch=True)
    assert os.listdir(tree) == ["s"]


def test_an_executor_that_nobody_knows(tree: Path) -> None:
    with pytest.raises(UsageError, match="--executor nosuch"):
        copy_tree(str(tree / "s"), str(tree / "d"), executor="nosuch")


def test_what_is_not_copied_is_raised_when_the_rest_is_there(tree: Path) -> None:
    (tree / "s/below/dangling").symlink_to("nowhere")
    with pytest.raises(TreeFailed, match=r"^1 file was not copied: .*/s/below/dangling$"):
        copy_tree(str(tree / "s"), str(tree / "d"), follow="always")
    assert sorted(os.listdir(tree / "d/below")) == ["0", "1", "2"]


def test_a_checksum_file_for_all_of_it(tree: Path) -> None:
    copy_tree(str(tree / "s"), str(tree / "d"), checksum_file=str(tree / "sums"))
    lines = [line.split("  ") for line in (tree / "sums").read_text().splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums[str(tree / "d/x")] == hashlib.sha256(b"x").hexdigest()
    assert len(sums) == 4
    done = subprocess.run([need("sha256sum"), "-c", "--quiet", tree / "sums"], check=False)
    assert done.returncode == 0


class Listener(TreeFeedback):
    """Keeps what it hears, in its order."""

    names = True

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.files: list[str] = []

    def began(self, report: TreeReport) -> None:
        self.heard.append("began")

    def done(self, done: Done) -> None:
        if done.act == "copied":
            self.files.append(done.path)

    def lost(self, problem: Problem) -> None:
        self.heard.append(f"lost {os.path.basename(problem.path)}")

    def ended(self, report: TreeReport) -> None:
        self.heard.append(f"ended {report.files}")


def test_a_listener_hears_of_beginning_files_losses_and_end(tree: Path) -> None:
    (tree / "s/below/dangling").symlink_to("nowhere")
    listener = Listener()
    with pytest.raises(TreeFailed):
        copy_tree(str(tree / "s"), str(tree / "d"), follow="always", names=True, feedback=listener)
    assert listener.heard == ["began", "lost dangling", "ended 4"]
    assert sorted(listener.files) == [
        str(tree / f"d/{name}") for name in ("below/0", "below/1", "below/2", "x")
    ]


# Executors of the caller's


@pytest.mark.parametrize(
    "make",
    [
        lambda: ThreadPoolExecutor(2),
        lambda: ProcessPoolExecutor(2, mp_context=get_context("fork")),
    ],
    ids=["threads", "processes"],
)
def test_an_executor_that_is_given_is_used_and_left_running(
    tree: Path, make: Callable[[], Executor]
) -> None:
    with make() as executor:
        for target in ("d", "e"):
            report = copy_tree(str(tree / "s"), str(tree / target), executor=executor)
            assert report.files == 4
            assert report.executor == type(executor).__name__
            assert sorted(os.listdir(tree / target)) == ["below", "x"]
        assert executor.submit(abs, -3).result() == 3
    assert sorted(os.listdir(tree)) == ["d", "e", "s"]


def test_an_executor_whose_workers_see_something_else(tree: Path) -> None:
    with Misled(1) as executor, pytest.raises(TransferError, match="is another directory there"):
        copy_tree(str(tree / "s"), str(tree / "d"), executor=executor)
    assert os.listdir(tree) in (["s"], ["d", "s"], ["s", "d"])
    assert not [name for _, _, names in os.walk(tree / "d") for name in names]


def test_an_executor_that_is_closed_is_told(tree: Path) -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(TransferError, match="--executor ThreadPoolExecutor: submit: cannot"):
        copy_tree(str(tree / "s"), str(tree / "d"), executor=executor)
    assert not [name for name in os.listdir(tree) if ".zpipe-" in name]


def test_a_task_may_be_carried_twice(tree: Path) -> None:
    """As an executor does that has lost the answer of a worker."""

    class Twice(ThreadPoolExecutor):
        def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
            super().submit(call, *words, **named).result()
            return super().submit(call, *words, **named)

    with open(tree / "s/big", "wb") as file:
        file.write(b"begin")
        file.truncate(200 << 20)
        file.seek(100 << 20)
        file.write(b"middle")
    with Twice(1) as executor:
        report = copy_tree(str(tree / "s"), str(tree / "d"), executor=executor)
    assert not report.problems
    assert (tree / "d/x").read_bytes() == b"x"
    with open(tree / "d/big", "rb") as copied:
        assert copied.read(5) == b"begin"
        copied.seek(100 << 20)
        assert copied.read(6) == b"middle"
    assert not [name for _, _, names in os.walk(tree) for name in names if ".zpipe-" in name]


# What it costs


class Recorder(ThreadPoolExecutor):
    """Notes how far the walk is ahead of what has been carried."""

    def __init__(self, target: Path):
        super().__init__(1)
        self.ahead: list[int] = []
        self._target = target
        self._carried = 0

    def submit(self, call: Callable[..., Any], /, *words: Any, **named: Any) -> Future[Any]:
        assert isinstance(words[1], Batch)
        met = len(os.listdir(self._target)) if self._target.exists() else 0
        self.ahead.append(met - self._carried)
        future = super().submit(call, *words, **named)
        future.add_done_callback(self._count)
        return future

    def _count(self, future: Future[Any]) -> None:
        self._carried += 1


def test_the_walk_is_no_further_than_a_few_batches_ahead(tmp_path: Path) -> None:
    """Each directory is one batch; the target's directories tell how many have been met."""
    for number in range(60):
        (tmp_path / "s" / f"{number}").mkdir(parents=True)
        (tmp_path / "s" / f"{number}" / "x").touch()
    with Recorder(tmp_path / "d") as executor:
        copy_tree(str(tmp_path / "s"), str(tmp_path / "d"), executor=executor, workers=2)
    assert len(executor.ahead) == 60
    assert max(executor.ahead) < 10


@pytest.fixture(scope="module")
def crowd() -> Iterator[Path]:
    """Many entries with long names: hard links in memory, since these are the quickest to make."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    for place in range(MANY // FEW):
        (folder / "s" / f"{place}").mkdir(parents=True)
        first = folder / "s" / f"{place}" / "first"
        first.touch()
        for number in range(FEW - 1):
            os.link(first, first.with_name("a long name " * 10 + f"{number}"))
    yield folder
    subprocess.run(["rm", "-r", folder], check=True)


def test_many_entries_need_little_memory(crowd: Path) -> None:
    """The same tree ten times as large would need the same: names are forgotten on the way."""
    script = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    target = crowd / "d"
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, *ZPIPE, "cp", "-r", crowd / "s", target],
            env=environment(),
            capture_output=True,
            check=True,
        )
        assert sum(len(names) for _, _, names in os.walk(target)) == MANY
    finally:
        subprocess.run(["rm", "-rf", target], check=True)
    assert int(done.stdout) < 100 << 10  # KiB


def test_no_thread_is_left_behind(tree: Path) -> None:
    before = set(threading.enumerate())
    copy_tree(str(tree / "s"), str(tree / "d"), executor="threads")
    assert set(threading.enumerate()) <= before


def test_the_command_lines_call_takes_all_wishes(tree: Path) -> None:
    wishes = TreeWishes(recursive=True)
    report = carry_out([str(tree / "s")], str(tree / "d"), wishes, workers=1)
    assert (report.files, report.executor, report.workers) == (4, "none", 1)
