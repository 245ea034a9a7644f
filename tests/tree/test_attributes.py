"""Mode, owner, times and extended attributes from one file to another."""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import as_stranger, mounted, need_root
from tests.tree import TOKEN, UMASK, carry, texts
from zpipe.errors import TransferError
from zpipe.tree.attributes import keep
from zpipe.tree.tasks import Batch
from zpipe.tree.wishes import ATTRIBUTES, TreeWishes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ALL = frozenset(ATTRIBUTES) - {"links"}
NANO = (1_700_000_000_123_456_789, 1_600_000_000_987_654_321)
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


def acl(*entries: tuple[int, int, int]) -> bytes:
    """Return an ACL as the kernel takes it: tag, permissions and id of each entry."""
    return struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, number & 0xFFFFFFFF) for tag, bits, number in entries
    )


# user::rw-, user:4711:rwx, group::r--, mask::rwx, other::---
RICH = acl((1, 6, -1), (2, 7, 4711), (4, 4, -1), (16, 7, -1), (32, 0, -1))


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"bytes")
    target.write_bytes(b"bytes")
    source.chmod(0o640)
    target.chmod(0o600)
    os.utime(source, ns=NANO)
    yield source, target


def give(source: Path, target: Path, preserve: Iterable[str], demanded: Iterable[str] = ()) -> None:
    """Keep the attributes of a file or directory, by fds as a copy has them."""
    with ExitStack() as stack:
        fds = []
        for path in (source, target):
            fds.append(os.open(path, os.O_RDONLY))
            stack.callback(os.close, fds[-1])
        wishes = TreeWishes(preserve=frozenset(preserve), demanded=frozenset(demanded))
        keep(fds[0], source.stat(), fds[1], str(target), wishes)


def state(path: Path) -> dict[str, object]:
    """Return what may be kept, each under its name."""
    info = path.lstat()
    return {
        "mode": stat.S_IMODE(info.st_mode),
        "ownership": (info.st_uid, info.st_gid),
        "timestamps": info.st_mtime_ns,
        "xattr": {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if name.startswith("user.")
        },
    }


@pytest.mark.parametrize(
    "preserve",
    [
        (),
        ("mode",),
        ("ownership",),
        ("timestamps",),
        ("xattr",),
        ("mode", "ownership", "timestamps"),
        tuple(ALL),
    ],
    ids=lambda names: "+".join(sorted(names)),
)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "directory"])
def test_what_is_named_is_kept_and_nothing_else(
    folder: bool, preserve: tuple[str, ...], ends: tuple[Path, Path]
) -> None:
    need_root()
    source, target = ends
    if folder:
        for path in ends:
            path.unlink()
            path.mkdir(mode=0o700)
    source.chmod(0o751)
    os.chown(source, 4711, 4712)
    os.setxattr(source, "user.some", b"\0value\xff")
    os.setxattr(source, "user.empty", b"")
    os.utime(source, ns=NANO)
    before, wanted = state(target), state(source)
    assert all(before[name] != wanted[name] for name in before)
    give(source, target, preserve, preserve)
    assert state(target) == {
        name: (wanted if name in preserve else before)[name] for name in before
    }
    assert state(source) == wanted


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644, 0o000, 0o777])
def test_every_mode_survives_the_change_of_the_owner(mode: int, ends: tuple[Path, Path]) -> None:
    """A chown takes set-user-ID away: the mode must come after it."""
    need_root()
    source, target = ends
    os.chown(source, 4711, 4712)
    source.chmod(mode)
    give(source, target, ALL)
    assert stat.S_IMODE(target.stat().st_mode) == mode


@pytest.mark.parametrize("nano", [0, 1, NANO[1], -1, (1 << 33) * 10**9 + 999_999_999])
def test_times_are_kept_to_the_nanosecond(nano: int, ends: tuple[Path, Path]) -> None:
    source, target = ends
    os.setxattr(source, "user.late", b"is set before the times are")
    os.utime(source, ns=(NANO[0], nano))
    give(source, target, ALL)
    assert (target.stat().st_atime_ns, target.stat().st_mtime_ns) == (
        source.stat().st_atime_ns,
        source.stat().st_mtime_ns,
    )
    assert target.stat().st_mtime_ns == nano


def test_a_link_has_attributes_of_its_own(ends: tuple[Path, Path]) -> None:
    need_root()
    source, target = (path.with_name(f"link to {path.name}") for path in ends)
    for link, path in ((source, ends[0]), (target, ends[1])):
        link.symlink_to(path)
    os.lchown(source, 4711, 4712)
    os.utime(source, ns=(5, 7), follow_symlinks=False)
    os.setxattr(source, "trusted.some", b"of the link", follow_symlinks=False)
    before = state(ends[1])
    fd = os.open(target, os.O_PATH | os.O_NOFOLLOW)
    try:
        wishes = TreeWishes(preserve=ALL)
        keep(str(source), source.lstat(), f"/proc/self/fd/{fd}", "target", wishes, bits=False)
    finally:
        os.close(fd)
    assert state(target)["ownership"] == (4711, 4712)
    assert target.lstat().st_mtime_ns == 7
    assert os.getxattr(target, "trusted.some", follow_symlinks=False) == b"of the link"
    assert state(ends[1]) == before, "what it leads to was touched"


# ACLs, which are part of the mode


def test_an_acl_is_kept_with_the_mode_and_not_with_other_attributes(
    ends: tuple[Path, Path],
) -> None:
    source, target = ends
    os.setxattr(source, ACCESS, RICH)
    give(source, target, {"xattr", "timestamps", "ownership"})
    assert ACCESS not in os.listxattr(target)
    give(source, target, {"mode"}, {"mode"})
    assert os.getxattr(target, ACCESS) == os.getxattr(source, ACCESS)
    assert target.stat().st_mode == source.stat().st_mode


def test_a_default_acl_is_kept_and_an_inherited_one_is_not(tmp_path: Path) -> None:
    source, above = tmp_path / "source", tmp_path / "above"
    for folder in (source, above):
        folder.mkdir()
    os.setxattr(above, DEFAULT, RICH)
    inherits, rich = above / "inherits", above / "rich"
    for folder in (inherits, rich):
        folder.mkdir()
    assert set(os.listxattr(inherits)) >= {ACCESS, DEFAULT}
    source.chmod(0o750)
    give(source, inherits, {"mode"})
    assert not {ACCESS, DEFAULT} & set(os.listxattr(inherits))
    assert stat.S_IMODE(inherits.stat().st_mode) == 0o750
    os.setxattr(source, DEFAULT, acl((1, 7, -1), (4, 5, -1), (32, 5, -1)))
    give(source, rich, {"mode"})
    assert os.getxattr(rich, DEFAULT) == os.getxattr(source, DEFAULT)
    assert ACCESS not in os.listxattr(rich)


# what cannot be kept


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Path]:
    """An ext4, which has room for 4 KiB of extended attributes of a file."""
    with mounted("ext4", tmp_path / "narrow", 16 << 20) as place:
        yield place


def test_an_attribute_that_does_not_fit_fails_only_who_demands_it(
    narrow: Path, sharing: Path
) -> None:
    """And it keeps nothing else from being kept."""
    source, target = sharing / "attributes", narrow / "target"
    source.touch()
    os.setxattr(source, "user.large", bytes(10_000))
    os.setxattr(source, "user.small", b"fits")
    source.chmod(0o640)
    for demanded in ((), ("xattr",)):
        os.utime(source, ns=NANO)
        target.touch()
        target.chmod(0o600)
        if demanded:
            with pytest.raises(TransferError, match=r"setxattr user\.large: ") as caught:
                give(source, target, ALL, demanded)
            assert caught.value.errno == errno.ENOSPC
            assert str(target) in str(caught.value)
        else:
            give(source, target, ALL)
        assert os.getxattr(target, "user.small") == b"fits"
        assert stat.S_IMODE(target.stat().st_mode) == 0o640
        assert target.stat().st_mtime_ns == NANO[1]
        target.unlink()
    source.unlink()


@pytest.mark.parametrize("demanded", [(), tuple(ALL)], ids=["wished", "demanded"])
def test_who_cannot_give_files_away_keeps_them_without_set_user_id(
    demanded: tuple[str, ...], tmp_path: Path
) -> None:
    """With another owner it would grant what was never granted. Nobody calls that an error."""
    tmp_path.chmod(0o777)
    (tmp_path / "source").write_bytes(b"#!")
    (tmp_path / "source").chmod(0o6755)

    def work() -> None:
        source, target = Path("source"), Path("target")
        target.touch()
        give(source, target, {"mode", "ownership", "timestamps"}, demanded)
        assert stat.S_IMODE(target.stat().st_mode) == 0o755
        assert target.stat().st_uid == os.geteuid()
        assert target.stat().st_mtime_ns == source.stat().st_mtime_ns

    as_stranger(tmp_path, work)


@pytest.mark.parametrize("kind", ["mode", "timestamps"])
def test_a_file_of_somebody_else_takes_no_attributes(kind: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "target").touch()
    (tmp_path / "target").chmod(0o666)
    before = state(tmp_path / "target")

    def work() -> None:
        source, target = Path("source"), Path("target")
        source.touch()
        os.utime(source, ns=NANO)
        give(source, target, {kind})
        with pytest.raises(TransferError, match=r"target: .*: Operation not permitted"):
            give(source, target, {kind}, {kind})

    as_stranger(tmp_path, work)
    assert state(tmp_path / "target") == before


# what is withheld until a file has its owner


@pytest.mark.parametrize("inherits", [False, True], ids=["umask", "default ACL"])
@pytest.mark.parametrize("kind", ["file", "fifo"])
@pytest.mark.parametrize("group", [None, 65_533], ids=["ours", "another"])
def test_with_the_owner_alone_a_file_has_the_mode_that_it_has_without(
    group: int | None, kind: str, inherits: bool, tmp_path: Path
) -> None:
    """The bits that are for others come after the owner, and are the same as ever."""
    source, plain, owned = (tmp_path / name for name in ("source", "plain", "owned"))
    for folder in (source, plain, owned):
        folder.mkdir()
    path = source / "name"
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.write_bytes(b"bytes")
    path.chmod(0o666)
    if group is not None:
        need_root()
        os.chown(path, -1, group)
    if inherits:
        for folder in (plain, owned):
            os.setxattr(folder, DEFAULT, RICH)
    files, others = ((), ("name",)) if kind == "fifo" else (("name",), ())
    for folder, preserve in ((plain, ()), (owned, ("ownership",))):
        task = Batch(1, str(source), str(folder), files, others, token=TOKEN)
        outcome = carry(task, TreeWishes(preserve=frozenset(preserve)))
        assert texts(outcome) == ""
        assert os.listdir(folder) == ["name"]
    was, now = (plain / "name").stat(), (owned / "name").stat()
    assert stat.S_IMODE(now.st_mode) == stat.S_IMODE(was.st_mode)
    assert (now.st_mode & 0o077 != 0) or UMASK & 0o077 == 0o077
    assert now.st_gid == path.stat().st_gid
    acls = [os.getxattr(each / "name", ACCESS) if inherits else b"" for each in (plain, owned)]
    assert acls[0] == acls[1]
