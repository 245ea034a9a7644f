"""`zpipe cp --dry-run --json` of trees: one document, which says what the lines say."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands.shell import went_well
from tests.machine import zpipe
from zpipe.commands.tree_words import arrow

if TYPE_CHECKING:
    from pathlib import Path

ODD = os.fsdecode(b"od\xff\n\xc3\xbc'")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tree `s` with names of all kinds, and a directory `d` that has one of its files."""
    (tmp_path / "s" / "a").mkdir(parents=True)
    for name in ("a/0", "a/1", ODD):
        (tmp_path / "s" / name).write_bytes(b"x")
    (tmp_path / "s" / "link").symlink_to("a")
    (tmp_path / "d" / "s" / "a").mkdir(parents=True)
    (tmp_path / "d" / "s" / "a" / "0").write_bytes(b"there")
    return tmp_path


def document(text: bytes) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    assert set(found) == {"v", "files", "failed"}
    assert found["v"] == 1
    return found


@pytest.mark.parametrize(
    "words",
    ["-r s new", "-a s d", "-rn s d", "-r nowhere s d", "-p s/a/0 d", "s new", "-rp nowhere new",
     "-p s/a/0 new/", "-r --exclude=a s d"],
)  # fmt: skip
def test_the_document_says_what_the_lines_say(folder: Path, words: str) -> None:
    before = sorted(folder.rglob("*"))
    lines = zpipe("cp", "--dry-run", *words.split(), cwd=folder)
    done = zpipe("cp", "--dry-run", "--json", *words.split(), cwd=folder)
    found = document(done.stdout)
    files = [arrow(each["source"], each["path"]) for each in found["files"]]
    assert "".join(f"{line}\n" for line in files) == os.fsdecode(lines.stdout)
    told = lines.stderr.splitlines()
    for each in found["failed"]:
        assert set(each) == {"path", "text", "kind"}
        assert f"zpipe: {each['text']}".encode() in told
    assert done.returncode == lines.returncode == bool(found["failed"])
    assert done.stderr == b""
    assert sorted(folder.rglob("*")) == before


def test_a_plan_of_cp_is_the_same_document(folder: Path) -> None:
    plan = zpipe("plan", "--json", "cp", "-r", "s", "d", cwd=folder)
    went_well(plan)
    assert plan.stdout == zpipe("cp", "-r", "--dry-run", "--json", "s", "d", cwd=folder).stdout
    names = {each["source"] for each in document(plan.stdout)["files"]}
    assert names == {"s/a/0", "s/a/1", f"s/{ODD}", "s/link"}


def test_where_records_have_a_descriptor_people_have_the_lines(folder: Path) -> None:
    done = zpipe("cp", "-r", "--dry-run", "--json-fd", "1", "s", "new", cwd=folder)
    went_well(done)
    assert done.stdout.startswith(b"'s' -> 'new'\n")


@pytest.mark.parametrize(("words", "why"), [("-p s/a/0 new/", "Not a directory"), ("s new", "-r")])
def test_what_would_fail_for_certain_is_foreseen(folder: Path, words: str, why: str) -> None:
    """An operand is refused by the same words, before and while it is copied."""
    foreseen = zpipe("cp", "--dry-run", *words.split(), cwd=folder)
    done = zpipe("cp", *words.split(), cwd=folder)
    assert foreseen.returncode == done.returncode == 1
    assert foreseen.stderr == done.stderr
    assert why.encode() in done.stderr
