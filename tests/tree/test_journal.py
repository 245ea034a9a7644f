"""The journal: what it says is what was noted, however it was cut short, and nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.machine import environment
from zpipe.errors import TransferError
from zpipe.tree.journal import Journal, Part
from zpipe.tree.tasks import Done
from zpipe.tree.wishes import TreeWishes
from zpipe.values import replace

if TYPE_CHECKING:
    from pathlib import Path

    from zpipe.tree.tasks import Identity

WISHES = TreeWishes(recursive=True, resume=True)
SOURCE: Identity = (1, 2, 3, 4, 5)
TARGET: Identity = (6, 7, 8, 9, 10)
ODD = 'odd \udcff\n\\"name'


def opened(folder: Path, *, wishes: TreeWishes = WISHES, target: str = "dst") -> Journal:
    return Journal(str(folder / "journal"), ["src"], str(folder / target), wishes, into=False)


def done(path: str, digest: str = "") -> Done:
    return Done("src", path, 3, SOURCE, TARGET, digest)


def filled(folder: Path) -> bytes:
    """Write a journal of all kinds of records, and return it."""
    journal = opened(folder)
    journal.done(done(f"/dst/{ODD}", "abc"))
    journal.part("/dst/big", Part("/dst/.big.zpipe-1", SOURCE, 11))
    journal.range("/dst/big", 0)
    journal.range("/dst/big", 64)
    journal.part("/dst/other", Part("/dst/.other.zpipe-1", SOURCE, 12))
    journal.range("/dst/other", 0)
    journal.done(done("/dst/other"))
    journal.flush()
    journal.close()
    return (folder / "journal").read_bytes()


def test_what_was_noted_is_there_the_next_time(tmp_path: Path) -> None:
    filled(tmp_path)
    journal = opened(tmp_path)
    assert journal.resumed
    assert journal.finished_of(f"/dst/{ODD}") == (SOURCE, TARGET, "abc")
    assert journal.finished_of("/dst/other") == (SOURCE, TARGET, "")
    assert journal.finished_of("/dst/big") is None
    assert journal.part_of("/dst/other") is None, "it is finished"
    part = journal.part_of("/dst/big")
    assert part is not None
    assert (part.temporary, part.identity, part.inode) == ("/dst/.big.zpipe-1", SOURCE, 11)
    assert part.offsets == {0, 64}
    journal.close()
    journal.close()


def test_nothing_is_written_before_the_flush(tmp_path: Path) -> None:
    """Only then is it on the disk what a line speaks of."""
    journal = opened(tmp_path)
    before = (tmp_path / "journal").read_bytes()
    journal.done(done("/dst/a"))
    assert (tmp_path / "journal").read_bytes() == before
    journal.flush()
    assert (tmp_path / "journal").read_bytes().startswith(before)
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 2
    journal.close()


def test_a_part_that_begins_again_has_no_ranges(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.part("/dst/big", Part("/dst/.big.zpipe-one", SOURCE, 11))
    journal.range("/dst/big", 0)
    journal.part("/dst/big", Part("/dst/.big.zpipe-two", TARGET, 12))
    journal.flush()
    journal.close()
    journal = opened(tmp_path)
    part = journal.part_of("/dst/big")
    assert part is not None and (part.temporary, part.offsets) == ("/dst/.big.zpipe-two", set())
    journal.close()


def test_names_are_the_same_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = opened(tmp_path)
    journal.done(done("dst/a"))
    journal.part("dst/big", Part("dst/.big.zpipe-1", SOURCE, 11))
    journal.flush()
    journal.close()
    monkeypatch.chdir("/")
    journal = Journal(
        str(tmp_path / "journal"),
        [str(tmp_path / "src")],
        str(tmp_path / "dst"),
        WISHES,
        into=False,
    )
    assert journal.finished_of(str(tmp_path / "dst" / "a")) is not None
    part = journal.part_of(str(tmp_path / "dst" / "big"))
    assert part is not None and part.temporary == str(tmp_path / "dst" / ".big.zpipe-1")
    journal.close()


def test_cut_at_any_byte_it_says_what_was_whole(tmp_path: Path) -> None:
    """A kill or a power cut ends it anywhere; what is written after that can be read again."""
    whole = filled(tmp_path)
    steps = [None, "odd", "part", 0, 64, "other part", 0, "other done"]
    ends = [place for place, byte in enumerate(whole) if byte == ord("\n")]
    near = {place + step for place in ends for step in (-1, 0, 1)} - {len(whole)}
    for cut in sorted(near.union(range(0, len(whole), 50))):
        (tmp_path / "journal").write_bytes(whole[:cut])
        count = whole[:cut].count(b"\n")
        journal = opened(tmp_path)
        assert journal.resumed == (count > 0)
        assert (journal.finished_of(f"/dst/{ODD}") is not None) == (count > steps.index("odd"))
        part = journal.part_of("/dst/big")
        assert (part is not None) == (count > steps.index("part"))
        assert part is None or len(part.offsets) == min(2, count - 3)
        assert (journal.finished_of("/dst/other") is not None) == (count == len(steps))
        journal.done(done("/dst/new"))
        journal.flush()
        journal.close()
        journal = opened(tmp_path)
        assert journal.finished_of("/dst/new") is not None
        journal.close()


@pytest.mark.parametrize(
    "tail",
    [
        b"\0" * 4096,
        b'{"type": "range", "path": "/dst/big", "off',
        b"[]\n",
        b"17\n",
        b"null\n",
        b"{}\n",
        b'{"type": "done", "path": "/dst/x", "source": [1], "target": []}\n',
        b'{"type": "done", "path": "/dst/x", "source": 1, "target": 2}\n',
        b'{"type": "range", "path": "/dst/nobody", "offset": 0}\n',
        b"\xff\xfe\n",
    ],
    ids=repr,
)
def test_an_end_that_is_no_record_is_taken_off(tail: bytes, tmp_path: Path) -> None:
    """A disk without power keeps zeros, or what was there before."""
    whole = filled(tmp_path)
    (tmp_path / "journal").write_bytes(whole + tail + b'{"type": "done"}\n')
    journal = opened(tmp_path)
    assert journal.finished_of("/dst/other") is not None
    assert journal.finished_of("/dst/x") is None
    journal.close()
    assert (tmp_path / "journal").read_bytes() == whole


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sources", ["/elsewhere"]),
        ("target", "/elsewhere"),
        ("into", True),
        ("v", 99),
        ("type", "something"),
    ],
)
def test_of_another_copy(name: str, value: object, tmp_path: Path) -> None:
    """It is refused, and stays as it is."""
    first, _, rest = filled(tmp_path).partition(b"\n")
    changed = json.dumps({**json.loads(first), name: value}).encode() + b"\n" + rest
    (tmp_path / "journal").write_bytes(changed)
    with pytest.raises(TransferError, match="is the journal of another copy"):
        opened(tmp_path)
    assert (tmp_path / "journal").read_bytes() == changed


@pytest.mark.parametrize("first", [b"[]\n", b"1\n", b'"x"\n', b"{}\n"])
def test_a_file_that_is_no_journal(first: bytes, tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(first)
    with pytest.raises(TransferError, match="is the journal of another copy"):
        opened(tmp_path)
    assert (tmp_path / "journal").read_bytes() == first


def test_with_other_options(tmp_path: Path) -> None:
    """What an earlier run has finished is not what this one would have made of it."""
    filled(tmp_path)
    other = replace(WISHES, verify=True, preserve=frozenset({"mode"}))
    with pytest.raises(TransferError, match=r"begun with other options \(preserve, verify\)"):
        opened(tmp_path, wishes=other)
    # how it goes, and not what comes of it
    opened(tmp_path, wishes=replace(WISHES, sync=True, rate_limit=1 << 20)).close()


def test_it_belongs_to_one_process(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.done(done("/dst/a"))
    program = (
        "from tests.tree.test_journal import opened\n"
        "import pathlib, sys\n"
        "opened(pathlib.Path(sys.argv[1])).close()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]

    def other() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, env=environment(), capture_output=True, check=False)

    refused = other()
    assert refused.returncode == 1
    assert b"another zpipe is at this copy" in refused.stderr
    journal.flush()
    assert other().returncode == 1, "a flush lets nobody in"
    journal.close()
    assert other().returncode == 0


def test_what_it_says_of_the_target(tmp_path: Path) -> None:
    path = str(tmp_path / "journal")
    assert Journal.says_into(path) is None
    for into in (False, True):
        Journal(path, ["src"], "dst", WISHES, into=into).close()
        assert Journal.says_into(path) is into
        os.unlink(path)
    for text in (b"", b"{}\n", b"[]\n", b"\xff\n", b'{"into'):
        (tmp_path / "journal").write_bytes(text)
        assert Journal.says_into(path) is None


def test_temporary_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    """Those of this copy, save what is gone on with; those of others are theirs."""
    folder = tmp_path / "dst"
    folder.mkdir()
    journal = opened(tmp_path)
    mine = f"zpipe-{journal.token}"
    names = [f".a.{mine}1-1", f".big.{mine}2-b16", ".a.zpipe-00000000-1", "a"]
    for name in names:
        (folder / name).touch()
    big = str(folder / names[1])
    journal.part(str(folder / "big"), Part(big, SOURCE, os.stat(big).st_ino))
    journal.clean(str(folder))
    assert sorted(os.listdir(folder)) == sorted(names[1:])
    journal.clean(str(tmp_path / "nowhere"))
    journal.remove()
    journal.remove()
    assert not (tmp_path / "journal").exists()
    journal.close()


def test_it_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    with pytest.raises(TransferError, match="journal: open: Is a directory"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "temporary", ["/etc/.big.zpipe-1", "/dst/big2", "/dst/../etc/.big.zpipe-1"]
)
def test_a_part_that_is_not_a_temporary_file_beside_its_target_is_not_taken(
    tmp_path: Path, temporary: str
) -> None:
    journal = opened(tmp_path)
    journal.part("/dst/big", Part("/dst/.big.zpipe-1", SOURCE, 11))
    journal.flush()
    journal.close()
    path = tmp_path / "journal"
    path.write_bytes(path.read_bytes().replace(b"/dst/.big.zpipe-1", temporary.encode()))
    journal = opened(tmp_path)
    assert journal.part_of("/dst/big") is None
    journal.close()


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b"my notes\n")
    with pytest.raises(TransferError, match="is no journal of zpipe"):
        opened(tmp_path)
    assert path.read_bytes() == b"my notes\n"
