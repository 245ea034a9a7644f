"""One run of the copying of a tree: who works, when workers are worth it, what is raised."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import content
from zpipe.engine.report import Resources
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.tree.copy import TreeCopy, TreeFailed
from zpipe.tree.crew import Alone
from zpipe.tree.devices import default_workers
from zpipe.tree.journal import Journal
from zpipe.tree.naming import pairs
from zpipe.tree.report import TreeFeedback, TreeReport
from zpipe.tree.tasks import Done, Problem
from zpipe.tree.wishes import TreeWishes
from zpipe.tree.worker import Worker

if TYPE_CHECKING:
    from pathlib import Path


class Listener(TreeFeedback):
    """Keeps what is lost and said, and the state at the end."""

    def __init__(self) -> None:
        self.said_lines: list[str] = []
        self.problems: list[Problem] = []
        self.report = TreeReport()

    def said(self, text: str) -> None:
        self.said_lines.append(text)

    def lost(self, problem: Problem) -> None:
        self.problems.append(problem)

    def ended(self, report: TreeReport) -> None:
        self.report = report


@pytest.fixture
def listener() -> Listener:
    return Listener()


def plant(root: Path, files: int) -> None:
    root.mkdir()
    for number in range(files):
        (root / f"{number}").write_bytes(b"x")


def copy(folder: Path, listener: TreeFeedback, **options: Any) -> TreeReport:
    """Copy `s` to `d` in a folder."""
    wishes = TreeWishes(**{"recursive": True, **options.pop("wishes", {})})
    found = pairs([str(folder / "s")], str(folder / "d"), into=False, parents=False)
    return TreeCopy(found, wishes, feedback=listener, **options).run()


@pytest.mark.parametrize(
    ("files", "workers", "executor"),
    [
        (3, 2, "none"),
        (63, 2, "none"),
        (64, 2, "processes"),
        (300, 2, "processes"),
        (300, 1, "none"),
    ],
)
def test_workers_come_where_they_are_worth_it(
    tmp_path: Path, listener: Listener, files: int, workers: int, executor: str
) -> None:
    plant(tmp_path / "s", files)
    report = copy(tmp_path, listener, workers=workers)
    assert (report.files, report.executor) == (files, executor)
    assert report.workers == (workers if executor == "processes" else 1)
    assert len(os.listdir(tmp_path / "d")) == files


def test_one_big_file_is_work_for_several(tmp_path: Path, listener: Listener) -> None:
    plant(tmp_path / "s", 1)
    with open(tmp_path / "s/big", "wb") as file:
        for place in (0, 70 << 20, 190 << 20):
            file.seek(place)
            file.write(content(1000, seed=place))
    report = copy(tmp_path, listener, workers=2, divides=True, wishes={"reflink": "never"})
    assert report.executor == "processes"
    with open(tmp_path / "s/big", "rb") as source, open(tmp_path / "d/big", "rb") as target:
        for place in (0, 70 << 20, 190 << 20):
            source.seek(place)
            target.seek(place)
            assert source.read(1000) == target.read(1000) == content(1000, seed=place)
    assert sorted(os.listdir(tmp_path / "d")) == ["0", "big"]


@pytest.mark.parametrize("lost", [1, 2, 25])
def test_the_lost_are_named_at_the_end(tmp_path: Path, listener: Listener, lost: int) -> None:
    plant(tmp_path / "s", 2)
    for number in range(lost):
        (tmp_path / "s" / f"dangling{number}").symlink_to("nowhere")
    with pytest.raises(TreeFailed) as raised:
        copy(tmp_path, listener, wishes={"follow": "always"})
    text = str(raised.value)
    assert text.startswith(f"{lost} file{' was' if lost == 1 else 's were'} not copied: ")
    assert text.count("dangling") == min(lost, 20)
    assert ("and 5 more" in text) == (lost == 25)
    assert len(listener.problems) == listener.report.lost == lost
    assert listener.report.files == 2
    assert not raised.value.told


def test_the_only_file_that_is_lost_needs_no_second_line(
    tmp_path: Path, listener: Listener
) -> None:
    (tmp_path / "s").symlink_to("nowhere")
    with pytest.raises(TreeFailed) as raised:
        copy(tmp_path, listener, wishes={"follow": "always"})
    assert len(listener.problems) == 1
    assert raised.value.told


class AtFile(Stop):
    """Asks for the end when some files are there."""

    def __init__(self, folder: Path, count: int):
        self._folder = folder
        self._count = count

    def check(self) -> None:
        if self._folder.exists() and len(os.listdir(self._folder)) >= self._count:
            raise Interrupted(15)


def test_an_interruption_tells_what_is_there_and_leaves_it(
    tmp_path: Path, listener: Listener
) -> None:
    plant(tmp_path / "s", 10)
    with pytest.raises(Interrupted, match="ended by SIGTERM; 4 files were copied"):
        copy(tmp_path, listener, stop=AtFile(tmp_path / "d", 4))
    assert len(os.listdir(tmp_path / "d")) == 4
    assert not [name for name in os.listdir(tmp_path / "d") if ".zpipe-" in name]
    assert listener.report.files == 4


class Asking:
    """Says yes to names that end with an even number."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, path: str) -> bool:
        self.asked.append(os.path.basename(path))
        return int(path[-1]) % 2 == 0


def test_each_target_that_is_there_is_asked_about(tmp_path: Path, listener: Listener) -> None:
    plant(tmp_path / "s", 6)
    (tmp_path / "d").mkdir()
    for number in range(4):
        (tmp_path / "d" / f"{number}").write_bytes(b"old")
    ask = Asking()
    report = copy(tmp_path, listener, ask=ask, wishes={"existing": "ask"})
    assert sorted(ask.asked) == ["0", "1", "2", "3"]
    assert (report.files, report.kept) == (4, 2)
    found = {name: (tmp_path / "d" / name).read_bytes() for name in os.listdir(tmp_path / "d")}
    assert {name for name, data in found.items() if data == b"old"} == {"1", "3"}


def test_sizes_are_counted_only_for_who_is_shown_them(tmp_path: Path, listener: Listener) -> None:
    plant(tmp_path / "s", 3)
    assert copy(tmp_path, listener).expected == 0
    listener.sizes = True
    report = copy(tmp_path, listener)
    assert (report.expected, report.found, report.walked) == (3, 3, True)


def test_holes_are_not_expected_to_move(tmp_path: Path, listener: Listener) -> None:
    plant(tmp_path / "s", 0)
    with open(tmp_path / "s/sparse", "wb") as file:
        file.write(content(4096))
        file.truncate(50 << 20)
    listener.sizes = True
    report = copy(tmp_path, listener, wishes={"reflink": "never"})
    assert report.moved <= report.expected < 1 << 20


class Names(TreeFeedback):
    names = True

    def __init__(self) -> None:
        self.acts: dict[str, str] = {}

    def done(self, done: Done) -> None:
        self.acts[os.path.basename(done.path)] = done.act


def test_hard_links_are_links_of_what_was_copied(tmp_path: Path) -> None:
    plant(tmp_path / "s", 1)
    for name in ("one", "two"):
        os.link(tmp_path / "s/0", tmp_path / "s" / name)
    names = Names()
    wishes = {"preserve": frozenset({"links"}), "names": True}
    report = copy(tmp_path, names, wishes=wishes)
    assert report.files == 3
    assert (tmp_path / "d/0").stat().st_nlink == 3
    acts = sorted(names.acts[name] for name in ("0", "one", "two"))
    assert acts == ["copied", "linked", "linked"]


@pytest.mark.parametrize("lost", [1, 2, 4])
@pytest.mark.parametrize("kind", ["file", "symbolic link"])
def test_where_the_first_name_is_lost_the_next_is_copied(
    tmp_path: Path, listener: Listener, kind: str, lost: int
) -> None:
    """The others are names of that one, and have its digest."""
    (tmp_path / "s").mkdir()
    if kind == "file":
        (tmp_path / "s/0").write_bytes(b"bytes")
    else:
        (tmp_path / "s/0").symlink_to("nowhere")
    for name in ("1", "2", "3"):
        os.link(tmp_path / "s/0", tmp_path / "s" / name, follow_symlinks=False)
    names = os.listdir(tmp_path / "s")  # as the walk will meet them
    bad, good = names[:lost], names[lost:]
    for name in bad:
        (tmp_path / "d" / name).mkdir(parents=True)
    sums: dict[str, str] = {}
    with pytest.raises(TreeFailed, match=f"^{lost} files? w.* not copied: .*/{bad[0]}"):
        copy(
            tmp_path,
            listener,
            wishes={"preserve": frozenset({"links"}), "digest": "sha256"},
            checksums=lambda done: sums.update({os.path.basename(done.path): done.digest}),
        )
    inodes = {(tmp_path / "d" / name).lstat().st_ino for name in good}
    assert len(inodes) == (1 if good else 0)
    told = [problem.path for problem in listener.problems]
    assert told == [str(tmp_path / "s" / name) for name in bad]
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert sums == (dict.fromkeys(good, digest) if kind == "file" else {})


def test_other_names_are_not_given_to_what_was_there_before(
    tmp_path: Path, listener: Listener
) -> None:
    """The first name is lost, and an old file still stands in its place."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s/0").write_bytes(b"new")
    os.link(tmp_path / "s/0", tmp_path / "s/1")
    first, second = os.listdir(tmp_path / "s")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / first).write_bytes(b"old")

    def ask(path: str) -> bool:
        """Change the source while it is open."""
        with open(tmp_path / "s" / first, "r+b") as file:
            file.write(b"NEW!")
        return True

    with pytest.raises(TreeFailed):
        copy(tmp_path, listener, wishes={"preserve": frozenset({"links"})}, ask=ask)
    assert (tmp_path / "d" / first).read_bytes() == b"old"
    assert (tmp_path / "d" / second).read_bytes() == b"NEW!"
    assert (tmp_path / "d" / second).stat().st_nlink == 1


class Heavy(Alone):
    """Says that its workers have used a great deal."""

    used = Resources(0, 100.0, 50.0, 7_000_000, 3_000_000)


def test_what_workers_have_used_is_in_the_report(tmp_path: Path, listener: Listener) -> None:
    plant(tmp_path / "s", 3)
    worker = Worker(TreeWishes(), Stop(), divides=False)
    report = copy(tmp_path, listener, crew=lambda: Heavy(worker))
    used = report.resources
    assert (used.user >= 100, used.system >= 50) == (True, True)
    assert (used.voluntary_switches >= 7_000_000, used.involuntary_switches >= 3_000_000) == (
        True,
        True,
    )
    assert used.seconds == report.seconds < 100
    assert listener.report.resources == used


def test_as_many_workers_as_there_are_processors_and_no_more(tmp_path: Path) -> None:
    processors = len(os.sched_getaffinity(0))
    assert 1 <= default_workers([str(tmp_path)]) <= min(8, processors)
    assert default_workers([str(tmp_path / "not" / "there")]) == default_workers([str(tmp_path)])
    assert default_workers(["/dev/shm", "/proc"]) == min(8, processors)  # memory turns not


# Other names, where something stands in the target already


LINKS = frozenset({"links", "timestamps"})


def two_names(folder: Path) -> tuple[Path, Path]:
    """Plant a file with two names; return where they go, in the order in which they are met."""
    (folder / "s").mkdir()
    (folder / "d").mkdir()
    (folder / "s/0").write_bytes(b"new")
    os.link(folder / "s/0", folder / "s/1")
    first, second = os.listdir(folder / "s")
    return folder / "d" / first, folder / "d" / second


@pytest.mark.parametrize("existing", ["skip", "ask"])
def test_a_name_is_not_linked_to_what_was_to_stay(
    existing: str, tmp_path: Path, listener: Listener
) -> None:
    first, second = two_names(tmp_path)
    first.write_bytes(b"old")
    asked: list[str] = []

    def ask(path: str) -> bool:
        asked.append(path)
        return False

    wishes = {"preserve": LINKS, "existing": existing}
    report = copy(tmp_path, listener, wishes=wishes, ask=ask if existing == "ask" else None)
    assert (first.read_bytes(), second.read_bytes()) == (b"old", b"new")
    assert (report.files, report.kept) == (1, 1)
    assert asked == ([str(first)] if existing == "ask" else [])


@pytest.mark.parametrize("yes", [True, False])
def test_a_name_is_asked_about_as_any_other(yes: bool, tmp_path: Path, listener: Listener) -> None:
    first, second = two_names(tmp_path)
    second.write_bytes(b"old")
    asked: list[str] = []

    def ask(path: str) -> bool:
        asked.append(path)
        return yes

    copy(tmp_path, listener, wishes={"preserve": LINKS, "existing": "ask"}, ask=ask)
    assert asked == [str(second)]
    assert second.read_bytes() == (b"new" if yes else b"old")
    assert first.samefile(second) == yes


@pytest.mark.parametrize(("age", "stays"), [(-10, False), (10, True)])
def test_a_name_is_updated_where_what_is_there_is_older(
    age: int, stays: bool, tmp_path: Path, listener: Listener
) -> None:
    first, second = two_names(tmp_path)
    second.write_bytes(b"old")
    time = (tmp_path / "s/0").stat().st_mtime + age
    os.utime(second, (time, time))
    copy(tmp_path, listener, wishes={"preserve": LINKS, "update": True})
    assert first.read_bytes() == b"new"
    assert second.read_bytes() == (b"old" if stays else b"new")
    assert first.samefile(second) == (not stays)


@pytest.mark.parametrize("linked", [1, 3])
def test_an_interrupted_copy_goes_on_with_the_names_of_what_is_copied(
    linked: int, tmp_path: Path, listener: Listener
) -> None:
    """What was linked stays so, what was not is, and each name has its digest."""
    (tmp_path / "s").mkdir()
    for number in range(4):
        (tmp_path / f"s/{number}").write_bytes(b"x" * number)
        os.link(tmp_path / f"s/{number}", tmp_path / f"s/{number} again")

    class Interrupting(Listener):
        names = True
        left = linked

        def done(self, done: Done) -> None:
            self.left -= done.act == "linked"
            stop.asked = not self.left

    class Asked(Stop):
        asked = False

        def check(self) -> None:
            if self.asked:
                raise Interrupted(15)

    stop = Asked()
    sums: dict[str, str] = {}
    wishes: dict[str, Any] = {"preserve": LINKS, "resume": True, "names": True, "digest": "sha256"}
    given = (str(tmp_path / "journal"), [str(tmp_path / "s")], str(tmp_path / "d"))

    def run(listener: TreeFeedback, stop: Stop) -> TreeReport:
        asked = TreeWishes(**{"recursive": True, **wishes})
        with closing(Journal(*given, asked, into=False)) as journal:
            return copy(
                tmp_path,
                listener,
                wishes=wishes,
                stop=stop,
                journal=journal,
                checksums=lambda done: sums.update({os.path.basename(done.path): done.digest}),
            )

    with pytest.raises(Interrupted):
        run(Interrupting(), stop)
    copied = {path.stat().st_ino for path in (tmp_path / "d").iterdir()}
    assert len(copied) == 4 and len(list((tmp_path / "d").iterdir())) == 4 + linked
    sums.clear()
    report = run(listener, Stop())
    assert (report.moved, report.files, report.kept) == (0, 4 - linked, 4 + linked)
    found = {path.name: path for path in (tmp_path / "d").iterdir()}
    assert {path.stat().st_ino for path in found.values()} == copied
    assert all(path.stat().st_nlink == 2 for path in found.values())
    assert sums == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in found.items()
    }
