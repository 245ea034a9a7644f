"""What stands where a file is to come, and how a new one takes its place."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.machine import as_stranger, leftovers
from tests.tree import UMASK
from zpipe.errors import TransferError
from zpipe.tree.place import Place, Taken, judge, take_place, temporary_name
from zpipe.tree.wishes import TreeWishes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NANO = 1_700_000_000_123_456_789
LIKE_CP = TreeWishes()
SKIP = TreeWishes(existing="skip")
UPDATE = TreeWishes(update=True)
LINK = TreeWishes(make="link")
SYMLINK = TreeWishes(make="symlink", force=True)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


# names


@given(
    character=st.sampled_from(["a", "\u00e9", "\N{SNOWMAN}", "\U0001f30a"]),
    size=st.integers(1, 255),
    ascii=st.integers(0, 3),
    token=st.text("0123456789abcdef", min_size=1, max_size=16),
    number=st.integers(0, 1 << 24),
)
def test_a_temporary_name_is_never_too_long(
    character: str, size: int, ascii: int, token: str, number: int
) -> None:
    name = ("x" * ascii + character * size).encode()[:255].decode(errors="surrogateescape")
    temporary = temporary_name(name, token, number)
    assert len(os.fsencode(temporary)) <= 255
    assert temporary == temporary_name(name, token, number)
    assert temporary != temporary_name(name, token, number + 1)
    assert temporary != temporary_name(name, token + "0", number)
    assert temporary.startswith(".") and ".zpipe-" in temporary


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "\U0001f30a" * 60, "\N{SNOWMAN}" * 85, os.fsdecode(b"\xff" * 255), "-x", "a\nb"],
    ids=["long", "four bytes", "three bytes", "no utf-8", "dash", "newline"],
)
def test_every_name_that_a_file_may_have_can_be_put_in_place(name: str, tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        place = Place(folder, name, temporary_name(name, "0123456789abcdef", 1 << 20), 0o644)
        os.write(place.fd, b"bytes")
        place.commit()
    assert os.listdir(tmp_path) == [name]


# a new file


def test_nothing_has_the_name_before_it_is_committed(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        place = Place(folder, "name", ".temporary", 0o640)
        os.write(place.fd, b"bytes")
        assert os.listdir(tmp_path) == [".temporary"]
        place.commit()
        assert place.fd == -1
        assert os.listdir(tmp_path) == ["name"]
        place.discard()  # after the commit there is nothing to take away
        assert (tmp_path / "name").read_bytes() == b"bytes"
        mask = os.umask(0)
        os.umask(mask)
        assert stat.S_IMODE((tmp_path / "name").stat().st_mode) == 0o640 & ~mask


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as folder:
        place = Place(folder, "name", ".temporary", 0o640)
        place.discard()
        place.discard()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_a_killed_run_has_left_makes_room(kind: str, tmp_path: Path) -> None:
    """A link that somebody has put there is not written through."""
    (tmp_path / "precious").write_bytes(b"mine")
    if kind == "file":
        (tmp_path / ".temporary").write_bytes(b"longer than what comes")
    else:
        (tmp_path / ".temporary").symlink_to("precious")
    with opened(tmp_path) as folder:
        place = Place(folder, "name", ".temporary", 0o640)
        os.write(place.fd, b"new")
        place.commit()
    assert (tmp_path / "name").read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"mine"
    assert leftovers(tmp_path) == []


# what is there already


def nothing(target: Path, source: Path) -> None:
    return


def file(target: Path, source: Path) -> None:
    target.write_bytes(b"there")
    os.utime(target, ns=(NANO, NANO))


def newer(target: Path, source: Path) -> None:
    target.write_bytes(b"there")
    os.utime(target, ns=(NANO, NANO + 1))


def older(target: Path, source: Path) -> None:
    target.write_bytes(b"there")
    os.utime(target, ns=(NANO, NANO - 1))


def folder(target: Path, source: Path) -> None:
    target.mkdir()


def fifo(target: Path, source: Path) -> None:
    os.mkfifo(target)


def dangling(target: Path, source: Path) -> None:
    target.symlink_to("nowhere")


def circle(target: Path, source: Path) -> None:
    target.symlink_to(target.name)


def to_another(target: Path, source: Path) -> None:
    newer(target.with_name("another"), source)
    target.symlink_to("another")


def to_source(target: Path, source: Path) -> None:
    target.symlink_to(source)


def same(target: Path, source: Path) -> None:
    os.link(source, target)


REPLACED = (False, True)
LEFT = (True, True)
FREE = (False, False)


@pytest.mark.parametrize(
    ("make", "wishes", "expected"),
    [
        (nothing, LIKE_CP, FREE),
        (nothing, SKIP, FREE),
        (nothing, UPDATE, FREE),
        (file, LIKE_CP, REPLACED),
        (file, SKIP, LEFT),
        (file, UPDATE, LEFT),
        (newer, UPDATE, LEFT),
        (older, UPDATE, REPLACED),
        (folder, LIKE_CP, "is a directory: cannot be replaced by SOURCE, which is not"),
        (folder, SKIP, "is a directory: cannot be replaced by SOURCE, which is not"),
        (fifo, LIKE_CP, "is a FIFO"),
        (fifo, SKIP, LEFT),
        (fifo, SYMLINK, REPLACED),
        (dangling, LIKE_CP, "open: is a dangling symbolic link, and is not written through"),
        (dangling, SKIP, LEFT),
        (dangling, SYMLINK, REPLACED),
        (dangling, LINK, REPLACED),
        (circle, LIKE_CP, "symbolic link"),
        (to_another, LIKE_CP, REPLACED),
        (to_another, UPDATE, LEFT),
        (to_source, LIKE_CP, "is the source itself: a file cannot be copied onto itself"),
        (to_source, SKIP, LEFT),
        (same, LIKE_CP, "is the source itself: a file cannot be copied onto itself"),
        (same, UPDATE, "is the source itself: a file cannot be copied onto itself"),
        (same, LINK, LEFT),
        (same, SKIP, LEFT),
    ],
)
def test_what_is_there_is_judged(
    make: Callable[[Path, Path], None],
    wishes: TreeWishes,
    expected: tuple[bool, bool] | str,
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"new")
    os.utime(source, ns=(NANO, NANO))
    make(target, source)
    info = source.stat()
    with opened(tmp_path) as at:
        if isinstance(expected, str):
            with pytest.raises(TransferError, match=expected.replace("SOURCE", str(source))):
                judge(at, "target", str(target), info, str(source), wishes)
            return
        leave, found = judge(at, "target", str(target), info, str(source), wishes)
    assert (leave, found is not None) == expected
    if found is not None:
        assert found.st_ino == target.lstat().st_ino


@pytest.mark.parametrize("make", [file, dangling, to_another, fifo])
def test_a_symbolic_link_replaces_whatever_is_no_directory(
    make: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    (tmp_path / "source").symlink_to("elsewhere")
    make(tmp_path / "target", tmp_path / "source")
    info = (tmp_path / "source").lstat()
    with opened(tmp_path) as at:
        leave, found = judge(at, "target", "target", info, "source", LIKE_CP)
    assert (leave, found is not None) == REPLACED


def test_a_link_does_not_replace_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"the only ones")
    (tmp_path / "source").symlink_to("target")
    info = (tmp_path / "source").lstat()
    source = str(tmp_path / "source")
    with opened(tmp_path) as at, pytest.raises(TransferError, match=f"is what {source} points to"):
        judge(at, "target", "target", info, source, LIKE_CP)


def test_a_link_of_older_time_is_not_updated(tmp_path: Path) -> None:
    """The time of a link is its own where a link is to come, not that of what it leads to."""
    (tmp_path / "source").symlink_to("elsewhere")
    os.utime(tmp_path / "source", ns=(NANO, NANO), follow_symlinks=False)
    older(tmp_path / "another", tmp_path)
    (tmp_path / "target").symlink_to("another")
    os.utime(tmp_path / "target", ns=(NANO, NANO + 1), follow_symlinks=False)
    info = (tmp_path / "source").lstat()
    with opened(tmp_path) as at:
        assert judge(at, "target", "target", info, "source", UPDATE)[0]


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    with opened(tmp_path) as at, pytest.raises(TransferError, match="File name too long") as caught:
        judge(at, "n" * 256, "long", tmp_path.stat(), "source", LIKE_CP)
    assert caught.value.errno == errno.ENAMETOOLONG


# who takes which place


def taken(path: Path, wishes: TreeWishes, mode: int = 0o644) -> Place | Taken:
    """Take the place of a path for a file of that mode, and write `new`."""
    source = path.with_name("source")
    source.touch()
    source.chmod(mode)
    found = path.lstat() if os.path.lexists(path) else None
    with opened(path.parent) as at:
        place = take_place(at, str(path), ".x.zpipe-1", found, source.stat(), wishes)
        os.write(place.fd, b"new")
        shown = path.read_text() if path.exists() else None
        # what --force takes away is gone before
        free = found is None or (wishes.force and wishes.inplace)
        assert shown == ("new" if place.in_place else None if free else "there")
        place.commit()
    return place


def test_a_free_name_is_taken_by_a_rename(tmp_path: Path) -> None:
    assert not taken(tmp_path / "target", LIKE_CP).in_place
    assert (tmp_path / "target").read_bytes() == b"new"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("inplace", [False, True], ids=["renamed", "in place"])
@pytest.mark.parametrize("left", [False, True], ids=["free", "left by another run"])
@pytest.mark.parametrize(
    "preserve", [{"mode"}, {"ownership"}, {"ownership", "timestamps"}, {"mode", "ownership"}]
)
def test_who_keeps_mode_or_owner_lets_nobody_in_before(
    preserve: set[str], left: bool, inplace: bool, tmp_path: Path
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.touch()
    source.chmod(0o666)
    if left:
        (tmp_path / ".x.zpipe-1").write_bytes(b"left")
    wishes = TreeWishes(preserve=frozenset(preserve), inplace=inplace)
    with opened(tmp_path) as at:
        place = take_place(at, str(target), ".x.zpipe-1", None, source.stat(), wishes)
        assert os.path.samestat(
            os.fstat(place.fd), (target if inplace else tmp_path / ".x.zpipe-1").stat()
        )
        mode = stat.S_IMODE(os.fstat(place.fd).st_mode)
        place.discard()
    assert mode & 0o077 == 0
    withheld = None if "mode" in preserve else 0o666 & ~UMASK
    assert place.withheld == withheld


def test_nothing_is_withheld_of_a_target_that_is_replaced(tmp_path: Path) -> None:
    """It keeps its own bits, in place and by a rename."""
    target = tmp_path / "target"
    for inplace in (False, True):
        file(target, tmp_path)
        target.chmod(0o604)
        place = taken(target, TreeWishes(preserve=frozenset({"ownership"}), inplace=inplace), 0o666)
        assert (place.withheld, stat.S_IMODE(target.stat().st_mode)) == (None, 0o604)


@pytest.mark.parametrize(
    ("make", "wishes", "in_place"),
    [
        (file, LIKE_CP, False),
        (file, TreeWishes(inplace=True), True),
        (to_another, LIKE_CP, False),
        (nothing, TreeWishes(inplace=True), True),
    ],
)
def test_a_target_is_replaced_or_written_in_place(
    make: Callable[[Path, Path], None], wishes: TreeWishes, in_place: bool, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    make(target, tmp_path)
    mode = 0o604
    if target.exists():
        target.chmod(mode)
    inode = target.stat().st_ino if target.exists() else None
    assert taken(target, wishes).in_place == in_place
    assert target.read_bytes() == b"new"
    assert target.is_symlink() == (make is to_another)
    if inode is not None:
        assert (target.stat().st_ino == inode) == in_place
        assert stat.S_IMODE(target.stat().st_mode) == mode
    assert leftovers(tmp_path) == []


def test_other_names_of_a_target_stay_names_of_it(tmp_path: Path) -> None:
    file(tmp_path / "target", tmp_path)
    os.link(tmp_path / "target", tmp_path / "another")
    assert taken(tmp_path / "target", LIKE_CP).in_place
    assert (tmp_path / "another").read_bytes() == b"new"


@pytest.mark.parametrize("inplace", [False, True])
def test_only_by_force_a_target_that_is_not_writable_gives_way(
    inplace: bool, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)

    def work() -> None:
        target = Path("target")
        target.write_bytes(b"there")
        target.chmod(0o444)
        with pytest.raises(TransferError, match="Permission denied"):
            taken(target, TreeWishes(inplace=inplace))
        assert target.read_bytes() == b"there"
        taken(target, TreeWishes(inplace=inplace, force=True))
        assert target.read_bytes() == b"new"
        assert leftovers(Path()) == []

    as_stranger(tmp_path, work)
