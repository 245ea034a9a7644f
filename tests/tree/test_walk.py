"""Directories: read when their turn has come, made on the way, and finished last of all."""

from __future__ import annotations

import os
import stat
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.machine import as_stranger, mounted
from tests.tree import UMASK, carry, texts
from zpipe.tree.report import TreeReport
from zpipe.tree.walk import FILES, Walk, excluded
from zpipe.tree.wishes import TreeWishes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zpipe.tree.tasks import Batch, Problem

PLAIN = TreeWishes(recursive=True)
KEEPING = TreeWishes(recursive=True, preserve=frozenset({"mode", "timestamps"}))
OLD = (1_000_000_001, 1_000_000_002)


class Walked:
    """A walk of one directory, and what came of it."""

    def __init__(self, source: Path, target: Path, wishes: TreeWishes = PLAIN, **more: Any):
        self.problems: list[Problem] = []
        self.report = TreeReport()
        self.wishes = wishes
        more = {"token": "t", "lost": self.problems.append, "admit": None, **more}
        self.walk = Walk(wishes, self.report, **more)
        self.tasks: Iterator[Batch] = self.walk.tree(
            str(source), str(target), source.stat(), None, through=True
        )

    @property
    def texts(self) -> str:
        return "\n".join(problem.text for problem in self.problems)

    def done(self, task: Batch) -> None:
        """Carry a task, and say that it is done."""
        assert texts(carry(task, self.wishes)) == ""
        self.walk.leave(self.walk.folders.pop(task.number))

    def all(self) -> list[Batch]:
        """Carry everything; return the tasks."""
        tasks = []
        for task in self.tasks:
            tasks.append(task)
            self.done(task)
        return tasks


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three directories of a file each, one of them deep, and two files above."""
    for name in ("a", "b/deep/deeper", "c"):
        folder = tmp_path / "source" / name
        folder.mkdir(parents=True)
        (folder / "file").write_text(name)
    for name in ("one", "two"):
        (tmp_path / "source" / name).write_text(name)
    (tmp_path / "source/link").symlink_to("nowhere")
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def names(root: Path) -> set[str]:
    """Return what is in a tree, by paths relative to it."""
    return {
        os.path.relpath(os.path.join(above, name), root)
        for above, folders, files in os.walk(root)
        for name in (*folders, *files)
    }


def test_everything_is_a_task_once(source: Path, target: Path) -> None:
    walked = Walked(source, target)
    tasks = walked.all()
    assert walked.texts == ""
    assert names(target) == names(source)
    assert len({task.number for task in tasks}) == len({task.token for task in tasks}) == 4
    top = tasks[0]
    assert (top.source, top.target) == (str(source), str(target))
    assert (set(top.files), top.others) == ({"one", "two"}, ("link",))
    assert all(task.fresh and not task.follow for task in tasks)
    assert (walked.report.found, walked.report.directories) == (6, 6)
    assert walked.walk.folders == {}


def test_a_directory_is_read_only_when_its_turn_has_come(source: Path, target: Path) -> None:
    walked = Walked(source, target)
    assert not target.exists()
    first = next(walked.tasks)
    assert first.source == str(source)
    assert os.listdir(target) == [], "those below are not made yet"
    (source / "c/late").touch()
    (source / "b/deep/late").touch()
    files = {(task.source, name) for task in walked.tasks for name in task.files}
    assert (str(source / "c"), "late") in files
    assert (str(source / "b/deep"), "late") in files


def test_a_large_directory_is_several_tasks_and_is_not_read_at_once(
    tmp_path: Path, target: Path
) -> None:
    source = tmp_path / "large"
    source.mkdir()
    for number in range(2 * FILES + 1):
        (source / f"{number}").touch()
    walked = Walked(source, target)
    first = next(walked.tasks)
    assert (len(first.files), walked.report.found) == (FILES, FILES)
    sizes = [len(task.files) for task in walked.tasks]
    assert sizes == [FILES, 1]


def test_only_one_way_down_is_known_at_a_time(tmp_path: Path, target: Path) -> None:
    """Of a wide and deep tree the walk remembers what is above, and their children."""
    source = tmp_path / "wide"
    for first in range(8):
        for second in range(8):
            (source / f"{first}/{second}").mkdir(parents=True)
            (source / f"{first}/{second}/file").touch()
    walked = Walked(source, target)
    for done, task in enumerate(walked.tasks):
        assert len(walked.walk.folders) == 1
        assert len(names(target)) <= done // 8 + 1 + 2 * (done + 1)
        walked.done(task)
    assert names(target) == names(source)


# finishing


def test_a_directory_gets_its_attributes_after_its_last_task(source: Path, target: Path) -> None:
    (source / "b/deep").chmod(0o2750)
    for path in (source / "b/deep/deeper", source / "b/deep", source / "b", source):
        os.utime(path, ns=OLD)
    before = {path: path.stat() for path in source.rglob("*") if path.is_dir()}
    walked = Walked(source, target, KEEPING)
    tasks = list(walked.tasks)
    top = tasks.pop(0)
    assert stat.S_IMODE((target / "b/deep").stat().st_mode) != 0o2750
    while tasks:
        for name in ("", "b"):
            assert (target / name).stat().st_mtime_ns != OLD[1]
        walked.done(tasks.pop())  # in another order than they came
    # all but the top are finished now: its own files are missing
    assert (target / "b").stat().st_mtime_ns == OLD[1]
    assert target.stat().st_mtime_ns != OLD[1]
    walked.done(top)
    assert target.stat().st_mtime_ns == OLD[1]
    for path, info in before.items():
        found = (target / path.relative_to(source)).stat()
        assert (found.st_mode, found.st_mtime_ns) == (info.st_mode, info.st_mtime_ns), path
    assert walked.texts == ""


def test_a_directory_that_is_not_writable_is_filled_and_then_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    def work() -> None:
        source, target = Path("source"), Path("target")
        (source / "closed/below").mkdir(parents=True)
        (source / "closed/below/file").touch()
        (source / "closed/file").touch()
        (source / "closed").chmod(0o500)
        (source / "closed/below").chmod(0o550)
        for number, wishes in enumerate((PLAIN, KEEPING)):
            walked = Walked(source, target / f"{number}", wishes)
            target.mkdir(exist_ok=True)
            walked.all()
            assert walked.texts == ""
            assert names(target / f"{number}") == names(source)
            for name in ("closed", "closed/below"):
                mode = stat.S_IMODE((target / f"{number}" / name).stat().st_mode)
                wanted = stat.S_IMODE((source / name).stat().st_mode)
                assert mode == wanted & (~UMASK if wishes is PLAIN else ~0)
        for path in source.rglob("closed"):
            path.chmod(0o700)

    as_stranger(tmp_path, work)


def test_an_existing_directory_keeps_its_mode_unless_that_is_asked_for(
    source: Path, target: Path
) -> None:
    (target / "a").mkdir(parents=True)
    (target / "a").chmod(0o711)
    (target / "a/mine").touch()
    (source / "a").chmod(0o750)
    walked = Walked(source, target)
    tasks = walked.all()
    fresh = {task.source: task.fresh for task in tasks}
    assert not fresh[str(source)] and not fresh[str(source / "a")] and fresh[str(source / "c")]
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o711
    Walked(source, target, KEEPING).all()
    assert stat.S_IMODE((target / "a").stat().st_mode) == 0o750
    assert (target / "a/mine").exists()
    assert walked.report.directories == 4


# what cannot be


def test_a_link_that_leads_round_in_a_circle_is_told_once(source: Path, target: Path) -> None:
    (source / "b/deep/up").symlink_to("../..")
    (source / "c/self").symlink_to(".")
    (source / "link").unlink()
    walked = Walked(source, target, TreeWishes(recursive=True, follow="always"))
    walked.all()
    assert sorted(problem.path for problem in walked.problems) == [
        str(source / "b/deep/up"),
        str(source / "c/self"),
    ]
    assert walked.texts.count("a symbolic link leads round in a circle") == 2
    assert names(target) == names(source) - {"b/deep/up", "c/self"}


def test_a_directory_that_is_met_twice_is_no_circle(source: Path, target: Path) -> None:
    (source / "b/again").symlink_to("../a")
    (source / "link").unlink()
    walked = Walked(source, target, TreeWishes(recursive=True, follow="always"))
    walked.all()
    assert walked.texts == ""
    assert (target / "b/again/file").read_text() == "a"
    assert not (target / "b/again").is_symlink()


def test_the_target_is_not_walked_into(source: Path) -> None:
    walked = Walked(source, source / "c/copy")
    walked.all()
    assert walked.texts == (
        f"{source}/c/copy: is the target itself: a directory is not copied into itself"
    )
    assert (source / "c/copy/c/file").exists()
    assert not (source / "c/copy/c/copy").exists()


def a_file(path: Path) -> None:
    path.touch()


def a_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to("elsewhere")


def a_dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [a_file, a_link, a_dangling_link])
def test_what_is_no_directory_is_not_replaced_by_one(
    make: Callable[[Path], None], source: Path, target: Path
) -> None:
    """Nothing is written through a link that stands below the target."""
    target.mkdir()
    make(target / "b")
    before = os.lstat(target / "b")
    walked = Walked(source, target)
    walked.all()
    text = f"{target}/b: is not a directory: cannot be replaced by {source}/b"
    assert walked.texts == text
    assert os.lstat(target / "b").st_ino == before.st_ino
    assert (target / "c/file").read_text() == "c"
    if make is a_link:
        assert os.listdir(target / "elsewhere") == []


def test_a_link_to_a_directory_may_be_the_target_itself(source: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "target").symlink_to("real")
    walked = Walked(source, tmp_path / "target")
    walked.all()
    assert walked.texts == ""
    assert names(tmp_path / "real") == names(source)


def test_directories_that_go_or_change_meanwhile_lose_only_themselves(
    source: Path, target: Path
) -> None:
    walked = Walked(source, target)
    walked.done(next(walked.tasks))
    (source / "a/file").unlink()
    (source / "a").rmdir()
    os.rename(source / "c", source.parent / "elsewhere")
    (source / "c").touch()
    walked.all()
    assert f"{source}/a: stat: No such file or directory" in walked.texts
    assert f"{source}/c: is no directory any more" in walked.texts
    assert len(walked.problems) == 2
    assert (target / "b/deep/deeper/file").exists()


def test_a_directory_that_may_not_be_read_is_told_once_and_made(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    def work() -> None:
        source, target = Path("source"), Path("target")
        for name in ("closed", "open"):
            (source / name).mkdir(parents=True)
            (source / name / "file").touch()
        (source / "closed").chmod(0o311)
        for number, wishes in enumerate((PLAIN, KEEPING)):
            walked = Walked(source, Path(f"target{number}"), wishes)
            walked.all()
            assert walked.texts == "source/closed: read: Permission denied"
            target = Path(f"target{number}")
            assert (target / "open/file").exists()
            assert stat.S_IMODE((target / "closed").stat().st_mode) == 0o311
        (source / "closed").chmod(0o700)

    as_stranger(tmp_path, work)


def test_a_target_that_takes_no_directories_is_told_for_each_of_them(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    def work() -> None:
        source, target = Path("source"), Path("target")
        (source / "a/below").mkdir(parents=True)
        (source / "a/below/file").touch()
        (target / "a").mkdir(parents=True)
        (target / "a").chmod(0o500)
        walked = Walked(source, target)
        assert walked.all() == []
        assert walked.texts == "target/a/below: mkdir: Permission denied"

    as_stranger(tmp_path, work)


# which entries


def test_other_filesystems_are_left_out_but_for_their_directories(
    source: Path, target: Path
) -> None:
    wishes = TreeWishes(recursive=True, one_filesystem=True)
    with mounted("tmpfs", source / "mount", 1 << 20) as place:
        (place / "file").touch()
        (place / "below").mkdir()
        walked = Walked(source, target, wishes)
        walked.all()
        everything = Walked(source, target.with_name("all"))
        everything.all()
    assert walked.texts == everything.texts == ""
    assert os.listdir(target / "mount") == []
    assert sorted(os.listdir(target.with_name("all") / "mount")) == ["below", "file"]
    assert (target / "b/deep/deeper/file").exists()


@pytest.mark.parametrize(
    ("globs", "missing"),
    [
        (("one",), {"one"}),
        (("file",), {"a/file", "b/deep/deeper/file", "c/file"}),
        (("deep",), {"b/deep", "b/deep/deeper", "b/deep/deeper/file"}),
        (("b/deep/deeper/*",), {"b/deep/deeper/file"}),
        (("?ne", "l*"), {"one", "link"}),
        (("[ac]",), {"a", "a/file", "c", "c/file"}),
        (("b/", "a/file"), {"b", "b/deep", "b/deep/deeper", "b/deep/deeper/file", "a/file"}),
        (("deep/deeper", "ONE", "fil"), set()),
    ],
)
def test_what_a_glob_names_is_left_out(
    globs: tuple[str, ...], missing: set[str], source: Path, target: Path
) -> None:
    walked = Walked(source, target, TreeWishes(recursive=True, exclude=globs))
    walked.all()
    assert names(source) - names(target) == missing


def test_bytes_of_a_name_match_a_glob() -> None:
    name = os.fsdecode(b"a\xff\n")
    assert excluded(name, name, ["a??"])
    assert excluded(f"dir/{name}", name, ["dir/a*"])
    assert not excluded(name, name, ["a?"])


def test_who_is_not_admitted_is_no_task(source: Path, target: Path) -> None:
    walked = Walked(source, target, admit=lambda folder, entry: entry.name != "one")
    walked.all()
    assert names(source) - names(target) == {"one"}
    assert walked.report.found == 6


def test_links_are_entries_unless_they_are_followed(source: Path, target: Path) -> None:
    (source / "to a").symlink_to("a")
    (source / "to one").symlink_to("one")
    first = next(Walked(source, target).tasks)
    assert set(first.others) == {"link", "to a", "to one"}
    always = TreeWishes(recursive=True, follow="always")
    tasks = deque(Walked(source, target, always).tasks)
    top = tasks.popleft()
    assert (set(top.files), top.others, top.follow) == ({"one", "two", "to one"}, ("link",), True)
    assert str(source / "to a") in {task.source for task in tasks}


def test_names_may_be_any_bytes(tmp_path: Path, target: Path) -> None:
    odd = [b"new\nline", b"-r", b"not \xff\xfe utf-8", b"n" * 255, b" ", b"\\", b"*"]
    root = os.fsencode(tmp_path / "odd")
    for name in odd:
        os.makedirs(os.path.join(root, name))
        with open(os.path.join(root, name, name), "wb") as file:
            file.write(name)
    walked = Walked(tmp_path / "odd", target)
    walked.all()
    assert walked.texts == ""
    there = os.fsencode(target)
    assert sorted(os.listdir(there)) == sorted(odd)
    for name in odd:
        with open(os.path.join(there, name, name), "rb") as file:
            assert file.read() == name


def test_an_operand_that_is_no_directory_is_one_task(source: Path, target: Path) -> None:
    walk = Walked(source, target).walk
    for path, files, others in (("one", ("one",), ()), ("link", (), ("link",))):
        info = (source / path).lstat()
        task = walk.one(str(source / path), str(target / "new"), info, None, follow=False)
        assert (task.source, task.target, task.as_name) == (str(source), str(target), "new")
        assert (task.files, task.others) == (files, others)
    bare = walk.one("one", "new", (source / "one").stat(), None, follow=True)
    assert (bare.source, bare.target, bare.follow) == ("", "", True)


def test_parents_are_finished_when_what_is_below_is(source: Path, target: Path) -> None:
    os.utime(source / "b", ns=OLD)
    os.utime(source / "b/deep", ns=OLD)
    target.mkdir()
    walked = Walked(source, target, KEEPING)
    walk = walked.walk
    above = walk.enter_like(str(source / "b"), str(target / "b"), None)
    parent = walk.enter_like(str(source / "b/deep"), str(target / "b/deep"), above)
    assert above is not None and parent is not None
    path = source / "b/deep/deeper/file"
    task = walk.one(str(path), str(target / "b/deep/file"), path.stat(), parent, follow=False)
    walk.leave(parent)
    assert (target / "b").stat().st_mtime_ns != OLD[1]
    walked.done(task)
    for name in ("b", "b/deep"):
        assert (target / name).stat().st_mtime_ns == OLD[1]
