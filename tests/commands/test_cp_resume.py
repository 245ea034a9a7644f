"""`zpipe cp --resume`: goes on where a kill has ended it, and trusts nothing but its journal."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.failures.test_tree import CHUNK, found, halted, is_same, make, temporaries
from tests.machine import content, mounted, need, started, strace, until, zpipe

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

SMALL = {f"{number:03}": content(100 + number, number) for number in range(80)}
SIZE = 2 * CHUNK + (20 << 20)  # a big file of three ranges
DATA = 1 << 20  # bytes in each of them, the rest are holes
# movers that say how far they are; a clone would be one call
RESUME = ("-r", "--resume", "--reflink=never")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source with small files, and a big one with holes whose ranges differ."""
    make(tmp_path / "src" / "below", SMALL)
    with open(make(tmp_path / "src", {"a": b"first"}) / "big", "wb") as file:
        for place in range(0, SIZE, CHUNK):
            file.seek(place)
            file.write(content(DATA, place + 1))
        file.truncate(SIZE)
    return tmp_path


def journal(folder: Path) -> Path:
    return folder / ".dst.zpipe-journal"


def records(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the journal's records of some kinds, as far as they are whole."""
    try:
        lines = journal(folder).read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return [record for record in found if record["type"] in kinds]


def judge_whole(folder: Path) -> None:
    """The copy is complete, and nothing else is left."""
    assert sorted(os.listdir(folder / "dst")) == sorted(os.listdir(folder / "src"))
    assert found(folder / "dst" / "below") == SMALL
    for name in ("a", "big"):
        assert is_same(folder / "src" / name, folder / "dst" / name), name
    assert temporaries(folder) == [], "no temporary file and no journal"


def judge_journal(folder: Path) -> None:
    """What it says is true, and nothing half-written has a name."""
    for record in records(folder, "done"):
        path = record["path"]
        assert is_same(folder / "src" / os.path.relpath(path, folder / "dst"), folder / path)
    part: dict[str, Any] = {}
    offsets: list[int] = []
    for record in records(folder, "part", "range"):
        if record["type"] == "part":
            part, offsets = record, []  # what is begun anew has nothing of the one before
        else:
            offsets.append(record["offset"])
    for offset in offsets:
        try:
            with (
                open(folder / "src" / "big", "rb") as ours,
                open(part["temporary"], "rb") as theirs,
            ):
                if os.fstat(theirs.fileno()).st_ino != part["inode"]:
                    break  # of the next one, of which nothing has been noted yet
                ours.seek(offset)
                theirs.seek(offset)
                assert ours.read(DATA + 4096) == theirs.read(DATA + 4096), offset
        except FileNotFoundError:
            break  # it is in its place by now
    if (folder / "dst" / "below").exists():
        there = {
            name: data
            for name, data in found(folder / "dst" / "below").items()
            if ".zpipe-" not in name
        }
        assert there.items() <= SMALL.items()
    if (folder / "dst" / "big").exists():
        assert is_same(folder / "src" / "big", folder / "dst" / "big")


def interrupted(folder: Path, call: str, when: int, *words: str) -> None:
    """Run until a call was made for the n-th time, and end it by Ctrl-C."""
    with halted(
        call,
        *(*RESUME, "-j1", *words, "src", "dst"),
        log=folder / "log",
        when=when,
        cwd=folder,
    ) as run:
        run.signal(signal.SIGINT)
    assert run.status == -signal.SIGINT
    assert run.errors.splitlines()[-1].endswith("; --resume goes on")
    (folder / "log").unlink()


def again(folder: Path, *words: str) -> tuple[list[str], dict[str, Any]]:
    """Repeat the command; return its lines and the last record."""
    log = folder / "records"
    with open(log, "wb") as file:
        fd = file.fileno()
        command = ("cp", *RESUME, "-j1", "--json-fd", str(fd), *words, "src", "dst")
        done = zpipe(*command, cwd=folder, pass_fds=[fd])
    text = done.stderr.decode()
    assert done.returncode == 0, text
    ended = json.loads(log.read_bytes().splitlines()[-1])
    log.unlink()
    assert ended["type"] == "end"
    return text.removesuffix("\n").replace("zpipe: ", "").split("\n"), ended


def carried(ended: dict[str, Any]) -> int:
    return sum(ended["bytes_by_mover"].values())


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_points_until_it_is_done(seed: int, tree: Path) -> None:
    """By a signal inside a system call that a seed has chosen, again and again."""
    chance = random.Random(seed)
    calls = {"sendfile": 4, "?rename,renameat": 60, "write": 90, "fdatasync": 3, "syncfs": 2}
    calls |= {"fsync": 3, "?mkdir,mkdirat": 2, "ftruncate": 2, "openat": 900, "close": 900}
    killed = 0
    for _ in range(4):
        call = chance.choice(list(calls))
        when = chance.randint(1, calls[call])
        signals = f"inject={call}:signal=SIGKILL:when={when}"
        killing = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", signals)
        done = zpipe("cp", *RESUME, "-j1", "src", "dst", before=killing, cwd=tree)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        judge_journal(tree)
        if (tree / "dst").exists() and not journal(tree).exists():
            break  # killed when everything was done: then it has to be complete
    else:
        again(tree)
    judge_whole(tree)
    assert killed


@pytest.mark.parametrize(
    ("count", "words"), [(0, ()), (30, ()), (80, ()), (1, ("--verify",)), (80, ("--verify",))]
)
def test_the_whole_group_is_killed(count: int, words: tuple[str, ...], tree: Path) -> None:
    """Workers and all, as when the machine goes down; at the second time the target is there."""
    command = ("cp", *RESUME, "-j2", *words, "src", "dst")
    with started(*command, cwd=tree, before=[need("setsid")]) as process:
        below = tree / "dst" / "below"

        def is_time() -> bool:
            there = len(os.listdir(below)) if below.exists() else -1
            return there >= count or process.poll() is not None

        until(is_time, "so many files are there")
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        until(lambda: not runs(process.pid), "all of them have ended")
    judge_journal(tree)
    again(tree, *words)
    judge_whole(tree)


def runs(group: int) -> bool:
    """Tell whether there is a process of a group that has not ended."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                state, _, its = file.read().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has gone just now
        if int(its) == group and state not in "ZX":
            return True
    return False


def test_what_is_finished_is_not_copied_again(tree: Path) -> None:
    """Neither files, nor ranges of a big one."""
    interrupted(tree, "sendfile", 3)
    judge_journal(tree)
    finished = {record["path"]: os.stat(record["path"]).st_ino for record in records(tree, "done")}
    ranges = records(tree, "range")
    (part,) = records(tree, "part")
    inode = os.stat(part["temporary"]).st_ino
    assert 0 < len(ranges) <= 3
    told, ended = again(tree)
    assert told == [f"{journal(tree)}: goes on with what was copied before"]
    assert {path: os.stat(path).st_ino for path in finished} == finished
    assert os.stat(tree / "dst" / "big").st_ino == inode
    assert ended["kept"] == len(finished)
    total = sum(map(len, SMALL.values())) + len(b"first") + 3 * DATA
    done = sum(os.stat(path).st_size for path in finished) + len(ranges) * DATA
    assert carried(ended) == total - done
    judge_whole(tree)


def test_on_a_filesystem_without_clones_big_files_go_in_ranges(tmp_path: Path) -> None:
    """Nobody has to say --reflink=never for that: that clones are refused is found out."""
    with mounted("tmpfs", tmp_path / "ram", 64 << 20) as place:
        make(place / "src", {})
        with open(place / "src" / "big", "wb") as file:
            for begin in range(0, SIZE, CHUNK):
                file.seek(begin)
                file.write(content(DATA, begin))
            file.truncate(SIZE)
        with halted(
            "fdatasync", "-r", "--resume", "-j1", "src", "dst", log=tmp_path / "log", cwd=place
        ) as run:
            run.signal(signal.SIGKILL)
        assert len(temporaries(place / "dst")) == 1
        done = zpipe("cp", "-r", "--resume", "src", "dst", cwd=place)
        assert done.returncode == 0
        assert is_same(place / "src" / "big", place / "dst" / "big")
        assert temporaries(place) == []


def test_a_big_source_that_has_changed_starts_again(tree: Path) -> None:
    """With a line that says so; its size and its mtime are what they were."""
    interrupted(tree, "sendfile", 3)
    assert records(tree, "range")
    (part,) = records(tree, "part")
    before = os.stat(tree / "src" / "big")
    with open(tree / "src" / "big", "r+b") as file:
        file.write(b"changed")
    os.utime(tree / "src" / "big", ns=(before.st_atime_ns, before.st_mtime_ns))
    told, _ = again(tree)
    assert "src/big: has changed since: the copy starts again" in told
    assert not os.path.exists(part["temporary"])
    judge_whole(tree)


def test_a_small_source_that_has_changed_is_copied_again(tree: Path) -> None:
    interrupted(tree, "sendfile", 3, "--exclude", "below")
    (tree / "src" / "a").write_bytes(b"other")
    told, ended = again(tree, "--exclude", "below")
    assert "src/a: has changed since it was copied: is copied again" in told
    assert ended["kept"] == 0
    assert (tree / "dst" / "a").read_bytes() == b"other"


@pytest.mark.parametrize("act", ["rewritten", "removed"])
def test_a_target_that_has_changed_is_copied_again(act: str, tree: Path) -> None:
    interrupted(tree, "sendfile", 3, "--exclude", "below")
    assert [os.path.basename(record["path"]) for record in records(tree, "done")] == ["a"]
    target = tree / "dst" / "a"
    target.unlink() if act != "rewritten" else None
    if act != "removed":
        target.write_bytes(b"wrong")
    told, ended = again(tree, "--exclude", "below")
    if act != "removed":
        assert "dst/a: has changed since: is copied again" in told
    assert ended["kept"] == 0
    assert target.read_bytes() == b"first"


def test_a_part_that_was_removed_starts_again(tree: Path) -> None:
    """Or another file has its name: it is known by its inode."""
    interrupted(tree, "sendfile", 3)
    (part,) = records(tree, "part")
    os.unlink(part["temporary"])
    holder = tree / "holder"
    holder.touch()  # of the inode number that is free now
    with open(part["temporary"], "wb") as file:
        file.truncate(SIZE)
    again(tree)
    judge_whole(tree)


def test_the_journal_of_another_copy_is_refused(tree: Path) -> None:
    interrupted(tree, "sendfile", 3)
    before = journal(tree).read_bytes()
    make(tree / "other", {"a": b"mine"})
    done = zpipe("cp", *RESUME, "other", "dst", cwd=tree)
    assert done.returncode == 1
    assert b"is the journal of another copy" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert journal(tree).read_bytes() == before
    assert not (tree / "dst" / "other").exists()
    again(tree)
    judge_whole(tree)


@pytest.mark.parametrize(("first", "then"), [((), ("--verify",)), ((), ("-p",))], ids=str)
def test_other_options_are_not_taken_for_the_same(
    first: tuple[str, ...], then: tuple[str, ...], tree: Path
) -> None:
    """What was copied without --verify was never verified."""
    interrupted(tree, "fdatasync", 1, *first)
    done = zpipe("cp", *RESUME, *then, "src", "dst", cwd=tree)
    assert done.returncode == 1
    assert b"was begun with other options" in done.stderr


def test_a_last_line_that_was_cut(tree: Path) -> None:
    interrupted(tree, "sendfile", 3)
    with open(journal(tree), "r+b") as file:
        file.truncate(os.path.getsize(journal(tree)) - 10)
    again(tree)
    judge_whole(tree)


def test_from_another_directory_by_another_name(tree: Path) -> None:
    interrupted(tree, "sendfile", 3)
    (part,) = records(tree, "part")
    inode = os.stat(part["temporary"]).st_ino
    done = zpipe("cp", *RESUME, tree / "src", "../dst", cwd=tree / "src")
    assert done.returncode == 0, done.stderr
    assert os.stat(tree / "dst" / "big").st_ino == inode
    judge_whole(tree)


def test_two_at_once_are_refused(tree: Path) -> None:
    with halted("sendfile", *RESUME, "-j1", "src", "dst", log=tree / "log", cwd=tree) as run:
        done = zpipe("cp", *RESUME, "src", "dst", cwd=tree)
        assert done.returncode == 1
        text = f"zpipe: {journal(tree)}: lock: another zpipe is at this copy\n"
        assert done.stderr.decode() == text
    assert run.status == 0, run.errors
    (tree / "log").unlink()
    judge_whole(tree)


def test_a_checksum_file_has_what_the_first_run_copied(tree: Path) -> None:
    sums = ("--checksum-file", "sums")
    interrupted(tree, "write", 60, *sums)
    assert not (tree / "sums").exists(), "it is not complete"
    again(tree, *sums)
    judge_whole(tree)
    done = subprocess.run(
        [need("sha256sum"), "-c", "--strict", "--quiet", "sums"],
        cwd=tree,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tree / "sums").read_bytes().count(b"\n") == len(SMALL) + 2


def test_what_the_journal_says_is_on_the_disk_first(tmp_path: Path) -> None:
    """The target may be a mount point: its filesystem counts, not that of the journal."""
    make(tmp_path / "src", {"a": b"first"})
    with mounted("tmpfs", tmp_path / "disk", 1 << 20) as place:
        log = tmp_path / "log"
        tracing = strace("-y", "-o", str(log), "-e", "trace=syncfs,write")
        done = zpipe("cp", "-rT", "--resume", "-j1", tmp_path / "src", place, before=tracing)
        assert (done.returncode, done.stderr) == (0, b"")
    calls = log.read_text()
    synced = re.search(rf"syncfs\(\d+<{place}>\) += 0", calls)
    noted = re.search(r"write\(\d+<[^>]*zpipe-journal>, \"\{\\\"type\\\": \\\"done", calls)
    assert synced and noted, calls
    assert synced.start() < noted.start()


def test_a_run_that_lost_a_file_leaves_its_journal(tree: Path) -> None:
    """Once the reason is gone, the same command copies what was lost, and nothing else."""
    target = tree / "dst" / "below" / "040"
    target.mkdir(parents=True)
    done = zpipe("cp", "-rT", "--resume", "--reflink=never", "src", "dst", cwd=tree)
    assert done.returncode == 1
    assert journal(tree).exists()
    target.rmdir()
    done = zpipe("cp", "-rT", "--resume", "--reflink=never", "--json", "src", "dst", cwd=tree)
    assert done.returncode == 0
    ended = json.loads(done.stderr.splitlines()[-1])
    assert (ended["files"], ended["kept"]) == (1, len(SMALL) + 1)
    judge_whole(tree)


def test_a_full_disk_and_more_room_later(tmp_path: Path, tiny: Path) -> None:
    """The range that did not fit is done again; the others stay."""
    make(tmp_path / "src", {})
    with open(tmp_path / "src" / "big", "wb") as file:
        for place in range(0, SIZE, CHUNK):
            file.seek(place)
            file.write(content(400 << 10, place))
        file.truncate(SIZE)
    command = ("cp", "-rT", "--resume", "--reflink=never", "-j1", tmp_path / "src", tiny / "dst")
    done = zpipe(*command)
    assert done.returncode == 1 and b"No space left on device" in done.stderr
    (temporary,) = temporaries(tiny / "dst")
    inode = os.stat(tiny / "dst" / temporary).st_ino
    subprocess.run(["mount", "-o", "remount,size=2M", str(tiny)], check=True)
    done = zpipe(*command)
    assert done.returncode == 0, done.stderr
    assert os.stat(tiny / "dst" / "big").st_ino == inode
    assert is_same(tmp_path / "src" / "big", tiny / "dst" / "big")
    assert temporaries(tiny) == []
