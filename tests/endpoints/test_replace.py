"""A complete file in the place of a name: what it keeps, and when a target is written in place."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.machine import as_stranger, leftovers, need_root
from zpipe.endpoints.replace import Replacement
from zpipe.errors import TransferError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


@contextmanager
def replacing(path: Path | str, **asked: Any) -> Iterator[Replacement]:
    """Open a replacement, ready to be written; discarded at the end."""
    replacement = Replacement(str(path), **asked)
    try:
        replacement.prepare()
        yield replacement
    finally:
        replacement.discard()


def put(path: Path | str, data: bytes = b"new", **asked: Any) -> str | None:
    """Replace a target; return why it was written in place, or None."""
    with replacing(path, **asked) as replacement:
        os.write(replacement.fd, data)
        replacement.commit()
        return replacement.reason


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").write_bytes(b"old content")
    return tmp_path / "target"


def test_a_new_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with replacing(path, mode=0o640) as replacement:
        os.write(replacement.fd, b"data")
        assert not path.exists()
        assert len(leftovers(tmp_path)) == 1
        replacement.commit()
    assert path.read_bytes() == b"data"
    assert os.listdir(tmp_path) == ["new"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0])
def test_a_new_file_has_the_mode_asked_for_less_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        put(tmp_path / "new", mode=0o775)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o775 & ~umask


def test_a_target_is_another_file_afterwards_and_readers_of_the_old_one_are_spared(
    target: Path,
) -> None:
    before = target.stat().st_ino
    with target.open("rb") as reader:
        assert put(target) is None
        assert reader.read() == b"old content"
    assert target.stat().st_ino != before
    assert target.read_bytes() == b"new"


def test_what_is_discarded_leaves_everything_as_it_was(target: Path) -> None:
    with replacing(target) as replacement:
        os.write(replacement.fd, b"half")
        replacement.discard()
        replacement.discard()
        assert replacement.fd == -1
    assert target.read_bytes() == b"old content"
    assert not leftovers(target.parent)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o4755, 0o1777, 0o200])
def test_a_target_keeps_its_mode(mode: int, target: Path) -> None:
    target.chmod(mode)
    assert put(target, mode=0o666) is None
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_target_keeps_its_owner(target: Path) -> None:
    need_root()
    os.chown(target, 1234, 4321)
    target.chmod(0o4755)  # a change of owner takes such bits away, so it has to come first
    assert put(target) is None
    info = target.stat()
    assert (info.st_uid, info.st_gid) == (1234, 4321)
    assert stat.S_IMODE(info.st_mode) == 0o4755


def test_a_target_keeps_its_extended_attributes(target: Path) -> None:
    try:
        os.setxattr(target, "user.colour", b"red")
        os.setxattr(target, "user.empty", b"")
    except OSError:
        pytest.skip("no extended attributes here")
    assert put(target) is None
    assert os.getxattr(target, "user.colour") == b"red"
    assert sorted(name for name in os.listxattr(target) if name.startswith("user.")) == [
        "user.colour",
        "user.empty",
    ]


def test_a_target_keeps_its_access_control_list(target: Path) -> None:
    need_root()
    # version 2; user::rw-, user 1234:r--, group::---, mask::r--, other::---
    entries = [(1, 6, -1), (2, 4, 1234), (4, 0, -1), (16, 4, -1), (32, 0, -1)]
    packed = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little")
        + bits.to_bytes(2, "little")
        + (who & 0xFFFFFFFF).to_bytes(4, "little")
        for tag, bits, who in entries
    )
    try:
        os.setxattr(target, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("no access control lists here")
    mode = target.stat().st_mode
    assert put(target) is None
    assert os.getxattr(target, "system.posix_acl_access") == packed
    assert target.stat().st_mode == mode


def test_a_link_stays_and_what_it_leads_to_is_replaced(target: Path) -> None:
    folder = target.parent / "folder"
    folder.mkdir()
    (folder / "first").symlink_to("../second")
    (target.parent / "second").symlink_to(target)
    assert put(folder / "first") is None
    assert (folder / "first").is_symlink()
    assert (target.parent / "second").is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(folder) == ["first"]


def test_a_link_to_nothing_makes_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("made")
    assert put(tmp_path / "link") is None
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "made").read_bytes() == b"new"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(TransferError, match="a: open: Too many levels of symbolic links"):
        Replacement(f"{tmp_path}/a")


def test_an_open_file_by_its_fd_is_written_and_not_the_name_that_it_had(target: Path) -> None:
    """/dev/stdout leads through /proc to an open file: its name may be somebody else's by now."""
    fd = os.open(target, os.O_RDWR)
    moved = target.rename(target.with_name("moved"))
    target.write_bytes(b"another file")
    try:
        assert put(f"/proc/self/fd/{fd}") == "it is an open file of a process"
    finally:
        os.close(fd)
    assert moved.read_bytes() == b"new"
    assert target.read_bytes() == b"another file"


def test_a_target_of_several_links_is_written_in_place(target: Path) -> None:
    second = target.with_name("second")
    os.link(target, second)
    before = target.stat().st_ino
    assert put(target) == "it has 2 links"
    assert target.stat().st_ino == before
    assert second.read_bytes() == b"new"


def test_a_target_is_written_in_place_where_that_is_asked(target: Path) -> None:
    before = target.stat().st_ino
    assert put(target, inplace=True) == "--inplace"
    assert target.stat().st_ino == before
    assert target.read_bytes() == b"new"
    assert put(target.with_name("none"), inplace=True) == "--inplace"
    assert target.with_name("none").read_bytes() == b"new"


def test_a_target_in_place_is_cut_when_it_is_sure_that_bytes_will_come(target: Path) -> None:
    replacement = Replacement(str(target), inplace=True)
    try:
        assert target.read_bytes() == b"old content"
        replacement.prepare()
        assert target.read_bytes() == b""
    finally:
        replacement.discard()


def test_in_a_directory_that_is_not_writable_a_target_is_written_in_place(target: Path) -> None:
    target.chmod(0o666)
    target.parent.chmod(0o755)

    def check() -> None:
        assert put("target") == "its directory takes no new files"
        with pytest.raises(TransferError, match="new: open: Permission denied"):
            Replacement("new")

    as_stranger(target.parent, check)
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == ["target"]


def test_a_target_whose_owner_cannot_be_kept_is_written_in_place(target: Path) -> None:
    target.chmod(0o666)
    target.parent.chmod(0o777)

    def check() -> None:
        assert put("target") == "its owner or attributes could not be kept"

    as_stranger(target.parent, check)
    assert target.read_bytes() == b"new"
    assert target.stat().st_uid == 0
    assert os.listdir(target.parent) == ["target"]


def test_a_target_that_must_not_be_written_is_refused_and_not_replaced(tmp_path: Path) -> None:
    """A rename would walk around the missing permission, for the directory is ours."""
    tmp_path.chmod(0o777)

    def check() -> None:
        with open("target", "wb") as file:
            file.write(b"old content")
        os.chmod("target", 0o444)
        for inplace in (False, True):
            with pytest.raises(TransferError, match="target: open: Permission denied"):
                Replacement("target", inplace=inplace)

    as_stranger(tmp_path, check)
    assert (tmp_path / "target").read_bytes() == b"old content"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("inplace", [False, True])
def test_the_source_itself_is_refused_before_anything_happens(inplace: bool, target: Path) -> None:
    info = target.stat()
    with pytest.raises(UsageError, match="is the source itself"):
        Replacement(str(target), inplace=inplace, refuse=(info.st_dev, info.st_ino))
    assert target.read_bytes() == b"old content"
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("", errno.EISDIR),
        ("folder", errno.EISDIR),
        ("target/below", errno.ENOTDIR),
        ("missing/new", errno.ENOENT),
        ("new/", errno.ENOTDIR),
        ("x" * 256, errno.ENAMETOOLONG),
    ],
)
def test_what_cannot_be_a_target_is_an_error(name: str, number: int, target: Path) -> None:
    (target.parent / "folder").mkdir()
    with pytest.raises(TransferError) as caught:
        Replacement(f"{target.parent}/{name}")
    assert caught.value.errno == number
    assert str(caught.value) == f"{target.parent}/{name}: open: {os.strerror(number)}"
    assert sorted(os.listdir(target.parent)) == ["folder", "target"]


@given(
    st.text(
        st.characters(codec="utf-8", exclude_characters="/\0"),
        min_size=1,
        max_size=255,
    )
)
@example("x" * 255)
@example("é" * 127 + "x")
@example("x" + "é" * 127)
def test_any_name_that_a_file_can_have_can_be_replaced(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    """The temporary name is cut by bytes, and may cut a letter in two: it must still be a name."""
    folder = tmp_path_factory.getbasetemp() / "names"
    folder.mkdir(exist_ok=True)
    encoded = os.fsencode(name)[:255]
    if encoded in (b".", b".."):
        return
    path = os.path.join(folder, os.fsdecode(encoded))
    for data in (b"first", b"second"):
        put(path, data)
        with open(path, "rb") as file:
            assert file.read() == data
    os.unlink(path)
    assert os.listdir(folder) == []


def test_the_temporary_name_is_never_followed_or_shared(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O_EXCL: somebody who guessed the name and planted a link gains nothing."""
    victim = target.with_name("victim")
    victim.write_bytes(b"precious")
    monkeypatch.setattr(os, "urandom", bytes)
    with replacing(target):
        (planted,) = leftovers(target.parent)
    (target.parent / planted).symlink_to(victim)
    with pytest.raises(TransferError, match="target: open: File exists"):
        Replacement(str(target))
    assert victim.read_bytes() == b"precious"
    assert target.read_bytes() == b"old content"
    assert (target.parent / planted).is_symlink()


def test_a_name_that_was_taken_by_a_directory_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with replacing(path) as replacement:
        path.mkdir()
        with pytest.raises(TransferError, match=r"new: rename: (Is a directory|File exists)"):
            replacement.commit()
        assert replacement.fd == -1
    assert os.listdir(tmp_path) == ["new"]


def test_a_full_filesystem_leaves_nothing(tiny: Path) -> None:
    (tiny / "target").write_bytes(b"old content")
    with replacing(tiny / "target") as replacement:
        with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}]"):
            while True:
                os.write(replacement.fd, bytes(1 << 16))
        replacement.discard()
    assert (tiny / "target").read_bytes() == b"old content"
    assert os.listdir(tiny) == ["target"]
