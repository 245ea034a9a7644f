"""A big file in ranges: what is left of it after a kill, and how it comes into its place."""

from __future__ import annotations

import os
import stat
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import as_stranger, content, leftovers, need_root
from tests.tree import TOKEN, UMASK, batch, carry, carry_whole, data_map, texts
from zpipe.errors import SourceChanged, TransferError
from zpipe.tree.division import Division
from zpipe.tree.journal import Journal
from zpipe.tree.tasks import identity_of
from zpipe.tree.wishes import BIG, CHUNK, TreeWishes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOVED = TreeWishes(reflink="never")
RESUMED = TreeWishes(reflink="never", resume=True)
PIECE = content(70_000)
# one range has data at both ends, one has none, one has data over its edge
PLACES = [0, CHUNK - len(PIECE), 2 * CHUNK, 3 * CHUNK - 5]
SIZE = 4 * CHUNK + 77


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A big file of little data: in its ranges 0, 2 and 3; the last one, of 77 bytes, is a hole."""
    path = tmp_path / "source"
    with open(path, "wb") as file:
        for place in PLACES:
            file.seek(place)
            file.write(PIECE)
        file.truncate(SIZE)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to/target"


@pytest.fixture
def journal(tmp_path: Path, source: Path, target: Path) -> Iterator[Callable[[], Journal]]:
    """Begin the run of a copy, and end the one before, if there is one."""
    opened: list[Journal] = []

    def begin() -> Journal:
        while opened:
            opened.pop().close()
        path = str(tmp_path / "journal")
        opened.append(Journal(path, [str(source)], str(target), RESUMED, into=False))
        return opened[-1]

    yield begin
    for each in opened:
        each.close()


def divide(
    source: Path,
    target: Path,
    wishes: TreeWishes = MOVED,
    journal: Journal | None = None,
    number: int = 1,
) -> Division:
    identity = identity_of(source.stat())
    return Division(str(source), str(target), wishes, None, journal, TOKEN, number, identity, UMASK)


def same(source: Path, target: Path) -> None:
    """Compare two files of huge holes."""
    assert source.stat().st_size == target.stat().st_size
    for path, other in ((source, target), (target, source)):
        with open(path, "rb") as mine, open(other, "rb") as its:
            for begin, end in data_map(path):
                mine.seek(begin)
                its.seek(begin)
                assert mine.read(end - begin) == its.read(end - begin), (begin, end)


def test_only_ranges_with_data_are_tasks(source: Path, target: Path) -> None:
    division = divide(source, target)
    numbers = count(7)
    chunks = division.chunks(lambda: next(numbers))
    assert [(chunk.number, chunk.offset, chunk.length) for chunk in chunks] == [
        (7, 0, CHUNK),
        (8, 2 * CHUNK, CHUNK),
        (9, 3 * CHUNK, CHUNK),
    ]
    assert (division.left, division.had, division.note) == (3, 0, "")
    for chunk in chunks:
        assert chunk.identity == identity_of(source.stat())
        assert (chunk.source, chunk.target) == (str(source), str(target))
        assert chunk.temporary == division.temporary
    assert Path(division.temporary).stat().st_size == SIZE
    assert data_map(Path(division.temporary)) == []
    assert stat.S_IMODE(os.stat(division.temporary).st_mode) == 0o600
    division.discard(keep=False)
    assert os.listdir(target.parent) == []


def test_holes_that_are_to_be_filled_are_tasks_too(source: Path, target: Path) -> None:
    division = divide(source, target, TreeWishes(sparse="never"))
    chunks = division.chunks(count().__next__)
    assert [chunk.offset for chunk in chunks] == [place * CHUNK for place in range(5)]
    assert chunks[-1].length == 77
    division.discard(keep=False)


@pytest.mark.parametrize("size", [0, 1, BIG])
def test_a_file_that_is_one_hole_has_no_tasks(size: int, source: Path, target: Path) -> None:
    source.unlink()
    source.touch()
    os.truncate(source, size)
    division = divide(source, target)
    assert division.chunks(count().__next__) == []
    done = division.commit()
    assert (done.size, target.stat().st_size) == (size, size)


@pytest.mark.parametrize(
    "wishes",
    [MOVED, TreeWishes(), TreeWishes(reflink="never", verify=True), TreeWishes(sync=True)],
    ids=["moved", "shared", "verify", "sync"],
)
def test_all_ranges_together_are_the_file(wishes: TreeWishes, source: Path, target: Path) -> None:
    outcome = carry_whole(batch(source.parent, target.parent, "source", as_name="target"), wishes)
    assert (texts(outcome), outcome.files) == ("", 1)
    # a file that is cloned is told by what it spans
    assert "reflink" in outcome.by_mover or outcome.moved < 3 << 20, "only what is data"
    same(source, target)
    assert data_map(target) == data_map(source)
    assert leftovers(target.parent) == []
    if outcome.done:
        assert outcome.done[0].identity == identity_of(source.stat())
        assert outcome.done[0].target[:4] == identity_of(target.stat())[:4]


def test_two_big_files_with_names_alike_for_long_have_temporaries_of_their_own(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "from", tmp_path / "to"
    names = ["n" * 250 + end for end in "ab"]
    for folder in (source, target):
        folder.mkdir()
    for name in names:
        (source / name).write_text(name[-1] * 1000)
        os.truncate(source / name, BIG)
    divisions = [
        divide(source / name, target / name, number=number) for number, name in enumerate(names)
    ]
    chunks = [chunk for each in divisions for chunk in each.chunks(count().__next__)]
    assert len({chunk.temporary for chunk in chunks}) == 2
    for chunk in reversed(chunks):
        assert texts(carry(chunk, MOVED)) == ""
    for each in divisions:
        each.commit()
    for name in names:
        with open(target / name) as file:
            assert file.read(1000) == name[-1] * 1000


@pytest.mark.parametrize("kind", ["gone", "changed"])
def test_a_source_that_is_not_what_the_worker_saw_is_not_divided(
    kind: str, source: Path, target: Path
) -> None:
    identity = identity_of(source.stat())
    if kind == "gone":
        source.unlink()
    else:
        os.truncate(source, SIZE + 1)
    with pytest.raises((TransferError, SourceChanged), match=f"{source}: "):
        Division(str(source), str(target), MOVED, None, None, TOKEN, 1, identity, UMASK)
    assert os.listdir(target.parent) == []


def test_a_source_that_changes_meanwhile_is_not_put_in_place(source: Path, target: Path) -> None:
    target.write_bytes(b"before")
    division = divide(source, target)
    for chunk in division.chunks(count().__next__):
        assert texts(carry(chunk, MOVED)) == ""
    with open(source, "r+b") as file:
        file.write(b"other")
    with pytest.raises(SourceChanged, match="the source changed while it was read; nothing was"):
        division.commit()
    division.discard(keep=False)
    assert os.listdir(target.parent) == [target.name]
    assert target.read_bytes() == b"before"


@pytest.mark.parametrize("kind", ["folder", "no space"])
def test_a_place_that_cannot_be_had_is_told(
    kind: str, source: Path, target: Path, tiny: Path
) -> None:
    if kind == "folder":
        target = target.parent / "gone/target"
    else:
        target = tiny / "target"
        (tiny / "rest").write_bytes(bytes(1 << 20))
    wishes = TreeWishes(sparse="never")
    try:
        division = divide(source, target, wishes)
    except TransferError as error:
        assert kind == "folder" and f"{target}: open: No such file or directory" in str(error)
        return
    outcome = carry(division.chunks(count().__next__)[0], wishes)
    assert outcome.failed and "No space left on device" in texts(outcome)
    division.discard(keep=False)
    assert os.listdir(tiny) == ["rest"]


# what is there already


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o755])
def test_a_target_that_is_replaced_keeps_mode_and_owner(
    mode: int, source: Path, target: Path
) -> None:
    need_root()
    target.write_bytes(b"before")
    target.chmod(mode)
    os.chown(target, 65_534, 65_533)
    os.setxattr(target, "user.mine", b"kept")
    os.setxattr(source, "user.its", b"not asked for")
    division = divide(source, target)
    for chunk in division.chunks(count().__next__):
        carry(chunk, MOVED)
    division.commit()
    same(source, target)
    found = target.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 65_534, 65_533)
    assert os.listxattr(target) == ["user.mine"]


@pytest.mark.parametrize("existing", [False, True])
def test_attributes_that_are_asked_for_are_those_of_the_source(
    existing: bool, source: Path, target: Path
) -> None:
    need_root()
    if existing:
        target.write_bytes(b"before")
    source.chmod(0o4751)
    os.chown(source, 65_534, 65_533)
    source.chmod(0o4751)
    os.utime(source, ns=(1_000_000_001, 1_000_000_002))
    keeping = TreeWishes(
        reflink="never", preserve=frozenset({"mode", "ownership", "timestamps", "xattr"})
    )
    outcome = carry_whole(batch(source.parent, target.parent, "source", as_name="target"), keeping)
    assert texts(outcome) == ""
    before, after = source.stat(), target.stat()
    for name in ("st_mode", "st_uid", "st_gid", "st_mtime_ns"):
        assert getattr(before, name) == getattr(after, name), name
    same(source, target)


def test_a_new_file_has_the_mode_of_its_source_and_the_umask(source: Path, target: Path) -> None:
    source.chmod(0o666)
    divide(source, target).commit()
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~UMASK


@pytest.mark.parametrize("existing", [False, True])
def test_with_the_owner_alone_the_bits_come_after_it(
    existing: bool, source: Path, target: Path
) -> None:
    """What a bit of the target that was grants is not granted to the new owner."""
    need_root()
    source.chmod(0o666)
    os.chown(source, 65_534, 65_533)
    if existing:
        target.write_bytes(b"before")
        target.chmod(0o4755)
    keeping = TreeWishes(reflink="never", preserve=frozenset({"ownership"}))
    outcome = carry_whole(batch(source.parent, target.parent, "source", as_name="target"), keeping)
    assert texts(outcome) == ""
    found = target.stat()
    assert (found.st_uid, found.st_gid) == (65_534, 65_533)
    assert stat.S_IMODE(found.st_mode) == (0o755 if existing else 0o666 & ~UMASK)


def test_a_target_that_is_not_writable_is_not_replaced(tmp_path: Path) -> None:
    """A rename would walk around that; as with a small file it is refused."""
    tmp_path.chmod(0o777)

    def work() -> None:
        for name in ("from", "to"):
            os.mkdir(name)
        with open("from/file", "wb") as file:
            file.truncate(BIG)
        for size in (BIG, 5):
            os.truncate("from/file", size)
            Path("to/file").write_bytes(b"mine")
            os.chmod("to/file", 0o444)
            outcome = carry_whole(batch(Path("from"), Path("to"), "file"), MOVED)
            assert "to/file: open: Permission denied" in texts(outcome)
            assert Path("to/file").read_bytes() == b"mine"
            assert os.listdir("to") == ["file"]
            os.unlink("to/file")

    as_stranger(tmp_path, work)


def test_a_target_of_somebody_else_stays_his(tmp_path: Path) -> None:
    """It may be written by all: it is written, but does not change hands."""
    tmp_path.chmod(0o777)
    (tmp_path / "to").mkdir()
    (tmp_path / "to").chmod(0o777)
    (tmp_path / "to/file").write_bytes(b"before")
    (tmp_path / "to/file").chmod(0o666)
    owner = (tmp_path / "to/file").stat().st_uid

    def work() -> None:
        os.mkdir("from")
        with open("from/file", "wb") as file:
            file.truncate(BIG)
        outcome = carry_whole(batch(Path("from"), Path("to"), "file"), MOVED)
        assert texts(outcome) == ""
        assert os.stat("to/file").st_size == BIG
        assert os.stat("to/file").st_uid == owner

    as_stranger(tmp_path, work)


# taken up again


def test_what_is_finished_is_not_done_again(
    source: Path, target: Path, journal: Callable[[], Journal]
) -> None:
    first = journal()
    division = divide(source, target, RESUMED, first)
    chunks = division.chunks(count().__next__)
    assert texts(carry(chunks[1], RESUMED)) == ""
    first.range(str(target), chunks[1].offset)
    first.flush()
    # a killed run says nothing any more; its temporary file stays
    temporary = division.temporary
    again = divide(source, target, RESUMED, journal(), number=9)
    assert again.temporary == temporary
    assert (again.had, again.note) == (0, "")
    left = again.chunks(count().__next__)
    assert [chunk.offset for chunk in left] == [chunks[0].offset, chunks[2].offset]
    assert (again.had, again.left) == (CHUNK, 2)
    for chunk in left:
        assert texts(carry(chunk, RESUMED)) == ""
    again.commit()
    same(source, target)
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("change", ["bytes", "time", "another file"])
def test_a_changed_source_starts_again_and_says_so(
    change: str, source: Path, target: Path, journal: Callable[[], Journal]
) -> None:
    first = journal()
    division = divide(source, target, RESUMED, first)
    chunks = division.chunks(count().__next__)
    for chunk in chunks:
        carry(chunk, RESUMED)
        first.range(str(target), chunk.offset)
    first.flush()
    old = source.stat()
    if change == "bytes":
        with open(source, "r+b") as file:
            file.write(b"other")
        os.utime(source, ns=(old.st_atime_ns, old.st_mtime_ns))  # size and mtime tell nothing
    elif change == "time":
        os.utime(source)
    else:
        other = source.with_name("other")
        other.write_bytes(b"")
        os.truncate(other, SIZE)
        os.utime(other, ns=(old.st_atime_ns, old.st_mtime_ns))
        os.rename(other, source)
    again = divide(source, target, RESUMED, journal(), number=9)
    assert again.note == f"{source}: has changed since: the copy starts again"
    assert again.had == 0
    assert data_map(Path(again.temporary)) == []
    for chunk in again.chunks(count().__next__):
        assert texts(carry(chunk, RESUMED)) == ""
    assert again.had == 0
    again.commit()
    same(source, target)
    assert leftovers(target.parent) == []


@pytest.mark.parametrize("kind", ["gone", "another file", "link", "hard link"])
def test_a_temporary_file_that_is_not_the_one_is_not_gone_on_with(
    kind: str, source: Path, target: Path, journal: Callable[[], Journal]
) -> None:
    first = journal()
    division = divide(source, target, RESUMED, first)
    for chunk in division.chunks(count().__next__):
        first.range(str(target), chunk.offset)  # nothing of it is true of what comes there
    first.flush()
    temporary = Path(division.temporary)
    moved, precious = target.parent / "moved", target.parent / "precious"
    precious.write_bytes(b"mine")
    temporary.rename(moved)
    if kind == "another file":
        temporary.write_bytes(b"?")
    elif kind == "link":
        temporary.symlink_to(moved)
    elif kind == "hard link":
        os.link(precious, temporary)
    again = divide(source, target, RESUMED, journal(), number=1)
    for chunk in again.chunks(count().__next__):
        assert texts(carry(chunk, RESUMED)) == ""
    assert again.had == 0
    again.commit()
    assert not target.is_symlink()
    assert precious.stat().st_size == len(b"mine")
    same(source, target)


def test_what_is_to_be_gone_on_with_is_kept(source: Path, target: Path) -> None:
    division = divide(source, target)
    division.discard(keep=True)
    assert os.listdir(target.parent) == [os.path.basename(division.temporary)]
    division.discard(keep=False)
    division.discard(keep=False)
    assert os.listdir(target.parent) == []
