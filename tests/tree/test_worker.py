"""Tasks carried over real files: once, twice, after a kill, and where something is wrong."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine import as_stranger, content, leftovers, need_root
from tests.tree import TOKEN, batch, carry, texts
from zpipe.engine.limiter import Limiter
from zpipe.engine.stop import Stop
from zpipe.errors import Interrupted
from zpipe.tree import verifying
from zpipe.tree.place import temporary_name
from zpipe.tree.regular import SMALL
from zpipe.tree.tasks import Chunk, identity_of
from zpipe.tree.wishes import BIG, TreeWishes
from zpipe.tree.worker import Worker
from zpipe.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

SIZES = {
    "empty": 0,
    "one": 1,
    "small": SMALL,
    "larger": SMALL + 1,
    "odd": (1 << 20) + 1,
    "new\nline": 4096,
    "-dash": 4097,
    os.fsdecode(b"not \xff utf-8"): 5,
    "n" * 255: 6,
    "\N{SNOWMAN}" * 85: 7,
}
WISHES = {
    "plain": TreeWishes(),
    "verify": TreeWishes(verify=True),
    "digest": TreeWishes(digest="sha256"),
    "both": TreeWishes(verify=True, digest="sha256", sparse="always"),
    "sync": TreeWishes(sync=True),
    "in place": TreeWishes(inplace=True),
    "in place, verified": TreeWishes(inplace=True, verify=True),
    "zeros": TreeWishes(sparse="always"),
    "filled": TreeWishes(sparse="never"),
    "unshared": TreeWishes(reflink="never"),
    "preserved": TreeWishes(preserve=frozenset({"mode", "ownership", "timestamps", "xattr"})),
    "by plain": TreeWishes(via="plain"),
    "by few": TreeWishes(without=frozenset({"splice", "sendfile", "reflink"})),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A directory of files of all sizes, with names of all kinds."""
    folder = tmp_path / "source"
    folder.mkdir()
    for seed, (name, size) in enumerate(SIZES.items()):
        (folder / name).write_bytes(content(size, seed))
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def same(source: Path, target: Path) -> None:
    """Compare two flat directories."""
    assert sorted(os.listdir(source)) == sorted(os.listdir(target))
    for name in os.listdir(source):
        assert (source / name).read_bytes() == (target / name).read_bytes(), name


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "asking"])
@pytest.mark.parametrize("wishes", WISHES.values(), ids=WISHES)
def test_a_batch_done_twice_gives_the_same(
    wishes: TreeWishes, fresh: bool, source: Path, target: Path
) -> None:
    task = batch(source, target, *SIZES, fresh=fresh)
    for _ in range(2):
        outcome = carry(task, wishes)
        assert texts(outcome) == ""
        assert (outcome.number, outcome.files, outcome.skipped) == (1, len(SIZES), 0)
        # a clone of a file is told by what it spans; holes are none here
        assert outcome.moved == sum(outcome.by_mover.values()) == sum(SIZES.values())
        same(source, target)
        if wishes.digest is not None:
            assert {done.digest for done in outcome.done} == {
                hashlib.sha256((source / name).read_bytes()).hexdigest() for name in SIZES
            }


@pytest.mark.parametrize(
    "wishes", [TreeWishes(), TreeWishes(digest="sha256")], ids=["moved", "read"]
)
def test_a_rate_limit_changes_no_bytes(wishes: TreeWishes, source: Path, target: Path) -> None:
    limiter = Limiter(1 << 30)
    outcome = carry(batch(source, target, *SIZES), wishes, limiter=limiter)
    assert (texts(outcome), outcome.files) == ("", len(SIZES))
    assert "reflink" not in outcome.by_mover
    same(source, target)


@pytest.mark.parametrize("name", ["plain", "verify", "preserved"])
def test_what_a_killed_run_has_left_is_taken_over(name: str, source: Path, target: Path) -> None:
    (source / "link").symlink_to("nowhere")
    for number in range(1, len(SIZES) + 2):
        for file in (*SIZES, "link"):
            (target / temporary_name(file, TOKEN, number)).write_bytes(b"half")
        if number > 1:
            # each entry has a number of its own: only that one is its temporary
            for file in os.listdir(target):
                order = (*SIZES, "link")
                if not any(temporary_name(e, TOKEN, i + 1) == file for i, e in enumerate(order)):
                    (target / file).unlink()
    assert len(leftovers(target)) == len(SIZES) + 1
    outcome = carry(batch(source, target, *SIZES, others=("link",)), WISHES[name])
    assert texts(outcome) == ""
    assert os.readlink(target / "link") == "nowhere"
    assert leftovers(target) == []


def test_other_entries_are_made_as_they_are(source: Path, target: Path) -> None:
    need_root()
    others = ("fifo", "device", "socket", "dangling", "link")
    os.mkfifo(source / "fifo", 0o640)
    os.mknod(source / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(source / "socket"))
    os.symlink(b"no\nwhere \xff", os.fsencode(source / "dangling"))
    (source / "link").symlink_to("one")
    keeping = TreeWishes(preserve=frozenset({"mode", "ownership", "timestamps"}))
    for _ in range(2):
        outcome = carry(batch(source, target, others=others), keeping)
        assert (texts(outcome), outcome.files) == ("", len(others))
        for name in others:
            before, after = (source / name).lstat(), (target / name).lstat()
            for field in ("st_mode", "st_rdev", "st_mtime_ns", "st_uid", "st_gid"):
                assert getattr(before, field) == getattr(after, field), (name, field)
        assert os.readlink(os.fsencode(target / "dangling")) == b"no\nwhere \xff"
        assert leftovers(target) == []


def test_links_that_are_followed_become_what_they_lead_to(source: Path, target: Path) -> None:
    (source / "link").symlink_to("odd")
    outcome = carry(batch(source, target, others=("link",), follow=True))
    assert texts(outcome) == ""
    assert not (target / "link").is_symlink()
    assert (target / "link").read_bytes() == (source / "odd").read_bytes()


@pytest.mark.parametrize("make", ["link", "symlink"])
def test_links_instead_of_copies(make: str, source: Path, target: Path) -> None:
    wishes = TreeWishes(make=make, names=True)
    task = batch(source, target, "one", "odd", number=7)
    outcome = carry(task, wishes)
    assert (texts(outcome), outcome.files, outcome.moved) == ("", 2, 0)
    for name in ("one", "odd"):
        assert (target / name).samefile(source / name)
        assert (target / name).is_symlink() == (make == "symlink")
    assert leftovers(target) == []


def test_a_link_replaces_a_target_only_by_force(source: Path, target: Path) -> None:
    (target / "one").write_bytes(b"mine")
    for make in ("link", "symlink"):
        refused = carry(batch(source, target, "one"), TreeWishes(make=make))
        assert "File exists" in texts(refused)
        assert (target / "one").read_bytes() == b"mine"
    for make in ("link", "symlink"):
        outcome = carry(batch(source, target, "one"), TreeWishes(make=make, force=True))
        assert texts(outcome) == ""
        assert (target / "one").samefile(source / "one")
        assert leftovers(target) == []


def vanish(path: Path) -> None:
    path.unlink()


def become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("odd")


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("others", [False, True], ids=["file", "other"])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (vanish, "No such file or directory"),
        (become_a_fifo, "is no regular file any more"),
        (become_a_link, "Too many levels of symbolic links"),
        (become_a_directory, "is no regular file any more"),
    ],
)
def test_an_entry_that_has_changed_loses_nothing_else(
    change: Callable[[Path], None], told: str, others: bool, source: Path, target: Path
) -> None:
    change(source / "small")
    if others and change is become_a_directory:
        told = "has become a directory meanwhile"
    elif others and change is not vanish:
        told = ""  # it is made as what it is now
    rest = tuple(name for name in SIZES if name != "small")
    names = (*rest[:3], "small", *rest[3:])
    outcome = carry(
        batch(source, target, *names) if not others else batch(source, target, *rest, others=names)
    )
    assert told in texts(outcome)
    assert [problem.path for problem in outcome.problems] == [str(source / "small")] * bool(told)
    for name in rest:
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert leftovers(target) == []
    assert (target / "small").is_symlink() == (change is become_a_link and others)
    assert (target / "small").is_fifo() == (change is become_a_fifo and others)
    assert os.path.lexists(target / "small") == (not told)


@pytest.mark.parametrize("gone", ["source", "target"])
def test_a_directory_that_is_gone_loses_all_of_its_files(
    gone: str, source: Path, target: Path
) -> None:
    task = batch(source, target, *SIZES, others=("link",))
    os.rename(source if gone == "source" else target, source.parent / "elsewhere")
    outcome = carry(task)
    assert outcome.files == 0
    assert {problem.path for problem in outcome.problems} == {
        f"{source}/{name}" for name in (*SIZES, "link")
    }
    folder = source if gone == "source" else target
    assert all(f"{folder}: open: No such file" in each.text for each in outcome.problems)


def test_a_source_that_grows_meanwhile_is_not_put_in_place(source: Path, target: Path) -> None:
    name = "odd"

    def grow(count: int) -> None:
        with open(source / name, "ab") as file:
            file.write(b"more")

    (target / name).write_bytes(b"before")
    wishes = TreeWishes(digest="sha256")
    outcome = carry(batch(source, target, name, "one"), wishes, moving=grow)
    assert "the source changed while it was read (size 1048577 -> " in texts(outcome)
    assert outcome.files == 1
    assert (target / name).read_bytes() == b"before"
    assert leftovers(target) == []


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "asking"])
def test_a_source_that_shrinks_meanwhile_is_not_put_in_place(
    fresh: bool, source: Path, target: Path
) -> None:
    def shrink(count: int) -> None:
        os.truncate(source / "odd", 100)

    wishes = TreeWishes(verify=True)
    outcome = carry(batch(source, target, "odd", fresh=fresh), wishes, moving=shrink)
    assert "odd: read: the source ended at byte 524288" in texts(outcome)
    assert os.listdir(target) == []


# what says that it is empty, and is not


@pytest.mark.parametrize(
    ("wishes", "limit"),
    [
        (TreeWishes(), None),
        (TreeWishes(verify=True), None),
        (TreeWishes(digest="sha256"), None),
        (TreeWishes(), 1 << 30),
        (TreeWishes(without=frozenset({"plain"})), None),
        (TreeWishes(sparse="always"), None),
        (TreeWishes(verify=True, digest="sha256", sync=True), 1 << 30),
    ],
    ids=["plain", "verify", "digest", "rate", "not plain", "zeros", "all"],
)
def test_a_file_that_says_it_is_empty_is_read_to_its_end(
    wishes: TreeWishes, limit: int | None, target: Path
) -> None:
    """Those of /proc do."""
    there = Path("/proc/version")
    assert there.stat().st_size == 0
    limiter = Limiter(limit) if limit is not None else None
    outcome = carry(batch(there.parent, target, there.name), wishes, limiter=limiter)
    assert texts(outcome) == ""
    assert (target / "version").read_bytes() == there.read_bytes()
    if wishes.digest is not None:
        assert outcome.done[0].digest == hashlib.sha256(there.read_bytes()).hexdigest()


def test_a_file_that_says_more_than_it_has_is_read_to_its_end(target: Path) -> None:
    """Those of /sys say 4096."""
    there = Path("/sys/kernel/uevent_seqnum")
    assert there.stat().st_size > len(there.read_bytes())
    outcome = carry(batch(there.parent, target, there.name))
    assert texts(outcome) == ""
    assert (target / there.name).read_bytes() == there.read_bytes()


def test_a_mode_that_shuts_its_owner_out_can_be_kept_and_verified(tmp_path: Path) -> None:
    """Others may read the source; the copy's owner may not read the copy."""
    tmp_path.chmod(0o777)
    for folder in ("from", "to"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder).chmod(0o777)
    for name, size in (("file", 100), ("large", 2 << 20)):
        (tmp_path / "from" / name).write_bytes(content(size))
        (tmp_path / "from" / name).chmod(0o044)

    def work() -> None:
        keeping = TreeWishes(verify=True, preserve=frozenset({"mode", "ownership", "timestamps"}))
        outcome = carry(batch(Path("from"), Path("to"), "file", "large"), keeping)
        assert (texts(outcome), outcome.files) == ("", 2)

    as_stranger(tmp_path, work)
    for name in ("file", "large"):
        assert stat.S_IMODE((tmp_path / "to" / name).stat().st_mode) == 0o044
        assert (tmp_path / "to" / name).read_bytes() == (tmp_path / "from" / name).read_bytes()


# what is there already


def test_who_is_asked_and_says_no_keeps_the_target(source: Path, target: Path) -> None:
    (target / "one").write_bytes(b"mine")
    (target / "odd").write_bytes(b"mine")
    asked = []

    def ask(path: str) -> bool:
        asked.append(path)
        return path.endswith("odd")

    outcome = carry(batch(source, target, "one", "odd", "small"), TreeWishes(names=True), ask=ask)
    assert asked == [str(target / "one"), str(target / "odd")]
    assert (outcome.files, outcome.skipped) == (2, 1)
    assert [done.act for done in outcome.done] == ["kept", "copied", "copied"]
    assert (target / "one").read_bytes() == b"mine"
    assert (target / "odd").read_bytes() == (source / "odd").read_bytes()


@pytest.mark.parametrize("wishes", [TreeWishes(), TreeWishes(verify=True)], ids=["plain", "verify"])
@pytest.mark.parametrize("size", [10, 1 << 20])
def test_a_replaced_target_keeps_its_mode(
    size: int, wishes: TreeWishes, source: Path, target: Path
) -> None:
    (source / "file").write_bytes(content(size))
    (target / "file").write_bytes(b"old")
    (target / "file").chmod(0o604)
    assert texts(carry(batch(source, target, "file"), wishes)) == ""
    assert (target / "file").read_bytes() == content(size)
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o604
    keeping = replace(wishes, preserve=frozenset({"mode", "timestamps"}))
    (source / "file").chmod(0o640)
    assert texts(carry(batch(source, target, "file"), keeping)) == ""
    assert stat.S_IMODE((target / "file").stat().st_mode) == 0o640
    assert (target / "file").stat().st_mtime_ns == (source / "file").stat().st_mtime_ns


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verify"])
@pytest.mark.parametrize("name", ["one", "odd"])
def test_what_the_journal_is_told_of_a_target_is_what_stands_there(
    name: str, verify: bool, existing: bool, source: Path, target: Path
) -> None:
    if existing:
        (target / name).write_bytes(b"old")
    outcome = carry(batch(source, target, name), TreeWishes(resume=True, verify=verify))
    (done,) = outcome.done
    assert done.identity == identity_of((source / name).stat())
    # the rename may have set another ctime
    assert done.target[:4] == identity_of((target / name).stat())[:4]


def test_a_small_file_that_cannot_be_cloned_is_read_and_written(source: Path, target: Path) -> None:
    """Also the first one, by which that is found out."""
    names = [name for name, size in SIZES.items() if 1 < size <= SMALL]
    outcome = carry(batch(source, target, *names))
    refused = any(mover == "reflink" for mover, _, _ in outcome.fallbacks)
    size = sum(SIZES[name] for name in names)
    assert outcome.by_mover == ({"plain": size} if refused else {"reflink": size})
    for name in names:
        assert (target / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize(
    ("wishes", "links", "divided"),
    [
        (TreeWishes(reflink="never"), 1, True),
        (TreeWishes(reflink="never"), 2, False),
        (TreeWishes(reflink="never", inplace=True), 1, False),
        (TreeWishes(reflink="never", sparse="always"), 1, False),
    ],
    ids=["alone", "several names", "in place", "zeros"],
)
def test_big_files_are_handed_back_to_be_divided_where_that_may_be(
    wishes: TreeWishes, links: int, divided: bool, source: Path, target: Path
) -> None:
    """A target with other names must be written in place, which ranges of it do not do."""
    os.truncate(source / "one", BIG)
    os.truncate(source / "odd", BIG - 1)
    (target / "one").write_bytes(b"before")
    if links > 1:
        os.link(target / "one", target / "another")
    outcome = carry(batch(source, target, "one", "odd"), wishes, divides=True)
    assert texts(outcome) == ""
    assert [big.name for big in outcome.big] == ["one"] * divided
    assert outcome.files == 2 - divided
    if divided:
        assert outcome.big[0].identity == identity_of((source / "one").stat())
        assert (target / "one").read_bytes() == b"before"
    else:
        assert (target / "one").stat().st_size == BIG


# the end in the middle


class Ending(Stop):
    """Asks for the end at one of the looks that are taken at it."""

    def __init__(self, when: int):
        self.left = when

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted(15)


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize("when", range(0, 2 * len(SIZES), 2))
def test_the_end_asked_for_while_verifying_leaves_no_temporary_files(
    when: int, existing: bool, source: Path, target: Path
) -> None:
    names = [name for name, size in SIZES.items() if size <= SMALL]
    if existing:
        for name in names:
            (target / name).write_bytes(b"old")
    stop = Ending(when)
    worker = Worker(TreeWishes(verify=True), stop, divides=False)
    if when < 2 * len(names):
        with pytest.raises(Interrupted):
            worker.carry(batch(source, target, *names))
    else:
        worker.carry(batch(source, target, *names))
        assert stop.left >= 0
    assert leftovers(target) == []
    # what was said to be there is there, and whole
    whole = [
        name
        for name in names
        if (target / name).exists() and (target / name).read_bytes() == (source / name).read_bytes()
    ]
    assert worker.partial.files == len(whole)


def test_the_end_asked_for_within_a_file_leaves_the_target_as_it_was(
    source: Path, target: Path
) -> None:
    (target / "odd").write_bytes(b"old")
    worker = Worker(TreeWishes(digest="sha256"), Ending(3), divides=False)
    with pytest.raises(Interrupted):
        worker.carry(batch(source, target, "one", "odd"))
    assert worker.partial.files == 1
    assert (target / "odd").read_bytes() == b"old"
    assert leftovers(target) == []


# what is read back


class Corrupting(verifying.Verification):
    """Changes one byte of each file between the writing and the verifying."""

    def add(self, each: verifying.Unverified) -> None:
        spoil(Path(f"/proc/self/fd/{self._site.target}"), each.place)
        super().add(each)


def spoil(folder: Path, place: Any) -> None:
    """Change the byte in the middle of a file that is not in its place yet."""
    path = folder / place.temporary if hasattr(place, "temporary") else f"/proc/self/fd/{place.fd}"
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        middle = os.fstat(fd).st_size // 2
        (byte,) = os.pread(fd, 1, middle)
        os.pwrite(fd, bytes([byte ^ 1]), middle)
    finally:
        os.close(fd)


@pytest.mark.parametrize("digest", [None, "sha256", "md5"])
@pytest.mark.parametrize("existing", ["new", "existing", "in place"])
@pytest.mark.parametrize("name", ["one", "small", "odd"])
def test_a_byte_that_is_not_what_was_written_is_a_mismatch(
    name: str,
    existing: str,
    digest: str | None,
    source: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inplace = existing == "in place"
    wishes = TreeWishes(verify=True, digest=digest, inplace=inplace)
    if existing != "new":
        (target / name).write_bytes(b"before")
    right = carry(batch(source, target, name, number=2), wishes)
    assert (texts(right), right.files) == ("", 1)
    (target / name).write_bytes(b"before")
    if existing == "new":
        (target / name).unlink()
    monkeypatch.setattr(verifying, "Verification", Corrupting)
    outcome = carry(batch(source, target, name), wishes)
    assert [problem.kind for problem in outcome.problems] == ["mismatch"]
    assert "what was read back is not what was written" in texts(outcome)
    assert (outcome.files, outcome.done) == (0, [])
    assert ("nothing was put in place" in texts(outcome)) == (not inplace)
    assert leftovers(target) == []
    if existing == "existing":
        assert (target / name).read_bytes() == b"before"
    assert (target / name).exists() == (existing != "new")


def test_more_files_than_are_verified_at_once(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    names = [f"{number:03}" for number in range(150)]
    for name in names:
        (source / name).write_text(name)
    outcome = carry(batch(source, target, *names), TreeWishes(verify=True, names=True))
    assert (texts(outcome), outcome.files) == ("", len(names))
    assert sorted(done.path for done in outcome.done) == [str(target / name) for name in names]
    same(source, target)


# ranges

PIECE = 1 << 20
WHOLE = 4 * PIECE + 77


@pytest.fixture
def chunks(source: Path, target: Path) -> list[Chunk]:
    """Ranges of a file, and the temporary one that they make."""
    path = source / "whole"
    path.write_bytes(content(WHOLE))
    temporary = target / "temporary"
    temporary.touch()
    os.truncate(temporary, WHOLE)
    identity = identity_of(path.stat())
    return [
        Chunk(
            number,
            str(path),
            str(temporary),
            str(target / "whole"),
            offset,
            min(PIECE, WHOLE - offset),
            identity,
            temporary.stat().st_ino,
        )
        for number, offset in enumerate(range(0, WHOLE, PIECE))
    ]


@pytest.mark.parametrize("wishes", [w for w in WISHES.values() if w.divides])
def test_ranges_in_any_order_and_done_twice_make_the_file(
    wishes: TreeWishes, chunks: list[Chunk]
) -> None:
    for chunk in (*chunks[::-2], chunks[0], *chunks[3::-2], *chunks[1:3]):
        outcome = carry(chunk, wishes)
        assert (texts(outcome), outcome.failed) == ("", False)
        assert (outcome.number, outcome.moved) == (chunk.number, chunk.length)
    assert Path(chunks[0].temporary).read_bytes() == content(WHOLE)


def test_a_short_last_range_goes_the_way_that_was_asked_for(chunks: list[Chunk]) -> None:
    """What is quicker for 77 bytes alone is no reason to lose a file of many."""
    outcome = carry(chunks[-1], TreeWishes(via="splice"))
    assert texts(outcome) == ""
    assert outcome.by_mover == {"splice": 77}


def test_a_range_writes_nothing_beside_itself(chunks: list[Chunk]) -> None:
    assert texts(carry(chunks[2])) == ""
    expected = bytearray(WHOLE)
    expected[2 * PIECE : 3 * PIECE] = content(WHOLE)[2 * PIECE : 3 * PIECE]
    assert Path(chunks[0].temporary).read_bytes() == expected


def test_a_range_of_another_file_than_was_divided_is_not_carried(chunks: list[Chunk]) -> None:
    path = Path(chunks[0].source)
    other = path.with_name("other")
    other.write_bytes(b"?" * WHOLE)
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    os.rename(other, path)  # size and time are the same
    outcome = carry(chunks[1])
    assert outcome.failed
    assert texts(outcome) == f"{path}: read: the source changed while it was read"
    assert not any(Path(chunks[0].temporary).read_bytes())


@pytest.mark.parametrize("lost", ["source", "temporary"])
def test_a_range_without_its_files_fails_its_file(lost: str, chunks: list[Chunk]) -> None:
    os.unlink(getattr(chunks[0], lost))
    outcome = carry(chunks[0])
    assert outcome.failed
    (problem,) = outcome.problems
    assert problem.path == chunks[0].source
    assert "No such file or directory" in problem.text
    assert getattr(chunks[0], lost) in problem.text


def test_a_temporary_file_that_has_become_a_link_is_not_written(
    chunks: list[Chunk], tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"mine")
    os.unlink(chunks[0].temporary)
    os.symlink(precious, chunks[0].temporary)
    assert carry(chunks[0]).failed
    assert precious.read_bytes() == b"mine"


@pytest.mark.parametrize("sparse", ["auto", "never"])
def test_a_range_that_is_not_what_was_written_is_a_mismatch(
    sparse: str, chunks: list[Chunk]
) -> None:
    chunk = chunks[1]
    temporary = Path(chunk.temporary)

    def corrupt(count: int) -> None:
        if count < chunk.length:
            return
        fd = os.open(temporary, os.O_RDWR)
        (byte,) = os.pread(fd, 1, chunk.offset)
        os.pwrite(fd, bytes([byte ^ 1]), chunk.offset)
        os.close(fd)

    wishes = TreeWishes(verify=True, sparse=sparse)
    outcome = carry(chunk, wishes, moving=corrupt)
    assert outcome.failed
    assert [problem.kind for problem in outcome.problems] == ["mismatch"]
    assert f"between bytes {chunk.offset} and {chunk.offset + PIECE}" in texts(outcome)
    assert texts(carry(chunk, wishes)) == ""
